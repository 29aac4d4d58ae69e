"""A local page to look at EEG, at what the models say of it and why, and to label it.

`viewing` gives numbers, page/viewer.js draws them in the browser. Everybody's page has a session of
its own: the files that were uploaded in it lie in a private folder, which is never served, and are
removed with it.
"""

import os
import re
import shutil
import signal
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

try:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse
except ImportError as error:
    raise ImportError("the page needs Gradio: pip install hmsutils[app]") from error

from hmsutils import events, inference, plots, records, runs, saliency, signals, viewing
from hmsutils.competition import (
    CLASSES,
    ELECTRODES,
    VOTE_COLUMNS,
    WINDOW_S,
    WINDOW_SAMPLES,
    Competition,
)
from hmsutils.evaluation import label_runs
from hmsutils.recordings import Recording, is_self_contained, read_recording
from hmsutils.representations import Image

DEFAULT = "default model"
_SPAN_S = 600  # that is predicted before the page shows it
_HOSTS = "127.0.0.1", "localhost"
_MAPS = saliency.eeg_saliency, saliency.grad_cam
# The browser asks nobody else for anything, whatever a library would have it load; no other page
# holds this one in a frame.
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'self'"
)


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of 50 s, and why."""

    recording: Recording
    patient: int  # its number, for labels
    middle_s: float
    span_s: tuple[float, float]  # that it is about
    votes: np.ndarray | None  # (6,) counts of the experts, where they are known
    p: np.ndarray  # (6,), NaN without an opinion
    quality: pd.Series
    picture: tuple[np.ndarray, Image] | None  # that the model sees
    derivations: np.ndarray | None  # (18, 50), `saliency.eeg_saliency`
    cam: np.ndarray | None  # `saliency.grad_cam`

    @property
    def span(self) -> str:
        return "–".join(plots.clock(self.recording.start, s) for s in self.span_s)


@dataclass(eq=False)
class Session:
    """What one person looks at."""

    folder: Path  # for copies of uploads
    uploads: list[Path] = field(default_factory=list)
    recording: Recording | None = None
    competition: Competition | None = None
    windows: pd.DataFrame | None = None  # of the competition
    row: int = 0  # of `windows`, from 0
    table: pd.DataFrame | None = None  # of `predict_recording`, up to now
    found: pd.DataFrame | None = None  # its events
    predicting: str = ""  # the model that `table` is of
    done: bool = False  # `table` is whole
    answer: Answer | None = None  # on the page
    opened: int = 0  # counts recordings
    run: int = 0  # counts predictions
    asked: int = 0  # counts answers
    lock: threading.Lock = field(default_factory=threading.Lock)  # of what changes together

    def open(self, recording: Recording, competition=None, windows=None, row: int = 0) -> None:
        with self.lock:
            self.recording, self.competition = recording, competition
            self.windows, self.row = windows, row
            self.table = self.found = self.answer = None
            self.predicting, self.done = "", False
            self.opened, self.run = self.opened + 1, self.run + 1

    def middle_s(self) -> float:
        """Of the 50 s to begin with: those of the competition's window, else the first ones."""
        if self.windows is not None:
            return float(self.windows["eeg_offset_s"].iloc[self.row]) + WINDOW_S / 2
        return min(self.recording.duration_s, WINDOW_S) / 2


