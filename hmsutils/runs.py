"""Runs: folders that hold everything needed to evaluate and to use what was trained.

    run.json       config, seed, versions, data, temperature, metrics, minutes
    fold0/         best.weights.h5, history.csv, oof.parquet, logs/ (TensorBoard); one per fold
    first/fold0/   the same of the first stage, where there are two
    history.csv    all folds
    oof.parquet    held-out rows: eeg_id, label_id, patient_id, n_votes, fold, targets, predictions

Only this module knows the names of these files. Configs are plain dicts here.
"""

import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import pandas as pd

from hmsutils import competition as ground
from hmsutils.competition import TARGET_COLUMNS, find_mounted, home_dir, write_atomically


@dataclass(init=False, unsafe_hash=True)
class _Folder:
    folder: Path

    def history(self) -> pd.DataFrame:
        """One row per fold and epoch: loss, val_kl, val_accuracy, seconds; empty before any."""
        path = self.folder / "history.csv"
        return pd.read_csv(path) if path.exists() else pd.DataFrame()

    def oof(self) -> pd.DataFrame:
        """The out-of-fold frame: held-out rows with their targets and predictions."""
        return pd.read_parquet(self.folder / "oof.parquet")


class Run(_Folder):
    """A finished run (else FileNotFoundError), from its folder or from another `Run`.

    Attributes:
        name: of its towers.
        config: see `config.from_dict`; `folds`: those that were held out, one after the other.
        metrics: {vote stratum: {"KL", "accuracy", …}} of the held-out rows; `kl`: that of all.
        temperature: fitted on the held-out rows.
        data: fingerprint and number of the windows, and `data_id` of the files they come from.
        prior_mean: for each fold, the (6,) mean target of the other folds.
        description: all of run.json.
    """

    def __init__(self, folder: str | PathLike):
        self.folder = Path(folder)
        path = self.folder / "run.json"
        if not path.exists():
            remedy = "train this run to its end first, or name another folder"
            raise FileNotFoundError(f"{path}: not found; {remedy}")
        try:
            self.description = run = json.loads(path.read_text())
            self.name, self.config, self.metrics = run["name"], run["config"], run["metrics"]
            self.temperature, self.data = run["temperature"], run["data"]
            self.kl, self.folds = self.metrics["all"]["KL"], tuple(self.config["folds"])
            self.prior_mean = {int(fold): mean for fold, mean in run["prior_mean"].items()}
            self.kl + self.temperature + len(self.data)  # numbers, and a mapping
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problem = f"not the description of a run ({error!r})"
            raise ValueError(f"{path}: {problem}; name another folder") from error

    def weights(self, fold: int) -> Path:
        """The weights file of a fold; FileNotFoundError where the run has no such fold."""
        path = FoldFolder(self.folder, fold).weights
        if not path.exists():
            raise FileNotFoundError(f"{path}: not found; {self.name} has the folds {self.folds}")
        return path

    def time(self) -> float:
        """When it was finished, in seconds."""
        return (self.folder / "run.json").stat().st_mtime

    def __fspath__(self) -> str:
        return str(self.folder)


class FoldFolder(_Folder):
    """The files of a run's fold while it is trained; an epoch counts once its row is in history."""

    def __init__(self, run_dir: str | PathLike, fold: int):
        self.fold, self.folder = fold, Path(run_dir) / f"fold{fold}"
        self.weights, self._done = self.folder / "best.weights.h5", self.folder / "done.json"

    @property
    def done(self) -> bool:
        return self._done.exists()

    def state(self, epoch: int) -> Path:
        """Weights and optimizer after an epoch, for a run that is resumed."""
        return self.folder / f"state{epoch:03d}.weights.h5"

    def write_best(self, save_weights: Callable[[Path], object], oof: pd.DataFrame) -> None:
        write_atomically(self.weights, save_weights)
        write_atomically(self.folder / "oof.parquet", oof.to_parquet)

    def write_history(self, rows: Sequence[Mapping]) -> None:
        """Write all epochs so far; the last thing that an epoch does."""
        table = pd.DataFrame(rows)
        write_atomically(self.folder / "history.csv", lambda part: table.to_csv(part, index=False))

    def finish(self, best: Mapping) -> None:
        """Mark the fold as done, with its best epoch, and drop what only a resumption needs."""
        _write_json(self._done, best)
        for path in [*self.folder.glob("state*.weights.h5"), *self.folder.glob("part.*")]:
            path.unlink()


