"""Trained runs → probabilities → submission.csv. Folds, flips and runs are averaged.

A window without enough EEG (the rule of `signals.Quality`) gets no opinion: NaN, and the prior in a
submission. Quality is a table with one row per window: `n_electrodes`, the good ones of 19;
`replaced`, the names of the others; `lost`, the share of the time that was filled or is flat in the
good ones; `problem`, why there is no opinion, or "".
"""

import gzip
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils import __version__, evaluation, files, records, signals, spectrograms
from hmsutils import runs as stored
from hmsutils.competition import (
    CLASSES,
    ELECTRODES,
    VOTE_COLUMNS,
    WINDOW_S,
    WINDOW_SAMPLES,
    Competition,
    default_n_jobs,
    fingerprint,
    write_atomically,
)
from hmsutils.config import TrainConfig, of_run
from hmsutils.models import BACKBONES
from hmsutils.recordings import Recording
from hmsutils.representations import Image, Representation
from hmsutils.runs import Run
from hmsutils.signals import N_SCALP, SFREQ_HZ

_CHUNK = 12  # windows of a recording that are predicted at once, and kept; more need more memory


@dataclass(frozen=True)
class TrainedModel:
    """One architecture with the weights of each of its folds.

    `load` gives its Keras model, built once, and these weights. With a session of onnxruntime for
    each fold (`export.convert`) it predicts on the CPU, without Keras, whose start takes seconds.
    It cannot be sent to another process: load it there."""

    load: Callable[[], tuple["keras.Model", tuple[list[np.ndarray], ...]]]  # noqa: F821
    config: TrainConfig
    run: Run | None = None  # that it was loaded from
    sessions: tuple = ()
    temperature: float = 1.0  # fitted on the run's out-of-fold predictions
    weight: float = 1.0  # in a blend with others
    prior: Sequence[float] = (1 / len(CLASSES),) * len(CLASSES)  # mean target in training
    temperatures: Mapping[str, float] = field(default_factory=dict)  # of few and of many raters

    @property
    def model(self):
        return self.load()[0]

    @property
    def folds(self) -> tuple[list[np.ndarray], ...]:
        return self.load()[1]

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

    def predict_folds(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """(N, 6) probabilities of each fold."""
        if self.sessions:
            return [_run(session, batch) for session in self.sessions]
        predictions = []
        for fold in self.folds:
            self.model.set_weights(fold)
            predictions.append(self.model.predict(batch, batch_size=32, verbose=0))
        return predictions


Models = Sequence[TrainedModel]
_AT_ONCE = 8  # windows in onnxruntime; more leave the processor's cache
_ONE_AT_A_TIME = Lock()


def _run(session, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    n = len(next(iter(batch.values())))
    some = [{k: x[i : i + _AT_ONCE] for k, x in batch.items()} for i in range(0, n, _AT_ONCE)]
    return np.concatenate([session.run(None, inputs)[0] for inputs in some])


def load_models(runs: Mapping[str | Path | Run, float] | Sequence) -> list[TrainedModel]:
    """Load finished runs, all folds of each: their folders, or {folder: weight in a blend}.

    FileNotFoundError: a run is not finished. ValueError: what is wrong in a run, or with a weight,
    by its folder."""
    weights, models = runs if isinstance(runs, Mapping) else dict.fromkeys(runs, 1.0), []
    none = not any(weights.values())
    for folder in [f for f, w in weights.items() if none or not 0 <= w <= 1e6]:
        problem = f"its weight in the blend is {weights[folder]}"
        raise ValueError(f"{Path(folder)}: {problem}; wanted 0 to 1e6, and not 0 alone")
    for folder, weight in weights.items():
        run = Run(folder)
        load, sessions = cache(partial(_load, run)), _sessions(run)
        if not sessions:
            load()
        config = of_run(run)
        settings = run.temperature, weight, _mean_target(run), run.temperatures
        models.append(TrainedModel(load, config, run, sessions, *settings))
    return models


def _load(run: Run) -> tuple:
    """The Keras model of a run, and the weights of each fold."""
    from hmsutils import training  # and Keras

    with _ONE_AT_A_TIME:
        model, _ = training.load_model(run, run.folds[0])
        folds = [model.get_weights()]
        for fold in run.folds[1:]:
            training.load_weights(model, run.weights(fold))
            folds.append(model.get_weights())
    return model, tuple(folds)


def _sessions(run: Run) -> tuple:
    """onnxruntime on the networks that `export.convert` wrote of just these folds, configs and
    weights; none where it is not installed or cannot read them."""
    paths = [stored.FoldFolder(run.folder, fold).network for fold in run.folds]
    if not find_spec("onnxruntime") or not all(path.exists() for path in paths):
        return ()
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, default_n_jobs() - 1)  # one reads and transforms
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        networks = [gzip.decompress(path.read_bytes()) for path in paths]
        sessions = [onnxruntime.InferenceSession(network, options) for network in networks]
    except Exception as error:  # a file is damaged, or too new for this onnxruntime
        problem = f"{run.folder}: onnxruntime cannot use its network.onnx.gz ({error})"
        warnings.warn(f"load_models: {problem}; Keras predicts instead", stacklevel=3)
        return ()
    made_of = [session.get_modelmeta().custom_metadata_map.get("id") for session in sessions]
    return tuple(sessions) if made_of == _ids(run) else ()


def _ids(run: Run | None) -> list[str]:
    """What names the networks of a run; it reads all weights."""
    return [run.network_id(fold) for fold in run.folds] if run else []


def for_raters(models: Models, raters: int | None) -> Models:
    """The models with the temperature for the votes of so many raters per window, for under 10 or
    for 10 and more; with the common one for None, and where a run has no others. ValueError: not a
    whole number from 1 up."""
    if raters is None:
        return models
    if not isinstance(raters, int | np.integer) or raters < 1:
        raise ValueError(f"raters is {raters!r}, wanted a whole number from 1 up, or None")
    few, many = evaluation.POPULATIONS
    name = few if raters < 10 else many
    for model in models:
        if not model.temperatures:
            problem = "has one temperature for all raters; train it again for others"
            warnings.warn(f"predict: {model.config.name} {problem}", stacklevel=3)
    return [replace(m, temperature=m.temperatures.get(name, m.temperature)) for m in models]


def default_runs(competition: Competition | None = None) -> dict[Run, float]:
    """The runs to predict with where none are named, with their weights; prints the choice: your
    own (on Kaggle: in an attached notebook's output) that learned from `competition` (None: its
    files, where they are found), as notebook 3's blend if that is better than every single run,
    else the best one. Else all runs in attached data sets, else the released concatenation."""
    competition = competition or files.find_competition(verbose=False, simulate=False)
    mounted = stored.mounted_runs()
    trained = [run for run in mounted if run.folder.parent.name == "runs"] or stored.find_runs()
    named = trained and competition and (competition.root / "train.csv").exists()
    at_hand = records.data_id(competition) if named else ""
    trained = [run for run in trained if run.data.get("data_id") == at_hand]
    if own := stored.comparable(stored.with_weights(trained)):
        chosen, why = _best_of(own)
    else:
        weights, found = stored.mounted_weights(), mounted or stored.released_runs(stored.DEFAULT)
        found = [run for run in found if run.folder.name in weights] or found
        chosen = {run: weights.get(run.folder.name, 1.0) for run in found}
        why = "attached" if mounted else "released; none of your own learned from the data at hand"
    print("Models:", ", ".join(evaluation.label_runs(chosen)), f"({why})")
    for label, run in evaluation.label_runs(chosen).items() if own else ():
        scores = f"held-out KL {run.kl:.3f}, accuracy {run.metrics['all']['accuracy']:.3f}"
        published = getattr(BACKBONES.get(run.name), "published_accuracy", np.nan)
        compared = published > 0 and competition.kind != "simulated"
        beside = f" (published: {published:.2f})" if compared else ""
        print(f"  {chosen[run]:.2f} × {label}: {scores}{beside}")
    return chosen


def _best_of(own: Sequence[Run]) -> tuple[dict[Run, float], str]:
    """The blend with the lowest KL, or the best run where that is better."""
    # Of one run in several attached outputs, the one with the most folds.
    best = evaluation.best_run(sorted(own, key=lambda run: -len(run.folds)))
    chosen, lowest, why = {best: 1.0}, np.inf, f"the best of your own: held-out KL {best.kl:.3f}"
    for folder in {run.folder.parent for run in own}:
        there = {run.folder.name: run for run in own if run.folder.parent == folder}
        weights, kl = stored.read_blend(folder) or ({}, np.inf)
        blended = {there[name]: weight for name, weight in weights.items() if name in there}
        if weights and len(blended) == len(weights) and kl < lowest:
            if kl < evaluation.shared_kl([best, *blended])[0]:
                chosen, lowest = blended, kl
                why = f"your own, as blended by notebook 3: nested KL {kl:.3f}"
    return chosen, why


def predict(
    models: Models, eeg_uv: np.ndarray, *, flip: bool = True, raters: int | None = None,
    return_quality: bool = False,
):  # fmt: skip
    """(N, 10000, 20) or (10000, 20) raw microvolts at 200 Hz, NaN allowed → (N, 6) probabilities.

    Each model is averaged over its folds and, with `flip`, over the EEG and the EEG with exchanged
    hemispheres; it is calibrated with its temperature, that for the votes of so many `raters` where
    they are named (see `for_raters`), and all are blended with their weights.
    The 10 minutes around are absent for models that look at them. float64, rows sum to 1 or,
    without enough EEG, are NaN, with a warning; `return_quality` also returns the quality instead.
    ValueError: no model, no window, or not 20 columns."""
    if not models:
        raise ValueError("predict: no models; load some with inference.load_models")
    eeg_uv = signals.to_time_last(eeg_uv, "predict")
    if eeg_uv.shape[-1] != WINDOW_SAMPLES:
        wanted = f"wanted {WINDOW_SAMPLES} (50 s at 200 Hz); predict_recording takes longer EEG"
        raise ValueError(f"predict: {eeg_uv.shape[-1]} samples, {wanted}")
    represented, quality = _represent(models, eeg_uv)
    prediction = _classify(for_raters(models, raters), represented, flip)
    return _with_quality(prediction, quality, return_quality)


def _represent(
    models: Models, eeg_uv: np.ndarray, context: np.ndarray | None = None
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """(N, 20, T) raw microvolts → every representation that the models need, once, by its key; and
    the quality."""
    needed = {r.key: r for trained in models for r in trained.inputs.values()}
    with threadpool_limits(1):  # beside the networks, which take the other cores
        repaired, found = signals.repair_with_quality(eeg_uv)
        represented = {key: r.with_context(repaired, context) for key, r in needed.items()}
    scalp = np.array(ELECTRODES[:N_SCALP])
    names = [" ".join(scalp[bad]) for bad in found.replaced[:, :N_SCALP]]
    quality = {"n_electrodes": found.n_electrodes, "replaced": names, "lost": found.lost.round(3)}
    return represented, pd.DataFrame(quality | {"problem": found.problems()})


def _with_quality(prediction: np.ndarray, quality: pd.DataFrame, return_quality: bool):
    """Predictions, NaN where there is no opinion, which is either returned or warned of."""
    problems = quality["problem"][quality["problem"] != ""]
    prediction[problems.index] = np.nan
    if return_quality:
        return prediction, quality
    if len(problems):
        said = f"{len(problems)} of {len(quality)} windows have no prediction (NaN), first window"
        warnings.warn(f"{said} {problems.index[0]}: {problems.iloc[0]}", stacklevel=3)
    return prediction


def _classify(models: Models, represented: Mapping, flip: bool = True) -> np.ndarray:
    outputs = []
    for trained in models:
        batches = trained.batches(represented, flip)
        batch = {name: np.concatenate([b[name] for b in batches]) for name in trained.inputs}
        mean = (
            np.mean(trained.predict_folds(batch), axis=0)
            .reshape(len(batches), -1, len(CLASSES))
            .mean(axis=0)
        )
        outputs.append(evaluation.apply_temperature(mean, trained.temperature))
    prediction = np.average(outputs, axis=0, weights=[trained.weight for trained in models])
    if not (np.abs(prediction.sum(axis=1) - 1) < 1e-3).all():  # NaN too
        names = ", ".join(trained.config.name for trained in models)
        raise ValueError(f"predict: {names} give no probabilities; train or copy the run again")
    return prediction


def predict_windows(
    models: Models, competition: Competition, windows: pd.DataFrame, split: str = "train", *,
    chunk: int = 16, raters: int | None = None, return_quality: bool = False,
    title: str | None = "Predicting",
):  # fmt: skip
    """(N, 6) probabilities of windows from the raw EEG in chunks. `raters`, NaN and quality as in
    `predict`; an EEG that cannot be read is a problem of its windows. Only models that look at the
    10 minutes around read spectrograms; windows without are predicted, with a warning that counts
    them. `title` as in `predict_recording`."""
    columns = ["eeg_id", "eeg_offset_s", "spectrogram_id", "spectrogram_offset_s"]
    rows = windows.reindex(columns=columns).assign(problem=windows.get("problem", ""))

    def read(row) -> np.ndarray:
        if row.problem:  # from `load_windows`
            raise ValueError(row.problem)
        return records.read_windows(competition, row.eeg_id, [row.eeg_offset_s], split)[0]

    def read_contexts(some: Sequence) -> np.ndarray:
        return records.read_contexts(competition, pd.DataFrame(some), split)

    rows, models = list(rows.itertuples(index=False)), for_raters(models, raters)
    found = _predict_chunks(models, rows, read, read_contexts, chunk, title=title)
    return _with_quality(*found, return_quality)


def _predict_chunks(
    models: Models, rows: Sequence, read: Callable, read_contexts: Callable, chunk: int, *,
    title: str | None = "Predicting", keep: Path | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:  # fmt: skip
    """(N, 6) probabilities and the quality of (20, 10000) `read(row)` of each row, with their
    `read_contexts(rows)` where a model looks at them. While the networks predict one chunk, the
    next one is read and transformed; at most two are in memory. A finished chunk of which all could
    be read is kept in a file that begins with `keep`; one that is there already is not predicted
    again."""
    look = any(r.context_channels for trained in models for r in trained.inputs.values())
    if not models or not len(rows):
        found = f"{len(models)} models, {len(rows)} windows"
        raise ValueError(f"predict: {found}; wanted one of each or more")

    def prepare(start: int) -> tuple[dict, pd.DataFrame, bool]:
        some = rows[start : start + chunk]
        eeg_uv = np.full((len(some), len(ELECTRODES), WINDOW_SAMPLES), np.nan, np.float32)
        unread = pd.Series(dtype=object)
        for i, row in enumerate(some):
            try:
                eeg_uv[i] = read(row)
            except (ValueError, OSError) as error:
                unread[i] = str(error)
        contexts = read_contexts(some) if look else None
        represented, quality = _represent(models, eeg_uv, contexts)
        quality["problem"] = unread.reindex(quality.index).fillna(quality["problem"])
        quality["absent"] = np.isnan(contexts).all(axis=(1, 2, 3)) if look else False
        return represented, quality, unread.empty

    starts = range(0, len(rows), chunk)
    kept = {k: keep.with_name(f"{keep.name}-{k}.parquet") for k in starts} if keep else {}
    done = {}
    for start, path in kept.items():
        with suppress(OSError, ValueError):  # absent, or damaged
            done[start] = pd.read_parquet(path)
    todo = [start for start in starts if start not in done]
    options = {"unit": " windows", "mininterval": 2, "disable": title is None}
    progress = tqdm(total=len(rows), desc=title, **options)
    with ThreadPoolExecutor(1) as ahead, progress:
        progress.update(sum(map(len, done.values())))
        coming = [ahead.submit(prepare, start) for start in todo[:1]]
        for k, start in enumerate(todo):
            represented, part, is_whole = coming.pop().result()
            coming += [ahead.submit(prepare, following) for following in todo[k + 1 : k + 2]]
            part[list(CLASSES)] = _classify(models, represented)
            if keep and is_whole:  # other commands remove the folder where it is empty
                keep.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(kept[start], part.to_parquet)
            done[start] = part
            progress.update(len(part))
    table = pd.concat([done[start] for start in starts], ignore_index=True)
    if n := table["absent"].sum():
        problem = f"{n:,} of {len(rows):,} windows have no 10-minute spectrogram"
        warnings.warn(f"predict: {problem}; their prediction does without", stacklevel=3)
    names = [*CLASSES, "absent"]
    return table[names[:-1]].to_numpy(np.float64, copy=True), table.drop(columns=names)


def predict_recording(
    models: Models, recording: Recording | np.ndarray, *, step_s: float = 10.0,
    raters: int | None = None, keep: Path | None = None, title: str | None = "Predicting",
    span_s: tuple[float, float] = (-np.inf, np.inf),
) -> pd.DataFrame:  # fmt: skip
    """Slide 50 s windows over a recording, read piece by piece, or over (T, 20) raw microvolts at
    200 Hz, NaN allowed; never across a gap of a recording, on a grid of `step_s` from the end of
    each gap. Less than 50 s without a gap are one window with nothing around them. One row per
    window: `start_s`, `end_s` of the central 10 s that the prediction is about, or of as much as
    there is, a probability for each of `CLASSES`, NaN without enough EEG, and the quality. For
    models that look at the 10 minutes around a window these are computed, where there are 10
    minutes or more without a gap. `raters` as in `predict`. `keep`, a folder made where absent,
    gets every finished piece; the same call goes on from there, of the same file, step and models.
    `title` is that of the progress bar, None: there is none. `span_s`: only rows about 10 s that
    begin in it, from its start to before its end; there may be none. ValueError: other shapes, a
    step under one sample, or `keep` with what was not opened from a file, or with a span."""
    parts = _parts(recording)
    step = round(step_s * SFREQ_HZ) if np.isfinite(step_s) else 0
    if step < 1:
        wanted = f"wanted at least one sample, {1 / SFREQ_HZ} s"
        raise ValueError(f"predict_recording: a step of {step_s} s, {wanted}")
    rows, table = _rows(parts, step)
    wanted = table["start_s"].between(*span_s, inclusive="left")
    rows, table = [row for row, x in zip(rows, wanted, strict=True) if x], table[wanted]
    if not rows:
        return table
    if keep and not wanted.all():
        raise ValueError("predict_recording: keep with a span; name one of the two")
    length = 600 * SFREQ_HZ  # is read at once

    @lru_cache(maxsize=1)
    def piece(k: int, first: int) -> np.ndarray:
        _, n, read = parts[k]
        return read(first, min(n, first + length + WINDOW_SAMPLES))

    @lru_cache(maxsize=2)
    def power(k: int) -> np.ndarray:  # where a model looks at it
        return _power_around(*parts[k][1:])

    def read(row: tuple[int, int]) -> np.ndarray:
        k, first = row
        if parts[k][1] >= WINDOW_SAMPLES:
            return piece(k, first - first % length)[:, first % length :][:, :WINDOW_SAMPLES]
        alone = np.full((len(ELECTRODES), WINDOW_SAMPLES), np.nan, np.float32)
        alone[:, -first : parts[k][1] - first] = piece(k, 0)
        return alone

    models = for_raters(models, raters)
    found = _predict_chunks(
        models, rows, read,
        # A window begins 275 s, 137.5 rows, after the 10 minutes around it.
        lambda some: np.stack([power(k)[300 + round(i / 400 - 137.5) :][:300] for k, i in some]),
        _CHUNK, title=title, keep=keep and keep / _identity(models, recording, step),
    )  # fmt: skip
    prediction, quality = _with_quality(*found, return_quality=True)
    table = table.reset_index(drop=True).assign(**dict(zip(CLASSES, prediction.T, strict=True)))
    return pd.concat([table, quality], axis=1)


def _rows(parts: list, step: int) -> tuple[list[tuple[int, int]], pd.DataFrame]:
    """(part, first sample, negative for a part under 50 s) of every window; `start_s`, `end_s` of
    what it is about."""
    rows = []
    for k, (_, n, _) in enumerate(parts):
        around = max(WINDOW_SAMPLES - n, 0)
        rows += [
            (k, first - around // 2) for first in range(0, n + around - WINDOW_SAMPLES + 1, step)
        ]
    begin_s, n, centre = np.array(
        [(*parts[k][:2], first + WINDOW_SAMPLES / 2) for k, first in rows]
    ).T
    edges = [np.clip(centre + side * 5 * SFREQ_HZ, 0, n) / SFREQ_HZ for side in (-1, 1)]
    return rows, pd.DataFrame({"start_s": begin_s + edges[0], "end_s": begin_s + edges[1]})


def window_around(recording: Recording, middle_s: float) -> np.ndarray:
    """(10000, 20) raw microvolts of the 50 s around a time in a recording, NaN beyond a gap.
    ValueError: a time without EEG."""
    first_s = middle_s - WINDOW_S / 2
    part_s = next((x for x in recording.segments if x[0] <= middle_s <= x[1]), None)
    if part_s is None:
        raise ValueError(f"{recording.name}: no EEG at {middle_s:g} s; name a time in a segment")
    begin_s, stop_s = max(part_s[0], first_s), min(part_s[1], first_s + WINDOW_S)
    before = round((begin_s - first_s) * SFREQ_HZ)
    part = recording.read(begin_s, stop_s)[: WINDOW_SAMPLES - before]
    around = (before, WINDOW_SAMPLES - before - len(part)), (0, 0)
    return np.pad(part, around, constant_values=np.nan)


def image_of(models: Models) -> Image | None:
    """The image that models look at, the first one of several; None: they look at none."""
    seen = (r for m in models if m.weight for r in m.inputs.values() if isinstance(r, Image))
    return next(seen, None)


def kept_pieces(models: Models, recording: Recording, keep: Path, step_s: float) -> list[Path]:
    """The files that `predict_recording` with these models, as of `for_raters`, has in `keep`."""
    return [*keep.glob(f"{_identity(models, recording, round(step_s * SFREQ_HZ))}-*")]


def _identity(models: Models, recording: Recording | np.ndarray, step: int) -> str:
    """A name for the predictions of a file: of another one, or by other models, it is another."""
    paths, networks = getattr(getattr(recording, "_source", None), "files", ()), []
    if not paths:
        problem = "keep with EEG in memory, wanted a recording from a file"
        raise ValueError(f"predict_recording: {problem}")
    for trained in models:
        keys = [r.key for r in trained.inputs.values()]
        factors = float(trained.temperature), float(trained.weight)
        networks.append([keys, _ids(trained.run), factors])
    states = [(path.resolve(), path.stat()) for path in paths]
    states = [(path, x.st_size, x.st_mtime_ns, x.st_ctime_ns) for path, x in states]
    read = [recording.segments, recording._channels, recording._matrix.tobytes()]
    return fingerprint(__version__, states, read, networks, step, _CHUNK)


def _parts(recording: Recording | np.ndarray) -> list[tuple[float, int, Callable]]:
    """What has no gap: where it begins in seconds, its samples, and a function that reads some of
    them, (first, stop) → (20, stop - first)."""
    if isinstance(recording, Recording):
        return [
            (begin_s, round((stop_s - begin_s) * SFREQ_HZ), lambda first, stop, begin_s=begin_s:
             recording.read(begin_s + first / SFREQ_HZ, begin_s + stop / SFREQ_HZ).T)
            for begin_s, stop_s in recording.segments
        ]  # fmt: skip
    if len(shape := np.shape(recording)) != 2:
        raise ValueError(f"predict_recording: got {shape}, wanted one recording, (T, 20)")
    eeg_uv = signals.to_time_last(recording, "predict_recording")[0]
    return [(0.0, eeg_uv.shape[-1], lambda first, stop: eeg_uv[:, first:stop])]


def _power_around(n_samples: int, read: Callable) -> np.ndarray:
    """The official spectrogram (W, 4, 100) of (20, T) EEG without a gap, read piece by piece, with
    300 rows of NaN on both sides; less than 10 minutes give nothing but NaN."""
    step, n_rows = 2 * SFREQ_HZ, n_samples // (2 * SFREQ_HZ) - 1
    power = np.full((max(n_rows, 0) + 600, 4, 100), np.nan, np.float32)
    for first in range(0, n_rows, 300) if n_rows >= 299 else ():
        before = min(first, 5)  # more EEG on both sides, for the filter
        piece = read((first - before) * step, min((first + 306) * step, n_samples))
        made = spectrograms.regional_multitaper(piece.T)[0, before : before + 300]
        power[300 + first :][: len(made)] = made
    return power


def make_submission(
    models: Models, competition: Competition, split: str = "test", *, raters: int | None = None
) -> pd.DataFrame:
    """The submission of a split, checked: `eeg_id` and six vote shares, one row per EEG; of test,
    those of `sample_submission.csv` in its order, of train, each EEG's middle window. A file that
    cannot be read or holds too little EEG gets the training prior; each is printed with its name.
    `raters` as in `predict`: 10 for votes as the competition's hidden test seems to have them.
    """
    windows = records.load_windows(competition, split, on_problem="keep")
    if split == "test":
        windows = windows.drop_duplicates("eeg_id", ignore_index=True)
    sizes = windows.groupby("eeg_id")["eeg_id"].transform("size")
    windows = windows[windows.groupby("eeg_id").cumcount() == (sizes - 1) // 2]
    if split == "test":
        ids = _test_ids(competition)
        if missing := sorted(set(ids) - set(windows["eeg_id"])):
            problem = f"names {len(missing)} EEGs that are not in test.csv, first {missing[0]}"
            raise ValueError(f"{competition.root}: sample_submission.csv {problem}; download both")
        windows = windows.set_index("eeg_id", drop=False).loc[ids]
    options = {"raters": raters, "return_quality": True}
    prediction, quality = predict_windows(models, competition, windows, split, **options)
    without = np.flatnonzero(quality["problem"] != "")
    weights = [trained.weight for trained in models]
    prediction[without] = np.average([m.prior for m in models], axis=0, weights=weights)
    for row in without:
        file, problem = f"{windows['eeg_id'].iloc[row]}.parquet", quality["problem"][row]
        print(problem if file in problem else f"{split}_eegs/{file}: {problem}")
    if len(without):
        why = "because these files cannot be read or hold too little EEG"
        print(f"{len(without):,} of {len(windows):,} rows are the prior, {why}")
    return _submission(windows["eeg_id"], prediction)


def prior_submission(runs: Sequence[str | Path | Run], competition: Competition) -> pd.DataFrame:
    """A valid submission of the test split without a model: the runs' mean target in every row."""
    prior, ids = np.mean([_mean_target(Run(run)) for run in runs], axis=0), _test_ids(competition)
    return _submission(ids, np.tile(prior, (len(ids), 1)))


def _mean_target(run: Run) -> np.ndarray:
    """(6,) that a run was trained on, of sum 1."""
    mean = np.mean(list(run.prior_mean.values()), axis=0)
    return mean / mean.sum()


def _test_ids(competition: Competition) -> pd.Series:
    """The rows that a submission needs, in their order."""
    sample = competition.root / "sample_submission.csv"
    table = sample if sample.exists() else competition.root / "test.csv"
    return pd.Series(records.read_ids(table)).drop_duplicates()


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
        wanted = f"the {len(eeg_ids)} wanted eeg_id in their order"
        raise ValueError(f"submission: {len(submission)} rows, but not {wanted}")
    values = submission[list(VOTE_COLUMNS)].to_numpy(np.float64)
    bad = ~((values >= 0) & (values <= 1)).all(axis=1) | (np.abs(values.sum(axis=1) - 1) > 1e-5)
    if bad.any():
        first = f"first eeg_id {submission['eeg_id'][bad].iloc[0]}: {values[bad][0]}"
        wanted = f"wanted {len(CLASSES)} values in [0, 1] that sum to 1"
        raise ValueError(f"submission: {bad.sum()} rows are no probabilities, {first}; {wanted}")
