"""What users give, as sources of states that are read a block at a time: arrays, labelled arrays, chunks, files."""

from __future__ import annotations

import dataclasses
import mmap
import os
import pathlib
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import TIME, TRAJECTORY
from koopman_lora.data.arrays import check_same_shape, checked_values, real_dtype, without_copy
from koopman_lora.data.files import open_each, open_trajectories
from koopman_lora.data.seals import told_of

# Bytes that are read at once: chunks are read together until they are as many; what has none is cut into such parts.
SMALLEST_BLOCK, PART = 2**20, 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Trajectories of one length in one array, read a block of neighbours at a time.

    Attributes
    ----------
    array : (trajectory, time, *state), or (time, *state); whatever can be cut along these axes
    name : of its first trajectory in messages, 'trajectory' or 'x'; or the file
    has_trajectories : whether the first axis is that of trajectories
    state_shape, dtype : of a state as it is read
    is_held : the array is in memory
    trajectory_edges, time_edges : where blocks begin, and the end
    chunk_shape : of what is decoded at once, along all axes; empty where nothing is
    path : where it was opened, if that is known
    """

    array: Any
    name: str
    has_trajectories: bool
    state_shape: tuple[int, ...]
    dtype: torch.dtype
    is_held: bool
    trajectory_edges: np.ndarray
    time_edges: np.ndarray
    chunk_shape: tuple[int, ...] = ()
    path: str = ""

    @property
    def n_trajectories(self) -> int:
        """Number of trajectories."""
        return int(self.trajectory_edges[-1])

    @property
    def n_frames(self) -> int:
        """Frames of each of them."""
        return int(self.time_edges[-1])

    @property
    def frame_bytes(self) -> int:
        """Bytes of a state as it is read."""
        return int(np.prod(self.state_shape)) * self.dtype.itemsize

    @property
    def largest_block(self) -> int:
        """States in the largest block."""
        return int(np.diff(self.trajectory_edges).max(initial=1) * np.diff(self.time_edges).max(initial=1))

    def decode(self, trajectories: slice, frames: slice, dtype: torch.dtype) -> Tensor:
        """States (n, *state) of some frames of some trajectories, one after the other.

        Raises
        ------
        ValueError
            Where they cannot be read.
        """
        where = f" in {self.path}" * bool(self.path)
        with told_of(f"frames {frames.start} to {frames.stop - 1} of {self.name}{where}"):
            part = self.array[trajectories, frames] if self.has_trajectories else self.array[frames]
            values = part if isinstance(part, Tensor) else np.asarray(part)
            states = without_copy(values, dtype).reshape(-1, *self.state_shape)
            if isinstance(self.array, np.memmap):
                _forget(self.array)
        return states


def _forget(array: np.memmap) -> None:
    """Drop what was read of a mapped file from the memory of this process, where nothing was written to it."""
    mapped = getattr(array, "_mmap", None)
    if array.mode == "r" and mapped is not None and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


def sources_of(data: Any) -> list[Source]:
    """The sources of trajectories in what `lagged_pairs` takes; raises what it documents."""
    parts = data if isinstance(data, list) else [data]
    if len(parts) == 0:
        raise ValueError("data is an empty list; give at least one trajectory (time, *state).")
    sources: list[Source] = []
    n = 0
    for part in parts:
        sources.append(source_of(part, f"trajectory {n}"))
        n += sources[-1].n_trajectories
    check_same_shape([(source.n_frames, *source.state_shape) for source in sources])
    return sources


def opened(data: Any) -> Any:
    """The same, with what is in the files that are named, alone or in a list or a tuple."""
    if isinstance(data, (str, os.PathLike)):
        return open_trajectories(pathlib.Path(data))
    if not isinstance(data, (list, tuple)):
        return data
    paths = {i: pathlib.Path(part) for i, part in enumerate(data) if isinstance(part, (str, os.PathLike))}
    if not paths:
        return data
    found = dict(zip(paths, open_each(list(paths.values())), strict=True))
    return type(data)(part for i, given in enumerate(data) for part in found.get(i, [given]))


def source_of(values: Any, name: str) -> Source:
    """One part of the data as a source."""
    has_trajectories, path = False, ""
    if isinstance(values, xr.DataArray):
        path = str(values.encoding.get("source", ""))
        if TIME not in values.dims:
            raise ValueError(
                f"data must have a dimension 'time'; got dimensions {values.dims}. Rename one with .rename()."
            )
        has_trajectories = TRAJECTORY in values.dims
        values = values.transpose(*((TRAJECTORY,) if has_trajectories else ()), TIME, ...)
        values = values.data if values.chunks is not None else values.values
    chunks = _chunks(values)
    if chunks is None:
        values = checked_values(values, name)
    dtype, shape = real_dtype(values.dtype, name), tuple(values.shape)
    n_leading = 2 if has_trajectories else 1
    if len(shape) < n_leading:
        raise ValueError(f"{name} must have a time axis; got a single number.")
    state_shape = shape[n_leading:] or (1,)
    frame_bytes = max(1, int(np.prod(state_shape)) * dtype.itemsize)
    n_trajectories = shape[0] if has_trajectories else 1
    if chunks is None:
        length = max(1, PART // frame_bytes)
        time_edges = np.r_[0 : shape[n_leading - 1] : length, shape[n_leading - 1]]
        trajectory_edges = np.arange(n_trajectories + 1)
    else:
        time_edges = _grouped(chunks[n_leading - 1], frame_bytes)
        trajectory_edges = np.array([0, 1])
        if has_trajectories:
            trajectory_edges = _grouped(chunks[0], frame_bytes * int(np.diff(time_edges).max(initial=1)))
    return Source(
        array=values,
        name=name,
        has_trajectories=has_trajectories,
        state_shape=state_shape,
        dtype=dtype,
        is_held=chunks is None and not isinstance(values, np.memmap),
        trajectory_edges=trajectory_edges,
        time_edges=time_edges,
        path=path or str(getattr(values, "filename", "") or ""),
        chunk_shape=() if chunks is None else tuple(int(max(sizes, default=1)) for sizes in chunks),
    )


def _chunks(values: Any) -> tuple[tuple[int, ...], ...] | None:
    """Sizes of chunks along every axis of arrays of Dask and Zarr, which need not be imported to be told."""
    library = type(values).__module__.split(".")[0]
    if library == "dask" and hasattr(values, "chunks"):
        return tuple(tuple(map(int, sizes)) for sizes in values.chunks)
    if library == "zarr" and hasattr(values, "chunks"):
        return tuple(
            tuple(min(size, n - start) for start in range(0, n, size))
            for n, size in zip(values.shape, values.chunks, strict=True)
        )
    return None


def _grouped(sizes: tuple[int, ...], bytes_each: int) -> np.ndarray:
    """Edges of blocks of whole chunks, each of at least `SMALLEST_BLOCK` bytes, and the end."""
    edges = [0]
    for end in np.cumsum(sizes):
        if (end - edges[-1]) * bytes_each >= SMALLEST_BLOCK:
            edges.append(int(end))
    if edges[-1] != sum(sizes):
        edges.append(sum(sizes))
    return np.array(edges)
