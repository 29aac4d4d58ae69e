"""A fold for each of two (simulated) GPUs trains like on one device; which GPUs are found."""

import os
import time

import pandas as pd
import pytest
from test_training import WAVENET

from hmsutils import devices, training

TWO = [devices.Gpu("GPU-a", "Tesla T4", 7.5), devices.Gpu("GPU-b", "Tesla T4", 7.5)]


def test_five_folds_share_two_gpus_and_each_process_sees_one(monkeypatch):
    monkeypatch.setattr(devices, "gpus", lambda: TWO)

    def work(fold):
        time.sleep(0.2)
        return fold, os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()

    calls = [{"fold": fold} for fold in range(5)]
    folds, seen, pids = zip(*devices.spread(work, calls, n_jobs=2), strict=True)
    assert sorted(folds) == [0, 1, 2, 3, 4] and set(seen) == {"GPU-a", "GPU-b"}
    assert len(set(zip(seen, pids, strict=True))) == 2 and os.getpid() not in pids
    (alone,) = devices.spread(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"), [{}], n_jobs=1)
    assert alone == os.environ.get("CUDA_VISIBLE_DEVICES")

    def fail():
        raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        list(devices.spread(fail, [{}, {}], n_jobs=2))


def test_two_processes_train_what_one_trains(windows, arrays, tmp_path, monkeypatch):
    config = [WAVENET.__class__(**vars(WAVENET) | {"folds": (0, 1), "epochs": 1})]
    (one,) = training.train(config, windows, arrays, runs_dir=tmp_path / "one")
    monkeypatch.setattr(devices, "gpus", lambda: TWO)
    (two,) = training.train(config, windows, arrays, runs_dir=tmp_path / "two", n_jobs=2)
    pd.testing.assert_frame_equal(one.oof(), two.oof())
    assert one.metrics == two.metrics and one.temperature == two.temperature


def test_half_precision_is_chosen_where_the_slowest_card_has_it():
    gpu = {c: devices.Gpu("GPU-a", "?", c) for c in (0.0, 6.0, 7.5, 8.0, 9.0)}
    chosen = {c: devices.half_precision([gpu[c]]) for c in gpu}
    half = {7.5: "mixed_float16", 8.0: "mixed_bfloat16", 9.0: "mixed_bfloat16"}
    assert chosen == {0.0: "float32", 6.0: "float32", **half}
    assert devices.half_precision([]) == devices.half_precision([gpu[6.0], gpu[8.0]]) == "float32"
    assert devices.half_precision([gpu[9.0], gpu[7.5]]) == "mixed_float16"


def test_cards_are_those_of_nvidia_smi_that_are_visible(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    answer = "GPU-a, Tesla T4, 7.5\nGPU-b, Tesla P100-PCIE-16GB, 6.0\n"
    script.write_text(
        f"#!/bin/sh\necho $* > {tmp_path}/asked\n"
        f'case "$*" in *-1*) echo "No devices were found"; exit 6;; esac\nprintf "{answer}"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [gpu.capability for gpu in devices.cards()] == [7.5, 6.0]
    assert devices.cards()[1].name == "Tesla P100-PCIE-16GB" and devices.gpus() == []
    where = devices.describe([WAVENET.precision])
    assert "CPU cores (Tesla T4 is not used: tensorflow has no CUDA; make notebooks GPU=1)" in where
    for chosen, n in (("0,1", 2), ("-1", 0), ("", 0)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert len(devices.cards()) == n
    assert "-i -1 " in (tmp_path / "asked").read_text()
    monkeypatch.setenv("PATH", "")
    assert devices.cards() == []
