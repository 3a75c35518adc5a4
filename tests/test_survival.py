"""A small version of `benchmarks/survival.py`; damaged files are those of `test_damaged_files`."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import warnings
from typing import NamedTuple

import numpy as np
import pytest

import koopman_lora as kl
from koopman_lora.analysis_files import FILES, RECORD

pytestmark = pytest.mark.any_processor

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_killed_fits_are_resumed_to_the_last_bit():
    command = [sys.executable, str(ROOT / "benchmarks" / "survival.py"), "--kills", "3", "--damages", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600, env=environment)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (counts["kills"], counts["exact"]) == (3, 3)
    assert (counts["by_the_clock"], counts["in_an_operation_on_files"]) == (1, 2)
    assert counts["unreadable"] == counts["left_over"] == []


# ---- a save that is killed while it moves its files ------------------------------------------------------------------


class Saved(NamedTuple):
    """An older and a newer fit, and the folders of both."""

    fits: list[kl.KoopmanLoRA]
    folders: list[pathlib.Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    states, place = kl.systems.NoisyRotation().simulate(n_steps=600, seed=0), tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = [kl.KoopmanLoRA(n_modes=n, hidden_dims=(8,), n_epochs=1, n_fits=2).fit(states) for n in (3, 2)]
        return Saved(fits, [fit.save(place / str(i)) for i, fit in enumerate(fits)])


def killed_while_moving(saved, folder, n_moved):
    """The folder of the older analysis when so many files of the newer one have got to their place."""
    shutil.copytree(saved.folders[0], folder)
    shutil.copytree(saved.folders[1], folder / "incomplete")
    for name in (*FILES, RECORD)[:n_moved]:  # in the order of a save
        (folder / "incomplete" / name).replace(folder / name)


def is_saved(fit, folder):
    found = kl.open_analysis(folder).moments
    return np.array_equal(found.T_fg, fit.moments_.T_fg)


@pytest.mark.slow
@pytest.mark.parametrize("n_moved", range(len(FILES) + 2))
def test_at_every_moment_of_a_move_one_of_two_analyses_is_whole(tmp_path, saved, n_moved):
    killed_while_moving(saved, tmp_path / "out", n_moved)
    assert is_saved(saved.fits[1], tmp_path / "out")


@pytest.mark.slow
def test_the_next_save_after_a_killed_one_leaves_nothing_of_it(tmp_path, saved):
    killed_while_moving(saved, tmp_path / "out", 2)
    (tmp_path / "out" / "incomplete" / ".model.safetensors.abcdefgh").mkdir()
    saved.fits[0].save(tmp_path / "out")
    assert is_saved(saved.fits[0], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES, RECORD])


@pytest.mark.slow
def test_a_save_that_fails_after_a_killed_one_leaves_what_that_had_made(tmp_path, saved, monkeypatch):
    killed_while_moving(saved, tmp_path / "out", 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("koopman_lora.analysis_files.save_model", full)
    with pytest.raises(OSError, match=r"the analysis is not complete: model.safetensors cannot be written"):
        saved.fits[0].save(tmp_path / "out")
    assert is_saved(saved.fits[1], tmp_path / "out")
