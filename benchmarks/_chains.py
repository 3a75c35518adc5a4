"""Coverage and width of intervals on Markov chains of 2 to 6 states, with their indicator functions as features.

Nothing is learned, and the moments are counts: what is measured is the rule of the intervals alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.intervals import bootstrap_intervals, match_eigenvalues
from koopman_lora.moments import CROSS, Moments
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain, ReferenceSpectrum
from koopman_lora.systems._base import run_markov_chain

N_BLOCKS = 64
# Fewer tell little of the mode, and are asked nothing of but an honest bound where there were none.
FEWEST_TRANSITIONS = 5
# Draws that are needed for a line: with fewer, a coverage of .95 leaves .90 to .99 by chance.
FEWEST_DRAWS = 60


def metastable(n: int, seed: int) -> np.ndarray:
    """Wells in a row, left with a probability of .012 to .04 a step to either side."""
    rng, steps = np.random.default_rng(seed), np.zeros((n, n))
    for i, j in [(i, i + 1) for i in range(n - 1)]:
        steps[i, j], steps[j, i] = 0.04 * rng.uniform(0.3, 1, 2)
    return steps + np.diag(1 - steps.sum(axis=1))


def reversible(n: int, seed: int) -> np.ndarray:
    """Fast and in detailed balance."""
    flux = np.random.default_rng(seed).gamma(0.6, size=(n, n))
    flux = flux + flux.T + 0.02
    return flux / flux.sum(axis=1, keepdims=True)


def cyclic(n: int, seed: int) -> np.ndarray:
    """Fast, mostly round a cycle."""
    rng = np.random.default_rng(seed)
    random, share = rng.dirichlet(np.full(n, 0.6), size=n), rng.uniform(0.5, 0.8)
    return share * np.roll(np.eye(n), 1, axis=1) + (1 - share) * random


def directed(n: int, seed: int) -> np.ndarray:
    """Fast, few ways out of each state, no detailed balance: non-normal, with eigenvalues close to one another."""
    return 0.95 * np.random.default_rng(seed).dirichlet(np.full(n, 0.4), size=n) + 0.05 / n


KINDS: dict[str, tuple[Callable[[int, int], np.ndarray], tuple[int, ...]]] = {
    "metastable": (metastable, (2, 3, 4, 5, 6)),
    "reversible": (reversible, (2, 3, 4, 5, 6)),
    "cyclic": (cyclic, (3, 4, 5, 6)),
    "directed": (directed, (3, 4, 5, 6)),
}


class Found(NamedTuple):
    """Of every draw and mode but the constant, (n_draws, n_modes - 1): estimate, truth, bounds."""

    estimate: np.ndarray
    truth: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def counted_moments(states: np.ndarray, n_states: int) -> list[Moments]:
    """Moments of the indicator functions over every trajectory (n_draws, n_frames), sums about 0."""
    x, x_next = states[:, :-1], states[:, 1:]
    n_draws, n_pairs = x.shape
    block = np.arange(n_pairs) * N_BLOCKS // n_pairs
    cell = ((np.arange(n_draws)[:, None] * N_BLOCKS + block) * n_states + x) * n_states + x_next
    shape = (n_draws, N_BLOCKS, n_states, n_states)
    counts = np.bincount(cell.ravel(), minlength=int(np.prod(shape))).reshape(shape).astype(float)
    size = counts.sum(axis=(2, 3))
    before, after = counts.sum(axis=3), counts.sum(axis=2)
    diagonal = {"x": before[..., None] * np.eye(n_states), "x'": after[..., None] * np.eye(n_states)}
    sums = {
        "M_f": _beside_one(size, before, before, diagonal["x"]),
        "M_g": _beside_one(size, after, after, diagonal["x'"]),
        "M_f1": _beside_one(size, after, after, diagonal["x'"]),
        "C_gf": _beside_one(size, after, after, diagonal["x'"]),
        "T_fg": _beside_one(size, before, after, counts),
        "T_ff": _beside_one(size, before, after, counts),
    }
    assert set(CROSS) < set(sums)
    shifts = {"f": np.zeros(n_states), "g": np.zeros(n_states)}
    return [
        Moments({name: values[i] for name, values in sums.items()}, size[i], Clock(1), shifts=shifts)
        for i in range(n_draws)
    ]


def _beside_one(size: np.ndarray, left: np.ndarray, right: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Sums of products of (1, f) and (1, g) from the numbers of pairs and the sums of f, of g and of their products."""
    top = np.concatenate([size[..., None, None], right[..., None, :]], axis=-1)
    return np.concatenate([top, np.concatenate([left[..., None], products], axis=-1)], axis=-2)


def transitions_seen(states: np.ndarray, reference: ReferenceSpectrum) -> np.ndarray:
    """How many transitions tell of each mode, (n_draws, n_modes - 1).

    The fewest of: changes of sign of its singular function phi, and of those of all slower modes, along the trajectory;
    and jumps into and out of the state with the fewest. A state that was never seen takes a mode with it, so that all
    faster ones change their number.
    """
    signs = reference.left(reference.points)[states][..., 1:] > 0  # (n_draws, n_frames, mode)
    changes = np.sum(signs[:, 1:] != signs[:, :-1], axis=1)
    jumps = [np.sum(np.diff(states == state, axis=1), axis=1) for state in range(len(reference.points))]
    return np.minimum(np.minimum.accumulate(changes, axis=1), np.min(jumps, axis=0)[:, None])


