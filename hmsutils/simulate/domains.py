"""What the simulator can produce: patients, healthy EEG, kinds of waves, artefacts, amplifiers.

Numbers that differ between patients are given by their (p10, p50, p90). They are measurements: ACNS
critical-care terminology 2021, expert measurements, and statistics of real recordings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

VERSION = 6  # of the whole simulator: raise it when the same seed gives other values
Range = tuple[float, float, float]  # p10, p50, p90
Patient = Mapping[str, float]  # a number for every range, see `recording.sample_patient`

# Background and artefacts are fitted to real files: |x| p50/p95/p99 16/59/87 µV, log-log slope
# -1.1 … -3.3, mains 24 dB [1–85], offsets 16 µV [2–70].
RANGES: dict[str, Range] = {
    "background_uv": (9.0, 18.0, 32.0),
    "slope": (1.5, 2.3, 3.0),
    "knee_hz": (0.4, 0.9, 2.0),
    "posterior_hz": (7.0, 9.0, 11.0),
    "posterior_uv": (0.5, 4.0, 18.0),
    "rhythm_uv": (1.0, 5.0, 14.0),
    "pattern_gain": (0.7, 1.0, 1.4),
    "min_snr": (1.0, 1.5, 2.5),  # of a pattern that all raters see, see `recording.visible_gain`
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
# Probabilities: an electrode is bad, the EKG is absent; seconds of an EEG, most of it, or minutes
# before it are NaN.
RATES = {"bad": 0.17, "no_ekg": 0.12, "gap": 0.03, "mostly_gap": 0.005, "long_gap": 0.06}
AMPLIFIER: dict[str, Range] = {
    "highpass_hz": (0.05, 0.3, 1.0),
    "lowpass_hz": (15.0, 40.0, 70.0),
    "gain": (0.6, 1.0, 1.6),
    "electrode_gain": (0.02, 0.05, 0.15),  # standard deviation of its logarithm
    "misplaced": (0.03, 0.08, 0.2),  # share of the neighbours' potential in an electrode's
}


@dataclass(frozen=True)
class Part:
    """A component of healthy EEG: a rhythm that waxes and wanes, or events."""

    hz: tuple[float, float]  # of its waves, one number per person; transients: of no meaning
    uv: Range  # peak to peak, in the bipolar derivation where it is largest
    at: tuple[float, float, float]  # source on the right side (right, front, up)
    width: float = 0.5  # of its field, see `waves.field`
    wave: str = "sine"  # see `waves.activity`
    mirror: float = 1.0  # the left side's part of it: 1 as much, 0 none, -1 as much, reversed
    share: float = 1.0  # of people who have it
    per_min: float = 0.0  # events a minute; 0: a rhythm
    seconds: tuple[float, float] = (0.5, 2.0)  # length of an event
    jitter: float = 0.03  # of its frequency, relative


_BACK, _SIDE, _CENTRE, _TOP = (0.3, -1, 0.3), (0.95, 0.1, 0.3), (0.6, 0, 0.8), (0.1, 0.1, 1)
_FRONT, _EYE, _CROWN = (0.35, 0.8, 0.5), (0.85, 0.6, 0.1), (0.2, 0.4, 0.9)
# Frequencies, voltages and durations: Kane et al. 2017 (glossary of the IFCN); Britton et al. 2016
# (atlas of the American Epilepsy Society) for sedatives, breach, driving and hyperventilation; the
# AASM manual for sleep; Niedermeyer for children and for hypnagogic hypersynchrony.
PARTS = {
    "alpha": Part((7.3, 12.5), (14, 34, 65), _BACK, 0.5, "harmonic"),
    "mu": Part((8, 12), (10, 22, 45), _CENTRE, 0.35, "arch", mirror=0.6, share=0.25),
    "beta": Part((15, 25), (3, 8, 16), _FRONT, 0.8, share=0.5, jitter=0.12),
    "sedatives": Part((15, 25), (12, 22, 45), _FRONT, 0.8, share=0.15, jitter=0.08),
    "breach": Part((7, 11), (25, 45, 90), (0.7, 0.2, 0.7), 0.3, "arch", mirror=0, share=0.05),
    "theta": Part((4, 7.5), (6, 15, 35), _CROWN, 0.9, "noise", jitter=0.25),
    "wicket": Part((6, 11), (25, 50, 100), _SIDE, 0.4, "arch", 0, 0.15, 5, (0.5, 1.5)),
    "temporal theta": Part((5, 6.5), (25, 50, 90), _SIDE, 0.45, "notched", 0, 0.12, 4, (2, 10)),
    "lambda": Part((0, 0), (15, 30, 50), _BACK, 0.4, "lambda", share=0.4, per_min=40),
    "slow eyes": Part((0.2, 0.5), (25, 50, 110), _EYE, 0.35, mirror=-1, jitter=0.3),
    "rapid eyes": Part((0, 0), (40, 90, 180), _EYE, 0.35, "saccade", -1, 1.0, 20),
    "spindles": Part((11, 15), (18, 32, 60), _TOP, 0.6, "sine", 1, 1.0, 6, jitter=0.02),
    "K-complexes": Part((0, 0), (75, 130, 250), _CROWN, 0.8, "K-complex", 1, 0.8, 2),
    "vertex waves": Part((0, 0), (40, 80, 160), _TOP, 0.45, "vertex", 1, 0.8, 6),
    "POSTS": Part((0, 0), (18, 35, 60), _BACK, 0.4, "lambda", 1, 0.5, 30),
    "delta": Part((0.6, 1.6), (60, 110, 200), _FRONT, 1.0, "noise", jitter=0.5),
    "child alpha": Part((6, 9.5), (35, 65, 120), _BACK, 0.5, "harmonic"),
    "posterior slow": Part((0, 0), (40, 70, 120), _BACK, 0.5, "slow wave", 0.5, 0.7, 15),
    "child theta": Part((4, 6.5), (20, 35, 70), _CENTRE, 0.9, "noise", jitter=0.2),
    "hypersynchrony": Part((3, 4.5), (75, 150, 300), _CROWN, 1, "sine", 1, 0.8, 3, (1, 4), 0.08),
    "slowing": Part((2.5, 4.5), (40, 80, 150), _FRONT, 1.1, "noise", jitter=0.35),
    "driving": Part((5, 20), (12, 25, 60), _BACK, 0.4, "harmonic", 1, 0.8, 4, (5, 10), 0.0),
}  # fmt: skip
# What a state has of each part, its voltage times this.
_AWAKE = {"beta": 1.0, "sedatives": 1.0, "breach": 1.0, "mu": 1.0, "theta": 0.3}
_CHILD = {"child theta": 1.0, "beta": 1.0, "breach": 1.0}
HEALTHY_STATES: dict[str, dict[str, float]] = {
    "eyes closed": _AWAKE | {"alpha": 1.0, "wicket": 0.5},
    "eyes open": _AWAKE | {"alpha": 0.1, "lambda": 1.0},
    "low voltage": {"alpha": 0.2, "beta": 0.7, "theta": 0.3},
    "hyperventilation": _AWAKE | {"alpha": 0.8, "slowing": 1.0, "theta": 1.0},
    "photic": _AWAKE | {"alpha": 0.2, "driving": 1.0},
    "drowsy": _AWAKE
    | {"alpha": 0.15, "theta": 1.0, "slow eyes": 1.0, "wicket": 1.0}
    | {"temporal theta": 1.0, "POSTS": 0.5},
    "light sleep": {"spindles": 1.0, "K-complexes": 1.0, "vertex waves": 1.0, "POSTS": 1.0}
    | {"theta": 1.2, "wicket": 1.0, "delta": 0.25, "sedatives": 1.0},
    "slow sleep": {"delta": 1.0, "spindles": 0.6, "theta": 1.0, "K-complexes": 0.7},
    "dream": {"theta": 0.8, "rapid eyes": 1.0, "alpha": 0.15},
    "child awake": _CHILD | {"child alpha": 1.0, "posterior slow": 1.0, "mu": 1.5},
    "child drowsy": _CHILD | {"child alpha": 0.2, "hypersynchrony": 1.0, "slow eyes": 1.0},
    "child asleep": _CHILD | {"delta": 1.0, "spindles": 1.3, "vertex waves": 1.5, "POSTS": 1.0},
}
HEALTHY_VOTES = (0.2, 0.2, 0.2, 0.4, 0.6, 38.4)  # Dirichlet of the soft labels of healthy people
# The states of one window, one after the other, and how often.
COURSES: dict[tuple[str, ...], float] = {
    ("eyes closed",): 0.24, ("eyes closed", "eyes open", "eyes closed"): 0.1,
    ("eyes open", "eyes closed"): 0.06, ("eyes open",): 0.06, ("low voltage",): 0.06,
    ("eyes closed", "drowsy"): 0.07, ("drowsy", "eyes closed"): 0.04, ("drowsy",): 0.04,
    ("drowsy", "light sleep"): 0.03, ("light sleep",): 0.07, ("light sleep", "eyes closed"): 0.03,
    ("slow sleep",): 0.03, ("dream",): 0.02, ("eyes closed", "hyperventilation"): 0.03,
    ("eyes closed", "photic", "eyes closed"): 0.03, ("child awake",): 0.04,
    ("child awake", "child drowsy"): 0.02, ("child drowsy",): 0.01, ("child asleep",): 0.02,
}  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """A population of patients and how they are recorded. The defaults are the competition's."""

    ranges: Mapping[str, Range] = field(default_factory=lambda: RANGES)
    waves: str = "phases"  # family of the discharges and rhythms, see `waves.FAMILIES`
    seizures: tuple[str, ...] = ("drift",)  # kinds of evolution, see `patterns.evolution`
    mixtures: float = 0.0  # how often a tied soft label is two patterns, not one in between
    bouts: float = 0.0  # how often a half-formed pattern comes and goes
    mimics: tuple[str, ...] = ("rocking", "chewing", "electrode")  # see `recording.simulate_mimic`
    mimic_shares: tuple[float, float] = (0.35, 0.05)  # of "Other", of the other classes
    amplifier: Mapping[str, Range] | None = None  # see `recording.apply_amplifier`; None: ideal
    ordinary_states: float = 0.0  # how often the background's state ignores the class
    healthy: float = 0.0  # share of "Other" that are healthy people; 1: all are; of patterns, 1/8
    parts: Mapping[str, Part] = field(default_factory=lambda: PARTS)  # of healthy EEG
    loudness_uv: Range | None = None  # mean |bipolar| of the brain; None: as it comes
    cleaned: float = 0.0  # share of recordings without any artefact
    post_ictal: tuple[float, float] = (0.3, 0.8)  # voltage after a seizure, times the usual
    losses: Mapping[str, float] = field(default_factory=dict)  # see `recording.lose`


