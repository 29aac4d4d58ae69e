"""Spectrograms equal their references: librosa, a per-window loop, and published golden files."""

import sys

import librosa
import numpy as np
import pytest
from scipy.signal import detrend
from scipy.signal.windows import dpss

from hmsutils import spectrograms as sp
from hmsutils.files import ELECTRODES, SFREQ_HZ
from hmsutils.records import read_eeg
from hmsutils.signals import CHAINS, bandpass

MEL_CHAINS = [CHAINS[name] for name in ("LL", "LP", "RP", "RL")]


def librosa_recipe(eeg_uv):
    """The public loop: one mel spectrogram per difference, dB, scaled, averaged per chain."""
    regions = []
    for chain in MEL_CHAINS:
        scaled = []
        for plus, minus in zip(chain, chain[1:], strict=False):
            x = eeg_uv[:, ELECTRODES.index(plus)] - eeg_uv[:, ELECTRODES.index(minus)]
            mel = librosa.feature.melspectrogram(
                y=x, sr=200, hop_length=len(x) // 256, n_fft=1024, n_mels=128, fmin=0, fmax=20,
                win_length=128,
            )  # fmt: skip
            scaled.append((librosa.power_to_db(mel[:, :256], ref=np.max) + 40) / 40)
        regions.append(np.mean(scaled, axis=0))
    return np.stack(regions, axis=-1)


def make_eeg(rng, n=10_000):
    drift = np.cumsum(rng.normal(0, 2, (n, 20)), axis=0)
    return (drift + rng.normal(0, 10, (n, 20)) + rng.normal(0, 300, 20)).astype(np.float32)


@pytest.fixture(params=["compiled", "without numba"])
def road(request, monkeypatch):
    """Both roads through `log_mel`."""
    if request.param == "without numba":
        monkeypatch.setitem(sys.modules, "hmsutils.kernels", None)


@pytest.mark.parametrize("n", [10_000, 12_345])
def test_log_mel_equals_librosa(rng, n, road):
    eeg_uv = make_eeg(rng, n)
    out = sp.log_mel(eeg_uv)
    assert out.shape == (1, 128, 256, 4) and out.dtype == np.float32
    assert np.abs(out[0] - librosa_recipe(eeg_uv)).max() * 40 <= 0.005


@pytest.mark.parametrize(
    "config",
    [
        sp.MelConfig(),
        sp.MelConfig(n_mels=20, frames=100, window=90, span_s=30.0),
        *sp.zooms(sp.ImageConfig()),
        *sp.zooms(sp.ImageConfig(n_mels=8, frames=60)),
    ],
    ids=str,
)
def test_the_compiled_log_mel_equals_the_one_in_numpy(rng, monkeypatch, config):
    eeg_uv = make_eeg(rng) * np.float32(1e3) ** np.arange(-2, 3).repeat(4)  # nV and V, too
    compiled = sp.log_mel(eeg_uv, config)
    monkeypatch.setitem(sys.modules, "hmsutils.kernels", None)
    scale_db = 40 if config.reference_uv2 is None else 1
    assert np.abs(compiled - sp.log_mel(eeg_uv, config)).max() * scale_db <= 0.005


def test_log_mel_of_a_flat_recording_equals_librosa(road):
    eeg_uv = np.zeros((10_000, 20), np.float32)
    np.testing.assert_allclose(sp.log_mel(eeg_uv)[0], librosa_recipe(eeg_uv), atol=1e-6)


def test_log_mel_equals_librosa_on_real_eeg(real):
    for eeg_id in (9000000001, 9000000023, 9000000051):
        eeg_uv = read_eeg(real, eeg_id)
        if np.isnan(eeg_uv).any():
            continue
        assert np.abs(sp.log_mel(eeg_uv)[0] - librosa_recipe(eeg_uv)).max() * 40 <= 0.02


def test_log_mel_of_a_batch_is_that_of_its_members(rng):
    batch = np.stack([make_eeg(rng), make_eeg(rng)])
    singly = np.concatenate([sp.log_mel(window) for window in batch])
    np.testing.assert_allclose(sp.log_mel(batch), singly, atol=1e-5)


def test_log_mel_fills_nan_with_the_derivations_mean(rng):
    eeg_uv = make_eeg(rng)
    gap = eeg_uv.copy()
    gap[2000:3000] = np.nan
    filled = eeg_uv - eeg_uv[np.r_[0:2000, 3000:10_000]].mean(axis=0)  # every derivation: mean 0
    filled[2000:3000] = 0
    offset = eeg_uv - filled
    np.testing.assert_allclose(sp.log_mel(gap), sp.log_mel(filled + offset[0]), atol=0.05)
    assert np.isfinite(sp.log_mel(np.full((10_000, 20), np.nan))).all()


