import json

import numpy as np
import pytest
import xarray as xr

from koopman_lora._labels import provenance, trajectory_array


def test_every_setting_survives_a_file(tmp_path):
    settings = {
        "lag": 3,
        "dt": 0.5,
        "name": "x",
        "flag": True,
        "unset": np.False_,
        "nothing": None,
        "numpy": np.float32(0.25),
        "dims": (64, 128),
        "matrix": np.eye(2),
        "nested": {"a": [1, 2]},
        "odd": object,
    }
    xr.Dataset(attrs=provenance(**settings)).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    attrs = xr.load_dataset(tmp_path / "a.nc", engine="h5netcdf").attrs
    assert (attrs["lag"], attrs["dt"], attrs["name"], attrs["numpy"]) == (3, 0.5, "x", 0.25)
    assert attrs["flag"]
    assert not attrs["unset"]  # the text "False" would be true
    assert attrs["nothing"] == "None"
    assert json.loads(attrs["dims"]) == [64, 128]
    assert json.loads(attrs["matrix"]) == [[1.0, 0.0], [0.0, 1.0]]
    assert json.loads(attrs["nested"]) == {"a": [1, 2]}
    assert attrs["created_by"] == "koopman_lora"


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((2, 5), ("trajectory", "time")),
        ((2, 5, 3), ("trajectory", "time", "coordinate")),
        ((2, 5, 4, 6), ("trajectory", "time", "coordinate_0", "coordinate_1")),
    ],
)
def test_trajectories_of_any_state_shape_are_labelled(shape, dims):
    values = np.random.default_rng(0).normal(size=shape)
    array = trajectory_array(values, dt=0.1, time_unit="ns", coordinate_unit="nm", attrs={"seed": 3})
    assert array.dims == dims
    assert np.array_equal(array.values, values)
    assert np.allclose(array.time, 0.1 * np.arange(5))
    assert array.time.attrs["units"] == array.attrs["time_unit"] == "ns"
    assert (array.attrs["units"], array.attrs["dt"], array.attrs["seed"]) == ("nm", 0.1, 3)


def test_coordinates_are_named():
    array = trajectory_array(np.zeros((1, 2, 2)), dt=1.0, time_unit="s", coordinate_names=["phi", "psi"])
    assert array.coordinate.values.tolist() == ["phi", "psi"]
