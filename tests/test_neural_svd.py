"""NeuralSVD against LAPACK: every dtype, orthogonality and parametrisation; what a fitted one answers."""

import warnings

import numpy as np
import pytest
import torch
from known_matrices import DECAYS, DTYPES, check_against_lapack, decaying, normal, with_singular_values
from scipy.sparse.linalg import aslinearoperator
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from koopman_lora.io import load_dataset, save_dataset
from koopman_lora.svd import norms
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.orthogonality import ORTHOGONALITIES
from koopman_lora.svd.phases import fix_phases

GOOD = np.eye(4, 3)


@pytest.mark.parametrize("orthogonality", ORTHOGONALITIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("decay", DECAYS)
def test_lapack_for_every_dtype_and_orthogonality(dtype, orthogonality, decay):
    H = decaying(decay, 40, 30, dtype)
    check_against_lapack(NeuralSVD(n_modes=6, orthogonality=orthogonality).fit(H), H)


@pytest.mark.parametrize("shape", [(200, 10), (12, 150), (25, 25), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("parametrization", ["table", "embedding"])
def test_shapes_and_parametrizations(shape, parametrization):
    H = normal(np.random.default_rng(3), *shape, is_complex=True)
    svd = NeuralSVD(n_modes=min(4, *shape), parametrization=parametrization, hidden_dims=(16,)).fit(H)
    check_against_lapack(svd, H)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("decay", DECAYS)
def test_polishing_reaches_working_precision(dtype, decay):
    H = decaying(decay, 50, 60, dtype)
    svd = NeuralSVD(n_modes=5, polish_steps=200).fit(H)
    exact = np.linalg.svd(H, compute_uv=False)[:5]
    np.testing.assert_allclose(svd.singular_values_, exact, rtol=1e-10)
    assert svd.n_polish_steps_ < 200
    assert svd.errors_["reconstruction"] == pytest.approx(svd.errors_["eckart_young"], rel=1e-9, abs=1e-14)


def test_singular_vectors_and_the_core():
    H = decaying("0.5", 30, 20, "complex128")
    svd = NeuralSVD(n_modes=4, polish_steps=50, phase="max").fit(H)
    U, s, Vh = np.linalg.svd(H)
    U, _, Vh = fix_phases(U[:, :4], s[:4], Vh[:4], "max")
    np.testing.assert_allclose(svd.U_, U, atol=1e-9)
    np.testing.assert_allclose(svd.Vh_, Vh, atol=1e-9)
    np.testing.assert_allclose(svd.result_["core"], np.diag(s[:4]), atol=1e-12)


def test_repeated_singular_values_give_the_right_subspaces():
    H = with_singular_values(np.array([3.0, 3, 3, 1, 1, 0.1, 0.1]), 30, 25)
    svd = NeuralSVD(n_modes=5, polish_steps=50).fit(H)
    U = np.linalg.svd(H)[0]
    for modes in (slice(0, 3), slice(3, 5)):
        np.testing.assert_allclose(svd.U_[:, modes] @ svd.U_[:, modes].T, U[:, modes] @ U[:, modes].T, atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (10, 10)])
def test_full_decomposition_is_the_default(shape):
    H = normal(np.random.default_rng(0), *shape)
    svd = NeuralSVD(polish_steps=5).fit(H)
    np.testing.assert_allclose(svd.singular_values_, np.linalg.svd(H, compute_uv=False), rtol=1e-10)
    np.testing.assert_allclose(svd.reconstruct(), H, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("orthogonality", ORTHOGONALITIES)
def test_zero_matrix(dtype, orthogonality):
    svd = NeuralSVD(n_modes=3, orthogonality=orthogonality).fit(np.zeros((6, 5), dtype))
    assert np.all(svd.singular_values_ == 0)
    assert svd.stop_reason_ == "zero matrix"
    assert max(svd.errors_["orthogonality_u"], svd.errors_["orthogonality_v"]) < 1e-6
    assert svd.errors_["reconstruction"] == 0


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e30, 1e250])
def test_units_do_not_matter(scale):
    H = decaying("0.9", 12, 10)
    a, b = NeuralSVD(n_modes=3).fit(H), NeuralSVD(n_modes=3).fit(H * scale)
    np.testing.assert_allclose(b.singular_values_ / scale, a.singular_values_, rtol=1e-7)
    assert b.errors_["reconstruction"] == pytest.approx(a.errors_["reconstruction"], rel=1e-6)


def test_denoising_is_as_good_as_truncated_lapack():
    rng = np.random.default_rng(0)
    clean = normal(rng, 64, 32, is_complex=True) @ normal(rng, 32, 64, is_complex=True)
    noise = normal(rng, 64, 64, is_complex=True)
    H = clean + 0.1 * noise * np.linalg.norm(clean) / np.linalg.norm(noise)  # 20 dB
    U, s, Vh = np.linalg.svd(H)
    lapack = np.linalg.norm((U[:, :32] * s[:32]) @ Vh[:32] - clean)
    assert np.linalg.norm(NeuralSVD(n_modes=32).fit(H).reconstruct() - clean) <= 1.0001 * lapack


@pytest.mark.slow
def test_energy_chooses_the_number_of_modes():
    s = 0.8 ** np.arange(60)
    H = with_singular_values(s, 80, 60)
    share = np.cumsum(s**2) / np.sum(s**2)
    for energy in (0.5, 0.99):
        assert len(NeuralSVD(energy=energy).fit(H).singular_values_) == np.argmax(share >= energy) + 1


def test_energy_doubles_the_trial_rank():
    H = np.eye(50)
    assert len(NeuralSVD(energy=0.9).fit(H).singular_values_) == 45
    assert len(NeuralSVD(energy=1.0).fit(H).singular_values_) == 50
    assert len(NeuralSVD(energy=0.9).fit(0 * H).singular_values_) == 1


def test_same_seed_same_result_and_global_state_untouched():
    H = decaying("0.9", 15, 12)
    state = torch.get_rng_state()
    a, b = (NeuralSVD(n_modes=3, seed=4).fit(H) for _ in "ab")
    np.testing.assert_allclose(a.U_, b.U_, atol=1e-10)  # BLAS rounds by the alignment of memory
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.slow
@pytest.mark.parametrize("orthogonality", ["bjorck", "qr"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_tracking_takes_a_fifth_of_the_steps(dtype, orthogonality):
    rng = np.random.default_rng(0)
    H = decaying("0.9", 60, 50, dtype)
    svd = NeuralSVD(n_modes=5, orthogonality=orthogonality).partial_fit(H)
    for _ in range(3):
        change, before = normal(rng, 60, 50, is_complex=np.iscomplexobj(H)), svd.U_
        H = H + 0.01 * np.linalg.norm(H) * change / np.linalg.norm(change)
        svd.partial_fit(H)
        check_against_lapack(svd, H)
        overlap = np.sum(before.conj() * svd.U_, axis=0)
        np.testing.assert_allclose(overlap.imag, 0, atol=1e-12)
        assert (overlap.real > 0).all()
        assert svd.n_steps_ <= clone(svd).fit(H).n_steps_ / 5


def test_fit_many_takes_three_dimensional_input():
    batch = normal(np.random.default_rng(0), 3, 12, 10)
    for svd, H in zip(NeuralSVD(n_modes=2).fit_many(batch), batch, strict=True):
        check_against_lapack(svd, H)


def kernel(x, y):
    return np.exp(-np.sum((x[:, None] - y[None]) ** 2, axis=-1))


@pytest.mark.parametrize("is_complex", [False, True])
def test_features_map_unseen_rows_and_columns(is_complex):
    rng = np.random.default_rng(0)
    x, y, new = rng.uniform(-1, 1, (60, 2)), rng.uniform(-1, 1, (50, 2)), rng.uniform(-1, 1, (20, 2))
    twist = np.exp(1j * new[:, :1]) if is_complex else 1.0
    H = kernel(x, y) * (np.exp(1j * x[:, :1]) if is_complex else 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svd = NeuralSVD(n_modes=4, parametrization="features", max_steps=100)
        svd.fit(H, row_features=x, column_features=torch.as_tensor(y))
    check_against_lapack(svd, H, tolerance=1e-2)
    np.testing.assert_allclose(svd.transform_rows(x), svd.U_, atol=1e-6)
    np.testing.assert_allclose(svd.transform_columns(y), svd.Vh_.conj().T, atol=1e-6)
    unseen = (svd.transform_rows(new) * svd.singular_values_) @ svd.Vh_
    seen_error = svd.errors_["reconstruction"] * np.linalg.norm(H) / np.sqrt(H.size)
    assert np.sqrt(np.mean(np.abs(unseen - kernel(new, y) * twist) ** 2)) < 3 * seen_error


def test_features_of_one_side_only():
    x = np.linspace(-1, 1, 30)[:, None]
    H = np.cos(3 * x @ np.linspace(0, 1, 20)[None])
    svd = NeuralSVD(n_modes=2, parametrization="features").fit(H, row_features=x)
    check_against_lapack(svd, H, tolerance=1e-3)
    with pytest.raises(ValueError, match="fit had no column_features"):
        svd.transform_columns(x)
    with pytest.raises(ValueError, match="row_features must have 1 columns"):
        svd.transform_rows(np.zeros((3, 2)))


def test_dataset_holds_every_stage_and_survives_a_file(tmp_path):
    H = decaying("0.9", 15, 12, "complex128")
    svd = NeuralSVD(n_modes=3, polish_steps=20).fit(H)
    data = svd.to_dataset()
    assert data is svd.result_
    exact = np.linalg.svd(H, compute_uv=False)[:3]
    for name in ("trained", "column_norms", "ritz", "exact"):
        np.testing.assert_allclose(data[f"singular_values_{name}"], exact, rtol=1e-3)
    assert data.sizes["iteration"] == svd.n_steps_ == data.attrs["n_steps"]
    assert data["training_error"][-1] == pytest.approx(svd.errors_["eckart_young"], rel=1e-3)
    save_dataset(data, tmp_path / "result.nc")
    np.testing.assert_array_equal(load_dataset(tmp_path / "result.nc")["U"], svd.U_)


# ---------------------------------------------------------------------------------------------- what it prints


@pytest.mark.slow
def test_print_of_a_fitted_one_says_what_it_is():
    H = decaying("0.9", 300, 200, "complex64")
    svd = NeuralSVD(n_modes=40, phase="reference", reference=np.eye(300, 40)).fit(H)
    lines = str(svd).splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 120
    assert str(svd).startswith(repr(svd))
    leading = " ".join(f"{value:.4g}" for value in svd.singular_values_[:6])
    errors = svd.errors_
    for text in (
        "300 x 200, complex64; 40 of 200 modes",
        f"{leading} ...",
        f"reconstruction {errors['reconstruction']:.3g} (optimum {errors['eckart_young']:.3g})",
        f"U {errors['orthogonality_u']:.1g}, of V {errors['orthogonality_v']:.1g}",
        f"converged, after {svd.n_steps_} steps",
    ):
        assert text in str(svd)


def test_print_claims_nothing_that_is_unknown(monkeypatch):
    assert str(NeuralSVD(n_modes=3)) == repr(NeuralSVD(n_modes=3))
    monkeypatch.setattr(norms, "EXACT_NORM_PRODUCTS", 10)
    svd = NeuralSVD(n_modes=1).fit(aslinearoperator(np.outer(np.ones(30), np.ones(20))))
    assert "reconstruction not resolved (optimum not computed)" in str(svd)


# ---------------------------------------------------------------------------------------------- refusals


def test_partial_fit_keeps_shape_and_kind():
    svd = NeuralSVD(n_modes=1).fit(GOOD)
    for other in (np.eye(5, 3), GOOD.astype(complex)):
        with pytest.raises(ValueError, match=r"H must be real of shape \(4, 3\)"):
            svd.partial_fit(other)


def test_results_need_a_fit():
    svd = NeuralSVD()
    for call in (svd.reconstruct, svd.to_dataset, lambda: svd.transform_rows(GOOD)):
        with pytest.raises(NotFittedError, match="call fit"):
            call()
    with pytest.raises(ValueError, match="fit had no row_features"):
        NeuralSVD(n_modes=1).fit(GOOD).transform_rows(GOOD)
