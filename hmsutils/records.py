"""Rows of the competition's tables → validated windows; votes → targets; folds by patient; raw EEG.

A window is one labelled row: `eeg_id, eeg_sub_id, eeg_offset_s, spectrogram_id,
spectrogram_offset_s, label_id, patient_id, expert_consensus`, six vote columns, `n_votes`, six
target columns that sum to 1, and `data_id`, the same in all rows, which names the EEG files.
Windows of the test split have no votes, one row per EEG, offset 0, and `label_id` = `eeg_id`.
"""

import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hmsutils import competition as ground
from hmsutils.competition import ELECTRODES, SFREQ_HZ, TARGET_COLUMNS, VOTE_COLUMNS, Competition

# What the cells of a column are, in words that complete "is not …", and how numbers are tested.
_WHOLE, _VOTES = "a whole number from 0 up", "a number of votes"
_SECONDS, _EVEN = "seconds from 0 up", "even seconds from 0 up"
_CLASS = f"one of {', '.join(ground.CLASSES)}"
_TESTS = {
    _WHOLE: lambda x: (x >= 0) & (x < 2**63) & (np.floor(x) == x),
    _VOTES: lambda x: (x >= 0) & (x < 10**6) & (np.floor(x) == x),
    _SECONDS: lambda x: (x >= 0) & (x < 10**9),
    _EVEN: lambda x: (x >= 0) & (x < 10**9) & (x % 2 == 0),
    _CLASS: lambda x: x.isin(ground.CLASSES),
}
_TRAIN_COLUMNS = {
    **{"eeg_id": _WHOLE, "eeg_sub_id": _WHOLE, "eeg_label_offset_seconds": _EVEN},
    **{"spectrogram_id": _WHOLE, "spectrogram_label_offset_seconds": _SECONDS},
    **{"label_id": _WHOLE, "patient_id": _WHOLE, "expert_consensus": _CLASS},
    **dict.fromkeys(VOTE_COLUMNS, _VOTES),
}
_WINDOW = f"{ground.WINDOW_S} s at {SFREQ_HZ} Hz"
_SHORT = {f"{kind}_label_offset_seconds": f"{kind}_offset_s" for kind in ("eeg", "spectrogram")}
_BROKEN = "no readable Parquet file"
_AGAIN, _DROP = "download it again", "drop its rows with load_windows(on_problem='exclude')"


def load_windows(
    competition: Competition, split: str = "train", *, on_problem: str = "raise"
) -> pd.DataFrame:
    """Read and check a split, "train" or "test": one row per window, see this module's docstring.

    Rows that cannot be used (a cell of another kind than its column, an EEG file that is absent,
    broken, or too short for the offset, repeated `label_id`, no votes) raise ValueError. With
    `on_problem="exclude"` such rows of train are left out, with a warning that names the files;
    with "keep" all rows stay, with a column `problem`, one sentence or "". Of test only `eeg_id` is
    needed; a spectrogram or a patient that it does not name is -1.
    Of EEG files only the metadata are read: `read_windows` finds damaged values.
    FileNotFoundError, ValueError: there is no table, or it cannot be read, or lacks a column."""
    if on_problem not in (choices := ("raise", "exclude", "keep")):
        raise ValueError(f"load_windows: on_problem {on_problem!r}, wanted one of {choices}")
    path, is_train = table_path(competition, split), split == "train"
    optional = () if is_train else ("spectrogram_id", "patient_id")
    kinds = _TRAIN_COLUMNS if is_train else {"eeg_id": _WHOLE}
    table, problems = read_table(path, kinds, optional)
    windows = table.rename(columns=_SHORT)
    if is_train:
        votes = windows[list(VOTE_COLUMNS)].to_numpy(np.float64)
        windows["n_votes"] = votes.sum(axis=1).astype(int)
        windows[list(TARGET_COLUMNS)] = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    else:
        windows = windows.assign(eeg_sub_id=0, eeg_offset_s=0.0, label_id=windows["eeg_id"])
        windows["spectrogram_offset_s"] = 0.0
    fine, named = problems == "", windows["eeg_id"] >= 0
    problems[fine] = _problems(windows[fine], competition, split)
    bad = problems != ""
    shown = "\n  ".join(problems[bad].unique()[:5])
    report = f"{path}: {bad.sum()} of {len(windows)} rows cannot be used, for example\n  {shown}\n"
    report += f"Download those files again{f', or {_DROP}' if is_train else ''}"
    goes_on = {"raise": False, "exclude": is_train and not bad.all(), "keep": named.all()}
    if bad.any() and not goes_on[on_problem]:  # a submission needs every row of test
        raise ValueError(report)
    windows["data_id"] = _data_id(competition, split, windows["eeg_id"][named])
    if on_problem == "keep":
        return windows.assign(problem=problems)
    if bad.any():
        warnings.warn(report, stacklevel=2)
    return windows[~bad].reset_index(drop=True)


