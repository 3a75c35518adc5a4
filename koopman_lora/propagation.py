"""From moments to the matrices that carry features forward in time; the same process backward, or in equilibrium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from koopman_lora._linalg import RANK_TOLERANCE, conjugate_transpose, inverse_root, whitened_svd
from koopman_lora.moments import Moments

OBSERVABLE = "observable"
METHODS = ("operator", "edmd")

Arrays = Mapping[str, np.ndarray]


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
    moments: Moments | Arrays, method: str = "operator", n_modes: int | None = None, threshold: float = RANK_TOLERANCE
) -> Propagator:
    """Matrices that carry the features of one state to expectations any number of lags later.

    Parameters
    ----------
    moments : Moments, or a mapping of names to stacks (n_resamples, k, k) as `Moments.reweighted` gives
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
    MATH.md, section 7.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x, 0.5 * x), observables=lambda s: 3 * s)
    >>> step = propagator(m)
    >>> (step.start @ step.K @ step.readout).round(6)                      # E[3 x_2 | x_0 = 1]
    array([[0.75]])
    """
    check_method(method, METHODS)
    if method == "operator":
        return _rank_propagator(moments, n_modes, threshold)
    if n_modes is not None:
        raise ValueError(f"n_modes={n_modes} is the rank of method 'operator'; method 'edmd' uses all features.")
    W = inverse_root(get_moment(moments, "M_f"), threshold).matrix
    K = conjugate_transpose(W) @ get_moment(moments, "T_ff") @ W
    readout = K @ conjugate_transpose(W) @ get_moment(moments, "H_f") if holds(moments, "H_f") else None
    return Propagator(W, K, readout, W)


def _rank_propagator(moments: Moments | Arrays, n_modes: int | None, threshold: float) -> Propagator:
    M_f, T_fg, M_g = (get_moment(moments, name) for name in ("M_f", "T_fg", "M_g"))
    most = min(T_fg.shape[-2:])
    if n_modes is not None and not 1 <= n_modes <= most:
        raise ValueError(f"n_modes must lie between 1 and the {most} features; got {n_modes}.")
    left, sigma, right = whitened_svd(M_f, T_fg, M_g, threshold, n_modes)
    back = right * sigma[..., None, :]
    K = conjugate_transpose(back) @ get_moment(moments, "C_gf") @ left
    readout = conjugate_transpose(back) @ get_moment(moments, "H_g") if holds(moments, "H_g") else None
    return Propagator(left, K, readout, back)


def check_method(method: str, known: Sequence[str]) -> None:
    """Raise a ValueError that lists the `known` methods if `method` is none of them."""
    if method not in known:
        raise ValueError(f"method must be one of {', '.join(map(repr, known))}; got {method!r}.")


def holds(moments: Moments | Arrays, name: str) -> bool:
    """Whether the moments, or stacks of them, hold the one of this name."""
    return name in (moments.names if isinstance(moments, Moments) else moments)


def get_moment(moments: Moments | Arrays, name: str) -> np.ndarray:
    """The moment of this name, or a ValueError that says how to estimate it."""
    if not holds(moments, name):
        raise ValueError(
            f"moments lack {name}; estimate them with same_map=True, and with observables=h for forecasts of h."
        )
    return getattr(moments, name) if isinstance(moments, Moments) else moments[name]


def observable_labels(names: Sequence[str] | None, n_observables: int) -> list[Any]:
    """Labels of the observables: the given names, or numbers.

    Examples
    --------
    >>> observable_labels(None, 2), observable_labels(["x", "y"], 2)
    ([0, 1], ['x', 'y'])
    """
    if names is not None and len(names) != n_observables:
        raise ValueError(f"observable_names must name {n_observables} observables; got {len(names)}: {list(names)}.")
    return list(range(n_observables)) if names is None else list(names)


# ---------------------------------------------------------------------------------------------- pure maps of Moments


def time_reversed(moments: Moments) -> Moments:
    """Moments of the process run backward: (f, x) and (g, x') change places.

    What is computed from them is about the adjoint, `(K* h)(x') = E[h(x) | x']`.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> m = estimate_moments(lambda s: s, lambda s: s**2, (x, 2 * x))
    >>> bool(time_reversed(m).M_f == m.M_g), bool(time_reversed(time_reversed(m)).T_fg == m.T_fg)
    (True, True)
    """
    swapped = (("M_f", "M_g"), ("M_f1", "M_g0"), ("C_gf", "C_fg"), ("H_f", "H_g"))
    transposed = (("T_ff", "T_gg"), ("T_fg", "T_fg"))
    sums = {}
    for a, b in swapped:
        sums |= {new: moments.block_sums[old] for new, old in ((a, b), (b, a)) if holds(moments, old)}
    for a, b in transposed:
        pairs = ((a, b), (b, a))
        sums |= {new: conjugate_transpose(moments.block_sums[old]) for new, old in pairs if holds(moments, old)}
    if not sums:
        raise ValueError(f"moments hold nothing to reverse, only {', '.join(moments.names)}.")
    return Moments(sums, moments.block_counts)


def symmetrised(moments: Moments) -> Moments:
    """Moments of f on both sides, averaged over a process and its reversal: for data known to be in equilibrium.

    `M = (M_f + M_f1) / 2` and `T = (T_ff + T_ff^H) / 2`, so that eigenvalues are real and at most 1 in modulus.

    Parameters
    ----------
    moments : with T_ff and M_f1; the features g play no role

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> m = symmetrised(estimate_moments(lambda s: s, lambda s: s, (torch.randn(99, 2), torch.randn(99, 2))))
    >>> bool(np.allclose(m.T_ff, m.T_ff.T)), bool(np.all(m.M_f == m.M_g))
    (True, True)
    """
    for name in ("M_f", "M_f1", "T_ff"):
        get_moment(moments, name)
    sums = moments.block_sums
    M = (sums["M_f"] + sums["M_f1"]) / 2
    T = (sums["T_ff"] + conjugate_transpose(sums["T_ff"])) / 2
    result = dict.fromkeys(("M_f", "M_g", "M_f1", "M_g0", "C_gf", "C_fg"), M)
    result |= dict.fromkeys(("T_fg", "T_ff", "T_gg"), T)
    if "H_f" in sums:  # E[f(x')^H h(x')] is not among the moments; in equilibrium it is the same
        result |= {"H_f": sums["H_f"], "H_g": sums["H_f"]}
    return Moments(result | {n: sums[n] for n in ("phase_f", "M_h") if n in sums}, moments.block_counts)


def of_g_only(moments: Moments) -> Moments:
    """Moments of g in the place of f: M_f, T_ff and M_f1, which is all that EDMD needs.

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.tensor([[1.0], [2.0]])
    >>> of_g_only(estimate_moments(lambda s: s, lambda s: 2 * s, (x, x))).M_f
    array([[10.]])
    """
    names = {"M_f": "M_g0", "T_ff": "T_gg", "M_f1": "M_g"}
    for old in names.values():
        get_moment(moments, old)
    return Moments({new: moments.block_sums[old] for new, old in names.items()}, moments.block_counts)
