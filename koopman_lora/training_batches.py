"""Batches of a training run: one random order of the pairs after the other, standardised, a portion at a time."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.lazy_states import LazyStates
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.shuffling import Portion, random_portions
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.processes import part_of, processes

# Pairs that each process must have of a batch on average where blocks are dealt out, so that none comes out empty.
LEAST_OF_BLOCKS = 32


def n_batches(n_pairs: int, batch_size: int, n_modes: int) -> int:
    """Batches of a pass over the pairs: none smaller than n_modes or 2, also where few pairs are cut into equal parts.

    Examples
    --------
    >>> n_batches(1000, 256, 8), n_batches(30, 20, 20)
    (4, 1)
    """
    return max(1, min(round(n_pairs / batch_size), n_pairs // max(n_modes, 2)))


class _Loaded(NamedTuple):
    """Prepared states of the own part of a portion, their places in the pass, and their rows where these are others."""

    x: Tensor = torch.empty(0)
    x_next: Tensor = torch.empty(0)
    places: Sequence[int] | np.ndarray = ()
    rows: Tensor | None = None


class OwnPart(NamedTuple):
    """What this process has of a portion.

    Attributes
    ----------
    places : of its pairs in the pass, increasing
    rows : of these pairs among those read; None where they lie as they are read
    parts : positions of the pairs to read
    """

    places: Sequence[int] | np.ndarray
    rows: Tensor | None
    parts: Sequence[slice | np.ndarray]


def own_part(portion: Portion, bounds: Sequence[int]) -> OwnPart:
    """An equal part of every batch in memory; of blocks an equal part of them, so that each is read by one process.

    Parameters
    ----------
    bounds : where batches begin, and the end

    Examples
    --------
    >>> own_part(Portion(2, 4, [np.array([7, 5])], None), [0, 2, 4])
    OwnPart(places=range(2, 4), rows=None, parts=[array([7, 5])])
    """
    if processes().size == 1:
        return OwnPart(range(portion.start, portion.stop), portion.order(), portion.parts)
    if (random := portion.order()) is None:
        edges = [bound for bound in bounds if portion.start <= bound <= portion.stop]
        places = np.concatenate([np.arange(*batch)[part_of(batch[1] - batch[0])] for batch in pairwise(edges)])
        return OwnPart(places, None, [np.asarray(portion.parts[0])[places - portion.start]])
    order, mine = random.numpy(), part_of(portion.stop - portion.start)
    own = np.flatnonzero((order >= mine.start) & (order < mine.stop))
    return OwnPart(own + portion.start, torch.from_numpy(order[own] - mine.start), _between(portion.parts, mine))


def _between(parts: Sequence[slice | np.ndarray], mine: slice) -> list[slice | np.ndarray]:
    """Positions `mine` of all parts in a row."""
    found: list[slice | np.ndarray] = []
    begin = 0
    for part in parts:
        n = part.stop - part.start if isinstance(part, slice) else len(part)
        first, last = max(mine.start - begin, 0), min(mine.stop - begin, n)
        if first < last:
            found.append(slice(part.start + first, part.start + last) if isinstance(part, slice) else part[first:last])
        begin += n
    return found or [np.empty(0, dtype=int)]


class TrainingBatches:
    """An endless iterator over batches (x, x_next) of prepared states; none of a pass is dropped.

    Of several processes each reads and gets its part of every batch, see `own_part`. Where pairs count both ways, half
    of a batch goes backward: as they come, by chance. Where they have weights, a pass draws them as often as these say:
    batches are of the weighted law, also where few pairs have most of the weight. What is not in memory is read ahead
    in a thread, until `close`.

    Parameters
    ----------
    steps_per_pass : see `n_batches`; sizes of batches differ by one pair at most
    seed : of the orders

    Attributes
    ----------
    n_rows : pairs of the latest batch, in all processes
    """

    def __init__(self, model: KoopmanLoRAModel, pairs: LaggedPairs, steps_per_pass: int, seed: int) -> None:
        self.model, self.pairs, self.steps_per_pass = model, pairs, steps_per_pass
        # a generator of its own; layers such as dropout know only torch's one for all threads
        self.generator = torch.Generator().manual_seed(seed)
        sizes = len(pairs) // steps_per_pass + (np.arange(steps_per_pass) < len(pairs) % steps_per_pass)
        self.bounds = [0, *np.cumsum(sizes).tolist()]
        self.position = self.n_rows = 0
        self.taken: Sequence[int] | np.ndarray = ()
        self.reader = ThreadPoolExecutor(1) if isinstance(pairs.states, LazyStates) else None
        self._shuffle()

    def _shuffle(self) -> None:
        self.before = self.generator.get_state()
        self.portions = random_portions(self.pairs, self.bounds, self.generator)
        self.number, self.loaded = -1, _Loaded()
        self.ahead: tuple[int, Future] | None = None

    def __iter__(self) -> TrainingBatches:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.position == self.steps_per_pass:
            self.position = 0
            self._shuffle()
        start, stop = self.bounds[self.position : self.position + 2]
        self.position += 1
        self.n_rows = stop - start
        x, x_next = self._pairs(start, stop)
        if self.pairs.is_reversible:
            half = bisect.bisect_left(self.taken, start + self.n_rows // 2)
            x, x_next = torch.cat([x[:half], x_next[half:]]), torch.cat([x_next[:half], x[half:]])
        return x, x_next

    def places(self) -> Tensor:
        """Where the pairs of this process stand in the latest batch of all."""
        return torch.from_numpy(np.asarray(self.taken) - self.bounds[self.position - 1])

    def _pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Prepared states of neighbours in the order of the pass, of one portion or of several."""
        number = bisect.bisect_right(self.portions, start, key=lambda portion: portion.stop)
        found: list[tuple[Tensor, Tensor]] = []
        taken: list[Sequence[int] | np.ndarray] = []
        while start < stop:
            loaded = self._load(number)
            first, last = (bisect.bisect_left(loaded.places, place) for place in (start, stop))
            own: Any = slice(first, last) if loaded.rows is None else loaded.rows[first:last]
            found.append((loaded.x[own], loaded.x_next[own]))
            taken.append(loaded.places[first:last])
            start, number = self.portions[number].stop, number + 1
        self.taken = taken[0] if len(taken) == 1 else np.concatenate(taken)
        x, x_next = (sides[0] if len(sides) == 1 else torch.cat(sides) for sides in zip(*found, strict=True))
        return x, x_next

    def _load(self, number: int) -> _Loaded:
        """The prepared states of a portion, while the next one is being read."""
        if number == self.number:
            return self.loaded
        self.number, self.loaded = -1, _Loaded()  # no third portion in memory
        is_ahead = self.ahead is not None and self.ahead[0] == number
        self.loaded = self.ahead[1].result() if self.ahead and is_ahead else self._prepare(self.portions[number])
        self.number, self.ahead = number, None
        if self.reader is not None and number + 1 < len(self.portions):
            self.ahead = number + 1, self.reader.submit(copy_context().run, self._prepare, self.portions[number + 1])
        return self.loaded

    @torch.no_grad()
    def _prepare(self, portion: Portion) -> _Loaded:
        places, rows, parts = own_part(portion, self.bounds)
        found: tuple[Tensor, ...] | None = None
        start = 0
        for part in parts:
            sides = tuple(map(self.model.prepare, self.pairs.read(part)))
            if len(parts) == 1:
                found = sides
                break
            if found is None:  # in place: parts put together at the end would be in memory twice
                found = tuple(side.new_empty((len(places), *side.shape[1:])) for side in sides)
            for whole, side in zip(found, sides, strict=True):
                whole[start : start + len(side)] = side
            start += len(sides[0])
        assert found is not None  # there is a part, if an empty one
        return _Loaded(found[0], found[1], places, None if rows is None else rows.to(self.model.device))

    def close(self) -> None:
        """End the thread that reads ahead, once it has read what it is at."""
        if self.reader is not None:
            self.reader.shutdown(cancel_futures=True)

    def state(self) -> dict[str, Any]:
        """Where the iterator is: what `restore` needs to go on with the same batches."""
        return {"order": self.before, "position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.generator.set_state(state["order"])
        self._shuffle()
        self.position = state["position"]
