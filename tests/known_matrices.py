"""Matrices with known singular values that several test files share, and the comparison with LAPACK."""

import numpy as np
import pytest

from koopman_lora.svd.orthogonality import orthogonality_error

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
