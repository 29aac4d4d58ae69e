"""Representations computed once, in parallel, and kept in memory-mapped files.

`data/processed/<fingerprint>/` holds one representation: its array, a checksum of every complete
row, and `config.json`. The fingerprint covers all that made the values: the representation's
settings, `VERSION`, the windows, the EEG files (size and time of change), those of the spectrograms
where it looks at the context, and how they were simulated. What was made otherwise lies elsewhere.
A build that is killed goes on where it was, a second one waits for the first, and rows that are not
as they were written are computed anew.
"""

import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from hmsutils import competition as ground
from hmsutils.competition import SIMULATION_FILE, Competition
from hmsutils.records import read_contexts, read_windows
from hmsutils.representations import Representation, represent, to_dict

VERSION = 4  # raise it when a representation changes its values: stored arrays are then recomputed
_EEGS_PER_TASK = 8
_WINDOWS_AT_ONCE = 16  # bounds memory for EEGs of many windows
_PLACE = ["eeg_id", "eeg_offset_s", "spectrogram_id", "spectrogram_offset_s"]


def default_dir() -> Path:
    """`data/processed` of the project; on Kaggle a temporary folder, as what lies in the working
    folder is kept, and has a limit of 20 GB."""
    if ground.kaggle_input().exists() and not os.environ.get("HMS_HOME"):
        return Path(tempfile.gettempdir()) / "hmsutils-processed"
    return ground.home_dir() / "data" / "processed"


