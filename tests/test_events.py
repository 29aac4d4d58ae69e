"""Events are what the thresholds say, on the seconds that they are about."""

import os
from datetime import datetime
from types import SimpleNamespace

import edfio
import numpy as np
import pandas as pd
import pytest

from hmsutils import events
from hmsutils.competition import CLASSES, ELECTRODES
from hmsutils.events import EventConfig
from hmsutils.recordings import read_recording


def table(p, name="Seizure", step_s=10, first_s=20.0):
    """Rows as of `predict_recording`: `p` of one class, the rest is Other; NaN: no opinion."""
    p = np.asarray(p, float)
    start_s = first_s + step_s * np.arange(len(p))
    rows = pd.DataFrame({"start_s": start_s, "end_s": start_s + 10, **dict.fromkeys(CLASSES, 0.0)})
    rows[name], rows["Other"] = p, 1 - p
    rows.loc[np.isnan(p), list(CLASSES)] = np.nan
    return rows


def test_no_event_ends_after_the_recording():
    row = table([0.9], first_s=0.0).assign(end_s=10.75)
    assert events.find_events(row)["duration_s"].tolist() == [10]


def spans(rows, **settings):
    found = events.find_events(rows, EventConfig(**settings))
    return list(zip(found.onset_s, found.onset_s + found.duration_s, found.event, strict=True))


def test_an_event_reaches_on_and_lasts_while_it_is_over_off():
    rows = table([0.1, 0.4, 0.7, 0.4, 0.2, 0.4, 0.4, 0.1])
    assert spans(rows) == [(30, 60, "Seizure")]
    (event,) = events.find_events(rows).itertuples()
    assert event.confidence == pytest.approx((0.4 + 0.7 + 0.4) / 3)
    assert spans(rows, on=0.8) == []
    assert spans(rows, on=0.4, max_gap_s=0) == [(30, 60, "Seizure"), (70, 90, "Seizure")]


def test_near_events_are_one_but_not_across_missing_eeg():
    p = [0.9, 0.1, 0.9, 0.1, 0.1, 0.9]
    assert spans(table(p)) == [(20, 50, "Seizure"), (70, 80, "Seizure")]
    assert spans(table(p), max_gap_s=0) == [(s, s + 10, "Seizure") for s in (20, 40, 70)]
    p[1] = np.nan
    assert spans(table(p))[:2] == [(20, 30, "Seizure"), (40, 50, "Seizure")]


def test_a_second_has_the_mean_of_the_rows_over_it():
    rows = table([0.0, 1.0, 1.0, np.nan], step_s=2)
    seconds = events.per_second(rows)[:, 0]
    wanted = np.r_[[np.nan] * 20, 0, 0, 0.5, 0.5, [2 / 3] * 6, 1, 1, 1, 1]
    np.testing.assert_allclose(seconds, wanted)
    assert events.per_second(rows[3:]).shape == (0, 6)


def test_seconds_begin_with_the_recording_and_sums_lose_nothing(rng):
    early = table([0.9, 0.1], first_s=-4.0, step_s=10)
    np.testing.assert_allclose(events.per_second(early)[:, 0], [0.9] * 6 + [0.1] * 10)
    for _ in range(50):  # means of rows over each other
        p = rng.uniform(0, 0.3, 40)
        p[20] = 0.5
        assert spans(table(p, step_s=10)) == [(220, 230, "Seizure")]


def test_short_events_are_left_out_by_class():
    rows = table([0.0, 0.9, 0.0], "LPD", step_s=20)
    assert spans(rows) == [(40, 50, "LPD")]
    shortest = dict.fromkeys(events.PATTERNS, 10) | {"LPD": 11}
    assert spans(rows, min_duration_s=shortest) == []


def test_settings_that_make_no_sense_are_refused():
    for settings, said in [
        ({"on": 0.2}, "off is 0.3, wanted at most on, 0.2"),
        ({"on": 1.5}, "on is 1.5, wanted from 0 to 1"),
        ({"min_duration_s": {"Seizure": 10}}, "min_duration_s has Seizure; wanted Seizure, LPD"),
    ]:
        with pytest.raises(ValueError, match=said):
            EventConfig(**settings)


