"""Metastable sets: how many there are, and fuzzy memberships in them by PCCA+."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.optimize import minimize
from torch import Tensor

from koopman_lora._labels import N_STATES, interval, labelled, provenance
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked
from koopman_lora.data.weights import checked_weights
from koopman_lora.kinds import LARGEST, AnyNumbers, Reals, number_array
from koopman_lora.moments import Moments
from koopman_lora.propagation import propagator
from koopman_lora.spectrum import evaluate_functions
from koopman_lora.states.markov_models import check_finite_rows
from koopman_lora.triples import canonical_triples

# Frames that the optimisation of memberships looks at: a second or two for four states.
OPTIMISED_FRAMES = 10_000
# Root mean square distance from 1 beyond which no combination of the functions counts as the constant.
NO_CONSTANT = 0.1


@checked
def number_of_states(
    moments: Moments,
    *,
    quantity: str = "singular_values",
    most: int = 10,
    bootstrap: Bootstrap = Bootstrap(),
) -> xr.Dataset:
    """Number of metastable states, suggested by the largest gap between successive relaxation times.

    Parameters
    ----------
    moments : Moments
        With several blocks for intervals.
    quantity : 'singular_values', or 'eigenvalues' (of the rank-n operator)
    most : largest number of states to consider
    bootstrap : over the blocks; bounds are percentiles

    Returns
    -------
    Dataset
        Over n_states: `gap`, ln(value n + 1) / ln(value n), the ratio of the last time kept to the next one; its
        `gap_interval` (bound, n_states) and `votes`, the share of resamples with their largest gap there (NaN for
        moments of one block). Attribute `suggested`.

    Raises
    ------
    ValueError
        For another quantity, or fewer than 3 features.

    Examples
    --------
    >>> pairs = lagged_pairs(FiniteMarkovChain.with_blocks(n_blocks=3).simulate(n_steps=5000))
    >>> number_of_states(estimate_moments(lambda x: x, lambda x: x, pairs)).attrs["suggested"]
    3
    """
    n_features = min(moments.T_fg.shape)
    if most < 2:
        raise ValueError(f"most must be at least 2; got {most}.")
    most = min(most, n_features - 1)
    if most < 2:
        raise ValueError(f"moments must be of at least 3 features to compare gaps; got {n_features}.")
    if moments.n_blocks > 1:
        gaps = _gaps(bootstrap.resampled(moments), quantity, most)
        bounds = bootstrap.percentiles(gaps[1:])
        votes = np.bincount(gaps[1:].argmax(axis=1), minlength=most - 1) / bootstrap.n_resamples
    else:
        gaps = _gaps(moments.reweighted(np.ones((1, 1))), quantity, most)
        bounds, votes = np.full((2, most - 1), np.nan), np.full(most - 1, np.nan)
    n_states = np.arange(2, most + 1)
    variables = {"gap": (N_STATES, gaps[0]), **interval("gap", [N_STATES], bounds), "votes": (N_STATES, votes)}
    attrs = provenance(quantity=quantity, suggested=int(n_states[gaps[0].argmax()]), **bootstrap.attrs())
    return labelled(variables, attrs, {N_STATES: n_states})


def _gaps(stack: Moments, quantity: str, most: int) -> np.ndarray:
    """Ratios of successive rates, (n_resamples, most - 1)."""
    if quantity == "singular_values":
        values = canonical_triples(stack).values
    elif quantity == "eigenvalues":
        values = -np.sort(-np.abs(np.linalg.eigvals(propagator(stack).K)), axis=1)
    else:
        raise ValueError(f"quantity must be 'singular_values' or 'eigenvalues'; got {quantity!r}.")
    # not clipped to hide anything: a value of 1 is one more process that never relaxes
    rates = -np.log(np.clip(values, 1e-12, 1 - 1e-12))
    return rates[:, 2 : most + 1] / rates[:, 1:most]


@checked
def membership_coefficients(
    functions: Any, n_states: int, *, optimise: bool = True, weights: Reals | None = None
) -> np.ndarray:
    """Linear map from slow functions to fuzzy memberships, by PCCA+.

    The values of n slow functions lie close to a simplex with a corner for every metastable state. The inner simplex
    algorithm finds the corners; the optimisation then moves them so that memberships are as crisp as they can be while
    all stay at least 0. States are numbered by decreasing population.

    Parameters
    ----------
    functions : array (n_frames, n_functions)
        Real eigenfunctions of a reversible process; or, for any process, its singular functions: phi of x for sets that
        stay together over the lag, and phi above psi (stacked along the frames) for coherent sets. The constant is the
        first, or any combination of the leading ones: where several singular values are 1 (disconnected sets, a
        periodic chain) an SVD may return any mixture.
    n_states : number of states, at most n_functions; the leading functions are used
    weights : how much each frame counts in populations and crispness (n_frames,), such as `pairs.weights`

    Returns
    -------
    array (n_states, n_states): memberships are `functions[:, :n_states] @ coefficients`, then `memberships`

    Raises
    ------
    ValueError
        For complex functions or some that are not finite, leading functions that depend on each other or of which no
        combination is constant, or fewer functions than states.

    References
    ----------
    Weber and Galliat (2002), inner simplex; Roeblitz and Weber, Adv. Data Anal. Classif. 7, 147 (2013), PCCA+.

    Examples
    --------
    >>> slow = np.array([[1.0, -2.0], [1.0, -2.0], [1.0, 0.0], [1.0, 1.0]])
    >>> memberships(slow, membership_coefficients(slow, 2)).round(3)
    array([[1.   , 0.   ], [1.   , 0.   ], [0.333, 0.667], [0.   , 1.   ]])
    """
    values = _leading_functions(functions, n_states)
    weights = None if weights is None else checked_weights(weights, len(values))
    mixing = _constant_first(values)
    points = values @ mixing
    points[:, 0] = 1.0  # what differs from it is the error of learned functions
    A = np.linalg.inv(points[_inner_simplex(points)])
    if optimise and n_states > 2:  # two states have no freedom left
        some = slice(None, None, -(-len(points) // OPTIMISED_FRAMES))
        A = _crispest(points[some], A, None if weights is None else weights[some])
    populations = np.average(memberships(points, A), axis=0, weights=weights)
    return mixing @ A[:, np.argsort(-populations, kind="stable")]


def _leading_functions(functions: Any, n_states: int) -> np.ndarray:
    """The leading functions (n_frames, n_states), real, finite and independent."""
    values = number_array("functions", functions)
    if values.ndim != 2 or not 2 <= n_states <= min(values.shape):
        raise ValueError(
            f"n_states must be between 2 and the numbers of functions and of frames; got n_states={n_states} for "
            f"functions of shape {values.shape}."
        )
    points = values[:, :n_states]
    check_finite_rows("functions", points)
    top = np.abs(points).max(axis=0)
    if (top > LARGEST).any() or ((top > 0) & (top < 1 / LARGEST)).any():
        raise ValueError(f"functions must be of about unit norm; got values of up to {top}.")
    if np.abs(np.imag(points)).max() > 1e-8 * np.abs(points).max():
        raise ValueError(
            "functions are complex: eigenfunctions of a non-reversible process. Use its singular functions instead."
        )
    points = np.real(points).astype(float)
    if np.linalg.matrix_rank(points / np.maximum(np.abs(points).max(axis=0), np.finfo(float).tiny)) < n_states:
        raise ValueError(
            f"functions must be independent; the leading {n_states} are not on these frames. Ask for fewer n_states, "
            "or give frames of more of the states."
        )
    return points


def _constant_first(points: np.ndarray) -> np.ndarray:
    """Matrix (n, n) that turns the functions (n_frames, n) so that the first one is 1, and the others stay orthonormal.

    Where several singular values are 1, the SVD returns any orthonormal mixture of the constant with the others.
    """
    n = points.shape[1]
    constant = np.linalg.lstsq(points, np.ones(len(points)), rcond=None)[0]
    missing = np.sqrt(np.mean((points @ constant - 1) ** 2))
    if not missing < NO_CONSTANT:
        raise ValueError(
            f"functions must hold the constant in the span of the leading {n}; the nearest combination is off by "
            f"{missing:.2g} (rms). Train with has_centering=True. Where more than {n} singular values are 1 "
            "(disconnected sets, a periodic chain), ask for as many states as there are."
        )
    # the others: what a reflection of e_1 to the direction of the constant makes of e_2, e_3, ...; they stay as they
    # are where the constant is the first
    direction = constant / np.linalg.norm(constant)
    mirror = (1.0 if direction[0] >= 0 else -1.0) * direction + np.eye(n)[0]
    turn = np.eye(n) - 2 * np.outer(mirror, mirror) / (mirror @ mirror)
    turn[:, 0] = constant
    return turn


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


def _crispest(points: np.ndarray, A: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Feasible coefficients that maximise the crispness sum_i <chi_i, chi_i> / <chi_i, 1> of the memberships."""
    n = len(A)

    def objective(free: np.ndarray) -> float:
        chi = points @ _feasible(free.reshape(n - 1, n - 1), points)
        counted = chi if weights is None else weights[:, None] * chi
        return -float(np.sum((counted * chi).sum(axis=0) / counted.sum(axis=0)))

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


