"""What follows from a transition matrix: stationary distribution, mean first passage times, committors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from koopman_lora.checks import checked
from koopman_lora.kinds import AnyNumbers, number_array

# Below it a probability is round-off: no data hold 1e14 trials.
SMALLEST_PROBABILITY = 1e-14


def nearest_probabilities(rows: np.ndarray) -> np.ndarray:
    """Probability vectors closest to rows (..., n) in the Euclidean sense: a shift of all entries, cut at 0.

    Dividing what is left after cutting by its sum instead would take most from the diagonal, and shorten timescales.

    Examples
    --------
    >>> nearest_probabilities(np.array([[0.94, 0.08, -0.02], [0.2, 0.3, 0.5]]))
    array([[0.93, 0.07, 0.  ],
           [0.2 , 0.3 , 0.5 ]])
    """
    ordered = -np.sort(-rows, axis=-1)
    excess = np.cumsum(ordered, axis=-1) - 1
    shifts = excess / np.arange(1, rows.shape[-1] + 1)
    n_positive = np.sum(ordered > shifts, axis=-1, keepdims=True)
    moved = rows - np.take_along_axis(shifts, n_positive - 1, axis=-1)
    # a shift by round-off would turn what was never observed into what takes 1e16 lags
    return normalised_rows(np.where(moved > SMALLEST_PROBABILITY, moved, 0.0))


def normalised_rows(matrix: np.ndarray) -> np.ndarray:
    """Rows (..., n) divided by their sums; rows of zeros stay.

    Examples
    --------
    >>> normalised_rows(np.array([[1.0, 3.0]]))
    array([[0.25, 0.75]])
    """
    total = matrix.sum(axis=-1, keepdims=True)
    return matrix / np.where(total == 0, 1.0, total)


def check_finite_rows(name: str, values: np.ndarray) -> None:
    """Raise a ValueError that names the first row (n, ...) with NaN or an infinite entry.

    Examples
    --------
    >>> check_finite_rows("P", np.array([[1.0, 0.0], [np.nan, 1.0]]))
    Traceback (most recent call last):
    ValueError: P must be finite; row 1 is [nan  1.], 1 of 2 rows in all.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=tuple(range(1, values.ndim))))
    if len(bad):
        shown = np.array2string(values[bad[0]], threshold=8, precision=4)
        raise ValueError(f"{name} must be finite; row {bad[0]} is {shown}, {len(bad)} of {len(values)} rows in all.")


def check_transition_matrix(P: Any) -> np.ndarray:
    """Return P as a float array (n, n), or raise a ValueError if it is not row-stochastic."""
    P = number_array("P", P)
    if np.iscomplexobj(P):
        raise TypeError("P must be an array of real numbers; got complex ones.")
    P = P.astype(float)
    if P.ndim != 2 or P.shape[0] != P.shape[1] or len(P) == 0:
        raise ValueError(f"P must be a square matrix; got shape {P.shape}.")
    check_finite_rows("P", P)
    if (P < 0).any() or np.abs(P.sum(axis=1) - 1).max() > 1e-8:
        raise ValueError(
            f"P must have entries of at least 0 and rows that sum to 1; smallest entry {P.min():.3g}, row sums "
            f"{P.sum(axis=1)}."
        )
    return P


@checked
def stationary_distribution(P: AnyNumbers) -> np.ndarray:
    """Probabilities (n,) with pi P = pi.

    Parameters
    ----------
    P : array (n, n)
        Transition matrix, rows of probabilities.

    Raises
    ------
    ValueError
        Where it is not unique, because the states fall into classes that cannot reach one another.

    Examples
    --------
    >>> stationary_distribution(np.array([[0.9, 0.1], [0.3, 0.7]]))
    array([0.75, 0.25])
    """
    P = check_transition_matrix(P)
    if not has_one_stationary_distribution(P):
        raise ValueError("P has several stationary distributions: no state can be reached from all others.")
    n = len(P)
    pi = np.linalg.solve((np.eye(n) - P + 1.0).T, np.ones(n))
    pi = np.maximum(pi, 0.0)  # transient states come out as 0 up to round-off
    return pi / pi.sum()


