import datetime

import numpy as np
import pytest
import xarray as xr

from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs


def timed(coordinate, attrs=None, units=None):
    values = np.random.default_rng(3).normal(size=(len(coordinate), 2))
    time = ("time", coordinate, {"units": units} if units else {})
    return xr.DataArray(values, dims=("time", "c"), coords={"time": time, "c": ["a", "b"]}, attrs=attrs or {})


def test_time_step_comes_from_the_coordinate():
    pairs = lagged_pairs(timed(0.25 * np.arange(5), units="ps"))
    assert (pairs.clock.dt, pairs.clock.time_unit, pairs.coordinate_names) == (0.25, "ps", ("a", "b"))


def test_time_step_comes_from_the_attributes():
    pairs = lagged_pairs(timed(0.25 * np.arange(5), units="ps").drop_vars("time").assign_attrs(dt=2.0, time_unit="ns"))
    assert (pairs.clock.dt, pairs.clock.time_unit) == (2.0, "ns")


def test_time_step_as_given_wins():
    pairs = lagged_pairs(timed(0.25 * np.arange(5), units="ps"), dt=0.1, time_unit="h")
    assert (pairs.clock.dt, pairs.clock.time_unit) == (0.1, "h")


def test_without_any_label_time_is_in_frames():
    pairs = lagged_pairs(np.arange(5.0))
    assert (pairs.clock.dt, pairs.clock.time_unit) == (1.0, "frame")


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (np.timedelta64(90, "s"), (90.0, "s")),
        (np.timedelta64(1500, "ms"), (1.5, "s")),
        (np.timedelta64(20, "ms"), (20.0, "ms")),
        (np.timedelta64(333, "us"), (333.0, "us")),
        (np.timedelta64(1, "ns"), (1.0, "ns")),
        (np.timedelta64(15, "m"), (15.0, "minute")),
        (np.timedelta64(1, "h"), (1.0, "hour")),
        (np.timedelta64(36, "h"), (36.0, "hour")),
        (np.timedelta64(1, "D"), (1.0, "day")),
        (np.timedelta64(7, "D"), (7.0, "day")),
        (np.timedelta64(1000, "D"), (1000.0, "day")),
    ],
)
@pytest.mark.parametrize("start", [np.datetime64("2020-02-28T23:59", "ns"), np.timedelta64(5, "ns")])
def test_dates_and_durations_have_a_unit_that_people_use(step, wanted, start):
    pairs = lagged_pairs(timed(start + step * np.arange(6)))
    assert (pairs.clock.dt, pairs.clock.time_unit) == wanted


def test_steps_that_are_no_whole_number_of_a_unit_are_said_in_a_larger_one():
    pairs = lagged_pairs(timed(np.datetime64("2020-01-01", "ns") + np.timedelta64(33_333_333, "ns") * np.arange(9)))
    assert pairs.clock.time_unit == "ms"
    assert np.isclose(pairs.clock.dt, 100 / 3, rtol=1e-6)


MONTHS = np.datetime64("1999-11", "M") + np.arange(30)
STARTS = MONTHS.astype("datetime64[s]")
ENDS = (MONTHS + 1).astype("datetime64[s]")


@pytest.mark.parametrize(
    "places",
    [
        STARTS,
        STARTS + np.timedelta64(14, "D") + np.timedelta64(6, "h"),
        ENDS - np.timedelta64(1, "D"),
        ENDS - np.timedelta64(1, "s"),
        STARTS + (ENDS - STARTS) // 2,  # as climate models write monthly means
    ],
    ids=["first day", "fifteenth", "last day", "last second", "middle"],
)
def test_months_quarters_and_years_are_even(places):
    for every, wanted in ((1, (1.0, "month")), (3, (3.0, "month")), (12, (1.0, "year")), (6, (6.0, "month"))):
        pairs = lagged_pairs(timed(places[::every]))
        assert (pairs.clock.dt, pairs.clock.time_unit) == wanted


def test_months_that_happen_to_be_equally_long_are_months():
    for start in ("2021-07-01", "2021-03-31"):
        dates = np.array(
            [start, "2021-08-01"] if start.startswith("2021-07") else [start, "2021-05-31"], "datetime64[ns]"
        )
        assert lagged_pairs(timed(dates)).clock.time_unit == "month"
    thirty_days = np.datetime64("2021-01-01", "ns") + np.timedelta64(30, "D") * np.arange(4)
    assert lagged_pairs(timed(thirty_days)).clock == Clock(1, 30.0, "day")


