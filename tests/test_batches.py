"""Batches depend on (seed, epoch, batch) only, and cover every window."""

import numpy as np
import pytest

from hmsutils.augment import AugmentConfig
from hmsutils.batches import Batches, Stream
from hmsutils.brain import WIDE
from hmsutils.signals import WaveNetInputConfig
from hmsutils.simulate import simulate_batch


@pytest.fixture
def data(rng):
    n = 50
    image = np.broadcast_to(np.arange(n)[:, None, None, None] / 100, (n, 8, 10, 3)).astype(
        np.float16
    )
    return {"image": image}, np.eye(6)[np.arange(n) % 6]


def ids(batches):
    return [
        np.round(batches[i][0]["image"][:, 0, 0, 0] * 100).astype(int).tolist()
        for i in range(len(batches))
    ]


def test_plain_batches_keep_the_order_and_every_row(data):
    batches = Batches(*data, rows=np.arange(5, 50), batch_size=16)
    assert sum(ids(batches), []) == list(range(5, 50)) and len(batches) == 3
    batch, target = batches[0]
    assert batch["image"].dtype == np.float32 and target.dtype == np.float32
    np.testing.assert_array_equal(target, data[1][5:21])


def test_shuffled_epochs_differ_and_can_be_entered_anywhere(data):
    options = dict(rows=np.arange(50), batch_size=16, shuffle=True, seed=3)
    batches = Batches(*data, **options)
    first = ids(batches)
    batches.on_epoch_end()
    second = ids(batches)
    assert first != second and len(set(sum(first, []))) == 48
    assert ids(Batches(*data, **options, epoch=1)) == second
    assert ids(Batches(*data, **{**options, "seed": 4})) != first


def test_every_epoch_shows_one_random_window_of_each_vote_run(data):
    vote_run = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 5, 6, 7, 8, 9])
    batches = Batches(
        *data, rows=np.arange(1, 50), vote_run=vote_run, batch_size=3, shuffle=True, seed=5
    )
    seen = set()
    for _ in range(60):
        shown = sum(ids(batches), [])
        assert len(set(vote_run[shown])) == len(shown) == 9 and 0 not in shown
        seen |= set(shown)
        batches.on_epoch_end()
    assert len(seen) == 49


def test_augmentation_is_drawn_from_seed_epoch_and_batch(data):
    augmentation = AugmentConfig(gain_db=3.0, mixup=0.2)
    options = dict(rows=np.arange(50), batch_size=16, shuffle=True, augmentation=augmentation)
    one, two = Batches(*data, **options), Batches(*data, **options)
    two[2]  # asking in another order changes nothing
    for i in (0, 1):
        np.testing.assert_array_equal(one[i][0]["image"], two[i][0]["image"])
        np.testing.assert_array_equal(one[i][1], two[i][1])
    one.on_epoch_end()
    assert (one[0][0]["image"] != two[0][0]["image"]).any()


def test_memory_is_used_again_but_never_while_somebody_looks_at_it(data):
    batches = Batches(*data, rows=np.arange(50), batch_size=10)
    first = batches[0][0]["image"]
    address, part = first.ctypes.data, first[3:5]
    del first
    assert batches[1][0]["image"].ctypes.data != address
    np.testing.assert_array_equal(part, data[0]["image"][3:5].astype(np.float32))
    del part
    assert batches[2][0]["image"].ctypes.data == address


def test_rows_that_a_store_lacks_are_refused(data):
    with pytest.raises(IndexError, match="out of bounds"):
        Batches(*data, rows=np.arange(45, 55))[0]


def test_the_stream_is_new_in_every_batch_and_depends_on_seed_epoch_and_batch_only():
    options = {"steps": 2, "batch_size": 3, "n_jobs": 1, "seed": 7}
    config = {"eeg": WaveNetInputConfig()}
    stream = Stream(config, **options)
    first = [stream[i] for i in (0, 1)]
    stream.on_epoch_end()
    third = stream[0]
    late = Stream(config, **options, epoch=1)
    np.testing.assert_array_equal(late[0][0]["eeg"], third[0]["eeg"])
    stream.close(), late.close()
    seeds = [(7, 1, k) for k in range(3)]
    wanted, _, opinion = simulate_batch(config, seeds, WIDE, balanced=True)
    np.testing.assert_array_equal(first[1][0]["eeg"], wanted["eeg"])
    np.testing.assert_allclose(first[1][1], opinion, atol=1e-6)
    means = [x[0]["eeg"].std() for x in (*first, third)]
    assert len(set(means)) == 3 and first[0][0]["eeg"].shape == (3, 2000, 18)