@checked
def memberships(functions: Any, coefficients: AnyNumbers) -> np.ndarray:
    """Memberships of frames in states, (n_frames, n_states): at least 0, and 1 in sum.

    Frames outside the simplex of `membership_coefficients`, in the training data or not, are moved to its border.

    Parameters
    ----------
    functions : array (n_frames, n_states)
        Slow functions at the frames, the constant first.
    coefficients : array (n_states, n_states)
        Of `membership_coefficients`.

    Raises
    ------
    ValueError
        For functions or coefficients that are not finite, with the number of the row, or do not fit together.

    Examples
    --------
    >>> memberships(np.array([[1.0, 2.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.5, -0.5]]))
    array([[1. , 0. ], [0.5, 0.5]])
    """
    values = number_array("functions", functions)
    if coefficients.ndim != 2 or values.ndim != 2 or values.shape[1] < len(coefficients):
        raise ValueError(
            f"functions must be (n_frames, n_functions), with at least one function per row of the coefficients; got "
            f"{values.shape} and coefficients of shape {coefficients.shape}."
        )
    check_finite_rows("coefficients", coefficients)
    values = values[:, : len(coefficients)]
    check_finite_rows("functions", values)
    inside = np.maximum(np.real(values) @ coefficients, 0.0)
    total = inside.sum(axis=1, keepdims=True)
    n_states = inside.shape[1]
    return np.divide(inside, total, out=np.full_like(inside, 1 / n_states), where=total > 0)


