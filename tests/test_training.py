"""Runs: what they hold, that they repeat, that they survive a kill, and what they start from."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_IMAGE

from hmsutils import evaluation, training
from hmsutils.augment import NO_AUGMENTATION, AugmentConfig
from hmsutils.batches import Batches
from hmsutils.files import PREDICTION_COLUMNS, TARGET_COLUMNS
from hmsutils.models import WaveNetConfig
from hmsutils.training import TrainConfig

TINY = WaveNetConfig(filters=8, dilations=(1, 4, 16), features=8)
WAVENET = TrainConfig(
    towers=("wavenet",), image=SMALL_IMAGE, wavenet=TINY, folds=(0,), epochs=3, batch_size=8,
    learning_rate=3e-3, weights=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(windows, arrays, tmp_path_factory):
    """A WaveNet of two folds, and a MobileNet of one epoch."""
    runs_dir = tmp_path_factory.mktemp("runs")
    image = replace(WAVENET, towers=("mobilenet_v3_large",), epochs=1)
    return training.train(
        [replace(WAVENET, folds=(0, 1)), image], windows, arrays, runs_dir=runs_dir
    )


def test_a_run_folder_holds_the_contract(trained, windows):
    description, history, oof = evaluation.read_run(trained[0])
    assert description["config"]["towers"] == ["wavenet"] and description["seed"] == 0
    assert description["versions"]["keras"] and description["minutes"] > 0
    assert description["data"]["fingerprint"] == training.fingerprint(windows)
    assert description["metrics"]["all"]["KL"] == pytest.approx(
        evaluation.score(oof).loc["all", "KL"]
    )
    others = windows[windows["fold"] != 1][list(TARGET_COLUMNS)].mean()
    np.testing.assert_allclose(description["prior_mean"]["1"], others, atol=1e-5)
    assert set(history["fold"]) == {0, 1} and len(history) == 6
    held_out = windows[windows["fold"].isin([0, 1])]
    assert sorted(oof["label_id"]) == sorted(held_out["label_id"])
    np.testing.assert_allclose(oof[list(PREDICTION_COLUMNS)].sum(axis=1), 1, atol=1e-5)
    merged = oof.merge(held_out, on="label_id", suffixes=("", "_windows"))
    for name in (*TARGET_COLUMNS, "fold", "patient_id"):
        np.testing.assert_array_equal(merged[name], merged[f"{name}_windows"])
    files = {p.name for p in (trained[0] / "fold0").iterdir()}
    assert {"best.weights.h5", "history.csv", "oof.parquet", "done.json"} <= files
    assert not any(name.startswith(("state", "part")) for name in files)
    assert list((trained[0] / "fold0" / "logs").rglob("*tfevents*"))


def test_oof_predictions_are_those_of_the_best_weights(trained, windows, arrays):
    oof = pd.read_parquet(trained[0] / "fold1" / "oof.parquet")
    model, config = training.load_model(trained[0], 1)
    assert config == replace(WAVENET, folds=(0, 1))
    rows = np.flatnonzero(windows["fold"] == 1)
    prediction = model.predict({"eeg": arrays["eeg"][rows].astype(np.float32)}, verbose=0)
    np.testing.assert_allclose(oof[list(PREDICTION_COLUMNS)], prediction, atol=1e-5)
    history = pd.read_csv(trained[0] / "fold1" / "history.csv")
    kl = evaluation.kl_divergence(oof[list(TARGET_COLUMNS)], oof[list(PREDICTION_COLUMNS)])
    assert kl == pytest.approx(history["val_kl"].min(), abs=1e-9)


def test_saved_weights_hold_no_optimizer(trained):
    import h5py

    with h5py.File(trained[0] / "fold0" / "best.weights.h5") as file:
        assert "optimizer" not in file


def test_the_table_is_rebuilt_from_the_folders_alone(trained):
    table = evaluation.results(trained[1:])
    assert list(table.index) == ["uniform", "prior mean", "mobilenet_v3_large"]
    with pytest.raises(ValueError, match="other windows"):
        evaluation.results(trained)  # two folds against one


def test_configs_survive_json():
    config = replace(WAVENET, start_from=("a", "b"), augmentation=AugmentConfig(mixup=0.4))
    again = training.from_dict(TrainConfig, json.loads(json.dumps(asdict(config))))
    assert again == config and hash(again) == hash(config)
    with pytest.raises(ValueError, match="TrainConfig: unknown settings lr"):
        training.from_dict(TrainConfig, {"lr": 1})


def test_finished_runs_are_kept_and_other_configs_get_other_folders(
    trained, windows, arrays, monkeypatch
):
    runs_dir = trained[0].parent
    monkeypatch.setattr(training, "train_fold", lambda *a, **k: pytest.fail("trained again"))
    same = training.train([replace(WAVENET, folds=(0, 1))], windows, arrays, runs_dir=runs_dir)
    assert same == trained[:1]
    other = training.run_folder(replace(WAVENET, folds=(0, 1), seed=1), windows, runs_dir)
    data = training.run_folder(replace(WAVENET, folds=(0, 1)), windows.iloc[1:], runs_dir)
    assert len({same[0], other, data}) == 3


def test_two_runs_with_one_seed_are_identical_and_another_seed_is_not(windows, arrays, tmp_path):
    values = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run = training.train(
            [replace(WAVENET, seed=seed, epochs=2)], windows, arrays, runs_dir=tmp_path / name
        )[0]
        values.append(pd.read_parquet(run / "oof.parquet")[list(PREDICTION_COLUMNS)].to_numpy())
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()


def test_a_killed_fold_goes_on_and_ends_with_the_same_numbers(windows, arrays, tmp_path):
    whole = training.train([WAVENET], windows, arrays, runs_dir=tmp_path / "whole")[0]
    np.save(tmp_path / "eeg.npy", arrays["eeg"])
    windows.to_parquet(tmp_path / "windows.parquet")
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import json
        import numpy as np, pandas as pd
        from hmsutils import training
        values = json.loads('''{json.dumps(asdict(WAVENET))}''')
        config = training.from_dict(training.TrainConfig, values)
        windows = pd.read_parquet({str(tmp_path / "windows.parquet")!r})
        arrays = {{"eeg": np.load({str(tmp_path / "eeg.npy")!r}, mmap_mode="r")}}
        print(training.train([config], windows, arrays, runs_dir={str(tmp_path / "cut")!r})[0])
        """)
    )
    history = training.run_folder(WAVENET, windows, tmp_path / "cut") / "fold0" / "history.csv"
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    for _ in range(2400):
        time.sleep(0.05)
        if history.exists():
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    epochs = len(pd.read_csv(history))
    assert 1 <= epochs < 3, "the kill came too late to test anything"
    out = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout
    assert f"epoch {epochs + 1}/3" in out and f"epoch {epochs}/3" not in out
    cut = training.run_folder(WAVENET, windows, tmp_path / "cut")
    for name in ("history.csv", "oof.parquet"):
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        a, b = read(whole / name), read(cut / name)
        pd.testing.assert_frame_equal(
            a.drop(columns="seconds", errors="ignore"), b.drop(columns="seconds", errors="ignore")
        )


