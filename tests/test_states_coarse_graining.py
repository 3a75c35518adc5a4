"""Transition matrices and the macroscopic model: known answers, and what must hold for any data."""

import dataclasses

import numpy as np
import pytest
import torch
from exact_expectations import BLOCKS, exact_chain_moments, identity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.moments import EDMD
from koopman_lora.states.coarse_graining import macroscopic_model, transition_matrix
from koopman_lora.states.markov_models import committor, mean_first_passage_times, stationary_distribution
from koopman_lora.states.metastable_sets import membership_coefficients, memberships
from koopman_lora.systems import FiniteMarkovChain

soft = arrays(float, (60, 3), elements=st.floats(0.05, 1.0)).map(lambda a: a / a.sum(axis=1, keepdims=True))


class TestTransitionMatrix:
    @given(soft, st.sampled_from(["galerkin", "counts"]), st.booleans())
    def test_rows_are_probabilities(self, chi, estimator, reversible):
        chi = torch.from_numpy(chi)
        m = estimate_moments(identity, identity, (chi[:-1], chi[1:]), n_blocks=1)
        P = transition_matrix(m.symmetrised() if reversible else m, estimator)
        assert (P >= 0).all()
        np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-10)

    @pytest.mark.parametrize("estimator", ["galerkin", "counts"])
    def test_reversible_has_detailed_balance(self, estimator):
        chi = np.random.default_rng(0).dirichlet([0.2] * 3, size=12)
        P = transition_matrix(exact_chain_moments(BLOCKS, chi).symmetrised(), estimator)
        flux = stationary_distribution(P)[:, None] * P
        np.testing.assert_allclose(flux, flux.T, atol=1e-10)
        assert np.abs(np.linalg.eigvals(P).imag).max() == 0

    def test_one_hot_gives_the_chain(self):
        m = exact_chain_moments(BLOCKS)
        for estimator in ("galerkin", "counts"):
            np.testing.assert_allclose(transition_matrix(m, estimator), BLOCKS.transition_matrix, atol=1e-12)

    def test_galerkin_keeps_slow_eigenvalues_of_fuzzy_states_and_counts_do_not(self):
        values, vectors = np.linalg.eig(BLOCKS.transition_matrix)
        order = np.argsort(-values.real)[:3]
        slow = vectors[:, order].real
        m = exact_chain_moments(BLOCKS, memberships(slow, membership_coefficients(slow, 3)))
        found = np.sort(np.linalg.eigvals(transition_matrix(m, "galerkin")))[::-1]
        np.testing.assert_allclose(found, values[order].real, atol=1e-8)
        assert np.sort(np.linalg.eigvals(transition_matrix(m, "counts")))[1] < values[order[1]].real

    def test_refusals(self):
        m = exact_chain_moments(BLOCKS)
        with pytest.raises(ValueError, match="estimator must be 'galerkin' or 'counts'; got 'mle'"):
            transition_matrix(m, "mle")
        with pytest.raises(ValueError, match="moments must be those of memberships, which sum to 1; got a sum of 4"):
            transition_matrix(m.transformed(2 * np.eye(12), 2 * np.eye(12)))


@pytest.fixture(scope="module")
def model():
    chi = np.eye(3)[BLOCKS.blocks]
    pairs = lagged_pairs(list(BLOCKS.simulate(4, 5000).values), lag=2, dt=0.5, time_unit="ns")
    feature = lambda x: x.numpy() @ chi  # noqa: E731
    m = estimate_moments(feature, feature, pairs)
    return macroscopic_model(m, bootstrap=Bootstrap(100))


