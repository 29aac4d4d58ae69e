"""Runs: folders that hold everything needed to evaluate and to use what was trained.

    run.json       config, seed, versions, data, temperatures, metrics, minutes; of the folds done
    fold0/         model.weights.h5, history.csv, oof.parquet, done.json, logs/ (TensorBoard)
    first/fold0/   the same of the first stage, where there are two
    history.csv    all folds
    oof.parquet    held-out rows: eeg_id, label_id, patient_id, n_votes, fold, targets, predictions

Only this module knows the names of these files. Configs are plain dicts here.
"""

import atexit
import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import pandas as pd

from hmsutils import competition as ground
from hmsutils.competition import TARGET_COLUMNS, find_mounted, locked, reading, write_atomically

LARGEST_ZIP = 2 * 10**9  # bytes of a run, unpacked; the largest released one has 0.1 GB
DEFAULT = "*+*"  # names the released run that predicts where nothing was trained
_TRAIN_AGAIN = "copy the run again, or delete its folder and train it again"
_ELSEWHERE = "the others lie in models/released of a checkout, which HMS_HOME may name"


@dataclass(init=False, unsafe_hash=True)
class _Folder:
    folder: Path

    def history(self) -> pd.DataFrame:
        """One row per fold and epoch: loss, val_kl, val_accuracy, seconds; empty before any."""
        path = self.folder / "history.csv"
        if not path.exists():
            return pd.DataFrame()
        with reading(path, "no table", _TRAIN_AGAIN):
            return pd.read_csv(path, float_precision="round_trip")

    def oof(self) -> pd.DataFrame:
        """The out-of-fold frame: held-out rows with their targets and predictions."""
        path = self.folder / "oof.parquet"
        with reading(path, "no table of held-out rows", _TRAIN_AGAIN):
            table = pd.read_parquet(path)
            needed = {"label_id", "patient_id", "n_votes", "fold"}
            if missing := {*needed, *TARGET_COLUMNS, *ground.PREDICTION_COLUMNS} - set(table):
                raise ValueError(f"no column {', '.join(sorted(missing))}")
            return table


class Run(_Folder):
    """A run of which one fold is finished or more (else FileNotFoundError), from its folder or from
    another `Run`. ValueError names what is wrong in run.json, which `description` holds.

    `name` is that of its towers; `folds`, those finished, were held out; `metrics`, {vote
    stratum: {"KL", "accuracy", …}}, `kl`, that of all, `temperature` and `temperatures`, those for
    few and for many raters (none in an older run), are of the held-out rows; `data` has fingerprint
    and number of the windows, and `data_id` of the files they come from; `prior_mean`, for each
    fold, the (6,) mean target of the other folds.
    """

    def __init__(self, folder: str | PathLike):
        self.folder = Path(folder)
        path, remedy = self.folder / "run.json", "train a fold of this run first"
        with reading(path, "not the description of a run", f"{remedy}, or name another folder"):
            self.description = run = json.loads(path.read_text("utf-8"))
            self.name, self.config, self.metrics = run["name"], run["config"], run["metrics"]
            self.temperature, self.data = run["temperature"], run["data"]
            self.temperatures = by_raters = run.get("temperatures", {})
            self.kl, prior = self.metrics["all"]["KL"], run["prior_mean"]
            folds, towers = self.config["folds"], self.config.get("towers", [self.name])
            _require("name", self.name, "text", isinstance(self.name, str))
            fits = _is_number(self.temperature, 0.05, 20)  # fitted ones lie in 0.25 … 4
            _require("temperature", self.temperature, "0.05 to 20", fits)
            fits = isinstance(by_raters, dict)
            fits = fits and all(_is_number(t, 0.05, 20) for t in by_raters.values())
            _require("temperatures", by_raters, "0.05 to 20 by number of raters", fits)
            _require("metrics.all.KL", self.kl, "0 or more", _is_number(self.kl, -1e-9))
            _require("data", self.data, "a mapping", isinstance(self.data, dict))
            whole = isinstance(folds, list) and all(type(k) is int and k >= 0 for k in folds)
            different = whole and 0 < len(folds) == len(set(folds))
            _require("config.folds", folds, "numbers of folds", different)
            texts = isinstance(towers, list) and {type(name) for name in towers} == {str}
            _require("config.towers", towers, "names", texts)
            means = [prior.get(str(fold), [0]) for fold in folds]
            right = all(len(m) == len(ground.CLASSES) and min(m) >= 0 for m in means)
            right = right and all(abs(sum(mean) - 1) < 1e-3 for mean in means)  # false for NaN
            _require("prior_mean", prior, "six shares of each fold", right)
            self.folds = tuple(folds)
            self.prior_mean = {int(fold): mean for fold, mean in prior.items()}

    def weights(self, fold: int) -> Path:
        """The weights file of a fold; FileNotFoundError where the run has no such fold."""
        path = FoldFolder(self.folder, fold).weights
        if not path.exists():
            raise FileNotFoundError(f"{path}: not found; {self.name} has the folds {self.folds}")
        return path

    def network_id(self, fold: int) -> str:
        """What names the network of a fold: its config and its weights."""
        return ground.fingerprint(self.config, self.weights(fold).read_bytes())

    def __fspath__(self) -> str:
        return str(self.folder)


