"""A recording from an EEG machine → raw EEG as the competition's files hold it.

EDF, EDF+ and BDF are known by their first bytes and read here, since MNE closes the gaps of EDF+D,
resamples channels of mixed rates in pieces, and fails at one odd byte; all else is read by MNE.
"""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import signal

from hmsutils.competition import ELECTRODES, SFREQ_HZ, reading
from hmsutils.signals import CHAINS, DOUBLE_BANANA, N_SCALP

# How units are written, as `_unit_v` normalises them → volts.
_UNITS_V = {
    **dict.fromkeys(("v", "volt", "volts"), 1.0),
    **dict.fromkeys(("mv", "millivolt", "millivolts"), 1e-3),
    **dict.fromkeys(("μv", "uv", "microv", "microvolt", "microvolts"), 1e-6),
    **dict.fromkeys(("nv", "nanovolt", "nanovolts"), 1e-9),
}
_ENCODINGS = ("utf-8", "cp437", "cp1253", "shift_jis", "gbk")  # of μ in headers
LOWEST_SFREQ_HZ = 80
_PLAUSIBLE_UV = (0.1, 5000.0)  # the typical standard deviation of a second of EEG
_BLOCK = 600 * SFREQ_HZ  # samples that are read at once
_JITTER_S = 0.02  # of a record's time after the one before; more is a gap
_DRIFT_S = 1.0  # of a slow clock that says so in EDF+D; then its true time is taken
_LONGEST_GAP_S = 31 * 86_400
_BIG_RECORD = 2**24  # bytes; a bigger one is not read as a whole
_HALF_FILTER = 16  # zero crossings on each side
_SKIP = "BAD_ACQ_SKIP"  # MNE's annotation of what was not recorded
_COLUMNS = ["onset_s", "duration_s", "description"]
# Of EDF+: a time, a duration, texts; bounded, so that no search takes quadratic time.
_MARK = re.compile(rb"([+-]%b)(?:\x15(%b)?)?\x14([^\0]*)\0" % ((rb"\d{1,15}(?:\.\d{0,15})?",) * 2))
_DATE = re.compile(rb"(\d\d)\.(\d\d)\.(\d\d)" * 2)
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
_RINGS = [{*CHAINS["LL"], *CHAINS["LP"]}, {*CHAINS["RL"], *CHAINS["RP"]}]
_RINGS = [[ELECTRODES.index(name) for name in ring] for ring in _RINGS]


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
    _source: "_Edf | _Raw" = field(repr=False)
    _channels: list[int] = field(repr=False)
    _matrix: np.ndarray = field(repr=False)  # (20, C): channels → microvolts of electrodes
    _groups: list[list[int]] = field(repr=False)  # electrodes whose median is taken from them

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
        rates = np.array([self._source.n[k] for k in self._channels])
        x = np.full((len(rates), stop - first), np.nan, np.float32)
        for n in np.unique(rates).tolist():
            channels = [self._channels[i] for i in np.flatnonzero(rates == n)]
            chunk = _ratio(SFREQ_HZ * self._source.record_s / n)[1]
            for at in range(first // chunk * chunk, stop, chunk):
                begin, end = max(first, at), min(stop, at + chunk)
                part = self._resample(segment, channels, at, begin, end)
                x[rates == n, begin - first : begin - first + part.shape[1]] = part
        lost = ~np.isfinite(x)
        eeg_uv = self._matrix @ np.where(lost, 0, x)
        if lost.any():
            eeg_uv[(self._matrix != 0).astype(np.float32) @ lost > 0] = np.nan
        for group in self._groups:  # so that none is flat, and no bad electrode spreads
            eeg_uv[group] -= np.median(eeg_uv[group], axis=0)
        return eeg_uv

    def _resample(self, segment: int, channels: list[int], at: int, first: int, stop: int):
        """(C, stop - first) samples of channels of one rate, at 200 Hz; `at` has its true time."""
        source, (_, record, n_records) = self._source, self._source.spans[segment]
        n = source.n[channels[0]]
        exact = SFREQ_HZ * source.record_s / n
        up, down = _ratio(exact)[0].as_integer_ratio()
        there = round(at * up / exact)  # `at`, in samples at `up` times the file's rate
        back = there * pow(down, -1, up) % up  # so many samples before `at` is one of the file
        origin, first, stop = (there - back * down) // up, first - at + back, stop - at + back
        margin = _HALF_FILTER // min(up, down) + 1
        block = max(-(origin // down), first // up - margin)  # `down` samples that become `up`
        to = min(origin + (stop // up + 1 + margin) * down, n_records * n)
        try:
            part = source.read(channels, record * n + origin + block * down, record * n + to)
        except (OSError, ValueError) as error:
            problem = f"changed or removed since it was opened ({error}); open it again"
            raise OSError(f"{self.name}: {problem}") from error
        if up != down:
            taps = _filter(max(up, down))
            part = signal.resample_poly(part, up, down, 1, taps, padtype="edge")
        return part[:, first - block * up :][:, : stop - first]


def _ratio(exact: Fraction) -> tuple[Fraction, int]:
    """`exact`, or of too large numbers one of smaller ones, and how many samples later that is
    1 ms off."""
    small = exact.numerator <= 4096 and exact.denominator <= 2**14
    near = exact if small else exact.limit_denominator(1000)
    return near, int(SFREQ_HZ / 1000 / abs(near / exact - 1)) if near != exact else 2**62


@lru_cache(maxsize=8)
def _filter(longer: int) -> np.ndarray:
    """Flat to .8 of the lower Nyquist frequency; 100 dB lower from 1.2 up."""
    taps = signal.firwin(2 * _HALF_FILTER * longer + 1, 1 / longer, window=("kaiser", 10.0))
    return taps.astype(np.float32)


def read_recording(recording, unit: str | None = None) -> Recording:
    """Open an EDF, EDF+, BDF, BrainVision (.vhdr), EEGLAB (.set) or other file that MNE reads, or
    an `mne.io.BaseRaw`.

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


def _leave_out_slow(name: str, source: "_Edf | _Raw") -> None:
    """Electrodes of too low a rate become bad. ValueError: all of them are so slow."""
    scalp = [k for k, x in enumerate(source.labels) if _parse(x)[0] in _SCALP]
    rates = {k: float(source.n[k] / source.record_s) for k in scalp if k not in source.bad}
    wanted = f"wanted {LOWEST_SFREQ_HZ} Hz or more, as models look at waves of up to 40 Hz"
    slow = [k for k in rates if rates[k] < LOWEST_SFREQ_HZ]
    source.bad |= {k: f"{source.labels[k]} is recorded at {rates[k]:g} Hz, {wanted}" for k in slow}
    if slow and len(slow) == len(rates):
        raise ValueError(f"{name}: {source.bad[slow[0]]}")


def _implausible(found: Recording, unit: str) -> list[str]:
    """What is wrong with the amplitude, judged by about 200 seconds."""
    lengths = [round((stop_s - start_s) * SFREQ_HZ) for start_s, stop_s in found.segments]
    seconds = [(k, at) for k, n in enumerate(lengths) for at in range(0, n - 199, SFREQ_HZ)]
    seconds = seconds[:: len(seconds) // 200 + 1]
    scalp = [ELECTRODES.index(name) for name in found.electrodes if name != "EKG"]
    stds_uv = [np.std(found._read(k, at, at + SFREQ_HZ)[scalp], axis=1) for k, at in seconds]
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
    """Volts of a unit, whatever its case and the encoding of its μ, read as if it were Latin-1;
    None: unknown."""
    raw = text.encode("latin-1", "ignore") or text.encode()
    for decoded in (text, *(raw.decode(encoding, "replace") for encoding in _ENCODINGS)):
        normal = unicodedata.normalize("NFKC", decoded).casefold()
        if normal in _UNITS_V:
            return _UNITS_V[normal]
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


def _is_zero(label: str) -> bool:
    """O1 or O2, written with a zero."""
    match = _LABEL.fullmatch(label.upper().strip())
    return bool(match) and match["plus"] in ("01", "02")


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
        notes.append(
            f"against {' and '.join(used)}: only differences within one side of the head are right"
        )
    if lost := dict.fromkeys(x for x, _ in found.values() if x not in chosen.values()):
        notes.append(f"{', '.join(lost)} left out: not against the reference of most")
    return found.keys() - chosen.keys(), notes


def _find_electrodes(labels: dict[int, str]) -> tuple:
    """Among {channel: label}: the C channels to read, the matrix (20, C) from them to electrodes,
    {electrode: label}, groups whose median is taken away, and notes. ValueError: none is there."""
    groups, twice, parsed = {"": {}}, [], {k: _parse(label) for k, label in labels.items()}
    zeros = {k for k, label in labels.items() if _is_zero(label)}
    real = {parsed[k][0] for k in labels if k not in zeros}
    if any("03" in x and _is_zero(x.replace("03", "01")) for x in labels.values()):
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
    heart = {"EKG": groups[""].pop("EKG")} if "EKG" in groups[""] else {}
    sizes = {x: len(g) + (x in ELECTRODES) for x, g in groups.items() if not x or len(g) >= _COMMON}
    zero = max(sizes, key=sizes.get)  # the reference; of two that are equal, the unnamed one
    derived, absent = {}, []  # {channel: its sign}
    for a, b in DOUBLE_BANANA:
        turned = a not in groups.get(b, {})
        if turned and b not in groups.get(a, {}):
            absent.append(f"{a}-{b}")
        else:
            derived[groups[a][b] if turned else groups[b][a]] = -1 if turned else 1
    if absent and (not sizes[zero] or len(derived) > sizes[zero]):
        if derived:
            problem = f"{len(derived)} of 18 derivations of the double banana"
            raise ValueError(
                f"{problem}, without {', '.join(absent)}; wanted all, or a referential one"
            )
        more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
        wanted = "the recording must be referential, or all 18 derivations of the double banana"
        among = f"no electrode of the 10-20 system among {', '.join([*labels.values()][:10])}{more}"
        raise ValueError(f"{among}; {wanted}")
    bipolar = not absent and sizes[zero] < N_SCALP
    derived, group = derived if bipolar else {}, ({} if bipolar else groups[zero]) | heart
    channels = [*derived, *group.values()]
    matrix, names = np.full((len(ELECTRODES), len(channels)), np.nan), dict.fromkeys(ELECTRODES, "")
    if bipolar:
        matrix[:N_SCALP] = 0.0
        matrix[:N_SCALP, : len(derived)] = _POTENTIALS * [*derived.values()]
        names |= {
            x: labels[k] for pair, k in zip(DOUBLE_BANANA, derived, strict=True) for x in pair
        }
    elif zero in ELECTRODES:
        matrix[ELECTRODES.index(zero)], names[zero] = 0.0, "the reference"
    for name, k in group.items():
        matrix[ELECTRODES.index(name)], names[name] = np.equal(channels, k), labels[k]
    notes = [] if bipolar or zero else notes
    notes += [f"{text}; the first one is read" for first, text in twice if first in channels]
    names = {x: label for x, label in names.items() if label}
    scalp = [ELECTRODES.index(x) for x in names if x != "EKG"]
    return (
        channels,
        matrix,
        names,
        _RINGS if bipolar else [scalp] if zero in ELECTRODES else [],
        notes,
    )


def _open(path: Path) -> "_Edf | _Raw":
    """ValueError: a damaged file, or one of an unknown format."""
    formats = "EDF, EDF+, BDF, BrainVision (.vhdr), EEGLAB (.set) or what mne.io.read_raw reads"
    with reading(path, "no recording that can be read", f"wanted {formats}", "no such file"):
        with open(path, "rb") as file:
            first = file.read(8)
    if first.strip(b" \0") == b"0" or first == b"\xffBIOSEMI":
        with reading(path, "a damaged EDF or BDF", "export it again"):
            return _Edf(path)
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
        return _Raw(raw, [" ".join(str(w.message).split())[:300] for w in caught])


class _Raw:
    """What MNE reads, in volts: the attributes and `read` of `_Edf`; every sample is a record."""

    def __init__(self, raw, notes: Sequence[str] = ()):
        self.raw, self.labels, self.notes = raw, raw.ch_names, [*notes]
        self.units, self.n = ["V"] * len(self.labels), [1] * len(self.labels)
        self.odd, date = {}, raw.info["meas_date"]
        self.bad = {k: f"{x} is marked as bad" for k, x in enumerate(self.labels)
                    if x in raw.info["bads"]}  # fmt: skip
        self.start = date and date + timedelta(seconds=float(raw.first_time))
        self.record_s, marks = 1 / Fraction(raw.info["sfreq"]), raw.annotations
        rows = [*zip(marks.onset - raw.first_time, marks.duration, marks.description, strict=True)]
        lost_s = [(t, t + s) for t, s, text in rows if text.upper() == _SKIP]
        rows = [row for row in rows if row[2].upper() != _SKIP]
        self.annotations = pd.DataFrame(rows, columns=_COLUMNS)
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


class _Edf:
    """The header of an EDF, EDF+ or BDF, and the samples of its channels.

    `n`: samples in a record, by channel; `record_s`; `spans`: (start_s, first record, records)
    without a gap; `bad`, `odd`: {channel: what is wrong with its scale}.
    """

    def __init__(self, path: Path):
        self.path, self.bad, self.odd, self.notes = path, {}, {}, []
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
        shift_s = float(np.nan_to_num(onset_s[0]))  # up to a second
        rows = [(begin_s - shift_s, *rest) for begin_s, *rest in rows]
        self.annotations, self.start = pd.DataFrame(rows, columns=_COLUMNS), None
        date = _DATE.fullmatch(head[168:184])  # None: of anonymised files
        with suppress(ValueError, OverflowError):
            day, month, year, *clock = map(int, date.groups() if date else ())
            start = datetime(year + (1900 if year >= 85 else 2000), month, day, *clock)
            self.start = start + timedelta(seconds=shift_s)

    def _scale(self, k: int, *texts: bytes) -> tuple[float, float]:
        """(gain, offset) of a channel's samples."""
        said = "{} has the physical minimum {} and maximum {}, the digital ones {} and {}"
        said = said.format(self.labels[k], *map(_decode, texts))
        low, high, first, last = map(_float, texts)
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
        there += " there"
        if stated < 0:
            self.notes.append(f"not closed: how long it was is unknown, {there}")
        elif stated > n:
            self.notes.append(f"cut: {lost_s} missing ({1 - n / stated:.0%}), {there}")
        elif stated < n or rest:
            self.notes.append(f"longer than the {stated} records of its header: {there}")
        return n

    def _annotations(self) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
        """(N,) when each record begins, NaN where it does not say, and rows of annotations."""
        onset_s, rows = np.full(self.n_records, np.nan), []
        marks = [k for k, x in enumerate(self.labels) if x[1:] == "DF Annotations"]
        with open(self.path, "rb", buffering=0) as file:
            for record, k in product(range(self.n_records), marks):
                file.seek(self.header + record * self.at[-1] + self.at[k])
                for match in _MARK.finditer(file.read(self.n[k] * self.width) + b"\0"):
                    if match.start() == 0 and k == marks[0]:
                        onset_s[record] = float(match[1])
                    for text in filter(None, match[3].split(b"\x14")):
                        rows.append((float(match[1]), float(match[2] or 0), _decode(text)))
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

    def read(self, channels: Sequence[int], first: int, stop: int) -> np.ndarray:
        """(C, stop - first) float32, in their units, of channels of the same rate."""
        n, size = self.n[channels[0]], self.at[-1]
        (record, skip), n_records = divmod(first, n), -(-stop // n) - first // n
        if size > _BIG_RECORD and n_records > 1:
            cut = (record + 1) * n
            return np.hstack([self.read(channels, first, cut), self.read(channels, cut, stop)])
        x, at = np.empty((len(channels), stop - first), np.float32), record * size
        data = self._bytes(at, n_records * size).reshape(-1, size) if n_records > 1 else None
        for row, k in zip(x, channels, strict=True):
            if data is None:  # only what is needed of one record
                part = self._bytes(at + self.at[k] + skip * self.width, len(row) * self.width)
            else:
                part = data[:, self.at[k] : self.at[k + 1]]
            part, (gain, offset) = _whole_numbers(part, self.width), self.scale[k]
            row[:] = part[0 if data is None else skip :][: len(row)] * gain + offset
        return x

    def _bytes(self, at: int, count: int) -> np.ndarray:
        """Some of those after the header."""
        data = np.fromfile(self.path, np.uint8, count, offset=self.header + at)
        if len(data) < count:
            raise OSError("it became shorter")
        return data


def _whole_numbers(data: np.ndarray, width: int) -> np.ndarray:
    """Bytes → the whole numbers of 2 or 3 bytes that they are."""
    if width == 2:
        return np.ascontiguousarray(data).view("<i2").ravel()
    wide = np.zeros((data.size // 3, 4), np.uint8)
    wide[:, 1:] = data.reshape(-1, 3)
    return wide.view("<i4").ravel() >> 8


def _float(text: bytes) -> float:
    try:
        return float(_decode(text).replace(",", "."))
    except ValueError:
        return np.nan


def _number(text: bytes, what: str) -> float:
    if not np.isfinite(number := _float(text)):
        raise ValueError(f"{what} is {_decode(text)!r}")
    return number


def _decode(text: bytes) -> str:
    """Latin-1 where it is no UTF-8."""
    try:
        return text.decode().strip(" \0")
    except UnicodeDecodeError:
        return text.decode("latin-1").strip(" \0")
