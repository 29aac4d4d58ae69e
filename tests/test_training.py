"""Runs: what they hold, that they repeat, that they survive a kill, and what they start from."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from dataclasses import dataclass, replace
from typing import ClassVar

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import INPUTS, REPOSITORY

from hmsutils import __main__, devices, evaluation, inference, records, runs, store, training
from hmsutils import competition as ground
from hmsutils.augment import NO_AUGMENTATION
from hmsutils.batches import Batches
from hmsutils.competition import PREDICTION_COLUMNS, TARGET_COLUMNS
from hmsutils.config import PROFILES, RELEASED, TrainConfig, from_dict, to_dict
from hmsutils.models import WaveNetConfig
from hmsutils.representations import Representation
from hmsutils.runs import FoldFolder, Run

TINY = WaveNetConfig(filters=8, dilations=(1, 4, 16), features=8)
WAVENET = TrainConfig(
    towers=("wavenet",), inputs=INPUTS, wavenet=TINY, n_folds=4, folds=(0,), epochs=3, batch_size=8,
    learning_rate=3e-3, weights=None,
)  # fmt: skip


def predictions(oof):
    return oof[list(PREDICTION_COLUMNS)].to_numpy()


@pytest.fixture(scope="module")
def trained(windows, arrays, small_backbone, tmp_path_factory):
    """A WaveNet of two folds, and a small backbone of one epoch."""
    runs_dir = tmp_path_factory.mktemp("runs")
    image = replace(WAVENET, towers=(small_backbone,), epochs=1)
    return training.train(
        [replace(WAVENET, folds=(0, 1)), image], windows, arrays, runs_dir=runs_dir
    )


def test_a_run_folder_holds_the_contract(trained, windows):
    run, oof, history = trained[0], trained[0].oof(), trained[0].history()
    assert run.config["towers"] == ["wavenet"] and run.description["seed"] == 0
    assert run.description["minutes"] > 0 and set(run.description["trained"]) == {"0", "1"}
    last = history.groupby("fold")["val_kl"].last() - history.groupby("fold")["val_kl"].min()
    assert run.description["optimism"] == pytest.approx(last.mean()) and last.mean() >= 0
    assert run.data == {
        "fingerprint": runs.windows_fingerprint(windows),
        "windows": len(windows),
        "data_id": windows["data_id"].iloc[0],
    }
    assert run.kl == pytest.approx(evaluation.score(oof).loc["all", "KL"])
    others = windows[windows["fold"] != 1][list(TARGET_COLUMNS)].mean()
    np.testing.assert_allclose(run.prior_mean[1], others, atol=1e-5)
    assert set(history["fold"]) == {0, 1} and len(history) == 6
    held_out = windows[windows["fold"].isin([0, 1])]
    assert sorted(oof["label_id"]) == sorted(held_out["label_id"])
    np.testing.assert_allclose(predictions(oof).sum(axis=1), 1, atol=1e-5)
    merged = oof.merge(held_out, on="label_id", suffixes=("", "_windows"))
    for name in (*TARGET_COLUMNS, "fold", "patient_id"):
        np.testing.assert_array_equal(merged[name], merged[f"{name}_windows"])
    files = {p.name for p in (run.folder / "fold0").iterdir()}
    assert files == {
        ".hmsutils.lock",
        "model.weights.h5",
        "history.csv",
        "oof.parquet",
        "done.json",
        "logs",
    }
    assert list((run.folder / "fold0" / "logs").rglob("*tfevents*"))


def test_a_run_says_which_code_made_it_and_how(trained, monkeypatch, tmp_path):
    made = trained[0].description["trained"]["1"]
    assert made["versions"]["keras"] and (made["device"], made["precision"]) == ("CPU", "float32")
    if (REPOSITORY / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{7,}\+?", made["git"])
    assert made["command"] == shlex.join(sys.argv) and made["threads"] is None
    monkeypatch.setattr(training, "__file__", str(tmp_path / "hmsutils" / "training.py"))
    assert training._revision() is None  # the package lies in no checkout
    (tmp_path / ".git").mkdir()  # a damaged one
    assert training._revision() is None
    monkeypatch.setenv("PATH", "")  # there is no git
    assert training._revision() is None


def test_a_run_is_repeated_and_compared(
    trained, competition, shared, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(store, "default_dir", lambda: shared / "store")
    command = ["rerun", str(trained[1].folder), "--data", str(competition.root)]
    with pytest.raises(SystemExit, match="0"):
        __main__.main(command)
    kl = f"{trained[1].kl:.6f}"
    assert f"small: KL {kl}, repeated {kl}\nlargest difference of a prediction: 0.0e+00" in (
        capsys.readouterr().out
    )
    other = runs.Run(shutil.copytree(trained[1], tmp_path / "other"))
    table = other.oof()
    table.loc[2, "prediction_GPD"] += 0.25
    table.to_parquet(other.folder / "oof.parquet")
    assert training.rerun(other, competition)[1] == pytest.approx(0.25)
    for key in ("fingerprint", "data_id"):
        other.data[key] = "0" * 12
        with pytest.raises(ValueError, match="other learned from other windows than .*--data"):
            training.rerun(other, competition)


def test_oof_predictions_are_those_of_the_last_weights(trained, windows, arrays):
    fold = FoldFolder(trained[0], 1)
    model, config = training.load_model(trained[0], 1)
    assert config == replace(WAVENET, folds=(0, 1))
    prediction = model.predict(decoded(arrays, np.flatnonzero(windows["fold"] == 1)), verbose=0)
    np.testing.assert_allclose(predictions(fold.oof()), prediction, atol=1e-5)
    kl = evaluation.kl_divergence(fold.oof()[list(TARGET_COLUMNS)], predictions(fold.oof()))
    assert kl == pytest.approx(fold.history()["val_kl"].iloc[-1], abs=1e-9)


def decoded(arrays, rows):
    return {"eeg": INPUTS["eeg"].decode(arrays["eeg"][rows])}


def test_saved_weights_hold_no_optimizer(trained):
    import h5py

    with h5py.File(trained[0].weights(0)) as file:
        assert "optimizer" not in file


def test_the_table_is_rebuilt_from_the_folders_alone(trained):
    table = evaluation.results(trained[1:])
    assert list(table.index) == ["uniform", "prior mean", "small"]
    rows = len(FoldFolder(trained[0], 0).oof())  # of two folds and one: what both have
    assert list(evaluation.results(trained)["rows"]) == [rows] * 4


def test_a_kept_run_says_what_trained_it(trained, windows, arrays, monkeypatch):
    run = trained if isinstance(trained, training.Run) else trained[0]
    before = (run.folder / "run.json").read_bytes()
    monkeypatch.setattr(training, "_revision", lambda: "another")
    monkeypatch.setattr(evaluation, "score", lambda oof: pytest.fail("evaluated again"))
    for left in (".hmsutils.lock", "fold0/.hmsutils.holder"):  # by a process that was killed
        (run.folder / left).touch()
    config = from_dict(run.config)
    (again,) = training.train([config], windows, arrays, runs_dir=run.folder.parent)
    assert again.folder == run.folder and (run.folder / "run.json").read_bytes() == before
    assert not [*run.folder.glob(".hmsutils*"), *run.folder.glob("fold*/.hmsutils.holder")]


def test_finished_runs_are_kept_and_other_configs_get_other_folders(
    trained, windows, arrays, monkeypatch
):
    runs_dir = trained[0].folder.parent
    monkeypatch.setattr(training, "train_fold", lambda *a, **k: pytest.fail("trained again"))
    both = replace(WAVENET, folds=(0, 1))
    assert training.train([both], windows, arrays, runs_dir=runs_dir) == trained[:1]
    other = training.run_folder(replace(both, seed=1), windows, runs_dir)
    data = training.run_folder(both, windows.iloc[1:], runs_dir)
    simulated_anew = training.run_folder(both, windows.assign(data_id="other"), runs_dir)
    monkeypatch.setattr(store, "VERSION", store.VERSION + 1)
    computed_anew = training.run_folder(both, windows, runs_dir)
    assert len({trained[0].folder, other, data, simulated_anew, computed_anew}) == 5


def test_two_runs_with_one_seed_are_identical_and_another_seed_is_not(
    trained, windows, arrays, tmp_path
):
    values = [predictions(FoldFolder(trained[0], 0).oof())]
    for config in (WAVENET, replace(WAVENET, seed=1)):
        (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
        values.append(predictions(run.oof()))
    np.testing.assert_array_equal(values[0], values[1])
    assert (values[0] != values[2]).any()


def test_a_killed_fold_goes_on_and_ends_with_the_same_numbers(
    trained, windows, arrays, tmp_path, capsys
):
    whole = FoldFolder(trained[0], 0)
    np.save(tmp_path / "eeg.npy", arrays["eeg"])
    windows.to_parquet(tmp_path / "windows.parquet")
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import json
        import numpy as np, pandas as pd
        from hmsutils import config, training
        config = config.from_dict(json.loads('''{json.dumps(to_dict(WAVENET))}'''))
        windows = pd.read_parquet({str(tmp_path / "windows.parquet")!r})
        arrays = {{"eeg": np.load({str(tmp_path / "eeg.npy")!r}, mmap_mode="r")}}
        training.train([config], windows, arrays, runs_dir={str(tmp_path / "cut")!r})
        """)
    )
    folder = training.run_folder(WAVENET, windows, tmp_path / "cut")
    fold = FoldFolder(folder, 0)
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    for _ in range(2400):
        time.sleep(0.05)
        if len(fold.history()):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    epochs = len(fold.history())
    assert 1 <= epochs < 3, "the kill came too late to test anything"
    arrays = {"eeg": np.load(tmp_path / "eeg.npy", mmap_mode="r")}
    (cut,) = training.train([WAVENET], windows, arrays, runs_dir=tmp_path / "cut")
    out = capsys.readouterr().out
    assert f"epoch {epochs + 1}/3" in out and f"epoch {epochs}/3" not in out
    assert cut.folder == folder
    pd.testing.assert_frame_equal(whole.oof().reset_index(drop=True), cut.oof())
    histories = [run.history().drop(columns="seconds") for run in (whole, cut)]
    pd.testing.assert_frame_equal(*histories)


