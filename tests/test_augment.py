"""Each augmentation does what it says to image, EEG and label, and edits nothing in place."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from hmsutils import augment as ag
from hmsutils.files import ELECTRODES
from hmsutils.signals import DOUBLE_BANANA, WaveNetInputConfig, wavenet_input
from hmsutils.spectrograms import ImageConfig, image

CONFIG = ImageConfig(n_mels=8, frames=100)


@pytest.fixture
def batch(rng):
    return {
        "image": rng.uniform(0.2, 0.8, (6, 32, 100, 3)).astype(np.float32),
        "eeg": rng.normal(0, 1, (6, 2000, 18)).astype(np.float32),
    }


@pytest.fixture
def target(rng):
    return rng.dirichlet(np.ones(6), 6).astype(np.float32)


@pytest.fixture(autouse=True)
def untouched(batch):
    before = {key: value.copy() for key, value in batch.items()}
    yield
    for key in batch:
        np.testing.assert_array_equal(batch[key], before[key])


def test_swapping_hemispheres_equals_swapping_electrodes(rng):
    eeg_uv = np.cumsum(rng.normal(0, 3, (2, 10_000, 20)), axis=1).astype(np.float32)
    names = list(ELECTRODES)
    pairs = dict(
        zip("Fp1 F3 C3 P3 F7 T3 T5 O1".split(), "Fp2 F4 C4 P4 F8 T4 T6 O2".split(), strict=True)
    )
    pairs |= {right: left for left, right in pairs.items()}
    mirrored = eeg_uv[:, :, [names.index(pairs.get(name, name)) for name in names]]
    batch = {"image": image(eeg_uv, CONFIG), "eeg": wavenet_input(eeg_uv)}
    out = ag.swap_hemispheres(batch, np.array([True, False]))
    np.testing.assert_allclose(out["image"][0], image(mirrored, CONFIG)[0], atol=1e-5)
    np.testing.assert_allclose(out["eeg"][0], wavenet_input(mirrored)[0], atol=1e-5)
    np.testing.assert_array_equal(out["image"][1], batch["image"][1])
    lopsided = WaveNetInputConfig(pairs=DOUBLE_BANANA[:4])
    with pytest.raises(ValueError, match="not symmetric"):
        ag.swap_hemispheres({"eeg": batch["eeg"][:, :, :4]}, np.array([True, False]), lopsided)


def test_a_shift_moves_every_zoom_by_the_same_time(batch):
    shifts = np.array([1.0, -1.0, 0, 0, 0, 0])
    out = ag.shift_time(batch, shifts, CONFIG)
    for k, columns in enumerate((2, 4, 10)):  # of 100 columns for 50, 25, 10 s
        x, y = batch["image"][..., k], out["image"][..., k]
        np.testing.assert_array_equal(y[0, :, columns:], x[0, :, :-columns])
        np.testing.assert_array_equal(y[1, :, :-columns], x[1, :, columns:])
        assert (y[0, :, :columns] == x[0, :, :1]).all()
    np.testing.assert_array_equal(out["eeg"][0, 40:], batch["eeg"][0, :-40])
    np.testing.assert_array_equal(out["eeg"][2], batch["eeg"][2])


def test_amplitude_is_an_offset_in_the_image_and_a_factor_in_the_eeg(batch):
    out = ag.scale_amplitude(batch, np.full(6, 6.0), CONFIG)
    np.testing.assert_allclose(out["image"] - batch["image"], 6 / 60, atol=1e-6)
    np.testing.assert_allclose(out["eeg"], batch["eeg"] * 10 ** (6 / 20), rtol=1e-5)
    assert ag.scale_amplitude(batch, np.full(6, 90.0), CONFIG)["image"].max() == 1


def test_dropped_channels_are_silent_and_as_many_as_asked(batch, rng):
    out = ag.drop_channels(batch, 0.3, rng)
    chains = out["image"].reshape(6, 4, 8, 100, 3)
    silent = (chains == 0).all(axis=(2, 3, 4))
    assert 0 < silent.mean() < 0.7
    kept = chains[~silent]
    np.testing.assert_array_equal(kept, batch["image"].reshape(chains.shape)[~silent])
    assert 0.1 < (out["eeg"] == 0).all(axis=1).mean() < 0.5


def test_masks_are_single_stretches_of_bounded_length(batch, rng):
    out = ag.mask_time(batch, 0.3, rng)
    for key, axis in (("image", (1, 3)), ("eeg", (2,))):
        masked = (out[key] == 0).all(axis=axis)
        assert masked.sum(axis=1).max() <= 0.3 * masked.shape[1] + 1 and masked.any()
        assert (np.abs(np.diff(masked.astype(int), axis=1)).sum(axis=1) <= 2).all()
    out = ag.mask_frequency(batch, 0.5, rng)
    masked = (out["image"].reshape(6, 4, 8, 100, 3) == 0).all(axis=(3, 4))
    assert (masked == masked[:, :1]).all() and 0 < masked[:, 0].sum(axis=1).max() <= 5
    np.testing.assert_array_equal(out["eeg"], batch["eeg"])


def test_mixup_blends_inputs_and_labels_by_the_same_share(batch, target, rng):
    out, mixed = ag.mixup(batch, target, 0.4, rng)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-5)
    # every output is a·x[i] + (1 - a)·x[j]: find j and a from the labels, check the inputs
    for i in range(6):
        fits = []
        for j in range(6):
            difference = target[i] - target[j]
            share = (
                1.0
                if i == j
                else float((mixed[i] - target[j]) @ difference / (difference @ difference))
            )
            fits.append(
                (np.abs(share * target[i] + (1 - share) * target[j] - mixed[i]).max(), j, share)
            )
        _, j, share = min(fits)
        assert share >= 0.5 - 1e-5
        for key in batch:
            blend = share * batch[key][i] + (1 - share) * batch[key][j]
            np.testing.assert_allclose(out[key][i], blend, atol=1e-4)


def test_augment_applies_what_the_config_asks_and_nothing_else(batch, target):
    out, labels = ag.augment(batch, target, ag.NO_AUGMENTATION, np.random.default_rng(0), CONFIG)
    assert all((out[key] == batch[key]).all() for key in batch) and labels is target
    for name in ("swap", "shift_s", "gain_db", "drop_channel", "time_mask", "mixup"):
        config = replace(ag.NO_AUGMENTATION, **{name: 0.9})
        out, labels = ag.augment(batch, target, config, np.random.default_rng(0), CONFIG)
        assert all((out[key] != batch[key]).any() for key in batch), name
        assert (labels is target) == (name != "mixup")


def test_augment_is_deterministic_and_works_on_one_input_alone(batch, target):
    config = ag.AugmentConfig(gain_db=3.0, mixup=0.2)
    both, labels = ag.augment(batch, target, config, np.random.default_rng(5), CONFIG)
    again, _ = ag.augment(batch, target, config, np.random.default_rng(5), CONFIG)
    for key in batch:
        np.testing.assert_array_equal(both[key], again[key])
        assert both[key].dtype == np.float32 and both[key].shape == batch[key].shape
        alone, _ = ag.augment({key: batch[key]}, target, config, np.random.default_rng(5), CONFIG)
        assert set(alone) == {key}
    assert labels.dtype == np.float32


THREE = WaveNetInputConfig(pairs=(("Fp1", "F7"), ("Fz", "Cz"), ("Fp2", "F8")))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("eeg_config", [WaveNetInputConfig(), THREE])
def test_the_compiled_pass_equals_numpy(batch, target, dtype, eeg_config, monkeypatch):
    count = len(eeg_config.pairs)
    stored = {"image": batch["image"].astype(dtype), "eeg": batch["eeg"][..., :count].astype(dtype)}
    stored["image"][2, 5, 6, 1] = stored["eeg"][1, 70, 1] = np.nan
    stored["image"][0, :4, 0] = 0, 6e-8, -0.3  # a subnormal half among them
    strong = ag.AugmentConfig(0.5, 2.0, 6.0, 0.3, 0.4, 0.4, 1.0)
    outputs = []
    for missing in (False, True):
        if missing:
            monkeypatch.setitem(sys.modules, "hmsutils.kernels", None)
        for config in (strong, replace(strong, mixup=0.0), ag.NO_AUGMENTATION):
            rng = np.random.default_rng(9)
            outputs.append(ag.augment(stored, target, config, rng, CONFIG, eeg_config)[0])
    for compiled, wanted in zip(outputs[:3], outputs[3:], strict=True):
        for key in stored:
            np.testing.assert_allclose(compiled[key], wanted[key], rtol=1e-6, atol=1e-6)
    for key in stored:
        np.testing.assert_array_equal(outputs[2][key], stored[key].astype(np.float32))


def test_every_half_becomes_its_float_and_no_window_no_window():
    halves = np.arange(65_536, dtype=np.uint16).view(np.float16).reshape(2, 4, -1, 2)
    np.testing.assert_array_equal(ag.View.of(halves).array(), halves.astype(np.float32))
    assert ag.View.of(halves[:0]).array().shape == (0, 4, 4096, 2)
