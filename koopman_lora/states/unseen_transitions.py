"""What was never observed is not impossible: transition matrices that data without an event cannot exclude."""

from __future__ import annotations

import numpy as np


def largest_unseen_probability(n_trials: np.ndarray, level: float = 0.95) -> np.ndarray:
    """One-sided upper bound `1 - (1 - level)^(1/n)` of the probability of an event that n trials never showed.

    About 3 / n at 95 %: a more likely event would have been seen in at least `level` of all data sets.

    References
    ----------
    docs/mathematics.md, section 7.

    Examples
    --------
    >>> largest_unseen_probability(np.array([1.0, 10.0, 1000.0])).round(3)
    array([0.95 , 0.259, 0.003])
    """
    return 1 - (1 - level) ** (1 / np.asarray(n_trials, dtype=float))


def unseen_alternatives(P: np.ndarray, n_trials: np.ndarray, level: float = 0.95) -> list[np.ndarray]:
    """Transition matrices that the data cannot exclude, each with one unseen transition as likely as it may be.

    A transition counts as unseen if P (n, n) has less for it than the bound of what was never seen: fewer than about
    three events. The other entries of its row keep their proportions.

    Parameters
    ----------
    n_trials : (n,), from how many independent trials each row was estimated

    Examples
    --------
    >>> [Q.round(3) for Q in unseen_alternatives(np.array([[1.0, 0.0], [0.3, 0.7]]), np.array([300.0, 100.0]))]
    [array([[0.99, 0.01], [0.3 , 0.7 ]])]
    """
    bounds = np.broadcast_to(largest_unseen_probability(n_trials, level)[:, None], P.shape)
    result = []
    for i, j in zip(*np.nonzero(P < bounds), strict=True):
        Q = P.copy()
        Q[i] *= (1 - bounds[i, j]) / (1 - P[i, j])
        Q[i, j] = bounds[i, j]
        result.append(Q)
    return result
