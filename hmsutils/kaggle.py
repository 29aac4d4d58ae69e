"""What Kaggle needs: built as files to upload, validated, pushed.

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
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from hmsutils.competition import SLUG, Competition, home_dir, write_text
from hmsutils.records import load_windows
from hmsutils.runs import Run, write_blend

DATASETS = ("package", "weights")
KERNELS = ("02_backbones", "03_wavenet_concat", "04_inference")
TITLES = {name: f"HMS {name.replace('_', ' ')}" for name in (*DATASETS, *KERNELS)}
AFTER = dict(zip(KERNELS[1:], KERNELS, strict=False))  # whose output each goes on from
GPU = "NvidiaTeslaT4"  # two of them; the client's docs/kernels.md, without it may come a P100
NOBODY = "your-name"
_CLIENT = (sys.executable, "-m", "kaggle")


def slugify(title: str) -> str:
    """The last part of an address, as Kaggle makes it from a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def build(out: str | Path, owner: str | None = None, runs: Sequence | None = None) -> str:
    """Write what is uploaded, two data sets and three kernels, in place of an earlier build;
    returns the owner's name.

    `owner` is a Kaggle user name (None: `$KAGGLE_USERNAME`, else a placeholder); `runs` are trained
    runs to upload, or their folders (None: `inference.default_runs()`).
    FileNotFoundError: no checkout, or an unfinished run. ValueError: two runs of one name, or no
    name of a user. FileExistsError: the folder holds something else by the name of a part.
    """
    out, project = Path(out), home_dir()
    owner = owner or os.environ.get("KAGGLE_USERNAME") or NOBODY
    if owner != slugify(owner):
        raise ValueError(f"kaggle build: owner {owner!r}, wanted small letters, digits and hyphens")
    for part in (out / name for name in TITLES):  # only what was built is replaced
        built = not part.exists() or list(part.glob("*-metadata.json")) or _is_part(part)
        if part.is_symlink() or not built:
            raise FileExistsError(f"kaggle build: {part} was not built; name another folder")
    if not (project / "pyproject.toml").exists():
        raise FileNotFoundError(f"kaggle build: {project} is no checkout; name one in HMS_HOME")
    from hmsutils import inference, models  # NumPy, pandas and numba with them

    chosen = dict.fromkeys(runs, 1.0) if runs else inference.default_runs()
    weights = {Run(Path(run).resolve()): weight for run, weight in chosen.items()}
    if len(names := {run.folder.name for run in weights}) < len(weights):
        problem = f"{len(weights)} runs, but the names {names}"
        raise ValueError(f"kaggle build: {problem}; rename folders")
    for name in TITLES:
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
        if name in KERNELS:
            shutil.copy(project / "notebooks" / f"{name}.ipynb", out / name)
    _write_wheel(project, out / "package")
    _write_weights(weights, out / "weights")
    for name in TITLES:  # last: a part that has metadata is complete
        path = out / name / f"{'dataset' if name in DATASETS else 'kernel'}-metadata.json"
        metadata = _metadata(owner, name, models.BACKBONES.values())
        write_text(path, json.dumps(metadata, indent=1))
    return validate(out)


def _is_part(folder: Path) -> bool:
    """Whether a folder may be what a killed build left: nothing but what it writes."""
    kinds = (".ipynb", ".whl", ".zip", ".json")
    return all(path.suffix in kinds for path in folder.iterdir())


def _metadata(owner: str, name: str, backbones: Iterable) -> dict:
    ids = {other: f"{owner}/{slugify(title)}" for other, title in TITLES.items()}
    common = {"id": ids[name], "title": TITLES[name]}
    if name in DATASETS:
        return common | {"licenses": [{"name": "MIT"}]}
    trains = name != "04_inference"
    return common | {
        "code_file": f"{name}.ipynb", "language": "python", "kernel_type": "notebook",
        "is_private": True, "enable_internet": False, "enable_gpu": True, "machine_shape": GPU,
        "competition_sources": [SLUG],
        "dataset_sources": [ids["package"]] if trains else [ids["package"], ids["weights"]],
        "kernel_sources": [ids[AFTER[name]]] if name in AFTER else [],
        "model_sources": [f"keras/{b.family}/keras/{b.preset}/2" for b in backbones if trains],
    }  # fmt: skip


