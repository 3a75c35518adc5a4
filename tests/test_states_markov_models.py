"""Formulas of Markov models: known answers, and the equations that they must solve for any transition matrix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from koopman_lora.states.markov_models import committor, mean_first_passage_times, stationary_distribution

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
        with pytest.raises(ValueError, match="source and target must be states 0 to 1, none in both"):
            committor(np.eye(2), [], 1)

    @pytest.mark.parametrize("stranger", [5, -1])
    def test_states_that_do_not_exist_are_refused_by_number(self, stranger):
        with pytest.raises(ValueError, match=rf"target names states that do not exist: \[{stranger}\].* from 0 to 1"):
            committor(np.eye(2), 0, stranger)
        with pytest.raises(ValueError, match=rf"source names states that do not exist: .*{stranger}"):
            committor(np.eye(2), [0, stranger], 1)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize(
        "function", [stationary_distribution, mean_first_passage_times, lambda P: committor(P, 0, 1)]
    )
    def test_a_row_that_is_not_finite_is_named(self, function, bad):
        P = np.array([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.0, bad, 1.0]])
        with pytest.raises(ValueError, match=r"P must be finite; row 2 is \[ *0. *(nan|inf) *1. *\], 1 of 3 rows"):
            function(P)
