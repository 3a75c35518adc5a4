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
    add_legend_outside,
    ink,
    make_axis,
    set_answer,
    set_log_ticks,
    set_mode_axis,
    set_whole_ticks,
    time_text,
    with_unit,
)

# Width in inches of a picture with its legend outside.
WIDE = 8.0
# What the rules of `select_n_modes` are called in pictures.
_RULES = {"elbow": "elbow", "vamp_e": "held-out VAMP-E", "null": "above noise"}


@checked
def plot_energy(selection: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Cumulative energy by both definitions with its rule, what the others choose, the number fitted, and the answer.

    Bands are intervals of the same shares of held-out values: the curve of an over-fit runs outside of its band.

    Parameters
    ----------
    selection : Dataset of `select_n_modes`

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=600, seed=0)
    >>> estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    >>> plot_energy(estimator.select_n_modes()).get_xlabel()
    'number of modes (1 is the constant)'
    """
    rules_of = ["n_energy", "n_captured_share", *("n_" + name for name in _RULES)]
    _check_selection(selection, "energy", "captured_share", "energy_interval", "captured_share_interval", *rules_of)
    ax = make_axis(ax)
    modes, rule = selection["mode"].values, selection.attrs["energy_fraction"]
    energies = {
        "energy": (BLUE, "o", r"energy, part of $\Sigma\,\sigma$"),
        "captured_share": (ORANGE, "s", r"captured share, part of $\Sigma\,\sigma^2$"),
    }
    for name, (colour, marker, label) in energies.items():
        ax.fill_between(modes, *selection[f"{name}_interval"].values, color=colour, alpha=0.2, lw=0)
        ax.plot(modes, selection[name], "-", marker=marker, color=colour, label=label)
        ax.plot(int(selection["n_" + name]), rule, marker="v", ms=9, color=colour, mec=ink(), ls="none", zorder=4)
    ax.fill_between([], [], color=GREY, alpha=0.3, lw=0, label=f"{_level(selection)} interval, held-out pairs")
    rules = ", ".join(str(int(selection["n_" + name])) for name in energies)
    ax.axhline(rule, color=GREY, ls=":", lw=1.5, label=f"{100 * rule:g} %: reached with {rules} modes")
    others = "\n".join(f"{text} {int(selection['n_' + name])}" for name, text in _RULES.items())
    ax.plot([], [], " ", label=f"other rules:\n{others}")
    _mark_numbers(ax, selection)
    ax.set(ylabel="cumulative share", ylim=(0, 1.03))
    add_legend_outside(ax)
    return ax


@checked
def plot_modes_above_noise(selection: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Held-out singular values with intervals beside what noise alone reaches: the rule behind the answer.

    Parameters
    ----------
    selection : Dataset of `select_n_modes`

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=600, seed=0)
    >>> estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    >>> plot_modes_above_noise(estimator.select_n_modes()).get_xlabel()
    'number of modes (1 is the constant)'
    """
    _check_selection(selection, "sigma", "sigma_held_out", "sigma_held_out_interval", "noise_threshold", "n_null")
    ax = make_axis(ax, WIDE)
    modes, held_out = selection["mode"].values, selection["sigma_held_out"].values
    lower, upper = selection["sigma_held_out_interval"].values
    ax.plot(modes, selection["sigma"], "o", mfc="none", color=BLUE, label="fitted pairs")
    label = f"held-out pairs, {_level(selection)} interval"
    bars = np.nan_to_num(np.maximum([held_out - lower, upper - held_out], 0.0))
    ax.errorbar(modes, held_out, bars, fmt="D", ms=5, color=GREEN, capsize=3, label=label)
    noise = selection["noise_threshold"].values
    ax.hlines(noise, modes - 0.4, modes + 0.4, color=RED, lw=2.5, label="reached by noise alone")
    _mark_numbers(ax, selection)
    lowest = np.nan_to_num(np.append(lower, held_out)).min().clip(-1.0, 0.0)
    ax.set(ylabel="singular value", ylim=(1.1 * lowest - 0.05, 1.05))
    add_legend_outside(ax)
    return ax


