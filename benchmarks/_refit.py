"""Intervals for the whole procedure, by refits of halves: their coverage and width beside the conditional ones'."""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from _shared import SLOW
from scipy.optimize import linear_sum_assignment

import koopman_lora as kl
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs
from koopman_lora.intervals import match_eigenvalues
from koopman_lora.systems import (
    FiniteMarkovChain,
    FourWellLangevin1D,
    NoisyLogisticMap,
    NoisyRotation,
    ReferenceSpectrum,
    System,
)

N_PAIRS, N_REFITS = 4000, 20
# Fits beyond those with refits, for the spread and for conditional intervals.
N_FRESH, FIRST_FRESH = 20, 100
# Widths are compared with this many standard deviations of repeated fits: their central 95 %.
CENTRAL, MOST_WIDE = 3.92, 2.0
# Short fits: 21 of them for every repetition.
SHORT = {"hidden_dims": (32,), "n_epochs": 6}


class RefitCase(NamedTuple):
    """A system, the number of modes, and how it is fitted."""

    name: str
    system: System
    n_modes: int
    options: dict[str, Any]


CASES = [
    RefitCase("logistic map, 10 modes", NoisyLogisticMap(), 10, {"hidden_dims": (64, 32), "n_epochs": 10}),
    RefitCase("logistic map, 4 modes", NoisyLogisticMap(), 4, {"hidden_dims": (32, 32), "n_epochs": 10}),
    RefitCase("logistic map, 4 modes, 4 hidden units", NoisyLogisticMap(), 4, {"hidden_dims": (4,), "n_epochs": 10}),
    RefitCase("rotation", NoisyRotation(), 5, SHORT),
    RefitCase("chain with blocks", FiniteMarkovChain.with_blocks(), 6, SHORT),
    RefitCase("four wells, 1D", FourWellLangevin1D(), 4, SHORT),
    RefitCase("linear Gaussian, slow", SLOW, 4, SHORT),
]
QUANTITIES = ("canonical_singular_values", "eigenvalue_real", "eigenvalue_imag", "eigenvalue_modulus", "timescales")
KINDS = ("refit", "conditional")


class Repetition(NamedTuple):
    """Of fresh data: estimates and exact values by quantity (n_modes,), bounds (2, n_modes) by kind and quantity."""

    estimate: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    bounds: dict[str, dict[str, np.ndarray]]


def refit_coverage(
    n_repetitions: int,
    exact_eigenvalues: Callable[[ReferenceSpectrum], np.ndarray],
    record: pathlib.Path | None = None,
    first: int = 0,
) -> None:
    """Coverage and width of both kinds of intervals, for every system; conditional ones are cheap, and of more fits.

    What `record` holds is not fitted again, and what is fitted is added to it: hours may be cut into several
    runs, of the same code. Seeds are `first`, first + 1, ...
    """
    known = _read(record)
    seeds = [*range(first, first + n_repetitions), *range(FIRST_FRESH, FIRST_FRESH + N_FRESH)]
    truths = {}
    for case in CASES:
        reference = case.system.spectrum(lag=1, n_modes=case.n_modes)
        truths[case.name] = reference.singular_values, exact_eigenvalues(reference)
    for seed in seeds:  # every system has its first repetitions before any has more
        for case in CASES:
            if (case.name, seed) not in known:
                fit = repeat(case, *truths[case.name], seed, with_refits=seed < FIRST_FRESH)
                known[case.name, seed] = fit
                _write(record, case.name, seed, fit)
    print(f"95 % intervals, {N_PAIRS} pairs, {N_REFITS} refits; means over modes, without the constant one")
    print("asked: coverage 0.90 to 0.99, median width at most 2 of the central 95 % of repeated fits to fresh data")
    for case in CASES:
        print_case(case.name, [known[case.name, seed] for seed in seeds])


def _read(record: pathlib.Path | None) -> dict[tuple[str, int], Repetition]:
    if record is None or not record.exists():
        return {}
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    return {(name, seed): Repetition(*_as_arrays(fit)) for name, seed, fit in lines}


def _as_arrays(kept: Any) -> Any:
    if isinstance(kept, dict):
        return {name: _as_arrays(value) for name, value in kept.items()}
    return [_as_arrays(part) for part in kept] if isinstance(kept[0], dict) else np.array(kept)


def _write(record: pathlib.Path | None, name: str, seed: int, fit: Repetition) -> None:
    if record is not None:
        with record.open("a") as file:
            print(json.dumps([name, seed, fit], default=np.ndarray.tolist), file=file)


