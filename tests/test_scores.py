import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora._linalg import whitened_svd
from koopman_lora.accumulation import estimate_moments
from koopman_lora.baselines import vamp_loss
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.moments import CROSS, Moments
from koopman_lora.scores import (
    Validation,
    correlations_of_folds,
    held_out_scores,
    jackknife_error,
    vamp_e,
    vamp_e_curve,
    vamp_scores,
)
from koopman_lora.triples import canonical_triples


def draw(seed, n, k, kind):
    rng = np.random.default_rng(seed)
    f, noise = rng.normal(size=(2, n, k)) + (1j * rng.normal(size=(2, n, k)) if kind == "complex" else 0)
    return f, f * np.linspace(0.9, 0.3, k) + 0.5 * noise + 0.2


def moments(f, g):
    n = len(f)
    sums = {"M_f": f.conj().T @ f, "M_g": g.conj().T @ g, "T_fg": f.conj().T @ g}
    return Moments({name: value[None] for name, value in sums.items()}, np.array([float(n)]))


kinds = pytest.mark.parametrize("kind", ["real", "complex"])


def test_scores_at_the_exact_functions_are_known(exact_pairs):
    reference, k = exact_pairs.reference, 4
    exact = moments(exact_pairs.rows(reference.left)[:, :k], exact_pairs.rows(reference.right, at="x_next")[:, :k])
    sigma = reference.singular_values[:k]
    assert np.allclose(vamp_scores(exact, exact), [sigma.sum(), (sigma**2).sum(), (sigma**2).sum()], atol=1e-10)
    assert np.allclose(vamp_scores(exact, exact, n_modes=2).vamp_2, (sigma[:2] ** 2).sum(), atol=1e-10)


def test_held_out_vamp_e_is_minus_the_error_of_the_operator(exact_pairs):
    """||K - K_hat||_HS^2 = sum sigma^2 - VAMP-E, for an estimate from a few pairs scored on the exact law."""
    reference = exact_pairs.reference
    k = len(reference.singular_values)
    exact = moments(exact_pairs.rows(reference.left), exact_pairs.rows(reference.right, at="x_next"))
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(exact_pairs.weights), 400, p=exact_pairs.weights / exact_pairs.weights.sum())
    sample = moments(reference.left(exact_pairs.x[chosen]), reference.right(exact_pairs.x_next[chosen]))
    # in coordinates of the exact functions K is diag(sigma), and K_hat the EDMD-like core of the sample
    core = np.linalg.inv(sample.M_f) @ sample.T_fg @ np.linalg.inv(sample.M_g)
    error = np.linalg.norm(np.diag(reference.singular_values) - core) ** 2
    total = (reference.singular_values**2).sum()
    assert np.isclose(vamp_scores(sample, exact, k).vamp_e, total - error, atol=1e-8)
    assert error > 1e-4


@kinds
def test_scores_of_training_data_agree_with_the_losses(kind):
    f, g = draw(1, 200, 4, kind)
    scores = vamp_scores(moments(f, g), moments(f, g))
    for score, value in zip(("1", "2", "E"), scores, strict=True):
        assert np.isclose(-vamp_loss(torch.from_numpy(f), torch.from_numpy(g), score, 1e-13).item(), value, rtol=1e-8)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["real", "complex"]))
def test_scores_do_not_depend_on_the_basis(seed, kind):
    f, g = draw(seed, 150, 3, kind)
    rng = np.random.default_rng(seed + 1)
    A, B = (rng.normal(size=(3, 3)) + 3 * np.eye(3) for _ in "ab")
    if max(np.linalg.cond(A), np.linalg.cond(B)) > 1e3:
        return
    train, test = moments(f[:100], g[:100]), moments(f[100:], g[100:])
    moved = [moments(f[part] @ A, g[part] @ B) for part in (slice(100), slice(100, None))]
    assert np.allclose(vamp_scores(train, test), vamp_scores(*moved), rtol=1e-7)


@given(seed=st.integers(0, 1000))
def test_held_out_vamp_e_is_at_most_held_out_vamp_2_of_as_many_modes(seed):
    """VAMP-E charges for wrong sizes too; VAMP-2 refits them on the test pairs."""
    f, g = draw(seed, 120, 3, "real")
    scores = vamp_scores(moments(f[:60], g[:60]), moments(f[60:], g[60:]))
    assert scores.vamp_e <= scores.vamp_2 + 1e-9


