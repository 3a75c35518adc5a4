"""The damped Duffing oscillator: two basins of attraction, without a reference spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from koopman_lora.checks import checked
from koopman_lora.kinds import Reals

from ._base import System, check_columns, check_number
from ._ode import integrate

LONGEST_STEP = 0.05


@checked(but=("lag", "dt", "damping"))
@dataclass(frozen=True)
class Duffing(System):
    """Unforced damped Duffing oscillator, ``q'' = -damping q' + q - q^3``, with wells at q = -1 and q = 1.

    Every trajectory ends in one of the wells, so there is no stationary regime to start from: trajectories start
    uniformly in the box |q| <= 2, |v| <= 2.

    Parameters
    ----------
    dt : time between frames, dimensionless
    damping : positive

    Notes
    -----
    As in Williams, Kevrekidis and Rowley, *A data-driven approximation of the Koopman operator*, J. Nonlinear Sci. 25
    (2015). Runge-Kutta with steps of at most 0.05.

    Examples
    --------
    >>> Duffing().simulate(n_trajectories=2, n_steps=10).coordinate.values.tolist()
    ['q', 'v']
    """

    dt: float = 0.25
    damping: float = 0.5
    time_unit: ClassVar[str] = "1"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("damping", self.damping)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates: position and velocity."""
        return ("q", "v")

    def velocity(self, x: Reals) -> np.ndarray:
        """Time derivative at states as columns, (2, n)."""
        return self._velocity(check_columns(x, 2))

    def _velocity(self, x: np.ndarray) -> np.ndarray:
        q, v = x
        return np.stack([v, -self.damping * v + q - q**3])

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        return integrate(self._velocity, rng.uniform(-2, 2, (2, n_trajectories)), self.dt, n_steps, LONGEST_STEP)
