"""Training factors of a matrix on all of its rows and columns, by L-BFGS; what any training leaves behind."""

from __future__ import annotations

import contextlib
import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.svd.factors import Factor
from koopman_lora.svd.objective import FactorObjective
from koopman_lora.svd.terms import loss_terms
from koopman_lora.svd.triples import RitzTriples, svals_from_diagonal, svals_from_norms

# Features limit what can be represented: training on them stops where a round of steps gains less than this share of
# the energy that is still left out.
SMALLEST_GAIN = 1e-3
# Steps between two choices of coordinates; L-BFGS starts its memory anew there.
ROUND_STEPS = 30


class TrainedFactors(NamedTuple):
    """What training left behind, before and after Rayleigh-Ritz; of the normalised matrix.

    svals_diagonal, svals_norms : the two extractions from the factors as trained, (k,)
    ritz : after Rayleigh-Ritz
    losses, errors : per step, see `FactorObjective`
    stop_reason : 'converged', 'max_steps', 'no further gain' or, on samples, 'all steps taken'
    n_modes : the leading modes that `errors` count
    """

    svals_diagonal: Tensor
    svals_norms: Tensor
    ritz: RitzTriples
    losses: list[float]
    errors: list[float]
    stop_reason: str
    n_modes: int


def train_on_all(objective: FactorObjective, max_steps: int) -> TrainedFactors:
    """L-BFGS in rounds, new coordinates before each, until the residuals have converged.

    Examples
    --------
    >>> from koopman_lora.svd.factors import TableFactor
    >>> from koopman_lora.svd.inputs import as_products
    >>> H = as_products(torch.diag(torch.tensor([4.0, 3.0]))).normalized()
    >>> left, right = TableFactor(2, 1, False), TableFactor(2, 1, False)
    >>> trained = train_on_all(FactorObjective(H, left, right, 1, "qr", lam=1.0, tolerance=1e-4), max_steps=100)
    >>> trained.stop_reason, trained.ritz.values.round(decimals=6)
    ('converged', tensor([0.8000], dtype=torch.float64))
    """
    ritz = objective.choose_coordinates()
    caution = 1.0
    while not objective.is_converged(ritz.values, ritz.residuals):
        if len(objective.losses) >= max_steps:
            return trained_factors(objective, ritz, "max_steps")
        start = copy.deepcopy(objective.state_dict()) if objective.is_limited else None
        looked_converged = _run_round(objective, min(ROUND_STEPS, max_steps - len(objective.losses)), caution)
        before, ritz = ritz, objective.choose_coordinates()
        gain = objective.relative_gain(before, ritz)
        if objective.is_limited and gain < SMALLEST_GAIN:
            if start is not None and gain < 0:  # the outputs gained, the hidden layer as a whole lost
                objective.load_state_dict(start)
            return trained_factors(objective, ritz, "no further gain")
        caution *= 2 if looked_converged else 1  # a gradient that looked converged, and was not
    return trained_factors(objective, ritz, "converged")


class _Finished(Exception):
    """Raised inside the closure of L-BFGS: converged, or out of steps."""


def _run_round(objective: FactorObjective, n_steps: int, caution: float) -> bool:
    """At most `n_steps` evaluations by L-BFGS; whether it stopped because the gradient looked converged."""
    # its own stopping rules are absolute; ours are relative to sigma
    optimizer = torch.optim.LBFGS(
        objective.parameters(),
        max_iter=n_steps,
        max_eval=n_steps,
        history_size=20,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    last = len(objective.losses) + n_steps
    converged = False

    def closure() -> Tensor:
        nonlocal converged
        if len(objective.losses) >= last:
            raise _Finished
        optimizer.zero_grad()
        loss, values, residuals = objective.evaluate()
        converged = objective.is_converged(values, caution * residuals)
        if converged:
            raise _Finished  # at the parameters just tried
        return loss

    with contextlib.suppress(_Finished):
        optimizer.step(closure)
    return converged


@torch.no_grad()
def trained_factors(objective: FactorObjective, ritz: RitzTriples, stop_reason: str) -> TrainedFactors:
    """What training left behind, with the triples that Rayleigh-Ritz made of it.

    Examples
    --------
    >>> from koopman_lora.svd.factors import TableFactor
    >>> from koopman_lora.svd.inputs import as_products
    >>> H = as_products(torch.eye(2)).normalized()
    >>> objective = FactorObjective(H, TableFactor(2, 2, False), TableFactor(2, 2, False), 2, "qr", 1.0, 1e-4)
    >>> trained_factors(objective, objective.ritz(), "max_steps").ritz.values.round(decimals=4)
    tensor([0.7071, 0.7071], dtype=torch.float64)
    """
    U, V = objective.factors()
    HV = objective.H(V)
    svals = objective.best_svals(loss_terms(U, HV, V))
    unit_U, norms_V = U / torch.linalg.vector_norm(U, dim=0), torch.linalg.vector_norm(V, dim=0)
    return TrainedFactors(
        svals_from_diagonal(unit_U, HV / norms_V),
        svals_from_norms(U * svals, V),
        ritz,
        objective.losses,
        objective.errors,
        stop_reason,
        objective.n_modes,
    )


def map_onto(vectors: np.ndarray, factor: Factor) -> Tensor:
    """Combinations of a factor's outputs (n, k) that come nearest to these vectors (n, m): (k, m).

    Examples
    --------
    >>> from koopman_lora.svd.factors import TableFactor
    >>> map_onto(np.eye(3, 2), TableFactor(3, 2, is_complex=False)).shape
    torch.Size([2, 2])
    """
    return torch.linalg.lstsq(factor().detach(), torch.as_tensor(np.ascontiguousarray(vectors))).solution
