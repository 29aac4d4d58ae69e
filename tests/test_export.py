"""One file gives the probabilities of `inference.predict`, whatever the EEG holds."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import onnxruntime
import pytest
from test_inference import CONFIG

from hmsutils import __main__, export, inference, training
from hmsutils.inference import TrainedModel
from hmsutils.models import build_model
from hmsutils.runs import FoldFolder, Run, released_run, released_runs
from hmsutils.simulate import simulate_window

pytestmark = pytest.mark.filterwarnings("ignore:1 of . windows have no prediction")


@pytest.fixture(scope="module")
def eeg_uv():
    eeg_uv = np.stack([simulate_window(np.random.default_rng(i))[0] for i in range(4)])
    eeg_uv[1, 100:800, 3] = np.nan
    eeg_uv[2, :, 7] = np.nan
    eeg_uv[3] = np.nan  # no opinion
    return eeg_uv


@pytest.fixture(scope="module")
def models():
    """A WaveNet of two folds, and a concatenation that also looks at the 10 minutes around, which
    are absent where 50 s are predicted; with random weights."""
    image = replace(CONFIG.inputs["image"], durations_s=(50.0, 600.0, 10.0))
    inputs = CONFIG.inputs | {"image": image}
    both = replace(CONFIG, towers=("mobilenet_v3_large", "wavenet"), folds=(0,), inputs=inputs)
    return [_untrained(CONFIG, 1.2, 0.3, folds=2), _untrained(both, 0.9, 0.7, folds=1)]


def _untrained(config, temperature, weight, folds) -> TrainedModel:
    made = [build_model(config) for _ in range(folds)]
    weights = tuple(model.get_weights() for model in made)
    return TrainedModel(lambda: (made[0], weights), config, temperature=temperature, weight=weight)


def test_one_model_blends_folds_flips_and_runs(models, eeg_uv):
    made = export.one_model(models).predict(eeg_uv, verbose=0)
    np.testing.assert_allclose(made, inference.predict(models, eeg_uv), atol=1e-5)
    unflipped = export.one_model(models[:1], flip=False).predict(eeg_uv, verbose=0)
    wanted = inference.predict(models[:1], eeg_uv, flip=False)
    np.testing.assert_allclose(unflipped, wanted, atol=1e-5)
    assert np.abs(unflipped - wanted[:, ::-1])[:3].max() > 1e-3 and np.isnan(made[3]).all()
    with pytest.raises(ValueError, match="no models"):
        export.one_model([])


def test_an_onnx_file_needs_only_onnxruntime(models, eeg_uv, tmp_path):
    export.save(export.one_model(models[1:]), tmp_path / "one.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "one.onnx")
    for part in (slice(None), slice(1, 2)):  # any number of EEGs
        (made,) = session.run(None, {"eeg_uv": eeg_uv[part]})
        np.testing.assert_allclose(made, inference.predict(models[1:], eeg_uv[part]), atol=1e-5)


@pytest.fixture
def run(tmp_path):
    """The released WaveNet, as a run of two folds, without networks."""
    folder = shutil.copytree(released_run("wavenet").folder, tmp_path / "run")
    shutil.copytree(folder / "fold0", folder / "fold1")
    described = json.loads((folder / "run.json").read_text())
    described["config"]["folds"] = [0, 1]
    described["prior_mean"]["1"] = described["prior_mean"]["0"]
    (folder / "run.json").write_text(json.dumps(described))
    return Run(folder)


def test_a_converted_run_predicts_the_same_without_its_model(run, eeg_uv):
    (slow,) = inference.load_models([run])
    slow.model.set_weights([w + 1e-4 * np.sin(w) for w in slow.folds[0]])  # that are not rounded
    slow.model.save_weights(run.weights(1))
    (slow,) = inference.load_models([run])
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        export.convert(run)
    finally:
        keras.config.set_dtype_policy("float32")
    (fast,) = inference.load_models([run])
    assert len(fast.sessions) == 2 and not slow.sessions
    wanted = inference.predict([slow], eeg_uv)
    np.testing.assert_allclose(inference.predict([fast], eeg_uv), wanted, atol=1e-4)


def test_networks_of_other_weights_or_settings_are_not_used(run, monkeypatch):
    export.convert(run)
    first = FoldFolder(run.folder, 0).network
    assert inference.load_models([run])[0].sessions
    monkeypatch.setattr(inference, "find_spec", lambda name: None)  # without onnxruntime
    assert not inference.load_models([run])[0].sessions
    monkeypatch.undo()
    monkeypatch.delattr(onnxruntime, "SessionOptions")  # one that is broken
    with pytest.warns(UserWarning, match="Keras predicts instead"):
        assert not inference.load_models([run])[0].sessions
    monkeypatch.undo()
    kept = first.read_bytes()
    first.write_bytes(kept[:-999])
    with pytest.warns(UserWarning, match="network.onnx.gz .*; Keras predicts instead"):
        assert not inference.load_models([run])[0].sessions
    first.write_bytes(kept)
    described = run.folder / "run.json"
    described.write_text(described.read_text().replace('"filters": 32', '"filters": 64'))
    with pytest.raises(ValueError, match="no weights of wavenet"):
        inference.load_models([run])


def test_rounded_weights_are_found_to_lie_on_few_steps(rng):
    assert list(export._steps(np.array([[1, 0.5, -0.25], [-1, 1 / 3, 0]]))) == [4, 3]
    assert list(export._steps(rng.uniform(-1, 1, (2, 9)))) == [32767, 32767]


def test_the_network_of_the_default_is_that_of_its_weights(eeg_uv):
    (fast,) = inference.load_models(released_runs("*+*"))
    assert len(fast.sessions) == 1
    slow = inference.predict([replace(fast, sessions=())], eeg_uv)
    np.testing.assert_allclose(inference.predict([fast], eeg_uv), slow, atol=1e-5)


def test_the_default_predicts_without_keras(tmp_path):
    code = """
