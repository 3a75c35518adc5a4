"""Draw results: a Dataset or arrays in, an axis out; `ax=None` makes one. Nothing is calculated here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

# Okabe and Ito's palette: told apart with every common form of colour blindness
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#888888",
)


class HasSingularValues(Protocol):
    """Anything with `singular_values`, such as a system's reference spectrum."""

    singular_values: Any


def make_axis(ax: Axes | None, width: float = 6.0, height: float = 4.0) -> Axes:
    """The given axis, or one in a new figure."""
    # 'compressed' is 'constrained' that also fits axes of equal aspect with a legend beside them
    return ax if ax is not None else plt.subplots(figsize=(width, height), layout="compressed")[1]


def ink() -> str:
    """Colour of text in the current style: black lines would vanish on a dark background."""
    return mpl.rcParams["text.color"]


def add_legend(ax: Axes, **options: Any) -> None:
    """A legend that stays legible where it covers data."""
    ax.legend(**{"fontsize": "small", "framealpha": 0.85, "edgecolor": "none", **options})


def with_unit(name: str, unit: Any) -> str:
    """Label of a quantity with its unit, which is left out where there is none.

    Examples
    --------
    >>> with_unit("lag", "ps"), with_unit("lag", "1")
    ('lag (ps)', 'lag')
    """
    return name if unit in (None, "1", "1/1", "") else f"{name} ({unit})"


def plain_log_ticks(axis: Axis) -> None:
    """Ticks such as 0.5, 1, 2 on a logarithmic axis, powers of ten alone where it spans many decades."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def mode_axis(ax: Axes, n_modes: int, label: str = "mode") -> None:
    """Whole numbers 1 to n_modes, with room for the markers at both ends."""
    ax.set(xlabel=label, xlim=(0.5, n_modes + 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


# Colour, marker, size and width of line of each kind of singular value, the same in every plot; they nest.
_MARKERS = {
    "reference": {"marker": "_", "color": None, "ms": 18, "mew": 2, "zorder": 1},
    "learned": {"marker": "D", "color": ORANGE, "ms": 8, "mfc": "none", "mew": 1.6},
    "K_matrix": {"marker": "s", "color": SKY, "ms": 11, "mfc": "none", "mew": 1.4},
    "canonical": {"marker": "o", "color": BLUE, "ms": 5},
}


def _draw_values(ax: Axes, modes: np.ndarray, values: Any, kind: str, label: str) -> None:
    style = _MARKERS[kind]
    size = style["ms"] * min(1.0, np.sqrt(12 / len(modes)))  # many modes leave less room
    colour = style["color"] or ink()
    ax.plot(modes[: len(values)], values, ls="none", **(style | {"ms": size, "color": colour}), label=label)


def _value_axis(ax: Axes, n_modes: int, lowest: float = 0.0) -> None:
    """Limits of an axis of singular values: from 0, or below where noise is; logarithmic above 1 if they explode."""
    mode_axis(ax, n_modes, "mode (1 is the constant)")
    ax.axhline(1.0, color=GREY, lw=0.8, ls=":")
    top = max(1.0, ax.dataLim.y1)
    if top > 5:
        ax.set_yscale("symlog", linthresh=1.0)
    ax.set(ylabel="singular value", ylim=(min(0.0, lowest - 0.04 * min(top, 5.0)), 1.06 * top))


def plot_spectrum(spectrum: xr.Dataset, reference: HasSingularValues | None = None, ax: Axes | None = None) -> Axes:
    """Learned, K_matrix, canonical and reference singular values against the mode number, on one axis.

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    reference : object with `singular_values`, such as `system.spectrum(lag, n_modes)`
    """
    ax = make_axis(ax)
    modes = spectrum["mode"].values
    if reference is not None:
        _draw_values(ax, modes, np.asarray(reference.singular_values)[: len(modes)], "reference", "reference (truth)")
    if "svals" in spectrum:
        _draw_values(ax, modes, spectrum["svals"], "learned", "learned svals")
    _draw_values(ax, modes, spectrum["singular_values"], "K_matrix", "SVD of K_matrix")
    _draw_values(ax, modes, spectrum["canonical_singular_values"], "canonical", "canonical")
    _value_axis(ax, len(modes))
    ax.set_title(f"Koopman singular values, lag {_lag_text(spectrum)}")
    add_legend(ax)
    return ax


def _lag_text(dataset: xr.Dataset) -> str:
    lag, dt, unit = (dataset.attrs.get(name) for name in ("lag", "dt", "time_unit"))
    frames = f"{lag} frame{'s' if lag != 1 else ''}"
    if unit in (None, "frame", "step"):
        return frames
    return f"{lag * dt:g} ({frames})" if unit == "1" else f"{lag * dt:g} {unit} ({frames})"


def plot_history(history: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Training loss (negated, so that both rise) and held-out VAMP-E against the epoch; the best epoch is marked."""
    ax = make_axis(ax)
    epochs = history["epoch"].values
    ax.plot(epochs, -history["loss"], color=ORANGE, label="minus training loss (nested)")
    if "held_out_vamp_e" in history:
        ax.plot(epochs, history["held_out_vamp_e"], color=BLUE, marker="o", ms=3, label="held-out VAMP-E")
    ax.axvline(history.attrs["best_epoch"], color=GREY, ls=":", label=f"best epoch: {history.attrs['best_epoch']}")
    ax.set(xlabel="epoch", ylabel="score (higher is better)", title="Training")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(ax)
    return ax