def measured(chain: FiniteMarkovChain, draws: list[Moments], n_resamples: int = 150) -> dict[str, Found]:
    """Estimates and intervals of all draws, by quantity."""
    reference = chain.spectrum(lag=1, n_modes=chain.n_states)
    rows: dict[str, list] = {}
    for seed, moments in enumerate(draws):
        spectrum = koopman_spectrum(moments)
        intervals = bootstrap_intervals(moments, bootstrap=Bootstrap(n_resamples, seed=seed))
        values = spectrum.eigenvalues.values
        true_values = np.abs(match_eigenvalues(values, reference.eigenvalues[None])[0])
        times = Clock(1).timescales
        for name, estimate, truth in (
            ("canonical_singular_values", spectrum.canonical_singular_values.values, reference.singular_values),
            ("eigenvalue_modulus", np.abs(values), true_values),
            ("timescales", times(np.minimum(np.abs(values), 1)), times(np.minimum(true_values, 1))),
        ):
            bounds = intervals[f"{name}_interval"].values
            rows.setdefault(name, []).append(np.stack([estimate, truth, *bounds])[:, 1:])
    return {name: Found(*np.moveaxis(np.array(values), 1, 0)) for name, values in rows.items()}


def coverage_and_width(found: Found, enough: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every mode: share of intervals that hold the truth, and median width relative to the ideal.

    The ideal is the 2.5 to 97.5 % range of the estimates. Both over the draws in which enough was seen; NaN where these
    are few.
    """
    inside = (found.lower <= found.truth + 1e-9) & (found.truth <= found.upper + 1e-9)
    result = np.full((2, inside.shape[1]), np.nan)
    for mode, use in enumerate(enough.T):
        if use.sum() >= FEWEST_DRAWS:
            ideal = np.ptp(np.quantile(found.estimate[use, mode], [0.025, 0.975]))
            width = np.median(found.upper[use, mode] - found.lower[use, mode])
            result[:, mode] = inside[use, mode].mean(), width / ideal
    return result[0], result[1]


SHORT = {"canonical_singular_values": "sigma", "eigenvalue_modulus": "|lambda|", "timescales": "timescale"}


def chains(n_repetitions: int, frames: tuple[int, ...] = (500, 1000, 3000, 10_000), seed: int = 0) -> None:
    """Print coverage and width for every chain and number of frames, then all cells in one line per kind."""
    print(
        f"Markov chains, indicator functions, {n_repetitions} draws of one trajectory, seed {seed}, where at least "
        f"{FEWEST_TRANSITIONS} transitions were seen\n"
        "  per mode: coverage of 95 % intervals (asked .90 to .99), median width / ideal (asked at most 2)"
    )
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    for kind, (build, sizes) in KINDS.items():
        for n in sizes:
            chain = FiniteMarkovChain(build(n, seed + n))
            reference = chain.spectrum(lag=1, n_modes=n)
            print(f" {kind}, {n} states: lambda {reference.eigenvalues[1:].round(2)}")
            for n_frames in frames:
                rng = np.random.default_rng([seed, n, n_frames])
                P, pi = chain.transition_matrix, chain.stationary_distribution
                states = run_markov_chain(P, pi, rng, n_repetitions, n_frames)
                enough = transitions_seen(states, reference) >= FEWEST_TRANSITIONS
                for name, found in measured(chain, counted_moments(states, n)).items():
                    covered, width = coverage_and_width(found, enough)
                    cells.setdefault((kind, SHORT[name]), []).append(np.stack([covered, width]))
                    print(f"  {n_frames:6} frames  {SHORT[name]:<9}  {_row(covered)}   {_row(width)}", flush=True)
    _summary(cells)


def _row(values: np.ndarray) -> str:
    return " ".join("   - " if np.isnan(value) else f"{value:5.2f}" for value in values)


def _summary(cells: dict[tuple[str, str], list[np.ndarray]]) -> None:
    print(
        " all cells (chain, frames, mode): coverage, mean and extremes; share in .90 to .99; width, median and largest"
    )
    for (kind, name), values in cells.items():
        covered, width = np.concatenate(values, axis=1)
        covered, width = covered[~np.isnan(covered)], width[~np.isnan(width)]
        in_range = np.mean((covered.round(3) >= 0.9) & (covered.round(3) <= 0.99))
        print(
            f"  {kind:<11} {name:<9} {len(covered):4} cells: {covered.mean():.3f} ({covered.min():.2f} to "
            f"{covered.max():.2f}), {in_range:.2f} in range; width {np.median(width):.2f}, at most {width.max():.2f}"
        )


def unseen(n_frames: int = 1000) -> None:
    """Wells in a row, a trajectory in each, no jump in any: the lower bounds must not be above the truth."""
    print(
        f" {n_frames} frames in trajectories that never leave their well: bounds of sigma against the truth, where such"
    )
    print(" data come up in 50, 20 and 5 of 100 draws")
    for n in (2, 3, 6):
        moments = counted_moments(np.repeat(np.arange(n)[:, None], n_frames // n, axis=1), n)
        bounds = bootstrap_intervals(sum(moments[1:], moments[0]), bootstrap=Bootstrap(200))
        lower, upper = bounds.canonical_singular_values_interval.values[:, 1:]
        for share in (0.5, 0.2, 0.05):
            rate = -np.log(share) / n_frames  # of leaving to any side, from the mean over wells
            row = np.eye(n, k=1) + np.eye(n, k=-1)
            row *= rate * n / row.sum()
            truth = FiniteMarkovChain(row + np.diag(1 - row.sum(axis=1))).spectrum(1, n).singular_values[1:]
            verdict = "met" if (lower <= truth).all() and (upper >= 1 - 1e-12).all() else "MISSED"
            print(
                f"  {n} wells, {share:4.2f}: [{lower.min():.4f}, {upper.max():.0f}], truth {truth.round(4)} {verdict}"
            )
