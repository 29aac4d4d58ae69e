"""Building blocks: random numbers, potentials over the scalp (19,), time courses (T,) at 200 Hz."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from scipy import fft, signal

from hmsutils.competition import ELECTRODES, SFREQ_HZ
from hmsutils.signals import DOUBLE_BANANA, ELECTRODE_XYZ, bipolar
from hmsutils.simulate.domains import Part

FRONT, UP, MIRROR = np.eye(3)[1], np.eye(3)[2], np.array([-1, 1, 1])
EYE = np.array([0.85, 0.6, 0.1])


def sample_lognormal(rng: Generator, p10: float, p50: float, p90: float) -> float:
    """A positive number with the given percentiles (two-sided lognormal, tails cut at 2.5 σ)."""
    z = np.clip(rng.standard_normal(), -2.5, 2.5) / 1.2816
    return float(p50 * (p90 / p50 if z > 0 else p50 / p10) ** z)


def sample_focus(side: int, rng: Generator) -> np.ndarray:
    """(3,) direction on the left (-1) or right (+1) hemisphere, from frontal to occipital."""
    azimuth = np.radians(rng.uniform(-60, 70))
    return np.array([side * np.cos(azimuth), np.sin(azimuth), rng.uniform(0.2, 0.9)])


def field(source: np.ndarray, width: float, tilt: np.ndarray | None = None) -> np.ndarray:
    """(19,) normalized potential with its maximum in direction `source` (right, front, up), fallen
    to 61 % at the angle `width` (radians). With `tilt` (3,), the tangential part of a dipole, its
    other pole appears beside the first."""
    angle = np.arccos(np.clip(ELECTRODE_XYZ @ (source / np.linalg.norm(source)), -1, 1))
    potential = np.exp(-0.5 * (angle / width) ** 2)
    return normalize_field(potential if tilt is None else potential * (1 + ELECTRODE_XYZ @ tilt))


def spread(course: np.ndarray, potential: np.ndarray) -> np.ndarray:
    """(T, C) float32: a time course (T,) times a potential over C electrodes. The samples of an
    electrode lie side by side in memory: sums and products of such arrays are faster."""
    return np.multiply.outer(np.float32(potential), np.float32(course)).T


def normalize_field(potential: np.ndarray) -> np.ndarray:
    """(19,) scaled so that its largest difference in the longitudinal bipolar montage is 1."""
    return potential / np.abs(bipolar(potential, ELECTRODES[:-1], DOUBLE_BANANA)).max()


def cycles(rate_hz: np.ndarray, interval_cv: float, rng: Generator):
    """A clock of rate (T,) whose intervals vary by the coefficient of variation `interval_cv`: (T,)
    phase, growing by 1 from one cycle's start to the next; samples where cycles start."""
    elapsed = np.cumsum(rate_hz) / SFREQ_HZ
    n = int(elapsed[-1] * 1.5) + 20
    shape = 1 / max(interval_cv, 0.02) ** 2
    starts = np.cumsum(np.clip(rng.gamma(shape, 1 / shape, n), 0.35, 2.2)) - rng.uniform(0, 1)
    phase = np.interp(elapsed, starts, np.arange(n), left=0.0)
    return phase, np.searchsorted(elapsed, starts[(starts > 0) & (starts < elapsed[-1])])


def convolve_events(n: int, starts: np.ndarray, heights, template: np.ndarray) -> np.ndarray:
    """(n,) signal with `template` added at every start (samples), scaled by its height."""
    course, template = np.zeros(n, np.float32), template.astype(np.float32)
    for start, height in zip(starts, np.float32(heights), strict=True):
        course[start : start + len(template)] += height * template[: n - start]
    return course


def bump(length_s: float, peak: float = 0.5) -> np.ndarray:
    """One positive hump of the given length; `peak` is where its maximum sits (0 … 1)."""
    t = np.linspace(0, 1, max(5, round(length_s * SFREQ_HZ)))
    return np.sin(np.pi * t ** (np.log(0.5) / np.log(peak))) ** 2


