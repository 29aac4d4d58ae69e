"""A recording: background, patterns and artefacts of one patient, as an amplifier writes them.

Each of them is a sum of time courses (T,) times potentials over the scalp (19,).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from scipy import signal
from scipy.ndimage import uniform_filter1d

from hmsutils.competition import ELECTRODES, SFREQ_HZ
from hmsutils.signals import ANGLES, DOUBLE_BANANA, ELECTRODE_XYZ, N_SCALP, bipolar
from hmsutils.simulate import domains, waves
from hmsutils.simulate.domains import RANGES, RATES, STANDARD, Domain, Part, Patient, Range
from hmsutils.simulate.patterns import simulate_pattern
from hmsutils.simulate.waves import (
    FRONT,
    UP,
    convolve_events,
    field,
    sample_lognormal,
    slow_noise,
    spread,
)

STATES = ("awake", "slow", "sleep", "suppressed")  # of the background; the last: burst suppression
BARELY_VISIBLE_SNR = 0.3  # of a pattern that can just be seen, as `visible_gain` measures it
Episode = tuple[float, float, np.ndarray]  # start_s, end_s, soft label (6,)


def sample_patient(rng: Generator, ranges: Mapping[str, Range] = RANGES) -> dict[str, float]:
    """A patient: one number per range, and the probability that a pattern is on the left."""
    patient = {name: sample_lognormal(rng, *values) for name, values in ranges.items()}
    return patient | {"left": float(np.clip(rng.beta(0.7, 0.7), 0.05, 0.95))}


def simulate_eeg(
    seconds: float, patient: Patient, episodes: Sequence[Episode], rng: Generator, domain=STANDARD,
    *, pattern_uv: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """A recording with patterns: (T, 20) float32 microvolts at 200 Hz, columns as in `ELECTRODES`,
    no NaN.
    Of an episode (start_s, end_s, soft label), the soft label (6,), the probability that a rater
    names each class there, decides which pattern appears and how well it is formed. Without any
    the person is healthy. `domain` has the kinds of seizures and artefacts, and the amplifier; its
    ranges have made the patient. The patterns alone are added to `pattern_uv` (T, 19), if given,
    as they are before they are made as loud as the domain says, and recorded."""
    n = round(seconds * SFREQ_HZ)
    clean = domain.cleaned > 0 and rng.random() < domain.cleaned
    # Patterns on the EEG of the healthy are seldom, else alpha would say that there is one.
    if not episodes or (domain.healthy and rng.random() < domain.healthy / 8):
        brain_uv = simulate_healthy(n, None, domain.parts, rng)
        if not episodes and not clean and rng.random() < domain.mimic_shares[1]:
            brain_uv += simulate_mimic(n, str(rng.choice(domain.mimics)), rng).astype(np.float32)
    else:
        other = max(soft_label[-1] for *_, soft_label in episodes)
        odds = (0.35, 0.25, 0.25, 0.15) if other > 0.5 else (0.3, 0.5, 0.13, 0.07)
        if rng.random() < domain.ordinary_states:
            odds = (0.3, 0.4, 0.2, 0.1)
        brain_uv = simulate_background(n, patient, str(rng.choice(STATES, p=odds)), rng)
    for start_s, end_s, soft_label in episodes:
        a, b = max(0, round(start_s * SFREQ_HZ)), min(n, round(end_s * SFREQ_HZ))
        wave = _add_episode(brain_uv[a:b], soft_label, patient, rng, domain, clean)
        if pattern_uv is not None:
            pattern_uv[a:b] += wave
        if soft_label[0] > 0.3:  # post-ictal attenuation
            brain_uv[b : b + 30 * SFREQ_HZ] *= np.float32(rng.uniform(*domain.post_ictal))
    if domain.loudness_uv is not None:
        loud_uv = np.abs(bipolar(brain_uv[::8], ELECTRODES[:-1], DOUBLE_BANANA)).mean()
        brain_uv *= np.float32(sample_lognormal(rng, *domain.loudness_uv) / max(loud_uv, 0.1))
    no_ekg = ((0, 0), (0, 1))
    recording = np.pad(brain_uv, no_ekg) if clean else add_artefacts(brain_uv, patient, rng)
    if domain.amplifier is not None:
        recording[:, :N_SCALP] = apply_amplifier(recording[:, :N_SCALP], domain.amplifier, rng)
    return recording


def _add_episode(
    brain_uv: np.ndarray, soft_label, patient: Patient, rng, domain: Domain, clean: bool
) -> np.ndarray | float:
    """Add a mimic, a pattern, both or none to (T, 19) in place; patterns fade in and out in 2 s.
    The pattern (T, 19), or 0."""
    n, other = len(brain_uv), soft_label[-1]
    if not clean and rng.random() < domain.mimic_shares[0 if other > 0.5 else 1]:
        brain_uv += simulate_mimic(n, str(rng.choice(domain.mimics)), rng).astype(np.float32)
    if other >= 0.85:
        return 0.0
    ramp = np.minimum(np.arange(n), np.arange(n)[::-1]) / (2 * SFREQ_HZ)
    ramp = ramp.clip(0, 1)[:, None].astype(np.float32)
    wave = simulate_pattern(soft_label, n, patient, rng, domain).astype(np.float32)
    gain = np.float32(visible_gain(wave, brain_uv, patient["min_snr"], other))
    if gain > 1:  # half of its decibels by a weaker background
        gain = np.sqrt(gain)
        brain_uv *= 1 - ramp * (1 - 1 / gain)
    wave = gain * ramp * wave
    brain_uv += wave
    return wave


def visible_gain(pattern: np.ndarray, rest: np.ndarray, min_snr: float, uncertainty: float):
    """Factor that makes a pattern (T, 19) as visible in the rest (T, 19) as its votes say it is.

    Its visibility, or SNR, is its peak to peak over the rest's, in the derivation where that is
    largest. Raters agree only on what they see: the SNR is at least `min_snr` without uncertainty
    (share of votes for "Other"), and falls with it to `BARELY_VISIBLE_SNR`."""
    snr = float((peak_to_peak(pattern) / (peak_to_peak(rest) + 1.0)).max())
    return max(snr, min_snr) ** (1 - uncertainty) * BARELY_VISIBLE_SNR**uncertainty / snr


def peak_to_peak(eeg_uv: np.ndarray) -> np.ndarray:
    """(18,) of every derivation: the upper quartile of the peak to peak in pieces of 2 s."""
    chains = bipolar(eeg_uv, ELECTRODES[:-1], DOUBLE_BANANA)
    length = min(2 * SFREQ_HZ, len(chains))
    pieces = chains[: len(chains) // length * length].reshape(-1, length, chains.shape[1])
    return np.percentile(np.ptp(pieces, axis=1), 75, axis=0)


def simulate_healthy(n: int, course: Sequence[str] | None, parts: Mapping[str, Part], rng):
    """(n, 19) float32 microvolts of a healthy person who goes through the states of `course`
    (`domains.HEALTHY_STATES`; None: one of `domains.COURSES`): 1/f and what these states have."""
    states, courses = domains.HEALTHY_STATES, domains.COURSES
    course = course or list(courses)[rng.choice(len(courses), p=list(courses.values()))]
    uv, knee_hz, slope = sample_lognormal(rng, 4, 8, 14), rng.uniform(0.5, 3), rng.uniform(0.9, 2)
    out = _one_over_f(n, uv * (1.6 if "child" in course[0] else 1), knee_hz, slope, rng)
    place = np.searchsorted(n * np.sort(rng.uniform(0.1, 0.9, len(course) - 1)), np.arange(n))
    change = rng.integers(40, 400)  # samples that a change of state takes
    age = rng.lognormal(0, 0.15)  # and skull: everything is larger or smaller
    for name in dict.fromkeys(name for state in course for name in states[state]):
        hz = rng.uniform(*parts[name].hz)
        part, side = replace(parts[name], hz=(hz, hz)), rng.choice([-1, 1])
        if rng.random() >= part.share:
            continue
        strength = np.array([states[state].get(name, 0.0) for state in course])
        gate = uniform_filter1d(strength[place], change, mode="nearest")
        here = np.array(part.at) * [side, 1, 1] + rng.normal(0, 0.12, 3)
        width = part.width * rng.uniform(0.8, 1.3)
        near, far = field(here, width), field(here * waves.MIRROR, width)
        far *= part.mirror * (rng.uniform(0.4, 1) if rng.random() < 0.15 else rng.uniform(0.85, 1))
        sources = [waves.normalize_field(near + far)]
        if part.mirror > 0 and not part.per_min:  # the two sides are not quite in step
            sources.append(rng.uniform(0.2, 0.6) * waves.normalize_field(near - far))
        if not part.per_min:  # and no place is quite with another
            local = 0.6 if part.wave == "noise" else rng.uniform(0.3, 1.0)
            sources += [local * field(here + rng.normal(0, 0.6, 3), 0.6) for _ in range(3)]
        size_uv = age * sample_lognormal(rng, *part.uv)
        activity = [size_uv * gate * waves.activity(part, n, rng) for _ in sources]
        out += (np.float32(sources).T @ np.float32(activity)).T
    return out


def _one_over_f(n: int, size_uv: float, knee_hz: float, slope: float, rng: Generator) -> np.ndarray:
    """(n, 19) float32 noise whose power falls with frequency, alike in electrodes that are near."""
    mixing = np.exp(-0.5 * (ANGLES / rng.uniform(0.35, 0.6)) ** 2) + 0.25 * np.eye(N_SCALP)
    mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
    latent = waves.coloured_noise(lambda f: (f**2 + knee_hz**2) ** (-slope / 4), n, N_SCALP, rng)
    return ((1.3 * size_uv * mixing).astype(np.float32) @ latent).T


def simulate_background(n: int, patient: Patient, state: str, rng: Generator) -> np.ndarray:
    """(n, 19) float32 microvolts: 1/f, rhythms that come and go, waves of the state (`STATES`)."""
    size_uv = patient["background_uv"] * (1.3 if state in ("slow", "sleep") else 1.0)
    out = _one_over_f(n, size_uv, patient["knee_hz"], patient["slope"], rng)
    for hz, spread_hz, uv, source, width in _background_rhythms(patient, state, rng):
        course = waves.coloured_noise(
            lambda f, c=hz, s=spread_hz: np.exp(-0.5 * ((f - c) / s) ** 2), n, 1, rng
        )
        course = course[0] * uv * (1 + 0.8 * slow_noise(n, 0.2, rng)).clip(0)
        out += spread(course, field(source, width))
    if state == "sleep":  # vertex waves and spindles
        starts = rng.integers(0, n, rng.poisson(n / SFREQ_HZ / 8))
        t = np.arange(SFREQ_HZ) / SFREQ_HZ
        spindle = np.sin(2 * np.pi * rng.uniform(12, 14) * t) * np.sin(np.pi * t) ** 2
        course = convolve_events(n, starts, rng.uniform(10, 30, len(starts)), spindle)
        course += convolve_events(n, starts, rng.uniform(0, 90, len(starts)), -waves.bump(0.3))
        out += spread(course, field(UP + 0.2 * FRONT, 0.6))
    gate = (1 + 0.2 * slow_noise(n, 0.05, rng)).clip(0.4, 1.8)
    if state == "suppressed":
        starts = rng.integers(0, n, 1 + rng.poisson(n / SFREQ_HZ / rng.uniform(4, 12)))
        heights, burst = rng.uniform(0.6, 1.5, len(starts)), waves.bump(rng.uniform(1, 3), 0.3)
        low, bursts = rng.uniform(0.1, 0.3), convolve_events(n, starts, heights, burst)
        gate = low + bursts.clip(0, 1.8)
    if rng.random() < 0.15:  # one hemisphere weaker
        side = rng.choice([-1, 1]) * ELECTRODE_XYZ[:, 0]
        out *= (1 - rng.uniform(0.2, 0.6) * (side > 0.1)).astype(np.float32)
    return out * gate[:, None].astype(np.float32)


def _background_rhythms(patient: Patient, state: str, rng: Generator) -> list[tuple]:
    """(rate and its spread in Hz, microvolts, source, width) of two alpha rhythms and some more."""
    uv = {"awake": 1.0, "slow": 0.3}.get(state, 0.0) * patient["posterior_uv"]
    hz = patient["posterior_hz"] * (1.0 if state == "awake" else 0.75)
    rhythms = [(hz, 0.5, uv, -FRONT + 0.4 * side * np.eye(3)[0], 0.55) for side in (-1, 1)]
    for _ in range(rng.poisson(1.5)):  # theta, beta, polymorphic delta, anywhere
        hz = sample_lognormal(rng, 1.2, 4.0, 16.0)
        uv = patient["rhythm_uv"] * (2.0 if state == "slow" and hz < 4 else 1.0) * min(1, 6 / hz)
        spread_hz = rng.uniform(0.2, 0.6) * hz
        rhythms.append((hz, spread_hz, uv, waves.sample_focus(rng.choice([-1, 1]), rng), 0.6))
    return rhythms


def simulate_mimic(n: int, kind: str, rng: Generator) -> np.ndarray:
    """(n, 19) an artefact like a pattern: "rocking", "chewing", "eyes", "pulse" under an electrode,
    "heart" everywhere, "sweat", "tremor", "patting" of a child, faster and slower, "nystagmus",
    "ventilator", whose tube shakes, or "electrode": one that pops rhythmically."""
    rate_hz = np.full(n, sample_lognormal(rng, 0.6, 1.3, 4.0))
    rate_hz *= {"tremor": 3.5, "patting": 1.8, "ventilator": 0.25}.get(kind, 1)
    if kind in ("tremor", "patting"):
        rate_hz *= (1 + rng.uniform(0, 0.3) * slow_noise(n, 0.05, rng)).clip(0.4)
    phase, starts = waves.cycles(rate_hz, rng.uniform(0.05, 0.4), rng)
    bouts = (slow_noise(n, 0.1, rng) + rng.uniform(0, 1)).clip(0, 1)[:, None]
    one = np.arange(N_SCALP) == rng.integers(N_SCALP)
    if kind == "rocking":
        course = waves.rhythm(phase, rng)
        wave = spread(course, rng.normal(0, sample_lognormal(rng, 8, 25, 60), N_SCALP))
    elif kind == "chewing":
        gate = convolve_events(n, starts, np.ones(len(starts)), waves.bump(rng.uniform(0.15, 0.4)))
        noise = waves.coloured_noise(lambda f: f / (1 + (f / 40) ** 2) * (f > 12), n, N_SCALP, rng)
        size_uv = sample_lognormal(rng, 8, 25, 60)
        wave = size_uv * noise.T * gate[:, None] * (1.1 - ELECTRODE_XYZ[:, 2])
    elif kind == "eyes":
        course = waves.rhythm(phase, rng) * sample_lognormal(rng, 40, 90, 180)
        wave = spread(course, field(FRONT, 0.4))
    elif kind == "pulse":
        wave = spread(waves.rhythm(phase, rng) * sample_lognormal(rng, 20, 50, 120), one)
    elif kind == "heart":
        beat = -waves.bump(0.03) * sample_lognormal(rng, 10, 25, 60)
        course = convolve_events(n, starts, np.ones(len(starts)), beat)
        wave = spread(course, 1 + 0.7 * rng.normal(0, 1, N_SCALP))
    elif kind in ("tremor", "patting"):  # of the electrodes that lie on the pillow
        touched = field(waves.sample_focus(rng.choice([-1, 1]), rng), 0.6)
        course = waves.any_rhythm(phase, rng) * sample_lognormal(rng, 20, 50, 120)
        wave = spread(course, touched * rng.normal(0.7, 0.5, N_SCALP))
    elif kind == "nystagmus":
        jerk = waves.any_rhythm(phase, rng) * sample_lognormal(rng, 25, 60, 120)
        wave = spread(jerk, field(waves.EYE, 0.35) - field(waves.EYE * waves.MIRROR, 0.35))
    elif kind == "ventilator":
        gate = convolve_events(n, starts, np.ones(len(starts)), waves.bump(rng.uniform(0.4, 1.2)))
        noise = waves.coloured_noise(lambda f: np.float32((f > 2) & (f < 12)), n, 1, rng)[0]
        wave = spread(gate * noise, rng.normal(0, sample_lognormal(rng, 10, 30, 70), N_SCALP))
    elif kind == "sweat":
        slow = np.stack([slow_noise(n, rng.uniform(0.2, 0.8), rng) for _ in range(4)], axis=1)
        wave = sample_lognormal(rng, 20, 60, 150) * slow @ rng.normal(0, 0.5, (4, N_SCALP))
    else:
        decay = np.exp(-np.arange(100) / 15)
        pops = convolve_events(n, starts, rng.normal(1, 0.3, len(starts)), decay)
        wave = spread(pops * sample_lognormal(rng, 30, 80, 200), one)
    return wave * bouts


def add_artefacts(brain_uv: np.ndarray, patient: Patient, rng: Generator, rates=RATES):
    """(T, 19) brain → (T, 20) recording: eyes, muscle, heart, sweat, pops, mains, offsets, EKG."""
    n, seconds = len(brain_uv), len(brain_uv) / SFREQ_HZ
    out = np.zeros((N_SCALP + 1, n), np.float32).T
    scalp = out[:, :N_SCALP]
    scalp += brain_uv
    starts = rng.integers(0, n, rng.poisson(patient["blinks_per_min"] * seconds / 60))
    sizes_uv, blink = rng.uniform(100, 200, len(starts)), waves.bump(rng.uniform(0.2, 0.4), 0.4)
    blinks = convolve_events(n, starts, sizes_uv, blink)
    scalp += spread(blinks, field(FRONT, 0.4))
    muscle = waves.coloured_noise(lambda f: f / (1 + (f / 45) ** 2) * (f > 15), n, N_SCALP, rng).T
    bouts = slow_noise(n, 0.05, rng).clip(0) * patient["muscle_uv"]
    scalp += muscle * spread(bouts, 1.2 - ELECTRODE_XYZ[:, 2])
    _, beats = waves.cycles(np.full(n, patient["heart_hz"]), 0.05, rng)
    t = np.linspace(-3, 3, 24)
    qrs = convolve_events(n, beats, np.ones(len(beats)), (1 - 1.2 * t**2) * np.exp(-(t**2)))
    scalp += spread(qrs, patient["heart_uv"] * (1 + rng.normal(0, 1, N_SCALP)))
    if rng.random() >= rates["no_ekg"]:
        out[:, -1] = patient["ekg_uv"] * (qrs + 0.05 * slow_noise(n, 1.0, rng))
    for channel in rng.choice(N_SCALP, rng.poisson(3.0)):  # sweat, movement
        scalp[:, channel] += patient["drift_uv"] * slow_noise(n, 0.2, rng)
    for channel in rng.choice(N_SCALP, rng.poisson(seconds / 150)):  # pop: step and recovery
        decay = np.exp(-np.arange(2 * SFREQ_HZ) / rng.uniform(20, 100))
        sizes_uv = rng.choice([-1, 1]) * rng.uniform(50, 300, 1)
        scalp[:, channel] += convolve_events(n, rng.integers(0, n, 1), sizes_uv, decay)
    line = np.sin(2 * np.pi * rng.choice([50, 60], p=[0.1, 0.9]) * np.arange(n) / SFREQ_HZ)
    line_uv = 0.35 * 10 ** (min(patient["mains_db"], 85) / 20)
    out += spread(line, line_uv * rng.lognormal(0, 0.5, N_SCALP + 1))
    out += patient["dc_uv"] * rng.normal(0, 1, N_SCALP + 1).astype(np.float32)
    if rng.random() < rates["bad"]:  # detached, or far out
        size_uv = 0.0 if rng.random() < 0.3 else rng.uniform(2000, 12000)
        scalp[:, rng.integers(0, N_SCALP)] = size_uv * (line + slow_noise(n, 0.5, rng))
    return out


def apply_amplifier(scalp_uv: np.ndarray, amplifier: Mapping[str, Range], rng: Generator):
    """(T, 19) float32 microvolts as one amplifier of these ranges would have written them, with its
    gain and filters: electrodes are misplaced and unequal, the reference is unchanged, the average,
    the temples or the vertex."""
    setting = {name: sample_lognormal(rng, *values) for name, values in amplifier.items()}
    near = np.exp(-0.5 * (ANGLES / 0.5) ** 2) * rng.uniform(0, 1, ANGLES.shape)
    np.fill_diagonal(near, 0)
    mixing = np.eye(N_SCALP) + setting["misplaced"] * near
    mixing /= mixing.sum(axis=1, keepdims=True)
    if "reference_uv" in setting:  # a bad reference is in all electrodes
        noise = waves.coloured_noise(lambda f: (f + 1) ** -0.5, len(scalp_uv), 1, rng)
        scalp_uv = scalp_uv + np.float32(setting["reference_uv"]) * noise.T
    mixing *= setting["gain"] * rng.lognormal(0, setting["electrode_gain"], N_SCALP)[:, None]
    x = (mixing.astype(np.float32) @ scalp_uv.T).T
    band = (setting["highpass_hz"], min(setting["lowpass_hz"], 0.45 * SFREQ_HZ))
    order = round(setting.get("order", 1))
    x = signal.sosfilt(signal.butter(order, band, "bandpass", fs=SFREQ_HZ, output="sos"), x, axis=0)
    references = [(), ELECTRODES[:-1], ("T3", "T4"), ("Cz",)]
    names = references[rng.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
    if names:
        x -= x[:, [ELECTRODES.index(name) for name in names]].mean(axis=1, keepdims=True)
    return x.astype(np.float32)


def lose(eeg_uv: np.ndarray, losses: Mapping[str, float], rng: Generator) -> None:
    """Take from a recording (T, 20), in place, what others often lack, each with its probability in
    `losses`: all but 10–30 s "centre only", its beginning or end ("edge"), a gap of 1–4 s ("gap"),
    1–6 "electrodes". Then there are NaN or zeros; an electrode may also be nothing but noise."""
    n, happens = len(eeg_uv), {name for name, share in losses.items() if rng.random() < share}
    time_s, lost = (np.arange(n) - n / 2) / SFREQ_HZ, np.zeros(n, bool)
    if "centre only" in happens:
        before_s, after_s = rng.uniform(5, 15, 2)
        lost |= (time_s < -before_s) | (time_s >= after_s)
    if "edge" in happens:
        lost |= rng.choice([-1, 1]) * time_s > time_s[-1] - rng.uniform(1, 15)
    if "gap" in happens:
        lost |= np.abs(time_s - rng.uniform(time_s[0], time_s[-1])) < rng.uniform(0.5, 2)
    if "electrodes" in happens:
        noise_uv = sample_lognormal(rng, 10, 60, 400)
        for channel in rng.choice(N_SCALP, rng.integers(1, 7), replace=False):
            noise = noise_uv * waves.coloured_noise(lambda f: 1 / (f + 0.5), n, 1, rng)[0]
            eeg_uv[:, channel] = (np.nan, 0.0, noise)[rng.integers(3)]
    eeg_uv[lost] = rng.choice([np.nan, np.nan, 0.0])
