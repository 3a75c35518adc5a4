"""The scale of states: mean and deviation to standardise by, and what float32 could not tell apart afterwards."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from koopman_lora.data.pairs import BATCH, LaggedPairs
from koopman_lora.processes import made_by_all, part_of

# Deviations from the mean, in scales, beyond which a value may be an outlier; so many entries of x and x', if they are
# no more: what comes more often, as rare bursts do, is the dynamics.
_FAR, _FEW = 4.0, 8
# Share of the variance that outliers make up before they can leave little to the others.
_MOST = 0.9
# Spread of all but the outliers, in scales: below the first networks hardly see it, below the second float32 rounds it.
_SMALL, _LOST = 1e-3, 1e-6
# Scales in single precision below which states are rounded to nothing.
_SMALLEST = 1e-37


def standardization(pairs: LaggedPairs, periodic: Collection[int] = ()) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the states in float64: per coordinate, per channel (C, H, W), or of a whole image.

    Parameters
    ----------
    periodic : positions of angles, which are not standardised, so that nothing is asked of their scale

    Raises
    ------
    ValueError
        If one outlier is so large that all other states become one number in float32, or if states in float32 are
        too large or too small to be told apart.

    Warns
    -----
    UserWarning
        If an outlier leaves little of the motion of all other states.

    Examples
    --------
    >>> mean, scale = standardization(lagged_pairs(np.array([1.0, 3.0, 1.0, 3.0])))
    >>> mean.numpy().round(12).tolist(), scale.numpy().round(12).tolist()
    ([2.0], [1.0])
    """
    n_axes = len(pairs.state_shape)
    axes = {1: (0,), 3: (0, 2, 3)}.get(n_axes, tuple(range(n_axes + 1)))
    # x and x' differ by a lag at the ends only: for stationary data one set of statistics serves both
    weights = None if pairs.weights is None else torch.from_numpy(pairs.weights / pairs.weights.mean())
    found = functools.reduce(_Statistics.joined, made_by_all(lambda: _own_statistics(pairs, axes, weights)))
    _check_range(pairs, float(found.largest.max()))
    mean, scale = found.mean * found.unit, found.deviation * found.unit
    # what round-off of the mean leaves of a constant is no scale
    moving = found.deviation > 1e-14 * found.mean.abs()
    outliers = _outliers(pairs, found, weights)
    _tell_of_outliers(pairs, [outlier for outlier in outliers if outlier.column not in periodic])
    mean, scale = mean[0], torch.where(moving, scale, torch.ones_like(scale))[0]
    _check_smallest(pairs, float(scale.min()))
    return mean, scale


class _Statistics:
    """Mean and deviation over some axes, of states that come in batches; squares neither overflow nor vanish.

    Attributes
    ----------
    low, high : smallest and largest entries
    unit : powers of two of the size of the largest entries so far, in which the mean and the sum of squares are kept
    mean, power : of the entries, and of their squared deviations the sum
    """

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes, self.count = axes, 0.0
        self.low, self.high, self.unit = torch.tensor(math.inf), torch.tensor(-math.inf), torch.tensor(1.0)
        self.mean = self.power = torch.zeros(())

    def add(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Count a batch as well: sums of squares about two means add up as in Chan, Golub and LeVeque (1983).

        Weights (n,) say how much each of the first axis counts.
        """
        values = values.double()
        self.low = torch.minimum(self.low, values.amin(self.axes, keepdim=True))
        self.high = torch.maximum(self.high, values.amax(self.axes, keepdim=True))
        unit = _binary_unit(self.largest)
        ratio = self.unit / unit if self.count else torch.ones_like(unit)
        values = values / unit
        if weights is None:
            mean = values.mean(self.axes, keepdim=True)
            power, added = (values - mean).square_().sum(self.axes, keepdim=True), values.numel() / mean.numel()
        else:
            weights = weights.reshape(-1, *[1] * (values.ndim - 1))
            added = float(weights.sum()) * values.numel() / unit.numel() / len(values)
            mean = (weights * values).sum(self.axes, keepdim=True) / (added or 1.0)
            power = (weights * (values - mean).square_()).sum(self.axes, keepdim=True)
        before = self.count
        step, share = mean - self.mean * ratio, added / ((before + added) or 1.0)
        self.mean = self.mean * ratio + step * share
        self.power = self.power * ratio.square() + power + step.square() * (before * share)
        self.unit, self.count = unit, before + added

    def joined(self, other: _Statistics) -> _Statistics:
        """Of the entries of both."""
        total = _Statistics(self.axes)
        total.low, total.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        total.unit, total.count = _binary_unit(total.largest), self.count + other.count
        mine, theirs = self.unit / total.unit, other.unit / total.unit
        step, share = other.mean * theirs - self.mean * mine, other.count / (total.count or 1.0)
        total.mean = self.mean * mine + step * share
        total.power = self.power * mine.square() + other.power * theirs.square() + step.square() * (self.count * share)
        return total

    @property
    def largest(self) -> Tensor:
        """The largest absolute entries."""
        return torch.maximum(-self.low, self.high)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation in `unit`."""
        return (self.power / self.count).sqrt()

    def farthest(self) -> Tensor:
        """The largest distance from the mean, in `unit`."""
        return torch.maximum(self.high / self.unit - self.mean, self.mean - self.low / self.unit)


def _binary_unit(largest: Tensor) -> Tensor:
    """Powers of two of the size of the largest entries: squares in them neither overflow nor vanish."""
    exponent = torch.frexp(largest).exponent - 1
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent), torch.ones_like(largest))


class _Outlier(NamedTuple):
    """An entry of the states, as x above x': its row, its column in the statistics, and the spread that it leaves."""

    row: int
    column: int
    spread: float


