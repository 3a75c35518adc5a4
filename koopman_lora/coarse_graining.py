"""From many modes to few states: coarse coordinates, fuzzy memberships, the macroscopic model and its tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.optimize import minimize
from torch import Tensor

from koopman_lora._labels import MODE, TIME, provenance
from koopman_lora._linalg import conjugate_transpose, hermitian_pinv, whitened_svd
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments
from koopman_lora.prediction import bootstrap_weights, interval, propagator
from koopman_lora.spectrum import evaluate_functions, implied_timescales

SAMPLE, STATE, STATE_NEXT, TARGET, LAG = "sample", "state", "state_next", "target", "lag"
COORDINATES = ("K_matrix", "canonical")
ESTIMATORS = ("galerkin", "counts")
# Frames that the optimisation of memberships looks at: a second or two for four states.
OPTIMISED_FRAMES = 10_000


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


# --------------------------------------------------------------------------------------------------------- memberships


def membership_coefficients(functions: Any, n_states: int, *, optimise: bool = True) -> np.ndarray:
    """Linear map from slow functions to fuzzy memberships, by PCCA+.

    The values of n slow functions lie close to a simplex with a corner for every metastable state. The inner simplex
    algorithm finds the corners; the optimisation then moves them so that memberships are as crisp as they can be while
    all stay at least 0. States are numbered by decreasing population.

    Parameters
    ----------
    functions : array (n_frames, n_functions)
        Real eigenfunctions of a reversible process; or, for any process, its singular functions: phi of x for sets that
        stay together over the lag, and phi above psi (stacked along the frames) for coherent sets. The constant first.
    n_states : number of states, at most n_functions; the leading functions are used

    Returns
    -------
    array (n_states, n_states): memberships are `functions[:, :n_states] @ coefficients`, then `memberships`

    Raises
    ------
    ValueError
        For complex functions, a first function that is not constant, or fewer functions than states.

    References
    ----------
    Weber and Galliat (2002), inner simplex; Roeblitz and Weber, Adv. Data Anal. Classif. 7, 147 (2013), PCCA+.

    Examples
    --------
    >>> slow = np.array([[1.0, -2.0], [1.0, -2.0], [1.0, 0.0], [1.0, 1.0]])
    >>> (slow @ membership_coefficients(slow, 2)).round(3)
    array([[1.   , 0.   ], [1.   , 0.   ], [0.333, 0.667], [0.   , 1.   ]])
    """
    points = _slow_points(functions, n_states)
    A = np.linalg.inv(points[_inner_simplex(points)])
    if optimise and n_states > 2:  # two states have no freedom left
        A = _crispest(points[:: -(-len(points) // OPTIMISED_FRAMES)], A)
    return A[:, np.argsort(-memberships(points, A).mean(axis=0), kind="stable")]


def _slow_points(functions: Any, n_states: int) -> np.ndarray:
    values = functions.values if isinstance(functions, xr.DataArray) else np.asarray(functions)
    if values.ndim != 2 or not 2 <= n_states <= min(values.shape):
        raise ValueError(
            f"n_states must be between 2 and the numbers of functions and of frames; got n_states={n_states} for "
            f"functions of shape {values.shape}."
        )
    points = values[:, :n_states]
    if np.abs(np.imag(points)).max() > 1e-8 * np.abs(points).max():
        raise ValueError(
            "functions are complex: eigenfunctions of a non-reversible process. Use its singular functions instead."
        )
    points = np.real(points)
    level, spread = points[:, 0].mean(), points[:, 0].std()
    if spread > 0.1 * abs(level):
        raise ValueError(
            f"functions must have the constant first; the first one has mean {level:.3g} and deviation {spread:.3g}. "
            "Train with has_centering=True."
        )
    points = points.copy()
    points[:, 0] = level
    return points


def _inner_simplex(points: np.ndarray) -> np.ndarray:
    """Rows (n_states,) of points that span the largest simplex, found one after the other."""
    shifted = points[:, 1:]
    first = np.linalg.norm(shifted - shifted.mean(axis=0), axis=1).argmax()
    rest, chosen = shifted - shifted[first], [first]
    for _ in range(shifted.shape[1]):
        norms = np.linalg.norm(rest, axis=1)
        chosen.append(norms.argmax())
        axis = rest[chosen[-1]] / norms.max()
        rest = rest - np.outer(rest @ axis, axis)
    return np.array(chosen)


def _crispest(points: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Feasible coefficients that maximise the crispness sum_i <chi_i, chi_i> / <chi_i, 1> of the memberships."""
    n = len(A)

    def objective(free: np.ndarray) -> float:
        chi = points @ _feasible(free.reshape(n - 1, n - 1), points)
        return -float(np.sum((chi**2).sum(axis=0) / chi.sum(axis=0)))

    start = A[1:, 1:].ravel()
    found = minimize(objective, start, method="Nelder-Mead", options={"maxiter": 400 * len(start), "fatol": 1e-7})
    return _feasible(found.x.reshape(n - 1, n - 1), points)


