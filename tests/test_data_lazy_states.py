"""States that stay on disk or in their own arrays: the same pairs, numbers and fits as from memory."""

import pickle
import warnings

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_frames import ragged

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.data import lazy_states, shuffling, sources
from koopman_lora.data.files import open_trajectories
from koopman_lora.data.lazy_states import LazyStates
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.scales import standardization
from koopman_lora.data.shuffling import random_portions
from koopman_lora.data.splits import split_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.refinement import refine
from koopman_lora.systems import NoisyRotation
from koopman_lora.training import fit
from koopman_lora.training_batches import TrainingBatches

STATES = np.random.default_rng(0).normal(size=(900, 3)).cumsum(0) / 10


@pytest.fixture
def small_blocks(monkeypatch):
    """Chunks are blocks, however small they are, and portions hold a few."""
    monkeypatch.setattr(sources, "SMALLEST_BLOCK", 1)
    monkeypatch.setattr(shuffling, "BUFFER", 400)


def zarr_of(folder, values, chunks):
    return zarr.create_array(store=str(folder / "x.zarr"), data=values, chunks=chunks)


KINDS = {
    "zarr": lambda folder: zarr_of(folder, STATES, (70, 3)),
    "zarr, coordinates apart": lambda folder: zarr_of(folder, STATES, (70, 2)),
    "dask": lambda _: da.from_array(STATES, chunks=((400, 1, 499), 3)),
    "xarray": lambda _: xr.DataArray(da.from_array(STATES.T, chunks=(2, 64)), dims=("coordinate", "time")),
    "memory map": lambda folder: mapped(folder, STATES),
    "part of a memory map": lambda folder: mapped(folder, np.concatenate([STATES[:50], STATES]))[50:],
    "single precision": lambda _: da.from_array(STATES.astype("f4"), chunks=(90, 3)),
    "integers": lambda _: da.from_array((100 * STATES).astype("i2"), chunks=(90, 3)),
}


def mapped(folder, values):
    np.save(folder / "x.npy", values)
    return np.load(folder / "x.npy", mmap_mode="r")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lag", [1, 7])
def test_pairs_from_disk_are_those_from_memory(kind, lag, tmp_path, small_blocks):
    data = KINDS[kind](tmp_path)
    pairs, held = lagged_pairs(data, lag), lagged_pairs(np.asarray(data.T if kind == "xarray" else data), lag)
    assert isinstance(pairs.states, LazyStates)
    assert pairs.states.dtype == held.states.dtype
    assert torch.equal(pairs.x, held.x)
    assert torch.equal(pairs.x_next, held.x_next)
    assert pairs.fingerprint() == held.fingerprint()
    some = np.random.default_rng(1).integers(0, len(pairs), 300)
    for ours, theirs in zip(pairs.read(some), held.read(some), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(pairs.read_x(slice(60, 75)), held.x[60:75])


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    chunk=st.integers(1, 12),
    lag=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_pairs_cross_edges_of_chunks_and_no_end_of_a_trajectory(lengths, chunk, lag, seed):
    trajectories = ragged([n + lag for n in lengths])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "SMALLEST_BLOCK", 1)
        patch.setattr(shuffling, "BUFFER", 20)
        pairs = lagged_pairs([da.from_array(t, chunks=(chunk, 1)) for t in trajectories], lag, check_constant=False)
        expected = [(1000 * t + i, 1000 * t + i + lag) for t, n in enumerate(lengths) for i in range(n)]
        assert list(zip(pairs.x.flatten().tolist(), pairs.x_next.flatten().tolist(), strict=True)) == expected
        portions = random_portions(pairs, [0, len(pairs)], torch.Generator().manual_seed(seed))
        drawn = [pairs.read(part) for portion in portions for part in portion.parts]
        found = [(float(a), float(b)) for x, x_next in drawn for a, b in zip(x[:, 0], x_next[:, 0], strict=True)]
        assert sorted(found) == expected
        for portion in portions:
            assert sorted(portion.order().tolist()) == list(range(portion.stop - portion.start))


def test_trajectories_of_one_array_in_chunks_of_several(small_blocks):
    values = np.arange(5 * 12 * 2.0).reshape(5, 12, 2) ** 1.1
    array = xr.DataArray(da.from_array(values, chunks=(2, 5, 1)), dims=("trajectory", "time", "c"))
    pairs, held = lagged_pairs(array, 2), lagged_pairs(list(values), 2)
    assert torch.equal(pairs.x_next, held.x_next)
    assert pairs.trajectory.tolist() == held.trajectory.tolist()
    assert sorted(float(x) for part in _drawn(pairs) for x in part[:, 0]) == sorted(held.x[:, 0].tolist())


