"""Recordings of EEG machines come back in the competition's order, rate and unit or are refused."""

import itertools
import time
import warnings
from datetime import datetime

import edfio
import mne
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.signal

from hmsutils import __main__, edf, kernels, recordings, signals
from hmsutils.competition import ELECTRODES
from hmsutils.recordings import read_recording


def write_edf(path, eeg_uv, names, sfreq_hz, unit="uV", physical=3e3, bdf=False, **more):
    """An EDF or BDF; `unit` is 8 bytes of the header, as they are."""
    settings = {"physical_dimension": "uV", "physical_range": (-physical, physical)}
    make, whole = (edfio.BdfSignal, edfio.Bdf) if bdf else (edfio.EdfSignal, edfio.Edf)
    signals_ = [
        make(x, sfreq_hz, label=name, **settings)
        for x, name in zip(np.transpose(eeg_uv), names, strict=True)
    ]
    whole(signals_, **more).write(path.with_suffix(".bdf" if bdf else ".edf"))
    path.with_suffix(".bdf" if bdf else ".edf").rename(path)
    unit = unit if isinstance(unit, bytes) else unit.encode()
    n = int(path.read_bytes()[252:256])
    change(path, 256 + 96 * n, unit.ljust(8) * len(names))


def change(path, at, new):
    """Put other bytes into a file."""
    body = bytearray(path.read_bytes())
    body[at : at + len(new)] = new
    path.write_bytes(body)


def read(path, **options):
    return read_recording(path, **options).read()


@pytest.fixture
def eeg_uv(rng):
    return rng.normal(0, 20, (2000, 20))


def smooth(rng, seconds, sfreq_hz, n=20):
    """(T, n) microvolts of waves up to 30 Hz, at any rate."""
    t_s = np.arange(round(seconds * sfreq_hz))[:, None, None] / sfreq_hz
    hz, phase = rng.uniform(0.5, 30, (2, n, 4))
    return 10 * np.sin(2 * np.pi * (hz * t_s + phase)).sum(axis=-1)


@pytest.mark.parametrize("bdf, sfreq_hz", [(False, 256), (True, 512), (False, 100), (True, 2048)])
def test_a_recording_comes_back_in_our_order_rate_and_unit(tmp_path, rng, bdf, sfreq_hz):
    wanted = smooth(np.random.default_rng(1), 20, 200)[:, ::-1]
    names = [f"EEG {name.upper()}-Ref" for name in ELECTRODES[:-1]][::-1]
    new = {"EEG T3-Ref": "EEG T7-Ref", "EEG T5-Ref": "EEG P7-Ref", "EEG CZ-Ref": "Cz"}
    names = ["ECG 1"] + [new.get(name, name) for name in names] + ["Photic"]
    eeg_uv = smooth(np.random.default_rng(1), 20, sfreq_hz)
    write_edf(tmp_path / "x", np.column_stack([eeg_uv, eeg_uv[:, 0]]), names, sfreq_hz, bdf=bdf)
    recording = read_recording(tmp_path / "x")
    found = recording.read()
    assert recording.sfreq_hz == sfreq_hz and recording.duration_s == 20 and not recording.missing
    assert recording.electrodes["T3"] == "EEG T7-Ref" and recording.notes == ()
    assert found.shape == (4000, 20) and found.dtype == np.float32
    np.testing.assert_allclose(found[100:-100], wanted[100:-100], atol=0.3)


def test_every_channel_may_have_its_own_rate(tmp_path):
    wanted = smooth(np.random.default_rng(1), 20, 200)
    rates = [128, 200, 256, 500] * 5
    parts = [smooth(np.random.default_rng(1), 20, hz)[:, k] for k, hz in enumerate(rates)]
    unit = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    channels = zip(parts, rates, ELECTRODES, strict=True)
    edfio.Edf([edfio.EdfSignal(x, hz, label=name, **unit) for x, hz, name in channels]).write(
        tmp_path / "x.edf"
    )
    assert read_recording(tmp_path / "x.edf").sfreq_hz == 500
    np.testing.assert_allclose(read(tmp_path / "x.edf")[100:-100], wanted[100:-100], atol=0.3)


@pytest.mark.parametrize("sfreq_hz", [200, 256, 512])
def test_pieces_joined_are_the_whole(tmp_path, rng, sfreq_hz, monkeypatch):
    write_edf(tmp_path / "x.edf", rng.normal(900, 50, (63 * sfreq_hz, 20)), ELECTRODES, sfreq_hz)
    recording = read_recording(tmp_path / "x.edf")
    whole, joined = recording.read(), np.full((12_600, 20), np.nan)
    for start_s, piece in recording.pieces(7.105, overlap_s=1):
        joined[round(start_s * 200) :][: len(piece)] = piece
    np.testing.assert_allclose(joined, whole, atol=0.01)
    np.testing.assert_allclose(recording.read(3.3, 9.815), whole[660:1963], atol=0.01)
    monkeypatch.setattr(recordings, "_BLOCK", 999)
    np.testing.assert_allclose(recording.read(), whole, atol=0.01)
    for wrong in ((-1, 5), (5, 5), (0, 64), (np.nan, 5)):
        with pytest.raises(ValueError, match="x.edf: read from .* wanted a part of 0 to 63 s"):
            recording.read(*wrong)
    with pytest.raises(ValueError, match="x.edf: pieces of 5 s that overlap by 5 s"):
        next(recording.pieces(5, 5))


