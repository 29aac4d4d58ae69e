"""The ground: the competition's names and sizes, its folder, and the project's own folder. Nothing
of this package is imported here, and nothing heavy."""

import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from fnmatch import filter as matching
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

from filelock import FileLock, Timeout

CLASSES = ("Seizure", "LPD", "GPD", "LRDA", "GRDA", "Other")
VOTE_COLUMNS = tuple(f"{name.lower()}_vote" for name in CLASSES)
TARGET_COLUMNS = tuple(f"target_{name}" for name in CLASSES)
PREDICTION_COLUMNS = tuple(f"prediction_{name}" for name in CLASSES)
ELECTRODES = tuple("Fp1 F3 C3 P3 F7 T3 T5 O1 Fz Cz Pz Fp2 F4 C4 P4 F8 T4 T6 O2 EKG".split())
SFREQ_HZ = 200
WINDOW_S = 50
WINDOW_SAMPLES = WINDOW_S * SFREQ_HZ
CONTEXT_S, CONTEXT_SHAPE = 600, (300, 4, 100)  # of the official spectrogram: time, region, bin
SLUG = "hms-harmful-brain-activity-classification"
_PART = ".hmsutils-part-"  # what is being written begins with it
SIMULATION_FILE = "simulation.json"  # marks a folder as simulated, wherever it lies


@dataclass(frozen=True)
class Competition:
    """A folder in the competition's layout; `kind` is "kaggle", "local" or "simulated"."""

    root: Path
    kind: str
    why: str = ""

    def eeg(self, eeg_id: int, split: str = "train") -> Path:
        return self.root / f"{split}_eegs" / f"{eeg_id}.parquet"

    def spectrogram(self, spectrogram_id: int, split: str = "train") -> Path:
        """Path of an official 10-minute spectrogram; the file may be absent."""
        return self.root / f"{split}_spectrograms" / f"{spectrogram_id}.parquet"


def home_dir() -> Path:
    """Where `data/` and `models/` lie: `$HMS_HOME`, else the checkout that holds the working
    directory, else the one that holds this package, else the working directory."""
    if os.environ.get("HMS_HOME"):
        return Path(os.environ["HMS_HOME"]).expanduser()
    here, marks = Path.cwd(), ("pyproject.toml", "hmsutils", "notebooks")
    places = (here, *here.parents, Path(__file__).resolve().parents[1])
    return next((p for p in places if all((p / mark).exists() for mark in marks)), here)


def kaggle_input() -> Path:
    """Where Kaggle mounts its inputs; `HMS_KAGGLE_INPUT` names another root."""
    return Path(os.environ.get("HMS_KAGGLE_INPUT", "/kaggle/input"))


def find_mounted(pattern: str) -> list[Path]:
    """Files on Kaggle's mounts whose names match, but for those of the competition."""
    found = []
    for folder, inner, names in os.walk(kaggle_input()):
        inner[:] = [name for name in inner if name not in ("competitions", SLUG)]
        found += [Path(folder, name) for name in matching(names, pattern)]
    return sorted(found)


def default_n_jobs() -> int:
    """The cores that this process may use: fewer than the machine has in many containers."""
    import joblib

    return joblib.cpu_count()


def fingerprint(*parts) -> str:
    """12 hexadecimal digits that name everything in `parts`, the package's only such hash: of JSON,
    dataclasses, paths and bytes; TypeError for anything else."""

    def plain(value):
        if is_dataclass(value):
            return {type(value).__name__: asdict(value)}
        if isinstance(value, Path | bytes):
            return value.hex() if isinstance(value, bytes) else str(value)
        raise TypeError(f"fingerprint: {type(value).__name__} has no exact text; pass its bytes")

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_dict(cls: type, values: Mapping):
    """A frozen dataclass from its JSON, nested ones too; what is not given has its default.
    ValueError: unknown settings, and see `check_values`."""
    hints = get_type_hints(cls)
    if not isinstance(values, Mapping):
        raise ValueError(f"{cls.__name__}: {values!r}, wanted settings by name")
    if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
        raise ValueError(f"{cls.__name__}: unknown settings {', '.join(unknown)}")

    def convert(hint, value):
        if is_dataclass(hint) and isinstance(value, Mapping):
            return from_dict(hint, value)
        return tuple(convert(None, v) for v in value) if isinstance(value, list | tuple) else value

    return cls(**{name: convert(hints[name], value) for name, value in values.items()})


