"""Rows of the competition's tables → validated windows; votes → targets; folds by patient; raw EEG.

A window is one labelled row: `eeg_id, eeg_sub_id, eeg_offset_s, spectrogram_id,
spectrogram_offset_s, label_id, patient_id, expert_consensus`, six vote columns, `n_votes`, six
target columns that sum to 1. Windows of the test split have no votes, one row per EEG, offset 0,
and `label_id` = `eeg_id`.
"""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedGroupKFold

from hmsutils.files import (
    CLASSES,
    ELECTRODES,
    SFREQ_HZ,
    TARGET_COLUMNS,
    VOTE_COLUMNS,
    WINDOW_S,
    WINDOW_SAMPLES,
    Competition,
)

_TRAIN_COLUMNS = {
    "eeg_id": "eeg_id",
    "eeg_sub_id": "eeg_sub_id",
    "eeg_label_offset_seconds": "eeg_offset_s",
    "spectrogram_id": "spectrogram_id",
    "spectrogram_label_offset_seconds": "spectrogram_offset_s",
    "label_id": "label_id",
    "patient_id": "patient_id",
    "expert_consensus": "expert_consensus",
    **{column: column for column in VOTE_COLUMNS},
}
_TEST_COLUMNS = {name: name for name in ("eeg_id", "spectrogram_id", "patient_id")}


def load_windows(
    competition: Competition, split: str = "train", *, on_problem: str = "raise"
) -> pd.DataFrame:
    """Read and check the rows of a split.

    Args:
        competition: where the files are.
        split: "train" or "test".
        on_problem: what to do with rows that cannot be used (no EEG file, EEG too short for the
            offset, repeated `label_id`, no votes, a negative or odd offset): "raise", or "exclude"
            them with a warning that names the files. Test rows are never excluded: a submission
            needs them all.

    Returns:
        One row per window, index 0 … N-1, columns as in the module's docstring.

    Raises:
        FileNotFoundError: no table for the split.
        ValueError: a column is missing, or rows cannot be used.
    """
    path = competition.root / f"{split}.csv"
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: not found; is {competition.root} the competition's folder?"
        )
    table = pd.read_csv(path)
    columns = _TRAIN_COLUMNS if split == "train" else _TEST_COLUMNS
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(table.columns)}; "
            f"download the file again"
        )
    windows = table[list(columns)].rename(columns=columns)
    if split == "train":
        windows = _with_targets(windows)
    else:
        windows = windows.assign(eeg_sub_id=0, eeg_offset_s=0.0, label_id=windows["eeg_id"])
        windows["spectrogram_offset_s"] = 0.0
    problems = _problems(windows, competition, split)
    bad = problems != ""
    if bad.any():
        shown = "\n  ".join(problems[bad].unique()[:5])
        report = (
            f"{path}: {bad.sum()} of {len(windows)} rows cannot be used, for example\n  {shown}\n"
            f"Download those files again, or drop the rows with load_windows(on_problem='exclude')"
        )
        if on_problem != "exclude" or split != "train":
            raise ValueError(report)
        warnings.warn(report, stacklevel=2)
    return windows[~bad].reset_index(drop=True)


def _with_targets(windows: pd.DataFrame) -> pd.DataFrame:
    votes = windows[list(VOTE_COLUMNS)].to_numpy(np.float64)
    n_votes = votes.sum(axis=1)
    target = votes / np.maximum(n_votes, 1)[:, None]
    frame = pd.DataFrame(target, columns=list(TARGET_COLUMNS), index=windows.index)
    return windows.assign(n_votes=n_votes.astype(int)).join(frame)


def _problems(windows: pd.DataFrame, competition: Competition, split: str) -> pd.Series:
    """One sentence per unusable row, "" for the others."""
    out = pd.Series("", index=windows.index)
    n_rows = {}
    for eeg_id in windows["eeg_id"].unique():
        path = competition.eeg(eeg_id, split)
        n_rows[eeg_id] = pq.read_metadata(path).num_rows if path.exists() else -1
    available = windows["eeg_id"].map(n_rows)
    offset = windows["eeg_offset_s"]
    name = f"{split}_eegs/" + windows["eeg_id"].astype(str) + ".parquet: "
    row = "row " + windows["label_id"].astype(str) + ": "
    needed = (offset * SFREQ_HZ + WINDOW_SAMPLES).round()
    repeated = windows["label_id" if split == "train" else "eeg_id"].duplicated()
    checks = [
        (repeated, row + "the row appears twice"),
        (available < 0, name + "no such file"),
        (
            (available >= 0) & (available < needed),
            name + available.astype(str) + " samples, but offset " + offset.astype(str)
            + " s needs " + needed.astype(int).astype(str) + f" ({WINDOW_S} s at {SFREQ_HZ} Hz)",
        ),
        ((offset < 0) | (offset % 2 != 0), row + "offset " + offset.astype(str) + " s is not even"),
    ]  # fmt: skip
    if split == "train":
        votes = windows[list(VOTE_COLUMNS)]
        checks.append(((windows["n_votes"] < 1) | (votes < 0).any(axis=1), row + "no valid votes"))
    for mask, sentence in checks:
        out = out.where(~mask | (out != ""), sentence)
    return out


