"""Train the folds of runs. One that is killed goes on after its last complete epoch and ends with
the same numbers."""

import json
import mmap
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import h5py
import keras
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from keras.optimizers import schedules

from hmsutils import competition as ground
from hmsutils import evaluation, models, records, runs, store
from hmsutils.batches import Batches
from hmsutils.competition import PREDICTION_COLUMNS, TARGET_COLUMNS, Competition
from hmsutils.config import RELEASED, TrainConfig, from_dict, to_dict
from hmsutils.runs import FoldFolder, Run


def prepare(competition: Competition, config: TrainConfig) -> tuple[pd.DataFrame, dict]:
    """(windows with folds, {input name: representations as stored}), to train a config on."""
    windows = records.load_windows(competition, on_problem="exclude")
    rows = config.max_rows_per_label_group
    windows = records.label_groups(windows, rows) if rows > 1 else records.one_per_vote_run(windows)
    windows = records.assign_folds(windows, config.n_folds, config.seed)
    return windows, store.build(competition, windows, config.inputs)


def default_n_jobs() -> int:
    """How many folds to train at once: one with a GPU, else one per core (tracing uses one)."""
    return 1 if use_xla() else ground.default_n_jobs()


def use_xla() -> bool | str:
    """For `compile`: XLA is many times slower than plain graphs for these networks on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False


def load_model(run: str | Path | Run, fold: int) -> tuple[keras.Model, TrainConfig]:
    """A trained model, rebuilt from its run's config and weights; no network, no pickle.

    FileNotFoundError: the run is not finished, or has no such fold. ValueError: its config or its
    weights are none of this package's, with the file's name."""
    run = Run(run)
    try:
        config = from_dict(run.config)
        model = models.build_model(config)
    except Exception as error:  # whatever a file may hold
        raise ValueError(f"{run.folder}: its config cannot be used: {error}") from error
    load_weights(model, run.weights(fold))
    return model, config


def load_weights(model: keras.Model, path: Path) -> None:
    """Load weights; ValueError, which names the file: it is damaged, holds NaN, or is another
    network's, also one with more layers, of which Keras would take a part."""
    sizes, remedy = [], "copy the run again, or delete its folder and train it again"

    def note(_, item) -> None:  # arrays in this very file: no links are followed
        if isinstance(item, h5py.Dataset) and not (item.external or item.is_virtual):
            sizes.append(item.size)

    with ground.reading(path, f"no weights of {model.name}", remedy):
        with h5py.File(path) as file:
            file.visititems(note)
        found, wanted = (len(sizes), sum(sizes)), (len(model.weights), model.count_params())
        if found != wanted:
            raise ValueError(f"{found} arrays and numbers, wanted {wanted}")
        model.load_weights(path)
        if not all(np.isfinite(values).all() for values in model.get_weights()):
            raise ValueError("NaN or infinity among them")


