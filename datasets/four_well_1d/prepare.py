"""Four trajectories of Langevin dynamics in four wells on a line and its numerical spectrum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import Recipe

from koopman_lora.systems import FourWellLangevin1D

RECIPE = Recipe(FourWellLangevin1D(dt=0.1), n_trajectories=4, n_steps=10_000, n_modes=8)

if __name__ == "__main__":
    RECIPE.write(Path(__file__).parent)
