"""What holds for any data, not only for the examples of other tests; Hypothesis invents the data.

`HMS_EXAMPLES=2000` tries more of them than the fixed ones (conftest.py).
"""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hmsutils import evaluation, records, signals
from hmsutils.competition import CLASSES, ELECTRODES, VOTE_COLUMNS
from hmsutils.representations import Image, WaveNetInput
from hmsutils.signals import DOUBLE_BANANA, N_SCALP

seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
strange = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 1e5, 1e20, -3e38, 3e38])


# Folds and label groups


@st.composite
def tables(draw):
    """Windows of 2 to 12 patients with 1 to 3 EEGs of 1 to 12 rows each, in any order; few vote
    vectors, so that neighbours often agree."""
    rng, rows = draw(seeds), []
    sizes = draw(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=3), min_size=2,
                          max_size=12))  # fmt: skip
    for patient, eegs in enumerate(sizes):
        for size in eegs:
            eeg_id = 100 * patient + len(rows)
            rows += [(patient, eeg_id, 2.0 * i, *rng.permutation(6)[:2]) for i in range(size)]
    table = pd.DataFrame(rows, columns=["patient_id", "eeg_id", "eeg_offset_s", "first", "second"])
    # After one step in three the raters change their minds.
    changed = (rng.random(len(table)) < 1 / 3) | ~table["eeg_id"].duplicated()
    votes = 3 * np.eye(6, dtype=int)[table["first"]] + np.eye(6, dtype=int)[table["second"]]
    votes = votes[np.maximum.accumulate(np.where(changed, np.arange(len(table)), 0))]
    table[list(VOTE_COLUMNS)] = votes
    table["expert_consensus"] = np.take(CLASSES, votes.argmax(axis=1))
    table["label_id"] = rng.permutation(len(table))
    return table.sample(frac=1, random_state=int(rng.integers(2**31))).reset_index(drop=True)


@given(tables(), st.integers(2, 5), st.integers(0, 9))
def test_folds_part_the_patients_and_keep_every_row_where_it_was(table, n_folds, seed):
    assume(table["patient_id"].nunique() >= n_folds)
    folds = records.assign_folds(table, n_folds, seed)
    pd.testing.assert_frame_equal(folds.drop(columns="fold"), table)
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    assert (folds.groupby("eeg_id")["fold"].nunique() == 1).all()
    assert set(folds["fold"]) <= set(range(n_folds))
    pd.testing.assert_frame_equal(folds, records.assign_folds(table, n_folds, seed))


@given(tables(), st.integers(1, 7))
def test_label_groups_are_the_runs_of_equal_votes_and_each_has_one_representative(table, max_rows):
    groups = records.label_groups(table, max_rows)
    order = table.sort_values(["eeg_id", "eeg_offset_s"])
    keys = order[["eeg_id", *VOTE_COLUMNS]].to_numpy()
    runs = np.split(
        order["label_id"].to_numpy(), 1 + np.flatnonzero((keys[1:] != keys[:-1]).any(1))
    )
    assert groups["label_group"].nunique() == len(runs)
    for (_, kept), run in zip(groups.groupby("label_group"), runs, strict=True):
        assert len(kept) == min(len(run), max_rows) and set(kept["label_id"]) <= set(run)
        (middle,) = np.flatnonzero(np.isin(run, kept.loc[kept["is_representative"], "label_id"]))
        wanted = (len(run) - 1) // 2  # an even number of rows leaves it out: then one beside it
        assert middle == wanted or (len(kept) % 2 == 0 and 0 < wanted - middle <= len(run) / 2)
    original = table.set_index("label_id").index  # those that stay keep their order
    assert groups["label_id"].tolist() == [i for i in original if i in set(groups["label_id"])]


# Representations


REPRESENTATIONS = [Image(n_mels=8, n_frames=64), WaveNetInput(), WaveNetInput(clip_uv=90.0)]


@pytest.mark.parametrize("representation", REPRESENTATIONS, ids=lambda r: r.key)
@given(rng=seeds, scale=st.sampled_from([0.01, 1.0, 100.0]))
def test_what_is_stored_comes_back_within_half_a_step(representation, rng, scale):
    limit = np.iinfo(representation.stored_as)
    x = np.sort(rng.normal(0, scale, 500).astype(np.float32))
    low, high = limit.min * representation.unit, limit.max * representation.unit
    stored = representation.encode(x)
    back = representation.decode(stored)
    assert stored.dtype == representation.stored_as and back.dtype == np.float32
    error = np.abs(back - np.clip(x, low, high))
    assert error.max() <= 0.5001 * representation.unit + 1e-6 * np.abs(back).max()
    assert (np.diff(back) >= 0).all()  # nothing wraps around
    np.testing.assert_array_equal(representation.encode(back), stored)


