"""Text of results: a Dataset in, lines for the terminal out. Nothing is calculated here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from koopman_lora._labels import COORDINATE, MODE, check_result
from koopman_lora.checks import checked
from koopman_lora.columns import (
    COMPARED,
    cells,
    comparison_columns,
    complex_text,
    health_columns,
    interval_columns,
    level_text,
    residual_columns,
    scan_columns,
)
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

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    reference : ReferenceSpectrum, optional
        The truth, in columns of its own.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> print(kl.spectrum_table(kl.koopman_spectrum(estimate_moments(features, features, (x, 0.5 * x)))))
    mode  learned  K_matrix  canonical  eigenvalue  timescale (lag)
       1        -    1.0000     1.0000      1.0000              inf
       2        -    0.5000     1.0000      0.5000            1.443
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
    """Readable text of `compare_singular_values`: the table, the causes by size, the verdict and the remedy.

    Parameters
    ----------
    comparison : Dataset of `compare_singular_values`

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> moments = estimate_moments(features, features, (x, 0.5 * x))
    >>> print(kl.comparison_text(kl.compare_singular_values(moments, svals=[1.0, 0.5])))
    mode  learned  K_matrix  canonical  held out ...
       1   1.0000    1.0000     1.0000       nan ...
       2   0.5000    0.5000     1.0000       nan ...
    ...
    largest: training gap. Remedy: train for more epochs (n_epochs), or refine.
    ...
    """
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
        *COMPARED.values(),
        attrs=_VERDICT,
    )
    return "\n".join([columns_text(comparison_columns(comparison)), *comparison_lines(comparison)])


def comparison_lines(comparison: xr.Dataset) -> list[str]:
    """What is to be said below the table of `compare_singular_values`: causes by size, verdict and remedy."""
    a = comparison.attrs
    sizes = comparison["size"].to_series().sort_values(ascending=False)
    listed = (f"{n} {s:.4f}" if np.isfinite(s) else f"{n} unknown (no held-out pairs)" for n, s in sizes.items())
    return [
        f"ratio K_matrix / learned: mean {a['ratio_mean']:.4f}, std {a['ratio_std']:.4f}",
        f"learned decreasing: {_yes(a['is_decreasing'])}; in (0, 1]: {_yes(a['is_in_unit_interval'])}; "
        f"elbow after mode {a['elbow']}; cond(M_f) {a['cond_M_f']:.3g}, cond(M_g) {a['cond_M_g']:.3g}",
        "causes of disagreement (rms): " + ", ".join(listed),
        f"largest: {a['verdict']}. Remedy: {a['remedy']}",
        a["reading"],
        *([_SCALED_TWICE] if a["is_scaled_twice"] else []),
    ]


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


@checked
def health_text(health: xr.Dataset) -> str:
    """Readable text of `data_health`: sizes, the table of coordinates, and what matters of it in sentences.

    Parameters
    ----------
    health : Dataset of `data_health`

    Examples
    --------
    >>> print(kl.health_text(kl.data_health(np.random.default_rng(0).normal(size=(2000, 2)))))
    1 trajectory of 2000 frames, 1999 pairs at lag 1 (1 frame)
    coordinate     mean  deviation  drift +- err.  memory (frame)  samples  largest step
    ...
    nothing to object to
    """
    variables = (
        "mean",
        "deviation",
        "drift",
        "drift_error",
        "autocorrelation_time",
        "effective_samples",
        "largest_step",
    )
    check_result("health", health, "data_health", COORDINATE, *variables, attrs=["lag_time", "time_unit"])
    head, *lines = health_lines(health)
    return "\n".join([head, columns_text(health_columns(health)), *lines])


def health_lines(health: xr.Dataset) -> list[str]:
    """How much data there is, and what is to be said below the table of `data_health`."""
    a = health.attrs
    n = int(a["n_trajectories"])
    lengths = f"{a['mean_trajectory']:.5g} frames" + f" (mean; shortest {a['shortest_trajectory']})" * (n > 1)
    n_pairs = f"{a['n_pairs']} pair" + ("" if a["n_pairs"] == 1 else "s")
    lag = "an unknown lag" if a["lag"] == "unknown" else f"lag {a['lag']} ({a['lag_time']:g} {a['time_unit']})"
    n_left = int(a["n_entries"]) - len(health_columns(health)["coordinate"])
    findings = [finding_text(finding) for finding in health_findings(health)]
    return [
        f"{n} trajector{'y' if n == 1 else 'ies'} of {lengths}, {n_pairs} at {lag}",
        *([f"and {n_left} more"] if n_left else []),
        *(findings or ["nothing to object to"]),
    ]


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
    return f"{columns_text(residual_columns(residuals))}\n{residuals.attrs['note']}"


def scan_text(scan: xr.Dataset) -> str:
    """Table of `scan_lags`: the slowest three timescales, with intervals, at each lag; the answer and its reason."""
    return f"{columns_text(scan_columns(scan))}\nlag: {scan.attrs['answer']}"


def intervals_text(intervals: xr.Dataset) -> str:
    """Table of `bootstrap_intervals`: lower and upper bound of each quantity for each mode, with the level."""
    return f"{level_text(intervals)} intervals\n{columns_text(interval_columns(intervals))}"


@checked
def importance_text(importance: xr.Dataset, n_inputs: Count = 5) -> str:
    """Tables of `input_importance`, one for each mode but the constant: the inputs that sigma loses most without.

    Parameters
    ----------
    importance : Dataset of `input_importance`
    n_inputs : int
        Inputs to show for each mode.

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0)
    >>> estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    >>> print(kl.importance_text(estimator.input_importance(bootstrap=kl.Bootstrap(20)), n_inputs=1))
    mode 2, sigma 0.9...
    input  sigma lost   [95 %   95 %]  gradient
    ...
    """
    check_result("importance", importance, "input_importance", "mode", *_IMPORTANCE, attrs=["level", "n_left_out"])
    moving = [mode for mode in importance[MODE].values if importance["sigma_loss"].sel(mode=mode).any()]
    return "\n\n".join(_importance_of_mode(importance.sel(mode=mode), n_inputs) for mode in moving)


_IMPORTANCE = ("input", "sigma", "sigma_loss", "sigma_loss_interval")


def _importance_of_mode(importance: xr.Dataset, n_inputs: int) -> str:
    order = np.argsort(-importance["sigma_loss"].values, kind="stable")
    shown, level = importance.isel(input=order[:n_inputs]), level_text(importance)
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
    if importance.attrs["n_left_out"]:
        others += f"; {importance.attrs['n_left_out']} flatter ones were not permuted (n_inputs)"
    return f"mode {int(importance[MODE])}, sigma {float(importance['sigma']):.4f}{others}\n{columns_text(columns)}"


def columns_text(columns: dict[str, list[str]]) -> str:
    """Head -> cells below it, as a table."""
    return text_table(zip(*([head, *cells] for head, cells in columns.items()), strict=True))
