import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.data.pairs import (
    block_numbers,
    fold_numbers,
    lagged_pairs,
    open_trajectories,
    split_groups,
    split_pairs,
    standardization,
    without_overlap,
)

# trajectory t, frame i holds the number 1000 t + i: pairs say where they come from
some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def labelled(n_trajectories, n_frames, *state):
    base = 1000.0 * np.arange(n_trajectories)[:, None] + np.arange(n_frames)
    return np.broadcast_to(
        base.reshape(n_trajectories, n_frames, *(1,) * len(state)), (n_trajectories, n_frames, *state)
    ).copy()


def ragged(lengths):
    return [1000.0 * i + np.arange(n, dtype=float)[:, None] for i, n in enumerate(lengths)]


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
        assert (pairs.lag, pairs.state_shape, len(pairs)) == (lag, state or (1,), 3 * (10 - lag))


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
    assert pairs.lag == 4


def test_pairs_pass_through_unchanged():
    pairs = lagged_pairs(np.arange(5.0), 2)
    assert lagged_pairs(pairs, 2) is pairs
    with pytest.raises(ValueError, match="lag=1 contradicts the pairs, which were made at lag 2"):
        lagged_pairs(pairs, 1)


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [
        ("f2", torch.float32),
        ("f4", torch.float32),
        (">f4", torch.float32),
        ("f8", torch.float64),
        (">f8", torch.float64),
    ],
)
def test_precision_is_kept(given_dtype, wanted):
    pairs = lagged_pairs(np.linspace(0, 1, 5).astype(given_dtype))
    assert pairs.x.dtype == pairs.x_next.dtype == wanted
    assert np.allclose(pairs.x[:, 0], [0, 0.25, 0.5, 0.75])


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


# ---- units -----------------------------------------------------------------------------------------------------------


def timed(coordinate, attrs=None, units=None):
    values = np.random.default_rng(3).normal(size=(len(coordinate), 2))
    time = ("time", coordinate, {"units": units} if units else {})
    return xr.DataArray(values, dims=("time", "c"), coords={"time": time, "c": ["a", "b"]}, attrs=attrs or {})


def test_time_step_comes_from_the_coordinate():
    pairs = lagged_pairs(timed(0.25 * np.arange(5), units="ps"))
    assert (pairs.dt, pairs.time_unit, pairs.coordinate_names) == (0.25, "ps", ("a", "b"))


def test_time_step_comes_from_the_attributes():
    pairs = lagged_pairs(timed(0.25 * np.arange(5), units="ps").drop_vars("time").assign_attrs(dt=2.0, time_unit="ns"))
    assert (pairs.dt, pairs.time_unit) == (2.0, "ns")


def test_time_step_as_given_wins():
    pairs = lagged_pairs(timed(0.25 * np.arange(5), units="ps"), dt=0.1, time_unit="h")
    assert (pairs.dt, pairs.time_unit) == (0.1, "h")


def test_without_any_label_time_is_in_frames():
    pairs = lagged_pairs(np.arange(5.0))
    assert (pairs.dt, pairs.time_unit) == (1.0, "frame")


@pytest.mark.parametrize("step", [np.timedelta64(90, "s"), np.timedelta64(1500, "ms"), np.timedelta64(1, "h")])
def test_dates_give_seconds(step):
    pairs = lagged_pairs(timed(np.datetime64("2020-02-28T23:59", "ns") + step * np.arange(6)))
    assert (pairs.dt, pairs.time_unit) == (step / np.timedelta64(1, "s"), "s")


def test_dates_do_not_lend_their_unit_to_a_step_from_elsewhere():
    dates = np.datetime64("2020-01-01", "ns") + np.timedelta64(1, "D") * np.arange(6)
    pairs = lagged_pairs(timed(dates, attrs={"dt": 1.0, "time_unit": "day"}))
    assert (pairs.dt, pairs.time_unit) in {(1.0, "day"), (86400.0, "s")}


def test_thinned_trajectories_do_not_keep_the_step_of_the_full_ones():
    from koopman_lora.systems import NoisyRotation

    full = NoisyRotation(dt=0.5).simulate(n_trajectories=2, n_steps=40)
    pairs = lagged_pairs(full.isel(time=slice(None, None, 10)))
    assert (pairs.dt, pairs.time_unit) == (5.0, "step")


def test_list_of_labelled_arrays_keeps_its_units():
    arrays = [timed(0.25 * np.arange(n), units="ps") for n in (5, 8)]
    pairs = lagged_pairs(arrays)
    assert (pairs.dt, pairs.time_unit, pairs.coordinate_names) == (0.25, "ps", ("a", "b"))
    with pytest.raises(ValueError, match=r"trajectories must have one dt.*0.25.*0.5"):
        lagged_pairs([*arrays, timed(0.5 * np.arange(5), units="ps")])


