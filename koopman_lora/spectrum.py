"""From `Moments` to singular triples, the K_matrix and its SVD, eigenvalues and timescales, in one Dataset."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import (
    EDMD_MODE,
    FEATURE_F,
    FEATURE_F_COLUMN,
    FEATURE_G,
    FEATURE_G_COLUMN,
    MODE,
    labelled,
    provenance,
)
from koopman_lora._linalg import (
    RANK_TOLERANCE,
    SIGMA_TOLERANCE,
    WhitenedSVD,
    effective_rank,
    eigenvalue_order,
    sorted_eig,
)
from koopman_lora.accumulation import estimate_moments
from koopman_lora.arguments import as_svals
from koopman_lora.checks import checked
from koopman_lora.equilibrium import signs
from koopman_lora.kinds import Share
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments, OneEstimate
from koopman_lora.propagation import propagator, rank_matrix
from koopman_lora.triples import canonical_triples, in_one_block, independent_basis, moment_whitener

SCALED_TWICE = (
    "the second moments of the features equal svals: they look scaled by sqrt(svals) already, and K_matrix would be "
    "scaled twice. Give moments of unscaled features (model.f, model.g), or leave svals out."
)


@checked
def koopman_spectrum(moments: OneEstimate, svals: Any = None, *, threshold: Share = RANK_TOLERANCE) -> xr.Dataset:
    """Singular values, functions and eigenvalues of the Koopman operator from second moments of any features.

    Parameters
    ----------
    moments : Moments
        Of features *not* scaled by the learned singular values.
    svals : array of shape (k,), optional
        Learned singular values: K_matrix and the reported M_f, M_g, T_fg are of features scaled by their square roots.
    threshold : float
        Relative whitening threshold.

    Returns
    -------
    Dataset
        With dimensions mode, feature_f, feature_g:

        - `canonical_singular_values`: of `M_f^{-1/2} T_fg M_g^{-1/2}`, the singular values of the operator itself; with
          `phi_coefficients` and `psi_coefficients`, phi(x) = f(x) @ phi_coefficients, psi(x') = g(x') @
          psi_coefficients, of unit norm. Phase: see `Moments.phases`;
        - `svals`: the learned ones, where given;
        - `singular_values`, `U`, `Vh` of `K_matrix = pinv(M_f) T_fg`, and `M_f`, `M_g`, `T_fg`: depend on the basis of
          features;
        - `eigenvalues` of the rank-n operator, `right_eigenfunction_coefficients` (f(x) @ v, unit norm),
          `eigenvalue_condition` (in L2), `timescales`, `frequencies`; `edmd_eigenvalues` of pinv(M_f) E[f(x)^H f(x')]:
          only where the moments hold C_gf and T_ff.

    Raises
    ------
    ValueError
        For svals of another length.

    Warns
    -----
    UserWarning
        Where the features look scaled by `svals` already, see `looks_scaled`.

    References
    ----------
    docs/mathematics.md, sections 2 and 4.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 101)[:, None].double()
    >>> features = lambda s: torch.cat([torch.ones_like(s), s], dim=1)
    >>> s = koopman_spectrum(estimate_moments(features, features, (x, 0.5 * x)))
    >>> s.eigenvalues.values.real.round(6), s.canonical_singular_values.values.round(6)
    (array([1. , 0.5]), array([1., 1.]))
    """
    moments = in_one_block(moments)
    svals = None if svals is None else as_svals(svals, moments.M_f.shape[-1])
    if looks_scaled(moments, svals):
        warnings.warn(SCALED_TWICE, stacklevel=3)
    space = independent_basis(moments, threshold)
    functions = space.moments(moments)
    triples = oriented_triples(functions, threshold)
    variables: dict[str, Any] = {"canonical_singular_values": (MODE, triples.values)}
    if svals is not None:
        variables["svals"] = (MODE, svals)
    basis = _basis_variables(scaled_by(moments, svals), threshold)
    variables["singular_values"] = basis["singular_values"]
    if "C_gf" in moments and "T_ff" in moments:
        eigen = _eigen_variables(functions, triples, threshold)
        dims, right = eigen["right_eigenfunction_coefficients"]
        variables |= eigen | {"right_eigenfunction_coefficients": (dims, space.of_features("f", right))}
    variables["phi_coefficients"] = ((FEATURE_F, MODE), space.of_features("f", triples.left))
    variables["psi_coefficients"] = ((FEATURE_G, MODE), space.of_features("g", triples.right))
    attrs = provenance(
        **moments.clock.attrs(),
        n_pairs=moments.n_pairs,
        rank_f=space.rank("f") or int(moment_whitener(moments, "M_f", threshold).rank),
        rank_g=space.rank("g") or int(moment_whitener(moments, "M_g", threshold).rank),
        effective_rank_f=effective_rank(moments.M_f),
        effective_rank_g=effective_rank(moments.M_g),
        whitening_threshold=threshold,
        scaled_by_svals=svals is not None,
        is_reversible=moments.is_reversible,
        sigma_above_one=bool(triples.values[0] > 1 + SIGMA_TOLERANCE),
    )
    return labelled(variables | basis, attrs)


def looks_scaled(moments: Moments, svals: np.ndarray | None) -> bool:
    """Whether the second moments of features are `svals` instead of 1, so that `svals` would scale them twice.

    Never where svals are all close to 1: scaled features are not told from unit ones there.

    Examples
    --------
    >>> unit = Moments({name: np.eye(2)[None] for name in ("M_f", "M_g", "T_fg")}, np.ones(1))
    >>> svals = np.array([1.0, 0.5])
    >>> looks_scaled(unit, svals), looks_scaled(scaled_by(unit, svals), svals), looks_scaled(unit, np.array([1, 0.95]))
    (False, True, False)
    """
    if svals is None:
        return False
    powers = np.real([np.diag(moments.M_f), np.diag(moments.M_g)])
    tiny = np.finfo(float).tiny
    distance = np.log(np.maximum(svals, tiny))  # of unit features from scaled ones
    rest = np.log(np.maximum(powers, tiny)) - distance
    return bool(np.abs(distance).max() > 0.2 and np.abs(rest).max() < 0.1 * np.abs(distance).max())


def scaled_by(moments: Moments, svals: np.ndarray | None) -> Moments:
    """Moments of features scaled by the square roots of `svals` (k,); as they are without.

    Raises
    ------
    ValueError
        For svals of another length.
    """
    if svals is None:
        return moments
    svals = np.asarray(svals, dtype=float)
    k = moments.M_f.shape[-1]
    if svals.shape != (k,):
        raise ValueError(f"svals must have shape ({k},), one per feature; got {svals.shape}.")
    root = np.diag(np.sqrt(svals))
    return moments.transformed(root, root)


def _basis_variables(scaled: Moments, threshold: float) -> dict[str, Any]:
    """What depends on the basis of features: the K_matrix, its SVD, and the moments that it is made of."""
    M_f, M_g, T_fg = scaled.M_f, scaled.M_g, scaled.T_fg
    K_matrix = k_matrix(scaled, threshold)
    U, S, Vh = np.linalg.svd(K_matrix, full_matrices=False)
    return {
        "singular_values": (MODE, S),
        "K_matrix": ((FEATURE_F, FEATURE_G), K_matrix),
        "U": ((FEATURE_F, MODE), U),
        "Vh": ((MODE, FEATURE_G), Vh),
        "M_f": ((FEATURE_F, FEATURE_F_COLUMN), M_f),
        "M_g": ((FEATURE_G, FEATURE_G_COLUMN), M_g),
        "T_fg": ((FEATURE_F, FEATURE_G), T_fg),
    }


def k_matrix(moments: Moments, threshold: float = RANK_TOLERANCE) -> np.ndarray:
    """`pinv(M_f) T_fg`, (..., k, k)."""
    basis = independent_basis(moments, threshold)
    functions = basis.moments(moments, "f")
    W = moment_whitener(functions, "M_f", threshold).matrix
    return basis.of_features("f", W @ functions.between("T_fg", W))


def oriented_triples(moments: Moments, threshold: float = RANK_TOLERANCE) -> WhitenedSVD:
    """Canonical triples, with the phase rule applied to both functions of a mode."""
    left, sigma, right = canonical_triples(moments, threshold)
    turn = moments.phases(left)
    return WhitenedSVD(left * turn, sigma, right * turn)


def _eigen_variables(moments: Moments, triples: WhitenedSVD, threshold: float) -> dict[str, Any]:
    left, sigma, _ = triples
    eig = sorted_eig(rank_matrix(moments, triples))
    vectors = left @ eig.right
    edmd = np.linalg.eigvals(propagator(moments, "edmd", threshold=threshold).K).astype(complex)
    clock = moments.clock
    return {
        "eigenvalues": (MODE, eig.values),
        "timescales": (MODE, clock.timescales(eig.values), {"units": clock.time_unit}),
        "frequencies": (MODE, clock.frequencies(eig.values), {"units": f"1/{clock.time_unit}"}),
        "eigenvalue_condition": (MODE, _condition_of_rank_operator(eig.values, sigma, eig.left, eig.right)),
        "right_eigenfunction_coefficients": ((FEATURE_F, MODE), vectors * moments.phases(vectors)),
        "edmd_eigenvalues": (EDMD_MODE, edmd[eigenvalue_order(edmd)]),
    }


def _condition_of_rank_operator(
    values: np.ndarray, sigma: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Condition numbers `|l| |r| / |<l, r>|` in L2, r = phi v and l = psi diag(sigma) w / conj(lambda)."""
    overlap = np.abs(np.sum(np.conj(left) * right, axis=0))
    norms = np.linalg.norm(sigma[:, None] * left, axis=0) * np.linalg.norm(right, axis=0)
    product = np.abs(values) * overlap
    # lambda = 0 has no left eigenfunction in the span of psi, and a defective one has none of finite size
    return np.divide(norms, product, out=np.full(len(values), np.inf), where=product > 0)


@checked
def compute_koopman_spectrum(
    model: KoopmanLoRAModel, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device | str = "cpu"
) -> xr.Dataset:
    """Spectrum of a trained model on the pairs of a DataLoader; see `koopman_spectrum` for what it holds.

    A model whose normalisation was not frozen by `calibrate` is normalised by the pairs of the loader; the model itself
    is not changed. Times are in the unit of `model.clock`, or of the LaggedPairs that the loader reads; without either
    they count in lags.

    Parameters
    ----------
    model : KoopmanLoRAModel
    loader : iterable of batches (x, x_next)
    device : where the model runs

    Raises
    ------
    ValueError
        If model and loader disagree about the clock.

    Examples
    --------
    >>> batches = [(torch.randn(64, 2), torch.randn(64, 2)) for _ in range(4)]
    >>> compute_koopman_spectrum(KoopmanLoRAModel(2, 3), batches)["K_matrix"].shape
    (3, 3)
    """
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be one that torch knows, such as 'cpu'; got {device!r}.") from error
    frozen = copy.deepcopy(model).to(device).eval()
    if iter(loader) is loader:  # a generator: it can be read once only
        loader = list(loader)
    if frozen.normalizes and not frozen.is_calibrated:
        frozen.calibrate_batches([loader] if isinstance(loader, tuple) else loader)
    return model_spectrum(frozen, estimate_moments(frozen.f, frozen.g, loader))


def model_spectrum(model: KoopmanLoRAModel, moments: Moments) -> xr.Dataset:
    """`koopman_spectrum` with the learned singular values, and what the model knows of pairs that know it not."""
    return koopman_spectrum(clocked(_both_ways(moments, model), model), model.svals_array())


def _both_ways(moments: Moments, model: KoopmanLoRAModel) -> Moments:
    """Moments of a reversible model's features, which pairs of a loop of one's own gave one way."""
    if moments.is_reversible or not model.is_reversible:
        return moments
    turned = np.diag(signs(np.real(np.diagonal(moments.C_fg))))  # g is f but for signs
    return moments.symmetrised().combined({"g": turned})


def clocked(moments: Moments, model: KoopmanLoRAModel) -> Moments:
    """Moments with the model's clock where their pairs told none; two different clocks are an error."""
    if moments.clock.lag is None:
        return dataclasses.replace(moments, clock=model.clock)
    if model.clock.lag is not None:
        moments.clock.agreed(model.clock)
    return moments


def evaluate_functions(features: Any, coefficients: xr.DataArray) -> np.ndarray:
    """Functions with the given coefficients at features (n, k), as an array (n, n_modes)."""
    values = features.detach().cpu().numpy() if isinstance(features, Tensor) else np.asarray(features)
    return values @ coefficients.values
