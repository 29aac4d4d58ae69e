"""Shared fixtures: a small simulated competition, its representations, and the real recordings."""

import os
import runpy
import socket
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from filelock import FileLock

from hmsutils import records, store
from hmsutils.competition import Competition
from hmsutils.download import find_real_samples
from hmsutils.representations import Image, WaveNetInput
from hmsutils.simulate import simulate_competition

REPOSITORY = Path(__file__).parents[1]
# Neither the tests nor the processes that they start reach more than this machine.
OFFLINE = REPOSITORY / ".ci" / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))
before = filter(None, [os.environ.get("PYTHONPATH")])
os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), *before])
# Invented data: the same in every run of the tests, more and others if a number is named.
tried = os.environ.get("HMS_EXAMPLES")
hypothesis.settings.register_profile(
    "here", max_examples=int(tried or 40), derandomize=not tried, deadline=None, database=None
)
hypothesis.settings.load_profile("here")
REAL = find_real_samples()
SMALL_IMAGE = Image(n_mels=8, n_frames=64)
INPUTS = {"image": SMALL_IMAGE, "eeg": WaveNetInput()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """One folder for all processes of a run of the tests: what one has made, the others find."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def competition(shared) -> Competition:
    """Eight simulated patients."""
    with FileLock(shared / "competition.lock"):
        return simulate_competition(shared / "competition", n_patients=8, seed=3, n_jobs=1)


@pytest.fixture(scope="session")
def windows(competition):
    loaded = records.one_per_vote_run(records.load_windows(competition))
    return records.assign_folds(loaded, n_folds=4)


@pytest.fixture(scope="session")
def arrays(competition, windows, shared):
    """As stored: `INPUTS[name].decode` makes float32 of them."""
    with FileLock(shared / "store.lock"):
        return store.build(competition, windows, INPUTS, out_dir=shared / "store", n_jobs=1)


@pytest.fixture(scope="module")
def small_backbone():
    """The name of a backbone that looks at the image and trains in seconds."""
    import keras

    from hmsutils.models import BACKBONES, BackboneSpec

    def build(spec, shape, weights):
        image = keras.Input(shape)
        x = keras.layers.Conv2D(spec.features, 3, 2, use_bias=False)(image)
        x = keras.layers.BatchNormalization()(x)
        return keras.Model(image, keras.layers.ReLU()(x))

    with pytest.MonkeyPatch.context() as patch:
        spec = BackboneSpec(params=248, features=8, build=build, input="image")
        patch.setitem(BACKBONES, "small", spec)
        yield "small"


@pytest.fixture(scope="session")
def real() -> Competition:
    """Real, expert-labelled EEGs in the competition's layout: the odd-numbered, or all 24."""
    if REAL is None:
        pytest.skip("no real recordings: python -m hmsutils download samples")
    return REAL


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to open a connection, even to this machine, fails loudly."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was touched: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
