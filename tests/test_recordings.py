"""Recordings of EEG machines come back in the competition's order, rate and unit."""

import warnings

import edfio
import numpy as np
import pytest

from hmsutils import __main__, recordings, signals
from hmsutils.competition import ELECTRODES


def write_edf(path, eeg_uv, names, sfreq_hz, unit="uV", physical=3e3):
    """An EDF; `unit` is 8 bytes of the header, as they are."""
    settings = {"physical_dimension": "uV", "physical_range": (-physical, physical)}
    signals_ = [
        edfio.EdfSignal(x, sfreq_hz, label=name, **settings)
        for x, name in zip(eeg_uv.T, names, strict=True)
    ]
    edfio.Edf(signals_).write(path)
    header, n = bytearray(path.read_bytes()), len(names)
    unit = unit if isinstance(unit, bytes) else unit.encode()
    header[256 + 96 * n : 256 + 104 * n] = unit.ljust(8) * n
    path.write_bytes(header)


@pytest.fixture
def eeg_uv(rng):
    return rng.normal(0, 20, (2000, 20))


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


@pytest.mark.parametrize("missing", ["EKG", "Fz", "Fp1"])
def test_a_missing_channel_is_nan_and_is_repaired_like_a_flat_one(tmp_path, eeg_uv, missing):
    k = ELECTRODES.index(missing)
    names = [name if name != missing else f"{name}-F7" for name in ELECTRODES]
    write_edf(tmp_path / "r.edf", eeg_uv, names, 200)
    found = recordings.read_edf(tmp_path / "r.edf")
    assert np.isnan(found[:, k]).all() and np.isfinite(np.delete(found, k, axis=1)).all()
    flat = found.copy()
    flat[:, k] = 3.0
    pair = np.stack([found.T, flat.T])
    repaired, quality = signals.repair_with_quality(pair)
    np.testing.assert_allclose(repaired[0], repaired[1], atol=1e-4)
    assert quality.replaced[:, k].all() and quality.problems() == ["", ""]


def test_a_recording_without_electrodes_is_refused(tmp_path, eeg_uv):
    names = [f"{a}-{b}" for a, b in zip(ELECTRODES[:3], ELECTRODES[1:4], strict=True)]
    write_edf(tmp_path / "bad.edf", eeg_uv[:, :3], names, 200)
    with pytest.raises(ValueError, match="bad.edf: no electrode of the 10-20 system among Fp1-F3"):
        recordings.read_edf(tmp_path / "bad.edf")
    for path in (tmp_path / "none.edf", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            recordings.read_edf(path)


MICRO = ["uV", "UV", "uv", "microV", "µV", "μV", b"\xb5V", b"\xe6V", b"\x83\xcaV"]


@pytest.mark.parametrize("unit", MICRO)
def test_microvolts_are_understood_however_they_are_written(tmp_path, eeg_uv, unit):
    write_edf(tmp_path / "r.edf", eeg_uv, ELECTRODES, 200, unit)
    np.testing.assert_allclose(recordings.read_edf(tmp_path / "r.edf"), eeg_uv, atol=0.1)


@pytest.mark.parametrize("unit, scale", [("mV", 1e3), ("mv", 1e3), ("V", 1e6), ("nV", 1e-3)])
def test_other_units_are_converted_and_one_that_no_eeg_has_is_named(tmp_path, eeg_uv, unit, scale):
    physical = 3e3 / scale
    write_edf(tmp_path / "r.edf", eeg_uv / scale, ELECTRODES, 200, unit, physical)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(recordings.read_edf(tmp_path / "r.edf"), eeg_uv, atol=0.1)
    write_edf(tmp_path / "wrong.edf", eeg_uv, ELECTRODES, 200, unit)
    with pytest.warns(UserWarning, match=rf"wrong.edf: with the unit {unit}, .* 20\.?\d* {unit}"):
        recordings.read_edf(tmp_path / "wrong.edf")


@pytest.mark.parametrize("unit", ["", "%", "uV/cm", "counts"])
def test_an_unknown_unit_is_refused_unless_it_is_named(tmp_path, eeg_uv, unit):
    write_edf(tmp_path / "r.edf", eeg_uv, ELECTRODES, 200, unit)
    with pytest.raises(ValueError, match=rf"r.edf: the unit of Fp1 is '{unit}', .*\(--unit\)"):
        recordings.read_edf(tmp_path / "r.edf")
    named = recordings.read_edf(tmp_path / "r.edf", unit="uV")
    np.testing.assert_allclose(named[:, :19], eeg_uv[:, :19], atol=0.1)
    with pytest.raises(ValueError, match="unit 'parsec' is unknown, wanted one of V, mV, uV, nV"):
        recordings.read_edf(tmp_path / "r.edf", unit="parsec")


def test_the_command_refuses_a_short_recording_by_its_name(tmp_path, eeg_uv, capsys):
    write_edf(tmp_path / "short.edf", eeg_uv, ELECTRODES, 200)
    with pytest.raises(SystemExit):
        __main__.main(["predict", str(tmp_path / "short.edf"), "--out", str(tmp_path / "x.csv")])
    assert "short.edf: 10 s long, wanted 50 s or more" in capsys.readouterr().err


def test_a_split_is_no_matter_of_a_recording(tmp_path, eeg_uv, capsys):
    write_edf(tmp_path / "r.edf", eeg_uv, ELECTRODES, 200)
    with pytest.raises(SystemExit) as error:
        __main__.main(["predict", str(tmp_path / "r.edf"), "--split", "test"])
    assert error.value.code == 2 and "--split test is that of a comp" in capsys.readouterr().err
