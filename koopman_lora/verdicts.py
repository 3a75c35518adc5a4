"""`summarise`: a verdict in a word about every mode, and the few sentences that matter, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from koopman_lora._labels import MODE, interval, labelled, provenance
from koopman_lora.comparison import clusters
from koopman_lora.finding import Finding
from koopman_lora.findings import IRREVERSIBLE, NO_BETTER, OVER_FIT, TOO_HIGH, excess
from koopman_lora.fits import agreement_with_best
from koopman_lora.fitted import Fitted
from koopman_lora.moments import Moments
from koopman_lora.scores import Validation, correlations_with_error
from koopman_lora.selection import FEWEST_PAIRS, select_n_modes
from koopman_lora.summary import DIFFERENT, Summary
from koopman_lora.survey import NO_PLATEAU, Survey
from koopman_lora.training_reports import INTERRUPTED

EXACT, SURE, SAMPLING, UNRESOLVED, UNTESTED = "exact", "sure", "sampling", "not resolved", "not tested"
NO_MODES, NOT_TESTED, FEW_TRANSITIONS, MORE_MODES = "no modes", UNTESTED, "few transitions", "more modes"
DETERMINISTIC, NOT_NORMAL = "deterministic", "not normal"
# The most serious first; all others, about the data or the training, come where None stands.
RANKED = (
    INTERRUPTED,
    NO_BETTER,
    NO_MODES,
    NOT_TESTED,
    OVER_FIT,
    FEW_TRANSITIONS,
    None,
    DETERMINISTIC,
    NOT_NORMAL,
    NO_PLATEAU,
    IRREVERSIBLE,
    DIFFERENT,
    MORE_MODES,
)
FITS_DISAGREE, FITS_FAILED = "fits disagree", "fits failed"
# Mean squared cosine below which two fits found different subspaces.
_AGREED = 0.9
# Below so many transitions a timescale is known to a factor only: n of them tell a rate to 1 / sqrt(n).
ENOUGH_TRANSITIONS = 10
# An interval that is wider, or in which timescales differ by a larger factor, says that more data are needed.
_WIDE, _FACTOR = 0.1, 2.0
# Largest difference of learned, K_matrix and canonical values that is none.
_SAME = 0.01
# Sigma above which nothing is left to chance, and modulus of an eigenvalue below which it is another matter than sigma.
_CERTAIN, _FADING = 0.99, 0.9
# Condition number beyond which an eigenvalue is much less certain than sigma.
_ILL_CONDITIONED = 5.0
# Variance of a function at held-out pairs, of 1 over all, below which these hardly show it.
_SHOWN_VARIANCE = 0.2


def summarise(
    fitted: Fitted, spectrum: xr.Dataset, intervals: xr.Dataset, comparison: xr.Dataset, seen: Survey | None
) -> Summary:
    """The summary of a fit from what is known of it.

    Parameters
    ----------
    spectrum, intervals, comparison : of `koopman_spectrum`, `bootstrap_intervals`, `compare_singular_values`
    seen : of the frames; None where they are not at hand
    """
    validation, moments = fitted.validation, fitted.moments.everywhere
    selection = _selection(validation, fitted.seed)
    modes = _modes(spectrum, intervals, moments, validation, selection, seen)
    if fitted.fits is not None and len(fitted.fits.fit) > 1:
        modes["agreement"] = (MODE, agreement_with_best(fitted.fits, modes["cluster"].values))
    findings = [finding for finding in fitted.findings if finding.name in RANKED or fitted.refinement is None]
    findings += [] if seen is None else seen.findings
    findings += [] if selection is None else _number_findings(selection, modes)
    findings += _transition_findings(modes) + _condition_findings(modes) + _difference_findings(comparison)
    findings += _fit_findings(fitted.fits, modes)
    attrs = provenance(
        n_pairs=moments.n_pairs,
        n_effective=moments.n_effective,
        n_held_out=0 if validation is None else validation.moments.n_pairs,
        level=intervals.attrs["level"],
        spread=_spread(comparison),
        has_frames=seen is not None,
        n_fits=1 if fitted.fits is None else len(fitted.fits.fit),
        **moments.clock.attrs(),
    )
    return Summary(modes.assign_attrs(attrs), _ranked(findings), selection)


def _selection(validation: Validation | None, seed: int) -> xr.Dataset | None:
    if validation is None or len(validation.phi) < FEWEST_PAIRS or validation.moments.clock.lag is None:
        return None
    return select_n_modes(validation, seed=seed)


# ----------------------------------------------------------------------------------------------------------- the table


def _modes(
    spectrum: xr.Dataset,
    intervals: xr.Dataset,
    moments: Moments,
    validation: Validation | None,
    selection: xr.Dataset | None,
    seen: Survey | None,
) -> xr.Dataset:
    sigma = spectrum["canonical_singular_values"].values
    bounds = intervals["canonical_singular_values_interval"].values
    own, share = own_eigenvalues(spectrum, moments)
    unknown = np.full(len(sigma), np.nan)
    held, error = (unknown, unknown) if validation is None else correlations_with_error(validation.moments)
    left_out = unknown if validation is None else validation.left_out()
    transitions = np.full(len(sigma), -1) if seen is None else np.array(seen.transitions)
    times = intervals["timescales_interval"].values[:, own]
    unit, eigenvalues = {"units": str(spectrum.attrs["time_unit"])}, spectrum["eigenvalues"].values[own]
    variables: dict[str, Any] = {
        "sigma": (MODE, sigma),
        **interval("sigma", [MODE], bounds),
        "sigma_held_out": (MODE, held),
        "held_out_error": (MODE, error),
        "sigma_left_out": (MODE, left_out),
        "eigenvalues": (MODE, eigenvalues),
        "eigenvalue_condition": (MODE, spectrum["eigenvalue_condition"].values[own]),
        "own_share": (MODE, share),
        "timescales": (MODE, spectrum["timescales"].values[own], unit),
        **interval("timescales", [MODE], times, unit["units"]),
        "periods": (MODE, moments.clock.periods(eigenvalues), unit),
        "transitions": (MODE, transitions),
        "cluster": (MODE, clusters(bounds)),
    }
    is_tested = ~np.isnan(held) & (True if validation is None else _is_shown(validation))
    is_resolved = _resolved(held, error, selection)
    too_high = np.zeros(len(sigma), bool) if validation is None else excess(moments, validation) > TOO_HIGH
    few = _has_few_transitions(transitions)
    wide = _is_wide(bounds) | few | ~(held > 2 * np.nan_to_num(error))
    words = np.select([~is_tested, ~is_resolved, too_high, wide], [UNTESTED, UNRESOLVED, OVER_FIT, SAMPLING], SURE)
    words[0] = EXACT if abs(sigma[0] - 1) < 1e-9 else words[0]
    return labelled(variables | {"verdict": (MODE, words)})


def own_eigenvalues(spectrum: xr.Dataset, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Which eigenvalue belongs to each singular function, and how much of its eigenfunction lies along it.

    Returns
    -------
    positions (n_modes,) of eigenvalues, each once, and shares (n_modes,) in [0, 1]; of a conjugate pair the share
    within the two singular functions that it was given.
    """
    phi, eigen = (spectrum[f"{n}_coefficients"].values for n in ("phi", "right_eigenfunction"))
    overlap = np.abs(np.conj(phi.T) @ moments.M_f @ eigen) ** 2  # (singular function, eigenfunction)
    own = linear_sum_assignment(-overlap)[1]
    values = spectrum["eigenvalues"].values
    row_of = np.argsort(own)
    share = overlap[np.arange(len(own)), own]
    for i, j in enumerate(own):
        other = int(np.argmin(np.abs(values - np.conj(values[j])))) if values[j].imag else j
        if other != j:
            share[i] += overlap[row_of[other], j]
    return own, np.minimum(share, 1.0)


