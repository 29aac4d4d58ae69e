"""What Kaggle needs: built as files to upload, checked in a replayed session, pushed.

package/, weights/                data sets: the project as a wheel; one zip per trained run
02_backbones/, …, 04_inference/   kernels: a notebook of notebooks/, unchanged, and its metadata
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from hmsutils.evaluation import read_run
from hmsutils.files import SLUG, project_dir
from hmsutils.inference import check_submission, default_runs
from hmsutils.models import BACKBONES
from hmsutils.simulate import simulate_competition

DATASETS = ("package", "weights")
KERNELS = ("02_backbones", "03_wavenet_concat", "04_inference")
TITLES = {name: f"HMS {name.replace('_', ' ')}" for name in (*DATASETS, *KERNELS)}
AFTER = {"03_wavenet_concat": "02_backbones"}  # whose output it needs
NOBODY = "your-name"
_CLIENT = (sys.executable, "-m", "kaggle")
# Runs at the start of every Python of a replay; Jupyter talks to its kernel over loopback.
_OFFLINE = """import socket
for name in ("connect", "connect_ex"):
    def connect(self, address, original=getattr(socket.socket, name)):
        if isinstance(address, tuple) and address[0] not in ("localhost", "127.0.0.1", "::1"):
            raise OSError(f"internet is off, as on Kaggle: {address}")
        return original(self, address)
    setattr(socket.socket, name, connect)
"""


def slugify(title: str) -> str:
    """The last part of an address, as Kaggle makes it from a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def build(
    out: str | Path, owner: str | None = None, runs: Sequence[str | Path] | None = None
) -> str:
    """Write what is uploaded, two data sets and three kernels; returns the owner's name.

    Args:
        out: the folder to write; what an earlier build left there is replaced.
        owner: a Kaggle user name; None: `$KAGGLE_USERNAME`, else a placeholder.
        runs: folders of the trained runs to upload; None: `inference.default_runs()`.

    Raises:
        FileNotFoundError: not started inside the checkout, or a run is not finished.
        ValueError: two runs of one name, or see `validate`.
    """
    out, project = Path(out), project_dir()
    owner = owner or os.environ.get("KAGGLE_USERNAME") or NOBODY
    if not (project / "pyproject.toml").exists():
        raise FileNotFoundError(f"kaggle build: {project} is no checkout; start it inside one")
    for name in TITLES:
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
        path = out / name / f"{'dataset' if name in DATASETS else 'kernel'}-metadata.json"
        path.write_text(json.dumps(_metadata(owner, name), indent=1))
        if name in KERNELS:
            shutil.copy(project / "notebooks" / f"{name}.ipynb", out / name)
    _write_wheel(project, out / "package")
    _write_weights([Path(run).resolve() for run in runs or default_runs()], out / "weights")
    return validate(out)


def _metadata(owner: str, name: str) -> dict:
    ids = {other: f"{owner}/{slugify(title)}" for other, title in TITLES.items()}
    common = {"id": ids[name], "title": TITLES[name]}
    if name in DATASETS:
        return common | {"licenses": [{"name": "MIT"}]}
    trains = name != "04_inference"
    presets = [f"keras/{b.family}/keras/{b.preset}/2" for b in BACKBONES.values()]
    return common | {
        "code_file": f"{name}.ipynb", "language": "python", "kernel_type": "notebook",
        "is_private": True, "enable_gpu": trains, "enable_internet": False,
        "competition_sources": [SLUG],
        "dataset_sources": [ids["package"]] if trains else [ids["package"], ids["weights"]],
        "kernel_sources": [ids[AFTER[name]]] if name in AFTER else [],
        "model_sources": presets if trains else [],
    }  # fmt: skip