def with_gaps(path, eeg_uv, onsets_s, sfreq_hz=200, kind=b"EDF+D", **more):
    """An EDF+D of records of 10 s that begin at some times."""
    note = edfio.EdfAnnotation(3, None, "eyes open")
    write_edf(
        path, eeg_uv, ELECTRODES, sfreq_hz, data_record_duration=10, annotations=[note], **more
    )
    body = bytearray(path.read_bytes())
    body[192:197] = kind
    size = 2 * int(body[256 + 216 * 21 :][8 * 20 : 8 * 21])  # of the annotations, which come last
    record = (len(body) - 256 * 22) // len(onsets_s)
    for k, onset_s in enumerate(onsets_s):
        at = 256 * 22 + (k + 1) * record - size
        _, _, rest = bytes(body[at : at + size]).partition(b"\0")
        body[at : at + size] = (b"+%.12g\x14\x14\0" % onset_s + rest.rstrip(b"\0")).ljust(
            size, b"\0"
        )
    path.write_bytes(body)


@pytest.mark.parametrize("kind", [b"EDF+D", b"EDF+C"])
def test_gaps_are_kept(tmp_path, rng, kind):
    eeg_uv = smooth(rng, 80, 200)
    onsets_s = [0, 10, 20, 30, 1840, 1850, 1860, 1870]
    with_gaps(tmp_path / "x.edf", eeg_uv, onsets_s, kind=kind)
    with pytest.warns(UserWarning, match="x.edf: gaps: 1, 1,800 s in all"):
        recording = read_recording(tmp_path / "x.edf")
    assert recording.segments == ((0, 40), (1840, 1880)) and recording.duration_s == 1880
    found = recording.read()
    assert np.isnan(found[8000:368_000]).all()
    np.testing.assert_allclose(found[:8000], eeg_uv[:8000], atol=0.1)
    np.testing.assert_allclose(found[368_000:], eeg_uv[8000:], atol=0.1)
    assert [t for t, _ in recording.pieces(30)] == [0, 30, 1840, 1870]
    raw = recording.to_raw()
    assert list(raw.annotations.description) == ["eyes open", "BAD_ACQ_SKIP"]
    assert raw.annotations.onset[1] == 40 and raw.annotations.duration[1] == 1800
    if kind == b"EDF+D":
        raw.save(tmp_path / "x_raw.fif", verbose="error")
        for given in (raw, tmp_path / "x_raw.fif"):
            with pytest.warns(UserWarning, match="gaps: 1,800 s in all"):
                back = read_recording(given)
            assert back.segments == recording.segments and len(back.annotations) == 1
            np.testing.assert_allclose(back.read()[368_000:], eeg_uv[8000:], atol=0.1)


@pytest.mark.parametrize("sign, what", [(1, "gaps"), (-1, "overlaps")])
def test_small_shifts_of_records_do_not_add_up(tmp_path, rng, sign, what):
    onsets_s = [10 * k + sign * 0.018 * k for k in range(60)]
    with_gaps(tmp_path / "x.edf", smooth(rng, 600, 100), onsets_s, 100)
    with pytest.warns(UserWarning, match=f"x.edf: {what}: 1, 1.008 s in all"):
        recording = read_recording(tmp_path / "x.edf")
    starts_s = [begin_s for begin_s, _ in recording.segments]
    np.testing.assert_allclose(starts_s, onsets_s[::56], atol=0.0051)
    with_gaps(tmp_path / "y.edf", smooth(rng, 120, 100), onsets_s[:12], 100)
    assert len(read_recording(tmp_path / "y.edf").segments) == 1  # a clock that is a little slow
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(recording.segments))


def test_resampling_is_that_of_scipy(rng):
    x = rng.normal(0, 20, (2, 2560)).astype(np.float32)
    taps = scipy.signal.firwin(2 * 16 * 32 + 1, 1 / 32, window=("kaiser", 10.0))
    wanted = scipy.signal.resample_poly(x, 25, 32, 1, taps, padtype="edge")
    at, taps = 1.28 * np.arange(2000), recordings._TAPS
    found = kernels.interpolate(x, at, 1.28, taps, recordings._ZEROS)
    np.testing.assert_allclose(found, wanted, atol=1e-3)


RATES = [499.907, 1000.3, 200.001, 80.013, 32768, 24414.0625]


