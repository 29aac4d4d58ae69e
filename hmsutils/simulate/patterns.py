"""The five patterns, from one family of waves: lateralised or generalised, discharges or rhythm,
steady or evolving (ACNS critical-care terminology 2021)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from hmsutils.competition import CLASSES, SFREQ_HZ
from hmsutils.signals import ELECTRODE_XYZ
from hmsutils.simulate import waves
from hmsutils.simulate.domains import STANDARD, Domain, Patient, Range
from hmsutils.simulate.waves import FRONT, MIRROR, UP, normalize_field, sample_lognormal, slow_noise


@dataclass(frozen=True)
class PatternStats:
    """Expert measurements of one pattern."""

    rate_hz: Range
    interval_cv: Range
    sides: tuple[float, float, float]  # shares of left, right, both sides
    amplitude_uv: Range  # in the bipolar derivation where it is largest


PATTERNS = {
    "Seizure": PatternStats((3.0, 4.5, 8.0), (0.03, 0.08, 0.15), (0.35, 0.3, 0.35), (60, 120, 220)),
    "LPD": PatternStats((0.5, 1.0, 1.75), (0.11, 0.21, 0.39), (0.60, 0.35, 0.05), (60, 120, 240)),
    "GPD": PatternStats((0.75, 1.25, 2.0), (0.12, 0.25, 0.56), (0.01, 0.01, 0.98), (55, 100, 200)),
    "LRDA": PatternStats((0.75, 1.33, 2.0), (0.03, 0.11, 0.17), (0.62, 0.28, 0.10), (50, 90, 150)),
    "GRDA": PatternStats((0.75, 1.3, 2.0), (0.03, 0.11, 0.17), (0.05, 0.04, 0.91), (50, 90, 150)),
}

# Kinds of seizures: Hz at the start, at the end, sharpness at the start, at the end, and how often
# they become general. "clonic" is tonic first, "ramp" begins with periodic discharges, "arch"
# becomes faster, then slower again.
SEIZURES = {
    "alpha": ((9.5, 13), (6, 10.5), (0, 0.3), (0, 0.6), 0.2),
    "clonic": ((7, 12), (1.5, 3), (0, 0.2), (0.7, 1), 0.8),
    "fast": ((14, 24), (4, 9), (0, 0.2), (0, 1), 0.5),
    "ramp": ((1, 2.2), (3, 6), (0.6, 1), (0, 1), 0.3),
    "arch": ((2, 4), (5, 8), (0, 0.6), (0.2, 0.8), 0.3),
}


def simulate_pattern(
    soft_label: Sequence[float], n: int, patient: Patient, rng: Generator, domain: Domain = STANDARD
) -> np.ndarray:
    """The pattern that raters with this soft label look at, without background: (n, 19) microvolts
    at 200 Hz, over which a seizure evolves once.
    `soft_label` is the (6,) probability that a rater names each class; not all of it "Other". A
    tied one gives a wave in between, or both patterns (`Domain.mixtures`); votes for "Other" make
    it less regular. `patient` is from `recording.sample_patient`."""
    shares, clarity = np.asarray(soft_label[:-1]) / sum(soft_label[:-1]), 1 - soft_label[-1]
    if np.sort(shares)[-2] > 0.25 and rng.random() < domain.mixtures:  # both patterns, each whole
        pair = np.argsort(shares)[-2:]
        whole = [np.eye(6)[k] * clarity + np.eye(6)[-1] * soft_label[-1] for k in pair]
        return sum(
            np.sqrt(shares[k] / shares[pair[1]]) * simulate_pattern(label, n, patient, rng, domain)
            for k, label in zip(pair, whole, strict=True)
        )
    stats, kind = PATTERNS[CLASSES[int(np.argmax(shares))]], str(rng.choice(domain.seizures))
    _, _, sharp, _ = layout = _layout(shares, kind, patient, rng)
    size_uv = sample_lognormal(rng, *stats.amplitude_uv) * patient["pattern_gain"]
    cv = sample_lognormal(rng, *stats.interval_cv) * (1 + 1.5 * (1 - clarity))
    mean_hz = sample_lognormal(rng, *stats.rate_hz)
    rate_hz, envelope, progress = evolution(mean_hz, shares[0], kind, n, rng)
    if clarity < 0.75 and rng.random() < domain.bouts:
        bouts = slow_noise(n, rng.uniform(0.1, 0.3), rng) + 2 * clarity - 0.5
        envelope = envelope * np.clip(2 * bouts, 0.05, 1)
    discharge, rhythm = waves.FAMILIES[domain.waves]
    template, spreads = discharge(rng, patient["duration"]), False
    if kind in SEIZURES and progress.any():  # its waves change their shape
        *_, first, last, p_general = SEIZURES[kind]
        sharp = rng.uniform(*first) * (1 - progress) + rng.uniform(*last) * progress
        spreads = rng.random() < p_general

    def course() -> np.ndarray:
        phase, starts = waves.cycles(rate_hz, cv, rng)
        discharges = waves.convolve_events(n, starts, rng.normal(1, 0.12, len(starts)), template)
        return size_uv * envelope * ((1 - sharp) * rhythm(phase, rng) + sharp * discharges)

    return _over_scalp(course, progress, layout, spreads, rng)


def _layout(shares: np.ndarray, kind: str, patient: Patient, rng: Generator):
    """Side (-1 left, +1 right), whether both, how sharp and how general (0 … 1) a pattern is."""
    _, lpd, gpd, lrda, grda = shares
    name = CLASSES[int(np.argmax(shares))]
    left, right, both = PATTERNS[name].sides
    left, right = left * patient["left"], right * (1 - patient["left"])
    side = 1 if rng.random() < right / (left + right) else -1
    bilateral = rng.random() < both
    if name == "Seizure":
        sharp = rng.uniform(0.6, 1) if kind == "spike-wave" else rng.uniform()
        general = float(bilateral or (kind == "spike-wave" and rng.random() < 0.7))
        return side, bilateral, sharp, general

    def balance(a: float, b: float) -> float:  # 0 where b has the votes, 1 where a has them
        return float(np.clip((a / max(a + b, 1e-9) - 0.25) * 2, 0, 1))

    sharp, general = balance(lpd + gpd, lrda + grda), balance(gpd + grda, lpd + lrda)
    return side, bilateral, sharp, general * (1.0 if bilateral or name.startswith("L") else 0.6)


def evolution(mean_hz: float, seizure: float, kind: str, n: int, rng: Generator):
    """(n,) rate in Hz, envelope and progress 0 … 1. Seizures move by 1–4 Hz and grow two- to
    fourfold; a pattern with less than 35 % of its votes for `seizure` is steady, of progress 0.
    `kind` of seizure: "drift" up or down, "slowing" from a fast low rhythm, "steps" from one rate
    to the next, "spike-wave" of nearly one rate, or one of `SEIZURES`."""
    if seizure < 0.35:
        steady = mean_hz + seizure * rng.uniform(0, 1.5) + 0.03 * mean_hz * slow_noise(n, 0.1, rng)
        return steady.clip(0.2), (1 + 0.15 * slow_noise(n, 0.1, rng)).clip(0.2), np.zeros(n)
    start_hz, progress = mean_hz, np.linspace(0, 1, n)
    end_hz = np.clip(start_hz + rng.choice([-1, -1, 1]) * rng.uniform(1, 4), 2.0, 11.0)
    if kind == "slowing":
        start_hz, end_hz, progress = rng.uniform(8, 14), rng.uniform(2, 4), np.sqrt(progress)
    elif kind == "steps":
        n_steps = rng.integers(2, 5)
        progress = np.round(progress * n_steps) / n_steps
    elif kind == "spike-wave":
        start_hz = rng.uniform(2.6, 4.0)
        end_hz = start_hz - rng.uniform(0, 0.8)
    elif kind in SEIZURES:
        start_hz, end_hz = (rng.uniform(*limits) for limits in SEIZURES[kind][:2])
        progress = np.sin(np.pi * progress) if kind == "arch" else progress ** rng.uniform(0.3, 0.7)
    rate_hz = start_hz + (end_hz - start_hz) * progress + 0.15 * slow_noise(n, 0.1, rng)
    growth = np.clip(np.linspace(0, 1, n) * rng.uniform(1.5, 5.0), 0, 1)
    return rate_hz.clip(1.0), 1 / rng.uniform(2, 4) * (1 - growth) + growth, progress


def _over_scalp(course: Callable, progress: np.ndarray, layout: tuple, spreads: bool, rng):
    """(n, 19) microvolts of a pattern; every call of `course` gives another (n,) time course. With
    progress the field of a seizure moves and widens, or `spreads` over the whole scalp."""
    side, bilateral, sharp, general = layout

    def potentials(focus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        width = (1 - general) * rng.uniform(0.35, 0.65) + general * rng.uniform(0.65, 1.1)
        tilt = rng.normal(0, 0.3, 3)
        return waves.field(focus, width, tilt), waves.field(focus * MIRROR, width, tilt * MIRROR)

    focus = waves.sample_focus(side, rng) + general * rng.uniform(0.2, 1.2) * (FRONT + 0.5 * UP)
    here, there = potentials(focus)
    if general < 0.5 and bilateral:  # two foci, each with its own clock
        return waves.spread(course(), here) + waves.spread(course(), there)
    mirrored = (1 - general) * rng.uniform(0, 0.5) + general * rng.uniform(0.8, 1.0)
    start = normalize_field(here + mirrored * there)
    if progress.any():
        other = normalize_field(sum(potentials(waves.sample_focus(side, rng))))
        other = 2 * waves.field(FRONT + UP, 1.0) if spreads else other
        wide, wave = normalize_field(start + other), course()
        return waves.spread(wave * (1 - progress), start) + waves.spread(wave * progress, wide)
    travels = general * sharp > 0.5 and rng.random() < 0.3
    return _travelling(course(), start, rng.uniform(0.025, 0.14) if travels else 0.0)


def _travelling(course: np.ndarray, potential: np.ndarray, lag_s: float) -> np.ndarray:
    """(T, 19): a time course over the scalp, `lag_s` later at the back than at the front."""
    delays = np.round((1 - ELECTRODE_XYZ[:, 1]) / 2 * lag_s * SFREQ_HZ).astype(int)
    if not delays.any():
        return waves.spread(course, potential)
    later = {d: np.concatenate([np.zeros(d), course[: len(course) - d]]) for d in set(delays)}
    return np.array([later[d] * p for d, p in zip(delays, potential, strict=True)], np.float32).T
