"""`KoopmanAnalysis`: what can be asked of a fitted model, fresh from `fit` or opened from a folder."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.analysis_files import write_fitted
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.checks import checked_methods
from koopman_lora.comparison import comparison_with
from koopman_lora.data.inputs import drawn_pairs
from koopman_lora.data.splits import Split
from koopman_lora.data.whole_files import check_replaceable
from koopman_lora.eigenanalysis import eigen_analysis, koopman_modes
from koopman_lora.findings import OF_THE_FIT, findings_of_pairs
from koopman_lora.fitted import Fitted, FittedMoments
from koopman_lora.fitted_functions import FittedFunctions
from koopman_lora.importance import functions_of, input_importance
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.lag_scan import scan_lags
from koopman_lora.launching import is_first_process
from koopman_lora.mode_export import export_mode
from koopman_lora.moments import EDMD, FeatureMap
from koopman_lora.prediction import forecast_band
from koopman_lora.residuals import eigenpair_residuals
from koopman_lora.reweighting import EquilibriumWeights, equilibrium_weights
from koopman_lora.scores import Scores, Validation
from koopman_lora.selection import select_n_modes
from koopman_lora.spectrum import clocked
from koopman_lora.states.coarse_coordinates import coarse_coordinates
from koopman_lora.states.coarse_graining import macroscopic_model
from koopman_lora.states.metastable_sets import membership_coefficients, membership_map
from koopman_lora.summary import Summary
from koopman_lora.surrogate import real_features, sparse_surrogate
from koopman_lora.survey import Survey, survey
from koopman_lora.verdicts import summarise

# States that metastable sets are found in.
MOST_STATES = 2**20


@checked_methods
class KoopmanAnalysis(FittedFunctions):
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

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0)
    >>> analysis = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data).analysis_
    >>> analysis.clock, analysis.singular_functions(data[0][:5]).shape
    (Clock(lag=1, dt=1.0, time_unit='step'), (5, 3))
    """

    def __init__(self, fitted: Fitted) -> None:
        super().__init__(fitted)
        self._known_intervals: dict[Bootstrap, xr.Dataset] = {}  # several answers need them

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3f}" for value in self.spectrum["canonical_singular_values"].values[:6])
        reversible = ", reversible" if self.moments.is_reversible else ""
        frames = "with its data" if self.fitted.split is not None else "without its data"
        return f"KoopmanAnalysis(sigma {shown}; {self.moments.n_pairs} pairs{reversible}, {frames}; {self.clock})"

    def save(self, folder: str | os.PathLike) -> pathlib.Path:
        """Write everything but the frames into a folder; `kl.open_analysis` reads it.

        Of several processes that worked on a fit the first writes; the others go on.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        if not is_first_process():
            return pathlib.Path(folder)
        return write_fitted(self.fitted, self.spectrum, self.survey, folder)

    def applied_to(self, X: Any) -> KoopmanAnalysis:
        """The same model asked about other trajectories, all of them held out: nothing was fitted to them.

        What is said of the training stays; what is said of the fit at its pairs, and of several fits, goes.
        """
        pairs = self.pairs_of(X)
        moments = clocked(self.feature_moments(pairs, flat_state), self.model)
        split = Split.given(pairs)
        sigma = self.spectrum["canonical_singular_values"].values
        right = functools.partial(self.singular_functions, side="right")
        validation = Validation.of_maps(sigma, self.singular_functions, right, pairs)
        of_training = [finding for finding in self.fitted.findings if finding.name not in OF_THE_FIT]
        return KoopmanAnalysis(
            dataclasses.replace(
                self.fitted,
                moments=FittedMoments(moments, moments.merged(np.zeros(moments.n_blocks)), None),
                validation=validation,
                findings=(*of_training, *findings_of_pairs(moments, validation)),
                fits=None,
                survey=None,
                recipe=split.recipe,
                fingerprint=pairs.fingerprint(),
                split=split,
            )
        )

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

    def intervals(self, bootstrap: Bootstrap | None = None, refit: int = 0) -> xr.Dataset:
        """Block-bootstrap intervals of singular values, eigenvalues and timescales, see `bootstrap_intervals`.

        Raises
        ------
        ValueError
            For `refit` other than 0: that needs the settings of the estimator.
        """
        if refit:
            raise ValueError(
                f"refit={refit} needs the settings and the data of the fit, which the estimator holds; ask "
                "KoopmanLoRA(...).fit(trajectories).intervals(refit=20), an analysis has refit=0 only."
            )
        return self._intervals(self._bootstrap(bootstrap)).copy()

    def _intervals(self, bootstrap: Bootstrap) -> xr.Dataset:
        if bootstrap not in self._known_intervals:
            self._known_intervals[bootstrap] = bootstrap_intervals(self.moments, self.model.svals_array(), bootstrap)
        return self._known_intervals[bootstrap]

    @functools.cached_property
    def survey(self) -> Survey | None:
        """What the frames say of the modes: transitions seen, longer lags, the health of the data.

        None in an analysis of a model that was applied to no frames.
        """
        if self.fitted.split is None:
            return self.fitted.survey
        pairs = self.fitted.split.pairs
        psi = functools.partial(self.singular_functions, side="right")
        return survey(self.singular_functions, psi, pairs, bool(self.model.standardize.periodic))

    def summary(self, bootstrap: Bootstrap | None = None) -> Summary:
        """Every mode with its interval and a verdict, and the few sentences that matter, the most serious first.

        Print it, or let a notebook show it. The answer is the same in an analysis opened from a folder.
        """
        bootstrap = self._bootstrap(bootstrap)
        return summarise(self.fitted, self.spectrum, self._intervals(bootstrap), self.diagnose(bootstrap), self.survey)

    def report(self, path: str | os.PathLike) -> pathlib.Path:
        """Write one HTML page of all that is known of the fit, which needs no network; open it in a browser.

        What needs the frames is left out of it in an analysis that was opened without data, and it says so.

        Parameters
        ----------
        path : of the file; what was there is replaced

        Raises
        ------
        OSError
            If it cannot be written.
        """
        from koopman_lora.interview import answers_of  # pictures and templates, which no other question needs
        from koopman_lora.report import write_report

        check_replaceable(pathlib.Path(path))
        return write_report(answers_of(self), path)

    def diagnose(self, bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """Learned against empirical singular values, with causes, verdict and remedy; see `compare_singular_values`.

        Print `kl.comparison_text(analysis.diagnose())` to read it.
        """
        bootstrap = self._bootstrap(bootstrap)
        svals, validation = self.model.svals_array(), self.fitted.validation
        return comparison_with(self.spectrum, self._intervals(bootstrap), self.moments, svals, validation)

    def scores(self) -> Scores:
        """VAMP-1, VAMP-2 and VAMP-E of the held-out pairs, by functions fitted on the training pairs alone."""
        return self.validation().scores()

    def select_n_modes(self, energy: float = 0.9, level: float = 0.95) -> xr.Dataset:
        """Number of modes by four rules and a recommendation, see `kl.select_n_modes`."""
        return select_n_modes(self.validation(), energy=energy, level=level, seed=self.fitted.seed)

    def scan_lags(
        self, X: Any, lags: Sequence[int], bootstrap: Bootstrap | None = None, weights: Any = None
    ) -> xr.Dataset:
        """Timescales of these features against the lag, and the shortest lag on the plateau, see `kl.scan_lags`."""
        return scan_lags(self, X, lags, bootstrap=self._bootstrap(bootstrap), weights=weights)

    def residuals(self, tolerance: float = 0.1) -> xr.Dataset:
        """Residuals and condition numbers of the EDMD eigenpairs, on held-out pairs; see `eigenpair_residuals`."""
        moments = self.fitted.moments
        return eigenpair_residuals(moments.training, moments.held_out, tolerance)

    def equilibrium_weights(
        self, observables: FeatureMap = flat_state, bootstrap: Bootstrap | None = None
    ) -> EquilibriumWeights:
        """Weights that make the pairs of the fit stationary, with equilibrium means; see `kl.equilibrium_weights`.

        `found.weighted(pairs, analysis.model.f)` gives pairs with these weights to fit again.
        """
        return equilibrium_weights(self._observed(observables), self._bootstrap(bootstrap))

    # --------------------------------------------------------------------------------------- what the modes are for

    def eigen_analysis(self, method: str = "operator", bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """Eigenvalues, left and right eigenfunctions, timescales and frequencies; intervals where a bootstrap is given.

        See `kl.eigen_analysis`.
        """
        return eigen_analysis(self.moments, method, bootstrap=bootstrap)

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
        n_inputs: int = 256,
    ) -> xr.Dataset:
        """What sigma of each mode loses when an input is permuted among the pairs; see `kl.input_importance`."""
        pairs = self.known_split("to permute inputs of").pairs
        phi = functions_of(self.model.f, self.spectrum["phi_coefficients"].values)
        psi = functions_of(self.model.g, self.spectrum["psi_coefficients"].values)
        bootstrap = self._bootstrap(bootstrap)
        return input_importance(phi, psi, pairs, groups, bootstrap, n_pairs, n_permutations, n_inputs)

    def sparse_surrogate(self, features: FeatureMap = flat_state, n_folds: int = 5, n_pairs: int = 5000) -> xr.Dataset:
        """Left singular functions as linear ones of few coordinates, or features of them; see `kl.sparse_surrogate`."""
        pairs = drawn_pairs(self.known_split("to fit linear functions to").pairs, n_pairs, np.random.default_rng(0))
        x = real_features("features", features, pairs.x)
        names = pairs.coordinate_names if features is flat_state else None
        return sparse_surrogate(self.singular_functions(pairs.x), x, names, n_folds, pairs.weights)

    def export_mode(
        self, path: str | os.PathLike, modes: int | Sequence[int] | None = None, functions: str = "left"
    ) -> pathlib.Path:
        """Write modes as a network for programs without koopman_lora, such as PLUMED; see `kl.export_mode`."""
        return export_mode(self, path, modes, functions)

    def coarse_coordinates(self, x: Any, method: str = "K_matrix") -> xr.DataArray:
        """Slow coordinates of any states, see `kl.coarse_coordinates`."""
        return coarse_coordinates(self.model, self.spectrum, x, method)

    def membership_map(self, n_states: int) -> FeatureMap:
        """Fuzzy memberships of states in `n_states` metastable sets, as a feature map (n, *state) -> (n, n_states).

        PCCA+ on the leading left singular functions at the fitted pairs.
        """
        pairs = self.known_split("to find metastable sets in").pairs
        some = pairs.spread(MOST_STATES)
        coefficients = membership_coefficients(self.singular_functions(some.x), n_states, weights=some.weights)
        return membership_map(self.model.f, self.spectrum["phi_coefficients"], coefficients)

    def coarse_grain(self, n_states: int, bootstrap: Bootstrap | None = None) -> xr.Dataset:
        """The macroscopic model on `n_states` metastable sets, with intervals; see `kl.macroscopic_model`.

        With detailed balance where the fit was `reversible`.
        """
        chi = self.membership_map(n_states)
        moments = estimate_moments(chi, chi, self.known_split("to count transitions in").pairs, names=EDMD)
        return macroscopic_model(moments, bootstrap=self._bootstrap(bootstrap))
