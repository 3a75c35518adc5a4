"""Row numbers as runs of consecutive ones: pairs of ten million frames in a few numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from koopman_lora.kinds import shown


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
        """Rows at some positions; of neighbours that lie in one run again a slice, which copies nothing."""
        if not isinstance(index, slice):
            if np.ndim(index) != 1 or np.asarray(index).dtype.kind not in "iu":
                raise ValueError(f"index must be a slice, or positions (n,); got {shown(index)}.")
            if len(index) and not (0 <= index.min() and index.max() < len(self)):
                raise ValueError(f"index must hold positions from 0 to {len(self) - 1}; got {shown(index)}.")
            runs = self.run_of(index)
            return self.first[runs] + (index - self.begins[runs])
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
        cell, begins, lengths = positions.cut(self.ends)
        run = np.searchsorted(positions.ends, begins, side="right")
        there = positions.first[run] + begins - positions.begins[run]
        return Rows(self.first[cell] + there - self.begins[cell], lengths)

    def cut(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pieces of the runs, cut where cells of rows end, (n_pieces,) each: cell, first position and length.

        Parameters
        ----------
        ends : of neighbouring cells that hold all rows, increasing

        Examples
        --------
        >>> Rows(np.array([10, 0]), np.array([3, 2])).cut(np.array([1, 11, 20]))
        (array([1, 2, 0, 1]), array([0, 1, 3, 4]), array([1, 2, 1, 1]))
        """
        last = self.first + self.lengths
        cell = np.searchsorted(ends, self.first, side="right")
        n_pieces = np.searchsorted(ends, last - 1, side="right") - cell + 1
        run = np.repeat(np.arange(len(cell)), n_pieces)
        cell = np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces - cell, n_pieces)
        cell_begins = np.concatenate([[0], ends[:-1]])
        begins = np.maximum(self.first[run], cell_begins[cell])
        return cell, self.begins[run] + begins - self.first[run], np.minimum(last[run], ends[cell]) - begins

    def batches(self, size: int) -> Iterator[slice | np.ndarray]:
        """All of them in order, at most `size` at a time."""
        return (self.at(slice(start, start + size)) for start in range(0, len(self), size))