class Desk:
    """What the pages share: the files that were offered, the models, one prediction at a time."""

    def __init__(self, offered: Mapping[str, Path | Competition], labels: Path):
        self.offered, self.labels, self.busy = dict(offered), labels, threading.Lock()
        self.root = Path(tempfile.mkdtemp(prefix="hmsutils-"))  # mode 700
        self.sessions: dict[str, Session] = {}
        found = [*runs.find_runs(), *runs.released_runs()]
        self.choices = {DEFAULT: None} | label_runs(found)
        self.warming = threading.Thread(target=self.warm_up, daemon=True)

    def session(self, key: str | None) -> Session:
        if not key:
            raise ValueError("no session; open the page in a browser")
        if key not in self.sessions:
            self.sessions.setdefault(key, Session(Path(tempfile.mkdtemp(dir=self.root))))
        return self.sessions[key]

    def forget(self, key: str) -> None:
        if session := self.sessions.pop(key, None):
            session.opened, session.run = session.opened + 1, session.run + 1
            for path in (session.folder, *session.uploads):
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @lru_cache(maxsize=4)  # noqa: B019 there is one desk
    def models(self, choice: str) -> list[inference.TrainedModel]:
        run = self.choices[choice]
        return inference.load_models([run] if run else inference.default_runs())

    def warm_up(self) -> None:
        """Load the default model and build its graphs before somebody waits for them."""
        noise_uv = np.random.default_rng(0).normal(0, 20, (WINDOW_SAMPLES, len(ELECTRODES)))
        with self.busy:
            models = self.models(DEFAULT)
            inference.predict(models, noise_uv)
            for map_of in _MAPS:
                saliency.map_or_none(map_of, models, noise_uv[None], 0)

    def upload(self, session: Session, path: Path) -> None:
        """Open a file that was uploaded, as a copy in the session's own folder: others may upload
        the same one, and Gradio removes it soon."""
        if not path.is_file() or path.resolve().parents[1] != (self.root / "new").resolve():
            raise ValueError(f"{path.name}: not uploaded; choose the file again")
        session.uploads.append(path.parent)
        before, folder = [*session.folder.iterdir()], Path(tempfile.mkdtemp(dir=session.folder))
        try:
            own = Path(shutil.copyfile(path, folder / path.name))
            if not is_self_contained(own):  # it could name any file of this machine
                wanted = "wanted one of these; others are opened by hmsutils app FILE"
                raise ValueError(f"{own.name}: no EDF, BDF or .parquet; {wanted}")
            session.open(read_recording(own))
        except Exception:
            shutil.rmtree(folder)
            raise
        for old in before:
            shutil.rmtree(old, ignore_errors=True)

    def open(self, session: Session, name: str) -> None:
        """Open what was offered under a name, of a competition its first window."""
        if isinstance(place := self.offered[name], Path):
            return session.open(read_recording(place))
        windows = records.load_windows(place, on_problem="exclude")
        return self._turn_to(session, place, records.one_per_vote_run(windows), 0)

    def turn_to(self, session: Session, row: int) -> None:
        """Open another one of the competition's windows, or the first or last."""
        self._turn_to(session, session.competition, session.windows, row)

    def _turn_to(self, session: Session, competition, windows: pd.DataFrame, row: int) -> None:
        row = int(np.clip(row, 0, len(windows) - 1))
        recording = read_recording(competition.eeg(windows["eeg_id"].iloc[row]))
        session.open(recording, competition, windows, row)

    def next_disagreement(self, session: Session, choice: str) -> Iterator[tuple[int, bool]]:
        """(row, found) of windows after the present one, until the model's class is not one of
        those with most votes."""
        opened, windows = session.opened, session.windows
        for first in range(session.row + 1, len(windows), 8):
            some = windows.iloc[first : first + 8]
            with self.busy:
                options = {"return_quality": True, "title": None}
                p, _ = inference.predict_windows(
                    self.models(choice), session.competition, some, **options
                )
            if session.opened != opened:
                return
            votes, said = some[list(VOTE_COLUMNS)].to_numpy(), np.nan_to_num(p).argmax(axis=1)
            agrees = votes[np.arange(len(some)), said] == votes.max(axis=1)
            wrong = np.flatnonzero(~agrees & ~np.isnan(p).any(axis=1))
            yield first + int(wrong[0] if len(wrong) else len(some) - 1), bool(len(wrong))
            if len(wrong):
                return

    def predict(self, session: Session, choice: str) -> Iterator[dict]:
        """Predict a recording piece by piece; its `viewing.timeline` up to now. Nothing, where this
        is done or under way; the end, where another recording or model is wanted."""
        with session.lock:
            if session.recording is None or session.predicting == choice:
                return
            session.predicting, session.done, session.run = choice, False, session.run + 1
            recording, run, parts = session.recording, session.run, []

        def keep(table, found, done: bool) -> bool:
            with session.lock:
                if session.run != run:
                    return False
                session.table, session.found, session.done = table, found, done
                return True

        table = found = None
        # A short piece first; then those that are read at once, whose windows begin 20 s earlier.
        edges_s = [0, 60, *range(_SPAN_S + 20, int(recording.duration_s), _SPAN_S), np.inf]
        try:
            for span_s in pairwise(edges_s):
                with self.busy:
                    options = {"span_s": span_s, "title": None}
                    part = inference.predict_recording(self.models(choice), recording, **options)
                parts += [part] if len(part) else []
                table = pd.concat(parts, ignore_index=True) if parts else None
                found = events.find_events(table) if parts else None
                if not keep(table, found, False):
                    return
                yield viewing.timeline(recording.duration_s, table, found)
            if parts:
                found = found.assign(channels=events.find_channels(recording, found))
            if keep(table, found, True):
                yield viewing.timeline(recording.duration_s, table, found) | {"done": True}
        except Exception:
            with session.lock:
                if session.run == run:
                    session.predicting = ""  # it can be tried again
            raise

    def explain(self, session: Session, choice: str, middle_s: float, name: str) -> Answer | None:
        """The model's answer on the 50 s around a time, or the nearest that there are, and why it
        says `name`, or its most probable class. None: something else was asked meanwhile."""
        with session.lock:
            session.asked += 1
            asked, opened, recording = session.asked, session.opened, session.recording
            windows, row = session.windows, session.row
        spans = recording.segments
        begin_s, stop_s = min(spans, key=lambda x: abs(np.clip(middle_s, *x) - middle_s))
        half_s = min(WINDOW_S, stop_s - begin_s) / 2
        middle_s = float(np.clip(middle_s, begin_s + half_s, stop_s - half_s))
        eeg_uv = inference.window_around(recording, middle_s)
        with self.busy:
            if (session.asked, session.opened) != (asked, opened):
                return None
            models = self.models(choice)
            p, quality = inference.predict(models, eeg_uv, return_quality=True)
            k, maps = int(np.nan_to_num(p[0]).argmax()), [None, None]
            if name in CLASSES:
                k = CLASSES.index(name)
            if not quality["problem"][0]:
                maps = [saliency.map_or_none(f, models, eeg_uv[None], k) for f in _MAPS]
        image = inference.image_of(models)
        picture = None if image is None else (image.from_raw(eeg_uv)[0], image)
        if windows is None:
            name = f"{Path(recording.name).name} {recording.start} {recording.duration_s}"
            patient, votes = zlib.crc32(name.encode(errors="replace")), None
        else:
            patient, votes = _experts(windows.iloc[row], middle_s)
        maps = [x if x is None else x[0] for x in maps]
        span_s = max(begin_s, middle_s - 5), min(stop_s, middle_s + 5)
        facts = patient, middle_s, span_s, votes
        answer = Answer(recording, *facts, p[0], quality.iloc[0], picture, *maps)
        with session.lock:
            if (session.asked, session.opened) != (asked, opened):
                return None
            session.answer = answer
        return answer

    def label(self, session: Session, name: str | None) -> str:
        """Save somebody's own label of what the answer on the page is about; what was done."""
        if name is None or (answer := session.answer) is None:
            raise ValueError("choose one of the six classes, once there are probabilities")
        if problem := answer.quality["problem"]:
            raise ValueError(f"not saved, as there is too little EEG: {problem}")
        n, before = records.save_label(
            self.labels, inference.window_around(answer.recording, answer.middle_s), name,
            source=Path(answer.recording.name).name, offset_s=answer.middle_s - WINDOW_S / 2,
            patient=answer.patient,
        )  # fmt: skip
        instead = f" instead of {before}" if before else ""
        table = self.labels / "train.csv"
        return f"{name} at {answer.span} is saved{instead}; windows in {table}: {n}"


