"""Whether the remedy that a verdict names closes the gap, on real fits: one cause at a time, before and after.

Run: OMP_NUM_THREADS=1 python benchmarks/verdicts.py [--quick] [--only "training gap" ...]
Two to six minutes on one core. Un-refined fits but where it says so; medians over the seeds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

import koopman_lora as kl

CAUSES = ("training gap", "non-orthogonality", "anisotropy", "generalisation gap", "sampling error")
WELLS = kl.systems.FourWellLangevin1D()  # reversible
ROTATION = kl.systems.NoisyRotation()  # not reversible
PROCESS = kl.systems.LinearGaussian([[0.8]], [[0.6]])
PLAIN = {"refine": False, "hidden_dims": (32, 32), "n_epochs": 30}


class Case(NamedTuple):
    """A fit that is bad for one reason, and what its remedies change; `n_pairs` and `n_noise` are of the data."""

    cause: str
    title: str
    system: kl.systems.System
    bad: Mapping[str, Any]
    remedies: Mapping[str, Mapping[str, Any]]


CASES = [
    Case(
        "training gap",
        "rotation, one epoch",
        ROTATION,
        {"n_modes": 5, "n_pairs": 4000, "n_epochs": 1},
        {
            "n_epochs=30": {"n_epochs": 30},
            "n_epochs=60, reg_weight=0.1": {"n_epochs": 60, "reg_weight": 0.1},
            "hidden_dims=(128, 128)": {"hidden_dims": (128, 128)},
            "refine": {"refine": True},
        },
    ),
    Case(
        "non-orthogonality",
        "four wells, nesting=None",
        WELLS,
        {"n_modes": 4, "n_pairs": 8000, "nesting": None},
        {
            "nesting='jnt'": {"nesting": "jnt"},
            "reg_weight=0.1": {"reg_weight": 0.1},
            "nesting='jnt', reg_weight=0.1": {"nesting": "jnt", "reg_weight": 0.1},
            "shared_encoder=True": {"shared_encoder": True},
            "refine": {"refine": True},
        },
    ),
    Case(
        "anisotropy",
        "four wells, learn_svals=False",
        WELLS,
        {"n_modes": 4, "n_pairs": 8000, "learn_svals": False},
        {
            "learn_svals=True": {"learn_svals": True},
            "learn_svals=True, reg_weight=0.1": {"learn_svals": True, "reg_weight": 0.1},
            "shared_encoder=True": {"shared_encoder": True},
            "refine": {"refine": True},
        },
    ),
    Case(
        "anisotropy",
        "rotation, learn_svals=False",
        ROTATION,
        {"n_modes": 5, "n_pairs": 8000, "learn_svals": False},
        {
            "learn_svals=True": {"learn_svals": True},
            "shared_encoder=True": {"shared_encoder": True},
            "refine": {"refine": True},
        },
    ),
    Case(
        "generalisation gap",
        "four wells among 20 noise coordinates, 400 pairs",
        WELLS,
        {"n_modes": 4, "n_pairs": 400, "n_noise": 20, "hidden_dims": (128, 128), "n_epochs": 100, "held_out": 0.5},
        {
            "20 times the data": {"n_pairs": 8000, "n_epochs": 10},
            "n_modes=2": {"n_modes": 2},
            "shared_encoder=True": {"shared_encoder": True},
            "hidden_dims=(4,)": {"hidden_dims": (4,)},
            "weight_decay=1": {"weight_decay": 1.0},
            "noise coordinates left out": {"n_noise": 0},
        },
    ),
    Case(
        "sampling error",
        "Ornstein-Uhlenbeck, refined, 400 pairs",
        PROCESS,
        {"n_modes": 4, "n_pairs": 400, "refine": True, "n_epochs": None},
        {"20 times the data": {"n_pairs": 8000}, "n_epochs=60": {"n_epochs": 60}},
    ),
]


def compare(system: kl.systems.System, seed: int, n_pairs: int, n_noise: int = 0, **options: Any) -> Any:
    """Comparison of singular values of one fit to `n_pairs` pairs, among `n_noise` coordinates of white noise."""
    frames = system.simulate(n_trajectories=4, n_steps=n_pairs // 4 + 1, seed=seed).values
    noise = np.random.default_rng(100 + seed).normal(size=(*frames.shape[:2], n_noise))
    estimator = kl.KoopmanLoRA(seed=seed, **{**PLAIN, **options}).fit(list(np.concatenate([frames, noise], axis=2)))
    return estimator.diagnose(kl.Bootstrap(200))


def row(what: str, case: Case, change: Mapping[str, Any], n_seeds: int) -> np.ndarray:
    """Print the median sizes of all causes and how often the verdict was this one; sizes of the cause, (n_seeds,)."""
    found = [compare(case.system, seed, **{**case.bad, **change}) for seed in range(n_seeds)]
    sizes = np.array([comparison["size"].values for comparison in found])
    own = sizes[:, CAUSES.index(case.cause)]
    n_verdicts = sum(comparison.verdict == case.cause for comparison in found)
    cells = " ".join(f"{size:18.3f}" for size in np.median(sizes, axis=0))
    print(f"  {what:34s}{cells}   {own.min():.3f} to {own.max():.3f}   {n_verdicts} of {n_seeds}", flush=True)
    return own


def check(case: Case, n_seeds: int) -> None:
    """One table: the bad fit, then each remedy by itself, and how much of the gap it left."""
    print(f"\n{case.cause}: {case.title}; {n_seeds} seeds, median sizes")
    print(f"  {'':34s}{' '.join(f'{cause:>18s}' for cause in CAUSES)}   its range       verdict")
    before = row("before", case, {}, n_seeds)
    for name, change in case.remedies.items():
        after = row(name, case, change, n_seeds)
        print(f"    left of the gap: median {np.median(after / before):.2f}, worst {np.max(after / before):.2f}")


def main() -> None:
    """Run the causes asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds instead of five")
    parser.add_argument("--only", nargs="+", choices=CAUSES, default=list(CAUSES), help="causes to make")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # bad fits are warned about, which is not what is measured here
    start = time.process_time()
    for case in CASES:
        if case.cause in arguments.only:
            check(case, 2 if arguments.quick else 5)
    print(f"\n({time.process_time() - start:.0f} s of process time)")


if __name__ == "__main__":
    main()
