"""`fit`: one readable training loop on Lightning Fabric; data in memory, best state restored, history as a Dataset."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm.auto import tqdm

from koopman_lora._labels import EPOCH, provenance
from koopman_lora.data.pairs import LaggedPairs, split_pairs, standardization
from koopman_lora.losses import NestedLoRALoss, NonFiniteLossError
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments, estimate_moments
from koopman_lora.scores import jackknife_error, vamp_e_leaving_out, vamp_scores

# Optimisation steps below which small data sets get more epochs; measured on the systems of `benchmarks/`.
MIN_STEPS = 950
# The singular values learn slower than the encoders: a sval that falls before its functions are found takes their
# gradient away. Measured on the logistic map, 20 modes: a factor of 1 loses the modes below 0.1.
SVALS_LEARNING_RATE = 0.3
# Pairs that whiten the held-out score of each epoch; more cost time and change little.
SCORE_PAIRS = 5_000


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What `fit` did; the trained weights are in the model that was passed.

    Attributes
    ----------
    history : Dataset over epochs: loss, held_out_vamp_e, learning_rate, svals (where learned)
    best_epoch : epoch whose state the model has now, counted from 1
    stop_reason : 'finished' or 'early stopping'
    train, held_out : the pairs used; held_out is None where nothing was held out
    moments : M_f, M_g, T_fg of the trained features over the training pairs
    seconds : time in the loop
    """

    history: xr.Dataset
    best_epoch: int
    stop_reason: str
    train: LaggedPairs
    held_out: LaggedPairs | None
    moments: Moments
    seconds: float


def fit(
    model: KoopmanLoRAModel,
    pairs: LaggedPairs,
    *,
    loss: nn.Module | None = None,
    held_out: float | LaggedPairs = 0.1,
    n_epochs: int | None = None,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    weight_decay: float = 0.0,
    gradient_clip: float | None = None,
    patience: int | None = None,
    standardize: bool = True,
    accelerator: str = "cpu",
    precision: str = "32-true",
    seed: int = 0,
    progress: bool = False,
) -> TrainingResult:
    """Train a model on lagged pairs; the state with the best held-out VAMP-E is restored.

    Best is the latest epoch whose score is within one standard error (jackknife over blocks of the held-out pairs, of
    the paired difference) of the highest: `TrainingResult.best_epoch`.

    Adam with a one-cycle schedule; batches are drawn from memory. After the loop the features' normalisation is frozen
    by the exact moments of the training pairs, and the learned singular values end at the minimum of the loss for these
    features.

    Parameters
    ----------
    model : KoopmanLoRAModel
        Trained in place.
    pairs : LaggedPairs
    loss : module called as `loss(f, g, svals)`, `NestedLoRALoss(n_modes)` by default
    held_out : float or LaggedPairs
        Fraction to hold out, by trajectories or by blocks with a gap (`split_pairs`); 0 for none; or pairs of your own.
    n_epochs : int, optional
        By default enough for 950 optimisation steps, at least 5.
    batch_size, learning_rate, weight_decay
        Of Adam; the learning rate is the peak of the one-cycle schedule.
    gradient_clip : float, optional
        Largest norm of the gradient.
    patience : int, optional
        Stop after so many epochs without a better held-out score.
    standardize : bool
        Set the model's standardisation from the training pairs.
    accelerator, precision : str
        For Lightning Fabric: 'cpu', 'gpu', 'auto'; '32-true', '64-true', 'bf16-mixed', ...
    seed : int
        Of the split and the order of batches; torch's global random state is left as it was.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        For options out of range, a batch smaller than n_modes, or states that do not fit the model.
    NonFiniteLossError
        When the loss becomes NaN or infinite.

    Examples
    --------
    >>> from koopman_lora.data.pairs import lagged_pairs
    >>> model = KoopmanLoRAModel(1, 3, hidden_dims=(8,), has_centering=True)
    >>> series = np.sin(np.arange(500) / 7.0)[:, None]
    >>> fit(model, lagged_pairs(series), n_epochs=2).history.sizes["epoch"]
    2
    """
    _check_options(batch_size, learning_rate, weight_decay, gradient_clip, patience, n_epochs, held_out)
    if pairs.state_shape != model.state_shape:
        raise ValueError(f"model takes states of shape {model.state_shape}; pairs hold {pairs.state_shape}.")
    if isinstance(held_out, LaggedPairs) and held_out.lag != pairs.lag:
        raise ValueError(f"held_out was made at lag {held_out.lag}, pairs at lag {pairs.lag}; use one lag for both.")
    train, test = _split(pairs, held_out, seed)
    if len(train) < 2 or min(batch_size, len(train)) < model.n_modes:
        raise ValueError(
            f"batch_size must be at least n_modes={model.n_modes} to estimate its moments; got batch_size={batch_size} "
            f"with {len(train)} training pairs."
        )
    model.lag, model.dt, model.time_unit = pairs.lag, pairs.dt, pairs.time_unit
    if standardize:
        model.standardize.set_statistics(*standardization(train))
    with _quiet_fabric(), _fork_seed(seed):
        loop = _Loop(model, train, test, loss or NestedLoRALoss(model.n_modes), accelerator, precision)
        loop.configure(n_epochs, batch_size, learning_rate, weight_decay, gradient_clip, patience)
        return loop.run(progress)


