"""Batches of a training run: one random order of the pairs after the other, standardised, a portion at a time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.model import KoopmanLoRAModel

# Numbers in the states of pairs that are standardised at once: in batches of a few hundred that takes twice the time.
_PORTION = 2**21


def n_batches(n_pairs: int, batch_size: int, n_modes: int) -> int:
    """Batches of a pass over the pairs: none smaller than n_modes or 2, also where few pairs are cut into equal parts.

    Examples
    --------
    >>> n_batches(1000, 256, 8), n_batches(30, 20, 20)
    (4, 1)
    """
    return max(1, min(round(n_pairs / batch_size), n_pairs // max(n_modes, 2)))


class _Portion(NamedTuple):
    """Prepared states of neighbours in the order of a pass, from position `start` on."""

    start: int
    x: Tensor
    x_next: Tensor

    @property
    def stop(self) -> int:
        return self.start + len(self.x)


class TrainingBatches:
    """An endless iterator over batches (x, x_next) of prepared states; none of a pass is dropped.

    Where pairs count both ways, half of a batch goes backward: as they come, by chance.

    Parameters
    ----------
    steps_per_pass : see `n_batches`; sizes of batches differ by one pair at most
    seed : of the orders
    """

    def __init__(self, model: KoopmanLoRAModel, pairs: LaggedPairs, steps_per_pass: int, seed: int) -> None:
        self.model, self.pairs, self.steps_per_pass = model, pairs, steps_per_pass
        # a generator of its own; layers such as dropout know only torch's one for all threads
        self.generator = torch.Generator().manual_seed(seed)
        sizes = len(pairs) // steps_per_pass + (np.arange(steps_per_pass) < len(pairs) % steps_per_pass)
        self.bounds = [0, *np.cumsum(sizes).tolist()]
        self.portion_size = max(1, _PORTION // max(1, math.prod(pairs.state_shape)))
        self.position = 0
        self._shuffle()

    def _shuffle(self) -> None:
        self.before = self.generator.get_state()
        self.order = torch.randperm(len(self.pairs), generator=self.generator).numpy()
        self.portion: _Portion | None = None

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.position == self.steps_per_pass:
            self.position = 0
            self._shuffle()
        start, stop = self.bounds[self.position : self.position + 2]
        self.position += 1
        portion = self._portion_of(start, stop)
        rows = slice(start - portion.start, stop - portion.start)
        x, x_next = portion.x[rows], portion.x_next[rows]
        if self.pairs.is_reversible:
            half = len(x) // 2
            x, x_next = torch.cat([x[:half], x_next[half:]]), torch.cat([x_next[:half], x[half:]])
        return x, x_next

    def _portion_of(self, start: int, stop: int) -> _Portion:
        """The portion that holds a batch."""
        if self.portion is None or not self.portion.start <= start < stop <= self.portion.stop:
            end = max(b for b in self.bounds[self.position :] if b <= max(stop, start + self.portion_size))
            with torch.no_grad():
                x, x_next = (self.model.prepare(side) for side in self.pairs.read(self.order[start:end]))
            self.portion = _Portion(start, x, x_next)
        return self.portion

    def state(self) -> dict[str, Any]:
        """Where the iterator is: what `restore` needs to go on with the same batches."""
        return {"order": self.before, "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.generator.set_state(state["order"])
        self._shuffle()
        self.position = state["position"]
