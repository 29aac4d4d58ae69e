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


def test_the_temperature_undoes_flattening_and_sharpening(rng):
    truth = rng.dirichlet(np.full(6, 0.5), 500)
    for factor in (0.6, 1.0, 1.8):
        found = ev.temperature(truth, ev.tempered(truth, factor))
        assert found == pytest.approx(1 / factor, rel=0.03)
    np.testing.assert_allclose(ev.tempered(truth, 1.0), truth, atol=1e-9)
    flat = ev.tempered(truth, 3.0)
    np.testing.assert_allclose(flat.sum(axis=1), 1)
    assert (flat.max(axis=1) <= truth.max(axis=1) + 1e-12).all()


def test_blend_weights_are_the_best_of_the_simplex(rng):
    truth = rng.dirichlet(np.ones(6), 400)
    noise = rng.dirichlet(np.ones(6), (2, 400))
    target = 0.3 * noise[0] + 0.7 * truth
    weights = ev.blend_weights(target, np.stack([noise[0], truth, noise[1]]))
    np.testing.assert_allclose(weights, [0.3, 0.7, 0.0], atol=0.01)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    best = ev.kl_divergence(target, ev.blend(np.stack([noise[0], truth, noise[1]]), weights))
    for other in rng.dirichlet(np.ones(3), 50):
        mixed = ev.blend(np.stack([noise[0], truth, noise[1]]), other)
        assert best <= ev.kl_divergence(target, mixed) + 1e-6
    alone = ev.blend_weights(target, target[None])
    np.testing.assert_allclose(alone, [1.0])


def test_a_nested_blend_never_sees_the_rows_it_is_judged_by(rng):
    # many useless models: fitted on all rows their blend looks better than it is
    target = np.eye(6)[rng.integers(0, 6, 40)]
    patients = np.arange(40) // 2
    oofs = {
        str(k): frame(target, rng.dirichlet(np.ones(6), 40), patient_id=patients) for k in range(12)
    }
    nested, weights = ev.nested_blend(oofs)
    predictions = np.stack([o[list(PREDICTION_COLUMNS)] for o in oofs.values()])
    flattered = ev.kl_divergence(target, ev.blend(predictions, list(weights.values())))
    honest = ev.kl_divergence(target, nested[list(PREDICTION_COLUMNS)].to_numpy())
    assert honest > flattered + 0.02 and list(weights) == list(oofs)
    changed = {k: o.copy() for k, o in oofs.items()}
    mine = patients == 0  # other votes of one patient change nothing in that patient's blend
    for o in changed.values():
        o.loc[mine, list(TARGET_COLUMNS)] = np.eye(6)[0]
    again, _ = ev.nested_blend(changed)
    columns = list(PREDICTION_COLUMNS)
    np.testing.assert_allclose(again.loc[mine, columns], nested.loc[mine, columns], atol=1e-9)
