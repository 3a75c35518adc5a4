"""What the benchmarks share: systems with a reference, their pairs, captured shares, a bare network and its loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import koopman_lora as kl
from koopman_lora._linalg import whitened_svd
from koopman_lora.moments import CROSS

SYSTEMS = {
    "noisy logistic map": kl.systems.NoisyLogisticMap(order=20),
    "noisy rotation": kl.systems.NoisyRotation(),
    "linear Gaussian 2-D": kl.systems.LinearGaussian(np.array([[0.9, 0.4], [0.0, 0.5]]), np.eye(2)),
    "Ornstein-Uhlenbeck 1-D": kl.systems.LinearGaussian(np.array([[0.8]]), np.array([[0.6]])),
    "Markov chain": kl.systems.FiniteMarkovChain.with_blocks(),
    "four wells 1-D": kl.systems.FourWellLangevin1D(),
    "four wells 2-D": kl.systems.FourWellLandscape2D(),
}

# two coordinates, correlated and slow
SLOW = kl.systems.LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
SMALL_CHAIN = kl.systems.FiniteMarkovChain(np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10)


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


def exact_maps(
    left: Callable, right: Callable, n_functions: int, pairs: kl.LaggedPairs, k: int
) -> tuple[Callable, Callable]:
    """Functions of states that solve the pairs best in the span of exact functions: what sampling alone costs."""
    f, g = (lambda x, side=side: side(np.asarray(x))[:, :n_functions] for side in (left, right))
    m = kl.estimate_moments(f, g, pairs, names=CROSS)
    coefficients = whitened_svd(m.M_f, m.T_fg, m.M_g, rank=k)
    return lambda x: f(x) @ coefficients.left, lambda x: g(x) @ coefficients.right


class BareNet(nn.Module):
    """Two ordinary MLPs, as a user would write them."""

    def __init__(self, n_modes: int, n_coordinates: int = 1) -> None:
        super().__init__()

        def mlp() -> nn.Module:
            widths = [(n_coordinates, 64), (64, 128), (128, 64)]
            return nn.Sequential(*[m for a, b in widths for m in (nn.Linear(a, b), nn.GELU())], nn.Linear(64, n_modes))

        self.f, self.g = mlp(), mlp()


def plain_loss(f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The plain (biased, un-normalised) nested LoRA loss of a batch of features, (batch, mode) each."""
    n, k = f.shape
    weight = torch.arange(k, 0, -1) / k
    mask = torch.minimum(weight[:, None], weight)
    return (mask * (f.T @ f / n) * (g.T @ g / n)).sum() - 2 * (weight * (f * g).mean(0)).sum()
