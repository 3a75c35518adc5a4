"""Trajectories from files: NetCDF, Zarr, NumPy."""

from __future__ import annotations

import pathlib

import numpy as np
import xarray as xr


def open_trajectories(path: str | pathlib.Path) -> xr.DataArray | np.ndarray:
    """Open trajectories from NetCDF (`.nc`), Zarr (`.zarr`) or NumPy (`.npy`).

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ValueError
        For another kind of file, or a file with several variables and none named 'state'.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist; give a .nc, .zarr or .npy with trajectories.")
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".nc":
        dataset = xr.load_dataset(path, engine="h5netcdf")
    elif path.suffix == ".zarr":
        dataset = xr.open_zarr(path)
    else:
        raise ValueError(f"path must end in .nc, .zarr or .npy; got {str(path)!r}.")
    names = list(dataset.data_vars)
    if "state" not in names and len(names) != 1:
        raise ValueError(f"{str(path)!r} must hold one variable, or one named 'state'; got {names}.")
    return dataset["state" if "state" in names else names[0]]
