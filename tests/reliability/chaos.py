"""Kill everything that writes, at random and at chosen moments, until nothing is lost.

`make chaos` prints the table of docs/RELIABILITY.md. Five kinds of work are done by children of
this process: a simulation, a store, a training, a submission, a search. A child is killed with
SIGKILL, the next one goes on in the same folder, and what the last one leaves must equal what an
undisturbed run leaves. Chosen moments lie around a rename (before it, before it with half of the
file written, after it) and between data and what marks them as complete. Also tried: two
processes at once, one of which is killed; a full disk; a folder that cannot be written.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import optuna
import pandas as pd
from disks import can_mount, small_disk

from hmsutils import competition as ground
from hmsutils import inference, records, runs, search, store, training
from hmsutils.competition import Competition
from hmsutils.config import TrainConfig
from hmsutils.models import WaveNetConfig
from hmsutils.representations import Image, WaveNetInput
from hmsutils.simulate import simulate_competition, tables

INPUTS = {"image": Image(n_mels=8, n_frames=32), "eeg": WaveNetInput()}
CONFIG = TrainConfig(
    towers=("wavenet",), inputs=INPUTS, wavenet=WaveNetConfig(8, dilations=(1, 4), features=8),
    n_folds=2, folds=(0,), epochs=2, batch_size=2, weights=None,
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What a child does in a folder, what it leaves there, and between what it is killed."""

    do: Callable[[Path], object]
    result: Callable[[Path], object]
    moments: tuple[tuple[object, str], ...]  # functions, after which the child is killed
    may_refuse: bool = False  # a second process at the same time
    of_two: Callable = lambda result: result  # what is the same where two were at work


# ------------------------------------------------------------------------------ the five kinds


def files(folder: Path, *but: str) -> dict[str, str]:
    """The SHA-256 of every file below a folder, hidden ones as well."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in but for part in path.relative_to(folder).parts)
    }


def do_simulate(folder: Path) -> None:
    simulate_competition(folder / "competition", 1, seed=5, n_jobs=1)


def simulated(base: Path) -> Competition:
    return Competition(base / "competition", "simulated")


def windows_of(base: Path) -> pd.DataFrame:
    """A few windows in two folds."""
    windows = records.load_windows(simulated(base)).iloc[:8]
    return windows.assign(fold=np.arange(len(windows)) % 2)


def do_store(base: Path, folder: Path) -> None:
    store._EEGS_PER_TASK = 1
    windows = records.load_windows(simulated(base))
    store.build(simulated(base), windows, INPUTS, out_dir=folder / "store", n_jobs=1)


def arrays_of(base: Path) -> dict:
    return store.build(simulated(base), windows_of(base), INPUTS, out_dir=base / "arrays", n_jobs=1)


def eagerly() -> None:
    """Tracing graphs would take most of the time; and what epochs print is of no use here."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    training.find_spec = lambda name: None  # no TensorBoard: its files hold times


def do_training(base: Path, folder: Path) -> None:
    eagerly()
    training.train([CONFIG], windows_of(base), arrays_of(base), runs_dir=folder / "runs")


def training_result(folder: Path) -> dict:
    """All but times; weights by their values, because HDF5 files hold times as well."""
    (run,) = runs.find_runs(folder / "runs")
    weights = [training.load_model(run, fold)[0].get_weights() for fold in run.folds]
    description = {k: v for k, v in run.description.items() if k != "minutes"}
    histories = [run.history(), *(runs.FoldFolder(run, k).history() for k in run.folds)]
    return {
        "names": sorted(files(folder)),
        "weights": hashlib.sha256(b"".join(w.tobytes() for f in weights for w in f)).hexdigest(),
        "run": description,
        "history": [table.drop(columns="seconds").to_csv() for table in histories],
        "oof": [run.oof().to_csv(), *(runs.FoldFolder(run, k).oof().to_csv() for k in run.folds)],
    }


def do_submission(base: Path, folder: Path) -> None:
    """As notebook 4: a valid file first, then the model's."""
    eagerly()
    (run,) = runs.find_runs(base / "runs")
    path = folder / "submission.csv"
    if path.exists():  # whatever was killed, the file is whole
        ids = pd.read_csv(simulated(base).root / "sample_submission.csv")["eeg_id"]
        inference.check_submission(pd.read_csv(path), ids)
    ground.write_csv(path, inference.prior_submission([run], simulated(base)))
    models = inference.load_models([run])
    ground.write_csv(path, inference.make_submission(models, simulated(base)))


def suggest(trial: optuna.Trial, base: TrainConfig) -> TrainConfig:
    """Less than `search.suggest`, whose networks take longer."""
    return replace(base, learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2))


def do_search(base: Path, folder: Path) -> None:
    eagerly()
    search.suggest, config = suggest, replace(CONFIG, epochs=1)
    search.search(config, windows_of(base), arrays_of(base), folder / "study", n_trials=3)