def test_a_published_backbone_trains(windows, arrays, tmp_path, monkeypatch):
    config = replace(WAVENET, towers=("mobilenet_v3_large",), epochs=1)
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/02_backbones.ipynb")
    (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    assert run.description["trained"]["0"]["command"] == "notebooks/02_backbones.ipynb"
    assert run.history().loc[0, ["loss", "val_kl"]].between(0, 5).all()
    np.testing.assert_allclose(predictions(run.oof()).sum(axis=1), 1, atol=1e-5)


def test_training_lowers_the_loss(windows, arrays, tmp_path):
    config = replace(WAVENET, epochs=8, augmentation=NO_AUGMENTATION)
    history = training.train([config], windows, arrays, runs_dir=tmp_path)[0].history()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] - 0.05


def test_a_concat_starts_from_its_trained_singles(trained, windows, arrays, monkeypatch):
    monkeypatch.setattr(training, "_start_weights", lambda starts, batches: [0.3, 0.7])
    config = replace(
        WAVENET, towers=("small", "wavenet"), epochs=1, freeze_towers=True,
        learning_rate=0.0, init_from=tuple(run.folder.name for run in trained[::-1]),
    )  # fmt: skip
    runs_dir = trained[0].folder.parent
    run = training.train([config], windows, arrays, runs_dir=runs_dir)[0]
    first, second = (predictions(FoldFolder(single, 0).oof()) for single in trained[::-1])
    product = first**0.3 * second**0.7
    wanted = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictions(run.oof()), wanted, atol=1e-4)
    with pytest.raises(FileNotFoundError, match="train a fold of this run first"):
        training.load_model(runs_dir / "nothing", 0)
    unknown = replace(config, folds=(2,))  # the singles were not trained without fold 2
    with pytest.raises(FileNotFoundError, match=r"has the folds \(0,\)"):
        training.train([unknown], windows, arrays, runs_dir=runs_dir)