def test_noise_features_lower_the_held_out_score():
    rng = np.random.default_rng(2)
    f, g = draw(3, 400, 2, "real")
    noisy_f, noisy_g = (np.column_stack([a, rng.normal(size=(400, 60))]) for a in (f, g))
    train, test = slice(200), slice(200, None)
    clean = vamp_scores(moments(f[train], g[train]), moments(f[test], g[test])).vamp_e
    noisy = vamp_scores(moments(noisy_f[train], noisy_g[train]), moments(noisy_f[test], noisy_g[test]))
    on_training_pairs = vamp_scores(moments(noisy_f[train], noisy_g[train]), moments(noisy_f[train], noisy_g[train]))
    assert noisy.vamp_e < clean - 0.1
    assert on_training_pairs.vamp_e > clean


def pairs_of(n, clock=()):
    return lagged_pairs((np.arange(1.0, n + 1), np.arange(2.0, n + 2)), *clock)


@kinds
def test_scores_of_a_validation_are_those_of_the_moments(kind):
    f, g = draw(4, 300, 4, kind)
    train, test = moments(f[:200], g[:200]), moments(f[200:], g[200:])
    left, sigma, right = whitened_svd(train.M_f, train.T_fg, train.M_g, rank=3)
    validation = Validation.of_functions(sigma, f[200:] @ left, g[200:] @ right, pairs_of(100))
    assert np.allclose(validation.scores(), vamp_scores(train, test, 3), rtol=1e-8)
    phi, psi = validation.phi, validation.psi
    wanted = [np.real(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(phi.T, psi.T, strict=True)]
    assert np.allclose(validation.correlations(), wanted, rtol=1e-12)


@kinds
def test_a_validation_holds_the_moments_of_its_functions_in_blocks_of_time(kind):
    f, g = draw(6, 100, 2, kind)
    validation = Validation.of_functions(np.array([0.9, 0.3]), f, g, pairs_of(100, (5, 0.5, "ns")))
    assert 25 <= validation.moments.n_blocks <= 32
    assert validation.moments.n_pairs == 100
    assert validation.moments.clock.lag_time == 2.5
    whole = moments(f, g)
    first = int(validation.moments.block_counts[0])
    for name, side in (("M_f", (f, f)), ("M_g", (g, g)), ("T_fg", (f, g))):
        assert np.allclose(getattr(validation.moments, name), getattr(whole, name), rtol=1e-12)
        head = side[0][:first].conj().T @ side[1][:first]
        assert np.allclose(validation.moments.block_sums[name][0], head, rtol=1e-12)
    assert str(validation) == "Validation(sigma 0.900, 0.300 from training; 100 held-out pairs)"


@kinds
def test_a_validation_of_a_solution_is_that_of_its_functions_at_the_held_out_pairs(kind):
    f, g = draw(10, 300, 4, kind)
    train = moments(f[:200], g[:200])
    solution = whitened_svd(train.M_f, train.T_fg, train.M_g, rank=3)
    pairs = pairs_of(100)  # x = 1, 2, ...: the number of a row, and x' the next one
    rows = (lambda x: torch.from_numpy(f)[199 + x[:, 0].long()], lambda y: torch.from_numpy(g)[198 + y[:, 0].long()])
    found = Validation.of_solution(solution, rows, pairs)
    assert np.allclose(found.phi, f[200:] @ solution.left, rtol=1e-12, atol=1e-12)
    assert np.allclose(found.psi, g[200:] @ solution.right, rtol=1e-12, atol=1e-12)
    assert np.allclose(found.sigma, solution.values, rtol=1e-12)
    assert np.allclose(found.scores(), vamp_scores(train, moments(f[200:], g[200:]), 3), rtol=1e-8)


@given(seed=st.integers(0, 500))
def test_the_curve_is_vamp_e_of_each_leading_number_of_functions(seed):
    f, g = draw(seed, 60, 4, "complex")
    there = moments(f, g)
    sigma = np.sort(np.random.default_rng(seed).uniform(0, 1, 4))[::-1]
    wanted = [float(vamp_e(sigma[:n], moments(f[:, :n], g[:, :n]))) for n in range(1, 5)]
    assert np.allclose(vamp_e_curve(sigma, there), wanted, rtol=1e-10, atol=1e-12)
    C00, C01, C11 = there.M_f, there.T_fg, there.M_g
    S = np.diag(sigma)
    assert np.isclose(wanted[-1], np.real(2 * np.trace(S @ C01) - np.trace(S @ C00 @ S @ C11)), rtol=1e-10)


@kinds
def test_vamp_e_leaving_out_blocks_is_vamp_e_without_their_pairs(kind):
    f, g = draw(7, 60, 3, kind)
    train = moments(*draw(8, 60, 3, kind))
    triples = whitened_svd(train.M_f, train.T_fg, train.M_g)
    rows = torch.arange(60)[:, None]
    maps = (lambda i: f[i[:, 0].numpy()], lambda i: g[i[:, 0].numpy()])
    blocks = estimate_moments(*maps, (rows, rows), names=CROSS, n_blocks=6)

    def score(test):
        return vamp_e(triples.values, test.transformed(triples.left, triples.right))

    found = score(blocks.leaving_out())
    others = [np.arange(60) // 10 != block for block in range(6)]
    wanted = [float(score(moments(f[kept], g[kept]))) for kept in others]
    assert np.allclose(found, wanted, rtol=1e-10)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=(20, 2))
    without = (values.sum(axis=0) - values) / 19
    assert np.allclose(jackknife_error(without), values.std(axis=0, ddof=1) / np.sqrt(20), rtol=1e-12)


@kinds
def test_folds_judge_functions_that_others_solved(kind):
    """From rows, by QR: correlations of the functions of four parts at the rows of the fifth, over all five."""
    f, g = draw(11, 250, 3, kind)
    parts = [slice(start, start + 50) for start in range(0, 250, 50)]
    folds = sum((moments(f[part], g[part]) for part in parts[1:]), start=moments(f[parts[0]], g[parts[0]]))
    phi, psi = np.empty_like(f), np.empty_like(g)
    for part in parts:
        rest = np.delete(np.arange(250), part)
        (Q_f, R_f), (Q_g, R_g) = np.linalg.qr(f[rest]), np.linalg.qr(g[rest])
        U, _, Vh = np.linalg.svd(Q_f.conj().T @ Q_g)
        phi[part], psi[part] = f[part] @ np.linalg.solve(R_f, U), g[part] @ np.linalg.solve(R_g, Vh.conj().T)
    products = np.sum(phi.conj() * psi, axis=0).real
    wanted = products / np.linalg.norm(phi, axis=0) / np.linalg.norm(psi, axis=0)
    assert np.allclose(correlations_of_folds(canonical_triples, folds), wanted, rtol=1e-9)
    assert correlations_of_folds(canonical_triples, moments(f, g)) is None


def test_folds_find_nothing_in_noise_where_fitted_pairs_do():
    found, fitted = [], []
    for seed in range(20):
        f, g = np.random.default_rng(seed).normal(size=(2, 200, 4))
        folds = sum((moments(f[i::5], g[i::5]) for i in range(1, 5)), start=moments(f[::5], g[::5]))
        found.append(correlations_of_folds(canonical_triples, folds)[0])
        fitted.append(canonical_triples(moments(f, g)).values[0])
    assert abs(np.mean(found)) < 0.06 < 0.12 < np.mean(fitted)


def test_held_out_scores_are_vamp_scores_with_their_conventions():
    f, g = draw(9, 1500, 3, "real")
    train, test = moments(f[:1000], g[:1000]), moments(f[1000:], g[1000:])
    scores = held_out_scores(train, test)
    assert [float(scores[n]) for n in ("vamp_1", "vamp_2", "vamp_e")] == list(vamp_scores(train, test))
    assert scores.counts_constant_mode
    assert (scores.n_pairs_train, scores.n_pairs_held_out) == (1000, 500)


def test_scores_from_summed_moments_are_not_means_of_batch_scores():
    f, g = draw(5, 400, 3, "real")

    def row(values):
        return lambda index: values[index[:, 0].numpy()]

    rows = torch.arange(400)[:, None].split(20)
    batches = [estimate_moments(row(f), row(g), (i, i), names=CROSS) for i in rows]
    total = sum(batches[1:], start=batches[0])
    whole = moments(f, g)
    assert np.allclose(vamp_scores(total, total), vamp_scores(whole, whole), rtol=1e-10)
    assert np.mean([vamp_scores(b, b).vamp_2 for b in batches]) > vamp_scores(whole, whole).vamp_2 + 0.05
