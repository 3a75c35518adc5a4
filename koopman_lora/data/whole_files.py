"""Files that appear under their name only when they are complete, and take the place of nothing but an older result."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from koopman_lora.data.seals import is_store


def check_replaceable(path: pathlib.Path) -> None:
    """Refuse, before the work, to write where something is that is not a result to replace.

    Raises
    ------
    OSError
        If a folder stands where a file is to be written, or a file or any folder but a Zarr store where a store is.
    """
    if not path.exists():
        return
    if path.suffix != ".zarr":
        if path.is_dir():
            raise IsADirectoryError(f"path {str(path)!r} is a folder, which is not replaced by a file; give another.")
    elif not path.is_dir():
        raise NotADirectoryError(f"path {str(path)!r} is a file, which is not replaced by a Zarr store; give another.")
    elif any(path.iterdir()) and not is_store(path):
        raise FileExistsError(f"path {str(path)!r} is a folder with more in it than a Zarr store; give another.")


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> pathlib.Path:
    """Write beside the target, then rename: a reader never sees half a file, and a failure leaves the old one.

    Links are followed. The permissions of an older file are kept; a new one gets what the umask leaves.
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = pathlib.Path(os.path.realpath(path))
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary = folder / target.name
        write(temporary)
        temporary.chmod(_permissions(target, temporary, folder))
        _put_in_place(temporary, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _permissions(target: pathlib.Path, temporary: pathlib.Path, folder: pathlib.Path) -> int:
    """Of the older file, else what a file or folder made here and now gets: the umask cannot be asked for."""
    if target.exists():
        return target.stat().st_mode & 0o7777
    probe = folder / ".permissions"
    probe.mkdir() if temporary.is_dir() else probe.touch()
    return probe.stat().st_mode & 0o7777


def _put_in_place(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Rename onto the target; no folder can be renamed onto a full one, so an old store is set aside before."""
    if not target.is_dir():
        temporary.replace(target)
        return
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.replace(aside)
    try:
        temporary.replace(target)
    except BaseException:
        aside.replace(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def move_whole(source: pathlib.Path, path: pathlib.Path) -> None:
    """Move a complete file to its place as `write_whole` would; within one disk this needs no space on it."""
    check_replaceable(path)
    target = pathlib.Path(os.path.realpath(path))
    if target.exists():
        source.chmod(target.stat().st_mode & 0o7777)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # a link to another disk
            raise
        write_whole(path, lambda temporary: shutil.copyfile(source, temporary))
        source.unlink()