def test_burden_is_the_share_of_known_time_in_each_hour():
    p = np.zeros(720)
    p[:30], p[400:410], p[60:120] = 0.9, 0.8, np.nan
    rows = table(p, "GRDA", first_s=0.0)
    found = events.burden(rows, events.find_events(rows))
    assert found.index.tolist() == [0, 1] and found["minutes"].tolist() == [50, 60]
    np.testing.assert_allclose(found["GRDA"], [5 / 50, 100 / 3600])
    assert not found[["Seizure", "LPD", "GPD", "LRDA"]].any(axis=None)
    late = events.burden(rows[rows["start_s"] > 3600], events.find_events(table([0.1])))
    assert late.index.tolist() == [1]  # an hour without EEG is left out
    found = events.burden(table([np.nan] * 3), events.find_events(table([np.nan] * 3)))
    assert len(found) == 0


def test_the_file_is_what_szcore_reads(tmp_path):
    rows = pd.concat([table([0.9, 0.9]), table([0.8], "LPD", first_s=60.0)])
    start, path = datetime(2026, 1, 2, 3, 4, 5), tmp_path / "events.tsv"
    events.write_events(path, events.find_events(rows), 90.0, start)
    found = pd.read_csv(path, sep="\t", keep_default_na=False)
    wanted = "onset duration eventType confidence channels dateTime recordingDuration pattern"
    assert found.columns.tolist() == wanted.split()
    assert found.iloc[:, [0, 1, 2, 3, 7]].to_numpy().tolist() == [
        [20.0, 20.0, "sz", 0.9, "Seizure"], [60.0, 10.0, "bckg", 0.8, "LPD"],
    ]  # fmt: skip
    assert set(found["dateTime"]) == {"2026-01-02 03:04:05"} and set(found["channels"]) == {"n/a"}
    located = events.find_events(rows).assign(channels=["F7-T3,T3-T5", "n/a"])
    events.write_events(path, located, 90.0, start)
    found = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert found.columns.tolist() == wanted.split() and found["channels"][0] == "F7-T3,T3-T5"
    events.write_events(path, events.find_events(table([0.1])), 90.0)
    found = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert found.iloc[0].tolist() == [0.0, 90.0, "bckg", "n/a", "n/a", "n/a", 90.0, "n/a"]


def test_mne_takes_them():
    pytest.importorskip("mne")
    made = events.to_annotations(events.find_events(table([0.9, 0.9])))
    assert (made.onset, made.duration, made.description) == ([20], [20], ["Seizure"])


def listed(*rows):
    """A table of events from (onset_s, stop_s, event)."""
    rows = [(first, last - first, name) for first, last, name in rows]
    return pd.DataFrame(rows, columns=["onset_s", "duration_s", "event"])


def test_events_are_scored_by_any_overlap_within_the_tolerance():
    truth = listed((100, 160, "Seizure"), (1000, 1040, "Seizure"), (2000, 2060, "Seizure"))
    found = listed(
        (90, 110, "Seizure"), (150, 155, "Seizure"), (1099, 1120, "Seizure"),
        (1930, 1969, "Seizure"), (1000, 1040, "LPD"),
    )  # fmt: skip
    # Within 60 s after the second there is the start of a found one, but none within 30 s before
    # the third. Two found ones in the first are one, as they are 40 s apart.
    scored = events.score(found, truth, 7200)
    seizures, lpd, gpd = scored.loc["Seizure"], scored.loc["LPD"], scored.loc["GPD"]
    assert scored.index.tolist() == list(events.PATTERNS)
    assert seizures.tolist() == [3, 2, 1, 2 / 3, 2 / 3, 12]
    assert lpd[["true", "detected", "false_alarms", "precision"]].tolist() == [0, 0, 1, 0]
    assert lpd["false_alarms_per_day"] == 12 and np.isnan(lpd["sensitivity"])
    assert gpd[:3].tolist() == [0] * 3 and np.isnan(gpd[["sensitivity", "precision"]]).all()


