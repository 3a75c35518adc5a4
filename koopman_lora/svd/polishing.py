"""The last digits of singular triples by a classical block iteration that starts from the trained ones."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from koopman_lora.svd.orthogonality import qr_orthonormal
from koopman_lora.svd.products import MatrixProducts
from koopman_lora.svd.triples import RitzTriples

# Polishing stops where the residual of every wanted pair is below this, relative to the largest singular value.
POLISH_TOLERANCE = 1e-13


class Polished(NamedTuple):
    """Singular triples after polishing, and how many steps it took."""

    triples: RitzTriples
    n_steps: int


def polish(H: MatrixProducts, V: Tensor, n_modes: int, max_steps: int, tolerance: float = POLISH_TOLERANCE) -> Polished:
    """Block power steps with Rayleigh-Ritz, until the residuals of the leading `n_modes` have converged.

    A power step would continue in the space of `H^H H V`; here V and the step before stay in the space too (the
    locally optimal block iteration, LOBPCG), which needs the square root of the number of steps. V is (N, k), k >=
    n_modes; the extra columns make it faster. One step is a product of H with 3 k vectors and one of H^H with k.

    Returns
    -------
    Polished
        All k triples; only the residuals of the leading `n_modes` have converged.

    References
    ----------
    Knyazev, Toward the optimal preconditioned eigensolver (2001).

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> H = as_products(torch.diag(torch.tensor([5.0, 2.0, 1.0])))
    >>> V = torch.tensor([[0.6], [0.8], [0.1]], dtype=torch.float64)
    >>> polish(H, V, n_modes=1, max_steps=20).triples.values.round(decimals=12)
    tensor([5.], dtype=torch.float64)
    """
    k = V.shape[1]
    basis, previous, best = qr_orthonormal(V), None, math.inf
    stalled = n_steps = 0
    while True:
        P, values, Wh = torch.linalg.svd(H(basis), full_matrices=False)
        rotated = basis @ Wh[:k].mH
        U, values = P[:, :k], values[:k]
        HU = H.adjoint(U)
        residual_vectors = HU - rotated * values
        residual = (torch.linalg.vector_norm(residual_vectors[:, :n_modes], dim=0).max() / _positive(values[0])).item()
        stalled = stalled + 1 if residual > 0.5 * best else 0
        best = min(best, residual)
        # at the precision floor residuals only jitter; slow convergence still halves within that many steps
        if residual <= tolerance or n_steps >= max_steps or (stalled >= 5 and best < 100 * tolerance):
            return Polished(RitzTriples(U, values, qr_orthonormal(rotated), U * values, HU), n_steps)
        basis = _extend(rotated, [residual_vectors] if previous is None else [residual_vectors, previous])
        previous, n_steps = rotated, n_steps + 1


def _positive(value: Tensor) -> Tensor:
    return value if value > 0 else torch.ones_like(value)


def _extend(V: Tensor, directions: list[Tensor]) -> Tensor:
    """Orthonormal basis of V and further directions, however small these are."""
    for D in directions:
        for _ in range(2):  # twice is enough
            D = D - V @ (V.mH @ D)
            norms = torch.linalg.vector_norm(D, dim=0)
            D = D / torch.where(norms > 0, norms, 1.0)
        D = D[:, : max(V.shape[0] - V.shape[1], 0)]
        V = torch.linalg.qr(torch.cat([V, D], dim=1))[0] if D.shape[1] else V
    return V
