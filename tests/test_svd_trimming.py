"""Fewer triples after a look at the singular values."""

import numpy as np
import pytest
from known_matrices import DTYPES, decaying
from scipy.sparse.linalg import aslinearoperator
from sklearn.exceptions import NotFittedError

from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.orthogonality import orthogonality_error


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_errors_are_those_of_the_triples_that_stay(dtype, scale):
    H = (decaying("0.9", 30, 20) * scale).astype(dtype)
    svd = NeuralSVD(n_modes=6).fit(H)
    before = svd.to_dataset().copy(deep=True)
    small = svd.trim(2)
    np.testing.assert_array_equal(small.U_, svd.U_[:, :2])
    np.testing.assert_array_equal(small.singular_values_, svd.singular_values_[:2])
    np.testing.assert_array_equal(small.Vh_, svd.Vh_[:2])
    norm = np.linalg.norm(H.astype(complex))
    measured = np.linalg.norm(H - (small.U_ * small.singular_values_) @ small.Vh_) / norm
    assert small.errors_["reconstruction"] == pytest.approx(measured, rel=1e-5)
    assert small.errors_["eckart_young"] == pytest.approx(np.linalg.norm(0.9 ** np.arange(2, 20)) * scale / norm)
    assert small.errors_["orthogonality_u"] == orthogonality_error(small.U_)
    assert small.errors_.keys() == svd.errors_.keys()
    assert small.checklist().passed
    assert before.identical(svd.to_dataset())
    assert svd.n_modes == 6
    assert small.n_modes == 2


def test_trimmed_ones_answer_and_follow():
    x = np.linspace(-1, 1, 40)[:, None]
    H = np.exp(-((x - x[:30].T) ** 2))
    svd = NeuralSVD(energy=0.9999, parametrization="features").fit(H, row_features=x, column_features=x[:30])
    small = svd.trim(1)
    np.testing.assert_allclose(small.transform_rows(x), svd.U_[:, :1], atol=1e-5)
    followed = NeuralSVD(n_modes=4).fit(H).trim(2).partial_fit(1.01 * H)
    np.testing.assert_allclose(followed.singular_values_, np.linalg.svd(1.01 * H)[1][:2], rtol=1e-4)


def test_small_errors_keep_their_digits_and_unknown_ones_stay_unknown():
    H = np.diag([1.0, 1e-3, 1e-7])
    svd = NeuralSVD(n_modes=3, polish_steps=50).fit(H)
    assert svd.trim(2).errors_["reconstruction"] == pytest.approx(1e-7, rel=1e-3)
    assert svd.trim(3).to_dataset()["U"].identical(svd.to_dataset()["U"])
    operator = NeuralSVD(n_modes=2).fit(aslinearoperator(H)).trim(1)
    assert np.isnan(operator.errors_["eckart_young"])
    assert operator.errors_["reconstruction"] == pytest.approx(1e-3, rel=1e-3)
    assert NeuralSVD(n_modes=2).fit(np.zeros((4, 3))).trim(1).errors_["reconstruction"] == 0


@pytest.mark.parametrize("n", [0, 3, -1])
def test_numbers_that_make_no_sense(n):
    with pytest.raises(ValueError, match=r"n must be an integer from 1 to the 2 modes of this result"):
        NeuralSVD(n_modes=2).fit(np.eye(4, 3)).trim(n)


def test_nothing_to_trim():
    for call in (lambda: NeuralSVD().trim(1), NeuralSVD().checklist):
        with pytest.raises(NotFittedError, match="call fit"):
            call()
