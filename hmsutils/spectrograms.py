"""Raw EEG → spectrograms: log-mel of 50 s, the official 10-minute multitaper, the models' images.

A short-time Fourier transform of a few bins is a matrix product: a basis (bins, window) times
frames (window, frames). It is exact, and faster than an FFT that computes bins nobody looks at; the
more so as a short window's bins up to 20 Hz are combinations of a few numbers: the basis factors.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse
from scipy.signal import get_window, windows
from threadpoolctl import threadpool_limits

from hmsutils.files import SFREQ_HZ
from hmsutils.signals import CHAIN_PAIRS, as_windows, bandpass, electrode_rows, repair

MEL_REGIONS = ("LL", "LP", "RP", "RL")  # (128, 256, 4) of the mel image: RL is last there
OFFICIAL_REGIONS = ("LL", "RL", "LP", "RP")
AMIN = 1e-10  # librosa.power_to_db
_TOP_DB = 80.0
_RANK_TOLERANCE = 2e-7  # of a factor's largest singular value


@dataclass(frozen=True)
class MelConfig:
    """A log-mel spectrogram of the four bipolar chains; the defaults are the public recipe."""

    n_mels: int = 128
    f_max_hz: float = 20.0
    frames: int = 256
    window: int = 128  # samples of the Hann window, an even number
    n_fft: int = 1024
    span_s: float | None = None  # only the central seconds; None: all
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


@dataclass(frozen=True)
class ImageConfig:
    """What the backbones see: (4 · n_mels, frames, 3) in [0, 1].

    Each channel is one zoom on the centre of the recording, `spans_s` seconds wide, with the chains
    LL, LP, RP, RL on top of each other. Power is in dB of a fixed reference, so that amplitude
    survives; `floor_db … ceiling_db` become 0 … 1.
    """

    n_mels: int = 32
    frames: int = 256
    spans_s: tuple[float, float, float] = (50.0, 25.0, 10.0)
    windows: tuple[int, int, int] = (512, 256, 64)
    bandpass_hz: tuple[float, float] = (0.5, 40.0)
    floor_db: float = 0.0
    ceiling_db: float = 60.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of one image."""
        return (len(MEL_REGIONS) * self.n_mels, self.frames, len(self.spans_s))


def _frames(x: np.ndarray, window: int, hop: int) -> np.ndarray:
    """(..., T) → (..., frames, window), a strided view of every window that lies fully inside."""
    return np.lib.stride_tricks.sliding_window_view(x, window, axis=-1)[..., ::hop, :]


