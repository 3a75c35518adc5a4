"""The nested low-rank loss of two factors of a matrix, in coordinates in which training is well conditioned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from koopman_lora.loss_terms import LoRATerms, best_svals
from koopman_lora.losses import NonFiniteLossError, nesting_weights, truncation_weights
from koopman_lora.svd.factors import Factor
from koopman_lora.svd.orthogonality import orthogonalize, scaled_orthogonality_penalty
from koopman_lora.svd.products import MatrixProducts
from koopman_lora.svd.terms import loss_terms
from koopman_lora.svd.triples import RitzTriples, rayleigh_ritz

# Singular values below this, relative to the largest, are not resolved by training: the scale of their columns stops
# there, and their residuals are judged against `tolerance` times it.
SMALLEST_SCALE, SMALLEST_RESOLVED = 1e-8, 1e-6
# Residual energy allowed, relative to what a rank-n approximation has to leave out: half of it is (to first order) the
# relative excess of the reconstruction error over the Eckart-Young optimum.
EXCESS_TOLERANCE = 5e-5
# Below this share of ||H||_F^2 what is left out counts as round-off.
SMALLEST_TAIL = 1e-10


class FactorObjective(nn.Module):
    """Loss of two factors of a normalised matrix, when it has converged, and its history; both loops minimise it.

    Its state is that of the factors and `scale`, the coordinates of their columns.

    Parameters
    ----------
    H : the normalised matrix (`MatrixProducts.normalized`)
    left, right : factors of rows and columns with equal k
    n_modes : the leading modes that have to converge; the rest helps them
    orthogonality, lam : see `NeuralSVD`
    tolerance : largest residual of a pair relative to its singular value

    Attributes
    ----------
    losses, errors : per evaluation: the loss, and `||H - H_n||_F / ||H||_F` of the leading n modes
    """

    def __init__(
        self,
        H: MatrixProducts,
        left: Factor,
        right: Factor,
        n_modes: int,
        orthogonality: str | None,
        lam: float,
        tolerance: float,
    ) -> None:
        super().__init__()
        self.H, self.left, self.right, self.n_modes = H, left, right, n_modes
        self.orthogonality, self.lam, self.tolerance = orthogonality, lam, tolerance
        self.m = truncation_weights(nesting_weights(left().shape[1]))
        self.register_buffer("scale", torch.ones_like(self.m))
        self.losses: list[float] = []
        self.errors: list[float] = []

    @property
    def is_limited(self) -> bool:
        """Whether a factor cannot become everything, so that residuals need not vanish."""
        return self.left.is_limited or self.right.is_limited

    @property
    def has_svals(self) -> bool:
        """Whether singular values stand between the factors; otherwise their columns carry them."""
        return self.orthogonality is not None

    def factors(self) -> tuple[Tensor, Tensor]:
        """U (M, k) and V (N, k) as the loss sees them."""
        return self._orthogonalized(self.left()), self._orthogonalized(self.right())

    def _orthogonalized(self, raw: Tensor) -> Tensor:
        # Bjorck sees the columns at their scale: what a small one picks up of a large one then hardly turns that one
        return orthogonalize(raw if self.orthogonality == "bjorck" else raw / self.scale, self.orthogonality)

    @torch.no_grad()
    def ritz(self) -> RitzTriples:
        """Best singular triples that the last layers of both factors could give."""
        return rayleigh_ritz(self.H, self.left.space(), self.right.space(), len(self.m))

    @torch.no_grad()
    def choose_coordinates(self) -> RitzTriples:
        """Rotate both factors to the current singular vectors and scale their columns by the loss's curvature.

        In `raw = U * scale` the Hessian of every mode is near the identity, whatever its singular value: without it
        the number of steps grows with (sigma_1 / sigma_k)^2. Nothing changes but the parameters' coordinates.
        """
        ritz = self.ritz()
        sigma = ritz.values.clamp_min(SMALLEST_SCALE * ritz.values[0]) if ritz.values[0] > 0 else self.m
        if self.has_svals:
            self.scale, size = self.m.sqrt() * sigma, torch.ones_like(sigma)
        else:  # G = U sqrt(sigma), F = V sqrt(sigma): each sees the other's square
            self.scale, size = (self.m * sigma).sqrt(), sigma.sqrt()
        for factor, vectors in ((self.left, ritz.U), (self.right, ritz.V)):
            factor.assign(vectors * (size * self.scale))
        return ritz

    def evaluate(self) -> tuple[Tensor, Tensor, Tensor]:
        """Half the nested loss of all rows and columns, with gradient; singular values and residuals seen in it."""
        raw = self.left(), self.right()
        for outputs in raw:
            outputs.retain_grad()
        U, V = map(self._orthogonalized, raw)
        terms = loss_terms(U, self.H(V), V)
        svals = self.best_svals(terms)
        # half of the loss: its Hessian is near 1 instead of 2, and the very first step of L-BFGS, of length 1, is right
        loss = 0.5 * self.loss(terms, svals, U, V)
        loss.backward()
        self.record(terms, svals)
        values = svals * terms.quadratic.detach().diagonal().sqrt()
        # In these coordinates the gradient of column i is sqrt(m_i) times its residual, plus rotations within the
        # space of all columns; the latter are projected out, Rayleigh-Ritz does them anyway.
        gradients = torch.cat([_outside(outputs.detach(), outputs.grad) for outputs in raw])
        return loss, values, torch.linalg.vector_norm(gradients, dim=0) / self.m.sqrt()

    @torch.no_grad()
    def best_svals(self, terms: LoRATerms) -> Tensor:
        """Singular values (k,) of the smallest loss; at their optimum the gradient through them vanishes."""
        return best_svals(terms.weighted(self.m)) if self.has_svals else torch.ones_like(self.m)

    def loss(self, terms: LoRATerms, svals: Tensor, U: Tensor, V: Tensor) -> Tensor:
        """The nested loss, with the penalty where that is the way to orthonormal columns."""
        loss = terms.weighted(self.m).loss(svals)
        if self.orthogonality == "penalty":
            loss = loss + self.lam * scaled_orthogonality_penalty(U, V, self.scale)
        return loss

    @torch.no_grad()
    def record(self, terms: LoRATerms, svals: Tensor) -> None:
        """Append to the history; a loss that is no number ends the training."""
        gain = terms.curve(svals)[self.n_modes - 1].item()
        self.losses.append(terms.weighted(self.m).loss(svals).item())
        self.errors.append(math.sqrt(max(self.H.norm**2 + gain, 0.0)))
        if not math.isfinite(self.losses[-1]):
            raise NonFiniteLossError(f"the loss became {self.losses[-1]} in step {len(self.losses)}.")

    def is_converged(self, values: Tensor, residuals: Tensor) -> bool:
        """Whether the residuals are small against the singular values, and against what is left out."""
        n = self.n_modes
        residuals = residuals[:n]
        if self.H.norm_error > 0:  # the norm is an estimate: what the further modes hold is a safe lower bound
            left_out = values[n:].square().sum()
        else:
            left_out = self.H.norm**2 - values[:n].square().sum()
        smallest = values[:n].clamp_min(SMALLEST_RESOLVED * values[0])
        excess = residuals.square().sum() / left_out.clamp_min(SMALLEST_TAIL)
        return bool((residuals <= self.tolerance * smallest).all() and excess <= EXCESS_TOLERANCE)

    def relative_gain(self, before: RitzTriples, after: RitzTriples) -> float:
        """Energy of the wanted modes gained between the two, relative to what the first left out."""
        old, new = (ritz.values[: self.n_modes].square().sum().item() for ritz in (before, after))
        return (new - old) / max(self.H.norm**2 - old, SMALLEST_TAIL)


def _outside(basis: Tensor, vectors: Tensor) -> Tensor:
    """The part of `vectors` that is orthogonal to the columns of `basis`."""
    Q = torch.linalg.qr(basis)[0]
    return vectors - Q @ (Q.mH @ vectors)
