"""States far out along a fixed direction, over which sums of functions fix their phases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Numbers in the states that are looked at to choose the direction.
LOOKED_AT = 2**20


class FarOut(NamedTuple):
    """A direction (n_entries,) in the space of states, and the threshold beyond which a state lies far out along it."""

    direction: np.ndarray
    threshold: float

    @classmethod
    def of_states(cls, x: Tensor, weights: np.ndarray | None = None) -> FarOut:
        """Direction and threshold for states (n, *state), none of them empty.

        Examples
        --------
        >>> FarOut.of_states(torch.tensor([[0.0], [2.0]])).indicator(torch.tensor([[1.6], [1.8]]))
        array([0., 1.])
        """
        if weights is not None and not weights.any():  # the first batch of a stream, of which others may count
            weights = None
        flat = _flat(x)
        # in units of the largest entry, whose square cannot overflow
        top = np.abs(flat).max(axis=0)
        spread = _deviation(flat / np.where(top > 0, top, 1.0), weights) * top
        moving = spread > 1e-12 * top
        # incommensurate numbers, so that no symmetry of the coordinates makes the functional vanish
        numbers = np.cos(np.arange(flat.shape[1]) * np.sqrt(2.0))
        direction = np.divide(numbers, spread, out=np.zeros_like(spread), where=moving)
        along = flat @ direction
        mean = along.mean() if weights is None else np.average(along, weights=weights)
        return cls(direction, float(mean + 0.7 * _deviation(along, weights)))

    def indicator(self, x: Tensor) -> np.ndarray:
        """1 where a state lies far out, else 0, (n,)."""
        return (_flat(x) @ self.direction > self.threshold).astype(float)


def _deviation(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Standard deviation over the first axis."""
    if weights is None:
        return values.std(axis=0)
    return np.sqrt(np.average(np.square(values - np.average(values, axis=0, weights=weights)), axis=0, weights=weights))


def _flat(x: Tensor) -> np.ndarray:
    """States as real numbers (n, n_entries); of complex ones the real part."""
    return torch.real(x.detach().cpu().flatten(1)).double().numpy()
