"""Repair, filter, montage and resample raw EEG. No files, no models.

Inside the package time is the last axis: (N, 20, T). `bipolar` and `wavenet_input` take and give
EEG as the competition's files hold it, (..., T, 20). Functions named `…_in_graph` are
the same in Keras operations, for exported models; tests hold the two equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy import signal
from scipy.ndimage import uniform_filter1d

from hmsutils.competition import ELECTRODES, SFREQ_HZ, check_values
from hmsutils.kernels import medians, sosfiltfilt

# Longitudinal bipolar chains (ACNS Guideline 3): left/right lateral, left/right parasagittal.
CHAINS = {
    "LL": ("Fp1", "F7", "T3", "T5", "O1"),
    "RL": ("Fp2", "F8", "T4", "T6", "O2"),
    "LP": ("Fp1", "F3", "C3", "P3", "O1"),
    "RP": ("Fp2", "F4", "C4", "P4", "O2"),
}
CHAIN_PAIRS = {name: tuple(zip(chain, chain[1:], strict=False)) for name, chain in CHAINS.items()}
DOUBLE_BANANA = (*(p for pairs in CHAIN_PAIRS.values() for p in pairs), ("Fz", "Cz"), ("Cz", "Pz"))

# Idealised 10-20 positions in degrees: angle from the vertex, azimuth from the right ear forwards.
_POLAR = {
    **{"Fp1": (72, 108), "F7": (72, 144), "T3": (72, 180), "T5": (72, 216), "O1": (72, 252)},
    **{"Fp2": (72, 72), "F8": (72, 36), "T4": (72, 0), "T6": (72, 324), "O2": (72, 288)},
    **{"F3": (49, 129), "C3": (36, 180), "P3": (49, 231), "F4": (49, 51), "C4": (36, 0)},
    **{"P4": (49, 309), "Fz": (36, 90), "Cz": (0, 0), "Pz": (36, 270)},
}


_theta, _phi = np.radians([_POLAR[name] for name in ELECTRODES[:-1]]).T
# (19, 3) unit vectors (right, front, up) of the scalp electrodes, as in `ELECTRODES`.
ELECTRODE_XYZ = np.stack(
    [np.sin(_theta) * np.cos(_phi), np.sin(_theta) * np.sin(_phi), np.cos(_theta)], axis=-1
)
N_SCALP = len(ELECTRODE_XYZ)
ANGLES = np.arccos(np.clip(ELECTRODE_XYZ @ ELECTRODE_XYZ.T, -1, 1))  # (19, 19) between electrodes
NEARNESS = np.exp(-((ANGLES / 0.6) ** 2))  # weight of one electrode where another is replaced

# What counts as EEG, see `repair` and `Quality`.
FLAT_UV, ABSURD_UV = 0.2, 500.0  # an electrode that swings less, or more, is bad
LIMIT_UV = 1e5  # a sample beyond is no measurement
MIN_ELECTRODES, MIN_SHARE = 10, 0.5  # of 19, and of the central 10 s; benchmarks/quality.py
_BLOCK_SAMPLES = SFREQ_HZ // 10  # a whole number of cycles of 50 and of 60 Hz
_AROUND = 21  # blocks: 2.1 s


def check_band(config) -> None:
    """ValueError: the band of a representation does not begin below its end."""
    low_hz, high_hz = config.bandpass_hz or (0, 1)
    if low_hz >= high_hz:
        problem = f"bandpass_hz is {config.bandpass_hz}, wanted the lower end first"
        raise ValueError(f"{type(config).__name__}: {problem}")


@dataclass(frozen=True)
class WaveNetInputConfig:
    """The bipolar signals a WaveNet sees: 50 s at 40 Hz."""

    pairs: tuple[tuple[str, str], ...] = DOUBLE_BANANA
    bandpass_hz: tuple[float, float] | None = (0.5, 20.0)  # None: filtered already
    clip_uv: float = 500.0
    scale_uv: float = 50.0  # microvolts that become 1.0
    decimate: int = 5  # 200 Hz → 40 Hz

    RANGES: ClassVar = {"bandpass_hz": (0.01, 99), "clip_uv": (1, 1e4), "scale_uv": (1e-3, 1e4)}
    RANGES |= {"decimate": (1, 1000)}

    def __post_init__(self):
        check_values(self)
        check_band(self)
        known = [pair for pair in self.pairs if set(pair) <= set(ELECTRODES) and pair[0] != pair[1]]
        if not self.pairs or len(known) < len(self.pairs):
            wanted = f"two different ones of {' '.join(ELECTRODES)} each"
            raise ValueError(f"WaveNetInput: pairs is {self.pairs}, wanted {wanted}")


def bipolar(
    eeg_uv: np.ndarray, electrodes: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> np.ndarray:
    """Electrode differences (a bipolar montage, ACNS Guideline 3): (..., T, C) referential
    microvolts, a column for each name in `electrodes` → (..., T, P) float32, one for each (plus,
    minus) in `pairs`; NaN wherever either electrode is. ValueError: the recording lacks one."""
    column = {name: i for i, name in enumerate(electrodes)}
    if missing := sorted({name for pair in pairs for name in pair if name not in column}):
        problem = f"the montage needs {', '.join(missing)}"
        has = f"the recording has {', '.join(electrodes)}"
        raise ValueError(f"bipolar: {problem}, but {has}; drop those pairs or rename electrodes")
    plus, minus = np.array([[column[a], column[b]] for a, b in pairs]).T
    eeg_uv = np.asarray(eeg_uv, np.float32)
    return eeg_uv[..., plus] - eeg_uv[..., minus]


def to_time_last(eeg_uv: np.ndarray, who: str) -> np.ndarray:
    """(T, 20) or (N, T, 20) → (N, 20, T) float32; ValueError, naming `who`, for other shapes, or a
    frame with other columns than `ELECTRODES`."""
    if list(getattr(eeg_uv, "columns", ELECTRODES)) != list(ELECTRODES):
        raise ValueError(f"{who}: columns {list(eeg_uv.columns)}, wanted {' '.join(ELECTRODES)}")
    eeg_uv = np.asarray(eeg_uv, np.float32)
    if eeg_uv.ndim not in (2, 3) or eeg_uv.shape[-1] != len(ELECTRODES) or not eeg_uv.size:
        wanted = f"(N, T, 20) or (T, 20) with the columns {' '.join(ELECTRODES)}"
        raise ValueError(f"{who}: got an array of shape {eeg_uv.shape}, wanted {wanted}")
    return np.ascontiguousarray(np.swapaxes(eeg_uv.reshape(-1, *eeg_uv.shape[-2:]), 1, 2))


def montage(x: np.ndarray, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """(N, 20, T) electrodes → (N, P, T) float32 derivations; NaN wherever either electrode is."""
    out = np.empty((len(x), len(pairs), x.shape[-1]), np.float32)
    for row, (a, b) in enumerate(pairs):
        np.subtract(x[:, ELECTRODES.index(a)], x[:, ELECTRODES.index(b)], out=out[:, row])
    return out


def montage_in_graph(x, pairs: Sequence[tuple[str, str]]):
    """`montage` in Keras operations."""
    from keras import ops

    plus, minus = ([ELECTRODES.index(name) for name in side] for side in zip(*pairs, strict=True))
    return ops.take(x, plus, axis=1) - ops.take(x, minus, axis=1)


def repair(eeg_uv: np.ndarray) -> np.ndarray:
    """Remove offsets, fill NaN and replace electrodes that carry no EEG.

    The median of every electrode is removed, then samples that are NaN or over `LIMIT_UV` become 0
    (the electrode's median). What an electrode swings is judged by its means of 0.1 s, less their
    mean over the 2.1 s around, twice: blind to 50 and 60 Hz, to drift and to steps. A scalp
    electrode is bad where the median of the swings is under `FLAT_UV` or over `ABSURD_UV`, or where
    it is NaN or constant for half of the time longer than others; it becomes the mean of the good
    ones, weighted by closeness. A bad EKG becomes 0.

    (N, 20, T) microvolts at 200 Hz, 0.3 s or more, NaN allowed (else ValueError) → the same shape,
    float32 microvolts, no NaN; a recording without one good electrode becomes 0.
    """
    return repair_with_quality(eeg_uv)[0]


@dataclass(frozen=True)
class Quality:
    """What `repair` found in N windows, and whether that is enough EEG for an opinion.

    The rule: `MIN_ELECTRODES` of the 19 scalp electrodes are good and no copies of the others, and
    the good ones carry EEG in at least `MIN_SHARE` of the central 10 s, which the experts judged. A
    missing electrode (NaN) and a flat one are the same.
    """

    replaced: np.ndarray  # (N, 20) electrodes that were bad, the EKG among them
    n_electrodes: np.ndarray  # (N,) good scalp electrodes, without copies
    lost: np.ndarray  # (N,) share of the time, in the good electrodes, that was filled or is flat
    lost_centre: np.ndarray  # (N,) the same of the central 10 s; 1 where no electrode is good

    def problems(self) -> list[str]:
        """Why there is no opinion, a phrase per window; "" where the rule is met."""
        phrases = []
        for n, lost in zip(self.n_electrodes, self.lost_centre, strict=True):
            few = f"EEG in {n} of {N_SCALP} electrodes, wanted {MIN_ELECTRODES}"
            share = np.floor(100 * (1 - lost))  # 49.9 is not 50
            short = f"EEG in {share:.0f}% of the central 10 s, wanted {MIN_SHARE:.0%}"
            phrases.append(few if n < MIN_ELECTRODES else short if lost > 1 - MIN_SHARE else "")
        return phrases


def repair_with_quality(eeg_uv: np.ndarray) -> tuple[np.ndarray, Quality]:
    """`repair`, and what it did."""
    out, least = np.array(eeg_uv, np.float32, order="C"), 3 * _BLOCK_SAMPLES
    if out.ndim != 3 or out.shape[1] != len(ELECTRODES) or out.shape[2] < least:
        raise ValueError(f"repair: got {out.shape}, wanted (N, 20, T) with T from {least} up")
    replaced, n = np.zeros(out.shape[:2], bool), np.zeros(len(out), int)
    lost = np.zeros((2, len(out)))
    for i, window in enumerate(out):
        replaced[i], n[i], *lost[:, i] = _repair_one(window)
    return out, Quality(replaced, n, *lost)


def _repair_one(x: np.ndarray) -> tuple[np.ndarray, int, float, float]:
    """Repair (20, T) in place; the attributes of `Quality` for this window."""
    lost = ~np.isfinite(x)
    x[lost] = np.nan
    x -= medians(x)[:, None]
    x[lost] = 0.0
    if max(x.max(), -x.min()) > LIMIT_UV:
        lost |= np.abs(x) > LIMIT_UV
        x[lost] = 0.0
    bad, n_electrodes, alive = _find_bad(x, lost)
    x[bad] = 0.0
    scalp = bad[:N_SCALP]
    if scalp.all():
        return bad, 0, 1.0, 1.0
    if scalp.any():
        weight = NEARNESS[scalp][:, ~scalp]
        weight = weight / weight.sum(axis=1, keepdims=True)
        x[np.flatnonzero(scalp)] = weight.astype(np.float32) @ x[:N_SCALP][~scalp]
    alive = alive[:N_SCALP][~scalp]
    centre = alive[:, _centre(alive.shape[1])]
    return bad, n_electrodes, 1 - alive.mean(), 1 - centre.mean()


def _centre(n_blocks: int) -> slice:
    """The blocks of the central 10 s; all where there are fewer."""
    half = min(n_blocks, 10 * SFREQ_HZ // _BLOCK_SAMPLES) // 2
    return slice(n_blocks // 2 - half, n_blocks // 2 + half)


def _find_bad(x: np.ndarray, lost: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    """(C,) electrodes of a NaN-free (C, T) recording that carry no EEG, how many good ones of the
    scalp are no copies, and (C, B) the share of each 0.1 s that is EEG; `lost`: filled samples."""
    whole = x.shape[1] // _BLOCK_SAMPLES * _BLOCK_SAMPLES
    blocks = x[:, :whole].reshape(len(x), -1, _BLOCK_SAMPLES)
    swing = blocks @ np.full(_BLOCK_SAMPLES, 1 / _BLOCK_SAMPLES, np.float32)
    for _ in range(2):
        swing -= uniform_filter1d(swing, _AROUND, mode="nearest")
    each, lost = np.ones(_BLOCK_SAMPLES, np.float32), lost[:, :whole].reshape(blocks.shape)
    moves = (blocks != blocks[..., :1]) @ each > 0  # products are faster than sums of few numbers
    share = np.where(moves, 1 - (lost @ each) / np.float64(_BLOCK_SAMPLES), 0)
    seen, gone = share >= 0.5, 1 - share.mean(axis=1)
    typical = _median_of_seen(np.abs(swing), seen)
    bad = (typical < FLAT_UV) | (typical > ABSURD_UV) | (gone > gone.min() + 0.5)
    good = np.flatnonzero(~bad[:N_SCALP])
    common = np.median(swing[good], axis=0) if len(good) else swing[0]
    gain = swing[good] @ common / max(common @ common, 1e-20)  # copies may be amplified otherwise
    own = swing[good] - gain[:, None] * common
    n_electrodes = (_median_of_seen(np.abs(own), seen[good]) >= FLAT_UV).sum()
    return bad, n_electrodes, np.where(seen & (np.abs(swing) > FLAT_UV / 2), share, 0)


def _median_of_seen(x: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(C,) medians of the values of (C, B) that are seen; 0 where none is."""
    return medians(np.where(seen, x, np.float32(np.nan)))


_LOST = 1e30  # stands for NaN in graphs: exported, most choices are products with 0, which keep NaN


def repair_in_graph(x):
    """`repair` in Keras operations, and (N, 1) 1.0 where the rule of `Quality` is met, else 0.0."""
    from keras import ops

    x = ops.where(ops.isnan(x), _LOST, x)
    x = ops.where(ops.isinf(x), _LOST, x)
    good = x < _LOST
    x = ops.where(good, x - _median_in_graph(x, good)[..., None], _LOST)
    good = ops.abs(x) <= LIMIT_UV
    x = ops.where(good, x, 0.0)
    blocks = (-1, x.shape[1], x.shape[2] // _BLOCK_SAMPLES, _BLOCK_SAMPLES)
    share, blocks = ops.cast(ops.reshape(good, blocks), "float32"), ops.reshape(x, blocks)
    moves = ops.cast(ops.max(blocks, axis=-1) > ops.min(blocks, axis=-1), "float32")
    share, swing = ops.mean(share, axis=-1) * moves, ops.mean(blocks, axis=-1)
    for _ in range(2):
        first, last = (ops.repeat(m, _AROUND // 2, -1) for m in (swing[..., :1], swing[..., -1:]))
        around = ops.concatenate([first, swing, last], axis=-1)  # the ends stand for what is beyond
        around = ops.reshape(around, (-1, around.shape[2], 1))
        around = ops.average_pool(around, _AROUND, 1, "valid", data_format="channels_last")
        swing = swing - ops.reshape(around, (-1, *swing.shape[1:]))
    seen, gone = share >= 0.4999, 1.0 - ops.mean(share, axis=-1)
    typical = _median_in_graph(ops.abs(swing), seen)
    bad = (typical < FLAT_UV) | (typical > ABSURD_UV)
    bad = bad | (gone > ops.min(gone, axis=1, keepdims=True) + 0.5)
    kept = 1.0 - ops.cast(bad, "float32")
    x = x * kept[..., None]
    kept = kept[:, :N_SCALP]
    weight = NEARNESS.astype("float32") * kept[:, None]  # (N, 19, 19)
    weight = weight / ops.maximum(ops.sum(weight, axis=-1, keepdims=True), 1e-30)
    filled = ops.matmul(weight, x[:, :N_SCALP])
    scalp = ops.where(bad[:, :N_SCALP, None], filled, x[:, :N_SCALP])
    swing, seen, share = (part[:, :N_SCALP] for part in (swing, seen, share))
    over = ops.transpose(swing, (0, 2, 1))
    common = _median_in_graph(over, kept[:, None] + 0.0 * over > 0.5)
    common = common[:, None]  # (N, 1, B)
    gain = ops.sum(swing * common, axis=-1, keepdims=True)
    gain = gain / ops.maximum(ops.sum(common**2, axis=-1, keepdims=True), 1e-20)
    own = _median_in_graph(ops.abs(swing - gain * common), seen) >= FLAT_UV
    alive = ops.where(seen & (ops.abs(swing) > FLAT_UV / 2), share, 0.0)
    alive = ops.mean(alive[..., _centre(swing.shape[2])], axis=-1)
    few = ops.sum(kept * ops.cast(own, "float32"), axis=1, keepdims=True) < MIN_ELECTRODES
    short = ops.sum(kept * (alive - MIN_SHARE), axis=1, keepdims=True) < -1e-4
    enough = ops.logical_not(few | short)
    return ops.concatenate([scalp, x[:, N_SCALP:]], axis=1), ops.cast(enough, "float32")


def _median_in_graph(x, good):
    """Median along the last axis of the values that are `good`; 0 where none is."""
    from keras import ops

    ordered = ops.sort(ops.where(good, x, _LOST), axis=-1)
    count = ops.sum(ops.cast(good, "int32"), axis=-1, keepdims=True)
    low, high = (ops.maximum(count - 1, 0) // 2, count // 2)
    pair = [ops.take_along_axis(ordered, ops.minimum(i, x.shape[-1] - 1), -1) for i in (low, high)]
    return ops.where(count > 0, (pair[0] + pair[1]) / 2, 0.0)[..., 0]


@lru_cache
def _butterworth(low_hz: float, high_hz: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Second-order sections, their states while the input stays at 1, and the samples by which a
    signal is extended at both ends (SciPy's default for a band-pass)."""
    sos = signal.butter(3, (low_hz, high_hz), "bandpass", fs=SFREQ_HZ, output="sos")
    return sos, signal.sosfilt_zi(sos), 6 * len(sos) + 3


def bandpass(x: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Zero-phase Butterworth band-pass, order 3, of (N, C, T), as `scipy.signal.sosfiltfilt`;
    float32. ValueError: NaN, which would spread over the recording (`repair`); too few samples."""
    if np.isnan(x).any():
        raise ValueError("bandpass: the EEG holds NaN, wanted none; call signals.repair first")
    sos, zi, edge = _butterworth(low_hz, high_hz)
    if x.shape[-1] <= edge:
        raise ValueError(f"bandpass: {x.shape[-1]} samples, wanted more than {edge}; pass more EEG")
    return sosfiltfilt(sos, zi, edge, np.ascontiguousarray(x, np.float32))


_BLOCK = 128  # samples that the filter in a graph takes at once


def bandpass_in_graph(x, low_hz: float, high_hz: float):
    """`bandpass` in Keras operations. The filter is linear: inside a block of samples it is a
    matrix, and what passes from block to block is its state, six numbers."""
    from keras import ops

    edge, length = _butterworth(low_hz, high_hz)[2], x.shape[-1]
    head = 2 * x[..., :1] - ops.flip(x[..., 1 : edge + 1], axis=-1)
    tail = 2 * x[..., -1:] - ops.flip(x[..., -edge - 1 : -1], axis=-1)
    x = ops.concatenate([head, x, tail], axis=-1)
    for _ in range(2):  # forwards, then backwards
        x = ops.flip(_sweep_in_graph(x, (low_hz, high_hz)), axis=-1)
    return x[..., edge : edge + length]


def _sweep_in_graph(x, band_hz: tuple[float, float]):
    """The filter once along time."""
    from keras import ops

    channels, length = x.shape[1:]
    blocks = -(-length // _BLOCK)
    within, enter, leave, scan, decay = _filter_matrices(band_hz, blocks)
    start = x[..., :1]
    x = ops.pad(x, [(0, 0), (0, 0), (0, blocks * _BLOCK - length)])
    x = ops.reshape(x, (-1, channels, blocks, _BLOCK))
    pushed = ops.reshape(ops.matmul(x, enter), (-1, channels, len(scan)))
    states = ops.matmul(pushed, scan) + start * decay
    states = ops.reshape(states, (-1, channels, blocks, len(leave)))
    y = ops.matmul(x, within) + ops.matmul(states, leave)
    return ops.reshape(y, (-1, channels, blocks * _BLOCK))[..., :length]


@lru_cache
def _filter_matrices(band_hz: tuple[float, float], blocks: int) -> tuple[np.ndarray, ...]:
    """float32: (L, L) samples of a block → samples; (L, 6) samples → what they leave in the state;
    (6, L) state → samples; (B · 6, B · 6) what all blocks leave → the states they begin with;
    (B · 6) those states if there were only the first sample, for ever."""
    sos, sosfilt_zi, _ = _butterworth(*band_hz)
    n = 2 * len(sos)
    inputs = np.eye(_BLOCK + n)  # one sample, or one number of the state, at a time
    zi = inputs[:, _BLOCK:].reshape(-1, len(sos), 2).swapaxes(0, 1)
    out, last = signal.sosfilt(sos, inputs[:, :_BLOCK], zi=zi)
    last = last.swapaxes(0, 1).reshape(-1, n)
    within, leave, enter, step = out[:_BLOCK], out[_BLOCK:], last[:_BLOCK], last[_BLOCK:]
    # States in units of what they add to the samples: float32 then loses little.
    leave, turn = (m.T for m in np.linalg.qr(leave.T))
    enter, step = enter @ turn, np.linalg.solve(turn, step @ turn)
    powers = np.stack([np.linalg.matrix_power(step, k) for k in range(blocks)], axis=1)  # (6, B, 6)
    scan = np.zeros((blocks, n, blocks, n))
    for i in range(blocks - 1):
        scan[i, :, i + 1 :] = powers[:, : blocks - 1 - i]
    decay = sosfilt_zi.reshape(-1) @ turn @ powers.reshape(n, -1)
    matrices = within, enter, leave, scan.reshape(blocks * n, -1), decay
    return tuple(np.ascontiguousarray(matrix, np.float32) for matrix in matrices)


def wavenet_input(
    eeg_uv: np.ndarray, config: WaveNetInputConfig = WaveNetInputConfig()
) -> np.ndarray:
    """(N, T, 20) or (T, 20) raw microvolts at 200 Hz, NaN allowed → what a WaveNet sees: (N, T', P)
    float32, T' = T / 5 (2,000 for 50 s): repaired, band-passed, clipped to ±`clip_uv`, divided by
    `scale_uv`, no NaN."""
    return wavenet_signals(repair(to_time_last(eeg_uv, "wavenet_input")), config)


def wavenet_signals(x: np.ndarray, config: WaveNetInputConfig) -> np.ndarray:
    """`wavenet_input` of (N, 20, T) repaired microvolts."""
    x = bandpass(x, *config.bandpass_hz) if config.bandpass_hz else x
    x = montage(x[..., :: config.decimate], config.pairs)
    np.clip(x, -config.clip_uv, config.clip_uv, out=x)
    x /= np.float32(config.scale_uv)
    return np.swapaxes(x, 1, 2)


def wavenet_signals_in_graph(x, config: WaveNetInputConfig):
    """`wavenet_signals` in Keras operations."""
    from keras import ops

    x = bandpass_in_graph(x, *config.bandpass_hz) if config.bandpass_hz else x
    x = montage_in_graph(x[..., :: config.decimate], config.pairs)
    x = ops.clip(x, -config.clip_uv, config.clip_uv) / config.scale_uv
    return ops.transpose(x, (0, 2, 1))
