"""Inputs of a function of the state: coordinates, or groups of them, by name; and a sample of pairs to look at them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from koopman_lora.arguments import check_positive
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.kinds import shown


def drawn_pairs(pairs: LaggedPairs, n: int, rng: np.random.Generator) -> LaggedPairs:
    """All pairs, or n of them drawn at random, in their order: evenly spaced ones may beat with what is periodic."""
    check_positive("n_pairs", n)
    if len(pairs) <= n:
        return pairs
    return pairs.select(np.sort(rng.choice(len(pairs), n, replace=False)))


def input_columns(
    groups: Mapping[str, Any] | None, state_shape: tuple[int, ...], names: Sequence[str] | None = None
) -> dict[Any, np.ndarray]:
    """Positions in the flattened state of every input, by its label: a name, or the number of a coordinate.

    Examples
    --------
    >>> input_columns({"torsion": ["cos", "sin"], "rest": [2]}, (3,), ("cos", "sin", "z"))
    {'torsion': array([0, 1]), 'rest': array([2])}
    >>> input_columns({"top": np.array([[True, True], [False, False]])}, (2, 2))
    {'top': array([0, 1])}
    >>> input_columns(None, (8, 8))
    Traceback (most recent call last):
    ValueError: groups must be given for states of shape (8, 8), such as {'top': a mask (8, 8)}.
    """
    if groups is None:
        if len(state_shape) != 1:
            raise ValueError(
                f"groups must be given for states of shape {state_shape}, such as {{'top': a mask {state_shape}}}."
            )
        return {label: np.array([i]) for i, label in enumerate(names or range(state_shape[0]))}
    if not groups:
        raise ValueError("groups must name at least one group of inputs; got none.")
    return {_label(name): _columns(name, entries, state_shape, names) for name, entries in groups.items()}


def _label(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"groups must have names that are texts; got {shown(name)}.")
    return name


def _columns(group: str, entries: Any, state_shape: tuple[int, ...], names: Sequence[str] | None) -> np.ndarray:
    """Positions of one group, from names, positions, or a mask of the state's shape."""
    n = math.prod(state_shape)
    if isinstance(entries, (str, int, np.integer)) and not isinstance(entries, bool):
        entries = [entries]
    if np.shape(entries) == state_shape and np.asarray(entries).dtype == bool:
        chosen = np.flatnonzero(entries)
    elif isinstance(entries, (list, tuple, range)) or np.ndim(entries) == 1:
        chosen = np.array([position_of(f"groups[{group!r}]", entry, n, names) for entry in entries], dtype=int)
    else:
        raise TypeError(
            f"groups[{group!r}] must be names, positions, or a mask {state_shape} of True and False; got "
            f"{shown(entries)}."
        )
    if len(chosen) == 0:
        raise ValueError(f"groups[{group!r}] must hold at least one input; got none.")
    return np.unique(chosen)


def position_of(argument: str, entry: Any, n: int, names: Sequence[str] | None) -> int:
    """Position of a coordinate that was given by its name or its position.

    Examples
    --------
    >>> position_of("periodic", "psi", 2, ("phi", "psi"))
    1
    >>> position_of("periodic", 2, 2, ("phi", "psi"))
    Traceback (most recent call last):
    ValueError: periodic must hold names, or positions from 0 to 1; got 2.
    """
    if isinstance(entry, str):
        if names is None or entry not in names:
            known = "the data have no names; give positions" if names is None else f"names are {', '.join(names)}"
            raise ValueError(f"{argument} names no coordinate: {entry!r}; {known}.")
        return list(names).index(entry)
    if isinstance(entry, (bool, np.bool_)) or not isinstance(entry, (int, np.integer)) or not 0 <= entry < n:
        raise ValueError(f"{argument} must hold names, or positions from 0 to {n - 1}; got {shown(entry)}.")
    return int(entry)
