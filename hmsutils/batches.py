"""Shuffled, augmented batches for `model.fit`; a seed and an epoch always give the same ones."""

from collections.abc import Mapping

import keras
import numpy as np

from hmsutils.augment import NO_AUGMENTATION, AugmentConfig, augment
from hmsutils.signals import WaveNetInputConfig
from hmsutils.spectrograms import ImageConfig


class Batches(keras.utils.PyDataset):
    """Windows of a store as batches.

    Args:
        arrays: {"image": (N, H, W, 3), "eeg": (N, T', P)}, memory-mapped; one or both.
        target: (N, 6) soft labels.
        rows: which windows to use.
        batch_size: windows per batch; a last smaller batch is dropped when shuffling.
        shuffle: a new order every epoch; else the order of `rows`.
        augmentation, image_config, eeg_config: see `augment.augment`.
        seed: batches depend on (seed, epoch, batch) only.
        epoch: the epoch to begin with, for a run that is resumed.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        target: np.ndarray,
        rows: np.ndarray,
        *,
        batch_size: int = 16,
        shuffle: bool = False,
        augmentation: AugmentConfig = NO_AUGMENTATION,
        image_config: ImageConfig = ImageConfig(),
        eeg_config: WaveNetInputConfig = WaveNetInputConfig(),
        seed: int = 0,
        epoch: int = 0,
    ):
        super().__init__(workers=1)
        self.arrays, self.target, self.rows = dict(arrays), target, np.asarray(rows)
        self.batch_size, self.shuffle = min(batch_size, len(self.rows)), shuffle
        self.augmentation = augmentation
        self.image_config, self.eeg_config = image_config, eeg_config
        self.seed = seed
        self._start(epoch)

    def __len__(self) -> int:
        whole = len(self.rows) // self.batch_size
        return whole if self.shuffle else -(-len(self.rows) // self.batch_size)

    def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        batch = {key: array[rows].astype(np.float32) for key, array in self.arrays.items()}
        target = self.target[rows].astype(np.float32)
        if self.augmentation == NO_AUGMENTATION:
            return batch, target
        rng = np.random.default_rng([self.seed, self.epoch, i])
        return augment(batch, target, self.augmentation, rng, self.image_config, self.eeg_config)

    def on_epoch_end(self) -> None:
        self._start(self.epoch + 1)

    def _start(self, epoch: int) -> None:
        self.epoch, self.order = epoch, self.rows
        if self.shuffle:
            self.order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
