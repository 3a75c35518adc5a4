"""Reversible diffusions on a grid: finite-volume generator, its slow modes, and functions between the grid points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse import csc_matrix, diags_array
from scipy.sparse.linalg import eigsh

from koopman_lora.clock import Clock

from ._base import Function, ReferenceSpectrum, check_states

MAX_MODES = 200  # beyond, modes oscillate too fast for the grids used here


def cell_centres(half_width: float, n_cells: int) -> np.ndarray:
    """Centres of equal cells that fill [-half_width, half_width], (n_cells,).

    Examples
    --------
    >>> cell_centres(1.0, 4)
    array([-0.75, -0.25,  0.25,  0.75])
    """
    return half_width * ((2 * np.arange(n_cells) + 1) / n_cells - 1)


def boltzmann_weights(energy: np.ndarray) -> np.ndarray:
    """Probability of each cell, proportional to exp(-energy), same shape as `energy` (in units of k_B T)."""
    weights = np.exp(energy.min() - energy)
    return weights / weights.sum()


def symmetric_generator(energy: np.ndarray, spacing: float, diffusion: float) -> csc_matrix:
    """Minus the generator of overdamped Langevin dynamics, symmetrised: pi^{1/2} (-Q) pi^{-1/2}, positive semidefinite.

    Jump rates between neighbouring cells are ``diffusion / spacing^2 * exp(-(E_j - E_i) / 2)``: in detailed balance
    with exp(-E), second-order accurate. Nothing leaves the grid.

    Parameters
    ----------
    energy : array (n,) or (n, n) in units of k_B T
    spacing : distance between neighbouring cell centres
    diffusion : diffusion constant
    """
    rate = diffusion / spacing**2
    index = np.arange(energy.size).reshape(energy.shape)
    exit_rates, couplings = np.zeros(energy.shape), []
    for axis in range(energy.ndim):
        n = energy.shape[axis]
        low, high = (np.take(index, span, axis) for span in (range(n - 1), range(1, n)))
        rise = (energy.flat[high.ravel()] - energy.flat[low.ravel()]) / 2
        np.add.at(exit_rates.reshape(-1), low.ravel(), rate * np.exp(-rise))
        np.add.at(exit_rates.reshape(-1), high.ravel(), rate * np.exp(rise))
        couplings.append(csc_matrix((np.full(low.size, -rate), (low.ravel(), high.ravel())), (energy.size,) * 2))
    upper = sum(couplings)
    return csc_matrix(upper + upper.T + diags_array(exit_rates.ravel()))


def slow_modes(energy: np.ndarray, spacing: float, diffusion: float, n_modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest decay rates (n_modes,) of the generator and its eigenfunctions (*energy.shape, n_modes).

    The functions are orthonormal under the Boltzmann weights; the first is 1, of the others the largest value is
    positive.
    """
    H = symmetric_generator(energy, spacing, diffusion)
    start = np.random.default_rng(0).standard_normal(H.shape[0])  # else ARPACK starts anywhere: not reproducible
    rates, vectors = eigsh(H, n_modes, sigma=-0.01 * diffusion, v0=start)
    order = np.argsort(rates)
    functions = vectors[:, order] / np.sqrt(boltzmann_weights(energy)).reshape(-1, 1)
    functions *= np.sign(functions[np.abs(vectors[:, order]).argmax(axis=0), np.arange(n_modes)])
    rates, functions[:, 0] = rates[order], 1.0
    rates[0] = 0.0
    return rates, functions.reshape(*energy.shape, n_modes)


def interpolated(axes: Sequence[np.ndarray], values: np.ndarray) -> Function:
    """Linear interpolation of functions (*grid, n_modes), as a function of states (n, n_dims).

    States outside the grid are moved to its border.
    """
    interpolator = RegularGridInterpolator(tuple(axes), values)
    low, high = (np.array([axis[end] for axis in axes]) for end in (0, -1))
    return lambda x: interpolator(np.clip(check_states(x, len(axes)), low, high))


def jittered(centres: np.ndarray, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Uniform points in the cells with these centres, same shape."""
    return centres + spacing * (rng.random(centres.shape) - 0.5)


def reversible_spectrum(
    axes: Sequence[np.ndarray],
    weights: np.ndarray,
    decay: np.ndarray,
    functions: np.ndarray,
    coarse_decay: np.ndarray,
    clock: Clock,
) -> ReferenceSpectrum:
    """Build the spectrum of a reversible process: sigma = lambda = exp(-decay * lag_time), phi = psi = eigenfunction.

    Parameters
    ----------
    axes : cell centres along each dimension
    weights : stationary probability of each cell, (*grid)
    decay, functions : rates (n_modes,) and functions (*grid, n_modes)
    coarse_decay : rates on a grid with half as many cells per dimension: says how far to trust the others
    clock : lag and physical time
    """
    singular_values = np.exp(-decay * clock.lag_time)
    change = np.abs(singular_values - np.exp(-coarse_decay * clock.lag_time)).max()
    evaluate = interpolated(axes, functions)
    grid = " x ".join(str(len(axis)) for axis in axes)
    return ReferenceSpectrum(
        singular_values=singular_values,
        eigenvalues=singular_values.astype(complex),
        left=evaluate,
        right=evaluate,
        eigenfunctions=lambda x: evaluate(x).astype(complex),
        points=np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes)),
        weights=weights.ravel(),
        clock=clock,
        kind="numerical",
        resolution=(
            f"reversible finite-volume generator with {grid} cells; half as many per dimension change no "
            f"singular value by more than {change:.1e}"
        ),
    )
