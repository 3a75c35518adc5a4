"""Singular triples from moments: the constant first and apart, the rest whitened by variances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from koopman_lora._linalg import (
    RANK_TOLERANCE,
    WhitenedSVD,
    conjugate_transpose,
    constant_in_span,
    inverse_root,
    whitened_svd,
    without_constants,
)
from koopman_lora.moments import Moments


class MomentWhitener(NamedTuple):
    """Functions `f @ matrix` (..., k, k) of unit L2 norm, uncorrelated; zero columns for what has no direction.

    `has_constant`: the first is the constant function 1, and the others have mean zero.
    """

    matrix: np.ndarray
    rank: np.ndarray
    has_constant: bool


def moment_whitener(moments: Moments, name: str, threshold: float = RANK_TOLERANCE) -> MomentWhitener:
    """Whitener of the features on one side; where 1 lies in their span it is taken off before thresholds act.

    Thresholds then act on variances: a mean eats none of the budget.

    Parameters
    ----------
    moments : resampled or not
    name : 'M_f' or 'M_g'
    threshold : relative, see `inverse_root`
    """
    constant = _constant(moments, name)
    if constant is None:
        return MomentWhitener(*inverse_root(moments.between(name), threshold), False)
    means = moments.means(name)
    W, rank = inverse_root(without_constants(moments.covariance(name), means), threshold)
    W = W[..., :-1] - constant[:, None] * (means[..., None, :] @ W[..., :-1])  # the constant's column of W is zero
    first = np.broadcast_to(constant[:, None], (*W.shape[:-1], 1))
    return MomentWhitener(np.concatenate([first, W], axis=-1), 1 + rank, True)


def _constant(moments: Moments, name: str) -> np.ndarray | None:
    """Coefficients (k,) of the function 1 in the span of the features of all data, None if it is not there."""
    if moments.shifts is None:
        return None
    pooled = moments.pooled()
    return constant_in_span(pooled.covariance(name), pooled.means(name))


def canonical_triples(moments: Moments, threshold: float = RANK_TOLERANCE, rank: int | None = None) -> WhitenedSVD:
    """Canonical singular triples, as coefficients on the features: of `M_f^{-1/2} T_fg M_g^{-1/2}`.

    Where 1 lies in the span of f and of g, the first triple is exactly (1, 1, 1), also where other sigma are 1.

    Parameters
    ----------
    moments : with M_f, T_fg, M_g; resampled or not
    threshold : relative whitening threshold, of variances where the constant was taken off
    rank : keep only the leading triples

    References
    ----------
    docs/mathematics.md, section 4.

    Examples
    --------
    >>> x = torch.linspace(0, 1, 101)[:, None].double() + 1e5
    >>> features = lambda s: torch.cat([torch.ones_like(s), s], dim=1)
    >>> canonical_triples(estimate_moments(features, features, (x, x))).values
    array([1., 1.])
    """
    f, g = (moment_whitener(moments, name, threshold) for name in ("M_f", "M_g"))
    if not (f.has_constant and g.has_constant):
        return whitened_svd(moments.M_f, moments.T_fg, moments.M_g, threshold, rank)
    W_f, W_g = f.matrix[..., 1:], g.matrix[..., 1:]
    U, values, Vh = np.linalg.svd(conjugate_transpose(W_f) @ moments.covariance("T_fg") @ W_g, full_matrices=False)
    left = np.concatenate([f.matrix[..., :1], W_f @ U], axis=-1)
    right = np.concatenate([g.matrix[..., :1], W_g @ conjugate_transpose(Vh)], axis=-1)
    values = np.concatenate(
        [np.ones_like(values[..., :1] if values.shape[-1] else f.rank[..., None] * 1.0), values], axis=-1
    )
    return WhitenedSVD(left[..., :rank], values[..., :rank], right[..., :rank])
