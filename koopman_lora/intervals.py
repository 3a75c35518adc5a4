"""Block-bootstrap intervals of singular values, eigenvalues and timescales, from moments: no further forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
import xarray as xr

from koopman_lora._labels import MODE, provenance
from koopman_lora._linalg import conjugate_transpose, eigenvalue_order, hermitian_pinv, whitened_svd
from koopman_lora.moments import Moments
from koopman_lora.spectrum import implied_timescales

Scale = Callable[[np.ndarray], np.ndarray]

# Distance from 1 below which a value is the constant mode's, whose interval is a point.
_EXACT_ONE = 1e-9


class Resampled(NamedTuple):
    """Values over bootstrap resamples, (n_resamples, n_modes) each; eigenvalues are matched to the estimate's order."""

    canonical: np.ndarray
    K_matrix: np.ndarray
    eigenvalues: np.ndarray | None


def block_weights(n_blocks: int, n_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each block is drawn, (n_resamples, n_blocks): blocks with replacement.

    Examples
    --------
    >>> block_weights(5, 2).sum(axis=1)
    array([5, 5])
    """
    return np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_resamples)


def bootstrap_intervals(
    moments: Moments,
    svals: np.ndarray | None = None,
    *,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Intervals of canonical and K_matrix singular values, eigenvalues and timescales.

    Blocks of the data are drawn with replacement. An interval reaches from the estimate as many standard deviations of
    the resampled values as Student's t asks for, on the scale of artanh(sigma) for canonical values; the bias of the
    resampled values widens it on one side. It is conditional on the learned features.

    Parameters
    ----------
    moments : Moments
        With at least 8 blocks, each longer than the memory of the process; of unscaled features.
    svals : array of shape (k,), optional
        Learned singular values that scale the features for K_matrix.
    lag, dt, time_unit : for the timescales
    level : coverage aimed at
    n_resamples, seed : of the bootstrap

    Returns
    -------
    Dataset
        With `canonical_singular_values`, `singular_values` (of K_matrix), `eigenvalue_modulus`, `eigenvalue_real`,
        `eigenvalue_imag`, `timescales` over (mode, bound), and `canonical_standard_error`.

    Raises
    ------
    ValueError
        For fewer than 8 blocks, or a level outside (0, 1).

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)).double()
    >>> m = estimate_moments(lambda s: s, lambda s: s, (x[:-1], x[:-1] + x[1:]))      # sigma = 1 / sqrt(2)
    >>> low, high = bootstrap_intervals(m).canonical_singular_values.values[0]
    >>> bool(low < 0.7071 < high)
    True
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level}.")
    if moments.n_blocks < 8:
        raise ValueError(
            f"moments must be kept in at least 8 blocks to resample; got {moments.n_blocks}. "
            "Use estimate_moments(n_blocks=64)."
        )
    estimate = _values({n: getattr(moments, n)[None] for n in moments.names}, svals)
    drawn = _values(moments.reweighted(block_weights(moments.n_blocks, n_resamples, seed)), svals)
    canonical, K_values = estimate.canonical[0], estimate.K_matrix[0]
    precision = level, moments.n_blocks
    variables = {
        "canonical_singular_values": _positive_interval(canonical, drawn.canonical, *precision, is_canonical=True),
        "singular_values": _positive_interval(K_values, drawn.K_matrix, *precision),
    }
    errors = drawn.canonical.std(axis=0)
    if estimate.eigenvalues is not None:
        variables |= _eigenvalue_intervals(estimate.eigenvalues[0], drawn.eigenvalues, *precision, lag * dt)
    data = {name: ((MODE, "bound"), values) for name, values in variables.items()}
    data["canonical_standard_error"] = ((MODE,), errors)
    attrs = provenance(
        level=level, n_resamples=n_resamples, seed=seed, n_blocks=moments.n_blocks, lag=lag, dt=dt, time_unit=time_unit
    )
    result = xr.Dataset(data, coords={MODE: np.arange(1, len(canonical) + 1), "bound": ["lower", "upper"]}, attrs=attrs)
    if "timescales" in result:
        result["timescales"].attrs["units"] = time_unit
    return result


def _values(moments: dict[str, np.ndarray], svals: np.ndarray | None) -> Resampled:
    """All values for a batch of moments, (n_resamples, k, k) each."""
    left, sigma, right = whitened_svd(moments["M_f"], moments["T_fg"], moments["M_g"])
    root = np.sqrt(np.ones(moments["M_f"].shape[-1]) if svals is None else np.asarray(svals))
    M_f, T = moments["M_f"], moments["T_fg"]
    if svals is not None:
        M_f, T = M_f * root[:, None] * root, T * root[:, None] * root
    K_values = np.linalg.svd(hermitian_pinv(M_f) @ T, compute_uv=False)
    if "C_gf" not in moments:
        return Resampled(sigma, K_values, None)
    operator = sigma[..., :, None] * (conjugate_transpose(right) @ moments["C_gf"] @ left)
    eigenvalues = np.linalg.eigvals(operator)
    return Resampled(sigma, K_values, np.take_along_axis(eigenvalues, eigenvalue_order(eigenvalues), axis=-1))


def _interval(
    estimate: np.ndarray,
    drawn: np.ndarray,
    level: float,
    n_blocks: int,
    forward: Scale = np.positive,
    backward: Scale = np.positive,
) -> np.ndarray:
    """Bootstrap-t interval on a transformed scale, (n_modes, 2), widened to the side that the bias points away from.

    Resampled values overstate the bias where singular values nearly coincide, and understate it where they are equal:
    so the bias widens the interval instead of moving it.
    """
    z, z_drawn = forward(estimate), forward(drawn)
    bias = z_drawn.mean(axis=0) - z
    # blocks are few: their spread is estimated with n_blocks - 1 degrees of freedom
    correction = scipy.stats.t.ppf((1 + level) / 2, n_blocks - 1) * np.sqrt(n_blocks / (n_blocks - 1))
    half_width = correction * z_drawn.std(axis=0)
    bounds = z - np.maximum(bias, 0) - half_width, z - np.minimum(bias, 0) + half_width
    return backward(np.stack(bounds, axis=-1))


def _positive_interval(
    estimate: np.ndarray, drawn: np.ndarray, level: float, n_blocks: int, is_canonical: bool = False
) -> np.ndarray:
    """Interval of values that cannot be negative; those that are exactly 1, the constant mode's, keep a point."""
    result = np.stack([estimate, estimate], axis=-1)
    moving = np.abs(estimate - 1) > _EXACT_ONE
    values = estimate[moving], drawn[:, moving]
    if is_canonical:  # Fisher's scale, on which the spread of a correlation depends on its size least
        values = (np.minimum(v, 1 - 1e-15) for v in values)
        result[moving] = _interval(*values, level, n_blocks, np.arctanh, np.tanh)
    else:
        result[moving] = _interval(*values, level, n_blocks)
    return np.maximum(result, 0.0)


def _eigenvalue_intervals(
    estimate: np.ndarray, drawn: np.ndarray, level: float, n_blocks: int, lag_time: float
) -> dict[str, np.ndarray]:
    matched = match_eigenvalues(estimate, drawn)
    modulus = _positive_interval(np.abs(estimate), np.abs(matched), level, n_blocks)
    return {
        "eigenvalue_modulus": modulus,
        "eigenvalue_real": _interval(estimate.real, matched.real, level, n_blocks),
        "eigenvalue_imag": _interval(estimate.imag, matched.imag, level, n_blocks),
        # where the interval of |lambda| reaches 1 the timescale has no upper bound
        "timescales": implied_timescales(np.minimum(modulus, 1.0), lag_time),
    }


def match_eigenvalues(estimate: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Permute the eigenvalues of every resample to stand beside the nearest ones of the estimate (optimal assignment).

    Examples
    --------
    >>> match_eigenvalues(np.array([0.9, 0.1]), np.array([[0.2, 0.8]]))
    array([[0.8, 0.2]])
    """
    result = np.empty((len(drawn), len(estimate)), dtype=drawn.dtype)
    for i, values in enumerate(drawn):
        cost = np.abs(estimate[:, None] - values[None, :])
        result[i] = values[scipy.optimize.linear_sum_assignment(cost)[1]]
    return result
