"""Repair, filter, montage and resample raw EEG. No files, no models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import signal

from hmsutils.files import ELECTRODES, SFREQ_HZ

# Longitudinal bipolar chains (ACNS Guideline 3): left/right lateral, left/right parasagittal.
CHAINS = {
    "LL": ("Fp1", "F7", "T3", "T5", "O1"),
    "RL": ("Fp2", "F8", "T4", "T6", "O2"),
    "LP": ("Fp1", "F3", "C3", "P3", "O1"),
    "RP": ("Fp2", "F4", "C4", "P4", "O2"),
}
CHAIN_PAIRS = {name: tuple(zip(chain, chain[1:], strict=False)) for name, chain in CHAINS.items()}
DOUBLE_BANANA = (*(p for pairs in CHAIN_PAIRS.values() for p in pairs), ("Fz", "Cz"), ("Cz", "Pz"))

# Idealised 10-20 positions: (angle from the vertex, azimuth from the right ear over the nose),
# degrees.
_POLAR = {
    **{"Fp1": (72, 108), "F7": (72, 144), "T3": (72, 180), "T5": (72, 216), "O1": (72, 252)},
    **{"Fp2": (72, 72), "F8": (72, 36), "T4": (72, 0), "T6": (72, 324), "O2": (72, 288)},
    **{"F3": (49, 129), "C3": (36, 180), "P3": (49, 231), "F4": (49, 51), "C4": (36, 0)},
    **{"P4": (49, 309), "Fz": (36, 90), "Cz": (0, 0), "Pz": (36, 270)},
}


def _electrode_xyz() -> np.ndarray:
    """(19, 3) unit vectors (right, front, up) of the scalp electrodes, as in `ELECTRODES`."""
    theta, phi = np.radians([_POLAR[name] for name in ELECTRODES if name != "EKG"]).T
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1)


ELECTRODE_XYZ = _electrode_xyz()
N_SCALP = len(ELECTRODE_XYZ)
ANGLES = np.arccos(np.clip(ELECTRODE_XYZ @ ELECTRODE_XYZ.T, -1, 1))  # (19, 19) between electrodes
NEARNESS = np.exp(-((ANGLES / 0.6) ** 2))  # weight of one electrode where another is replaced
FLAT_UV, ABSURD_UV = 0.2, 1000.0  # an electrode whose typical |0.1 s mean| lies outside is bad


@dataclass(frozen=True)
class WaveNetInputConfig:
    """The bipolar signals a WaveNet sees: 50 s at 40 Hz."""

    pairs: tuple[tuple[str, str], ...] = DOUBLE_BANANA
    bandpass_hz: tuple[float, float] = (0.5, 20.0)
    clip_uv: float = 500.0
    scale_uv: float = 50.0  # microvolts that become 1.0
    decimate: int = 5  # 200 Hz → 40 Hz


def bipolar(
    eeg_uv: np.ndarray, electrodes: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> np.ndarray:
    """Electrode differences (a bipolar montage).

    Args:
        eeg_uv: (..., T, C) referential EEG in microvolts; left unchanged.
        electrodes: name of each column of `eeg_uv`.
        pairs: (plus, minus) electrode names.

    Returns:
        (..., T, P) float32 microvolts; NaN wherever either electrode is NaN.

    Raises:
        ValueError: a pair names an electrode the recording lacks.

    Source: ACNS Guideline 3, longitudinal bipolar montage.
    """
    column = {name: i for i, name in enumerate(electrodes)}
    missing = sorted({name for pair in pairs for name in pair if name not in column})
    if missing:
        raise ValueError(
            f"bipolar: the montage needs {', '.join(missing)}, but the recording has "
            f"{', '.join(electrodes)}; drop those pairs or rename the electrodes"
        )
    plus, minus = np.array([[column[a], column[b]] for a, b in pairs]).T
    eeg_uv = np.asarray(eeg_uv, np.float32)
    return eeg_uv[..., plus] - eeg_uv[..., minus]


def electrode_rows(pairs: Sequence[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Numbers in `ELECTRODES` of the electrodes before and after the minus of derivations."""
    plus, minus = ([ELECTRODES.index(name) for name in side] for side in zip(*pairs, strict=True))
    return plus, minus


def as_windows(eeg_uv: np.ndarray, who: str) -> np.ndarray:
    """(N, T, 20) float32 of one recording (T, 20) or several (N, T, 20); else ValueError."""
    eeg_uv = np.asarray(eeg_uv, np.float32)
    if eeg_uv.ndim not in (2, 3) or eeg_uv.shape[-1] != len(ELECTRODES):
        raise ValueError(
            f"{who}: got an array of shape {eeg_uv.shape}, wanted (N, T, {len(ELECTRODES)}) or "
            f"(T, {len(ELECTRODES)}) with the columns {' '.join(ELECTRODES)}"
        )
    return eeg_uv if eeg_uv.ndim == 3 else eeg_uv[None]


