"""The Chapman-Kolmogorov test: whether the model of one lag says what the data say at longer lags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import TIME, provenance
from koopman_lora._linalg import conjugate_transpose, whitened_svd
from koopman_lora.intervals import percentile_interval, resampled_moments
from koopman_lora.moments import Moments
from koopman_lora.propagation import propagator
from koopman_lora.states.coarse_graining import STATE, STATE_NEXT

LAG = "lag"

Arrays = Mapping[str, np.ndarray]


def chapman_kolmogorov(
    moments_by_lag: Mapping[int, Moments],
    memberships: np.ndarray | None = None,
    *,
    method: str = "edmd",
    n_states: int = 4,
    dt: float = 1.0,
    time_unit: str = "frame",
    n_resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Chapman-Kolmogorov test: K^n of the shortest lag against what is estimated directly at n times that lag.

    Parameters
    ----------
    moments_by_lag : mapping from lag in frames to Moments
        Of the same features, of any model or fixed map; all lags are multiples of the smallest, which is the model's.
    memberships : array (n_features, n_states), optional
        States as combinations of features: `np.eye(n)` for one-hot features or a membership map. Compared are then the
        probabilities to be in state j after having been in i. Without, the correlations <phi_i, K^n phi_j> of the
        leading `n_states` singular functions phi at the smallest lag.
    method : 'edmd' or 'operator', see `propagator`
    dt, time_unit : physical time between two frames and its unit
    n_resamples, level, seed : of the bootstrap over blocks, bounds are percentiles; 0 for no intervals

    Returns
    -------
    Dataset
        `predicted`, `estimated` (time, state, state_next), with resamples also `<name>_lower`, `<name>_upper`;
        `deviation`, the largest absolute difference at each time.

    Raises
    ------
    ValueError
        For fewer than 2 lags, lags that are no multiples of the smallest, or moments of different features.

    Examples
    --------
    >>> from koopman_lora.moments import estimate_moments
    >>> from koopman_lora.systems import FiniteMarkovChain
    >>> from koopman_lora.data.pairs import lagged_pairs
    >>> data = FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(n_steps=20_000)
    >>> m = {lag: estimate_moments(lambda x: x, lambda x: x, lagged_pairs(data, lag)) for lag in (1, 2, 4)}
    >>> bool((chapman_kolmogorov(m, np.eye(2)).deviation < 0.03).all())
    True
    """
    lags = _check_lags(moments_by_lag)
    A = _state_coefficients(moments_by_lag[lags[0]], memberships, n_states)
    stacks = [_stack(moments_by_lag[lag], n_resamples, seed) for lag in lags]
    predicted = _predicted(stacks[0], A, [lag // lags[0] for lag in lags], method)
    estimated = np.stack([conjugate_transpose(A) @ stack["T_ff"] @ A for stack in stacks], axis=1)
    if memberships is not None:  # P(j after n lags | i) = E[chi_i chi_j(n)] / E[chi_i]
        predicted = predicted / _populations(stacks[0], A)[:, None]
        estimated = estimated / np.stack([_populations(stack, A) for stack in stacks], axis=1)
    dims = (LAG, STATE, STATE_NEXT)
    variables: dict[str, Any] = {"predicted": (dims, predicted[0]), "estimated": (dims, estimated[0])}
    if n_resamples:
        for name, values in (("predicted", predicted), ("estimated", estimated)):
            lower, upper = percentile_interval(values[1:], level)
            variables |= {f"{name}_lower": (dims, lower), f"{name}_upper": (dims, upper)}
    variables["deviation"] = (LAG, np.abs(predicted[0] - estimated[0]).max(axis=(1, 2)))
    coords = {
        LAG: (LAG, lags, {"units": "frame"}),
        TIME: (LAG, dt * np.asarray(lags), {"units": time_unit}),
        STATE: np.arange(A.shape[1]),
        STATE_NEXT: np.arange(A.shape[1]),
    }
    attrs = provenance(method=method, lag=lags[0], dt=dt, time_unit=time_unit, n_resamples=n_resamples, level=level)
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _state_coefficients(base: Moments, memberships: np.ndarray | None, n_states: int) -> np.ndarray:
    """The functions that are compared, as combinations of the features: (n_features, n_states)."""
    if memberships is None:
        return whitened_svd(base.M_f, base.T_fg, base.M_g, rank=n_states).left
    k = base.M_f.shape[0]
    if np.ndim(memberships) != 2 or len(memberships) != k:
        raise ValueError(
            f"memberships must have shape ({k}, n_states), one row per feature; got {np.shape(memberships)}."
        )
    return np.asarray(memberships)


def _stack(moments: Moments, n_resamples: int, seed: int) -> Arrays:
    if n_resamples == 0:
        return moments.reweighted(np.ones((1, moments.n_blocks)))
    return resampled_moments(moments, n_resamples, seed)


def _predicted(first: Arrays, A: np.ndarray, n_lags: list[int], method: str) -> np.ndarray:
    """`E[(f A)^H K^n (f A)]` for every number of lags n, (n_resamples, len(n_lags), n_states, n_states)."""
    # the features themselves are the observables whose expectations are carried forward
    step = propagator({**first, "H_f": first["M_f"], "H_g": first["C_gf"]}, method)
    left, right = conjugate_transpose(A) @ first["M_f"] @ step.start, step.readout @ A
    return np.stack([left @ np.linalg.matrix_power(step.K, n - 1) @ right for n in n_lags], axis=1)


def _populations(stack: Arrays, A: np.ndarray) -> np.ndarray:
    """Mean memberships as a column, (n_resamples, n_states, 1)."""
    return (conjugate_transpose(A) @ stack["M_f"] @ A).sum(axis=-1, keepdims=True)


def _check_lags(moments_by_lag: Mapping[int, Moments]) -> list[int]:
    lags = sorted(moments_by_lag)
    if len(lags) < 2 or any(lag % lags[0] for lag in lags):
        raise ValueError(f"moments_by_lag needs at least 2 lags, all multiples of the smallest; got {lags}.")
    sizes = {lag: moments_by_lag[lag].M_f.shape[0] for lag in lags}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"moments_by_lag must be of the same features; got numbers of features {sizes}.")
    return lags
