"""Predictions average folds and flips; submissions are refused as the competition refuses them."""

import json
import os
import re
import shutil
import warnings
from dataclasses import replace

import edfio
import mne
import numpy as np
import pandas as pd
import pytest
from conftest import INPUTS
from scipy.signal import resample_poly
from test_representations import exchange_electrodes

from hmsutils import (
    __main__,
    events,
    export,
    inference,
    recordings,
    records,
    runs,
    spectrograms,
    training,
)
from hmsutils.competition import CLASSES, ELECTRODES, VOTE_COLUMNS, Competition
from hmsutils.config import TrainConfig
from hmsutils.evaluation import apply_temperature
from hmsutils.models import BACKBONES, WaveNetConfig, build_model
from hmsutils.representations import represent
from hmsutils.signals import DOUBLE_BANANA, bipolar, wavenet_input

CONFIG = TrainConfig(
    towers=("wavenet",), inputs=INPUTS, weights=None, folds=(0, 1), epochs=1, batch_size=8,
    wavenet=WaveNetConfig(filters=8, dilations=(1, 4, 16), features=8),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(windows, arrays, small_backbone, tmp_path_factory):
    image = replace(CONFIG, towers=(small_backbone,))
    return training.train(
        [CONFIG, image], windows, arrays, runs_dir=tmp_path_factory.mktemp("runs")
    )


@pytest.fixture(scope="module")
def loaded(trained):
    return inference.load_models(trained)


def test_predictions_average_folds_and_runs(trained, loaded, competition, windows):
    eeg_uv = np.stack(
        [
            records.read_eeg(competition, w.eeg_id, w.eeg_offset_s)
            for w in windows.head(3).itertuples()
        ]
    )
    out = inference.predict(loaded[:1], eeg_uv, flip=False)
    singles = [
        training.load_model(trained[0], fold)[0].predict({"eeg": wavenet_input(eeg_uv)}, verbose=0)
        for fold in (0, 1)
    ]
    wanted = apply_temperature(np.mean(singles, axis=0), trained[0].temperature)
    np.testing.assert_allclose(out, wanted, atol=1e-6)
    assert out.dtype == np.float64
    np.testing.assert_allclose(inference.predict(loaded, eeg_uv).sum(axis=1), 1, atol=1e-12)


def test_flipped_predictions_do_not_depend_on_the_side(loaded, competition, windows):
    eeg_uv = records.read_eeg(
        competition, windows["eeg_id"].iloc[0], windows["eeg_offset_s"].iloc[0]
    )
    flipped = inference.predict(loaded, exchange_electrodes(eeg_uv))
    np.testing.assert_allclose(inference.predict(loaded, eeg_uv), flipped, atol=1e-4)


def test_predict_wants_models_and_twenty_columns(loaded):
    with pytest.raises(ValueError, match="no models"):
        inference.predict([], np.zeros((1, 10_000, 20)))
    with pytest.raises(ValueError, match=r"predict: got an array of shape \(1, 10000, 19\)"):
        inference.predict(loaded, np.zeros((1, 10_000, 19)))


def test_a_window_without_enough_eeg_has_no_prediction(loaded, eeg_uv):
    windows = np.stack([eeg_uv, eeg_uv * np.nan, eeg_uv * 1e-6, eeg_uv])
    windows[3, :, 3:19] = 0.0
    with pytest.warns(UserWarning, match="3 of 4 windows have no prediction .NaN., first window 1"):
        out = inference.predict(loaded[:1], windows)
    np.testing.assert_allclose(out[0], inference.predict(loaded[:1], eeg_uv)[0], atol=1e-6)
    assert np.isnan(out[1:]).all()
    windows[0, :, 8] = np.nan  # Fz
    again, quality = inference.predict(loaded[:1], windows, return_quality=True)
    np.testing.assert_array_equal(np.isnan(again), np.isnan(out))
    assert list(quality["n_electrodes"][1:3]) == [0, 0] and quality["n_electrodes"][3] <= 3
    assert "Fz" in quality["replaced"][0].split() and quality["problem"][0] == ""
    assert quality["problem"][1:].str.match("EEG in [0-3] of 19 electrodes, wanted 10").all()


@pytest.fixture(scope="module")
def eeg_uv(competition, windows):
    return records.read_eeg(competition, windows["eeg_id"].iloc[0])


def test_what_is_no_recording_is_refused(loaded, eeg_uv):
    with pytest.raises(ValueError, match=r"got \(2, 10000, 20\), wanted one recording, \(T, 20\)"):
        inference.predict_recording(loaded, np.stack([eeg_uv, eeg_uv]))
    for step_s in (np.nan, np.inf, 0, -10):
        with pytest.raises(ValueError, match="wanted at least one sample, 0.005 s"):
            inference.predict_recording(loaded, eeg_uv, step_s=step_s)
    with pytest.raises(ValueError, match=r"predict: got an array of shape \(0, 10000, 20\)"):
        inference.predict(loaded, np.zeros((0, 10_000, 20)))


def _spoil(path, kind: str) -> None:
    """Spoil an EEG file; every kind another way."""
    table = pd.read_parquet(path)
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:5_000])
    elif kind == "damaged":  # its last bytes, by which it is known, are whole
        content = bytearray(path.read_bytes())
        content[1_000:40_000] = bytes(39_000)
        path.write_bytes(content)
    else:
        changed = {"short": table.iloc[:9_000], "NaN": table * np.nan, "flat": table * 0 + 7}
        changed[kind].astype(np.float32).to_parquet(path, index=False)


