"""Some of the functions of a fit as real numbers: which, under which names, and with which coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from koopman_lora._labels import MODE
from koopman_lora.checks import checked
from koopman_lora.fitted_functions import FittedFunctions

# By what is asked for: the name of a function, its coefficients in a spectrum, and whether it is of f or of g.
_KINDS = {
    "left": ("phi", "phi_coefficients", "left"),
    "right": ("psi", "psi_coefficients", "right"),
    "eigen": ("eigenfunction", "right_eigenfunction_coefficients", "left"),
}


class ChosenModes(NamedTuple):
    """Functions of some modes as real ones; a complex one is its real part and, behind it, its imaginary part.

    Attributes
    ----------
    side : 'left' for functions of f, 'right' for those of g
    modes : number of the mode of each function, from 1
    names : of the functions, such as 'phi_2' or 'eigenfunction_3_imaginary'
    coefficients : real matrix (n_features, n_functions) on the features; on real and imaginary part of each in turn
        (2 n_features, n_functions) where features are complex
    """

    side: str
    modes: tuple[int, ...]
    names: tuple[str, ...]
    coefficients: np.ndarray

    def values(self, features: np.ndarray) -> np.ndarray:
        """Values (n, n_functions) at features (n, n_features)."""
        if np.iscomplexobj(features):
            features = np.stack([features.real, features.imag], axis=-1).reshape(len(features), -1)
        return features @ self.coefficients


@checked(but=("analysis",))
def choose_modes(
    analysis: FittedFunctions, modes: int | Sequence[int] | None = None, functions: str = "left"
) -> ChosenModes:
    """Some modes of a fit, the constant one never among them.

    Parameters
    ----------
    analysis : KoopmanAnalysis
    modes : numbers of modes, counted from 1; by default all but the constant one
    functions : 'left' or 'right' singular functions, or 'eigen' for eigenfunctions

    Raises
    ------
    ValueError
        For other functions, modes that are not there, the constant mode, a mode named twice, or none.
    TypeError
        For an estimator in place of its analysis.
    """
    if not isinstance(analysis, FittedFunctions):
        found = type(analysis).__name__
        raise TypeError(f"analysis must be a KoopmanAnalysis, such as estimator.analysis_; got {found}.")
    if functions not in _KINDS:
        raise ValueError(f"functions must be one of {', '.join(map(repr, _KINDS))}; got {functions!r}.")
    name, variable, side = _KINDS[functions]
    model = analysis.model
    first = 1 + int(model.has_centering)
    chosen = _as_numbers(modes, first, model.n_modes)
    coefficients = analysis.spectrum[variable].transpose(..., MODE).values[:, [mode - 1 for mode in chosen]]
    is_complex = analysis.moments.M_f.dtype.kind == "c"
    found = [
        (mode, part, column)
        for mode, one in zip(chosen, coefficients.T, strict=True)
        for part, column in _real_parts(one, is_complex)
    ]
    return ChosenModes(
        side=side,
        modes=tuple(mode for mode, _, _ in found),
        names=tuple(f"{name}_{mode}{part}" for mode, part, _ in found),
        coefficients=np.stack([column for _, _, column in found], axis=1),
    )


def _as_numbers(modes: int | Sequence[int] | None, first: int, n_modes: int) -> list[int]:
    chosen = range(first, n_modes + 1) if modes is None else [modes] if isinstance(modes, int) else modes
    if first == 2 and 1 in chosen:
        raise ValueError(
            f"modes must lie between 2 and {n_modes}; got 1, which is the constant function of every state."
        )
    if not chosen or len(set(chosen)) < len(chosen) or not all(first <= mode <= n_modes for mode in chosen):
        raise ValueError(f"modes must be different numbers between {first} and {n_modes}; got {modes}.")
    return list(chosen)


def _real_parts(column: np.ndarray, is_complex: bool) -> list[tuple[str, np.ndarray]]:
    """Names and coefficients (k,) of the parts of a function of real features; (2 k,) where features are complex.

    Examples
    --------
    >>> _real_parts(np.array([1.0, 2.0 + 0j]), is_complex=False)
    [('', array([1., 2.]))]
    >>> _real_parts(np.array([1.0, 2.0j]), is_complex=True)
    [('_real', array([ 1., -0.,  0., -2.])), ('_imaginary', array([0., 1., 2., 0.]))]
    """
    real, imaginary = np.real(column), np.imag(column)
    if is_complex:  # (a + ib)(c + id) = (ac - bd) + i(ad + bc)
        parts = np.stack([real, -imaginary], axis=1).ravel(), np.stack([imaginary, real], axis=1).ravel()
    else:
        parts = real, imaginary
        if not imaginary.any():
            return [("", real)]
    return list(zip(("_real", "_imaginary"), parts, strict=True))
