"""The official metric against published vectors; baselines, strata and intervals against theory."""

import json

import numpy as np
import pandas as pd
import pytest

from hmsutils import evaluation as ev
from hmsutils.competition import CLASSES, PREDICTION_COLUMNS, TARGET_COLUMNS
from hmsutils.runs import Run


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


def test_kl_refuses_other_shapes_and_nan():
    with pytest.raises(ValueError, match=r"targets \(1, 2\) and predictions \(2, 2\)"):
        ev.kl_divergence([[0, 1]], [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="NaN"):
        ev.kl_divergence([[0, 1]], [[np.nan, 1]])


P = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])


@pytest.mark.parametrize("bad", [3 * P, -P, P - 0.1, P[:, :2], np.where(P > 0.7, np.inf, P), 0 * P])
@pytest.mark.parametrize("metric", [ev.kl_divergence, ev.accuracy])
def test_metrics_refuse_what_are_no_probabilities(metric, bad):
    good = np.full(bad.shape, 1 / bad.shape[1])
    for pair, name in (((good, bad), "predictions"), ((bad, good), "targets")):
        with pytest.raises(ValueError, match=f"{name} are no probabilities, first row [01]"):
            metric(*pair)
    with pytest.raises(ValueError, match="no rows"):
        metric(P[:0], P[:0])


def test_rounded_and_single_precision_probabilities_are_probabilities(rng):
    target, prediction = rng.dirichlet(np.ones(6), (2, 500))
    wanted = pytest.approx(ev.kl_divergence(target, prediction), abs=2e-3)
    for almost in (prediction.astype(np.float32), prediction.round(6), prediction.round(5)):
        assert ev.kl_divergence(target.astype(np.float32), almost) == wanted


@pytest.mark.parametrize("temperature", [0, -1, np.nan, np.inf])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(ValueError, match="apply_temperature: .*, wanted a finite number above 0"):
        ev.apply_temperature(P, temperature)


def test_accuracy_shares_ties_of_predictions_and_takes_the_first_class_of_equal_votes():
    assert ev.accuracy([[0.5, 0.5], [0, 1]], [[0.6, 0.4], [0.9, 0.1]]) == 0.5
    assert ev.accuracy([[0.0, 1.0, 0.0]], [[0.4, 0.4, 0.2]]) == 0.5
    assert ev.accuracy(np.eye(6), np.full((6, 6), 1 / 6)) == pytest.approx(1 / 6)


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
    assert table["rows"].to_dict() == {"all": 300, "<3": 100, "3–9": 100, "≥10": 100}
    assert table.loc["≥10", "KL"] == pytest.approx(0, abs=1e-9)
    assert table.loc["<3", "KL"] == pytest.approx(np.log(6))
    assert table.loc["all", "KL"] == pytest.approx(2 / 3 * np.log(6))
    empty = ev.score(frame(target[:5], target[:5], n_votes=[3] * 5))
    assert empty.loc["≥10", "rows"] == 0 and np.isnan(empty.loc["≥10", "KL"])


def test_strata_hold_every_number_of_votes_once():
    votes = np.arange(1, 40)
    inside = [
        (votes >= low) & (votes <= high) for k, (low, high) in ev.STRATA.items() if k != "all"
    ]
    np.testing.assert_array_equal(np.sum(inside, axis=0), 1)
    assert [votes[part].min() for part in inside] == [1, 3, 10]


def test_intervals_cover_the_mean_and_widen_when_patients_repeat(rng):
    covered = []
    for trial in range(200):
        values = np.random.default_rng(trial).normal(1.0, 1.0, 60)
        low, high = ev.bootstrap_ci(values, np.arange(60), n_boot=300, seed=trial)
        covered.append(low < 1.0 < high)
    assert 0.88 < np.mean(covered) < 0.99
    values = rng.normal(0, 1, 30)
    single = np.diff(ev.bootstrap_ci(np.repeat(values, 10), np.arange(300)))[0]
    grouped = np.diff(ev.bootstrap_ci(np.repeat(values, 10), np.repeat(np.arange(30), 10)))[0]
    assert grouped > 2 * single


