"""What raw angles and positions in a periodic box look like, from their range and their steps; and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

RADIANS = 2 * math.pi
# Ranges of angles in radians and degrees: (smallest, largest, period)
_RANGES = (
    (-math.pi, math.pi, RADIANS),
    (0.0, RADIANS, RADIANS),
    (-180.0, 180.0, 360.0),
    (0.0, 360.0, 360.0),
)
# Steps, in periods, that are a jump across the seam; and those that an angle which moves on smoothly does not make.
_JUMP, _BETWEEN = 0.9, 0.4


def angle_period(smallest: float, largest: float, steps: np.ndarray) -> float | None:
    """Period of a coordinate that looks like a raw angle, from its range and its absolute steps (n,); None of others.

    Examples
    --------
    >>> angle_period(0.0, 359.0, np.array([7.0, 7.0, 353.0])), angle_period(0.0, 1.0, np.array([0.5]))
    (360.0, None)
    """
    for low, high, period in _RANGES:
        if low - 1e-6 <= smallest and largest <= high + 1e-6 and largest - smallest > _JUMP * period:
            return period if _jumps(steps, period) else None
    return None


def angle_text(found: Mapping[Any, float]) -> str:
    """What to do about raw angles: name or position -> period. Those of the first period are spoken of.

    Examples
    --------
    >>> angle_text({1: 360.0, 2: 360.0})
    'coordinates 1, 2 look like angles that jump at their seam; say periodic=[1, 2], period=360, or give sine and
    cosine.'
    """
    period = next(iter(found.values()))
    entries = [name for name, its in found.items() if its == period]
    verb = "coordinate {} looks like an angle that jumps at its seam"
    if len(entries) > 1:
        verb = "coordinates {} look like angles that jump at their seam"
    listed = ", ".join(map(str, entries))
    said = "2 * np.pi" if period == RADIANS else f"{period:g}"
    return f"{verb.format(listed)}; say periodic={entries}, period={said}, or give sine and cosine."


def _jumps(steps: np.ndarray, period: float) -> bool:
    """Whether steps (n,) jump across a seam, and are short otherwise: what jumps about at random is no angle."""
    jumps = np.count_nonzero(steps > _JUMP * period)
    between = np.count_nonzero((steps > _BETWEEN * period) & (steps < (1 - _BETWEEN) * period))
    return bool(jumps > between)


# Steps across the seam of a box, in lengths of it; the longest of the others; what at least lies in its middle half.
_ACROSS, _ALONG, _MIDDLE = 0.6, 0.25, 0.2
# So many crossings at least: fewer may be outliers.
_CROSSINGS = 3


def box_length(values: np.ndarray, steps: np.ndarray) -> float | None:
    """Length of a periodic box in which a coordinate seems to be wrapped, as far as it shows; None of others.

    Steps are either about as long as the whole range, or short; and the range is filled, unlike that of two states.

    Parameters
    ----------
    values, steps : sorted values (n,), and sorted absolute steps

    Examples
    --------
    >>> x = np.arange(0.0, 2000.0, 0.3) % 10
    >>> round(box_length(np.sort(x), np.sort(np.abs(np.diff(x)))), 1), box_length(np.arange(9.0), np.ones(8))
    (9.9, None)
    """
    length = values[-1] - values[0]
    n_short = int(np.searchsorted(steps, _ACROSS * length))
    if not _CROSSINGS <= len(steps) - n_short < len(steps) // 4 or steps[n_short - 1] > _ALONG * length:
        return None
    middle = np.diff(np.searchsorted(values, values[0] + np.array([0.25, 0.75]) * length))[0]
    return float(length) if middle > _MIDDLE * len(values) else None
