"""Data walk one way: each module imports only those before it; importing the package is cheap."""

import ast
import subprocess
import sys

import pytest
from conftest import REPOSITORY

ORDER = (
    "competition files records kernels signals edf recordings spectrograms representations store "
    "simulate augment batches devices runs models config evaluation training inference export "
    "events saliency plots report viewing app search download kaggle __init__ __main__"
).split()
WING = "domains waves patterns recording votes pool tables __init__".split()  # hmsutils/simulate
# find_competition imports the simulator, inside a function, to make what is not there.
AHEAD = {("files", "simulate")}
KERAS = {"batches", "devices", "training", "export", "saliency", "search"}
PACKAGE = REPOSITORY / "hmsutils"
MODULES = sorted(PACKAGE.rglob("*.py"))


def place(path):
    """The module's name; that of the wing for what lies in it."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Dotted names after `hmsutils.` of every import of this package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hmsutils"):
            for alias in node.names:  # a module of the package, or a name in one
                name = f"{node.module}.{alias.name}".split(".")[1:]
                inside = name[0] == "simulate" and len(name) > 1 and name[1] in WING
                yield ".".join(name[: 1 + inside])
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        if isinstance(node, ast.Import):
            assert not any(a.name.startswith("hmsutils") for a in node.names), path


def test_every_module_has_its_place():
    assert sorted({place(path) for path in MODULES}) == sorted(ORDER)
    wing = [path.stem for path in MODULES if path.parent.name == "simulate"]
    assert sorted(wing) == sorted(WING)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_those_before_them(path):
    for name in imports(path):
        room, _, inner = name.partition(".")
        if room == place(path) == "simulate":
            assert WING.index(inner) < WING.index(path.stem), f"{path.stem} imports {inner}"
        elif room in ORDER and (place(path), room) not in AHEAD:
            assert ORDER.index(room) < ORDER.index(place(path)), f"{path.stem} imports {room}"


def test_the_one_import_ahead_is_where_it_is_named():
    ahead = [
        (place(path), name)
        for path in MODULES
        for name in imports(path)
        if name in ORDER and ORDER.index(name) > ORDER.index(place(path))
    ]
    assert set(ahead) == AHEAD and len(ahead) == 1


def at_top(path):
    """The first parts of all imports outside functions."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_only_models_touches_kerascv_and_only_learning_modules_import_keras():
    for path in MODULES:
        text = path.read_text()
        assert ("keras_cv" in text) == (place(path) in {"models", "training"}), path
        assert ("keras_cv.src" in text) == (place(path) == "models"), path
        assert ("keras" in at_top(path)) <= (place(path) in KERAS), path


def test_only_runs_knows_the_files_of_a_run():
    for path in MODULES:
        names = ("run.json", "model.weights.h5", "oof.parquet", "history.csv", "blend.json")
        code = ast.unparse(_without_docstrings(ast.parse(path.read_text())))
        assert place(path) == "runs" or not [name for name in names if name in code], path


def _without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


@pytest.mark.parametrize("names", ["", *"records store simulate runs plots inference".split()])
def test_importing_what_needs_no_model_imports_no_tensorflow(names):
    heavy = "{'tensorflow', 'keras', 'keras_cv'}"
    code = f"import sys, hmsutils{names and '.' + names}; print({heavy} & set(sys.modules))"
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
