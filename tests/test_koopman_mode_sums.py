"""Koopman modes re-sum to forecasts at every lag, also where eigenvalues are 0."""

import numpy as np
import pytest
import torch
from exact_expectations import exact_chain

from koopman_lora.accumulation import estimate_moments
from koopman_lora.eigenanalysis import eigen_analysis, koopman_modes
from koopman_lora.prediction import forecast

STEPS = (1, 2, 3, 7)


def assert_sums_are_forecasts(moments, features, method):
    modes, wanted = koopman_modes(moments, method), forecast(moments, features, list(STEPS), method=method)
    eigenfunctions = features @ modes.right_eigenfunction_coefficients.values
    for t in STEPS:
        weights = modes.eigenvalues.values[:, None] ** t * modes.koopman_modes.values
        if t == 1:
            weights = weights + modes.residual_modes.values
        np.testing.assert_allclose(eigenfunctions @ weights, wanted.sel(step=t), atol=1e-10)
    return modes


def even_images(A, B):
    """x' is +-sqrt(1 + x / 2): its square remembers x, its sign does not. Features 1, x before and 1, x^2 after."""
    x = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)[:, None]
    signs = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)[:, None]
    f = lambda s: torch.cat([torch.ones_like(s), s], 1) @ torch.from_numpy(A)  # noqa: E731
    g = lambda s: torch.cat([torch.ones_like(s), s**2], 1) @ torch.from_numpy(B)  # noqa: E731
    moments = estimate_moments(
        f, g, (x, signs * torch.sqrt(1 + x / 2)), observables=lambda s: torch.cat([s, s**2], 1), n_blocks=1
    )
    return moments, f(x).numpy(), x.numpy()


@pytest.mark.parametrize("seed", range(5))
def test_an_eigenvalue_of_0_carries_observables_over_one_lag(seed):
    rng = np.random.default_rng(seed)
    A, B = (np.eye(2), np.eye(2)) if seed == 0 else rng.normal(size=(2, 2, 2)) + 3 * np.eye(2)
    moments, features, x = even_images(A, B)
    modes = assert_sums_are_forecasts(moments, features, "operator")
    np.testing.assert_allclose(modes.eigenvalues, [1, 0], atol=1e-12)
    eigenfunctions = features @ modes.right_eigenfunction_coefficients.values
    # E[x'^2 | x] - 1 = x / 2 at one lag, nothing of it later
    np.testing.assert_allclose((eigenfunctions @ modes.residual_modes.values)[:, 1], x[:, 0] / 2, atol=1e-10)
    np.testing.assert_allclose(modes.koopman_modes[1], 0, atol=1e-12)


def test_an_eigenvalue_of_0_has_no_left_eigenfunction_and_an_infinite_condition():
    moments, *_ = even_images(np.eye(2), np.eye(2))
    pairs = eigen_analysis(moments)
    assert pairs.left_eigenfunction_coefficients[:, 1].isnull().all()
    assert np.isinf(pairs.eigenvalue_condition[1])
    assert np.isfinite(pairs.eigenvalue_condition[0])


@pytest.mark.parametrize("method", ["operator", "edmd"])
@pytest.mark.parametrize("P", [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]])
def test_singular_transition_matrices(P, method):
    _, moments = exact_chain(np.array(P))
    modes = assert_sums_are_forecasts(moments, np.eye(len(P)), method)
    np.testing.assert_allclose(modes.residual_modes, 0, atol=1e-12)


@pytest.mark.parametrize("method", ["operator", "edmd"])
def test_no_residual_where_no_eigenvalue_is_0(noisy, method):
    moments, maps, data = noisy
    modes = assert_sums_are_forecasts(moments, maps[0](data[:50]).numpy(), method)
    assert not modes.residual_modes.any()
