"""The checklist of a decomposition: six points, each with its number, the largest allowed, and what to do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from koopman_lora._labels import check_result
from koopman_lora.checks import checked

# Round-off of products, Gram matrices and phases, relative to the largest singular value, in single and double
# precision.
ROUND_OFF = {"float32": 1e-5, "float64": 1e-10}
# Relative error of singular values, and of the reconstruction beyond the smallest possible.
ALLOWED_ERROR = 1e-2
# What a reconstruction error of an exactly represented matrix may be: the formula from norms resolves no less.
SMALLEST_RECONSTRUCTION = 1e-6


class Check(NamedTuple):
    """A point of the checklist.

    passed : None where the number is not known
    remedy : what to do where it failed
    """

    name: str
    value: float
    limit: float
    passed: bool | None
    remedy: str


class Checklist(tuple[Check, ...]):
    """The six points; `str` gives them as a table, with the remedies of those that failed below it.

    Examples
    --------
    >>> print(Checklist([Check("phases", 0.0, 1e-10, True, ""), Check("core", 0.5, 1e-10, False, "rotate U and V")]))
    check     value  at most
    phases        0    1e-10 passed
    core        0.5    1e-10 failed
    core: rotate U and V.
    """

    @property
    def passed(self) -> bool:
        """Whether no point failed."""
        return all(check.passed is not False for check in self)

    def __str__(self) -> str:
        width = max(len("check"), *(len(check.name) for check in self))
        lines = [f"{'check':{width}s} {'value':>8s} {'at most':>8s}"]
        for check in self:
            verdict = {True: "passed", False: "failed", None: "unknown"}[check.passed]
            lines.append(f"{check.name:{width}s} {_short(check.value):>8s} {_short(check.limit):>8s} {verdict}")
        return "\n".join([*lines, *(f"{check.name}: {check.remedy}." for check in self if check.passed is False)])


def _short(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3g}"


# Point, variable, what to do: those that only round-off may keep from 0.
_EXACT_POINTS = (
    (
        "1 inner products are conjugated",
        "error_adjoint",
        "rmatvec of the operator is not the conjugate transpose of matvec, or products are of single precision",
    ),
    (
        "2 U and V are orthonormal",
        "error_orthogonality",
        "give the matrix in double precision, or set orthogonality='qr'",
    ),
    ("3 U^H H V is diagonal", "error_core", "U and V are off by a rotation: fit again rather than changing them"),
    ("5 phases make Sigma real, positive", "error_phase", "turn u and v together, see fix_phases"),
)


@checked
def matrix_checklist(result: xr.Dataset) -> Checklist:
    """Six points that a decomposition of a given matrix must pass, with their numbers.

    Inner products, Gram matrices and phases are right to round-off or not at all; singular values, by their estimated
    errors, and the reconstruction, against the smallest error of that rank, to a hundredth.

    Parameters
    ----------
    result : the Dataset of `NeuralSVD.to_dataset`, also one that was trimmed or opened from a file

    Examples
    --------
    >>> H = np.diag([4.0, 3.0, 0.1])
    >>> matrix_checklist(kl.NeuralSVD(n_modes=2).fit(H).to_dataset()).passed
    True
    """
    variables = (
        "singular_values",
        "error_orthogonality_u",
        "error_orthogonality_v",
        "error_adjoint",
        "error_core",
        "error_phase",
        "error_reconstruction",
        "error_singular_values",
        "error_eckart_young",
        "singular_values_error",
    )
    check_result("result", result, "NeuralSVD.to_dataset", "mode", *variables, attrs=["matrix_norm"])
    dtype = str(result["singular_values"].dtype)
    if dtype not in ROUND_OFF:
        raise ValueError(f"result must hold singular values in single or double precision; got {dtype}.")
    errors = {str(name): float(result[name]) for name in result if str(name).startswith("error_")}
    errors["error_orthogonality"] = max(errors["error_orthogonality_u"], errors["error_orthogonality_v"])
    limit = ROUND_OFF[dtype]
    points = [_check(name, errors[variable], limit, remedy) for name, variable, remedy in _EXACT_POINTS]
    points.append(
        _check(
            "4 Sigma is right (estimated)",
            errors["error_singular_values"],
            ALLOWED_ERROR,
            "set polish_steps, or raise max_steps, oversampling or sample",
        )
    )
    floor = _smallest_reconstruction(result)
    points.append(
        _check(
            "6 ||H - U S V^H|| is the smallest",
            errors["error_reconstruction"],
            (1 + ALLOWED_ERROR) * floor + SMALLEST_RECONSTRUCTION,
            "set polish_steps, or raise max_steps, oversampling or sample",
        )
    )
    return Checklist(sorted(points))


def _check(name: str, value: float, limit: float, remedy: str) -> Check:
    passed = None if np.isnan(value) or np.isnan(limit) else value <= limit
    return Check(name, value, limit, passed, remedy)


def _smallest_reconstruction(result: xr.Dataset) -> float:
    """Eckart and Young's, relative; where that is unknown what the errors of sigma leave of the error found."""
    known = float(result["error_eckart_young"])
    norm = float(result.attrs["matrix_norm"])
    if not np.isnan(known) or norm == 0:
        return known
    values, errors = result["singular_values"].values / norm, result["singular_values_error"].values / norm
    left_out = float(result["error_reconstruction"]) ** 2 - np.sum((values + errors) ** 2 - values**2)
    return float(np.sqrt(np.maximum(left_out, 0.0)))
