"""From arrays, lists, xarray and files to lagged pairs that never cross a trajectory, and splits without leakage."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import TIME, TRAJECTORY


@dataclasses.dataclass(frozen=True)
class LaggedPairs:
    """Pairs (x, x') one lag apart, in time order within each trajectory.

    Attributes
    ----------
    x, x_next : tensors of shape (n_pairs, *state)
    trajectory, frame : int arrays (n_pairs,); trajectory number, and frame of x within it
    lag : lag in frames
    dt, time_unit : physical time between two frames
    coordinate_names : names along a vector state, or None
    """

    x: Tensor
    x_next: Tensor
    trajectory: np.ndarray
    frame: np.ndarray
    lag: int
    dt: float = 1.0
    time_unit: str = "frame"
    coordinate_names: tuple[str, ...] | None = None

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return len(self.x)

    def __len__(self) -> int:
        return self.n_pairs

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return tuple(self.x.shape[1:])

    def select(self, index: np.ndarray) -> LaggedPairs:
        """Pairs at `index` (positions or a boolean mask)."""
        index = np.flatnonzero(index) if np.asarray(index).dtype == bool else np.asarray(index)
        rows = torch.from_numpy(index)
        return dataclasses.replace(
            self,
            x=self.x[rows],
            x_next=self.x_next[rows],
            trajectory=self.trajectory[index],
            frame=self.frame[index],
        )


def open_trajectories(path: str | pathlib.Path) -> xr.DataArray | np.ndarray:
    """Open trajectories from NetCDF (`.nc`), Zarr (`.zarr`) or NumPy (`.npy`).

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ValueError
        For another kind of file, or a file with several variables and none named 'state'.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist; give a .nc, .zarr or .npy with trajectories.")
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".nc":
        dataset = xr.load_dataset(path, engine="h5netcdf")
    elif path.suffix == ".zarr":
        dataset = xr.open_zarr(path)
    else:
        raise ValueError(f"path must end in .nc, .zarr or .npy; got {str(path)!r}.")
    names = list(dataset.data_vars)
    if "state" not in names and len(names) != 1:
        raise ValueError(f"{str(path)!r} must hold one variable, or one named 'state'; got {names}.")
    return dataset["state" if "state" in names else names[0]]


def lagged_pairs(
    data: Any, lag: int = 1, dt: float | None = None, time_unit: str | None = None, check_constant: bool = True
) -> LaggedPairs:
    """All pairs of states `lag` frames apart within each trajectory.

    Parameters
    ----------
    data : array, list, DataArray or tuple
        One array (time, *state); a list of such arrays of any lengths; an xarray.DataArray with a dimension 'time' and
        optionally 'trajectory', or a list of those; or a tuple `(x, x_next)` of explicit pairs, each (n_pairs, *state),
        in time order. numpy or torch; real, floating point. A one-dimensional array is a series of scalar states.
    lag : int
        Lag in frames, at least 1. For explicit pairs, the lag at which they were made.
    dt, time_unit : float and str, optional
        Physical time between two frames; read from a DataArray's time coordinate and attributes where it has them.
    check_constant : bool
        Refuse vector states with a coordinate that never changes.

    Raises
    ------
    TypeError
        For integer, complex or object data.
    ValueError
        For empty data, mixed state shapes, NaN or inf, trajectories not longer than the lag, constant columns, a lag
        below 1, times that are not evenly spaced.

    Examples
    --------
    >>> pairs = lagged_pairs([np.arange(4.0), np.arange(10.0, 13.0)], lag=2)
    >>> pairs.x[:, 0].tolist(), pairs.x_next[:, 0].tolist()
    ([0.0, 1.0, 10.0], [2.0, 3.0, 12.0])
    """
    lag = check_lag(lag)
    if isinstance(data, LaggedPairs):
        if data.lag != lag:
            raise ValueError(f"lag={lag} contradicts the pairs, which were made at lag {data.lag}.")
        return data
    if isinstance(data, xr.Dataset):
        raise TypeError("data must be a DataArray, not a Dataset; pick a variable or call .to_dataarray('coordinate').")
    labelled = _labelled_parts(data)
    if labelled:
        dt, time_unit = _common_time_step(labelled, dt, time_unit)
    dt = 1.0 if dt is None else float(dt)
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive number; got {dt}.")
    names = _coordinate_names(labelled[0]) if labelled else None
    if isinstance(data, tuple):
        x, x_next, trajectory, frame = _explicit_pairs(data)
    else:
        x, x_next, trajectory, frame = _cut_pairs(_as_trajectories(data), lag)
    if check_constant:
        _check_constant_columns(x, names)
    return LaggedPairs(x, x_next, trajectory, frame, lag, dt, time_unit or "frame", names)


def check_lag(lag: int) -> int:
    """Return `lag` as an int of at least 1, or raise a ValueError."""
    if isinstance(lag, bool) or not isinstance(lag, (int, np.integer)) or lag < 1:
        raise ValueError(f"lag must be an integer number of frames, at least 1; got {lag!r}.")
    return int(lag)


def _labelled_parts(data: Any) -> list[xr.DataArray]:
    parts = data if isinstance(data, (list, tuple)) else [data]
    return [part for part in parts if isinstance(part, xr.DataArray)]


def _as_trajectories(data: Any) -> list[Tensor]:
    parts = data if isinstance(data, list) else [data]
    if len(parts) == 0:
        raise ValueError("data is an empty list; give at least one trajectory (time, *state).")
    data = [values for part in parts for values in _split_labelled(part)]
    trajectories = [_as_tensor(values, f"trajectory {i}") for i, values in enumerate(data)]
    _check_same_shape(trajectories)
    for i, values in enumerate(trajectories):
        _check_finite(values, f"trajectory {i}")
    return trajectories


def _split_labelled(data: Any) -> list[Any]:
    if not isinstance(data, xr.DataArray):
        return [data]
    if TIME not in data.dims:
        raise ValueError(f"data must have a dimension 'time'; got dimensions {data.dims}. Rename one with .rename().")
    if TRAJECTORY in data.dims:
        return list(data.transpose(TRAJECTORY, TIME, ...).values)
    return [data.transpose(TIME, ...).values]


def _as_tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, xr.DataArray):
        values = (values.transpose(TIME, ...) if TIME in values.dims else values).values
    if not isinstance(values, (np.ndarray, Tensor)):
        try:
            values = np.asarray(values)
        except ValueError:
            raise TypeError(f"{name} is not a rectangular array of numbers.") from None
    if isinstance(values, np.ndarray):
        if values.dtype.kind != "f":
            raise TypeError(
                f"{name} must be real floating point; got dtype {values.dtype}. Convert with .astype(float)."
            )
        # float16 and long double have no torch counterpart worth training in
        wanted = np.float32 if values.dtype.itemsize <= 4 else np.float64
        values = torch.from_numpy(np.array(values, dtype=wanted))
    if not values.is_floating_point():
        raise TypeError(f"{name} must be real floating point; got dtype {values.dtype}. Convert with .double().")
    values = values.detach().cpu()
    if values.ndim == 0:
        raise ValueError(f"{name} must have a time axis; got a single number.")
    return values[:, None] if values.ndim == 1 else values


