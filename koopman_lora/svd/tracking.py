"""Modes of a sequence of matrices: which was which before, and where they cross, mix or are new."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from koopman_lora._linalg import conjugate_transpose

# A mode whose overlap with the one before is less has turned by more than 45 degrees.
SAME_MODE = 2**-0.5


class ModeMatch(NamedTuple):
    """Modes of a matrix beside those of the one before.

    previous : index, from 0, of the mode before that each mode continues, (n,)
    overlap : of the two, mean of `|<u, u'>|` and `|<v, v'>|`, (n,)
    share : of each mode within all modes before, mean over u and v of the squared norm, (n,)
    """

    previous: np.ndarray
    overlap: np.ndarray
    share: np.ndarray


def match_modes(before: tuple[np.ndarray, np.ndarray], now: tuple[np.ndarray, np.ndarray]) -> ModeMatch:
    """Pair modes with those before so that the sum of their overlaps is largest.

    Parameters
    ----------
    before, now : left vectors (M, n) and right ones (n, N), of orthonormal columns and rows

    Examples
    --------
    >>> U = np.eye(4, 2)
    >>> match_modes((U, U.T), (U[:, ::-1], U[:, ::-1].T)).previous
    array([1, 0])
    """
    left = np.abs(np.conj(before[0]).T @ now[0])  # (mode before, mode now)
    right = np.abs(before[1] @ conjugate_transpose(now[1]))
    overlaps = (left + right) / 2
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    previous = rows[np.argsort(columns)]
    share = (np.square(left) + np.square(right)).sum(axis=0) / 2
    return ModeMatch(previous, overlaps[previous, np.arange(len(previous))], share)


def describe_crossings(match: ModeMatch, values: np.ndarray) -> str:
    """Where the number of a mode no longer says which it is, in a sentence; empty where it does.

    Parameters
    ----------
    values : singular values (n,) now

    Examples
    --------
    >>> U = np.eye(4, 2)
    >>> print(describe_crossings(match_modes((U, U.T), (U[:, ::-1], U[:, ::-1].T)), np.array([1.1, 1.0])))
    modes cross: mode 1 was mode 2, mode 2 was mode 1 (singular values 1.1, 1)
    >>> describe_crossings(match_modes((U, U.T), (U, U.T)), np.array([1.1, 1.0]))
    ''
    """
    is_known = match.share >= 0.5
    is_same = is_known & (match.overlap >= SAME_MODE)
    crossed = np.flatnonzero(is_same & (match.previous != np.arange(len(values))))
    was = ", ".join(f"mode {i + 1} was mode {match.previous[i] + 1}" for i in crossed)
    parts = [f"modes cross: {was} ({_listed_values(values[crossed])})"] if len(crossed) else []
    for verb, which in (("mix", np.flatnonzero(is_known & ~is_same)), ("are new", np.flatnonzero(~is_known))):
        if len(which):
            modes = ", ".join(str(i + 1) for i in which)
            parts.append(f"modes that {verb}: {modes} ({_listed_values(values[which])})")
    return "; ".join(parts)


def _listed_values(values: np.ndarray) -> str:
    return "singular values " + ", ".join(f"{value:.4g}" for value in values)
