"""Rayleigh-Ritz on the state and the last hidden layer: their best singular functions become the features."""

from __future__ import annotations

import dataclasses

import numpy as np

from koopman_lora._linalg import WhitenedSVD, damped_triples, split_span
from koopman_lora.accumulation import moments_by_block
from koopman_lora.checks import checked
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split
from koopman_lora.equilibrium import damped_pairs
from koopman_lora.kinds import is_real
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, FeatureMap, Moments
from koopman_lora.normalisation import NormalisedFeatures, normalise
from koopman_lora.ritz import head_matrices, n_linear, ritz_maps, set_heads
from koopman_lora.scores import Validation, jackknife_error, subspace_score
from koopman_lora.training import check_one_encoder, freeze, raw_moments, take_facts
from koopman_lora.training_loop import PLENTY_OF_PAIRS
from koopman_lora.triples import canonical_triples

# Whitening thresholds to choose from; small ones over-fit, and an infinite one adds nothing to what counts in full.
# Trained trunks can hold modes in directions of very little variance, down to what single precision resolves.
THRESHOLDS = tuple(10.0**-e for e in range(15))
# The largest that is worth trying where pairs are plenty: there larger ones lose on every system of `benchmarks/`, most
# where jumps are rare, as held-out pairs with few of them cannot tell.
LARGEST_OF_MANY = 1e-5
# Blocks of the held-out pairs, whose jackknife tells better from luckier.
SCORE_BLOCKS = 16
# Standard errors by which linear VAMP must be beaten before anything else is taken: two, as in a test at 5 %; one where
# the state has too few coordinates to give n_modes functions, as spans of more functions are what was asked for there.
ERRORS_BEYOND_LINEAR, ERRORS_BEYOND_FEW = 2.0, 1.0
# Standard errors within which a simpler solution is taken. Measured on ten systems with three seeds each: one loses the
# small modes of plentiful data, none over-fits scarce data.
N_ERRORS = 0.5
# What may count in full: linear functions of the state, or the trained features.
LINEAR, TRAINED = "linear", "trained"


@dataclasses.dataclass(frozen=True, eq=False)
class RefinementResult:
    """What `refine` did to the model.

    Attributes
    ----------
    start : what counts in full, 'linear' functions of the state or the 'trained' features
    threshold : relative whitening threshold of what the last hidden layer has beyond them; infinite for nothing
    starts, thresholds, scores : all that was tried; scores (n_starts, n_thresholds) are held-out VAMP-2
    validation : the same solution from the training pairs alone, on the held-out pairs
    """

    start: str
    threshold: float
    starts: tuple[str, ...]
    thresholds: np.ndarray
    scores: np.ndarray
    validation: Validation

    @property
    def is_refined(self) -> bool:
        """Whether anything of the last hidden layer was worth adding."""
        return bool(np.isfinite(self.threshold))

    def score(self, start: str, threshold: float = np.inf) -> float:
        """Held-out VAMP-2 of one of the solutions that were tried, by default of a start alone.

        Raises
        ------
        ValueError
            If it was not tried.
        """
        found = np.flatnonzero(self.thresholds == threshold)
        if start not in self.starts or not len(found):
            raise ValueError(f"start={start!r}, threshold={threshold} was not tried; see starts and thresholds.")
        return float(self.scores[self.starts.index(start), found[0]])


@checked(but=("thresholds", "split"))
def refine(model: KoopmanLoRAModel, split: Split, thresholds: tuple[float, ...] | None = None) -> RefinementResult:
    """Make the features the top singular functions in the span of the state and the last hidden layers.

    Either linear functions of the state (of one with at most 256 numbers) or the trained features count in full; what
    the last hidden layer has beyond them is damped, a direction of relative variance s by
    `sqrt(s / (s + threshold))`, so that an infinite threshold is linear VAMP, or the trained features alone. Solutions
    from the training pairs are compared by the VAMP-2 of their span on the held-out pairs. The first, linear VAMP, is
    taken unless the best is better by two standard errors (jackknife over blocks, of the paired difference), or by one
    where the state has too few coordinates for n_modes; otherwise the first within half a standard error of the best:
    linear before trained, large thresholds before small ones. It is then computed from all pairs. Afterwards M_f and
    M_g are identities, and learned, K_matrix and canonical values agree.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained; changed in place. Both encoders must end in an nn.Linear.
    split : Split
        That of the training (`TrainingResult.split`), so that the held-out pairs are none that were trained on.
    thresholds : positive numbers; infinity is tried in any case. By default 1, 0.1, ..., 1e-14; of these, for at least
        15,000 training pairs, those from 1e-5 on

    Raises
    ------
    TypeError
        For pairs instead of a split: another split would validate on pairs that were trained on.
    NoLinearHeadError
        If an encoder does not end in a linear layer.
    ValueError
        If nothing is held out, the last hidden layer is too narrow for n_modes, or a threshold is not positive.

    References
    ----------
    docs/mathematics.md, section 5.
    """
    result, _ = rewrite_heads(model, split, thresholds)
    # from the features as the network's precision gives them, so that learned and canonical values are the same
    freeze(model, raw_moments(model, split.pairs), is_refined=True)
    return result