def _experts(window: pd.Series, middle_s: float) -> tuple[int, np.ndarray | None]:
    """The patient of a competition's window, and its votes if it has this middle."""
    is_it = abs(window["eeg_offset_s"] + WINDOW_S / 2 - middle_s) < 1
    return int(window["patient_id"]), window[list(VOTE_COLUMNS)].to_numpy(int) if is_it else None


def _about(session: Session) -> str:
    """The recording in a few lines of HTML."""
    recording = session.recording
    n = len({*recording.electrodes} - {"EKG"})
    facts = [f"{plots.clock(None, recording.duration_s)} h, {recording.sfreq_hz:g} Hz"]
    facts.append(f"{n} of {signals.N_SCALP} electrodes")
    if recording.start:
        facts.append(f"begins {recording.start:%d %b %Y, %H:%M:%S}")
    facts += recording.notes
    if session.windows is not None:
        of = f"window {session.row + 1:,} of {len(session.windows):,}"
        facts.insert(0, f"{of}, EEG {session.windows['eeg_id'].iloc[session.row]}")
    lines = (line.replace(f"{session.folder}{os.sep}", "") for line in facts)
    return f"<b>{escape(Path(recording.name).name)}</b><br>{'<br>'.join(map(escape, lines))}"


def _answer(answer: Answer) -> str:
    """Probabilities, beside votes where they are known, and the quality, as HTML."""
    quality, votes, rows, facts = answer.quality, answer.votes, [], []
    for k, (name, p, colour) in enumerate(zip(CLASSES, answer.p, plots.COLOURS, strict=True)):
        width, number, mark, experts = 100 * np.nan_to_num(p), "–", "", ""
        if not np.isnan(p):
            number = f"{p:.2f}"
        if votes is not None:
            share = votes[k] / max(votes.sum(), 1)
            mark, experts = f'<i style="left:{100 * share:.1f}%"></i>', f"<td>{share:.2f}</td>"
        bar = f'<span style="width:{width:.1f}%;background:{colour}"></span>{mark}'
        cells = f'<td><span class="bar">{bar}</span></td><td>{number}</td>{experts}'
        rows.append(f"<tr><th>{name}</th>{cells}</tr>")
    if votes is not None:
        rows.insert(0, "<tr><th></th><th></th><th>model</th><th>experts</th></tr>")
        facts.append(f"{votes.sum()} experts: the line in a bar is their share")
    if not quality["problem"]:
        facts.append(f"{quality['n_electrodes']} of {signals.N_SCALP} electrodes are good")
    if quality["replaced"]:
        facts.append(f"replaced: {quality['replaced']}")
    if quality["lost"] >= 0.02:
        facts.append(f"{100 * quality['lost']:.0f} % of the 50 s is lost")
    problem = ""
    if quality["problem"]:
        problem = f'<p role="alert">No prediction: {escape(quality["problem"])}</p>'
    lines = "".join(f"<p>{fact}</p>" for fact in facts)
    return f"<p><b>{answer.span}</b></p>{problem}<table>{''.join(rows)}</table>{lines}"


