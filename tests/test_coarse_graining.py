"""Coarse coordinates, memberships and the macroscopic model: known answers, and what must hold for any data."""

import builtins

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from koopman_lora.coarse_graining import (
    chapman_kolmogorov,
    coarse_coordinates,
    coherent_memberships,
    committor,
    macroscopic_model,
    mean_first_passage_times,
    membership_coefficients,
    membership_map,
    memberships,
    number_of_states,
    stationary_distribution,
    to_deeptime,
    transition_matrix,
)
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import estimate_moments
from koopman_lora.spectrum import compute_koopman_spectrum, koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain
from koopman_lora.trajectories import lagged_pairs


def identity(x):
    return x


def exact_chain_moments(chain, chi=None):
    """Exact moments of functions chi (n_states, m) of a chain's states; one-hot by default."""
    chi = np.eye(chain.n_states) if chi is None else chi
    n = chain.n_states
    root = np.sqrt(n * n * (chain.stationary_distribution[:, None] * chain.transition_matrix).ravel())[:, None]
    x, x_next = np.repeat(chi, n, axis=0) * root, np.tile(chi, (n, 1)) * root
    return estimate_moments(identity, identity, (torch.from_numpy(x), torch.from_numpy(x_next)), n_blocks=1)


BLOCKS = FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=4, coupling=0.05)

stochastic = (
    st.integers(2, 5)
    .flatmap(lambda n: arrays(float, (n, n), elements=st.floats(0.01, 1.0)))
    .map(lambda a: a / a.sum(axis=1, keepdims=True))
)
sparse = (
    st.integers(2, 5)
    .flatmap(lambda n: arrays(float, (n, n), elements=st.sampled_from([0.0, 0.0, 0.5, 1.0])))
    .map(
        lambda a: (
            (a + np.eye(len(a)) * (a.sum(axis=1) == 0)) / np.maximum(a.sum(axis=1, keepdims=True), 1e-300)
            if (a.sum(axis=1) > 0).all()
            else np.eye(len(a))
        )
    )
)
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


