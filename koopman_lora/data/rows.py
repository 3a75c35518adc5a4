"""Row numbers as runs of consecutive ones: pairs of ten million frames in a few numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


class Rows:
    """Row numbers (n,), in order, kept as runs of consecutive ones; any run may follow any other.

    Parameters
    ----------
    first, lengths : first row and number of rows of every run (n_runs,); empty runs are dropped, and those that go on
        where the one before ends are one with it

    Examples
    --------
    >>> rows = Rows(np.array([10, 0]), np.array([3, 2]))
    >>> rows.all(), rows.at(slice(1, 3)), rows.at(slice(2, 4)), rows.at(np.array([4, 0]))
    (array([10, 11, 12,  0,  1]), slice(11, 13, None), array([12,  0]), array([ 1, 10]))
    """

    def __init__(self, first: np.ndarray, lengths: np.ndarray) -> None:
        is_full = np.asarray(lengths) > 0
        first, lengths = (np.asarray(values, dtype=np.int64)[is_full] for values in (first, lengths))
        starts = np.flatnonzero(np.concatenate([[True], first[1:] != (first + lengths)[:-1]])[: len(first)])
        self.first = first[starts]
        self.lengths = np.add.reduceat(lengths, starts) if len(starts) else lengths
        self.ends = np.cumsum(self.lengths)
        self.begins = self.ends - self.lengths

    @classmethod
    def of(cls, numbers: np.ndarray) -> Rows:
        """From row numbers (n,), or from a mask: the rows where it is True.

        Examples
        --------
        >>> Rows.of(np.array([True, True, False, True])).first, Rows.of(np.array([4, 5, 5])).lengths
        (array([0, 3]), array([2, 1]))
        """
        if numbers.dtype == bool:
            edges = np.flatnonzero(np.diff(numbers, prepend=False, append=False))
            return cls(edges[::2], edges[1::2] - edges[::2])
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
        return cls(numbers[starts], np.diff(starts, append=len(numbers)))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def all(self) -> np.ndarray:
        """All of them (n,)."""
        return np.repeat(self.first - self.begins, self.lengths) + np.arange(len(self))

    def run_of(self, positions: np.ndarray) -> np.ndarray:
        """The run in which each position lies."""
        return np.searchsorted(self.ends, positions, side="right")

    def at(self, index: slice | np.ndarray) -> slice | np.ndarray:
        """Rows at some positions; of neighbours (start, stop) that lie in one run again a slice, which copies nothing."""
        if not isinstance(index, slice):
            run = self.run_of(index)
            return self.first[run] + (index - self.begins[run])
        start, stop, _ = index.indices(len(self))
        if stop <= start:
            return slice(0, 0)
        run = int(np.searchsorted(self.ends, start, side="right"))
        if stop <= self.ends[run]:
            first = int(self.first[run] - self.begins[run])
            return slice(first + start, first + stop)
        return self.through(Rows(np.array([start]), np.array([stop - start]))).all()

    def through(self, positions: Rows) -> Rows:
        """The rows at `positions`, in their order.

        Examples
        --------
        >>> Rows(np.array([10, 0]), np.array([3, 2])).through(Rows.of(np.array([4, 1, 2, 3]))).all()
        array([ 1, 11, 12,  0])
        """
        run, begins, ends = self._pieces(positions)
        return Rows(self.first[run] + begins - self.begins[run], ends - begins)

    def _pieces(self, positions: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Runs of positions, cut where a run of rows ends: run of rows, first position and end of each piece."""
        first, n = positions.first, positions.lengths
        run = self.run_of(first)
        n_pieces = self.run_of(first + n - 1) - run + 1
        piece = np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
        run = np.repeat(run, n_pieces) + piece
        begins, ends = np.repeat(first, n_pieces), np.repeat(first + n, n_pieces)
        return run, np.maximum(begins, self.begins[run]), np.minimum(ends, self.ends[run])

    def batches(self, size: int) -> Iterator[slice | np.ndarray]:
        """All of them in order, at most `size` at a time."""
        return (self.at(slice(start, start + size)) for start in range(0, len(self), size))
