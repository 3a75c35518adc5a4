"""Pages of the site that are made: the reference from the front door, the gallery from the notebooks."""

from __future__ import annotations

import base64
import inspect
import pathlib
import re
from collections.abc import Iterator
from types import ModuleType

import nbformat

ENTRY = re.compile(r"    (?P<names>\w+(?:, \w+)*)  +(?P<line>\S.*)")


def groups(docstring: str) -> Iterator[tuple[str, list[str]]]:
    """(heading, names) of the front door's docstring: a heading, and below it indented names with a line each."""
    heading, names = "", list[str]()
    for line in docstring.splitlines():
        entry = ENTRY.match(line)
        if entry:
            names += entry["names"].split(", ")
        elif line.strip() and names:
            yield heading, names
            names = []
        if line.strip() and not entry:
            heading = line.strip()
    yield heading, names


def table(names: list[str]) -> str:
    """The directive that makes a table of names and a page for each."""
    return ".. autosummary::\n   :toctree: .\n   :nosignatures:\n\n" + "".join(f"   {name}\n" for name in names)


def title(text: str, line: str) -> str:
    """A heading in reStructuredText."""
    return f"{text}\n{line * len(text)}\n\n"


def reference_page(package: ModuleType) -> str:
    """Every public name of a package whose docstring groups them; of a module among them, every public name of it."""
    text = title("Reference", "=")
    text += "Everything public, in the order of the story. ``import koopman_lora as kl``; names are ``kl.name``.\n\n"
    modules = []
    for heading, names in groups(package.__doc__ or ""):
        modules += [name for name in names if inspect.ismodule(getattr(package, name))]
        text += title(heading, "-") + f".. currentmodule:: {package.__name__}\n\n"
        text += table([name for name in names if name not in modules]) + "\n"
        text += "".join(f"Names of ``kl.{name}``: :ref:`below <{name}>`.\n\n" for name in names if name in modules)
    for name in modules:
        module = getattr(package, name)
        text += f".. _{name}:\n\n" + title(f"kl.{name}", "-") + f".. currentmodule:: {module.__name__}\n\n"
        text += f"{(module.__doc__ or '').strip()}\n\n" + table(public_names(module)) + "\n"
    return text


def public_names(module: ModuleType) -> list[str]:
    """What a module exports; without a list of it, the functions and classes that it shows."""
    shown = getattr(module, "__all__", None) or [name for name in vars(module) if callable(getattr(module, name))]
    return sorted(name for name in shown if not name.startswith("_"))


def first_words(notebook: nbformat.NotebookNode) -> tuple[str, str]:
    """Title and first paragraph of a notebook."""
    head, *paragraphs = notebook.cells[0].source.split("\n\n")
    first = next((" ".join(text.split()) for text in paragraphs if not text.startswith(("|", "```", "-", "["))), "")
    return head.lstrip("# ").splitlines()[0], first


def first_picture(notebook: nbformat.NotebookNode) -> bytes | None:
    """The first stored picture of a notebook."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    return None


def write_reference(package: ModuleType, folder: pathlib.Path) -> None:
    """The page of names; autosummary makes the others from it."""
    folder.mkdir(exist_ok=True)
    (folder / "index.rst").write_text(reference_page(package), encoding="utf-8")


def write_gallery(notebooks: pathlib.Path, folder: pathlib.Path) -> None:
    """The notebooks as they are stored, and a page with a card for each."""
    folder.mkdir(exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    cards, names = "", []
    for path in sorted(notebooks.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.setdefault("language_info", {"name": "python"})
        nbformat.write(notebook, folder / path.name)
        head, words = first_words(notebook)
        picture = first_picture(notebook)
        if picture is not None:
            (folder / f"{path.stem}.png").write_bytes(picture)
        parts = [f"![]({path.stem}.png)"] if picture is not None else []
        parts += [f"**[{head}]({path.name})**", words]
        cards += "- " + "\n\n  ".join(parts) + "\n\n"
        names.append(path.name)
    page = "# Tutorials\n\nNotebooks with their outputs; the tests execute them. The files are in `tutorials/`.\n\n"
    page += f":::{{container}} gallery\n{cards}:::\n\n"
    page += "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"
    (folder / "index.md").write_text(page, encoding="utf-8")
