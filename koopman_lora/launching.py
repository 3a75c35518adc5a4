"""Where a fit runs: Lightning Fabric for its device, its precision and its processes, as a launcher started them."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import distributed

from koopman_lora.processes import processes, together
from koopman_lora.training_options import TrainingOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_ONE_AT_A_TIME = threading.Lock()
# Rank of this process, once it has joined others.
_joined: list[int] = []


@contextlib.contextmanager
def quiet_fabric() -> Iterator[None]:
    """Fabric announces devices through logging as it is set up; a library that is called in a loop should not.

    Of this thread only, and nothing is left behind: the logger is the user's as well.
    """
    from lightning_fabric.utilities import distributed
    from lightning_fabric.utilities.rank_zero import rank_zero_module

    here = threading.get_ident()

    def is_heard(record: logging.LogRecord) -> bool:
        return record.thread != here or record.levelno >= logging.ERROR

    loggers = rank_zero_module.log, distributed.log
    with _ONE_AT_A_TIME:  # a filter that goes while another thread walks over them would hide the next one
        for logger in loggers:
            logger.addFilter(is_heard)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(is_heard)


def make_fabric(options: TrainingOptions) -> Fabric:
    """Fabric on the device, and in the processes, that the options and the launcher say."""
    from lightning_fabric import Fabric  # here, for it drags in torch's compiler, a second

    devices, n_nodes = layout(options.devices, options.num_nodes)
    _check_layout(devices, n_nodes, options.accelerator)
    precision: Any = options.precision  # checked before
    strategy = "auto" if devices * n_nodes == 1 else "ddp"
    is_ours = not distributed.is_initialized()
    with quiet_fabric():
        fabric = Fabric(
            accelerator=options.accelerator,
            strategy=strategy,
            devices=devices,
            num_nodes=n_nodes,
            precision=precision,
        )
        fabric.launch()
    if fabric.world_size > 1:
        _joined[:] = [fabric.global_rank]
        if is_ours:
            atexit.register(_leave)
    return fabric


def _leave() -> None:
    """End the group that `make_fabric` began, as Fabric does only with NCCL.

    Threads of Gloo that are still there as the interpreter goes may want it once more, and abort the process.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def layout(devices: int | None = None, num_nodes: int | None = None) -> tuple[int, int]:
    """Processes on each node, and nodes: what is given, else what a launcher has started, else one.

    Launchers are those that Fabric knows: torchrun, srun of SLURM, jsrun of LSF, and mpirun.

    Examples
    --------
    >>> layout(2, 3)
    (2, 3)
    """
    started = _started() if devices is None or num_nodes is None else 1
    if devices is None and num_nodes is None:
        num_nodes = _nodes_started(started)
    if num_nodes is None:
        assert devices is not None
        num_nodes = max(1, started // devices) if devices > 1 else 1
    return (max(1, started // num_nodes) if devices is None else devices), num_nodes


def _check_layout(devices: int, num_nodes: int, accelerator: str) -> None:
    """Raise a ValueError for processes that nobody would start, or that would wait for cores or for one another."""
    n_cores = os.cpu_count() or 1
    if accelerator == "cpu" and devices > n_cores and _started() == 1:
        raise ValueError(f"devices must be at most {n_cores}, the cores of this machine; got {devices}.")
    if num_nodes > 1 and _started() == 1 and "MASTER_ADDR" not in os.environ:
        raise ValueError(
            f"num_nodes={num_nodes} needs a launcher on every machine, torchrun or srun, or the variables MASTER_ADDR "
            "and NODE_RANK; there is none here."
        )


def _started() -> int:
    """Processes that a launcher has started; 1 without one."""
    from lightning_fabric.plugins.environments import (
        LSFEnvironment,
        MPIEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

    for environment in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
        if environment.detect():
            return environment().world_size()
    return 1


def _nodes_started(started: int) -> int:
    if "LOCAL_WORLD_SIZE" in os.environ:  # of torchrun
        return max(1, started // int(os.environ["LOCAL_WORLD_SIZE"]))
    return int(os.environ.get("SLURM_NNODES", 1))


@contextlib.contextmanager
def all_processes(options: TrainingOptions) -> Iterator[None]:
    """Inside it all processes of the layout work together, where there are more than one; only the first warns."""
    if processes().size > 1 or layout(options.devices, options.num_nodes) == (1, 1):
        yield
        return
    fabric = make_fabric(options)
    with together(fabric.device), warnings.catch_warnings():
        if not fabric.is_global_zero:
            warnings.simplefilter("ignore")
        yield


def is_first_process() -> bool:
    """Whether this process writes and prints: it is alone, or the first of those that have worked together.

    Examples
    --------
    >>> is_first_process()
    True
    """
    return not any(_joined)


def process_label() -> str:
    """Which process it is that has something to say, where it is not the first.

    Examples
    --------
    >>> process_label()
    ''
    """
    return "" if is_first_process() else f" (process {_joined[0]})"
