"""Validated windows, targets, label groups, folds, and every way a file can be wrong."""

import gzip
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from hmsutils import records
from hmsutils.competition import (
    CLASSES,
    ELECTRODES,
    SIMULATION_FILE,
    TARGET_COLUMNS,
    VOTE_COLUMNS,
    Competition,
)
from hmsutils.files import find_competition


@pytest.fixture
def broken(competition, tmp_path):
    """A copy of the competition's tables and one EEG, to be damaged."""
    table = pd.read_csv(competition.root / "train.csv")
    table = table[table["eeg_id"] == table["eeg_id"].iloc[0]].head(3).copy()
    folder = tmp_path / "competition"
    (folder / "train_eegs").mkdir(parents=True)
    eeg_id = table["eeg_id"].iloc[0]
    shutil.copy(competition.eeg(eeg_id), folder / "train_eegs")
    table.to_csv(folder / "train.csv", index=False)
    return Competition(folder, "local"), table


def rewrite(competition, table):
    table.to_csv(competition.root / "train.csv", index=False)


def test_targets_are_vote_shares(windows):
    votes = windows[list(VOTE_COLUMNS)].to_numpy()
    np.testing.assert_allclose(records.targets(windows), votes / votes.sum(1, keepdims=True))
    np.testing.assert_allclose(windows[list(TARGET_COLUMNS)].sum(axis=1), 1)
    assert (windows["n_votes"] == votes.sum(1)).all()


def test_test_windows_have_one_row_per_eeg(competition):
    table = records.load_windows(competition, "test")
    assert table["eeg_id"].is_unique and (table["eeg_offset_s"] == 0).all()
    assert not set(VOTE_COLUMNS) & set(table.columns)


def test_a_missing_table_and_a_missing_column_are_named(broken):
    competition, table = broken
    rewrite(competition, table.drop(columns="gpd_vote"))
    with pytest.raises(ValueError, match="train.csv: no column gpd_vote"):
        records.load_windows(competition)
    with pytest.raises(FileNotFoundError, match="test.csv"):
        records.load_windows(competition, "test")


DAMAGES = {
    "no such file": lambda table: table.assign(eeg_id=7),
    "but offset": lambda table: table.assign(eeg_label_offset_seconds=9000.0),
    "is not even": lambda table: table.assign(eeg_label_offset_seconds=-2.0),
    "appears twice": lambda table: table.assign(label_id=5),
    "no valid votes": lambda table: table.assign(**dict.fromkeys(VOTE_COLUMNS, 0)),
}


@pytest.mark.parametrize("sentence", DAMAGES)
def test_unusable_rows_raise_or_are_excluded_and_reported(broken, sentence):
    competition, table = broken
    extra = table.head(1).assign(label_id=1)
    damaged = DAMAGES[sentence](table.head(1).assign(label_id=5))
    bad = pd.concat([extra, damaged] + ([damaged] if sentence == "appears twice" else []))
    rewrite(competition, bad)
    with pytest.raises(ValueError, match=f"(?s){sentence}.*on_problem='exclude'"):
        records.load_windows(competition)
    with pytest.warns(UserWarning, match=sentence):
        kept = records.load_windows(competition, on_problem="exclude")
    assert len(kept) == len(bad) - 1 and list(kept.index) == list(range(len(kept)))


def test_a_short_eeg_is_reported_with_both_numbers(broken):
    competition, table = broken
    path = competition.eeg(table["eeg_id"].iloc[0])
    pd.read_parquet(path).head(7312).to_parquet(path)
    with pytest.raises(ValueError, match="7312 samples, but offset 0.0 s needs 10000"):
        records.load_windows(competition)
    with pytest.raises(ValueError, match="7,312 rows, but offset 0 s needs 10,000"):
        records.read_eeg(competition, table["eeg_id"].iloc[0])


