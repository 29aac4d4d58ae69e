"""Search for hyper-parameters: trials of one SQLite study, shared by processes, resumed at will."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import optuna
import pandas as pd
from joblib import Parallel, delayed
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from hmsutils.config import TrainConfig
from hmsutils.training import train_fold

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def suggest(trial: optuna.Trial, base: TrainConfig) -> TrainConfig:
    """`base` with a trial's learning rate, regularisation, augmentation and WaveNet size."""
    augmentation = replace(
        base.augmentation,
        flip_hemispheres=trial.suggest_categorical("flip_hemispheres", (0.0, 0.5)),
        shift_s=trial.suggest_float("shift_s", 0.0, 2.0),
        gain_db=trial.suggest_float("gain_db", 0.0, 4.0),
        drop_channel=trial.suggest_float("drop_channel", 0.0, 0.2),
        time_mask=trial.suggest_float("time_mask", 0.0, 0.2),
        mixup=trial.suggest_float("mixup", 0.0, 0.4),
    )
    dilations = tuple(2**i for i in range(trial.suggest_int("wavenet_layers", 5, 9)))
    filters = trial.suggest_categorical("wavenet_filters", (8, 16, 24))
    return replace(
        base,
        learning_rate=trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 0.1, log=True),
        dropout=trial.suggest_float("dropout", 0.0, 0.5),
        augmentation=augmentation,
        wavenet=replace(base.wavenet, filters=filters, dilations=dilations),
    )


class _Report(keras.callbacks.Callback):
    """Reports the held-out KL of every epoch to the study, which may stop (prune) the trial."""

    def __init__(self, trial: optuna.Trial):
        super().__init__()
        self.trial = trial

    def on_epoch_end(self, epoch, logs=None):
        self.trial.report(logs["val_kl"], epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"epoch {epoch + 1}: KL {logs['val_kl']:.3f}")


def open_study(folder: str | Path, seed: int = 0) -> optuna.Study:
    """The study in `folder/study.db`, made where absent; any number of processes may share it. A
    trial whose process was killed stays unfinished and does not count."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    Path(folder).mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{Path(folder).resolve() / 'study.db'}",
        engine_kwargs={"connect_args": {"timeout": 60}},
    )
    return optuna.create_study(
        study_name="hmsutils",
        storage=storage,
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )


def search(
    base: TrainConfig,
    windows: pd.DataFrame,
    arrays: Mapping[str, np.ndarray],
    folder: str | Path,
    *,
    n_trials: int,
    n_jobs: int = 1,
) -> optuna.Study:
    """Minimise the held-out KL of the first fold of `base`.

    Args:
        base: everything that `suggest` does not propose.
        windows, arrays: as in `training.train`.
        folder: of the study and of its trials; an existing study is continued.
        n_trials: how many finished or pruned trials the study has at the end.
        n_jobs: processes; with one, the same seed gives the same trials.
    """
    open_study(folder, base.seed)  # before several processes try to make it
    Parallel(n_jobs)(
        delayed(_work)(base, windows, arrays, Path(folder), n_trials, worker, n_jobs)
        for worker in range(n_jobs)
    )
    return open_study(folder, base.seed)


def _work(base, windows, arrays, folder: Path, n_trials: int, worker: int, n_jobs: int) -> None:
    study = open_study(folder, base.seed + worker)

    def objective(trial: optuna.Trial) -> float:
        config, run_dir = suggest(trial, base), folder / f"trial{trial.number:04d}"
        try:
            history = train_fold(
                config, windows, arrays, run_dir, base.folds[0],
                threads=1 if n_jobs > 1 else None, callbacks=[_Report(trial)],
            ).history()  # fmt: skip
        finally:
            shutil.rmtree(run_dir, ignore_errors=True)
        return float(history["val_kl"].min())

    if len(study.get_trials(states=ENDED)) < n_trials:
        study.optimize(objective, callbacks=[MaxTrialsCallback(n_trials, states=ENDED)])


def best_config(study: optuna.Study, base: TrainConfig) -> TrainConfig:
    """`base` with what the best trial proposed."""
    return suggest(optuna.trial.FixedTrial(study.best_params), base)