def check_values(config) -> None:
    """For the `__post_init__` of a dataclass: every value, also inside tuples, is what its
    annotation says and lies in `config.RANGES`, {field: (lowest, highest) or what may be chosen}.
    ValueError names class, field, value and what was wanted."""
    hints = get_type_hints(type(config))
    for name in (field.name for field in fields(config)):
        value, hint, among = getattr(config, name), hints[name], config.RANGES.get(name)
        parts, wanted = value if isinstance(value, tuple) else (value,), ""
        if not _fits(value, hint):
            wanted = str(hint) if get_args(hint) else hint.__name__
        elif among and isinstance(among[0], str):
            wanted = "" if value in among else f"one of {', '.join(among)}"
        elif among and value is not None:
            inside = parts and all(among[0] <= part <= among[1] for part in parts)
            wanted = "" if inside else f"from {among[0]} to {among[1]}"
        if wanted:
            raise ValueError(f"{type(config).__name__}: {name} is {value!r}, wanted {wanted}")


def _fits(value, hint) -> bool:
    """Whether a value is what an annotation says; whole numbers are numbers, NaN is none."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is tuple and isinstance(value, tuple):
        parts = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if kind in (int, float):
        kind = Integral if kind is int else Real
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if isinstance(value, Mapping) and parts:
        return all(_fits(inner, parts[1]) for inner in value.values())
    return isinstance(value, kind)


@contextmanager
def reading(path: Path, problem: str, remedy: str, absent: str = "not found") -> Iterator[None]:
    """Whatever is wrong inside a file, it must be named: libraries raise errors of many classes.
    FileNotFoundError: it is absent. ValueError: what lies there is no file, or the block fails."""
    if not Path(path).is_file():  # to open a pipe would be to wait for ever
        if not Path(path).exists():
            raise FileNotFoundError(f"{path}: {absent}; {remedy}")
        raise ValueError(f"{path}: {problem} (a folder or a pipe); {remedy}")
    try:
        yield
    except Exception as error:
        known = isinstance(error, ValueError | OSError)
        what = " ".join((str(error) if known else repr(error)).split())[:300]
        raise ValueError(f"{path}: {problem} ({what}); {remedy}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or a folder of this name in a new private folder beside `path`; once
    it lies on the disk, rename it: a kill or a crash leaves the old one or the new one. A link is
    replaced, not followed. OSError names `path`: no regular file lies there, no room, read-only."""
    path = Path(path)
    with writing(path):
        if path.exists() and not path.is_file():
            raise FileExistsError("what lies there is no regular file")
        with tempfile.TemporaryDirectory(prefix=_PART, dir=path.parent) as private:
            part = Path(private, path.name)
            write(part)
            for written in (part, *part.rglob("*")):
                _sync(written)
            os.replace(part, path)
        _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file by `write_atomically`, in UTF-8."""
    write_atomically(path, lambda part: part.write_text(text, "utf-8"))


def write_csv(path: str | Path, table, **options) -> None:
    """Write a table without its index into a folder that this process does not hold."""
    path = Path(path)
    with locked(path.parent, f"writing {path.name}", keep=False):
        write_atomically(path, lambda part: table.to_csv(part, index=False, **options))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the operating system name the file and say what to do."""
    try:
        yield
    except OSError as error:
        remedy = "make room, or name a place that can be written"
        raise type(error)(f"{path}: cannot be written ({error}); {remedy}") from error


def _sync(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


@contextmanager
def locked(folder: str | Path, who: str, *, wait: bool = True, keep: bool = True) -> Iterator[None]:
    """Hold a folder, made where absent, for the block. The kernel releases what a killed process
    held; what it left half-written is removed by the next one. Where another process holds it, this
    one says which, and waits; without `wait`: RuntimeError. Without `keep`, for folders of users,
    the lock file is removed; of three processes, two might then hold it."""
    folder = Path(folder)
    path = folder / ".hmsutils.lock"
    holder = folder / ".hmsutils.holder"  # who waits empties a lock's own file
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise OSError("it is a link")
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            text = "another process"
            with suppress(OSError):  # it may end just now
                text = holder.read_text()
            problem = f"{who}: {text} is at work in {folder}"
            if not wait:
                raise RuntimeError(f"{problem}; wait for its end, or stop it") from None
            print(f"{problem}; waiting for its end", flush=True)
            lock.acquire()
    try:
        remove_parts(folder)
        write_text(holder, f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        for left in (holder,) if keep else (holder, path):
            with suppress(OSError):
                left.unlink()
        lock.release()


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half-written, for who holds the folder or the one above."""
    for part in folder.glob(f"{_PART}*"):
        shutil.rmtree(part, ignore_errors=True)


def require_room(folder: Path, n_bytes: int, who: str, announce: bool = False) -> None:
    """OSError where the disk of a folder has less room than this; `announce` prints both."""
    folder = next(place for place in (folder, *folder.parents) if place.exists())
    free, home = shutil.disk_usage(folder).free, home_dir().absolute()
    folder = folder.relative_to(home) if folder.is_relative_to(home) else folder
    needs = f"needs {n_bytes / 1e6:,.1f} MB in {folder}, where {free / 1e6:,.1f} MB are free"
    if announce:
        print(who, needs, flush=True)
    if free < n_bytes:
        raise OSError(f"{who} {needs}; make room there, or name a folder on another disk")
