"""`Refits`: the whole procedure repeated on halves of the data, and intervals and bands that hold for all of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtrit
from sklearn.base import BaseEstimator

from koopman_lora._labels import MODE, OBSERVABLE, SAMPLE, STEP, interval, labelled, provenance
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.checks import checked
from koopman_lora.data.groups import SPLIT_BLOCKS, block_numbers
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.halves import draw_halves, fit_halves
from koopman_lora.intervals import Reach, eigenvalue_intervals, match_eigenvalues, modulus_interval, unseen_floor
from koopman_lora.joint_span import Fits, joint_moments
from koopman_lora.prediction import forecast
from koopman_lora.spectrum import koopman_spectrum

# What `benchmarks/trust.py --only refit` measures of 95 % intervals; it travels with them.
_COVERAGE = (
    "for the whole procedure, search for features, network and split included: 95 % intervals from 20 refits covered "
    "the exact singular value in 90 to 98 % and the modulus of the eigenvalue in 91 to 99 % (7 cases, among them a "
    "network of 4 units and a strongly non-normal system, 100 repetitions, means over modes), where conditional ones "
    "covered 0 to 94 % and 33 to 94 % (120 repetitions)"
)
# Refits below which the spread is too uncertain for Student's t, and more than which nobody waits for.
FEWEST_REFITS, MOST_REFITS = 8, 10_000


@checked
@dataclasses.dataclass(frozen=True, eq=False)
class Refits:
    """The same fit repeated on halves of the data, with other initial weights and splits.

    Made by `KoopmanLoRA.refits`.

    Attributes
    ----------
    estimate : KoopmanAnalysis of all of the data
    analyses : of the halves
    pairs : all pairs
    block : number (n_pairs,) of the block of each pair
    halves : mask (n_refits, n_blocks) of the blocks in each half
    """

    estimate: KoopmanAnalysis
    analyses: Sequence[KoopmanAnalysis]
    pairs: LaggedPairs
    block: np.ndarray
    halves: np.ndarray

    def __len__(self) -> int:
        return len(self.analyses)

    def __repr__(self) -> str:
        return f"Refits({len(self)} fits to halves of {self.estimate.moments.n_pairs} pairs; {self.estimate.clock})"

    def _factor(self, level: float) -> float:
        """Standard deviations that an interval reaches: two halves that make up the whole are one independent draw."""
        return float(stdtrit(len(self) // 2, (1 + Bootstrap(level=level).level) / 2))

    def _values(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A variable of the spectrum: of all of the data (n_modes,) and of the halves (n_refits, n_modes)."""
        drawn = np.array([analysis.spectrum[name].values for analysis in self.analyses])
        return self.estimate.spectrum[name].values, drawn

    @functools.cached_property
    def joint_spectra(self) -> list[xr.Dataset]:
        """Spectra in the span of half of the fits together, and of all; none where held-out blocks know none better.

        What they have beyond the estimate is what one network did not find.
        """
        everyone = np.ones((1, self.halves.shape[1]), dtype=bool)
        models = [analysis.model for analysis in (self.estimate, *self.analyses)]
        moments = joint_moments(Fits(models, np.concatenate([everyone, self.halves]), self.block), self.pairs)
        return [koopman_spectrum(m) for m in moments or ()]

    def intervals(self, level: float = 0.95) -> xr.Dataset:
        """Intervals of singular values, eigenvalues, timescales and frequencies for the whole procedure.

        They reach from the estimate as many standard deviations of the refits as Student's t asks for; the bias of the
        refits, which over-fit more, widens them on one side, and they hold what all fits find together, see
        `joint_spectra`, and what twice as many may find: as far again from half of them.

        Parameters
        ----------
        level : coverage aimed at

        Returns
        -------
        Dataset
            With the variables of `bootstrap_intervals`.

        Examples
        --------
        >>> from koopman_lora.estimator import KoopmanLoRA
        >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=500)
        >>> refits = KoopmanLoRA(3, hidden_dims=(8,), n_epochs=2, refine=False).fit(data).refits(8)
        >>> low, high = refits.intervals().canonical_singular_values_interval.values[:, 1]
        >>> bool(low < 0.956 < high)
        True
        """
        factor, floor = self._factor(level), unseen_floor(self.estimate.moments, level)
        sigma, drawn = self._values("canonical_singular_values")
        found = [_filled(joint["canonical_singular_values"].values, sigma) for joint in self.joint_spectra]
        further = _and_further([np.arccos(np.clip(values, 0, 1)) for values in found])
        bounds = [modulus_interval(sigma, drawn, factor, floor)]
        bounds += [modulus_interval(np.cos(a), _spread_about(a, drawn), factor, floor) for a in further]
        variables = interval("canonical_singular_values", [MODE], _hull(bounds))
        K_values = t_interval(*self._values("singular_values"), factor)
        variables |= interval("singular_values", [MODE], np.maximum(K_values, 0.0))
        if "eigenvalues" in self.estimate.spectrum:
            variables |= self._eigenvalue_variables(factor, floor)
        variables["canonical_standard_error"] = (MODE, drawn.std(axis=0))
        attrs = provenance(level=level, refit=len(self), **self.estimate.clock.attrs(), note=_COVERAGE)
        return labelled(variables, attrs)

    def _eigenvalue_variables(self, factor: float, floor: float) -> dict[str, Any]:
        estimate, drawn = self._values("eigenvalues")
        matched, clock = match_eigenvalues(estimate, drawn), self.estimate.clock
        found = [_filled(joint["eigenvalues"].values, estimate) for joint in self.joint_spectra]
        further = _and_further([match_eigenvalues(estimate, values[None])[0] for values in found])
        reach = Reach(factor, floor, self.estimate.spectrum["eigenvalue_condition"].values)
        own = eigenvalue_intervals(estimate, matched, reach, clock)
        others = [
            eigenvalue_intervals(about, matched - matched.mean(axis=0) + about, reach, clock) for about in further
        ]
        return {
            name: (dims, _hull([bounds, *(other[name][1] for other in others)]), *rest)
            for name, (dims, bounds, *rest) in own.items()
        }

    def function_band(self, x: Any, side: str = "left", level: float = 0.95) -> xr.Dataset:
        """Singular functions at any states, with a pointwise band.

        Functions of a refit are turned to those of the estimate: in sign, and within clusters of modes whose singular
        values may be equal, which fix a subspace alone.

        Parameters
        ----------
        x : states (n, *state)
        side : 'left' or 'right'
        level : coverage aimed at, at each state

        Returns
        -------
        Dataset with `functions` (sample, mode) and `functions_interval` (bound, sample, mode); attribute `clusters`

        Examples
        --------
        >>> from koopman_lora.estimator import KoopmanLoRA
        >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=500)
        >>> estimator = KoopmanLoRA(3, hidden_dims=(8,), n_epochs=1, learn_svals=False, refine=False, held_out=0.0)
        >>> estimator.fit(data).refits(8).function_band(data[0, :5]).functions_interval.shape
        (2, 5, 3)
        """
        factor, clusters = self._factor(level), self._clusters(level)
        states = self.pairs.x_next if side == "right" else self.pairs.x
        reference = self.estimate.singular_functions(states, side)
        if self.pairs.weights is not None:
            reference = self.pairs.weights[:, None] * reference
        functions = self.estimate.singular_functions(x, side)
        drawn = np.array(
            [
                analysis.singular_functions(x, side)
                @ turn_within(conjugate_transpose(analysis.singular_functions(states, side)) @ reference, clusters)
                for analysis in self.analyses
            ]
        )
        variables = {"functions": ((SAMPLE, MODE), functions)}
        variables |= interval("functions", [SAMPLE, MODE], _band(functions, drawn, factor))
        listed = [(cluster + 1).tolist() for cluster in clusters]
        return labelled(variables, provenance(side=side, level=level, refit=len(self), clusters=listed))

    def _clusters(self, level: float) -> list[np.ndarray]:
        """Positions of neighbouring modes whose singular values may be equal, within the spread of their distance."""
        sigma, drawn = self._values("canonical_singular_values")
        gap, spread = -np.diff(sigma), np.diff(drawn, axis=1).std(axis=0)
        is_apart = gap > self._factor(level) * spread
        is_apart[:1] = True  # the constant is known
        return np.split(np.arange(len(sigma)), 1 + np.flatnonzero(is_apart))

    def forecast(
        self,
        x: Any,
        steps: int | Sequence[int],
        method: str = "operator",
        direction: str = "forward",
        level: float = 0.95,
    ) -> xr.Dataset:
        """Expected states some lags after, or before, the states x, with a band for the whole procedure.

        Parameters
        ----------
        x, steps, method, direction : see `KoopmanAnalysis.forecast`
        level : coverage aimed at, for each number

        Returns
        -------
        Dataset with `forecast` (step, sample, observable) and `forecast_interval` (bound, step, sample, observable)

        Raises
        ------
        ValueError
            For states too large for their projections to be kept.
        """
        side, factor = "right" if direction == "backward" else "left", self._factor(level)

        def expected(analysis: KoopmanAnalysis) -> xr.DataArray:
            return forecast(analysis.moments, analysis.features(x, side), steps, method=method, direction=direction)

        centre = expected(self.estimate)
        drawn = np.array([expected(analysis).values for analysis in self.analyses])
        bounds = _band(centre.values, drawn, factor)
        variables = {"forecast": centre, **interval("forecast", [STEP, SAMPLE, OBSERVABLE], bounds)}
        attrs = provenance(method=method, direction=direction, level=level, refit=len(self))
        return labelled(variables, attrs | self.estimate.clock.attrs())


