"""Lagged pairs (x, x') that never cross the end of a trajectory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import TRAJECTORY
from koopman_lora.arguments import check_positive, whole
from koopman_lora.checks import checked
from koopman_lora.clock import Clock, check_dt
from koopman_lora.data.arrays import (
    as_trajectories,
    check_constant_columns,
    coordinate_names,
    explicit_sides,
    labelled_parts,
)
from koopman_lora.data.containers import lag_of, unpacked
from koopman_lora.data.time_axis import common_time_step
from koopman_lora.data.weights import checked_weights, effective_number, weights_of_pairs
from koopman_lora.kinds import Positions, check_positions

# States that pass through a network, or are read, at once: fills the caches and bounds the memory.
BATCH = 8192


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class LaggedPairs:
    """Pairs (x, x') one lag apart, in time order within each trajectory.

    A torch Dataset of pairs as well: `DataLoader(pairs, batch_size=256, shuffle=True)` gives batches (x, x_next),
    or (x, x_next, weights) where pairs have weights.

    Attributes
    ----------
    x, x_next : tensors of shape (n_pairs, *state)
    trajectory, frame : int arrays (n_pairs,); trajectory number, and frame of x within it
    clock : lag, time between two frames and its unit
    coordinate_names : names along a vector state, or None
    is_reversible : every pair counts as (x, x') and as (x', x), see `both_ways`
    weights : how much each pair counts (n_pairs,), see `weighted`; None where all count alike
    """

    x: Tensor
    x_next: Tensor
    trajectory: np.ndarray
    frame: np.ndarray
    clock: Clock
    coordinate_names: tuple[str, ...] | None = None
    is_reversible: bool = False
    weights: np.ndarray | None = None

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return len(self.x)

    def __len__(self) -> int:
        return self.n_pairs

    @property
    def n_effective(self) -> float:
        """Kish's effective number of pairs, `(sum w)^2 / sum w^2`: so many of equal weight tell as much."""
        return effective_number(self.weights, self.n_pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        sides = self.x[index], self.x_next[index]
        return sides if self.weights is None else (*sides, torch.from_numpy(self.weights)[index])

    def __repr__(self) -> str:
        n_trajectories = len(np.unique(self.trajectory))
        return (
            f"LaggedPairs({self.n_pairs} pairs of states {self.state_shape} in {n_trajectories} "
            f"trajector{'y' if n_trajectories == 1 else 'ies'}{', both ways' if self.is_reversible else ''}"
            f"{'' if self.weights is None else f', weighted as {self.n_effective:.0f}'}, "
            f"{self.clock})"
        )

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return tuple(self.x.shape[1:])

    def batches(self, size: int = BATCH) -> Iterator[tuple[Tensor, ...]]:
        """Batches (x, x_next) in order, with their weights behind them where pairs have weights.

        Raises
        ------
        ValueError
            For a size that is no integer of at least 1.
        """
        check_positive("size", whole("size", size))
        sides = (self.x, self.x_next) if self.weights is None else (self.x, self.x_next, torch.from_numpy(self.weights))
        return zip(*(side.split(size) for side in sides), strict=True)

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
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise ValueError(f"index as a mask must have shape ({len(self)},), one per pair; got {index.shape}.")
            index = np.flatnonzero(index)
        check_positions("index", index, len(self))
        rows = torch.from_numpy(index.astype(int))
        return dataclasses.replace(
            self,
            x=self.x[rows],
            x_next=self.x_next[rows],
            trajectory=self.trajectory[index],
            frame=self.frame[index],
            weights=None if self.weights is None else self.weights[index],
        )

    def fingerprint(self) -> str:
        """Hash of the pairs and their lag, which tells whether two sets of pairs are the same, in any precision.

        Examples
        --------
        >>> a, b = lagged_pairs(np.arange(5.0)), lagged_pairs(np.arange(5.0, dtype=np.float32))
        >>> a.fingerprint() == b.fingerprint(), a.fingerprint() == lagged_pairs(np.arange(6.0)).fingerprint()
        (True, False)
        """
        digest = hashlib.blake2b(repr((self.clock.lag, self.n_pairs, self.state_shape)).encode(), digest_size=16)
        digest.update(np.stack([self.trajectory, self.frame]).astype("<i8").tobytes())
        for batch in self.batches():
            for side in batch:
                digest.update(np.ascontiguousarray(side.numpy(), dtype="<f8").tobytes())
        return digest.hexdigest()


def in_both_directions(x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (n, *state), each followed by itself backward: (2 n, *state).

    Examples
    --------
    >>> in_both_directions(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]))[0][:, 0]
    tensor([0., 1., 1., 2.])
    """
    return torch.stack([x, x_next], dim=1).flatten(0, 1), torch.stack([x_next, x], dim=1).flatten(0, 1)


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
    data : array, list, DataArray or tuple
        One array (time, *state); a list of such arrays of any lengths; an xarray.DataArray with a dimension 'time' and
        optionally 'trajectory', or a list of those; or a tuple `(x, x_next)` of explicit pairs, each (n_pairs, *state),
        in time order. numpy or torch; real, integers become floating point. A one-dimensional array is a series of
        scalar states. Also what `containers.unpacked` knows: tables of pandas and polars, data sets of deeptime and
        torch.
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
        columns, a lag below 1, times that are not evenly spaced where no dt is given, a lag or dt that contradicts
        pairs made before, or weights that do not fit the data, are negative, not finite, or all 0.

    Examples
    --------
    >>> pairs = lagged_pairs([np.arange(4.0), np.arange(10.0, 13.0)], lag=2)
    >>> pairs.x[:, 0].tolist(), pairs.x_next[:, 0].tolist()
    ([0.0, 1.0, 10.0], [2.0, 3.0, 12.0])
    """
    lag, data = _agreed_lag(lag, lag_of(data)), unpacked(data)
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
    clock = _make_clock(lag, *found)
    names = coordinate_names(labelled[0]) if labelled else None
    if is_explicit:
        x, x_next = explicit_sides(data)
        trajectory, frame = np.zeros(len(x), dtype=int), np.arange(len(x))
    else:
        trajectories, known_lag = as_trajectories(data), clock.known_lag("to cut pairs")
        x, x_next, trajectory, frame = _cut_pairs(trajectories, known_lag)
        if weights is not None:
            is_one = not isinstance(data, list) and TRAJECTORY not in getattr(data, "dims", ())
            weights = weights_of_pairs(weights, [len(t) for t in trajectories], known_lag, is_one)
    if check_constant:
        check_constant_columns(x, names)
    pairs = LaggedPairs(x, x_next, trajectory, frame, clock, names)
    return pairs if weights is None else pairs.weighted(weights)


def _agreed_lag(lag: int | None, known: int | None) -> int | None:
    """The lag that was given, or that the data know."""
    if lag is not None and known is not None and lag != known:
        raise ValueError(f"lag={lag} contradicts the data, whose lagtime is {known}; leave it out.")
    return known if lag is None else lag


def _make_clock(lag: int | None, dt: float | None, time_unit: str | None) -> Clock:
    return Clock(lag, 1.0 if dt is None else check_dt(dt), time_unit or "")


def _checked_pairs(pairs: LaggedPairs, lag: int | None, dt: float | None, time_unit: str | None) -> LaggedPairs:
    """Pairs made before know their clock; what is said of it again must be the same."""
    for name, value in (("lag", lag), ("dt", dt), ("time_unit", time_unit)):
        known = getattr(pairs.clock, name)
        if value is not None and value != known:
            raise ValueError(f"{name}={value} contradicts the pairs, which were made at {name} {known}.")
    return pairs


def _cut_pairs(trajectories: list[Tensor], lag: int) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    lengths = [len(t) for t in trajectories]
    short = [i for i, n in enumerate(lengths) if n <= lag]
    if short:
        listed = ", ".join(f"trajectory {i} ({lengths[i]} frames)" for i in short[:10])
        listed += f", and {len(short) - 10} more" if len(short) > 10 else ""
        listed = "data hold 1 sample" if lengths == [1] else f"too short: {listed}"
        raise ValueError(f"lag={lag} needs trajectories of more than {lag} frames; {listed}.")
    counts = [n - lag for n in lengths]
    x = torch.cat([t[:-lag] for t in trajectories]) if len(counts) > 1 else trajectories[0][:-lag]
    x_next = torch.cat([t[lag:] for t in trajectories]) if len(counts) > 1 else trajectories[0][lag:]
    frame = np.concatenate([np.arange(n) for n in counts])
    return x, x_next, np.repeat(np.arange(len(counts)), counts), frame
