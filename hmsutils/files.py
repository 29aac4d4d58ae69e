"""The competition's names and folders, and the one place that looks for them."""

import os
from dataclasses import dataclass
from fnmatch import filter as matching
from pathlib import Path

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
        """Path of a raw EEG."""
        return self.root / f"{split}_eegs" / f"{eeg_id}.parquet"

    def spectrogram(self, spectrogram_id: int, split: str = "train") -> Path:
        """Path of an official 10-minute spectrogram; the file may be absent."""
        return self.root / f"{split}_spectrograms" / f"{spectrogram_id}.parquet"


def project_dir() -> Path:
    """The checkout that holds the working directory, or the working directory itself."""
    here = Path.cwd()
    marks = ("pyproject.toml", "hmsutils", "notebooks")
    inside = (p for p in (here, *here.parents) if all((p / mark).exists() for mark in marks))
    return next(inside, here)


def kaggle_input() -> Path:
    """Where Kaggle mounts its inputs; `HMS_KAGGLE_INPUT` names another root."""
    return Path(os.environ.get("HMS_KAGGLE_INPUT", "/kaggle/input"))


def attached(pattern: str) -> list[Path]:
    """Files on Kaggle's mounts whose names match, in data sets and in outputs of other notebooks;
    the competition's thousands of files are not looked through."""
    found = []
    for folder, inner, names in os.walk(kaggle_input()):
        inner[:] = [name for name in inner if name not in ("competitions", SLUG)]
        found += [Path(folder, name) for name in matching(names, pattern)]
    return sorted(found)


def find_competition(path: str | Path | None = None, *, verbose: bool = True) -> Competition:
    """Find the competition's files, or make the simulated competition.

    The first of these that holds a `train.csv` or `test.csv`: `path`; Kaggle's mounts, new
    (`competitions/<slug>`) and old (`<slug>`); the environment variable `HMS_DATA_DIR`; `data/raw`.
    Where none does, `data/demo` is simulated on first use.

    Args:
        path: a folder that must hold the files; nothing else is tried.
        verbose: print which folder was taken and why.

    Returns:
        The folder; `kind` is "simulated" for a simulated one wherever it lies.

    Raises:
        FileNotFoundError: `path` or `HMS_DATA_DIR` is set and is no such folder.
    """
    project = project_dir()
    environment = os.environ.get("HMS_DATA_DIR")
    if path is not None:
        places = [(Path(path), "local", "it was asked for")]
    else:
        places = [
            (kaggle_input() / "competitions" / SLUG, "kaggle", "Kaggle mounts it there"),
            (kaggle_input() / SLUG, "kaggle", "Kaggle used to mount it there"),
        ]
        if environment:
            places.append((Path(environment), "local", "HMS_DATA_DIR names it"))
        places.append((project / "data" / "raw", "local", "data/raw holds the files"))
    for root, kind, why in places:
        if (root / "train.csv").exists() or (root / "test.csv").exists():
            kind = "simulated" if (root / SIMULATION_FILE).exists() else kind
            return _announce(Competition(root.resolve(), kind, why), verbose)
        if why.startswith(("it was", "HMS_DATA_DIR")):
            raise FileNotFoundError(
                f"{root}: no train.csv or test.csv there, but {why}; point it at the folder that "
                f"holds the competition's files, or leave it unset for the simulated competition"
            )
    return _announce(_simulated(project / "data" / "demo"), verbose)


def find_real_samples() -> Competition | None:
    """The expert-labelled sample recordings in the competition's layout, None where they are
    absent.

    Looked for in `$HMS_REAL_DIR`, `data/iiic_real`, and `shared/data/iiic_real` beside the project.
    """
    project = project_dir()
    named = [Path(os.environ["HMS_REAL_DIR"])] if "HMS_REAL_DIR" in os.environ else []
    for root in (*named, project / "data/iiic_real", project.parent / "shared/data/iiic_real"):
        if (root / "train.csv").exists():
            return Competition(root.resolve(), "local", "real sample recordings")
    return None


def _announce(competition: Competition, verbose: bool) -> Competition:
    if verbose:
        root, project = competition.root, project_dir().resolve()
        shown = root.relative_to(project) if root.is_relative_to(project) else root
        print(f"Competition: {competition.kind}, {shown} ({competition.why})")
    return competition


def _simulated(root: Path) -> Competition:
    """The demo competition, simulated on first use (the only look ahead in the package)."""
    if not (root / "train.csv").exists():
        from hmsutils.simulate import simulate_competition

        simulate_competition(root)
    return Competition(root.resolve(), "simulated", "no competition files were found")
