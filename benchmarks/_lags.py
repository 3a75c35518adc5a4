"""Part of `trust.py`: whether a timescale that depends on the lag is told, and false alarms."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from _shared import SLOW, SMALL_CHAIN

import koopman_lora as kl
from koopman_lora.systems import LinearGaussian, NoisyLogisticMap, NoisyRotation

FAST, SLOWER = (LinearGaussian(A=[[a, 0.0], [0.0, 0.5]], B=[[1.0, 0.0], [0.0, 1.0]]) for a in (0.9, 0.98))
HIDDEN = LinearGaussian(A=[[0.2, 0.3], [0.0, 0.95]], B=[[1.0, 0.0], [0.0, 0.3]])
TURNING = NoisyRotation(omega=0.5, noise=0.1)

Draw = Callable[[int], np.ndarray]
# Data of a seed, and modes: of Markov processes seen whole, and of two of which one coordinate is seen.
MARKOV: dict[str, tuple[Draw, int]] = {
    "linear, non-normal": (lambda seed: SLOW.simulate(1, 3000, seed).values, 5),
    "linear, 9 frames": (lambda seed: FAST.simulate(1, 3000, seed).values, 4),
    "linear, 50 frames": (lambda seed: SLOWER.simulate(1, 3000, seed).values, 3),
    "chain of four states": (lambda seed: SMALL_CHAIN.simulate(2, 2000, seed).values, 4),
    "rotation": (lambda seed: NoisyRotation().simulate(1, 2000, seed).values, 3),
    "logistic map": (lambda seed: NoisyLogisticMap().simulate(4, 1000, seed).values, 6),
}
SEEN_IN_PART: dict[str, tuple[Draw, int]] = {
    "follows a slow one": (lambda seed: HIDDEN.simulate(2, 5000, seed).values[..., :1], 2),
    "turns with another": (lambda seed: TURNING.simulate(2, 3000, seed).values[..., :1], 3),
}


def lags(n_seeds: int, first: int = 0) -> None:
    """How often 'no plateau' is told of short fits."""
    print(f"timescales that depend on the lag: fits that are told of, of {n_seeds}")
    for name, (draw, n_modes) in {**MARKOV, **SEEN_IN_PART}.items():
        told = {"grows": 0, "falls": 0}
        for seed in range(first, first + n_seeds):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                estimator = kl.KoopmanLoRA(n_modes, hidden_dims=(32,), n_epochs=5, seed=seed, progress=False)
                found = {f.name: f.message for f in estimator.fit(list(draw(seed))).summary().findings}
            for word in told:
                told[word] += f" {word} with the lag" in found.get("no plateau", "")
        asked = "told" if name in SEEN_IN_PART else "not told"
        print(f"  {name}: grows {told['grows']}, falls {told['falls']} (asked: {asked})", flush=True)
