"""Sections about the dynamics: eigenvalues, timescales, functions, states, forecasts."""

from __future__ import annotations

import functools

import xarray as xr
from matplotlib.axes import Axes

from koopman_lora.columns import (
    complex_text,
    level_text,
    ranges,
    relaxation_columns,
    residual_columns,
    scan_columns,
    transition_columns,
)
from koopman_lora.plots import (
    plot_coarse_map,
    plot_eigenfunctions,
    plot_eigenvalues,
    plot_forecast_error,
    plot_memberships,
    plot_singular_functions,
    plot_timescales,
)
from koopman_lora.report.answers import Answers
from koopman_lora.report.figures import PANEL, SIZE, SQUARE, Figure, drawn, plain
from koopman_lora.report.section import Section, Table, renamed

# Modes whose functions are drawn, slowest first after the constant.
_DRAWN = 4


def eigenvalues_section(answers: Answers) -> Section:
    """Eigenvalues in the complex plane, and how far the eigenpairs can be trusted."""
    spectrum, intervals = answers.spectrum, answers.intervals
    values = spectrum["eigenvalues"].values
    figure = drawn(
        lambda ax: plot_eigenvalues(spectrum, intervals, ax=ax),
        f"Eigenvalues in the complex plane with {level_text(intervals)} intervals and the unit circle: "
        f"{', '.join(map(complex_text, values))}.",
        "Eigenvalues: on the unit circle nothing is forgotten; a complex pair turns.",
        SQUARE,
    )
    reading = (
        "Sorted by modulus. Timescales follow from these, not from singular values. A large condition number says that "
        "the eigenvalue moves much where the data change little."
    )
    residuals = answers.residuals
    if isinstance(residuals, str):
        return Section("eigenvalues", "Eigenvalues", reading, figures=(figure,), missing=(residuals,))
    note = str(residuals.attrs["note"])
    columns = renamed(residual_columns(residuals), {"": "spurious"})
    columns["spurious"] = ["yes" if flag else "no" for flag in columns["spurious"]]
    where = "held-out" if residuals.attrs["on_held_out_pairs"] else "fitted"
    table = Table(f"Residuals and condition numbers of the EDMD eigenpairs, at {where} pairs.", columns)
    return Section(
        "eigenvalues",
        "Eigenvalues",
        reading,
        figures=(figure,),
        tables=(table,),
        lines=(f"{note[:1].upper()}{note[1:]}.",),
    )


def timescales_section(answers: Answers) -> Section:
    """Implied timescales with intervals, and how they depend on the lag."""
    spectrum, bounds = answers.spectrum, answers.intervals["timescales_interval"].values
    unit, level = spectrum.attrs["time_unit"], level_text(answers.intervals)
    columns = {
        "mode": [str(mode) for mode in spectrum["mode"].values],
        "eigenvalue": [complex_text(value) for value in spectrum["eigenvalues"].values],
        f"timescale ({unit})": [f"{time:.4g}" for time in spectrum["timescales"].values],
        level: ranges(bounds, ".4g"),
    }
    table = Table(f"Implied timescales, those of the eigenvalues by modulus, with {level} intervals.", columns)
    reading = "A timescale can be trusted where it no longer depends on the lag: on a plateau."
    scan = answers.scan
    if isinstance(scan, str):
        return Section("timescales", "Timescales and lag", reading, tables=(table,), missing=(scan,))
    figure = drawn(
        lambda ax: plot_timescales(scan, ax=ax),
        f"Implied timescales of the slowest modes against the lag, with {level_text(scan)} intervals. "
        f"Which lag: {scan.attrs['answer']}.",
        "Timescales of the same features at longer lags.",
    )
    heads = {f"({unit})": f"time ({unit})"}
    scanned = Table("Slowest timescales at each lag, with intervals.", renamed(scan_columns(scan), heads))
    lines = (f"Lag: {scan.attrs['answer']}",)
    return Section("timescales", "Timescales and lag", reading, figures=(figure,), tables=(table, scanned), lines=lines)


def functions_section(answers: Answers) -> Section:
    """The leading left singular functions, over the states or along time."""
    reading = (
        "Left singular functions phi: what of the state is remembered. Where two singular values are not told apart, "
        "only the span of their functions is."
    )
    functions = answers.functions
    if isinstance(functions, str):
        return Section("functions", "Functions", reading, missing=(functions,))
    modes = [int(mode) for mode in functions["mode"].values][1 : 1 + _DRAWN] or [1]
    if "states" in functions:
        figures = tuple(_over_states(functions, mode, answers.coordinate_names) for mode in modes)
        return Section("functions", "Functions", reading, figures=figures)
    figures = tuple(_along_time(functions["phi"], mode) for mode in modes)
    lines = ("States of more than two coordinates: functions are shown along a stretch of the trajectories.",)
    return Section("functions", "Functions", reading, figures=figures, lines=lines)


