"""Training two factors of a given matrix with the nested low-rank loss: parametrisations, loss, both loops.

`G = g_net(rows)` is (M, k), `F = f_net(columns)` is (N, k), H ~ G F^H (MATH.md, section 8).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from koopman_lora.encoders import MLP
from koopman_lora.losses import NonFiniteLossError, nesting_weights
from koopman_lora.svd.products import (
    MatrixProducts,
    RitzTriples,
    orthogonalize,
    rayleigh_ritz,
    svals_from_diagonal,
    svals_from_norms,
)

PARAMETRIZATIONS = ("embedding", "table", "features")
# Share of the MLP in the output of an embedding: at 1 training is worse conditioned and takes 2 to 5 times the steps.
MLP_SHARE = 0.1
# Directions of a last hidden layer below this, relative to the largest, carry no information.
HIDDEN_TOLERANCE = 1e-8
# Features limit what can be represented: training on them stops where a round of steps gains less than this share of
# the energy that is still left out.
SMALLEST_GAIN = 1e-3
# Steps between two choices of coordinates; L-BFGS starts its memory anew there.
ROUND_STEPS = 30
# Singular values below this, relative to the largest, are not resolved by training: the scale of their columns stops
# there, and their residuals are judged against `tolerance` times it.
SMALLEST_SCALE, SMALLEST_RESOLVED = 1e-8, 1e-6
# Residual energy allowed, relative to what a rank-n approximation has to leave out: half of it is (to first order) the
# relative excess of the reconstruction error over the Eckart-Young optimum.
EXCESS_TOLERANCE = 5e-5
# Below this share of ||H||_F^2 what is left out counts as round-off.
SMALLEST_TAIL = 1e-10


# ---------------------------------------------------------------------------------------------- parametrisations


class Factor(nn.Module):
    """A map from every row (or column) of a matrix to k numbers, real or complex; `forward()` gives all, (n, k).

    Complex numbers are held as k real parts followed by k imaginary ones.
    """

    is_complex: bool

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers, (n, k) or (n, 2 k)."""
        raise NotImplementedError

    def space(self) -> Tensor:
        """Columns that span what the outputs can become by the last layer alone, (n, at least k)."""
        return self()

    def assign(self, outputs: Tensor) -> None:
        """Change the parameters so that the outputs become these (n, k), combinations of `space()`."""
        raise NotImplementedError

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Groups for Adam. Numbers per index are of order `1 / sqrt(n)`, and so is their learning rate."""
        groups = []
        for name, parameter in self.named_parameters():
            is_per_index = name in ("table", "embedding")
            groups.append({"params": [parameter], "lr": learning_rate / (len(parameter) ** 0.5 if is_per_index else 1)})
        return groups

    def forward(self) -> Tensor:
        """Outputs (n, k)."""
        return as_numbers(self.real_outputs(), self.is_complex)


def as_numbers(values: Tensor, is_complex: bool) -> Tensor:
    """(n, 2 k) real and imaginary parts -> (n, k) complex numbers; real values stay.

    Examples
    --------
    >>> as_numbers(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), True)
    tensor([[1.+3.j, 2.+4.j]])
    """
    return torch.complex(*values.tensor_split(2, dim=1)) if is_complex else values


def as_real(values: Tensor) -> Tensor:
    """The inverse of `as_numbers`.

    Examples
    --------
    >>> as_real(torch.tensor([[1 + 3j, 2 + 4j]]))
    tensor([[1., 2., 3., 4.]])
    """
    return torch.cat([values.real, values.imag], dim=1) if values.is_complex() else values


class TableFactor(Factor):
    """The numbers themselves are the parameters.

    Examples
    --------
    >>> TableFactor(5, 2, is_complex=True)().shape
    torch.Size([5, 2])
    """

    def __init__(self, n: int, k: int, is_complex: bool) -> None:
        super().__init__()
        self.is_complex = is_complex
        self.table = nn.Parameter(torch.randn(n, k * (1 + is_complex), dtype=torch.float64) / math.sqrt(n))

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers."""
        return self.table

    @torch.no_grad()
    def assign(self, outputs: Tensor) -> None:
        """Overwrite the numbers."""
        self.table.copy_(as_real(outputs))


