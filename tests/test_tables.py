"""Tables say the numbers, flags and units of the Datasets that they are made of."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from koopman_lora._labels import interval, labelled
from koopman_lora.finding import Finding
from koopman_lora.refinement import RefinementResult
from koopman_lora.scores import Scores
from koopman_lora.systems import NoisyRotation
from koopman_lora.tables import (
    comparison_text,
    finding_text,
    importance_text,
    intervals_text,
    refinement_text,
    residuals_text,
    scan_text,
    scores_text,
    selection_text,
    spectrum_table,
    text_table,
)


def cells(text):
    """Rows of words."""
    return [row.split() for row in text.splitlines()]


def per_mode(attrs=None, dim="mode", **variables):
    """Dataset of one value for each mode."""
    return labelled({name: (dim, np.asarray(values)) for name, values in variables.items()}, attrs)


SPECTRUM = per_mode(
    {"time_unit": "ps"},
    svals=[1.0, 0.5],
    singular_values=[1.25, 0.75],
    canonical_singular_values=[1.0, 0.625],
    eigenvalues=[1.0, 0.5 - 0.25j],
    timescales=[np.inf, 12.3456],
)


def test_columns_are_right_aligned():
    assert text_table([("a", "long"), ("1234", "2")]) == "   a  long\n1234     2"


def test_spectrum_says_every_kind_of_value_and_the_unit():
    head, *rows = cells(spectrum_table(SPECTRUM))
    assert head == ["mode", "learned", "K_matrix", "canonical", "eigenvalue", "timescale", "(ps)"]
    assert rows == [
        ["1", "1.0000", "1.2500", "1.0000", "1.0000", "inf"],
        ["2", "0.5000", "0.7500", "0.6250", "0.5000-0.2500i", "12.35"],
    ]


def test_values_that_are_not_known_are_dashes():
    reference = NoisyRotation().spectrum(lag=1, n_modes=1)
    head, _, second = cells(spectrum_table(SPECTRUM.drop_vars("svals"), reference))
    assert (second[head.index("learned")], second[head.index("reference")]) == ("-", "-")
    assert cells(spectrum_table(SPECTRUM, reference))[1][head.index("reference")] == "1.0000"


def test_longer_references_are_cut():
    rows = cells(spectrum_table(SPECTRUM, NoisyRotation().spectrum(lag=1, n_modes=5)))
    assert len(rows) == 3


def comparison(**attrs):
    numbers = {"ratio_mean": 1.5, "ratio_std": 0.25, "elbow": 1, "cond_M_f": 12.0, "cond_M_g": 3456.0, "level": 0.9}
    flags = {"is_decreasing": True, "is_in_unit_interval": True}
    verdict = {"verdict": "anisotropy", "remedy": "refine.", "reading": "read these.", "is_scaled_twice": False}
    data = per_mode(
        numbers | flags | verdict | attrs,
        learned=[1.0, 0.5],
        K_matrix=[1.25, 0.75],
        canonical=[1.0, 0.625],
        canonical_held_out=[1.0, 0.61],
        held_out_error=[0.0, 0.01],
        ratio=[1.25, 1.5],
        cluster=[1, 2],
    )
    bounds = interval("canonical", ["mode"], np.array([[1.0, 0.6], [1.0, 0.65]]))
    causes = ["training gap", "anisotropy", "generalisation gap"]
    return data.assign(bounds | {"size": ("cause", [0.1, 0.3, np.nan])}).assign_coords(cause=causes)


def test_comparison_says_table_causes_by_size_and_verdict():
    lines = comparison_text(comparison()).splitlines()
    assert lines[0].split("  ")[0] == "mode"
    assert lines[0].split()[-6:-2] == ["[90", "%", "90", "%]"]
    assert lines[2].split() == [
        "2",
        "0.5000",
        "0.7500",
        "0.6250",
        "0.6100",
        "0.0100",
        "0.6000",
        "0.6500",
        "1.5000",
        "2",
    ]
    assert lines[3] == "ratio K_matrix / learned: mean 1.5000, std 0.2500"
    assert lines[4] == ("learned decreasing: yes; in (0, 1]: yes; elbow after mode 1; cond(M_f) 12, cond(M_g) 3.46e+03")
    assert lines[5] == (
        "causes of disagreement (rms): anisotropy 0.3000, training gap 0.1000, "
        "generalisation gap unknown (no held-out pairs)"
    )
    assert lines[6:] == ["largest: anisotropy. Remedy: refine.", "read these."]


def test_comparison_shouts_that_features_were_scaled_twice():
    assert comparison_text(comparison(is_scaled_twice=True)).splitlines()[-1].startswith("SCALED TWICE: ")


def test_comparison_shouts_what_should_not_be():
    text = comparison_text(comparison(is_decreasing=False, is_in_unit_interval=False))
    assert "learned decreasing: NO; in (0, 1]: NO" in text


@pytest.mark.parametrize(
    ("start", "threshold", "expected"),
    [
        (
            "linear",
            1e-3,
            "refined: linear functions of the state and more of the last hidden layer (threshold 0.001) 2.7500; "
            "VAMP-2 on held-out pairs: linear functions of the state 1.5000, the trained features 2.5000",
        ),
        (
            "trained",
            np.inf,
            "refined: nothing beyond the trained features; "
            "VAMP-2 on held-out pairs: linear functions of the state 1.5000, the trained features 2.5000",
        ),
    ],
)
def test_refinement_says_the_scores_it_was_chosen_by(start, threshold, expected):
    scores = np.array([[1.5, 2.75], [2.5, 2.6]])
    result = RefinementResult(
        start, threshold, ("linear", "trained"), np.array([np.inf, 1e-3]), scores, "held-out pairs", validation=None
    )
    assert refinement_text(result) == expected


def test_scores_are_named():
    assert scores_text(Scores(1.5, 1.25, 1.125)) == "held out: VAMP-1 1.5000, VAMP-2 1.2500, VAMP-E 1.1250"


def test_a_finding_is_named_with_its_message():
    assert finding_text(Finding("low rank", "get more data.")) == "low rank: get more data."


def test_selection_says_the_answer_and_every_rule():
    numbers = {"n_energy": 3, "n_captured_share": 2, "n_elbow": 4, "n_vamp_e": 5, "n_null": 6, "recommended": 6}
    selection = xr.Dataset(numbers, attrs={"energy_fraction": 0.85, "answer": "6 (mode 7 is noise)"})
    assert selection_text(selection).splitlines() == [
        "number of modes: 6 (mode 7 is noise)",
        "by rule: 85 % of sum sigma 3, 85 % of sum sigma^2 2, elbow 4, held-out VAMP-E 5, above noise 6",
    ]


def test_residuals_flag_what_is_spurious():
    residuals = per_mode(
        {"note": "how to read it"},
        "edmd_mode",
        edmd_eigenvalues=[0.9, 0.5 + 0.25j],
        residual=[0.01234, 2.0],
        eigenvalue_condition=[1.0, 1500.0],
        autocorrelation_error=[0.001, 0.75],
        is_spurious=[False, True],
    )
    head, *rows, note = cells(residuals_text(residuals))
    assert head == ["mode", "eigenvalue", "(EDMD)", "residual", "condition", "autocorr.", "error"]
    assert rows == [
        ["1", "0.9000", "0.0123", "1", "0.001"],
        ["2", "0.5000+0.2500i", "2", "1.5e+03", "0.75", "SPURIOUS"],
    ]
    assert " ".join(note) == "how to read it"


def test_scan_says_timescales_with_intervals_and_unit():
    times = np.array([[np.inf, 10.0, 5.0, 2.0, 1.0], [np.inf, 12.0, 6.0, 3.0, 2.0]])
    bounds = interval("timescales", ["lag", "mode"], np.stack([times - 0.5, times + 0.5]), "ns")
    scan = labelled(
        {"timescales": (("lag", "mode"), times), **bounds},
        attrs={"time_unit": "ns", "answer": "4 frames (because)"},
        coords={"lag": [1, 4], "lag_time": ("lag", [0.5, 2.0])},
    )
    head, first, second, last = scan_text(scan).splitlines()
    assert head.split() == ["lag", "(ns)"] + [word for i in (2, 3, 4) for word in ("timescale", str(i), "(ns)")]
    assert " ".join(first.split()) == "1 0.5 10 (9.5, 10.5) 5 (4.5, 5.5) 2 (1.5, 2.5)"
    assert " ".join(second.split()).startswith("4 2 12 (11.5, 12.5)")
    assert last == "lag: 4 frames (because)"
    assert scan_text(scan.isel(mode=slice(2))).splitlines()[0].split() == ["lag", "(ns)", "timescale", "2", "(ns)"]


def test_intervals_say_their_level_bounds_and_unit():
    bounds = np.array([[0.5, 0.25], [0.75, 0.5]])
    names = ("canonical_singular_values", "singular_values", "eigenvalue_modulus", "timescales")
    variables = {}
    for i, name in enumerate(names, start=1):
        variables |= interval(name, ["mode"], i * bounds)
    intervals = labelled(variables, attrs={"level": 0.9, "time_unit": "ps"})
    level, head, first, _ = intervals_text(intervals).splitlines()
    assert level == "90 % intervals"
    assert head.split() == ["mode", "canonical", "K_matrix", "|eigenvalue|", "timescale", "(ps)"]
    assert " ".join(first.split()) == "1 (0.5, 0.75) (1, 1.5) (1.5, 2.25) (2, 3)"
    few = intervals_text(intervals[["singular_values_interval"]]).splitlines()
    assert few[1].split() == ["mode", "K_matrix"]


def test_tables_import_nothing_heavy():
    """The types that are named for the reader are not imported when the file runs."""
    code = (
        "import sys, types; package = types.ModuleType('koopman_lora'); package.__path__ = [sys.argv[1]];"
        "sys.modules['koopman_lora'] = package; import koopman_lora.tables; print('torch' in sys.modules)"
    )
    import koopman_lora

    command = [sys.executable, "-c", code, koopman_lora.__path__[0]]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_importance_says_the_leading_inputs_of_every_mode_but_the_constant():
    loss = np.array([[0, 0.125], [0, 0.5], [0, -0.25]])
    variables = {
        "sigma": ("mode", [1.0, 0.75]),
        "sigma_loss": (("input", "mode"), loss),
        **interval("sigma_loss", ["input", "mode"], np.stack([loss - 0.0625, loss + 0.0625])),
        "gradient": (("input", "mode"), 2 * abs(loss)),
    }
    importance = labelled(variables, {"level": 0.9, "n_left_out": 0}, {"input": ["a", "b", "c"]})
    title, *rows = importance_text(importance, n_inputs=2).splitlines()
    assert title == "mode 2, sigma 0.7500; 1 more input"
    assert [row.split() for row in rows[1:]] == [
        ["b", "0.5000", "0.4375", "0.5625", "1.000"],
        ["a", "0.1250", "0.0625", "0.1875", "0.250"],
    ]
    assert "gradient" not in importance_text(importance.drop_vars("gradient"))
    title, *_ = importance_text(importance.assign_attrs(n_left_out=144), n_inputs=2).splitlines()
    assert title == "mode 2, sigma 0.7500; 1 more input; 144 flatter ones were not permuted (n_inputs)"
