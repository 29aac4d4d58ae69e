"""The Keras layers give what `signals` and `spectrograms` give, for whole and for broken EEG."""

import numpy as np
import pytest

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
