"""Trajectories from files: NetCDF, Zarr, NumPy; and what all readers of these share."""

from __future__ import annotations

import pathlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import TIME
from koopman_lora.checks import checked
from koopman_lora.data.seals import check_sealed, check_store, told_of

# Bytes of a part of what has no chunks.
_PART = 2**22
_WANTED = "give trajectories in .nc, .zarr or .npy"


# Bytes that are loaded; trajectories that are larger, all files together, stay on disk until they are read.
LOADED = 2**28


@checked
def open_trajectories(path: str | pathlib.Path | Sequence[str | pathlib.Path]) -> Any:
    """Open trajectories from NetCDF (`.nc`), Zarr (`.zarr`) or NumPy (`.npy`): one file, a list, or a pattern (`*`).

    Up to 256 MB are loaded. Larger ones stay on disk: Zarr and NetCDF as DataArrays in chunks, which need Dask, NumPy
    as a memory map. `lagged_pairs` and `fit` read of them what they need, a few chunks at a time. Several files are
    several trajectories; one that was cut into files is joined by `xr.concat(..., "time")`.

    Parameters
    ----------
    path : str, path, or list of them
        A file, a Zarr store, or a pattern with `*`.

    Returns
    -------
    DataArray or array; of a list or a pattern a list of those, by name for a pattern

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ValueError
        For another kind of file, a damaged one, or a file with several variables and none named 'state'.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/run.npy", np.zeros((100, 2)))
    ...     open_trajectories(folder + "/run.npy").shape, len(open_trajectories(folder + "/*.npy"))
    ((100, 2), 1)
    """
    paths, is_one = _paths(path)
    found = [_opened(one) for one in paths]
    if sum(one.nbytes for one in found) <= LOADED:
        found = [_loaded(one, path) for one, path in zip(found, paths, strict=True)]
    return found[0] if is_one else found


def _paths(path: str | pathlib.Path | Sequence[str | pathlib.Path]) -> tuple[list[pathlib.Path], bool]:
    """Every file that is meant, and whether it is a single one."""
    if not isinstance(path, (str, pathlib.Path)):
        if len(path) == 0:
            raise ValueError("path is an empty list; give at least one file.")
        return [pathlib.Path(one) for one in path], False
    one = pathlib.Path(path)
    if "*" not in one.name or one.exists():
        return [one], True
    found = sorted(one.parent.glob(one.name))
    if not found:
        raise FileNotFoundError(f"path {str(path)!r} matches no file; give .nc, .zarr or .npy with trajectories.")
    return found, False


def _opened(path: pathlib.Path) -> xr.DataArray | np.ndarray:
    """One file, nothing of its states read yet."""
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist; give a .nc, .zarr or .npy with trajectories.")
    if path.suffix == ".npy":
        return _mapped(path, _WANTED)
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"path must end in .nc, .zarr or .npy; got {str(path)!r}.")
    dataset = _open_netcdf(path) if path.suffix == ".nc" else open_store(path, _WANTED)
    names = list(dataset.data_vars)
    if "state" not in names and len(names) != 1:
        raise ValueError(f"{str(path)!r} must hold one variable, or one named 'state'; got {names}.")
    array = dataset["state" if "state" in names else names[0]]
    if path.suffix == ".nc" and array.nbytes > LOADED:
        array = array.chunk(_chunks(array))
    array.encoding["source"] = str(path)  # for messages about chunks that cannot be read
    return array


def _open_netcdf(path: pathlib.Path) -> xr.Dataset:
    check_sealed(path)  # first: HDF5 can crash on damaged files
    with told_of(path, _WANTED):
        _visit(path)
        return xr.open_dataset(path, engine="h5netcdf", cache=False)


def _chunks(array: xr.DataArray) -> dict[Hashable, int]:
    """Chunks of a NetCDF variable: whole ones of the file, and of one without some MB each."""
    stored = array.encoding.get("chunksizes")
    sizes = dict(zip(array.dims, stored or array.shape, strict=True))
    if not stored and TIME in sizes:
        sizes[TIME] = max(1, _PART // max(1, array.nbytes // array.sizes[TIME]))
    return sizes


def _loaded(opened: xr.DataArray | np.ndarray, path: pathlib.Path) -> xr.DataArray | np.ndarray:
    """The same in memory."""
    with told_of(path, _WANTED):
        return np.array(opened) if isinstance(opened, np.ndarray) else opened.load()


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
    return np.array(_mapped(path, wanted))


def _mapped(path: pathlib.Path, wanted: str) -> np.ndarray:
    with told_of(path, wanted):
        # numpy allocates what the header states; a map is compared with the size of the file first
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive of arrays")
        return found