@pytest.mark.parametrize("start", [0.0, 1e3, 1e5])
def test_single_precision_times_are_evenly_spaced(start):
    pairs = lagged_pairs(timed((start + 0.02 * np.arange(5000)).astype(np.float32), units="ps"))
    assert np.isclose(pairs.dt, 0.02, rtol=1e-3)


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
    with pytest.raises(ValueError, match=r"dt must be a positive number; got"):
        lagged_pairs(np.arange(5.0), dt=dt)


# ---- bad input -------------------------------------------------------------------------------------------------------

GOOD = np.random.default_rng(4).normal(size=(20, 2))


def spoiled(frame, value):
    bad = GOOD.copy()
    bad[frame, 1] = value
    return bad


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
        (GOOD[:, :0], ValueError, r"states must not be empty; got state shape \(0,\)"),
        ((GOOD[:, :0], GOOD[:, :0]), ValueError, r"states must not be empty; got state shape \(0,\)"),
        (np.arange(10), TypeError, "trajectory 0 must be real floating point; got dtype int64"),
        (torch.arange(10), TypeError, r"trajectory 0 must be real floating point; got dtype torch.int64"),
        ([GOOD, GOOD.astype(complex)], TypeError, "trajectory 1 must be real floating point; got dtype complex128"),
        (torch.ones(5, 2, dtype=torch.complex64), TypeError, "must be real floating point; got dtype torch.complex64"),
        (GOOD.astype(object), TypeError, "trajectory 0 must be real floating point; got dtype object"),
        (np.array(["a", "b"]), TypeError, "must be real floating point; got dtype <U1"),
        (GOOD > 0, TypeError, "must be real floating point; got dtype bool"),
        ([[[1.0, 2.0], [3.0]]], TypeError, "trajectory 0 is not a rectangular array of numbers"),
        (None, TypeError, "trajectory 0 must be real floating point; got dtype object"),
        ((GOOD, GOOD.astype(int)), TypeError, "x_next must be real floating point; got dtype int64"),
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


@pytest.mark.parametrize("lag", [0, -1, 1.0, 1.5, True, "1", None])
def test_bad_lag(lag):
    with pytest.raises(ValueError, match="lag must be an integer number of frames, at least 1; got"):
        lagged_pairs(GOOD, lag)


def test_numpy_integers_are_lags():
    assert lagged_pairs(GOOD, np.int64(3)).lag == 3


def test_every_short_trajectory_is_listed():
    with pytest.raises(ValueError, match="lag=5 needs trajectories of more than 5 frames; too short") as caught:
        lagged_pairs([GOOD, GOOD[:5], GOOD[:6], GOOD[:0], GOOD[:1]], 5)
    assert "trajectory 1 (5 frames), trajectory 3 (0 frames), trajectory 4 (1 frames)" in str(caught.value)


def test_constant_columns_may_be_kept():
    pairs = lagged_pairs(np.column_stack([GOOD, np.ones(20)]), check_constant=False)
    assert pairs.state_shape == (3,)
    assert (pairs.x[:, 2] == 1).all()


def test_images_may_have_constant_pixels():
    images = np.random.default_rng(5).normal(size=(6, 3, 3))
    images[:, 0, 0] = 0
    assert lagged_pairs(images).state_shape == (3, 3)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["nc", "zarr", "npy"])
def test_files_give_the_same_pairs_as_memory(tmp_path, suffix):
    from koopman_lora.systems import NoisyLogisticMap

    array = NoisyLogisticMap(dt=0.5).simulate(n_trajectories=2, n_steps=30)
    path = tmp_path / f"trajectories.{suffix}"
    if suffix == "nc":
        array.to_netcdf(path, engine="h5netcdf")
    elif suffix == "zarr":
        pytest.importorskip("zarr")
        array.to_dataset().to_zarr(path)
    else:
        np.save(path, array.values[0])
    opened, expected = open_trajectories(path), lagged_pairs(array if suffix != "npy" else array.values[0], 2)
    pairs = lagged_pairs(opened, 2)
    assert torch.equal(pairs.x, expected.x)
    assert torch.equal(pairs.x_next, expected.x_next)
    assert (pairs.dt, pairs.time_unit, pairs.coordinate_names) == (
        expected.dt,
        expected.time_unit,
        expected.coordinate_names,
    )
    assert torch.equal(lagged_pairs(open_trajectories(str(path)), 2).x, expected.x)


