"""The frames behind lagged pairs, in time order, and which of them follow one another."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.pairs import LaggedPairs

# Pairs that contradict a series of frames one apart: where more than this share do, they are no such series.
_MOST_CONTRADICTIONS = 0.5


class Frames(NamedTuple):
    """Distinct frames of pairs, (n_frames,) each, sorted by trajectory and time.

    Attributes
    ----------
    rows : position of each in x with x_next below it
    trajectory, frame : counted from 0
    follows : (n_frames - 1,), whether the next one is the next frame of the same trajectory
    is_timed : False where nothing tells how far apart frames are; then they are the x of pairs in their order
    """

    rows: np.ndarray
    trajectory: np.ndarray
    frame: np.ndarray
    follows: np.ndarray
    is_timed: bool

    def edges(self) -> np.ndarray:
        """Where trajectories begin, and the end (n_trajectories + 1,)."""
        return np.flatnonzero(np.diff(self.trajectory, prepend=-1, append=self.trajectory[-1] + 1))

    def runs(self) -> np.ndarray:
        """Where runs of frames without a gap begin, and the end (n_runs + 1,)."""
        return np.concatenate([[0], np.flatnonzero(~self.follows) + 1, [len(self.rows)]])


def frames_of(pairs: LaggedPairs) -> Frames:
    """The distinct frames that pairs are made of.

    Explicit pairs may come from several trajectories that nobody named: where x' is not the x of one lag later, a new
    one begins.

    Examples
    --------
    >>> frames = frames_of(lagged_pairs([np.arange(4.0), np.arange(3.0)], lag=2))
    >>> frames.trajectory, frames.frame, frames.runs()
    (array([0, 0, 0, 0, 1, 1]), array([0, 1, 2, 3, 0, 2]), array([0, 4, 5, 6]))
    """
    lag = pairs.clock.lag
    trajectory = np.unique(pairs.trajectory, return_inverse=True)[1].ravel()
    order = np.lexsort((pairs.frame, trajectory))
    trajectory, frame = trajectory[order], pairs.frame[order]
    if lag is not None:
        differs, is_known = _contradictions(pairs, order, trajectory, frame, lag)
        if differs.sum() <= _MOST_CONTRADICTIONS * is_known.sum():
            begins = np.concatenate([[False], differs[:-1] & ~differs[1:]])
            return _timed(order, trajectory + np.cumsum(begins), frame, lag)
    return Frames(order, trajectory, frame, np.diff(trajectory) == 0, is_timed=False)


def _timed(order: np.ndarray, trajectory: np.ndarray, frame: np.ndarray, lag: int) -> Frames:
    stride = int(frame.max()) + lag + 2  # so that no number follows the last one of another trajectory
    first = trajectory * stride + frame
    numbers, index = np.unique(np.concatenate([first, first + lag]), return_index=True)
    rows = np.concatenate([order, order + len(order)])[index]
    return Frames(rows, numbers // stride, numbers % stride, np.diff(numbers) == 1, is_timed=True)


def _contradictions(
    pairs: LaggedPairs, order: np.ndarray, trajectory: np.ndarray, frame: np.ndarray, lag: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, in order, whose x' is not the x one lag later; and those with such an x (n_pairs,)."""
    first = trajectory * (int(frame.max()) + lag + 2) + frame
    later = np.minimum(np.searchsorted(first, first + lag), len(first) - 1)
    is_known = first[later] == first + lag
    here, there = order[is_known], order[later[is_known]]
    x, x_next = pairs.x.flatten(1), pairs.x_next.flatten(1)
    differs = np.zeros(len(first), dtype=bool)
    differs[is_known] = (x_next[here] != x[there]).any(1).numpy()
    return differs, is_known


def stretches_of(pairs: LaggedPairs) -> list[Tensor]:
    """The states of every run of frames without a gap, (n_frames, *state) each; none where frames are not timed.

    Examples
    --------
    >>> [len(states) for states in stretches_of(lagged_pairs([np.arange(9.0), np.arange(5.0)], lag=2))]
    [9, 5]
    >>> stretches_of(lagged_pairs((np.arange(3.0), np.arange(3.0))))
    []
    """
    frames = frames_of(pairs)
    if not frames.is_timed:
        return []
    states = torch.cat([pairs.x, pairs.x_next])[torch.from_numpy(frames.rows)]
    return [states[start:end] for start, end in itertools.pairwise(frames.runs())]


def weights_of_stretches(pairs: LaggedPairs) -> list[np.ndarray] | None:
    """How much each frame of `stretches_of` counts: as its pair does; None where all count alike.

    Examples
    --------
    >>> weights_of_stretches(lagged_pairs([np.arange(4.0)], lag=1, weights=[[2.0, 1.0, 1.0, 9.0]]))
    [array([2., 1., 1., 1.])]
    """
    if pairs.weights is None:
        return None
    frames = frames_of(pairs)
    if not frames.is_timed:
        return []
    weights = pairs.weights[frames.rows % len(pairs)]
    return [weights[start:end] for start, end in itertools.pairwise(frames.runs())]


def values_of(pairs: LaggedPairs, frames: Frames, entries: np.ndarray) -> np.ndarray:
    """Some entries of the states of all frames, (n_entries, n_frames)."""
    is_next = frames.rows >= len(pairs)
    values = np.empty((len(entries), len(frames.rows)))
    for side, chosen in ((pairs.x, ~is_next), (pairs.x_next, is_next)):
        values[:, chosen] = _entries(side, frames.rows[chosen] % len(pairs), entries)
    return values


def _entries(side: Tensor, rows: np.ndarray, entries: np.ndarray) -> np.ndarray:
    return side.flatten(1).numpy()[rows[:, None], entries].T


class Steps(NamedTuple):
    """Steps (n_entries, n_steps), and the position among the frames of the one that each leads to (n_steps,)."""

    values: np.ndarray
    places: np.ndarray


def steps_of(pairs: LaggedPairs, frames: Frames, entries: np.ndarray, values: np.ndarray) -> Steps:
    """Steps between frames, see `values_of`; where these are not one apart, from x to x', found where x is."""
    if frames.is_timed and frames.follows.any():
        return Steps(np.diff(values, axis=1)[:, frames.follows], np.flatnonzero(frames.follows) + 1)
    places = np.flatnonzero(frames.rows < len(pairs))
    after = _entries(pairs.x_next, frames.rows[places], entries)
    return Steps(after - values[:, places], places)
