"""Rows of the competition's tables → validated windows; votes → targets; folds by patient; raw EEG.

A window is one labelled row: `eeg_id, eeg_sub_id, eeg_offset_s, spectrogram_id,
spectrogram_offset_s, label_id, patient_id, expert_consensus`, six vote columns, `n_votes`, six
target columns that sum to 1, and `data_id`, the same in all rows, which names the EEG files.
Windows of the test split have no votes, one row per EEG, offset 0, and `label_id` = `eeg_id`.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedGroupKFold

from hmsutils import competition as ground
from hmsutils.competition import ELECTRODES, SFREQ_HZ, TARGET_COLUMNS, VOTE_COLUMNS, Competition

_TEST_COLUMNS = ["eeg_id", "spectrogram_id", "patient_id"]
_TRAIN_COLUMNS = [
    *("eeg_id", "eeg_sub_id", "eeg_label_offset_seconds", "spectrogram_id"),
    *("spectrogram_label_offset_seconds", "label_id", "patient_id", "expert_consensus"),
    *VOTE_COLUMNS,
]
_WINDOW = f"{ground.WINDOW_S} s at {SFREQ_HZ} Hz"
_SHORT = {f"{kind}_label_offset_seconds": f"{kind}_offset_s" for kind in ("eeg", "spectrogram")}


def load_windows(
    competition: Competition, split: str = "train", *, on_problem: str = "raise"
) -> pd.DataFrame:
    """Read and check a split, "train" or "test": one row per window, see this module's docstring.

    Rows that cannot be used (no EEG file, one too short for the offset, repeated `label_id`, no
    votes, a negative or odd offset) raise ValueError, as does a missing column. With
    `on_problem="exclude"` those of train are left out with a warning that names the files; a
    submission needs every test row. FileNotFoundError: no table for the split.
    """
    path = competition.root / f"{split}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; is that the competition's folder?")
    table, columns = pd.read_csv(path), _TRAIN_COLUMNS if split == "train" else _TEST_COLUMNS
    if missing := [name for name in columns if name not in table]:
        raise ValueError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(table.columns)}; "
            f"download the file again"
        )
    windows = table[columns].rename(columns=_SHORT)
    if split == "train":
        votes = windows[list(VOTE_COLUMNS)].to_numpy(np.float64)
        windows["n_votes"] = votes.sum(axis=1).astype(int)
        windows[list(TARGET_COLUMNS)] = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    else:
        windows = windows.assign(eeg_sub_id=0, eeg_offset_s=0.0, label_id=windows["eeg_id"])
        windows["spectrogram_offset_s"] = 0.0
    problems = _problems(windows, competition, split)
    if (bad := problems != "").any():
        shown = "\n  ".join(problems[bad].unique()[:5])
        report = (
            f"{path}: {bad.sum()} of {len(windows)} rows cannot be used, for example\n  {shown}\n"
            f"Download those files again, or drop the rows with load_windows(on_problem='exclude')"
        )
        if on_problem != "exclude" or split != "train":
            raise ValueError(report)
        warnings.warn(report, stacklevel=2)
    return windows[~bad].reset_index(drop=True).assign(data_id=data_id(competition, split))


def data_id(competition: Competition, split: str = "train") -> str:
    """12 hexadecimal digits that name a split's EEG files: ids, sizes, and how they were simulated;
    the same on every machine, so that a run is found again wherever its data are."""
    ids = np.unique(pd.read_csv(competition.root / f"{split}.csv", usecols=["eeg_id"])["eeg_id"])
    paths = [competition.eeg(eeg_id, split) for eeg_id in ids]
    sizes = [(path.name, path.stat().st_size) for path in paths if path.exists()]
    mark = competition.root / ground.SIMULATION_FILE
    return ground.fingerprint(sizes, mark.read_bytes() if mark.exists() else None)


def _problems(windows: pd.DataFrame, competition: Competition, split: str) -> pd.Series:
    """One sentence per unusable row, on the first check that it fails; "" for the others."""
    paths = {eeg_id: competition.eeg(eeg_id, split) for eeg_id in windows["eeg_id"].unique()}
    n_rows = {i: pq.read_metadata(p).num_rows if p.exists() else -1 for i, p in paths.items()}
    available, offset = windows["eeg_id"].map(n_rows), windows["eeg_offset_s"]
    needed = (offset * SFREQ_HZ + ground.WINDOW_SAMPLES).round()
    row = "row " + windows["label_id"].astype(str) + ": "
    name = f"{split}_eegs/" + windows["eeg_id"].astype(str) + ".parquet: "
    short = name + available.astype(str) + " samples, but offset " + offset.astype(str)
    short += " s needs " + needed.astype(int).astype(str) + f" ({_WINDOW})"
    checks = [
        (windows["label_id"].duplicated(), row + "the row appears twice"),
        (available < 0, name + "no such file"),
        (available < needed, short),
        ((offset < 0) | (offset % 2 != 0), row + "offset " + offset.astype(str) + " s is not even"),
    ]
    if split == "train":
        negative = (windows[list(VOTE_COLUMNS)] < 0).any(axis=1)
        checks.append((negative | (windows["n_votes"] < 1), row + "no valid votes"))
    failed, sentences = zip(*checks, strict=True)
    return pd.Series(np.select(failed, sentences, ""), windows.index)


def targets(windows: pd.DataFrame) -> np.ndarray:
    """(N, 6) float64 vote shares, classes in the competition's order."""
    return windows[list(TARGET_COLUMNS)].to_numpy(np.float64)


