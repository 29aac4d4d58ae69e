"""Augmented batches for `model.fit`, of stored windows or of an endless stream of simulated ones; a
seed and an epoch always give the same ones."""

import os
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import keras
import numpy as np

from hmsutils.augment import NO_AUGMENTATION, AugmentConfig, View, augment
from hmsutils.brain import WIDE, Domain
from hmsutils.signals import WaveNetInputConfig
from hmsutils.simulate import simulate_batch
from hmsutils.spectrograms import ImageConfig


class Batches(keras.utils.PyDataset):
    """Windows of a store as batches.

    Args:
        arrays: {"image": (N, H, W, 3), "eeg": (N, T', P)}, memory-mapped; one or both.
        target: (N, 6) soft labels.
        rows: which windows to use.
        vote_run: (N,) number of each window's run of equal votes; every epoch then shows one random
            window of each run. None: all windows.
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
        vote_run: np.ndarray | None = None,
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
        self.vote_run, self.shuffle = vote_run, shuffle
        self.augmentation = augmentation
        self.image_config, self.eeg_config = image_config, eeg_config
        self.seed = seed
        self._idle = {}  # shape → arrays to be used again
        self._start(epoch)
        self.batch_size = min(batch_size, len(self.order))

    def __len__(self) -> int:
        whole = len(self.order) // self.batch_size
        return whole if self.shuffle else -(-len(self.order) // self.batch_size)

    def __getitem__(self, i: int) -> tuple:
        """{name: (B, ...)} and target (B, 6), float32."""
        rows = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        views = {key: View.of(array, rows) for key, array in self.arrays.items()}
        target = self.target[rows].astype(np.float32)
        rng = np.random.default_rng([self.seed, self.epoch, i])
        views, target = augment(
            views, target, self.augmentation, rng, self.image_config, self.eeg_config
        )
        batch = {key: view.array(self._empty) for key, view in views.items()}
        return batch, target

    def on_epoch_end(self) -> None:
        self._start(self.epoch + 1)

    def _empty(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Memory that nobody looks at any more; first touching new pages costs as much as filling
        them. The array's base is a memoryview, so that every view of it keeps the array alive."""
        idle = self._idle.setdefault(shape, deque(maxlen=2))
        memory = idle.pop() if idle else np.empty(shape, dtype)
        out = np.asarray(memoryview(memory))
        weakref.finalize(out, idle.append, memory).atexit = False
        return out

    def _start(self, epoch: int) -> None:
        self.epoch, self.order = epoch, self.rows
        rng = np.random.default_rng([self.seed, epoch])
        if self.vote_run is not None:
            order = rng.permutation(self.rows)
            self.order = order[np.unique(self.vote_run[order], return_index=True)[1]]
        if self.shuffle:
            self.order = rng.permutation(self.order)


class Stream(keras.utils.PyDataset):
    """New simulated patients in every batch, made by worker processes while the model trains.

    Args:
        configs: representations by name, for example {"image": ImageConfig(), "eeg": …}.
        steps: batches per epoch.
        batch_size: windows per batch.
        domain: which brains and machines there are; all six classes equally frequent.
        augmentation: see `augment.augment`; simulated windows need little.
        seed, epoch: batches depend on (seed, epoch, batch) only, as in `Batches`.
        n_jobs: worker processes; None: one per core.

    Targets are the opinions that votes would be drawn from: votes without their noise.
    """

    def __init__(
        self,
        configs: Mapping[str, object],
        steps: int,
        *,
        batch_size: int = 32,
        domain: Domain = WIDE,
        augmentation: AugmentConfig = NO_AUGMENTATION,
        seed: int = 0,
        epoch: int = 0,
        n_jobs: int | None = None,
    ):
        super().__init__(workers=1)
        self.configs, self.steps, self.batch_size = dict(configs), steps, batch_size
        self.domain, self.augmentation = domain, augmentation
        self.seed, self.epoch = seed, epoch
        self._ahead = 2 * (n_jobs or os.cpu_count() or 1)
        self._executor = ProcessPoolExecutor(self._ahead // 2, mp_context=get_context("spawn"))
        self._made = {}  # number of a batch → its future

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        number = self.epoch * self.steps + i
        for later in range(number, number + self._ahead):
            if later not in self._made:
                seeds = [(self.seed, later, k) for k in range(self.batch_size)]
                self._made[later] = self._executor.submit(
                    simulate_batch, self.configs, seeds, self.domain, balanced=True
                )
        self._made = {n: future for n, future in self._made.items() if n >= number}
        arrays, _, opinion = self._made[number].result()
        batch = {key: array.astype(np.float32) for key, array in arrays.items()}
        rng = np.random.default_rng([self.seed, self.epoch, i])
        options = {f"{key}_config": config for key, config in self.configs.items()}
        return augment(batch, opinion.astype(np.float32), self.augmentation, rng, **options)

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def close(self) -> None:
        """Stop the workers."""
        self._executor.shutdown(cancel_futures=True)
