"""The page of a report: whole in itself, readable without its pictures, and it says what the analysis says."""

import dataclasses
import functools
import html.parser
import re

import numpy as np
import pytest
import xarray as xr

import koopman_lora as kl
from koopman_lora.finding import Finding
from koopman_lora.interview import answers_of
from koopman_lora.report import page, write_report
from koopman_lora.report.dynamics_sections import (
    forecast_section,
    functions_section,
    states_section,
    timescales_section,
)
from koopman_lora.report.figures import drawn
from koopman_lora.report.trust_sections import energy_section, spectrum_section, verdict_section
from koopman_lora.summary import summary_columns, summary_lines

pytestmark = pytest.mark.slow

HOSTILE = ["<script>alert(1)</script>", "$\\broken{ --> \"'&"]
ANCHORS = (
    "verdict learned spectrum energy eigenvalues timescales functions states forecast history data settings".split()
)
# Answers that are left out where a test is about others.
FEW = dict.fromkeys(("selection", "scan", "functions", "coarse", "forecast_error", "health"), "-")
NEEDS_FRAMES = ["timescales", "functions", "states", "forecast", "data"]
VOID = {"meta", "link"}


class Page(html.parser.HTMLParser):
    """What a reader of a page finds, without looking at it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.tags = [], [], [], [], []
        self.pictures, self.sections, self.missing, self.tables = [], {}, {}, {}
        self.section = None
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.links += [attrs[name] for name in ("href", "xlink:href") if name in attrs]
        self.sources += [attrs[name] for name in ("src", "srcset", "data") if name in attrs]
        assert not [name for name in attrs if name.startswith("on")]
        if tag == "section":
            self.section = attrs["id"]
            self.sections[self.section], self.tables[self.section] = "", []
        if tag in ("svg", "img"):
            self.pictures.append(attrs)
        if tag == "table":
            self.tables[self.section].append({"caption": "", "rows": []})
        if tag == "tr":
            self.tables[self.section][-1]["rows"].append([])
        if tag in ("th", "td"):
            self.tables[self.section][-1]["rows"][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag
        self.section = None if tag == "section" else self.section

    def handle_data(self, data):
        inside = [tag for tag, _ in self.open]
        if self.section is not None and "svg" not in inside:
            self.sections[self.section] += data
        if any(attrs.get("class") == "missing" for _, attrs in self.open) and "strong" not in inside:
            self.missing[self.section] = self.missing.get(self.section, "") + data.strip()
        if "caption" in inside:
            self.tables[self.section][-1]["caption"] += data
        elif "th" in inside or "td" in inside:
            self.tables[self.section][-1]["rows"][-1][-1] += data


def fitted(data, n_modes=3, **options):
    return kl.KoopmanLoRA(n_modes, **{"hidden_dims": (8,), "n_epochs": 2, **options}).fit(data)


@functools.cache
def turning():
    """Two coordinates with names that are markup, on a circle: complex eigenvalues."""
    values = kl.systems.NoisyRotation().simulate(2, 1000, seed=0).values
    data = xr.DataArray(values, dims=("trajectory", "time", "coordinate"), coords={"coordinate": HOSTILE})
    estimator = fitted(data, 4)
    return estimator, answers_of(estimator.analysis_)


@functools.cache
def turning_page():
    return page(turning()[1])


def jumps(n_coordinates):
    """A coordinate that jumps between two ends, beside noise."""
    rng = np.random.default_rng(0)
    end = np.where(np.cumsum(rng.random(3000) < 0.05) % 2, 1.0, -1.0)
    return np.column_stack([end, *np.zeros((n_coordinates - 1, 3000))]) + 0.3 * rng.normal(size=(3000, n_coordinates))


def images():
    y, x, time = np.mgrid[:6, :6, :400]
    moved = np.exp(-((x - 2.5 - np.sin(0.2 * time)) ** 2 + (y - 2.5 - np.cos(0.2 * time)) ** 2))
    return np.moveaxis(moved, 2, 0) + 0.02 * np.random.default_rng(0).normal(size=(400, 6, 6))


# ------------------------------------------------------------------------------------------------------ whole in itself


def test_a_page_needs_nothing_from_elsewhere():
    found = Page(turning_page())
    assert found.sources == []
    assert [link for link in found.links if not link.startswith(("#", "data:"))] == []
    assert set(found.tags) & {"script", "iframe", "object", "embed", "form", "base", "foreignobject"} == set()
    assert "default-src 'none'" in turning_page()
    assert re.findall(r"(?:https?:)?//[\w.-]+", re.sub(r"data:[^\"]*", "", turning_page())) == []
    assert "@import" not in turning_page()


def test_links_lead_to_the_sections_and_names_are_given_once():
    found = Page(turning_page())
    assert list(found.sections) == ANCHORS
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_pictures_have_a_text_and_tables_a_caption():
    found = Page(turning_page())
    assert len(found.pictures) >= 9
    for attrs in found.pictures:
        assert attrs["role"] == "img"
        assert len(attrs["aria-label"]) > 30
    tables = [table for tables in found.tables.values() for table in tables]
    assert len(tables) >= 10
    for table in tables:
        assert table["caption"].endswith(".")
        assert len({len(row) for row in table["rows"]}) == 1


def test_colours_are_those_of_the_page_in_either_scheme():
    text = turning_page()
    assert "prefers-color-scheme: dark" in text
    for picture in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        assert "currentColor" in picture
        assert not re.search(r"#(000000|ffffff|010203|fdfeff)", picture)


def test_names_are_escaped():
    text, found = turning_page(), Page(turning_page())
    assert "<script" not in text
    assert found.tables["data"][0]["rows"][1][0] == HOSTILE[0]
    assert found.tables["data"][0]["rows"][2][0] == HOSTILE[1]
    assert any(HOSTILE[0] in attrs["aria-label"] for attrs in found.pictures)
    finding = Finding("<b>", "a <i> & b")
    answers = turning()[1]
    summary = dataclasses.replace(answers.summary, findings=(finding,))
    told = Page(page(dataclasses.replace(answers, summary=summary, settings={"<u>": "</td>"}, **FEW)))
    assert "a <i> & b" in told.sections["verdict"]
    assert ["<u>", "</td>"] in told.tables["settings"][0]["rows"]


def test_the_same_answers_give_the_same_pictures():
    sections = [functions_section(turning()[1]) for _ in range(2)]
    assert sections[0] == sections[1]
    assert all(figure.svg in turning_page() for figure in sections[0].figures)


# ------------------------------------------------------------------------------------- it says what the analysis says


def test_numbers_are_those_of_the_summary():
    estimator, _ = turning()
    columns = summary_columns(estimator.summary())
    head, *rows = Page(turning_page()).tables["verdict"][0]["rows"]
    shown = dict(zip(head, zip(*rows, strict=True), strict=True))
    known = {"95 %": "sigma 95 %", "95 % ": "timescale 95 %"}
    assert set(shown) == {known.get(name, name) for name in columns}
    for name, cells in columns.items():
        assert list(shown[known.get(name, name)]) == [cell.replace("+-", "±") for cell in cells], name
    said = Page(turning_page()).sections["verdict"]
    for line in summary_lines(estimator.summary())[1:]:
        assert all(part in said for part in line.splitlines())


def test_complex_eigenvalues_are_shown_and_no_states_found_in_them():
    estimator, answers = turning()
    found = Page(turning_page())
    value = estimator.spectrum_.eigenvalues.values[1]
    assert abs(value.imag) > 0.3
    cells = [row[1] for row in found.tables["timescales"][0]["rows"]]
    assert f"{value.real:.4f}{value.imag:+.4f}i" in cells
    assert found.missing == {"states": answers.coarse}
    assert "kl.coherent_memberships" in answers.coarse


def test_forecasts_are_those_of_training_pairs_at_held_out_frames():
    """A turn of noise: the operator's error follows from how much of the state is remembered."""
    _, answers = turning()
    error = answers.forecast_error["relative_rmse_mean"].sel(forecaster="koopman").values
    remembered = np.exp(-(kl.systems.NoisyRotation().noise ** 2) / 2 * answers.forecast_error["step"].values)
    np.testing.assert_allclose(error, np.sqrt(1 - remembered**2), atol=0.06)
    assert answers.forecast_error.attrs["note"].endswith("the refinement of the features saw the held-out ones.")


