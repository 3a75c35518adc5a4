"""Saving replaces older results and nothing else, keeps links and permissions, and leaves the old on failure."""

import errno
import os
import pathlib
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import koopman_lora as kl
from koopman_lora.data import whole_files
from koopman_lora.data.whole_files import move_whole, remove_leftovers, write_whole

DATA = xr.Dataset({"sigma": ("mode", np.array([1.0, 0.5])), "name": ("mode", ["a", "b"])}, attrs={"lag": 3})
OTHER = DATA.isel(mode=[0])


def save(name, path):
    return (
        kl.save_model(kl.KoopmanLoRAModel(1, 2), path) if name.endswith("safetensors") else kl.save_dataset(DATA, path)
    )


NAMES = ["a.nc", "a.zarr", "m.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_that_name_is_refused_with_everything_in_it(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years")
    with pytest.raises(OSError, match=rf"{name}' is a folder.*; give another"):
        save(name, tmp_path / name)
    assert (tmp_path / name / "thesis.txt").read_text() == "years"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_store_with_something_else_in_it_is_refused(tmp_path):
    path = kl.save_dataset(DATA, tmp_path / "a.zarr")
    (path / "notes").mkdir()
    with pytest.raises(OSError, match="more in it than a Zarr store"):
        kl.save_dataset(DATA, path)
    (path / "notes").rmdir()
    assert kl.load_dataset(kl.save_dataset(OTHER, path)).identical(OTHER)


def test_a_file_is_not_replaced_by_a_store(tmp_path):
    (tmp_path / "a.zarr").write_text("text")
    with pytest.raises(OSError, match="is a file"):
        kl.save_dataset(DATA, tmp_path / "a.zarr")


def test_a_store_is_whole_again_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path, replace = kl.save_dataset(DATA, tmp_path / "a.zarr"), pathlib.Path.replace

    def fail_for_the_new(self, target):
        if self.name == path.name and "old" not in str(target):
            raise OSError("no")
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", fail_for_the_new)
    with pytest.raises(OSError, match="no"):
        kl.save_dataset(OTHER, path)
    assert kl.load_dataset(path).identical(DATA)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_gets_what_the_umask_leaves(tmp_path, name, umask):
    before = os.umask(umask)
    try:
        path = save(name, tmp_path / name)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == (0o777 if name == "a.zarr" else 0o666) & ~umask


@pytest.mark.parametrize("name", NAMES)
def test_an_older_file_keeps_its_permissions(tmp_path, name):
    path = save(name, tmp_path / name)
    mode = 0o750 if name == "a.zarr" else 0o640
    path.chmod(mode)
    assert stat.S_IMODE(save(name, path).stat().st_mode) == mode


@pytest.mark.parametrize("name", NAMES)
def test_links_are_followed_and_stay(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / name
    link.symlink_to(tmp_path / "elsewhere" / name)
    for _ in range(2):  # a link to nothing yet, then to the older file
        save(name, link)
        assert link.is_symlink()
        assert (tmp_path / "elsewhere" / name).exists()
        assert len(list(tmp_path.iterdir())) == 2
        assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_a_file_is_moved_to_another_disk_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "new").write_text("new")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    replace = pathlib.Path.replace

    def other_disk(self, target):
        if self.name == "new":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", other_disk)
    move_whole(tmp_path / "new", tmp_path / "link")
    assert (tmp_path / "target").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "target"]


