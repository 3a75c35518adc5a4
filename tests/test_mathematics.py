"""Docstrings cite sections of docs/mathematics.md that exist, and no page outside the repository."""

import ast
import pathlib
import re

import pytest

import koopman_lora

PACKAGE = pathlib.Path(koopman_lora.__file__).parent
PAGE = (PACKAGE.parent / "docs" / "mathematics.md").read_text(encoding="utf-8")
SECTIONS = [int(number) for number in re.findall(r"^## (\d+)\. \S", PAGE, flags=re.MULTILINE)]
CITATION = re.compile(r"docs/mathematics\.md,? sections? ((?:\d+(?:, | and )?)+)")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings():
    """(place, docstring on one line) of every file, class and function of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                place = f"{path.relative_to(PACKAGE)}:{getattr(node, 'name', '')}"
                yield place, " ".join(text.split())


def citations():
    """(place, number of the section) of every citation of the page."""
    return [
        (place, int(number))
        for place, text in docstrings()
        for cited in CITATION.findall(text)
        for number in re.findall(r"\d+", cited)
    ]


def test_sections_are_numbered_from_one_to_ten():
    assert SECTIONS == list(range(1, 11))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("docs/mathematics.md, section 4.", ["4"]),
        ("docs/mathematics.md, sections 3 and 8.", ["3", "8"]),
        ("see docs/mathematics.md section 2, and 5 more", ["2"]),
        ("docs/mathematics.md, sections 1, 2 and 12; 2013", ["1", "2", "12"]),
        ("MATH.md, section 4", []),
    ],
)
def test_citations_are_read(text, numbers):
    assert [n for cited in CITATION.findall(text) for n in re.findall(r"\d+", cited)] == numbers


def test_every_cited_section_exists():
    found = citations()
    assert [(place, number) for place, number in found if number not in SECTIONS] == []
    assert len(found) >= 15


def test_every_mention_of_the_page_cites_a_section():
    assert [place for place, text in docstrings() if text.count("mathematics.md") != len(CITATION.findall(text))] == []


def test_nothing_cites_a_page_outside_the_repository():
    paths = sorted(PACKAGE.rglob("*.py"))
    assert [str(path.relative_to(PACKAGE)) for path in paths if "MATH.md" in path.read_text(encoding="utf-8")] == []
