"""Find the competition's files, or make the simulated competition."""

import json
import os
from pathlib import Path

from hmsutils.competition import SIMULATION_FILE, SLUG, Competition, home_dir, kaggle_input, reading


def find_competition(
    path: str | Path | None = None, *, verbose: bool = True, simulate: bool = True
) -> Competition | None:
    """The first of these that holds a `train.csv` or `test.csv`, itself or up to two folders down,
    as unpacking leaves them: `path` (and nothing else, if it is given); Kaggle's mounts, new
    (`competitions/<slug>`) and old (`<slug>`); the environment variable `HMS_DATA_DIR`, else
    `data/raw`. Where none does, `data/demo` is simulated on first use, or None is returned without
    `simulate`; files that it lacks are made again. With `verbose`, what was taken and why is
    printed. ValueError: two such folders in one place.
    FileNotFoundError: `path` or `HMS_DATA_DIR` is set and is no such folder."""
    named = os.environ.get("HMS_DATA_DIR") or None if path is None else path
    reason = "HMS_DATA_DIR names it" if path is None else "it was asked for"
    places = [
        (kaggle_input() / "competitions" / SLUG, "kaggle", "Kaggle mounts it there"),
        (kaggle_input() / SLUG, "kaggle", "Kaggle used to mount it there"),
        (home_dir() / "data" / "raw", "local", "data/raw holds the files"),
    ]
    if named is not None:
        places = (places[:2] if path is None else []) + [(Path(named), "local", reason)]
    for place, kind, why in places:
        if len(found := _holders(place)) > 1:
            problem = f"{place}: tables in {' and in '.join(str(root) for root in found)}"
            raise ValueError(f"{problem}; name one in HMS_DATA_DIR, or remove the other")
        for root in found:
            kind = "simulated" if (root / SIMULATION_FILE).exists() else kind
            why += "" if root == place else f", in a folder of {place.name}"
            return _announce(Competition(root.resolve(), kind, why), verbose)
    if named is not None:
        raise FileNotFoundError(
            f"{named}: no train.csv or test.csv there, but {reason}; point it at the folder that "
            f"holds the competition's files, or leave it unset for the simulated competition"
        )
    if not simulate:
        return None
    demo = home_dir() / "data" / "demo"
    mark = read_mark(demo)
    n_files = sum(1 for _ in demo.glob("*_*/*.parquet"))
    if not (demo / "train.csv").exists() or n_files < mark.get("files", 0):
        from hmsutils.simulate import simulate_competition  # the only import of a later module

        simulate_competition(demo, **{k: mark[k] for k in ("n_patients", "seed") if k in mark})
    why, raw = "no competition files were found", home_dir() / "data" / "raw"
    if left := sorted(path.name for path in raw.glob("[!.]*")):
        why += f": data/raw holds {', '.join(left[:3])}, but neither train.csv nor test.csv"
    return _announce(Competition(demo.resolve(), "simulated", why), verbose)


def _holders(place: Path) -> list[Path]:
    """The folders that hold a table, of the first level that has any: here, one down, two down."""
    for level in ("", "*/", "*/*/"):
        paths = [*place.glob(f"{level}train.csv"), *place.glob(f"{level}test.csv")]
        names = {path: path.relative_to(place).parts[:-1] for path in paths}
        paths = [p for p in paths if p.is_file() and not any(n[0] in "._" for n in names[p])]
        mark = SIMULATION_FILE  # where one is simulated, train.csv is written last
        whole = [p for p in paths if p.name == "train.csv" or not (p.parent / mark).exists()]
        if whole:
            return sorted({path.parent for path in whole})
    return []


def read_mark(root: Path) -> dict:
    """What made a simulated folder, and how many Parquet files it must hold; {} where it is none.
    ValueError: `simulation.json` is damaged."""
    path = root / SIMULATION_FILE
    if not path.is_file():
        return {}
    with reading(path, "damaged", "delete this folder and simulate it again"):
        mark = json.loads(path.read_text())
        if not all(type(value) is int for value in mark.values()):
            raise ValueError(f"{mark}, wanted whole numbers by name")
        return mark


def _announce(competition: Competition, verbose: bool) -> Competition:
    if verbose:
        root, home = competition.root, home_dir().resolve()
        shown = root.relative_to(home) if root.is_relative_to(home) else root
        print(f"Competition: {competition.kind}, {shown} ({competition.why})")
    return competition
