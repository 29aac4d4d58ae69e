"""Raw EEG → spectrograms: log-mel of 50 s, and the official 10-minute multitaper.

A short-time Fourier transform of a few bins is a matrix product: a basis (bins, window) times
frames (window, frames). It is exact, and faster than an FFT that computes bins nobody looks at; the
more so as a short window's bins up to 20 Hz are combinations of a few numbers: the basis factors.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse
from scipy.signal import firwin, get_window, windows
from threadpoolctl import threadpool_limits

from hmsutils.competition import CONTEXT_S, SFREQ_HZ
from hmsutils.kernels import mel_db
from hmsutils.signals import CHAIN_PAIRS, bandpass, montage, montage_in_graph, to_time_last

MEL_REGIONS = ("LL", "LP", "RP", "RL")  # (128, 256, 4) of the mel image: RL is last there
OFFICIAL_REGIONS = ("LL", "RL", "LP", "RP")
AMIN = 1e-10  # librosa.power_to_db
_MEL_PAIRS = [pair for region in MEL_REGIONS for pair in CHAIN_PAIRS[region]]
_MEL_ORDER = [OFFICIAL_REGIONS.index(region) for region in MEL_REGIONS]
_RANK_TOLERANCE = 2e-7  # of a factor's largest singular value
# Keeps what is under 30 Hz and removes what is over 70 Hz, by 100 dB: one side, without its zeros.
_HALF_BAND = firwin(31, 0.5, window=("kaiser", 10.0))[16::2].astype(np.float32)


@dataclass(frozen=True)
class MelConfig:
    """A log-mel spectrogram of the four bipolar chains; the defaults are the public recipe."""

    n_mels: int = 128
    f_max_hz: float = 20.0
    n_frames: int = 256
    win_length: int = 128  # samples of the Hann window, an even number
    n_fft: int = 1024
    duration_s: float | None = None  # only the central seconds; None: all
    reference_uv2: float | None = None  # power that is 0 dB; None: each signal's own maximum


@dataclass(frozen=True)
class RegionalConfig:
    """The official 10-minute spectrogram; `bandpass_hz=None` for EEG that is already filtered."""

    bandpass_hz: tuple[float, float] | None = (0.5, 40.0)
    window_s: float = 4.0
    step_s: float = 2.0
    time_bandwidth: float = 2.0
    n_tapers: int = 3
    n_fft: int = 1024
    bins: tuple[int, int] = (3, 103)  # 0.59 … 19.92 Hz


@lru_cache
@threadpool_limits.wrap(limits=1)  # the same rounding in every process
def mel_matrices(config: MelConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, sparse.csr_array]:
    """A window's Hann-weighted cosines and sines, factored, and the mel bands: (2 · rank,
    win_length) to project a window; (bins, rank) each that make its cosine and its sine
    coefficients of the projections; (n_mels, bins) weights of the power."""
    import librosa

    mel = librosa.filters.mel(
        sr=SFREQ_HZ, n_fft=config.n_fft, n_mels=config.n_mels, fmin=0.0, fmax=config.f_max_hz
    )
    bins = np.flatnonzero(mel.any(axis=0))
    # Phases relative to the window's middle: cosines are even there, sines odd, both of low rank.
    from_middle = np.arange(config.win_length) - config.win_length // 2
    angle = 2 * np.pi / config.n_fft * np.outer(from_middle, bins)
    hann = get_window("hann", config.win_length, fftbins=True)[:, None]
    factors = [np.linalg.svd(f(angle) * hann, full_matrices=False) for f in (np.cos, np.sin)]
    rank = max(int((size > _RANK_TOLERANCE * size[0]).sum()) for _, size, _ in factors)
    project = np.concatenate([(u[:, :rank] * size[:rank]).T for u, size, _ in factors])
    cosines, sines = (v[:rank].T.astype(np.float32) for _, _, v in factors)
    return project.astype(np.float32), cosines, sines, sparse.csr_array(mel[:, bins])


def log_mel(eeg_uv: np.ndarray, config: MelConfig = MelConfig()) -> np.ndarray:
    """Log-mel spectrogram of the four bipolar chains: transform first, average after.

    (N, T, 20) or (T, 20) microvolts at 200 Hz, not filtered or repaired here; NaN in a derivation
    become its mean → (N, n_mels, n_frames, 4) float32, chains LL, LP, RP, RL. With
    `reference_uv2=None`, (dB below each derivation's maximum + 40) / 40, equal to librosa's
    `melspectrogram` and `power_to_db(ref=max)` (the public 50 s recipe); else dB of
    `reference_uv2`. ValueError for other shapes, or fewer samples than frames."""
    out = chains_db(to_time_last(eeg_uv, "log_mel"), config)
    if config.reference_uv2 is None:
        out += 40
        out /= 40
    return np.moveaxis(out, 1, -1)


def chains_db(x: np.ndarray, config: MelConfig) -> np.ndarray:
    """(N, 20, T) microvolts → (N, 4, n_mels, n_frames) dB, means of chains; see `log_mel`."""
    if config.duration_s is not None:
        keep = round(config.duration_s * SFREQ_HZ)
        start = max(0, (x.shape[-1] - keep) // 2)
        x = x[..., start : start + keep]
    if x.shape[-1] < config.n_frames:
        problem = f"{x.shape[-1]} samples cannot give {config.n_frames} frames"
        raise ValueError(f"log_mel: {problem}; pass more EEG or ask for fewer frames")
    project, cosines, sines, mel = mel_matrices(config)
    # Of a long window, which mixes in nothing over 30 Hz, every other sample is enough.
    halved = config.win_length >= 512 and config.win_length % 4 == 0 and config.f_max_hz <= 20
    taps = _HALF_BAND if halved else _HALF_BAND[:0]
    bands, reference = (mel.indptr, mel.indices, mel.data), config.reference_uv2 or 0.0
    out = np.empty((len(x), len(MEL_REGIONS), config.n_mels, config.n_frames), np.float32)
    for i in range(len(x)):  # one at a time: its derivations stay in the cache
        derivations = _fill_with_mean(montage(x[i : i + 1], _MEL_PAIRS)[0])
        hop = x.shape[-1] // config.n_frames
        mel_db(derivations, hop, taps, project, cosines, sines, *bands, reference, out[i])
    return out


def chains_db_in_graph(x, config: MelConfig):
    """`chains_db` in Keras operations, for EEG without NaN and a fixed reference."""
    from keras import ops

    project, cosines, sines, mel = mel_matrices(config)
    keep, rank = round(config.duration_s * SFREQ_HZ), cosines.shape[1]
    start, half = (x.shape[-1] - keep) // 2, config.win_length // 2
    x = montage_in_graph(x[..., start : start + keep], _MEL_PAIRS)
    signals = ops.reshape(ops.pad(x, [(0, 0), (0, 0), (half, half)]), (-1, keep + 2 * half, 1))
    hop = keep // config.n_frames
    low = ops.conv(signals, project.T[:, None], strides=hop, padding="valid")[:, : config.n_frames]
    power = ops.square(ops.matmul(low[..., :rank], cosines.T))
    power = power + ops.square(ops.matmul(low[..., rank:], sines.T))
    power = ops.maximum(ops.matmul(power, mel.toarray().T.astype("float32")), AMIN)
    shape = (-1, len(MEL_REGIONS), 4, config.n_frames, config.n_mels)
    db = ops.mean(ops.reshape(10 / np.log(10) * ops.log(power), shape), axis=2)
    return ops.transpose(db - 10 * np.log10(config.reference_uv2), (0, 1, 3, 2))


def _fill_with_mean(x: np.ndarray) -> np.ndarray:
    """NaN along the last axis become the mean of the rest, or 0 where nothing is left."""
    lost = np.isnan(x)
    if not lost.any():
        return x
    count = np.maximum((~lost).sum(axis=-1, keepdims=True), 1)
    mean = np.where(lost, 0, x).sum(axis=-1, keepdims=True) / count
    return np.where(lost, mean, x).astype(np.float32)


@lru_cache
@threadpool_limits.wrap(limits=1)  # the same rounding in every process
def _multitaper_matrices(config: RegionalConfig) -> tuple[np.ndarray, np.ndarray]:
    """Detrending, tapers and DFT of a window as a product of two matrices: (piece, rank) to project
    a piece; (pieces · rank, n_tapers · 2 · bins) from the projections of a window's pieces to its
    cosine and sine coefficients under every taper.
    Overlapping windows share pieces as long as a step; where the step does not divide the window,
    the piece is the window."""
    n, step = round(config.window_s * SFREQ_HZ), round(config.step_s * SFREQ_HZ)
    line = np.linalg.qr(np.stack([np.ones(n), np.arange(n)], axis=1))[0]
    tapers = windows.dpss(n, config.time_bandwidth, config.n_tapers) * np.sqrt(SFREQ_HZ)
    angle = 2 * np.pi / config.n_fft * np.outer(np.arange(n), np.arange(*config.bins))
    dft = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / SFREQ_HZ
    basis = np.concatenate([taper[:, None] * dft for taper in tapers], axis=1)
    basis -= line @ (line.T @ basis)
    pieces = n // step if n % step == 0 else 1
    u, size, v = np.linalg.svd(np.hstack(np.split(basis, pieces)), full_matrices=False)
    rank = int((size > _RANK_TOLERANCE * size[0]).sum())
    expand = (size[:rank, None] * v[:rank]).reshape(rank, pieces, -1).swapaxes(0, 1)
    return u[:, :rank].astype(np.float32), expand.reshape(pieces * rank, -1).astype(np.float32)


def regional_multitaper(
    eeg_uv: np.ndarray, config: RegionalConfig = RegionalConfig()
) -> np.ndarray:
    """The competition's regional spectrogram: multitaper power averaged over each bipolar chain.

    (N, T, 20) or (T, 20) microvolts at 200 Hz, NaN count as 0 → (N, W, 4, 100) float32 µV²/Hz,
    two-sided; W windows of 4 s that lie fully inside, starting at 0, 2, 4 … s; regions LL, RL, LP,
    RP; bins 0.59 … 19.92 Hz. Recomputed from the competition's own files: TW 2, three DPSS tapers,
    linear detrend. ValueError for other shapes, or less than one window."""
    x = to_time_last(eeg_uv, "regional_multitaper")
    x = np.where(np.isfinite(x), x, np.float32(0))
    n, step = round(config.window_s * SFREQ_HZ), round(config.step_s * SFREQ_HZ)
    if x.shape[-1] < n:
        wanted = f"wanted at least {n} ({config.window_s} s)"
        raise ValueError(f"regional_multitaper: {x.shape[-1]} samples, {wanted}")
    if config.bandpass_hz is not None:
        x = bandpass(x, *config.bandpass_hz)
    project, expand = _multitaper_matrices(config)
    pieces, n_bins = len(expand) // project.shape[1], expand.shape[1] // (2 * config.n_tapers)
    n_windows = (x.shape[-1] - n) // step + 1
    out = np.empty((len(x), n_windows, len(OFFICIAL_REGIONS), n_bins), np.float32)
    for k, region in enumerate(OFFICIAL_REGIONS):
        for i, derivations in enumerate(montage(x, CHAIN_PAIRS[region])):
            cut = np.lib.stride_tricks.sliding_window_view(derivations, len(project), axis=-1)
            low = np.matmul(cut[:, ::step], project)  # (4, pieces in all, rank)
            low = np.concatenate([low[:, p : p + n_windows] for p in range(pieces)], axis=-1)
            power = np.square(low @ expand).reshape(4, n_windows, -1, n_bins)
            out[i, :, k] = power.sum(axis=(0, 2)) / (4 * config.n_tapers)
    return out


def official_frequencies_hz(config: RegionalConfig = RegionalConfig()) -> np.ndarray:
    """(100,) frequencies of the regional spectrogram's bins; its columns are named after them."""
    return np.arange(*config.bins) * SFREQ_HZ / config.n_fft


def context_db(power: np.ndarray, n_mels: int, n_frames: int) -> np.ndarray:
    """(N, 300, 4, 100) µV²/Hz of the official spectrogram → (N, 4, n_mels, n_frames) dB, with the
    chains, bands, frames and reference that `chains_db` of 600 s would have; −inf where the seconds
    of a region are lost (NaN). Power is averaged over bands, then decibels over time."""
    power = power[:, :, _MEL_ORDER]
    found = np.isfinite(power).all(axis=3, keepdims=True)
    step_hz, step_s = 20 / (n_mels + 1), CONTEXT_S / n_frames
    bands = _triangles(official_frequencies_hz(), step_hz * np.arange(1, n_mels + 1), step_hz)
    frames = _triangles(np.arange(2.0, CONTEXT_S + 1, 2.0), step_s * np.arange(n_frames), step_s)
    # White noise of 1 µV: 1 / 200 µV²/Hz here, n_fft / 200 of the reference in a log-mel's band.
    power = RegionalConfig().n_fft * np.where(found, power, 1) @ bands.T
    db = np.where(found, 10 * np.log10(np.maximum(power, AMIN)), 0)
    total, share = (np.moveaxis(np.tensordot(frames, x, (1, 1)), 0, -1) for x in (db, found))
    return np.where(share > 0.01, total / np.maximum(share, 0.01), -np.inf).astype(np.float32)


def _triangles(positions: np.ndarray, centres: np.ndarray, step: float) -> np.ndarray:
    """(centres, positions) weights of a mean: 1 at a centre, 0 a step away on each side; a step is
    at least that of the positions, so that between two of them the mean is an interpolation."""
    near = np.clip(centres, positions[0], positions[-1])[:, None]
    step = max(step, positions[1] - positions[0])
    weights = np.maximum(0, 1 - np.abs(positions - near) / step)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
