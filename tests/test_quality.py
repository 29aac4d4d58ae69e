"""What is not EEG gets no opinion; EEG that only wanders, jumps or has a gap keeps its own."""

import numpy as np
import pytest
from test_signals import bandpass, eeg, tone

from hmsutils import signals

N = 10_000
CENTRE = slice(4_000, 6_000)  # the 10 s that the experts judged
SECONDS = np.arange(N)[:, None] / 200
RAILS = np.repeat(np.sign(np.random.default_rng(1).normal(size=(N // 100, 20))), 100, 0) * 3276


def without(rows, columns, value):
    """An EEG with `value` in some rows and columns."""

    def change(x):
        x[rows, columns] = value
        return x

    return change


NO_EEG = {
    "all flat": lambda x: np.zeros_like(x),
    "flat at another level each": lambda x: 0 * x + np.arange(20) * 100,
    "0.1 µV noise": lambda x: np.random.default_rng(0).normal(0, 0.1, x.shape),
    "mains alone": lambda x: 0 * x + 3000 * tone(50.0)[:, None] + 200 * tone(60.0)[:, None],
    "mains and drift alone": lambda x: 0 * x + 300 * tone(60.0)[:, None] + np.arange(N)[:, None],
    "railed": lambda x: 0 * x + 3276.7,
    "railed at both ends": lambda x: RAILS.copy(),
    "volts": lambda x: x * 1e-6,
    "millivolts": lambda x: x * 1e-3,
    "nanovolts": lambda x: x * 1e3,
    "picovolts": lambda x: x * 1e6,
    "a calibration signal": lambda x: 0 * x + 50 * np.sign(tone(1.0))[:, None],
    "one electrode copied to all": lambda x: 0 * x + x[:, 3:4],
    "copied and amplified": lambda x: 0 * x + x[:, 3:4] * np.linspace(0.5, 1.5, 20),
    "15 of 19 are copies": without(slice(None), slice(0, 15), eeg(np.random.default_rng(9))[:, :1]),
    "an amplifier that settles": lambda x: 1e4 * np.exp(-SECONDS / 10) * np.linspace(0.5, 1.5, 20),
    "a curve": lambda x: 100 * (SECONDS - 25) ** 2 * np.linspace(0.5, 1.5, 20),
    "19 of 20 samples NaN": lambda x: np.where(np.arange(N)[:, None] % 20 == 0, x, np.nan),
    "all NaN": lambda x: x * np.nan,
    "all infinite": lambda x: x * np.inf,
    "16 of 19 flat": without(slice(None), slice(3, 19), 0.0),
    "10 of 19 missing": without(slice(None), slice(9, 19), np.nan),
    "centre missing": without(CENTRE, slice(None), np.nan),
    "centre flat": without(CENTRE, slice(None), 40.0),
    "60 % of the centre missing": without(slice(4_800, 6_000), slice(None), np.nan),
    "only the first seconds": without(slice(1_000, None), slice(None), np.nan),
}
ENOUGH = {
    "as it is": lambda x: x,
    "an offset": lambda x: x + np.linspace(-9_000, 9_000, 20),
    "drift": lambda x: x + np.linspace(0, 100, N)[:, None] * 50,
    "strong drift of some": lambda x: x + np.arange(N)[:, None] * np.linspace(-9, 9, 20),
    "a step": lambda x: x + 3_000 * (np.arange(N) > N / 2)[:, None],
    "two large steps": lambda x: x + 50_000 * (abs(np.arange(N) - 5_000) < 3_000)[:, None],
    "one absurd sample": without(3_333, 5, 1e20),
    "one infinite sample": without(3_333, slice(None), -np.inf),
    "mains": lambda x: x + 12_000 * tone(60.0)[:, None],
    "9 of 19 missing": without(slice(None), slice(10, 19), np.nan),
    "no EKG": without(slice(None), 19, np.nan),
    "constant but for the centre": lambda x: np.where((np.arange(N) // 2_000 == 2)[:, None], x, 9),
    "only the centre": lambda x: np.where((np.arange(N) // 2_000 == 2)[:, None], x, np.nan),
    "40 % of the centre missing": without(slice(5_200, 6_000), slice(None), np.nan),
}


@pytest.mark.parametrize("kind", NO_EEG)
def test_what_is_not_eeg_gets_no_opinion(rng, kind):
    x = NO_EEG[kind](eeg(rng)).astype(np.float32)
    repaired, quality = signals.repair_with_quality(x.T[None])
    assert np.isfinite(repaired).all()
    (problem,) = quality.problems()
    assert problem.startswith("EEG in ") and problem.endswith(("wanted 10", "wanted 50%"))


@pytest.mark.parametrize("kind", ENOUGH)
def test_eeg_that_wanders_jumps_or_lacks_a_little_keeps_its_opinion(rng, kind):
    x = ENOUGH[kind](eeg(rng)).astype(np.float32)
    repaired, quality = signals.repair_with_quality(x.T[None])
    assert quality.problems() == [""] and np.isfinite(repaired).all()
    missing = {"9 of 19 missing": 9}.get(kind, 0)
    assert quality.n_electrodes.tolist() == [19 - missing]


@pytest.mark.parametrize("kind", ["drift", "strong drift of some", "a step", "two large steps"])
def test_what_is_seen_of_it_is_the_same_eeg(rng, kind):
    clean = eeg(rng)
    wanted = bandpass(signals.repair(clean.T[None])[0].T, 0.5, 20)
    out = bandpass(signals.repair(ENOUGH[kind](clean).astype(np.float32).T[None])[0].T, 0.5, 20)
    rest = np.ones(N, bool)  # but for what the filter makes of a jump
    for jump in (0, 2_000, 5_000, 8_000, N):
        rest[max(0, jump - 1_400) : jump + 1_400] = False
    assert np.abs(out - wanted)[rest].max() < 1.0


def test_one_absurd_sample_is_one_lost_sample(rng):
    x = eeg(rng)
    wanted = signals.wavenet_input(x)
    for value in (1e20, -1e30, np.inf, np.nan, 2e5):
        broken = x.copy()
        broken[3_333, 5] = value
        out = signals.wavenet_input(broken)
        assert np.abs(out - wanted).max() < 0.5 and np.abs(out - wanted)[0, 800:].max() < 1e-3


def test_quality_says_what_was_replaced_and_lost(rng):
    x = np.stack([eeg(rng)] * 3)
    x[0, :, [3, 19]] = 5.0
    x[1, 2_000:3_000] = np.nan
    x[1, :, 8] = np.nan
    quality = signals.repair_with_quality(np.swapaxes(x, 1, 2))[1]
    assert [list(np.flatnonzero(row)) for row in quality.replaced] == [[3, 19], [8], []]
    assert quality.n_electrodes.tolist() == [18, 18, 19]
    np.testing.assert_allclose(quality.lost, [0, 0.1, 0], atol=0.03)
    np.testing.assert_allclose(quality.lost_centre, 0, atol=0.03)
    assert len(signals.repair_with_quality(np.zeros((0, 20, N)))[1].problems()) == 0


@pytest.mark.parametrize("kind", [*NO_EEG, *ENOUGH])
def test_the_graph_follows_the_same_rule(kind):
    x = ({**NO_EEG, **ENOUGH})[kind](eeg(np.random.default_rng(3))).astype(np.float32)
    repaired, quality = signals.repair_with_quality(x.T[None])
    graph, enough = signals.repair_in_graph(x.T[None])
    assert bool(np.asarray(enough)[0, 0]) == (quality.problems() == [""])
    np.testing.assert_allclose(np.asarray(graph), repaired, atol=0.02)
