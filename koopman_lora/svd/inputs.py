"""What users give: a matrix as array, tensor, sparse or LinearOperator, and features of its rows and columns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from koopman_lora._linalg import conjugate_transpose
from koopman_lora.kinds import number_array, shown
from koopman_lora.svd.norms import operator_norm, safe_norm
from koopman_lora.svd.products import MatrixProducts, wide_dtype

# Difference of <u, H v> and <H^H u, v> for random u and v, relative to their size, that round-off does not give.
_WRONG_ADJOINT = 1e-3


def as_products(H: Any, name: str = "H") -> MatrixProducts:
    """Wrap a numpy array, torch tensor, scipy sparse matrix or LinearOperator, after checking it.

    Raises
    ------
    ValueError
        For an input that is empty, not two-dimensional, of no numbers, or has NaN or inf entries; for a LinearOperator
        without products with its adjoint.
    TypeError
        For objects that are no numbers.

    Examples
    --------
    >>> as_products(np.eye(3, dtype=bool))
    Traceback (most recent call last):
    ValueError: H must be float32, float64, complex64 or complex128; got bool. Use H.astype(float).
    >>> as_products(np.eye(3, dtype=int)).dtype
    dtype('float64')
    """
    if isinstance(H, MatrixProducts):
        return H
    if isinstance(H, Tensor):
        H = _as_numpy(H, name)
    is_sparse = scipy.sparse.issparse(H)
    if not isinstance(H, LinearOperator) and not is_sparse:
        try:
            H = np.asarray(H)
        except ValueError:
            raise TypeError(f"{name} must be a rectangular array of numbers; got {shown(H)}.") from None
    _check_shape(H.shape, name)
    if not isinstance(H, LinearOperator) and str(H.dtype)[:3] in ("int", "uin", "obj"):
        H = _as_float(H, name)
    _check_dtype(str(H.dtype), name)
    if isinstance(H, LinearOperator):
        return _from_operator(H, name)
    if not is_sparse:
        return _from_dense(H, name)
    _check_indices(H, name)
    return _from_sparse(H.tocsr(), name)


def _as_float(H: Any, name: str) -> Any:
    """Integers, and numbers that are kept as objects, in double precision."""
    try:
        return H.astype(float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a matrix of numbers; got dtype {H.dtype}: {error}.") from None


def _check_indices(H: Any, name: str) -> None:
    """Compare the indices of a sparse matrix with its shape: products with wrong ones would crash the process."""
    try:
        if H.format in ("csr", "csc", "bsr"):
            H.copy().check_format(full_check=True)  # of a copy: it changes the type of the indices in place
        elif H.format == "coo" and H.nnz:
            rows, columns = H.row, H.col
            if min(rows.min(), columns.min()) < 0 or rows.max() >= H.shape[0] or columns.max() >= H.shape[1]:
                raise ValueError("an index is outside the shape")
            if not len(rows) == len(columns) == len(H.data):
                raise ValueError("rows, columns and entries differ in number")
    except ValueError as error:
        raise ValueError(f"{name} must be a sparse matrix with valid indices; got {H.format}: {error}.") from None


def _as_numpy(H: Tensor, name: str) -> np.ndarray:
    if H.layout != torch.strided or H.is_meta:
        raise ValueError(f"{name} must be a dense tensor; got {H.layout} on {H.device}. Use scipy.sparse instead.")
    _check_dtype(str(H.dtype).removeprefix("torch."), name)  # numpy has no bfloat16
    return H.detach().cpu().resolve_conj().numpy()


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2:
        hint = " Use fit_many for a batch of matrices." if len(shape) == 3 else ""
        raise ValueError(f"{name} must be a matrix (M, N); got shape {tuple(shape)}.{hint}")
    if 0 in shape:
        raise ValueError(
            f"{name} must not be empty; got {shape[1]} feature(s) (shape={tuple(shape)}) while a minimum of 1 is "
            "required."
        )


def _check_dtype(dtype: str, name: str) -> None:
    if dtype not in ("float32", "float64", "complex64", "complex128"):
        raise ValueError(
            f"{name} must be float32, float64, complex64 or complex128; got {dtype}. Use {name}.astype(float)."
        )


def _check_finite(entries: np.ndarray, name: str) -> None:
    bad = int((~np.isfinite(entries)).sum())
    if bad:
        raise ValueError(f"{name} must be finite; got {bad} NaN or inf entries.")


def _from_dense(H: np.ndarray, name: str) -> MatrixProducts:
    _check_finite(H, name)
    wide: np.ndarray = np.ascontiguousarray(H, dtype=wide_dtype(H.dtype))
    return MatrixProducts(
        H.shape,
        H.dtype,
        wide.__matmul__,
        conjugate_transpose(wide).__matmul__,
        lambda rows, columns: wide[np.ix_(rows, columns)],
        norm=safe_norm(wide),
        dense=wide,
    )


def _from_sparse(H: Any, name: str) -> MatrixProducts:
    _check_finite(H.data, name)
    adjoint = H.conj().T.tocsr()
    wide = wide_dtype(H.dtype)
    return MatrixProducts(
        H.shape,
        H.dtype,
        lambda X: np.asarray(H @ X, dtype=wide),
        lambda Y: np.asarray(adjoint @ Y, dtype=wide),
        lambda rows, columns: H[rows][:, columns].toarray(),
        norm=safe_norm(H.data.astype(wide)),
    )


def _from_operator(H: LinearOperator, name: str) -> MatrixProducts:
    wide = wide_dtype(np.dtype(H.dtype))

    def checked(product: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def multiply(X: np.ndarray) -> np.ndarray:
            try:
                values: np.ndarray = np.asarray(product(X), dtype=wide)
            except (NotImplementedError, TypeError, RecursionError) as error:
                raise ValueError(f"{name} must offer matvec and rmatvec (the adjoint); one failed: {error}") from error
            if not np.isfinite(values).all():
                raise ValueError(f"{name} gave NaN or inf in a product.")
            return values

        return multiply

    multiply, adjoint = checked(H.matmat), checked(H.rmatmat)
    _tell_of_wrong_adjoint(multiply, adjoint, H.shape, wide, name)
    norm, norm_error = operator_norm(multiply, adjoint, H.shape, wide)
    return MatrixProducts(H.shape, np.dtype(H.dtype), multiply, adjoint, norm=norm, norm_error=norm_error)


def as_features(
    parametrization: str, shape: tuple[int, int], row_features: Any, column_features: Any
) -> tuple[Tensor | None, Tensor | None]:
    """Features of rows and columns of a matrix of this shape as tensors, None for a side without.

    Raises
    ------
    ValueError
        Unless there are features of at least one side where the parametrization takes them, and none where not.

    Examples
    --------
    >>> as_features("features", (3, 2), np.ones((3, 1)), None)[0].shape
    torch.Size([3, 1])
    """
    if parametrization != "features":
        if row_features is not None or column_features is not None:
            raise ValueError(
                f"row_features and column_features belong to parametrization='features'; got {parametrization!r}."
            )
        return None, None
    if row_features is None and column_features is None:
        raise ValueError("parametrization='features' needs row_features or column_features; got neither.")
    rows = None if row_features is None else feature_tensor(row_features, "row_features", shape[0])
    columns = None if column_features is None else feature_tensor(column_features, "column_features", shape[1])
    return rows, columns


def feature_tensor(values: Any, name: str, n: int | None = None) -> Tensor:
    """Features (n, d) as a tensor of double precision, after checking them; any n where None.

    Examples
    --------
    >>> feature_tensor([[1], [2]], "row_features")
    tensor([[1.],
            [2.]], dtype=torch.float64)
    """
    array = number_array(name, values)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be real numbers of shape (n, d); got {array.dtype} of shape {array.shape}.")
    if n is not None and len(array) != n:
        raise ValueError(f"{name} must have one row per {name.split('_')[0]} of H, {n}; got {len(array)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got NaN or inf entries.")
    return torch.as_tensor(array.astype(np.float64))


def _tell_of_wrong_adjoint(
    multiply: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    dtype: type,
    name: str,
) -> None:
    """Warn where products with random vectors say so: a fit of it would be long, and wrong."""
    rng = np.random.default_rng(0)
    u, v = (
        rng.normal(size=(n, 2)) @ np.array([1, 1j if np.issubdtype(dtype, np.complexfloating) else 1]) for n in shape
    )
    u, v = (np.asarray(vector, dtype=dtype)[:, None] for vector in (u, v))
    Hv, Hu = multiply(v), adjoint(u)
    difference = abs((np.conj(u) * Hv).sum() - (np.conj(Hu) * v).sum())
    size = max(np.linalg.norm(Hv), np.linalg.norm(Hu))  # what both products are like
    if difference > _WRONG_ADJOINT * size:
        warnings.warn(
            f"{name}: rmatvec is not the conjugate transpose of matvec, by {difference / size:.2g} of the size of "
            "products with random vectors; the decomposition will be long to find, and wrong. Mend it first.",
            stacklevel=2,
        )
