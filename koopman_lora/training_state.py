"""Where a training run stands: all that its next step depends on, taken out and put back; and what run it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from koopman_lora.data.seals import checksum
from koopman_lora.data.splits import Split
from koopman_lora.epoch_scores import EpochScore
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.surroundings import random_states, set_random_states
from koopman_lora.training_batches import TrainingBatches
from koopman_lora.training_options import TrainingOptions

# Options that say where and how a run is kept, and change no number of it beyond round-off.
_OF_NO_CONSEQUENCE = ("accelerator", "devices", "num_nodes", "checkpoint", "checkpoint_every", "resume", "log_to")
_PLAIN = (bool, int, float, str, tuple, list, type(None))


@dataclasses.dataclass
class Standing:
    """What a run has done so far.

    Attributes
    ----------
    epoch, step : the epoch under way, from 1, and how many of its steps are done
    total : sum of the losses of these
    records : what the history says of every epoch that is done
    best : the highest score; of an epoch whose state may have been left behind
    chosen, weights : the latest score that is not told from it, and the state of the model then
    stop_reason : empty while the run goes on
    seconds : that it took so far
    """

    total: Tensor
    epoch: int = 1
    step: int = 0
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: EpochScore | None = None
    chosen: EpochScore | None = None
    weights: dict[str, Any] | None = None
    stop_reason: str = ""
    seconds: float = 0.0

    def state(self) -> dict[str, Any]:
        """All of it, as `Checkpoints` holds it."""
        held = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        columns = {name: np.stack([record[name] for record in self.records]) for name in next(iter(self.records), {})}
        scores = {name: None if held[name] is None else held[name]._asdict() for name in ("best", "chosen")}
        return held | scores | {"records": columns}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Stand where `state` says."""
        device = self.total.device
        for field in dataclasses.fields(self):
            setattr(self, field.name, state[field.name])
        self.total = self.total.to(device)
        scores = (state["best"], state["chosen"])
        self.best, self.chosen = (None if score is None else EpochScore(**score) for score in scores)
        columns = state["records"]
        n_epochs = len(next(iter(columns.values()), ()))
        self.records = [{name: values[i] for name, values in columns.items()} for i in range(n_epochs)]


@dataclasses.dataclass(frozen=True, eq=False)
class RunState:
    """The parts of a run that change from step to step; `draws` is whether layers draw from torch's random numbers."""

    standing: Standing
    model: KoopmanLoRAModel
    loss: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.OneCycleLR
    precision: Any
    batches: TrainingBatches
    draws: bool

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, as `Checkpoints` holds it."""
        return {
            "standing": self.standing.state(),
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict() if isinstance(self.loss, nn.Module) else {},
            "optimizer": _optimizer_state(self.optimizer),
            "schedule": {name: getattr(self.schedule, name) for name in ("last_epoch", "_step_count", "_last_lr")},
            "precision": self.precision.state_dict(),
            "batches": self.batches.state(),
            "random": random_states(self.model.device) if self.draws else [],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, with the same bits on the same kind of device."""
        self.standing.restore(state["standing"])
        self.model.load_state_dict(state["model"])
        if isinstance(self.loss, nn.Module):
            self.loss.load_state_dict(state["loss"])
        _restore_optimizer(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.precision.load_state_dict(state["precision"])
        self.batches.restore(state["batches"])
        set_random_states(state["random"], self.model.device)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    rates = [{"lr": group["lr"], "betas": group["betas"]} for group in optimizer.param_groups]
    return {"rates": rates, "moments": [optimizer.state.get(p, {}) for p in _parameters(optimizer)]}


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """By hand: torch's own way expects what Adam keeps of every parameter, also of those that it does not step."""
    for group, rates in zip(optimizer.param_groups, state["rates"], strict=True):
        group["lr"], group["betas"] = rates["lr"], tuple(rates["betas"])
    for parameter, moments in zip(_parameters(optimizer), state["moments"], strict=True):
        optimizer.state[parameter] = {name: value.to(parameter.device) for name, value in moments.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def identity_of(
    model: KoopmanLoRAModel, split: Split, loss: nn.Module, options: TrainingOptions, **settings: Any
) -> dict[str, Any]:
    """What the result of a run depends on beside its first weights, name to plain value.

    Parameters
    ----------
    settings : further ones, plain
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    masks = np.stack([split.is_training, split.is_held_out])
    held_out = split.held_out if split.held_out is not None and not split.is_held_out.any() else None
    return {
        "data": split.pairs.fingerprint(),
        "precision of the data": str(split.pairs.x.dtype),
        "held-out pairs": [checksum(np.packbits(masks).tobytes()), held_out and held_out.fingerprint()],
        "reversible": split.pairs.is_reversible,
        **settings,
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in _OF_NO_CONSEQUENCE},
        "loss": _described(loss),
        "n_modes": model.n_modes,
        "state_shape": list(model.state_shape),
        "periodic": [list(model.standardize.periodic), list(model.standardize.period)],
        "encoders": str(model.encoders),
        "weights": [[name, list(t.shape), t.requires_grad] for name, t in named],
    }


def _described(loss: Any) -> list[Any]:
    """The kind of a loss, and its settings as far as they are plain."""
    settings = {name: value for name, value in vars(loss).items() if not name.startswith("_") and name != "training"}
    kind = f"{type(loss).__module__}.{type(loss).__qualname__}"
    return [kind, {name: value for name, value in settings.items() if isinstance(value, _PLAIN)}]
