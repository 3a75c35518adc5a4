"""NumPy files: one array in `.npy`, as a map of the file; several in `.npz`."""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Hashable, Sequence

import numpy as np

from koopman_lora.data.seals import told_of


def map_array(path: pathlib.Path, wanted: str) -> np.ndarray:
    """A NumPy file (`.npy`), nothing of it read yet.

    Raises
    ------
    ValueError
        If it is damaged or none; `wanted` says what to give instead.
    """
    with told_of(path, wanted):
        # numpy allocates what the header states; a map is compared with the size of the file first
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive of arrays")
        return found


def read_array(path: pathlib.Path, wanted: str) -> np.ndarray:
    """A NumPy file (`.npy`) in memory; raises what `map_array` raises."""
    return np.array(map_array(path, wanted))


def check_archive(path: pathlib.Path) -> None:
    """Compare every part of an archive with its checksum, before a header that is damaged asks for memory.

    Raises
    ------
    ValueError
        If one is another.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")


def read_archive(path: pathlib.Path, variable: str | None, wanted: str) -> list[np.ndarray]:
    """Arrays of a NumPy archive (`.npz`) in its order, each a trajectory; or the one that is named.

    Raises
    ------
    ValueError
        If it is damaged or none, holds no array of that name, or arrays that are no trajectories of the same states.
    """
    with told_of(path, wanted):
        check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            check_variable(path, variable, names)
            arrays = {name: archive[name] for name in (names if variable is None else [variable])}
    if not arrays:
        raise ValueError(f"{str(path)!r} holds no array; {wanted}.")
    if len({array.shape[1:] if array.ndim else None for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(
            f"{str(path)!r} must hold trajectories (time, *state) of the same states; got {shapes}. Name one of them: "
            "variable=, or --variable on the command line."
        )
    return list(arrays.values())


def check_variable(path: pathlib.Path, variable: str | None, names: Sequence[Hashable]) -> None:
    """Raise a ValueError where a variable is named that is not among those of the file."""
    if variable is not None and variable not in names:
        raise ValueError(f"{str(path)!r} holds no variable {variable!r}; it holds {', '.join(map(str, names))}.")