def search_result(folder: Path) -> dict:
    trials = search.open_study(folder / "study").get_trials(deepcopy=False)
    states = {trial.state.name for trial in trials}
    ended = [(t.params, t.values) for t in trials if t.state in search.ENDED][:3]
    left = [name for name in files(folder) if not name.startswith("study/study.db")]
    return {"ended": ended, "running": "RUNNING" in states, "left": left}


def works(base: Path) -> dict[str, Work]:
    fold = runs.FoldFolder
    return {
        "simulate": Work(do_simulate, files, ((tables, "_write_recording"),)),
        "store": Work(
            partial(do_store, base), files, ((store, "_write"), (store, "_prepare"))
        ),
        "training": Work(
            partial(do_training, base), training_result,
            (*((fold, name) for name in ("write_last", "write_history", "finish")),
             (runs, "_write_json")),
            may_refuse=True,
        ),
        "submission": Work(partial(do_submission, base), files, ((inference, "_submission"),)),
        "search": Work(
            partial(do_search, base), search_result,
            ((optuna.Study, "ask"), (search, "train_fold"), (optuna.Study, "tell")),
            of_two=lambda result: result | {"ended": len(result["ended"])},  # each learns of both
        ),
    }  # fmt: skip


# ------------------------------------------------------------------------------ children


