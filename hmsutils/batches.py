"""Augmented batches of stored windows for `model.fit`; a seed and an epoch always give the same."""

import warnings
from collections.abc import Mapping

import keras
import numpy as np

from hmsutils.augment import NO_AUGMENTATION, AugmentConfig, BatchPlan, augment
from hmsutils.representations import Representation


class Batches(keras.utils.PyDataset):
    """Windows of a store as batches.

    Args:
        arrays: {input name: (N, *shape)} as stored, memory-mapped or not.
        target: (N, 6) soft labels.
        rows: which windows to use.
        inputs: {input name: representation} of at least the `arrays`.
        label_group: (N,) number of each window's group of equal labels; every epoch then shows one
            random window of each group. None: all windows.
        batch_size: windows per batch; a last smaller batch is dropped when shuffling, but for an
            only one, which is kept with a warning.
        shuffle: a new order every epoch; else the order of `rows`.
        augmentation: see `augment.augment`.
        seed: batches depend on (seed, epoch, batch) only.
        epoch: the epoch to begin with, for a run that is resumed.

    Raises:
        ValueError: no rows.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        target: np.ndarray,
        rows: np.ndarray,
        inputs: Mapping[str, Representation],
        *,
        label_group: np.ndarray | None = None,
        batch_size: int = 16,
        shuffle: bool = False,
        augmentation: AugmentConfig = NO_AUGMENTATION,
        seed: int = 0,
        epoch: int = 0,
    ):
        super().__init__(workers=1)
        self.arrays, self.target, self.rows = dict(arrays), target, np.asarray(rows)
        self.inputs, self.label_group, self.shuffle = dict(inputs), label_group, shuffle
        self.augmentation, self.seed = augmentation, seed
        self._start(epoch)
        if not len(self.order):
            raise ValueError("Batches: `rows` is empty, wanted the numbers of one window or more")
        self.batch_size = min(batch_size, len(self.order)) if shuffle else batch_size
        if self.batch_size < batch_size:
            warnings.warn(
                f"Batches: batch_size {batch_size}, but only {len(self.order)} windows, which make "
                f"one batch; pass more windows or a smaller batch_size",
                stacklevel=2,
            )

    def __len__(self) -> int:
        whole = len(self.order) // self.batch_size
        return whole if self.shuffle else -(-len(self.order) // self.batch_size)

    def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """{input name: (B, *shape)} and target (B, 6), float32."""
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        plans = {k: BatchPlan.of(x, self.inputs[k], rows) for k, x in self.arrays.items()}
        target = self.target[rows].astype(np.float32)
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return augment(plans, target, self.augmentation, rng)

    def on_epoch_end(self) -> None:
        self._start(self.epoch + 1)

    def _start(self, epoch: int) -> None:
        self.epoch, self.order = epoch, self.rows
        rng = np.random.default_rng([self.seed, epoch])
        if self.label_group is not None:
            order = rng.permutation(self.rows)
            self.order = order[np.unique(self.label_group[order], return_index=True)[1]]
        if self.shuffle:
            self.order = rng.permutation(self.order)
