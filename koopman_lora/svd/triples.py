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


def balanced(G: Tensor, F: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular triples U (M, k), values (k,), V (N, k) of the product `G F^H`, which is never formed.

    Examples
    --------
    >>> U, values, V = balanced(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0]]))
    >>> values
    tensor([10.])
    """
    (Q_g, R_g), (Q_f, R_f) = torch.linalg.qr(G), torch.linalg.qr(F)
    P, values, Wh = torch.linalg.svd(R_g @ R_f.mH)
    return Q_g @ P, values, Q_f @ Wh.mH


@torch.no_grad()
def power_step(H: MatrixProducts, ritz: RitzTriples) -> RitzTriples:
    """Singular triples between the images `H V` and `H^H (H V)`: every error of sigma shrinks, none grows.

    What a vector has of a mode too many shrinks by the square of the ratio of their singular values.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> H = as_products(torch.diag(torch.tensor([4.0, 1.0])))
    >>> G, F = torch.ones(2, 1).double(), torch.ones(2, 1).double()
    >>> ritz = rayleigh_ritz(H, G, F)
    >>> torch.cat([ritz.values, power_step(H, ritz).values]).round(decimals=2)
    tensor([2.5000, 3.8900], dtype=torch.float64)
    """
    Q = qr_orthonormal(ritz.HV)
    V, values, Wh = torch.linalg.svd(H.adjoint(Q), full_matrices=False)
    U = qr_orthonormal(Q @ Wh.mH)
    return RitzTriples(U, values, V, H(V), V * values)


def value_errors(ritz: RitzTriples, largest_rank: int) -> Tensor:
    """Estimated errors (k,) of the singular values, by the residuals and the gap to what was not found.

    A singular value lies within `r / sqrt(2)` of sigma; by Kato and Temple within `r^2 / (2 gap)`, where nothing else
    lies in the gap. The rest is taken to begin at the last value found, plus its own bound.

    Parameters
    ----------
    largest_rank : min(M, N); with that many triples nothing was left out

    References
    ----------
    docs/mathematics.md, section 8.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> H = as_products(torch.diag(torch.tensor([4.0, 1.0, 0.5])))
    >>> F = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 0.0]], dtype=torch.float64)
    >>> ritz = rayleigh_ritz(H, F, F)
    >>> (4.0 - ritz.values[0]).round(decimals=3), value_errors(ritz, 3)[0].round(decimals=3)     # what it is, and told
    (tensor(0.0350, dtype=torch.float64), tensor(0.0400, dtype=torch.float64))
    """
    bounds = ritz.residuals / 2**0.5
    rest = ritz.values[-1] + bounds[-1] if len(bounds) < largest_rank else torch.zeros_like(bounds[-1])
    gaps = (ritz.values - rest).clamp_min(torch.finfo(bounds.dtype).tiny)
    return torch.minimum(bounds, bounds.square() / gaps)


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