def _pictures(answer: Answer) -> str:
    """The crops of the image, with Grad-CAM, as HTML."""
    if answer.picture is None:
        return "<p>This model looks at the signals alone.</p>"
    image = plots.data_uri(plots.plot_crops(*answer.picture, answer.cam))
    text = "What the model sees: 0–20 Hz of the left lateral (LL) and parasagittal (LP) and the "
    text += "right parasagittal (RP) and lateral (RL) chain. Where it is pale, nothing speaks for "
    text += "the class; this map (Grad-CAM) is coarse in time."
    return f'<img alt="The crops of the image" src="{image}"><p>{text}</p>'


def _looked(answer: Answer) -> dict:
    """Where in time and derivations the model looked, for viewer.js."""
    looked = {
        "middle_s": answer.middle_s,
        "span_s": answer.span_s,
        "replaced": answer.quality["replaced"].split(),
    }
    if (x := answer.derivations) is not None:
        looked["map"] = viewing.encode((255 * x / max(x.max(), 1e-30)).astype(np.uint8))
    return looked


def _sentence(error: Exception, session: Session) -> str:
    text = re.sub(rf"{re.escape(str(session.folder))}/\w+/", "", " ".join(str(error).split()))
    known = isinstance(error, ValueError | OSError | RuntimeError | ImportError)
    return text if known else f"{type(error).__name__}: {text}"


