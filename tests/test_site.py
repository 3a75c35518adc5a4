"""The pages of the site: their examples run, every public name is on them, and every name is documented in full."""

import ast
import base64
import doctest
import importlib.util
import inspect
import pathlib
import re
import types

import nbformat
import pytest

import koopman_lora as kl

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
MIGRATION = sorted(path for path in (DOCS / "migration").glob("*.md") if path.stem != "index")


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def site_pages():
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- what is shown, runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # fits of two epochs have much to say
@pytest.mark.parametrize("path", MIGRATION, ids=lambda path: path.stem)
def test_every_call_of_a_migration_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(path, "python")
    exec(compile(code, path.name, "exec"), {})


@pytest.mark.parametrize("path", MIGRATION, ids=lambda path: path.stem)
def test_every_call_in_the_table_of_a_migration_is_among_those_that_run(path):
    (code,) = blocks(path, "python")
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    calls = [call for row in rows for call in re.findall(r"`([^`]+)`", row.split(" | ")[1])]
    assert len(calls) >= 10
    assert [call for call in calls if call not in code] == []


@pytest.mark.slow
def test_quickstart_says_what_comes_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = "\n".join(blocks(DOCS / "quickstart.md", "pycon"))
    test = doctest.DocTestParser().get_doctest(examples, {}, "docs/quickstart.md", None, 0)
    assert len(test.examples) > 20
    printed = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=printed.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(printed)


# ---- the reference is complete ---------------------------------------------------------------------------------------

MODULES = [name for name in kl.__all__ if isinstance(getattr(kl, name), types.ModuleType)]
PUBLIC = [(kl.__name__, name) for name in kl.__all__ if name not in MODULES]
PUBLIC += [
    (f"{kl.__name__}.{module}", name) for module in MODULES for name in site_pages().public_names(getattr(kl, module))
]


def test_every_public_name_is_in_the_reference():
    page = site_pages().reference_page(kl)
    sections = re.split(r"^\.\. currentmodule:: (\S+)$", page, flags=re.MULTILINE)[1:]
    shown = [
        (module, name)
        for module, text in zip(sections[::2], sections[1::2], strict=True)
        for name in re.findall(r"^   (\w+)$", text, flags=re.MULTILINE)
    ]
    assert len(shown) > 120
    assert sorted(shown) == sorted(PUBLIC)


def test_the_reference_has_the_groups_of_the_front_door_in_their_order():
    headings = [heading for heading, _ in site_pages().groups(kl.__doc__)]
    assert headings[0] == "From data to a fitted analysis"
    assert headings[-1] == "Text, pictures, files"
    assert len(headings) == 9


def thing(place):
    module, name = place
    return getattr(importlib.import_module(module), name)


def parameters(thing):
    return [p for p in inspect.signature(thing).parameters.values() if p.kind is not p.VAR_KEYWORD]


def is_exception(thing):
    return inspect.isclass(thing) and issubclass(thing, Exception)


@pytest.mark.parametrize("place", PUBLIC, ids=".".join)
def test_every_public_name_is_documented(place):
    """A summary of one line, its parameters where it takes some, and an example that the doctests run."""
    text = inspect.getdoc(thing(place)) or ""
    assert re.match(r"\S.*(\n\n|\Z|\n\S)", text)
    if not is_exception(thing(place)):
        assert ">>>" in text, "an example"
        assert not parameters(thing(place)) or re.search(r"^(Parameters|Attributes)\n-+$", text, flags=re.MULTILINE)


def test_examples_are_code():
    for place in PUBLIC:
        for example in doctest.DocTestParser().get_examples(inspect.getdoc(thing(place)) or ""):
            ast.parse(example.source)


# ---- the gallery takes what is there ---------------------------------------------------------------------------------


def notebook(title, picture=None):
    cells = [nbformat.v4.new_markdown_cell(f"# {title}\n\n[other](language.ipynb)\n\nWhat it\nshows.\n\nMore.")]
    cells += [nbformat.v4.new_code_cell("plot()")]
    if picture is not None:
        data = {"image/png": base64.b64encode(picture).decode()}
        cells[1].outputs = [nbformat.v4.new_output("display_data", data)]
    return nbformat.v4.new_notebook(cells=cells)


def test_gallery_has_a_card_with_title_words_and_picture_for_each_notebook(tmp_path):
    notebooks, folder = tmp_path / "notebooks", tmp_path / "gallery"
    notebooks.mkdir()
    nbformat.write(notebook("First", picture=b"pixels"), notebooks / "01_first.ipynb")
    nbformat.write(notebook("Gone"), notebooks / "02_gone.ipynb")
    site_pages().write_gallery(notebooks, folder)
    (notebooks / "02_gone.ipynb").rename(notebooks / "03_last.ipynb")
    site_pages().write_gallery(notebooks, folder)
    names = ["01_first.ipynb", "01_first.png", "03_last.ipynb", "index.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "01_first.png").read_bytes() == b"pixels"
    page = (folder / "index.md").read_text(encoding="utf-8")
    assert (
        "- ![](01_first.png)\n\n  **[First](01_first.ipynb)**\n\n  What it shows.\n\n- **[Gone](03_last.ipynb)**"
        in page
    )
    assert page.endswith("01_first.ipynb\n03_last.ipynb\n```\n")
