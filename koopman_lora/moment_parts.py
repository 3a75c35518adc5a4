"""Moments of parts of the pairs, made in different places, and their sum."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from koopman_lora.far_out import FarOut
from koopman_lora.moments import Moments


class Common(NamedTuple):
    """What sums over parts of the pairs must have in common to add.

    Attributes
    ----------
    far_out : which states fix the phases of functions
    shifts : of the features, see `Moments`
    """

    far_out: FarOut
    shifts: dict[str, np.ndarray]


class PartOfMoments(NamedTuple):
    """Moments of part of the pairs, and the numbers of its blocks, of which others may have more pairs."""

    numbers: np.ndarray
    moments: Moments


def sum_of_parts(parts: Sequence[PartOfMoments]) -> PartOfMoments:
    """Moments of all pairs from those of parts of them, in their order.

    Examples
    --------
    >>> first, last = (Moments({"M_f": np.full((1, 1, 1), value)}, np.array([1])) for value in (1.0, 2.0))
    >>> total = sum_of_parts([PartOfMoments(np.array([0]), first), PartOfMoments(np.array([0]), last)])
    >>> total.moments.M_f, total.moments.n_blocks
    (array([[1.5]]), 1)
    """
    if len(parts) == 1:
        return parts[0]
    numbers = np.concatenate([part.numbers for part in parts])
    everything = functools.reduce(operator.add, (part.moments for part in parts))
    return PartOfMoments(np.unique(numbers), everything.merged(numbers))


def counting(moments: Moments) -> Moments:
    """The moments, unless their pairs all have the weight 0, as only part of them may.

    Raises
    ------
    ValueError
        If they do.

    Examples
    --------
    >>> counting(Moments({"M_f": np.zeros((1, 1, 1))}, np.array([0.0])))
    Traceback (most recent call last):
    ValueError: pairs all have the weight 0; give at least one that counts.
    """
    if not moments.block_counts.sum() > 0:
        raise ValueError("pairs all have the weight 0; give at least one that counts.")
    return moments
