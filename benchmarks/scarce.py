"""Few pairs: what a fit captures beside linear VAMP, and what further fits change where held-out pairs do not tell.

Run: OMP_NUM_THREADS=1 python benchmarks/scarce.py [--seeds 5] [--only wells ...]
VAMP-2 of the span on 40,000 fresh pairs, the constant included. Half an hour on one core.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from _shared import SLOW

import koopman_lora as kl
from koopman_lora import refinement
from koopman_lora.moments import CROSS
from koopman_lora.scores import span_vamp_2

Rng = np.random.Generator
FRESH, FRESH_SEED = (40, 1000), 10**6


def wells(shape: tuple[int, int], rng: Rng, n_wells: int = 1, tilt: float = 0.5) -> np.ndarray:
    """Particles in (x^2 - 1)^2 + tilt x, frames .2 apart, (n_trajectories, n_steps, n_wells)."""
    x, frames = rng.choice([-1.0, 1.0], size=(shape[0], n_wells)), []
    for _ in range(shape[1] + 50):
        frames.append(x)
        for _ in range(20):
            x = x - 0.01 * (4 * x**3 - 4 * x + tilt) + 0.08 * rng.normal(size=x.shape)
    return np.stack(frames[50:], axis=1)


def relaxing(shape: tuple[int, int], rng: Rng, memory: np.ndarray, draw: Callable[..., np.ndarray]) -> np.ndarray:
    """Independent coordinates of unit variance with this memory of a frame, kicked by draws of unit variance."""
    x, frames = draw(size=(shape[0], len(memory))), []
    for _ in range(shape[1] + 50):
        frames.append(x)
        x = memory * x + np.sqrt(1 - memory**2) * draw(size=x.shape)
    return np.stack(frames[50:], axis=1)


def lognormal(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """Three skewed, positive coordinates: exponentials of a linear process."""
    return np.exp(1.2 * relaxing(shape, rng, np.array([0.95, 0.8, 0.5]), rng.normal))


def heavy_tails(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """A linear process kicked by Student's t with three degrees of freedom."""
    memory = np.array([0.95, 0.8, 0.5])
    return relaxing(shape, rng, memory, lambda size: rng.standard_t(3, size=size) / np.sqrt(3))


def beside_noise(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """Two slow coordinates and 20 of white noise."""
    x = SLOW.simulate(*shape, seed=int(rng.integers(1 << 30))).values
    return np.concatenate([x, rng.normal(size=(*shape, 20))], axis=2)


def switching(shape: tuple[int, int], rng: Rng) -> np.ndarray:
    """Five coordinates of noise whose size a hidden switch sets: no linear function is slow."""
    leaves, state, states = np.array([0.02, 0.03]), rng.integers(2, size=shape[0]), []
    for _ in range(shape[1]):
        states.append(state)
        state = np.where(rng.random(shape[0]) < leaves[state], 1 - state, state)
    return rng.normal(size=(*shape, 5)) * np.where(np.stack(states, axis=1), 2.5, 1.0)[..., None]


class Scarce(NamedTuple):
    """Trajectories (n_trajectories, n_steps, n_coordinates) from a shape and a generator; frames and modes of a fit."""

    title: str
    simulate: Callable[[tuple[int, int], Rng], np.ndarray]
    n_frames: int
    n_modes: int


SYSTEMS = {
    "wells": Scarce("double well, 5,000 frames, 4 modes", wells, 5000, 4),
    "many-wells": Scarce(
        "five double wells side by side, 5,000 frames, 6 modes", lambda s, rng: wells(s, rng, 5, 0.0), 5000, 6
    ),
    "lognormal": Scarce("log-normal process, 5,000 frames, 5 modes", lognormal, 5000, 5),
    "heavy-tails": Scarce("heavy-tailed linear process, 5,000 frames, 5 modes", heavy_tails, 5000, 5),
    "noise": Scarce("slow linear process beside 20 of noise, 2,000 frames, 4 modes", beside_noise, 2000, 4),
    "linear": Scarce(
        "20 linear coordinates, 3,000 frames, 6 modes",
        lambda s, rng: relaxing(s, rng, np.linspace(0.3, 0.97, 20), rng.normal),
        3000,
        6,
    ),
    "switching": Scarce("switching variance, 5,000 frames, 3 modes", switching, 5000, 3),
}


def pairs_of(case: Scarce, shape: tuple[int, int], seed: int) -> kl.LaggedPairs:
    """Pairs of a draw."""
    return kl.lagged_pairs(list(case.simulate(shape, np.random.default_rng(seed))))


def fitted(pairs: kl.LaggedPairs, case: Scarce, seed: int, may_ask: bool) -> tuple[kl.KoopmanLoRA, float]:
    """A default fit and its seconds, with or without further fits."""
    usual, start = refinement.ERRORS_TO_TELL, time.perf_counter()
    refinement.ERRORS_TO_TELL = usual if may_ask else 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return kl.KoopmanLoRA(case.n_modes, seed=seed).fit(pairs), time.perf_counter() - start
    finally:
        refinement.ERRORS_TO_TELL = usual


def captured(estimator: kl.KoopmanLoRA, fresh: kl.LaggedPairs) -> float:
    """VAMP-2 of the span of its functions."""
    maps = (lambda x, side=side: estimator.singular_functions(x, side) for side in ("left", "right"))
    return float(span_vamp_2(kl.estimate_moments(*maps, fresh, names=CROSS)))


def linear(pairs: kl.LaggedPairs, fresh: kl.LaggedPairs, n_modes: int) -> float:
    """VAMP-2 on fresh pairs of linear VAMP."""

    def functions(x: torch.Tensor) -> np.ndarray:
        return np.hstack([np.ones((len(x), 1)), x.numpy()])

    known, there = (kl.estimate_moments(functions, functions, p, names=CROSS) for p in (pairs, fresh))
    found = kl.koopman_spectrum(known)
    sides = [found[f"{side}_coefficients"].values[:, :n_modes] for side in ("phi", "psi")]
    return float(span_vamp_2(there.transformed(*sides)))


def row(case: Scarce, fresh: kl.LaggedPairs, seed: int) -> tuple[float, float, float, float, float]:
    """Linear VAMP; without further fits, with them; seconds of both."""
    pairs = pairs_of(case, (2, case.n_frames // 2), seed)
    estimator, seconds = fitted(pairs, case, seed, may_ask=True)
    without, alone = estimator, seconds
    if estimator.refinement_.chosen_by == refinement.BY_FURTHER_FITS:
        without, alone = fitted(pairs, case, seed, may_ask=False)
    scores = linear(pairs, fresh, case.n_modes), captured(without, fresh), captured(estimator, fresh)
    return (*scores, alone, seconds)


def main() -> None:
    """Print a table: medians, and the smallest and the largest of the draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"VAMP-2 on fresh pairs, median (smallest to largest) of {arguments.seeds} draws; seconds: median")
    for name in arguments.only:
        case = SYSTEMS[name]
        fresh = pairs_of(case, FRESH, FRESH_SEED)
        rows = np.array([row(case, fresh, seed) for seed in range(arguments.seeds)])
        asked = int(np.sum(rows[:, 4] != rows[:, 3]))
        texts = [f"{np.median(v):.3f} ({v.min():.3f}-{v.max():.3f})" for v in rows.T[:3]]
        alone, seconds = np.median(rows[:, 3:], axis=0)
        print(
            f"| {case.title} | {' | '.join(texts)} | {asked} of {len(rows)} | {alone:.1f}, {seconds:.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