def read_table(
    path: Path, kinds: Mapping[str, str], optional: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.Series]:
    """Columns of a CSV file by the kinds of their cells, and for each row a sentence on its first
    cell of another kind, or "". Such a cell becomes -1, NaN or "". `optional` columns are whole
    numbers, -1 where there is none. FileNotFoundError, ValueError: no table with these columns."""
    remedy = "wanted UTF-8 with commas, in the competition's folder; download the file again"
    with ground.reading(path, "no table", remedy):
        # As text: pandas would make floats of ids beside an empty cell, and rename columns.
        options = {"header": None, "dtype": str, "na_filter": False, "compression": None}
        text = pd.read_csv(path, encoding="utf-8-sig", **options)
    names, text = list(text.iloc[0]), text.iloc[1:].reset_index(drop=True)
    if wrong := [name for name in kinds if names.count(name) != 1]:
        problem = f"no column {', '.join(wrong)}, or two of them, among {', '.join(names)[:200]}"
        raise ValueError(f"{path}: {problem}; {remedy}")
    if text.empty:
        raise ValueError(f"{path}: no rows; {remedy}")
    table, problems = pd.DataFrame(index=text.index), pd.Series("", text.index, object)
    for name, kind in [*kinds.items(), *((name, _WHOLE) for name in optional)]:
        if name not in names:
            table[name] = -1
            continue
        cells = text[names.index(name)]
        values = cells if kind == _CLASS else pd.to_numeric(cells, errors="coerce")
        bad = ~_TESTS[kind](values)
        if kind in (_WHOLE, _VOTES) and values.dtype != np.int64:  # floats would round long ids
            values = cells.mask(bad, "-1").str.replace(r"\.0*$", "", regex=True)
            table[name] = pd.to_numeric(values).astype(np.int64)
        elif kind in (_SECONDS, _EVEN):
            table[name] = values.mask(bad).astype(np.float64)
        else:
            table[name] = values.mask(bad, "" if kind == _CLASS else -1)
        for i in np.flatnonzero(bad & (problems == "")) if name in kinds else ():
            problems[i] = f"line {i + 2}: {name} {str(cells[i])[:40]!r} is not {kind}"
    return table, problems


def table_path(competition: Competition, split: str) -> Path:
    """A split's table; of test, without a test.csv: sample_submission.csv, which names its EEGs."""
    path, sample = (competition.root / f"{name}.csv" for name in (split, "sample_submission"))
    return sample if split == "test" and sample.exists() and not path.exists() else path


def read_ids(path: Path) -> np.ndarray:
    """The column `eeg_id` of a table; FileNotFoundError, ValueError: it has none, or it holds
    anything but whole numbers."""
    table, problems = read_table(path, {"eeg_id": _WHOLE})
    for problem in problems[problems != ""]:
        raise ValueError(f"{path}: {problem}; download the file again")
    return table["eeg_id"].to_numpy()


def data_id(competition: Competition, split: str = "train") -> str:
    """12 hexadecimal digits that name a split's EEG files: ids, sizes, and how they were simulated;
    the same on every machine, so that a run is found again wherever its data are."""
    ids = read_table(competition.root / f"{split}.csv", {"eeg_id": _WHOLE})[0]["eeg_id"]
    return _data_id(competition, split, ids[ids >= 0])


