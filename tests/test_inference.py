"""Predictions average folds and flips; submissions are refused as the competition refuses them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_IMAGE

from hmsutils import __main__, inference, records, training
from hmsutils.evaluation import read_run, tempered
from hmsutils.files import CLASSES, VOTE_COLUMNS, Competition
from hmsutils.models import WaveNetConfig
from hmsutils.signals import wavenet_input
from hmsutils.training import TrainConfig

CONFIG = TrainConfig(
    towers=("wavenet",), image=SMALL_IMAGE, weights=None, folds=(0, 1), epochs=1, batch_size=8,
    wavenet=WaveNetConfig(filters=8, dilations=(1, 4, 16), features=8),
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(windows, arrays, tmp_path_factory):
    image = replace(CONFIG, towers=("mobilenet_v3_large",), folds=(0,))
    return training.train(
        [CONFIG, image], windows, arrays, runs_dir=tmp_path_factory.mktemp("runs")
    )


@pytest.fixture(scope="module")
def loaded(runs):
    return inference.load_models(runs)


def test_predictions_average_folds_and_runs(runs, loaded, competition, windows):
    eeg_uv = np.stack(
        [
            records.read_eeg(competition, w.eeg_id, w.eeg_offset_s)
            for w in windows.head(3).itertuples()
        ]
    )
    out = inference.predict(loaded[:1], eeg_uv, flip=False)
    singles = [
        training.load_model(runs[0], fold)[0].predict({"eeg": wavenet_input(eeg_uv)}, verbose=0)
        for fold in (0, 1)
    ]
    wanted = tempered(np.mean(singles, axis=0), read_run(runs[0])[0]["temperature"])
    np.testing.assert_allclose(out, wanted, atol=1e-6)
    assert out.dtype == np.float64
    np.testing.assert_allclose(inference.predict(loaded, eeg_uv).sum(axis=1), 1, atol=1e-12)


def test_flipped_predictions_do_not_depend_on_the_side(loaded, competition, windows):
    from hmsutils.augment import _MIRROR
    from hmsutils.files import ELECTRODES

    eeg_uv = records.read_eeg(
        competition, windows["eeg_id"].iloc[0], windows["eeg_offset_s"].iloc[0]
    )
    mirrored = eeg_uv[:, [ELECTRODES.index(_MIRROR.get(name, name)) for name in ELECTRODES]]
    np.testing.assert_allclose(
        inference.predict(loaded, eeg_uv), inference.predict(loaded, mirrored), atol=1e-4
    )


def test_predict_wants_models_and_twenty_columns(loaded):
    with pytest.raises(ValueError, match="no models"):
        inference.predict([], np.zeros((1, 10_000, 20)))
    with pytest.raises(ValueError, match=r"predict: got an array of shape \(1, 10000, 19\)"):
        inference.predict(loaded, np.zeros((1, 10_000, 19)))


def test_nan_everywhere_still_gives_probabilities(loaded):
    out = inference.predict(loaded, np.full((1, 10_000, 20), np.nan))
    assert np.isfinite(out).all() and out.sum() == pytest.approx(1)


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


def test_the_command_line_predicts_the_real_recordings(real, runs, tmp_path, capsys):
    out = tmp_path / "x.csv"
    where = ["--data", str(real.root), "--split", "train"]
    __main__.main(["predict", *where, "--out", str(out), "--run", str(runs[0])])
    table, eeg_ids = pd.read_csv(out), pd.read_csv(real.root / "train.csv")["eeg_id"]
    assert f": {len(eeg_ids)} valid rows" in capsys.readouterr().out
    inference.check_submission(table, eeg_ids)


def test_a_long_recording_is_judged_every_ten_seconds(loaded, competition, windows, tmp_path):
    eeg_uv = records.read_eeg(competition, windows["eeg_id"].iloc[0])
    table = inference.predict_recording(loaded[:1], np.concatenate([eeg_uv, eeg_uv[:4000]]))
    assert list(table["start_s"]) == [20, 30, 40] and list(table.columns[2:]) == list(CLASSES)
    np.testing.assert_allclose(table[list(CLASSES)].sum(axis=1), 1)
    np.testing.assert_allclose(
        table[list(CLASSES)].iloc[0], inference.predict(loaded[:1], eeg_uv)[0], atol=1e-6
    )
    with pytest.raises(ValueError, match="20 s in steps of 10.0 s; wanted at least 50 s"):
        inference.predict_recording(loaded, eeg_uv[:4000])


def test_without_runs_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="run the notebooks"):
        inference.default_runs()


def test_the_best_run_is_the_default(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "runs").symlink_to(runs[0].parent)
    import json

    kl = {run: json.loads((run / "run.json").read_text())["metrics"]["all"]["KL"] for run in runs}
    best = min(runs, key=kl.get)
    assert [path.name for path in inference.default_runs()] == [best.name]
    released = tmp_path / "models" / "released" / "mobilenet_v3_large+wavenet"
    released.mkdir(parents=True)
    (released / "run.json").write_text("{}")
    assert inference.default_runs() == [released]


def test_predictions_are_calibrated_and_blended_as_asked(loaded, competition, windows):
    eeg_uv = records.read_eeg(competition, windows["eeg_id"].iloc[0])
    parts = [inference.predict([model], eeg_uv) for model in loaded]
    weighted = [replace(m, weight=w) for m, w in zip(loaded, (4, 1), strict=True)]
    blended = inference.predict(weighted, eeg_uv)
    np.testing.assert_allclose(blended, 0.8 * parts[0] + 0.2 * parts[1], atol=1e-6)
    raw = inference.predict([replace(loaded[0], temperature=1.0)], eeg_uv)
    flat = inference.predict([replace(loaded[0], temperature=2.0)], eeg_uv)
    np.testing.assert_allclose(flat, tempered(raw, 2.0), atol=1e-6)


def test_the_projection_counts_the_second_of_two_rounds_of_a_full_chunk(competition, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        inference, "predict_windows", lambda models, c, windows, split: sizes.append(len(windows))
    )
    clock = iter([0.0, 100.0, 132.0])  # the first round starts, the second starts, it ends
    monkeypatch.setattr(inference, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert inference.projection([], competition).startswith("0.500 s per EEG: 10,000 in 1.39 h of")
    assert sizes == [64, 64]
