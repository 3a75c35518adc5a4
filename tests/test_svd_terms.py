"""The loss of a matrix is a squared distance, its sample unbiased."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_matrices import normal

from koopman_lora.loss_terms import best_svals
from koopman_lora.losses import nesting_weights, truncation_weights
from koopman_lora.svd.terms import loss_terms, sampled_loss_terms


def test_loss_is_the_squared_distance():
    rng = np.random.default_rng(0)
    H, G, F = (torch.as_tensor(normal(rng, *shape, is_complex=True)) for shape in ((6, 5), (6, 3), (5, 3)))
    one = torch.ones(3, dtype=torch.float64)
    expected = (H - G @ F.mH).abs().square().sum() - H.abs().square().sum()
    torch.testing.assert_close(loss_terms(G, H @ F, F).loss(one), expected)


def test_joint_nesting_is_the_mean_over_truncations():
    rng = np.random.default_rng(1)
    H, G, F = (torch.as_tensor(normal(rng, *shape, is_complex=True)) for shape in ((6, 5), (6, 3), (5, 3)))
    total = sum((H - G[:, :r] @ F[:, :r].mH).abs().square().sum() - H.abs().square().sum() for r in (1, 2, 3)) / 3
    value = loss_terms(G, H @ F, F).weighted(truncation_weights(nesting_weights(3))).loss()
    torch.testing.assert_close(value, total)


def test_best_svals_minimise_the_loss():
    rng = np.random.default_rng(2)
    H, G, F = (torch.as_tensor(normal(rng, *shape)) for shape in ((6, 5), (6, 3), (5, 3)))
    terms, m = loss_terms(G, H @ F, F), truncation_weights(nesting_weights(3))
    svals = best_svals(terms.weighted(m)).requires_grad_()
    terms.weighted(m).loss(svals).backward()
    torch.testing.assert_close(svals.grad, torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), is_complex=st.booleans())
@settings(max_examples=6, deadline=None)
def test_sampled_loss_is_unbiased(seed, is_complex):
    rng = np.random.default_rng(seed)
    M, N, B_r, B_c, n_samples = 9, 7, 3, 4, 3000
    H, U, V = (torch.as_tensor(normal(rng, *shape, is_complex=is_complex)) for shape in ((M, N), (M, 2), (N, 2)))
    m = truncation_weights(nesting_weights(2))
    svals = torch.tensor([1.5, 0.5], dtype=torch.float64)
    values = []
    for _ in range(n_samples):
        rows, columns = rng.permutation(M)[:B_r], rng.permutation(N)[:B_c]
        terms = sampled_loss_terms(U[rows], H[rows][:, columns], V[columns], M, N)
        values.append(terms.weighted(m).loss(svals).item())
    full = loss_terms(U, H @ V, V).weighted(m).loss(svals).item()
    assert abs(np.mean(values) - full) < 5 * np.std(values) / np.sqrt(n_samples)
