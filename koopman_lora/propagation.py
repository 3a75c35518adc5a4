"""From moments to the matrices that carry features forward in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from koopman_lora._linalg import RANK_TOLERANCE, WhitenedSVD
from koopman_lora.moments import Moments
from koopman_lora.triples import (
    in_one_block,
    independent_basis,
    moment_whitener,
    symmetric_pairs,
    triples_of_functions,
)

METHODS = ("operator", "edmd")


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
    moments: Moments, method: str = "operator", n_modes: int | None = None, threshold: float = RANK_TOLERANCE
) -> Propagator:
    """Matrices that carry the features of one state to expectations any number of lags later.

    Parameters
    ----------
    moments : Moments, resampled or not
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
    docs/mathematics.md, section 7.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=lambda s: 3 * s)
    >>> step = propagator(m)
    >>> (step.start @ step.K @ step.readout).round(6)                      # E[3 x_2 | x_0 = 1]
    array([[0.75]])
    """
    check_method(method, METHODS)
    moments = in_one_block(moments)
    if method == "operator":
        return _rank_propagator(moments, n_modes, threshold)
    if n_modes is not None:
        raise ValueError(f"n_modes={n_modes} is the rank of method 'operator'; method 'edmd' uses all features.")
    basis = independent_basis(moments, threshold)
    functions = basis.moments(moments)
    W, K = _edmd(functions, threshold)
    readout = K @ functions.between("H_f", W) if "H_f" in moments else None
    start = basis.of_features("f", W)
    return Propagator(start, K, readout, start)


def _edmd(functions: Moments, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Whitener W of f, and E[(f W)(x)^H (f W)(x')]: of reversible moments W are eigenfunctions and it is diagonal."""
    if functions.is_reversible:
        W, values = symmetric_pairs(functions, threshold)
        return W, _diagonal(values)
    W = moment_whitener(functions, "M_f", threshold).matrix
    return W, functions.between("T_ff", W, W)


def rank_matrix(functions: Moments, triples: WhitenedSVD) -> np.ndarray:
    """Matrix `diag(sigma) E[psi(x')^H phi(x')]` (..., r, r) of the rank-r operator in the coordinates phi.

    Of reversible moments it is diagonal but for round-off, which is left out: eigenvalues are real.
    """
    left, sigma, right = triples
    K = functions.between("C_gf", right * sigma[..., None, :], left)
    return _diagonal(np.real(np.diagonal(K, axis1=-2, axis2=-1))) if functions.is_reversible else K


def _diagonal(values: np.ndarray) -> np.ndarray:
    """Diagonal matrices (..., r, r) of values (..., r)."""
    return values[..., None, :] * np.eye(values.shape[-1])


def _rank_propagator(moments: Moments, n_modes: int | None, threshold: float) -> Propagator:
    most = min(moments.T_fg.shape[-2:])
    if n_modes is not None and not 1 <= n_modes <= most:
        raise ValueError(f"n_modes must lie between 1 and the {most} features; got {n_modes}.")
    basis = independent_basis(moments, threshold)
    functions = basis.moments(moments)
    triples = triples_of_functions(functions, threshold, n_modes)
    back = triples.right * triples.values[..., None, :]
    readout = functions.between("H_g", back) if "H_g" in moments else None
    K = rank_matrix(functions, triples)
    return Propagator(basis.of_features("f", triples.left), K, readout, basis.of_features("g", back))


def check_method(method: str, known: Sequence[str]) -> None:
    """Raise a ValueError that lists the `known` methods if `method` is none of them."""
    if method not in known:
        raise ValueError(f"method must be one of {', '.join(map(repr, known))}; got {method!r}.")