@given(seeds, st.floats(-1e4, 1e4), st.integers(0, N_SCALP - 1))
def test_a_montage_is_blind_to_what_all_electrodes_share_and_passes_nan_on(rng, common, lost):
    eeg_uv = rng.normal(0, 50, (1, 20, 64)).astype(np.float32)
    derived = signals.montage(eeg_uv, DOUBLE_BANANA)
    np.testing.assert_allclose(signals.montage(eeg_uv + np.float32(common), DOUBLE_BANANA), derived,
                               atol=4e-3)  # fmt: skip
    time_first = signals.bipolar(eeg_uv[0].T, ELECTRODES, DOUBLE_BANANA)
    np.testing.assert_array_equal(time_first.T, derived[0])
    reversed_pairs = [pair[::-1] for pair in DOUBLE_BANANA]
    np.testing.assert_array_equal(signals.montage(eeg_uv, reversed_pairs), -derived)
    eeg_uv[:, lost] = np.nan
    concerned = [ELECTRODES[lost] in pair for pair in DOUBLE_BANANA]
    broken = np.isnan(signals.montage(eeg_uv, DOUBLE_BANANA)).all(axis=(0, 2))
    assert broken.tolist() == concerned


# Repair


@st.composite
def spoiled(draw):
    """(N, 20, T) microvolts in which any electrodes, times or samples hold any number."""
    rng, n, samples = draw(seeds), draw(st.integers(0, 3)), draw(st.integers(60, 400))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 50.0, 1e4, 1e30]))
    eeg_uv = rng.normal(0, 1, (n, 20, samples)) * scale
    for _ in range(draw(st.integers(0, 4))):
        value = draw(strange | st.floats(width=32))
        part = draw(st.sampled_from(["electrodes", "times", "samples", "half"]))
        where = rng.random({"electrodes": (n, 20, 1), "times": (n, 1, samples)}.get(
            part, eeg_uv.shape))  # fmt: skip
        eeg_uv[np.broadcast_to(where < (0.5 if part == "half" else 0.1), eeg_uv.shape)] = value
    return eeg_uv


@given(spoiled())
@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_whatever_comes_in_repaired_eeg_is_finite_and_windows_do_not_touch_each_other(eeg_uv):
    before = eeg_uv.copy()
    repaired = signals.repair(eeg_uv)
    np.testing.assert_array_equal(eeg_uv, before)
    assert repaired.shape == eeg_uv.shape and repaired.dtype == np.float32
    assert np.isfinite(repaired).all()
    np.testing.assert_array_equal(signals.repair(eeg_uv[::-1]), repaired[::-1])
    for window, wanted in zip(eeg_uv, repaired, strict=True):
        np.testing.assert_array_equal(signals.repair(window[None])[0], wanted)


@given(seeds, st.integers(400, 1000), st.sampled_from([5.0, 50.0, 150.0]), st.floats(-1e4, 1e4))
def test_good_eeg_is_unchanged_up_to_its_median(rng, samples, scale, offset):
    eeg_uv = rng.normal(0, scale, (2, 20, samples)).astype(np.float32)
    centred = eeg_uv - np.median(eeg_uv, axis=-1, keepdims=True)
    np.testing.assert_allclose(signals.repair(eeg_uv), centred, atol=1e-4)
    np.testing.assert_allclose(signals.repair(eeg_uv + np.float32(offset)), centred, atol=4e-3)


# The metric


@st.composite
def probabilities(draw):
    """(N, 6) rows that sum to 1, some of them certain."""
    rng, n = draw(seeds), draw(st.integers(1, 20))
    rows = rng.dirichlet(np.full(6, draw(st.sampled_from([0.05, 1.0, 20.0]))), n)
    certain = rng.random(n) < 0.2
    rows[certain] = np.eye(6)[rng.integers(0, 6, certain.sum())]
    return rows


@given(probabilities(), seeds)
def test_the_metric_is_zero_for_the_truth_alone_and_blind_to_order(target, rng):
    prediction = rng.dirichlet(np.ones(6), len(target))
    kl = evaluation.kl_divergence(target, prediction)
    assert evaluation.kl_divergence(target, target) == pytest.approx(0, abs=1e-9)
    assert kl > 0 or np.allclose(target, prediction)
    rows, classes = rng.permutation(len(target)), rng.permutation(6)
    mixed = target[rows][:, classes], prediction[rows][:, classes]
    assert evaluation.kl_divergence(*mixed) == pytest.approx(kl, rel=1e-9)
    closer = 0.5 * target + 0.5 * prediction  # KL is convex
    assert evaluation.kl_divergence(target, closer) <= 0.5 * kl + 1e-12
    cross = -(target * np.log(prediction)).sum(axis=1).mean()
    entropy = -(target * np.log(np.where(target > 0, target, 1))).sum(axis=1).mean()
    assert kl == pytest.approx(cross - entropy, rel=1e-6, abs=1e-9)


@given(probabilities(), st.floats(0.05, 20))
def test_a_temperature_keeps_probabilities_and_their_order(prediction, temperature):
    cooled = evaluation.apply_temperature(prediction, temperature)
    np.testing.assert_allclose(cooled.sum(axis=1), 1, atol=1e-9)
    first = np.take_along_axis(cooled, prediction.argmax(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(first, cooled.max(axis=1), rtol=1e-9)
    back = evaluation.apply_temperature(cooled, 1 / temperature)
    likely = prediction.min(axis=1) > 1e-3
    if temperature < 1:  # cooling may lose what is small
        likely &= (prediction ** (1 / temperature)).min(axis=1) > 1e-12
    np.testing.assert_allclose(back[likely], prediction[likely], atol=1e-3)
