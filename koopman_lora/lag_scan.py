"""Timescales against the lag: where they no longer depend on it, a lag is long enough."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import xarray as xr
from sklearn.base import clone

from koopman_lora._labels import LAG, MODE, interval, labelled, provenance
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock, check_lag
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.moments import Moments
from koopman_lora.spectrum import koopman_spectrum


class HasFeatures(Protocol):
    """A fitted estimator or an analysis: something with a clock whose features give moments of any pairs."""

    @property
    def clock(self) -> Clock:
        """Lag, time between two frames and its unit, of the fit."""
        ...

    def feature_moments(self, pairs: LaggedPairs) -> Moments:
        """Moments of the features over pairs at any lag."""
        ...


def scan_lags(
    fitted: HasFeatures,
    X: Any,
    lags: Sequence[int],
    refit: bool = False,
    bootstrap: Bootstrap = Bootstrap(),
) -> xr.Dataset:
    """Singular values and implied timescales against the lag, with intervals, and the shortest lag on the plateau.

    Parameters
    ----------
    fitted : fitted KoopmanLoRA, or KoopmanAnalysis
        Its features serve at every lag, unless `refit`, which fits a clone of the estimator at each lag.
    X : trajectories, in any form that `lagged_pairs` takes but explicit pairs
    lags : lags in frames, increasing
    bootstrap : number of resamples, level and seed

    Returns
    -------
    Dataset
        Over (lag, mode): `canonical_singular_values`, `timescales`; over (bound, lag, mode): `timescales_interval`;
        attributes `recommended_lag`, the shortest whose interval of the slowest timescale meets those of all longer
        lags, and `recommended_lag_time`, the same in the unit of time.

    Raises
    ------
    ValueError
        For lags that are empty or not increasing, or pairs, which have one lag only.
    """
    lags = [check_lag(lag) for lag in lags]
    if not lags or any(b <= a for a, b in itertools.pairwise(lags)):
        raise ValueError(f"lags must be an increasing list of frames; got {lags}.")
    if isinstance(X, (tuple, LaggedPairs)):
        raise ValueError("X must be trajectories to scan lags; pairs have one lag only.")
    clock = fitted.clock
    # a fit to pairs of an unknown lag knows no frames; the trajectories do
    dt, unit_of_frames = (None, None) if clock.lag is None else (clock.dt, clock.time_unit)
    spectra, bounds = [], []
    for lag in lags:
        pairs = lagged_pairs(X, lag, dt, unit_of_frames, check_constant=False)
        clock = pairs.clock
        at_lag = clone(fitted).set_params(lag=lag).fit(pairs) if refit else fitted
        moments = at_lag.feature_moments(pairs)
        spectra.append(koopman_spectrum(moments))
        bounds.append(bootstrap_intervals(moments, bootstrap=bootstrap)["timescales_interval"].values)
    names = ("canonical_singular_values", "timescales")
    sigma, times = (np.stack([spectrum[name].values for spectrum in spectra]) for name in names)
    limits = np.stack(bounds, axis=1)  # (bound, lag, mode)
    unit = {"units": clock.time_unit}
    variables = {
        "canonical_singular_values": ((LAG, MODE), sigma),
        "timescales": ((LAG, MODE), times, unit),
        **interval("timescales", [LAG, MODE], limits, clock.time_unit),
    }
    recommended = lags[_plateau(limits[:, :, 1])] if sigma.shape[1] > 1 else lags[0]
    attrs = provenance(
        recommended_lag=recommended,
        recommended_lag_time=clock.at(recommended).lag_time,
        dt=clock.dt,
        time_unit=clock.time_unit,
        refit=refit,
        **bootstrap.attrs(),
    )
    return labelled(variables, attrs, {LAG: lags, "lag_time": (LAG, np.array(lags) * clock.dt, unit)})


def _plateau(bounds: np.ndarray) -> int:
    """First lag whose interval (2, n_lags) meets all later ones; the last one always does."""
    lower, upper = bounds
    for i in range(len(lower)):
        if np.all((lower[i + 1 :] <= upper[i]) & (upper[i + 1 :] >= lower[i])):
            return i
    return len(lower) - 1
