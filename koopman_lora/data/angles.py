"""Coordinates that are angles: which ones a user means, and which ones look like it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from koopman_lora.data.angle_periods import RADIANS as RADIANS
from koopman_lora.data.angle_periods import angle_period, angle_text
from koopman_lora.data.inputs import position_of
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.kinds import is_real, shown

# Numbers in the states that are looked at.
_LOOKED_AT = 2**22


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
    return tuple(sorted({position_of("periodic", entry, n, pairs.coordinate_names) for entry in chosen}))


def angle_hint(pairs: LaggedPairs, periodic: Sequence[int] = ()) -> str | None:
    """What to do about coordinates that look like raw angles and are not said to be periodic; None if there are none.

    Examples
    --------
    >>> angle_hint(lagged_pairs(np.arange(0.0, 2000.0, 7.0) % 360))
    'coordinate 0 looks like an angle that jumps at its seam; say periodic=[0], period=360, or give sine and cosine.'
    """
    if len(pairs.state_shape) != 1:
        return None
    x, x_next = _neighbours(pairs.spread(_LOOKED_AT // pairs.n_entries))
    if len(x) == 0:
        return None
    smallest, largest = np.minimum(x.min(0), x_next.min(0)), np.maximum(x.max(0), x_next.max(0))
    found = {}
    for i in range(x.shape[1]):
        period = angle_period(smallest[i], largest[i], np.abs(x_next[:, i] - x[:, i]))
        if i not in periodic and period is not None:
            found[(pairs.coordinate_names or range(x.shape[1]))[i]] = period
    return angle_text(found) if found else None


def _neighbours(pairs: LaggedPairs) -> tuple[np.ndarray, np.ndarray]:
    """States one frame apart, (n, d) each; x and x' where their lag is one frame, or unknown."""
    if pairs.clock.lag in (None, 1):
        x, x_next = pairs.read(slice(None))
        return x.numpy(), x_next.numpy()
    follows = (np.diff(pairs.trajectory) == 0) & (np.diff(pairs.frame) == 1)
    states = pairs.x.numpy()
    return states[:-1][follows], states[1:][follows]