def _write_wheel(project: Path, folder: Path) -> None:
    """From a copy: setuptools would also pack what an earlier build left in `build/lib`."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(project / "hmsutils", Path(copy) / "hmsutils")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(project / name, copy)
        options = "--quiet --no-deps --no-build-isolation --no-index --wheel-dir".split()
        _run(sys.executable, "-m", "pip", "wheel", *options, folder, copy)


def _write_weights(weights: Mapping[Run, float], folder: Path) -> None:
    """A zip per run: Kaggle's client skips folders, and its mounts show zips unpacked."""
    write_blend(folder, {run.folder.name: weight for run, weight in weights.items()}, kl=None)
    for run in weights:
        with ZipFile(folder / f"{run.folder.name}.zip", "w", ZIP_DEFLATED) as packed:
            for file in (*run.folder.glob("[!.]*.*"), *map(run.weights, run.folds)):
                packed.write(file, file.relative_to(run.folder))


def validate(out: str | Path) -> str:
    """Check a built folder by the rules of Kaggle and its client; returns the owner's name.
    FileNotFoundError, ValueError: no metadata; or what would be refused, and what is wanted."""
    owner = ""
    for name in TITLES:
        path = next(Path(out, name).glob("*-metadata.json"), None)
        if not path:
            raise FileNotFoundError(f"{out}/{name}: no metadata; run `kaggle build` first")
        data = json.loads(path.read_text())
        title, slug = data["title"], slugify(data["title"])
        owner = owner or data["id"].split("/")[0]
        files = sorted(file.name for file in path.parent.iterdir() if file != path)
        code, shape = data.get("code_file"), data.get("machine_shape")
        licences = [one["name"] for one in data.get("licenses", ())]
        for found, wanted, kept in (
            (f"owner {owner!r}", "small letters, digits, single hyphens", owner == slugify(owner)),
            (f"id {data['id']!r}", f"{owner}/{slug}, as titled", data["id"] == f"{owner}/{slug}"),
            (f"title {title!r}", "6 to 50 characters", 6 <= len(slug) <= len(title) <= 50),
            (f"licences {licences}", "MIT alone", bool(code) or licences == ["MIT"]),
            (f"machine_shape {shape!r}", GPU, not code or shape == GPU),
            (f"files {files}", code or "a wheel or zips", code in files if code else bool(files)),
        ):
            if not kept:
                raise ValueError(f"{path}: {found}, wanted {wanted}; correct it and build again")
    return owner


def estimate_runtime(models: Sequence, competition: Competition, n: int = 64) -> str:
    """Time per test EEG, from file to probabilities, and what 10,000 take of Kaggle's 9 h: of the
    first `n`, repeated if they are fewer, in the second round (the first traces graphs)."""
    from hmsutils import inference

    windows = load_windows(competition, "test", on_problem="keep")
    windows = windows.iloc[np.resize(np.arange(len(windows)), n)]
    for _ in range(2):
        start = time.monotonic()
        inference.predict_windows(models, competition, windows, "test", return_quality=True)
    each_s = (time.monotonic() - start) / n
    hours = each_s * 10_000 / 3600
    return f"{each_s:.3f} s per EEG: 10,000 in {hours:.2f} h of the 9 h that Kaggle allows"


