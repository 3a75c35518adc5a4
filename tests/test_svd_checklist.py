"""The six points of the checklist see what each is for."""

import numpy as np
import pytest
import xarray as xr
from known_matrices import DTYPES, decaying, normal
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from koopman_lora.io import load_dataset, save_dataset
from koopman_lora.svd.checklist import matrix_checklist
from koopman_lora.svd.decomposed import Decomposed
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.results import Decomposition, diagnose


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_a_good_fit_passes_in_every_precision_and_unit(dtype, scale):
    checklist = NeuralSVD(n_modes=5).fit((decaying("0.9", 30, 20) * scale).astype(dtype)).checklist()
    assert [check.passed for check in checklist] == [True] * 6
    assert len(str(checklist).splitlines()) == 7


def test_the_zero_matrix_passes():
    assert NeuralSVD(n_modes=2).fit(np.zeros((4, 3))).checklist().passed


def test_an_adjoint_that_is_only_transposed_is_found():
    H = normal(np.random.default_rng(0), 12, 9, is_complex=True)
    wrong = LinearOperator(H.shape, matvec=H.__matmul__, rmatvec=H.T.__matmul__, dtype=H.dtype)
    with pytest.warns(UserWarning, match="max_steps"), pytest.warns(UserWarning, match="rmatvec is not the conjugate"):
        checklist = NeuralSVD(n_modes=3, max_steps=30).fit(wrong).checklist()
    assert checklist[0].passed is False
    assert "rmatvec of the operator is not the conjugate transpose" in str(checklist)
    assert NeuralSVD(n_modes=3).fit(aslinearoperator(H)).checklist().passed


def test_the_reconstruction_of_an_operator_is_judged_by_the_errors_of_sigma():
    H = decaying("1/i", 40, 30)
    checklist = NeuralSVD(n_modes=3).fit(aslinearoperator(H)).checklist()
    best = np.linalg.norm(1 / np.arange(4.0, 31.0)) / np.linalg.norm(H)
    assert checklist[5].limit == pytest.approx(1.01 * best, rel=1e-4)
    assert checklist.passed


def spoiled(U, Vh):
    """Checklist of U diag(s) Vh with other vectors than the fit's."""
    H, svd, ritz = spoiled.made
    found = Decomposition(U, svd.singular_values_, Vh)
    errors = {f"error_{name}": value for name, value in diagnose(H, found, ritz).errors.items()}
    return [check.passed for check in matrix_checklist(svd.to_dataset().assign(errors))]


@pytest.fixture(autouse=True)
def _made():
    from koopman_lora.svd.inputs import as_products
    from koopman_lora.svd.triples import rayleigh_ritz

    svd = NeuralSVD(n_modes=2, polish_steps=50).fit(decaying("0.5", 12, 9, "complex128"))
    H = as_products(decaying("0.5", 12, 9, "complex128"))
    import torch

    U, V = (torch.as_tensor(np.ascontiguousarray(part)) for part in (svd.U_, svd.Vh_.conj().T))
    spoiled.made = H, svd, rayleigh_ritz(H.normalized(), U, V)


def test_every_spoiled_point_is_seen():
    _, svd, _ = spoiled.made
    U, Vh = svd.U_, svd.Vh_
    turn = np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    assert spoiled(U, Vh) == [True, True, True, True, True, True]
    assert spoiled(1.1 * U, Vh)[1] is False  # not orthonormal
    assert spoiled(U @ turn, turn.T @ Vh)[2] is False  # rotated: orthonormal, and no singular vectors
    assert spoiled(1j * U, Vh)[4:] == [False, False]  # a phase of u alone
    assert spoiled(-U, Vh)[4:] == [False, False]


def test_unknown_numbers_are_no_failure_and_a_file_answers_the_same(tmp_path):
    svd = NeuralSVD(n_modes=2).fit(decaying("0.5", 12, 9))
    save_dataset(svd.to_dataset(), tmp_path / "result.nc")
    assert matrix_checklist(load_dataset(tmp_path / "result.nc")) == svd.checklist()
    checklist = matrix_checklist(svd.to_dataset().assign(error_reconstruction=np.nan))
    assert checklist[5].passed is None
    assert "unknown" in str(checklist)
    assert checklist.passed


def test_something_else_is_refused():
    with pytest.raises(ValueError, match=r"result .*NeuralSVD\.to_dataset"):
        matrix_checklist(xr.Dataset({"sigma": ("mode", [1.0])}))
    assert issubclass(NeuralSVD, Decomposed)
