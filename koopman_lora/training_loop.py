"""The training loop on Lightning Fabric, its options and its result; data in memory, best state restored."""

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
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from koopman_lora._labels import EPOCH, MODE, labelled, provenance
from koopman_lora.accumulation import estimate_moments
from koopman_lora.arguments import check_positive
from koopman_lora.checks import checked
from koopman_lora.data.pairs import BATCH, in_both_directions
from koopman_lora.data.scales import standardization
from koopman_lora.data.splits import Split
from koopman_lora.kinds import flag
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError, scalar_loss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS, Moments
from koopman_lora.optimisers import HIDDEN_LEARNING_RATE, HIDDEN_MOMENTUM, MuonAdamW, hidden_matrices
from koopman_lora.scores import jackknife_error, span_vamp_2
from koopman_lora.surroundings import may_draw, seeded

# Optimisation steps by default; they grow with the cube root of the number of pairs beyond so many.
N_STEPS, MANY_PAIRS = 950, 40_000
# Where features will be refined, and pairs are plenty, fewer steps with orthogonalised momentum do as well: so many for
# a state of one coordinate, and up to so many times more for more of them. On few pairs that momentum over-fits, and
# un-refined features need the time for their last layers. Measured on all systems of `benchmarks/`.
N_QUICK_STEPS, MOST_TIMES, PLENTY_OF_PAIRS = 250, 4, 15_000
# Steps of an epoch of the default training, and held-out pairs that its score sees at most, however many there are.
EPOCH_STEPS, MOST_SCORED = 50, 20_000
# The singular values learn slower than the encoders: a sval that falls before its functions are found takes their
# gradient away. Measured on the logistic map, 20 modes: a factor of 1 loses the modes below 0.1.
SVALS_LEARNING_RATE = 0.3
# Words of Fabric for what can be trained. With weights in half precision the mean and scale of the states are in half
# precision too, which an offset of the data does not survive, and NumPy has no bfloat16 for the moments.
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
_ONE_AT_A_TIME = threading.Lock()


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
        orthogonalised momentum for hidden matrices (`MuonAdamW`)
    standardize : set the model's standardisation from the training pairs
    accelerator : for Lightning Fabric: 'cpu', 'gpu', 'auto'
    precision : '32-true' or '64-true', or for half precision where it does no harm 'bf16-mixed' or '16-mixed'

    Raises
    ------
    ValueError
        For values out of range.

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
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "gradient_clip", "patience"):
            check_positive(name, getattr(self, name))
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(map(repr, PRECISIONS))}; got {self.precision!r}. The "
                "weights must be in single precision at least; for speed use 'bf16-mixed'."
            )
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative; got {self.weight_decay}.")


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


