"""Sums of products of features over a batch, in few large products: the arithmetic below `estimate_moments`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import blas

from koopman_lora._linalg import conjugate_transpose
from koopman_lora.moments import DEFINITIONS

# A feature map, 'f', 'g' or 'h', and where it is taken: 0 at x, 1 at x'.
Part = tuple[str, int]

# Rows that are converted, shifted and multiplied at once, few enough to stay in the processor's cache.
_ROWS = 512


def double(*values: np.ndarray) -> type:
    """Double precision for these values, real or complex."""
    return np.complex128 if any(map(np.iscomplexobj, values)) else np.float64


def feature_products(
    features: dict[Part, np.ndarray], shifts: dict[str, np.ndarray], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Sums over a batch of the products `names` of (1, features - shift), arrays (1 + k, 1 + k)."""
    kinds: dict[tuple[bool, type], dict[Part, np.ndarray]] = {}
    for part, values in features.items():
        kinds.setdefault((part[0] == "h", double(values, shifts[part[0]])), {})[part] = values
    groups = [_SideBySide(of_kind, shifts, names) for of_kind in kinds.values()]
    home = {part: group for group in groups for part in group.columns}
    n = len(next(iter(features.values())))
    apart: dict[str, Any] = {name: 0.0 for name in names if not any(name in group.together for group in groups)}
    for start in range(0, n, _ROWS):
        for group in groups:
            group.take(slice(start, min(start + _ROWS, n)))
        for name in apart:
            a, b = (home[part].values(part) for part in DEFINITIONS[name])
            apart[name] = apart[name] + np.conj(a.T) @ b
    result = {}
    for name in names:
        left, right = DEFINITIONS[name]
        value = apart[name] if name in apart else home[left].product(left, right)
        result[name] = np.empty((1 + value.shape[0], 1 + value.shape[1]), value.dtype)
        result[name][0, 0], result[name][1:, 1:] = n, value
        result[name][0, 1:], result[name][1:, 0] = home[right].total(right), np.conj(home[left].total(left))
    return result


class _SideBySide:
    """Features side by side as (1, a - shift, b - shift, ...), a few rows at a time, and their products.

    Many small products cost more than one large one: all those between f and g at x and x' are a single symmetric one,
    `square`, of which BLAS forms a triangle. Where few of them are wanted, that is more work, and `square` stays None.
    """

    def __init__(self, features: dict[Part, np.ndarray], shifts: dict[str, np.ndarray], names: Sequence[str]) -> None:
        self.features = features
        widths = {part: values.shape[1] for part, values in features.items()}
        ends = list(itertools.accumulate(widths.values(), initial=1))
        self.columns = {part: slice(*both) for part, both in zip(widths, itertools.pairwise(ends), strict=True)}
        self.shift = np.concatenate([np.zeros(1), *(shifts[side] for side, _ in features)])
        dtype = double(self.shift, *features.values())
        self.rows = np.ones((min(_ROWS, len(next(iter(features.values())))), ends[-1]), dtype)
        within = {name: both for name in names if features.keys() >= set(both := DEFINITIONS[name])}
        one_by_one = sum(2 * widths[left] * widths[right] for left, right in within.values())
        worth_it = (ends[-1] - 1) ** 2 <= one_by_one
        self.together = set(within) if worth_it else set()
        self.square = np.zeros((ends[-1], ends[-1]), dtype, order="F") if self.together else None
        self.totals = np.zeros(ends[-1], dtype)

    def take(self, rows: slice) -> None:
        """Hold these rows of the features, and add their products."""
        self.rows = self.rows[: rows.stop - rows.start]
        for part, columns in self.columns.items():
            self.rows[:, columns] = self.features[part][rows]
        self.rows -= self.shift
        if self.square is None:
            self.totals += np.ones(len(self.rows)) @ self.rows
        else:
            add = blas.zherk if np.iscomplexobj(self.rows) else blas.dsyrk
            self.square = add(1.0, self.rows.T, beta=1.0, c=self.square, overwrite_c=1)

    def values(self, part: Part) -> np.ndarray:
        """Features of a part less their shift, (rows, k)."""
        return self.rows[:, self.columns[part]]

    def total(self, part: Part) -> np.ndarray:
        """Sum of all rows of a part."""
        return (self.totals if self.square is None else np.conj(self.square[0]))[self.columns[part]]

    def product(self, left: Part, right: Part) -> np.ndarray:
        """Sum over all rows of `left^H right`, from the triangle that BLAS fills."""
        assert self.square is not None
        lower, i, j = self.square.T, self.columns[left], self.columns[right]  # upper in Fortran's order
        if i.start > j.start:
            return lower[i, j]
        if i.start < j.start:
            return conjugate_transpose(lower[j, i])
        both = lower[i, i] + conjugate_transpose(lower[i, i])  # above the diagonal there is nothing
        np.fill_diagonal(both, np.diagonal(both) / 2)
        return both
