"""Matrices and features that are refused."""

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from koopman_lora.svd.neural_svd import NeuralSVD

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
        (np.ones((2, 2), bool), "got bool"),
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
