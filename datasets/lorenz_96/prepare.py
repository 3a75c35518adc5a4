"""Four trajectories of the model of Lorenz (1996): forty sites on a circle, forced, damped, chaotic."""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import write_steps


@dataclass(frozen=True)
class Settings:
    """Everything that the frames depend on; written beside them."""

    n_sites: int = 40
    forcing: float = 8.0
    dt: float = 0.05
    substeps: int = 5
    spin_up: int = 400
    n_trajectories: int = 4
    n_frames: int = 1_000
    seed: int = 0


def tendency(x: np.ndarray, forcing: float) -> np.ndarray:
    """dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + forcing, indices on the circle of the last axis."""
    return (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + forcing


def simulate(settings: Settings) -> np.ndarray:
    """Frames (trajectory, time, site) by the classical Runge-Kutta method, after a spin-up that is left out."""
    rng, h = np.random.default_rng(settings.seed), settings.dt / settings.substeps
    x = settings.forcing + rng.normal(size=(settings.n_trajectories, settings.n_sites))
    frames = []
    for _ in range(settings.spin_up + settings.n_frames):
        frames.append(x)
        for _ in range(settings.substeps):
            k1 = tendency(x, settings.forcing)
            k2 = tendency(x + h / 2 * k1, settings.forcing)
            k3 = tendency(x + h / 2 * k2, settings.forcing)
            k4 = tendency(x + h * k3, settings.forcing)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return np.stack(frames[settings.spin_up :], axis=1)


def main(settings: Settings) -> None:
    """Simulate and write."""
    write_steps(
        Path(__file__).parent,
        simulate(settings),
        0.001,
        dt=settings.dt,
        time_unit="1",
        names=[f"site {i}" for i in range(settings.n_sites)],
        unit="1",
        system="Lorenz 96",
        parameters=json.dumps(asdict(settings)),
        seed=str(settings.seed),
    )


if __name__ == "__main__":
    main(Settings())
