"""From many modes to few states: coarse coordinates, and the small Markov model between fuzzy states."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from koopman_lora._labels import MODE, provenance
from koopman_lora._linalg import eigenvalue_order, hermitian_pinv
from koopman_lora.intervals import block_weights, percentile_interval
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments
from koopman_lora.propagation import Arrays, get_moment
from koopman_lora.spectrum import evaluate_functions, implied_timescales
from koopman_lora.states.markov_models import (
    committor,
    mean_first_passage_times,
    nearest_probabilities,
    normalised_rows,
    stationary_distribution,
)

SAMPLE, STATE, STATE_NEXT, SOURCE, TARGET, PROCESS = "sample", "state", "state_next", "source", "target", "process"
COORDINATES = ("K_matrix", "canonical")
ESTIMATORS = ("galerkin", "counts")
# What follows from the transition matrix alone, and gets intervals.
DERIVED_DIMS: dict[str, tuple[str, ...]] = {
    "transition_matrix": (STATE, STATE_NEXT),
    "stationary_distribution": (STATE,),
    "metastability": (),
    "timescales": (PROCESS,),
    "mean_first_passage_times": (STATE, TARGET),
}
TIMES = ("timescales", "mean_first_passage_times")


def coarse_coordinates(
    model: KoopmanLoRAModel, spectrum: xr.Dataset, x: Any, method: str = "K_matrix", n_modes: int | None = None
) -> xr.DataArray:
    """Slow coordinates of states, whether or not the states were in the training data.

    Parameters
    ----------
    model : KoopmanLoRAModel
    spectrum : Dataset of `compute_koopman_spectrum` for this model
    x : array or tensor (n_samples, *state)
    method : 'K_matrix' or 'canonical'
        The features, scaled by the square roots of the learned singular values where there are any, times U of the SVD
        of K_matrix; or the canonical left singular functions phi, which are orthonormal and independent of the basis.
    n_modes : keep the leading ones only

    Returns
    -------
    DataArray (sample, mode)

    Raises
    ------
    ValueError
        For another method, or a spectrum of a model with another number of modes.

    References
    ----------
    MATH.md, section 4.

    Examples
    --------
    >>> from koopman_lora.spectrum import compute_koopman_spectrum
    >>> model, x = KoopmanLoRAModel(2, 3).eval(), torch.randn(64, 2)
    >>> coarse_coordinates(model, compute_koopman_spectrum(model, [(x, x)]), x).dims
    ('sample', 'mode')
    """
    if method not in COORDINATES:
        raise ValueError(f"method must be 'K_matrix' or 'canonical'; got {method!r}.")
    if spectrum.sizes["feature_f"] != model.n_modes:
        raise ValueError(f"spectrum is of {spectrum.sizes['feature_f']} features; the model has {model.n_modes}.")
    with torch.no_grad():
        features = model.f(torch.as_tensor(x).to(model.feature_scale.device)).cpu().numpy()
    if method == "canonical":
        values = evaluate_functions(features, spectrum["left_coefficients"])
    else:
        # U belongs to features scaled by sqrt(svals): scaled here exactly once
        scale = np.sqrt(spectrum["svals"].values) if "svals" in spectrum else 1.0
        values = (features * scale) @ spectrum["U"].values
    coords = {MODE: spectrum[MODE].values[:n_modes]}
    attrs = provenance(method=method, **{name: spectrum.attrs[name] for name in ("lag", "dt", "time_unit")})
    return xr.DataArray(values[:, :n_modes], dims=(SAMPLE, MODE), coords=coords, name="coarse", attrs=attrs)


def transition_matrix(moments: Moments | Arrays, estimator: str = "galerkin", reversible: bool = False) -> np.ndarray:
    """Row-stochastic transition matrix between fuzzy states, from the moments of memberships chi.

    Parameters
    ----------
    moments : of a membership map as `f` and `g`, or a mapping of their names to stacks of matrices
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
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
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


