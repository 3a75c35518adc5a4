"""Singular triples from moments: the constant first and apart, the rest whitened by variances."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from koopman_lora._linalg import (
    CONSTANT_ELSEWHERE,
    RANK_TOLERANCE,
    WhitenedSVD,
    beside_one,
    conjugate_transpose,
    constant_in_span,
    inverse_root,
    whitened_svd,
    without_constants,
)
from koopman_lora.equilibrium import signs, symmetric_eig
from koopman_lora.moment_names import check_blocks
from koopman_lora.moments import CROSS, Moments

# Second moments of the features of a side, at their own time and at the other.
_SECOND_MOMENTS = {"f": ("M_f", "M_f1"), "g": ("M_g", "M_g0")}
# What singular triples of pairs counted both ways need as well.
_SYMMETRIC = ("T_ff", "C_gf")
# Mean squared cosine between functions of f and the span of g, below which these are two spaces.
_SAME_SPAN = 0.9


def in_one_block(moments: Moments) -> Moments:
    """All blocks as one, resamples kept apart: less work, and enough where no single block is asked about."""
    if moments.n_blocks == 1:
        return moments
    check_blocks(moments.n_blocks)
    axis = moments.block_counts.ndim - 1
    return moments.with_blocks(lambda values: values.sum(axis=axis, keepdims=True))


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
    constant = _constant(moments.pooled((name,)), name)
    if constant is None:
        return MomentWhitener(*inverse_root(moments.between(name), threshold), False)
    means = moments.means(name)
    W, rank = inverse_root(without_constants(moments.covariance(name), means), threshold)
    W = W[..., :-1] - constant[:, None] * (means[..., None, :] @ W[..., :-1])  # the constant's column of W is zero
    first = np.broadcast_to(constant[:, None], (*W.shape[:-1], 1))
    return MomentWhitener(np.concatenate([first, W], axis=-1), 1 + rank, True)


class Basis(NamedTuple):
    """Functions that span what features span: the constant first, the others uncorrelated and of mean zero.

    In features with large offsets what moves least is small against round-off of the means. So numbers are computed in
    this basis, and only coefficients to report are carried back to the features.

    Attributes
    ----------
    constant, moving, means : by side, arrays (k,), (k, k - 1) and (k,): the functions are `f @ constant` = 1 and
        `(f - means) @ moving`, with zero columns for what has no direction; without a side where 1 is not in the span
    """

    constant: dict[str, np.ndarray]
    moving: dict[str, np.ndarray]
    means: dict[str, np.ndarray]

    def rank(self, side: str) -> int | None:
        """Number of functions of a side that are not zero; None without a side where 1 is not in the span."""
        return 1 + int(np.any(self.moving[side], axis=0).sum()) if side in self.constant else None

    def of_features(self, side: str, coefficients: np.ndarray) -> np.ndarray:
        """Coefficients (..., k, n) on the features of a side, from those on these functions."""
        if side not in self.constant:
            return coefficients
        moving = self.moving[side] @ coefficients[..., 1:, :]
        constants = coefficients[..., :1, :] - self.means[side] @ moving[..., None, :, :]
        return moving + self.constant[side][:, None] * constants

    def moments(self, moments: Moments, sides: str = "fg") -> Moments:
        """Moments of these functions, from those of the features; only on some sides, if `sides` names them."""
        changed = [side for side in sides if side in self.constant]
        if not changed:
            return moments
        to_functions = {side: self.of_features(side, np.eye(len(self.means[side]))) for side in changed}
        pooled = moments.pooled([name for side in changed for name in _SECOND_MOMENTS[side]])
        if moments.shifts is None or not all(_is_one(self.constant[side], pooled, side) for side in changed):
            return moments.combined(to_functions)
        maps, shifts = {}, dict(moments.shifts)
        for side in changed:
            # from (1, f - shift) to (1, constant - 1, moving)
            W = self.moving[side]
            mean = (moments.shifts[side] - self.means[side]) @ W
            maps[side] = beside_one(np.insert(W, 0, 0.0, axis=1), np.insert(mean, 0, 0.0))
            shifts[side] = np.eye(len(W))[0]
        return moments.mapped(maps, shifts, to_functions.get("f"))


def independent_basis(moments: Moments, threshold: float = RANK_TOLERANCE) -> Basis:
    """The basis to compute in: one for all resamples.

    Parameters
    ----------
    moments : resampled or not
    threshold : relative, of variances, below which a direction is dropped
    """
    pooled = moments.pooled([name for names in _SECOND_MOMENTS.values() for name in names])
    basis = Basis({}, {}, {})
    for side, (name, _) in _SECOND_MOMENTS.items():
        constant = _constant(pooled, name) if name in moments else None
        if constant is not None and _is_one(constant, pooled, side):
            means = pooled.means(name)
            W = inverse_root(without_constants(pooled.covariance(name), means), threshold).matrix
            basis.constant[side], basis.means[side] = constant, means
            basis.moving[side] = W[:, :-1]  # the constant's column is zero
    return basis


def _is_one(coefficients: np.ndarray, pooled: Moments, side: str) -> bool:
    """Whether the constant of some states is 1 also at the other time, or in other data, where other states occur."""
    for name in _SECOND_MOMENTS[side]:
        if name in pooled:
            C = pooled.covariance(name)
            off = np.abs(pooled.means(name) @ coefficients - 1) ** 2 + np.abs(np.conj(coefficients) @ C @ coefficients)
            round_off = RANK_TOLERANCE * np.abs(np.diagonal(C, axis1=-2, axis2=-1)) @ np.abs(coefficients) ** 2
            if np.any(off > CONSTANT_ELSEWHERE**2 + round_off):
                return False
    return True


def _constant(pooled: Moments, name: str) -> np.ndarray | None:
    """Coefficients (k,) of the function 1 in the span of the features of all data, None if it is not there."""
    if pooled.shifts is None:
        return None
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
    moments = in_one_block(moments)
    basis = independent_basis(moments, threshold)
    names = CROSS + _SYMMETRIC if moments.is_reversible else CROSS
    needed = dataclasses.replace(moments, block_sums={n: moments.block_sums[n] for n in names if n in moments})
    left, values, right = triples_of_functions(basis.moments(needed), threshold, rank)
    return WhitenedSVD(basis.of_features("f", left), values, basis.of_features("g", right))


def triples_of_functions(moments: Moments, threshold: float = RANK_TOLERANCE, rank: int | None = None) -> WhitenedSVD:
    """`canonical_triples` of moments that are in a `Basis` already."""
    if moments.is_reversible and all(name in moments for name in _SYMMETRIC):
        left, values = symmetric_pairs(moments, threshold, rank)
        return WhitenedSVD(left, np.abs(values), _on_g(moments, left, threshold) * signs(values)[..., None, :])
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


def symmetric_pairs(
    moments: Moments, threshold: float = RANK_TOLERANCE, rank: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenfunctions f @ left (..., k, n) of unit norm, and real eigenvalues (..., n), of pairs counted both ways.

    By decreasing modulus, which is the singular value: psi is phi or, where the eigenvalue is negative, -phi.
    """
    W, _, has_constant = moment_whitener(moments, "M_f", threshold)
    if not has_constant:
        values, vectors = symmetric_eig(moments.between("T_ff", W, W))
        return (W @ vectors)[..., :rank], values[..., :rank]
    rest = W[..., 1:]
    values, vectors = symmetric_eig(conjugate_transpose(rest) @ moments.covariance("T_ff") @ rest)
    left = np.concatenate([W[..., :1], rest @ vectors], axis=-1)
    one = np.ones((*values.shape[:-1], 1))
    return left[..., :rank], np.concatenate([one, values], axis=-1)[..., :rank]


def _on_g(moments: Moments, left: np.ndarray, threshold: float) -> np.ndarray:
    """Coefficients on g of the functions with coefficients `left` (..., k, n) on f, which g must span too."""
    W = moment_whitener(moments, "M_g", threshold).matrix
    between = moments.between("C_gf", W, left)
    share = np.sum(np.abs(between) ** 2, axis=(-2, -1)) / np.maximum(left.any(axis=-2).sum(axis=-1), 1)
    if np.any(share < _SAME_SPAN):
        raise ValueError(
            "moments of pairs.both_ways() have one space of functions, and these f and g span two; give the same for "
            "both, such as estimate_moments(f, f, pairs)."
        )
    return W @ between
