"""A noisy rotation of the circle: closed forms, and exactly degenerate singular values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from koopman_lora._linalg import eigenvalue_order
from koopman_lora.checks import checked
from koopman_lora.kinds import is_real

from ._base import ReferenceSpectrum, System, check_number, check_states


@checked(but=("lag", "dt", "omega", "noise"))
@dataclass(frozen=True)
class NoisyRotation(System):
    """Rotation of the circle with normal noise, ``angle' = angle + omega + noise * normal``.

    The state is (cos(angle), sin(angle)). Eigenvalues are ``exp(i k omega - k^2 noise^2 / 2)``, k = 0, +-1, +-2, ...,
    and singular values are their moduli, so singular values and eigenvalues differ in phase only. Each pair is exactly
    degenerate: only subspaces can be identified.

    Parameters
    ----------
    omega : angle per step, in radians
    noise : standard deviation of the angle per step, in radians, >= 0
    dt : time per step, in `time_unit`

    Notes
    -----
    Closed form: ``E[exp(i k noise normal)] = exp(-k^2 noise^2 / 2)``, the characteristic function of the normal law.

    Examples
    --------
    >>> NoisyRotation(omega=np.pi / 2, noise=0.2).spectrum(n_modes=3).eigenvalues.round(3) + 0
    array([1.+0.j  , 0.+0.98j, 0.-0.98j])
    """

    omega: float = 0.5
    noise: float = 0.3
    dt: float = 1.0
    time_unit: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_real(self.omega) or not np.isfinite(self.omega):
            raise ValueError(f"omega must be a finite angle in radians, got {self.omega!r}.")
        check_number("noise", self.noise, positive=False)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return ("cos", "sin")

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        steps = self.omega + self.noise * rng.standard_normal((n_trajectories, n_steps))
        steps[:, 0] = rng.uniform(0, 2 * np.pi, n_trajectories)
        angle = np.cumsum(steps, axis=1)
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        n_frequencies = n_modes // 2
        rotation, decay = lag * self.omega, lag * self.noise**2 / 2
        frequencies = np.concatenate([[0], np.repeat(np.arange(1, n_frequencies + 1), 2)])
        signed = frequencies * np.where(np.arange(len(frequencies)) % 2, 1, -1)
        eigenvalues = np.exp(1j * signed * rotation - signed**2 * decay)
        order = eigenvalue_order(eigenvalues)[:n_modes]

        def eigenfunctions(x: np.ndarray) -> np.ndarray:
            return np.exp(1j * _angle(x) * signed[order])

        # K turns cos(k (angle - rotation)) into sigma_k cos(k angle): psi is phi, rotated.
        angles = np.arange(max(256, 4 * n_modes)) * 2 * np.pi / max(256, 4 * n_modes)
        return ReferenceSpectrum(
            singular_values=np.exp(-(frequencies[:n_modes] ** 2) * decay),
            eigenvalues=eigenvalues[order],
            left=lambda x: _harmonics(_angle(x), n_frequencies)[:, :n_modes],
            right=lambda x: _harmonics(_angle(x) - rotation, n_frequencies)[:, :n_modes],
            eigenfunctions=eigenfunctions,
            points=np.stack([np.cos(angles), np.sin(angles)], axis=-1),
            weights=np.full(len(angles), 1 / len(angles)),
            clock=self._clock(lag),
            kind="exact",
            resolution=f"closed form; {len(angles)} equally spaced points on the circle",
        )


def _angle(x: np.ndarray) -> np.ndarray:
    """Angles of states (n, 2) as a column (n, 1)."""
    states = check_states(x, 2)
    return np.arctan2(states[:, 1:], states[:, :1])


def _harmonics(angle: np.ndarray, n_frequencies: int) -> np.ndarray:
    """Columns 1, sqrt(2) cos(angle), sqrt(2) sin(angle), sqrt(2) cos(2 angle), ... from angles (n, 1)."""
    phases = angle * np.arange(1, n_frequencies + 1)
    waves = np.sqrt(2) * np.stack([np.cos(phases), np.sin(phases)], axis=-1).reshape(len(angle), -1)
    return np.concatenate([np.ones_like(angle), waves], axis=1)
