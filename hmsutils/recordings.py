"""A recording from an EEG machine → raw EEG as the competition's files hold it."""

import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np

from hmsutils.competition import ELECTRODES, SFREQ_HZ, reading

_NEW_NAMES = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6", "ECG": "EKG"}
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


def read_edf(path: str | Path, unit: str | None = None) -> np.ndarray:
    """A referential EDF, EDF+ or BDF → (T, 20) float32 microvolts, resampled to 200 Hz, columns as
    in `ELECTRODES`; NaN where there is no such channel, as if it were flat.

    Channels are known by their 10-20 name, old or new, whatever stands around it ("EEG Fp1-Ref");
    others are ignored. `unit` is that of the scalp electrodes, "uV" for example; None: as in the
    header, with a warning where the data contradict it by three orders of magnitude.

    ValueError: MNE cannot read the file, it has no scalp electrode, was recorded at less than 80
    Hz, or the unit of an electrode is blank or unknown and `unit` is not given.
    """
    import mne

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if unit is not None and _unit_v(unit) is None:
        raise ValueError(f"{path}: unit {unit!r} is unknown, wanted one of V, mV, uV, nV")
    broken = path, "no recording that MNE can read", "export it again as EDF"
    with reading(*broken):
        raw = mne.io.read_raw(path, preload=True, verbose="error")
    if (sfreq_hz := raw.info["sfreq"]) < LOWEST_SFREQ_HZ:
        wanted = f"wanted {LOWEST_SFREQ_HZ} Hz or more, as models look at waves of up to 40 Hz"
        raise ValueError(f"{path}: recorded at {sfreq_hz:g} Hz, {wanted}")
    names = {_electrode(name): name for name in reversed(raw.ch_names)}
    found = [k for k, name in enumerate(ELECTRODES) if name in names]
    if not set(found) - {len(ELECTRODES) - 1}:
        problem = f"no electrode of the 10-20 system among {', '.join(raw.ch_names)}"
        raise ValueError(f"{path}: {problem}; the recording must be referential")
    picks = [names[ELECTRODES[k]] for k in found]
    stated, scale_uv = _units(path, raw, picks, unit)
    with reading(*broken):
        raw.pick([raw.ch_names.index(name) for name in picks]).resample(SFREQ_HZ, verbose="error")
        eeg_uv = np.full((raw.n_times, len(ELECTRODES)), np.nan, np.float32)
        eeg_uv[:, found] = raw.get_data().T * scale_uv
    scalp = eeg_uv[:, [k for k in found if ELECTRODES[k] != "EKG"]]
    seconds = scalp[: len(scalp) // SFREQ_HZ * SFREQ_HZ].reshape(-1, SFREQ_HZ, scalp.shape[1])
    std_uv = float(np.median(seconds[:: max(1, len(seconds) // 600)].std(axis=1)))
    if std_uv > 0 and not _PLAUSIBLE_UV[0] <= std_uv <= _PLAUSIBLE_UV[1]:  # flat is only bad
        unit = unit or stated[0]
        shown = f"{std_uv * 1e-6 / _unit_v(unit):,.3g} {unit} ({std_uv:,.3g} µV)"
        problem = f"a second of EEG has a standard deviation of {shown}, which no EEG has"
        remedy = "if the header is wrong, name the unit with unit=… (--unit)"
        warnings.warn(f"{path}: with the unit {unit}, {problem}; {remedy}", stacklevel=2)
    return eeg_uv


def _units(path: str | Path, raw, picks: list[str], unit: str | None) -> tuple[list, list[float]]:
    """Of some channels: their units, as they stand in the header of an EDF or BDF (other formats
    fix them), and by what MNE's volts are multiplied."""
    extras, header = raw._raw_extras[0], {}
    if isinstance(extras, dict) and {"units", "sel"} <= set(extras):  # EDF, BDF
        with open(path, "rb") as file:
            text = file.read(256 * 1024)
        at = 256 + 96 * int(text[252:256])
        units = [text[at + 8 * k :][:8].strip(b" \0").decode("latin-1") for k in extras["sel"]]
        header = dict(zip(raw.ch_names, zip(units, extras["units"], strict=True), strict=True))
    stated, scale_uv = [], []
    for name in picks:
        text, taken_v = header.get(name, ("V", 1.0))  # what MNE took a 1 for
        is_ekg = _electrode(name) == "EKG"  # no model looks at it
        volts = _unit_v(text if is_ekg or unit is None else unit)
        if volts is None and not is_ekg:
            problem = f"the unit of {name} is {text!r}, which is unknown"
            raise ValueError(f'{path}: {problem}; name it with unit=… (--unit), "uV" for example')
        stated.append(text)
        scale_uv.append(np.nan if volts is None else 1e6 * volts / taken_v)
    return stated, scale_uv


def _unit_v(text: str) -> float | None:
    """Volts of a unit, whatever its case and the encoding of its μ, which MNE takes for Latin-1;
    None: unknown."""
    raw = text.encode("latin-1", "ignore") or text.encode()
    for decoded in (text, *(raw.decode(encoding, "replace") for encoding in _ENCODINGS)):
        normal = unicodedata.normalize("NFKC", decoded).casefold()
        if normal in _UNITS_V:
            return _UNITS_V[normal]
    return None


def _electrode(channel: str) -> str:
    """The electrode in a channel's name: "EEG FP1-LE" → "Fp1", "ECG 1" → "EKG"."""
    words = re.split(r"[^A-Z0-9]+", re.sub(r"^(EEG|POL)[ _-]+", "", channel.upper().strip()))
    known = {name.upper(): name for name in ELECTRODES} | _NEW_NAMES
    if len(words) > 1 and words[1] in known:  # a bipolar derivation
        return channel
    return known.get(re.sub(r"(?<=E[KC]G)1$", "", words[0]), channel)
