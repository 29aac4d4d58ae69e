"""What the page draws, as numbers for page/viewer.js: traces in a montage, a timeline.

Arrays go to the browser as base64 of their bytes.
"""

import base64

import numpy as np
import pandas as pd
from scipy import signal

from hmsutils import events, plots, signals
from hmsutils.competition import CLASSES, ELECTRODES, SFREQ_HZ
from hmsutils.recordings import Recording

COLUMNS = 1200  # of a timeline
SENSITIVITY = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)  # µV/mm
SECONDS, NOTCH_HZ = (5, 10, 15, 20, 30), (0, 50, 60)  # 0: off
LOW_HZ, HIGH_HZ = (0.3, 0.5, 1, 1.6, 5), (15, 30, 40, 70)
LOST, UNKNOWN = -32768, 255  # where there is no EEG, and no prediction
_MARGIN_S = 5.0  # beside a page, for its filters
_TRANSVERSE = (
    "F7-Fp1 Fp1-Fp2 Fp2-F8", "F7-F3 F3-Fz Fz-F4 F4-F8", "T3-C3 C3-Cz Cz-C4 C4-T4",
    "T5-P3 P3-Pz Pz-P4 P4-T6", "T5-O1 O1-O2 O2-T6",
)  # fmt: skip
_BY_SIDE = ("Fp1 F7 T3 T5", "F3 C3 P3 O1", "Fz Cz Pz", "Fp2 F8 T4 T6", "F4 C4 P4 O2")
BANANA, _AVERAGE = "double banana", "average"
# Groups of (plus, minus); minus: an electrode, the average of all, or "" as recorded. Source: ACNS
# Guideline 3.
MONTAGES = {
    BANANA: [plots.READING_ORDER[i : i + 4] for i in range(0, 18, 4)],
    _AVERAGE: [[(x, _AVERAGE) for x in group.split()] for group in _BY_SIDE],
    "transverse": [[tuple(x.split("-")) for x in group.split()] for group in _TRANSVERSE],
    "as recorded": [[(x, "") for x in group.split()] for group in _BY_SIDE],
}


def encode(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def page(
    recording: Recording, at_s: float, seconds: float, montage: str, low_hz: float, high_hz: float,
    notch_hz: float,
) -> dict:  # fmt: skip
    """`seconds` from `at_s` in a montage: its `rows` and their `values`, int16 tenths of a
    microvolt, `LOST` where there is no EEG. Filtered (zero-phase), not repaired. ValueError:
    settings that are not among those of this module."""
    asked = {"seconds": seconds, "low_hz": low_hz, "high_hz": high_hz, "notch_hz": notch_hz}
    for (name, value), offered in zip(
        asked.items(), (SECONDS, LOW_HZ, HIGH_HZ, NOTCH_HZ), strict=True
    ):
        if value not in offered:
            raise ValueError(f"page: {name} is {value}; wanted one of {offered}")
    if montage not in MONTAGES:
        raise ValueError(f"page: montage {montage!r}; wanted one of {', '.join(MONTAGES)}")
    at_s = float(np.clip(at_s, 0, max(recording.duration_s - 1, 0)))
    begin_s = max(0.0, at_s - _MARGIN_S)
    eeg_uv = recording.read(begin_s, min(recording.duration_s, at_s + seconds + _MARGIN_S)).T
    lost, rows, traces = np.isnan(eeg_uv), [], []
    x = _filtered(eeg_uv, lost, low_hz, high_hz, notch_hz)
    seen = ~lost[: signals.N_SCALP]
    average = (x[: signals.N_SCALP] * seen).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    for group in [*MONTAGES[montage], [("EKG", "")]]:
        for k, (plus, minus) in enumerate(group):
            i, is_pair = ELECTRODES.index(plus), minus in ELECTRODES
            j = ELECTRODES.index(minus) if is_pair else i
            trace = x[i] - (x[j] if is_pair else average if minus else 0)
            traces.append(np.where(lost[i] | lost[j], np.nan, trace))
            row = {"label": f"{plus}–{minus}" if is_pair else plus, "first": k == 0}
            row["side"] = "E" if plus == "EKG" else plots.side(plus, minus if is_pair else plus)
            row["electrodes"] = [plus, minus] if is_pair else [plus]
            row["bad"] = bool(lost[i].all() or lost[j].all())
            is_banana = is_pair and montage == BANANA
            row["derivation"] = signals.DOUBLE_BANANA.index((plus, minus)) if is_banana else None
            rows.append(row)
    first = round((at_s - begin_s) * SFREQ_HZ)
    values = np.full((len(rows), round(seconds * SFREQ_HZ)), np.nan)
    part = np.array(traces)[:, first:][:, : values.shape[1]]
    values[:, : part.shape[1]] = part
    tenths = np.nan_to_num(10 * values).clip(LOST + 1, -LOST - 1)
    tenths = np.where(np.isnan(values), LOST, tenths).round().astype("<i2")
    notch = f", notch {notch_hz} Hz" if notch_hz else ""
    title = f"{montage}, {low_hz:g}–{high_hz:g} Hz{notch}"
    drawn = {"at_s": at_s, "seconds": seconds, "title": title, "rows": rows}
    return drawn | {"values": encode(tenths)}


def _filtered(
    x: np.ndarray, lost: np.ndarray, low_hz: float, high_hz: float, notch_hz: float
) -> np.ndarray:
    count = np.maximum((~lost).sum(axis=1, keepdims=True), 1)
    mean = np.where(lost, 0, x).sum(axis=1, keepdims=True) / count
    x = signals.bandpass(np.where(lost, 0, x - mean)[None], low_hz, high_hz)[0]
    if notch_hz:
        notch = signal.iirnotch(notch_hz, 15, SFREQ_HZ)
        x = signal.filtfilt(*notch, x, padlen=min(100, x.shape[1] - 1))
    return x


def timeline(duration_s: float, table: pd.DataFrame | None, found: pd.DataFrame | None) -> dict:
    """Of each class the largest probability, and last of the lost EEG the largest share, in every
    column of a recording, uint8 in steps of 1/200, `UNKNOWN` where there is none; and the events.

    `table`, `found`: of `inference.predict_recording` and `events.find_events`; None: not yet."""
    seconds = max(1, int(np.ceil(duration_s)))
    values = np.full((seconds, len(CLASSES) + 1), np.nan)
    if table is not None:
        p = events.per_second(table)[:seconds]
        values[: len(p), :-1] = p
        for start_s, end_s, lost in table[["start_s", "end_s", "lost"]].to_numpy():
            values[int(start_s) : int(np.ceil(end_s)), -1] = lost
    n = min(seconds, COLUMNS)
    columns = np.fmax.reduceat(values, np.arange(n) * seconds // n)
    steps = np.where(np.isnan(columns), UNKNOWN, np.nan_to_num(columns) * 200).round()
    rows = [] if found is None else found.to_dict("records")
    return {"columns": encode(steps.T.astype(np.uint8)), "events": rows}


def about(recording: Recording) -> dict:
    """What the browser has to know of a recording."""
    start = recording.start
    return {
        "duration_s": recording.duration_s, "is_bipolar": recording.is_bipolar, "classes": CLASSES,
        "colours": dict(zip(CLASSES, plots.COLOURS, strict=True)),
        "start_s": start and start.hour * 3600 + start.minute * 60 + start.second,
    }  # fmt: skip
