"""Trained models as one file, from raw EEG to probabilities: `.keras` or `.onnx`."""

import gzip
import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np

from hmsutils import runs, training
from hmsutils.competition import locked, reading, write_atomically
from hmsutils.config import TrainConfig
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


def _planar(config: TrainConfig, weights: Sequence[np.ndarray]) -> keras.Model:
    """The network in float32, whatever Keras is set to, as onnxruntime runs it fastest."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        network = build_model(config, planar=True)
    finally:
        keras.config.set_dtype_policy(policy)
    pairs = zip(weights, network.weights, strict=True)
    network.set_weights([values.reshape(place.shape) for values, place in pairs])
    return network


def save(model: keras.Model, path: str | Path) -> None:
    """Write a model of `one_model` as `.keras`, which `load` reads, or as `.onnx`, which needs
    nothing of this project: input `eeg_uv`, float32, any N. ValueError: another suffix."""
    path = Path(path)
    if path.suffix not in (".keras", ".onnx"):
        raise ValueError(f"save: {path.name}: wanted a name that ends in .keras or .onnx")
    write = model.save
    if path.suffix == ".onnx":
        empty = keras.tree.map_structure(lambda x: keras.ops.zeros((1, *x.shape[1:])), model.input)
        model(empty)  # Keras exports what was called
        write = partial(model.export, format="onnx", verbose=False)
    with locked(path.parent, f"writing {path.name}", keep=False):
        write_atomically(path, write)


def convert(run: runs.Run) -> None:
    """Write the network of each fold of a run as `network.onnx.gz` beside its weights. Where
    onnxruntime is installed, `inference.load_models` takes these, and needs no Keras: a prediction
    starts in 3 s instead of 10 (benchmarks/RESULTS.md). Probabilities are equal within 1e-4."""
    for fold in run.folds:
        write_atomically(runs.FoldFolder(run.folder, fold).network, partial(_convert, run, fold))


def _convert(run: runs.Run, fold: int, path: Path) -> None:
    import onnx

    plain = path.with_suffix("")
    trained, config = training.load_model(run, fold)
    save(_planar(config, trained.get_weights()), plain)
    network = onnx.load(plain)
    _pack(network.graph)
    network.metadata_props.add(key="id", value=run.network_id(fold))
    path.write_bytes(gzip.compress(network.SerializeToString(), mtime=0))
    plain.unlink()


def _pack(graph) -> None:
    """Large float32 weights become 16-bit integers times a scale for each of their first axis, the
    output channels; onnxruntime multiplies them out when it loads them."""
    from onnx import TensorProto, helper, numpy_helper

    for weights in [w for w in graph.initializer if np.prod(w.dims) >= 1000]:
        values, name = numpy_helper.to_array(weights), weights.name
        if values.dtype != np.float32:
            continue
        top = np.maximum(np.abs(values).reshape(len(values), -1).max(axis=1), 1e-30)
        scale = (top / _steps(values.reshape(len(values), -1) / top[:, None])).astype(np.float32)
        scale = scale.reshape(-1, *[1] * (values.ndim - 1))
        graph.initializer.remove(weights)
        for part, array in (("int", np.round(values / scale).astype(np.int16)), ("scale", scale)):
            graph.initializer.append(numpy_helper.from_array(array, f"{name}_{part}"))
        cast = helper.make_node("Cast", [f"{name}_int"], [f"{name}_cast"], to=TensorProto.FLOAT)
        times = helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name])
        graph.node.insert(0, times)
        graph.node.insert(0, cast)


def _steps(rows: np.ndarray) -> np.ndarray:
    """(C,) in how many equal steps from 0 to 1 the values of a row (C, K) in [-1, 1] fit: few where
    weights were rounded, as those released are, else 32767, which nearly fit."""
    steps, left = np.full(len(rows), 32767.0), np.arange(len(rows))
    for n in range(1, 1000):
        scaled = rows[left] * n
        fits = np.abs(scaled - np.round(scaled)).max(axis=1) < 1e-3
        steps[left[fits]], left = n, left[~fits]
    return steps


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
