import numpy as np
import pytest
import scipy.linalg
import torch
from exact_expectations import P_EXAMPLE, exact_chain

from koopman_lora.accumulation import estimate_moments
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.eigenanalysis import eigen_analysis
from koopman_lora.moments import CROSS, EDMD, MissingMomentError, Moments
from koopman_lora.residuals import eigenpair_residuals
from koopman_lora.systems import FiniteMarkovChain


def powers(x):
    return torch.cat([x**0, x, x**2, x**3], dim=1)


def test_a_deterministic_linear_system_has_no_residual():
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    result = eigenpair_residuals(estimate_moments(powers, powers, (x, 0.7 * x)))
    assert np.allclose(result.edmd_eigenvalues, 0.7 ** np.arange(4), atol=1e-9)
    assert (result.residual < 1e-6).all()
    assert not result.is_spurious.any()
    assert not result.on_held_out_pairs


def test_a_feature_that_is_zero_is_spurious_beside_complex_eigenvalues():
    turn = torch.tensor([[0.8, 0.5], [-0.5, 0.8]], dtype=torch.float64)
    x = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = eigenpair_residuals(estimate_moments(*2 * [lambda s: torch.cat([s, 0 * s[:, :1]], dim=1)], (x, x @ turn)))
    assert np.allclose(np.sort_complex(result.edmd_eigenvalues)[1:], [0.8 - 0.5j, 0.8 + 0.5j])
    assert result.is_spurious.values.tolist() == [False, False, True]


def test_the_squared_residual_of_a_stochastic_system_is_one_minus_the_squared_modulus():
    """E|v(x') - lambda v(x)|^2 = E|v|^2 - |lambda|^2 E|v|^2 at a true eigenfunction under the stationary law."""
    chain = FiniteMarkovChain(np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10)
    pi, P = chain.stationary_distribution, chain.transition_matrix
    joint = {"M_f": np.diag(pi), "M_f1": np.diag(pi), "T_ff": pi[:, None] * P}
    result = eigenpair_residuals(Moments({n: v[None] for n, v in joint.items()}, np.ones(1)))
    wanted = chain.spectrum(lag=1, n_modes=4).eigenvalues
    assert np.allclose(result.edmd_eigenvalues, wanted, atol=1e-9)
    assert np.allclose(result.residual**2, 1 - np.abs(wanted) ** 2, atol=1e-9)
    assert not result.is_spurious.any()
    assert "upper bound" in result.note


def test_residuals_flag_eigenvalues_that_overfitted_features_invent():
    """Independent noise: but for 1 every eigenvalue is 0, and 60 random features invent a disc full of them."""
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(4, 60)), rng.uniform(0, 6, 60)

    def features(x):
        values = x.numpy()
        return np.column_stack([np.ones(len(values)), np.cos(values @ W + b)])

    train, test = (
        estimate_moments(features, features, lagged_pairs(rng.normal(size=(n, 4))), n_blocks=1) for n in (160, 4000)
    )
    found = eigenpair_residuals(train, test)
    modulus, is_spurious = np.abs(found.edmd_eigenvalues.values), found.is_spurious.values
    assert found.on_held_out_pairs
    assert len(modulus) == 61  # flagged, not dropped
    assert not is_spurious[0]
    assert found.edmd_eigenvalues[0] == pytest.approx(1)
    assert (modulus[1:] > 0.3).sum() > 20
    assert is_spurious[1:][modulus[1:] > 0.3].all()
    assert not is_spurious[modulus < 0.05].any()
    blind = eigenpair_residuals(train)
    assert blind.is_spurious.sum() == 0  # the training pairs cannot tell


def test_growth_is_flagged_without_held_out_pairs():
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    result = eigenpair_residuals(estimate_moments(powers, powers, (x, 1.3 * x)))
    np.testing.assert_allclose(result.edmd_eigenvalues, [1, 1.3**3, 1.3**2, 1.3], rtol=1e-9)  # the constant's first
    assert result.is_spurious.values.tolist() == [False, True, True, True]