def label_groups(windows: pd.DataFrame, max_rows: int = 5) -> pd.DataFrame:
    """Label groups: rows of one EEG that follow each other with equal votes, seconds apart.

    At most `max_rows` of each stay, evenly spread (odd: with the middle one), in their order, and
    get a number, `label_group`; `is_representative` is true for the middle one (of two: the first).
    """
    ordered = windows.sort_values(["eeg_id", "eeg_offset_s"], kind="stable")
    keys = ordered[["eeg_id", *VOTE_COLUMNS]]
    group = (keys != keys.shift()).any(axis=1).cumsum().to_numpy() - 1
    first, size = np.unique(group, return_index=True, return_counts=True)[1:]
    positions = [
        start + ((2 * np.arange(k) + 1) * n - 1) // (2 * k)
        for start, n, k in zip(first, size, np.minimum(max_rows, size), strict=True)
    ]
    ordered = ordered.assign(label_group=group, is_representative=False)
    ordered.iloc[first + (size - 1) // 2, -1] = True
    chosen = ordered.iloc[np.concatenate(positions)]
    return chosen.loc[windows.index[windows.index.isin(chosen.index)]].reset_index(drop=True)


def one_per_vote_run(windows: pd.DataFrame) -> pd.DataFrame:
    """The middle row of every run of equal votes in an EEG, see `label_groups`."""
    return label_groups(windows, 1).drop(columns=["label_group", "is_representative"])


def assign_folds(windows: pd.DataFrame, n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Add a column `fold`: no patient in two folds, classes spread evenly; ValueError where there
    are fewer patients than folds."""
    if (n := windows["patient_id"].nunique()) < n_folds:
        raise ValueError(f"assign_folds: {n} patients cannot fill {n_folds} folds; ask for fewer")
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    label, fold = windows["expert_consensus"].map(ground.CLASSES.index), np.empty(len(windows), int)
    with warnings.catch_warnings():  # a class with fewer rows than folds is no error here
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for i, (_, held_out) in enumerate(splitter.split(windows, label, windows["patient_id"])):
            fold[held_out] = i
    return windows.assign(fold=fold)


def read_eeg(
    competition: Competition, eeg_id: int, offset_s: float = 0.0, split: str = "train"
) -> np.ndarray:
    """50 s of raw EEG: (10000, 20) float32 microvolts at 200 Hz, columns as in `ELECTRODES`, NaN
    kept. FileNotFoundError: no such file. ValueError: it lacks an electrode or ends too early."""
    return read_windows(competition, eeg_id, [offset_s], split)[0].T


def read_windows(
    competition: Competition, eeg_id: int, offsets_s: list[float], split: str = "train"
) -> np.ndarray:
    """(N, 20, 10000) windows of one EEG, time last; its file is read once. See `read_eeg`."""
    path = competition.eeg(eeg_id, split)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; download it again or drop its rows")
    # ParquetFile, not read_table: 2.7 times faster on such small files.
    file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    if missing := set(ELECTRODES).difference(file.schema_arrow.names):
        raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; download the file again")
    starts, n_rows = [round(offset_s * SFREQ_HZ) for offset_s in offsets_s], file.metadata.num_rows
    ends = [start + ground.WINDOW_SAMPLES for start in starts]
    for start, end in zip(starts, ends, strict=True):
        if start < 0 or end > n_rows:
            raise ValueError(
                f"{path}: {n_rows:,} rows, but offset {start / SFREQ_HZ:g} s needs {end:,} "
                f"({_WINDOW}); drop the row or download the file again"
            )
    eeg_uv, filled = np.empty((len(ELECTRODES), max(ends)), np.float32), 0
    for batch in file.iter_batches(eeg_uv.shape[1], columns=list(ELECTRODES), use_threads=False):
        part = eeg_uv[:, filled : filled + len(batch)]
        for row, name in zip(part, ELECTRODES, strict=True):
            row[:] = batch[name].to_numpy(zero_copy_only=False)[: len(row)]
        filled += len(batch)
        if filled >= eeg_uv.shape[1]:  # what follows is not needed
            break
    return np.stack([eeg_uv[:, i:j] for i, j in zip(starts, ends, strict=True)])


def read_spectrogram(
    competition: Competition, spectrogram_id: int, offset_s: float = 0.0, split: str = "train"
) -> np.ndarray:
    """10 minutes of the official spectrogram: (300, 4, 100) float32 µV²/Hz, one row per 2 s,
    regions LL, RL, LP, RP, 0.59 … 19.92 Hz, NaN kept. FileNotFoundError: no such file. ValueError:
    not 400 columns beside `time`, or the file ends too early."""
    path = competition.spectrogram(spectrogram_id, split)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; the EEG alone is enough for every model")
    table = pd.read_parquet(path).drop(columns="time")
    rows = table.to_numpy(np.float32)[round(offset_s / 2) :][:300]
    if rows.shape != (300, 400):
        raise ValueError(f"{path}: offset {offset_s} s leaves {rows.shape}, wanted (300, 400)")
    return rows.reshape(300, 4, 100)


def write_competition(
    root: str | Path, eegs: Mapping[int, np.ndarray], table: pd.DataFrame
) -> Competition:
    """Write another EEG data set in the competition's layout; everything after works on it.

    Args:
        eegs: by `eeg_id`, a whole number: (T, 20) microvolts at 200 Hz, columns as in `ELECTRODES`.
        table: one row per labelled window: `eeg_id`, `patient_id` and the counts of the six votes;
            the window begins at `eeg_label_offset_seconds` (absent: 0). Patients are numbered.

    ValueError: a missing column, an EEG that is missing or of another shape, votes that are no
    counts. FileExistsError: the folder holds a competition.
    """
    root, needed = Path(root), ("eeg_id", "patient_id", *VOTE_COLUMNS)
    if (root / "train.csv").exists():
        raise FileExistsError(f"write_competition: {root} holds a train.csv; name another folder")
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"write_competition: the table has no column {', '.join(missing)}")
    if strange := sorted(set(map(str, table["eeg_id"])) - {str(int(i)) for i in eegs}):
        raise ValueError(f"write_competition: eeg_id {strange[0]} is not among the EEGs' numbers")
    votes = table[list(VOTE_COLUMNS)].to_numpy(np.float64)
    if not (votes == np.abs(np.rint(votes))).all():
        raise ValueError("write_competition: votes that are no counts; pass numbers of raters")
    table = table.assign(patient_id=pd.factorize(table["patient_id"])[0])
    most_votes = votes.argmax(axis=1)
    defaults = {"eeg_sub_id": 0, "spectrogram_sub_id": 0, **dict.fromkeys(_SHORT, 0.0)}
    defaults |= {"spectrogram_id": table["eeg_id"], "label_id": np.arange(len(table))}
    defaults |= {"expert_consensus": np.take(ground.CLASSES, most_votes)}
    (root / "train_eegs").mkdir(parents=True, exist_ok=True)
    for eeg_id, eeg_uv in eegs.items():
        if np.shape(eeg_uv)[1:] != (len(ELECTRODES),):
            raise ValueError(
                f"write_competition: EEG {eeg_id} is {np.shape(eeg_uv)}, wanted (T, "
                f"{len(ELECTRODES)}) with the columns {' '.join(ELECTRODES)}"
            )
        frame = pd.DataFrame(np.asarray(eeg_uv, np.float32), columns=list(ELECTRODES))
        ground.write_atomically(root / "train_eegs" / f"{eeg_id}.parquet", frame.to_parquet)
    whole = table.assign(**{k: v for k, v in defaults.items() if k not in table})
    ground.write_atomically(root / "train.csv", lambda path: whole.to_csv(path, index=False))
    return Competition(root.resolve(), "local", "written by write_competition")
