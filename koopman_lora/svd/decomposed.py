"""`Decomposed`: what a decomposition of a given matrix answers once it is there."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
import xarray as xr
from sklearn.exceptions import NotFittedError
from torch import Tensor

from koopman_lora.checks import checked_methods
from koopman_lora.svd.checklist import Checklist, matrix_checklist
from koopman_lora.svd.factors import Factor, FeatureFactor
from koopman_lora.svd.inputs import feature_tensor
from koopman_lora.svd.results import describe_result
from koopman_lora.svd.trimming import trim_result


@checked_methods
class Decomposed:
    """The result of a fit: triples, their errors, other numbers of modes, other rows and columns."""

    n_modes: int | None
    energy: float | None
    U_: np.ndarray
    singular_values_: np.ndarray
    Vh_: np.ndarray
    errors_: dict[str, float]
    result_: xr.Dataset
    _factors: tuple[Factor, Factor]
    _maps: tuple[Tensor, Tensor]

    def _take(self, result: xr.Dataset) -> None:
        """Make the arrays and errors those of a result."""
        self.result_ = result
        self.U_, self.singular_values_, self.Vh_ = (result[name].values for name in ("U", "singular_values", "Vh"))
        self.errors_ = {str(n).removeprefix("error_"): float(result[n]) for n in result if str(n).startswith("error_")}

    @property
    def n_features_in_(self) -> int:
        """Number of columns of the matrix, as scikit-learn asks for it."""
        return self.Vh_.shape[1]

    def __str__(self) -> str:
        settings = repr(self)
        return f"{settings}\n{describe_result(self.result_)}" if hasattr(self, "result_") else settings

    def trim(self, n: int) -> Self:
        """The leading n triples, with the errors that these have; this one stays as it is, and nothing is fitted again.

        `transform_rows` and the others answer for these modes, and `partial_fit` follows so many.

        Raises
        ------
        ValueError
            Unless n is from 1 to the number of triples.

        Examples
        --------
        >>> svd = kl.NeuralSVD(n_modes=3).fit(np.diag([4.0, 3.0, 1e-3]))     # the third is noise
        >>> svd.trim(2).singular_values_.round(6)
        array([4., 3.])
        """
        self._check_fitted()
        result = trim_result(self.result_, n)
        other = copy.copy(self)
        other.n_modes, other.energy = int(n), None
        other._maps = self._maps[0][:, :n], self._maps[1][:, :n]
        other._take(result)
        return other

    def checklist(self) -> Checklist:
        """Six points that a decomposition must pass, each with its number; `print` it. See `matrix_checklist`.

        Examples
        --------
        >>> kl.NeuralSVD(n_modes=1).fit(np.eye(3, 2) * [2, 1]).checklist().passed
        True
        """
        self._check_fitted()
        return matrix_checklist(self.result_)

    def to_dataset(self) -> xr.Dataset:
        """The result with labels.

        Returns
        -------
        xarray.Dataset
            - `U` (row, mode), `singular_values` (mode), `Vh` (mode, column): the result;
            - `singular_values_trained` (`|diag(U^H H V)|` of the trained factors), `singular_values_column_norms` (the
              other extraction), `singular_values_ritz` with `residuals_ritz`: what each stage gave, before polishing;
            - `singular_values_exact`: LAPACK's, where affordable;
            - `singular_values_error`: estimated errors of the singular values;
            - after `partial_fit`, `previous_mode` and `overlap` (mode): which mode before each continues;
            - `core`: `|U^H H V|` (mode, mode_column), diagonal for a true SVD;
            - `loss` and `training_error` (iteration): relative error of the leading modes as they are trained; for
              sampled training an estimate from the sample; `training_floor`: the smallest possible of that rank;
            - `error_...`: the entries of `errors_`. Settings and counts are attributes.
        """
        self._check_fitted()
        return self.result_

    def reconstruct(self) -> np.ndarray:
        """`U diag(s) Vh`, (M, N)."""
        self._check_fitted()
        return (self.U_ * self.singular_values_) @ self.Vh_

    def transform_rows(self, features: Any) -> np.ndarray:
        """Left singular vectors at the features (m, d) of any rows, seen or not: (m, n_modes).

        At the rows of the fit this is `U_`; after polishing, the network's least-squares approximation of it.

        Raises
        ------
        ValueError
            Without `row_features` in the fit, or for another number of features.
        """
        return self._transform(features, "row_features", 0)

    def transform_columns(self, features: Any) -> np.ndarray:
        """Right singular vectors (columns of V) at the features (m, d) of any columns: (m, n_modes)."""
        return self._transform(features, "column_features", 1)

    def _transform(self, features: Any, name: str, side: int) -> np.ndarray:
        self._check_fitted()
        factor = self._factors[side]
        if not isinstance(factor, FeatureFactor):
            raise ValueError(f"fit had no {name}: an index says nothing about unseen ones. Give {name} to fit.")
        values = feature_tensor(features, name)
        if values.shape[1] != factor.inputs.shape[1]:
            raise ValueError(f"{name} must have {factor.inputs.shape[1]} columns, as in fit; got {values.shape[1]}.")
        with torch.no_grad():
            vectors = factor.at(values) @ self._maps[side]
        return vectors.numpy().astype(self.U_.dtype)

    def _check_fitted(self) -> None:
        if not hasattr(self, "U_"):
            raise NotFittedError("this NeuralSVD has not been fitted; call fit(H) first.")
