"""NeuralSVD against LAPACK: every dtype, orthogonality and parametrisation, and every error path."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, aslinearoperator
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from koopman_lora.io import load_dataset, save_dataset
from koopman_lora.svd import products as matrix_operators
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.products import (
    ORTHOGONALITIES,
    as_products,
    bjorck,
    fix_phases,
    modes_for_energy,
    orthogonality_error,
    polish,
    rayleigh_ritz,
)
from koopman_lora.svd.training import (
    EmbeddingFactor,
    FactorTrainer,
    TableFactor,
    loss_terms,
    sampled_loss_terms,
    truncation_weights,
)

DTYPES = ("float32", "float64", "complex64", "complex128")
DECAYS = {
    "0.9": lambda i: 0.9**i,
    "0.5": lambda i: 0.5**i,
    "1/i": lambda i: 1 / (1.0 + i),
    "flat": lambda i: 1 - i / (2.0 * len(i)),
    "rank 5": lambda i: np.where(i < 5, 1 - i / 10, 0.0),
}


def normal(rng, *shape, is_complex=False):
    return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0)


def with_singular_values(s, M, N, dtype="float64", seed=0):
    rng, is_complex = np.random.default_rng(seed), np.dtype(dtype).kind == "c"
    U, V = (np.linalg.qr(normal(rng, n, len(s), is_complex=is_complex))[0] for n in (M, N))
    return ((U * s) @ V.conj().T).astype(dtype)


def decaying(decay, M, N, dtype="float64", seed=0):
    return with_singular_values(DECAYS[decay](np.arange(min(M, N))), M, N, dtype, seed)


def check_against_lapack(svd, H, tolerance=1e-4):
    """Sigma and reconstruction within `tolerance` of LAPACK's; orthonormal to the precision of the dtype."""
    is_single = H.dtype.itemsize // (2 if H.dtype.kind == "c" else 1) == 4
    exact = np.linalg.svd(H.astype(complex), compute_uv=False)
    k = len(svd.singular_values_)
    floor = 1e-6 if is_single else 1e-12
    assert np.all(np.abs(svd.singular_values_ - exact[:k]) <= tolerance * exact[:k] + floor * exact[0])
    best = np.linalg.norm(exact[k:]) / np.linalg.norm(exact)
    assert svd.errors_["eckart_young"] == pytest.approx(best, abs=1e-7)
    assert svd.errors_["reconstruction"] <= best * (1 + tolerance) + 1e-6
    measured = np.linalg.norm(H - svd.reconstruct()) / np.linalg.norm(H)
    assert svd.errors_["reconstruction"] == pytest.approx(measured, rel=1e-3, abs=1e-6)
    for vectors, name in ((svd.U_, "orthogonality_u"), (svd.Vh_.conj().T, "orthogonality_v")):
        assert svd.errors_[name] == orthogonality_error(vectors) < (1e-6 if is_single else 1e-12)
        assert vectors.dtype == H.dtype
    assert svd.singular_values_.dtype == H.real.dtype


# ---------------------------------------------------------------------------------------------- known answers


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


# ---------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    "wrap",
    [torch.as_tensor, scipy.sparse.csr_matrix, scipy.sparse.coo_array, scipy.sparse.lil_matrix, aslinearoperator],
)
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_inputs_agree(wrap, dtype):
    H = decaying("0.5", 25, 20, dtype)
    dense, other = NeuralSVD(n_modes=3, seed=1).fit(H), NeuralSVD(n_modes=3, seed=1).fit(wrap(H))
    np.testing.assert_allclose(other.singular_values_, dense.singular_values_, rtol=1e-4)
    assert other.errors_["reconstruction"] == pytest.approx(dense.errors_["reconstruction"], rel=1e-3)
    assert np.isnan(other.errors_["eckart_young"]) == (wrap is aslinearoperator)


def test_large_operator_estimates_its_norm(monkeypatch):
    monkeypatch.setattr(matrix_operators, "EXACT_NORM_PRODUCTS", 10)
    H = normal(np.random.default_rng(0), 300, 200)
    products = as_products(aslinearoperator(H))
    assert products.norm_error > 0
    assert abs(products.norm - np.linalg.norm(H)) < 4 * products.norm_error
    svd = NeuralSVD(n_modes=3).fit(aslinearoperator(H))
    np.testing.assert_allclose(svd.singular_values_, np.linalg.svd(H, compute_uv=False)[:3], rtol=1e-4)
    best = np.sqrt(1 - np.sum(svd.singular_values_**2) / np.linalg.norm(H) ** 2)
    assert svd.errors_["reconstruction"] == pytest.approx(best, abs=0.05)
    nearly_exact = NeuralSVD(n_modes=1).fit(aslinearoperator(np.outer(np.ones(30), np.ones(20))))
    assert np.isnan(nearly_exact.errors_["reconstruction"])  # an estimated norm does not resolve it