class EmbeddingFactor(Factor):
    """A learned vector per index, and a residual MLP on it: `e + share MLP(sqrt(n) e) / sqrt(n)`.

    A one-hot vector times a weight matrix *is* an embedding, so the identity matrix is never built. The residual
    connection keeps the problem nearly as well conditioned as the plain table's; sqrt(n) brings entries of unit
    columns to the order of 1 inside the MLP.

    Examples
    --------
    >>> EmbeddingFactor(5, 2, is_complex=False, hidden_dims=(8,), activation="GELU")().shape
    torch.Size([5, 2])
    """

    def __init__(self, n: int, k: int, is_complex: bool, hidden_dims: Sequence[int], activation: str) -> None:
        super().__init__()
        self.is_complex, self.root = is_complex, math.sqrt(n)
        width = k * (1 + is_complex)
        self.embedding = nn.Parameter(torch.randn(n, width, dtype=torch.float64) / self.root)
        self.mlp = MLP(width, width, hidden_dims, activation).double()

    def _residual(self, embedding: Tensor) -> Tensor:
        return MLP_SHARE * self.mlp(self.root * embedding) / self.root

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers."""
        return self.embedding + self._residual(self.embedding)

    @torch.no_grad()
    def assign(self, outputs: Tensor) -> None:
        """Solve `e + residual(e) = outputs` for the vectors e; the MLP stays.

        The fixed-point iteration converges where the MLP contracts; if it does not, its last layer is halved.
        """
        target = as_real(outputs)
        goal = 1e-13 * torch.linalg.vector_norm(target)
        while True:
            e = target
            for _ in range(200):
                step = target - self._residual(e) - e
                e = e + step
                if torch.linalg.vector_norm(step) <= goal:
                    self.embedding.copy_(e)
                    return
            self.mlp.head.weight.mul_(0.5)
            self.mlp.head.bias.mul_(0.5)


class FeatureFactor(Factor):
    """An MLP on the features of every row (or column); `at` evaluates it on features of rows it never saw.

    Parameters
    ----------
    features : tensor (n, d); standardised by their own mean and scale

    Examples
    --------
    >>> factor = FeatureFactor(torch.randn(5, 3), 2, False, (8,), "GELU")
    >>> factor().shape, factor.at(torch.randn(7, 3)).shape
    (torch.Size([5, 2]), torch.Size([7, 2]))
    """

    def __init__(self, features: Tensor, k: int, is_complex: bool, hidden_dims: Sequence[int], activation: str) -> None:
        super().__init__()
        self.is_complex = is_complex
        features = features.double()
        scale = features.std(0, correction=0)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0))
        self.register_buffer("inputs", (features - self.mean) / self.scale)
        self.mlp = MLP(features.shape[1], k * (1 + is_complex), hidden_dims, activation).double()

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers."""
        return self.mlp(self.inputs)

    def at(self, features: Tensor) -> Tensor:
        """Outputs for other features (m, d): (m, k)."""
        return as_numbers(self.mlp((features.double() - self.mean) / self.scale), self.is_complex)

    def _hidden(self) -> Tensor:
        """Last hidden layer and the constant, (n, width + 1)."""
        hidden = self.mlp.trunk(self.inputs)
        return torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)

    @torch.no_grad()
    def space(self) -> Tensor:
        """Orthonormal basis of the last hidden layer: Rayleigh-Ritz in it is better than in the k outputs."""
        vectors, sizes, _ = torch.linalg.svd(self._hidden(), full_matrices=False)
        k = self.mlp.head.out_features // (1 + self.is_complex)
        n_kept = max(int((sizes > HIDDEN_TOLERANCE * sizes[0]).sum()), k)
        return vectors[:, :n_kept].to(torch.complex128 if self.is_complex else torch.float64)

    @torch.no_grad()
    def assign(self, outputs: Tensor) -> None:
        """Least-squares fit of the last layer."""
        solution = torch.linalg.lstsq(self._hidden(), as_real(outputs)).solution
        self.mlp.head.weight.copy_(solution[:-1].T)
        self.mlp.head.bias.copy_(solution[-1])


# ---------------------------------------------------------------------------------------------- the loss


