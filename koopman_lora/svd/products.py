"""A given matrix as what training needs of it: products with it and its adjoint, its entries, its norm.

Everything behind this border is float64 or complex128.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def wide_dtype(dtype: np.dtype) -> type:
    """The type in which numbers of this dtype are computed.

    Examples
    --------
    >>> wide_dtype(np.dtype("complex64"))
    <class 'numpy.complex128'>
    """
    return np.complex128 if dtype.kind == "c" else np.float64


def widen(array: np.ndarray) -> np.ndarray:
    """Copy in that type.

    Examples
    --------
    >>> widen(np.ones(2, "float32")).dtype
    dtype('float64')
    """
    return array.astype(wide_dtype(array.dtype))


class MatrixProducts:
    """A matrix known by `H @ X`, `H^H @ Y` and, where it has entries, by sub-matrices `H[rows][:, columns]`.

    Parameters
    ----------
    shape, dtype : shape and numpy dtype of the matrix as the user gave it
    multiply, multiply_adjoint : X (N, k) -> H X (M, k), Y (M, k) -> H^H Y (N, k); numpy arrays
    select : (rows, columns) -> sub-matrix; None for an operator without entries
    norm : Frobenius norm
    norm_error : standard error of `norm`, 0 where it is exact
    dense : the matrix itself where it is dense, in float64 or complex128

    Examples
    --------
    >>> double = MatrixProducts((2, 2), np.dtype(float), lambda X: 2 * X, lambda Y: 2 * Y, norm=8**0.5)
    >>> double(torch.ones(2, 1, dtype=torch.float64))
    tensor([[2.],
            [2.]], dtype=torch.float64)
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype,
        multiply: Callable[[np.ndarray], np.ndarray],
        multiply_adjoint: Callable[[np.ndarray], np.ndarray],
        select: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        norm: float = math.nan,
        norm_error: float = 0.0,
        dense: np.ndarray | None = None,
    ) -> None:
        self.shape, self.dtype, self.norm, self.norm_error = shape, dtype, norm, norm_error
        self._multiply, self._adjoint, self._select = multiply, multiply_adjoint, select
        self.dense = dense

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision in which everything is computed."""
        return torch.complex128 if self.dtype.kind == "c" else torch.float64

    @property
    def has_entries(self) -> bool:
        """Whether sub-matrices can be taken."""
        return self._select is not None

    def __call__(self, X: Tensor) -> Tensor:
        """`H X`, differentiable in X."""
        return _Product.apply(X, self._multiply, self._adjoint)

    def adjoint(self, Y: Tensor) -> Tensor:
        """`H^H Y`, differentiable in Y."""
        return _Product.apply(Y, self._adjoint, self._multiply)

    def normalized(self) -> MatrixProducts:
        """`H / ||H||_F`, so that training never sees the units of H; the zero matrix stays as it is."""
        norm = self.norm if self.norm > 0 else 1.0
        return MatrixProducts(
            self.shape,
            self.dtype,
            _divided(self._multiply, norm),
            _divided(self._adjoint, norm),
            _divided(self._select, norm) if self._select is not None else None,
            self.norm / norm,
            self.norm_error / norm,
        )

    def block(self, rows: np.ndarray, columns: np.ndarray) -> Tensor:
        """Sub-matrix of these rows and columns, (len(rows), len(columns))."""
        if self._select is None:
            raise ValueError("H has products only, no entries to take a sub-matrix of.")
        return torch.as_tensor(np.asarray(self._select(rows, columns), dtype=wide_dtype(self.dtype)))


class _Product(torch.autograd.Function):
    """`A X` for an A that torch cannot see; its gradient is a product with A^H."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, multiply: Callable, multiply_adjoint: Callable) -> Tensor:
        ctx.adjoint = multiply_adjoint
        return torch.as_tensor(multiply(X.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.as_tensor(ctx.adjoint(gradient.resolve_conj().numpy())), None, None


def _divided(function: Callable[..., np.ndarray], norm: float) -> Callable[..., np.ndarray]:
    return lambda *arguments: function(*arguments) / norm
