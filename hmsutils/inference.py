"""Trained runs → probabilities → submission.csv. Folds, flips and runs are averaged."""

import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils.augment import swap_hemispheres
from hmsutils.evaluation import read_run, tempered
from hmsutils.files import (
    CLASSES,
    SFREQ_HZ,
    VOTE_COLUMNS,
    WINDOW_S,
    WINDOW_SAMPLES,
    Competition,
    attached,
    project_dir,
)
from hmsutils.records import load_windows, read_eeg
from hmsutils.signals import as_windows
from hmsutils.store import represent
from hmsutils.training import TrainConfig, load_model


@dataclass(frozen=True)
class TrainedModel:
    """One architecture, built once, with the weights of each of its folds."""

    model: keras.Model
    config: TrainConfig
    folds: tuple[list[np.ndarray], ...]
    temperature: float = 1.0  # fitted on the run's out-of-fold predictions
    weight: float = 1.0  # in a blend with others


def load_models(
    run_dirs: Sequence[str | Path], weights: Sequence[float] | None = None
) -> list[TrainedModel]:
    """Load finished runs, all folds of each.

    Args:
        run_dirs: their folders.
        weights: of the runs in a blend, see `evaluation.blend_weights`; None: all the same.

    Raises:
        FileNotFoundError: a run is not finished.
    """
    models = []
    for run_dir, weight in zip(run_dirs, weights or [1.0] * len(run_dirs), strict=True):
        description = read_run(run_dir)[0]
        first, *others = description["config"]["folds"]
        model, config = load_model(run_dir, first)
        folds = [model.get_weights()]
        for fold in others:
            model.load_weights(Path(run_dir) / f"fold{fold}" / "best.weights.h5")
            folds.append(model.get_weights())
        models.append(TrainedModel(model, config, tuple(folds), description["temperature"], weight))
    return models


def predict(models: Sequence[TrainedModel], eeg_uv: np.ndarray, *, flip: bool = True) -> np.ndarray:
    """Probabilities of the six classes.

    Args:
        models: from `load_models`; each is averaged over its folds and calibrated with its
            temperature, then all are blended with their weights.
        eeg_uv: (N, 10000, 20) or (10000, 20) raw microvolts at 200 Hz, NaN allowed.
        flip: also predict with the hemispheres exchanged, and average.

    Returns:
        (N, 6) float64, rows sum to 1.

    Raises:
        ValueError: no model, or not 20 columns.
    """
    eeg_uv = as_windows(eeg_uv, "predict")
    if not models:
        raise ValueError("predict: no models; load some with inference.load_models")
    return _classify(models, _represent(models, eeg_uv), flip)


def _represent(models: Sequence[TrainedModel], eeg_uv: np.ndarray) -> dict[object, np.ndarray]:
    """Every representation that the models need, once."""
    settings = {getattr(trained.config, k) for trained in models for k in trained.config.inputs}
    with threadpool_limits(1):  # beside the networks, which take the other cores
        return represent({config: config for config in settings}, eeg_uv)


def _classify(models: Sequence[TrainedModel], represented: dict, flip: bool = True) -> np.ndarray:
    predictions = []
    for trained in models:
        config = trained.config
        batch = {key: represented[getattr(config, key)] for key in config.inputs}
        batches = [batch]
        if flip:
            n = len(next(iter(batch.values())))
            batches.append(swap_hemispheres(batch, np.ones(n, bool), config.eeg))
        parts = []
        for fold in trained.folds:
            trained.model.set_weights(fold)
            parts += [trained.model.predict(b, batch_size=32, verbose=0) for b in batches]
        predictions.append(tempered(np.mean(parts, axis=0), trained.temperature))
    return np.average(predictions, axis=0, weights=[trained.weight for trained in models])


