"""Simulated windows of new patients, for the other benchmarks."""

import numpy as np

from hmsutils.simulate import Domain, simulate_window


def simulate(domain: Domain, n: int, seed: int, balanced: bool = False) -> tuple:
    """(n, 10000, 20) raw microvolts and (n, 6) shares of votes."""
    rngs = [np.random.default_rng([seed, i]) for i in range(n)]
    made = [simulate_window(rng, domain, balanced=balanced)[:2] for rng in rngs]
    eeg_uv, votes = (np.stack(values) for values in zip(*made, strict=True))
    return eeg_uv, votes / votes.sum(axis=1, keepdims=True)
