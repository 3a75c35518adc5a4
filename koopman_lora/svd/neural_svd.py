"""`NeuralSVD`: low-rank singular value decomposition of a given matrix by networks trained with the low-rank loss.

For one dense matrix in memory `torch.linalg.svd` is faster, for one large sparse matrix `scipy.sparse.linalg.svds`.
This is for matrices that are sampled, for rows and columns with features (so that unseen ones can be mapped), and for
sequences of slowly changing matrices. `benchmarks/matrix_svd.py` measures all of them side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import Tensor

from koopman_lora._labels import MODE, provenance
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.encoders import check_hidden_dims, make_activation
from koopman_lora.svd.products import (
    ORTHOGONALITIES,
    PHASES,
    MatrixProducts,
    as_products,
    fix_phases,
    modes_for_energy,
    orthogonality_error,
    polish,
)
from koopman_lora.svd.training import (
    PARAMETRIZATIONS,
    EmbeddingFactor,
    Factor,
    FactorTrainer,
    FeatureFactor,
    TableFactor,
    TrainedFactors,
)

# LAPACK's singular values, for the Eckart-Young optimum, are computed up to this size of the shorter side and this many
# entries: about a second.
EXACT_SIDE, EXACT_ENTRIES = 1024, 4_000_000
# First trial rank for `energy`; doubled until the energy is reached.
TRIAL_RANK = 32
ROW, COLUMN, STEP = "row", "column", "step"


class NeuralSVD(BaseEstimator):
    """Leading singular triples `H ~ U diag(s) Vh` of a matrix, by two factors trained with the nested low-rank loss.

    Training always ends with a Rayleigh-Ritz rotation: SVD of the small core `U^H H V`.

    Parameters
    ----------
    n_modes : int, optional
        Number of triples; without `n_modes` and `energy` all min(M, N).
    energy : float, optional
        Instead of `n_modes`: as many triples as hold this share of `||H||_F^2`, in (0, 1]. A larger trial rank is
        trained, and doubled until it suffices.
    parametrization : 'table', 'embedding' or 'features'
        The numbers themselves, a vector per row and column; an MLP on top of such a vector; or an MLP on the
        `row_features` and `column_features` given to `fit` (a side without features uses a table), with Rayleigh-Ritz
        in its last hidden layer. An index tells nothing about other indices: there an MLP costs time for nothing.
    orthogonality : 'bjorck', 'qr', 'penalty' or None
        How columns are kept orthonormal in training: Bjorck's iteration, QR, a penalty of weight `lam`, or not at all.
        After Rayleigh-Ritz all are orthonormal to working precision.
    lam : float
        Weight of the penalty, relative to the curvature of the loss; for 'penalty' only.
    phase : 'max', 'sigma' or 'reference'
        Rule for the free signs or phases, see `fix_phases`.
    reference : array (M, n_modes), optional
        Left vectors to align with, for phase='reference'.
    oversampling : int
        Further modes that are trained and dropped at the end; they speed up convergence where sigma decays slowly.
    polish_steps : int
        At most so many block power steps after Rayleigh-Ritz, until the residuals are at working precision.
    sample : (int, int), optional
        Train on so many rows and columns per step, drawn independently; the full matrix by default. Needs entries.
    max_steps : int, optional
        Evaluations of the loss; by default at most 2,000, or all of 3,000 in sampled training.
    tolerance : float
        Full-batch training stops once `||H v - s u||` and `||H^H u - s v||` are below `tolerance * s` for every mode,
        and small against what a rank-n matrix must leave out. The error of sigma is of second order in it.
    learning_rate : float
        Of Adam, in sampled training.
    hidden_dims, activation
        Of the MLPs, see `MLP`.
    seed : int

    Attributes
    ----------
    U_, singular_values_, Vh_ : arrays (M, k), (k,), (k, N)
        In the precision of the input; computed in float64 or complex128.
    errors_ : dict
        `reconstruction` `||H - U S Vh||_F / ||H||_F`; `orthogonality_u`, `orthogonality_v` (`||U^H U - I||_F`);
        `eckart_young`, the best reconstruction of that rank, NaN where LAPACK would be too slow or there are no
        entries; `norm_error`, the relative standard error of `||H||_F`, 0 where the norm is exact. Not dense: by
        `||H||^2 - 2 Re tr(S U^H H V) + ||S||^2`, which cannot resolve values below 1e-7; NaN where, for a large
        LinearOperator, the estimate of the norm does not resolve it.
    result_ : xarray.Dataset
        The same with labels, plus what each stage gave; see `to_dataset`.
    n_steps_, n_polish_steps_, stop_reason_
        `stop_reason_` is 'converged', 'max_steps', 'zero matrix' or, with features, 'no further gain'.

    Raises
    ------
    ValueError
        For options or matrices that make no sense; the message names the argument.

    Notes
    -----
    Training squares singular values, so it resolves sigma down to 1e-6 of the largest and reconstruction errors down to
    1e-5 of the norm; polishing goes on from there. Sampled training has noise instead of a tolerance: sigma to about
    1e-3 where it decays slowly, only the first few modes where it decays fast (orthogonality=None is then best).
    Everything is computed in double precision on the CPU; results repeat up to round-off.

    References
    ----------
    MATH.md, section 8; Ryu et al., Operator SVD with Neural Networks via Nested Low-Rank Approximation (2024).

    Examples
    --------
    >>> H = np.diag([4.0, 3.0, 0.1]) @ np.ones((3, 5)) / 5**0.5 + np.eye(3, 5)
    >>> svd = NeuralSVD(n_modes=2).fit(H)
    >>> np.allclose(svd.singular_values_, np.linalg.svd(H)[1][:2], rtol=1e-4)
    True
    >>> svd.reconstruct().shape
    (3, 5)
    """

    def __init__(
        self,
        n_modes: int | None = None,
        *,
        energy: float | None = None,
        parametrization: str = "table",
        orthogonality: str | None = "bjorck",
        lam: float = 1.0,
        phase: str = "max",
        reference: np.ndarray | None = None,
        oversampling: int = 8,
        polish_steps: int = 0,
        sample: tuple[int, int] | None = None,
        max_steps: int | None = None,
        tolerance: float = 1e-3,
        learning_rate: float = 3e-2,
        hidden_dims: Sequence[int] = (64, 64),
        activation: str = "GELU",
        seed: int = 0,
    ) -> None:
        self.n_modes = n_modes
        self.energy = energy
        self.parametrization = parametrization
        self.orthogonality = orthogonality
        self.lam = lam
        self.phase = phase
        self.reference = reference
        self.oversampling = oversampling
        self.polish_steps = polish_steps
        self.sample = sample
        self.max_steps = max_steps
        self.tolerance = tolerance
        self.learning_rate = learning_rate
        self.hidden_dims = hidden_dims
        self.activation = activation
        self.seed = seed

    # ------------------------------------------------------------------------------------------ fitting

    def fit(self, H: Any, y: None = None, *, row_features: Any = None, column_features: Any = None) -> NeuralSVD:
        """Train on a matrix, from a fresh start.

        Parameters
        ----------
        H : array, tensor, scipy.sparse matrix or LinearOperator of shape (M, N)
            float32, float64, complex64 or complex128.
        y : ignored, for scikit-learn
        row_features, column_features : arrays (M, d), (N, d'), for parametrization='features'

        Examples
        --------
        >>> NeuralSVD(n_modes=1).fit(np.outer([1.0, 2.0], [2.0, 1.0])).singular_values_.round(6)
        array([5.])
        """
        self._check_options()
        products = as_products(H)
        self._check_against(products)
        features = self._check_features(products.shape, row_features, column_features)
        limit = min(products.shape)
        n_modes = limit if self.n_modes is None else self.n_modes
        if self.energy is not None:
            n_modes = min(TRIAL_RANK, limit)
        while True:
            trained = self._train(products, n_modes, self._make_factors(products, n_modes, features))
            if self.energy is None:
                break
            needed = modes_for_energy(trained.ritz.values[:n_modes].numpy(), 1.0, self.energy)
            if products.norm == 0 or needed is not None or n_modes == limit:
                n_modes = needed or (1 if products.norm == 0 else limit)
                break
            n_modes = min(2 * n_modes, limit)
        return self._finish(products, trained, n_modes, self.phase, self.reference)

    def partial_fit(self, H: Any, y: None = None) -> NeuralSVD:
        """Follow a slowly changing matrix: start from the present factors, align phases with the present `U_`.

        Shape and kind (real or complex), the number of modes and the features stay those of the first `fit`; the first
        call is a `fit`. `n_steps_` counts the steps of this call.

        Examples
        --------
        >>> H = np.diag([3.0, 2.0, 1.0])
        >>> svd = NeuralSVD(n_modes=2).partial_fit(H)
        >>> svd.partial_fit(1.01 * H).singular_values_.round(4)
        array([3.03, 2.02])
        """
        if not hasattr(self, "U_"):
            return self.fit(H)
        self._check_options()
        products = as_products(H)
        was_complex = self._factors[0].is_complex
        if products.shape != self._shape or products.torch_dtype.is_complex != was_complex:
            kind = "complex" if was_complex else "real"
            raise ValueError(
                f"H must be {kind} of shape {self._shape}, as in the fit before; got {products.dtype} of shape "
                f"{products.shape}. Use fit for a matrix of another kind."
            )
        n_modes = self.U_.shape[1]
        trained = self._train(products, n_modes, self._factors)
        return self._finish(products, trained, n_modes, "reference", self.U_)

    def fit_many(self, matrices: Iterable[Any]) -> list[NeuralSVD]:
        """Fit a batch, an iterable of matrices or an array (batch, M, N): one fitted copy of this estimator each.

        Shapes may differ. For matrices that follow one another in time use `partial_fit`.

        Examples
        --------
        >>> [svd.singular_values_.round(4) for svd in NeuralSVD(n_modes=1).fit_many(np.eye(2) * [[[1.0]], [[2.0]]])]
        [array([1.]), array([2.])]
        """
        return [clone(self).fit(H) for H in matrices]

    def _check_options(self) -> None:
        words = {
            "parametrization": PARAMETRIZATIONS,
            "orthogonality": ORTHOGONALITIES,
            "phase": PHASES,
        }
        for name, allowed in words.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {getattr(self, name)!r}.")
        if self.n_modes is not None and self.energy is not None:
            raise ValueError(f"give n_modes or energy, not both; got n_modes={self.n_modes}, energy={self.energy}.")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ValueError(f"energy must be in (0, 1]; got {self.energy}.")
        smallest = {"n_modes": 1, "max_steps": 1, "oversampling": 0, "polish_steps": 0}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, np.integer)) or value < least):
                raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}.")
        for name in ("lam", "tolerance", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")
        check_hidden_dims(self.hidden_dims)
        make_activation(self.activation)

    def _check_against(self, H: MatrixProducts) -> None:
        if self.n_modes is not None and self.n_modes > min(H.shape):
            raise ValueError(f"n_modes must be at most min(M, N)={min(H.shape)}; got {self.n_modes}.")
        if self.phase == "reference" and self.reference is None:
            raise ValueError("phase='reference' needs reference, left vectors (M, n_modes) to align with; got None.")
        if self.sample is None:
            return
        if not H.has_entries:
            raise ValueError("sample needs entries of H; a LinearOperator has products only. Leave sample out.")
        sizes = tuple(self.sample)
        if len(sizes) != 2 or any(not 1 <= size <= n for size, n in zip(sizes, H.shape, strict=True)):
            raise ValueError(f"sample must be (rows, columns) within the shape {H.shape} of H; got {self.sample}.")

    def _check_features(self, shape: tuple[int, int], rows: Any, columns: Any) -> tuple[Tensor | None, Tensor | None]:
        if self.parametrization != "features":
            if rows is not None or columns is not None:
                raise ValueError(
                    "row_features and column_features belong to parametrization='features'; "
                    f"got {self.parametrization!r}."
                )
            return None, None
        if rows is None and columns is None:
            raise ValueError("parametrization='features' needs row_features or column_features; got neither.")
        named = (("row_features", rows, shape[0]), ("column_features", columns, shape[1]))
        return tuple(None if values is None else _as_features(values, name, n) for name, values, n in named)

    def _make_factors(
        self, H: MatrixProducts, n_modes: int, features: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Factor, Factor]:
        """Untrained factors of rows and columns."""
        k = min(n_modes + self.oversampling, *H.shape)
        is_complex, net = H.torch_dtype.is_complex, (self.hidden_dims, self.activation)
        factors = []
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for n, values in zip(H.shape, features, strict=True):
                if values is not None:
                    factors.append(FeatureFactor(values, k, is_complex, *net))
                elif self.parametrization == "embedding":
                    factors.append(EmbeddingFactor(n, k, is_complex, *net))
                else:
                    factors.append(TableFactor(n, k, is_complex))
        return tuple(factors)

    def _train(self, H: MatrixProducts, n_modes: int, factors: tuple[Factor, Factor]) -> TrainedFactors:
        self._factors, self._shape = factors, H.shape
        trainer = FactorTrainer(
            H.normalized(), *factors, n_modes, self.orthogonality, lam=self.lam, tolerance=self.tolerance
        )
        n_steps = self.max_steps or (2000 if self.sample is None else 3000)
        if H.norm == 0:
            return trainer.run(0)
        if self.sample is not None:
            return trainer.run_sampled(tuple(self.sample), n_steps, self.learning_rate, self.seed)
        trained = trainer.run(n_steps)
        if trained.stop_reason == "max_steps":
            warnings.warn(
                f"training stopped after max_steps={n_steps} before its residuals converged; result_ holds them. "
                "Raise max_steps or oversampling, or set polish_steps.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return trained

    # ------------------------------------------------------------------------------------------ results

    def _finish(
        self, H: MatrixProducts, trained: TrainedFactors, n_modes: int, rule: str, reference: np.ndarray | None
    ) -> NeuralSVD:
        U, values, V = (trained.ritz.U, trained.ritz.values, trained.ritz.V)
        self.n_steps_, self.n_polish_steps_ = len(trained.losses), 0
        self.stop_reason_ = "zero matrix" if H.norm == 0 else trained.stop_reason
        if self.polish_steps and H.norm > 0:
            U, values, V, self.n_polish_steps_, _ = polish(H.normalized(), V, n_modes, self.polish_steps)
        arrays = (part[..., :n_modes].numpy() for part in (U, values, V))
        U, values, V = arrays
        U, values, Vh = fix_phases(U, values * H.norm, conjugate_transpose(V), rule, reference)
        self._row_map, self._column_map = (
            torch.linalg.lstsq(factor().detach(), torch.as_tensor(np.ascontiguousarray(vectors))).solution
            for factor, vectors in zip(self._factors, (U, conjugate_transpose(Vh)), strict=True)
        )
        real = np.dtype(H.dtype.type(0).real.dtype)
        self.U_, self.Vh_ = U.astype(H.dtype), Vh.astype(H.dtype)
        self.singular_values_ = values.astype(real)
        exact = exact_singular_values(H)
        core = np.conj(self.U_).T @ H(torch.as_tensor(_wide(conjugate_transpose(self.Vh_)))).numpy()
        self.errors_ = _errors(H, self.U_, self.singular_values_, self.Vh_, core, exact)
        self.result_ = self._dataset(H, trained, core, exact)
        return self

    def _dataset(self, H: MatrixProducts, trained: TrainedFactors, core: np.ndarray, exact: np.ndarray | None) -> Any:
        k = len(self.singular_values_)
        residuals = trained.ritz.residuals[:k].numpy() * H.norm
        variables: dict[str, Any] = {
            "U": ((ROW, MODE), self.U_),
            "singular_values": (MODE, self.singular_values_),
            "Vh": ((MODE, COLUMN), self.Vh_),
            "singular_values_trained": (MODE, np.abs(trained.svals_diagonal[:k].numpy()) * H.norm),
            "singular_values_column_norms": (MODE, trained.svals_norms[:k].numpy() * H.norm),
            "singular_values_ritz": (MODE, trained.ritz.values[:k].numpy() * H.norm),
            "residuals_ritz": (MODE, residuals),
            "core": ((MODE, "mode_"), np.abs(core)),
            "loss": (STEP, np.asarray(trained.losses)),
            "training_error": (STEP, np.asarray(trained.errors)),
        }
        if exact is not None:
            variables["singular_values_exact"] = (MODE, exact[:k])
        variables |= {f"error_{name}": ((), value) for name, value in self.errors_.items()}
        settings = {name: value for name, value in self.get_params().items() if name != "reference"}
        attrs = provenance(
            **settings,
            matrix_norm=H.norm,
            stop_reason=self.stop_reason_,
            n_steps=self.n_steps_,
            n_polish_steps=self.n_polish_steps_,
        )
        coords = {MODE: np.arange(1, k + 1), STEP: np.arange(1, len(trained.losses) + 1)}
        return xr.Dataset(variables, coords=coords, attrs=attrs)

    def to_dataset(self) -> xr.Dataset:
        """The result with labels.

        Returns
        -------
        xarray.Dataset
            - `U` (row, mode), `singular_values` (mode), `Vh` (mode, column): the result;
            - `singular_values_trained` (`|diag(U^H H V)|` of the trained factors), `singular_values_column_norms` (the
              other extraction), `singular_values_ritz` with `residuals_ritz`: what each stage gave, before polishing;
            - `singular_values_exact`: LAPACK's, where affordable;
            - `core`: `|U^H H V|` (mode, mode_), diagonal for a true SVD;
            - `loss` and `training_error` (step): relative error of the leading modes as they are trained; for sampled
              training an estimate from the sample;
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
        values = _as_features(features, name, None)
        if values.shape[1] != factor.inputs.shape[1]:
            raise ValueError(f"{name} must have {factor.inputs.shape[1]} columns, as in fit; got {values.shape[1]}.")
        with torch.no_grad():
            vectors = factor.at(values) @ (self._row_map, self._column_map)[side]
        return vectors.numpy().astype(self.U_.dtype)

    def _check_fitted(self) -> None:
        if not hasattr(self, "U_"):
            raise NotFittedError("this NeuralSVD has not been fitted; call fit(H) first.")


def _as_features(values: Any, name: str, n: int | None) -> Tensor:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must be real numbers of shape (n, d); got {array.dtype} of shape {array.shape}.")
    if n is not None and len(array) != n:
        raise ValueError(f"{name} must have one row per {name.split('_')[0]} of H, {n}; got {len(array)}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got NaN or inf entries.")
    return torch.as_tensor(array.astype(np.float64))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def exact_singular_values(H: MatrixProducts) -> np.ndarray | None:
    """LAPACK's singular values where they cost about a second at most; None for larger matrices and for operators.

    Examples
    --------
    >>> exact_singular_values(as_products(np.diag([1.0, 2.0])))
    array([2., 1.])
    """
    M, N = H.shape
    if not H.has_entries or min(M, N) > EXACT_SIDE or M * N > EXACT_ENTRIES:
        return None
    dense = H.dense if H.dense is not None else H.block(np.arange(M), np.arange(N)).numpy()
    return np.linalg.svd(dense, compute_uv=False)


def _errors(
    H: MatrixProducts, U: np.ndarray, values: np.ndarray, Vh: np.ndarray, core: np.ndarray, exact: np.ndarray | None
) -> dict[str, float]:
    """The entries of `errors_`, all from the numbers that the user gets."""
    norm, k = H.norm, len(values)
    errors = {"reconstruction": 0.0, "orthogonality_u": orthogonality_error(U)}
    errors |= {"orthogonality_v": orthogonality_error(conjugate_transpose(Vh)), "eckart_young": np.nan}
    errors["norm_error"] = H.norm_error / norm if norm > 0 else 0.0
    if norm == 0:  # exactly represented
        return errors | {"eckart_young": 0.0}
    values = values.astype(np.float64) / norm
    if H.dense is not None:
        difference = H.dense / norm - (_wide(U) * values) @ _wide(Vh)
        errors["reconstruction"] = float(np.linalg.norm(difference))
    else:
        square = 1.0 - 2.0 * float(values @ np.real(np.diagonal(core))) / norm + float(values @ values)
        unresolved = errors["norm_error"] > 0 and abs(square) < 4 * errors["norm_error"]
        errors["reconstruction"] = np.nan if unresolved else float(np.sqrt(max(square, 0.0)))
    if exact is not None:
        errors["eckart_young"] = float(np.linalg.norm(exact[k:] / norm))
    return errors
