"""Where a trained model looked: gradients on the EEG, Grad-CAM on the image.

A map says where the score of a class reacts to the input, not why, nor that the model is right.
`mass_on` compares it with where a simulated pattern is.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache

import keras
import numpy as np
from keras import ops

from hmsutils import inference
from hmsutils.competition import CLASSES, ELECTRODES, SFREQ_HZ, WINDOW_S
from hmsutils.evaluation import CLIP
from hmsutils.inference import Models, TrainedModel
from hmsutils.models import BACKBONES, WAVENET, input_of
from hmsutils.signals import DOUBLE_BANANA, N_SCALP, bipolar, to_time_last

MIN_COLUMNS = 4  # the last map of all has 2 where an image has 64, in which no time can be seen
_BATCH = 4  # windows whose gradients are computed at once; 16 need 740 MB more


def eeg_saliency(models: Models, eeg_uv: np.ndarray, classes=None) -> np.ndarray:
    """(N, 10000, 20) or (10000, 20) raw microvolts, NaN allowed → (N, P, 50): |gradient × input| of
    the log-probability of a class, per derivation of the WaveNet and second; sum 1 per window.

    `classes` is one index of `CLASSES` or (N,) of them; None: the most probable one. Averaged over
    folds and, with their weights, over the models that have a WaveNet. NaN where
    `inference.predict` has no opinion. ValueError: as there; no WaveNet, or of different inputs.
    Source: arXiv:1312.6034, times the input."""
    return _average(models, eeg_uv, classes, (WAVENET,), _eeg_map, "eeg_saliency")


def grad_cam(models: Models, eeg_uv: np.ndarray, classes=None) -> np.ndarray:
    """The same on the image of the backbones: (N, H, W), 0 where nothing speaks for the class.

    A backbone's last feature map of `MIN_COLUMNS` or more, weighted and resized to the image: as
    coarse as that map, 1/16 of an image of 64 columns, 1/32 of larger ones. The crops are channels
    of one image and share the map.
    Source: arXiv:1610.02391."""
    return _average(models, eeg_uv, classes, BACKBONES, _cam, "grad_cam")


def map_or_none(map_of: Callable, models: Models, eeg_uv: np.ndarray, classes):
    """`eeg_saliency` or `grad_cam`; None where no model has this input, or they have different
    ones."""
    wanted = (WAVENET,) if map_of is eeg_saliency else BACKBONES
    return map_of(models, eeg_uv, classes) if len(_looking(models, wanted)[1]) == 1 else None


def _looking(models: Models, wanted: Collection[str]) -> tuple[list[TrainedModel], set[str]]:
    """The models that have a `wanted` tower, and the keys of what these look at."""
    looking = [m for m in models if m.weight and set(m.config.towers) & set(wanted)]
    towers = [(m, t) for m in looking for t in m.config.towers if t in wanted]
    return looking, {m.inputs[input_of(t)].key for m, t in towers}


def _average(
    models: Models, eeg_uv: np.ndarray, classes, wanted: Collection[str], map_of: Callable, who: str
) -> np.ndarray:
    """The mean of the maps of every fold, each of sum 1, of the models that have a `wanted` tower;
    `map_of` makes one of (model, its batch, (N, 6) one-hot classes)."""
    looking, seen = _looking(models, wanted)
    if len(seen) != 1:
        names, problem = ", ".join(m.config.name for m in models), "different inputs of"
        problem = f"{names} have {problem if seen else 'none of'} {', '.join(wanted)}"
        raise ValueError(f"{who}: {problem}; pass other models")
    if classes is None:
        classes = inference.predict(models, eeg_uv, return_quality=True)[0].argmax(axis=1)
    represented, quality = inference._represent(looking, to_time_last(eeg_uv, who))
    chosen = np.eye(len(CLASSES), dtype=np.float32)[np.broadcast_to(classes, len(quality))]
    total = 0
    for trained in looking:
        (batch,) = trained.batches(represented, flip=False)
        for weights in trained.folds:
            trained.model.set_weights(weights)
            parts = []
            for i in range(0, len(chosen), _BATCH):
                some = {k: ops.convert_to_tensor(x[i : i + _BATCH]) for k, x in batch.items()}
                parts.append(map_of(trained, some, chosen[i : i + _BATCH]))
            total += trained.weight / len(trained.folds) * _of_sum_1(np.concatenate(parts))
    total = _of_sum_1(total)
    total[(quality["problem"] != "").to_numpy()] = np.nan
    return total


def _eeg_map(trained: TrainedModel, batch: dict, chosen: np.ndarray) -> np.ndarray:
    eeg = batch[input_of(WAVENET)]

    def score(x):
        probability = trained.model(batch | {input_of(WAVENET): x}, training=False)
        return _score(probability, chosen)

    slope = ops.convert_to_numpy(gradient(score, eeg) * eeg)
    return per_second(np.abs(slope).swapaxes(1, 2))


def _cam(trained: TrainedModel, batch: dict, chosen: np.ndarray) -> np.ndarray:
    layers, cam = {t: trained.model.get_layer(t) for t in trained.config.towers}, 0
    halves = {t: _halves(layer) for t, layer in layers.items() if t in BACKBONES}
    inside = {t: before(batch[input_of(t)], training=False) for t, (before, _) in halves.items()}
    after = layers | {t: half for t, (_, half) in halves.items()}
    inputs = {t: batch[input_of(t)] for t in layers} | inside
    for tower, maps in inside.items():

        def score(x, tower=tower):
            some = (inputs | {tower: x}).items()
            x = ops.concatenate([after[t](x, training=False) for t, x in some], axis=-1)
            return _score(trained.model.get_layer("head")(x), chosen)

        weights = ops.mean(gradient(score, maps), axis=(1, 2), keepdims=True)
        weighted = ops.relu(ops.sum(maps * weights, axis=-1, keepdims=True))
        cam += ops.image.resize(weighted, batch[input_of(tower)].shape[1:3])[..., 0]
    return ops.convert_to_numpy(cam)


@lru_cache(maxsize=4)  # every batch and fold needs them; their weights are the tower's own
def _halves(tower: keras.Model) -> tuple[keras.Model, keras.Model]:
    """A backbone cut at its last feature map of `MIN_COLUMNS` or more that all of it passes."""
    width = tower.inputs[0].shape[2]
    for layer in reversed(tower.layers):
        shape = layer.output.shape
        if len(shape) == 4 and shape[2] >= min(MIN_COLUMNS, width) and width % shape[2] == 0:
            with suppress(ValueError):  # others reach the output around it
                after = keras.Model(layer.output, tower.output)
                return keras.Model(tower.inputs, layer.output), after
    raise ValueError(f"grad_cam: {tower.name} has no feature map of {MIN_COLUMNS} columns or more")


def _score(probability, chosen: np.ndarray):
    """The summed log-probability of the chosen classes, one-hot."""
    return ops.sum(ops.multiply(ops.log(ops.maximum(probability, CLIP)), chosen))


def gradient(score: Callable, x):
    """The gradient of `score(x)`, one number, by the tensor x, on any backend of Keras."""
    if (backend := keras.backend.backend()) == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = score(x)
        return tape.gradient(value, x)
    if backend == "jax":
        import jax

        return jax.grad(score)(x)
    import torch

    x = x.detach().requires_grad_()
    return torch.autograd.grad(score(x), x)[0]


def per_second(x: np.ndarray) -> np.ndarray:
    """(..., T') over 50 s → (..., 50): the sum of every second."""
    parts = np.repeat(x, WINDOW_S, axis=-1) / WINDOW_S  # T' need not be a multiple of 50
    return parts.reshape(*x.shape[:-1], WINDOW_S, -1).sum(axis=-1)


def _of_sum_1(maps: np.ndarray) -> np.ndarray:
    return maps / np.maximum(maps.sum(axis=(1, 2), keepdims=True), 1e-30)


def pattern_cells(pattern_uv: np.ndarray, share: float = 0.25) -> np.ndarray:
    """(N, 10000, 19) microvolts of patterns alone (`simulate.simulate_window`) → (N, 18, 50) bool:
    where a derivation's mean amplitude in a second is over `share` of the window's largest."""
    amplitude_uv = np.abs(bipolar(pattern_uv, ELECTRODES[:N_SCALP], DOUBLE_BANANA))
    seconds = amplitude_uv.reshape(len(amplitude_uv), -1, SFREQ_HZ, 18).mean(axis=2)
    return seconds.swapaxes(1, 2) > share * seconds.max(axis=(1, 2))[:, None, None]


def mass_on(saliency: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) share of a map (N, ...) that lies where `truth`, bool of its shape, is True; NaN where
    the map is NaN or 0. A map that knows nothing of it has the share of such cells, on average."""
    axes = tuple(range(1, saliency.ndim))
    with np.errstate(invalid="ignore"):
        return (saliency * truth).sum(axis=axes) / saliency.sum(axis=axes)
