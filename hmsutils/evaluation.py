"""The official metric and everything beside it, computed from out-of-fold predictions.

An out-of-fold frame has one row per window: `eeg_id, label_id, patient_id, n_votes, fold`, six
target columns and six prediction columns (`files.TARGET_COLUMNS`, `files.PREDICTION_COLUMNS`).
Tables are built from frames or from run folders, never from models in memory.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import optimize

from hmsutils.files import CLASSES, PREDICTION_COLUMNS, TARGET_COLUMNS

# Never compare across strata: the two populations of raters disagree in different ways.
STRATA = {"all": (1, 10**6), "<3": (1, 3), "3–9": (3, 10), "≥10": (10, 10**6)}
_CLIP = 1e-15


def kl_per_row(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(N,) float64 KL(target ‖ prediction) of each row, clipped as the competition does."""
    target, prediction = np.asarray(target, np.float64), np.asarray(prediction, np.float64)
    if target.shape != prediction.shape or target.ndim != 2:
        raise ValueError(
            f"kl_divergence: targets {target.shape} and predictions {prediction.shape} must be "
            f"equal (N, classes)"
        )
    if not (np.isfinite(target).all() and np.isfinite(prediction).all()):
        raise ValueError("kl_divergence: NaN or infinity among the values; predict every row")
    prediction = np.clip(prediction, _CLIP, 1 - _CLIP)
    positive = target > 0
    ratio = np.log(np.where(positive, target, 1.0)) - np.log(prediction)
    return np.where(positive, target * ratio, 0.0).sum(axis=1)


def kl_divergence(target: np.ndarray, prediction: np.ndarray) -> float:
    """The competition's metric.

    Args:
        target, prediction: (N, K) probabilities.

    Returns:
        Mean over rows of KL(target ‖ prediction) in nats, float64; predictions are clipped to
        [1e-15, 1 - 1e-15] and terms with target 0 count 0.

    Raises:
        ValueError: shapes differ, or NaN.
    """
    return float(kl_per_row(target, prediction).mean())


def accuracy(target: np.ndarray, prediction: np.ndarray) -> float:
    """Share of rows whose most probable class is the experts' (ties to the first class)."""
    return float(_hit_per_row(target, prediction).mean())


