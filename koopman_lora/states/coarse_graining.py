"""From many modes to few states: the small Markov model between fuzzy states."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import (
    MODE,
    SOURCE,
    STATE,
    STATE_NEXT,
    TARGET,
    interval,
    labelled,
    provenance,
)
from koopman_lora._linalg import eigenvalue_order, hermitian_pinv
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked
from koopman_lora.clock import Clock
from koopman_lora.moments import Moments, OneEstimate
from koopman_lora.states.markov_models import (
    committor,
    has_one_stationary_distribution,
    mean_first_passage_times,
    nearest_probabilities,
    normalised_rows,
    stationary_distribution,
)
from koopman_lora.states.unseen_transitions import unseen_alternatives

ESTIMATORS = ("galerkin", "counts")
# What follows from the transition matrix alone, and gets intervals.
DERIVED_DIMS: dict[str, tuple[str, ...]] = {
    "transition_matrix": (STATE, STATE_NEXT),
    "stationary_distribution": (STATE,),
    "metastability": (),
    "timescales": (MODE,),
    "mean_first_passage_times": (STATE, TARGET),
}
TIMES = ("timescales", "mean_first_passage_times")
# Size of a negative entry beyond which the model is another one after it was cut.
_TOO_NEGATIVE = 0.05


@checked
def transition_matrix(moments: Moments, estimator: str = "galerkin") -> np.ndarray:
    """Row-stochastic transition matrix between fuzzy states, from the moments of memberships chi.

    Parameters
    ----------
    moments : of a membership map as `f` and `g`, resampled or not; of `pairs.both_ways()` they give detailed balance
        exactly
    estimator : 'galerkin' or 'counts'
        `E[chi^T chi]^{-1} E[chi^T chi']`, which keeps the eigenvalues of the slow subspace; fuzzy states may give it
        slightly negative entries, and then the nearest probabilities are taken. Or `E[chi_i chi'_j] / E[chi_i]`, which
        cannot be negative but counts fuzziness as jumps, so that its times are too short.

    Returns
    -------
    array (..., n_states, n_states); rows are at least 0 and sum to 1

    Raises
    ------
    ValueError
        For moments that are not finite or not of memberships, or a state that is never visited, by number.

    Examples
    --------
    >>> hot = torch.eye(2)[[0, 0, 0, 1, 1]]
    >>> transition_matrix(estimate_moments(lambda x: x, lambda x: x, (hot[:-1], hot[1:]), n_blocks=1)).round(3)
    array([[0.667, 0.333], [0.   , 1.   ]])
    """
    raw, populations = _raw_transition_matrix(moments, estimator)
    _check_visited(populations)
    return _stochastic(raw, populations, moments.is_reversible)


def _stochastic(raw: np.ndarray, populations: np.ndarray, is_reversible: bool) -> np.ndarray:
    P = nearest_probabilities(raw)
    if not is_reversible:
        return P
    flux = populations[..., :, None] * P
    return normalised_rows((flux + np.swapaxes(flux, -1, -2)) / 2)


def _raw_transition_matrix(moments: Moments, estimator: str) -> tuple[np.ndarray, np.ndarray]:
    """Transition matrix before negative entries are cut, and the populations E[chi(x)]."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be 'galerkin' or 'counts'; got {estimator!r}.")
    if np.iscomplexobj(moments.M_f):
        raise TypeError("moments must be of memberships, which are real; these are complex.")
    M, T = moments.M_f, moments.T_ff
    populations = M.sum(axis=-1)  # memberships sum to 1
    total = populations.sum(axis=-1)
    unknown = ~np.isfinite(M).all(axis=-1) | ~np.isfinite(T).all(axis=-1)
    if unknown.any():
        raise ValueError(f"moments must be finite; they are not in row {np.nonzero(unknown)[-1][0]}.")
    if np.abs(total - 1).max() > 1e-6:
        raise ValueError(
            f"moments must be those of memberships, which sum to 1; got a sum of {total.flat[0]:.6g}. Estimate them "
            "with a membership_map."
        )
    visited = np.where(populations > 0, populations, 1.0)
    raw = hermitian_pinv(M) @ T if estimator == "galerkin" else T / visited[..., :, None]
    return raw, populations


