"""How many modes the data can tell from noise, and how many matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import MODE, interval, labelled, provenance
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked
from koopman_lora.comparison import elbow
from koopman_lora.kinds import Count, Seed
from koopman_lora.scores import Validation, jackknife_error, vamp_e_curve

# Held-out pairs below which nothing can be said about modes.
FEWEST_PAIRS = 50
# Spread below which a function of unit size is a constant.
_NO_SPREAD = 1e-12


@checked
def select_n_modes(
    validation: Validation,
    energy: float = 0.9,
    level: float = 0.95,
    n_shifts: Count = 2000,
    seed: Seed = 0,
) -> xr.Dataset:
    """Number of modes by four rules, and a recommendation; the constant mode counts, so the answer is never 0.

    - energy: smallest number that reaches `energy` of `cumsum(S) / sum(S)` (the guide's definition) and of
      `cumsum(S^2) / sum(S^2)` (captured share of the operator);
    - elbow: before the largest drop;
    - held-out VAMP-E: smallest number whose score is within one standard error (jackknife over blocks, of the paired
      difference) of the best;
    - null: up to the last mode whose held-out correlation is above noise, see `noise_thresholds`.

    Recommended is the last one. The first two ask how much a mode matters, and held-out VAMP-E stops where the next
    modes gain less than its standard error, which is large for slow processes: neither asks whether a mode exists.
    Where all modes that were fitted are above noise there may be more, and attribute `is_capped` says so. Attribute
    `answer` is the recommendation in words, with its reason: "at least 8 (all that were fitted are real: fit more)".

    Parameters
    ----------
    validation : Validation
        From `refine(...).validation`: functions fitted on training pairs, at held-out pairs.
    level : of noise alone, at least this share has no mode but the constant; and coverage of the intervals
    n_shifts, seed : of the null distribution

    Returns
    -------
    Dataset
        Per mode: `sigma`, `sigma_held_out`, `noise_threshold` (NaN for the constant, which is not on trial), `energy`,
        `captured_share`, `vamp_e`, `vamp_e_gap`, `vamp_e_gap_error`; over (bound, mode), by jackknife over blocks of
        the held-out pairs: `sigma_held_out_interval`, `vamp_e_interval`, and `energy_interval` and
        `captured_share_interval` of the shares of held-out sigma, so that those of an over-fit lie outside; scalars
        `n_energy`, `n_captured_share`, `n_elbow`, `n_vamp_e`, `n_null`, `recommended`; attributes `answer`, and
        `is_capped`: all that were fitted are real, so fit more.

    Raises
    ------
    ValueError
        For fractions outside (0, 1), or fewer than 50 held-out pairs.

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=600, seed=0)
    >>> estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    >>> kl.select_n_modes(estimator.validation()).answer
    'at least 3 (all that were fitted are real: fit more)'
    """
    for name, value in (("energy", energy), ("level", level)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1; got {value}.")
    if len(validation.phi) < FEWEST_PAIRS:
        raise ValueError(f"validation holds {len(validation.phi)} held-out pairs; at least {FEWEST_PAIRS} are needed.")
    sigma = validation.sigma
    cumulative, share = np.cumsum(sigma) / sigma.sum(), np.cumsum(sigma**2) / np.sum(sigma**2)
    score, gap, gap_error = _vamp_e_gaps(validation)
    held = _correlations(validation)
    thresholds = noise_thresholds(validation, level, n_shifts, seed)
    # the constant mode is exact and is not on trial; a real mode may follow one that a few pairs do not show
    n_null = 1 + int(np.flatnonzero(np.r_[True, held[1:] > thresholds[1:]])[-1])
    n_vamp_e = int(np.argmax(gap <= gap_error)) + 1
    per_mode = {
        "sigma": sigma,
        "sigma_held_out": np.concatenate([[1.0], held[1:]]),
        "noise_threshold": thresholds,
        "energy": cumulative,
        "captured_share": share,
        "vamp_e": score,
        "vamp_e_gap": gap,
        "vamp_e_gap_error": gap_error,
    }
    numbers = {
        "n_energy": int(np.argmax(cumulative >= energy)) + 1,
        "n_captured_share": int(np.argmax(share >= energy)) + 1,
        "n_elbow": elbow(sigma),
        "n_vamp_e": n_vamp_e,
        "n_null": n_null,
        "recommended": n_null,
    }
    data: dict[str, Any] = {n: (MODE, v) for n, v in per_mode.items()} | {n: ((), v) for n, v in numbers.items()}
    for name, bounds in _held_out_intervals(validation, level).items():
        data |= interval(name, [MODE], bounds)
    attrs = provenance(
        answer=_answer(n_null, len(sigma), len(validation.phi)),
        energy_fraction=energy,
        level=level,
        n_shifts=n_shifts,
        seed=seed,
        n_pairs_held_out=len(validation.phi),
        is_capped=n_null == len(sigma),
    )
    return labelled(data, attrs)


def _answer(n_real: int, n_fitted: int, n_pairs: int) -> str:
    """Number of modes in words, and why.

    Examples
    --------
    >>> _answer(1, 6, 400)
    'none (no mode but the constant is above the noise of 400 held-out pairs)'
    >>> _answer(6, 6, 400)
    'at least 6 (all that were fitted are real: fit more)'
    >>> _answer(5, 6, 400)
    '5 (mode 6 is not above the noise of 400 held-out pairs)'
    """
    noise = f"above the noise of {n_pairs} held-out pairs"
    if n_real == n_fitted:
        why = "all that were fitted are real" if n_real > 1 else "only the constant was fitted"
        return f"at least {n_real} ({why}: fit more)"
    if n_real == 1:
        return f"none (no mode but the constant is {noise})"
    rest = f"mode {n_fitted} is" if n_real + 1 == n_fitted else f"modes {n_real + 1} to {n_fitted} are"
    return f"{n_real} ({rest} not {noise})"


def _held_out_intervals(validation: Validation, level: float) -> dict[str, np.ndarray]:
    """Intervals (2, n_modes) of what is known of the held-out pairs, by jackknife over their blocks."""
    moments = validation.moments
    if moments.n_blocks < 8:  # too few to know their spread
        unknown = np.full((2, len(validation.sigma)), np.nan)
        return dict.fromkeys(("sigma_held_out", "energy", "captured_share", "vamp_e"), unknown)
    factor = Bootstrap(level=level).t_factor(moments.n_blocks)
    held, left_out = _correlations(validation), _correlations_leaving_out(validation)
    held, left_out = (np.concatenate([np.ones_like(r[..., :1]), r[..., 1:]], axis=-1) for r in (held, left_out))

    def about(value: np.ndarray, others: np.ndarray) -> np.ndarray:
        reach = factor * jackknife_error(others)
        return np.stack([value - reach, value + reach])

    angle, others = (np.arccos(np.clip(r, -1, 1)) for r in (held, left_out))
    vamp_e, vamp_e_left_out = (vamp_e_curve(validation.sigma, m) for m in (moments, moments.leaving_out()))
    shares = {
        name: about(_shares(held, power), _shares(left_out, power)).clip(0.0, 1.0)
        for name, power in (("energy", 1), ("captured_share", 2))
    }
    sigma = np.cos(about(angle, others).clip(0.0, np.pi))[::-1]
    return shares | {"sigma_held_out": sigma, "vamp_e": about(vamp_e, vamp_e_left_out)}


def _shares(sigma: np.ndarray, power: int) -> np.ndarray:
    """Share of the sum of powers that the leading modes have, (..., n_modes); negative correlations are noise about 0.

    Examples
    --------
    >>> _shares(np.array([1.0, 0.5, -0.1]), 2)
    array([0.8, 1. , 1. ])
    """
    sums = np.cumsum(np.maximum(sigma, 0.0) ** power, axis=-1)
    return sums / sums[..., -1:]


def _correlations_leaving_out(validation: Validation) -> np.ndarray:
    """`_correlations` of the held-out pairs without each block in turn, (n_blocks, n_modes)."""
    phi, psi, counts = validation.phi, validation.psi, validation.moments.block_counts[:, None]
    of_pairs = validation.moments.block_pairs
    n_pairs = validation.moments.block_counts if of_pairs is None else of_pairs[:, 0]
    starts = np.cumsum(np.r_[0, n_pairs[:-1]]).astype(int)
    terms: tuple[np.ndarray, ...] = (phi, psi, np.abs(phi) ** 2, np.abs(psi) ** 2, np.conj(phi) * psi)
    if validation.weights is not None:
        terms = tuple(validation.weights[:, None] * values for values in terms)
    without = counts.sum() - counts
    mean_f, mean_g, M_f, M_g, T = ((v.sum(axis=0) - np.add.reduceat(v, starts)) / without for v in terms)
    norm = np.sqrt((M_f - np.abs(mean_f) ** 2) * (M_g - np.abs(mean_g) ** 2))
    T = np.real(T - np.conj(mean_f) * mean_g)
    return _per_spread(T, norm)


def _per_spread(products: np.ndarray, norm: np.ndarray | np.floating, total: float = 1.0) -> np.ndarray:
    """Sums of products with weights of sum `total`, over what functions that agree would give; 0 of constants."""
    return np.divide(products, norm, out=np.zeros_like(products), where=norm > _NO_SPREAD * total)


def _vamp_e_gaps(validation: Validation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """VAMP-E of the first n modes, its distance to the best n, and that distance's jackknife standard error."""
    total = vamp_e_curve(validation.sigma, validation.moments)
    left_out = vamp_e_curve(validation.sigma, validation.moments.leaving_out())
    best = int(np.argmax(total))
    return total, total[best] - total, jackknife_error(left_out[:, [best]] - left_out)