@pytest.mark.parametrize("sfreq_hz", RATES)
def test_no_rate_makes_times_drift(sfreq_hz):
    seconds = 600 if sfreq_hz < 2000 else 60
    t_s = np.arange(int(seconds * sfreq_hz)) / sfreq_hz
    info = mne.create_info(["Fp1"], sfreq_hz, "eeg")
    raw = mne.io.RawArray(20e-6 * np.sin(2 * np.pi * 5 * t_s)[None], info, verbose="error")
    with pytest.warns(UserWarning, match="no channel of"):
        found = read(raw)[:, 0]
    wanted = 20 * np.sin(2 * np.pi * 5 * np.arange(len(found)) / 200)
    assert len(found) >= seconds * 200 - 2
    assert np.abs(found - wanted)[100:-100].max() < 20 * 2 * np.pi * 5 * 0.005
    assert np.isfinite(found).all()


def test_a_record_of_an_odd_duration_has_its_true_length(tmp_path, rng):
    write_edf(tmp_path / "x.edf", rng.normal(0, 20, (60_000, 20)), ELECTRODES, 200)
    change(tmp_path / "x.edf", 244, b"1.0004  ")
    recording = read_recording(tmp_path / "x.edf")
    assert recording.duration_s == 300.12 and np.isfinite(recording.read()).all()


def test_records_31_days_apart_are_refused(tmp_path, eeg_uv):
    with_gaps(tmp_path / "x.edf", np.tile(eeg_uv, (2, 1)), [0, 10**8])
    with pytest.raises(ValueError, match="x.edf: .*skip 31 days"):
        read_recording(tmp_path / "x.edf")


def test_a_start_that_no_calendar_has_is_none(tmp_path, eeg_uv):
    with_gaps(tmp_path / "x.edf", eeg_uv, [4 * 10**11], kind=b"EDF+C")
    assert read_recording(tmp_path / "x.edf").start is None
    write_edf(tmp_path / "y.edf", eeg_uv, ELECTRODES, 200)
    change(tmp_path / "y.edf", 168, b"xx.xx.yy10.05.00")
    assert read_recording(tmp_path / "y.edf").start is None


def test_annotations_beyond_the_recording_are_cut_and_searched_in_linear_time(tmp_path, eeg_uv):
    notes = [edfio.EdfAnnotation(3, 1e11, "x"), edfio.EdfAnnotation(1e12, None, "y" * 20_000)]
    write_edf(tmp_path / "x.edf", eeg_uv, ELECTRODES, 200, annotations=notes)
    raw = read_recording(tmp_path / "x.edf").to_raw()
    assert raw.annotations.description.tolist() == ["x"] and raw.annotations.duration[0] == 7
    began_s = time.process_time()
    assert not edf._MARK.findall(b"+" + b"1" * 40_000)
    assert time.process_time() - began_s < 0.5


def test_a_huge_record_is_read_in_parts(tmp_path, eeg_uv, monkeypatch):
    write_edf(tmp_path / "x.edf", eeg_uv, ELECTRODES, 200, data_record_duration=5)
    np.testing.assert_allclose(read(tmp_path / "x.edf"), eeg_uv, atol=0.1)
    recording, counts, plain = read_recording(tmp_path / "x.edf"), [], edf._whole_numbers
    monkeypatch.setattr(edf, "_whole_numbers", lambda x: counts.append(x.size) or plain(x))
    np.testing.assert_allclose(recording.read(4.5, 4.7), eeg_uv[900:940], atol=0.1)
    assert sum(counts) == 2 * 20 * 40  # bytes
    (tmp_path / "x.edf").unlink()
    with pytest.raises(OSError, match="x.edf: changed or removed since it was opened"):
        recording.read()


def test_one_channel_beyond_all_numbers_costs_no_other(tmp_path, eeg_uv):
    volts = eeg_uv.T * 1e-6
    volts[19, 100:300] = np.inf
    info = mne.create_info(list(ELECTRODES), 200, "eeg")
    lost = np.isnan(read(mne.io.RawArray(volts, info, verbose="error"))).sum(axis=0)
    assert lost.tolist() == [0] * 19 + [200]
    with pytest.warns(UserWarning, match="raw: no second that was looked at has EEG"):
        read_recording(mne.io.RawArray(volts * np.nan, info, verbose="error"))
    write_edf(tmp_path / "x.edf", eeg_uv, ELECTRODES, 200)
    change(tmp_path / "x.edf", 256 + 112 * 20 + 8, b"1e308   ")
    with pytest.warns(UserWarning, match="F3 has the physical .* it is left out"):
        assert np.isfinite(read(tmp_path / "x.edf")).all(axis=0).tolist() == [
            x != "F3" for x in ELECTRODES
        ]


def found_among(labels):
    """{electrode: label}, notes."""
    _, _, names, _, notes = recordings._find_electrodes(dict(enumerate(labels)))
    return names, notes


