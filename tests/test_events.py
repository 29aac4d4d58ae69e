"""Events are what the thresholds say, on the seconds that they are about."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from hmsutils import events
from hmsutils.competition import CLASSES
from hmsutils.events import EventConfig


def table(p, name="Seizure", step_s=10, first_s=20.0):
    """Rows as of `predict_recording`: `p` of one class, the rest is Other; NaN: no opinion."""
    p = np.asarray(p, float)
    start_s = first_s + step_s * np.arange(len(p))
    rows = pd.DataFrame({"start_s": start_s, "end_s": start_s + 10, **dict.fromkeys(CLASSES, 0.0)})
    rows[name], rows["Other"] = p, 1 - p
    rows.loc[np.isnan(p), list(CLASSES)] = np.nan
    return rows


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
    events.write_events(path, events.find_events(table([0.1])), 90.0)
    found = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert found.iloc[0].tolist() == [0.0, 90.0, "bckg", "n/a", "n/a", "n/a", 90.0, "n/a"]


def test_mne_takes_them():
    pytest.importorskip("mne")
    made = events.to_annotations(events.find_events(table([0.9, 0.9])))
    assert (made.onset, made.duration, made.description) == ([20], [20], ["Seizure"])