def test_eigenvectors_that_are_no_function_are_flagged():
    def twice(x):
        return torch.cat([torch.ones_like(x), x, 2 * x], dim=1)

    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    result = eigenpair_residuals(estimate_moments(twice, twice, (x, 0.5 * x)))
    assert np.allclose(result.edmd_eigenvalues, [1, 0.5, 0], atol=1e-12)
    assert result.is_spurious.values.tolist() == [False, False, True]
    assert np.isnan(result.residual[2])


# --- condition numbers -------------------------------------------------------------------------------------------


def test_conditions_are_those_of_the_operator_in_L2_and_of_eigen_analysis():
    chain, moments = exact_chain(P_EXAMPLE)
    found = eigenpair_residuals(moments)
    pi, P = chain.stationary_distribution, chain.transition_matrix
    values, left, right = scipy.linalg.eig(np.sqrt(pi)[:, None] * P / np.sqrt(pi), left=True, right=True)
    wanted = 1 / np.abs(np.sum(left.conj() * right, axis=0))
    for value, condition in zip(found.edmd_eigenvalues.values, found.eigenvalue_condition.values, strict=True):
        assert np.isclose(condition, wanted[np.abs(values - value).argmin()], rtol=1e-9)
    assert np.allclose(found.eigenvalue_condition, eigen_analysis(moments, "edmd").eigenvalue_condition, rtol=1e-9)
    assert found.eigenvalue_condition.max() > 1.1  # the chain is not reversible


def test_a_reversible_chain_has_conditions_of_one():
    _, moments = exact_chain([[0.9, 0.1, 0.0], [0.1, 0.7, 0.2], [0.0, 0.2, 0.8]])
    assert np.allclose(eigenpair_residuals(moments).eigenvalue_condition, 1, atol=1e-9)


def changes():
    yield "rescaled", np.diag([1e3, 1.0, 1.0, 1.0])
    yield "shrunk", np.diag([1.0, 1.0, 1e-3, 1.0])
    yield "shifted", np.eye(4) + 5 * np.outer([0, 1, 0, 0], [1, 0, 1, 1])
    yield "mixed", np.random.default_rng(0).normal(size=(4, 4))


@pytest.mark.parametrize("change", [m for _, m in changes()], ids=[n for n, _ in changes()])
def test_neither_scale_nor_basis_of_features_changes_what_is_said(change):
    _, moments = exact_chain(P_EXAMPLE)
    before, after = (eigenpair_residuals(m) for m in (moments, moments.transformed(change, np.eye(4))))
    assert np.linalg.cond(change) > 5
    assert np.allclose(after.edmd_eigenvalues, before.edmd_eigenvalues, atol=1e-9)
    assert np.allclose(after.eigenvalue_condition, before.eigenvalue_condition, rtol=1e-7)
    assert np.allclose(after.residual, before.residual, rtol=1e-6, atol=1e-6)
    assert np.array_equal(after.is_spurious, before.is_spurious)


# --- labels and needs --------------------------------------------------------------------------------------------


def test_eigenpairs_of_edmd_have_a_dimension_of_their_own_and_the_clock_of_their_moments():
    _, moments = exact_chain(P_EXAMPLE, Clock(3, 0.5, "ps"))
    found = eigenpair_residuals(moments, tolerance=0.2)
    for name in ("edmd_eigenvalues", "residual", "eigenvalue_condition", "autocorrelation_error", "is_spurious"):
        assert found[name].dims == ("edmd_mode",), name
    assert found.edmd_mode.values.tolist() == [1, 2, 3, 4]
    assert (found.lag, found.dt, found.time_unit, found.tolerance) == (3, 0.5, "ps", 0.2)


def test_moments_of_f_alone_are_enough_and_less_is_refused():
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    few, all_ = (estimate_moments(powers, powers, (x, 0.7 * x), names=names) for names in (EDMD, None))
    assert np.allclose(eigenpair_residuals(few).residual, eigenpair_residuals(all_).residual, atol=1e-9)
    with pytest.raises(MissingMomentError, match="moments lack T_ff"):
        eigenpair_residuals(estimate_moments(powers, powers, (x, 0.7 * x), names=CROSS))
