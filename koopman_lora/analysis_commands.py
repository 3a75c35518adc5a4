"""What the command line asks of a saved analysis: spectrum, report, forecast, states, pictures."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from koopman_lora import plots
from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.columns import forecast_columns, relaxation_columns, transition_columns
from koopman_lora.data.array_files import read_array
from koopman_lora.data.whole_files import check_replaceable
from koopman_lora.data_commands import trajectories_of
from koopman_lora.findings import equilibrium_findings, training_findings
from koopman_lora.io import save_dataset
from koopman_lora.saved_analysis import open_analysis
from koopman_lora.tables import (
    columns_text,
    comparison_text,
    finding_text,
    intervals_text,
    residuals_text,
    scan_text,
    scores_text,
    selection_text,
    spectrum_table,
)


def spectrum(a: argparse.Namespace) -> None:
    """The spectrum, and how far to trust it."""
    for path in (a.out, a.intervals):
        check_ending(path)
    if a.scan_lags and not a.data:
        raise ValueError("--scan-lags needs the trajectories: koopman-lora spectrum FOLDER DATA --scan-lags ...")
    analysis, data, weights = open_with(a)
    bootstrap = _bootstrap(a, analysis)
    print(analysis.summary(bootstrap) if a.summary else spectrum_table(analysis.spectrum))
    _print_trust(a, analysis, bootstrap)
    if a.scan_lags:
        print("\n" + scan_text(analysis.scan_lags(data, a.scan_lags, bootstrap, weights)))
    if a.intervals:
        write_intervals(analysis.intervals(bootstrap), a.intervals)
    if a.out:
        print(f"\nwrote {save_dataset(analysis.spectrum, a.out)}")


def write_intervals(intervals: xr.Dataset, path: str) -> None:
    """Print them and write them to a file."""
    print(f"\n{intervals_text(intervals)}\nwrote {save_dataset(intervals, path)}")


def report(a: argparse.Namespace) -> None:
    """One HTML page of all that is known."""
    path = pathlib.Path(a.out or pathlib.Path(a.analysis) / "report.html")
    print(f"wrote {open_with(a).analysis.report(path)}")


def _print_trust(a: argparse.Namespace, analysis: KoopmanAnalysis, bootstrap: Bootstrap) -> None:
    if a.diagnose:
        print("\n" + comparison_text(analysis.diagnose(bootstrap)))
        findings = training_findings(analysis.moments, analysis.model.svals_array())
        for finding in findings + equilibrium_findings(analysis.moments):
            print(finding_text(finding))
    if a.scores:
        print("\n" + scores_text(analysis.scores()))
    if a.select_n_modes:
        print("\n" + selection_text(analysis.select_n_modes(a.energy, a.level)))
    if a.residuals:
        print("\n" + residuals_text(analysis.residuals(a.tolerance)))


class Opened(NamedTuple):
    """An analysis, and the trajectories that it was opened with and how much they count; None where there are none."""

    analysis: KoopmanAnalysis
    data: Any
    weights: Any


def open_with(a: argparse.Namespace) -> Opened:
    """The analysis, and the trajectories where paths are given: those of the fit, or others that it is applied to."""
    analysis, weights = open_analysis(a.analysis), weights_of(a.sample_weight)
    if not a.data:
        return Opened(analysis, None, None)
    data = trajectories_of(a)
    pairs = analysis.pairs_of(data, weights)
    if analysis.was_fitted_to(pairs):
        return Opened(open_analysis(a.analysis, pairs), data, weights)
    is_weighted = weights is None and analysis.moments.block_pairs is not None
    hint = " The fit was weighted: if it is, give its --sample-weight." if is_weighted else ""
    print(f"{' '.join(a.data)} is not what the model was fitted to: all of it counts as held out.{hint}\n")
    return Opened(analysis.applied_to(pairs), data, weights)


def forecast(a: argparse.Namespace) -> None:
    """Expected states after the last one of every trajectory, with bands."""
    check_ending(a.out)
    analysis = open_analysis(a.analysis)
    pairs = analysis.pairs_of(trajectories_of(a))
    is_last = np.append(np.diff(pairs.trajectory) != 0, True)
    band = analysis.forecast(pairs.select(is_last).x_next, a.steps, bootstrap=_bootstrap(a, analysis))
    print(columns_text(forecast_columns(band)))
    if a.out:
        print(f"\nwrote {save_dataset(band, a.out)}")


def coarse_grain(a: argparse.Namespace) -> None:
    """The Markov model between few states."""
    check_ending(a.out)
    analysis = open_with(a).analysis
    model = analysis.coarse_grain(a.n_states, _bootstrap(a, analysis))
    print(columns_text(transition_columns(model)) + "\n\n" + columns_text(relaxation_columns(model)))
    if a.out:
        print(f"\nwrote {save_dataset(model, a.out)}")


# What `koopman-lora plot` draws, from what.
PICTURES: dict[str, Callable[[KoopmanAnalysis, Bootstrap], Axes]] = {
    "spectrum": lambda a, b: plots.plot_spectrum(a.spectrum),
    "comparison": lambda a, b: plots.plot_comparison(a.diagnose(b)),
    "eigenvalues": lambda a, b: plots.plot_eigenvalues(a.spectrum, a.intervals(b)),
    "energy": lambda a, b: plots.plot_energy(a.select_n_modes()),
    "modes": lambda a, b: plots.plot_modes_above_noise(a.select_n_modes()),
    "history": lambda a, b: plots.plot_history(a.fitted.history),
    "svals": lambda a, b: plots.plot_learned_svals(a.fitted.history, a.spectrum),
    "inputs": lambda a, b: plots.plot_input_importance(a.input_importance(bootstrap=b)),
}


def plot(a: argparse.Namespace) -> None:
    """One picture in a file."""
    if pathlib.Path(a.out).suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"out must end in .png, .svg or .pdf; got {a.out!r}.")
    analysis, data, weights = open_with(a)
    if a.lags:
        if data is None:
            raise ValueError("--lags needs the trajectories: koopman-lora plot FOLDER DATA --lags 1 2 5 --out FILE")
        ax = plots.plot_timescales(analysis.scan_lags(data, a.lags, _bootstrap(a, analysis), weights))
    else:
        ax = PICTURES[a.what](analysis, _bootstrap(a, analysis))
    ax.figure.savefig(a.out, dpi=150)
    print(f"wrote {a.out}")


def _bootstrap(a: argparse.Namespace, analysis: KoopmanAnalysis) -> Bootstrap:
    return Bootstrap(a.n_resamples, a.level, analysis.fitted.seed if a.seed is None else a.seed)


def weights_of(paths: list[str] | None) -> Any:
    """A weight for each frame or trajectory, from a file, or a file for each trajectory; None without."""
    if paths is None:
        return None
    weights = [read_array(pathlib.Path(path), "give a .npy file of weights") for path in paths]
    return weights[0] if len(weights) == 1 else weights


def check_ending(path: str | None) -> None:
    """Refuse before the work what cannot be written after it."""
    if path is not None and pathlib.Path(path).suffix not in (".nc", ".zarr"):
        raise ValueError(f"files to write must end in .nc or .zarr; got {path!r}.")
    if path is not None:
        check_replaceable(pathlib.Path(path))