def _is_number(value, lowest: float = 0.0, highest: float = 1e6) -> bool:
    return type(value) in (int, float) and lowest <= value <= highest


def _require(field: str, value, wanted: str, is_right: bool) -> None:
    if not is_right:
        raise ValueError(f"{field} is {str(value)[:99]}, wanted {wanted}")


class FoldFolder(_Folder):
    """The files of a run's fold while it is trained; an epoch counts once its row is in history."""

    def __init__(self, run_dir: str | PathLike, fold: int):
        self.fold, self.folder = fold, Path(run_dir) / f"fold{fold}"
        self.weights, self._history = self.folder / "model.weights.h5", self.folder / "history.csv"
        self._done = self.folder / "done.json"
        self.network = self.folder / "network.onnx.gz"  # of `export.convert`

    @property
    def done(self) -> dict:
        """What `finish` was told, if the files are as long as they were then; else nothing."""
        with suppress(AttributeError, KeyError, TypeError, FileNotFoundError, ValueError):
            told = json.loads(self._done.read_text("utf-8"))
            sizes = told.pop("bytes")
            if all((self.folder / name).stat().st_size == n for name, n in sizes.items()):
                return told
        return {}  # none, or none that can be read

    def seconds(self, device: str | None = None) -> list[float]:
        """What each epoch so far took, on a device if named; nothing in a damaged history."""
        with suppress(KeyError, ValueError):
            rows = self.history()
            return rows.loc[rows["device"] == device if device else rows.index, "seconds"].tolist()
        return []

    def state(self, epoch: int) -> Path:
        """Weights and optimizer after an epoch, for a run that is resumed."""
        return self.folder / f"state{epoch:03d}.weights.h5"

    def write_last(self, save_weights: Callable[[Path], object], oof: pd.DataFrame) -> None:
        write_atomically(self.weights, save_weights)
        write_atomically(self.folder / "oof.parquet", oof.to_parquet)

    def write_history(self, rows: Sequence[Mapping]) -> None:
        """Write all epochs so far; the last thing that an epoch does."""
        to_csv = partial(pd.DataFrame(rows).to_csv, index=False)
        write_atomically(self._history, to_csv)

    def finish(self, how: Mapping) -> None:
        """Drop what only a resumption needs, and mark the fold as done, with how it was trained and
        the lengths of its files."""
        for path in self.folder.glob("state*.weights.h5"):
            path.unlink()
        names = (self.weights.name, "history.csv", "oof.parquet")
        sizes = {name: (self.folder / name).stat().st_size for name in names}
        _write_json(self._done, {"fold": self.fold, **how, "bytes": sizes})

    def epochs(self, wanted: int) -> list[dict]:
        """The rows of the history after which training goes on, up to `wanted`. None where a file
        that this needs is missing or damaged: that is warned of, and the fold begins anew."""
        try:
            rows = self.history().to_dict("records")
        except ValueError:
            rows = [{}]
        ended = self.weights, self.folder / "oof.parquet"
        needed = ended if len(rows) >= wanted else (self.state(len(rows) - 1),)
        there = all("seconds" in row for row in rows) and all(path.exists() for path in needed)
        if self._done.exists() or (not there and self._history.exists()):
            self.begin_anew("files of this fold are missing or not as they were written")
            return []
        return rows

    def begin_anew(self, problem: str) -> None:
        warnings.warn(f"{self.folder}: {problem}; training it anew", stacklevel=3)
        for path in (self._done, self._history, self.weights):
            path.unlink(missing_ok=True)


