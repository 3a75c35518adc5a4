"""Rayleigh-Ritz on the last hidden layer: its best singular functions, written into the last linear layer."""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora._linalg import RANK_TOLERANCE, WhitenedSVD, conjugate_transpose, inverse_root, whitened_svd
from koopman_lora.data.pairs import LaggedPairs, fold_numbers, split_masks
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import FeatureMap, Moments, estimate_moments
from koopman_lora.scores import Validation, triples_vamp_e

# Whitening thresholds to choose from; small ones over-fit, and an infinite one adds nothing to what was trained.
# Trained trunks can hold modes in directions of very little variance, down to what single precision resolves.
THRESHOLDS = tuple(10.0**-e for e in range(15))
N_FOLDS = 5
# Variances, relative to the largest, below which a direction is round-off of single-precision features.
_ROUND_OFF = 1e-15


class RefinementResult(NamedTuple):
    """What `refine` did to the model.

    Attributes
    ----------
    is_refined : False where nothing beyond the span of the trained features was worth adding (threshold infinite)
    threshold : relative whitening threshold chosen
    score_before, score_after : cross-validated VAMP-E of the trained features and the constant, and of the refined ones
    thresholds, scores : thresholds tried, the infinite one first, and their cross-validated VAMP-E
    validation : the same solution from the training pairs alone, evaluated at the held-out pairs
    """

    is_refined: bool
    threshold: float
    score_before: float
    score_after: float
    thresholds: np.ndarray
    scores: np.ndarray
    validation: Validation


class _Basis(NamedTuple):
    """Functions on one side, as columns of coefficients on (1, h), h the last hidden layer; all of mean zero.

    `own` are the trained features made orthonormal; `beyond` are uncorrelated with them and with each other, and have
    `variances`, relative to the largest variance in h.
    """

    own: np.ndarray
    beyond: np.ndarray
    variances: np.ndarray


