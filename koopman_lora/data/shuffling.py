"""Random orders of pairs: of all of them in memory; of what is read in blocks, whole blocks, mixed some at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.lazy_states import LazyStates
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.rows import Rows

# Numbers in the states x of a portion: of pairs in memory, in batches of a few hundred preparing takes twice the time;
# of blocks, so that many are mixed, and two portions of x and x' in single precision take 128 MB.
PORTION, BUFFER = 2**21, 2**23
# The first portion of blocks is smaller, as training waits for it.
FIRST = 4


class Portion(NamedTuple):
    """Neighbours in the random order of a pass.

    Attributes
    ----------
    start, stop : which of the order
    parts : positions of the pairs, in the order in which they are read
    seed : of the order of what was read; None where it is read in random order
    """

    start: int
    stop: int
    parts: Sequence[slice | np.ndarray]
    seed: int | None

    def order(self) -> Tensor | None:
        """Random order (stop - start,) of what was read; of its own, so that a pass can be taken up in the middle."""
        if self.seed is None:
            return None
        return torch.randperm(self.stop - self.start, generator=torch.Generator().manual_seed(self.seed))


def random_portions(pairs: LaggedPairs, bounds: Sequence[int], generator: torch.Generator) -> list[Portion]:
    """A random order of all pairs, in portions that are read one at a time; every pair once, or as its weight says.

    Parameters
    ----------
    bounds : where batches begin, and the end; portions of pairs in memory hold whole batches
    generator : of the order; the same state gives the same order

    Examples
    --------
    >>> portions = random_portions(lagged_pairs(np.arange(6.0)), [0, 2, 5], torch.Generator().manual_seed(0))
    >>> sorted(portions[0].parts[0].tolist()), portions[0].stop
    ([0, 1, 2, 3, 4], 5)
    """
    if isinstance(pairs.states, LazyStates):
        return list(_of_blocks(pairs, pairs.states, generator))
    order = torch.randperm(len(pairs), generator=generator).numpy()
    if pairs.weights is not None:
        order = _drawn(pairs.weights, generator)[order]
    edges, size = [0], max(1, PORTION // max(1, pairs.n_entries))
    for bound, following in zip(bounds[1:], [*bounds[2:], np.inf], strict=True):
        if following - edges[-1] > size:
            edges.append(bound)
    return [Portion(start, stop, [order[start:stop]], None) for start, stop in itertools.pairwise(edges)]


def _of_blocks(pairs: LaggedPairs, states: LazyStates, generator: torch.Generator) -> Iterator[Portion]:
    """Blocks in random order, gathered until they are enough, and their pairs in random order."""
    blocks = states.by_block(pairs.places.rows)
    seed = int(torch.randint(2**62, (), generator=generator))
    size = BUFFER // (FIRST * max(1, pairs.n_entries))
    n_copies = None
    if pairs.weights is not None:
        n_copies = np.bincount(_drawn(pairs.weights, generator), minlength=len(pairs))
    start, number, n = 0, 0, 0
    gathered: list[slice | np.ndarray] = []
    for block in torch.randperm(len(blocks), generator=generator).tolist():
        positions = _copies(blocks[block][1], n_copies)
        if len(positions) == 0:
            continue
        if gathered and n + len(positions) > size:
            yield Portion(start, start + n, gathered, seed + number)
            size = BUFFER // max(1, pairs.n_entries)
            start, number, gathered, n = start + n, number + 1, [], 0
        gathered.append(positions.at(slice(None)))
        n += len(positions)
    yield Portion(start, start + n, gathered, seed + number)


def _copies(positions: Rows, n_copies: np.ndarray | None) -> Rows:
    """Positions of a block, each as often as it was drawn."""
    if n_copies is None:
        return positions
    own = positions.all()
    return Rows.of(np.repeat(own, n_copies[own]))


def _drawn(weights: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """As many pairs as there are, in order, each as often as its share of the weight says, to one more or less."""
    n = len(weights)
    places = (np.arange(n) + float(torch.rand((), generator=generator, dtype=torch.float64))) / n
    return np.searchsorted(np.cumsum(weights) / weights.sum(), places, side="right").clip(max=n - 1)
