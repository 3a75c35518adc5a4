"""The Chapman-Kolmogorov test passes what is Markovian and fails what is not."""

import numpy as np
import pytest

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.states.markovianity import chapman_kolmogorov
from koopman_lora.systems import FiniteMarkovChain

BLOCKS = FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=4, coupling=0.05)


class TestChapmanKolmogorov:
    lags = (1, 2, 4, 8)

    def moments(self, chain, chi, lags=lags):
        data = chain.simulate(4, 8000, seed=2)
        feature = lambda x: x.numpy() @ chi  # noqa: E731
        return {lag: estimate_moments(feature, feature, lagged_pairs(data, lag)) for lag in lags}

    @pytest.mark.parametrize("method", ["edmd", "operator"])
    def test_a_markov_chain_passes(self, method):
        test = chapman_kolmogorov(self.moments(BLOCKS, np.eye(12)), np.eye(12), method=method, dt=0.5, time_unit="ns")
        inside = (test.estimated <= test.predicted_upper + 0.03) & (test.estimated >= test.predicted_lower - 0.03)
        assert inside.all()
        np.testing.assert_allclose(test.time, [0.5, 1, 2, 4])
        np.testing.assert_allclose(test.deviation[0], 0, atol=1e-10)
        truth = np.linalg.matrix_power(BLOCKS.transition_matrix, 8)
        np.testing.assert_allclose(test.predicted.sel(lag=8), truth, atol=0.05)
        np.testing.assert_allclose(test.predicted.sum("state_next"), 1, atol=1e-9)

    def test_a_bad_lumping_fails(self):
        """States 0 and 1 of a cycle 0 -> 1 -> 2 -> 0 lumped: memory that no Markov model of two states has."""
        cycle = FiniteMarkovChain([[0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [0.9, 0.0, 0.1]])
        lumped = self.moments(cycle, np.eye(2)[[0, 0, 1]])
        test = chapman_kolmogorov(lumped, np.eye(2))
        assert test.deviation.max() > 0.2
        assert (test.estimated_lower > test.predicted_upper).any() or (
            test.estimated_upper < test.predicted_lower
        ).any()

    def test_memberships_of_a_finer_model(self):
        chi = np.eye(3)[BLOCKS.blocks]
        test = chapman_kolmogorov(self.moments(BLOCKS, np.eye(12)), chi, n_resamples=20)
        assert test.predicted.shape == (4, 3, 3)
        assert test.deviation.max() < 0.05

    def test_correlations_of_singular_functions(self):
        test = chapman_kolmogorov(self.moments(BLOCKS, np.eye(12)), n_states=3, n_resamples=0)
        np.testing.assert_allclose(test.predicted[:, 0, 0], 1, atol=1e-8)
        assert test.deviation.max() < 0.1
        assert "predicted_lower" not in test

    def test_refusals(self):
        m = self.moments(BLOCKS, np.eye(12), lags=(2, 3))
        with pytest.raises(ValueError, match=r"at least 2 lags, all multiples of the smallest; got \[2, 3\]"):
            chapman_kolmogorov(m)
        with pytest.raises(ValueError, match="at least 2 lags"):
            chapman_kolmogorov({2: m[2]})
        with pytest.raises(ValueError, match=r"memberships must have shape \(12, n_states\)"):
            chapman_kolmogorov({1: m[2], 2: m[3]}, np.eye(3))
        with pytest.raises(ValueError, match="of the same features"):
            chapman_kolmogorov({1: m[2], 2: m[3].transformed(np.eye(12)[:, :2], np.eye(12))})
