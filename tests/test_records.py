"""Validated windows, targets, label groups, folds, and every way a file can be wrong."""

import shutil

import numpy as np
import pandas as pd
import pytest

from hmsutils import records
from hmsutils.competition import (
    ELECTRODES,
    SIMULATION_FILE,
    TARGET_COLUMNS,
    VOTE_COLUMNS,
    Competition,
)


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


def test_no_patient_is_in_two_folds_and_classes_are_spread():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 60, 900)
    names = np.array(["Seizure", "LPD", "GPD", "LRDA", "GRDA", "Other"])
    frame = pd.DataFrame(
        {"patient_id": patients, "expert_consensus": names[rng.integers(0, 6, 900)]}
    )
    folded = records.assign_folds(frame, 5, seed=1)
    assert "fold" not in frame and (folded.groupby("patient_id")["fold"].nunique() == 1).all()
    shares = pd.crosstab(folded["fold"], folded["expert_consensus"], normalize="index")
    assert len(shares) == 5 and shares.to_numpy().min() > 0.1
    assert (folded["fold"] != records.assign_folds(frame, 5, seed=2)["fold"]).any()
    with pytest.raises(ValueError, match="2 patients cannot fill 5 folds"):
        records.assign_folds(frame[frame["patient_id"] < 2])


def test_the_official_spectrogram_of_a_window_is_ten_minutes(competition):
    row = records.load_windows(competition).iloc[-1]
    power = records.read_spectrogram(competition, row.spectrogram_id, row.spectrogram_offset_s)
    assert power.shape == (300, 4, 100)
    with pytest.raises(ValueError, match=r"wanted \(300, 400\)"):
        records.read_spectrogram(competition, row.spectrogram_id, 10_000)
    with pytest.raises(FileNotFoundError, match="EEG alone is enough"):
        records.read_spectrogram(competition, 1)


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