def _alert(text: str) -> str:
    return f'<p role="alert">{escape(text)}</p>'


class Events:
    """What happens on a page: from what the browser sends to what its components show."""

    def __init__(self, desk: Desk):
        self.desk = desk

    def _session(self, request: gr.Request) -> Session:
        return self.desk.session(request.session_hash)

    def _open(self, request: gr.Request, act: Callable, fit: bool = False) -> list:
        """Viewer, notice, buttons of windows, answer, pictures after `act(session)`."""
        session = self._session(request)
        try:
            act(session)
        except Exception as error:  # of any library: a person wants one sentence
            text = _alert(_sentence(error, session))
            if session.recording:  # it is still there
                text += _about(session)
            return [gr.skip(), text, *[gr.skip()] * 3]
        recording, has_windows = session.recording, session.windows is not None
        info = viewing.about(recording) | {"opened": session.opened}
        info |= {"middle_s": session.middle_s(), "stem": Path(recording.name).stem, "fit": fit}
        viewer = gr.HTML(info=info, page={}, looked={}, timeline={})
        return [viewer, _about(session), gr.Row(visible=has_windows), "", ""]

    def upload(self, path: str, request: gr.Request):
        return [None, *self._open(request, lambda x: self.desk.upload(x, Path(path)), True)]

    def offered(self, name: str, request: gr.Request):
        return self._open(request, lambda x: self.desk.open(x, name), True)

    def before(self, request: gr.Request):
        return self._open(request, lambda x: self.desk.turn_to(x, x.row - 1))

    def after(self, request: gr.Request):
        return self._open(request, lambda x: self.desk.turn_to(x, x.row + 1))

    def disagree(self, choice: str, request: gr.Request):
        session = self._session(request)
        first, opened, row, nothing = session.row, session.opened, session.row, [gr.skip()] * 5
        for row, found in self.desk.next_disagreement(session, choice):
            if found:
                yield self._open(request, lambda x, row=row: self.desk.turn_to(x, row))
                return
            text = f"{row - first:,} windows looked at: model and experts agree"
            yield [gr.skip(), f"{_about(session)}<br>{text}", *nothing[2:]]
        if row == first and session.opened == opened:
            text = f"{_about(session)}<br>this is the last window"
            yield [gr.skip(), text, *nothing[2:]]
        yield nothing  # else the last one comes again

    def turn(self, event: gr.EventData, request: gr.Request):
        session, asked = self._session(request), dict(event._data)
        number = {name: asked.pop(name) for name in ("opened", "number")}
        try:
            if session.recording is None:
                raise ValueError("the page was closed meanwhile; open the file again")
            if number["opened"] == session.opened:
                return gr.HTML(page=viewing.page(session.recording, **asked) | number)
            return gr.HTML(page=number)  # of what is no longer open
        except Exception as error:
            return gr.HTML(page=number | {"problem": _sentence(error, session)})

    def predict(self, choice: str, request: gr.Request):
        session = self._session(request)
        opened = {"opened": session.opened, "model": choice}
        try:
            for timeline in self.desk.predict(session, choice):
                yield gr.HTML(timeline=timeline | opened)
        except Exception as error:
            yield gr.HTML(timeline=opened | {"problem": _sentence(error, session)})

    def settle(self, choice: str, event: gr.EventData, request: gr.Request):
        session, asked = self._session(request), event._data
        number, nothing = {name: asked[name] for name in ("opened", "number")}, [gr.skip()] * 5
        if number["opened"] != session.opened or session.recording is None:
            return nothing
        try:
            answer = self.desk.explain(session, choice, float(asked["middle_s"]), asked["name"])
        except Exception as error:
            return [gr.HTML(looked=number), _alert(_sentence(error, session)), *nothing[2:]]
        if answer is None:
            return nothing
        radio = gr.Radio(value=None, label=f"Your label of {answer.span}")
        looked = gr.HTML(looked=_looked(answer) | number)
        return [looked, _answer(answer), _pictures(answer), radio, ""]

    def save(self, name: str | None, request: gr.Request):
        session = self._session(request)
        try:
            return f"<p>{escape(self.desk.label(session, name))}</p>"
        except Exception as error:
            return _alert(_sentence(error, session))

    def export(self, request: gr.Request):
        session = self._session(request)
        with session.lock:
            recording, found, done = session.recording, session.found, session.done
        if not done or found is None:
            return gr.skip()
        table = events.to_table(found, recording.duration_s, recording.start)
        text = table.to_csv(index=False, sep="\t", float_format="%.2f")
        name = f"{Path(recording.name).stem}_events.tsv"
        return gr.HTML(tsv={"text": text, "name": name, "at": time.time()})

    def leave(self, request: gr.Request):
        self.desk.forget(request.session_hash)


