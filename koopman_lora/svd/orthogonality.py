"""Orthonormal columns in training: Bjorck's iteration, QR, a penalty; and how far from orthonormal columns are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from koopman_lora._linalg import conjugate_transpose
from koopman_lora.svd.products import widen

ORTHOGONALITIES = ("bjorck", "penalty", "qr", None)


def bjorck(X: Tensor, tolerance: float = 1e-14, max_iterations: int = 60) -> Tensor:
    """Nearest matrix with orthonormal columns by Bjorck's iteration, differentiable.

    `Q <- Q (15/8 I - 5/4 A + 3/8 A^2)`, `A = Q^H Q`, on input scaled to spectral norm at most 1. Each iteration
    multiplies small singular values by 15/8 and converges cubically once they are near 1.

    Parameters
    ----------
    X : tensor of shape (n, k), n >= k, of full column rank
    tolerance : stop at `||A - I||_F <= tolerance * k`; the last iteration is then already far below it

    References
    ----------
    Bjorck and Bowie, An iterative algorithm for computing the best estimate of an orthogonal matrix (1971).

    Examples
    --------
    >>> bjorck(torch.tensor([[2.0, 0.0], [0.0, -0.1], [0.0, 0.0]], dtype=torch.float64)).round(decimals=6)
    tensor([[ 1.,  0.],
            [ 0., -1.],
            [ 0.,  0.]], dtype=torch.float64)
    """
    identity = torch.eye(X.shape[1], dtype=X.dtype)
    # the largest column sum of the Gram matrix bounds its spectral norm
    Q = X / (X.mH @ X).detach().abs().sum(0).max().sqrt().clamp_min(torch.finfo(X.dtype).tiny)
    for _ in range(max_iterations):
        A = Q.mH @ Q
        if torch.linalg.matrix_norm(A.detach() - identity) <= tolerance * len(identity):
            break
        Q = Q @ (1.875 * identity - 1.25 * A + 0.375 * (A @ A))
    return Q


def qr_orthonormal(X: Tensor) -> Tensor:
    """Orthonormal columns by QR, with the diagonal of R made positive so that X orthonormal comes back unchanged.

    Examples
    --------
    >>> qr_orthonormal(torch.tensor([[-3.0], [4.0]]))
    tensor([[-0.6000],
            [ 0.8000]])
    """
    Q, R = torch.linalg.qr(X)
    diagonal = R.diagonal().detach()
    return Q * torch.where(diagonal.abs() > 0, diagonal / diagonal.abs().clamp_min(1e-300), 1.0)


def orthogonalize(X: Tensor, orthogonality: str | None) -> Tensor:
    """Orthonormal columns for 'bjorck' and 'qr'; X itself for 'penalty' and None.

    Raises
    ------
    ValueError
        For another word.

    Examples
    --------
    >>> orthogonalize(torch.ones(2, 1), "cholesky")
    Traceback (most recent call last):
    ValueError: orthogonality must be one of 'bjorck', 'penalty', 'qr', None; got 'cholesky'.
    """
    if orthogonality not in ORTHOGONALITIES:
        raise ValueError(f"orthogonality must be one of 'bjorck', 'penalty', 'qr', None; got {orthogonality!r}.")
    if orthogonality == "bjorck":
        return bjorck(X)
    return qr_orthonormal(X) if orthogonality == "qr" else X


def orthogonality_error(U: np.ndarray) -> float:
    """`||U^H U - I||_F`, in double precision.

    Examples
    --------
    >>> orthogonality_error(np.eye(3)[:, :2] * 2.0)
    4.242640687119285
    """
    U = widen(U)
    return float(np.linalg.norm(conjugate_transpose(U) @ U - np.eye(U.shape[1])))


def scaled_orthogonality_penalty(U: Tensor, V: Tensor, scale: Tensor) -> Tensor:
    """`sum_ij min(scale_i, scale_j)^2 (|U^H U - I|_ij^2 + |V^H V - I|_ij^2)`.

    With scale = 1 it is the plain penalty. In training the scale is that of the loss's own curvature (its sigma), so
    that one weight `lam` suits large and small singular values.

    Examples
    --------
    >>> scaled_orthogonality_penalty(2 * torch.eye(2), torch.eye(2), torch.tensor([1.0, 0.5]))
    tensor(11.2500)
    """
    identity = torch.eye(U.shape[1], dtype=U.dtype)
    weights = torch.minimum(scale[:, None], scale).square()
    deviation = (U.mH @ U - identity).abs().square() + (V.mH @ V - identity).abs().square()
    return (weights * deviation).sum()
