import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from numbered_frames import ragged, some_lengths
from torch.utils.data import DataLoader, TensorDataset

from koopman_lora.accumulation import estimate_moments
from koopman_lora.clock import Clock
from koopman_lora.data.arrays import as_states
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs


def labelled(n_trajectories, n_frames, *state):
    base = 1000.0 * np.arange(n_trajectories)[:, None] + np.arange(n_frames)
    return np.broadcast_to(
        base.reshape(n_trajectories, n_frames, *(1,) * len(state)), (n_trajectories, n_frames, *state)
    ).copy()


# ---- every kind of input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [(), (2,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("lag", [1, 3])
def test_every_kind_of_input_gives_the_same_pairs(state, lag):
    values = labelled(3, 10, *state) + np.random.default_rng(0).normal(size=(3, 10, *state)) / 10
    dims = ("trajectory", "time", *(f"s{i}" for i in range(len(state))))
    array = xr.DataArray(values, dims=dims)
    kinds = {
        "list of numpy": list(values),
        "list of torch": [torch.from_numpy(v) for v in values],
        "list of DataArray": [array[i] for i in range(3)],
        "transposed list of DataArray": [array[i].transpose(..., "time") for i in range(3)],
        "DataArray": array,
        "transposed DataArray": array.transpose(..., "time", "trajectory"),
    }
    if not state:
        kinds["list of lists"] = values.tolist()
    for name, data in kinds.items():
        pairs = lagged_pairs(data, lag, check_constant=False)
        expected = values if state else values[..., None]
        assert np.array_equal(pairs.x, expected[:, :-lag].reshape(-1, *(state or (1,)))), name
        assert np.array_equal(pairs.x_next, expected[:, lag:].reshape(-1, *(state or (1,)))), name
        assert pairs.trajectory.tolist() == np.repeat([0, 1, 2], 10 - lag).tolist()
        assert pairs.frame.tolist() == 3 * list(range(10 - lag))
        assert (pairs.clock.lag, pairs.state_shape, len(pairs)) == (lag, state or (1,), 3 * (10 - lag))


def test_one_array_is_one_trajectory():
    series = np.random.default_rng(1).normal(size=(9, 2))
    for data in (series, torch.from_numpy(series), xr.DataArray(series, dims=("time", "c")), [series]):
        pairs = lagged_pairs(data, 2)
        assert np.array_equal(pairs.x, series[:-2])
        assert np.array_equal(pairs.x_next, series[2:])
        assert not pairs.trajectory.any()


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, lambda a: xr.DataArray(a, dims=("time", "c"))])
def test_explicit_pairs_are_kept(make):
    x, x_next = np.random.default_rng(2).normal(size=(2, 7, 3))
    pairs = lagged_pairs((make(x), make(x_next)), lag=4)
    assert np.array_equal(pairs.x, x)
    assert np.array_equal(pairs.x_next, x_next)
    assert pairs.clock.lag == 4


def test_pairs_pass_through_unchanged():
    pairs = lagged_pairs(np.arange(5.0), 2)
    assert lagged_pairs(pairs, 2) is pairs
    assert lagged_pairs(pairs) is pairs
    with pytest.raises(ValueError, match="lag=1 contradicts the pairs, which were made at lag 2"):
        lagged_pairs(pairs, 1)
    with pytest.raises(ValueError, match=r"dt=0\.5 contradicts the pairs, which were made at dt 1\.0"):
        lagged_pairs(pairs, 2, dt=0.5)
    with pytest.raises(ValueError, match="time_unit=ps contradicts the pairs, which were made at time_unit frame"):
        lagged_pairs(pairs, time_unit="ps")


def test_explicit_pairs_have_the_lag_that_is_said_or_none():
    x, x_next = np.random.default_rng(2).normal(size=(2, 7, 3))
    assert lagged_pairs((x, x_next)).clock == Clock()
    assert lagged_pairs((x, x_next), 3, 0.5, "ps").clock == Clock(3, 0.5, "ps")
    with pytest.raises(ValueError, match="the lag of these pairs is unknown; give lag in frames as well"):
        lagged_pairs((x, x_next), dt=0.5)


