"""The simulated competition: the competition's files, filled with physiologically shaped EEG.

A recording is a sum of sources, each a time course (T,) seen through a field over the scalp (19,):
background, one or two of the six patterns, artefacts. Numbers are measurements of the field: ACNS
critical-care terminology 2021 and expert measurements, given as (p10, p50, p90) or (low, high).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy import fft
from scipy.signal import fftconvolve
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils.files import (
    CLASSES,
    ELECTRODES,
    SFREQ_HZ,
    SIMULATION_FILE,
    VOTE_COLUMNS,
    WINDOW_S,
    Competition,
)
from hmsutils.signals import DOUBLE_BANANA, ELECTRODE_XYZ, N_SCALP, bipolar
from hmsutils.spectrograms import OFFICIAL_REGIONS, official_frequencies_hz, regional_multitaper

VERSION = 1  # raise it when the same seed gives other files
BEFORE_S = 275  # the 50 s of an EEG sit at 275–325 s of its 10 minutes
FRONT, UP, MIRROR = np.eye(3)[1], np.eye(3)[2], np.array([-1, 1, 1])
Range = tuple[float, float, float]  # p10, p50, p90

# What differs between patients and machines. Background and artefacts of real files: |x|
# p50/p95/p99 16/59/87 µV, log-log slope -1.1 … -3.3, mains 24 dB [1–85], DC 16 µV [2–70].
RANGES: dict[str, Range] = {
    "background_uv": (9.0, 18.0, 32.0),
    "slope": (1.5, 2.3, 3.0),
    "knee_hz": (0.4, 0.9, 2.0),
    "posterior_hz": (7.0, 9.0, 11.0),
    "posterior_uv": (0.5, 4.0, 18.0),
    "rhythm_uv": (1.0, 5.0, 14.0),
    "pattern_gain": (0.7, 1.0, 1.4),
    "muscle_uv": (0.5, 2.5, 10.0),
    "drift_uv": (2.0, 8.0, 30.0),
    "blinks_per_min": (0.5, 3.0, 12.0),
    "heart_hz": (1.0, 1.3, 1.8),
    "heart_uv": (0.2, 1.0, 5.0),
    "mains_db": (5.0, 24.0, 50.0),
    "dc_uv": (2.0, 16.0, 70.0),
    "ekg_uv": (100.0, 500.0, 2000.0),
}
# How often: an electrode is bad, the EKG absent, seconds of an EEG are NaN, most of it, minutes
# before it.
RATES = {"bad": 0.17, "no_ekg": 0.12, "gap": 0.03, "mostly_gap": 0.005, "long_gap": 0.06}


@dataclass(frozen=True)
class PatternStats:
    """Expert measurements of one pattern; shares of left, right, both sides."""

    rate_hz: Range
    interval_cv: Range
    sides: tuple[float, float, float]
    amplitude_uv: Range  # in the bipolar derivation where it is largest


PATTERNS = {
    "Seizure": PatternStats(
        (3.0, 4.5, 8.0), (0.03, 0.08, 0.15), (0.35, 0.30, 0.35), (60, 120, 220)
    ),
    "LPD": PatternStats((0.5, 1.0, 1.75), (0.11, 0.21, 0.39), (0.60, 0.35, 0.05), (60, 120, 240)),
    "GPD": PatternStats((0.75, 1.25, 2.0), (0.12, 0.25, 0.56), (0.01, 0.01, 0.98), (55, 100, 200)),
    "LRDA": PatternStats((0.75, 1.33, 2.0), (0.03, 0.11, 0.17), (0.62, 0.28, 0.10), (50, 90, 150)),
    "GRDA": PatternStats((0.75, 1.3, 2.0), (0.03, 0.11, 0.17), (0.05, 0.04, 0.91), (50, 90, 150)),
}

# How often a second rater names each class, given the first (rows and columns as CLASSES).
CONFUSION = np.array(
    [
        [0.26, 0.11, 0.41, 0.07, 0.03, 0.13],
        [0.03, 0.62, 0.07, 0.10, 0.03, 0.15],
        [0.10, 0.06, 0.66, 0.01, 0.05, 0.12],
        [0.03, 0.14, 0.02, 0.47, 0.08, 0.27],
        [0.01, 0.04, 0.08, 0.08, 0.49, 0.30],
        [0.02, 0.09, 0.08, 0.12, 0.13, 0.57],
    ]
)


@dataclass(frozen=True)
class Panel:
    """A population of raters. `spread` 0: all agree with the class, 1: opinions as in CONFUSION;
    `evenness`: Dirichlet concentration, high where all EEGs of a class are equally hard."""

    shares: tuple[float, ...]  # of the six classes
    spread: float
    evenness: float
    raters: tuple[float, float, int, int]  # mean, standard deviation, least, most


FEW = Panel((0.30, 0.11, 0.10, 0.16, 0.20, 0.13), 0.3, 2.0, (3.0, 0.7, 1, 7))
MANY = Panel((0.015, 0.19, 0.25, 0.16, 0.14, 0.26), 0.75, 6.0, (15.0, 3.0, 10, 28))
SHARE_OF_MANY = 0.374

# ------------------------------------------------------------------------------ building blocks


def draw(rng: np.random.Generator, p10: float, p50: float, p90: float) -> float:
    """A positive number with the given percentiles (two-sided lognormal, tails cut at 2.5 σ)."""
    z = np.clip(rng.standard_normal(), -2.5, 2.5) / 1.2816
    return float(p50 * (p90 / p50 if z > 0 else p50 / p10) ** z)


def field(source: np.ndarray, width: float, tilt: np.ndarray | None = None) -> np.ndarray:
    """(19,) potential of a source seen through the scalp, falling off over neighbouring electrodes.

    Args:
        source: (3,) direction of the maximum (right, front, up).
        width: angle in radians at which the potential has fallen to 61 %.
        tilt: (3,) tangential part of the dipole; the other pole appears beside the first.

    Returns:
        Scaled so that the largest difference in the longitudinal bipolar montage is 1.
    """
    angle = np.arccos(np.clip(ELECTRODE_XYZ @ (source / np.linalg.norm(source)), -1, 1))
    potential = np.exp(-0.5 * (angle / width) ** 2)
    return unit(potential if tilt is None else potential * (1 + ELECTRODE_XYZ @ tilt))


def unit(potential: np.ndarray) -> np.ndarray:
    """(19,) scaled so that its largest difference in the longitudinal bipolar montage is 1."""
    return potential / np.abs(bipolar(potential, ELECTRODES[:-1], DOUBLE_BANANA)).max()


def cycles(rate_hz: np.ndarray, interval_cv: float, rng: np.random.Generator):
    """A jittered clock.

    Args:
        rate_hz: (T,) instantaneous rate.
        interval_cv: coefficient of variation of the intervals.

    Returns:
        (T,) phase, growing by 1 from one cycle's start to the next; samples where cycles start.
    """
    elapsed = np.cumsum(rate_hz) / SFREQ_HZ
    n = int(elapsed[-1] * 1.5) + 20
    shape = 1 / max(interval_cv, 0.02) ** 2
    starts = np.cumsum(np.clip(rng.gamma(shape, 1 / shape, n), 0.35, 2.2)) - rng.uniform(0, 1)
    phase = np.interp(elapsed, starts, np.arange(n), left=0.0)
    return phase, np.searchsorted(elapsed, starts[(starts > 0) & (starts < elapsed[-1])])


def place(n: int, starts: np.ndarray, heights, template: np.ndarray) -> np.ndarray:
    """(n,) signal with `template` added at every start (samples), scaled by its height."""
    impulses = np.zeros(n, np.float32)
    np.add.at(impulses, starts, heights)
    return fftconvolve(impulses, template.astype(np.float32))[:n]


def bump(length_s: float, peak: float = 0.5) -> np.ndarray:
    """One positive hump of the given length; `peak` is where its maximum sits (0 … 1)."""
    t = np.linspace(0, 1, max(5, round(length_s * SFREQ_HZ)))
    return np.sin(np.pi * t ** (np.log(0.5) / np.log(peak))) ** 2


def slow_noise(n: int, cutoff_hz: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) slow random course of mean 0 and standard deviation about 1."""
    knots = rng.standard_normal(max(4, int(n / SFREQ_HZ * 2 * cutoff_hz) + 3))
    return 1.2 * np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)


