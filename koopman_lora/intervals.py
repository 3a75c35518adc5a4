"""Intervals of singular values, eigenvalues, timescales and frequencies from the moments alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from koopman_lora._labels import MODE, PART, interval, labelled, provenance
from koopman_lora._linalg import TIE_TOLERANCE, WhitenedSVD, eigenvalue_order, sorted_eig
from koopman_lora.arguments import as_svals
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.checks import checked
from koopman_lora.clock import Clock
from koopman_lora.moments import CROSS, Moments, OneEstimate
from koopman_lora.spectrum import k_matrix, scaled_by
from koopman_lora.triples import Basis, canonical_triples, independent_basis, triples_of_functions

# What `benchmarks/trust.py` measures of 95 % intervals; it travels with them.
_COVERAGE = (
    "conditional on the features: with fixed exact functions 88 to 97 % of 95 % intervals covered the exact singular "
    "value and 92 to 98 % the modulus of the eigenvalue (7 systems, 100 repetitions, means over modes); with networks "
    "learned anew each time 95 to 97 % and 89 to 100 %, but 61 and 39 % for a strongly non-normal system (4 systems, "
    "20 repetitions); KoopmanLoRA.intervals(refit=20) holds for the search for features too"
)
# Eigenvalues with condition numbers up to this spread as evenly as those of a normal operator, whose is 1.
_NORMAL_CONDITION = 1.2
# Blocks shorter than two memories end in the middle of a stay, and what their ends add to M_f and M_g does not cancel
# once they are drawn apart; but of fewer than 16 blocks the spread itself is too uncertain.
_MEMORIES_PER_BLOCK = 2
_FEWEST_BLOCKS = 16


@checked
def bootstrap_intervals(moments: OneEstimate, svals: Any = None, bootstrap: Bootstrap = Bootstrap()) -> xr.Dataset:
    """Intervals of canonical and K_matrix singular values, eigenvalues, timescales and frequencies.

    Blocks of the data, see `in_long_blocks`, are drawn with replacement. An interval reaches from the estimate as many
    standard deviations of the resampled values as Student's t asks for, on the scale of arccos for canonical values and
    moduli; the bias of the resampled values widens it on one side. Where two eigenvalues may be one double one, their
    intervals hold it, see `eigenvalue_intervals`. All are conditional on the learned features.

    Parameters
    ----------
    moments : Moments
        With at least 8 blocks; of unscaled features.
    svals : array of shape (k,), optional
        Learned singular values that scale the features for K_matrix.
    bootstrap : number of resamples, level and seed

    Returns
    -------
    Dataset
        With `canonical_singular_values_interval`, `singular_values_interval` (of K_matrix),
        `eigenvalue_modulus_interval`, `timescales_interval`, `frequencies_interval` over (bound, mode),
        `eigenvalues_interval` over (bound, part, mode), and `canonical_standard_error`.

    Raises
    ------
    ValueError
        For fewer than 8 blocks.

    Examples
    --------
    >>> x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)).double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x[:-1], x[:-1] + x[1:]))      # sigma = 1 / sqrt(2)
    >>> low, high = bootstrap_intervals(m).canonical_singular_values_interval.values[:, 0]
    >>> bool(low < 0.7071 < high)
    True
    """
    moments = in_long_blocks(moments.only((*CROSS, "C_gf")))
    factor = bootstrap.t_factor(moments.n_blocks)
    floor = unseen_floor(moments, bootstrap.level)
    stack = bootstrap.resampled(moments)
    basis = independent_basis(moments)
    functions = basis.moments(stack)
    triples = triples_of_functions(functions)
    canonical = triples.values
    K_values = _K_matrix_values(stack, svals, basis, triples.left)
    signed = np.where(_turned_over(functions, triples), -canonical, canonical)
    variables = interval("canonical_singular_values", [MODE], modulus_interval(canonical[0], signed[1:], factor, floor))
    variables |= interval("singular_values", [MODE], np.maximum(t_interval(K_values[0], K_values[1:], factor), 0.0))
    if "C_gf" in stack:
        K = functions.between("C_gf", triples.right * canonical[..., None, :], triples.left)
        eig, drawn = sorted_eig(K[0]), np.linalg.eigvals(K[1:])
        reach = Reach(factor, floor, eig.condition)
        variables |= eigenvalue_intervals(eig.values, drawn, reach, moments.clock)
    variables["canonical_standard_error"] = (MODE, canonical[1:].std(axis=0))
    attrs = provenance(**bootstrap.attrs(), n_blocks=moments.n_blocks, **moments.clock.attrs(), note=_COVERAGE)
    return labelled(variables, attrs)


def in_long_blocks(moments: Moments) -> Moments:
    """Neighbouring blocks merged until they are twice as long as the memory, that of the slowest mode; 16 at least.

    Pairs are taken to follow one another by one frame.

    Examples
    --------
    >>> x = torch.eye(2, dtype=torch.float64)[[0] * 300 + [1] * 300]
    >>> in_long_blocks(estimate_moments(lambda s: s, lambda s: s, (x[:-1], x[1:]))).n_blocks
    16
    """
    values = canonical_triples(moments).values
    slowest = values[1:2] if values[0] == 1 else values[:1]
    n_blocks = number_of_long_blocks(float(slowest.max(initial=0.0)), moments.n_pairs, moments.clock)
    if n_blocks >= moments.n_blocks:
        return moments
    return moments.merged(np.arange(moments.n_blocks) * n_blocks // moments.n_blocks)


def number_of_long_blocks(sigma: float, n_pairs: int, clock: Clock) -> int:
    """How many blocks of n pairs are twice as long as a mode of this sigma remembers, but 16 at least.

    Examples
    --------
    >>> number_of_long_blocks(np.exp(-0.01), 6000, Clock(1)), number_of_long_blocks(1.0, 6000, Clock(1))
    (30, 16)
    """
    memory = -(clock.lag or 1) / np.log(np.clip(sigma, 1e-300, 1 - 1e-15))
    return max(int(n_pairs / max(_MEMORIES_PER_BLOCK * memory, 1.0)), _FEWEST_BLOCKS)


def _K_matrix_values(stack: Moments, svals: Any, basis: Basis, left: np.ndarray) -> np.ndarray:
    """Singular values of `pinv(M_f) T_fg` of features scaled by sqrt(svals), (n_resamples, k).

    With left singular functions L, which are of unit norm, `pinv(M_f) T_fg = L L^H T_fg`: no second whitening.
    """
    root = None if svals is None else np.sqrt(as_svals(svals, stack.M_f.shape[-1]))
    if root is not None and not root.all():  # features times 0 are gone, and with them what L was made of
        return np.linalg.svd(k_matrix(scaled_by(stack, root**2)), compute_uv=False)
    K = basis.of_features("f", left @ basis.moments(stack.only(("M_f", "T_fg")), "f").between("T_fg", left))
    return np.linalg.svd(K if root is None else K / root[:, None] * root, compute_uv=False)


def match_eigenvalues(estimate: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Permute the eigenvalues of every resample to stand beside the nearest ones of the estimate (optimal assignment).

    Where a conjugate pair stands opposite two real values, either assignment is as near: the rule of order decides.

    Examples
    --------
    >>> match_eigenvalues(np.array([0.9, 0.1]), np.array([[0.2, 0.8]]))
    array([[0.8, 0.2]])
    """
    rank, ordered = np.arange(len(estimate))[:, None], np.take_along_axis(drawn, eigenvalue_order(drawn), axis=-1)
    # the factor keeps two assignments from being equally out of order
    ties = TIE_TOLERANCE * np.square(rank - np.arange(drawn.shape[1])) * (1 + rank / 7)
    result = np.empty((len(drawn), len(estimate)), dtype=drawn.dtype)
    for i, values in enumerate(ordered):
        result[i] = values[linear_sum_assignment(np.abs(estimate[:, None] - values) + ties)[1]]
    return result


