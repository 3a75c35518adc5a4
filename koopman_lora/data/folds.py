"""Folds of whole trajectories for scikit-learn's searches, and one trajectory cut into several for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora.arguments import check_positive, whole
from koopman_lora.kinds import shown


class TrajectoryFolds:
    """Folds for `GridSearchCV(..., cv=TrajectoryFolds(5)).fit(list_of_trajectories)`: no trajectory is in two.

    Folds are of nearly equal size in frames. scikit-learn's own splitters cut an array of frames anywhere, and join
    what lies on both sides of a test fold into pairs that never were.

    Parameters
    ----------
    n_splits : number of folds
    seed : of the order in which trajectories of equal length are dealt out

    Raises
    ------
    ValueError
        For fewer than 2 folds.

    Examples
    --------
    >>> folds = TrajectoryFolds(2).split([np.zeros((30, 1)), np.zeros((10, 1)), np.zeros((20, 1))])
    >>> [test.tolist() for _, test in folds]
    [[0], [1, 2]]
    """

    def __init__(self, n_splits: int = 5, seed: int = 0) -> None:
        self.n_splits, self.seed = whole("n_splits", n_splits), whole("seed", seed)
        if self.n_splits < 2:
            raise ValueError(f"n_splits must be at least 2; got {n_splits}.")

    def get_n_splits(self, X: Any = None, y: None = None, groups: None = None) -> int:
        """Number of folds."""
        return self.n_splits

    def split(self, X: Any, y: None = None, groups: None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of training and test trajectories in the list `X`, fold by fold.

        Raises
        ------
        TypeError
            For anything but a list of trajectories.
        ValueError
            For fewer trajectories than folds.
        """
        if not isinstance(X, list):
            raise TypeError(
                f"X must be a list of trajectories to be split whole; got {shown(X)}. Cut a long one with "
                "kl.cut_trajectory(x, n_parts)."
            )
        if len(X) < self.n_splits:
            raise ValueError(
                f"n_splits={self.n_splits} is more than the {len(X)} trajectories; cut long ones with "
                "kl.cut_trajectory(x, n_parts)."
            )
        for i, trajectory in enumerate(X):
            is_class = isinstance(trajectory, type)
            if is_class or not hasattr(trajectory, "__len__") or getattr(trajectory, "ndim", 1) == 0:
                raise TypeError(f"X must hold trajectories, arrays (time, *state); X[{i}] is {shown(trajectory)}.")
        fold = self._folds(np.array([len(trajectory) for trajectory in X]))
        for i in range(self.n_splits):
            yield np.flatnonzero(fold != i), np.flatnonzero(fold == i)

    def _folds(self, lengths: np.ndarray) -> np.ndarray:
        """Fold of every trajectory: the longest first, each to the fold that holds the fewest frames."""
        order = np.random.default_rng(self.seed).permutation(len(lengths))
        order = order[np.argsort(-lengths[order], kind="stable")]
        fold, held = np.empty(len(lengths), dtype=int), np.zeros(self.n_splits)
        for i in order:
            fold[i] = held.argmin()
            held[fold[i]] += lengths[i]
        return fold


def cut_trajectory(x: Any, n_parts: int) -> list[Any]:
    """One trajectory (time, *state) as a list of contiguous parts of nearly equal length, views where possible.

    Pairs across the cuts are lost: a lag's worth at each. Frames are not looked at: NaN stays NaN.

    Parameters
    ----------
    x : array or DataArray (time, *state)
    n_parts : int

    Raises
    ------
    ValueError
        For fewer than one part, or more parts than frames.

    Examples
    --------
    >>> [part.tolist() for part in cut_trajectory(np.arange(5), 2)]
    [[0, 1], [2, 3, 4]]
    """
    n_parts = whole("n_parts", n_parts)
    check_positive("n_parts", n_parts)
    if not hasattr(x, "__len__") or not hasattr(x, "shape") or isinstance(x, xr.Dataset):
        raise TypeError(f"x must be one trajectory, an array (time, *state); got {shown(x)}.")
    if getattr(x, "is_sparse", False):
        raise TypeError("x must be a dense tensor; use x.to_dense().")
    if len(x.shape) == 0:
        raise TypeError("x must be one trajectory, an array (time, *state); got a single number.")
    if n_parts > len(x):
        raise ValueError(f"n_parts={n_parts} is more than the {len(x)} frames of x.")
    bounds = np.linspace(0, len(x), n_parts + 1).astype(int)
    cut = x.iloc if hasattr(x, "iloc") else x
    return [cut[start:stop] for start, stop in itertools.pairwise(bounds)]