def truncation_weights(k: int) -> Tensor:
    """`m_i = sum_{l >= i} w_l` of joint nesting with uniform weights: 1, (k-1)/k, ..., 1/k.

    Examples
    --------
    >>> truncation_weights(4)
    tensor([1.0000, 0.7500, 0.5000, 0.2500], dtype=torch.float64)
    """
    return nesting_weights(k).double().flip(0).cumsum(0).flip(0)


class LossTerms(NamedTuple):
    """`a_i = Re (U^H H V)_ii` and `Q_ij = Re (U^H U)_ij (V^H V)_ji`: with columns scaled by s, loss = s Q s - 2 a s."""

    linear: Tensor
    quadratic: Tensor

    def value(self, svals: Tensor, m: Tensor) -> Tensor:
        """`-2 sum_i m_i s_i a_i + sum_ij min(m_i, m_j) s_i s_j Q_ij`, m the truncation weights."""
        return svals @ (torch.minimum(m[:, None], m) * self.quadratic) @ svals - 2 * (m * svals) @ self.linear

    def best_svals(self, m: Tensor) -> Tensor:
        """The s of the smallest loss; for orthonormal columns it is a."""
        return torch.linalg.lstsq(torch.minimum(m[:, None], m) * self.quadratic, m * self.linear).solution


def loss_terms(U: Tensor, HV: Tensor, V: Tensor) -> LossTerms:
    """The two terms of the low-rank loss of `H ~ U diag(s) V^H`, from U, V and the product H V.

    With s = 1 and m = 1 the value is `-2 Re tr(U^H H V) + tr(U^H U V^H V) = ||H - U V^H||_F^2 - ||H||_F^2`.

    References
    ----------
    MATH.md, sections 3 and 8.

    Examples
    --------
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> H, G, F = (torch.tensor(rows).double() for rows in ([[2.0], [3.0]], [[1.0], [0.0]], [[2.0]]))
    >>> loss_terms(G, H @ F, F).value(one, one)     # ||(0, 3)||^2 - ||(2, 3)||^2
    tensor(-4., dtype=torch.float64)
    """
    quadratic = ((U.mH @ U) * (V.mH @ V).mT).real
    return LossTerms(svals_from_diagonal(U, HV).real, quadratic)


def sampled_loss_terms(U: Tensor, H_block: Tensor, V: Tensor, n_rows: int, n_columns: int) -> LossTerms:
    """Unbiased estimate of `loss_terms` from rows and columns that were drawn independently.

    The linear term is scaled by `M N / (B_r B_c)`, the Gram matrices by `M / B_r` and `N / B_c`; their product is
    unbiased because rows and columns are independent.

    Parameters
    ----------
    U, V : tensors (B_r, k), (B_c, k), the sampled rows of both factors
    H_block : tensor (B_r, B_c), the entries of H for *all* pairs of a sampled row and a sampled column
    n_rows, n_columns : M and N

    Examples
    --------
    >>> U, V = torch.ones(2, 1).double(), torch.ones(3, 1).double()
    >>> sampled_loss_terms(U, torch.ones(2, 3).double(), V, n_rows=4, n_columns=6)
    LossTerms(linear=tensor([24.], dtype=torch.float64), quadratic=tensor([[24.]], dtype=torch.float64))
    """
    scale = n_rows * n_columns / H_block.numel()
    terms = loss_terms(U, H_block @ V, V)
    return LossTerms(scale * terms.linear, scale * terms.quadratic)


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


# ---------------------------------------------------------------------------------------------- the loops


class TrainedFactors(NamedTuple):
    """What training left behind, before and after Rayleigh-Ritz; of the normalised matrix.

    U, V : factors (M, k), (N, k) as trained; `svals_diagonal` and `svals_norms` the two extractions from them
    ritz : after Rayleigh-Ritz
    losses, errors : per step: the loss, and `||H - H_n||_F / ||H||_F` of the leading n modes
    """

    U: Tensor
    V: Tensor
    svals_diagonal: Tensor
    svals_norms: Tensor
    ritz: RitzTriples
    losses: list[float]
    errors: list[float]
    stop_reason: str


def _outside(basis: Tensor, vectors: Tensor) -> Tensor:
    """The part of `vectors` that is orthogonal to the columns of `basis`."""
    Q = torch.linalg.qr(basis)[0]
    return vectors - Q @ (Q.mH @ vectors)


