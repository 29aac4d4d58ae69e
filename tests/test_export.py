"""One file gives the probabilities of `inference.predict`, whatever the EEG holds."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from test_inference import CONFIG

from hmsutils import __main__, export, inference
from hmsutils.inference import TrainedModel
from hmsutils.models import build_model
from hmsutils.runs import released_runs
from hmsutils.simulate import simulate_window


@pytest.fixture(scope="module")
def eeg_uv():
    eeg_uv = np.stack([simulate_window(np.random.default_rng(i))[0] for i in range(4)])
    eeg_uv[1, 100:800, 3] = np.nan
    eeg_uv[2, :, 7] = np.nan
    eeg_uv[3] = np.nan
    return eeg_uv


@pytest.fixture(scope="module")
def models():
    """A WaveNet of two folds, and a concatenation, with random weights."""
    both = replace(CONFIG, towers=("mobilenet_v3_large", "wavenet"), folds=(0,))
    return [_untrained(CONFIG, 1.2, 0.3, folds=2), _untrained(both, 0.9, 0.7, folds=1)]


def _untrained(config, temperature, weight, folds) -> TrainedModel:
    made = [build_model(config) for _ in range(folds)]
    weights = tuple(model.get_weights() for model in made)
    return TrainedModel(made[0], config, weights, temperature, weight)


def test_one_model_blends_folds_flips_and_runs(models, eeg_uv):
    made = export.one_model(models).predict(eeg_uv, verbose=0)
    np.testing.assert_allclose(made, inference.predict(models, eeg_uv), atol=1e-5)
    unflipped = export.one_model(models[:1], flip=False).predict(eeg_uv, verbose=0)
    wanted = inference.predict(models[:1], eeg_uv, flip=False)
    np.testing.assert_allclose(unflipped, wanted, atol=1e-5)
    assert np.abs(unflipped - wanted[:, ::-1]).max() > 1e-3
    with pytest.raises(ValueError, match="no models"):
        export.one_model([])


def test_an_onnx_file_needs_only_onnxruntime(models, eeg_uv, tmp_path):
    export.save(export.one_model(models[1:]), tmp_path / "one.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "one.onnx")
    for part in (slice(None), slice(1, 2)):  # any number of EEGs
        (made,) = session.run(None, {"eeg_uv": eeg_uv[part]})
        np.testing.assert_allclose(made, inference.predict(models[1:], eeg_uv[part]), atol=1e-5)


def test_the_command_writes_the_released_model_as_a_keras_file(eeg_uv, tmp_path, capsys):
    run = released_runs("*+*")[0].folder
    __main__.main(["export", "--run", str(run), "--out", str(tmp_path / "one.keras")])
    assert "one.keras: " in capsys.readouterr().out
    made = export.load(tmp_path / "one.keras").predict(eeg_uv, verbose=0)
    wanted = inference.predict(inference.load_models(released_runs("*+*")), eeg_uv)
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one.h5: wanted a name that ends in .keras or .onnx"):
        export.save(None, tmp_path / "one.h5")