def test_states_that_are_not_metastable_are_warned_of():
    """Fuzzy states B of a cycle: their matrix B^-1 P B has an entry that is no probability."""
    P = np.array([[0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [0.9, 0.0, 0.1]])
    B = np.array([[0.6, 0.4, 0.0], [0.2, 0.6, 0.2], [0.0, 0.4, 0.6]])
    lowest = (np.linalg.inv(B) @ P @ B).min()
    with pytest.warns(UserWarning, match=rf"matrix of 3 states had an entry of {lowest:.2g}, which was cut to 0"):
        found = macroscopic_model(exact_chain_moments(FiniteMarkovChain(P), B))
    np.testing.assert_allclose(found.negative_part, -lowest)


class TestMacroscopicModel:
    def test_units_names_and_consistency(self, model):
        P = model.transition_matrix.values
        assert model.timescales.units == model.mean_first_passage_times.units == "ns"
        assert model.rates.units == "1/ns"
        np.testing.assert_allclose(model.metastability, np.trace(P))
        np.testing.assert_allclose(model.stationary_distribution, stationary_distribution(P))
        np.testing.assert_allclose(model.mean_first_passage_times, mean_first_passage_times(P, 1.0))
        np.testing.assert_allclose(model.committors[0, 2], committor(P, 0, 2))
        assert model.committors[1, 1].isnull().all()
        slow = slice(2, None)  # mode 1 is the constant, which never relaxes
        np.testing.assert_allclose(model.timescales.sel(mode=slow), -1.0 / np.log(np.abs(model.eigenvalues[1:])))
        np.testing.assert_allclose(model.counts.sum(), model.attrs["n_pairs"])
        off = ~np.eye(3, dtype=bool)
        np.testing.assert_allclose(model.rates.values[off], P[off] / 1.0)

    def test_eigenvalues_and_timescales_share_the_mode_and_the_first_is_the_constant(self, model):
        assert model.eigenvalues.dims == model.timescales.dims == ("mode",)
        np.testing.assert_array_equal(model.mode, [1, 2, 3])
        np.testing.assert_allclose(model.eigenvalues.sel(mode=1), 1, atol=1e-12)
        assert np.isinf(model.timescales.sel(mode=1))
        assert np.isinf(model.timescales_interval.sel(mode=1)).all()
        assert np.isfinite(model.timescales.sel(mode=[2, 3])).all()

    def test_times_of_bare_moments_count_in_lags(self):
        m = exact_chain_moments(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]))
        bare = macroscopic_model(m)
        clocked = macroscopic_model(dataclasses.replace(m, clock=Clock(4, 0.5, "ns")))
        np.testing.assert_allclose(bare.timescales.sel(mode=2), -1 / np.log(0.6), rtol=1e-9)
        assert (bare.timescales.units, bare.rates.units, bare.attrs["lag"]) == ("lag", "1/lag", "unknown")
        for name, power in (("timescales", 1), ("mean_first_passage_times", 1), ("rates", -1)):
            np.testing.assert_allclose(clocked[name], bare[name] * 2.0**power, rtol=1e-12)

    def test_intervals_surround_the_estimate(self, model):
        for name in ("transition_matrix", "stationary_distribution", "timescales", "mean_first_passage_times"):
            low, high = model[f"{name}_interval"].values
            assert (low <= model[name].values + 1e-12).all()
            assert (high >= model[name].values - 1e-12).all()

    @pytest.mark.slow
    def test_intervals_hold_the_truth_of_a_chain(self):
        chain, hits = FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]), []
        for seed in range(40):
            m = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 2001, seed=seed)), names=EDMD)
            low, high = macroscopic_model(m, bootstrap=Bootstrap(100)).timescales_interval.sel(mode=2)
            hits.append(low < -1 / np.log(0.6) < high)
        assert 0.8 <= np.mean(hits) <= 1.0

    def test_refuses_a_level_that_is_no_share(self):
        pairs = lagged_pairs(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(1, 99))
        m = estimate_moments(identity, identity, pairs)
        with pytest.raises(ValueError, match="level must lie between 0 and 1; got 95"):
            macroscopic_model(m, bootstrap=Bootstrap(5, level=95))

    def test_moments_of_one_block_give_no_intervals(self):
        m = macroscopic_model(exact_chain_moments(BLOCKS), bootstrap=Bootstrap(100))
        assert not any(name.endswith("_interval") for name in m)
        assert "n_resamples" not in m.attrs

    def test_no_bootstrap_gives_no_intervals(self):
        pairs = lagged_pairs(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(1, 99))
        m = macroscopic_model(estimate_moments(identity, identity, pairs), bootstrap=None)
        assert not any(name.endswith("_interval") for name in m)
        assert "n_resamples" not in m.attrs
