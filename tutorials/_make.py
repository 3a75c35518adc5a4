"""Write tutorial notebooks from scripts with `# %%` cells and run them: python tutorials/_make.py tutorials/01_*.py.

They run in full, so that what is stored is what the text says. The tests run the scripts with TUTORIALS_QUICK set, by
which the newer ones take fewer frames and train for a shorter time.
"""

from __future__ import annotations

import pathlib
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


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = pathlib.Path(name)
        notebook = make_notebook(path)
        where = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=600, record_timing=False, resources=where).execute()
        notebook.metadata = {"language_info": {"name": "python"}}  # not which kernel it was
        nbformat.write(notebook, path.with_suffix(".ipynb"))
