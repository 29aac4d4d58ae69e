"""The wheel alone, installed where there is no checkout and no network, is enough to predict."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions

import edfio
import numpy as np
import pandas as pd
import pytest
from conftest import OFFLINE, REPOSITORY
from packaging.requirements import Requirement

from hmsutils import kaggle
from hmsutils.competition import CLASSES, ELECTRODES

PATHS = "import sys; print('PATHS', *sys.path, sep='\\n')"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment that holds the wheel; of the running one it sees all but the checkout."""
    root = tmp_path_factory.mktemp("install")
    (root / "wheel").mkdir()
    kaggle._write_wheel(REPOSITORY, root / "wheel")
    venv.create(root / "venv", with_pip=False)
    python = root / "venv" / "bin" / "python"
    options = "--quiet --no-deps --no-index --no-compile".split()
    pip = [sys.executable, "-m", "pip", "--python", python, "install", *options]
    subprocess.run([*pip, *(root / "wheel").glob("*.whl")], check=True)
    # A folder named in a .pth file is searched last, and its own .pth files, such as that of an
    # editable install of this project, are not read.
    (site_packages,) = (root / "venv" / "lib").glob("python*/site-packages")
    (site_packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return root


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command of the environment in an empty folder; returns what it prints."""

    def run(command, *arguments):
        env = {"HOME": str(tmp_path), "PYTHONPATH": str(OFFLINE)}
        env |= {"PATH": os.defpath, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [installed / "venv" / "bin" / command, *arguments]
        answer = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    return run


def test_the_snippet_of_the_readme_works_in_an_empty_folder(run, installed, tmp_path):
    section = (REPOSITORY / "README.md").read_text().split("## In your own experiment")[1]
    snippet = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    check = "assert probabilities.shape == (1, 6) and abs(probabilities.sum() - 1) < 1e-6\n"
    check += "import hmsutils; print('PACKAGE', hmsutils.__file__)"
    out = run("python", "-c", snippet + check)
    assert "mobilenet_v3_large+wavenet (released" in out
    assert out.split("PACKAGE ")[1].startswith(str(installed / "venv"))
    assert not {"data", "models"} & {path.name for path in tmp_path.iterdir()}
    assert str(REPOSITORY) not in run("python", "-c", PATHS).splitlines()


def test_the_command_predicts_a_recording_in_an_empty_folder(run, tmp_path, rng):
    unit = {"physical_dimension": "uV", "physical_range": (-3e3, 3e3)}
    signals = [
        edfio.EdfSignal(rng.normal(0, 30, 60 * 256), 256, label=name, **unit) for name in ELECTRODES
    ]
    edfio.Edf(signals).write(tmp_path / "x.edf")
    assert "mobilenet_v3_large+wavenet (released" in run(
        "hmsutils", "predict", "x.edf", "--out", "table.csv"
    )
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table.columns[:8]) == ["start_s", "end_s", *CLASSES]
    assert list(table["start_s"]) == [20, 30]  # the central 10 s of 50 s from 0 s and from 10 s
    np.testing.assert_allclose(table[list(CLASSES)].sum(axis=1), 1, atol=1e-5)


def test_the_environment_has_no_network(run):
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\n"
    code += "except OSError as error: print(error)"
    assert "internet is off" in run("python", "-c", code)


def test_whatever_the_package_imports_is_a_declared_dependency():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = {Requirement(line).name for line in project["dependencies"]}
    extras = {
        k: {Requirement(x).name for x in v} for k, v in project["optional-dependencies"].items()
    }
    extra_of = {"app.py": "app", "inference.py": "fast", "export.py": "export"}
    found, naming = packages_distributions(), {"devices.py", "saliency.py"}  # without needing them
    for path in (REPOSITORY / "hmsutils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            backends = {"tensorflow", "jax", "torch"} if path.name in naming else set()
            known = declared | extras.get(extra_of.get(path.name), set())
            for top in {name.split(".")[0] for name in names} - {"hmsutils"} - backends:
                if top not in sys.stdlib_module_names:
                    assert known & set(found[top]), f"{path.name} imports {top}"