def test_electrodes_of_another_reference_are_left_out():
    scalp = ELECTRODES[:-1]
    mixed = [f"{x}-{'REF' if k < 7 else 'AVG'}" for k, x in enumerate(scalp)]
    names, notes = found_among([*mixed, "EKG"])
    assert [*names] == [*scalp[7:], "EKG"]
    assert notes == [f"{', '.join(scalp[:7])} left out: not against the reference of most"]
    assert len(found_among([*(f"{x}-AVG" for x in scalp[:9]), *scalp[9:]])[0]) == 19
    ears = [f"{x}-A{1 if x[-1] in '1357' else 2}" for x in scalp]
    names, notes = found_among(ears)
    assert len(names) == 19 and "against A1 and A2: only differences within one side" in notes[0]
    names, notes = found_among([x.replace("Cz-A2", "Cz-A1") for x in ears])
    assert len(names) == 18 and notes[1].startswith("Cz left out")


def test_inputs_with_numbers_are_no_electrodes():
    for labels in ([f"EEG {k:02d}" for k in range(1, 33)], ["CH001", "CH101", "CH02", "Oz"]):
        with pytest.raises(ValueError, match="no electrode"):
            found_among(labels)
    names, _ = found_among(["EEG 01", "EEG 02", *ELECTRODES])
    assert names["O1"] == "O1" and names["O2"] == "O2"
    with pytest.raises(ValueError, match="X9 and 490 more; the recording"):
        found_among([f"X{k}" for k in range(500)])


def test_one_electrode_makes_no_referential_recording_of_derivations():
    pairs = ["-".join(pair) for pair in signals.DOUBLE_BANANA[:16]]
    with pytest.raises(
        ValueError, match="16 of 18 derivations .* without Fz-Cz, Cz-Pz; wanted all"
    ):
        found_among([*pairs, "Cz"])


def test_of_two_channels_that_with_volts_and_enough_rate_is_read(tmp_path, eeg_uv):
    unit = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    channels = [edfio.EdfSignal(x, 200, label=f"EEG {n}-Ref", **unit)
                for x, n in zip(eeg_uv.T, ELECTRODES, strict=True)]  # fmt: skip
    for hz in (1, 200):
        sat = edfio.EdfSignal(np.full(10 * hz, 97.0), hz, label="O2", physical_dimension="%",
                              physical_range=(0, 100))  # fmt: skip
        edfio.Edf([sat, *channels]).write(tmp_path / "x.edf")
        with pytest.warns(UserWarning, match="O2 is recorded at 1 Hz|O2 is there twice, 'EEG O2"):
            np.testing.assert_allclose(read(tmp_path / "x.edf"), eeg_uv, atol=0.1)


@pytest.mark.parametrize("wrong", [None, b"x.edf", np.zeros((3, 3))])
def test_what_is_no_recording_is_named(wrong):
    with pytest.raises(ValueError, match="a recording of .*wanted the path of a file"):
        read_recording(wrong)
    info = mne.create_info(["Fp1"], 200, "eeg")
    with pytest.raises(ValueError, match="raw: 0.015 s of EEG, wanted 1 s or more"):
        read_recording(mne.io.RawArray(np.zeros((1, 3)), info, verbose="error"))


def test_records_without_an_order_are_refused_where_gaps_are_announced(tmp_path, eeg_uv):
    with_gaps(tmp_path / "x.edf", np.tile(eeg_uv, (2, 1)), [0, 5])
    with pytest.raises(ValueError, match="x.edf: .*no times, or go back in time"):
        read_recording(tmp_path / "x.edf")


@pytest.mark.parametrize("cut", ["record", "inside", "open", "open inside"])
def test_what_is_left_of_a_cut_file_is_read(tmp_path, rng, cut):
    eeg_uv, path = rng.normal(0, 20, (20_000, 20)), tmp_path / "x.edf"
    write_edf(path, eeg_uv, ELECTRODES, 200)
    record = 20 * 200 * 2
    path.write_bytes(path.read_bytes()[: 256 * 21 + 40 * record + 3001 * ("inside" in cut)])
    if "open" in cut:
        change(path, 236, b"-1      ")
    lost = "not closed.* 40 s are there" if "open" in cut else r"60 s are missing \(60%\), 40 s are"
    with pytest.warns(UserWarning, match=f"x.edf: .*{lost}"):
        recording = read_recording(path)
    np.testing.assert_allclose(recording.read(), eeg_uv[:8000], atol=0.1)
    path.write_bytes(path.read_bytes()[: 256 * 21 + 5])
    with pytest.raises(ValueError, match="x.edf: a damaged EDF or BDF .*5 bytes of data"):
        read_recording(path)


HEADER = {
    "physical": (104, b"5       "),
    "digital": (120, b"7       "),
    "samples": (216, b"0       "),
}