@pytest.mark.parametrize("kinds", [("missing", "truncated", "damaged"), ("short", "NaN", "flat")])
def test_a_submission_is_whole_whatever_the_files_are(loaded, competition, tmp_path, kinds, capsys):
    spoiled = Competition(tmp_path / "spoiled", "local")
    shutil.copytree(competition.root, spoiled.root)
    ids = list(pd.read_csv(spoiled.root / "sample_submission.csv")["eeg_id"])
    for eeg_id, kind in zip(ids, kinds, strict=False):
        _spoil(spoiled.eeg(eeg_id, "test"), kind)
    prior = np.array([0.1, 0.1, 0.1, 0.1, 0.2, 0.4])
    models = [replace(loaded[0], prior=prior)]
    untouched = inference.make_submission(models, competition)
    capsys.readouterr()
    submission = inference.make_submission(models, spoiled)
    np.testing.assert_allclose(submission[list(VOTE_COLUMNS)][:3], [prior] * 3)
    pd.testing.assert_frame_equal(submission[3:], untouched[3:], atol=1e-6)
    *named, total = capsys.readouterr().out.splitlines()
    n = int((submission["other_vote"] == 0.4).sum())
    assert f"{n} of {len(ids)} rows are the prior, because" in total and len(named) == n
    assert all(f"{i}.parquet: " in line for i, line in zip(ids[:3], named, strict=False))
    windows = records.load_windows(spoiled, "test", on_problem="keep")
    options = {"split": "test", "return_quality": True}
    prediction, quality = inference.predict_windows(models, spoiled, windows, **options)
    np.testing.assert_array_equal(np.isnan(prediction).any(axis=1), quality["problem"] != "")


def test_an_eeg_that_stands_twice_in_a_table_is_predicted_once(loaded, competition, tmp_path):
    shutil.copytree(competition.root, tmp_path / "twice")
    table = pd.read_csv(tmp_path / "twice" / "test.csv")
    for name in ("test.csv", "sample_submission.csv"):
        table.loc[[0, 0, 0, 1, 2, 3]].to_csv(tmp_path / "twice" / name, index=False)
    submission = inference.make_submission(loaded[:1], Competition(tmp_path / "twice", "local"))
    once = inference.make_submission(loaded[:1], competition).set_index("eeg_id")
    assert list(submission["eeg_id"]) == list(table["eeg_id"])
    np.testing.assert_allclose(submission.iloc[:, 1:], once.loc[submission["eeg_id"]], atol=1e-6)


def test_a_model_that_gives_no_probabilities_is_refused(loaded, eeg_uv):
    network, folds = loaded[0].load()
    broken = replace(loaded[0], load=lambda: (network, ([w * np.nan for w in folds[0]],)))
    for model in (broken, replace(loaded[0], temperature=1e-5)):
        with pytest.raises(ValueError, match="wavenet give no probabilities"):
            inference.predict([model], eeg_uv)


def test_columns_in_another_order_are_refused(loaded, eeg_uv):
    frame = pd.DataFrame(eeg_uv, columns=ELECTRODES)
    inference.predict(loaded[:1], frame)
    with pytest.raises(ValueError, match="predict: columns .'EKG', 'O2'.*, wanted Fp1 F3"):
        inference.predict(loaded[:1], frame[list(ELECTRODES[::-1])])


