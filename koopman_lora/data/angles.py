"""Coordinates that are angles: which ones a user means, and which ones look like it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from koopman_lora.arguments import whole
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.kinds import is_real, shown

RADIANS = 2 * math.pi
# Ranges of angles in radians and degrees: (smallest, largest, period, what to say)
_RANGES = (
    (-math.pi, math.pi, RADIANS, "2 * np.pi"),
    (0.0, RADIANS, RADIANS, "2 * np.pi"),
    (-180.0, 180.0, 360.0, "360"),
    (0.0, 360.0, 360.0, "360"),
)
# Steps, in periods, that are a jump across the seam; and those that an angle which moves on smoothly does not make.
_JUMP, _BETWEEN = 0.9, 0.4


def chosen_angles(
    pairs: LaggedPairs,
    periodic: bool | int | str | Sequence[int | str] | None,
    period: float | Sequence[float] = RADIANS,
) -> tuple[int, ...]:
    """`periodic_coordinates`, with a warning of others that look like angles.

    Raises
    ------
    ValueError
        For what `periodic_coordinates` refuses, and for a period of nothing.

    Examples
    --------
    >>> chosen_angles(lagged_pairs(np.arange(0.0, 2000.0, 7.0) % 360), periodic=True, period=360)
    (0,)
    """
    chosen = periodic_coordinates(pairs, periodic)
    if not chosen and not (is_real(period) and period == RADIANS):
        raise ValueError(f"period={shown(period)} needs periodic: the coordinates whose period it is.")
    if (hint := angle_hint(pairs, chosen)) is not None:
        warnings.warn(hint, stacklevel=4)  # where `fit` was called
    return chosen


def periodic_coordinates(
    pairs: LaggedPairs, periodic: bool | int | str | Sequence[int | str] | None
) -> tuple[int, ...]:
    """Positions of the periodic coordinates: True for all, or names and numbers.

    Raises
    ------
    ValueError
        For states that are no vectors, an unknown name, or a number that is no position.

    Examples
    --------
    >>> pairs = lagged_pairs(np.random.default_rng(0).normal(size=(9, 3)))
    >>> periodic_coordinates(pairs, True), periodic_coordinates(pairs, [0, 2]), periodic_coordinates(pairs, False)
    ((0, 1, 2), (0, 2), ())
    """
    if periodic is None or periodic is False:
        return ()
    if len(pairs.state_shape) != 1:
        raise ValueError(f"periodic needs states that are vectors; got states of shape {pairs.state_shape}.")
    n = pairs.state_shape[0]
    if periodic is True:
        return tuple(range(n))
    chosen = [periodic] if isinstance(periodic, str) or not np.iterable(periodic) else list(periodic)
    return tuple(sorted({_position(entry, n, pairs.coordinate_names) for entry in chosen}))


def _position(entry: Any, n: int, names: Sequence[str] | None) -> int:
    if isinstance(entry, str):
        if names is None or entry not in names:
            known = "the data have no names; give positions" if names is None else f"names are {', '.join(names)}"
            raise ValueError(f"periodic names no coordinate: {entry!r}; {known}.")
        return list(names).index(entry)
    position = whole("periodic", entry)
    if not 0 <= position < n:
        raise ValueError(f"periodic must be names or positions from 0 to {n - 1}; got {position}.")
    return position


def angle_hint(pairs: LaggedPairs, periodic: Sequence[int] = ()) -> str | None:
    """What to do about coordinates that look like raw angles and are not said to be periodic; None if there are none.

    Examples
    --------
    >>> angle_hint(lagged_pairs(np.arange(0.0, 2000.0, 7.0) % 360))
    'coordinate 0 looks like an angle that jumps at its seam; say periodic=[0], period=360, or give sine and cosine.'
    """
    if len(pairs.state_shape) != 1:
        return None
    x, x_next = _neighbours(pairs)
    if len(x) == 0:
        return None
    smallest, largest = np.minimum(x.min(0), x_next.min(0)), np.maximum(x.max(0), x_next.max(0))
    found = {}
    for i in range(x.shape[1]):
        filled = _filled_range(smallest[i], largest[i])
        if i not in periodic and filled is not None and _jumps(np.abs(x_next[:, i] - x[:, i]), filled[0]):
            found[i] = filled[1]
    if not found:
        return None
    names: Sequence[Any] = pairs.coordinate_names or range(x.shape[1])
    period = next(iter(found.values()))
    entries = [names[i] for i, its in found.items() if its == period]
    verb = "coordinate {} looks like an angle that jumps at its seam"
    if len(entries) > 1:
        verb = "coordinates {} look like angles that jump at their seam"
    listed = ", ".join(map(str, entries))
    return f"{verb.format(listed)}; say periodic={entries}, period={period}, or give sine and cosine."


def _neighbours(pairs: LaggedPairs) -> tuple[np.ndarray, np.ndarray]:
    """States one frame apart, (n, d) each; x and x' where their lag is one frame, or unknown."""
    if pairs.clock.lag in (None, 1):
        return pairs.x.numpy(), pairs.x_next.numpy()
    follows = (np.diff(pairs.trajectory) == 0) & (np.diff(pairs.frame) == 1)
    x = pairs.x.numpy()
    return x[:-1][follows], x[1:][follows]


def _filled_range(smallest: float, largest: float) -> tuple[float, str] | None:
    """Period of the range of angles that values fill, as a number and as text."""
    for low, high, period, text in _RANGES:
        if low - 1e-6 <= smallest and largest <= high + 1e-6 and largest - smallest > _JUMP * period:
            return period, text
    return None


def _jumps(steps: np.ndarray, period: float) -> bool:
    """Whether steps (n,) jump across a seam, and are short otherwise: what jumps about at random is no angle."""
    jumps = np.count_nonzero(steps > _JUMP * period)
    between = np.count_nonzero((steps > _BETWEEN * period) & (steps < (1 - _BETWEEN) * period))
    return bool(jumps > between)