@pytest.mark.parametrize("field", HEADER)
def test_a_channel_without_a_scale_or_samples_is_left_out_and_named(tmp_path, eeg_uv, field):
    at, path = HEADER[field][0], tmp_path / "x.edf"
    write_edf(path, np.column_stack([eeg_uv, eeg_uv]), [*ELECTRODES, *(["P"] * 20)], 200)
    for low in (at, at + 8) if field != "samples" else (at,):
        change(path, 256 + low * 40 + 8, HEADER[field][1])
    if field == "samples":
        change(path, 256 + 216 * 40 + 8 * 30, b"400     ")  # the records are as long
        with pytest.warns(UserWarning, match="F3 has no samples, .*; it is left out"):
            recording = read_recording(path)
    else:
        with pytest.warns(UserWarning, match="F3 has the physical minimum .*; it is left out"):
            recording = read_recording(path)
    assert recording.missing == ("F3",) and np.isnan(recording.read()[:, 1]).all()
    for low in (at, at + 8):
        change(path, 256 + low * 40, HEADER[field][1] * 20)
    with pytest.raises(ValueError, match="x.edf: no electrode .* has "):
        read_recording(path)


def test_swapped_physical_limits_invert_the_polarity(tmp_path, eeg_uv):
    write_edf(tmp_path / "x.edf", eeg_uv, ELECTRODES, 200)
    change(tmp_path / "x.edf", 256 + 104 * 20, b"3000    ")
    change(tmp_path / "x.edf", 256 + 112 * 20, b"-3000   ")
    with pytest.warns(UserWarning, match="Fp1 has the physical minimum 3000 .*inverted"):
        found = read(tmp_path / "x.edf")
    np.testing.assert_allclose(found, eeg_uv * np.r_[-1, [1] * 19], atol=0.1)


@pytest.mark.parametrize("damage", ["annotation", "patient", "comma", "label", "date"])
def test_an_odd_byte_costs_no_recording(tmp_path, eeg_uv, damage):
    path, note = tmp_path / "x.edf", edfio.EdfAnnotation(3, 2, "Kopf gehoben")
    names = [*ELECTRODES, "Ohr"]
    eeg_uv = np.column_stack([eeg_uv, eeg_uv[:, 0]])
    start = {"recording": edfio.Recording(startdate=datetime(2024, 5, 6).date())}
    write_edf(path, eeg_uv, names, 200, annotations=[note], **start)
    body = path.read_bytes()
    where = {
        "annotation": (body.index(b"Kopf"), b"K\xf6pf"), "patient": (20, b"M\xfcller \x80"),
        "comma": (244, b"1,000000"), "label": (256 + 16 * 20, b"\xd6hr"),
        "date": (168, b"xx.xx.xx"),
    }  # fmt: skip
    change(path, *where[damage])
    recording = read_recording(path)
    np.testing.assert_allclose(recording.read(), eeg_uv[:, :20], atol=0.1)
    text = "Köpf gehoben" if damage == "annotation" else "Kopf gehoben"
    assert recording.annotations.values.tolist() == [[3, 2, text]]
    assert recording.start == (None if damage == "date" else datetime(2024, 5, 6))


@pytest.mark.parametrize("missing", ["EKG", "Fz", "Fp1"])
def test_a_missing_channel_is_nan_and_is_repaired_like_a_flat_one(tmp_path, eeg_uv, missing):
    k = ELECTRODES.index(missing)
    names = [name if name != missing else f"{name}-F7" for name in ELECTRODES]
    write_edf(tmp_path / "r.edf", eeg_uv, [x.replace("EKG-F7", "SpO2") for x in names], 200)
    found = read(tmp_path / "r.edf")
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
    with pytest.raises(
        ValueError, match="bad.edf: 3 of 18 derivations of the double banana, without Fp1-F7"
    ):
        read_recording(tmp_path / "bad.edf")
    write_edf(tmp_path / "slow.edf", eeg_uv, ELECTRODES, 50)
    with pytest.raises(
        ValueError, match="slow.edf: Fp1 is recorded at 50 Hz, wanted 80 Hz or more"
    ):
        read_recording(tmp_path / "slow.edf")
    with pytest.raises(FileNotFoundError, match="none.edf: no such file; wanted EDF"):
        read_recording(tmp_path / "none.edf")
    with pytest.raises(ValueError, match="a folder or a pipe.*wanted EDF"):
        read_recording(tmp_path)


STYLES = [
    "Fp1", "FP1", "fp1", "EEG Fp1", "EEG Fp1-Ref", "EEG FP1-REF", "EEG FP1-LE", "POL Fp1", "Fp1-A1",
    "Fp1 (Fp1-Ref)", "FP1REF", "FP1A2", "EEGFp1", "EEGFP1REF", "1 Fp1", "01-Fp1", "12: Fp1",
    "EEG.Fp1", "EEG_Fp1", "EEG:Fp1", "EEG-Fp1", "[Fp1]", "EEG [Fp1]", "Fp1.", "Fp1..", "Fp1_Ref",
    "Fp1 Ref", "Fp1/Ref", "Fp1:A2", "Fp1-M2", "Fp1-A1A2", "Fp1-A1+A2", "Fp1-(A1+A2)/2", "Fp1 - Ref",
    "Fp1-AVG", "Fp1 AV", "Fp1-0", "EEG Fp1-REF1", "Ch1 Fp1", "CH 1: Fp1", "Fp1(Ref)",
    "1 EEG Fp1-Ref",
]  # fmt: skip
FRIENDS = [
    "O2 Sat", "O2-Sat", "T3 temp", "SpO2", "SaO2", "EtCO2", "F3 Hz", "PO2", "CO2", "O2%", "O2 flow",
    "EOG F7", "EMG T3", "Fpz", "Oz", "A1", "EEG 1", "EEG 12", "F9", "T1", "DC01", "POL E", "EEG",
    "ECG HR", "EKG rate", "REF", "C3PO", "EDF Annotations", "",
]  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_electrodes_are_known_in_any_style(style):
    assert recordings._parse(style)[:2] == ("Fp1", "")
    # O1 may be written with a zero; a new name stands for an old one
    number = style[:1].isdigit()
    for written, name in [("O1", "O1"), ("T7", "T3"), *([("01", "O1")] * (not number))]:
        label = style.upper().replace("FP1", written)
        assert recordings._parse(label)[:2] == (name, ""), label


