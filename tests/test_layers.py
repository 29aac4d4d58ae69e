"""The Keras layers give what `signals` and `spectrograms` give, for whole and for broken EEG."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

from hmsutils import layers, signals, store
from hmsutils.signals import WaveNetInputConfig
from hmsutils.simulate import simulate_window
from hmsutils.spectrograms import ImageConfig


@pytest.fixture(scope="module")
def broken_uv():
    """(8, 10000, 20): sound, then one trouble each."""
    eeg_uv = np.stack([simulate_window(np.random.default_rng(i))[0] for i in range(8)])
    eeg_uv[1, 200:900, 3] = np.nan
    eeg_uv[2, :, 7] = np.nan
    eeg_uv[3, :, 4] = 12.0  # flat
    eeg_uv[4, :6000, [5, 19]] = np.nan
    eeg_uv[5, :, 2] += 5000 * np.sin(np.arange(10_000) / 50)
    eeg_uv[6] = np.nan
    eeg_uv[7, :50] = np.inf
    return eeg_uv


def test_repair_is_the_same(broken_uv):
    repaired = np.asarray(layers.Repair()(broken_uv))
    wanted = np.moveaxis(signals.repair(broken_uv), 2, 1)
    np.testing.assert_allclose(repaired, wanted, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("band_hz", [(0.5, 40.0), (0.5, 20.0)])
@pytest.mark.parametrize("length", [22, 128, 10_000])
def test_the_filter_is_the_same_up_to_the_edges(rng, band_hz, length):
    x = rng.normal(0, 50, (2, length, 3)).astype(np.float32) + 300
    filtered = np.asarray(layers.Bandpass(*band_hz)(np.moveaxis(x, 2, 1)))
    wanted = np.moveaxis(signals.bandpass(x, *band_hz), 2, 1)
    np.testing.assert_allclose(filtered, wanted, atol=2e-3)


@pytest.mark.parametrize("image", [ImageConfig(), ImageConfig(n_mels=8, frames=60)], ids=str)
def test_representations_are_the_same(broken_uv, image):
    configs = {"image": image, "eeg": WaveNetInputConfig(bandpass_hz=(0.5, 30.0), decimate=4)}
    made = layers.represent(configs).predict(broken_uv, verbose=0)
    for name, config in configs.items():
        wanted = store.transform(config, broken_uv)
        assert made[name].shape == wanted.shape
        np.testing.assert_allclose(made[name], wanted, atol=1e-4)


def test_they_run_on_jax_too(broken_uv, tmp_path):
    np.save(tmp_path / "eeg.npy", broken_uv)
    code = """
import sys, numpy as np
from hmsutils import layers, signals, spectrograms
model = layers.represent({"image": spectrograms.ImageConfig(), "eeg": signals.WaveNetInputConfig()})
made = model.predict(np.load(sys.argv[1] + "/eeg.npy"), verbose=0)
np.savez(sys.argv[1] + "/made.npz", **made)
"""
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True)
    made = np.load(tmp_path / "made.npz")
    for name, config in {"image": ImageConfig(), "eeg": WaveNetInputConfig()}.items():
        np.testing.assert_allclose(made[name], store.transform(config, broken_uv), atol=1e-4)
