"""Representations are computed once, never mixed, and survive a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import INPUTS, SMALL_IMAGE

from hmsutils import records, signals, store
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


def flip(data):
    with open(data, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0] ^ 1
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte]))


def zero(data):
    array = np.load(data, mmap_mode="r+")
    array[:] = 0


def link(data):
    data.symlink_to(data.rename(data.with_suffix(".x")))


DAMAGES = {  # what happens to the data and to the checksums, and how many of 3 rows are lost
    "a bit": (flip, None, 1),
    "zeros": (zero, None, 3),
    "cut off": (lambda data: os.truncate(data, data.stat().st_size - 10), None, 3),
    "empty": (lambda data: os.truncate(data, 0), None, 3),
    "deleted": (os.unlink, None, 3),
    "a link": (link, None, 3),
    "no checksums": (None, os.unlink, 0),
    "checksums cut off": (None, lambda sums: os.truncate(sums, 9), 0),
    "flags of an older version": (None, lambda sums: np.save(sums, np.ones(3, bool)), 0),
    "a wrong checksum": (None, flip, 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_rows_that_are_not_as_they_were_written_are_computed_anew(tmp_path, damage):
    change_data, change_sums, n_lost = DAMAGES[damage]
    path, computed = tmp_path / "store" / "x.npy", []

    def work(rows):
        computed.extend(rows)
        return {"x": 10 * rows[:, None] + np.arange(1, 5)}

    def fill():
        tasks = [(np.array(rows), (np.array(rows),)) for rows in ([0, 1], [2])]
        return store.fill({"x": path}, {"x": ((4,), np.int32)}, tasks, work, n_jobs=1)["x"]

    wanted = [[1, 2, 3, 4], [11, 12, 13, 14], [21, 22, 23, 24]]
    assert fill().tolist() == wanted == fill().tolist() and computed == [0, 1, 2]
    if change_data:
        change_data(path)
    if change_sums:
        change_sums(path.with_suffix(".done.npy"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert fill().tolist() == wanted and not path.is_symlink()
    assert computed[3:] == ([2] if n_lost == 1 else [0, 1, 2])
    told = [str(w.message) for w in said if "not as they were" in str(w.message)]
    sentence = f"{n_lost} of 3 rows are not as they were written; computing them again"
    assert told == ([f"{path}: {sentence}"] if n_lost else [])


def test_a_build_without_room_says_how_much_is_needed_before_it_begins(few, tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")(10**9, 0, 1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(store, "_compute", lambda *a: pytest.fail("it began"))
    with pytest.raises(OSError, match=r"Computing image needs 0.0 MB in .*0.0 MB are free; make"):
        store.build(*few, {"image": SMALL_IMAGE}, out_dir=tmp_path, n_jobs=1)


def test_a_finished_store_needs_no_writable_folder(few, tmp_path, monkeypatch):
    first = store.build(*few, {"image": SMALL_IMAGE}, out_dir=tmp_path, n_jobs=1)["image"]
    monkeypatch.setattr(store.ground, "locked", lambda *a: pytest.fail("it would write"))
    again = store.build(*few, {"image": SMALL_IMAGE}, out_dir=tmp_path, n_jobs=1)["image"]
    np.testing.assert_array_equal(again, first)


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
        def slow(*args):
            time.sleep(0.3)
            return represent(*args)
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

    def counting(inputs, eeg_uv, context):
        computed.append(len(eeg_uv))
        return represent(inputs, eeg_uv, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "represent", counting)
        patch.setattr(store, "_EEGS_PER_TASK", 2)
        built = store.build(
            competition, windows, {"image": SMALL_IMAGE}, out_dir=tmp_path / "store", n_jobs=1
        )
    assert sum(computed) == (done == 0).sum()
    np.testing.assert_array_equal(built["image"], arrays["image"])


def test_values_of_another_shape_are_refused(tmp_path):
    arrays, tasks = {"a": ((3,), np.float32)}, [(np.arange(4), ())]
    with pytest.raises(ValueError, match=r"a.npy: computed \(4, 2\), wanted \(4, 3\)"):
        store.fill({"a": tmp_path / "a.npy"}, arrays, tasks, _two_columns, n_jobs=1)


def _two_columns():
    return {"a": np.zeros((4, 2))}


TEN_MINUTES = {"image": replace(SMALL_IMAGE, durations_s=(50.0, 600.0, 10.0))}


@pytest.fixture
def with_spectrograms(few, competition):
    copied, rows = few
    (copied.root / "train_spectrograms").mkdir()
    for i in rows["spectrogram_id"]:
        shutil.copy2(competition.spectrogram(i), copied.spectrogram(i))
    assert rows["spectrogram_id"].nunique() == len(rows)
    return few


def test_the_context_is_stored_and_computed_anew_when_a_spectrogram_changes(
    with_spectrograms, tmp_path
):
    (competition, windows), image = with_spectrograms, TEN_MINUTES["image"]
    options = {"out_dir": tmp_path, "n_jobs": 1}
    first = store.build(competition, windows, TEN_MINUTES, **options)["image"]
    for stored, row in zip(first, windows.itertuples(), strict=True):
        eeg_uv = records.read_windows(competition, row.eeg_id, [row.eeg_offset_s])
        power = records.read_spectrogram(competition, row.spectrogram_id, row.spectrogram_offset_s)
        wanted = image.with_context(signals.repair(eeg_uv), power[None])
        np.testing.assert_array_equal(stored, image.encode(wanted)[0])
        assert stored[..., 1].any()
    without = store.build(competition, windows, {"image": SMALL_IMAGE}, **options)["image"]
    path = competition.spectrogram(windows["spectrogram_id"].iloc[0])
    (100 * pd.read_parquet(path)).to_parquet(path)
    changed = store.build(competition, windows, TEN_MINUTES, **options)["image"]
    assert folder_of(changed) != folder_of(first) and (changed[1] == first[1]).all()
    assert changed[0, ..., 1].mean() > first[0, ..., 1].mean() + 50
    again = store.build(competition, windows, {"image": SMALL_IMAGE}, **options)["image"]
    assert folder_of(again) == folder_of(without)


def test_spectrograms_that_are_missing_or_broken_are_absent_and_counted(
    with_spectrograms, tmp_path
):
    (competition, windows), options = with_spectrograms, {"out_dir": tmp_path, "n_jobs": 1}
    present = store.build(competition, windows, TEN_MINUTES, **options)["image"]
    first, second = (competition.spectrogram(i) for i in windows["spectrogram_id"])
    first.unlink()
    with pytest.warns(UserWarning, match="1 of 2 windows have no readable 10-minute spectrogram"):
        store.build(competition, windows, TEN_MINUTES, **options)
    second.write_bytes(second.read_bytes()[:5000])
    with pytest.warns(UserWarning, match="2 of 2 windows have no readable 10-minute spectrogram"):
        absent = store.build(competition, windows, TEN_MINUTES, **options)["image"]
    assert not absent[..., 1].any() and (absent[..., ::2] == present[..., ::2]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said when they were computed
        store.build(competition, windows, TEN_MINUTES, **options)
