"""Systems without an exact spectrum, beside peers: VAMP-2 of the span of what was learned, on fresh frames.

Run: PYTHONPATH=benchmarks .venv-bench/bin/python -m bench.further [--only counts ...] [--draws 3]
A quarter of an hour on one core. Peers at their defaults; networks of both for 20 epochs.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

import koopman_lora as kl
from bench.methods import contrastive, nystroem_vamp, ours, vamp, vampnet
from bench.systems import FeatureMaps, in_chunks
from koopman_lora.moments import CROSS
from koopman_lora.scores import span_vamp_2

Simulate = Callable[[np.random.Generator, int], np.ndarray]


def autoregressive(rng: np.random.Generator, n: int, memory: tuple[float, ...]) -> np.ndarray:
    """Independent stationary processes of unit variance, (n, n_processes)."""
    a = np.diag(memory)
    return simulated(kl.systems.LinearGaussian(A=a, B=np.sqrt(np.eye(len(a)) - a**2)), rng, n)


def chain(rng: np.random.Generator, n: int, P: np.ndarray) -> np.ndarray:
    """States (n,) of a stationary Markov chain with transition matrix P."""
    return simulated(kl.systems.FiniteMarkovChain(P), rng, n).argmax(axis=1)


def simulated(
    system: kl.systems.LinearGaussian | kl.systems.FiniteMarkovChain, rng: np.random.Generator, n: int
) -> np.ndarray:
    """One trajectory (n, n_coordinates) of a system of this package."""
    return system.simulate(n_steps=n, seed=int(rng.integers(2**31))).values[0]


def switching_variance(rng: np.random.Generator, n: int) -> np.ndarray:
    """White noise of one of three sizes."""
    P = np.array([[0.95, 0.05, 0], [0.05, 0.9, 0.05], [0, 0.05, 0.95]])
    return (np.array([0.3, 1, 3])[chain(rng, n, P)] * rng.normal(size=n))[:, None]


def rings(rng: np.random.Generator, n: int) -> np.ndarray:
    """A walk around one of three concentric rings."""
    P = np.array([[0.98, 0.02, 0], [0.01, 0.98, 0.01], [0, 0.02, 0.98]])
    radius = 1 + chain(rng, n, P) + 0.12 * rng.normal(size=n)
    angle = np.cumsum(0.15 + 0.3 * rng.normal(size=n))
    return np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])


def neurons(rng: np.random.Generator, n: int) -> np.ndarray:
    """Counts of 40 neurons that three hidden processes drive."""
    weights = np.random.default_rng(7).normal(size=(3, 40)) * 0.5
    return rng.poisson(np.exp(autoregressive(rng, n, (0.98, 0.93, 0.85)) @ weights - 0.5)).astype(float)


def channel(rng: np.random.Generator, n: int) -> np.ndarray:
    """Diffusion in two chambers that a narrow channel joins."""
    x, out, noise = np.array([1.0, 0.0]), np.empty((n, 2)), rng.normal(size=(n, 10, 2)) * 0.12
    for t in range(n):
        for step in noise[t]:
            to = np.abs(x + step)
            if (abs(to[0] - 1) <= 0.8 and to[1] <= 1) or (to[0] <= 0.25 and to[1] <= 0.08):
                x = x + step
        out[t] = x
    return out


def volatility(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two returns whose log-volatility is slow."""
    return np.exp(0.8 * autoregressive(rng, n, (0.98, 0.9))) * rng.normal(size=(n, 2))


def hidden_states(rng: np.random.Generator, n: int) -> np.ndarray:
    """Five hidden states seen as normal laws in 12-D."""
    P = np.full((5, 5), 0.01) + 0.95 * np.eye(5)
    means = np.random.default_rng(3).normal(size=(5, 12))
    return 0.9 * means[chain(rng, n, P)] + rng.normal(size=(n, 12))


def double_well(rng: np.random.Generator, n: int) -> np.ndarray:
    """A particle between two wells."""
    x, out, noise = 1.0, np.empty((n, 1)), rng.normal(size=(n, 5)) * np.sqrt(0.014)
    for t in range(n):
        for step in noise[t]:
            x += -0.08 * x * (x * x - 1) + step
        out[t] = x
    return out


def well_in_noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """The same beside 15 coordinates of short memory, turned among them."""
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 16)))[0]
    return np.hstack([double_well(rng, n), autoregressive(rng, n, (0.3,) * 15)]) @ turn


def driven_cycle(rng: np.random.Generator, n: int) -> np.ndarray:
    """Four states, mostly passed in one direction, seen with noise in the plane."""
    step = np.roll(np.eye(4), 1, axis=1)
    angle = chain(rng, n, 0.12 * step + 0.86 * np.eye(4) + 0.02 * step.T) * np.pi / 2
    return np.column_stack([np.cos(angle), np.sin(angle)]) + 0.35 * rng.normal(size=(n, 2))