def test_a_start_from_what_is_released_takes_the_whole_network_or_its_towers(monkeypatch):
    found = {run.name: run for run in runs.released_runs()}
    concat = found["mobilenet_v3_large+wavenet"]
    config = replace(from_dict(concat.config), init_from=RELEASED)
    ours = training._initial_model(config, None, 1, None, None).get_weights()
    theirs = training.load_model(concat, 0)[0].get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    monkeypatch.setattr(runs, "released_runs", lambda pattern: [])
    monkeypatch.setattr(runs, "released_run", found.get)
    monkeypatch.setattr(training, "_start_weights", lambda starts, batches: [0.5, 0.5])
    model = training._initial_model(config, None, 1, None, None)
    for name in config.towers:
        ours = model.get_layer(name).get_weights()
        theirs = training.load_model(found[name], 0)[0].get_layer(name).get_weights()
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_other_released_weights_make_another_run(windows, tmp_path, monkeypatch):
    """Else a run of before would be taken for one that starts from them."""
    concat = runs.released_run("mobilenet_v3_large+wavenet")
    config = replace(from_dict(concat.config), init_from=RELEASED)
    before = training.run_folder(config, windows, tmp_path)
    assert training.run_folder(config, windows, tmp_path) == before
    copy = tmp_path / concat.folder.name
    shutil.copytree(concat.folder, copy)
    weights = copy / "fold0" / "model.weights.h5"
    weights.write_bytes(weights.read_bytes() + b"x")
    monkeypatch.setattr(runs, "released_runs", lambda pattern: [Run(copy)])
    monkeypatch.setattr(Run, "weights", lambda self, fold: self.folder / "fold0/model.weights.h5")
    assert training.run_folder(config, windows, tmp_path) != before


