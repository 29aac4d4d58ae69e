"""Train the folds of runs: on every GPU, in sessions that end. One that is killed, or whose time is
up, goes on after its last complete epoch and ends with the same numbers."""

import json
import mmap
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import timeit
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import h5py
import keras
import numpy as np
import pandas as pd
from keras.optimizers import schedules

from hmsutils import competition as ground
from hmsutils import devices, evaluation, models, records, runs, store
from hmsutils.batches import Batches
from hmsutils.competition import PREDICTION_COLUMNS, TARGET_COLUMNS, Competition
from hmsutils.config import RELEASED, TrainConfig, of_run, to_dict
from hmsutils.runs import FoldFolder, Run

LONG_ON_CPU_H = 10  # what takes longer is begun on a CPU only if it is said so
Planned = Sequence[tuple[TrainConfig, Path]]  # configs, and the folders of their runs


def prepare(competition: Competition, config: TrainConfig) -> tuple[pd.DataFrame, dict]:
    """(windows with folds, {input name: representations as stored}), to train a config on."""
    windows = records.load_windows(competition, on_problem="exclude")
    rows = config.max_rows_per_label_group
    windows = records.label_groups(windows, rows) if rows > 1 else records.one_per_vote_run(windows)
    windows = records.assign_folds(windows, config.n_folds, config.seed)
    if any(r.context_channels for r in config.inputs.values()):
        windows["context_id"] = records.context_id(competition)
    return windows, store.build(competition, windows, config.inputs)


