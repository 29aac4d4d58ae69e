"""The short form of `make chaos`: whatever is killed goes on, and ends as if nothing had been."""

import subprocess
import sys
from pathlib import Path


def test_nothing_is_lost():
    command = [sys.executable, Path(__file__).with_name("chaos.py")]
    command += "--random 1 --chosen 4 --two 1 --disks 2".split()
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
