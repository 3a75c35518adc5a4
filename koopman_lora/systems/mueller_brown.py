"""Overdamped Langevin dynamics in the potential of Mueller and Brown: a curved valley with three minima."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from koopman_lora.checks import checked
from koopman_lora.kinds import Reals

from ._base import ReferenceSpectrum, System, check_number, check_rank
from ._grid import MAX_MODES, boltzmann_weights, jittered, reversible_spectrum, slow_modes

# U = sum_i A_i exp(a_i dx^2 + b_i dx dy + c_i dy^2), dx = x - X_i, dy = y - Y_i
HEIGHTS = np.array([-200.0, -100.0, -170.0, 15.0])  # A
SHAPES = np.array([[-1.0, -1.0, -6.5, 0.7], [0.0, 0.0, 11.0, 0.6], [-10.0, -10.0, -6.5, 0.7]])  # a, b, c
CENTRES = np.array([[1.0, 0.0, -0.5, -1.0], [0.0, 0.5, 1.5, 1.0]])  # X, Y
BOX = np.array([[-1.5, 1.2], [-0.2, 2.0]])  # in x and in y, as it is usually drawn
REFERENCE_SPACING = 0.01
LONGEST_STEP = 1e-4  # at temperature 15: the steepest valley's own time is 2.5e-4
FARTHEST = 10.0  # beyond, the growing term could overflow
COLDEST = 5.0  # below, the grid is too coarse for the wells


@checked(but=("lag", "dt", "temperature"))
@dataclass(frozen=True)
class MuellerBrown(System):
    """Overdamped Langevin dynamics ``dX = -grad U(X) dt + sqrt(2 temperature) dW`` in the Mueller-Brown potential.

    Two deep minima, near (-0.56, 1.44) and (0.62, 0.03), and a shallow one between them, at (-0.05, 0.47), along a
    curved and narrow valley; all quantities dimensionless, mobility 1. At temperature 15 the slow process takes 0.64,
    all others at most 0.014. Reversible: singular values and eigenvalues agree.

    Parameters
    ----------
    dt : time between frames
    temperature : k_B T in the unit of the potential, at least 5; the higher barrier is 106 above the deepest minimum

    Notes
    -----
    The potential is that of Mueller and Brown, *Location of saddle points and minimum energy paths by a constrained
    simplex optimization procedure*, Theor. Chim. Acta 53, 75 (1979). The walls of the box [-1.5, 1.2] x [-0.2, 2]
    reflect: outside there is a plain that one frame in ten thousand sees, with slow modes of its own. Trajectories are
    integrated by Heun's method, as those of `FourWellLandscape2D`, with steps of at most 1e-4: in 320,000 pairs of
    8,000 trajectories the correlations of the next two functions came out within 0.01 % and 0.8 % of the reference,
    1.2 standard errors at most.

    Examples
    --------
    >>> system = MuellerBrown()
    >>> system.simulate(n_trajectories=8, n_steps=10).sizes
    Frozen({'trajectory': 8, 'time': 10, 'coordinate': 2})
    >>> system.spectrum(n_modes=4).singular_values.round(2)
    array([1.  , 0.99, 0.7 , 0.32])
    """

    dt: float = 0.005
    temperature: float = 15.0
    time_unit: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_number("temperature", self.temperature) < COLDEST:
            raise ValueError(f"temperature must be at least {COLDEST:g}; got {self.temperature!r}.")

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return ("x", "y")

    def potential(self, x: Reals) -> np.ndarray:
        """Potential energy of states (..., 2), shape (...).

        Examples
        --------
        >>> MuellerBrown().potential(np.array([[-0.558, 1.442], [0.623, 0.028]])).round(1)
        array([-146.7, -108.2])
        """
        if x.shape[-1:] != (2,) or np.abs(x).max(initial=0.0) > FARTHEST:
            raise ValueError(f"x must have shape (..., 2), none beyond {FARTHEST:g}; got shape {x.shape}.")
        return _terms(np.moveaxis(np.asarray(x, dtype=float), -1, 0))[0].sum(axis=0)

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        n_substeps = int(np.ceil(self.dt / LONGEST_STEP))
        h = self.dt / n_substeps
        frames = np.empty((n_steps, 2, n_trajectories))
        frames[0] = x = self._draw_stationary(rng, n_trajectories).T
        for t in range(1, n_steps):
            kicks = rng.standard_normal((n_substeps, 2, n_trajectories)) * np.sqrt(2 * self.temperature * h)
            for kick in kicks:
                force = _force(x)
                x = _reflected(x + 0.5 * h * (force + _force(_reflected(x + h * force + kick))) + kick)
            frames[t] = x
        return frames.transpose(2, 0, 1)

    def _draw_stationary(self, rng: np.random.Generator, size: int) -> np.ndarray:
        axes, energy = _landscape(self.temperature, REFERENCE_SPACING / 2)
        cells = np.unravel_index(rng.choice(energy.size, size=size, p=boltzmann_weights(energy).ravel()), energy.shape)
        points = np.stack([axis[i] for axis, i in zip(axes, cells, strict=True)], axis=-1)
        return jittered(points, REFERENCE_SPACING / 2, rng)

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        check_rank(n_modes, MAX_MODES, "what the grid resolves")
        axes, weights, decay, functions = _modes(self.temperature, REFERENCE_SPACING, n_modes)
        coarse_decay = _modes(self.temperature, 2 * REFERENCE_SPACING, n_modes)[2]
        return reversible_spectrum(axes, weights, decay, functions, coarse_decay, self._clock(lag))


def _terms(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The four terms of the potential at states as columns (2, ...), and the distances dx, dy; (4, ...) each."""
    a, b, c, heights, X, Y = (v.reshape(4, *[1] * (x.ndim - 1)) for v in (*SHAPES, HEIGHTS, *CENTRES))
    dx, dy = x[0] - X, x[1] - Y
    return heights * np.exp(a * dx**2 + b * dx * dy + c * dy**2), dx, dy


def _force(x: np.ndarray) -> np.ndarray:
    """Minus the gradient of the potential at states as columns, (2, n)."""
    terms, dx, dy = _terms(x)
    a, b, c = SHAPES[:, :, None]
    return -np.stack([(terms * (2 * a * dx + b * dy)).sum(axis=0), (terms * (b * dx + 2 * c * dy)).sum(axis=0)])


def _landscape(temperature: float, spacing: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Cell centres along each axis, and the energy of the cells in units of k_B T, (n_x, n_y)."""
    axes = [low + spacing * (np.arange(round((high - low) / spacing)) + 0.5) for low, high in BOX]
    energy = _terms(np.stack(np.meshgrid(*axes, indexing="ij")))[0].sum(axis=0) / temperature
    return axes, np.minimum(energy, energy.min() + 40)  # nobody is there; corners would only upset the eigensolver


def _reflected(x: np.ndarray) -> np.ndarray:
    """States as columns (2, n), those that crossed a wall of the box mirrored at it."""
    low, high = BOX.T[:, :, None]
    return np.clip(np.where(x < low, 2 * low - x, np.where(x > high, 2 * high - x, x)), low, high)


@lru_cache
def _modes(temperature: float, spacing: float, n_modes: int) -> tuple:
    """Cell centres along each axis, Boltzmann weights, decay rates and functions on a grid."""
    axes, energy = _landscape(temperature, spacing)
    return axes, boltzmann_weights(energy), *slow_modes(energy, spacing, temperature, n_modes)
