"""Dense linear algebra of small matrices, real or complex, single or batched; the only home of numerical thresholds.

Matrices may carry leading batch axes (bootstrap resamples); everything here is float64 or complex128.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg

# Relative to the largest eigenvalue of a second-moment matrix whose features were scaled to unit second moment.
# float32 features leave noise of about 1e-14 there, so 1e-13 cuts only what carries no information.
RANK_TOLERANCE = 1e-13
# A canonical singular value is at most 1 up to round-off of the moments; above this it is an alarm, never clipped.
SIGMA_TOLERANCE = 1e-6
# Variances, relative to the largest, below which a direction is round-off of single-precision features.
ROUND_OFF_VARIANCE = 1e-15
# Factor between neighbours above and at round-off that smooth features do not have.
_GAP = 1e3
# A variance below this, relative to the squared mean, is round-off of a constant.
CONSTANT_TOLERANCE = 1e-15
# A direction without variance is the constant only if its mean is more than round-off of the features' means.
CONSTANT_MEAN = 1e-9
# How far the function 1 of some states may be off where other states occur.
CONSTANT_ELSEWHERE = 1e-4
# Neighbours of a sorted list that are closer than this, relative to the largest modulus, count as equal.
TIE_TOLERANCE = 1e-9


class Whitener(NamedTuple):
    """`W` with `W^H M W` = identity on the retained directions (zero columns for the others), and their number."""

    matrix: np.ndarray
    rank: np.ndarray


def conjugate_transpose(matrix: np.ndarray) -> np.ndarray:
    """`A^H` of the last two axes."""
    return np.conj(np.swapaxes(matrix, -1, -2))


def inverse_root(M: np.ndarray, threshold: float = RANK_TOLERANCE) -> Whitener:
    """Whitener of a Hermitian positive semi-definite matrix (one of the roots `M^{-1/2}`, by eigenvectors).

    Features are first scaled to unit second moment, so that the relative threshold cuts linear dependence and
    never a feature that is merely small.

    Parameters
    ----------
    M : array of shape (..., k, k)
    threshold : eigenvalues below `threshold` times the largest are treated as zero

    Examples
    --------
    >>> W, rank = inverse_root(np.diag([4.0, 1e-20, 0.0]))
    >>> int(rank)
    2
    """
    M = (M + conjugate_transpose(M)) / 2
    diagonal = np.real(np.diagonal(M, axis1=-2, axis2=-1))
    scale = np.zeros_like(diagonal)
    np.divide(1.0, np.sqrt(np.maximum(diagonal, 0.0)), out=scale, where=diagonal > 0)
    eigenvalues, vectors = np.linalg.eigh(M * scale[..., :, None] * scale[..., None, :])
    keep = eigenvalues > threshold * eigenvalues[..., -1:]
    roots = np.zeros_like(eigenvalues)
    np.divide(1.0, np.sqrt(np.abs(eigenvalues)), out=roots, where=keep)
    # decreasing variance first, so that the zero columns of a deficient matrix stand last
    whitener = (scale[..., :, None] * vectors * roots[..., None, :])[..., ::-1]
    return Whitener(whitener, keep.sum(axis=-1))


def hermitian_pinv(M: np.ndarray, threshold: float = RANK_TOLERANCE) -> np.ndarray:
    """Pseudo-inverse of a second-moment matrix, with the rank decided after scaling features to unit size.

    Examples
    --------
    >>> hermitian_pinv(np.diag([2.0, 0.0]))
    array([[0.5, 0. ], [0. , 0. ]])
    """
    W = inverse_root(M, threshold).matrix
    return W @ conjugate_transpose(W)


def effective_rank(M: np.ndarray) -> float:
    """Participation ratio of the eigenvalues, `(tr M)^2 / tr M^2`, after scaling features to unit second moment.

    Examples
    --------
    >>> effective_rank(np.diag([1.0, 100.0]))
    2.0
    """
    correlation = to_correlation(M)
    power = np.sum(np.abs(correlation) ** 2)
    return float(np.real(np.trace(correlation)) ** 2 / power) if power > 0 else 0.0


def on_shifted(shift: np.ndarray, coefficients: np.ndarray | None) -> np.ndarray:
    """Coefficients on (1, f - shift) of the functions with `coefficients` (..., k, n) on f; of f itself without.

    Examples
    --------
    >>> on_shifted(np.array([3.0]), None)
    array([[3.],
           [1.]])
    """
    coefficients = np.eye(len(shift)) if coefficients is None else coefficients
    return np.concatenate([shift[None] @ coefficients, coefficients], axis=-2)


def beside_one(A: np.ndarray, constant: np.ndarray | None = None) -> np.ndarray:
    """The map A (k, n) of f - shift as a map of (1, f - shift) to (1, (f - shift) A + constant).

    Examples
    --------
    >>> beside_one(np.array([[2.0]]), np.array([5.0]))
    array([[1., 5.],
           [0., 2.]])
    """
    result = np.zeros((1 + A.shape[0], 1 + A.shape[1]), dtype=np.result_type(A, 0.0 if constant is None else constant))
    result[0, 0], result[1:, 1:] = 1.0, A
    if constant is not None:
        result[0, 1:] = constant
    return result


def without_constants(C: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Covariances (..., k, k) in which features whose variance is round-off of their mean have none at all."""
    variances = np.real(np.diagonal(C, axis1=-2, axis2=-1))
    moving = variances > CONSTANT_TOLERANCE * np.abs(means) ** 2
    return np.where(moving[..., :, None] & moving[..., None, :], C, 0.0)


