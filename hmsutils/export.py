"""Trained models as one file, from raw EEG to probabilities: `.keras` or `.onnx`."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras

from hmsutils.augment import mirrored_derivations, mirrored_rows
from hmsutils.inference import TrainedModel
from hmsutils.layers import represent
from hmsutils.models import kerascv_objects
from hmsutils.training import TrainConfig, build_model


def one_model(models: Sequence[TrainedModel], *, flip: bool = True) -> keras.Model:
    """Everything `predict` does as one Keras model, with the representations inside.

    Args:
        models, flip: see `predict`.

    Returns:
        A model from (N, 10000, 20) raw microvolts at 200 Hz, NaN allowed, to (N, 6) probabilities,
        equal to `predict` within 1e-4. See `save`.
    """
    if not models:
        raise ValueError("one_model: no models; load some with inference.load_models")
    settings = {getattr(trained.config, k): k for trained in models for k in trained.config.inputs}
    names = {config: f"{key}_{i}" for i, (config, key) in enumerate(settings.items())}
    represented = represent({name: config for config, name in names.items()})
    predictions = []
    for i, trained in enumerate(models):
        config, parts = trained.config, []
        batch = {k: represented.output[names[getattr(config, k)]] for k in config.inputs}
        batches = [batch, _mirrored(batch, config)] if flip else [batch]
        for k, weights in enumerate(trained.folds):
            network = build_model(replace(config, weights=None, precision="float32"))
            network.set_weights(weights)
            network = keras.Model(network.inputs, network.output, name=f"model{i}_fold{k}")
            parts += [network([b[x.name] for x in network.inputs]) for b in batches]
        mean = keras.ops.mean(keras.ops.stack(parts), axis=0)
        sharpened = keras.ops.maximum(mean, 1e-7) ** (1 / trained.temperature)
        probability = sharpened / keras.ops.sum(sharpened, axis=-1, keepdims=True)
        predictions.append(trained.weight * probability)
    total = sum(trained.weight for trained in models)
    output = keras.ops.sum(keras.ops.stack(predictions), axis=0) / total
    return keras.Model(represented.input, output, name="hms")


def _mirrored(batch: dict, config: TrainConfig) -> dict:
    order = {
        "image": lambda x: keras.ops.take(x, mirrored_rows(x.shape[1]), axis=1),
        "eeg": lambda x: keras.ops.take(x, mirrored_derivations(config.eeg), axis=2),
    }
    return {key: order[key](x) for key, x in batch.items()}


def save(model: keras.Model, path: str | Path) -> None:
    """Write a model of `one_model` as `.keras`, or as `.onnx` for onnxruntime.

    `load` reads the first; the second needs nothing of this project. Input `eeg_uv`,
    float32; any N.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    if path.suffix not in (".keras", ".onnx"):
        raise ValueError(f"save: {path.name}: wanted a name that ends in .keras or .onnx")
    if path.suffix == ".keras":
        return model.save(path)
    model(keras.ops.zeros((1, *model.input_shape[1:])))  # Keras exports what was called
    return model.export(path, format="onnx", verbose=False)


def load(path: str | Path) -> keras.Model:
    """A model from a `.keras` file of `save`; nothing in it can run foreign code."""
    objects = kerascv_objects()
    with warnings.catch_warnings():  # KerasCV's layers have no `build`; they are built all the same
        warnings.filterwarnings("ignore", "`build\\(\\)` was called", UserWarning)
        return keras.models.load_model(path, custom_objects=objects, compile=False)
