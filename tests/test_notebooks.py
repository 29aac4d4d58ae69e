"""The committed notebooks: in step with their sources, executed, short-celled and small."""

import re

import jupytext
import nbformat
import pytest
from conftest import REPOSITORY

SOURCES = sorted((REPOSITORY / "notebooks").glob("0*.py"))


@pytest.fixture(params=SOURCES, ids=lambda path: path.stem)
def pair(request):
    path = request.param.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is missing: make commit-notebooks"
    return jupytext.read(request.param), nbformat.read(path, as_version=4), path


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_are_there():
    names = "01_spectrograms 02_backbones 03_wavenet_concat 04_inference 05_search 06_recordings"
    assert [path.stem for path in SOURCES] == names.split()


def test_a_notebook_and_its_source_are_in_step(pair):
    source, notebook, path = pair
    cells = [[(cell.cell_type, cell.source) for cell in book.cells] for book in (source, notebook)]
    assert cells[0] == cells[1], f"{path.name}: make commit-notebooks"


def test_cells_have_at_most_twelve_lines(pair):
    longest = max(code(pair[0]), key=lambda cell: cell.source.count("\n"))
    assert longest.source.count("\n") + 1 <= 12, longest.source


def test_prose_stands_between_the_cells_and_says_what_goes_in_and_out(pair):
    prose = [cell.source for cell in pair[0].cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code(pair[0])) / 3
    for word in ("Reads", "Writes", "Takes"):
        assert f"**{word}**" in prose[0], word


def test_parameters_can_be_set_from_outside(pair):
    tagged = [cell for cell in code(pair[0]) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1 and "PROFILE = None" in tagged[0].source


def test_outputs_are_committed_and_hold_no_error(pair):
    for cell in code(pair[1]):
        assert cell.execution_count, f"never executed:\n{cell.source}"
        assert not [o for o in cell.outputs if o.output_type == "error"], cell.source
        said = "".join(o.get("text", "") for o in cell.outputs)
        assert "failed: " not in said and "left out below" not in said, said  # of a fold
    assert any("image/png" in o.get("data", {}) for cell in code(pair[1]) for o in cell.outputs)


def test_notebooks_are_small_and_name_no_machine(pair):
    path = pair[2]
    assert path.stat().st_size < 1e6
    texts = [o.get("text", "") for cell in code(pair[1]) for o in cell.outputs]
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work)/", "".join(texts))