def test_training_stops_after_patience_epochs_without_a_better_kl(windows, arrays, tmp_path):
    config = replace(WAVENET, epochs=8, patience=2, learning_rate=0.0)
    run = training.train([config], windows, arrays, runs_dir=tmp_path)[0]
    assert len(pd.read_csv(run / "history.csv")) == 3


def test_training_lowers_the_loss(windows, arrays, tmp_path):
    config = replace(WAVENET, epochs=8, patience=8, augmentation=NO_AUGMENTATION)
    history = evaluation.read_run(training.train([config], windows, arrays, runs_dir=tmp_path)[0])[
        1
    ]
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 0.05


def test_a_concat_starts_from_its_trained_parts(trained, windows, arrays, monkeypatch):
    monkeypatch.setattr(training, "_shares", lambda starts, batches: [0.3, 0.7])
    config = replace(
        WAVENET, towers=("mobilenet_v3_large", "wavenet"), folds=(0,), epochs=1, freeze=True,
        learning_rate=0.0, start_from=tuple(run.name for run in trained[::-1]),
    )  # fmt: skip
    run = training.train([config], windows, arrays, runs_dir=trained[0].parent)[0]
    first, second = (
        pd.read_parquet(trained[0].parent / name / "fold0" / "oof.parquet")[
            list(PREDICTION_COLUMNS)
        ].to_numpy()
        for name in config.start_from
    )
    product = first**0.3 * second**0.7
    wanted = product / product.sum(axis=1, keepdims=True)
    concat = pd.read_parquet(run / "oof.parquet")[list(PREDICTION_COLUMNS)]
    np.testing.assert_allclose(concat, wanted, atol=1e-4)
    with pytest.raises(FileNotFoundError, match="train this run to its end first"):
        training.load_model(trained[0].parent / "nothing", 0)


