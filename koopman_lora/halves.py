"""The same fit to halves of the data, in processes.

A half is half of the blocks of the data, drawn without replacement, each pair counted twice: as many pairs, steps and
thresholds as in the fit. The spread of an estimate over halves is that of the estimate itself, and what was learned in
one half can be asked in the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone

from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.data.pairs import LaggedPairs


def draw_halves(n_blocks: int, n_halves: int, seed: int = 0) -> np.ndarray:
    """Random halves of the blocks, mask (n_halves, n_blocks): every second one is what its predecessor left out.

    Raises
    ------
    ValueError
        For fewer than 2 blocks.

    Examples
    --------
    >>> halves = draw_halves(6, 4)
    >>> halves.sum(axis=1), bool((halves[0] ^ halves[1]).all())
    (array([3, 3, 3, 3]), True)
    """
    if n_blocks < 2:
        raise ValueError("pairs are too few to fit halves of them; give at least 20.")
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(n_blocks) < n_blocks // 2 for _ in range(-(-n_halves // 2))]
    return np.stack([half for draw in draws for half in (draw, ~draw)])[:n_halves]


def twice(pairs: LaggedPairs, mask: np.ndarray) -> LaggedPairs:
    """The pairs of a mask (n_pairs,), each followed by itself; a split leaves none on both sides.

    Examples
    --------
    >>> from koopman_lora.data.pairs import lagged_pairs
    >>> twice(lagged_pairs(np.arange(4.0)), np.array([True, False, True])).frame
    array([0, 0, 2, 2])
    """
    return pairs.select(np.repeat(np.flatnonzero(mask), 2))


def fit_halves(
    estimator: BaseEstimator, pairs: LaggedPairs, halves: np.ndarray, n_jobs: int = 1
) -> list[KoopmanAnalysis]:
    """A fit to every half, without its data, which need not travel.

    Parameters
    ----------
    estimator : KoopmanLoRA, whose settings are taken; the seeds are those that follow its own
    halves : mask (n_halves, n_pairs)
    n_jobs : processes, each with one thread, at most one per core; -1 for as many
    """
    from sklearn.utils.parallel import Parallel, delayed

    n_cores = os.cpu_count() or 1
    tasks = (
        # each by itself, also where the fit was one of several processes
        delayed(_fit_quietly)(
            clone(estimator).set_params(seed=estimator.seed + 1 + i, devices=1, num_nodes=1), twice(pairs, half)
        )
        for i, half in enumerate(halves)
    )
    return Parallel(n_jobs=n_cores if n_jobs == -1 else min(n_jobs, n_cores))(tasks)


def _fit_quietly(estimator: BaseEstimator, pairs: LaggedPairs) -> KoopmanAnalysis:
    """The analysis; what a fit to half of the data warns of was said of the fit to all of it."""
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = estimator.set_params(progress=False).fit(pairs).fitted().fitted
    return KoopmanAnalysis(dataclasses.replace(fitted, split=None))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one thread have one order, in whatever process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