def test_state_is_picked_among_several_variables(tmp_path):
    dataset = xr.Dataset({"other": ("time", np.zeros(4)), "state": ("time", np.arange(4.0))})
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert open_trajectories(tmp_path / "a.nc").values.tolist() == [0, 1, 2, 3]


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path .*nothing.nc' does not exist"):
        open_trajectories(tmp_path / "nothing.nc")
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"path must end in .nc, .zarr or .npy; got .*a.txt"):
        open_trajectories(tmp_path / "a.txt")
    xr.Dataset({"a": ("time", np.zeros(4)), "b": ("time", np.zeros(4))}).to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"must hold one variable, or one named 'state'; got \['a', 'b'\]"):
        open_trajectories(tmp_path / "b.nc")
    np.save(tmp_path / "c.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        open_trajectories(tmp_path / "c.npy")


# ---- splits ----------------------------------------------------------------------------------------------------------


def frames(pairs):
    return set(pairs.x.flatten().tolist()) | set(pairs.x_next.flatten().tolist())


@given(
    lengths=st.lists(st.integers(2, 120), min_size=1, max_size=25),
    lag=st.integers(1, 12),
    held_out=st.floats(0.05, 0.9),
    by=st.sampled_from(["auto", "trajectory", "blocks"]),
    seed=st.integers(0, 100),
)
def test_splits_share_no_frame(lengths, lag, held_out, by, seed):
    pairs = lagged_pairs(ragged([n + lag for n in lengths]), lag, check_constant=False)
    try:
        train, held = split_pairs(pairs, held_out, by, seed=seed)
    except ValueError as error:
        assert "leaves too few" in str(error) or (by == "trajectory" and len(lengths) == 1)  # noqa: PT017
        return
    assert not frames(train) & frames(held)
    assert len(held) > 0
    assert len(train) >= 2
    for part in (train, held):  # each still pairs of one trajectory, a lag apart
        assert (part.x_next - part.x == lag).all()
        assert np.array_equal(part.x[:, 0], 1000 * part.trajectory + part.frame)
    again = split_pairs(pairs, held_out, by, seed=seed)
    assert np.array_equal(again[1].frame, held.frame)


def test_split_by_trajectory_takes_whole_trajectories():
    pairs = lagged_pairs(ragged([30] * 10), 2)
    train, held = split_pairs(pairs, 0.3, by="trajectory", seed=1)
    assert len(set(held.trajectory)) == 3
    assert not set(held.trajectory) & set(train.trajectory)
    assert len(train) + len(held) == len(pairs)  # no gap is needed


def test_split_by_blocks_drops_only_the_gap():
    pairs = lagged_pairs(np.arange(2003.0), 3)
    train, held = split_pairs(pairs, 0.1, by="blocks", n_blocks=20)
    assert len(held) == 200
    assert 0 < len(pairs) - len(train) - len(held) <= 2 * 2 * 3  # at most two gaps of a lag around each of two blocks


def test_auto_takes_trajectories_when_there_are_many():
    many, few = lagged_pairs(ragged([12] * 20), 1), lagged_pairs(ragged([120] * 2), 1)
    assert np.array_equal(split_groups(many), many.trajectory)
    assert len(np.unique(split_groups(few))) == 20


def test_seeds_draw_different_blocks():
    pairs = lagged_pairs(np.arange(1000.0))
    held = {tuple(split_pairs(pairs, 0.1, seed=s)[1].frame) for s in range(8)}
    assert len(held) > 4


@given(lengths=some_lengths, n_blocks=st.integers(1, 30))
def test_blocks_are_contiguous_and_never_across_trajectories(lengths, n_blocks):
    pairs = lagged_pairs(ragged([n + 1 for n in lengths]), 1, check_constant=False)
    block = block_numbers(pairs, n_blocks)
    assert block[0] == 0
    assert set(np.diff(block)) <= {0, 1}
    assert all(len(set(pairs.trajectory[block == b])) == 1 for b in np.unique(block))
    assert block.max() + 1 >= min(len(lengths), n_blocks)


@given(lengths=st.lists(st.integers(30, 60), min_size=1, max_size=4), lag=st.integers(1, 3), n=st.integers(2, 5))
def test_folds_share_no_frame_and_leave_out_no_more_than_that_takes(lengths, lag, n):
    pairs = lagged_pairs(ragged(lengths), lag=lag)
    fold = fold_numbers(pairs, n)
    frames = [set(np.r_[pairs.x[fold == i].ravel(), pairs.x_next[fold == i].ravel()]) for i in range(n)]
    assert all(not frames[i] & frames[j] for i in range(n) for j in range(i))
    assert set(fold) - {-1} == set(range(n))
    assert np.sum(fold == -1) <= lag * (n - 1)


def test_a_long_lag_leaves_fewer_folds_and_then_none():
    series = np.arange(100.0)
    assert fold_numbers(lagged_pairs(series, lag=30), 5).max() + 1 < 5
    with pytest.raises(ValueError, match="1 pairs at lag 98 are too few for two folds"):
        fold_numbers(lagged_pairs(series, lag=98).select(np.array([0])), 5)


@given(lengths=some_lengths, lag=st.integers(1, 5), seed=st.integers(0, 100))
def test_without_overlap_drops_exactly_the_pairs_that_share_a_frame(lengths, lag, seed):
    pairs = lagged_pairs(ragged([n + lag for n in lengths]), lag, check_constant=False)
    held = np.random.default_rng(seed).random(len(pairs)) < 0.2
    kept = without_overlap(pairs, held)
    used = frames(pairs.select(held)) if held.any() else set()
    expected = [
        not h and not {a, b} & used
        for h, a, b in zip(held, pairs.x[:, 0].tolist(), pairs.x_next[:, 0].tolist(), strict=True)
    ]
    assert kept.tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 0}, "held_out must lie between 0 and 1; got 0"),
        ({"held_out": 1.0}, "held_out must lie between 0 and 1; got 1.0"),
        ({"held_out": float("nan")}, "held_out must lie between 0 and 1; got nan"),
        ({"by": "random"}, "by must be one of 'auto', 'trajectory', 'blocks'; got 'random'"),
        ({"by": "trajectory"}, "by='trajectory' needs at least 2 trajectories; got 1. Use by='blocks'"),
        ({"held_out": 0.9, "n_blocks": 2}, "held_out=0.9 leaves too few of 4 pairs to train on"),
    ],
)
def test_bad_splits(options, message):
    with pytest.raises(ValueError, match=message):
        split_pairs(lagged_pairs(np.arange(5.0)), **options)