def _hit_per_row(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(N,) 1.0 where the most probable class is the experts'."""
    return (np.argmax(target, axis=1) == np.argmax(prediction, axis=1)).astype(np.float64)


METRICS: dict[str, Callable] = {"KL": kl_per_row, "accuracy": _hit_per_row}


def interval(
    values: np.ndarray, patients: np.ndarray, *, n_boot: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a mean when whole patients are drawn again (rows of one are no independent).

    Args:
        values: (N,) one number per row.
        patients: (N,) who the row is from.
    """
    codes, unique = pd.factorize(np.asarray(patients))
    sums = np.bincount(codes, values)
    counts = np.bincount(codes)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(unique), (n_boot, len(unique)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def score(oof: pd.DataFrame, *, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """KL and accuracy of a model in every vote stratum.

    Returns:
        One row per stratum: rows, KL, its 95 % interval (patients bootstrapped), accuracy,
        interval.
    """
    rows = []
    for stratum, (least, below) in STRATA.items():
        part = oof[(oof["n_votes"] >= least) & (oof["n_votes"] < below)]
        row = {"votes": stratum, "rows": len(part)}
        for name, metric in METRICS.items() if len(part) else ():
            values = metric(part[list(TARGET_COLUMNS)], part[list(PREDICTION_COLUMNS)])
            low, high = interval(values, part["patient_id"], n_boot=n_boot, seed=seed)
            row |= {name: values.mean(), f"{name} low": low, f"{name} high": high}
        rows.append(row)
    return pd.DataFrame(rows).set_index("votes")


def per_class(oof: pd.DataFrame) -> pd.DataFrame:
    """Rows, KL and recall of each consensus class, and precision of each predicted class."""
    target, prediction = (oof[list(c)].to_numpy() for c in (TARGET_COLUMNS, PREDICTION_COLUMNS))
    truth, guess = target.argmax(axis=1), prediction.argmax(axis=1)
    kl = kl_per_row(target, prediction)
    rows = {}
    for k, name in enumerate(CLASSES):
        hit = (truth == k) & (guess == k)
        rows[name] = {
            "rows": int((truth == k).sum()),
            "KL": kl[truth == k].mean() if (truth == k).any() else np.nan,
            "recall": hit.sum() / max(1, (truth == k).sum()),
            "precision": hit.sum() / max(1, (guess == k).sum()),
        }
    return pd.DataFrame(rows).T.astype({"rows": int})


def confusion(oof: pd.DataFrame) -> np.ndarray:
    """(6, 6) rows: experts' consensus, columns: most probable class; counts of windows."""
    matrix = np.zeros((len(CLASSES), len(CLASSES)), int)
    truth, guess = (oof[list(c)].to_numpy().argmax(1) for c in (TARGET_COLUMNS, PREDICTION_COLUMNS))
    np.add.at(matrix, (truth, guess), 1)
    return matrix


def reliability(oof: pd.DataFrame, n_bins: int = 10) -> pd.DataFrame:
    """Predicted probabilities (all classes) in bins: mean prediction, mean vote share, count."""
    prediction = oof[list(PREDICTION_COLUMNS)].to_numpy().ravel()
    target = oof[list(TARGET_COLUMNS)].to_numpy().ravel()
    bins = np.minimum((prediction * n_bins).astype(int), n_bins - 1)
    frame = pd.DataFrame({"bin": bins, "prediction": prediction, "votes": target})
    grouped = frame.groupby("bin")
    return grouped.mean().assign(count=grouped.size())


def tempered(prediction: np.ndarray, temperature: float) -> np.ndarray:
    """(..., K) probabilities flattened (temperature > 1) or sharpened (< 1), rows sum to 1."""
    powered = np.clip(np.asarray(prediction, np.float64), _CLIP, 1) ** (1 / temperature)
    return powered / powered.sum(axis=-1, keepdims=True)


def temperature(target: np.ndarray, prediction: np.ndarray) -> float:
    """The temperature in [0.25, 4] that makes (N, K) predictions fit their targets best, by KL.

    Fit it on out-of-fold predictions: on rows the model was trained on it would be too low.

    Source: arXiv:1706.04599, for soft targets.
    """

    def loss(log_temperature: float) -> float:
        return kl_divergence(target, tempered(prediction, np.exp(log_temperature)))

    limits = (np.log(0.25), np.log(4.0))
    return float(np.exp(optimize.minimize_scalar(loss, bounds=limits, method="bounded").x))


def blend(predictions: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """(N, K) weighted mean of (M, N, K) predictions."""
    return np.einsum("m,mnk->nk", np.asarray(weights, np.float64), predictions)


def blend_weights(target: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """(M,) weights, none negative, of sum 1, whose `blend` of (M, N, K) predictions has least KL.

    KL is convex in the weights, so there is one best value and the start does not matter.
    """
    predictions = np.clip(np.asarray(predictions, np.float64), _CLIP, 1)
    target, n_models = np.asarray(target, np.float64), len(predictions)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.clip(blend(predictions, weights), _CLIP, None)
        slope = -np.einsum("nk,mnk->m", target / mixed, predictions) / len(target)
        return -(target * np.log(mixed)).sum() / len(target), slope

    found = optimize.minimize(
        loss, np.full(n_models, 1 / n_models), jac=True, method="SLSQP",
        bounds=[(0, 1)] * n_models,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
    )  # fmt: skip
    weights = np.clip(found.x, 0, None)
    return weights / weights.sum()


def nested_blend(
    oofs: Mapping[str, pd.DataFrame], *, n_folds: int = 5, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Blend models without flattering the blend: each row is blended with weights of others.

    Args:
        oofs: out-of-fold frames of the same windows, by model.
        n_folds: groups of patients; the weights for one are fitted on the rest.

    Returns:
        The out-of-fold frame of the blend, and the weights fitted on all rows, to be used on new
        EEGs.
    """
    oof = next(iter(oofs.values()))
    target = oof[list(TARGET_COLUMNS)].to_numpy(np.float64)
    predictions = np.stack(
        [o[list(PREDICTION_COLUMNS)].to_numpy(np.float64) for o in oofs.values()]
    )
    codes, patients = pd.factorize(oof["patient_id"])
    group = np.random.default_rng(seed).permutation(len(patients))[codes] % n_folds
    blended = np.empty_like(target)
    for k in range(n_folds):
        weights = blend_weights(target[group != k], predictions[:, group != k])
        blended[group == k] = blend(predictions[:, group == k], weights)
    weights = blend_weights(target, predictions)
    return with_prediction(oof, blended), dict(zip(oofs, weights.tolist(), strict=True))


def with_prediction(oof: pd.DataFrame, prediction: np.ndarray) -> pd.DataFrame:
    """The same windows with another model's (N, 6) predictions."""
    return oof.assign(**dict(zip(PREDICTION_COLUMNS, np.asarray(prediction).T, strict=True)))


def baselines(
    oof: pd.DataFrame, prior_mean: Mapping[int, Sequence[float]]
) -> dict[str, pd.DataFrame]:
    """Out-of-fold frames of two baselines that know no EEG.

    Args:
        oof: held-out rows with a `fold`.
        prior_mean: for each fold, the (6,) mean target of the other folds; a run keeps it in
            run.json.
    """
    uniform = np.full((len(oof), len(CLASSES)), 1 / len(CLASSES))
    means = {int(fold): np.asarray(mean) for fold, mean in prior_mean.items()}
    prior = np.stack([means[fold] for fold in oof["fold"]])
    return {"uniform": with_prediction(oof, uniform), "prior mean": with_prediction(oof, prior)}


def compare(oofs: Mapping[str, pd.DataFrame], stratum: str = "all") -> pd.DataFrame:
    """One table of several models on the same windows.

    Args:
        oofs: out-of-fold frames by name, see `baselines` and `read_run`.
        stratum: a key of `STRATA`.

    Returns:
        One row per model: KL and accuracy with 95 % intervals.

    Raises:
        ValueError: the models were not evaluated on the same windows.
    """
    first, *others = oofs
    for name in others:
        if list(oofs[name]["label_id"]) != list(oofs[first]["label_id"]):
            raise ValueError(f"compare: {name} and {first} hold other windows; use the same folds")
    table = pd.DataFrame({name: score(oof).loc[stratum] for name, oof in oofs.items()}).T
    return table.astype({"rows": int})


def gain(better: pd.DataFrame, worse: pd.DataFrame, *, n_boot: int = 1000) -> pd.DataFrame:
    """What one model gains over another on the same windows, paired by row.

    Returns:
        Per metric: the mean difference (better - worse) and its 95 % interval over patients. A gain
        is real where the interval leaves out 0: KL below it, accuracy above it.
    """
    rows = {}
    for name, metric in METRICS.items():
        target = better[list(TARGET_COLUMNS)]
        difference = metric(target, better[list(PREDICTION_COLUMNS)]) - metric(
            target, worse[list(PREDICTION_COLUMNS)]
        )
        low, high = interval(difference, better["patient_id"], n_boot=n_boot)
        rows[name] = {"difference": difference.mean(), "low": low, "high": high}
    return pd.DataFrame(rows).T


def read_run(run_dir: str | Path) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    """(run.json, history, out-of-fold frame) of a finished run.

    Raises:
        FileNotFoundError: the run is not finished.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "run.json").exists():
        raise FileNotFoundError(f"{run_dir}: no run.json; train this run to its end first")
    description = json.loads((run_dir / "run.json").read_text())
    history = pd.read_csv(run_dir / "history.csv")
    return description, history, pd.read_parquet(run_dir / "oof.parquet")


def results(run_dirs: Sequence[str | Path], stratum: str = "all") -> pd.DataFrame:
    """Baselines and runs in one table, rebuilt from the run folders alone; see `compare`."""
    runs = [read_run(run_dir) for run_dir in run_dirs]
    oofs = {description["name"]: oof for description, _, oof in runs}
    description, _, oof = runs[0]
    return compare(baselines(oof, description["prior_mean"]) | oofs, stratum)
