"""Whether the slowest process of alanine dipeptide is the phi transition, from angles and from distances alone.

Run: python benchmarks/alanine.py [n_seeds] (ten by default, some eight seconds for a fit on one core). Prints for each
seed and input how the leading function that is not constant correlates with the sign of phi (above .95 is asked), and
the interval of its timescale beside that of a Bayesian Markov model of deeptime on the same angles (they are to
overlap). The fit is the default one; all it is told is a lag of 5 ps, from which on the timescale of the Markov model
no longer grows, and which of its inputs are angles.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr
from deeptime.clustering import KMeans
from deeptime.markov import TransitionCountEstimator
from deeptime.markov.msm import BayesianMSM

import koopman_lora as kl

LAG = 10
N_CLUSTERS, N_SAMPLES = 60, 200


class Found(NamedTuple):
    """Of the slowest process: correlations with the sign of phi, its timescale in ps and the interval of this one."""

    singular_function: float
    eigenfunction: float
    timescale: float
    interval: tuple[float, float]


def inputs() -> dict[str, tuple[xr.DataArray, dict]]:
    """What is learned from, and what the fit must be told of it: two angles; the 45 distances between ten atoms."""
    angles = kl.datasets.load("alanine_dipeptide")
    positions = kl.datasets.load("alanine_dipeptide", "positions")
    first, second = np.triu_indices(positions.sizes["atom"], k=1)
    x = positions.values
    distances = np.linalg.norm(x[:, :, first] - x[:, :, second], axis=-1)
    names = [f"{a} {b}" for a, b in zip(positions.atom.values[first], positions.atom.values[second], strict=True)]
    labelled = xr.DataArray(
        distances,
        dims=("trajectory", "time", "coordinate"),
        coords={"time": angles.time, "coordinate": names},
        attrs={"dt": angles.dt, "time_unit": angles.time_unit},
    )
    return {"angles": (angles, {"periodic": ["phi", "psi"], "period": 360}), "distances": (labelled, {})}


def markov_timescale(angles: xr.DataArray, lag: int) -> tuple[float, tuple[float, float]]:
    """Slowest timescale in ps and its 95 % interval, by deeptime's Bayesian Markov model on clusters of the angles."""
    radians = np.radians(angles.values)
    circles = np.concatenate([np.sin(radians), np.cos(radians)], axis=-1)
    clusters = KMeans(N_CLUSTERS, fixed_seed=1, max_iter=200).fit(np.concatenate(circles)).fetch_model()
    discrete = [clusters.transform(part) for part in circles]
    counts = TransitionCountEstimator(lag, "effective").fit(discrete).fetch_model().submodel_largest()
    posterior = BayesianMSM(n_samples=N_SAMPLES).fit(counts).fetch_model()
    timescales = [float(model.timescales(k=1)[0]) * angles.dt for model in posterior.samples]
    lower, upper = np.percentile(timescales, [2.5, 97.5])
    return float(posterior.prior.timescales(k=1)[0]) * angles.dt, (float(lower), float(upper))


def slowest_process(data: xr.DataArray, sign: np.ndarray, seed: int, settings: dict) -> Found:
    """A default fit; its second mode, as the first one is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of further modes, of which nothing is asked here
        estimator = kl.KoopmanLoRA(lag=LAG, seed=seed, **settings).fit(data)
    left = np.concatenate([estimator.singular_functions(part)[:, 1] for part in data])
    eigen = np.concatenate([estimator.eigenfunctions(part)[:, 1].real for part in data])
    lower, upper = estimator.intervals()["timescales_interval"].values[:, 1]
    return Found(
        *(abs(float(np.corrcoef(function, sign)[0, 1])) for function in (left, eigen)),
        float(estimator.spectrum_.timescales[1]),
        (float(lower), float(upper)),
    )


def measured(seeds: range) -> Iterator[tuple[str, int, Found]]:
    """Name of the input, seed, and what was found, of all inputs and seeds."""
    sign = np.sign(kl.datasets.load("alanine_dipeptide").sel(coordinate="phi").values.ravel())
    for name, (data, settings) in inputs().items():
        for seed in seeds:
            yield name, seed, slowest_process(data, sign, seed, settings)


def overlaps(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether two intervals have something in common."""
    return a[0] <= b[1] and b[0] <= a[1]


def main(n_seeds: int) -> None:
    """Print a table, and of each input in how many seeds both was found."""
    angles = kl.datasets.load("alanine_dipeptide")
    for lag in (2, 5, LAG, 20, 40):
        timescale, (lower, upper) = markov_timescale(angles, lag)
        print(f"Markov model, lag {lag * angles.dt:g} ps: {timescale:.1f} ps ({lower:.1f}-{upper:.1f})")
    known = markov_timescale(angles, LAG)[1]
    reached: dict[str, int] = {}
    for name, seed, found in measured(range(n_seeds)):
        lower, upper = found.interval
        both = found.singular_function > 0.95 and overlaps(found.interval, known)
        reached[name] = reached.get(name, 0) + both
        print(
            f"{name:9s} seed {seed}: singular function {found.singular_function:.4f}, eigenfunction "
            f"{found.eigenfunction:.4f}, {found.timescale:.1f} ps ({lower:.1f}-{upper:.1f})",
            flush=True,
        )
    for name, n in reached.items():
        print(f"{name}: correlation above .95 and intervals that overlap in {n} of {n_seeds} seeds (asked: 9 of 10)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
