"""The page: what is drawn has the right values; in a real browser, from the upload to the label."""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import edfio
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from hmsutils import events, inference, records, signals, viewing
from hmsutils.competition import CLASSES, ELECTRODES, VOTE_COLUMNS
from hmsutils.files import find_competition
from hmsutils.recordings import read_recording
from hmsutils.simulate import WIDE, sample_patient, simulate_eeg

app = pytest.importorskip("hmsutils.app", reason="the page needs Gradio")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def write_edf(path, eeg_uv, names=ELECTRODES[:19]):
    scale = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    columns = zip(np.nan_to_num(eeg_uv).clip(-3e3, 3e3).T, names, strict=True)
    edfio.Edf([edfio.EdfSignal(x, 200, label=name, **scale) for x, name in columns]).write(path)
    return path


@pytest.fixture(scope="module")
def lpd(tmp_path_factory):
    """Three minutes, of which the middle one and a half are LPDs."""
    rng, soft_label = np.random.default_rng(0), np.eye(6)[CLASSES.index("LPD")] * 0.94 + 0.01
    patient = sample_patient(rng, WIDE.ranges)
    eeg_uv = simulate_eeg(180, patient, [(45.0, 135.0, soft_label)], rng, WIDE)
    return write_edf(tmp_path_factory.mktemp("lpd") / "lpd.edf", eeg_uv[:, :19])


@pytest.fixture
def desk(tmp_path):
    desk = app.Desk({}, tmp_path / "labels")
    yield desk
    desk.close()


def traces(page):
    values = np.frombuffer(base64.b64decode(page["values"]), "<i2").reshape(len(page["rows"]), -1)
    return np.where(values == -32768, np.nan, values / 10)


def look(recording, montage="double banana", at_s=20, seconds=10, notch_hz=0):
    page = viewing.page(recording, at_s, seconds, montage, 0.5, 40, notch_hz)
    return page, traces(page)


def filtered(recording):
    eeg_uv = recording.read().T[:19]
    return signals.bandpass((eeg_uv - eeg_uv.mean(axis=1, keepdims=True))[None], 0.5, 40)[0]


def test_a_page_has_the_derivations_of_its_montage(lpd):
    recording = read_recording(lpd)
    x = dict(zip(ELECTRODES, filtered(recording)[:, 4000:6000], strict=False))
    page, banana = look(recording)
    names = [row["label"] for row in page["rows"]]
    assert len(names) == 19 and names[:4] == ["Fp1–F7", "F7–T3", "T3–T5", "T5–O1"]
    for name, trace in zip(names[:-1], banana, strict=False):
        plus, minus = name.split("–")
        np.testing.assert_allclose(trace, x[plus] - x[minus], atol=0.3)  # beside the page: 5 s
        assert signals.DOUBLE_BANANA[page["rows"][names.index(name)]["derivation"]] == (plus, minus)
    assert names[-1] == "EKG" and page["rows"][-1]["bad"] and np.isnan(banana[-1]).all()
    mean = np.mean(list(x.values()), axis=0)
    for montage, zero in (("average", mean), ("as recorded", 0)):
        page, rows = look(recording, montage)
        for row, trace in zip(page["rows"][:-1], rows, strict=False):
            np.testing.assert_allclose(trace, x[row["label"]] - zero, atol=0.3)
            assert row["derivation"] is None
    page, rows = look(recording, "transverse")
    np.testing.assert_allclose(rows[1], x["Fp1"] - x["Fp2"], atol=0.3)
    assert {row["label"]: row["side"] for row in page["rows"]}.items() >= {
        **{"F7–Fp1": "L", "Fp1–Fp2": "M", "F3–Fz": "M", "F4–F8": "R", "EKG": "E"}
    }.items()


def test_every_montage_has_every_electrode():
    for montage in viewing.MONTAGES.values():
        seen = {name for group in montage for pair in group for name in pair}
        assert seen >= set(ELECTRODES[:19])


def test_a_page_shows_the_eeg_that_is_there_and_no_more(lpd, tmp_path):
    eeg_uv = read_recording(lpd).read()[:10_000]
    eeg_uv[4400:4600] = np.nan
    eeg_uv[:, ELECTRODES.index("T3")] = np.nan
    frame = pd.DataFrame(eeg_uv, columns=list(ELECTRODES))
    frame.to_parquet(tmp_path / "1.parquet")
    recording = read_recording(tmp_path / "1.parquet")
    page, rows = look(recording)
    lost = {row["label"]: np.isnan(x).mean() for row, x in zip(page["rows"], rows, strict=True)}
    assert lost.pop("F7–T3") == lost.pop("T3–T5") == lost.pop("EKG") == 1
    assert set(lost.values()) == {0.1}
    page, rows = look(recording, at_s=45)
    assert np.isnan(rows[:, 1000:]).all() and not np.isnan(rows[0, :1000]).any()
    assert look(recording, at_s=1e9)[0]["at_s"] == 49


