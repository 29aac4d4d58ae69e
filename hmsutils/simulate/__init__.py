"""Simulated EEG: patients of several domains; a competition of them, or a pool of windows.

Nothing else in the package needs it: `files.find_competition` asks for it where there are no data.
Its modules import only those before them: domains (what there is), waves (building blocks),
patterns, recording (background, artefacts, amplifier), votes, pool (arrays), tables (files).
"""

from hmsutils.simulate.domains import (
    HEALTHY,
    NOISY,
    QUIET,
    SHIFTED,
    STANDARD,
    VERSION,
    VOLUNTEERS,
    WIDE,
    Domain,
)
from hmsutils.simulate.pool import Split, simulate_pool, simulate_window
from hmsutils.simulate.recording import sample_patient, simulate_eeg
from hmsutils.simulate.tables import simulate_competition
from hmsutils.simulate.votes import FEW, MANY, RaterPopulation

__all__ = [
    "FEW", "HEALTHY", "MANY", "NOISY", "QUIET", "SHIFTED", "STANDARD", "VERSION", "VOLUNTEERS",
    "WIDE", "Domain", "RaterPopulation", "Split", "sample_patient", "simulate_competition",
    "simulate_eeg", "simulate_pool", "simulate_window",
]  # fmt: skip