def _drawn(pairs):
    portions = random_portions(pairs, [0, len(pairs)], torch.Generator().manual_seed(0))
    return [pairs.read(part)[0] for portion in portions for part in portion.parts]


def test_every_block_is_decoded_once_in_a_pass_in_any_order(tmp_path, small_blocks, monkeypatch):
    """x' of the last pairs of a block are among the first frames of the next one, which are kept."""
    pairs = lagged_pairs(zarr_of(tmp_path, STATES, (70, 3)), 5)
    list(pairs.batches(200))
    decoded = []
    original = sources.Source.decode
    monkeypatch.setattr(sources.Source, "decode", lambda self, *a: decoded.append(a[1].start) or original(self, *a))
    monkeypatch.setattr(lazy_states, "_KEPT", 0)
    pairs.states._forget()
    _drawn(pairs)
    assert sorted(decoded) == list(range(0, 900, 70))


# ---- arrays in memory ------------------------------------------------------------------------------------------------


def test_large_arrays_in_memory_are_not_copied(monkeypatch):
    monkeypatch.setattr(lazy_states, "COPIED", 1000)
    pairs = lagged_pairs(STATES, 2)
    assert pairs.x.data_ptr() == STATES.ctypes.data
    several = lagged_pairs([STATES[:500], STATES[500:]], 2)
    assert several.read_x(slice(0, 10)).data_ptr() == STATES.ctypes.data
    assert torch.equal(several.x_next, lagged_pairs([STATES[:500].copy(), STATES[500:].copy()], 2).x_next)


@pytest.mark.parametrize(
    "change",
    [lambda a: a.astype(">f8"), lambda a: a[::-1], lambda a: np.asfortranarray(a), lambda a: a.astype("i4")],
)
def test_arrays_that_torch_cannot_share_are_read_in_parts(change, monkeypatch):
    values = change(STATES)
    expected = lagged_pairs(values.copy()).x
    monkeypatch.setattr(lazy_states, "COPIED", 1000)
    values.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(lagged_pairs(values).x, expected)


def test_large_explicit_pairs_stay_where_they_are(tmp_path, small_blocks):
    x, x_next = mapped(tmp_path, STATES[:-3]), da.from_array(STATES[3:], chunks=(100, 3))
    pairs, held = lagged_pairs((x, x_next), lag=3), lagged_pairs((STATES[:-3], STATES[3:]), lag=3)
    assert isinstance(pairs.states, LazyStates)
    assert torch.equal(pairs.x_next, held.x_next)
    assert pairs.fingerprint() == held.fingerprint() == lagged_pairs(STATES, 3).fingerprint()
    assert sorted(float(x) for part in _drawn(pairs) for x in part[:, 0]) == sorted(STATES[:-3, 0].tolist())


def test_lazy_pairs_travel_to_other_processes(tmp_path):
    pairs = lagged_pairs(zarr_of(tmp_path, STATES, (300, 3)))
    pairs.read(slice(0, 10))
    assert torch.equal(pickle.loads(pickle.dumps(pairs)).x, pairs.x)


# ---- the same numbers ------------------------------------------------------------------------------------------------

ROTATION = NoisyRotation(omega=0.7, noise=0.4).simulate(n_trajectories=1, n_steps=3000, seed=1).values[0]


@pytest.fixture
def both(small_blocks):
    lazy = lagged_pairs(da.from_array(ROTATION, chunks=(257, 2)), 2)
    return lazy, lagged_pairs(ROTATION, 2)


def test_standardising_and_moments_are_those_from_memory(both):
    for ours, theirs in zip(*(standardization(pairs) for pairs in both), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-14)
    lazy, held = (estimate_moments(torch.tanh, torch.sin, pairs, observables=flat_state, n_blocks=7) for pairs in both)
    for name in held.names:
        np.testing.assert_allclose(getattr(lazy, name), getattr(held, name), rtol=1e-12, atol=1e-14)
    assert lazy.block_counts.tolist() == held.block_counts.tolist()


def test_refinement_of_the_same_weights_is_that_from_memory(both):
    found = []
    for pairs in both:
        torch.manual_seed(0)
        model = KoopmanLoRAModel(2, 4, hidden_dims=(16,), learn_svals=True, has_centering=True)
        model.standardize.set_statistics(*standardization(pairs))
        refine(model, split_pairs(pairs))
        found.append(model.svals_array())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.slow