def targets(windows: pd.DataFrame) -> np.ndarray:
    """(N, 6) float64 vote shares, classes in the competition's order."""
    return windows[list(TARGET_COLUMNS)].to_numpy(np.float64)


def vote_runs(windows: pd.DataFrame, most: int = 5) -> pd.DataFrame:
    """Some rows of every run of equal votes in an EEG: near-duplicates, shifted in time.

    Args:
        windows: from `load_windows`; left unchanged.
        most: rows of a run that are kept, evenly spread; odd, to have the middle one among them.

    Returns:
        A subset of the rows in their order, index 0 … M-1, with two more columns: `vote_run`, the
        number of the run, and `middle`, true for one row of each (of an even run, the earlier).
    """
    ordered = windows.sort_values(["eeg_id", "eeg_offset_s"], kind="stable")
    keys = ordered[["eeg_id", *VOTE_COLUMNS]]
    run = (keys != keys.shift()).any(axis=1).cumsum().to_numpy() - 1
    first, size = np.unique(run, return_index=True, return_counts=True)[1:]
    kept = np.minimum(most, size)
    places = [
        start + ((2 * np.arange(k) + 1) * n - 1) // (2 * k)
        for start, n, k in zip(first, size, kept, strict=True)
    ]
    middle = np.zeros(len(ordered), bool)
    middle[first + (size - 1) // 2] = True
    chosen = ordered.assign(vote_run=run, middle=middle).iloc[np.concatenate(places)]
    return chosen.loc[windows.index[windows.index.isin(chosen.index)]].reset_index(drop=True)


def one_per_vote_run(windows: pd.DataFrame) -> pd.DataFrame:
    """The middle row of every run of equal votes in an EEG, see `vote_runs`."""
    return vote_runs(windows, 1).drop(columns=["vote_run", "middle"])


def published_predictions(competition: Competition, windows: pd.DataFrame) -> np.ndarray:
    """(N, 6) SPaRCNet's own predictions for the real sample recordings, as published with them.

    Raises:
        FileNotFoundError: the competition has no `sparcnet_predictions.csv`.
    """
    path = competition.root / "sparcnet_predictions.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; only the real sample recordings have it")
    columns = [f"{name.lower()}_sparcnet" for name in CLASSES]
    return pd.read_csv(path).set_index("eeg_id").loc[windows["eeg_id"], columns].to_numpy()


