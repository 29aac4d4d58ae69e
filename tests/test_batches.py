"""Batches depend on (seed, epoch, batch) only, and cover every window."""

import numpy as np
import pytest

from hmsutils.augment import AugmentConfig
from hmsutils.batches import Batches


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


def test_augmentation_is_drawn_from_seed_epoch_and_batch(data):
    options = dict(rows=np.arange(50), batch_size=16, shuffle=True, augmentation=AugmentConfig())
    one, two = Batches(*data, **options), Batches(*data, **options)
    two[2]  # asking in another order changes nothing
    for i in (0, 1):
        np.testing.assert_array_equal(one[i][0]["image"], two[i][0]["image"])
        np.testing.assert_array_equal(one[i][1], two[i][1])
    one.on_epoch_end()
    assert (one[0][0]["image"] != two[0][0]["image"]).any()