def constant_in_span(C: np.ndarray, means: np.ndarray, threshold: float = RANK_TOLERANCE) -> np.ndarray | None:
    """Coefficients (k,) of the function 1 on features with covariances C (k, k) and means (k,); None if not there.

    The function is a direction without variance whose mean is not zero.

    Examples
    --------
    >>> constant_in_span(np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([0.0, 3.0])).round(6)     # x and 2 x + 3
    array([-0.666667,  0.333333])
    >>> constant_in_span(np.eye(1), np.array([5.0])) is None
    True
    """
    C = without_constants(C, means)
    scale = np.sqrt(np.real(np.diag(C)))
    scale = np.where(scale > 0, scale, np.abs(means))
    scale = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(C / np.outer(scale, scale))
    null = vectors[:, values <= threshold * max(values[-1], np.finfo(float).tiny)] / scale[:, None]
    along = means @ null
    size = np.linalg.norm(along)
    if size <= CONSTANT_MEAN * np.linalg.norm(means / scale):
        return None
    return null @ np.conj(along) / size**2


def to_correlation(M: np.ndarray) -> np.ndarray:
    """Second moments (k, k) of the features scaled to unit size.

    Examples
    --------
    >>> to_correlation(np.array([[4.0, 1.0], [1.0, 1.0]]))
    array([[1. , 0.5], [0.5, 1. ]])
    """
    size = np.real(np.diag(M))
    scale = np.sqrt(np.where(size > np.finfo(float).tiny, size, np.inf))  # what is nothing correlates with nothing
    return M / scale[:, None] / scale  # one after the other: the product of two small ones may vanish


def phase_of(values: np.ndarray) -> np.ndarray:
    """Factors of modulus 1 that turn `values` real positive when multiplied (1 for zeros).

    Examples
    --------
    >>> phase_of(np.array([-2.0, 0.0, 3.0]))
    array([-1., 1., 1.])
    """
    values = np.asarray(values)
    modulus = np.abs(values)
    return np.where(modulus > 0, np.conj(values) / np.where(modulus > 0, modulus, 1.0), 1.0)


