"""Residuals (ResDMD) of the EDMD eigenpairs of any features, with spurious ones flagged."""

from __future__ import annotations

import numpy as np
import xarray as xr

from koopman_lora._labels import EDMD_MODE, labelled, provenance
from koopman_lora._linalg import sorted_eig
from koopman_lora.checks import checked
from koopman_lora.moments import OneEstimate
from koopman_lora.propagation import propagator
from koopman_lora.scores import check_same_features
from koopman_lora.triples import independent_basis


@checked
def eigenpair_residuals(
    moments: OneEstimate, held_out: OneEstimate | None = None, tolerance: float = 0.1
) -> xr.Dataset:
    """Residuals (ResDMD) and condition numbers of the EDMD eigenpairs of the features f; spurious ones are flagged.

    `res^2 = E|v(x') - lambda v(x)|^2 / E|v(x)|^2`. For a stochastic system it contains the conditional variance of the
    eigenfunction as well: an upper bound there. The flag therefore compares lambda with the autocorrelation of its
    eigenfunction on held-out pairs, which is lambda for a true one, deterministic or not.

    Parameters
    ----------
    moments : Moments
        With T_ff and M_f1.
    held_out : Moments, optional
        Of the same features on held-out pairs; without them only growth is flagged, |lambda| > 1 + tolerance.
    tolerance : float
        Largest accepted |lambda - autocorrelation|.

    Returns
    -------
    Dataset
        Over edmd_mode: `edmd_eigenvalues`, `residual`, `eigenvalue_condition` (in L2, 1 for normal systems),
        `autocorrelation_error`, `is_spurious`.

    References
    ----------
    docs/mathematics.md, section 6.
    Colbrook and Townsend, Rigorous data-driven computation of spectral properties (2024).

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> found = kl.eigenpair_residuals(estimate_moments(features, features, (x, 0.5 * x)))
    >>> found.edmd_eigenvalues.values.real.round(3), bool(found.residual.max() < 1e-6)
    (array([1. , 0.5]), True)
    """
    there = moments if held_out is None else held_out
    check_same_features(moments=moments, held_out=there)
    basis = independent_basis(moments)
    step = propagator(basis.moments(moments), "edmd")
    eig = sorted_eig(step.K)  # in coordinates of unit second moment, so that condition numbers are those in L2
    test = basis.moments(there)
    V = step.start @ eig.right

    def form(name: str) -> np.ndarray:
        return np.diagonal(test.between(name, V, V))

    norm, cross, after = np.real(form("M_f")), form("T_ff"), np.real(form("M_f1"))
    # linearly dependent features have eigenvectors that are no function at all
    is_function = V.any(axis=0) & (norm > 0)
    norm = np.where(is_function, norm, np.nan)
    square = after - 2 * np.real(np.conj(eig.values) * cross) + np.abs(eig.values) ** 2 * norm
    with np.errstate(invalid="ignore"):  # complex numbers divided by the unknown norm of no function
        deviation = np.abs(eig.values - cross / norm)
    is_spurious = ~is_function | (deviation > tolerance) | (np.abs(eig.values) > 1 + tolerance)
    variables = {
        "edmd_eigenvalues": (EDMD_MODE, eig.values),
        "residual": (EDMD_MODE, np.sqrt(np.maximum(square, 0) / norm)),
        "eigenvalue_condition": (EDMD_MODE, eig.condition),
        "autocorrelation_error": (EDMD_MODE, deviation),
        "is_spurious": (EDMD_MODE, is_spurious),
    }
    attrs = provenance(
        **moments.clock.attrs(),
        tolerance=tolerance,
        on_held_out_pairs=held_out is not None,
        note="for stochastic systems the residual is an upper bound: it contains the conditional variance",
    )
    return labelled(variables, attrs)