def _check_visited(populations: np.ndarray) -> None:
    """Nothing is known of where a state leads that no frame x is in."""
    never = np.nonzero(~(populations > 0))[-1]
    if len(never):
        raise ValueError(
            f"moments must be of states that are all visited; state {never[0]} is in no frame x. Leave it out."
        )


@checked
def macroscopic_model(
    moments: OneEstimate,
    *,
    estimator: str = "galerkin",
    bootstrap: Bootstrap | None = Bootstrap(),
) -> xr.Dataset:
    """The small Markov model between fuzzy states: probabilities, populations, times and committors, with intervals.

    Parameters
    ----------
    moments : Moments
        Of memberships: `estimate_moments(chi, chi, pairs)` with chi a `membership_map`, or one-hot maps. Of
        `pairs.both_ways()` the model has detailed balance.
    estimator : see `transition_matrix`
    bootstrap : of the blocks; None for no intervals

    Returns
    -------
    Dataset
        - `transition_matrix` and `counts` (state, state_next), `rates` (probability of a jump per time),
          `stationary_distribution`, `populations` (mean memberships), `metastability` (trace of the matrix),
          `eigenvalues` and `timescales` (mode, that of the constant first), `mean_first_passage_times` (state, target),
          `committors` (source, target, state; NaN for source = target);
        - with a bootstrap and more than one block, `<name>_interval` (bound, ...) of matrix, stationary distribution,
          metastability, timescales and mean first-passage times: percentiles, because entries of the matrix lie at 0
          and passage times may be infinite. They hold as well what follows if a transition that was never observed is
          as likely as `largest_unseen_probability` allows, each in turn: its entry lies between 0 and about 3 / n, and
          times of a state that was never left have a lower bound, and none above. Bounds of a row do not sum to 1;
        - attributes `negative_part`: the largest negative entry before probabilities were made of it, of which a
          warning tells where it is beyond .05: such states are not metastable; `is_connected`:
          False where no state can be reached from all others. `stationary_distribution` is unknown then: NaN, with
          bounds 0 and 1.

    Raises
    ------
    ValueError
        For moments that are not of memberships, or a state that is never visited.

    Examples
    --------
    >>> pairs = lagged_pairs(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(n_steps=4000), dt=2.0, time_unit="ns")
    >>> m = macroscopic_model(estimate_moments(lambda x: x, lambda x: x, pairs))
    >>> low, high = m.timescales_interval.sel(mode=2).values
    >>> m.timescales.dims, m.timescales.units, bool(low < 3.9 < high)
    (('mode',), 'ns', True)
    """
    clock = moments.clock
    if moments.n_blocks < 2:
        bootstrap = None  # nothing to resample, and the attributes say so
    raw, populations = _raw_transition_matrix(moments, estimator)
    _check_visited(populations)
    negative_part = float(np.maximum(-raw, 0).max())
    if negative_part > _TOO_NEGATIVE:
        warnings.warn(
            f"the transition matrix of {len(raw)} states had an entry of {-negative_part:.2g}, which was cut to 0: "
            "they are not metastable, and their probabilities, times and intervals say little. Take another number of "
            "states, or a longer lag.",
            stacklevel=2,
        )
    P = _stochastic(raw, populations, moments.is_reversible)
    variables = _with_units(_derived(P, clock), clock)
    if bootstrap is not None:
        drawn = _resampled_matrices(moments, estimator, bootstrap)
        variables |= _intervals(
            drawn, unseen_alternatives(P, _n_trials(moments, populations), bootstrap.level), clock, bootstrap
        )
    rates = np.where(np.eye(len(P), dtype=bool), 0.0, P) / clock.lag_time
    variables |= {
        "eigenvalues": (MODE, _sorted_eigenvalues(P)),
        "counts": ((STATE, STATE_NEXT), moments.block_counts.sum() * moments.T_ff),
        "populations": (STATE, populations),
        "rates": ((STATE, STATE_NEXT), rates, {"units": f"1/{clock.time_unit}"}),
        "committors": ((SOURCE, TARGET, STATE), _all_committors(P)),
    }
    attrs = provenance(
        estimator=estimator,
        is_reversible=moments.is_reversible,
        **clock.attrs(),
        n_pairs=moments.n_pairs,
        **({} if bootstrap is None else bootstrap.attrs()),
        negative_part=negative_part,
        is_connected=has_one_stationary_distribution(P),
    )
    return labelled(variables, attrs)


