"""Run folders: what they are called, where they are found, and that unfinished ones are refused."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hmsutils import runs
from hmsutils.competition import PREDICTION_COLUMNS, TARGET_COLUMNS
from hmsutils.runs import FoldFolder, Run

DESCRIPTION = {
    "name": "wavenet", "config": {"towers": ["wavenet"], "folds": [0, 2]}, "temperature": 1.1,
    "metrics": {"all": {"KL": 0.5, "accuracy": 0.7}}, "data": {"windows": 2, "data_id": "abc"},
    "prior_mean": {"0": [0.5, 0.5, 0, 0, 0, 0], "2": [0.25, 0.75, 0, 0, 0, 0]},
}  # fmt: skip
HISTORY = pd.DataFrame({"fold": [0, 2], "epoch": 0, "loss": 1.0, "val_kl": 0.5, "seconds": 3.0})


def oof(n=3):
    frame = pd.DataFrame({"label_id": np.arange(n), "patient_id": 1, "n_votes": 3, "fold": 0})
    return frame.assign(**dict.fromkeys((*TARGET_COLUMNS, *PREDICTION_COLUMNS), 1 / 6))


def write(folder: Path, **changes) -> Run:
    folder.mkdir(parents=True)
    return runs.write_run(folder, DESCRIPTION | changes, oof(), HISTORY)


def test_a_run_reads_what_was_written(tmp_path):
    run = write(tmp_path / "wavenet-1")
    assert (run.name, run.folds, run.kl, run.temperature) == ("wavenet", (0, 2), 0.5, 1.1)
    assert run.metrics["all"]["accuracy"] == 0.7 and run.data["data_id"] == "abc"
    assert run.temperatures == {}  # an older one
    several = {"<10": 0.9, "≥10": 1.4}
    assert write(tmp_path / "newer", temperatures=several).temperatures == several
    assert run.prior_mean == {0: [0.5, 0.5, 0, 0, 0, 0], 2: [0.25, 0.75, 0, 0, 0, 0]}
    pd.testing.assert_frame_equal(run.history(), HISTORY)
    pd.testing.assert_frame_equal(run.oof(), oof())
    assert Run(str(run.folder)) == run == Run(run) and len({run, Run(run)}) == 1
    assert Path(run) == run.folder and run != write(tmp_path / "wavenet-2")
    files = sorted(path.name for path in run.folder.iterdir())
    assert files == ["history.csv", "oof.parquet", "run.json"]


def test_an_unfinished_run_and_a_missing_fold_are_refused(tmp_path):
    FoldFolder(tmp_path / "cut", 0).folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="run.json: not found; train a fold of this"):
        Run(tmp_path / "cut")
    run = write(tmp_path / "wavenet-1")
    with pytest.raises(FileNotFoundError, match=r"wavenet has the folds \(0, 2\)"):
        run.weights(1)


def write_epochs(fold: FoldFolder, n: int, of: int = 2) -> FoldFolder:
    """A fold after n epochs, as training leaves it; after the last one, done."""
    fold.folder.mkdir(parents=True)
    fold.state(n - 1).write_text(f"state {n}")
    if n == of:
        fold.write_last(lambda path: path.write_text("weights"), oof())
    fold.write_history([{"epoch": k, "val_kl": 0.5, "seconds": 2.0} for k in range(n)])
    if n == of:
        fold.finish({"device": "CPU"})
    return fold


def test_a_fold_is_done_when_it_says_so_and_keeps_nothing_else(tmp_path):
    fold = FoldFolder(tmp_path, 3)
    assert fold.history().empty and fold.epochs(2) == fold.seconds() == [] and not fold.done
    write_epochs(fold, 1)
    assert fold.epochs(2) == [{"epoch": 0, "val_kl": 0.5, "seconds": 2.0}] and not fold.done
    shutil.rmtree(fold.folder)
    write_epochs(fold, 2)
    assert FoldFolder(tmp_path, 3).done == {"fold": 3, "device": "CPU"}
    assert fold.weights.read_text() == "weights" and fold.seconds() == [2.0, 2.0]
    files = sorted(path.name for path in fold.folder.iterdir())
    assert files == ["done.json", "history.csv", "model.weights.h5", "oof.parquet"]
    write_epochs(FoldFolder(tmp_path, 0), 1)
    (tmp_path / "folder").mkdir()
    assert [fold.fold for fold in runs.fold_folders(tmp_path)] == [0, 3]


@pytest.mark.parametrize("name", ["model.weights.h5", "oof.parquet", "history.csv", "done.json"])
@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 3)])
def test_a_fold_whose_files_were_deleted_or_cut_off_is_not_done(tmp_path, name, damage):
    fold = write_epochs(FoldFolder(tmp_path, 0), 2)
    damage(fold.folder / name)
    assert not fold.done
    if (name, damage) == ("done.json", os.unlink):  # all else is there: it is only not marked
        assert len(fold.epochs(2)) == 2
    else:
        with pytest.warns(UserWarning, match="not as they were written; training it anew"):
            assert fold.epochs(2) == []
        assert not (fold.folder / "history.csv").exists() and not fold.epochs(2)


def test_a_fold_that_was_begun_goes_on_only_from_its_state(tmp_path):
    for name, damage in (("state000.weights.h5", os.unlink), ("history.csv", os.truncate)):
        fold = write_epochs(FoldFolder(tmp_path / name, 0), 1)
        damage(fold.folder / name) if damage == os.unlink else damage(fold.folder / name, 20)
        with pytest.warns(UserWarning, match="fold0: files .* training it anew"):
            assert fold.epochs(2) == []


def test_a_folder_is_named_after_config_windows_and_files(tmp_path):
    windows = pd.DataFrame(
        {"eeg_id": [1, 1, 2], "eeg_offset_s": [0.0, 2.0, 0.0], "fold": [0, 0, 1]}
    )
    windows = windows.assign(data_id="abc", **dict.fromkeys(TARGET_COLUMNS, 1 / 6))
    config = {"towers": ["wavenet"], "seed": 0}
    same = runs.run_folder("wavenet", config, windows, tmp_path)
    assert runs.run_folder("wavenet", config, windows.copy(), tmp_path) == same
    unsaved = {"towers": ("wavenet",), "seed": 0}
    assert runs.run_folder("wavenet", unsaved, windows, tmp_path) == same
    assert same.parent == tmp_path and same.name.startswith("wavenet-")
    others = [
        ({"towers": ["wavenet"], "seed": 1}, windows),
        (config, windows.iloc[1:]),
        (config, windows.assign(fold=1 - windows["fold"])),
        (config, windows.assign(target_LPD=windows["target_LPD"] / 2)),
        (config, windows.assign(data_id="another simulation")),
    ]
    folders = {runs.run_folder("wavenet", c, w, tmp_path) for c, w in others}
    assert len(folders | {same}) == 6


def test_runs_are_found_by_name_and_unfinished_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    assert runs.find_runs() == []
    for name in ("b", "a"):
        write(tmp_path / "models" / "runs" / name)
    (tmp_path / "models" / "runs" / "c").mkdir()
    assert [run.folder.name for run in runs.find_runs()] == ["a", "b"]
    assert runs.find_runs(tmp_path / "models" / "runs") == runs.find_runs()


def test_released_runs_of_the_package_and_of_the_checkout_are_one_list(tmp_path, monkeypatch):
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    default = runs.released_run("mobilenet_v3_large+wavenet")
    assert runs.released_runs() == [default]
    with pytest.raises(FileNotFoundError, match="no resnet50_v2 among mobilenet.*wavenet"):
        runs.released_run("resnet50_v2")
    own = write(tmp_path / "models" / "released" / "wavenet")
    write(tmp_path / "models" / "released" / "mobilenet_v3_large+wavenet")
    assert runs.released_runs() == [default, own] and runs.released_runs("*+*") == [default]


def test_the_blend_of_the_released_runs_names_every_run_with_its_weight(tmp_path, monkeypatch):
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    default, folder = runs.released_run("mobilenet_v3_large+wavenet"), runs.released_dir()
    with pytest.raises(FileNotFoundError, match="released/blend.json; .* which HMS_HOME may name"):
        runs.released_blend()
    own = write(folder / "wavenet")
    runs.write_blend(folder, {default.folder.name: 0.75, "wavenet": 0.25, "densenet201": 0}, 0.5)
    assert runs.released_blend() == {default: 0.75, own: 0.25}
    shutil.rmtree(own.folder)
    with pytest.raises(FileNotFoundError, match="no wavenet among .* which HMS_HOME may name"):
        runs.released_blend()


def test_the_package_finds_its_released_run_from_an_empty_folder(tmp_path):
    code = (
        "from hmsutils import runs; import sys; run = runs.released_runs('*+*')[0];"
        "print(run.kl, run.weights(0).stat().st_size, len(run.oof()), 'keras' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HMS_HOME"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    kl, size, rows, keras = out.stdout.split() or pytest.fail(out.stderr)
    assert float(kl) == pytest.approx(0.628, abs=1e-3) and int(size) > 4e6
    assert (rows, keras) == ("3500", "False")


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Kaggle's mounts: a run in another notebook's output, and one in a zip left packed."""
    root = tmp_path / "input"
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(root))
    output = write(root / "notebook-2" / "models" / "runs" / "wavenet-1")
    packed = write(tmp_path / "mobilenet", name="mobilenet")
    shutil.make_archive(str(root / "models" / "mobilenet"), "zip", packed.folder)
    shutil.make_archive(str(root / "models" / "other"), "zip", tmp_path / "input" / "notebook-2")
    return output, packed