def _resolved(held: np.ndarray, error: np.ndarray, selection: xr.Dataset | None) -> np.ndarray:
    if selection is None:
        return held > 2 * np.nan_to_num(error, nan=np.inf)
    return selection["sigma_held_out"].values > np.nan_to_num(selection["noise_threshold"].values)


def _is_shown(validation: Validation) -> np.ndarray:
    """Whether functions vary at the held-out pairs as they do elsewhere, (n_modes,).

    Where no transition was held out, these pairs judge neither for nor against a mode. Functions that are 0 everywhere,
    of modes that the features have not, show all they have.
    """
    variance = np.minimum(validation.phi.var(axis=0), validation.psi.var(axis=0))
    return (variance > _SHOWN_VARIANCE) | (validation.sigma < 1e-6)


def _is_wide(bounds: np.ndarray) -> np.ndarray:
    """Intervals (2, n_modes) of sigma that span more than a tenth, or timescales of more than a factor of two."""
    lower, upper = bounds
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.log(lower) / -np.abs(np.log(upper))  # of an upper bound of 1: infinite
    return (upper - lower > _WIDE) | ((upper > 0.5) & (upper > lower) & ~(factor < _FACTOR))


def _has_few_transitions(transitions: np.ndarray) -> np.ndarray:
    few = (transitions >= 0) & (transitions < ENOUGH_TRANSITIONS)
    few[:1] = False  # the constant
    return few


# ------------------------------------------------------------------------------------------------------- the sentences


def _is_certain(modes: xr.Dataset) -> bool:
    """Whether the next state follows from the present one: all sigma are 1, also where eigenvalues are not.

    The operator is then an isometry, and any function one of its singular functions.
    """
    sigma, held = modes["sigma"].values, np.nan_to_num(modes["sigma_held_out"].values, nan=1.0)
    fading = np.abs(modes["eigenvalues"].values) < _FADING
    return bool(len(sigma) > 2 and min(sigma.min(), held.min()) > _CERTAIN and fading.any())


