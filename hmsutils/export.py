"""Trained models as one file, from raw EEG to probabilities: `.keras` or `.onnx`."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import keras

from hmsutils.evaluation import CLIP
from hmsutils.inference import TrainedModel
from hmsutils.models import build_model, kerascv_objects
from hmsutils.representations import graph_layers, raw_to_inputs


def one_model(models: Sequence[TrainedModel], *, flip: bool = True) -> keras.Model:
    """Everything `predict` does as one Keras model, with the representations inside: (N, 10000, 20)
    raw microvolts at 200 Hz, NaN allowed → (N, 6) probabilities, equal to it within 1e-4."""
    if not models:
        raise ValueError("one_model: no models; load some with inference.load_models")
    represented = raw_to_inputs({r.key: r for model in models for r in model.inputs.values()})
    predictions = []
    for i, trained in enumerate(models):
        batches, parts = trained.batches(represented.output, flip), []
        for k, weights in enumerate(trained.folds):
            network = build_model(trained.config)
            network.set_weights(weights)
            network = keras.Model(network.inputs, network.output, name=f"model{i}_fold{k}")
            parts += [network([b[x.name] for x in network.inputs]) for b in batches]
        mean = keras.ops.mean(keras.ops.stack(parts), axis=0)
        sharpened = keras.ops.maximum(mean, CLIP) ** (1 / trained.temperature)
        probability = sharpened / keras.ops.sum(sharpened, axis=-1, keepdims=True)
        predictions.append(trained.weight * probability)
    total = sum(trained.weight for trained in models)
    output = keras.ops.sum(keras.ops.stack(predictions), axis=0) / total
    return keras.Model(represented.input, output, name="hms")


def save(model: keras.Model, path: str | Path) -> None:
    """Write a model of `one_model` as `.keras`, which `load` reads, or as `.onnx`, which needs
    nothing of this project: input `eeg_uv`, float32, any N. ValueError: another suffix."""
    path = Path(path)
    if path.suffix not in (".keras", ".onnx"):
        raise ValueError(f"save: {path.name}: wanted a name that ends in .keras or .onnx")
    if path.suffix == ".keras":
        return model.save(path)
    model(keras.ops.zeros((1, *model.input_shape[1:])))  # Keras exports what was called
    return model.export(path, format="onnx", verbose=False)


def load(path: str | Path) -> keras.Model:
    """A model from a `.keras` file of `save`; nothing in it can run foreign code."""
    graph_layers()  # registers them
    with warnings.catch_warnings():  # KerasCV's layers have no `build`; they are built all the same
        warnings.filterwarnings("ignore", "`build\\(\\)` was called", UserWarning)
        return keras.models.load_model(path, custom_objects=kerascv_objects(), compile=False)
