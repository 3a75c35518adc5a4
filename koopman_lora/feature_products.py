"""Sums of products of features over a batch, in few large products, and stacks of them: below `estimate_moments`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import blas
from torch import Tensor

from koopman_lora._linalg import conjugate_transpose
from koopman_lora.blas_threads import threads_for
from koopman_lora.moments import DEFINITIONS, FeatureMap

# A feature map, 'f', 'g' or 'h', and where it is taken: 0 at x, 1 at x'.
Part = tuple[str, int]

# Rows that are converted, shifted and multiplied at once, few enough to stay in the processor's cache.
_ROWS = 512


def double(*values: np.ndarray) -> type:
    """Double precision for these values, real or complex."""
    return np.complex128 if any(map(np.iscomplexobj, values)) else np.float64


def as_features(feature_map: FeatureMap, states: Tensor, name: str) -> np.ndarray:
    """Features (batch, n_features) of states as an array; `name` is that of the map, 'f', 'g' or 'h'.

    Raises
    ------
    ValueError
        For features of another shape.
    """
    values = feature_map(states)
    name = {"h": "observables"}.get(name, name)
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    values = np.asarray(values)
    if values.ndim != 2 or len(values) != len(states):
        raise ValueError(f"{name} must map {len(states)} states to ({len(states)}, n_features); got {values.shape}.")
    return values


def check_finite(features: dict[Part, np.ndarray]) -> None:
    """Raise if a feature is not finite; read only where a sum is not, which costs no pass over the features."""
    for (side, _), values in features.items():
        if not np.isfinite(values).all():
            name = {"h": "observables"}.get(side, side)
            advice = "check the model or the feature map, and the unit of the data"
            raise ValueError(f"{name} gave NaN or inf features; {advice}.")


def feature_products(
    features: dict[Part, np.ndarray],
    shifts: dict[str, np.ndarray],
    names: Sequence[str],
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Sums over a batch of the products `names` of (1, features - shift), arrays (1 + k, 1 + k).

    Parameters
    ----------
    weights : of the rows (n,), by default 1 each
    """
    root = None if weights is None else np.sqrt(weights)[:, None]
    kinds: dict[tuple[bool, type], dict[Part, np.ndarray]] = {}
    for part, values in features.items():
        kinds.setdefault((part[0] == "h", double(values, shifts[part[0]])), {})[part] = values
    groups = [_SideBySide(of_kind, shifts, names, dtype, root) for (_, dtype), of_kind in kinds.items()]
    home = {part: group for group in groups for part in group.features}
    n = len(next(iter(features.values())))
    together = {name for group in groups for name in group.together}
    apart: dict[str, Any] = {name: None for name in names if name not in together}
    with threads_for(sum(len(group.shift) for group in groups)):
        for start in range(0, n, _ROWS):
            for group in groups:
                group.take(slice(start, min(start + _ROWS, n)))
            for name, total in apart.items():
                left, right = DEFINITIONS[name]
                value = np.conj(home[left].values(left).T) @ home[right].values(right)
                apart[name] = value if total is None else total + value
    return {name: apart[name] if name in apart else home[DEFINITIONS[name][0]].product(name) for name in names}


class _SideBySide:
    """Features side by side as (1, a - shift, 1, b - shift, ...), a few rows at a time, and their products.

    Many small products cost more than one large one: all those between f and g at x and x' are a single symmetric one,
    `square`, of which BLAS forms a triangle. Where few of them are wanted, that is more work, and none is formed.
    """

    def __init__(
        self,
        features: dict[Part, np.ndarray],
        shifts: dict[str, np.ndarray],
        names: Sequence[str],
        dtype: type,
        root: np.ndarray | None,
    ) -> None:
        self.features, self.root = features, root
        widths = {part: 1 + values.shape[1] for part, values in features.items()}
        ends = list(itertools.accumulate(widths.values(), initial=0))
        self.columns = {part: slice(*both) for part, both in zip(widths, itertools.pairwise(ends), strict=True)}
        self.shift = np.zeros(ends[-1], dtype)
        for part, columns in self.columns.items():
            self.shift[columns][1:] = shifts[part[0]]
        self.rows = np.ones((min(_ROWS, len(next(iter(features.values())))), ends[-1]), dtype)
        one_by_one, self.together = 0, []
        for name in names:
            left, right = DEFINITIONS[name]
            if left in features and right in features:
                one_by_one += 2 * widths[left] * widths[right]
                self.together.append(name)
        if ends[-1] ** 2 > one_by_one:
            self.together = []
        self.square = np.zeros((ends[-1], ends[-1]), dtype, order="F") if self.together else None

    def take(self, rows: slice) -> None:
        """Hold these rows of the features, and add their products."""
        self.rows = self.rows[: rows.stop - rows.start]
        for part, columns in self.columns.items():
            self.rows[:, columns.start + 1 : columns.stop] = self.features[part][rows]
        self.rows -= self.shift
        if self.root is not None:  # both factors of a product have the root of its weight
            for columns in self.columns.values():
                self.rows[:, columns.start] = 1.0
            self.rows *= self.root[rows]
        if self.square is not None:
            add = blas.zherk if self.rows.dtype == complex else blas.dsyrk
            self.square = add(1.0, self.rows.T, beta=1.0, c=self.square, overwrite_c=1)

    def values(self, part: Part) -> np.ndarray:
        """(1, a - shift) of a part, (rows, 1 + k), times the roots of weights."""
        return self.rows[:, self.columns[part]]

    def product(self, name: str) -> np.ndarray:
        """Sum over all rows, from the triangle that BLAS fills."""
        assert self.square is not None
        i, j = (self.columns[part] for part in DEFINITIONS[name])
        lower = self.square.T  # upper in Fortran's order
        if i.start > j.start:
            return lower[i, j]
        if i.start < j.start:
            return conjugate_transpose(lower[j, i])
        both = lower[i, i] + conjugate_transpose(lower[i, i])  # above the diagonal there is nothing
        np.fill_diagonal(both, np.diagonal(both) / 2)
        return both


class Stack:
    """Arrays of one shape in one allocation, doubled when it is full: a list stacked in the end would hold all twice.

    Examples
    --------
    >>> stack = Stack(capacity=2)
    >>> for value in (1.0, 2.0, 4.0):
    ...     stack.append(np.full((1, 1), value))
    >>> stack.merge_neighbours()
    >>> stack.arrays.ravel()
    array([3., 4.])
    """

    def __init__(self, capacity: int) -> None:
        self.room, self.n, self.capacity = np.empty((0, 0, 0)), 0, capacity

    @property
    def arrays(self) -> np.ndarray:
        """All of them, (n, ...)."""
        return self.room[: self.n]

    def append(self, value: np.ndarray) -> None:
        """One more."""
        dtype = np.result_type(self.room, value)
        if self.n == len(self.room) or dtype != self.room.dtype:
            room = np.empty((max(2 * self.n, self.capacity), *value.shape), dtype)
            room[: self.n] = self.arrays if self.n else room[:0]
            self.room = room
        self.room[self.n] = value
        self.n += 1

    def merge_neighbours(self) -> None:
        """Sums of every two that stand beside one another, in place of them."""
        half = self.n // 2
        for i in range(half):  # in place: what is read stands no further front than what is written
            self.room[i] = self.room[2 * i] + self.room[2 * i + 1]
        if self.n % 2:
            self.room[half] = self.room[self.n - 1]
        self.n -= half
