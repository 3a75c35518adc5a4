import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.accumulation import estimate_moments
from koopman_lora.losses import vamp_loss
from koopman_lora.moments import CROSS, Moments
from koopman_lora.scores import Validation, validation_scores, validation_sigma, vamp_scores


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


@kinds
def test_validation_scores_are_those_of_the_moments(kind):
    f, g = draw(4, 300, 4, kind)
    train, test = moments(f[:200], g[:200]), moments(f[200:], g[200:])
    from koopman_lora._linalg import whitened_svd

    left, sigma, right = whitened_svd(train.M_f, train.T_fg, train.M_g, rank=3)
    validation = Validation(sigma, f[200:] @ left, g[200:] @ right, None)
    assert np.allclose(validation_scores(validation), vamp_scores(train, test, 3), rtol=1e-8)
    phi, psi = validation.phi, validation.psi
    wanted = [np.real(np.vdot(a, b)) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(phi.T, psi.T, strict=True)]
    assert np.allclose(validation_sigma(validation), wanted, rtol=1e-12)


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
