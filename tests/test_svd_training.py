"""Coordinates, both loops, and how they end."""

import numpy as np
import pytest
import scipy.sparse
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


@pytest.mark.parametrize("orthogonality", ORTHOGONALITIES)
def test_sampled_training(orthogonality):
    H = decaying("rank 5", 60, 50)
    svd = NeuralSVD(n_modes=2, oversampling=4, sample=(30, 25), orthogonality=orthogonality, max_steps=800).fit(H)
    assert svd.n_steps_ == 800
    np.testing.assert_allclose(svd.singular_values_, [1.0, 0.9], rtol=0.02)
    sparse = NeuralSVD(n_modes=1, sample=(30, 25), max_steps=5).fit(scipy.sparse.csr_matrix(H))
    assert sparse.n_steps_ == 5


def test_too_few_steps_warn():
    with pytest.warns(ConvergenceWarning, match="max_steps=2"):
        svd = NeuralSVD(n_modes=3, max_steps=2).fit(normal(np.random.default_rng(0), 60, 50))
    assert svd.stop_reason_ == "max_steps"
