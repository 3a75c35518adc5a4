"""Which processes a fit runs in."""

import numpy as np
import pytest

from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.launching import layout
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.training import fit
from koopman_lora.training_options import TrainingOptions


def test_processes_are_those_that_a_launcher_started(monkeypatch):
    """SLURM says so by its variables, of which Fabric knows."""
    assert layout() == (1, 1)
    assert layout(4) == (4, 1)
    assert layout(1, 2) == (1, 2)
    for name, value in {"NTASKS": 6, "NTASKS_PER_NODE": 3, "NNODES": 2, "JOB_NAME": "fit"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    assert layout() == (3, 2)
    assert layout(3) == (3, 2)
    assert layout(num_nodes=2) == (3, 2)
    assert layout(1) == (1, 1)  # this process by itself


@pytest.mark.parametrize("name", ["devices", "num_nodes"])
def test_impossible_numbers_of_processes_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive; got 0"):
        TrainingOptions(**{name: 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 10**6}, "devices must be at most .*, the cores of this machine; got 1000000"),
        ({"num_nodes": 3}, "num_nodes=3 needs a launcher on every machine"),
    ],
)
def test_processes_that_nobody_would_start_are_refused_at_once(options, message, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    pairs = lagged_pairs(np.random.default_rng(0).normal(size=(100, 2)))
    with pytest.raises(ValueError, match=message):
        fit(KoopmanLoRAModel(2, 2), pairs, options=TrainingOptions(**options))
