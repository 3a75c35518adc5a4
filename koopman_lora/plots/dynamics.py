"""Draw dynamics: eigenfunctions, coarse maps, memberships, forecasts, Chapman-Kolmogorov tests, networks of states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.ticker import MaxNLocator

from koopman_lora.plots.spectrum import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    add_legend,
    ink,
    make_axis,
    plain_log_ticks,
    with_unit,
)

STATE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, BLACK, GREY)


def state_colour(state: int) -> str:
    """Colour of a state, the same in every plot."""
    return STATE_COLOURS[state % len(STATE_COLOURS)]


def plot_eigenfunctions(functions: xr.DataArray, modes: Sequence[int] | None = None, ax: Axes | None = None) -> Axes:
    """Functions on a one-dimensional grid as curves, or one function on a two-dimensional grid as a map.

    Parameters
    ----------
    functions : DataArray (x, mode) or (x, y, mode) of `evaluate_on_grid`, real
    modes : mode numbers to draw; by default the first four after the constant, or mode 2 on two dimensions

    Raises
    ------
    ValueError
        For complex functions, more than two dimensions, modes that are not there, or several modes on one map.

    Examples
    --------
    >>> from koopman_lora.eigenanalysis import evaluate_on_grid
    >>> grid = evaluate_on_grid(lambda x: np.hstack([x**0, x]), {"x": np.linspace(-1, 1, 9)}, unit="nm")
    >>> plot_eigenfunctions(grid).get_xlabel()
    'x (nm)'
    """
    if np.iscomplexobj(functions):
        raise ValueError("functions must be real; draw functions.real, functions.imag, or abs(functions).")
    n_dims = functions.ndim - 1
    if n_dims not in (1, 2):
        raise ValueError(f"functions must be of one or two coordinates to be drawn; got dimensions {functions.dims}.")
    available = [int(m) for m in functions["mode"].values]
    modes = list(modes or (available[1:5] if n_dims == 1 else available[1:2]))
    if not set(modes) <= set(available):
        raise ValueError(f"modes must be among {available}; got {modes}.")
    if n_dims == 2 and len(modes) != 1:
        raise ValueError(f"modes must name one mode per map; got {modes}.")
    ax = make_axis(ax)
    if n_dims == 1:
        for mode in modes:
            ax.plot(
                functions[functions.dims[0]], functions.sel(mode=mode), color=state_colour(mode - 2), label=f"{mode}"
            )
        ax.axhline(0.0, color=GREY, lw=0.8, ls=":")
        ax.set(xlabel=_axis_label(functions, 0), ylabel="function (unit norm)", title="Eigenfunctions")
        add_legend(ax, title="mode")
        return ax
    values = functions.sel(mode=modes[0]).transpose(functions.dims[1], functions.dims[0])
    limit = float(np.nanmax(np.abs(values)))
    mesh = ax.pcolormesh(
        functions[functions.dims[0]],
        functions[functions.dims[1]],
        values,
        cmap="PuOr_r",
        vmin=-limit,
        vmax=limit,
        shading="nearest",
        rasterized=True,
    )
    if values.min() < 0 < values.max():
        ax.contour(functions[functions.dims[0]], functions[functions.dims[1]], values, levels=[0.0], colors=BLACK)
    ax.set(xlabel=_axis_label(functions, 0), ylabel=_axis_label(functions, 1), title=f"Eigenfunction {modes[0]}")
    ax.set_aspect("equal")
    ax.figure.colorbar(mesh, ax=ax, label="function (unit norm); line: 0")
    return ax


def _axis_label(values: xr.DataArray, axis: int) -> str:
    name = values.dims[axis]
    return with_unit(str(name), values[name].attrs.get("units"))


def plot_coarse_map(memberships: xr.DataArray, ax: Axes | None = None) -> Axes:
    """The most likely state over a two-dimensional grid: colour for the state, paler where the frame is shared.

    Parameters
    ----------
    memberships : DataArray (x, y, mode) of `evaluate_on_grid`, where mode counts the states; NaN is left white

    Raises
    ------
    ValueError
        For memberships that are not on a two-dimensional grid.

    Examples
    --------
    >>> from koopman_lora.eigenanalysis import evaluate_on_grid
    >>> half = lambda x: np.stack([x[:, 0] > 0, x[:, 0] <= 0], axis=1).astype(float)
    >>> axes = {"x": np.linspace(-1, 1, 9), "y": np.linspace(-1, 1, 9)}
    >>> plot_coarse_map(evaluate_on_grid(half, axes)).get_ylabel()
    'y'
    """
    if memberships.ndim != 3:
        raise ValueError(f"memberships must be on a two-dimensional grid; got dimensions {memberships.dims}.")
    ax = make_axis(ax)
    x, y = memberships.dims[:2]
    chi = memberships.transpose(y, x, ...).values
    known = np.isfinite(chi).all(axis=-1)
    chi = np.where(known[..., None], chi, 0.0)
    n_states = chi.shape[-1]
    colours = np.array([to_rgb(state_colour(i)) for i in range(n_states)])
    state, strength = chi.argmax(axis=-1), chi.max(axis=-1)
    # white where all states share a frame equally, full colour where it belongs to one
    strength = np.clip((strength - 1 / n_states) / (1 - 1 / n_states), 0, 1)[..., None] * known[..., None]
    image = strength * colours[state] + (1 - strength)
    ax.pcolormesh(memberships[x], memberships[y], image, shading="nearest", rasterized=True)
    handles = [Patch(color=colours[i], label=f"state {i}") for i in range(n_states) if (state[known] == i).any()]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    ax.set(xlabel=_axis_label(memberships, 0), ylabel=_axis_label(memberships, 1), title="Coarse-grained states")
    ax.set_aspect("equal")
    return ax


def plot_memberships(memberships: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Memberships against one coordinate, such as time or a position, one curve per state.

    Parameters
    ----------
    memberships : DataArray (coordinate, state or mode)

    Examples
    --------
    >>> chi = xr.DataArray(np.eye(2), dims=("time", "state"), coords={"time": ("time", [0.0, 1.0], {"units": "ps"})})
    >>> plot_memberships(chi).get_xlabel()
    'time (ps)'
    """
    if memberships.ndim != 2:
        raise ValueError(f"memberships must have dimensions (coordinate, state); got {memberships.dims}.")
    ax = make_axis(ax, width=7.0, height=3.2)
    along = memberships[memberships.dims[0]]
    for state in range(memberships.shape[1]):
        colour = state_colour(state)
        ax.plot(along, memberships[:, state], color=colour, label=f"state {state}")
        ax.fill_between(along, 0.0, memberships[:, state], color=colour, alpha=0.15, lw=0)
    ax.set(xlabel=_axis_label(memberships, 0), ylabel="membership", ylim=(-0.02, 1.02), title="Memberships")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return ax


