import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.clock import Clock, check_dt, check_lag

lags = st.integers(1, 1000)
steps = st.floats(1e-6, 1e6)

# ---- times -----------------------------------------------------------------------------------------------------------


def test_the_time_of_a_lag_is_lag_times_dt():
    assert Clock(lag=10, dt=0.5, time_unit="ns").lag_time == 5.0
    assert Clock(lag=3).lag_time == 3.0


def test_without_a_unit_time_counts_in_frames_or_is_a_number():
    assert (Clock(lag=3).time_unit, Clock(lag=3, dt=0.5).time_unit, Clock().time_unit) == ("frame", "1", "lag")


def test_timescales_of_known_eigenvalues():
    clock = Clock(lag=2, dt=0.25, time_unit="ps")  # a lag of half a picosecond
    times = clock.timescales([1.0, np.exp(-0.5), np.exp(-1 / 20), 0.0, -np.exp(-0.5), 1j * np.exp(-0.5), 1.2, -1.0])
    assert np.allclose(times, [np.inf, 1.0, 10.0, 0.0, 1.0, 1.0, np.nan, np.inf], rtol=1e-12, equal_nan=True)


@given(lag=lags, dt=steps, share=st.floats(0.01, 1e6))
def test_timescales_invert_relaxation(lag, dt, share):
    clock = Clock(lag, dt)
    timescale = share * clock.lag_time
    # the last digit of lambda is worth share * eps of its timescale
    tolerance = 1e-12 + 4 * share * np.finfo(float).eps
    assert np.allclose(clock.timescales(np.exp(-clock.lag_time / timescale)), timescale, rtol=tolerance)


@given(lag=lags, dt=steps, turn=st.floats(-0.49, 0.49), modulus=st.floats(1e-6, 2.0))
def test_frequencies_invert_rotation(lag, dt, turn, modulus):
    clock = Clock(lag, dt)
    frequency = turn / clock.lag_time
    value = modulus * np.exp(2j * np.pi * frequency * clock.lag_time)
    assert np.isclose(clock.frequencies(value), frequency, rtol=1e-12, atol=1e-15 / clock.lag_time)


def test_conjugate_eigenvalues_turn_in_opposite_senses():
    assert Clock(1, dt=0.5).frequencies([1j, -1j, 1.0, -1.0]).tolist() == [0.5, -0.5, 0.0, 1.0]


@pytest.mark.parametrize(("offset", "expected"), [(0.0, np.inf), (5e-10, np.inf), (-5e-10, np.inf), (2e-9, np.nan)])
def test_round_off_on_the_unit_circle_never_relaxes(offset, expected):
    assert np.array_equal(Clock(1).timescales([1 + offset]), [expected], equal_nan=True)


def test_an_eigenvalue_a_little_below_the_unit_circle_relaxes_slowly():
    assert np.isclose(Clock(1).timescales(1 - 1e-8), 1e8, rtol=1e-7)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_times_keep_the_shape_of_the_eigenvalues(shape):
    values = np.full(shape, 0.5)
    assert Clock(2).timescales(values).shape == shape
    assert np.shape(Clock(2).frequencies(values)) == shape


# ---- unknown lags ----------------------------------------------------------------------------------------------------


def test_time_counts_in_lags_where_nobody_said_more():
    clock = Clock()
    assert (clock.lag, clock.dt, clock.time_unit, clock.lag_time) == (None, 1.0, "lag", 1.0)
    assert np.isclose(clock.timescales(np.exp(-1 / 7)), 7.0)


def test_an_unknown_lag_is_asked_for_where_it_is_needed():
    with pytest.raises(ValueError, match="lag of these pairs is unknown, and is needed to scan lags; say it in f"):
        Clock().known_lag("to scan lags")
    with pytest.raises(ValueError, match="is needed to compare lags"):
        Clock().at(2)
    assert Clock(3).known_lag("to scan lags") == 3


@pytest.mark.parametrize("options", [{"dt": 0.5}, {"time_unit": "ps"}, {"dt": 2.0, "time_unit": "ns"}])
def test_a_time_step_without_a_lag_is_refused(options):
    with pytest.raises(ValueError, match="the lag of these pairs is unknown; give lag in frames as well"):
        Clock(**options)


def test_frames_are_the_unit_of_a_lag_without_one():
    assert Clock(2).time_unit == "frame"


# ---- two clocks ------------------------------------------------------------------------------------------------------


def test_equal_clocks_agree():
    clock = Clock(2, 0.5, "ps")
    assert clock.agreed(Clock(np.int64(2), np.float32(0.5), "ps")) is clock
    assert Clock(2, 1, "").agreed(Clock(2)) == Clock(2)


@pytest.mark.parametrize("other", [Clock(3, 0.5, "ps"), Clock(2, 0.25, "ps"), Clock(2, 0.5, "ns"), Clock()])
def test_different_clocks_never_add(other):
    with pytest.raises(ValueError, match="clocks must be one and the same to add or compare; got") as caught:
        Clock(2, 0.5, "ps").agreed(other)
    assert str(other) in str(caught.value)


def test_another_lag_on_the_same_frames():
    assert Clock(2, 0.5, "ps").at(6) == Clock(6, 0.5, "ps")


def test_a_clock_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Clock(1).lag = 2


# ---- attributes ------------------------------------------------------------------------------------------------------


@given(clock=st.one_of(st.just(Clock()), st.builds(Clock, lags, steps, st.sampled_from(["", "ps", "frame", "h"]))))
def test_attributes_give_the_clock_back(clock):
    assert Clock.from_attrs(clock.attrs()) == clock


def test_attributes_say_that_a_lag_is_unknown():
    assert Clock().attrs() == {"lag": "unknown", "dt": 1.0, "time_unit": "lag"}
    assert Clock(2, 0.1, "s").attrs() == {"lag": 2, "dt": 0.1, "time_unit": "s"}


def test_numbers_of_numpy_as_a_file_gives_them_are_read():
    clock = Clock.from_attrs({"lag": np.int64(2), "dt": np.float64(0.1), "time_unit": "s"})
    assert clock == Clock(2, 0.1, "s")
    assert type(clock.lag) is int
    assert type(clock.dt) is float


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lag", [0, -1, 1.0, 1.5, True, np.True_, "1", np.nan])
def test_bad_lags(lag):
    with pytest.raises(ValueError, match="lag must be an integer number of frames, at least 1; got"):
        Clock(lag)


@pytest.mark.parametrize("dt", [0, -1.0, np.nan, np.inf, "0.5", None])
def test_bad_time_steps(dt):
    with pytest.raises(ValueError, match="dt must be a positive finite time between two frames; got"):
        Clock(1, dt)


@pytest.mark.parametrize("unit", [3, None, b"ps"])
def test_units_that_are_no_text(unit):
    with pytest.raises(TypeError, match="time_unit must be a text such as 'ps'; got"):
        Clock(1, 0.5, unit)


def test_good_ones_become_plain_numbers():
    assert type(check_lag(np.int32(4))) is int
    assert type(check_dt(np.float32(0.5))) is float
    assert type(Clock(np.int64(2), 1).dt) is float
