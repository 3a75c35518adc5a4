"""Which processes a fit runs in."""

import pytest

from koopman_lora.launching import layout
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
