"""The training loop on Lightning Fabric, and its result; the best state is restored."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import logging
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn
from tqdm.auto import tqdm

from koopman_lora._labels import EPOCH, MODE, labelled, provenance
from koopman_lora.data.scales import standardization
from koopman_lora.data.splits import Split
from koopman_lora.epoch_scores import EpochScore, HeldOutScores
from koopman_lora.kinds import flag
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError, scalar_loss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.optimisers import HIDDEN_MOMENTUM, MuonAdamW, hidden_matrices, parameter_groups
from koopman_lora.surroundings import may_draw, seeded
from koopman_lora.training_batches import TrainingBatches, n_batches
from koopman_lora.training_options import TrainingOptions

# Optimisation steps by default; they grow with the cube root of the number of pairs beyond so many.
N_STEPS, MANY_PAIRS = 950, 40_000
# Where features will be refined, and pairs are plenty, fewer steps with orthogonalised momentum do as well: so many for
# a state of one coordinate, and up to so many times more for more of them. On few pairs that momentum over-fits, and
# un-refined features need the time for their last layers. Measured on all systems of `benchmarks/`.
N_QUICK_STEPS, MOST_TIMES, PLENTY_OF_PAIRS = 250, 4, 15_000
# Steps of an epoch of the default training, however many pairs there are.
EPOCH_STEPS = 50
_ONE_AT_A_TIME = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingResult:
    """What `fit` did; the trained weights are in the model that was passed.

    Attributes
    ----------
    history : Dataset over epochs: loss, held_out_vamp_2, learning_rate, svals (where learned)
    best_epoch : epoch whose state the model has now, counted from 1
    stop_reason : 'finished' or 'early stopping'
    split : the training and held-out pairs used; hand it to `kl.refine`
    seconds : time in the loop
    """

    history: xr.Dataset
    best_epoch: int
    stop_reason: str
    split: Split
    seconds: float


@contextlib.contextmanager
def quiet_fabric() -> Iterator[None]:
    """Fabric announces devices through logging as it is set up; a library that is called in a loop should not.

    Of this thread only, and nothing is left behind: the logger is the user's as well.
    """
    from lightning_fabric.utilities.rank_zero import rank_zero_module

    here = threading.get_ident()

    def is_heard(record: logging.LogRecord) -> bool:
        return record.thread != here or record.levelno >= logging.ERROR

    logger = rank_zero_module.log
    with _ONE_AT_A_TIME:  # a filter that goes while another thread walks over them would hide the next one
        logger.addFilter(is_heard)
        try:
            yield
        finally:
            logger.removeFilter(is_heard)


class TrainingLoop:
    """State of one training run: what `run` needs, set up once."""

    def __init__(
        self,
        model: KoopmanLoRAModel,
        split: Split,
        loss: nn.Module | None,
        options: TrainingOptions,
        seed: int = 0,
    ) -> None:
        from lightning_fabric import Fabric  # here, for it drags in torch's compiler, a second

        precision: Any = options.precision  # checked before
        with quiet_fabric():
            self.fabric = Fabric(accelerator=options.accelerator, devices=1, precision=precision)
        self.model, self.split, self.options, self.seed = model, split, options, seed
        self.train, self.test = split.training, split.held_out
        self.loss = loss or NestedLoRALoss(model.n_modes)
        self.records: list[dict[str, Any]] = []

    def _configure(self, n_epochs: int | None, batch_size: int) -> None:
        """Set up optimiser, schedule and data."""
        steps_per_pass = n_batches(len(self.train), batch_size, self.model.n_modes)
        is_quick = self.options.will_refine and len(self.train) >= PLENTY_OF_PAIRS
        hidden = hidden_matrices(self.model.encoders) if is_quick else []
        self.n_epochs = n_epochs or round(self._default_steps(bool(hidden)) / EPOCH_STEPS)
        self.steps_per_epoch = steps_per_pass if n_epochs else EPOCH_STEPS
        groups = parameter_groups(self.model, self.options.learning_rate, hidden)
        fused = not any(p.is_complex() for p in self.model.parameters())  # torch has it for real numbers only
        optimizer = MuonAdamW(groups, weight_decay=self.options.weight_decay, fused=fused)
        # at least 4 steps, so that the warm-up of the schedule is never empty
        total = max(self.steps_per_epoch * self.n_epochs, 4)
        peaks = [group["lr"] for group in groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, peaks, total, max_momentum=[HIDDEN_MOMENTUM if "is_hidden" in g else 0.95 for g in groups]
        )
        # the wrapped module only walks over inputs and outputs, which are where and what they should be already
        with quiet_fabric():
            _, self.optimizer = self.fabric.setup(self.model, optimizer)
        self.settings = {
            "batch_size": batch_size,
            "steps_per_epoch": self.steps_per_epoch,
            "learning_rate": self.options.learning_rate,
            "weight_decay": self.options.weight_decay,
        }
        if self.options.standardize:
            self.model.standardize.set_statistics(*standardization(self.train, self.model.standardize.periodic))
        # on the model's device, where `setup` has moved it
        self.batches = TrainingBatches(self.model, self.train, steps_per_pass, self.seed)
        self.scores = None if self.test is None else HeldOutScores(self.model, self.test)

    def _default_steps(self, has_hidden: bool) -> float:
        growth = max(1.0, len(self.train) / MANY_PAIRS) ** (1 / 3)
        return growth * (N_QUICK_STEPS * min(self.model.n_inputs, MOST_TIMES) if has_hidden else N_STEPS)

    def run(self, n_epochs: int | None, batch_size: int, progress: bool) -> TrainingResult:
        """Train; the best state is in the model afterwards."""
        self._configure(n_epochs, batch_size)
        drawing = may_draw(self.model) or may_draw(self.loss)
        with (
            contextlib.closing(self.batches),
            seeded(self.seed, self.fabric.device) if drawing else contextlib.nullcontext(),
        ):
            return self._run(progress)

    def _run(self, progress: bool) -> TrainingResult:
        best: EpochScore | None = None
        chosen: EpochScore | None = None
        state: dict[str, Any] | None = None
        stop_reason, start = "finished", time.perf_counter()
        patience = self.options.patience or max(10, math.ceil(self.n_epochs / 3))
        bar = tqdm(range(1, self.n_epochs + 1), desc="training", unit="epoch", disable=not flag("progress", progress))
        for epoch in bar:
            try:
                mean_loss = self._epoch(epoch)
            except NonFiniteLossError:
                if state is not None:  # leave the model as good as it was, not broken
                    self.model.load_state_dict(state)
                raise
            score = EpochScore(epoch, -mean_loss, np.zeros(2)) if self.scores is None else self.scores.score(epoch)
            self._record(mean_loss, score.value)
            bar.set_postfix(loss=f"{mean_loss:.4f}", score=f"{score.value:.4f}")
            if best is None or score.value > best.value:
                best = score
            if not score.is_worse_than(best):
                chosen, state = score, copy.deepcopy(self.model.state_dict())
            if epoch - best.epoch >= patience:
                stop_reason = "early stopping"
                break
        assert chosen is not None  # there is at least one epoch
        assert state is not None
        self.model.load_state_dict(state)
        seconds = time.perf_counter() - start
        self.model.eval()
        return TrainingResult(self._history(chosen.epoch), chosen.epoch, stop_reason, self.split, seconds)

    def _epoch(self, epoch: int) -> float:
        self.model.train()
        total = torch.zeros((), device=self.fabric.device)
        for x, x_next in itertools.islice(self.batches, self.steps_per_epoch):
            with self._autocast():
                f, g = self.model.encode(x, x_next)
                loss = scalar_loss(self.loss(f, g, self.model.svals))
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            if self.options.gradient_clip is not None:
                # a gradient that is not finite reaches the loss, and stops there with advice
                self.fabric.clip_gradients(
                    self.model, self.optimizer, max_norm=self.options.gradient_clip, error_if_nonfinite=False
                )
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach()
        mean_loss = total.item() / self.steps_per_epoch
        if not math.isfinite(mean_loss):
            raise NonFiniteLossError(
                f"the loss became {mean_loss} in epoch {epoch}; try a smaller learning_rate or gradient_clip=1.0, or "
                "look for outliers in the data."
            )
        return mean_loss

    def _autocast(self) -> contextlib.AbstractContextManager:
        """Fabric's, where it changes this thread alone: for '64-true' it sets the default precision of all threads."""
        return self.fabric.autocast() if self.options.precision.endswith("mixed") else contextlib.nullcontext()

    def _record(self, mean_loss: float, score: float) -> None:
        record: dict[str, Any] = {"loss": mean_loss, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        if self.test is not None:
            record["held_out_vamp_2"] = score
        if self.model.svals is not None:
            record["svals"] = self.model.svals.detach().cpu().numpy()
        self.records.append(record)

    def _history(self, best_epoch: int) -> xr.Dataset:
        variables = {}
        for name in self.records[0]:
            values = np.stack([record[name] for record in self.records])
            variables[name] = ((EPOCH, MODE) if values.ndim == 2 else (EPOCH,), values)
        attrs = provenance(best_epoch=best_epoch, n_pairs_train=len(self.train), **self.settings)
        return labelled(variables, attrs)