def fold_folders(run_dir: str | PathLike) -> list[FoldFolder]:
    """Every fold that was begun, by number."""
    numbers = [path.name.removeprefix("fold") for path in Path(run_dir).glob("fold*")]
    return [FoldFolder(run_dir, k) for k in sorted(int(n) for n in numbers if n.isdecimal())]


def write_run(
    folder: str | PathLike, description: Mapping, oof: pd.DataFrame, history: pd.DataFrame
) -> Run:
    """Write what a run holds beside its folds; run.json, which says which are done, last."""
    folder = Path(folder)
    with locked(folder, f"writing {folder.name}", keep=False):
        write_atomically(folder / "oof.parquet", partial(oof.to_parquet, index=False))
        write_atomically(folder / "history.csv", partial(history.to_csv, index=False))
        _write_json(folder / "run.json", description)
    return Run(folder)


def _write_json(path: Path, values: Mapping) -> None:
    ground.write_text(path, json.dumps(values, indent=1))


def windows_fingerprint(windows: pd.DataFrame) -> str:
    """12 hexadecimal digits that name the windows, their files, their targets and their folds."""
    columns = ["eeg_id", "eeg_offset_s", "fold", *TARGET_COLUMNS]
    columns += [name for name in ("data_id", "context_id", "label_group") if name in windows]
    return ground.fingerprint(windows[columns].round(9).to_csv(index=False))


def run_folder(name: str, settings: dict, windows: pd.DataFrame, runs_dir: str | PathLike) -> Path:
    """Where the run with these settings on these windows lies; other settings, another folder."""
    digits = ground.fingerprint(settings, windows_fingerprint(windows))[:8]
    return Path(runs_dir) / f"{name}-{digits}"


def default_dir() -> Path:
    return ground.home_dir() / "models" / "runs"


def find_runs(runs_dir: str | PathLike | None = None) -> list[Run]:
    """Finished runs in a folder, by name; None: in `models/runs`. Broken ones are warned of."""
    return _readable(Run, sorted(Path(runs_dir or default_dir()).glob("*/run.json")))


def with_weights(found: Iterable[Run]) -> list[Run]:
    """Those that can predict; the others are warned of."""

    def whole(folder: Path) -> Run:
        run = Run(folder)
        for fold in run.folds:
            run.weights(fold)
        return run

    return _readable(whole, (run.folder for run in found))


def _readable(read: Callable, paths: Iterable[Path]) -> list:
    """What `read` makes of the folders of these files; those that it cannot read are warned of."""
    found = []
    for path in paths:
        try:
            found.append(read(path.parent if path.suffix == ".json" else path))
        except (FileNotFoundError, ValueError) as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
    return found


def comparable(found: Sequence[Run]) -> list[Run]:
    """Those of the same windows as the newest, with its first fold: they can be compared."""
    last = newest(found)
    return [r for r in found if r.data == last.data and last.folds[0] in r.folds]


def newest(found: Iterable[Run]) -> Run | None:
    return max(found, key=lambda run: (run.folder / "run.json").stat().st_mtime, default=None)


def released_dir() -> Path:
    return ground.home_dir() / "models" / "released"


def released_runs(pattern: str = "*") -> list[Run]:
    """Those in `models/released` and in the package whose names match a pattern, by name."""
    places = (released_dir(), Path(__file__).parent / "released")
    found = [path for place in places for path in place.glob(f"{pattern}/run.json")]
    return _readable(Run, (path for _, path in sorted({p.parent.name: p for p in found}.items())))


def released_run(name: str) -> Run:
    """The released run of these towers, joined by +; FileNotFoundError where there is none."""
    found = {run.folder.name: run for run in released_runs()}
    if name not in found:
        raise FileNotFoundError(f"released_run: no {name} among {', '.join(found)}; {_ELSEWHERE}")
    return found[name]