def repeat(
    case: RefitCase, sigma: np.ndarray, eigenvalues: np.ndarray, seed: int, with_refits: bool = True
) -> Repetition:
    """One fit to fresh data, with its intervals, those of refits if asked for."""
    trajectories = case.system.simulate(4, N_PAIRS // 4 + 1, seed=seed)
    pairs: LaggedPairs = lagged_pairs(trajectories)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = kl.KoopmanLoRA(case.n_modes, seed=1000 * seed, **case.options).fit(pairs)
    found = estimator.spectrum_
    matched = match_eigenvalues(found.eigenvalues.values, eigenvalues[None])[0]
    intervals = {"conditional": estimator.intervals(Bootstrap(300, seed=seed))}
    if with_refits:
        intervals["refit"] = estimator.intervals(refit=N_REFITS)
    return Repetition(
        _quantities(found.canonical_singular_values.values, found.eigenvalues.values, estimator.clock),
        _quantities(sigma, matched, estimator.clock),
        {kind: {name: _bounds(found, name) for name in QUANTITIES} for kind, found in intervals.items()},
    )


def _quantities(sigma: np.ndarray, eigenvalues: np.ndarray, clock: kl.Clock) -> dict[str, np.ndarray]:
    modulus = np.minimum(np.abs(eigenvalues), 1)
    values = (sigma, eigenvalues.real, eigenvalues.imag, modulus, clock.timescales(modulus))
    return dict(zip(QUANTITIES, values, strict=True))


def _bounds(intervals: xr.Dataset, name: str) -> np.ndarray:
    if name in ("eigenvalue_real", "eigenvalue_imag"):
        part = "real" if name == "eigenvalue_real" else "imaginary"
        return intervals["eigenvalues_interval"].sel(part=part).values
    return intervals[f"{name}_interval"].values


def print_case(name: str, fits: list[Repetition]) -> None:
    """Coverage, and the median over fits and modes of width / spread of repeated fits, by quantity and kind."""
    print(f" {name}")
    for quantity in QUANTITIES:
        # modes of repeated fits stand in the order of the first's exact values
        order = [_order(fits[0].truth, r.truth, quantity) for r in fits]
        estimates = [r.estimate[quantity][o] for r, o in zip(fits, order, strict=True)]
        with np.errstate(invalid="ignore"):  # of infinite timescales there is no spread
            spread = CENTRAL * np.std(estimates, axis=0, ddof=1)
        for kind in KINDS:
            rows = [_row(r, o, kind, quantity) for r, o in zip(fits, order, strict=True) if kind in r.bounds]
            if rows:
                _print_row(kind, quantity, *np.swapaxes(rows, 0, 1), spread[1:])


def _row(fit: Repetition, order: np.ndarray, kind: str, quantity: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether the exact value is inside, and the width, of every mode but the constant."""
    (lower, upper), truth = fit.bounds[kind][quantity], fit.truth[quantity]
    inside = (lower <= truth + 1e-9) & (truth <= upper + 1e-9)
    with np.errstate(invalid="ignore"):  # a timescale of 1 has no upper bound, and no width
        return inside[order][1:], (upper[order] - lower[order])[1:]


def _print_row(kind: str, quantity: str, inside: np.ndarray, width: np.ndarray, spread: np.ndarray) -> None:
    varies = spread > 1e-9  # imaginary parts of real eigenvalues do not
    ratio = np.median(width[:, varies] / spread[varies], axis=0)
    covered, wide = float(np.mean(inside)), float(np.median(ratio)) if varies.any() else np.nan
    verdict = "LOW" if round(covered, 2) < 0.9 else "high" if round(covered, 3) > 0.99 else "met"
    print(
        f"  {kind:<12}{quantity:<26} {len(inside):>3} fits  covered {covered:.3f} {verdict:<5}"
        f"width / spread {wide:.2f} {'WIDE' if wide > MOST_WIDE else 'met' if wide <= MOST_WIDE else '-':<5}"
        f"by mode {inside.mean(axis=0).round(2)} {ratio.round(2)}",
        flush=True,
    )


def _order(first: dict[str, np.ndarray], other: dict[str, np.ndarray], quantity: str) -> np.ndarray:
    """Positions of the exact values of `other`, which stand as its estimates do, beside those of `first`."""
    positions = np.arange(len(first[quantity]))
    if quantity == "canonical_singular_values":
        return positions
    values = [truth["eigenvalue_real"] + 1j * truth["eigenvalue_imag"] for truth in (first, other)]
    return linear_sum_assignment(np.abs(values[0][:, None] - values[1]))[1]
