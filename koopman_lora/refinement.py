"""Rayleigh-Ritz on the state and the last hidden layer: their best singular functions become the features."""

from __future__ import annotations

import dataclasses
import functools
import logging

import numpy as np

from koopman_lora.accumulation import moments_by_block
from koopman_lora.blas_threads import one_blas_thread
from koopman_lora.checks import checked
from koopman_lora.data.groups import SPLIT_BLOCKS, block_numbers
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split
from koopman_lora.data.weights import effective_number
from koopman_lora.finding import Finding
from koopman_lora.further_fits import FurtherFitInterruptedError, Train, further_fits
from koopman_lora.kinds import is_real
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, FeatureMap
from koopman_lora.normalisation import NormalisedFeatures, normalise
from koopman_lora.ritz import head_matrices, n_linear, ritz_maps, set_heads
from koopman_lora.ritz_choice import Candidates, MomentsOfParts, best_of_parts, by_folds, by_held_out, held_out_scores
from koopman_lora.scores import N_FOLDS, Validation, correlations_of_folds
from koopman_lora.training import check_one_encoder, freeze, raw_moments, take_facts
from koopman_lora.training_loop import PLENTY_OF_PAIRS

# Whitening thresholds to choose from; small ones over-fit, and an infinite one adds nothing to what counts in full.
# Trained trunks can hold modes in directions of very little variance, down to what single precision resolves.
THRESHOLDS = tuple(10.0**-e for e in range(15))
# The largest that is worth trying where pairs are plenty.
LARGEST_OF_MANY = 0.1
# Numbers of a state of which so many pairs are plenty: networks do not remember what has few coordinates.
FEW_NUMBERS, PLENTY_OF_FEW_NUMBERS = 3, 2000
# Blocks of the held-out pairs, whose jackknife tells better from luckier.
SCORE_BLOCKS = 16
# Standard errors by which linear VAMP must be beaten before anything else is taken: two, as in a test at 5 %; one where
# the state has too few coordinates to give n_modes functions, as spans of more functions are what was asked for there.
ERRORS_BEYOND_LINEAR, ERRORS_BEYOND_FEW = 2.0, 1.0
# Standard errors by which the best must lead linear VAMP, or else held-out pairs do not tell: further fits are asked.
ERRORS_TO_TELL = 2.0
# Further fits after which no more are made where linear VAMP has the best mean.
ENOUGH_FOR_LINEAR = 2
# The smallest threshold that further fits may choose: those below gain nothing there, and magnify the round-off of
# single precision to a thousandth.
SMALLEST_OF_FURTHER = 1e-6
# What may count in full: linear functions of the state, or the trained features.
LINEAR, TRAINED = "linear", "trained"
# What solutions are judged by.
BY_HELD_OUT, BY_FOLDS, BY_FURTHER_FITS = (
    "held-out pairs",
    "folds of the training pairs",
    "pairs that a fit has not seen",
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class RefinementResult:
    """What `refine` did to the model.

    Attributes
    ----------
    start : what counts in full, 'linear' functions of the state or the 'trained' features
    threshold : relative whitening threshold of what the last hidden layer has beyond them; infinite for nothing
    starts, thresholds, scores : all that was tried; scores (n_starts, n_thresholds) are VAMP-2 of other pairs than were
        solved, -inf of functions that are made of round-off
    chosen_by : which pairs these are: the 'held-out pairs', 'folds of the training pairs', or, by the mean over the fit
        and `further_fits`, 'pairs that a fit has not seen', less what noise alone adds for more functions than linear
        VAMP has
    validation : the same solution from the training pairs alone, on the held-out pairs
    finding : that further fits were interrupted; None otherwise
    """

    start: str
    threshold: float
    starts: tuple[str, ...]
    thresholds: np.ndarray
    scores: np.ndarray
    chosen_by: str
    validation: Validation
    finding: Finding | None = None

    @property
    def is_refined(self) -> bool:
        """Whether anything of the last hidden layer was worth adding."""
        return bool(np.isfinite(self.threshold))

    def score(self, start: str, threshold: float = np.inf) -> float:
        """VAMP-2 of one of the solutions that were tried, by default of a start alone.

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
    linear before trained, large thresholds before small ones. Held-out pairs may be too few to tell; `KoopmanLoRA.fit`
    asks further fits then, which this function cannot make.

    Of 15,000 training pairs and more, or 2,000 of states of at most three numbers, five parts judge in turn, by their
    mean VAMP-2, what was solved from the other four; the best is taken, if it beats linear VAMP as above, and the
    held-out pairs choose nothing. Thresholds above 1e-5 must then lead by two standard errors over the parts, and the
    trained features are tried only in place of linear functions of the state, where there are none.

    The solution is then computed from all pairs. Afterwards M_f and M_g are identities, and learned, K_matrix and
    canonical values agree.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained; changed in place. Both encoders must end in an nn.Linear.
    split : Split
        That of the training (`TrainingResult.split`), so that the held-out pairs are none that were trained on.
    thresholds : positive numbers; infinity is tried in any case. By default 1, 0.1, ..., 1e-14; of these, where five
        parts judge, those from 0.1 on

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

    Examples
    --------
    >>> pairs = lagged_pairs(NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0))
    >>> model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(16,), learn_svals=True, has_centering=True)
    >>> split = kl.fit(model, pairs, n_epochs=1).split
    >>> result = kl.refine(model, split)
    >>> bool(abs(model.svals[1] - 0.956) < 0.02)  # exact is exp(-0.045)
    True
    """
    with one_blas_thread():
        result, _ = rewrite_heads(model, split, thresholds)
    # from the features as the network's precision gives them, so that learned and canonical values are the same
    freeze(model, raw_moments(model, split.pairs), is_refined=True)
    return result


def rewrite_heads(
    model: KoopmanLoRAModel, split: Split, thresholds: tuple[float, ...] | None = None, train: Train | None = None
) -> tuple[RefinementResult, NormalisedFeatures]:
    """`refine` without its last pass over the pairs: the new features' normalisation is left to `freeze`.

    Where the held-out pairs do not tell whether anything is better than linear VAMP, further fits are asked, if it is
    known how to train them.
    """
    held_out = _check_arguments(split, THRESHOLDS if thresholds is None else thresholds)
    thresholds = _default_thresholds(split) if thresholds is None else thresholds
    check_one_encoder(model, split)
    take_facts(model, split)
    tried = np.array([np.inf, *sorted(thresholds, reverse=True)], dtype=float)
    maps, heads, candidates = _to_try(model, split, tried)
    moments, full = _moments(maps, split, held_out), candidates.full
    can_fill = n_linear(model) >= model.n_modes - 1
    errors_beyond = ERRORS_BEYOND_LINEAR if can_fill else ERRORS_BEYOND_FEW
    choose, judges = (by_folds, BY_FOLDS) if _is_many(split) else (by_held_out, BY_HELD_OUT)
    choice, finding = choose(candidates, moments, errors_beyond), None
    if train is not None and LINEAR in full and not _is_many(split) and choice.lead < ERRORS_TO_TELL:
        try:
            by_fit = _asked_further(_less_noise(choice.scores, model, held_out), train, split, candidates)
        except FurtherFitInterruptedError as interruption:
            finding, by_fit = interruption.finding, []
        if len(by_fit) > 1:
            is_allowed = [t >= SMALLEST_OF_FURTHER for _, t in candidates.names]
            choice = best_of_parts(np.where(is_allowed, by_fit, -np.inf), ERRORS_BEYOND_LINEAR)
            judges = BY_FURTHER_FITS
    best, scores = choice.best, choice.scores
    start, threshold = candidates.names[best]
    logger.info("refinement takes %s, threshold %g, VAMP-2 %.4f", start, threshold, scores[best])
    training, everything = (candidates.one(best, m) for m in (moments.training, moments.everything))
    # where svals are not learned, they are in the features: sqrt(sigma) phi and sqrt(sigma) psi
    scale = 1.0 if model.learn_svals else np.sqrt(everything.values)
    trained = normalise(moments.training.transformed(*heads), model.has_centering, model.learn_svals)
    of_folds = correlations_of_folds(functools.partial(candidates.one, best), moments.folds)
    validation = Validation.of_solution(training, maps, held_out, of_folds)
    set_heads(model, everything.left * scale, everything.right * scale, split.pairs.read_x(slice(1)))
    table = scores.reshape(len(full), len(tried))
    return RefinementResult(start, float(threshold), tuple(full), tried, table, judges, validation, finding), trained


def _asked_further(own: np.ndarray, train: Train, split: Split, candidates: Candidates) -> list[np.ndarray]:
    """Scores of all that is tried, of the fit itself and of further ones; of two where linear VAMP leads by then."""
    by_fit = [own]
    for model, part in further_fits(train, split.pairs, max(candidates.n_modes, 2)):
        assert part.held_out is not None
        maps, _, same = _to_try(model, part, candidates.thresholds)
        scores = held_out_scores(same, _moments(maps, part, part.held_out))
        by_fit.append(_less_noise(scores, model, part.held_out))
        if len(by_fit) > ENOUGH_FOR_LINEAR and not np.mean(by_fit, axis=0).argmax():
            break
    return by_fit


def _to_try(
    model: KoopmanLoRAModel, split: Split, tried: np.ndarray
) -> tuple[tuple[FeatureMap, FeatureMap], tuple[np.ndarray, np.ndarray], Candidates]:
    """Functions of a trained model whose span is searched, its heads on them, and what is tried there."""
    model.eval()
    maps, heads = ritz_maps(model), head_matrices(model, split.pairs.read_x(slice(1)))
    return maps, heads, Candidates(_starts(model, heads, _is_many(split)), tried, model.n_modes)


def _less_noise(scores: np.ndarray, model: KoopmanLoRAModel, held_out: LaggedPairs) -> np.ndarray:
    """Scores (n_candidates,) less what noise alone adds for functions beyond those of linear VAMP, the first.

    Each product of one with one adds 1 / n. Spans of one dimension gain alike, but a state of few coordinates has fewer
    linear functions than n_modes.
    """
    n_most = model.n_modes - 1
    beyond = (n_most**2 - min(n_linear(model), n_most) ** 2) / len(held_out)
    return np.concatenate([scores[:1], scores[1:] - beyond])


def _is_many(split: Split) -> bool:
    weights = None if split.pairs.weights is None else split.pairs.weights[split.is_training]
    plenty = PLENTY_OF_FEW_NUMBERS if split.pairs.n_entries <= FEW_NUMBERS else PLENTY_OF_PAIRS
    return effective_number(weights, int(np.count_nonzero(split.is_training))) >= plenty


def _moments(maps: tuple[FeatureMap, FeatureMap], split: Split, held_out: LaggedPairs) -> MomentsOfParts:
    cell = np.full(len(split.pairs), -1, dtype=np.int32)  # of pairs between training and held-out ones
    # contiguous blocks, whose borders alone share frames, dealt out in turn: every fold has parts from everywhere
    blocks = block_numbers(split.pairs, SPLIT_BLOCKS)[split.is_training]
    fold = np.zeros(int(blocks.max()) + 1, dtype=np.int32)
    found = np.unique(blocks)
    fold[found] = np.arange(len(found)) % N_FOLDS
    cell[split.is_training] = fold[blocks]
    block = block_numbers(held_out, SCORE_BLOCKS)
    if split.is_held_out.any():
        cell[split.is_held_out] = N_FOLDS + (0 if _is_many(split) else block)
    cells, moments = np.unique(cell), moments_by_block(*maps, split.pairs, cell, names=CROSS)
    there = None
    if not _is_many(split):
        is_there = cells >= N_FOLDS
        there = moments.selected(is_there) if is_there.any() else moments_by_block(*maps, held_out, block, names=CROSS)
    return MomentsOfParts(moments, moments.selected((cells >= 0) & (cells < N_FOLDS)), there)


def _starts(
    model: KoopmanLoRAModel, heads: tuple[np.ndarray, np.ndarray], is_many: bool
) -> dict[str, tuple[np.ndarray, ...]]:
    """Coefficients of what may count in full on the functions of `ritz_maps` behind the constant, for f and g.

    Where pairs are plenty little is damped, so that it hardly matters which of the two it is.
    """
    trained = tuple(head[1:, int(model.has_centering) :] for head in heads)
    linear = tuple(np.eye(len(head) - 1, n_linear(model)) for head in heads)
    if not n_linear(model):
        return {TRAINED: trained}
    return {LINEAR: linear} if is_many else {LINEAR: linear, TRAINED: trained}


def _default_thresholds(split: Split) -> tuple[float, ...]:
    return tuple(t for t in THRESHOLDS if not _is_many(split) or t <= LARGEST_OF_MANY)


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


def validate(model: KoopmanLoRAModel, split: Split) -> Validation:
    """Singular functions of the model's features, fitted on the training pairs, on the held-out ones.

    Raises
    ------
    ValueError
        If nothing is held out.
    """
    if split.held_out is None:
        raise ValueError("split holds out no pairs to validate on; use split_pairs(pairs, 0.1).")
    return Validation.of_features(raw_moments(model, split.training), model.raw_maps(), split.held_out)
