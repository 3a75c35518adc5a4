"""What was never observed has bounds, not probability 0 and lifetime infinity."""

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
from koopman_lora.states.deeptime_models import to_deeptime
from koopman_lora.states.unseen_transitions import largest_unseen_probability, unseen_alternatives
from koopman_lora.systems import FiniteMarkovChain


def model_of(labels, n_states, lag=1, reversible=False, **options):
    pairs = lagged_pairs([np.eye(n_states)[np.asarray(path)] for path in labels], lag=lag, check_constant=False)
    pairs = pairs.both_ways() if reversible else pairs
    moments = estimate_moments(identity, identity, pairs, names=EDMD)
    return macroscopic_model(moments, bootstrap=Bootstrap(100), **options)


def in_bounds(found, name, value):
    low, high = found[f"{name}_interval"].values
    return (low <= np.add(value, 1e-12)) & (np.subtract(value, 1e-12) <= high)


class TestBound:
    @pytest.mark.parametrize("n", [1, 7, 1000])
    @pytest.mark.parametrize("level", [0.5, 0.95])
    def test_nothing_in_n_trials_has_the_probability_of_1_minus_the_level(self, n, level):
        p = largest_unseen_probability(np.array([n]), level)[0]
        assert (1 - p) ** n == pytest.approx(1 - level)

    def test_it_is_three_over_n(self):
        assert largest_unseen_probability(np.array([1e4]))[0] == pytest.approx(3e-4, rel=2e-3)

    @given(
        arrays(float, (3, 3), elements=st.sampled_from([0.0, 0.0, 1e-3, 0.5, 1.0])),
        arrays(float, 3, elements=st.floats(0.3, 1e6)),
    )
    def test_alternatives_are_transition_matrices_that_differ_in_one_row(self, a, n):
        P = (a + 1e-300 * np.eye(3)) / (a + 1e-300 * np.eye(3)).sum(axis=1, keepdims=True)
        for Q in unseen_alternatives(P, n):
            assert ((Q >= 0) & (Q <= 1)).all()
            np.testing.assert_allclose(Q.sum(axis=1), 1, atol=1e-12)
            assert (Q != P).any(axis=1).sum() <= 1


