"""Maps of where a model looked: exact for models whose answer is known."""

from dataclasses import replace

import keras
import matplotlib
import numpy as np
import pytest
from conftest import INPUTS

from hmsutils import inference, plots, saliency
from hmsutils.competition import CLASSES, ELECTRODES
from hmsutils.config import TrainConfig
from hmsutils.inference import TrainedModel
from hmsutils.models import BACKBONES, WaveNetConfig, build_model
from hmsutils.signals import DOUBLE_BANANA
from hmsutils.simulate import simulate_window

matplotlib.use("agg")
CONFIG = TrainConfig(
    towers=("wavenet",), inputs=INPUTS, weights=None, wavenet=WaveNetConfig(4, 3, (1, 8), 1, 4)
)


@pytest.fixture(scope="module")
def eeg_uv():
    eeg_uv = np.stack([simulate_window(np.random.default_rng(i))[0] for i in range(3)])
    eeg_uv[2] = np.nan  # no opinion
    return eeg_uv


@pytest.fixture(scope="module")
def models(small_backbone):
    """A WaveNet of two folds and a concatenation, with random weights."""
    keras.utils.set_random_seed(0)
    both = replace(CONFIG, towers=(small_backbone, "wavenet"))
    return [_untrained(CONFIG, folds=2, weight=0.3), _untrained(both, folds=1, weight=0.7)]


def _untrained(config, folds=1, weight=1.0) -> TrainedModel:
    made = [build_model(config) for _ in range(folds)]
    weights = tuple(m.get_weights() for m in made)
    return TrainedModel(lambda: (made[0], weights), config, weight=weight)


def test_maps_average_folds_and_models_and_are_nan_without_an_opinion(models, eeg_uv):
    def alone(k, fold):
        model, weights = models[k].load()
        one = replace(models[k], load=lambda: (model, (weights[fold],)))
        return saliency.eeg_saliency([one], eeg_uv, 1)

    found = saliency.eeg_saliency(models, eeg_uv, 1)
    wanted = 0.15 * alone(0, 0) + 0.15 * alone(0, 1) + 0.7 * alone(1, 0)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert found.shape == (3, 18, 50) and (found[:2] >= 0).all() and np.isnan(found[2]).all()
    np.testing.assert_allclose(found[:2].sum(axis=(1, 2)), 1, atol=1e-5)
    cam = saliency.grad_cam(models, eeg_uv, 1)
    assert cam.shape == (3, 32, 64) and (cam[:2] >= 0).all() and np.isnan(cam[2]).all()


def test_the_class_is_the_most_probable_one_unless_it_is_named(models, eeg_uv):
    likely = inference.predict(models[1:], eeg_uv, return_quality=True)[0].argmax(axis=1)
    for map_of in (saliency.eeg_saliency, saliency.grad_cam):
        found = map_of(models[1:], eeg_uv)
        np.testing.assert_allclose(found, map_of(models[1:], eeg_uv, likely), atol=1e-6)
        assert np.abs(found - map_of(models[1:], eeg_uv, (likely + 1) % 6))[:2].max() > 1e-6


def test_the_gradient_is_the_slope_of_the_log_probability(models, eeg_uv):
    trained, inputs = models[0], INPUTS["eeg"].from_raw(eeg_uv[0])
    chosen = np.eye(len(CLASSES), dtype=np.float32)[[2]]

    def score(x):
        return keras.ops.sum(keras.ops.log(trained.model({"eeg": x})) * chosen)

    slope = saliency.gradient(score, keras.ops.convert_to_tensor(inputs)).numpy()
    step = 2e-4 * np.sign(slope) * (np.abs(slope) > np.quantile(np.abs(slope), 0.9))
    difference = float(score(inputs + step)) - float(score(inputs - step))
    np.testing.assert_allclose(difference, 2 * (slope * step).sum(), rtol=0.05)


def test_a_model_that_sees_one_derivation_is_said_to_look_there(eeg_uv):
    trained = _untrained(CONFIG)
    names = [weight.path for weight in trained.model.weights]
    stem = next(i for i, name in enumerate(names) if name.endswith("stem/kernel"))
    trained.folds[0][stem][:, np.arange(18) != 5] = 0
    found = saliency.eeg_saliency([trained], eeg_uv)
    np.testing.assert_allclose(found[:2, 5].sum(axis=1), 1, atol=1e-6)