def test_the_notch_takes_the_mains_and_leaves_the_rest(tmp_path):
    t = np.arange(10_000) / 200
    waves = 50 * np.sin(2 * np.pi * 10 * t) + 50 * np.sin(2 * np.pi * 50 * t)
    eeg_uv = np.outer(waves, np.arange(19))
    recording = read_recording(write_edf(tmp_path / "x.edf", eeg_uv / 5))
    power = []
    for notch_hz in (0, 50):
        page = viewing.page(recording, 20, 10, "as recorded", 0.5, 70, notch_hz)
        power.append(np.abs(np.fft.rfft(traces(page)[3])))
    assert power[1][500] < 0.02 * power[0][500]  # 50 Hz
    assert power[1][100] == pytest.approx(power[0][100], rel=0.01)  # 10 Hz


@pytest.mark.parametrize(
    "odd", [{"seconds": 1e6}, {"low_hz": 0}, {"high_hz": 99}, {"notch_hz": 7}, {"montage": "x"}]
)
def test_a_page_of_settings_that_are_not_offered_is_refused(lpd, odd):
    asked = {"at_s": 0, "seconds": 10, "montage": "average", "low_hz": 0.5, "high_hz": 40}
    asked |= {"notch_hz": 0}
    with pytest.raises(ValueError, match="wanted one of"):
        viewing.page(read_recording(lpd), **asked | odd)


def test_a_timeline_shows_the_largest_probability_in_every_column():
    columns = np.frombuffer(base64.b64decode(viewing.timeline(180, None, None)["columns"]), "u1")
    assert columns.size == 7 * 180 and (columns == 255).all()
    p = np.full((13, 6), 0.1)
    p[5, 1] = 0.8
    table = pd.DataFrame(p, columns=list(CLASSES)).assign(start_s=20.0 + 10 * np.arange(13))
    table = table.assign(end_s=table["start_s"] + 10, lost=0.25)
    shown = viewing.timeline(180, table, events.find_events(table))
    columns = np.frombuffer(base64.b64decode(shown["columns"]), "u1").reshape(7, 180)
    assert (columns[:, :20] == 255).all() and (columns[:, 150:] == 255).all()
    assert (columns[1, 70:80] == 160).all() and (columns[1, 80:150] == 20).all()
    assert (columns[6, 20:150] == 50).all()
    assert [row["event"] for row in shown["events"]] == ["LPD"]
    long = viewing.timeline(24_000, table, None)
    columns = np.frombuffer(base64.b64decode(long["columns"]), "u1").reshape(7, 1200)
    assert columns[1].tolist()[:5] == [255, 20, 20, 160, 20]


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def opened(desk, path, key="one"):
    session = desk.session(key)
    session.open(read_recording(path))
    return session


def test_parts_of_a_prediction_are_the_whole(lpd, desk, monkeypatch):
    session = opened(desk, lpd)
    monkeypatch.setattr(app, "_SPAN_S", 60)
    whole = inference.predict_recording(desk.models(app.DEFAULT), session.recording)
    *parts, last = desk.predict(session, app.DEFAULT)
    assert len(parts) == 4 and not any("done" in part for part in parts) and last["done"]
    pd.testing.assert_frame_equal(session.table, whole, atol=1e-6)
    found = events.find_events(whole)
    pd.testing.assert_frame_equal(session.found.drop(columns="channels"), found, atol=1e-6)
    assert last == viewing.timeline(180, session.table, session.found) | {"done": True}
    with pytest.raises(ValueError, match="keep with a span"):
        options = {"keep": desk.root, "span_s": (0, 50)}
        inference.predict_recording(desk.models(app.DEFAULT), session.recording, **options)


@pytest.fixture
def quick(desk, monkeypatch):
    """A model whose predictions take no time; 1: all LPD, 2: all GPD."""
    monkeypatch.setattr(app, "_SPAN_S", 60)
    desk.models = lambda choice: choice

    def predict(models, recording, span_s, **options):
        start_s = np.arange(max(span_s[0], 20.0), min(span_s[1], recording.duration_s - 29), 10.0)
        p = np.eye(6)[[int(models)] * len(start_s)]
        table = pd.DataFrame(p, columns=list(CLASSES)).assign(start_s=start_s, lost=0.0)
        return table.assign(end_s=table["start_s"] + 10)

    monkeypatch.setattr(inference, "predict_recording", predict)
    return desk