def predict_windows(
    models: Sequence[TrainedModel],
    competition: Competition,
    windows: pd.DataFrame,
    split: str = "train",
    *,
    chunk: int = 64,
) -> np.ndarray:
    """(N, 6) probabilities of windows from the raw EEG in chunks; needs no spectrogram files."""
    rows = list(windows.itertuples())

    def read(i: int) -> np.ndarray:
        return read_eeg(competition, rows[i].eeg_id, rows[i].eeg_offset_s, split)

    return _predict_in_chunks(models, len(rows), read, chunk)


def _predict_in_chunks(
    models: Sequence[TrainedModel], n: int, read: Callable[[int], np.ndarray], chunk: int = 64
) -> np.ndarray:
    """(n, 6) probabilities of `read(0)` … `read(n - 1)`. While the networks look at one chunk, the
    next one is read and transformed; never more than two are in memory."""

    def prepare(start: int) -> dict:
        rows = range(start, min(start + chunk, n))
        return _represent(models, np.stack([read(i) for i in rows]))

    parts, starts = [], range(0, n, chunk)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(prepare, 0)
        for start in tqdm(starts, "Predicting", mininterval=2):
            represented = coming.result()
            if start != starts[-1]:
                coming = ahead.submit(prepare, start + chunk)
            parts.append(_classify(models, represented))
    return np.concatenate(parts)


def predict_recording(
    models: Sequence[TrainedModel], eeg_uv: np.ndarray, *, step_s: float = 10.0
) -> pd.DataFrame:
    """Slide 50 s windows over a long recording.

    Args:
        models: from `load_models`.
        eeg_uv: (T, 20) raw microvolts at 200 Hz, at least 50 s, NaN allowed (`records.read_edf`).
        step_s: from one window to the next.

    Returns:
        One row per window: `start_s`, `end_s` of the central 10 s that are judged, and six columns
        of probabilities named after `CLASSES`.

    Raises:
        ValueError: less than 50 s, or a step under one sample.
    """
    eeg_uv, step = as_windows(eeg_uv, "predict_recording")[0], round(step_s * SFREQ_HZ)
    if len(eeg_uv) < WINDOW_SAMPLES or step < 1:
        raise ValueError(
            f"predict_recording: {len(eeg_uv) / SFREQ_HZ:g} s in steps of {step_s} s; wanted at "
            f"least {WINDOW_S} s and a step of at least {1 / SFREQ_HZ} s"
        )
    starts = np.arange(0, len(eeg_uv) - WINDOW_SAMPLES + 1, step)
    prediction = _predict_in_chunks(
        models, len(starts), lambda i: eeg_uv[starts[i] : starts[i] + WINDOW_SAMPLES]
    )
    table = pd.DataFrame(prediction, columns=list(CLASSES))
    table.insert(0, "start_s", starts / SFREQ_HZ + WINDOW_S / 2 - 5)
    table.insert(1, "end_s", table["start_s"] + 10)
    return table


