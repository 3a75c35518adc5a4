"""No damaged file crashes or hangs the process, ends in a traceback, or is read as other numbers without a word."""

import json
import os
import pathlib
import subprocess
import sys
from collections import Counter

import damaged_files
import pytest

pytestmark = pytest.mark.any_processor

N_CASES = 16  # of each kind


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """All kinds of files in one process, which a crash would end; every case is printed before and after."""
    folder = tmp_path_factory.mktemp("damaged")
    command = [sys.executable, damaged_files.__file__, str(folder), ",".join(damaged_files.KINDS), "0", str(N_CASES)]
    root = pathlib.Path(damaged_files.__file__).parent.parent
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"the process ended after {lines[-1:]}: {done.stderr[-500:]}"
    return [line for line in lines if len(line) > 2], done.stderr


@pytest.mark.slow
def test_damaged_files_are_told_in_words_and_end_nothing(batch):
    cases, printed = batch
    assert Counter(case["kind"] for case in cases) == dict.fromkeys(damaged_files.KINDS, N_CASES)
    unexpected = [case for case in cases if not case.get("is_expected", True)]
    assert not unexpected, "\n".join(f"{case['how']}: {case['text']}" for case in unexpected)
    assert "Traceback" not in printed


@pytest.mark.slow
def test_what_is_read_is_what_was_written(batch):
    """Where the format, or the checksum that we add, can tell; of 224 damaged files some 180 are refused."""
    cases, _ = batch
    assert [c for c in cases if not c.get("same", True) and damaged_files.KINDS[c["kind"]][2]] == []
    assert sum("error" in case for case in cases) > 150


@pytest.mark.slow
def test_messages_name_the_file(batch):
    """But where chunks are read only when they are asked for, by dask."""
    cases, _ = batch
    lazy = {"t.zarr", "fit.zarr", "foreign.zarr"}
    assert [c for c in cases if "text" in c and c["kind"] not in c["text"] and c["kind"] not in lazy] == []
