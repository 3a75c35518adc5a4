"""What scikit-learn asks of a transformer, asked of a fitted estimator: functions of states as columns, a score."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import TransformerMixin
from sklearn.utils.validation import validate_data

from koopman_lora._labels import MODE
from koopman_lora.data.containers import unpacked, without_times
from koopman_lora.fitted_questions import FittedQuestions


class ModeTransformer(FittedQuestions, TransformerMixin):
    """`transform`, `fit_transform` and `score`: modes as the columns of a table.

    Attributes
    ----------
    n_features_in_ : int
        Coordinates of a state, where it is a vector.
    feature_names_in_ : array of str
        Their names, where the columns of a table had some.
    """

    def transform(self, X: Any) -> Any:
        """Left singular functions, the constant first, at the states of one array (n, *state) or of each in a list.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For states of another shape, or a table of other columns.

        Examples
        --------
        >>> data = NoisyRotation().simulate(n_steps=500, seed=0)[0]
        >>> kl.KoopmanLoRA(n_modes=3, hidden_dims=(16,), n_epochs=1).fit_transform(data).shape
        (500, 3)
        """
        fitted = self.fitted()
        if isinstance(X, list):
            return [self.transform(x) for x in X]
        if hasattr(self, "n_features_in_"):
            X = _checked_columns(self, X)
        return fitted.singular_functions(X)

    def score(self, X: Any, y: None = None) -> float:
        """VAMP-E of trajectories, all of them held out: higher is better, 1 is worth no more than the constant.

        Parameters
        ----------
        X : trajectories in any form that `fit` takes
        y : not used; there for scikit-learn
        """
        fitted = self.fitted()
        if hasattr(X, "ndim") and hasattr(self, "n_features_in_"):
            _checked_columns(self, X)
        return fitted.applied_to(X).scores().vamp_e

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of `transform`: 'mode 1', the constant, to 'mode n'."""
        return np.array([f"{MODE} {i}" for i in range(1, self.fitted().model.n_modes + 1)], dtype=object)

    def _know_columns(self, X: Any, state_shape: tuple[int, ...]) -> None:
        """Take number and names of the columns of what was fitted."""
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                delattr(self, name)
        if len(state_shape) == 1:
            first = X[0] if isinstance(X, list) else X
            if hasattr(first, "columns"):
                validate_data(self, without_times(first), skip_check_array=True)
            self.n_features_in_ = state_shape[0]


def _checked_columns(estimator: ModeTransformer, X: Any) -> Any:
    """States as they are, if they have the columns of the fit."""
    states = unpacked(X)
    states = states if hasattr(states, "ndim") or hasattr(states, "tocsr") else np.asarray(states)
    if states.ndim == 1 and estimator.n_features_in_ > 1:
        n = estimator.n_features_in_
        raise ValueError(f"X must be states (n, {n}); got ({len(states)},). Reshape your data: X[None] of one state.")
    if states.ndim == 2:
        table = without_times(X) if hasattr(X, "columns") else states
        validate_data(estimator, table, reset=False, skip_check_array=True)
    return states