def plot_forecast(
    band: xr.Dataset, truth: xr.DataArray | None = None, sample: int = 0, observable: Any = None, ax: Axes | None = None
) -> Axes:
    """A forecast with its band against time, and the truth where it is known.

    Parameters
    ----------
    band : Dataset of `forecast_band`
    truth : DataArray (step, sample, observable), optional
    sample : which sample
    observable : which observable, by its name; the first by default

    Examples
    --------
    >>> values = xr.DataArray(
    ...     np.ones((3, 1, 1)),
    ...     dims=("step", "sample", "observable"),
    ...     coords={"time": ("step", [1.0, 2.0, 3.0], {"units": "ps"}), "observable": ["x"]},
    ... )
    >>> band = xr.Dataset({"forecast": values, "lower": values - 0.1, "upper": values + 0.1})
    >>> plot_forecast(band).get_xlabel()
    'time (ps)'
    """
    ax = make_axis(ax)
    observable = band["observable"].values[0] if observable is None else observable
    one = band.sel(observable=observable).isel(sample=sample)
    time = one["time"]
    percent = f"{100 * band.attrs.get('level', 0.95):g} % band of the expectation"
    ax.fill_between(time, one["lower"], one["upper"], color=BLUE, alpha=0.3, lw=0, label=percent)
    ax.plot(time, one["forecast"], color=BLUE, label="forecast")
    if truth is not None:
        values = truth.sel(observable=observable).isel(sample=sample)
        ax.plot(time, values, color=ink(), ls="--", lw=1.4, label="truth")
    name = observable if isinstance(observable, str) else f"observable {observable}"
    ax.set(xlabel=with_unit("time", time.attrs.get("units")), ylabel=name, title=f"Forecast from sample {sample}")
    add_legend(ax)
    return ax


