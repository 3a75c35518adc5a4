"""Fitted modes as a step of a scikit-learn Pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from koopman_lora.chosen_modes import choose_modes
from koopman_lora.fitted_functions import FittedFunctions


class FittedModes(TransformerMixin, BaseEstimator):
    """Modes of a fit as features of states: a fitted step of a scikit-learn Pipeline, which `fit` leaves as it is.

    `KoopmanLoRA` is a step itself, which fits its modes anew with every `fit`; these stay, can be chosen, and may be
    those of an analysis from a folder. `clone` gives the transformer itself, so that cross-validation neither fits the
    modes again nor copies them.

    Parameters
    ----------
    analysis : KoopmanAnalysis
    modes : numbers of modes, counted from 1; by default all but the constant one
    functions : 'left' or 'right' singular functions, or 'eigen' for eigenfunctions, a complex one as its real and
        imaginary part

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> data = NoisyRotation().simulate(n_trajectories=1, n_steps=500)
    >>> analysis = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data).analysis_
    >>> x = data.values[0]
    >>> make_pipeline(FittedModes(analysis), LogisticRegression()).fit(x, x[:, 0] > 0).score(x, x[:, 0] > 0) > 0.9
    True
    """

    def __init__(
        self, analysis: FittedFunctions, modes: int | Sequence[int] | None = None, functions: str = "left"
    ) -> None:
        self.analysis = analysis
        self.modes = modes
        self.functions = functions

    def __sklearn_clone__(self) -> FittedModes:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    @property
    def n_features_in_(self) -> int:
        """Entries of a state."""
        return math.prod(self.analysis.model.state_shape)

    def fit(self, X: Any = None, y: Any = None) -> FittedModes:
        """Nothing is left to fit; the choice of modes is checked.

        Raises
        ------
        ValueError
            For modes or functions that are not there.
        """
        choose_modes(self.analysis, self.modes, self.functions)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Values (n, n_functions) of the functions at states X (n, *state)."""
        chosen = choose_modes(self.analysis, self.modes, self.functions)
        return chosen.values(self.analysis.features(X, chosen.side))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the functions, such as 'phi_2'."""
        return np.array(choose_modes(self.analysis, self.modes, self.functions).names, dtype=object)