def test_an_eeg_without_an_electrode_is_refused(broken):
    competition, table = broken
    eeg_id = table["eeg_id"].iloc[0]
    pd.read_parquet(competition.eeg(eeg_id)).drop(columns="T3").to_parquet(competition.eeg(eeg_id))
    with pytest.raises(ValueError, match="no column T3"):
        records.read_eeg(competition, eeg_id)
    with pytest.raises(FileNotFoundError, match="8.parquet"):
        records.read_eeg(competition, 8)


CELLS = {
    "eeg_id": ["", "abc", "../../x", "1.5", "-3", "inf", "1e400", "99999999999999999999"],
    "label_id": ["", "x"],
    "patient_id": ["", "unknown"],
    "spectrogram_id": ["?"],
    "eeg_label_offset_seconds": ["", "inf", "-inf", "three", "3.0", "1e300"],
    "spectrogram_label_offset_seconds": ["", "inf", "-4"],
    "expert_consensus": ["", "seizure", "Unknown"],
    "gpd_vote": ["", "many", "1.5", "-1", "inf", "1e18"],
}


@pytest.mark.parametrize(("column", "cell"), [(c, x) for c, xs in CELLS.items() for x in xs])
def test_a_cell_of_another_kind_is_named_or_its_row_left_out(broken, column, cell):
    competition, table = broken
    table = table.astype(str)
    table.iloc[1, table.columns.get_loc(column)] = cell
    rewrite(competition, table)
    with pytest.raises(ValueError, match=rf"(?s)train.csv: 1 of 3 .*line 3: {column} '.*' is not "):
        records.load_windows(competition)
    with pytest.warns(UserWarning, match=f"line 3: {column}"):
        kept = records.load_windows(competition, on_problem="exclude")
    assert list(kept["label_id"]) == [int(table["label_id"].iloc[i]) for i in (0, 2)]
    assert kept["eeg_id"].dtype == kept["patient_id"].dtype == np.int64
    assert kept["data_id"].iloc[0] == records.data_id(competition)


def test_ids_beside_a_bad_cell_stay_exact(tmp_path):
    (tmp_path / "test.csv").write_text("eeg_id\n9007199254740993\nx\n7.0\n")
    table, problems = records.read_table(tmp_path / "test.csv", {"eeg_id": records._WHOLE})
    assert list(table["eeg_id"]) == [2**53 + 1, -1, 7]
    assert list(problems) == ["", "line 3: eeg_id 'x' is not a whole number from 0 up", ""]
    with pytest.raises(ValueError, match="test.csv: line 3: eeg_id 'x' is not"):
        records.read_ids(tmp_path / "test.csv")


