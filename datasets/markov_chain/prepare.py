"""Four trajectories of a metastable Markov chain with three blocks, one-hot, and its exact spectrum."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import Recipe

from koopman_lora.systems import FiniteMarkovChain

RECIPE = Recipe(
    FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=4, coupling=0.02, seed=0),
    n_trajectories=4,
    n_steps=10_000,
    n_modes=8,
)

if __name__ == "__main__":
    RECIPE.write(Path(__file__).parent)
