"""A local page to look at EEG, at what the models say of it and why, and to label it.

This module gives numbers, page/viewer.js draws them in the browser. Everybody's page has a session
of its own: the files that were uploaded in it lie in a private folder, which is never served, and
are removed with it.
"""

import base64
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import signal

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError as error:
    raise ImportError("the page needs Gradio: pip install hmsutils[app]") from error

from hmsutils import events, inference, plots, records, runs, saliency, signals
from hmsutils.competition import (
    CLASSES,
    ELECTRODES,
    SFREQ_HZ,
    VOTE_COLUMNS,
    WINDOW_S,
    WINDOW_SAMPLES,
    Competition,
)
from hmsutils.evaluation import label_runs
from hmsutils.recordings import Recording, read_recording
from hmsutils.representations import Image

COLUMNS = 1200  # of the timeline
_SPAN_S = 600  # of a recording that is predicted before the page shows it
_MARGIN_S = 5.0  # beside a page, for its filters
_LOST, _NONE = -32768, 255  # where there is no EEG, and no prediction
DEFAULT = "default model"
_SCALP = ELECTRODES[: signals.N_SCALP]
_TRANSVERSE = (
    "F7-Fp1 Fp1-Fp2 Fp2-F8", "F7-F3 F3-Fz Fz-F4 F4-F8", "T3-C3 C3-Cz Cz-C4 C4-T4",
    "T5-P3 P3-Pz Pz-P4 P4-T6", "T5-O1 O1-O2 O2-T6",
)  # fmt: skip
_BY_SIDE = ("Fp1 F7 T3 T5", "F3 C3 P3 O1", "Fz Cz Pz", "Fp2 F8 T4 T6", "F4 C4 P4 O2")
_MEAN = "average"
# Groups of (plus, minus); minus: an electrode, the average of all, or "" as recorded.
MONTAGES = {
    "double banana": [plots.READING_ORDER[i : i + 4] for i in range(0, 18, 4)],
    _MEAN: [[(x, _MEAN) for x in group.split()] for group in _BY_SIDE],
    "transverse": [[tuple(x.split("-")) for x in group.split()] for group in _TRANSVERSE],
    "as recorded": [[(x, "") for x in group.split()] for group in _BY_SIDE],
}  # ACNS Guideline 3
SECONDS, NOTCH_HZ = (5, 10, 15, 20, 30), (50, 60)
LOW_HZ, HIGH_HZ = (0.3, 0.5, 1, 1.6, 5), (15, 30, 40, 70)
SENSITIVITY = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)  # µV/mm
# The browser asks nobody else for anything, whatever a library would have it load.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'"


@dataclass(eq=False)
class Session:
    """What one person looks at."""

    folder: Path  # for uploads
    recording: Recording | None = None
    table: pd.DataFrame | None = None  # of `predict_recording`, up to now
    found: pd.DataFrame | None = None  # its events
    competition: Competition | None = None
    windows: pd.DataFrame | None = None  # of the competition
    row: int = 0  # of `windows`, from 0
    middle_s: float | None = None  # of the 50 s that the answer on the page is about
    predicted: str = ""  # by this model, all of it
    opened: int = 0  # counts, so that a prediction of what is no longer open ends

    def show(self, recording: Recording) -> float:
        """Take a recording; where the first 10 s that are predicted begin, in seconds."""
        self.recording, self.table, self.found = recording, None, None
        self.middle_s, self.predicted = None, ""
        self.opened += 1
        return max(0.0, min(recording.duration_s, WINDOW_S) / 2 - 5)


