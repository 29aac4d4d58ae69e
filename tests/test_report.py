"""The report has what was found, no name that was not asked for, and loads nothing."""

import os
import re
from dataclasses import replace
from datetime import date, datetime, time
from html.parser import HTMLParser

import edfio
import keras
import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import INPUTS

from hmsutils import plots, report
from hmsutils.competition import CLASSES, ELECTRODES
from hmsutils.config import TrainConfig
from hmsutils.events import EventConfig, find_events
from hmsutils.inference import TrainedModel
from hmsutils.models import WaveNetConfig, build_model
from hmsutils.recordings import read_recording


@pytest.fixture(scope="module")
def models(small_backbone):
    wavenet = WaveNetConfig(4, 3, (1, 8), 1, 4)
    towers = (small_backbone, "wavenet")
    config = TrainConfig(towers=towers, inputs=INPUTS, weights=None, wavenet=wavenet)
    keras.utils.set_random_seed(0)
    model = build_model(config)
    return [TrainedModel(lambda: (model, (model.get_weights(),)), config)]


def write_edf(path, seconds, hz=None, records=None):
    """White noise, and a sine of 9 Hz on the left where `hz` is given, of a patient with a name."""
    eeg_uv = np.random.default_rng(0).normal(0, 20, (20, 200 * seconds))
    if hz:
        left = [ELECTRODES.index(x) for x in ("F7", "T5")]
        eeg_uv[left] += 200 * np.sin(2 * np.pi * hz * np.arange(200 * seconds) / 200)
    scale = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    signals = [
        edfio.EdfSignal(x, 200, label=name, **scale)
        for x, name in zip(eeg_uv, ELECTRODES, strict=True)
        if name != "EKG"
    ]
    patient = edfio.Patient(code="MRN4711", sex="F", birthdate=date(1951, 2, 3), name="Doe_Jane")
    edfio.Edf(
        signals, patient=patient, recording=edfio.Recording(startdate=date(2026, 1, 2)),
        starttime=time(23, 59, 50), annotations=[edfio.EdfAnnotation(3, None, "Jane Doe awake")],
        data_record_duration=10,
    ).write(path)  # fmt: skip
    return read_recording(path)


def rows(recording, **probabilities):
    """A table of `predict_recording`: Other, but for the rows named."""
    start_s = np.arange(20.0, recording.duration_s - 29, 10) if recording.duration_s > 50 else [0.0]
    table = pd.DataFrame({"start_s": start_s, **dict.fromkeys(CLASSES, 0.0)})
    table.insert(1, "end_s", table["start_s"] + 10)
    for name, values in probabilities.items():
        table.loc[list(values), name] = list(values.values())
    table["Other"] = 1 - table[list(CLASSES[:-1])].sum(axis=1)
    return table.assign(n_electrodes=19, replaced="", lost=0.0, problem="")