class TestMacroscopicModel:
    @pytest.mark.parametrize("estimator", ["galerkin", "counts"])
    @pytest.mark.parametrize("reversible", [True, False])
    def test_a_transition_never_seen_has_a_bound_from_its_counts(self, estimator, reversible):
        path = np.tile(np.repeat([0, 1, 2, 1], 25), 40)  # never from 0 to 2
        found = model_of([path], 3, estimator=estimator, reversible=reversible)
        low, high = found.transition_matrix_interval.values
        n = found.populations.values * found.attrs["n_pairs"]
        for i, j in ((0, 2), (2, 0)):
            assert found.transition_matrix[i, j] == low[i, j] == 0
            assert high[i, j] == pytest.approx(1 - 0.05 ** (1 / n[i]), rel=1e-9)
            assert high[i, j] == pytest.approx(3 / n[i], rel=0.01)
        assert ((low >= 0) & (high <= 1)).all()
        for name in ("transition_matrix", "stationary_distribution", "timescales", "mean_first_passage_times"):
            assert in_bounds(found, name, found[name].values).all(), name

    def test_a_state_that_was_never_left_has_a_least_lifetime(self):
        found = model_of([[0] * 500 + [1] * 1001], 2)
        low, high = found.mean_first_passage_times_interval.values
        assert found.mean_first_passage_times[1, 0] == np.inf == high[1, 0]
        assert low[1, 0] == pytest.approx(1000 / 3, rel=0.01)
        stay = found.transition_matrix_interval.values[:, 1, 1]
        assert stay[0] == pytest.approx(0.05 ** (1 / 1000))
        assert stay[1] == 1
        assert 0 < found.timescales_interval[0, 1] < found.timescales[1]
        assert found.stationary_distribution_interval[0, 1] < 0.9
        assert found.attrs["is_connected"]

    def test_states_between_which_nothing_was_seen(self):
        found = model_of([[0] * 1001, [1] * 3001], 2)
        assert not found.attrs["is_connected"]
        assert np.isinf(found.timescales).all()
        low, high = found.timescales_interval.sel(mode=2).values
        # one of the two may be left, the one that was watched for 1,000 frames at 3 / 1,000
        assert low == pytest.approx(1000 / 3, rel=0.01)
        assert high == np.inf
        assert np.isinf(found.timescales_interval.sel(mode=1)).all()  # the constant
        np.testing.assert_allclose(found.mean_first_passage_times_interval[0, 1, 0], 1000, rtol=0.01)
        assert found.stationary_distribution.isnull().all()
        np.testing.assert_array_equal(found.stationary_distribution_interval, [[0, 0], [1, 1]])
        np.testing.assert_allclose(found.metastability_interval, [1 + 0.05 ** (1 / 1000), 2])
        pytest.importorskip("deeptime")
        with pytest.raises(ValueError, match="model has no one stationary distribution, which deeptime needs"):
            to_deeptime(found)

    def test_overlapping_pairs_are_fewer_trials(self):
        one, ten = (model_of([[0] * 1000 + [1] * 1001], 2, lag=lag) for lag in (1, 10))
        low_1, low_10 = (m.mean_first_passage_times_interval[0, 1, 0] for m in (one, ten))
        assert low_10 == pytest.approx(float(low_1), rel=0.03)  # in frames, the same

    def test_events_that_were_seen_often_enough_keep_percentiles(self):
        moments = exact_chain_moments(BLOCKS, np.eye(3)[BLOCKS.blocks])
        P = transition_matrix(moments)
        assert unseen_alternatives(P, np.full(3, 3 / P.min() + 1)) == []

    @pytest.mark.parametrize("estimator", ["galerkin", "counts"])
    @pytest.mark.parametrize("reversible", [True, False])
    def test_resamples_without_a_state_say_nothing_of_its_row(self, estimator, reversible):
        path = [0] * 600 + [1, 2, 1, 2, 2] + [0] * 600  # states 1 and 2 in one block
        found = model_of([path], 3, estimator=estimator, reversible=reversible)
        for name in ("transition_matrix", "timescales", "mean_first_passage_times", "stationary_distribution"):
            assert found[f"{name}_interval"].notnull().all(), name
        low, high = found.transition_matrix_interval.values
        assert (low[0, 1], high[0, 0]) == (0, 1)
        if not reversible:
            assert high[1, 0] == pytest.approx(1 - 0.05 ** (1 / 2), abs=1e-9)  # of 2 visits; no uniform row made up

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(3))
    def test_coverage_where_few_or_no_transitions_were_seen(self, seed):
        """Two states, left once in 500 steps, 1,000 frames, 2.4 transitions on average. Of 250 models .99 covered both
        entries, .98 the timescale and .99 both passage times; percentiles alone .72, .95 and .72. With .98, fewer than
        .9 of some 50 models come up once in 300 runs."""
        chain = FiniteMarkovChain([[0.998, 0.002], [0.002, 0.998]])
        covered = []
        for i in range(60):
            path = chain.simulate(1, 1001, seed=1000 * seed + i).values[0].argmax(axis=1)
            if len(set(path[:-1])) < 2:
                continue
            found = model_of([path], 2)
            hits = [in_bounds(found, "transition_matrix", chain.transition_matrix).all()]
            hits += [in_bounds(found, "timescales", [np.inf, -1 / np.log(0.996)]).all()]
            hits += [in_bounds(found, "mean_first_passage_times", [[0, 500], [500, 0]]).all()]
            covered.append(hits)
        assert len(covered) > 20
        assert (np.mean(covered, axis=0) > 0.9).all()

    def test_a_state_in_no_frame_is_refused_by_number(self):
        x = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 1, 2]]
        moments = estimate_moments(identity, identity, (x[:-1], x[1:]), n_blocks=1)
        for estimator in ("galerkin", "counts"):
            with pytest.raises(ValueError, match="state 2 is in no frame x"):
                transition_matrix(moments, estimator)
            with pytest.raises(ValueError, match="state 2 is in no frame x"):
                macroscopic_model(moments, estimator=estimator)

    def test_moments_that_are_not_finite_are_refused_by_row(self):
        moments = exact_chain_moments(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]), clock=Clock(1))
        moments.block_sums["T_ff"][0, 1, 0] = np.nan
        with pytest.raises(ValueError, match=r"moments must be finite; they are not in row \d"):
            transition_matrix(moments)