@pytest.mark.parametrize("label", FRIENDS)
def test_what_only_looks_like_an_electrode_is_none(label):
    plus, other, _ = recordings._parse(label)
    assert not plus or other == "SAT"  # which would have to be the reference of three
    assert not recordings._find_electrodes({0: "Cz", 1: label})[2].keys() - {"Cz"}


HEARTS = ["ECG", "EKG", "ECG ECG", "EKG EKG", "ECG EKG-Ref", "ECG 1", "EKG1", "EEG EKG1-REF",
          "ECG1-ECG2", "POL EKG", "ECGL", "EEG EKG-REF"]  # fmt: skip


@pytest.mark.parametrize("label", HEARTS)
def test_the_heart_is_found(label):
    assert recordings._find_electrodes({0: "Cz", 1: label})[2] == {"Cz": "Cz", "EKG": label}


@pytest.mark.parametrize("reference", ["Cz", "Pz", "O2", "FCz", "Nz"])
def test_a_common_reference_cancels_in_the_montage(tmp_path, eeg_uv, reference):
    eeg_uv[:, -1] = 0
    against = eeg_uv[:, ELECTRODES.index(reference)] if reference in ELECTRODES else eeg_uv[:, -1]
    kept = [k for k, name in enumerate(ELECTRODES[:-1]) if name != reference]
    names = [f"EEG {ELECTRODES[k]}-{reference}".replace("EEG O1", "01") for k in kept]
    write_edf(tmp_path / "x.edf", (eeg_uv - against[:, None])[:, kept], names, 200)
    recording = read_recording(tmp_path / "x.edf")
    assert recording.missing == ("EKG",) and recording.notes == ()
    pairs = signals.DOUBLE_BANANA
    np.testing.assert_allclose(
        signals.bipolar(recording.read(), ELECTRODES, pairs),
        signals.bipolar(eeg_uv, ELECTRODES, pairs), atol=0.2,
    )  # fmt: skip
    found = signals.repair_with_quality(recording.read().T[None])[1]
    assert not found.replaced[:, :19].any()  # the reference is not taken for a flat electrode


def test_the_double_banana_is_read_as_potentials_that_have_its_derivations(tmp_path, rng):
    eeg_uv = smooth(rng, 50, 256)
    eeg_uv[:, 4] = 3000 * np.sin(np.arange(len(eeg_uv)) * 0.07)  # 3 Hz: F7 has come off
    new = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
    pairs = list(signals.DOUBLE_BANANA)
    rng.shuffle(pairs)
    turned = [pair[::-1] if k < 5 else tuple(pair) for k, pair in enumerate(pairs)]
    names = ["-".join(new.get(x, x) for x in pair).upper() for pair in turned]
    derivations = signals.bipolar(eeg_uv, ELECTRODES, turned)
    more = np.column_stack([derivations, eeg_uv[:, :2]])
    write_edf(
        tmp_path / "x.edf",
        more,
        [*names, "-".join(turned[-1][::-1]), "FT9-FT10"],
        256,
        physical=1e4,
    )
    recording = read_recording(tmp_path / "x.edf")
    assert recording.missing == ("EKG",) and recording.notes == ()
    repaired, quality = signals.repair_with_quality(recording.read().T[None])
    assert (
        quality.replaced[0].tolist() == [k in (4, 19) for k in range(20)] and quality.lost[0] < 0.03
    )
    reference = tmp_path / "y.edf"
    write_edf(reference, eeg_uv[:, :19], ELECTRODES[:-1], 256, physical=1e4)
    wanted = signals.repair(read(reference).T[None])
    good = [pair for pair in signals.DOUBLE_BANANA if "F7" not in pair]
    np.testing.assert_allclose(
        signals.montage(repaired, good), signals.montage(wanted, good), atol=1.0
    )
    change(tmp_path / "x.edf", 256, b"ABC")
    with pytest.raises(
        ValueError, match=f"17 of 18 derivations .*{'-'.join(pairs[0])}; wanted all"
    ):
        read_recording(tmp_path / "x.edf")


