"""Draw functions of the state: on samples, one panel each, or on a grid as curves or as a map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.kinds import Reals, check_matrices
from koopman_lora.plots.style import (
    BLACK,
    BLUE,
    GREY,
    add_legend,
    axis_label,
    ink,
    make_axis,
    make_panels,
    state_colour,
)


@checked
def plot_singular_functions(
    x: Reals,
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
    x = x[:, None] if x.ndim == 1 else x
    _check_functions(x, values, reference)
    if len(coordinate_names) < x.shape[1]:
        raise ValueError(f"coordinate_names must name {x.shape[1]} coordinates; got {list(coordinate_names)}.")
    n_modes = values.shape[1] if reference is None else min(values.shape[1], reference.shape[1])
    modes = list(modes or range(2, min(5, n_modes) + 1) or [1])
    if not all(1 <= mode <= n_modes for mode in modes):
        raise ValueError(f"modes must lie between 1 and {n_modes}; got {modes}.")
    panels = list(make_panels(len(modes), 4, 3.2, 3.0) if axes is None else axes)
    if len(panels) != len(modes):
        raise ValueError(f"axes must be one for each of {len(modes)} modes; got {len(panels)}.")
    for ax, mode in zip(panels, modes, strict=True):
        if x.shape[1] == 1:
            _draw_curve(ax, x[:, 0], values[:, mode - 1], None if reference is None else reference[:, mode - 1])
            ax.set(xlabel=coordinate_names[0])
        else:
            _draw_map(ax, x, values[:, mode - 1])
            ax.set(xlabel=coordinate_names[0], ylabel=coordinate_names[1])
        ax.set_title(f"${symbol}_{{{mode}}}$")
    return np.asarray(panels)


def _check_functions(x: np.ndarray, values: np.ndarray, reference: np.ndarray | None) -> None:
    """Raise a ValueError unless real functions of the states x (n, 1) or (n, 2) can be drawn."""
    check_matrices("x", x, is_one=True)
    if len(x) == 0:
        raise ValueError("x must hold at least one state; got none.")
    if x.shape[1] > 2:
        raise ValueError(f"x must be one- or two-dimensional to draw functions of it; got {x.shape[1]} coordinates.")
    check_matrices("values", values, len(x), is_one=True)
    if reference is not None:
        check_matrices("reference", reference, len(x), is_one=True)
    if reference is not None and np.iscomplexobj(reference):
        raise ValueError("reference must be real; draw reference.real.")
    if np.iscomplexobj(values):
        raise ValueError("values must be real; draw values.real and values.imag, or np.abs(values).")


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
    # cells with the mean of their states: many points would hide one another
    n_cells = int(np.clip(len(x) ** 0.5 / 1.5, 12, 60))
    style = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit, "linewidths": 0.2, "rasterized": True}
    cells = ax.hexbin(x[:, 0], x[:, 1], C=values, gridsize=n_cells, **style)
    ax.set_aspect("equal")
    ax.figure.colorbar(cells, ax=ax, shrink=0.8)


@checked
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
    check_result("functions", functions, "evaluate_on_grid", "mode")
    available = [int(m) for m in functions["mode"].values]
    modes = list(modes or (available[1:5] if n_dims == 1 else available[1:2]))
    if not set(modes) <= set(available):
        raise ValueError(f"modes must be among {available}; got {modes}.")
    if n_dims == 2 and len(modes) != 1:
        raise ValueError(f"modes must name one mode per map; got {modes}.")
    ax = make_axis(ax)
    if n_dims == 1:
        _draw_grid_curves(ax, functions, modes)
    else:
        _draw_grid_map(ax, functions, modes[0])
    return ax


def _draw_grid_curves(ax: Axes, functions: xr.DataArray, modes: Sequence[int]) -> None:
    for mode in modes:
        curve = functions.sel(mode=mode)
        ax.plot(functions[functions.dims[0]], curve, color=state_colour(mode - 2), label=f"{mode}")
    ax.axhline(0.0, color=GREY, lw=0.8, ls=":")
    ax.set(xlabel=axis_label(functions, 0), ylabel="function (unit norm)", title="Eigenfunctions")
    add_legend(ax, title="mode")


def _draw_grid_map(ax: Axes, functions: xr.DataArray, mode: int) -> None:
    x, y = (functions[name] for name in functions.dims[:2])
    values = functions.sel(mode=mode).transpose(y.name, x.name)
    limit = float(np.nanmax(np.abs(values)))
    mesh = ax.pcolormesh(x, y, values, cmap="PuOr_r", vmin=-limit, vmax=limit, shading="nearest", rasterized=True)
    if values.min() < 0 < values.max():
        ax.contour(x, y, values, levels=[0.0], colors=BLACK)
    ax.set(xlabel=axis_label(functions, 0), ylabel=axis_label(functions, 1), title=f"Eigenfunction {mode}")
    ax.set_aspect("equal")
    ax.figure.colorbar(mesh, ax=ax, label="function (unit norm); line: 0")