def test_mounted_runs_are_found_packed_ones_too(mounted):
    output, packed = runs.mounted_runs()
    assert output == mounted[0] and packed.name == "mobilenet"
    assert packed.folder.name == "mobilenet" and packed != mounted[1]
    pd.testing.assert_frame_equal(packed.oof(), oof())


def test_weights_of_a_mounted_blend_are_found(mounted):
    runs.write_blend(mounted[0].folder.parent, {"wavenet-1": 0.6, "other": 0.4}, 0.3)
    assert runs.mounted_weights() == {"wavenet-1": 0.6, "other": 0.4}


def test_folds_are_taken_over_from_the_mount_where_most_is_done(tmp_path, monkeypatch):
    monkeypatch.setenv("HMS_KAGGLE_INPUT", str(tmp_path / "input"))
    here, other = tmp_path / "runs" / "wavenet-1", tmp_path / "runs" / "wavenet-2"
    first, second = (tmp_path / "input" / k / "models" / "runs" / here.name for k in "ab")
    for run_dir, fold, n in ((first, 0, 3), (first, 1, 1), (second, 1, 2), (second, 2, 1)):
        write_epochs(FoldFolder(run_dir, fold), n, of=3)
    write_epochs(FoldFolder(second / "first", 2), 3, of=3)
    cut = write_epochs(FoldFolder(first, 2), 2, of=3)  # more epochs, but not the files to go on
    cut.state(1).unlink()
    write_epochs(FoldFolder(first, 3), 1, of=3).folder.joinpath(".hmsutils.lock").touch()
    write_epochs(FoldFolder(here, 3), 2, of=3)  # what lies here stays
    for _ in range(2):
        runs.take_over([here, other])
        assert not other.exists() and FoldFolder(here, 0).done
        epochs = [len(FoldFolder(here, fold).epochs(3)) for fold in (1, 2, 3)]
        assert epochs == [2, 1, 2] and FoldFolder(here / "first", 2).done
        assert FoldFolder(here, 1).state(1).read_text() == "state 2"
    assert not list(here.rglob(".hmsutils*"))


