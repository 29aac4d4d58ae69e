"""Representations computed once, in parallel, and kept in memory-mapped files.

`data/processed/<fingerprint>/` holds one representation: its array, which rows of it are complete,
and `config.json`. The fingerprint covers all that made the values: the representation's settings,
`VERSION`, the windows, the EEG files (size and time of change) and how they were simulated. What
was made otherwise lies elsewhere. A build that is killed goes on where it was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils import competition as ground
from hmsutils.competition import SIMULATION_FILE, Competition
from hmsutils.records import read_windows
from hmsutils.representations import Representation, represent, to_dict

VERSION = 3  # raise it when a representation changes its values: stored arrays are then recomputed
_EEGS_PER_TASK = 8
_WINDOWS_AT_ONCE = 16  # bounds memory for EEGs of many windows


def default_dir() -> Path:
    """`data/processed` of the project."""
    return ground.home_dir() / "data" / "processed"


def build(
    competition: Competition,
    windows: pd.DataFrame,
    inputs: Mapping[str, Representation],
    *,
    split: str = "train",
    out_dir: str | Path | None = None,
    n_jobs: int | None = None,
) -> dict[str, np.ndarray]:
    """Compute representations of all windows, or find them computed.

    Args:
        inputs: representations by name, for example {"image": Image(), "eeg": WaveNetInput()}.
        out_dir: None: `data/processed` of the project.
        n_jobs: processes; None: one per core. Any joblib backend works (`joblib.parallel_config`).

    Returns:
        {name: (N, *shape) memory-mapped array}, rows in the order of `windows`, as stored: the
        representation's `decode` makes float32 of them. `Batches` does so by itself.
    """
    base, data = Path(out_dir or default_dir()), _identity(competition, windows, split)
    paths = {
        k: base / ground.fingerprint(VERSION, r.key, data) / f"{k}.npy" for k, r in inputs.items()
    }
    # Computed together: files are read and repaired once.
    flags = {k: path.with_suffix(".done.npy") for k, path in paths.items()}
    missing = {
        k: r for k, r in inputs.items() if not (flags[k].exists() and np.load(flags[k]).all())
    }
    rows = windows[["eeg_id", "eeg_offset_s"]].assign(row=np.arange(len(windows)))
    rows["eeg"] = pd.factorize(rows["eeg_id"])[0]
    rows = rows.sort_values("eeg", kind="stable")  # all windows of an EEG follow each other
    tasks = []
    for _, part in rows.groupby(rows["eeg"] // _EEGS_PER_TASK):
        # A plain dict of offsets by EEG: Dask would lose a frame with the worker that keeps it.
        offsets_s = part.groupby("eeg_id", sort=False)["eeg_offset_s"].agg(list).to_dict()
        tasks.append((part["row"].to_numpy(), (competition, offsets_s, missing, split)))
    for name in missing:
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        (paths[name].parent / "config.json").write_text(json.dumps(to_dict(inputs[name])))
    arrays = {name: (r.shape, r.stored_as) for name, r in missing.items()}
    options = {"n_jobs": n_jobs, "description": f"Computing {' and '.join(missing)}"}
    fill({name: paths[name] for name in missing}, arrays, tasks, _compute, **options)
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def _identity(competition: Competition, windows: pd.DataFrame, split: str) -> list:
    """What the stored values depend on besides the representation."""
    mark = competition.root / SIMULATION_FILE
    stats = [competition.eeg(i, split).stat() for i in windows["eeg_id"].unique()]
    return [
        split,
        windows[["eeg_id", "eeg_offset_s"]].to_numpy(np.float64).tobytes(),
        [(stat.st_size, stat.st_mtime_ns) for stat in stats],
        mark.read_bytes() if mark.exists() else None,
    ]


def _compute(
    competition: Competition, offsets_s: dict, inputs: Mapping[str, Representation], split: str
) -> dict[str, np.ndarray]:
    """Stored values of some windows, EEG by EEG."""
    parts = []
    for eeg_id, offsets in offsets_s.items():
        for i in range(0, len(offsets), _WINDOWS_AT_ONCE):
            some = offsets[i : i + _WINDOWS_AT_ONCE]
            made = represent(inputs, read_windows(competition, eeg_id, some, split))
            parts.append({name: inputs[name].encode(values) for name, values in made.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in inputs}


def fill(
    paths: Mapping[str, Path],
    arrays: Mapping[str, tuple[tuple[int, ...], type]],
    tasks: Sequence[tuple[np.ndarray, tuple]],
    work: Callable[..., Mapping[str, np.ndarray]],
    *,
    n_jobs: int | None = None,
    description: str = "",
) -> dict[str, np.ndarray]:
    """Fill memory-mapped arrays by tasks in parallel; a call that was killed goes on where it was.

    Args:
        paths: the `.npy` file of each array; `.done.npy` beside it tells the complete rows.
        arrays: shape and type of one row of each.
        tasks: rows and arguments; together all rows, the same ones in every call.
        work: arguments → {name: (rows, ...) values}; runs in other processes.
        n_jobs: processes; None: one per core.
    """
    n_rows = sum(len(rows) for rows, _ in tasks)
    done = {name: _prepare(paths[name], n_rows, *arrays[name]) for name in paths}
    pending = [task for task in tasks if not all(flags[task[0]].all() for flags in done.values())]
    if pending:
        finished = Parallel(n_jobs or ground.default_n_jobs(), return_as="generator_unordered")(
            delayed(_run_task)(paths, rows, work, args) for rows, args in pending
        )
        total = sum(len(rows) for rows, _ in pending)
        with tqdm(desc=description, total=total, mininterval=2) as bar:
            for rows in finished:
                for flags in done.values():
                    flags[rows] = True
                bar.update(len(rows))
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def _prepare(path: Path, n_rows: int, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Make an array's file unless it is there; the (N,) memory-mapped flags of complete rows."""
    flags = path.with_suffix(".done.npy")
    if not flags.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.lib.format.open_memmap(path, "w+", dtype, (n_rows, *shape))
        ground.write_atomically(flags, lambda part: np.save(part, np.zeros(n_rows, bool)))
    return np.load(flags, mmap_mode="r+")


def _run_task(paths: Mapping[str, Path], rows: np.ndarray, work: Callable, args: tuple):
    """Compute some rows of all arrays and write them; returns the rows."""
    with threadpool_limits(1):  # processes are the parallelism
        for name, values in work(*args).items():
            _write(np.load(paths[name], mmap_mode="r"), rows, values)
    return rows


def _write(output: np.memmap, rows: np.ndarray, values: np.ndarray) -> None:
    """Write rows to the file of a memory map. Not through it: flushing would wait for the disk."""
    with open(output.filename, "r+b") as file:
        for row, value in zip(rows, np.asarray(values, output.dtype, order="C"), strict=True):
            file.seek(output.offset + int(row) * value.nbytes)
            file.write(value)
