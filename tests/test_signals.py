"""Montage, repair, filter, and the WaveNet's input: values, not only shapes."""

import numpy as np
import pytest
from scipy import signal

from hmsutils import kernels, signals
from hmsutils.competition import ELECTRODES, SFREQ_HZ

N = 10_000


def eeg(rng, n=N):
    """(T, 20) pink-ish EEG of about 20 µV with offsets, correlated over neighbours."""
    x = bandpass(np.cumsum(rng.normal(0, 1, (n, 20)), axis=0), 0.5, 40)
    return (x / x.std(axis=0) * 20 + rng.normal(0, 50, 20)).astype(np.float32)


def repair(x):
    """`signals.repair` of (T, 20)."""
    return signals.repair(x.T[None])[0].T


def bandpass(x, low_hz, high_hz):
    """`signals.bandpass` of (T, C)."""
    return signals.bandpass(np.swapaxes(x, -1, -2)[None], low_hz, high_hz)[0].T


def tone(hz, n=N):
    return np.sin(2 * np.pi * hz * np.arange(n) / SFREQ_HZ)


def test_bipolar_is_the_difference_and_keeps_nan():
    x = np.arange(8.0).reshape(2, 4)
    x[1, 3] = np.nan
    out = signals.bipolar(x, ["A", "B", "C", "D"], [("B", "A"), ("A", "D")])
    np.testing.assert_array_equal(out, np.array([[1, -3], [1, np.nan]], np.float32))
    with pytest.raises(ValueError, match="the montage needs Q, but the recording has A, B"):
        signals.bipolar(x, ["A", "B", "C", "D"], [("Q", "A")])


def test_chains_telescope_to_their_ends(rng):
    x = eeg(rng)
    for chain, pairs in zip(signals.CHAINS.values(), signals.CHAIN_PAIRS.values(), strict=True):
        total = signals.bipolar(x, ELECTRODES, pairs).sum(axis=1)
        ends = signals.bipolar(x, ELECTRODES, [(chain[0], chain[-1])])[:, 0]
        np.testing.assert_allclose(total, ends, atol=1e-3)


def test_electrodes_are_mirrored_and_neighbours_are_near():
    xyz = dict(zip(ELECTRODES, signals.ELECTRODE_XYZ, strict=False))
    np.testing.assert_allclose(xyz["T3"] * [-1, 1, 1], xyz["T4"], atol=1e-12)
    np.testing.assert_allclose(xyz["F7"] * [-1, 1, 1], xyz["F8"], atol=1e-12)
    assert xyz["Fp1"][1] > xyz["F3"][1] > xyz["C3"][1] > xyz["O1"][1]
    angles = [np.arccos(xyz[a] @ xyz[b]) for a, b in signals.DOUBLE_BANANA]
    assert max(angles) < np.radians(50)