@checked
def refit_halves(estimator: BaseEstimator, n_refits: int = 20, n_jobs: int = 1) -> Refits:
    """Fit `estimator`, a fitted KoopmanLoRA, again to halves of its pairs.

    The first weights, the split and the batches of each fit have a seed of their own; what comes out does not depend on
    the number of processes.

    Parameters
    ----------
    n_refits : 8 at least
    n_jobs : processes, -1 for one per core, beyond which there are none; each computes in one thread

    Raises
    ------
    ValueError
        For fewer than 8 refits, no process, or too few pairs for halves.
    """
    check_refits("n_refits", n_refits, n_jobs)
    fitted, pairs = estimator.fitted(), estimator.pairs_
    block = block_numbers(pairs, SPLIT_BLOCKS)
    halves = draw_halves(int(block.max()) + 1, n_refits, estimator.seed)
    return Refits(fitted, fit_halves(estimator, pairs, halves[:, block], n_jobs), pairs, block, halves)


@checked
def intervals_of(
    estimator: BaseEstimator, bootstrap: Bootstrap | None = None, refit: int = 0, n_jobs: int = 1
) -> xr.Dataset:
    """Intervals of a fitted KoopmanLoRA: for its features, or for the whole procedure.

    Parameters
    ----------
    bootstrap : number of resamples, level and seed; with refits, of the level alone
    refit : 0 for `bootstrap_intervals`, or so many refits, 8 at least, for `Refits.intervals`
    n_jobs : processes for the refits, see `refit_halves`
    """
    if refit == 0:
        return estimator.fitted().intervals(bootstrap)
    check_refits("refit", refit, n_jobs)
    return refit_halves(estimator, refit, n_jobs).intervals((bootstrap or Bootstrap()).level)


