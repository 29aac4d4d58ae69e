"""Spectrograms equal their references: librosa, a per-window loop, and published golden files."""

import librosa
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import detrend, get_window
from scipy.signal.windows import dpss

from hmsutils import spectrograms as sp
from hmsutils.competition import ELECTRODES, SFREQ_HZ
from hmsutils.records import read_eeg
from hmsutils.representations import Image
from hmsutils.signals import CHAINS, bandpass, bipolar

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


@pytest.mark.parametrize("n", [10_000, 12_345])
def test_log_mel_equals_librosa(rng, n):
    eeg_uv = make_eeg(rng, n)
    out = sp.log_mel(eeg_uv)
    assert out.shape == (1, 128, 256, 4) and out.dtype == np.float32
    assert np.abs(out[0] - librosa_recipe(eeg_uv)).max() * 40 <= 0.005


def log_mel_in_numpy(eeg_uv, config):
    """The definition of `log_mel`, (n_mels, n_frames, 4): every frame, every bin, in float64."""
    if config.duration_s is not None:
        keep = round(config.duration_s * SFREQ_HZ)
        eeg_uv = eeg_uv[(len(eeg_uv) - keep) // 2 :][:keep]
    mel = librosa.filters.mel(
        sr=200, n_fft=config.n_fft, n_mels=config.n_mels, fmin=0, fmax=config.f_max_hz
    )
    hop, half = len(eeg_uv) // config.n_frames, config.win_length // 2
    hann = get_window("hann", config.win_length)
    regions = []
    for chain in MEL_CHAINS:
        pairs = list(zip(chain, chain[1:], strict=False))
        decibels = []
        for x in bipolar(eeg_uv, ELECTRODES, pairs).T.astype(np.float64):
            frames = sliding_window_view(np.pad(x, half), config.win_length)[::hop]
            spectrum = np.fft.rfft(frames[: config.n_frames] * hann, config.n_fft)
            power = np.maximum(mel @ (np.abs(spectrum) ** 2).T, 1e-10)
            top = config.reference_uv2 or power.max()
            floor = top * 1e-8 if config.reference_uv2 is None else 0
            decibels.append(10 * np.log10(np.maximum(power, floor) / top))
        regions.append(np.mean(decibels, axis=0))
    return np.stack(regions, axis=-1)


@pytest.mark.parametrize(
    "config",
    [
        sp.MelConfig(),
        sp.MelConfig(n_mels=20, n_frames=100, win_length=90, duration_s=30.0),
        *Image().crops,
        *Image(n_mels=8, n_frames=60).crops,
    ],
    ids=str,
)
def test_log_mel_equals_its_definition(rng, config):
    eeg_uv = make_eeg(rng) * np.float32(1e3) ** np.arange(-2, 3).repeat(4)  # nV and V, too
    out, wanted = sp.log_mel(eeg_uv, config)[0], log_mel_in_numpy(eeg_uv, config)
    if config.reference_uv2 is None:
        out = 40 * out - 40
    assert np.abs(out - wanted).max() <= 0.005


def test_log_mel_of_a_flat_recording_equals_librosa():
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


def test_log_mel_sees_only_the_asked_duration(rng):
    eeg_uv = make_eeg(rng)
    config = sp.MelConfig(duration_s=10.0, n_frames=128, reference_uv2=1.0)
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
    x = bandpass(eeg_uv.T[None], 0.5, 40.0)[0].T
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


@pytest.mark.parametrize("n_mels, n_frames", [(32, 256), (8, 64), (128, 600), (1, 1)])
def test_the_context_is_in_decibels_by_chain_band_and_frame(n_mels, n_frames):
    power = np.ones((2, 300, 4, 100), np.float32)
    power[1, :, 1] = 100  # RL, the last chain of an image
    out = sp.context_db(power, n_mels, n_frames)
    assert out.shape == (2, 4, n_mels, n_frames) and out.dtype == np.float32
    np.testing.assert_allclose(out[0], 10 * np.log10(1024), atol=1e-3)
    louder = np.broadcast_to(np.array([0, 0, 0, 20])[:, None, None], out[0].shape)
    np.testing.assert_allclose(out[1] - out[0], louder, atol=1e-3)
    power[1, 100:160, 0] = np.nan  # LL from 200 to 320 s
    lost = np.isneginf(sp.context_db(power, n_mels, n_frames))
    seconds = np.arange(n_frames) * 600 / n_frames
    wanted = (seconds > 202 + 600 / n_frames) & (seconds < 318 - 600 / n_frames)
    assert not lost[0].any() and not lost[1, 1:].any() and lost[1, 0][:, wanted].all()
    assert not lost[1, 0][:, (seconds < 200) | (seconds > 322)].any()
    assert np.isneginf(sp.context_db(power * np.nan, n_mels, n_frames)).all()


def test_the_context_of_a_recording_is_its_log_mel_of_600_s(rng):
    t = np.arange(120_800) / SFREQ_HZ
    eeg_uv = rng.normal(0, 10, (len(t), 20)).astype(np.float32)
    tone = 200 * np.sin(2 * np.pi * 12 * t) * (np.abs(t - 450) < 30)
    eeg_uv[:, ELECTRODES.index("F8")] += tone.astype(np.float32)
    power = sp.regional_multitaper(eeg_uv)[:, :300]
    out = sp.context_db(power, 16, 64)[0]
    config = sp.MelConfig(16, 20.0, 64, 800, 1024, None, 0.375 * 800)
    mel = sp.chains_db(bandpass(eeg_uv[:120_000].T[None], 0.5, 40.0), config)[0]
    chain, band, frame = np.unravel_index(out.argmax(), out.shape)
    assert (chain, band) == (3, 9) and 45 <= frame <= 51  # RL, 12 Hz, 420 to 480 s
    assert (out[3, 9, 46:50] > out[3, 9, :40].max() + 20).all()
    # Decibels of one noisy frame are lower than those of a mean over tapers and derivations.
    assert 0 < (out[:3, 1:] - mel[:3, 1:]).mean() < 3
