"""Two processes give what one gives: losses, scores, moments; and only the first of them writes.

`work_of_processes.py` does the same in this process and, started by torchrun, in two.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
import work_of_processes

import koopman_lora as kl
from koopman_lora.cli import main

pytestmark = pytest.mark.slow
TESTS = pathlib.Path(__file__).parent


def torchrun(*arguments, n=2):
    """What `n` processes of torchrun print; their exit status is 0."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n}", "--standalone", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """Results of the first and of the second of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    torchrun(str(TESTS / "work_of_processes.py"), str(folder))
    left = [(folder / f"{rank}.left").read_text() for rank in (0, 1)]
    return [{**np.load(folder / f"{rank}.npz"), "group at exit": left[rank]} for rank in (0, 1)]


@pytest.fixture(scope="module")
def of_one():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return work_of_processes.everything()
    finally:
        torch.set_num_threads(threads)


def results(name, results_by_name):
    found = {key: values for key, values in results_by_name.items() if key.startswith(f"{name}: ")}
    assert found
    return found


@pytest.mark.parametrize("name", work_of_processes.TRAININGS)
def test_hundred_steps_of_two_processes_are_those_of_one(name, of_one, of_two):
    """In both processes weights, and all that is told of the training, are the same to the last bit.

    Against one process weights are not: some have no influence on the loss, such as the last bias of features that are
    centred, and Adam divides their gradients, which are round-off, by their own size. By running means of batch
    normalisation a little of that reaches the scores.
    """
    one, two = results(name, of_one), results(name, of_two[0])
    losses, scores = f"{name}: losses", f"{name}: scores"
    assert np.allclose(two[losses], one[losses], rtol=1e-10, atol=1e-10 * np.abs(one[losses]).max())
    assert np.allclose(two[scores], one[scores], rtol=1e-8, atol=0)
    assert two[f"{name}: epoch"] == one[f"{name}: epoch"]
    for key, values in two.items():
        assert np.array_equal(values, of_two[1][key]), key
    assert len(of_one[f"{name}: losses"]) == work_of_processes.N_STEPS
    assert np.ptp(of_one[f"{name}: losses"]) > 1e-3


def test_moments_of_two_processes_are_those_of_one(of_one, of_two):
    """Sums in the same blocks about the same shifts, to the last bit the same in both."""
    for key, values in results("moments", of_one).items():
        assert of_two[0][key].shape == np.shape(values), key
        assert np.allclose(of_two[0][key], values, rtol=1e-12, atol=1e-12 * np.abs(values).max()), key
        assert np.array_equal(of_two[0][key], of_two[1][key]), key


def test_each_has_a_part_and_can_be_alone(of_two):
    assert [found["part"].tolist() for found in of_two] == [[0, 3], [3, 7]]
    assert [float(found["alone"]) for found in of_two] == [0.0, 1.0]
    assert [bool(found["is first"]) for found in of_two] == [True, False]


def test_the_group_has_ended_before_the_interpreter_does(of_two):
    """Else a thread of Gloo may want it as it goes, and abort the process: seldom, and only where cores are busy."""
    assert [found["group at exit"] for found in of_two] == ["False", "False"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "f gave NaN or inf features"),
        ("other pairs", "pairs must be the same in all processes; they have [(2100, 0), (2099, 0)]"),
        ("small batch", "batch_size must give each of 2 processes 2 pairs at least; batches are of 3."),
    ],
)
def test_what_goes_wrong_in_one_is_told_in_both(name, message, of_two):
    for found in of_two:
        assert message in str(found[f"refused: {name}"])


def test_who_tells_one_process_to_stop_stops_both_and_they_go_on_together(of_two):
    """SIGTERM to the second alone; the first keeps the checkpoint, and both resume from it."""
    for found in of_two:
        assert found["stopped: reasons"].tolist() == ["finished", "interrupted", "finished"]
        assert 1 <= found["stopped: after"] < 4
        assert np.array_equal(found["stopped: whole"], found["stopped: resumed"])


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rotation.nc"
    kl.save_dataset(kl.systems.NoisyRotation().simulate(n_trajectories=2, n_steps=1000, seed=0), path)
    return str(path)


FLAGS = ["--n-modes", "3", "--n-epochs", "4", "--hidden-dims", "16", "--precision", "64-true"]


def test_the_command_line_writes_once_what_one_process_writes(trajectories, tmp_path):
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    assert main(["fit", trajectories, "--out", one, *FLAGS]) == 0
    printed, told = torchrun("-m", "koopman_lora", "fit", trajectories, "--out", two, *FLAGS)
    assert printed.count("the analysis is in") == 1
    assert "Initializing distributed" not in told
    analysis, plain = kl.open_analysis(two), kl.open_analysis(one)
    assert np.allclose(analysis.fitted.history.loss, plain.fitted.history.loss, rtol=1e-10)
    name = "canonical_singular_values"
    assert np.allclose(analysis.spectrum[name], plain.spectrum[name], rtol=1e-8)
    assert analysis.fitted.fingerprint == plain.fitted.fingerprint


def test_an_error_in_processes_that_fabric_started_is_told_and_nothing_hangs(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    command = [
        sys.executable,
        "-m",
        "koopman_lora",
        "fit",
        "missing.nc",
        "--out",
        str(tmp_path / "x"),
        "--devices",
        "2",
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert "koopman-lora fit: path 'missing.nc' does not exist" in result.stderr
