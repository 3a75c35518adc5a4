"""Bjorck's iteration finds the nearest orthonormal matrix, and can be differentiated."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_matrices import normal

from koopman_lora.svd.orthogonality import bjorck, orthogonality_error


@given(st.integers(1, 5), st.integers(0, 10), st.booleans(), st.floats(-6, 3), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_bjorck_is_the_nearest_orthonormal_matrix(k, extra, is_complex, exponent, seed):
    rng = np.random.default_rng(seed)
    P, W = (np.linalg.qr(normal(rng, n, k, is_complex=is_complex))[0] for n in (k + extra, k))
    X = torch.as_tensor((P * 10.0 ** np.linspace(0, exponent, k)) @ W.conj().T)
    Q = bjorck(X).numpy()
    assert orthogonality_error(Q) < 1e-11
    np.testing.assert_allclose(Q, P @ W.conj().T, atol=1e-7)


def test_bjorck_gradient():
    X = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bjorck, X)