def test_an_empty_sparse_matrix_is_the_zero_matrix():
    assert NeuralSVD(n_modes=1).fit(scipy.sparse.csr_matrix((4, 3))).singular_values_[0] == 0


def test_products_are_differentiable():
    H = as_products(normal(np.random.default_rng(0), 4, 3, is_complex=True))
    X = torch.randn(3, 2, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(H, X)
    assert torch.autograd.gradcheck(H.adjoint, torch.randn(4, 2, dtype=torch.complex128, requires_grad=True))


# ---------------------------------------------------------------------------------------------- parts


@given(st.integers(1, 5), st.integers(0, 10), st.booleans(), st.floats(-6, 3), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_bjorck_is_the_nearest_orthonormal_matrix(k, extra, is_complex, exponent, seed):
    rng = np.random.default_rng(seed)
    P, W = (np.linalg.qr(normal(rng, n, k, is_complex=is_complex))[0] for n in (k + extra, k))
    X = torch.as_tensor((P * 10.0 ** np.linspace(0, exponent, k)) @ W.conj().T)
    Q = bjorck(X).numpy()
    assert orthogonality_error(Q) < 1e-11
    np.testing.assert_allclose(Q, P @ W.conj().T, atol=1e-7)


def test_bjorck_gradient():
    X = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bjorck, X)


@given(
    rule=st.sampled_from(["max", "sigma", "reference"]),
    is_complex=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_phase_rules_never_change_the_reconstruction(rule, is_complex, seed):
    rng = np.random.default_rng(seed)
    U, Vh, s = normal(rng, 5, 3, is_complex=is_complex), normal(rng, 3, 4, is_complex=is_complex), normal(rng, 3)
    reference = normal(rng, 5, 3, is_complex=is_complex)
    turned_U, values, turned_Vh = fix_phases(U, s, Vh, rule, reference)
    np.testing.assert_allclose((turned_U * values) @ turned_Vh, (U * s) @ Vh, atol=1e-12)
    assert np.isrealobj(values)
    assert (values >= 0).all()
    if rule == "max":
        largest = turned_U[np.abs(turned_U).argmax(0), np.arange(3)]
        np.testing.assert_allclose(largest, np.abs(largest), atol=1e-12)
    elif rule == "reference":
        overlap = np.sum(reference.conj() * turned_U, axis=0)
        np.testing.assert_allclose(overlap, np.abs(overlap), atol=1e-12)
    else:
        np.testing.assert_array_equal(turned_U, U)


def test_the_phase_of_ties_is_decided_by_the_first():
    U = np.array([[1.0], [-1.0 - 1e-9]]) / 2**0.5
    assert fix_phases(U, np.ones(1), np.ones((1, 1)), "max")[0][0, 0] > 0


def test_loss_is_the_squared_distance():
    rng = np.random.default_rng(0)
    H, G, F = (torch.as_tensor(normal(rng, *shape, is_complex=True)) for shape in ((6, 5), (6, 3), (5, 3)))
    one = torch.ones(3, dtype=torch.float64)
    expected = (H - G @ F.mH).abs().square().sum() - H.abs().square().sum()
    torch.testing.assert_close(loss_terms(G, H @ F, F).value(one, one), expected)


def test_joint_nesting_is_the_mean_over_truncations():
    rng = np.random.default_rng(1)
    H, G, F = (torch.as_tensor(normal(rng, *shape, is_complex=True)) for shape in ((6, 5), (6, 3), (5, 3)))
    total = sum((H - G[:, :r] @ F[:, :r].mH).abs().square().sum() - H.abs().square().sum() for r in (1, 2, 3)) / 3
    value = loss_terms(G, H @ F, F).value(torch.ones(3, dtype=torch.float64), truncation_weights(3))
    torch.testing.assert_close(value, total)


def test_best_svals_minimise_the_loss():
    rng = np.random.default_rng(2)
    H, G, F = (torch.as_tensor(normal(rng, *shape)) for shape in ((6, 5), (6, 3), (5, 3)))
    terms, m = loss_terms(G, H @ F, F), truncation_weights(3)
    svals = terms.best_svals(m).requires_grad_()
    terms.value(svals, m).backward()
    torch.testing.assert_close(svals.grad, torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)


@given(seed=st.integers(0, 10**6), is_complex=st.booleans())
@settings(max_examples=6, deadline=None)
def test_sampled_loss_is_unbiased(seed, is_complex):
    rng = np.random.default_rng(seed)
    M, N, B_r, B_c, n_samples = 9, 7, 3, 4, 3000
    H, U, V = (torch.as_tensor(normal(rng, *shape, is_complex=is_complex)) for shape in ((M, N), (M, 2), (N, 2)))
    m = truncation_weights(2)
    svals = torch.tensor([1.5, 0.5], dtype=torch.float64)
    values = []
    for _ in range(n_samples):
        rows, columns = rng.permutation(M)[:B_r], rng.permutation(N)[:B_c]
        terms = sampled_loss_terms(U[rows], H[rows][:, columns], V[columns], M, N)
        values.append(terms.value(svals, m).item())
    full = loss_terms(U, H @ V, V).value(svals, m).item()
    assert abs(np.mean(values) - full) < 5 * np.std(values) / np.sqrt(n_samples)


@pytest.mark.parametrize("orthogonality", ORTHOGONALITIES)
def test_new_coordinates_keep_the_functions_and_balance_the_gradient(orthogonality):
    H = as_products(decaying("0.5", 20, 15)).normalized()
    torch.manual_seed(0)
    trainer = FactorTrainer(H, TableFactor(20, 5, False), TableFactor(15, 5, False), 3, orthogonality, 1.0, 1e-3)
    ritz = trainer.choose_coordinates()
    U, V = trainer.factors()
    size = ritz.values.sqrt() if orthogonality is None else 1.0
    torch.testing.assert_close(U, ritz.U * size)
    torch.testing.assert_close(V, ritz.V * size)
    trainer.evaluate()
    residual = torch.linalg.vector_norm(ritz.HV - ritz.U * ritz.values, dim=0)
    gradient = trainer.left.table.grad
    outer = gradient - ritz.U @ (ritz.U.mH @ gradient)
    torch.testing.assert_close(torch.linalg.vector_norm(outer, dim=0), trainer.m.sqrt() * residual)


@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_embedding_takes_any_outputs(gain):
    torch.manual_seed(0)
    factor = EmbeddingFactor(9, 2, True, (8, 8), "GELU")
    with torch.no_grad():
        factor.mlp.head.weight.mul_(gain)  # an MLP that does not contract is made to
    target = torch.randn(9, 2, dtype=torch.complex128)
    factor.assign(target)
    torch.testing.assert_close(factor(), target)


def test_rayleigh_ritz_is_exact_on_the_right_subspaces():
    H = as_products(decaying("0.5", 8, 6, "complex128"))
    U, s, Vh = np.linalg.svd(H.dense)
    mix = normal(np.random.default_rng(0), 3, 3, is_complex=True)
    ritz = rayleigh_ritz(H, torch.as_tensor(U[:, :3] @ mix), torch.as_tensor(Vh[:3].conj().T @ mix))
    np.testing.assert_allclose(ritz.values, s[:3], rtol=1e-12)
    assert ritz.residuals.max() < 1e-13


def test_polish_stops_at_its_maximum():
    H = as_products(decaying("flat", 60, 60))
    start = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert polish(H, start, n_modes=2, max_steps=3).n_steps == 3


def test_modes_for_energy_counts_round_off_as_reached():
    assert modes_for_energy(np.array([1.0, 1.0]), 2.0 + 1e-15, 1.0) == 2


# ---------------------------------------------------------------------------------------------- the estimator


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


@pytest.mark.parametrize("orthogonality", ORTHOGONALITIES)
def test_sampled_training(orthogonality):
    H = decaying("rank 5", 60, 50)
    svd = NeuralSVD(n_modes=2, oversampling=4, sample=(30, 25), orthogonality=orthogonality, max_steps=800).fit(H)
    assert svd.n_steps_ == 800
    np.testing.assert_allclose(svd.singular_values_, [1.0, 0.9], rtol=0.02)
    sparse = NeuralSVD(n_modes=1, sample=(30, 25), max_steps=5).fit(scipy.sparse.csr_matrix(H))
    assert sparse.n_steps_ == 5


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
    assert data.sizes["step"] == svd.n_steps_ == data.attrs["n_steps"]
    assert data["training_error"][-1] == pytest.approx(svd.errors_["eckart_young"], rel=1e-3)
    save_dataset(data, tmp_path / "result.nc")
    np.testing.assert_array_equal(load_dataset(tmp_path / "result.nc")["U"], svd.U_)


# ---------------------------------------------------------------------------------------------- refusals

GOOD = np.eye(4, 3)


@pytest.mark.parametrize(
    ("H", "message"),
    [
        (np.zeros((0, 3)), "must not be empty"),
        (np.zeros(3), r"must be a matrix \(M, N\)"),
        (np.zeros((2, 3, 3)), "fit_many"),
        (np.array([[1.0, np.nan]]), "1 NaN or inf"),
        (np.array([[1.0, np.inf]]), "finite"),
        (scipy.sparse.csr_matrix(np.array([[1.0, np.nan]])), "finite"),
        (np.ones((2, 2), int), "got int64"),
        (np.ones((2, 2), object), "got object"),
        (np.ones((2, 2), np.float16), "got float16"),
        (torch.ones(2, 2, dtype=torch.bfloat16), "got bfloat16"),
        (torch.eye(2).to_sparse(), "dense tensor"),
        (LinearOperator((3, 3), matvec=lambda x: x, dtype=float), "rmatvec"),
        (aslinearoperator(np.full((3, 3), np.nan)), "NaN or inf in a product"),
    ],
)
def test_matrices_that_are_refused(H, message):
    with pytest.raises(ValueError, match=message):
        NeuralSVD(n_modes=1).fit(H)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_modes": 4}, r"n_modes must be at most min\(M, N\)=3"),
        ({"n_modes": 0}, "n_modes must be an integer of at least 1"),
        ({"n_modes": 1.5}, "n_modes must be an integer"),
        ({"energy": 0.0}, r"energy must be in \(0, 1\]"),
        ({"energy": 1.1}, r"energy must be in \(0, 1\]"),
        ({"energy": 0.9, "n_modes": 2}, "not both"),
        ({"orthogonality": "cayley"}, "orthogonality must be one of 'bjorck'"),
        ({"parametrization": "one_hot"}, "parametrization must be one of"),
        ({"phase": "min"}, "phase must be one of"),
        ({"phase": "reference"}, "needs reference"),
        ({"phase": "reference", "reference": np.ones((2, 1)), "n_modes": 1}, "reference must have shape"),
        ({"lam": 0}, "lam must be positive"),
        ({"tolerance": -1}, "tolerance must be positive"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"max_steps": 0}, "max_steps must be an integer of at least 1"),
        ({"oversampling": -1}, "oversampling must be an integer of at least 0"),
        ({"polish_steps": -1}, "polish_steps must be an integer of at least 0"),
        ({"sample": (5, 1)}, "sample must be"),
        ({"sample": (1, 1, 1)}, "sample must be"),
        ({"hidden_dims": (0,)}, "hidden_dims must be positive"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"parametrization": "features"}, "needs row_features or column_features"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NeuralSVD(**options).fit(GOOD)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((3, 2)), "one row per row of H, 4"),
        (np.ones(4), "real numbers of shape"),
        (np.ones((4, 1), complex), "real numbers of shape"),
        (np.full((4, 1), np.nan), "finite"),
    ],
)
def test_features_that_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        NeuralSVD(parametrization="features").fit(GOOD, row_features=features)


def test_features_belong_to_their_parametrization():
    with pytest.raises(ValueError, match="belong to parametrization='features'"):
        NeuralSVD().fit(GOOD, row_features=np.ones((4, 1)))


def test_sample_needs_entries():
    with pytest.raises(ValueError, match="sample needs entries"):
        NeuralSVD(sample=(1, 1)).fit(aslinearoperator(GOOD))


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


def test_too_few_steps_warn():
    with pytest.warns(ConvergenceWarning, match="max_steps=2"):
        svd = NeuralSVD(n_modes=3, max_steps=2).fit(normal(np.random.default_rng(0), 60, 50))
    assert svd.stop_reason_ == "max_steps"