def _own_statistics(pairs: LaggedPairs, axes: tuple[int, ...], weights: Tensor | None) -> _Statistics:
    """Of the states that this process reads."""
    found = _Statistics(axes)
    for start, states, _ in _sides(pairs, part_of(-(-len(pairs) // BATCH))):
        found.add(states, None if weights is None else weights[start : start + len(states)])
    return found


def _sides(pairs: LaggedPairs, batches: slice = slice(None)) -> Iterator[tuple[int, Tensor, int]]:
    """States of x and x' in batches: number of the first pair, states, and side."""
    for start in range(0, len(pairs), BATCH)[batches]:
        for side, states in enumerate(pairs.read(slice(start, start + BATCH))):
            yield start, states, side


def _outliers(pairs: LaggedPairs, found: _Statistics, weights: Tensor | None) -> list[_Outlier]:
    """Outliers that leave the others a spread below `_SMALL`; data are read again only where there may be one."""
    heaviest = 1.0 if weights is None else float(weights.max())
    is_suspect = _FEW * heaviest * found.farthest().square() > _MOST * found.power
    suspects = is_suspect.flatten().nonzero().flatten().tolist()
    columns = [_Column(column, found) for column in suspects]
    for start, states, side in _sides(pairs) if columns else ():
        own = None if weights is None else weights[start : start + len(states)]
        for column in columns:
            column.add(_entries(states, column.number, is_suspect.numel()).double(), start, side, own)
    return [outlier for column in columns if (outlier := column.outlier(len(pairs))) is not None]


class _Column:
    """Entries that are far from the mean of one column of the statistics, and all others."""

    def __init__(self, number: int, found: _Statistics) -> None:
        self.number = number
        self.unit, self.mean, self.scale, self.power = (
            float(values.flatten()[number]) for values in (found.unit, found.mean, found.deviation, found.power)
        )
        self.n_far, self.far_power, self.others = 0, 0.0, _Statistics((0,))
        self.farthest: list[tuple[float, int]] = [(-1.0, 0), (-1.0, 0)]  # of either side, and where it is

    def add(self, entries: Tensor, start: int, side: int, weights: Tensor | None) -> None:
        """Count entries (n, m) of states on one side of the pairs from `start` on."""
        power = (entries / self.unit - self.mean).square_()
        is_far = power > (_FAR * self.scale) ** 2
        self.n_far += int(is_far.sum())
        counted = power if weights is None else power * weights[:, None]
        self.far_power += float(counted[is_far].sum())
        # from the states themselves: beside an outlier of 1e30 their deviations are all the same
        if len(others := entries[~is_far]):
            self.others.add(others)
        largest, row = power.amax(1).max(0)
        if float(largest) > self.farthest[side][0]:
            self.farthest[side] = float(largest), start + int(row)

    def outlier(self, n_pairs: int) -> _Outlier | None:
        """The farthest entry where it, with a few others, makes up nearly all of the variance."""
        if self.n_far > _FEW or self.far_power <= _MOST * self.power or not self.others.count:
            return None
        spread = float(self.others.deviation * (self.others.unit / self.unit) / self.scale)
        # others that do not move at all have nothing to lose: an indicator of rare events
        if spread >= _SMALL or not bool(self.others.low < self.others.high):
            return None
        (here, row), (there, row_next) = self.farthest
        return _Outlier(row if here >= there else n_pairs + row_next, self.number, spread)


def _entries(states: Tensor, column: int, n_columns: int) -> Tensor:
    """Entries (n, m) of states (n, *state) that share one mean and scale."""
    return states.flatten(1) if n_columns == 1 else states[:, column].reshape(len(states), -1)


def _tell_of_outliers(pairs: LaggedPairs, outliers: list[_Outlier]) -> None:
    for outlier in outliers:
        text = (
            f"data holds an outlier at {_place(pairs, outlier)}: beside it all other states spread over "
            f"{outlier.spread:.1g} of a standard deviation"
        )
        remedy = "Remove that frame, or transform the coordinate (a logarithm, ranks)."
        if outlier.spread < _LOST:
            raise ValueError(f"{text}, which networks in float32 cannot see. {remedy}")
        warnings.warn(f"{text}, of which networks see little. {remedy}", stacklevel=3)


def _place(pairs: LaggedPairs, outlier: _Outlier) -> str:
    row, side = outlier.row % len(pairs), outlier.row // len(pairs)
    trajectory, frame = pairs.places.at(row)
    text = f"frame {frame + side * (pairs.clock.lag or 0)} of trajectory {trajectory}"
    if len(pairs.state_shape) != 1:
        return text
    values = pairs[row][side]
    name = f" ({pairs.coordinate_names[outlier.column]})" if pairs.coordinate_names else ""
    return f"{text}, coordinate {outlier.column}{name}, value {float(values[outlier.column]):.3g}"


def _check_range(pairs: LaggedPairs, largest: float) -> None:
    """Raise a ValueError where differences of states, or sums of their products with features, would overflow."""
    dtype = pairs.states.dtype
    if dtype == torch.float64:
        limit, remedy = torch.finfo(torch.float64).max / (1e3 * len(pairs)), "choose a larger unit"
    else:
        limit, remedy = torch.finfo(dtype).max / 4, "give float64, or choose a larger unit"
    if largest > limit:
        raise ValueError(f"data reaches {largest:.2g}, too large for sums in {dtype}; {remedy}.")


def _check_smallest(pairs: LaggedPairs, scale: float) -> None:
    dtype = pairs.states.dtype
    if dtype != torch.float64 and scale < _SMALLEST:
        raise ValueError(
            f"data deviates by no more than {scale:.2g}, which {dtype} rounds; give float64, or choose a smaller unit."
        )
