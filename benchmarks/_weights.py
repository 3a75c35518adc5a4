"""Weights of pairs: what starts drawn under a bias recover, and runs from four wells out of equilibrium."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

import koopman_lora as kl
from koopman_lora.reweighting import EquilibriumWeights
from koopman_lora.systems import FourWellLandscape2D, MuellerBrown
from koopman_lora.systems._grid import boltzmann_weights, jittered
from koopman_lora.systems.mueller_brown import REFERENCE_SPACING, _landscape

# A harmonic bias about the higher saddle, whose well has few frames without it.
CENTRE, N_MODES = np.array([-0.82, 0.62]), 4


@dataclass(frozen=True)
class BiasedStarts(MuellerBrown):
    """Starts drawn in `U + bias`, from where the dynamics are those of U alone.

    Under weights `exp(bias(x_0) / temperature)` of whole runs the starts have the law of equilibrium, and so have all
    later frames: the weight of a run is exact for every pair in it. Dynamics in the biased potential have other
    timescales, which no weight of pairs restores.
    """

    strength: float = 30.0

    def bias(self, x: np.ndarray) -> np.ndarray:
        """Energy of the bias at states (..., 2)."""
        return self.strength / 2 * np.sum((x - CENTRE) ** 2, axis=-1)

    def run_weights(self, starts: np.ndarray) -> np.ndarray:
        """Weights of runs from their first frames (n, 2)."""
        return np.exp(self.bias(starts) / self.temperature)

    def _draw_stationary(self, rng: np.random.Generator, size: int) -> np.ndarray:
        axes, energy = _landscape(self.temperature, REFERENCE_SPACING / 2)
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        shares = boltzmann_weights(energy + self.bias(grid) / self.temperature)
        cells = np.unravel_index(rng.choice(energy.size, size=size, p=shares.ravel()), energy.shape)
        points = np.stack([axis[i] for axis, i in zip(axes, cells, strict=True)], axis=-1)
        return jittered(points, REFERENCE_SPACING / 2, rng)


def biased_timescales(seed: int, n_runs: int, n_steps: int, strength: float) -> dict[str, np.ndarray]:
    """Intervals (2, n_modes - 1) of timescales with and without weights, the exact ones, and the effective number."""
    system = BiasedStarts(strength=strength)
    reference = MuellerBrown().spectrum(lag=1, n_modes=N_MODES)
    runs = system.simulate(n_trajectories=n_runs, n_steps=n_steps, seed=seed)
    weighted = kl.lagged_pairs(runs, weights=system.run_weights(runs.values[:, 0])).both_ways()
    found = {"exact": reference.to_dataset().timescales.values[1:]}
    for name, pairs in (("weighted", weighted), ("unweighted", weighted.weighted(np.ones(len(weighted))))):
        functions = lambda x: reference.left(x.numpy())  # noqa: E731
        moments = kl.estimate_moments(functions, functions, pairs)
        found[name] = kl.bootstrap_intervals(moments).timescales_interval.values[:, 1:]
    return found | {"share": np.array(weighted.n_effective / len(weighted))}


@dataclass(frozen=True)
class FourStarts(FourWellLandscape2D):
    """Runs that all start in one of the four minima, most of them in the first."""

    def _draw_stationary(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return self.wells[rng.choice(4, size=size, p=[0.55, 0.15, 0.15, 0.15])]


def wells(x: torch.Tensor) -> torch.Tensor:
    """Indicators of the four quadrants, each a well."""
    return torch.nn.functional.one_hot(2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long(), 4).double()


def bumps(x: torch.Tensor) -> torch.Tensor:
    """One, and Gaussian functions on a grid over the wells."""
    line = torch.linspace(-1.6, 1.6, 6, dtype=torch.float64)
    distance = torch.cdist(x.double(), torch.cartesian_prod(line, line))
    return torch.cat([torch.ones(len(x), 1, dtype=torch.float64), torch.exp(-2 * distance**2)], dim=1)


def populations() -> np.ndarray:
    """Exact stationary populations of the wells."""
    reference = FourWellLandscape2D().spectrum(lag=1, n_modes=2)
    return reference.weights @ wells(torch.from_numpy(reference.points)).numpy()


def off_equilibrium(seed: int, n_runs: int, n_steps: int) -> tuple[EquilibriumWeights, kl.LaggedPairs]:
    """Weights from short runs out of the four wells, with the populations and their intervals; and the pairs."""
    runs = FourStarts().simulate(n_trajectories=n_runs, n_steps=n_steps, seed=seed)
    pairs = kl.lagged_pairs(runs)
    moments = kl.estimate_moments(bumps, bumps, pairs, observables=wells, names=("M_f", "T_ff"))
    return kl.equilibrium_weights(moments), pairs


def weights(n_draws: int, n_fits: int) -> None:
    """Coverage of both; and of timescales of networks fitted to weighted runs."""
    for strength in (15.0, 30.0):
        _report_biased(strength, n_draws)
    _report_off_equilibrium(n_draws)
    _report_fits(n_fits)


def _report_biased(strength: float, n_draws: int) -> None:
    draws = [biased_timescales(seed, 20_000, 4, strength) for seed in range(n_draws)]
    exact, share = draws[0]["exact"], float(np.mean([draw["share"] for draw in draws]))
    print(f"Mueller-Brown, bias {strength:g}, {n_draws} draws of 20,000 runs of 4 frames, both ways, exact functions")
    print(f"  effective share of the pairs {share:.2f}; exact timescales {exact.round(4)}")
    for name in ("weighted", "unweighted"):
        bounds = np.stack([draw[name] for draw in draws])
        covered = ((bounds[:, 0] <= exact) & (exact <= bounds[:, 1])).mean(axis=0)
        print(f"  {name}: covered {covered.round(2)}, interval of draw 0 {bounds[0].T.round(4).tolist()}")


def _report_off_equilibrium(n_draws: int) -> None:
    exact = populations()
    for n_steps in (11, 21):
        found = [off_equilibrium(seed, 2000, n_steps) for seed in range(n_draws)]
        bounds = np.stack([known.means.equilibrium_mean_interval.values for known, _ in found])
        covered = ((bounds[:, 0] <= exact) & (exact <= bounds[:, 1])).mean(axis=0)
        plain = np.mean([wells(pairs.x).numpy().mean(axis=0) for _, pairs in found], axis=0)
        off = np.stack([known.means.equilibrium_mean.values for known, _ in found]) - exact
        told = sum(len(known.findings) > 0 for known, _ in found)
        print(f"four wells 2-D, {n_draws} draws of 2,000 runs of {n_steps} frames from the minima, .55/.15/.15/.15")
        print(f"  exact populations {exact.round(3)}, of the pairs {plain.round(3)}")
        print(f"  covered {covered.round(2)}, mean {covered.mean():.3f} (asked .95)")
        print(f"  width of intervals {np.ptp(bounds, axis=1).mean(axis=0).round(3)}")
        print(f"  bias {off.mean(axis=0).round(4)}, deviation {off.std(axis=0).round(4)}; draws with findings {told}")


def _report_fits(n_fits: int) -> None:
    exact = MuellerBrown().spectrum(lag=1, n_modes=N_MODES).to_dataset().timescales.values[1]
    covered = {True: 0, False: 0}
    for seed in range(n_fits):
        system = BiasedStarts()
        runs = system.simulate(n_trajectories=8000, n_steps=4, seed=seed)
        for is_weighted in covered:
            sample_weight = system.run_weights(runs.values[:, 0]) if is_weighted else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                estimator = kl.KoopmanLoRA(N_MODES, reversible=True, seed=seed).fit(runs, sample_weight=sample_weight)
            low, high = estimator.intervals().timescales_interval.values[:, 1]
            covered[is_weighted] += bool(low <= exact <= high)
            kind = "weighted" if is_weighted else "unweighted"
            print(f"  fit {seed}, {kind}: slowest ({low:.3f}, {high:.3f})", flush=True)
    print(f"networks, 8,000 runs of 4 frames: slowest timescale {exact:.3f}, {n_fits} fits")
    print(f"  covered in {covered[True]} with weights, in {covered[False]} without")