def _check_same_shape(trajectories: Sequence[Tensor]) -> None:
    shapes = [tuple(t.shape[1:]) for t in trajectories]
    if len(set(shapes)) > 1:
        other = next(i for i, s in enumerate(shapes) if s != shapes[0])
        raise ValueError(
            f"all trajectories must have one state shape; trajectory 0 has {shapes[0]}, "
            f"trajectory {other} has {shapes[other]}."
        )
    if 0 in shapes[0]:
        raise ValueError(f"states must not be empty; got state shape {shapes[0]}.")


def _check_finite(values: Tensor, name: str) -> None:
    bad = ~torch.isfinite(values.flatten(1)).all(1)
    if bad.any():
        frame = int(bad.nonzero()[0])
        raise ValueError(
            f"{name} holds NaN or inf at frame {frame} ({int(bad.sum())} such frames); "
            "cut the trajectory there into two, or fill the gap."
        )


def _cut_pairs(trajectories: list[Tensor], lag: int) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    lengths = [len(t) for t in trajectories]
    short = [i for i, n in enumerate(lengths) if n <= lag]
    if short:
        listed = ", ".join(f"trajectory {i} ({lengths[i]} frames)" for i in short)
        raise ValueError(f"lag={lag} needs trajectories of more than {lag} frames; too short: {listed}.")
    counts = [n - lag for n in lengths]
    x = torch.cat([t[:-lag] for t in trajectories]) if len(counts) > 1 else trajectories[0][:-lag]
    x_next = torch.cat([t[lag:] for t in trajectories]) if len(counts) > 1 else trajectories[0][lag:]
    frame = np.concatenate([np.arange(n) for n in counts])
    return x, x_next, np.repeat(np.arange(len(counts)), counts), frame