def train(
    configs: Sequence[TrainConfig], windows: pd.DataFrame, arrays: Mapping[str, np.ndarray], *,
    runs_dir: str | Path | None = None, n_jobs: int = 1, data_parallel: bool = False,
) -> list[Run]:  # fmt: skip
    """Train every fold of every config, one run each; finished folds are kept, killed ones go on.

    On Kaggle, finished runs are copied from the attached outputs of other notebooks.

    Args:
        windows, arrays: from `prepare`, with the representations that all configs share.
        runs_dir: None: `models/runs` of the project.
        n_jobs: folds trained at once, each in a process with its share of the cores. Machines of a
            joblib backend (`joblib.parallel_config`) must share the disk of `runs_dir` and of the
            arrays; threads of a Dask worker share a generator, so that weights start otherwise.
        data_parallel: every batch over all GPUs, whose number divides its size; else, or with
            another Keras backend than JAX: ValueError.
    """
    if data_parallel and (backend := keras.backend.backend()) != "jax":
        remedy = "wanted jax; set KERAS_BACKEND=jax before Keras is imported"
        raise ValueError(f"train: data_parallel with the backend {backend}, {remedy}")
    runs_dir = Path(runs_dir or runs.default_dir())
    folders = [run_folder(config, windows, runs_dir) for config in configs]
    runs.copy_finished_runs(folders)
    planned = list(zip(configs, folders, strict=True))
    tasks = [(c, f, fold) for c, f in planned for fold in c.folds if not FoldFolder(f, fold).done]
    tasks.sort(key=lambda task: -task[0].params)  # the longest first, so that none ends last alone
    n_jobs = min(n_jobs, sum(len(config.folds) for config in configs))
    threads = max(1, ground.default_n_jobs() // n_jobs) if n_jobs > 1 else None
    # Processes get names of files and a plain dict: a cluster would copy whole arrays, and lose a
    # frame with the worker that keeps it.
    stored = {k: Path(a.filename) if _is_whole_file(a) else a for k, a in arrays.items()}
    table, options = windows.to_dict("list"), {"threads": threads, "data_parallel": data_parallel}
    work = delayed(train_fold)
    Parallel(n_jobs)(work(c, table, stored, folder, fold, **options) for c, folder, fold in tasks)
    trained = {folder for _, folder, _ in tasks}
    return [_finish(c, windows, f, threads, anew=f in trained) for c, f in planned]


def run_folder(config: TrainConfig, windows: pd.DataFrame, runs_dir: str | Path) -> Path:
    """Where a run lies: named after its config, its windows, and the versions of its inputs."""
    keys = {name: config.inputs[name].key for name in config.input_names}
    settings = {"config": to_dict(config), "store": store.VERSION, "inputs": keys}
    return runs.run_folder(config.name, settings, windows, runs_dir)


def _is_whole_file(array: np.ndarray) -> bool:
    """Whether `np.load` of its file gives this memory-mapped array again, and not a part of it."""
    mapped = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)
    return mapped and str(array.filename).endswith(".npy")


