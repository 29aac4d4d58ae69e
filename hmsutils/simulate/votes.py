"""Raters: how likely they name each class for one EEG (its soft label), and their votes."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from hmsutils.competition import CLASSES

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
class RaterPopulation:
    """Who votes on what: soft labels are Dirichlet samples around the soft label of a class."""

    class_shares: tuple[float, ...]  # (6,) of the EEGs that they see
    disagreement: float  # 0: all name the class, 1: a class is named as often as in CONFUSION
    concentration: float  # of the Dirichlet; high where all EEGs of a class are equally hard
    n_raters: tuple[float, float, int, int]  # mean, standard deviation, minimum, maximum


FEW = RaterPopulation((0.30, 0.11, 0.10, 0.16, 0.20, 0.13), 0.3, 2.0, (3.0, 0.7, 1, 7))
MANY = RaterPopulation((0.015, 0.19, 0.25, 0.16, 0.14, 0.26), 0.75, 6.0, (15.0, 3.0, 10, 28))
SHARE_OF_MANY = 0.374  # of the competition's EEGs


def sample_soft_label(population: RaterPopulation, rng: Generator, class_weights=1.0) -> np.ndarray:
    """(6,) probability that a rater names each class for one EEG. `class_weights` (6,) multiplies
    `class_shares`: a patient shows some patterns more often."""
    weights = np.asarray(population.class_shares) * class_weights
    k = rng.choice(len(CLASSES), p=weights / weights.sum())
    centre = population.disagreement * CONFUSION[k] / CONFUSION[k].sum()
    centre[k] += 1 - population.disagreement
    return rng.dirichlet(population.concentration * centre + 1e-6)


def sample_votes(population: RaterPopulation, soft_label: np.ndarray, rng: Generator) -> np.ndarray:
    """(6,) votes of as many raters as the population sends."""
    mean, std, minimum, maximum = population.n_raters
    n_raters = int(np.clip(np.round(rng.normal(mean, std)), minimum, maximum))
    return rng.multinomial(n_raters, soft_label)
