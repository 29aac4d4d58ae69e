"""Representations are computed once, never mixed, and survive a kill."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from conftest import SMALL_IMAGE

from hmsutils import records, store
from hmsutils.signals import WaveNetInputConfig, repair, wavenet_input
from hmsutils.spectrograms import ImageConfig, MelConfig, image, log_mel

CONFIGS = {"image": SMALL_IMAGE, "eeg": WaveNetInputConfig()}


def test_stored_rows_are_the_transforms_of_their_windows(competition, windows, arrays):
    for row in (0, len(windows) // 2, len(windows) - 1):
        window = windows.iloc[row]
        eeg_uv = records.read_eeg(competition, window.eeg_id, window.eeg_offset_s)
        np.testing.assert_allclose(arrays["image"][row], image(eeg_uv, SMALL_IMAGE)[0], atol=1e-3)
        np.testing.assert_allclose(arrays["eeg"][row], wavenet_input(eeg_uv)[0], atol=1e-2)
    assert arrays["image"].dtype == np.float16 and isinstance(arrays["image"], np.memmap)


def test_representing_all_at_once_equals_one_by_one(rng, monkeypatch):
    eeg_uv = rng.normal(0, 30, (2, 10_000, 20)).astype(np.float32)
    eeg_uv[0, 3000:4000] = np.nan
    eeg_uv[1, :, 5] = 12.0
    singly = {"image": image(eeg_uv, SMALL_IMAGE), "eeg": wavenet_input(eeg_uv)}
    repaired = []
    monkeypatch.setattr(store, "repair", lambda x: repaired.append(len(x)) or repair(x))
    together = store.represent(CONFIGS | {"mel": MelConfig()}, eeg_uv)
    for name, array in (singly | {"mel": log_mel(eeg_uv)}).items():
        np.testing.assert_array_equal(together[name], array)
    assert repaired == [2]


def test_nothing_is_computed_twice(competition, windows, tmp_path, monkeypatch):
    first = store.build(competition, windows, CONFIGS, out_dir=tmp_path)
    monkeypatch.setattr(store, "_compute", lambda *a: pytest.fail("computed again"))
    again = store.build(competition, windows, CONFIGS, out_dir=tmp_path)
    np.testing.assert_array_equal(first["image"], again["image"])


def test_every_difference_gets_its_own_folder(competition, windows):
    def name(config=SMALL_IMAGE, rows=windows, split="train"):
        return store.config_hash(config, rows, competition, split)

    names = [
        name(),
        name(ImageConfig(n_mels=8, frames=65)),
        name(MelConfig()),
        name(rows=windows.iloc[1:]),
        name(rows=windows.assign(eeg_offset_s=windows["eeg_offset_s"] + 2)),
        name(split="test"),
    ]
    assert len(set(names)) == len(names) and name() == name()


def test_the_config_lies_beside_the_data(arrays):
    folder = store.Path(arrays["image"].filename).parent
    assert json.loads((folder / "config.json").read_text())["n_mels"] == SMALL_IMAGE.n_mels


def test_a_killed_build_goes_on_where_it_was(competition, windows, arrays, tmp_path):
    script = tmp_path / "build.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from hmsutils import records, store
        from hmsutils.files import Competition
        from hmsutils.spectrograms import ImageConfig
        from pathlib import Path
        competition = Competition(Path({str(competition.root)!r}), "local")
        windows = records.one_per_vote_run(records.load_windows(competition))
        windows = records.assign_folds(windows, n_folds=4)
        represent = store.represent
        def slow(configs, eeg_uv):
            time.sleep(0.3)
            return represent(configs, eeg_uv)
        store.represent = slow
        store.build(competition, windows, {{"image": ImageConfig(n_mels=8, frames=64)}},
                    out_dir={str(tmp_path / "store")!r}, n_jobs=1)
        """)
    )
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    flags = (
        tmp_path
        / "store"
        / store.config_hash(SMALL_IMAGE, windows, competition, "train")
        / "done.npy"
    )
    for _ in range(600):
        time.sleep(0.1)
        if flags.exists() and os.path.getsize(flags) >= len(windows) and np.load(flags).any():
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = np.load(flags)
    assert done.any() and not done.all()
    computed = []
    represent = store.represent

    def counting(configs, eeg_uv):
        computed.append(len(eeg_uv))
        return represent(configs, eeg_uv)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "represent", counting)
        built = store.build(
            competition, windows, {"image": SMALL_IMAGE}, out_dir=tmp_path / "store", n_jobs=1
        )
    assert sum(computed) == (~done).sum()
    np.testing.assert_array_equal(built["image"], arrays["image"])
