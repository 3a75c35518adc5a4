import numpy as np
import pytest
import torch
import xarray as xr

from koopman_lora.data.files import open_trajectories
from koopman_lora.data.pairs import lagged_pairs


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
    assert (pairs.clock, pairs.coordinate_names) == (expected.clock, expected.coordinate_names)
    assert torch.equal(lagged_pairs(open_trajectories(str(path)), 2).x, expected.x)


def test_state_is_picked_among_several_variables(tmp_path):
    dataset = xr.Dataset({"other": ("time", np.zeros(4)), "state": ("time", np.arange(4.0))})
    dataset.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    assert open_trajectories(tmp_path / "a.nc").values.tolist() == [0, 1, 2, 3]


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path .*nothing.nc' does not exist"):
        open_trajectories(tmp_path / "nothing.nc")
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match=r"path must end in .nc, .zarr, .npy, .npz, .csv or .parquet; got .*a.txt"):
        open_trajectories(tmp_path / "a.txt")
    xr.Dataset({"a": ("time", np.zeros(4)), "b": ("time", np.zeros(4))}).to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"must hold one variable, or one named 'state'; got \['a', 'b'\]"):
        open_trajectories(tmp_path / "b.nc")
    np.save(tmp_path / "c.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"c\.npy' cannot be read \(.*Python objects"):
        open_trajectories(tmp_path / "c.npy")
