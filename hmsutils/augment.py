"""Augmentation of a batch with soft labels: pure functions of arrays, switched by a config.

A batch is {"image": (N, H, W, 3) float32 in [0, 1], "eeg": (N, T', P) float32}, with one or both of
them, and targets (N, 6). No function edits its arguments; all draw from the generator they are
given. Image and EEG of one window always get the same hemisphere swap, shift, amplitude and MixUp
partner.
"""

from dataclasses import dataclass

import numpy as np

from hmsutils.files import SFREQ_HZ, WINDOW_S
from hmsutils.signals import CHAINS, WaveNetInputConfig
from hmsutils.spectrograms import MEL_REGIONS, ImageConfig

Batch = dict[str, np.ndarray]
_LEFT = ("LL", "LP", *CHAINS["LL"], *CHAINS["LP"])
_RIGHT = ("RL", "RP", *CHAINS["RL"], *CHAINS["RP"])
_MIRROR = dict(zip(_LEFT + _RIGHT, _RIGHT + _LEFT, strict=True))  # chains and electrodes


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches a step off."""

    swap: float = 0.5  # probability of exchanging the hemispheres
    shift_s: float = 1.0  # largest shift in time
    gain_db: float = 3.0  # standard deviation of the amplitude
    drop_channel: float = 0.1  # probability for a chain of the image, for a derivation of the EEG
    time_mask: float = 0.1  # largest masked share of the image's width, of the EEG's length
    frequency_mask: float = 0.1  # largest masked share of each chain's bands
    mixup: float = 0.2  # Beta(α, α); 0: none
    cutmix: float = 0.0  # probability of a stretch of another window, labels shared by its length


NO_AUGMENTATION = AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def augment(
    batch: Batch,
    target: np.ndarray,
    config: AugmentConfig,
    rng: np.random.Generator,
    image_config: ImageConfig = ImageConfig(),
    eeg_config: WaveNetInputConfig = WaveNetInputConfig(),
) -> tuple[Batch, np.ndarray]:
    """All steps of `config` in order; (batch, target) as described above."""
    n = len(target)
    if config.swap:
        batch = swap_hemispheres(batch, rng.random(n) < config.swap, eeg_config)
    if config.shift_s:
        shifts_s = rng.uniform(-config.shift_s, config.shift_s, n)
        batch = shift_time(batch, shifts_s, image_config, eeg_config)
    if config.gain_db:
        batch = scale_amplitude(batch, rng.normal(0, config.gain_db, n), image_config)
    if config.drop_channel:
        batch = drop_channels(batch, config.drop_channel, rng)
    if config.time_mask:
        batch = mask_time(batch, config.time_mask, rng)
    if config.frequency_mask:
        batch = mask_frequency(batch, config.frequency_mask, rng)
    if config.mixup:
        batch, target = mixup(batch, target, config.mixup, rng)
    if config.cutmix:
        batch, target = cutmix(batch, target, config.cutmix, rng, image_config)
    return batch, target


def swap_hemispheres(
    batch: Batch, swapped: np.ndarray, config: WaveNetInputConfig = WaveNetInputConfig()
) -> Batch:
    """Exchange left and right where `swapped` (N,) is true; laterality is no class, labels stay.

    Raises:
        ValueError: the EEG's montage has a derivation whose mirror image is missing.
    """
    out = dict(batch)
    if "image" in batch:
        mirrored = batch["image"][:, mirrored_rows(batch["image"].shape[1])]
        out["image"] = _choose(swapped, mirrored, batch["image"])
    if "eeg" in batch:
        mirrored = batch["eeg"][:, :, mirrored_derivations(config)]
        out["eeg"] = _choose(swapped, mirrored, batch["eeg"])
    return out


def mirrored_rows(height: int) -> np.ndarray:
    """(H,) which row of an image takes each row's place when the hemispheres are exchanged."""
    chains = [MEL_REGIONS.index(_MIRROR[region]) for region in MEL_REGIONS]
    return np.arange(height).reshape(len(chains), -1)[chains].ravel()


def mirrored_derivations(config: WaveNetInputConfig) -> np.ndarray:
    """(P,) which derivation takes each one's place; see `swap_hemispheres`."""
    pairs = [(_MIRROR.get(a, a), _MIRROR.get(b, b)) for a, b in config.pairs]
    if set(pairs) != set(config.pairs):
        raise ValueError(f"swap_hemispheres: the montage {config.pairs} is not symmetric")
    return np.array([config.pairs.index(pair) for pair in pairs])


def shift_time(
    batch: Batch,
    shifts_s: np.ndarray,
    image_config: ImageConfig = ImageConfig(),
    eeg_config: WaveNetInputConfig = WaveNetInputConfig(),
) -> Batch:
    """Move each window later by its shift (N,) in seconds; what enters repeats the edge."""
    out = dict(batch)
    if "image" in batch:
        width = batch["image"].shape[2]
        zooms = [
            _roll(batch["image"][..., k], np.round(shifts_s * width / span_s), axis=2)
            for k, span_s in enumerate(image_config.spans_s)
        ]
        out["image"] = np.stack(zooms, axis=-1)
    if "eeg" in batch:
        samples = np.round(shifts_s * SFREQ_HZ / eeg_config.decimate)
        out["eeg"] = _roll(batch["eeg"], samples, axis=1)
    return out


