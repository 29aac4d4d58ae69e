"""The project's own folder, the one hash, the cores, and files written as a whole."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from hmsutils import competition


def checkout(folder):
    for mark in ("hmsutils", "notebooks"):
        (folder / mark).mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    return folder


def test_home_is_named_or_the_checkout_or_here(tmp_path, monkeypatch):
    monkeypatch.delenv("HMS_HOME", raising=False)
    other = checkout(tmp_path / "checkout")
    monkeypatch.chdir(other / "notebooks")
    assert competition.home_dir() == other  # the one that holds the working directory
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert competition.home_dir() == REPOSITORY  # the one that holds the package
    monkeypatch.setattr(competition, "__file__", str(tmp_path / "site-packages/hmsutils/x.py"))
    assert competition.home_dir() == empty
    monkeypatch.setenv("HMS_HOME", str(tmp_path / "named"))
    assert competition.home_dir() == tmp_path / "named"


def test_the_cores_are_those_that_the_process_may_use():
    code = "import os; os.sched_setaffinity(0, {0}); from hmsutils import competition as c"
    code += "; print(c.default_n_jobs())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=REPOSITORY)
    assert out.stdout.strip() == b"1", out.stderr


@dataclass(frozen=True)
class One:
    x: float = 1.0


@dataclass(frozen=True)
class Two:
    x: float = 1.0


def test_fingerprints_tell_apart_what_differs():
    parts = [(), (1,), (1, 2), ([1, 2],), ("1",), (One(),), (Two(),), (One(2.0),), (b"1",), (None,)]
    parts += [({"a": One()},), ({"a": Two()},), (Path("a/b"), 1)]
    names = [competition.fingerprint(*part) for part in parts]
    assert len(set(names)) == len(names) and all(len(name) == 12 for name in names)
    assert competition.fingerprint(One(), [1]) == competition.fingerprint(One(), (1,))
    with pytest.raises(TypeError, match="ndarray has no exact text"):
        competition.fingerprint(np.zeros(3))


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    competition.write_atomically(path, lambda part: part.write_text("old"))

    def fail(part):
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        competition.write_atomically(path, fail)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_what_is_read_is_named_whatever_is_wrong(tmp_path):
    path = tmp_path / "table"
    with pytest.raises(FileNotFoundError, match="table: not found; make it"):
        with competition.reading(path, "no table", "make it"):
            pass
    path.mkdir()
    with pytest.raises(ValueError, match=r"table: no table \(a folder or a pipe\); make it"):
        with competition.reading(path, "no table", "make it"):
            pass
    path.rmdir()
    path.touch()
    for error, said in ((KeyError("a"), r"KeyError\('a'\)"), (OSError("cut\n off"), "cut off")):
        with pytest.raises(ValueError, match=rf"table: no table \({said}\); make it"):
            with competition.reading(path, "no table", "make it"):
                raise error


def test_the_room_that_is_needed_is_printed_where_it_is_asked_for(tmp_path, capsys):
    competition.require_room(tmp_path / "not" / "yet", 2_500_000, "store: images")
    assert capsys.readouterr().out == ""
    competition.require_room(tmp_path / "not" / "yet", 2_500_000, "store: images", announce=True)
    assert f"store: images needs 2.5 MB in {tmp_path}, where " in capsys.readouterr().out
    with pytest.raises(OSError, match="make room there"):
        competition.require_room(tmp_path, 10**18, "store: images", announce=True)
    assert "needs 1,000,000,000,000.0 MB" in capsys.readouterr().out