def make_submission(
    models: Sequence[TrainedModel], competition: Competition, split: str = "test"
) -> pd.DataFrame:
    """The submission of a split: `eeg_id` and six vote shares, one row per EEG, checked.

    Rows are those of `sample_submission.csv`, in its order, for the test split; for the train split
    every EEG once, at its middle window.
    """
    windows = load_windows(competition, split)
    sizes = windows.groupby("eeg_id")["eeg_id"].transform("size")
    windows = windows[windows.groupby("eeg_id").cumcount() == (sizes - 1) // 2]
    if split == "test":
        windows = windows.set_index("eeg_id", drop=False).loc[_test_ids(competition)]
    return _submission(windows["eeg_id"], predict_windows(models, competition, windows, split))


def prior_submission(run_dirs: Sequence[str | Path], competition: Competition) -> pd.DataFrame:
    """A valid submission of the test split before any model runs: the runs' mean training target in
    every row."""
    descriptions = [read_run(run_dir)[0] for run_dir in run_dirs]
    prior = np.mean([mean for d in descriptions for mean in d["prior_mean"].values()], axis=0)
    ids = _test_ids(competition)
    return _submission(ids, np.tile(prior / prior.sum(), (len(ids), 1)))


def _test_ids(competition: Competition) -> pd.Series:
    """The rows that a submission needs, in their order."""
    sample = competition.root / "sample_submission.csv"
    table = sample if sample.exists() else competition.root / "test.csv"
    return pd.read_csv(table)["eeg_id"].drop_duplicates()


def _submission(ids: pd.Series, prediction: np.ndarray) -> pd.DataFrame:
    submission = pd.DataFrame(prediction, columns=list(VOTE_COLUMNS))
    submission.insert(0, "eeg_id", ids.to_numpy())
    check_submission(submission, ids)
    return submission


def projection(models: Sequence[TrainedModel], competition: Competition, n: int = 64) -> str:
    """Time per test EEG, from file to probabilities, and what 10,000 take of Kaggle's 9 h.

    The `n` EEGs are the first ones, repeated if there are fewer, and the second of two rounds
    counts: the first one traces graphs.
    """
    windows = load_windows(competition, "test")
    windows = windows.iloc[np.resize(np.arange(len(windows)), n)]
    for _ in range(2):
        start = time.monotonic()
        predict_windows(models, competition, windows, "test")
    each_s = (time.monotonic() - start) / n
    hours = each_s * 10_000 / 3600
    return f"{each_s:.3f} s per EEG: 10,000 in {hours:.2f} h of the 9 h that Kaggle allows"


def check_submission(submission: pd.DataFrame, eeg_ids: Sequence[int]) -> None:
    """Refuse what the competition refuses.

    Raises:
        ValueError: other columns, other ids or order, values outside [0, 1], or rows that do not
            sum to 1 within 1e-5.
    """
    wanted = ["eeg_id", *VOTE_COLUMNS]
    if list(submission.columns) != wanted:
        raise ValueError(f"submission: columns {list(submission.columns)}, wanted {wanted}")
    if list(submission["eeg_id"]) != list(eeg_ids):
        raise ValueError(
            f"submission: {len(submission)} rows, but not the {len(eeg_ids)} wanted eeg_id "
            f"in their order"
        )
    values = submission[list(VOTE_COLUMNS)].to_numpy(np.float64)
    bad = ~((values >= 0) & (values <= 1)).all(axis=1) | (np.abs(values.sum(axis=1) - 1) > 1e-5)
    if bad.any():
        raise ValueError(
            f"submission: {bad.sum()} rows are no probabilities, first eeg_id "
            f"{submission['eeg_id'][bad].iloc[0]}: {values[bad][0]}; wanted {len(CLASSES)} "
            f"values in [0, 1] that sum to 1"
        )


def released_runs(names: str = "*") -> list[Path]:
    """Folders of the released runs whose names match a pattern, in order."""
    folder = project_dir() / "models" / "released"
    return sorted(path.parent for path in folder.glob(f"{names}/run.json"))


def attached_runs() -> list[Path]:
    """Folders of the runs on Kaggle's mounts; zips left packed are opened in temporary folders."""
    runs = [path.parent for path in attached("run.json")]
    for path in attached("*.zip"):
        with zipfile.ZipFile(path) as packed:
            if "run.json" in packed.namelist():
                runs.append(Path(tempfile.mkdtemp()) / path.stem)
                packed.extractall(runs[-1])
    return runs


def default_runs() -> list[Path]:
    """The runs to predict with where none are named.

    On Kaggle the best run of an attached notebook's output, else all in the attached data sets.
    Elsewhere the released concatenations, else the best of models/runs.

    Raises:
        FileNotFoundError: there is none.
    """
    mounted, models = attached_runs(), project_dir() / "models"
    trained = [run for run in mounted if run.parent.name == "runs"]
    chosen = mounted or released_runs("*+*")
    if chosen and not trained:
        return chosen
    runs = trained or sorted(path.parent for path in models.glob("runs/*/run.json"))
    if not runs:
        raise FileNotFoundError(
            f"{models}: no trained run; run the notebooks (make notebooks), or name a run folder"
        )
    return [min(runs, key=lambda run: read_run(run)[0]["metrics"]["all"]["KL"])]
