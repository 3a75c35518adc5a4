"""How far to trust a spectrum: learned against empirical values with a verdict, residuals, subspaces, monitors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from koopman_lora._labels import MODE, provenance
from koopman_lora._linalg import RANK_TOLERANCE, conjugate_transpose, effective_rank, sorted_eig, whitened_svd
from koopman_lora.data.pairs import block_numbers
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.moments import Moments
from koopman_lora.scores import Validation, jackknife_error, vamp_scores
from koopman_lora.spectrum import edmd_operator, koopman_spectrum
from koopman_lora.systems import ReferenceSpectrum

# Cause of disagreement -> what to do about it, in the order of the guide.
REMEDIES = {
    "training gap": "train for more epochs (n_epochs); if the loss has stopped falling, widen hidden_dims or refine.",
    "non-orthogonality": "add regularisation (reg_weight=0.1), use nesting='jnt', or refine.",
    "anisotropy": "read the canonical values, which do not depend on the scale of features; shared_encoder=True, "
    "learn_svals=True or refining equalises the scales.",
    "generalisation gap": "get more data, or fewer parameters: shared_encoder=True, smaller hidden_dims, weight_decay.",
    "sampling error": "get more data; no training removes it. Within the intervals, the values agree.",
}


def compare_singular_values(
    moments: Moments,
    svals: np.ndarray | None = None,
    held_out: Moments | Validation | None = None,
    *,
    lag: int = 1,
    dt: float = 1.0,
    time_unit: str = "frame",
    n_resamples: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Compare learned, K_matrix and canonical singular values, and name the largest cause of disagreement.

    The path from the learned to the true values is walked in steps, each a cause with a root-mean-square size:

    - non-orthogonality: learned svals -> singular values of the learned operator `sum_i s_i f_i <g_i, .>` in L2;
    - training gap: -> canonical values, the best operator in the span of the same features on the same pairs;
    - generalisation gap: -> the same singular functions evaluated on held-out pairs (NaN where none are given), as far
      as the noise of those pairs cannot explain it;
    - sampling error: two standard errors of the canonical values, by bootstrap;
    - anisotropy: canonical -> K_matrix singular values, which depend on the scale and conditioning of the features.

    Parameters
    ----------
    moments : Moments
        Training moments of the features, *not* scaled by svals.
    svals : array of shape (n_modes,), optional
        Learned singular values; without them, the values implied by the scale of f and g.
    held_out : Moments or Validation, optional
        Of the same features on held-out pairs, in at least 2 blocks, or singular functions fitted on training pairs at
        held-out ones.

    Returns
    -------
    Dataset
        Per mode: `learned`, `learned_operator`, `K_matrix`, `canonical`, `canonical_held_out` and its standard error
        `held_out_error`, `lower` and `upper` (of canonical), `ratio` (K_matrix / learned), `cluster`; per cause:
        `size`; attributes: `verdict`, `remedy`, the guide's checks (`is_decreasing`, `is_in_unit_interval`, `elbow`),
        `ratio_mean`, `ratio_std`, `cond_M_f`, `cond_M_g`, `deviation_M_f`, `deviation_M_g`, `loss_gap`.
        `comparison_text` makes it readable.

    References
    ----------
    MATH.md, section 6.
    """
    spectrum = koopman_spectrum(moments, svals)
    canonical, K_values = (spectrum[n].values for n in ("canonical_singular_values", "singular_values"))
    learned = implied_svals(moments) if svals is None else np.asarray(svals, dtype=float)
    operator_values = learned_operator_values(moments, svals)
    physical = {"lag": lag, "dt": dt, "time_unit": time_unit}
    intervals = bootstrap_intervals(moments, svals, **physical, n_resamples=n_resamples, seed=seed)
    bounds = intervals["canonical_singular_values"].values
    held, held_error = _held_out_values(moments, held_out)
    ordered = np.sort(learned)[::-1]
    sizes = {
        "training gap": _rms(operator_values - canonical),
        "non-orthogonality": _rms(ordered - operator_values),
        "anisotropy": _rms(K_values - canonical),
        "generalisation gap": _excess(canonical - held, held_error),
        "sampling error": 2 * _rms(intervals["canonical_standard_error"].values),
    }
    known = {name: size for name, size in sizes.items() if np.isfinite(size)}
    verdict = max(known, key=known.get)
    ratio = K_values / np.where(ordered > 0, ordered, np.nan)
    variables = {
        "learned": (MODE, ordered),
        "learned_operator": (MODE, operator_values),
        "K_matrix": (MODE, K_values),
        "canonical": (MODE, canonical),
        "canonical_held_out": (MODE, held),
        "held_out_error": (MODE, held_error),
        "lower": (MODE, bounds[:, 0]),
        "upper": (MODE, bounds[:, 1]),
        "ratio": (MODE, ratio),
        "cluster": (MODE, clusters(bounds)),
        "size": ("cause", list(sizes.values())),
    }
    attrs = provenance(
        verdict=verdict,
        remedy=REMEDIES[verdict],
        ratio_mean=float(np.nanmean(ratio)),
        ratio_std=float(np.nanstd(ratio)),
        is_decreasing=bool(np.all(np.diff(learned) <= 1e-9)),
        is_in_unit_interval=bool(np.all((learned > 0) & (learned <= 1))),
        elbow=elbow(canonical),
        has_held_out=held_out is not None,
        loss_gap=loss_gap(moments, svals),
        **_conditioning(moments),
        **physical,
    )
    coords = {MODE: np.arange(1, len(canonical) + 1), "cause": list(sizes)}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _held_out_values(moments: Moments, held_out: Moments | Validation | None) -> tuple[np.ndarray, np.ndarray]:
    """Held-out correlations of the singular functions and their jackknife standard errors, (n_modes,) each."""
    if held_out is None:
        unknown = np.full(len(moments.M_f), np.nan)
        return unknown, unknown
    if isinstance(held_out, Validation):
        left = right = np.eye(len(held_out.sigma))
        held_out = _moments_of(held_out)
    else:
        left, _, right = whitened_svd(moments.M_f, moments.T_fg, moments.M_g)
    if held_out.n_blocks < 2:
        raise ValueError("held_out must be kept in at least 2 blocks; use estimate_moments(n_blocks=64).")
    held = {name: getattr(held_out, name) for name in ("M_f", "T_fg", "M_g")}
    leaving_out = held_out.reweighted(1.0 - np.eye(held_out.n_blocks))
    return _correlations(held, left, right), jackknife_error(_correlations(leaving_out, left, right))


