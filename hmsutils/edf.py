"""EDF, EDF+ and BDF: the header, annotations, gaps, and samples in the units of the file.

They are read here, since MNE closes the gaps of EDF+D, resamples channels of mixed rates in pieces,
and fails at one odd byte.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ["onset_s", "duration_s", "description"]  # of annotations
_JITTER_S = 0.02  # of a record's time after the one before; more is a gap
_DRIFT_S = 1.0  # of a slow clock that says so in EDF+D; then its true time is taken
_LONGEST_GAP_S = 31 * 86_400
# Of EDF+: a time, a duration, texts; bounded, so that no search takes quadratic time.
_MARK = re.compile(rb"([+-]%b)(?:\x15(%b)?)?\x14([^\0]*)\0" % ((rb"\d{1,15}(?:\.\d{0,15})?",) * 2))


class Edf:
    """The header of an EDF, EDF+ or BDF, and the samples of its channels.

    `n`: samples in a record, by channel; `record_s`; `spans`: (start_s, first record, records)
    without a gap; `bad`, `odd`: {channel: what is wrong with its scale}; `files`: those that are
    read. ValueError: damaged.
    """

    def __init__(self, path: Path):
        self.path, self.files, self.bad, self.odd, self.notes = path, [path], {}, {}, []
        with open(path, "rb") as file:
            head = file.read(256)
            n = max(int(_number(head[252:256], "the number of channels")), 0)
            head += file.read(256 * n)
        if not n or not len(head) == _number(head[184:192], "the header's length") == 256 * (n + 1):
            raise ValueError(f"{n} channels, but {len(head)} bytes of header")

        def column(at: int, width: int = 8) -> list[bytes]:
            return [head[256 + at * n + k * width :][:width] for k in range(n)]

        self.labels, self.units = ([*map(_decode, column(*at))] for at in ((0, 16), (96,)))
        self.n = [int(_number(x, "the samples in a record")) for x in column(216)]
        self.record_s = Fraction(str(_number(head[244:252], "the duration of a record")))
        if not 0 < self.record_s < 1e9 or min(self.n) < 0 or max(self.n) > 1e5 * self.record_s:
            raise ValueError(f"{min(self.n)}-{max(self.n)} samples in {self.record_s} s")
        self.header, self.width = len(head), 3 if head[:1] == b"\xff" else 2
        self.at = [0, *(int(at) * self.width for at in np.cumsum(self.n))]
        ranges = zip(*map(column, (104, 112, 120, 128)), strict=True)
        self.scale = [self._scale(k, *texts) for k, texts in enumerate(ranges)]
        self.n_records = self._count(int(_number(head[236:244], "the number of records")))
        onset_s, rows = self._annotations()
        self.spans = self._spans(onset_s, head[192:197].endswith(b"+D"))
        self.shift_s = shift_s = float(np.nan_to_num(onset_s[0]))  # up to a second
        rows = [(begin_s - shift_s, *rest) for begin_s, *rest in rows]
        self.annotations, self.start = pd.DataFrame(rows, columns=COLUMNS), None
        with suppress(ValueError, OverflowError):  # anonymised files have no date
            start = datetime.strptime(_decode(head[168:184]), "%d.%m.%y%H.%M.%S")
            start = start.replace(year=start.year + 100 * (start.year < 1985))
            self.start = start + timedelta(seconds=shift_s)

    def _scale(self, k: int, *texts: bytes) -> tuple[float, float]:
        """(gain, offset) of a channel's samples."""
        said = "{} has the physical minimum {} and maximum {}, the digital ones {} and {}"
        said = said.format(self.labels[k], *map(_decode, texts))
        low, high, first, last = map(_number, texts)
        gain = (high - low) / (last - first) if first < last else np.nan
        if self.n[k] < self.record_s:
            self.bad[k] = f"{self.labels[k]} has no samples, or less than one per second"
        elif not (abs(gain) > 1e-30 and max(abs(low), abs(high)) < 1e30):  # as float32, and in V
            self.bad[k] = said
        elif gain < 0:
            self.odd[k] = f"{said}: its polarity is inverted, as the standard says"
        return gain, low - first * gain

    def _count(self, stated: int) -> int:
        """The whole records in the file; notes where the header says otherwise."""
        size = self.path.stat().st_size - self.header
        n, rest = divmod(size, max(self.at[-1], 1))
        if not n or not self.at[-1]:
            raise ValueError(f"{size} bytes of data, and {self.at[-1]} in a record")
        there, lost_s = (f"{float(x * self.record_s):,g} s are" for x in (n, stated - n))
        if stated < 0:
            self.notes.append(f"not closed: how long it was is unknown, {there} there")
        elif stated > n:
            self.notes.append(f"cut: {lost_s} missing ({1 - n / stated:.0%}), {there} there")
        elif stated < n or rest:
            self.notes.append(f"longer than the {stated} records of its header: {there} there")
        return n

    def _annotations(self) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
        """(N,) when each record begins, NaN where it does not say, and rows of annotations."""
        onset_s, rows = np.full(self.n_records, np.nan), []
        marks = [k for k, x in enumerate(self.labels) if x[1:] == "DF Annotations"]
        with open(self.path, "rb", buffering=0) as file:  # mapped, all of it would be in memory
            for record, k in product(range(self.n_records), marks):
                file.seek(self.header + record * self.at[-1] + self.at[k])
                for match in _MARK.finditer(file.read(self.n[k] * self.width) + b"\0"):
                    if match.start() == 0 and k == marks[0]:
                        onset_s[record] = float(match[1])
                    for note in filter(None, match[3].split(b"\x14")):
                        rows.append((float(match[1]), float(match[2] or 0), _decode(note)))
        return onset_s, rows

    def _spans(self, onset_s: np.ndarray, has_gaps: bool) -> list[tuple[float, int, int]]:
        late_s = np.diff(onset_s) - float(self.record_s)
        in_order = (-_JITTER_S < late_s) & (late_s < _LONGEST_GAP_S)
        if not (np.isfinite(onset_s).all() and in_order.all()):
            if has_gaps:
                problem = "whose records have no times, or go back in time, or skip 31 days"
                raise ValueError(f"an EDF+D {problem}")
            return [(0.0, 0, self.n_records)]
        jumps, cuts = np.r_[False, np.abs(late_s) > _JITTER_S], [0]
        late_s = onset_s - np.arange(self.n_records) * float(self.record_s)
        for k, shift_s in enumerate(late_s):
            if jumps[k] or (has_gaps and abs(shift_s - late_s[cuts[-1]]) > _DRIFT_S):
                cuts.append(k)
        if len(cuts) > 1:
            shift_s = late_s[cuts[-1]] - late_s[0]
            what = "gaps" if shift_s > 0 else "overlaps"
            self.notes.append(f"{what}: {len(cuts) - 1}, {abs(shift_s):,g} s in all")
        ends = pairwise([*cuts, self.n_records])
        return [(float(onset_s[a] - onset_s[0]), a, b - a) for a, b in ends]

    def _data(self) -> np.ndarray:
        """(records, bytes of one), memory-mapped; ValueError: the file became shorter."""
        shape = self.n_records, self.at[-1]
        return np.asarray(np.memmap(self.path, np.uint8, "r", self.header, shape))

    def read(self, channels: Sequence[int], first: int, stop: int) -> np.ndarray:
        """(C, stop - first) float32, in their units, of channels of the same rate."""
        n = self.n[channels[0]]
        record, skip = divmod(first, n)
        data = self._data()[record : -(-stop // n)]
        x = np.empty((len(channels), stop - first), np.float32)
        for row, k in zip(x, channels, strict=True):
            part = data[:, self.at[k] : self.at[k + 1]].reshape(len(data), n, self.width)
            # Of one record, which may be hours long, only what is needed.
            part = part[:, skip : skip + len(row)] if len(data) == 1 else part
            values, (gain, offset) = _whole_numbers(part), self.scale[k]
            row[:] = values[0 if len(data) == 1 else skip :][: len(row)] * gain + offset
        return x


def _whole_numbers(data: np.ndarray) -> np.ndarray:
    """(N, T, 2 or 3) bytes → the (N · T,) whole numbers that they are, lowest byte first."""
    wide, width = np.zeros((*data.shape[:2], 4), np.uint8), data.shape[2]
    wide[..., 4 - width :] = data
    return wide.view("<i4").ravel() >> (32 - 8 * width)


def _number(text: bytes, what: str = "") -> float:
    """Where it is none: ValueError, which says `what` it is, or NaN without."""
    try:
        number = float(_decode(text).replace(",", "."))
    except ValueError:
        number = np.nan
    if what and not np.isfinite(number):
        raise ValueError(f"{what} is {_decode(text)!r}")
    return number


def _decode(text: bytes) -> str:
    """Latin-1 where it is no UTF-8."""
    try:
        return text.decode().strip(" \0")
    except UnicodeDecodeError:
        return text.decode("latin-1").strip(" \0")
