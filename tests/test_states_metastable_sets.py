"""Memberships and the number of states: known answers, and what must hold for any data."""

import numpy as np
import pytest
import torch
from exact_expectations import BLOCKS, exact_chain_moments, identity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import ortho_group

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.states.metastable_sets import (
    coherent_memberships,
    membership_coefficients,
    membership_map,
    memberships,
    number_of_states,
)
from koopman_lora.systems import FiniteMarkovChain


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
        slow = koopman_spectrum(exact_chain_moments(BLOCKS)).phi_coefficients.values[:, :3]

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
        phi = koopman_spectrum(m).phi_coefficients.values
        chi = memberships(phi, membership_coefficients(phi, 3))
        label = chi.argmax(axis=1)
        assert [len(set(label[BLOCKS.blocks == b])) for b in range(3)] == [1, 1, 1]
        assert len(set(label)) == 3
        assert chi.max(axis=1).min() > 0.8

    def test_states_are_numbered_by_population(self):
        phi = koopman_spectrum(exact_chain_moments(BLOCKS)).phi_coefficients.values
        frames = np.repeat(phi, [9] * 4 + [1] * 4 + [4] * 4, axis=0)
        population = memberships(frames, membership_coefficients(frames, 3)).mean(axis=0)
        assert (np.diff(population) < 0).all()

    def test_coherent_sets_move_with_the_flow(self):
        """Sets are carried from block b to block b + 1: a chain whose P is a block chain times a shift."""
        shift = np.roll(np.eye(12), 4, axis=1)
        chain = FiniteMarkovChain(BLOCKS.transition_matrix @ shift)
        s = koopman_spectrum(exact_chain_moments(chain))
        first, second = coherent_memberships(s.phi_coefficients.values, s.psi_coefficients.values, 3)
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
        with pytest.raises(
            ValueError, match=r"functions must hold the constant .* off by .*has_centering=True.*as many"
        ):
            membership_coefficients(good[:, 1:], 2)
        with pytest.raises(ValueError, match="functions must be independent; the leading 3 are not"):
            membership_coefficients(np.column_stack([good[:, :2], good[:, 1] - 2]), 3)
        good[4, 1] = np.nan
        with pytest.raises(ValueError, match=r"functions must be finite; row 4 is \[ 1. nan\]"):
            membership_coefficients(good, 2)

    def test_memberships_of_what_is_not_finite_are_refused_by_row(self):
        functions, A = np.ones((5, 2)), np.array([[0.5, 0.5], [0.5, -0.5]])
        for bad in (np.nan, np.inf):
            functions[3, 1] = bad
            with pytest.raises(ValueError, match=r"functions must be finite; row 3 is \[ ?1. (nan|inf)\], 1 of 5"):
                memberships(functions, A)
            with pytest.raises(ValueError, match=r"features f\(x\) must be finite; row 3"):
                membership_map(identity, np.eye(2), A)(torch.from_numpy(functions))
        memberships(
            np.column_stack([np.ones((5, 2)), functions[:, 1]]), A
        )  # a function that is not used may be anything
        with pytest.raises(ValueError, match="coefficients must be finite; row 1"):
            memberships(np.ones((5, 2)), A * [[1], [np.nan]])
        with pytest.raises(ValueError, match=r"functions must be .* got \(5, 1\) and coefficients of shape \(2, 2\)"):
            memberships(np.ones((5, 1)), A)


def turned(functions, seed):
    """The functions in another orthonormal basis, such as an SVD returns where their singular values are equal."""
    return functions @ ortho_group.rvs(functions.shape[1], random_state=seed)