def test_the_difference_of_two_models_is_paired(rng):
    target = np.eye(6)[rng.integers(0, 6, 200)]
    noise = rng.dirichlet(np.ones(6), 200)
    worse = frame(target, noise)
    better = frame(target, 0.9 * noise + 0.1 * target)
    table = ev.paired_difference(better, worse)
    assert table.loc["KL", "high"] < 0 and table.loc["accuracy", "low"] >= 0
    widths = [np.ptp(ev.score(oof).loc["all", ["KL low", "KL high"]]) for oof in (better, worse)]
    assert table.loc["KL", "high"] - table.loc["KL", "low"] < np.hypot(*widths)
    assert (ev.paired_difference(worse, worse).to_numpy() == 0).all()
    with pytest.raises(ValueError, match="other windows"):
        ev.paired_difference(better, worse.assign(label_id=range(200, 0, -1)))


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


def write_run(folder, oof, name="wavenet", temperature=1.0):
    """A run, as `evaluation` reads it."""
    folder.mkdir(parents=True)
    oof.to_parquet(folder / "oof.parquet")
    folds = sorted(set(oof["fold"].tolist()))
    description = {
        "name": name, "config": {"folds": folds}, "temperature": temperature, "data": {},
        "prior_mean": {str(k): oof[list(TARGET_COLUMNS)].mean().tolist() for k in folds},
        "metrics": json.loads(ev.score(oof).to_json(orient="index")),
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def oofs(rng):
    """A good and a bad model of the same 90 windows, thirty in each vote stratum."""
    target = np.eye(6)[rng.integers(0, 6, 90)]
    votes = np.repeat([2, 5, 15], 30)
    return [frame(target, share * target + (1 - share) / 6, n_votes=votes) for share in (0.9, 0.3)]


def test_two_runs_of_one_name_are_two_rows(oofs, tmp_path):
    folders = [write_run(tmp_path / name, oof) for name, oof in zip("ab", oofs, strict=True)]
    other = write_run(tmp_path / "c", oofs[0], name="densenet201")
    table = ev.results([*folders, Run(other)])
    labels = ["wavenet (a)", "wavenet (b)", "densenet201"]
    assert list(table.index) == ["uniform", "prior mean", *labels]
    for label, oof in zip(labels[:2], oofs, strict=True):
        assert table.loc[label, "KL"] == ev.score(oof).loc["all", "KL"]
    assert list(ev.label_runs([folders[0], Run(folders[0])])) == ["wavenet"]  # one folder, one row
    twin = write_run(tmp_path / "elsewhere" / "a", oofs[1])
    assert list(ev.label_runs([folders[0], twin])) == [
        f"wavenet ({folders[0]})",
        f"wavenet ({twin})",
    ]


def test_strata_of_runs_stand_in_one_table(oofs, tmp_path):
    folders = [write_run(tmp_path / name, oof, name) for name, oof in zip("ab", oofs, strict=True)]
    table = ev.by_stratum(folders)
    assert list(table.columns) == ["rows", "KL", "KL low", "KL high", "accuracy"]
    assert list(table.loc["<3"].index) == ["uniform", "prior mean", "a", "b"]
    for stratum in ("<3", "3–9", "≥10"):
        pd.testing.assert_frame_equal(
            table.loc[stratum].rename_axis(None),
            ev.results(folders, stratum)[table.columns],
            check_names=False,
        )
    assert set(table.index.get_level_values("votes")) == {"<3", "3–9", "≥10"}
    assert (table["rows"] == 30).all()


def test_the_best_run_has_the_least_kl(oofs, tmp_path):
    bad, good = (write_run(tmp_path / k, o) for k, o in zip("ab", oofs[::-1], strict=True))
    assert ev.best_run([bad, good]).folder == good
    assert ev.best_run([Run(bad)]).kl == pytest.approx(ev.score(oofs[1]).loc["all", "KL"])


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="run.json"):
        ev.results([tmp_path])
    with pytest.raises(ValueError, match="results: no runs"):
        ev.results([])


def test_the_temperature_undoes_flattening_and_sharpening(rng):
    truth = rng.dirichlet(np.full(6, 0.5), 500)
    for factor in (0.6, 1.0, 1.8):
        found = ev.fit_temperature(truth, ev.apply_temperature(truth, factor))
        assert found == pytest.approx(1 / factor, rel=0.03)
    np.testing.assert_allclose(ev.apply_temperature(truth, 1.0), truth, atol=1e-9)
    flat = ev.apply_temperature(truth, 3.0)
    np.testing.assert_allclose(flat.sum(axis=1), 1)
    assert (flat.max(axis=1) <= truth.max(axis=1) + 1e-12).all()