def predators(rng: np.random.Generator, n: int) -> np.ndarray:
    """Prey and predators with noise."""
    x, out, noise = np.ones(2), np.empty((n, 2)), rng.normal(size=(n, 10, 2)) * 0.009
    for t in range(n):
        for step in noise[t]:
            growth = np.array([0.05 * (1 - 0.2 * x[0] - x[1]), 0.05 * (x[0] - 1 - 0.02 * x[1])])
            x = np.clip(x * np.exp(growth + step), 0.02, 20)
        out[t] = x
    return out


def noisy_torus(rng: np.random.Generator, n: int) -> np.ndarray:
    """Two phases with noise, as four coordinates with noise."""
    a, b = (np.cumsum(v + s * rng.normal(size=n)) for v, s in ((0.3, 0.15), (0.185, 0.1)))
    return np.column_stack([np.cos(a), np.sin(a), np.cos(b), np.sin(b)]) + 0.2 * rng.normal(size=(n, 4))


def pictures(rng: np.random.Generator, n: int) -> np.ndarray:
    """A spot that moves over 8 x 8 noisy pixels."""
    grid, at = np.linspace(-2, 2, 8), autoregressive(rng, n, (0.95, 0.9))
    rows, columns = (np.exp(-((grid - at[:, i : i + 1]) ** 2) / 0.5) for i in range(2))
    return np.einsum("ni,nj->nij", rows, columns).reshape(n, 64) + 0.3 * rng.normal(size=(n, 64))


def counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """Births and deaths with a rarely visited low state."""
    x, out, draws = 10, np.empty((n, 1)), rng.random((n, 40))
    for t in range(n):
        for draw in draws[t]:
            births, deaths = 0.06 + 0.45 * x**3 / (8000 + x**3), 0.01 * x
            x += int(draw < births) - int(draw > 1 - deaths)
        out[t] = x
    return out


def log_normal(rng: np.random.Generator, n: int) -> np.ndarray:
    """A process whose logarithm is normal."""
    return np.exp(1.2 * autoregressive(rng, n, (0.9,)))


def jumps(rng: np.random.Generator, n: int) -> np.ndarray:
    """An autoregressive process of steps without a fourth moment."""
    x, out = 0.0, np.empty((n, 1))
    for t, step in enumerate(np.clip(rng.standard_t(2.2, size=n), -50, 50)):
        x = 0.8 * x + step
        out[t] = x
    return out


class Further(NamedTuple):
    """How a system is simulated, frames to learn from, modes, fresh frames."""

    simulate: Simulate
    n_frames: int
    n_modes: int
    n_fresh: int = 60_000


SYSTEMS = {
    "switching variance": Further(switching_variance, 5000, 3, 100_000),
    "rings": Further(rings, 5000, 6),
    "40 neurons": Further(neurons, 5000, 4),
    "40 neurons, more": Further(neurons, 20_000, 4),
    "channel": Further(channel, 10_000, 5),
    "volatility": Further(volatility, 5000, 3, 100_000),
    "volatility, more": Further(volatility, 20_000, 3, 100_000),
    "hidden states": Further(hidden_states, 3000, 5),
    "double well": Further(double_well, 6000, 3, 100_000),
    "well in noise": Further(well_in_noise, 4000, 3),
    "driven cycle": Further(driven_cycle, 4000, 4),
    "predators": Further(predators, 8000, 6),
    "noisy torus": Further(noisy_torus, 5000, 7),
    "pictures": Further(pictures, 20_000, 6),
    "counts": Further(counts, 10_000, 4),
    "log-normal": Further(log_normal, 6000, 4, 100_000),
    "jumps": Further(jumps, 6000, 4, 100_000),
    "three processes": Further(lambda rng, n: autoregressive(rng, n, (0.95, 0.7, 0.4)), 6000, 6, 100_000),
}
METHODS: dict[str, Callable[..., FeatureMaps]] = {
    "koopman_lora": ours,
    "contrastive": functools.partial(contrastive, epochs=20),
    "VAMPNet": functools.partial(vampnet, epochs=20),
    "Nystroem": nystroem_vamp,
    "linear": vamp,
}


def fresh_score(maps: FeatureMaps, frames: np.ndarray) -> float:
    """VAMP-2 of the span of feature maps on pairs of neighbouring frames."""
    f, g = (lambda x, side=side: in_chunks(side, x.numpy()) for side in maps)
    pairs = kl.lagged_pairs(frames)
    return float(span_vamp_2(kl.estimate_moments(f, g, pairs, names=CROSS, n_blocks=1)))


def main() -> None:
    """Print a row per system: median (smallest to largest) over draws of every method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| system | " + " | ".join(METHODS) + " |", flush=True)
    for name in arguments.only:
        system = SYSTEMS[name]
        frames = system.simulate(np.random.default_rng(999), system.n_fresh)
        found: dict[str, list[float]] = {method: [] for method in METHODS}
        for draw in range(arguments.draws):
            pairs = kl.lagged_pairs(system.simulate(np.random.default_rng(draw), system.n_frames))
            for method, fit in METHODS.items():
                found[method].append(fresh_score(fit(pairs, system.n_modes, draw), frames))
        cells = [f"{np.median(v):.3f} ({min(v):.3f}-{max(v):.3f})" for v in found.values()]
        print(f"| {name}, {system.n_frames:,} frames, {system.n_modes} modes | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
