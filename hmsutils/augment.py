"""Augmentation of a batch with soft labels: pure functions of arrays, switched by a config.

A batch is {"image": (N, H, W, 3) in [0, 1], "eeg": (N, T', P)}, with one or both of them, and
targets (N, 6); what comes out is float32. No function edits its arguments; all draw from the
generator they are given. Image and EEG of one window always get the same hemisphere swap, shift,
amplitude and MixUp partner. NaN stays NaN.

A step changes no values: it edits the few numbers of a `View`, which then makes one pass over the
values, however many steps there were. Every step takes a batch of arrays or one of views.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

import numpy as np

from hmsutils.files import SFREQ_HZ
from hmsutils.signals import CHAINS, WaveNetInputConfig
from hmsutils.spectrograms import MEL_REGIONS, ImageConfig

Batch = dict[str, np.ndarray]
_LEFT = ("LL", "LP", *CHAINS["LL"], *CHAINS["LP"])
_RIGHT = ("RL", "RP", *CHAINS["RL"], *CHAINS["RP"])
_MIRROR = dict(zip(_LEFT + _RIGHT, _RIGHT + _LEFT, strict=True))  # chains and electrodes


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches a step off: so is by default what cost KL in benchmarks/ablation.py."""

    swap: float = 0.5  # probability of exchanging the hemispheres
    shift_s: float = 1.0  # largest shift in time
    gain_db: float = 0.0  # standard deviation of the amplitude
    drop_channel: float = 0.1  # probability for a chain of the image, for a derivation of the EEG
    time_mask: float = 0.1  # largest masked share of the image's width, of the EEG's length
    frequency_mask: float = 0.1  # largest masked share of each chain's bands
    mixup: float = 0.0  # Beta(α, α); 0: none


NO_AUGMENTATION = AugmentConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(eq=False)
class View:
    """Rows of an array as the steps show them: N windows of H rows, W columns and C channels.

    An EEG is an image of one row, whose columns are its samples. The fields are what `kernels.show`
    takes, in its order.
    """

    x: np.ndarray  # (M, H, W, C) or (M, W, C), float16 or float32
    item: np.ndarray  # (N,) which of the M
    rows: np.ndarray  # (N, H) the row that is shown in each one's place; -1: silence
    channels: np.ndarray  # (N, C) the channel in the place of each
    shift: np.ndarray  # (N, C) columns that a channel is moved to the right; the edge is repeated
    silent: np.ndarray  # (N, 2) first column of a silent stretch, first one after it
    offset: np.ndarray  # (N,) is added, then clipped to the limits
    limits: np.ndarray  # (2,)
    gain: np.ndarray  # (N, C) factor
    partner: np.ndarray  # (N,) which of the N is blended with each
    share: np.ndarray  # (N,) of the window itself in the blend

    @classmethod
    def of(cls, x: np.ndarray, rows: np.ndarray | slice = slice(None)) -> "View":
        """`rows` of an array as they are."""
        x = np.asarray(x, None if x.dtype == np.float16 else np.float32)
        item = np.arange(len(x))[rows]
        n, count = len(item), x.shape[-1]
        own = [np.tile(np.arange(k), (n, 1)) for k in (x.shape[1] if x.ndim == 4 else 1, count)]
        offset, gain = np.zeros(n, np.float32), np.ones((n, count), np.float32)
        return cls(
            x, item, *own, np.zeros((n, count), int), np.zeros((n, 2), int),
            offset, np.array([-np.inf, np.inf], np.float32), gain, np.arange(n), offset + 1,
        )  # fmt: skip

    def array(self, empty: Callable[..., np.ndarray] = np.empty) -> np.ndarray:
        """(N, …) float32, in memory that `empty(shape, dtype)` gives."""
        out = empty((len(self.item), *self.x.shape[1:]), np.float32)
        try:
            from hmsutils.kernels import show
        except ImportError:  # no numba
            out[:] = self._blended().reshape(out.shape)
            return out
        x = self.x.view(np.uint16 if self.x.dtype == np.float16 else np.float32)
        x.flags.writeable = False  # one type, compiled once
        _, *numbers = vars(self).values()
        lines = (self.rows.shape[1], x.shape[-2] * x.shape[-1])
        show(x.reshape(len(x), *lines), *numbers, out.reshape(len(out), *lines))
        return out

    def _blended(self) -> np.ndarray:
        """(N, H, W, C): what `kernels.show` computes."""
        x = self.x[self.item].astype(np.float32)
        x = x.reshape(len(x), -1, *x.shape[-2:])
        x = np.take_along_axis(x, self.rows[:, :, None, None], axis=1)
        x = np.take_along_axis(x, self.channels[:, None, None], axis=3)
        x = np.clip(x + self.offset[:, None, None, None], *self.limits) * self.gain[:, None, None]
        position = np.arange(x.shape[2])
        columns = np.clip(position[:, None] - self.shift[:, None], 0, len(position) - 1)
        x = np.take_along_axis(x, columns[:, None], axis=2)
        silent = (position >= self.silent[:, :1]) & (position < self.silent[:, 1:])
        x = np.where((self.rows < 0)[:, :, None, None] | silent[:, None, :, None], 0, x)
        share = self.share[:, None, None, None]
        return share * x + (1 - share) * x[self.partner]


