"""Draw patterns on a grid, such as modes of a climate field, one map each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from koopman_lora.checks import checked
from koopman_lora.plots.style import GREY, axis_label, make_panels, with_unit

# Imaginary parts below it, relative to real ones, are those of a real pattern.
_ROUND_OFF = 1e-9


@checked
def plot_maps(maps: xr.DataArray, modes: Sequence[int] | None = None, axes: Sequence[Axes] | None = None) -> np.ndarray:
    """Patterns on a grid of two dimensions, one map each; missing cells, such as land, are grey.

    Purple and orange are the two signs, on one scale about 0 for a real pattern, and for both parts of a complex one:
    an oscillation of positive frequency goes from its real part over minus its imaginary part to minus its real part.

    Parameters
    ----------
    maps : DataArray (mode, y, x) as `Field.maps` gives them, of one variable; the first dimension counts the patterns
        by its coordinate, from 1 where it has none
    modes : numbers of patterns to draw; by default the first four
    axes : one axis for each map: one of a real pattern, two of a complex one

    Returns
    -------
    array of axes

    Raises
    ------
    ValueError
        For other dimensions than three, patterns that are not there or hold no number, or another number of axes.

    Examples
    --------
    >>> values = np.arange(12.0).reshape(1, 3, 4) - 5
    >>> maps = xr.DataArray(values, dims=("mode", "lat", "lon"), coords={"mode": [2], "lat": [50, 51, 52]})
    >>> [ax.get_title() for ax in plot_maps(maps)]
    ['mode 2']
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must have three dimensions, such as (mode, lat, lon); got {maps.dims}. Choose by .sel.")
    if not all(maps.shape):
        raise ValueError(f"maps must hold at least one pattern and cell; got shape {maps.shape}.")
    name = maps.dims[0]
    if name not in maps.coords:
        maps = maps.assign_coords({name: np.arange(1, maps.sizes[name] + 1)})
    available = maps[name].values.tolist()
    chosen = list(modes or available[:4])
    if not set(chosen) <= set(available):
        raise ValueError(f"modes must be among {available}; got {chosen}.")
    drawn = [(title, part) for mode in chosen for title, part in _parts(maps.sel({name: mode}), f"{name} {mode}")]
    panels = list(_panels(len(drawn), maps) if axes is None else axes)
    if len(panels) != len(drawn):
        raise ValueError(f"axes must be one for each of {len(drawn)} maps; got {len(panels)}.")
    for ax, (title, part) in zip(panels, drawn, strict=True):
        _draw(ax, title, part, float(np.nanmax(np.abs(maps.sel({name: part[name]})))))
    return np.asarray(panels)


def _parts(pattern: xr.DataArray, title: str) -> list[tuple[str, xr.DataArray]]:
    """A real pattern, or real and imaginary part of a complex one, with their titles."""
    is_there = np.isfinite(pattern)
    if not is_there.any():
        raise ValueError(f"maps must hold numbers; those of {title} are all missing.")
    # of a missing complex number the imaginary part may still be 0
    real, imaginary = (part.where(is_there) for part in (pattern.real, pattern.imag))
    # the modes of a real eigenvalue among complex ones are real up to round-off
    if not np.abs(imaginary).max() > _ROUND_OFF * np.abs(real).max():
        return [(title, real)]
    return [(f"{title}, real part", real), (f"{title}, imaginary part", imaginary)]


def _panels(n: int, maps: xr.DataArray) -> np.ndarray:
    """Axes of a new figure, two in a row, as high as the grid wants."""
    height = float(np.clip(4.6 * maps.shape[1] / maps.shape[2], 1.6, 5.0))
    return make_panels(n, 2, 5.4, height + 0.9)


def _draw(ax: Axes, title: str, pattern: xr.DataArray, limit: float) -> None:
    y, x = (_places(pattern, axis) for axis in (0, 1))
    limit = limit or 1.0  # a pattern of zeros
    mesh = ax.pcolormesh(x, y, pattern, cmap="PuOr_r", vmin=-limit, vmax=limit, shading="nearest", rasterized=True)
    ax.set_facecolor(GREY)
    ax.set(xlabel=axis_label(pattern, 1), ylabel=axis_label(pattern, 0), title=title)
    label = with_unit(str(pattern.name or "pattern"), pattern.attrs.get("units"))
    ax.figure.colorbar(mesh, ax=ax, label=label, shrink=0.9)


def _places(pattern: xr.DataArray, axis: int) -> np.ndarray:
    """Where cells lie along an axis: their coordinate where it is numbers, else their position."""
    values = pattern[pattern.dims[axis]].values
    return values if values.dtype.kind in "iuf" else np.arange(len(values))
