"""States that stay where they are, on disk or in many arrays, and are read a block of neighbours at a time."""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.arguments import told_as
from koopman_lora.data.arrays import as_states, check_finite
from koopman_lora.data.containers import unpacked
from koopman_lora.data.rows import Rows
from koopman_lora.data.sources import Source, opened, source_of
from koopman_lora.data.states import HeldStates, States

# Data in memory of at most so many bytes are copied into one tensor; larger ones are read where they are.
COPIED = 2**25
# Bytes of decoded blocks that are kept, the last ones that were read; and of the first frames of blocks.
_KEPT, _HEADS = 2**26, 2**26


class _Pieces(NamedTuple):
    """Stretches of neighbouring rows in one block each, in the order of rows (n_pieces,).

    Attributes
    ----------
    begins : first row of each
    block : that it lies in
    offset : its first row within the block
    head : number of the head that begins with it, or -1
    """

    begins: np.ndarray
    block: np.ndarray
    offset: np.ndarray
    head: np.ndarray


class _Block(NamedTuple):
    """Frames of trajectories of a source."""

    source: int
    trajectories: slice
    frames: slice
    first: int  # number of its first trajectory among those of all sources


class LazyStates:
    """States (n, *state) of sources, read a block at a time; none is in memory but the last blocks.

    The first `lag` frames of every block are kept once they were read: x' of the last pairs of the block before, which
    would otherwise be decoded for their sake.

    Raises
    ------
    ValueError
        When states are read that are not finite, or cannot be read.
    """

    def __init__(self, sources: Sequence[Source], lag: int = 0) -> None:
        self.sources, self.lag = list(sources), lag
        self.state_shape = self.sources[0].state_shape
        self.dtype = _common_dtype(self.sources)
        self.blocks, self.pieces, self.n_rows = _layout(self.sources)
        self._is_checked = np.zeros(len(self.blocks), dtype=bool)
        n_heads = int(self.pieces.head.max(initial=-1)) + 1
        if n_heads * lag * self.sources[0].frame_bytes > _HEADS:
            self.pieces, n_heads = self.pieces._replace(head=np.full_like(self.pieces.head, -1)), 0
        self._heads = torch.empty((n_heads, lag, *self.state_shape), dtype=self.dtype)
        self._is_known = np.zeros(n_heads, dtype=bool)
        headed = np.flatnonzero(self.pieces.head >= 0)
        self._headed = headed[np.argsort(self.pieces.block[headed], kind="stable")]  # by the block that they lie in
        self._headed_block = np.searchsorted(self.pieces.block[self._headed], np.arange(len(self.blocks) + 1))
        self._forget()

    def _forget(self) -> None:
        self._decoded: collections.OrderedDict[int, Tensor] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_decoded", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self.n_rows

    def read(self, rows: slice | np.ndarray) -> Tensor:
        """States at some rows, each block of them decoded once; a view where neighbours lie in one block."""
        if isinstance(rows, slice):
            neighbours = self._neighbours(rows)
            return self._gathered(np.arange(rows.start, rows.stop)) if neighbours is None else neighbours
        return self._gathered(rows)

    def _neighbours(self, rows: slice) -> Tensor | None:
        """A view of rows that lie in one block, None where they do not."""
        piece = int(np.searchsorted(self.pieces.begins, rows.start, side="right")) - 1
        if rows.stop > self._end(piece) or rows.stop <= rows.start:
            return None
        start = int(self.pieces.offset[piece] + rows.start - self.pieces.begins[piece])
        return self._block(int(self.pieces.block[piece]))[start : start + rows.stop - rows.start]

    def _gathered(self, rows: np.ndarray) -> Tensor:
        piece = np.searchsorted(self.pieces.begins, rows, side="right") - 1
        within = rows - self.pieces.begins[piece]
        states = torch.empty((len(rows), *self.state_shape), dtype=self.dtype)
        in_heads = self._in_heads(piece, within)
        if len(there := np.flatnonzero(in_heads)):
            head = torch.from_numpy(self.pieces.head[piece[there]])
            states[torch.from_numpy(there)] = self._heads[head, torch.from_numpy(within[there])]
        rest = np.flatnonzero(~in_heads)
        rest = rest[np.argsort(self.pieces.block[piece[rest]], kind="stable")]
        block = self.pieces.block[piece[rest]]
        for places in np.split(rest, np.flatnonzero(np.diff(block)) + 1) if len(rest) else ():
            offset = self.pieces.offset[piece[places]] + within[places]
            values = self._block(int(self.pieces.block[piece[places[0]]]))
            states[torch.from_numpy(places)] = values[torch.from_numpy(offset)]
        return states

    def _end(self, piece: int) -> int:
        return int(self.pieces.begins[piece + 1]) if piece + 1 < len(self.pieces.begins) else self.n_rows

    def _in_heads(self, piece: np.ndarray, within: np.ndarray) -> np.ndarray:
        """Whether rows are among the first frames of blocks that are kept."""
        head = self.pieces.head[piece]
        is_there = (head >= 0) & (within < self.lag)
        is_there[is_there] = self._is_known[head[is_there]]
        return is_there

    def _block(self, number: int) -> Tensor:
        """All states of a block (n, *state)."""
        source, trajectories, frames, first = self.blocks[number]
        with self._lock:
            if number in self._decoded:
                self._decoded.move_to_end(number)
                return self._decoded[number]
        states = self.sources[source].decode(trajectories, frames, self.dtype)
        if not self._is_checked[number]:
            for i, part in enumerate(states.split(max(1, frames.stop - frames.start))):
                name = f"trajectory {first + i}" if self.sources[source].has_trajectories else self.sources[source].name
                check_finite(part, name, frames.start)
            self._is_checked[number] = True
        if not self.sources[source].is_held:
            self._keep(number, states)
        return states

    def _keep(self, number: int, states: Tensor) -> None:
        for piece in self._headed[self._headed_block[number] : self._headed_block[number + 1]]:
            head, offset = int(self.pieces.head[piece]), int(self.pieces.offset[piece])
            if not self._is_known[head]:
                length = min(self.lag, self._end(piece) - int(self.pieces.begins[piece]))
                self._heads[head, :length] = states[offset : offset + length]
                self._is_known[head] = True
        with self._lock:
            self._decoded[number] = states
            while len(self._decoded) > 2 and sum(s.nbytes for s in self._decoded.values()) > _KEPT:
                self._decoded.popitem(last=False)

    def by_block(self, rows: Rows) -> list[tuple[int, Rows]]:
        """Blocks in their order, with the positions of those of the rows that lie in each."""
        piece, begins, lengths = rows.cut(np.append(self.pieces.begins[1:], self.n_rows))
        block = self.pieces.block[piece]
        order = np.argsort(block, kind="stable")
        cuts = np.flatnonzero(np.diff(block[order])) + 1
        return [(int(block[part[0]]), Rows(begins[part], lengths[part])) for part in np.split(order, cuts)]