def test_repair_removes_offsets_and_leaves_the_input(rng):
    x = eeg(rng)
    before = x.copy()
    out = repair(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_allclose(np.median(out, axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(out, x - np.median(x, axis=0), atol=1e-4)


def test_repair_fills_nan_with_the_electrodes_median(rng):
    x = eeg(rng)
    x[100:300] = np.nan
    out = repair(x)
    assert not np.isnan(out).any() and (out[100:300] == 0).all()
    rest = np.r_[0:100, 300:N]
    np.testing.assert_allclose(out[rest], x[rest] - np.nanmedian(x, axis=0), atol=1e-4)


@pytest.mark.parametrize("damage", ["flat", "absurd", "nan"])
def test_repair_replaces_a_bad_electrode_by_its_neighbours(rng, damage):
    x, c3 = eeg(rng), ELECTRODES.index("C3")
    clean = repair(x)
    x[:, c3] = {"flat": 12.0, "absurd": 9000 * tone(1.0), "nan": np.nan}[damage]
    out = repair(x)
    others = [i for i in range(20) if i != c3]
    np.testing.assert_allclose(out[:, others], clean[:, others], atol=1e-4)
    near = [ELECTRODES.index(name) for name in ("F3", "T3", "Cz", "P3")]
    correlation = np.corrcoef(out[:, c3], out[:, near].mean(axis=1))[0, 1]
    assert correlation > 0.8 and out[:, c3].std() < 60


def test_repair_keeps_eeg_under_strong_mains(rng):
    x = eeg(rng)
    noisy = x + 12_000 * tone(60.0)[:, None].astype(np.float32)
    out = bandpass(repair(noisy), 0.5, 20)
    wanted = bandpass(repair(x), 0.5, 20)
    assert np.corrcoef(out[1000:-1000, 3], wanted[1000:-1000, 3])[0, 1] > 0.8


def test_repair_of_a_recording_without_eeg_is_zero():
    assert (signals.repair(np.full((1, 20, N), np.nan, np.float32)) == 0).all()
    assert (signals.repair(np.full((2, 20, N), 7.0, np.float32)) == 0).all()


def test_a_gap_over_all_electrodes_spoils_none(rng):
    x = eeg(rng)
    x[: int(0.7 * N)] = np.nan
    out = repair(x)
    assert (out[int(0.7 * N) :].std(axis=0) > 5).all()


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"repair: got \(1, 19, 10\), wanted \(N, 20, T\)"):
        signals.repair(np.zeros((1, 19, 10)))
    with pytest.raises(ValueError, match=r"who: got an array of shape \(10, 19\), wanted"):
        signals.to_time_last(np.zeros((10, 19)), "who")


def test_eeg_is_turned_once_at_the_door(rng):
    x = rng.normal(0, 30, (2, 50, 20)).astype(np.float32)
    turned = signals.to_time_last(x, "test")
    assert turned.shape == (2, 20, 50) and turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, np.swapaxes(x, 1, 2))
    np.testing.assert_array_equal(signals.to_time_last(x[0], "test"), turned[:1])
    assert np.shares_memory(signals.to_time_last(turned.swapaxes(1, 2), "test"), turned)
    pairs = signals.DOUBLE_BANANA
    outside = signals.bipolar(x, ELECTRODES, pairs)
    np.testing.assert_array_equal(signals.montage(turned, pairs), np.swapaxes(outside, 1, 2))


def test_bandpass_keeps_the_middle_and_is_zero_phase():
    x = np.stack([tone(0.1), tone(5.0), tone(60.0)], axis=1) * 100
    out = bandpass(x, 0.5, 20)[2000:-2000]
    np.testing.assert_allclose(out[:, 1], x[2000:-2000, 1], atol=0.5)  # no delay, no loss
    assert np.abs(out[:, 0]).max() < 1 and np.abs(out[:, 2]).max() < 1
    with pytest.raises(ValueError, match="call signals.repair first"):
        bandpass(np.full((N, 2), np.nan), 0.5, 20)
    with pytest.raises(ValueError, match="21 samples, wanted more than 21"):
        bandpass(np.zeros((21, 2)), 0.5, 20)


def test_bandpass_equals_scipy(rng):
    x = 50 + np.cumsum(rng.normal(0, 5, (2, 20, N)), axis=2).astype(np.float32)
    sos = signal.butter(3, (0.5, 20), "bandpass", fs=SFREQ_HZ, output="sos")
    wanted = signal.sosfiltfilt(sos, x.astype(np.float64))
    np.testing.assert_allclose(signals.bandpass(x, 0.5, 20), wanted, atol=1e-4)
    many = signals.bandpass(np.concatenate([x, x[:, :3]], axis=1)[..., :-1], 0.5, 20)  # 2 × 23
    np.testing.assert_array_equal(many[:, 20:], many[:, :3])
    every_other = signals.bandpass(x[:1, ::2], 0.5, 20)  # not contiguous
    np.testing.assert_allclose(every_other, wanted[:1, ::2], atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 10_000])
def test_the_median_is_numpys(rng, n):
    x = (rng.normal(1, 3, (6, n)) * 10.0 ** rng.integers(-30, 30, (6, 1))).astype(np.float32)
    x[0, : n // 2], x[1, -1] = -0.0, np.inf
    np.testing.assert_array_equal(kernels.medians(x), np.median(x, axis=1))
    x[:, : n // 3] = np.nan
    x[2:, 1::5] = -np.float32(np.nan)
    np.testing.assert_array_equal(kernels.medians(x), np.nanmedian(x, axis=1))
    assert (kernels.medians(np.full((2, n), np.nan, np.float32)) == 0).all()


def test_wavenet_input_is_the_filtered_montage_at_40_hz(rng):
    x = np.zeros((1, N, 20), np.float32)
    x[0, :, ELECTRODES.index("Fp1")] = 100 * tone(6.0)
    out = signals.wavenet_input(x)
    assert out.shape == (1, 2000, 18) and out.dtype == np.float32
    column = signals.DOUBLE_BANANA.index(("Fp1", "F7"))
    # the flat electrodes around are filled from Fp1, the only good one: no difference is left
    assert np.abs(out).max() < 1e-5
    x[0] += eeg(rng)
    out = signals.wavenet_input(x)[0, :, column] * 50
    wanted = bandpass(signals.bipolar(x[0], ELECTRODES, [("Fp1", "F7")]), 0.5, 20)[::5, 0]
    np.testing.assert_allclose(out[50:-50], wanted[50:-50], atol=1.0)


def test_wavenet_input_is_clipped(rng):
    x = eeg(rng) * 20
    out = signals.wavenet_input(x)
    assert np.abs(out).max() == pytest.approx(500 / 50)