def _correlations(validation: Validation) -> np.ndarray:
    """Real correlation of each pair of functions after removing their means, (n_modes,)."""
    weights = np.ones(len(validation.phi)) if validation.weights is None else validation.weights
    a, b = (v - weights @ v / weights.sum() for v in (validation.phi, validation.psi))
    norm = np.sqrt((weights @ np.abs(a) ** 2) * (weights @ np.abs(b) ** 2))
    return _per_spread((weights @ (a * np.conj(b))).real, norm, weights.sum())


def _shifted_correlations(
    phi: np.ndarray, psi: np.ndarray, shifts: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Correlations of phi with psi moved on by each shift, round the end, (n_shifts, n_modes).

    The weight of a pair stays with its x.
    """
    result = np.empty((len(shifts), phi.shape[1]))
    mean_f, mean_g = (v.mean(0) if weights is None else weights @ v / weights.sum() for v in (phi, psi))
    for i, (a, b) in enumerate(zip((phi - mean_f).T, (psi - mean_g).T, strict=True)):
        left, norm = a, np.linalg.norm(a) * np.linalg.norm(b)
        if weights is not None:
            left = weights * a
            norm = np.sqrt(np.vdot(left, a).real * _spread_beside(b, weights)[shifts])
        # all shifts at once: the products of Fourier transforms
        products = _round_the_end(left, b)[shifts].real
        result[:, i] = _per_spread(products, norm, len(a) if weights is None else weights.sum())
    return result


def _round_the_end(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums of a and conj(b) moved on by every shift, round the end, (n,)."""
    if np.iscomplexobj(a) or np.iscomplexobj(b):
        return np.fft.ifft(np.fft.fft(a) * np.conj(np.fft.fft(b)))
    return np.fft.irfft(np.fft.rfft(a) * np.conj(np.fft.rfft(b)), len(a))


def _spread_beside(b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of squared deviations of b moved on by every shift beside the weights, (n,)."""
    power = _round_the_end(weights, np.abs(b) ** 2).real
    mean = np.abs(_round_the_end(weights, b)) ** 2 / weights.sum()
    return np.maximum(power - mean, 0.0)


def noise_thresholds(validation: Validation, level: float = 0.95, n_shifts: int = 2000, seed: int = 0) -> np.ndarray:
    """Held-out correlation above which a mode is no noise, (n_modes,); NaN for the constant, which is not on trial.

    x and x' are re-matched at random shifts longer than the memory, so that nothing but chance correlates them. A mode
    is above noise if it exceeds what the largest correlation among all modes reaches by chance; or what the largest one
    does when every mode is measured in its own standard deviations, which finds fast modes beside slow ones: few
    independent values of a slow function give large correlations by chance, and would hide all others.

    Each of the two is held to an eighth of `1 - level`: they are two, shifts that overlap make quantiles uncertain, and
    the held-out pairs may have chosen among functions before. Measured: see `tests/test_selection.py`, and
    `benchmarks/trust.py --only noise`.
    """
    shifts = _long_shifts(validation, n_shifts, seed)
    drawn = _shifted_correlations(validation.phi[:, 1:], validation.psi[:, 1:], shifts, validation.weights)
    if drawn.shape[1] == 0:
        return np.array([np.nan])
    deviation = np.maximum(drawn.std(axis=0), np.finfo(float).tiny)
    share = 1 - (1 - level) / 8
    largest, largest_measured = (np.quantile(values.max(axis=1), share) for values in (drawn, drawn / deviation))
    return np.r_[np.nan, np.minimum(largest, largest_measured * deviation)]


def _long_shifts(validation: Validation, n_shifts: int, seed: int) -> np.ndarray:
    """Shifts beyond which the slowest mode has decayed to a few per cent; never more than a third of the data."""
    n = len(validation.phi)
    slowest = np.clip(validation.sigma[1] if len(validation.sigma) > 1 else 0.0, 0.0, 1 - 1e-6)
    lag = validation.moments.clock.known_lag("to re-match x and x' at shifts longer than the memory")
    memory = 3 * lag / -np.log(max(slowest, 1e-6))
    least = int(min(max(memory, 10 * lag), n // 3))
    return np.random.default_rng(seed).integers(least, n - least + 1, size=n_shifts) % n