def _freeze(model: KoopmanLoRAModel, train: LaggedPairs) -> Moments:
    """Exact normalisation, and the svals at the minimum of the loss, from one pass over the training pairs.

    Returns the moments of the normalised features.
    """
    model.eval()
    raw = estimate_moments(*model.own_maps(), train, n_blocks=1, same_map=False)
    if not model.normalizes:
        return raw
    model.calibrate_by_moments(raw.M_f, raw.M_g)
    moments = raw.transformed(model.normalisation(0), model.normalisation(1))
    if model.learn_svals:
        model.set_svals(torch.as_tensor(optimal_svals(moments, model.has_centering)))
    return moments


def optimal_svals(moments: Moments, has_constant: bool) -> np.ndarray:
    """Minimiser of the un-nested loss over the singular values, the features being fixed: a linear system, (n_modes,).

    `d/ds (-2 Re sum s_i T_ii + sum_ij s_i s_j M_f[i,j] M_g[j,i]) = 0`, clipped to [0, 1]; a constant mode keeps 1.

    Examples
    --------
    >>> one, half = np.ones((1, 1, 1)), np.full((1, 1, 1), 0.5)
    >>> optimal_svals(Moments({"M_f": one, "M_g": one, "T_fg": half}, np.array([1])), has_constant=False)
    array([0.5])
    """
    quadratic = np.real(moments.M_f * moments.M_g.T)
    linear = np.real(np.diag(moments.T_fg)).copy()
    if not has_constant:
        return np.clip(np.linalg.lstsq(quadratic, linear)[0], 0.0, 1.0)
    rest = np.linalg.lstsq(quadratic[1:, 1:], linear[1:] - quadratic[1:, 0])[0]
    return np.concatenate([[1.0], np.clip(rest, 0.0, 1.0)])


def _check_options(
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    gradient_clip: float | None,
    patience: int | None,
    n_epochs: int | None,
    held_out: float | LaggedPairs,
) -> None:
    positive = {"batch_size": batch_size, "learning_rate": learning_rate, "gradient_clip": gradient_clip}
    positive |= {"patience": patience, "n_epochs": n_epochs}
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive; got {value}.")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must not be negative; got {weight_decay}.")
    if not isinstance(held_out, LaggedPairs) and not 0 <= held_out < 1:
        raise ValueError(f"held_out must be a fraction of at least 0 and below 1, or pairs; got {held_out}.")


def _split(pairs: LaggedPairs, held_out: float | LaggedPairs, seed: int) -> tuple[LaggedPairs, LaggedPairs | None]:
    if isinstance(held_out, LaggedPairs):
        return pairs, held_out
    return split_pairs(pairs, held_out, seed=seed) if held_out > 0 else (pairs, None)


