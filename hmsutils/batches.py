"""Augmented batches of stored windows for `model.fit`; a seed and an epoch always give the same."""

import warnings
from collections.abc import Mapping

import keras
import numpy as np

from hmsutils.augment import NO_AUGMENTATION, AugmentConfig, BatchPlan, augment
from hmsutils.representations import Representation


class Batches(keras.utils.PyDataset):
    """Windows of a store as batches: {input name: (B, *shape)} and target (B, 6), float32.

    `arrays` are (N, *shape) as stored, `inputs` their representations, `rows` the windows to use,
    ValueError for none. With `label_group` (N,), the number of each window's group of equal labels,
    an epoch shows one random window of each group. `shuffle` makes a new order every epoch and
    drops a last smaller batch; an only one is kept with a warning. Batches depend on (`seed`,
    epoch, batch) only; `epoch` is the one to begin with.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], target: np.ndarray, rows: np.ndarray,
        inputs: Mapping[str, Representation], *, label_group: np.ndarray | None = None,
        batch_size: int = 16, shuffle: bool = False, augmentation: AugmentConfig = NO_AUGMENTATION,
        seed: int = 0, epoch: int = 0,
    ):  # fmt: skip
        super().__init__(workers=1)
        self.arrays, self.target, self.rows = dict(arrays), target, np.asarray(rows)
        self.inputs, self.label_group, self.shuffle = dict(inputs), label_group, shuffle
        self.augmentation, self.seed = augmentation, seed
        self._start(epoch)
        if not len(self.order):
            raise ValueError("Batches: `rows` is empty, wanted the numbers of one window or more")
        self.batch_size = min(batch_size, len(self.order)) if shuffle else batch_size
        if self.batch_size < batch_size:
            problem = f"batch_size {batch_size}, but only {len(self.order)} windows, one batch"
            remedy = "pass more windows or a smaller batch_size"
            warnings.warn(f"Batches: {problem}; {remedy}", stacklevel=2)

    def __len__(self) -> int:
        whole = len(self.order) // self.batch_size
        return whole if self.shuffle else -(-len(self.order) // self.batch_size)

    def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        plans = {k: BatchPlan.of(x, self.inputs[k], rows) for k, x in self.arrays.items()}
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return augment(plans, self.target[rows].astype(np.float32), self.augmentation, rng)

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