def _data_id(competition: Competition, split: str, ids: pd.Series) -> str:
    paths = [competition.eeg(eeg_id, split) for eeg_id in np.unique(ids)]
    sizes = [(path.name, path.stat().st_size) for path in paths if path.exists()]
    mark = competition.root / ground.SIMULATION_FILE
    return ground.fingerprint(sizes, mark.read_bytes() if mark.is_file() else None)


def context_id(competition: Competition, split: str = "train") -> str:
    """12 hexadecimal digits that name a split's spectrogram files: their names and sizes."""
    files = sorted(competition.spectrogram(0, split).parent.glob("*.parquet"))
    return ground.fingerprint([(path.name, path.stat().st_size) for path in files])


def _problems(windows: pd.DataFrame, competition: Competition, split: str) -> list[str]:
    """One sentence per unusable row, on the first check that it fails; "" for the others."""
    n_samples, broken, problems, good = {}, {}, [], []
    for eeg_id in windows["eeg_id"].unique():
        try:
            n_samples[eeg_id] = _open(competition.eeg(eeg_id, split), good).metadata.num_rows
        except (FileNotFoundError, ValueError) as error:
            broken[eeg_id] = str(error)
    rows = windows.assign(again=windows["label_id"].duplicated())
    rows = rows.reindex(columns=["label_id", "again", "eeg_id", "eeg_offset_s", "n_votes"])
    for label_id, again, eeg_id, offset_s, n_votes in rows.itertuples(index=False):
        found = n_samples.get(eeg_id, 0)
        needed = round(offset_s * SFREQ_HZ) + ground.WINDOW_SAMPLES
        problem = f"row {label_id}: no valid votes" if n_votes < 1 else ""  # NaN in test
        if found < needed:
            problem = f"{split}_eegs/{eeg_id}.parquet: {found} samples, but offset {offset_s} s "
            problem += f"needs {needed} ({_WINDOW})"
        problem = broken.get(eeg_id, problem)
        problems.append(f"row {label_id}: the row appears twice" if again else problem)
    return problems


def _open(path: Path, good: list | None = None) -> pq.ParquetFile:
    """A Parquet file, of which only the metadata are read; with `good`, an EEG with all electrodes.
    That keeps the schema of the last one: to compare is ten times faster than to check."""
    with ground.reading(path, _BROKEN, _remedy(path), "no such file"):
        file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)  # faster than read_table
        if good is None or file.schema in good:
            return file
        kinds = [(field.name, field.type) for field in file.schema_arrow]
        numbers = [n for n, k in kinds if pa.types.is_floating(k) or pa.types.is_integer(k)]
        names = [name for name, _ in kinds]
        if wrong := [c for c in ELECTRODES if c not in numbers or names.count(c) > 1]:
            raise ValueError(f"no column {', '.join(wrong)} of numbers, or two of them")
        good[:] = [file.schema]
        return file