def test_what_is_left_of_an_interrupted_write_is_removed(tmp_path):
    def stop(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.txt", stop)
    assert list(tmp_path.iterdir()) == []
    assert whole_files.check_replaceable(tmp_path / "a.txt") is None


# ---- what was loaded is no longer the file ---------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [lambda p, size: p.write_bytes(b"\xff" * size), lambda p, size: os.truncate(p, 0)])
def test_a_loaded_model_does_not_change_with_its_file(tmp_path, spoil):
    path = kl.save_model(kl.KoopmanLoRAModel(2, 3), tmp_path / "m.safetensors")
    model = kl.load_model(path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with path.open("r+b"):
        spoil(path, path.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        model.feature_scale += 1  # memory of its own can be written


def test_other_readers_see_an_ordinary_file(tmp_path):
    from safetensors.torch import load_file

    path = kl.save_dataset(DATA, tmp_path / "a.nc")
    assert xr.load_dataset(path).identical(DATA)
    assert xr.load_dataset(kl.save_dataset(DATA, tmp_path / "a.zarr"), engine="zarr", consolidated=False).identical(
        DATA
    )
    copied = xr.load_dataset(path)
    copied.attrs["lag"] = 4
    copied.to_netcdf(path, engine="h5netcdf")  # another program's now: there is no checksum to compare with
    assert kl.load_dataset(path).identical(copied)
    assert "feature_scale" in load_file(kl.save_model(kl.KoopmanLoRAModel(2, 3), tmp_path / "m.safetensors"))


# ---- killed while writing --------------------------------------------------------------------------------------------

KILLED = """
import os, pathlib, signal, sys
from koopman_lora.data.whole_files import write_whole

def write(temporary):
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)

write_whole(pathlib.Path(sys.argv[1]), write)
"""


def kill_while_writing(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_save_of_the_same_file(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, lambda temporary: temporary.write_text("old"))
    kill_while_writing(path)
    assert len(names(tmp_path)) == 2
    assert path.read_text() == "old"
    write_whole(tmp_path / "b.txt", lambda temporary: temporary.write_text("other"))
    assert len(names(tmp_path)) == 3  # of another file: not looked at
    write_whole(path, lambda temporary: temporary.write_text("new"))
    assert names(tmp_path) == ["a.txt", "b.txt"]
    assert path.read_text() == "new"


def test_nothing_else_is_taken_for_a_left_over(tmp_path):
    """Folders of like names with other things in them, longer names, files; and one that is being written now."""
    for name in (".a.txt.abcdefgh", ".a.txt.abcdefghi", ".a.txt.old", ".b.txt.abcdefgh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years")
    (tmp_path / ".a.txt.zzzzzzzz").write_text("a file")
    mine = names(tmp_path)

    def write(temporary):
        remove_leftovers(tmp_path / "a.txt")  # as another process would
        temporary.write_text("new")

    write_whole(tmp_path / "a.txt", write)
    assert names(tmp_path) == sorted([*mine, "a.txt"])


def test_an_older_store_that_was_set_aside_is_put_back(tmp_path):
    """Killed between the two renames that a folder needs."""
    path = kl.save_dataset(DATA, tmp_path / "a.zarr")
    (tmp_path / ".a.zarr.abcdefgh").mkdir()
    path.rename(tmp_path / ".a.zarr.abcdefgh" / ".old")
    remove_leftovers(path)
    assert names(tmp_path) == ["a.zarr"]
    assert kl.load_dataset(path).identical(DATA)


def test_where_folders_cannot_be_locked_left_overs_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_files, "fcntl", None)
    (tmp_path / ".a.txt.abcdefgh").mkdir()
    write_whole(tmp_path / "a.txt", lambda temporary: temporary.write_text("new"))
    assert names(tmp_path) == [".a.txt.abcdefgh", "a.txt"]


def test_a_folder_that_was_taken_for_a_left_over_is_made_anew(tmp_path, monkeypatch):
    """Another process sees it before it is locked."""
    lock, taken = whole_files._lock, []

    def lock_late(folder, is_alone):
        if not taken:
            taken.append(folder)
            folder.rmdir()
            folder = tmp_path
        return lock(folder, is_alone)

    monkeypatch.setattr(whole_files, "_lock", lock_late)
    write_whole(tmp_path / "a.txt", lambda temporary: temporary.write_text("new"))
    assert names(tmp_path) == ["a.txt"]