@lru_cache
@threadpool_limits.wrap(limits=1)  # the same rounding in every process
def mel_matrices(config: MelConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, sparse.csr_array]:
    """A window's Hann-weighted cosines and sines, factored, and the mel bands.

    Returns:
        (2 · rank, window) float32 to project a window; (bins, rank) that make its cosine and its
        sine coefficients of the projections; (n_mels, bins) weights of the power.
    """
    import librosa

    mel = librosa.filters.mel(
        sr=SFREQ_HZ, n_fft=config.n_fft, n_mels=config.n_mels, fmin=0.0, fmax=config.f_max_hz
    )
    bins = np.flatnonzero(mel.any(axis=0))
    # Phases relative to the window's middle: cosines are even there, sines odd, both of low rank.
    angle = 2 * np.pi / config.n_fft * np.outer(np.arange(config.window) - config.window // 2, bins)
    hann = get_window("hann", config.window, fftbins=True)[:, None]
    factors = [np.linalg.svd(f(angle) * hann, full_matrices=False) for f in (np.cos, np.sin)]
    rank = max(int((size > _RANK_TOLERANCE * size[0]).sum()) for _, size, _ in factors)
    project = np.concatenate([(u[:, :rank] * size[:rank]).T for u, size, _ in factors])
    cosines, sines = (v[:rank].T.astype(np.float32) for _, _, v in factors)
    return project.astype(np.float32), cosines, sines, sparse.csr_array(mel[:, bins])


def log_mel(eeg_uv: np.ndarray, config: MelConfig = MelConfig()) -> np.ndarray:
    """Log-mel spectrogram of the four bipolar chains: transform first, average after.

    Nothing is filtered or repaired here. NaN in a derivation become its mean, or 0 where all is
    NaN.

    Args:
        eeg_uv: (N, T, 20) microvolts at 200 Hz; (10000, 20) is one window of 50 s.

    Returns:
        (N, n_mels, frames, 4) float32, chains LL, LP, RP, RL. With the default
        `reference_uv2=None`, (dB below each derivation's maximum + 40) / 40, equal to librosa's
        `melspectrogram` and `power_to_db(ref=max)`; else dB of `reference_uv2`.

    Raises:
        ValueError: not 20 columns, or fewer samples than frames.

    Source: the public 50 s recipe; hop = samples // frames, n_fft 1024, Hann window of 128.
    """
    x = as_windows(eeg_uv, "log_mel")
    if config.span_s is not None:
        keep = round(config.span_s * SFREQ_HZ)
        start = max(0, (x.shape[1] - keep) // 2)
        x = x[:, start : start + keep]
    if x.shape[1] < config.frames:
        raise ValueError(
            f"log_mel: {x.shape[1]} samples cannot give {config.frames} frames; "
            f"pass more EEG or ask for fewer frames"
        )
    out = np.empty((len(x), len(MEL_REGIONS), config.n_mels, config.frames), np.float32)
    for eeg, db in zip(x, out, strict=True):
        _chains_db(_fill_with_mean(_derivations(eeg, MEL_REGIONS)), config, db)
    if config.reference_uv2 is None:
        out += 40
        out /= 40
    return np.moveaxis(out, 1, -1)


def _derivations(eeg: np.ndarray, regions: Sequence[str]) -> np.ndarray:
    """(T, 20) → the (4 · regions, T) derivations of chains, one after the other."""
    pairs = [pair for region in regions for pair in CHAIN_PAIRS[region]]
    electrodes, x = np.ascontiguousarray(eeg.T), np.empty((len(pairs), len(eeg)), np.float32)
    for row, plus, minus in zip(x, *electrode_rows(pairs), strict=True):
        np.subtract(electrodes[plus], electrodes[minus], out=row)
    return x


def _chains_db(x: np.ndarray, config: MelConfig, out: np.ndarray) -> None:
    """(S, T) derivations → `out` (chains, n_mels, frames): dB of each, then the mean of a chain."""
    hop, reference = x.shape[1] // config.frames, config.reference_uv2 or 0.0
    try:
        from hmsutils.kernels import mel_db
    except ImportError:  # no numba
        out[:] = 0
        for i, power in enumerate(_mel_powers(x, hop, config)):
            out[i * len(out) // len(x)] += _db(power, reference)
        out *= len(out) / len(x)
    else:
        project, cosines, sines, mel = mel_matrices(config)
        bands = mel.indptr, mel.indices, mel.data
        mel_db(x, hop, project, cosines, sines, *bands, reference, out)


def _mel_powers(x: np.ndarray, hop: int, config: MelConfig) -> Iterator[np.ndarray]:
    """(S, T) signals → (n_mels, frames) power of each; frames centred, zeros beyond the ends.

    Arrays are made once: touching new memory would take longer than the arithmetic.
    """
    project, cosines, sines, mel = mel_matrices(config)
    rank, half = cosines.shape[1], config.window // 2
    padded = np.zeros(x.shape[1] + 2 * half, np.float32)
    frames = _frames(padded, config.window, hop)[: config.frames]
    together = np.empty(frames.shape, np.float32)
    low = np.empty((2 * rank, len(frames)), np.float32)
    power, sine = np.empty((2, len(cosines), len(frames)), np.float32)
    for signal in x:
        padded[half : half + len(signal)] = signal
        np.copyto(together, frames)
        np.matmul(project, together.T, out=low)
        np.matmul(cosines, low[:rank], out=power)
        np.matmul(sines, low[rank:], out=sine)
        np.square(power, out=power)
        power += np.square(sine, out=sine)
        yield mel @ power


def _db(power: np.ndarray, reference: float) -> np.ndarray:
    """dB of `reference`, or 0: of the largest, down to `_TOP_DB` below it; written over `power`."""
    top = reference or max(power.max(), AMIN)
    floor = AMIN if reference else max(top * 10 ** (-_TOP_DB / 10), AMIN)
    np.log(np.maximum(power, np.float32(floor), out=power), out=power)
    power *= np.float32(10 / np.log(10))
    power -= np.float32(10 * np.log10(top))
    return power


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
    """Detrending, tapers and DFT of a window as a product of two matrices.

    Windows overlap, so each is cut into pieces of a step, which neighbours share; where the step
    does not divide the window, the piece is the window.

    Returns:
        (piece, rank) float32 to project a piece; (pieces · rank, n_tapers · 2 · bins) from the
        projections of a window's pieces to its cosine and sine coefficients under every taper.
    """
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

    Args:
        eeg_uv: (N, T, 20) or (T, 20) microvolts at 200 Hz. NaN count as 0 µV.

    Returns:
        (N, W, 4, 100) float32 µV²/Hz, two-sided; W windows of 4 s that lie fully inside, starting
        at 0, 2, 4 … s; regions LL, RL, LP, RP; bins 0.59 … 19.92 Hz.

    Raises:
        ValueError: not 20 columns, or less than one window of EEG.

    Source: recomputed from the competition's own files; TW 2, three DPSS tapers, linear detrend.
    """
    x = np.nan_to_num(as_windows(eeg_uv, "regional_multitaper"), nan=0.0)
    n, step = round(config.window_s * SFREQ_HZ), round(config.step_s * SFREQ_HZ)
    if x.shape[1] < n:
        raise ValueError(
            f"regional_multitaper: {x.shape[1]} samples, wanted at least {n} ({config.window_s} s)"
        )
    if config.bandpass_hz is not None:
        x = bandpass(x, *config.bandpass_hz)
    project, expand = _multitaper_matrices(config)
    pieces, n_bins = len(expand) // project.shape[1], expand.shape[1] // (2 * config.n_tapers)
    n_windows = (x.shape[1] - n) // step + 1
    out = np.empty((len(x), n_windows, len(OFFICIAL_REGIONS), n_bins), np.float32)
    for i, eeg in enumerate(x):
        chains = _derivations(eeg, OFFICIAL_REGIONS).reshape(len(OFFICIAL_REGIONS), -1, len(eeg))
        for k, derivations in enumerate(chains):
            cut = _frames(derivations, len(project), step)
            low = np.matmul(cut, project)  # (4, pieces in all, rank)
            low = np.concatenate([low[:, p : p + n_windows] for p in range(pieces)], axis=-1)
            power = np.square(low @ expand).reshape(4, n_windows, -1, n_bins)
            out[i, :, k] = power.sum(axis=(0, 2)) / (4 * config.n_tapers)
    return out


def official_frequencies_hz(config: RegionalConfig = RegionalConfig()) -> np.ndarray:
    """(100,) frequencies of the regional spectrogram's bins; its columns are named after them."""
    return np.arange(*config.bins) * SFREQ_HZ / config.n_fft


def zooms(config: ImageConfig) -> list[MelConfig]:
    """The spectrograms that are an image's channels; 0 dB is white noise of 1 µV, Σ Hann² µV²."""
    return [
        MelConfig(config.n_mels, 20.0, config.frames, window, 1024, span_s, window * 0.375)
        for span_s, window in zip(config.spans_s, config.windows, strict=True)
    ]


def image(
    eeg_uv: np.ndarray, config: ImageConfig = ImageConfig(), *, repaired: bool = False
) -> np.ndarray:
    """Raw EEG → the images of the backbones.

    Args:
        eeg_uv: (N, 10000, 20) raw microvolts at 200 Hz, NaN allowed (see `signals.repair`).
        repaired: that has been done.

    Returns:
        (N, 4 · n_mels, frames, 3) float32 in [0, 1], no NaN; low frequencies at the bottom of each
        of the four bands LL, LP, RP, RL; channels are the zooms `spans_s` on the centre.
    """
    x = as_windows(eeg_uv, "image")
    x = bandpass(x if repaired else repair(x), *config.bandpass_hz)
    channels = []
    for zoom in zooms(config):
        flipped = np.moveaxis(log_mel(x, zoom)[:, ::-1], -1, 1)  # (N, 4, n_mels, frames)
        channels.append(flipped.reshape(len(x), -1, config.frames))
    db = np.stack(channels, axis=-1)
    return np.clip((db - config.floor_db) / (config.ceiling_db - config.floor_db), 0, 1)