class TestMemberships:
    @given(
        arrays(float, (20, 3), elements=st.floats(-1e6, 1e6)),
        arrays(float, (3, 3), elements=st.floats(-1e3, 1e3)),
    )
    def test_any_numbers_give_memberships(self, functions, coefficients):
        chi = memberships(functions, coefficients)
        assert (chi >= 0).all()
        np.testing.assert_allclose(chi.sum(axis=1), 1, rtol=1e-12)

    @given(arrays(float, (25, 2), elements=st.floats(-2, 2)), st.booleans())
    def test_coefficients_from_any_functions(self, values, optimise):
        functions = np.column_stack([np.ones(25), values + np.random.default_rng(0).normal(size=values.shape)])
        raw = functions @ membership_coefficients(functions, 3, optimise=optimise)
        np.testing.assert_allclose(raw.sum(axis=1), 1, atol=1e-8)
        if optimise:  # feasible: no clipping needed on the frames that were seen
            assert raw.min() > -1e-8

    @pytest.mark.parametrize("optimise", [True, False])
    def test_corners_of_a_simplex_are_found(self, optimise):
        corners = np.array([[1.0, -1.0, 0.3], [1.0, 2.0, 0.1], [1.0, 0.2, 3.0]])
        truth = np.concatenate([np.eye(3), np.random.default_rng(0).dirichlet([0.3, 0.2, 0.1], size=300)])
        chi = memberships(truth @ corners, membership_coefficients(truth @ corners, 3, optimise=optimise))
        np.testing.assert_allclose(chi, truth, atol=0.02 if optimise else 1e-10)

    def test_no_feasible_neighbour_is_crisper(self):
        slow = koopman_spectrum(exact_chain_moments(BLOCKS)).left_coefficients.values[:, :3]

        def crispness(inner):
            A = np.empty((3, 3))
            A[1:] = np.column_stack([-inner.sum(axis=1), inner])
            A[0] = -(slow[:, 1:] @ A[1:]).min(axis=0)
            chi = slow @ (A / A[0].sum())
            return np.sum((chi**2).sum(axis=0) / chi.sum(axis=0))

        best = membership_coefficients(slow, 3)[1:, 1:]
        rng = np.random.default_rng(0)
        others = [crispness(best * (1 + size * rng.normal(size=(2, 2)))) for size in (1e-2, 0.3) for _ in range(50)]
        assert max(others) <= crispness(best) + 1e-4

    def test_blocks_of_a_chain_from_singular_functions(self):
        m = exact_chain_moments(BLOCKS)
        phi = koopman_spectrum(m).left_coefficients.values
        chi = memberships(phi, membership_coefficients(phi, 3))
        label = chi.argmax(axis=1)
        assert [len(set(label[BLOCKS.blocks == b])) for b in range(3)] == [1, 1, 1]
        assert len(set(label)) == 3
        assert chi.max(axis=1).min() > 0.8

    def test_states_are_numbered_by_population(self):
        phi = koopman_spectrum(exact_chain_moments(BLOCKS)).left_coefficients.values
        frames = np.repeat(phi, [9] * 4 + [1] * 4 + [4] * 4, axis=0)
        population = memberships(frames, membership_coefficients(frames, 3)).mean(axis=0)
        assert (np.diff(population) < 0).all()

    def test_coherent_sets_move_with_the_flow(self):
        """Sets are carried from block b to block b + 1: a chain whose P is a block chain times a shift."""
        shift = np.roll(np.eye(12), 4, axis=1)
        chain = FiniteMarkovChain(BLOCKS.transition_matrix @ shift)
        s = koopman_spectrum(exact_chain_moments(chain))
        first, second = coherent_memberships(s.left_coefficients.values, s.right_coefficients.values, 3)
        np.testing.assert_array_equal(first.argmax(axis=1), np.roll(second.argmax(axis=1), -4))
        assert len(set(first.argmax(axis=1))) == 3

    def test_as_a_feature_map(self):
        functions = np.random.default_rng(0).normal(size=(2, 3))
        coefficients = np.random.default_rng(1).normal(size=(3, 3))
        x = torch.randn(6, 2, dtype=torch.float64)
        chi = membership_map(identity, functions, coefficients)(x)
        np.testing.assert_allclose(chi, memberships(x.numpy() @ functions, coefficients))

    def test_refusals(self):
        good = np.column_stack([np.ones(9), np.arange(9.0), np.arange(9.0) ** 2])
        with pytest.raises(ValueError, match=r"n_states must be between 2 and .*; got n_states=4 for .* \(9, 3\)"):
            membership_coefficients(good, 4)
        with pytest.raises(ValueError, match=r"functions are complex.*Use its singular functions"):
            membership_coefficients(good + 1j * good[:, [1]], 2)
        with pytest.raises(ValueError, match="functions must have the constant first"):
            membership_coefficients(good[:, 1:], 2)


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