import sys, numpy as np
from hmsutils import __main__, inference, records, runs
eeg_uv = np.random.default_rng(0).normal(0, 20, (10_000, 20))
print(inference.predict(inference.load_models(runs.released_runs("*+*")), eeg_uv))
assert not {"keras", "tensorflow"} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=120)


def test_the_command_writes_the_released_model_as_a_keras_file(eeg_uv, tmp_path, capsys):
    run = released_runs("*+*")[0].folder
    __main__.main(["export", "--run", str(run), "--out", str(tmp_path / "one.keras")])
    assert "one.keras: " in capsys.readouterr().out
    made = export.load(tmp_path / "one.keras").predict(eeg_uv, verbose=0)
    wanted = inference.predict(inference.load_models(released_runs("*+*")), eeg_uv)
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_only_whole_keras_files_are_loaded(tmp_path, monkeypatch):
    for name in ("one.h5", "one.hdf5", "one.weights.h5", "one"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name}: wanted a file of `save`"):
            export.load(tmp_path / name)
    path = tmp_path / "one.keras"
    with pytest.raises(FileNotFoundError, match="one.keras: not found"):
        export.load(path)
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match="one.keras: no model of `save`"):
        export.load(path)
    monkeypatch.setattr(export.keras, "__version__", "3.8.0")
    with pytest.warns(UserWarning, match="Keras 3.8.0.*CVE-2025-1550.*keras>=3.13.2"):
        with pytest.raises(ValueError, match="no model"):
            export.load(path)


WAVENET = replace(CONFIG, wavenet=replace(CONFIG.wavenet, filters=4, features=4))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.weights.h5"
    build_model(WAVENET).save_weights(path)
    return path


def other_network(path, content):
    fewer = replace(WAVENET.wavenet, dilations=WAVENET.wavenet.dilations[:-1])
    build_model(replace(WAVENET, wavenet=fewer)).save_weights(path)


def with_nan(path, content):
    model = build_model(WAVENET)
    model.set_weights([values + (i == 3) * np.nan for i, values in enumerate(model.get_weights())])
    model.save_weights(path)


DAMAGES = {
    "truncated": lambda path, content: path.write_bytes(content[:-99]),
    "empty": lambda path, content: path.write_bytes(b""),
    "no HDF5": lambda path, content: path.write_bytes(b"version https://git-lfs.github.com/spec"),
    "arrays and numbers, wanted": other_network,
    "NaN or infinity": with_nan,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_weights_that_are_not_those_of_the_network_are_named(weights, tmp_path, kind):
    model, path = build_model(WAVENET), tmp_path / "model.weights.h5"
    training.load_weights(model, weights)
    DAMAGES[kind](path, weights.read_bytes())
    sentence = kind if kind in ("arrays and numbers, wanted", "NaN or infinity") else ""
    with pytest.raises(ValueError, match=f"{path}: no weights of wavenet .*{sentence}.*train it"):
        training.load_weights(model, path)


def test_a_config_that_cannot_be_is_named_with_its_run(tmp_path):
    released = released_runs("*+*")[0].folder
    for part, value, message in (
        ("towers", ["densenet"], "unknown backbone 'densenet'"),
        ("epoch", 3, "unknown settings epoch"),
        ("dropout", float("nan"), "dropout is nan"),
        ("inputs", [1], ""),
    ):
        description = json.loads((released / "run.json").read_text())
        description["config"][part] = value
        (tmp_path / "run.json").write_text(json.dumps(description))
        with pytest.raises(ValueError, match=f"{tmp_path}: its config cannot be used: .*{message}"):
            training.load_model(tmp_path, 0)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one.h5: wanted a name that ends in .keras or .onnx"):
        export.save(None, tmp_path / "one.h5")
