"""Probabilities along a recording → events: seizures and patterns that begin and end; burden.

A table of `inference.predict_recording` has a row every step, about 10 s each. A second belongs to
all rows over it; its probability is their mean.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import ndimage

from hmsutils import signals
from hmsutils.competition import (
    CLASSES,
    ELECTRODES,
    SFREQ_HZ,
    check_values,
    require_room,
    write_atomically,
    write_csv,
)
from hmsutils.edf import Edf
from hmsutils.recordings import Recording

PATTERNS = CLASSES[:-1]  # Other is no event
STANDS_OUT = 1.2  # times another amplitude, see `find_channels`
_SIDES = [name[0] for name, pairs in signals.CHAIN_PAIRS.items() for _ in pairs]
_SIDES = np.array([*_SIDES, "", ""])  # of `DOUBLE_BANANA`, which ends with the midline
_ELECTRODES = [[*map(ELECTRODES.index, pair)] for pair in signals.DOUBLE_BANANA]
_N_A = "n/a"  # as the format writes what is not known
# EDF+ has the code, sex, birth date and name of a patient, and the date and 3 codes of a recording.
_DATE = rb"(?:X|\d\d-[A-Z]{3}-\d{4})"
_PLUS = re.compile(rb"\S+ [FMX] %b \S" % _DATE), re.compile(rb"Startdate %b(?: \S+){3}" % _DATE)


@dataclass(frozen=True)
class EventConfig:
    """When a class is an event. Two thresholds (hysteresis), so that a probability that moves
    around one of them does not cut an event into pieces."""

    on: float = 0.5  # somewhere in an event the probability is at least this …
    off: float = 0.3  # … and everywhere it is over this
    # 10 s is the least that the ACNS (2021) calls an electrographic seizure by its duration, and
    # that is more than "very brief" of a periodic or rhythmic pattern.
    min_duration_s: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(PATTERNS, 10))
    max_gap_s: float = 10.0  # events of a class that are closer are one, unless EEG is missing

    RANGES: ClassVar = {"on": (0, 1), "off": (0, 1), "max_gap_s": (0, 1e6)}

    def __post_init__(self):
        check_values(self)
        if self.off > self.on:
            raise ValueError(f"EventConfig: off is {self.off}, wanted at most on, {self.on}")
        if set(self.min_duration_s) != set(PATTERNS):
            given = ", ".join(self.min_duration_s)
            raise ValueError(
                f"EventConfig: min_duration_s has {given}; wanted {', '.join(PATTERNS)}"
            )


def per_second(table: pd.DataFrame) -> np.ndarray:
    """A table of `predict_recording` → (S, 6) probabilities of every second of the recording, up to
    the end of the last row; NaN where no row with an opinion is over it."""
    table = table.dropna(subset=list(CLASSES))
    first = table["start_s"].clip(0).round().to_numpy(int)
    last = np.floor(table["end_s"] + 1e-6).to_numpy(int)  # none is after the end of the recording
    changes = np.zeros((max(last, default=0) + 1, len(CLASSES) + 1))
    values = np.column_stack([table[list(CLASSES)], np.ones(len(table))])
    np.add.at(changes, first, values)
    np.add.at(changes, last, -values)
    sums = changes.cumsum(axis=0)[:-1]
    count = np.round(sums[:, -1:])
    means = sums[:, :-1] / np.maximum(count, 1)
    return np.where(count > 0, means.round(9), np.nan)  # without what the sums have lost


def find_events(table: pd.DataFrame, config: EventConfig = EventConfig()) -> pd.DataFrame:
    """The events in a table of `predict_recording`, one row each, in order of time: `onset_s` after
    the start of the recording, `duration_s`, `event`, one of `PATTERNS`, and `confidence`, the mean
    probability. Two classes may overlap where both are over `off`. No event crosses a second
    without an opinion."""
    seconds, rows = per_second(table), []
    unknown = np.isnan(seconds).any(axis=1)
    for k, name in enumerate(PATTERNS):
        p = np.where(unknown, -1.0, seconds[:, k])
        for first, last in _joined(p, config, unknown):
            if last - first >= config.min_duration_s[name]:
                rows.append((first, last - first, name, p[first:last].mean()))
    columns = ["onset_s", "duration_s", "event", "confidence"]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:2], ignore_index=True)


def _joined(p: np.ndarray, config: EventConfig, unknown: np.ndarray) -> list[list[int]]:
    """(first, last + 1) second of what is over `off` and reaches `on`, near ones joined."""
    labels, n = ndimage.label(p > config.off)
    spans = []
    for (span,) in ndimage.find_objects(labels) if n else ():
        if p[span].max() < config.on:
            continue
        near = bool(spans) and span.start - spans[-1][1] <= config.max_gap_s
        if near and not unknown[spans[-1][1] : span.start].any():
            spans[-1][1] = span.stop
        else:
            spans.append([span.start, span.stop])
    return spans


def burden(table: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    """Per hour after the start of the recording (index): `minutes` with an opinion, and for each of
    `PATTERNS` the share of these that lie in its events; hours without an opinion are left out.
    Source: ACNS 2021, prevalence."""
    known = ~np.isnan(per_second(table)).any(axis=1)
    inside = {name: np.zeros(len(known), bool) for name in PATTERNS}
    for row in events.itertuples():
        inside[row.event][int(row.onset_s) : int(row.onset_s + row.duration_s)] = True
    hours = pd.DataFrame({"known": known, **inside}).groupby(np.arange(len(known)) // 3600)
    sums = hours.sum().query("known > 0")
    shares = sums[list(PATTERNS)].div(sums["known"], axis=0)
    return shares.assign(minutes=sums["known"] / 60).rename_axis("hour")


def to_table(
    events: pd.DataFrame, duration_s: float, start: datetime | None = None
) -> pd.DataFrame:
    """Events as HED-SCORE's table for seizures, as SzCORE reads it: `eventType` is "sz" for
    seizures and "bckg" for all else. What other events are is in a last column, `pattern`.
    `channels` is that of `events`, where there is one. A recording without events is one row,
    "bckg" from its start to its end."""
    names = ["onset_s", "duration_s", "event", "confidence", "channels"]
    rows = events if len(events) else pd.DataFrame([(0.0, duration_s, _N_A, _N_A)], None, names[:4])
    rows = rows.reindex(columns=names, fill_value=_N_A)
    rows.columns = ["onset", "duration", "pattern", "confidence", "channels"]
    rows["eventType"] = np.where(rows["pattern"] == "Seizure", "sz", "bckg")
    rows["recordingDuration"] = duration_s
    rows["dateTime"] = start.strftime("%Y-%m-%d %H:%M:%S") if start else _N_A
    columns = ["onset", "duration", "eventType", "confidence", "channels", "dateTime"]
    return rows[[*columns, "recordingDuration", "pattern"]]


def write_events(
    path: str | PathLike, events: pd.DataFrame, duration_s: float, start: datetime | None = None
) -> None:
    """Write `to_table`, tab-separated."""
    write_csv(path, to_table(events, duration_s, start), sep="\t", float_format="%.2f")


def find_channels(recording: Recording, events: pd.DataFrame) -> list[str]:
    """Where each event is seen: the derivations of the double banana, comma-separated, in which the
    amplitude is over `STANDS_OUT` times the median of all 18, and only those of one side of the
    head where its sum is over so many times that of the other; "n/a" if there are none. The
    amplitude is the median of the peak to peak of every 2 s, from 1 to 15 Hz, in the event or, if
    it is longer, its middle minute. A derivation of an electrode that is missing or that `repair`
    replaces is never named. Of 48 simulated seizures and LPDs the side (left, right, both)
    was right in 39, and in all 32 that have most of their amplitude on one side."""
    found, names = [], np.array(["-".join(pair) for pair in signals.DOUBLE_BANANA])
    for row in events.itertuples():
        middle_s, half_s = row.onset_s + row.duration_s / 2, min(row.duration_s, 60) / 2
        stop_s = min(middle_s + half_s, recording.duration_s)
        eeg_uv = recording.read(middle_s - half_s, stop_s)
        eeg_uv = signals.to_time_last(eeg_uv, "find_channels")
        eeg_uv, quality = signals.repair_with_quality(eeg_uv)
        x = signals.montage(signals.bandpass(eeg_uv, 1, 15), signals.DOUBLE_BANANA)[0]
        whole = x.shape[1] // (2 * SFREQ_HZ) * 2 * SFREQ_HZ
        swing_uv = np.ptp(x[:, :whole].reshape(len(x), -1, 2 * SFREQ_HZ), axis=2)
        amplitude_uv = np.median(swing_uv, axis=1)
        over = amplitude_uv > STANDS_OUT * np.median(amplitude_uv)
        over &= ~quality.replaced[0, _ELECTRODES].any(axis=1)
        left_uv, right_uv = (amplitude_uv[_SIDES == side].sum() for side in "LR")
        over &= (_SIDES != "R") | (left_uv < STANDS_OUT * right_uv)
        over &= (_SIDES != "L") | (right_uv < STANDS_OUT * left_uv)
        found.append(",".join(names[over]) or _N_A)
    return found


def score(events: pd.DataFrame, truth: pd.DataFrame, duration_s: float) -> pd.DataFrame:
    """Events that were found in a recording against the true ones, by class (index, `PATTERNS`).

    As SzCORE scores seizures: a true event is `detected` where a found one has any part of it, or
    of the 30 s before or 60 s after it; a found event that has no part of such a time is one of the
    `false_alarms`. Events less than 90 s apart are one, and one over 5 minutes is cut every 5
    minutes; `true` counts them after that. The shortest event lasts 0.1 s; what lies before or
    after the recording counts nothing. `sensitivity`, `precision` and `false_alarms_per_day` are
    NaN where they would divide by 0. Both tables: `onset_s`, `duration_s` and `event`, one of
    `PATTERNS`. ValueError: another one, or `duration_s` is not over 0. Source: Dan et al., SzCORE,
    Epilepsia 2024, whose package computes it.
    """
    from timescoring.annotations import Annotation
    from timescoring.scoring import EventScoring

    if unknown := {*events["event"], *truth["event"]} - {*PATTERNS}:
        raise ValueError(f"score: events of {unknown}; wanted {', '.join(PATTERNS)}")
    if not 0 < duration_s < np.inf:
        raise ValueError(f"score: a recording of {duration_s} s; wanted its duration, over 0 s")

    def annotation(rows: pd.DataFrame) -> Annotation:
        mask = np.zeros(max(1, round(10 * duration_s)), bool)  # the precision of EventScoring
        for row in rows.itertuples():
            first, stop = (round(10 * s) for s in (row.onset_s, row.onset_s + row.duration_s))
            mask[max(first, 0) : max(first + 1, stop, 0)] = True
        return Annotation(mask, 10)

    scores = {}
    for name in PATTERNS:
        found = EventScoring(*(annotation(x[x["event"] == name]) for x in (truth, events)))
        counts = {"true": found.refTrue, "detected": found.tp, "false_alarms": found.fp}
        shares = {"sensitivity": found.sensitivity, "precision": found.precision}
        scores[name] = counts | shares | {"false_alarms_per_day": found.fpRate}
    return pd.DataFrame.from_dict(scores, orient="index")


def to_annotations(events: pd.DataFrame):
    """The events as `mne.Annotations`, described by their class."""
    import mne

    return mne.Annotations(events["onset_s"], events["duration_s"], events["event"])


def write_annotated(path: str | PathLike, recording: Recording, events: pd.DataFrame) -> None:
    """A copy of an EDF or BDF with the events as annotations, described by their class. Every
    whole record, all channels and annotations stay as they are, and so does what the file says of
    the patient and of the recording. A plain EDF becomes EDF+: where these two are not as its
    standard has them, they stand after an unknown patient and the start of the recording, as much
    of them as has room in the 80 characters. ValueError: the recording is from another kind of
    file, or is the copy itself, or the file has become shorter."""
    source = recording._source
    if not isinstance(source, Edf):
        raise ValueError(f"{recording.name}: no EDF or BDF; wanted one, to copy it with the events")
    if Path(path).exists() and Path(path).samefile(source.path):
        raise ValueError(f"{path}: the recording itself; name another file for the copy")
    marks = [
        f"+{row.onset_s + source.shift_s:.3f}\x15{row.duration_s:.3f}\x14{row.event}\x14\0".encode()
        for row in events.itertuples()
    ]
    each = -(-len(marks) // source.n_records)  # any record may hold any annotation
    cells = [b"".join(marks[k * each :][:each]) for k in range(source.n_records)]
    is_plus = any(label[1:] == "DF Annotations" for label in source.labels)
    if not is_plus:  # records say when they begin
        times_s = (float(k * source.record_s) for k in range(source.n_records))
        cells = [b"+%.6f\x14\x14\0" % t + cell for t, cell in zip(times_s, cells, strict=True)]
    samples = max(1, -(-max(map(len, cells)) // source.width))
    require_room(Path(path).parent, source.path.stat().st_size, f"copying {source.path.name}")

    def write(part: Path) -> None:
        with open(source.path, "rb") as original, open(part, "wb") as copy:
            copy.write(_annotated_header(original.read(source.header), source, samples, is_plus))
            for cell in cells:
                if len(record := original.read(source.at[-1])) < source.at[-1]:
                    raise ValueError(f"{recording.name}: became shorter since it was opened")
                copy.write(record + cell.ljust(samples * source.width, b"\0"))

    write_atomically(Path(path), write)


def _annotated_header(head: bytes, source: Edf, samples: int, is_plus: bool) -> bytes:
    """The header with one more channel, of so many samples in a record, for annotations."""
    kind, n, limit = ("EDF", "BDF")[source.width - 2], len(source.labels), 256**source.width // 2
    patient, reserved = head[8:168], head[192:236]
    if not is_plus:
        date = source.start.strftime("%d-%b-%Y").upper() if source.start else "X"
        before = b"X X X ", f"Startdate {date} X X X ".encode()
        fields = zip(_PLUS, before, (head[8:88], head[88:168]), strict=True)
        patient = b"".join(
            x if known.match(x) else (new + (b"_".join(x.split()) or b"X"))[:80].ljust(80)
            for known, new, x in fields
        )
        reserved = f"{kind}+C".encode().ljust(44)
    sizes = [f"{x:<8}".encode() for x in (256 * (n + 2), source.n_records)]
    new = head[:8] + patient + head[168:184] + sizes[0] + reserved + sizes[1] + head[244:252]
    new += f"{n + 1:<4}".encode()
    added = (f"{kind} Annotations", "", "", -1, 1, -limit, limit - 1, "", samples, "")
    at = 256
    for width, value in zip((16, 80, 8, 8, 8, 8, 8, 80, 8, 32), added, strict=True):
        new += head[at : at + width * n] + str(value).encode().ljust(width)
        at += width * n
    return new
