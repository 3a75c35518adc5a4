"""A sparse matrix whose indices are not those of its shape is refused: its products would read foreign memory."""

import numpy as np
import pytest
import scipy.sparse
import torch

from koopman_lora.cli import main
from koopman_lora.svd.inputs import as_products


def matrix(kind):
    return scipy.sparse.random_array((30, 20), density=0.3, format=kind, rng=np.random.default_rng(0))


def spoiled(kind, part, value):
    H = matrix(kind).copy()
    array = getattr(H, part).copy()
    array[len(array) // 2] = value
    if kind == "coo":
        H.coords = tuple(array if name == part else getattr(H, name) for name in ("row", "col"))
    else:
        setattr(H, part, array)
    return H


BAD = [
    (kind, part, value)
    for kind, parts in {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}.items()
    for part in parts
    for value in (2**30, -(2**30))
]


@pytest.mark.parametrize(("kind", "part", "value"), BAD)
def test_bad_indices_are_refused(kind, part, value):
    with pytest.raises(ValueError, match=f"H must be a sparse matrix with valid indices; got {kind}"):
        as_products(spoiled(kind, part, value))


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_good_indices_are_taken_and_left_alone(kind):
    H = matrix(kind)
    X = np.random.default_rng(1).normal(size=(20, 2))
    before = H.copy()
    np.testing.assert_allclose(as_products(H)(torch.as_tensor(X)), H.toarray() @ X, rtol=1e-12, atol=1e-14)
    assert (before != H).nnz == 0


@pytest.mark.parametrize(("kind", "part", "value"), [case for case in BAD if case[0] != "coo"])
def test_an_archive_with_bad_indices_is_one_line_on_the_command_line(tmp_path, capsys, kind, part, value):
    H = matrix(kind)
    parts = {"indices": H.indices, "indptr": H.indptr, "data": H.data, "shape": H.shape, "format": kind.encode()}
    parts[part] = getattr(spoiled(kind, part, value), part)
    np.savez(tmp_path / "H.npz", **parts)
    assert main(["svd", str(tmp_path / "H.npz"), "--n-modes", "2", "--out", str(tmp_path / "r.nc")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_shape_beyond_memory_is_one_line(tmp_path, capsys):
    parts = {"row": [0], "col": [0], "data": [1.0], "shape": (10**15, 10**15), "format": b"coo"}
    np.savez(tmp_path / "H.npz", **parts)
    assert main(["svd", str(tmp_path / "H.npz"), "--n-modes", "1", "--out", str(tmp_path / "r.nc")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
