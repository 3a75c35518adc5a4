import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora._linalg import (
    conjugate_transpose,
    damped_triples,
    effective_rank,
    eigenvalue_order,
    hermitian_pinv,
    inverse_root,
    phase_of,
    sorted_eig,
    split_span,
    whitened_svd,
)

kinds = st.sampled_from(["real", "complex"])
both_kinds = pytest.mark.parametrize("kind", ["real", "complex"])


def matrix(seed, rows, columns, kind):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, columns))
    return values + 1j * rng.normal(size=(rows, columns)) if kind == "complex" else values


def gram(seed, k, kind, n=None):
    F = matrix(seed, n or 3 * k, k, kind)
    return F.conj().T @ F / len(F)


@given(seed=st.integers(0, 10_000), k=st.integers(1, 6), kind=kinds, exponent=st.integers(-8, 8))
def test_whitener_whitens_whatever_the_scale_of_features(seed, k, kind, exponent):
    M = gram(seed, k, kind)
    scale = np.ones(k)
    scale[0] = 10.0**exponent
    M = M * np.outer(scale, scale)
    W, rank = inverse_root(M)
    assert rank == k  # a small feature is not a dependent one
    assert np.allclose(W.conj().T @ M @ W, np.eye(k), atol=1e-8)


@both_kinds
def test_dependent_features_reduce_the_rank_and_give_zero_columns(kind):
    F = matrix(0, 40, 3, kind)
    F = np.concatenate([F, F @ matrix(1, 3, 2, kind)], axis=1)
    M = F.conj().T @ F / 40
    W, rank = inverse_root(M)
    assert rank == 3
    assert np.all(W[:, 3:] == 0)
    assert np.allclose(W.conj().T @ M @ W, np.diag([1, 1, 1, 0, 0]), atol=1e-9)


def test_threshold_is_relative_to_the_largest_eigenvalue():
    correlation = 1 - 1e-6
    M = 1e-30 * np.array([[1, correlation], [correlation, 1]])  # eigenvalue ratio 5e-7
    assert inverse_root(M, 4e-7).rank == 2
    assert inverse_root(M, 6e-7).rank == 1


def test_zero_matrix_has_rank_zero():
    W, rank = inverse_root(np.zeros((3, 3)))
    assert rank == 0
    assert np.all(W == 0)


@both_kinds
@pytest.mark.parametrize("k", [1, 4])
def test_pinv_of_a_full_matrix_is_the_inverse(k, kind):
    M = gram(2, k, kind)
    assert np.allclose(hermitian_pinv(M), np.linalg.inv(M), rtol=1e-10)


@both_kinds
def test_pinv_of_a_deficient_matrix_solves_what_can_be_solved(kind):
    M = gram(3, 5, kind, n=3)
    P = hermitian_pinv(M)
    assert np.allclose(M @ P @ M, M, atol=1e-10)
    assert np.allclose(P @ M @ P, P, atol=1e-8)


def test_effective_rank_counts_directions_not_sizes():
    assert np.isclose(effective_rank(np.diag([1.0, 1e6, 1e-6])), 3)
    assert np.isclose(effective_rank(np.ones((4, 4))), 1)


@both_kinds
def test_batched_matrices_give_what_single_ones_give(kind):
    M_f, M_g = (np.stack([gram(10 * i + j, 3, kind) for i in range(4)]) for j in (1, 2))
    T = np.stack([matrix(i, 3, 3, kind) for i in range(4)])
    left, values, right = whitened_svd(M_f, T, M_g)
    for i in range(4):
        single = whitened_svd(M_f[i], T[i], M_g[i])
        assert np.allclose(values[i], single.values, rtol=1e-12)
        outer = [(a * v) @ conjugate_transpose(b) for a, v, b in ((left[i], values[i], right[i]), single)]
        assert np.allclose(*outer, rtol=1e-9)


@given(seed=st.integers(0, 10_000), k_f=st.integers(1, 5), k_g=st.integers(1, 5), kind=kinds)
def test_whitened_svd_is_a_singular_value_decomposition(seed, k_f, k_g, kind):
    F, G = matrix(seed, 30, k_f, kind), matrix(seed + 1, 30, k_g, kind)
    G[:, 0] += F[:, 0]
    M_f, T, M_g = F.conj().T @ F / 30, F.conj().T @ G / 30, G.conj().T @ G / 30
    left, values, right = whitened_svd(M_f, T, M_g)
    r = min(k_f, k_g)
    assert np.allclose(conjugate_transpose(left) @ M_f @ left, np.eye(r), atol=1e-9)
    assert np.allclose(conjugate_transpose(right) @ M_g @ right, np.eye(r), atol=1e-9)
    assert np.allclose(conjugate_transpose(left) @ T @ right, np.diag(values), atol=1e-9)
    assert np.all(np.diff(values) <= 0)
    assert values[0] <= 1 + 1e-12  # correlations of the same pairs


