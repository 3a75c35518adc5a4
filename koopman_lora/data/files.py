"""Trajectories from files: NetCDF, Zarr, NumPy; and what all readers of these share."""

from __future__ import annotations

import pathlib

import numpy as np
import xarray as xr

from koopman_lora.checks import checked
from koopman_lora.data.seals import check_sealed, check_store, told_of

_WANTED = "give trajectories in .nc, .zarr or .npy"


@checked
def open_trajectories(path: str | pathlib.Path) -> xr.DataArray | np.ndarray:
    """Open trajectories from NetCDF (`.nc`), Zarr (`.zarr`, whose chunks are read when asked for) or NumPy (`.npy`).

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ValueError
        For another kind of file, a damaged one, or a file with several variables and none named 'state'.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist; give a .nc, .zarr or .npy with trajectories.")
    if path.suffix == ".npy":
        return read_array(path)
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"path must end in .nc, .zarr or .npy; got {str(path)!r}.")
    dataset = read_netcdf(path, _WANTED) if path.suffix == ".nc" else open_store(path, _WANTED)
    names = list(dataset.data_vars)
    if "state" not in names and len(names) != 1:
        raise ValueError(f"{str(path)!r} must hold one variable, or one named 'state'; got {names}.")
    return dataset["state" if "state" in names else names[0]]


def read_netcdf(path: pathlib.Path, wanted: str = "") -> xr.Dataset:
    """A NetCDF file in memory, after a look at its checksum where it has one.

    Raises
    ------
    ValueError
        If it is damaged or none; `wanted` says what to give instead.
    """
    check_sealed(path)  # first: HDF5 can crash on damaged files
    with told_of(path, wanted):
        _visit(path)
        return xr.load_dataset(path, engine="h5netcdf")


def _visit(path: pathlib.Path) -> None:
    """Touch all metadata: h5netcdf, when it fails to open a file, prints a traceback as it is collected."""
    import h5py

    with h5py.File(path, "r") as file:
        dict(file.attrs)
        file.visititems(lambda _, item: dict(item.attrs) and None)


def open_store(path: pathlib.Path, wanted: str = "") -> xr.Dataset:
    """A Zarr store, its chunks not yet read, after a look at its checksum where it has one.

    Raises
    ------
    ValueError
        If it is damaged or none; `wanted` says what to give instead.
    """
    check_store(path)
    with told_of(path, wanted):
        return xr.open_zarr(path, consolidated=False)


def read_array(path: pathlib.Path, wanted: str = _WANTED) -> np.ndarray:
    """A NumPy file (`.npy`) in memory.

    Raises
    ------
    ValueError
        If it is damaged or none; `wanted` says what to give instead.
    """
    with told_of(path, wanted):
        # numpy allocates what the header states; a map is compared with the size of the file first
        if not isinstance(np.load(path, mmap_mode="r", allow_pickle=False), np.ndarray):
            raise ValueError("it is an archive of arrays")
        return np.load(path, allow_pickle=False)
