"""Where a process and its reversal are one: Hermitian matrices, whose singular triples are eigenpairs with a sign."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from koopman_lora._linalg import SplitSpan, WhitenedSVD, conjugate_transpose, eigenvalue_order, inverse_root


class SymmetricEig(NamedTuple):
    """Real eigenvalues in the one order, and orthonormal eigenvectors in columns."""

    values: np.ndarray
    vectors: np.ndarray


def symmetric_eig(A: np.ndarray) -> SymmetricEig:
    """Eigenpairs of matrices (..., k, k) that are Hermitian but for round-off, by decreasing modulus.

    Their moduli are the singular values. An SVD would mix eigenvectors of eigenvalues that differ in sign alone.

    Examples
    --------
    >>> symmetric_eig(np.array([[0.0, 0.5], [0.5, 0.0]])).values
    array([ 0.5, -0.5])
    """
    values, vectors = np.linalg.eigh((A + conjugate_transpose(A)) / 2)
    order = eigenvalue_order(values)
    return SymmetricEig(
        np.take_along_axis(values, order, axis=-1), np.take_along_axis(vectors, order[..., None, :], axis=-1)
    )


def signs(values: np.ndarray) -> np.ndarray:
    """1 or -1 for each eigenvalue, 1 for 0: psi is phi times it, and sigma the modulus.

    Examples
    --------
    >>> signs(np.array([0.5, 0.0, -0.2]))
    array([ 1.,  1., -1.])
    """
    return np.where(values < 0, -1.0, 1.0)


def damped_pairs(M: np.ndarray, T: np.ndarray, span: SplitSpan, threshold: float, n_modes: int) -> WhitenedSVD:
    """`damped_triples` of one space and a Hermitian T: psi is phi or -phi.

    Parameters
    ----------
    M, T : of (1, h), counted both ways
    span, threshold, n_modes : see `damped_triples`

    Examples
    --------
    >>> T, span = np.diag([1.0, -0.5]), SplitSpan(np.array([[0.0], [1.0]]), np.zeros((2, 0)), np.zeros(0))
    >>> left, sigma, right = damped_pairs(np.eye(2), T, span, threshold=np.inf, n_modes=2)
    >>> sigma, bool((right == left * [1, -1]).all())
    (array([1. , 0.5]), True)
    """
    f = np.hstack([span.own, span.beyond * np.sqrt(span.variances / (span.variances + threshold))])
    f = f @ symmetric_eig(conjugate_transpose(f) @ T @ f).vectors[:, : n_modes - 1]
    # damped functions are not of unit norm: the pairs in the space that they span
    f = f @ inverse_root(conjugate_transpose(f) @ M @ f).matrix
    values, vectors = symmetric_eig(conjugate_transpose(f) @ T @ f)
    left = np.hstack([np.eye(len(f))[:, :1], f @ vectors])
    return WhitenedSVD(left, np.abs(np.r_[1.0, values]), left * signs(np.r_[1.0, values]))
