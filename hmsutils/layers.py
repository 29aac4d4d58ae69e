"""The road from raw EEG to a model's inputs as Keras layers, so that one file, or a GPU, can go all
of it. Same matrices and same values as `signals` and `spectrograms`; tests hold the two together.

Everything is a matrix product, a sort or a convolution: it runs on every backend and exports to
ONNX. Inside, EEG is (N, C, T), time last.
"""

from dataclasses import asdict
from functools import lru_cache

import keras
import numpy as np
from keras import ops
from scipy import signal

from hmsutils.files import ELECTRODES, SFREQ_HZ, WINDOW_SAMPLES
from hmsutils.signals import (
    ABSURD_UV,
    CHAIN_PAIRS,
    FLAT_UV,
    N_SCALP,
    NEARNESS,
    WaveNetInputConfig,
    butterworth,
    electrode_rows,
)
from hmsutils.spectrograms import AMIN, MEL_REGIONS, ImageConfig, MelConfig, mel_matrices, zooms

_LOST = 1e30  # stands for NaN: exported, most choices are products with 0 and 1, which keep NaN
_BLOCK = 128  # samples that the recursive filter takes at once


@keras.saving.register_keras_serializable("hmsutils")
class Repair(keras.layers.Layer):
    """(N, 10000, 20) raw microvolts, NaN allowed → (N, 20, 10000), as `signals.repair`."""

    def call(self, eeg_uv):
        x = ops.transpose(ops.cast(eeg_uv, "float32"), (0, 2, 1))
        x = ops.where(ops.isnan(x), _LOST, x)
        x = ops.where(ops.isinf(x), _LOST, x)
        good = x < _LOST
        x = ops.where(good, x - _median(x, good)[..., None], 0.0)
        block = SFREQ_HZ // 10
        shape = (-1, x.shape[1], x.shape[2] // block, block)
        means = ops.abs(ops.mean(ops.reshape(x, shape), axis=-1))
        typical = _median(means, ops.any(ops.reshape(good, shape), axis=-1))
        lost = 1.0 - ops.mean(ops.cast(good, "float32"), axis=-1)
        bad = (typical < FLAT_UV) | (typical > ABSURD_UV)
        bad = bad | (lost > ops.min(lost, axis=1, keepdims=True) + 0.5)
        kept = 1.0 - ops.cast(bad, "float32")
        x = x * kept[..., None]
        weight = NEARNESS.astype("float32") * kept[:, None, :N_SCALP]  # (N, 19, 19)
        weight = weight / ops.maximum(ops.sum(weight, axis=-1, keepdims=True), 1e-30)
        filled = ops.matmul(weight, x[:, :N_SCALP])
        scalp = ops.where(bad[:, :N_SCALP, None], filled, x[:, :N_SCALP])
        return ops.concatenate([scalp, x[:, N_SCALP:]], axis=1)


def _median(x, good):
    """Median along the last axis of the values that are `good`; 0 where none is."""
    ordered = ops.sort(ops.where(good, x, _LOST), axis=-1)
    count = ops.sum(ops.cast(good, "int32"), axis=-1, keepdims=True)
    low, high = (ops.maximum(count - 1, 0) // 2, count // 2)
    pair = [ops.take_along_axis(ordered, ops.minimum(i, x.shape[-1] - 1), -1) for i in (low, high)]
    return ops.where(count > 0, (pair[0] + pair[1]) / 2, 0.0)[..., 0]


@keras.saving.register_keras_serializable("hmsutils")
class Bandpass(keras.layers.Layer):
    """(N, C, T) microvolts without NaN → the same, as `signals.bandpass`.

    A recursive filter is linear: inside a block of samples it is a matrix, and what passes from
    block to block is the filter's state, six numbers.
    """

    def __init__(self, low_hz: float, high_hz: float, **kwargs):
        super().__init__(**kwargs)
        self.band_hz = (low_hz, high_hz)

    def call(self, eeg_uv):
        edge, length = butterworth(3, *self.band_hz)[2], eeg_uv.shape[-1]
        first, last = eeg_uv[..., :1], eeg_uv[..., -1:]
        head = 2 * first - ops.flip(eeg_uv[..., 1 : edge + 1], axis=-1)
        tail = 2 * last - ops.flip(eeg_uv[..., -edge - 1 : -1], axis=-1)
        x = ops.concatenate([head, eeg_uv, tail], axis=-1)
        for backwards in (False, True):
            x = self._sweep(x, backwards)
        return x[..., edge : edge + length]

    def _sweep(self, x, backwards: bool):
        length = x.shape[-1]
        blocks = -(-length // _BLOCK)
        fill = blocks * _BLOCK - length
        within, enter, leave, scan, decay = _filter_matrices(self.band_hz, blocks, backwards)
        start = x[..., -1:] if backwards else x[..., :1]
        x = ops.pad(x, [(0, 0), (0, 0), (fill, 0) if backwards else (0, fill)])
        x = ops.reshape(x, (-1, x.shape[1], blocks, _BLOCK))
        pushed = ops.reshape(ops.matmul(x, enter), (-1, x.shape[1], scan.shape[0]))
        states = ops.matmul(pushed, scan) + start * decay
        states = ops.reshape(states, (-1, x.shape[1], blocks, len(leave)))
        y = ops.matmul(x, within) + ops.matmul(states, leave)
        y = ops.reshape(y, (-1, x.shape[1], blocks * _BLOCK))
        return y[..., fill:] if backwards else y[..., :length]

    def get_config(self):
        return super().get_config() | dict(zip(("low_hz", "high_hz"), self.band_hz, strict=True))


@lru_cache
def _filter_matrices(band_hz: tuple[float, float], blocks: int, backwards: bool):
    """What one block does to its samples and to the state, and the states of all blocks.

    Returns:
        float32: (L, L) samples → samples; (L, 6) samples → what they leave in the state; (6, L)
        state → samples; (B · 6, B · 6) what all blocks leave → the state each begins with;
        (B · 6) those states if there were only the first sample, for ever.
    """
    sos, sosfilt_zi, _ = butterworth(3, *band_hz)
    n = 2 * len(sos)
    samples = np.concatenate([np.eye(_BLOCK), np.zeros((n, _BLOCK))])
    states = np.concatenate([np.zeros((_BLOCK, n)), np.eye(n)])
    zi = states.reshape(-1, len(sos), 2).swapaxes(0, 1)
    out, last = signal.sosfilt(sos, samples, zi=zi)
    last = last.swapaxes(0, 1).reshape(-1, n)
    within, leave, enter, step = out[:_BLOCK], out[_BLOCK:], last[:_BLOCK], last[_BLOCK:]
    # States in units of what they add to the samples: float32 then loses little.
    leave, turn = (m.T for m in np.linalg.qr(leave.T))
    enter, step = enter @ turn, np.linalg.solve(turn, step @ turn)
    powers = [np.linalg.matrix_power(step, k) for k in range(blocks)]
    scan = np.zeros((blocks, n, blocks, n))
    for i in range(blocks):
        for j in range(i + 1, blocks):
            scan[i, :, j] = powers[j - i - 1]
    decay = np.stack(powers, axis=1)  # (6, B, 6)
    if backwards:
        within, leave, enter = within[::-1, ::-1], leave[:, ::-1], enter[::-1]
        scan, decay = scan[::-1, :, ::-1], decay[:, ::-1]
    scan = scan.reshape(blocks * n, -1)
    decay = sosfilt_zi.reshape(-1) @ turn @ decay.reshape(n, -1)
    return tuple(np.ascontiguousarray(m, np.float32) for m in (within, enter, leave, scan, decay))


@keras.saving.register_keras_serializable("hmsutils")
class Image(keras.layers.Layer):
    """(N, 20, T) repaired, band-passed microvolts → (N, H, W, 3), as `spectrograms.image`."""

    def __init__(self, config: ImageConfig | dict = ImageConfig(), **kwargs):
        super().__init__(**kwargs)
        self.config = config if isinstance(config, ImageConfig) else ImageConfig(**config)

    def call(self, eeg_uv):
        pairs = [pair for region in MEL_REGIONS for pair in CHAIN_PAIRS[region]]
        x = _bipolar(eeg_uv, pairs)
        bands = []
        for zoom in zooms(self.config):
            db = ops.flip(_log_mel(x, zoom), axis=2)  # low frequencies at the bottom
            bands.append(ops.reshape(db, (-1, *self.config.shape[:2])))
        floor, ceiling = self.config.floor_db, self.config.ceiling_db
        return ops.clip((ops.stack(bands, axis=-1) - floor) / (ceiling - floor), 0.0, 1.0)

    def get_config(self):
        return super().get_config() | {"config": asdict(self.config)}


def _bipolar(x, pairs):
    """(N, C, T) electrodes → (N, P, T) derivations."""
    plus, minus = electrode_rows(pairs)
    return ops.take(x, plus, axis=1) - ops.take(x, minus, axis=1)


def _log_mel(x, config: MelConfig):
    """(N, 16, T) derivations → (N, 4, n_mels, frames) dB of `reference_uv2`, mean of each chain."""
    project, cosines, sines, mel = mel_matrices(config)
    keep, rank = round(config.span_s * SFREQ_HZ), cosines.shape[1]
    start, hop, half = (x.shape[-1] - keep) // 2, keep // config.frames, config.window // 2
    x = ops.pad(x[..., start : start + keep], [(0, 0), (0, 0), (half, half)])
    signals = ops.reshape(x, (-1, x.shape[-1], 1))
    low = ops.conv(signals, project.T[:, None], strides=hop, padding="valid")[:, : config.frames]
    power = ops.square(ops.matmul(low[..., :rank], cosines.T))
    power = power + ops.square(ops.matmul(low[..., rank:], sines.T))
    power = ops.maximum(ops.matmul(power, mel.toarray().T.astype("float32")), AMIN)
    db = ops.reshape(10 / np.log(10) * ops.log(power), (-1, 4, 4, config.frames, config.n_mels))
    db = ops.mean(db, axis=2) - 10 * np.log10(config.reference_uv2)
    return ops.transpose(db, (0, 1, 3, 2))


@keras.saving.register_keras_serializable("hmsutils")
class WaveNetInput(keras.layers.Layer):
    """(N, 20, T) repaired, band-passed microvolts → (N, T', P), as `signals.wavenet_input`."""

    def __init__(self, config: WaveNetInputConfig | dict = WaveNetInputConfig(), **kwargs):
        super().__init__(**kwargs)
        known = isinstance(config, WaveNetInputConfig)
        self.config = config if known else WaveNetInputConfig(**config)

    def call(self, eeg_uv):
        x = _bipolar(eeg_uv[..., :: self.config.decimate], self.config.pairs)
        x = ops.clip(x, -self.config.clip_uv, self.config.clip_uv) / self.config.scale_uv
        return ops.transpose(x, (0, 2, 1))

    def get_config(self):
        return super().get_config() | {"config": asdict(self.config)}


LAYERS = {ImageConfig: Image, WaveNetInputConfig: WaveNetInput}


def represent(configs: dict[str, ImageConfig | WaveNetInputConfig]) -> keras.Model:
    """Raw EEG (N, 10000, 20) in microvolts, NaN allowed → {name: representation}.

    Equal to `store.transform` within 1e-4 of an image's range and of a signal's unit.
    """
    raw = keras.Input((WINDOW_SAMPLES, len(ELECTRODES)), name="eeg_uv")
    repaired = Repair(name="repair")(raw)
    bands = {config.bandpass_hz for config in configs.values()}
    filtered = {band: Bandpass(*band)(repaired) for band in sorted(bands)}
    out = {k: LAYERS[type(c)](c, name=k)(filtered[c.bandpass_hz]) for k, c in configs.items()}
    return keras.Model(raw, out, name="represent")
