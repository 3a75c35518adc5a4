"""Forecasts of states and observables forward and backward in time, with bands and errors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from koopman_lora._labels import FORECASTER, OBSERVABLE, SAMPLE, STEP, TIME, interval, labelled, provenance
from koopman_lora.accumulation import flat_state
from koopman_lora.arguments import told_as
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs
from koopman_lora.kinds import LARGEST, moderate_array
from koopman_lora.moments import FeatureMap, Moments, OneEstimate
from koopman_lora.propagation import Propagator, propagator

# Horizons of one forecast, each with its own row of the result.
MOST_STEPS = 100_000
FORECASTERS = ("koopman", "persistence", "climatology", "linear")
# Samples whose bootstrap is held in memory at once.
CHUNK = 512
DIMS = (STEP, SAMPLE, OBSERVABLE)


@checked
def forecast(
    moments: OneEstimate,
    features: Any,
    steps: int | Sequence[int],
    *,
    method: str = "operator",
    direction: str = "forward",
    n_modes: int | None = None,
) -> xr.DataArray:
    """Conditional expectations of observables some lags after, or before, given states.

    Parameters
    ----------
    moments : Moments
        Estimated with `observables=h`; `flat_state` for the states themselves.
    features : array or tensor (n_samples, k)
        Forward: f(x_0); backward: g(x_0).
    steps : int or sequence of int
        Lags ahead: 1, ..., steps, or those listed.
    method : 'operator' (singular triples) or 'edmd'
    direction : 'forward', E[h(x_t) | x_0], or 'backward', E[h(x_{-t}) | x_0]
    n_modes : rank of the operator, all features by default

    Returns
    -------
    DataArray (step, sample, observable) with the physical time of every step

    Raises
    ------
    ValueError
        For unknown options, steps below 1, features of another number, or moments without observables.

    References
    ----------
    docs/mathematics.md, section 7.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=flat_state)
    >>> forecast(m, np.array([[8.0]]), 3)[:, 0, 0].values.round(6)
    array([4., 2., 1.])
    >>> forecast(m, np.array([[1.0]]), [3], direction="backward").values.round(6)
    array([[[8.]]])
    """
    moments = _directed(moments, direction)
    steps = check_steps(steps)
    step = propagator(moments, method, n_modes)
    features = _checked_features(features, step)
    values = np.stack([features @ weights for weights in _weights(step, steps)])
    attrs = provenance(method=method, direction=direction, **moments.clock.attrs())
    return labelled({"forecast": (DIMS, values)}, attrs, _coordinates(steps, moments, direction))[
        "forecast"
    ].assign_attrs(attrs)


@checked
def forecast_band(
    moments: OneEstimate,
    features: Any,
    steps: int | Sequence[int],
    *,
    method: str = "operator",
    direction: str = "forward",
    n_modes: int | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> xr.Dataset:
    """`forecast` with a band from the bootstrap of the blocks of the moments: no further pass over the data.

    The band is that of the conditional *expectation* given finite data; single realisations scatter more. Its bounds
    are percentiles, see `Bootstrap.percentiles`.

    Parameters
    ----------
    moments, features, steps, method, direction, n_modes : see `forecast`
    bootstrap : number of resamples, level and seed

    Returns
    -------
    Dataset with `forecast` (step, sample, observable) and `forecast_interval` (bound, step, sample, observable)

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=flat_state)
    >>> band = forecast_band(m, np.array([[8.0]]), 1)
    >>> bool(np.allclose(*band.forecast_interval))                                    # noise-free data
    True
    """
    moments = _directed(moments, direction)
    steps = check_steps(steps)
    step = propagator(bootstrap.resampled(moments), method, n_modes)
    features = _checked_features(features, step)
    values = np.stack([_with_bounds(features, weights, bootstrap) for weights in _weights(step, steps)], axis=1)
    variables = {"forecast": (DIMS, values[0]), **interval("forecast", DIMS, values[1:])}
    attrs = provenance(method=method, direction=direction, **moments.clock.attrs(), **bootstrap.attrs())
    return labelled(variables, attrs, _coordinates(steps, moments, direction))


def _directed(moments: Moments, direction: str) -> Moments:
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction must be 'forward' or 'backward'; got {direction!r}.")
    return moments if direction == "forward" else moments.time_reversed()


def check_steps(steps: int | Sequence[int]) -> list[int]:
    """Return `steps` as a list of numbers of lags: 1, ..., n for a number n, increasing numbers as they are.

    Examples
    --------
    >>> check_steps(3), check_steps([1, 20])
    ([1, 2, 3], [1, 20])
    """
    if np.size(steps) > MOST_STEPS or (isinstance(steps, (int, np.integer)) and steps > MOST_STEPS):
        raise ValueError(f"steps must be at most {MOST_STEPS} numbers of lags; give those that you want as a list.")
    listed = list(range(1, steps + 1)) if isinstance(steps, (int, np.integer)) else list(steps)
    if not listed or any(int(n) != n or n < 1 for n in listed) or any(b <= a for a, b in itertools.pairwise(listed)):
        raise ValueError(f"steps must be a number of at least 1, or increasing numbers of at least 1; got {steps!r}.")
    return [int(n) for n in listed]


def _checked_features(features: Any, step: Propagator) -> np.ndarray:
    values = moderate_array("features", features)
    n_features = step.start.shape[-2]
    if len(values.shape) == 2 and len(values) == 0:
        raise ValueError("features of x are empty; give at least one state.")
    if values.ndim != 2 or values.shape[1] != n_features:
        raise ValueError(f"features must have shape (n_samples, {n_features}), as in the moments; got {values.shape}.")
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)


def _weights(step: Propagator, steps: Sequence[int]) -> Iterator[np.ndarray]:
    """For every number of lags, what multiplies features: (..., k, n_observables)."""
    if step.readout is None:
        raise ValueError("moments lack observables; estimate them with observables=h, such as flat_state.")
    weights, done = step.readout, 1
    for n in steps:
        with np.errstate(over="ignore", invalid="ignore"):
            weights, done = np.linalg.matrix_power(step.K, n - done) @ weights, n
            ahead = step.start @ weights
        if not (np.abs(ahead) < LARGEST).all():
            raise ValueError(
                f"moments and observables give forecasts that overflow {n} lags ahead; choose another unit."
            )
        yield ahead


def _with_bounds(features: np.ndarray, weights: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """Forecast by the first of a stack of weights, bounds by the others: (3, n_samples, n_observables)."""
    pieces = []
    for start in range(0, len(features), CHUNK):
        values = features[start : start + CHUNK] @ weights
        pieces.append(np.concatenate([values[:1], bootstrap.percentiles(values[1:])]))
    return np.concatenate(pieces, axis=1)


def _coordinates(steps: list[int], moments: Moments, direction: str = "forward") -> dict[str, Any]:
    """Number of lags, physical time, negative backward, and names of the observables."""
    times = np.asarray(steps) * (moments.clock.lag_time if direction == "forward" else -moments.clock.lag_time)
    coords = {STEP: (STEP, steps, {"units": "lag"}), TIME: (STEP, times, {"units": moments.clock.time_unit})}
    names = moments.observable_names
    return coords if names is None else coords | {OBSERVABLE: list(names)}


# ------------------------------------------------------------------------------------------------------------- errors


@checked
def forecast_error(
    moments: Moments,
    f: FeatureMap,
    train: LaggedPairs,
    test: Any,
    steps: int | Sequence[int],
    *,
    observables: FeatureMap = flat_state,
    method: str = "operator",
    n_modes: int | None = None,
) -> xr.Dataset:
    """Root mean squared error against the horizon, beside persistence, climatology and a linear model.

    Persistence says h(x_t) = h(x_0); climatology the mean of the training pairs; the linear model is the least-squares
    fit h(x') = a + A h(x) on the training pairs, iterated.

    Parameters
    ----------
    moments : estimated from `train` with the same `f` and `observables`
    f : feature map, such as a model's `f`
    train : LaggedPairs
    test : trajectories that the moments have not seen, in any form that `lagged_pairs` takes
    steps : int or sequence of int
        Horizons in lags.
    observables : callable, (batch, *state) -> (batch, n_observables), real
    method, n_modes : see `forecast`

    Returns
    -------
    Dataset
        `rmse` and `relative_rmse` (forecaster, step, observable), the latter in standard deviations of the training
        data; `relative_rmse_mean` (forecaster, step), its mean over the observables that vary; `n_pairs` (step).

    Raises
    ------
    ValueError
        For moments of other observables, or test trajectories too short for the longest horizon.

    Examples
    --------
    >>> series = 0.5 ** np.arange(12.0)[:, None]
    >>> train = lagged_pairs(series)
    >>> m = estimate_moments(lambda s: s, lambda s: s, train, observables=flat_state)
    >>> error = forecast_error(m, lambda s: s, train, series, [1, 5])
    >>> bool((error.rmse.sel(forecaster="koopman") < 1e-12).all())
    True
    """
    steps = check_steps(steps)
    step = propagator(moments, method, n_modes)
    if len(train) == 0:
        raise ValueError("train must hold pairs; it has none.")
    h, h_next = (_observed(observables, side) for side in (train.x, train.x_next))
    _check_observables(step, h.shape[1])
    lag = train.clock.known_lag("to look several lags ahead")
    root = 1.0 if train.weights is None else np.sqrt(train.weights)[:, None]
    linear = np.linalg.lstsq(root * _with_ones(h), root * _with_ones(h_next), rcond=None)[0]
    mean = np.average(h, axis=0, weights=train.weights)
    errors, counts = [], []
    for n, weights in zip(steps, _weights(step, steps), strict=True):
        with told_as("test", "data", "path"):
            pairs = lagged_pairs(test, lag=n * lag, check_constant=False)
        if pairs.state_shape != train.state_shape:
            raise ValueError(f"test must hold states of shape {train.state_shape}; got {pairs.state_shape}.")
        now, truth = (_observed(observables, side) for side in (pairs.x, pairs.x_next))
        koopman = np.real(_checked_features(_evaluated("f", f, pairs.x), step) @ weights)
        guesses = (koopman, now, mean, _with_ones(now) @ np.linalg.matrix_power(linear, n)[:, 1:])
        errors.append([np.sqrt(np.mean((guess - truth) ** 2, axis=0)) for guess in guesses])
        counts.append(len(pairs))
    rmse = np.swapaxes(errors, 0, 1)  # (forecaster, step, observable)
    scale = np.sqrt(np.average(np.square(h - mean), axis=0, weights=train.weights))
    relative = np.divide(rmse, scale, out=np.full_like(rmse, np.nan), where=scale > 0)
    dims = (FORECASTER, STEP, OBSERVABLE)
    error = labelled(
        {"rmse": (dims, rmse), "relative_rmse": (dims, relative, {"units": "1"}), "n_pairs": (STEP, counts)},
        provenance(method=method, **moments.clock.attrs()),
        {FORECASTER: list(FORECASTERS), **_coordinates(steps, moments)},
    )
    return error.assign(relative_rmse_mean=error["relative_rmse"].mean(OBSERVABLE, keep_attrs=True))


def _evaluated(name: str, function: FeatureMap, states: Tensor) -> np.ndarray:
    """Values (n_states, n) of a function of the user's, finite, as are their squares."""
    values = moderate_array(f"{name}(x)", function(states))
    if values.ndim != 2 or len(values) != len(states):
        raise ValueError(f"{name} must map {len(states)} states to ({len(states)}, n); got {values.shape}.")
    return values


def _observed(observables: FeatureMap, states: Tensor) -> np.ndarray:
    values = _evaluated("observables", observables, states)
    if np.iscomplexobj(values):
        raise TypeError("observables must be real for errors to be compared; give real and imaginary parts apart.")
    return values.astype(np.float64)


def _check_observables(step: Propagator, n_observables: int) -> None:
    held = "none" if step.readout is None else step.readout.shape[1]
    if held != n_observables:
        raise ValueError(f"observables must be those of the moments ({held}); got {n_observables}.")


def _with_ones(h: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(h), 1)), h], axis=1)