def assign_folds(windows: pd.DataFrame, n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Add a column `fold`: no patient in two folds, classes spread evenly.

    Args:
        windows: from `load_windows`; left unchanged.

    Raises:
        ValueError: fewer patients than folds.
    """
    patients = windows["patient_id"].nunique()
    if patients < n_folds:
        raise ValueError(
            f"assign_folds: {patients} patients cannot fill {n_folds} folds; ask for fewer"
        )
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    labels = windows["expert_consensus"].map({name: i for i, name in enumerate(CLASSES)})
    fold = np.empty(len(windows), int)
    with warnings.catch_warnings():  # a class with fewer rows than folds is no error here
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for i, (_, held_out) in enumerate(splitter.split(windows, labels, windows["patient_id"])):
            fold[held_out] = i
    return windows.assign(fold=fold)


def read_eeg(
    competition: Competition, eeg_id: int, offset_s: float = 0.0, split: str = "train"
) -> np.ndarray:
    """50 s of raw EEG.

    Returns:
        (10000, 20) float32 microvolts at 200 Hz, columns as in `ELECTRODES`; NaN are kept.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an electrode is missing, or the recording ends before the window does.
    """
    return read_eegs(competition, eeg_id, [offset_s], split)[0]


def read_eegs(
    competition: Competition, eeg_id: int, offsets_s: list[float], split: str = "train"
) -> np.ndarray:
    """(N, 10000, 20): several windows of one EEG, whose file is read once; see `read_eeg`."""
    path = competition.eeg(eeg_id, split)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; download it again or drop its rows")
    # ParquetFile, not read_table: 2.7 times faster on such small files.
    file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    missing = set(ELECTRODES).difference(file.schema_arrow.names)
    if missing:
        raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; download the file again")
    starts, n_rows = [round(offset_s * SFREQ_HZ) for offset_s in offsets_s], file.metadata.num_rows
    for start in starts:
        if start < 0 or start + WINDOW_SAMPLES > n_rows:
            raise ValueError(
                f"{path}: {n_rows:,} rows, but offset {start / SFREQ_HZ:g} s needs "
                f"{start + WINDOW_SAMPLES:,} ({WINDOW_S} s at {SFREQ_HZ} Hz); drop the row or "
                f"download the file again"
            )
    eeg_uv = np.empty((len(ELECTRODES), max(starts) + WINDOW_SAMPLES), np.float32)
    filled = 0
    for batch in file.iter_batches(eeg_uv.shape[1], columns=list(ELECTRODES), use_threads=False):
        part = eeg_uv[:, filled : filled + len(batch)]
        for row, name in zip(part, ELECTRODES, strict=True):
            row[:] = batch[name].to_numpy(zero_copy_only=False)[: len(row)]
        filled += len(batch)
        if filled >= eeg_uv.shape[1]:  # what follows is not needed
            break
    windows = np.stack([eeg_uv[:, start : start + WINDOW_SAMPLES] for start in starts])
    return np.swapaxes(windows, 1, 2)


def read_spectrogram(
    competition: Competition, spectrogram_id: int, offset_s: float = 0.0, split: str = "train"
) -> np.ndarray:
    """10 minutes of the official spectrogram.

    Returns:
        (300, 4, 100) float32 µV²/Hz: one row per 2 s, regions LL, RL, LP, RP, 0.59 … 19.92 Hz;
        NaN are kept.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not 400 columns beside `time`, or the file ends before the 10 minutes do.
    """
    path = competition.spectrogram(spectrogram_id, split)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; the EEG alone is enough for every model")
    table = pd.read_parquet(path).drop(columns="time")
    rows = table.to_numpy(np.float32)[round(offset_s / 2) :][:300]
    if rows.shape != (300, 400):
        raise ValueError(f"{path}: offset {offset_s} s leaves {rows.shape}, wanted (300, 400)")
    return rows.reshape(300, 4, 100)


_NEW_NAMES = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6", "ECG": "EKG"}


def read_edf(path: str | Path) -> np.ndarray:
    """A recording from an EEG machine: EDF, EDF+ or BDF, referential.

    Channels are known by their 10-20 name, whatever stands around it ("EEG Fp1-Ref"); T7, T8, P7,
    P8 and ECG count as T3, T4, T5, T6 and EKG. Other channels are ignored.

    Returns:
        (T, 20) float32 microvolts, resampled to 200 Hz, columns as in `ELECTRODES`; the EKG is NaN
        where there is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a scalp electrode is missing.
    """
    import mne

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    names = {_electrode(name): name for name in reversed(raw.ch_names)}
    missing = [name for name in ELECTRODES if name not in names and name != "EKG"]
    if missing:
        raise ValueError(
            f"{path}: no electrode {', '.join(missing)} among {', '.join(raw.ch_names)}; the "
            f"recording must be referential and hold the 19 electrodes of the 10-20 system"
        )
    found = [name for name in ELECTRODES if name in names]
    raw.pick([names[name] for name in found]).resample(SFREQ_HZ, verbose="error")
    eeg_uv = np.full((raw.n_times, len(ELECTRODES)), np.nan, np.float32)
    data = raw.get_data(picks=[names[name] for name in found])
    eeg_uv[:, [ELECTRODES.index(name) for name in found]] = data.T * 1e6
    return eeg_uv


def _electrode(channel: str) -> str:
    """The electrode in a channel's name: "EEG FP1-LE" → "Fp1", "ECG 1" → "EKG"."""
    words = re.split(r"[^A-Z0-9]+", re.sub(r"^(EEG|POL)[ _-]+", "", channel.upper().strip()))
    known = {name.upper(): name for name in ELECTRODES} | _NEW_NAMES
    if len(words) > 1 and words[1] in known:  # a bipolar derivation
        return channel
    return known.get(re.sub(r"(?<=E[KC]G)1$", "", words[0]), channel)
