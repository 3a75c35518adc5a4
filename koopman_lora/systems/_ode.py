"""Fourth-order Runge-Kutta for the deterministic systems, vectorised over trajectories."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def integrate(
    velocity: Callable[[np.ndarray], np.ndarray], start: np.ndarray, dt: float, n_frames: int, longest_step: float
) -> np.ndarray:
    """Integrate in steps of at most `longest_step`, and keep a frame every `dt`.

    Parameters
    ----------
    velocity : function from states (n_dims, n_trajectories) to their time derivatives
    start : array (n_dims, n_trajectories)

    Returns
    -------
    array (n_trajectories, n_frames, n_dims), the start included
    """
    n_substeps = int(np.ceil(dt / longest_step))
    h = dt / n_substeps
    frames = np.empty((n_frames, *start.shape))
    frames[0] = x = start
    for t in range(1, n_frames):
        for _ in range(n_substeps):
            x = _runge_kutta_step(velocity, x, h)
        frames[t] = x
    return frames.transpose(2, 0, 1)


def _runge_kutta_step(velocity: Callable[[np.ndarray], np.ndarray], x: np.ndarray, h: float) -> np.ndarray:
    k1 = velocity(x)
    k2 = velocity(x + h / 2 * k1)
    k3 = velocity(x + h / 2 * k2)
    k4 = velocity(x + h * k3)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
