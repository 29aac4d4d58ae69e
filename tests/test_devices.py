"""A batch split over two (simulated) devices trains like a whole one, on the JAX backend."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from hmsutils import training

CODE = """
import sys
import jax, numpy as np, pandas as pd
from hmsutils import training
from hmsutils.training import TrainConfig
from hmsutils.models import WaveNetConfig

folder, n_devices = sys.argv[1], int(sys.argv[2])
used = set()


class Spy(training._Progress):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        used.add(len(self.model.trainable_variables[0].value.sharding.device_set))


training._Progress = Spy
config = TrainConfig(
    towers=("wavenet",), weights=None, folds=(0,), epochs=2, batch_size=8, dropout=0.0,
    wavenet=WaveNetConfig(filters=4, dilations=(1, 4), features=4),
)
windows, eeg = pd.read_parquet(folder + "/windows.parquet"), np.load(folder + "/eeg.npy")
run, = training.train(
    [config], windows, {"eeg": eeg}, runs_dir=f"{folder}/{n_devices}", data_parallel=n_devices > 1
)
assert used == {n_devices}, used
print(run)
"""


def train(folder, n_devices) -> pd.DataFrame:
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(n_devices)],
        env=os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return pd.read_csv(f"{done.stdout.splitlines()[-1]}/history.csv")


def test_two_devices_train_like_one(windows, arrays, tmp_path):
    windows.to_parquet(tmp_path / "windows.parquet")
    np.save(tmp_path / "eeg.npy", arrays["eeg"])
    one, two = (train(tmp_path, n) for n in (1, 2))
    np.testing.assert_allclose(two["val_kl"], one["val_kl"], rtol=1e-4)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)


def test_other_backends_are_refused(windows, arrays):
    with pytest.raises(ValueError, match="data_parallel with the backend tensorflow, wanted jax"):
        training.train([], windows, arrays, data_parallel=True)
