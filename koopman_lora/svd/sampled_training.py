"""Training factors of a matrix on sampled rows and columns: by least squares, or by Adam where features limit them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from koopman_lora.svd.factor_training import TrainedFactors, trained_factors
from koopman_lora.svd.objective import FactorObjective
from koopman_lora.svd.terms import sampled_loss_terms
from koopman_lora.svd.triples import balanced, power_step

# Least-squares steps between two choices of coordinates.
BALANCE_STEPS = 10
# Added to Gram matrices, relative to their trace, so that columns that the matrix has no use for can be solved for.
RIDGE = 1e-10


def train_on_samples(
    objective: FactorObjective, sample: tuple[int, int], n_steps: int, learning_rate: float, seed: int
) -> TrainedFactors:
    """Train on independently drawn rows and columns, then see the whole matrix in a few products.

    Free factors are solved for by least squares, and a power step follows Rayleigh-Ritz. Networks over features are
    trained by Adam, and Rayleigh-Ritz in their last hidden layer ends it.

    Parameters
    ----------
    sample : number of rows and of columns in a step
    learning_rate : of Adam, falling to zero along a cosine

    References
    ----------
    docs/mathematics.md, section 8.

    Examples
    --------
    >>> from koopman_lora.svd.factors import TableFactor
    >>> from koopman_lora.svd.inputs import as_products
    >>> H = as_products(torch.diag(torch.tensor([4.0, 3.0]))).normalized()
    >>> left, right = TableFactor(2, 1, False), TableFactor(2, 1, False)
    >>> objective = FactorObjective(H, left, right, 1, "qr", lam=1.0, tolerance=1e-4)
    >>> len(train_on_samples(objective, (1, 1), n_steps=5, learning_rate=0.1, seed=0).losses)
    5
    """
    generator = torch.Generator().manual_seed(seed)
    if objective.is_limited:
        _adam(objective, sample, n_steps, learning_rate, generator)
        return trained_factors(objective, objective.choose_coordinates(), "all steps taken")
    _least_squares(objective, sample, n_steps, generator)
    return trained_factors(objective, power_step(objective.H, objective.ritz()), "all steps taken")


def _draw(shape: tuple[int, int], sample: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of rows and of columns, independent of each other, none twice."""
    rows, columns = (torch.randperm(n, generator=generator)[:size] for n, size in zip(shape, sample, strict=True))
    return rows, columns


@torch.no_grad()
def _least_squares(
    objective: FactorObjective, sample: tuple[int, int], n_steps: int, generator: torch.Generator
) -> None:
    """Move the sampled rows of both factors towards the least-squares solution on the sampled block.

    A gradient step moves every column by the noise of the largest: small modes drown. This one is the same in any basis
    of the columns, and its noise vanishes with what the factors leave out. Steps that shrink along a cosine
    average over the samples.
    """
    H = objective.H
    G, F = objective.left().clone(), objective.right().clone()
    for step in range(n_steps):
        if step % BALANCE_STEPS == 0:
            U, values, V = balanced(G, F)
            G, F = U * values.sqrt(), V * values.sqrt()
        size = 0.5 * (1 + math.cos(math.pi * step / n_steps))
        rows, columns = _draw(H.shape, sample, generator)
        block = H.block(rows.numpy(), columns.numpy())
        G_rows, F_columns = G[rows], F[columns]
        _record(objective, G_rows, block, F_columns)
        residual = block - G_rows @ F_columns.mH
        G[rows] += size * _solved(residual, F_columns, values, H.shape[1])
        F[columns] += size * _solved(residual.mH, G_rows, values, H.shape[0])
    U, values, V = balanced(G, F)
    root = 1.0 if objective.has_svals else values.sqrt()
    objective.left.assign(U * root)
    objective.right.assign(V * root)


def _solved(residual: Tensor, X: Tensor, values: Tensor, n: int) -> Tensor:
    """Steps (a, k) of rows whose residual (a, b) the sampled rows X (b, k) of the other factor explain.

    The Gram matrix of all n rows, diag(values), stands beside that of the sample: alone that would explain a residual
    by anything where b is not much larger than k. Their sum halves the step.
    """
    scale = n / len(X)
    gram = scale * (X.mH @ X) + torch.diag(values + RIDGE * values.sum())
    return scale * torch.linalg.solve(gram, (residual @ X).mH).mH


def _record(objective: FactorObjective, G: Tensor, block: Tensor, F: Tensor) -> None:
    """Loss of the sample, and the relative error of the leading modes from entries not yet trained on."""
    n, (M, N) = objective.n_modes, objective.H.shape
    terms = sampled_loss_terms(G, block, F, M, N)
    objective.losses.append(terms.weighted(objective.m).loss().item())
    left_out = torch.linalg.vector_norm(block - G[:, :n] @ F[:, :n].mH).item()
    objective.errors.append(math.sqrt(M * N / block.numel()) * left_out / objective.H.norm)


def _adam(
    objective: FactorObjective,
    sample: tuple[int, int],
    n_steps: int,
    learning_rate: float,
    generator: torch.Generator,
) -> None:
    H = objective.H
    svals = nn.Parameter(torch.full_like(objective.m, H.norm / math.sqrt(len(objective.m))))
    optimizer = torch.optim.Adam(_parameter_groups(objective, svals, learning_rate))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    weights = svals if objective.has_svals else torch.ones_like(svals)
    for _ in range(n_steps):
        rows, columns = _draw(H.shape, sample, generator)
        U, V = objective.factors()
        terms = sampled_loss_terms(U[rows], H.block(rows.numpy(), columns.numpy()), V[columns], *H.shape)
        loss = objective.loss(terms, weights, U, V)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        objective.record(terms, weights)


def _parameter_groups(objective: FactorObjective, svals: nn.Parameter, learning_rate: float) -> list[dict]:
    left, right = objective.left.parameter_groups(learning_rate), objective.right.parameter_groups(learning_rate)
    own = [{"params": [svals], "lr": 0.1 * learning_rate}] if objective.has_svals else []
    return [*left, *right, *own]