def test_a_prediction_of_what_is_no_longer_wanted_ends(lpd, quick):
    session = opened(quick, lpd)
    running = quick.predict(session, "1")
    next(running)
    assert list(quick.predict(session, "1")) == []  # it is under way
    second = quick.predict(session, "2")  # another model
    next(second)
    assert list(running) == []
    third = quick.predict(session, "1")  # the first one again
    *_, last = third
    assert list(second) == [] and last["done"]
    assert set(session.found["event"]) == {"LPD"} and session.done
    running = quick.predict(session, "2")
    next(running)
    session.open(read_recording(lpd))
    assert list(running) == [] and session.table is session.found is None and not session.done


def test_a_prediction_that_fails_can_be_tried_again(lpd, quick):
    session = opened(quick, lpd)
    with pytest.raises(ValueError, match="invalid literal"):
        list(quick.predict(session, "no model"))
    assert session.predicting == "" and list(quick.predict(session, "1"))[-1]["done"]


def test_an_answer_is_about_the_nearest_50_s(lpd, desk):
    session = opened(desk, lpd)
    for asked_s, middle_s in ((0.0, 25.0), (90.0, 90.0), (179.0, 155.0)):
        answer = desk.explain(session, app.DEFAULT, asked_s, "")
        assert answer.middle_s == middle_s and session.answer is answer
        eeg_uv = session.recording.read(middle_s - 25, middle_s + 25)
        wanted = inference.predict(desk.models(app.DEFAULT), eeg_uv)[0]
        np.testing.assert_allclose(answer.p, wanted, atol=1e-6)
    assert answer.derivations.shape == (18, 50) and answer.derivations.sum() == pytest.approx(1)
    assert answer.cam.shape == answer.picture[0].shape[:2] and answer.votes is None
    other = desk.explain(session, app.DEFAULT, 90, "Seizure")
    lpd = desk.explain(session, app.DEFAULT, 90, "LPD")
    assert np.abs(other.derivations - lpd.derivations).max() > 1e-4


def test_of_two_answers_only_the_last_one_counts(lpd, desk):
    session = opened(desk, lpd)
    answers = {}

    def ask(middle_s):
        answers[middle_s] = desk.explain(session, app.DEFAULT, middle_s, "")

    with desk.busy:
        threads = [threading.Thread(target=ask, args=(s,)) for s in (60.0, 90.0)]
        for k, thread in enumerate(threads, 1):
            thread.start()
            wait(lambda k=k: session.asked == k)
    for thread in threads:
        thread.join()
    assert answers[60.0] is None and session.answer is answers[90.0]
    with desk.busy:
        thread = threading.Thread(target=ask, args=(100.0,))
        thread.start()
        wait(lambda: session.asked == 3)
        session.open(read_recording(lpd))
    thread.join()
    assert answers[100.0] is session.answer is None
    with pytest.raises(ValueError, match="once there are probabilities"):
        desk.label(session, "LPD")


def test_where_there_is_too_little_eeg_the_page_says_why_and_shows_no_map(tmp_path, desk):
    session = opened(desk, write_edf(tmp_path / "x.edf", np.ones((12_000, 19))))
    answer = desk.explain(session, app.DEFAULT, 30, "")
    assert np.isnan(answer.p).all() and answer.derivations is answer.cam is None
    assert "No prediction: " in app._answer(answer)
    with pytest.raises(ValueError, match="not saved, as there is too little EEG"):
        desk.label(session, "LPD")
    assert "map" not in app._looked(answer)


