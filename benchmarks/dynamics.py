"""What the modes are for, measured at 50,000 pairs: eigenpairs, forecasts and coarse-graining.

Run: python benchmarks/dynamics.py [seed] (about a minute on one core). Prints every measured number beside what was
asked, and for eigenfunctions what EDMD gives from the same pairs with the *exact* leading functions as features: where
that misses as well, the pairs are too few for any method.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs
from koopman_lora.eigenanalysis import eigen_analysis
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import EDMD, Moments
from koopman_lora.prediction import forecast
from koopman_lora.refinement import refine
from koopman_lora.ritz import ritz_maps
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.states.coarse_graining import macroscopic_model
from koopman_lora.states.metastable_sets import membership_coefficients, membership_map, number_of_states
from koopman_lora.systems import (
    FiniteMarkovChain,
    FourWellLandscape2D,
    FourWellLangevin1D,
    NoisyRotation,
    OrnsteinUhlenbeck,
    System,
)
from koopman_lora.training import fit

N_PAIRS, N_TRAJECTORIES = 50_000, 50
HORIZONS = (1, 5, 20)
TRUNK_THRESHOLD = 1e-5


class Case(NamedTuple):
    """A system, its leading eigenpairs to compare, the modes of the model, E[x_t | x_0], and the number of wells."""

    system: System
    n_leading: int
    n_modes: int
    expectation: Callable[[np.ndarray, int], np.ndarray] | None = None
    n_states: int | None = None
    is_reversible: bool = False


def cases() -> dict[str, Case]:
    """Systems by name, each with what is known of it."""
    ou = OrnsteinUhlenbeck([[1.0]], [[np.sqrt(2)]], dt=0.5)
    rotation = NoisyRotation()
    # with the default coupling of 0.02 not even counting transitions reaches 5 %: gaps of 0.01 between eigenvalues
    chain = FiniteMarkovChain.with_blocks(coupling=0.2)
    P = chain.transition_matrix

    def rotated(x: np.ndarray, n: int) -> np.ndarray:
        decay = np.exp(n * (1j * rotation.omega - rotation.noise**2 / 2))
        z = (x[:, 0] + 1j * x[:, 1]) * decay
        return np.stack([z.real, z.imag], axis=1)

    return {
        "Ornstein-Uhlenbeck": Case(
            ou, 3, 6, lambda x, n: x @ np.linalg.matrix_power(ou.discretised.A, n).T, is_reversible=True
        ),
        "NoisyRotation": Case(rotation, 5, 7, rotated),
        # four wells, but at this lag only one gap: two states
        "FourWellLangevin1D": Case(FourWellLangevin1D(), 4, 6, None, 2, is_reversible=True),
        "FourWellLandscape2D": Case(FourWellLandscape2D(dt=0.5), 4, 6, None, 4, is_reversible=True),
        "FiniteMarkovChain": Case(chain, 3, 12, lambda x, n: x @ np.linalg.matrix_power(P, n), 3),
    }


def report(what: str, measured: float, asked: float, at_least: bool = False) -> None:
    """Print a measured number beside the one asked for."""
    met = measured >= asked if at_least else measured <= asked
    sign = ">=" if at_least else "<="
    print(f"  {what:<62} {measured:8.4f}   asked {sign} {asked:<7g} {'met' if met else 'MISSED'}", flush=True)


def train(case: Case, pairs: LaggedPairs, seed: int) -> KoopmanLoRAModel:
    """A model with default settings, trained and refined."""
    torch.manual_seed(seed)
    model = KoopmanLoRAModel(pairs.state_shape, case.n_modes, learn_svals=True, has_centering=True)
    refine(model, fit(model, pairs, seed=seed).split)
    return model


def simulate(case: Case, seed: int) -> LaggedPairs:
    """50,000 pairs, one frame apart."""
    return lagged_pairs(case.system.simulate(N_TRAJECTORIES, N_PAIRS // N_TRAJECTORIES + 1, seed=seed))


def eigenfunction_errors(values: np.ndarray, reference: np.ndarray, weights: np.ndarray, groups: list) -> list[float]:
    """L2 distance up to phase; for conjugate or degenerate pairs the largest sine between the two subspaces."""
    root = np.sqrt(weights)[:, None]
    errors = []
    for group in groups:
        a, b = root * values[:, group], root * reference[:, group]
        if len(group) == 1:
            overlap = np.vdot(a[:, 0], b[:, 0])
            errors.append(float(np.linalg.norm(a[:, 0] * overlap / abs(overlap) - b[:, 0])))
        else:
            Q, R = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
            errors.append(float(np.linalg.norm(R - Q @ (np.conj(Q.T) @ R), 2)))
    return errors


def groups_of(eigenvalues: np.ndarray) -> list[list[int]]:
    """Neighbours with one modulus belong together."""
    groups: list[list[int]] = []
    for i, value in enumerate(eigenvalues):
        if groups and abs(abs(value) - abs(eigenvalues[groups[-1][0]])) < 1e-6:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def check_eigenpairs(case: Case, model: KoopmanLoRAModel, moments: Moments, pairs: LaggedPairs) -> None:
    """Leading eigenvalues, timescales and eigenfunctions against the truth."""
    reference = case.system.spectrum(lag=1, n_modes=case.n_leading)
    bootstrap = Bootstrap(n_resamples=200)
    if case.is_reversible:
        # the whole last hidden layer, which symmetric moments keep from over-fitting
        f = ritz_maps(model)[0]
        moments = estimate_moments(f, f, pairs, names=EDMD).symmetrised()
        pairs_of = eigen_analysis(moments, "edmd", bootstrap=bootstrap, threshold=TRUNK_THRESHOLD)
    else:
        f, pairs_of = model.f, eigen_analysis(moments, bootstrap=bootstrap)
    found = pairs_of.isel(mode=slice(0, case.n_leading))
    low, high = (found.eigenvalues_interval.sel(bound=b).values for b in ("lower", "upper"))
    truth = np.stack([reference.eigenvalues.real, reference.eigenvalues.imag])
    inside = ((truth >= low - 1e-9) & (truth <= high + 1e-9)).all(axis=0)
    print("  eigenvalues", found.eigenvalues.values.round(4), "truth", reference.eigenvalues.round(4))
    report("leading eigenvalues inside their 95 % interval (share)", inside[1:].mean(), 1.0, at_least=True)
    times = reference.clock.timescales(reference.eigenvalues[1:])
    print("  timescales ", found.timescales.values[1:].round(4), "truth", times.round(4))
    report("timescales, largest relative error", np.abs(found.timescales.values[1:] / times - 1).max(), 0.05)
    with torch.no_grad():
        features = f(torch.from_numpy(reference.points)).double().numpy()
    values = features @ found.right_eigenfunction_coefficients.values
    groups = groups_of(reference.eigenvalues)
    errors = eigenfunction_errors(values, reference.eigenfunctions(reference.points), reference.weights, groups)
    print("  eigenfunction errors", np.round(errors, 4), "with exact functions", exact_errors(case, pairs, groups))
    report("eigenfunctions, largest L2 error", max(errors), 0.05)


def exact_errors(case: Case, pairs: LaggedPairs, groups: list) -> np.ndarray:
    """Errors of EDMD on the exact leading singular functions and the next ones, up to the model's number of modes."""
    exact = case.system.spectrum(lag=1, n_modes=case.n_modes)
    moments = estimate_moments(*[lambda x: exact.left(x.numpy())] * 2, pairs)
    moments = moments.symmetrised() if case.is_reversible else moments
    values = exact.left(exact.points) @ eigen_analysis(moments, "edmd").right_eigenfunction_coefficients.values
    return np.round(eigenfunction_errors(values, exact.eigenfunctions(exact.points), exact.weights, groups), 4)