def _check_selection(selection: xr.Dataset, *needed: str) -> None:
    attrs = ["energy_fraction", "level", "answer"]
    check_result("selection", selection, "select_n_modes", "mode", "recommended", *needed, attrs=attrs)


def _level(selection: xr.Dataset) -> str:
    return f"{100 * selection.attrs['level']:g} %"


def _mark_numbers(ax: Axes, selection: xr.Dataset) -> None:
    """Lines at the number recommended and at that fitted, where the answer can go no further; the answer above."""
    n_fitted, recommended = selection.sizes["mode"], int(selection["recommended"])
    set_mode_axis(ax, n_fitted, "number of modes (1 is the constant)")
    ax.axvline(recommended, color=PURPLE, lw=6, alpha=0.5, zorder=0, label=f"recommended: {recommended}")
    ax.axvline(n_fitted, color=ink(), lw=1.5, ls="--", zorder=1, label=f"fitted: {n_fitted}")
    set_answer(ax, "How many modes?", selection.attrs["answer"])


@checked
def plot_timescales(scan: xr.Dataset, n_timescales: int = 3, ax: Axes | None = None) -> Axes:
    """Implied timescales against the lag with intervals, the longest lag scanned, and the answer: a lag or none.

    Timescales in the shaded region are shorter than the lag: data at this lag say little about them. An interval
    without an upper bound reaches to the top of the axis.

    Parameters
    ----------
    scan : Dataset of `scan_lags`
    n_timescales : number of timescales to draw, slowest first

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0)
    >>> estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    >>> plot_timescales(estimator.scan_lags(data, [1, 2, 3], bootstrap=kl.Bootstrap(20))).get_xlabel()
    'lag (step)'
    """
    check_result(
        "scan",
        scan,
        "scan_lags",
        "lag",
        "lag_time",
        "timescales",
        "timescales_interval",
        attrs=["time_unit", "has_plateau", "answer"],
    )
    ax = make_axis(ax, WIDE)
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
        _mark_plateau(ax, scan, edges[-1])
    ax.axvline(times[-1], color=ink(), lw=1.5, ls="--", zorder=1, label="longest lag scanned")
    ax.set(xlabel=with_unit("lag", unit), ylabel=with_unit("implied timescale", unit))
    set_answer(ax, "Which lag?", scan.attrs["answer"])
    ax.set(yscale="log", ylim=(bottom, top), xlim=(0, edges[-1]))
    set_log_ticks(ax.yaxis)
    add_legend_outside(ax)
    return ax


def _mark_plateau(ax: Axes, scan: xr.Dataset, right: float) -> None:
    """The recommended lag, and the interval of its slowest timescale that those at longer lags agree with."""
    lag, time = scan.attrs["recommended_lag"], scan.attrs["recommended_lag_time"]
    text = time_text(lag, time, scan.attrs["time_unit"])
    ax.axvline(time, color=PURPLE, lw=6, alpha=0.5, zorder=0, label=f"recommended lag: {text}")
    bounds = scan["timescales_interval"].sel(lag=lag).values[:, 1]
    ax.hlines(bounds[np.isfinite(bounds)], time, right, color=ink(), ls=":", lw=1.2, label="interval of its timescale")


@checked
def plot_number_of_states(suggestion: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Gaps between successive relaxation times with their intervals; the suggested number is marked.

    Parameters
    ----------
    suggestion : Dataset of `number_of_states`

    Examples
    --------
    >>> path = np.repeat(np.random.default_rng(0).integers(0, 3, 200), 5)
    >>> one_hot = lambda x: torch.cat([x == state for state in range(3)], dim=1).double()
    >>> moments = estimate_moments(one_hot, one_hot, lagged_pairs(path.astype(float)))
    >>> plot_number_of_states(kl.number_of_states(moments)).get_xlabel()
    'number of states'
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
