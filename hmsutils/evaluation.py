"""The official metric, accuracy, calibration, blends and intervals, from out-of-fold predictions.

An out-of-fold frame has one row per window: `eeg_id, label_id, patient_id, n_votes, fold`, six
target columns and six prediction columns (`competition.TARGET_COLUMNS`, `PREDICTION_COLUMNS`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize

from hmsutils.competition import CLASSES, PREDICTION_COLUMNS, TARGET_COLUMNS
from hmsutils.runs import Run

# (min_votes, max_votes). Never compare across strata: few and many raters are two populations.
STRATA = {"all": (1, 10**6), "<3": (1, 2), "3–9": (3, 9), "≥10": (10, 10**6)}
POPULATIONS = {"<10": (1, 9), "≥10": STRATA["≥10"]}  # one temperature cannot serve both
CLIP = 1e-15  # smallest probability, as in the competition's metric; nothing else clips them
Runs = Iterable[str | PathLike]  # folders of runs; a `Run` stands for its own


def kl_per_row(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(N,) float64 KL(target ‖ prediction) of each row; see `kl_divergence`."""
    target, prediction = _probabilities(target, prediction, "kl_divergence")
    prediction = np.clip(prediction, CLIP, 1 - CLIP)
    positive = target > 0
    ratio = np.log(np.where(positive, target, 1.0)) - np.log(prediction)
    return np.where(positive, target * ratio, 0.0).sum(axis=1)


def kl_divergence(target: np.ndarray, prediction: np.ndarray) -> float:
    """The competition's metric: the mean over rows (N, K) of KL(target ‖ prediction) in nats, with
    predictions clipped to [1e-15, 1 - 1e-15]. ValueError: shapes differ, no rows, or rows that are
    no probabilities: NaN, outside [0, 1], or of another sum than 1 ± 1e-3."""
    return float(kl_per_row(target, prediction).mean())