def test_explicit_pairs_of_labelled_arrays_of_unknown_lag_have_no_time_step():
    time = ("time", 0.25 * np.arange(6), {"units": "ps"})
    x = xr.DataArray(GOOD[:6], dims=("time", "c"), coords={"time": time})
    assert lagged_pairs((x, x)).clock == Clock()
    assert lagged_pairs((x, x), lag=2).clock == Clock(2, 0.25, "ps")


def test_the_lag_of_trajectories_is_one_where_none_is_given():
    pairs = lagged_pairs([GOOD, GOOD])
    assert pairs.clock == Clock(1, 1.0, "frame")
    assert torch.equal(pairs.x, lagged_pairs([GOOD, GOOD], 1).x)


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [
        ("f2", torch.float32),
        ("f4", torch.float32),
        (">f4", torch.float32),
        ("f8", torch.float64),
        (">f8", torch.float64),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_precision_is_kept(given_dtype, wanted):
    is_of_torch = isinstance(given_dtype, torch.dtype)
    values = torch.linspace(0, 1, 5).to(given_dtype) if is_of_torch else np.linspace(0, 1, 5).astype(given_dtype)
    pairs = lagged_pairs(values)
    assert pairs.x.dtype == pairs.x_next.dtype == wanted
    assert np.allclose(pairs.x[:, 0], [0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [
        ("i1", torch.float32),
        ("u1", torch.float32),
        (">i2", torch.float32),
        ("i4", torch.float64),
        ("u8", torch.float64),
    ],
)
def test_integers_become_floating_point(given_dtype, wanted):
    values = np.array([[0, 9], [100, 3], [2, 127], [7, 1]], dtype=given_dtype)
    kinds = [values, [values.tolist()], (values[:-1], values[1:])]
    if given_dtype in ("i1", "i4"):
        kinds.append(torch.from_numpy(values))
    for data in kinds:
        pairs = lagged_pairs(data, 1)
        assert pairs.x.dtype == pairs.x_next.dtype == (torch.float64 if isinstance(data, list) else wanted)
        assert np.array_equal(pairs.x, values[:-1])
        assert np.array_equal(pairs.x_next, values[1:])


def test_large_integers_keep_their_digits():
    assert lagged_pairs(np.array([2**40, 2**40 + 1, 2**40 - 1])).x[1, 0] == 2**40 + 1


def test_one_side_in_integers_does_not_round_the_other():
    pairs = lagged_pairs((np.arange(20, dtype=np.int8), GOOD[:, 0]), lag=1)
    assert np.array_equal(pairs.x_next[:, 0], GOOD[:, 0])


def test_a_mask_that_hides_nothing_is_none():
    pairs = lagged_pairs(np.ma.masked_array(GOOD, False))
    assert np.array_equal(pairs.x, GOOD[:-1])


def test_users_array_is_not_touched_or_held():
    values = np.arange(6.0)
    pairs = lagged_pairs(values)
    values[:] = -1
    assert pairs.x[:, 0].tolist() == [0, 1, 2, 3, 4]


@given(lengths=some_lengths, lag=st.integers(1, 10))
def test_pairs_never_cross_a_trajectory(lengths, lag):
    lengths = [n + lag for n in lengths]
    pairs = lagged_pairs(ragged(lengths), lag, check_constant=False)
    assert len(pairs) == sum(n - lag for n in lengths)
    assert (pairs.x_next - pairs.x == lag).all()
    assert np.array_equal(pairs.x[:, 0], 1000 * pairs.trajectory + pairs.frame)
    assert (pairs.frame + lag < np.array(lengths)[pairs.trajectory]).all()


# ---- bad input -------------------------------------------------------------------------------------------------------

GOOD = np.random.default_rng(4).normal(size=(20, 2))


def spoiled(frame, value):
    bad = GOOD.copy()
    bad[frame, 1] = value
    return bad


def masked(values, frame):
    mask = np.zeros(values.shape, dtype=bool)
    mask[frame, ...] = True
    return np.ma.masked_array(values, mask)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([GOOD, spoiled(7, np.nan)], ValueError, r"trajectory 1 holds NaN or inf at frame 7 \(1 such frames\)"),
        (spoiled(0, np.inf), ValueError, "trajectory 0 holds NaN or inf at frame 0"),
        (torch.from_numpy(spoiled(19, -np.inf)), ValueError, "trajectory 0 holds NaN or inf at frame 19"),
        ((GOOD, spoiled(3, np.nan)), ValueError, "x_next holds NaN or inf at frame 3"),
        ((spoiled(2, np.nan), GOOD), ValueError, "x holds NaN or inf at frame 2"),
        (
            xr.DataArray(spoiled(5, np.nan)[None], dims=("trajectory", "time", "c")),
            ValueError,
            "trajectory 0 .* frame 5",
        ),
        ([], ValueError, "data is an empty list; give at least one trajectory"),
        ((GOOD, GOOD, GOOD), ValueError, r"data as a tuple must be \(x, x_next\); got 3 entries"),
        ((), ValueError, r"data as a tuple must be \(x, x_next\); got 0 entries"),
        ((GOOD, GOOD[:5]), ValueError, r"x and x_next must have one shape; got \(20, 2\) and \(5, 2\)"),
        ((GOOD[:0], GOOD[:0]), ValueError, "x and x_next are empty"),
        ([GOOD, GOOD[:, :1]], ValueError, r"trajectory 0 has \(2,\), trajectory 1 has \(1,\)"),
        ([GOOD, GOOD, GOOD[:, 0]], ValueError, r"trajectory 0 has \(2,\), trajectory 2 has \(1,\)"),
        (GOOD[:, :0], ValueError, r"states must not be empty; got 0 feature"),
        ((GOOD[:, :0], GOOD[:, :0]), ValueError, r"states must not be empty; got 0 feature"),
        (
            [GOOD, GOOD.astype(complex)],
            TypeError,
            "trajectory 1 must hold real numbers; got dtype complex128. Complex data not supported: give real",
        ),
        (
            torch.ones(5, 2, dtype=torch.complex64),
            TypeError,
            "must hold real numbers; got dtype torch.complex64. Complex data",
        ),
        (np.array([[1.0], [{}]]), TypeError, "trajectory 0 must hold real numbers; got dtype object: float.. argument"),
        (np.array(["a", "b"]), TypeError, "must hold real numbers; got dtype <U1"),
        (GOOD > 0, TypeError, "must hold real numbers; got dtype bool"),
        (torch.from_numpy(GOOD) > 0, TypeError, r"must hold real numbers; got dtype torch.bool. Convert with .double"),
        ((GOOD, GOOD > 0), TypeError, "x_next must hold real numbers; got dtype bool"),
        ([[[1.0, 2.0], [3.0]]], TypeError, "trajectory 0 is not a rectangular array of numbers"),
        (None, TypeError, "trajectory 0 must hold real numbers; got dtype object"),
        (
            [GOOD, masked(GOOD, 7)],
            ValueError,
            r"trajectory 1 holds masked entries at frame 7 \(1 such frames\); masked m",
        ),
        (masked(np.arange(20), 3), ValueError, "trajectory 0 holds masked entries at frame 3"),
        ((GOOD, masked(GOOD, 2)), ValueError, "x_next holds masked entries at frame 2"),
        (np.float64(3.0), ValueError, "trajectory 0 must have a time axis; got a single number"),
        (np.column_stack([GOOD, np.ones(20)]), ValueError, r"data has constant columns: 2\. They carry no dynamics"),
        (
            xr.DataArray(GOOD * [0, 1], dims=("time", "c"), coords={"c": ["phi", "psi"]}),
            ValueError,
            r"data has constant columns: 0 \(phi\)",
        ),
        (xr.DataArray(GOOD, dims=("frame", "c")), ValueError, r"data must have a dimension 'time'; got dimensions"),
        (xr.Dataset({"a": ("time", GOOD[:, 0])}), TypeError, "data must be a DataArray, not a Dataset"),
    ],
)
def test_bad_data(data, error, message):
    with pytest.raises(error, match=message):
        lagged_pairs(data)