def _over_states(functions: xr.Dataset, mode: int, names: tuple[str, ...]) -> Figure:
    axes = _axis_names(names, functions["states"].shape[1])
    draw = functools.partial(
        plot_singular_functions,
        functions["states"].values,
        functions["phi"].values,
        modes=[mode],
        coordinate_names=[plain(name) for name in axes],
    )
    text = f"Left singular function {mode} over {' and '.join(axes)}"
    return drawn(lambda ax: draw(axes=[ax]), f"{text}, {_extent(functions, mode)}.", f"{text}.", PANEL)


def _extent(functions: xr.Dataset, mode: int) -> str:
    """In words, between what and what a function lies, and where."""
    values, states = functions["phi"].sel(mode=mode).values, functions["states"].values
    low, high = (states[i] for i in (values.argmin(), values.argmax()))
    places = (f"({', '.join(f'{entry:.3g}' for entry in state)})" for state in (low, high))
    return f"from {values.min():.3g} at {next(places)} to {values.max():.3g} at {next(places)}"


def _along_time(phi: xr.DataArray, mode: int) -> Figure:
    def draw(ax: Axes) -> None:
        plot_eigenfunctions(phi, modes=[mode], ax=ax)
        ax.set(title=f"$\\phi_{{{mode}}}$")
        if (legend := ax.get_legend()) is not None:  # of one curve, which the title names
            legend.remove()

    values = phi.sel(mode=mode).values
    text = f"Left singular function {mode} along a stretch of time"
    return drawn(draw, f"{text}, between {values.min():.3g} and {values.max():.3g}.", f"{text}.", (SIZE[0], 2.4))


def states_section(answers: Answers) -> Section:
    """Metastable states: where they are, and the small Markov model between them."""
    reading = (
        "Few states instead of many modes: fuzzy sets by PCCA+ and the Markov model between them. Some are always "
        "found; they are metastable where the probability to stay is close to 1."
    )
    coarse = answers.coarse
    if isinstance(coarse, str):
        return Section("states", "Coarse map", reading, missing=(coarse,))
    return Section(
        "states", "Coarse map", reading, figures=(_coarse_figure(answers, coarse),), tables=_coarse_tables(coarse)
    )


def _coarse_figure(answers: Answers, coarse: xr.Dataset) -> Figure:
    chi, n_states = coarse["memberships"], coarse.sizes["state"]
    shares = ", ".join(f"state {i} {share:.3f}" for i, share in enumerate(coarse["populations"].values))
    if chi.ndim == 3:
        names = _axis_names(answers.coordinate_names, 2)
        return drawn(
            lambda ax: plot_coarse_map(chi, ax=ax).set(xlabel=plain(names[0]), ylabel=plain(names[1])),
            f"Map of {n_states} metastable states over {names[0]} and {names[1]}; populations: {shares}.",
            "The most likely state; paler where a frame belongs to several, blank where no frame was.",
            SQUARE,
        )
    along = _axis_names(answers.coordinate_names, 1)[0] if chi.dims[0] == "x" else "time"

    def draw(ax: Axes) -> None:
        plot_memberships(chi, ax=ax)
        if chi.dims[0] == "x":
            ax.set(xlabel=plain(along))

    return drawn(
        draw,
        f"Memberships in {n_states} metastable states against {along}; populations: {shares}.",
        "Memberships in the states; they sum to 1.",
    )


def _coarse_tables(coarse: xr.Dataset) -> tuple[Table, Table]:
    level, columns, times = level_text(coarse), transition_columns(coarse), relaxation_columns(coarse)
    return (
        Table(f"Probabilities to go from state to state in one lag, with {level} intervals.", columns),
        Table("Timescales of the model of few states; compare them with those of the modes.", times),
    )


def forecast_section(answers: Answers) -> Section:
    """Error of forecasts at held-out frames against the horizon."""
    reading = (
        "Root mean squared error of forecasts of the state at held-out frames, in standard deviations. A forecast is "
        "worth something below persistence (as it is now), climatology (the mean) and a linear model."
    )
    error = answers.forecast_error
    if isinstance(error, str):
        return Section("forecast", "Forecast error", reading, missing=(error,))
    curves = error["relative_rmse_mean"]
    unit = error["time"].attrs["units"]
    columns = {"lags ahead": [str(step) for step in error["step"].values]}
    columns[f"time ({unit})"] = [f"{time:.4g}" for time in error["time"].values]
    for name in curves["forecaster"].values:
        columns[str(name)] = [f"{value:.4f}" for value in curves.sel(forecaster=name).values]
    figure = drawn(
        lambda ax: plot_forecast_error(error, ax=ax),
        f"Forecast error against the horizon: {curves.sel(forecaster='koopman').values[0]:.3f} standard deviations "
        f"at the shortest, {curves.sel(forecaster='koopman').values[-1]:.3f} at the longest, beside persistence, "
        "climatology and a linear model.",
        "Forecast error against the horizon, mean over what is observed.",
    )
    table = Table("Relative error of each forecaster at each horizon.", columns)
    lines = (str(error.attrs["note"]),)
    return Section("forecast", "Forecast error", reading, figures=(figure,), tables=(table,), lines=lines)


def _axis_names(names: tuple[str, ...], n: int) -> list[str]:
    return list(names[:n]) if len(names) >= n else [f"coordinate {i}" for i in range(n)]
