"""Frames that matter, of states, along a mode and of transitions, as rows (trajectory, frame)."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from koopman_lora.checks import checked
from koopman_lora.kinds import MOST, Count, Share, real_array, whole


@checked
def frames_of_state(states: Any, state: int, n: Count = 10) -> np.ndarray:
    """Frames of a state: of numbers of states some evenly spread over the data, of memberships the surest.

    The surest are the extremes of slow functions, rare structures; for typical ones give `memberships.argmax(axis=1)`.

    Parameters
    ----------
    states : a list with an array for each trajectory, or one array
        Memberships (n_frames, n_states), of which a frame belongs to the largest; or numbers of states (n_frames,).
    state : number of the state, from 0
    n : how many frames at most

    Returns
    -------
    int array (n_found, 2), rows (trajectory, frame); none where no frame is in the state

    Raises
    ------
    TypeError, ValueError
        For states that are neither memberships nor numbers of states, or a state that is not there.

    Examples
    --------
    >>> frames_of_state([[0, 0, 1], [1, 1, 1]], state=1, n=2)
    array([[0, 2],
           [1, 2]])
    >>> frames_of_state(np.array([[0.9, 0.1], [0.4, 0.6], [0.0, 1.0]]), state=1)
    array([[0, 2],
           [0, 1]])
    """
    parts = _parts("states", states, ndims=(1, 2))
    if parts[0].ndim == 2:
        _check_state(state, parts[0].shape[1])
        frames = _numbered(parts, [np.argmax(part, axis=1) == state for part in parts])
        membership = np.concatenate([part[:, state] for part in parts])[_rows(parts, frames)]
        return frames[np.argsort(-membership, kind="stable")[:n]]
    labels, n_states = _labels("states", parts)
    _check_state(state, n_states)
    return _spread(_numbered(labels, [part == state for part in labels]), n)


@checked
def frames_along_mode(values: Any, n: Count = 10, tails: Share = 0.01) -> np.ndarray:
    """Frames along a mode: `n` values evenly spaced between its ends, and of each the nearest frame.

    Parameters
    ----------
    values : a list with an array for each trajectory, or one array (n_frames,)
        Of one function: a column of `singular_functions`, a coordinate.
    n : number of frames
    tails : the ends are these quantiles and one minus these, so that no single odd frame is an end

    Returns
    -------
    int array (n, 2), rows (trajectory, frame), in the order of the mode

    Raises
    ------
    TypeError, ValueError
        For values that are no real numbers (n_frames,), or fewer than two frames.

    Examples
    --------
    >>> frames_along_mode([[0.0, 3.0], [1.0, 2.0]], n=4, tails=0.0)
    array([[0, 0],
           [1, 0],
           [1, 1],
           [0, 1]])
    """
    if n < 2:
        raise ValueError(f"n must be at least 2, the two ends; got {n}.")
    if not tails < 0.5:
        raise ValueError(f"tails must be below 0.5, the share left out at each end; got {tails}.")
    parts = _parts("values", values, ndims=(1,))
    if n > sum(map(len, parts)):
        raise ValueError(f"n must be at most the number of frames in values, {sum(map(len, parts))}; got {n}.")
    every, frames = np.concatenate(parts), _numbered(parts, [np.ones(len(part), dtype=bool) for part in parts])
    low, high = np.quantile(every, [tails, 1 - tails])
    return frames[[int(np.abs(every - value).argmin()) for value in np.linspace(low, high, n)]]


@checked
def transition_frames(states: Any, origin: int, target: int, core: Share = 0.8) -> list[np.ndarray]:
    """Frames of each transition: from the last one in the core of a state to the first one in that of another.

    Frames outside all cores belong to where the trajectory was last: a glance over the barrier is no transition.

    Parameters
    ----------
    states : a list with an array for each trajectory, or one array
        Memberships (n_frames, n_states); or numbers of states (n_frames,), negative where a frame is in no core.
    origin, target : numbers of the states, from 0
    core : memberships from which a frame counts as in the core, above 0.5

    Returns
    -------
    list of int arrays (n_frames, 2), rows (trajectory, frame) in the order of time, one for each transition

    Raises
    ------
    TypeError, ValueError
        For states that are neither memberships nor numbers of states, or two states that are one, or not there.

    Examples
    --------
    >>> transition_frames([0, 0, -1, 1, 1, -1, 1, 0], origin=0, target=1)
    [array([[0, 1],
           [0, 2],
           [0, 3]])]
    """
    if origin == target:
        raise ValueError(f"origin and target must be two states; both are {origin}.")
    if not core > 0.5:
        raise ValueError(f"core must be above 0.5, so that cores do not overlap; got {core}.")
    parts = _parts("states", states, ndims=(1, 2))
    if parts[0].ndim == 2:
        labels = [np.where(part.max(axis=1) >= core, part.argmax(axis=1), -1) for part in parts]
        n_states = parts[0].shape[1]
    else:
        labels, n_states = _labels("states", parts)
    _check_state(origin, n_states, "origin")
    _check_state(target, n_states, "target")
    found = []
    for i, part in enumerate(labels):
        where = np.flatnonzero(part >= 0)
        crossing = np.flatnonzero((part[where[:-1]] == origin) & (part[where[1:]] == target))
        for first, last in zip(where[crossing], where[crossing + 1], strict=True):
            frames = np.arange(first, last + 1)
            found.append(np.stack([np.full(len(frames), i), frames], axis=1))
    return found


def _parts(name: str, values: Any, ndims: Sequence[int]) -> list[np.ndarray]:
    """An array for each trajectory, all with one number of columns."""
    is_one = not isinstance(values, (list, tuple)) or all(_is_number(value) for value in values)
    parts = [real_array(name, part) for part in ([values] if is_one else values)]
    shapes = {(part.ndim, part.shape[1:]) for part in parts}
    if len(shapes) != 1 or parts[0].ndim not in ndims or 0 in parts[0].shape[1:] or sum(map(len, parts)) < 2:
        wanted = " or ".join(("(n_frames,)", "(n_frames, n_states)")[n - 1] for n in ndims)
        raise ValueError(
            f"{name} must be {wanted} for each trajectory, two frames at least; got shapes "
            f"{[part.shape for part in parts]}."
        )
    return parts


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Number) or getattr(value, "ndim", None) == 0


def _labels(name: str, parts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Numbers of states as integers, and how many states there are."""
    for part in parts:
        if (part != np.round(part)).any() or (np.abs(part) > MOST).any():
            raise ValueError(
                f"{name} must be whole numbers of states, or memberships (n_frames, n_states); got {part}."
            )
    return [part.astype(int) for part in parts], 1 + max(int(part.max(initial=-1)) for part in parts)


def _check_state(state: int, n_states: int, name: str = "state") -> None:
    if not 0 <= whole(name, state) < n_states:
        raise ValueError(f"{name} must be one of the {n_states} states, from 0 to {n_states - 1}; got {state}.")


def _numbered(parts: Sequence[np.ndarray], chosen: Sequence[np.ndarray]) -> np.ndarray:
    """Rows (trajectory, frame) of the frames that a mask for each trajectory picks."""
    numbers = [np.flatnonzero(mask) for mask in chosen]
    trajectory = np.repeat(np.arange(len(parts)), [len(frames) for frames in numbers])
    return np.stack([trajectory, np.concatenate(numbers)], axis=1)


def _rows(parts: Sequence[np.ndarray], frames: np.ndarray) -> np.ndarray:
    """Positions of frames (n, 2) among those of all trajectories, one after the other."""
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return starts[frames[:, 0]] + frames[:, 1]


def _spread(frames: np.ndarray, n: int) -> np.ndarray:
    """At most n of the frames, evenly spread."""
    return frames if len(frames) <= n else frames[np.linspace(0, len(frames) - 1, n).round().astype(int)]
