"""Eigenfunctions, Koopman modes, and forecasts of states and observables forward and backward in time, with bands."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from torch import Tensor

from koopman_lora._labels import FEATURE_F, FEATURE_G, MODE, TIME, provenance
from koopman_lora._linalg import (
    RANK_TOLERANCE,
    conjugate_transpose,
    eigenvalue_order,
    inverse_root,
    phase_of,
    whitened_svd,
)
from koopman_lora.intervals import block_weights, match_eigenvalues
from koopman_lora.moments import FeatureMap, Moments
from koopman_lora.spectrum import implied_frequencies, implied_timescales
from koopman_lora.trajectories import LaggedPairs, lagged_pairs

STEP, SAMPLE, OBSERVABLE = "step", "sample", "observable"
METHODS = ("operator", "edmd", "edmd_g")
# Round-off splits a defective pair of eigenvalues by some 1e-8, so its eigenvectors have a condition number of 1e8.
WORST_EIGENVECTORS = 1e7
# Samples whose bootstrap is held in memory at once.
CHUNK = 512

Arrays = Mapping[str, np.ndarray]


class Propagator(NamedTuple):
    """`E[h(x_t) | x_0] = f(x_0) @ start @ K^(t-1) @ readout` for t = 1, 2, ...; all may carry a leading resample axis.

    The coordinates f @ start have unit second moment, so norms of vectors of coordinates are L2 norms of functions.

    Attributes
    ----------
    start : array (..., k, r)
    K : array (..., r, r)
    readout : array (..., r, n_observables), or None where the moments hold no observables
    back : array (..., k', r); with a left eigenvector w of K, `features @ back @ w` is an eigenfunction of the adjoint
    """

    start: np.ndarray
    K: np.ndarray
    readout: np.ndarray | None
    back: np.ndarray


def propagator(
    moments: Moments | Arrays, method: str = "operator", n_modes: int | None = None, threshold: float = RANK_TOLERANCE
) -> Propagator:
    """Matrices that carry the features of one state to expectations any number of lags later.

    Parameters
    ----------
    moments : Moments, or a mapping of names to stacks (n_resamples, k, k) as `Moments.reweighted` gives
    method : 'operator', the rank-n operator from the singular triples, or 'edmd', pinv(M_f) T_ff
    n_modes : int, optional
        Rank of the operator, all features by default; only for 'operator'.
    threshold : relative whitening threshold

    Raises
    ------
    ValueError
        For another method, n_modes out of range, or moments that lack what is needed.

    References
    ----------
    MATH.md, section 7.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=lambda s: 3 * s)
    >>> step = propagator(m)
    >>> (step.start @ step.K @ step.readout).round(6)                      # E[3 x_2 | x_0 = 1]
    array([[0.75]])
    """
    _check_method(method, METHODS[:2])
    if method == "operator":
        return _rank_propagator(moments, n_modes, threshold)
    if n_modes is not None:
        raise ValueError(f"n_modes={n_modes} is the rank of method 'operator'; method 'edmd' uses all features.")
    W = inverse_root(_get(moments, "M_f"), threshold).matrix
    K = conjugate_transpose(W) @ _get(moments, "T_ff") @ W
    readout = K @ conjugate_transpose(W) @ _get(moments, "H_f") if _holds(moments, "H_f") else None
    return Propagator(W, K, readout, W)


def _rank_propagator(moments: Moments | Arrays, n_modes: int | None, threshold: float) -> Propagator:
    M_f, T_fg, M_g = (_get(moments, name) for name in ("M_f", "T_fg", "M_g"))
    most = min(T_fg.shape[-2:])
    if n_modes is not None and not 1 <= n_modes <= most:
        raise ValueError(f"n_modes must lie between 1 and the {most} features; got {n_modes}.")
    left, sigma, right = whitened_svd(M_f, T_fg, M_g, threshold, n_modes)
    back = right * sigma[..., None, :]
    K = conjugate_transpose(back) @ _get(moments, "C_gf") @ left
    readout = conjugate_transpose(back) @ _get(moments, "H_g") if _holds(moments, "H_g") else None
    return Propagator(left, K, readout, back)


def _check_method(method: str, known: Sequence[str]) -> None:
    if method not in known:
        raise ValueError(f"method must be one of {', '.join(map(repr, known))}; got {method!r}.")


def _holds(moments: Moments | Arrays, name: str) -> bool:
    return name in (moments.names if isinstance(moments, Moments) else moments)


def _get(moments: Moments | Arrays, name: str) -> np.ndarray:
    if not _holds(moments, name):
        raise ValueError(
            f"moments lack {name}; estimate them with same_map=True, and with observables=h for forecasts of h."
        )
    return getattr(moments, name) if isinstance(moments, Moments) else moments[name]


# ---------------------------------------------------------------------------------------------- pure maps of Moments


def time_reversed(moments: Moments) -> Moments:
    """Moments of the process run backward: (f, x) and (g, x') change places.

    What is computed from them is about the adjoint, `(K* h)(x') = E[h(x) | x']`.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> m = estimate_moments(lambda s: s, lambda s: s**2, (x, 2 * x))
    >>> bool(time_reversed(m).M_f == m.M_g), bool(time_reversed(time_reversed(m)).T_fg == m.T_fg)
    (True, True)
    """
    kept = {"M_f": "M_g", "M_f1": "M_g0", "C_gf": "C_fg", "H_f": "H_g"}
    flipped = {"T_ff": "T_gg", "T_fg": "T_fg"}
    names = {**kept, **{b: a for a, b in kept.items()}}
    sums = {new: moments.block_sums[old] for new, old in names.items() if _holds(moments, old)}
    for a, b in {**flipped, **{b: a for a, b in flipped.items()}}.items():
        if _holds(moments, b):
            sums[a] = conjugate_transpose(moments.block_sums[b])
    if not sums:
        raise ValueError(f"moments hold nothing to reverse, only {', '.join(moments.names)}.")
    return Moments(sums, moments.block_counts)


def symmetrised(moments: Moments) -> Moments:
    """Moments of f on both sides, averaged over a process and its reversal: for data known to be in equilibrium.

    `M = (M_f + M_f1) / 2` and `T = (T_ff + T_ff^H) / 2`, so that eigenvalues are real and at most 1 in modulus.

    Parameters
    ----------
    moments : with T_ff and M_f1; the features g play no role

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> m = estimate_moments(lambda s: s, lambda s: s, (torch.randn(99, 2), torch.randn(99, 2)))
    >>> bool(np.all(eigen_analysis(symmetrised(m)).eigenvalues.imag == 0))
    True
    """
    for name in ("M_f", "M_f1", "T_ff"):
        _get(moments, name)
    sums = moments.block_sums
    M = (sums["M_f"] + sums["M_f1"]) / 2
    T = (sums["T_ff"] + conjugate_transpose(sums["T_ff"])) / 2
    result = dict.fromkeys(("M_f", "M_g", "M_f1", "M_g0", "C_gf", "C_fg"), M) | dict.fromkeys(
        ("T_fg", "T_ff", "T_gg"), T
    )
    if "H_f" in sums:  # E[f(x')^H h(x')] is not among the moments; in equilibrium it is the same
        result |= {"H_f": sums["H_f"], "H_g": sums["H_f"]}
    return Moments(result | {n: sums[n] for n in ("phase_f", "M_h") if n in sums}, moments.block_counts)


def bootstrap_weights(n_blocks: int, n_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each block is drawn, (1 + n_resamples, n_blocks); the first row is the data as they are.

    Raises
    ------
    ValueError
        For fewer than 2 blocks, or no resamples.

    Examples
    --------
    >>> bootstrap_weights(4, 2).sum(axis=1)
    array([4., 4., 4.])
    """
    if n_blocks < 2:
        raise ValueError(f"moments need at least 2 blocks for a bootstrap; got {n_blocks}. Estimate with n_blocks=64.")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1; got {n_resamples}.")
    return np.concatenate([np.ones((1, n_blocks)), block_weights(n_blocks, n_resamples, seed)])


def interval(samples: np.ndarray, confidence: float) -> np.ndarray:
    """Lower and upper percentile over the first axis, (2, ...); of real and imaginary parts where complex.

    Examples
    --------
    >>> interval(np.arange(101.0), 0.9)
    array([ 5., 95.])
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}.")
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    if np.iscomplexobj(samples):
        return np.quantile(samples.real, levels, axis=0) + 1j * np.quantile(samples.imag, levels, axis=0)
    return np.quantile(samples, levels, axis=0)


# ------------------------------------------------------------------------------------------------------ eigen-analysis


def eigen_analysis(
    moments: Moments,
    method: str = "operator",
    *,
    n_modes: int | None = None,
    n_resamples: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
    threshold: float = RANK_TOLERANCE,
) -> xr.Dataset:
    """Eigenvalues with right and left eigenfunctions, timescales and frequencies, and their bootstrap intervals.

    Parameters
    ----------
    moments : Moments
        Of any features: a model's, a fixed dictionary's, or the refined trunk's (then with method='edmd').
    method : 'operator', 'edmd' or 'edmd_g'
        The rank-n operator `diag(sigma) E[psi(x')^H phi(x')]`, or EDMD on f or on g. For `symmetrised` moments all
        agree.
    n_modes : rank of the operator, all features by default
    n_resamples : resamples of the blocks of the moments; 0 for no intervals
    confidence : of the intervals
    lag, dt, time_unit : lag in frames, physical time between two frames and its unit

    Returns
    -------
    Dataset
        Over mode, by decreasing modulus, the two of a conjugate pair side by side, positive frequency first:

        - `eigenvalues`, `timescales`, `frequencies` (principal branch: faster than attribute `aliasing_limit` is
          aliased), `conditions` (1 for normal systems);
        - `right_coefficients`: eigenfunctions f(x) @ right of unit L2 norm, phase fixed as in `koopman_spectrum`;
        - `left_coefficients`: eigenfunctions of the adjoint, bi-orthogonal: E[conj(left_i) right_j] = 1 if i = j, else
          0. They multiply the features named in attribute `left_features` (g for 'operator').
        - with resamples: `eigenvalue_interval` (bound, part, mode), `timescale_interval`, `frequency_interval`
          (bound, mode). They cover the sampling error, not that of the features.

    Raises
    ------
    ValueError
        For an unknown method, moments without what it needs, or an operator that cannot be diagonalised.

    References
    ----------
    MATH.md, section 4.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> features = lambda s: torch.cat([torch.ones_like(s), s], dim=1)
    >>> eigen_analysis(estimate_moments(features, features, (x, 0.5 * x)), dt=2.0).timescales.values.round(4)
    array([ inf, 2.8854])
    """
    _check_method(method, METHODS)
    if method == "edmd_g":
        moments = _only_g(moments)
    route = "operator" if method == "operator" else "edmd"
    step = _without_null_directions(propagator(moments, route, n_modes, threshold))
    values, right, dual = _eigenpairs(step.K, _is_symmetric(moments, route))
    left = step.back @ dual
    if route == "operator":
        # K* maps on the span of psi: left eigenfunctions are psi diag(sigma) w / conj(lambda)
        left = left / np.where(values == 0, np.nan, np.conj(values))
    coefficients = step.start @ right
    turn = phase_of(_phase_functional(moments, coefficients))
    norms = np.sqrt(
        np.real(np.sum(np.conj(left) * ((moments.M_g if route == "operator" else moments.M_f) @ left), axis=0))
    )
    lag_time = lag * dt
    dims = {"operator": (FEATURE_F, FEATURE_G), "edmd": (FEATURE_F, FEATURE_F), "edmd_g": (FEATURE_G, FEATURE_G)}
    right_dim, left_dim = dims[method]
    variables: dict[str, Any] = {
        "eigenvalues": (MODE, values),
        "right_coefficients": ((right_dim, MODE), coefficients * turn),
        "left_coefficients": ((left_dim, MODE), left * turn),
        "conditions": (MODE, norms),
        "timescales": (MODE, implied_timescales(values, lag_time), {"units": time_unit}),
        "frequencies": (MODE, implied_frequencies(values, lag_time), {"units": f"1/{time_unit}"}),
    }
    if n_resamples:
        stack = moments.reweighted(bootstrap_weights(moments.n_blocks, n_resamples, seed)[1:])
        drawn = np.linalg.eigvals(propagator(stack, route, n_modes, threshold).K).astype(complex)
        resampled = match_eigenvalues(values, drawn)
        variables |= _eigenvalue_intervals(resampled, confidence, lag_time, time_unit)
    attrs = provenance(
        method=method,
        lag=lag,
        dt=dt,
        time_unit=time_unit,
        n_pairs=moments.n_pairs,
        right_features=right_dim[-1],
        left_features=left_dim[-1],
        aliasing_limit=1 / (2 * lag_time),
        n_resamples=n_resamples,
        confidence=confidence,
    )
    return xr.Dataset(variables, coords={MODE: np.arange(1, len(values) + 1)}, attrs=attrs)


def _only_g(moments: Moments) -> Moments:
    """Moments of g on both sides."""
    names = {"M_f": "M_g0", "T_ff": "T_gg", "M_f1": "M_g"}
    for old in names.values():
        _get(moments, old)
    return Moments({new: moments.block_sums[old] for new, old in names.items()}, moments.block_counts)


def _without_null_directions(step: Propagator) -> Propagator:
    """Drop coordinates that are zero functions, because the features are linearly dependent."""
    keep = step.start.any(axis=0) & step.back.any(axis=0)
    readout = None if step.readout is None else step.readout[keep]
    return Propagator(step.start[:, keep], step.K[np.ix_(keep, keep)], readout, step.back[:, keep])


def _is_symmetric(moments: Moments, route: str) -> bool:
    T = moments.T_fg if route == "operator" else moments.T_ff
    is_tied = route == "edmd" or (
        np.array_equal(moments.M_f, moments.M_g) and np.array_equal(moments.M_f, moments.C_gf)
    )
    return is_tied and np.allclose(T, conjugate_transpose(T), rtol=0, atol=1e-14 * np.abs(T).max())


def _eigenpairs(K: np.ndarray, is_symmetric: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted eigenvalues, unit right eigenvectors V, and W with W^H V = 1."""
    if is_symmetric:  # in the whitened basis K is Hermitian up to round-off, and eigenvalues are real
        values, right = np.linalg.eigh((K + conjugate_transpose(K)) / 2)
        values, right = values.astype(complex), right.astype(complex)
    else:
        values, right = (array.astype(complex) for array in np.linalg.eig(K))
    order = eigenvalue_order(values)
    values, right = values[order], right[:, order]
    condition = np.linalg.cond(right)
    if not condition < WORST_EIGENVECTORS:
        raise ValueError(
            f"moments give an operator that cannot be diagonalised (its eigenvectors have condition number "
            f"{condition:.1e}), so it has no eigenfunctions to expand in; forecasts and singular functions still work."
        )
    return values, right, conjugate_transpose(np.linalg.inv(right))


def _phase_functional(moments: Moments, coefficients: np.ndarray) -> np.ndarray:
    """A number per function whose phase is the function's phase."""
    if _holds(moments, "phase_f") and np.any(moments.phase_f):
        return moments.phase_f @ coefficients
    return coefficients[np.abs(coefficients).argmax(axis=0), np.arange(coefficients.shape[1])]


def _eigenvalue_intervals(resampled: np.ndarray, confidence: float, lag_time: float, unit: str) -> dict[str, Any]:
    bounds = interval(resampled, confidence)
    parts = np.stack([bounds.real, bounds.imag], axis=1)
    # timescales grow with the modulus, so their interval is the image of the modulus' one (inf where it reaches 1)
    modulus = np.minimum(interval(np.abs(resampled), confidence), 1.0)
    return {
        "bound": ("bound", ["lower", "upper"]),
        "part": ("part", ["real", "imaginary"]),
        "eigenvalue_interval": (("bound", "part", MODE), parts),
        "timescale_interval": (("bound", MODE), implied_timescales(modulus, lag_time), {"units": unit}),
        "frequency_interval": (
            ("bound", MODE),
            interval(implied_frequencies(resampled, lag_time), confidence),
            {"units": f"1/{unit}"},
        ),
    }


def timescales_from_singular_values(spectrum: xr.Dataset, *, reversible: bool = False) -> xr.DataArray:
    """`-lag dt / ln sigma` of the canonical singular values: relaxation times only if the dynamics are reversible.

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    reversible : say True if you know that the process satisfies detailed balance; otherwise sigma >= |lambda| only, and
        these times would be too long

    Raises
    ------
    ValueError
        Without reversible=True.

    Examples
    --------
    >>> s = xr.Dataset({"canonical_singular_values": ("mode", [1.0, np.exp(-0.5)])}, attrs={"lag": 2, "dt": 1.0})
    >>> timescales_from_singular_values(s, reversible=True).values
    array([inf, 4.])
    """
    if reversible is not True:
        raise ValueError(
            f"reversible={reversible!r}: singular values are not eigenvalues, and give timescales only for dynamics "
            "with detailed balance. Use eigen_analysis(...).timescales, or pass reversible=True if you know it holds."
        )
    sigma = spectrum["canonical_singular_values"]
    times = implied_timescales(sigma.values, spectrum.attrs["lag"] * spectrum.attrs["dt"])
    attrs = {"units": spectrum.attrs.get("time_unit", "frame"), "assumes": "detailed balance"}
    return xr.DataArray(times, dims=sigma.dims, coords=sigma.coords, name="timescales", attrs=attrs)


def evaluate_on_grid(
    function: Callable[[np.ndarray], np.ndarray], axes: Mapping[str, np.ndarray], *, unit: str = "1"
) -> xr.DataArray:
    """Values of functions of the state on a grid, (*axes, mode), for plots.

    Parameters
    ----------
    function : array (n, n_coordinates) -> array (n, n_modes)
    axes : name of each coordinate and its values

    Examples
    --------
    >>> evaluate_on_grid(lambda x: x**2, {"x": np.array([0.0, 1.0, 2.0])}, unit="nm")[:, 0].values
    array([0., 1., 4.])
    """
    points = np.stack(np.meshgrid(*axes.values(), indexing="ij"), axis=-1)
    values = np.asarray(function(points.reshape(-1, len(axes))))
    coords: dict[str, Any] = {name: (name, np.asarray(axis), {"units": unit}) for name, axis in axes.items()}
    coords[MODE] = np.arange(1, values.shape[1] + 1)
    return xr.DataArray(values.reshape(*points.shape[:-1], -1), dims=(*axes, MODE), coords=coords, name="functions")


def koopman_modes(
    moments: Moments,
    method: str = "operator",
    *,
    n_modes: int | None = None,
    observable_names: Sequence[str] | None = None,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
) -> xr.Dataset:
    """`eigen_analysis` with the Koopman modes of the observables: the weight <left_i, h> of eigenfunction i in each.

    `E[h(x_t) | x_0] = sum_i right_i(x_0) eigenvalue_i^t mode_i` for t >= 1 reproduces `forecast`.

    Parameters
    ----------
    moments : estimated with `observables=h`, such as `flat_state`
    method, n_modes, lag, dt, time_unit : see `eigen_analysis`
    observable_names : one per observable

    Returns
    -------
    Dataset with `koopman_modes` (mode, observable) beside everything from `eigen_analysis`

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=flat_state)
    >>> pairs = koopman_modes(m)
    >>> (pairs.right_coefficients.values @ pairs.koopman_modes.values).real.round(6)
    array([[1.]])
    """
    _check_method(method, METHODS[:2])
    H = _get(moments, "H_g" if method == "operator" else "H_f")
    pairs = eigen_analysis(moments, method, n_modes=n_modes, lag=lag, dt=dt, time_unit=time_unit)
    # an eigenvalue of exactly 0 has no left eigenfunction in span(psi), and adds nothing
    modes = conjugate_transpose(np.nan_to_num(pairs.left_coefficients.values)) @ H
    names = _observable_names(observable_names, H.shape[1])
    return pairs.assign(koopman_modes=((MODE, OBSERVABLE), modes)).assign_coords({OBSERVABLE: names})


# ------------------------------------------------------------------------------------------------------------ forecasts


def flat_state(x: Tensor) -> Tensor:
    """The state itself as observables: (batch, *state) -> (batch, n_entries)."""
    return x.flatten(1)


def forecast(
    moments: Moments,
    features: Any,
    steps: int | Sequence[int],
    *,
    method: str = "operator",
    direction: str = "forward",
    n_modes: int | None = None,
    observable_names: Sequence[str] | None = None,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
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
    observable_names : one per observable
    lag, dt, time_unit : lag in frames, physical time between two frames and its unit

    Returns
    -------
    DataArray (step, sample, observable) with the physical time of every step

    Raises
    ------
    ValueError
        For unknown options, steps below 1, features of another number, or moments without observables.

    References
    ----------
    MATH.md, section 7.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
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
    features = _as_array(features, step)
    values = np.stack([features @ weights for weights in _weights(step, steps)])
    attrs = provenance(method=method, direction=direction, lag=lag, dt=dt, time_unit=time_unit)
    return _label(values, steps, observable_names, attrs)


def forecast_band(
    moments: Moments,
    features: Any,
    steps: int | Sequence[int],
    *,
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    method: str = "operator",
    direction: str = "forward",
    n_modes: int | None = None,
    observable_names: Sequence[str] | None = None,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
) -> xr.Dataset:
    """`forecast` with a band from the bootstrap of the blocks of the moments: no further pass over the data.

    The band is that of the conditional *expectation* given finite data; single realisations scatter more.

    Parameters
    ----------
    n_resamples, confidence, seed : of the bootstrap
    moments, features, steps, method, direction, n_modes, observable_names, lag, dt, time_unit : see `forecast`

    Returns
    -------
    Dataset with `forecast`, `lower`, `upper`, each (step, sample, observable)

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=flat_state)
    >>> band = forecast_band(m, np.array([[8.0]]), 1)
    >>> bool(np.allclose(band.upper, band.lower))                                     # noise-free data
    True
    """
    moments = _directed(moments, direction)
    steps = check_steps(steps)
    step = propagator(moments.reweighted(bootstrap_weights(moments.n_blocks, n_resamples, seed)), method, n_modes)
    features = _as_array(features, step)
    values = np.stack([_with_bounds(features, weights, confidence) for weights in _weights(step, steps)], axis=1)
    attrs = provenance(method=method, direction=direction, lag=lag, dt=dt, time_unit=time_unit)
    attrs |= {"n_resamples": n_resamples, "confidence": confidence, "seed": seed}
    names = ("forecast", "lower", "upper")
    labelled = {n: _label(v, steps, observable_names, attrs, n) for n, v in zip(names, values, strict=True)}
    return xr.Dataset(labelled, attrs=attrs)


def _directed(moments: Moments, direction: str) -> Moments:
    if direction not in ("forward", "backward"):
        raise ValueError(f"direction must be 'forward' or 'backward'; got {direction!r}.")
    return moments if direction == "forward" else time_reversed(moments)


def check_steps(steps: int | Sequence[int]) -> list[int]:
    """Return `steps` as a list of numbers of lags: 1, ..., n for a number n, increasing numbers as they are.

    Examples
    --------
    >>> check_steps(3), check_steps([1, 20])
    ([1, 2, 3], [1, 20])
    """
    listed = list(range(1, steps + 1)) if isinstance(steps, (int, np.integer)) else list(steps)
    if not listed or any(int(n) != n or n < 1 for n in listed) or any(b <= a for a, b in itertools.pairwise(listed)):
        raise ValueError(f"steps must be a number of at least 1, or increasing numbers of at least 1; got {steps!r}.")
    return [int(n) for n in listed]


def _as_array(features: Any, step: Propagator) -> np.ndarray:
    values = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    n_features = step.start.shape[-2]
    if values.ndim != 2 or values.shape[1] != n_features:
        raise ValueError(f"features must have shape (n_samples, {n_features}), as in the moments; got {values.shape}.")
    return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)


def _weights(step: Propagator, steps: Sequence[int]) -> Iterator[np.ndarray]:
    """For every number of lags, what multiplies features: (..., k, n_observables)."""
    if step.readout is None:
        raise ValueError("moments lack observables; estimate them with observables=h, such as flat_state.")
    weights, done = step.readout, 1
    for n in steps:
        weights, done = np.linalg.matrix_power(step.K, n - done) @ weights, n
        yield step.start @ weights


def _with_bounds(features: np.ndarray, weights: np.ndarray, confidence: float) -> np.ndarray:
    """Forecast by the first of a stack of weights, bounds by the others: (3, n_samples, n_observables)."""
    pieces = []
    for start in range(0, len(features), CHUNK):
        values = features[start : start + CHUNK] @ weights
        pieces.append(np.concatenate([values[:1], interval(values[1:], confidence)]))
    return np.concatenate(pieces, axis=1)


def _observable_names(names: Sequence[str] | None, n: int) -> list[Any]:
    if names is not None and len(names) != n:
        raise ValueError(f"observable_names must name {n} observables; got {len(names)}: {list(names)}.")
    return list(range(n)) if names is None else list(names)


def _label(
    values: np.ndarray, steps: list[int], names: Sequence[str] | None, attrs: dict[str, Any], name: str = "forecast"
) -> xr.DataArray:
    sign = 1 if attrs["direction"] == "forward" else -1
    time = sign * np.asarray(steps) * attrs["lag"] * attrs["dt"]
    coords = {
        STEP: (STEP, steps, {"units": "lag"}),
        TIME: (STEP, time, {"units": attrs["time_unit"]}),
        OBSERVABLE: _observable_names(names, values.shape[2]),
    }
    return xr.DataArray(values, dims=(STEP, SAMPLE, OBSERVABLE), coords=coords, name=name, attrs=attrs)


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
    observable_names: Sequence[str] | None = None,
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
    method, n_modes, observable_names : see `forecast`

    Returns
    -------
    Dataset
        `rmse` and `relative_rmse` (forecaster, step, observable), the latter in standard deviations of the training
        data; `n_pairs` (step).

    Raises
    ------
    ValueError
        For moments of other observables, or test trajectories too short for the longest horizon.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> series = 0.5 ** np.arange(12.0)[:, None]
    >>> train = lagged_pairs(series)
    >>> m = estimate_moments(lambda s: s, lambda s: s, train, observables=flat_state)
    >>> error = forecast_error(m, lambda s: s, train, series, [1, 5])
    >>> bool((error.rmse.sel(forecaster="koopman") < 1e-12).all())
    True
    """
    steps = check_steps(steps)
    step = propagator(moments, method, n_modes)
    h, h_next = (_real_array(observables(side)) for side in (train.x, train.x_next))
    mean, scale = h.mean(axis=0), h.std(axis=0)
    if step.readout is None or step.readout.shape[1] != h.shape[1]:
        held = "none" if step.readout is None else step.readout.shape[1]
        raise ValueError(f"observables must be those of the moments ({held}); got {h.shape[1]}.")
    linear = np.linalg.lstsq(_with_ones(h), _with_ones(h_next), rcond=None)[0]
    errors, counts = [], []
    for n, weights in zip(steps, _weights(step, steps), strict=True):
        pairs = lagged_pairs(test, lag=n * train.lag, check_constant=False)
        now, truth = (_real_array(observables(side)) for side in (pairs.x, pairs.x_next))
        linear_n = np.linalg.matrix_power(linear, n)[:, 1:]
        guesses = (np.real(_as_array(f(pairs.x), step) @ weights), now, mean, _with_ones(now) @ linear_n)
        errors.append([np.sqrt(np.mean((guess - truth) ** 2, axis=0)) for guess in guesses])
        counts.append(len(pairs))
    rmse = np.moveaxis(np.asarray(errors), 1, 0)  # (forecaster, step, observable)
    relative = np.divide(rmse, scale, out=np.full_like(rmse, np.nan), where=scale > 0)
    dims = ("forecaster", STEP, OBSERVABLE)
    return xr.Dataset(
        {"rmse": (dims, rmse), "relative_rmse": (dims, relative, {"units": "1"}), "n_pairs": (STEP, counts)},
        coords={
            "forecaster": ["koopman", "persistence", "climatology", "linear"],
            STEP: (STEP, steps, {"units": "lag"}),
            TIME: (STEP, np.asarray(steps) * train.lag * train.dt, {"units": train.time_unit}),
            OBSERVABLE: _observable_names(observable_names, h.shape[1]),
        },
        attrs=provenance(method=method, lag=train.lag, dt=train.dt, time_unit=train.time_unit),
    )


def _real_array(values: Any) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if np.iscomplexobj(values):
        raise TypeError("observables must be real for errors to be compared; give real and imaginary parts apart.")
    return values.astype(np.float64)


def _with_ones(h: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((len(h), 1)), h], axis=1)