def test_near_events_are_scored_as_one_and_long_ones_in_pieces():
    truth = listed(
        (600, 1350, "LPD"), (1439, 1450, "LPD"), (3000, 3020, "GPD"), (3110, 3120, "GPD")
    )
    scored = events.score(listed((2000, 2020, "LPD"), (600, 869, "LPD")), truth, 3600)
    assert scored.loc["LPD"].tolist() == [3, 1, 1, 1 / 3, 1 / 2, 24]  # of 300, 300, 250 s
    assert scored.loc["GPD", "true"] == 2  # 90 s apart
    inside = events.score(truth, listed((600, 1350, "LPD"), (700, 720, "LPD")), 3600)
    assert inside.loc["LPD", "true"] == 3  # one within another adds nothing
    with pytest.raises(ValueError, match="score: events of {'sz'}; wanted Seizure, LPD"):
        events.score(listed((1, 2, "sz")), truth, 3600)


def test_scored_events_are_cut_at_the_ends_and_last_a_sample(tmp_path):
    truth = listed((-5, 20, "LPD"), (3590, 4000, "GPD"), (9, 9, "LRDA"), (9, 9.04, "GRDA"))
    scored = events.score(truth, truth, 3600)
    assert scored.loc[["LPD", "GPD", "LRDA", "GRDA"], ["true", "detected"]].eq(1).all(axis=None)
    beyond = listed((3700, 3800, "LPD"), (-9, -1, "GPD"))
    assert not events.score(beyond, beyond, 3600)[["true", "false_alarms"]].any(axis=None)
    for duration_s in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"a recording of {duration_s} s; wanted its duration"):
            events.score(truth, truth, duration_s)


@pytest.mark.parametrize("electrode, channels", [("T3", "F7-T3,T3-T5"), ("C4", "F4-C4,C4-P4")])
def test_channels_are_where_the_amplitude_stands_out(rng, electrode, channels):
    eeg_uv = rng.normal(0, 10, (20_000, 20))
    wave = 100 * np.sin(2 * np.pi * 3 * np.arange(6_000) / 200)
    eeg_uv[10_000:16_000, ELECTRODES.index(electrode)] += wave
    eeg_uv[:, ELECTRODES.index("Fz")] = np.nan

    def read(start_s, stop_s):
        return eeg_uv[round(200 * start_s) : round(200 * stop_s)]

    recording = SimpleNamespace(read=read, duration_s=100.0)
    found = events.find_channels(recording, listed((50, 80, "Seizure"), (5, 40, "GPD")))
    assert found == [channels, "n/a"]
    eeg_uv[:, ELECTRODES.index("F7")] = np.nan
    (found,) = events.find_channels(recording, listed((50, 80, "Seizure")))
    assert found == channels.replace("F7-T3,", "")


@pytest.mark.parametrize("kind", ["EDF", "EDF+", "EDF+D", "BDF"])
def test_an_annotated_copy_has_the_events_and_all_that_was_there(tmp_path, rng, kind):
    bdf = kind == "BDF"
    make, whole = (edfio.BdfSignal, edfio.Bdf) if bdf else (edfio.EdfSignal, edfio.Edf)
    options = {"physical_range": (-500, 500), "physical_dimension": "uV"}
    traces = [make(rng.normal(0, 50, 5_120), 256, label=x, **options) for x in ELECTRODES]
    more = {}
    if "+" in kind:
        more["annotations"] = [edfio.EdfAnnotation(3.0, 1.0, "eyes closed")]
    path, copy = tmp_path / f"x.{kind[:3].lower()}", tmp_path / f"copy.{kind[:3].lower()}"
    whole(traces, data_record_duration=1, **more).write(path)
    if kind == "EDF+D":  # from 10 s on, 5 s later
        path.write_bytes(path.read_bytes().replace(b"EDF+C", b"EDF+D"))
        for k in reversed(range(10, 20)):
            old, new = (b"+%d\x14\x14" % at for at in (k, k + 5))
            assert path.read_bytes().count(old) == 1
            path.write_bytes(path.read_bytes().replace(old, new))
    recording = read_recording(path)
    found = listed(*((2 + k / 10, 15.5, "Seizure") for k in range(30)))  # more than records
    events.write_annotated(copy, recording, found)
    again = read_recording(copy)
    np.testing.assert_array_equal(again.read(), recording.read())
    assert again.segments == recording.segments and again.start == recording.start
    marks = again.annotations[again.annotations["description"] == "Seizure"]
    marks = marks.sort_values("onset_s")[["onset_s", "duration_s"]].to_numpy()
    np.testing.assert_allclose(marks, found[["onset_s", "duration_s"]].to_numpy(), atol=1e-3)
    assert ("eyes closed" in set(again.annotations["description"])) == ("+" in kind)
    if kind != "EDF+D":  # others read it too
        mne = pytest.importorskip("mne")
        raw = (mne.io.read_raw_bdf if bdf else mne.io.read_raw_edf)(copy, verbose="error")
        assert list(raw.annotations.description).count("Seizure") == 30
        assert raw.get_data().shape == (20, 5_120)
        assert len((edfio.read_bdf if bdf else edfio.read_edf)(copy).annotations) in (30, 31)


