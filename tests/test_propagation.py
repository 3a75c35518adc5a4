"""Propagators against exact and independent estimates; the coordinates they work in; what they refuse."""

import numpy as np
import pytest
import torch
from exact_expectations import P_EXAMPLE, exact_chain, identity

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.moments import CROSS, EDMD, MissingMomentError
from koopman_lora.propagation import METHODS, propagator
from koopman_lora.systems import FiniteMarkovChain

both_methods = pytest.mark.parametrize("method", METHODS)


@pytest.mark.slow
def test_powers_agree_with_independently_estimated_moments():
    """E[f(x_0) f(x_n)] predicted from one simulation at lag 1, estimated from another at lag n."""
    chain = FiniteMarkovChain(P_EXAMPLE)
    short = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 40_000, seed=0)))
    step = propagator(short, "edmd")
    for n in (2, 3, 5):
        direct = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 40_000, seed=n), lag=n)).T_ff
        predicted = short.M_f @ step.start @ np.linalg.matrix_power(step.K, n) @ np.linalg.inv(step.start)
        np.testing.assert_allclose(predicted, direct, atol=0.01)  # standard error of a frequency: 0.0025, correlated


@both_methods
def test_expectations_of_a_chain_are_exact_at_every_step(method):
    chain, m = exact_chain(P_EXAMPLE)  # one-hot features and observables: E[h(x_t) | x_0] = P^t
    start, K, readout, _ = propagator(m, method)
    for t in (1, 2, 5):
        found = start @ np.linalg.matrix_power(K, t - 1) @ readout
        np.testing.assert_allclose(found, np.linalg.matrix_power(chain.transition_matrix, t), atol=1e-12)


@both_methods
def test_coordinates_have_unit_second_moment(noisy, method):
    m, maps, data = noisy
    step = propagator(m, method)
    coordinates = maps[0](data[:-1]).numpy() @ step.start
    np.testing.assert_allclose(coordinates.conj().T @ coordinates / len(coordinates), np.eye(5), atol=1e-9)


@both_methods
def test_back_times_a_left_eigenvector_is_an_eigenfunction_of_the_adjoint(method):
    """(K* h)(y) = E[h(x) | x' = y], of a chain by Bayes' rule."""
    chain, m = exact_chain(P_EXAMPLE)
    step = propagator(m, method)
    values, left = np.linalg.eig(step.K.conj().T)
    pi, P = chain.stationary_distribution, chain.transition_matrix
    adjoint = (pi[:, None] * P).T / pi[:, None]
    functions = step.back @ left  # at the states, one-hot as they are
    np.testing.assert_allclose(adjoint @ functions, functions * values, atol=1e-12)


@both_methods
def test_a_stack_of_resampled_moments_gives_a_stack_of_propagators(noisy, method):
    m, _, _ = noisy
    weights = Bootstrap(n_resamples=3).weights(m.n_blocks)
    stack = propagator(m.reweighted(weights), method)
    for i, weight in enumerate(weights):
        one = propagator(m.selected(np.repeat(np.arange(m.n_blocks), weight)), method)
        for t in (0, 2):
            several = stack.start[i] @ np.linalg.matrix_power(stack.K[i], t) @ stack.readout[i]
            single = one.start @ np.linalg.matrix_power(one.K, t) @ one.readout
            np.testing.assert_allclose(several, single, atol=1e-9)


def test_the_rank_is_the_number_of_modes(noisy):
    m, _, _ = noisy
    full, two = propagator(m), propagator(m, n_modes=2)
    assert (full.K.shape, two.K.shape) == ((5, 5), (2, 2))
    np.testing.assert_allclose(two.start, full.start[:, :2], rtol=1e-9)
    np.testing.assert_allclose(two.K, full.K[:2, :2], rtol=1e-9, atol=1e-12)


@both_methods
def test_no_readout_without_observables(method):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert propagator(estimate_moments(identity, identity, (x[:-1], x[1:])), method).readout is None


def test_refusals(noisy):
    m, _, _ = noisy
    with pytest.raises(ValueError, match="method must be one of 'operator', 'edmd'; got 'dmd'"):
        propagator(m, "dmd")
    for n_modes in (0, 6):
        with pytest.raises(ValueError, match=f"n_modes must lie between 1 and the 5 features; got {n_modes}"):
            propagator(m, n_modes=n_modes)
    with pytest.raises(ValueError, match="n_modes=2 is the rank of method 'operator'; method 'edmd' uses all features"):
        propagator(m, "edmd", n_modes=2)
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(MissingMomentError, match="moments lack C_gf"):
        propagator(estimate_moments(identity, identity, (x, x), names=CROSS))
    with pytest.raises(MissingMomentError, match="moments lack T_ff"):
        propagator(estimate_moments(identity, identity, (x, x), names=CROSS), "edmd")
    with pytest.raises(MissingMomentError, match="moments lack T_fg"):
        propagator(estimate_moments(identity, identity, (x, x), names=EDMD))
