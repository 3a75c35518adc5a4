"""From many modes to few states: the small Markov model between fuzzy states."""

from __future__ import annotations

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
from koopman_lora.clock import Clock
from koopman_lora.moments import Moments
from koopman_lora.states.markov_models import (
    committor,
    mean_first_passage_times,
    nearest_probabilities,
    normalised_rows,
    stationary_distribution,
)

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


def transition_matrix(moments: Moments, estimator: str = "galerkin", reversible: bool = False) -> np.ndarray:
    """Row-stochastic transition matrix between fuzzy states, from the moments of memberships chi.

    Parameters
    ----------
    moments : of a membership map as `f` and `g`, resampled or not
    estimator : 'galerkin' or 'counts'
        `E[chi^T chi]^{-1} E[chi^T chi']`, which keeps the eigenvalues of the slow subspace; fuzzy states may give it
        slightly negative entries, and then the nearest probabilities are taken. Or `E[chi_i chi'_j] / E[chi_i]`, which
        cannot be negative but counts fuzziness as jumps, so that its times are too short.
    reversible : average over the process and its reversal, and give detailed balance exactly

    Returns
    -------
    array (..., n_states, n_states); rows are at least 0 and sum to 1

    Examples
    --------
    >>> hot = torch.eye(2)[[0, 0, 0, 1, 1]]
    >>> transition_matrix(estimate_moments(lambda x: x, lambda x: x, (hot[:-1], hot[1:]), n_blocks=1)).round(3)
    array([[0.667, 0.333], [0.   , 1.   ]])
    """
    return _stochastic(*_raw_transition_matrix(moments, estimator, reversible), reversible)


def _stochastic(raw: np.ndarray, populations: np.ndarray, reversible: bool) -> np.ndarray:
    P = nearest_probabilities(raw)
    if not reversible:
        return P
    flux = populations[..., :, None] * P
    return normalised_rows((flux + np.swapaxes(flux, -1, -2)) / 2)


def _raw_transition_matrix(moments: Moments, estimator: str, reversible: bool) -> tuple[np.ndarray, np.ndarray]:
    """Transition matrix before negative entries are cut, and the populations E[chi(x)]."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be 'galerkin' or 'counts'; got {estimator!r}.")
    moments = moments.symmetrised() if reversible else moments
    M, T = moments.M_f, moments.T_ff
    populations = M.sum(axis=-1)  # memberships sum to 1
    total = populations.sum(axis=-1)
    if np.abs(total - 1).max() > 1e-6:
        raise ValueError(
            f"moments must be those of memberships, which sum to 1; got a sum of {total.flat[0]:.6g}. Estimate them "
            "with a membership_map."
        )
    raw = hermitian_pinv(M) @ T if estimator == "galerkin" else T / populations[..., :, None]
    return raw, populations


def macroscopic_model(
    moments: Moments,
    *,
    estimator: str = "galerkin",
    reversible: bool = False,
    bootstrap: Bootstrap | None = Bootstrap(),
) -> xr.Dataset:
    """The small Markov model between fuzzy states: probabilities, populations, times and committors, with intervals.

    Parameters
    ----------
    moments : Moments
        Of memberships: `estimate_moments(chi, chi, pairs)` with chi a `membership_map`, or one-hot maps.
    estimator, reversible : see `transition_matrix`
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
          and passage times may be infinite;
        - attribute `negative_part`: the largest negative entry before probabilities were made of it.

    Raises
    ------
    ValueError
        For moments that are not of memberships, or states that cannot reach one another.

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
    raw, populations = _raw_transition_matrix(moments, estimator, reversible)
    P = _stochastic(raw, populations, reversible)
    variables = _derived_variables(P, moments, estimator, reversible, bootstrap)
    rates = np.where(np.eye(len(P), dtype=bool), 0.0, P) / clock.lag_time
    variables |= {
        "eigenvalues": (MODE, _sorted_eigenvalues(P)),
        "counts": ((STATE, STATE_NEXT), moments.n_pairs * moments.T_ff),
        "populations": (STATE, populations),
        "rates": ((STATE, STATE_NEXT), rates, {"units": f"1/{clock.time_unit}"}),
        "committors": ((SOURCE, TARGET, STATE), _all_committors(P)),
    }
    attrs = provenance(
        estimator=estimator,
        reversible=reversible,
        **clock.attrs(),
        n_pairs=moments.n_pairs,
        **({} if bootstrap is None else bootstrap.attrs()),
        negative_part=float(np.maximum(-raw, 0).max()),
    )
    return labelled(variables, attrs)


def _derived_variables(
    P: np.ndarray, moments: Moments, estimator: str, reversible: bool, bootstrap: Bootstrap | None
) -> dict[str, Any]:
    """What follows from the transition matrix alone, with intervals where there is a bootstrap."""
    clock = moments.clock
    units = {name: clock.time_unit if name in TIMES else "1" for name in DERIVED_DIMS}
    variables: dict[str, Any] = {
        name: (DERIVED_DIMS[name], values, {"units": units[name]}) for name, values in _derived(P, clock).items()
    }
    if bootstrap is None:
        return variables
    stack = moments.reweighted(bootstrap.weights(moments.n_blocks))
    samples = [_derived(matrix, clock) for matrix in transition_matrix(stack, estimator, reversible)]
    for name, dims in DERIVED_DIMS.items():
        bounds = bootstrap.percentiles(np.stack([sample[name] for sample in samples]))
        variables |= interval(name, dims, bounds, units[name])
    return variables


def _sorted_eigenvalues(P: np.ndarray) -> np.ndarray:
    values = np.linalg.eigvals(P).astype(complex)
    return values[eigenvalue_order(values)]


def _derived(P: np.ndarray, clock: Clock) -> dict[str, np.ndarray]:
    return {
        "transition_matrix": P,
        "stationary_distribution": stationary_distribution(P),
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