def _moments_of(validation: Validation) -> Moments:
    """Moments M_f, M_g, T_fg of singular functions at held-out pairs, per block."""
    _, phi, psi, pairs = validation
    block = block_numbers(pairs, 32)
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    sums = {
        name: np.stack([np.conj(a.T) @ b for a, b in zip(*(np.split(v, starts[1:]) for v in sides), strict=True)])
        for name, sides in {"M_f": (phi, phi), "M_g": (psi, psi), "T_fg": (phi, psi)}.items()
    }
    return Moments(sums, np.diff(np.append(starts, len(phi))).astype(float))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _excess(difference: np.ndarray, error: np.ndarray) -> float:
    """Root mean square of what noise of standard errors `error` cannot explain, at three standard deviations."""
    explained = (1 + 3 * np.sqrt(2 / len(error))) * np.mean(error**2)
    return float(np.sqrt(np.maximum(np.mean(difference**2) - explained, 0.0)))


def _correlation(M: np.ndarray) -> np.ndarray:
    scale = np.sqrt(np.maximum(np.real(np.diag(M)), np.finfo(float).tiny))
    return M / np.outer(scale, scale)


def _conditioning(moments: Moments) -> dict[str, float]:
    """Condition numbers of the moments, and ||M - I||_F of features of unit norm."""
    result = {}
    for name in ("M_f", "M_g"):
        M = getattr(moments, name)
        result[f"cond_{name}"] = float(np.linalg.cond(M))
        result[f"deviation_{name}"] = float(np.linalg.norm(_correlation(M) - np.eye(len(M))))
    return result


def implied_svals(moments: Moments) -> np.ndarray:
    """Singular values that the scale of the features stands for: `|f_i| |g_i|`, (n_modes,)."""
    return np.sqrt(np.real(np.diag(moments.M_f)) * np.real(np.diag(moments.M_g)))


