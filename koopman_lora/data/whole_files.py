"""Files that appear under their name only when they are complete, and take the place of nothing but an older result."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from koopman_lora.data.seals import is_store

try:
    import fcntl
except ImportError:  # on Windows, where what killed processes left stays
    fcntl = None  # type: ignore[assignment]

# What a folder to write in may hold beside the new file: a probe of the umask, and an older store set aside.
_PROBE, _OLD = ".permissions", ".old"


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
    """Write beside the target, flush, then rename: a reader never sees half a file, and a failure leaves the old one.

    Links are followed. The permissions of an older file are kept; a new one gets what the umask leaves. What a process
    left that was killed while it wrote the same file is removed.
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = pathlib.Path(os.path.realpath(path))
    remove_leftovers(target)
    with _workplace(target) as folder:
        temporary = folder / target.name
        write(temporary)
        if temporary.is_file():
            _flush(temporary)
        temporary.chmod(_permissions(target, temporary, folder))
        if target.is_dir():  # no folder can be renamed onto a full one
            target.replace(folder / _OLD)
        temporary.replace(target)
    return path


@contextlib.contextmanager
def _workplace(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside the target to write in, locked as long as this process lives."""
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        lock = _lock(folder, is_alone=False)
        if folder.exists():  # not taken for a left-over before it was locked
            break
        os.close(lock)
    try:
        yield folder
    finally:
        _discard(folder, target)
        os.close(lock)


def remove_leftovers(target: pathlib.Path) -> None:
    """Remove folders in which killed processes were writing `target`: those of our making that nobody has locked.

    An older store that was set aside, and whose successor did not get to its place, is put back.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}")
    for folder in [child for child in target.parent.iterdir() if pattern.fullmatch(child.name)]:
        with contextlib.suppress(OSError):  # not a folder, in use, or not lockable, as on some network drives
            if {child.name for child in folder.iterdir()} <= {target.name, _PROBE, _OLD}:
                lock = _lock(folder, is_alone=True)
                _discard(folder, target)
                os.close(lock)


def _lock(folder: pathlib.Path, is_alone: bool) -> int:
    """Lock a folder until the descriptor is closed, or the process ends in whatever way.

    Raises
    ------
    OSError
        If it is to be locked alone, and is locked or cannot be.
    """
    if fcntl is None:
        if is_alone:
            raise OSError(errno.ENOSYS, "folders cannot be locked here")
        return os.open(os.devnull, os.O_RDONLY)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if is_alone else fcntl.LOCK_SH)
    except OSError:
        if is_alone:
            os.close(descriptor)
            raise
    return descriptor


def _discard(folder: pathlib.Path, target: pathlib.Path) -> None:
    old = folder / _OLD
    if old.exists() and not target.exists():
        old.replace(target)
    shutil.rmtree(folder, ignore_errors=True)


def _flush(file: pathlib.Path) -> None:
    """Have the content on the disk before the name is there, should the machine fail."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _permissions(target: pathlib.Path, temporary: pathlib.Path, folder: pathlib.Path) -> int:
    """Of the older file, else what a file or folder made here and now gets: the umask cannot be asked for."""
    if target.exists():
        return target.stat().st_mode & 0o7777
    probe = folder / _PROBE
    probe.mkdir() if temporary.is_dir() else probe.touch()
    return probe.stat().st_mode & 0o7777


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
