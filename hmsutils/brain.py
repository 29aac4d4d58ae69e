"""Simulated brains and the machines that record them.

A recording is a sum of sources, each a time course (T,) seen through a field over the scalp (19,):
background, one or two of the six patterns, artefacts. Numbers are measurements of the field: ACNS
critical-care terminology 2021 and expert measurements, given as (p10, p50, p90) or (low, high). A
`Domain` says which brains and machines there are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, signal

from hmsutils.files import CLASSES, ELECTRODES, SFREQ_HZ
from hmsutils.signals import ANGLES, DOUBLE_BANANA, ELECTRODE_XYZ, N_SCALP, bipolar

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
    "stands_out": (1.0, 1.5, 2.5),  # how many times the rest a pattern at least is, see `_gain`
    "duration": (0.9, 1.0, 1.1),  # of a discharge, times the usual
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

HARDLY_VISIBLE = 0.3  # times the rest, in the measure of `_gain`


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


@dataclass(frozen=True)
class Domain:
    """Which brains, patterns and machines there are. The defaults are the competition's."""

    ranges: Mapping[str, Range] = dataclasses.field(default_factory=lambda: RANGES)
    waves: str = "phases"  # or "pulses": the family of the discharges and rhythms
    seizures: tuple[str, ...] = ("drift",)  # kinds of evolution, see `_evolution`
    mixtures: float = 0.0  # how often a tied opinion is two patterns at once, not one in between
    bouts: float = 0.0  # how often a half-formed pattern comes and goes
    mimics: tuple[str, ...] = ("rocking", "chewing", "electrode")
    mimic_shares: tuple[float, float] = (0.35, 0.05)  # of "Other", of the rest
    machine: Mapping[str, Range] | None = None  # see `record`; None: an ideal one
    ordinary_states: float = 0.0  # how often a pattern rides on a background of any state


def _times(ranges: Mapping[str, Range], **factors: float) -> dict[str, Range]:
    return {k: tuple(factors.get(k, 1.0) * v for v in values) for k, values in ranges.items()}


def _wider(ranges: Mapping[str, Range], factor: float) -> dict[str, Range]:
    return {k: (low / factor, middle, high * factor) for k, (low, middle, high) in ranges.items()}


_MACHINE: dict[str, Range] = {
    "highpass_hz": (0.05, 0.3, 1.0),
    "lowpass_hz": (15.0, 40.0, 70.0),
    "gain": (0.6, 1.0, 1.6),
    "electrode_gain": (0.02, 0.05, 0.15),  # standard deviation of its logarithm
    "misplaced": (0.03, 0.08, 0.2),  # share of the neighbours' potential in an electrode's
}
STANDARD = Domain()
# Sampled so widely that another hospital looks like one more patient: what models are trained on.
WIDE = Domain(
    _wider(RANGES, 1.3) | {"stands_out": (0.8, 1.4, 3.0), "duration": (0.6, 1.0, 1.5)},
    seizures=("drift", "drift", "slowing", "steps", "spike-wave"), mixtures=0.5, bouts=0.5,
    mimics=("rocking", "chewing", "electrode", "eyes", "pulse", "heart", "sweat"),
    mimic_shares=(0.6, 0.15), machine=_MACHINE, ordinary_states=0.5,
)  # fmt: skip
# Another hospital, never trained on: what choices are made by.
SHIFTED = Domain(
    _times(
        RANGES, background_uv=0.7, slope=0.8, knee_hz=1.8, posterior_uv=2.0, rhythm_uv=1.5,
        pattern_gain=0.75, stands_out=0.8, duration=1.25, muscle_uv=2.0, drift_uv=2.0,
        blinks_per_min=2.0, heart_uv=2.0,
    ),
    waves="pulses", seizures=("drift", "slowing"), mixtures=0.3, bouts=0.3,
    mimics=("rocking", "eyes", "heart"), mimic_shares=(0.5, 0.15),
    machine=_MACHINE | {"highpass_hz": (0.3, 0.6, 1.2), "lowpass_hz": (12.0, 20.0, 35.0)},
    ordinary_states=0.5,
)  # fmt: skip

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
    return signal.fftconvolve(impulses, template.astype(np.float32))[:n]


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