def check_refits(name: str, n_refits: int, n_jobs: int) -> None:
    """Raise a ValueError for too few or too many refits, or no process.

    Examples
    --------
    >>> check_refits("refit", 20, 2)
    """
    if not FEWEST_REFITS <= n_refits <= MOST_REFITS:
        raise ValueError(
            f"{name} must be between {FEWEST_REFITS}, to tell the spread, and {MOST_REFITS}; got {n_refits}."
        )
    if n_jobs < 1 and n_jobs != -1:
        raise ValueError(f"n_jobs must be a number of processes, or -1 for one per core; got {n_jobs}.")


def turn_within(overlap: np.ndarray, clusters: Sequence[np.ndarray]) -> np.ndarray:
    """Unitary matrix (n_modes, n_modes) that turns functions to others, within clusters of modes.

    Parameters
    ----------
    overlap : (n_modes, n_modes), products of the functions, conjugated, with those that they shall resemble
    clusters : positions of modes, in order, that are turned into each other

    Examples
    --------
    >>> turn_within(np.array([[-0.9, 0.0], [0.0, 0.8]]), [np.array([0]), np.array([1])])
    array([[-1.,  0.],
           [ 0.,  1.]])
    """
    turn = np.zeros_like(overlap)
    for cluster in clusters:
        here = np.ix_(cluster, cluster)
        U, _, Vh = np.linalg.svd(overlap[here])
        turn[here] = U @ Vh
    return turn


def _filled(values: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """The values (at most n_modes,), the estimate where there are none."""
    return np.concatenate([values, estimate[len(values) :]])


def _and_further(found: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What all fits found together, and as far beyond it as it is from what half of them found; nothing of nothing.

    Examples
    --------
    >>> _and_further([np.array([0.5]), np.array([0.6])])
    [array([0.6]), array([0.7])]
    """
    return [everyone for half, everyone in [found] for everyone in (everyone, 2 * everyone - half)] if found else []


def _spread_about(angle: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Drawn correlations (n_refits, n_modes) moved, on the scale of the angle, to spread about others (n_modes,)."""
    drawn_angle = np.arccos(np.clip(drawn, -1, 1))
    return np.cos(drawn_angle - drawn_angle.mean(axis=0) + angle)


def _hull(several: Sequence[np.ndarray]) -> np.ndarray:
    """Bounds (2, ...) of intervals together."""
    lower, upper = np.swapaxes(several, 0, 1)
    return np.stack([lower.min(axis=0), upper.max(axis=0)])


def _band(estimate: np.ndarray, drawn: np.ndarray, factor: float) -> np.ndarray:
    """Bounds (2, ...) as far from the estimate as refits are, bias included; of real and imaginary parts."""
    if np.iscomplexobj(estimate):
        real, imaginary = (_band(part(estimate), part(drawn), factor) for part in (np.real, np.imag))
        return real + 1j * imaginary
    half_width = factor * np.sqrt(np.mean((drawn - estimate) ** 2, axis=0))
    return np.stack([estimate - half_width, estimate + half_width])
