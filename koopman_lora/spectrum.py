"""From `Moments` to singular triples, the K_matrix and its SVD, eigenvalues and timescales, in one Dataset."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import FEATURE_F, FEATURE_G, MODE, provenance
from koopman_lora._linalg import (
    RANK_TOLERANCE,
    SIGMA_TOLERANCE,
    conjugate_transpose,
    effective_rank,
    hermitian_pinv,
    inverse_root,
    phase_of,
    sorted_eig,
    whitened_svd,
)
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments, estimate_moments


def koopman_spectrum(
    moments: Moments,
    svals: Any = None,
    *,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
    threshold: float = RANK_TOLERANCE,
) -> xr.Dataset:
    """Singular values, functions and eigenvalues of the Koopman operator from second moments of any features.

    Parameters
    ----------
    moments : Moments
        Of features *not* scaled by the learned singular values.
    svals : array of shape (k,), optional
        Learned singular values: K_matrix and the reported M_f, M_g, T_fg are of features scaled by their square roots.
    lag, dt, time_unit
        Lag in frames, physical time between two frames and its unit.
    threshold : float
        Relative whitening threshold.

    Returns
    -------
    Dataset
        With dimensions mode, feature_f, feature_g:

        - `M_f`, `M_g`, `T_fg`, `K_matrix = pinv(M_f) T_fg` and its SVD `U`, `singular_values`, `Vh`: depend on the
          basis of features;
        - `canonical_singular_values`: of `M_f^{-1/2} T_fg M_g^{-1/2}`, the singular values of the operator itself; with
          `left_coefficients` and `right_coefficients`, phi(x) = f(x) @ left, psi(x') = g(x') @ right, of unit norm.
          Phase: the mean of phi over the data far out along a fixed direction (the first coordinate, if there is one
          only) is real positive;
        - `eigenvalues` of the rank-n operator, `eigenvector_coefficients` (eigenfunction f(x) @ v, unit norm),
          `eigenvalue_condition`, `timescales`, `frequencies`; `edmd_eigenvalues` of pinv(M_f) E[f(x)^H f(x')]: only
          where the moments hold C_gf and T_ff;
        - `svals`: the learned ones, where given.

    Raises
    ------
    ValueError
        For svals of another length.

    References
    ----------
    MATH.md, sections 2 and 4.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> features = lambda s: torch.cat([torch.ones_like(s), s], dim=1)
    >>> s = koopman_spectrum(estimate_moments(features, features, (x, 0.5 * x)))
    >>> s.eigenvalues.values.real.round(6), s.canonical_singular_values.values.round(6)
    (array([1. , 0.5]), array([1., 1.]))
    """
    scaled = moments if svals is None else _scaled_by(moments, np.asarray(svals, dtype=float))
    M_f, M_g, T_fg = scaled.M_f, scaled.M_g, scaled.T_fg
    K_matrix = hermitian_pinv(M_f, threshold) @ T_fg
    U, S, Vh = np.linalg.svd(K_matrix, full_matrices=False)
    left, sigma, right = _canonical(moments, threshold)
    variables: dict[str, Any] = {
        "M_f": ((FEATURE_F, "feature_f_"), M_f),
        "M_g": ((FEATURE_G, "feature_g_"), M_g),
        "T_fg": ((FEATURE_F, FEATURE_G), T_fg),
        "K_matrix": ((FEATURE_F, FEATURE_G), K_matrix),
        "U": ((FEATURE_F, MODE), U),
        "singular_values": (MODE, S),
        "Vh": ((MODE, FEATURE_G), Vh),
        "canonical_singular_values": (MODE, sigma),
        "left_coefficients": ((FEATURE_F, MODE), left),
        "right_coefficients": ((FEATURE_G, MODE), right),
    }
    if svals is not None:
        variables["svals"] = (MODE, np.asarray(svals, dtype=float))
    if "C_gf" in moments.names:
        variables |= _eigen_variables(moments, left, sigma, right, lag * dt, time_unit)
    attrs = provenance(
        lag=lag,
        dt=dt,
        time_unit=time_unit,
        n_pairs=moments.n_pairs,
        rank_f=int(inverse_root(moments.M_f, threshold).rank),
        rank_g=int(inverse_root(moments.M_g, threshold).rank),
        effective_rank_f=effective_rank(moments.M_f),
        effective_rank_g=effective_rank(moments.M_g),
        whitening_threshold=threshold,
        scaled_by_svals=svals is not None,
        sigma_above_one=bool(sigma[0] > 1 + SIGMA_TOLERANCE),
    )
    return xr.Dataset(variables, coords={MODE: np.arange(1, len(sigma) + 1)}, attrs=attrs)


def _scaled_by(moments: Moments, svals: np.ndarray) -> Moments:
    k = moments.M_f.shape[0]
    if svals.shape != (k,):
        raise ValueError(f"svals must have shape ({k},), one per feature; got {svals.shape}.")
    return moments.transformed(np.diag(np.sqrt(svals)), np.diag(np.sqrt(svals)))


def _canonical(moments: Moments, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical triples with the phase rule applied to both functions of a mode."""
    left, sigma, right = whitened_svd(moments.M_f, moments.T_fg, moments.M_g, threshold)
    if "phase_f" in moments.names and np.any(moments.phase_f):
        turn = phase_of(moments.phase_f @ left)
    else:
        turn = phase_of(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    return left * turn, sigma, right * turn


def rank_operator(C_gf: np.ndarray, left: np.ndarray, sigma: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`Lambda = diag(sigma) E[psi(x')^H phi(x')]`: the rank-n operator on coordinates phi, (..., n_modes, n_modes)."""
    return sigma[..., :, None] * (conjugate_transpose(right) @ C_gf @ left)


def edmd_operator(moments: Moments, threshold: float = RANK_TOLERANCE) -> np.ndarray:
    """`pinv(M_f) T_ff`: the EDMD matrix of the features f, (k, k)."""
    return hermitian_pinv(moments.M_f, threshold) @ moments.T_ff


def _eigen_variables(
    moments: Moments, left: np.ndarray, sigma: np.ndarray, right: np.ndarray, lag_time: float, unit: str
) -> dict[str, Any]:
    eig = sorted_eig(rank_operator(moments.C_gf, left, sigma, right))
    vectors = left @ eig.right
    if "phase_f" in moments.names:
        vectors = vectors * phase_of(moments.phase_f @ vectors)
    edmd = sorted_eig(edmd_operator(moments))
    return {
        "eigenvalues": (MODE, eig.values),
        "eigenvector_coefficients": ((FEATURE_F, MODE), vectors),
        "eigenvalue_condition": (MODE, eig.condition),
        "timescales": (MODE, implied_timescales(eig.values, lag_time), {"units": unit}),
        "frequencies": (MODE, implied_frequencies(eig.values, lag_time), {"units": f"1/{unit}"}),
        "edmd_eigenvalues": (FEATURE_F, edmd.values),
    }


def implied_timescales(eigenvalues: Any, lag_time: float) -> np.ndarray:
    """`-lag_time / ln|lambda|` in the unit of `lag_time`; inf at |lambda| = 1, NaN above (no relaxation).

    Examples
    --------
    >>> implied_timescales([1.0, np.exp(-0.5), 0.0, 1.2], lag_time=2.0)
    array([inf, 4., 0., nan])
    """
    modulus = np.abs(np.asarray(eigenvalues))
    result = np.full(modulus.shape, np.nan)
    result[np.abs(modulus - 1) <= SIGMA_TOLERANCE] = np.inf
    decays = modulus < 1 - SIGMA_TOLERANCE
    with np.errstate(divide="ignore"):  # lambda = 0 relaxes at once
        result[decays] = -lag_time / np.log(modulus[decays])
    return result


def implied_frequencies(eigenvalues: Any, lag_time: float) -> np.ndarray:
    """`arg(lambda) / (2 pi lag_time)`, on the principal branch: frequencies above `1 / (2 lag_time)` are aliased.

    Examples
    --------
    >>> implied_frequencies([1j, 1.0], lag_time=0.5)
    array([0.5, 0. ])
    """
    return np.angle(np.asarray(eigenvalues)) / (2 * np.pi * lag_time)


def compute_koopman_spectrum(
    model: KoopmanLoRAModel, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device | str = "cpu"
) -> xr.Dataset:
    """Spectrum of a trained model on the pairs of a DataLoader; see `koopman_spectrum` for what it holds.

    A model whose normalisation was not frozen by `calibrate` is normalised by the pairs of the loader; the model itself
    is not changed.

    Parameters
    ----------
    model : KoopmanLoRAModel
    loader : iterable of batches (x, x_next)
    device : where the model runs

    Examples
    --------
    >>> batches = [(torch.randn(64, 2), torch.randn(64, 2)) for _ in range(4)]
    >>> compute_koopman_spectrum(KoopmanLoRAModel(2, 3), batches)["K_matrix"].shape
    (3, 3)
    """
    frozen = copy.deepcopy(model).to(device).eval()
    if iter(loader) is loader:  # a generator: it can be read once only
        loader = list(loader)
    if frozen.normalizes and not frozen.is_calibrated:
        frozen.calibrate_batches([loader] if isinstance(loader, tuple) else loader)
    moments = estimate_moments(lambda x: frozen.f(x.to(device)), lambda x: frozen.g(x.to(device)), loader)
    return model_spectrum(frozen, moments)


def model_spectrum(model: KoopmanLoRAModel, moments: Moments) -> xr.Dataset:
    """`koopman_spectrum` with the learned singular values, the lag and the units that travel in the model."""
    svals = None if model.svals is None else model.svals.detach().cpu().double().numpy()
    return koopman_spectrum(moments, svals, lag=model.lag, dt=model.dt, time_unit=model.time_unit)


def evaluate_functions(features: Any, coefficients: xr.DataArray) -> np.ndarray:
    """Functions with the given coefficients at features (n, k), as an array (n, n_modes)."""
    values = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    return values @ coefficients.values
