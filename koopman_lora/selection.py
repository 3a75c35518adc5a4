"""How many modes the data can tell from noise, and how many matter."""

from __future__ import annotations

import numpy as np
import xarray as xr

from koopman_lora._labels import MODE, labelled, provenance
from koopman_lora.comparison import elbow
from koopman_lora.scores import Validation, jackknife_error, vamp_e_curve


def select_n_modes(
    validation: Validation,
    energy: float = 0.9,
    level: float = 0.95,
    n_shifts: int = 400,
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
    n_shifts, seed : of the null distribution

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
    score, gap, gap_error = _vamp_e_gaps(validation)
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
    return labelled(data, attrs)


def _vamp_e_gaps(validation: Validation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """VAMP-E of the first n modes, its distance to the best n, and that distance's jackknife standard error."""
    total = vamp_e_curve(validation.sigma, validation.moments)
    left_out = vamp_e_curve(validation.sigma, validation.moments.leaving_out())
    best = int(np.argmax(total))
    return total, total[best] - total, jackknife_error(left_out[:, [best]] - left_out)


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
    lag = validation.moments.clock.known_lag("to re-match x and x' at shifts longer than the memory")
    memory = 3 * lag / -np.log(max(slowest, 1e-6))
    least = int(min(max(memory, 10 * lag), n // 3))
    shifts = np.random.default_rng(seed).integers(least, n - least + 1, size=n_shifts)
    largest = [_correlations(validation.phi, np.roll(validation.psi, s, axis=0))[1:].max(initial=0.0) for s in shifts]
    return float(np.quantile(largest, level))
