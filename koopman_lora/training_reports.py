"""What is said of a training run as it goes: a progress bar, Python's logging, a logger of Fabric."""

from __future__ import annotations

import logging
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from koopman_lora.finding import Finding
from koopman_lora.kinds import flag

INTERRUPTED = "interrupted"

logger = logging.getLogger(__name__)


class TrainingReports:
    """Tells of every epoch; nothing here is called from within one.

    Parameters
    ----------
    n_epochs : of the run
    records : of the epochs that are done already
    progress : show a bar; None where standard error is a terminal
    log_to : a logger of Fabric, or a folder for CSV; None for neither
    """

    def __init__(self, n_epochs: int, records: Sequence[Mapping[str, Any]], progress: bool | None, log_to: Any) -> None:
        self.n_epochs, self.logger = n_epochs, log_to
        is_off = None if progress is None else not flag("progress", progress)  # None is for tqdm to see
        self.bar = tqdm(total=n_epochs, initial=len(records), desc="training", unit="epoch", disable=is_off)
        if isinstance(log_to, (str, os.PathLike)):
            self.logger = _csv_logger(log_to)
            for epoch, record in enumerate(records, 1):  # so that its file has all of a run that was resumed
                self.logger.log_metrics(_numbers(record), epoch)

    def epoch(self, epoch: int, record: Mapping[str, Any]) -> None:
        """Tell of an epoch that is done."""
        numbers = _numbers(record)
        self.bar.set_postfix({name: f"{numbers[name]:.4f}" for name in _SHOWN if name in numbers}, refresh=False)
        self.bar.update()
        if logger.isEnabledFor(logging.DEBUG):
            told = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items())
            logger.debug("epoch %d of %d: %s", epoch, self.n_epochs, told)
        if self.logger is not None:
            try:
                self.logger.log_metrics(numbers, epoch)
            except OSError as error:  # a disk that is full costs no training
                warnings.warn(f"log_to cannot be written: {error}. The training goes on without it.", stacklevel=2)
                self.logger = None

    def close(self) -> None:
        """The bar stays as it is; the logger writes what it has."""
        self.bar.close()
        if self.logger is not None:
            self.logger.save()


_SHOWN = ("loss", "held_out_vamp_2")


def _csv_logger(folder: str | os.PathLike) -> Any:
    """Fabric's, which flushes every line, to the next `version_<n>` in a folder."""
    from lightning_fabric.loggers import CSVLogger

    try:
        logger = CSVLogger(os.fspath(folder), name=None, flush_logs_every_n_steps=1)
        pathlib.Path(logger.log_dir).mkdir(parents=True)  # told before the work where it cannot be
    except OSError as error:
        raise OSError(f"log_to={os.fspath(folder)!r} cannot be written ({error}); give another folder.") from error
    return logger


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in record.items() if np.ndim(value) == 0}


def interrupted_finding(how: str, chosen: int, checkpoint: str | os.PathLike | None) -> Finding:
    """That a training was interrupted, and how to go on.

    Examples
    --------
    >>> print(interrupted_finding("(SIGINT) after 3 of 9 epochs", 2, "runs/kept").message)
    training was interrupted (SIGINT) after 3 of 9 epochs; the best state so far, of epoch 2, is used. The same fit with
    resume=True goes on from checkpoint 'runs/kept'.
    """
    text = f"training was interrupted {how}; the best state so far, of epoch {chosen}, is used. "
    if checkpoint is None:
        text += "It cannot go on: give checkpoint='folder', and the next one can."
    else:
        text += f"The same fit with resume=True goes on from checkpoint {os.fspath(checkpoint)!r}."
    return Finding(INTERRUPTED, text)
