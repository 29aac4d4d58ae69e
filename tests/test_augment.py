"""Each augmentation does what it says to image, EEG and label, and edits nothing in place."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import pytest

from hmsutils import augment as ag
from hmsutils.competition import ELECTRODES
from hmsutils.representations import Image, Representation, WaveNetInput, represent
from hmsutils.signals import DOUBLE_BANANA

INPUTS = {"image": Image(n_mels=8, n_frames=100), "eeg": WaveNetInput()}


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


def test_flipping_hemispheres_equals_exchanging_electrodes(rng):
    eeg_uv = np.cumsum(rng.normal(0, 3, (2, 20, 10_000)), axis=2).astype(np.float32)
    names = list(ELECTRODES)
    pairs = dict(
        zip("Fp1 F3 C3 P3 F7 T3 T5 O1".split(), "Fp2 F4 C4 P4 F8 T4 T6 O2".split(), strict=True)
    )
    pairs |= {right: left for left, right in pairs.items()}
    exchanged = eeg_uv[:, [names.index(pairs.get(name, name)) for name in names]]
    batch, wanted = represent(INPUTS, eeg_uv), represent(INPUTS, exchanged)
    out = ag.flip_hemispheres(batch, np.array([True, False]), INPUTS)
    for key in batch:
        np.testing.assert_allclose(out[key][0], wanted[key][0], atol=1e-5)
        np.testing.assert_array_equal(out[key][1], batch[key][1])
    twice = ag.flip_hemispheres(out, np.array([True, False]), INPUTS)
    np.testing.assert_array_equal(twice["image"], batch["image"])
    lopsided = {"eeg": WaveNetInput(pairs=DOUBLE_BANANA[:4])}
    with pytest.raises(ValueError, match="not symmetric"):
        ag.flip_hemispheres({"eeg": batch["eeg"][:, :, :4]}, np.array([True, False]), lopsided)


def test_a_shift_moves_every_crop_by_the_same_time(batch):
    shifts = np.array([1.0, -1.0, 0, 0, 0, 0])
    out = ag.shift_time(batch, shifts, INPUTS)
    for k, columns in enumerate((2, 4, 10)):  # of 100 columns for 50, 25, 10 s
        x, y = batch["image"][..., k], out["image"][..., k]
        np.testing.assert_array_equal(y[0, :, columns:], x[0, :, :-columns])
        np.testing.assert_array_equal(y[1, :, :-columns], x[1, :, columns:])
        assert (y[0, :, :columns] == x[0, :, :1]).all()
    np.testing.assert_array_equal(out["eeg"][0, 40:], batch["eeg"][0, :-40])
    np.testing.assert_array_equal(out["eeg"][2], batch["eeg"][2])


def test_amplitude_is_an_offset_in_the_image_and_a_factor_in_the_eeg(batch):
    out = ag.scale_amplitude(batch, np.full(6, 6.0), INPUTS)
    np.testing.assert_allclose(out["image"] - batch["image"], 6 / 60, atol=1e-6)
    np.testing.assert_allclose(out["eeg"], batch["eeg"] * 10 ** (6 / 20), rtol=1e-5)
    assert ag.scale_amplitude(batch, np.full(6, 90.0), INPUTS)["image"].max() == 1


def test_dropped_channels_are_zero_and_as_many_as_asked(batch, rng):
    out = ag.drop_channels(batch, 0.3, rng, INPUTS)
    chains = out["image"].reshape(6, 4, 8, 100, 3)
    dropped = (chains == 0).all(axis=(2, 3, 4))
    assert 0 < dropped.mean() < 0.7
    kept = chains[~dropped]
    np.testing.assert_array_equal(kept, batch["image"].reshape(chains.shape)[~dropped])
    assert 0.1 < (out["eeg"] == 0).all(axis=1).mean() < 0.5


def test_masks_are_single_stretches_of_bounded_length(batch, rng):
    out = ag.mask_time(batch, 0.3, rng, INPUTS)
    for key, axis in (("image", (1, 3)), ("eeg", (2,))):
        masked = (out[key] == 0).all(axis=axis)
        assert masked.sum(axis=1).max() <= 0.3 * masked.shape[1] + 1 and masked.any()
        assert (np.abs(np.diff(masked.astype(int), axis=1)).sum(axis=1) <= 2).all()
    out = ag.mask_frequency(batch, 0.5, rng, INPUTS)
    masked = (out["image"].reshape(6, 4, 8, 100, 3) == 0).all(axis=(3, 4))
    assert (masked == masked[:, :1]).all() and 0 < masked[:, 0].sum(axis=1).max() <= 5
    np.testing.assert_array_equal(out["eeg"], batch["eeg"])


def test_a_dropped_context_is_absent_in_whole_windows(rng):
    inputs = {"image": replace(INPUTS["image"], durations_s=(50.0, 600.0, 10.0))}
    image = rng.uniform(0.2, 0.8, (400, 32, 100, 3)).astype(np.float32)
    out = ag.drop_context({"image": image}, 0.3, rng, inputs)["image"]
    absent = (out[..., 1] == 0).all(axis=(1, 2))
    assert 0.2 < absent.mean() < 0.4 and (out[~absent] == image[~absent]).all()
    np.testing.assert_array_equal(out[..., ::2], image[..., ::2])
    config = replace(ag.NO_AUGMENTATION, gain_db=3.0, drop_context=1.0)  # the order of the switches
    out, _ = ag.augment({"image": image[:6]}, np.eye(6), config, rng, inputs)
    assert (out["image"][..., 1] == 0).all() and (out["image"][..., 0] > 0).all()


def test_mixup_blends_inputs_and_labels_with_the_same_weight(batch, target, rng):
    out, mixed = ag.mixup(batch, target, 0.4, rng, INPUTS)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-5)
    # every output is a·x[i] + (1 - a)·x[j]: find j and a from the labels, check the inputs
    for i in range(6):
        fits = []
        for j in range(6):
            difference = target[i] - target[j]
            square = float(difference @ difference)
            weight = float((mixed[i] - target[j]) @ difference) / square if square else 1.0
            error = np.abs(weight * target[i] + (1 - weight) * target[j] - mixed[i]).max()
            fits.append((error, j, weight))
        _, j, weight = min(fits)
        assert weight >= 0.5 - 1e-5
        for key in batch:
            blend = weight * batch[key][i] + (1 - weight) * batch[key][j]
            np.testing.assert_allclose(out[key][i], blend, atol=1e-4)


def test_flipping_and_dropping_give_the_same_for_plans_and_for_arrays(batch):
    flipped = np.array([True, False] * 3)
    arrays = ag.flip_hemispheres(batch, flipped, INPUTS)
    arrays = ag.drop_channels(arrays, 0.3, np.random.default_rng(4), INPUTS)
    plans = {k: ag.BatchPlan.of(x, INPUTS[k]) for k, x in batch.items()}
    plans = ag.drop_channels(ag.flip_hemispheres(plans, flipped), 0.3, np.random.default_rng(4))
    for key, wanted in arrays.items():
        np.testing.assert_array_equal(plans[key].render(), wanted)


def test_augment_applies_what_the_config_asks_and_nothing_else(batch, target):
    for name in (None, *ag.STEPS):
        config = replace(ag.NO_AUGMENTATION, **({name: 0.9} if name else {}))
        out, labels = ag.augment(batch, target, config, np.random.default_rng(0), INPUTS)
        changed = {key for key in batch if (out[key] != batch[key]).any()}
        only = {None: set(), "frequency_mask": {"image"}, "drop_context": set()}
        wanted = only.get(name, {"image", "eeg"})
        assert changed == wanted, name
        assert (labels is target) == (name != "mixup")


def test_every_step_has_its_switch_and_none_is_on_in_no_augmentation():
    switches = [f.name for f in fields(ag.AugmentConfig)]
    assert switches == [*ag.STEPS, "extra"]
    assert {getattr(ag.NO_AUGMENTATION, name) for name in ag.STEPS} == {0.0}
    assert ag.NO_AUGMENTATION.extra == {} and hash(ag.NO_AUGMENTATION)


def test_a_function_of_arrays_is_a_step_too(batch, target, monkeypatch):
    def invert_image(batch, target, strength, rng):
        assert all(x.dtype == np.float32 for x in batch.values())
        return batch | {"image": strength - batch["image"]}, target[:, ::-1]

    monkeypatch.setitem(ag.STEPS, "invert", invert_image)
    config = ag.AugmentConfig(mixup=0.2)
    plain, labels = ag.augment(batch, target, config, np.random.default_rng(3), INPUTS)
    config = replace(config, extra={"invert": 0.7})
    out, inverted = ag.augment(batch, target, config, np.random.default_rng(3), INPUTS)
    np.testing.assert_array_equal(out["image"], np.float32(0.7) - plain["image"])
    np.testing.assert_array_equal(out["eeg"], plain["eeg"])
    np.testing.assert_array_equal(inverted, labels[:, ::-1])
    config = replace(config, extra={"invert": 0.0})
    off, _ = ag.augment(batch, target, config, np.random.default_rng(3), INPUTS)
    np.testing.assert_array_equal(off["image"], plain["image"])
    with pytest.raises(ValueError, match="names reverse, but STEPS has .*mixup, invert"):
        config = replace(config, extra={"reverse": 1.0})
        ag.augment(batch, target, config, np.random.default_rng(3), INPUTS)


def test_a_function_of_plans_is_marked(batch, target, monkeypatch):
    def drop_first_row(plans, target, strength, rng):
        plans["image"].rows[:, 0] = -1
        return plans, target

    drop_first_row.edits_plans = True
    monkeypatch.setitem(ag.STEPS, "first_row", drop_first_row)
    config = replace(ag.NO_AUGMENTATION, extra={"first_row": 1.0})
    out, _ = ag.augment(batch, target, config, np.random.default_rng(0), INPUTS)
    assert (out["image"][:, 0] == 0).all() and (out["eeg"] == batch["eeg"]).all()
    np.testing.assert_array_equal(out["image"][:, 1:], batch["image"][:, 1:])


def test_augment_is_deterministic_and_works_on_one_input_alone(batch, target):
    config = ag.AugmentConfig(gain_db=3.0, mixup=0.2)
    both, labels = ag.augment(batch, target, config, np.random.default_rng(5), INPUTS)
    again, _ = ag.augment(batch, target, config, np.random.default_rng(5), INPUTS)
    for key in batch:
        np.testing.assert_array_equal(both[key], again[key])
        assert both[key].dtype == np.float32 and both[key].shape == batch[key].shape
        one = {key: batch[key]}
        alone, _ = ag.augment(one, target, config, np.random.default_rng(5), INPUTS)
        assert set(alone) == {key}
    assert labels.dtype == np.float32


def test_what_does_not_fit_is_refused(batch):
    with pytest.raises(ValueError, match=r"pass that of eeg in `inputs`"):
        ag.shift_time(batch, np.zeros(6), {"image": INPUTS["image"]})
    with pytest.raises(ValueError, match=r"shape \(6, 32, 100, 3\).*makes \(N, 128, 256, 3\)"):
        ag.BatchPlan.of(batch["image"], Image())


def blended(plan: ag.BatchPlan) -> np.ndarray:
    """(N, H, W, C): what `kernels.render` computes, in NumPy."""
    x = plan.x[plan.item].astype(np.float32) * plan.step
    x = x.reshape(len(x), plan.rows.shape[1], *x.shape[-2:])
    x = np.clip(x + plan.offset[:, None, None, None], *plan.limits) * plan.gain[:, None, None]
    x = np.take_along_axis(x, plan.rows[:, :, None, None], axis=1)
    x = np.take_along_axis(x, plan.channels[:, None, None], axis=3)
    position = np.arange(x.shape[2])
    columns = np.clip(position[:, None] - plan.shift[:, None], 0, len(position) - 1)
    x = np.take_along_axis(x, columns[:, None], axis=2)
    masked = (position >= plan.mask[:, :1]) & (position < plan.mask[:, 1:])
    x = np.where((plan.rows < 0)[:, :, None, None] | masked[:, None, :, None], 0, x)
    weight = plan.weight[:, None, None, None]
    return weight * x + (1 - weight) * x[plan.partner]


@dataclass(frozen=True)
class Toy(Representation):
    """Rows × time × channels of any type."""

    shape: tuple[int, ...] = (32, 100, 3)
    stored_as: type = np.float32
    step: float = 1.0
    decibels: ClassVar = (0.0, 60.0)
    n_chains: ClassVar = 4

    @property
    def flipped_channels(self):
        return np.arange(self.shape[-1])[::-1]


@pytest.mark.parametrize("shape", [(8, 50, 3), (8, 50, 2), (200, 3), (200, 18)])
@pytest.mark.parametrize(
    "dtype, step", [(np.uint8, 1 / 255), (np.int16, 10 / 32767), (np.float32, 1.0)]
)
def test_the_compiled_pass_equals_numpy_for_every_stored_type(target, rng, dtype, step, shape):
    toy = Toy(shape=shape, stored_as=dtype, step=step)
    stored = rng.integers(-30_000, 30_000, (9, *shape)).astype(dtype)
    if dtype == np.float32:
        stored = rng.normal(0, 1, (9, *shape)).astype(np.float32)
        stored[2, 5, 1] = np.nan
    drop = 0.3 if len(shape) == 3 else 0.0
    strong = ag.AugmentConfig(0.5, 2.0, 6.0, drop, 0.4, 0.4, mixup=1.0)
    rows = np.array([8, 2, 2, 0, 5, 7])
    for config in (strong, replace(strong, mixup=0.0)):
        plans = {"toy": ag.BatchPlan.of(stored, toy, rows)}
        out, _ = ag.augment(plans, target, config, np.random.default_rng(9))
        wanted = blended(plans["toy"]).reshape(out["toy"].shape)
        np.testing.assert_allclose(out["toy"], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        ag.BatchPlan.of(stored, toy, rows).render(), toy.decode(stored[rows])
    )


def test_other_types_are_read_as_float32_and_no_window_gives_no_window(rng):
    x = rng.normal(0, 1, (3, 4, 5, 2))
    for dtype in (np.float16, np.float64, np.int64):
        out = ag.BatchPlan.of(x.astype(dtype), Toy(shape=(4, 5, 2)), [2, 0]).render()
        np.testing.assert_array_equal(out, x.astype(dtype)[[2, 0]].astype(np.float32))
    assert ag.BatchPlan.of(x[:0], Toy(shape=(4, 5, 2))).render().shape == (0, 4, 5, 2)