def discharge(rng: np.random.Generator, duration: float = 1.0) -> np.ndarray:
    """One discharge of peak-to-peak 1, negative first: 1–3 phases (the largest sharp, 70–200 ms,
    or blunt) and mostly a slow wave, under 0.5 s in all; `duration` stretches it."""
    main_s = rng.uniform(0.2, 0.32) if rng.random() < 0.25 else rng.uniform(0.07, 0.2)
    phases = [-bump(main_s, rng.uniform(0.3, 0.6))]
    if rng.random() < 0.3:
        phases.insert(0, rng.uniform(0.2, 0.6) * bump(rng.uniform(0.04, 0.1)))
    if rng.random() < 0.4:
        phases.append(rng.uniform(0.3, 1.0) * bump(rng.uniform(0.05, 0.15)))
    if rng.random() < 0.7:
        sign = rng.choice([-1, 1, 1])
        phases.append(sign * rng.uniform(0.15, 0.6) * bump(rng.uniform(0.12, 0.3)))
    wave = np.concatenate(phases)
    length = min(round(duration * len(wave)), SFREQ_HZ // 2)
    wave = np.interp(np.arange(length) / duration, np.arange(len(wave)), wave)
    return wave / np.ptp(wave)


def pulse(rng: np.random.Generator, duration: float = 1.0) -> np.ndarray:
    """A discharge of another family: a Gaussian spike, and the slow decay of what it set off."""
    t = np.arange(SFREQ_HZ // 2) / SFREQ_HZ
    spike_s = duration * rng.uniform(0.02, 0.06)
    after = np.clip(t - 2 * spike_s, 0, None) / (duration * rng.uniform(0.05, 0.1))
    wave = -np.exp(-0.5 * ((t - 2.5 * spike_s) / spike_s) ** 2)
    wave += rng.uniform(0.0, 1.5) * rng.choice([-1, 1, 1]) * after * np.exp(-after)
    return wave / np.ptp(wave)


def rhythm(phase: np.ndarray, rng: np.random.Generator, waves: str = "phases") -> np.ndarray:
    """Uniform waves of peak-to-peak about 1 without an interval: skewed, sometimes notched; or, for
    `waves="pulses"`, rounded saw teeth."""
    angle = 2 * np.pi * phase
    if waves == "pulses":
        teeth = signal.sawtooth(angle, rng.uniform(0.25, 0.75))
        return 0.5 * np.convolve(teeth, np.hanning(25) / 12, "same")
    wave = np.sin(angle + rng.uniform(-0.7, 0.7) * np.sin(angle))
    return 0.5 * (wave + rng.uniform(0, 0.2) * np.sin(2 * angle + rng.uniform(0, 2 * np.pi)))


def _focus(side: int, rng: np.random.Generator) -> np.ndarray:
    """A direction on the left (-1) or right (+1) hemisphere, from frontal to occipital."""
    azimuth = np.radians(rng.uniform(-60, 70))
    return np.array([side * np.cos(azimuth), np.sin(azimuth), rng.uniform(0.2, 0.9)])


def _lean(a: float, b: float) -> float:
    """0 where b has the votes, 1 where a has them, in between where they tie."""
    return float(np.clip((a / max(a + b, 1e-9) - 0.25) * 2, 0, 1))


def _evolution(rate_hz: float, seizure: float, kind: str, n: int, rng: np.random.Generator):
    """(n,) rate, envelope and progress 0 … 1. Seizures move by 1–4 Hz and grow two- to fourfold.

    `kind` of seizure: "drift" up or down, "slowing" from a fast low rhythm, "steps" from one rate
    to the next, "spike-wave" of nearly one rate.
    """
    if seizure < 0.35:
        steady = rate_hz + seizure * rng.uniform(0, 1.5) + 0.03 * rate_hz * slow_noise(n, 0.1, rng)
        return steady.clip(0.2), (1 + 0.15 * slow_noise(n, 0.1, rng)).clip(0.2), np.zeros(n)
    progress = np.linspace(0, 1, n)
    end_hz = np.clip(rate_hz + rng.choice([-1, -1, 1]) * rng.uniform(1, 4), 2.0, 11.0)
    if kind == "slowing":
        rate_hz, end_hz, progress = rng.uniform(8, 14), rng.uniform(2, 4), np.sqrt(progress)
    elif kind == "steps":
        n_steps = rng.integers(2, 5)
        progress = np.round(progress * n_steps) / n_steps
    elif kind == "spike-wave":
        rate_hz = rng.uniform(2.6, 4.0)
        end_hz = rate_hz - rng.uniform(0, 0.8)
    rate = rate_hz + (end_hz - rate_hz) * progress + 0.15 * slow_noise(n, 0.1, rng)
    growth = np.clip(np.linspace(0, 1, n) * rng.uniform(1.5, 5.0), 0, 1)
    return rate.clip(1.0), 1 / rng.uniform(2, 4) * (1 - growth) + growth, progress


def _layout(shares: np.ndarray, kind: str, patient: Mapping[str, float], rng: np.random.Generator):
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
    sharp, general = _lean(lpd + gpd, lrda + grda), _lean(gpd + grda, lpd + lrda)
    return side, bilateral, sharp, general * (1.0 if bilateral or name.startswith("L") else 0.6)


def simulate_pattern(
    opinion: Sequence[float],
    n: int,
    patient: Mapping[str, float],
    rng: np.random.Generator,
    domain: Domain = STANDARD,
) -> np.ndarray:
    """What raters with this opinion look at, without background.

    The classes meet in one family of waves: lateralised or generalised, discharges or rhythm,
    steady or evolving. A tied opinion gives a wave in between; votes for "Other" make it less
    regular.

    Args:
        opinion: (6,) how likely a rater names each class; not all of it "Other".
        n: samples at 200 Hz; a seizure evolves once over them.
        patient: from `draw_patient`.

    Returns:
        (n, 19) microvolts.

    Source: ACNS critical-care terminology 2021; expert measurements in `PATTERNS`.
    """
    shares = np.asarray(opinion[:-1]) / sum(opinion[:-1])
    if np.sort(shares)[-2] > 0.25 and rng.random() < domain.mixtures:  # both patterns, each whole
        pair = np.argsort(shares)[-2:]
        whole = [np.eye(6)[k] * (1 - opinion[-1]) + np.eye(6)[-1] * opinion[-1] for k in pair]
        return sum(
            np.sqrt(shares[k] / shares[pair[1]]) * simulate_pattern(o, n, patient, rng, domain)
            for k, o in zip(pair, whole, strict=True)
        )
    stats, clarity = PATTERNS[CLASSES[int(np.argmax(shares))]], 1 - opinion[-1]
    kind = str(rng.choice(domain.seizures))
    side, bilateral, sharp, general = _layout(shares, kind, patient, rng)
    size_uv = draw(rng, *stats.amplitude_uv) * patient["pattern_gain"]
    cv = draw(rng, *stats.interval_cv) * (1 + 1.5 * (1 - clarity))
    rate_hz, envelope, progress = _evolution(draw(rng, *stats.rate_hz), shares[0], kind, n, rng)
    if clarity < 0.75 and rng.random() < domain.bouts:
        bouts = slow_noise(n, rng.uniform(0.1, 0.3), rng) + 2 * clarity - 0.5
        envelope = envelope * np.clip(2 * bouts, 0.05, 1)
    template = {"phases": discharge, "pulses": pulse}[domain.waves](rng, patient["duration"])

    def course() -> np.ndarray:
        phase, starts = cycles(rate_hz, cv, rng)
        discharges = place(n, starts, rng.normal(1, 0.12, len(starts)), template)
        return (
            size_uv
            * envelope
            * ((1 - sharp) * rhythm(phase, rng, domain.waves) + sharp * discharges)
        )

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


def _swing(eeg_uv: np.ndarray) -> np.ndarray:
    """(18,) peak to peak in two seconds of every derivation; a quarter of the seconds have more."""
    chains = bipolar(eeg_uv, ELECTRODES[:-1], DOUBLE_BANANA)
    length = min(2 * SFREQ_HZ, len(chains))
    pieces = chains[: len(chains) // length * length].reshape(-1, length, chains.shape[1])
    return np.percentile(np.ptp(pieces, axis=1), 75, axis=0)


def _gain(pattern: np.ndarray, rest: np.ndarray, stands_out: float, doubt: float) -> float:
    """What makes a pattern (T, 19) as visible in the rest (T, 19) as its votes say that it is.

    Visible: its swing against the rest's, in the derivation where it is clearest. Experts only
    agree on what stands out; with the share of votes for "Other", their doubt, it sinks below what
    can just be seen.
    """
    seen = float((_swing(pattern) / (_swing(rest) + 1.0)).max())
    return max(seen, stands_out) ** (1 - doubt) * HARDLY_VISIBLE**doubt / seen


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
    mixing = np.exp(-0.5 * (ANGLES / rng.uniform(0.35, 0.6)) ** 2) + 0.25 * np.eye(N_SCALP)
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


def _mimic(n: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """(n, 19) an artefact like a pattern: rocking, chewing, a rhythmic electrode, eyes, a pulse
    under an electrode, the heart everywhere, sweat."""
    rate_hz = np.full(n, draw(rng, 0.6, 1.3, 4.0))
    phase, starts = cycles(rate_hz, rng.uniform(0.05, 0.4), rng)
    bouts = (slow_noise(n, 0.1, rng) + rng.uniform(0, 1)).clip(0, 1)[:, None]
    one = np.arange(N_SCALP) == rng.integers(N_SCALP)
    if kind == "rocking":
        wave = np.outer(rhythm(phase, rng), rng.normal(0, draw(rng, 8, 25, 60), N_SCALP))
    elif kind == "chewing":
        gate = place(n, starts, np.ones(len(starts)), bump(rng.uniform(0.15, 0.4)))
        muscle = coloured_noise(lambda f: f / (1 + (f / 40) ** 2) * (f > 12), n, N_SCALP, rng).T
        wave = draw(rng, 8, 25, 60) * muscle * gate[:, None] * (1.1 - ELECTRODE_XYZ[:, 2])
    elif kind == "eyes":
        wave = np.outer(rhythm(phase, rng) * draw(rng, 40, 90, 180), field(FRONT, 0.4))
    elif kind == "pulse":
        wave = np.outer(rhythm(phase, rng) * draw(rng, 20, 50, 120), one)
    elif kind == "heart":
        beat = place(n, starts, np.ones(len(starts)), -bump(0.03) * draw(rng, 10, 25, 60))
        wave = np.outer(beat, 1 + 0.7 * rng.normal(0, 1, N_SCALP))
    elif kind == "sweat":
        slow = np.stack([slow_noise(n, rng.uniform(0.2, 0.8), rng) for _ in range(4)], axis=1)
        wave = draw(rng, 20, 60, 150) * slow @ rng.normal(0, 0.5, (4, N_SCALP))
    else:
        pops = place(n, starts, rng.normal(1, 0.3, len(starts)), np.exp(-np.arange(100) / 15))
        wave = np.outer(pops * draw(rng, 30, 80, 200), one)
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


def record(scalp_uv: np.ndarray, machine: Mapping[str, Range], rng: np.random.Generator):
    """(T, 19) as another machine would have written it.

    Electrodes are misplaced and unequal, the amplifier has its own gain and filters, and the
    potential is measured against all electrodes, the temples, the vertex, or as it came.
    """
    setting = {name: draw(rng, *values) for name, values in machine.items()}
    near = np.exp(-0.5 * (ANGLES / 0.5) ** 2) * rng.uniform(0, 1, ANGLES.shape)
    np.fill_diagonal(near, 0)
    mixing = np.eye(N_SCALP) + setting["misplaced"] * near
    mixing /= mixing.sum(axis=1, keepdims=True)
    mixing *= setting["gain"] * rng.lognormal(0, setting["electrode_gain"], N_SCALP)[:, None]
    x = scalp_uv @ mixing.T.astype(np.float32)
    band = (setting["highpass_hz"], min(setting["lowpass_hz"], 0.45 * SFREQ_HZ))
    x = signal.sosfilt(signal.butter(1, band, "bandpass", fs=SFREQ_HZ, output="sos"), x, axis=0)
    reference = rng.choice(["as it came", "average", "temples", "vertex"], p=(0.4, 0.3, 0.2, 0.1))
    names = {"average": ELECTRODES[:-1], "temples": ("T3", "T4"), "vertex": ("Cz",)}.get(reference)
    if names:
        x -= x[:, [ELECTRODES.index(name) for name in names]].mean(axis=1, keepdims=True)
    return x.astype(np.float32)


Episode = tuple[float, float, np.ndarray]


def simulate_eeg(
    seconds: float,
    patient: Mapping[str, float],
    episodes: Sequence[Episode],
    rng: np.random.Generator,
    domain: Domain = STANDARD,
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
    if rng.random() < domain.ordinary_states:
        odds = (0.3, 0.4, 0.2, 0.1)
    state = str(rng.choice(["awake", "slow", "sleep", "suppressed"], p=odds))
    brain = simulate_background(n, patient, state, rng)
    for start_s, end_s, opinion in episodes:
        a, b = max(0, round(start_s * SFREQ_HZ)), min(n, round(end_s * SFREQ_HZ))
        ramp = np.minimum(np.arange(b - a), np.arange(b - a)[::-1]) / (2 * SFREQ_HZ)
        ramp = ramp.clip(0, 1)[:, None].astype(np.float32)
        if rng.random() < domain.mimic_shares[0 if opinion[-1] > 0.5 else 1]:
            brain[a:b] += _mimic(b - a, str(rng.choice(domain.mimics)), rng).astype(np.float32)
        if opinion[-1] < 0.85:
            wave = simulate_pattern(opinion, b - a, patient, rng, domain).astype(np.float32)
            gain = np.float32(_gain(wave, brain[a:b], patient["stands_out"], opinion[-1]))
            if gain > 1:  # half of it by the rest receding
                gain = np.sqrt(gain)
                brain[a:b] *= 1 - ramp * (1 - 1 / gain)
            brain[a:b] += gain * ramp * wave
        if opinion[0] > 0.3:  # post-ictal attenuation
            brain[b : b + 30 * SFREQ_HZ] *= np.float32(rng.uniform(0.3, 0.8))
    recording = add_artefacts(brain, patient, rng)
    if domain.machine is not None:
        recording[:, :N_SCALP] = record(recording[:, :N_SCALP], domain.machine, rng)
    return recording
