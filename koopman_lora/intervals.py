"""Intervals of singular values, eigenvalues, timescales and frequencies from the moments alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from koopman_lora._labels import MODE, PART, interval, labelled, provenance
from koopman_lora._linalg import TIE_TOLERANCE, eigenvalue_order
from koopman_lora.arguments import as_svals
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.checks import checked
from koopman_lora.clock import Clock
from koopman_lora.moments import Moments
from koopman_lora.propagation import propagator
from koopman_lora.spectrum import k_matrix, scaled_by
from koopman_lora.triples import canonical_triples

# What `benchmarks/trust.py` measures of 95 % intervals; it travels with them.
_COVERAGE = (
    "conditional on the features: of 95 % intervals 88 to 97 % covered the exact singular value and 86 to 98 % the "
    "eigenvalue, but 30 to 50 % the eigenvalues of a strongly non-normal system, learned anew each time; measured "
    "on the scale of artanh, before that of arccos"
)
# Distance from 1 below which a value is the constant mode's, whose interval is a point.
_EXACT_ONE = 1e-9


@checked
def bootstrap_intervals(moments: Moments, svals: Any = None, bootstrap: Bootstrap = Bootstrap()) -> xr.Dataset:
    """Intervals of canonical and K_matrix singular values, eigenvalues, timescales and frequencies.

    Blocks of the data are drawn with replacement. An interval reaches from the estimate as many standard deviations of
    the resampled values as Student's t asks for, on the scale of arccos for canonical values and moduli; the bias of
    the resampled values widens it on one side. It is conditional on the learned features.

    Parameters
    ----------
    moments : Moments
        With at least 8 blocks, each longer than the memory of the process; of unscaled features.
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
    factor = bootstrap.t_factor(moments.n_blocks)
    floor = unseen_floor(moments, bootstrap.level)
    stack = bootstrap.resampled(moments)
    canonical = canonical_triples(stack).values
    K_values = _K_matrix_values(stack, svals)
    variables = interval(
        "canonical_singular_values", [MODE], modulus_interval(canonical[0], canonical[1:], factor, floor)
    )
    variables |= interval("singular_values", [MODE], np.maximum(t_interval(K_values[0], K_values[1:], factor), 0.0))
    if "C_gf" in stack:
        values = np.linalg.eigvals(propagator(stack).K)
        ordered = values[0][eigenvalue_order(values[0])]
        variables |= eigenvalue_intervals(ordered, values[1:], factor, floor, moments.clock)
    variables["canonical_standard_error"] = (MODE, canonical[1:].std(axis=0))
    attrs = provenance(**bootstrap.attrs(), n_blocks=moments.n_blocks, **moments.clock.attrs(), note=_COVERAGE)
    return labelled(variables, attrs)


def _K_matrix_values(stack: Moments, svals: np.ndarray | None) -> np.ndarray:
    """Singular values of `pinv(M_f) T_fg` of features scaled by sqrt(svals), (n_resamples, k)."""
    return np.linalg.svd(
        k_matrix(scaled_by(stack, None if svals is None else as_svals(svals, stack.M_f.shape[-1]))), compute_uv=False
    )


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


def eigenvalue_intervals(
    estimate: np.ndarray, drawn: np.ndarray, factor: float, floor: float, clock: Clock
) -> dict[str, Any]:
    """Variables `eigenvalues_interval` (real and imaginary part), `eigenvalue_modulus_interval`, and of both times.

    Parameters
    ----------
    estimate, drawn : eigenvalues (n_modes,) and of resamples (n_resamples, at least n_modes), in any order
    factor, floor : see `modulus_interval`

    Examples
    --------
    >>> drawn = np.array([[0.5, 1.0], [1.0, 0.7]])
    >>> found = eigenvalue_intervals(np.array([1.0, 0.6]), drawn, factor=2.0, floor=1.0, clock=Clock())
    >>> found["eigenvalue_modulus_interval"][1].round(3)
    array([[1.   , 0.376],
           [1.   , 0.78 ]])
    """
    matched = match_eigenvalues(estimate, drawn)
    modulus = modulus_interval(np.abs(estimate), np.abs(matched), factor, floor)
    parts = [t_interval(part(estimate), part(matched), factor) for part in (np.real, np.imag)]
    # turned by the estimate's phase first, so that no resample jumps from one end of the branch to the other
    turns = clock.frequencies(matched * np.conj(estimate))
    frequencies = clock.frequencies(estimate)
    unit = clock.time_unit
    return {
        **interval("eigenvalues", [PART, MODE], np.stack(parts, axis=1)),
        **interval("eigenvalue_modulus", [MODE], modulus),
        # where the interval of |lambda| reaches 1 the timescale has no upper bound
        **interval("timescales", [MODE], clock.timescales(modulus), unit),
        **interval("frequencies", [MODE], t_interval(frequencies, frequencies + turns, factor), f"1/{unit}"),
    }


def modulus_interval(estimate: np.ndarray, drawn: np.ndarray, factor: float, floor: float) -> np.ndarray:
    """Interval (2, n) of correlations or moduli of eigenvalues, in [0, 1]; the constant mode keeps a point.

    It is symmetric on the scale of the angle arccos: there the spread of an autocorrelation, and that of a probability
    to stay that was estimated from few jumps, do not depend on its size, and a resample without a jump is finite.

    Parameters
    ----------
    estimate, drawn : arrays (n,) and (n_resamples, n), decreasing
    factor : of `Bootstrap.t_factor`
    floor : no lower bound is above it: a jump that was never seen has a rate that the data bound, but not zero

    Examples
    --------
    >>> modulus_interval(np.array([1.0, 1.0]), np.ones((9, 2)), factor=2.0, floor=0.99)    # two sets, no jump seen
    array([[1.  , 0.99],
           [1.  , 1.  ]])
    """
    upper, lower = np.cos(np.clip(t_interval(_angle(estimate), _angle(drawn), factor), 0.0, np.pi / 2))
    result = np.stack([np.minimum(lower, floor), upper])
    if len(estimate) and abs(estimate[0] - 1) <= _EXACT_ONE:
        result[:, 0] = estimate[0]
    return result


def _angle(modulus: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip(modulus, 0.0, 1.0))


def unseen_floor(moments: Moments, level: float) -> float:
    """Largest lower bound of a second value near 1: the slowest relaxation that no jump in the data contradicts.

    In n pairs without a jump its probability is below `-ln(1 - level) / n` (3 / n at 95 %), here for both directions
    between two sets of n / 2 pairs each.
    """
    return float(np.exp(4 * np.log(1 - level) / moments.n_pairs))
