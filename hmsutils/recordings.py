"""A recording from an EEG machine → raw EEG as the competition's files hold it.

EDF, EDF+, BDF and the competition's own files are known by their first bytes; all else is read by
MNE.
"""

import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from hmsutils.competition import ELECTRODES, SFREQ_HZ, reading
from hmsutils.edf import COLUMNS, Edf
from hmsutils.kernels import interpolate
from hmsutils.signals import CHAINS, DOUBLE_BANANA, N_SCALP

# What may stand before V, Volt or Volts, as `_unit_v` normalises it → volts.
_UNITS_V = {"": 1.0, "m": 1e-3, "μ": 1e-6, "u": 1e-6, "n": 1e-9}
_UNITS_V |= {"milli": 1e-3, "micro": 1e-6, "nano": 1e-9}
_ENCODINGS = ("utf-8", "cp437", "cp1253", "shift_jis", "gbk")  # of μ in headers
LOWEST_SFREQ_HZ = 80
# The resampling filter is flat to .8 of the lower Nyquist frequency, and 100 dB lower from 1.2 up.
_ZEROS = 16  # its zero crossings on each side
_TAPS = np.linspace(0, _ZEROS, 512 * _ZEROS + 1)
_TAPS = np.sinc(_TAPS) * np.i0(10 * np.sqrt(1 - (_TAPS / _ZEROS) ** 2)) / np.i0(10)
_PLAUSIBLE_UV = (0.1, 5000.0)  # the typical standard deviation of a second of EEG
_BLOCK = 600 * SFREQ_HZ  # samples that are read at once
_MOST_ROWS = 7200 * SFREQ_HZ  # of such a file; the competition's have less than an hour
_PARQUET = b"PAR1"  # begins such a file
_SKIP = "BAD_ACQ_SKIP"  # MNE's annotation of what was not recorded
_JOINT = re.compile(r"boundary|^New Segment")  # where MNE, EEGLAB and BrainVision lost time

