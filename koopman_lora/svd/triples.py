"""Singular triples out of two factors: extraction of the values, Rayleigh-Ritz, how many modes hold an energy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.svd.orthogonality import qr_orthonormal
from koopman_lora.svd.products import MatrixProducts


def svals_from_norms(G: Tensor, F: Tensor) -> Tensor:
    """Singular values of `G F^H` by column norms, `||g_l|| ||f_l||`: right where both have orthogonal columns.

    Examples
    --------
    >>> svals_from_norms(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0]]))
    tensor([10.])
    """
    return torch.linalg.vector_norm(G, dim=0) * torch.linalg.vector_norm(F, dim=0)


def svals_from_diagonal(U: Tensor, HV: Tensor) -> Tensor:
    """`diag(U^H H V)` from U and the product H V; complex where the phases of u and v do not match.

    Examples
    --------
    >>> svals_from_diagonal(torch.eye(2), torch.tensor([[2.0, 5.0], [7.0, -1.0]]))
    tensor([ 2., -1.])
    """
    return (U.conj() * HV).sum(0)


class RitzTriples(NamedTuple):
    """Singular triples between two subspaces, and the products with H that came along.

    `U^H H V = diag(values)`, U (M, k) and V (N, k) orthonormal; `HV`, `HU` are `H V` and `H^H U`.
    """

    U: Tensor
    values: Tensor
    V: Tensor
    HV: Tensor
    HU: Tensor

    @property
    def residuals(self) -> Tensor:
        """`sqrt(||H v - sigma u||^2 + ||H^H u - sigma v||^2)` per mode."""
        left = torch.linalg.vector_norm(self.HV - self.U * self.values, dim=0)
        right = torch.linalg.vector_norm(self.HU - self.V * self.values, dim=0)
        return torch.hypot(left, right)


def rayleigh_ritz(H: MatrixProducts, G: Tensor, F: Tensor, n_modes: int | None = None) -> RitzTriples:
    """Best singular triples between the column spaces of G and F: SVD of the small core `Q_G^H H Q_F`.

    Parameters
    ----------
    H : matrix of shape (M, N)
    G, F : tensors (M, k), (N, k')
    n_modes : keep only the leading triples

    Returns
    -------
    RitzTriples
        With values real, not negative, decreasing.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> H = as_products(torch.diag(torch.tensor([1.0, 3.0])))
    >>> rayleigh_ritz(H, torch.eye(2).double(), torch.eye(2).double()).values
    tensor([3., 1.], dtype=torch.float64)
    """
    Q_g, Q_f = qr_orthonormal(G), qr_orthonormal(F)
    HQ = H(Q_f)
    P, values, Wh = torch.linalg.svd(Q_g.mH @ HQ, full_matrices=False)
    P, values, Wh = P[:, :n_modes], values[:n_modes], Wh[:n_modes]
    U, V = qr_orthonormal(Q_g @ P), qr_orthonormal(Q_f @ Wh.mH)  # once more: the products cost a few digits
    return RitzTriples(U, values, V, HQ @ Wh.mH, H.adjoint(U))


def modes_for_energy(values: np.ndarray, total: float, energy: float) -> int | None:
    """Smallest number of leading modes with `sum sigma^2 >= energy * total`; None if all given do not reach it.

    Examples
    --------
    >>> modes_for_energy(np.array([3.0, 1.0]), total=10.0, energy=0.9), modes_for_energy(np.array([3.0]), 10.0, 0.95)
    (1, None)
    """
    # a few units of round-off, so that energy=1 is reached by the exact values
    enough = np.cumsum(np.square(values)) >= energy * total * (1 - 1e-12)
    return int(enough.argmax()) + 1 if enough.any() else None


def count_wanted(values: np.ndarray, energy: float | None, limit: int) -> int | None:
    """How many of the trained modes to keep: all, or what the energy asks for; None if it asks for more than these.

    Parameters
    ----------
    values : of the normalised matrix, as many as were trained
    limit : the largest possible number of modes

    Examples
    --------
    >>> count_wanted(np.array([0.8, 0.5]), 0.6, limit=3), count_wanted(np.array([0.8, 0.5]), 0.99, limit=3)
    (1, None)
    """
    if energy is None:
        return len(values)
    if values[0] == 0:  # the zero matrix holds no energy at any rank
        return 1
    needed = modes_for_energy(values, 1.0, energy)
    return limit if needed is None and len(values) == limit else needed
