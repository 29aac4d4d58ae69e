"""Trained models as one file, from raw EEG to probabilities: `.keras` or `.onnx`."""

import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras

from hmsutils.competition import locked, reading, write_atomically
from hmsutils.evaluation import apply_temperature_in_graph
from hmsutils.inference import TrainedModel
from hmsutils.models import build_model, kerascv_objects
from hmsutils.representations import graph_layers, raw_to_inputs

SAFE_KERAS = (3, 13, 2)  # no hole is known in its safe mode


def one_model(models: Sequence[TrainedModel], *, flip: bool = True) -> keras.Model:
    """Everything `predict` does as one Keras model, with the representations inside: (N, 10000, 20)
    raw microvolts at 200 Hz, NaN allowed → (N, 6) probabilities, equal to it within 1e-4; NaN
    without enough EEG. It sees the EEG alone: the 10 minutes around are absent, as in `predict`."""
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
        predictions.append(trained.weight * apply_temperature_in_graph(mean, trained.temperature))
    total = sum(trained.weight for trained in models)
    output = keras.ops.sum(keras.ops.stack(predictions), axis=0) / total
    output = keras.ops.where(represented.output["enough_eeg"] > 0, output, float("nan"))
    return keras.Model(represented.input, output, name="hms")


def save(model: keras.Model, path: str | Path) -> None:
    """Write a model of `one_model` as `.keras`, which `load` reads, or as `.onnx`, which needs
    nothing of this project: input `eeg_uv`, float32, any N. ValueError: another suffix."""
    path = Path(path)
    if path.suffix not in (".keras", ".onnx"):
        raise ValueError(f"save: {path.name}: wanted a name that ends in .keras or .onnx")
    write = model.save
    if path.suffix == ".onnx":
        model(keras.ops.zeros((1, *model.input_shape[1:])))  # Keras exports what was called
        write = partial(model.export, format="onnx", verbose=False)
    with locked(path.parent, f"writing {path.name}", keep=False):
        write_atomically(path, write)


def load(path: str | Path) -> keras.Model:
    """A model from a `.keras` file of `save`; ValueError: another suffix, or it cannot be read.
    Nothing in it can run foreign code, but with a Keras before 3.13.2, of which this warns."""
    path = Path(path)
    if path.suffix != ".keras":  # others, .h5 for example, may run code
        raise ValueError(f"load: {path}: wanted a file of `save` that ends in .keras")
    if tuple(map(int, re.findall(r"\d+", keras.__version__)[:3])) < SAFE_KERAS:
        risk = f"with Keras {keras.__version__} a file can do harm (CVE-2025-1550 … 2026-0897)"
        remedy = "install keras>=3.13.2, or load only files that you wrote"
        warnings.warn(f"load: {path}: {risk}; {remedy}", stacklevel=2)
    graph_layers()  # registers them
    with warnings.catch_warnings():  # KerasCV's layers have no `build`; they are built all the same
        warnings.filterwarnings("ignore", "`build\\(\\)` was called", UserWarning)
        with reading(path, "no model of `save`", "export it again"):
            return keras.models.load_model(path, kerascv_objects(), compile=False, safe_mode=True)
