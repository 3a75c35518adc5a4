"""What is wrong with the features of a trained model, in words, and what to do about it."""

from __future__ import annotations

from typing import Any

import numpy as np

from koopman_lora._linalg import effective_rank, to_correlation
from koopman_lora.arguments import as_svals
from koopman_lora.checks import checked
from koopman_lora.finding import Finding
from koopman_lora.intervals import in_long_blocks
from koopman_lora.moments import Moments, OneEstimate
from koopman_lora.scores import Validation, correlations_with_error
from koopman_lora.triples import canonical_triples, independent_basis

NO_BETTER = "no better than the constant"
OVER_FIT = "over-fit"
IRREVERSIBLE = "not reversible"
# Findings about the finished fit; the others are about the features before refinement.
OF_THE_FIT = (NO_BETTER, OVER_FIT, IRREVERSIBLE)
# What `excess` must pass to be told; `benchmarks/trust.py --only overfit` measures what is found, and false alarms.
TOO_HIGH, _ERRORS_OF_HELD_OUT = 0.1, 1.5
# Correlation of functions at held-out pairs that noise does not give, if it is three errors above 0 as well.
_CONFIRMED = 0.3
# Chance gives a false alarm in this share of fits to reversible data, found by so many draws.
_FALSE_ALARMS, _N_DRAWS = 0.01, 999


def findings_of_pairs(moments: Moments, validation: Validation | None) -> list[Finding]:
    """What is wrong with fitted functions at the pairs whose moments these are; `OF_THE_FIT` names all that may be.

    Parameters
    ----------
    moments : of the fitted features over all of these pairs, per block
    validation : of those that nothing was fitted to; None where there are none
    """
    held_out = [] if validation is None else held_out_findings(validation) + overfit_findings(moments, validation)
    return held_out + equilibrium_findings(moments)


def held_out_findings(validation: Validation) -> list[Finding]:
    """A fit whose held-out VAMP-E does not beat that of the constant function, which is 1: in words, why."""
    vamp_e = validation.scores().vamp_e
    if vamp_e > 1:
        return []
    text = f"held-out VAMP-E {vamp_e:.3g} is not above 1, that of the constant: "
    values, error = correlations_with_error(validation.moments)
    confirmed = 1 + np.flatnonzero(values[1:] > np.maximum(_CONFIRMED, 3 * error[1:]))
    if len(confirmed):
        modes = ", ".join(f"{values[i]:.2f} (mode {i + 1})" for i in confirmed[:3])
        text += (
            f"the functions do correlate there, {modes}, but in other proportions than where they were trained; data "
            "with few transitions do not know the populations. Give more data, or several trajectories."
        )
    else:
        text += (
            "on pairs that it was not trained on, this fit predicts no better than the mean. Too few pairs or "
            "transitions, perhaps, or nothing to predict at this lag; give more data, a shorter lag or fewer modes."
        )
    return [Finding(NO_BETTER, text)]


def excess(moments: Moments, validation: Validation) -> np.ndarray:
    """By how much canonical values may be too high, (n_modes,): 0 for the constant.

    The larger one of two distances: from the correlations of functions at folds that they were not solved from, which
    have little noise but do not find what networks remember, and from those at held-out pairs, which networks have not
    seen, less `_ERRORS_OF_HELD_OUT` standard errors of theirs. And the mean of this over all modes, which tells where
    each is a little too high.

    Parameters
    ----------
    moments : of the fitted features over all pairs, per block
    validation : of the same fit
    """
    canonical = canonical_triples(moments).values
    if validation.moments.n_blocks < 2 or len(canonical) < 2:
        return np.zeros(len(canonical))
    held, error = correlations_with_error(validation.moments)
    result = canonical - np.maximum(held, 0.0) - _ERRORS_OF_HELD_OUT * np.minimum(error, 1.0)
    if validation.of_folds is not None:
        result = np.maximum(result, canonical - np.maximum(validation.of_folds, 0.0))
    result = result + result[1:].mean()
    result[canonical > 1 - 1e-9] = 0.0
    return result


def overfit_findings(moments: Moments, validation: Validation) -> list[Finding]:
    """Canonical values that pairs which were left out do not confirm within `TOO_HIGH`; see `excess`."""
    too_high = np.flatnonzero(excess(moments, validation) > TOO_HIGH)
    if not len(too_high):
        return []
    canonical, found = canonical_triples(moments).values, validation.left_out()
    shown = too_high[:4]
    modes, values, others = (
        ", ".join(texts)
        for texts in zip(*((f"{i + 1}", f"{canonical[i]:.2f}", f"{found[i]:.2f}") for i in shown), strict=True)
    )
    more = f" and {len(too_high) - len(shown)} more" if len(too_high) > len(shown) else ""
    text = (
        f"canonical values {values} of mode{'s' if len(too_high) > 1 else ''} {modes}{more} may be too high; at pairs "
        f"that were left out they are {others}. Expect values in between. Get more data, or fit fewer modes, a "
        "narrower network, or shared_encoder=True."
    )
    return [Finding(OVER_FIT, text)]


