"""Draw what a number is chosen from, the choice marked: modes by energy, lag by timescales, states by gaps."""

from __future__ import annotations

import itertools

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    add_legend,
    ink,
    make_axis,
    set_log_ticks,
    set_mode_axis,
    set_whole_ticks,
    time_text,
    with_unit,
)

# What the rules of `select_n_modes` are called in pictures.
_RULES = {"elbow": "elbow", "vamp_e": "held-out VAMP-E", "null": "above noise"}


@checked
def plot_energy(selection: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Cumulative energy by both definitions, with the numbers of modes that the rules choose.

    Parameters
    ----------
    selection : Dataset of `select_n_modes`
    """
    rules_of = ["n_energy", "n_captured_share", *("n_" + name for name in _RULES)]
    check_result(
        "selection",
        selection,
        "select_n_modes",
        "mode",
        "energy",
        "captured_share",
        "recommended",
        *rules_of,
        attrs=["energy_fraction", "is_capped"],
    )
    ax = make_axis(ax)
    modes, percent = selection["mode"].values, f"{100 * selection.attrs['energy_fraction']:g} %"
    energies = {
        "energy": (BLUE, "o", r"energy, part of $\Sigma\,\sigma$"),
        "captured_share": (ORANGE, "s", r"captured share, part of $\Sigma\,\sigma^2$"),
    }
    for name, (colour, marker, label) in energies.items():
        text = f"{label}: {percent} at {int(selection['n_' + name])}"
        ax.plot(modes, selection[name], "-", marker=marker, color=colour, label=text)
    ax.axhline(selection.attrs["energy_fraction"], color=GREY, ls=":", lw=1)
    recommended = int(selection["recommended"])
    text = f"at least {recommended}" if selection.attrs["is_capped"] else str(recommended)
    ax.axvline(recommended, color=GREEN, lw=2, zorder=0, label=f"recommended: {text}")
    rules = ", ".join(f"{text} {int(selection['n_' + name])}" for name, text in _RULES.items())
    set_mode_axis(ax, len(modes), "number of modes")
    ax.set(ylabel="cumulative share", ylim=(0, 1.03), title=f"Number of modes: {rules}")
    add_legend(ax)
    return ax


@checked
def plot_timescales(scan: xr.Dataset, n_timescales: int = 3, ax: Axes | None = None) -> Axes:
    """Implied timescales against the lag with intervals; the recommended lag is marked, or that there is no plateau.

    Timescales in the shaded region are shorter than the lag: data at this lag say little about them. An interval
    without an upper bound reaches to the top of the axis.

    Parameters
    ----------
    scan : Dataset of `scan_lags`
    n_timescales : number of timescales to draw, slowest first
    """
    check_result(
        "scan",
        scan,
        "scan_lags",
        "lag",
        "lag_time",
        "timescales",
        "timescales_interval",
        attrs=["time_unit", "has_plateau"],
    )
    ax = make_axis(ax)
    unit, times = scan.attrs["time_unit"], scan["lag_time"].values
    shown = slice(1, 1 + n_timescales)
    values, (lower, upper) = scan["timescales"].values[:, shown], scan["timescales_interval"].values[:, :, shown]
    drawn = np.append(values[np.isfinite(values) & (values > 0)], times)
    bottom, top = drawn.min() / 2, 2 * drawn.max()
    for i, colour in zip(range(values.shape[1]), itertools.cycle((BLUE, ORANGE, GREEN, RED, PURPLE)), strict=False):
        # bounds of 0 and infinity have no place on a logarithmic axis; the limits below cut them off
        bounds = (np.clip(side[:, i], bottom / 10, 10 * top) for side in (lower, upper))
        ax.fill_between(times, *bounds, color=colour, alpha=0.2, lw=2)  # the line shows an interval at one lag, too
        ax.plot(times, values[:, i], "o-", color=colour, label=f"mode {i + 2}")
    edges = np.linspace(0.0, 1.05 * times[-1], 200)
    ax.fill_between(
        edges, bottom / 10, np.maximum(edges, bottom / 10), color=GREY, alpha=0.15, lw=0, label="shorter than the lag"
    )
    if scan.attrs["has_plateau"]:
        recommended = scan.attrs["recommended_lag_time"]
        text = time_text(scan.attrs["recommended_lag"], recommended, unit)
        ax.axvline(recommended, color=ink(), ls=":", zorder=1, label=f"recommended lag: {text}")
    else:
        ax.plot([], [], " ", label=f"no plateau up to lag {scan['lag'].values[-1]}")
    ax.set(xlabel=with_unit("lag", unit), ylabel=with_unit("implied timescale", unit), title="Timescales against lag")
    ax.set(yscale="log", ylim=(bottom, top), xlim=(0, edges[-1]))
    set_log_ticks(ax.yaxis)
    add_legend(ax)
    return ax


@checked
def plot_number_of_states(suggestion: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Gaps between successive relaxation times with their intervals; the suggested number is marked.

    Parameters
    ----------
    suggestion : Dataset of `number_of_states`
    """
    check_result("suggestion", suggestion, "number_of_states", "n_states", "gap", "gap_interval", attrs=["suggested"])
    ax = make_axis(ax)
    n, gap = suggestion["n_states"].values, suggestion["gap"].values
    lower, upper = suggestion["gap_interval"].values
    bars = np.nan_to_num(np.maximum([gap - lower, upper - gap], 0.0))
    ax.errorbar(n, gap, bars, fmt="o", color=BLUE, capsize=3, label="gap, with interval")
    best = int(suggestion.attrs["suggested"])
    ax.axvline(best, color=ORANGE, ls="--", zorder=0, label=f"suggested: {best}")
    ax.set(xlabel="number of states", ylabel="last time kept / next time", title="Gaps in the spectrum", yscale="log")
    set_log_ticks(ax.yaxis)
    set_whole_ticks(ax.xaxis)
    add_legend(ax)
    return ax