def _write_wheel(project: Path, folder: Path) -> None:
    """From a copy: setuptools would also pack what an earlier build left in `build/lib`."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(project / "hmsutils", Path(copy) / "hmsutils")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(project / name, copy)
        options = "--quiet --no-deps --no-build-isolation --no-index --wheel-dir".split()
        _run(sys.executable, "-m", "pip", "wheel", *options, folder, copy)


def _write_weights(runs: Sequence[Path], folder: Path) -> None:
    """A zip per run: Kaggle's client skips folders, and its mounts show zips unpacked."""
    for run in runs:
        if (folder / f"{run.name}.zip").exists():
            raise ValueError(f"kaggle build: two runs are called {run.name}; rename one folder")
        folds = [f"fold{fold}/best.weights.h5" for fold in read_run(run)[0]["config"]["folds"]]
        with zipfile.ZipFile(folder / f"{run.name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for part in ("run.json", "history.csv", "oof.parquet", *folds):
                packed.write(run / part, part)


def validate(out: str | Path) -> str:
    """Check a built folder by the rules of Kaggle and its client; returns the owner's name.

    Raises:
        FileNotFoundError, ValueError: no metadata; or what would be refused, and what is wanted.
    """
    owner = ""
    for name in TITLES:
        path = next(Path(out, name).glob("*-metadata.json"), None)
        if not path:
            raise FileNotFoundError(f"{out}/{name}: no metadata; run `kaggle build` first")
        data = json.loads(path.read_text())
        title, slug = data["title"], slugify(data["title"])
        owner = owner or data["id"].split("/")[0]
        files = sorted(file.name for file in path.parent.iterdir() if file != path)
        code, licences = data.get("code_file"), [x["name"] for x in data.get("licenses", ())]
        for found, wanted, kept in (
            (f"owner {owner!r}", "small letters, digits, single hyphens", owner == slugify(owner)),
            (f"id {data['id']!r}", f"{owner}/{slug}, as titled", data["id"] == f"{owner}/{slug}"),
            (f"title {title!r}", "6 to 50 characters", 6 <= len(slug) <= len(title) <= 50),
            (f"licences {licences}", "MIT alone", bool(code) or licences == ["MIT"]),
            (f"files {files}", code or "a wheel or zips", code in files if code else bool(files)),
        ):
            if not kept:
                raise ValueError(f"{path}: {found}, wanted {wanted}; correct it and build again")
    return owner


def check(runs: Sequence[str | Path] | None = None) -> None:
    """Replay notebook 4 as Kaggle runs it, with the oldest versions, in the new and the old mounts.

    The kernel runs without internet, on a small simulated competition, where all but this package
    is installed. Its submission must be the prior mean first, then another valid one.

    Raises:
        RuntimeError, ValueError: the notebook fails, or a submission is not what it must be.
    """
    python = _oldest_environment(project_dir())
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        build(there / "built", NOBODY, runs)
        simulate_competition(there / "competition", n_patients=1)
        (there / "sitecustomize.py").write_text(_OFFLINE)
        for layout in ("new", "old"):
            mount(there / "built", there / "competition", there / layout / "input", layout == "new")
            began = time.monotonic()
            said = _replay(python, there, there / layout)
            print(f"Kaggle, {layout} mounts: valid in {time.monotonic() - began:.0f} s; {said}")


def mount(built: Path, competition: Path, root: Path, new: bool) -> None:
    """Lay out inputs as Kaggle does, or, not `new`, as it did; there zips are left packed."""
    shutil.copytree(competition, root / "competitions" / SLUG if new else root / SLUG)
    for name in DATASETS:
        folder = (root / "datasets" / NOBODY if new else root) / slugify(TITLES[name])
        shutil.copytree(built / name, folder)
        for packed in folder.glob("*.zip") if new else ():
            shutil.unpack_archive(packed, packed.with_suffix(""))
            packed.unlink()


def _replay(python: Path, there: Path, session: Path) -> str:
    """What the notebook prints about its speed, once its submissions are found good."""
    for left in python.parents[1].glob("lib/python*/site-packages/hmsutils*"):  # by the last replay
        shutil.rmtree(left)
    working, root = session / "working", session / "input"
    working.mkdir()
    notebook = there / "built/04_inference/04_inference.ipynb"
    names = {"HOME": working, "PYTHONPATH": there, "HMS_KAGGLE_INPUT": root}
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
        raise RuntimeError(f"kaggle check: the notebook failed:\n{log.read_text()}")
    ids = pd.read_csv(next(root.rglob("sample_submission.csv")))["eeg_id"]
    prior, final = pd.read_csv(first), pd.read_csv(last)
    check_submission(prior, ids)
    check_submission(final, ids)
    if (prior.nunique()[1:] > 1).any() or prior.equals(final):
        raise RuntimeError("kaggle check: submission.csv did not hold the prior mean first")
    executed = (session / "executed.ipynb").read_text()
    return re.search(r"[\d.]+ s per EEG.*allows", executed).group()


def _oldest_environment(project: Path) -> Path:
    """Python of `build/kaggle-venv`, made on first use from requirements-oldest.txt."""
    pins, folder = project / "requirements-oldest.txt", project / "build" / "kaggle-venv"
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    if not ready.exists() or ready.read_text() != pins.read_text():
        print(f"Setting up {folder} (some minutes, needs the network)")
        _run(sys.executable, "-m", "venv", "--clear", folder)
        _run(python, "-I", "-m", "pip", "install", "--quiet", "--no-compile", "-r", pins)
        shutil.copy(pins, ready)
    return python


def push(out: str | Path, names: Sequence[str] = ()) -> None:
    """Upload a built folder with Kaggle's client: data sets, then kernels, which start there.

    `names` are folders in it; without any, all go but the kernel that needs another's output.

    Raises:
        ValueError: no such folder, no owner, or see `validate`.
        ModuleNotFoundError, RuntimeError: no client, or it refuses, for example without a token.
    """
    owner = validate(out)
    if owner == NOBODY or not set(names) <= set(TITLES):
        wanted = f"your user name (`kaggle build --owner`), and some of {', '.join(TITLES)}"
        raise ValueError(f"kaggle push: owner {owner}, folders {list(names)}; wanted {wanted}")
    if not find_spec("kaggle"):
        raise ModuleNotFoundError("kaggle push: Kaggle's client is missing; pip install kaggle")
    for name in [name for name in TITLES if name in (names or TITLES.keys() - AFTER.keys())]:
        folder = str(Path(out) / name)
        if name in KERNELS:
            print(_run(*_CLIENT, "kernels", "push", "-p", folder))
            continue
        status = (*_CLIENT, "datasets", "status", f"{owner}/{slugify(TITLES[name])}")
        try:
            _run(*status)
        except RuntimeError:  # it is not there yet; where it is something else, creating says so
            print(_run(*_CLIENT, "datasets", "create", "-p", folder))
        else:
            print(_run(*_CLIENT, "datasets", "version", "-m", "kaggle push", "-p", folder))
        while not {"ready", "error"} & set(_run(*status).split()):
            time.sleep(10)  # a kernel pushed earlier would start without it
    for name, first in AFTER.items() if not names else ():
        print(f"When {first} has run there: python -m hmsutils kaggle push {name}")


def _run(*command: str | Path) -> str:
    """What a command prints; Kaggle's client reports some errors with exit status 0."""
    answer = subprocess.run(command, capture_output=True, text=True)
    said = (answer.stdout + answer.stderr).strip()
    if answer.returncode or " error: " in said or " not valid " in said:
        raise RuntimeError(f"`{' '.join(map(str, command))}` failed:\n{said}")
    return said
