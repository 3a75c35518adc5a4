"""Block-bootstrap intervals from moments, without further forward passes: the only home of resampling and its rules.

Two rules turn resampled values into an interval. `t_interval` is for values that spread about their estimate on both
sides: singular values, eigenvalues, timescales; it corrects for the small number of blocks and allows for bias.
`percentile_interval` is for the rest: values that may be infinite, that lie at the end of what is possible, or of which
there are too many to look at one by one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.stats
import xarray as xr

from koopman_lora._labels import MODE, provenance
from koopman_lora._linalg import eigenvalue_order, hermitian_pinv, whitened_svd
from koopman_lora.moments import Moments
from koopman_lora.spectrum import implied_frequencies, implied_timescales, rank_operator

Scale = Callable[[np.ndarray], np.ndarray]

# What `benchmarks/trust.py` measures of 95 % intervals; it travels with them.
_COVERAGE = (
    "conditional on the features: of 95 % intervals 88 to 97 % covered the exact singular value and 86 to 98 % the "
    "eigenvalue, but 30 to 50 % the eigenvalues of a strongly non-normal system, learned anew each time"
)
# Distance from 1 below which a value is the constant mode's, whose interval is a point.
_EXACT_ONE = 1e-9


# --------------------------------------------------------------------------------------------------------- resampling


def block_weights(n_blocks: int, n_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each block is drawn, (n_resamples, n_blocks): blocks with replacement.

    Raises
    ------
    ValueError
        For fewer than 2 blocks, or no resamples.

    Examples
    --------
    >>> block_weights(5, 2).sum(axis=1)
    array([5, 5])
    """
    if n_blocks < 2:
        raise ValueError(f"moments need at least 2 blocks for a bootstrap; got {n_blocks}. Estimate with n_blocks=64.")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1; got {n_resamples}.")
    return np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=n_resamples)