def released_blend() -> dict[Run, float]:
    """The released runs that are blended, with their weights, from `models/released/blend.json`;
    FileNotFoundError where that, or one of the runs, is missing."""
    weights, _ = read_blend(released_dir()) or ({}, None)
    if not weights:
        problem = f"released_blend: no weights in {released_dir() / 'blend.json'}"
        raise FileNotFoundError(f"{problem}; {_ELSEWHERE}")
    return {released_run(name): weight for name, weight in weights.items()}


def mounted_runs() -> list[Run]:
    """Runs on Kaggle's mounts; zips left packed are opened in folders that are removed at the end
    of the process. What is no run, or cannot be read, is warned of and left out."""
    unpacked = sum(_readable(_unpacked, find_mounted("*.zip")), [])
    return _readable(Run, find_mounted("run.json") + unpacked)


def _unpacked(path: Path) -> list[Path]:
    """run.json of a zip that holds a run; zipfile follows no names out of it, and unpacks nothing
    larger than the zip says."""
    with reading(path, "no zip of a run", "pack it again"), zipfile.ZipFile(path) as packed:
        if "run.json" not in packed.namelist():
            return []
        if (size := sum(member.file_size for member in packed.infolist())) > LARGEST_ZIP:
            raise ValueError(f"{size:,} bytes unpacked, more than {LARGEST_ZIP:,}")
        temporary = tempfile.mkdtemp(prefix="hmsutils-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        folder = Path(temporary, path.stem.strip(".") or "run")  # "...zip" would be its parent
        packed.extractall(folder)
        return [folder / "run.json"]


def take_over(folders: Sequence[Path]) -> None:
    """Copy the folds of these runs that are mounted, finished or not: a mount is read-only. Of one
    fold in several places, the one with the most epochs; what is finished here stays."""
    wanted, found = {folder.name: folder for folder in folders}, {}
    for run_dir in sorted({p for path in find_mounted("history.csv") for p in path.parents[1:3]}):
        for stage in ("", "first") if run_dir.name in wanted else ():
            for fold in fold_folders(run_dir / stage):
                found.setdefault((wanted[run_dir.name], stage, fold.fold), []).append(fold)
    for (folder, stage, number), mounted in found.items():
        best, here = max(mounted, key=_n_epochs), FoldFolder(folder / stage, number)
        with locked(folder.parent, f"copying {folder.name}", keep=False):
            if not here.done and _n_epochs(best) > _n_epochs(here):
                shutil.rmtree(here.folder, ignore_errors=True)
                here.folder.parent.mkdir(parents=True, exist_ok=True)
                copy = partial(shutil.copytree, best.folder, ignore=shutil.ignore_patterns(".*"))
                write_atomically(here.folder, copy)


def _n_epochs(fold: FoldFolder) -> int:
    """Epochs after which training can go on, as far as a look at the names of its files tells."""
    n = len(fold.seconds())
    return n if fold.done or fold.weights.exists() or fold.state(n - 1).exists() else 0


def write_blend(runs_dir: str | PathLike | None, weights: Mapping[str, float], kl: float) -> None:
    """Keep a blend beside its runs (None: in `models/runs`): weights over .001 by folder name, and
    its KL on held-out rows that they were not fitted on. No weights: there is no blend."""
    kept = {name: weight for name, weight in weights.items() if weight > 1e-3}
    folder = Path(runs_dir or default_dir())
    with locked(folder, "writing a blend", keep=False):
        _write_json(folder / "blend.json", {"weights": kept, "kl": kl})


def read_blend(runs_dir: str | PathLike | None = None) -> tuple[dict[str, float], float] | None:
    """(weights by the name of a run's folder, KL), from `write_blend`; None where there is none."""
    path = Path(runs_dir or default_dir()) / "blend.json"
    if not path.exists():
        return None
    with reading(path, "no blend", "delete it, or run notebook 3"):
        blend = json.loads(path.read_text("utf-8"))
        weights, kl = dict(blend["weights"]), blend["kl"]
        _require("weights", weights, "numbers from 0 up", all(map(_is_number, weights.values())))
        _require("kl", kl, "a number from 0 up", kl is None or _is_number(kl))
        return weights, float("inf") if kl is None else kl


def mounted_weights() -> dict[str, float]:
    """Weights of mounted runs in a blend, by the name of a run's folder."""
    blends = _readable(read_blend, find_mounted("blend.json"))
    return {name: weight for weights, _ in blends for name, weight in weights.items()}
