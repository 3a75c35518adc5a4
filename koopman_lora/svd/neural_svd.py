"""`NeuralSVD`: low-rank singular value decomposition of a given matrix by networks trained with the low-rank loss.

For one dense matrix in memory `torch.linalg.svd` is faster, for one large sparse matrix `scipy.sparse.linalg.svds`.
This is for matrices that are sampled, for rows and columns with features (so that unseen ones can be mapped), and for
sequences of slowly changing matrices. `benchmarks/matrix_svd.py` measures all of them side by side.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from torch import Tensor

from koopman_lora._labels import provenance
from koopman_lora._linalg import conjugate_transpose
from koopman_lora.checks import answers_to_other_names, checked_methods
from koopman_lora.surroundings import gradients, seeded
from koopman_lora.svd.checklist import ALLOWED_ERROR
from koopman_lora.svd.decomposed import Decomposed
from koopman_lora.svd.factor_training import TrainedFactors, map_onto, train_on_all
from koopman_lora.svd.factors import Factor, make_factors
from koopman_lora.svd.inputs import as_features, as_products
from koopman_lora.svd.objective import FactorObjective
from koopman_lora.svd.options import check_options, check_options_for, check_same_kind, largest_rank
from koopman_lora.svd.phases import fix_phases
from koopman_lora.svd.polishing import polish
from koopman_lora.svd.products import MatrixProducts
from koopman_lora.svd.results import Decomposition, diagnose, label_result
from koopman_lora.svd.sampled_training import train_on_samples
from koopman_lora.svd.tracking import ModeMatch, describe_crossings, match_modes
from koopman_lora.svd.triples import count_wanted

Factors = tuple[Factor, Factor]
# First trial rank for `energy`; doubled until the energy is reached.
TRIAL_RANK = 32


@checked_methods
class NeuralSVD(Decomposed, BaseEstimator):
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
        Approximate: see Notes, and `errors_['singular_values']` for how far. The whole matrix is seen at the end only.
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
        entries; `singular_values`, the largest relative error of sigma, estimated by residuals, of those below 1e-6
        of the first relative to that (each one's own is `result_.singular_values_error`); `core`, `phase`,
        `adjoint`, see `checklist`; `norm_error`, the relative standard error of `||H||_F`, 0 where the norm is exact.
        A reconstruction that is not dense is judged by `||H||^2 - 2 Re tr(S U^H H V) + ||S||^2`, which cannot resolve
        values below 1e-7; NaN where, for a large LinearOperator, the estimate of the norm does not resolve it.
    result_ : xarray.Dataset
        The same with labels, plus what each stage gave; see `to_dataset`.
    n_steps_, n_polish_steps_, stop_reason_
        `stop_reason_` is 'converged', 'max_steps', 'zero matrix', on samples 'all steps taken' or, with features,
        'no further gain'.

    Raises
    ------
    ValueError
        For options or matrices that make no sense; the message names the argument.

    Notes
    -----
    Training squares singular values, so it resolves sigma down to 1e-6 of the largest and reconstruction errors down to
    1e-5 of the norm; polishing goes on from there.

    On samples, tables and embeddings are solved for by least squares, in which `orthogonality` and `learning_rate` play
    no part; a power step over the whole matrix ends it, five products with n_modes + oversampling vectors in all. That
    gave sigma to 2e-4 for decays like 1 / i and better for faster ones; where sigma hardly decays it takes
    `polish_steps`. A ConvergenceWarning tells of estimated errors beyond 1e-2. Networks over features are trained by
    Adam.

    Everything is computed in double precision on the CPU; results repeat up to round-off.

    References
    ----------
    docs/mathematics.md, section 8.
    Ryu et al., Operator SVD with Neural Networks via Nested Low-Rank Approximation (2024).

    Examples
    --------
    >>> H = np.diag([4.0, 3.0, 0.1]) @ np.ones((3, 5)) / 5**0.5 + np.eye(3, 5)
    >>> svd = NeuralSVD(n_modes=2).fit(H)
    >>> np.allclose(svd.singular_values_, np.linalg.svd(H)[1][:2], rtol=1e-4)
    True
    """

    @answers_to_other_names
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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

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
        check_options(self.get_params())
        products = as_products(H)
        check_options_for(products, self.get_params())
        features = as_features(self.parametrization, products.shape, row_features, column_features)
        n_modes, limit = self.n_modes, largest_rank(products.shape, self.get_params(), features)
        if n_modes is None:
            n_modes = limit if self.energy is None else min(TRIAL_RANK, limit)
        while True:
            factors = self._make_factors(products, min(n_modes + self.oversampling, limit), features)
            trained = self._train(products, n_modes, *factors)
            values = trained.ritz.values[:n_modes].numpy()
            n_wanted = count_wanted(values, self.energy, limit)
            if n_wanted is not None:
                break
            n_modes = min(2 * n_modes, limit)
        if limit < min(products.shape) and count_wanted(values, self.energy, limit + 1) is None:
            warnings.warn(
                f"energy={self.energy} takes more than the {limit} modes that the last hidden layer can carry; give a "
                "wider last entry of hidden_dims.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self._finish(products, trained, factors, n_wanted)

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
        check_options(self.get_params())
        products = as_products(H)
        check_same_kind(products, self._shape, self._factors[0].is_complex)
        n_modes = self.U_.shape[1]
        with gradients():
            factors = copy.deepcopy(self._factors)
        trained = self._train(products, n_modes, *factors)
        return self._finish(products, trained, factors, n_modes, before=self)

    def fit_many(self, matrices: Iterable[Any]) -> list[NeuralSVD]:
        """Fit a batch, an iterable of matrices or an array (batch, M, N): one fitted copy of this estimator each.

        Shapes may differ. For matrices that follow one another in time use `partial_fit`.

        Examples
        --------
        >>> [svd.singular_values_.round(4) for svd in NeuralSVD(n_modes=1).fit_many(np.eye(2) * [[[1.0]], [[2.0]]])]
        [array([1.]), array([2.])]
        """
        return [clone(self).fit(H) for H in matrices]

    def _make_factors(self, H: MatrixProducts, k: int, features: tuple[Tensor | None, Tensor | None]) -> Factors:
        """Untrained factors of rows and columns, with k columns."""
        with gradients(), seeded(self.seed):
            return make_factors(
                H.shape, k, H.torch_dtype.is_complex, self.parametrization, features, self.hidden_dims, self.activation
            )

    def _train(self, H: MatrixProducts, n_modes: int, left: Factor, right: Factor) -> TrainedFactors:
        n_steps = self.max_steps or (2000 if self.sample is None else 3000)
        with gradients():
            objective = FactorObjective(
                H.normalized(), left, right, n_modes, self.orthogonality, lam=self.lam, tolerance=self.tolerance
            )
            if self.sample is not None and H.norm > 0:
                n_rows, n_columns = self.sample
                return train_on_samples(objective, (n_rows, n_columns), n_steps, self.learning_rate, self.seed)
            trained = train_on_all(objective, n_steps)
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
        self,
        H: MatrixProducts,
        trained: TrainedFactors,
        factors: Factors,
        n_modes: int,
        before: NeuralSVD | None = None,
    ) -> NeuralSVD:
        """Choose modes and phases, by those of the fit before where there is one, and say what the result is worth."""
        ritz, n_polish_steps = trained.ritz, 0
        if self.polish_steps and H.norm > 0:
            ritz, n_polish_steps = polish(H.normalized(), ritz.V, n_modes, self.polish_steps)
        U, values, V = (part[..., :n_modes].numpy() for part in (ritz.U, ritz.values, ritz.V))
        Vh, rule, match = conjugate_transpose(V), (self.phase, self.reference), None
        if before is not None:
            match = match_modes((before.U_, before.Vh_), (U, Vh))
            rule = "reference", before.U_[:, match.previous]
        U, values, Vh = fix_phases(U, values * H.norm, Vh, *rule)
        maps = map_onto(U, factors[0]), map_onto(conjugate_transpose(Vh), factors[1])
        real = values.astype(H.dtype.type(0).real.dtype)
        found = Decomposition(U.astype(H.dtype), real, Vh.astype(H.dtype))
        diagnosis, n_steps = diagnose(H, found, ritz), len(trained.losses)
        attrs = {name: value for name, value in self.get_params().items() if name != "reference"}
        attrs |= {"matrix_norm": H.norm, "stop_reason": "zero matrix" if H.norm == 0 else trained.stop_reason}
        attrs = provenance(**attrs, n_steps=n_steps, n_polish_steps=n_polish_steps)
        # from here on nothing can fail: an earlier fit stays whole until then
        self._take(label_result(found, trained, diagnosis, match, attrs))
        self.n_steps_, self.n_polish_steps_, self.stop_reason_ = n_steps, n_polish_steps, attrs["stop_reason"]
        self._factors, self._maps, self._shape = factors, maps, H.shape
        self._warn(match)
        return self

    def _warn(self, match: ModeMatch | None) -> None:
        error = self.errors_["singular_values"]
        if self.sample is not None and error > ALLOWED_ERROR:
            warnings.warn(
                f"training on samples left singular values with an error of an estimated {error:.2g}, relative; "
                "result_ holds that of every mode. Raise max_steps, oversampling or sample, or set polish_steps.",
                ConvergenceWarning,
                stacklevel=4,
            )
        crossings = describe_crossings(match, self.singular_values_) if match is not None else ""
        if crossings:
            warnings.warn(
                f"{crossings}. Their numbers follow the singular values; result_['previous_mode'] says which mode "
                "before each continues, result_['overlap'] how far.",
                stacklevel=4,
            )
