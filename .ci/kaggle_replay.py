"""Replay notebook 4 as Kaggle runs it: `python .ci/kaggle_replay.py [--run RUN …]`.

The kernel runs without internet, on a small simulated competition, in an environment with the
oldest supported versions (requirements-oldest.txt) of everything but this package, which the
notebook installs from the attached wheel; first with inputs mounted as Kaggle mounts them now, then
as it used to. `submission.csv` must be the prior mean first, then another valid one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from hmsutils import kaggle
from hmsutils.competition import SLUG
from hmsutils.inference import check_submission
from hmsutils.runs import released_runs
from hmsutils.simulate import simulate_competition

ROOT = Path(__file__).resolve().parents[1]
OWNER = "your-name"
# Its sitecustomize.py runs at the start of every Python of a replay: internet is off, as on Kaggle.
OFFLINE = ROOT / ".ci" / "offline"


def main() -> None:
    """Replay both layouts of the mounts.

    Raises:
        RuntimeError, ValueError: the notebook fails, or a submission is not what it must be.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, nargs="+", help="folders; default: the released model")
    runs = parser.parse_args().run or released_runs("*+*")
    python = oldest_environment()
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        kaggle.build(there / "built", OWNER, runs)
        simulate_competition(there / "competition", n_patients=1)
        for layout in ("new", "old"):
            mount(there / "built", there / "competition", there / layout / "input", layout == "new")
            began = time.monotonic()
            runtime = replay(python, there, there / layout)
            print(f"Kaggle, {layout} mounts: valid in {time.monotonic() - began:.0f} s; {runtime}")


def oldest_environment() -> Path:
    """Python of `build/kaggle-venv`, made on first use from requirements-oldest.txt."""
    pins, folder = ROOT / "requirements-oldest.txt", ROOT / "build" / "kaggle-venv"
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    if not ready.exists() or ready.read_text() != pins.read_text():
        print(f"Setting up {folder} (some minutes, needs the network)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        options = "-qq --no-compile --disable-pip-version-check -r".split()
        subprocess.run([python, "-I", "-m", "pip", "install", *options, pins], check=True)
        shutil.copy(pins, ready)
    return python


def mount(built: Path, competition: Path, root: Path, new: bool) -> None:
    """Lay out inputs as Kaggle does, or, not `new`, as it did; there zips are left packed."""
    shutil.copytree(competition, root / "competitions" / SLUG if new else root / SLUG)
    for name in kaggle.DATASETS:
        folder = (root / "datasets" / OWNER if new else root) / kaggle.slugify(kaggle.TITLES[name])
        shutil.copytree(built / name, folder)
        for packed in folder.glob("*.zip") if new else ():
            shutil.unpack_archive(packed, packed.with_suffix(""))
            packed.unlink()


def replay(python: Path, there: Path, session: Path) -> str:
    """Run the notebook, check its two submissions, return what it prints about its runtime."""
    for left in python.parents[1].glob("lib/python*/site-packages/hmsutils*"):  # by the last replay
        shutil.rmtree(left)
    working, root = session / "working", session / "input"
    working.mkdir()
    notebook = there / "built/04_inference/04_inference.ipynb"
    names = {"HOME": working, "PYTHONPATH": OFFLINE, "HMS_KAGGLE_INPUT": root}
    names |= {"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, "-m", "papermill", "--no-progress-bar", "--kernel", "python3", notebook]
    first, last, log = (session / name for name in ("first.csv", "working/submission.csv", "log"))
    with open(log, "w") as file:
        options = {"cwd": working, "env": names, "stdout": file, "stderr": file}
        process = subprocess.Popen([*command, session / "executed.ipynb"], **options)
        while process.poll() is None:
            if last.exists() and last.stat().st_size and not first.exists():
                shutil.copy(last, first)
            time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"kaggle replay: the notebook failed:\n{log.read_text()}")
    ids = pd.read_csv(next(root.rglob("sample_submission.csv")))["eeg_id"]
    prior, final = pd.read_csv(first), pd.read_csv(last)
    check_submission(prior, ids)
    check_submission(final, ids)
    if (prior.nunique()[1:] > 1).any() or prior.equals(final):
        raise RuntimeError("kaggle replay: submission.csv did not hold the prior mean first")
    executed = (session / "executed.ipynb").read_text()
    return re.search(r"[\d.]+ s per EEG.*allows", executed).group()


if __name__ == "__main__":
    main()
