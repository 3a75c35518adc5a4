"""Training on sampled rows and columns: small singular values too, and an honest error."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from known_matrices import DECAYS, decaying, normal, with_singular_values
from sklearn.exceptions import ConvergenceWarning

from koopman_lora.svd.inputs import as_products
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.triples import balanced, power_step, rayleigh_ritz, value_errors


def errors_of(svd, exact):
    """Relative error of every kept singular value, true and estimated; round-off of the matrix itself set aside."""
    exact = exact[: len(svd.singular_values_)]
    true = np.maximum(np.abs(svd.singular_values_ - exact) - 1e-14 * exact[0], 0)
    return true / exact, svd.result_["singular_values_error"].values / exact


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("decay", ["0.5", "0.9", "1/i"])
@pytest.mark.parametrize("sample", [(40, 30), (10, 8)])  # fewer than the 14 columns that are trained, too
def test_every_kept_singular_value_to_a_hundredth(dtype, decay, sample):
    H = decaying(decay, 80, 60, dtype, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svd = NeuralSVD(n_modes=6, sample=sample, max_steps=600).fit(H)
    true, _ = errors_of(svd, DECAYS[decay](np.arange(60)))
    assert true.max() < 1e-2
    trained = svd.result_["singular_values_trained"] / svd.result_["singular_values_exact"] - 1
    assert np.abs(trained).max() < 5e-2  # the samples alone, before the whole matrix is seen
    assert svd.stop_reason_ == "all steps taken"
    assert "approximate: trained on samples" in str(svd)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("decay", ["0.5", "0.9", "1/i"])
@pytest.mark.parametrize(("shape", "sample"), [((200, 150), (64, 48)), ((1000, 800), (100, 80))])
def test_a_hundredth_of_ten_modes_of_large_matrices(dtype, decay, shape, sample):
    svd = NeuralSVD(n_modes=10, sample=sample, max_steps=1000, seed=3).fit(decaying(decay, *shape, dtype, seed=2))
    true, _ = errors_of(svd, DECAYS[decay](np.arange(min(shape))))
    assert true.max() < 1e-2


@pytest.mark.parametrize("decay", ["1/i", "0.9", "flat"])
@pytest.mark.parametrize("max_steps", [100, 400])
def test_the_error_told_is_at_least_the_true_one_and_not_far_above(decay, max_steps):
    for seed in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            svd = NeuralSVD(n_modes=6, sample=(20, 15), max_steps=max_steps, seed=seed)
            svd.fit(decaying(decay, 80, 60, seed=seed))
        true, told = errors_of(svd, DECAYS[decay](np.arange(60)))
        assert np.all(true <= 1.05 * told + 1e-12)
        assert told.max() <= 10 * true.max() + 1e-12
        assert svd.errors_["singular_values"] == pytest.approx(told.max(), rel=0.3)


def test_even_far_too_few_steps_do_not_look_good():
    for seed in range(5):
        with pytest.warns(ConvergenceWarning):
            svd = NeuralSVD(n_modes=6, sample=(20, 15), max_steps=10, seed=seed).fit(decaying("0.9", 80, 60, seed=seed))
        true, told = errors_of(svd, DECAYS["0.9"](np.arange(60)))
        assert true.max() < 1.5 * told.max()


def test_what_did_not_converge_warns_and_polishing_is_a_remedy():
    H = decaying("flat", 80, 60)
    with pytest.warns(ConvergenceWarning, match=r"an error of an estimated 0\.[12].*set polish_steps") as caught:
        svd = NeuralSVD(n_modes=6, sample=(10, 8), max_steps=50).fit(H)
    assert caught[0].filename == __file__
    assert not svd.checklist().passed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        polished = NeuralSVD(n_modes=6, sample=(10, 8), max_steps=50, polish_steps=200).fit(H)
    true, told = errors_of(polished, DECAYS["flat"](np.arange(60)))
    assert true.max() < 1e-9
    assert told.max() < 1e-9


@pytest.mark.parametrize("orthogonality", ["bjorck", "penalty", None])
@pytest.mark.parametrize("parametrization", ["table", "embedding"])
def test_least_squares_is_the_same_in_every_form(orthogonality, parametrization):
    H = decaying("0.5", 40, 30, "complex128")
    svd = NeuralSVD(4, sample=(20, 15), orthogonality=orthogonality, parametrization=parametrization, max_steps=400)
    svd.fit(H)
    np.testing.assert_allclose(svd.singular_values_, 0.5 ** np.arange(4), rtol=1e-8)
    for name in ("trained", "column_norms"):
        np.testing.assert_allclose(svd.result_[f"singular_values_{name}"], 0.5 ** np.arange(4), rtol=1e-3)


def test_sampled_training_of_features_and_of_a_sparse_matrix():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (60, 1)), rng.uniform(-1, 1, (50, 1))
    H = np.exp(-((x - y.T) ** 2))
    svd = NeuralSVD(2, parametrization="features", sample=(30, 25), hidden_dims=(16,), max_steps=60)
    svd.fit(H, row_features=x, column_features=y)
    np.testing.assert_allclose(svd.singular_values_, np.linalg.svd(H)[1][:2], rtol=1e-2)
    np.testing.assert_allclose(svd.transform_rows(x), svd.U_, atol=1e-6)
    low = with_singular_values(np.array([2.0, 1.0]), 30, 20)
    sparse = NeuralSVD(n_modes=2, sample=(15, 10), max_steps=300).fit(scipy.sparse.csr_matrix(low))
    np.testing.assert_allclose(sparse.singular_values_, [2, 1], rtol=1e-8)


def test_the_sampled_error_in_training_ends_at_the_floor():
    svd = NeuralSVD(n_modes=6, sample=(40, 30), max_steps=600).fit(decaying("1/i", 80, 60))
    last = svd.result_["training_error"][-100:].mean()
    assert last == pytest.approx(float(svd.result_["training_floor"]), rel=0.02)
    assert svd.result_["training_floor"] == svd.errors_["eckart_young"]


@pytest.mark.parametrize("is_complex", [False, True])
def test_balanced_factors_are_the_svd_of_their_product(is_complex):
    rng = np.random.default_rng(0)
    G, F = (torch.as_tensor(normal(rng, n, 3, is_complex=is_complex)) for n in (7, 5))
    U, values, V = balanced(G, F)
    torch.testing.assert_close((U * values) @ V.mH, G @ F.mH)
    torch.testing.assert_close(values, torch.linalg.svdvals(G @ F.mH)[:3])
    torch.testing.assert_close(U.mH @ U, torch.eye(3, dtype=U.dtype))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_power_step_never_loses_and_keeps_what_it_says(dtype):
    rng = np.random.default_rng(1)
    H = as_products(decaying("1/i", 30, 20, dtype))
    G, F = (torch.as_tensor(normal(rng, n, 4, is_complex=dtype[0] == "c")) for n in (30, 20))
    before = rayleigh_ritz(H, G, F)
    after = power_step(H, before)
    exact = torch.as_tensor(1 / np.arange(1.0, 5.0))
    assert torch.all(before.values < after.values)
    assert torch.all(after.values <= exact + 1e-12)
    torch.testing.assert_close(after.HU, H.adjoint(after.U))
    torch.testing.assert_close(after.HV, H(after.V))
    torch.testing.assert_close(after.U.mH @ after.HV, torch.diag(after.values).to(after.U.dtype))


def test_errors_of_a_complete_or_exact_decomposition_are_round_off():
    H = as_products(decaying("0.9", 12, 8))
    whole = rayleigh_ritz(H, torch.randn(12, 8).double(), torch.randn(8, 8).double())
    assert value_errors(power_step(H, whole), 8).max() < 1e-13
