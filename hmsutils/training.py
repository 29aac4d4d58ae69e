"""Train runs. A run is a folder that holds everything needed to judge and to use it:

    run.json       config, seed, versions, data fingerprint, temperature, metrics, minutes
    fold0/         best.weights.h5, history.csv, oof.parquet, logs/ (TensorBoard); one per fold
    first/fold0/   the same of the first stage, where there are two
    history.csv    all folds
    oof.parquet    held-out rows: eeg_id, label_id, patient_id, n_votes, fold, targets, predictions

A fold that is killed goes on after its last complete epoch and ends with the same numbers.
"""

import hashlib
import json
import mmap
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import get_type_hints

import keras
import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from hmsutils.augment import NO_AUGMENTATION, AugmentConfig
from hmsutils.batches import Batches, Stream
from hmsutils.evaluation import (
    accuracy,
    blend_weights,
    kl_divergence,
    score,
    temperature,
    with_prediction,
)
from hmsutils.files import (
    PREDICTION_COLUMNS,
    TARGET_COLUMNS,
    WINDOW_SAMPLES,
    Competition,
    attached,
    project_dir,
)
from hmsutils.models import (
    BACKBONES,
    WAVENET,
    WaveNetConfig,
    adopt,
    build_backbone,
    build_concat,
    build_wavenet,
    freeze_batch_norm,
    freeze_towers,
)
from hmsutils.records import targets
from hmsutils.signals import WaveNetInputConfig
from hmsutils.spectrograms import ImageConfig