def refine(
    model: KoopmanLoRAModel,
    pairs: LaggedPairs,
    held_out: float | LaggedPairs = 0.1,
    thresholds: tuple[float, ...] = THRESHOLDS,
    seed: int = 0,
) -> RefinementResult:
    """Replace the last linear layers by the top singular functions in the span of the last hidden layers.

    The trained features count in full. What the last hidden layer h has beyond them is damped, a direction of relative
    variance s by `sqrt(s / (s + threshold))`: an infinite threshold only turns the trained features into their singular
    functions. The threshold is the largest whose VAMP-E, cross-validated over contiguous folds of `pairs`, lies within
    one standard error of the best; the solution is then computed from all of `pairs`. Afterwards M_f and M_g are
    identities, and learned, K_matrix and canonical values agree.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained; changed in place. Both encoders must end in an nn.Linear.
    pairs : LaggedPairs
    held_out : float or LaggedPairs
        Pairs, or the fraction of `pairs`, for the `validation` in the result.
    thresholds : positive numbers; infinity is tried in any case

    Raises
    ------
    NoLinearHeadError
        If an encoder does not end in a linear layer.
    ValueError
        If the last hidden layer is too narrow for n_modes, a threshold is not positive, or the pairs are too few for
        two folds.

    References
    ----------
    MATH.md, section 5.
    """
    if not all(t > 0 for t in thresholds):
        raise ValueError(f"thresholds must be positive; got {thresholds}.")
    model.eval()
    train, held = _split(pairs, held_out, seed)
    fold = fold_numbers(pairs, N_FOLDS)
    cells, moments = _moments_of_cells(model, pairs, 2 * fold + train)
    _check_width(moments, model.n_modes)
    heads = _heads(model, pairs.x)
    tried = np.array([np.inf, *sorted(thresholds, reverse=True)])
    scores = _cross_validated(moments, cells // 2, heads, tried, model.n_modes)
    chosen = _within_one_error(scores)

    def solve(some: Moments) -> WhitenedSVD:
        return _solve(some, _bases(some, heads), tried[chosen], model.n_modes)

    validation = _evaluate(solve(moments.merged(cells % 2 == 1)), model.trunk_maps(), held)
    _write(model, solve(moments), pairs)
    mean = scores.mean(axis=1)
    is_refined = bool(np.isfinite(tried[chosen]))
    return RefinementResult(
        is_refined, float(tried[chosen]), float(mean[0]), float(mean[chosen]), tried, mean, validation
    )


def _split(pairs: LaggedPairs, held_out: float | LaggedPairs, seed: int) -> tuple[np.ndarray, LaggedPairs]:
    """Mask of the training pairs, and the held-out pairs."""
    if isinstance(held_out, LaggedPairs):
        return np.ones(len(pairs), dtype=bool), held_out
    train, held = split_masks(pairs, held_out, seed=seed)
    return train, pairs.select(held)


def _moments_of_cells(model: KoopmanLoRAModel, pairs: LaggedPairs, cell: np.ndarray) -> tuple[np.ndarray, Moments]:
    """Numbers that occur in `cell` (n_pairs,), and moments of the trunks with a block for each, in one forward pass."""
    cells = np.unique(cell)
    parts = (pairs.select(cell == number) for number in cells)
    each = [estimate_moments(*model.trunk_maps(), (p.x, p.x_next), n_blocks=1, same_map=False) for p in parts]
    return cells, functools.reduce(operator.add, each)


def _check_width(moments: Moments, n_modes: int) -> None:
    width = len(moments.M_f)
    if width < n_modes:
        raise ValueError(
            f"n_modes={n_modes} is more than the last hidden layer can carry ({width - 1} units and the "
            "constant); give a wider last entry of hidden_dims."
        )


def _heads(model: KoopmanLoRAModel, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Trained features as coefficients (width, n_features) on the last hidden layers, but for their means."""
    state = model.prepare(x[:1].to(model.feature_scale.device))
    f, g = (weight.cpu().numpy() for weight in model.encoders.head_weights(state))
    return f, g


def _cross_validated(
    moments: Moments, fold: np.ndarray, heads: tuple[np.ndarray, np.ndarray], thresholds: np.ndarray, n_modes: int
) -> np.ndarray:
    """VAMP-E at each fold of the solution from the other folds, (n_thresholds, n_folds)."""
    scores = []
    for number in np.unique(fold[fold >= 0]):
        train, test = moments.merged((fold >= 0) & (fold != number)), moments.merged(fold == number)
        bases = _bases(train, heads)
        scores.append([triples_vamp_e(_solve(train, bases, t, n_modes), test) for t in thresholds])
    return np.transpose(scores)


def _within_one_error(scores: np.ndarray) -> int:
    """First row (the largest threshold) whose mean is within one standard error, paired over folds, of the best row.

    Where data cannot tell solutions apart, the one that departs least from the trained features is taken: the others
    were selected from many, and over-fit.
    """
    lost = scores[scores.mean(axis=1).argmax()] - scores
    error = lost.std(axis=1, ddof=1) / np.sqrt(scores.shape[1])
    round_off = 1e-9 * np.abs(scores).max()
    return int(np.argmax(lost.mean(axis=1) <= error + round_off))


def validate(model: KoopmanLoRAModel, train: LaggedPairs, test: LaggedPairs) -> Validation:
    """Singular functions of the model's features, fitted on `train` and evaluated at `test`."""
    solution = whitened_svd(*_cross(own_moments(model, train)), RANK_TOLERANCE, model.n_modes)
    return _evaluate(solution, model.own_maps(), test)


def _bases(moments: Moments, heads: tuple[np.ndarray, np.ndarray]) -> tuple[_Basis, _Basis]:
    return _basis(moments.M_f, heads[0]), _basis(moments.M_g, heads[1])


def _basis(M: np.ndarray, head: np.ndarray) -> _Basis:
    """Split the span of h, centred, into the trained features `h head` and what is beyond them; M is that of (1, h)."""
    centring = np.concatenate([-M[:1, 1:], np.eye(len(M) - 1)])  # (1, h) -> h - mean
    covariance = conjugate_transpose(centring) @ M @ centring
    own = head @ inverse_root(conjugate_transpose(head) @ covariance @ head).matrix
    without_own = np.eye(len(covariance)) - own @ (conjugate_transpose(own) @ covariance)
    variances, vectors = np.linalg.eigh(conjugate_transpose(without_own) @ covariance @ without_own)
    largest = np.linalg.eigvalsh(covariance)[-1]
    kept = variances > _ROUND_OFF * largest
    beyond = without_own @ vectors[:, kept] / np.sqrt(variances[kept])
    return _Basis(centring @ own, centring @ beyond, variances[kept] / largest)


def _solve(moments: Moments, bases: tuple[_Basis, _Basis], threshold: float, n_modes: int) -> WhitenedSVD:
    """Singular triples in the span of (1, h), the constant one first, in the coordinates of (1, h)."""
    f, g = (np.concatenate([b.own, b.beyond * np.sqrt(b.variances / (b.variances + threshold))], axis=1) for b in bases)
    U, _, Vh = np.linalg.svd(conjugate_transpose(f) @ moments.T_fg @ g, full_matrices=False)
    left, right = f @ U[:, : n_modes - 1], g @ conjugate_transpose(Vh)[:, : n_modes - 1]
    # damped functions are not of unit norm: the triples between the two spaces that they span
    left_in, values, right_in = whitened_svd(*_cross(moments.transformed(left, right)))
    left, right = left @ left_in, right @ right_in
    # the constant is set beside them: where other sigma are 1 as well, an SVD of all would mix them with it
    constant = np.eye(len(left))[:, :1]
    return WhitenedSVD(np.hstack([constant, left]), np.r_[1.0, values], np.hstack([constant, right]))


def _evaluate(solution: WhitenedSVD, maps: tuple[FeatureMap, FeatureMap], test: LaggedPairs) -> Validation:
    """Singular triples, given as coefficients on feature maps, at the pairs `test`."""
    with torch.no_grad():
        f, g = (
            np.concatenate([encode(batch).cpu().numpy() for batch in states.split(8192)])
            for encode, states in zip(maps, (test.x, test.x_next), strict=True)
        )
    return Validation(solution.values, f @ solution.left, g @ solution.right, test)


def own_moments(model: KoopmanLoRAModel, pairs: LaggedPairs) -> Moments:
    """Moments M_f, M_g, T_fg of a model's features before normalisation."""
    return estimate_moments(*model.own_maps(), pairs, n_blocks=1, same_map=False)


def _cross(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return moments.M_f, moments.T_fg, moments.M_g


def _write(model: KoopmanLoRAModel, solution: WhitenedSVD, pairs: LaggedPairs) -> None:
    """Put phi and psi into the last layers; where svals are not learned, sqrt(sigma) phi and sqrt(sigma) psi."""
    first = int(model.has_centering)  # the constant mode is not in the layer
    scale = np.ones_like(solution.values) if model.learn_svals else np.sqrt(solution.values)
    weights, biases = [], []
    for coefficients in (solution.left, solution.right):
        layer = torch.as_tensor((coefficients * scale)[:, first:]).to(model.feature_scale)
        weights.append(layer[1:])
        biases.append(layer[0])
    model.encoders.set_heads(weights, biases, model.prepare(pairs.x[:1].to(model.feature_scale.device)))
    # from the features as the network's precision gives them, so that learned and canonical values are the same
    moments = own_moments(model, pairs)
    model.calibrate_by_moments(moments.M_f, moments.M_g)
    if model.learn_svals:
        model.set_svals(torch.as_tensor(whitened_svd(*_cross(moments)).values))
