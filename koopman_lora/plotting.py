"""Draw results: a Dataset or arrays in, an axis out; `ax=None` makes one. Nothing is calculated here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

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
    return ax if ax is not None else plt.subplots(figsize=(width, height), layout="constrained")[1]


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
        values = np.asarray(reference.singular_values)[: len(modes)]
        ax.plot(modes[: len(values)], values, "_", color=BLACK, ms=20, mew=2, label="reference (truth)", zorder=1)
    if "svals" in spectrum:
        ax.plot(modes, spectrum["svals"], "D", color=ORANGE, ms=8, mfc="none", mew=1.6, label="learned svals")
    ax.plot(modes, spectrum["singular_values"], "s", color=SKY, ms=11, mfc="none", mew=1.4, label="SVD of K_matrix")
    ax.plot(modes, spectrum["canonical_singular_values"], "o", color=BLUE, ms=5, label="canonical")
    ax.axhline(1.0, color=GREY, lw=0.8, ls=":")
    ax.set(xlabel="mode (the constant one is 1)", ylabel="singular value", ylim=(0, None))
    ax.set_title(f"Koopman singular values, lag {_lag_text(spectrum)}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def _lag_text(dataset: xr.Dataset) -> str:
    lag, dt, unit = (dataset.attrs.get(name) for name in ("lag", "dt", "time_unit"))
    frames = f"{lag} frame{'s' if lag != 1 else ''}"
    return frames if unit in (None, "frame", "step") else f"{lag * dt:g} {unit} ({frames})"


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
    ax.legend(frameon=False)
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
    """Functions of one- or two-dimensional states, one panel per mode.

    Parameters
    ----------
    x : array of shape (n, 1), (n,) or (n, 2)
    values : real array of shape (n, n_modes)
    reference : array like `values`, drawn dashed (1-D states only)
    modes : mode numbers to draw, counted from 1; by default the first four after the constant
    symbol : of the function, in TeX
    axes : one axis per mode

    Returns
    -------
    array of axes

    Raises
    ------
    ValueError
        For states of more than two dimensions, or complex values.

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
    modes = list(modes or range(2, min(5, values.shape[1]) + 1))
    if axes is None:
        width = 3.2 * len(modes)
        axes = plt.subplots(1, len(modes), figsize=(width, 3.0), layout="constrained", squeeze=False)[1][0]
    for ax, mode in zip(axes, modes, strict=True):
        if x.shape[1] == 1:
            _draw_curve(ax, x[:, 0], values[:, mode - 1], None if reference is None else reference[:, mode - 1])
            ax.set(xlabel=coordinate_names[0])
        else:
            _draw_map(ax, x, values[:, mode - 1])
            ax.set(xlabel=coordinate_names[0], ylabel=coordinate_names[1])
        ax.set_title(f"${symbol}_{{{mode}}}$")
    return np.asarray(axes)


def _draw_curve(ax: Axes, x: np.ndarray, values: np.ndarray, reference: np.ndarray | None) -> None:
    order = np.argsort(x)
    if reference is not None:
        ax.plot(x[order], reference[order], color=BLACK, ls="--", lw=1.2, label="reference", zorder=3)
    ax.plot(x[order], values[order], color=BLUE, lw=2, label="learned")
    if reference is not None:
        ax.legend(frameon=False, fontsize="small")


def _draw_map(ax: Axes, x: np.ndarray, values: np.ndarray) -> None:
    limit = np.quantile(np.abs(values), 0.99)
    points = ax.scatter(x[:, 0], x[:, 1], c=values, s=3, cmap="PuOr", vmin=-limit, vmax=limit, rasterized=True)
    ax.set_aspect("equal")
    ax.figure.colorbar(points, ax=ax, shrink=0.8)


def plot_comparison(comparison: xr.Dataset, reference: HasSingularValues | None = None, ax: Axes | None = None) -> Axes:
    """Learned against empirical singular values with the interval of the canonical ones, verdict in the title.

    Parameters
    ----------
    comparison : Dataset of `compare_singular_values`
    reference : object with `singular_values`, drawn as the truth
    """
    ax = make_axis(ax)
    modes, canonical = comparison["mode"].values, comparison["canonical"].values
    if reference is not None:
        values = np.asarray(reference.singular_values)[: len(modes)]
        ax.plot(modes[: len(values)], values, "_", color=BLACK, ms=18, mew=2, label="reference (truth)", zorder=1)
    ax.vlines(modes, comparison["lower"], comparison["upper"], color=BLUE, alpha=0.3, lw=9, label="95 % interval")
    ax.plot(modes, canonical, "o", color=BLUE, ms=5, label="canonical (fitted pairs)")
    if comparison.attrs["has_held_out"]:
        ax.plot(modes, comparison["canonical_held_out"], "x", color=GREEN, ms=7, mew=2, label="canonical (held out)")
    ax.plot(modes, comparison["learned"], "D", color=ORANGE, ms=8, mfc="none", mew=1.6, label="learned svals")
    ax.plot(modes, comparison["K_matrix"], "s", color=SKY, ms=11, mfc="none", mew=1.4, label="SVD of K_matrix")
    ax.axhline(1.0, color=GREY, lw=0.8, ls=":")
    ax.set(
        xlabel="mode", ylabel="singular value", title=f"Largest cause of disagreement: {comparison.attrs['verdict']}"
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize="small")
    return ax


