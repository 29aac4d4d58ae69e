"""Trained runs → probabilities → submission.csv. Folds, flips and runs are averaged."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils import evaluation, files, records, signals, training
from hmsutils.competition import CLASSES, SFREQ_HZ, VOTE_COLUMNS, WINDOW_SAMPLES, Competition
from hmsutils.config import TrainConfig
from hmsutils.representations import Representation, represent
from hmsutils.runs import Run, find_runs, mounted_runs, mounted_weights, read_blend, released_runs


@dataclass(frozen=True)
class TrainedModel:
    """One architecture, built once, with the weights of each of its folds."""

    model: keras.Model
    config: TrainConfig
    folds: tuple[list[np.ndarray], ...]
    temperature: float = 1.0  # fitted on the run's out-of-fold predictions
    weight: float = 1.0  # in a blend with others

    @property
    def inputs(self) -> dict[str, Representation]:
        """The representations that the model looks at, by the names of its inputs."""
        return {name: self.config.inputs[name] for name in self.config.input_names}

    def batches(self, represented: Mapping, flip: bool) -> list[dict]:
        """What the model is fed, from arrays or tensors by the keys of their representations; with
        `flip` also the same with the hemispheres exchanged."""
        batch = {name: represented[r.key] for name, r in self.inputs.items()}
        if not flip:
            return [batch]
        return [batch, {k: r.flip_hemispheres(batch[k]) for k, r in self.inputs.items()}]


Models = Sequence[TrainedModel]


def load_models(runs: Mapping[str | Path | Run, float] | Sequence) -> list[TrainedModel]:
    """Load finished runs, all folds of each: their folders, or {folder: weight in a blend}.
    FileNotFoundError: a run is not finished."""
    weights = runs if isinstance(runs, Mapping) else dict.fromkeys(runs, 1.0)
    models = []
    for run, weight in ((Run(folder), weight) for folder, weight in weights.items()):
        first, *others = run.folds
        model, config = training.load_model(run, first)
        folds = [model.get_weights()]
        for fold in others:
            model.load_weights(run.weights(fold))
            folds.append(model.get_weights())
        models.append(TrainedModel(model, config, tuple(folds), run.temperature, weight))
    return models


def default_runs(competition: Competition | None = None) -> dict[Run, float]:
    """The runs to predict with where none are named, with their weights; prints the choice.

    Your own (on Kaggle: in an attached notebook's output) that learned from `competition` (None:
    its files, where they are found): notebook 3's blend if it is better than every single run, else
    the best run. Else all runs in attached data sets, else the released concatenation.
    """
    competition = competition or files.find_competition(verbose=False, simulate=False)
    mounted = mounted_runs()
    trained = [run for run in mounted if run.folder.parent.name == "runs"]
    if own := _that_learned_from(competition, trained or find_runs()):
        chosen, why = _best_of(own)
    else:
        weights = mounted_weights()
        chosen = {run: weights.get(run.folder.name, 1.0) for run in mounted or released_runs("*+*")}
        why = "attached" if mounted else "released; none of your own learned from the data at hand"
    print("Models:", ", ".join(run.name for run in chosen), f"({why})")
    return chosen


def _that_learned_from(competition: Competition | None, runs: Sequence[Run]) -> list[Run]:
    """Runs that learned from the EEGs of a competition, and were evaluated on the same windows as
    the newest of them: only those can be compared."""
    if not runs or not competition or not (competition.root / "train.csv").exists():
        return []
    at_hand = records.data_id(competition)
    runs = sorted((r for r in runs if r.data.get("data_id") == at_hand), key=Run.time)
    return [r for r in runs if (r.data, r.folds) == (runs[-1].data, runs[-1].folds)]


def _best_of(own: Sequence[Run]) -> tuple[dict[Run, float], str]:
    """The blend with the lowest KL, or the best run where that is better."""
    best = evaluation.best_run(own)
    chosen, kl, why = {best: 1.0}, best.kl, "the best of your own"
    for folder in {run.folder.parent for run in own}:
        there = {run.folder.name: run for run in own if run.folder.parent == folder}
        weights, blend_kl = read_blend(folder) or ({}, np.inf)
        if weights and set(weights) <= set(there) and blend_kl < kl:
            chosen = {there[name]: weight for name, weight in weights.items()}
            kl, why = blend_kl, "your own, as blended by notebook 3"
    return chosen, f"{why}: held-out KL {kl:.3f}"


def predict(models: Models, eeg_uv: np.ndarray, *, flip: bool = True) -> np.ndarray:
    """(N, 10000, 20) or (10000, 20) raw microvolts at 200 Hz, NaN allowed → (N, 6) probabilities.

    Each model is averaged over its folds and, with `flip`, over the EEG and the EEG with exchanged
    hemispheres; it is calibrated with its temperature, and all are blended with their weights.
    float64, rows sum to 1. ValueError: no model, or not 20 columns.
    """
    if not models:
        raise ValueError("predict: no models; load some with inference.load_models")
    eeg_uv = signals.to_time_last(eeg_uv, "predict")
    if eeg_uv.shape[-1] != WINDOW_SAMPLES:
        raise ValueError(
            f"predict: {eeg_uv.shape[-1]} samples, wanted {WINDOW_SAMPLES} (50 s at 200 Hz); "
            f"predict_recording takes longer EEG"
        )
    return _classify(models, _represent(models, eeg_uv), flip)


def _represent(models: Models, eeg_uv: np.ndarray) -> dict[str, np.ndarray]:
    """(N, 20, T) raw microvolts → every representation that the models need, once, by its key."""
    needed = {r.key: r for trained in models for r in trained.inputs.values()}
    with threadpool_limits(1):  # beside the networks, which take the other cores
        return represent(needed, eeg_uv)


def _classify(models: Models, represented: Mapping, flip: bool = True) -> np.ndarray:
    outputs = []
    for trained in models:
        batches, parts = trained.batches(represented, flip), []
        for fold in trained.folds:
            trained.model.set_weights(fold)
            parts += [trained.model.predict(b, batch_size=32, verbose=0) for b in batches]
        outputs.append(evaluation.apply_temperature(np.mean(parts, axis=0), trained.temperature))
    return np.average(outputs, axis=0, weights=[trained.weight for trained in models])


def predict_windows(
    models: Models,
    competition: Competition,
    windows: pd.DataFrame,
    split: str = "train",
    *,
    chunk: int = 64,
) -> np.ndarray:
    """(N, 6) probabilities of windows from the raw EEG in chunks; needs no spectrogram files."""
    rows = list(windows[["eeg_id", "eeg_offset_s"]].itertuples(index=False, name=None))
    return _predict_chunks(
        models, rows, lambda r: records.read_windows(competition, r[0], [r[1]], split)[0], chunk
    )


def _predict_chunks(models: Models, rows: Sequence, read: Callable, chunk: int = 64) -> np.ndarray:
    """(N, 6) probabilities of (20, 10000) `read(row)` of each row. While the networks predict one
    chunk, the next one is read and transformed; at most two are in memory."""

    def prepare(start: int) -> dict:
        return _represent(models, np.stack([read(row) for row in rows[start : start + chunk]]))

    parts, starts = [], range(0, len(rows), chunk)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(prepare, 0)
        for start in tqdm(starts, "Predicting", mininterval=2):
            represented = coming.result()
            if start != starts[-1]:
                coming = ahead.submit(prepare, start + chunk)
            parts.append(_classify(models, represented))
    return np.concatenate(parts)


def predict_recording(models: Models, eeg_uv: np.ndarray, *, step_s: float = 10.0) -> pd.DataFrame:
    """Slide 50 s windows over (T, 20) raw microvolts at 200 Hz, NaN allowed. One row per window:
    `start_s`, `end_s` of the central 10 s that the prediction is about, and a probability for each
    of `CLASSES`. ValueError: less than 50 s, or a step under one sample."""
    eeg_uv = signals.to_time_last(eeg_uv, "predict_recording")[0]
    n_samples, step = eeg_uv.shape[-1], round(step_s * SFREQ_HZ)
    if n_samples < WINDOW_SAMPLES or step < 1:
        raise ValueError(
            f"predict_recording: {n_samples / SFREQ_HZ:g} s in steps of {step_s} s; wanted at "
            f"least {WINDOW_SAMPLES // SFREQ_HZ} s and a step of at least {1 / SFREQ_HZ} s"
        )
    starts = np.arange(0, n_samples - WINDOW_SAMPLES + 1, step)
    prediction = _predict_chunks(models, starts, lambda i: eeg_uv[:, i : i + WINDOW_SAMPLES])
    start_s = (starts + WINDOW_SAMPLES / 2) / SFREQ_HZ - 5
    columns = {"start_s": start_s, "end_s": start_s + 10}
    return pd.DataFrame(columns | dict(zip(CLASSES, prediction.T, strict=True)))


def make_submission(models: Models, competition: Competition, split: str = "test") -> pd.DataFrame:
    """The submission of a split, checked: `eeg_id` and six vote shares, one row per EEG; of test,
    those of `sample_submission.csv` in its order, of train, each EEG's middle window."""
    windows = records.load_windows(competition, split)
    sizes = windows.groupby("eeg_id")["eeg_id"].transform("size")
    windows = windows[windows.groupby("eeg_id").cumcount() == (sizes - 1) // 2]
    if split == "test":
        ids = _test_ids(competition)
        if missing := sorted(set(ids) - set(windows["eeg_id"])):
            raise ValueError(
                f"{competition.root}: sample_submission.csv names {len(missing)} EEGs that are not "
                f"in test.csv, first {missing[0]}; download both again"
            )
        windows = windows.set_index("eeg_id", drop=False).loc[ids]
    return _submission(windows["eeg_id"], predict_windows(models, competition, windows, split))


def prior_submission(runs: Sequence[str | Path | Run], competition: Competition) -> pd.DataFrame:
    """A valid submission of the test split without a model: the runs' mean target in every row."""
    prior = np.mean([mean for run in runs for mean in Run(run).prior_mean.values()], axis=0)
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


def check_submission(submission: pd.DataFrame, eeg_ids: Sequence[int]) -> None:
    """ValueError for what the competition refuses: other columns, other ids or order, values
    outside [0, 1], rows that do not sum to 1 within 1e-5."""
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
