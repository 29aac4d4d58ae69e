"""Shared fixtures: a small simulated competition, its representations, and the real recordings."""

import socket
from pathlib import Path

import numpy as np
import pytest

from hmsutils import records, store
from hmsutils.competition import Competition
from hmsutils.download import find_real_samples
from hmsutils.representations import Image, WaveNetInput
from hmsutils.simulate import simulate_competition

REPOSITORY = Path(__file__).parents[1]
REAL = find_real_samples()
SMALL_IMAGE = Image(n_mels=8, n_frames=64)
INPUTS = {"image": SMALL_IMAGE, "eeg": WaveNetInput()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def competition(tmp_path_factory) -> Competition:
    """Eight simulated patients."""
    return simulate_competition(tmp_path_factory.mktemp("competition"), n_patients=8, seed=3)


@pytest.fixture(scope="session")
def windows(competition):
    loaded = records.one_per_vote_run(records.load_windows(competition))
    return records.assign_folds(loaded, n_folds=4)


@pytest.fixture(scope="session")
def arrays(competition, windows, tmp_path_factory):
    """As stored: `INPUTS[name].decode` makes float32 of them."""
    return store.build(competition, windows, INPUTS, out_dir=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def real() -> Competition:
    """Real, expert-labelled EEGs in the competition's layout: the odd-numbered, or all 24."""
    if REAL is None:
        pytest.skip("no real recordings: python -m hmsutils download samples")
    return REAL


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to open a connection fails loudly."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was touched: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