def _explicit_pairs(data: tuple) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    if len(data) != 2:
        raise ValueError(f"data as a tuple must be (x, x_next); got {len(data)} entries. Put trajectories in a list.")
    x, x_next = _as_tensor(data[0], "x"), _as_tensor(data[1], "x_next")
    if x.shape != x_next.shape:
        raise ValueError(f"x and x_next must have one shape; got {tuple(x.shape)} and {tuple(x_next.shape)}.")
    if len(x) == 0:
        raise ValueError("x and x_next are empty; give at least one pair.")
    _check_same_shape([x])
    _check_finite(x, "x")
    _check_finite(x_next, "x_next")
    x_next = x_next.to(x.dtype)
    return x, x_next, np.zeros(len(x), dtype=int), np.arange(len(x))


def _coordinate_names(data: xr.DataArray) -> tuple[str, ...] | None:
    state_dims = [d for d in data.dims if d not in (TRAJECTORY, TIME)]
    if len(state_dims) != 1 or state_dims[0] not in data.coords:
        return None
    return tuple(str(v) for v in data[state_dims[0]].values)


def _check_constant_columns(x: Tensor, names: Sequence[str] | None) -> None:
    if x.ndim != 2 or len(x) < 2:
        return
    constant = (x == x[0]).all(0).nonzero().flatten().tolist()
    if constant:
        named = [f"{i} ({names[i]})" if names else str(i) for i in constant]
        raise ValueError(
            f"data has constant columns: {', '.join(named)}. They carry no dynamics; drop them "
            "(or pass check_constant=False to lagged_pairs)."
        )


def _common_time_step(
    arrays: Sequence[xr.DataArray], dt: float | None, unit: str | None
) -> tuple[float | None, str | None]:
    steps = [_time_step(array, dt, unit) for array in arrays]
    for found in steps[1:]:
        if found[1] != steps[0][1] or not np.isclose(*(1.0 if s[0] is None else s[0] for s in (found, steps[0]))):
            raise ValueError(
                f"all trajectories must have one dt and time unit; got {steps[0]} and {found}. Convert them first."
            )
    return steps[0]


def _time_step(data: xr.DataArray, dt: float | None, unit: str | None) -> tuple[float | None, str | None]:
    """Dt and its unit: as given, else from an evenly spaced time coordinate, else from the attributes."""
    found_dt, found_unit = data.attrs.get("dt"), data.attrs.get("time_unit")
    coordinate = data.coords.get(TIME)
    if coordinate is not None and coordinate.ndim == 1 and coordinate.size > 1:
        step, slack, step_unit = _coordinate_step(coordinate)
        # attributes outlive the picking of every n-th frame; the coordinate says what is there now
        if found_dt is None or (step_unit and (found_unit != step_unit or abs(found_dt - step) > slack)):
            found_dt, found_unit = step, step_unit or found_unit
    return (found_dt if dt is None else dt), (found_unit if unit is None else unit)


