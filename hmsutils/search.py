"""Search for hyper-parameters: trials of one SQLite study, shared by processes, resumed at will."""

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from hmsutils.competition import locked, require_room
from hmsutils.config import TrainConfig
from hmsutils.devices import spread
from hmsutils.training import by_name, train_fold

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
    filters = trial.suggest_categorical("wavenet_filters", (8, 16, 32))
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
    """The study in `folder/study.db`, made where absent; any number of processes may share it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    Path(folder).mkdir(parents=True, exist_ok=True)
    url, patient = f"sqlite:///{Path(folder).resolve() / 'study.db'}", {"timeout": 60}
    return optuna.create_study(
        study_name="hmsutils", load_if_exists=True, direction="minimize", sampler=_sampler([seed]),
        storage=optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": patient}),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )  # fmt: skip


def _sampler(seeds: list[int]) -> optuna.samplers.TPESampler:
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def search(
    base: TrainConfig, windows: pd.DataFrame, arrays: Mapping[str, np.ndarray], folder: str | Path,
    *, n_trials: int, n_jobs: int = 1,
) -> optuna.Study:  # fmt: skip
    """Minimise the last epoch's held-out KL of the first fold of `base`, which has everything that
    `suggest` does not propose; `windows` and `arrays` as in `training.train`.
    The study in `folder` is continued until it has `n_trials` finished or pruned trials. With one
    process (`n_jobs`) the same seed gives the same trials, killed or not: a trial whose process was
    killed fails when the next one begins, and is proposed again."""
    with locked(folder, "search"):
        require_room(Path(folder), 2e6, "search")  # SQLite says neither where nor what to do
        open_study(folder, base.seed)  # before several processes try to make it
    call = {"base": base, "windows": windows, "arrays": by_name(arrays), "folder": Path(folder)}
    list(spread(_work, [call | {"n_trials": n_trials, "n_jobs": n_jobs}] * n_jobs, n_jobs))
    return open_study(folder, base.seed)


def _work(base, windows, arrays, folder: Path, n_trials: int, n_jobs: int) -> None:
    study, threads = open_study(folder), 1 if n_jobs > 1 else None

    def count(*states: TrialState) -> int:
        return len(study.get_trials(deepcopy=False, states=states))

    while count(*ENDED) < n_trials:
        with ExitStack() as held:
            with locked(folder, "search"):
                _clean_up(study, folder)
                # Numbers of living trials, not of all: a killed one is proposed again.
                ended, running = count(*ENDED), count(TrialState.RUNNING)
                if ended + running >= n_trials:  # other processes end the last ones, or fail
                    held.callback(time.sleep, 1)
                    continue
                study.sampler = _sampler([base.seed, ended, running])
                trial = study.ask()
                run_dir = folder / f"trial{trial.number:04d}"
                held.enter_context(locked(run_dir, "search", wait=False))
            value, state = None, TrialState.FAIL
            try:
                history = train_fold(
                    suggest(trial, base), windows, arrays, run_dir, base.folds[0],
                    threads=threads, callbacks=[_Report(trial)],
                ).history()  # fmt: skip
                value, state = float(history["val_kl"].iloc[-1]), TrialState.COMPLETE
            except (optuna.TrialPruned, FloatingPointError):  # it fell behind, or diverged
                state = TrialState.PRUNED
            finally:
                with locked(folder, "search"):  # no other process cleans up meanwhile
                    study.tell(trial, value, state)
                    shutil.rmtree(run_dir, ignore_errors=True)


def _clean_up(study: optuna.Study, folder: Path) -> None:
    """Fail the trials, and remove the folders, whose processes do not live: they hold no lock."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    numbers = {folder / f"trial{trial.number:04d}": trial.number for trial in running}
    others = folder.glob("trial[0-9][0-9][0-9][0-9]")
    for path in {*numbers, *(p for p in others if p.is_dir() and not p.is_symlink())}:
        with suppress(RuntimeError), locked(path, "search", wait=False):
            if path in numbers:
                study.tell(numbers[path], state=TrialState.FAIL)
            shutil.rmtree(path)


def best_config(study: optuna.Study, base: TrainConfig) -> TrainConfig:
    """`base` with what the best trial proposed."""
    return suggest(optuna.trial.FixedTrial(study.best_params), base)
