"""A given matrix as products, and what its singular value decomposition needs around a training loop.

Input adapters (numpy, torch, scipy.sparse, LinearOperator), orthogonalisation, Rayleigh-Ritz, polishing, phase rules
(MATH.md, section 8). Everything between the borders is float64 or complex128.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from koopman_lora._linalg import conjugate_transpose, phase_of

ORTHOGONALITIES = ("bjorck", "penalty", "qr", None)
PHASES = ("max", "sigma", "reference")
# An operator that is known by its products only: its norm is exact up to this many products, beyond that an estimate.
EXACT_NORM_PRODUCTS = 2048
# Random vectors of that estimate; its relative standard error is at most sqrt(2 / PROBES), about 0.12, and far less
# for a matrix whose energy is spread over many singular values.
PROBES = 128
# Polishing stops where the residual of every wanted pair is below this, relative to the largest singular value.
POLISH_TOLERANCE = 1e-13
# Entries of a singular vector that count as equally large in the phase rule "max": the first of them decides.
TIE_TOLERANCE = 1e-6


class MatrixProducts:
    """A matrix known by `H @ X`, `H^H @ Y` and, where it has entries, by sub-matrices `H[rows][:, columns]`.

    Parameters
    ----------
    shape, dtype : shape and numpy dtype of the matrix as the user gave it
    multiply, multiply_adjoint : X (N, k) -> H X (M, k), Y (M, k) -> H^H Y (N, k); numpy arrays
    select : (rows, columns) -> sub-matrix; None for an operator without entries
    norm : Frobenius norm
    norm_error : standard error of `norm`, 0 where it is exact
    dense : the matrix itself where it is dense, in float64 or complex128

    Examples
    --------
    >>> H = as_products(np.array([[3.0, 0.0], [0.0, 4.0]]))
    >>> H.norm, H(torch.eye(2, dtype=torch.float64))[1, 1].item()
    (5.0, 4.0)
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype,
        multiply: Callable[[np.ndarray], np.ndarray],
        multiply_adjoint: Callable[[np.ndarray], np.ndarray],
        select: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        norm: float = math.nan,
        norm_error: float = 0.0,
        dense: np.ndarray | None = None,
    ) -> None:
        self.shape, self.dtype, self.norm, self.norm_error = shape, dtype, norm, norm_error
        self._multiply, self._adjoint, self._select = multiply, multiply_adjoint, select
        self.dense = dense

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision in which everything is computed."""
        return torch.complex128 if self.dtype.kind == "c" else torch.float64

    @property
    def has_entries(self) -> bool:
        """Whether sub-matrices can be taken."""
        return self._select is not None

    def __call__(self, X: Tensor) -> Tensor:
        """`H X`, differentiable in X."""
        return _Product.apply(X, self._multiply, self._adjoint)

    def adjoint(self, Y: Tensor) -> Tensor:
        """`H^H Y`, differentiable in Y."""
        return _Product.apply(Y, self._adjoint, self._multiply)

    def normalized(self) -> MatrixProducts:
        """`H / ||H||_F`, so that training never sees the units of H; the zero matrix stays as it is."""
        norm = self.norm if self.norm > 0 else 1.0
        scaled = [lambda X, product=product: product(X) / norm for product in (self._multiply, self._adjoint)]
        select = (lambda rows, columns: self._select(rows, columns) / norm) if self.has_entries else None
        return MatrixProducts(self.shape, self.dtype, *scaled, select, self.norm / norm, self.norm_error / norm)

    def block(self, rows: np.ndarray, columns: np.ndarray) -> Tensor:
        """Sub-matrix of these rows and columns, (len(rows), len(columns))."""
        return torch.as_tensor(np.asarray(self._select(rows, columns), dtype=_wide(self.dtype)))


class _Product(torch.autograd.Function):
    """`A X` for an A that torch cannot see; its gradient is a product with A^H."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, multiply: Callable, multiply_adjoint: Callable) -> Tensor:
        ctx.adjoint = multiply_adjoint
        return torch.as_tensor(multiply(X.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.as_tensor(ctx.adjoint(gradient.resolve_conj().numpy())), None, None


def _wide(dtype: np.dtype) -> type:
    return np.complex128 if dtype.kind == "c" else np.float64


def as_products(H: Any, name: str = "H") -> MatrixProducts:
    """Wrap a numpy array, torch tensor, scipy sparse matrix or LinearOperator, after checking it.

    Raises
    ------
    ValueError
        For an input that is empty, not two-dimensional, not float32/64 or complex64/128, or has NaN or inf entries;
        for a LinearOperator without products with its adjoint.

    Examples
    --------
    >>> as_products(np.eye(3, dtype=int))
    Traceback (most recent call last):
    ValueError: H must be float32, float64, complex64 or complex128; got int64. Use H.astype(float).
    """
    if isinstance(H, MatrixProducts):
        return H
    if isinstance(H, Tensor):
        if H.layout != torch.strided:
            raise ValueError(f"{name} must be a dense tensor; got layout {H.layout}. Use scipy.sparse instead.")
        H = H.detach().cpu().resolve_conj()
        _check_dtype(str(H.dtype).removeprefix("torch."), name)  # numpy has no bfloat16
        H = H.numpy()
    if not isinstance(H, LinearOperator) and not scipy.sparse.issparse(H):
        H = np.asarray(H)
    if len(H.shape) != 2:
        hint = " Use fit_many for a batch of matrices." if len(H.shape) == 3 else ""
        raise ValueError(f"{name} must be a matrix (M, N); got shape {tuple(H.shape)}.{hint}")
    if 0 in H.shape:
        raise ValueError(f"{name} must not be empty; got shape {tuple(H.shape)}.")
    _check_dtype(str(H.dtype), name)
    if isinstance(H, LinearOperator):
        return _from_operator(H, name)
    entries = H.data if scipy.sparse.issparse(H) and H.format != "lil" else H
    if scipy.sparse.issparse(H):
        H = H.tocsr()
        entries = H.data
    if not np.isfinite(entries).all():
        bad = int((~np.isfinite(entries)).sum())
        raise ValueError(f"{name} must be finite; got {bad} NaN or inf entries.")
    return _from_sparse(H) if scipy.sparse.issparse(H) else _from_dense(H)


def _check_dtype(dtype: str, name: str) -> None:
    if dtype not in ("float32", "float64", "complex64", "complex128"):
        raise ValueError(
            f"{name} must be float32, float64, complex64 or complex128; got {dtype}. Use {name}.astype(float)."
        )


def _safe_norm(entries: np.ndarray) -> float:
    """Frobenius norm that neither overflows nor underflows in its squares."""
    largest = float(np.abs(entries).max(initial=0.0))
    return largest * float(np.linalg.norm(np.ravel(entries) / largest)) if largest > 0 else 0.0


def _from_dense(H: np.ndarray) -> MatrixProducts:
    wide = np.ascontiguousarray(H, dtype=_wide(H.dtype))
    adjoint = conjugate_transpose(wide)
    select = lambda rows, columns: wide[np.ix_(rows, columns)]  # noqa: E731
    return MatrixProducts(
        H.shape, H.dtype, wide.__matmul__, adjoint.__matmul__, select, norm=_safe_norm(wide), dense=wide
    )


def _from_sparse(H: Any) -> MatrixProducts:
    adjoint = H.conj().T.tocsr()
    wide = _wide(H.dtype)
    return MatrixProducts(
        H.shape,
        H.dtype,
        lambda X: np.asarray(H @ X, dtype=wide),
        lambda Y: np.asarray(adjoint @ Y, dtype=wide),
        lambda rows, columns: H[rows][:, columns].toarray(),
        norm=_safe_norm(H.data.astype(wide)),
    )


def _from_operator(H: LinearOperator, name: str) -> MatrixProducts:
    wide = _wide(np.dtype(H.dtype))

    def checked(product: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def multiply(X: np.ndarray) -> np.ndarray:
            try:
                values = np.asarray(product(X), dtype=wide)
            except (NotImplementedError, TypeError, RecursionError) as error:
                raise ValueError(f"{name} must offer matvec and rmatvec (the adjoint); one failed: {error}") from error
            if not np.isfinite(values).all():
                raise ValueError(f"{name} gave NaN or inf in a product.")
            return values

        return multiply

    multiply, adjoint = checked(H.matmat), checked(H.rmatmat)
    norm, norm_error = _operator_norm(multiply, adjoint, H.shape, wide)
    return MatrixProducts(H.shape, np.dtype(H.dtype), multiply, adjoint, norm=norm, norm_error=norm_error)


def _operator_norm(
    multiply: Callable[[np.ndarray], np.ndarray],
    adjoint: Callable[[np.ndarray], np.ndarray],
    shape: tuple[int, int],
    dtype: type,
) -> tuple[float, float]:
    """Frobenius norm by products, and its error: exact on a short side, else from `E ||H z||^2` over random signs."""
    product, n = (multiply, shape[1]) if shape[1] <= shape[0] else (adjoint, shape[0])
    if n <= EXACT_NORM_PRODUCTS:
        starts = range(0, n, 256)
        blocks = [product(np.eye(n, min(256, n - start), -start, dtype=dtype)) for start in starts]
        return _safe_norm(np.array([_safe_norm(block) for block in blocks])), 0.0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(n, PROBES)).astype(dtype)
    squares = np.square(np.linalg.norm(product(signs), axis=0))
    norm = float(np.sqrt(squares.mean()))
    return norm, float(squares.std(ddof=1) / np.sqrt(PROBES) / (2 * norm)) if norm > 0 else 0.0


# ---------------------------------------------------------------------------------------------- orthogonality


def bjorck(X: Tensor, tolerance: float = 1e-14, max_iterations: int = 60) -> Tensor:
    """Nearest matrix with orthonormal columns by Bjorck's iteration, differentiable.

    `Q <- Q (15/8 I - 5/4 A + 3/8 A^2)`, `A = Q^H Q`, on input scaled to spectral norm at most 1. Each iteration
    multiplies small singular values by 15/8 and converges cubically once they are near 1.

    Parameters
    ----------
    X : tensor of shape (n, k), n >= k, of full column rank
    tolerance : stop at `||A - I||_F <= tolerance * k`; the last iteration is then already far below it

    References
    ----------
    Bjorck and Bowie, An iterative algorithm for computing the best estimate of an orthogonal matrix (1971).

    Examples
    --------
    >>> bjorck(torch.tensor([[2.0, 0.0], [0.0, -0.1], [0.0, 0.0]], dtype=torch.float64)).round(decimals=6)
    tensor([[ 1.,  0.],
            [ 0., -1.],
            [ 0.,  0.]], dtype=torch.float64)
    """
    identity = torch.eye(X.shape[1], dtype=X.dtype)
    # the largest column sum of the Gram matrix bounds its spectral norm
    Q = X / (X.mH @ X).detach().abs().sum(0).max().sqrt().clamp_min(torch.finfo(X.dtype).tiny)
    for _ in range(max_iterations):
        A = Q.mH @ Q
        if torch.linalg.matrix_norm(A.detach() - identity) <= tolerance * len(identity):
            break
        Q = Q @ (1.875 * identity - 1.25 * A + 0.375 * (A @ A))
    return Q


def qr_orthonormal(X: Tensor) -> Tensor:
    """Orthonormal columns by QR, with the diagonal of R made positive so that X orthonormal comes back unchanged.

    Examples
    --------
    >>> qr_orthonormal(torch.tensor([[-3.0], [4.0]]))
    tensor([[-0.6000],
            [ 0.8000]])
    """
    Q, R = torch.linalg.qr(X)
    diagonal = R.diagonal().detach()
    return Q * torch.where(diagonal.abs() > 0, diagonal / diagonal.abs().clamp_min(1e-300), 1.0)


def orthogonalize(X: Tensor, orthogonality: str | None) -> Tensor:
    """Orthonormal columns for 'bjorck' and 'qr'; X itself for 'penalty' and None.

    Raises
    ------
    ValueError
        For another word.

    Examples
    --------
    >>> orthogonalize(torch.ones(2, 1), "cholesky")
    Traceback (most recent call last):
    ValueError: orthogonality must be one of 'bjorck', 'penalty', 'qr', None; got 'cholesky'.
    """
    if orthogonality not in ORTHOGONALITIES:
        raise ValueError(f"orthogonality must be one of 'bjorck', 'penalty', 'qr', None; got {orthogonality!r}.")
    return {"bjorck": bjorck, "qr": qr_orthonormal}.get(orthogonality, lambda x: x)(X)


def orthogonality_error(U: np.ndarray) -> float:
    """`||U^H U - I||_F`, in double precision.

    Examples
    --------
    >>> orthogonality_error(np.eye(3)[:, :2] * 2.0)
    4.242640687119285
    """
    U = U.astype(_wide(U.dtype))
    return float(np.linalg.norm(conjugate_transpose(U) @ U - np.eye(U.shape[1])))


# ---------------------------------------------------------------------------------------------- extraction


def svals_from_norms(G: Tensor, F: Tensor) -> Tensor:
    """Singular values of `G F^H` by column norms, `||g_l|| ||f_l||`: right where both have orthogonal columns.

    Examples
    --------
    >>> svals_from_norms(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0]]))
    tensor([10.])
    """
    return torch.linalg.vector_norm(G, dim=0) * torch.linalg.vector_norm(F, dim=0)


def svals_from_diagonal(U: Tensor, HV: Tensor) -> Tensor:
    """`diag(U^H H V)` from U and the product H V; complex where the phases of u and v do not match.

    Examples
    --------
    >>> svals_from_diagonal(torch.eye(2), torch.tensor([[2.0, 5.0], [7.0, -1.0]]))
    tensor([ 2., -1.])
    """
    return (U.conj() * HV).sum(0)


class RitzTriples(NamedTuple):
    """Singular triples between two subspaces, and the products with H that came along.

    `U^H H V = diag(values)`, U (M, k) and V (N, k) orthonormal; `HV`, `HU` are `H V` and `H^H U`.
    """

    U: Tensor
    values: Tensor
    V: Tensor
    HV: Tensor
    HU: Tensor

    @property
    def residuals(self) -> Tensor:
        """`sqrt(||H v - sigma u||^2 + ||H^H u - sigma v||^2)` per mode."""
        left = torch.linalg.vector_norm(self.HV - self.U * self.values, dim=0)
        right = torch.linalg.vector_norm(self.HU - self.V * self.values, dim=0)
        return torch.hypot(left, right)


def rayleigh_ritz(H: MatrixProducts, G: Tensor, F: Tensor, n_modes: int | None = None) -> RitzTriples:
    """Best singular triples between the column spaces of G and F: SVD of the small core `Q_G^H H Q_F`.

    Parameters
    ----------
    H : matrix of shape (M, N)
    G, F : tensors (M, k), (N, k')
    n_modes : keep only the leading triples

    Returns
    -------
    RitzTriples
        With values real, not negative, decreasing.

    Examples
    --------
    >>> H = as_products(np.diag([1.0, 3.0]))
    >>> rayleigh_ritz(H, torch.eye(2).double(), torch.eye(2).double()).values
    tensor([3., 1.], dtype=torch.float64)
    """
    Q_g, Q_f = qr_orthonormal(G), qr_orthonormal(F)
    HQ = H(Q_f)
    P, values, Wh = torch.linalg.svd(Q_g.mH @ HQ, full_matrices=False)
    P, values, Wh = P[:, :n_modes], values[:n_modes], Wh[:n_modes]
    U, V = qr_orthonormal(Q_g @ P), qr_orthonormal(Q_f @ Wh.mH)  # once more: the products cost a few digits
    return RitzTriples(U, values, V, HQ @ Wh.mH, H.adjoint(U))


class Polished(NamedTuple):
    """Singular triples after polishing, and how many steps it took."""

    U: Tensor
    values: Tensor
    V: Tensor
    n_steps: int
    residual: float


def polish(H: MatrixProducts, V: Tensor, n_modes: int, max_steps: int, tolerance: float = POLISH_TOLERANCE) -> Polished:
    """Block power steps with Rayleigh-Ritz, until the residuals of the leading `n_modes` have converged.

    A power step would continue in the space of `H^H H V`; here V and the step before stay in the space too (the
    locally optimal block iteration, LOBPCG), which needs the square root of the number of steps. V is (N, k), k >=
    n_modes; the extra columns make it faster. One step is a product of H with 3 k vectors and one of H^H with k.

    Returns
    -------
    Polished
        U (M, n_modes), values, V (N, n_modes); `residual` is the largest `||H^H u - sigma v|| / sigma_1`.

    References
    ----------
    Knyazev, Toward the optimal preconditioned eigensolver (2001).

    Examples
    --------
    >>> H = as_products(np.diag([5.0, 2.0, 1.0]))
    >>> V = torch.tensor([[0.6], [0.8], [0.1]], dtype=torch.float64)
    >>> polish(H, V, n_modes=1, max_steps=20).values.round(decimals=12)
    tensor([5.], dtype=torch.float64)
    """
    k = V.shape[1]
    basis, previous, best = qr_orthonormal(V), None, math.inf
    stalled = n_steps = 0
    while True:
        P, values, Wh = torch.linalg.svd(H(basis), full_matrices=False)
        rotated = basis @ Wh[:k].mH
        U, values = P[:, :k], values[:k]
        residual_vectors = H.adjoint(U) - rotated * values
        residual = (torch.linalg.vector_norm(residual_vectors[:, :n_modes], dim=0).max() / _positive(values[0])).item()
        stalled = stalled + 1 if residual > 0.5 * best else 0
        best = min(best, residual)
        # at the precision floor residuals only jitter; slow convergence still halves within that many steps
        if residual <= tolerance or n_steps >= max_steps or (stalled >= 5 and best < 100 * tolerance):
            V = qr_orthonormal(rotated)
            return Polished(U[:, :n_modes], values[:n_modes], V[:, :n_modes], n_steps, residual)
        basis = _extend(rotated, [residual_vectors] if previous is None else [residual_vectors, previous])
        previous, n_steps = rotated, n_steps + 1


def _positive(value: Tensor) -> Tensor:
    return value if value > 0 else torch.ones_like(value)


def _extend(V: Tensor, directions: list[Tensor]) -> Tensor:
    """Orthonormal basis of V and further directions, however small these are."""
    for D in directions:
        for _ in range(2):  # twice is enough
            D = D - V @ (V.mH @ D)
            norms = torch.linalg.vector_norm(D, dim=0)
            D = D / torch.where(norms > 0, norms, 1.0)
        D = D[:, : max(V.shape[0] - V.shape[1], 0)]
        V = torch.linalg.qr(torch.cat([V, D], dim=1))[0] if D.shape[1] else V
    return V


# ---------------------------------------------------------------------------------------------- phases


def fix_phases(
    U: np.ndarray, values: np.ndarray, Vh: np.ndarray, rule: str, reference: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fix the free phases of singular triples; `U diag(values) Vh` never changes.

    Parameters
    ----------
    U, values, Vh : arrays (M, k), (k,), (k, N); values may be negative or complex, as `diag(U^H H V)` is
    rule : 'sigma', 'max' or 'reference'
        All make the values real and not negative by turning v. 'sigma' leaves U alone; 'max' then turns u and v
        together until the largest entry of u is real positive (of entries equal to 1e-6 the first); 'reference' until
        `<u_reference, u>` is.
    reference : array (M, k'), k' >= k, for 'reference'

    Raises
    ------
    ValueError
        For another rule, or a reference that is missing or of another shape.

    Examples
    --------
    >>> fix_phases(np.array([[-1.0]]), np.array([-2.0]), np.array([[1.0]]), "max")
    (array([[1.]]), array([2.]), array([[1.]]))
    """
    if rule not in PHASES:
        raise ValueError(f"phase must be one of {', '.join(map(repr, PHASES))}; got {rule!r}.")
    turn = phase_of(values)  # values * turn >= 0, so Vh takes conj(turn)
    Vh, values = Vh * np.conj(turn)[:, None], np.abs(values)
    if rule == "sigma":
        return U, values, Vh
    if rule == "max":
        modulus = np.abs(U)
        first = (modulus >= (1 - TIE_TOLERANCE) * modulus.max(axis=0)).argmax(axis=0)
        turn = phase_of(U[first, np.arange(U.shape[1])])
    else:
        turn = phase_of(_overlaps(U, reference))
    return U * turn, values, Vh * np.conj(turn)[:, None]


def _overlaps(U: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    if reference is None:
        raise ValueError("phase='reference' needs reference, the left vectors (M, n_modes) to align with; got None.")
    reference = np.asarray(reference)
    if reference.ndim != 2 or reference.shape[0] != U.shape[0] or reference.shape[1] < U.shape[1]:
        raise ValueError(
            f"reference must have shape (M={U.shape[0]}, at least n_modes={U.shape[1]}); got {reference.shape}."
        )
    return np.sum(np.conj(reference[:, : U.shape[1]]) * U, axis=0)


def modes_for_energy(values: np.ndarray, total: float, energy: float) -> int | None:
    """Smallest number of leading modes with `sum sigma^2 >= energy * total`; None if all given do not reach it.

    Examples
    --------
    >>> modes_for_energy(np.array([3.0, 1.0]), total=10.0, energy=0.9), modes_for_energy(np.array([3.0]), 10.0, 0.95)
    (1, None)
    """
    # a few units of round-off, so that energy=1 is reached by the exact values
    enough = np.cumsum(np.square(values)) >= energy * total * (1 - 1e-12)
    return int(enough.argmax()) + 1 if enough.any() else None
