"""The ground: the competition's names and sizes, its folder, and the project's own folder. Nothing
of this package is imported here, and nothing heavy."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from fnmatch import filter as matching
from pathlib import Path
from typing import get_type_hints

CLASSES = ("Seizure", "LPD", "GPD", "LRDA", "GRDA", "Other")
VOTE_COLUMNS = tuple(f"{name.lower()}_vote" for name in CLASSES)
TARGET_COLUMNS = tuple(f"target_{name}" for name in CLASSES)
PREDICTION_COLUMNS = tuple(f"prediction_{name}" for name in CLASSES)
ELECTRODES = tuple("Fp1 F3 C3 P3 F7 T3 T5 O1 Fz Cz Pz Fp2 F4 C4 P4 F8 T4 T6 O2 EKG".split())
SFREQ_HZ = 200
WINDOW_S = 50
WINDOW_SAMPLES = WINDOW_S * SFREQ_HZ
SLUG = "hms-harmful-brain-activity-classification"
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
    ValueError: unknown settings."""
    hints = get_type_hints(cls)
    if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
        raise ValueError(f"{cls.__name__}: unknown settings {', '.join(unknown)}")

    def convert(hint, value):
        if is_dataclass(hint) and isinstance(value, Mapping):
            return from_dict(hint, value)
        return tuple(convert(None, v) for v in value) if isinstance(value, list | tuple) else value

    return cls(**{name: convert(hints[name], value) for name, value in values.items()})


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a kill leaves the old file
    or the new one."""
    part = path.with_name(f"part.{os.getpid()}.{path.name}")  # keeps the suffix
    try:
        write(part)
        os.replace(part, path)
    finally:
        if part.is_file():  # `write` failed
            part.unlink()