@contextlib.contextmanager
def _fork_seed(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet_fabric() -> Iterator[None]:
    """Fabric announces devices and seeds through logging; a library that is called in a loop should not."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
            yield
    finally:
        logger.setLevel(level)


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


class _Loop:
    """State of one training run: what `run` needs, set up once."""

    def __init__(
        self,
        model: KoopmanLoRAModel,
        train: LaggedPairs,
        test: LaggedPairs | None,
        loss: nn.Module,
        accelerator: str,
        precision: str,
    ) -> None:
        self.fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        self.model, self.train, self.test, self.loss = model, train, test, loss
        self.records: list[dict[str, Any]] = []

    def configure(
        self,
        n_epochs: int | None,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
        gradient_clip: float | None,
        patience: int | None,
    ) -> None:
        # no batch smaller than n_modes, also where few pairs are cut into parts of equal size
        self.steps_per_epoch = max(1, min(round(len(self.train) / batch_size), len(self.train) // self.model.n_modes))
        self.n_epochs = n_epochs or max(5, math.ceil(MIN_STEPS / self.steps_per_epoch))
        encoders = [p for p in self.model.parameters() if p is not self.model.svals_params]
        groups = [{"params": encoders, "lr": learning_rate}]
        if self.model.svals_params is not None:
            groups.append({"params": [self.model.svals_params], "lr": SVALS_LEARNING_RATE * learning_rate})
        peaks = [group["lr"] for group in groups]
        optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
        # at least 4 steps, so that the warm-up of the schedule is never empty
        total = max(self.steps_per_epoch * self.n_epochs, 4)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=total)
        # the wrapped module only walks over inputs and outputs, which are where and what they should be already
        _, self.optimizer = self.fabric.setup(self.model, optimizer)
        self.gradient_clip, self.patience = gradient_clip, patience
        self.settings = {"batch_size": batch_size, "learning_rate": learning_rate, "weight_decay": weight_decay}
        with torch.no_grad():  # standardised once, in the data's own precision
            device = self.fabric.device
            self.x, self.x_next = (self.model.prepare(side.to(device)) for side in (self.train.x, self.train.x_next))

    def run(self, progress: bool) -> TrainingResult:
        best, chosen, state, stop_reason = None, None, None, "finished"
        start = time.perf_counter()
        bar = tqdm(range(1, self.n_epochs + 1), desc="training", unit="epoch", disable=not progress)
        for epoch in bar:
            try:
                mean_loss = self._epoch(epoch)
            except NonFiniteLossError:
                if state is not None:  # leave the model as good as it was, not broken
                    self.model.load_state_dict(state)
                raise
            score = self._held_out_score(epoch) if self.test is not None else _Score(epoch, -mean_loss, np.zeros(2))
            self._record(mean_loss, score.value)
            bar.set_postfix(loss=f"{mean_loss:.4f}", score=f"{score.value:.4f}")
            if best is None or score.value > best.value:
                best = score
            if not score.is_worse_than(best):
                chosen, state = score, copy.deepcopy(self.model.state_dict())
            if self.patience and epoch - best.epoch >= self.patience:
                stop_reason = "early stopping"
                break
        self.model.load_state_dict(state)
        seconds = time.perf_counter() - start
        history = self._history(chosen.epoch)
        moments = _freeze(self.model, self.train)
        return TrainingResult(history, chosen.epoch, stop_reason, self.train, self.test, moments, seconds)

    def _epoch(self, epoch: int) -> float:
        self.model.train()
        total = torch.zeros((), device=self.fabric.device)
        order = torch.randperm(len(self.train)).to(self.fabric.device)
        for rows in order.tensor_split(self.steps_per_epoch):  # sizes differ by one pair at most; none is dropped
            with self.fabric.autocast():
                f, g = self.model.encode(self.x[rows], self.x_next[rows])
                loss = self.loss(f, g, self.model.svals)
            self.optimizer.zero_grad()
            self.fabric.backward(loss)
            if self.gradient_clip is not None:
                # a gradient that is not finite reaches the loss, and stops there with advice
                self.fabric.clip_gradients(
                    self.model, self.optimizer, max_norm=self.gradient_clip, error_if_nonfinite=False
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

    def _held_out_score(self, epoch: int) -> _Score:
        """VAMP-E of the held-out pairs from summed moments, at the singular triples of (part of) the training pairs."""
        self.model.eval()
        step = -(-len(self.x) // SCORE_PAIRS)
        train = self._moments(self.x[::step], self.x_next[::step], n_blocks=1)
        prepare, device = self.model.prepare, self.fabric.device
        sides = (prepare(side.to(device)) for side in (self.test.x, self.test.x_next))
        test = self._moments(*sides, n_blocks=16)
        return _Score(epoch, vamp_scores(train, test).vamp_e, vamp_e_leaving_out(train, test))

    def _moments(self, z: Tensor, z_next: Tensor, n_blocks: int) -> Moments:
        # whitening makes the score independent of the normalisation, which is frozen only at the end
        with torch.no_grad():
            batches = zip(z.split(8192), z_next.split(8192), strict=True)
            f, g = zip(*(self.model.encoders(*batch) for batch in batches), strict=True)
            features = tuple(self.model.with_constant(torch.cat)(side) for side in (f, g))
        return estimate_moments(lambda f: f, lambda g: g, features, n_blocks=n_blocks, same_map=False)

    def _record(self, mean_loss: float, score: float) -> None:
        record = {"loss": mean_loss, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        if self.test is not None:
            record["held_out_vamp_e"] = score
        if self.model.svals is not None:
            record["svals"] = self.model.svals.detach().cpu().numpy()
        self.records.append(record)

    def _history(self, best_epoch: int) -> xr.Dataset:
        variables = {}
        for name in self.records[0]:
            values = np.stack([record[name] for record in self.records])
            variables[name] = ((EPOCH, "mode") if values.ndim == 2 else (EPOCH,), values)
        attrs = provenance(best_epoch=best_epoch, n_pairs_train=len(self.train), **self.settings)
        return xr.Dataset(variables, coords={EPOCH: np.arange(1, len(self.records) + 1)}, attrs=attrs)