class Moment:
    """Kills its process at the k-th chance: around a rename, or after a function."""

    def __init__(self, kind: str, chance: int, places=()):
        self.kind, self.left = kind, chance
        self.replace = os.replace
        os.replace = self.rename
        for owner, name in places:
            setattr(owner, name, partial_method(self, getattr(owner, name)))

    def chance(self, kind: str) -> bool:
        self.left -= kind == self.kind
        return kind == self.kind and self.left == 0

    def rename(self, source, target, **options):
        if self.chance("before a rename"):
            kill()
        if self.chance("half written"):
            for path in [Path(source), *Path(source).rglob("*")]:
                if path.is_file():
                    os.truncate(path, path.stat().st_size // 2)
            kill()
        self.replace(source, target, **options)
        if self.chance("after a rename"):
            kill()


def partial_method(moment: Moment, function: Callable) -> Callable:
    def called(*args, **options):
        answer = function(*args, **options)
        if moment.chance("between data and mark"):
            kill()
        return answer

    return called


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


KINDS = ("before a rename", "half written", "after a rename", "between data and mark")


class Child:
    """A process that works in a folder, and may be killed."""

    def __init__(self, work: Work, folder: Path, moment: tuple[str, int] | None = None):
        self.log, self.hung = tempfile.TemporaryFile("w+"), False
        self.pid = os.fork()
        if not self.pid:
            self._work(work, folder, moment)

    def _work(self, work: Work, folder: Path, moment) -> None:
        code = 1
        try:
            os.dup2(self.log.fileno(), 1), os.dup2(self.log.fileno(), 2)
            warnings.simplefilter("ignore")
            if moment:
                Moment(*moment, work.moments)
            work.do(folder)
            code = 0
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(code)

    def wait(self, timeout_s: float = 300) -> int:
        """Its exit status, negative for a signal; it is killed after `timeout_s`."""
        end = time.monotonic() + timeout_s
        while (status := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                self.hung = True
                os.kill(self.pid, signal.SIGKILL)
                end = float("inf")
            time.sleep(0.002)
        return os.waitstatus_to_exitcode(status[1])

    @property
    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().strip().split("\n")[-1]


# ------------------------------------------------------------------------------ what is tried


class Trial:
    """One kind of work: what an undisturbed run leaves, and how often something else was left."""

    def __init__(self, name: str, work: Work, folder: Path, rng: random.Random):
        self.name, self.work, self.folder, self.rng = name, work, folder, rng
        self.lost, self.n_equal, self.tried = [], 0, {}
        began = time.monotonic()
        self.wanted = self.left_by(self.new())
        self.duration_s = time.monotonic() - began

    def new(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self.folder

    def left_by(self, folder: Path) -> object:
        """What a child leaves that is not disturbed; None, and a loss, where it fails."""
        child = Child(self.work, folder)
        if child.wait():
            self.lost.append(f"{self.name}: {child.said}")
            return None
        return self.read(folder)

    def read(self, folder: Path) -> object:
        """In a child as well: the parent never computes, so that forking it stays safe."""
        answer = self.folder.with_suffix(".json")
        work = replace(
            self.work, do=lambda f: answer.write_text(json.dumps(self.work.result(f), default=str))
        )
        child = Child(work, folder)
        if child.wait():
            self.lost.append(f"{self.name}: unreadable, {child.said}")
            return None
        return json.loads(answer.read_text())

    def compare(self, same: Callable = lambda result: result) -> None:
        """Let the last child end; what it leaves must be what an undisturbed one leaves."""
        left = self.left_by(self.folder)
        if left is not None:
            left, wanted = same(left), same(self.wanted)
            differing = [k for k in sorted({*left, *wanted}) if left.get(k) != wanted.get(k)]
            self.lost += [f"{self.name}: other {', '.join(differing[:3])}"] if differing else []
            self.n_equal += not differing

    def kill(self, what: str, n: int, start: Callable[[], tuple[Child, float]]) -> None:
        """Kill n children of one folder after the other; compare where one comes to its end."""
        kills = 0
        self.new()
        while kills < n:
            child, after_s = start()
            if after_s < float("inf"):
                time.sleep(after_s)
                os.kill(child.pid, signal.SIGKILL)
            code = child.wait()
            kills += code == -signal.SIGKILL
            if child.hung or code not in (0, -signal.SIGKILL):
                self.lost.append(f"{self.name}: {'it hung; ' * child.hung}{child.said}")
            if code != -signal.SIGKILL or self.rng.random() < 0.2:
                self.compare()
                self.new()
        self.compare()
        self.tried[what] = kills

    def kill_at_random(self, n: int) -> None:
        self.kill(
            "kills at random",
            n,
            lambda: (Child(self.work, self.folder), self.rng.uniform(0, 0.9 * self.duration_s)),
        )

    def kill_at_moments(self, n: int) -> None:
        kinds = iter(range(10**6))

        def start():
            kind = KINDS[next(kinds) % len(KINDS)]
            return Child(self.work, self.folder, (kind, self.rng.randint(1, 3))), float("inf")

        self.kill("kills at chosen moments", n, start)

    def two_at_once(self, n: int) -> None:
        """Both whole, then one killed; the other waits, or is refused in one sentence."""
        for i in range(n):
            self.new()
            both = [Child(self.work, self.folder) for _ in range(2)]
            if i % 2:
                time.sleep(self.rng.uniform(0.1, 0.7) * self.duration_s)
                os.kill(both[i // 2 % 2].pid, signal.SIGKILL)
            for child in both:
                code = child.wait()
                refused = self.work.may_refuse and "is at work in" in child.said
                if child.hung or (code not in (0, -signal.SIGKILL) and not refused):
                    self.lost.append(f"{self.name}, two at once: {child.said}")
            self.compare(self.work.of_two)
        self.tried["two at once"] = n

    def without_room(self, n: int) -> None:
        """A disk that is too small, then one that is read-only, then a good one."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with small_disk(self.folder) as remount:
            steps = ("size=64k", "size=300k", "size=900k", "size=1500k", "ro,size=1500k")
            for step in steps[-n:]:
                remount(step)
                child = Child(self.work, self.folder)
                code = child.wait()
                told = code == 1 and any(
                    word in child.said for word in ("make room", "cannot be written", "disk")
                )
                if code and not told:
                    self.lost.append(f"{self.name}, {step}: status {code}, {child.said}")
            remount("rw,size=200m")
            self.compare()
        self.tried["full or read-only"] = n


def run(
    names, n_random: int, n_chosen: int, n_two: int, n_disks: int, seed: int = 0
) -> pd.DataFrame:
    """The table, and every loss in its attribute `lost`."""
    rows, lost = {}, []
    with tempfile.TemporaryDirectory() as base:
        base, rng = Path(base), random.Random(seed)  # noqa: S311 (no secret)
        search.open_study(base / "imported")  # its libraries, once for all children
        needed = [do_simulate, partial(do_training, base)]
        for do in needed:
            child = Child(Work(do, files, ()), base)
            assert child.wait() == 0, child.said
        for name, work in works(base).items():
            if name not in names:
                continue
            began, trial = time.monotonic(), Trial(name, work, base / name, rng)
            trial.kill_at_random(n_random)
            trial.kill_at_moments(n_chosen)
            trial.two_at_once(n_two)
            if can_mount():
                trial.without_room(n_disks)
            minutes = round((time.monotonic() - began) / 60, 1)
            equal = {"equal at the end": trial.n_equal, "lost": len(trial.lost)}
            rows[name] = {**trial.tried, **equal, "minutes": minutes}
            lost += trial.lost
            print(name, rows[name], *trial.lost, sep="\n  ", flush=True)
    table = pd.DataFrame(rows).T
    table.attrs["lost"] = lost
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="simulate store training submission search")
    parser.add_argument("--random", type=int, default=30, help="kills at random of each")
    parser.add_argument("--chosen", type=int, default=24, help="kills at chosen moments of each")
    parser.add_argument("--two", type=int, default=6, help="pairs of each")
    parser.add_argument("--disks", type=int, default=5, help="full or read-only disks of each")
    args = parser.parse_args()
    counts = args.random, args.chosen, args.two, args.disks
    table = run(args.names or list(works(Path())), *counts)
    print(table.to_string())
    sys.exit(bool(table.attrs["lost"]))


if __name__ == "__main__":
    main()
