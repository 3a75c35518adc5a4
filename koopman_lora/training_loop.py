"""The training loop on Lightning Fabric, and its result; the best state is restored, and an interruption answered."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import time
import warnings
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from koopman_lora._labels import EPOCH, MODE, labelled, provenance
from koopman_lora.baselines import DPNetLoss, VAMPLoss
from koopman_lora.checkpoints import Checkpoints
from koopman_lora.data.lazy_states import LazyStates
from koopman_lora.data.scales import standardization
from koopman_lora.data.seals import told_of
from koopman_lora.data.splits import Split
from koopman_lora.epoch_scores import EpochScore, HeldOutScores
from koopman_lora.finding import Finding
from koopman_lora.interruptions import Interruption, interruptions
from koopman_lora.launching import make_fabric
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError, scalar_loss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.normalisation import at_least_single, global_batch_norm
from koopman_lora.optimisers import HIDDEN_MOMENTUM, MuonAdamW, hidden_matrices, parameter_groups
from koopman_lora.processes import (
    agreed,
    all_rows,
    alone,
    average_gradients,
    gathered,
    made_by_first,
    processes,
    share_state,
)
from koopman_lora.surroundings import may_draw, seeded
from koopman_lora.training_batches import LEAST_OF_BLOCKS, TrainingBatches, n_batches
from koopman_lora.training_options import TrainingOptions
from koopman_lora.training_reports import INTERRUPTED, TrainingReports, interrupted_finding
from koopman_lora.training_state import RunState, Standing, identity_of

# Optimisation steps by default; they grow with the cube root of the number of pairs beyond so many.
N_STEPS, MANY_PAIRS = 950, 40_000
# Where features will be refined, and pairs are plenty, fewer steps with orthogonalised momentum do as well: so many for
# a state of one coordinate, and up to so many times more for more of them. On few pairs that momentum over-fits, and
# un-refined features need the time for their last layers. Measured on all systems of `benchmarks/`. These steps grow
# with the sixth root only: all pairs tell the coefficients, whatever the steps, and hidden layers need no more of them.
N_QUICK_STEPS, MOST_TIMES, PLENTY_OF_PAIRS = 250, 4, 15_000
# Steps of an epoch of the default training, however many pairs there are.
EPOCH_STEPS = 50
FINISHED, EARLY = "finished", "early stopping"
# Steps after which processes ask one another whether somebody wants them to stop.
ASKED_EVERY = 10
# Losses whose means over a batch are over those of all processes.
LOSSES_OF_MOMENTS = (NestedLoRALoss, VAMPLoss, DPNetLoss)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingResult:
    """What `fit` did; the trained weights are in the model that was passed.

    Attributes
    ----------
    history : Dataset over epochs: loss, held_out_vamp_2, learning_rate, svals (where learned)
    best_epoch : epoch whose state the model has now, counted from 1
    stop_reason : 'finished', 'early stopping' or 'interrupted'
    split : the training and held-out pairs used; hand it to `kl.refine`
    seconds : time in the loop
    finding : that it was interrupted, and how to go on; None otherwise
    """

    history: xr.Dataset
    best_epoch: int
    stop_reason: str
    split: Split
    seconds: float
    finding: Finding | None = None


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
        self.fabric = make_fabric(options)
        self.model, self.split, self.options, self.seed = model, split, options, seed
        self.train, self.test = split.training, split.held_out
        self.loss = loss or NestedLoRALoss(model.n_modes, joint_share=options.joint_share)
        self.standing = Standing(torch.zeros((), device=self.fabric.device))
        self.checkpoints: Checkpoints | None = None
        self.stopped_by = ""  # the signal, once all processes know of it

    def _configure(self, n_epochs: int | None, batch_size: int) -> None:
        """Set up optimiser, schedule and data."""
        steps_per_pass = n_batches(len(self.train), batch_size, self.model.n_modes)
        self._check_parts(len(self.train) // steps_per_pass)
        is_quick = self.options.will_refine and self.train.n_effective >= PLENTY_OF_PAIRS
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
        # a wrapped module would walk over inputs and outputs, which are where and what they should be already, and take
        # means over processes of what they have in common
        self.fabric.to_device(self.fabric.strategy.precision.convert_module(self.model))
        self.optimizer: Any = self.fabric.setup_optimizers(optimizer)
        share_state(self.model)
        self.parameters = list(self.model.parameters())
        self.draws = may_draw(self.model) or may_draw(self.loss)
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
        precision = self.fabric.strategy.precision
        parts = (self.model, self.loss, optimizer, self.schedule, precision, self.batches, self.draws)
        self.run_state = RunState(self.standing, *parts)

    def _check_parts(self, smallest: int) -> None:
        """Raise a ValueError where processes were given other pairs, or batches too small to have a part for each."""
        others = gathered((len(self.train), 0 if self.test is None else len(self.test)))
        if len(set(others)) > 1:
            raise ValueError(f"pairs must be the same in all processes; they have {others} (training, held-out) pairs.")
        least = LEAST_OF_BLOCKS if isinstance(self.train.states, LazyStates) else 2
        if processes().size > 1 and smallest < least * processes().size:
            raise ValueError(
                f"batch_size must give each of {processes().size} processes {least} pairs at least; batches are of "
                f"{smallest}. Use larger ones, or fewer processes."
            )

    def _default_steps(self, has_hidden: bool) -> float:
        growth = max(1.0, len(self.train) / MANY_PAIRS)
        if has_hidden:
            return growth ** (1 / 6) * N_QUICK_STEPS * min(self.model.n_inputs, MOST_TIMES)
        return growth ** (1 / 3) * N_STEPS

    def run(self, n_epochs: int | None, batch_size: int, progress: bool | None) -> TrainingResult:
        """Train; the best state is in the model afterwards."""
        kept = made_by_first(lambda: self._open_checkpoints(n_epochs=n_epochs, batch_size=batch_size, seed=self.seed))
        self._configure(n_epochs, batch_size)
        # layers that draw, such as dropout, must draw for its own pairs in each process
        seed = self.seed + processes().rank
        drawing = seeded(seed, self.fabric.device) if self.draws else contextlib.nullcontext()
        with contextlib.closing(self.batches), drawing, global_batch_norm(self.model):
            if kept is not None:
                with told_of(str(self.options.checkpoint)):
                    self.run_state.restore(kept)
                if self.draws and not processes().is_first:  # the state that was kept is that of the first
                    torch.manual_seed(seed + self.schedule.last_epoch)
                place = len(self.standing.records), self.n_epochs, self.standing.step
                logger.info("resumed from %s after %d of %d epochs and %d steps", self.options.checkpoint, *place)
            return self._run(progress)

    def _open_checkpoints(self, **settings: Any) -> Any:
        """The state to go on from, if there is one. Only one process keeps them."""
        options = self.options
        if options.checkpoint is None:
            return None
        identity = identity_of(self.model, self.split, self.loss, options, **settings)
        self.checkpoints = Checkpoints(options.checkpoint, identity, options.checkpoint_every)
        if options.resume:
            return self.checkpoints.load()
        self.checkpoints.check_unused()
        return None

    def _run(self, progress: bool | None) -> TrainingResult:
        standing, steps = self.standing, self.n_epochs * self.steps_per_epoch
        logger.info("training on %d pairs: %d epochs, %d steps", len(self.train), self.n_epochs, steps)
        self.started = time.perf_counter() - standing.seconds
        how = (progress, self.options.log_to) if processes().is_first else (False, None)
        reports = TrainingReports(self.n_epochs, standing.records, *how)
        try:
            with interruptions() as interruption:
                if not standing.stop_reason:
                    self._train(interruption, reports)
        except NonFiniteLossError:
            if standing.weights is not None:  # leave the model as good as it was, not broken
                self.model.load_state_dict(standing.weights)
            raise
        finally:
            reports.close()
        return self._result()

    def _train(self, interruption: Interruption, reports: TrainingReports) -> None:
        """Epochs until the run ends or somebody asks to stop; the state that it stands in then is kept."""
        standing = self.standing
        if self.checkpoints is not None:  # now, so that a folder that cannot be written is told before the work
            self.checkpoints.save(self.run_state.state())
        while not (standing.stop_reason or self.stopped_by):
            self._steps(interruption)
            if standing.step == self.steps_per_epoch:
                self._close_epoch()
                reports.epoch(len(standing.records), standing.records[-1])
        self._keep()
        if standing.chosen is None:  # stopped in the first epoch: what there is of it counts
            self._choose()

    def _steps(self, interruption: Interruption) -> None:
        """Steps of the epoch under way, until it is done or somebody asks to stop."""
        standing = self.standing
        self.model.train()
        while standing.step < self.steps_per_epoch:
            self._step(*next(self.batches))
            if processes().size == 1:
                self.stopped_by = interruption.signal_name
            elif standing.step % ASKED_EVERY == 0 or standing.step == self.steps_per_epoch:
                self.stopped_by = max(gathered(interruption.signal_name))
            if self.stopped_by:
                return
            if self.checkpoints is not None and self.checkpoints.is_due:
                self._keep()

    def _step(self, x: Tensor, x_next: Tensor) -> None:
        with self._autocast():
            f, g = self.model.encode(x, x_next)
        loss = scalar_loss(self._loss_of_all(at_least_single(f), at_least_single(g)))
        for parameter in self.parameters:  # `zero_grad` is slow to begin
            parameter.grad = None
        self.fabric.backward(loss)
        average_gradients(self.parameters)
        if self.options.gradient_clip is not None:
            # a gradient that is not finite reaches the loss, and stops there with advice
            self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.options.gradient_clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.schedule.step()
        self.standing.total += loss.detach()
        self.standing.step += 1

    def _loss_of_all(self, f: Tensor, g: Tensor) -> Tensor:
        """Loss of the batch of all processes, of which features of the own part are given.

        Our losses are functions of moments, which are summed over processes. Of another nothing is known: it gets the
        features of all.
        """
        if processes().size == 1 or type(self.loss) in LOSSES_OF_MOMENTS:
            return self.loss(f, g, self.model.svals)
        n_rows, places = self.batches.n_rows, self.batches.places().to(f.device)
        f, g = (all_rows(features, n_rows, places, is_last=True) for features in (f, g))
        with alone():
            return self.loss(f, g, self.model.svals)

    def _choose(self) -> None:
        """Score the present state, and choose between it and those before."""
        standing, epoch = self.standing, self.standing.epoch
        mean_loss = agreed(standing.total.item() / standing.step)
        if not math.isfinite(mean_loss):
            raise NonFiniteLossError(
                f"the loss became {mean_loss} in epoch {epoch}; try a smaller learning_rate or gradient_clip=1.0, or "
                "look for outliers in the data."
            )
        score = EpochScore(epoch, -mean_loss, np.zeros(2)) if self.scores is None else self.scores.score(epoch)
        score = agreed(score)  # on machines of several kinds they may differ in the last bit, and decisions with them
        standing.records.append(self._record(mean_loss, score.value))
        if standing.best is None or score.value > standing.best.value:
            standing.best = score
        if not score.is_worse_than(standing.best):
            standing.chosen, standing.weights = score, copy.deepcopy(self.model.state_dict())

    def _close_epoch(self) -> None:
        self._choose()
        standing, epoch = self.standing, self.standing.epoch
        assert standing.best is not None
        if epoch - standing.best.epoch >= (self.options.patience or max(10, math.ceil(self.n_epochs / 3))):
            standing.stop_reason = EARLY
        elif epoch == self.n_epochs:
            standing.stop_reason = FINISHED
        standing.epoch, standing.step = epoch + 1, 0
        standing.total.zero_()

    def _keep(self) -> None:
        """Write a checkpoint; a disk that is full by now costs no training."""
        self.standing.seconds = time.perf_counter() - self.started
        if self.checkpoints is not None:
            try:
                self.checkpoints.save(self.run_state.state())
            except OSError as error:
                warnings.warn(f"{error} The training goes on; the older checkpoint stays.", stacklevel=2)

    def _autocast(self) -> contextlib.AbstractContextManager:
        """Fabric's, where it changes this thread alone: for '64-true' it sets the default precision of all threads."""
        return self.fabric.autocast() if self.options.precision.endswith("mixed") else contextlib.nullcontext()

    def _record(self, mean_loss: float, score: float) -> dict[str, Any]:
        record: dict[str, Any] = {"loss": mean_loss, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        if self.test is not None:
            record["held_out_vamp_2"] = score
        if self.model.svals is not None:
            record["svals"] = self.model.svals.detach().cpu().numpy()
        return record

    def _result(self) -> TrainingResult:
        """Restore the chosen state, and tell."""
        standing = self.standing
        assert standing.chosen is not None  # there is at least part of an epoch
        assert standing.weights is not None
        self.model.load_state_dict(standing.weights)
        self.model.eval()
        chosen, finding = standing.chosen.epoch, None
        if not standing.stop_reason:
            done = f"after {standing.epoch - 1} of {self.n_epochs} epochs"
            finding = interrupted_finding(f"({self.stopped_by}) {done}", chosen, self.options.checkpoint)
        reason, n_epochs = standing.stop_reason or INTERRUPTED, len(standing.records)
        told = "training ended after %d epochs and %.1f s (%s); the state of epoch %d is taken"
        logger.info(told, n_epochs, standing.seconds, reason, chosen)
        return TrainingResult(self._history(chosen), chosen, reason, self.split, standing.seconds, finding)

    def _history(self, best_epoch: int) -> xr.Dataset:
        variables, records = {}, self.standing.records
        for name in records[0]:
            values = np.stack([record[name] for record in records])
            variables[name] = ((EPOCH, MODE) if values.ndim == 2 else (EPOCH,), values)
        attrs = provenance(best_epoch=best_epoch, n_pairs_train=len(self.train), **self.settings)
        return labelled(variables, attrs)
