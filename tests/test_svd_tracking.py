"""A sequence of matrices: modes that cross are told, and followed; those that do not are not."""

import warnings

import numpy as np
import pytest
from known_matrices import normal

from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.svd.tracking import describe_crossings, match_modes


def basis(dtype):
    rng = np.random.default_rng(0)
    is_complex = np.dtype(dtype).kind == "c"
    return (np.linalg.qr(normal(rng, n, 4, is_complex=is_complex))[0] for n in (30, 20))


def followed(sigmas, dtype="complex128", n_modes=3):
    """The fit after the last of some matrices with the same singular vectors, and the one before that."""
    U, V = basis(dtype)
    svd = NeuralSVD(n_modes=n_modes, phase="max")
    for sigma in sigmas:
        before = getattr(svd, "U_", None)
        svd.partial_fit((U * sigma) @ V.conj().T)
    return svd, before


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_a_planted_crossing_is_told_and_followed(dtype):
    with pytest.warns(UserWarning, match=r"modes cross: mode 2 was mode 3, mode 3 was mode 2 \(.* 1.02, 0.98\)") as w:
        svd, before = followed([[3, 1.02, 0.98, 0.1], [3, 0.98, 1.02, 0.1]], dtype)
    assert [warning.filename for warning in w] == [__file__]
    assert svd.result_["previous_mode"].values.tolist() == [1, 3, 2]
    np.testing.assert_allclose(svd.result_["overlap"], 1, atol=1e-5)
    # each continues the mode that it was, its phase too
    np.testing.assert_allclose(svd.U_, before[:, [0, 2, 1]], atol=1e-3)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_near_values_that_keep_their_order_are_not(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svd, before = followed([[3, 1.02, 0.98, 0.1], [3.1, 1.01, 0.99, 0.1], [3.1, 1.05, 0.99, 0.1]], dtype)
    assert svd.result_["previous_mode"].values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(svd.U_, before, atol=1e-3)


def test_a_mode_from_outside_is_new():
    with pytest.warns(UserWarning, match=r"modes that are new: 3 \(singular values 0.9\)"):
        followed([[3, 2, 0.5, 0.1], [3, 2, 0.1, 0.9]])


def test_modes_that_mix():
    U = np.eye(6, 3)
    angle = np.deg2rad(50)
    R = np.eye(3)
    R[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    halfway = np.eye(3)
    halfway[:, 1:] = (U[:3, 1:] @ np.array([[1, -1], [1, 1]])) / np.sqrt(2) * 0.999999
    match = match_modes((U, U.T), (U[:, :3] @ halfway, (U[:, :3] @ halfway).T))
    assert describe_crossings(match, np.array([3.0, 1.0, 1.0])) == "modes that mix: 2, 3 (singular values 1, 1)"
    turned = match_modes((U, U.T), (U @ R, (U @ R).T))  # beyond 45 degrees the other is nearer
    assert describe_crossings(turned, np.array([3.0, 1.0, 1.0])).startswith("modes cross: mode 2 was mode 3")


def test_other_phases_are_no_crossing():
    U, V = basis("complex128")
    turn = np.exp(1j * np.arange(4.0))
    match = match_modes((U, V.conj().T), (U * turn, (V * turn).conj().T))
    assert match.previous.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose([match.overlap, match.share], 1)
    assert describe_crossings(match, np.ones(4)) == ""
