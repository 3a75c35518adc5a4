"""Tutorials run, are stored with what they printed, and say in words what was printed."""

import importlib.util
import pathlib
import re
import runpy
import warnings

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TRANSLATED = [path for path in NOTEBOOKS if path.stem.endswith(".zh")]  # with the code of another one
NUMBER = re.compile(r"(?<![\w.,])\d+\.\d+(?![\w.])")


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def outputs(path):
    return [output for cell in cells(path, "code") for output in cell.outputs]


@pytest.fixture
def _one_thread():
    """Some tutorials ask for it; other tests are not to notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    "path", [path.with_suffix(".py") for path in NOTEBOOKS if path not in TRANSLATED], ids=lambda p: p.stem
)
def test_tutorial_runs(path, monkeypatch, tmp_path):
    """In this process, where starting a kernel for each would take most of the time; what they claim they assert."""
    monkeypatch.setenv("TUTORIALS_QUICK", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(path))
    assert plt.get_fignums(), "a tutorial shows pictures"


@pytest.mark.slow
def test_a_notebook_runs_as_a_notebook(monkeypatch):
    monkeypatch.setenv("TUTORIALS_QUICK", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own backend puts pictures into the notebook
    notebook = nbformat.read(FOLDER / "10_grid_with_land.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}}).execute()
    found = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any(output.output_type == "display_data" for output in found)


def test_notebooks_are_made_from_their_scripts():
    spec = importlib.util.spec_from_file_location("make_tutorials", FOLDER / "_make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path in NOTEBOOKS:
        made = module.make_notebook(path.with_suffix(".py"))
        stored = nbformat.read(path, as_version=4)
        assert [c.source for c in made.cells] == [c.source for c in stored.cells], path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_with_its_outputs(path):
    assert all(cell.execution_count for cell in cells(path, "code"))
    assert any("image/png" in output.get("data", {}) for output in outputs(path))
    assert not [output for output in outputs(path) if output.output_type == "error"]
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_numbers_in_the_text_were_printed(path):
    """Numbers with a decimal point in sentences stand in an output of the stored run, or in the code."""
    printed = "".join(
        str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs(path)
    )
    known = set(NUMBER.findall(printed)) | {n for cell in cells(path, "code") for n in NUMBER.findall(cell.source)}
    for cell in cells(path, "markdown"):
        stated = set(NUMBER.findall(re.sub(r"`[^`]*`", "", cell.source)))
        assert not stated - known, cell.source