def _coordinate_step(coordinate: xr.DataArray) -> tuple[float, float, str | None]:
    """Mean step of a time coordinate, the deviation that round-off explains, and the unit where it is known."""
    times, unit = coordinate.values, coordinate.attrs.get("units")
    resolution = np.finfo(times.dtype if times.dtype.kind == "f" else float).eps
    if times.dtype.kind in "mM":
        times, unit = (times - times[0]) / np.timedelta64(1, "s"), "s"
    times = times.astype(float)
    steps, step = np.diff(times), (times[-1] - times[0]) / (len(times) - 1)
    # stored times carry round-off of their own magnitude and precision
    slack = 1e-3 * abs(step) + 2 * resolution * np.abs(times).max()
    if not (np.abs(steps - step).max() <= slack and step > 0):
        raise ValueError(
            f"data must be evenly spaced in time; steps range from {steps.min():g} to {steps.max():g}. "
            "Resample, or cut it into trajectories at the gaps."
        )
    return float(step), float(slack), unit


def split_pairs(
    pairs: LaggedPairs, held_out: float = 0.1, by: str = "auto", n_blocks: int = 20, seed: int = 0
) -> tuple[LaggedPairs, LaggedPairs]:
    """Split into training and held-out pairs that share no frame.

    Parameters
    ----------
    held_out : float
        Fraction to hold out, between 0 and 1.
    by : 'trajectory', 'blocks' or 'auto'
        Whole trajectories; or contiguous blocks of time, where training pairs that share a frame with a held-out pair
        are dropped (a gap of one lag on each side); 'auto' takes trajectories when there are at least 20.
    n_blocks : int
        Blocks that all pairs together are cut into; a fraction `held_out` of them is drawn.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        For an unknown `by`, a fraction outside (0, 1), or data too short to leave pairs on both sides.

    Examples
    --------
    >>> train, test = split_pairs(lagged_pairs(np.random.default_rng(0).normal(size=1001)), held_out=0.1)
    >>> len(test), len(train) <= 898
    (100, True)
    """
    train, held = split_masks(pairs, held_out, by, n_blocks, seed)
    return pairs.select(train), pairs.select(held)


def split_masks(
    pairs: LaggedPairs, held_out: float, by: str = "auto", n_blocks: int = 20, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Boolean masks (n_pairs,) of the training and the held-out pairs; see `split_pairs`."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must lie between 0 and 1; got {held_out}.")
    group = split_groups(pairs, by, n_blocks)
    n_groups = int(group.max()) + 1
    n_held = min(max(1, round(held_out * n_groups)), n_groups - 1)
    chosen = np.random.default_rng(seed).permutation(n_groups)[:n_held]
    held = np.isin(group, chosen)
    train = without_overlap(pairs, held)
    if not held.any() or train.sum() < 2:
        raise ValueError(f"held_out={held_out} leaves too few of {len(pairs)} pairs to train on; give more data.")
    return train, held


def split_groups(pairs: LaggedPairs, by: str = "auto", n_blocks: int = 20) -> np.ndarray:
    """Group number (n_pairs,) of every pair, its trajectory or its contiguous block: the unit of splits."""
    if by not in ("auto", "trajectory", "blocks"):
        raise ValueError(f"by must be one of 'auto', 'trajectory', 'blocks'; got {by!r}.")
    names, trajectory = np.unique(pairs.trajectory, return_inverse=True)
    if by == "auto":
        by = "trajectory" if len(names) >= n_blocks else "blocks"
    if by == "trajectory":
        if len(names) < 2:
            raise ValueError("by='trajectory' needs at least 2 trajectories; got 1. Use by='blocks'.")
        return trajectory
    return block_numbers(pairs, n_blocks)


