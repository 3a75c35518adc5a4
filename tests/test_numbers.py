"""Numbers that stand in two places are the same there."""

import pathlib
import re
import tomllib

import pytest
import xarray as xr

import koopman_lora as kl

ROOT = pathlib.Path(__file__).parents[1]
PINS = dict(
    re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
)


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def table(page, first_cell):
    """Rows below a heading cell by their first cell: {system: {column: cell}}."""
    lines = page[page.index(f"| {first_cell} | koopman_lora |") :].split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def medians(cell):
    return re.findall(r"\.\d+", re.sub(r"\(.*?\)", "", cell))


def test_shares_in_the_readme_are_those_of_the_benchmark():
    measured, shown = table(text("benchmarks/README.md"), "system"), table(text("README.md"), "system")
    assert len(shown) >= 5
    for system, row in shown.items():
        for method, cell in row.items():
            assert medians(cell) == medians(measured[system][method]), (system, method)


def test_shares_in_the_advice_are_rounded_from_the_benchmark():
    row = table(text("benchmarks/README.md"), "system")["four wells in the plane, 20,000 pairs, 8 modes"]
    shares = [f"{float(medians(row[method])[0]):.3f}"[1:] for method in ("Nystroem + VAMP", "koopman_lora")]
    page = " ".join(text("docs/should_i_use_this.md").split())
    assert "capture {} where a fit here captures {} (four wells in the plane".format(*shares) in page


def test_the_version_is_one():
    assert f"version: {kl.__version__}\n" in text("CITATION.cff")
    assert text("CHANGELOG.md").split("\n## ")[1].startswith(kl.__version__)


@pytest.mark.parametrize("package", ["deeptime", "kooplearn"])
def test_versions_of_peers_are_those_that_the_benchmark_runs(package):
    assert f"{package} {PINS[package]}" in text(f"docs/migration/{package}.md")
    assert f"| {package} {PINS[package]} |" in text("docs/should_i_use_this.md")


def test_extras_in_the_documents_exist():
    extras = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]
    named = re.findall(r'pip install "\.\[(\w+)\]"', text("README.md") + text("docs/quickstart.md"))
    assert {"all", "scale"} <= set(named) <= set(extras)


@pytest.mark.parametrize("name", kl.datasets.names())
def test_cards_tell_the_size_of_what_is_shipped(name):
    told = re.search(r"(\d+) trajector(?:y|ies) of ([\d,]+) frames", kl.datasets.card(name))
    if told is None:
        pytest.skip("a card that counts in other words")
    with xr.open_dataset(kl.datasets.folder(name) / "trajectories.nc", engine="h5netcdf") as data:
        assert (data.sizes["trajectory"], data.sizes["time"]) == (int(told[1]), int(told[2].replace(",", "")))