class WhitenedSVD(NamedTuple):
    """SVD of `M_f^{-1/2} T M_g^{-1/2}`: `left^H M_f left = right^H M_g right = I`, `left^H T right = diag`."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray


def whitened_svd(
    M_f: np.ndarray, T: np.ndarray, M_g: np.ndarray, threshold: float = RANK_TOLERANCE, rank: int | None = None
) -> WhitenedSVD:
    """Singular triples between two whitened feature spaces, in the coordinates of the features.

    Parameters
    ----------
    M_f, T, M_g : arrays (..., k_f, k_f), (..., k_f, k_g), (..., k_g, k_g)
    threshold : relative whitening threshold, see `inverse_root`
    rank : keep only the leading triples

    Examples
    --------
    >>> whitened_svd(np.eye(2) * 4, np.eye(2) * 2, np.eye(2)).values
    array([1., 1.])
    """
    W_f, W_g = inverse_root(M_f, threshold).matrix, inverse_root(M_g, threshold).matrix
    U, values, Vh = np.linalg.svd(conjugate_transpose(W_f) @ T @ W_g, full_matrices=False)
    return WhitenedSVD(W_f @ U[..., :rank], values[..., :rank], W_g @ conjugate_transpose(Vh)[..., :rank])


class SplitSpan(NamedTuple):
    """Functions as columns of coefficients on (1, h), all of mean zero, uncorrelated and, but for scale, orthonormal.

    `own` span what given combinations of h span; `beyond` the rest of h, with `variances` relative to the largest
    variance in h.
    """

    own: np.ndarray
    beyond: np.ndarray
    variances: np.ndarray


def split_span(M: np.ndarray, head: np.ndarray) -> SplitSpan:
    """Split the span of h, centred, into `h head` and what is beyond it.

    Parameters
    ----------
    M : second moments of (1, h), (1 + width, 1 + width)
    head : (width, n_features)

    Examples
    --------
    >>> split_span(np.eye(3), np.array([[2.0], [0.0]])).own
    array([[0.], [1.], [0.]])
    """
    centring = np.concatenate([-M[:1, 1:], np.eye(len(M) - 1)])  # (1, h) -> h - mean
    covariance = conjugate_transpose(centring) @ M @ centring
    own = head @ inverse_root(conjugate_transpose(head) @ covariance @ head).matrix
    without_own = np.eye(len(covariance)) - own @ (conjugate_transpose(own) @ covariance)
    variances, vectors = np.linalg.eigh(conjugate_transpose(without_own) @ covariance @ without_own)
    largest = np.linalg.eigvalsh(covariance)[-1]
    kept = variances > _round_off(variances / largest) * largest
    beyond = without_own @ vectors[:, kept] / np.sqrt(variances[kept])
    return SplitSpan(centring @ own, centring @ beyond, variances[kept] / largest)


def _round_off(variances: np.ndarray) -> float:
    """Relative variance below which directions are round-off.

    Smooth features fall to that of single precision without a gap. Where states take few values there is one, and what
    lies beyond, at the round-off of the eigenvalues themselves, is no function of them.
    """
    of_eigenvalues = (1 + len(variances)) * float(np.finfo(float).eps)
    has_gap = variances[variances > of_eigenvalues].min(initial=1.0) > _GAP * of_eigenvalues
    return max(ROUND_OFF_VARIANCE, of_eigenvalues) if has_gap else ROUND_OFF_VARIANCE


def damped_triples(
    matrices: tuple[np.ndarray, np.ndarray, np.ndarray],
    spans: tuple[SplitSpan, SplitSpan],
    threshold: float,
    n_modes: int,
) -> WhitenedSVD:
    """Rayleigh-Ritz between two spans, the constant triple first, what is beyond their own parts damped.

    A direction of relative variance s beyond the own part counts `sqrt(s / (s + threshold))`.

    Parameters
    ----------
    matrices : M_f, T_fg, M_g of (1, h)
    spans : of f and of g
    threshold : infinite for the own parts alone
    n_modes : triples to keep, the constant one included

    References
    ----------
    docs/mathematics.md, section 5.
    """
    M_f, T, M_g = matrices
    f, g = (np.hstack([s.own, s.beyond * np.sqrt(s.variances / (s.variances + threshold))]) for s in spans)
    U, _, Vh = np.linalg.svd(conjugate_transpose(f) @ T @ g, full_matrices=False)
    left, right = f @ U[:, : n_modes - 1], g @ conjugate_transpose(Vh)[:, : n_modes - 1]
    # damped functions are not of unit norm: the triples between the two spaces that they span
    left_h, right_h = conjugate_transpose(left), conjugate_transpose(right)
    left_in, values, right_in = whitened_svd(left_h @ M_f @ left, left_h @ T @ right, right_h @ M_g @ right)
    # the constant is set beside them: where other sigma are 1 as well, an SVD of all would mix them with it
    constant = np.eye(len(left))[:, :1]
    left, right = np.hstack([constant, left @ left_in]), np.hstack([constant, right @ right_in])
    return WhitenedSVD(left, np.r_[1.0, values], right)


class SortedEig(NamedTuple):
    """Sorted eigenvalues, unit right eigenvectors, left ones (`left^H K = lambda left^H`), condition numbers."""

    values: np.ndarray
    right: np.ndarray
    left: np.ndarray
    condition: np.ndarray


def eigenvalue_order(values: np.ndarray) -> np.ndarray:
    """Indices (..., k) that sort eigenvalues (..., k) along the last axis: the only rule of order.

    What is 1, as of the constant, first, for in few data others may be beyond it; then by decreasing modulus; among
    values of equal modulus by decreasing real part; of a conjugate pair the positive imaginary part stands first.
    Values are equal where no gap separates them, so round-off decides nothing.

    Examples
    --------
    >>> v = np.array([0.1, 0.3 - 0.4j, 0.3 + 0.4j])
    >>> v[eigenvalue_order(v)]
    array([0.3+0.4j, 0.3-0.4j, 0.1+0.j ])
    >>> eigenvalue_order(np.array([1.01, 0.5, 1.0]))
    array([2, 0, 1])
    """
    values = np.asarray(values)
    smallest_gap = TIE_TOLERANCE * np.abs(values).max(axis=-1, keepdims=True, initial=0.0)
    order = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    run = np.zeros(values.shape, dtype=int)  # number of the run of equal values that each belongs to
    is_one = (np.abs(values - 1) <= TIE_TOLERANCE).astype(float)
    for key in (is_one, np.abs(values), np.real(values), np.imag(values)):
        # runs stay together, and are sorted by this key within
        inner = np.lexsort((-np.take_along_axis(key, order, axis=-1), run), axis=-1)
        order, run = np.take_along_axis(order, inner, axis=-1), np.take_along_axis(run, inner, axis=-1)
        fall = -np.diff(np.take_along_axis(key, order, axis=-1), axis=-1)
        is_new = (fall > smallest_gap) | (np.diff(run, axis=-1) > 0)
        run = np.concatenate([run[..., :1] * 0, np.cumsum(is_new, axis=-1)], axis=-1)
    return order


def sorted_eig(K: np.ndarray) -> SortedEig:
    """Eigenvalues, right and left eigenvectors of a square matrix; `condition` is `|l| |r| / |l^H r|` per eigenvalue.

    Examples
    --------
    >>> sorted_eig(np.array([[0.0, 2.0], [0.5, 0.0]])).condition.round(4)
    array([1.25, 1.25])
    """
    values, left, right = scipy.linalg.eig(K, left=True, right=True)
    order = eigenvalue_order(values)
    values, left, right = values[order], left[:, order], right[:, order]
    overlap = np.abs(np.sum(np.conj(left) * right, axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):  # a defective eigenvalue has an infinite condition number
        condition = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0) / overlap
    return SortedEig(values, right, left, condition)