def test_a_fit_from_disk_answers_all_questions(both):
    lazy, held = (KoopmanLoRA(n_modes=3, hidden_dims=(16,), n_epochs=4).fit(pairs) for pairs in both)
    ours, theirs = (fitted.spectrum_["canonical_singular_values"].values for fitted in (lazy, held))
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    assert "mode" in str(lazy.summary())
    states = da.from_array(ROTATION, chunks=(500, 2))
    np.testing.assert_array_equal(lazy.singular_functions(states), lazy.singular_functions(ROTATION))
    np.testing.assert_array_equal(
        lazy.forecast(states[:20], 2).forecast.values, lazy.forecast(ROTATION[:20], 2).forecast.values
    )
    assert lazy.fitted().was_fitted_to(ROTATION)


# ---- batches of training ---------------------------------------------------------------------------------------------


def batches_of(pairs, n=7, seed=3):
    return TrainingBatches(KoopmanLoRAModel(2, 3, hidden_dims=(4,)), pairs, n, seed)


def test_a_pass_has_every_pair_once_in_batches_of_one_size(both):
    lazy, _ = both
    batches = batches_of(lazy, 11)
    for _ in range(2):
        x, x_next = zip(*(next(batches) for _ in range(11)), strict=True)
        assert {len(part) for part in x} <= {len(lazy) // 11, len(lazy) // 11 + 1}
        for side, expected in ((x, lazy.x), (x_next, lazy.x_next)):
            assert torch.equal(torch.cat(side).sort(0).values, expected.float().sort(0).values)
    batches.close()


@pytest.mark.parametrize("n_seen", [0, 5, 7, 12])
def test_batches_go_on_from_a_state_as_if_nothing_had_happened(both, n_seen):
    batches = batches_of(both[0])
    for _ in range(n_seen):
        next(batches)
    state = batches.state()
    expected = [next(batches) for _ in range(9)]
    other = batches_of(both[0], seed=0)
    next(other)
    other.restore(state)
    for (x, x_next), (wanted, wanted_next) in zip(other, expected, strict=False):
        assert torch.equal(x, wanted)
        assert torch.equal(x_next, wanted_next)
    batches.close()
    other.close()


def test_a_seed_gives_one_sequence_and_blocks_are_mixed(both):
    first, again, other = (batches_of(both[0], 7, seed) for seed in (3, 3, 4))
    a, b, c = (next(batches)[0] for batches in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    for batches in (first, again, other):
        batches.close()


def test_the_thread_that_reads_ahead_ends_with_the_fit(both):
    import threading

    before = set(threading.enumerate())
    fit(KoopmanLoRAModel(2, 3, hidden_dims=(4,)), both[0], n_epochs=2)
    assert set(threading.enumerate()) <= before


class FailsLater:
    """An array that cannot be read from some frame on, as after a disk was taken away."""

    def __init__(self, values, frame):
        self.values, self.frame, self.shape, self.dtype, self.ndim = values, frame, values.shape, values.dtype, 2

    def __getitem__(self, index):
        if index[0].stop > self.frame:
            raise OSError("no such device")
        return self.values[index]


def test_what_cannot_be_read_stops_the_fit_and_is_told_with_its_place(small_blocks):
    """Also where it happens in the thread that reads ahead."""
    disk = da.from_array(FailsLater(ROTATION, 2700), chunks=(300, 2), meta=np.empty((0, 0)))
    message = r"frames 2700 to 2999 of trajectory 0' cannot be read \(no such device"
    pairs = lagged_pairs(disk, check_constant=False)
    with pytest.raises(ValueError, match=message):
        fit(KoopmanLoRAModel(2, 3, hidden_dims=(4,)), split_pairs(pairs, 0), n_epochs=1)
    batches = batches_of(pairs, 100)
    with pytest.raises(ValueError, match=message):
        [next(batches) for _ in range(100)]
    batches.close()


# ---- bad data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_told_when_it_is_read(bad, small_blocks):
    values = STATES.copy()
    values[500:502, 1] = bad
    data = [da.from_array(STATES, chunks=(90, 3)), da.from_array(values, chunks=(90, 3))]
    with pytest.raises(ValueError, match=r"trajectory 1 holds NaN or inf at frame 500 \(2 such frames\)"):
        KoopmanLoRA(n_modes=2, hidden_dims=(4,), n_epochs=1).fit(data)
    together = xr.DataArray(da.stack(data), dims=("trajectory", "time", "c"))
    with pytest.raises(ValueError, match="trajectory 1 holds NaN or inf at frame 500"):
        standardization(lagged_pairs(together))


def test_a_constant_coordinate_on_disk_is_found_without_reading_more_than_is_needed(small_blocks):
    values = np.column_stack([STATES, np.ones(900)])
    with pytest.raises(ValueError, match=r"data has constant columns: 3\. They carry no dynamics"):
        lagged_pairs(da.from_array(values, chunks=(90, 4)))
    pairs = lagged_pairs(
        da.from_array(FailsLater(STATES, 400), chunks=(200, 3), meta=np.empty((0, 0))), check_constant=False
    )
    assert len(pairs) == 899


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (da.zeros((9, 2), dtype=complex), TypeError, "trajectory 0 must hold real numbers; got dtype complex128"),
        (da.zeros((), dtype=float), ValueError, "trajectory 0 must have a time axis"),
        (da.zeros((9, 0)), ValueError, "states must not be empty"),
        ([da.zeros((9, 2)), da.zeros((9, 3))], ValueError, r"trajectory 0 has \(2,\), trajectory 1 has \(3,\)"),
        (xr.DataArray(da.zeros((9, 2)), dims=("a", "b")), ValueError, "data must have a dimension 'time'"),
    ],
)
def test_bad_lazy_data(data, error, message):
    with pytest.raises(error, match=message):
        lagged_pairs(data)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ((8, 16), "chunks of 8 frames x 16 of 16 numbers, 1.02 kB each: opening them takes longer than reading them"),
        ((4_000_000, 1), "chunks of 4000000 frames x 1 of 16 numbers, 32 MB each: to read one frame, 512 MB are"),
    ],
)
def test_hopeless_chunks_are_told_once_with_what_to_do(chunks, message):
    data = da.zeros((4_000_000, 16), chunks=chunks)
    with pytest.warns(UserWarning, match=message) as told:
        lagged_pairs(data, check_constant=False)
    assert len(told) == 1
    assert "Write it once in chunks of about 32768 frames with all numbers of a state" in str(told[0].message)