def slow_noise(n: int, cutoff_hz: float, rng: Generator) -> np.ndarray:
    """(n,) slow random course of mean 0 and standard deviation about 1."""
    knots = rng.standard_normal(max(4, int(n / SFREQ_HZ * 2 * cutoff_hz) + 3))
    return 1.2 * np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)


def coloured_noise(amplitude: Callable, n: int, channels: int, rng: Generator) -> np.ndarray:
    """(channels, n) float32 noise of variance 1 with the amplitude spectrum `amplitude(f_hz)`."""
    size = fft.next_fast_len(n, real=True)
    weights = amplitude(fft.rfftfreq(size, 1 / SFREQ_HZ)).astype(np.float32)
    weights[0] = 0
    weights *= size / (2 * np.sqrt(np.square(weights).sum() + 1e-30))
    spectrum = rng.standard_normal((channels, len(weights), 2), np.float32).view(np.complex64)
    return fft.irfft(spectrum[..., 0] * weights, size)[:, :n]


def discharge(rng: Generator, duration: float = 1.0) -> np.ndarray:
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


def pulse(rng: Generator, duration: float = 1.0) -> np.ndarray:
    """A discharge of another family: a Gaussian spike and a slow wave that decays after it."""
    t = np.arange(SFREQ_HZ // 2) / SFREQ_HZ
    spike_s = duration * rng.uniform(0.02, 0.06)
    after = np.clip(t - 2 * spike_s, 0, None) / (duration * rng.uniform(0.05, 0.1))
    wave = -np.exp(-0.5 * ((t - 2.5 * spike_s) / spike_s) ** 2)
    wave += rng.uniform(0.0, 1.5) * rng.choice([-1, 1, 1]) * after * np.exp(-after)
    return wave / np.ptp(wave)


def rhythm(phase: np.ndarray, rng: Generator) -> np.ndarray:
    """Uniform waves of peak-to-peak about 1 without an interval between them: skewed, sometimes
    notched."""
    angle = 2 * np.pi * phase
    wave = np.sin(angle + rng.uniform(-0.7, 0.7) * np.sin(angle))
    return 0.5 * (wave + rng.uniform(0, 0.2) * np.sin(2 * angle + rng.uniform(0, 2 * np.pi)))


def teeth(phase: np.ndarray, rng: Generator) -> np.ndarray:
    """A rhythm of another family: rounded saw teeth."""
    wave = signal.sawtooth(2 * np.pi * phase, rng.uniform(0.25, 0.75))
    return 0.5 * np.convolve(wave, np.hanning(25) / 12, "same")


def any_shape(rng: Generator, duration: float = 1.0) -> np.ndarray:
    """A discharge of phases, or of any smooth shape, which may be several spikes: under 0.5 s a
    waveform is a discharge whatever its number of phases (ACNS 2021)."""
    if rng.random() < 0.5:
        return discharge(rng, duration)
    length = min(round(duration * rng.uniform(0.12, 0.45) * SFREQ_HZ), SFREQ_HZ // 2)
    wave = slow_noise(length, rng.uniform(3, 12), rng) * bump(length / SFREQ_HZ, 0.35)
    wave = np.convolve(wave, np.hanning(9) / 4, "same")
    return wave / np.ptp(wave)


def any_rhythm(phase: np.ndarray, rng: Generator) -> np.ndarray:
    """A rhythm of any waveform, its harmonics drawn, on which sometimes fast activity rides."""
    if rng.random() < 0.4:
        return rhythm(phase, rng)
    cycle, decay = np.linspace(0, 2 * np.pi, 128), rng.uniform(1.8, 3.5)
    wave = sum(k**-decay * np.sin(k * cycle + rng.uniform(0, 2 * np.pi)) for k in range(1, 6))
    wave = np.interp(2 * np.pi * (phase % 1), cycle, wave / np.ptp(wave))
    if rng.random() < 0.2:
        fast = np.sin(2 * np.pi * rng.uniform(12, 24) * np.arange(len(phase)) / SFREQ_HZ)
        wave += rng.uniform(0.1, 0.3) * fast * (wave > 0.1)
    return wave * (1 + 0.12 * slow_noise(len(phase), 1.0, rng))


def wavelet(rng: Generator, duration: float = 1.0) -> np.ndarray:
    """A discharge of another family: a Gaussian times a cosine."""
    t = np.arange(-SFREQ_HZ // 4, SFREQ_HZ // 4) / SFREQ_HZ
    wave = np.exp(-0.5 * (t / (duration * rng.uniform(0.03, 0.07))) ** 2)
    wave *= -np.cos(2 * np.pi * rng.uniform(3, 7) / duration * t + rng.uniform(-0.8, 0.8))
    return wave / np.ptp(wave)


def peaks(phase: np.ndarray, rng: Generator) -> np.ndarray:
    """A rhythm of another family: narrow peaks, wide valleys."""
    wave = np.exp(rng.uniform(1, 4) * (np.cos(2 * np.pi * phase) - 1))
    return rng.choice([-1, 1]) * (wave - wave.mean())


# A domain's family of waves: its discharges and its rhythms.
FAMILIES = {
    "phases": (discharge, rhythm), "shapes": (any_shape, any_rhythm), "pulses": (pulse, teeth),
    "wavelets": (wavelet, peaks),
}  # fmt: skip
# Waves of healthy rhythms, by their angle; peak-to-peak about 2.
RHYTHMS: dict[str, Callable] = {
    "sine": np.sin,
    "harmonic": lambda a: np.sin(a) + 0.25 * np.sin(2 * a + 0.8),
    "arch": lambda a: 1.3 - 2 * np.abs(np.sin(a / 2)),
    "notched": lambda a: np.sin(a) + 0.5 * np.sin(2 * a),
    "peaked": lambda a: 2 * np.exp(2.5 * (np.cos(a) - 1)) - 0.6,
    "beats": lambda a: 0.5 * (np.sin(a) + 0.8 * np.sin(1.09 * a + 1) + 0.6 * np.sin(0.93 * a + 2)),
}
# Single waves: humps (height, seconds), negative down in value.
TRANSIENTS = {
    "vertex": ((-0.8, 0.18), (0.2, 0.2)), "K-complex": ((-0.6, 0.25), (0.4, 0.55)),
    "lambda": ((0.8, 0.12), (-0.2, 0.12)), "slow wave": ((0.2, 0.08), (-0.8, 0.35)),
    "saccade": ((1.0, 0.6),),
}  # fmt: skip


def activity(part: Part, n: int, rng: Generator) -> np.ndarray:
    """(n,) course of a part of healthy EEG, peak-to-peak about 1 where it is there. Its `wave`: one
    of `RHYTHMS`, "noise" around its frequency, or one of `TRANSIENTS`."""
    starts = rng.integers(0, n, rng.poisson(part.per_min * n / SFREQ_HZ / 60))
    heights = rng.lognormal(0, 0.3, len(starts))
    if part.wave in TRANSIENTS:
        humps = [height * bump(s * rng.uniform(0.8, 1.25)) for height, s in TRANSIENTS[part.wave]]
        return convolve_events(n, starts, heights, np.concatenate(humps))
    hz, envelope, drift = rng.uniform(*part.hz), np.zeros(n), 0.0
    for start, height in zip(starts, heights, strict=True):
        hump = height * bump(rng.uniform(*part.seconds))[: n - start] ** 0.5
        envelope[start : start + len(hump)] = np.maximum(envelope[start : start + len(hump)], hump)
    if not part.per_min:  # it waxes and wanes: slowly, or in spindles as alpha of narrow band does
        speed_hz, steady = rng.uniform(0.1, 1.5) * min(1, hz / 10), rng.uniform(0, 2)
        wander = steady + slow_noise(n, speed_hz, rng) + 1j * slow_noise(n, speed_hz, rng)
        wander /= np.hypot(steady, 1.2)
        envelope, drift = np.abs(wander), np.angle(wander)
    if part.wave == "noise":
        spread_hz = hz * part.jitter
        noise = coloured_noise(lambda f: np.exp(-0.5 * ((f - hz) / spread_hz) ** 2), n, 1, rng)
        return 0.35 * envelope * noise[0]
    angle = np.cumsum(hz * (1 + part.jitter * slow_noise(n, 1.0, rng))) * 2 * np.pi / SFREQ_HZ
    return 0.5 * envelope * RHYTHMS[part.wave](angle + drift)