def plot_ratio(comparison: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Ratio of K_matrix to learned singular values per mode, with its mean and standard deviation."""
    ax = make_axis(ax)
    mean, std = comparison.attrs["ratio_mean"], comparison.attrs["ratio_std"]
    ax.axhspan(mean - std, mean + std, color=ORANGE, alpha=0.25, lw=0, label=f"mean ± std: {mean:.3f} ± {std:.3f}")
    ax.axhline(1.0, color=GREY, lw=0.8, ls=":", label="agreement")
    ax.plot(comparison["mode"], comparison["ratio"], "o-", color=BLUE)
    farthest = max(0.05, 1.1 * float(abs(comparison["ratio"] - 1).max()))  # round-off must not fill the axis
    ax.set(
        xlabel="mode", ylabel="K_matrix / learned", ylim=(1 - farthest, 1 + farthest), title="Ratio of singular values"
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def plot_energy(selection: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Cumulative energy by both definitions, with the numbers of modes that the four rules choose.

    Parameters
    ----------
    selection : Dataset of `select_n_modes`
    """
    ax = make_axis(ax)
    modes = selection["mode"].values
    ax.plot(modes, selection["energy"], "o-", color=BLUE, label=r"energy: part of $\Sigma\,\sigma$")
    ax.plot(modes, selection["captured_share"], "s-", color=ORANGE, label=r"captured share: part of $\Sigma\,\sigma^2$")
    fraction = selection.attrs["energy_fraction"]
    ax.axhline(fraction, color=GREY, ls=":", lw=1, label=f"{fraction:.0%}")
    ax.axvline(int(selection["recommended"]), color=GREEN, lw=2, label=f"recommended: {int(selection['recommended'])}")
    rules = ", ".join(f"{n} {int(selection['n_' + n])}" for n in ("elbow", "vamp_e", "null"))
    ax.set(xlabel="number of modes", ylabel="cumulative", ylim=(0, 1.03), title=f"Number of modes ({rules})")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def plot_eigenvalues(spectrum: xr.Dataset, intervals: xr.Dataset | None = None, ax: Axes | None = None) -> Axes:
    """Eigenvalues in the complex plane with the unit circle, and their intervals where given.

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    intervals : Dataset of `bootstrap_intervals`
    """
    ax = make_axis(ax, 5.0, 4.6)
    angle = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(angle), np.sin(angle), color=GREY, lw=1, label="unit circle")
    values = spectrum["eigenvalues"].values
    if intervals is not None:
        real, imag = (intervals[f"eigenvalue_{part}"].values for part in ("real", "imag"))
        ax.hlines(
            values.imag, real[:, 0], real[:, 1], color=SKY, lw=2, label=f"{intervals.attrs['level']:.0%} interval"
        )
        ax.vlines(values.real, imag[:, 0], imag[:, 1], color=SKY, lw=2)
    ax.plot(values.real, values.imag, "o", color=BLUE, ms=5, label="eigenvalues")
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$", title=f"Koopman eigenvalues, lag {_lag_text(spectrum)}")
    ax.set_aspect("equal")
    ax.legend(frameon=False, loc="lower left", fontsize="small")
    return ax


def plot_timescales(scan: xr.Dataset, n_timescales: int = 3, ax: Axes | None = None) -> Axes:
    """Implied timescales against the lag with intervals; the recommended lag is marked, and where timescale = lag.

    Parameters
    ----------
    scan : Dataset of `scan_lags`
    n_timescales : number of timescales to draw, slowest first
    """
    ax = make_axis(ax)
    unit, times = scan.attrs["time_unit"], scan["lag_time"].values
    shown = range(1, 1 + min(n_timescales, scan.sizes["mode"] - 1))
    for i, colour in zip(shown, itertools.cycle((BLUE, ORANGE, GREEN, RED, PURPLE)), strict=False):
        lower, upper = (scan[f"timescales_{side}"].values[:, i] for side in ("lower", "upper"))
        finite = np.isfinite(upper)
        ax.fill_between(times[finite], lower[finite], upper[finite], color=colour, alpha=0.2, lw=0)
        ax.plot(times, scan["timescales"].values[:, i], "o-", color=colour, label=f"$t_{{{i + 1}}}$")
    ax.plot(times, times, color=GREY, ls="--", lw=1, label="timescale = lag")
    recommended = scan.attrs["recommended_lag"] * scan.attrs["dt"]
    ax.axvline(recommended, color=BLACK, ls=":", label=f"recommended lag: {recommended:g} {unit}")
    ax.set(xlabel=f"lag [{unit}]", ylabel=f"implied timescale [{unit}]", yscale="log", title="Timescales against lag")
    ax.legend(frameon=False, fontsize="small")
    return ax