class _Score(NamedTuple):
    """Held-out score after an epoch, and its values with one block of the held-out pairs left out."""

    epoch: int
    value: float
    leaving_out: np.ndarray

    def is_worse_than(self, best: _Score) -> bool:
        """Whether the distance to `best` is more than one standard error, paired over blocks.

        Scores of neighbouring epochs differ by noise; of states that cannot be told apart the later one has the smaller
        learning rate behind it, and less noise in its weights.
        """
        paired = jackknife_error(best.leaving_out - self.leaving_out)
        # a state that fails on a few outliers has a huge paired error: that must not excuse it
        return best.value - self.value > float(min(paired, jackknife_error(best.leaving_out)))


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
        """Set up optimiser, schedule and the data in memory."""
        # no batch smaller than n_modes or 2, also where few pairs are cut into parts of equal size
        most = len(self.train) // max(self.model.n_modes, 2)
        self.steps_per_pass = max(1, min(round(len(self.train) / batch_size), most))
        is_quick = self.options.will_refine and len(self.train) >= PLENTY_OF_PAIRS
        hidden = hidden_matrices(self.model.encoders) if is_quick else []
        self.n_epochs = n_epochs or round(self._default_steps(bool(hidden)) / EPOCH_STEPS)
        self.steps_per_epoch = self.steps_per_pass if n_epochs else EPOCH_STEPS
        groups = self._groups(hidden)
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
        with torch.no_grad():  # standardised once, in the data's own precision
            self.x, self.x_next = self.model.prepare(self.train.x), self.model.prepare(self.train.x_next)
            if self.test is not None:
                some = slice(None, None, math.ceil(len(self.test) / MOST_SCORED))
                self.test_states = self.model.prepare(self.test.x[some]), self.model.prepare(self.test.x_next[some])
                if self.test.is_reversible:
                    self.test_states = in_both_directions(*self.test_states)

    def _default_steps(self, has_hidden: bool) -> float:
        growth = max(1.0, len(self.train) / MANY_PAIRS) ** (1 / 3)
        return growth * (N_QUICK_STEPS * min(self.model.n_inputs, MOST_TIMES) if has_hidden else N_STEPS)

    def _groups(self, hidden: list[nn.Parameter]) -> list[dict[str, Any]]:
        """Parameters with the peaks of their learning rates."""
        rate, apart = self.options.learning_rate, {id(p) for p in (*hidden, self.model.svals_params)}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.model.parameters() if id(p) not in apart], "lr": rate}
        ]
        if self.model.svals_params is not None:
            groups.append({"params": [self.model.svals_params], "lr": SVALS_LEARNING_RATE * rate})
        if hidden:
            groups.append({"params": hidden, "lr": HIDDEN_LEARNING_RATE * rate, "is_hidden": True})
        return groups

    def run(self, n_epochs: int | None, batch_size: int, progress: bool) -> TrainingResult:
        """Train; the best state is in the model afterwards."""
        self._configure(n_epochs, batch_size)
        # batches from a generator of their own; layers such as dropout know only torch's one for all threads
        self.batches = self._batches(torch.Generator().manual_seed(self.seed))
        drawing = may_draw(self.model) or may_draw(self.loss)
        with seeded(self.seed, self.fabric.device) if drawing else contextlib.nullcontext():
            return self._run(progress)

    def _run(self, progress: bool) -> TrainingResult:
        best: _Score | None = None
        chosen: _Score | None = None
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
            score = _Score(epoch, -mean_loss, np.zeros(2)) if self.test is None else self._held_out_score(epoch)
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

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """States of every step, in one random order of the pairs after the other; none is dropped.

        Where pairs count both ways, half of them go backward: as they come, by chance.
        """
        while True:
            order = torch.randperm(len(self.train), generator=generator).to(self.fabric.device)
            for rows in order.tensor_split(self.steps_per_pass):  # sizes differ by one pair at most
                x, x_next = self.x[rows], self.x_next[rows]
                if self.train.is_reversible:
                    half = len(rows) // 2
                    x, x_next = torch.cat([x[:half], x_next[half:]]), torch.cat([x_next[:half], x[half:]])
                yield x, x_next

    def _autocast(self) -> contextlib.AbstractContextManager:
        """Fabric's, where it changes this thread alone: for '64-true' it sets the default precision of all threads."""
        return self.fabric.autocast() if self.options.precision.endswith("mixed") else contextlib.nullcontext()

    def _held_out_score(self, epoch: int) -> _Score:
        """VAMP-2 of the span of the features at the held-out pairs: the span is all that refinement takes of them."""
        self.model.eval()
        test = self._moments(*self.test_states, n_blocks=16)
        # a single held-out pair tells no error: then the highest score is the best
        leaving_out = span_vamp_2(test.leaving_out()) if test.n_blocks > 1 else np.zeros(2)
        return _Score(epoch, float(span_vamp_2(test)), leaving_out)

    def _moments(self, z: Tensor, z_next: Tensor, n_blocks: int) -> Moments:
        # whitening makes the score independent of the normalisation, which is frozen only at the end
        with torch.no_grad():
            batches = zip(z.split(BATCH), z_next.split(BATCH), strict=True)
            f, g = zip(*(self.model.raw(*batch) for batch in batches), strict=True)
            features = self.model.with_constant(torch.cat(f)), self.model.with_constant(torch.cat(g))
        return estimate_moments(lambda f: f, lambda g: g, features, n_blocks=n_blocks, names=CROSS)

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
