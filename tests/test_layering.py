"""Data walk one way: each module imports only those before it; importing the package is cheap."""

import ast
import subprocess
import sys

import pytest
from conftest import REPOSITORY

# files.find_competition looks ahead, inside a function, to simulate what is not there.
ORDER = (
    "files records download kernels signals spectrograms store brain simulate augment batches "
    "layers models evaluation training search inference export plots kaggle __init__ __main__"
).split()
AHEAD = {("files", "simulate")}
MODULES = sorted((REPOSITORY / "hmsutils").glob("*.py"))


def imports(path):
    """(module, whether at the top of the file) of every import of this package."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hmsutils"):
            names = node.module.split(".")[1:] or [alias.name for alias in node.names]
            for name in names:
                yield name, node in tree.body


def test_every_module_has_its_place():
    assert sorted(path.stem for path in MODULES) == sorted(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_import_only_those_before_them(path):
    for name, _ in imports(path):
        if name in ORDER and (path.stem, name) not in AHEAD:
            assert ORDER.index(name) < ORDER.index(path.stem), f"{path.stem} imports {name}"


def test_only_models_touches_kerascv_and_only_learning_modules_touch_keras():
    learning = {"layers", "models", "batches", "training", "search", "inference", "export"}
    for path in MODULES:
        text = path.read_text()
        assert ("import keras_cv" in text) == (path.stem == "models")
        assert ("import keras\n" in text or "from keras" in text) <= (path.stem in learning)


@pytest.mark.parametrize(
    "names", ["", ".files, hmsutils.records, hmsutils.spectrograms, hmsutils.simulate"]
)
def test_importing_what_needs_no_model_imports_no_tensorflow(names):
    heavy = "{'tensorflow', 'keras', 'keras_cv'}"
    code = f"import sys, hmsutils{names}; print({heavy} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert out.stdout.strip() == "set()", out.stdout + out.stderr


def test_importing_the_package_imports_no_numpy_either():
    code = "import sys, hmsutils; print({'numpy', 'pandas', 'librosa'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert out.stdout.strip() == "set()", out.stdout + out.stderr
