"""The official metric against published vectors; baselines, strata and intervals against theory."""

import json

import numpy as np
import pandas as pd
import pytest

from hmsutils import evaluation as ev
from hmsutils.files import CLASSES, PREDICTION_COLUMNS, TARGET_COLUMNS


def frame(target, prediction, **columns):
    table = pd.DataFrame(np.asarray(target, float), columns=list(TARGET_COLUMNS))
    table[list(PREDICTION_COLUMNS)] = np.asarray(prediction, float)
    n = len(table)
    defaults = {"label_id": range(n), "patient_id": range(n), "n_votes": [3] * n, "fold": [0] * n}
    return table.assign(**defaults | columns)


@pytest.mark.parametrize(
    ("target", "prediction", "wanted"),
    [
        (
            [(0, 1), (1, 0), (1, 0), (0, 1)],
            [(0.1, 0.9), (0.9, 0.1), (0.8, 0.2), (0.35, 0.65)],
            0.216161,
        ),
        ([(0, 0.1, 0.9), (0.5, 0.5, 0)], [(0, 0.1, 0.9), (0.5, 0.5, 0)], 0.0),
        (
            [(0, 0.1, 0.9), (0.5, 0.5, 0), (0.5, 0.5, 0)],
            [(0.2, 0.1, 0.7), (0.3, 0.5, 0.2), (0.5, 0.5, 0)],
            0.160531,
        ),
        ([(0, 0, 1, 0, 0, 0)], [[1 / 6] * 6], np.log(6)),
        ([(0.5, 0.5, 0)], [(0, 0.6, 0.4)], 16.83),  # clipped at 1e-15, not at Keras' 1e-7
    ],
)
def test_kl_equals_the_published_vectors(target, prediction, wanted):
    assert ev.kl_divergence(target, prediction) == pytest.approx(
        wanted, abs=1e-2 if wanted > 16 else 1e-6
    )


def test_kl_refuses_what_it_cannot_judge():
    with pytest.raises(ValueError, match=r"targets \(1, 2\) and predictions \(2, 2\)"):
        ev.kl_divergence([[0, 1]], [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="NaN"):
        ev.kl_divergence([[0, 1]], [[np.nan, 1]])


def test_accuracy_breaks_ties_towards_the_first_class():
    assert ev.accuracy([[0.5, 0.5], [0, 1]], [[0.6, 0.4], [0.9, 0.1]]) == 0.5


def test_baselines_know_only_the_other_folds():
    table = frame(np.eye(6)[[0, 0, 1, 2]], np.eye(6)[[0, 0, 1, 2]], fold=[0, 0, 1, 1])
    tables = ev.baselines(table, {"0": [0, 0.5, 0.5, 0, 0, 0], "1": [1, 0, 0, 0, 0, 0]})
    assert (tables["uniform"][list(PREDICTION_COLUMNS)] == 1 / 6).all(axis=None)
    prior = tables["prior mean"][list(PREDICTION_COLUMNS)].to_numpy()
    np.testing.assert_array_equal(prior[[0, 3]], [[0, 0.5, 0.5, 0, 0, 0], [1, 0, 0, 0, 0, 0]])


def test_score_separates_vote_strata(rng):
    target = np.eye(6)[rng.integers(0, 6, 300)]
    wrong = np.full((300, 6), 1 / 6)
    votes = np.repeat([2, 5, 15], 100)
    prediction = np.where((votes == 15)[:, None], target, wrong)
    table = ev.score(frame(target, prediction, n_votes=votes))
    assert list(table.index) == ["all", "<3", "3–9", "≥10"] and list(table["rows"]) == [
        300,
        100,
        100,
        100,
    ]
    assert table.loc["≥10", "KL"] == pytest.approx(0, abs=1e-9)
    assert table.loc["<3", "KL"] == pytest.approx(np.log(6))
    assert table.loc["all", "KL"] == pytest.approx(2 / 3 * np.log(6))
    empty = ev.score(frame(target[:5], target[:5], n_votes=[3] * 5))
    assert empty.loc["≥10", "rows"] == 0 and np.isnan(empty.loc["≥10", "KL"])


def test_intervals_cover_the_mean_and_widen_when_patients_repeat(rng):
    covered = []
    for trial in range(200):
        values = np.random.default_rng(trial).normal(1.0, 1.0, 60)
        low, high = ev.interval(values, np.arange(60), n_boot=300, seed=trial)
        covered.append(low < 1.0 < high)
    assert 0.88 < np.mean(covered) < 0.99
    values = rng.normal(0, 1, 30)
    single = np.diff(ev.interval(np.repeat(values, 10), np.arange(300)))[0]
    grouped = np.diff(ev.interval(np.repeat(values, 10), np.repeat(np.arange(30), 10)))[0]
    assert grouped > 2 * single


def test_gain_is_paired(rng):
    target = np.eye(6)[rng.integers(0, 6, 200)]
    noise = rng.dirichlet(np.ones(6), 200)
    worse = frame(target, noise)
    better = frame(target, 0.9 * noise + 0.1 * target)
    table = ev.gain(better, worse)
    assert table.loc["KL", "high"] < 0 and table.loc["accuracy", "low"] >= 0
    widths = [np.ptp(ev.score(oof).loc["all", ["KL low", "KL high"]]) for oof in (better, worse)]
    assert table.loc["KL", "high"] - table.loc["KL", "low"] < np.hypot(*widths)
    none = ev.gain(worse, worse)
    assert (none.to_numpy() == 0).all()


def test_confusion_and_per_class_count_windows():
    target = np.eye(6)[[0, 0, 1, 5]]
    prediction = np.eye(6)[[0, 1, 1, 5]]
    table = frame(target, prediction)
    matrix = ev.confusion(table)
    assert matrix[0, 0] == 1 and matrix[0, 1] == 1 and matrix[1, 1] == 1 and matrix.sum() == 4
    classes = ev.per_class(table)
    assert list(classes.index) == list(CLASSES)
    assert classes.loc["Seizure", "recall"] == 0.5 and classes.loc["LPD", "precision"] == 0.5
    assert classes.loc["GPD", "rows"] == 0 and np.isnan(classes.loc["GPD", "KL"])


def test_reliability_of_a_calibrated_model_is_the_diagonal(rng):
    prediction = rng.dirichlet(np.ones(6), 20_000)
    target = np.stack([rng.multinomial(1, p) for p in prediction])
    bins = ev.reliability(frame(target, prediction))
    assert np.abs(bins["prediction"] - bins["votes"]).iloc[:6].max() < 0.03
    assert bins["count"].sum() == 120_000


def test_compare_refuses_models_of_other_windows(rng):
    target = rng.dirichlet(np.ones(6), 10)
    table = frame(target, target)
    both = ev.compare({"a": table, **ev.baselines(table, {0: target.mean(axis=0)})})
    assert list(both.index) == ["a", "uniform", "prior mean"]
    assert both.loc["a", "KL"] < both.loc["prior mean", "KL"] < both.loc["uniform", "KL"]
    with pytest.raises(ValueError, match="other windows"):
        ev.compare({"a": table, "b": table.assign(label_id=range(5, 15))})


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run.json"):
        ev.read_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"name": "x"}))
    pd.DataFrame({"epoch": [0]}).to_csv(tmp_path / "history.csv")
    frame(np.eye(6), np.eye(6)).to_parquet(tmp_path / "oof.parquet")
    description, history, oof = ev.read_run(tmp_path)
    assert description["name"] == "x" and len(history) == 1 and len(oof) == 6
