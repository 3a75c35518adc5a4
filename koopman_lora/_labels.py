"""Every dimension and coordinate of the package, and the small builders from plain arrays to labelled Datasets."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

# data
TRAJECTORY, TIME, COORDINATE, SAMPLE, OBSERVABLE = "trajectory", "time", "coordinate", "sample", "observable"
# spectrum; a matrix whose rows and columns are of one kind has a second name for its columns
MODE, FEATURE_F, FEATURE_G, EDMD_MODE = "mode", "feature_f", "feature_g", "edmd_mode"
MODE_COLUMN, FEATURE_F_COLUMN, FEATURE_G_COLUMN = "mode_column", "feature_f_column", "feature_g_column"
BOUND, PART, CAUSE, BLOCK = "bound", "part", "cause", "block"
# sums that moments are made of: of features, or of one and the features
SUM_F, SUM_G, SUM_F_COLUMN, SUM_G_COLUMN, SUM_H = "sum_f", "sum_g", "sum_f_column", "sum_g_column", "sum_h"
# numbers of pairs of a block, and sums of their squared weights
COUNT = "count"
# training, several fits, choices
EPOCH, FIT, OTHER_FIT, FOLD, LAG, DIRECTION = "epoch", "fit", "other_fit", "fold", "lag", "direction"
# forecasts: number of lags ahead
STEP, FORECASTER = "step", "forecaster"
# coarse-graining
STATE, STATE_NEXT, SOURCE, TARGET, N_STATES = "state", "state_next", "source", "target", "n_states"
# what functions of the state read: coordinates or groups of them
INPUT = "input"
# a given matrix
ROW, COLUMN, ITERATION = "row", "column", "iteration"

# These are positions in what the user gave or will index; everything else counts from 1.
_FROM_ZERO = {
    TRAJECTORY,
    COORDINATE,
    SAMPLE,
    OBSERVABLE,
    INPUT,
    STATE,
    STATE_NEXT,
    SOURCE,
    TARGET,
    ROW,
    COLUMN,
    FIT,
    OTHER_FIT,
}


def labelled(
    variables: Mapping[str, Any], attrs: Mapping[str, Any] | None = None, coords: Mapping[str, Any] | None = None
) -> xr.Dataset:
    """Dataset in which every dimension has its coordinate, so that any two Datasets align.

    Parameters
    ----------
    variables : as for `xarray.Dataset`
    coords : coordinates that are not simply numbers; all others are counted, modes from 1 and states from 0

    Examples
    --------
    >>> labelled({"sigma": ("mode", [1.0, 0.5])}).mode.values
    array([1, 2])
    """
    dataset = xr.Dataset(variables, coords=coords, attrs=dict(attrs or {}))
    known: dict[Any, Any] = {BOUND: ["lower", "upper"], PART: ["real", "imaginary"]}
    counted = {
        name: known.get(name, np.arange(size) + (name not in _FROM_ZERO))
        for name, size in dataset.sizes.items()
        if name not in dataset.coords
    }
    return dataset.assign_coords(counted)


def check_result(
    name: str, result: Any, maker: str, *needed: str, attrs: Sequence[str] = (), may_be_empty: bool = False
) -> None:
    """Raise a ValueError unless a labelled result of `maker` has what will be read from it, with entries.

    Parameters
    ----------
    name : of the argument
    needed : variables and coordinates
    attrs : attributes

    Examples
    --------
    >>> check_result("scan", labelled({"lag_time": ("lag", [1.0])}), "scan_lags", "lag_time", "timescales")
    Traceback (most recent call last):
    ValueError: scan must be the result of scan_lags; it lacks 'timescales'.
    """
    is_array = isinstance(result, xr.DataArray)
    known = {*result.coords, *(() if is_array else result.data_vars)}
    missing = [key for key in needed if key not in known] + [key for key in attrs if key not in result.attrs]
    if missing:
        raise ValueError(f"{name} must be the result of {maker}; it lacks {', '.join(map(repr, missing))}.")
    dims = result.dims if is_array else [dim for key in needed for dim in result[key].dims]
    if not may_be_empty and (empty := [dim for dim in dims if result.sizes[dim] == 0]):
        raise ValueError(f"{name} must have entries; it has none along {empty[0]!r}.")


def interval(name: str, dims: Sequence[str], bounds: np.ndarray, unit: str = "1") -> dict[str, Any]:
    """The variable `<name>_interval` over (bound, *dims) from bounds (2, ...), lower and upper.

    Examples
    --------
    >>> list(interval("sigma", ["mode"], np.zeros((2, 3))))
    ['sigma_interval']
    """
    return {f"{name}_interval": ((BOUND, *dims), bounds, {"units": unit})}


def provenance(**settings: Any) -> dict[str, Any]:
    """Attributes that say where a result comes from: creator, time, and the settings that made it.

    Settings are kept as they are when NetCDF can hold them (numbers, strings, flat arrays), otherwise as JSON text.

    Examples
    --------
    >>> provenance(lag=2, options={"nesting": "jnt"})["options"]
    '{"nesting": "jnt"}'
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"created_by": "koopman_lora", "created_at": now} | {k: _storable(v) for k, v in settings.items()}


def _storable(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return int(value)  # a file holds no booleans, and the text "False" would be true
    if value is None:
        return str(value)
    if isinstance(value, (int, float, str, np.integer, np.floating)):
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return json.dumps(value, default=str)


def trajectory_array(
    values: np.ndarray,
    *,
    dt: float,
    time_unit: str,
    coordinate_names: Sequence[str] | None = None,
    coordinate_unit: str = "1",
    attrs: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Label simulated or measured values as a DataArray (trajectory, time, coordinate...).

    Parameters
    ----------
    values : array of shape (n_trajectories, n_frames, *state)
    dt : physical time between two frames, in `time_unit`
    coordinate_names : names along the coordinate, only for states that are vectors

    Examples
    --------
    >>> trajectory_array(np.zeros((2, 5, 1)), dt=0.5, time_unit="ps").time.values
    array([0. , 0.5, 1. , 1.5, 2. ])
    """
    state_dims = (COORDINATE,) if values.ndim == 3 else tuple(f"{COORDINATE}_{i}" for i in range(values.ndim - 2))
    coords: dict[str, Any] = {
        TRAJECTORY: np.arange(values.shape[0]),
        TIME: (TIME, dt * np.arange(values.shape[1]), {"units": time_unit}),
    }
    if coordinate_names is not None and values.ndim == 3:
        coords[COORDINATE] = list(coordinate_names)
    return xr.DataArray(
        values,
        dims=(TRAJECTORY, TIME, *state_dims),
        coords=coords,
        name="state",
        attrs={"units": coordinate_unit, "dt": dt, "time_unit": time_unit} | dict(attrs or {}),
    )
