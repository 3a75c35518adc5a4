"""Checksums that files of this package carry, so that damage is told and never read as numbers; and how it is told."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

# HDF5 and every reader of it ignore what follows the end that the file itself states.
_MAGIC = b"\nkoopman_lora blake2b "
_HEX = 32
# Stands in the provenance of NetCDF, near the head of the file, and says that there is a trailer: one that was cut off
# is missed before HDF5, which can hang or crash on damaged files, sees the file. Programs that copy write their own.
PROVENANCE = "koopman_lora=sealed"
_HEAD = 1 << 16
_TRAILER = len(_MAGIC) + _HEX
# Readers of a Zarr store look at no other file in the folder of an array, but warn of one beside it.
_SEAL = "koopman_lora.json"
_ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def checksum(*parts: bytes) -> str:
    """A checksum of bytes, as text.

    Examples
    --------
    >>> checksum(b"a", b"b") == checksum(b"ab"), len(checksum(b""))
    (True, 32)
    """
    hasher = hashlib.blake2b(digest_size=_HEX // 2)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


@contextlib.contextmanager
def told_of(path: str | os.PathLike, wanted: str = "") -> Iterator[None]:
    """Tell whatever a library says of a damaged file as one ValueError that names it; what is not damage passes.

    Examples
    --------
    >>> with told_of("a.nc", "give trajectories"):
    ...     {}["time"]
    Traceback (most recent call last):
    ValueError: 'a.nc' cannot be read (KeyError: 'time'); give trajectories.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except Exception as error:
        if repr(str(path)) in str(error):
            raise
        kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
        advice = f"; {wanted}" if wanted else "; it is damaged, or of another kind"
        raise ValueError(f"{str(path)!r} cannot be read ({kind}{error}){advice}.") from error


def sealed(content: bytes) -> bytes:
    """The content of a NetCDF file with its checksum behind it.

    Examples
    --------
    >>> sealed(b"content")[8:28]
    b'koopman_lora blake2b'
    """
    return content + _MAGIC + checksum(content).encode()


def check_sealed(path: pathlib.Path) -> None:
    """Compare a file with the checksum that `sealed` put behind it; a file without one is another program's.

    Raises
    ------
    ValueError
        If the file is not what was written.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _TRAILER, 0))
        trailer = file.read()
        if trailer.startswith(_MAGIC):
            is_whole = _checksum_of(file, size - _TRAILER) == trailer.removeprefix(_MAGIC)
        else:
            file.seek(0)
            is_whole = PROVENANCE.encode() not in file.read(_HEAD)
    if not is_whole:
        raise ValueError(f"{str(path)!r} is damaged: its checksum is another than when it was written, or missing.")


def _checksum_of(file: BinaryIO, size: int) -> bytes:
    """Of the first `size` bytes of an open file, in pieces: it may be larger than memory."""
    hasher = hashlib.blake2b(digest_size=_HEX // 2)
    file.seek(0)
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        hasher.update(piece)
        size -= len(piece)
    return hasher.hexdigest().encode()


def seal_store(folder: pathlib.Path) -> None:
    """Write what a Zarr store holds into the folder of each of its arrays: a checksum of metadata, names of chunks.

    The chunks have checksums of their own (`Crc32cCodec`), so that a store of any size can be opened lazily.
    """
    text = json.dumps({"checksum": _store_checksum(folder)})
    for path in folder.glob("*/zarr.json"):
        path.with_name(_SEAL).write_text(text, encoding="utf-8")


def check_store(folder: pathlib.Path) -> None:
    """Compare a Zarr store with what `seal_store` wrote; a store without it is another program's.

    Raises
    ------
    ValueError
        If metadata were changed, or chunks are missing, which Zarr would read as fill values.
    """
    for seal in sorted(folder.glob(f"*/{_SEAL}")):
        with told_of(folder):
            stated = json.loads(seal.read_text(encoding="utf-8"))["checksum"]
        if stated != _store_checksum(folder):
            raise ValueError(
                f"{str(folder)!r} is damaged: metadata or chunks are others than when it was written. If another "
                f"program changed it on purpose, remove the files {_SEAL} in it."
            )


def _store_checksum(folder: pathlib.Path) -> str:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    names = sorted(name for name in paths if not name.endswith(_SEAL))
    metadata = [paths[name].read_bytes() for name in names if name.endswith("zarr.json")]
    return checksum("\n".join(names).encode(), *metadata)


def is_store(folder: pathlib.Path) -> bool:
    """Whether a folder is a Zarr store and holds nothing else.

    Examples
    --------
    >>> is_store(pathlib.Path.cwd())
    False
    """
    entries = list(folder.iterdir())
    inside = (child for child in entries if child.name not in _ZARR_METADATA)
    is_known = any((folder / name).is_file() for name in _ZARR_METADATA)
    return is_known and all(any((child / name).is_file() for name in _ZARR_METADATA) for child in inside)