def _number_findings(selection: xr.Dataset, modes: xr.Dataset) -> list[Finding]:
    n = int(selection["recommended"])
    unseen = np.flatnonzero(modes["verdict"].values == UNTESTED)
    if len(unseen):
        listed = ", ".join(str(i + 1) for i in unseen)
        text = (
            f"the held-out pairs hardly show mode{'s' if len(unseen) > 1 else ''} {listed}: no transition was held "
            "out, so nothing judged what was learned. Give more data, or another seed, which splits otherwise."
        )
        return [Finding(NOT_TESTED, text)]
    if n == 1:
        text = (
            "no mode but the constant is above noise: nothing here can be predicted at this lag. Give more data, a "
            "shorter lag, or other coordinates."
        )
        return [Finding(NO_MODES, text)]
    if _is_certain(modes):
        fading = np.abs(modes["eigenvalues"].values).min()
        text = (
            f"all sigma are 1 within {1 - _CERTAIN:.2g}, while eigenvalues fall to {fading:.2f}: at this lag the next "
            "state follows from the present one, as in a process without noise, or where delays overlap. Sigma then do "
            "not tell which modes matter: read eigenvalues and timescales, or fit at a longer lag."
        )
        return [Finding(DETERMINISTIC, text)]
    if selection.attrs["is_capped"]:
        text = f"all {n} modes that were fitted are above noise: there may be more. Fit more, say n_modes={2 * n}."
        return [Finding(MORE_MODES, text)]
    return []


def _transition_findings(modes: xr.Dataset) -> list[Finding]:
    transitions = modes["transitions"].values
    few = np.flatnonzero(_has_few_transitions(transitions) & (modes["verdict"].values != UNRESOLVED))
    if not len(few):
        return []
    counts = ", ".join(f"{transitions[i]} of mode {i + 1}" for i in few)
    text = (
        f"transitions seen within trajectories: {counts}. Below some {ENOUGH_TRANSITIONS}, a timescale is known to a "
        "factor only, and populations less: simulate longer, or start trajectories at both ends."
    )
    return [Finding(FEW_TRANSITIONS, text)]


def _condition_findings(modes: xr.Dataset) -> list[Finding]:
    condition = modes["eigenvalue_condition"].values
    told = ~np.isin(modes["verdict"].values, (EXACT, UNRESOLVED, UNTESTED)) & np.isfinite(condition)
    ill = np.flatnonzero(told & (condition > _ILL_CONDITIONED))
    if not len(ill):
        return []
    listed = ", ".join(f"{condition[i]:.0f} (mode {i + 1})" for i in ill[:4])
    listed += f" and {len(ill) - 4} more" if len(ill) > 4 else ""
    text = (
        f"the operator is far from normal: condition numbers of eigenvalues are {listed}. Errors of the functions, "
        "which intervals without refits leave out, move eigenvalues, timescales and periods so many times as far as "
        "sigma. Read sigma first, and intervals(refit=20)."
    )
    return [Finding(NOT_NORMAL, text)]


def _spread(comparison: xr.Dataset) -> float:
    """Largest distance of learned and K_matrix values from the canonical ones."""
    learned, K_matrix, canonical = (comparison[name].values for name in ("learned", "K_matrix", "canonical"))
    return float(max(np.abs(learned - canonical).max(), np.abs(K_matrix - canonical).max()))


def _difference_findings(comparison: xr.Dataset) -> list[Finding]:
    spread, causes = _spread(comparison), comparison["size"].to_series()
    causes = causes[["training gap", "non-orthogonality", "anisotropy"]]  # the others are told of per mode
    if spread <= _SAME or causes.max() <= _SAME / 2:
        return []
    text = (
        f"learned, K_matrix and canonical values differ by up to {spread:.2g}, mostly by {causes.idxmax()}: read the "
        "canonical ones, and see diagnose()."
    )
    return [Finding(DIFFERENT, text)]


def _fit_findings(fits: xr.Dataset | None, modes: xr.Dataset) -> list[Finding]:
    """That fits found different functions of modes that are resolved, or that some came to nothing."""
    if fits is None:
        return []
    found = []
    if fits.attrs["failed"]:
        text = f"not every fit came to an end ({fits.attrs['failed']}); lower the learning_rate, or look at the data."
        found.append(Finding(FITS_FAILED, text))
    if "agreement" not in modes:
        return found
    apart = (modes["agreement"].values < _AGREED) & (modes["verdict"].values != UNRESOLVED)
    if apart.any():
        listed = ", ".join(f"{i + 1} ({modes['agreement'].values[i]:.2f})" for i in np.flatnonzero(apart))
        text = (
            f"{fits.attrs['n_fits']} fits found different functions of modes {listed} (mean squared cosine, of the "
            "modes whose sigma are not told apart): do not read these functions. More data, or fewer modes."
        )
        found.append(Finding(FITS_DISAGREE, text))
    return found


def _ranked(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    def rank(finding: Finding) -> int:
        return RANKED.index(finding.name if finding.name in RANKED else None)

    return tuple(sorted(findings, key=rank))