def resampled_moments(moments: Moments, n_resamples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Moments of the data as they are, then of every resample: name -> array (1 + n_resamples, k, k).

    Examples
    --------
    >>> import torch
    >>> from koopman_lora.moments import estimate_moments
    >>> m = estimate_moments(lambda s: s, lambda s: s, (torch.randn(99, 2), torch.randn(99, 2)))
    >>> resampled_moments(m, 10)["M_f"].shape
    (11, 2, 2)
    """
    drawn = block_weights(moments.n_blocks, n_resamples, seed)
    return moments.reweighted(np.concatenate([np.ones((1, moments.n_blocks)), drawn]))


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


# ---------------------------------------------------------------------------------------------------------- two rules


def percentile_interval(samples: np.ndarray, level: float) -> np.ndarray:
    """Lower and upper percentile over the first axis, (2, ...); of real and imaginary parts where complex.

    For what no t interval fits: probabilities, which pile up at 0 and 1; passage times, which may be infinite; ratios;
    and forecasts, too many to have their bias looked at. Bounds are values that were drawn: interpolating towards inf
    would give NaN.

    Raises
    ------
    ValueError
        For a level outside (0, 1).

    Examples
    --------
    >>> percentile_interval(np.arange(101.0), 0.9)
    array([ 5., 95.])
    >>> percentile_interval(np.array([1.0, 2.0, np.inf]), 0.9)
    array([ 1., inf])
    """
    _check_level(level)
    if np.iscomplexobj(samples):
        return percentile_interval(samples.real, level) + 1j * percentile_interval(samples.imag, level)
    return np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0, method="nearest")


def t_factor(level: float, n_blocks: int) -> float:
    """How many bootstrap standard deviations a `t_interval` reaches to either side.

    Blocks are few: their spread is estimated with n_blocks - 1 degrees of freedom.

    Raises
    ------
    ValueError
        For a level outside (0, 1), or fewer than 8 blocks.

    Examples
    --------
    >>> round(t_factor(0.95, 64), 3), round(t_factor(0.95, 8), 3)
    (2.014, 2.528)
    """
    _check_level(level)
    if n_blocks < 8:
        raise ValueError(
            f"moments must be kept in at least 8 blocks to resample; got {n_blocks}. Use estimate_moments(n_blocks=64)."
        )
    return float(scipy.stats.t.ppf((1 + level) / 2, n_blocks - 1) * np.sqrt(n_blocks / (n_blocks - 1)))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; got {level}.")


def t_interval(
    estimate: np.ndarray,
    drawn: np.ndarray,
    factor: float,
    forward: Scale = np.positive,
    backward: Scale = np.positive,
) -> np.ndarray:
    """Bootstrap-t interval on a transformed scale, (n_modes, 2), widened to the side that the bias points away from.

    Resampled values overstate the bias where singular values nearly coincide, and understate it where they are equal:
    so the bias widens the interval instead of moving it.

    Parameters
    ----------
    estimate, drawn : arrays (n_modes,) and (n_resamples, n_modes)
    factor : of `t_factor`
    forward, backward : to the scale on which the interval is symmetric, and back

    Examples
    --------
    >>> t_interval(np.array([3.0]), np.array([[2.0], [4.0]]), factor=2.0)
    array([[1., 5.]])
    """
    z, z_drawn = forward(estimate), forward(drawn)
    bias = z_drawn.mean(axis=0) - z
    half_width = factor * z_drawn.std(axis=0)
    bounds = z - np.maximum(bias, 0) - half_width, z - np.minimum(bias, 0) + half_width
    return backward(np.stack(bounds, axis=-1))


def _positive_interval(
    estimate: np.ndarray, drawn: np.ndarray, factor: float, forward: Scale = np.positive, backward: Scale = np.positive
) -> np.ndarray:
    """`t_interval` of values that cannot be negative; those that are exactly 1, the constant mode's, keep a point."""
    result = np.stack([estimate, estimate], axis=-1)
    moving = np.abs(estimate - 1) > _EXACT_ONE
    result[moving] = t_interval(estimate[moving], drawn[:, moving], factor, forward, backward)
    return np.maximum(result, 0.0)


def _fisher(correlation: np.ndarray) -> np.ndarray:
    """Fisher's scale, on which the spread of a correlation depends on its size least; finite at 1."""
    return np.arctanh(np.minimum(correlation, 1 - 1e-15))


def eigenvalue_intervals(
    estimate: np.ndarray, drawn: np.ndarray, factor: float, lag_time: float
) -> dict[str, np.ndarray]:
    """Intervals (n_modes, 2) of `eigenvalue_modulus`, `_real`, `_imag`, `timescales` and `frequencies`.

    Parameters
    ----------
    estimate, drawn : eigenvalues (n_modes,) and of resamples (n_resamples, at least n_modes), in any order
    factor : of `t_factor`
    lag_time : lag in physical time

    Examples
    --------
    >>> drawn = np.array([[0.5, 1.0], [1.0, 0.7]])
    >>> eigenvalue_intervals(np.array([1.0, 0.6]), drawn, factor=2.0, lag_time=1.0)["eigenvalue_real"].round(3)
    array([[1. , 1. ], [0.4, 0.8]])
    """
    matched = match_eigenvalues(estimate, drawn)
    modulus = _positive_interval(np.abs(estimate), np.abs(matched), factor)
    # turned by the estimate's phase first, so that no resample jumps from one end of the branch to the other
    turns = implied_frequencies(matched * np.conj(estimate), lag_time)
    frequencies = implied_frequencies(estimate, lag_time)
    return {
        "eigenvalue_modulus": modulus,
        "eigenvalue_real": t_interval(estimate.real, matched.real, factor),
        "eigenvalue_imag": t_interval(estimate.imag, matched.imag, factor),
        # where the interval of |lambda| reaches 1 the timescale has no upper bound
        "timescales": implied_timescales(np.minimum(modulus, 1.0), lag_time),
        "frequencies": t_interval(frequencies, frequencies + turns, factor),
    }


# ---------------------------------------------------------------------------------------------------- of the spectrum


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
    """Intervals of canonical and K_matrix singular values, eigenvalues, timescales and frequencies.

    Blocks of the data are drawn with replacement. An interval reaches from the estimate as many standard deviations of
    the resampled values as Student's t asks for, on the scale of artanh(sigma) for canonical values; the bias of the
    resampled values widens it on one side. It is conditional on the learned features.

    Parameters
    ----------
    moments : Moments
        With at least 8 blocks, each longer than the memory of the process; of unscaled features.
    svals : array of shape (k,), optional
        Learned singular values that scale the features for K_matrix.
    lag, dt, time_unit : for timescales and frequencies
    level : coverage aimed at
    n_resamples, seed : of the bootstrap

    Returns
    -------
    Dataset
        With `canonical_singular_values`, `singular_values` (of K_matrix), `eigenvalue_modulus`, `eigenvalue_real`,
        `eigenvalue_imag`, `timescales`, `frequencies` over (mode, bound), and `canonical_standard_error`.

    Raises
    ------
    ValueError
        For fewer than 8 blocks, no resamples, or a level outside (0, 1).

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
    factor = t_factor(level, moments.n_blocks)
    stack = resampled_moments(moments, n_resamples, seed)
    left, canonical, right = whitened_svd(stack["M_f"], stack["T_fg"], stack["M_g"])
    K_values = _K_matrix_values(stack["M_f"], stack["T_fg"], svals)
    variables = {
        "canonical_singular_values": _positive_interval(canonical[0], canonical[1:], factor, _fisher, np.tanh),
        "singular_values": _positive_interval(K_values[0], K_values[1:], factor),
    }
    if "C_gf" in stack:
        values = np.linalg.eigvals(rank_operator(stack["C_gf"], left, canonical, right))
        ordered = values[0][eigenvalue_order(values[0])]
        variables |= eigenvalue_intervals(ordered, values[1:], factor, lag * dt)
    units = {"timescales": {"units": time_unit}, "frequencies": {"units": f"1/{time_unit}"}}
    data = {name: ((MODE, "bound"), values, units.get(name, {})) for name, values in variables.items()}
    data["canonical_standard_error"] = ((MODE,), canonical[1:].std(axis=0))
    attrs = provenance(
        level=level,
        n_resamples=n_resamples,
        seed=seed,
        n_blocks=moments.n_blocks,
        lag=lag,
        dt=dt,
        time_unit=time_unit,
        note=_COVERAGE,
    )
    coords = {MODE: np.arange(1, canonical.shape[1] + 1), "bound": ["lower", "upper"]}
    return xr.Dataset(data, coords=coords, attrs=attrs)


def _K_matrix_values(M_f: np.ndarray, T_fg: np.ndarray, svals: np.ndarray | None) -> np.ndarray:
    """Singular values of `pinv(M_f) T_fg` of features scaled by sqrt(svals), (n_resamples, k)."""
    root = np.sqrt(np.ones(M_f.shape[-1]) if svals is None else np.asarray(svals))
    scale = root[:, None] * root
    return np.linalg.svd(hermitian_pinv(M_f * scale) @ (T_fg * scale), compute_uv=False)
