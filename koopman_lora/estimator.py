"""`KoopmanLoRA`: the scikit-learn face, one call from trajectories to a spectrum that can be read and trusted."""

from __future__ import annotations

import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import xarray as xr
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import nn

from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.arguments import as_plain, copied, number, whole
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.angles import RADIANS, chosen_angles
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs
from koopman_lora.data.splits import Split, split_pairs
from koopman_lora.findings import OF_THE_FIT, Finding
from koopman_lora.fitted import Fitted, finish
from koopman_lora.kinds import flag
from koopman_lora.lag_scan import scan_lags
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments
from koopman_lora.refinement import RefinementResult
from koopman_lora.suitable_models import suitable_model
from koopman_lora.surroundings import gradients, seeded
from koopman_lora.training import check_refinable, train
from koopman_lora.training_loop import TrainingOptions, TrainingResult

P = ParamSpec("P")
R = TypeVar("R")


def _handed_on(
    question: Callable[Concatenate[KoopmanAnalysis, P], R],
) -> Callable[Concatenate[KoopmanLoRA, P], R]:
    """A method of the analysis as a method of the estimator, asked once it is fitted."""

    @functools.wraps(question)
    def ask(self: KoopmanLoRA, *args: P.args, **kwargs: P.kwargs) -> R:
        return question(self.fitted(), *args, **kwargs)

    return ask


