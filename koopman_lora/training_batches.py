"""Batches of a training run: one random order of the pairs after the other, standardised, from memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.model import KoopmanLoRAModel


def n_batches(n_pairs: int, batch_size: int, n_modes: int) -> int:
    """Batches of a pass over the pairs: none smaller than n_modes or 2, also where few pairs are cut into equal parts.

    Examples
    --------
    >>> n_batches(1000, 256, 8), n_batches(30, 20, 20)
    (4, 1)
    """
    return max(1, min(round(n_pairs / batch_size), n_pairs // max(n_modes, 2)))


class TrainingBatches:
    """An endless iterator over batches (x, x_next) of prepared states; none of a pass is dropped.

    Where pairs count both ways, half of a batch goes backward: as they come, by chance. Where they have weights, a pass
    draws them as often as these say: batches are of the weighted law, also where few pairs have most of the weight.

    Parameters
    ----------
    steps_per_pass : see `n_batches`; sizes of batches differ by one pair at most
    seed : of the orders
    """

    def __init__(self, model: KoopmanLoRAModel, pairs: LaggedPairs, steps_per_pass: int, seed: int) -> None:
        self.steps_per_pass, self.both_ways = steps_per_pass, pairs.is_reversible
        with torch.no_grad():  # standardised once, in the data's own precision
            self.x, self.x_next = model.prepare(pairs.x), model.prepare(pairs.x_next)
        # shares of the weight up to each pair
        self.ends = None if pairs.weights is None else torch.from_numpy(np.cumsum(pairs.weights) / pairs.weights.sum())
        # a generator of its own; layers such as dropout know only torch's one for all threads
        self.generator = torch.Generator().manual_seed(seed)
        self.position = 0
        self._shuffle()

    def _shuffle(self) -> None:
        self.before = self.generator.get_state()
        order = torch.randperm(len(self.x), generator=self.generator)
        if self.ends is not None:
            order = self._drawn()[order]
        self.parts = order.to(self.x.device).tensor_split(self.steps_per_pass)

    def _drawn(self) -> Tensor:
        """As many pairs as there are, each as often as its share of the weight says, to one more or less."""
        assert self.ends is not None
        n = len(self.ends)
        places = (torch.arange(n) + torch.rand((), generator=self.generator, dtype=torch.float64)) / n
        return torch.searchsorted(self.ends, places, right=True).clamp_max(n - 1)

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.position == self.steps_per_pass:
            self.position = 0
            self._shuffle()
        rows = self.parts[self.position]
        self.position += 1
        x, x_next = self.x[rows], self.x_next[rows]
        if self.both_ways:
            half = len(rows) // 2
            x, x_next = torch.cat([x[:half], x_next[half:]]), torch.cat([x_next[:half], x[half:]])
        return x, x_next

    def state(self) -> dict[str, Any]:
        """Where the iterator is: what `restore` needs to go on with the same batches."""
        return {"order": self.before, "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.generator.set_state(state["order"])
        self._shuffle()
        self.position = state["position"]