def test_the_submission_follows_the_sample_and_needs_no_spectrograms(loaded, competition, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("test.csv", "sample_submission.csv"):
        table = pd.read_csv(competition.root / name)
        table.iloc[::-1].to_csv(bare / name, index=False)
    (bare / "test_eegs").symlink_to(competition.root / "test_eegs")
    submission = inference.make_submission(loaded[:1], Competition(bare, "local"))
    sample = pd.read_csv(bare / "sample_submission.csv")
    assert list(submission.columns) == list(sample.columns)
    assert (submission["eeg_id"] == sample["eeg_id"]).all()
    assert np.allclose(submission[list(VOTE_COLUMNS)].sum(axis=1), 1)


BROKEN = {
    "columns": lambda s: s[["eeg_id", *VOTE_COLUMNS[::-1]]],
    "not the 3 wanted eeg_id": lambda s: s.iloc[::-1],
    "first eeg_id 2": lambda s: s.assign(lpd_vote=[0.1, 0.2, 0.1]),
    "no probabilities": lambda s: s.assign(gpd_vote=[np.nan] * 3),
    "wanted 6 values": lambda s: s.assign(gpd_vote=[1.1, 0, 0], lpd_vote=[-0.1, 1, 1]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_submissions_are_refused(message):
    good = pd.DataFrame({"eeg_id": [1, 2, 3]}).assign(**dict.fromkeys(VOTE_COLUMNS, 0.0))
    good[["lpd_vote", "other_vote"]] = [0.1, 0.9]
    inference.check_submission(good, [1, 2, 3])
    with pytest.raises(ValueError, match=message):
        inference.check_submission(BROKEN[message](good), [1, 2, 3])


def test_the_command_line_predicts_the_real_recordings(real, trained, tmp_path, capsys):
    out = tmp_path / "x.csv"
    where = ["--data", str(real.root), "--split", "train"]
    __main__.main(["predict", *where, "--out", str(out), "--run", str(trained[0].folder)])
    table, eeg_ids = pd.read_csv(out), pd.read_csv(real.root / "train.csv")["eeg_id"]
    assert f": {len(eeg_ids)} valid rows" in capsys.readouterr().out
    inference.check_submission(table, eeg_ids)


def test_a_long_recording_is_predicted_every_ten_seconds(loaded, competition, windows, tmp_path):
    eeg_uv = records.read_eeg(competition, windows["eeg_id"].iloc[0])
    table = inference.predict_recording(loaded[:1], np.concatenate([eeg_uv, eeg_uv[:4000]]))
    assert list(table["start_s"]) == [20, 30, 40] and list(table.columns[2:8]) == list(CLASSES)
    assert list(table.columns[8:]) == ["n_electrodes", "replaced", "lost", "problem"]
    gap = np.concatenate([eeg_uv, eeg_uv * np.nan, eeg_uv])
    rows = inference.predict_recording(loaded[:1], gap).set_index("start_s")
    assert list(rows.index[rows["Seizure"].isna()]) == [50, 60, 70, 80, 90]
    assert rows["problem"][60] == "EEG in 0% of the central 10 s, wanted 50%"
    assert rows["problem"][70] == "EEG in 0 of 19 electrodes, wanted 10"
    np.testing.assert_allclose(table[list(CLASSES)].sum(axis=1), 1)
    np.testing.assert_allclose(
        table[list(CLASSES)].iloc[0], inference.predict(loaded[:1], eeg_uv)[0], atol=1e-6
    )


@pytest.mark.parametrize("seconds, lost", [(49.995, 0), (49, 0.02), (20, 0.6), (4, None)])
def test_less_than_a_window_is_one_with_nothing_around_it(loaded, eeg_uv, seconds, lost):
    some = eeg_uv[: round(200 * seconds)]
    around = (10_000 - len(some)) // 2
    (row,) = inference.predict_recording(loaded[:1], some).to_dict("records")
    centre = max(0, seconds / 2 - 5), min(seconds, seconds / 2 + 5)
    assert (row["start_s"], row["end_s"]) == pytest.approx(centre, abs=0.01)
    if lost is None:  # less than half of the central 10 s
        assert np.isnan(row["Other"]) and row["problem"]
        return
    window = np.pad(some, [(around, 10_000 - len(some) - around), (0, 0)], constant_values=np.nan)
    wanted = inference.predict(loaded[:1], window)[0]
    np.testing.assert_allclose([row[name] for name in CLASSES], wanted, atol=1e-6)
    assert row["lost"] == pytest.approx(lost, abs=0.01)


@pytest.fixture
def own(trained, tmp_path, monkeypatch):
    """A home whose models/runs are those trained here."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "runs").symlink_to(trained[0].folder.parent)
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    yield runs.default_dir()
    (runs.default_dir() / "blend.json").unlink(missing_ok=True)


def test_your_own_best_run_comes_before_the_released_one(trained, own, competition, capsys):
    best = min(trained, key=lambda run: run.kl)
    (chosen,) = inference.default_runs(competition)
    assert chosen.folder == own / best.folder.name
    printed = capsys.readouterr().out
    assert best.name in printed and f"best of your own: held-out KL {best.kl:.3f}" in printed


def test_a_blend_that_is_better_is_taken_with_its_weights(
    trained, own, competition, capsys, monkeypatch
):
    weights = {trained[0].folder.name: 0.75, trained[1].folder.name: 0.25}
    runs.write_blend(own, weights, kl=min(run.kl for run in trained) - 0.01)
    chosen = inference.default_runs(competition)
    assert {run.folder.name: weight for run, weight in chosen.items()} == weights
    printed = capsys.readouterr().out
    assert "your own, as blended by notebook 3: nested KL" in printed
    for run, weight in zip(trained, (0.75, 0.25), strict=True):
        assert f"  {weight} × {run.name}: held-out KL {run.kl:.3f}, accuracy 0." in printed
    assert "published" not in printed
    monkeypatch.setitem(BACKBONES, "small", replace(BACKBONES["small"], published_accuracy=0.67))
    inference.default_runs(replace(competition, kind="kaggle"))
    printed = capsys.readouterr().out
    assert re.search(r"small: held-out KL .*, accuracy .* \(published: 0.67\)\n", printed)
    assert [m.weight for m in inference.load_models(chosen)] == [0.75, 0.25]
    runs.write_blend(own, weights, kl=10.0)
    assert len(inference.default_runs(competition)) == 1
    runs.write_blend(own, weights | {"gone": 0.1}, kl=0.0)
    assert len(inference.default_runs(competition)) == 1


def test_on_kaggle_the_best_blend_of_all_attached_notebooks_is_taken(
    trained, competition, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path))
    weights = {trained[0].folder.name: 0.75, trained[1].folder.name: 0.25}
    for notebook in ("two", "three"):  # the third holds copies of the second's runs, and a blend
        shutil.copytree(trained[0].folder.parent, tmp_path / notebook / "models" / "runs")
    runs.write_blend(tmp_path / "three" / "models" / "runs", weights, kl=0.1)
    chosen = inference.default_runs(competition)
    assert {run.folder.name: weight for run, weight in chosen.items()} == weights
    assert all("three" in run.folder.parts for run in chosen)
    other = Competition(tmp_path / "other", "local")
    shutil.copytree(competition.root, other.root)
    (other.root / "simulation.json").write_text("{}")
    assert len(inference.default_runs(other)) == 4  # none learned from it: all that is attached
    assert "attached" in capsys.readouterr().out


def test_runs_that_learned_from_other_data_are_not_taken(own, competition, tmp_path, capsys):
    other = Competition(tmp_path / "other", "local")
    other.root.mkdir()
    table = pd.read_csv(competition.root / "train.csv").head(1)
    table.to_csv(other.root / "train.csv", index=False)
    (other.root / "train_eegs").symlink_to(competition.root / "train_eegs")
    assert [run.name for run in inference.default_runs(other)] == ["mobilenet_v3_large+wavenet"]
    assert "none of your own learned from the data at hand" in capsys.readouterr().out


def test_anywhere_the_released_model_is_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    monkeypatch.delenv("HMS_DATA_DIR", raising=False)
    (run,) = inference.default_runs()
    assert run.name == "mobilenet_v3_large+wavenet" and not list(tmp_path.iterdir())


def test_predictions_are_calibrated_and_blended_as_asked(loaded, competition, windows):
    eeg_uv = records.read_eeg(competition, windows["eeg_id"].iloc[0])
    parts = [inference.predict([model], eeg_uv) for model in loaded]
    weighted = [replace(m, weight=w) for m, w in zip(loaded, (4, 1), strict=True)]
    blended = inference.predict(weighted, eeg_uv)
    np.testing.assert_allclose(blended, 0.8 * parts[0] + 0.2 * parts[1], atol=1e-6)
    raw = inference.predict([replace(loaded[0], temperature=1.0)], eeg_uv)
    flat = inference.predict([replace(loaded[0], temperature=2.0)], eeg_uv)
    np.testing.assert_allclose(flat, apply_temperature(raw, 2.0), atol=1e-6)


def test_predictions_are_calibrated_for_the_number_of_raters(trained, loaded, competition, windows):
    first = windows.iloc[0]
    eeg_uv = records.read_eeg(competition, first["eeg_id"], first["eeg_offset_s"])
    several = {"<10": 0.5, "≥10": 2.0}
    model = [replace(loaded[0], temperature=1.0, temperatures=several)]
    raw = inference.predict(model, eeg_uv)
    for raters, temperature in ((1, 0.5), (9, 0.5), (10, 2.0), (np.int64(20), 2.0)):
        found = inference.predict(model, eeg_uv, raters=raters)
        np.testing.assert_allclose(found, apply_temperature(raw, temperature), atol=1e-6)
    table = inference.predict_recording(model, eeg_uv, raters=10)
    np.testing.assert_allclose(table[list(CLASSES)], apply_temperature(raw, 2.0), atol=1e-5)
    parts = inference.predict_windows(model, competition, windows[:1], raters=10)
    np.testing.assert_allclose(parts, apply_temperature(raw, 2.0), atol=1e-5)
    (older,) = inference.for_raters([replace(model[0], temperatures={})], 10)
    assert older.temperature == 1.0
    for raters in (0, 2.5, "10"):
        with pytest.raises(ValueError, match="raters is .*, wanted a whole number from 1 up"):
            inference.predict(model, eeg_uv, raters=raters)


def test_commands_blend_all_released_models_for_the_number_of_raters(
    trained, competition, tmp_path, monkeypatch
):
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    weights, several = {"wavenet": 0.75, "small": 0.25}, {"<10": 0.5, "≥10": 2.0}
    for run in trained:
        shutil.copytree(run.folder, runs.released_dir() / run.name)
        changed = json.dumps(run.description | {"temperatures": several})
        (runs.released_dir() / run.name / "run.json").write_text(changed)
    runs.write_blend(runs.released_dir(), weights, kl=0.5)
    models = inference.load_models(runs.released_blend())
    assert {m.config.name: m.weight for m in models} == weights
    assert [m.temperatures for m in models] == [several] * 2
    common = inference.make_submission(models, competition)
    wanted = inference.make_submission(models, competition, raters=12)
    assert np.abs(common - wanted)[list(VOTE_COLUMNS)].max(axis=None) > 0.01
    command = ["predict", "--run", "all", "--raters", "12", "--data", str(competition.root)]
    __main__.main([*command, "--out", str(tmp_path / "submission.csv")])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "submission.csv"), wanted, atol=1e-5)
    saved = []
    monkeypatch.setattr(export, "one_model", saved.extend)
    monkeypatch.setattr(export, "save", lambda _, path: path.touch())
    out = ["--out", str(tmp_path / "all.onnx")]
    __main__.main(["export", "--run", "all", "--raters", "9", *out])
    assert {(m.config.name, m.weight, m.temperature) for m in saved} == {
        ("wavenet", 0.75, 0.5), ("small", 0.25, 0.5)
    }  # fmt: skip


@pytest.fixture(scope="module")
def with_context(small_backbone):
    """An untrained model that looks at the 10 minutes around a window."""
    image = replace(INPUTS["image"], durations_s=(50.0, 600.0, 10.0))
    config = replace(CONFIG, towers=(small_backbone,), inputs={"image": image})
    model = build_model(config)
    weights = model.get_weights()
    return [inference.TrainedModel(lambda: (model, (weights,)), config)]


def test_a_window_is_predicted_with_its_ten_minutes_where_there_is_a_spectrogram(
    with_context, competition, windows, tmp_path
):
    rows = windows.drop_duplicates("spectrogram_id").head(5).reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prediction = inference.predict_windows(with_context, competition, rows)
    (trained,) = with_context
    image, read = trained.config.inputs["image"], records.read_windows
    eeg_uv = np.concatenate(
        [read(competition, w.eeg_id, [w.eeg_offset_s]) for w in rows.itertuples()]
    )
    values = represent({"image": image}, eeg_uv, records.read_contexts(competition, rows))["image"]
    both = [trained.model.predict({"image": x}) for x in (values, image.flip_hemispheres(values))]
    np.testing.assert_allclose(prediction, np.mean(both, axis=0), atol=1e-6)
    without = inference.predict(with_context, np.swapaxes(eeg_uv, 1, 2))
    assert np.abs(without - prediction).max(axis=1).min() > 1e-4
    rows.loc[1:, "spectrogram_id"] = 1  # no such file
    with pytest.warns(UserWarning, match="4 of 5 windows have no 10-minute spectrogram"):
        mixed = inference.predict_windows(with_context, competition, rows, chunk=2)
    np.testing.assert_allclose(mixed, np.concatenate([prediction[:1], without[1:]]), atol=1e-5)


def test_a_submission_is_whole_without_spectrograms(with_context, competition, tmp_path):
    for name in ("test.csv", "sample_submission.csv", "test_eegs"):
        (tmp_path / name).symlink_to(competition.root / name)
    with pytest.warns(UserWarning, match="windows have no 10-minute spectrogram"):
        bare = inference.make_submission(with_context, Competition(tmp_path, "local"))
    whole = inference.make_submission(with_context, competition)
    assert (bare["eeg_id"] == whole["eeg_id"]).all()
    changed = np.abs(bare - whole)[list(VOTE_COLUMNS)].max(axis=1) > 1e-5
    assert changed.sum() >= 3  # of four; one has too little EEG for an opinion


def test_the_context_of_a_recording_is_computed_as_the_official_spectrogram(rng):
    eeg_uv = np.cumsum(rng.normal(0, 3, (20, 260_900)), axis=1).astype(np.float32)  # 1,304 s
    eeg_uv[:, 100_000:110_000] = np.nan  # counts as 0, as there
    power = inference._power_around(260_900, lambda a, b: eeg_uv[:, a:b])
    whole = spectrograms.regional_multitaper(eeg_uv.T)[0]
    assert power.shape == (len(whole) + 600, 4, 100)
    lost, inside = np.isnan(power).all(axis=(1, 2)), power[300:-300]
    assert lost[:300].all() and lost[-300:].all()
    assert not lost[300:-300].any()
    np.testing.assert_allclose(inside, whole, rtol=1e-3)
    assert np.isnan(inference._power_around(119_000, lambda a, b: eeg_uv[:, a:b])).all()


def test_a_recording_is_predicted_in_pieces_and_never_across_a_gap(with_context, rng):
    eeg_uv = np.cumsum(rng.normal(0, 3, (140_000, 20)), axis=0).astype(np.float32)
    raw = mne.io.RawArray(eeg_uv.T * 1e-6, mne.create_info(list(ELECTRODES), 200, "eeg"))
    raw.set_annotations(mne.Annotations([660], [0], ["BAD boundary"]))
    with pytest.warns(UserWarning, match="joined of 2 parts"):
        recording = recordings.read_recording(raw)
    parts = [eeg_uv[:132_000], eeg_uv[132_000:]]
    with pytest.warns(UserWarning, match="have no 10-minute spectrogram"):
        table = inference.predict_recording(with_context, recording, step_s=300)
        wanted = [inference.predict_recording(with_context, part, step_s=300) for part in parts]
    assert list(table["start_s"]) == [20, 320, 620, 675]  # the second part has 40 s
    wanted[1][["start_s", "end_s"]] += 660
    pd.testing.assert_frame_equal(table, pd.concat(wanted, ignore_index=True), atol=1e-4)


def test_windows_of_a_recording_get_the_ten_minutes_around_them(with_context, rng, monkeypatch):
    eeg_uv = np.cumsum(rng.normal(0, 3, (130_000, 20)), axis=0).astype(np.float32)
    seen, represent = [], inference._represent

    def note(models, eeg_uv, context=None):
        seen.append(context)
        return represent(models, eeg_uv, context)

    monkeypatch.setattr(inference, "_represent", note)
    table = inference.predict_recording(with_context, eeg_uv, step_s=275.0)
    assert list(table["start_s"]) == [20, 295, 570]
    whole, contexts = spectrograms.regional_multitaper(eeg_uv)[0], seen[0]
    missing = np.isnan(contexts).all(axis=(2, 3))
    np.testing.assert_allclose(contexts[1], whole[:300], rtol=0.02)  # it begins at 0 s
    np.testing.assert_allclose(contexts[0, 138:], whole[:162], rtol=0.02)
    assert missing[0, :138].all() and not missing[0, 138:].any() and not missing[1].any()
    with pytest.warns(UserWarning, match="2 of 2 windows have no 10-minute spectrogram"):
        inference.predict_recording(with_context, eeg_uv[:12_000])


def write_edf(path, eeg_uv, names=ELECTRODES, sfreq_hz=200, unit="uV", scale=1.0):
    """An EDF of (T, C) microvolts."""
    options = {"physical_range": (-3e3 * scale, 3e3 * scale), "physical_dimension": unit}
    traces = zip(np.clip(eeg_uv, -3e3, 3e3).T * scale, names, strict=True)
    edfio.Edf([edfio.EdfSignal(x, sfreq_hz, label=name, **options) for x, name in traces]).write(
        path
    )


@pytest.fixture
def edf(tmp_path, rng):
    """Five minutes: 26 windows, two pieces."""
    write_edf(tmp_path / "x.edf", rng.normal(0, 20, (60_000, 20)))
    return tmp_path / "x.edf"


def test_a_killed_prediction_goes_on_where_it_was(loaded, edf, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "_CHUNK", 16)
    recording, keep = recordings.read_recording(edf), tmp_path / "pieces"
    whole, classify, sizes = inference.predict_recording(loaded, recording), inference._classify, []

    def killed(models, represented):
        if len(sizes) == 1:
            raise KeyboardInterrupt
        sizes.append(len(represented[models[0].inputs["eeg"].key]))
        return classify(models, represented)

    monkeypatch.setattr(inference, "_classify", killed)
    with pytest.raises(KeyboardInterrupt):
        inference.predict_recording(loaded, recording, keep=keep)
    assert sizes == [16] and len(list(keep.glob("*.parquet"))) == 1
    sizes.append(0)
    table = inference.predict_recording(loaded, recording, keep=keep)
    assert sizes == [16, 0, 10]
    pd.testing.assert_frame_equal(table, whole, check_dtype=False, rtol=0, atol=1e-12)
    inference.predict_recording(loaded, recording, keep=keep)
    assert len(sizes) == 3
    (first, _), state = sorted(inference.kept_pieces(loaded, recording, keep, 10)), edf.stat()
    first.write_bytes(first.read_bytes()[:-9])  # by a disk that was full
    inference.predict_recording(loaded, recording, keep=keep)
    assert sizes[3:] == [16]
    edf.write_bytes(edf.read_bytes())
    os.utime(edf, ns=(state.st_atime_ns, state.st_mtime_ns))
    # Another model, step, file of the same size and time.
    for models, options in [(loaded[:1], {}), (loaded, {"step_s": 9.0}), (loaded, {})]:
        before = len(sizes)
        inference.predict_recording(models, recording, keep=keep, **options)
        assert len(sizes) == before + 2
    with pytest.raises(ValueError, match="keep with EEG in memory, wanted a recording"):
        inference.predict_recording(loaded, recording.read(), keep=keep)


def test_what_could_not_be_read_is_tried_again(loaded, edf, tmp_path, monkeypatch):
    recording, keep, read = (
        recordings.read_recording(edf),
        tmp_path / "p",
        recordings.Recording.read,
    )

    def broken(*args):
        raise OSError("the disk does not answer")

    monkeypatch.setattr(recordings.Recording, "read", broken)
    table = inference.predict_recording(loaded[:1], recording, keep=keep)
    assert table["problem"].str.contains("does not answer").all()
    monkeypatch.setattr(recordings.Recording, "read", read)
    assert (inference.predict_recording(loaded[:1], recording, keep=keep)["problem"] == "").all()


def test_the_command_line_predicts_a_folder(trained, edf, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inference, "_CHUNK", 16)
    for name in ("a", "b"):
        (tmp_path / "in" / f"sub-{name}" / "eeg").mkdir(parents=True)
        shutil.copy(edf, tmp_path / "in" / f"sub-{name}" / "eeg" / f"{name}_eeg.edf")
    shutil.copy(edf, tmp_path / "in" / "sub-b" / "eeg" / "a_eeg.edf")
    (tmp_path / "in" / "sub-a" / "eeg" / "bad_eeg.edf").write_text("no EEG")
    (tmp_path / "in" / "sub-a" / "eeg" / "other.edf").write_text("of no interest")
    out, more = tmp_path / "out", ["--run", str(trained[0].folder)]
    where = [str(tmp_path / "in"), "--out", str(out), "--events", str(out)]
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        classify, seen = inference._classify, []

        def count(*args):
            seen.append(1)
            if len(seen) == 4:  # in the second recording
                raise KeyboardInterrupt
            return classify(*args)

        patch.setattr(inference, "_classify", count)
        __main__.main(["predict", *where, *more])
    assert list(out.glob("*.csv")) == [out / "a_eeg_probabilities.csv"]
    other = out / ".hmsutils-pieces" / "0-0.parquet"  # of another command
    other.touch()
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="2"):
        patch.setattr(inference, "_classify", lambda *args: seen.append(1) or classify(*args))
        __main__.main(["predict", *where, *more, "--edf", str(tmp_path / "copies")])
    assert len(seen) == 4 + 3  # three pieces were there
    said = capsys.readouterr()
    assert "bad_eeg.edf: no recording" in said.err and "1 of 4 recordings failed" in said.err
    assert "File 3 of 4" in said.err and "rows have no prediction" not in said.err
    assert list(other.parent.iterdir()) == [other]
    shutil.rmtree(other.parent)
    names = ["a_eeg", "b_eeg", "eeg_a_eeg"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}{suffix}" for name in names for suffix in ("_probabilities.csv", "_events.tsv")
    )
    copies = [tmp_path / "copies" / f"{name}_annotated.edf" for name in names]
    assert all(recordings.read_recording(copy).duration_s == 300 for copy in copies)
    tables = [pd.read_csv(out / f"{name}_probabilities.csv") for name in names]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_an_output_that_fails_costs_no_other_and_an_older_one_is_named(
    trained, edf, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = ["predict", "x.edf", "--events", "e.tsv", "--edf", "c.edf"]
    command += ["--run", str(trained[0].folder)]

    def full(*_):
        raise OSError("e.tsv: no room")

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="2"):
        patch.setattr(events, "write_events", full)
        __main__.main(command)
    assert "hmsutils: e.tsv: no room" in capsys.readouterr().err
    assert not (tmp_path / "e.tsv").exists() and (tmp_path / ".hmsutils-pieces").is_dir()
    assert recordings.read_recording("c.edf").duration_s == 300
    with monkeypatch.context() as patch:
        patch.setattr(inference, "_classify", None)  # all pieces are there
        __main__.main(command)
    assert (tmp_path / "e.tsv").exists() and not (tmp_path / ".hmsutils-pieces").exists()
    write_edf(edf, np.zeros((60_000, 20)))
    with pytest.warns(UserWarning, match="which no EEG has"):
        __main__.main(command)
    wanted = "e.tsv: not written, as nothing could be predicted; the one that lies there is from be"
    assert wanted in capsys.readouterr().out


def test_a_competition_eeg_from_an_edf_is_predicted_alike(loaded, competition, windows, tmp_path):
    new = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
    names = [f"EEG {new.get(name, name)}-REF" for name in ELECTRODES[:-1]]
    for row in windows.drop_duplicates("eeg_id").head(4).itertuples():
        eeg_uv = np.nan_to_num(records.read_eeg(competition, row.eeg_id, row.eeg_offset_s))
        wanted = inference.predict(loaded, eeg_uv)
        at_256 = resample_poly(eeg_uv, 32, 25, axis=0)[:12_800]
        pairs = bipolar(at_256, ELECTRODES, DOUBLE_BANANA)
        write_edf(tmp_path / "v.edf", at_256[:, :-1], names, 256, "V", 1e-6)
        write_edf(tmp_path / "b.edf", pairs, ["-".join(pair) for pair in DOUBLE_BANANA], 256)
        for name in ("v.edf", "b.edf"):
            table = inference.predict_recording(loaded, recordings.read_recording(tmp_path / name))
            np.testing.assert_allclose(table[list(CLASSES)], wanted, atol=0.02)


def test_the_eeg_around_a_time_ends_at_a_gap(edf):
    recording = recordings.read_recording(edf)
    np.testing.assert_array_equal(inference.window_around(recording, 45.0), recording.read(20, 70))
    short = replace(recording, segments=((0.0, 44.0), (45.0, 130.0)))
    found = inference.window_around(short, 22.0)
    np.testing.assert_array_equal(found[600:9400], recording.read(0, 44))
    assert found.shape == (10_000, 20)
    assert np.isnan(found[:600]).all() and np.isnan(found[9400:]).all()
