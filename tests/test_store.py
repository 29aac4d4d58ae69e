"""Representations are computed once, never mixed, and survive a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import INPUTS, SMALL_IMAGE

from hmsutils import records, store
from hmsutils.competition import SIMULATION_FILE, Competition
from hmsutils.representations import Image


def folder_of(array):
    return store.Path(array.filename).parent


@pytest.fixture
def few(competition, windows, tmp_path):
    """A competition of its own: a copy of the files of two windows, to be changed."""
    rows = windows.drop_duplicates("eeg_id").head(2)
    copied = Competition(tmp_path / "competition", "simulated")
    (copied.root / "train_eegs").mkdir(parents=True)
    for eeg_id in rows["eeg_id"]:
        shutil.copy2(competition.eeg(eeg_id), copied.eeg(eeg_id))
    shutil.copy2(competition.root / SIMULATION_FILE, copied.root)
    return copied, rows


def test_stored_rows_are_the_representations_of_their_windows(competition, windows, arrays):
    for row in (0, len(windows) // 2, len(windows) - 1):
        window = windows.iloc[row]
        eeg_uv = records.read_eeg(competition, window.eeg_id, window.eeg_offset_s)
        for name, representation in INPUTS.items():
            wanted = representation.encode(representation.from_raw(eeg_uv))[0]
            np.testing.assert_array_equal(arrays[name][row], wanted)
    assert arrays["image"].dtype == np.uint8 and isinstance(arrays["image"], np.memmap)


def test_rows_keep_their_place_whatever_the_order_of_the_windows(
    competition, windows, arrays, tmp_path
):
    order = np.random.default_rng(1).permutation(len(windows))  # windows of one EEG are apart
    mixed = store.build(competition, windows.iloc[order], INPUTS, out_dir=tmp_path)
    for name in INPUTS:
        np.testing.assert_array_equal(mixed[name], arrays[name][order])


def test_nothing_is_computed_twice(few, tmp_path, monkeypatch):
    first = store.build(*few, INPUTS, out_dir=tmp_path, n_jobs=1)
    monkeypatch.setattr(store, "_compute", lambda *a: pytest.fail("computed again"))
    again = store.build(*few, INPUTS, out_dir=tmp_path, n_jobs=1)
    np.testing.assert_array_equal(first["image"], again["image"])
    alone = store.build(*few, {"eeg": INPUTS["eeg"]}, out_dir=tmp_path)
    np.testing.assert_array_equal(alone["eeg"], first["eeg"])


CHANGES = {
    "a setting": lambda c, w, inputs, patch: (w, {"image": replace(SMALL_IMAGE, floor_db=1.0)}),
    "the store's version": lambda c, w, inputs, patch: (
        patch.setattr(store, "VERSION", store.VERSION + 1) or (w, inputs)
    ),
    "the simulator's version": lambda c, w, inputs, patch: (
        change_mark(c, "version", 99) or (w, inputs)
    ),
    "the simulation's seed": lambda c, w, inputs, patch: change_mark(c, "seed", 99) or (w, inputs),
    "a file": lambda c, w, inputs, patch: change_file(c, w) or (w, inputs),
    "the windows": lambda c, w, inputs, patch: (w.iloc[1:], inputs),
    "the representation's version": lambda c, w, inputs, patch: (
        patch.setattr(Image, "version", 2) or (w, inputs)
    ),
    "how it is stored": lambda c, w, inputs, patch: (
        patch.setattr(Image, "step", 1 / 200) or (w, inputs)
    ),
}


def change_mark(competition, name, value):
    mark = competition.root / SIMULATION_FILE
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {name: value}))


def change_file(competition, windows):
    path = competition.eeg(windows["eeg_id"].iloc[0])
    (2 * pd.read_parquet(path)).to_parquet(path)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_made_an_array_computes_it_anew_when_it_changes(
    few, tmp_path, monkeypatch, change
):
    inputs = {"image": SMALL_IMAGE}
    before = store.build(*few, inputs, out_dir=tmp_path, n_jobs=1)["image"]
    computed, compute = [], store._compute
    monkeypatch.setattr(store, "_compute", lambda *a: computed.append(a) or compute(*a))
    windows, inputs = CHANGES[change](*few, inputs, monkeypatch)
    after = store.build(few[0], windows, inputs, out_dir=tmp_path, n_jobs=1)["image"]
    assert folder_of(after) != folder_of(before) and computed
    if change == "a file":
        assert (after[0] != before[0]).any() and (after[1] == before[1]).all()


def test_another_split_has_a_folder_of_its_own(competition, tmp_path):
    test = records.load_windows(competition, "test").head(1)
    built = store.build(competition, test, INPUTS, split="test", out_dir=tmp_path, n_jobs=1)
    assert built["image"].shape == (1, *SMALL_IMAGE.shape)


def test_the_settings_lie_beside_the_data(arrays):
    text = json.loads((folder_of(arrays["image"]) / "config.json").read_text())
    assert text["type"] == "Image" and text["n_mels"] == SMALL_IMAGE.n_mels


def test_a_killed_build_goes_on_where_it_was(competition, windows, arrays, tmp_path):
    script = tmp_path / "build.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from pathlib import Path
        from hmsutils import records, store
        from hmsutils.competition import Competition
        from hmsutils.representations import Image
        competition = Competition(Path({str(competition.root)!r}), "local")
        windows = records.one_per_vote_run(records.load_windows(competition))
        windows = records.assign_folds(windows, n_folds=4)
        store._EEGS_PER_TASK, represent = 2, store.represent
        def slow(inputs, eeg_uv):
            time.sleep(0.3)
            return represent(inputs, eeg_uv)
        store.represent = slow
        store.build(competition, windows, {{"image": Image(n_mels=8, n_frames=64)}},
                    out_dir={str(tmp_path / "store")!r}, n_jobs=1)
        """)
    )
    process = subprocess.Popen([sys.executable, script], start_new_session=True)
    done = np.zeros(1, bool)
    for _ in range(600):
        time.sleep(0.1)
        if flags := list((tmp_path / "store").glob("*/image.done.npy")):
            done = np.load(flags[0])
        if done.any():
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = np.load(flags[0])
    assert done.any() and not done.all()
    computed, represent = [], store.represent

    def counting(inputs, eeg_uv):
        computed.append(len(eeg_uv))
        return represent(inputs, eeg_uv)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "represent", counting)
        patch.setattr(store, "_EEGS_PER_TASK", 2)
        built = store.build(
            competition, windows, {"image": SMALL_IMAGE}, out_dir=tmp_path / "store", n_jobs=1
        )
    assert sum(computed) == (~done).sum()
    np.testing.assert_array_equal(built["image"], arrays["image"])