def test_lags_are_those_of_scan_lags():
    estimator, answers = turning()
    data = kl.systems.NoisyRotation().simulate(2, 1000, seed=0).values
    expected = estimator.scan_lags(list(data), answers.scan["lag"].values.tolist())
    xr.testing.assert_allclose(answers.scan.drop_attrs(), expected.drop_attrs())
    assert answers.scan.attrs["answer"] in Page(turning_page()).sections["timescales"]


def test_lags_of_a_weighted_fit_are_weighted():
    """Of a slow and a fast run the first alone counts: without weights the times would be halfway between."""
    slow, fast = (
        kl.systems.LinearGaussian(A=[[a]], B=[[1.0]]).simulate(1, 2000, seed=0).values[0] for a in (0.95, 0.3)
    )
    estimator = kl.KoopmanLoRA(2, hidden_dims=(8,), n_epochs=2).fit([slow, fast], sample_weight=[1.0, 1e-9])
    scan = answers_of(estimator.analysis_).scan
    lags = scan["lag"].values.tolist()
    expected = estimator.scan_lags([slow, fast], lags, sample_weight=[1.0, 1e-9])
    np.testing.assert_allclose(scan.timescales, expected.timescales, rtol=1e-6)
    np.testing.assert_allclose(scan.timescales, estimator.scan_lags([slow], lags).timescales, rtol=1e-4)


# --------------------------------------------------------------------------------------------- what is not at hand