def test_few_and_many_raters_have_temperatures_of_their_own(rng):
    truth, votes = rng.dirichlet(np.full(6, 0.5), 600), np.repeat([3, 15], 300)
    powers = np.where(votes < 10, 0.6, 1.8)[:, None]
    prediction = truth**powers / (truth**powers).sum(axis=1, keepdims=True)
    found = ev.temperatures(frame(truth, prediction, n_votes=votes))
    assert found["temperatures"] == pytest.approx({"<10": 0.6, "≥10": 1.8}, rel=0.03)
    assert found["temperature"] == ev.fit_temperature(truth, prediction)
    found = ev.temperatures(frame(truth, prediction, n_votes=votes)[:349])  # 49 of many raters
    assert found["temperatures"]["≥10"] == found["temperature"] > found["temperatures"]["<10"]


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


def test_a_nested_blend_never_sees_the_rows_it_is_scored_on(rng, tmp_path):
    # Many random models: with weights fitted on the same rows, their blend looks better than it is.
    target = np.eye(6)[rng.integers(0, 6, 40)]
    patients, columns = np.arange(40) // 2, list(PREDICTION_COLUMNS)
    frames = [frame(target, rng.dirichlet(np.ones(6), 40), patient_id=patients) for k in range(12)]
    fitted = [ev.fit_temperature(target, o[columns]) for o in frames]
    written = zip(frames, fitted, strict=True)
    models = [write_run(tmp_path / f"{i}", o, temperature=t) for i, (o, t) in enumerate(written)]
    nested, weights = ev.nested_blend(models)
    flat = [ev.apply_temperature(o[columns], t) for o, t in zip(frames, fitted, strict=True)]
    flattered = ev.kl_divergence(target, ev.blend(np.stack(flat), list(weights.values())))
    honest = ev.kl_divergence(target, nested[columns].to_numpy())
    assert honest > flattered + 0.02 and [run.folder for run in weights] == models
    mine = patients == 0  # other votes of one patient change nothing in that patient's blend
    for i, oof in enumerate(frames):
        oof.loc[mine, list(TARGET_COLUMNS)] = np.eye(6)[0]
        write_run(tmp_path / "changed" / f"{i}", oof)
    again, _ = ev.nested_blend((tmp_path / "changed").iterdir())
    np.testing.assert_allclose(again.loc[mine, columns], nested.loc[mine, columns], atol=1e-6)


def test_a_blend_is_fitted_on_predictions_with_their_temperatures(rng, tmp_path):
    target = rng.dirichlet(np.full(6, 0.5), 400)
    noise = rng.dirichlet(np.ones(6), 400)
    target, good = 0.3 * noise + 0.7 * target, target
    flat = ev.apply_temperature(good, 3.0)  # the same model, not calibrated
    folders = [
        write_run(tmp_path / "a", frame(target, flat), temperature=1 / 3),
        write_run(tmp_path / "b", frame(target, noise)),
    ]
    weights = ev.nested_blend(folders)[1]
    np.testing.assert_allclose(list(weights.values()), [0.7, 0.3], atol=0.01)


def test_runs_with_some_of_their_folds_are_compared_on_those_that_all_have(rng, tmp_path):
    target, fold = np.eye(6)[rng.integers(0, 6, 90)], np.repeat([0, 1, 2], 30)
    good = np.where((fold == 0)[:, None], 0.5, 0.9) * target  # which fold 0 alone does not tell
    good += (1 - good.sum(axis=1, keepdims=True)) / 6
    whole = frame(target, good, fold=fold)
    better = frame(target, 0.6 * target + 0.4 / 6, fold=fold)[fold == 0]
    models = [write_run(tmp_path / "whole", whole), write_run(tmp_path / "part", better)]
    assert Run(models[0]).kl < Run(models[1]).kl and ev.best_run(models).folder == models[1]
    table = ev.results(models)
    assert (table["rows"] == 30).all() and list(ev.by_stratum(models)["rows"].unique()) == [0, 30]
    change = table.loc["wavenet (part)", "KL"] - table.loc["wavenet (whole)", "KL"]
    difference = ev.paired_difference(better, whole)
    assert difference.loc["KL", "difference"] == pytest.approx(change)
    nested, weights = ev.nested_blend(models)
    assert set(nested["fold"]) == {0} and len(nested) == 30 and list(weights.values())[1] > 0.9
    other = write_run(tmp_path / "other", whole[fold == 2])
    for evaluate in (ev.results, ev.best_run, ev.nested_blend):
        with pytest.raises(ValueError, match="no fold that all of"):
            evaluate([models[1], other])
