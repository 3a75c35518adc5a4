"""Where pairs lie: their rows among the states, and their frames in trajectories."""

from __future__ import annotations

import dataclasses

import numpy as np

from koopman_lora.data.rows import Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where pairs (x, x') lie, in a few numbers for each run of neighbours.

    Attributes
    ----------
    rows : of x among all states
    gap : rows from x to x'
    frames : of x, counted through all trajectories; no run crosses the end of one
    begins : first frame of every trajectory, counted so (n_trajectories,)

    Examples
    --------
    >>> places = Places.cut(np.array([4, 3]), lag=2)
    >>> places.rows.all(), places.trajectory, places.frame
    (array([0, 1, 4]), array([0, 0, 1]), array([0, 1, 0]))
    """

    rows: Rows
    gap: int
    frames: Rows
    begins: np.ndarray

    @classmethod
    def cut(cls, lengths: np.ndarray, lag: int) -> Places:
        """All pairs `lag` frames apart in trajectories of these lengths (n_trajectories,), one after the other."""
        begins = np.cumsum(lengths) - lengths
        rows = Rows(begins, lengths - lag)
        return cls(rows, lag, rows, begins)

    @classmethod
    def side_by_side(cls, n_pairs: int) -> Places:
        """Pairs of one trajectory whose x' lie behind all x."""
        rows = Rows(np.array([0]), np.array([n_pairs]))
        return cls(rows, n_pairs, rows, np.array([0]))

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self, n_frames: int) -> list[int]:
        """Frames of every trajectory, of so many in all."""
        return np.diff(self.begins, append=n_frames).tolist()

    def through(self, positions: Rows) -> Places:
        """Those at some positions."""
        rows = self.rows.through(positions)
        frames = rows if self.frames is self.rows else self.frames.through(positions)
        return dataclasses.replace(self, rows=rows, frames=frames)

    def moved(self) -> Places:
        """The same frames, of states (2 n, *state) that hold all x and behind them all x'."""
        there = Places.side_by_side(len(self))
        return dataclasses.replace(self, rows=there.rows, gap=there.gap)

    @property
    def run_trajectory(self) -> np.ndarray:
        """The trajectory of every run of frames."""
        return np.searchsorted(self.begins, self.frames.first, side="right") - 1

    @property
    def trajectory(self) -> np.ndarray:
        """The trajectory of every pair (n,)."""
        return np.repeat(self.run_trajectory, self.frames.lengths)

    @property
    def frame(self) -> np.ndarray:
        """The frame of x within it (n,)."""
        return self.frames.all() - np.repeat(self.begins[self.run_trajectory], self.frames.lengths)

    def at(self, position: int) -> tuple[int, int]:
        """Trajectory and frame of x of one pair."""
        number = int(self.frames.at(np.array([position]))[0])  # type: ignore[index]
        trajectory = int(np.searchsorted(self.begins, number, side="right")) - 1
        return trajectory, number - int(self.begins[trajectory])