def test_a_blend_survives_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HMS_HOME", str(tmp_path))
    assert runs.read_blend() is None
    runs.default_dir().mkdir(parents=True)
    runs.write_blend(None, {"wavenet-1": 0.75, "resnet-2": 0.0, "mobilenet-3": 0.25}, 0.4)
    assert runs.read_blend() == ({"wavenet-1": 0.75, "mobilenet-3": 0.25}, 0.4)
    assert runs.read_blend(runs.default_dir()) == runs.read_blend()
    assert runs.find_runs() == []


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"name": "x", "config": {}}'])
def test_a_folder_that_is_no_run_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match="run.json: not the description of a run"):
        runs.Run(tmp_path)


FIELDS = {
    "name": [None, 3],
    "temperature": [0, -1.0, float("nan"), float("inf"), None, "1.0", True],
    "temperatures": [None, [1.0], {"<10": 0}, {"<10": 1.0, "≥10": "1.0"}, {"≥10": float("nan")}],
    "metrics.all.KL": [float("nan"), None, -0.5, "0.5"],
    "config.folds": [[], [0, 0], ["0"], [0.5], [-1], 0, None],
    "config.towers": [[], None, "wavenet", [1]],
    "data": [None, [1]],
    "prior_mean": [
        {},
        {"0": [1, 0, 0, 0, 0, 0]},  # fold 2 has none
        {"0": [0.5] * 6, "2": [1, 0, 0, 0, 0, 0]},
        {"0": [2, -1, 0, 0, 0, 0], "2": [1, 0, 0, 0, 0, 0]},
        {"0": [float("nan"), 1, 0, 0, 0, 0], "2": [1, 0, 0, 0, 0, 0]},
        {"0": [0.5, 0.5], "2": [0.5, 0.5]},
    ],
}


