"""`KoopmanAnalysis`: what can be asked of a fitted model, fresh from `fit` or opened from a folder."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.analysis_files import write_fitted
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked_methods
from koopman_lora.clock import Clock
from koopman_lora.comparison import compare_singular_values
from koopman_lora.data.arrays import as_states
from koopman_lora.data.inputs import drawn_pairs
from koopman_lora.data.pairs import BATCH, LaggedPairs, lagged_pairs
from koopman_lora.data.splits import Split
from koopman_lora.eigenanalysis import eigen_analysis, koopman_modes
from koopman_lora.fitted import MOMENT_BLOCKS, Fitted, FittedMoments
from koopman_lora.importance import functions_of, input_importance
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.lag_scan import scan_lags
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import EDMD, FeatureMap, Moments
from koopman_lora.prediction import forecast_band
from koopman_lora.residuals import eigenpair_residuals
from koopman_lora.scores import Scores, Validation
from koopman_lora.selection import select_n_modes
from koopman_lora.spectrum import clocked, evaluate_functions, model_spectrum
from koopman_lora.states.coarse_coordinates import coarse_coordinates
from koopman_lora.states.coarse_graining import macroscopic_model
from koopman_lora.states.metastable_sets import membership_coefficients, membership_map
from koopman_lora.surrogate import real_features, sparse_surrogate


class DataNeededError(ValueError):
    """An answer needs the frames of the fit, and the analysis was opened without them."""


@checked_methods
class KoopmanAnalysis:
    """Answers about a fitted model; the same whether it was fitted now or opened from a folder.

    Without its data it raises a `DataNeededError` where a question needs the frames of the fit.

    Parameters
    ----------
    fitted : everything that the fit left behind

    Attributes
    ----------
    model : KoopmanLoRAModel
    moments : Moments of all pairs, per block
    clock : lag, time between two frames and its unit
    fitted : Fitted; `history`, `findings`, `refinement` and `validation` are there

    See Also
    --------
    koopman_lora.KoopmanLoRA : settings and `fit`; hands these questions on
    koopman_lora.open_analysis : from a folder that `save` wrote
    """

    def __init__(self, fitted: Fitted) -> None:
        self.fitted = fitted

    @property
    def model(self) -> KoopmanLoRAModel:
        """The fitted model."""
        return self.fitted.model

    @property
    def clock(self) -> Clock:
        """Lag, time between two frames and its unit."""
        return self.model.clock

    @property
    def moments(self) -> Moments:
        """Moments of the fitted features over all pairs, per block."""
        return self.fitted.moments.everywhere

    @functools.cached_property
    def spectrum(self) -> xr.Dataset:
        """Singular values of all kinds, eigenvalues and timescales, see `koopman_spectrum`."""
        return model_spectrum(self.model, self.moments)

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3f}" for value in self.spectrum["canonical_singular_values"].values[:6])
        reversible = ", reversible" if self.moments.is_reversible else ""
        frames = "with its data" if self.fitted.split is not None else "without its data"
        return f"KoopmanAnalysis(sigma {shown}; {self.moments.n_pairs} pairs{reversible}, {frames}; {self.clock})"

    def save(self, folder: str | os.PathLike) -> pathlib.Path:
        """Write everything but the frames into a folder; `kl.open_analysis` reads it.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        return write_fitted(self.fitted, self.spectrum, folder)

    # ------------------------------------------------------------------------------------------- features and pairs

    def features(self, x: Any, side: str = "left") -> np.ndarray:
        """Features f(x) (`side="left"`) or g(x) (`side="right"`) at any states, (n, n_modes)."""
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right'; got {side!r}.")
        states = as_states(x, self.model.state_shape)
        encode = self.model.f if side == "left" else self.model.g
        with torch.no_grad():
            values = torch.cat([encode(batch) for batch in states.split(BATCH)]).cpu().numpy()
        if not np.isfinite(values).all():
            raise ValueError(f"x holds states of up to {float(states.abs().max()):.3g}, too large for features.")
        return values.astype(np.complex128 if np.iscomplexobj(values) else np.float64)

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
        ValueError
            For another side, or states of another shape.
        """
        name = "psi_coefficients" if side == "right" else "phi_coefficients"
        return evaluate_functions(self.features(x, side), self.spectrum[name])

    def eigenfunctions(self, x: Any) -> np.ndarray:
        """Eigenfunctions of the rank-n operator at any states, complex (n, n_modes), unit L2 norm."""
        return evaluate_functions(self.features(x), self.spectrum["right_eigenfunction_coefficients"])

    def feature_moments(self, pairs: LaggedPairs, observables: FeatureMap | None = None) -> Moments:
        """Moments of the fitted features over pairs at any lag, per block."""
        pairs = self._as_in_fit(pairs)
        return estimate_moments(self.model.f, self.model.g, pairs, observables=observables, n_blocks=MOMENT_BLOCKS)

    def estimate_moments(self, X: Any, observables: FeatureMap | None = None) -> Moments:
        """Moments of the fitted features on other trajectories or pairs at the lag of the fit."""
        return clocked(self.feature_moments(self.pairs_of(X), observables), self.model)

    def compute_spectrum(self, X: Any) -> xr.Dataset:
        """Spectrum of the fitted features on other trajectories, `koopman_spectrum` of their moments."""
        return model_spectrum(self.model, self.estimate_moments(X))

    def applied_to(self, X: Any) -> KoopmanAnalysis:
        """The same model asked about other trajectories, all of them held out: nothing was fitted to them."""
        pairs = self.pairs_of(X)
        moments = clocked(self.feature_moments(pairs, flat_state), self.model)
        split = Split.given(pairs)
        sigma = self.spectrum["canonical_singular_values"].values
        right = functools.partial(self.singular_functions, side="right")
        return KoopmanAnalysis(
            dataclasses.replace(
                self.fitted,
                moments=FittedMoments(moments, moments.merged(np.zeros(moments.n_blocks)), None),
                validation=Validation.of_maps(sigma, self.singular_functions, right, pairs),
                recipe=split.recipe,
                fingerprint=pairs.fingerprint(),
                split=split,
            )
        )

    def was_fitted_to(self, X: Any) -> bool:
        """Whether these trajectories give the very pairs of the fit, by their fingerprint."""
        return self.pairs_of(X).fingerprint() == self.fitted.fingerprint

    def pairs_of(self, X: Any) -> LaggedPairs:
        """Pairs of other trajectories at the lag of the fit, in its units; pairs stay as they are.

        They count both ways where those of the fit did.
        """
        clock = self.clock
        if isinstance(X, LaggedPairs):
            return self._as_in_fit(X)
        if clock.lag is None:
            return self._as_in_fit(lagged_pairs(X, check_constant=False))
        return self._as_in_fit(lagged_pairs(X, clock.lag, clock.dt, clock.time_unit, check_constant=False))

    def _as_in_fit(self, pairs: LaggedPairs) -> LaggedPairs:
        return pairs.both_ways() if self.model.is_reversible else pairs

    def _split(self, purpose: str) -> Split:
        if self.fitted.split is None:
            raise DataNeededError(
                f"the frames of the fit are needed {purpose}; open the analysis with them: open_analysis(folder, data)."
            )
        return self.fitted.split

    def _bootstrap(self, bootstrap: Bootstrap | None) -> Bootstrap:
        return Bootstrap(seed=self.fitted.seed) if bootstrap is None else bootstrap

    # ------------------------------------------------------------------------------------------------ how far to trust

    def validation(self) -> Validation:
        """Singular functions fitted on the training pairs alone, on the held-out pairs.

        Raises
        ------
        ValueError
            If nothing was held out.
        """
        if self.fitted.validation is None:
            raise ValueError("no pairs were held out to validate on; fit with held_out=0.1.")
        return self.fitted.validation

    def intervals(self, bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """Block-bootstrap intervals of singular values, eigenvalues and timescales, see `bootstrap_intervals`."""
        return bootstrap_intervals(self.moments, self.model.svals_array(), self._bootstrap(bootstrap))

    def diagnose(self, bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """Learned against empirical singular values, with causes, verdict and remedy; see `compare_singular_values`.

        Print `kl.comparison_text(analysis.diagnose())` to read it.
        """
        return compare_singular_values(
            self.moments, self.model.svals_array(), self.fitted.validation, self._bootstrap(bootstrap)
        )

    def scores(self) -> Scores:
        """VAMP-1, VAMP-2 and VAMP-E of the held-out pairs, by functions fitted on the training pairs alone."""
        return self.validation().scores()

    def select_n_modes(self, energy: float = 0.9, level: float = 0.95) -> xr.Dataset:
        """Number of modes by four rules and a recommendation, see `kl.select_n_modes`."""
        return select_n_modes(self.validation(), energy=energy, level=level, seed=self.fitted.seed)

    def scan_lags(self, X: Any, lags: Sequence[int], bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """Timescales of these features against the lag, and the shortest lag on the plateau, see `kl.scan_lags`."""
        return scan_lags(self, X, lags, bootstrap=self._bootstrap(bootstrap))

    def residuals(self, tolerance: float = 0.1) -> xr.Dataset:
        """Residuals and condition numbers of the EDMD eigenpairs, on held-out pairs; see `eigenpair_residuals`."""
        moments = self.fitted.moments
        return eigenpair_residuals(moments.training, moments.held_out, tolerance)

    # --------------------------------------------------------------------------------------- what the modes are for

    def eigen_analysis(self, method: str = "operator", bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """Eigenvalues, left and right eigenfunctions, timescales and frequencies; intervals where a bootstrap is given.

        See `kl.eigen_analysis`.
        """
        return eigen_analysis(self.moments, method, bootstrap=bootstrap)

    def _observed(self, observables: FeatureMap) -> Moments:
        """Moments with the projections of observables; those of the states are kept, others need the frames."""
        if observables is flat_state and "H_f" in self.moments:
            return self.moments
        return self.feature_moments(self._split("to project observables on").pairs, observables)

    def koopman_modes(self, observables: FeatureMap = flat_state, method: str = "operator") -> xr.Dataset:
        """Eigen-analysis with the Koopman modes of the states or of any observables; see `kl.koopman_modes`."""
        return koopman_modes(self._observed(observables), method)

    def forecast(
        self,
        x: Any,
        steps: int | Sequence[int],
        observables: FeatureMap = flat_state,
        method: str = "operator",
        direction: str = "forward",
        bootstrap: Bootstrap | None = None,
    ) -> xr.Dataset:
        """Expected states (or observables) some lags after, or before, the states x, with a bootstrap band.

        Parameters
        ----------
        x : states (n, *state)
        steps : lags ahead, 1 ... steps, or those listed
        observables : callable (batch, *state) -> (batch, n_observables), the state itself by default
        method, direction, bootstrap : see `kl.forecast_band`

        Returns
        -------
        Dataset with `forecast` (step, sample, observable) and `forecast_interval` (bound, step, sample, observable)

        Raises
        ------
        DataNeededError
            For observables other than the state, in an analysis that was opened without data.
        """
        features = self.features(x, "right" if direction == "backward" else "left")
        return forecast_band(
            self._observed(observables),
            features,
            steps,
            method=method,
            direction=direction,
            bootstrap=self._bootstrap(bootstrap),
        )

    def input_importance(
        self,
        groups: Mapping[str, Any] | None = None,
        bootstrap: Bootstrap | None = None,
        n_pairs: int = 5000,
        n_permutations: int = 5,
    ) -> xr.Dataset:
        """What sigma of each mode loses when an input is permuted among the pairs; see `kl.input_importance`."""
        pairs = self._split("to permute inputs of").pairs
        phi = functions_of(self.model.f, self.spectrum["phi_coefficients"].values)
        psi = functions_of(self.model.g, self.spectrum["psi_coefficients"].values)
        return input_importance(phi, psi, pairs, groups, self._bootstrap(bootstrap), n_pairs, n_permutations)

    def sparse_surrogate(self, features: FeatureMap = flat_state, n_folds: int = 5, n_pairs: int = 5000) -> xr.Dataset:
        """Left singular functions as linear ones of few coordinates, or features of them; see `kl.sparse_surrogate`."""
        pairs = drawn_pairs(self._split("to fit linear functions to").pairs, n_pairs, np.random.default_rng(0))
        x = real_features("features", features, pairs.x)
        names = pairs.coordinate_names if features is flat_state else None
        return sparse_surrogate(self.singular_functions(pairs.x), x, names, n_folds)

    def coarse_coordinates(self, x: Any, method: str = "K_matrix") -> xr.DataArray:
        """Slow coordinates of any states, see `kl.coarse_coordinates`."""
        return coarse_coordinates(self.model, self.spectrum, x, method)

    def membership_map(self, n_states: int) -> FeatureMap:
        """Fuzzy memberships of states in `n_states` metastable sets, as a feature map (n, *state) -> (n, n_states).

        PCCA+ on the leading left singular functions at the fitted pairs.
        """
        functions = self.singular_functions(self._split("to find metastable sets in").pairs.x)
        coefficients = membership_coefficients(functions, n_states)
        return membership_map(self.model.f, self.spectrum["phi_coefficients"], coefficients)

    def coarse_grain(self, n_states: int, bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """The macroscopic model on `n_states` metastable sets, with intervals; see `kl.macroscopic_model`.

        With detailed balance where the fit was `reversible`.
        """
        chi = self.membership_map(n_states)
        moments = estimate_moments(chi, chi, self._split("to count transitions in").pairs, names=EDMD)
        return macroscopic_model(moments, bootstrap=self._bootstrap(bootstrap))