@checked
def membership_map(
    f: Callable[[Tensor], Any], functions: xr.DataArray | np.ndarray, coefficients: Reals
) -> Callable[[Tensor], np.ndarray]:
    """Memberships as a feature map, states (batch, *state) -> (batch, n_states), to hand to `estimate_moments`.

    Parameters
    ----------
    f : feature map, such as a model's `f`
    functions : (n_features, n_modes), such as `phi_coefficients` of a spectrum: slow functions are f(x) @ functions
    coefficients : of `membership_coefficients`

    Examples
    --------
    >>> chi = membership_map(lambda x: x, np.eye(2), np.array([[0.5, 0.5], [0.5, -0.5]]))
    >>> chi(torch.tensor([[1.0, 0.5]]))
    array([[0.75, 0.25]])
    """
    table = xr.DataArray(functions)

    def chi(x: Tensor) -> np.ndarray:
        with torch.no_grad():
            features = f(x)
        values = features.cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
        check_finite_rows("features f(x)", values)
        return memberships(evaluate_functions(values, table), coefficients)

    return chi


@checked
def coherent_memberships(
    phi: np.ndarray, psi: np.ndarray, n_states: int, *, optimise: bool = True
) -> tuple[np.ndarray, np.ndarray]:
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
    if phi.ndim != 2 or psi.ndim != 2 or 0 in (len(phi), len(psi)) or phi.shape[1] != psi.shape[1]:
        raise ValueError(
            f"phi and psi must be (n_frames, n_functions), one number of functions; got {phi.shape}, {psi.shape}."
        )
    both = np.concatenate([phi, psi])
    A = membership_coefficients(both, n_states, optimise=optimise)
    return memberships(phi, A), memberships(psi, A)