def _root(M: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(M)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ np.conj(vectors.T)


def learned_operator_values(moments: Moments, svals: np.ndarray | None) -> np.ndarray:
    """Singular values in L2 of the learned operator `sum_i s_i f_i <g_i, .>`: of `M_f^{1/2} diag(s) M_g^{1/2}`."""
    s = np.ones(len(moments.M_f)) if svals is None else np.asarray(svals, dtype=float)
    return np.linalg.svd(_root(moments.M_f) * s @ _root(moments.M_g), compute_uv=False)


def loss_gap(moments: Moments, svals: np.ndarray | None) -> float:
    """Un-nested loss minus its minimum `-sum sigma^2` over the span of the same features: never negative."""
    s = np.ones(len(moments.M_f)) if svals is None else np.asarray(svals, dtype=float)
    quadratic = np.real(np.sum((s[:, None] * moments.M_f * s) * moments.M_g.T))
    loss = quadratic - 2 * np.real(np.sum(s * np.diag(moments.T_fg)))
    return float(loss + np.sum(whitened_svd(moments.M_f, moments.T_fg, moments.M_g).values ** 2))


def _correlations(moments: Mapping[str, np.ndarray], left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlation of each pair of functions f @ left and g @ right, (..., n_modes), from moments (..., k, k)."""
    sides = {"T_fg": (left, right), "M_f": (left, left), "M_g": (right, right)}
    forms = {n: np.real(np.sum(np.conj(a) * (moments[n] @ b), axis=-2)) for n, (a, b) in sides.items()}
    return forms["T_fg"] / np.sqrt(np.maximum(forms["M_f"] * forms["M_g"], np.finfo(float).tiny))


def clusters(bounds: np.ndarray) -> np.ndarray:
    """Cluster numbers (from 1) of neighbours whose intervals overlap: these values fix a subspace, not functions.

    Parameters
    ----------
    bounds : intervals (n_modes, 2) of decreasing values

    Examples
    --------
    >>> clusters(np.array([[1, 1], [0.88, 0.92], [0.87, 0.91]]))
    array([1, 2, 2])
    """
    # sampling pushes equal values apart, so one value outside the other's interval does not tell them from each other
    apart = bounds[1:, 1] < bounds[:-1, 0]
    return 1 + np.concatenate([[0], np.cumsum(apart)])


def elbow(values: np.ndarray) -> int:
    """Number of modes before the largest drop of the values, at least 1.

    Examples
    --------
    >>> elbow(np.array([1.0, 0.9, 0.3, 0.25]))
    2
    """
    return int(np.argmax(-np.diff(values))) + 1 if len(values) > 1 else 1


def eigenpair_residuals(moments: Moments, held_out: Moments | None = None, tolerance: float = 0.1) -> xr.Dataset:
    """Residuals (ResDMD) and condition numbers of the EDMD eigenpairs of the features f; spurious ones are flagged.

    `res^2 = E|v(x') - lambda v(x)|^2 / E|v(x)|^2`. For a stochastic system it contains the conditional variance of the
    eigenfunction as well: an upper bound there. The flag therefore compares lambda with the autocorrelation of its
    eigenfunction on held-out pairs, which is lambda for a true one, deterministic or not.

    Parameters
    ----------
    moments : Moments
        With T_ff and M_f1.
    held_out : Moments, optional
        Of the same features on held-out pairs; without them only growth is flagged, |lambda| > 1 + tolerance.
    tolerance : float
        Largest accepted |lambda - autocorrelation|.

    References
    ----------
    MATH.md, section 6; Colbrook and Townsend, Rigorous data-driven computation of spectral properties (2024).
    """
    eig = sorted_eig(edmd_operator(moments))
    test = moments if held_out is None else held_out
    V = eig.right

    def form(M: np.ndarray) -> np.ndarray:
        return np.sum(np.conj(V) * (M @ V), axis=0)

    norm, cross, after = np.real(form(test.M_f)), form(test.T_ff), np.real(form(test.M_f1))
    # linearly dependent features have eigenvectors that are no function at all
    is_function = norm > RANK_TOLERANCE * np.real(form(np.diag(np.diag(test.M_f))))
    norm = np.where(is_function, norm, np.nan)
    square = after - 2 * np.real(np.conj(eig.values) * cross) + np.abs(eig.values) ** 2 * norm
    deviation = np.abs(eig.values - cross / norm)
    is_spurious = ~is_function | (deviation > tolerance) | (np.abs(eig.values) > 1 + tolerance)
    variables = {
        "eigenvalues": (MODE, eig.values),
        "residual": (MODE, np.sqrt(np.maximum(square, 0) / norm)),
        "condition": (MODE, eig.condition),
        "autocorrelation_error": (MODE, deviation),
        "is_spurious": (MODE, is_spurious),
    }
    attrs = provenance(
        tolerance=tolerance,
        on_held_out_pairs=held_out is not None,
        note="for stochastic systems the residual is an upper bound: it contains the conditional variance",
    )
    return xr.Dataset(variables, coords={MODE: np.arange(1, len(eig.values) + 1)}, attrs=attrs)


def compare_subspaces(a: np.ndarray, b: np.ndarray, weights: np.ndarray | None = None) -> xr.Dataset:
    """Principal angles between the spans of two sets of functions given at the same points.

    Parameters
    ----------
    a, b : arrays of shape (n_points, k_a) and (n_points, k_b)
        Say, singular functions of two fits with different seeds, or of a fit and a reference.
    weights : array of shape (n_points,), optional
        Quadrature weights; equal by default.

    Returns
    -------
    Dataset
        `cosine` and `angle` (in degrees) per principal direction, worst last; attribute `agreement`, the mean squared
        cosine: 1 for equal spans.

    Raises
    ------
    ValueError
        If the points differ in number.

    Examples
    --------
    >>> x = np.linspace(0, 1, 50)[:, None]
    >>> compare_subspaces(np.hstack([x**0, x]), np.hstack([x**0 + x, x])).attrs["agreement"].__round__(6)
    1.0
    """
    if len(a) != len(b):
        raise ValueError(f"a and b must be given at the same points; got {len(a)} and {len(b)}.")
    root = np.sqrt(np.ones(len(a)) if weights is None else np.asarray(weights))[:, None]
    Q_a, Q_b = (np.linalg.qr(root * values)[0] for values in (a, b))
    cosine = np.clip(np.linalg.svd(conjugate_transpose(Q_a) @ Q_b, compute_uv=False), 0, 1)
    return xr.Dataset(
        {
            "cosine": ("direction", cosine),
            "angle": ("direction", np.degrees(np.arccos(cosine)), {"units": "degree"}),
        },
        coords={"direction": np.arange(1, len(cosine) + 1)},
        attrs=provenance(agreement=float(np.mean(cosine**2))),
    )


def agreement_of_fits(functions: Sequence[np.ndarray]) -> xr.Dataset:
    """Pairwise agreement (mean squared cosine) of several fits, from their functions at the same points.

    Parameters
    ----------
    functions : arrays (n_points, k), one per fit

    Examples
    --------
    >>> x = np.linspace(0, 1, 20)[:, None]
    >>> agreement_of_fits([x, 2 * x]).agreement.values.round(6)
    array([[1., 1.], [1., 1.]])
    """
    values = [[compare_subspaces(a, b).attrs["agreement"] for b in functions] for a in functions]
    return xr.Dataset({"agreement": (("fit", "other_fit"), np.array(values))}, attrs=provenance(n_fits=len(functions)))


class Finding(NamedTuple):
    """Something about a training run that a user should know, and what to do."""

    name: str
    message: str


def training_findings(moments: Moments, svals: Any = None, batch_size: int | None = None) -> list[Finding]:
    """What is wrong with the features of a trained model: low rank, saturated svals, duplicate modes, a small batch.

    Parameters
    ----------
    moments : Moments of unscaled features
    svals : learned singular values (n_modes,), optional
    batch_size : of the training, optional

    Returns
    -------
    list of Finding
        Empty where there is nothing to say.

    Examples
    --------
    >>> ones = np.ones((1, 2, 2))
    >>> [f.name for f in training_findings(Moments({"M_f": ones, "M_g": ones, "T_fg": ones}, np.array([1.0])))]
    ['low rank', 'duplicate modes']
    """
    k = len(moments.M_f)
    findings = []
    # modes without a share in the operator are arbitrary functions; only the others must differ
    matters = np.ones(k, bool) if svals is None else np.asarray(svals) > 0.1
    M_f, M_g = (M[np.ix_(matters, matters)] for M in (moments.M_f, moments.M_g))
    rank = min(effective_rank(M_f), effective_rank(M_g))
    if len(M_f) > 1 and rank < 0.6 * len(M_f):
        text = f"{len(M_f)} modes span only {rank:.1f} dimensions; train longer, set reg_weight=0.1, or refine."
        findings.append(Finding("low rank", text))
    overlap = np.abs(np.triu(_correlation(M_f), 1))
    if overlap.size and overlap.max() > 0.99:
        i, j = (np.flatnonzero(matters)[n] for n in np.unravel_index(overlap.argmax(), overlap.shape))
        text = f"modes {i + 1} and {j + 1} are the same function; use nesting='jnt' or 'seq', or reg_weight=0.1."
        findings.append(Finding("duplicate modes", text))
    if svals is not None:
        s = np.asarray(svals)
        saturated = np.flatnonzero((s < 1e-3) | ((s > 0.9999) & (np.arange(k) > 0)))
        if len(saturated):
            modes = ", ".join(str(i + 1) for i in saturated)
            text = f"svals of modes {modes} are saturated and no longer learn; lower n_modes or the learning_rate."
            findings.append(Finding("saturated svals", text))
    if batch_size is not None and batch_size < 2 * k:
        text = f"batch_size={batch_size} is small for {k} modes; use at least {4 * k}."
        findings.append(Finding("small batch", text))
    return findings


def held_out_scores(train: Moments, test: Moments) -> xr.Dataset:
    """VAMP-1, VAMP-2 and VAMP-E of held-out pairs as a Dataset that records its conventions."""
    scores = vamp_scores(train, test)
    attrs = provenance(counts_constant_mode=True, n_pairs_train=train.n_pairs, n_pairs_held_out=test.n_pairs)
    return xr.Dataset({name: ((), value) for name, value in scores._asdict().items()}, attrs=attrs)


def captured_share(f: np.ndarray, g: np.ndarray, reference: ReferenceSpectrum, n_modes: int | None = None) -> float:
    """Share of the true `sum sigma^2` that the learned pair of subspaces captures, by quadrature over the truth.

    `||P_f K P_g||_HS^2 / sum_{i <= n_modes} sigma_i^2`, with P_f and P_g the projections on the spans of f and g in L2
    of the stationary law: 1 at the exact singular functions, whatever linear maps are applied to f or g.

    Parameters
    ----------
    f, g : arrays of shape (n_points, k)
        Features at `reference.points`, the constant included.
    reference : ReferenceSpectrum
        With more modes than f has features, so that nothing that f and g might catch is missed.
    n_modes : int, optional
        Number of modes in the denominator, k by default.

    Raises
    ------
    ValueError
        If f and g are not given at `reference.points`.

    Examples
    --------
    >>> from koopman_lora.systems import NoisyRotation
    >>> reference = NoisyRotation().spectrum(lag=1, n_modes=9)
    >>> phi, psi = reference.left(reference.points), reference.right(reference.points)
    >>> round(captured_share(phi[:, :5], psi[:, :5], reference), 6)
    1.0
    """
    n_points = len(reference.points)
    if len(f) != n_points or len(g) != n_points:
        raise ValueError(f"f and g must be given at the {n_points} reference.points; got {len(f)} and {len(g)} rows.")
    root = np.sqrt(reference.weights)[:, None]
    Q_f, Q_g = (np.linalg.qr(root * features)[0] for features in (f, g))
    left, right = root * reference.left(reference.points), root * reference.right(reference.points)
    between = (np.conj(Q_f.T) @ left * reference.singular_values) @ (np.conj(right.T) @ Q_g)
    n_modes = f.shape[1] if n_modes is None else n_modes
    return float(np.sum(np.abs(between) ** 2) / np.sum(reference.singular_values[:n_modes] ** 2))
