"""Four trajectories of a noisy rotation and its exact spectrum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import Recipe

from koopman_lora.systems import NoisyRotation

RECIPE = Recipe(NoisyRotation(omega=0.5, noise=0.3), n_trajectories=4, n_steps=5_000, n_modes=9)

if __name__ == "__main__":
    RECIPE.write(Path(__file__).parent)
