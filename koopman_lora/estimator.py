"""`KoopmanLoRA`: the scikit-learn face, one call from trajectories to a spectrum that can be read and trusted."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn

from koopman_lora.comparison import Finding, compare_singular_values, eigenpair_residuals, training_findings
from koopman_lora.data.pairs import LaggedPairs, lagged_pairs
from koopman_lora.eigenanalysis import eigen_analysis, koopman_modes
from koopman_lora.encoders import CNN
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import FeatureMap, Moments, estimate_moments
from koopman_lora.prediction import flat_state, forecast_band
from koopman_lora.refinement import Validation, refine, validate
from koopman_lora.scores import Scores, validation_scores
from koopman_lora.selection import scan_lags, select_n_modes
from koopman_lora.spectrum import evaluate_functions, koopman_spectrum, model_spectrum
from koopman_lora.states.coarse_graining import coarse_coordinates, macroscopic_model
from koopman_lora.states.metastable_sets import membership_coefficients, membership_map
from koopman_lora.training import fit


class KoopmanLoRA(BaseEstimator):
    """Learn the singular value decomposition of the Koopman operator from trajectories.

    Parameters
    ----------
    n_modes : int
        Number of modes; the constant one counts.
    lag : int
        Lag in frames.
    hidden_dims, activation : of the default encoders, see `MLP`
    shared_encoder : bool
        One encoder for f and g.
    encoder_f, encoder_g : nn.Module, optional
        Your own encoders, (batch, *state) -> (batch, n_modes - 1): the constant mode is added by the model. By default
        vectors get an MLP and images (H, W) or (channel, H, W) a CNN.
    learn_svals : bool
        Learn the singular values as sigmoid parameters on features of unit second moment.
    nesting, reg_weight : see `NestedLoRALoss`
    loss : nn.Module, optional
        Another loss, called as loss(f, g, svals); nesting and reg_weight must then be left alone.
    held_out : float
        Fraction of the pairs held out to pick the best epoch and the refinement's threshold; 0 trains on all pairs, and
        is possible only without refinement.
    refine : bool
        Finish with Rayleigh-Ritz on the last hidden layers (`kl.refine`).
    n_epochs, batch_size, learning_rate, weight_decay, gradient_clip, patience : see `fit`
    dt, time_unit : physical time between two frames and its unit; read from a DataArray where it has them
    accelerator, precision : for Lightning Fabric
    seed : of the initial weights, the split and the batches; global random states are left as they were
    progress : show a progress bar

    Attributes
    ----------
    model_ : KoopmanLoRAModel
    pairs_ : LaggedPairs, all of them
    training_ : TrainingResult; `training_.history` is a Dataset over epochs
    findings_ : what `training_findings` says of the features before refinement
    refinement_ : RefinementResult, or None where it was not asked for
    moments_ : Moments of all pairs, per block
    spectrum_ : Dataset, see `koopman_spectrum`

    Examples
    --------
    >>> from koopman_lora.systems import NoisyRotation
    >>> trajectories = NoisyRotation().simulate(n_trajectories=2, n_steps=500, seed=0)
    >>> estimator = KoopmanLoRA(n_modes=3, hidden_dims=(16,), n_epochs=3).fit(trajectories)
    >>> estimator.singular_functions(trajectories[0], side="left").shape
    (500, 3)
    """

    def __init__(
        self,
        n_modes: int = 8,
        lag: int = 1,
        *,
        hidden_dims: Sequence[int] = (64, 128, 64),
        activation: str = "GELU",
        shared_encoder: bool = False,
        encoder_f: nn.Module | None = None,
        encoder_g: nn.Module | None = None,
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
        self.encoder_f = encoder_f
        self.encoder_g = encoder_g
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
        """Pair, train, refine, and compute the spectrum.

        Parameters
        ----------
        X : trajectories in any form that `lagged_pairs` takes, or LaggedPairs
        y : not used; there for scikit-learn

        Raises
        ------
        ValueError, TypeError
            For data or options that cannot be used; see `lagged_pairs` and `kl.fit`.
        """
        pairs = lagged_pairs(X, self.lag, self.dt, self.time_unit)
        loss = self._make_loss()
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = self._make_model(pairs.state_shape)
        training = fit(
            model,
            pairs,
            loss=loss,
            held_out=self.held_out,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            patience=self.patience,
            accelerator=self.accelerator,
            precision=self.precision,
            seed=self.seed,
            progress=self.progress,
        )
        self.model_, self.pairs_, self.training_ = model, pairs, training
        self.findings_ = self._check_training()
        self.refinement_ = refine(model, pairs, self.held_out, seed=self.seed) if self.refine else None
        self.moments_ = self.estimate_moments(pairs)
        self.spectrum_ = model_spectrum(model, self.moments_)
        return self

    def _check_training(self) -> list[Finding]:
        """Warn of what is wrong with the trained features and refinement cannot mend."""
        svals = None if self.model_.svals is None else self.model_.svals.detach().cpu().numpy()
        findings = training_findings(self.training_.moments, svals, self.batch_size)
        for finding in findings:
            if finding.name == "small batch" or not self.refine:
                warnings.warn(finding.message, stacklevel=3)
        return findings

    def _make_loss(self) -> nn.Module:
        if self.refine and not self.held_out > 0:
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
        encoders = [copy.deepcopy(encoder) for encoder in (self.encoder_f, self.encoder_g)]
        if encoders == [None, None] and len(state_shape) in (2, 3):
            n_channels = state_shape[0] if len(state_shape) == 3 else 1
            n_encoders = 1 if self.shared_encoder else 2
            made = [CNN(n_channels, self.n_modes - 1, activation=self.activation) for _ in range(n_encoders)]
            encoders = [*made, None][:2]
        return KoopmanLoRAModel(
            state_shape,
            self.n_modes,
            hidden_dims=self.hidden_dims,
            activation=self.activation,
            shared_encoder=self.shared_encoder,
            learn_svals=self.learn_svals,
            has_centering=True,
            encoder_f=encoders[0],
            encoder_g=encoders[1],
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("this KoopmanLoRA is not fitted yet; call .fit(trajectories) first.")

    def estimate_moments(self, X: Any, n_blocks: int = 64, observables: FeatureMap | None = None) -> Moments:
        """Moments of the fitted features on other trajectories or pairs at the same lag; see `kl.estimate_moments`."""
        self._check_fitted()
        model = self.model_
        device = model.feature_scale.device
        pairs = X if isinstance(X, LaggedPairs) else lagged_pairs(X, model.lag, check_constant=False)
        maps = (lambda x: model.f(x.to(device)), lambda x: model.g(x.to(device)))
        return estimate_moments(*maps, pairs, n_blocks=n_blocks, observables=observables)

    def features(self, x: Any, side: str = "left") -> np.ndarray:
        """Features f(x) (`side="left"`) or g(x) (`side="right"`) at any states, (n, n_modes)."""
        self._check_fitted()
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right'; got {side!r}.")
        states = as_states(x, self.model_.state_shape).to(self.model_.feature_scale.device)
        encode = self.model_.f if side == "left" else self.model_.g
        with torch.no_grad():
            return torch.cat([encode(batch) for batch in states.split(8192)]).cpu().double().numpy()

    def singular_functions(self, x: Any, side: str = "left") -> np.ndarray:
        """Singular functions at any states: phi (`side="left"`) or psi (`side="right"`), unit L2 norm.

        Parameters
        ----------
        x : states (n, *state), numpy, torch or labelled
        side : 'left' or 'right'

        Returns
        -------
        array of shape (n, n_modes)

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For another side, or states of another shape.
        """
        features = self.features(x, side)
        return evaluate_functions(features, self.spectrum_[f"{side}_coefficients"])

    def eigenfunctions(self, x: Any) -> np.ndarray:
        """Eigenfunctions of the rank-n operator at any states, complex (n, n_modes), unit L2 norm."""
        return evaluate_functions(self.features(x, "left"), self.spectrum_["eigenvector_coefficients"])

    def compute_spectrum(self, X: Any) -> xr.Dataset:
        """Spectrum of the fitted features on other trajectories, `koopman_spectrum` of their moments."""
        self._check_fitted()
        return model_spectrum(self.model_, self.estimate_moments(X))

    def spectrum_of(self, moments: Moments, lag: int) -> xr.Dataset:
        """Spectrum of moments of the fitted features at another lag; learned svals belong to the model's lag only."""
        return koopman_spectrum(moments, lag=lag, dt=self.model_.dt, time_unit=self.model_.time_unit)

    def _physical(self) -> dict[str, Any]:
        return {"lag": self.model_.lag, "dt": self.model_.dt, "time_unit": self.model_.time_unit}

    def _svals(self) -> np.ndarray | None:
        return None if self.model_.svals is None else self.model_.svals.detach().cpu().double().numpy()

    def intervals(self, level: float = 0.95, n_resamples: int = 1000) -> xr.Dataset:
        """Block-bootstrap intervals of singular values, eigenvalues and timescales, see `bootstrap_intervals`."""
        self._check_fitted()
        options = {"level": level, "n_resamples": n_resamples, "seed": self.seed}
        return bootstrap_intervals(self.moments_, self._svals(), **self._physical(), **options)

    def validation(self) -> Validation:
        """Singular functions fitted on the training pairs alone, at the held-out pairs.

        Raises
        ------
        ValueError
            If nothing was held out.
        """
        self._check_fitted()
        if self.refinement_ is not None:
            return self.refinement_.validation
        if self.training_.held_out is None:
            raise ValueError(f"held_out={self.held_out} left no pairs to validate on; fit with held_out=0.1.")
        return validate(self.model_, self.training_.train, self.training_.held_out)

    def diagnose(self, n_resamples: int = 1000) -> xr.Dataset:
        """Learned against empirical singular values, with causes, verdict and remedy; see `compare_singular_values`.

        Print `kl.comparison_text(estimator.diagnose())` to read it.
        """
        self._check_fitted()
        held_out = self.validation() if self.training_.held_out is not None else None
        return compare_singular_values(
            self.moments_, self._svals(), held_out, **self._physical(), n_resamples=n_resamples, seed=self.seed
        )

    def scores(self) -> Scores:
        """VAMP-1, VAMP-2 and VAMP-E of the held-out pairs, by functions fitted on the training pairs alone."""
        return validation_scores(self.validation())

    def select_n_modes(self, energy: float = 0.9, level: float = 0.95) -> xr.Dataset:
        """Number of modes by four rules and a recommendation, see `select_n_modes`."""
        return select_n_modes(self.validation(), energy=energy, level=level, seed=self.seed)

    def scan_lags(self, X: Any, lags: Sequence[int], refit: bool = False, n_resamples: int = 200) -> xr.Dataset:
        """Timescales against the lag with intervals, and the shortest lag on the plateau, see `scan_lags`."""
        self._check_fitted()
        return scan_lags(self, X, lags, refit=refit, n_resamples=n_resamples, seed=self.seed)

    def residuals(self, tolerance: float = 0.1) -> xr.Dataset:
        """Residuals and condition numbers of the EDMD eigenpairs, on held-out pairs; see `eigenpair_residuals`."""
        self._check_fitted()
        train, test = self.training_.train, self.training_.held_out
        held_out = None if test is None else self.estimate_moments(test)
        return eigenpair_residuals(self.estimate_moments(train), held_out, tolerance)

    def eigen_analysis(self, method: str = "operator", n_resamples: int = 0) -> xr.Dataset:
        """Eigenvalues, left and right eigenfunctions, timescales and frequencies; see `kl.eigen_analysis`."""
        self._check_fitted()
        return eigen_analysis(self.moments_, method, n_resamples=n_resamples, seed=self.seed, **self._physical())

    def koopman_modes(self, observables: FeatureMap = flat_state, method: str = "operator") -> xr.Dataset:
        """Eigen-analysis with the Koopman modes of the states or of any observables; see `kl.koopman_modes`."""
        moments = self.estimate_moments(self.pairs_, observables=observables)
        return koopman_modes(moments, method, **self._physical())

    def forecast(
        self,
        x: Any,
        steps: int | Sequence[int],
        observables: FeatureMap = flat_state,
        method: str = "operator",
        direction: str = "forward",
        n_resamples: int = 200,
    ) -> xr.Dataset:
        """Expected states (or observables) some lags after, or before, the states x, with a bootstrap band.

        Parameters
        ----------
        x : states (n, *state)
        steps : lags ahead, 1 ... steps, or those listed
        observables : callable (batch, *state) -> (batch, n_observables), the state itself by default
        method, direction, n_resamples : see `kl.forecast_band`

        Returns
        -------
        Dataset with `forecast`, `lower`, `upper`, each (step, sample, observable)
        """
        moments = self.estimate_moments(self.pairs_, observables=observables)
        features = self.features(x, "right" if direction == "backward" else "left")
        names = self.pairs_.coordinate_names if observables is flat_state else None
        options = {"method": method, "direction": direction, "n_resamples": n_resamples, "seed": self.seed}
        return forecast_band(moments, features, steps, observable_names=names, **options, **self._physical())

    def coarse_coordinates(self, x: Any, method: str = "K_matrix") -> xr.DataArray:
        """Slow coordinates of any states, see `kl.coarse_coordinates`."""
        self._check_fitted()
        states = as_states(x, self.model_.state_shape)
        return coarse_coordinates(self.model_, self.spectrum_, states, method)

    def membership_map(self, n_states: int) -> FeatureMap:
        """Fuzzy memberships of states in `n_states` metastable sets, as a feature map (n, *state) -> (n, n_states).

        PCCA+ on the leading left singular functions at the fitted pairs.
        """
        functions = self.singular_functions(self.pairs_.x)
        coefficients = membership_coefficients(functions, n_states)
        return membership_map(self.model_.f, self.spectrum_["left_coefficients"], coefficients)

    def coarse_grain(self, n_states: int, reversible: bool = False) -> xr.Dataset:
        """The macroscopic model on `n_states` metastable sets, with intervals; see `kl.macroscopic_model`."""
        self._check_fitted()
        chi = self.membership_map(n_states)
        moments = estimate_moments(chi, chi, self.pairs_)
        return macroscopic_model(moments, reversible=reversible, seed=self.seed, **self._physical())


def as_states(x: Any, state_shape: tuple[int, ...]) -> Tensor:
    """States as a tensor (n, *state) from numpy, torch or labelled data; numbers are scalar states.

    Raises
    ------
    ValueError
        If the shape of a state does not fit.
    """
    if isinstance(x, xr.DataArray):
        x = x.values
    states = torch.as_tensor(np.asarray(x, dtype=float) if not isinstance(x, Tensor) else x)
    if states.ndim == 1 and state_shape == (1,):
        states = states[:, None]
    if tuple(states.shape[1:]) != state_shape:
        raise ValueError(f"x must have shape (n, {', '.join(map(str, state_shape))}); got {tuple(states.shape)}.")
    return states