def test_of_two_channels_of_an_electrode_the_first_is_read(tmp_path, eeg_uv):
    write_edf(tmp_path / "x.edf", eeg_uv, ["T7-Ref", "T3", *ELECTRODES[2:]], 200)
    with pytest.warns(UserWarning, match="x.edf: T3 is there twice, 'T7-Ref' and 'T3'; the first"):
        found = read(tmp_path / "x.edf")
    np.testing.assert_allclose(found[:, 5], eeg_uv[:, 0], atol=0.1)


def test_formats_are_known_by_their_content(tmp_path, eeg_uv):
    write_edf(tmp_path / "x.edf", eeg_uv, ELECTRODES, 200)
    write_edf(tmp_path / "y.edf", eeg_uv, ELECTRODES, 200, bdf=True)
    for name, new in [("x.edf", "x.bdf"), ("x.edf", "x.rec"), ("y.edf", "y"), ("x.edf", "x.vhdr")]:
        (tmp_path / new).write_bytes((tmp_path / name).read_bytes())
        np.testing.assert_allclose(read(tmp_path / new), eeg_uv, atol=0.1)
    for name, body in [("a.edf", b"no EDF"), ("b.xyz", b"nothing"), ("c", b""), ("d.set", b"x")]:
        (tmp_path / name).write_bytes(body)
        with pytest.raises(ValueError, match=f"{name}: no recording .*BrainVision .* EEGLAB"):
            read_recording(tmp_path / name)
    (tmp_path / "e.fif").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="e.fif: .*it is not of the format that its name says"):
        read_recording(tmp_path / "e.fif")


def test_brainvision_fif_and_raw_are_read_through_mne(tmp_path, eeg_uv):
    header = "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nDataFile=x.eeg\n"
    header += "MarkerFile=x.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
    header += "NumberOfChannels=20\nSamplingInterval=5000\n[Binary Infos]\n"
    header += "BinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n"
    header += "".join(f"Ch{k + 1}={name},,1,µV\n" for k, name in enumerate(ELECTRODES))
    (tmp_path / "x.vhdr").write_text(header)
    (tmp_path / "x.eeg").write_bytes(eeg_uv.astype("<f4").tobytes())
    marks = "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nDataFile=x.eeg\n"
    marks += "[Marker Infos]\nMk1=New Segment,,1,1,0\nMk2=New Segment,,1201,1,0\n"
    (tmp_path / "x.vmrk").write_text(marks)
    with pytest.warns(UserWarning, match="x.vhdr: joined of 2 parts"):
        recording = read_recording(tmp_path / "x.vhdr")
    np.testing.assert_allclose(recording.read(), eeg_uv, atol=0.01)
    assert recording.segments == ((0, 6), (6, 10))
    assert recording._source.files == [tmp_path / "x.vhdr", tmp_path / "x.eeg"]
    raw = mne.io.RawArray(eeg_uv.T * 1e-6, mne.create_info(list(ELECTRODES), 200, "eeg"))
    raw.set_annotations(mne.Annotations([2], [1], ["blink"]))
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    for given in (raw, tmp_path / "x_raw.fif", raw.copy().crop(1)):
        recording = read_recording(given)
        n = recording.read().shape[0]
        np.testing.assert_allclose(recording.read(), eeg_uv[-n:], atol=0.01)
        assert recording.annotations.values.tolist() == [[2 - (2000 - n) / 200, 1, "blink"]]
        back = recording.to_raw()
        np.testing.assert_allclose(back.get_data(), eeg_uv[-n:].T * 1e-6, atol=1e-8)
        assert back.ch_names == list(ELECTRODES) and back.annotations.description[0] == "blink"


def test_what_mne_says_is_warned_of_and_no_note(tmp_path, eeg_uv):
    raw = mne.io.RawArray(eeg_uv.T * 1e-6, mne.create_info(list(ELECTRODES), 200, "eeg"))
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    (tmp_path / "x_raw.fif").rename(tmp_path / "Smith.fif")
    with pytest.warns(UserWarning, match="Smith.fif: .* does not conform to MNE naming"):
        recording = read_recording(tmp_path / "Smith.fif")
    assert recording.notes == ()


def test_eeglab_is_read_through_mne_and_cut_at_its_joints(tmp_path, eeg_uv):
    empty = dict.fromkeys(("icawinv", "icasphere", "icaweights", "epoch"), [])
    places = np.array([(name,) for name in ELECTRODES], [("labels", "O")])
    joint = [(1200.5, "boundary", 400.0)]
    joint = np.array(joint, [("latency", "O"), ("type", "O"), ("duration", "O")])
    size = {"nbchan": 20, "pnts": 2000, "trials": 1, "srate": 200.0, "xmin": 0.0, "xmax": 9.995}
    eeg = {"data": eeg_uv.T.astype(np.float32), "chanlocs": places, "event": joint} | size | empty
    scipy.io.savemat(tmp_path / "x.set", {"EEG": eeg}, appendmat=False)
    with pytest.warns(UserWarning, match="x.set: joined of 2 parts"):
        recording = read_recording(tmp_path / "x.set")
    assert recording.segments == ((0, 6), (6, 10)) and not recording.missing
    np.testing.assert_allclose(recording.read(), eeg_uv, atol=0.01)


