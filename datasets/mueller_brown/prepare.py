"""Twenty trajectories in the Mueller-Brown potential, and its numerical spectrum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import Recipe

from koopman_lora.systems import MuellerBrown

RECIPE = Recipe(MuellerBrown(), n_trajectories=20, n_steps=1_000, n_modes=6)

if __name__ == "__main__":
    RECIPE.write(Path(__file__).parent)
