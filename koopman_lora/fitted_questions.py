"""`FittedQuestions`: what can be asked of an analysis, asked of the estimator that made it."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import xarray as xr
from sklearn.exceptions import NotFittedError

from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.finding import Finding
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import Moments
from koopman_lora.refinement import RefinementResult

P = ParamSpec("P")
R = TypeVar("R")


def _handed_on(
    question: Callable[Concatenate[KoopmanAnalysis, P], R],
) -> Callable[Concatenate[FittedQuestions, P], R]:
    """A method of the analysis as a method of the estimator, asked once it is fitted."""

    @functools.wraps(question)
    def ask(self: FittedQuestions, *args: P.args, **kwargs: P.kwargs) -> R:
        return question(self.fitted(), *args, **kwargs)

    return ask


class FittedQuestions:
    """Hands on to the analysis `analysis_` of a fit."""

    analysis_: KoopmanAnalysis

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
        return self.fitted().known_split("for their pairs").pairs

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

    features = _handed_on(KoopmanAnalysis.features)
    singular_functions = _handed_on(KoopmanAnalysis.singular_functions)
    eigenfunctions = _handed_on(KoopmanAnalysis.eigenfunctions)
    feature_moments = _handed_on(KoopmanAnalysis.feature_moments)
    estimate_moments = _handed_on(KoopmanAnalysis.estimate_moments)
    compute_spectrum = _handed_on(KoopmanAnalysis.compute_spectrum)
    applied_to = _handed_on(KoopmanAnalysis.applied_to)
    validation = _handed_on(KoopmanAnalysis.validation)
    diagnose = _handed_on(KoopmanAnalysis.diagnose)
    summary = _handed_on(KoopmanAnalysis.summary)
    report = _handed_on(KoopmanAnalysis.report)
    scores = _handed_on(KoopmanAnalysis.scores)
    select_n_modes = _handed_on(KoopmanAnalysis.select_n_modes)
    residuals = _handed_on(KoopmanAnalysis.residuals)
    equilibrium_weights = _handed_on(KoopmanAnalysis.equilibrium_weights)
    eigen_analysis = _handed_on(KoopmanAnalysis.eigen_analysis)
    koopman_modes = _handed_on(KoopmanAnalysis.koopman_modes)
    forecast = _handed_on(KoopmanAnalysis.forecast)
    input_importance = _handed_on(KoopmanAnalysis.input_importance)
    sparse_surrogate = _handed_on(KoopmanAnalysis.sparse_surrogate)
    export_mode = _handed_on(KoopmanAnalysis.export_mode)
    coarse_coordinates = _handed_on(KoopmanAnalysis.coarse_coordinates)
    membership_map = _handed_on(KoopmanAnalysis.membership_map)
    coarse_grain = _handed_on(KoopmanAnalysis.coarse_grain)