def plot_forecast_error(error: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Relative error against the horizon, of the forecast and of what it must beat; mean over the observables.

    Parameters
    ----------
    error : Dataset of `forecast_error`
    """
    ax = make_axis(ax)
    styles = {
        "koopman": (BLUE, "-"),
        "persistence": (GREY, ":"),
        "climatology": (ink(), "--"),
        "linear": (ORANGE, "-."),
    }
    for name in error["forecaster"].values:
        colour, style = styles[str(name)]
        curve = error["relative_rmse"].sel(forecaster=name).mean("observable")
        ax.plot(error["time"], curve, color=colour, ls=style, marker="o", ms=3, label=str(name))
    ax.set(
        xlabel=with_unit("horizon", error["time"].attrs.get("units")),
        ylabel="RMSE / standard deviation",
        ylim=(0, None),
        title="Forecast error",
    )
    add_legend(ax)
    return ax


def plot_chapman_kolmogorov(test: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Probability to stay in each state: predicted as line with band, estimated directly as points with bars.

    Parameters
    ----------
    test : Dataset of `chapman_kolmogorov`
    """
    ax = make_axis(ax)
    time = test["time"].values
    for state in test["state"].values:
        colour = state_colour(int(state))
        predicted, estimated = (
            {suffix: _diagonal(test, f"{name}{suffix}", state) for suffix in ("", "_lower", "_upper")}
            for name in ("predicted", "estimated")
        )
        ax.plot(time, predicted[""], color=colour, label=f"state {state}")
        if predicted["_lower"] is not None:
            ax.fill_between(time, predicted["_lower"], predicted["_upper"], color=colour, alpha=0.25, lw=0)
            bars = np.maximum([estimated[""] - estimated["_lower"], estimated["_upper"] - estimated[""]], 0.0)
            ax.errorbar(time, estimated[""], bars, fmt="none", ecolor=colour, capsize=3)
        ax.plot(time, estimated[""], "o", color=colour, mfc=ax.get_facecolor(), ms=5)
    ax.plot([], [], color=GREY, label="predicted, $K^n$")
    ax.plot([], [], "o", color=GREY, mfc=ax.get_facecolor(), label="estimated directly")
    ax.set(
        xlabel=with_unit("time", test["time"].attrs.get("units")),
        ylabel="probability to be in the same state",
        title="Chapman-Kolmogorov test",
    )
    add_legend(ax, ncols=2)
    return ax


def _diagonal(test: xr.Dataset, name: str, state: Any) -> np.ndarray | None:
    return test[name].sel(state=state, state_next=state).values if name in test else None


def plot_network(model: xr.Dataset, positions: np.ndarray | None = None, ax: Axes | None = None) -> Axes:
    """The reduced model as a network: areas grow with the stationary probabilities, arrows rates of jumps.

    Parameters
    ----------
    model : Dataset of `macroscopic_model`
    positions : array (n_states, 2), optional
        Where to draw the states, such as centres of wells; on a circle by default.

    Raises
    ------
    ValueError
        For positions of another shape.
    """
    n = model.sizes["state"]
    positions = _circle(n) if positions is None else np.asarray(positions, dtype=float)
    if positions.shape != (n, 2):
        raise ValueError(f"positions must have shape ({n}, 2); got {positions.shape}.")
    ax = make_axis(ax, width=6.0, height=5.5)
    # drawn in the unit square, so that sizes do not depend on the units of the positions
    low, span = positions.min(axis=0), np.ptp(positions, axis=0)
    places = np.where(span > 1e-9 * span.max(), 0.15 + 0.7 * (positions - low) / np.maximum(span, 1e-300), 0.5)
    pi, rates = model["stationary_distribution"].values, model["rates"].values
    for i in range(n):
        for j in range(n):
            if i != j and rates[i, j] > 1e-3 * rates.max():
                _draw_arrow(ax, places[i], places[j], rates[i, j], rates.max(), state_colour(i))
    for i, (place, probability) in enumerate(zip(places, pi, strict=True)):
        ax.scatter(*place, s=1300 + 4000 * probability, color=state_colour(i), edgecolor="white", lw=2, zorder=3)
        text = f"{i}\n{100 * probability:.0f} %"
        ax.text(*place, text, ha="center", va="center", color="white", fontsize=9, weight="bold", zorder=4)
    title = with_unit("Reduced model: populations and rates", model["rates"].attrs.get("units"))
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], title=title)
    ax.set_aspect("equal")
    ax.spines[:].set_visible(False)
    return ax


def _circle(n: int) -> np.ndarray:
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _draw_arrow(ax: Axes, start: np.ndarray, end: np.ndarray, rate: float, largest: float, colour: str) -> None:
    """An arrow that passes its counterpart on the left, with its rate beside it."""
    width = 0.6 + 3.4 * rate / largest
    arrow = FancyArrowPatch(
        start,
        end,
        connectionstyle="arc3,rad=0.15",
        arrowstyle="-|>",
        mutation_scale=10 + 2 * width,
        lw=width,
        color=colour,
        shrinkA=26,
        shrinkB=26,
        alpha=0.9,
    )
    ax.add_patch(arrow)
    along = end - start
    # a third of the way, where arrows that cross in the middle leave room
    beside = start + 0.36 * along + 0.135 * np.array([along[1], -along[0]])
    box = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
    ax.text(
        *beside, f"{rate:.2g}", color=colour, ha="center", va="center", fontsize=9, weight="bold", bbox=box, zorder=5
    )


def plot_number_of_states(suggestion: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Gaps between successive relaxation times with their intervals; the suggested number is marked.

    Parameters
    ----------
    suggestion : Dataset of `number_of_states`
    """
    ax = make_axis(ax)
    n, gap = suggestion["n_states"].values, suggestion["gap"].values
    bars = np.nan_to_num(np.maximum([gap - suggestion["lower"], suggestion["upper"] - gap], 0.0))
    ax.errorbar(n, gap, bars, fmt="o", color=BLUE, capsize=3, label="gap, with interval")
    best = int(suggestion.attrs["suggested"])
    ax.axvline(best, color=ORANGE, ls="--", zorder=0, label=f"suggested: {best}")
    ax.set(xlabel="number of states", ylabel="last time kept / next time", title="Gaps in the spectrum", yscale="log")
    plain_log_ticks(ax.yaxis)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(ax)
    return ax
