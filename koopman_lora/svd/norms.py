"""Frobenius norm of numbers without overflow, and of an operator that is known by its products only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# An operator that is known by its products only: its norm is exact up to this many products, beyond that an estimate.
EXACT_NORM_PRODUCTS = 2048
# Random vectors of that estimate; its relative standard error is at most sqrt(2 / PROBES), about 0.12, and far less
# for a matrix whose energy is spread over many singular values.
PROBES = 128


def safe_norm(entries: np.ndarray) -> float:
    """Frobenius norm that neither overflows nor underflows in its squares.

    Examples
    --------
    >>> f"{safe_norm(np.array([3e200, 4e200])):.6g}"
    '5e+200'
    """
    largest = float(np.abs(entries).max(initial=0.0))
    return largest * float(np.linalg.norm(np.ravel(entries) / largest)) if largest > 0 else 0.0


def operator_norm(
    multiply: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    dtype: type,
) -> tuple[float, float]:
    """Frobenius norm by products, and its error: exact on a short side, else from `E ||H z||^2` over random signs.

    Examples
    --------
    >>> operator_norm(lambda X: 2 * X, lambda Y: 2 * Y, (4, 4), np.float64)
    (4.0, 0.0)
    """
    product, n = (multiply, shape[1]) if shape[1] <= shape[0] else (adjoint, shape[0])
    if n <= EXACT_NORM_PRODUCTS:
        starts = range(0, n, 256)
        blocks = [product(np.eye(n, min(256, n - start), -start, dtype=dtype)) for start in starts]
        return safe_norm(np.array([safe_norm(block) for block in blocks])), 0.0
    signs: np.ndarray = np.random.default_rng(0).choice([-1.0, 1.0], size=(n, PROBES)).astype(dtype)
    squares = np.square(np.linalg.norm(product(signs), axis=0))
    norm = float(np.sqrt(squares.mean()))
    return norm, float(squares.std(ddof=1) / np.sqrt(PROBES) / (2 * norm)) if norm > 0 else 0.0
