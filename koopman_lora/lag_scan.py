"""Timescales against the lag: where they no longer depend on it, a lag is long enough."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from sklearn.base import clone

from koopman_lora._labels import LAG, MODE, interval, labelled, provenance
from koopman_lora._linalg import TIE_TOLERANCE, eigenvalue_order
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.checks import checked
from koopman_lora.clock import Clock, check_lag
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.moments import Moments
from koopman_lora.propagation import propagator
from koopman_lora.spectrum import koopman_spectrum


@runtime_checkable
class HasFeatures(Protocol):
    """A fitted estimator or an analysis: something with a clock whose features give moments of any pairs."""

    @property
    def clock(self) -> Clock:
        """Lag, time between two frames and its unit, of the fit."""
        ...

    def feature_moments(self, pairs: LaggedPairs) -> Moments:
        """Moments of the features over pairs at any lag."""
        ...


@checked(but=("lags",))
def scan_lags(
    fitted: HasFeatures,
    X: Any,
    lags: Sequence[int],
    refit: bool = False,
    bootstrap: Bootstrap = Bootstrap(),
    weights: Any = None,
) -> xr.Dataset:
    """Singular values and implied timescales against the lag, with intervals, and the shortest lag on the plateau.

    Parameters
    ----------
    fitted : fitted KoopmanLoRA, or KoopmanAnalysis
        Its features serve at every lag, unless `refit`, which fits a clone of the estimator at each lag.
    X : trajectories, in any form that `lagged_pairs` takes but explicit pairs
    lags : lags in frames, increasing
    bootstrap : number of resamples, level and seed
    weights : how much each frame or trajectory counts, see `lagged_pairs`; those of the fit are not known here

    Returns
    -------
    Dataset
        Over (lag, mode): `canonical_singular_values`, `timescales`; over (bound, lag, mode): their intervals,
        `canonical_singular_values_interval` and `timescales_interval`;
        attributes `has_plateau`, whether the slowest timescale stops to depend on the lag, and is not 0 at every lag
        within its interval; `recommended_lag`, the
        shortest on the plateau, and `recommended_lag_time`, the same in the unit of time: NaN without a plateau;
        `answer`, in words with its reason: "no plateau up to lag 50 (the slowest timescale still changes: ...)".

        A lag is on the plateau if the slowest timescale at every longer lag agrees with its own: the intervals meet,
        and that of the difference of the two rates, from the same resamples, holds 0. At least three lags must agree
        (two where only two were scanned): one longer lag with a wide interval shows no plateau.

    Raises
    ------
    ValueError
        For lags that are empty or not increasing, or pairs, which have one lag only.

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0)
    >>> estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    >>> scan = kl.scan_lags(estimator, data, [1, 2, 3], bootstrap=kl.Bootstrap(20))
    >>> scan.timescales.dims, scan.lag.values.tolist()
    (('lag', 'mode'), [1, 2, 3])
    """
    if not isinstance(lags, (list, tuple, range, np.ndarray)) or getattr(lags, "ndim", 1) == 0:
        raise TypeError(f"lags must be a list of numbers of frames; got {lags!r}.")
    lags = [check_lag(lag) for lag in lags]
    if not lags or any(b <= a for a, b in itertools.pairwise(lags)):
        raise ValueError(f"lags must be an increasing list of frames; got {lags}.")
    if isinstance(X, (tuple, LaggedPairs)):
        raise ValueError("X must be trajectories to scan lags; pairs have one lag only.")
    clock = fitted.clock
    # a fit to pairs of an unknown lag knows no frames; the trajectories do
    dt, unit_of_frames = (None, None) if clock.lag is None else (clock.dt, clock.time_unit)
    names = ("canonical_singular_values", "timescales")
    spectra, bounds, rates = [], [], []
    for lag in lags:
        pairs = lagged_pairs(X, lag, dt, unit_of_frames, check_constant=False, weights=weights)
        clock = pairs.clock
        at_lag = clone(fitted).set_params(lag=lag).fit(pairs) if refit else fitted
        moments = at_lag.feature_moments(pairs)
        spectra.append(koopman_spectrum(moments))
        intervals = bootstrap_intervals(moments, bootstrap=bootstrap)
        bounds.append([intervals[f"{name}_interval"].values for name in names])
        rates.append(slowest_rates(moments, bootstrap))
    sigma, times = (np.stack([spectrum[name].values for spectrum in spectra]) for name in names)
    sigma_limits, limits = np.moveaxis(np.array(bounds), 0, 2)  # (bound, lag, mode) each
    unit = {"units": clock.time_unit}
    variables = {
        "canonical_singular_values": ((LAG, MODE), sigma),
        "timescales": ((LAG, MODE), times, unit),
        **interval("canonical_singular_values", [LAG, MODE], sigma_limits),
        **interval("timescales", [LAG, MODE], limits, clock.time_unit),
    }
    factor = dataclasses.replace(bootstrap, level=1 - (1 - bootstrap.level) / len(lags)).t_factor(moments.n_blocks)
    # at lags that may all be noise, timescales agree about nothing
    is_known = sigma.shape[1] > 1 and bool(np.any(limits[0, :, 1] > 0))
    first = _plateau(_agreement(limits[:, :, 1], np.stack(rates), factor)) if is_known else None
    attrs = provenance(
        answer=_answer(lags, limits[0], first),
        has_plateau=first is not None,
        recommended_lag=np.nan if first is None else lags[first],
        recommended_lag_time=np.nan if first is None else clock.at(lags[first]).lag_time,
        dt=clock.dt,
        time_unit=clock.time_unit,
        refit=refit,
        **bootstrap.attrs(),
    )
    return labelled(variables, attrs, {LAG: lags, "lag_time": (LAG, np.array(lags) * clock.dt, unit)})


def _answer(lags: Sequence[int], lower: np.ndarray, first: int | None) -> str:
    """The lag in words, and why.

    Parameters
    ----------
    lower : bounds of the timescales, (n_lags, n_modes)
    first : of `_plateau`

    Examples
    --------
    >>> lower = np.array([[np.inf, 9.0], [np.inf, 9.5], [np.inf, 8.0]])
    >>> _answer([1, 2, 5], lower, first=1)
    '2 frames (from there to lag 5 the slowest timescale stays within its intervals)'
    >>> _answer([1, 2, 5], np.zeros((3, 2)), first=None)
    'none (noise: within its intervals the slowest timescale may be 0 at every lag)'
    >>> _answer([1, 2, 5], lower, first=None)
    'no plateau up to lag 5 (the slowest timescale still changes: scan longer lags)'
    """
    if lower.shape[1] == 1:
        return "none (only the constant was fitted, which has no timescale: fit more modes)"
    if len(lags) == 1:
        return "none (one lag shows no plateau: scan three or more)"
    if np.all(lower[:, 1] == 0):
        return "none (noise: within its intervals the slowest timescale may be 0 at every lag)"
    if first is None:
        return f"no plateau up to lag {lags[-1]} (the slowest timescale still changes: scan longer lags)"
    frames = f"{lags[first]} frame{'s' if lags[first] > 1 else ''}"
    return f"{frames} (from there to lag {lags[-1]} the slowest timescale stays within its intervals)"


def slowest_rates(moments: Moments, bootstrap: Bootstrap) -> np.ndarray:
    """`-ln|lambda_2|` per frame, of the data and of every resample, (1 + n_resamples,)."""
    values = np.linalg.eigvals(propagator(bootstrap.resampled(moments)).K)
    second = eigenvalue_order(values)[:, 1:2]  # behind the constant's
    slowest = np.abs(np.take_along_axis(values, second, axis=1)[:, 0]) if second.size else np.zeros(len(values))
    return -np.log(np.maximum(slowest, np.finfo(float).tiny)) / moments.clock.known_lag("to compare lags")


def _agreement(bounds: np.ndarray, rates: np.ndarray, factor: float) -> np.ndarray:
    """Whether the slowest timescale at lag i agrees with that at each longer lag j: (n_lags, n_lags), for j > i.

    Parameters
    ----------
    bounds : of the timescales, (2, n_lags)
    rates : of `slowest_rates`, (n_lags, 1 + n_resamples); blocks are contiguous, so that one resample is of the same
        stretches of data at every lag, and differences are far more certain than rates
    factor : of `Bootstrap.t_factor`
    """
    lower, upper = bounds
    above = upper * (1 + TIE_TOLERANCE)
    meet = (lower <= above[:, None]) & (above >= lower[:, None])
    difference = rates[None] - rates[:, None]
    pairs = difference.reshape(-1, rates.shape[1]).T
    low, high = t_interval(pairs[0], pairs[1:], factor).reshape(2, *meet.shape)
    round_off = TIE_TOLERANCE * (1 + np.abs(pairs[0]).max())
    # noise alone keeps |lambda| above 0, and looks slower the longer the lag: such a lag says nothing
    return np.asarray(meet & (((low <= round_off) & (high >= -round_off)) | (lower == 0)))


def _plateau(agrees: np.ndarray) -> int | None:
    """First lag that agrees with all longer ones, of which there are at least two, or one of two; None without."""
    n = len(agrees)
    needed = min(2, max(n - 1, 1))
    return next((i for i in range(n - needed) if agrees[i, i + 1 :].all()), None)