def has_one_stationary_distribution(P: np.ndarray) -> bool:
    """Whether some state can be reached from all others, so that pi P = pi has one solution only.

    Examples
    --------
    >>> has_one_stationary_distribution(np.eye(2)), has_one_stationary_distribution(np.array([[0.9, 0.1], [0.0, 1.0]]))
    (False, True)
    """
    return bool(_reachable(P).all(axis=0).any())


def _reachable(P: np.ndarray) -> np.ndarray:
    """Whether state j can be reached from i in any number of steps, 0 included: (n, n)."""
    steps = (P > 0) | np.eye(len(P), dtype=bool)
    for _ in range(int(np.ceil(np.log2(max(len(P), 2))))):
        steps = steps @ steps
    return steps


def _reached_for_sure(P: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Where the walk is bound to end in one of the states `ends` (mask): from nowhere on the way are all out of reach.

    Examples
    --------
    >>> _reached_for_sure(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([True, False]))
    array([ True, False])
    """
    reach = _reachable(np.where(ends[:, None], np.eye(len(P)), P))
    return np.asarray((~reach | reach[:, ends].any(axis=1)).all(axis=1))


@checked
def mean_first_passage_times(P: AnyNumbers, lag_time: float = 1.0) -> np.ndarray:
    """Mean time from state i (row) until state j (column) is reached first, (n, n), in the unit of `lag_time`.

    `m_ij = lag_time + sum_{k != j} P_ik m_kj`; 0 on the diagonal, inf where j may never be reached.

    Parameters
    ----------
    P : array (n, n)
        Transition matrix, rows of probabilities.
    lag_time : float
        Time of one step.

    Examples
    --------
    >>> mean_first_passage_times(np.array([[0.9, 0.1], [0.3, 0.7]]), lag_time=3.0).round(6)
    array([[ 0., 30.], [10., 0.]])
    """
    P = check_transition_matrix(P)
    n = len(P)
    times = np.zeros((n, n))
    for j, is_target in enumerate(np.eye(n, dtype=bool)):
        sure = _reached_for_sure(P, is_target)
        times[~sure, j] = np.inf
        rows = np.flatnonzero(sure & ~is_target)
        times[rows, j] = np.linalg.solve(np.eye(len(rows)) - P[np.ix_(rows, rows)], np.full(len(rows), lag_time))
    return times


@checked
def committor(P: AnyNumbers, source: int | Sequence[int], target: int | Sequence[int]) -> np.ndarray:
    """Probability (n,) to reach `target` before `source` from every state; NaN where neither may ever be reached.

    Parameters
    ----------
    P : array (n, n)
        Transition matrix, rows of probabilities.
    source, target : int or list of int
        Numbers of states, from 0.

    Raises
    ------
    ValueError
        For states that do not exist, by number; for none, or one in both.

    Examples
    --------
    >>> walk = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
    >>> committor(walk, source=0, target=2)
    array([0. , 0.5, 1. ])
    """
    P = check_transition_matrix(P)
    n = len(P)
    A, B = _state_mask("source", source, n), _state_mask("target", target, n)
    if not A.any() or not B.any() or (A & B).any():
        raise ValueError(
            f"source and target must be states 0 to {n - 1}, none in both; got source={source}, target={target}."
        )
    ends = A | B
    sure = _reached_for_sure(P, ends)
    q = np.where(sure, B.astype(float), np.nan)
    rows = np.flatnonzero(sure & ~ends)
    q[rows] = np.linalg.solve(np.eye(len(rows)) - P[np.ix_(rows, rows)], P[np.ix_(rows, np.flatnonzero(B))].sum(axis=1))
    return np.clip(q, 0.0, 1.0)  # outside by round-off only


def _state_mask(name: str, states: int | Sequence[int], n: int) -> np.ndarray:
    """Mask (n,) of the given states, all of which exist."""
    numbers = np.ravel(states)
    strangers = [state for state in numbers.tolist() if state not in range(n)]
    if strangers:
        raise ValueError(f"{name} names states that do not exist: {strangers}; states count from 0 to {n - 1}.")
    return np.isin(np.arange(n), numbers)
