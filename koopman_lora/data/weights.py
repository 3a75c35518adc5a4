"""How much each pair counts: weights per frame, per pair or per trajectory as one number for each pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from koopman_lora._labels import TIME, TRAJECTORY
from koopman_lora.kinds import real_array


def checked_weights(weights: Any, n_pairs: int) -> np.ndarray | None:
    """Weights (n_pairs,) in float64; None where all are equal, for only their relative size counts.

    Raises
    ------
    ValueError
        For another number of them, negative or infinite ones, NaN, or all 0.

    Examples
    --------
    >>> checked_weights([1, 2, 0], 3), checked_weights([3, 3, 3], 3)
    (array([1., 2., 0.]), None)
    """
    values = real_array("weights", weights)
    if values.shape != (n_pairs,):
        raise ValueError(f"weights must have shape ({n_pairs},), one per pair; got {values.shape}.")
    negative = np.flatnonzero(values < 0)
    if len(negative):
        i = negative[0]
        raise ValueError(
            f"weights must not be negative; got {values[i]:.3g} for pair {i}, {len(negative)} such pairs in all."
        )
    if not values.any():
        raise ValueError("weights must not all be zero; give at least one pair that counts.")
    return None if (values == values[0]).all() else values


def given_weights(weights: Any, n_pairs: int) -> np.ndarray:
    """`checked_weights` of one of several batches: those that are all equal, or all 0, are kept, for others may differ.

    Examples
    --------
    >>> given_weights([3.0, 3.0], 2)
    array([3., 3.])
    """
    values = real_array("weights", weights)
    if values.any() or values.shape != (n_pairs,):
        checked_weights(values, n_pairs)
    return values


def weights_of_pairs(weights: Any, lengths: Sequence[int], lag: int, is_one: bool) -> np.ndarray:
    """Weights of the pairs of trajectories, from those of frames or of trajectories: that of a pair is of its first.

    Parameters
    ----------
    lengths : numbers of frames of the trajectories
    is_one : the data are one trajectory and no list, so that weights are an array (time,)

    Raises
    ------
    ValueError
        For weights in another form than the data.

    Examples
    --------
    >>> weights_of_pairs([np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])], [3, 2], lag=1, is_one=False)
    array([1., 2., 4.])
    >>> weights_of_pairs([2.0, 1.0], [3, 2], lag=1, is_one=False)
    array([2., 2., 1.])
    """
    parts = [_plain(weights)] if is_one else [row for part in _parts(weights) for row in _rows(_plain(part))]
    if len(parts) != len(lengths):
        raise ValueError(f"weights must be given for each of {len(lengths)} trajectories; got {len(parts)}. {_FORMS}")
    return np.concatenate([_of_one(i, part, n, lag) for i, (part, n) in enumerate(zip(parts, lengths, strict=True))])


_FORMS = "Give one number per trajectory, or arrays (time,) in the form of the data."


def _parts(weights: Any) -> list[Any]:
    if isinstance(weights, xr.DataArray):
        dims = [dim for dim in (TRAJECTORY, TIME) if dim in weights.dims]
        weights = weights.transpose(*dims).values
    if isinstance(weights, (list, tuple)):
        return list(weights)
    if isinstance(weights, (np.ndarray, Tensor)) and weights.ndim > 0:
        return list(weights)
    raise ValueError(f"weights must be a list or an array, one entry per trajectory; got {weights!r}. {_FORMS}")


def _plain(part: Any) -> np.ndarray:
    return real_array("weights", part.values if isinstance(part, xr.DataArray) else part)


def _rows(values: np.ndarray) -> list[np.ndarray]:
    """Trajectories of one part of the data: a labelled array may hold several."""
    return list(values) if values.ndim == 2 else [values]


def _of_one(i: int, values: np.ndarray, n_frames: int, lag: int) -> np.ndarray:
    if values.ndim == 0:
        return np.full(n_frames - lag, float(values))
    if values.shape != (n_frames,):
        raise ValueError(
            f"weights of trajectory {i} must be one number, or have shape ({n_frames},), one per frame; got "
            f"{values.shape}. {_FORMS}"
        )
    return values[: n_frames - lag].astype(float)


def effective_number(weights: np.ndarray | None, n_pairs: int) -> float:
    """Kish's effective number of pairs, `(sum w)^2 / sum w^2`; all of them without weights.

    Examples
    --------
    >>> effective_number(np.array([3.0, 3.0, 0.0]), 3), effective_number(None, 3)
    (2.0, 3.0)
    """
    if weights is None or n_pairs == 0:
        return float(n_pairs)
    shares = weights / max(weights.max(), np.finfo(float).tiny)  # squares neither overflow nor vanish
    return float(shares.sum() ** 2 / max(np.square(shares).sum(), np.finfo(float).tiny))
