"""`Field`: a labelled grid as trajectories of vectors, and vectors back as labelled maps and series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import COORDINATE, MODE, TIME
from koopman_lora.arguments import check_positive
from koopman_lora.checks import checked
from koopman_lora.data.grid_cells import GridVariable, cell_names, labelled_maps, leading_eofs, variable_of
from koopman_lora.data.time_axis import gaps
from koopman_lora.kinds import finite_array, moderate_array, number_array


@checked(but=("data", "weights"))
class Field:
    """A labelled grid that `fit` takes, one call in; labels come out again.

    Cells that are missing at all times (land) are left out, and put back in `maps`; frames that are missing, and gaps
    of the time axis, cut trajectories. Every variable counts in units of its own overall deviation.

    Parameters
    ----------
    data : DataArray or Dataset
        With a dimension of time; all others but that of members are of the maps. Several variables may have different
        ones.
    weights : 'cos(lat)' or DataArray, optional
        What cells count in the EOFs: their area. A DataArray lies along dimensions of the maps.
    n_eofs : int, optional
        Work with so many leading EOFs (principal components) instead of all cells: far fewer inputs, the usual first
        step where there are more cells than frames. See `explained_variance_ratio`.
    delays : int
        So many earlier frames beside each: a delay embedding.
    min_length : int
        Stretches between gaps that hold fewer states are left out; a fit needs more than its lag.
    time, members : str
        Names of the dimension of time, and of one of independent runs, where there is one.

    Attributes
    ----------
    trajectories : list of DataArray (time, coordinate), what a fit sees
    eofs : DataArray or Dataset (mode, *dims) in the unit of the data, one deviation each; None where all cells are kept
    explained_variance_ratio : array (n_eofs,), None where all cells are kept

    Raises
    ------
    TypeError
        For anything but a DataArray or Dataset.
    ValueError
        If there is no such dimension, cells are missing at some times only, weights do not fit, or there are fewer
        frames or cells than EOFs.

    Examples
    --------
    >>> rng, lat = np.random.default_rng(0), np.array([0.0, 60.0])
    >>> sst = xr.DataArray(rng.normal(size=(40, 2, 3)), dims=("time", "lat", "lon"), coords={"lat": lat})
    >>> field = Field(sst.where(sst.lon > 0), weights="cos(lat)", n_eofs=2)
    >>> field.trajectories[0].shape, field.eofs.dims, field.maps(np.eye(2)).isnull().sum().item()
    ((40, 2), ('mode', 'lat', 'lon'), 4)
    """

    def __init__(
        self,
        data: xr.DataArray | xr.Dataset,
        weights: str | xr.DataArray | None = None,
        n_eofs: int | None = None,
        delays: int = 0,
        min_length: int = 2,
        time: str = TIME,
        members: str | None = None,
    ) -> None:
        self.delays, self.min_length = delays, min_length
        check_positive("min_length", min_length)
        if self.delays < 0:
            raise ValueError(f"delays must not be negative; got {delays}.")
        self._is_dataset = isinstance(data, xr.Dataset)
        if time == members:
            raise ValueError(f"members must be another dimension than time; got {members!r} for both.")
        ordered = _ordered(data, time, members)
        run_dims = (time,) if members is None else (members, time)
        n_members = 1 if members is None else ordered[0].sizes[members]
        self._times, self._members = ordered[0][time], None if members is None else ordered[0][members]
        values = [_numbers(part).reshape(n_members * self._times.size, -1) for part in ordered]
        is_missing = np.logical_and.reduce([~np.isfinite(cells).any(axis=1) for cells in values])  # whole frames
        if is_missing.all():
            raise ValueError("data hold no frame with a number in it.")
        self._variables: list[GridVariable] = []
        columns, means = [], []
        for part, cells in zip(ordered, values, strict=True):
            frame = part.isel(dict.fromkeys(run_dims, 0), drop=True)
            variable, there, mean = variable_of(frame, cells, ~is_missing, weights)
            self._variables.append(variable)
            columns.append(there)
            means.append(mean)
        self._mean = np.concatenate(means)
        states = np.concatenate(columns, axis=1)  # (n_frames, n_there), in units of the variables, about the mean
        self._unit = np.concatenate([variable.unit for variable in self._variables])
        self._patterns, self.explained_variance_ratio = None, None
        if n_eofs is not None:
            self._patterns, self.explained_variance_ratio = leading_eofs(states[~is_missing], n_eofs)
            states = states @ self._patterns
        self.eofs = None
        if self._patterns is not None:
            self.eofs = self.maps(np.eye(len(self._patterns.T)) * states[~is_missing].std(axis=0))
        self._cut(states, is_missing.reshape(n_members, -1), time)

    def __repr__(self) -> str:
        n = self.trajectories[0].shape[1]
        return f"Field({len(self.trajectories)} trajectories of {n} coordinates; {self._unit.size} cells)"

    def __len__(self) -> int:
        return len(self.trajectories)

    def _cut(self, states: np.ndarray, is_missing: np.ndarray, time: str) -> None:
        """Trajectories between gaps, and the place of each of their frames on the time axis of each member."""
        stretch = np.cumsum(gaps(self._times))
        whole: list[tuple[int, np.ndarray]] = []
        for member, missing in enumerate(is_missing):
            ends = np.flatnonzero((np.diff(stretch) > 0) | (np.diff(missing.astype(int)) != 0)) + 1
            stretches = np.split(np.arange(len(missing)), ends)
            whole += [(member, frames) for frames in stretches if not missing[frames[0]]]
        whole = [(member, frames) for member, frames in whole if len(frames) >= self.delays + self.min_length]
        if not whole:
            raise ValueError(
                f"data are too short: no stretch without a gap holds delays={self.delays} and "
                f"min_length={self.min_length} frames."
            )
        names = self._coordinate_names(states.shape[1])
        self.trajectories: list[xr.DataArray] = []
        self._places: list[tuple[int, np.ndarray]] = []
        for member, frames in whole:
            own = states.reshape(*is_missing.shape, -1)[member]
            earlier = [frames[self.delays - d : len(frames) - d] for d in range(self.delays + 1)]
            embedded = np.concatenate([own[rows] for rows in earlier], axis=1)
            at = frames[self.delays :]
            coords: dict[str, Any] = {COORDINATE: names}
            if time in self._times.coords:
                coords[TIME] = (TIME, self._times[time].values[at], self._times[time].attrs)
            self.trajectories.append(xr.DataArray(embedded, dims=(TIME, COORDINATE), coords=coords))
            self._places.append((member, at))

    def _coordinate_names(self, n: int) -> list[str]:
        if self._patterns is not None:
            now = [f"eof {i + 1}" for i in range(n)]
        else:
            now = [name for variable in self._variables for name in cell_names(variable)]
        return now + [f"{name}, {d} earlier" for d in range(1, self.delays + 1) for name in now]

    # --------------------------------------------------------------------------------------------- vectors to labels

    def maps(self, values: Any, dim: str = MODE) -> xr.DataArray | xr.Dataset:
        """Patterns (n, n_coordinates) as labelled maps (n, *dims), in the unit of the data, without its mean.

        Parameters
        ----------
        values : array, or labelled with the coordinates (`coordinate` or `observable`) last, such as the Koopman modes
            of `koopman_modes`; with delays, the part without a delay is shown. NaN, for what shall be masked, stays NaN
        dim : what the first dimension of an array is called; that of labelled values keeps its name
        """
        return self._labelled(values, dim, 0.0)

    def fields(self, values: Any, dim: str = TIME) -> xr.DataArray | xr.Dataset:
        """States (n, n_coordinates), such as forecasts, as labelled fields (n, *dims): `maps` with the mean added."""
        return self._labelled(values, dim, self._mean)

    def _labelled(self, values: Any, dim: str, mean: Any) -> xr.DataArray | xr.Dataset:
        array = number_array("values", values)
        n = self._unit.size if self._patterns is None else self._patterns.shape[1]
        if not isinstance(values, xr.DataArray):
            if array.ndim > 2:
                raise ValueError(f"values must be (n, {n * (self.delays + 1)}), or labelled; got {array.shape}.")
            counted = {dim: np.arange(1, len(array) + 1)} if array.ndim == 2 and dim == MODE else {}
            values = xr.DataArray(array, dims=(dim, COORDINATE)[-array.ndim :] if array.ndim else (), coords=counted)
        if array.ndim == 0 or array.shape[-1] not in (n, n * (self.delays + 1)):
            raise ValueError(f"values must have {n * (self.delays + 1)} coordinates last; got {array.shape}.")
        now = array.reshape(-1, array.shape[-1])[:, :n]
        cells = (now if self._patterns is None else now @ self._patterns.T) * self._unit + mean
        lead = values.isel({values.dims[-1]: 0}, drop=True)
        ends = np.cumsum([variable.unit.size for variable in self._variables])[:-1]
        parts = zip(self._variables, np.split(cells, ends, axis=1), strict=True)
        maps = [labelled_maps(variable, part, lead) for variable, part in parts]
        return xr.merge(maps) if self._is_dataset else maps[0]

    def series(self, functions: Callable[[xr.DataArray], np.ndarray]) -> xr.DataArray:
        """Functions of the state as labelled series (time, mode), NaN where there is no state, with members first.

        Parameters
        ----------
        functions : from states (time, coordinate) to finite values (time, n_modes), such as
            `estimator.singular_functions`
        """
        found = [finite_array("functions", functions(trajectory)) for trajectory in self.trajectories]
        for values, trajectory in zip(found, self.trajectories, strict=True):
            if values.ndim != 2 or len(values) != len(trajectory):
                raise ValueError(
                    f"functions must give ({len(trajectory)}, n_modes) for as many states; got {values.shape}."
                )
        n_members = 1 if self._members is None else self._members.size
        dtype = np.result_type(found[0], np.float32)  # which can hold NaN
        values = np.full((n_members, self._times.size, found[0].shape[1]), np.nan, dtype=dtype)
        for (member, at), part in zip(self._places, found, strict=True):
            values[member, at] = part
        time = str(self._times.dims[0])
        coords: dict[str, Any] = {MODE: np.arange(1, values.shape[2] + 1)}
        if time in self._times.coords:
            coords[time] = self._times[time]
        if self._members is None:
            return xr.DataArray(values[0], dims=(time, MODE), coords=coords)
        name = str(self._members.dims[0])
        return xr.DataArray(values, dims=(name, time, MODE), coords=coords | {name: self._members})

    @property
    def last(self) -> np.ndarray:
        """The last state of the data, (1, n_coordinates): where a forecast begins."""
        return self.trajectories[-1].values[-1:]


def _numbers(part: xr.DataArray) -> np.ndarray:
    """Values of a variable in double precision, NaN where a cell is missing."""
    values = number_array("data", part.values)
    if values.dtype.kind == "c":
        raise TypeError(f"data must hold real numbers; {part.name or 'they'} are of dtype {values.dtype}.")
    moderate_array("data", values[np.isfinite(values)])
    return values.astype(float, copy=False)


def _ordered(data: Any, time: str, members: str | None) -> list[xr.DataArray]:
    """The variables with the dimensions of runs and time first."""
    if not isinstance(data, (xr.DataArray, xr.Dataset)):
        raise TypeError(f"data must be a labelled DataArray or Dataset; got {type(data).__name__}.")
    parts = list(data.data_vars.values()) if isinstance(data, xr.Dataset) else [data]
    if not parts:
        raise ValueError("data must hold at least one variable; got a Dataset without any.")
    run_dims = {"time": time} if members is None else {"members": members, "time": time}
    for part in parts:
        if part.size == 0:
            raise ValueError(f"data must have entries; {part.name or 'they'} have sizes {dict(part.sizes)}.")
        for argument, dim in run_dims.items():
            if dim not in part.dims:
                raise ValueError(
                    f"{argument} must name a dimension of {part.name or 'data'}, which has {part.dims}; got {dim!r}."
                )
    return [part.transpose(*run_dims.values(), ...) for part in parts]