@pytest.mark.parametrize("lag", [0, -1, 1.0, 1.5, True, np.True_, "1"])
def test_bad_lag(lag):
    with pytest.raises(ValueError, match="lag must be an integer number of frames, at least 1; got"):
        lagged_pairs(GOOD, lag)


def test_numpy_integers_are_lags():
    assert lagged_pairs(GOOD, np.int64(3)).clock.lag == 3


def test_every_short_trajectory_is_listed():
    with pytest.raises(ValueError, match="lag=5 needs trajectories of more than 5 frames; too short") as caught:
        lagged_pairs([GOOD, GOOD[:5], GOOD[:6], GOOD[:0], GOOD[:1]], 5)
    assert "trajectory 1 (5 frames), trajectory 3 (0 frames), trajectory 4 (1 frames)" in str(caught.value)


def test_of_very_many_short_trajectories_some_are_listed():
    with pytest.raises(ValueError, match=r"trajectory 9 \(3 frames\), and 9990 more") as caught:
        lagged_pairs([np.arange(3.0)] * 10_000, 3)
    assert len(str(caught.value)) < 500


@pytest.mark.slow
def test_very_many_trajectories_are_paired_as_one_by_one():
    """Nothing is quadratic in their number: these take half a second."""
    values = np.random.default_rng(0).normal(size=(20_000, 3, 1))
    pairs = lagged_pairs(list(values), 1)
    assert np.array_equal(pairs.x, values[:, :-1].reshape(-1, 1))
    assert len(pairs.fingerprint()) == 32
    assert len(split_pairs(pairs, 0.1).held_out) == 4_000


