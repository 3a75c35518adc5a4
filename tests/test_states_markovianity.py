"""The Chapman-Kolmogorov test passes what is Markovian and fails what is not."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.states.markovianity import chapman_kolmogorov
from koopman_lora.systems import FiniteMarkovChain

BLOCKS = FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=4, coupling=0.05)


class TestChapmanKolmogorov:
    lags = (1, 2, 4, 8)

    def moments(self, chain, chi, lags=lags):
        data = chain.simulate(4, 8000, seed=2)
        feature = lambda x: x.numpy() @ chi  # noqa: E731
        data = list(data.values)
        pairs = {lag: lagged_pairs(data, lag, dt=0.5, time_unit="ns") for lag in lags}
        return {lag: estimate_moments(feature, feature, at_lag) for lag, at_lag in pairs.items()}

    @pytest.mark.parametrize("method", ["edmd", "operator"])
    def test_a_markov_chain_passes(self, method):
        test = chapman_kolmogorov(self.moments(BLOCKS, np.eye(12)), np.eye(12), method=method)
        lower, upper = test.predicted_interval
        inside = (test.estimated <= upper + 0.03) & (test.estimated >= lower - 0.03)
        assert inside.all()
        np.testing.assert_allclose(test.time, [0.5, 1, 2, 4])
        assert test.time.units == "ns"
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
        (low, high), (estimated_low, estimated_high) = test.predicted_interval, test.estimated_interval
        assert ((estimated_low > high) | (estimated_high < low)).any()

    def test_memberships_of_a_finer_model(self):
        chi = np.eye(3)[BLOCKS.blocks]
        test = chapman_kolmogorov(self.moments(BLOCKS, np.eye(12)), chi, bootstrap=Bootstrap(20))
        assert test.predicted.shape == (4, 3, 3)
        assert test.deviation.max() < 0.05

    def test_correlations_of_singular_functions(self):
        test = chapman_kolmogorov(self.moments(BLOCKS, np.eye(12)), n_states=3, bootstrap=None)
        np.testing.assert_allclose(test.predicted[:, 0, 0], 1, atol=1e-8)
        assert test.deviation.max() < 0.1
        assert "predicted_interval" not in test
        assert "n_resamples" not in test.attrs

    def test_a_list_in_any_order_and_a_mapping_give_the_same(self):
        m = self.moments(BLOCKS, np.eye(12), lags=(1, 2, 4))
        wanted = chapman_kolmogorov(m, np.eye(12), bootstrap=Bootstrap(5))
        listed = chapman_kolmogorov([m[4], m[1], m[2]], np.eye(12), bootstrap=Bootstrap(5))
        xr.testing.assert_equal(listed, wanted)
        np.testing.assert_array_equal(listed.lag, [1, 2, 4])
        assert listed.attrs["lag"] == 1

    def test_a_mapping_must_agree_with_the_clocks(self):
        m = self.moments(BLOCKS, np.eye(12), lags=(1, 2))
        text = r"moments_by_lag says lags \[1, 3\]; the clocks of its moments say \[1, 2\]"
        with pytest.raises(ValueError, match=text):
            chapman_kolmogorov({1: m[1], 3: m[2]})
        with pytest.raises(ValueError, match=r"says lags \[2, 1\]; the clocks of its moments say \[1, 2\]"):
            chapman_kolmogorov({2: m[1], 1: m[2]})

    def test_moments_of_an_unknown_lag_are_refused(self):
        m = self.moments(BLOCKS, np.eye(12), lags=(1, 2))
        bare = dataclasses.replace(m[2], clock=Clock())
        for given in ([m[1], bare], {1: m[1], 2: bare}):
            with pytest.raises(ValueError, match="lag of these pairs is unknown, and is needed to compare lags"):
                chapman_kolmogorov(given)

    @pytest.mark.parametrize("clock", [Clock(2, 0.25, "ns"), Clock(2, 0.5, "ps")])
    def test_moments_of_other_frames_are_refused(self, clock):
        m = self.moments(BLOCKS, np.eye(12), lags=(1, 2))
        with pytest.raises(ValueError, match=r"clocks must be one and the same to add or compare; got .*dt=0\.5"):
            chapman_kolmogorov([m[1], dataclasses.replace(m[2], clock=clock)])

    def test_refusals(self):
        m = self.moments(BLOCKS, np.eye(12), lags=(1, 2, 3))
        with pytest.raises(ValueError, match=r"at least 2 lags, all multiples of the smallest; got \[2, 3\]"):
            chapman_kolmogorov([m[2], m[3]])
        with pytest.raises(ValueError, match="at least 2 lags"):
            chapman_kolmogorov({2: m[2]})
        with pytest.raises(ValueError, match=r"memberships must have shape \(12, n_states\)"):
            chapman_kolmogorov({1: m[1], 2: m[2]}, np.eye(3))
        with pytest.raises(ValueError, match="of the same features"):
            chapman_kolmogorov({1: m[1], 2: m[2].transformed(np.eye(12)[:, :2], np.eye(12))})
