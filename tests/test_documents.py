"""The README runs as it stands."""

import pathlib
import re
import shlex

import pytest

from koopman_lora.cli import make_parser
from koopman_lora.commands import RUN

ROOT = pathlib.Path(__file__).parents[1]


def code_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.slow
def test_readme_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {}
    for block in code_blocks((ROOT / "README.md").read_text(encoding="utf-8")):
        exec(compile(block, "README.md", "exec"), namespace)
    assert (tmp_path / "spectrum.png").stat().st_size > 10_000
    assert namespace["phi"].shape == (10_000, 20)


def fences(name):
    return re.findall(r"^```.*?^```$", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_chinese_readme_shows_the_same_code_as_the_english_one():
    assert len(fences("README.md")) >= 10
    assert fences("README.zh.md") == fences("README.md")
    for name, other in (("README.md", "README.zh.md"), ("README.zh.md", "README.md")):
        assert f"]({other})" in (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["README.md", "README.zh.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))],
)
def test_links_lead_to_files_that_are_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    made = ("tutorials/", "reference/")  # in docs/ by `make docs`
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    local = [link for link in links if link and not (name.startswith("docs/") and link.startswith(made))]
    assert [link for link in local if not ((ROOT / name).parent / link).exists()] == []


def test_readme_map_names_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = [p.name for p in (ROOT / "koopman_lora").glob("*.py") if p.name != "__init__.py"]
    assert not [name for name in modules if name not in text]


def test_readme_commands_are_understood():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("koopman-lora ")]
    assert {command[1] for command in commands} == set(RUN) - {"demo"}
    for command in commands:
        arguments = make_parser().parse_args(command[1:])
        assert arguments.command == command[1]
        assert arguments.command in RUN