class _Finished(Exception):
    """Raised inside the closure of L-BFGS: converged, or out of steps."""


class FactorTrainer:
    """Trains two factors of a normalised matrix; holds what both loops share.

    Parameters
    ----------
    H : the normalised matrix (`MatrixProducts.normalized`)
    left, right : factors of rows and columns with equal k
    n_modes : the leading modes that have to converge; the rest helps them
    orthogonality, lam : see `NeuralSVD`
    tolerance : largest residual of a pair relative to its singular value
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
        self.H, self.left, self.right, self.n_modes = H, left, right, n_modes
        self.orthogonality, self.lam, self.tolerance = orthogonality, lam, tolerance
        self.m = truncation_weights(left().shape[1])
        self.scale = torch.ones_like(self.m)
        self.losses: list[float] = []
        self.errors: list[float] = []

    def factors(self) -> tuple[Tensor, Tensor]:
        """U (M, k) and V (N, k) as the loss sees them."""
        return self._orthogonalized(self.left()), self._orthogonalized(self.right())

    def _orthogonalized(self, raw: Tensor) -> Tensor:
        # Bjorck sees the columns at their scale: what a small one picks up of a large one then hardly turns that one
        return orthogonalize(raw if self.orthogonality == "bjorck" else raw / self.scale, self.orthogonality)

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

    @torch.no_grad()
    def choose_coordinates(self) -> RitzTriples:
        """Rotate both factors to the current singular vectors and scale their columns by the loss's curvature.

        In `raw = U * scale` the Hessian of every mode is near the identity, whatever its singular value: without it
        the number of steps grows with (sigma_1 / sigma_k)^2. Nothing changes but the parameters' coordinates.
        """
        ritz = rayleigh_ritz(self.H, self.left.space(), self.right.space(), len(self.m))
        sigma = ritz.values.clamp_min(SMALLEST_SCALE * ritz.values[0]) if ritz.values[0] > 0 else self.m
        if self.orthogonality is None:  # G = U sqrt(sigma), F = V sqrt(sigma): each sees the other's square
            self.scale, size = (self.m * sigma).sqrt(), sigma.sqrt()
        else:
            self.scale, size = self.m.sqrt() * sigma, torch.ones_like(sigma)
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
        svals = self._svals(terms)
        # half of the loss: its Hessian is near 1 instead of 2, and the very first step of L-BFGS, of length 1, is right
        loss = 0.5 * self._total(terms, svals, U, V)
        loss.backward()
        self._record(terms, svals)
        values = svals * terms.quadratic.detach().diagonal().sqrt()
        # In these coordinates the gradient of column i is sqrt(m_i) times its residual, plus rotations within the
        # space of all columns; the latter are projected out, Rayleigh-Ritz does them anyway.
        gradients = torch.cat([_outside(outputs.detach(), outputs.grad) for outputs in raw])
        return loss, values, torch.linalg.vector_norm(gradients, dim=0) / self.m.sqrt()

    def _svals(self, terms: LossTerms) -> Tensor:
        if self.orthogonality is None:
            return torch.ones_like(self.m)
        # at their optimum the gradient through them vanishes
        return LossTerms(*(term.detach() for term in terms)).best_svals(self.m)

    def _total(self, terms: LossTerms, svals: Tensor, U: Tensor, V: Tensor) -> Tensor:
        loss = terms.value(svals, self.m)
        if self.orthogonality == "penalty":
            loss = loss + self.lam * scaled_orthogonality_penalty(U, V, self.scale)
        return loss

    def _record(self, terms: LossTerms, svals: Tensor) -> None:
        n = self.n_modes
        terms, svals = LossTerms(*(term.detach() for term in terms)), svals.detach()
        leading = LossTerms(terms.linear[:n], terms.quadratic[:n, :n])
        gain = leading.value(svals[:n], torch.ones_like(self.m[:n])).item()
        self.losses.append(terms.value(svals, self.m).item())
        self.errors.append(math.sqrt(max(self.H.norm**2 + gain, 0.0)))
        if not math.isfinite(self.losses[-1]):
            raise NonFiniteLossError(f"the loss became {self.losses[-1]} in step {len(self.losses)}.")

    def run(self, max_steps: int) -> TrainedFactors:
        """Full-batch training: L-BFGS in rounds, new coordinates before each, until the residuals have converged."""
        ritz, stop_reason = self.choose_coordinates(), "converged"
        caution = 1.0
        has_limits = isinstance(self.left, FeatureFactor) or isinstance(self.right, FeatureFactor)
        while not self.is_converged(ritz.values, ritz.residuals):
            if len(self.losses) >= max_steps:
                stop_reason = "max_steps"
                break
            start = copy.deepcopy((self.left.state_dict(), self.right.state_dict(), self.scale)) if has_limits else None
            stopped_early = self._round(min(ROUND_STEPS, max_steps - len(self.losses)), caution)
            before, ritz = ritz, self.choose_coordinates()
            gain = self._gain(before, ritz)
            if has_limits and gain < SMALLEST_GAIN:
                stop_reason = "no further gain"
                if gain < 0:  # the outputs gained, the hidden layer as a whole lost
                    self._restore(start)
                break
            caution *= 2 if stopped_early else 1  # a gradient that looked converged, and was not
        return self._result(stop_reason)

    def _restore(self, start: tuple[dict, dict, Tensor]) -> None:
        left, right, self.scale = start
        self.left.load_state_dict(left)
        self.right.load_state_dict(right)

    def _gain(self, before: RitzTriples, after: RitzTriples) -> float:
        """Energy of the wanted modes that a round gained, relative to what it found left out."""
        old, new = (ritz.values[: self.n_modes].square().sum().item() for ritz in (before, after))
        return (new - old) / max(self.H.norm**2 - old, SMALLEST_TAIL)

    def _round(self, n_steps: int, caution: float) -> bool:
        """At most `n_steps` evaluations by L-BFGS; whether it stopped because the gradient looked converged."""
        parameters = [*self.left.parameters(), *self.right.parameters()]
        # its own stopping rules are absolute; ours are relative to sigma
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=n_steps,
            max_eval=n_steps,
            history_size=20,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        last = len(self.losses) + n_steps
        converged = False

        def closure() -> Tensor:
            nonlocal converged
            if len(self.losses) >= last:
                raise _Finished
            optimizer.zero_grad()
            loss, values, residuals = self.evaluate()
            converged = self.is_converged(values, caution * residuals)
            if converged:
                raise _Finished  # at the parameters just tried
            return loss

        with contextlib.suppress(_Finished):
            optimizer.step(closure)
        return converged

    def run_sampled(self, sample: tuple[int, int], n_steps: int, learning_rate: float, seed: int) -> TrainedFactors:
        """Adam on independently drawn rows and columns, learning rate falling to zero along a cosine."""
        M, N = self.H.shape
        generator = torch.Generator().manual_seed(seed)
        svals = nn.Parameter(torch.full_like(self.m, self.H.norm / math.sqrt(len(self.m))))
        groups = [*self.left.parameter_groups(learning_rate), *self.right.parameter_groups(learning_rate)]
        if self.orthogonality is not None:  # otherwise the columns carry them
            groups.append({"params": [svals], "lr": 0.1 * learning_rate})
        optimizer = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
        for _ in range(n_steps):
            rows, columns = (
                torch.randperm(n, generator=generator)[:size] for n, size in zip((M, N), sample, strict=True)
            )
            U, V = self.factors()
            block = self.H.block(rows.numpy(), columns.numpy())
            terms = sampled_loss_terms(U[rows], block, V[columns], M, N)
            weights = svals if self.orthogonality is not None else torch.ones_like(svals)
            loss = self._total(terms, weights, U, V)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            self._record(terms, weights)
        return self._result("max_steps")

    @torch.no_grad()
    def _result(self, stop_reason: str) -> TrainedFactors:
        U, V = self.factors()
        HV = self.H(V)
        svals = self._svals(loss_terms(U, HV, V))
        norms = svals_from_norms(U * svals, V)
        diagonal = svals_from_diagonal(U / torch.linalg.vector_norm(U, dim=0), HV / torch.linalg.vector_norm(V, dim=0))
        ritz = rayleigh_ritz(self.H, self.left.space(), self.right.space(), len(self.m))
        return TrainedFactors(U, V, diagonal, norms, ritz, self.losses, self.errors, stop_reason)
