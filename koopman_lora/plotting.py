"""Draw results: a Dataset or arrays in, an axis out; `ax=None` makes one. Nothing is calculated here."""

from __future__ import annotations

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
