"""Four trajectories of the noisy logistic map and its exact spectrum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import Recipe

from koopman_lora.systems import NoisyLogisticMap

RECIPE = Recipe(NoisyLogisticMap(order=20), n_trajectories=4, n_steps=10_000, n_modes=9)

if __name__ == "__main__":
    RECIPE.write(Path(__file__).parent)