def plot_singular_functions(
    x: np.ndarray,
    values: np.ndarray,
    reference: np.ndarray | None = None,
    modes: Sequence[int] | None = None,
    coordinate_names: Sequence[str] = ("x", "y"),
    symbol: str = r"\phi",
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Functions of one- or two-dimensional states, one panel per mode, four panels in a row.

    Parameters
    ----------
    x : array of shape (n, 1), (n,) or (n, 2)
    values : real array of shape (n, n_modes)
    reference : array like `values`, drawn dashed (1-D states only), with the sign of `values`: signs are arbitrary
    modes : mode numbers to draw, counted from 1; by default the first four after the constant
    symbol : of the function, in TeX
    axes : one axis per mode

    Returns
    -------
    array of axes

    Raises
    ------
    ValueError
        For states of more than two dimensions, complex values, or modes that are not there.

    Examples
    --------
    >>> grid = np.linspace(-1, 1, 20)
    >>> len(plot_singular_functions(grid, np.stack([grid**0, grid], axis=1)))
    1
    """
    x = np.asarray(x).reshape(len(x), -1)
    if x.shape[1] > 2:
        raise ValueError(f"x must be one- or two-dimensional to draw functions of it; got {x.shape[1]} coordinates.")
    if np.iscomplexobj(values):
        raise ValueError("values must be real; draw values.real and values.imag, or np.abs(values).")
    n_modes = values.shape[1]
    modes = list(modes or range(2, min(5, n_modes) + 1) or [1])
    if not all(1 <= mode <= n_modes for mode in modes):
        raise ValueError(f"modes must lie between 1 and {n_modes}; got {modes}.")
    if axes is None:
        axes = _panels(len(modes))
    for ax, mode in zip(axes, modes, strict=True):
        if x.shape[1] == 1:
            _draw_curve(ax, x[:, 0], values[:, mode - 1], None if reference is None else reference[:, mode - 1])
            ax.set(xlabel=coordinate_names[0])
        else:
            _draw_map(ax, x, values[:, mode - 1])
            ax.set(xlabel=coordinate_names[0], ylabel=coordinate_names[1])
        ax.set_title(f"${symbol}_{{{mode}}}$")
    return np.asarray(axes)


def _panels(n: int) -> np.ndarray:
    n_columns = min(n, 4)
    n_rows = -(-n // n_columns)
    size = (3.2 * n_columns, 3.0 * n_rows)
    axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)[1].ravel()
    for unused in axes[n:]:
        unused.remove()
    return axes[:n]


def _draw_curve(ax: Axes, x: np.ndarray, values: np.ndarray, reference: np.ndarray | None) -> None:
    order = np.argsort(x)
    if reference is not None:
        sign = -1.0 if np.vdot(reference, values) < 0 else 1.0
        ax.plot(x[order], sign * reference[order], color=ink(), ls="--", lw=1.2, label="reference", zorder=3)
    ax.plot(x[order], values[order], color=BLUE, lw=2, label="learned")
    if reference is not None:
        add_legend(ax)


def _draw_map(ax: Axes, x: np.ndarray, values: np.ndarray) -> None:
    limit = np.nanquantile(np.abs(values), 0.99)
    points = ax.scatter(x[:, 0], x[:, 1], c=values, s=3, cmap="PuOr_r", vmin=-limit, vmax=limit, rasterized=True)
    ax.set_aspect("equal")
    ax.figure.colorbar(points, ax=ax, shrink=0.8)


def plot_comparison(comparison: xr.Dataset, reference: HasSingularValues | None = None, ax: Axes | None = None) -> Axes:
    """Learned against empirical singular values with the interval of the canonical ones, verdict in the title.

    Held-out values carry bars of one standard error.

    Parameters
    ----------
    comparison : Dataset of `compare_singular_values`
    reference : object with `singular_values`, drawn as the truth
    """
    ax = make_axis(ax)
    modes, held_out = comparison["mode"].values, comparison["canonical_held_out"]
    if reference is not None:
        _draw_values(ax, modes, np.asarray(reference.singular_values)[: len(modes)], "reference", "reference (truth)")
    bounds = comparison["lower"], comparison["upper"]
    ax.vlines(modes, *bounds, color=BLUE, alpha=0.3, lw=min(9.0, 160 / len(modes)), label="95 % interval")
    _draw_values(ax, modes, comparison["canonical"], "canonical", "canonical (fitted pairs)")
    if comparison.attrs["has_held_out"]:
        bars = {"fmt": "x", "color": GREEN, "ms": 6, "mew": 1.6, "lw": 1.2}
        ax.errorbar(modes, held_out, comparison["held_out_error"], **bars, label="canonical (held out), std. error")
    _draw_values(ax, modes, comparison["learned"], "learned", "learned svals")
    _draw_values(ax, modes, comparison["K_matrix"], "K_matrix", "SVD of K_matrix")
    _value_axis(ax, len(modes), lowest=min(0.0, float(held_out.min())))
    ax.set_title(f"Largest cause of disagreement: {comparison.attrs['verdict']}")
    add_legend(ax)
    return ax


def plot_ratio(comparison: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Ratio of K_matrix to learned singular values per mode, with its mean and standard deviation."""
    ax = make_axis(ax)
    mean, std = comparison.attrs["ratio_mean"], comparison.attrs["ratio_std"]
    ax.axhspan(mean - std, mean + std, color=ORANGE, alpha=0.25, lw=0, label=f"mean ± std: {mean:.3g} ± {std:.2g}")
    ax.axhline(1.0, color=GREY, lw=0.8, ls=":", label="agreement")
    ax.plot(comparison["mode"], comparison["ratio"], "o-", color=BLUE)
    mode_axis(ax, comparison.sizes["mode"])
    farthest = np.fmax(0.05, 1.1 * float(abs(comparison["ratio"] - 1).max()))  # round-off must not fill the axis
    if farthest > 10:
        ax.set_yscale("symlog", linthresh=1.0)
    lowest = 1 - farthest if farthest < 1 else -0.03 * min(farthest, 10.0)
    ax.set(ylabel="K_matrix / learned", ylim=(lowest, 1 + farthest))
    ax.set_title("Ratio of singular values")
    add_legend(ax)
    return ax


# What the rules of `select_n_modes` are called in pictures.
_RULES = {"elbow": "elbow", "vamp_e": "held-out VAMP-E", "null": "above noise"}


def plot_energy(selection: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Cumulative energy by both definitions, with the numbers of modes that the rules choose.

    Parameters
    ----------
    selection : Dataset of `select_n_modes`
    """
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
    ax.axvline(recommended, color=GREEN, lw=2, zorder=0, label=f"recommended: {recommended}")
    rules = ", ".join(f"{text} {int(selection['n_' + name])}" for name, text in _RULES.items())
    mode_axis(ax, len(modes), "number of modes")
    ax.set(ylabel="cumulative share", ylim=(0, 1.03), title=f"Number of modes: {rules}")
    add_legend(ax)
    return ax


def plot_eigenvalues(spectrum: xr.Dataset, intervals: xr.Dataset | None = None, ax: Axes | None = None) -> Axes:
    """Eigenvalues in the complex plane with the unit circle, and their intervals where given.

    The axis holds all eigenvalues and the circle; an interval that is wider than that runs out of it.

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    intervals : Dataset of `bootstrap_intervals`
    """
    ax = make_axis(ax, 4.8, 5.2)
    angle = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(angle), np.sin(angle), color=GREY, lw=1, label="unit circle")
    values = spectrum["eigenvalues"].values
    if intervals is not None:
        real, imag = (intervals[f"eigenvalue_{part}"].values for part in ("real", "imag"))
        label = f"{100 * intervals.attrs['level']:g} % interval"
        ax.hlines(values.imag, real[:, 0], real[:, 1], color=SKY, lw=2, label=label)
        ax.vlines(values.real, imag[:, 0], imag[:, 1], color=SKY, lw=2)
    ax.plot(values.real, values.imag, "o", color=BLUE, ms=5, label="eigenvalues")
    limit = 1.1 * max(1.0, np.nanmax(np.abs(values)))
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$", title=f"Koopman eigenvalues, lag {_lag_text(spectrum)}")
    ax.set(xlim=(-limit, limit), ylim=(-limit, 1.25 * limit))  # the legend stands above the circle
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    add_legend(ax, loc="upper center", ncols=3, columnspacing=1.0)
    return ax


def plot_timescales(scan: xr.Dataset, n_timescales: int = 3, ax: Axes | None = None) -> Axes:
    """Implied timescales against the lag with intervals; the recommended lag is marked.

    Timescales in the shaded region are shorter than the lag: data at this lag say little about them. An interval
    without an upper bound reaches to the top of the axis.

    Parameters
    ----------
    scan : Dataset of `scan_lags`
    n_timescales : number of timescales to draw, slowest first
    """
    ax = make_axis(ax)
    unit, times = scan.attrs["time_unit"], scan["lag_time"].values
    shown = slice(1, 1 + n_timescales)
    values, lower, upper = (scan[f"timescales{side}"].values[:, shown] for side in ("", "_lower", "_upper"))
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
    recommended = scan.attrs["recommended_lag"] * scan.attrs["dt"]
    suffix = "" if unit == "1" else f" {unit}"
    ax.axvline(recommended, color=ink(), ls=":", zorder=1, label=f"recommended lag: {recommended:g}{suffix}")
    ax.set(xlabel=with_unit("lag", unit), ylabel=with_unit("implied timescale", unit), title="Timescales against lag")
    ax.set(yscale="log", ylim=(bottom, top), xlim=(0, edges[-1]))
    plain_log_ticks(ax.yaxis)
    add_legend(ax)
    return ax
