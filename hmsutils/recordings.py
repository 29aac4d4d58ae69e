"""A recording from an EEG machine → raw EEG as the competition's files hold it."""

import re
from pathlib import Path

import numpy as np

from hmsutils.competition import ELECTRODES, SFREQ_HZ

_NEW_NAMES = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6", "ECG": "EKG"}


def read_edf(path: str | Path) -> np.ndarray:
    """A referential EDF, EDF+ or BDF → (T, 20) float32 microvolts, resampled to 200 Hz, columns as
    in `ELECTRODES`; the EKG is NaN where there is none.

    Channels are known by their 10-20 name, old or new, whatever stands around it ("EEG Fp1-Ref");
    others are ignored. ValueError: MNE cannot read the file, or it lacks a scalp electrode.
    """
    import mne

    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        raw = mne.io.read_raw(path, preload=True, verbose="error")
    except Exception as error:  # whatever is wrong inside, the file must be named
        raise ValueError(f"{path}: no recording that MNE can read ({error})") from error
    names = {_electrode(name): name for name in reversed(raw.ch_names)}
    if missing := [name for name in ELECTRODES[:-1] if name not in names]:  # EKG is optional
        raise ValueError(
            f"{path}: no electrode {', '.join(missing)} among {', '.join(raw.ch_names)}; the "
            f"recording must be referential and hold the 19 electrodes of the 10-20 system"
        )
    found = [k for k, name in enumerate(ELECTRODES) if name in names]
    picks = [names[ELECTRODES[k]] for k in found]
    raw.pick(picks).resample(SFREQ_HZ, verbose="error")
    eeg_uv = np.full((raw.n_times, len(ELECTRODES)), np.nan, np.float32)
    eeg_uv[:, found] = raw.get_data(picks=picks).T * 1e6
    return eeg_uv


def _electrode(channel: str) -> str:
    """The electrode in a channel's name: "EEG FP1-LE" → "Fp1", "ECG 1" → "EKG"."""
    words = re.split(r"[^A-Z0-9]+", re.sub(r"^(EEG|POL)[ _-]+", "", channel.upper().strip()))
    known = {name.upper(): name for name in ELECTRODES} | _NEW_NAMES
    if len(words) > 1 and words[1] in known:  # a bipolar derivation
        return channel
    return known.get(re.sub(r"(?<=E[KC]G)1$", "", words[0]), channel)
