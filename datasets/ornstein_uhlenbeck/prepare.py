"""Four trajectories of a non-reversible Ornstein-Uhlenbeck process and its exact spectrum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import Recipe

from koopman_lora.systems import OrnsteinUhlenbeck

RECIPE = Recipe(
    OrnsteinUhlenbeck(drift=[[1.0, 2.0], [-1.0, 2.0]], diffusion=[[1.0, 0.0], [0.0, 2.0]], dt=0.1),
    n_trajectories=4,
    n_steps=5_000,
    n_modes=8,
)

if __name__ == "__main__":
    RECIPE.write(Path(__file__).parent)
