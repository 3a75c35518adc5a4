"""Products with a matrix, of any origin, are differentiable and agree; the norm of an operator."""

import numpy as np
import pytest
import scipy.sparse
import torch
from known_matrices import decaying, normal
from scipy.sparse.linalg import aslinearoperator

from koopman_lora.svd import norms
from koopman_lora.svd.inputs import as_products
from koopman_lora.svd.neural_svd import NeuralSVD


def test_products_are_differentiable():
    H = as_products(normal(np.random.default_rng(0), 4, 3, is_complex=True))
    X = torch.randn(3, 2, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(H, X)
    assert torch.autograd.gradcheck(H.adjoint, torch.randn(4, 2, dtype=torch.complex128, requires_grad=True))


@pytest.mark.parametrize(
    "wrap",
    [torch.as_tensor, scipy.sparse.csr_matrix, scipy.sparse.coo_array, scipy.sparse.lil_matrix, aslinearoperator],
)
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_inputs_agree(wrap, dtype):
    H = decaying("0.5", 25, 20, dtype)
    dense, other = NeuralSVD(n_modes=3, seed=1).fit(H), NeuralSVD(n_modes=3, seed=1).fit(wrap(H))
    np.testing.assert_allclose(other.singular_values_, dense.singular_values_, rtol=1e-4)
    assert other.errors_["reconstruction"] == pytest.approx(dense.errors_["reconstruction"], rel=1e-3)
    assert np.isnan(other.errors_["eckart_young"]) == (wrap is aslinearoperator)


def test_large_operator_estimates_its_norm(monkeypatch):
    monkeypatch.setattr(norms, "EXACT_NORM_PRODUCTS", 10)
    H = normal(np.random.default_rng(0), 300, 200)
    products = as_products(aslinearoperator(H))
    assert products.norm_error > 0
    assert abs(products.norm - np.linalg.norm(H)) < 4 * products.norm_error
    svd = NeuralSVD(n_modes=3).fit(aslinearoperator(H))
    np.testing.assert_allclose(svd.singular_values_, np.linalg.svd(H, compute_uv=False)[:3], rtol=1e-4)
    best = np.sqrt(1 - np.sum(svd.singular_values_**2) / np.linalg.norm(H) ** 2)
    assert svd.errors_["reconstruction"] == pytest.approx(best, abs=0.05)
    nearly_exact = NeuralSVD(n_modes=1).fit(aslinearoperator(np.outer(np.ones(30), np.ones(20))))
    assert np.isnan(nearly_exact.errors_["reconstruction"])  # an estimated norm does not resolve it


def test_an_empty_sparse_matrix_is_the_zero_matrix():
    assert NeuralSVD(n_modes=1).fit(scipy.sparse.csr_matrix((4, 3))).singular_values_[0] == 0
