"""What Kaggle needs: built as files to upload, checked in a replayed session, pushed.

package/, weights/                data sets: the project as a wheel; one zip per trained run
02_backbones/, …, 04_inference/   kernels: a notebook of notebooks/, unchanged, and its metadata
"""

import io
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

DATASETS = {"package": "hmsutils package", "weights": "hmsutils weights"}  # folder: title
KERNELS = {  # folder: the kernels whose output is attached
    "02_backbones": (),
    "03_wavenet_concat": ("02_backbones",),
    "04_inference": (),
}
NOBODY = "your-name"
PUSH = "python -m hmsutils kaggle push"
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Runs at the start of every Python of a replay. Jupyter talks to its kernel over loopback.
_OFFLINE = """
import socket

def only_local(owner, name, host_of):
    original = getattr(owner, name)
    def checked(*args, **kwargs):
        if host_of(args) not in (None, "", "localhost", "127.0.0.1", "::1"):
            raise OSError(f"internet is off, as on Kaggle: {name}{args[-2:]}")
        return original(*args, **kwargs)
    setattr(owner, name, checked)

for name in ("connect", "connect_ex"):
    only_local(socket.socket, name, lambda a: a[1][0] if isinstance(a[1], tuple) else None)
only_local(socket, "getaddrinfo", lambda a: (*a, None)[0])
"""


def slugify(title: str) -> str:
    """The last part of an address, as Kaggle makes it from a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _title(name: str) -> str:
    return DATASETS.get(name) or f"HMS {name.replace('_', ' ')}"


def _id(owner: str, name: str) -> str:
    return f"{owner}/{slugify(_title(name))}"


# ------------------------------------------------------------------------------- build


def build(
    out: str | Path, owner: str | None = None, runs: Sequence[str | Path] | None = None
) -> Path:
    """Write everything that is uploaded: two data sets and three kernels, a folder each.

    Args:
        out: the folder to write; what an earlier build left there is replaced.
        owner: a Kaggle user name; None: `$KAGGLE_USERNAME`, else a placeholder.
        runs: folders of the trained runs to upload; None: `inference.default_runs()`.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: not started inside the checkout, or a run is not finished.
        ValueError: no valid owner, two runs of one name, or see `validate`.
    """
    out, project = Path(out), project_dir()
    owner = owner or os.environ.get("KAGGLE_USERNAME") or NOBODY
    if not (project / "pyproject.toml").exists():
        raise FileNotFoundError(
            f"kaggle build: {project} is not the project's checkout, which the wheel and the "
            f"notebooks are made from; start it there"
        )
    for name in (*DATASETS, *KERNELS):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    _write_wheel(project, out / "package")
    _write_weights(runs or default_runs(), out / "weights")
    for name in DATASETS:
        data = {"title": _title(name), "id": _id(owner, name), "licenses": [{"name": "MIT"}]}
        (out / name / "dataset-metadata.json").write_text(json.dumps(data, indent=1))
    for name in KERNELS:
        shutil.copyfile(project / "notebooks" / f"{name}.ipynb", out / name / f"{name}.ipynb")
        data = _kernel_metadata(owner, name)
        (out / name / "kernel-metadata.json").write_text(json.dumps(data, indent=1))
    validate(out)
    return out


def _write_wheel(project: Path, folder: Path) -> None:
    """From a copy: setuptools would also pack what an earlier build left in `build/lib`."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(project / "hmsutils", Path(copy) / "hmsutils")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(project / name, copy)
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        _run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, copy])


def _write_weights(runs: Sequence[str | Path], folder: Path) -> None:
    """One zip per run, with what inference and evaluation read: Kaggle's client skips sub-folders,
    and its mounts show a zip unpacked."""
    names = [Path(run).resolve().name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"kaggle build: runs {', '.join(names)}; wanted no name twice; rename one")
    for name, run in zip(names, map(Path, runs), strict=True):
        folds = [f"fold{fold}/best.weights.h5" for fold in read_run(run)[0]["config"]["folds"]]
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for part in ("run.json", "history.csv", "oof.parquet", *folds):
                packed.write(run / part, part)


def _kernel_metadata(owner: str, name: str) -> dict:
    trains = name != "04_inference"
    presets = [f"keras/{b.family}/keras/{b.preset}/2" for b in BACKBONES.values()]
    return {
        "id": _id(owner, name), "title": _title(name), "code_file": f"{name}.ipynb",
        "language": "python", "kernel_type": "notebook", "is_private": True, "enable_gpu": trains,
        "enable_internet": False, "competition_sources": [SLUG],
        "dataset_sources": [_id(owner, n) for n in (["package"] if trains else DATASETS)],
        "kernel_sources": [_id(owner, other) for other in KERNELS[name]],
        "model_sources": presets if trains else [],
    }  # fmt: skip


