"""Tables and data sets of other libraries as labelled arrays, lists and pairs; none of these is imported here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from koopman_lora._labels import COORDINATE, TIME
from koopman_lora.data.fields import Field


def unpacked(data: Any) -> Any:
    """`data` in a form of our own: DataArray, list, tuple or array; what is none of the following stays as it is.

    pandas and polars tables become labelled arrays with the names of their columns; of an index of dates, times or time
    differences, or else of an index or a column 'time', with the times; of an index of two levels the first says which
    trajectory. Of deeptime, `TrajectoryDataset`, `TrajectoriesDataset` and `TimeLaggedDataset` give trajectories or
    explicit pairs. A torch `DataLoader` gives its data set, in order, and a `Dataset` of pairs explicit pairs. A
    `Field` gives its trajectories.

    Raises
    ------
    TypeError
        For columns that hold no numbers, or a torch Dataset that does not hold pairs (x, x_next).
    ValueError
        For an index of more levels, or columns of one name.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"u": [1.0, 2.0], "v": [3.0, 4.0]}, index=pd.date_range("2000", periods=2, freq="h"))
    >>> unpacked(table).coords["coordinate"].values.tolist(), unpacked(table).dims
    (['u', 'v'], ('time', 'coordinate'))
    """
    if isinstance(data, Field):
        return data.trajectories
    if isinstance(data, list):
        return [one for part in data for one in (_runs_of(part) if _is_table(part) else [part])]
    if _is_table(data):
        runs = _runs_of(data)
        return runs if _n_levels(data) > 1 else runs[0]
    if isinstance(data, (torch.utils.data.DataLoader, torch.utils.data.Dataset)) or _is_of_deeptime(data):
        return _of_dataset(data)
    return data


def agreed_lag(lag: int | None, data: Any) -> int | None:
    """The lag that was given, or that a data set knows itself, as those of deeptime do.

    Raises
    ------
    ValueError
        If both are known and differ.
    """
    known = getattr(data, "lagtime", None) if _is_of_deeptime(data) else None
    if lag is not None and known is not None and lag != known:
        raise ValueError(f"lag={lag} contradicts the data, whose lagtime is {known}; leave it out.")
    return int(known) if known is not None else lag


def _is_table(data: Any) -> bool:
    kind = type(data)
    return kind.__module__.split(".")[0] in ("pandas", "polars") and kind.__name__ in ("DataFrame", "Series")


def _is_of_deeptime(data: Any) -> bool:
    return any(base.__module__.startswith("deeptime.") for base in type(data).__mro__)


def _n_levels(table: Any) -> int:
    return getattr(getattr(table, "index", None), "nlevels", 1)


def _runs_of(table: Any) -> list[xr.DataArray]:
    """A table, or of an index (trajectory, time) one for each trajectory."""
    if _n_levels(table) == 1:
        return [_of_table(table)]
    if _n_levels(table) > 2:
        names = ", ".join(map(str, table.index.names))
        raise ValueError(f"data must have an index of times, or of trajectories and times; got levels {names}.")
    return [_of_table(part.droplevel(0)) for _, part in table.groupby(level=0, sort=False)]


def without_times(table: Any) -> Any:
    """A table without the column 'time' that says when its frames are, as one in a file does; without one as it is.

    Where an index says that, and in a table of this column alone, it is a coordinate.
    """
    index: Any = getattr(table, "index", None)
    names = list(getattr(table, "columns", []))
    if _is_dated(index) or getattr(index, "name", None) == TIME or TIME not in names or len(names) == 1:
        return table
    is_when = np.asarray(table[TIME]).dtype.kind in "fiumM"
    return table[[name for name in names if name != TIME]] if is_when else table


def _of_table(table: Any) -> xr.DataArray:
    """A table with the times of its index, or of its column 'time'."""
    index: Any = getattr(table, "index", None)
    states = without_times(table)
    array = labelled_table(states)
    if states is not table:
        return array.assign_coords({TIME: np.asarray(table[TIME])})
    if getattr(index, "name", None) == TIME and index.dtype.kind in "fiu":
        return array.assign_coords({TIME: index.to_numpy()})
    return array


def labelled_table(table: Any) -> xr.DataArray:
    """All columns of a table as coordinates, with the times of an index of dates."""
    if table.ndim == 1 if hasattr(table, "ndim") else not hasattr(table, "columns"):
        table = table.to_frame()
    columns = {str(name): np.asarray(table[name]) for name in table.columns}
    if len(columns) < len(table.columns):
        raise ValueError(f"data must have columns of different names; got {list(map(str, table.columns))}.")
    bad = [f"{name} ({values.dtype})" for name, values in columns.items() if values.dtype.kind not in "fiu"]
    if bad:
        raise TypeError(f"data must have columns of numbers; got {', '.join(bad[:5])}. Drop or convert them.")
    states = np.stack(list(columns.values()), axis=1) if columns else np.empty((len(table), 0))
    coords: dict[str, Any] = {COORDINATE: list(columns)}
    index: Any = getattr(table, "index", None)
    if _is_dated(index):
        index = index.tz_convert(None) if getattr(index, "tz", None) is not None else index  # of UTC, without its name
        coords[TIME] = index.rename(TIME)  # a name of its own would be another dimension
    return xr.DataArray(states, dims=(TIME, COORDINATE), coords=coords)


def _is_dated(index: Any) -> bool:
    return hasattr(index, "dtype") and (index.dtype.kind in "mM" or hasattr(index, "to_timestamp"))


def _of_dataset(data: Any) -> Any:
    if isinstance(data, torch.utils.data.DataLoader):
        return unpacked(data.dataset)  # in order, whatever the loader does
    if hasattr(data, "trajectories"):
        return list(data.trajectories)
    if hasattr(data, "trajectory") and hasattr(data, "lagtime"):
        return data.trajectory
    if hasattr(data, "data_lagged"):
        return data.data, data.data_lagged
    return _pairs_of(data)


def _pairs_of(data: torch.utils.data.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Explicit pairs from a Dataset, in its order."""
    found = data[:] if isinstance(data, torch.utils.data.TensorDataset) else _stacked(data)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise TypeError(
            f"data is a {type(data).__name__}, which must hold pairs (x, x_next); give trajectories as arrays instead."
        )
    return found[0], found[1]


def _stacked(data: Any) -> Any:
    if not hasattr(data, "__len__"):
        raise TypeError(f"data is a {type(data).__name__} without a length; give pairs as a tuple (x, x_next).")
    return torch.utils.data.default_collate([data[i] for i in range(len(data))])