@pytest.mark.parametrize(("field", "value"), [(k, v) for k, vs in FIELDS.items() for v in vs])
def test_a_field_that_cannot_be_is_named_with_its_file(tmp_path, field, value):
    changed = json.loads(json.dumps(DESCRIPTION))
    *outer, last = field.split(".")
    place = changed
    for key in outer:
        place = place[key]
    place[last] = value
    (tmp_path / "run.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=f"run.json: not the description.*{field} is .*, wanted "):
        Run(tmp_path)


@pytest.mark.parametrize("field", [name for name in DESCRIPTION])
def test_a_missing_field_is_named(tmp_path, field):
    rest = {name: value for name, value in DESCRIPTION.items() if name != field}
    (tmp_path / "run.json").write_text(json.dumps(rest))
    with pytest.raises(ValueError, match=f"run.json: not the description of a run.*'{field}'"):
        Run(tmp_path)


def test_a_cut_or_foreign_file_is_named_and_a_pipe_does_not_hang(tmp_path):
    path, whole = tmp_path / "run.json", json.dumps(DESCRIPTION).encode()
    for content in (whole[:-20], b"", b"\xff\xfe", b"[" * 99_999, b'{"score": 1}', b"null"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="run.json: not the description of a run"):
            Run(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="run.json: .*a folder or a pipe"):
        Run(tmp_path)


def test_damaged_tables_of_a_run_are_named(tmp_path):
    run = write(tmp_path / "wavenet-1")
    oof().drop(columns=TARGET_COLUMNS[0]).to_parquet(run.folder / "oof.parquet")
    with pytest.raises(ValueError, match="oof.parquet: .*no column target_Seizure.*train it again"):
        run.oof()
    (run.folder / "oof.parquet").write_bytes(b"PAR1")
    (run.folder / "history.csv").write_bytes(b"")
    for read, name in ((run.oof, "oof.parquet"), (run.history, "history.csv")):
        with pytest.raises(ValueError, match=f"{name}: no table.*train it again"):
            read()


def test_only_runs_on_the_windows_of_the_newest_are_compared(tmp_path):
    found = [write(tmp_path / k, data={"fingerprint": k == "a"}) for k in "abc"]
    for i, run in enumerate(found):
        os.utime(run.folder / "run.json", (i, i))
    assert runs.comparable(found) == found[1:] and runs.comparable([]) == []
    assert runs.comparable(found[:1]) == found[:1]
    folds = {"n_folds": 5, "towers": ["wavenet"]}
    data = {"prior_mean": {str(k): [0.5, 0.5, 0, 0, 0, 0] for k in range(3)}}
    some = [write(tmp_path / str(k), config=folds | {"folds": k}, **data) for k in ([0, 1], [1])]
    os.utime(some[0].folder / "run.json", (9, 9))
    assert runs.comparable(some) == some and runs.comparable([*some, found[0]]) == some


def pack(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, and what is to be removed at the end of the process."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    removed = []
    monkeypatch.setattr(atexit, "register", lambda _, path, **options: removed.append(path))
    return tmp_path / "temporary", removed


def test_zips_that_are_no_runs_stand_in_nobodys_way(mounted, temporary, monkeypatch):
    root = mounted[0].folder.parents[3]
    (root / "cut.zip").write_bytes((root / "models" / "mobilenet.zip").read_bytes()[:-30])
    (root / "empty.zip").touch()
    os.mkfifo(root / "pipe.zip")
    pack(root / "foreign.zip", {"run.json": '{"score": 1}'})
    (root / "project").mkdir()
    (root / "project" / "run.json").write_text("{}")
    (root / "project" / "blend.json").write_text("{}")
    with pytest.warns(UserWarning) as warned:
        found = runs.mounted_runs()
    assert [run.name for run in found] == ["wavenet", "mobilenet"]
    said = "\n".join(str(w.message) for w in warned)
    for name in ("cut.zip", "empty.zip", "pipe.zip", "foreign/run.json", "project/run.json"):
        assert f"{name}: no" in said
    with pytest.warns(UserWarning, match="project/blend.json: no blend"):
        assert runs.mounted_weights() == {}
    folder, removed = temporary  # one folder for each that was unpacked, and each is removed
    assert sorted(map(str, folder.iterdir())) == sorted(removed) and len(removed) == 2


def test_a_zip_never_leaves_its_temporary_folder(mounted, temporary, tmp_path):
    root, text = mounted[0].folder.parents[3], json.dumps(DESCRIPTION)
    (root / "models" / "mobilenet.zip").unlink()
    outside = {"../../escaped": "x", str(tmp_path / "escaped"): "x", "a/../../../escaped": "x"}
    pack(root / "...zip", {"run.json": text, **outside})
    pack(root / "..zip", {"run.json": text})
    assert len(runs.mounted_runs()) == 3
    folder, removed = temporary
    assert sorted(map(str, folder.iterdir())) == sorted(removed)
    assert not [p for p in tmp_path.rglob("escaped") if not p.is_relative_to(folder)]
    assert not (folder / "run.json").exists() and not list(folder.glob("escaped"))


def test_a_bomb_is_not_unpacked(mounted, temporary, monkeypatch):
    monkeypatch.setattr(runs, "LARGEST_ZIP", 10**6)
    root = mounted[0].folder.parents[3]
    with zipfile.ZipFile(root / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("run.json", json.dumps(DESCRIPTION))
        packed.writestr("fold0/model.weights.h5", bytes(10**6))
    with pytest.warns(UserWarning, match="bomb.zip: .* more than 1,000,000"):
        assert [run.name for run in runs.mounted_runs()] == ["wavenet", "mobilenet"]
    assert len(list(temporary[0].iterdir())) == 1


def test_temporary_folders_are_gone_when_the_process_ends(mounted, tmp_path):
    code = "from hmsutils import runs; print(runs.mounted_runs()[1].folder)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert out.stdout.strip() and not Path(out.stdout.decode().strip()).exists(), out.stderr
    assert not list(tmp_path.glob("hmsutils-*"))


@pytest.mark.parametrize(
    "blend",
    [{"weights": {"a": -0.1}, "kl": 1}, {"weights": {"a": float("nan")}, "kl": 1}]
    + [{"weights": {"a": "1"}, "kl": 1}, {"weights": {"a": 1}, "kl": -1}, {"weights": {"a": 1}}],
)
def test_a_blend_with_impossible_numbers_is_named(tmp_path, blend):
    (tmp_path / "blend.json").write_text(json.dumps(blend))
    with pytest.raises(ValueError, match="blend.json: no blend .*(weights|kl)"):
        runs.read_blend(tmp_path)


def test_broken_runs_and_blends_do_not_stand_in_the_way(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    with pytest.warns(UserWarning, match="left out: .*broken/run.json"):
        assert runs.with_weights(runs.find_runs(tmp_path)) == []
    (tmp_path / "blend.json").write_text('{"kl": 0.5, "weights": {"a": 1.0}}')
    assert runs.read_blend(tmp_path) == ({"a": 1.0}, 0.5)
    runs.write_blend(tmp_path, {"a": 1.0}, kl=None)
    assert runs.read_blend(tmp_path) == ({"a": 1.0}, float("inf"))
    (tmp_path / "blend.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="blend.json: no blend .*notebook 3"):
        runs.read_blend(tmp_path)


def test_a_history_that_is_read_and_written_again_has_the_same_digits(tmp_path):
    fold = runs.FoldFolder(tmp_path, 0)
    fold.folder.mkdir()
    fold.write_history([{"epoch": 0, "loss": 1.9937679767608643, "val_kl": 0.5, "seconds": 2.0}])
    written = (fold.folder / "history.csv").read_bytes()
    fold.write_history(fold.history().to_dict("records"))
    assert (fold.folder / "history.csv").read_bytes() == written


def test_a_run_without_its_weights_is_left_out(tmp_path):
    shutil.copytree(runs.released_run("wavenet").folder, tmp_path / "old")
    weights = FoldFolder(tmp_path / "old", 0).weights
    weights.rename(weights.with_name("best.weights.h5"))
    with pytest.warns(UserWarning, match="left out: .*model.weights.h5: not found"):
        assert runs.with_weights(runs.find_runs(tmp_path)) == []
