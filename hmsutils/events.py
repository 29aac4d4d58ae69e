"""Probabilities along a recording → events: seizures and patterns that begin and end; burden.

A table of `inference.predict_recording` has a row every step, about 10 s each. A second belongs to
all rows over it; its probability is their mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import ndimage

from hmsutils.competition import CLASSES, check_values, write_csv

PATTERNS = CLASSES[:-1]  # Other is no event
_N_A = "n/a"  # as the format writes what is not known


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
    first, last = (table[x].clip(0).round().to_numpy(int) for x in ("start_s", "end_s"))
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
    `PATTERNS` the share of these that lie in its events. Source: ACNS 2021, prevalence."""
    known = ~np.isnan(per_second(table)).any(axis=1)
    inside = {name: np.zeros(len(known), bool) for name in PATTERNS}
    for row in events.itertuples():
        inside[row.event][int(row.onset_s) : int(row.onset_s + row.duration_s)] = True
    hours = pd.DataFrame({"known": known, **inside}).groupby(np.arange(len(known)) // 3600)
    sums = hours.sum()
    shares = sums[list(PATTERNS)].div(sums["known"].where(sums["known"] > 0), axis=0)
    return shares.assign(minutes=sums["known"] / 60).rename_axis("hour")


def write_events(
    path: str | PathLike, events: pd.DataFrame, duration_s: float, start: datetime | None = None
) -> None:
    """Write events as HED-SCORE's table for seizures, as SzCORE reads it: tab-separated,
    `eventType` is "sz" for seizures and "bckg" for all else. What other events are is in a last
    column, `pattern`. A recording without events is one row, "bckg" from its start to its end."""
    rows = events if len(events) else pd.DataFrame([(0.0, duration_s, _N_A, _N_A)])
    rows = rows.set_axis(["onset", "duration", "pattern", "confidence"], axis=1)
    rows["eventType"] = np.where(rows["pattern"] == "Seizure", "sz", "bckg")
    rows["channels"], rows["recordingDuration"] = _N_A, duration_s
    rows["dateTime"] = start.strftime("%Y-%m-%d %H:%M:%S") if start else _N_A
    columns = ["onset", "duration", "eventType", "confidence", "channels", "dateTime"]
    table = rows[[*columns, "recordingDuration", "pattern"]]
    write_csv(path, table, sep="\t", float_format="%.2f")


def to_annotations(events: pd.DataFrame):
    """The events as `mne.Annotations`, described by their class."""
    import mne

    return mne.Annotations(events["onset_s"], events["duration_s"], events["event"])