def load_model(run: str | Path | Run, fold: int) -> tuple[keras.Model, TrainConfig]:
    """A trained model, rebuilt from its run's config and weights; no network, no pickle.

    FileNotFoundError: the run is not finished, or has no such fold. ValueError: its config or its
    weights are none of this package's, with the file's name."""
    run = Run(run)
    config = of_run(run)
    try:
        model = models.build_model(config)
    except Exception as error:
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
    runs_dir: str | Path | None = None, n_jobs: int = 1, hours: float | None = None,
    since: float | None = None, allow_cpu: bool = False,
) -> list[Run]:  # fmt: skip
    """Train every fold of every config; those finished are kept, those begun go on, on Kaggle also
    those in the attached outputs of other notebooks. Returns the runs that have a finished fold.

    The first fold of every config comes first, the largest network before the others. A run is
    written as soon as one of its folds is done. What is left at the end is printed. A fold that
    fails is warned of, and the others are trained; where none ends, its error is raised.

    Args:
        windows, arrays: from `prepare`, with the representations that all configs share.
        runs_dir: None: `models/runs` of the project.
        n_jobs: folds trained at once, each in a process with a GPU of its own, else with its share
            of the cores. Machines of a joblib backend (`joblib.parallel_config`) must share the
            disk of `runs_dir` and of the arrays; threads of a Dask worker share a generator, so
            that weights start otherwise.
        hours: no epoch is begun that would not end so many hours after `since` (`time.time()`;
            None: now), by the last one so far on the same kind of device. None: no limit.
        allow_cpu: else, where a CPU alone would take more than `LONG_ON_CPU_H`: ValueError.
    """
    deadline = None if hours is None else 3600 * hours + (time.time() if since is None else since)
    runs_dir = Path(runs_dir or runs.default_dir())
    planned = [(config, run_folder(config, windows, runs_dir)) for config in configs]
    runs.take_over([folder for _, folder in planned])
    _tell_changes(planned, windows)
    _write_runs(planned, windows)  # of folds taken over: others may start from them
    n_folds = sum(len(config.folds) for config in configs)
    tasks, n_jobs = _in_order(planned), max(1, min(n_jobs, n_folds))
    if not allow_cpu:
        require_gpu(configs, windows, runs_dir)
    share = max(1, ground.default_n_jobs() // n_jobs)
    threads = share if n_jobs > 1 and not devices.gpus() else None
    if before := _left(planned, n_jobs, each=True):
        print(f"Training on {devices.describe(c.precision for c in configs)}: {before}", flush=True)
    # Processes get names of files and a plain dict: a cluster would copy whole arrays, and lose a
    # frame with the worker that keeps it.
    shared = {"windows": windows.to_dict("list"), "arrays": by_name(arrays), "threads": threads}
    shared |= {"deadline": deadline, "how": _how(threads), "left": partial(_left, planned, n_jobs)}
    ended, failed = [], []
    for some in _rounds(tasks):
        if failed or deadline is not None:  # what it starts from may not be there yet
            some = [task for task in some if _can_start(*task, planned)]
        calls = [{"config": c, "run_dir": f, "fold": k, **shared} for c, f, k in some]
        for fold, error in devices.spread(_try_fold, calls, n_jobs):
            failed += [(fold, error)] if error else []
            if fold.done:
                ended.append(fold)
                config = next(c for c, folder in planned if folder == fold.folder.parent)
                _write_run(config, fold.folder.parent, windows)
    if failed and not ended:
        raise failed[0][1]
    for fold, error in failed:
        warnings.warn(f"train: {fold.folder} failed: {error}", stacklevel=2)
    if (left := _left(planned, n_jobs, each=True)) and not failed:
        none = left == before
        then = "not one epoch fits: allow more" if none else "the same call goes on from here"
        print(f"Time is up; {then}: {left}", flush=True)
    return _write_runs(planned, windows)


def _all_stages(config: TrainConfig, folder: Path) -> list[tuple[TrainConfig, FoldFolder]]:
    return [stage for k in config.folds for stage in _stages(config, folder, k)]


def _epochs_left(config: TrainConfig, folder: Path) -> int:
    stages = _all_stages(config, folder)
    return sum(c.epochs - len(part.seconds()) for c, part in stages if not part.done)


def _in_order(planned: Planned) -> list[tuple[TrainConfig, Path, int]]:
    """(config, folder of the run, fold) of all that is not done: first folds first, in them what
    others start from, then the largest network, so that none ends last alone."""
    names = {folder.name for _, folder in planned}
    tasks = [(c, f, k) for c, f in planned for k in c.folds if not FoldFolder(f, k).done]
    starts_later = {folder: not names.isdisjoint(config.init_from) for config, folder in planned}
    return sorted(tasks, key=lambda t: (t[0].folds.index(t[2]), starts_later[t[1]], -t[0].params))


def _rounds(tasks: Sequence[tuple]) -> Iterator[list[tuple]]:
    """Tasks in their order, in parts in which none starts from another one."""
    part = []
    for config, folder, fold in tasks:
        if any(other.name in config.init_from and k == fold for _, other, k in part):
            yield part
            part = []
        part.append((config, folder, fold))
    yield part


def _can_start(config: TrainConfig, folder: Path, fold: int, planned: Planned) -> bool:
    """Whether those of these runs that it starts from are there; others must be."""
    names = {other.name for _, other in planned}.intersection(config.init_from)
    return all(FoldFolder(folder.parent / name, fold).weights.exists() for name in names)


def _left(planned: Planned, n_jobs: int, each: bool = False) -> str:
    """How long what is left of these runs takes, at the pace of their epochs so far, in words; also
    `each` model's epochs and folds. Nothing where all epochs are done."""
    left, hours, unknown = [], 0.0, []
    for config, folder in planned:
        if n := _epochs_left(config, folder):
            seconds = sum((part.seconds() for _, part in _all_stages(config, folder)), [])
            folds = ", ".join(str(k) for k in config.folds if not FoldFolder(folder, k).done)
            left.append(f"{config.name}, {n} epochs in fold {folds}")
            hours += n * np.mean(seconds) / n_jobs / 3600 if seconds else 0
            unknown += [] if seconds else [config.name]
    time_left = f"{hours:.1f} h" if hours > 1 else f"{np.ceil(60 * hours):.0f} min"
    known = f"about {time_left} left" if hours else ""
    known += f", without {', '.join(unknown)}" if hours and unknown else ""
    return "; ".join([*(left if each else ()), *([known] if known else [])])


def require_gpu(
    configs: Sequence[TrainConfig], windows: pd.DataFrame, runs_dir: str | Path | None = None
) -> None:
    """ValueError where what is left of these runs would take more than `LONG_ON_CPU_H` and there is
    no GPU. Few windows take less; else it is estimated: a training step takes about three times as
    long as a forward pass, which is timed for every network, without making its graph."""
    shown = windows.get("is_representative", pd.Series(True, windows.index)).sum()
    folders = [run_folder(c, windows, runs_dir or runs.default_dir()) for c in configs]
    passes = [shown * _epochs_left(c, folder) for c, folder in zip(configs, folders, strict=True)]
    if devices.gpus() or sum(passes) < 100_000:
        return
    hours = sum(3 * n * _forward_seconds(c) for n, c in zip(passes, configs, strict=True)) / 3600
    if hours > LONG_ON_CPU_H:
        remedy = "use a machine with a GPU, a shorter PROFILE, or set ALLOW_CPU = True (allow_cpu)"
        where = devices.describe(c.precision for c in configs)
        raise ValueError(f"train: about {hours:,.0f} h on {where}; {remedy}")


def _forward_seconds(config: TrainConfig, n: int = 32) -> float:
    """Seconds for one window, in a batch of `n`."""
    model = models.build_model(config)
    batch = {x.name: np.zeros((n, *x.shape[1:]), np.float32) for x in model.inputs}
    took = timeit.repeat(lambda: model(batch), number=1, repeat=2)  # the first call is slower
    keras.utils.clear_session()
    return min(took) / n


def _tell_changes(planned: Planned, windows: pd.DataFrame) -> None:
    """Print how runs that begin anew differ from the newest of the same name."""
    anew = [(config, folder) for config, folder in planned if not folder.exists()]
    found = [run for run in runs.mounted_runs() if run.folder.parent.name == "runs"] if anew else []
    for config, folder in anew:
        there = found + runs.find_runs(folder.parent)
        newest = runs.newest(run for run in there if run.name == config.name)
        if newest is None:
            continue
        now, then = _flat(to_dict(config)), _flat(newest.config)
        changes = [f"{k} {then.get(k)}, now {v}" for k, v in now.items() if then.get(k) != v]
        if newest.data.get("fingerprint") != runs.windows_fingerprint(windows):
            changes.append("other windows")
        changed = "; ".join(changes) or "other versions of its inputs"
        print(f"{config.name} begins anew. What differs from {newest.folder.name}: {changed}")


def _flat(values: Mapping) -> dict:
    """Settings as JSON has them but for the folds, parts of nested ones by a name with a dot."""
    values = json.loads(json.dumps({**values, "folds": None}))
    return pd.json_normalize(values).iloc[0].to_dict()


def run_folder(config: TrainConfig, windows: pd.DataFrame, runs_dir: str | Path) -> Path:
    """Named after its windows, the versions of its inputs, its config but for `folds`, and the
    released weights that it starts from."""
    keys = {name: config.inputs[name].key for name in config.input_names}
    values = {name: value for name, value in to_dict(config).items() if name != "folds"}
    settings = {"config": values, "store": store.VERSION, "inputs": keys}
    if config.init_from == RELEASED:
        with suppress(FileNotFoundError):  # it cannot start, and says so when it does
            starts = [run.weights(run.folds[0]).read_bytes() for run in _released(config)]
            settings["released"] = [zlib.crc32(weights) for weights in starts]
    return runs.run_folder(config.name, settings, windows, runs_dir)


def _released(config: TrainConfig) -> list[Run]:
    """The released run of these towers, else one of each. FileNotFoundError: there is none."""
    return runs.released_runs(config.name) or [runs.released_run(t) for t in config.towers]


def by_name(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | Path]:
    """Those of which `np.load` of a file gives the whole, as its name, for other processes."""

    def is_whole(a: np.ndarray) -> bool:  # a part of a memory-mapped array has another base
        return isinstance(a.base, mmap.mmap) and str(a.filename).endswith(".npy")

    return {k: Path(a.filename) if is_whole(a) else a for k, a in arrays.items()}


def train_fold(
    config: TrainConfig, windows: pd.DataFrame | dict, arrays: Mapping[str, np.ndarray | Path],
    run_dir: str | Path, fold: int, *, threads: int | None = None, deadline: float | None = None,
    how: Mapping | None = None, left: Callable[[], str] = str,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FoldFolder:  # fmt: skip
    """Train one fold into `run_dir`, unless it is done: to its last epoch, or as far as the epochs
    end before `deadline` (of `time.time()`). ValueError: no window of the other folds has enough
    votes; RuntimeError: another process trains it; OSError: no room for its weights. `how` is kept
    with it; what `left` says is printed with every epoch; `callbacks` see the held-out KL of an
    epoch as `logs["val_kl"]`."""
    if threads and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    windows = pd.DataFrame(windows)
    arrays = {k: np.load(a, mmap_mode="r") if isinstance(a, Path) else a for k, a in arrays.items()}
    folder, start, precision = FoldFolder(run_dir, fold), None, config.precision
    with ExitStack() as held:
        who = f"training {Path(run_dir).name}, fold {fold}"
        held.enter_context(ground.locked(folder.folder, who, wait=False))
        held.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        options = {"runs_dir": Path(run_dir).parent, "callbacks": callbacks}
        options |= {"deadline": deadline, "how": how or {}, "left": left}
        for stage, part in _stages(config, run_dir, fold) if not folder.done else ():
            ground.remove_parts(part.folder)
            stage = replace(stage, precision=precision)  # the same in both
            if not part.done:
                _train_stage(stage, windows, arrays, part, start, **options)
            if not part.done:  # time is up
                break
            start, precision = part.weights, part.done["precision"]
        for _, part in _stages(config, run_dir, fold)[:-1] if folder.done else ():
            part.weights.unlink(missing_ok=True)  # which nothing needs any more
    return folder


def _try_fold(**call) -> tuple[FoldFolder, Exception | None]:
    """A fold, and what stopped it: others are trained all the same."""
    try:
        return train_fold(**call), None
    except Exception as error:  # whatever training may end with
        return FoldFolder(call["run_dir"], call["fold"]), error


def _stages(config: TrainConfig, run_dir: str | Path, fold: int) -> list:
    """(config, folder) of each stage of a fold. With `refine_votes` a second one goes on from the
    end of the first, for a third of the epochs at a tenth of the learning rate."""
    folder = FoldFolder(run_dir, fold)
    if not config.refine_votes:
        return [(config, folder)]
    shorter = {"epochs": max(1, config.epochs // 3), "min_votes": config.refine_votes}
    second = replace(config, **shorter, learning_rate=0.1 * config.learning_rate)
    return [
        (replace(config, refine_votes=0), FoldFolder(Path(run_dir) / "first", fold)),
        (second, folder),
    ]


def _train_stage(
    config: TrainConfig, windows, arrays, folder: FoldFolder, start, *, runs_dir, callbacks,
    **options,
) -> None:  # fmt: skip
    """Train into `folder`, from the weights in `start` or from what the config says."""
    folder.folder.mkdir(parents=True, exist_ok=True)
    keras.utils.clear_session()
    keras.utils.set_random_seed(config.seed)
    arrays = {name: arrays[name] for name in config.input_names}
    others = windows["fold"].to_numpy() != folder.fold
    held_out = np.flatnonzero(~others & windows.get("is_representative", pd.Series(~others)))
    batches = Batches(arrays, records.targets(windows), held_out, config.inputs, batch_size=64)
    progress = _Progress(config, windows.iloc[held_out], batches, folder, **options)
    keras.config.set_dtype_policy(progress.used["precision"])
    if not progress.finished and not progress.out_of_time:
        batches = _batches(config, windows, arrays, others, len(progress.rows))
        model = _initial_model(config, runs_dir, folder.fold, batches, start)
        _compile(model, config, len(batches))
        state = folder.state(len(progress.rows) - 1)
        try:  # weights and optimizer as they were after the last complete epoch
            model.load_weights(state) if progress.rows else None
        except Exception as error:  # whatever a damaged file may hold
            folder.begin_anew(f"{state.name} is damaged ({type(error).__name__})")
            options |= {"runs_dir": runs_dir, "callbacks": callbacks}
            return _train_stage(config, windows, arrays, folder, start, **options)
        fitted = [progress, keras.callbacks.TerminateOnNaN(), *callbacks]
        if find_spec("tensorboard") and find_spec("tensorflow"):  # it needs both
            fitted.append(keras.callbacks.TensorBoard(folder.folder / "logs"))
        # `batches` shuffles: fit's own order would forget a resumption.
        epochs = {"epochs": config.epochs, "initial_epoch": len(progress.rows)}
        model.fit(batches, **epochs, callbacks=fitted, shuffle=False, verbose=0)
    if progress.finished:
        folder.finish({**progress.how, **progress.used})


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
        starts = [load_model(run, run.folds[0]) for run in _released(config)]
    else:
        starts = [load_model(runs_dir / name, fold) for name in config.init_from]
    model = models.build_model(config, None if starts else config.weights)
    for _, begun in starts:
        _require_same_strides(begun, config)
    if starts and starts[0][1].towers == config.towers:  # the same network, trained before
        model.set_weights(starts[0][0].get_weights())
    elif starts:
        singles = [single for single, _ in starts]
        models.warm_start(model, singles, _start_weights(starts, batches))
    return model


def _require_same_strides(start: TrainConfig, config: TrainConfig) -> None:
    """ValueError where a backbone that has two kinds of them would change from one to the other."""
    either = [name for name, backbone in models.BACKBONES.items() if backbone.standard]
    if {*either} & {*start.towers} and start.standard_strides != config.standard_strides:
        problem = f"{config.name}: standard_strides is {config.standard_strides}"
        raise ValueError(f"{problem}, but it starts from a network with others; set it alike")


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
    model.compile(optimizer, "kl_divergence", jit_compile=devices.use_xla())
    # Built here, not inside the first step: that would trace the graph twice.
    model.optimizer.build(model.trainable_variables)


class LearningRate(schedules.LearningRateSchedule):
    """Linear warm-up to `peak` in so many steps, then half a cosine down to 0: Keras' CosineDecay
    without its branches, which AdamW would trace once more for every weight that decays."""

    def __init__(self, peak: float, warmup: int, decay: int):
        self.peak, self.warmup, self.decay = peak, warmup, decay

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        after = keras.ops.clip((step - self.warmup) / self.decay, 0, 1)
        falling = 0.5 * (1 + keras.ops.cos(np.float32(np.pi) * after))
        return self.peak * keras.ops.minimum(step / self.warmup, falling)

    def get_config(self) -> dict:
        return {"peak": self.peak, "warmup": self.warmup, "decay": self.decay}


def learning_rate(config: TrainConfig, steps_per_epoch: int) -> LearningRate:
    total = config.epochs * steps_per_epoch
    warmup = max(1, round(config.warmup_fraction * total))
    return LearningRate(config.learning_rate, warmup, max(1, total - warmup))


class _Progress(keras.callbacks.Callback):
    """Goes on with a fold's history; keeps what the last epoch gives, and stops in time."""

    def __init__(self, config, held_out, batches, folder: FoldFolder, *, deadline, how, left):
        super().__init__()
        self.config, self.held_out, self.batches, self.folder = config, held_out, batches, folder
        self.how, self.left = how, left
        self.rows, self.deadline = folder.epochs(config.epochs), deadline
        found, precision = devices.gpus(), config.precision
        device = found[0].name if found else "CPU"
        # Of the epochs by which the next one is estimated: the last, else those of other folds.
        others = runs.fold_folders(folder.folder.parent)
        before = [fold.seconds(device)[-1:] for fold in (folder, *others)]
        self.seconds = before[0] or sum(before, [])
        if precision == "auto":  # a fold that was begun goes on in the same
            precision = self.rows[-1]["precision"] if self.rows else devices.half_precision(found)
        self.used = {"device": device, "precision": precision}

    @property
    def finished(self) -> bool:
        return len(self.rows) >= self.config.epochs

    @property
    def out_of_time(self) -> bool:
        """Whether another epoch, as long as the longest of those, would end too late."""
        longest = max(self.seconds, default=0.0)
        return self.deadline is not None and time.time() + longest > self.deadline

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
        if not np.isfinite(logs["loss"]):
            problem = f"training {self.config.name}: the loss is NaN in epoch {epoch + 1}"
            raise FloatingPointError(f"{problem}; lower learning_rate, or take another precision")
        self._require_room(1.5)
        averaged = self.config.ema_momentum > 0
        swap = keras.callbacks.SwapEMAWeights() if averaged else keras.callbacks.Callback()
        swap.set_model(self.model)
        swap.on_test_begin()
        said = self._evaluate(epoch, logs)
        swap.on_test_end()
        if not self.finished:  # after the swaps, which change the last digits
            ground.write_atomically(self.folder.state(epoch), self.model.save_weights)
        self.folder.write_history(self.rows)
        self.folder.state(epoch - 1).unlink(missing_ok=True)
        print("; ".join(filter(None, [said, self.left()])), flush=True)
        self.model.stop_training = self.out_of_time

    def _evaluate(self, epoch: int, logs: dict[str, float]) -> str:
        """Predict the held-out rows, keep what the last epoch gives, and say how good it is."""
        prediction = np.asarray(self.model.predict(self.batches, verbose=0), np.float64)
        if not np.isfinite(prediction).all():
            problem = f"training {self.config.name}: predictions are NaN after epoch {epoch + 1}"
            raise FloatingPointError(f"{problem}; lower learning_rate")
        counted = self.held_out["n_votes"].to_numpy() >= self.config.min_votes
        counted = counted if counted.any() else ~counted
        both = records.targets(self.held_out)[counted], prediction[counted]
        kl, accuracy = evaluation.kl_divergence(*both), evaluation.accuracy(*both)
        self.seconds = [*self.seconds, round(time.perf_counter() - self.began, 1)]
        scores = {"loss": logs["loss"], "val_kl": kl, "val_accuracy": accuracy}
        row = {"fold": self.folder.fold, "epoch": epoch, **scores, "seconds": self.seconds[-1]}
        self.rows.append({**row, **self.used})
        logs |= {"val_kl": kl, "val_accuracy": accuracy}
        if self.finished:
            bare = keras.Model(self.model.inputs, self.model.outputs)  # without the optimizer
            keep = ["eeg_id", "label_id", "patient_id", "n_votes", "fold", *TARGET_COLUMNS]
            oof = evaluation.with_prediction(self.held_out[keep], prediction)
            self.folder.write_last(bare.save_weights, oof)
        where = f"{self.config.name} fold {self.folder.fold} epoch {epoch + 1}/{self.config.epochs}"
        shown = f"loss {logs['loss']:.3f}, held-out KL {kl:.3f}, accuracy {accuracy:.3f}"
        return f"{where}: {shown}, {self.seconds[-1]:.0f} s"


def _how(threads: int | None) -> dict:
    """What is kept with a fold that is trained now: versions, threads, revision, command."""
    found = packages_distributions()  # TensorFlow may have come as tensorflow-cpu
    packages = [found[n][0] for n in "keras keras_cv tensorflow numpy scipy".split() if n in found]
    versions = {"python": platform.python_version()} | {name: version(name) for name in packages}
    command = os.environ.get("JPY_SESSION_NAME") or shlex.join(sys.argv)
    how = {"versions": versions, "backend": keras.backend.backend(), "threads": threads}
    return how | {"git": _revision(), "command": command}


def _write_runs(planned: Planned, windows: pd.DataFrame) -> list[Run]:
    """Those of which a fold is done."""
    ended = [(c, f) for c, f in planned if any(fold.done for fold in runs.fold_folders(f))]
    return [_write_run(config, folder, windows) for config, folder in ended]


def _write_run(config: TrainConfig, folder: Path, windows: pd.DataFrame) -> Run:
    """The run of those folds that are done, written unless it stands there already."""
    folds = [fold for fold in runs.fold_folders(folder) if fold.done]
    trained = {str(fold.fold): fold.done for fold in folds}
    with suppress(FileNotFoundError, ValueError):
        if (run := Run(folder)).description.get("trained") == trained:
            for place in (folder, *(fold.folder for fold in folds)):
                with ground.locked(place, f"reading {folder.name}", keep=place != folder):
                    pass  # it removes what killed processes left
            return run
    oof = pd.concat([fold.oof() for fold in folds], ignore_index=True)
    history = pd.concat([fold.history() for fold in folds], ignore_index=True)
    numbers = tuple(fold.fold for fold in folds)
    prior = {k: records.targets(windows[windows["fold"] != k]).mean(axis=0) for k in numbers}
    data_id = windows["data_id"].iloc[0] if "data_id" in windows else None
    data = {"fingerprint": runs.windows_fingerprint(windows), "windows": len(windows)}
    kl = history.groupby("fold")["val_kl"]
    description = {
        "name": config.name, "config": to_dict(replace(config, folds=numbers)),
        "seed": config.seed, "data": data | {"data_id": data_id},
        "prior_mean": {fold: mean.round(6).tolist() for fold, mean in prior.items()},
        **evaluation.temperatures(oof),
        "metrics": json.loads(evaluation.score(oof).to_json(orient="index")),
        # What choosing the best epoch by these very patients would seem to gain.
        "optimism": float((kl.last() - kl.min()).mean()),
        "minutes": round(history["seconds"].sum() / 60, 2), "trained": trained,
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
    config, windows = of_run(run), None
    if run.data.get("data_id") == records.data_id(competition):
        windows, arrays = prepare(competition, config)
    if windows is None or runs.windows_fingerprint(windows) != run.data["fingerprint"]:
        problem = f"{run.folder} learned from other windows than {competition.root} holds"
        raise ValueError(f"rerun: {problem}; name the folder of its competition with --data")
    trained, oofs = run.description.get("trained", {}), []
    with tempfile.TemporaryDirectory() as folder:
        for name in config.init_from if config.init_from != RELEASED else ():
            Path(folder, name).symlink_to(Run(run.folder.parent / name).folder.absolute())
        for fold in config.folds:
            how, again = trained.get(str(fold), run.description), Path(folder, run.folder.name)
            same = replace(config, precision=how.get("precision", config.precision))
            threads = how.get("threads")
            oofs.append(train_fold(same, windows, arrays, again, fold, threads=threads).oof())
    oof = pd.concat(oofs)
    first, second = (t.set_index("label_id")[list(PREDICTION_COLUMNS)] for t in (run.oof(), oof))
    kl = evaluation.kl_divergence(records.targets(oof), second)
    return kl, float((first - second).abs().max(axis=None, skipna=False))
