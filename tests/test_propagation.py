"""Propagators against independent estimates; time reversal and symmetrising against what they claim."""

import numpy as np
import pytest
import torch
from exact_expectations import P_EXAMPLE, exact_chain, identity

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.moments import CROSS, Moments
from koopman_lora.prediction import forecast
from koopman_lora.propagation import propagator, symmetrised, time_reversed
from koopman_lora.systems import FiniteMarkovChain

METHODS = ("operator", "edmd")


def test_powers_agree_with_independently_estimated_moments():
    """E[f(x_0) f(x_n)] predicted from one simulation at lag 1, estimated from another at lag n."""
    chain = FiniteMarkovChain(P_EXAMPLE)
    short = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 40_000, seed=0)))
    step = propagator(short, "edmd")
    for n in (2, 3, 5):
        direct = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 40_000, seed=n), lag=n)).T_ff
        predicted = short.M_f @ step.start @ np.linalg.matrix_power(step.K, n) @ np.linalg.inv(step.start)
        np.testing.assert_allclose(predicted, direct, atol=0.01)  # standard error of a frequency: 0.0025, correlated


class TestSymmetrised:
    def test_keeps_the_expectations_of_a_reversible_system(self):
        chain, m = exact_chain([[0.9, 0.1, 0.0], [0.1, 0.7, 0.2], [0.0, 0.2, 0.8]])
        for method in METHODS:
            found = forecast(symmetrised(m), np.eye(3), [4], method=method).values[0]
            np.testing.assert_allclose(found, np.linalg.matrix_power(chain.transition_matrix, 4), atol=1e-12)

    def test_needs_its_moments(self):
        m = estimate_moments(identity, identity, (torch.randn(9, 2), torch.randn(9, 2)), names=CROSS)
        with pytest.raises(ValueError, match="moments lack M_f1"):
            symmetrised(m)


def test_time_reversal_is_an_involution(noisy):
    m = noisy[0]
    twice = time_reversed(time_reversed(m))
    assert set(twice.names) == set(m.names) - {"phase_f", "M_h"}
    for name in twice.names:
        np.testing.assert_array_equal(twice.block_sums[name], m.block_sums[name])


def test_time_reversal_is_what_swapped_pairs_give(noisy):
    _, (f, g, h), data = noisy
    here = estimate_moments(f, g, (data[:-1], data[1:]), observables=h, n_blocks=1)
    swapped = estimate_moments(g, f, (data[1:], data[:-1]), observables=h, n_blocks=1)
    for name in time_reversed(here).names:
        np.testing.assert_allclose(getattr(time_reversed(here), name), getattr(swapped, name), atol=1e-12)


def test_moments_with_nothing_to_reverse():
    with pytest.raises(ValueError, match="moments hold nothing to reverse, only M_h"):
        time_reversed(Moments({"M_h": np.ones((1, 1, 1))}, np.ones(1)))