def equilibrium_findings(moments: Moments) -> list[Finding]:
    """Pairs that count both ways, of a process that is not reversible beyond chance.

    Reversed, blocks of a reversible process have the same law, and their antisymmetric parts the other sign: so the sum
    over blocks is compared with sums under random signs, every entry in units of its own spread.

    Parameters
    ----------
    moments : Moments
        With A_ff. Without it, of fewer than 8 blocks, or of a single function beside the constant nothing is said.

    Examples
    --------
    >>> pairs = lagged_pairs(NoisyRotation().simulate(n_steps=2000, seed=0)).both_ways()
    >>> [finding.name for finding in equilibrium_findings(estimate_moments(lambda x: x, lambda x: x, pairs))]
    ['not reversible']
    """
    if "A_ff" not in moments:
        return []
    blocks = in_long_blocks(independent_basis(moments).moments(moments))
    A = blocks.block_sums["A_ff"]
    upper = A[:, *np.triu_indices(A.shape[-1])]
    entries = np.concatenate([upper.real, upper.imag], axis=1)  # (n_blocks, entries)
    power = np.sum(entries**2, axis=0)
    entries = entries[:, power > 0] / np.sqrt(power[power > 0])
    if entries.size == 0 or len(entries) < 8:
        return []
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(_N_DRAWS, len(entries)))
    found, by_chance = (np.sum((s @ entries) ** 2, axis=-1) for s in (np.ones(len(entries)), signs))
    if np.sum(by_chance >= found) + 1 > _FALSE_ALARMS * (_N_DRAWS + 1):
        return []
    share = np.linalg.norm(A.sum(axis=0)) / np.linalg.norm(blocks.block_sums["T_ff"].sum(axis=0))
    text = (
        f"the data do not look reversible: forward and backward differ by {100 * share:.2g} % (antisymmetric against "
        f"symmetric part of E[f(x)^H f(x')]), more than chance gives in {100 * _FALSE_ALARMS:g} % of cases. What "
        "differs is left out of this fit; use reversible=False to see it."
    )
    return [Finding(IRREVERSIBLE, text)]


@checked
def training_findings(moments: OneEstimate, svals: Any = None, batch_size: int | None = None) -> list[Finding]:
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
    >>> [f.name for f in training_findings(kl.Moments({"M_f": ones, "M_g": ones, "T_fg": ones}, np.array([1.0])))]
    ['low rank', 'duplicate modes']
    """
    k = len(moments.M_f)
    svals = None if svals is None else as_svals(svals, moments.M_f.shape[-1], least=-np.inf)
    findings = []
    # modes without a share in the operator are arbitrary functions; only the others must differ
    matters = np.ones(k, bool) if svals is None else svals > 0.1
    M_f, M_g = (M[np.ix_(matters, matters)] for M in (moments.M_f, moments.M_g))
    rank = min(effective_rank(M_f), effective_rank(M_g))
    if len(M_f) > 1 and rank < 0.6 * len(M_f):
        text = f"{len(M_f)} modes span only {rank:.1f} dimensions; train longer, set reg_weight=0.1, or refine."
        findings.append(Finding("low rank", text))
    overlap = np.abs(np.triu(to_correlation(M_f), 1))
    if overlap.size and overlap.max() > 0.99:
        i, j = (np.flatnonzero(matters)[n] for n in np.unravel_index(overlap.argmax(), overlap.shape))
        text = f"modes {i + 1} and {j + 1} are the same function; use nesting='jnt' or 'seq', or reg_weight=0.1."
        findings.append(Finding("duplicate modes", text))
    if svals is not None:
        saturated = np.flatnonzero((svals < 1e-3) | ((svals > 0.9999) & (np.arange(k) > 0)))
        if len(saturated):
            modes = ", ".join(str(i + 1) for i in saturated)
            text = f"svals of modes {modes} are saturated and no longer learn; lower n_modes or the learning_rate."
            findings.append(Finding("saturated svals", text))
    if batch_size is not None and batch_size < 2 * k:
        text = f"batch_size={batch_size} is small for {k} modes; use at least {4 * k}."
        findings.append(Finding("small batch", text))
    return findings