class Reach(NamedTuple):
    """How far intervals of eigenvalues reach: `factor` and `floor` of `modulus_interval`, and their condition numbers.

    `condition` (n_modes,) is in L2, 1 for all eigenvalues of a normal operator.
    """

    factor: float
    floor: float
    condition: np.ndarray


def eigenvalue_intervals(estimate: np.ndarray, drawn: np.ndarray, reach: Reach, clock: Clock) -> dict[str, Any]:
    """Variables `eigenvalues_interval` (real and imaginary part), `eigenvalue_modulus_interval`, and of both times.

    Near a double eigenvalue of a non-normal operator two eigenvalues are `mean +- sqrt(d)`: d spreads evenly, its root
    does not, and the resamples about a pair that chance drove apart do not come back. So where d may be 0, both
    intervals are made to hold the pair's mean.

    Parameters
    ----------
    estimate, drawn : eigenvalues (n_modes,) and of resamples (n_resamples, at least n_modes), in any order
    reach : with condition numbers in the order of `estimate`

    Examples
    --------
    >>> drawn = np.array([[0.5, 1.0], [1.0, 0.7]])
    >>> found = eigenvalue_intervals(np.array([1.0, 0.6]), drawn, Reach(2.0, 1.0, np.ones(2)), Clock())
    >>> found["eigenvalue_modulus_interval"][1].round(3)
    array([[1.   , 0.376],
           [1.   , 0.78 ]])
    """
    matched = match_eigenvalues(estimate, drawn)
    factor = reach.factor
    first, second = np.nonzero(_may_be_double(estimate, matched, reach))
    mean, drawn_mean = (
        (values[..., first] + values[..., second]) / 2 for values in (estimate, matched)
    )  # (n_pairs,), (n_resamples, n_pairs)

    def holding_means(rule: Callable, *turn: np.ndarray) -> np.ndarray:
        turn_of_mean = [t[first] for t in turn]
        return _reaching(
            rule(estimate, matched, factor, *turn), rule(mean, drawn_mean, factor / 2, *turn_of_mean), first
        )

    modulus = _finished(holding_means(_modulus_bounds), np.abs(estimate), reach.floor)
    parts = [
        holding_means(lambda value, values, c, part=part: t_interval(part(value), part(values), c))
        for part in (np.real, np.imag)
    ]

    def frequency_bounds(value: np.ndarray, values: np.ndarray, c: float, about: np.ndarray) -> np.ndarray:
        # turned by the estimate's phase first, so that no resample jumps from one end of the branch to the other
        return clock.frequencies(about) + t_interval(
            clock.frequencies(value * np.conj(about)), clock.frequencies(values * np.conj(about)), c
        )

    unit = clock.time_unit
    return {
        **interval("eigenvalues", [PART, MODE], np.stack(parts, axis=1)),
        **interval("eigenvalue_modulus", [MODE], modulus),
        # where the interval of |lambda| reaches 1 the timescale has no upper bound
        **interval("timescales", [MODE], clock.timescales(modulus), unit),
        **interval("frequencies", [MODE], holding_means(frequency_bounds, estimate), f"1/{unit}"),
    }


