"""What the benchmarks share: the systems with a reference, pairs of them, and captured shares."""

from __future__ import annotations

import numpy as np

import koopman_lora as kl

SYSTEMS = {
    "noisy logistic map": kl.systems.NoisyLogisticMap(order=20),
    "noisy rotation": kl.systems.NoisyRotation(),
    "linear Gaussian 2-D": kl.systems.LinearGaussian(np.array([[0.9, 0.4], [0.0, 0.5]]), np.eye(2)),
    "Ornstein-Uhlenbeck 1-D": kl.systems.LinearGaussian(np.array([[0.8]]), np.array([[0.6]])),
    "Markov chain": kl.systems.FiniteMarkovChain.with_blocks(),
    "four wells 1-D": kl.systems.FourWellLangevin1D(),
    "four wells 2-D": kl.systems.FourWellLandscape2D(),
}


def reference_of(system: kl.systems.ReferenceSpectrum, n_modes: int, lag: int = 1) -> kl.systems.ReferenceSpectrum:
    """Reference with as many modes as the system has, up to 48, so that a captured share misses nothing."""
    for n in (48, 21, 12, n_modes):
        try:
            return system.spectrum(lag=lag, n_modes=n)
        except ValueError:
            continue
    return system.spectrum(lag=lag, n_modes=n_modes)


def simulate_pairs(system: object, n_pairs: int, seed: int, n_trajectories: int = 4) -> kl.LaggedPairs:
    """Pairs at lag 1 from a few trajectories of equal length, `n_pairs` in all."""
    n_steps = n_pairs // n_trajectories + 1
    return kl.lagged_pairs(system.simulate(n_trajectories=n_trajectories, n_steps=n_steps, seed=seed))


def share_of(estimator: kl.KoopmanLoRA, reference: kl.systems.ReferenceSpectrum) -> float:
    """Captured share of a fitted estimator by quadrature over the truth."""
    f, g = (estimator.features(reference.points, side) for side in ("left", "right"))
    return kl.captured_share(f, g, reference, estimator.n_modes)
