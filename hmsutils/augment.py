"""Augmentation of a batch with soft labels, switched by a config: pure functions of arrays.

A batch is {input name: (N, *shape)} with targets (N, 6). Every function takes arrays and, in
`inputs`, their representations, and returns new float32 arrays; NaN stay NaN. All inputs of one
window get the same flip, shift, gain and MixUp partner. A batch of `BatchPlan`s is taken as well:
only the few numbers of each plan change, and `BatchPlan.render` is one pass for all steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from hmsutils.competition import check_values
from hmsutils.kernels import render
from hmsutils.representations import Representation


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths; 0 switches a step off."""

    flip_hemispheres: float = 0.5  # probability of exchanging the hemispheres
    shift_s: float = 1.0  # largest shift in time
    gain_db: float = 0.0  # standard deviation of the amplitude
    drop_channel: float = 0.1  # probability for a chain of an image, for a channel of a signal
    time_mask: float = 0.1  # largest masked fraction of the time axis
    frequency_mask: float = 0.1  # largest masked fraction of each chain's bands
    drop_context: float = 0.2  # probability that a window's context is absent
    mixup: float = 0.0  # Beta(α, α)
    extra: Mapping[str, float] = field(default_factory=dict, hash=False)  # of steps added to STEPS

    RANGES: ClassVar = dict.fromkeys(("flip_hemispheres", "drop_channel", "time_mask"), (0, 1))
    RANGES |= {"frequency_mask": (0, 1), "drop_context": (0, 1), "shift_s": (0, 25)}
    RANGES |= {"gain_db": (0, 60), "mixup": (0, 99)}
    __post_init__ = check_values


NO_AUGMENTATION = AugmentConfig(**{f.name: 0.0 for f in fields(AugmentConfig) if f.name != "extra"})


@dataclass(eq=False)
class BatchPlan:
    """What is done to N items of H rows (a signal: one), W columns (time) and C channels."""

    x: np.ndarray  # (M, *shape) uint8, int16 or float32
    representation: Representation
    step: np.float32  # value of one unit of `x`
    item: np.ndarray  # (N,) which of the M
    rows: np.ndarray  # (N, H) the row that stands in each one's place; -1: zeros
    channels: np.ndarray  # (N, C) the channel that stands in each one's place
    shift: np.ndarray  # (N, C) columns that a channel is moved to the right; the edge is repeated
    mask: np.ndarray  # (N, 2) first column of a stretch of zeros, first one after it
    offset: np.ndarray  # (N,) is added, then clipped to the limits
    limits: np.ndarray  # (2,)
    gain: np.ndarray  # (N, C) factor of each channel, before they are exchanged
    partner: np.ndarray  # (N,) which of the N is blended with each
    weight: np.ndarray  # (N,) of the item itself in the blend

    @classmethod
    def of(cls, x: np.ndarray, representation: Representation, rows=slice(None)) -> "BatchPlan":
        """`rows` (numbers or a slice) of an array, unchanged; ValueError for a wrong shape."""
        if x.shape[1:] != tuple(representation.shape):
            makes = f"{representation} makes (N, {', '.join(map(str, representation.shape))})"
            problem = f"an array of shape {x.shape}, but {makes}"
            raise ValueError(f"BatchPlan: {problem}; pass what made the array")
        item = np.arange(len(x))[rows]
        step = representation.unit if x.dtype == representation.stored_as else 1.0
        if x.dtype not in (np.uint8, np.int16, np.float32):
            x, item = np.asarray(x[item], np.float32), np.arange(len(item))
        n, (height, _, count) = len(item), (1, *x.shape[1:])[-3:]
        identity = [np.tile(np.arange(k), (n, 1)) for k in (height, count)]
        offset, gain = np.zeros(n, np.float32), np.ones((n, count), np.float32)
        return cls(
            np.asarray(x), representation, np.float32(step), item, *identity,
            np.zeros((n, count), int), np.zeros((n, 2), int),
            offset, np.array([-np.inf, np.inf], np.float32), gain, np.arange(n), offset + 1,
        )  # fmt: skip

    def render(self) -> np.ndarray:
        """(N, *shape) float32."""
        x, _, *numbers = vars(self).values()  # in the order of kernels.render
        out = np.empty((len(self.item), *x.shape[1:]), np.float32)
        lines = (self.rows.shape[1], x.shape[-2] * x.shape[-1])
        x = x.reshape(len(x), *lines)
        x.flags.writeable = False  # one type, compiled once
        render(x, *numbers, out.reshape(len(out), *lines))
        return out


