"""Replay the road to a submission as Kaggle runs it: `python .ci/kaggle_replay.py`.

Notebook 2, 2 again, 3 and 4, each a session of its own: without internet, on a small simulated
competition, in an environment with the oldest supported versions (requirements-oldest.txt) of
everything but this package, which the notebook installs from the attached wheel; inputs mounted as
Kaggle mounts them now, or as it used to. In the first session the time is up within a fold: the
second goes on from its output, 3 from that of the second, and 4 predicts with what 2 and 3 trained.
Notebook 4 meets test EEGs of which one is missing, one short and one damaged, and spectrograms of
which one is missing and one damaged. `submission.csv` must be the prior mean first, then another
valid one, and the three files must be named.

Two things are smaller than there: the profile, and the wheel's table of backbones, which has one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from hmsutils import kaggle
from hmsutils.competition import SIMULATION_FILE, SLUG, Competition
from hmsutils.inference import check_submission
from hmsutils.runs import released_runs
from hmsutils.simulate import simulate_competition

ROOT = Path(__file__).resolve().parents[1]
OWNER, BACKBONE, EPOCHS = "your-name", "mobilenet_v3_large", 12
SMALL = ["-p", "PROFILE", "smoke", "-y", f"SETTINGS: {{epochs: {EPOCHS}}}"]
# Its sitecustomize.py runs at the start of every Python of a replay: internet is off, as on Kaggle.
OFFLINE = ROOT / ".ci" / "offline"
# The same, and a clock that can be set half a day on, to where the time of a session is up.
CLOCK = """
import os, runpy, time
runpy.run_path({offline!r})
real = time.time
time.time = lambda: real() + 12 * 3600 * os.path.exists({mark!r})
"""


def main() -> None:
    """Replay the four sessions.

    Raises:
        RuntimeError, ValueError: a notebook fails, or does not do what it must.
    """
    python = oldest_environment()
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        build(there)
        competition = simulate_competition(there / "competition", n_patients=6)
        (competition.root / SIMULATION_FILE).unlink()  # for the notebooks they are the real files
        second, third, fourth = kaggle.KERNELS
        first = Session(python, there, second, new=True)
        first.run(stop_in_fold=True)
        (fold,) = first.working.glob(f"models/runs/{BACKBONE}-*/fold0")
        begun = (fold / "history.csv").read_text().splitlines()
        require(len(begun) <= EPOCHS and not (fold / "done.json").exists(), "stopped in a fold")
        again = Session(python, there, second, new=False, outputs={second: first})
        again.run()
        ended = again.file(fold / "history.csv", first).read_text().splitlines()
        require(len(ended) == EPOCHS + 1 and ended[: len(begun)] == begun, "the fold went on")
        joined = Session(python, there, third, new=False, outputs={second: again})
        joined.run()
        kept = joined.file(fold / "history.csv", first).read_text().splitlines()
        require(kept == ended, "notebook 3 takes what notebook 2 has trained")
        spoil(competition)
        last = Session(python, there, fourth, new=True, outputs={third: joined})
        last.run()
        check(last, competition)
        own = re.search(r"Models: .*\((the best of )?your own", last.printed())
        require(own is not None, "notebook 4 predicts with what 2 and 3 have trained")


def require(met: bool, what: str) -> None:
    if not met:
        raise RuntimeError(f"kaggle replay: not so: {what}")
    print(f"  {what}", flush=True)


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


def build(there: Path) -> None:
    """What is pushed, from a copy of the project in which one backbone is left."""
    for name in ("hmsutils", "notebooks"):
        shutil.copytree(ROOT / name, there / "project" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, there / "project")
    with open(there / "project" / "hmsutils" / "models.py", "a") as file:
        file.write(f"\nBACKBONES = {{{BACKBONE!r}: BACKBONES[{BACKBONE!r}]}}\n")
    os.environ["HMS_HOME"] = str(there / "project")
    kaggle.build(there / "built", OWNER, released_runs("*+*"))
    del os.environ["HMS_HOME"]


def mount(
    built: Path, competition: Path, root: Path, new: bool, outputs: Mapping[str, Path] | None = None
) -> None:
    """Lay out inputs as Kaggle does, or, not `new`, as it did; there zips are left packed.
    `outputs` are working folders that sessions of kernels have left."""
    shutil.copytree(competition, root / "competitions" / SLUG if new else root / SLUG)
    for name in kaggle.DATASETS:
        folder = (root / "datasets" / OWNER if new else root) / kaggle.slugify(kaggle.TITLES[name])
        shutil.copytree(built / name, folder)
        for packed in folder.glob("*.zip") if new else ():
            shutil.unpack_archive(packed, packed.with_suffix(""))
            packed.unlink()
    for name, working in (outputs or {}).items():
        folder = (root / "notebooks" / OWNER if new else root) / kaggle.slugify(kaggle.TITLES[name])
        shutil.copytree(working, folder)


class Session:
    """A run of a kernel: its inputs, its working folder, and what it printed."""

    def __init__(
        self, python: Path, there: Path, name: str, new: bool,
        outputs: Mapping[str, "Session"] | None = None,
    ):  # fmt: skip
        self.python, self.name, self.there = python, name, there
        self.folder = Path(tempfile.mkdtemp(dir=there, prefix=f"{name}-"))
        self.working = self.folder / "working"
        self.working.mkdir()
        left = {kernel: session.working for kernel, session in (outputs or {}).items()}
        mount(there / "built", there / "competition", self.folder / "input", new, left)
        attached = set(
            json.loads(self._built("kernel-metadata.json").read_text())["kernel_sources"]
        )
        attached |= {f"{OWNER}/{kaggle.slugify(kaggle.TITLES[name])}"} if name in left else set()
        wanted = {f"{OWNER}/{kaggle.slugify(kaggle.TITLES[kernel])}" for kernel in left}
        require(wanted <= attached, f"{name}, {'new' if new else 'old'} mounts: sources attached")

    def _built(self, name: str) -> Path:
        return self.there / "built" / self.name / name

    def run(self, stop_in_fold: bool = False) -> None:
        """Run the notebook; with `stop_in_fold` the time is up after a fold's first epoch. The
        first complete `submission.csv` is kept as `first.csv`. RuntimeError: it fails."""
        for left in self.python.parents[1].glob("lib/python*/site-packages/hmsutils*"):
            shutil.rmtree(left)  # by the last session
        mark, site, began = self.folder / "time-is-up", self.folder / "site", time.monotonic()
        site.mkdir()
        clock = CLOCK.format(offline=str(OFFLINE / "sitecustomize.py"), mark=str(mark))
        (site / "sitecustomize.py").write_text(clock)
        names = {"HOME": self.working, "PYTHONPATH": site, "PATH": os.environ["PATH"]}
        names |= {"HMS_KAGGLE_INPUT": self.folder / "input", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [self.python, "-m", "papermill", "--no-progress-bar", "--kernel", "python3"]
        command += SMALL if self.name != kaggle.KERNELS[-1] else []
        command += [self._built(f"{self.name}.ipynb"), self.folder / "executed.ipynb"]
        first, last = self.folder / "first.csv", self.working / "submission.csv"
        with open(self.folder / "log", "w") as log:
            options = {"cwd": self.working, "env": names, "stdout": log, "stderr": log}
            process = subprocess.Popen(command, **options)
            while process.poll() is None:
                if last.exists() and last.stat().st_size and not first.exists():
                    shutil.copy(last, first)
                if stop_in_fold and any(self.working.glob("models/runs/*/fold0/history.csv")):
                    mark.touch()
                time.sleep(0.1)
        if process.returncode:
            log = (self.folder / "log").read_text()
            raise RuntimeError(f"kaggle replay: {self.name} failed:\n{log}")
        print(f"  {self.name}: {time.monotonic() - began:.0f} s", flush=True)

    def file(self, path: Path, of: "Session") -> Path:
        """The file of this session that lies where `path` lies in another one."""
        return self.working / path.relative_to(of.working)

    def printed(self) -> str:
        cells = json.loads((self.folder / "executed.ipynb").read_text())["cells"]
        texts = [output.get("text", ()) for cell in cells for output in cell.get("outputs", ())]
        return "".join("".join(text) for text in texts)


def spoil(competition: Competition) -> None:
    """One test EEG is missing, one short, one damaged; of two spectrograms one each."""
    missing, short, damaged, _ = pd.read_csv(competition.root / "test.csv")["eeg_id"]
    competition.eeg(missing, "test").unlink()
    pd.read_parquet(competition.eeg(short, "test"))[:2000].to_parquet(
        competition.eeg(short, "test")
    )
    spectrograms = sorted((competition.root / "test_spectrograms").iterdir())
    spectrograms[0].unlink()
    for path in (competition.eeg(damaged, "test"), spectrograms[1]):
        path.write_bytes(path.read_bytes()[:1000])


def check(session: Session, competition: Competition) -> None:
    """What notebook 4 has written and printed about the files that `spoil` left."""
    ids = pd.read_csv(competition.root / "sample_submission.csv")["eeg_id"]
    prior = pd.read_csv(session.folder / "first.csv")
    final = pd.read_csv(session.working / "submission.csv")
    check_submission(prior, ids)
    check_submission(final, ids)
    require((prior.nunique()[1:] == 1).all(), "submission.csv is the prior mean first")
    votes = final.drop(columns="eeg_id")
    require(votes[:3].nunique().eq(1).all() and not votes[3:].equals(votes[:1]), "then another one")
    printed = session.printed()
    named = all(f"test_eegs/{eeg_id}.parquet" in printed for eeg_id in ids[:3])
    require(named and f"test_eegs/{ids[3]}" not in printed, "the three broken EEGs are named")
    require("exclude" not in printed and "3 of 4 rows are the prior" in printed, "with advice")
    print("  " + re.search(r"[\d.]+ s per EEG.*allows", printed).group())


if __name__ == "__main__":
    main()