def rewrite_heads(
    model: KoopmanLoRAModel, split: Split, thresholds: tuple[float, ...] | None = None
) -> tuple[RefinementResult, NormalisedFeatures]:
    """`refine` without its last pass over the pairs: the new features' normalisation is left to `freeze`."""
    held_out = _check_arguments(split, THRESHOLDS if thresholds is None else thresholds)
    thresholds = _default_thresholds(split) if thresholds is None else thresholds
    check_one_encoder(model, split)
    take_facts(model, split)
    model.eval()
    maps, heads = ritz_maps(model), head_matrices(model, split.pairs.x)
    moments, training, there = _moments(maps, split, held_out)
    full = _starts(model, heads)
    tried = np.array([np.inf, *sorted(thresholds, reverse=True)], dtype=float)
    candidates = [(start, threshold) for start in full for threshold in tried]
    solutions = [s for own in full.values() for s in _solve(training, own, tried, model.n_modes)]
    scores = np.array([subspace_score(solution, there) for solution in solutions])
    can_fill = n_linear(model) >= model.n_modes - 1
    best = _simplest(scores, solutions, there, ERRORS_BEYOND_LINEAR if can_fill else ERRORS_BEYOND_FEW)
    start, threshold = candidates[best]
    solution = _solve(moments, full[start], tried[tried == threshold], model.n_modes)[0]
    # where svals are not learned, they are in the features: sqrt(sigma) phi and sqrt(sigma) psi
    scale = 1.0 if model.learn_svals else np.sqrt(solution.values)
    trained = normalise(training.transformed(*heads), model.has_centering, model.learn_svals)
    validation = Validation.of_solution(solutions[best], maps, held_out)
    set_heads(model, solution.left * scale, solution.right * scale, split.pairs.x)
    table = scores.reshape(len(full), len(tried))
    return RefinementResult(start, float(threshold), tuple(full), tried, table, validation), trained


def _moments(maps: tuple[FeatureMap, FeatureMap], split: Split, held_out: LaggedPairs) -> tuple[Moments, ...]:
    """Moments over all pairs and over the training pairs, and per block of the held-out pairs."""
    block = block_numbers(held_out, SCORE_BLOCKS)
    cell = np.where(split.is_training, 0, -1)  # -1 for pairs between training and held-out ones
    if split.is_held_out.any():
        cell[split.is_held_out] = 1 + block
    cells, moments = np.unique(cell), moments_by_block(*maps, split.pairs, cell, names=CROSS)
    if split.is_held_out.any():
        return moments, moments.selected(cells == 0), moments.selected(cells > 0)
    return moments, moments.selected(cells == 0), moments_by_block(*maps, held_out, block, names=CROSS)


def _solve(moments: Moments, own: tuple[np.ndarray, ...], thresholds: np.ndarray, n_modes: int) -> list[WhitenedSVD]:
    return ritz_triples(_cross(moments), own, thresholds, n_modes, moments.is_reversible)


def _starts(model: KoopmanLoRAModel, heads: tuple[np.ndarray, np.ndarray]) -> dict[str, tuple[np.ndarray, ...]]:
    """Coefficients of what may count in full on the functions of `ritz_maps` behind the constant, for f and g."""
    trained = tuple(head[1:, int(model.has_centering) :] for head in heads)
    linear = tuple(np.eye(len(head) - 1, n_linear(model)) for head in heads)
    return {LINEAR: linear, TRAINED: trained} if n_linear(model) else {TRAINED: trained}


def _default_thresholds(split: Split) -> tuple[float, ...]:
    is_many = np.count_nonzero(split.is_training) >= PLENTY_OF_PAIRS
    return tuple(t for t in THRESHOLDS if not is_many or t <= LARGEST_OF_MANY)


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


def ritz_triples(
    matrices: tuple[np.ndarray, np.ndarray, np.ndarray],
    own: tuple[np.ndarray, ...],
    thresholds: np.ndarray,
    n_modes: int,
    is_reversible: bool = False,
) -> list[WhitenedSVD]:
    """Singular triples in the span of (1, h) for every threshold, `h @ own` being what counts in full.

    Parameters
    ----------
    matrices : M_f, T_fg, M_g of (1, h); of one map where the process is reversible
    own : for f and for g, (n_functions - 1, n_own)
    thresholds, n_modes : see `damped_triples`
    """
    if is_reversible:
        span = split_span(matrices[0], own[0])
        return [damped_pairs(*matrices[:2], span, threshold, n_modes) for threshold in thresholds]
    spans = split_span(matrices[0], own[0]), split_span(matrices[2], own[1])
    return [damped_triples(matrices, spans, threshold, n_modes) for threshold in thresholds]


def _simplest(scores: np.ndarray, solutions: list[WhitenedSVD], there: Moments, errors_beyond: float) -> int:
    """First solution whose score is within half a standard error, paired over blocks, of the best.

    The very first is taken unless it is beaten by `errors_beyond`. Where data cannot tell solutions apart, the simplest
    is taken: the others were selected from many, and over-fit.
    """
    if there.n_blocks < 2:  # no error is known: everything is within it
        return 0
    blocks = there.leaving_out()
    best = subspace_score(solutions[int(scores.argmax())], blocks)
    for i, solution in enumerate(solutions):
        error = jackknife_error(best - subspace_score(solution, blocks))
        within = N_ERRORS if i else errors_beyond
        if scores.max() - scores[i] <= within * error + 1e-9 * scores.max():
            return i
    raise AssertionError("the best is within any error of itself")


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