# How channels are called, in capitals: what may stand before an electrode, its name, and what it
# was recorded against. All of a label must fit: "O2 Sat" is no electrode.
_SCALP = ELECTRODES[:N_SCALP]
_NAMES = {name.upper(): name for name in _SCALP}
_NAMES |= {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6", "01": "O1", "02": "O2"}
_ELECTRODE, _BETWEEN = "|".join(_NAMES), r"[\s.:_/(\[-]*"
_LABEL = re.compile(
    r"(?:\d+[\s.:_-]+(?=\D))?"  # "1 Fp1", "01-Fp1"
    rf"(?:(?:EEG|POL|CH\s*\d+(?!\d)){_BETWEEN})*[\[(<]?"  # "EEG Fp1", "EEG.Fp1", "EEGFp1", "[Fp1]"
    rf"(?P<plus>{_ELECTRODE})[\])>]?(?:\s*[(\[](?P=plus))?"  # "Fp1 (Fp1-Ref)"
    rf"(?:{_BETWEEN}(?P<reference>REF(?:ERENCE)?\d*|LE|AVG?|AVE|AVERAGE|CAR"  # "Fp1-Ref", "FP1REF"
    r"|[AM][12]|[AM]1\s*[+/&]?\s*[AM]2\)?(?:/2)?)"  # "FP1A2", "Fp1-(A1+A2)/2"
    rf"|{_BETWEEN}(?P<minus>{_ELECTRODE})"  # a derivation, "Fp1-F7"; or Fp1, F3, … against Cz
    r"|\s*[-:/]\s*(?P<other>[A-Z][A-Z0-9 ]*))?"  # the reference of all, "Fp1-FCz"
    r"(?:-\d)?[\s.)\]]*"  # "Fp1-0", "Fp1."
)
_REFERENCES = {"RE": "REF", "LE": "LE", "AV": "AVG", "CA": "AVG"}  # by their first letters
_SIDES = ("1357", "2468", "z")  # how the names of electrodes end
_HEART, _NO_HEART = re.compile(r"E[CK]G[\dLR]?"), {"HR", "RATE", "BPM", "RR"}
_COMMON = 3  # as many electrodes against the same show that it is the reference of all

# 18 derivations → 19 potentials with these differences, of mean 0 on each side of the head, which
# is a ring of two chains, and on the midline.
_POTENTIALS = np.linalg.pinv(
    [[float(x == a) - (x == b) for x in ELECTRODES[:N_SCALP]] for a, b in DOUBLE_BANANA]
)
_RINGS = [[*map(ELECTRODES.index, {*CHAINS[f"{x}L"], *CHAINS[f"{x}P"]})] for x in "LR"]


@dataclass(frozen=True, eq=False)
class Recording:
    """EEG that is read piece by piece; times are in seconds after `start`.

    `sfreq_hz`: of the file; `electrodes`: {name: label in the file}, those found; `missing`: the
    others; `segments`: (start_s, stop_s) of EEG without a gap, in steps of 5 ms; `annotations`:
    onset_s, duration_s, description; `notes`: what is wrong with the file, also warned of.
    """

    name: str
    sfreq_hz: float
    start: datetime | None
    duration_s: float
    electrodes: dict[str, str]
    missing: tuple[str, ...]
    segments: tuple[tuple[float, float], ...]
    annotations: pd.DataFrame = field(repr=False)
    notes: tuple[str, ...]
    _source: "Edf | _Raw" = field(repr=False)
    _channels: list[int] = field(repr=False)
    _matrix: np.ndarray = field(repr=False)  # (20, C): channels → microvolts of electrodes
    _groups: list[list[int]] = field(repr=False)  # electrodes whose median is taken from them

    @property
    def is_bipolar(self) -> bool:
        """Recorded as derivations: only differences within a side of the head are known."""
        return self._groups is _RINGS

    def read(self, start_s: float = 0.0, stop_s: float | None = None) -> np.ndarray:
        """(T, 20) float32 microvolts at 200 Hz, columns as `ELECTRODES`; NaN where there is no such
        channel, or no EEG. ValueError: not 0 ≤ start_s < stop_s ≤ duration_s."""
        stop_s = self.duration_s if stop_s is None else stop_s
        if not 0 <= start_s < stop_s <= self.duration_s + 1 / SFREQ_HZ:
            wanted = f"wanted a part of 0 to {self.duration_s:g} s"
            raise ValueError(f"{self.name}: read from {start_s} to {stop_s} s, {wanted}")
        first, stop = round(start_s * SFREQ_HZ), round(stop_s * SFREQ_HZ)
        eeg_uv = np.full((stop - first, len(ELECTRODES)), np.nan, np.float32)
        for k, times_s in enumerate(self.segments):
            begin, end = (round(time_s * SFREQ_HZ) for time_s in times_s)
            for at in range(max(first, begin), min(stop, end), _BLOCK):
                to = min(at + _BLOCK, stop, end)
                eeg_uv[at - first : to - first] = self._read(k, at - begin, to - begin).T
        return eeg_uv

    def pieces(self, seconds: float = 600, overlap_s: float = 0) -> Iterator[tuple]:
        """(start_s, (T, 20) as from `read`) one after the other, never across a gap; the last one
        before a gap is shorter. ValueError: not 0 ≤ overlap_s < seconds."""
        length, overlap = round(seconds * SFREQ_HZ), round(overlap_s * SFREQ_HZ)
        if not 0 <= overlap < length:
            problem = f"pieces of {seconds} s that overlap by {overlap_s} s"
            raise ValueError(f"{self.name}: {problem}; wanted 0 ≤ overlap_s < seconds")
        for begin_s, end_s in self.segments:
            n = round((end_s - begin_s) * SFREQ_HZ)
            for first in range(0, max(1, n - overlap), length - overlap):
                start_s, stop_s = (begin_s + at / SFREQ_HZ for at in (first, first + length))
                yield start_s, self.read(start_s, min(stop_s, end_s))

    def to_raw(self):
        """An `mne.io.RawArray` of the electrodes found, at 200 Hz, in volts; gaps are 0 and have
        the annotation "BAD_ACQ_SKIP", which MNE knows."""
        import mne

        types = {name: "ecg" if name == "EKG" else "eeg" for name in self.electrodes}
        volts = self.read()[:, [ELECTRODES.index(name) for name in types]].T * 1e-6
        info = mne.create_info([*types], SFREQ_HZ, [*types.values()])
        raw = mne.io.RawArray(np.nan_to_num(volts, copy=False), info, verbose="error")
        start = self.start and (self.start if self.start.tzinfo else self.start.replace(tzinfo=UTC))
        rows = self.annotations.values.tolist()
        rows = [(max(t, 0), min(t + s, self.duration_s), text) for t, s, text in rows]
        edges = pairwise([(0, 0), *self.segments])
        rows += [(a, b, _SKIP) for (_, a), (b, _) in edges if b > a]
        rows = [(a, b - a, text) for a, b, text in rows if a <= b]
        marks = mne.Annotations(*(zip(*rows, strict=True) if rows else [[]] * 3), orig_time=start)
        return raw.set_meas_date(start).set_annotations(marks, verbose="error")

    def _read(self, segment: int, first: int, stop: int) -> np.ndarray:
        """(20, stop - first) microvolts: some samples, at 200 Hz, of a segment."""
        channels = np.array(self._channels)
        rates = np.array(self._source.n)[channels]
        x = np.empty((len(rates), stop - first), np.float32)
        for n in np.unique(rates):
            x[rates == n] = self._resample(segment, channels[rates == n].tolist(), first, stop)
        lost = ~np.isfinite(x)
        eeg_uv = self._matrix @ np.where(lost, 0, x)
        if lost.any():
            eeg_uv[(self._matrix != 0).astype(np.float32) @ lost > 0] = np.nan
        for group in self._groups:  # so that none is flat, and no bad electrode spreads
            eeg_uv[group] -= np.median(eeg_uv[group], axis=0)
        return eeg_uv

    def _resample(self, segment: int, channels: list[int], first: int, stop: int) -> np.ndarray:
        """(C, stop - first) samples of channels of one rate, at 200 Hz and their exact times."""
        source, (_, record, n_records) = self._source, self._source.spans[segment]
        n = source.n[channels[0]]
        step = n / (SFREQ_HZ * source.record_s)  # in samples of the file, exact
        width = max(1.0, float(step))
        margin = 0 if step == 1 else math.ceil(_ZEROS * width)
        begin = max(0, math.floor(first * step) - margin)
        end = min(math.ceil(stop * step) + margin, n_records * n)
        try:
            part = source.read(channels, record * n + begin, record * n + end)
        except (OSError, ValueError) as error:
            problem = f"changed or removed since it was opened ({error}); open it again"
            raise OSError(f"{self.name}: {problem}") from error
        if step == 1:
            return part
        at = float(first * step - begin) + float(step) * np.arange(stop - first)
        return interpolate(part, at, width, _TAPS, _ZEROS)


def read_recording(recording, unit: str | None = None) -> Recording:
    """Open an EDF, EDF+, BDF, BrainVision (.vhdr), EEGLAB (.set) or other file that MNE reads, a
    .parquet of the competition, or an `mne.io.BaseRaw`.

    Electrodes are known by their 10-20 names, old or new, in any style of `_LABEL`; other channels
    are ignored. They may be recorded against any common reference (a scalp electrode that is the
    reference is one of them; each side of the head may have its own ear; those against another one
    than most are left out), or as the 18 derivations of the double banana. `unit` is that of the
    scalp electrodes, "uV" for example; None: as in the file, with a warning where the data
    contradict it by three orders of magnitude.

    ValueError: the file is damaged or of an unknown format, has no scalp electrode, was recorded at
    less than 80 Hz or for less than 1 s, or a unit is blank or unknown and `unit` is not given.
    """
    is_path = isinstance(recording, str | Path)
    if not is_path and not hasattr(recording, "filenames"):
        wanted = "wanted the path of a file or an mne.io.BaseRaw"
        raise ValueError(f"a recording of {type(recording)}, {wanted}")
    name = str(recording if is_path else (recording.filenames or [None])[0] or "raw")
    if unit is not None and _unit_v(unit) is None:
        raise ValueError(f"{name}: unit {unit!r} is unknown, wanted one of V, mV, uV, nV")
    source = _open(Path(recording)) if is_path else _Raw(recording)
    _leave_out_slow(name, source)
    order = np.argsort([_unit_v(unit or x) is None for x in source.units], kind="stable").tolist()
    labels = {k: source.labels[k] for k in order if k not in source.bad}
    try:
        channels, matrix, names, groups, notes = _find_electrodes(labels)
    except ValueError as error:
        raise ValueError(f"{name}: {'; '.join([str(error), *source.bad.values()][:4])}") from None
    scalp = channels[: len(channels) - ("EKG" in names)]
    highest = float(max(source.n[k] for k in scalp) / source.record_s)
    for column, k in enumerate(channels):
        text, is_ekg = source.units[k], k not in scalp  # no model looks at it
        volts = _unit_v(text if is_ekg or unit is None else unit)
        if volts is None and not is_ekg:
            problem = f"the unit of {source.labels[k]} is {text!r}, which is unknown"
            raise ValueError(f'{name}: {problem}; name it with unit=… (--unit), "uV" for example')
        if volts is None:
            matrix[-1] = np.nan
        else:
            matrix[:, column] *= 1e6 * volts
    missing = tuple(x for x in ELECTRODES if x not in names)
    bad = [f"{source.bad[k]}; it is left out" for k in source.bad if _parse(source.labels[k])[0]]
    notes += source.notes + bad + [source.odd[k] for k in channels if k in source.odd]
    if lost := ", ".join(x for x in missing if x != "EKG"):
        notes.append(f"no channel of {lost}")
    starts = [(round(start_s * SFREQ_HZ), n * source.record_s) for start_s, _, n in source.spans]
    ends = [(at / SFREQ_HZ, (at + int(length_s * SFREQ_HZ)) / SFREQ_HZ) for at, length_s in starts]
    ends = [(a, min(b, c)) for (a, b), (c, _) in pairwise([*ends, (np.inf, 0)])]  # of overlaps
    if (length_s := sum(b - a for a, b in ends)) < 1:
        raise ValueError(f"{name}: {length_s:g} s of EEG, wanted 1 s or more")
    found = Recording(
        name, highest, source.start, ends[-1][1], names, missing, tuple(ends),
        source.annotations, (), source, channels, matrix.astype(np.float32), groups,
    )  # fmt: skip
    notes += _implausible(found, unit or source.units[scalp[0]])
    for note in notes:
        warnings.warn(f"{name}: {note}", stacklevel=2)
    return replace(found, notes=tuple(notes))


def _leave_out_slow(name: str, source: "Edf | _Raw") -> None:
    """Electrodes of too low a rate become bad. ValueError: all of them are so slow."""
    scalp = [k for k, x in enumerate(source.labels) if _parse(x)[0] in _SCALP]
    hz = {k: float(source.n[k] / source.record_s) for k in scalp if k not in source.bad}
    wanted = f"wanted {LOWEST_SFREQ_HZ} Hz or more, as models look at waves of up to 40 Hz"
    slow = [k for k in hz if hz[k] < LOWEST_SFREQ_HZ]
    source.bad |= {k: f"{source.labels[k]} is recorded at {hz[k]:g} Hz, {wanted}" for k in slow}
    if slow and len(slow) == len(hz):
        raise ValueError(f"{name}: {source.bad[slow[0]]}")


def _implausible(found: Recording, unit: str) -> list[str]:
    """What is wrong with the amplitude, judged by about 200 seconds."""
    seconds = [
        begin_s + k for begin_s, end_s in found.segments for k in range(int(end_s - begin_s))
    ]
    seconds = seconds[:: len(seconds) // 200 + 1]
    scalp = [ELECTRODES.index(name) for name in found.electrodes if name != "EKG"]
    stds_uv = [np.std(found.read(at_s, at_s + 1)[:, scalp], axis=0) for at_s in seconds]
    if seconds and not np.isfinite(stds_uv).any():
        return ["no second that was looked at has EEG, only NaN"]
    std_uv = float(np.nanmedian(stds_uv)) if seconds else 0.0
    if not std_uv > 0 or _PLAUSIBLE_UV[0] <= std_uv <= _PLAUSIBLE_UV[1]:  # flat is only bad
        return []
    shown = f"{std_uv * 1e-6 / _unit_v(unit):,.3g} {unit} ({std_uv:,.3g} µV)"
    problem = f"a second of EEG has a standard deviation of {shown}, which no EEG has"
    remedy = "if the header is wrong, name the unit with unit=… (--unit)"
    return [f"with the unit {unit}, {problem}; {remedy}"]


def _unit_v(text: str) -> float | None:
    """Volts of a unit, whatever its case and the encoding of its μ; None: unknown."""
    raw = text.encode("latin-1", "ignore") or text.encode()
    for decoded in (text, *(raw.decode(encoding, "replace") for encoding in _ENCODINGS)):
        normal = unicodedata.normalize("NFKC", decoded).casefold()
        if (match := re.fullmatch("(.*?)v(?:olts?)?", normal)) and match[1] in _UNITS_V:
            return _UNITS_V[match[1]]
    return None


def _parse(label: str) -> tuple[str, str, str]:
    """The electrode in a channel's label, what it was recorded against where that is an electrode
    or unknown, else the reference of all that is named: "EEG FP1-CAR" → ("Fp1", "", "AVG"),
    "T7-P7" → ("T3", "T5", ""); else ("", "", "")."""
    if match := _LABEL.fullmatch(text := label.upper().strip()):
        minus, named = match["minus"], match["reference"] or ""
        minus = _NAMES[minus] if minus else (match["other"] or "").strip()
        named = _REFERENCES.get(named[:2], "LE" if named[2:] else named)  # "A1", or "A1+A2"
        return _NAMES[match["plus"]], minus, named
    words = set(re.split(r"[^A-Z0-9]+", text))
    heart = any(map(_HEART.fullmatch, words)) and not words & _NO_HEART
    return ("EKG" if heart else ""), "", ""


def _of_one_reference(found: dict[int, tuple[str, str]]) -> tuple[set[int], list[str]]:
    """Among {channel: (electrode, its reference)}: those to leave out, as they are not against the
    reference of most; notes. A side of the head may have its own ear; some name no reference."""
    named: dict[str, dict[int, str]] = {"": {}}
    for k, (x, reference) in found.items():
        named.setdefault(reference, {})[k] = x
    free, ears = named.pop(""), [g for name, g in named.items() if name[1:] in ("1", "2")]
    sides = [[{k: x for k, x in g.items() if x[-1] in side} for g in ears] for side in _SIDES]
    both = {k: x for side in sides if side for k, x in max(side, key=len).items()}
    chosen = max([{}, *named.values(), both], key=len) | free
    notes, used = [], sorted({found[k][1] for k in chosen} - {""})
    if len(used) > 1:
        which = "only differences within one side of the head are right"
        notes.append(f"against {' and '.join(used)}: {which}")
    if lost := dict.fromkeys(x for x, _ in found.values() if x not in chosen.values()):
        notes.append(f"{', '.join(lost)} left out: not against the reference of most")
    return found.keys() - chosen.keys(), notes


def _by_reference(labels: dict[int, str]) -> tuple[dict[str, dict[str, int]], list[str], list]:
    """Among {channel: label}: {reference: {electrode: channel}}, "" for the named ones; notes on
    them; and (channel, note) on what is there twice."""
    groups, twice, parsed = {"": {}}, [], {k: _parse(label) for k, label in labels.items()}
    zeros = {k for k, (x, *_) in parsed.items() if x[:1] == "O" and x not in labels[k].upper()}
    real = {parsed[k][0] for k in labels if k not in zeros}
    if any("03" in x and _parse(x.replace("03", "01"))[0] == "O1" for x in labels.values()):
        real |= {"O1", "O2"}  # inputs have numbers
    parsed |= {k: ("", "", "") for k in zeros if parsed[k][0] in real}
    against = Counter(minus for _, minus, _ in parsed.values())
    alike = {k: (x, named) for k, (x, minus, named) in parsed.items() if x in _SCALP and not minus}
    unlike, notes = _of_one_reference(alike)
    for k, (plus, minus, _) in (parsed | dict.fromkeys(unlike, ("", "", ""))).items():
        if against[plus] >= _COMMON and re.match(r"0[12]\W", labels[k]):  # O1 against it
            plus, minus = f"O{labels[k][1]}", plus
        if plus and (first := groups.setdefault(minus, {}).setdefault(plus, k)) != k:
            twice.append((first, f"{plus} is there twice, {labels[first]!r} and {labels[k]!r}"))
    return groups, notes, twice


def _double_banana(groups: dict[str, dict[str, int]]) -> tuple[dict[int, int], list[str]]:
    """{channel: its sign} of the derivations among such groups, in their order; those absent."""
    derived, absent = {}, []
    for a, b in DOUBLE_BANANA:
        if a in groups.get(b, {}):
            derived[groups[b][a]] = 1
        elif b in groups.get(a, {}):
            derived[groups[a][b]] = -1
        else:
            absent.append(f"{a}-{b}")
    return derived, absent


def _find_electrodes(labels: dict[int, str]) -> tuple:
    """Among {channel: label}: the C channels to read, the matrix (20, C) from them to electrodes,
    {electrode: label}, groups whose median is taken away, and notes. ValueError: none is there."""
    groups, notes, twice = _by_reference(labels)
    heart = {"EKG": groups[""].pop("EKG")} if "EKG" in groups[""] else {}
    sizes = {x: len(g) + (x in ELECTRODES) for x, g in groups.items() if not x or len(g) >= _COMMON}
    zero = max(sizes, key=sizes.get)  # the reference; of two that are equal, the unnamed one
    derived, absent = _double_banana(groups)
    if absent and derived and len(derived) > sizes[zero]:
        lacks = f"without {', '.join(absent)}; wanted all, or a referential one"
        raise ValueError(f"{len(derived)} of 18 derivations of the double banana, {lacks}")
    if absent and not sizes[zero]:
        more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
        wanted = "the recording must be referential, or all 18 derivations of the double banana"
        among = f"no electrode of the 10-20 system among {', '.join([*labels.values()][:10])}{more}"
        raise ValueError(f"{among}; {wanted}")
    bipolar = not absent and sizes[zero] < N_SCALP
    found = heart if bipolar else groups[zero] | heart
    channels = [*(derived if bipolar else ()), *found.values()]
    matrix, names = np.full((len(ELECTRODES), len(channels)), np.nan), dict.fromkeys(ELECTRODES, "")
    if bipolar:
        matrix[:N_SCALP] = 0.0
        matrix[:N_SCALP, : len(derived)] = _POTENTIALS * [*derived.values()]
        for pair, k in zip(DOUBLE_BANANA, derived, strict=True):
            names |= dict.fromkeys(pair, labels[k])
    elif zero in ELECTRODES:
        matrix[ELECTRODES.index(zero)], names[zero] = 0.0, "the reference"
    for name, k in found.items():
        matrix[ELECTRODES.index(name)], names[name] = np.equal(channels, k), labels[k]
    names = {x: label for x, label in names.items() if label}
    scalp = [ELECTRODES.index(x) for x in names if x != "EKG"]
    notes = ([] if bipolar or zero else notes) + [
        f"{text}; the first one is read" for first, text in twice if first in channels
    ]
    return channels, matrix, names, _RINGS if bipolar else [scalp] * (zero in ELECTRODES), notes


def is_self_contained(path: Path) -> bool:
    """By its first bytes an EDF, a BDF or a .parquet, which name no other file to read."""
    with open(path, "rb") as file:
        first = file.read(8)
    return _is_edf(first) or first[:4] == _PARQUET


def _is_edf(first: bytes) -> bool:
    return first.strip(b" \0") == b"0" or first == b"\xffBIOSEMI"


def _open(path: Path) -> "Edf | _Raw":
    """ValueError: a damaged file, or one of an unknown format."""
    formats = "EDF, EDF+, BDF, BrainVision (.vhdr), EEGLAB (.set), the competition's .parquet or "
    formats += "what mne.io.read_raw reads"
    with reading(path, "no recording that can be read", f"wanted {formats}", "no such file"):
        with open(path, "rb") as file:
            first = file.read(8)
    if _is_edf(first):
        with reading(path, "a damaged EDF or BDF", "export it again"):
            return Edf(path)
    if first[:4] == _PARQUET:
        wanted = f"wanted columns of microvolts at 200 Hz, {', '.join(ELECTRODES)}"
        with reading(path, "no EEG of the competition", wanted):
            return _from_parquet(path)
    with reading(path, "no recording that can be read", f"wanted {formats}"):
        if path.suffix.lower() in (".edf", ".bdf", ".rec"):  # MNE would go by the name
            raise ValueError(f"it begins with {first!r}, as no EDF or BDF does")
        import mne

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                raw = mne.io.read_raw(path, preload=False, verbose="warning")
            except (AttributeError, TypeError, LookupError) as error:
                raise ValueError("it is not of the format that its name says") from error
    for said in caught:  # no notes, as they may name files, and patients in these
        warnings.warn(f"{path}: {' '.join(str(said.message).split())[:300]}", stacklevel=3)
    return _Raw(raw, [path, *map(Path, filter(None, raw.filenames))])


def _from_parquet(path: Path) -> "_Raw":
    """Columns of microvolts at 200 Hz, those of `ELECTRODES` that there are."""
    import mne

    schema, n = pq.read_schema(path), pq.read_metadata(path).num_rows
    names = [name for name in ELECTRODES if name in schema.names]
    if not names:
        raise ValueError(f"columns {', '.join(schema.names[:20])}")
    for name in names:
        kind = schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ValueError(f"{name} is of type {kind}")
    if n > _MOST_ROWS:  # all are in memory
        raise ValueError(f"{n:,} rows are over {_MOST_ROWS:,}, two hours; export an EDF")
    volts = pd.read_parquet(path, columns=names).to_numpy(np.float64).T * 1e-6
    types = ["ecg" if name == "EKG" else "eeg" for name in names]
    info = mne.create_info(names, SFREQ_HZ, types)
    return _Raw(mne.io.RawArray(volts, info, verbose="error"), [path])


class _Raw:
    """What MNE reads, in volts: the attributes and `read` of `Edf`; every sample is a record."""

    def __init__(self, raw, files: Sequence[Path] = ()):
        self.raw, self.labels, self.files, self.notes = raw, raw.ch_names, files, []
        self.units, self.n = ["V"] * len(self.labels), [1] * len(self.labels)
        self.odd, date = {}, raw.info["meas_date"]
        self.bad = {k: f"{x} is marked as bad" for k, x in enumerate(self.labels)
                    if x in raw.info["bads"]}  # fmt: skip
        self.start = date and date + timedelta(seconds=float(raw.first_time))
        self.record_s, marks = 1 / Fraction(raw.info["sfreq"]), raw.annotations
        rows = [*zip(marks.onset - raw.first_time, marks.duration, marks.description, strict=True)]
        lost_s = [(t, t + s) for t, s, text in rows if text.upper() == _SKIP]
        rows = [row for row in rows if row[2].upper() != _SKIP]
        self.annotations = pd.DataFrame(rows, columns=COLUMNS)
        hz, n = raw.info["sfreq"], raw.n_times
        joints = {round(t * hz) for t, _, text in rows if _JOINT.search(text)}
        joints = {k for k in joints if 0 < k < n}
        gaps = {tuple(min(max(round(t * hz), 0), n) for t in times) for times in lost_s}
        cuts = pairwise(sorted({0, n}.union(joints, *gaps)))
        spans = [(a, b) for a, b in cuts if not any(x <= a < y for x, y in gaps)]
        self.spans = [(float(a * self.record_s), a, b - a) for a, b in spans]
        if gaps:
            self.notes.append(f"gaps: {(n - sum(b - a for a, b in spans)) / hz:,g} s in all")
        if joints:
            self.notes.append(f"joined of {len(joints) + 1} parts; true times are not known")

    def read(self, channels: Sequence[int], first: int, stop: int) -> np.ndarray:
        return self.raw.get_data([*channels], first, stop, verbose="error").astype(np.float32)
