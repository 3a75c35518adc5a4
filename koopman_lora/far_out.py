"""Which states lie far out along a fixed direction: sums of functions over these fix the phases of the functions."""

from __future__ import annotations

import numpy as np
from torch import Tensor

# Numbers in the states that are looked at to choose the direction.
LOOKED_AT = 2**20


class FarOut:
    """1 where a state lies far out along a direction, else 0.

    Parameters
    ----------
    x : states (n, *state), of which direction and threshold are chosen

    Examples
    --------
    >>> FarOut(torch.arange(10.0)[:, None])(torch.tensor([[0.0], [9.0]]))
    array([0., 1.])
    """

    def __init__(self, x: Tensor) -> None:
        flat = _flat(x)
        # in units of the largest entry, whose square cannot overflow
        top = np.abs(flat).max(axis=0)
        spread = (flat / np.where(top > 0, top, 1.0)).std(axis=0) * top
        moving = spread > 1e-12 * top
        # incommensurate weights, so that no symmetry of the coordinates makes the functional vanish
        weights = np.cos(np.arange(flat.shape[1]) * np.sqrt(2.0))
        self.direction = np.divide(weights, spread, out=np.zeros_like(spread), where=moving)
        along = flat @ self.direction
        self.threshold = float(along.mean() + 0.7 * along.std())

    def __call__(self, x: Tensor) -> np.ndarray:
        """Which of states (n, *state) lie far out, (n,)."""
        return (_flat(x) @ self.direction > self.threshold).astype(float)


def _flat(x: Tensor) -> np.ndarray:
    """States as real numbers (n, n_entries); of complex ones the real part."""
    return x.detach().cpu().flatten(1).numpy().real.astype(float)
