"""Overdamped Langevin dynamics in a one-dimensional potential with four wells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh_tridiagonal

from koopman_lora.checks import checked
from koopman_lora.kinds import Reals

from ._base import LARGEST, ReferenceSpectrum, System, check_rank, run_markov_chain
from ._grid import (
    MAX_MODES,
    boltzmann_weights,
    cell_centres,
    jittered,
    reversible_spectrum,
    slow_modes,
    symmetric_generator,
)

HALF_WIDTH = 1.2
REFERENCE_CELLS, SIMULATION_CELLS = 4800, 1600


@checked(but=("lag", "dt"))
@dataclass(frozen=True)
class FourWellLangevin1D(System):
    """Overdamped Langevin dynamics ``dX = -U'(X) dt + sqrt(2) dW`` in four wells on a line, at beta = gamma = 1.

    ``U(x) = 4 (x^8 + 0.8 exp(-80 x^2) + 0.2 exp(-80 (x - 0.5)^2) + 0.5 exp(-40 (x + 0.5)^2))``.
    Reversible: singular values and eigenvalues agree, ``exp(-rate lag dt)``.

    Parameters
    ----------
    dt : time between frames, dimensionless; at 0.1 three modes besides the constant are above 0.2

    Notes
    -----
    The potential is that of Prinz et al., *Markov models of molecular kinetics: Generation and validation*, J. Chem.
    Phys. 134, 174105 (2011), used by many as a benchmark. Trajectories are drawn from the transition matrix of
    the process on a grid of 1600 cells in [-1.2, 1.2], with a uniform position inside the cell: no small time steps, no
    error that grows with dt.

    Examples
    --------
    >>> FourWellLangevin1D(dt=0.1).spectrum(n_modes=4).singular_values.round(3)
    array([1.   , 0.887, 0.454, 0.215])
    """

    dt: float = 0.1
    time_unit: ClassVar[str] = "1"

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Name of the coordinate."""
        return ("x",)

    def potential(self, x: Reals) -> np.ndarray:
        """Potential energy in units of k_B T, same shape as `x`.

        Examples
        --------
        >>> float(FourWellLangevin1D().potential(np.array(0.0)).round(4))
        3.2001
        """
        if np.abs(x).max(initial=0.0) > LARGEST:
            raise ValueError(f"x must hold positions of at most {LARGEST:g}; got {np.abs(x).max():g}.")
        return 4 * (
            x**8 + 0.8 * np.exp(-80 * x**2) + 0.2 * np.exp(-80 * (x - 0.5) ** 2) + 0.5 * np.exp(-40 * (x + 0.5) ** 2)
        )

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        centres = cell_centres(HALF_WIDTH, SIMULATION_CELLS)
        spacing = centres[1] - centres[0]
        energy = self.potential(centres)
        transition_matrix = _transition_matrix(energy, spacing, self.dt)
        cells = run_markov_chain(transition_matrix, boltzmann_weights(energy), rng, n_trajectories, n_steps)
        return jittered(centres[cells], spacing, rng)[..., None]

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        check_rank(n_modes, MAX_MODES, "what the grid resolves")
        centres, weights, decay, functions = _modes(REFERENCE_CELLS, n_modes)
        coarse_decay = _modes(REFERENCE_CELLS // 2, n_modes)[2]
        return reversible_spectrum([centres], weights, decay, functions, coarse_decay, self._clock(lag))


@lru_cache
def _modes(n_cells: int, n_modes: int) -> tuple[np.ndarray, ...]:
    """Cell centres, Boltzmann weights, decay rates and functions on a grid."""
    centres = cell_centres(HALF_WIDTH, n_cells)
    energy = FourWellLangevin1D().potential(centres)
    return centres, boltzmann_weights(energy), *slow_modes(energy, centres[1] - centres[0], 1.0, n_modes)


def _transition_matrix(energy: np.ndarray, spacing: float, dt: float) -> np.ndarray:
    """Probabilities expm(dt Q) of the grid process, (n_cells, n_cells)."""
    H = symmetric_generator(energy, spacing, 1.0)
    rates, vectors = eigh_tridiagonal(
        H.diagonal(), H.diagonal(1), select="v", select_range=(-1.0, 40 / dt)
    )  # faster modes have decayed below round-off
    root = np.sqrt(boltzmann_weights(energy))
    P = (vectors / root[:, None] * np.exp(-dt * rates)) @ (vectors * root[:, None]).T
    P = np.maximum(P, 0.0)  # round-off can leave tiny negative probabilities
    return P / P.sum(axis=1, keepdims=True)