def validate(out: str | Path) -> str:
    """Check a built folder by Kaggle's rules, before anything is uploaded; its owner's name.

    Raises:
        FileNotFoundError: a folder, its metadata or its notebook is missing.
        ValueError: a title, an id, a licence or a source that Kaggle would refuse, or a sub-folder,
            which its client would skip.
    """
    owners = set()
    for name in (*DATASETS, *KERNELS):
        kind = "dataset" if name in DATASETS else "kernel"
        path = Path(out) / name / f"{kind}-metadata.json"
        if not path.exists():
            raise FileNotFoundError(f"{path}: not found; run `python -m hmsutils kaggle build`")
        data = json.loads(path.read_text())
        owner, _, slug = data["id"].partition("/")
        owners.add(owner)
        problem = _problem(data, owner, slug) or _problem_of_files(path.parent, data)
        if problem:
            raise ValueError(f"{path}: {problem}; correct it, or build again")
    if len(owners) > 1:
        raise ValueError(f"{out}: owners {', '.join(sorted(owners))}, wanted one; build again")
    return owners.pop()


def _problem(data: dict, owner: str, slug: str) -> str:
    """One sentence about metadata that Kaggle would refuse, else ""."""
    title, wanted = data["title"], slugify(data["title"])
    if not _SLUG.fullmatch(owner):
        return f"owner {owner!r}, wanted a Kaggle user name: small letters, digits, single hyphens"
    if not 6 <= len(title) <= 50 or not 6 <= len(slug) <= 50:
        return f"title {title!r} and address {slug!r}, wanted 6 to 50 characters each"
    if slug != wanted:
        return f"id ends in {slug!r}, wanted {wanted!r}, which Kaggle makes from the title"
    if "licenses" in data and [licence.get("name") for licence in data["licenses"]] != ["MIT"]:
        return f"licences {data['licenses']}, wanted exactly one, MIT"
    parts = {"dataset_sources": 2, "kernel_sources": 2, "model_sources": 5}
    wrong = [s for key, n in parts.items() for s in data.get(key, ()) if len(s.split("/")) != n]
    return f"sources {', '.join(wrong)}, wanted owner/name or owner/model/…/version" * bool(wrong)


def _problem_of_files(folder: Path, data: dict) -> str:
    files = {path.name: path.is_dir() for path in folder.iterdir()}
    if any(files.values()):
        return f"folder {max(files, key=files.get)} beside it, which Kaggle's client skips"
    if data.get("code_file", "") not in ("", *files):
        return f"code_file {data['code_file']} is not there"
    return f"no other file in {folder}" * (len(files) < 2)


# ------------------------------------------------------------------------------- check


def check(runs: Sequence[str | Path] | None = None) -> None:
    """Replay notebook 4 as Kaggle runs it, with the oldest versions, in the new and the old mounts.

    Builds, simulates a small competition, mounts all, and runs the kernel without internet in an
    environment that has all but this package. The submission must be the prior mean first, then
    another valid one.

    Raises:
        RuntimeError: no environment, the notebook fails, or it wrote no prior mean first.
        ValueError: the competition would refuse a submission.
    """
    python = _oldest_environment(project_dir())
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        built = build(there / "built", NOBODY, runs)
        competition = simulate_competition(there / "competition", n_patients=2)
        (there / "offline").mkdir()
        (there / "offline" / "sitecustomize.py").write_text(_OFFLINE)
        for layout in ("new", "old"):
            mount(built, competition.root, there / layout / "input", layout)
            began = time.monotonic()
            said = _replay(python, there, layout)
            seconds = time.monotonic() - began
            print(f"Kaggle, {layout} mounts: a valid submission in {seconds:.0f} s\n  {said}")


def mount(built: Path, competition: Path, root: Path, layout: str) -> None:
    """Lay out inputs as Kaggle does: `layout` is "new", or "old", where zips are left packed."""
    new = layout == "new"
    shutil.copytree(competition, root / "competitions" / SLUG if new else root / SLUG)
    for name in DATASETS:
        owner, slug = _id(NOBODY, name).split("/")
        folder = root / "datasets" / owner / slug if new else root / slug
        shutil.copytree(built / name, folder)
        for packed in folder.glob("*.zip") if new else ():
            shutil.unpack_archive(packed, packed.with_suffix(""))
            packed.unlink()