STANDARD = Domain()
# Wider than the competition's, to train models that other hospitals do not surprise. How loud a
# recording is says nothing about its class.
WIDE = Domain(
    {k: (low / 1.3, middle, high * 1.3) for k, (low, middle, high) in RANGES.items()}
    | {"min_snr": (0.8, 1.4, 3.0), "duration": (0.6, 1.0, 1.5)},
    waves="shapes", mixtures=0.5, bouts=0.5, ordinary_states=0.5, mimic_shares=(0.6, 0.15),
    # Most seizures of the critically ill are of 1–4 Hz; those that begin fast are the fewest.
    seizures=("drift",) * 7 + ("steps", "spike-wave", "ramp") * 3
    + ("slowing", "clonic", "alpha", "fast"),
    mimics=("rocking", "chewing", "electrode", "eyes", "pulse", "heart", "sweat", "tremor")
    + ("patting", "nystagmus"),
    healthy=0.5, cleaned=0.25, post_ictal=(0.1, 0.8), loudness_uv=(8.0, 13.0, 22.0),
    amplifier=AMPLIFIER | {"gain": (0.5, 0.9, 1.7), "order": (1.0, 1.6, 4.0)},
    losses={"centre only": 0.08, "edge": 0.06, "gap": 0.1, "electrodes": 0.2},
)  # fmt: skip
_FACTORS = {
    **{"background_uv": 0.7, "slope": 0.8, "knee_hz": 1.8, "posterior_uv": 2.0, "rhythm_uv": 1.5},
    **{"pattern_gain": 0.75, "min_snr": 0.8, "duration": 1.25, "muscle_uv": 2.0, "drift_uv": 2.0},
    **{"blinks_per_min": 2.0, "heart_uv": 2.0},
}
# Development domains: models are never trained on them, settings are chosen by their scores there.
# Another hospital.
SHIFTED = Domain(
    {k: tuple(_FACTORS.get(k, 1.0) * v for v in values) for k, values in RANGES.items()},
    waves="pulses", seizures=("drift", "slowing"), mixtures=0.3, bouts=0.3,
    mimics=("rocking", "eyes", "heart"), mimic_shares=(0.5, 0.15),
    amplifier=AMPLIFIER | {"highpass_hz": (0.3, 0.6, 1.2), "lowpass_hz": (12.0, 20.0, 35.0)},
    ordinary_states=0.5,
)  # fmt: skip
# Low voltage, cleaned of artefacts, steep filters.
QUIET = Domain(
    RANGES | {"slope": (1.0, 1.7, 2.4), "rhythm_uv": (3.0, 8.0, 16.0)}, waves="wavelets",
    seizures=("drift", "arch"), mixtures=0.3, bouts=0.3, ordinary_states=1.0, cleaned=1.0,
    loudness_uv=(3.0, 6.0, 12.0), mimic_shares=(0.0, 0.0),
    amplifier=AMPLIFIER
    | {"highpass_hz": (0.4, 0.6, 1.0), "lowpass_hz": (30.0, 34.0, 40.0), "order": (4.0, 4.0, 4.0)},
)  # fmt: skip
# Muscle, hum, reference noise, unequal and bad electrodes, artefacts that come in rhythms.
NOISY = Domain(
    RANGES | {"muscle_uv": (5.0, 14.0, 30.0), "drift_uv": (10.0, 25.0, 60.0)}
    | {"mains_db": (20.0, 40.0, 60.0), "heart_uv": (1.0, 4.0, 12.0)},
    waves="wavelets", seizures=("drift", "arch"), mixtures=0.3, bouts=0.3, ordinary_states=0.5,
    mimics=("ventilator", "rocking"), mimic_shares=(0.7, 0.3), losses={"electrodes": 0.6},
    amplifier=AMPLIFIER | {"electrode_gain": (0.1, 0.2, 0.4), "reference_uv": (2.0, 8.0, 20.0)},
)  # fmt: skip
# Healthy people only: alpha is sharper and comes in bursts, sleep and drowsiness have other waves.
_BURSTS = {"wave": "peaked", "per_min": 35, "seconds": (0.6, 4.0)}
_OTHER_PARTS = {
    "alpha": _BURSTS, "child alpha": _BURSTS, "mu": _BURSTS | {"mirror": 0.0, "hz": (9, 14)},
    "theta": {"wave": "notched", "per_min": 15, "seconds": (0.5, 2.0)},
    "spindles": {"wave": "peaked", "seconds": (0.5, 1.2), "at": _FRONT},
    "beta": {"wave": "noise", "at": _CENTRE, "jitter": 0.3},
    "delta": {"hz": (0.5, 2.5), "at": _CENTRE, "jitter": 0.8},
    "slowing": {"hz": (3, 6), "at": _BACK, "jitter": 0.5},
}  # fmt: skip
HEALTHY = Domain(
    RANGES | {"muscle_uv": (0.3, 1.5, 5.0), "drift_uv": (1.0, 4.0, 15.0)}, healthy=1.0, cleaned=0.5,
    amplifier=AMPLIFIER
    | {"highpass_hz": (0.4, 0.6, 1.0), "lowpass_hz": (30.0, 40.0, 60.0), "order": (3.0, 4.0, 5.0)},
    parts={name: replace(part, **_OTHER_PARTS.get(name, {})) for name, part in PARTS.items()},
)  # fmt: skip
# Healthy volunteers of a laboratory: quiet, cleaned, steep filters, alpha of several generators
# that beat against each other.
_BEATS = {"wave": "beats", "uv": (20, 45, 90), "jitter": 0.01}
VOLUNTEERS = replace(
    HEALTHY, cleaned=1.0, loudness_uv=(2.5, 5.0, 10.0),
    amplifier=HEALTHY.amplifier | {"lowpass_hz": (28.0, 32.0, 40.0), "order": (4.0, 5.0, 6.0)},
    parts=PARTS | {"alpha": replace(PARTS["alpha"], **_BEATS)}
    | {"mu": replace(PARTS["mu"], share=0.6, wave="beats")},
)  # fmt: skip
