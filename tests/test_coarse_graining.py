"""Coarse coordinates and the macroscopic model: known answers, and what must hold for any data."""

import builtins

import numpy as np
import pytest
import torch
from exact_expectations import BLOCKS, exact_chain_moments, identity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.spectrum import compute_koopman_spectrum
from koopman_lora.states.coarse_graining import coarse_coordinates, macroscopic_model, to_deeptime, transition_matrix
from koopman_lora.states.markov_models import committor, mean_first_passage_times, stationary_distribution
from koopman_lora.states.metastable_sets import membership_coefficients, memberships
from koopman_lora.systems import FiniteMarkovChain

soft = arrays(float, (60, 3), elements=st.floats(0.05, 1.0)).map(lambda a: a / a.sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    model = KoopmanLoRAModel(2, 4, hidden_dims=(8,), learn_svals=True, has_centering=True)
    x = torch.randn(600, 2)
    x_next = 0.8 * x + 0.3 * torch.randn(600, 2)
    model.eval().calibrate(x, x_next)
    return model, compute_koopman_spectrum(model, [(x, x_next)]), x


class TestCoarseCoordinates:
    def test_K_matrix_scales_once_and_turns_by_U(self, fitted):
        model, spectrum, x = fitted
        features = (model.f(x) * model.svals.sqrt()).detach().double().numpy()
        found = coarse_coordinates(model, spectrum, x)
        np.testing.assert_allclose(found, features @ spectrum.U.values, atol=1e-6)
        assert found.dims == ("sample", "mode")

    def test_canonical_ones_are_orthonormal_on_the_data(self, fitted):
        model, spectrum, x = fitted
        phi = coarse_coordinates(model, spectrum, x, "canonical").values
        np.testing.assert_allclose(phi.T @ phi / len(x), np.eye(4), atol=1e-5)

    def test_new_states_one_at_a_time(self, fitted):
        model, spectrum, _ = fitted
        new = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
        for method in ("K_matrix", "canonical"):
            together = coarse_coordinates(model, spectrum, new, method, n_modes=2)
            apart = [coarse_coordinates(model, spectrum, row[None], method, n_modes=2).values[0] for row in new]
            np.testing.assert_allclose(together, apart, atol=1e-5)
            assert together.shape == (5, 2)

    def test_refusals(self, fitted):
        model, spectrum, x = fitted
        with pytest.raises(ValueError, match="method must be 'K_matrix' or 'canonical'; got 'svd'"):
            coarse_coordinates(model, spectrum, x, "svd")
        with pytest.raises(ValueError, match="spectrum is of 3 features; the model has 4"):
            coarse_coordinates(model, spectrum.isel(feature_f=slice(3)), x)


class TestTransitionMatrix:
    @given(soft, st.sampled_from(["galerkin", "counts"]), st.booleans())
    def test_rows_are_probabilities(self, chi, estimator, reversible):
        chi = torch.from_numpy(chi)
        m = estimate_moments(identity, identity, (chi[:-1], chi[1:]), n_blocks=1)
        P = transition_matrix(m, estimator, reversible)
        assert (P >= 0).all()
        np.testing.assert_allclose(P.sum(axis=1), 1, atol=1e-10)

    @pytest.mark.parametrize("estimator", ["galerkin", "counts"])
    def test_reversible_has_detailed_balance(self, estimator):
        chi = np.random.default_rng(0).dirichlet([0.2] * 3, size=12)
        P = transition_matrix(exact_chain_moments(BLOCKS, chi), estimator, reversible=True)
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
    pairs = lagged_pairs(BLOCKS.simulate(4, 5000), lag=2)
    feature = lambda x: x.numpy() @ chi  # noqa: E731
    m = estimate_moments(feature, feature, pairs)
    return macroscopic_model(m, lag=2, dt=0.5, time_unit="ns", n_resamples=100)


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
        np.testing.assert_allclose(model.timescales, -1.0 / np.log(np.abs(model.eigenvalues[1:])))
        np.testing.assert_allclose(model.counts.sum(), model.attrs["n_pairs"])
        off = ~np.eye(3, dtype=bool)
        np.testing.assert_allclose(model.rates.values[off], P[off] / 1.0)

    def test_intervals_surround_the_estimate(self, model):
        for name in ("transition_matrix", "stationary_distribution", "timescales", "mean_first_passage_times"):
            low, high = model[f"{name}_interval"].values
            assert (low <= model[name].values + 1e-12).all()
            assert (high >= model[name].values - 1e-12).all()

    def test_intervals_hold_the_truth_of_a_chain(self):
        chain, hits = FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]), []
        for seed in range(40):
            m = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 2001, seed=seed)), same_map=True)
            low, high = macroscopic_model(m, n_resamples=100).timescales_interval.values[:, 0]
            hits.append(low < -1 / np.log(0.6) < high)
        assert 0.8 <= np.mean(hits) <= 1.0

    def test_refuses_a_level_that_is_no_share(self):
        m = estimate_moments(
            identity, identity, lagged_pairs(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(1, 99))
        )
        with pytest.raises(ValueError, match="level must lie between 0 and 1; got 95"):
            macroscopic_model(m, n_resamples=5, level=95)

    def test_without_intervals(self):
        m = macroscopic_model(exact_chain_moments(BLOCKS), n_resamples=100)
        assert not any(name.endswith("_interval") for name in m)
        assert m.attrs["n_resamples"] == 0


class TestDeeptime:
    def model(self):
        return macroscopic_model(exact_chain_moments(BLOCKS, np.eye(3)[BLOCKS.blocks]), lag=3)

    def test_markov_model_gives_the_same_numbers(self):
        pytest.importorskip("deeptime")
        model = self.model()
        msm = to_deeptime(model)
        np.testing.assert_allclose(msm.timescales(), model.timescales, rtol=1e-8)
        np.testing.assert_allclose(msm.mfpt(0, 2), model.mean_first_passage_times[0, 2], rtol=1e-8)
        assert msm.lagtime == 3
        np.testing.assert_allclose(msm.count_model.count_matrix, model.counts)

    def test_memberships_give_a_pcca_model(self):
        pytest.importorskip("deeptime")
        chi = np.eye(3)[BLOCKS.blocks]
        pcca = to_deeptime(self.model(), chi, BLOCKS.stationary_distribution)
        np.testing.assert_array_equal(pcca.assignments, BLOCKS.blocks)
        np.testing.assert_allclose(pcca.metastable_distributions.sum(axis=1), 1)
        with pytest.raises(ValueError, match=r"memberships must have shape \(n_microstates, 3\); got \(12, 12\)"):
            to_deeptime(self.model(), np.eye(12))

    def test_absent_deeptime_names_the_extra(self, monkeypatch):
        real = builtins.__import__

        def refuse(name, *args, **kwargs):
            if name.startswith("deeptime"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(ImportError, match=r"koopman-lora\[deeptime\]"):
            to_deeptime(self.model())