class TestMarkovFormulas:
    @given(stochastic)
    def test_stationary_distribution(self, P):
        pi = stationary_distribution(P)
        np.testing.assert_allclose(pi @ P, pi, atol=1e-12)
        assert (pi >= 0).all()

    @given(stochastic)
    def test_passage_times_solve_their_equation(self, P):
        times = mean_first_passage_times(P, 0.5)
        for j in range(len(P)):
            others = np.arange(len(P)) != j
            np.testing.assert_allclose(times[others, j], 0.5 + (P @ times[:, j])[others], rtol=1e-9)
            assert times[j, j] == 0

    @given(stochastic)
    def test_passage_times_obey_kac(self, P):
        """The mean return time of a state is one over its probability."""
        returns = 1 + np.sum(P * mean_first_passage_times(P).T, axis=1)
        np.testing.assert_allclose(returns, 1 / stationary_distribution(P), rtol=1e-8)

    @given(st.one_of(stochastic, sparse))
    def test_committors_are_probabilities_that_solve_their_equation(self, P):
        forward, back = committor(P, 0, 1), committor(P, 1, 0)
        known = np.isfinite(forward)
        assert (forward[known] >= 0).all()
        assert (forward[known] <= 1).all()
        np.testing.assert_allclose(forward + back, np.where(known, 1, np.nan), atol=1e-10)
        inner = known.copy()
        inner[:2] = False
        assert (forward[0], forward[1]) == (0, 1)
        np.testing.assert_allclose((P[inner][:, known] @ forward[known]), forward[inner], atol=1e-10)

    def test_committors_of_the_gambler(self):
        n = 6
        P = np.zeros((n, n))
        P[0, 0] = P[-1, -1] = 1
        for i in range(1, n - 1):
            P[i, i - 1] = P[i, i + 1] = 0.5
        np.testing.assert_allclose(committor(P, 0, n - 1), np.arange(n) / (n - 1), atol=1e-12)
        np.testing.assert_allclose(committor(P, [0, 1], [n - 1]), [0, 0, 0.25, 0.5, 0.75, 1], atol=1e-12)

    def test_states_that_are_out_of_reach(self):
        trap = np.array([[0.5, 0.25, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
        times = mean_first_passage_times(trap)
        assert np.isinf(times[0, 2])  # it may be trapped in 1 on the way
        assert np.isfinite(times[:3, 1]).all()
        assert np.isinf(times[3, 1])
        assert np.isnan(committor(trap, 0, 1)[3])
        with pytest.raises(ValueError, match="several stationary distributions"):
            stationary_distribution(trap)

    def test_refusals(self):
        with pytest.raises(ValueError, match="rows that sum to 1"):
            stationary_distribution(np.ones((2, 2)))
        with pytest.raises(ValueError, match=r"P must be a square matrix; got shape \(2, 3\)"):
            mean_first_passage_times(np.ones((2, 3)))
        with pytest.raises(ValueError, match="source and target must be states 0 to 1, none in both"):
            committor(np.eye(2), 0, 0)
        with pytest.raises(ValueError, match="source and target"):
            committor(np.eye(2), 0, 5)


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

    def test_without_intervals(self):
        m = macroscopic_model(exact_chain_moments(BLOCKS), n_resamples=100)
        assert not any(name.endswith("_interval") for name in m)
        assert m.attrs["n_resamples"] == 0


class TestNumberOfStates:
    @pytest.mark.parametrize("quantity", ["singular_values", "eigenvalues"])
    def test_blocks_are_counted_with_intervals(self, quantity):
        chain = FiniteMarkovChain.with_blocks(n_blocks=4, states_per_block=3, coupling=0.05)
        m = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 20_000)))
        found = number_of_states(m, quantity=quantity)
        assert found.attrs["suggested"] == 4
        assert float(found.votes.sel(n_states=4)) > 0.9
        assert (found.lower <= found.gap).all()
        assert float(found.lower.sel(n_states=4)) > 3
        np.testing.assert_allclose(found.votes.sum(), 1)

    def test_gap_is_the_ratio_of_timescales(self):
        m = exact_chain_moments(BLOCKS)
        sigma = koopman_spectrum(m).canonical_singular_values.values
        found = number_of_states(m)
        np.testing.assert_allclose(found.gap[0], np.log(sigma[2]) / np.log(sigma[1]))
        assert found.lower.isnull().all()
        assert found.attrs["suggested"] == 3

    def test_refusals(self):
        m = exact_chain_moments(BLOCKS)
        with pytest.raises(ValueError, match="quantity must be 'singular_values' or 'eigenvalues'; got 'sigma'"):
            number_of_states(m, quantity="sigma")
        with pytest.raises(ValueError, match="at least 3 features to compare gaps; got 2"):
            number_of_states(exact_chain_moments(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]])))


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
