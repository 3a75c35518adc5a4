"""Weights that make short runs from off-equilibrium starts stationary: Koopman reweighting."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr

from koopman_lora._labels import OBSERVABLE, interval, labelled, provenance
from koopman_lora._linalg import RANK_TOLERANCE
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.checks import checked
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.finding import Finding
from koopman_lora.intervals import modulus_interval, unseen_floor
from koopman_lora.kinds import Share, moderate_array
from koopman_lora.moments import FeatureMap, Moments, OneEstimate
from koopman_lora.triples import in_one_block, independent_basis, moment_whitener

NOT_CONNECTED, FEW_COUNT = "not connected", "few pairs count"
# Share of the pairs below which weights leave few that count, and a number of pairs that is always few.
_COUNTING, _FEW = 0.01, 100
# Share of the sum of moduli that negative weights may have before they are told, and before they are refused.
_NEGATIVE, _MOST_NEGATIVE = 0.05, 0.5
# Factor to which the rate of the slowest relaxation must be known, within its interval.
_UNKNOWN = 10.0
# Distance from 1 of a relaxation that no pair connects.
_ROUND_OFF = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class EquilibriumWeights:
    """Weights w(x) of states under which the pairs that they were estimated from are stationary, of mean 1.

    Attributes
    ----------
    coefficients : array (k,): w(x) = f(x) @ coefficients
    n_pairs, n_effective : pairs, and how many of equal weight tell as much
    slowest : modulus of the slowest relaxation in the span of the features, and its interval (2,); NaN where the
        moments have fewer than 8 blocks
    means : Dataset of equilibrium means of the observables of the moments, with intervals; None without observables
    findings : what may be wrong, in sentences
    """

    coefficients: np.ndarray
    n_pairs: int
    n_effective: float
    slowest: float
    slowest_interval: np.ndarray
    means: xr.Dataset | None
    findings: tuple[Finding, ...]

    def __repr__(self) -> str:
        told = "".join(f"\n{finding.name}: {finding.message}" for finding in self.findings)
        return f"EquilibriumWeights({self.n_pairs} pairs, weighted as {self.n_effective:.0f}){told}"

    def at(self, features: Any) -> np.ndarray:
        """Weights (n,) of states from their features (n, k), of the map that the moments are of; some may be negative.

        Raises
        ------
        ValueError
            For another number of features.
        """
        values = moderate_array("features", features)
        if values.ndim != 2 or values.shape[1] != len(self.coefficients):
            raise ValueError(f"features must have shape (n, {len(self.coefficients)}); got {values.shape}.")
        return np.real(values @ self.coefficients)

    def weighted(self, pairs: LaggedPairs, f: FeatureMap) -> LaggedPairs:
        """Pairs with these weights, 0 where they are negative.

        What is estimated from them takes the weights as known: intervals that also hold what is not known of the
        weights are those of `means`.

        Parameters
        ----------
        pairs : those that the moments are of, or others of the same starts
        f : the map that the moments are of

        Raises
        ------
        ValueError
            If negative weights have more than half of the sum of moduli.

        Warns
        -----
        UserWarning
            If they have more than a twentieth.
        """
        with torch.no_grad():
            weights = np.concatenate([self.at(f(batch[0])) for batch in pairs.batches()])
        if pairs.weights is not None:
            weights = weights * pairs.weights
        share = -weights[weights < 0].sum() / np.abs(weights).sum()
        text = (
            f"negative weights have {100 * share:.2g} % of the sum of moduli: the features cannot tell how the "
            "stationary density lies to that of the pairs. Give more features, or starts that overlap more."
        )
        if share > _MOST_NEGATIVE:
            raise ValueError(text)
        if share > _NEGATIVE:
            warnings.warn(f"{text} They count as 0.", stacklevel=2)
        return pairs.weighted(np.maximum(weights, 0.0))


@checked
def equilibrium_weights(
    moments: OneEstimate, bootstrap: Bootstrap = Bootstrap(), threshold: Share = RANK_TOLERANCE
) -> EquilibriumWeights:
    """Weights of states that make pairs from off-equilibrium starts stationary, by Koopman reweighting.

    The process must have one stationary law, and short runs must cover it together: where no run was, no weight helps.
    The law is that of `E[w(x) f(x')] = E[w(x) f(x)]` for all features, with w in their span.

    Parameters
    ----------
    moments : Moments
        M_f and T_ff, of features f with the constant in their span, over pairs one way; one-hot features make the
        stationary distribution of a Markov model of it. With observables, such as memberships in sets, their
        equilibrium means follow with intervals in which the weights are found anew in every resample.
    bootstrap : of the blocks; fewer than 8 give no intervals
    threshold : relative whitening threshold

    Returns
    -------
    EquilibriumWeights
        `.weighted(pairs, f)` gives pairs with weights; `.findings` says where it cannot work: parts that too few pairs
        connect, weights that leave few pairs to count. Negative weights are told by `.weighted`.

    Raises
    ------
    ValueError
        For features without the constant in their span, pairs that count both ways, or parts that no pair connects.

    References
    ----------
    docs/mathematics.md, section 10; Wu, Nueske, Paul, Klus, Koltai and Noe, *Variational Koopman models*, J. Chem.
    Phys. 146, 154104 (2017).

    Examples
    --------
    >>> chain = np.array([[0.9, 0.1], [0.3, 0.7]])                         # stationary: 3/4 and 1/4
    >>> x = np.repeat([0, 1], 500)                                         # half of the pairs from each state
    >>> x_next = np.concatenate([np.repeat([0, 1], (1000 * row / 2).round().astype(int)) for row in chain])
    >>> one_hot = torch.eye(2).double()
    >>> found = equilibrium_weights(estimate_moments(lambda s: s, lambda s: s, (one_hot[x], one_hot[x_next])))
    >>> found.at(one_hot).round(3)
    array([1.5, 0.5])
    """
    if moments.is_reversible:
        raise ValueError("moments of pairs.both_ways() are of a process in equilibrium already; give them one way.")
    solved = _solved(moments, threshold)
    if abs(1 - solved.slowest[0]) < _ROUND_OFF:
        raise ValueError(
            "moments have a second relaxation that never ends: their pairs fall into parts that no pair connects, and "
            "how these compare is unknown. Weigh each by itself, or sample passages."
        )
    n_effective = moments.n_effective * float(solved.share[0])
    means, bounds = None, np.full(2, np.nan)
    has_intervals = moments.n_blocks >= 8
    drawn = _solved(bootstrap.resampled(moments), threshold) if has_intervals else solved
    if has_intervals:
        factor, floor = bootstrap.t_factor(moments.n_blocks), unseen_floor(moments, bootstrap.level)
        bounds = modulus_interval(solved.slowest, drawn.slowest[1:, None], factor, floor)[:, 0]
    if drawn.means is not None:
        variables: dict[str, Any] = {"equilibrium_mean": (OBSERVABLE, drawn.means[0])}
        if has_intervals:
            variables |= interval("equilibrium_mean", [OBSERVABLE], t_interval(drawn.means[0], drawn.means[1:], factor))
        labels = {} if moments.observable_names is None else {OBSERVABLE: list(moments.observable_names)}
        means = labelled(variables, provenance(**bootstrap.attrs(), **moments.clock.attrs()), labels)
    findings = _findings(moments, n_effective, float(solved.slowest[0]), bounds)
    slowest = float(solved.slowest[0])
    return EquilibriumWeights(
        solved.coefficients, moments.n_pairs, n_effective, slowest, bounds, means, tuple(findings)
    )


class _Solution(NamedTuple):
    """Of one estimate, which comes first, and of resamples of it.

    Attributes
    ----------
    coefficients : (k,), of the estimate alone
    share : (n,), of the pairs that count, `1 / E[w^2]`
    slowest : (n,), largest modulus of an eigenvalue beside that of the constant
    means : (n, n_observables)
    """

    coefficients: np.ndarray
    share: np.ndarray
    slowest: np.ndarray
    means: np.ndarray | None


def _solved(moments: Moments, threshold: float) -> _Solution:
    """Weights 1 + r(x) @ v, r of mean zero and unit covariance: `conj(v) (1 - E[r(x)^H r(x')]) = E r(x')`."""
    moments = in_one_block(moments.only(("M_f", "T_ff", "H_f")))
    moments = moments if moments.block_counts.ndim > 1 else moments.reweighted(np.ones((1, 1)))
    basis = independent_basis(moments, threshold)
    functions = basis.moments(moments, "f")
    W, _, has_constant = moment_whitener(functions, "M_f", threshold)
    if not has_constant:
        raise ValueError("moments must be of features with the constant in their span; add a column of ones.")
    K = functions.between("T_ff", W, W)
    rest, later = K[..., 1:, 1:], K[..., 0, 1:]
    v = np.conj(_solve(np.eye(rest.shape[-1]) - np.swapaxes(rest, -1, -2), later))
    ones = np.ones((*v.shape[:-1], 1), dtype=v.dtype)
    on_functions = W @ np.concatenate([ones, v], axis=-1)[..., None]
    means = None
    if "H_f" in functions:
        means = functions.between("H_f", on_functions)[..., 0, :]
    slowest = np.abs(np.linalg.eigvals(rest)).max(axis=-1, initial=0.0)
    coefficients = basis.of_features("f", on_functions[0])[:, 0]
    return _Solution(coefficients, 1 / (1 + np.sum(np.abs(v) ** 2, axis=-1)), slowest, means)


def _solve(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Solutions (..., k) of A x = b; of parts that a resample leaves apart the populations stay as they are."""
    try:
        return np.linalg.solve(A, b[..., None])[..., 0]
    except np.linalg.LinAlgError:
        return (np.linalg.pinv(A, rcond=_ROUND_OFF) @ b[..., None])[..., 0]


def _findings(moments: Moments, n_effective: float, slowest: float, bounds: np.ndarray) -> list[Finding]:
    findings = []
    rate, least = (-np.log(np.clip(value, 1e-300, 1.0)) for value in (slowest, bounds[1]))
    if slowest > 1 or least < rate / _UNKNOWN:
        low = f"; its interval is {bounds[0]:.3g} to {bounds[1]:.6g}" if np.isfinite(bounds[0]) else ""
        text = (
            f"the slowest relaxation, {slowest:.4g} per lag, may never end{low}: too few pairs connect parts of the "
            "data, or there is no stationary law, and how the parts compare is unknown. Sample passages between them."
        )
        findings.append(Finding(NOT_CONNECTED, text))
    if n_effective < max(_COUNTING * moments.n_pairs, _FEW):
        text = (
            f"weights leave {n_effective:.0f} of {moments.n_pairs} pairs to count: the stationary law lies where few "
            "pairs are. Start more runs there."
        )
        findings.append(Finding(FEW_COUNT, text))
    return findings
