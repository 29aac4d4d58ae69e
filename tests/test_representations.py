"""What networks see: values, hemispheres exchanged, storage, and the same in Keras operations."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import pytest
from conftest import INPUTS, REPOSITORY, SMALL_IMAGE
from test_spectrograms import make_eeg

from hmsutils import representations, signals
from hmsutils.augment import BatchPlan
from hmsutils.competition import ELECTRODES, SFREQ_HZ
from hmsutils.representations import Image, Representation, WaveNetInput, represent
from hmsutils.signals import DOUBLE_BANANA, to_time_last, wavenet_input
from hmsutils.simulate import simulate_window
from hmsutils.spectrograms import OFFICIAL_REGIONS


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


def test_an_image_stacks_chains_and_crops(rng):
    eeg_uv = make_eeg(rng)
    t = np.arange(10_000) / SFREQ_HZ
    burst = (np.abs(t - 25) < 2) * 400 * np.sin(2 * np.pi * 15 * t)
    eeg_uv[:, ELECTRODES.index("F7")] += burst.astype(np.float32)  # left lateral, 4 s, 15 Hz
    config = Image(n_mels=16, n_frames=100)
    out = config.from_raw(eeg_uv)[0]
    assert out.shape == config.shape == (64, 100, 3) and out.min() >= 0 and out.max() <= 1
    bands = out.reshape(4, 16, 100, 3)
    row = 15 - round(15 / 20 * 16)  # low frequencies at the bottom
    for k, (first, last) in enumerate([(46, 54), (42, 58), (30, 70)]):
        inside, outside = bands[0, row, first + 1 : last - 1, k], bands[0, row, : first - 4, k]
        assert inside.min() > outside.max()
        assert bands[3, row, :, k].max() < inside.min()  # not on the right


def test_every_representation_is_finite_whatever_arrives(broken_uv):
    for representation in INPUTS.values():
        values = representation.from_raw(broken_uv)
        assert values.dtype == np.float32 and np.isfinite(values).all()
        assert values.shape == (8, *representation.shape)


def test_all_at_once_equals_one_by_one_and_repairs_once(broken_uv, monkeypatch):
    repaired = []
    whole = signals.repair
    monkeypatch.setattr(representations, "repair", lambda x: repaired.append(len(x)) or whole(x))
    together = represent(INPUTS, to_time_last(broken_uv, "test"))
    assert repaired == [8]
    for name, representation in INPUTS.items():
        np.testing.assert_array_equal(together[name], representation.from_raw(broken_uv))
    np.testing.assert_array_equal(together["eeg"], wavenet_input(broken_uv))


OTHER_SIDE = dict(
    zip("Fp1 F3 C3 P3 F7 T3 T5 O1".split(), "Fp2 F4 C4 P4 F8 T4 T6 O2".split(), strict=True)
)
OTHER_SIDE |= {right: left for left, right in OTHER_SIDE.items()}


def exchange_electrodes(eeg_uv):
    """(..., 20) with left and right exchanged."""
    order = [ELECTRODES.index(OTHER_SIDE.get(name, name)) for name in ELECTRODES]
    return eeg_uv[..., order]


TEN_MINUTES = Image(n_mels=8, n_frames=60, durations_s=(50.0, 600.0, 10.0))


@pytest.mark.parametrize("context", [None, np.full((8, 300, 4, 100), np.nan, np.float32)])
def test_a_context_that_is_absent_is_zero_and_the_rest_as_without(broken_uv, context):
    repaired = signals.repair(to_time_last(broken_uv, "test"))
    out = TEN_MINUTES.with_context(repaired, context)
    assert TEN_MINUTES.context_channels == [1] and (out[..., 1] == 0).all()
    without = Image(n_mels=8, n_frames=60)
    np.testing.assert_array_equal(out[..., ::2], without(repaired)[..., ::2])
    assert without.context_channels == [] == WaveNetInput().context_channels


def test_the_context_is_a_channel_and_its_seconds_lie_in_its_columns(rng):
    eeg_uv = np.cumsum(rng.normal(0, 3, (1, 20, 10_000)), axis=2).astype(np.float32)
    power = np.full((1, 300, 4, 100), 0.1, np.float32)
    power[:, 200:250, OFFICIAL_REGIONS.index("LP"), :50] = 100  # 400 to 500 s, up to 10 Hz
    inputs = {"image": TEN_MINUTES, "eeg": WaveNetInput()}
    out = represent(inputs, eeg_uv, power)["image"][0, ..., 1]
    assert TEN_MINUTES.columns_per_s[1] == 0.1 and out.min() > 0 and out.max() < 1
    bright = out > 10 * np.log10(1024 * 30) / 60
    rows, columns = np.nonzero(bright)
    assert set(rows) == {12, 13, 14, 15} and set(columns) == set(range(41, 50))  # of LP, low ones


def test_flipping_hemispheres_exchanges_the_regions_of_the_context(rng):
    eeg_uv = np.cumsum(rng.normal(0, 3, (1, 10_000, 20)), axis=1).astype(np.float32)
    power = rng.lognormal(0, 1, (1, 300, 4, 100)).astype(np.float32)
    eeg_uv, other_side = (to_time_last(x, "test") for x in (eeg_uv, exchange_electrodes(eeg_uv)))
    values = TEN_MINUTES.with_context(eeg_uv, power)
    wanted = TEN_MINUTES.with_context(other_side, power[:, :, [1, 0, 3, 2]])
    np.testing.assert_allclose(TEN_MINUTES.flip_hemispheres(values), wanted, atol=1e-5)
    assert np.abs(values - wanted)[..., 1].max() > 0.01


@pytest.mark.parametrize("durations_s", [(50.0, 300.0, 10.0), (600.0,) * 3, (50.0, 700.0, 10.0)])
def test_a_crop_is_of_the_window_or_of_the_context(durations_s):
    with pytest.raises(ValueError, match="Image: durations_s is .* wanted"):
        Image(durations_s=durations_s)


@pytest.mark.parametrize("representation", INPUTS.values(), ids=INPUTS)
def test_flipping_hemispheres_equals_exchanging_electrodes(rng, representation):
    eeg_uv = np.cumsum(rng.normal(0, 3, (2, 10_000, 20)), axis=1).astype(np.float32)
    values = representation.from_raw(eeg_uv)
    flipped = representation.flip_hemispheres(values)
    wanted = representation.from_raw(exchange_electrodes(eeg_uv))
    np.testing.assert_allclose(flipped, wanted, atol=1e-5)
    assert np.abs(flipped - values).max() > 0.1
    np.testing.assert_array_equal(representation.flip_hemispheres(flipped), values)
    tensor = representation.flip_hemispheres(keras.ops.convert_to_tensor(values))
    np.testing.assert_array_equal(np.asarray(tensor), flipped)


def test_a_montage_that_cannot_be_flipped_is_refused():
    with pytest.raises(ValueError, match="not symmetric"):
        WaveNetInput(pairs=DOUBLE_BANANA[:4]).flip_hemispheres(np.zeros((1, 2000, 4)))


def test_stored_values_are_the_values_to_half_a_step(rng):
    image = rng.uniform(0, 1, (2, *SMALL_IMAGE.shape)).astype(np.float32)
    stored = SMALL_IMAGE.encode(image)
    assert stored.dtype == np.uint8 and SMALL_IMAGE.encode(np.float32([0, 1])).tolist() == [0, 255]
    assert np.abs(SMALL_IMAGE.decode(stored) - image).max() <= 0.5 / 255 + 1e-6
    eeg = np.clip(rng.normal(0, 4, (2, 2000, 18)), -10, 10).astype(np.float32)
    stored = WaveNetInput().encode(eeg)
    assert stored.dtype == np.int16 and np.abs(WaveNetInput().decode(stored)).max() <= 10.0001
    assert np.abs(WaveNetInput().decode(stored) - eeg).max() <= 0.5 * 10 / 32767 + 1e-6


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_subclass_may_store_floats(rng, dtype):
    class Floats(WaveNetInput):
        stored_as = dtype

    eeg = rng.normal(0, 4, (2, 2000, 18)).astype(np.float32)
    decoded = Floats().decode(Floats().encode(eeg))
    np.testing.assert_allclose(decoded, eeg, rtol=1e-3)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(BatchPlan.of(Floats().encode(eeg), Floats()).render(), decoded)


def test_settings_survive_json_and_strangers_are_refused():
    for representation in (*INPUTS.values(), WaveNetInput(pairs=DOUBLE_BANANA[:3], decimate=4)):
        text = json.dumps(representations.to_dict(representation))
        assert representations.from_dict(json.loads(text)) == representation
    with pytest.raises(ValueError, match="'Picture' is unknown, known are .*Image, .*WaveNetInput"):
        representations.from_dict({"type": "Picture"})
    with pytest.raises(ValueError, match="Image: unknown settings frames"):
        representations.from_dict({"type": "Image", "frames": 3})
    keys = {r.key for r in (Image(), SMALL_IMAGE, WaveNetInput(), WaveNetInput(decimate=4))}
    assert len(keys) == 4


@dataclass(frozen=True)
class Loudness(Representation):
    """The least that a representation is: root mean square of every second and electrode."""

    input: ClassVar[str] = "loudness"
    scale_uv: float = 50.0

    @property
    def shape(self):
        return (50, 20)

    def __call__(self, eeg_uv):
        squares = np.square(eeg_uv).reshape(len(eeg_uv), 20, 50, -1).mean(axis=-1)
        return np.sqrt(squares).swapaxes(1, 2) / self.scale_uv


def test_a_new_representation_is_one_class(broken_uv):
    loudness = Loudness(25.0)
    assert representations.from_dict(representations.to_dict(loudness)) == loudness
    values = represent({"loudness": loudness}, to_time_last(broken_uv, "test"))["loudness"]
    assert values.shape == (8, 50, 20) and (loudness.columns_per_s == 1).all()
    np.testing.assert_array_equal(loudness.decode(loudness.encode(values)), values)
    with pytest.raises(NotImplementedError, match="Loudness has no Keras version"):
        loudness.layer()(np.zeros((1, 20, 10_000)))


# ------------------------------------------------------------------------------ in a graph


def test_repair_in_a_graph_is_the_same(broken_uv):
    x = to_time_last(broken_uv, "test")
    repaired, enough = map(np.asarray, representations.graph_layers()["Repair"]()(broken_uv))
    wanted, quality = signals.repair_with_quality(x)
    np.testing.assert_allclose(repaired, wanted, atol=1e-3, rtol=1e-5)
    assert list(enough[:, 0] > 0) == [problem == "" for problem in quality.problems()]


@pytest.mark.parametrize("band_hz", [(0.5, 40.0), (0.5, 20.0)])
@pytest.mark.parametrize("length", [22, 128, 10_000])
def test_the_filter_in_a_graph_is_the_same_up_to_the_edges(rng, band_hz, length):
    x = rng.normal(0, 50, (2, 3, length)).astype(np.float32) + 300
    filtered = np.asarray(signals.bandpass_in_graph(keras.ops.convert_to_tensor(x), *band_hz))
    np.testing.assert_allclose(filtered, signals.bandpass(x, *band_hz), atol=2e-3)


@pytest.mark.parametrize("image", [Image(), Image(n_mels=8, n_frames=60), TEN_MINUTES], ids=str)
def test_representations_in_a_graph_are_the_same(broken_uv, image):
    inputs = {"image": image, "eeg": WaveNetInput(bandpass_hz=(0.5, 30.0), decimate=4)}
    made = representations.raw_to_inputs(inputs).predict(broken_uv, verbose=0)
    repaired = signals.repair(to_time_last(broken_uv, "test"))
    for name, representation in inputs.items():
        wanted = representation(repaired)
        assert made[name].shape == wanted.shape
        np.testing.assert_allclose(made[name], wanted, atol=1e-4)
        alone = np.asarray(representation.layer()(repaired))
        np.testing.assert_allclose(alone, wanted, atol=1e-4)


def test_they_run_on_jax_too(broken_uv, tmp_path):
    np.save(tmp_path / "eeg.npy", broken_uv)
    code = """
import sys, numpy as np
from hmsutils import representations as r
model = r.raw_to_inputs({"image": r.Image(), "eeg": r.WaveNetInput()})
made = model.predict(np.load(sys.argv[1] + "/eeg.npy"), verbose=0)
np.savez(sys.argv[1] + "/made.npz", **made)
"""
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True)
    made = np.load(tmp_path / "made.npz")
    for representation in (Image(), WaveNetInput()):
        wanted = representation.from_raw(broken_uv)
        np.testing.assert_allclose(made[representation.input], wanted, atol=1e-4)


@pytest.mark.parametrize("decimate", [3, 5, 7])
def test_signals_have_the_shape_that_they_say(broken_uv, decimate):
    representation = WaveNetInput(decimate=decimate)
    values = representation(signals.repair(to_time_last(broken_uv[:1], "test")))
    assert values.shape[1:] == representation.shape
