"""Which solution of Rayleigh-Ritz to take: what is tried, and how it is judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from koopman_lora._linalg import (
    SIGMA_TOLERANCE,
    WhitenedSVD,
    conjugate_transpose,
    damped_triples,
    inverse_root,
    split_span,
)
from koopman_lora.equilibrium import damped_pairs
from koopman_lora.moments import Moments
from koopman_lora.scores import each_in_turn, jackknife_error
from koopman_lora.triples import in_one_block

# Standard errors within which a simpler solution is taken. Measured on ten systems with three seeds each: one loses the
# small modes of plentiful data, none over-fits scarce data.
N_ERRORS = 0.5
# The largest threshold that folds choose freely, and the standard errors by which a larger one must lead: networks do
# not remember plenty of pairs, and damping more is lucky then more often than better, but where data are noisy.
LARGEST_OF_FOLDS, ERRORS_BEYOND_FREE = 1e-5, 2.0
# Differences of scores, relative to them, that are none.
_ROUND_OFF = 1e-9


class MomentsOfParts(NamedTuple):
    """Moments over all pairs; per fold of the training pairs; per block of the held-out ones.

    Of plenty of pairs no moments of the held-out ones: they choose nothing.
    """

    everything: Moments
    folds: Moments
    held_out: Moments | None

    @property
    def training(self) -> Moments:
        """Over all training pairs."""
        return in_one_block(self.folds)


def ritz_triples(
    matrices: tuple[np.ndarray, np.ndarray, np.ndarray],
    own: tuple[np.ndarray, ...],
    thresholds: np.ndarray,
    n_modes: int,
    is_reversible: bool = False,
) -> list[WhitenedSVD]:
    """Singular triples in the span of (1, h) for every threshold, `h @ own` being what counts in full.

    Of a span with fewer functions than `n_modes`, as of states that take few values, the last triples are 0.

    Parameters
    ----------
    matrices : M_f, T_fg, M_g of (1, h); of one map where the process is reversible
    own : for f and for g, (n_functions - 1, n_own)
    thresholds, n_modes : see `damped_triples`
    """
    if is_reversible:
        span = split_span(matrices[0], own[0])
        found = [damped_pairs(*matrices[:2], span, threshold, n_modes) for threshold in thresholds]
    else:
        spans = split_span(matrices[0], own[0]), split_span(matrices[2], own[1])
        found = [damped_triples(matrices, spans, threshold, n_modes) for threshold in thresholds]
    return [_filled(triples, n_modes) for triples in found]


def _filled(triples: WhitenedSVD, n_modes: int) -> WhitenedSVD:
    """The triples, and so many that are 0 as are lacking."""
    left, values, right = triples
    lacking = n_modes - len(values)
    if not lacking:
        return triples
    wide = ((0, 0), (0, lacking))
    return WhitenedSVD(np.pad(left, wide), np.pad(values, wide[1]), np.pad(right, wide))


def _solve(moments: Moments, own: tuple[np.ndarray, ...], thresholds: np.ndarray, n_modes: int) -> list[WhitenedSVD]:
    return ritz_triples(_cross(moments), own, thresholds, n_modes, moments.is_reversible)


class Candidates:
    """What is tried: every start with every threshold."""

    def __init__(self, full: dict[str, tuple[np.ndarray, ...]], thresholds: np.ndarray, n_modes: int) -> None:
        self.full, self.thresholds, self.n_modes = full, thresholds, n_modes
        self.names = [(start, threshold) for start in full for threshold in thresholds]

    def solutions(self, moments: Moments) -> list[WhitenedSVD]:
        """All of them, from moments of the functions of `ritz_maps`."""
        return [s for own in self.full.values() for s in _solve(moments, own, self.thresholds, self.n_modes)]

    def one(self, index: int, moments: Moments) -> WhitenedSVD:
        """A single one."""
        start, threshold = self.names[index]
        return _solve(moments, self.full[start], np.array([threshold]), self.n_modes)[0]


class Choice(NamedTuple):
    """The candidate to take, the scores of all, and the standard errors by which the best leads the first."""

    best: int
    scores: np.ndarray
    lead: float


def by_held_out(candidates: Candidates, moments: MomentsOfParts, errors_beyond: float) -> Choice:
    """Held-out pairs judge what the training pairs say.

    The first candidate within half a standard error, paired over blocks, of the best; the very first unless it is
    beaten by `errors_beyond`. Where data cannot tell solutions apart, the simplest is taken: the others were selected
    from many, and over-fit.
    """
    there = moments.held_out
    assert there is not None
    solutions = candidates.solutions(moments.training)
    scores = _scored(candidates, solutions, there)
    if there.n_blocks < 2:  # no error is known: everything is within it
        return Choice(0, scores, 0.0)
    blocks, behind = there.leaving_out(), scores.max() - scores
    (best,) = _span_scores([solutions[int(scores.argmax())]], blocks)

    def error(number: int) -> float:
        return float(jackknife_error(best - _span_scores([solutions[number]], blocks)[0]))

    of_first, slack = error(0), _ROUND_OFF * scores.max()
    lead = _in_errors(behind[0], of_first)
    if behind[0] <= errors_beyond * of_first + slack:
        return Choice(0, scores, lead)
    # the best is within any error of itself
    simplest = next(i for i in range(1, len(scores)) if behind[i] <= N_ERRORS * error(i) + slack)
    return Choice(simplest, scores, lead)


def held_out_scores(candidates: Candidates, moments: MomentsOfParts) -> np.ndarray:
    """VAMP-2 (n_candidates,) on the held-out pairs of what the training pairs say."""
    assert moments.held_out is not None
    return _scored(candidates, candidates.solutions(moments.training), moments.held_out)


def _scored(candidates: Candidates, solutions: list[WhitenedSVD], there: Moments) -> np.ndarray:
    return _possible(_span_scores(solutions, there), candidates)


def by_folds(candidates: Candidates, moments: MomentsOfParts, errors_beyond: float) -> Choice:
    """Each fold of the training pairs judges what the others say."""
    scores = [_span_scores(candidates.solutions(others), judge) for others, judge in each_in_turn(moments.folds)]
    by_fold = _possible(np.stack(scores), candidates)
    is_free = np.array([t <= LARGEST_OF_FOLDS or np.isinf(t) for _, t in candidates.names])
    free, damped = (int(np.where(mask, by_fold.mean(axis=0), -np.inf).argmax()) for mask in (is_free, ~is_free))
    choice = _against_first(by_fold, free, errors_beyond)
    if not is_free[damped] and _lead(by_fold, damped, choice.best) > ERRORS_BEYOND_FREE:
        choice = _against_first(by_fold, damped, errors_beyond)
    return choice


def best_of_parts(scores: np.ndarray, errors_beyond: float) -> Choice:
    """The best by the mean of scores (n_parts, n_candidates), if it beats the first by `errors_beyond` over the parts.

    Examples
    --------
    >>> best_of_parts(np.array([[1.0, 1.3], [1.1, 1.5], [1.0, 1.2]]), 2.0).best
    1
    >>> best_of_parts(np.array([[1.0, 1.3], [1.1, 1.0], [1.0, 1.2]]), 2.0).best
    0
    """
    return _against_first(scores, int(scores.mean(axis=0).argmax()), errors_beyond)


def _against_first(scores: np.ndarray, best: int, errors_beyond: float) -> Choice:
    """A candidate, if it beats the first by `errors_beyond` over the parts; else the first."""
    lead = _lead(scores, best, 0)
    return Choice(best if lead > errors_beyond else 0, scores.mean(axis=0), lead)


def _lead(scores: np.ndarray, one: int, other: int) -> float:
    """Standard errors over the parts by which the mean of one candidate is above that of another, 0 of round-off."""
    ahead = scores[:, one] - scores[:, other]
    if abs(ahead.mean()) <= _ROUND_OFF * scores[:, other].max():
        return 0.0
    return _in_errors(ahead.mean(), ahead.std(ddof=1) / np.sqrt(len(ahead)))


def _in_errors(value: float, error: float) -> float:
    """A value in standard errors, 0 of 0."""
    return float(value / error) if error > 0 else np.inf if value > 0 else 0.0


def _possible(scores: np.ndarray, candidates: Candidates) -> np.ndarray:
    """Scores with -inf for those that no functions have: of directions which are the round-off of features."""
    return np.where(scores <= candidates.n_modes * (1 + SIGMA_TOLERANCE), scores, -np.inf)


def _span_scores(solutions: list[WhitenedSVD], there: Moments) -> np.ndarray:
    """`kl.scores.span_vamp_2` of all solutions at once, (n_solutions, ...), at other moments of the same functions.

    That the constant is the first function of each makes it simple.
    """
    M_f, T_fg, M_g = _cross(there)
    before = tuple(range(1, M_f.ndim - 1))  # axes of the moments, such as one of resamples
    left, right = (np.expand_dims([getattr(s, side) for s in solutions], before) for side in ("left", "right"))
    left_h, right_h = conjugate_transpose(left), conjugate_transpose(right)
    W_f, W_g = inverse_root(left_h @ M_f @ left).matrix, inverse_root(right_h @ M_g @ right).matrix
    return np.sum(np.abs(conjugate_transpose(W_f) @ (left_h @ T_fg @ right) @ W_g) ** 2, axis=(-2, -1))


def _cross(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return moments.M_f, moments.T_fg, moments.M_g
