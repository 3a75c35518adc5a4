"""What test files share: a fixed hypothesis profile, no windows, exact expectations over the pairs of known systems."""

import signal
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pytest
import torch
from exact_expectations import P_EXAMPLE
from hypothesis import settings
from scipy.special import roots_hermitenorm, roots_legendre

from koopman_lora import systems
from koopman_lora.accumulation import estimate_moments

settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("fixed")

mpl.use("Agg")

# who runs the tests in the background has Ctrl-C ignored; here it is tested
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Slow tests first, so that none is begun by one process when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class ExactPairs(NamedTuple):
    """A quadrature of the joint law of (x, x'): points, weights that sum to 1, and the exact spectrum."""

    x: np.ndarray
    x_next: np.ndarray
    weights: np.ndarray
    reference: systems.ReferenceSpectrum

    def rows(self, functions, at="x"):
        """Rows sqrt(N w_n) h(x_n): plain averages of their products are expectations over the joint law."""
        values = functions(getattr(self, at))
        return values * np.sqrt(len(self.weights) * self.weights)[:, None]


def _outer(x, y, weights):
    return np.repeat(x, y.shape[-2], axis=0), y.reshape(-1, y.shape[-1]), weights.ravel()


def _logistic():
    system = systems.NoisyLogisticMap(order=6)
    nodes, weights = roots_legendre(160)
    x, weights = (nodes + 1) / 2, weights / 2
    density = np.cos(np.pi * (x[None, :] - 4 * (x * (1 - x))[:, None])) ** system.order
    density /= density @ weights[:, None]
    joint = (weights * system.stationary_density(x))[:, None] * density * weights
    return ExactPairs(
        *_outer(x[:, None], np.broadcast_to(x[None, :, None], (160, 160, 1)), joint), system.spectrum(1, 7)
    )


def _rotation():
    system = systems.NoisyRotation(omega=0.7, noise=0.5)
    angles, (noise, weights) = np.arange(48) * 2 * np.pi / 48, roots_hermitenorm(30)
    moved = angles[:, None] + system.omega + system.noise * noise
    joint = np.full((48, 1), 1 / 48) * weights / weights.sum()
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return ExactPairs(*_outer(x, np.stack([np.cos(moved), np.sin(moved)], axis=-1), joint), system.spectrum(1, 7))


def _gaussian():
    system = systems.LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
    nodes, weights = roots_hermitenorm(12)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    grid_weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    x = grid @ np.linalg.cholesky(system.covariance).T
    x_next = (x @ system.A.T)[:, None] + grid @ system.B.T
    return ExactPairs(*_outer(x, x_next, np.outer(grid_weights, grid_weights)), system.spectrum(1, 7))


def _chain():
    system = systems.FiniteMarkovChain(P_EXAMPLE)
    states = system.embedded_states
    joint = system.stationary_distribution[:, None] * P_EXAMPLE
    return ExactPairs(*_outer(states, np.broadcast_to(states, (4, 4, 4)), joint), system.spectrum(1, 4))


_MAKERS = {"logistic": _logistic, "rotation": _rotation, "gaussian": _gaussian, "chain": _chain}


@pytest.fixture(scope="session", params=_MAKERS)
def exact_pairs(request):
    """Each of four systems in turn, with exact expectations over its pairs."""
    return _MAKERS[request.param]()


@pytest.fixture(scope="session")
def noisy():
    """Moments of random complex features of a rotation, in blocks, with complex observables."""
    data = torch.from_numpy(systems.NoisyRotation().simulate(1, 2001, seed=1).values[0])
    rng = np.random.default_rng(0)
    mix_f, mix_g, mix_h = (torch.from_numpy(rng.normal(size=(5, k)) + 1j * rng.normal(size=(5, k))) for k in (5, 5, 2))

    def basis(x):
        z = x[:, 0] + 1j * x[:, 1]
        return torch.stack([z**k for k in (0, 1, -1, 2, -2)], dim=1)

    maps = [lambda x, m=m: basis(x) @ m for m in (mix_f, mix_g, mix_h)]
    moments = estimate_moments(maps[0], maps[1], (data[:-1], data[1:]), observables=maps[2])
    return moments, maps, data
