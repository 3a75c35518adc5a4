"""All states that pairs are made of, read by their row numbers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class States(Protocol):
    """States (n, *state), in memory or not."""

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which states are read."""
        ...

    def __len__(self) -> int: ...

    def read(self, rows: slice | np.ndarray) -> Tensor:
        """States at some rows (n, *state); not to be written to."""
        ...


class HeldStates:
    """States in one tensor (n, *state).

    Examples
    --------
    >>> HeldStates(torch.arange(4.0)[:, None]).read(np.array([3, 0]))
    tensor([[3.],
            [0.]])
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return tuple(self.values.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Precision."""
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.values)

    def read(self, rows: slice | np.ndarray) -> Tensor:
        """States at some rows: of a slice a view."""
        return self.values[rows if isinstance(rows, slice) else torch.from_numpy(rows)]


def read_both(states: States, rows: slice | np.ndarray, gap: int) -> tuple[Tensor, Tensor]:
    """States at some rows and `gap` rows later, each (n, *state), of what is shared in one go.

    Examples
    --------
    >>> x, x_next = read_both(HeldStates(torch.arange(9.0)), slice(2, 5), 3)
    >>> x.tolist(), x_next.tolist()
    ([2.0, 3.0, 4.0], [5.0, 6.0, 7.0])
    """
    if not isinstance(rows, slice):
        both = states.read(np.concatenate([rows, rows + gap]))
        return both[: len(rows)], both[len(rows) :]
    n = rows.stop - rows.start
    if gap > n:
        return states.read(rows), states.read(slice(rows.start + gap, rows.stop + gap))
    both = states.read(slice(rows.start, rows.stop + gap))
    return both[:n], both[gap : gap + n]


def in_both_directions(x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (n, *state), each followed by itself backward: (2 n, *state).

    Examples
    --------
    >>> in_both_directions(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]))[0][:, 0]
    tensor([0., 1., 1., 2.])
    """
    return torch.stack([x, x_next], dim=1).flatten(0, 1), torch.stack([x_next, x], dim=1).flatten(0, 1)
