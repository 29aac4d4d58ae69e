"""Stores and runs on a cluster: real Dask workers, each a process of its own."""

import os
import signal
import threading
import time

import joblib
import numpy as np
import pytest
from conftest import INPUTS
from distributed import Client, LocalCluster

from hmsutils import store, training
from hmsutils.config import TrainConfig
from hmsutils.models import WaveNetConfig


@pytest.fixture
def client(tmp_path):
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    cluster = LocalCluster(**options, local_directory=tmp_path / "dask")
    with cluster, Client(cluster) as client:
        yield client


class Killer(threading.Thread):
    """Kills a process as soon as there is something to lose, and says whether it did."""

    def __init__(self, pid, ready):
        super().__init__(daemon=True)
        self.pid, self.ready, self.killed = pid, ready, False

    def run(self):
        for _ in range(2400):
            if self.ready():
                os.kill(self.pid, signal.SIGKILL)
                self.killed = True
                return
            time.sleep(0.05)


def pids(client) -> list[int]:
    return list(client.run(os.getpid).values())


def test_a_store_loses_nothing_with_a_worker(client, competition, windows, arrays, tmp_path):
    begun = lambda: any(np.load(p).any() for p in tmp_path.glob("*/image.done.npy"))  # noqa: E731
    killer = Killer(pids(client)[0], begun)
    killer.start()
    with joblib.parallel_config(backend="dask"):
        built = store.build(competition, windows, INPUTS, out_dir=tmp_path)
    assert killer.killed, "the build ended too early to test anything"
    for key, array in arrays.items():
        np.testing.assert_array_equal(built[key], array)


def test_folds_lose_nothing_with_a_worker(client, windows, arrays, tmp_path):
    tiny = WaveNetConfig(filters=8, dilations=(1, 4), features=8)
    config = TrainConfig(
        towers=("wavenet",), weights=None, wavenet=tiny, folds=(0, 1), epochs=3, batch_size=8,
        inputs=INPUTS,
    )  # fmt: skip
    folder = training.run_folder(config, windows, tmp_path)
    began = lambda: len(list(folder.glob("fold*/history.csv"))) == 2  # noqa: E731
    killer = Killer(pids(client)[0], began)
    killer.start()
    with joblib.parallel_config(backend="dask"):
        (run,) = training.train([config], windows, arrays, runs_dir=tmp_path, n_jobs=2)
    assert killer.killed, "the training ended too early to test anything"
    assert list(run.history()["epoch"]) == [0, 1, 2] * 2  # no epoch twice, none missing
    assert sorted(run.oof()["label_id"]) == sorted(windows["label_id"][windows["fold"] < 2])
