"""What was found in a recording, as one HTML file for a clinician that loads nothing else.

The container is `mne.Report`. What a file says of the patient, in its header or its annotations,
stays out of it.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hmsutils import __version__, inference, plots, saliency, signals
from hmsutils.competition import CLASSES, SFREQ_HZ, write_atomically
from hmsutils.events import PATTERNS, EventConfig, burden
from hmsutils.inference import Models
from hmsutils.recordings import Recording

MAX_PAGES = 20  # of events
_STYLE = """
#filter-by-tags-dropdown-menu, #top-bar img, .badge {display: none !important}
#content td, #content th {padding: .1rem 1.5rem .1rem 0; text-align: left; vertical-align: top}
#content tr {border-bottom: 1px solid #ddd; break-inside: avoid}
#content table {margin-bottom: 1rem}
#content img {width: 100%; max-width: 1400px}
[id^=event-] {scroll-margin-top: 110px}
@page {size: A4 landscape; margin: 10mm}
@media print {
  #toc, .accordion-button::after {display: none}
  #top-bar, footer nav {position: static}
  #content, footer {margin: 0 !important; width: 100%}
  #content img {max-height: 150mm; width: auto; max-width: 100%}
  .accordion-header {break-after: avoid}
  figure {break-inside: avoid}
}
"""
_ABOUT = """<p><b>This is research software, no medical device. It gives no diagnosis: read the
EEG.</b></p><p>hmsutils {version} with {models}. The models give each 10 s, seen within 50 s, a
probability for each of six classes, named as by the ACNS (2021). An event reaches a probability of
{on:g} and is over {off:g} everywhere but in gaps of up to {gap:g} s. It lasts at least {shortest}.
Its confidence is its mean probability.</p>"""
_TIMELINE = """Of each class the largest probability in every column, dotted the two thresholds of
an event; bars are events. Power of the EEG over four regions. Electrodes with EEG, of 19, and the
share of the 50 s around without. Grey: no prediction, or no EEG."""
_PAGES = """<p>A page has the 10 s of an event in which its class is most probable. Left: 0.5–40 Hz,
negative up, the right side in blue; the darker the orange, the more the answer of the model depends
on this second of a derivation. Right: the images that the model sees, of 50 s and less around the
same middle, 0–20 Hz from bottom to top of the left lateral (LL) and parasagittal (LP) and the right
parasagittal (RP) and lateral (RL) chain; where they are pale, nothing speaks for the class. This
says where the model looked, not that it is right.</p>"""


def write_report(
    path: str | os.PathLike, recording: Recording, table: pd.DataFrame, events: pd.DataFrame,
    models: Models, *, patient_name: bool = False, config: EventConfig = EventConfig(),
) -> None:  # fmt: skip
    """Write file.html: what the recording is, an overview of it, the burden, its events, and the
    EEG of at most `MAX_PAGES` of them, the most certain of every class first; without an event,
    that of the most probable pattern.

    `table` is of `inference.predict_recording` with these `models`, NaN where there is no
    prediction; `events` of `events.find_events` with this `config`. The file's name without its
    folders and the start are in the report; `patient_name` adds what an EDF or BDF says of the
    patient: name, birth date, number, as they are. ValueError: another kind of file."""
    import mne

    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"write_report: {path} is no HTML file; name a file.html")
    table, events = table.reset_index(drop=True), events.reset_index(drop=True)
    shown = _most_certain(events)
    report = mne.Report(title=f"EEG: {_name(recording)}", verbose="error")
    report.add_custom_css(_STYLE)
    report.add_html(_header(recording, patient_name) + _about(models, config), "Recording")
    report.add_html(
        _html(plots.plot_timeline(recording, table, events, config), _TIMELINE), "Overview"
    )
    report.add_html(_burden(table, events), "Burden")
    report.add_html(_list(events, shown, recording.start), "Events")
    for title, html in _pages(recording, table, events.loc[shown], models):
        report.add_html(html, title)
    options = {"open_browser": False, "overwrite": True, "verbose": "error"}
    write_atomically(Path(path), lambda part: report.save(part, **options))


def _name(recording: Recording) -> str:
    """The file's name without its folders, and "?" for what is no UTF-8."""
    return Path(recording.name).name.encode(errors="replace").decode()


def _header(recording: Recording, patient_name: bool) -> str:
    path, parts, start = Path(recording.name), recording.segments, recording.start
    lost_s = recording.duration_s - sum(stop_s - start_s for start_s, stop_s in parts)
    gaps = f", in {len(parts)} parts, {plots.clock(None, lost_s)} between them are missing"
    n_scalp = len({*recording.electrodes} - {"EKG"})
    rows = {
        "File": _name(recording),
        "Patient": _patient(path) if patient_name else "not shown",
        "Start": f"{start:%d %b %Y, %H:%M:%S}" if start else "not in the file",
        "Duration": plots.clock(None, recording.duration_s) + gaps * (len(parts) > 1),
        "Sampling rate": f"{recording.sfreq_hz:g} Hz, analysed at {SFREQ_HZ} Hz",
        "Electrodes": f"{n_scalp} of {signals.N_SCALP} of the 10-20 system",
        "Missing": ", ".join(recording.missing) or "none",
        "Notes": "; ".join(recording.notes).replace(f"{path.parent}{os.sep}", "") or "none",
    }
    return _table(pd.Series(rows).map(escape).to_frame(), header=False)


