"""Lagged pairs (x, x') that never cross the end of a trajectory."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import TRAJECTORY
from koopman_lora.arguments import check_positive, check_tensors, whole
from koopman_lora.checks import checked
from koopman_lora.clock import Clock, check_dt
from koopman_lora.data.arrays import check_constant_columns, common_names, labelled_parts
from koopman_lora.data.containers import agreed_lag, unpacked
from koopman_lora.data.cuts import cut_apart, side_by_side
from koopman_lora.data.places import Places
from koopman_lora.data.rows import Rows
from koopman_lora.data.sources import opened
from koopman_lora.data.states import HeldStates, States, read_both
from koopman_lora.data.time_axis import common_time_step
from koopman_lora.data.weights import checked_weights, effective_number, weights_of_pairs
from koopman_lora.kinds import Positions, check_positions

# States that pass through a network, or are read, at once: fills the caches and bounds the memory.
BATCH = 8192
# Parts of the data that stand for all of them where these are too many to look at.
_STRETCHES = 64


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class LaggedPairs:
    """Pairs (x, x') one lag apart, in time order within each trajectory; places in the states, never copies of them.

    A torch Dataset as well: `DataLoader(pairs, shuffle=True)` gives batches (x, x_next), or (x, x_next, weights).

    Attributes
    ----------
    states, places : all states, in memory or read when asked for; where the pairs lie among them, in which trajectories
    clock : lag, time between two frames and its unit
    coordinate_names : names along a vector state, or None
    is_reversible : every pair counts as (x, x') and as (x', x), see `both_ways`
    weights : how much each pair counts (n_pairs,), see `weighted`; None where all count alike

    Examples
    --------
    >>> lagged_pairs(np.arange(4.0), lag=2).x_next[:, 0].tolist()
    [2.0, 3.0]
    """

    states: States
    places: Places
    clock: Clock
    coordinate_names: tuple[str, ...] | None = None
    is_reversible: bool = False
    weights: np.ndarray | None = None

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return len(self.places)

    def __len__(self) -> int:
        return self.n_pairs

    @property
    def n_effective(self) -> float:
        """Kish's effective number of pairs, `(sum w)^2 / sum w^2`: so many of equal weight tell as much."""
        return effective_number(self.weights, self.n_pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be a pair of {len(self)}; got {index}.")
        x, x_next = self.read(np.array([index % len(self)]))
        return (x[0], x_next[0]) if self.weights is None else (x[0], x_next[0], torch.tensor(self.weights[index]))

    def __repr__(self) -> str:
        n_trajectories = len(np.unique(self.places.run_trajectory))
        return (
            f"LaggedPairs({self.n_pairs} pairs of states {self.state_shape} in {n_trajectories} "
            f"trajector{'y' if n_trajectories == 1 else 'ies'}{', both ways' if self.is_reversible else ''}"
            f"{'' if self.weights is None else f', weighted as {self.n_effective:.0f}'}, {self.clock})"
        )

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return self.states.state_shape

    @property
    def x(self) -> Tensor:
        """All x (n_pairs, *state): a view of states in memory where they lie side by side, otherwise made for you."""
        return self.read_x(slice(None))

    @property
    def x_next(self) -> Tensor:
        """All x' (n_pairs, *state), see `x`."""
        rows = self.places.rows.at(slice(None))
        gap = self.places.gap
        return self.states.read(slice(rows.start + gap, rows.stop + gap) if isinstance(rows, slice) else rows + gap)

    @property
    def trajectory(self) -> np.ndarray:
        """Trajectory of every pair, int (n_pairs,)."""
        return self.places.trajectory

    @property
    def frame(self) -> np.ndarray:
        """Frame of x within it, int (n_pairs,)."""
        return self.places.frame

    @property
    def n_entries(self) -> int:
        """Numbers in one state."""
        return math.prod(self.state_shape)

    def read(self, index: slice | np.ndarray) -> tuple[Tensor, Tensor]:
        """States (x, x_next) of the pairs at some positions, not to be written to; the rest is not read."""
        return read_both(self.states, self.places.rows.at(index), self.places.gap)

    def read_x(self, index: slice | np.ndarray) -> Tensor:
        """States x of the pairs at some positions, not to be written to."""
        return self.states.read(self.places.rows.at(index))

    def batches(self, size: int = BATCH) -> Iterator[tuple[Tensor, ...]]:
        """Batches (x, x_next) in order, with their weights behind them where pairs have weights.

        Raises
        ------
        ValueError
            For a size that is no integer of at least 1.
        """
        check_positive("size", whole("size", size))
        batches = (self.weighted_batch(slice(start, start + size)) for start in range(0, len(self), size))
        return ((x, y) if w is None else (x, y, torch.from_numpy(w)) for x, y, w in batches)

    def weighted_batch(self, index: slice | np.ndarray) -> tuple[Tensor, Tensor, np.ndarray | None]:
        """`read`, with the weights of these pairs, where they have some."""
        return *self.read(index), None if self.weights is None else self.weights[index]

    def both_ways(self) -> LaggedPairs:
        """The same pairs of a process known to be in equilibrium, reversible: each counts in both directions of time.

        What is estimated from them is symmetric: moments, and with them eigenvalues, which are real. They are still as
        many independent pairs.

        Examples
        --------
        >>> moments = estimate_moments(lambda x: x, lambda x: x, lagged_pairs(np.arange(3.0)).both_ways())
        >>> moments.M_f, moments.T_fg, moments.n_pairs              # (0, 1), (1, 2) and backward (1, 0), (2, 1)
        (array([[1.5]]), array([[1.]]), 2)
        """
        return dataclasses.replace(self, is_reversible=True)

    def weighted(self, weights: Any) -> LaggedPairs:
        """The same pairs, each counted as often as its weight (n_pairs,) says, in place of weights that they had.

        Only the relative size of weights matters: of equal ones nothing is kept. All that is estimated from the pairs
        is of weighted means: losses, moments, scores, intervals.

        Raises
        ------
        ValueError
            For weights that are not (n_pairs,), negative, not finite, or all 0.

        Examples
        --------
        >>> pairs = lagged_pairs(np.arange(4.0)).weighted([0.0, 1.0, 3.0])
        >>> estimate_moments(lambda x: x, lambda x: x, pairs).M_f, round(pairs.n_effective, 3)
        (array([[3.25]]), 1.6)
        """
        return dataclasses.replace(self, weights=checked_weights(weights, self.n_pairs))

    def select(self, index: Positions) -> LaggedPairs:
        """Pairs at `index`, positions or a boolean mask (n_pairs,).

        Raises
        ------
        ValueError
            For a mask of another length.
        """
        index = np.asarray(index)
        if index.dtype == bool and index.shape != (len(self),):
            raise ValueError(f"index as a mask must have shape ({len(self)},), one per pair; got {index.shape}.")
        if index.dtype != bool:
            check_positions("index", index, len(self))
            index = index.astype(np.int64)
            index = np.where(index < 0, index + len(self), index)
        weights = None if self.weights is None else self.weights[index]
        return dataclasses.replace(self, places=self.places.through(Rows.of(index)), weights=weights)

    def spread(self, n_most: int) -> LaggedPairs:
        """All pairs; or, where they are more than that, stretches of neighbours spread evenly over them.

        Examples
        --------
        >>> lagged_pairs(np.arange(1000.0)).spread(128).frame[:5]
        array([ 0,  1, 15, 16, 31])
        """
        if n_most >= len(self):
            return self
        length = max(1, n_most // _STRETCHES)
        first = np.linspace(0, len(self) - length, _STRETCHES).astype(int)
        positions = Rows(first, np.full(_STRETCHES, length))
        weights = None if self.weights is None else self.weights[positions.all()]
        return dataclasses.replace(self, places=self.places.through(positions), weights=weights)

    def with_states(self, x: Tensor, x_next: Tensor) -> LaggedPairs:
        """Pairs of the same frames with other states, such as functions of them, each (n_pairs, *state).

        Raises
        ------
        ValueError
            For other shapes, or as many states as there are no pairs.

        Examples
        --------
        >>> pairs = lagged_pairs([np.arange(3.0), np.arange(2.0)])
        >>> squares = pairs.with_states(pairs.x**2, pairs.x_next**2)
        >>> squares.x_next.flatten(), squares.trajectory
        (tensor([1., 4., 1.], dtype=torch.float64), array([0, 0, 1]))
        """
        check_tensors(x=x, x_next=x_next)
        if x.shape != x_next.shape or x.device != x_next.device or len(x) != len(self):
            got = " and ".join(f"{tuple(side.shape)} on {side.device}" for side in (x, x_next))
            raise ValueError(f"x and x_next must be ({len(self)}, *state), one state per pair; got {got}.")
        names = self.coordinate_names if tuple(x.shape[1:]) == self.state_shape else None
        states = HeldStates(torch.cat([x, x_next]))
        return dataclasses.replace(self, states=states, places=self.places.moved(), coordinate_names=names)

    def in_memory(self) -> LaggedPairs:
        """The same pairs with their states, and no others, in memory side by side; views where they lie so already."""
        if isinstance(self.states, HeldStates) and len(self.places.rows.first) == 1:
            return self
        return self.with_states(*self.read(slice(None)))

    def fingerprint(self) -> str:
        """Hash of the pairs and their lag, which tells whether two sets of pairs are the same, in any precision.

        Examples
        --------
        >>> a, b = lagged_pairs(np.arange(5.0)), lagged_pairs(np.arange(5.0, dtype=np.float32))
        >>> a.fingerprint() == b.fingerprint(), a.fingerprint() == lagged_pairs(np.arange(6.0)).fingerprint()
        (True, False)
        """
        digest = hashlib.blake2b(repr((self.clock.lag, self.n_pairs, self.state_shape)).encode(), digest_size=16)
        frames, lengths = self.places.frames, self.places.frames.lengths
        trajectory = self.places.run_trajectory
        runs = np.stack([trajectory, frames.first - self.places.begins[trajectory], lengths])
        digest.update(runs.astype("<i8").tobytes())
        for batch in self.batches():
            for side in batch:
                digest.update(np.ascontiguousarray(side.numpy(), dtype="<f8").data)
        return digest.hexdigest()


@checked(but=("lag", "dt"))
def lagged_pairs(
    data: Any,
    lag: int | None = None,
    dt: float | None = None,
    time_unit: str | None = None,
    check_constant: bool = True,
    weights: Any = None,
) -> LaggedPairs:
    """All pairs of states `lag` frames apart within each trajectory.

    Parameters
    ----------
    data : array, list, DataArray, path or tuple
        One array (time, *state); a list of such arrays of any lengths; an xarray.DataArray with a dimension 'time' and
        optionally 'trajectory', or a list of those; or a tuple `(x, x_next)` of explicit pairs, each (n_pairs, *state),
        in time order. numpy or torch; real, integers become floating point. A one-dimensional array is a series of
        scalar states. Also what `containers.unpacked` knows: tables of pandas and polars, data sets of deeptime and
        torch. Memory maps, arrays of Dask and Zarr, DataArrays in chunks, and paths as in `open_trajectories` stay on
        disk, and are read a few chunks at a time. Up to 32 MB in memory are copied; larger arrays are not, and must not
        change while the pairs are in use.
    lag : int, optional
        Lag in frames, 1 for trajectories by default. For explicit pairs, the lag at which they were made; without it
        their lag is unknown, and what needs it asks for it.
    dt, time_unit : float and str, optional
        Physical time between two frames; read from a DataArray's time coordinate and attributes where it has them, of
        dates in days, hours, ..., months or years. What is given wins.
    check_constant : bool
        Refuse vector states with a coordinate that never changes.
    weights : array, list or DataArray, optional
        How much each pair counts, none negative. For trajectories in their own form, an array (time,) for each, or one
        number for each of a list: the weight of a pair is that of its first frame. For explicit pairs (n_pairs,). Only
        their relative size matters; see `LaggedPairs.weighted`.

    Raises
    ------
    TypeError
        For boolean, complex or object data.
    ValueError
        For empty data, mixed state shapes, NaN, inf or masked entries, trajectories not longer than the lag, constant
        columns, names that differ between trajectories, a lag below 1, times that are not evenly spaced where no dt is
        given, a lag or dt that contradicts pairs made before, or weights that do not fit the data, are negative, not
        finite, or all 0.

    Examples
    --------
    >>> pairs = lagged_pairs([np.arange(4.0), np.arange(10.0, 13.0)], lag=2)
    >>> pairs.x[:, 0].tolist(), pairs.x_next[:, 0].tolist()
    ([0.0, 1.0, 10.0], [2.0, 3.0, 12.0])
    """
    lag, data = agreed_lag(lag, data), opened(unpacked(data))
    if isinstance(data, LaggedPairs):
        pairs = _checked_pairs(data, lag, dt, time_unit)
        return pairs if weights is None else pairs.weighted(weights)
    if isinstance(data, xr.Dataset):
        raise TypeError("data must be a DataArray, not a Dataset; pick a variable or call .to_dataarray('coordinate').")
    is_explicit = isinstance(data, tuple)
    labelled = labelled_parts(data)
    found = common_time_step(labelled, dt, time_unit) if labelled else (dt, time_unit)
    if is_explicit and lag is None and dt is None:
        found = None, None  # how long a frame lasts says nothing about pairs an unknown number of frames apart
    if lag is None and not is_explicit:
        lag = 1
    clock = Clock(lag, 1.0 if found[0] is None else check_dt(found[0]), found[1] or "")
    names = common_names(labelled[:1] if is_explicit else labelled)
    if is_explicit:
        states, places = side_by_side(data)
    else:
        known_lag = clock.known_lag("to cut pairs")
        states, places = cut_apart(data, known_lag)
        if weights is not None:
            is_one = not isinstance(data, list) and TRAJECTORY not in getattr(data, "dims", ())
            weights = weights_of_pairs(weights, places.lengths(len(states)), known_lag, is_one)
    pairs = LaggedPairs(states, places, clock, names)
    if check_constant:
        check_constant_columns((batch[0] for batch in pairs.batches()), names)
    return pairs if weights is None else pairs.weighted(weights)


def _checked_pairs(pairs: LaggedPairs, lag: int | None, dt: float | None, time_unit: str | None) -> LaggedPairs:
    """Pairs made before know their clock; what is said of it again must be the same."""
    for name, value in (("lag", lag), ("dt", dt), ("time_unit", time_unit)):
        known = getattr(pairs.clock, name)
        if value is not None and value != known:
            raise ValueError(f"{name}={value} contradicts the pairs, which were made at {name} {known}.")
    return pairs