def test_what_needs_the_frames_is_left_out_with_a_sentence_how_to_get_it(tmp_path):
    estimator, _ = turning()
    opened = kl.open_analysis(estimator.save(tmp_path / "fit"))
    found = Page(opened.report(tmp_path / "page.html").read_text(encoding="utf-8"))
    assert list(found.missing) == NEEDS_FRAMES
    for sentence in found.missing.values():
        assert "open_analysis(folder, data). Or: koopman-lora report FOLDER DATA." in sentence
    with_frames = Page(turning_page())
    for anchor in ("verdict", "learned", "spectrum", "energy", "eigenvalues", "history"):
        assert found.tables[anchor] == with_frames.tables[anchor]


def test_without_held_out_pairs_nothing_is_said_of_noise_or_forecasts():
    x = jumps(1)
    answers = answers_of(fitted((x[:-1], x[1:]), refine=False, held_out=0.0).analysis_)
    assert answers.selection == "No pairs were held out to validate on; fit with held_out=0.1."
    assert answers.forecast_error == "No pairs were held out to compare forecasts with; fit with held_out=0.1."
    assert answers.scan.startswith("Explicit pairs hold no frames that follow one another")
    for section in (energy_section, timescales_section, forecast_section):
        assert len(section(answers).missing) == 1
    assert "nothing shows what is noise" in spectrum_section(answers).figures[0].caption
    assert "2 not tested" in verdict_section(answers).reading


def test_short_data_and_large_states_say_what_they_lack():
    answers = answers_of(fitted(np.tile(images()[:60], (1, 6, 6)), n_epochs=1).analysis_)
    assert "analysis.forecast(x, steps, observables)" in answers.forecast_error
    assert answers.scan == "The trajectories are too short to look at longer lags; give longer ones."
    assert answers.selection == "Validation holds 5 held-out pairs; at least 50 are needed."
    noise = answers_of(fitted(np.random.default_rng(1).normal(size=(80, 1))).analysis_)
    assert noise.coarse.startswith("No mode but the constant is told from noise")
    assert noise.forecast_error == "The held-out stretches are too short to compare forecasts with; give more data."


# ------------------------------------------------------------------------------------------------- states of all kinds


@pytest.mark.parametrize(
    ("n_coordinates", "dims"), [(1, ("x", "state")), (2, ("x", "y", "set")), (3, ("time", "state"))]
)
def test_metastable_states_have_a_map_over_what_can_be_drawn(n_coordinates, dims):
    answers = answers_of(fitted(jumps(n_coordinates), reversible=True, refine=n_coordinates > 1).analysis_)
    coarse = answers.coarse
    assert coarse["memberships"].dims == dims
    assert coarse.sizes["state"] == 2
    # 0.95 of the ends themselves; noise takes 0.3^2 of 1.09 from the memory of functions that are linear in it
    assert 0.89 < np.diag(coarse["transition_matrix"]).min() <= np.diag(coarse["transition_matrix"]).max() < 0.97
    chi = coarse["memberships"].values
    known = np.isfinite(chi).all(axis=-1)
    np.testing.assert_allclose(chi[known].sum(axis=-1), 1.0)
    if n_coordinates == 2:  # the two ends, and cells where no frame was
        assert {int(state) for state in chi[known].argmax(axis=-1)} == {0, 1}
        assert not known.all()
    assert ("states" in answers.functions) is (n_coordinates < 3)
    section = states_section(answers)
    assert section.tables[0].columns["to 0"][0].startswith(f"{coarse.transition_matrix[0, 0]:.4f} (")
    assert "2 metastable states" in section.figures[0].alt


def test_images_have_a_page():
    answers = answers_of(fitted(images(), n_epochs=1).analysis_)
    found = Page(page(dataclasses.replace(answers, **(FEW | {"functions": answers.functions}))))
    assert "functions are shown along a stretch" in found.sections["functions"]
    assert any("along a stretch of time" in attrs["aria-label"] for attrs in found.pictures)
    assert ["state", "(6, 6)"] in found.tables["settings"][2]["rows"]


# ----------------------------------------------------------------------------------------------------------- the file


def test_a_page_takes_the_place_of_an_older_one_and_of_nothing_else(tmp_path):
    path, answers = tmp_path / "new" / "page.html", dataclasses.replace(turning()[1], **FEW)
    for _ in range(2):
        assert write_report(answers, path) == path
        assert list(Page(path.read_text(encoding="utf-8")).sections) == ANCHORS
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]
    with pytest.raises(IsADirectoryError, match="is a folder, which is not replaced"):
        turning()[0].report(tmp_path)


def test_drawing_leaves_styles_and_figures_as_they_were():
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    before, open_figures = dict(mpl.rcParams), plt.get_fignums()
    figure = drawn(lambda ax: ax.plot([0, 1], [0, 1], label="a"), 'the "alt" <text>', "caption")
    assert (dict(mpl.rcParams), plt.get_fignums()) == (before, open_figures)
    assert 'aria-label="the &#34;alt&#34; &lt;text&gt;"' in figure.svg