Batch = Mapping[str, np.ndarray | BatchPlan]
Inputs = Mapping[str, Representation]
Rng = np.random.Generator
IN_PLANS: Inputs = MappingProxyType({})  # the batch holds plans, which know their representations


def _plans(batch: Batch, inputs: Inputs) -> dict[str, BatchPlan]:
    """The batch's plans, or new ones of its arrays."""
    arrays = {name: x for name, x in batch.items() if not isinstance(x, BatchPlan)}
    if missing := [name for name in arrays if name not in inputs]:
        problem = f"arrays of {', '.join(batch)}, representations of {', '.join(inputs)}"
        raise ValueError(f"augment: {problem}; pass that of {', '.join(missing)} in `inputs`")
    return {**batch, **{name: BatchPlan.of(x, inputs[name]) for name, x in arrays.items()}}


def _like(batch: Batch, plans: Mapping[str, BatchPlan]) -> Batch:
    """The plans, rendered where the batch held an array."""
    return {k: plan if plan is batch[k] else plan.render() for k, plan in plans.items()}


def augment(
    batch: Batch, target: np.ndarray, config: AugmentConfig, rng: Rng, inputs: Inputs = IN_PLANS
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All steps that `config` switches on, in the order of `STEPS`; ValueError for others."""
    if unknown := sorted(set(config.extra) - set(STEPS)):
        problem = f"`extra` names {', '.join(unknown)}, but STEPS has {', '.join(STEPS)}"
        raise ValueError(f"augment: {problem}; add the function to augment.STEPS")
    plans, strengths = _plans(batch, inputs), {**vars(config), **config.extra}
    inputs = {name: plan.representation for name, plan in plans.items()}
    for name, step in STEPS.items():
        if strengths.get(name):
            if not getattr(step, "edits_plans", False):
                plans = {k: plan.render() for k, plan in plans.items()}
            batch, target = step(plans, target, strengths[name], rng)
            plans = _plans(batch, inputs)
    return {name: plan.render() for name, plan in plans.items()}, target


def flip_hemispheres(batch: Batch, where: np.ndarray, inputs: Inputs = IN_PLANS) -> Batch:
    """Exchange left and right where `where` (N,) is true; labels stay, laterality is no class.
    ValueError if a montage lacks the counterpart of a derivation on the other side."""
    plans = _plans(batch, inputs)
    for plan in plans.values():
        rows, channels = plan.representation.flipped_rows, plan.representation.flipped_channels
        for order, numbers in ((rows, plan.rows), (channels, plan.channels)):
            if order is not None:
                numbers[where] = numbers[where][:, order]
    return _like(batch, plans)


def shift_time(batch: Batch, shifts_s: np.ndarray, inputs: Inputs = IN_PLANS) -> Batch:
    """Move each window later by its shift (N,) in seconds; what enters repeats the edge."""
    plans = _plans(batch, inputs)
    for plan in plans.values():
        plan.shift += np.round(np.outer(shifts_s, plan.representation.columns_per_s)).astype(int)
    return _like(batch, plans)


def scale_amplitude(batch: Batch, gains_db: np.ndarray, inputs: Inputs = IN_PLANS) -> Batch:
    """Amplify each window by its gain (N,) in dB: an offset to decibels, a factor to signals."""
    plans, gains_db = _plans(batch, inputs), np.asarray(gains_db, np.float32)
    for plan in plans.values():
        if limits := plan.representation.decibels:
            plan.offset += gains_db / (limits[1] - limits[0])
            plan.limits[:] = 0, 1
        else:
            plan.gain *= (10 ** (gains_db / 20))[:, None]
    return _like(batch, plans)


def drop_channels(batch: Batch, probability: float, rng: Rng, inputs: Inputs = IN_PLANS) -> Batch:
    """Whole chains of an image, channels of a signal become 0, each with `probability`."""
    plans = _plans(batch, inputs)
    for plan in plans.values():
        if plan.representation.n_chains > 1:
            chains = plan.rows.reshape(len(plan.rows), plan.representation.n_chains, -1)
            chains[rng.random(chains.shape[:2]) < probability] = -1
        else:
            item, place = np.nonzero(rng.random(plan.gain.shape) < probability)
            plan.gain[item, plan.channels[item, place]] = 0  # `gain` is applied before the flip
    return _like(batch, plans)


def mask_time(batch: Batch, max_fraction: float, rng: Rng, inputs: Inputs = IN_PLANS) -> Batch:
    """One stretch of each window's time axis becomes 0, another one in each input (SpecAugment)."""
    plans = _plans(batch, inputs)
    for plan in plans.values():
        plan.mask[:] = _stretch(len(plan.item), plan.x.shape[-2], max_fraction, rng)
    return _like(batch, plans)


def mask_frequency(batch: Batch, max_fraction: float, rng: Rng, inputs: Inputs = IN_PLANS) -> Batch:
    """One stretch of each image's frequencies becomes 0, the same in all chains (SpecAugment)."""
    plans = _plans(batch, inputs)
    for plan in plans.values():
        n_bands = plan.rows.shape[1] // plan.representation.n_chains
        if n_bands > 1:  # a signal has none
            band = np.arange(plan.rows.shape[1]) % n_bands
            stretch = _stretch(len(plan.rows), n_bands, max_fraction, rng)
            plan.rows[(band >= stretch[:, :1]) & (band < stretch[:, 1:])] = -1
    return _like(batch, plans)


def drop_context(batch: Batch, probability: float, rng: Rng, inputs: Inputs = IN_PLANS) -> Batch:
    """The context of whole windows becomes 0, as where it is absent, each with `probability`."""
    plans = _plans(batch, inputs)
    for plan in plans.values():
        if channels := plan.representation.context_channels:
            plan.gain[np.ix_(rng.random(len(plan.gain)) < probability, channels)] = 0
    return _like(batch, plans)


def _stretch(n: int, length: int, max_fraction: float, rng: Rng) -> np.ndarray:
    """(N, 2) one random stretch of `length` each, at most `max_fraction` of it: from, up to."""
    size = rng.uniform(0, max_fraction, (n, 1)) * length
    start = rng.uniform(0, 1, (n, 1)) * (length - size)
    return np.ceil(np.hstack([start, start + size]) - 0.5).astype(int)


def mixup(
    batch: Batch, target: np.ndarray, alpha: float, rng: Rng, inputs: Inputs = IN_PLANS
) -> tuple[Batch, np.ndarray]:
    """Blend every window with another one, inputs and soft labels alike (arXiv:1710.09412)."""
    plans = _plans(batch, inputs)
    weight = rng.beta(alpha, alpha, len(target)).astype(np.float32)
    weight = np.maximum(weight, 1 - weight)  # the window itself dominates
    partner = np.roll(np.arange(len(target)), 1)  # of a shuffled batch; it is in the cache
    for plan in plans.values():
        plan.weight[:], plan.partner[:] = weight, partner
    return _like(batch, plans), weight[:, None] * target + (1 - weight[:, None]) * target[partner]


# Name of the switch → step(batch, target, strength, rng) → (batch, target). Those here get plans;
# a function without the mark `edits_plans` gets arrays.
STEPS: dict[str, Callable] = {
    "flip_hemispheres": lambda x, y, p, rng: (flip_hemispheres(x, rng.random(len(y)) < p), y),
    "shift_s": lambda x, y, max_s, rng: (shift_time(x, rng.uniform(-max_s, max_s, len(y))), y),
    "gain_db": lambda x, y, sd, rng: (scale_amplitude(x, rng.normal(0, sd, len(y))), y),
    "drop_channel": lambda x, y, p, rng: (drop_channels(x, p, rng), y),
    "time_mask": lambda x, y, fraction, rng: (mask_time(x, fraction, rng), y),
    "frequency_mask": lambda x, y, fraction, rng: (mask_frequency(x, fraction, rng), y),
    "drop_context": lambda x, y, p, rng: (drop_context(x, p, rng), y),
    "mixup": mixup,
}
for _step in STEPS.values():
    _step.edits_plans = True