def test_good_chunks_and_small_data_are_not_spoken_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lagged_pairs(da.zeros((4_000_000, 16), chunks=(32_768, 16)), check_constant=False)
        lagged_pairs(da.from_array(STATES, chunks=(10, 3)))


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    for i in range(3):
        array = xr.DataArray(
            STATES + i, dims=("time", "coordinate"), name="state", attrs={"dt": 0.5, "time_unit": "ps"}
        )
        array.to_netcdf(tmp_path / f"{i}.nc", engine="h5netcdf")
    xr.DataArray(STATES, dims=("time", "c"), name="state").chunk(time=100).to_dataset().to_zarr(
        tmp_path / "x.zarr", consolidated=False
    )
    np.save(tmp_path / "x.npy", STATES)
    return tmp_path


@pytest.mark.parametrize("loaded", [0, 2**28])
def test_files_in_lists_and_patterns_are_trajectories_by_name(files, loaded, monkeypatch):
    monkeypatch.setattr("koopman_lora.data.files.LOADED", loaded)
    expected = lagged_pairs([STATES, STATES + 1, STATES + 2], 2, 0.5, "ps")
    named = [files / f"{i}.nc" for i in range(3)]
    for data in (named, list(map(str, named)), str(files / "*.nc"), open_trajectories(files / "?.nc*")):
        pairs = lagged_pairs(data, 2)
        assert isinstance(pairs.states, LazyStates) == (loaded == 0)
        assert pairs.fingerprint() == expected.fingerprint()
        assert pairs.clock == expected.clock


@pytest.mark.parametrize("name", ["0.nc", "x.zarr", "x.npy"])
def test_large_files_stay_on_disk(files, name, monkeypatch):
    monkeypatch.setattr("koopman_lora.data.files.LOADED", 0)
    pairs = lagged_pairs(open_trajectories(files / name), 3)
    assert isinstance(pairs.states, LazyStates)
    assert pairs.fingerprint() == lagged_pairs(STATES, 3).fingerprint()


def test_small_files_are_in_memory(files):
    assert isinstance(open_trajectories(files / "x.npy"), np.ndarray)
    assert open_trajectories(files / "x.zarr").chunks is None or open_trajectories(files / "x.zarr")._in_memory


def test_a_damaged_chunk_is_told_with_its_file(files, monkeypatch):
    monkeypatch.setattr("koopman_lora.data.files.LOADED", 0)
    chunk = files / "x.zarr" / "state" / "c" / "5" / "0"
    chunk.write_bytes(b"nonsense" + chunk.read_bytes()[8:])
    pairs = lagged_pairs(open_trajectories(files / "x.zarr"), check_constant=False)
    with pytest.raises(ValueError, match=r"frames .* of trajectory 0 in .*x\.zarr' cannot be read"):
        standardization(pairs)


def test_files_that_are_not_there(files):
    with pytest.raises(FileNotFoundError, match=r"path .*\*\.zarrr' matches no file"):
        open_trajectories(files / "*.zarrr")
    with pytest.raises(ValueError, match="path is an empty list; give at least one file"):
        open_trajectories([])