def test_rank_keeps_the_leading_triples():
    M_f, T, M_g = gram(4, 4, "complex"), matrix(5, 4, 4, "complex"), gram(6, 4, "complex")
    full, part = whitened_svd(M_f, T, M_g), whitened_svd(M_f, T, M_g, rank=2)
    for cut, whole in zip(part, full, strict=True):
        assert np.allclose(cut, whole[..., :2], rtol=1e-12)


def one_and_noise(seed, kind, n=200, width=4):
    """Rows of (1, h), h correlated and of unequal scales, and of a second view of it."""
    h = matrix(seed, n, width, kind) @ matrix(seed + 1, width, width, kind) + 0.5
    other = h + 2 * matrix(seed + 2, n, width, kind)
    return [np.hstack([np.ones((n, 1)), side]) for side in (h, other)]


@both_kinds
def test_a_span_is_split_into_its_own_part_and_what_is_beyond_all_uncorrelated(kind):
    rows, _ = one_and_noise(0, kind)
    head = matrix(9, 4, 2, kind)
    own, beyond, variances = split_span(conjugate_transpose(rows) @ rows / 200, head)
    functions = rows @ np.hstack([own, beyond])
    assert np.allclose(functions.mean(axis=0), 0, atol=1e-9)
    assert np.allclose(conjugate_transpose(functions) @ functions / 200, np.eye(4), atol=1e-8)
    centred = rows[:, 1:] @ head - (rows[:, 1:] @ head).mean(axis=0)
    assert np.linalg.matrix_rank(np.hstack([centred, rows @ own]), tol=1e-8) == 2
    assert ((variances > 0) & (variances <= 1 + 1e-9)).all()


@both_kinds
@pytest.mark.parametrize("threshold", [np.inf, 1e-12], ids=["own part", "whole span"])
def test_damped_triples_lie_between_those_of_the_own_parts_and_of_the_whole_span(kind, threshold):
    f, g = one_and_noise(0, kind)
    head = matrix(9, 4, 2, kind)
    M_f, T, M_g = (conjugate_transpose(a) @ b / 200 for a, b in ((f, f), (f, g), (g, g)))
    found = damped_triples((M_f, T, M_g), (split_span(M_f, head), split_span(M_g, head)), threshold, n_modes=3)
    # the same by CCA of the functions themselves, the constant among them
    reach = head if np.isinf(threshold) else np.eye(4)
    phi, psi = (np.hstack([side[:, :1], side[:, 1:] @ reach]) for side in (f, g))
    wanted = whitened_svd(*(conjugate_transpose(a) @ b / 200 for a, b in ((phi, phi), (phi, psi), (psi, psi))), rank=3)
    assert np.allclose(found.values, wanted.values, atol=1e-6)
    assert found.values[0] == 1
    assert np.array_equal(found.left[:, 0], np.eye(5)[0])
    for coefficients, M in ((found.left, M_f), (found.right, M_g)):
        assert np.allclose(conjugate_transpose(coefficients) @ M @ coefficients, np.eye(3), atol=1e-8)
    assert np.allclose(conjugate_transpose(found.left) @ T @ found.right, np.diag(found.values), atol=1e-8)


@given(st.lists(st.complex_numbers(max_magnitude=1e6, allow_nan=False), min_size=1, max_size=5))
def test_phase_turns_values_real_positive(values):
    values = np.array(values)
    turned = values * phase_of(values)
    assert np.allclose(np.abs(phase_of(values)), 1)
    assert np.allclose(turned, np.abs(values), atol=1e-9 * max(1, np.abs(values).max()))


@both_kinds
def test_sorted_eig_gives_right_and_left_eigenvectors(kind):
    K = matrix(7, 6, 6, kind)
    values, right, left, condition = sorted_eig(K)
    assert np.allclose(K @ right, right * values, atol=1e-10)
    assert np.allclose(left.conj().T @ K, values[:, None] * left.conj().T, atol=1e-10)
    assert np.all(np.diff(np.abs(values)) <= 1e-12)
    assert np.all(condition >= 1 - 1e-12)


