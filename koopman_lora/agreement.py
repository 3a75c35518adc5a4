"""Agreement between subspaces: of fits with one another, and of a fit with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from koopman_lora._labels import DIRECTION, FIT, OTHER_FIT, labelled, provenance
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.checks import checked
from koopman_lora.kinds import Reals, number_array
from koopman_lora.systems import ReferenceSpectrum


@checked(but=("weights",))
def compare_subspaces(a: np.ndarray, b: np.ndarray, weights: Reals | None = None) -> xr.Dataset:
    """Principal angles between the spans of two sets of functions given at the same points.

    Parameters
    ----------
    a, b : arrays of shape (n_points, k_a) and (n_points, k_b)
        Say, singular functions of two fits with different seeds, or of a fit and a reference.
    weights : array of shape (n_points,), optional
        Quadrature weights, at least 0; equal by default.

    Returns
    -------
    Dataset
        `cosine` and `angle` (in degrees) per principal direction, worst last, as many as the smaller span has
        dimensions; attributes `agreement`, the mean squared cosine: 1 for equal spans, and for one within the other;
        `rank_a`, `rank_b`, the dimensions of the spans, less than the numbers of functions where these depend on each
        other.

    Raises
    ------
    ValueError
        If the points differ in number, or functions are not finite or all 0.

    Examples
    --------
    >>> x = np.linspace(0, 1, 50)[:, None]
    >>> compare_subspaces(np.hstack([x**0, x]), np.hstack([x**0 + x, x])).attrs["agreement"].__round__(6)
    1.0
    """
    if 0 in (a.ndim, b.ndim):
        raise ValueError(f"a and b must be arrays (n_points, n_functions); got shapes {a.shape} and {b.shape}.")
    if a.shape[:1] != b.shape[:1]:
        raise ValueError(f"a and b must be given at the same points; got {len(a)} and {len(b)}.")
    root = _root_weights(weights, len(a))
    Q_a, Q_b = _span("a", a, root), _span("b", b, root)
    cosine = np.clip(np.linalg.svd(conjugate_transpose(Q_a) @ Q_b, compute_uv=False), 0, 1)
    angle = np.degrees(np.arccos(cosine))
    return labelled(
        {"cosine": (DIRECTION, cosine), "angle": (DIRECTION, angle, {"units": "degree"})},
        provenance(agreement=float(np.mean(cosine**2)), rank_a=Q_a.shape[1], rank_b=Q_b.shape[1]),
    )


def _root_weights(weights: np.ndarray | None, n_points: int) -> np.ndarray:
    """Square roots of the weights as a column, (n_points, 1)."""
    values = np.ones(n_points) if weights is None else number_array("weights", weights)
    if values.shape != (n_points,) or not np.all((values >= 0) & np.isfinite(values)):
        raise ValueError(
            f"weights must be {n_points} finite numbers of at least 0, one per point; got shape {values.shape}, "
            f"smallest {values.min(initial=np.inf):.3g}."
        )
    if n_points and not values.any():
        raise ValueError("weights must not all be 0.")
    return np.sqrt(values)[:, None]


def _span(name: str, functions: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Orthonormal basis (n_points, rank) of the span of `root * functions`, however its columns depend on each other.

    A QR decomposition would fill the places of dependent columns with directions made of round-off.
    """
    values = np.asarray(functions)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have shape (n_points, n_functions), neither of them 0; got {values.shape}.")
    precision = np.finfo(values.dtype).eps if np.issubdtype(values.dtype, np.inexact) else np.finfo(float).eps
    columns = root * values
    largest = np.abs(columns).max(axis=0)
    if not np.isfinite(largest).all():
        raise ValueError(f"{name} must be finite; function {np.flatnonzero(~np.isfinite(largest))[0]} is not.")
    # of size 1 first: what is small because of its unit is no round-off, and what is huge would overflow
    columns = columns[:, largest > 0] / largest[largest > 0]
    columns = columns / np.linalg.norm(columns, axis=0)
    if columns.shape[1] == 0:
        raise ValueError(f"{name} must span something; all its functions are 0 at all points of positive weight.")
    basis, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return basis[:, sizes > max(values.shape) * precision * sizes[0]]


@checked
def agreement_of_fits(functions: Sequence[np.ndarray]) -> xr.Dataset:
    """Pairwise agreement (mean squared cosine) of several fits, from their functions at the same points.

    Parameters
    ----------
    functions : arrays (n_points, k), one per fit

    Examples
    --------
    >>> x = np.linspace(0, 1, 20)[:, None]
    >>> agreement_of_fits([x, 2 * x]).agreement.values.round(6)
    array([[1., 1.], [1., 1.]])
    """
    if any(values.ndim != 2 for values in functions) or len({len(values) for values in functions}) != 1:
        raise ValueError(
            f"functions must be arrays (n_points, k) at the same points; got {[v.shape for v in functions]}."
        )
    values = [[compare_subspaces(a, b).attrs["agreement"] for b in functions] for a in functions]
    return labelled({"agreement": ((FIT, OTHER_FIT), np.array(values))}, provenance(n_fits=len(functions)))


@checked
def captured_share(f: np.ndarray, g: np.ndarray, reference: ReferenceSpectrum, n_modes: int | None = None) -> float:
    """Share of the true `sum sigma^2` that the learned pair of subspaces captures, by quadrature over the truth.

    `||P_f K P_g||_HS^2 / sum_{i <= n_modes} sigma_i^2`, with P_f and P_g the projections on the spans of f and g in L2
    of the stationary law: 1 at the exact singular functions, whatever linear maps are applied to f or g.

    Parameters
    ----------
    f, g : arrays of shape (n_points, k)
        Features at `reference.points`, the constant included.
    reference : ReferenceSpectrum
        With more modes than f has features, so that nothing that f and g might catch is missed.
    n_modes : int, optional
        Number of modes in the denominator, k by default.

    Raises
    ------
    ValueError
        If f and g are not given at `reference.points`, or are not finite or all 0.

    Examples
    --------
    >>> reference = NoisyRotation().spectrum(lag=1, n_modes=9)
    >>> phi, psi = reference.left(reference.points), reference.right(reference.points)
    >>> round(captured_share(phi[:, :5], psi[:, :5], reference), 6)
    1.0
    """
    n_points = len(reference.points)
    rows = [len(values) if values.ndim else 0 for values in (f, g)]
    if rows != [n_points, n_points]:
        raise ValueError(f"f and g must be given at the {n_points} reference.points; got {rows[0]} and {rows[1]} rows.")
    if n_modes is not None and n_modes < 1:
        raise ValueError(f"n_modes must be at least 1; got {n_modes}.")
    root = np.sqrt(reference.weights)[:, None]
    Q_f, Q_g = _span("f", f, root), _span("g", g, root)
    left, right = root * reference.left(reference.points), root * reference.right(reference.points)
    between = (np.conj(Q_f.T) @ left * reference.singular_values) @ (np.conj(right.T) @ Q_g)
    n_modes = f.shape[1] if n_modes is None else n_modes
    return float(np.sum(np.abs(between) ** 2) / np.sum(reference.singular_values[:n_modes] ** 2))
