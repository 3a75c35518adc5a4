"""Coordinates, both loops, and how they end."""

import numpy as np
import pytest
import torch
from known_matrices import decaying, normal
from sklearn.exceptions import ConvergenceWarning

from koopman_lora.svd.factors import TableFactor
from koopman_lora.svd.inputs import as_products
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.objective import FactorObjective
from koopman_lora.svd.orthogonality import ORTHOGONALITIES


@pytest.mark.parametrize("orthogonality", ORTHOGONALITIES)
def test_new_coordinates_keep_the_functions_and_balance_the_gradient(orthogonality):
    H = as_products(decaying("0.5", 20, 15)).normalized()
    torch.manual_seed(0)
    objective = FactorObjective(H, TableFactor(20, 5, False), TableFactor(15, 5, False), 3, orthogonality, 1.0, 1e-3)
    ritz = objective.choose_coordinates()
    U, V = objective.factors()
    size = ritz.values.sqrt() if orthogonality is None else 1.0
    torch.testing.assert_close(U, ritz.U * size)
    torch.testing.assert_close(V, ritz.V * size)
    objective.evaluate()
    residual = torch.linalg.vector_norm(ritz.HV - ritz.U * ritz.values, dim=0)
    gradient = objective.left.table.grad
    outer = gradient - ritz.U @ (ritz.U.mH @ gradient)
    torch.testing.assert_close(torch.linalg.vector_norm(outer, dim=0), objective.m.sqrt() * residual)


def test_too_few_steps_warn():
    with pytest.warns(ConvergenceWarning, match="max_steps=2"):
        svd = NeuralSVD(n_modes=3, max_steps=2).fit(normal(np.random.default_rng(0), 60, 50))
    assert svd.stop_reason_ == "max_steps"
