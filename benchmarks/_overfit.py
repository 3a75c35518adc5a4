"""Over-fitted fits: are they told, and are good ones left alone."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from _shared import SLOW

import koopman_lora as kl
from koopman_lora import systems
from koopman_lora.findings import OVER_FIT

SIZES = (150, 400, 1000, 4000, 20_000)
# A canonical value this much too high, in any mode, must be told; where all are this near, nothing may be.
TOO_HIGH, NEAR = 0.1, 0.03


class Scarce(NamedTuple):
    """A system, None for white noise in five coordinates, with so many coordinates of white noise beside."""

    name: str
    system: systems.System | None
    n_modes: int
    n_noise: int = 0


CASES = (
    Scarce("logistic map", systems.NoisyLogisticMap(), 8),
    Scarce("linear Gaussian", SLOW, 6),
    Scarce("linear Gaussian + 20 of noise", SLOW, 4, 20),
    Scarce("four wells 1-D", systems.FourWellLangevin1D(), 5),
    Scarce("four wells 2-D", systems.FourWellLandscape2D(), 5),
    Scarce("four wells 2-D + 10 of noise", systems.FourWellLandscape2D(), 5, 10),
    Scarce("rotation", systems.NoisyRotation(), 5),
    Scarce("chain with blocks", systems.FiniteMarkovChain.with_blocks(), 6),
    Scarce("white noise", None, 5),
)


def overfit(first_seed: int, n_seeds: int) -> None:
    """Share of over-fitted fits that are told, and of good ones that are; defaults, one or four trajectories."""
    told: dict[str, list[bool]] = {"over-fitted": [], "good": [], "between": []}
    by_case: dict[str, list[tuple[str, bool]]] = {}
    for case in CASES:
        for n in SIZES:
            for seed in range(first_seed, first_seed + n_seeds):
                outcome = _outcome(case, n, seed)
                if outcome is not None:
                    told[outcome[0]].append(outcome[1])
                    by_case.setdefault(case.name, []).append(outcome)
    print(f"over-fit told by the fit: {len(CASES)} systems, {SIZES} frames, seeds from {first_seed}, {n_seeds} each")
    for name, outcomes in by_case.items():
        counts = ", ".join(
            f"{kind} {sum(told for k, told in outcomes if k == kind)} of {sum(k == kind for k, _ in outcomes)}"
            for kind in told
        )
        print(f"  {name}: told of {counts}")
    for kind, asked in (("over-fitted", ">= .95"), ("good", "<= .05"), ("between", "-")):
        print(f"  {kind}: told {np.mean(told[kind]):.3f} of {len(told[kind])}, asked {asked}")


def _outcome(case: Scarce, n: int, seed: int) -> tuple[str, bool] | None:
    data, exact = _data(case, n, seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = kl.KoopmanLoRA(case.n_modes, seed=seed).fit(data)
    except ValueError:  # a state of the chain was never visited
        return None
    error = (estimator.spectrum_.canonical_singular_values.values - exact)[1:]
    kind = "over-fitted" if error.max() > TOO_HIGH else "good" if np.abs(error).max() <= NEAR else "between"
    return kind, any(finding.name == OVER_FIT for finding in estimator.findings_)


def _data(case: Scarce, n: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Trajectories, and the exact singular values."""
    rng = np.random.default_rng([seed, n])
    if case.system is None:
        return [rng.normal(size=(n + 1, 5))], np.eye(1, case.n_modes)[0]
    n_trajectories = 1 if n < 400 or seed % 2 == 0 else 4
    states = case.system.simulate(n_trajectories, n // n_trajectories + 1, seed=seed).values
    data = [np.hstack([x, rng.normal(size=(len(x), case.n_noise))]) for x in states]
    return data, case.system.spectrum(lag=1, n_modes=case.n_modes).singular_values