def test_log_mel_sees_only_the_asked_span(rng):
    eeg_uv = make_eeg(rng)
    config = sp.MelConfig(span_s=10.0, frames=128, reference_uv2=1.0)
    np.testing.assert_array_equal(sp.log_mel(eeg_uv, config), sp.log_mel(eeg_uv[4000:6000], config))
    with pytest.raises(ValueError, match="100 samples cannot give 256 frames"):
        sp.log_mel(eeg_uv[:100])


def test_fixed_reference_keeps_amplitude(rng):
    eeg_uv = make_eeg(rng)
    config = sp.MelConfig(reference_uv2=1.0)
    louder = sp.log_mel(10 * eeg_uv, config) - sp.log_mel(eeg_uv, config)
    np.testing.assert_allclose(louder, 20, atol=5e-2)
    np.testing.assert_allclose(sp.log_mel(10 * eeg_uv), sp.log_mel(eeg_uv), atol=1e-4)


def multitaper_loop(x):
    """(T,) → (W, 100): the definition, one window at a time, in float64."""
    tapers = dpss(800, 2.0, 3)
    rows = []
    for start in range(0, len(x) - 799, 400):
        segment = detrend(x[start : start + 800].astype(np.float64))
        spectrum = np.fft.rfft(tapers * np.sqrt(SFREQ_HZ) * segment, 1024) / SFREQ_HZ
        rows.append((np.abs(spectrum) ** 2).mean(axis=0)[3:103])
    return np.array(rows)


def test_regional_multitaper_equals_a_loop_over_windows(rng):
    eeg_uv = make_eeg(rng, 4_300)
    out = sp.regional_multitaper(eeg_uv)
    assert out.shape == (1, 9, 4, 100)
    x = bandpass(eeg_uv, 0.5, 40.0)
    for i, region in enumerate(("LL", "RL", "LP", "RP")):
        column = [x[:, ELECTRODES.index(name)] for name in CHAINS[region]]
        loop = np.mean(
            [multitaper_loop(a - b) for a, b in zip(column[:-1], column[1:], strict=True)], axis=0
        )
        assert np.abs(10 * np.log10(out[0, :, i] / loop)).max() <= 1e-3


def test_a_step_that_does_not_divide_the_window_takes_the_same_windows(rng):
    eeg_uv = make_eeg(rng, 6_000)
    every_2s = sp.regional_multitaper(eeg_uv)[0]
    every_6s = sp.regional_multitaper(eeg_uv, sp.RegionalConfig(step_s=6.0))[0]
    np.testing.assert_allclose(10 * np.log10(every_6s / every_2s[::3]), 0, atol=1e-3)


@pytest.mark.parametrize("name", ["L_Sample12", "O_Sample15", "S_Sample19"])
def test_regional_multitaper_equals_the_golden_files(name, real):
    path = real.root / "spectrogram_golden" / f"{name}.npz"
    if not path.exists():
        pytest.skip("no golden spectrograms beside the real recordings")
    golden = np.load(path)
    out = sp.regional_multitaper(golden["eeg_uv"], sp.RegionalConfig(bandpass_hz=None))[0]
    np.testing.assert_allclose(sp.official_frequencies_hz(), golden["freqs_hz"], atol=1e-9)
    for i, region in enumerate(("LL", "RL", "LP", "RP")):
        wanted = golden[region][:, 148:152].T
        assert np.abs(10 * np.log10(out[:, i] / wanted)).max() <= 1e-3


def test_regional_multitaper_counts_nan_as_zero_and_wants_a_window(rng):
    eeg_uv = make_eeg(rng, 2_000)
    gap = eeg_uv.copy()
    gap[500:700] = np.nan
    zero = np.nan_to_num(gap, nan=0.0)
    np.testing.assert_array_equal(sp.regional_multitaper(gap), sp.regional_multitaper(zero))
    with pytest.raises(ValueError, match="700 samples, wanted at least 800"):
        sp.regional_multitaper(eeg_uv[:700])


def test_image_stacks_chains_and_zooms(rng):
    eeg_uv = make_eeg(rng)
    t = np.arange(10_000) / SFREQ_HZ
    burst = (np.abs(t - 25) < 2) * 400 * np.sin(2 * np.pi * 15 * t)
    eeg_uv[:, ELECTRODES.index("F7")] += burst.astype(np.float32)  # left lateral, 4 s, 15 Hz
    config = sp.ImageConfig(n_mels=16, frames=100)
    out = sp.image(eeg_uv, config)[0]
    assert out.shape == config.shape == (64, 100, 3) and out.min() >= 0 and out.max() <= 1
    bands = out.reshape(4, 16, 100, 3)
    row = 15 - round(15 / 20 * 16)  # low frequencies at the bottom
    for k, (first, last) in enumerate([(46, 54), (42, 58), (30, 70)]):
        inside, outside = bands[0, row, first + 1 : last - 1, k], bands[0, row, : first - 4, k]
        assert inside.min() > outside.max()
        assert bands[3, row, :, k].max() < inside.min()  # not on the right


def test_image_has_no_nan_whatever_arrives():
    assert np.isfinite(sp.image(np.full((10_000, 20), np.nan))).all()