def write_run(
    folder: str | PathLike, description: Mapping, oof: pd.DataFrame, history: pd.DataFrame
) -> Run:
    """Write what a run holds beside its folds; run.json, which says that it is finished, last."""
    folder = Path(folder)
    write_atomically(folder / "oof.parquet", lambda path: oof.to_parquet(path, index=False))
    write_atomically(folder / "history.csv", lambda path: history.to_csv(path, index=False))
    _write_json(folder / "run.json", description)
    return Run(folder)


def _write_json(path: Path, values: Mapping) -> None:
    write_atomically(path, lambda part: part.write_text(json.dumps(values, indent=1)))


def windows_fingerprint(windows: pd.DataFrame) -> str:
    """12 hexadecimal digits that name the windows, their files, their targets and their folds."""
    columns = ["eeg_id", "eeg_offset_s", "fold", *TARGET_COLUMNS]
    columns += [name for name in ("data_id", "label_group") if name in windows]
    return ground.fingerprint(windows[columns].round(9).to_csv(index=False))


def run_folder(name: str, settings: dict, windows: pd.DataFrame, runs_dir: str | PathLike) -> Path:
    """Where the run with these settings on these windows lies; other settings, another folder."""
    digits = ground.fingerprint(settings, windows_fingerprint(windows))[:8]
    return Path(runs_dir) / f"{name}-{digits}"


def default_dir() -> Path:
    return home_dir() / "models" / "runs"


def find_runs(runs_dir: str | PathLike | None = None) -> list[Run]:
    """Finished runs in a folder, by name; None: in `models/runs`. Broken ones are warned of."""
    found = []
    for path in sorted(Path(runs_dir or default_dir()).glob("*/run.json")):
        try:
            found.append(Run(path.parent))
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def released_runs(pattern: str = "*") -> list[Run]:
    """Released runs whose names match a pattern, by name: those in `models/released` and in the
    package, which holds the default one."""
    places = (home_dir() / "models" / "released", Path(__file__).parent / "released")
    found = [path.parent for place in places for path in place.glob(f"{pattern}/run.json")]
    return [Run(f) for _, f in sorted({folder.name: folder for folder in found}.items())]


def released_run(name: str) -> Run:
    """The released run of these towers, joined by +; FileNotFoundError where there is none."""
    found = {run.folder.name: run for run in released_runs()}
    if name not in found:
        where = "models/released of a checkout, which HMS_HOME may name"
        problem = f"released_run: no {name} among {', '.join(found)}"
        raise FileNotFoundError(f"{problem}; those that are not in the package lie in {where}")
    return found[name]


def mounted_runs() -> list[Run]:
    """Runs on Kaggle's mounts; zips left packed are opened in temporary folders."""
    folders = [path.parent for path in find_mounted("run.json")]
    for path in filter(zipfile.is_zipfile, find_mounted("*.zip")):
        with zipfile.ZipFile(path) as packed:
            if "run.json" in packed.namelist():
                folders.append(Path(tempfile.mkdtemp()) / path.stem)
                packed.extractall(folders[-1])
    return [Run(folder) for folder in folders]


def copy_finished_runs(folders: Sequence[Path]) -> None:
    """Copy those of these runs that are mounted: a mount is read-only."""
    mounted = {path.parent.name: path.parent for path in find_mounted("run.json")}
    for folder in folders:
        if folder.name in mounted and not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder, partial(shutil.copytree, mounted[folder.name]))


def write_blend(runs_dir: str | PathLike | None, weights: Mapping[str, float], kl: float) -> None:
    """Keep a blend beside its runs (None: in `models/runs`): weights by folder name, and its KL on
    held-out rows that they were not fitted on. No weights: there is no blend."""
    kept = {name: weight for name, weight in weights.items() if weight > 0}
    _write_json(Path(runs_dir or default_dir()) / "blend.json", {"weights": kept, "kl": kl})


def read_blend(runs_dir: str | PathLike | None = None) -> tuple[dict[str, float], float] | None:
    """(weights by the name of a run's folder, KL), from `write_blend`; None where there is none."""
    path = Path(runs_dir or default_dir()) / "blend.json"
    if not path.exists():
        return None
    try:
        blend = json.loads(path.read_text())
        return dict(blend["weights"]), float("inf") if blend["kl"] is None else blend["kl"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no blend ({error!r}); delete it, or run notebook 3") from error


def mounted_weights() -> dict[str, float]:
    """Weights of mounted runs in a blend, by the name of a run's folder."""
    blends = [read_blend(path.parent) for path in find_mounted("blend.json")]
    return {name: weight for weights, _ in blends for name, weight in weights.items()}
