"""The Lorenz system: deterministic chaos, without a reference spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from koopman_lora.checks import checked
from koopman_lora.kinds import Reals

from ._base import System, check_columns, check_number
from ._ode import integrate

LONGEST_STEP = 0.01
BURN_IN = 20.0  # time after which a start near the attractor has forgotten where it began


@checked(but=("lag", "dt", "sigma", "rho", "beta"))
@dataclass(frozen=True)
class Lorenz63(System):
    """Lorenz's convection model: ``x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z``.

    Trajectories start on the attractor, after 20 time units from random points near it.

    Parameters
    ----------
    dt : time between frames, dimensionless
    sigma, rho, beta : parameters of the model; the defaults are the classical chaotic ones

    Notes
    -----
    Lorenz, *Deterministic nonperiodic flow*, J. Atmos. Sci. 20 (1963). Runge-Kutta with steps of at most 0.01.

    Examples
    --------
    >>> Lorenz63(dt=0.05).simulate(n_trajectories=2, n_steps=10).shape
    (2, 10, 3)
    """

    dt: float = 0.05
    sigma: float = 10.0
    rho: float = 28.0
    beta: float = 8 / 3
    time_unit: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sigma", "rho", "beta"):
            check_number(name, getattr(self, name))

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return ("x", "y", "z")

    def velocity(self, x: Reals) -> np.ndarray:
        """Time derivative at states as columns, (3, n)."""
        return self._velocity(check_columns(x, 3))

    def _velocity(self, x: np.ndarray) -> np.ndarray:
        return np.stack([self.sigma * (x[1] - x[0]), x[0] * (self.rho - x[2]) - x[1], x[0] * x[1] - self.beta * x[2]])

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        start = np.array([[0.0], [0.0], [self.rho]]) + 5 * rng.standard_normal((3, n_trajectories))
        on_attractor = integrate(self._velocity, start, BURN_IN, 2, LONGEST_STEP)[:, -1].T
        return integrate(self.velocity, on_attractor, self.dt, n_steps, LONGEST_STEP)
