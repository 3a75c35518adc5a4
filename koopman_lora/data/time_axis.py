"""The time step of labelled trajectories, from their time coordinate and attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from koopman_lora._labels import TIME
from koopman_lora.data.time_units import (
    Step,
    calendar_months,
    calendar_steps,
    is_dated,
    seconds_since_first,
    standard_unit,
)


def common_time_step(
    arrays: Sequence[xr.DataArray], dt: float | None, unit: str | None
) -> tuple[float | None, str | None]:
    """Time between two frames and its unit, the same for all `arrays`; None where nothing tells.

    What is given wins: with a `dt` the time coordinate may be uneven.
    """
    steps = [_time_step(array, dt, unit) for array in arrays]
    first = 1.0 if steps[0][0] is None else steps[0][0]
    for found in steps[1:]:
        if found == steps[0]:
            continue
        if found[1] != steps[0][1] or not np.isclose(1.0 if found[0] is None else found[0], first):
            raise ValueError(
                f"all trajectories must have one dt and time unit; got {steps[0]} and {found}. Convert them first."
            )
    return steps[0]


def gaps(times: xr.DataArray) -> np.ndarray:
    """Where a time axis jumps, (n,): True for frames that come later than one usual step after the last, or not later.

    The usual step is the median, of months where the axis is a calendar of months. Without times there is none.

    Raises
    ------
    ValueError
        For times that mostly do not increase.

    Examples
    --------
    >>> gaps(xr.DataArray([0.0, 1.0, 2.0, 7.0], dims="time", coords={"time": [0.0, 1.0, 2.0, 7.0]}))
    array([False, False, False, True])
    """
    values = _times(times.rename({times.dims[0]: TIME}) if times.dims[0] != TIME else times)
    if values is None or not (is_dated(values) or values.dtype.kind in "fiu"):
        return np.zeros(times.size, dtype=bool)
    if not is_dated(values):
        steps = np.diff(values.astype(float))
    elif (months := calendar_steps(values)) is not None:
        steps = months.astype(float)
    else:
        steps = np.diff(seconds_since_first(values))
    usual = np.median(steps)
    if not usual > 0:
        raise ValueError(
            f"data must have times that increase; got {values[0]}, {values[1]}, ... Sort them by time first."
        )
    return np.concatenate([[False], (steps > 1.5 * usual) | (steps <= 0)])


def _time_step(data: xr.DataArray, dt: float | None, unit: str | None) -> tuple[float | None, str | None]:
    """Time between two frames and its unit: as given, else from an even time coordinate, else from the attributes."""
    if dt is not None and unit is not None:
        return dt, unit
    attrs = data.attrs.get("dt"), data.attrs.get("time_unit")
    times = _times(data)
    if times is None:
        found = attrs
    elif is_dated(times):
        return _step_of_dates(times, dt, unit, attrs)
    else:
        found = _step_of_numbers(times, data.coords[TIME].attrs.get("units"), dt, attrs)
    return (found[0] if dt is None else dt), (found[1] if unit is None else unit)


def _times(data: xr.DataArray) -> np.ndarray | None:
    """The time coordinate where it says more than one time."""
    coordinate = data.coords.get(TIME)
    if coordinate is None or coordinate.ndim != 1 or coordinate.size < 2:
        return None
    if coordinate.dtype.kind == "O" and hasattr(coordinate.to_index(), "to_timestamp"):  # periods of pandas
        return coordinate.to_index().to_timestamp().to_numpy()
    return coordinate.values


def _step_of_numbers(
    times: np.ndarray, unit: str | None, dt: float | None, attrs: tuple[float | None, str | None]
) -> tuple[float | None, str | None]:
    """Step and unit of times that are numbers; of a given `dt` the unit alone is looked for."""
    if unit is not None and " since " in unit:  # dates that were not decoded
        unit = standard_unit(unit.split(" since ")[0])
    if dt is not None:
        return dt, unit or attrs[1]
    if times.dtype.kind not in "fiu":
        raise ValueError(
            f"data must have times that are numbers or dates; got dtype {times.dtype}. Say dt and time_unit."
        )
    resolution = np.finfo(times.dtype if times.dtype.kind == "f" else float).eps
    times = times.astype(float)
    # stored times carry round-off of their own magnitude and precision
    step, slack = _even_step(times, 2 * resolution * np.abs(times).max())
    # attributes outlive the picking of every n-th frame; the coordinate says what is there now
    if attrs[0] is None or (unit and (attrs[1] != unit or abs(attrs[0] - step) > slack)):
        return step, unit or attrs[1]
    return attrs


def _even_step(times: np.ndarray, round_off: float, unit: str = "") -> tuple[float, float]:
    """Mean step of even times (n,), and the deviation that is none."""
    steps, step = np.diff(times), (times[-1] - times[0]) / (len(times) - 1)
    slack = 1e-3 * abs(step) + round_off
    if not (np.abs(steps - step).max() <= slack and step > 0):
        raise ValueError(
            f"data must be evenly spaced in time; steps range from {steps.min():g} to {steps.max():g}{unit}. "
            "Resample, cut it into trajectories at the gaps, or say dt and time_unit."
        )
    return float(step), float(slack)


def _step_of_dates(
    times: np.ndarray, dt: float | None, unit: str | None, attrs: tuple[float | None, str | None]
) -> tuple[float, str]:
    """Step and unit of dates: the unit that was said, that of the attributes if these are right, else a natural one."""
    if dt is not None:
        return dt, _unit_of_given(times, dt)
    step = _dated_step(times)
    if unit is not None:
        size = step.within(unit)
        if size is None:
            natural = "{:g} {}".format(*step.natural())
            raise ValueError(f"time_unit={unit!r} is no unit of dates, which are {natural} apart; give dt as well.")
        return size, unit
    stated = None if attrs[1] is None else step.within(attrs[1])
    if stated is not None and attrs[0] is not None and np.isclose(stated, attrs[0], rtol=1e-3):
        return attrs[0], str(attrs[1])
    return step.natural()


def _dated_step(times: np.ndarray) -> Step:
    """The even step of dates, in time or in the calendar."""
    seconds = seconds_since_first(times)
    mean = float(seconds[-1] - seconds[0]) / (len(seconds) - 1)
    # months that happen to be equally long are months all the same
    months = calendar_months(times, slack=0.0)
    if months is None:
        try:
            return Step(_even_step(seconds, 0.0, " s")[0])
        except ValueError:
            months = calendar_months(times)
            if months is None:
                raise
    return Step(mean, months)


def _unit_of_given(times: np.ndarray, dt: float) -> str:
    """The unit in which dates lie `dt` apart."""
    try:
        size, unit = _dated_step(times).natural()
    except ValueError:
        size, unit = np.nan, ""
    if not np.isclose(size, dt, rtol=1e-3):
        raise ValueError(f"dt={dt} is not what the dates of data say; give time_unit as well.")
    return standard_unit(unit)