def block_numbers(pairs: LaggedPairs, n_blocks: int) -> np.ndarray:
    """Contiguous blocks (n_pairs,) of nearly equal size, about `n_blocks` in all, none across two trajectories.

    Examples
    --------
    >>> block_numbers(lagged_pairs([np.arange(5.0), np.arange(3.0)]), 3).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    size = max(1, -(-len(pairs) // n_blocks))
    block, start = np.empty(len(pairs), dtype=int), 0
    for name in np.unique(pairs.trajectory):
        member = np.flatnonzero(pairs.trajectory == name)
        n_here = max(1, round(len(member) / size))
        block[member] = start + np.arange(len(member)) * n_here // len(member)
        start += n_here
    return block


def without_overlap(pairs: LaggedPairs, held: np.ndarray) -> np.ndarray:
    """Mask (n_pairs,) of the pairs outside `held` that share no frame with any pair in `held`.

    Examples
    --------
    >>> pairs = lagged_pairs(np.arange(8.0), lag=2)       # frames (0,2) (1,3) (2,4) (3,5) (4,6) (5,7)
    >>> without_overlap(pairs, np.array([1, 0, 0, 0, 0, 0], bool))
    array([False, True, False, True, True, True])
    """
    first = _frame_numbers(pairs)
    used = np.union1d(first[held], first[held] + pairs.lag)
    return ~held & ~np.isin(first, used) & ~np.isin(first + pairs.lag, used)


def _frame_numbers(pairs: LaggedPairs) -> np.ndarray:
    """One number per frame over all trajectories, (n_pairs,), that of x; x' has it plus the lag."""
    return pairs.trajectory * (int(pairs.frame.max()) + pairs.lag + 1) + pairs.frame


def fold_numbers(pairs: LaggedPairs, n_folds: int = 5) -> np.ndarray:
    """Fold of every pair (n_pairs,) for cross-validation, contiguous in time; -1 for pairs between two folds.

    No two folds share a frame: a pair whose x' is an x of the next fold belongs to none. There are fewer folds than
    asked where the lag is long against the data.

    Raises
    ------
    ValueError
        If the data are too short for two folds.

    Examples
    --------
    >>> fold_numbers(lagged_pairs(np.arange(9.0)), n_folds=2).tolist()
    [0, 0, 0, -1, 1, 1, 1, 1]
    """
    group = split_groups(pairs, n_blocks=4 * n_folds)
    n_groups = int(group.max()) + 1
    first = _frame_numbers(pairs)
    order = np.argsort(first)
    following = order[np.searchsorted(first[order], first + pairs.lag).clip(max=len(first) - 1)]
    has_following = first[following] == first + pairs.lag
    for n in range(min(n_folds, n_groups), 1, -1):
        fold = group * n // n_groups
        fold = np.where(has_following & (fold[following] != fold), -1, fold)
        if len(np.unique(fold[fold >= 0])) == n:
            return fold
    raise ValueError(
        f"{len(pairs)} pairs at lag {pairs.lag} are too few for two folds that share no frame; give more data."
    )


def standardization(pairs: LaggedPairs) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the states in float64: per coordinate, per channel (C, H, W), or of a whole image.

    Examples
    --------
    >>> mean, scale = standardization(lagged_pairs(np.array([1.0, 3.0, 1.0, 3.0])))
    >>> mean.tolist(), scale.tolist()
    ([2.0], [1.0])
    """
    n_axes = len(pairs.state_shape)
    axes = {1: (0,), 3: (0, 2, 3)}.get(n_axes, tuple(range(n_axes + 1)))
    # x and x' differ by a lag at the ends only: for stationary data one set of statistics serves both
    both = torch.cat([pairs.x, pairs.x_next]).double()
    mean = both.mean(axes, keepdim=True)[0]
    scale = (both - mean).square().mean(axes, keepdim=True)[0].sqrt()
    # what round-off of the mean leaves of a constant is no scale
    moving = scale > 1e-14 * mean.abs()
    return mean, torch.where(moving, scale, torch.ones_like(scale))