def test_constant_columns_may_be_kept():
    pairs = lagged_pairs(np.column_stack([GOOD, np.ones(20)]), check_constant=False)
    assert pairs.state_shape == (3,)
    assert (pairs.x[:, 2] == 1).all()


def test_images_may_have_constant_pixels():
    images = np.random.default_rng(5).normal(size=(6, 3, 3))
    images[:, 0, 0] = 0
    assert lagged_pairs(images).state_shape == (3, 3)


def test_select_takes_positions_and_masks():
    pairs = lagged_pairs(ragged([6, 6]), 1)
    mask = pairs.frame == 2
    for chosen in (pairs.select(mask), pairs.select(np.flatnonzero(mask)), pairs.select([2, 7])):
        assert chosen.x[:, 0].tolist() == [2, 1002]
        assert chosen.x_next[:, 0].tolist() == [3, 1003]
        assert chosen.trajectory.tolist() == [0, 1]


@pytest.mark.parametrize("n", [0, 7, 20])
def test_a_mask_of_another_length_selects_nothing(n):
    with pytest.raises(ValueError, match=rf"index as a mask must have shape \(19,\), one per pair; got \({n},\)"):
        lagged_pairs(GOOD).select(np.ones(n, dtype=bool))


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_bad_sizes_of_batches(size):
    with pytest.raises(ValueError, match=r"size must be (positive|an integer); got"):
        lagged_pairs(GOOD).batches(size)


@pytest.mark.parametrize("dt", [-1, 0, float("nan"), "x"])
def test_a_bad_step_is_refused_wherever_it_comes_from(dt):
    attributes = xr.DataArray(GOOD, dims=("time", "c"), attrs={"dt": dt, "time_unit": "ps"})
    for call in (
        lambda: lagged_pairs(GOOD, dt=dt),
        lambda: lagged_pairs((GOOD, GOOD), 2, dt),
        lambda: lagged_pairs(attributes),
    ):
        with pytest.raises(ValueError, match="dt must be a positive finite time between two frames; got"):
            call()
    with pytest.raises(ValueError, match=r"contradicts the pairs|positive finite"):
        lagged_pairs(lagged_pairs(GOOD), dt=dt)


# ---- a torch Dataset -------------------------------------------------------------------------------------------------


def identity(x):
    return x


def test_a_data_loader_gives_the_pairs():
    pairs = lagged_pairs([GOOD, GOOD[::-1].copy()], 3)
    batches = list(DataLoader(pairs, batch_size=7))
    assert [len(x) for x, _ in batches] == [7, 7, 7, 7, 6]
    assert torch.equal(torch.cat([x for x, _ in batches]), pairs.x)
    assert torch.equal(torch.cat([x_next for _, x_next in batches]), pairs.x_next)


