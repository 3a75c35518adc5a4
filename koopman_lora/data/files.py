"""Trajectories from files: NetCDF, Zarr, NumPy, tables; and what all readers of these share."""

from __future__ import annotations

import glob
import pathlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import TIME
from koopman_lora.checks import checked
from koopman_lora.data.array_files import check_variable, map_array, read_archive
from koopman_lora.data.seals import check_sealed, check_store, told_of
from koopman_lora.data.table_files import TABLES, read_table

# Bytes of a part of what has no chunks.
_PART = 2**22
KINDS = ".nc, .zarr, .npy, .npz, .csv or .parquet"
_WANTED = f"give trajectories in {KINDS}"
_MOLECULES = (".xtc", ".trr", ".dcd", ".pdb", ".gro", ".ncdf", ".h5", ".hdf5")

# Bytes that are loaded; trajectories that are larger, all files together, stay on disk until they are read.
LOADED = 2**28


@checked
def open_trajectories(
    path: str | pathlib.Path | Sequence[str | pathlib.Path],
    variable: str | None = None,
    columns: Sequence[str] | None = None,
    time_column: str | None = None,
) -> Any:
    """Open trajectories from files: one, a list, or a pattern (`*`, `?`).

    Up to 256 MB are loaded. Larger ones stay on disk: Zarr and NetCDF as DataArrays in chunks, which need Dask, NumPy
    as a memory map; tables and archives are always loaded. `lagged_pairs` and `fit` read of them what they need, a few
    chunks at a time. Several files are several trajectories; one that was cut into files is joined by
    `xr.concat(..., "time")`.

    Parameters
    ----------
    path : NetCDF (`.nc`), Zarr (`.zarr`), NumPy (`.npy`); archives of NumPy (`.npz`), where several arrays are several
        trajectories; tables (`.csv` with names in the first row, `.parquet`), a row for each frame
    variable : which one to read of an archive, or of a NetCDF or Zarr file, where there are several
    columns : of a table those that are coordinates; by default all but that of the times
    time_column : of a table, numbers or dates; by default 'time', where there is a column of that name

    Returns
    -------
    DataArray or array; of a list, a pattern or several arrays in a file a list of those, by name for a pattern

    Raises
    ------
    FileNotFoundError
        If nothing is at `path`.
    ImportError
        For `.parquet` without pyarrow.
    ValueError
        For another kind of file, a damaged one, one with several variables of which none is named, or without the
        variable or the columns that are.
    TypeError
        For columns that hold no numbers.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/run.npy", np.zeros((100, 2)))
    ...     open_trajectories(folder + "/run.npy").shape, len(open_trajectories(folder + "/*.npy"))
    ((100, 2), 1)
    """
    paths, is_one = paths_of(path)
    parts = [part for parts in open_each(paths, variable, columns, time_column) for part in parts]
    return parts[0] if is_one and len(parts) == 1 else parts


def open_each(
    paths: Sequence[pathlib.Path],
    variable: str | None = None,
    columns: Sequence[str] | None = None,
    time_column: str | None = None,
) -> list[list[Any]]:
    """The trajectories of each file, loaded where they are small, all together; see `open_trajectories`."""
    opened = [_opened(path, variable, columns, time_column) for path in paths]
    if sum(part.nbytes for parts in opened for part in parts) > LOADED:
        return opened
    return [[_loaded(part, path) for part in parts] for parts, path in zip(opened, paths, strict=True)]


def paths_of(path: str | pathlib.Path | Sequence[str | pathlib.Path]) -> tuple[list[pathlib.Path], bool]:
    """Every file that is meant, by name, in a list or by a pattern, and whether it is a single one."""
    if not isinstance(path, (str, pathlib.Path)):
        if len(path) == 0:
            raise ValueError("path is an empty list; give at least one file.")
        return [found for one in path for found in paths_of(one)[0]], False
    if not str(path):
        raise ValueError(f"path is an empty text; {_WANTED}.")
    one = pathlib.Path(path)
    if not glob.has_magic(one.name) or one.exists():
        return [one], True
    found = sorted(one.parent.glob(one.name))
    if not found:
        raise FileNotFoundError(f"path {str(path)!r} matches no file; {_WANTED}.")
    return found, False


def _opened(
    path: pathlib.Path, variable: str | None, columns: Sequence[str] | None, time_column: str | None
) -> list[xr.DataArray | np.ndarray]:
    """Trajectories of one file, nothing of their states read yet where the format allows it."""
    if not path.exists():
        raise FileNotFoundError(f"path {str(path)!r} does not exist; {_WANTED}.")
    _check_kind(path, variable, columns, time_column)
    if path.suffix in TABLES:
        return [_from(path, read_table(path, columns, time_column))]
    if path.suffix == ".npz":
        return list(read_archive(path, variable, _WANTED))
    if path.suffix == ".npy":
        return [map_array(path, _WANTED)]
    array = _variable(path, _open_netcdf(path) if path.suffix == ".nc" else open_store(path, _WANTED), variable)
    if path.suffix == ".nc" and array.nbytes > LOADED:
        array = array.chunk(_chunks(array))
    return [_from(path, array)]


def _check_kind(
    path: pathlib.Path, variable: str | None, columns: Sequence[str] | None, time_column: str | None
) -> None:
    """Refuse other files than ours, and choices that a file does not have."""
    if path.suffix in _MOLECULES:
        raise ValueError(
            f"{str(path)!r} is of molecular dynamics, whose atoms a topology names: "
            "kl.molecules.MoleculeFiles(paths, topology), or --topology FILE on the command line."
        )
    if path.suffix not in (".nc", ".zarr", ".npy", ".npz", *TABLES):
        raise ValueError(f"path must end in {KINDS}; got {str(path)!r}.")
    if variable is not None and path.suffix in (".npy", *TABLES):
        raise ValueError(f"variable={variable!r} picks one of .npz, .nc or .zarr; {str(path)!r} holds a single one.")
    for name, value in (("columns", columns), ("time_column", time_column)):
        if value is not None and path.suffix not in TABLES:
            raise ValueError(f"{name}={value!r} is for tables, {' and '.join(TABLES)}; got {str(path)!r}.")


def _variable(path: pathlib.Path, dataset: xr.Dataset, variable: str | None) -> xr.DataArray:
    names = list(dataset.data_vars)
    check_variable(path, variable, names)
    if variable is None and "state" not in names and len(names) != 1:
        raise ValueError(
            f"{str(path)!r} must hold one variable, or one named 'state'; got {names}. Name one of them: variable=, or "
            "--variable on the command line."
        )
    default = "state" if "state" in names else names[0]
    return dataset[default if variable is None else variable]


def _from(path: pathlib.Path, array: xr.DataArray) -> xr.DataArray:
    array.encoding["source"] = str(path)  # for messages about chunks that cannot be read, and about names
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