def _feasible(inner: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Fill the first row and column of A: memberships sum to 1, and the smallest of every state is 0."""
    A = np.empty((len(inner) + 1,) * 2)
    A[1:, 1:] = inner
    A[1:, 0] = -inner.sum(axis=1)
    A[0] = -(points[:, 1:] @ A[1:]).min(axis=0) / points[0, 0]
    return A / (A[0].sum() * points[0, 0])


def memberships(functions: Any, coefficients: np.ndarray) -> np.ndarray:
    """Memberships of frames in states, (n_frames, n_states): at least 0, and 1 in sum.

    Frames outside the simplex of `membership_coefficients`, in the training data or not, are moved to its border.

    Examples
    --------
    >>> memberships(np.array([[1.0, 2.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.5, -0.5]]))
    array([[1. , 0. ], [0.5, 0.5]])
    """
    values = functions.values if isinstance(functions, xr.DataArray) else np.asarray(functions)
    inside = np.maximum(np.real(values[:, : len(coefficients)]) @ coefficients, 0.0)
    total = inside.sum(axis=1, keepdims=True)
    n_states = inside.shape[1]
    return np.divide(inside, total, out=np.full_like(inside, 1 / n_states), where=total > 0)


def membership_map(
    f: Callable[[Tensor], Any], functions: xr.DataArray | np.ndarray, coefficients: np.ndarray
) -> Callable[[Tensor], np.ndarray]:
    """Memberships as a feature map, states (batch, *state) -> (batch, n_states), to hand to `estimate_moments`.

    Parameters
    ----------
    f : feature map, such as a model's `f`
    functions : (n_features, n_modes), such as `left_coefficients` of a spectrum: slow functions are f(x) @ functions
    coefficients : of `membership_coefficients`

    Examples
    --------
    >>> chi = membership_map(lambda x: x, np.eye(2), np.array([[0.5, 0.5], [0.5, -0.5]]))
    >>> chi(torch.tensor([[1.0, 0.5]]))
    array([[0.75, 0.25]])
    """
    table = functions.values if isinstance(functions, xr.DataArray) else np.asarray(functions)

    def chi(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            values = f(x)
        return memberships(evaluate_functions(values, xr.DataArray(table)), coefficients)

    return chi


def coherent_memberships(phi: Any, psi: Any, n_states: int, *, optimise: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of coherent sets: memberships at the first time from phi(x), and at the second from psi(x').

    Both use one set of coefficients, so that state i at the first time is carried into state i at the second.

    Parameters
    ----------
    phi, psi : arrays (n_frames, n_functions), left and right singular functions, the constant first
    n_states : number of pairs of sets

    Returns
    -------
    two arrays (n_frames, n_states)

    Examples
    --------
    >>> phi = np.array([[1.0, -1.0], [1.0, 1.0]])
    >>> [sets.argmax(axis=1) for sets in coherent_memberships(phi, phi[::-1], 2)]
    [array([0, 1]), array([1, 0])]
    """
    both = np.concatenate([np.asarray(phi), np.asarray(psi)])
    A = membership_coefficients(both, n_states, optimise=optimise)
    return memberships(phi, A), memberships(psi, A)


def number_of_states(
    moments: Moments,
    *,
    quantity: str = "singular_values",
    most: int = 10,
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Number of metastable states, suggested by the largest gap between successive relaxation times.

    Parameters
    ----------
    moments : Moments
        With several blocks for intervals.
    quantity : 'singular_values', or 'eigenvalues' (of the rank-n operator)
    most : largest number of states to consider
    n_resamples, confidence, seed : of the bootstrap over the blocks

    Returns
    -------
    Dataset
        Over n_states: `gap`, ln(value n + 1) / ln(value n), the ratio of the last time kept to the next one; its
        `lower` and `upper` bound and `votes`, the share of resamples with their largest gap there (NaN for moments of
        one block). Attribute `suggested`.

    Raises
    ------
    ValueError
        For another quantity, or fewer than 3 features.

    Examples
    --------
    >>> from koopman_lora.moments import estimate_moments
    >>> from koopman_lora.systems import FiniteMarkovChain
    >>> from koopman_lora.trajectories import lagged_pairs
    >>> pairs = lagged_pairs(FiniteMarkovChain.with_blocks(n_blocks=3).simulate(n_steps=5000))
    >>> number_of_states(estimate_moments(lambda x: x, lambda x: x, pairs)).attrs["suggested"]
    3
    """
    if quantity not in ("singular_values", "eigenvalues"):
        raise ValueError(f"quantity must be 'singular_values' or 'eigenvalues'; got {quantity!r}.")
    n_features = min(moments.T_fg.shape)
    most = min(most, n_features - 1)
    if most < 2:
        raise ValueError(f"moments must be of at least 3 features to compare gaps; got {n_features}.")
    n_resamples = n_resamples if moments.n_blocks > 1 else 0
    weights = np.ones((1, moments.n_blocks))
    if n_resamples:
        weights = bootstrap_weights(moments.n_blocks, n_resamples, seed)
    stack = moments.reweighted(weights)
    if quantity == "singular_values":
        values = whitened_svd(stack["M_f"], stack["T_fg"], stack["M_g"]).values
    else:
        values = -np.sort(-np.abs(np.linalg.eigvals(propagator(stack).K)), axis=1)
    # not clipped to hide anything: a value of 1 is one more process that never relaxes
    rates = -np.log(np.clip(values, 1e-12, 1 - 1e-12))
    gaps = rates[:, 2 : most + 1] / rates[:, 1:most]
    resampled = gaps[1:] if n_resamples else np.full((1, most - 1), np.nan)
    lower, upper = interval(resampled, confidence)
    votes = np.bincount(resampled.argmax(axis=1), minlength=most - 1) / n_resamples if n_resamples else resampled[0]
    n_states = np.arange(2, most + 1)
    dims = "n_states"
    return xr.Dataset(
        {"gap": (dims, gaps[0]), "lower": (dims, lower), "upper": (dims, upper), "votes": (dims, votes)},
        coords={dims: n_states},
        attrs=provenance(quantity=quantity, suggested=int(n_states[gaps[0].argmax()]), n_resamples=n_resamples),
    )


# -------------------------------------------------------------------------------------------------- macroscopic model


def transition_matrix(
    moments: Moments | Mapping[str, np.ndarray], estimator: str = "galerkin", reversible: bool = False
) -> np.ndarray:
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
    raw, populations = _raw_transition_matrix(moments, estimator, reversible)
    P = nearest_probabilities(raw)
    if not reversible:
        return P
    flux = populations[..., :, None] * P
    return _normalised_rows((flux + np.swapaxes(flux, -1, -2)) / 2)


def _raw_transition_matrix(
    moments: Moments | Mapping[str, np.ndarray], estimator: str, reversible: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Transition matrix before negative entries are cut, and the populations E[chi(x)]."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be 'galerkin' or 'counts'; got {estimator!r}.")
    names = ("M_f", "M_f1", "T_ff")
    M, M1, T = (getattr(moments, n) if isinstance(moments, Moments) else moments[n] for n in names)
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


def nearest_probabilities(rows: np.ndarray) -> np.ndarray:
    """Probability vectors closest to rows (..., n) in the Euclidean sense: a shift of all entries, cut at 0.

    Dividing what is left after cutting by its sum instead would take most from the diagonal, and shorten timescales.

    Examples
    --------
    >>> nearest_probabilities(np.array([[0.94, 0.08, -0.02], [0.2, 0.3, 0.5]]))
    array([[0.93, 0.07, 0.  ],
           [0.2 , 0.3 , 0.5 ]])
    """
    ordered = -np.sort(-rows, axis=-1)
    excess = np.cumsum(ordered, axis=-1) - 1
    shifts = excess / np.arange(1, rows.shape[-1] + 1)
    n_positive = np.sum(ordered > shifts, axis=-1, keepdims=True)
    positive = np.maximum(rows - np.take_along_axis(shifts, n_positive - 1, axis=-1), 0.0)
    return _normalised_rows(positive)


def _normalised_rows(matrix: np.ndarray) -> np.ndarray:
    return matrix / matrix.sum(axis=-1, keepdims=True)


def check_transition_matrix(P: Any) -> np.ndarray:
    """Return P as a float array (n, n), or raise a ValueError if it is not row-stochastic."""
    P = np.asarray(P, dtype=float)
    if P.ndim != 2 or P.shape[0] != P.shape[1]:
        raise ValueError(f"P must be a square matrix; got shape {P.shape}.")
    if (P < 0).any() or np.abs(P.sum(axis=1) - 1).max() > 1e-8:
        raise ValueError(
            f"P must have entries of at least 0 and rows that sum to 1; smallest entry {P.min():.3g}, row sums "
            f"{P.sum(axis=1)}."
        )
    return P


def stationary_distribution(P: np.ndarray) -> np.ndarray:
    """Probabilities (n,) with pi P = pi.

    Raises
    ------
    ValueError
        Where it is not unique, because the states fall into classes that cannot reach one another.

    Examples
    --------
    >>> stationary_distribution(np.array([[0.9, 0.1], [0.3, 0.7]]))
    array([0.75, 0.25])
    """
    P = check_transition_matrix(P)
    reach = _reachable(P)
    if not reach.all(axis=0).any():
        raise ValueError("P has several stationary distributions: no state can be reached from all others.")
    n = len(P)
    pi = np.linalg.solve((np.eye(n) - P + 1.0).T, np.ones(n))
    pi = np.maximum(pi, 0.0)  # transient states come out as 0 up to round-off
    return pi / pi.sum()


def _reachable(P: np.ndarray) -> np.ndarray:
    """Whether state j can be reached from i in any number of steps, 0 included: (n, n)."""
    steps = (P > 0) | np.eye(len(P), dtype=bool)
    for _ in range(int(np.ceil(np.log2(max(len(P), 2))))):
        steps = steps @ steps
    return steps


def mean_first_passage_times(P: np.ndarray, lag_time: float = 1.0) -> np.ndarray:
    """Mean time from state i (row) until state j (column) is reached first, (n, n), in the unit of `lag_time`.

    `m_ij = lag_time + sum_{k != j} P_ik m_kj`; 0 on the diagonal, inf where j may never be reached.

    Examples
    --------
    >>> mean_first_passage_times(np.array([[0.9, 0.1], [0.3, 0.7]]), lag_time=3.0).round(6)
    array([[ 0., 30.], [10., 0.]])
    """
    P = check_transition_matrix(P)
    n = len(P)
    times = np.zeros((n, n))
    for j in range(n):
        absorbing = P.copy()
        absorbing[j] = np.eye(n)[j]
        reach = _reachable(absorbing)
        # reached for sure: from nowhere along the way is the target out of reach
        sure = (~reach | reach[:, j]).all(axis=1)
        times[~sure, j] = np.inf
        rows = np.flatnonzero(sure & (np.arange(n) != j))
        times[rows, j] = np.linalg.solve(np.eye(len(rows)) - P[np.ix_(rows, rows)], np.full(len(rows), lag_time))
    return times


def committor(P: np.ndarray, source: int | Sequence[int], target: int | Sequence[int]) -> np.ndarray:
    """Probability (n,) to reach `target` before `source` from every state; NaN where neither may ever be reached.

    Examples
    --------
    >>> walk = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
    >>> committor(walk, source=0, target=2)
    array([0. , 0.5, 1. ])
    """
    P = check_transition_matrix(P)
    n = len(P)
    A, B = (np.isin(np.arange(n), side) for side in (source, target))
    if not A.any() or not B.any() or (A & B).any():
        raise ValueError(
            f"source and target must be states 0 to {n - 1}, none in both; got source={source}, target={target}."
        )
    ends = A | B
    absorbing = np.where(ends[:, None], np.eye(n), P)
    reach = _reachable(absorbing)
    sure = (~reach | reach[:, ends].any(axis=1)).all(axis=1)
    q = np.where(sure, B.astype(float), np.nan)
    rows = np.flatnonzero(sure & ~ends)
    q[rows] = np.linalg.solve(np.eye(len(rows)) - P[np.ix_(rows, rows)], P[np.ix_(rows, np.flatnonzero(B))].sum(axis=1))
    return np.clip(q, 0.0, 1.0)  # outside by round-off only


def macroscopic_model(
    moments: Moments,
    *,
    estimator: str = "galerkin",
    reversible: bool = False,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
    n_resamples: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """The small Markov model between fuzzy states: probabilities, populations, times and committors, with intervals.

    Parameters
    ----------
    moments : Moments
        Of memberships: `estimate_moments(chi, chi, pairs)` with chi a `membership_map`, or one-hot maps.
    estimator, reversible : see `transition_matrix`
    lag, dt, time_unit : lag in frames, physical time between two frames and its unit
    n_resamples, confidence, seed : of the bootstrap over the blocks; 0 resamples for no intervals

    Returns
    -------
    Dataset
        - `transition_matrix` and `counts` (state, state_next), `rates` (probability of a jump per time),
          `stationary_distribution`, `populations` (mean memberships), `metastability` (trace of the matrix),
          `eigenvalues` and `timescales` (process), `mean_first_passage_times` (state, target), `committors`
          (source, target, state; NaN for source = target);
        - with resamples and more than one block, `<name>_interval` (bound, ...) of matrix, stationary distribution,
          metastability, timescales and mean first-passage times;
        - attribute `negative_part`: the largest negative entry before probabilities were made of it.

    Raises
    ------
    ValueError
        For moments that are not of memberships, or states that cannot reach one another.

    Examples
    --------
    >>> from koopman_lora.moments import estimate_moments
    >>> from koopman_lora.systems import FiniteMarkovChain
    >>> from koopman_lora.trajectories import lagged_pairs
    >>> pairs = lagged_pairs(FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(n_steps=4000))
    >>> m = macroscopic_model(estimate_moments(lambda x: x, lambda x: x, pairs), dt=2.0, time_unit="ns")
    >>> m.timescales.dims, m.timescales.units, bool((m.timescales_interval[0] < 3.9) & (m.timescales_interval[1] > 3.9))
    (('process',), 'ns', True)
    """
    lag_time = lag * dt
    raw, populations = _raw_transition_matrix(moments, estimator, reversible)
    P = transition_matrix(moments, estimator, reversible)
    point = _derived(P, lag_time)
    dims = {
        "transition_matrix": (STATE, STATE_NEXT),
        "stationary_distribution": (STATE,),
        "metastability": (),
        "timescales": ("process",),
        "mean_first_passage_times": (STATE, TARGET),
    }
    times = ("timescales", "mean_first_passage_times")
    units = {name: time_unit if name in times else "1" for name in dims}
    variables: dict[str, Any] = {name: (dims[name], point[name], {"units": units[name]}) for name in dims}
    if n_resamples and moments.n_blocks > 1:
        weights = bootstrap_weights(moments.n_blocks, n_resamples, seed)[1:]
        stack = transition_matrix(moments.reweighted(weights), estimator, reversible)
        samples = [_derived(matrix, lag_time) for matrix in stack]
        for name in dims:
            bounds = _interval_with_inf(np.stack([sample[name] for sample in samples]), confidence)
            variables[f"{name}_interval"] = (("bound", *dims[name]), bounds, {"units": units[name]})
        variables["bound"] = ("bound", ["lower", "upper"])
    rates = np.where(np.eye(len(P), dtype=bool), 0.0, P) / lag_time
    variables |= {
        "eigenvalues": ("eigenvalue", _sorted_eigenvalues(P)),
        "counts": ((STATE, STATE_NEXT), moments.n_pairs * moments.T_ff),
        "populations": (STATE, populations),
        "rates": ((STATE, STATE_NEXT), rates, {"units": f"1/{time_unit}"}),
        "committors": (("source", TARGET, STATE), _all_committors(P)),
    }
    numbers = np.arange(len(P))
    attrs = provenance(
        estimator=estimator,
        reversible=reversible,
        lag=lag,
        dt=dt,
        time_unit=time_unit,
        n_pairs=moments.n_pairs,
        n_resamples=n_resamples if moments.n_blocks > 1 else 0,
        confidence=confidence,
        negative_part=float(np.maximum(-raw, 0).max()),
    )
    coords = {name: numbers for name in (STATE, STATE_NEXT, TARGET, "source")} | {"process": numbers[1:]}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _sorted_eigenvalues(P: np.ndarray) -> np.ndarray:
    values = np.linalg.eigvals(P).astype(complex)
    return values[np.argsort(-np.abs(values), kind="stable")]


def _derived(P: np.ndarray, lag_time: float) -> dict[str, np.ndarray]:
    return {
        "transition_matrix": P,
        "stationary_distribution": stationary_distribution(P),
        "metastability": np.trace(P),
        "timescales": implied_timescales(_sorted_eigenvalues(P)[1:], lag_time),
        "mean_first_passage_times": mean_first_passage_times(P, lag_time),
    }


def _interval_with_inf(samples: np.ndarray, confidence: float) -> np.ndarray:
    """Percentiles of samples that may be inf, which interpolation would turn into NaN."""
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    return np.quantile(samples, levels, axis=0, method="nearest")


def _all_committors(P: np.ndarray) -> np.ndarray:
    n = len(P)
    result = np.full((n, n, n), np.nan)
    for source in range(n):
        for target in range(n):
            if source != target:
                result[source, target] = committor(P, source, target)
    return result


# ------------------------------------------------------------------------------------------------------------- testing


def chapman_kolmogorov(
    moments_by_lag: Mapping[int, Moments],
    memberships: np.ndarray | None = None,
    *,
    method: str = "edmd",
    n_states: int = 4,
    dt: float = 1.0,
    time_unit: str = "frame",
    n_resamples: int = 200,
    confidence: float = 0.95,
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
    n_resamples, confidence, seed : of the bootstrap over blocks; 0 for no intervals

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
    >>> from koopman_lora.trajectories import lagged_pairs
    >>> data = FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).simulate(n_steps=20_000)
    >>> m = {lag: estimate_moments(lambda x: x, lambda x: x, lagged_pairs(data, lag)) for lag in (1, 2, 4)}
    >>> bool((chapman_kolmogorov(m, np.eye(2)).deviation < 0.03).all())
    True
    """
    lags = _check_lags(moments_by_lag)
    base = moments_by_lag[lags[0]]
    k = base.M_f.shape[0]
    if memberships is not None and (np.ndim(memberships) != 2 or len(memberships) != k):
        raise ValueError(
            f"memberships must have shape ({k}, n_states), one row per feature; got {np.shape(memberships)}."
        )
    if memberships is None:
        A = whitened_svd(base.M_f, base.T_fg, base.M_g, rank=n_states).left
    else:
        A = np.asarray(memberships)
    stacks = {lag: _resampled(moments_by_lag[lag], n_resamples, seed) for lag in lags}
    first = stacks[lags[0]]
    # the features themselves are the observables whose expectations are carried forward
    step = propagator(first | {"H_f": first["M_f"], "H_g": first["C_gf"]}, method)
    left = conjugate_transpose(A)
    predicted, estimated = [], []
    for lag in lags:
        power = np.linalg.matrix_power(step.K, lag // lags[0] - 1)
        correlation = left @ first["M_f"] @ step.start @ power @ step.readout @ A
        direct = left @ stacks[lag]["T_ff"] @ A
        if memberships is not None:  # P(j after n lags | i) = E[chi_i chi_j(n)] / E[chi_i]
            correlation, direct = (
                joint / (left @ M @ A).sum(axis=-1, keepdims=True)
                for joint, M in ((correlation, first["M_f"]), (direct, stacks[lag]["M_f"]))
            )
        predicted.append(correlation)
        estimated.append(direct)
    return _ck_dataset(np.stack(predicted, 1), np.stack(estimated, 1), lags, dt, time_unit, confidence, method)


def _check_lags(moments_by_lag: Mapping[int, Moments]) -> list[int]:
    lags = sorted(moments_by_lag)
    if len(lags) < 2 or any(lag % lags[0] for lag in lags):
        raise ValueError(f"moments_by_lag needs at least 2 lags, all multiples of the smallest; got {lags}.")
    sizes = {lag: moments_by_lag[lag].M_f.shape[0] for lag in lags}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"moments_by_lag must be of the same features; got numbers of features {sizes}.")
    return lags


def _resampled(moments: Moments, n_resamples: int, seed: int) -> dict[str, np.ndarray]:
    if n_resamples == 0:
        return moments.reweighted(np.ones((1, moments.n_blocks)))
    return moments.reweighted(bootstrap_weights(moments.n_blocks, n_resamples, seed))


def _ck_dataset(
    predicted: np.ndarray,
    estimated: np.ndarray,
    lags: list[int],
    dt: float,
    time_unit: str,
    confidence: float,
    method: str,
) -> xr.Dataset:
    dims = (LAG, STATE, STATE_NEXT)
    variables: dict[str, Any] = {}
    for name, values in (("predicted", predicted), ("estimated", estimated)):
        variables[name] = (dims, values[0])
        if len(values) > 1:
            lower, upper = interval(values[1:], confidence)
            variables |= {f"{name}_lower": (dims, lower), f"{name}_upper": (dims, upper)}
    variables["deviation"] = (LAG, np.abs(predicted[0] - estimated[0]).max(axis=(1, 2)))
    numbers = np.arange(predicted.shape[2])
    coords = {
        LAG: (LAG, lags, {"units": "frame"}),
        TIME: (LAG, dt * np.asarray(lags), {"units": time_unit}),
        STATE: numbers,
        STATE_NEXT: numbers,
    }
    attrs = provenance(
        method=method, lag=lags[0], dt=dt, time_unit=time_unit, n_resamples=len(predicted) - 1, confidence=confidence
    )
    return xr.Dataset(variables, coords=coords, attrs=attrs)


# ------------------------------------------------------------------------------------------------ hand-over to deeptime


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
