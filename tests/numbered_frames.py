"""Trajectories whose numbers tell trajectory and frame, so that pairs say where they come from."""

import numpy as np
from hypothesis import strategies as st

some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def ragged(lengths):
    """Trajectory t of lengths[t] scalar states; its frame i holds the number 1000 t + i."""
    return [1000.0 * t + np.arange(n, dtype=float)[:, None] for t, n in enumerate(lengths)]


def frames(pairs):
    """Every frame that the pairs use, on either side."""
    return set(pairs.x.flatten().tolist()) | set(pairs.x_next.flatten().tolist())