def _step(plan: Callable) -> Callable:
    """`plan` edits views, and returns targets if it blends them: a step of arrays, or of views."""

    @wraps(plan)
    def step(batch, *args, **options):
        made = {k: x if isinstance(x, View) else View.of(x) for k, x in batch.items()}
        target = plan(made, *args, **options)
        out = {k: made[k] if made[k] is x else made[k].array() for k, x in batch.items()}
        return out if target is None else (out, target)

    return step


@_step
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
        swap_hemispheres(batch, rng.random(n) < config.swap, eeg_config)
    if config.shift_s:
        shifts_s = rng.uniform(-config.shift_s, config.shift_s, n)
        shift_time(batch, shifts_s, image_config, eeg_config)
    if config.gain_db:
        scale_amplitude(batch, rng.normal(0, config.gain_db, n), image_config)
    if config.drop_channel:
        drop_channels(batch, config.drop_channel, rng)
    if config.time_mask:
        mask_time(batch, config.time_mask, rng)
    if config.frequency_mask:
        mask_frequency(batch, config.frequency_mask, rng)
    if config.mixup:
        _, target = mixup(batch, target, config.mixup, rng)
    return target


@_step
def swap_hemispheres(
    batch: Batch, swapped: np.ndarray, config: WaveNetInputConfig = WaveNetInputConfig()
) -> Batch:
    """Exchange left and right where `swapped` (N,) is true; laterality is no class, labels stay.

    Raises:
        ValueError: the EEG's montage has a derivation whose mirror image is missing.
    """
    if "image" in batch:
        rows = batch["image"].rows
        rows[swapped] = mirrored_rows(rows.shape[1])
    if "eeg" in batch:
        batch["eeg"].channels[swapped] = mirrored_derivations(config)


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


@_step
def shift_time(
    batch: Batch,
    shifts_s: np.ndarray,
    image_config: ImageConfig = ImageConfig(),
    eeg_config: WaveNetInputConfig = WaveNetInputConfig(),
) -> Batch:
    """Move each window later by its shift (N,) in seconds; what enters repeats the edge."""
    shifts_s = np.asarray(shifts_s)[:, None]
    if "image" in batch:
        image = batch["image"]
        image.shift[:] = np.round(shifts_s * image.x.shape[2] / np.array(image_config.spans_s))
    if "eeg" in batch:
        batch["eeg"].shift[:] = np.round(shifts_s * SFREQ_HZ / eeg_config.decimate)


@_step
def scale_amplitude(
    batch: Batch, gains_db: np.ndarray, config: ImageConfig = ImageConfig()
) -> Batch:
    """Amplify each window by its gain (N,) in dB: an offset in the image, a factor in the EEG."""
    gains_db = np.asarray(gains_db, np.float32)
    if "image" in batch:
        batch["image"].offset[:] = gains_db / (config.ceiling_db - config.floor_db)
        batch["image"].limits[:] = 0, 1
    if "eeg" in batch:
        batch["eeg"].gain *= (10 ** (gains_db / 20))[:, None]


@_step
def drop_channels(batch: Batch, probability: float, rng: np.random.Generator) -> Batch:
    """Silence whole chains of the image and derivations of the EEG, each with `probability`."""
    if "image" in batch:
        rows = batch["image"].rows.reshape(-1, len(MEL_REGIONS), batch["image"].x.shape[1] // 4)
        rows[rng.random(rows.shape[:2]) < probability] = -1
    if "eeg" in batch:
        gain = batch["eeg"].gain
        gain[rng.random(gain.shape) < probability] = 0


@_step
def mask_time(batch: Batch, largest_share: float, rng: np.random.Generator) -> Batch:
    """Silence one stretch of each image's columns and one of each EEG (SpecAugment)."""
    for view in batch.values():
        view.silent[:] = _stretch(len(view.item), view.x.shape[-2], largest_share, rng)


@_step
def mask_frequency(batch: Batch, largest_share: float, rng: np.random.Generator) -> Batch:
    """Silence one stretch of frequencies of each image, the same in all chains (SpecAugment)."""
    if "image" in batch:
        rows = batch["image"].rows
        band = np.arange(rows.shape[1]) % (rows.shape[1] // len(MEL_REGIONS))
        stretch = _stretch(len(rows), rows.shape[1] // len(MEL_REGIONS), largest_share, rng)
        rows[(band >= stretch[:, :1]) & (band < stretch[:, 1:])] = -1


@_step
def mixup(
    batch: Batch, target: np.ndarray, alpha: float, rng: np.random.Generator
) -> tuple[Batch, np.ndarray]:
    """Blend every window with another one, inputs and soft labels alike (arXiv:1710.09412)."""
    share = rng.beta(alpha, alpha, len(target)).astype(np.float32)
    share = np.maximum(share, 1 - share)  # the window itself dominates
    partner = np.roll(np.arange(len(target)), 1)  # of a shuffled batch; it is in the cache
    for view in batch.values():
        view.share[:], view.partner[:] = share, partner
    return share[:, None] * target + (1 - share[:, None]) * target[partner]


def _stretch(n: int, length: int, largest_share: float, rng: np.random.Generator) -> np.ndarray:
    """(N, 2) one random stretch of `length` each, at most `largest_share` long: from, up to."""
    size = rng.uniform(0, largest_share, (n, 1)) * length
    start = rng.uniform(0, 1, (n, 1)) * (length - size)
    return np.ceil(np.hstack([start, start + size]) - 0.5).astype(int)
