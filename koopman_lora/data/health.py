"""What to know of data before a fit: a table of coordinates, from the pairs that the fit will see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import COORDINATE, labelled, provenance
from koopman_lora.checks import checked
from koopman_lora.data.angle_periods import angle_period, box_length
from koopman_lora.data.frames import Frames, Steps, frames_of, steps_of, values_of
from koopman_lora.data.memory import drift, memory
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs

# Entries of a state that are looked at; of more, so many that are evenly spread.
_MOST_ENTRIES = 1000
# Pairs that are looked at, and numbers in their states.
_LOOKED_AT, _NUMBERS = 2**19, 2**23
# Numbers that are worked on at once, which bounds the memory.
_AT_ONCE = 2_000_000
# Frames on which coordinates are compared before they are compared on all; correlation of two that are one.
_COMPARED, _SAME = 10_000, 1 - 1e-9
# A jump is so many times as long as all steps but a few; more than these are the dynamics. An outlier makes two.
_JUMP, _FEW = 10.0, 16

# Units of what is counted in none of a coordinate's own.
_UNITS = {"drift": "deviations", "drift_error": "deviations", "largest_step": "median steps"}


@checked(but=("lag", "dt"))
def data_health(data: Any, lag: int | None = None, dt: float | None = None, time_unit: str | None = None) -> xr.Dataset:
    """What to know of data before a fit, one row for each coordinate; `health_findings` says it in sentences.

    Parameters
    ----------
    data, lag, dt, time_unit : as in `lagged_pairs`; constant columns are no error

    Returns
    -------
    Dataset
        Over `coordinate`: `mean`, `deviation`; `drift` of the mean from the first to the last third of trajectories
        with its standard error, both in deviations, and the p-value of none; integrated `autocorrelation_time`, and
        `effective_samples`, as many independent frames tell as much about the mean; `largest_step` in medians of those
        that are not 0, `n_jumps` much longer than all others, and `jump_trajectory`, `jump_frame` of the longest;
        `common_value` and the share of frames in which it is; share of frames that repeat the one before; number of
        different values; `duplicate_of` an earlier coordinate, or -1; `period` of what looks like a raw angle, or like
        a position wrapped into a box. NaN where there is nothing to tell. States with more than 1000 entries are looked
        at in 1000 of them; of more than half a million pairs, stretches that are spread evenly over all of them.

    Raises
    ------
    TypeError, ValueError
        As `lagged_pairs`.

    References
    ----------
    docs/mathematics.md, section 9.

    Examples
    --------
    >>> health = kl.data_health(np.arange(2000.0) % 10)
    >>> health.n_values.item(), health.largest_step.item(), health.attrs["n_pairs"]
    (10, 9.0, 1999)
    """
    pairs = lagged_pairs(data, lag, dt, time_unit, check_constant=False)
    if len(pairs) == 0:
        raise ValueError("data must have at least one pair; got none.")
    everything, n_entries = pairs, pairs.n_entries
    pairs = pairs.spread(min(_LOOKED_AT, _NUMBERS // max(1, n_entries)))
    is_part, pairs = pairs is not everything, pairs.in_memory()
    frames = frames_of(pairs)
    entries = np.unique(np.linspace(0, n_entries - 1, min(n_entries, _MOST_ENTRIES)).round().astype(int))
    found = {name: np.concatenate(parts) for name, parts in _columns(pairs, frames, entries).items()}
    row = found.pop("jump_row")
    if frames.is_timed:
        found["autocorrelation_time"] *= pairs.clock.dt
    sizes = _sizes_of_all(everything) if is_part else _sizes(frames)
    found["effective_samples"] *= sizes["n_frames"] / len(frames.rows)
    units = _UNITS | {"autocorrelation_time": _memory_unit(pairs, frames)}
    variables: dict[str, Any] = {
        name: (COORDINATE, values, {"units": units.get(name, "1")}) for name, values in found.items()
    }
    variables["jump_trajectory"] = (COORDINATE, frames.trajectory[row])
    variables["jump_frame"] = (COORDINATE, frames.frame[row])
    variables["duplicate_of"] = (COORDINATE, _duplicates(pairs, frames, entries))
    attrs = sizes | {
        "n_pairs": len(everything),
        "n_effective": everything.n_effective,
        "n_entries": n_entries,
        "n_axes": len(pairs.state_shape),
    }
    attrs |= {"lag_time": pairs.clock.lag_time, "memory_unit": _memory_unit(pairs, frames), **pairs.clock.attrs()}
    return labelled(variables, provenance(**attrs), {COORDINATE: _names(pairs, entries)})


def _memory_unit(pairs: LaggedPairs, frames: Frames) -> str:
    return pairs.clock.time_unit if frames.is_timed else "pair"


def _sizes(frames: Frames) -> dict[str, Any]:
    """Numbers and lengths of trajectories."""
    edges = frames.edges()
    return _sizes_of(len(frames.rows), frames.frame[edges[1:] - 1] - frames.frame[edges[:-1]] + 1)


def _sizes_of_all(pairs: LaggedPairs) -> dict[str, Any]:
    """The same of pairs of which a part is looked at."""
    runs, trajectory = pairs.places.frames, np.unique(pairs.places.run_trajectory, return_inverse=True)[1]
    first, last = np.full(trajectory.max() + 1, np.iinfo(int).max), np.zeros(trajectory.max() + 1, dtype=int)
    np.minimum.at(first, trajectory, runs.first)
    np.maximum.at(last, trajectory, runs.first + runs.lengths + (pairs.clock.lag or 0))
    return _sizes_of(int((last - first).sum()), last - first)


def _sizes_of(n_frames: int, lengths: np.ndarray) -> dict[str, Any]:
    return {
        "n_trajectories": len(lengths),
        "n_frames": n_frames,
        "shortest_trajectory": int(lengths.min()),
        "mean_trajectory": float(lengths.mean()),
    }


def _names(pairs: LaggedPairs, entries: np.ndarray) -> Any:
    """Names of vectors, else positions; those of images and the like as text."""
    if len(pairs.state_shape) == 1:
        return [pairs.coordinate_names[i] if pairs.coordinate_names else int(i) for i in entries]
    return [",".join(map(str, place)) for place in zip(*np.unravel_index(entries, pairs.state_shape), strict=True)]


def _columns(pairs: LaggedPairs, frames: Frames, entries: np.ndarray) -> dict[str, list[np.ndarray]]:
    """All that is found of one coordinate alone, in parts that fit into memory."""
    parts: dict[str, list[np.ndarray]] = {}
    for chosen in _chunks(entries, len(frames.rows)):
        values = values_of(pairs, frames, chosen)
        steps = steps_of(pairs, frames, chosen, values)
        found = _of_values(values, frames) | _of_steps(values, steps, len(pairs.state_shape) == 1)
        for name, column in found.items():
            parts.setdefault(name, []).append(column)
    return parts


def _chunks(entries: np.ndarray, n_frames: int) -> Iterator[np.ndarray]:
    size = max(1, _AT_ONCE // n_frames)
    return (entries[i : i + size] for i in range(0, len(entries), size))


def _of_values(values: np.ndarray, frames: Frames) -> dict[str, np.ndarray]:
    """Moments, drift and memory of coordinates (d, n_frames)."""
    scale = np.abs(values).max(axis=1)
    scale = np.where(scale > 0, scale, 1.0)
    values = values / scale[:, None]  # squares neither overflow nor vanish
    mean = values.mean(axis=1)
    centred = values - mean[:, None]
    deviation = np.where(np.ptp(values, axis=1) > 0, centred.std(axis=1), 0.0)
    is_moving = deviation > 0
    centred *= np.divide(1.0, deviation, out=np.zeros_like(deviation), where=is_moving)[:, None]
    remembered = memory(centred, frames.runs())
    drifted = (np.where(is_moving, part, np.nan) for part in drift(centred, frames.edges(), remembered.age))
    return {
        "mean": mean * scale,
        "deviation": deviation * scale,
        **dict(zip(("drift", "drift_error", "drift_p_value"), drifted, strict=True)),
        "autocorrelation_time": remembered.time,
        "effective_samples": values.shape[1] / (2 * remembered.time),
    }


def _of_steps(values: np.ndarray, steps: Steps, is_vector: bool) -> dict[str, np.ndarray]:
    """Jumps, repetitions and periods of coordinates (d, n_frames) and their steps (d, n_steps)."""
    sizes = np.abs(steps.values)
    places = steps.places[sizes.argmax(axis=1)]
    rows = zip(np.sort(values, axis=1), np.sort(sizes, axis=1), sizes, strict=True)
    found = [_of_column(*row, is_vector=is_vector) for row in rows]
    return {name: np.array([column[name] for column in found]) for name in found[0]} | {"jump_row": places}


def _of_column(values: np.ndarray, ordered: np.ndarray, steps: np.ndarray, is_vector: bool) -> dict[str, Any]:
    """The same of one coordinate: sorted values, sorted absolute steps, and those in their order."""
    begins = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    lengths = np.diff(begins, append=len(values))
    moving = ordered[np.searchsorted(ordered, 0.0, side="right") :]
    period = angle_period(values[0], values[-1], steps) if is_vector else None
    length = box_length(values, ordered) if is_vector and period is None else None
    known = period or length
    return {
        "largest_step": ordered[-1] / moving[(len(moving) - 1) // 2] if len(moving) else np.nan,
        "n_jumps": 0 if known else _n_jumps(ordered),
        "common_share": lengths.max() / len(values),
        "common_value": values[begins[lengths.argmax()]],
        "repeated_share": 1 - len(moving) / len(ordered),
        "n_values": len(begins),
        "period": known or np.nan,
        "is_angle": period is not None,
    }


def _n_jumps(ordered: np.ndarray) -> int:
    """How many of sorted steps are jumps: few, and each much longer than all others, which move as well."""
    last = ordered[-_FEW - 1 :][::-1]
    is_gap = (last[1:] > 0) & (last[:-1] > _JUMP * last[1:])
    return int(is_gap.argmax()) + 1 if is_gap.any() else 0


def _duplicates(pairs: LaggedPairs, frames: Frames, entries: np.ndarray) -> np.ndarray:
    """Number of the earlier coordinate that each one is a multiple of, shifted or not; -1 for none."""
    every = max(1, len(frames.rows) // _COMPARED)
    some = frames._replace(rows=frames.rows[::every])
    r = np.abs(np.triu(_correlations(values_of(pairs, some, entries)), 1))
    duplicate = np.full(len(entries), -1)
    for j in np.flatnonzero((r > _SAME).any(axis=0)):
        i = int(np.argmax(r[:, j] > _SAME))
        both = np.array([entries[i], entries[j]])
        if abs(_correlations(values_of(pairs, frames, both))[0, 1]) > _SAME:
            duplicate[j] = i
    return duplicate


def _correlations(values: np.ndarray) -> np.ndarray:
    """Correlations (d, d) of coordinates (d, n); 0 of constants."""
    scale = np.abs(values).max(axis=1, keepdims=True)
    values = values / np.where(scale > 0, scale, 1.0)
    is_moving = np.ptp(values, axis=1) > 0
    values -= values.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(values, axis=1)
    values *= np.divide(1.0, norms, out=np.zeros_like(norms), where=is_moving & (norms > 0))[:, None]
    return values @ values.T