@pytest.mark.parametrize(
    "dates",
    [
        ["2020-01-03", "2020-02-27", "2020-03-01"],  # once in each month, and anywhere in it
        ["2020-01-01", "2020-02-01", "2020-04-01"],
        ["2020-03-01", "2020-02-01", "2020-01-01"],
    ],
)
def test_uneven_months_are_refused(dates):
    with pytest.raises(ValueError, match=r"data must be evenly spaced in time; steps range from .* s\. Resample"):
        lagged_pairs(timed(np.array(dates, "datetime64[ns]")))


def test_periods_of_pandas_are_dates():
    pandas = pytest.importorskip("pandas")
    pairs = lagged_pairs(timed(pandas.period_range("2000-01", periods=5, freq="Q")))
    assert (pairs.clock.dt, pairs.clock.time_unit) == (3.0, "month")


class NoLeapDate:
    """As cftime has them: a date of a calendar of 365 days in every year."""

    LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

    def __init__(self, year, month, day=1, hour=0):
        self.year, self.month, self.day, self.hour, self.minute, self.second = year, month, day, hour, 0, 0

    def __sub__(self, other):
        return datetime.timedelta(hours=self._hours() - other._hours())

    def _hours(self):
        return 24 * (365 * self.year + sum(self.LENGTHS[: self.month - 1]) + self.day) + self.hour


def dated(dates):
    array = timed(np.arange(len(dates)))
    coordinate = np.empty(len(dates), dtype=object)
    coordinate[:] = dates
    return array.assign_coords(time=("time", coordinate))


