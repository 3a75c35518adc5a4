"""The time step of labelled trajectories, from their time coordinate and attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from koopman_lora._labels import TIME


def common_time_step(
    arrays: Sequence[xr.DataArray], dt: float | None, unit: str | None
) -> tuple[float | None, str | None]:
    """Time between two frames and its unit, the same for all `arrays`; None where nothing tells."""
    steps = [_time_step(array, dt, unit) for array in arrays]
    first = 1.0 if steps[0][0] is None else steps[0][0]
    for found in steps[1:]:
        if found[1] != steps[0][1] or not np.isclose(1.0 if found[0] is None else found[0], first):
            raise ValueError(
                f"all trajectories must have one dt and time unit; got {steps[0]} and {found}. Convert them first."
            )
    return steps[0]


def _time_step(data: xr.DataArray, dt: float | None, unit: str | None) -> tuple[float | None, str | None]:
    """Time between two frames and its unit: as given, else from an even time coordinate, else from the attributes."""
    found_dt, found_unit = data.attrs.get("dt"), data.attrs.get("time_unit")
    coordinate = data.coords.get(TIME)
    if coordinate is not None and coordinate.ndim == 1 and coordinate.size > 1:
        step, slack, step_unit = _coordinate_step(coordinate)
        # attributes outlive the picking of every n-th frame; the coordinate says what is there now
        if found_dt is None or (step_unit and (found_unit != step_unit or abs(found_dt - step) > slack)):
            found_dt, found_unit = step, step_unit or found_unit
    return (found_dt if dt is None else dt), (found_unit if unit is None else unit)


def _coordinate_step(coordinate: xr.DataArray) -> tuple[float, float, str | None]:
    """Mean step of a time coordinate, the deviation that round-off explains, and the unit where it is known."""
    times, unit = coordinate.values, coordinate.attrs.get("units")
    resolution = np.finfo(times.dtype if times.dtype.kind == "f" else float).eps
    if times.dtype.kind in "mM":
        times, unit = (times - times[0]) / np.timedelta64(1, "s"), "s"
    times = times.astype(float)
    steps, step = np.diff(times), (times[-1] - times[0]) / (len(times) - 1)
    # stored times carry round-off of their own magnitude and precision
    slack = 1e-3 * abs(step) + 2 * resolution * np.abs(times).max()
    if not (np.abs(steps - step).max() <= slack and step > 0):
        raise ValueError(
            f"data must be evenly spaced in time; steps range from {steps.min():g} to {steps.max():g}. "
            "Resample, or cut it into trajectories at the gaps."
        )
    return float(step), float(slack), unit
