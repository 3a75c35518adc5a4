"""`TrainingOptions`: how a fit optimises, and where."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from koopman_lora.arguments import check_positive
from koopman_lora.checks import checked
from koopman_lora.kinds import shown

# Words of Fabric for what can be trained. With weights in half precision the mean and scale of the states are in half
# precision too, which an offset of the data does not survive, and NumPy has no bfloat16 for the moments.
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
# Where features will be refined, of the default loss: measured on all systems of `benchmarks/`.
JOINT_SHARE = 1 / 64


@checked
@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How `fit` optimises, and where.

    Parameters
    ----------
    learning_rate, weight_decay : of Adam; the learning rate is the peak of a one-cycle schedule
    gradient_clip : largest norm of the gradient, if any
    patience : stop after so many epochs without a better held-out score, by default a third of them, at least 10
    will_refine : the features are for `kl.refine`, so that fewer steps will do where pairs are plenty, with
        orthogonalised momentum for hidden matrices (`MuonAdamW`), and the default loss has a `joint_share`
    standardize : set the model's standardisation from the training pairs
    accelerator : for Lightning Fabric: 'cpu', 'gpu', 'auto'
    devices, num_nodes : processes on each machine, with a GPU each where the accelerator is one, and machines; by
        default what a launcher has started (torchrun, srun), else one. `devices=1` keeps this process by itself.
    precision : '32-true' or '64-true', or for half precision where it does no harm 'bf16-mixed' or '16-mixed'
    checkpoint : folder for the state of the run, written whole or not at all, the last two of them; one fit, one folder
    checkpoint_every : seconds between two states, 0 for one after every step; one more is written at the end
    resume : go on from the checkpoint, where there is one: the result is the one of an uninterrupted run, to the last
        bit on one kind of CPU with as many threads. Without it a folder with a checkpoint is refused.
    log_to : a logger of Fabric (`lightning_fabric.loggers.TensorBoardLogger(...)`) for loss, learning rate and score of
        every epoch, or a folder, in which every run gets a `version_<n>/metrics.csv`

    Raises
    ------
    ValueError
        For values out of range, or `resume` without a checkpoint.
    TypeError
        For `log_to` that is neither a logger nor a folder.

    Examples
    --------
    >>> TrainingOptions(learning_rate=0)
    Traceback (most recent call last):
    ValueError: learning_rate must be positive; got 0.
    """

    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    patience: int | None = None
    will_refine: bool = False
    standardize: bool = True
    accelerator: str = "cpu"
    devices: int | None = None
    num_nodes: int | None = None
    precision: str = "32-true"
    checkpoint: str | os.PathLike | None = None
    checkpoint_every: float = 60.0
    resume: bool = False
    log_to: Any = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "gradient_clip", "patience", "devices", "num_nodes"):
            check_positive(name, getattr(self, name))
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(map(repr, PRECISIONS))}; got {self.precision!r}. The "
                "weights must be in single precision at least; for speed use 'bf16-mixed'."
            )
        for name in ("weight_decay", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if not self.learning_rate * self.weight_decay < 1:
            raise ValueError(
                f"weight_decay must be below 1 / learning_rate = {1 / self.learning_rate:g}, or a step turns weights "
                f"over; got {self.weight_decay}."
            )
        if self.resume and self.checkpoint is None:
            raise ValueError("resume=True needs the folder that the fit was kept in: checkpoint='...'.")
        is_folder = self.log_to is None or isinstance(self.log_to, (str, os.PathLike))
        if not is_folder and not callable(getattr(self.log_to, "log_metrics", None)):
            raise TypeError(f"log_to must be a folder or a logger of Lightning Fabric; got {shown(self.log_to)}.")

    @property
    def joint_share(self) -> float:
        """Share of the pairs' own law in the default loss, see `lora_loss`: refinement keeps no scale of features."""
        return JOINT_SHARE if self.will_refine else 0.0