def plain_edf(path, rng, patient, about, day="02.01.24"):
    """An EDF, no EDF+, with these fields."""
    scale = {"physical_range": (-500, 500), "physical_dimension": "uV"}
    traces = [edfio.EdfSignal(rng.normal(0, 50, 2_000), 200, label=x, **scale) for x in ELECTRODES]
    edfio.Edf(traces, data_record_duration=1).write(path)
    body = path.read_bytes()
    fields = patient.ljust(80) + about.ljust(80) + day.encode() + b"10.00.00"
    path.write_bytes(body[:8] + fields + body[184:])
    return read_recording(path)


KNOWN = b"123 F 02-AUG-1951 Doe_Jane more", b"Startdate 02-JAN-2024 X X X"
FIELDS = {  # of a plain EDF, and of its copy
    KNOWN: KNOWN,
    (b"", b""): (b"X X X X", b"Startdate 02-JAN-2024 X X X X"),
    (b"M\xfcller J\xf6rg", b"Startdate 02-JAN-2024"): (
        b"X X X M\xfcller_J\xf6rg", b"Startdate 02-JAN-2024 X X X Startdate_02-JAN-2024"
    ),
    (b"x" * 80, b"y z " * 20): (
        b"X X X " + b"x" * 74, b"Startdate 02-JAN-2024 X X X " + b"y_z_" * 13
    ),
}  # fmt: skip


@pytest.mark.parametrize("fields", FIELDS)
def test_the_copy_of_a_plain_edf_has_its_patient_and_start(tmp_path, rng, fields):
    recording = plain_edf(tmp_path / "x.edf", rng, *fields)
    with pytest.raises(ValueError, match="the recording itself; name another file"):
        events.write_annotated(recording.name, recording, listed((1, 12, "LPD")))
    events.write_annotated(tmp_path / "c.edf", recording, listed((1, 12, "LPD")))
    head = (tmp_path / "c.edf").read_bytes()[:168]
    assert (head[8:88].rstrip(), head[88:168].rstrip()) == FIELDS[fields]
    mne, start = pytest.importorskip("mne"), datetime(2024, 1, 2, 10)
    whole = edfio.read_edf(tmp_path / "c.edf")
    raw = mne.io.read_raw_edf(tmp_path / "c.edf", verbose="error")
    again = read_recording(tmp_path / "c.edf")
    assert whole.startdatetime == again.start == raw.info["meas_date"].replace(tzinfo=None) == start
    assert [x.text for x in whole.annotations] == list(raw.annotations.description) == ["LPD"]


def test_an_unknown_start_stays_unknown_and_a_file_that_became_shorter_is_not_copied(tmp_path, rng):
    recording = plain_edf(tmp_path / "x.edf", rng, b"", b"", "00.00.00")
    events.write_annotated(tmp_path / "c.edf", recording, listed())
    assert (tmp_path / "c.edf").read_bytes()[88:168].split() == b"Startdate X X X X X".split()
    os.truncate(tmp_path / "x.edf", (tmp_path / "x.edf").stat().st_size - 1)
    with pytest.raises(ValueError, match="x.edf: became shorter since it was opened"):
        events.write_annotated(tmp_path / "d.edf", recording, listed())
    assert not (tmp_path / "d.edf").exists()


def test_only_edf_and_bdf_are_copied(tmp_path, rng):
    mne = pytest.importorskip("mne")
    raw = mne.io.RawArray(
        rng.normal(0, 1e-5, (20, 2_000)), mne.create_info(list(ELECTRODES), 200, "eeg")
    )
    with pytest.raises(ValueError, match="raw: no EDF or BDF; wanted one"):
        events.write_annotated(tmp_path / "x.edf", read_recording(raw), listed())