def _raw_transition_matrix(
    moments: Moments | Arrays, estimator: str, reversible: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Transition matrix before negative entries are cut, and the populations E[chi(x)]."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be 'galerkin' or 'counts'; got {estimator!r}.")
    M, M1, T = (get_moment(moments, name) for name in ("M_f", "M_f1", "T_ff"))
    if reversible:
        M, T = (M + M1) / 2, (T + np.swapaxes(T, -1, -2)) / 2
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
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
    n_resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """The small Markov model between fuzzy states: probabilities, populations, times and committors, with intervals.

    Parameters
    ----------
    moments : Moments
        Of memberships: `estimate_moments(chi, chi, pairs)` with chi a `membership_map`, or one-hot maps.
    estimator, reversible : see `transition_matrix`
    lag, dt, time_unit : lag in frames, physical time between two frames and its unit
    n_resamples, level, seed : of the bootstrap over the blocks; 0 resamples for no intervals

    Returns
    -------
    Dataset
        - `transition_matrix` and `counts` (state, state_next), `rates` (probability of a jump per time),
          `stationary_distribution`, `populations` (mean memberships), `metastability` (trace of the matrix),
          `eigenvalues` and `timescales` (process), `mean_first_passage_times` (state, target), `committors`
          (source, target, state; NaN for source = target);
        - with resamples and more than one block, `<name>_interval` (bound, ...) of matrix, stationary distribution,
          metastability, timescales and mean first-passage times: percentiles, because entries of the matrix lie at 0
          and passage times may be infinite;
        - attribute `negative_part`: the largest negative entry before probabilities were made of it.

    Raises
    ------
    ValueError
        For moments that are not of memberships, or states that cannot reach one another.

    Examples
    --------
    >>> from koopman_lora.moments import estimate_moments
    >>> from koopman_lora.systems import FiniteMarkovChain
    >>> from koopman_lora.data.pairs import lagged_pairs
    >>> pairs = lagged_pairs(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(n_steps=4000))
    >>> m = macroscopic_model(estimate_moments(lambda x: x, lambda x: x, pairs), dt=2.0, time_unit="ns")
    >>> m.timescales.dims, m.timescales.units, bool((m.timescales_interval[0] < 3.9) & (m.timescales_interval[1] > 3.9))
    (('process',), 'ns', True)
    """
    lag_time = lag * dt
    n_resamples = n_resamples if moments.n_blocks > 1 else 0
    raw, populations = _raw_transition_matrix(moments, estimator, reversible)
    P = _stochastic(raw, populations, reversible)
    units = {name: {"units": time_unit if name in TIMES else "1"} for name in DERIVED_DIMS}
    variables: dict[str, Any] = {
        name: (DERIVED_DIMS[name], values, units[name]) for name, values in _derived(P, lag_time).items()
    }
    if n_resamples:
        stack = moments.reweighted(block_weights(moments.n_blocks, n_resamples, seed))
        intervals = _derived_intervals(transition_matrix(stack, estimator, reversible), lag_time, level)
        for name, bounds in intervals.items():
            variables[f"{name}_interval"] = (("bound", *DERIVED_DIMS[name]), bounds, units[name])
        variables["bound"] = ("bound", ["lower", "upper"])
    rates = np.where(np.eye(len(P), dtype=bool), 0.0, P) / lag_time
    variables |= {
        "eigenvalues": ("eigenvalue", _sorted_eigenvalues(P)),
        "counts": ((STATE, STATE_NEXT), moments.n_pairs * moments.T_ff),
        "populations": (STATE, populations),
        "rates": ((STATE, STATE_NEXT), rates, {"units": f"1/{time_unit}"}),
        "committors": ((SOURCE, TARGET, STATE), _all_committors(P)),
    }
    numbers = np.arange(len(P))
    attrs = provenance(
        estimator=estimator,
        reversible=reversible,
        lag=lag,
        dt=dt,
        time_unit=time_unit,
        n_pairs=moments.n_pairs,
        n_resamples=n_resamples,
        level=level,
        negative_part=float(np.maximum(-raw, 0).max()),
    )
    coords = {name: numbers for name in (STATE, STATE_NEXT, TARGET, SOURCE)} | {PROCESS: numbers[1:]}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _sorted_eigenvalues(P: np.ndarray) -> np.ndarray:
    values = np.linalg.eigvals(P).astype(complex)
    return values[eigenvalue_order(values)]


def _derived(P: np.ndarray, lag_time: float) -> dict[str, np.ndarray]:
    return {
        "transition_matrix": P,
        "stationary_distribution": stationary_distribution(P),
        "metastability": np.trace(P),
        "timescales": implied_timescales(_sorted_eigenvalues(P)[1:], lag_time),
        "mean_first_passage_times": mean_first_passage_times(P, lag_time),
    }


def _derived_intervals(matrices: np.ndarray, lag_time: float, level: float) -> dict[str, np.ndarray]:
    """Bounds (2, ...) of all that is derived from resampled transition matrices."""
    samples = [_derived(P, lag_time) for P in matrices]
    return {name: percentile_interval(np.stack([s[name] for s in samples]), level) for name in DERIVED_DIMS}


def _all_committors(P: np.ndarray) -> np.ndarray:
    n = len(P)
    result = np.full((n, n, n), np.nan)
    for source, target in zip(*np.nonzero(~np.eye(n, dtype=bool)), strict=True):
        result[source, target] = committor(P, source, target)
    return result


def to_deeptime(model: xr.Dataset, memberships: np.ndarray | None = None, weights: np.ndarray | None = None) -> Any:
    """Hand the macroscopic model over to deeptime's Markov-model tools.

    Parameters
    ----------
    model : Dataset of `macroscopic_model`
    memberships : array (n_microstates, n_states), optional
        Of microstates, such as cluster centres or frames.
    weights : array (n_microstates,), optional
        Stationary probabilities of the microstates, equal by default.

    Returns
    -------
    deeptime.markov.msm.MarkovStateModel with its TransitionCountModel of (soft) counts; with memberships a
    deeptime.markov.PCCAModel

    Raises
    ------
    ImportError
        Without deeptime; it comes with the extra `deeptime`.
    ValueError
        For memberships in another number of states.
    """
    try:
        from deeptime.markov import PCCAModel, TransitionCountModel
        from deeptime.markov.msm import MarkovStateModel
    except ImportError as error:
        raise ImportError(
            "to_deeptime needs deeptime; install it with pip install 'koopman-lora[deeptime]'."
        ) from error
    P, pi = model["transition_matrix"].values, model["stationary_distribution"].values
    lag = int(model.attrs["lag"])
    if memberships is None:
        counts = TransitionCountModel(model["counts"].values, counting_mode="effective", lagtime=lag)
        return MarkovStateModel(P, stationary_distribution=pi, count_model=counts, lagtime=lag)
    chi = np.asarray(memberships, dtype=float)
    if chi.ndim != 2 or chi.shape[1] != len(P):
        raise ValueError(f"memberships must have shape (n_microstates, {len(P)}); got {chi.shape}.")
    weights = np.full(len(chi), 1 / len(chi)) if weights is None else np.asarray(weights, dtype=float)
    joint = chi * weights[:, None]
    return PCCAModel(P, pi, chi, (joint / joint.sum(axis=0)).T)
