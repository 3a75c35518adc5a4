"""The Chapman-Kolmogorov test: whether the model of one lag says what the data say at longer lags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import LAG, STATE, STATE_NEXT, TIME, interval, labelled, provenance
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked
from koopman_lora.kinds import LARGEST, Reals, moderate_array
from koopman_lora.moments import Moments
from koopman_lora.propagation import propagator
from koopman_lora.triples import canonical_triples


@checked
def chapman_kolmogorov(
    moments_by_lag: Sequence[Moments] | Mapping[int, Moments],
    memberships: Reals | None = None,
    *,
    method: str = "edmd",
    n_states: int = 4,
    bootstrap: Bootstrap | None = Bootstrap(),
) -> xr.Dataset:
    """Chapman-Kolmogorov test: K^n of the shortest lag against what is estimated directly at n times that lag.

    Parameters
    ----------
    moments_by_lag : Moments at several lags, as a list or a mapping from lags
        Of the same features, of any model or fixed map; their clocks tell the lags, all multiples of the smallest,
        which is the model's.
    memberships : array (n_features, n_states), optional
        States as combinations of features: `np.eye(n)` for one-hot features or a membership map. Compared are then the
        probabilities to be in state j after having been in i. Without, the correlations <phi_i, K^n phi_j> of the
        leading `n_states` singular functions phi at the smallest lag.
    method : 'edmd' or 'operator', see `propagator`
    bootstrap : over blocks, bounds are percentiles; None for no intervals

    Returns
    -------
    Dataset
        `predicted`, `estimated` (lag, state, state_next), with a bootstrap also `<name>_interval` (bound, ...);
        `deviation`, the largest absolute difference at each lag.

    Raises
    ------
    ValueError
        For fewer than 2 lags, unknown ones, or lags that are no multiples of the smallest; for moments of different
        features or frames.

    Examples
    --------
    >>> data = FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(n_steps=20_000)
    >>> m = [estimate_moments(lambda x: x, lambda x: x, lagged_pairs(data, lag)) for lag in (1, 2, 4)]
    >>> bool((chapman_kolmogorov(m, np.eye(2)).deviation < 0.03).all())
    True
    """
    by_lag = _by_lag(moments_by_lag)
    lags, first = list(by_lag), next(iter(by_lag.values()))
    A = _state_coefficients(first, memberships, n_states)
    stacks = [_stack(moments, bootstrap) for moments in by_lag.values()]
    predicted = _predicted(stacks[0], A, [lag // lags[0] for lag in lags], method)
    estimated = np.stack([conjugate_transpose(A) @ stack.T_ff @ A for stack in stacks], axis=1)
    if memberships is not None and not all((_populations(stack, A) > 0).all() for stack in stacks):
        raise ValueError("memberships must be of states that are visited; give states that occur in moments_by_lag.")
    if memberships is not None:  # P(j after n lags | i) = E[chi_i chi_j(n)] / E[chi_i]
        predicted = predicted / _populations(stacks[0], A)[:, None]
        estimated = estimated / np.stack([_populations(stack, A) for stack in stacks], axis=1)
    dims = (LAG, STATE, STATE_NEXT)
    variables: dict[str, Any] = {"predicted": (dims, predicted[0]), "estimated": (dims, estimated[0])}
    if bootstrap is not None:
        variables |= interval("predicted", dims, bootstrap.percentiles(predicted[1:]))
        variables |= interval("estimated", dims, bootstrap.percentiles(estimated[1:]))
    variables["deviation"] = (LAG, np.abs(predicted[0] - estimated[0]).max(axis=(1, 2)))
    times = first.clock.dt * np.asarray(lags)
    coords = {LAG: (LAG, lags, {"units": "frame"}), TIME: (LAG, times, {"units": first.clock.time_unit})}
    attrs = provenance(method=method, **first.clock.attrs(), **({} if bootstrap is None else bootstrap.attrs()))
    return labelled(variables, attrs, coords)


def _state_coefficients(base: Moments, memberships: np.ndarray | None, n_states: int) -> np.ndarray:
    """The functions that are compared, as combinations of the features: (n_features, n_states)."""
    if memberships is None:
        return canonical_triples(base, rank=n_states).left
    k = base.M_f.shape[0]
    if np.ndim(memberships) != 2 or len(memberships) != k:
        raise ValueError(
            f"memberships must have shape ({k}, n_states), one row per feature; got {np.shape(memberships)}."
        )
    return moderate_array("memberships", memberships)


def _stack(moments: Moments, bootstrap: Bootstrap | None) -> Moments:
    if bootstrap is None:
        return moments.reweighted(np.ones((1, moments.n_blocks)))
    return bootstrap.resampled(moments)


def _predicted(first: Moments, A: np.ndarray, n_lags: list[int], method: str) -> np.ndarray:
    """`E[(f A)^H K^n (f A)]` for every number of lags n, (n_resamples, len(n_lags), n_states, n_states)."""
    # the features themselves are the observables whose expectations are carried forward
    first.between("C_gf")  # or say that it is missing
    sums = {**first.block_sums, "H_f": first.block_sums["M_f"], "H_g": first.block_sums["C_gf"]}
    shifts = None if first.shifts is None else {**first.shifts, "h": first.shifts["f"]}
    step = propagator(dataclasses.replace(first, block_sums=sums, shifts=shifts), method)
    left, right = first.between("M_f", A, step.start), step.readout @ A
    return np.stack([left @ np.linalg.matrix_power(step.K, n - 1) @ right for n in n_lags], axis=1)


def _populations(stack: Moments, A: np.ndarray) -> np.ndarray:
    """Mean memberships as a column, (n_resamples, n_states, 1)."""
    return (conjugate_transpose(A) @ stack.M_f @ A).sum(axis=-1, keepdims=True)


def _by_lag(moments: Sequence[Moments] | Mapping[int, Moments]) -> dict[int, Moments]:
    """Moments by the lag of their clock, the smallest first."""
    given = list(moments.values()) if isinstance(moments, Mapping) else list(moments)
    by_lag = {m.clock.known_lag("to compare lags"): m for m in given}
    lags = sorted(by_lag)
    if isinstance(moments, Mapping) and list(by_lag) != list(moments):
        raise ValueError(f"moments_by_lag says lags {list(moments)}; the clocks of its moments say {list(by_lag)}.")
    if len(lags) < 2 or any(lag % lags[0] for lag in lags):
        raise ValueError(f"moments_by_lag needs at least 2 lags, all multiples of the smallest; got {lags}.")
    for lag in lags:
        by_lag[lags[0]].clock.at(lag).agreed(by_lag[lag].clock)
    sizes = {lag: by_lag[lag].M_f.shape[0] for lag in lags}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"moments_by_lag must be of the same features; got numbers of features {sizes}.")
    tops = {lag: float(np.abs(by_lag[lag].M_f).max()) for lag in lags}
    if not all(1 / LARGEST < top < LARGEST for top in tops.values()):
        raise ValueError(f"moments_by_lag must be of features of ordinary size; got second moments of up to {tops}.")
    return {lag: by_lag[lag] for lag in lags}