class Desk:
    """What the pages share: the files that were offered, the models, one prediction at a time."""

    def __init__(self, offered: Mapping[str, Path | Competition], labels: Path):
        self.offered, self.labels, self.busy = dict(offered), labels, threading.Lock()
        self.root = Path(tempfile.mkdtemp(prefix="hmsutils-"))  # mode 700
        self.sessions: dict[str, Session] = {}
        found = [*runs.find_runs(), *runs.released_runs()]
        self.choices = {DEFAULT: None} | label_runs(found)

    def session(self, key: str) -> Session:
        if key not in self.sessions:
            folder = Path(tempfile.mkdtemp(dir=self.root))
            self.sessions[key] = Session(folder)
        return self.sessions[key]

    def forget(self, key: str) -> None:
        if session := self.sessions.pop(key, None):
            session.opened += 1
            shutil.rmtree(session.folder, ignore_errors=True)

    @lru_cache(maxsize=4)  # noqa: B019 there is one desk
    def models(self, choice: str) -> list[inference.TrainedModel]:
        run = self.choices[choice]
        return inference.load_models([run] if run else inference.default_runs())

    def warm_up(self) -> None:
        """Load the default model and build its graphs before somebody waits for them."""
        noise_uv = np.random.default_rng(0).normal(0, 20, (WINDOW_SAMPLES, len(ELECTRODES)))
        with self.busy:
            for explain in _MAPS:
                saliency.map_or_none(explain, self.models(DEFAULT), noise_uv[None], 0)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def upload(self, session: Session, path: Path) -> float:
        """Open a file that was uploaded, after taking it out of what is served; where to begin."""
        before, folder = [*session.folder.iterdir()], Path(tempfile.mkdtemp(dir=session.folder))
        try:
            own = Path(shutil.move(path, folder / path.name))
            with open(own, "rb") as file:
                first = file.read(8)
            # Only formats that cannot name another file of this machine, to be read with them.
            if not (first[:4] == b"PAR1" or first.strip(b" \0") == b"0" or first == b"\xffBIOSEMI"):
                wanted = "wanted one of these; others are opened by hmsutils app FILE"
                raise ValueError(f"{own.name}: no EDF, BDF or .parquet; {wanted}")
            at_s = session.show(read_recording(own))
        except Exception:
            shutil.rmtree(folder)
            raise
        for old in before:
            shutil.rmtree(old)
        session.competition = session.windows = None
        return at_s

    def open(self, session: Session, name: str) -> float:
        """Open what was offered under a name; where to begin, in seconds."""
        if isinstance(place := self.offered[name], Path):
            session.competition = session.windows = None
            return session.show(read_recording(place))
        windows = records.load_windows(place, on_problem="exclude")
        session.competition, session.windows = place, records.one_per_vote_run(windows)
        return self.turn_to(session, 0)

    def turn_to(self, session: Session, row: int) -> float:
        """Open the EEG of one of the competition's windows; where it begins, in seconds."""
        session.row = int(np.clip(row, 0, len(session.windows) - 1))
        window = session.windows.iloc[session.row]
        session.show(read_recording(session.competition.eeg(window["eeg_id"])))
        return float(window["eeg_offset_s"]) + 20.0

    def next_disagreement(self, session: Session, choice: str) -> Iterator[tuple[int, bool]]:
        """(row, found) of windows after the present one, until the model's class is not one of
        those with most votes."""
        opened, n = session.opened, len(session.windows)
        for first in range(session.row + 1, n, 8):
            some = session.windows.iloc[first : first + 8]
            with self.busy:
                p, _ = inference.predict_windows(
                    self.models(choice), session.competition, some, return_quality=True
                )
            votes, said = some[list(VOTE_COLUMNS)].to_numpy(), np.nan_to_num(p).argmax(axis=1)
            agrees = votes[np.arange(len(some)), said] == votes.max(axis=1)
            wrong = np.flatnonzero(~agrees & ~np.isnan(p).any(axis=1))
            if session.opened != opened:
                return
            yield first + int(wrong[0] if len(wrong) else len(some) - 1), bool(len(wrong))
            if len(wrong):
                return

    def predict(self, session: Session, choice: str) -> Iterator[bool]:
        """Predict a recording piece by piece into `session`; whether it is done."""
        recording, session.opened = session.recording, session.opened + 1
        opened, parts = session.opened, []
        edges_s = [0, 60, *range(_SPAN_S, int(recording.duration_s), _SPAN_S), np.inf]
        for span_s in pairwise(edges_s):  # a short one first
            with self.busy:
                part = inference.predict_recording(
                    self.models(choice), recording, span_s=span_s, title=None
                )
            if session.opened != opened:
                return
            parts += [part] if len(part) else []
            session.table = pd.concat(parts, ignore_index=True) if parts else None
            session.found = events.find_events(session.table) if parts else None
            yield False
        if parts:
            session.found["channels"] = events.find_channels(recording, session.found)
        if session.opened == opened:
            session.predicted = choice
            yield True

    def explain(self, session: Session, choice: str, middle_s: float, name: str) -> "Answer":
        """The model's answer on the 50 s around a time, or the nearest that there are, and why it
        says `name`, or its most probable class."""
        recording, spans = session.recording, session.recording.segments
        begin_s, stop_s = min(spans, key=lambda x: abs(np.clip(middle_s, *x) - middle_s))
        half_s = min(WINDOW_S, stop_s - begin_s) / 2
        middle_s = float(np.clip(middle_s, begin_s + half_s, stop_s - half_s))
        eeg_uv = inference.window_around(recording, middle_s)
        with self.busy:
            models = self.models(choice)
            p, quality = inference.predict(models, eeg_uv, return_quality=True)
            known = not quality["problem"][0]
            chosen = CLASSES.index(name) if name in CLASSES else int(np.nan_to_num(p[0]).argmax())
            maps = [
                saliency.map_or_none(f, models, eeg_uv[None], chosen) if known else None
                for f in _MAPS
            ]
        image = inference.image_of(models)
        picture = None if image is None else (image.from_raw(eeg_uv)[0], image)
        session.middle_s = middle_s
        return Answer(
            middle_s, p[0], quality.iloc[0], picture, *(m if m is None else m[0] for m in maps)
        )

    def votes(self, session: Session) -> np.ndarray | None:
        """(6,) counts of the experts on what the answer is about, where they are known."""
        if session.windows is None:
            return None
        window = session.windows.iloc[session.row]
        there = abs(window["eeg_offset_s"] + WINDOW_S / 2 - session.middle_s) < 1
        return window[list(VOTE_COLUMNS)].to_numpy(int) if there else None

    def label(self, session: Session, name: str | None) -> str:
        """Save somebody's own label of what the answer is about; what was done."""
        if name is None or session.middle_s is None:
            raise ValueError("choose one of the six classes, once there are probabilities")
        patient = None
        if session.windows is not None:
            patient = session.windows["patient_id"].iloc[session.row]
        middle_s, recording = session.middle_s, session.recording
        n = records.save_label(
            self.labels, inference.window_around(recording, middle_s), name, patient=patient,
            source=Path(recording.name).name, offset_s=middle_s - WINDOW_S / 2,
        )  # fmt: skip
        span = "–".join(plots.clock(recording.start, middle_s + s) for s in (-5, 5))
        return f"{name} at {span}: saved; {n} windows in {self.labels / 'train.csv'}"


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of 50 s, and why."""

    middle_s: float
    p: np.ndarray  # (6,), NaN without an opinion
    quality: pd.Series
    picture: tuple[np.ndarray, Image] | None  # that the model sees
    derivations: np.ndarray | None  # (18, 50), `saliency.eeg_saliency`
    cam: np.ndarray | None  # `saliency.grad_cam`


_MAPS = saliency.eeg_saliency, saliency.grad_cam


def page(
    recording: Recording, at_s: float, seconds: float, montage: str, low_hz: float, high_hz: float,
    notch_hz: float,
) -> dict:  # fmt: skip
    """What viewer.js draws of `seconds` from `at_s`: rows of a montage in tenths of a microvolt,
    filtered (zero-phase) and not repaired. ValueError: settings that the page does not offer."""
    at_s = float(np.clip(at_s, 0, max(recording.duration_s - 1, 0)))
    offers = SECONDS, LOW_HZ, HIGH_HZ
    if any(x not in y for x, y in zip((seconds, low_hz, high_hz), offers, strict=True)):
        raise ValueError(f"page: {seconds} s from {low_hz} to {high_hz} Hz; choose from {offers}")
    begin_s = max(0.0, at_s - _MARGIN_S)
    x = recording.read(begin_s, min(recording.duration_s, at_s + seconds + _MARGIN_S)).T
    lost = np.isnan(x)
    count = np.maximum((~lost).sum(axis=1, keepdims=True), 1)
    x = np.where(lost, 0, x - np.where(lost, 0, x).sum(axis=1, keepdims=True) / count)
    x = signals.bandpass(x[None], low_hz, high_hz)[0]
    if notch_hz in NOTCH_HZ:
        notch = signal.iirnotch(notch_hz, 15, SFREQ_HZ)
        x = signal.filtfilt(*notch, x, padlen=min(100, x.shape[1] - 1))
    seen = ~lost[: signals.N_SCALP]
    mean = (x[: signals.N_SCALP] * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    rows, traces = [], []
    groups, is_banana = [*MONTAGES[montage], [("EKG", "")]], montage == "double banana"
    for group in groups:
        for k, (plus, minus) in enumerate(group):
            i, is_pair = ELECTRODES.index(plus), minus in ELECTRODES
            j = ELECTRODES.index(minus) if is_pair else i
            trace = x[i] - (x[j] if is_pair else mean if minus == _MEAN else 0)
            traces.append(np.where(lost[i] | lost[j], np.nan, trace))
            pair = (plus, minus)
            rows.append({
                "label": f"{plus}–{minus}" if is_pair else plus,
                "side": "E" if plus == "EKG" else _side(plus + minus * is_pair),
                "first": int(k == 0),
                "bad": bool(lost[i].all() or lost[j].all()),
                "derivation": signals.DOUBLE_BANANA.index(pair) if is_banana and is_pair else None,
            })  # fmt: skip
    first = round((at_s - begin_s) * SFREQ_HZ)
    values = np.full((len(rows), round(seconds * SFREQ_HZ)), np.nan)
    part = np.array(traces)[:, first:][:, : values.shape[1]]
    values[:, : part.shape[1]] = part
    coded = np.where(np.isnan(values), _LOST, np.clip(np.nan_to_num(values) * 10, -32767, 32767))
    return {"at_s": at_s, "seconds": seconds, "rows": rows, "values": _text(coded.astype("<i2"))}


def _side(names: str) -> str:
    """Left, right, or the middle, of electrodes."""
    sides = {"LR"[int(x) % 2 == 0] for x in names if x.isdigit()}
    return sides.pop() if len(sides) == 1 and "z" not in names else "M"


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def timeline(session: Session, done: bool) -> dict:
    """Of each class the largest probability, and of the lost EEG the largest share, in every
    column of a recording, in steps of 1/200; and the events."""
    seconds = max(1, int(np.ceil(session.recording.duration_s)))
    values = np.full((seconds, len(CLASSES) + 1), np.nan)
    if session.table is not None:
        table = session.table
        p = events.per_second(table)[:seconds]
        values[: len(p), :-1] = p
        for start_s, end_s, lost in table[["start_s", "end_s", "lost"]].to_numpy():
            values[int(start_s) : int(np.ceil(end_s)), -1] = lost
    n = min(seconds, COLUMNS)
    columns = np.fmax.reduceat(values, np.arange(n) * seconds // n)
    coded = (
        np.where(np.isnan(columns), _NONE, np.nan_to_num(columns) * 200).round().astype(np.uint8)
    )
    found = [] if session.found is None else session.found.to_dict("records")
    return {"columns": _text(coded.T), "events": found, "done": done, "opened": session.opened}


def _info(session: Session, at_s: float) -> dict:
    recording, start = session.recording, session.recording.start
    colours = dict(zip(CLASSES, plots.COLOURS, strict=True))
    return {
        "duration_s": recording.duration_s, "at_s": at_s, "stem": Path(recording.name).stem,
        "colours": colours, "classes": CLASSES, "is_bipolar": recording.is_bipolar,
        "opened": session.opened,
        "start_s": start and start.hour * 3600 + start.minute * 60 + start.second,
    }  # fmt: skip


def _about(session: Session) -> str:
    """The recording in a few lines of HTML."""
    recording = session.recording
    n = len({*recording.electrodes} - {"EKG"})
    facts = [f"{plots.clock(None, recording.duration_s)} h, {recording.sfreq_hz:g} Hz"]
    facts += [f"{n} of {signals.N_SCALP} electrodes"]
    facts += [f"begins {recording.start:%d %b %Y, %H:%M:%S}"] if recording.start else []
    facts += list(recording.notes)
    if session.windows is not None:
        window = session.windows.iloc[session.row]
        facts.insert(
            0, f"window {session.row + 1:,} of {len(session.windows):,}, EEG {window['eeg_id']}"
        )
    return f"<b>{escape(Path(recording.name).name)}</b><br>{'<br>'.join(map(escape, facts))}"


def _answer(answer: Answer, votes: np.ndarray | None, start: datetime | None) -> str:
    """Probabilities, beside votes where they are known, and the quality, as HTML."""
    quality, has_votes, rows = answer.quality, votes is not None, []
    share = votes / max(votes.sum(), 1) if has_votes else np.zeros(len(CLASSES))
    for name, p, colour, voted in zip(CLASSES, answer.p, plots.COLOURS, share, strict=True):
        width, said = (0, "–") if np.isnan(p) else (100 * p, f"{p:.2f}")
        bar = f'<span style="width:{width:.1f}%;background:{colour}"></span>'
        bar += f'<i style="left:{100 * voted:.1f}%"></i>' * has_votes
        counts = f"<td>{voted:.2f}</td>" * has_votes
        row = f'<th>{name}</th><td><span class="bar">{bar}</span></td><td>{said}</td>{counts}'
        rows.append(f"<tr>{row}</tr>")
    head = "<tr><th></th><th></th><th>model</th><th>experts</th></tr>" * has_votes
    facts = [f"{quality['n_electrodes']} of {signals.N_SCALP} electrodes are good"]
    facts += [f"replaced: {quality['replaced']}"] * bool(quality["replaced"])
    facts += [f"{100 * quality['lost']:.0f} % of the time is lost"] * bool(quality["lost"] >= 0.005)
    facts += [f"{votes.sum()} experts: the line in a bar is their share"] if has_votes else []
    problem = f'<p role="alert">No prediction: {escape(quality["problem"])}</p>'
    span = "–".join(plots.clock(start, answer.middle_s + s) for s in (-5, 5))
    lines = "".join(f"<p>{fact}</p>" for fact in facts)
    table = f"<table>{head}{''.join(rows)}</table>"
    return f"<p>{span}</p>{problem * bool(quality['problem'])}{table}{lines}"


def _pictures(answer: Answer) -> str:
    """The crops of the image, with Grad-CAM, as HTML."""
    if answer.picture is None:
        return "<p>This model looks at the signals alone.</p>"
    image = plots.data_uri(plots.plot_crops(*answer.picture, answer.cam))
    text = "What the model sees, 0–20 Hz of four chains; pale: nothing speaks for the class."
    return f'<img alt="The crops of the image" src="{image}"><p>{text}</p>'


def _looked(answer: Answer) -> dict:
    """Where in time and derivations the model looked, for viewer.js."""
    looked = {"start_s": answer.middle_s - 5, "end_s": answer.middle_s + 5}
    looked["first_s"] = answer.middle_s - WINDOW_S / 2
    if (x := answer.derivations) is not None:
        looked["map"] = _text((255 * x / max(x.max(), 1e-30)).astype(np.uint8))
    return looked


def _tsv(session: Session) -> dict:
    """The events as a file for the browser to save."""
    if session.found is None:
        return {}
    path, recording = session.folder / "events.tsv", session.recording
    events.write_events(path, session.found, recording.duration_s, recording.start)
    text = path.read_text("utf-8")
    path.unlink()
    return {"text": text, "name": f"{Path(recording.name).stem}_events.tsv"}


def _alert(error: Exception, session: Session) -> str:
    text = " ".join(str(error).split())
    text = re.sub(rf"{re.escape(str(session.folder))}/\w+/", "", text)
    known = isinstance(error, ValueError | OSError | RuntimeError | ImportError)
    return f'<p role="alert">{escape(text if known else f"{type(error).__name__}: {text}")}</p>'


def _file(name: str) -> str:
    return Path(__file__).with_name("page").joinpath(name).read_text("utf-8")


def _selects() -> str:
    """The choices of an EEG machine, and the class whose reasons are shown."""
    choices = {
        "montage": ("", {name: name for name in MONTAGES}, "double banana"),
        "sensitivity": ("µV/mm", {x: x for x in SENSITIVITY}, 7),
        "low_hz": ("from", {x: f"{x} Hz" for x in LOW_HZ}, 0.5),
        "high_hz": ("to", {x: f"{x} Hz" for x in HIGH_HZ}, 40),
        "notch_hz": ("notch", {0: "off"} | {x: f"{x} Hz" for x in NOTCH_HZ}, 0),
        "seconds": ("a page", {x: f"{x} s" for x in SECONDS}, 10),
        "reasons": ("why", {"": "most probable"} | {name: name for name in CLASSES}, ""),
    }
    parts = []
    for name, (title, options, chosen) in choices.items():
        rows = "".join(
            f'<option value="{x}"{" selected" * (x == chosen)}>{text}</option>'
            for x, text in options.items()
        )
        parts.append(
            f'<label>{title}<select data-name="{name}" aria-label="{name}">{rows}</select></label>'
        )
    return "".join(parts)


def build(desk: Desk) -> gr.Blocks:
    """The page: components, and what happens in them."""
    quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    slow = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 8}
    plain = {"padding": False, "apply_default_css": False}
    template = _file("viewer.html").replace("{selects}", _selects())
    with gr.Blocks(title="hmsutils", fill_width=True) as blocks:
        with gr.Row():
            with gr.Column(scale=2, min_width=230, elem_classes="side"):
                upload = gr.File(label="EDF, BDF or .parquet", height=96, elem_classes="upload")
                offered = gr.Dropdown(
                    [*desk.offered], value=None, label="Or open", visible=bool(desk.offered)
                )
                choice = gr.Dropdown([*desk.choices], value=DEFAULT, label="Model")
                notice = gr.HTML(elem_classes="notice", **plain)
                with gr.Row(visible=False) as walk:
                    before = gr.Button("◀", size="sm", min_width=30)
                    after = gr.Button("▶", size="sm", min_width=30)
                    disagree = gr.Button("next disagreement", size="sm", min_width=110, scale=4)
                answer = gr.HTML(elem_classes="answer", **plain)
                label = gr.Radio(CLASSES, label="Your label of these 10 s")
                save = gr.Button("Save label", size="sm")
                saved = gr.HTML(elem_classes="notice", **plain)
            with gr.Column(scale=9, min_width=640):
                viewer = gr.HTML(
                    html_template=template, elem_classes="viewer", js_on_load=_file("viewer.js"),
                    **plain,
                    info={}, page={}, timeline={}, looked={}, tsv={},
                )  # fmt: skip
            with gr.Column(scale=2, min_width=200):
                pictures = gr.HTML(elem_classes="pictures", **plain)
        shown = [viewer, notice, walk, answer, pictures, saved]

        def opened(session: Session, at_s: float) -> list:
            viewed = gr.HTML(
                info=_info(session, at_s), timeline=timeline(session, False), looked={}
            )
            return [viewed, _about(session), gr.Row(visible=session.windows is not None), *[""] * 3]

        def said(text: str) -> list:
            return [gr.skip(), text, *[gr.skip()] * 4]

        def attempt(request: gr.Request, act) -> list:
            """What the page shows after `act(session)`, or why it could not be done."""
            session = desk.session(request.session_hash)
            try:
                return opened(session, act(session))
            except Exception as error:  # of any library: a person wants one sentence
                return said(_alert(error, session))

        def on_upload(path: str, request: gr.Request):
            return [None, *attempt(request, lambda session: desk.upload(session, Path(path)))]

        def on_open(name: str, request: gr.Request):
            return attempt(request, lambda session: desk.open(session, name))

        def on_before(request: gr.Request):
            return attempt(request, lambda session: desk.turn_to(session, session.row - 1))

        def on_after(request: gr.Request):
            return attempt(request, lambda session: desk.turn_to(session, session.row + 1))

        def on_disagree(name: str, request: gr.Request):
            session = desk.session(request.session_hash)
            first = session.row
            for row, found in desk.next_disagreement(session, name):
                if found:
                    yield attempt(request, lambda session, row=row: desk.turn_to(session, row))
                else:
                    note = f"{row - first:,} windows looked at: model and experts agree"
                    yield said(f"{_about(session)}<br>{note}")

        def on_turn(event: gr.EventData, request: gr.Request):
            session = desk.session(request.session_hash)
            return gr.HTML(page=page(session.recording, **event._data) | {"at": time.time()})

        def on_predict(name: str, request: gr.Request):
            session = desk.session(request.session_hash)
            if session.recording is None or session.predicted == name:
                return
            for done in desk.predict(session, name):
                yield gr.HTML(timeline=timeline(session, done) | {"model": name})

        def on_settle(name: str, event: gr.EventData, request: gr.Request):
            session, asked = desk.session(request.session_hash), event._data
            recording, middle_s = session.recording, asked["at_s"] + asked["seconds"] / 2
            found = desk.explain(session, name, float(middle_s), asked["name"])
            if recording is not session.recording:  # another one was opened meanwhile
                return [gr.skip()] * 3
            votes = desk.votes(session)
            return (
                gr.HTML(looked=_looked(found)),
                _answer(found, votes, recording.start),
                _pictures(found),
            )

        def on_save(name: str | None, request: gr.Request):
            session = desk.session(request.session_hash)
            try:
                return f"<p>{escape(desk.label(session, name))}</p>"
            except Exception as error:
                return _alert(error, session)

        def on_events(request: gr.Request):
            return gr.HTML(tsv=_tsv(desk.session(request.session_hash)) | {"at": time.time()})

        def on_leave(request: gr.Request):
            desk.forget(request.session_hash)

        predicting = {"fn": on_predict, "inputs": choice, "outputs": viewer, **slow}
        upload.upload(on_upload, upload, [upload, *shown], **slow).then(**predicting)
        offered.input(on_open, offered, shown, **slow).then(**predicting)
        before.click(on_before, None, shown, **slow).then(**predicting)
        after.click(on_after, None, shown, **slow).then(**predicting)
        disagree.click(on_disagree, choice, shown, **slow).then(**predicting)
        choice.input(**predicting)
        viewer.turn(on_turn, None, viewer, **quick)
        viewer.settle(on_settle, choice, [viewer, answer, pictures], **slow)
        viewer.export(on_events, None, viewer, **quick)
        save.click(on_save, label, saved, **quick)
        blocks.unload(on_leave)
    return blocks


def start(desk: Desk, port: int | None = None, browser: bool = False) -> tuple[gr.Blocks, str]:
    """The page, running on this machine alone, and its address. OSError: the port is taken."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(desk.root / "new")}
    blocks = build(desk)
    threading.Thread(target=desk.warm_up, daemon=True).start()
    _, address, _ = blocks.launch(
        server_name="127.0.0.1", server_port=port, share=False, quiet=True, inbrowser=browser,
        prevent_thread_lock=True, footer_links=[], run_history=False, ssr_mode=False,
        css=_file("viewer.css"), mcp_server=False, pwa=False, enable_monitoring=False,
        app_kwargs={"middleware": [Middleware(_Closed)]},
    )  # fmt: skip
    return blocks, address


def serve(
    offered: Mapping[str, Path | Competition], labels: Path, *, port: int | None = None,
    browser: bool = True,
) -> None:  # fmt: skip
    """Run the page until it is stopped, at `port` or a free one. `offered`: what can be opened
    without an upload, recordings and competition folders by the names that are shown; `labels`: the
    folder for own labels, made with the first one. OSError: the port is taken."""
    desk = Desk(offered, labels)
    try:
        blocks, address = start(desk, port, browser)
        print(f"{address} (Ctrl-C ends it; own labels: {labels})", flush=True)
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        blocks.close()
    finally:
        desk.close()


class _Closed:
    """Sends `_POLICY` with every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY.encode()),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)
