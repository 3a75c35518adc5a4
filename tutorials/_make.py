"""Write tutorial notebooks from scripts with `# %%` cells and run them: python tutorials/_make.py tutorials/01_*.py.

They run in full, so that what is stored is what the text says. The tests run the scripts with TUTORIALS_QUICK set, by
which the newer ones take fewer frames and train for a shorter time.
"""

from __future__ import annotations

import os
import pathlib
import re
import sys

import nbformat
from nbclient import NotebookClient


def make_notebook(script: pathlib.Path) -> nbformat.NotebookNode:
    """Notebook of a script whose cells start with `# %%` (code) or `# %% [markdown]` (comment lines)."""
    notebook = nbformat.v4.new_notebook()
    for number, cell in enumerate(script.read_text(encoding="utf-8").split("# %%")[1:]):
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
            made = nbformat.v4.new_markdown_cell(text)
        else:
            made = nbformat.v4.new_code_cell(body.strip())
        made["id"] = f"cell-{number}"  # random ids would change the file at every run
        notebook.cells.append(made)
    return notebook


def run(notebook: nbformat.NotebookNode, folder: pathlib.Path) -> None:
    """Run a notebook in a folder; outputs do not tell of the machine on which that was."""
    for name in ("MPLBACKEND", "TUTORIALS_QUICK"):  # pictures go into the notebook, and nothing is left out
        os.environ.pop(name, None)
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
    NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = {"language_info": {"name": "python"}}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = re.sub(r"/tmp/ipykernel_\d+/\d+\.py", "cell", output["text"])


def copy_outputs(notebook: nbformat.NotebookNode, twin: nbformat.NotebookNode) -> None:
    """Take the outputs of a notebook with the same code, of which this one is a translation."""
    for cell, other in zip(notebook.cells, twin.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = other.outputs, other.execution_count


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = pathlib.Path(name)
        notebook = make_notebook(path)
        if path.stem.endswith(".zh"):
            twin = path.with_name(path.stem.removesuffix(".zh") + ".ipynb")
            copy_outputs(notebook, nbformat.read(twin, as_version=4))
        else:
            run(notebook, path.parent)
        nbformat.write(notebook, path.with_suffix(".ipynb"))
