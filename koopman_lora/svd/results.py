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
from koopman_lora.svd.orthogonality import orthogonality_error
from koopman_lora.svd.products import MatrixProducts, widen

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
    exact : LAPACK's singular values, where affordable
    errors : the entries of `NeuralSVD.errors_`
    """

    core: np.ndarray
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


def diagnose(H: MatrixProducts, found: Decomposition) -> Diagnosis:
    """All of it from the numbers that the user gets.

    Examples
    --------
    >>> from koopman_lora.svd.inputs import as_products
    >>> found = Decomposition(np.eye(2, 1), np.ones(1), np.eye(1, 2))
    >>> round(diagnose(as_products(np.eye(2)), found).errors["reconstruction"] ** 2, 6)
    0.5
    """
    core = np.conj(found.U).T @ H(torch.as_tensor(widen(conjugate_transpose(found.Vh)))).numpy()
    exact = exact_singular_values(H)
    errors = {
        "reconstruction": _reconstruction_error(H, found, core),
        "orthogonality_u": orthogonality_error(found.U),
        "orthogonality_v": orthogonality_error(conjugate_transpose(found.Vh)),
        "eckart_young": _smallest_error(H, len(found.values), exact),
        "norm_error": _relative_norm_error(H),
    }
    return Diagnosis(core, exact, errors)


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


def _smallest_error(H: MatrixProducts, n_modes: int, exact: np.ndarray | None) -> float:
    """What a matrix of that rank has to leave out, by Eckart and Young."""
    if H.norm == 0:
        return 0.0
    return float(np.linalg.norm(exact[n_modes:] / H.norm)) if exact is not None else np.nan


def label_result(
    found: Decomposition, trained: TrainedFactors, diagnosis: Diagnosis, norm: float, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """The Dataset that `NeuralSVD.to_dataset` describes; `trained` is of the matrix divided by `norm`."""
    k = len(found.values)
    variables: dict[str, Any] = {
        "U": ((ROW, MODE), found.U),
        "singular_values": (MODE, found.values),
        "Vh": ((MODE, COLUMN), found.Vh),
        "singular_values_trained": (MODE, np.abs(trained.svals_diagonal[:k].numpy()) * norm),
        "singular_values_column_norms": (MODE, trained.svals_norms[:k].numpy() * norm),
        "singular_values_ritz": (MODE, trained.ritz.values[:k].numpy() * norm),
        "residuals_ritz": (MODE, trained.ritz.residuals[:k].numpy() * norm),
        "core": ((MODE, MODE_COLUMN), np.abs(diagnosis.core)),
        "loss": (ITERATION, np.asarray(trained.losses)),
        "training_error": (ITERATION, np.asarray(trained.errors)),
    }
    if diagnosis.exact is not None:
        variables["singular_values_exact"] = (MODE, diagnosis.exact[:k])
    variables |= {f"error_{name}": ((), value) for name, value in diagnosis.errors.items()}
    return labelled(variables, attrs)


def describe_result(result: xr.Dataset) -> str:
    """Shape, leading singular values, errors and why training stopped, in four lines."""
    values, n_modes = result["singular_values"].values, result.sizes[MODE]
    listed = " ".join(f"{value:.4g}" for value in values[:N_LISTED]) + (" ..." if n_modes > N_LISTED else "")
    M, N = result.sizes[ROW], result.sizes[COLUMN]
    counts = f"{result.attrs['n_steps']} steps and {result.attrs['n_polish_steps']} polishing steps"
    return "\n".join(
        [
            f"  matrix           {M} x {N}, {result['U'].dtype}; {n_modes} of {min(M, N)} modes",
            f"  singular values  {listed}",
            f"  errors           {_describe_errors(result)}",
            f"  stopped because  {result.attrs['stop_reason']}, after {counts}",
        ]
    )


def _describe_errors(result: xr.Dataset) -> str:
    reconstruction, best, left, right = (
        float(result[f"error_{name}"])
        for name in ("reconstruction", "eckart_young", "orthogonality_u", "orthogonality_v")
    )
    optimum = "optimum not computed" if np.isnan(best) else f"optimum {best:.3g}"
    error = "not resolved" if np.isnan(reconstruction) else f"{reconstruction:.3g}"
    return f"reconstruction {error} ({optimum}), orthogonality of U {left:.1g}, of V {right:.1g}"