MICRO = ["uV", "UV", "uv", "microV", "µV", "μV", b"\xb5V", b"\xe6V", b"\x83\xcaV"]


@pytest.mark.parametrize("unit", MICRO)
def test_microvolts_are_understood_however_they_are_written(tmp_path, eeg_uv, unit):
    write_edf(tmp_path / "r.edf", eeg_uv, ELECTRODES, 200, unit)
    np.testing.assert_allclose(read(tmp_path / "r.edf"), eeg_uv, atol=0.1)


@pytest.mark.parametrize("unit, scale", [("mV", 1e3), ("mv", 1e3), ("V", 1e6), ("nV", 1e-3)])
def test_other_units_are_converted_and_one_that_no_eeg_has_is_named(tmp_path, eeg_uv, unit, scale):
    physical = 3e3 / scale
    write_edf(tmp_path / "r.edf", eeg_uv / scale, ELECTRODES, 200, unit, physical)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(read(tmp_path / "r.edf"), eeg_uv, atol=0.1)
    write_edf(tmp_path / "wrong.edf", eeg_uv, ELECTRODES, 200, unit)
    with pytest.warns(UserWarning, match=rf"wrong.edf: with the unit {unit}, .* 20\.?\d* {unit}"):
        read_recording(tmp_path / "wrong.edf")


@pytest.mark.parametrize("unit", ["", "%", "uV/cm", "counts"])
def test_an_unknown_unit_is_refused_unless_it_is_named(tmp_path, eeg_uv, unit):
    write_edf(tmp_path / "r.edf", eeg_uv, ELECTRODES, 200, unit)
    with pytest.raises(ValueError, match=rf"r.edf: the unit of Fp1 is '{unit}', .*\(--unit\)"):
        read_recording(tmp_path / "r.edf")
    named = read(tmp_path / "r.edf", unit="uV")
    np.testing.assert_allclose(named[:, :19], eeg_uv[:, :19], atol=0.1)
    with pytest.raises(ValueError, match="unit 'parsec' is unknown, wanted one of V, mV, uV, nV"):
        read_recording(tmp_path / "r.edf", unit="parsec")


def test_a_split_is_no_matter_of_a_recording(tmp_path, eeg_uv, capsys):
    write_edf(tmp_path / "r.edf", eeg_uv, ELECTRODES, 200)
    with pytest.raises(SystemExit) as error:
        __main__.main(["predict", str(tmp_path / "r.edf"), "--split", "test"])
    assert error.value.code == 2 and "--split test is that of a comp" in capsys.readouterr().err


def test_channels_that_mne_knows_as_bad_are_left_out(rng):
    info = mne.create_info(list(ELECTRODES), 200, "eeg")
    raw = mne.io.RawArray(1e-5 * rng.normal(size=(20, 2000)), info, verbose="error")
    raw.info["bads"] = ["T3"]
    with pytest.warns(UserWarning, match="T3 is marked as bad; it is left out"):
        recording = read_recording(raw)
    assert recording.missing == ("T3",) and len({recording}) == 1


def test_a_file_of_the_competition_is_a_recording(tmp_path, rng):
    eeg_uv = rng.normal(0, 30, (12_000, 20)).astype(np.float32)
    eeg_uv[100:200, 5] = np.nan
    frame = pd.DataFrame(eeg_uv, columns=list(ELECTRODES))
    frame.iloc[:, ::-1].to_parquet(tmp_path / "1")  # by its content
    recording = read_recording(tmp_path / "1")
    np.testing.assert_allclose(recording.read(), eeg_uv, atol=1e-4)
    assert (recording.duration_s, recording.missing, recording.notes) == (60, (), ())
    frame.drop(columns=["Pz", "EKG"]).to_parquet(tmp_path / "2.parquet")
    with pytest.warns(UserWarning, match="no channel of Pz"):
        assert read_recording(tmp_path / "2.parquet").missing == ("Pz", "EKG")
    frame.rename(columns=str.lower).to_parquet(tmp_path / "3.parquet")
    with pytest.raises(
        ValueError, match="3.parquet: no EEG of the competition .columns fp1.*wanted columns of"
    ):
        read_recording(tmp_path / "3.parquet")
    frame.assign(T3="x").to_parquet(tmp_path / "4.parquet")
    with pytest.raises(ValueError, match="4.parquet: .*T3 is of type .*string.*wanted columns of"):
        read_recording(tmp_path / "4.parquet")
    pd.DataFrame({"Fp1": np.zeros(1_440_001, np.int8)}).to_parquet(tmp_path / "5.parquet")
    with pytest.raises(ValueError, match="1,440,001 rows are over 1,440,000, two hours"):
        read_recording(tmp_path / "5.parquet")
