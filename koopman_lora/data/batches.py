"""Batches of pairs, with how much each pair counts: from users' tuples and loaders, and from tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from koopman_lora.arguments import pair_of
from koopman_lora.data.weights import given_weights
from koopman_lora.kinds import number_array

# x, x_next, and how much each pair counts, where not all alike.
PairBatch = tuple[Tensor, Tensor, np.ndarray | None]


def is_tuple_of_tensors(pairs: Any) -> TypeGuard[tuple[Tensor, ...]]:
    """Whether pairs are a tuple (x, x_next), or one with weights, of tensors or arrays."""
    return isinstance(pairs, tuple) and len(pairs) in (2, 3) and all(hasattr(side, "shape") for side in pairs)


def as_batch(name: str, batch: Any) -> PairBatch:
    """A batch of a user's (x, x_next) or (x, x_next, weights), of arrays as tensors; `name` is that of the argument."""
    is_weighted = isinstance(batch, (tuple, list)) and len(batch) == 3
    pair = pair_of(name, batch[:2] if is_weighted else batch)
    x, x_next = (
        torch.tensor(number_array(k, v)) if isinstance(v, np.ndarray) else v
        for k, v in zip(("x", "x_next"), pair, strict=True)
    )
    return x, x_next, given_weights(batch[2], len(x)) if is_weighted else None


def batches_of(x: Any, x_next: Any, weights: np.ndarray | None, rows: Any, size: int) -> Iterator[PairBatch]:
    """Batches of some rows of both sides, with their weights."""
    x, x_next, of_rows = x[rows], x_next[rows], None if weights is None else weights[rows]
    for start in range(0, len(x), size):
        batch = slice(start, start + size)
        yield x[batch], x_next[batch], None if of_rows is None else of_rows[batch]


def check_equal_length(x: Any, x_next: Any) -> None:
    """Raise an error unless both are tensors of equally many states."""
    if not (hasattr(x, "shape") and hasattr(x_next, "shape")):
        raise TypeError(f"x and x_next must be tensors; got {type(x).__name__} and {type(x_next).__name__}.")
    if np.ndim(x) == 0 or np.ndim(x_next) == 0:
        raise TypeError("x and x_next must hold several states; got a single number.")
    if len(x) != len(x_next):
        raise ValueError(f"x and x_next must hold equally many states; got {len(x)} and {len(x_next)}.")


def has_states(x: Any, x_next: Any) -> bool:
    """Whether there are any, after `check_equal_length`."""
    check_equal_length(x, x_next)
    return len(x) > 0