def test_windows_of_a_competition_come_with_votes_and_disagreements(competition, desk):
    desk.offered = {"data": competition}
    session = desk.session("one")
    desk.open(session, "data")
    first = session.windows.iloc[0]
    answer = desk.explain(session, app.DEFAULT, session.middle_s(), "")
    assert answer.votes.tolist() == first[list(VOTE_COLUMNS)].tolist()
    assert answer.patient == first["patient_id"]
    assert f"{answer.votes.sum()} experts" in app._answer(answer)
    *agreed, (row, found) = desk.next_disagreement(session, app.DEFAULT)
    rest = session.windows.iloc[1 : row + 1]
    p = inference.predict_windows(desk.models(app.DEFAULT), competition, rest)
    votes = rest[list(VOTE_COLUMNS)].to_numpy()
    agrees = votes[np.arange(len(rest)), p.argmax(axis=1)] == votes.max(axis=1)
    assert found and agrees[:-1].all() and not agrees[-1] and not any(x for _, x in agreed)
    lengths = {i: read_recording(competition.eeg(i)).duration_s for i in session.windows["eeg_id"]}
    row = int(session.windows["eeg_id"].map(lengths).argmax())
    desk.turn_to(session, row)
    assert desk.explain(session, app.DEFAULT, session.middle_s() + 5, "").votes is None
    desk.turn_to(session, 10**9)
    assert session.row == len(session.windows) - 1


def test_an_eeg_that_cannot_be_read_changes_nothing(competition, desk, tmp_path):
    copy = shutil.copytree(competition.root, tmp_path / "copy")
    desk.offered = {"data": find_competition(copy, verbose=False), "gone": tmp_path / "gone.edf"}
    session = desk.session("one")
    desk.open(session, "data")
    before, window = session.recording, session.windows.iloc[1]
    session.competition.eeg(window["eeg_id"]).write_bytes(b"PAR1" * 9)
    for act in (lambda: desk.turn_to(session, 1), lambda: desk.open(session, "gone")):
        with pytest.raises((ValueError, OSError)):
            act()
        assert session.row == 0 and session.recording is before and session.windows is not None


def test_labels_of_two_files_of_one_name_are_two(lpd, desk, tmp_path):
    eeg_uv = read_recording(lpd).read()[:, :19]
    for name, gain in (("a", 1), ("b", 0.5)):
        (tmp_path / name).mkdir()
        session = opened(desk, write_edf(tmp_path / name / "EEG.edf", gain * eeg_uv))
        desk.explain(session, app.DEFAULT, 60, "")
        desk.label(session, "LPD")
    assert len(pd.read_csv(desk.labels / "train.csv")) == 2


def test_sides_of_a_recording_of_derivations_stay_apart(lpd, tmp_path):
    x = read_recording(lpd).read()[:, :19]
    pairs = [[ELECTRODES.index(name) for name in pair] for pair in signals.DOUBLE_BANANA]
    names = ["-".join(pair) for pair in signals.DOUBLE_BANANA]
    derived = np.stack([x[:, i] - x[:, j] for i, j in pairs], axis=1)
    recording = read_recording(write_edf(tmp_path / "x.edf", derived, names))
    assert recording.is_bipolar and not read_recording(lpd).is_bipolar
    np.testing.assert_allclose(look(recording)[1][:18], look(read_recording(lpd))[1][:18], atol=0.5)


def test_only_what_was_uploaded_is_opened(desk, lpd):
    session, new = desk.session("one"), desk.root / "new" / "hash"
    new.mkdir(parents=True)
    shutil.copy(lpd, new / "x.edf")
    shutil.copy(lpd, desk.session("two").folder / "y.edf")
    outside = (
        lpd,
        new,
        new.parent,
        desk.root,
        new / "../../.." / lpd,
        desk.session("two").folder / "y.edf",
    )
    for path in outside:
        with pytest.raises(ValueError, match="not uploaded"):
            desk.upload(session, path)
    desk.upload(session, new / "x.edf")
    assert session.recording.duration_s == 180 and (new / "x.edf").exists()
    with pytest.raises(ValueError, match="no session"):
        desk.session(None)


def test_the_span_of_a_short_recording_lies_in_it(desk, lpd, tmp_path):
    session = opened(desk, write_edf(tmp_path / "x.edf", read_recording(lpd).read(60, 66)[:, :19]))
    answer = desk.explain(session, app.DEFAULT, 3, "")
    assert answer.span_s == (0, 6) and answer.span == "00:00:00–00:00:06"