TABLES = {
    "empty": (lambda text: b"", "no table"),
    "header only": (lambda text: text.split(b"\n")[0], "no rows"),
    "UTF-16": (lambda text: text.decode().encode("utf-16"), "no table .*UTF-8"),
    "gzip": (gzip.compress, "no table .*UTF-8"),
    "semicolons": (lambda text: text.replace(b",", b";"), "no column eeg_id, .*;.*with commas"),
    "a longer line": (lambda text: text.replace(b"\n", b",\n").replace(b",", b"", 1), "no table"),
    "pointer": (lambda text: b"version https://git-lfs.github.com/spec/v1\n", "no column eeg_id"),
    "repeated": (lambda text: text.replace(b"eeg_sub_id", b"eeg_id"), "no column eeg_id.*two of"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_file_that_is_no_such_table_is_named(broken, kind):
    competition, _ = broken
    path, (damage, sentence) = competition.root / "train.csv", TABLES[kind]
    path.write_bytes(damage(path.read_bytes()))
    for read in (records.load_windows, records.data_id, lambda c: records.read_ids(path)):
        if kind != "semicolons" or read is records.load_windows:
            with pytest.raises(ValueError, match=rf"train\.csv: {sentence}"):
                read(competition)


def test_a_byte_order_mark_changes_nothing(broken):
    competition, _ = broken
    path, wanted = competition.root / "train.csv", records.load_windows(broken[0])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    pd.testing.assert_frame_equal(records.load_windows(competition), wanted)


def no_hang(seconds):
    """Let a test fail that would wait for ever."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(seconds)


def replaced(path, make):
    path.unlink()
    make(path)


FILES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "CSV": lambda path: pd.read_parquet(path).head().to_csv(path),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 9"),
    "gzip": lambda path: path.write_bytes(gzip.compress(path.read_bytes())),
    "footer": lambda path: path.write_bytes(path.read_bytes()[:-60] + bytes(52) + b"\0\0\0\4PAR1"),
    "folder": lambda path: replaced(path, os.mkdir),
    "pipe": lambda path: replaced(path, os.mkfifo),
    "text": lambda path: pd.read_parquet(path).assign(Cz="1.0").to_parquet(path),
    "truth": lambda path: pd.read_parquet(path).assign(Cz=True).to_parquet(path),
    "time": lambda path: pd.read_parquet(path).assign(Cz=pd.Timestamp("2024")).to_parquet(path),
    "no column": lambda path: pd.read_parquet(path).drop(columns="Cz").to_parquet(path),
    "two columns": lambda path: pq.write_table(
        (table := pq.read_table(path)).append_column("Cz", table["Cz"]), path
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_broken_eeg_is_found_named_and_left_out(broken, kind):
    competition, table = broken
    no_hang(20)
    good, bad = table["eeg_id"].iloc[0], competition.eeg(7)
    shutil.copy(competition.eeg(good), bad)
    rewrite(competition, pd.concat([table, table.head(1).assign(eeg_id=7, label_id=5)]))
    assert len(records.load_windows(competition)) == 4
    FILES[kind](bad)
    with pytest.raises(ValueError, match=r"(?s)7\.parquet: .*exclude") as error:
        records.load_windows(competition)
    assert "1 of 4 rows" in str(error.value) and str(good) not in str(error.value)
    with pytest.raises(ValueError, match=rf"{bad}: .*delete it"):
        records.read_windows(competition, 7, [0.0])
    with pytest.warns(UserWarning, match=r"7\.parquet"):
        kept = records.load_windows(competition, on_problem="exclude")
    assert 7 not in set(kept["eeg_id"]) and len(kept) == 3
    signal.alarm(0)


def test_nobody_is_told_to_drop_a_row_of_test(competition, tmp_path):
    copied = Competition(shutil.copytree(competition.root, tmp_path / "all"), "local")
    eeg_id = records.load_windows(copied, "test")["eeg_id"].iloc[0]
    for kind in ("truncated", "empty", "folder"):
        FILES[kind](copied.eeg(eeg_id, "test"))
        with pytest.raises(ValueError, match=rf"{eeg_id}.parquet: .*; download it again$"):
            records.read_windows(copied, eeg_id, [0.0], "test")
        kept = records.load_windows(copied, "test", on_problem="keep")
        assert not kept["problem"].str.contains("delete|exclude").any() and kept["problem"][0]


def test_without_test_csv_the_sample_submission_names_the_eegs(competition, tmp_path):
    copied = Competition(shutil.copytree(competition.root, tmp_path / "all"), "local")
    wanted = records.load_windows(copied, "test")
    (copied.root / "test.csv").unlink()
    found = records.load_windows(copied, "test")
    assert list(found["eeg_id"]) == list(wanted["eeg_id"]) and (found["spectrogram_id"] == -1).all()
    (copied.root / "sample_submission.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"test\.csv: not found"):
        records.load_windows(copied, "test")


def test_damaged_values_are_found_when_they_are_read(broken):
    competition, table = broken
    eeg_id = table["eeg_id"].iloc[0]
    path = competition.eeg(eeg_id)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:100] + bytes(middle - 100) + content[middle:])
    assert len(records.load_windows(competition)) == 3
    with pytest.raises(ValueError, match=rf"{path}: no readable .*delete it and drop its rows"):
        records.read_windows(competition, eeg_id, [0.0])


def test_a_file_that_holds_fewer_rows_than_it_says_is_refused(broken, monkeypatch):
    competition, table = broken
    eeg_id = table["eeg_id"].iloc[0]
    short = pq.read_table(competition.eeg(eeg_id)).slice(0, 4_000).to_batches()
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter(short))
    with pytest.raises(ValueError, match="rows and holds 4,000"):
        records.read_windows(competition, eeg_id, [0.0])


def test_offsets_are_finite_and_none_is_none(broken):
    competition, table = broken
    eeg_id = table["eeg_id"].iloc[0]
    for offset_s in (np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"{eeg_id}\.parquet: offsets .*finite"):
            records.read_windows(competition, eeg_id, [0.0, offset_s])
    assert records.read_windows(competition, eeg_id, []).shape == (0, 20, 10_000)


def test_missing_samples_of_whole_numbers_are_nan(broken):
    competition, table = broken
    eeg_id = table["eeg_id"].iloc[0]
    whole = pd.read_parquet(competition.eeg(eeg_id)).fillna(0).round().astype("Int64")
    whole.iloc[3, 2] = pd.NA
    whole.to_parquet(competition.eeg(eeg_id))
    eeg_uv = records.read_eeg(competition, eeg_id)
    assert np.isnan(eeg_uv[3, 2]) and np.isnan(eeg_uv).sum() == 1
    np.testing.assert_array_equal(eeg_uv[0], whole.iloc[0].to_numpy(np.float32))


@pytest.fixture
def test_split(broken):
    """A test split of three EEGs, the second of which is no Parquet file."""
    competition, table = broken
    (competition.root / "test_eegs").mkdir()
    for eeg_id in (5, 6, 7):
        source, path = competition.eeg(table["eeg_id"].iloc[0]), competition.eeg(eeg_id, "test")
        shutil.copy(source, path) if eeg_id != 6 else path.write_text("<html>")
    (competition.root / "test.csv").write_text("eeg_id\n5\n6\n7\n")
    return competition


def test_all_rows_of_test_stay_with_what_is_wrong_with_them(test_split):
    kept = records.load_windows(test_split, "test", on_problem="keep")
    assert list(kept["eeg_id"]) == [5, 6, 7] and list(kept["problem"] == "") == [True, False, True]
    assert kept["problem"].str.contains("6.parquet: no readable Parquet file").sum() == 1
    for on_problem in ("raise", "exclude"):  # a submission needs every row
        with pytest.raises(ValueError, match="1 of 3 rows"):
            records.load_windows(test_split, "test", on_problem=on_problem)
    (test_split.root / "test.csv").write_text("eeg_id\n5\nx\n")
    with pytest.raises(ValueError, match="line 3: eeg_id 'x'"):
        records.load_windows(test_split, "test", on_problem="keep")
    with pytest.raises(ValueError, match="on_problem 'ignore', wanted one of"):
        records.load_windows(test_split, on_problem="ignore")


def test_test_needs_nothing_but_eeg_ids(test_split):
    table = test_split.root / "test.csv"
    table.write_text("eeg_id\n7\n5\n")
    windows = records.load_windows(test_split, "test")
    assert list(windows["eeg_id"]) == list(windows["label_id"]) == [7, 5]
    assert "problem" not in windows and (windows["patient_id"] == -1).all()
    table.write_text("spectrogram_id,eeg_id,patient_id\n3,7,\n4,5,9\n")
    windows = records.load_windows(test_split, "test")
    assert windows[["spectrogram_id", "patient_id"]].to_numpy().tolist() == [[3, -1], [4, 9]]


def test_no_row_left_is_an_error(broken):
    competition, table = broken
    rewrite(competition, table.assign(eeg_id=7))
    with pytest.raises(ValueError, match="3 of 3 rows"):
        records.load_windows(competition, on_problem="exclude")


def test_read_eeg_cuts_at_the_offset_and_keeps_nan(broken):
    competition, table = broken
    eeg_id = table["eeg_id"].iloc[0]
    frame = pd.read_parquet(competition.eeg(eeg_id))
    long = pd.concat([frame, frame], ignore_index=True)[list(ELECTRODES[::-1])]
    long.loc[5, "Cz"] = np.nan
    long.to_parquet(competition.eeg(eeg_id))
    eeg_uv = records.read_eeg(competition, eeg_id, 4.0)
    assert eeg_uv.dtype == np.float32
    np.testing.assert_array_equal(eeg_uv, long[list(ELECTRODES)].to_numpy()[800:10800])
    assert np.isnan(records.read_eeg(competition, eeg_id)[5, ELECTRODES.index("Cz")])


def test_one_row_remains_of_every_vote_run():
    frame = pd.DataFrame(
        {
            "eeg_id": [1, 1, 1, 1, 1, 2],
            "eeg_offset_s": [8.0, 0.0, 2.0, 4.0, 6.0, 0.0],
            **{name: [0] * 6 for name in VOTE_COLUMNS},
        }
    )
    frame["lpd_vote"] = [3, 3, 3, 3, 1, 1]  # in time: 3 3 3 | 1 | 3, and another EEG
    kept = records.one_per_vote_run(frame)
    assert kept[["eeg_id", "eeg_offset_s"]].to_numpy().tolist() == [[1, 8], [1, 2], [1, 6], [2, 0]]


@pytest.mark.parametrize(
    ("max_rows", "offsets"),
    [(1, [4, 24]), (3, [0, 4, 8, 20, 24, 28]), (5, [0, 2, 4, 6, 8, 20, 22, 24, 26, 28])],
)
def test_rows_of_a_label_group_are_spread_evenly_around_its_middle(max_rows, offsets):
    groups = {1: np.arange(0.0, 10.0, 2), 2: np.arange(20.0, 30.0, 2)}  # five rows each
    frame = pd.DataFrame(
        [{"eeg_id": e, "eeg_offset_s": t} for e in groups for t in groups[e][::-1]]
    ).assign(**dict.fromkeys(VOTE_COLUMNS, 1))
    kept = records.label_groups(frame, max_rows)
    assert sorted(kept["eeg_offset_s"]) == offsets and "is_representative" not in frame
    assert kept.loc[kept["is_representative"], "eeg_offset_s"].tolist() == [4.0, 24.0]
    assert (kept["label_group"] == kept["eeg_id"] - 1).all()
    assert len(records.label_groups(frame.iloc[:3], 5)) == 3


def test_no_patient_is_in_two_folds_and_each_class_is_spread_evenly():
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.lognormal(1.1, 1.4, 400).round(), 1, 80).astype(int)  # median 3, p90 19
    likely = rng.dirichlet(np.full(6, 0.3), 400)
    frame = pd.DataFrame({"patient_id": np.repeat(rng.permutation(400), sizes)})
    labels = [
        rng.choice(CLASSES, p=p) for p, n in zip(likely, sizes, strict=True) for _ in range(n)
    ]
    frame["expert_consensus"] = labels
    folded = records.assign_folds(frame, 5, seed=1)
    assert "fold" not in frame and (folded.groupby("patient_id")["fold"].nunique() == 1).all()
    shares = pd.crosstab(folded["fold"], folded["expert_consensus"], normalize="columns")
    assert shares.shape == (5, 6) and 0.19 < shares.to_numpy().min()
    assert shares.to_numpy().max() < 0.21
    assert (folded["fold"] != records.assign_folds(frame, 5, seed=2)["fold"]).any()
    with pytest.raises(ValueError, match="2 patients cannot fill 5 folds"):
        records.assign_folds(frame[frame["patient_id"] < 2])


# Fold of each of twelve patients, by seed.
WANTED_FOLDS = {0: "211000111200", 1: "201100010211"}


def test_folds_are_the_same_rows_with_every_version_of_every_library():
    """Also where rows come in another order, and patients have other numbers in the same order."""
    patients = np.repeat(np.arange(12), [9, 1, 4, 2, 7, 3, 1, 5, 2, 6, 1, 1])
    frame = pd.DataFrame({"patient_id": patients, "row": np.arange(42)})
    frame["expert_consensus"] = np.take(CLASSES, (frame["row"] * 7 // 5 + patients) % 6)
    for seed, wanted in WANTED_FOLDS.items():
        folded = records.assign_folds(frame, 3, seed)
        assert "".join(map(str, folded.groupby("patient_id")["fold"].first())) == wanted
        mixed = frame.assign(patient_id=10**9 + 7 * patients).sample(frac=1, random_state=0)
        again = records.assign_folds(mixed, 3, seed).sort_values("row")["fold"]
        assert list(again) == list(folded["fold"])


def test_patients_who_share_an_eeg_are_in_one_fold(rng):
    frame = pd.DataFrame({"patient_id": np.repeat(np.arange(30), 6), "eeg_id": np.arange(180)})
    frame["expert_consensus"] = np.resize(["Seizure", "LPD", "Other"], 180)
    wanted = records.assign_folds(frame, 5)["fold"]
    for a, b in ((0, 9), (9, 21), (3, 28)):  # 0, 9 and 21 by way of 9
        frame.loc[frame["patient_id"].eq(b).idxmax(), "eeg_id"] = frame["eeg_id"][6 * a + 1]
    with pytest.warns(UserWarning, match="patients 9, 21, 28 share EEGs with others"):
        folded = records.assign_folds(frame, 5)
    for name in ("patient_id", "eeg_id"):
        assert (folded.groupby(name)["fold"].nunique() == 1).all()
    assert folded.set_index("patient_id").loc[[0, 9, 21], "fold"].nunique() == 1
    separate = records.assign_folds(frame.assign(eeg_id=np.arange(180)), 5)
    pd.testing.assert_series_equal(separate["fold"], wanted)
    with pytest.raises(ValueError, match="rows without patient_id"):
        records.assign_folds(frame.assign(patient_id=[np.nan] + [1.0] * 179), 2)


def test_the_official_spectrogram_of_a_window_is_ten_minutes(competition):
    row = records.load_windows(competition).iloc[-1]
    power = records.read_spectrogram(competition, row.spectrogram_id, row.spectrogram_offset_s)
    assert power.shape == (300, 4, 100)
    with pytest.raises(ValueError, match=r"wanted \(300, 400\)"):
        records.read_spectrogram(competition, row.spectrogram_id, 10_000)
    with pytest.raises(FileNotFoundError, match="EEG alone is enough"):
        records.read_spectrogram(competition, 1)
    for offset_s in (-600, -2, np.nan):
        with pytest.raises(ValueError, match=f"{row.spectrogram_id}.parquet: "):
            records.read_spectrogram(competition, row.spectrogram_id, offset_s)


def test_a_spectrogram_is_known_by_the_names_of_its_columns(competition, tmp_path):
    row = records.load_windows(competition).iloc[-1]
    wanted = records.read_spectrogram(competition, row.spectrogram_id)
    copy = Competition(tmp_path, "local")
    (tmp_path / "train_spectrograms").mkdir()
    table = pd.read_parquet(competition.spectrogram(row.spectrogram_id))
    table[table.columns[::-1]].drop(columns="time").to_parquet(copy.spectrogram(1))
    np.testing.assert_array_equal(records.read_spectrogram(copy, 1), wanted)
    for damaged in (table.drop(columns="LL_0.59"), table.rename(columns={"LL_0.59": "RR_0.59"})):
        damaged.to_parquet(copy.spectrogram(1))
        with pytest.raises(ValueError, match=r"1\.parquet: .*399 columns, wanted 100 for each"):
            records.read_spectrogram(copy, 1)
    copy.spectrogram(1).write_text("no table")
    with pytest.raises(ValueError, match=r"1\.parquet: no readable Parquet file"):
        records.read_spectrogram(copy, 1)


def test_real_recordings_load(real):
    table = records.load_windows(real)
    odd = table[table["eeg_id"] % 2 == 1]
    assert len(table) in (12, 24) and len(odd) == 12 and odd["n_votes"].min() >= 3
    assert records.read_eeg(real, table["eeg_id"].iloc[0]).shape == (10_000, 20)


def test_the_data_id_names_files_and_simulation_and_no_machine(broken, tmp_path):
    competition, table = broken
    first = records.load_windows(competition)["data_id"]
    assert first.nunique() == 1 and first.iloc[0] == records.data_id(competition)
    moved = Competition(tmp_path / "elsewhere", "local")
    shutil.copytree(competition.root, moved.root)
    assert records.data_id(moved) == first.iloc[0]
    (moved.root / SIMULATION_FILE).write_text('{"seed": 1}')
    assert records.data_id(moved) != first.iloc[0]
    path = competition.eeg(table["eeg_id"].iloc[0])
    frame = pd.read_parquet(path)
    pd.concat([frame, frame]).to_parquet(path)
    assert records.data_id(competition) != first.iloc[0]


def test_another_data_set_is_written_as_a_competition(rng, tmp_path):
    eegs = {i: rng.normal(0, 30, (12_000, 20)) for i in (7, 9)}
    table = pd.DataFrame({"eeg_id": [7, 9, 9], "patient_id": [1, 2, 2]})
    table["eeg_label_offset_seconds"] = [0.0, 0.0, 10.0]
    table[list(VOTE_COLUMNS)] = np.eye(6, dtype=int)[[0, 2, 5]]
    written = records.write_competition(tmp_path / "own", eegs, table)
    windows = records.load_windows(written)
    assert list(windows["expert_consensus"]) == ["Seizure", "GPD", "Other"]
    eeg_uv = records.read_eeg(written, 9, 10.0)
    np.testing.assert_array_equal(eeg_uv, eegs[9][2_000:].astype(np.float32))
    with pytest.raises(FileExistsError, match="holds a train.csv"):
        records.write_competition(tmp_path / "own", eegs, table)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train_eegs").symlink_to(tmp_path / "own", target_is_directory=True)
    with pytest.raises(FileExistsError, match="holds a train_eegs"):
        records.write_competition(tmp_path / "linked", eegs, table)
    for eeg_id in ("../../x", 1.5, -1, "a"):
        with pytest.raises(ValueError, match="EEG .*, wanted whole numbers from 0 up"):
            records.write_competition(tmp_path / "d", {**eegs, eeg_id: eegs[7]}, table)
    with pytest.raises(ValueError, match="rows without patient_id"):
        records.write_competition(tmp_path / "d", eegs, table.assign(patient_id=["a", None, "b"]))
    with pytest.raises(ValueError, match="votes that are no counts"):
        records.write_competition(tmp_path / "d", eegs, table.assign(lpd_vote=np.inf))
    with pytest.raises(ValueError, match="eeg_id 9 is not among"):
        records.write_competition(tmp_path / "d", {7: eegs[7]}, table)
    with pytest.raises(ValueError, match="votes that are no counts"):
        records.write_competition(tmp_path / "e", eegs, table.assign(lpd_vote=0.5))
    names = table.assign(patient_id=["001", "1", "1"])  # a CSV would make one patient of them
    named = records.write_competition(tmp_path / "f", eegs, names)
    assert records.load_windows(named)["patient_id"].tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="no column patient_id"):
        records.write_competition(tmp_path / "b", eegs, table.drop(columns="patient_id"))
    with pytest.raises(ValueError, match=r"EEG 7 is \(20, 12000\), wanted \(T, 20\)"):
        records.write_competition(tmp_path / "c", {7: eegs[7].T}, table.head(1))


def test_windows_across_row_groups_are_those_of_the_whole_file(rng, tmp_path):
    competition = Competition(tmp_path, "local")
    (tmp_path / "train_eegs").mkdir()
    eeg_uv = rng.normal(0, 30, (30_000, 20)).astype(np.float32)
    eeg_uv[5_000:6_000] = np.nan
    table = pd.DataFrame(eeg_uv, columns=list(ELECTRODES))
    table.to_parquet(competition.eeg(7), row_group_size=7_000)
    windows = records.read_windows(competition, 7, [52.0, 0.0])
    np.testing.assert_array_equal(windows, [eeg_uv[10_400:20_400].T, eeg_uv[:10_000].T])


def test_contexts_are_the_spectrograms_of_the_windows_and_nan_where_there_is_none(
    competition, tmp_path
):
    windows = records.load_windows(competition)
    mixed = windows.iloc[[0, -1, 1, 0, 0, 0]].reset_index(drop=True)
    mixed.loc[3, "spectrogram_id"] = 1  # no such file
    mixed.loc[4, "spectrogram_id"] = 2  # no table
    mixed.loc[5, "spectrogram_offset_s"] = 10_000
    copy = Competition(tmp_path, "local")
    (tmp_path / "train_spectrograms").mkdir()
    for i in {*mixed["spectrogram_id"][:3]}:
        copy.spectrogram(i).symlink_to(competition.spectrogram(i))
    copy.spectrogram(2).write_text("no table")
    contexts = records.read_contexts(copy, mixed)
    assert contexts.shape == (6, 300, 4, 100) and contexts.dtype == np.float32
    for row, context in zip(mixed[:3].itertuples(), contexts, strict=False):
        wanted = records.read_spectrogram(copy, row.spectrogram_id, row.spectrogram_offset_s)
        np.testing.assert_array_equal(context, wanted)
    assert np.isnan(contexts[3:]).all() and not np.isnan(contexts[:3]).all(axis=(1, 2, 3)).any()


def test_own_labels_are_a_competition(tmp_path, rng):
    eeg_uv = rng.normal(0, 30, (10_000, 20)).astype(np.float32)
    eeg_uv[:, 3] = np.nan
    root = tmp_path / "labels"
    where = {"source": "näme.edf", "offset_s": 12.3}
    assert records.save_label(root, eeg_uv, "LPD", **where) == (1, "")
    assert records.save_label(root, -eeg_uv, "GPD", source="näme.edf", offset_s=62.3) == (2, "")
    other = {"source": "b.edf", "offset_s": 0, "patient": 7}
    assert records.save_label(root, 2 * eeg_uv, "Other", **other) == (3, "")
    assert records.save_label(root, eeg_uv, "Seizure", **where) == (3, "LPD")  # again: replaced
    competition = find_competition(root, verbose=False)
    windows = records.load_windows(competition).set_index("expert_consensus")
    assert sorted(windows.index) == ["GPD", "Other", "Seizure"]
    assert windows.loc["Seizure", "patient_id"] == windows.loc["GPD", "patient_id"] != 7
    assert windows.loc["Other", "patient_id"] == 7
    assert (windows["n_votes"] == 1).all() and windows.loc["Seizure", "seizure_vote"] == 1
    for name, wanted in (("Seizure", eeg_uv), ("GPD", -eeg_uv)):
        saved = records.read_eeg(competition, windows.loc[name, "eeg_id"])
        np.testing.assert_array_equal(saved, wanted)
    table = pd.read_csv(root / "train.csv").set_index("expert_consensus")
    assert table.loc["GPD", ["source", "source_offset_seconds"]].tolist() == ["näme.edf", 62.3]
    for wrong in ({"label": "lpd"}, {"eeg_uv": eeg_uv[:-1]}):
        options = {"eeg_uv": eeg_uv, "label": "LPD"} | wrong
        with pytest.raises(ValueError, match="save_label: .*wanted"):
            records.save_label(root, **options, **where)


def test_labels_are_never_added_to_the_tables_of_others(competition, tmp_path, rng):
    root = shutil.copytree(competition.root, tmp_path / "copy")
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    eeg_uv = rng.normal(0, 30, (10_000, 20))
    with pytest.raises(ValueError, match="train.csv is no table of own labels; name another"):
        records.save_label(root, eeg_uv, "LPD", source="x.edf", offset_s=0)
    after = {path: path.read_bytes() for path in root.rglob("*.*") if "hmsutils" not in path.name}
    assert after == {path: x for path, x in before.items() if "hmsutils" not in path.name}