def push(out: str | Path, names: Sequence[str] = ()) -> None:
    """Upload a built folder with Kaggle's client: data sets, then kernels, which start there; and
    print what to do next. A kernel gets the output of the one before it attached, and a notebook
    that trains its own earlier output, so that a session goes on where the last one stopped.

    `names` are folders in it; without any: the data sets and the first kernel.
    ValueError: no such folder, no owner, or see `validate`. ModuleNotFoundError, RuntimeError: no
    client, or it refuses, for example without a token; or a kernel cannot start yet."""
    owner = validate(out)
    if owner == NOBODY or not set(names) <= set(TITLES):
        wanted = f"your user name (`kaggle build --owner`), and some of {', '.join(TITLES)}"
        raise ValueError(f"kaggle push: owner {owner}, folders {list(names)}; wanted {wanted}")
    if not find_spec("kaggle"):
        raise ModuleNotFoundError("kaggle push: Kaggle's client is missing; pip install kaggle")
    ids = {name: f"{owner}/{slugify(title)}" for name, title in TITLES.items()}
    for name in [name for name in TITLES if name in (names or (*DATASETS, KERNELS[0]))]:
        folder = Path(out) / name
        if name in KERNELS:
            _attach(folder / "kernel-metadata.json", name, ids)
            print(said := _run(*_CLIENT, "kernels", "push", "-p", folder))
            print("When it is complete:", _next_step(name, ids[name], said))
            continue
        status = (*_CLIENT, "datasets", "status", ids[name])
        try:
            _run(*status)
        except RuntimeError:  # it is not there yet; where it is something else, creating says so
            print(_run(*_CLIENT, "datasets", "create", "-p", folder))
        else:
            print(_run(*_CLIENT, "datasets", "version", "-m", "kaggle push", "-p", folder))
        while not {"ready", "error"} & set(_run(*status).split()):
            time.sleep(10)  # a kernel pushed earlier would start without it


def _attach(path: Path, name: str, ids: Mapping[str, str]) -> None:
    """Write into a kernel's metadata which outputs are there for it. RuntimeError: it is running,
    or it trains on from another one's output, which is not there."""
    before, trains = AFTER.get(name), name != KERNELS[-1]
    state = {other: _state(ids[other]) for other in (before, name) if other}
    if state[name] in ("queued", "running"):
        raise RuntimeError(f"kaggle push: {ids[name]} is {state[name]}; push it when it has ended")
    ready = before and state[before] == "complete"
    if before and not ready:
        problem = f"the output of {ids[before]}, which is {state[before]},"
        if trains or state[before] in ("queued", "running"):
            raise RuntimeError(f"kaggle push: {name} wants {problem} complete; push that first")
        print(f"{name} goes without {problem} and predicts with the weights of the data set")
    sources = [ids[before]] if ready else []
    # Kaggle takes a kernel as its own source (github.com/Kaggle/kaggle-cli, issue 464).
    sources += [ids[name]] if trains and state[name] != "absent" else []
    metadata = json.loads(path.read_text()) | {"kernel_sources": sources}
    write_text(path, json.dumps(metadata, indent=1))


def _state(kernel: str) -> str:
    """Of a kernel's latest run, in the client's words: complete, running …; "absent"."""
    try:
        said = _run(*_CLIENT, "kernels", "status", kernel)
    except RuntimeError as error:  # where the kernel is not the reason, pushing says what is
        if "Authentication required" in (said := str(error)):
            raise
    found = re.findall(r'has status "(?:\w+\.)?(\w+)"', said)
    return found[0].lower() if found else "absent"


def _next_step(name: str, kernel: str, said: str) -> str:
    if name != KERNELS[-1]:
        after = KERNELS[KERNELS.index(name) + 1]
        return f"`kaggle push {name}` if its log says that time is up, else {after}"
    version = "".join(re.findall(r"version (\d+)", said)) or "VERSION"
    options = f"-f submission.csv -k {kernel} -v {version} -m hmsutils"
    return f'"Submit" on its page, or `kaggle competitions submit {SLUG} {options}`'


def _run(*command: str | Path) -> str:
    """What a command prints; Kaggle's client reports some errors with exit status 0."""
    answer = subprocess.run(command, capture_output=True, text=True)
    said = (answer.stdout + answer.stderr).strip()
    if answer.returncode or " error: " in said or " not valid " in said:
        raise RuntimeError(f"`{' '.join(map(str, command))}` failed:\n{said}")
    return said
