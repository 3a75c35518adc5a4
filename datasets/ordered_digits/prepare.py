"""A video of handwritten digits in order, 0 to 9 and again, from the images that scikit-learn ships."""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

sys.path.append(str(Path(__file__).parents[1]))

from _prepare import write_steps

SEED = 0


def video() -> np.ndarray:
    """Frames (time, 8, 8) from 0 to 1; no image comes twice, and the writers are shuffled."""
    digits, rng = load_digits(), np.random.default_rng(SEED)
    places = [rng.permutation(np.flatnonzero(digits.target == digit)) for digit in range(10)]
    n_rounds = min(map(len, places))
    return digits.images[np.stack([place[:n_rounds] for place in places], axis=1).ravel()] / 16


if __name__ == "__main__":
    write_steps(
        Path(__file__).parent,
        video()[None],
        1 / 16,
        dt=1.0,
        time_unit="frame",
        names=[],
        unit="1",
        system="handwritten digits in the order 0, 1, ..., 9, 0, ...",
        source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (1998), by way of scikit-learn",
    )
