"""Rayleigh-Ritz on the last hidden layer: its best singular functions, written into the last linear layer."""

from __future__ import annotations

import dataclasses

import numpy as np

from koopman_lora._linalg import WhitenedSVD, damped_triples, split_span
from koopman_lora.accumulation import moments_by_block
from koopman_lora.checks import checked
from koopman_lora.data.groups import fold_numbers
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split
from koopman_lora.kinds import is_real
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.normalisation import NormalisedFeatures, normalise
from koopman_lora.scores import Validation, triples_vamp_e
from koopman_lora.training import freeze, raw_moments, refinable_heads
from koopman_lora.triples import canonical_triples

# Whitening thresholds to choose from; small ones over-fit, and an infinite one adds nothing to what was trained.
# Trained trunks can hold modes in directions of very little variance, down to what single precision resolves.
THRESHOLDS = tuple(10.0**-e for e in range(15))
N_FOLDS = 5


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


@checked(but=("thresholds", "split"))
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
    docs/mathematics.md, section 5.
    """
    result, _ = rewrite_heads(model, split, thresholds)
    # from the features as the network's precision gives them, so that learned and canonical values are the same
    freeze(model, raw_moments(model, split.pairs), is_refined=True)
    return result


def rewrite_heads(
    model: KoopmanLoRAModel, split: Split, thresholds: tuple[float, ...] = THRESHOLDS
) -> tuple[RefinementResult, NormalisedFeatures]:
    """`refine` without its last pass over the pairs: the new features' normalisation is left to `freeze`."""
    held_out = _check_arguments(split, thresholds)
    model.eval()
    cell = 2 * fold_numbers(split.pairs, N_FOLDS) + split.is_training
    cells = np.unique(cell)
    moments = moments_by_block(*model.trunk_maps(), split.pairs, cell, names=CROSS)
    heads, n_modes = refinable_heads(model, split.pairs), model.n_modes
    training = moments.selected(cells % 2 == 1)
    raw = training.transformed(*heads)
    trained = normalise(raw, model.has_centering, model.learn_svals)
    own = tuple(head[1:, int(model.has_centering) :] for head in heads)
    tried = np.array([np.inf, *sorted(thresholds, reverse=True)])
    scores = _cross_validated(moments, cells // 2, own, tried, n_modes)
    chosen = _within_one_error(scores)
    (validated,), (solution,) = (_solve(some, own, tried[[chosen]], n_modes) for some in (training, moments))
    # where svals are not learned, they are in the features: sqrt(sigma) phi and sqrt(sigma) psi
    scale = 1.0 if model.learn_svals else np.sqrt(solution.values)
    model.set_heads(solution.left * scale, solution.right * scale, split.pairs.x)
    validation = Validation.of_solution(validated, model.trunk_maps(), held_out)
    mean = scores.mean(axis=1)
    numbers = bool(np.isfinite(tried[chosen])), float(tried[chosen]), float(mean[0]), float(mean[chosen])
    return RefinementResult(*numbers, tried, mean, validation), trained


def _check_arguments(split: Split, thresholds: tuple[float, ...]) -> LaggedPairs:
    """The held-out pairs, if all is well."""
    if not isinstance(split, Split):
        raise TypeError(
            f"split must be the Split that the model was trained on, such as kl.fit(...).split; got "
            f"{type(split).__name__}. A second split would validate on pairs that were trained on."
        )
    if split.held_out is None:
        raise ValueError("split holds out no pairs, which refine needs to validate on; use split_pairs(pairs, 0.1).")
    if not isinstance(thresholds, (list, tuple)) or not all(is_real(t) and t > 0 for t in thresholds):
        raise ValueError(f"thresholds must be positive; got {thresholds}.")
    return split.held_out


def _cross_validated(
    moments: Moments, fold: np.ndarray, own: tuple[np.ndarray, ...], thresholds: np.ndarray, n_modes: int
) -> np.ndarray:
    """VAMP-E at each fold of the solution from the other folds, (n_thresholds, n_folds)."""
    scores = []
    for number in np.unique(fold[fold >= 0]):
        train, test = moments.selected((fold >= 0) & (fold != number)), moments.selected(fold == number)
        scores.append([triples_vamp_e(triples, test) for triples in _solve(train, own, thresholds, n_modes)])
    return np.transpose(scores)


def _solve(moments: Moments, own: tuple[np.ndarray, ...], thresholds: np.ndarray, n_modes: int) -> list[WhitenedSVD]:
    """Singular triples in the span of (1, h) for every threshold, `h @ own` being the trained features."""
    matrices = _cross(moments)
    spans = split_span(matrices[0], own[0]), split_span(matrices[2], own[1])
    return [damped_triples(matrices, spans, threshold, n_modes) for threshold in thresholds]


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
    solution = canonical_triples(raw_moments(model, split.training))
    return Validation.of_solution(solution, model.raw_maps(), split.held_out)


def _cross(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return moments.M_f, moments.T_fg, moments.M_g