def test_a_strong_single_outweighs_a_weak_one(rng):
    @dataclass(frozen=True)
    class Target(Representation):
        shape: ClassVar = (1, 6)

    target = rng.dirichlet(np.ones(6), 64).astype(np.float32)
    batches = Batches({"eeg": target[:, None]}, target, np.arange(64), {"eeg": Target()})
    strong = lambda x, training: 0.9 * x["eeg"][:, 0] + 0.1 / 6  # noqa: E731
    weak = lambda x, training: rng.dirichlet(np.ones(6), len(x["eeg"]))  # noqa: E731
    weights = training._start_weights([(weak, WAVENET), (strong, WAVENET)], batches)
    assert sum(weights) == pytest.approx(1) and weights[1] > 0.9


def test_a_second_stage_goes_on_from_the_first_with_many_votes_only(windows, arrays, tmp_path):
    config = replace(WAVENET, refine_votes=10, learning_rate=0.0)
    (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    stages = [FoldFolder(folder, 0) for folder in (run.folder / "first", run.folder)]
    first, second = (stage.history() for stage in stages)
    assert len(first) == 3 and len(second) == 1
    oofs = [stage.oof().reset_index(drop=True) for stage in stages]
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


def test_a_fold_does_not_depend_on_what_was_trained_before_it(trained, windows, arrays, tmp_path):
    (alone,) = training.train([replace(WAVENET, folds=(1,))], windows, arrays, runs_dir=tmp_path)
    a, b = (predictions(FoldFolder(run, 1).oof()) for run in (trained[0], alone))
    np.testing.assert_array_equal(a, b)


def test_only_representatives_are_held_out_and_an_epoch_shows_one_row_of_every_label_group(
    windows, arrays, tmp_path
):
    some = np.arange(len(windows)) % 3 > 0
    rows = windows.assign(label_group=windows["eeg_id"], is_representative=some)
    batches = training._batches(WAVENET, rows, {}, (rows["fold"] != 0).to_numpy(), 0)
    assert len(batches.order) == rows.loc[rows["fold"] != 0, "eeg_id"].nunique() < len(rows)
    config = replace(WAVENET, epochs=1)
    run = training.train([config], rows, {"eeg": arrays["eeg"]}, runs_dir=tmp_path)[0]
    held_out = rows[(rows["fold"] == 0) & rows["is_representative"]]
    assert run.oof()["label_id"].tolist() == held_out["label_id"].tolist()


class Seen(keras.callbacks.Callback):
    """Notes the optimizers with which folds are trained."""

    def __init__(self):
        super().__init__()
        self.optimizers = []

    def on_train_end(self, logs=None):
        self.optimizers.append(self.model.optimizer.name)


def test_half_precision_trains_with_a_scaled_loss_and_is_forgotten_afterwards(
    windows, arrays, tmp_path
):
    config, seen = replace(WAVENET, precision="mixed_float16", epochs=1), Seen()
    for fold in (0, 1):
        history = training.train_fold(
            config, windows, arrays, tmp_path / "run", fold, callbacks=[seen]
        ).history()
        assert np.isfinite(history["loss"]).all() and history["precision"][0] == "mixed_float16"
        assert keras.config.dtype_policy().name == "float32"
    assert len(seen.optimizers) == 2
    assert all(name.startswith("loss_scale") for name in seen.optimizers)


def test_averaged_weights_are_the_ones_evaluated_and_kept(windows, arrays, tmp_path):
    plain = replace(WAVENET, epochs=1, augmentation=NO_AUGMENTATION)
    both = [plain, replace(plain, ema_momentum=0.5)]
    plain, averaged = training.train(both, windows, arrays, runs_dir=tmp_path)
    losses = [run.history()["loss"] for run in (plain, averaged)]
    np.testing.assert_allclose(*losses, rtol=1e-4)  # averaging changes no step
    assert (plain.history()["val_kl"] != averaged.history()["val_kl"]).all()
    model, _ = training.load_model(averaged, 0)
    prediction = model.predict(decoded(arrays, np.flatnonzero(windows["fold"] == 0)), verbose=0)
    np.testing.assert_allclose(predictions(averaged.oof()), prediction, atol=1e-5)


def test_the_rate_rises_to_its_peak_and_falls_to_zero():
    config = replace(WAVENET, epochs=4, learning_rate=0.5, warmup_fraction=0.25)
    schedule = training.learning_rate(config, 10)
    rates = np.array([float(schedule(step)) for step in range(42)])
    np.testing.assert_allclose(rates[:11], 0.05 * np.arange(11), atol=1e-7)
    cosine = 0.25 * (1 + np.cos(np.pi * np.arange(31) / 30))
    np.testing.assert_allclose(rates[10:41], cosine, atol=1e-6)
    assert rates[41] == pytest.approx(0, abs=1e-7)  # and stays there
    one_step = training.learning_rate(replace(config, epochs=1), 1)
    assert float(one_step(0)) == 0 and float(one_step(1)) == pytest.approx(0.5)


def test_preparation_keeps_some_rows_of_every_label_group(competition, arrays, shared, monkeypatch):
    monkeypatch.setattr(store, "default_dir", lambda: shared / "store")
    config = replace(WAVENET, n_folds=4, inputs={"image": INPUTS["image"]})
    one, arrays = training.prepare(competition, config)
    loaded = records.load_windows(competition)
    assert one["label_id"].tolist() == records.one_per_vote_run(loaded)["label_id"].tolist()
    assert set(one["fold"]) == {0, 1, 2, 3} and "label_group" not in one
    assert list(arrays) == ["image"] and len(arrays["image"]) == len(one)
    some, arrays = training.prepare(competition, replace(config, max_rows_per_label_group=3))
    assert len(one) < len(some) == len(arrays["image"])
    assert some["is_representative"].sum() == len(one)
    assert some["label_group"].value_counts().max() <= 3


def test_a_run_keeps_the_temperature_of_its_held_out_predictions(trained):
    target = trained[0].oof()[list(TARGET_COLUMNS)].to_numpy()
    prediction, temperature = predictions(trained[0].oof()), trained[0].temperature
    assert temperature == pytest.approx(evaluation.fit_temperature(target, prediction))
    kept = {"temperature": temperature, "temperatures": trained[0].temperatures}
    assert kept == evaluation.temperatures(trained[0].oof())
    best = evaluation.apply_temperature(prediction, temperature)
    assert evaluation.kl_divergence(target, best) <= evaluation.kl_divergence(target, prediction)


def test_a_fold_that_another_process_trains_is_refused(windows, arrays, tmp_path):
    folder = FoldFolder(training.run_folder(WAVENET, windows, tmp_path), 0).folder
    with (
        ground.locked(folder, "another process"),
        pytest.raises(RuntimeError, match=rf"fold 0: process {os.getpid()} on .*fold0; wait"),
    ):
        training.train([WAVENET], windows, arrays, runs_dir=tmp_path)


def test_a_fold_needs_room_and_numbers_and_is_trained_anew_when_its_weights_are_damaged(
    windows, arrays, tmp_path, monkeypatch
):
    config = replace(WAVENET, epochs=1)
    free = namedtuple("Usage", "total used free")(10**9, 0, 1_000_000)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda folder: free)
        full.setattr(keras.Model, "save_weights", lambda *a: pytest.fail("it was written"))
        with pytest.raises(OSError, match=r"training wavenet needs 4\.\d MB in .* 1.0 MB are free"):
            training.train([config], windows, arrays, runs_dir=tmp_path)
    with monkeypatch.context() as diverging:
        diverging.setattr(keras.Model, "predict", lambda *a, **k: np.full((999, 6), np.nan))
        with pytest.raises(FloatingPointError, match="are NaN after epoch 1; lower learning_rate"):
            training.train([config], windows, arrays, runs_dir=tmp_path)
    (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    before, weights = run.oof(), run.weights(0)
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.warns(UserWarning, match="fold0: files .* not as they were written"):
        (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    pd.testing.assert_frame_equal(run.oof(), before)
    assert training.load_model(run, 0)


class Clock:
    """Stands for `time`: an epoch takes 30 s, and as long passes before the next one."""

    now = 0.0

    def time(self):
        return self.now

    def perf_counter(self):
        self.now += 30
        return self.now


def test_a_run_in_four_sessions_ends_as_one_that_was_not_stopped(
    trained, windows, arrays, tmp_path, monkeypatch, capsys
):
    """As on Kaggle: the output of a session is a mount of the next one."""
    config, left = replace(WAVENET, folds=(0, 1)), ("5 epochs in fold 0, 1", "3 epochs in fold 1")
    for k, seconds in enumerate((50, 100, 50, 1000)):
        clock = Clock()
        monkeypatch.setattr(training, "time", clock)
        monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path / f"session {k - 1}"))
        options = {"runs_dir": tmp_path / f"session {k}" / "runs", "hours": seconds / 3600}
        found = training.train([config], windows, arrays, **options, since=-20 * (k == 0))
        assert [run.folds for run in found] == [[], [(0,)], [(0,)], [(0, 1)]][k]
        out = capsys.readouterr().out
        if k < 3:
            assert f"goes on from here: wavenet, {[*left, '2 epochs in fold 1'][k]}; about" in out
            assert f"in fold {'01'[k > 0]}" in out and clock.now <= 120
        if k == 1:  # what is there can be used
            assert evaluation.results(found).loc["wavenet", "KL"] == pytest.approx(found[0].kl)
            assert len(inference.load_models(found)[0].folds) == 1
    whole, (run,) = trained[0], found
    assert "Time is up" not in out and "epoch 3/3" in out and "epoch 1/3" not in out
    assert run.folder.name == whole.folder.name
    assert (run.metrics, run.temperature) == (whole.metrics, whole.temperature)
    assert run.description["optimism"] == whole.description["optimism"]
    pd.testing.assert_frame_equal(run.oof(), whole.oof())


