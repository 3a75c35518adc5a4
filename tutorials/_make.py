"""Write tutorial notebooks from scripts with `# %%` cells: python tutorials/_make.py tutorials/01_first_spectrum.py."""

from __future__ import annotations

import pathlib
import sys

import nbformat


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
        nbformat.write(notebook, path.with_suffix(".ipynb"))
