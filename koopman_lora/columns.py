"""Columns of tables, a head and the cells below it: a Dataset in, words out, for the terminal and for pages alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import COORDINATE, EDMD_MODE, LAG, MODE

# Head of a column of four digits -> variable of the comparison.
COMPARED = {
    "learned": "learned",
    "K_matrix": "K_matrix",
    "canonical": "canonical",
    "held out": "canonical_held_out",
    "std.err": "held_out_error",
}
# Rows of a table of coordinates; of more than these the sentences speak.
_MOST_ROWS = 30


def comparison_columns(comparison: xr.Dataset) -> dict[str, list[str]]:
    """Singular values of all kinds of `compare_singular_values`, per mode, with bounds of the canonical ones."""
    level = level_text(comparison)
    lower, upper = comparison["canonical_interval"].values
    return {
        "mode": cells(comparison[MODE], "d"),
        **{head: cells(comparison[name]) for head, name in COMPARED.items()},
        f"[{level}": cells(lower),
        f"{level}]": cells(upper),
        "ratio": cells(comparison["ratio"]),
        "cluster": cells(comparison["cluster"], "d"),
    }


def health_columns(health: xr.Dataset) -> dict[str, list[str]]:
    """What is known of the first coordinates of `data_health`."""
    rows = health.isel({COORDINATE: slice(_MOST_ROWS)})
    drifts = zip(rows["drift"].values, rows["drift_error"].values, strict=True)
    return {
        "coordinate": [str(name) for name in rows[COORDINATE].values],
        "mean": cells(rows["mean"], ".4g"),
        "deviation": cells(rows["deviation"], ".4g"),
        "drift +- err.": [f"{size:+.2f} +- {error:.2f}" if np.isfinite(error) else "-" for size, error in drifts],
        f"memory ({health.attrs['memory_unit']})": _known_cells(rows["autocorrelation_time"], ".3g"),
        "samples": _known_cells(rows["effective_samples"], ".0f"),
        "largest step": _known_cells(rows["largest_step"], ".3g"),
    }


def residual_columns(residuals: xr.Dataset) -> dict[str, list[str]]:
    """Eigenpairs of `eigenpair_residuals`, spurious ones flagged."""
    return {
        "mode": cells(residuals[EDMD_MODE], "d"),
        "eigenvalue (EDMD)": [complex_text(value) for value in residuals["edmd_eigenvalues"].values],
        "residual": cells(residuals["residual"], ".3g"),
        "condition": cells(residuals["eigenvalue_condition"], ".3g"),
        "autocorr. error": cells(residuals["autocorrelation_error"], ".3g"),
        "": ["SPURIOUS" if flag else "" for flag in residuals["is_spurious"].values],
    }


def scan_columns(scan: xr.Dataset) -> dict[str, list[str]]:
    """The slowest three timescales of `scan_lags`, with intervals, at each lag."""
    unit = scan.attrs["time_unit"]
    columns = {"lag": cells(scan[LAG], "d"), f"({unit})": cells(scan["lag_time"], "g")}
    for i, mode in enumerate(scan[MODE].values[1:4], start=1):
        times, bounds = scan["timescales"].values[:, i], scan["timescales_interval"].values[:, :, i].T
        columns[f"timescale {mode} ({unit})"] = [
            f"{t:.4g} ({low:.4g}, {high:.4g})" for t, (low, high) in zip(times, bounds, strict=True)
        ]
    return columns


def transition_columns(coarse: xr.Dataset) -> dict[str, list[str]]:
    """Populations, and probabilities from state to state in one lag with intervals, of `macroscopic_model`."""
    states = [str(state) for state in coarse["state"].values]
    matrix, bounds = coarse["transition_matrix"].values, coarse["transition_matrix_interval"].values
    columns: dict[str, list[str]] = {"from": states, "population": cells(coarse["populations"])}
    for j, state in enumerate(states):
        column = zip(matrix[:, j], ranges(bounds[:, :, j], ".3g"), strict=True)  # what was not seen is not 0.000
        columns[f"to {state}"] = [f"{value:.4f} {interval}" for value, interval in column]
    return columns


def relaxation_columns(coarse: xr.Dataset) -> dict[str, list[str]]:
    """Timescales of `macroscopic_model` with intervals."""
    return {
        "mode": cells(coarse[MODE], "d"),
        f"timescale ({coarse['timescales'].attrs['units']})": cells(coarse["timescales"], ".4g"),
        level_text(coarse): ranges(coarse["timescales_interval"].values, ".4g"),
    }


def forecast_columns(band: xr.Dataset, n_most: int = 6) -> dict[str, list[str]]:
    """Forecasts of `forecast_band` with their bands, a row for each start and step, at most so many observables."""
    rows = [(i, j) for i in range(band.sizes["sample"]) for j in range(band.sizes["step"])]
    unit = band.attrs["time_unit"]
    columns = {"start": [str(i) for i, _ in rows], f"time ({unit})": [f"{band['time'].values[j]:g}" for _, j in rows]}
    for k, name in enumerate(band["observable"].values[:n_most]):
        values, bounds = band["forecast"].values[..., k], band["forecast_interval"].values[..., k]
        columns[str(name)] = [f"{values[j, i]:.4g} ({bounds[0, j, i]:.4g}, {bounds[1, j, i]:.4g})" for i, j in rows]
    return columns


def interval_columns(intervals: xr.Dataset) -> dict[str, list[str]]:
    """Lower and upper bound of each quantity of `bootstrap_intervals`, per mode."""
    names = {
        "canonical": "canonical_singular_values",
        "K_matrix": "singular_values",
        "|eigenvalue|": "eigenvalue_modulus",
        f"timescale ({intervals.attrs['time_unit']})": "timescales",
    }
    columns = {"mode": cells(intervals[MODE], "d")}
    for head, name in names.items():
        if f"{name}_interval" in intervals:
            columns[head] = ranges(intervals[f"{name}_interval"].values, ".4g")
    return columns


def level_text(result: xr.Dataset) -> str:
    """Level of the intervals of a result.

    Examples
    --------
    >>> level_text(xr.Dataset(attrs={"level": 0.95}))
    '95 %'
    """
    return f"{100 * result.attrs['level']:g} %"


def ranges(bounds: np.ndarray, form: str) -> list[str]:
    """Lower and upper bounds (2, n) as text.

    Examples
    --------
    >>> ranges(np.array([[0.5, 1.0], [0.75, np.inf]]), ".3g")
    ['(0.5, 0.75)', '(1, inf)']
    """
    return [f"({low:{form}}, {high:{form}})" for low, high in bounds.T]


def cells(values: Any, form: str = ".4f") -> list[str]:
    """Each value as text."""
    return [f"{value:{form}}" for value in np.asarray(values)]


def _known_cells(values: Any, form: str) -> list[str]:
    return [f"{value:{form}}" if np.isfinite(value) else "-" for value in np.asarray(values)]


def is_shown_real(value: complex) -> bool:
    """Whether `complex_text` writes a number without an imaginary part."""
    return abs(value.imag) < 5e-5


def complex_text(value: complex) -> str:
    """A number with its imaginary part where there is one."""
    return f"{value.real:.4f}" if is_shown_real(value) else f"{value.real:.4f}{value.imag:+.4f}i"
