"""Learned against empirical singular values: what separates them, in numbers, with a verdict and a remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import CAUSE, MODE, interval, labelled, provenance
from koopman_lora._linalg import to_correlation
from koopman_lora.arguments import as_svals
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.kinds import LARGEST
from koopman_lora.loss_terms import lora_terms
from koopman_lora.moments import Moments, OneEstimate
from koopman_lora.scores import Validation, check_same_features, correlations_with_error
from koopman_lora.spectrum import koopman_spectrum, looks_scaled
from koopman_lora.triples import canonical_triples, independent_basis

# Cause of disagreement -> what to do about it, in the order of the guide; each measured in `benchmarks/verdicts.py`.
REMEDIES = {
    "training gap": "train for more epochs (n_epochs), or refine.",
    "non-orthogonality": "use nesting='jnt' and reg_weight=0.1 together, with learn_svals=True; or refine.",
    "anisotropy": "read the canonical values, which do not depend on the scale of features; learn_svals=True or "
    "refining equalises the scales, and shared_encoder=True where the process is reversible.",
    "generalisation gap": "get more data, or ask for less: fewer modes (select_n_modes), fewer coordinates.",
    "sampling error": "get more data; no training removes it. Within the intervals, the values agree.",
}
# Bounds of the constant mode are one point, which values of float32 features miss.
_ROUND_OFF = 1e-3


@checked
def compare_singular_values(
    moments: OneEstimate,
    svals: Any = None,
    held_out: OneEstimate | Validation | None = None,
    bootstrap: Bootstrap = Bootstrap(),
) -> xr.Dataset:
    """Compare learned, K_matrix and canonical singular values, and name the largest cause of disagreement.

    The path from the learned to the true values is walked in steps, each a cause with a root-mean-square size:

    - non-orthogonality: learned svals -> singular values of the learned operator `sum_i s_i f_i <g_i, .>` in L2;
    - training gap: -> canonical values, the best operator in the span of the same features on the same pairs;
    - generalisation gap: -> the same singular functions evaluated on held-out pairs (NaN where none are given), as far
      as the noise of those pairs cannot explain it;
    - sampling error: two standard errors of the canonical values, by bootstrap;
    - anisotropy: canonical -> K_matrix singular values, which depend on the scale and conditioning of the features;
      those above 1 count as 1.

    Parameters
    ----------
    moments : Moments
        Training moments of the features, *not* scaled by svals.
    svals : array of shape (n_modes,), optional
        Learned singular values; without them, the values implied by the scale of f and g.
    held_out : Moments or Validation, optional
        Of the same features on held-out pairs, in at least 2 blocks, or singular functions fitted on training pairs at
        held-out ones.
    bootstrap : of the intervals

    Returns
    -------
    Dataset
        Per mode: `learned`, `learned_operator`, `K_matrix`, `canonical`, `canonical_held_out` and its standard error
        `held_out_error`, `canonical_interval`, `ratio` (K_matrix / learned), `cluster`; per cause: `size`;
        attributes: `verdict`, `remedy`, `reading` (which values to read, and what to expect of the others),
        `is_scaled_twice` (see `looks_scaled`), the guide's checks (`is_decreasing`, `is_in_unit_interval`, `elbow`),
        `ratio_mean`, `ratio_std`, `cond_M_f`, `cond_M_g`, `deviation_M_f`, `deviation_M_g`, `loss_gap`.
        `comparison_text` makes it readable.

    References
    ----------
    docs/mathematics.md, section 6.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> moments = estimate_moments(features, features, (x, 0.5 * x))  # x' = x / 2 correlates perfectly: sigma is 1
    >>> comparison = kl.compare_singular_values(moments, svals=[1.0, 0.5])
    >>> comparison.canonical.values.round(3), comparison.verdict
    (array([1., 1.]), 'training gap')
    """
    svals = None if svals is None else as_svals(svals, moments.M_f.shape[-1])
    spectrum, intervals = koopman_spectrum(moments, svals), bootstrap_intervals(moments, svals, bootstrap)
    return comparison_with(spectrum, intervals, moments, svals, held_out)


def comparison_with(
    spectrum: xr.Dataset,
    intervals: xr.Dataset,
    moments: Moments,
    svals: np.ndarray | None,
    held_out: Moments | Validation | None,
) -> xr.Dataset:
    """`compare_singular_values` with what `koopman_spectrum` and `bootstrap_intervals` gave of the same moments."""
    canonical, K_values = (spectrum[n].values for n in ("canonical_singular_values", "singular_values"))
    learned = implied_svals(moments) if svals is None else svals
    operator_values = learned_operator_values(moments, svals)
    bounds = intervals["canonical_singular_values_interval"].values
    held, held_error = _held_out_values(moments, held_out)
    ordered = np.sort(learned)[::-1]
    sizes = {
        "training gap": _rms(operator_values - canonical),
        "non-orthogonality": _rms(ordered - operator_values),
        # K has no singular value above 1: beyond it all are equally meaningless, and would hide every other cause
        "anisotropy": _rms(np.minimum(K_values, 1.0) - canonical),
        "generalisation gap": _excess(canonical - held, held_error),
        "sampling error": 2 * _rms(intervals["canonical_standard_error"].values),
    }
    known = {name: size for name, size in sizes.items() if np.isfinite(size)}
    verdict = max(known, key=known.__getitem__)
    ratio = K_values / np.where(ordered > 1 / LARGEST, ordered, np.nan)  # the square of a larger one overflows
    told = ratio[np.isfinite(ratio)]
    variables = {
        "learned": (MODE, ordered),
        "learned_operator": (MODE, operator_values),
        "K_matrix": (MODE, K_values),
        "canonical": (MODE, canonical),
        "canonical_held_out": (MODE, held),
        "held_out_error": (MODE, held_error),
        **interval("canonical", [MODE], bounds),
        "ratio": (MODE, ratio),
        "cluster": (MODE, clusters(bounds)),
        "size": (CAUSE, list(sizes.values())),
    }
    attrs = provenance(
        verdict=verdict,
        remedy=REMEDIES[verdict],
        reading=_reading(ordered, K_values, bounds),
        is_scaled_twice=looks_scaled(moments, svals),
        ratio_mean=float(np.mean(told)) if told.size else np.nan,
        ratio_std=float(np.std(told)) if told.size else np.nan,
        is_decreasing=bool(np.all(np.diff(learned) <= 1e-9)),
        is_in_unit_interval=bool(np.all((learned > 0) & (learned <= 1))),
        elbow=elbow(canonical),
        has_held_out=held_out is not None,
        loss_gap=loss_gap(moments, svals),
        **_conditioning(moments),
        level=intervals.attrs["level"],
        **moments.clock.attrs(),
    )
    return labelled(variables, attrs, {CAUSE: list(sizes)})


def _reading(learned: np.ndarray, K_values: np.ndarray, bounds: np.ndarray) -> str:
    """What to read, from learned and K_matrix values and the interval (2, n_modes) of the canonical ones.

    Examples
    --------
    >>> bounds = np.array([[1.0, 0.7, 0.4], [1.0, 0.8, 0.5]])
    >>> _reading(np.array([1.0, 0.9, 0.45]), np.array([1.0, 0.75, 0.45]), bounds)
    'learned values are outside the intervals in mode 2: svals are a target of training, not the spectrum; ...'
    """
    lower, upper = bounds[0] - _ROUND_OFF, bounds[1] + _ROUND_OFF
    reasons = {
        "learned": (learned, "svals are a target of training, not the spectrum"),
        "K_matrix": (K_values, "they depend on the basis of features"),
    }
    sentences = []
    for name, (values, reason) in reasons.items():
        outside = 1 + np.flatnonzero((values < lower) | (values > upper))
        if len(outside):
            listed = f"mode{'s' if len(outside) > 1 else ''} {', '.join(map(str, outside))}"
            sentences.append(f"{name} values are outside the intervals in {listed}: {reason}")
    if sentences:
        return "; ".join([*sentences, "read the canonical values."])
    return "learned, K_matrix and canonical values agree within the intervals: expect no more, they need not be equal."


def _held_out_values(moments: Moments, held_out: Moments | Validation | None) -> tuple[np.ndarray, np.ndarray]:
    """Held-out correlations of the singular functions and their jackknife standard errors, (n_modes,) each."""
    if held_out is None:
        unknown = np.full(len(moments.M_f), np.nan)
        return unknown, unknown
    if isinstance(held_out, Validation):
        functions = held_out.moments
    else:
        check_same_features(moments=moments, held_out=held_out)
        basis = independent_basis(moments)
        left, _, right = canonical_triples(basis.moments(moments))
        functions = basis.moments(held_out).transformed(left, right)
    if functions.n_blocks < 2:
        raise ValueError("held_out must be kept in at least 2 blocks; use estimate_moments(n_blocks=64).")
    return correlations_with_error(functions)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _excess(difference: np.ndarray, error: np.ndarray) -> float:
    """Root mean square of what noise of standard errors `error` cannot explain, at three standard deviations."""
    explained = (1 + 3 * np.sqrt(2 / len(error))) * np.mean(error**2)
    return float(np.sqrt(np.maximum(np.mean(difference**2) - explained, 0.0)))


def _conditioning(moments: Moments) -> dict[str, float]:
    """Condition numbers of the moments, and ||M - I||_F of features of unit norm."""
    result = {}
    for name in ("M_f", "M_g"):
        M = getattr(moments, name)
        result[f"cond_{name}"] = float(np.linalg.cond(M))
        result[f"deviation_{name}"] = float(np.linalg.norm(to_correlation(M) - np.eye(len(M))))
    return result


def implied_svals(moments: Moments) -> np.ndarray:
    """Singular values that the scale of the features stands for: `|f_i| |g_i|`, (n_modes,)."""
    return np.sqrt(np.real(np.diag(moments.M_f)) * np.real(np.diag(moments.M_g)))


def _root(M: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(M)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ np.conj(vectors.T)


def learned_operator_values(moments: Moments, svals: np.ndarray | None) -> np.ndarray:
    """Singular values in L2 of the learned operator `sum_i s_i f_i <g_i, .>`: of `M_f^{1/2} diag(s) M_g^{1/2}`."""
    s = np.ones(len(moments.M_f)) if svals is None else as_svals(svals, moments.M_f.shape[-1])
    return np.linalg.svd(_root(moments.M_f) * s @ _root(moments.M_g), compute_uv=False)


def loss_gap(moments: Moments, svals: np.ndarray | None) -> float:
    """Un-nested loss minus its minimum `-sum sigma^2` over the span of the same features: never negative."""
    matrices = moments.M_f, moments.T_fg, moments.M_g
    return float(lora_terms(*matrices).loss(svals) + np.sum(canonical_triples(moments).values ** 2))


def clusters(bounds: np.ndarray) -> np.ndarray:
    """Cluster numbers (from 1) of neighbours whose intervals overlap: these values fix a subspace, not functions.

    Parameters
    ----------
    bounds : lower and upper bounds (2, n_modes) of decreasing values

    Examples
    --------
    >>> clusters(np.array([[1, 0.88, 0.87], [1, 0.92, 0.91]]))
    array([1, 2, 2])
    """
    # sampling pushes equal values apart, so one value outside the other's interval does not tell them from each other
    lower, upper = bounds
    apart = upper[1:] < lower[:-1]
    return 1 + np.concatenate([[0], np.cumsum(apart)])


def elbow(values: np.ndarray) -> int:
    """Number of modes before the largest drop of the values, at least 1.

    Examples
    --------
    >>> elbow(np.array([1.0, 0.9, 0.3, 0.25]))
    2
    """
    return int(np.argmax(-np.diff(values))) + 1 if len(values) > 1 else 1