class _Loads(HTMLParser):
    """What a page loads by itself, its text outside scripts and styles, and its links."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids, self.words, self.inside = [], [], [], [], ""
        self.feed(path.read_text("utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs, self.inside = dict(attrs), tag
        self.ids.append(attrs.get("id"))
        (self.links if tag == "a" else self.loads).append(attrs.get("href"))
        self.loads += [attrs.get(x) for x in ("src", "srcset", "poster", "data", "action")]

    def handle_data(self, data):
        if self.inside == "style":
            assert not re.findall(r"url\(['\"]?(?!['\"]?data:)|@import", data)
        elif self.inside != "script":
            self.words.append(data)


def written(path, *args, **options):
    before = matplotlib.get_backend(), matplotlib.pyplot.get_fignums()
    report.write_report(path, *args, **options)
    assert before == (matplotlib.get_backend(), matplotlib.pyplot.get_fignums())
    page = _Loads(path)
    assert all(x.startswith("data:image/") for x in page.loads if x)
    assert {x[1:] for x in page.links if x.startswith("#event")} <= set(page.ids)
    return page


def test_a_report_has_what_was_found_and_no_name(tmp_path, models):
    recording = write_edf(tmp_path / "x.edf", 130)
    assert "MRN4711 F 03-FEB-1951 Doe_Jane" in report._header(recording, True)
    recording = replace(recording, name=f"{tmp_path}/a<b>.edf")
    table = rows(recording, Seizure={0: 0.9, 1: 0.7}, LPD={5: 0.6})
    table.loc[3, list(CLASSES)] = np.nan
    events = find_events(table).assign(channels=["F7, T3", "<O1>"])
    page = written(tmp_path / "x.html", recording, table, events, models)
    for said in [
        "EEG: a<b>.edf", "02 Jan 2026, 23:59:50", "0:02:10", "200 Hz", "19 of 19", "EKG",
        "no medical device", "wavenet (weight 1, folds: 1)", "reaches a probability of 0.5",
        "Events: 2.", "1: Seizure, 00:00:10", "2: LPD, 00:01:00", "0.80", "F7, T3", "<O1>",
    ]:  # fmt: skip
        assert said in page.text, said
    assert page.links.count("#event-1") == page.links.count("#event-2") == 1
    assert sum(str(x).startswith("data:image/webp") for x in page.loads) == 3
    whole = (tmp_path / "x.html").read_text("utf-8")
    for secret in ("Doe_Jane", "Jane Doe", "MRN4711", str(tmp_path), "<O1>", "a<b>"):
        assert secret not in whole, secret
    assert not {"Doe", "Jane", "1951", "awake"} & set(re.split(r"\W+", page.text))
    assert "only read from EDF" in report._header(recording, True)


def test_without_an_event_the_most_probable_pattern_is_shown(tmp_path, models):
    recording = write_edf(tmp_path / "x.edf", 10)
    recording = replace(recording, name=os.fsdecode(b"M\xfcller.edf"))  # no UTF-8
    table = rows(recording, GRDA={0: 0.2}, LPD={0: 0.3})
    page = written(tmp_path / "x.html", recording, table, find_events(table), models)
    assert page.text.count("M?ller.edf") >= 2
    assert "No event; where LPD is most probable: 23:59:50" in page.text
    assert "Events: 0." in page.text
    assert "LPD 0.30, GPD 0.00, LRDA 0.00, GRDA 0.20" in page.text


def test_gaps_and_no_prediction_at_all(tmp_path, models):
    recording = write_edf(tmp_path / "x.edf", 60)
    recording = replace(
        recording, segments=((0.0, 30.0), (3640.0, 3660.0)), duration_s=3660.0, start=None,
        notes=(f"{tmp_path}/x.edf: gaps",),
    )  # fmt: skip
    recording._source.spans[:] = [(0.0, 0, 3), (3640.0, 4, 2)]
    table = rows(recording)
    table.loc[:, list(CLASSES)] = np.nan
    page = written(tmp_path / "x.html", recording, table, find_events(table), models)
    assert "1:01:00, in 2 parts, 1:00:10 between them are missing" in page.text
    assert "not in the file" in page.text and str(tmp_path) not in page.text
    assert not [x for x in page.ids if str(x).startswith("event")]
    seen = np.isfinite(plots.recording_db(recording)[:, 0, 0])
    assert seen.shape == (1500,) and set(np.flatnonzero(seen)) == {*range(12), *range(1492, 1500)}


def test_the_spectrogram_is_where_and_as_fast_as_the_wave(tmp_path):
    power_db = plots.recording_db(write_edf(tmp_path / "x.edf", 130, hz=9))
    assert power_db.shape == (65, 4, 100) and np.isfinite(power_db).all()
    peak = power_db[:, 0].argmax(axis=1) * 200 / 1024 + 0.59
    np.testing.assert_allclose(peak, 9, atol=0.3)
    assert (power_db[:, 0].max(axis=1) > power_db[:, 1].max(axis=1) + 10).all()


def test_the_most_certain_events_of_every_class_get_a_page(monkeypatch):
    monkeypatch.setattr(report, "MAX_PAGES", 3)
    events = pd.DataFrame({
        "onset_s": range(0, 50, 10), "duration_s": 10.0,
        "event": ["LPD", "LPD", "Seizure", "LPD", "LPD"],
        "confidence": [0.6, 0.9, 0.5, 0.8, 0.7],
    })  # fmt: skip
    shown = report._most_certain(events)
    assert list(shown) == [1, 2, 3]
    text = report._list(events, shown, datetime(2026, 1, 1, 12))
    assert "Events: 5; 2 less certain ones have no page." in text and "12:00:40" in text
    assert text.count('href="#event-') == 3 and 'href="#event-2"' in text


def test_burden_of_every_hour_and_of_all(tmp_path):
    recording = write_edf(tmp_path / "x.edf", 60)
    table = rows(replace(recording, duration_s=7200.0), GPD=dict.fromkeys(range(36), 0.9))
    text = " ".join(re.sub("<.*?>", " ", report._burden(table, find_events(table))).split())
    assert "0–1 h 59.7 0 0 10.1 % 0 0 1–2 h 59.7 0 0 0 0 0 all 119.3 0 0 5.0 % 0 0" in text


def test_only_html_is_written(tmp_path, models):
    with pytest.raises(ValueError, match="x.h5 is no HTML file; name a file.html"):
        report.write_report(tmp_path / "x.h5", None, None, None, models, config=EventConfig())
