"""Representations computed once, in parallel, and kept in memory-mapped files.

`data/processed/<hash>/` holds `data.npy` (one row per window), `done.npy` (which rows are complete)
and `config.json`. The hash covers the representation's config, the windows and the competition's
table, so that nothing computed otherwise can be mixed in. A build that is killed goes on where it
was.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from hmsutils.files import ELECTRODES, WINDOW_SAMPLES, Competition, project_dir
from hmsutils.records import read_eegs
from hmsutils.signals import WaveNetInputConfig, repair, wavenet_input
from hmsutils.spectrograms import ImageConfig, MelConfig, image, log_mel

TRANSFORMS: dict[type, Callable] = {  # of repaired EEG, but for log_mel
    ImageConfig: partial(image, repaired=True),
    MelConfig: log_mel,
    WaveNetInputConfig: partial(wavenet_input, repaired=True),
}
VERSION = 2  # raise it when a transform changes its values: stored arrays are then recomputed


_ROW = ["eeg_id", "eeg_offset_s", "row"]  # of a task


def represent(configs: Mapping, eeg_uv: np.ndarray) -> dict[object, np.ndarray]:
    """(N, 10000, 20) raw microvolts → the representations by name; each window is repaired once."""
    repaired = repair(eeg_uv)
    return {
        k: TRANSFORMS[type(config)](eeg_uv if isinstance(config, MelConfig) else repaired, config)
        for k, config in configs.items()
    }


def transform(config, eeg_uv: np.ndarray) -> np.ndarray:
    """(N, 10000, 20) raw microvolts → the representation that `config` describes."""
    return represent({"it": config}, eeg_uv)["it"]


def default_dir() -> Path:
    """`data/processed` of the project."""
    return project_dir() / "data" / "processed"


def config_hash(config, windows: pd.DataFrame, competition: Competition, split: str) -> str:
    """12 hexadecimal digits that name a stored representation."""
    digest = hashlib.sha256()
    description = [type(config).__name__, asdict(config), VERSION, split, str(competition.root)]
    digest.update(json.dumps(description).encode())
    digest.update((competition.root / f"{split}.csv").read_bytes())
    rows = windows[["eeg_id", "eeg_offset_s"]].to_numpy(np.float64)
    digest.update(np.ascontiguousarray(rows).tobytes())
    return digest.hexdigest()[:12]


def build(
    competition: Competition,
    windows: pd.DataFrame,
    configs: Mapping[str, ImageConfig | MelConfig | WaveNetInputConfig],
    *,
    split: str = "train",
    out_dir: str | Path | None = None,
    n_jobs: int | None = None,
) -> dict[str, np.ndarray]:
    """Compute representations of all windows, or find them computed.

    Args:
        competition, windows, split: from `files` and `records`.
        configs: representations by name, for example {"image": ImageConfig(), "eeg": …}.
        out_dir: None: `data/processed` of the project.
        n_jobs: processes; None: one per core. Any joblib backend works (`joblib.parallel_config`).

    Returns:
        {name: (N, ...) float16 memory-mapped array}, rows in the order of `windows`.
    """
    base = Path(out_dir) if out_dir is not None else default_dir()
    folders = {k: base / config_hash(c, windows, competition, split) for k, c in configs.items()}
    done = {k: _prepare(folders[k], configs[k], len(windows)) for k in configs}
    pending = {k: configs[k] for k in configs if not done[k].all()}
    if pending:
        missing = np.flatnonzero(~np.all([done[k] for k in pending], axis=0))
        rows = windows[_ROW[:-1]].assign(row=np.arange(len(windows))).iloc[missing]
        tasks = Parallel(n_jobs or os.cpu_count(), return_as="generator_unordered")(
            delayed(_compute)(competition, task, pending, folders, split) for task in _tasks(rows)
        )
        with tqdm(desc=f"Computing {' and '.join(pending)}", total=len(rows), mininterval=1) as bar:
            for finished in tasks:
                for k in pending:
                    done[k][finished] = True
                bar.update(len(finished))
    return {k: np.load(folder / "data.npy", mmap_mode="r") for k, folder in folders.items()}


def _prepare(folder: Path, config, n_windows: int) -> np.ndarray:
    """Make a store's folder unless it is there; the (N,) memory-mapped flags of complete rows."""
    flags = folder / "done.npy"
    if not flags.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
        shape = transform(config, np.zeros((1, WINDOW_SAMPLES, len(ELECTRODES)), np.float32)).shape
        np.lib.format.open_memmap(folder / "data.npy", "w+", np.float16, (n_windows, *shape[1:]))
        np.lib.format.open_memmap(flags, "w+", bool, (n_windows,)).flush()
    return np.load(flags, mmap_mode="r+")


def _tasks(rows: pd.DataFrame, eegs_per_task: int = 8) -> Iterator[list[tuple]]:
    """Split windows into tasks; all windows of an EEG stay together, so its file is read once.

    Plain lists: Dask would keep a frame on one worker, and lose it with that worker.
    """
    task = rows.groupby("eeg_id", sort=False).ngroup() // eegs_per_task
    return (
        list(group.itertuples(index=False, name=None))
        for _, group in rows.groupby(task, sort=False)
    )


def _compute(competition, task: list[tuple], configs, folders, split: str) -> np.ndarray:
    """Compute and write some rows of every store; returns which."""
    rows = pd.DataFrame(task, columns=_ROW)
    outputs = {k: np.load(folders[k] / "data.npy", mmap_mode="r") for k in configs}
    with threadpool_limits(1):  # processes are the parallelism
        for eeg_id, group in rows.groupby("eeg_id", sort=False):
            for start in range(0, len(group), 16):  # bounds memory for EEGs of many windows
                part = group.iloc[start : start + 16]
                eeg_uv = read_eegs(competition, eeg_id, part["eeg_offset_s"].tolist(), split)
                for k, array in represent(configs, eeg_uv).items():
                    _write(outputs[k], part["row"], array)
    return rows["row"].to_numpy()


def _write(output: np.memmap, rows: Iterable[int], array: np.ndarray) -> None:
    """Write rows to the file of a memory map. Not through it: flushing would wait for the disk."""
    array = np.asarray(array, np.float16, order="C")
    with open(output.filename, "r+b") as file:
        for row, values in zip(rows, array, strict=True):
            file.seek(output.offset + row * values.nbytes)
            file.write(values)