def build(
    competition: Competition, windows: pd.DataFrame, inputs: Mapping[str, Representation], *,
    split: str = "train", out_dir: str | Path | None = None, n_jobs: int | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Compute representations of all windows, or find them computed: {name: (N, *shape)
    memory-mapped array}, rows in the order of `windows`, as stored: the representation's `decode`
    makes float32 of them. `Batches` does so by itself.

    `inputs` are representations by name, {"image": Image(), "eeg": WaveNetInput()} for example;
    `out_dir` is `data/processed` of the project where it is None. `n_jobs` processes, None: one per
    core; any joblib backend works (`joblib.parallel_config`).
    A context that cannot be read is absent, with a warning that counts them.
    OSError: the disk has not enough room, or the folder cannot be written.
    """
    base, paths = Path(out_dir or default_dir()), {}
    for name, r in inputs.items():
        data = _identity(competition, windows, split, bool(r.context_channels))
        paths[name] = base / ground.fingerprint(VERSION, r.key, data) / f"{name}.npy"
    arrays = {name: (r.shape, r.stored_as) for name, r in inputs.items()}
    whole = {k: _checksums(paths[k], len(windows), *arrays[k])[1].all() for k in inputs}
    missing = {name: r for name, r in inputs.items() if not whole[name]}
    if missing:  # computed together: files are read and repaired once
        rows = windows.filter(_PLACE).assign(row=np.arange(len(windows)))
        rows["eeg"] = pd.factorize(rows["eeg_id"])[0]
        rows = rows.sort_values("eeg", kind="stable")  # all windows of an EEG follow each other
        bounds = np.searchsorted(rows["eeg"], np.arange(rows["eeg"].nunique() + 1))
        order, columns, tasks = rows["row"].to_numpy(), rows.to_dict("list"), []
        for i in range(0, len(bounds) - 1, _EEGS_PER_TASK):
            some = bounds[i : i + _EEGS_PER_TASK + 1]
            # A plain dict of lists by EEG: Dask would lose a frame with the worker that keeps it.
            eegs = {
                columns["eeg_id"][a]: {name: values[a:b] for name, values in columns.items()}
                for a, b in pairwise(some)
            }
            tasks.append((order[some[0] : some[-1]], (competition, eegs, missing, split)))
        settings = {name: to_dict(r) for name, r in missing.items()}
        options = {"n_jobs": n_jobs, "description": f"Computing {' and '.join(missing)}"}
        todo = {name: paths[name] for name in missing}
        fill(todo, arrays, tasks, _compute, **options, settings=settings)
    made = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
    for name in [k for k, r in missing.items() if r.context_channels]:
        absent = [not row[..., inputs[name].context_channels].any() for row in made[name]]
        if any(absent):
            problem = f"{sum(absent):,} of {len(windows):,} windows"
            warnings.warn(f"store: {problem} have no readable 10-minute spectrogram", stacklevel=2)
    return made


def _identity(competition: Competition, windows: pd.DataFrame, split: str, context: bool) -> list:
    """What the stored values depend on besides the representation."""
    mark, columns = competition.root / SIMULATION_FILE, _PLACE if context else _PLACE[:2]
    files = [competition.eeg(i, split) for i in windows["eeg_id"].unique()]
    if context:  # files that may be missing
        files += [competition.spectrogram(i, split) for i in windows["spectrogram_id"].unique()]
    stats = [path.stat() if path.exists() else None for path in files]
    return [
        split,
        windows[columns].to_numpy(np.float64).tobytes(),
        [stat and (stat.st_size, stat.st_mtime_ns) for stat in stats],
        mark.read_bytes() if mark.is_file() else None,
    ]


def _compute(
    competition: Competition, eegs: dict, inputs: Mapping[str, Representation], split: str
) -> dict[str, np.ndarray]:
    """Stored values of some windows, EEG by EEG."""
    parts, looking = [], any(r.context_channels for r in inputs.values())
    for eeg_id, windows in eegs.items():
        for i in range(0, len(windows["row"]), _WINDOWS_AT_ONCE):
            some = {name: values[i : i + _WINDOWS_AT_ONCE] for name, values in windows.items()}
            eeg_uv = read_windows(competition, eeg_id, some["eeg_offset_s"], split)
            context = read_contexts(competition, some, split) if looking else None
            made = represent(inputs, eeg_uv, context)
            parts.append({name: inputs[name].encode(values) for name, values in made.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in inputs}


def fill(
    paths: Mapping[str, Path], arrays: Mapping[str, tuple[tuple[int, ...], type]],
    tasks: Sequence[tuple[np.ndarray, tuple]], work: Callable[..., Mapping[str, np.ndarray]], *,
    n_jobs: int | None = None, description: str = "", settings: Mapping = MappingProxyType({}),
) -> dict[str, np.ndarray]:  # fmt: skip
    """Fill memory-mapped arrays by tasks in parallel; a call that was killed goes on where it was.

    Args:
        paths: the `.npy` file of each array; `.done.npy` beside it holds the checksum of every
            complete row, and 0 for the others.
        arrays: shape and type of one row of each.
        tasks: rows and arguments; together all rows, the same ones in every call.
        work: arguments → {name: (rows, ...) values}; runs in other processes, one per core.
        settings: what is written into `config.json` beside an array, by name.
    """
    n_rows = sum(len(rows) for rows, _ in tasks)
    if all(_checksums(path, n_rows, *arrays[k])[1].all() for k, path in paths.items()):
        return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
    with ExitStack() as held:
        for folder in sorted({path.parent for path in paths.values()}):  # in one order
            held.enter_context(ground.locked(folder, f"store: {description}"))
        for name, values in settings.items():
            ground.write_text(paths[name].parent / "config.json", json.dumps(values))
        sums = {name: _prepare(path, n_rows, *arrays[name]) for name, path in paths.items()}
        pending = [task for task in tasks if not all(s[task[0]].all() for s in sums.values())]
        files = [path.stat() for path in paths.values()]
        needed = sum(file.st_size - 512 * file.st_blocks for file in files)  # they are sparse
        ground.require_room(folder, needed, f"store: {description}", announce=True)
        options = {"n_jobs": n_jobs or ground.default_n_jobs(), "return_as": "generator_unordered"}
        calls = (delayed(_run_task)(paths, rows, work, args) for rows, args in pending)
        total = sum(len(rows) for rows, _ in pending)
        with tqdm(desc=description, total=total, mininterval=2) as bar:
            for rows, found in Parallel(**options)(calls):
                for name, values in found.items():
                    _write(sums[name], rows, values)
                bar.update(len(rows))
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def _checksums(path: Path, n_rows: int, shape: tuple[int, ...], dtype: type) -> tuple:
    """(N,) checksums of complete rows, 0 for the others: as they were noted, None where they are
    lost, and those that the rows still have. Reads the complete rows, 0.6 s per GB."""
    data, noted = _open(path, (n_rows, *shape), dtype), _open(_done(path), (n_rows,), np.uint32)
    if data is None or noted is None:
        return noted, np.zeros(n_rows, np.uint32)
    pairs = zip(data, noted, strict=True)
    return noted, np.array([s if s and _checksum(row) == s else 0 for row, s in pairs], np.uint32)


def _checksum(row: np.ndarray) -> int:
    return zlib.crc32(row) or 1  # 0 means that the row is not complete


def _done(path: Path) -> Path:
    return path.with_suffix(".done.npy")


def _open(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap | None:
    """The memory-mapped array of a file, None where it holds no such array."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        array = np.lib.format.open_memmap(path, "r")
    except Exception:  # damaged bytes can raise anything
        return None
    return array if (array.shape, array.dtype) == (shape, dtype) else None


def _prepare(path: Path, n_rows: int, shape: tuple[int, ...], dtype: type) -> np.memmap:
    """Make an array's file unless it is there; the (N,) checksums of its rows, memory-mapped. Rows
    that are not as they were written are warned of."""
    noted, sums = _checksums(path, n_rows, shape, dtype)
    if noted is not None and (lost := (noted != sums).sum()):
        problem = f"{lost:,} of {n_rows:,} rows are not as they were written"
        warnings.warn(f"{path}: {problem}; computing them again", stacklevel=3)
    if _open(path, (n_rows, *shape), dtype) is None:
        make = partial(np.lib.format.open_memmap, mode="w+", dtype=dtype, shape=(n_rows, *shape))
        ground.write_atomically(path, make)
    ground.write_atomically(_done(path), lambda part: np.save(part, sums))
    return np.load(_done(path), mmap_mode="r")


_threads = cache(ThreadpoolController)  # to look for the libraries takes longer than an EEG


def _run_task(paths: Mapping[str, Path], rows: np.ndarray, work: Callable, args: tuple):
    """Compute some rows of all arrays and write them; returns the rows and their checksums."""
    with _threads().limit(limits=1):  # processes are the parallelism
        made = work(*args).items()
        return rows, {k: _write(np.load(paths[k], mmap_mode="r"), rows, v) for k, v in made}


def _write(output: np.memmap, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Write rows to the file of a memory map, and return their checksums. Not through the map:
    flushing would wait for the disk, and a full one would end the process."""
    values = np.asarray(values, output.dtype, order="C")
    if (wanted := (len(rows), *output.shape[1:])) != values.shape:
        raise ValueError(f"store: {output.filename}: computed {values.shape}, wanted {wanted}")
    with ground.writing(output.filename), open(output.filename, "r+b") as file:
        for row, value in zip(rows, values, strict=True):
            file.seek(output.offset + int(row) * value.nbytes)
            file.write(value)
    return np.array([_checksum(value) for value in values], np.uint32)
