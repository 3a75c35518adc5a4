"""Moments of feature maps over pairs of data: float64 sums per block, one batch of features in memory at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from koopman_lora._linalg import conjugate_transpose
from koopman_lora.arguments import check_positive, whole
from koopman_lora.checks import checked
from koopman_lora.clock import Clock
from koopman_lora.data.batches import (
    PairBatch,
    as_batch,
    batches_of,
    check_equal_length,
    has_states,
    is_tuple_of_tensors,
)
from koopman_lora.data.groups import block_numbers, neighbouring_blocks
from koopman_lora.data.pairs import BATCH, LaggedPairs
from koopman_lora.data.rows import Rows
from koopman_lora.data.weights import checked_weights
from koopman_lora.far_out import LOOKED_AT, FarOut
from koopman_lora.feature_products import Part, Stack, as_features, check_finite, double, feature_products
from koopman_lora.kinds import shown
from koopman_lora.moment_names import checked_observable_names
from koopman_lora.moment_parts import Common, PartOfMoments, counting, sum_of_parts
from koopman_lora.moments import CROSS, DEFINITIONS, OBSERVABLES, SAME_MAP, FeatureMap, Moments
from koopman_lora.processes import made_by_all, made_by_first, part_of, processes


def flat_state(x: Tensor) -> Tensor:
    """The state itself as observables: (batch, *state) -> (batch, n_entries).

    Parameters
    ----------
    x : Tensor (batch, *state)

    Examples
    --------
    >>> flat_state(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 6])
    """
    if not hasattr(x, "flatten") or x.ndim < 2 or getattr(x, "is_sparse", False):
        raise TypeError(f"x must be states (batch, *state); got {shown(x)}.")
    return x.reshape(len(x), math.prod(x.shape[1:]))


@checked
def estimate_moments(
    f: FeatureMap,
    g: FeatureMap,
    pairs: LaggedPairs | tuple[Tensor, ...] | Iterable[tuple[Tensor, ...]],
    *,
    observables: FeatureMap | None = None,
    observable_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    n_blocks: int = 64,
    batch_size: int = BATCH,
) -> Moments:
    """Accumulate the moments of two feature maps over lagged pairs in float64.

    Parameters
    ----------
    f, g : callables (batch, *state) -> (batch, n_features)
        Any feature maps: a model's `f` and `g`, a fixed dictionary (classical EDMD), a one-hot map (Markov model). They
        receive torch tensors and may return tensors or arrays, real or complex.
    pairs : LaggedPairs, tuple (x, x_next), or an iterable of batches (x, x_next) such as a DataLoader
        LaggedPairs, and a DataLoader of them, give the moments their clock, and may count `both_ways`; other pairs
        count in lags. Weights travel with LaggedPairs; tuples and batches may be (x, x_next, weights).
    observables : callable, optional
        h, (batch, *state) -> (batch, n_observables): adds H_f = E[f(x)^H h(x)] and H_g = E[g(x')^H h(x')].
    observable_names : sequence of str, optional
        For `flat_state` those of the coordinates, where the pairs have names.
    names : sequence of str, optional
        Moments to estimate, see `moments.DEFINITIONS`; all by default. For singular values `moments.CROSS` are enough.
    n_blocks : int
        Contiguous blocks to keep apart, see `block_numbers`; of an iterable, its batches.
    batch_size : int
        Pairs per forward pass for data in memory.

    Raises
    ------
    ValueError
        For empty data, features that are not (batch, n_features) or not finite, an unknown moment, `n_blocks` or
        `batch_size` below 1, or weights that are negative or all 0.

    References
    ----------
    docs/mathematics.md, section 2.

    Examples
    --------
    >>> pairs = (torch.zeros(4, 1), torch.ones(4, 1))
    >>> estimate_moments(lambda x: x + 1, lambda x: x, pairs, names=CROSS)
    Moments(M_f 1x1, M_g 1x1, T_fg 1x1; 4 pairs in 4 blocks; Clock(lag=None, dt=1.0, time_unit='lag'))
    """
    for name, value in (("n_blocks", n_blocks), ("batch_size", batch_size)):
        check_positive(name, whole(name, value))
    if isinstance(pairs, LaggedPairs):
        if observables is flat_state and observable_names is None:
            observable_names = pairs.coordinate_names
        total = _Accumulator(f, g, observables, names, n_blocks, pairs.is_reversible)
        return counting(total.over_blocks(pairs, block_numbers(pairs, n_blocks), batch_size, observable_names))
    dataset = getattr(pairs, "dataset", None)
    total = _Accumulator(f, g, observables, names, n_blocks, getattr(dataset, "is_reversible", False) is True)
    if is_tuple_of_tensors(pairs):
        x, x_next = (torch.as_tensor(side) for side in pairs[:2])
        check_equal_length(x, x_next)
        weights = checked_weights(pairs[2], len(x)) if len(pairs) == 3 else None
        total.fix_direction(x, weights)
        bounds = np.linspace(0, len(x), min(n_blocks, max(len(x), 1)) + 1).astype(int)
        for start, stop in itertools.pairwise(bounds):
            total.add_block(batches_of(x, x_next, weights, slice(start, stop), batch_size))
        return counting(total.result(Clock(), observable_names))
    for batch in pairs:
        total.add_block([as_batch("pairs", batch)])
        total.limit_blocks(n_blocks)
    return counting(total.result(getattr(dataset, "clock", Clock()), observable_names))


def moments_by_block(
    f: FeatureMap,
    g: FeatureMap,
    pairs: LaggedPairs,
    block: np.ndarray,
    names: Sequence[str] | None = None,
    observables: FeatureMap | None = None,
    common: Common | None = None,
) -> Moments:
    """Moments with one block for every number that occurs in `block` (n_pairs,), in increasing order.

    Parameters
    ----------
    f, g, observables, names : see `estimate_moments`
    common : of all pairs, see `common_of`, where these are part of them

    Examples
    --------
    >>> pairs = lagged_pairs(np.arange(5.0))
    >>> moments_by_block(lambda x: x, lambda x: x, pairs, np.array([0, 7, 0, 0])).block_counts
    array([3., 1.])
    """
    labels = pairs.coordinate_names if observables is flat_state else None
    total = _Accumulator(f, g, observables, names, len(np.unique(block)), pairs.is_reversible)
    if common is None:
        return counting(total.over_blocks(pairs, block, BATCH, labels))
    total.far_out, total.shifts = common
    return total.over_blocks(pairs, block, BATCH, labels)


def common_of(
    f: FeatureMap,
    g: FeatureMap,
    pairs: LaggedPairs,
    block: np.ndarray,
    names: Sequence[str] | None = None,
    observables: FeatureMap | None = None,
) -> Common:
    """What moments by block of parts of the pairs must have in common, see `moments_by_block`."""
    return _Accumulator(f, g, observables, names, 1, pairs.is_reversible).common(pairs, block, BATCH)


class _Accumulator:
    """Collects block sums, of pairs counted in both directions where `both_ways`; holds features of one batch."""

    def __init__(
        self,
        f: FeatureMap,
        g: FeatureMap,
        h: FeatureMap | None,
        names: Sequence[str] | None,
        n_blocks: int,
        both_ways: bool = False,
    ) -> None:
        self.maps, self.both_ways = {"f": f, "g": g} | ({"h": h} if h is not None else {}), both_ways
        wanted = CROSS + SAME_MAP + (("A_ff",) if both_ways else ()) if names is None else tuple(names)
        self.names = wanted + (OBSERVABLES if h is not None else ())
        unknown = [name for name in self.names if name not in DEFINITIONS]
        if unknown or not wanted:
            raise ValueError(f"names must be among {', '.join(DEFINITIONS)}; got {list(wanted)}.")
        self.needed = sorted({part for name in self.names for part in DEFINITIONS[name]})
        if both_ways:
            self.needed = sorted({(name, time) for name, _ in self.needed for time in (0, 1)})
        self.sums = {name: Stack(min(n_blocks, 64)) for name in self.names}
        self.shifts: dict[str, np.ndarray] = {}
        self.orientation: list[np.ndarray] = []
        self.counts: list[float] = []
        self.of_pairs: list[np.ndarray] = []  # numbers of pairs, and sums of squared weights
        self.is_weighted = False
        self.far_out: FarOut | None = None

    def over_blocks(
        self, pairs: LaggedPairs, block: np.ndarray, batch_size: int, observable_names: Sequence[str] | None
    ) -> Moments:
        """Moments over all pairs; of several processes each reads its part of them."""
        if len(pairs) == 0:
            raise ValueError("pairs are empty; give at least one pair (x, x_next).")
        if processes().size > 1:
            self.far_out, self.shifts = made_by_first(lambda: self.common(pairs, block, batch_size))
            mine = np.argsort(block, kind="stable")[part_of(len(pairs))]
            pairs, block = pairs.select(mine), block[mine]
        elif self.far_out is None:
            self.far_out = _far_out_of(pairs)
        parts = made_by_all(lambda: self._of_part(pairs, block, batch_size, observable_names))
        return sum_of_parts([part for part in parts if part is not None]).moments

    @torch.no_grad()
    def common(self, pairs: LaggedPairs, block: np.ndarray, batch_size: int) -> Common:
        """What parts must agree on, as if there were none: shifts are those of the first batch of the first block."""
        first = pairs.select(np.flatnonzero(block == block.min())[:batch_size])
        self._fix_shifts(self._features(first.x, first.x_next))
        return Common(_far_out_of(pairs), self.shifts)

    def _of_part(
        self, pairs: LaggedPairs, block: np.ndarray, batch_size: int, observable_names: Sequence[str] | None
    ) -> PartOfMoments | None:
        """None of no pairs, where there are fewer than processes."""
        if len(pairs) == 0:
            return None
        for blocks in neighbouring_blocks(block, batch_size):
            if len(blocks) == 1:
                self.add_block(pairs.weighted_batch(positions) for positions in blocks[0].batches(batch_size))
            else:
                self._add_blocks(pairs, blocks)
        return PartOfMoments(np.unique(block), self.result(pairs.clock, observable_names))

    @torch.no_grad()
    def _add_blocks(self, pairs: LaggedPairs, blocks: list[Rows]) -> None:
        """Several small blocks, whose features are evaluated in one go."""
        stops = np.cumsum([len(block) for block in blocks])
        together = Rows(*(np.concatenate([getattr(block, name) for block in blocks]) for name in ("first", "lengths")))
        x, x_next, weights = pairs.weighted_batch(together.at(slice(None)))
        features = self._features(x, x_next)
        for start, stop in itertools.pairwise([0, *stops]):
            part = slice(start, stop)
            of_part = {name: values[part] for name, values in features.items()}
            self._add_features([(x[part], of_part, None if weights is None else weights[part])])

    @torch.no_grad()
    def add_block(self, batches: Iterable[PairBatch]) -> None:
        self._add_features((x, self._features(x, y), weights) for x, y, weights in batches if has_states(x, y))

    def _features(self, x: Tensor, x_next: Tensor) -> dict[Part, np.ndarray]:
        return {part: as_features(self.maps[part[0]], (x, x_next)[part[1]], part[0]) for part in self.needed}

    def _add_features(self, batches: Iterable[tuple[Tensor, dict[Part, np.ndarray], np.ndarray | None]]) -> None:
        """One block of states x, in batches, each with its features and weights."""
        sums: dict[str, np.ndarray] = {}
        orientation: Any = 0.0
        count, of_pairs = 0.0, np.zeros(2)
        for x, features, weights in batches:
            self._fix_shifts(features)
            if ("f", 0) in features:
                orientation = orientation + self._orientation(x, weights) @ features["f", 0]
            with np.errstate(over="ignore", invalid="ignore"):  # told in words, by `check_finite` and `result`
                added = self._products(features, weights)
                is_finite = np.isfinite(sum(value.sum() for value in added.values()))
            if not is_finite:
                check_finite(features)
            sums = {name: sums[name] + value for name, value in added.items()} if sums else added
            self.is_weighted |= weights is not None
            count += len(x) if weights is None else weights.sum()
            of_pairs += len(x), len(x) if weights is None else np.square(weights).sum()
        if sums:
            for name, value in sums.items():
                self.sums[name].append(value)
            self.orientation.append(orientation)
            self.counts.append(count)
            self.of_pairs.append(of_pairs)

    def _products(self, features: dict[Part, np.ndarray], weights: np.ndarray | None) -> dict[str, np.ndarray]:
        """Sums over the pairs of a batch; pairs counted both ways count half each time."""
        forward = feature_products(features, self.shifts, self.names, weights)
        if not self.both_ways:
            if "A_ff" in forward:
                forward["A_ff"] = (forward["A_ff"] - conjugate_transpose(forward["A_ff"])) / 2
            return forward
        reversed_features = {(name, 1 - time): values for (name, time), values in features.items()}
        backward = feature_products(reversed_features, self.shifts, self.names, weights)
        signs = {name: -1.0 if name == "A_ff" else 1.0 for name in self.names}
        return {name: (value + signs[name] * backward[name]) / 2 for name, value in forward.items()}

    def _fix_shifts(self, features: dict[Part, np.ndarray]) -> None:
        """Shifts near the means, those of the first batch; of a constant its value, so that it becomes exactly 0."""
        for part, values in features.items():
            if part[0] not in self.shifts:
                check_finite({part: values})
                is_constant = (values == values[0]).all(axis=0)
                values = values.astype(double(values))
                self.shifts[part[0]] = np.where(is_constant, values[0], values.mean(axis=0))

    def fix_direction(self, x: Tensor, weights: np.ndarray | None) -> None:
        if len(x) > 0:
            self.far_out = FarOut.of_states(x, weights)

    def _orientation(self, x: Tensor, weights: np.ndarray | None) -> np.ndarray:
        """What each state counts in the sums that fix phases."""
        if self.far_out is None:  # a stream: its first batch decides
            self.fix_direction(x, weights)
        assert self.far_out is not None  # batches are never empty here
        is_far = self.far_out.indicator(x)
        return is_far if weights is None else is_far * weights

    def limit_blocks(self, n_blocks: int) -> None:
        """Merge neighbouring blocks once there are twice as many as wanted, so that a long stream stays small."""
        if len(self.counts) < 2 * n_blocks:
            return
        for stack in self.sums.values():
            stack.merge_neighbours()
        self.orientation, self.counts = _pairwise_sums(self.orientation), _pairwise_sums(self.counts)
        self.of_pairs = _pairwise_sums(self.of_pairs)

    def result(self, clock: Clock, observable_names: Sequence[str] | None) -> Moments:
        if not self.counts:
            raise ValueError("pairs are empty; give at least one pair (x, x_next).")
        sums = {name: stack.arrays for name, stack in self.sums.items()}
        if not all(np.isfinite(block).all() for blocks in sums.values() for block in blocks):
            raise ValueError("f, g or observables give features whose products overflow; choose a unit of larger size.")
        labels = None
        if "H_f" in sums:
            labels = checked_observable_names(observable_names, sums["H_f"].shape[2] - 1)
        return Moments(
            sums,
            np.asarray(self.counts, dtype=float),
            clock,
            np.stack(self.orientation) if np.ndim(self.orientation[0]) else None,
            labels,
            self.shifts,
            self.both_ways,
            np.stack(self.of_pairs) if self.is_weighted else None,
        )


def _pairwise_sums(values: list[Any]) -> list[Any]:
    return [a + b for a, b in itertools.zip_longest(values[::2], values[1::2], fillvalue=0)]


def _far_out_of(pairs: LaggedPairs) -> FarOut:
    """From states that are spread evenly over the pairs."""
    some = pairs.spread(LOOKED_AT // max(1, pairs.n_entries))
    return FarOut.of_states(some.x, some.weights)
