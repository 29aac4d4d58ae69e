"""What is written is whole or not there; what one process holds, another one does not touch."""

import os
import shutil
import signal
import time
from collections import namedtuple

import pandas as pd
import pytest
from disks import can_mount, small_disk

from hmsutils import competition as ground

Usage = namedtuple("Usage", "total used free")


def test_what_is_written_lies_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *a: calls.append("replace") or rename(*a))
    seen = []

    def write(part):
        part.write_text("new")
        seen.extend([part.name, os.stat(part.parent).st_mode & 0o777, part.parent.parent])

    ground.write_atomically(tmp_path / "a.csv", write)
    assert calls == ["fsync", "replace", "fsync"]  # the file, and then the folder
    assert seen == ["a.csv", 0o700, tmp_path] and os.listdir(tmp_path) == ["a.csv"]


def test_a_folder_is_written_as_a_whole(tmp_path):
    source = tmp_path / "source" / "inner"
    source.mkdir(parents=True)
    (source / "a.txt").write_text("a")
    ground.write_atomically(
        tmp_path / "copy", lambda part: shutil.copytree(tmp_path / "source", part)
    )
    assert (tmp_path / "copy" / "inner" / "a.txt").read_text() == "a"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "submission.csv"
    victim.write_text("mine")
    path.symlink_to(victim)
    ground.write_csv(path, pd.DataFrame({"a": [1]}))
    assert victim.read_text() == "mine" and path.read_text() == "a\n1\n" and not path.is_symlink()
    (tmp_path / ".hmsutils.lock").symlink_to(victim)
    with pytest.raises(OSError, match="lock: cannot be written"), ground.locked(tmp_path, "test"):
        pass
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(tmp_path, make):
    make(tmp_path / "out")
    with pytest.raises(FileExistsError, match="out: cannot be written .*no regular file"):
        ground.write_atomically(tmp_path / "out", lambda part: part.write_text("x"))
    assert not (tmp_path / "out").is_file() and os.listdir(tmp_path) == ["out"]


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere/a.csv: cannot be written.*name a place"):
        ground.write_atomically(tmp_path / "nowhere" / "a.csv", lambda part: part.touch())


def hold(folder):
    """A process that holds a folder until it is killed, and writes there without an end."""
    pid = os.fork()
    if not pid:
        with ground.locked(folder, "child"):
            ground.write_atomically(folder / "a.csv", lambda part: part.touch() or time.sleep(30))
        os._exit(1)
    while not list(folder.glob(".hmsutils-part-*/a.csv")):
        time.sleep(0.01)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_folder_is_held_by_one_process_until_its_end(tmp_path):
    pid = hold(tmp_path)
    with pytest.raises(RuntimeError, match=f"me: process {pid} on .* is at work in {tmp_path}"):
        with ground.locked(tmp_path, "me", wait=False):
            pass
    assert list(tmp_path.glob(".hmsutils-part-*"))  # of a living process
    end(pid)
    with ground.locked(tmp_path, "me", wait=False):
        assert not list(tmp_path.glob(".hmsutils-part-*"))  # what it left is removed
    assert os.listdir(tmp_path) == [".hmsutils.lock"]


def test_who_waits_says_so_once_and_goes_on_when_the_other_has_ended(tmp_path, capfd):
    pid, began = hold(tmp_path), time.monotonic()
    if not (killer := os.fork()):
        time.sleep(0.3)
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
    with ground.locked(tmp_path, "me"):
        assert time.monotonic() - began > 0.2
    os.waitpid(pid, 0), os.waitpid(killer, 0)
    said = f"me: process {pid} on {os.uname().nodename} is at work in {tmp_path}; waiting"
    assert capfd.readouterr().out.count(said) == 1


def test_one_of_many_at_a_time(tmp_path):
    """Ten processes add one to a number, each after reading it."""
    (tmp_path / "number").write_text("0")
    pids = []
    for _ in range(10):
        pids.append(os.fork())
        if not pids[-1]:
            for _ in range(5):
                with ground.locked(tmp_path, "adding"):
                    number = int((tmp_path / "number").read_text())
                    time.sleep(0.002)
                    (tmp_path / "number").write_text(str(number + 1))
            os._exit(0)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 10
    assert (tmp_path / "number").read_text() == "50"


def test_missing_room_is_told_in_megabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, 2_500_000))
    ground.require_room(tmp_path / "not" / "yet", 2_500_000, "store")
    wanted = f"store needs 28,700.0 MB in {tmp_path}, where 2.5 MB are free; make room"
    with pytest.raises(OSError, match=wanted):
        ground.require_room(tmp_path / "not" / "yet", 28.7e9, "store")


def test_a_full_disk_and_a_read_only_one_leave_the_old_file(tmp_path):
    if not can_mount():
        pytest.skip("only root can mount a small disk")
    with small_disk(tmp_path / "disk") as remount:
        path = tmp_path / "disk" / "a.bin"
        ground.write_atomically(path, lambda part: part.write_bytes(b"old"))
        for options, size in (("size=64k", 10**5), ("ro,size=64k", 1)):
            remount(options)
            with pytest.raises(OSError, match="a.bin: cannot be written .*make room"):
                ground.write_atomically(path, lambda part, n=size: part.write_bytes(bytes(n)))
            assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["a.bin"]
        remount("rw,size=1m")