def _file(name: str) -> str:
    return Path(__file__).with_name("page").joinpath(name).read_text("utf-8")


def _selects() -> str:
    """The choices of an EEG machine, and the class whose reasons are shown."""
    choices = {
        "montage": ("montage", {name: name for name in viewing.MONTAGES}, viewing.BANANA),
        "sensitivity": ("µV/mm", {x: x for x in viewing.SENSITIVITY}, 7),
        "low_hz": ("low cut", {x: f"{x} Hz" for x in viewing.LOW_HZ}, 0.5),
        "high_hz": ("high cut", {x: f"{x} Hz" for x in viewing.HIGH_HZ}, 40),
        "notch_hz": ("notch", {x: f"{x} Hz" if x else "off" for x in viewing.NOTCH_HZ}, 0),
        "seconds": ("page", {x: f"{x} s" for x in viewing.SECONDS}, 10),
        "reasons": ("reasons for", {"": "most probable"} | {name: name for name in CLASSES}, ""),
    }
    parts = []
    for name, (title, options, chosen) in choices.items():
        rows = "".join(
            f'<option value="{x}"{" selected" * (x == chosen)}>{text}</option>'
            for x, text in options.items()
        )
        parts.append(f'<label>{title}<select data-name="{name}">{rows}</select></label>')
    return "".join(parts)