def _probabilities(target, prediction, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (N, K), checked; the tolerance is that of rounded files and of float32."""
    both = {"targets": target, "predictions": prediction}
    both = {name: np.asarray(values, np.float64) for name, values in both.items()}
    shapes = [values.shape for values in both.values()]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        problem = f"targets {shapes[0]} and predictions {shapes[1]}"
        raise ValueError(f"{who}: {problem} must be equal (N, classes)")
    if not shapes[0][0]:
        raise ValueError(f"{who}: no rows; pass at least one")
    for name, values in both.items():
        inside = ((values >= -1e-6) & (values <= 1 + 1e-6)).all(axis=1)  # false for NaN
        bad = np.flatnonzero(~inside | ~(np.abs(values.sum(axis=1) - 1) < 1e-3))
        if bad.size:
            problem = f"{bad.size} rows of {name} are no probabilities, first row {bad[0]}"
            wanted = "wanted numbers from 0 to 1 of sum 1, and no NaN"
            raise ValueError(f"{who}: {problem}: {values[bad[0]]}; {wanted}")
    return tuple(both.values())


def accuracy(target: np.ndarray, prediction: np.ndarray) -> float:
    """Share of rows whose most probable class is the experts' most voted one, the first of those
    with equal votes. Where k classes are equally probable, a row counts 1/k if one is that."""
    return float(_correct_per_row(target, prediction).mean())


def _correct_per_row(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    target, prediction = _probabilities(target, prediction, "accuracy")
    best = prediction == prediction.max(axis=1, keepdims=True)
    return best[np.arange(len(best)), target.argmax(axis=1)] / best.sum(axis=1)


METRICS: dict[str, Callable] = {"KL": kl_per_row, "accuracy": _correct_per_row}


def _values(oof: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(N, 6) float64 targets and predictions of an out-of-fold frame."""
    return tuple(oof[list(c)].to_numpy(np.float64) for c in (TARGET_COLUMNS, PREDICTION_COLUMNS))


def with_prediction(oof: pd.DataFrame, prediction: np.ndarray) -> pd.DataFrame:
    """The same windows with another model's (N, 6) predictions."""
    return oof.assign(**dict(zip(PREDICTION_COLUMNS, np.asarray(prediction).T, strict=True)))


def bootstrap_ci(
    values: np.ndarray, patients: np.ndarray, *, n_boot: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % confidence interval of the mean of `values` (N,), by bootstrap over `patients` (N,):
    rows of one patient depend on each other; drawn one by one, the interval is too narrow."""
    codes, unique = pd.factorize(np.asarray(patients))
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    drawn = np.random.default_rng(seed).integers(0, len(unique), (n_boot, len(unique)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return tuple(np.percentile(means, [2.5, 97.5]).tolist())


def score(oof: pd.DataFrame, strata: Sequence[str] = tuple(STRATA)) -> pd.DataFrame:
    """One row per vote stratum: the number of rows, then KL and accuracy, each followed by the
    bounds of its 95 % interval ("KL low", "KL high"). NaN where there is no row."""
    table = []
    for stratum in strata:
        part = oof[oof["n_votes"].between(*STRATA[stratum])]
        row = {"votes": stratum, "rows": len(part)}
        for name, metric in METRICS.items():
            values = metric(*_values(part)) if len(part) else np.array([np.nan])
            low, high = bootstrap_ci(values, part["patient_id"] if len(part) else [0])
            row |= {name: values.mean(), f"{name} low": low, f"{name} high": high}
        table.append(row)
    return pd.DataFrame(table).set_index("votes")


def per_class(oof: pd.DataFrame) -> pd.DataFrame:
    """Rows, KL and recall of each consensus class, and precision of each predicted class."""
    counts, (target, prediction) = confusion(oof), _values(oof)
    correct, truth, guess = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    kl = pd.Series(kl_per_row(target, prediction)).groupby(target.argmax(axis=1)).mean()
    table = pd.DataFrame({"rows": truth, "KL": kl.reindex(range(len(CLASSES)))})
    table["recall"], table["precision"] = correct / truth.clip(1), correct / guess.clip(1)
    return table.set_axis(CLASSES)


def confusion(oof: pd.DataFrame) -> np.ndarray:
    """(6, 6) counts of windows; rows: experts' consensus, columns: most probable class."""
    matrix = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(matrix, tuple(values.argmax(axis=1) for values in _values(oof)), 1)
    return matrix


def reliability(oof: pd.DataFrame, n_bins: int = 10) -> pd.DataFrame:
    """Predicted probabilities (all classes) in bins: mean prediction, mean vote share, count."""
    target, prediction = (values.ravel() for values in _values(oof))
    bins = np.minimum((prediction * n_bins).astype(int), n_bins - 1)
    grouped = pd.DataFrame({"bin": bins, "prediction": prediction, "votes": target}).groupby("bin")
    return grouped.mean().assign(count=grouped.size())


def apply_temperature(prediction: np.ndarray, temperature: float) -> np.ndarray:
    """(..., K) probabilities, flatter for a temperature > 1, sharper for < 1; rows sum to 1, or are
    NaN as they were."""
    if not 0 < temperature < np.inf:
        raise ValueError(f"apply_temperature: {temperature}, wanted a finite number above 0")
    powered = np.clip(np.asarray(prediction, np.float64), CLIP, 1) ** (1 / temperature)
    return powered / powered.sum(axis=-1, keepdims=True)


def apply_temperature_in_graph(prediction, temperature: float):
    """`apply_temperature` in Keras operations."""
    from keras import ops

    powered = ops.maximum(prediction, CLIP) ** (1 / temperature)
    return powered / ops.sum(powered, axis=-1, keepdims=True)


def fit_temperature(target: np.ndarray, prediction: np.ndarray) -> float:
    """The temperature in [0.25, 4] with which (N, K) out-of-fold predictions have the lowest KL.
    Source: arXiv:1706.04599, for soft targets."""
    found = optimize.minimize_scalar(
        lambda log_t: kl_divergence(target, apply_temperature(prediction, np.exp(log_t))),
        bounds=(np.log(0.25), np.log(4.0)), method="bounded",
    )  # fmt: skip
    return float(np.exp(found.x))


def temperatures(oof: pd.DataFrame) -> dict[str, float | dict[str, float]]:
    """What a run keeps: the `temperature` fitted on all rows and, by `POPULATIONS`, `temperatures`
    fitted on the rows with as many votes; the common one where those are fewer than 50."""
    common = fit_temperature(*_values(oof))
    parts = {name: oof[oof["n_votes"].between(*votes)] for name, votes in POPULATIONS.items()}
    fitted = {k: fit_temperature(*_values(o)) for k, o in parts.items() if len(o) >= 50}
    return {"temperature": common, "temperatures": dict.fromkeys(parts, common) | fitted}


def blend(predictions: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """(N, K) weighted mean of (M, N, K) predictions."""
    return np.einsum("m,mnk->nk", np.asarray(weights, np.float64), predictions)


def blend_weights(target: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """(M,) weights ≥ 0 of sum 1 with which the `blend` of (M, N, K) predictions has the lowest KL;
    KL is convex in them: there is one minimum, wherever the search starts."""
    predictions = np.clip(np.asarray(predictions, np.float64), CLIP, 1)
    target, n_models = np.asarray(target, np.float64), len(predictions)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.clip(blend(predictions, weights), CLIP, None)
        slope = -np.einsum("nk,mnk->m", target / mixed, predictions) / len(target)
        return -(target * np.log(mixed)).sum() / len(target), slope

    limits = {"bounds": [(0, 1)] * n_models}
    limits["constraints"] = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    equal = np.full(n_models, 1 / n_models)
    found = optimize.minimize(loss, equal, jac=True, method="SLSQP", **limits)
    weights = np.clip(found.x, 0, None)
    return weights / weights.sum()


def nested_blend(
    runs: Runs, *, n_folds: int = 5, seed: int = 0
) -> tuple[pd.DataFrame, dict[Run, float]]:
    """The blend of runs as `inference.predict` makes it, of predictions with their temperatures, on
    the windows of the folds that all have finished; and its weights for new EEGs.

    Those, as the runs' temperatures, are fitted on all rows; here, so that the score is not too
    good, both are fitted for each of `n_folds` groups of patients on the others."""
    runs = [Run(run) for run in runs]
    oofs = _same_windows({str(run.folder): run.oof() for run in runs})
    oof = next(iter(oofs.values()))
    target, predictions = _values(oof)[0], np.stack([_values(o)[1] for o in oofs.values()])
    codes, patients = pd.factorize(oof["patient_id"])
    group = np.random.default_rng(seed).permutation(len(patients))[codes] % n_folds
    blended = np.empty_like(target)
    for k in range(n_folds + 1):  # the last time no group is left out
        others, temperatures = group != k, [run.temperature for run in runs]
        if k < n_folds:
            temperatures = [fit_temperature(target[others], p[others]) for p in predictions]
        calibrated = np.stack(list(map(apply_temperature, predictions, temperatures)))
        weights = blend_weights(target[others], calibrated[:, others])
        blended[~others] = blend(calibrated[:, ~others], weights)
    return with_prediction(oof, blended), dict(zip(runs, weights.tolist(), strict=True))


def baselines(
    oof: pd.DataFrame, prior_mean: Mapping[int | str, Sequence[float]]
) -> dict[str, pd.DataFrame]:
    """Out-of-fold frames of two baselines that use no EEG; `prior_mean` as in `runs.Run`."""
    uniform = np.full((len(oof), len(CLASSES)), 1 / len(CLASSES))
    means = {int(fold): mean for fold, mean in prior_mean.items()}
    prior = np.stack([means[fold] for fold in oof["fold"]])
    return {"uniform": with_prediction(oof, uniform), "prior mean": with_prediction(oof, prior)}


def _same_windows(oofs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The frames in the folds that all have; ValueError: none, or other windows in one."""
    folds = {name: oof.get("fold", pd.Series(0, oof.index)) for name, oof in oofs.items()}
    common = set.intersection(*map(set, folds.values()))
    same = {name: oof[folds[name].isin(common)] for name, oof in oofs.items()}
    if not common:
        problem = f"no fold that all of {', '.join(oofs)} have"
        raise ValueError(f"compare: {problem}; train the same ones")
    first, *others = same
    for name in others:
        if list(same[name]["label_id"]) != list(same[first]["label_id"]):
            raise ValueError(f"compare: {name} and {first} hold other windows; use the same folds")
    return same


def compare(oofs: Mapping[str, pd.DataFrame], stratum: str = "all") -> pd.DataFrame:
    """A row per model, the columns of `score`, on the folds that all have; else ValueError."""
    oofs = _same_windows(oofs)
    table = pd.DataFrame({name: score(o, [stratum]).loc[stratum] for name, o in oofs.items()}).T
    return table.astype({"rows": int})


def paired_difference(oof: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """The mean difference (oof - reference) of each metric, paired by row, and the bounds of its
    95 % interval: `oof` is better where it lies below 0 for KL, above 0 for accuracy. Only folds
    that both have count. ValueError: none, or their windows are not the same."""
    oof, reference = _same_windows({"the model": oof, "its reference": reference}).values()
    rows = {}
    for name, metric in METRICS.items():
        difference = metric(*_values(oof)) - metric(_values(oof)[0], _values(reference)[1])
        low, high = bootstrap_ci(difference, oof["patient_id"])
        rows[name] = {"difference": difference.mean(), "low": low, "high": high}
    return pd.DataFrame(rows).T


def label_runs(runs: Runs) -> dict[str, Run]:
    """Runs by a label that tells them apart: the name, and the folder where names are equal."""
    found, labelled = {Path(run).resolve(): Run(run) for run in runs}, {}
    for folder, run in found.items():
        alike = [f.name for f, other in found.items() if other.name == run.name]
        where = folder if alike.count(folder.name) > 1 else folder.name
        labelled[run.name if len(alike) == 1 else f"{run.name} ({where})"] = run
    return labelled


def results(runs: Runs, stratum: str = "all") -> pd.DataFrame:
    """Baselines and runs in one table, from the run folders alone; see `compare`."""
    if not (labelled := label_runs(runs)):
        raise ValueError("results: no runs; pass the folder of one")
    oofs = {label: run.oof() for label, run in labelled.items()}
    first = next(iter(labelled))
    return compare(baselines(oofs[first], labelled[first].prior_mean) | oofs, stratum)


def by_stratum(runs: Runs) -> pd.DataFrame:
    """`results` of every stratum but "all", indexed by (votes, model)."""
    runs = list(runs)
    tables = {stratum: results(runs, stratum) for stratum in STRATA if stratum != "all"}
    table = pd.concat(tables, names=["votes", "model"])
    return table.drop(columns=["accuracy low", "accuracy high"])


def best_run(runs: Runs) -> Run:
    """The run with the lowest `shared_kl`."""
    runs = [Run(run) for run in runs]
    return runs[int(np.argmin(shared_kl(runs)))]


def shared_kl(runs: Sequence[Run]) -> list[float]:
    """The held-out KL of each run on the folds that all have finished; ValueError: none."""
    oofs = _same_windows({str(run.folder): run.oof() for run in runs})
    return [kl_divergence(*_values(oof)) for oof in oofs.values()]