def test_normal_matrices_have_condition_one():
    angle = 0.3
    K = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    values, _, _, condition = sorted_eig(0.9 * K)
    assert np.allclose(values, 0.9 * np.exp([1j * angle, -1j * angle]))  # positive imaginary part first
    assert np.allclose(condition, 1)


def test_condition_predicts_how_far_an_eigenvalue_moves():
    K = np.array([[0.9, 5.0], [0.0, 0.5]])
    values, right, left, condition = sorted_eig(K)
    worst = 1e-7 * np.outer(left[:, 0], right[:, 0].conj())  # the worst perturbation of norm 1e-7
    moved = np.abs(sorted_eig(K + worst).values[0] - values[0])
    assert np.isclose(moved, 1e-7 * condition[0], rtol=1e-3)


def test_defective_eigenvalue_has_a_huge_condition():
    assert np.all(sorted_eig(np.array([[0.5, 1.0], [0.0, 0.5]])).condition > 1e8)


ORDERED = {
    "pairs": [1.0, 0.5 + 0.5j, 0.5 - 0.5j, -0.3, 0.1 + 0.2j, 0.1 - 0.2j],
    "one modulus": 0.9 * np.exp([0, 0.5j, -0.5j, 2j, -2j, 1j * np.pi]),
    # of complex features: a partner of equal modulus, but no conjugate one
    "complex features": [1j, 0.8 * np.exp(0.3j), 0.8 * np.exp(2j), 0.8 * np.exp(-2.5j), 0.1 - 0.1j],
    "small beside large": [1e6, 2.0 + 1j, 2.0 - 1j, -1.0],
    "empty": [],
}


@pytest.mark.parametrize("name", ORDERED)
@given(data=st.data(), seed=st.integers(0, 10_000))
def test_order_depends_neither_on_how_values_came_nor_on_round_off(name, data, seed):
    wanted = np.array(ORDERED[name], dtype=complex)
    shuffled = data.draw(st.permutations(range(len(wanted))))
    largest = np.abs(wanted).max(initial=0.0)
    round_off = 1e-14 * largest * (np.random.default_rng(seed).normal(size=(len(wanted), 2)) @ [1, 1j])
    values = (wanted + round_off)[shuffled]
    assert np.allclose(values[eigenvalue_order(values)], wanted, rtol=0, atol=1e-12 * largest)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 30)), min_size=1, max_size=5), st.integers(0, 10_000))
def test_two_sorts_of_the_same_values_agree(polar, seed):
    rng = np.random.default_rng(seed)
    values = np.array([r / 50 * np.exp(sign * 1j * angle / 10) for r, angle in polar for sign in (1, -1)])
    one, two = (rng.permutation(values + 1e-14 * rng.normal(size=len(values))) for _ in range(2))
    one, two = one[eigenvalue_order(one)], two[eigenvalue_order(two)]
    assert np.allclose(one, two, rtol=0, atol=1e-12)
    assert np.all(np.diff(np.abs(one)) <= 1e-12)


@given(st.permutations(range(6)), st.integers(1, 31))
def test_conjugate_pairs_stay_together_with_the_positive_imaginary_part_first(shuffled, angle):
    values = np.array([r * np.exp(sign * 1j * angle / 10) for r in (0.9, 0.6, 0.3) for sign in (1, -1)])[shuffled]
    ordered = values[eigenvalue_order(values)]
    assert np.allclose(ordered[::2], ordered[1::2].conj())
    assert np.all(ordered[::2].imag > 0)


@pytest.mark.parametrize(
    ("variances", "n_kept"),
    [
        ([1.0, 1e-3, 1e-6, 1e-9, 1e-11, 1e-13, 3e-15], 6),  # smooth features, down to single precision
        ([1.0, 1e-3, 3e-15, 3e-15, 2e-15, 2e-15, 2e-15], 1),  # of states that take three values
    ],
)
def test_round_off_is_cut_behind_a_gap_and_smooth_features_are_not(variances, n_kept):
    """Beside the first, which counts in full; 3e-15 is within the round-off of 16 eigenvalues."""
    M = np.diag([1.0, *variances, *[0.0] * 8])
    kept = split_span(M, np.eye(15, 1)).variances
    np.testing.assert_allclose(np.sort(kept)[::-1], variances[1 : 1 + n_kept], rtol=1e-9)