def scale_amplitude(
    batch: Batch, gains_db: np.ndarray, config: ImageConfig = ImageConfig()
) -> Batch:
    """Amplify each window by its gain (N,) in dB: an offset in the image, a factor in the EEG."""
    out = dict(batch)
    gains_db = np.asarray(gains_db, np.float32)
    if "image" in batch:
        offset = gains_db / (config.ceiling_db - config.floor_db)
        out["image"] = np.clip(batch["image"] + offset[:, None, None, None], 0, 1)
    if "eeg" in batch:
        out["eeg"] = batch["eeg"] * (10 ** (gains_db / 20))[:, None, None]
    return out


def drop_channels(batch: Batch, probability: float, rng: np.random.Generator) -> Batch:
    """Silence whole chains of the image and derivations of the EEG, each with `probability`."""
    out = dict(batch)
    if "image" in batch:
        bands = _bands(batch["image"])
        kept = rng.random(bands.shape[:2]) >= probability
        out["image"] = (bands * kept[:, :, None, None, None]).reshape(batch["image"].shape)
    if "eeg" in batch:
        kept = rng.random((len(batch["eeg"]), 1, batch["eeg"].shape[2])) >= probability
        out["eeg"] = batch["eeg"] * kept
    return out


def mask_time(batch: Batch, largest_share: float, rng: np.random.Generator) -> Batch:
    """Silence one stretch of each image's columns and one of each EEG (SpecAugment)."""
    out = dict(batch)
    if "image" in batch:
        kept = ~_stretch(len(batch["image"]), batch["image"].shape[2], largest_share, rng)
        out["image"] = batch["image"] * kept[:, None, :, None]
    if "eeg" in batch:
        kept = ~_stretch(len(batch["eeg"]), batch["eeg"].shape[1], largest_share, rng)
        out["eeg"] = batch["eeg"] * kept[:, :, None]
    return out


def mask_frequency(batch: Batch, largest_share: float, rng: np.random.Generator) -> Batch:
    """Silence one stretch of frequencies of each image, the same in all chains (SpecAugment)."""
    if "image" not in batch:
        return dict(batch)
    bands = _bands(batch["image"])
    kept = ~_stretch(len(bands), bands.shape[2], largest_share, rng)
    masked = bands * kept[:, None, :, None, None]
    return {**batch, "image": masked.reshape(batch["image"].shape)}


def mixup(
    batch: Batch, target: np.ndarray, alpha: float, rng: np.random.Generator
) -> tuple[Batch, np.ndarray]:
    """Blend every window with another one, inputs and soft labels alike (arXiv:1710.09412)."""
    n = len(target)
    share = rng.beta(alpha, alpha, n).astype(np.float32)
    share = np.maximum(share, 1 - share)  # the window itself dominates
    partner = rng.permutation(n)

    def blend(x: np.ndarray) -> np.ndarray:
        weight = share.reshape(-1, *[1] * (x.ndim - 1))
        return weight * x + (1 - weight) * x[partner]

    return {key: blend(x) for key, x in batch.items()}, blend(target)


def cutmix(
    batch: Batch,
    target: np.ndarray,
    probability: float,
    rng: np.random.Generator,
    image_config: ImageConfig = ImageConfig(),
) -> tuple[Batch, np.ndarray]:
    """Replace one stretch of time by another window's, in image and EEG alike; the soft labels are
    shared by its part of the central 10 s, which is what they describe (after arXiv:1905.04899)."""
    n, half_s = len(target), WINDOW_S / 2
    length_s = rng.uniform(0, half_s, (n, 1)) * (rng.random((n, 1)) < probability)
    start_s = rng.uniform(-half_s, half_s - length_s)
    partner = rng.permutation(n)

    def inside(count: int, span_s: float) -> np.ndarray:
        """(N, count) flags of the stretch among `count` steps of the central `span_s`."""
        time_s = ((np.arange(count) + 0.5) / count - 0.5) * span_s
        return (time_s >= start_s) & (time_s < start_s + length_s)

    out = dict(batch)
    if "image" in batch:
        width, spans_s = batch["image"].shape[2], image_config.spans_s
        other = np.stack([inside(width, span_s) for span_s in spans_s], axis=-1)[:, None]
        out["image"] = np.where(other, batch["image"][partner], batch["image"])
    if "eeg" in batch:
        other = inside(batch["eeg"].shape[1], WINDOW_S)[:, :, None]
        out["eeg"] = np.where(other, batch["eeg"][partner], batch["eeg"])
    share = inside(100, 10.0).mean(axis=1, keepdims=True).astype(target.dtype)
    return out, (1 - share) * target + share * target[partner]


def _bands(image: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) → (N, 4 chains, H / 4, W, 3), a view."""
    return image.reshape(len(image), len(MEL_REGIONS), -1, *image.shape[2:])


def _choose(where: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return np.where(np.reshape(where, (-1, *[1] * (no.ndim - 1))), yes, no)


def _roll(x: np.ndarray, shifts: np.ndarray, axis: int) -> np.ndarray:
    """Shift each sample by its own whole number along `axis`, repeating the edge."""
    index = np.arange(x.shape[axis]) - np.asarray(shifts, int)[:, None]
    index = np.clip(index, 0, x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[0], shape[axis] = index.shape
    return np.take_along_axis(x, index.reshape(shape), axis=axis)


def _stretch(n: int, length: int, largest_share: float, rng: np.random.Generator) -> np.ndarray:
    """(N, length) flags of one random stretch per row, at most `largest_share` long."""
    size = rng.uniform(0, largest_share, (n, 1)) * length
    start = rng.uniform(0, 1, (n, 1)) * (length - size)
    position = np.arange(length) + 0.5
    return (position >= start) & (position < start + size)
