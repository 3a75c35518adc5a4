"""Agreement between subspaces: of fits with one another, and of a fit with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from koopman_lora._labels import DIRECTION, FIT, OTHER_FIT, labelled, provenance
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.systems import ReferenceSpectrum


def compare_subspaces(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> xr.Dataset:
    """Principal angles between the spans of two sets of functions given at the same points.

    Parameters
    ----------
    a, b : arrays of shape (n_points, k_a) and (n_points, k_b)
        Say, singular functions of two fits with different seeds, or of a fit and a reference.
    weights : array of shape (n_points,), optional
        Quadrature weights; equal by default.

    Returns
    -------
    Dataset
        `cosine` and `angle` (in degrees) per principal direction, worst last; attribute `agreement`, the mean squared
        cosine: 1 for equal spans.

    Raises
    ------
    ValueError
        If the points differ in number.

    Examples
    --------
    >>> x = np.linspace(0, 1, 50)[:, None]
    >>> compare_subspaces(np.hstack([x**0, x]), np.hstack([x**0 + x, x])).attrs["agreement"].__round__(6)
    1.0
    """
    if len(a) != len(b):
        raise ValueError(f"a and b must be given at the same points; got {len(a)} and {len(b)}.")
    root = np.sqrt(np.ones(len(a)) if weights is None else np.asarray(weights))[:, None]
    Q_a, Q_b = (np.linalg.qr(root * values)[0] for values in (a, b))
    cosine = np.clip(np.linalg.svd(conjugate_transpose(Q_a) @ Q_b, compute_uv=False), 0, 1)
    angle = np.degrees(np.arccos(cosine))
    return labelled(
        {"cosine": (DIRECTION, cosine), "angle": (DIRECTION, angle, {"units": "degree"})},
        provenance(agreement=float(np.mean(cosine**2))),
    )


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
    values = [[compare_subspaces(a, b).attrs["agreement"] for b in functions] for a in functions]
    return labelled({"agreement": ((FIT, OTHER_FIT), np.array(values))}, provenance(n_fits=len(functions)))


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
        If f and g are not given at `reference.points`.

    Examples
    --------
    >>> reference = NoisyRotation().spectrum(lag=1, n_modes=9)
    >>> phi, psi = reference.left(reference.points), reference.right(reference.points)
    >>> round(captured_share(phi[:, :5], psi[:, :5], reference), 6)
    1.0
    """
    n_points = len(reference.points)
    if len(f) != n_points or len(g) != n_points:
        raise ValueError(f"f and g must be given at the {n_points} reference.points; got {len(f)} and {len(g)} rows.")
    root = np.sqrt(reference.weights)[:, None]
    Q_f, Q_g = (np.linalg.qr(root * features)[0] for features in (f, g))
    left, right = root * reference.left(reference.points), root * reference.right(reference.points)
    between = (np.conj(Q_f.T) @ left * reference.singular_values) @ (np.conj(right.T) @ Q_g)
    n_modes = f.shape[1] if n_modes is None else n_modes
    return float(np.sum(np.abs(between) ** 2) / np.sum(reference.singular_values[:n_modes] ** 2))
