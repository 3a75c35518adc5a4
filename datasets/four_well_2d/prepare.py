"""Eight trajectories of the demo system, four wells in the plane, and its numerical spectrum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import Recipe

from koopman_lora.systems import FourWellLandscape2D

RECIPE = Recipe(FourWellLandscape2D(dt=0.1), n_trajectories=8, n_steps=2_500, n_modes=8)

if __name__ == "__main__":
    RECIPE.write(Path(__file__).parent)