class KoopmanLoRA(BaseEstimator):
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
        Another loss, called as loss(f, g, svals); nesting and reg_weight must then be left alone.
    held_out : float
        Fraction of the pairs held out to pick the best epoch and to validate; 0 trains on all pairs, and is possible
        only without refinement.
    refine : bool
        Finish with Rayleigh-Ritz on the state and the last hidden layers (`kl.refine`).
    n_epochs, batch_size : see `kl.fit`
    learning_rate, weight_decay, gradient_clip, patience, accelerator, precision : see `TrainingOptions`
    dt, time_unit : physical time between two frames and its unit; read from a DataArray where it has them
    seed : of the initial weights, the split and the batches; global random states are left as they were
    progress : show a progress bar

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
        dt: float | None = None,
        time_unit: str | None = None,
        accelerator: str = "cpu",
        precision: str = "32-true",
        seed: int = 0,
        progress: bool = False,
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
        self.dt = dt
        self.time_unit = time_unit
        self.accelerator = accelerator
        self.precision = precision
        self.seed = seed
        self.progress = progress

    def fit(self, X: Any, y: None = None) -> KoopmanLoRA:
        """Pair, split, train, refine, and compute the moments. A fit that fails leaves an earlier one as it was.

        Parameters
        ----------
        X : trajectories in any form that `lagged_pairs` takes, or LaggedPairs
        y : not used; there for scikit-learn

        Raises
        ------
        ValueError, TypeError
            For data or options that cannot be used; see `lagged_pairs` and `kl.fit`.
        """
        with gradients():
            fitted, training = self._fit(X)
        self._warn(fitted.findings)
        self.analysis_, self.training_ = KoopmanAnalysis(fitted), training
        return self

    def _fit(self, X: Any) -> tuple[Fitted, TrainingResult]:
        for name in ("shared_encoder", "reversible", "learn_svals", "refine", "progress"):
            flag(name, getattr(self, name))
        pairs = lagged_pairs(X, self.lag, self.dt, self.time_unit)
        pairs = pairs.both_ways() if self.reversible else pairs
        loss, options, seed = self._make_loss(), self._make_options(), whole("seed", self.seed)
        split = split_pairs(pairs, self.held_out, seed=seed)
        periodic = chosen_angles(pairs, self.periodic, self.period)
        with seeded(seed):
            model = self._make_model(pairs.state_shape)
            if periodic:
                model.set_periodic(periodic, self.period)
        if self.refine:
            check_refinable(model, split)
        training = train(
            model,
            split,
            loss=loss,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            options=options,
            seed=seed,
            progress=self.progress,
        )
        return finish(model, training, self.refine, self.batch_size, seed, self._settings()), training

    def _warn(self, findings: tuple[Finding, ...]) -> None:
        """Warn of what is wrong with the trained features and refinement cannot mend, and of a fit worth nothing."""
        for finding in findings:
            if finding.name in ("small batch", *OF_THE_FIT) or not self.refine:
                warnings.warn(finding.message, stacklevel=3)

    def _settings(self) -> dict[str, Any]:
        """Settings that are plain values, for the record of a saved analysis."""
        plain = (bool, int, float, str, tuple, list, type(None))
        settings = {name: as_plain(value) for name, value in self.get_params(deep=False).items()}
        return {name: value for name, value in settings.items() if isinstance(value, plain)}

    def _make_options(self) -> TrainingOptions:
        return TrainingOptions(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            patience=self.patience,
            will_refine=self.refine,
            accelerator=self.accelerator,
            precision=self.precision,
        )

    def _make_loss(self) -> nn.Module:
        if self.refine and not number("held_out", self.held_out) > 0:
            raise ValueError(
                f"held_out must be positive to choose the refinement's threshold; got {self.held_out}. "
                "Use refine=False to train on all pairs."
            )
        if self.loss is None:
            return NestedLoRALoss(self.n_modes, self.nesting, self.reg_weight)
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

    # ------------------------------------------------------------------------------------------- the fitted analysis

    def fitted(self) -> KoopmanAnalysis:
        """The analysis.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        if not hasattr(self, "analysis_"):
            raise NotFittedError("this KoopmanLoRA is not fitted yet; call .fit(trajectories) first.")
        return self.analysis_

    @property
    def model_(self) -> KoopmanLoRAModel:
        """The fitted model."""
        return self.fitted().model

    @property
    def clock(self) -> Clock:
        """Lag, time between two frames and its unit, of the fit."""
        return self.fitted().clock

    @property
    def pairs_(self) -> LaggedPairs:
        """All pairs of the fit."""
        return self._split().pairs

    def _split(self) -> Split:
        self.fitted()
        return self.training_.split

    @property
    def moments_(self) -> Moments:
        """Moments of the fitted features over all pairs, per block."""
        return self.fitted().moments

    @property
    def spectrum_(self) -> xr.Dataset:
        """Singular values of all kinds, eigenvalues and timescales, see `koopman_spectrum`."""
        return self.fitted().spectrum

    @property
    def refinement_(self) -> RefinementResult | None:
        """What the refinement did; None where it was not asked for."""
        return self.fitted().fitted.refinement

    @property
    def findings_(self) -> tuple[Finding, ...]:
        """What `training_findings` says of the features before refinement, and `held_out_findings` of the fit."""
        return self.fitted().fitted.findings

    def save(self, folder: str | os.PathLike) -> pathlib.Path:
        """Write the analysis into a folder, see `KoopmanAnalysis.save`; `kl.open_analysis` reads it."""
        return self.fitted().save(folder)

    def scan_lags(
        self, X: Any, lags: Sequence[int], refit: bool = False, bootstrap: Bootstrap | None = None
    ) -> xr.Dataset:
        """Timescales against the lag with intervals, and the shortest lag on the plateau, see `kl.scan_lags`."""
        self.fitted()
        return scan_lags(self, X, lags, refit, Bootstrap(seed=self.seed) if bootstrap is None else bootstrap)

    features = _handed_on(KoopmanAnalysis.features)
    singular_functions = _handed_on(KoopmanAnalysis.singular_functions)
    eigenfunctions = _handed_on(KoopmanAnalysis.eigenfunctions)
    feature_moments = _handed_on(KoopmanAnalysis.feature_moments)
    estimate_moments = _handed_on(KoopmanAnalysis.estimate_moments)
    compute_spectrum = _handed_on(KoopmanAnalysis.compute_spectrum)
    applied_to = _handed_on(KoopmanAnalysis.applied_to)
    validation = _handed_on(KoopmanAnalysis.validation)
    intervals = _handed_on(KoopmanAnalysis.intervals)
    diagnose = _handed_on(KoopmanAnalysis.diagnose)
    scores = _handed_on(KoopmanAnalysis.scores)
    select_n_modes = _handed_on(KoopmanAnalysis.select_n_modes)
    residuals = _handed_on(KoopmanAnalysis.residuals)
    eigen_analysis = _handed_on(KoopmanAnalysis.eigen_analysis)
    koopman_modes = _handed_on(KoopmanAnalysis.koopman_modes)
    forecast = _handed_on(KoopmanAnalysis.forecast)
    input_importance = _handed_on(KoopmanAnalysis.input_importance)
    sparse_surrogate = _handed_on(KoopmanAnalysis.sparse_surrogate)
    coarse_coordinates = _handed_on(KoopmanAnalysis.coarse_coordinates)
    membership_map = _handed_on(KoopmanAnalysis.membership_map)
    coarse_grain = _handed_on(KoopmanAnalysis.coarse_grain)
