"""Steps of dates and durations in a unit that people use: days, hours, seconds; calendar months and years."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import numpy as np

# The unit of a step is one of these; the names before it mean the same when a user says them.
_SECONDS = {"day": 86400.0, "hour": 3600.0, "minute": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_MONTHS = {"year": 12.0, "quarter": 3.0, "month": 1.0}
_SAME = {
    "d": "day", "h": "hour", "hr": "hour", "min": "minute", "sec": "s", "second": "s", "millisecond": "ms",
    "microsecond": "us", "nanosecond": "ns", "yr": "year", "µs": "us",
}  # fmt: skip
# A step of up to so many units is said in them, 90 s; a longer one in a larger unit, 1.5 s and not 1500 ms.
_MANY = 1000
# How much the lengths of months differ: an uneven step of no more than that is one of the calendar.
_UNEVEN_MONTHS = 3 * 86400.0


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of dates or durations: `seconds` on average, and `months` where it is even in the calendar."""

    seconds: float
    months: int | None = None

    def natural(self) -> tuple[float, str]:
        """Size and unit as people say them.

        Examples
        --------
        >>> Step(86400.0).natural(), Step(90.0).natural(), Step(1.5).natural(), Step(2629746.0, 1).natural()
        ((1.0, 'day'), (90.0, 's'), (1.5, 's'), (1.0, 'month'))
        """
        if self.months is not None:
            return (self.months / 12, "year") if self.months % 12 == 0 else (float(self.months), "month")
        for unit, length in _SECONDS.items():
            size = self.seconds / length
            if 1 - 1e-9 < size < _MANY and abs(size - round(size)) < 1e-9 * size:
                return float(round(size)), unit
        unit = next((name for name, length in _SECONDS.items() if self.seconds >= length), "ns")
        return self.seconds / _SECONDS[unit], unit

    def within(self, unit: str) -> float | None:
        """Size in a unit, of months in days on average; None for a unit that we do not know.

        Examples
        --------
        >>> Step(7200.0).within("hours"), Step(2629746.0, 1).within("year") == 1 / 12, Step(1.0).within("lag")
        (2.0, True, None)
        """
        unit = standard_unit(unit)
        if self.months is not None and unit in _MONTHS:
            return self.months / _MONTHS[unit]
        return self.seconds / _SECONDS[unit] if unit in _SECONDS else None


def standard_unit(unit: str) -> str:
    """Our name of a unit of time, the unit itself where we have none.

    Examples
    --------
    >>> standard_unit("Days"), standard_unit("h"), standard_unit("ps")
    ('day', 'hour', 'ps')
    """
    known = {**_SAME, **{name: name for name in (*_SECONDS, *_MONTHS)}}
    return next((known[name] for name in (unit, unit.lower(), unit.lower().removesuffix("s")) if name in known), unit)


def is_dated(times: np.ndarray) -> bool:
    """Whether times are dates or durations: of NumPy, or objects such as those of cftime, which is never imported."""
    if times.dtype.kind in "mM":
        return True
    return times.dtype.kind == "O" and (_is_date(times[0]) or isinstance(times[0], datetime.timedelta))


def _is_date(time: Any) -> bool:
    return all(hasattr(time, name) for name in ("year", "month", "day", "hour", "minute", "second"))


def seconds_since_first(times: np.ndarray) -> np.ndarray:
    """Seconds (n,) from the first of dates or durations, in their own calendar."""
    since = times - times[0]
    if since.dtype.kind == "m":
        return since / np.timedelta64(1, "s")
    return np.array([delta.total_seconds() for delta in since])


def calendar_months(times: np.ndarray, slack: float = _UNEVEN_MONTHS) -> int | None:
    """Months between two dates where all lie equally many apart, at one place in their month; None where not.

    Parameters
    ----------
    slack : seconds by which the places may differ: months are not equally long, so that their ends and middles do

    Examples
    --------
    >>> calendar_months(np.array(["2020-01-31", "2020-02-29", "2020-03-31"], "datetime64[s]"))
    1
    >>> calendar_months(np.array(["2020-01-01", "2020-01-31"], "datetime64[s]")) is None
    True
    """
    if times.dtype.kind == "m" or (times.dtype.kind == "O" and not _is_date(times[0])):
        return None
    month, place = _month_and_place(times)
    steps = np.diff(month)
    if steps[0] >= 1 and (steps == steps[0]).all() and np.ptp(place) <= slack:
        return int(steps[0])
    return None


def calendar_steps(times: np.ndarray) -> np.ndarray | None:
    """Steps of dates in whole months (n - 1,), where all lie at one place in their month; None where not.

    Examples
    --------
    >>> calendar_steps(np.array(["2020-01-31", "2020-02-29", "2020-04-30"], "datetime64[s]"))
    array([1, 2])
    """
    if times.dtype.kind == "m" or (times.dtype.kind == "O" and not _is_date(times[0])):
        return None
    month, place = _month_and_place(times)
    steps = np.diff(month)
    return steps if (steps >= 1).all() and np.ptp(place) <= _UNEVEN_MONTHS else None


def _month_and_place(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the month (n,), counted on over years, and seconds since it began."""
    if times.dtype.kind == "M":
        month = times.astype("datetime64[M]")
        return month.astype(int), (times - month.astype(times.dtype)) / np.timedelta64(1, "s")
    month = np.array([12 * t.year + t.month for t in times])
    return month, np.array([86400.0 * t.day + 3600 * t.hour + 60 * t.minute + t.second for t in times])