def repair(eeg_uv: np.ndarray) -> np.ndarray:
    """Remove offsets, fill NaN and replace electrodes that carry no EEG.

    The median of every electrode is removed, then NaN become 0 (the electrode's median). A scalp
    electrode is bad where it is flat or absurd (the median of its |0.1 s means|, which are blind to
    50 and 60 Hz, is under `FLAT_UV` or over `ABSURD_UV`) or lacks half of the samples that others
    have; it becomes the mean of the good ones, weighted by closeness. A bad EKG becomes 0.

    Args:
        eeg_uv: (N, T, 20) or (T, 20) microvolts at 200 Hz, NaN allowed; left unchanged.

    Returns:
        Same shape, float32 microvolts, no NaN. A recording without one good electrode becomes 0.
    """
    # Time last in memory: medians, filters and spectrograms go along it.
    out = np.array(np.swapaxes(as_windows(eeg_uv, "repair"), 1, 2), order="C")
    for window in out:
        _repair_one(window)
    return np.swapaxes(out, 1, 2).reshape(np.shape(eeg_uv))


def _repair_one(x: np.ndarray) -> None:
    """Repair (20, T) in place."""
    lost = ~np.isfinite(x)
    if lost.any():
        x[lost] = np.nan
        seen = ~lost.all(axis=1)
        x[seen] -= np.nanmedian(x[seen], axis=1, keepdims=True)
        x[lost] = 0.0
    else:
        x -= _median(x)[:, None]
    bad = _is_bad(x, lost)
    x[bad] = 0.0
    scalp = bad[:N_SCALP]
    if scalp.any() and not scalp.all():
        weight = NEARNESS[scalp][:, ~scalp]
        weight = weight / weight.sum(axis=1, keepdims=True)
        x[np.flatnonzero(scalp)] = weight.astype(np.float32) @ x[:N_SCALP][~scalp]


def _is_bad(x: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """(C,) electrodes of a NaN-free (C, T) recording without EEG; `lost` marks filled samples."""
    block = SFREQ_HZ // 10  # a whole number of cycles of 50 and of 60 Hz
    whole = x.shape[1] // block * block
    means = np.abs(x[:, :whole].reshape(len(x), -1, block) @ np.full(block, 1 / block, np.float32))
    if not lost.any():
        typical = _median(means)
        return (typical < FLAT_UV) | (typical > ABSURD_UV)
    filled = lost[:, :whole].reshape(len(x), -1, block).all(axis=2)
    typical = np.array(
        [np.median(m[~f]) if not f.all() else 0.0 for m, f in zip(means, filled, strict=True)]
    )
    lost_share = lost.mean(axis=1)
    return (typical < FLAT_UV) | (typical > ABSURD_UV) | (lost_share > lost_share.min() + 0.5)


def _median(x: np.ndarray) -> np.ndarray:
    """`np.median` along the last axis of numbers without NaN, which is all that makes it slow."""
    half = x.shape[-1] // 2
    parted = np.partition(x, half, axis=-1)
    upper = parted[..., half]
    return upper if x.shape[-1] % 2 else (upper + parted[..., :half].max(axis=-1)) / 2


@lru_cache
def butterworth(order: int, low_hz: float, high_hz: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Second-order sections, their states while the input stays at 1, and the samples by which a
    signal is extended at both ends (SciPy's default for a band-pass)."""
    sos = signal.butter(order, (low_hz, high_hz), "bandpass", fs=SFREQ_HZ, output="sos")
    return sos, signal.sosfilt_zi(sos), 6 * len(sos) + 3


def bandpass(eeg_uv: np.ndarray, low_hz: float, high_hz: float, order: int = 3) -> np.ndarray:
    """Zero-phase Butterworth band-pass along time.

    Args:
        eeg_uv: (..., T, C) microvolts at 200 Hz, without NaN (see `repair`); left unchanged.

    Returns:
        Same shape, float32 microvolts.

    Raises:
        ValueError: NaN, which a recursive filter would spread over the whole recording; or too few
            samples.
    """
    eeg_uv = np.asarray(eeg_uv)
    if np.isnan(eeg_uv).any():
        raise ValueError("bandpass: the EEG holds NaN, wanted none; call signals.repair first")
    sos, zi, edge = butterworth(order, low_hz, high_hz)
    if eeg_uv.shape[-2] <= edge:
        raise ValueError(
            f"bandpass: {eeg_uv.shape[-2]} samples, wanted more than {edge}; pass more EEG"
        )
    x = np.ascontiguousarray(np.swapaxes(eeg_uv, -1, -2), np.float32)
    x = x.reshape(-1, *x.shape[-2:])
    try:
        from hmsutils.kernels import sosfiltfilt
    except ImportError:  # no numba
        out = signal.sosfiltfilt(sos, x.astype(np.float64)).astype(np.float32)
    else:
        out = sosfiltfilt(sos, zi, edge, x)
    return np.swapaxes(out, 1, 2).reshape(eeg_uv.shape)


def wavenet_input(
    eeg_uv: np.ndarray, config: WaveNetInputConfig = WaveNetInputConfig(), *, repaired: bool = False
) -> np.ndarray:
    """Raw EEG → the bipolar signals a WaveNet sees.

    Args:
        eeg_uv: (N, T, 20) raw microvolts at 200 Hz, NaN allowed (see `repair`).
        repaired: that has been done.

    Returns:
        (N, T', P) float32, T' = T / 5 (2,000 for 50 s): repaired, zero-phase band-passed,
        clipped to ±`clip_uv`, divided by `scale_uv`, no NaN.
    """
    x = as_windows(eeg_uv, "wavenet_input")
    x = bandpass(x if repaired else repair(x), *config.bandpass_hz)
    x = bipolar(x[:, :: config.decimate], ELECTRODES, config.pairs)
    return np.clip(x, -config.clip_uv, config.clip_uv) / np.float32(config.scale_uv)