def _patient(path: Path) -> str:
    """The patient's field in the header of an EDF or BDF."""
    with open(path if path.is_file() else os.devnull, "rb") as file:
        head = file.read(88)
    is_one = head[:8].strip() == b"0" or head[:8] == b"\xffBIOSEMI"
    return head[8:].decode("latin-1").strip() if is_one else "only read from EDF and BDF"


def _about(models: Models, config: EventConfig) -> str:
    names = [f"{m.config.name} (weight {m.weight:g}, folds: {len(m.folds)})" for m in models]
    shortest = ", ".join(f"{s:g} s ({name})" for name, s in config.min_duration_s.items())
    if len(same := {*config.min_duration_s.values()}) == 1:
        shortest = f"{same.pop():g} s"
    values = {"on": config.on, "off": config.off, "gap": config.max_gap_s, "shortest": shortest}
    return _ABOUT.format(version=__version__, models=escape(", ".join(names)), **values)


def _burden(table: pd.DataFrame, events: pd.DataFrame) -> str:
    hours = burden(table, events)
    minutes, hours = hours["minutes"].copy(), hours[list(PATTERNS)]
    hours.loc["all"] = hours.mul(minutes, axis=0).sum() / max(minutes.sum(), 1e-9)
    minutes["all"] = minutes.sum()
    shown = hours.map(lambda x: f"{100 * x:.1f} %" if x else "0")
    shown.insert(0, "minutes with a prediction", minutes.round(1))
    text = "<p>Share of the time with a prediction that lies in events, by hour.</p>"
    return text + _table(shown.rename(lambda i: i if i == "all" else f"{i}–{i + 1} h"))


def _most_certain(events: pd.DataFrame) -> pd.Index:
    """The events that get a page, in order of time: the most certain of each class, then the second
    ones, and so on."""
    rank = events.groupby("event")["confidence"].rank(ascending=False, method="first")
    order = events.assign(rank=rank).sort_values(["rank", "confidence"], ascending=[True, False])
    return order.index[:MAX_PAGES].sort_values()


def _list(events: pd.DataFrame, shown: pd.Index, start: datetime | None) -> str:
    more = [name for name in ("channels",) if name in events]
    rows = events[["event", "confidence", *more]].copy()
    rows.insert(0, "begins", [plots.clock(start, s) for s in events["onset_s"]])
    rows.insert(1, "lasts", [plots.clock(None, s) for s in events["duration_s"]])
    rows["confidence"] = rows["confidence"].map("{:.2f}".format)
    rows = rows.astype(str).map(escape)
    rows["page"] = [f'<a href="#event-{i + 1}">EEG</a>' * (i in shown) for i in events.index]
    left = f"; {len(events) - len(shown)} less certain ones have no page"
    text = f"<p>Events: {len(events)}{left * (len(events) > len(shown))}.</p>"
    return text + (_table(rows.set_axis(rows.index + 1)) if len(rows) else "") + _PAGES


def _pages(
    recording: Recording, table: pd.DataFrame, events: pd.DataFrame, models: Models
) -> Iterator[tuple[str, str]]:
    """(title, HTML) of the most certain 10 s of each event, else of the most probable pattern."""
    known, title = table.dropna(subset=list(CLASSES)), "{}: {}, {}"
    if not len(known):
        return
    if not len(events):
        name = known[list(PATTERNS)].max().idxmax()
        title = "No event; where {1} is most probable: {2}"
        spans = known.assign(onset_s=known["start_s"], duration_s=10, event=name)
        events = spans.nlargest(1, name).reset_index(drop=True)
    pages = plot_events(recording, known, events, models)
    for event, (row, figure) in zip(events.itertuples(), pages, strict=True):
        text = ", ".join(f"{name} {row[name]:.2f}" for name in CLASSES)
        html = f'<div id="event-{event.Index + 1}">{_html(figure, f"Probabilities: {text}.")}</div>'
        begins = plots.clock(recording.start, row["start_s"])
        yield title.format(event.Index + 1, event.event, begins), html


def plot_events(
    recording: Recording, table: pd.DataFrame, events: pd.DataFrame, models: Models
) -> Iterator[tuple[pd.Series, Figure]]:
    """Of each of `events`, one or more: the row of `table` in it in which its class is most
    probable, and the page of these 10 s, with saliency where the models have it."""
    rows = []
    for event in events.itertuples():
        inside = table["start_s"] < event.onset_s + event.duration_s
        inside &= table["end_s"] > event.onset_s
        rows.append(table.loc[table.loc[inside, event.event].idxmax()])
    middles_s = [(row["start_s"] + row["end_s"]) / 2 for row in rows]
    eeg_uv = np.stack([inference.window_around(recording, s) for s in middles_s])
    classes = events["event"].map(CLASSES.index).to_numpy()
    maps = [
        saliency.map_or_none(f, models, eeg_uv, classes)
        for f in (saliency.eeg_saliency, saliency.grad_cam)
    ]
    maps, image = [[None] * len(rows) if x is None else x for x in maps], inference.image_of(models)
    for row, one_uv, *looked in zip(rows, eeg_uv, *maps, strict=True):
        times = [plots.clock(recording.start, row["start_s"] + s) for s in range(0, 11, 2)]
        images = [(image.from_raw(one_uv)[0], image)] if image else []
        yield row, plots.plot_page(one_uv, times, *images, saliency=looked[0], cam=looked[1])


def _table(rows: pd.DataFrame, header: bool = True) -> str:
    return rows.rename_axis(None).to_html(border=0, escape=False, header=header)


def _html(figure, caption: str) -> str:
    image = plots.data_uri(figure)
    return f'<figure><img alt="" src="{image}"><figcaption>{caption}</figcaption></figure>'