def test_a_strong_part_outweighs_a_weak_one(rng):
    target = rng.dirichlet(np.ones(6), 64).astype(np.float32)
    batches = Batches({"eeg": target[:, None]}, target, np.arange(64))
    strong = lambda x, training: 0.9 * x["eeg"][:, 0] + 0.1 / 6  # noqa: E731
    weak = lambda x, training: rng.dirichlet(np.ones(6), len(x["eeg"]))  # noqa: E731
    shares = training._shares([(weak, WAVENET), (strong, WAVENET)], batches)
    assert sum(shares) == pytest.approx(1) and shares[1] > 0.9


def test_folds_train_in_separate_processes(windows, arrays, tmp_path):
    one = training.train(
        [replace(WAVENET, epochs=1, folds=(0, 1))], windows, arrays, runs_dir=tmp_path, n_jobs=2
    )
    assert evaluation.read_run(one[0])[0]["config"]["folds"] == [0, 1]


def test_a_second_stage_goes_on_from_the_first_with_many_votes_only(windows, arrays, tmp_path):
    config = replace(WAVENET, refine_votes=10, learning_rate=0.0)
    (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    first, second = (pd.read_csv(p / "fold0/history.csv") for p in (run / "first", run))
    assert len(first) == 3 and len(second) == 1
    oofs = [pd.read_parquet(p / "oof.parquet") for p in (run / "first/fold0", run)]
    oofs = [oof.reset_index(drop=True) for oof in oofs]
    pd.testing.assert_frame_equal(*oofs, atol=1e-5)  # nothing was learned, so nothing was lost
    many = oofs[1][oofs[1]["n_votes"] >= 10]
    assert second["val_kl"][0] == pytest.approx(evaluation.score(many).loc["all", "KL"], abs=1e-6)
    assert first["val_kl"][0] == pytest.approx(evaluation.score(oofs[0]).loc["all", "KL"], abs=1e-6)
    others = (windows["fold"] != 0).to_numpy()
    stage = replace(config, min_votes=10)
    batches = training._batches(stage, windows, {"eeg": arrays["eeg"]}, others, 0)
    assert set(batches.rows) == set(np.flatnonzero(others & (windows["n_votes"] >= 10)))
    with pytest.raises(ValueError, match="none of .* windows has 99 votes or more; set"):
        training._batches(replace(stage, min_votes=99), windows, {}, others, 0)


def test_folds_and_stages_of_one_architecture_are_traced_once(
    windows, arrays, tmp_path, monkeypatch
):
    training._ready.clear()
    traced, step = [], keras.Model.train_step
    monkeypatch.setattr(keras.Model, "train_step", lambda *a: traced.append(a) or step(*a))
    config = replace(WAVENET, folds=(0, 1), epochs=1, refine_votes=10)
    (run,) = training.train([config], windows, arrays, runs_dir=tmp_path / "both")
    assert len(traced) == 1  # Python code runs only while a graph is traced
    training._ready.clear()
    alone = replace(config, folds=(1,))
    (fresh,) = training.train([alone], windows, arrays, runs_dir=tmp_path / "alone")
    columns = list(PREDICTION_COLUMNS)
    a, b = (pd.read_parquet(r / "fold1/oof.parquet")[columns] for r in (run, fresh))
    np.testing.assert_allclose(a, b, rtol=1e-6)  # a fold does not know what was trained before it


def test_only_the_middle_of_a_vote_run_is_judged_and_one_row_of_it_an_epoch_is_shown(
    windows, arrays, tmp_path
):
    rows = windows.assign(vote_run=windows["eeg_id"], middle=np.arange(len(windows)) % 3 > 0)
    batches = training._batches(WAVENET, rows, arrays, (rows["fold"] != 0).to_numpy(), 0)
    assert len(batches.order) == rows.loc[rows["fold"] != 0, "eeg_id"].nunique() < len(rows)
    config = replace(WAVENET, epochs=1)
    run = training.train([config], rows, {"eeg": arrays["eeg"]}, runs_dir=tmp_path)[0]
    judged = rows[(rows["fold"] == 0) & rows["middle"]]
    assert evaluation.read_run(run)[2]["label_id"].tolist() == judged["label_id"].tolist()


def test_half_precision_trains_and_begins_anew_in_every_fold(windows, arrays, tmp_path):
    config = replace(WAVENET, precision="mixed_float16", folds=(0, 1), epochs=1)
    (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    assert np.isfinite(evaluation.read_run(run)[1]["loss"]).all()
    ((model, schedule),) = training._ready.values()
    assert model.optimizer.name.startswith("loss_scale") and float(schedule.numbers[0]) > 0


def test_averaged_weights_are_the_ones_judged_and_kept(windows, arrays, tmp_path):
    plain = replace(WAVENET, epochs=1, augmentation=NO_AUGMENTATION)
    runs = training.train([plain, replace(plain, ema=0.5)], windows, arrays, runs_dir=tmp_path)
    losses = [pd.read_csv(run / "history.csv")["loss"] for run in runs]
    np.testing.assert_allclose(*losses, rtol=1e-4)  # averaging changes no step
    kl = [pd.read_csv(run / "history.csv")["val_kl"] for run in runs]
    assert (kl[0] != kl[1]).all()
    model, _ = training.load_model(runs[1], 0)
    oof = pd.read_parquet(runs[1] / "oof.parquet")
    rows = np.flatnonzero(windows["fold"] == 0)
    prediction = model.predict({"eeg": arrays["eeg"][rows].astype(np.float32)}, verbose=0)
    np.testing.assert_allclose(oof[list(PREDICTION_COLUMNS)], prediction, atol=1e-5)


def test_a_run_can_learn_from_the_stream(windows, arrays, tmp_path):
    config = replace(WAVENET, stream=16, epochs=1)
    run = training.train([config], windows, arrays, runs_dir=tmp_path)[0]
    description, _, oof = evaluation.read_run(run)
    assert len(oof) == (windows["fold"] == 0).sum() and description["config"]["stream"] == 16


def test_a_run_keeps_the_temperature_of_its_held_out_predictions(trained):
    description, _, oof = evaluation.read_run(trained[0])
    target, prediction = (oof[list(c)].to_numpy() for c in (TARGET_COLUMNS, PREDICTION_COLUMNS))
    assert description["temperature"] == pytest.approx(evaluation.temperature(target, prediction))
    best = evaluation.tempered(prediction, description["temperature"])
    assert evaluation.kl_divergence(target, best) <= evaluation.kl_divergence(target, prediction)


def test_a_profile_takes_settings_nested_ones_too(competition):
    config = training.profile(competition, None, {"epochs": 7, "image": {"frames": 32}})
    demo = training.PROFILES["demo"]
    assert config == replace(demo, epochs=7, image=replace(demo.image, frames=32))
    assert training.profile(competition) == demo
    with pytest.raises(ValueError, match="unknown settings epoch"):
        training.profile(competition, None, {"epoch": 7})
    with pytest.raises(ValueError, match="'huge' is unknown; choose from full, demo, smoke"):
        training.profile(competition, "huge")


def test_a_wavenet_without_trained_weights_learns_faster_than_backbones():
    for weights in ("imagenet", None):
        config = TrainConfig(weights=weights)
        rates = {t: training.single_config(config, t) for t in ("densenet201", "wavenet")}
        assert rates["densenet201"] == replace(config, towers=("densenet201",))
        assert rates["wavenet"].learning_rate == pytest.approx(5 * config.learning_rate)
    released = replace(config, weights="released")
    assert training.single_config(released, "wavenet").learning_rate == config.learning_rate


def test_a_concat_goes_on_from_what_is_released_else_from_its_parts(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "project_dir", lambda: tmp_path)
    config, names = replace(WAVENET, weights="released"), ("mobilenet_v3_large", "wavenet")
    parts = [tmp_path / "a", tmp_path / "b"]
    from_parts = training.concat_config(config, names, parts)
    assert from_parts.freeze and from_parts.start_from == ("a", "b")
    training.released_run("mobilenet_v3_large+wavenet").mkdir(parents=True)
    assert training.concat_config(config, names, parts) == replace(config, towers=names)
    full = training.concat_config(replace(config, weights="imagenet"), names, parts)
    assert full.start_from == ("a", "b") and not full.freeze
    assert full.learning_rate == pytest.approx(0.1 * config.learning_rate)