@dataclass(frozen=True)
class TrainConfig:
    """One run: what is trained, on what, and how."""

    towers: tuple[str, ...] = ()  # keys of BACKBONES, "wavenet", or backbones and "wavenet" last
    weights: str | None = (
        "imagenet"  # or "released" (batch statistics stay as they are), or None: random
    )
    start_from: tuple[str, ...] = ()  # run folders of trained single models, see models.adopt
    freeze: bool = False  # train the head alone
    image: ImageConfig = ImageConfig()
    eeg: WaveNetInputConfig = WaveNetInputConfig()
    wavenet: WaveNetConfig = WaveNetConfig()
    augmentation: AugmentConfig = AugmentConfig()
    n_folds: int = 5  # groups of patients
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)  # those held out, one after the other
    epochs: int = 20
    patience: int = 5  # epochs without a better KL on the held-out fold
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.3
    stream: int = 0  # new simulated windows per epoch (batches.Stream) instead of the other folds'
    min_votes: int = 1  # train on windows with so many votes or more, and keep the epoch best there
    refine_votes: int = 0  # then a second stage, on windows with so many votes or more; 0: none
    ema: float = 0.0  # momentum of averaged weights, which are judged and kept; 0: the last ones
    precision: str = "float32"  # or "mixed_bfloat16", "mixed_float16"
    seed: int = 0

    @property
    def name(self) -> str:
        """For people: the towers."""
        return "+".join(self.towers)

    @property
    def params(self) -> int:
        """Parameters of the backbones."""
        return sum(BACKBONES[tower].params for tower in self.towers if tower in BACKBONES)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Which representations the model needs."""
        image = ("image",) if any(tower in BACKBONES for tower in self.towers) else ()
        return image + (("eeg",) if WAVENET in self.towers else ())


# What the notebooks run. "full" is for the competition's files and a GPU; "demo" fits two CPU
# cores, where only a start from released weights has learned something after two epochs, on windows
# changed as little as those that they learned from; "smoke" only proves that everything runs.
PROFILES = {
    "full": TrainConfig(epochs=15, refine_votes=10),
    "demo": TrainConfig(
        weights="released", image=ImageConfig(n_mels=16, frames=64),
        wavenet=WaveNetConfig(24, features=64), n_folds=3, folds=(0,), epochs=2, batch_size=16,
        learning_rate=1e-4, dropout=0.1,
        augmentation=AugmentConfig(drop_channel=0.02, time_mask=0.0, frequency_mask=0.0),
    ),
    "smoke": TrainConfig(
        weights=None, image=ImageConfig(n_mels=8, frames=32), wavenet=WaveNetConfig(8, features=16),
        n_folds=3, folds=(0,), epochs=1, batch_size=16,
    ),
}  # fmt: skip


def profile(
    competition: Competition, name: str | None = None, settings: Mapping = MappingProxyType({})
) -> TrainConfig:
    """The settings of a profile, some of them replaced.

    Args:
        name: a key of `PROFILES`; None: "demo" for a simulated competition, else "full".
        settings: of `TrainConfig` by name, nested ones too: {"image": {"frames": 128}}.

    Raises:
        ValueError: no such profile, or no such setting.
    """
    why = "it was asked for" if name else f"the competition is {competition.kind}"
    name = name or ("demo" if competition.kind == "simulated" else "full")
    if name not in PROFILES:
        raise ValueError(f"profile: {name!r} is unknown; choose from {', '.join(PROFILES)}")
    print(f"Profile: {name} ({why})", *(f"{k}={v}" for k, v in settings.items()))
    values = asdict(PROFILES[name])
    for key, value in settings.items():
        values[key] = values[key] | value if isinstance(value, Mapping) else value
    return from_dict(TrainConfig, values)


def single_config(config: TrainConfig, tower: str) -> TrainConfig:
    """One tower alone. A WaveNet without trained weights learns at five times the backbones' rate,
    which benchmarks/ablation_recipe.md shows to be worth it."""
    new = tower == WAVENET and config.weights != "released"
    rate = 5 * config.learning_rate if new else config.learning_rate
    return replace(config, towers=(tower,), learning_rate=rate)


def concat_config(config: TrainConfig, towers: Sequence[str], runs: Sequence[Path]) -> TrainConfig:
    """A concatenation: of trained single runs, in their folder, or of what is released.

    All of it is trained, at a tenth of the learning rate. With `weights="released"` it goes on from
    the released concatenation of these towers, if there is one; else the head alone is trained, on
    top of the single runs.
    """
    config, parts = replace(config, towers=tuple(towers)), tuple(run.name for run in runs)
    if config.weights != "released":
        return replace(
            config, start_from=parts, learning_rate=0.1 * config.learning_rate,
            epochs=max(1, config.epochs // 2),
        )  # fmt: skip
    if released_run(config.name).exists():
        return config
    return replace(config, start_from=parts, freeze=True, learning_rate=1e-3)


def jobs() -> int:
    """How many folds to train at once: one per GPU, else one per core (tracing uses only one)."""
    return 1 if _use_xla() else max(1, os.cpu_count() or 1)


def from_dict(cls, values: Mapping):
    """A (nested) config dataclass from its JSON."""

    def convert(hint, value):
        if is_dataclass(hint):
            return from_dict(hint, value)
        return _tuples(value)

    hints = get_type_hints(cls)
    unknown = set(values) - {f.name for f in fields(cls)}
    if unknown:
        raise ValueError(f"{cls.__name__}: unknown settings {', '.join(sorted(unknown))}")
    return cls(**{name: convert(hints[name], value) for name, value in values.items()})


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def build_model(config: TrainConfig) -> keras.Model:
    """The model of a config before training; only ImageNet weights are loaded here."""
    backbones = tuple(tower for tower in config.towers if tower != WAVENET)
    image_shape = config.image.shape
    eeg_shape = (WINDOW_SAMPLES // config.eeg.decimate, len(config.eeg.pairs))
    if not backbones:
        return build_wavenet(eeg_shape, config.wavenet, dropout=config.dropout)
    weights = "imagenet" if config.weights == "imagenet" else None
    options = {"weights": weights, "dropout": config.dropout}
    if WAVENET not in config.towers and len(backbones) == 1:
        return build_backbone(backbones[0], image_shape, **options)
    return build_concat(backbones, image_shape, eeg_shape, config.wavenet, **options)


def load_model(run_dir: str | Path, fold: int) -> tuple[keras.Model, TrainConfig]:
    """A trained model, rebuilt from its run's config and weights; no network, no pickle.

    Raises:
        FileNotFoundError: the run or the fold is not finished.
    """
    run_dir = Path(run_dir)
    weights = run_dir / f"fold{fold}" / "best.weights.h5"
    for path in (run_dir / "run.json", weights):
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: not found; train this run to its end first (models/README.md says how "
                f"released ones are made)"
            )
    config = from_dict(TrainConfig, json.loads((run_dir / "run.json").read_text())["config"])
    model = build_model(replace(config, weights=None))
    model.load_weights(weights)
    return model, config


def released_run(name: str) -> Path:
    """Folder of a released run, `models/released/<towers joined by +>`."""
    return project_dir() / "models" / "released" / name


def fingerprint(windows: pd.DataFrame) -> str:
    """12 hexadecimal digits that name the windows, their targets and their folds."""
    table = windows[["eeg_id", "eeg_offset_s", "fold", *TARGET_COLUMNS]].round(9)
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:12]


def run_folder(config: TrainConfig, windows: pd.DataFrame, runs_dir: str | Path) -> Path:
    """Where the run of a config on these windows lies; other settings, another folder."""
    text = json.dumps([asdict(config), fingerprint(windows)])
    return Path(runs_dir) / f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def train(
    configs: Sequence[TrainConfig],
    windows: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    *,
    runs_dir: str | Path | None = None,
    n_jobs: int = 1,
    data_parallel: bool = False,
) -> list[Path]:
    """Train every fold of every config; finished folds are kept, killed ones go on.

    On Kaggle, finished runs are taken over from the attached outputs of other notebooks.

    Args:
        configs: one run each. All must share the representations in `arrays`.
        windows: with targets and `fold`.
        arrays: {"image": …, "eeg": …} from `store.build`, rows as in `windows`.
        runs_dir: None: `models/runs` of the project.
        n_jobs: folds trained at once, each in a process with its share of the cores. A joblib
            backend of several machines (`joblib.parallel_config`) trains as many as it has room
            for; they must share the disk of `runs_dir` and of the arrays.
            Initial weights then depend on more than the seed: threads of a Dask worker draw from
            the same generator.
        data_parallel: split every batch over all GPUs (Keras' distribution API, JAX backend); the
            batch size must be a multiple of their number.

    Returns:
        The run folders, in the order of `configs`.

    Raises:
        ValueError: `data_parallel` with another backend than JAX.
    """
    if data_parallel and keras.backend.backend() != "jax":
        raise ValueError(
            f"train: data_parallel with the backend {keras.backend.backend()}, wanted jax; set "
            f"KERAS_BACKEND=jax before Keras is imported"
        )
    runs_dir = Path(runs_dir) if runs_dir is not None else project_dir() / "models" / "runs"
    folders = [run_folder(config, windows, runs_dir) for config in configs]
    _take_over(folders)
    tasks = [
        (config, folder, fold)
        for config, folder in zip(configs, folders, strict=True)
        for fold in config.folds
        if not (folder / f"fold{fold}" / "done.json").exists()
    ]
    # The longest first, so that none straggles at the end.
    tasks.sort(key=lambda task: task[0].params, reverse=True)
    n_jobs = min(n_jobs, sum(len(config.folds) for config in configs))
    threads = max(1, (os.cpu_count() or 1) // n_jobs) if n_jobs > 1 else None
    # What travels to a process are names of files and a plain dict: a cluster would copy whole
    # arrays, and lose a frame with the worker that keeps it.
    stored = {k: Path(a.filename) if _is_whole_file(a) else a for k, a in arrays.items()}
    table = windows.to_dict("list")
    Parallel(n_jobs)(
        delayed(_train_task)(config, table, stored, folder, fold, threads, data_parallel)
        for config, folder, fold in tasks
    )
    for config, folder in zip(configs, folders, strict=True):
        _finish(config, windows, folder)
    return folders


def _take_over(folders: Sequence[Path]) -> None:
    """Copy those of these runs that are mounted: a mount is read-only."""
    finished = {path.parent.name: path.parent for path in attached("run.json")}
    for folder in folders:
        if folder.name in finished and not folder.exists():
            shutil.copytree(finished[folder.name], folder)


def _is_whole_file(array: np.ndarray) -> bool:
    """Whether `np.load` of its file gives this memory-mapped array again, and not a part of it."""
    mapped = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)
    return mapped and str(array.filename).endswith(".npy")


def _train_task(
    config, table: dict, stored: dict, folder: Path, fold: int, threads, data_parallel: bool
) -> None:
    """`train_fold` with what can travel."""
    arrays = {k: np.load(a, mmap_mode="r") if isinstance(a, Path) else a for k, a in stored.items()}
    with keras.distribution.DataParallel().scope() if data_parallel else nullcontext():
        train_fold(config, pd.DataFrame(table), arrays, folder, fold, threads=threads)


def train_fold(
    config: TrainConfig,
    windows: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    run_dir: Path,
    fold: int,
    *,
    threads: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train one fold into `run_dir/fold<fold>`: KL on soft votes, AdamW, warm-up, cosine.

    With `refine_votes` that is done in `run_dir/first`; a second stage goes on from its best epoch,
    for a third of the epochs at a tenth of the learning rate. `callbacks` see the held-out KL of an
    epoch as `logs["val_kl"]`.

    Raises:
        ValueError: no window of the other folds has enough votes.
    """
    run_dir, folder = Path(run_dir), f"fold{fold}"
    if threads:
        _limit_threads(threads)
    where = {"fold": fold, "runs_dir": run_dir.parent, "callbacks": callbacks}
    if not config.refine_votes:
        return _train_stage(config, windows, arrays, run_dir / folder, **where)
    first = run_dir / "first" / folder
    if not (first / "done.json").exists():
        _train_stage(replace(config, refine_votes=0), windows, arrays, first, **where)
    second = replace(
        config, min_votes=config.refine_votes, epochs=max(1, config.epochs // 3),
        learning_rate=0.1 * config.learning_rate,
    )  # fmt: skip
    start = first / "best.weights.h5"
    return _train_stage(second, windows, arrays, run_dir / folder, start=start, **where)


def _train_stage(
    config: TrainConfig,
    windows: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    folder: Path,
    *,
    fold: int,
    runs_dir: Path,
    callbacks: Sequence[keras.callbacks.Callback],
    start: Path | None = None,
) -> None:
    """Train into `folder`, from the weights in `start` or from what the config says."""
    folder.mkdir(parents=True, exist_ok=True)
    distribution = keras.distribution.distribution()
    if _architecture(config) not in _ready:
        _ready.clear()
        keras.utils.clear_session()
        keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    others = windows["fold"].to_numpy() != fold
    held_out = ~others & windows.get("middle", pd.Series(True, windows.index)).to_numpy()
    arrays = {key: arrays[key] for key in config.inputs}
    progress = _Progress(config, windows[held_out], folder, fold)
    batches = _batches(config, windows, arrays, others, progress.epochs_done)
    judged = np.flatnonzero(held_out)
    devices = distribution.device_mesh.devices.size if distribution else 1
    judged = np.resize(judged, -(-len(judged) // devices) * devices)  # each gets as many
    progress.held_out = Batches(arrays, targets(windows), judged, batch_size=64)
    model = _compiled(config, runs_dir, fold, batches, start)
    progress.restore(model)
    try:
        if not progress.finished:
            model.fit(
                batches,
                epochs=config.epochs,
                initial_epoch=progress.epochs_done,
                callbacks=[
                    progress,
                    keras.callbacks.TerminateOnNaN(),
                    *_tensorboard(folder),
                    *callbacks,
                ],
                shuffle=False,  # `batches` shuffles; fit's own order would forget a resumption
                verbose=0,
            )
    finally:
        if isinstance(batches, Stream):
            batches.close()
    progress.finish()


def _batches(
    config: TrainConfig,
    windows: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    others: np.ndarray,
    epoch: int,
) -> Batches | Stream:
    """What a fold is trained on, from `epoch` on: windows of the other folds, or the stream."""
    options = {"batch_size": config.batch_size, "augmentation": config.augmentation}
    options |= {"seed": config.seed, "epoch": epoch}
    if config.stream:
        inputs = {key: getattr(config, key) for key in config.inputs}
        return Stream(inputs, config.stream // config.batch_size, **options)
    n_votes = windows["n_votes"].to_numpy()
    rows = np.flatnonzero(others & (n_votes >= config.min_votes))
    if not len(rows):
        raise ValueError(
            f"train_fold: none of {others.sum()} windows has {config.min_votes} votes or more; set "
            f"refine_votes to 0 and min_votes to 1, or pass more windows"
        )
    return Batches(
        arrays,
        targets(windows),
        rows,
        vote_run=windows["vote_run"].to_numpy() if "vote_run" in windows else None,
        shuffle=True,
        image_config=config.image,
        eeg_config=config.eeg,
        **options,
    )


def _limit_threads(threads: int) -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def _tensorboard(folder: Path) -> list[keras.callbacks.Callback]:
    return [keras.callbacks.TensorBoard(folder / "logs")] if find_spec("tensorboard") else []


# The last architecture of this process, traced, and the schedule of its optimizer.
_ready: dict[TrainConfig, tuple[keras.Model, "_WarmupCosine"]] = {}


def _architecture(config: TrainConfig) -> TrainConfig:
    """The part of a config that a traced graph depends on."""
    return replace(
        config, weights="released" if config.weights == "released" else None, start_from=(),
        augmentation=NO_AUGMENTATION, n_folds=0, folds=(), epochs=0, patience=0, learning_rate=0.0,
        warmup_share=0.0, stream=0, min_votes=0, refine_votes=0, seed=0,
    )  # fmt: skip


def _compiled(
    config: TrainConfig, runs_dir: Path, fold: int, batches: Batches | Stream, start: Path | None
) -> keras.Model:
    """The model of a config, ready to train.

    Tracing a graph takes longer than many an epoch, so folds and stages of one architecture share a
    model: it gets the weights of a new one, and its optimizer begins anew.
    """
    if start:
        model = build_model(replace(config, weights=None))
        model.load_weights(start)
    else:
        model = build_model(config)
        _warm_start(model, config, runs_dir, fold, batches)
    same = _architecture(config)
    if same in _ready:
        ready, schedule = _ready[same]
        ready.set_weights(model.get_weights())
        for variable in ready.optimizer.variables:
            if "scale" not in variable.name:  # of mixed_float16
                variable.assign(keras.ops.zeros_like(variable))
    else:
        freeze_towers(model, config.freeze)
        if config.weights == "released":
            freeze_batch_norm(model)
        optimizer, schedule = _optimizer(config)
        model.compile(optimizer, "kl_divergence", jit_compile=_use_xla())
        # Built here, not inside the first step: that would trace the graph twice.
        model.optimizer.build(model.trainable_variables)
        ready = model
        if keras.backend.backend() == "tensorflow":  # elsewhere a schedule is part of the graph
            _ready[same] = model, schedule
    schedule.begin(config, len(batches))
    return ready


def _warm_start(
    model: keras.Model, config: TrainConfig, runs_dir: Path, fold: int, batches: Batches | Stream
) -> None:
    """Load what a config starts from: released weights of all or of its towers, or runs."""
    starts = [load_model(runs_dir / name, fold) for name in config.start_from]
    if not starts and config.weights == "released":
        whole = released_run(config.name).exists()
        names = (config.name,) if whole else config.towers
        starts = [load_model(released_run(name), 0) for name in names]
    if starts and starts[0][1].towers == config.towers:  # the same network, trained before
        model.set_weights(starts[0][0].get_weights())
    elif starts:
        adopt(model, [single for single, _ in starts], _shares(starts, batches))


def _shares(
    starts: Sequence[tuple[keras.Model, TrainConfig]], batches: Batches | Stream
) -> list[float]:
    """Of single models in a concatenation's start: as in their best blend on 256 of the windows
    that it is going to learn from, so that a weak part does not weigh down a strong one."""
    some = [batches[i] for i in range(min(len(batches), -(-256 // batches.batch_size)))]
    predictions = []
    for model, config in starts:
        parts = (model({k: x[k] for k in config.inputs}, training=False) for x, _ in some)
        predictions.append(np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]))
    return blend_weights(np.concatenate([y for _, y in some]), np.stack(predictions)).tolist()


class _WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine down to 0; `begin` changes it without tracing anew."""

    def __init__(self):
        self.numbers = keras.Variable([0.0, 1.0, 2.0], trainable=False)  # rate, warm-up, all steps

    def begin(self, config: TrainConfig, steps: int) -> None:
        total = config.epochs * steps
        warmup = max(1, round(config.warmup_share * total))
        self.numbers.assign([config.learning_rate, warmup, total])

    def __call__(self, step):
        rate, warmup, total = (self.numbers[i] for i in range(3))
        step = keras.ops.minimum(keras.ops.cast(step, "float32"), total)
        share = (step - warmup) / keras.ops.maximum(total - warmup, 1.0)
        cosine = 0.5 * (1.0 + keras.ops.cos(np.pi * share))
        return rate * keras.ops.where(step < warmup, step / warmup, cosine)

    def get_config(self) -> dict:
        return {}


def _optimizer(config: TrainConfig) -> tuple[keras.optimizers.Optimizer, _WarmupCosine]:
    """AdamW and its schedule."""
    schedule = _WarmupCosine()
    average = {"use_ema": True, "ema_momentum": config.ema} if config.ema else {}
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=config.weight_decay, clipnorm=1.0, **average
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer, schedule


def _use_xla() -> bool | str:
    """XLA is many times slower than plain graphs for these networks on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return "auto"
    import tensorflow as tf

    return "auto" if tf.config.list_physical_devices("GPU") else False


class _Progress(keras.callbacks.Callback):
    """Judges, keeps and resumes one fold. history.csv is the truth, written last in an epoch."""

    def __init__(self, config: TrainConfig, windows: pd.DataFrame, folder: Path, fold: int):
        super().__init__()
        self.config, self.windows, self.folder, self.fold = config, windows, folder, fold
        self.held_out: Batches | None = None
        path = folder / "history.csv"
        self.rows = pd.read_csv(path).to_dict("records") if path.exists() else []

    @property
    def epochs_done(self) -> int:
        return len(self.rows)

    @property
    def best(self) -> dict:
        return min(self.rows, key=lambda row: row["val_kl"])

    @property
    def finished(self) -> bool:
        """All epochs done, or none of the last `patience` was better."""
        waited = self.epochs_done - 1 - self.best["epoch"] if self.rows else 0
        return self.epochs_done >= self.config.epochs or waited >= self.config.patience

    def restore(self, model: keras.Model) -> None:
        """Load weights and optimizer as they were after the last complete epoch."""
        if self.rows and not self.finished:
            model.load_weights(self._state(self.epochs_done - 1))

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()
        for i, layer in enumerate(self.model._flatten_layers()):
            generator = getattr(layer, "seed_generator", None)
            if generator is not None:  # the same dropout whether or not the run was interrupted
                generator.state.assign([self.config.seed * 10_007 + i, epoch * 2**16])

    def on_epoch_end(self, epoch, logs=None):
        self._write(self._state(epoch), self.model.save_weights)
        if self.config.ema:
            average = keras.callbacks.SwapEMAWeights()
            average.set_model(self.model)
            average.on_test_begin()
        self._judge(epoch, logs)
        if self.config.ema:
            average.on_test_end()
        self._state(epoch - 1).unlink(missing_ok=True)
        self.model.stop_training = self.finished

    def _judge(self, epoch: int, logs: dict[str, float]) -> None:
        """Predict the held-out rows, keep what is best, write the epoch into history.csv."""
        prediction = np.asarray(self.model.predict(self.held_out, verbose=0), np.float64)
        prediction = prediction[: len(self.windows)]
        judged = self.windows["n_votes"].to_numpy() >= self.config.min_votes
        judged = judged if judged.any() else ~judged
        target = targets(self.windows)[judged]
        row = {
            "fold": self.fold,
            "epoch": epoch,
            "loss": logs["loss"],
            "val_kl": kl_divergence(target, prediction[judged]),
            "val_accuracy": accuracy(target, prediction[judged]),
            "seconds": round(time.perf_counter() - self.began, 1),
        }
        self.rows.append(row)
        logs |= {"val_kl": row["val_kl"], "val_accuracy": row["val_accuracy"]}
        if self.best is row:
            bare = keras.Model(self.model.inputs, self.model.outputs)  # without the optimizer
            self._write(self.folder / "best.weights.h5", bare.save_weights)
            keep = ["eeg_id", "label_id", "patient_id", "n_votes", "fold", *TARGET_COLUMNS]
            oof = with_prediction(self.windows[keep], prediction)
            self._write(self.folder / "oof.parquet", oof.to_parquet)
        history = pd.DataFrame(self.rows)
        self._write(self.folder / "history.csv", lambda path: history.to_csv(path, index=False))
        print(
            f"{self.config.name} fold {self.fold} epoch {epoch + 1}/{self.config.epochs}: "
            f"loss {row['loss']:.3f}, held-out KL {row['val_kl']:.3f}, "
            f"accuracy {row['val_accuracy']:.3f}, {row['seconds']:.0f} s",
            flush=True,
        )

    def finish(self) -> None:
        """Mark the fold as done and drop what only a resumption needs."""
        minutes = sum(row["seconds"] for row in self.rows) / 60
        (self.folder / "done.json").write_text(json.dumps({"minutes": minutes, **self.best}))
        self._state(self.epochs_done - 1).unlink(missing_ok=True)

    def _state(self, epoch: int) -> Path:
        return self.folder / f"state{epoch:03d}.weights.h5"

    def _write(self, path: Path, write) -> None:
        """All or nothing: a kill leaves the old file or the new one."""
        part = path.with_name(f"part.{path.name}")
        write(part)
        os.replace(part, path)


def _finish(config: TrainConfig, windows: pd.DataFrame, folder: Path) -> None:
    """Gather the folds into history.csv, oof.parquet and run.json."""
    folds = [folder / f"fold{fold}" for fold in config.folds]
    oof = pd.concat([pd.read_parquet(fold / "oof.parquet") for fold in folds], ignore_index=True)
    oof.to_parquet(folder / "oof.parquet", index=False)
    history = pd.concat([pd.read_csv(fold / "history.csv") for fold in folds], ignore_index=True)
    history.to_csv(folder / "history.csv", index=False)
    done = [json.loads((fold / "done.json").read_text()) for fold in folds]
    others = {fold: targets(windows[windows["fold"] != fold]).mean(axis=0) for fold in config.folds}
    found = packages_distributions()  # TensorFlow may have come as tensorflow-cpu
    packages = [found[n][0] for n in "keras keras_cv tensorflow numpy scipy".split() if n in found]
    description = {
        "name": config.name,
        "config": asdict(config),
        "seed": config.seed,
        "data": {"fingerprint": fingerprint(windows), "windows": len(windows)},
        "prior_mean": {fold: mean.round(6).tolist() for fold, mean in others.items()},
        "temperature": temperature(targets(oof), oof[list(PREDICTION_COLUMNS)].to_numpy()),
        "metrics": json.loads(score(oof).to_json(orient="index")),
        "minutes": round(sum(fold["minutes"] for fold in done), 2),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in packages},
    }
    (folder / "run.json").write_text(json.dumps(description, indent=1))
