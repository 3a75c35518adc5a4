"""A full disk: told before the work where it can be, and after it nothing is lost that could be kept."""

import collections
import json
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

import koopman_lora as kl
from koopman_lora import analysis_files, demo
from koopman_lora.analysis_files import analysis_bytes
from koopman_lora.cli import main

# processes of their own, whose files may not grow
pytestmark = [pytest.mark.slow, pytest.mark.any_processor]

FIT = ["--n-modes", "3", "--n-epochs", "1", "--hidden-dims", "8", "--n-fits", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    states = kl.systems.NoisyRotation().simulate(n_steps=900, seed=0)
    return str(kl.save_dataset(states, tmp_path_factory.mktemp("data") / "x.nc"))


@pytest.fixture(scope="module")
def fits(data):
    """Two fits of the same data, an older one and a newer one."""
    trajectories = kl.open_trajectories(data)
    return [kl.KoopmanLoRA(n_modes=n, hidden_dims=(8,), n_epochs=1, n_fits=2).fit(trajectories) for n in (3, 2)]


def full_for(name, monkeypatch):
    """A disk that is full whenever `name` is written."""
    save = {function: getattr(analysis_files, function) for function in ("save_dataset", "save_model")}

    def make(function):
        def write(thing, path):
            if path.name == name:
                raise OSError(28, "No space left on device")
            return save[function](thing, path)

        return write

    for function in save:
        monkeypatch.setattr(analysis_files, function, make(function))


def test_too_little_room_is_told_before_the_fit(tmp_path, data, monkeypatch, capsys):
    Usage = collections.namedtuple("Usage", "free")
    monkeypatch.setattr(demo.shutil, "disk_usage", lambda folder: Usage(50_000))
    monkeypatch.setattr(kl.KoopmanLoRA, "fit", lambda *_: pytest.fail("fitted"))
    assert main(["fit", data, *FIT, "--out", str(tmp_path / "out")]) == 2
    assert "has 0.1 MB free, and the results need some 0.2 MB; make room" in capsys.readouterr().err


@pytest.mark.parametrize(("n_modes", "n_entries", "hidden_dims"), [(3, 2, (16,)), (12, 1, (64, 64)), (4, 300, (64,))])
def test_the_room_that_is_needed_is_estimated(tmp_path, n_modes, n_entries, hidden_dims):
    frames = np.random.default_rng(0).normal(size=(3000, n_entries)).cumsum(axis=0) % 7
    estimator = kl.KoopmanLoRA(n_modes=n_modes, hidden_dims=hidden_dims, n_epochs=1).fit(frames)
    size = sum(path.stat().st_size for path in estimator.save(tmp_path).iterdir())
    assert 0.7 < analysis_bytes(n_modes, n_entries, 300, hidden_dims) / size < 1.5


@pytest.mark.parametrize("name", ["moments.nc", "model.safetensors", "validation.nc"])
def test_what_can_be_written_is_kept_and_the_table_printed(tmp_path, data, monkeypatch, capsys, name):
    full_for(name, monkeypatch)
    out = tmp_path / "out"
    assert main(["fit", data, *FIT, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert "canonical" in captured.out
    assert "the analysis is in" not in captured.out
    message = captured.err.splitlines()[-1]
    whole = [other for other in analysis_files.FILES if other != name]
    assert f"{name} cannot be written ([Errno 28] No space left on device); whole files: {', '.join(whole)}" in message
    assert sorted(path.name for path in (out / "incomplete").iterdir()) == sorted(whole)
    assert "canonical_singular_values" in kl.load_dataset(out / "incomplete" / "spectrum.nc")
    monkeypatch.undo()
    assert main(["fit", data, *FIT, "--out", str(out)]) == 0  # and nothing is left of it after the next
    assert sorted(path.name for path in out.iterdir()) == sorted([*analysis_files.FILES, "analysis.json"])


@pytest.mark.parametrize("name", analysis_files.FILES)
def test_an_older_analysis_stays_whole_when_a_newer_cannot_be_saved(tmp_path, fits, monkeypatch, name):
    older, newer = fits
    folder = older.save(tmp_path / "out")
    full_for(name, monkeypatch)
    with pytest.raises(OSError, match=f"the analysis is not complete: {name} cannot be written"):
        newer.save(folder)
    found = kl.open_analysis(folder).spectrum.canonical_singular_values
    np.testing.assert_allclose(found, older.spectrum_.canonical_singular_values, rtol=1e-10)


def test_a_folder_in_the_place_of_a_file_is_told_before_the_fit(tmp_path, data, monkeypatch, capsys):
    (tmp_path / "out" / "moments.nc").mkdir(parents=True)
    monkeypatch.setattr(kl.KoopmanLoRA, "fit", lambda *_: pytest.fail("fitted"))
    assert main(["fit", data, *FIT, "--out", str(tmp_path / "out")]) == 2
    assert "moments.nc' is a folder" in capsys.readouterr().err


def test_the_users_own_probe_is_not_removed(tmp_path):
    (tmp_path / ".probe").write_text("mine")
    demo.prepare_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".probe"]


SAVE = """
import json, sys, numpy as np, xarray as xr
from koopman_lora.io import save_dataset
try:
    save_dataset(xr.Dataset({"a": ("t", np.random.default_rng(0).normal(size=200_000))}), sys.argv[1])
except OSError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_a_file_that_does_not_fit_is_an_error_and_no_crash(tmp_path, name):
    """HDF5 that writes to a full disk itself ends the process with a segmentation fault."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    command = [sys.executable, "-c", SAVE, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 0, done.stderr
    assert "File too large" in json.loads(done.stdout)
    assert list(tmp_path.iterdir()) == []