def build(desk: Desk) -> gr.Blocks:
    """The page: its components, and what happens in them."""
    on = Events(desk)
    # "multiple": what is asked while an answer is on its way is not dropped.
    quick = {"api_visibility": "private", "show_progress": "hidden", "trigger_mode": "multiple"}
    slow, quick = quick | {"concurrency_limit": 8}, quick | {"queue": False}
    plain = {"padding": False, "apply_default_css": False}
    template = _file("viewer.html").replace("{selects}", _selects())
    with gr.Blocks(title="hmsutils", fill_width=True, delete_cache=(30, 60)) as blocks:
        with gr.Row():
            with gr.Column(scale=2, min_width=230, elem_classes="side"):
                upload = gr.File(label="EDF, BDF or .parquet", height=96, elem_classes="upload")
                offered = gr.Dropdown(
                    [*desk.offered], value=None, label="Or open", visible=bool(desk.offered)
                )
                notice = gr.HTML(elem_classes="notice", **plain)
                with gr.Row(visible=False) as walk:
                    before = gr.Button("◀", size="sm", min_width=30)
                    after = gr.Button("▶", size="sm", min_width=30)
                    disagree = gr.Button("next disagreement", size="sm", min_width=110, scale=4)
                answer = gr.HTML(elem_classes="answer", **plain)
                label = gr.Radio(CLASSES, label="Your label", elem_classes="label")
                save = gr.Button("Save label", size="sm", elem_classes="save")
                saved = gr.HTML(elem_classes="notice", **plain)
                choice = gr.Dropdown([*desk.choices], value=DEFAULT, label="Model")
            with gr.Column(scale=9, min_width=640):
                viewer = gr.HTML(
                    html_template=template, elem_classes="viewer", js_on_load=_file("viewer.js"),
                    info={}, page={}, timeline={}, looked={}, tsv={}, **plain,
                )  # fmt: skip
            with gr.Column(scale=2, min_width=200):
                pictures = gr.HTML(elem_classes="pictures", **plain)
        shown = [viewer, notice, walk, answer, pictures]
        predict = {"fn": on.predict, "inputs": choice, "outputs": viewer, **slow}
        once = slow | {"trigger_mode": "once"}
        upload.upload(on.upload, upload, [upload, *shown], **once).then(**predict)
        offered.input(on.offered, offered, shown, **once).then(**predict)
        before.click(on.before, None, shown, **slow).then(**predict)
        after.click(on.after, None, shown, **slow).then(**predict)
        disagree.click(on.disagree, choice, shown, **once).then(**predict)
        choice.input(**predict, js="(x) => { window.hmsutilsWait(); return x; }")
        viewer.turn(on.turn, None, viewer, **quick)
        viewer.settle(on.settle, choice, [viewer, answer, pictures, label, saved], **slow)
        viewer.export(on.export, None, viewer, **quick)
        save.click(on.save, label, saved, **quick)
        blocks.unload(on.leave)
    return blocks


def start(desk: Desk, port: int | None = None, browser: bool = False) -> tuple[gr.Blocks, str]:
    """The page, running on this machine alone, and its address. OSError: the port is taken."""
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(desk.root / "new")}
    blocks = build(desk)
    desk.warming.start()
    ours = Middleware(TrustedHostMiddleware, allowed_hosts=[*_HOSTS])
    try:
        _, address, _ = blocks.launch(
            server_name="127.0.0.1", server_port=port, share=False, quiet=True, inbrowser=browser,
            prevent_thread_lock=True, footer_links=[], run_history=False, ssr_mode=False,
            css=_file("viewer.css"), mcp_server=False, pwa=False, enable_monitoring=False,
            app_kwargs={"middleware": [ours, Middleware(_Closed)]},
        )  # fmt: skip
    except OSError as error:
        where = f"port {port} is" if port else "the ports from 7860 up are"
        raise OSError(f"{where} taken; name another one with --port") from error
    return blocks, address


def serve(
    offered: Mapping[str, Path | Competition], labels: Path, *, port: int | None = None,
    browser: bool = True,
) -> None:  # fmt: skip
    """Run the page until it is stopped, at `port` or a free one. `offered`: what can be opened
    without an upload, recordings and competition folders by the names that are shown; `labels`: the
    folder for own labels, made with the first one. OSError: the port is taken."""
    for name in ("SIGTERM", "SIGHUP"):  # as Ctrl-C: nothing is left behind
        ending = getattr(signal, name, None)
        if ending and signal.getsignal(ending) != signal.SIG_IGN:  # not under nohup
            signal.signal(ending, signal.default_int_handler)
    desk = Desk(offered, labels)
    try:
        _, address = start(desk, port, browser)
        print(f"{address} (Ctrl-C ends it; own labels: {labels})", flush=True)
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        desk.close()
        os._exit(0)  # threads inside TensorFlow would abort a process that ends in order
    finally:
        desk.close()


class _Closed:
    """Refuses what other sites have the browser ask for, and sends `_POLICY` with every answer."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message["headers"] = [*message["headers"], policy]
            await send(message)

        headers = {name: x.decode("latin-1") for name, x in scope.get("headers", ())}
        origin = headers.get(b"origin")
        if origin and urlsplit(origin).netloc != headers.get(b"host"):
            return await PlainTextResponse("another site", 403)(scope, receive, send)
        return await self.app(scope, receive, send_with_policy)