def _remedy(path: Path) -> str:
    """Of a broken EEG: rows of test cannot be dropped."""
    return f"{_AGAIN}, or delete it and {_DROP}" if path.parent.name == "train_eegs" else _AGAIN


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
    ordered.iloc[[kept[(len(kept) - 1) // 2] for kept in positions], -1] = True
    chosen = ordered.iloc[np.concatenate(positions)]
    return chosen.loc[windows.index[windows.index.isin(chosen.index)]].reset_index(drop=True)


def one_per_vote_run(windows: pd.DataFrame) -> pd.DataFrame:
    """The middle row of every run of equal votes in an EEG, see `label_groups`."""
    return label_groups(windows, 1).drop(columns=["label_group", "is_representative"])


def assign_folds(windows: pd.DataFrame, n_folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Add a column `fold`: no patient and no EEG in two folds, classes spread evenly, whole numbers
    all the way: the same rows with every version of every library. Patients who share an EEG, which
    a mistake must be, count as one, with a warning. ValueError: fewer patients than folds, a row
    without patient. Source: the greedy algorithm of scikit-learn's StratifiedGroupKFold."""
    for name in {"patient_id", "eeg_id", "expert_consensus"} & set(windows):
        if windows[name].isna().any():
            raise ValueError(f"assign_folds: rows without {name}; drop or complete them")
    unknown = ", ".join({*map(str, windows["expert_consensus"])} - {*ground.CLASSES})
    if n_folds < 2 or unknown:
        problem = f"classes {unknown}" if unknown else f"n_folds is {n_folds}"
        wanted = f"two folds or more, and classes among {', '.join(ground.CLASSES)}"
        raise ValueError(f"assign_folds: {problem}; wanted {wanted}")
    patients, names = pd.factorize(windows["patient_id"], sort=True)
    eegs = pd.factorize(windows["eeg_id"])[0] if "eeg_id" in windows else np.arange(len(windows))
    size = len(names) + len(windows)  # nodes are patients, then EEGs; every row is an edge
    edges = coo_array((np.ones(len(windows)), (patients, len(names) + eegs)), shape=(size, size))
    one = pd.factorize(connected_components(edges, directed=False)[1][: len(names)])[0]
    if (moved := names[pd.Series(one).duplicated().to_numpy()]).size:
        shown = f"patients {', '.join(map(str, moved[:5]))} share EEGs with others"
        warnings.warn(f"assign_folds: {shown}; in folds they count as one", stacklevel=2)
    patients = one[patients]
    if (n := len(set(one))) < n_folds:
        raise ValueError(f"assign_folds: {n} patients cannot fill {n_folds} folds; ask for fewer")
    label = windows["expert_consensus"].map(ground.CLASSES.index)
    counts = np.zeros((n, len(ground.CLASSES)), np.int64)
    np.add.at(counts, (patients, label), 1)
    order = np.random.RandomState(seed).permutation(n)  # whose stream never changes
    spread = len(ground.CLASSES) * (counts**2).sum(axis=1) - counts.sum(axis=1) ** 2
    order = order[np.argsort(-spread[order], kind="stable")]  # the least even patients first
    weight = 10**17 // np.maximum(counts.sum(axis=0), 1) ** 2  # compares shares of each class
    filled, fold = np.zeros((n_folds, len(ground.CLASSES)), np.int64), np.empty(n, int)
    for patient in order:  # to where the classes' shares of the folds then vary least
        variance = (filled * counts[patient] * weight).sum(axis=1)
        fold[patient] = np.lexsort((filled.sum(axis=1), variance))[0]
        filled[fold[patient]] += counts[patient]
    return windows.assign(fold=fold[patients])


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
    file = _open(path, [])
    if not np.isfinite(offsets_s).all():
        raise ValueError(f"read_windows: {path}: offsets {offsets_s} s; pass finite numbers")
    starts, n_rows = [round(offset_s * SFREQ_HZ) for offset_s in offsets_s], file.metadata.num_rows
    ends = [start + ground.WINDOW_SAMPLES for start in starts]
    for start, end in zip(starts, ends, strict=True):
        if start < 0 or end > n_rows:
            needs = f"offset {start / SFREQ_HZ:g} s needs {end:,} ({_WINDOW})"
            raise ValueError(f"{path}: {n_rows:,} rows, but {needs}; {_remedy(path)}")
    eeg_uv, filled = np.empty((len(ELECTRODES), max(ends, default=0)), np.float32), 0
    with ground.reading(path, _BROKEN, _remedy(path)):
        columns = {"columns": list(ELECTRODES), "use_threads": False}
        for batch in file.iter_batches(max(1, eeg_uv.shape[1]), **columns):
            part = eeg_uv[:, filled : filled + len(batch)]
            for row, name in zip(part, ELECTRODES, strict=True):
                row[:] = batch[name].to_numpy(zero_copy_only=False)[: len(row)]
            filled += len(batch)
            if filled >= eeg_uv.shape[1]:  # what follows is not needed
                break
        if filled < eeg_uv.shape[1]:
            raise ValueError(f"it says {n_rows:,} rows and holds {filled:,}")
    windows = [eeg_uv[:, i:j] for i, j in zip(starts, ends, strict=True)]
    return np.array(windows, np.float32).reshape(-1, len(ELECTRODES), ground.WINDOW_SAMPLES)


def read_spectrogram(
    competition: Competition, spectrogram_id: int, offset_s: float = 0.0, split: str = "train"
) -> np.ndarray:
    """10 minutes of the official spectrogram: (300, 4, 100) float32 µV²/Hz, one row per 2 s,
    regions LL, RL, LP, RP, 0.59 … 19.92 Hz, NaN kept, whatever the order of the file's columns.
    FileNotFoundError: no such file. ValueError: it cannot be read, has not 100 columns for each
    region, or does not hold these 10 minutes."""
    path = competition.spectrogram(spectrogram_id, split)
    return _ten_minutes(path, _read_power(path), offset_s)


def read_contexts(
    competition: Competition, windows: pd.DataFrame | Mapping, split: str = "train"
) -> np.ndarray:
    """(N, 300, 4, 100) `read_spectrogram` of the 10 minutes around every window; NaN where the file
    is missing or broken, or does not hold them: the EEG is enough for a prediction."""
    paths, read = [competition.spectrogram(i, split) for i in windows["spectrogram_id"]], {}
    contexts = np.full((len(paths), *ground.CONTEXT_SHAPE), np.nan, np.float32)
    for i, (path, offset_s) in enumerate(zip(paths, windows["spectrogram_offset_s"], strict=True)):
        with suppress(FileNotFoundError, ValueError):
            if path not in read:  # a file holds many windows
                read[path] = _read_power(path)
            contexts[i] = _ten_minutes(path, read[path], offset_s)
    return contexts


def _read_power(path: Path) -> np.ndarray:
    """(W, 400) of a spectrogram file, regions and bins in the official order."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; the EEG alone is enough for every model")
    file, regions = _open(path), ("LL", "RL", "LP", "RP")
    with ground.reading(path, _BROKEN, _AGAIN):
        columns = {n for n in file.schema_arrow.names if re.fullmatch(r"(LL|RL|LP|RP)_[\d.]+", n)}
        columns = sorted(columns, key=lambda name: (regions.index(name[:2]), float(name[3:])))
        if [name[:2] for name in columns] != list(np.repeat(regions, 100)):
            raise ValueError(f"{len(columns)} columns, wanted 100 for each of {regions}")
        return file.read(columns).to_pandas().to_numpy(np.float32)


def _ten_minutes(path: Path, power: np.ndarray, offset_s: float) -> np.ndarray:
    first = round(offset_s / 2) if np.isfinite(offset_s) else -1
    rows = power[max(first, 0) : first + 300]
    if first < 0 or rows.shape != (300, 400):
        raise ValueError(f"{path}: offset {offset_s} s leaves {rows.shape}, wanted (300, 400)")
    return rows.reshape(ground.CONTEXT_SHAPE)


def write_competition(
    root: str | Path, eegs: Mapping[int, np.ndarray], table: pd.DataFrame
) -> Competition:
    """Write another EEG data set in the competition's layout; everything after works on it.

    `eegs` are, by `eeg_id`, a whole number, (T, 20) microvolts at 200 Hz, columns as in
    `ELECTRODES`; `table` has one row per labelled window: `eeg_id`, `patient_id` (they are
    numbered) and the six counts of votes; it begins at `eeg_label_offset_seconds` (absent: 0).
    ValueError: a missing column, an EEG that is missing or of another shape, votes that are no
    counts. FileExistsError: the folder holds a competition."""
    root, needed = Path(root), ("eeg_id", "patient_id", *VOTE_COLUMNS)
    for there in (root / "train.csv", root / "train_eegs"):  # also where others lead elsewhere
        if there.exists() or there.is_symlink():
            raise FileExistsError(f"write_competition: {root} holds a {there.name}; name another")
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"write_competition: the table has no column {', '.join(missing)}")
    if strange := [i for i in eegs if not str(i).isdecimal()]:
        raise ValueError(f"write_competition: EEG {strange[0]!r}, wanted whole numbers from 0 up")
    if table["patient_id"].isna().any():
        raise ValueError("write_competition: rows without patient_id; name their patients")
    if strange := sorted(set(map(str, table["eeg_id"])) - {str(int(i)) for i in eegs}):
        raise ValueError(f"write_competition: eeg_id {strange[0]} is not among the EEGs' numbers")
    votes = table[list(VOTE_COLUMNS)].to_numpy(np.float64)
    if not _TESTS[_VOTES](votes).all():
        raise ValueError("write_competition: votes that are no counts; pass numbers of raters")
    completed = _completed(table.assign(patient_id=pd.factorize(table["patient_id"])[0]))
    for eeg_id, eeg_uv in eegs.items():  # before anything is written
        columns = list(getattr(eeg_uv, "columns", ELECTRODES))
        if np.shape(eeg_uv)[1:] != (len(ELECTRODES),) or columns != list(ELECTRODES):
            wanted = f"wanted (T, {len(ELECTRODES)}) with the columns {' '.join(ELECTRODES)}"
            raise ValueError(f"write_competition: EEG {eeg_id} is {np.shape(eeg_uv)}, {wanted}")
    if not _TESTS[_EVEN](completed["eeg_label_offset_seconds"].to_numpy(np.float64)).all():
        raise ValueError(f"write_competition: eeg_label_offset_seconds, wanted {_EVEN}")
    for eeg_id, eeg_uv in eegs.items():
        _write_eeg(root, int(eeg_id), eeg_uv)
    ground.write_csv(root / "train.csv", completed)
    return Competition(root.resolve(), "local", "written by write_competition")


def _completed(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with the other columns of train.csv, those that it does not have."""
    votes = table[list(VOTE_COLUMNS)].to_numpy(np.float64)
    defaults = {"eeg_sub_id": 0, "spectrogram_sub_id": 0, **dict.fromkeys(_SHORT, 0.0)}
    defaults |= {"spectrogram_id": table["eeg_id"], "label_id": np.arange(len(table))}
    defaults |= {"expert_consensus": np.take(ground.CLASSES, votes.argmax(axis=1))}
    return pd.DataFrame(defaults | dict(table), table.index)


def _write_eeg(root: Path, eeg_id: int, eeg_uv: np.ndarray) -> None:
    (root / "train_eegs").mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(np.asarray(eeg_uv, np.float32), columns=list(ELECTRODES))
    ground.write_atomically(root / "train_eegs" / f"{eeg_id}.parquet", frame.to_parquet)


def save_label(
    root: str | Path, eeg_uv: np.ndarray, label: str, *, source: str, offset_s: float, patient=None
) -> tuple[int, str]:
    """Add a window (10000, 20) of raw microvolts and one vote for a class to a folder in the
    competition's layout, which is made where absent; the number of its windows after that, and the
    label that was replaced or "".

    The window is an EEG of its own, named by its samples: another label of these replaces the
    first. `source`, the file that it is from, and `offset_s` in that are columns of train.csv.
    `patient`: its number; None: one of the file's name. ValueError: no such class, an EEG of
    another shape, or a train.csv of another origin, to which nothing is added."""
    if label not in ground.CLASSES:
        wanted = ", ".join(ground.CLASSES)
        raise ValueError(f"save_label: {label!r} is no class; wanted one of {wanted}")
    if np.shape(eeg_uv) != (ground.WINDOW_SAMPLES, len(ELECTRODES)):
        raise ValueError(f"save_label: EEG {np.shape(eeg_uv)}; wanted (10000, 20)")
    source = source.encode(errors="replace").decode()
    eeg_uv = np.ascontiguousarray(eeg_uv, np.float32)
    number = zlib.crc32(eeg_uv.tobytes())
    patient = zlib.crc32(source.encode()) if patient is None else patient
    row = {"eeg_id": number, "label_id": number, "patient_id": patient}
    row |= {name: int(name == f"{label.lower()}_vote") for name in VOTE_COLUMNS}
    row |= {"source": source, "source_offset_seconds": round(offset_s, 3)}
    root, rows, replaced = Path(root), _completed(pd.DataFrame([row])), ""
    with ground.locked(root, "save_label"):
        if (root / "train.csv").exists():
            problem, remedy = "no table of own labels", "name another folder"
            with ground.reading(root / "train.csv", problem, remedy):
                before = pd.read_csv(root / "train.csv")
            if "source" not in before:
                raise ValueError(f"save_label: {root / 'train.csv'} is {problem}; {remedy}")
            same = before["eeg_id"] == number
            replaced = "".join(before["expert_consensus"][same])
            rows = pd.concat([before[~same], rows], ignore_index=True)
        _write_eeg(root, number, eeg_uv)
        ground.write_atomically(root / "train.csv", partial(rows.to_csv, index=False))
    return len(rows), replaced
