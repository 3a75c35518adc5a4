"""Text of results: a Dataset in, lines for the terminal out. Nothing is calculated here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from koopman_lora._labels import COORDINATE, EDMD_MODE, LAG, MODE, check_result
from koopman_lora.checks import checked
from koopman_lora.data.health_findings import health_findings
from koopman_lora.kinds import Count, real_array

if TYPE_CHECKING:
    from koopman_lora.finding import Finding
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
        "mode": cells(spectrum[MODE], "d"),
        "learned": cells(spectrum["svals"]) if "svals" in spectrum else unknown,
        "K_matrix": cells(spectrum["singular_values"]),
        "canonical": cells(spectrum["canonical_singular_values"]),
    }
    if reference is not None:
        columns["reference"] = [*cells(_reference_values(reference)), *unknown][: len(unknown)]
    columns["eigenvalue"] = [complex_text(value) for value in spectrum["eigenvalues"].values]
    columns[f"timescale ({spectrum.attrs['time_unit']})"] = cells(spectrum["timescales"], ".4g")
    return columns_text(columns)


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
    "reading",
    "is_scaled_twice",
]
_SCALED_TWICE = (
    "SCALED TWICE: features came scaled by sqrt(svals), and svals with them; give moments of unscaled features."
)


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
        "mode": cells(comparison[MODE], "d"),
        **{head: cells(comparison[name]) for head, name in _COMPARED.items()},
        f"[{level}": cells(lower),
        f"{level}]": cells(upper),
        "ratio": cells(comparison["ratio"]),
        "cluster": cells(comparison["cluster"], "d"),
    }
    sizes = comparison["size"].to_series().sort_values(ascending=False)
    listed = (f"{n} {s:.4f}" if np.isfinite(s) else f"{n} unknown (no held-out pairs)" for n, s in sizes.items())
    return "\n".join(
        [
            columns_text(columns),
            f"ratio K_matrix / learned: mean {a['ratio_mean']:.4f}, std {a['ratio_std']:.4f}",
            f"learned decreasing: {_yes(a['is_decreasing'])}; in (0, 1]: {_yes(a['is_in_unit_interval'])}; "
            f"elbow after mode {a['elbow']}; cond(M_f) {a['cond_M_f']:.3g}, cond(M_g) {a['cond_M_g']:.3g}",
            "causes of disagreement (rms): " + ", ".join(listed),
            f"largest: {a['verdict']}. Remedy: {a['remedy']}",
            a["reading"],
            *([_SCALED_TWICE] if a["is_scaled_twice"] else []),
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


# Rows of a table of coordinates; of more than these the sentences speak.
_MOST_ROWS = 30


@checked
def health_text(health: xr.Dataset) -> str:
    """Readable text of `data_health`: sizes, the table of coordinates, and what matters of it in sentences.

    Examples
    --------
    >>> print(kl.health_text(kl.data_health(np.random.default_rng(0).normal(size=(2000, 2)))))
    1 trajectory of 2000 frames, 1999 pairs at lag 1 (1 frame)
    coordinate     mean  deviation  drift +- err.  memory (frame)  samples  largest step
    ...
    nothing to object to
    """
    check_result("health", health, "data_health", "mean", "drift_error", attrs=["lag_time", "time_unit"])
    findings = health_findings(health)
    a = health.attrs
    n = int(a["n_trajectories"])
    lengths = f"{a['mean_trajectory']:.5g} frames" + f" (mean; shortest {a['shortest_trajectory']})" * (n > 1)
    rows = health.isel({COORDINATE: slice(_MOST_ROWS)})
    drifts = zip(rows["drift"].values, rows["drift_error"].values, strict=True)
    columns = {
        "coordinate": [str(name) for name in rows[COORDINATE].values],
        "mean": cells(rows["mean"], ".4g"),
        "deviation": cells(rows["deviation"], ".4g"),
        "drift +- err.": [f"{size:+.2f} +- {error:.2f}" if np.isfinite(error) else "-" for size, error in drifts],
        f"memory ({a['memory_unit']})": _known_cells(rows["autocorrelation_time"], ".3g"),
        "samples": _known_cells(rows["effective_samples"], ".0f"),
        "largest step": _known_cells(rows["largest_step"], ".3g"),
    }
    n_left = int(a["n_entries"]) - rows.sizes[COORDINATE]
    n_pairs = f"{a['n_pairs']} pair" + ("" if a["n_pairs"] == 1 else "s")
    lag = "an unknown lag" if a["lag"] == "unknown" else f"lag {a['lag']} ({a['lag_time']:g} {a['time_unit']})"
    return "\n".join(
        [
            f"{n} trajector{'y' if n == 1 else 'ies'} of {lengths}, {n_pairs} at {lag}",
            columns_text(columns),
            *([f"and {n_left} more"] if n_left else []),
            *([finding_text(finding) for finding in findings] or ["nothing to object to"]),
        ]
    )


def _known_cells(values: Any, form: str) -> list[str]:
    return [f"{value:{form}}" if np.isfinite(value) else "-" for value in np.asarray(values)]


def selection_text(selection: xr.Dataset) -> str:
    """Two lines of `select_n_modes`: the answer with its reason, and what each rule says."""
    energy = f"{100 * selection.attrs['energy_fraction']:g} %"
    rules = {
        "n_energy": f"{energy} of sum sigma",
        "n_captured_share": f"{energy} of sum sigma^2",
        "n_elbow": "elbow",
        "n_vamp_e": "held-out VAMP-E",
        "n_null": "above noise",
    }
    listed = ", ".join(f"{text} {int(selection[name])}" for name, text in rules.items())
    return f"number of modes: {selection.attrs['answer']}\nby rule: {listed}"


def residuals_text(residuals: xr.Dataset) -> str:
    """Table of `eigenpair_residuals`, spurious eigenpairs flagged, and the note on how to read it."""
    columns = {
        "mode": cells(residuals[EDMD_MODE], "d"),
        "eigenvalue (EDMD)": [complex_text(value) for value in residuals["edmd_eigenvalues"].values],
        "residual": cells(residuals["residual"], ".3g"),
        "condition": cells(residuals["eigenvalue_condition"], ".3g"),
        "autocorr. error": cells(residuals["autocorrelation_error"], ".3g"),
        "": ["SPURIOUS" if flag else "" for flag in residuals["is_spurious"].values],
    }
    return f"{columns_text(columns)}\n{residuals.attrs['note']}"


def scan_text(scan: xr.Dataset) -> str:
    """Table of `scan_lags`: the slowest three timescales, with intervals, at each lag; the answer and its reason."""
    unit = scan.attrs["time_unit"]
    columns = {"lag": cells(scan[LAG], "d"), f"({unit})": cells(scan["lag_time"], "g")}
    for i, mode in enumerate(scan[MODE].values[1:4], start=1):
        times, bounds = scan["timescales"].values[:, i], scan["timescales_interval"].values[:, :, i].T
        columns[f"timescale {mode} ({unit})"] = [
            f"{t:.4g} ({low:.4g}, {high:.4g})" for t, (low, high) in zip(times, bounds, strict=True)
        ]
    return f"{columns_text(columns)}\nlag: {scan.attrs['answer']}"


def intervals_text(intervals: xr.Dataset) -> str:
    """Table of `bootstrap_intervals`: lower and upper bound of each quantity for each mode, with the level."""
    names = {
        "canonical": "canonical_singular_values",
        "K_matrix": "singular_values",
        "|eigenvalue|": "eigenvalue_modulus",
        f"timescale ({intervals.attrs['time_unit']})": "timescales",
    }
    columns = {"mode": cells(intervals[MODE], "d")}
    for head, name in names.items():
        if f"{name}_interval" in intervals:
            columns[head] = [f"({low:.4g}, {high:.4g})" for low, high in intervals[f"{name}_interval"].values.T]
    return f"{100 * intervals.attrs['level']:g} % intervals\n{columns_text(columns)}"


@checked
def importance_text(importance: xr.Dataset, n_inputs: Count = 5) -> str:
    """Tables of `input_importance`, one for each mode but the constant: the inputs that sigma loses most without."""
    check_result("importance", importance, "input_importance", "mode", *_IMPORTANCE, attrs=["level"])
    moving = [mode for mode in importance[MODE].values if importance["sigma_loss"].sel(mode=mode).any()]
    return "\n\n".join(_importance_of_mode(importance.sel(mode=mode), n_inputs) for mode in moving)


_IMPORTANCE = ("input", "sigma", "sigma_loss", "sigma_loss_interval")


def _importance_of_mode(importance: xr.Dataset, n_inputs: int) -> str:
    order = np.argsort(-importance["sigma_loss"].values, kind="stable")
    shown, level = importance.isel(input=order[:n_inputs]), f"{100 * importance.attrs['level']:g} %"
    lower, upper = shown["sigma_loss_interval"].values
    columns = {
        "input": [str(name) for name in shown["input"].values],
        "sigma lost": cells(shown["sigma_loss"]),
        f"[{level}": cells(lower),
        f"{level}]": cells(upper),
    }
    if "gradient" in shown:
        columns["gradient"] = cells(shown["gradient"], ".3f")
    n_more = len(order) - n_inputs
    others = f"; {n_more} more input{'s' if n_more > 1 else ''}" if n_more > 0 else ""
    return f"mode {int(importance[MODE])}, sigma {float(importance['sigma']):.4f}{others}\n{columns_text(columns)}"


def columns_text(columns: dict[str, list[str]]) -> str:
    """Head -> cells below it, as a table."""
    return text_table(zip(*([head, *cells] for head, cells in columns.items()), strict=True))


def cells(values: Any, form: str = ".4f") -> list[str]:
    """Each value as text."""
    return [f"{value:{form}}" for value in np.asarray(values)]


def complex_text(value: complex) -> str:
    """A number with its imaginary part where there is one."""
    return f"{value.real:.4f}" if abs(value.imag) < 5e-5 else f"{value.real:.4f}{value.imag:+.4f}i"