def test_another_run_can_start_from_one_that_was_taken_over(
    trained, windows, arrays, tmp_path, monkeypatch
):
    shutil.copytree(trained[0].folder, tmp_path / "input" / "runs" / trained[0].folder.name)
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path / "input"))
    first, found = replace(WAVENET, folds=(0, 1)), []
    second = replace(first, init_from=(trained[0].folder.name,))

    def spread(function, calls, n_jobs):
        found.extend(Run(call["run_dir"].parent / second.init_from[0]) for call in calls)
        return ()

    monkeypatch.setattr(devices, "spread", spread)
    training.train([first, second], windows, arrays, runs_dir=tmp_path / "runs")
    assert [run.folds for run in found] == [(0, 1)] * 2


def test_a_fold_goes_on_in_every_digit_and_begins_anew_when_its_state_is_damaged(
    windows, arrays, tmp_path, monkeypatch
):
    config, oofs = replace(WAVENET, epochs=2, ema_momentum=0.5), []
    for name in ("damaged", "whole"):
        fold, clock = FoldFolder(tmp_path / name, 0), Clock()
        monkeypatch.setattr(training, "time", clock)
        training.train_fold(config, windows, arrays, tmp_path / name, 0, deadline=1)
        assert len(fold.history()) == 1 and not fold.done
        if name == "damaged":
            os.truncate(fold.state(0), fold.state(0).stat().st_size // 2)
            with pytest.warns(UserWarning, match="fold0: state000.weights.h5 is damaged .*anew"):
                training.train_fold(config, windows, arrays, tmp_path / name, 0)
            assert clock.now == 3 * 60
        else:
            training.train_fold(config, windows, arrays, tmp_path / name, 0)
            assert clock.now == 2 * 60
        assert len(fold.history()) == 2 and fold.done
        oofs.append(fold.oof())
    pd.testing.assert_frame_equal(*oofs)


def planned(folder, *configs):
    return [(config, folder / config.name) for config in configs]


def test_first_folds_come_first_and_nothing_before_what_it_starts_from(tmp_path):
    names = ("mobilenet_v3_large", "densenet201", "wavenet")
    singles = [TrainConfig(towers=(name,), folds=(0, 1)) for name in names]
    concat = TrainConfig(towers=(names[0], names[2]), folds=(0, 1), init_from=(names[0], names[2]))
    tasks = training._in_order(planned(tmp_path, *singles, concat))
    order = [names[1], names[0], names[2], concat.name]
    assert [(f.name, k) for _, f, k in tasks] == [(name, k) for k in (0, 1) for name in order]
    rounds = [[f.name for _, f, _ in part] for part in training._rounds(tasks)]
    assert rounds == [order[:3], [concat.name, *order[:3]], [concat.name]]
    folder, all_of_them = tmp_path / concat.name, planned(tmp_path, *singles, concat)
    assert not training._can_start(concat, folder, 0, all_of_them)
    assert training._can_start(concat, folder, 0, [])  # what is missing is no part of these
    for name in concat.init_from:
        weights = FoldFolder(tmp_path / name, 0).weights
        weights.parent.mkdir(parents=True)
        weights.touch()
    assert training._can_start(concat, folder, 0, all_of_them)
    assert not training._can_start(concat, folder, 1, all_of_them)
    assert training._can_start(replace(concat, init_from=RELEASED), folder, 1, all_of_them)


def test_folds_may_follow_in_the_same_folder(windows, tmp_path):
    one, two = (training.run_folder(replace(WAVENET, folds=k), windows, "") for k in ((0,), (0, 1)))
    assert one == two != training.run_folder(replace(WAVENET, n_folds=5), windows, "")


def test_what_is_left_is_said_in_hours_where_epochs_were_timed(tmp_path):
    both = planned(tmp_path, WAVENET, TrainConfig(towers=("densenet201",), refine_votes=10))
    text = training._left(both, 1, each=True)
    assert text == "wavenet, 3 epochs in fold 0; densenet201, 130 epochs in fold 0, 1, 2, 3, 4"
    fold = FoldFolder(tmp_path / "densenet201" / "first", 1)
    fold.folder.mkdir(parents=True)
    fold.write_history([{"seconds": 100}, {"seconds": 50}])
    assert training._left(both, 2) == "about 1.3 h left, without wavenet"


def test_settings_that_changed_are_said(trained, windows, arrays, monkeypatch, capsys):
    monkeypatch.setattr(devices, "spread", lambda *args: ())
    changed = replace(WAVENET, epochs=2, augmentation=NO_AUGMENTATION)
    options = {"runs_dir": trained[0].folder.parent}
    training.train([changed], windows, arrays, **options)
    said = f"wavenet begins anew. What differs from {trained[0].folder.name}: epochs 3, now 2; "
    assert (out := capsys.readouterr().out).startswith(said), out
    assert "augmentation.flip_hemispheres 0.5, now 0.0" in out and "folds" not in out
    training.train([replace(WAVENET, folds=(0, 2))], windows, arrays, **options)
    assert "anew" not in capsys.readouterr().out


def test_a_cpu_is_asked_to_work_for_days_only_by_a_parameter(trained, windows, monkeypatch, capsys):
    monkeypatch.setattr(devices, "spread", lambda *args: ())
    assert 0 < training._forward_seconds(WAVENET) < 1
    monkeypatch.setattr(training, "_forward_seconds", lambda config: 0.5)
    config, many = replace(WAVENET, epochs=20, folds=(0, 1)), pd.concat([windows] * 60)
    options = {"runs_dir": trained[0].folder.parent}
    hours = len(many) * 2 * 20 * 3 * 0.5 / 3600
    cores = ground.default_n_jobs()
    with pytest.raises(ValueError, match=f"about {hours:.0f} h on {cores} CPU.*ALLOW_CPU = True"):
        training.train([config], many, {}, **options)
    assert training.train([config], many, {}, **options, allow_cpu=True) == []
    monkeypatch.setattr(devices, "gpus", lambda: [devices.Gpu("GPU-1", "Tesla T4", 7.5)])
    assert training.train([replace(config, precision="auto")], many, {}, **options) == []
    assert "Training on Tesla T4, mixed_float16: wavenet, 40 epochs" in capsys.readouterr().out


def test_a_fold_that_fails_does_not_stop_the_others_and_is_named(
    windows, arrays, tmp_path, monkeypatch
):
    config, real = replace(WAVENET, folds=(0, 1), epochs=1), training.train_fold

    def one_fails(**call):
        if call["fold"] == 0:
            raise FloatingPointError("the loss is NaN")
        return real(**call)

    monkeypatch.setattr(training, "train_fold", one_fails)
    with pytest.warns(UserWarning, match="fold0 failed: the loss is NaN"):
        (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    assert run.folds == (1,)
    with pytest.raises(FloatingPointError, match="the loss is NaN"):  # nothing else is left
        training.train([config], windows, arrays, runs_dir=tmp_path)


def test_a_loss_that_is_nan_is_named_and_no_epoch_of_it_is_kept(windows, arrays, tmp_path):
    spoilt = {"eeg": np.full_like(arrays["eeg"], np.nan, dtype=np.float32)}
    with pytest.raises(FloatingPointError, match="loss is NaN in epoch 1; lower learning_rate"):
        training.train_fold(replace(WAVENET, epochs=2), windows, spoilt, tmp_path, 0)
    assert FoldFolder(tmp_path, 0).history().empty


def test_a_budget_below_one_epoch_says_so(windows, arrays, tmp_path, capsys):
    config = replace(WAVENET, epochs=3, folds=(0,))
    for _ in range(2):  # the first session does not know yet how long an epoch takes
        training.train([config], windows, arrays, runs_dir=tmp_path, hours=1e-9)
    assert "not one epoch fits: allow more" in capsys.readouterr().out


def test_a_start_with_other_strides_is_refused_where_they_differ():
    start = TrainConfig(towers=("resnet50_v2",))
    for towers in (("resnet50_v2",), ("resnet50_v2", "wavenet")):
        config = replace(start, towers=towers, standard_strides=True)
        with pytest.raises(ValueError, match="standard_strides is True, but it starts from"):
            training._require_same_strides(start, config)
    config = TrainConfig(towers=("densenet201", "wavenet"))  # which have one kind
    training._require_same_strides(config, replace(config, standard_strides=True))


@pytest.mark.parametrize("run", runs.released_runs(), ids=lambda run: run.name)
def test_the_demo_profile_starts_from_every_released_model(run):
    config = replace(PROFILES["demo"], towers=tuple(run.name.split("+")))
    model = training._initial_model(config, None, 0, None, None)
    released, _ = training.load_model(run, 0)
    for value, wanted in zip(model.get_weights(), released.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_an_attached_fold_with_more_epochs_takes_the_place_of_one_just_begun(
    trained, windows, arrays, tmp_path, monkeypatch
):
    name = trained[0].folder.name
    shutil.copytree(trained[0].folder, tmp_path / "input" / "runs" / name)
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path / "input"))
    begun = FoldFolder(tmp_path / "runs" / name, 0)
    begun.folder.mkdir(parents=True)
    (begun.folder / ".hmsutils.lock").touch()
    runs.take_over([tmp_path / "runs" / name])
    assert begun.done


def test_two_finished_stages_are_no_work_left_and_keep_one_precision(
    windows, arrays, tmp_path, monkeypatch, capsys
):
    config = replace(WAVENET, epochs=3, folds=(0,), refine_votes=1, precision="auto")
    (run,) = training.train([config], windows, arrays, runs_dir=tmp_path)
    assert not FoldFolder(run.folder / "first", 0).weights.exists()
    capsys.readouterr()
    monkeypatch.setattr(training, "_forward_seconds", lambda config: 1e6)
    training.require_gpu([config] * 1000, windows, tmp_path)
    assert training.train([config], windows, arrays, runs_dir=tmp_path)[0].folds == (0,)
    assert "left" not in capsys.readouterr().out