def test_a_port_that_is_taken_is_said(desk, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    desk.warming = threading.Thread()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="is taken; name another one with --port"):
            app.start(desk, other.getsockname()[1])


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_page_is_stopped(tmp_path, ending):
    environment = os.environ | {"TMPDIR": str(tmp_path), "HMS_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "hmsutils", "app", "--no-browser"]
    options = {"stdout": subprocess.PIPE, "text": True, "env": environment, "cwd": REPOSITORY}
    usual = partial(signal.signal, ending, signal.SIG_DFL)  # a shell's background ignores Ctrl-C
    server = subprocess.Popen(command, preexec_fn=usual, **options)
    address = next(line for line in server.stdout if line.startswith("http"))
    assert address.startswith("http://127.0.0.1:")
    assert any(tmp_path.glob("hmsutils-*"))
    server.send_signal(ending)
    server.communicate(timeout=60)
    assert server.returncode == 0 and not any(tmp_path.glob("hmsutils-*"))


# In the browser.


@pytest.fixture
def served(desk, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # set by the page, put back after it
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    blocks, address = app.start(desk)
    yield address
    blocks.close()
    desk.warming.join()  # a process that ends while TensorFlow works in a thread hangs


@pytest.fixture
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        yield play.chromium.launch(executable_path=CHROMIUM, args=options)


def visit(browser, address):
    """A page of its own session; what it asks for, and what goes wrong in it, are in its lists."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.asked, page.failed = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.failed.append(str(error)))
    page.on("dialog", lambda dialog: page.failed.append(dialog.message))
    page.set_default_timeout(90_000)
    page.goto(address)
    return page


def at(page):
    return page.locator("[data-name=slider]").evaluate("(x) => Number(x.value)")


def is_fresh(page):
    return "stale" not in page.locator("body").get_attribute("class")


def test_from_an_upload_to_a_saved_label(served, browser, desk, lpd):
    page = visit(browser, served)
    page.set_input_files("input[type=file]", lpd)
    page.wait_for_selector("text=00:00:20–00:00:30")
    shown = [float(x) for x in page.locator(".answer td:nth-child(3)").all_inner_texts()]
    recording = read_recording(lpd)
    wanted = inference.predict(desk.models(app.DEFAULT), recording.read(0, 50))[0]
    np.testing.assert_allclose(shown, wanted, atol=0.006)

    picture = "document.querySelector('[data-name=eeg]').toDataURL()"
    before = page.evaluate(picture)
    assert at(page) == 20
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=00:00:30–00:00:40")
    assert at(page) == 30 and page.evaluate(picture) != before
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_selector("text=00:00:29–00:00:39")
    before = page.evaluate(picture)
    page.keyboard.press("ArrowDown")
    assert page.evaluate(picture) != before

    page.wait_for_selector("text=Events: 1")
    (session,) = desk.sessions.values()
    event = session.found.iloc[0]
    assert event["event"] == "LPD"
    page.locator("[data-name=list] button").click()
    wait(lambda: at(page) == event["onset_s"])
    page.locator("[data-name=strip]").click(position={"x": 400, "y": 30})  # the middle, about
    wait(lambda: 60 < at(page) < 120)
    page.select_option("[data-name=montage]", "average")
    wait(lambda: session.answer.middle_s == at(page) + 5)
    page.select_option("[data-name=seconds]", "30")  # the middle stays
    middle_s = session.answer.middle_s
    wait(lambda: at(page) == pytest.approx(middle_s - 15, abs=0.06))
    for _ in range(4):  # faster than the answers
        page.keyboard.press("Shift+ArrowRight")
    wait(lambda: session.answer.middle_s == pytest.approx(at(page) + 15))
    page.wait_for_selector(f"text={session.answer.span} >> nth=0")

    for value in ("transverse", "average"):  # the answer is the same: it is not pale for ever
        page.select_option("[data-name=montage]", value)
        wait(lambda: is_fresh(page))
    page.get_by_role("radio", name="GPD").check()
    page.keyboard.press("Shift+ArrowRight")  # a page later, a label of the old one is not saved
    page.get_by_text("Save label").click(timeout=10_000)
    page.wait_for_selector("text=choose one of the six classes")
    page.keyboard.press("Home")
    wait(lambda: session.answer.middle_s == 25 and is_fresh(page))
    inert = "(x) => x.inert"
    assert not page.locator("button.save").evaluate(inert)  # 30 s show the 10 s of the answer
    page.select_option("[data-name=seconds]", "10")
    page.keyboard.press("Home")  # the answer is about 10 s that are not on the page
    wait(lambda: at(page) == 0 and is_fresh(page))
    assert page.locator("button.save").evaluate(inert)
    page.select_option("[data-name=seconds]", "30")
    page.locator("[data-name=list] button").click()
    wait(lambda: session.answer.middle_s == pytest.approx(at(page) + 15))
    wait(lambda: is_fresh(page))
    page.keyboard.press("2")
    page.get_by_text("Save label").click()
    page.wait_for_selector("text=/LPD at .* is saved; windows in .*: 1/")
    windows = records.load_windows(own := find_competition(desk.labels, verbose=False))
    assert windows["expert_consensus"].tolist() == ["LPD"] and windows["n_votes"].tolist() == [1]
    saved = records.read_eeg(own, windows["eeg_id"][0])
    offset_s = session.answer.middle_s - 25
    np.testing.assert_array_equal(saved, recording.read(offset_s, offset_s + 50))

    with page.expect_download() as png:
        page.locator("[data-name=png]").click()
    assert Path(png.value.path()).read_bytes()[:4] == b"\x89PNG"
    with page.expect_download() as tsv:
        page.locator("[data-name=tsv]").click()
    assert pd.read_csv(tsv.value.path(), sep="\t")["pattern"].tolist() == ["LPD"]
    assert tsv.value.suggested_filename == "lpd_events.tsv"

    assert not page.failed
    page.set_input_files("input[type=file]", lpd)  # while one is opened, another one
    other = lpd.with_name("other.edf")
    other.write_bytes(lpd.read_bytes())
    page.set_input_files("input[type=file]", other)
    page.wait_for_selector(".notice >> text=other.edf")
    wait(lambda: session.done and Path(session.recording.name).name == "other.edf")
    page.wait_for_selector("text=Events: 1")
    ours = (served, "data:", "blob:")
    assert not [url for url in page.asked if not url.startswith(ours)]
    folder = session.folder
    assert [path.name for path in folder.glob("*/*")] == ["other.edf"]
    page.context.close()
    wait(lambda: not folder.exists() and not desk.sessions)
    assert not list(desk.root.rglob("*.edf"))


def test_hostile_files_get_a_sentence_and_nobody_gets_anothers_file(
    served, browser, desk, lpd, tmp_path
):
    good, other = visit(browser, served), visit(browser, served)
    good.set_input_files("input[type=file]", lpd)
    good.wait_for_selector("text=00:00:20–00:00:30")
    (owner,) = [x for x in desk.sessions.values() if x.recording]
    (path,) = owner.folder.glob("*/lpd.edf")

    files = {
        "text.edf": (b"no EEG at all", "no EDF, BDF or .parquet"),
        "<img src=x onerror=alert(1)>.edf": (lpd.read_bytes()[:300], "a damaged EDF or BDF"),
        "header.vhdr": (f"DataFile={path}".encode(), "no EDF, BDF or .parquet"),
        "empty.bdf": (b"", "no EDF, BDF or .parquet"),
        "table.parquet": (b"PAR1" * 9, "no EEG of the competition"),
    }
    for name, (content, sentence) in files.items():
        (tmp_path / name).write_bytes(content)
        other.set_input_files("input[type=file]", tmp_path / name)
        other.wait_for_selector(f"[role=alert] >> text={sentence}")
        alert = other.locator("[role=alert]").inner_text()
        assert str(desk.root) not in alert and "Traceback" not in alert
    assert not other.failed and other.locator("img[src=x]").count() == 0
    assert good.locator("[role=alert]").count() == 0 and at(good) == 20

    for outside in (path, "/etc/passwd", desk.root / "new" / ".." / path.relative_to(desk.root)):
        for door in ("gradio_api/file=", "file=", "gradio_api/file/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{served}{door}{outside}")  # noqa: S310 ours
            assert refused.value.code in (403, 404)
    for person in (good, other):  # one file at the same time
        person.set_input_files("input[type=file]", lpd)
    wait(
        lambda: (
            not other.locator("[role=alert]").count()
            and sum(x.done for x in desk.sessions.values()) == 2
        )
    )
    assert not good.locator("[role=alert]").count()
    origins = ("http://evil.example", 403), ("http://127.0.0.1:1", 403), (served.rstrip("/"), 200)
    for origin, code in origins:
        asked = urllib.request.Request(served, headers={"Origin": origin})  # noqa: S310 ours
        try:
            found = urllib.request.urlopen(asked).status  # noqa: S310 ours
        except urllib.error.HTTPError as error:
            found = error.code
        assert found == code
    rebound = urllib.request.Request(served, headers={"Host": "evil.example"})  # noqa: S310 ours
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(rebound)  # noqa: S310 ours
    with urllib.request.urlopen(served) as answer:  # noqa: S310 ours
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!127)', answer.read().decode())


def test_the_page_is_on_this_machine_alone(served):
    port = int(served.rstrip("/").rsplit(":", 1)[1])
    socket.create_connection(("127.0.0.1", port)).close()
    with socket.socket() as probe:  # any other address of this machine is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.2", port))
