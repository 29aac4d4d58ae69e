"""Recordings of EEG machines come back in the competition's order, rate and unit."""

import edfio
import numpy as np
import pytest

from hmsutils import recordings
from hmsutils.competition import ELECTRODES


def write_edf(path, eeg_uv, names, sfreq_hz):
    unit = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    signals = [
        edfio.EdfSignal(x, sfreq_hz, label=name, **unit)
        for x, name in zip(eeg_uv.T, names, strict=True)
    ]
    edfio.Edf(signals).write(path)


def test_an_edf_comes_back_in_our_order_rate_and_unit(tmp_path):
    t = np.arange(60 * 256) / 256
    names = [f"EEG {name.upper()}-Ref" for name in ELECTRODES[:-1]][::-1]
    new = {"EEG T3-Ref": "EEG T7-Ref", "EEG T5-Ref": "EEG P7-LE", "EEG CZ-Ref": "Cz"}
    names = [new.get(name, name) for name in names] + ["ECG 1", "Photic"]
    hz = np.arange(1, 22) / 2
    write_edf(tmp_path / "r.edf", 100 * np.sin(2 * np.pi * hz * t[:, None]), names, 256)
    eeg_uv = recordings.read_edf(tmp_path / "r.edf")
    assert eeg_uv.shape == (12_000, 20) and eeg_uv.dtype == np.float32
    ours = np.r_[hz[:19][::-1], hz[19]]
    wanted = 100 * np.sin(2 * np.pi * ours * np.arange(12_000)[:, None] / 200)
    np.testing.assert_allclose(eeg_uv[400:-400], wanted[400:-400], atol=1.0)


def test_an_edf_without_ekg_has_nan_there_and_without_an_electrode_is_refused(tmp_path):
    x = np.random.default_rng(0).normal(0, 20, (2000, 19))
    write_edf(tmp_path / "r.edf", x, ELECTRODES[:-1], 200)
    eeg_uv = recordings.read_edf(tmp_path / "r.edf")
    assert np.isnan(eeg_uv[:, -1]).all() and np.isfinite(eeg_uv[:, :-1]).all()
    write_edf(tmp_path / "bad.edf", x, ["Fp1-F7", *ELECTRODES[1:-1]], 200)
    with pytest.raises(ValueError, match="bad.edf: no electrode Fp1 among Fp1-F7, F3"):
        recordings.read_edf(tmp_path / "bad.edf")
    with pytest.raises(FileNotFoundError, match="none.edf"):
        recordings.read_edf(tmp_path / "none.edf")
