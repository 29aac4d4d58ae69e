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
