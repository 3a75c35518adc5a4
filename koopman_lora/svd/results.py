"""What a decomposition is worth: its errors, with labels as a Dataset, and in a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from koopman_lora._labels import COLUMN, ITERATION, MODE, MODE_COLUMN, ROW, labelled
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.svd.factor_training import TrainedFactors
from koopman_lora.svd.objective import SMALLEST_RESOLVED
from koopman_lora.svd.orthogonality import orthogonality_error
from koopman_lora.svd.products import MatrixProducts, widen
from koopman_lora.svd.tracking import ModeMatch
from koopman_lora.svd.triples import RitzTriples, svals_from_diagonal, value_errors

# LAPACK's singular values, for the Eckart-Young optimum, are computed up to this size of the shorter side and this many
# entries: about a second.
EXACT_SIDE, EXACT_ENTRIES = 1024, 4_000_000
# Singular values in the text.
N_LISTED = 6


class Decomposition(NamedTuple):
    """`H ~ U diag(values) Vh` as the user gets it: U (M, k), values (k,), Vh (k, N), in the precision of H."""

    U: np.ndarray
    values: np.ndarray
    Vh: np.ndarray


class Diagnosis(NamedTuple):
    """Numbers that say what a decomposition is worth.

    core : `U^H H V`, (k, k): diagonal for a true singular value decomposition
    value_errors : estimated errors of the singular values, (k,)
    exact : LAPACK's singular values, where affordable
    errors : the entries of `NeuralSVD.errors_`
    """

    core: np.ndarray
    value_errors: np.ndarray
    exact: np.ndarray | None
    errors: dict[str, float]


def exact_singular_values(H: MatrixProducts) -> np.ndarray | None:
    """LAPACK's singular values where they cost about a second at most; None for larger matrices and for operators.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> exact_singular_values(as_products(np.diag([1.0, 2.0])))
    array([2., 1.])
    """
    M, N = H.shape
    if not H.has_entries or min(M, N) > EXACT_SIDE or M * N > EXACT_ENTRIES:
        return None
    dense = H.dense if H.dense is not None else H.block(np.arange(M), np.arange(N)).numpy()
    return np.linalg.svd(dense, compute_uv=False)


def diagnose(H: MatrixProducts, found: Decomposition, ritz: RitzTriples) -> Diagnosis:
    """All of it from the numbers that the user gets, and from the triples of `H.normalized()` that they came from.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> from koopman_lora.svd.triples import rayleigh_ritz
    >>> H, one = as_products(np.eye(2)), torch.eye(2, 1).double()
    >>> found = Decomposition(np.eye(2, 1), np.ones(1), np.eye(1, 2))
    >>> round(diagnose(H, found, rayleigh_ritz(H.normalized(), one, one)).errors["reconstruction"] ** 2, 6)
    0.5
    """
    n = len(found.values)
    core = np.conj(found.U).T @ H(torch.as_tensor(widen(conjugate_transpose(found.Vh)))).numpy()
    exact = exact_singular_values(H)
    errors_of_values = value_errors(ritz, min(H.shape))[:n].numpy() * H.norm
    diagonal = np.diagonal(core)
    largest = float(found.values[0]) or 1.0
    errors = {
        "reconstruction": _reconstruction_error(H, found, core),
        "orthogonality_u": orthogonality_error(found.U),
        "orthogonality_v": orthogonality_error(conjugate_transpose(found.Vh)),
        "eckart_young": smallest_error(H.norm, n, exact),
        "norm_error": _relative_norm_error(H),
        "singular_values": largest_relative_error(found.values, errors_of_values),
        "core": off_diagonal(core, found.values),
        "phase": float(np.abs(diagonal - np.abs(diagonal)).max()) / largest,
        "adjoint": _adjoint_error(ritz),
    }
    return Diagnosis(core, errors_of_values, exact, errors)


def largest_relative_error(values: np.ndarray, errors: np.ndarray) -> float:
    """Largest error of singular values relative to them; those below 1e-6 of the first count as that.

    Examples
    --------
    >>> largest_relative_error(np.array([2.0, 1.0, 0.0]), np.array([0.0, 0.1, 0.0]))
    0.1
    """
    if values[0] == 0:
        return 0.0
    return float(np.max(errors / np.maximum(values, SMALLEST_RESOLVED * values[0])))


def off_diagonal(core: np.ndarray, values: np.ndarray) -> float:
    """Largest entry of a core off its diagonal, relative to the largest singular value.

    Examples
    --------
    >>> off_diagonal(np.array([[2.0, 0.0], [0.5, 1.0]]), np.array([2.0, 1.0]))
    0.25
    """
    return float(np.abs(core - np.diag(np.diagonal(core))).max() / (float(values[0]) or 1.0))


def _adjoint_error(ritz: RitzTriples) -> float:
    """Difference of `u^H (H v)` and `(H^H u)^H v`, the two evaluations of one inner product, relative to sigma_1."""
    difference = svals_from_diagonal(ritz.U, ritz.HV) - svals_from_diagonal(ritz.V, ritz.HU).conj()
    return float(difference.abs().max() / ritz.values[0]) if ritz.values[0] > 0 else 0.0


def _relative_norm_error(H: MatrixProducts) -> float:
    return H.norm_error / H.norm if H.norm > 0 else 0.0


def _reconstruction_error(H: MatrixProducts, found: Decomposition, core: np.ndarray) -> float:
    if H.norm == 0:  # exactly represented
        return 0.0
    values = found.values.astype(np.float64) / H.norm
    if H.dense is not None:
        return float(np.linalg.norm(H.dense / H.norm - (widen(found.U) * values) @ widen(found.Vh)))
    square = 1.0 - 2.0 * float(values @ np.real(np.diagonal(core))) / H.norm + float(values @ values)
    norm_error = _relative_norm_error(H)
    is_resolved = norm_error == 0 or abs(square) >= 4 * norm_error
    return float(np.sqrt(max(square, 0.0))) if is_resolved else np.nan


def smallest_error(norm: float, n_modes: int, exact: np.ndarray | None) -> float:
    """What a matrix of that rank has to leave out, by Eckart and Young; NaN where the exact values are unknown.

    Examples
    --------
    >>> smallest_error(5.0, 1, np.array([4.0, 3.0]))
    0.6
    """
    if norm == 0:
        return 0.0
    return float(np.linalg.norm(exact[n_modes:] / norm)) if exact is not None else np.nan


def label_result(
    found: Decomposition,
    trained: TrainedFactors,
    diagnosis: Diagnosis,
    match: ModeMatch | None,
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    """The Dataset that `NeuralSVD.to_dataset` describes; `trained` is of the matrix divided by its norm."""
    k, norm = len(found.values), attrs["matrix_norm"]
    variables: dict[str, Any] = {
        "U": ((ROW, MODE), found.U),
        "singular_values": (MODE, found.values),
        "Vh": ((MODE, COLUMN), found.Vh),
        "singular_values_trained": (MODE, np.abs(trained.svals_diagonal[:k].numpy()) * norm),
        "singular_values_column_norms": (MODE, trained.svals_norms[:k].numpy() * norm),
        "singular_values_ritz": (MODE, trained.ritz.values[:k].numpy() * norm),
        "residuals_ritz": (MODE, trained.ritz.residuals[:k].numpy() * norm),
        "singular_values_error": (MODE, diagnosis.value_errors),
        "core": ((MODE, MODE_COLUMN), np.abs(diagnosis.core)),
        "loss": (ITERATION, np.asarray(trained.losses)),
        "training_error": (ITERATION, np.asarray(trained.errors)),
        "training_floor": ((), smallest_error(norm, trained.n_modes, diagnosis.exact)),
    }
    if diagnosis.exact is not None:
        variables["singular_values_exact"] = (MODE, diagnosis.exact[:k])
    if match is not None:
        variables |= {"previous_mode": (MODE, match.previous + 1), "overlap": (MODE, match.overlap)}
    variables |= {f"error_{name}": ((), value) for name, value in diagnosis.errors.items()}
    return labelled(variables, attrs)


def describe_result(result: xr.Dataset) -> str:
    """Shape, leading singular values, their accuracy, errors and why training stopped, in five lines."""
    values, n_modes = result["singular_values"].values, result.sizes[MODE]
    listed = " ".join(f"{value:.4g}" for value in values[:N_LISTED]) + (" ..." if n_modes > N_LISTED else "")
    M, N = result.sizes[ROW], result.sizes[COLUMN]
    counts = f"{result.attrs['n_steps']} steps and {result.attrs['n_polish_steps']} polishing steps"
    return "\n".join(
        [
            f"  matrix           {M} x {N}, {result['U'].dtype}; {n_modes} of {min(M, N)} modes",
            f"  singular values  {listed}",
            f"  accuracy         {_describe_accuracy(result)}",
            f"  errors           {_describe_errors(result)}",
            f"  stopped because  {result.attrs['stop_reason']}, after {counts}",
        ]
    )


def _describe_accuracy(result: xr.Dataset) -> str:
    accuracy = f"singular values to {float(result['error_singular_values']):.1g}, relative, by their residuals"
    return accuracy if result.attrs["sample"] == "None" else f"{accuracy}; approximate: trained on samples"


def _describe_errors(result: xr.Dataset) -> str:
    reconstruction, best, left, right = (
        float(result[f"error_{name}"])
        for name in ("reconstruction", "eckart_young", "orthogonality_u", "orthogonality_v")
    )
    optimum = "optimum not computed" if np.isnan(best) else f"optimum {best:.3g}"
    error = "not resolved" if np.isnan(reconstruction) else f"{reconstruction:.3g}"
    return f"reconstruction {error} ({optimum}), orthogonality of U {left:.1g}, of V {right:.1g}"