def coloured_noise(gain, n: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """(channels, n) float32 noise of variance 1 with the amplitude spectrum `gain(f_hz)`."""
    size = fft.next_fast_len(n, real=True)
    amplitude = gain(fft.rfftfreq(size, 1 / SFREQ_HZ)).astype(np.float32)
    amplitude[0] = 0
    amplitude *= size / (2 * np.sqrt(np.square(amplitude).sum() + 1e-30))
    spectrum = rng.standard_normal((channels, len(amplitude), 2), np.float32).view(np.complex64)
    return fft.irfft(spectrum[..., 0] * amplitude, size)[:, :n]


# ------------------------------------------------------------------------------ the six patterns


def discharge(rng: np.random.Generator) -> np.ndarray:
    """One discharge of peak-to-peak 1, negative first: 1–3 phases (the largest sharp, 70–200 ms,
    or blunt) and mostly a slow wave, under 0.5 s in all."""
    main_s = rng.uniform(0.2, 0.32) if rng.random() < 0.25 else rng.uniform(0.07, 0.2)
    phases = [-bump(main_s, rng.uniform(0.3, 0.6))]
    if rng.random() < 0.3:
        phases.insert(0, rng.uniform(0.2, 0.6) * bump(rng.uniform(0.04, 0.1)))
    if rng.random() < 0.4:
        phases.append(rng.uniform(0.3, 1.0) * bump(rng.uniform(0.05, 0.15)))
    if rng.random() < 0.7:
        sign = rng.choice([-1, 1, 1])
        phases.append(sign * rng.uniform(0.15, 0.6) * bump(rng.uniform(0.12, 0.3)))
    wave = np.concatenate(phases)[: SFREQ_HZ // 2]
    return wave / np.ptp(wave)


def rhythm(phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform waves of peak-to-peak about 1 without an interval: skewed, sometimes notched."""
    angle = 2 * np.pi * phase
    wave = np.sin(angle + rng.uniform(-0.7, 0.7) * np.sin(angle))
    return 0.5 * (wave + rng.uniform(0, 0.2) * np.sin(2 * angle + rng.uniform(0, 2 * np.pi)))


def _focus(side: int, rng: np.random.Generator) -> np.ndarray:
    """A direction on the left (-1) or right (+1) hemisphere, from frontal to occipital."""
    azimuth = np.radians(rng.uniform(-60, 70))
    return np.array([side * np.cos(azimuth), np.sin(azimuth), rng.uniform(0.2, 0.9)])


def _lean(a: float, b: float) -> float:
    """0 where b has the votes, 1 where a has them, in between where they tie."""
    return float(np.clip((a / max(a + b, 1e-9) - 0.25) * 2, 0, 1))


def _evolution(rate_hz: float, seizure: float, n: int, rng: np.random.Generator):
    """(n,) rate, envelope and progress 0 … 1. Seizures move by 1–4 Hz and grow two- to fourfold."""
    if seizure < 0.35:
        steady = rate_hz + seizure * rng.uniform(0, 1.5) + 0.03 * rate_hz * slow_noise(n, 0.1, rng)
        return steady.clip(0.2), (1 + 0.15 * slow_noise(n, 0.1, rng)).clip(0.2), np.zeros(n)
    progress = np.linspace(0, 1, n)
    end_hz = np.clip(rate_hz + rng.choice([-1, -1, 1]) * rng.uniform(1, 4), 2.0, 11.0)
    rate = rate_hz + (end_hz - rate_hz) * progress + 0.15 * slow_noise(n, 0.1, rng)
    growth = np.clip(progress * rng.uniform(1.5, 5.0), 0, 1)
    return rate.clip(1.0), 1 / rng.uniform(2, 4) * (1 - growth) + growth, progress


def simulate_pattern(
    opinion: Sequence[float], n: int, patient: Mapping[str, float], rng: np.random.Generator
) -> np.ndarray:
    """What raters with this opinion look at, without background.

    The classes meet in one family of waves: lateralised or generalised, discharges or rhythm,
    steady or evolving. A tied opinion gives a wave in between; votes for "Other" make it smaller
    and less regular.

    Args:
        opinion: (6,) how likely a rater names each class; not all of it "Other".
        n: samples at 200 Hz; a seizure evolves once over them.
        patient: from `draw_patient`.

    Returns:
        (n, 19) microvolts.

    Source: ACNS critical-care terminology 2021; expert measurements in `PATTERNS`.
    """
    seizure, lpd, gpd, lrda, grda = shares = np.asarray(opinion[:-1]) / sum(opinion[:-1])
    name = CLASSES[int(np.argmax(shares))]
    stats, clarity = PATTERNS[name], 1 - opinion[-1]
    left, right, both = stats.sides
    left, right = left * patient["left"], right * (1 - patient["left"])
    side = 1 if rng.random() < right / (left + right) else -1
    bilateral = rng.random() < both
    if name == "Seizure":
        sharp, general = rng.uniform(), float(bilateral)
    else:
        sharp, general = _lean(lpd + gpd, lrda + grda), _lean(gpd + grda, lpd + lrda)
        general *= 1.0 if bilateral or name.startswith("L") else 0.6
    # experts only name what stands out of the background
    size_uv = draw(rng, *stats.amplitude_uv) * patient["pattern_gain"]
    size_uv = max(size_uv, draw(rng, 2.5, 4.0, 6.0) * patient["background_uv"])
    size_uv *= 0.3 + 0.7 * clarity
    cv = draw(rng, *stats.interval_cv) * (1 + 1.5 * (1 - clarity))
    rate_hz, envelope, progress = _evolution(draw(rng, *stats.rate_hz), seizure, n, rng)
    template = discharge(rng)

    def course() -> np.ndarray:
        phase, starts = cycles(rate_hz, cv, rng)
        discharges = place(n, starts, rng.normal(1, 0.12, len(starts)), template)
        return size_uv * envelope * ((1 - sharp) * rhythm(phase, rng) + sharp * discharges)

    def potential(focus: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        width = (1 - general) * rng.uniform(0.35, 0.65) + general * rng.uniform(0.65, 1.1)
        tilt = rng.normal(0, 0.3, 3)
        return field(focus, width, tilt), field(focus * MIRROR, width, tilt * MIRROR)

    focus = _focus(side, rng) + general * rng.uniform(0.2, 1.2) * (FRONT + 0.5 * UP)
    here, there = potential(focus)
    if general < 0.5 and bilateral:  # two foci, each with its own clock
        return np.outer(course(), here) + np.outer(course(), there)
    mirrored = (1 - general) * rng.uniform(0, 0.5) + general * rng.uniform(0.8, 1.0)
    start = unit(here + mirrored * there)
    if progress.any():  # the field of a seizure moves and widens
        wide = unit(start + unit(sum(potential(_focus(side, rng)))))
        wave = course()
        return np.outer(wave * (1 - progress), start) + np.outer(wave * progress, wide)
    travels = general * sharp > 0.5 and rng.random() < 0.3
    return _spread(course(), start, rng.uniform(0.025, 0.14) if travels else 0.0)


def _spread(course: np.ndarray, potential: np.ndarray, lag_s: float) -> np.ndarray:
    """(T, 19): a time course over the scalp, `lag_s` later at the back than at the front."""
    delays = np.round((1 - ELECTRODE_XYZ[:, 1]) / 2 * lag_s * SFREQ_HZ).astype(int)
    later = {d: np.concatenate([np.zeros(d), course[: len(course) - d]]) for d in set(delays)}
    return np.stack([later[d] * p for d, p in zip(delays, potential, strict=True)], axis=1)


# ------------------------------------------------------------------------------ brain and machine


def draw_patient(
    rng: np.random.Generator, ranges: Mapping[str, Range] = RANGES
) -> dict[str, float]:
    """A patient: how strong, how fast, on which side, how restless; one number per range."""
    patient = {name: draw(rng, *values) for name, values in ranges.items()}
    return patient | {"left": float(np.clip(rng.beta(0.7, 0.7), 0.05, 0.95))}


def simulate_background(
    n: int, patient: Mapping[str, float], state: str, rng: np.random.Generator
) -> np.ndarray:
    """(n, 19) microvolts: 1/f, rhythms that come and go, and the state's own waves.

    `state` is "awake", "slow", "sleep" or "suppressed" (burst suppression).
    """
    angle = np.arccos(np.clip(ELECTRODE_XYZ @ ELECTRODE_XYZ.T, -1, 1))
    mixing = np.exp(-0.5 * (angle / rng.uniform(0.35, 0.6)) ** 2) + 0.25 * np.eye(N_SCALP)
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    knee_hz, slope = patient["knee_hz"], patient["slope"]
    latent = coloured_noise(lambda f: (f**2 + knee_hz**2) ** (-slope / 4), n, N_SCALP, rng)
    size_uv = patient["background_uv"] * (1.3 if state in ("slow", "sleep") else 1.0)
    out = latent.T @ (1.3 * size_uv * mixing.T).astype(np.float32)
    alpha = {"awake": 1.0, "slow": 0.3}.get(state, 0.0) * patient["posterior_uv"]
    hz = patient["posterior_hz"] * (1.0 if state == "awake" else 0.75)
    waves = [(hz, 0.5, alpha, -FRONT + 0.4 * side * np.eye(3)[0], 0.55) for side in (-1, 1)]
    for _ in range(rng.poisson(1.5)):  # theta, beta, polymorphic delta, anywhere
        hz = draw(rng, 1.2, 4.0, 16.0)
        size = patient["rhythm_uv"] * (2.0 if state == "slow" and hz < 4 else 1.0) * min(1, 6 / hz)
        waves.append((hz, rng.uniform(0.2, 0.6) * hz, size, _focus(rng.choice([-1, 1]), rng), 0.6))
    for hz, spread_hz, size, source, width in waves:
        course = coloured_noise(
            lambda f, c=hz, s=spread_hz: np.exp(-0.5 * ((f - c) / s) ** 2), n, 1, rng
        )
        course = course[0] * size * (1 + 0.8 * slow_noise(n, 0.2, rng)).clip(0)
        out += np.outer(course, field(source, width)).astype(np.float32)
    if state == "sleep":  # vertex waves and spindles
        starts = rng.integers(0, n, rng.poisson(n / SFREQ_HZ / 8))
        t = np.arange(SFREQ_HZ) / SFREQ_HZ
        spindle = np.sin(2 * np.pi * rng.uniform(12, 14) * t) * np.sin(np.pi * t) ** 2
        course = place(n, starts, rng.uniform(10, 30, len(starts)), spindle)
        course += place(n, starts, rng.uniform(0, 90, len(starts)), -bump(0.3))
        out += np.outer(course, field(UP + 0.2 * FRONT, 0.6)).astype(np.float32)
    gate = (1 + 0.2 * slow_noise(n, 0.05, rng)).clip(0.4, 1.8)
    if state == "suppressed":
        starts = rng.integers(0, n, 1 + rng.poisson(n / SFREQ_HZ / rng.uniform(4, 12)))
        bursts = place(n, starts, rng.uniform(0.6, 1.5, len(starts)), bump(rng.uniform(1, 3), 0.3))
        gate = rng.uniform(0.1, 0.3) + bursts.clip(0, 1.8)
    if rng.random() < 0.15:  # one hemisphere weaker
        side = rng.choice([-1, 1]) * ELECTRODE_XYZ[:, 0]
        out *= (1 - rng.uniform(0.2, 0.6) * (side > 0.1)).astype(np.float32)
    return out * gate[:, None].astype(np.float32)


def _mimic(n: int, patient: Mapping[str, float], rng: np.random.Generator) -> np.ndarray:
    """(n, 19) an artefact like a pattern: rocking, chewing, a rhythmic electrode, the heart."""
    rate_hz = np.full(n, draw(rng, 0.6, 1.3, 4.0))
    phase, starts = cycles(rate_hz, rng.uniform(0.05, 0.4), rng)
    bouts = (slow_noise(n, 0.1, rng) + rng.uniform(0, 1)).clip(0, 1)[:, None]
    kind = rng.choice(["rocking", "chewing", "electrode"])
    if kind == "rocking":
        wave = np.outer(rhythm(phase, rng), rng.normal(0, draw(rng, 8, 25, 60), N_SCALP))
    elif kind == "chewing":
        gate = place(n, starts, np.ones(len(starts)), bump(rng.uniform(0.15, 0.4)))
        muscle = coloured_noise(lambda f: f / (1 + (f / 40) ** 2) * (f > 12), n, N_SCALP, rng).T
        wave = draw(rng, 8, 25, 60) * muscle * gate[:, None] * (1.1 - ELECTRODE_XYZ[:, 2])
    else:
        pops = place(n, starts, rng.normal(1, 0.3, len(starts)), np.exp(-np.arange(100) / 15))
        wave = np.outer(pops * draw(rng, 30, 80, 200), np.arange(N_SCALP) == rng.integers(N_SCALP))
    return wave * bouts


def add_artefacts(
    brain_uv: np.ndarray, patient: Mapping[str, float], rng: np.random.Generator, rates=RATES
) -> np.ndarray:
    """(T, 19) brain → (T, 20) recording: eyes, muscle, heart, sweat, pops, mains, offsets, EKG."""
    n = len(brain_uv)
    seconds = n / SFREQ_HZ
    out = np.zeros((n, N_SCALP + 1), np.float32)
    scalp = out[:, :N_SCALP]
    scalp += brain_uv
    starts = rng.integers(0, n, rng.poisson(patient["blinks_per_min"] * seconds / 60))
    blinks = place(n, starts, rng.uniform(100, 200, len(starts)), bump(rng.uniform(0.2, 0.4), 0.4))
    scalp += np.outer(blinks, field(FRONT, 0.4)).astype(np.float32)
    muscle = coloured_noise(lambda f: f / (1 + (f / 45) ** 2) * (f > 15), n, N_SCALP, rng).T
    bouts = slow_noise(n, 0.05, rng).clip(0) * patient["muscle_uv"]
    scalp += muscle * np.outer(bouts, 1.2 - ELECTRODE_XYZ[:, 2]).astype(np.float32)
    _, beats = cycles(np.full(n, patient["heart_hz"]), 0.05, rng)
    t = np.linspace(-3, 3, 24)
    qrs = place(n, beats, np.ones(len(beats)), (1 - 1.2 * t**2) * np.exp(-(t**2)))
    scalp += np.outer(qrs, patient["heart_uv"] * (1 + rng.normal(0, 1, N_SCALP))).astype(np.float32)
    if rng.random() >= rates["no_ekg"]:
        out[:, -1] = patient["ekg_uv"] * (qrs + 0.05 * slow_noise(n, 1.0, rng))
    for channel in rng.choice(N_SCALP, rng.poisson(3.0)):  # sweat, movement
        scalp[:, channel] += patient["drift_uv"] * slow_noise(n, 0.2, rng)
    for channel in rng.choice(N_SCALP, rng.poisson(seconds / 150)):  # pop: step and recovery
        decay = np.exp(-np.arange(2 * SFREQ_HZ) / rng.uniform(20, 100))
        heights = rng.choice([-1, 1]) * rng.uniform(50, 300, 1)
        scalp[:, channel] += place(n, rng.integers(0, n, 1), heights, decay)
    line = np.sin(2 * np.pi * rng.choice([50, 60], p=[0.1, 0.9]) * np.arange(n) / SFREQ_HZ)
    line_uv = 0.35 * 10 ** (min(patient["mains_db"], 85) / 20)
    out += np.outer(line, line_uv * rng.lognormal(0, 0.5, N_SCALP + 1)).astype(np.float32)
    out += patient["dc_uv"] * rng.normal(0, 1, N_SCALP + 1).astype(np.float32)
    if rng.random() < rates["bad"]:  # detached, or far out
        size_uv = 0.0 if rng.random() < 0.3 else rng.uniform(2000, 12000)
        scalp[:, rng.integers(0, N_SCALP)] = size_uv * (line + slow_noise(n, 0.5, rng))
    return out


Episode = tuple[float, float, np.ndarray]


def simulate_eeg(
    seconds: float,
    patient: Mapping[str, float],
    episodes: Sequence[Episode],
    rng: np.random.Generator,
) -> np.ndarray:
    """A recording with patterns.

    Args:
        seconds: its length.
        episodes: (start_s, end_s, opinion): `opinion` (6,) is how likely a rater names each class
            there; it decides which pattern appears and how well it is formed.

    Returns:
        (T, 20) float32 microvolts at 200 Hz, columns as in `ELECTRODES`, no NaN.
    """
    n = round(seconds * SFREQ_HZ)
    other = max(opinion[-1] for *_, opinion in episodes)
    odds = (0.35, 0.25, 0.25, 0.15) if other > 0.5 else (0.3, 0.5, 0.13, 0.07)
    state = str(rng.choice(["awake", "slow", "sleep", "suppressed"], p=odds))
    brain = simulate_background(n, patient, state, rng)
    for start_s, end_s, opinion in episodes:
        a, b = max(0, round(start_s * SFREQ_HZ)), min(n, round(end_s * SFREQ_HZ))
        ramp = np.minimum(np.arange(b - a), np.arange(b - a)[::-1]) / (2 * SFREQ_HZ)
        if opinion[-1] < 0.85:
            wave = simulate_pattern(opinion, b - a, patient, rng)
            brain[a:b] += (wave * ramp.clip(0, 1)[:, None]).astype(np.float32)
        if opinion[0] > 0.3:  # post-ictal attenuation
            brain[b : b + 30 * SFREQ_HZ] *= np.float32(rng.uniform(0.3, 0.8))
        if rng.random() < (0.35 if opinion[-1] > 0.5 else 0.05):
            brain[a:b] += _mimic(b - a, patient, rng).astype(np.float32)
    return add_artefacts(brain, patient, rng)


# ------------------------------------------------------------------------------ votes and tables


def draw_opinion(panel: Panel, rng: np.random.Generator, preference=1.0) -> np.ndarray:
    """(6,) how likely a rater of the panel names each class for one EEG.

    `preference` (6,) multiplies the panel's class shares: a patient shows some patterns more often.
    """
    weight = np.asarray(panel.shares) * preference
    cls = rng.choice(len(CLASSES), p=weight / weight.sum())
    centre = panel.spread * CONFUSION[cls] / CONFUSION[cls].sum()
    centre[cls] += 1 - panel.spread
    return rng.dirichlet(panel.evenness * centre + 1e-6)


def draw_votes(panel: Panel, opinion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(6,) votes of as many raters as the panel has."""
    mean, std, least, most = panel.raters
    return rng.multinomial(int(np.clip(np.round(rng.normal(mean, std)), least, most)), opinion)


def _plan_eeg(preference: np.ndarray, split: str, rng: np.random.Generator) -> dict:
    """Opinion, row offsets and votes of one EEG; most rows repeat the votes of the first."""
    panel = MANY if split == "test" or rng.random() < SHARE_OF_MANY else FEW
    opinion = draw_opinion(panel, rng, preference)
    n_rows = 1 if split == "test" else int(np.clip(np.round(draw(rng, 1, 3, 13)), 1, 60))
    last = 2 * int(np.ceil(n_rows * rng.uniform(1, 4))) if n_rows > 1 else 0
    inner = rng.choice(np.arange(2, last, 2), max(0, n_rows - 2), replace=False) if last else []
    offsets = sorted({0, last, *(int(o) for o in inner)})
    votes = [draw_votes(panel, opinion, rng)] * len(offsets)
    if len(offsets) > 1 and rng.random() < 0.15:
        change = rng.integers(1, len(offsets))
        votes[change:] = [draw_votes(panel, opinion, rng)] * (len(offsets) - change)
    return {"opinion": opinion, "offsets": offsets, "votes": votes, "length_s": WINDOW_S + last}


def _plan(split: str, n_patients: int, seed: int) -> list[dict]:
    """All recordings of a split: ids, patients, EEGs with their place in the recording, votes."""
    rng = np.random.default_rng([seed, ("train", "test").index(split)])
    plans = []
    for patient_id in rng.choice(65_536, n_patients, replace=False).tolist():
        patient, preference = draw_patient(rng), rng.dirichlet(np.full(len(CLASSES), 0.25)) + 1e-3
        for _ in range(1 if split == "test" else int(np.clip(draw(rng, 1, 2.2, 9), 1, 12))):
            eegs, start_s = [], 0
            for _ in range(1 if split == "test" else rng.choice([1, 2, 3], p=[0.65, 0.25, 0.10])):
                eegs.append(_plan_eeg(preference, split, rng) | {"start_s": start_s})
                start_s += eegs[-1]["length_s"] + 2 * int(rng.integers(15, 60))
            plans.append(
                {"patient_id": patient_id, "patient": patient, "eegs": eegs, "split": split}
            )
    eeg_ids = iter(_unique_ids(2**32, sum(len(plan["eegs"]) for plan in plans), rng))
    for i, spectrogram_id in enumerate(_unique_ids(2**31, len(plans), rng)):
        plans[i] |= {"spectrogram_id": spectrogram_id, "seed": [seed, len(split), i]}
        for eeg in plans[i]["eegs"]:
            eeg["eeg_id"] = next(eeg_ids)
    return plans


def _unique_ids(below: int, n: int, rng: np.random.Generator) -> list[int]:
    """Different ids, as scattered as the competition's."""
    return list(dict.fromkeys(rng.integers(10**6, below, 2 * n + 8).tolist()))[:n]


def _train_rows(plan: dict) -> list[dict]:
    """Rows of train.csv for one recording; `label_id` is filled in later."""
    rows = []
    for eeg in plan["eegs"]:
        for i, (offset, votes) in enumerate(zip(eeg["offsets"], eeg["votes"], strict=True)):
            row = {
                "eeg_id": eeg["eeg_id"],
                "eeg_sub_id": i,
                "eeg_label_offset_seconds": float(offset),
                "spectrogram_id": plan["spectrogram_id"],
                "spectrogram_sub_id": len(rows),
                "spectrogram_label_offset_seconds": float(eeg["start_s"] + offset),
                "label_id": 0,
                "patient_id": plan["patient_id"],
                "expert_consensus": CLASSES[int(np.argmax(votes))],
            }
            rows.append(row | dict(zip(VOTE_COLUMNS, votes.tolist(), strict=True)))
    return rows


def simulate_window(
    rng: np.random.Generator, panels: Sequence[Panel] = (FEW, MANY), ranges=RANGES
) -> tuple[np.ndarray, np.ndarray]:
    """One labelled window of a new patient, for training without files.

    Returns:
        (10000, 20) float32 raw microvolts and (6,) votes.
    """
    panel = panels[rng.integers(len(panels))]
    opinion = draw_opinion(panel, rng)
    episode = (rng.uniform(-20, 18), rng.uniform(32, 70), opinion)
    if opinion[0] > 0.3:
        episode = (rng.uniform(-25, 18), rng.uniform(35, 75), opinion)
    eeg_uv = simulate_eeg(WINDOW_S, draw_patient(rng, ranges), [episode], rng)
    return eeg_uv, draw_votes(panel, opinion, rng)


# ------------------------------------------------------------------------------ files


def _episodes(plan: dict, seconds: float, rng: np.random.Generator) -> list[Episode]:
    """When the pattern of each EEG is there: always in its labelled centres, often beyond."""
    episodes, previous_s = [], 0.0
    starts_s = [BEFORE_S + eeg["start_s"] for eeg in plan["eegs"]]
    for eeg, start_s, next_s in zip(plan["eegs"], starts_s, [*starts_s[1:], seconds], strict=True):
        end_s = start_s + eeg["length_s"]
        before_s, after_s = rng.uniform(-15, [100, 100])
        if eeg["opinion"][0] > 0.3:  # a seizure begins in the EEG and does not last for ever
            before_s, after_s = rng.uniform(-18, -5), rng.uniform(-15, 25)
        begin_s = max(previous_s, start_s - before_s)
        previous_s = min(0.5 * (end_s + next_s), end_s + after_s)
        episodes.append((begin_s, previous_s, eeg["opinion"]))
    return episodes


def _write_recording(plan: dict, root: Path) -> None:
    """Write one recording: its EEGs, then its spectrogram; where that is, all is complete."""
    with threadpool_limits(1):  # the same rounding whatever the number of processes
        rng = np.random.default_rng(plan["seed"])
        last = plan["eegs"][-1]
        seconds = 602 + last["start_s"] + last["length_s"] - WINDOW_S
        episodes = _episodes(plan, seconds, rng)
        eeg_uv = simulate_eeg(seconds, plan["patient"], episodes, rng)
        _punch_gaps(eeg_uv, plan, rng)
        for eeg in plan["eegs"]:
            start = (BEFORE_S + eeg["start_s"]) * SFREQ_HZ
            values = eeg_uv[start : start + eeg["length_s"] * SFREQ_HZ].round(2)
            path = root / f"{plan['split']}_eegs" / f"{eeg['eeg_id']}.parquet"
            pd.DataFrame(values, columns=list(ELECTRODES)).to_parquet(path, index=False)
        path = _spectrogram_path(plan, root)
        _spectrogram_table(eeg_uv, plan["split"]).to_parquet(path.with_suffix(".part"), index=False)
        path.with_suffix(".part").rename(path)


def _punch_gaps(eeg_uv: np.ndarray, plan: dict, rng: np.random.Generator, rates=RATES) -> None:
    """Set NaN blocks in place: seconds inside an EEG, or minutes before the first one."""
    for eeg in plan["eegs"]:
        start = (BEFORE_S + eeg["start_s"]) * SFREQ_HZ
        length, luck = eeg["length_s"] * SFREQ_HZ, rng.random()
        if luck < rates["gap"] + rates["mostly_gap"]:
            share = (
                rng.uniform(0.55, 0.95) if luck < rates["mostly_gap"] else rng.uniform(0.004, 0.06)
            )
            first = start + rng.integers(0, int((1 - share) * length))
            eeg_uv[first : first + int(share * length)] = np.nan
    if rng.random() < rates["long_gap"]:
        first, gap = rng.integers(0, 150 * SFREQ_HZ), int(rng.exponential(200) * SFREQ_HZ)
        eeg_uv[first : min(first + gap, BEFORE_S * SFREQ_HZ)] = np.nan


def _spectrogram_path(plan: dict, root: Path) -> Path:
    return root / f"{plan['split']}_spectrograms" / f"{plan['spectrogram_id']}.parquet"


def _spectrogram_table(eeg_uv: np.ndarray, split: str) -> pd.DataFrame:
    """The official spectrogram; windows that are mostly NaN stay NaN."""
    power = regional_multitaper(eeg_uv)[0]
    lost = np.lib.stride_tricks.sliding_window_view(np.isnan(eeg_uv[:, 0]), 4 * SFREQ_HZ)
    power[lost[:: 2 * SFREQ_HZ].mean(axis=1) > 0.5] = np.nan
    columns = [f"{r}_{f:.2f}" for r in OFFICIAL_REGIONS for f in official_frequencies_hz()]
    table = pd.DataFrame(power.reshape(len(power), -1).round(2), columns=columns)
    time_s = np.arange(1, 2 * len(power), 2, np.int64 if split == "train" else np.int16)
    table.insert(0, "time", time_s)
    return table


def simulate_competition(
    out_dir: str | Path, n_patients: int = 120, seed: int = 0, *, n_jobs: int | None = None
) -> Competition:
    """Write a competition of simulated EEG in the real one's layout.

    Args:
        out_dir: the folder, made where absent. An interrupted simulation with the same settings
            goes on.
        n_patients: patients in train.csv, about 4 EEGs each; a tenth as many in test.csv.
        seed: the same seed gives the same files, whatever `n_jobs`.
        n_jobs: processes; None: one per core.

    Returns:
        The competition, kind "simulated".

    Raises:
        FileExistsError: the folder holds other competition files.
    """
    root = Path(out_dir)
    settings = {"n_patients": n_patients, "seed": seed, "version": VERSION}
    mark = root / SIMULATION_FILE
    found = json.loads(mark.read_text()) if mark.exists() else None
    if found not in (None, settings) or (found is None and (root / "train.csv").exists()):
        raise FileExistsError(
            f"{root}: holds another competition ({found or 'not simulated'}), wanted {settings}; "
            f"choose another folder or delete this one"
        )
    plans = [*_plan("train", n_patients, seed), *_plan("test", max(4, n_patients // 10), seed)]
    for kind in ("train_eegs", "train_spectrograms", "test_eegs", "test_spectrograms"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(settings))
    todo = [plan for plan in plans if not _spectrogram_path(plan, root).exists()]
    jobs = Parallel(n_jobs or os.cpu_count(), return_as="generator_unordered")(
        delayed(_write_recording)(plan, root) for plan in todo
    )
    for _ in tqdm(jobs, "Simulating 10-minute recordings", len(todo), mininterval=2):
        pass
    _write_tables(plans, root, seed)
    return Competition(root.resolve(), "simulated", f"simulated with seed {seed}")


def _write_tables(plans: list[dict], root: Path, seed: int) -> None:
    """train.csv last: a folder that has it is complete."""
    test = [
        {k: plan[k] for k in ("spectrogram_id", "patient_id")}
        | {"eeg_id": plan["eegs"][0]["eeg_id"]}
        for plan in plans
        if plan["split"] == "test"
    ]
    test = pd.DataFrame(test)[["spectrogram_id", "eeg_id", "patient_id"]]
    test.to_csv(root / "test.csv", index=False)
    sample = test[["eeg_id"]].assign(**dict.fromkeys(VOTE_COLUMNS, 1 / len(CLASSES)))
    sample.to_csv(root / "sample_submission.csv", index=False)
    train = pd.DataFrame(
        [r for plan in plans if plan["split"] == "train" for r in _train_rows(plan)]
    )
    train["label_id"] = _unique_ids(2**32, len(train), np.random.default_rng([seed, len(train)]))
    train.to_csv(root / "train.csv", index=False)
