"""Validated windows, targets, vote runs, folds, and every way a file can be wrong."""

import shutil

import edfio
import numpy as np
import pandas as pd
import pytest

from hmsutils import records
from hmsutils.files import ELECTRODES, TARGET_COLUMNS, VOTE_COLUMNS, Competition


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
    ("most", "offsets"),
    [(1, [4, 24]), (3, [0, 4, 8, 20, 24, 28]), (5, [0, 2, 4, 6, 8, 20, 22, 24, 26, 28])],
)
def test_rows_of_a_vote_run_are_spread_evenly_around_its_middle(most, offsets):
    runs = {1: np.arange(0.0, 10.0, 2), 2: np.arange(20.0, 30.0, 2)}  # five rows each
    frame = pd.DataFrame(
        [{"eeg_id": e, "eeg_offset_s": t} for e in runs for t in runs[e][::-1]]
    ).assign(**dict.fromkeys(VOTE_COLUMNS, 1))
    kept = records.vote_runs(frame, most)
    assert sorted(kept["eeg_offset_s"]) == offsets and "middle" not in frame
    assert kept.loc[kept["middle"], "eeg_offset_s"].tolist() == [4.0, 24.0]
    assert (kept["vote_run"] == kept["eeg_id"] - 1).all()
    assert len(records.vote_runs(frame.iloc[:3], 5)) == 3


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


def write_edf(path, eeg_uv, names, sfreq_hz):
    unit = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    signals = [
        edfio.EdfSignal(x, sfreq_hz, label=name, **unit)
        for x, name in zip(eeg_uv.T, names, strict=True)
    ]
    edfio.Edf(signals).write(path)


def test_an_edf_comes_back_in_our_order_rate_and_unit(tmp_path):
    t = np.arange(60 * 256) / 256
    names = [f"EEG {name.upper()}-Ref" for name in ELECTRODES[:-1]][::-1]
    new = {"EEG T3-Ref": "EEG T7-Ref", "EEG T5-Ref": "EEG P7-LE", "EEG CZ-Ref": "Cz"}
    names = [new.get(name, name) for name in names] + ["ECG 1", "Photic"]
    hz = np.arange(1, 22) / 2
    write_edf(tmp_path / "r.edf", 100 * np.sin(2 * np.pi * hz * t[:, None]), names, 256)
    eeg_uv = records.read_edf(tmp_path / "r.edf")
    assert eeg_uv.shape == (12_000, 20) and eeg_uv.dtype == np.float32
    ours = np.r_[hz[:19][::-1], hz[19]]
    wanted = 100 * np.sin(2 * np.pi * ours * np.arange(12_000)[:, None] / 200)
    np.testing.assert_allclose(eeg_uv[400:-400], wanted[400:-400], atol=1.0)


def test_an_edf_without_ekg_has_nan_there_and_without_an_electrode_is_refused(tmp_path):
    x = np.random.default_rng(0).normal(0, 20, (2000, 19))
    write_edf(tmp_path / "r.edf", x, ELECTRODES[:-1], 200)
    eeg_uv = records.read_edf(tmp_path / "r.edf")
    assert np.isnan(eeg_uv[:, -1]).all() and np.isfinite(eeg_uv[:, :-1]).all()
    write_edf(tmp_path / "bad.edf", x, ["Fp1-F7", *ELECTRODES[1:-1]], 200)
    with pytest.raises(ValueError, match="bad.edf: no electrode Fp1 among Fp1-F7, F3"):
        records.read_edf(tmp_path / "bad.edf")
    with pytest.raises(FileNotFoundError, match="none.edf"):
        records.read_edf(tmp_path / "none.edf")


def test_published_predictions_are_those_of_the_same_recordings(real, competition):
    windows = records.load_windows(real)
    published = records.published_predictions(real, windows)
    assert published.shape == (len(windows), 6)
    np.testing.assert_allclose(published.sum(axis=1), 1, atol=0.02)
    turned = records.published_predictions(real, windows[::-1])
    np.testing.assert_array_equal(turned, published[::-1])
    with pytest.raises(FileNotFoundError, match="only the real sample recordings"):
        records.published_predictions(competition, windows)


def test_windows_across_row_groups_are_those_of_the_whole_file(rng, tmp_path):
    competition = Competition(tmp_path, "local")
    (tmp_path / "train_eegs").mkdir()
    eeg_uv = rng.normal(0, 30, (30_000, 20)).astype(np.float32)
    eeg_uv[5_000:6_000] = np.nan
    table = pd.DataFrame(eeg_uv, columns=list(ELECTRODES))
    table.to_parquet(competition.eeg(7), row_group_size=7_000)
    windows = records.read_eegs(competition, 7, [52.0, 0.0])
    np.testing.assert_array_equal(windows, [eeg_uv[10_400:20_400], eeg_uv[:10_000]])