class TestSetsThatNothingConnects:
    """Several singular values are 1, and the SVD returns any mixture of the constant with the other functions."""

    @pytest.mark.parametrize("n_sets", [2, 3, 4])
    @pytest.mark.parametrize("seed", range(10))
    def test_any_mixture_of_the_functions_gives_the_sets(self, n_sets, seed):
        label = np.repeat(np.arange(n_sets), 10 * np.arange(n_sets, 0, -1))  # the largest set first
        sets = np.eye(n_sets)[label]
        functions = turned(sets / np.sqrt(sets.mean(axis=0)), seed)
        for optimise in (True, False):
            chi = memberships(functions, membership_coefficients(functions, n_sets, optimise=optimise))
            np.testing.assert_allclose(chi, sets, atol=1e-6)

    @pytest.mark.parametrize("seed", range(10))
    def test_a_mixture_by_a_small_angle_is_turned_back_too(self, seed):
        sets = np.eye(2)[np.repeat([0, 1], [30, 10])]
        constant, other = np.ones(40), (sets @ [1, -3]) / np.sqrt(3)
        angle = 0.09 * (seed + 1) / 10  # the constant seemed to be first, and its deviation was thrown away
        functions = np.column_stack(
            [np.cos(angle) * constant + np.sin(angle) * other, np.cos(angle) * other - np.sin(angle) * constant]
        )
        raw = functions @ membership_coefficients(functions, 2)
        np.testing.assert_allclose(raw, sets, atol=1e-10)

    @pytest.mark.parametrize("seed", range(5))
    def test_a_periodic_chain_has_as_many_coherent_sets_as_phases(self, seed):
        label = np.arange(90) % 3
        sets = np.eye(3)[label]
        phi, psi = turned(np.sqrt(3) * sets, seed), turned(np.sqrt(3) * np.roll(sets, -1, axis=1), seed)
        first, second = coherent_memberships(phi, psi, 3)
        assert len(set(first.argmax(axis=1))) == 3
        np.testing.assert_allclose(first.max(axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(second.max(axis=1), 1, atol=1e-6)

    def test_fewer_states_than_sets_is_refused_with_what_to_do(self):
        functions = turned(2 * np.eye(4)[np.arange(40) % 4], 3)
        with pytest.raises(
            ValueError, match=r"more than 2 singular values are 1 .* ask for as many states as there are"
        ):
            membership_coefficients(functions, 2)

    def test_from_moments_of_two_chains_side_by_side(self):
        block = np.array([[0.8, 0.2], [0.3, 0.7]])
        P = np.block([[block, np.zeros((2, 2))], [np.zeros((2, 2)), block]])
        pi = np.array([0.6, 0.4, 0.6, 0.4]) * np.repeat([0.7, 0.3], 2)
        root = np.sqrt(16 * (pi[:, None] * P).ravel())[:, None]
        x, x_next = (
            torch.from_numpy(side * root) for side in (np.repeat(np.eye(4), 4, axis=0), np.tile(np.eye(4), (4, 1)))
        )
        phi = koopman_spectrum(estimate_moments(identity, identity, (x, x_next), n_blocks=1)).phi_coefficients.values
        chi = memberships(phi, membership_coefficients(phi, 2))
        np.testing.assert_allclose(chi @ chi.T, np.kron(np.eye(2), np.ones((2, 2))), atol=1e-8)


class TestNumberOfStates:
    @pytest.mark.parametrize("quantity", ["singular_values", "eigenvalues"])
    def test_blocks_are_counted_with_intervals(self, quantity):
        chain = FiniteMarkovChain.with_blocks(n_blocks=4, states_per_block=3, coupling=0.05)
        m = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 20_000)))
        found = number_of_states(m, quantity=quantity)
        assert found.attrs["suggested"] == 4
        assert float(found.votes.sel(n_states=4)) > 0.9
        assert (found.gap_interval.sel(bound="lower") <= found.gap).all()
        assert float(found.gap_interval.sel(bound="lower", n_states=4)) > 3
        np.testing.assert_allclose(found.votes.sum(), 1)

    def test_gap_is_the_ratio_of_timescales(self):
        m = exact_chain_moments(BLOCKS)
        sigma = koopman_spectrum(m).canonical_singular_values.values
        found = number_of_states(m)
        np.testing.assert_allclose(found.gap[0], np.log(sigma[2]) / np.log(sigma[1]))
        assert found.gap_interval.isnull().all()
        assert found.attrs["suggested"] == 3

    def test_refusals(self):
        m = exact_chain_moments(BLOCKS)
        with pytest.raises(ValueError, match="quantity must be 'singular_values' or 'eigenvalues'; got 'sigma'"):
            number_of_states(m, quantity="sigma")
        with pytest.raises(ValueError, match="at least 3 features to compare gaps; got 2"):
            number_of_states(exact_chain_moments(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]])))
