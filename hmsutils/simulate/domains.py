"""What the simulator can produce: patients, kinds of waves, artefacts, amplifiers.

Numbers that differ between patients are given by their (p10, p50, p90). They are measurements: ACNS
critical-care terminology 2021, expert measurements, and statistics of real recordings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = 3  # of the whole simulator: raise it when the same seed gives other values
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
class Domain:
    """A population of patients and how they are recorded. The defaults are the competition's."""

    ranges: Mapping[str, Range] = field(default_factory=lambda: RANGES)
    waves: str = "phases"  # or "pulses": the family of the discharges and rhythms
    seizures: tuple[str, ...] = ("drift",)  # kinds of evolution, see `patterns.evolution`
    mixtures: float = 0.0  # how often a tied soft label is two patterns, not one in between
    bouts: float = 0.0  # how often a half-formed pattern comes and goes
    mimics: tuple[str, ...] = ("rocking", "chewing", "electrode")  # see `recording.simulate_mimic`
    mimic_shares: tuple[float, float] = (0.35, 0.05)  # of "Other", of the other classes
    amplifier: Mapping[str, Range] | None = None  # see `recording.apply_amplifier`; None: ideal
    ordinary_states: float = 0.0  # how often the background's state ignores the class


STANDARD = Domain()
# Wider than the competition's, to train models that other hospitals do not surprise.
WIDE = Domain(
    {k: (low / 1.3, middle, high * 1.3) for k, (low, middle, high) in RANGES.items()}
    | {"min_snr": (0.8, 1.4, 3.0), "duration": (0.6, 1.0, 1.5)},
    seizures=("drift", "drift", "slowing", "steps", "spike-wave"), mixtures=0.5, bouts=0.5,
    mimics=("rocking", "chewing", "electrode", "eyes", "pulse", "heart", "sweat"),
    mimic_shares=(0.6, 0.15), amplifier=AMPLIFIER, ordinary_states=0.5,
)  # fmt: skip
_FACTORS = {
    **{"background_uv": 0.7, "slope": 0.8, "knee_hz": 1.8, "posterior_uv": 2.0, "rhythm_uv": 1.5},
    **{"pattern_gain": 0.75, "min_snr": 0.8, "duration": 1.25, "muscle_uv": 2.0, "drift_uv": 2.0},
    **{"blinks_per_min": 2.0, "heart_uv": 2.0},
}
# Another hospital: models are never trained on it, settings are chosen by their score on it.
SHIFTED = Domain(
    {k: tuple(_FACTORS.get(k, 1.0) * v for v in values) for k, values in RANGES.items()},
    waves="pulses", seizures=("drift", "slowing"), mixtures=0.3, bouts=0.3,
    mimics=("rocking", "eyes", "heart"), mimic_shares=(0.5, 0.15),
    amplifier=AMPLIFIER | {"highpass_hz": (0.3, 0.6, 1.2), "lowpass_hz": (12.0, 20.0, 35.0)},
    ordinary_states=0.5,
)  # fmt: skip
