"""`KoopmanLoRA`: the scikit-learn face, one call from trajectories to a spectrum that can be read and trusted."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import xarray as xr
from sklearn.base import BaseEstimator
from torch import nn

from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.arguments import as_plain, check_positive, copied, number, told_as, whole
from koopman_lora.blas_threads import one_blas_thread
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import answers_to_other_names
from koopman_lora.data.angles import RADIANS, chosen_angles
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import Split, split_pairs
from koopman_lora.finding import Finding
from koopman_lora.findings import OF_THE_FIT
from koopman_lora.fits import best_of
from koopman_lora.fitted import Fitted, finish
from koopman_lora.kinds import flag
from koopman_lora.lag_scan import scan_lags
from koopman_lora.launching import all_processes
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.refits import Refits, intervals_of, refit_halves
from koopman_lora.suitable_models import suitable_model
from koopman_lora.surroundings import gradients, seeded
from koopman_lora.training import check_refinable, train
from koopman_lora.training_loop import TrainingResult
from koopman_lora.training_options import TrainingOptions
from koopman_lora.training_reports import INTERRUPTED
from koopman_lora.transformer import ModeTransformer


class KoopmanLoRA(ModeTransformer, BaseEstimator):
    """Learn the singular value decomposition of the Koopman operator from trajectories.

    Holds the settings, and `fit`; what can be asked after it is handed on to `KoopmanAnalysis`, which `save` writes
    and `kl.open_analysis` reads.

    Parameters
    ----------
    n_modes : int
        Number of modes; the constant one counts.
    lag : int, optional
        Lag in frames, 1 by default; of explicit pairs, the lag at which they were made.
    hidden_dims, activation : of the default encoders, see `MLP`
    shared_encoder : bool
        One encoder for f and g.
    reversible : bool
        The process is known to be in equilibrium, with detailed balance, as molecular dynamics: pairs count in both
        directions of time and one encoder serves, so that eigenvalues are real. See `LaggedPairs.both_ways`.
    encoder_f, encoder_g : nn.Module, optional
        Your own encoders, (batch, *state) -> (batch, n_modes - 1): the constant mode is added by the model. By default
        vectors get an MLP and images (H, W) or (channel, H, W) a CNN.
    periodic, period : bool, or names or positions; float, or one for each
        Coordinates that are angles, True for all, and their period in the unit of the data, 2 pi by default: functions
        are exactly periodic in them. Encoders of your own receive what `KoopmanLoRAModel.set_periodic` says.
    learn_svals : bool
        Learn the singular values as sigmoid parameters on features of unit second moment.
    nesting, reg_weight : see `NestedLoRALoss`
    loss : nn.Module, optional
        Another loss, called as loss(f, g, svals); nesting and reg_weight must then be left alone. By default the
        `NestedLoRALoss`, with a `joint_share` of 1/64 where features are refined.
    held_out : float
        Fraction of the pairs held out to pick the best epoch and to validate; 0 trains on all pairs, and is possible
        only without refinement.
    refine : bool
        Finish with Rayleigh-Ritz on the state and the last hidden layers (`kl.refine`). Where the held-out pairs of a
        small data set do not tell whether that beats linear VAMP, up to four further fits are made, each without
        another quarter of the pairs, and all pairs judge: at most some five times as long.
    n_epochs, batch_size : see `kl.fit`
    learning_rate, weight_decay, gradient_clip, patience, accelerator, devices, num_nodes, precision : see
        `TrainingOptions`
    n_fits : int
        Fits from as many seeds, on the same split; the one whose functions capture most of the held-out pairs is kept,
        and `summary()` says on what they agree.
    dt, time_unit : physical time between two frames and its unit; read from a DataArray where it has them
    seed : of the initial weights, the split and the batches; global random states are left as they were
    checkpoint, checkpoint_every, log_to : see `TrainingOptions`; of several fits each gets a folder inside. A clone for
        other data has neither checkpoint nor logger.
    progress : show a progress bar; by default where standard error is a terminal

    Attributes
    ----------
    analysis_ : KoopmanAnalysis
    training_ : TrainingResult; `training_.history` is a Dataset over epochs
    model_, pairs_, moments_, spectrum_, refinement_, findings_ : of the analysis

    Examples
    --------
    >>> trajectories = NoisyRotation().simulate(n_trajectories=2, n_steps=500, seed=0)
    >>> estimator = KoopmanLoRA(n_modes=3, hidden_dims=(16,), n_epochs=3).fit(trajectories)
    >>> estimator.singular_functions(trajectories[0], side="left").shape
    (500, 3)
    """

    @answers_to_other_names
    def __init__(
        self,
        n_modes: int = 8,
        lag: int | None = None,
        *,
        hidden_dims: Sequence[int] = (64, 128, 64),
        activation: str = "GELU",
        shared_encoder: bool = False,
        reversible: bool = False,
        encoder_f: nn.Module | None = None,
        encoder_g: nn.Module | None = None,
        periodic: bool | int | str | Sequence[int | str] = False,
        period: float | Sequence[float] = RADIANS,
        learn_svals: bool = True,
        nesting: str | None = "jnt",
        reg_weight: float = 0.0,
        loss: nn.Module | None = None,
        held_out: float = 0.1,
        refine: bool = True,
        n_epochs: int | None = None,
        batch_size: int = 256,
        learning_rate: float = 1e-2,
        weight_decay: float = 0.0,
        gradient_clip: float | None = None,
        patience: int | None = None,
        n_fits: int = 1,
        dt: float | None = None,
        time_unit: str | None = None,
        accelerator: str = "cpu",
        devices: int | None = None,
        num_nodes: int | None = None,
        precision: str = "32-true",
        seed: int = 0,
        checkpoint: str | os.PathLike | None = None,
        checkpoint_every: float = 60.0,
        log_to: Any = None,
        progress: bool | None = None,
    ) -> None:
        self.n_modes = n_modes
        self.lag = lag
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.shared_encoder = shared_encoder
        self.reversible = reversible
        self.encoder_f = encoder_f
        self.encoder_g = encoder_g
        self.periodic = periodic
        self.period = period
        self.learn_svals = learn_svals
        self.nesting = nesting
        self.reg_weight = reg_weight
        self.loss = loss
        self.held_out = held_out
        self.refine = refine
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.patience = patience
        self.n_fits = n_fits
        self.dt = dt
        self.time_unit = time_unit
        self.accelerator = accelerator
        self.devices = devices
        self.num_nodes = num_nodes
        self.precision = precision
        self.seed = seed
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.log_to = log_to
        self.progress = progress

    def __sklearn_clone__(self) -> KoopmanLoRA:
        """An unfitted copy, for other data: what is kept and logged is of this fit alone."""
        settings = copy.copy(self)
        settings.checkpoint = settings.log_to = None
        return super(KoopmanLoRA, settings).__sklearn_clone__()

    def fit(self, X: Any, y: None = None, sample_weight: Any = None, resume: bool = False) -> KoopmanLoRA:
        """Pair, split, train, refine, and compute the moments. A fit that fails leaves an earlier one as it was.

        Ctrl-C or SIGTERM end the training between two steps, and the fit with the best state so far, which is said; a
        second one stops at once.

        Parameters
        ----------
        X : trajectories in any form that `lagged_pairs` takes, or LaggedPairs
        y : not used; there for scikit-learn
        sample_weight : how much each frame, pair or trajectory counts, see `weights` of `lagged_pairs`
        resume : go on from `checkpoint`, where there is one, as if the fit had not been killed: fits that are done are
            not repeated, one that was under way ends as it would have ended

        Raises
        ------
        ValueError, TypeError
            For data or options that cannot be used; see `lagged_pairs` and `kl.fit`.
        FileExistsError
            For a folder with a checkpoint, without `resume`.
        """
        options = self._make_options(resume)
        with gradients(), all_processes(options), one_blas_thread():
            fitted, training = self._fit(X, sample_weight, options)
            self._warn(fitted.findings)
        self.analysis_, self.training_ = KoopmanAnalysis(fitted), training
        self._know_columns(X, fitted.model.state_shape)
        return self

    def _fit(self, X: Any, sample_weight: Any, options: TrainingOptions) -> tuple[Fitted, TrainingResult]:
        for name in ("shared_encoder", "reversible", "learn_svals"):
            flag(name, getattr(self, name))
        with told_as("sample_weight", "weights"):
            pairs = lagged_pairs(X, self.lag, self.dt, self.time_unit, weights=sample_weight)
        pairs = pairs.both_ways() if self.reversible else pairs
        loss, seed = self._make_loss(options), whole("seed", self.seed)
        n_fits = whole("n_fits", self.n_fits)
        check_positive("n_fits", n_fits)
        split = split_pairs(pairs, self.held_out, seed=seed)
        periodic = chosen_angles(pairs, self.periodic, self.period)
        return best_of(lambda own: self._fit_once(split, periodic, loss, options, own), range(seed, seed + n_fits))

    def _fit_once(
        self, split: Split, periodic: tuple[int, ...], loss: nn.Module, options: TrainingOptions, seed: int
    ) -> tuple[Fitted, TrainingResult]:
        if options.checkpoint is not None and self.n_fits > 1:
            options = dataclasses.replace(options, checkpoint=pathlib.Path(options.checkpoint) / f"seed_{seed}")
        model, training = self._train(split, periodic, loss, options, seed)
        further = dataclasses.replace(options, checkpoint=None, resume=False, log_to=None)
        again = None
        if training.stop_reason != INTERRUPTED:  # whoever stops one wants no other
            again = functools.partial(self._train, periodic=periodic, loss=loss, options=further, seed=seed)
        return finish(model, training, self.refine, self.batch_size, seed, self._settings(), again), training

    def _train(
        self, split: Split, periodic: tuple[int, ...], loss: nn.Module, options: TrainingOptions, seed: int
    ) -> tuple[KoopmanLoRAModel, TrainingResult]:
        with seeded(seed):
            model = self._make_model(split.pairs.state_shape)
            if periodic:
                model.set_periodic(periodic, self.period)
        if self.refine:
            check_refinable(model, split)
        how = {name: getattr(self, name) for name in ("n_epochs", "batch_size", "progress")}
        return model, train(model, split, loss=loss, options=options, seed=seed, **how)

    def _warn(self, findings: tuple[Finding, ...]) -> None:
        """Warn of what is wrong with the trained features and refinement cannot mend, and of a fit worth nothing."""
        for finding in findings:
            if finding.name in (INTERRUPTED, "small batch", *OF_THE_FIT) or not self.refine:
                warnings.warn(finding.message, stacklevel=3)

    def _settings(self) -> dict[str, Any]:
        """Settings that are plain values, for the record of a saved analysis."""
        plain = (bool, int, float, str, tuple, list, type(None))
        settings = {name: as_plain(value) for name, value in self.get_params(deep=False).items()}
        return {name: value for name, value in settings.items() if isinstance(value, plain)}

    def _make_options(self, resume: bool) -> TrainingOptions:
        names = ["learning_rate", "weight_decay", "gradient_clip", "patience"]
        names += ["accelerator", "devices", "num_nodes", "precision", "checkpoint", "checkpoint_every", "log_to"]
        return TrainingOptions(
            will_refine=flag("refine", self.refine), resume=resume, **{name: getattr(self, name) for name in names}
        )

    def _make_loss(self, options: TrainingOptions) -> nn.Module:
        if self.refine and not number("held_out", self.held_out) > 0:
            raise ValueError(
                f"held_out must be positive to choose the refinement's threshold; got {self.held_out}. "
                "Use refine=False to train on all pairs."
            )
        if self.loss is None:
            return NestedLoRALoss(self.n_modes, self.nesting, self.reg_weight, joint_share=options.joint_share)
        if (self.nesting, self.reg_weight) != ("jnt", 0.0):
            raise ValueError("nesting and reg_weight belong to the default loss; set them on the loss you gave.")
        return self.loss

    def _make_model(self, state_shape: tuple[int, ...]) -> KoopmanLoRAModel:
        encoder_f, encoder_g = (copied(name, getattr(self, name)) for name in ("encoder_f", "encoder_g"))
        if self.reversible and encoder_g is not None:
            raise ValueError("reversible=True needs one encoder for f and g; leave encoder_g out.")
        options = ("hidden_dims", "activation", "learn_svals")
        return suitable_model(
            state_shape,
            whole("n_modes", self.n_modes),
            (encoder_f, encoder_g),
            shared_encoder=self.shared_encoder or self.reversible,
            **{name: getattr(self, name) for name in options},
        )

    def refits(self, n_refits: int = 20, n_jobs: int = 1) -> Refits:
        """The same fit to halves of the data, for intervals and bands of the whole procedure, see `refit_halves`."""
        return refit_halves(self, n_refits, n_jobs)

    def intervals(self, bootstrap: Bootstrap | None = None, refit: int = 0, n_jobs: int = 1) -> xr.Dataset:
        """Intervals that are conditional on the learned features; for the whole procedure with `refit`, say 20.

        See `bootstrap_intervals`, and with so many refits, in `n_jobs` processes, `Refits.intervals`, to which
        `bootstrap` gives the level alone.
        """
        return intervals_of(self, bootstrap, refit, n_jobs)

    def scan_lags(
        self,
        X: Any,
        lags: Sequence[int],
        refit: bool = False,
        bootstrap: Bootstrap | None = None,
        sample_weight: Any = None,
    ) -> xr.Dataset:
        """Timescales against the lag with intervals, and the shortest lag on the plateau, see `kl.scan_lags`."""
        self.fitted()
        bootstrap = Bootstrap(seed=self.seed) if bootstrap is None else bootstrap
        with told_as("sample_weight", "weights"):
            return scan_lags(self, X, lags, refit, bootstrap, sample_weight)
