"""Pairs of what users give: explicit ones, and those cut from trajectories; their states stay where they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import TIME
from koopman_lora.data.arrays import check_same_shape
from koopman_lora.data.layouts import layout_advice
from koopman_lora.data.lazy_states import states_of
from koopman_lora.data.places import Places
from koopman_lora.data.sources import Source, source_of, sources_of
from koopman_lora.data.states import States


def side_by_side(data: tuple) -> tuple[States, Places]:
    """Explicit pairs `(x, x_next)`, all x and behind them all x'; raises what `lagged_pairs` documents."""
    if len(data) != 2:
        raise ValueError(f"data as a tuple must be (x, x_next); got {len(data)} entries. Put trajectories in a list.")
    x, x_next = (source_of(_sequence(side), name) for side, name in zip(data, ("x", "x_next"), strict=True))
    shapes = [(side.n_trajectories * side.n_frames, *side.state_shape) for side in (x, x_next)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"x and x_next must have one shape; got {shapes[0]} and {shapes[1]}.")
    if shapes[0][0] == 0:
        raise ValueError("x and x_next are empty; give at least one pair.")
    check_same_shape(shapes)
    _advise([x, x_next])
    return states_of([x, x_next]), Places.side_by_side(shapes[0][0])


def _sequence(side: Any) -> Any:
    """One side of explicit pairs; what is labelled need not be in the order of time."""
    return side.data if isinstance(side, xr.DataArray) and TIME not in side.dims else side


def cut_apart(data: Any, lag: int) -> tuple[States, Places]:
    """Trajectories one after the other, and their pairs; raises what `lagged_pairs` documents."""
    sources = sources_of(data)
    lengths = np.repeat([s.n_frames for s in sources], [s.n_trajectories for s in sources])
    short = np.flatnonzero(lengths <= lag)
    if len(short):
        listed = ", ".join(f"trajectory {i} ({lengths[i]} frames)" for i in short[:10])
        listed += f", and {len(short) - 10} more" if len(short) > 10 else ""
        listed = "data hold 1 sample" if lengths.tolist() == [1] else f"too short: {listed}"
        raise ValueError(f"lag={lag} needs trajectories of more than {lag} frames; {listed}.")
    _advise(sources)
    return states_of(sources, lag), Places.cut(lengths, lag)


def _advise(sources: Sequence[Source]) -> None:
    if (advice := layout_advice(sources)) is not None:
        warnings.warn(advice, stacklevel=5)  # where `lagged_pairs` was called