@pytest.mark.parametrize(
    ("dates", "wanted"),
    [
        ([NoLeapDate(2000 + i // 12, 1 + i % 12) for i in range(30)], (1.0, "month")),
        ([NoLeapDate(2000 + i, 7, 2, 12) for i in range(9)], (1.0, "year")),
        ([NoLeapDate(2000, 2, 27), NoLeapDate(2000, 2, 28), NoLeapDate(2000, 3, 1)], (1.0, "day")),
        ([NoLeapDate(2000, 2, 28, 18), NoLeapDate(2000, 3, 1), NoLeapDate(2000, 3, 1, 6)], (6.0, "hour")),
    ],
)
def test_dates_of_other_calendars_are_taken_without_their_package(dates, wanted):
    pairs = lagged_pairs(dated(dates))
    assert (pairs.clock.dt, pairs.clock.time_unit) == wanted


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
@pytest.mark.parametrize(("freq", "wanted"), [("MS", (1.0, "month")), ("D", (1.0, "day")), ("YS", (1.0, "year"))])
def test_dates_of_cftime(calendar, freq, wanted):
    pytest.importorskip("cftime")
    dates = xr.date_range("2000-01-01", periods=15, freq=freq, calendar=calendar, use_cftime=True)
    pairs = lagged_pairs(timed(dates))
    assert (pairs.clock.dt, pairs.clock.time_unit) == wanted


def test_attributes_that_say_the_same_as_the_dates_keep_their_unit():
    days = np.datetime64("2020-01-01", "ns") + np.timedelta64(1, "D") * np.arange(6)
    assert lagged_pairs(timed(days, {"dt": 86400.0, "time_unit": "s"})).clock == Clock(1, 86400.0, "s")
    assert lagged_pairs(timed(days, {"dt": 1.0, "time_unit": "day"})).clock == Clock(1, 1.0, "day")
    assert lagged_pairs(timed(days, {"dt": 7.0, "time_unit": "day"})).clock == Clock(1, 1.0, "day")
    assert lagged_pairs(timed(STARTS, {"dt": 1 / 12, "time_unit": "year"})).clock == Clock(1, 1 / 12, "year")


# ---- what is stated --------------------------------------------------------------------------------------------------

DAYS = np.datetime64("2020-01-01", "ns") + np.timedelta64(1, "D") * np.arange(6)
GAPS = {
    "months": STARTS,
    "days with a gap": DAYS[[0, 1, 3, 4]],
    "numbers": np.array([0.0, 1, 3, 4]),
    "text": np.array(["a", "b"]),
}


@pytest.mark.parametrize("times", GAPS.values(), ids=GAPS)
def test_a_stated_step_and_unit_override_the_coordinate_also_where_it_is_uneven(times):
    pairs = lagged_pairs(timed(times), dt=1 / 12, time_unit="year")
    assert pairs.clock == Clock(1, 1 / 12, "year")


def test_a_stated_step_overrides_uneven_numbers_and_keeps_their_unit():
    assert lagged_pairs(timed(np.array([0.0, 1, 3, 4]), units="ps"), dt=2.0).clock == Clock(1, 2.0, "ps")


@pytest.mark.parametrize(
    ("times", "unit", "dt"),
    [
        (DAYS, "hour", 24.0),
        (DAYS, "Hours", 24.0),
        (DAYS, "s", 86400.0),
        (STARTS, "year", 1 / 12),
        (STARTS, "quarter", 1 / 3),
    ],
)
def test_dates_are_converted_to_a_stated_unit(times, unit, dt):
    pairs = lagged_pairs(timed(times), time_unit=unit)
    assert np.isclose(pairs.clock.dt, dt, rtol=1e-12)
    assert pairs.clock.time_unit == unit


def test_a_stated_step_of_dates_alone_must_be_theirs():
    assert lagged_pairs(timed(DAYS), dt=1).clock == Clock(1, 1.0, "day")
    for times in (DAYS, DAYS[[0, 1, 3]]):
        with pytest.raises(ValueError, match=r"dt=5 is not what the dates of data say; give time_unit as well"):
            lagged_pairs(timed(times), dt=5)


def test_a_unit_that_is_none_of_dates_needs_a_step():
    with pytest.raises(
        ValueError, match="time_unit='step' is no unit of dates, which are 1 day apart; give dt as well"
    ):
        lagged_pairs(timed(DAYS), time_unit="step")


def test_times_that_are_text_are_refused():
    with pytest.raises(ValueError, match=r"times that are numbers or dates; got dtype <U1\. Say dt and time_unit"):
        lagged_pairs(timed(np.array(["a", "b", "c"])))


def test_dates_that_were_not_decoded_keep_the_unit_alone():
    assert lagged_pairs(timed(np.arange(5.0), units="days since 2000-01-01")).clock == Clock(1, 1.0, "day")


def test_thinned_trajectories_do_not_keep_the_step_of_the_full_ones():
    from koopman_lora.systems import NoisyRotation

    full = NoisyRotation(dt=0.5).simulate(n_trajectories=2, n_steps=40)
    pairs = lagged_pairs(full.isel(time=slice(None, None, 10)))
    assert (pairs.clock.dt, pairs.clock.time_unit) == (5.0, "step")


def test_list_of_labelled_arrays_keeps_its_units():
    arrays = [timed(0.25 * np.arange(n), units="ps") for n in (5, 8)]
    pairs = lagged_pairs(arrays)
    assert (pairs.clock.dt, pairs.clock.time_unit, pairs.coordinate_names) == (0.25, "ps", ("a", "b"))
    with pytest.raises(ValueError, match=r"trajectories must have one dt.*0.25.*0.5"):
        lagged_pairs([*arrays, timed(0.5 * np.arange(5), units="ps")])


@pytest.mark.parametrize("start", [0.0, 1e3, 1e5])
def test_single_precision_times_are_evenly_spaced(start):
    pairs = lagged_pairs(timed((start + 0.02 * np.arange(5000)).astype(np.float32), units="ps"))
    assert np.isclose(pairs.clock.dt, 0.02, rtol=1e-3)


@pytest.mark.parametrize(
    "coordinate",
    [
        np.array([0.0, 1, 2, 4, 5]),
        np.array([0.0, -1, -2, -3, -4]),
        np.array([1.0, 1, 1, 1, 1]),
        np.datetime64("2020-01-01", "ns") + np.array([0, 1, 2, 3, 5]) * np.timedelta64(1, "s"),
    ],
)
def test_uneven_times_are_refused(coordinate):
    with pytest.raises(ValueError, match="data must be evenly spaced in time; steps range from"):
        lagged_pairs(timed(coordinate))


@pytest.mark.parametrize("dt", [0, -1.0, float("nan"), float("inf")])
def test_bad_time_step(dt):
    with pytest.raises(ValueError, match="dt must be a positive finite time between two frames; got"):
        lagged_pairs(np.arange(5.0), dt=dt)
