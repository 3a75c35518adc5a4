"""Rayleigh-Ritz on the last hidden layer: its best singular functions, written into the last linear layer."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch

from koopman_lora._linalg import RANK_TOLERANCE, WhitenedSVD, conjugate_transpose, inverse_root, whitened_svd
from koopman_lora.accumulation import FeatureMap, moments_by_block
from koopman_lora.data.groups import fold_numbers
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.scores import Validation, triples_vamp_e
from koopman_lora.training import freeze, raw_moments

# Whitening thresholds to choose from; small ones over-fit, and an infinite one adds nothing to what was trained.
# Trained trunks can hold modes in directions of very little variance, down to what single precision resolves.
THRESHOLDS = tuple(10.0**-e for e in range(15))
N_FOLDS = 5
# Variances, relative to the largest, below which a direction is round-off of single-precision features.
_ROUND_OFF = 1e-15


@dataclasses.dataclass(frozen=True, eq=False)
class RefinementResult:
    """What `refine` did to the model.

    Attributes
    ----------
    is_refined : False where nothing beyond the span of the trained features was worth adding (threshold infinite)
    threshold : relative whitening threshold chosen
    score_before, score_after : cross-validated VAMP-E of the trained features and the constant, and of the refined ones
    thresholds, scores : thresholds tried, the infinite one first, and their cross-validated VAMP-E
    validation : the same solution from the training pairs alone, on the held-out pairs
    """

    is_refined: bool
    threshold: float
    score_before: float
    score_after: float
    thresholds: np.ndarray
    scores: np.ndarray
    validation: Validation


class TrainedFeatures(NamedTuple):
    """What refinement found: moments of the normalised features over the training pairs, and svals where learned."""

    moments: Moments
    svals: np.ndarray | None


class _Basis(NamedTuple):
    """Functions on one side, as columns of coefficients on (1, h), h the last hidden layer; all of mean zero.

    `own` are the trained features made orthonormal; `beyond` are uncorrelated with them and with each other, and have
    `variances`, relative to the largest variance in h.
    """

    own: np.ndarray
    beyond: np.ndarray
    variances: np.ndarray


def refine(model: KoopmanLoRAModel, split: Split, thresholds: tuple[float, ...] = THRESHOLDS) -> RefinementResult:
    """Replace the last linear layers by the top singular functions in the span of the last hidden layers.

    The trained features count in full. What the last hidden layer h has beyond them is damped, a direction of relative
    variance s by `sqrt(s / (s + threshold))`: an infinite threshold only turns the trained features into their singular
    functions. The threshold is the largest whose VAMP-E, cross-validated over contiguous folds of all pairs, lies
    within one standard error of the best; the solution is then computed from all pairs. Afterwards M_f and M_g are
    identities, and learned, K_matrix and canonical values agree.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained; changed in place. Both encoders must end in an nn.Linear.
    split : Split
        That of the training (`TrainingResult.split`), so that the `validation` is of pairs that nothing was trained on.
    thresholds : positive numbers; infinity is tried in any case

    Raises
    ------
    TypeError
        For pairs instead of a split: another split would validate on pairs that were trained on.
    NoLinearHeadError
        If an encoder does not end in a linear layer.
    ValueError
        If nothing is held out, the last hidden layer is too narrow for n_modes, a threshold is not positive, or the
        pairs are too few for two folds.

    References
    ----------
    MATH.md, section 5.
    """
    result, _ = rewrite_heads(model, split, thresholds)
    # from the features as the network's precision gives them, so that learned and canonical values are the same
    freeze(model, raw_moments(model, split.pairs), is_refined=True)
    return result


def rewrite_heads(
    model: KoopmanLoRAModel, split: Split, thresholds: tuple[float, ...] = THRESHOLDS
) -> tuple[RefinementResult, TrainedFeatures]:
    """`refine` without its last pass over the pairs: the new features' normalisation is left to `freeze`."""
    _check_arguments(split, thresholds)
    model.eval()
    cell = 2 * fold_numbers(split.pairs, N_FOLDS) + split.is_training
    moments = moments_by_block(*model.trunk_maps(), split.pairs, cell, names=CROSS)
    cells = np.unique(cell)
    _check_width(moments, model.n_modes)
    heads = _head_matrices(model, split.pairs)
    training = moments.selected(cells % 2 == 1)
    trained = TrainedFeatures(freeze(model, _of_heads(model, training, heads)), model.svals_array())
    tried = np.array([np.inf, *sorted(thresholds, reverse=True)])
    weights = heads[0][1:], heads[1][1:]
    scores = _cross_validated(moments, cells // 2, weights, tried, model.n_modes)
    chosen = _within_one_error(scores)

    def solve(some: Moments) -> WhitenedSVD:
        return _solve(some, _bases(some, weights), tried[chosen], model.n_modes)

    validation = _evaluate(solve(training), model.trunk_maps(), split.held_out)
    _write(model, solve(moments), split.pairs)
    mean = scores.mean(axis=1)
    is_refined = bool(np.isfinite(tried[chosen]))
    numbers = is_refined, float(tried[chosen]), float(mean[0]), float(mean[chosen])
    return RefinementResult(*numbers, tried, mean, validation), trained


def _check_arguments(split: Split, thresholds: tuple[float, ...]) -> None:
    if not isinstance(split, Split):
        raise TypeError(
            f"split must be the Split that the model was trained on, such as kl.fit(...).split; got "
            f"{type(split).__name__}. A second split would validate on pairs that were trained on."
        )
    if split.held_out is None:
        raise ValueError("split holds out no pairs, which refine needs to validate on; use split_pairs(pairs, 0.1).")
    if not all(t > 0 for t in thresholds):
        raise ValueError(f"thresholds must be positive; got {thresholds}.")


def _check_width(moments: Moments, n_modes: int) -> None:
    width = len(moments.M_f)
    if width < n_modes:
        raise ValueError(
            f"n_modes={n_modes} is more than the last hidden layer can carry ({width - 1} units and the "
            "constant); give a wider last entry of hidden_dims."
        )


def _head_matrices(model: KoopmanLoRAModel, pairs: LaggedPairs) -> tuple[np.ndarray, np.ndarray]:
    """Trained features as coefficients (1 + width, n_features) on (1, h), h the last hidden layers."""
    f, g = (head.cpu().numpy() for head in model.encoders.head_matrices(model.prepare(pairs.x[:1])))
    return f, g


def _of_heads(model: KoopmanLoRAModel, trunk: Moments, heads: tuple[np.ndarray, np.ndarray]) -> Moments:
    """Moments of the trained features before normalisation, the constant among them, from those of (1, h)."""
    if model.has_centering:
        heads = tuple(np.concatenate([np.eye(len(head))[:, :1], head], axis=1) for head in heads)
    return trunk.transformed(*heads)


def _cross_validated(
    moments: Moments, fold: np.ndarray, heads: tuple[np.ndarray, np.ndarray], thresholds: np.ndarray, n_modes: int
) -> np.ndarray:
    """VAMP-E at each fold of the solution from the other folds, (n_thresholds, n_folds)."""
    scores = []
    for number in np.unique(fold[fold >= 0]):
        train, test = moments.selected((fold >= 0) & (fold != number)), moments.selected(fold == number)
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


def validate(model: KoopmanLoRAModel, split: Split) -> Validation:
    """Singular functions of the model's features, fitted on the training pairs, on the held-out ones.

    Raises
    ------
    ValueError
        If nothing is held out.
    """
    if split.held_out is None:
        raise ValueError("split holds out no pairs to validate on; use split_pairs(pairs, 0.1).")
    solution = whitened_svd(*_cross(raw_moments(model, split.training)), RANK_TOLERANCE, model.n_modes)
    return _evaluate(solution, model.raw_maps(), split.held_out)


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
    f_map, g_map = maps
    with torch.no_grad():
        sides = zip(
            *((f_map(x).cpu().numpy(), g_map(x_next).cpu().numpy()) for x, x_next in test.batches()), strict=True
        )
        f, g = (np.concatenate(side) for side in sides)
    return Validation.of_functions(solution.values, f @ solution.left, g @ solution.right, test)


def _cross(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return moments.M_f, moments.T_fg, moments.M_g


def _write(model: KoopmanLoRAModel, solution: WhitenedSVD, pairs: LaggedPairs) -> None:
    """Put phi and psi into the last layers; where svals are not learned, sqrt(sigma) phi and sqrt(sigma) psi."""
    first = int(model.has_centering)  # the constant mode is not in the layer
    scale = np.ones_like(solution.values) if model.learn_svals else np.sqrt(solution.values)
    layers = [
        torch.as_tensor((coefficients * scale)[:, first:]).to(model.feature_scale)
        for coefficients in (solution.left, solution.right)
    ]
    state = model.prepare(pairs.x[:1])
    model.encoders.set_heads([layer[1:] for layer in layers], [layer[0] for layer in layers], state)
    model.is_calibrated.fill_(not model.normalizes)
