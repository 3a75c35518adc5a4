"""Moments on Dask: parts of the pairs are read, and their features summed, where its workers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from koopman_lora.accumulation import common_of, moments_by_block
from koopman_lora.arguments import check_positive
from koopman_lora.checks import checked
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.moment_parts import Common, PartOfMoments, counting, sum_of_parts
from koopman_lora.moments import FeatureMap, Moments

# Parts whose sums are added at once; the sums of these in turn.
_AT_ONCE = 8


@checked
def estimate_moments_on_dask(
    f: FeatureMap,
    g: FeatureMap,
    pairs: LaggedPairs,
    *,
    observables: FeatureMap | None = None,
    names: Sequence[str] | None = None,
    n_blocks: int = 64,
    part_size: int = 2**18,
) -> Moments:
    """`estimate_moments` by the workers of Dask: those of the `dask.distributed.Client` there is, else threads.

    Workers read the states of a part of the pairs, evaluate the features and send back sums, k x k matrices; states and
    features never travel, save states that this process holds in memory. The same blocks, shifts and phases come out as
    of `estimate_moments`.

    Parameters
    ----------
    f, g, observables : callables (batch, *state) -> (batch, n_features)
        They travel to the workers, so that they must be what `pickle` or `cloudpickle` can take.
    pairs : LaggedPairs
    names, n_blocks : see `estimate_moments`
    part_size : pairs of a task; each is read as it is, so that a multiple of the length of a chunk is best

    Raises
    ------
    ImportError
        Without Dask: `pip install "koopman-lora[scale]"`.
    ValueError
        As `estimate_moments`, or for a `part_size` below 1.

    Examples
    --------
    >>> moments = estimate_moments_on_dask(lambda x: x, lambda x: x, lagged_pairs(np.arange(9.0)), part_size=3)
    >>> moments.M_f, moments.n_blocks
    (array([[17.5]]), 8)
    """
    for name, value in (("n_blocks", n_blocks), ("part_size", part_size)):
        check_positive(name, value)
    if len(pairs) == 0:
        raise ValueError("pairs are empty; give at least one pair (x, x_next).")
    delayed = _dask_delayed()
    block = block_numbers(pairs, n_blocks)
    common = common_of(f, g, pairs, block, names, observables)
    how = delayed((f, g, observables, names, common), pure=False)  # once for all tasks
    order = np.argsort(block, kind="stable")
    parts: list[Any] = []
    for start in range(0, len(order), part_size):
        rows = order[start : start + part_size]
        parts.append(delayed(_moments_of_part, pure=False)(how, _Whole(pairs.select(rows)), block[rows]))
    while len(parts) > 1:  # in one order whatever comes first, so that the last bit does not depend on the cluster
        parts = [delayed(sum_of_parts, pure=False)(parts[i : i + _AT_ONCE]) for i in range(0, len(parts), _AT_ONCE)]
    return counting(parts[0].compute().moments)


def _dask_delayed() -> Any:
    try:
        from dask import delayed
    except ImportError as error:
        raise ImportError('moments on Dask need it: pip install "koopman-lora[scale]".') from error
    return delayed


class _Whole:
    """Pairs that Dask takes as they are: it would look for its arrays inside, and have them computed beforehand."""

    def __init__(self, pairs: LaggedPairs) -> None:
        self.pairs = pairs


@torch.no_grad()
def _moments_of_part(
    how: tuple[FeatureMap, FeatureMap, FeatureMap | None, Sequence[str] | None, Common],
    part: _Whole,
    block: np.ndarray,
) -> PartOfMoments:
    import dask

    f, g, observables, names, common = how
    with dask.config.set(scheduler="synchronous"):  # arrays of Dask are read here: a worker must not wait for others
        moments = moments_by_block(f, g, part.pairs, block, names, observables, common)
    return PartOfMoments(np.unique(block), moments)
