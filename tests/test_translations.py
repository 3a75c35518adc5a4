"""What is there in two languages shows the same code."""

import pathlib

import nbformat
import pytest

TRANSLATED = sorted((pathlib.Path(__file__).parents[1] / "tutorials").glob("*.zh.ipynb"))


def test_there_is_one():
    assert [path.name for path in TRANSLATED] == ["02_why_values_differ.zh.ipynb"]


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda p: p.stem)
def test_a_translated_notebook_has_the_code_and_the_outputs_of_the_one_that_is_executed(path):
    twin = path.with_name(path.stem.removesuffix(".zh") + ".ipynb")
    mine, theirs = (nbformat.read(p, as_version=4).cells for p in (path, twin))
    assert [c.cell_type for c in mine] == [c.cell_type for c in theirs]
    for cell, other in zip(mine, theirs, strict=True):
        if cell.cell_type == "code":
            assert (cell.source, cell.outputs) == (other.source, other.outputs)
