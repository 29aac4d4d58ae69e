"""A batch split over two (simulated) devices trains like a whole one, on the JAX backend."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

from hmsutils import training
from hmsutils.runs import Run

CODE = """
import sys
import numpy as np, pandas as pd
from hmsutils import training
from hmsutils.config import TrainConfig
from hmsutils.models import WaveNetConfig

used = []


class Spy(training._Progress):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        used.append(len(self.model.trainable_variables[0].value.sharding.device_set))


training._Progress = Spy
config = TrainConfig(
    towers=("wavenet",), weights=None, folds=(0,), epochs=1, batch_size=8, dropout=0.0,
    wavenet=WaveNetConfig(filters=4, dilations=(1, 4), features=4),
)
folder = sys.argv[1]
windows = pd.read_parquet(folder + "/windows.parquet")
arrays = {"eeg": np.load(folder + "/eeg.npy")}
for parallel in (True, False):
    options = {"runs_dir": f"{folder}/{parallel}", "data_parallel": parallel}
    print(training.train([config], windows, arrays, **options)[0].folder)
assert used == [2, 1], used
"""


def test_two_devices_train_like_one(windows, arrays, tmp_path):
    windows.to_parquet(tmp_path / "windows.parquet")
    np.save(tmp_path / "eeg.npy", arrays["eeg"])
    jax = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    jax["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        env=os.environ | jax, capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folders = [line for line in done.stdout.splitlines() if line.startswith(str(tmp_path))]
    two, one = (Run(run).history().iloc[0] for run in folders)
    np.testing.assert_allclose(two[["loss", "val_kl"]], one[["loss", "val_kl"]], rtol=1e-4)


def test_other_backends_are_refused(windows, arrays):
    with pytest.raises(ValueError, match="data_parallel with the backend tensorflow, wanted jax"):
        training.train([], windows, arrays, data_parallel=True)
