"""Choices that data decide: the number of modes, the lag, and settings by cross-validation -> Dataset."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, clone

from koopman_lora._labels import MODE, provenance
from koopman_lora.comparison import elbow
from koopman_lora.data.pairs import block_numbers, lagged_pairs, split_groups, without_overlap
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.scores import Validation, jackknife_error, vamp_scores


def select_n_modes(
    validation: Validation,
    energy: float = 0.9,
    level: float = 0.95,
    n_shifts: int = 400,
    n_blocks: int = 32,
    seed: int = 0,
) -> xr.Dataset:
    """Number of modes by four rules, and a recommendation; the constant mode counts, so the answer is never 0.

    - energy: smallest number that reaches `energy` of `cumsum(S) / sum(S)` (the guide's definition) and of
      `cumsum(S^2) / sum(S^2)` (captured share of the operator);
    - elbow: before the largest drop;
    - held-out VAMP-E: smallest number whose score is within one standard error (jackknife over blocks, of the paired
      difference) of the best;
    - null: leading modes whose held-out correlation exceeds the `level` quantile of the largest correlation among all
      modes after re-matching x and x' at random shifts longer than the memory.

    Recommended is the smaller of the last two, which ask whether a mode exists; the first two ask how much it matters.

    Parameters
    ----------
    validation : Validation
        From `refine(...).validation`: functions fitted on training pairs, at held-out pairs.
    n_shifts, n_blocks, seed : of the null distribution and the jackknife

    Returns
    -------
    Dataset
        Per mode: `sigma`, `sigma_held_out`, `energy`, `captured_share`, `vamp_e`, `vamp_e_gap`, `vamp_e_gap_error`;
        scalars `n_energy`, `n_captured_share`, `n_elbow`, `n_vamp_e`, `n_null`, `null_quantile`, `recommended`.

    Raises
    ------
    ValueError
        For fractions outside (0, 1), or fewer than 50 held-out pairs.
    """
    for name, value in (("energy", energy), ("level", level)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1; got {value}.")
    if len(validation.phi) < 50:
        raise ValueError(f"validation holds {len(validation.phi)} held-out pairs; at least 50 are needed.")
    sigma = validation.sigma
    cumulative, share = np.cumsum(sigma) / sigma.sum(), np.cumsum(sigma**2) / np.sum(sigma**2)
    score, gap, gap_error = _vamp_e_curve(validation, n_blocks)
    held = _correlations(validation.phi, validation.psi)
    quantile = null_quantile(validation, level, n_shifts, seed)
    # the constant mode is exact and is not on trial
    n_null = 1 + int(np.cumprod(held[1:] > quantile).sum())
    n_vamp_e = int(np.argmax(gap <= gap_error)) + 1
    per_mode = {
        "sigma": sigma,
        "sigma_held_out": np.concatenate([[1.0], held[1:]]),
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
        "null_quantile": quantile,
        "recommended": min(n_vamp_e, n_null),
    }
    data = {n: (MODE, v) for n, v in per_mode.items()} | {n: ((), v) for n, v in numbers.items()}
    attrs = provenance(
        energy_fraction=energy, level=level, n_shifts=n_shifts, seed=seed, n_pairs_held_out=len(validation.phi)
    )
    return xr.Dataset(data, coords={MODE: np.arange(1, len(sigma) + 1)}, attrs=attrs)


def _vamp_e_curve(validation: Validation, n_blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """VAMP-E of the first n modes, its distance to the best n, and that distance's jackknife standard error."""
    phi, psi, sigma = validation.phi, validation.psi, validation.sigma
    block = block_numbers(validation.pairs, n_blocks)
    parts = [np.flatnonzero(block == b) for b in np.unique(block)]
    counts = np.array([len(p) for p in parts])
    sums = [
        np.stack([np.conj(a[p].T) @ b[p] for p in parts]) for a, b in ((phi, phi), (phi, psi), (psi, psi))
    ]  # (block, mode, mode) each
    total = _cumulative_vamp_e(sigma, *(s.sum(0) / counts.sum() for s in sums))
    rest = (counts.sum() - counts)[:, None, None]
    left_out = np.stack(
        [_cumulative_vamp_e(sigma, *part) for part in zip(*((s.sum(0) - s) / rest for s in sums), strict=True)]
    )
    best = int(np.argmax(total))
    error = jackknife_error(left_out[:, [best]] - left_out)
    return total, total[best] - total, error


def _cumulative_vamp_e(sigma: np.ndarray, C00: np.ndarray, C01: np.ndarray, C11: np.ndarray) -> np.ndarray:
    """VAMP-E for every leading number of modes, (n_modes,)."""
    linear = 2 * np.cumsum(sigma * np.real(np.diag(C01)))
    quadratic = np.real(sigma[:, None] * C00 * sigma * C11.T)
    return linear - np.diag(np.cumsum(np.cumsum(quadratic, axis=0), axis=1))


def _correlations(phi: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """Real correlation of each pair of functions after removing their means, (n_modes,)."""
    a, b = phi - phi.mean(0), psi - psi.mean(0)
    norm = np.sqrt(np.mean(np.abs(a) ** 2, axis=0) * np.mean(np.abs(b) ** 2, axis=0))
    covariance = np.real(np.mean(np.conj(a) * b, axis=0))
    return np.divide(covariance, norm, out=np.zeros_like(norm), where=norm > 1e-12)


def null_quantile(validation: Validation, level: float = 0.95, n_shifts: int = 400, seed: int = 0) -> float:
    """Quantile of the largest correlation of any mode when x and x' are re-matched at random long shifts."""
    n = len(validation.phi)
    # memory: where the slowest mode has decayed to a few per cent; never more than a third of the data
    slowest = np.clip(validation.sigma[1] if len(validation.sigma) > 1 else 0.0, 0.0, 1 - 1e-6)
    memory = 3 * validation.pairs.lag / -np.log(max(slowest, 1e-6))
    least = int(min(max(memory, 10 * validation.pairs.lag), n // 3))
    shifts = np.random.default_rng(seed).integers(least, n - least + 1, size=n_shifts)
    largest = [_correlations(validation.phi, np.roll(validation.psi, s, axis=0))[1:].max(initial=0.0) for s in shifts]
    return float(np.quantile(largest, level))


def cross_validate(estimator: BaseEstimator, X: Any, n_folds: int = 5, by: str = "auto", seed: int = 0) -> xr.Dataset:
    """Held-out VAMP-1, VAMP-2 and VAMP-E of an estimator over folds that share no frame.

    Parameters
    ----------
    estimator : KoopmanLoRA
        Not fitted here; a clone is, once per fold.
    X : trajectories, in any form that `lagged_pairs` takes
    n_folds : at least 2
    by : 'trajectory', 'blocks' or 'auto', see `split_pairs`

    Returns
    -------
    Dataset
        `vamp_1`, `vamp_2`, `vamp_e` per fold; attributes hold means and standard errors. The constant mode counts.

    Raises
    ------
    ValueError
        For fewer than 2 folds, or fewer groups than folds.
    """
    pairs = lagged_pairs(X, estimator.lag, estimator.dt, estimator.time_unit)
    group = split_groups(pairs, by, n_blocks=4 * n_folds)
    n_groups = int(group.max()) + 1
    if not 2 <= n_folds <= n_groups:
        raise ValueError(f"n_folds must lie between 2 and the {n_groups} groups of data; got {n_folds}.")
    fold_of_group = np.random.default_rng(seed).permutation(n_groups) % n_folds
    rows = []
    for fold in range(n_folds):
        held = fold_of_group[group] == fold
        train = pairs.select(without_overlap(pairs, held))
        fitted = clone(estimator).fit(train)
        rows.append(vamp_scores(fitted.moments_, fitted.estimate_moments(pairs.select(held))))
    table = np.array(rows)  # (fold, score)
    names = ("vamp_1", "vamp_2", "vamp_e")
    summary = {f"{n}_mean": float(v) for n, v in zip(names, table.mean(0), strict=True)}
    errors = table.std(0, ddof=1) / np.sqrt(n_folds)
    summary |= {f"{n}_standard_error": float(v) for n, v in zip(names, errors, strict=True)}
    attrs = provenance(counts_constant_mode=True, n_folds=n_folds, by=by, seed=seed, **summary)
    return xr.Dataset({n: ("fold", table[:, i]) for i, n in enumerate(names)}, attrs=attrs)


def scan_lags(
    estimator: BaseEstimator, X: Any, lags: Sequence[int], refit: bool = False, n_resamples: int = 200, seed: int = 0
) -> xr.Dataset:
    """Singular values and implied timescales against the lag, with intervals, and the shortest lag on the plateau.

    Parameters
    ----------
    estimator : KoopmanLoRA
        Fitted; its features serve at every lag, unless `refit`, which fits a clone at each lag.
    X : trajectories, in any form that `lagged_pairs` takes but explicit pairs
    lags : lags in frames, increasing
    n_resamples, seed : of the bootstrap

    Returns
    -------
    Dataset
        Over (lag, mode): `canonical_singular_values`, `timescales`, `timescales_lower`, `timescales_upper`; attribute
        `recommended_lag`: the shortest whose interval of the slowest timescale meets those of all longer lags.

    Raises
    ------
    ValueError
        For lags that are empty or not increasing, or explicit pairs, which have one lag only.
    """
    lags = [int(lag) for lag in lags]
    if not lags or any(b <= a for a, b in itertools.pairwise(lags)):
        raise ValueError(f"lags must be an increasing list of frames; got {lags}.")
    if isinstance(X, tuple):
        raise ValueError("X must be trajectories to scan lags; explicit pairs have one lag only.")
    sigma, times, bounds = [], [], []
    for lag in lags:
        pairs = lagged_pairs(X, lag, estimator.dt, estimator.time_unit)
        fitted = clone(estimator).set_params(lag=lag).fit(pairs) if refit else estimator
        moments, model = fitted.estimate_moments(pairs), fitted.model_
        spectrum = fitted.spectrum_of(moments, lag)
        interval = bootstrap_intervals(
            moments, lag=lag, dt=model.dt, time_unit=model.time_unit, n_resamples=n_resamples, seed=seed
        )
        sigma.append(spectrum["canonical_singular_values"].values)
        times.append(spectrum["timescales"].values)
        bounds.append(interval["timescales"].values)
    variables = {
        "canonical_singular_values": (("lag", MODE), np.array(sigma)),
        "timescales": (("lag", MODE), np.array(times), {"units": model.time_unit}),
        "timescales_lower": (("lag", MODE), np.array(bounds)[..., 0], {"units": model.time_unit}),
        "timescales_upper": (("lag", MODE), np.array(bounds)[..., 1], {"units": model.time_unit}),
    }
    recommended = lags[_plateau(np.array(bounds)[:, 1])] if len(sigma[0]) > 1 else lags[0]
    attrs = provenance(recommended_lag=recommended, dt=model.dt, time_unit=model.time_unit, refit=refit, seed=seed)
    coords = {"lag": lags, "lag_time": ("lag", np.array(lags) * model.dt), MODE: np.arange(1, len(sigma[0]) + 1)}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _plateau(bounds: np.ndarray) -> int:
    """First row of intervals (n_lags, 2) that meets all later ones; the last row always does."""
    for i, (lower, upper) in enumerate(bounds):
        later = bounds[i + 1 :]
        if np.all((later[:, 0] <= upper) & (later[:, 1] >= lower)):
            return i
    return len(bounds) - 1