def _replay(python: Path, there: Path, layout: str) -> str:
    """What the notebook prints about its speed, once its submissions are found good."""
    _run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "hmsutils"])  # of the last replay
    working, root = there / layout / "working", there / layout / "input"
    working.mkdir()
    notebook = there / "built" / "04_inference" / "04_inference.ipynb"
    options = ["--kernel", "python3", "--no-progress-bar"]
    names = {"HOME": working, "PYTHONPATH": there / "offline", "HMS_KAGGLE_INPUT": root}
    names |= {"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "3"}
    with open(working / "log.txt", "w+") as log:
        process = subprocess.Popen(
            [python, "-m", "papermill", notebook, working / "executed.ipynb", *options],
            cwd=working, env=names, stdout=log, stderr=log,
        )  # fmt: skip
        first = _first_content(working / "submission.csv", process)
        if process.wait():
            log.seek(0)
            raise RuntimeError(f"kaggle check: the notebook failed, {layout} mounts\n{log.read()}")
    prior, final = (pd.read_csv(f) for f in (io.StringIO(first), working / "submission.csv"))
    ids = pd.read_csv(next(root.rglob("sample_submission.csv")))["eeg_id"]
    for submission in (prior, final):
        check_submission(submission, ids)
    if (prior.nunique()[1:] > 1).any() or prior.equals(final):
        raise RuntimeError("kaggle check: submission.csv was not the prior mean first; see cell 2")
    cells = json.loads((working / "executed.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    lines = "".join("".join(output.get("text", ())) for output in outputs).splitlines()
    return next(line for line in lines if " EEGs in " in line)


def _first_content(path: Path, process: subprocess.Popen) -> str:
    """What a file held when first seen; small files are written at once."""
    while process.poll() is None:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.1)
    return path.read_text() if path.exists() else ""


def _oldest_environment(project: Path) -> Path:
    """Python of `build/kaggle-venv`, made on first use from requirements-oldest.txt."""
    if sys.version_info >= (3, 13):
        raise RuntimeError(
            f"kaggle check: Python {sys.version_info[0]}.{sys.version_info[1]}, but the oldest "
            f"versions exist for 3.11 and 3.12 only; start it with one of these"
        )
    pins, folder = project / "requirements-oldest.txt", project / "build" / "kaggle-venv"
    python, ready = folder / "bin" / "python", folder / "ready.txt"
    if not ready.exists() or ready.read_text() != pins.read_text():
        print(f"Setting up {folder.relative_to(project)} (some minutes, needs the network)")
        _run([sys.executable, "-m", "venv", "--clear", folder])
        options = ["--quiet", "--no-compile", "--disable-pip-version-check"]
        _run([python, "-m", "pip", "install", *options, "--requirement", pins])
        shutil.copy(pins, ready)
    return python


# -------------------------------------------------------------------------------- push


def push(out: str | Path, names: Sequence[str] = ()) -> None:
    """Upload a built folder with Kaggle's client: data sets first, then kernels, which start there.

    Args:
        out: from `build`.
        names: folders in it; none: all but the kernels that need the output of another.

    Raises:
        ModuleNotFoundError: no client.
        RuntimeError: the client refuses, for example without a token.
        ValueError: a name that is not there, no owner, or see `validate`.
    """
    owner, known = validate(out), (*DATASETS, *KERNELS)
    if owner == NOBODY or set(names) - set(known):
        raise ValueError(
            f"kaggle push: owner {owner}, folders {', '.join(names) or 'all'}; wanted your user "
            f"name, see `kaggle build --owner`, and of {', '.join(known)}"
        )
    if not find_spec("kaggle"):
        raise ModuleNotFoundError(
            "kaggle push: Kaggle's client is not installed; pip install kaggle"
        )
    for name in [n for n in known if n in names or (not names and not KERNELS.get(n))]:
        folder = str(Path(out) / name)
        if name in DATASETS:
            _push_dataset(folder, _id(owner, name))
        else:
            print(_client("kernels", "push", "-p", folder))
    for name, needed in KERNELS.items():
        if needed and not names:
            print(f"When {', '.join(needed)} has run there: {PUSH} {name}")


def _push_dataset(folder: str, address: str) -> None:
    """Create it or add a version, and wait: a kernel pushed earlier would start without it."""
    try:
        _client("datasets", "status", address)
    except RuntimeError:  # it is not there yet; where it is something else, creating says so
        print(_client("datasets", "create", "-p", folder))
    else:
        print(_client("datasets", "version", "-p", folder, "-m", "python -m hmsutils kaggle push"))
    for _ in range(60):
        if "ready" in _client("datasets", "status", address):
            return
        time.sleep(10)
    raise RuntimeError(f"kaggle push: {address} is not ready after 10 min; see its page on Kaggle")


def _client(*arguments: str) -> str:
    """What Kaggle's client answers. It reports some errors with exit status 0."""
    command = [sys.executable, "-m", "kaggle", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True)
    said = (answer.stdout + answer.stderr).strip()
    if answer.returncode or " error: " in said or " not valid " in said:
        raise RuntimeError(f"kaggle push: `kaggle {' '.join(arguments)}` failed:\n{said}")
    return said


def _run(command: Sequence[str | Path]) -> None:
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        shown = " ".join(map(str, command))
        raise RuntimeError(f"kaggle: `{shown}` failed:\n{answer.stderr[-2000:]}")