def test_grad_cam_weights_the_feature_map_by_the_gradient(models, eeg_uv, small_backbone):
    """Against Keras' gradient by the pooled features, in a model that begins there."""
    trained = models[1]
    model, image = trained.model, INPUTS["image"].from_raw(eeg_uv)
    batch = {"image": image, "eeg": INPUTS["eeg"].from_raw(eeg_uv)}
    tower, ops = model.get_layer(small_backbone), keras.ops
    others = model.get_layer("wavenet")(batch["eeg"])
    features = keras.Model(tower.inputs, tower.layers[-1].input)(ops.convert_to_tensor(image))
    chosen = np.eye(len(CLASSES), dtype=np.float32)[[4, 4, 4]]

    def score(x):
        pooled = ops.concatenate([ops.mean(x, axis=(1, 2)), others], axis=1)
        return ops.sum(ops.log(model.get_layer("head")(pooled)) * chosen)

    weights = saliency.gradient(score, features).numpy().mean(axis=(1, 2))
    cam = np.einsum("nhwf,nf->nhw", features, weights).clip(0)
    cam = ops.convert_to_numpy(ops.image.resize(cam[..., None], image.shape[1:3])[..., 0])
    wanted = cam / np.maximum(cam.sum(axis=(1, 2), keepdims=True), 1e-30)
    found = saliency.grad_cam([trained], eeg_uv, 4)
    np.testing.assert_allclose(found[:2], wanted[:2], atol=1e-6)


def test_models_without_the_tower_and_with_different_inputs_are_refused(
    models, eeg_uv, small_backbone
):
    image = _untrained(replace(CONFIG, towers=(small_backbone,)))
    with pytest.raises(ValueError, match="eeg_saliency: small have none of wavenet; pass"):
        saliency.eeg_saliency([image], eeg_uv[:1])
    with pytest.raises(ValueError, match=f"grad_cam: wavenet have none of {next(iter(BACKBONES))}"):
        saliency.grad_cam(models[:1], eeg_uv[:1])
    eeg = replace(INPUTS["eeg"], pairs=DOUBLE_BANANA[:16])
    other = _untrained(replace(CONFIG, inputs=INPUTS | {"eeg": eeg}))
    with pytest.raises(ValueError, match="wavenet, wavenet have different inputs of wavenet"):
        saliency.eeg_saliency([models[0], other], eeg_uv[:1])


def test_seconds_are_sums_whatever_the_rate(rng):
    x = rng.uniform(size=(2, 3, 2000))
    np.testing.assert_allclose(saliency.per_second(x), x.reshape(2, 3, 50, 40).sum(axis=-1))
    x = np.zeros(64)
    x[32] = 1.0  # from 25 s to 25.78 s of 50
    assert saliency.per_second(x)[25] == pytest.approx(1)
    assert saliency.per_second(rng.uniform(size=64)).shape == (50,)


def test_the_share_of_a_map_on_a_pattern():
    pattern_uv = np.zeros((1, 10_000, 19), np.float32)
    pattern_uv[0, 4000:5000, ELECTRODES.index("Fp1")] = 40.0  # 20–25 s
    pattern_uv[0, 6000:6200, ELECTRODES.index("Fp1")] = 9.0  # under a quarter
    cells = saliency.pattern_cells(pattern_uv)
    rows = [i for i, pair in enumerate(DOUBLE_BANANA) if "Fp1" in pair]
    assert cells.shape == (1, 18, 50) and cells.sum() == 5 * len(rows) == 10
    assert cells[0, rows, 20:25].all()
    assert not saliency.pattern_cells(0 * pattern_uv).any()
    maps = np.stack([cells[0] * 1.0, np.ones((18, 50)), np.zeros((18, 50))])
    np.testing.assert_allclose(saliency.mass_on(maps, cells), [1, 10 / 900, np.nan])


def test_figures_shade_the_derivations_they_name(models, eeg_uv):
    cells = np.zeros((18, 50), bool)
    cells[DOUBLE_BANANA.index(("Fp2", "F4")), 3:7] = True
    figure = plots.plot_eeg(eeg_uv[0], start_s=0, seconds=50, saliency=cells * 1.0, truth=cells)
    (ax,) = figure.axes
    levels = dict(zip([t.get_text() for t in ax.get_yticklabels()], ax.get_yticks(), strict=True))
    (shaded,) = [image for image in ax.images if image.get_array().any()]
    left, right, low, high = shaded.get_extent()
    assert (left, right) == (0, 50) and low < levels["Fp2–F4"] < high
    (line,) = [x for x in ax.collections if len(x.get_segments())]
    np.testing.assert_allclose(line.get_segments()[0], [[3, low], [7, low]])
    cam = np.zeros((32, 64))
    cam[5, 6] = 2.0
    figure = plots.plot_image(INPUTS["image"].from_raw(eeg_uv[0])[0], cam=cam)
    veils = [ax.images[-1].get_alpha() for ax in figure.axes]
    assert all(veil[5, 6] == 0 and veil[0, 0] == 0.85 for veil in veils)


def test_jax_finds_the_same_slopes(monkeypatch):
    jnp = pytest.importorskip("jax.numpy")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    slope = saliency.gradient(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(slope, [3, 12])
