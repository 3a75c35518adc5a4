"""Which pairs belong together: trajectories, contiguous blocks; and which share a frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from koopman_lora.arguments import check_positive, whole
from koopman_lora.data.pairs import LaggedPairs

# Blocks that splits are drawn from: fewer would hold out whole regions of a trajectory, more would waste gaps.
SPLIT_BLOCKS = 20


def split_groups(pairs: LaggedPairs, by: str = "auto", n_blocks: int = SPLIT_BLOCKS) -> np.ndarray:
    """Group number (n_pairs,) of every pair, its trajectory or its contiguous block: the unit of splits.

    Parameters
    ----------
    by : 'trajectory', 'blocks' or 'auto', which takes trajectories when there are at least `n_blocks`
    n_blocks : number of blocks, see `block_numbers`

    Raises
    ------
    ValueError
        For another word, 'trajectory' with one trajectory, or `n_blocks` below 1.
    """
    check_positive("n_blocks", whole("n_blocks", n_blocks))
    if by not in ("auto", "trajectory", "blocks"):
        raise ValueError(f"by must be one of 'auto', 'trajectory', 'blocks'; got {by!r}.")
    names, trajectory = np.unique(pairs.trajectory, return_inverse=True)
    if by == "auto":
        by = "trajectory" if len(names) >= n_blocks else "blocks"
    if by == "trajectory":
        if len(names) < 2:
            raise ValueError("by='trajectory' needs at least 2 trajectories; got 1. Use by='blocks'.")
        return trajectory
    return block_numbers(pairs, n_blocks)


def block_numbers(pairs: LaggedPairs, n_blocks: int) -> np.ndarray:
    """Contiguous blocks (n_pairs,) of nearly equal size, about `n_blocks` in all.

    A block is a part of one trajectory; where there are more trajectories than blocks, short ones are joined, so that
    it may hold several whole ones.

    Raises
    ------
    ValueError
        If `n_blocks` is no integer of at least 1.

    Examples
    --------
    >>> block_numbers(lagged_pairs([np.arange(5.0), np.arange(3.0)]), 3).tolist()
    [0, 0, 1, 1, 2, 2]
    >>> block_numbers(lagged_pairs([np.arange(3.0)] * 4), 2).tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    n_blocks = whole("n_blocks", n_blocks)
    check_positive("n_blocks", n_blocks)
    size = max(1, -(-len(pairs) // n_blocks))
    _, trajectory, n_pairs = np.unique(pairs.trajectory, return_inverse=True, return_counts=True)
    n_here = np.maximum(1, np.round(n_pairs / size).astype(int))  # blocks in each trajectory
    first = np.cumsum(n_here) - n_here
    if len(n_pairs) > n_blocks:
        n_here, first = _joined_trajectories(n_pairs, n_here, size)
    order = np.argsort(trajectory, kind="stable")
    position = np.empty(len(pairs), dtype=int)  # of a pair within its trajectory
    position[order] = np.arange(len(pairs)) - (np.cumsum(n_pairs) - n_pairs)[trajectory[order]]
    return first[trajectory] + position * n_here[trajectory] // n_pairs[trajectory]


def _joined_trajectories(n_pairs: np.ndarray, n_here: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Blocks in each trajectory and the number of its first one, where neighbours shorter than `size` share a block."""
    short = n_pairs < size
    # every `size` pairs of short trajectories a new block, in which a trajectory lies with its middle
    slot = np.cumsum(np.where(short, n_pairs, 0)) - (n_pairs + 1) // 2
    slot = np.where(short, slot // size, -1)
    is_new = ~short | ~np.roll(short, 1) | (slot != np.roll(slot, 1))
    is_new[:1] = True
    begun = np.cumsum(np.where(is_new, np.where(short, 1, n_here), 0))  # blocks up to the end of a trajectory
    n_here = np.where(short, 1, n_here)
    return n_here, begun - n_here


def without_overlap(pairs: LaggedPairs, held: np.ndarray) -> np.ndarray:
    """Mask (n_pairs,) of the pairs outside `held` that share no frame with any pair in `held`.

    Raises
    ------
    ValueError
        If the lag of the pairs is unknown.

    Examples
    --------
    >>> pairs = lagged_pairs(np.arange(8.0), lag=2)       # frames (0,2) (1,3) (2,4) (3,5) (4,6) (5,7)
    >>> without_overlap(pairs, np.array([1, 0, 0, 0, 0, 0], bool))
    array([False, True, False, True, True, True])
    """
    first, lag = _frame_numbers(pairs)
    used = np.union1d(first[held], first[held] + lag)
    return ~held & ~np.isin(first, used) & ~np.isin(first + lag, used)


def _frame_numbers(pairs: LaggedPairs) -> tuple[np.ndarray, int]:
    """One number per frame over all trajectories, (n_pairs,), that of x; x' has it plus the lag."""
    lag = pairs.clock.known_lag("for training and held-out pairs to share no frame")
    return pairs.trajectory * (int(pairs.frame.max()) + lag + 1) + pairs.frame, lag


def pairs_apart(pairs: LaggedPairs, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n,), (n,) of all pairs whose states x are `n_frames` apart in one trajectory.

    Raises
    ------
    ValueError
        If the lag of the pairs is unknown.

    Examples
    --------
    >>> pairs_apart(lagged_pairs([np.arange(4.0), np.arange(3.0)]), 1)
    (array([0, 1, 3]), array([1, 2, 4]))
    """
    number = _frame_numbers(pairs)[0]
    stride = int(pairs.frame.max()) + 1
    order = np.argsort(number, kind="stable")
    # a frame beyond the last of its trajectory would have a number of the next one
    early = np.flatnonzero(pairs.frame + n_frames < stride)
    place = np.searchsorted(number[order], number[early] + n_frames)
    partner = order[np.minimum(place, len(order) - 1)]
    is_there = number[partner] == number[early] + n_frames
    return early[is_there], partner[is_there]


def neighbouring_blocks(block: np.ndarray, n_most: int) -> Iterator[list[np.ndarray]]:
    """Rows of every block, by increasing number, several together while they hold at most `n_most` rows in all.

    To be evaluated in one go: in batches of a few hundred a network takes twice the time.

    Examples
    --------
    >>> [[rows.tolist() for rows in together] for together in neighbouring_blocks(np.array([2, 0, 0, 1, 2]), 3)]
    [[[1, 2], [3]], [[0, 4]]]
    """
    order = np.argsort(block, kind="stable")
    together: list[np.ndarray] = []
    for rows in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
        if together and sum(map(len, together)) + len(rows) > n_most:
            yield together
            together = []
        together.append(rows)
    yield together


def as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Increasing rows as a slice where nothing is left out between them, which copies nothing.

    Examples
    --------
    >>> as_slice(np.array([3, 4, 5]))
    slice(3, 6, None)
    """
    first, end = int(rows[0]), int(rows[-1]) + 1
    return slice(first, end) if end - first == len(rows) else rows