def test_select_takes_positions_and_masks():
    pairs = lagged_pairs(ragged([6, 6]), 1)
    mask = pairs.frame == 2
    for chosen in (pairs.select(mask), pairs.select(np.flatnonzero(mask)), pairs.select([2, 7])):
        assert chosen.x[:, 0].tolist() == [2, 1002]
        assert chosen.x_next[:, 0].tolist() == [3, 1003]
        assert chosen.trajectory.tolist() == [0, 1]


# ---- standardisation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_of_coordinates_with_large_offsets(dtype):
    rng = np.random.default_rng(6)
    values = (rng.normal(size=(4001, 3)) * [1e-2, 1.0, 1e3] + [300, 2.0e5, -5e6]).astype(dtype)
    mean, scale = standardization(lagged_pairs(values))
    assert mean.dtype == scale.dtype == torch.float64
    both = np.concatenate([values[:-1], values[1:]]).astype(np.float64)
    assert np.allclose(mean, both.mean(0), rtol=1e-14)
    assert np.allclose(scale, both.std(0), rtol=1e-9)


@pytest.mark.parametrize(
    ("state", "axes", "shape"),
    [
        ((2,), (0,), (2,)),
        ((4, 5), (0, 1, 2), (1, 1)),
        ((3, 4, 5), (0, 2, 3), (3, 1, 1)),
        ((2, 3, 4, 5), (0, 1, 2, 3, 4), (1,) * 4),
    ],
)
def test_statistics_are_per_coordinate_per_channel_or_per_image(state, axes, shape):
    values = np.random.default_rng(7).normal(size=(50, *state)) + np.arange(state[0]).reshape(
        -1, *(1,) * (len(state) - 1)
    )
    mean, scale = standardization(lagged_pairs(values))
    both = np.concatenate([values[:-1], values[1:]])
    assert tuple(mean.shape) == tuple(scale.shape) == shape
    assert np.allclose(mean.flatten(), both.mean(axes).flatten())
    assert np.allclose(scale.flatten(), both.std(axes).flatten())


@pytest.mark.parametrize("constant", [0.0, 0.1, 300.3, -1e8 / 3])
def test_constant_coordinates_keep_scale_one(constant):
    """Round-off of a mean must not become a scale: a later state a little off the constant would explode."""
    values = np.column_stack([GOOD[:, 0], np.full(20, constant)])
    _, scale = standardization(lagged_pairs(values, check_constant=False))
    assert scale[1] == 1