def _with_units(values: dict[str, Any], clock: Clock) -> dict[str, Any]:
    return {name: (DERIVED_DIMS[name], value, {"units": _unit(name, clock)}) for name, value in values.items()}


def _unit(name: str, clock: Clock) -> str:
    return clock.time_unit if name in TIMES else "1"


def _n_trials(moments: Moments, populations: np.ndarray) -> np.ndarray:
    """Number of independent trials of each row, (n_states,): pairs overlap in all but one frame of every lag."""
    return moments.n_effective * populations / (moments.clock.lag or 1)


def _resampled_matrices(moments: Moments, estimator: str, bootstrap: Bootstrap) -> np.ndarray:
    """Transition matrices of all resamples, (n_resamples, n_states, n_states)."""
    raws, populations = _raw_transition_matrix(bootstrap.resampled(moments), estimator)
    # a resample without a state says nothing of where that state leads: the estimate, which comes first, stands
    missed = ~(populations > 0)[..., None]
    P = _stochastic(np.where(missed, raws[0], raws), populations, moments.is_reversible)
    return np.where(missed, P[0], P)[1:]


def _intervals(drawn: np.ndarray, alternatives: list[np.ndarray], clock: Clock, bootstrap: Bootstrap) -> dict[str, Any]:
    """Percentiles of what follows from the drawn matrices, wide enough for what follows from the alternatives."""
    samples, others = ([_derived(matrix, clock) for matrix in matrices] for matrices in (drawn, alternatives))
    variables: dict[str, Any] = {}
    for name, dims in DERIVED_DIMS.items():
        values = np.stack([sample[name] for sample in samples])
        # only a stationary distribution may be unknown, where it is not unique: then anything between 0 and 1
        lower = bootstrap.percentiles(np.nan_to_num(values, nan=0.0, posinf=np.inf))[0]
        upper = bootstrap.percentiles(np.nan_to_num(values, nan=1.0, posinf=np.inf))[1]
        for other in others:
            lower, upper = np.fmin(lower, other[name]), np.fmax(upper, other[name])
        variables |= interval(name, dims, np.stack([lower, upper]), _unit(name, clock))
    return variables


def _sorted_eigenvalues(P: np.ndarray) -> np.ndarray:
    values = np.linalg.eigvals(P).astype(complex)
    return values[eigenvalue_order(values)]


def _derived(P: np.ndarray, clock: Clock) -> dict[str, np.ndarray]:
    """What follows from one transition matrix; the stationary distribution is NaN where there are several."""
    is_known = has_one_stationary_distribution(P)
    return {
        "transition_matrix": P,
        "stationary_distribution": stationary_distribution(P) if is_known else np.full(len(P), np.nan),
        "metastability": np.trace(P),
        "timescales": clock.timescales(_sorted_eigenvalues(P)),
        "mean_first_passage_times": mean_first_passage_times(P, clock.lag_time),
    }


def _all_committors(P: np.ndarray) -> np.ndarray:
    n = len(P)
    result = np.full((n, n, n), np.nan)
    for source, target in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
        result[source, target] = committor(P, source, target)
    return result