def check_forecast(case: Case, model: KoopmanLoRAModel, moments: Moments, seed: int) -> None:
    """Forecasts of fresh stationary states against their exact conditional expectation."""
    x = case.system.simulate(1000, 1, seed=seed + 1000).values[:, 0]
    with torch.no_grad():
        features = model.f(torch.from_numpy(x))
    for method in ("operator", "edmd"):
        guess = forecast(moments, features, HORIZONS, method=method)
        for step in HORIZONS:
            error = guess.sel(step=step).values - case.expectation(x, step)
            relative = np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(x.var(axis=0)))
            report(f"forecast ({method}), {step} lags: error / deviation of the signal", relative, 0.05)


def check_states(case: Case, model: KoopmanLoRAModel, moments: Moments, pairs: LaggedPairs) -> None:
    """The reduced model against the wells or blocks of the system."""
    # eigenfunctions of a reversible process; singular functions of any
    functions = eigen_analysis(moments.symmetrised()).right_eigenfunction_coefficients.real
    if not case.is_reversible:
        functions = koopman_spectrum(moments).phi_coefficients
    with torch.no_grad():
        slow = model.f(pairs.x).double().numpy() @ functions.values
    coefficients = membership_coefficients(slow, case.n_states)
    chi = membership_map(model.f, functions, coefficients)
    reduced = macroscopic_model(estimate_moments(chi, chi, pairs, names=EDMD)).timescales.values[1:]
    suggestion = number_of_states(moments)
    print(f"  number of states suggested {suggestion.attrs['suggested']}, wells or blocks {case.n_states}")
    truth = case.system.spectrum(lag=1, n_modes=case.n_states).to_dataset().timescales.values[1:]
    print("  reduced timescales", reduced.round(4), "truth", truth.round(4))
    report("timescales of the reduced model, largest relative error", np.abs(reduced / truth - 1).max(), 0.1)
    label = chi(pairs.x).argmax(axis=1)
    if isinstance(case.system, FourWellLandscape2D):
        core = case.system.core_labels(pairs.x.numpy())
    elif isinstance(case.system, FiniteMarkovChain):
        core = case.system.blocks[case.system.state_indices(pairs.x.numpy())]
    else:
        return
    report("frames inside a core that get its state (worst core)", min(recovered(label, core)), 0.95, at_least=True)


def recovered(label: np.ndarray, core: np.ndarray) -> list[float]:
    """Share of the frames of every core that carry the core's most frequent label; 0 if two cores share one."""
    shares, winners = [], []
    for well in range(core.max() + 1):
        counts = np.bincount(label[core == well], minlength=label.max() + 1)
        winners.append(int(counts.argmax()))
        shares.append(counts.max() / counts.sum())
    return shares if len(set(winners)) == len(winners) else [0.0]


def main(seed: int = 0) -> None:
    """Measure all systems."""
    torch.set_num_threads(1)
    for name, case in cases().items():
        pairs = simulate(case, seed)
        start = time.perf_counter()
        model = train(case, pairs, seed)
        moments = estimate_moments(model.f, model.g, pairs, observables=flat_state)
        print(f"{name}: {len(pairs)} pairs, {case.n_modes} modes, {time.perf_counter() - start:.1f} s")
        check_eigenpairs(case, model, moments, pairs)
        if case.expectation is not None:
            check_forecast(case, model, moments, seed)
        if case.n_states is not None:
            check_states(case, model, moments, pairs)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