def train_fold(
    config: TrainConfig, windows: pd.DataFrame | dict, arrays: Mapping[str, np.ndarray | Path],
    run_dir: str | Path, fold: int, *, threads: int | None = None, data_parallel: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FoldFolder:  # fmt: skip
    """Train one fold into `run_dir`, unless it is done. ValueError: no window of the other folds
    has enough votes; RuntimeError: another process trains it; OSError: no room for its weights.
    With `refine_votes` that is done in `run_dir/first`; a second stage goes on from its best epoch,
    for a third of the epochs at a tenth of the learning rate. `callbacks` see the held-out KL of an
    epoch as `logs["val_kl"]`."""
    if threads and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    windows, start = pd.DataFrame(windows), None
    arrays = {k: np.load(a, mmap_mode="r") if isinstance(a, Path) else a for k, a in arrays.items()}
    folder, first = FoldFolder(run_dir, fold), FoldFolder(Path(run_dir) / "first", fold)
    options = {"runs_dir": Path(run_dir).parent, "callbacks": callbacks}
    scope = keras.distribution.DataParallel().scope() if data_parallel else nullcontext()
    who = f"training {Path(run_dir).name}, fold {fold}"
    with ground.locked(folder.folder, who, wait=False), scope:
        if folder.done:  # by another process, meanwhile
            return folder
        if config.refine_votes:
            ground.remove_parts(first.folder)
            if not first.done:
                _train_stage(replace(config, refine_votes=0), windows, arrays, first, **options)
            start = first.weights
            shorter = {"epochs": max(1, config.epochs // 3), "min_votes": config.refine_votes}
            config = replace(config, **shorter, learning_rate=0.1 * config.learning_rate)
        _train_stage(config, windows, arrays, folder, start=start, **options)
    return folder


def _train_stage(
    config: TrainConfig, windows, arrays, folder: FoldFolder, runs_dir, callbacks, start=None
) -> None:
    """Train into `folder`, from the weights in `start` or from what the config says."""
    folder.folder.mkdir(parents=True, exist_ok=True)
    distribution = keras.distribution.distribution()
    keras.utils.clear_session()
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    arrays = {name: arrays[name] for name in config.input_names}
    others = windows["fold"].to_numpy() != folder.fold
    held_out = np.flatnonzero(~others & windows.get("is_representative", pd.Series(~others)))
    devices = distribution.device_mesh.devices.size if distribution else 1
    rows = np.resize(held_out, -(-len(held_out) // devices) * devices)  # each gets as many
    batches = Batches(arrays, records.targets(windows), rows, config.inputs, batch_size=64)
    progress = _Progress(config, windows.iloc[held_out], batches, folder)
    if not folder.can_go_on(len(progress.rows), progress.finished):
        progress.rows = []
    batches = _batches(config, windows, arrays, others, len(progress.rows))
    model = _initial_model(config, runs_dir, folder.fold, batches, start)
    _compile(model, config, len(batches))
    callbacks = [progress, keras.callbacks.TerminateOnNaN(), *callbacks]
    if find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(folder.folder / "logs"))
    if not progress.finished:
        if progress.rows:  # weights and optimizer as they were after the last complete epoch
            state = folder.state(len(progress.rows) - 1)
            with ground.reading(state, "damaged", "delete its folder to train this fold anew"):
                model.load_weights(state)
        # `batches` shuffles: fit's own order would forget a resumption.
        epochs = {"epochs": config.epochs, "initial_epoch": len(progress.rows)}
        model.fit(batches, **epochs, callbacks=callbacks, shuffle=False, verbose=0)
    folder.finish(progress.best)


def _batches(config: TrainConfig, windows, arrays, others: np.ndarray, epoch: int) -> Batches:
    """What a fold is trained on, from `epoch` on: windows of the other folds with enough votes."""
    rows = np.flatnonzero(others & (windows["n_votes"].to_numpy() >= config.min_votes))
    if not len(rows):
        problem = f"none of {others.sum()} windows has {config.min_votes} votes or more"
        raise ValueError(f"train_fold: {problem}; set refine_votes and min_votes lower")
    group = windows["label_group"].to_numpy() if "label_group" in windows else None
    return Batches(
        arrays, records.targets(windows), rows, config.inputs, label_group=group, shuffle=True,
        batch_size=config.batch_size, augmentation=config.augmentation, seed=config.seed,
        epoch=epoch,
    )  # fmt: skip


def _initial_model(config, runs_dir: Path, fold: int, batches: Batches, start) -> keras.Model:
    if start:
        model = models.build_model(config)
        load_weights(model, start)
        return model
    if config.init_from == RELEASED:
        found = runs.released_runs(config.name) or [runs.released_run(t) for t in config.towers]
        starts = [load_model(run, run.folds[0]) for run in found]
    else:
        starts = [load_model(runs_dir / name, fold) for name in config.init_from]
    model = models.build_model(config, None if starts else config.weights)
    if starts and starts[0][1].towers == config.towers:  # the same network, trained before
        model.set_weights(starts[0][0].get_weights())
    elif starts:
        singles = [single for single, _ in starts]
        models.warm_start(model, singles, _start_weights(starts, batches))
    return model


def _start_weights(starts: Sequence[tuple], batches: Batches) -> list[float]:
    """Of the singles in a concatenation's start: as in their best blend on 256 training windows, so
    that a weak one does not weigh down a strong one."""
    some = [batches[i] for i in range(min(len(batches), -(-256 // batches.batch_size)))]
    predictions = []
    for model, config in starts:
        parts = (model({k: x[k] for k in config.input_names}, training=False) for x, _ in some)
        predictions.append(np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]))
    target = np.concatenate([target for _, target in some])
    return evaluation.blend_weights(target, np.stack(predictions)).tolist()


def _compile(model: keras.Model, config: TrainConfig, steps_per_epoch: int) -> None:
    if config.freeze_towers:
        models.freeze_towers(model)
    if config.freeze_batch_norm:
        models.freeze_batch_norm(model)
    average = {"use_ema": True, "ema_momentum": config.ema_momentum} if config.ema_momentum else {}
    rate = learning_rate(config, steps_per_epoch)
    optimizer = keras.optimizers.AdamW(rate, config.weight_decay, clipnorm=1.0, **average)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer, "kl_divergence", jit_compile=use_xla())
    # Built here, not inside the first step: that would trace the graph twice.
    model.optimizer.build(model.trainable_variables)


def learning_rate(config: TrainConfig, steps_per_epoch: int) -> schedules.LearningRateSchedule:
    """Linear warm-up, then half a cosine down to 0."""
    total = config.epochs * steps_per_epoch
    warmup = max(1, round(config.warmup_fraction * total))
    warm_up = {"warmup_target": config.learning_rate, "warmup_steps": warmup}
    return schedules.CosineDecay(0.0, max(1, total - warmup), **warm_up)


class _Progress(keras.callbacks.Callback):
    def __init__(self, config, held_out: pd.DataFrame, batches: Batches, folder: FoldFolder):
        super().__init__()
        self.config, self.held_out, self.batches, self.folder = config, held_out, batches, folder
        self.rows = folder.history().to_dict("records")

    @property
    def best(self) -> dict:
        return min(self.rows, key=lambda row: row["val_kl"])

    @property
    def finished(self) -> bool:
        """All epochs done, or none of the last `patience` was better."""
        waited = len(self.rows) - 1 - self.best["epoch"] if self.rows else 0
        return len(self.rows) >= self.config.epochs or waited >= self.config.patience

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()
        for i, layer in enumerate(self.model._flatten_layers()):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:  # the same dropout whether or not the run was interrupted
                generator.state.assign([self.config.seed * 10_007 + i, epoch * 2**16])

    def on_train_begin(self, logs=None):
        self._require_room(3)  # what two epochs keep, the old files and the new ones

    def _require_room(self, share: float) -> None:
        """For so many times the weights and the optimizer: on a full disk HDF5 ends the process."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        n_bytes = share * sum(4 * int(np.prod(v.shape)) for v in variables) + 4e6
        ground.require_room(self.folder.folder, n_bytes, f"training {self.config.name}")

    def on_epoch_end(self, epoch, logs=None):
        self._require_room(1.5)
        ground.write_atomically(self.folder.state(epoch), self.model.save_weights)
        averaged = self.config.ema_momentum > 0
        swap = keras.callbacks.SwapEMAWeights() if averaged else keras.callbacks.Callback()
        swap.set_model(self.model)
        swap.on_test_begin()
        self._evaluate(epoch, logs)
        swap.on_test_end()
        self.folder.state(epoch - 1).unlink(missing_ok=True)
        self.model.stop_training = self.finished

    def _evaluate(self, epoch: int, logs: dict[str, float]) -> None:
        """Predict the held-out rows, keep what is best, write the epoch into the history."""
        prediction = np.asarray(self.model.predict(self.batches, verbose=0), np.float64)
        prediction = prediction[: len(self.held_out)]
        if not np.isfinite(prediction).all():
            problem = f"training {self.config.name}: predictions are NaN after epoch {epoch + 1}"
            raise FloatingPointError(f"{problem}; lower learning_rate")
        counted = self.held_out["n_votes"].to_numpy() >= self.config.min_votes
        counted = counted if counted.any() else ~counted
        both = records.targets(self.held_out)[counted], prediction[counted]
        kl, accuracy = evaluation.kl_divergence(*both), evaluation.accuracy(*both)
        seconds = round(time.perf_counter() - self.began, 1)
        scores = {"loss": logs["loss"], "val_kl": kl, "val_accuracy": accuracy, "seconds": seconds}
        self.rows.append({"fold": self.folder.fold, "epoch": epoch, **scores})
        logs |= {"val_kl": kl, "val_accuracy": accuracy}
        if self.best is self.rows[-1]:
            bare = keras.Model(self.model.inputs, self.model.outputs)  # without the optimizer
            keep = ["eeg_id", "label_id", "patient_id", "n_votes", "fold", *TARGET_COLUMNS]
            oof = evaluation.with_prediction(self.held_out[keep], prediction)
            self.folder.write_best(bare.save_weights, oof)
        self.folder.write_history(self.rows)
        where = f"{self.config.name} fold {self.folder.fold} epoch {epoch + 1}/{self.config.epochs}"
        shown = f"loss {logs['loss']:.3f}, held-out KL {kl:.3f}, accuracy {accuracy:.3f}"
        print(f"{where}: {shown}, {seconds:.0f} s", flush=True)


def _finish(config: TrainConfig, windows: pd.DataFrame, folder: Path, threads, anew: bool) -> Run:
    if not anew:  # what it says of its training stays as it is
        with suppress(FileNotFoundError, ValueError):
            return Run(folder)
    folds = [FoldFolder(folder, fold) for fold in config.folds]
    oof = pd.concat([fold.oof() for fold in folds], ignore_index=True)
    history = pd.concat([fold.history() for fold in folds], ignore_index=True)
    target, prediction = records.targets(oof), oof[list(PREDICTION_COLUMNS)].to_numpy()
    prior = {k: records.targets(windows[windows["fold"] != k]).mean(axis=0) for k in config.folds}
    found = packages_distributions()  # TensorFlow may have come as tensorflow-cpu
    packages = [found[n][0] for n in "keras keras_cv tensorflow numpy scipy".split() if n in found]
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    data_id = windows["data_id"].iloc[0] if "data_id" in windows else None
    data = {"fingerprint": runs.windows_fingerprint(windows), "windows": len(windows)}
    description = {
        "name": config.name, "config": to_dict(config), "seed": config.seed,
        "data": data | {"data_id": data_id},
        "prior_mean": {fold: mean.round(6).tolist() for fold, mean in prior.items()},
        "temperature": evaluation.fit_temperature(target, prediction),
        "metrics": json.loads(evaluation.score(oof).to_json(orient="index")),
        "minutes": round(history["seconds"].sum() / 60, 2), "versions": versions,
        "threads": threads, "git": _revision(),
        "command": os.environ.get("JPY_SESSION_NAME") or shlex.join(sys.argv),
    }  # fmt: skip
    return runs.write_run(folder, description, oof, history)


def _revision() -> str | None:
    """The git revision of this package's checkout, with + where files differ; None: no checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or not which("git"):
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip() or None


def rerun(run: Run, competition: Competition) -> tuple[float, float]:
    """Repeat a run in a temporary folder: its KL, and the largest difference of a prediction, which
    is 0.0 on a like machine with the same versions. ValueError: it learned from other windows."""
    config, windows = from_dict(run.config), None
    if run.data.get("data_id") == records.data_id(competition):
        windows, arrays = prepare(competition, config)
    if windows is None or runs.windows_fingerprint(windows) != run.data["fingerprint"]:
        problem = f"{run.folder} learned from other windows than {competition.root} holds"
        raise ValueError(f"rerun: {problem}; name the folder of its competition with --data")
    threads, oofs = run.description.get("threads"), []
    with tempfile.TemporaryDirectory() as folder:
        for name in config.init_from if config.init_from != RELEASED else ():
            Path(folder, name).symlink_to(Run(run.folder.parent / name).folder.absolute())
        for fold in config.folds:
            again = Path(folder, run.folder.name)
            oofs.append(train_fold(config, windows, arrays, again, fold, threads=threads).oof())
    oof = pd.concat(oofs)
    first, second = (t.set_index("label_id")[list(PREDICTION_COLUMNS)] for t in (run.oof(), oof))
    if set(first.index) != set(second.index):
        problem = f"{run.folder} holds other predictions than those of its windows"
        raise ValueError(f"rerun: {problem}; copy the run again")
    kl = evaluation.kl_divergence(records.targets(oof), second)
    return kl, float((first - second).abs().max(axis=None))