def _may_be_double(estimate: np.ndarray, matched: np.ndarray, reach: Reach) -> np.ndarray:
    """Pairs (n, n) of ill-conditioned eigenvalues whose squared half-distance is 0 within its error.

    Never with the constant mode's, which is exact.

    Examples
    --------
    >>> drawn = 0.5 + np.array([[0.1, -0.1], [0.1j, -0.1j], [0.3, -0.3]])
    >>> _may_be_double(np.array([0.7, 0.3]), drawn, Reach(2.0, 1.0, np.array([5.0, 5.0])))
    array([[False,  True],
           [ True, False]])
    """
    result = np.zeros((len(estimate), len(estimate)), dtype=bool)
    is_suspect = (np.abs(estimate - 1) > TIE_TOLERANCE) & (reach.condition > _NORMAL_CONDITION)
    for i in np.flatnonzero(is_suspect):
        squared, drawn = (np.square(values[..., [i]] - values) / 4 for values in (estimate, matched))
        result[i] = is_suspect & (np.abs(squared) <= reach.factor * drawn.std(axis=0))
        result[i, i] = False
    return result


def _reaching(bounds: np.ndarray, others: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Bounds (2, n) widened to hold others (2, n_others), each the one that `which` (n_others,) names."""
    lower, upper = bounds.copy()
    np.minimum.at(lower, which, others[0])
    np.maximum.at(upper, which, others[1])
    return np.stack([lower, upper])


def modulus_interval(estimate: np.ndarray, drawn: np.ndarray, factor: float, floor: float) -> np.ndarray:
    """Interval (2, n) of correlations or moduli of eigenvalues, in [0, 1]; the constant mode keeps a point.

    It is symmetric on the scale of the angle arccos: there the spread of an autocorrelation, and that of a probability
    to stay that was estimated from few jumps, do not depend on its size, and a resample without a jump is finite.

    Parameters
    ----------
    estimate, drawn : arrays (n,) and (n_resamples, n), decreasing; drawn negative where a resample has turned over,
        since the spread about a value near 0 would be cut in half by folding it there
    factor : of `Bootstrap.t_factor`
    floor : no lower bound is above it: a jump that was never seen has a rate that the data bound, but not zero

    Examples
    --------
    >>> modulus_interval(np.array([1.0, 1.0]), np.ones((9, 2)), factor=2.0, floor=0.99)    # two sets, no jump seen
    array([[1.  , 0.99],
           [1.  , 1.  ]])
    """
    return _finished(_modulus_bounds(estimate, drawn, factor), estimate, floor)


def _modulus_bounds(estimate: np.ndarray, drawn: np.ndarray, factor: float) -> np.ndarray:
    """Bounds (2, n) of moduli of real or complex values; a resample that points away from its estimate is negative."""
    away = np.real(drawn * np.conj(estimate)) < 0
    signed = np.where(away, -np.abs(drawn), np.abs(drawn))
    upper, lower = np.cos(np.clip(t_interval(_angle(np.abs(estimate)), _angle(signed), factor), 0.0, np.pi))
    return np.stack([np.maximum(lower, 0.0), np.maximum(upper, -lower)])


def _finished(bounds: np.ndarray, estimate: np.ndarray, floor: float) -> np.ndarray:
    """Bounds (2, n) of moduli, none of the lower ones above the floor; the constant mode, the first, a point."""
    lower, upper = bounds
    result = np.stack([np.minimum(lower, floor), upper])
    if len(estimate) and abs(estimate[0] - 1) <= TIE_TOLERANCE:  # as `eigenvalue_order` knows it
        result[:, 0] = estimate[0]
    return result


def _angle(value: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip(value, -1.0, 1.0))


def _turned_over(stack: Moments, triples: WhitenedSVD) -> np.ndarray:
    """Triples of resamples (1 + n_resamples, n_modes) that are those of the data, which come first, but for a sign.

    Noise about a small sigma takes it below 0, where phi or psi turns over instead. Halfway between the two, functions
    have changed places with others, and nothing is turned.
    """
    overlaps = [
        np.diagonal(stack.between(name, side[0], side), axis1=-2, axis2=-1)
        for name, side in (("M_f", triples.left), ("M_g", triples.right))
    ]
    return np.real(overlaps[0] * np.conj(overlaps[1])) < -0.5


def unseen_floor(moments: Moments, level: float) -> float:
    """Largest lower bound of a second value near 1: the slowest relaxation that no jump in the data contradicts.

    In n pairs without a jump its probability is below `-ln(1 - level) / n` (3 / n at 95 %), here for both directions
    between two sets of n / 2 pairs each.
    """
    return float(np.exp(4 * np.log(1 - level) / moments.n_effective))
