"""Cells of a labelled grid: which are there, what they weigh, their EOFs, and how to label them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

import numpy as np
import xarray as xr

from koopman_lora.arguments import check_positive
from koopman_lora.kinds import number_array, shown

COS_LAT = "cos(lat)"
# What latitudes are called.
_LATITUDES = ("lat", "latitude", "y_lat", "nav_lat")


@dataclasses.dataclass(frozen=True, eq=False)
class GridVariable:
    """One variable of a field: which of its cells are there, what they are divided by, and how to label them again."""

    name: Hashable | None
    template: xr.DataArray  # one frame
    is_there: np.ndarray  # (n_cells,)
    unit: np.ndarray  # (n_there,), 1 / (square root of weights) times the scale of the variable

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Values (n, n_there) of the cells as maps (n, *dims), NaN where no cell is."""
        maps = np.full((len(values), len(self.is_there)), np.nan, dtype=np.result_type(values, float))
        maps[:, self.is_there] = values
        frame = self.template
        return maps.reshape(len(values), *frame.shape)


def variable_of(
    frame: xr.DataArray, cells: np.ndarray, is_frame: np.ndarray, weights: str | xr.DataArray | None
) -> tuple[GridVariable, np.ndarray, np.ndarray]:
    """A variable, its anomalies (n_frames, n_there) in its unit, and their mean (n_there,) in the unit of the data."""
    finite = np.isfinite(cells)
    is_there = finite.any(axis=0)
    broken = ~finite[np.ix_(is_frame, is_there)]
    if broken.any():
        n = int(broken.any(axis=0).sum())
        raise ValueError(
            f"data {frame.name or ''} miss {n} cells at some times only, {100 * broken.mean():.2g} % of what is there; "
            "fill them (interpolate_na), or mask them at all times."
        )
    there = cells[:, is_there]
    mean = there[is_frame].mean(axis=0)
    areas = _weights_of(frame, weights).ravel()[is_there]
    if not (np.isfinite(areas) & (areas > 0)).all():
        raise ValueError("weights must be positive wherever there is a cell; mask the others.")
    root = np.sqrt(areas)
    there = (there - mean) * root
    scale = np.sqrt(np.mean(there[is_frame] ** 2))
    unit = (scale if scale > 0 else 1.0) / root
    return GridVariable(frame.name, frame, is_there, unit), there / (scale if scale > 0 else 1.0), mean


def labelled_maps(variable: GridVariable, cells: np.ndarray, lead: xr.DataArray) -> xr.DataArray:
    """Values (n, n_there) as labelled maps, with the dimensions and coordinates of `lead`, of n values, first."""
    frame = variable.template
    return xr.DataArray(
        variable.on_grid(cells).reshape(*lead.shape, *frame.shape),
        dims=(*lead.dims, *frame.dims),
        coords={**frame.coords, **lead.coords},
        name=variable.name,
        attrs=frame.attrs,
    )


def _weights_of(frame: xr.DataArray, weights: str | xr.DataArray | None) -> np.ndarray:
    if weights is None:
        return np.ones(frame.shape)
    if isinstance(weights, xr.DataArray):
        strange = [d for d in weights.dims if d not in frame.dims]
        if strange:
            raise ValueError(f"weights must lie along dimensions of the maps, {frame.dims}; got {weights.dims}.")
        laid = number_array("weights", weights.broadcast_like(frame).transpose(*frame.dims).values)
        if laid.dtype.kind == "c":
            raise TypeError(f"weights must be real numbers; got {laid.dtype}.")
        return np.broadcast_to(laid, frame.shape)
    if not isinstance(weights, str) or weights != COS_LAT:
        raise ValueError(f"weights must be {COS_LAT!r} or a DataArray; got {shown(weights)}.")
    name = next((d for d in frame.coords if str(d).lower() in _LATITUDES), None)
    if name is None:
        raise ValueError(f"weights={COS_LAT!r} needs a coordinate called lat or latitude; got {list(frame.coords)}.")
    latitude = frame[name].astype(float)
    if not (abs(latitude) <= 90 + 1e-4).all():
        raise ValueError(f"{name} must lie between -90 and 90 degrees for {COS_LAT!r}.")
    # not quite 0 at the poles, so that their values can be told
    cosine: xr.DataArray = xr.apply_ufunc(np.cos, np.deg2rad(latitude)).clip(1e-6)
    return np.broadcast_to(cosine.broadcast_like(frame).transpose(*frame.dims).values, frame.shape)


def leading_eofs(states: np.ndarray, n_eofs: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading EOFs as orthonormal columns (n_cells, n_eofs), their largest entries positive, and shares of variance."""
    check_positive("n_eofs", n_eofs)
    if n_eofs > min(states.shape[0] - 1, states.shape[1]):
        raise ValueError(f"n_eofs={n_eofs} is more than {len(states)} frames of {states.shape[1]} cells can give.")
    _, s, Vh = np.linalg.svd(states, full_matrices=False)
    if not s[n_eofs - 1] > 1e-10 * s[0]:
        raise ValueError(f"n_eofs={n_eofs} is more than the {int((s > 1e-10 * s[0]).sum())} that the data vary along.")
    leading = Vh[:n_eofs].T
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(n_eofs)])
    return leading * signs, s[:n_eofs] ** 2 / np.sum(s**2)


def cell_names(variable: GridVariable) -> list[str]:
    """Names such as 'sst lat=10 lon=20' of the cells that are there."""
    frame = variable.template
    if not frame.ndim:
        return [str(variable.name or "value")]
    axes = {d: frame[d].values if d in frame.coords else np.arange(n) for d, n in frame.sizes.items()}
    prefix = "" if variable.name is None else f"{variable.name} "
    places = np.argwhere(variable.is_there.reshape(frame.shape))
    return [
        prefix + " ".join(f"{d}={axis[i]}" for (d, axis), i in zip(axes.items(), place, strict=True))
        for place in places
    ]
