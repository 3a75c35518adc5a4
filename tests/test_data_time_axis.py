import numpy as np
import pytest
import xarray as xr

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


@pytest.mark.parametrize("step", [np.timedelta64(90, "s"), np.timedelta64(1500, "ms"), np.timedelta64(1, "h")])
def test_dates_give_seconds(step):
    pairs = lagged_pairs(timed(np.datetime64("2020-02-28T23:59", "ns") + step * np.arange(6)))
    assert (pairs.clock.dt, pairs.clock.time_unit) == (step / np.timedelta64(1, "s"), "s")


def test_dates_do_not_lend_their_unit_to_a_step_from_elsewhere():
    dates = np.datetime64("2020-01-01", "ns") + np.timedelta64(1, "D") * np.arange(6)
    pairs = lagged_pairs(timed(dates, attrs={"dt": 1.0, "time_unit": "day"}))
    assert (pairs.clock.dt, pairs.clock.time_unit) in {(1.0, "day"), (86400.0, "s")}


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
