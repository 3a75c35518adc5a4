"""Which pairs belong together: trajectories, contiguous blocks; and which share a frame."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from koopman_lora.arguments import check_positive, whole
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.rows import Rows

# Pairs that are numbered at once, which bounds the memory.
_AT_ONCE = 1 << 20
_TO_SHARE_NONE = "for training and held-out pairs to share no frame"
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
    names, trajectory = np.unique(pairs.places.run_trajectory, return_inverse=True)
    if by == "auto":
        by = "trajectory" if len(names) >= n_blocks else "blocks"
    if by == "trajectory":
        if len(names) < 2:
            raise ValueError("by='trajectory' needs at least 2 trajectories; got 1. Use by='blocks'.")
        return np.repeat(trajectory.astype(np.int32), pairs.places.frames.lengths)
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
    lengths = pairs.places.frames.lengths
    trajectory = np.unique(pairs.places.run_trajectory, return_inverse=True)[1]  # of every run of neighbours
    n_pairs = np.bincount(trajectory, lengths).astype(int)
    n_here = np.maximum(1, np.round(n_pairs / size).astype(int))  # blocks in each trajectory
    first = np.cumsum(n_here) - n_here
    if len(n_pairs) > n_blocks:
        n_here, first = _joined_trajectories(n_pairs, n_here, size)
    order = np.argsort(trajectory, kind="stable")
    before = np.empty(len(lengths), dtype=int)  # pairs of a run's trajectory in front of it
    before[order] = np.cumsum(lengths[order]) - lengths[order] - (np.cumsum(n_pairs) - n_pairs)[trajectory[order]]
    block = np.empty(len(pairs), dtype=np.int32)
    everything = Rows(np.array([0]), np.array([len(pairs)]))
    for places, number in _numbered(everything):
        run = pairs.places.frames.run_of(number)
        there = trajectory[run]
        position = number - pairs.places.frames.begins[run] + before[run]
        block[places] = first[there] + position * n_here[there] // n_pairs[there]
    return block


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
    frames, lag = pairs.places.frames, pairs.clock.known_lag(_TO_SHARE_NONE)
    is_used = np.zeros(int((frames.first + frames.lengths).max(initial=0)) + lag, dtype=bool)
    for places, numbers in _numbered(frames):
        is_used[numbers[held[places]]] = True
        is_used[numbers[held[places]] + lag] = True
    kept = ~held
    for places, numbers in _numbered(frames):
        kept[places] &= ~(is_used[numbers] | is_used[numbers + lag])
    return kept


def _numbered(rows: Rows) -> Iterator[tuple[slice, np.ndarray]]:
    """Neighbouring positions and their rows, some at a time, which bounds the memory."""
    for start in range(0, len(rows), _AT_ONCE):
        places = slice(start, min(start + _AT_ONCE, len(rows)))
        found = rows.at(places)
        yield places, np.arange(found.start, found.stop) if isinstance(found, slice) else found


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
    pairs.clock.known_lag(_TO_SHARE_NONE)
    number, trajectory = pairs.places.frames.all(), pairs.trajectory
    order = np.argsort(number, kind="stable")
    partner = order[np.minimum(np.searchsorted(number[order], number + n_frames), len(order) - 1)]
    is_there = (number[partner] == number + n_frames) & (trajectory[partner] == trajectory)
    return np.flatnonzero(is_there), partner[is_there]


def neighbouring_blocks(block: np.ndarray, n_most: int) -> Iterator[list[Rows]]:
    """Positions of every block, by increasing number, several together while they hold at most `n_most` in all.

    To be evaluated in one go: in batches of a few hundred a network takes twice the time.

    Examples
    --------
    >>> [[rows.all().tolist() for rows in together] for together in neighbouring_blocks(np.array([2, 0, 0, 1, 2]), 3)]
    [[[1, 2], [3]], [[0, 4]]]
    """
    starts = np.flatnonzero(np.concatenate([[True], block[1:] != block[:-1]])[: len(block)])
    lengths, number = np.diff(starts, append=len(block)), block[starts]
    order = np.argsort(number, kind="stable")
    together: list[Rows] = []
    for runs in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        rows = Rows(starts[runs], lengths[runs])
        if together and sum(map(len, together)) + len(rows) > n_most:
            yield together
            together = []
        together.append(rows)
    yield together
