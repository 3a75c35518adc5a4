"""The scale of states: mean and deviation to standardise by, and what float32 could not tell apart afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from koopman_lora.data.pairs import LaggedPairs

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
    >>> mean.tolist(), scale.tolist()
    ([2.0], [1.0])
    """
    n_axes = len(pairs.state_shape)
    axes = {1: (0,), 3: (0, 2, 3)}.get(n_axes, tuple(range(n_axes + 1)))
    # x and x' differ by a lag at the ends only: for stationary data one set of statistics serves both
    both = torch.cat([pairs.x, pairs.x_next]).double()
    largest = both.abs().amax(axes, keepdim=True)
    _check_range(pairs, float(largest.max()))
    unit = _binary_unit(largest)
    both /= unit
    weights = None
    if pairs.weights is not None:  # of mean 1, beside x and x'
        weights = torch.from_numpy(np.tile(pairs.weights / pairs.weights.mean(), 2)).reshape(-1, *[1] * n_axes)
    mean = (both if weights is None else weights * both).mean(axes, keepdim=True)
    power = both.sub_(mean).square_()
    counted = power if weights is None else weights * power
    scale = counted.mean(axes, keepdim=True).sqrt()
    # what round-off of the mean leaves of a constant is no scale
    moving = scale > 1e-14 * mean.abs()
    _tell_of_outliers(pairs, [o for o in _outliers(pairs, power, counted, scale, unit) if o.column not in periodic])
    mean, scale = (mean * unit)[0], torch.where(moving, scale * unit, torch.ones_like(scale))[0]
    _check_smallest(pairs, float(scale.min()))
    return mean, scale


def _binary_unit(largest: Tensor) -> Tensor:
    """Powers of two of the size of the largest entries: squares in them neither overflow nor vanish."""
    exponent = torch.frexp(largest).exponent - 1
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent), torch.ones_like(largest))


class _Outlier(NamedTuple):
    """An entry of the states, as x above x': its row, its column in the statistics, and the spread that it leaves."""

    row: int
    column: int
    spread: float


def _outliers(pairs: LaggedPairs, power: Tensor, counted: Tensor, scale: Tensor, unit: Tensor) -> list[_Outlier]:
    """Outliers that leave the others a spread below `_SMALL`.

    From squared deviations (n, *state) in `unit`, and the same as they are counted in the scale, times weights.
    """
    far = power > (_FAR * scale).square()
    n_entries = power.numel() / scale.numel()
    share = (counted * far).sum_to_size(scale.shape) / n_entries / scale.square()
    found = []
    few = far.double().sum_to_size(scale.shape) <= _FEW
    for column in ((share > _MOST) & few).flatten().nonzero().flatten().tolist():
        states = torch.cat([_entries(side, column, share.numel()) for side in (pairs.x, pairs.x_next)]).double()
        # from the states themselves: beside an outlier of 1e30 their deviations are all the same
        others = states[~_entries(far, column, share.numel())] / unit.flatten()[column]
        largest = others.abs().max().clamp_min(torch.finfo(others.dtype).tiny)
        spread = float((others / largest).std(correction=0) * largest / scale.flatten()[column])
        # others that do not move at all have nothing to lose: an indicator of rare events
        if spread < _SMALL and others.min() < others.max():
            row = int(_entries(power, column, share.numel()).amax(1).argmax())
            found.append(_Outlier(row, column, spread))
    return found


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
    frame = int(pairs.frame[row]) + side * (pairs.clock.lag or 0)
    text = f"frame {frame} of trajectory {int(pairs.trajectory[row])}"
    if len(pairs.state_shape) != 1:
        return text
    values = (pairs.x, pairs.x_next)[side][row]
    name = f" ({pairs.coordinate_names[outlier.column]})" if pairs.coordinate_names else ""
    return f"{text}, coordinate {outlier.column}{name}, value {float(values[outlier.column]):.3g}"


def _check_range(pairs: LaggedPairs, largest: float) -> None:
    """Raise a ValueError where differences of states, or sums of their products with features, would overflow."""
    if pairs.x.dtype == torch.float64:
        limit, remedy = torch.finfo(torch.float64).max / (1e3 * len(pairs)), "choose a larger unit"
    else:
        limit, remedy = torch.finfo(pairs.x.dtype).max / 4, "give float64, or choose a larger unit"
    if largest > limit:
        raise ValueError(f"data reaches {largest:.2g}, too large for sums in {pairs.x.dtype}; {remedy}.")


def _check_smallest(pairs: LaggedPairs, scale: float) -> None:
    if pairs.x.dtype != torch.float64 and scale < _SMALLEST:
        raise ValueError(
            f"data deviates by no more than {scale:.2g}, which {pairs.x.dtype} rounds; give float64, or choose a "
            "smaller unit."
        )
