"""Text of results: a Dataset in, lines for the terminal out. Nothing is calculated here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from koopman_lora._labels import EDMD_MODE, LAG, MODE, check_result
from koopman_lora.checks import checked
from koopman_lora.kinds import real_array

if TYPE_CHECKING:
    from koopman_lora.findings import Finding
    from koopman_lora.refinement import RefinementResult
    from koopman_lora.scores import Scores
    from koopman_lora.systems import ReferenceSpectrum


def text_table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as right-aligned columns.

    Examples
    --------
    >>> print(text_table([("mode", "sigma"), ("1", "1.0")]))
    mode  sigma
       1    1.0
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


@checked
def spectrum_table(spectrum: xr.Dataset, reference: ReferenceSpectrum | None = None) -> str:
    """Readable table of a spectrum: singular values of all kinds, eigenvalue, timescale with its unit.

    Eigenvalues are sorted by modulus on their own; a row pairs numbers of equal rank, not of equal function.
    """
    check_result(
        "spectrum",
        spectrum,
        "koopman_spectrum",
        "mode",
        "singular_values",
        "canonical_singular_values",
        "eigenvalues",
        "timescales",
        attrs=["time_unit"],
    )
    unknown = ["-"] * spectrum.sizes[MODE]
    columns = {
        "mode": _cells(spectrum[MODE], "d"),
        "learned": _cells(spectrum["svals"]) if "svals" in spectrum else unknown,
        "K_matrix": _cells(spectrum["singular_values"]),
        "canonical": _cells(spectrum["canonical_singular_values"]),
    }
    if reference is not None:
        columns["reference"] = [*_cells(_reference_values(reference)), *unknown][: len(unknown)]
    columns["eigenvalue"] = [_complex_text(value) for value in spectrum["eigenvalues"].values]
    columns[f"timescale ({spectrum.attrs['time_unit']})"] = _cells(spectrum["timescales"], ".4g")
    return _columns_text(columns)


def _reference_values(reference: Any) -> np.ndarray:
    return real_array("reference.singular_values", getattr(reference, "singular_values", None))


# Head of a column of four digits -> variable of the comparison.
_COMPARED = {
    "learned": "learned",
    "K_matrix": "K_matrix",
    "canonical": "canonical",
    "held out": "canonical_held_out",
    "std.err": "held_out_error",
}
_VERDICT = [
    "level",
    "ratio_mean",
    "ratio_std",
    "is_decreasing",
    "is_in_unit_interval",
    "elbow",
    "cond_M_f",
    "cond_M_g",
    "verdict",
    "remedy",
]


@checked
def comparison_text(comparison: xr.Dataset) -> str:
    """Readable text of `compare_singular_values`: the table, the causes by size, the verdict and the remedy."""
    check_result(
        "comparison",
        comparison,
        "compare_singular_values",
        "mode",
        "canonical_interval",
        "ratio",
        "cluster",
        "size",
        "cause",
        *_COMPARED.values(),
        attrs=_VERDICT,
    )
    a = comparison.attrs
    level = f"{100 * a['level']:g} %"
    lower, upper = comparison["canonical_interval"].values
    columns = {
        "mode": _cells(comparison[MODE], "d"),
        **{head: _cells(comparison[name]) for head, name in _COMPARED.items()},
        f"[{level}": _cells(lower),
        f"{level}]": _cells(upper),
        "ratio": _cells(comparison["ratio"]),
        "cluster": _cells(comparison["cluster"], "d"),
    }
    sizes = comparison["size"].to_series().sort_values(ascending=False)
    listed = (f"{n} {s:.4f}" if np.isfinite(s) else f"{n} unknown (no held-out pairs)" for n, s in sizes.items())
    return "\n".join(
        [
            _columns_text(columns),
            f"ratio K_matrix / learned: mean {a['ratio_mean']:.4f}, std {a['ratio_std']:.4f}",
            f"learned decreasing: {_yes(a['is_decreasing'])}; in (0, 1]: {_yes(a['is_in_unit_interval'])}; "
            f"elbow after mode {a['elbow']}; cond(M_f) {a['cond_M_f']:.3g}, cond(M_g) {a['cond_M_g']:.3g}",
            "causes of disagreement (rms): " + ", ".join(listed),
            f"largest: {a['verdict']}. Remedy: {a['remedy']}",
        ]
    )


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def refinement_text(result: RefinementResult) -> str:
    """One line of what the refinement took, with the scores that it was chosen by."""
    what = {"linear": "linear functions of the state", "trained": "the trained features"}
    scores = ", ".join(f"{what[start]} {result.score(start):.4f}" for start in result.starts)
    taken = f"{what[result.start]} and more of the last hidden layer (threshold {result.threshold:.2g})"
    if not result.is_refined:
        return f"refined: nothing beyond {what[result.start]}; VAMP-2 on {result.chosen_by}: {scores}"
    chosen = f"{result.score(result.start, result.threshold):.4f}"
    return f"refined: {taken} {chosen}; VAMP-2 on {result.chosen_by}: {scores}"


def scores_text(scores: Scores) -> str:
    """One line of held-out scores.

    Examples
    --------
    >>> scores_text((1.9, 1.81, 1.8))
    'held out: VAMP-1 1.9000, VAMP-2 1.8100, VAMP-E 1.8000'
    """
    named = zip(("VAMP-1", "VAMP-2", "VAMP-E"), scores, strict=True)
    return "held out: " + ", ".join(f"{name} {value:.4f}" for name, value in named)


def finding_text(finding: Finding) -> str:
    """One line of a finding: its name, and what to know and do."""
    return f"{finding.name}: {finding.message}"


def selection_text(selection: xr.Dataset) -> str:
    """One line of `select_n_modes`: the recommended number of modes, or that more may be real, and what rules say."""
    energy = f"{100 * selection.attrs['energy_fraction']:g} %"
    rules = {
        "n_energy": f"{energy} of sum sigma",
        "n_captured_share": f"{energy} of sum sigma^2",
        "n_elbow": "elbow",
        "n_vamp_e": "held-out VAMP-E",
        "n_null": "above noise",
    }
    listed = ", ".join(f"{text} {int(selection[name])}" for name, text in rules.items())
    recommended = f"recommended {int(selection['recommended'])}"
    if selection.attrs["is_capped"]:
        recommended = f"at least {int(selection['recommended'])} (all that were fitted are real: fit more)"
        return f"number of modes: {recommended}; {listed}"
    return f"number of modes: {recommended} ({listed})"


def residuals_text(residuals: xr.Dataset) -> str:
    """Table of `eigenpair_residuals`, spurious eigenpairs flagged, and the note on how to read it."""
    columns = {
        "mode": _cells(residuals[EDMD_MODE], "d"),
        "eigenvalue (EDMD)": [_complex_text(value) for value in residuals["edmd_eigenvalues"].values],
        "residual": _cells(residuals["residual"], ".3g"),
        "condition": _cells(residuals["eigenvalue_condition"], ".3g"),
        "autocorr. error": _cells(residuals["autocorrelation_error"], ".3g"),
        "": ["SPURIOUS" if flag else "" for flag in residuals["is_spurious"].values],
    }
    return f"{_columns_text(columns)}\n{residuals.attrs['note']}"


def scan_text(scan: xr.Dataset) -> str:
    """Table of `scan_lags`: the slowest three timescales, with intervals, at each lag; the recommended lag or none."""
    unit = scan.attrs["time_unit"]
    columns = {"lag": _cells(scan[LAG], "d"), f"({unit})": _cells(scan["lag_time"], "g")}
    for i, mode in enumerate(scan[MODE].values[1:4], start=1):
        times, bounds = scan["timescales"].values[:, i], scan["timescales_interval"].values[:, :, i].T
        columns[f"timescale {mode} ({unit})"] = [
            f"{t:.4g} ({low:.4g}, {high:.4g})" for t, (low, high) in zip(times, bounds, strict=True)
        ]
    return f"{_columns_text(columns)}\n{_plateau_text(scan)}"


def _plateau_text(scan: xr.Dataset) -> str:
    if scan.attrs["has_plateau"]:
        return f"recommended lag: {scan.attrs['recommended_lag']} frames (shortest on the plateau)"
    return (
        f"recommended lag: none, no plateau up to lag {scan[LAG].values[-1]}; timescales still change: scan longer lags"
    )


def intervals_text(intervals: xr.Dataset) -> str:
    """Table of `bootstrap_intervals`: lower and upper bound of each quantity for each mode, with the level."""
    names = {
        "canonical": "canonical_singular_values",
        "K_matrix": "singular_values",
        "|eigenvalue|": "eigenvalue_modulus",
        f"timescale ({intervals.attrs['time_unit']})": "timescales",
    }
    columns = {"mode": _cells(intervals[MODE], "d")}
    for head, name in names.items():
        if f"{name}_interval" in intervals:
            columns[head] = [f"({low:.4g}, {high:.4g})" for low, high in intervals[f"{name}_interval"].values.T]
    return f"{100 * intervals.attrs['level']:g} % intervals\n{_columns_text(columns)}"


def _columns_text(columns: dict[str, list[str]]) -> str:
    """Head -> cells below it, as a table."""
    return text_table(zip(*([head, *cells] for head, cells in columns.items()), strict=True))


def _cells(values: Any, form: str = ".4f") -> list[str]:
    return [f"{value:{form}}" for value in np.asarray(values)]


def _complex_text(value: complex) -> str:
    return f"{value.real:.4f}" if abs(value.imag) < 5e-5 else f"{value.real:.4f}{value.imag:+.4f}i"
