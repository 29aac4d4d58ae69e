"""Batches depend on (seed, epoch, batch) only, and cover every window."""

from dataclasses import replace

import numpy as np
import pytest

from hmsutils.augment import NO_AUGMENTATION, AugmentConfig
from hmsutils.batches import Batches
from hmsutils.representations import Image

INPUTS = {"image": Image(n_mels=2, n_frames=10)}


@pytest.fixture
def data(rng):
    """50 images, each of its own number."""
    image = np.broadcast_to(np.arange(50, dtype=np.uint8)[:, None, None, None], (50, 8, 10, 3))
    return {"image": image}, np.eye(6)[np.arange(50) % 6]


def ids(batches):
    return [
        np.round(batches[i][0]["image"][:, 0, 0, 0] * 255).astype(int).tolist()
        for i in range(len(batches))
    ]


def test_plain_batches_keep_the_order_and_every_row(data):
    batches = Batches(*data, np.arange(5, 50), INPUTS, batch_size=16)
    assert sum(ids(batches), []) == list(range(5, 50)) and len(batches) == 3
    batch, target = batches[0]
    assert batch["image"].dtype == np.float32 and target.dtype == np.float32
    np.testing.assert_array_equal(batch["image"], INPUTS["image"].decode(data[0]["image"][5:21]))
    np.testing.assert_array_equal(target, data[1][5:21])
    again = batches[0][0]["image"]
    assert type(again) is np.ndarray and not np.shares_memory(again, batch["image"])


def test_shuffled_epochs_differ_and_can_be_entered_anywhere(data):
    options = dict(rows=np.arange(50), inputs=INPUTS, batch_size=16, shuffle=True, seed=3)
    batches = Batches(*data, **options)
    first = ids(batches)
    batches.on_epoch_end()
    second = ids(batches)
    assert first != second and len(set(sum(first, []))) == 48
    assert ids(Batches(*data, **options, epoch=1)) == second
    assert ids(Batches(*data, **{**options, "seed": 4})) != first


def test_every_epoch_shows_one_random_window_of_each_label_group(data):
    group = np.repeat(np.arange(10), [1, 2, 3, 4, 5, 5, 6, 7, 8, 9])
    batches = Batches(
        *data, np.arange(1, 50), INPUTS, label_group=group, batch_size=3, shuffle=True, seed=5
    )
    seen = set()
    for _ in range(60):
        shown = sum(ids(batches), [])
        assert len(set(group[shown])) == len(shown) == 9 and 0 not in shown
        seen |= set(shown)
        batches.on_epoch_end()
    assert len(seen) == 49


def test_augmentation_is_drawn_from_seed_epoch_and_batch(data):
    augmentation = AugmentConfig(gain_db=3.0, mixup=0.2)
    options = dict(batch_size=16, shuffle=True, augmentation=augmentation)
    one, two = (Batches(*data, np.arange(50), INPUTS, **options) for _ in range(2))
    two[2]  # asking in another order changes nothing
    for i in (0, 1):
        np.testing.assert_array_equal(one[i][0]["image"], two[i][0]["image"])
        np.testing.assert_array_equal(one[i][1], two[i][1])
    one.on_epoch_end()
    assert (one[0][0]["image"] != two[0][0]["image"]).any()


def test_image_and_eeg_of_a_window_get_the_same_flip_and_partner(data, rng):
    left = np.zeros((50, 8, 10, 3), np.uint8)
    left[:, :4] = np.arange(50)[:, None, None, None]  # the rows of the chains LL and LP
    config = replace(NO_AUGMENTATION, flip_hemispheres=0.5, mixup=0.4)
    arrays, inputs = {"image": left, "other": left}, INPUTS | {"other": INPUTS["image"]}
    batch, _ = Batches(arrays, data[1], np.arange(50), inputs, augmentation=config)[0]
    np.testing.assert_array_equal(batch["image"], batch["other"])
    flipped = batch["image"][:, :4].max(axis=(1, 2, 3)) < batch["image"][:, 4:].max(axis=(1, 2, 3))
    assert 0 < flipped.sum() < 16


def test_fewer_windows_than_a_batch_are_one_batch_with_a_warning(data):
    with pytest.warns(UserWarning, match="batch_size 16, but only 7 windows"):
        batches = Batches(*data, np.arange(7), INPUTS, batch_size=16, shuffle=True)
    assert sorted(sum(ids(batches), [])) == list(range(7)) and len(batches) == 1
    assert len(Batches(*data, np.arange(7), INPUTS, batch_size=16)) == 1
    with pytest.raises(ValueError, match="`rows` is empty"):
        Batches(*data, np.arange(0), INPUTS)


def test_rows_that_a_store_lacks_are_refused(data):
    with pytest.raises(IndexError, match="out of bounds"):
        Batches(*data, np.arange(45, 55), INPUTS)[0]