def _common_dtype(sources: Sequence[Source]) -> torch.dtype:
    dtype = sources[0].dtype
    for source in sources[1:]:
        dtype = torch.promote_types(dtype, source.dtype)
    return dtype


def _layout(sources: Sequence[Source]) -> tuple[list[_Block], _Pieces, int]:
    """All blocks, the pieces of rows that lie in them, and the number of rows."""
    blocks: list[_Block] = []
    parts: list[np.ndarray] = []  # (4, n): as in `_Pieces`, of one source
    n_rows = n_trajectories = 0
    for number, source in enumerate(sources):
        times, groups = source.time_edges, source.trajectory_edges
        lengths, group = np.diff(times), np.repeat(np.arange(len(groups) - 1), np.diff(groups))
        trajectory = np.arange(source.n_trajectories)
        begins = n_rows + trajectory[:, None] * source.n_frames + times[:-1]
        block = len(blocks) + group[:, None] * len(lengths) + np.arange(len(lengths))
        offset = (trajectory - groups[group])[:, None] * lengths
        goes_on = np.broadcast_to(np.arange(len(lengths)) > 0, begins.shape) & (not source.is_held)
        parts.append(np.stack([np.broadcast_to(a, begins.shape).ravel() for a in (begins, block, offset, goes_on)]))
        for start, stop in zip(groups[:-1].tolist(), groups[1:].tolist(), strict=True):
            frames = zip(times[:-1].tolist(), times[1:].tolist(), strict=True)
            first = n_trajectories + start
            blocks += [_Block(number, slice(start, stop), slice(*ends), first) for ends in frames]
        n_rows += source.n_trajectories * source.n_frames
        n_trajectories += source.n_trajectories
    begins, block, offset, goes_on = np.concatenate(parts, axis=1)
    is_long = np.diff(begins, append=n_rows) > 0
    head = np.where(goes_on > 0, np.cumsum(goes_on) - 1, -1)
    return blocks, _Pieces(*(values[is_long] for values in (begins, block, offset, head))), n_rows


def states_of(sources: Sequence[Source], lag: int = 0) -> States:
    """All states of some sources, one after the other: copied where they are few, else left where they are.

    Raises
    ------
    ValueError
        For states in memory that are not finite; those on disk are looked at as they are read.
    """
    if not all(source.is_held for source in sources):
        return LazyStates(sources, lag)
    dtype = _common_dtype(sources)
    states = LazyStates(sources, lag)
    for block in range(len(states.blocks)):  # looked at now
        states._block(block)
    if len(states) * sources[0].frame_bytes <= COPIED:
        return HeldStates(states.read(np.arange(len(states))))
    if len(sources) == 1 and _is_one_tensor(sources[0], dtype):
        values = sources[0].array
        return HeldStates(torch.as_tensor(values).reshape(-1, *sources[0].state_shape))
    return states


def _is_one_tensor(source: Source, dtype: torch.dtype) -> bool:
    """Whether torch can have the whole array without a copy."""
    if isinstance(source.array, Tensor):
        return source.array.dtype == dtype and source.array.is_contiguous()
    wanted = np.dtype(np.float32 if dtype == torch.float32 else np.float64)
    flags = source.array.flags
    return bool(source.array.dtype == wanted and flags.c_contiguous and flags.writeable)


def readable_states(x: Any, state_shape: tuple[int, ...]) -> States:
    """States (n, *state) in any form, those on disk left there; raises what `as_states` documents."""
    with told_as("x", "data", "path"):
        x = opened(unpacked(x))
    if not (getattr(x, "chunks", None) is not None or isinstance(x, np.memmap)):
        return HeldStates(as_states(x, state_shape))
    source = source_of(x, "x")
    if source.state_shape != state_shape:
        shape = (source.n_trajectories * source.n_frames, *source.state_shape)
        raise ValueError(f"x must have shape (n, {', '.join(map(str, state_shape))}); got {shape}.")
    return LazyStates([source])