def test_a_shuffling_data_loader_keeps_x_beside_its_x_next():
    pairs = lagged_pairs(np.arange(50.0), 4)
    generator = torch.Generator().manual_seed(0)
    x, x_next = map(torch.cat, zip(*DataLoader(pairs, batch_size=8, shuffle=True, generator=generator), strict=True))
    assert (x_next - x == 4).all()
    assert not torch.equal(x, pairs.x)
    assert torch.equal(x.sort(0).values, pairs.x)


def test_moments_get_the_clock_of_the_pairs_also_through_a_data_loader():
    pairs = lagged_pairs(GOOD, 2, 0.5, "ps")
    direct = estimate_moments(identity, identity, pairs)
    loaded = estimate_moments(identity, identity, DataLoader(pairs, batch_size=5))
    assert direct.clock == loaded.clock == Clock(2, 0.5, "ps")
    assert np.allclose(loaded.T_fg, direct.T_fg, rtol=1e-12)
    bare = estimate_moments(identity, identity, DataLoader(TensorDataset(pairs.x, pairs.x_next), batch_size=5))
    assert bare.clock == Clock()


def test_pairs_are_shown_in_one_line():
    shown = repr(lagged_pairs([GOOD, GOOD], 2, 0.5, "ps"))
    assert shown == "LaggedPairs(36 pairs of states (2,) in 2 trajectories, Clock(lag=2, dt=0.5, time_unit='ps'))"


# ---- fingerprint -----------------------------------------------------------------------------------------------------


def test_the_fingerprint_does_not_depend_on_precision_or_kind_of_input():
    single = GOOD.astype(np.float32)
    expected = lagged_pairs(single).fingerprint()
    others = (single.astype(float), torch.from_numpy(single), [single], xr.DataArray(single, dims=("time", "c")))
    assert {lagged_pairs(data).fingerprint() for data in others} == {expected}
    assert len(expected) == 32


def test_the_fingerprint_tells_other_lags_orders_cuts_and_data_apart():
    changed = GOOD.copy()
    changed[7, 1] = np.nextafter(changed[7, 1], np.inf)
    pairs = lagged_pairs(GOOD)
    different = [
        pairs,
        lagged_pairs(GOOD, 2),
        lagged_pairs(GOOD[::-1].copy()),
        lagged_pairs(changed),
        lagged_pairs([GOOD[:10], GOOD[10:]]),
        pairs.select(np.arange(len(pairs))[::-1].copy()),
        pairs.select(np.arange(10)),
        lagged_pairs((pairs.x, pairs.x_next)),  # of unknown lag
        lagged_pairs((pairs.x_next, pairs.x), lag=1),
        lagged_pairs(GOOD.reshape(20, 2, 1)),
    ]
    assert len({p.fingerprint() for p in different}) == len(different)


def test_the_fingerprint_is_that_of_the_states_whatever_the_unit_of_time():
    assert lagged_pairs(GOOD, 1, 0.5, "ps").fingerprint() == lagged_pairs(GOOD).fingerprint()


# ---- states ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, lambda a: xr.DataArray(a, dims=("sample", "c"))])
def test_states_are_taken_in_any_form(make):
    assert np.array_equal(as_states(make(GOOD), (2,)), GOOD)


def test_numbers_are_scalar_states():
    assert as_states([1.0, 2.0], (1,)).tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, np.ma.masked_array])
def test_states_in_integers_are_taken_as_numbers(make):
    states = as_states(make(np.arange(6).reshape(3, 2)), (2,))
    assert states.is_floating_point()
    assert states.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("states", "error", "message"),
    [
        (GOOD.astype(complex), TypeError, "x must hold real numbers; got dtype complex128"),
        (torch.from_numpy(GOOD) > 0, TypeError, "x must hold real numbers; got dtype torch.bool"),
        (np.array([[1.0, {}]]), TypeError, "x must hold real numbers; got dtype object"),
        (spoiled(3, np.nan), ValueError, "x holds NaN or inf at frame 3"),
        (masked(GOOD, 4), ValueError, "x holds masked entries at frame 4"),
    ],
)
def test_states_that_are_no_numbers_are_refused(states, error, message):
    with pytest.raises(error, match=message):
        as_states(states, (2,))


def test_states_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3\); got \(20, 2\)"):
        as_states(GOOD, (3,))
