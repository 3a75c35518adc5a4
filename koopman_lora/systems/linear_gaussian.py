"""Linear dynamics with normal noise, in discrete and in continuous time: closed forms in any dimension."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np
from scipy.linalg import expm, solve_discrete_lyapunov, solve_triangular
from scipy.special import roots_hermitenorm

from koopman_lora._linalg import eigenvalue_order
from koopman_lora.checks import checked
from koopman_lora.kinds import Reals

from ._base import LARGEST, ReferenceSpectrum, System, check_rank, check_states

Exponents = tuple[int, ...]

SAMPLE_SIZE = 200_000  # stationary points in more than three dimensions, where a tensor grid would be larger
WORST_EIGENVECTORS = 1e8  # condition number above which eigenvectors of A are no basis in double precision


@checked(but=("lag", "dt"))
@dataclass(frozen=True, eq=False)
class LinearGaussian(System):
    """Stationary linear process, ``x' = A x + B normal``, reversible or not.

    With the stationary covariance ``C = A C A^T + B B^T``, the canonical correlations c_i of x and x' are the singular
    values of ``C^{-1/2} A^lag C^{1/2}``. The singular values of the Koopman operator are all products
    ``prod_i c_i^{n_i}``, its singular functions the products of normalised Hermite polynomials of the canonical
    variates. Eigenvalues are all products of eigenvalues of ``A^lag``, eigenfunctions the Wick products of the linear
    eigenfunctions.

    Parameters
    ----------
    A : array (d, d), all eigenvalues inside the unit circle
    B : array (d, m); the noise must reach every direction sooner or later, so that C is positive definite
    dt : time per step, in `time_unit`

    Notes
    -----
    The product form is Mehler's formula, in each pair of canonical variates; Wick products and second quantisation as
    in Janson, *Gaussian Hilbert Spaces*, Cambridge 1997, chapters 3 and 4.

    Examples
    --------
    >>> system = LinearGaussian(A=[[0.9, 0.4], [0.0, 0.5]], B=np.eye(2))
    >>> spectrum = system.spectrum(lag=1, n_modes=3)
    >>> spectrum.singular_values.round(3), spectrum.eigenvalues.real.round(3)
    (array([1.   , 0.937, 0.879]), array([1.  , 0.9 , 0.81]))
    """

    A: Reals
    B: Reals
    dt: float = 1.0
    time_unit: str = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "A", _square("A", self.A))
        object.__setattr__(self, "B", _matching("B", self.B, "A", len(self.A)))
        radius = np.abs(np.linalg.eigvals(self.A)).max()
        if radius >= 1:
            raise ValueError(
                f"A must have all eigenvalues inside the unit circle, the largest modulus is {radius:.6g}: "
                "the process has no stationary law. Scale A down."
            )
        deviations = np.sqrt(np.maximum(np.diag(self.covariance), 0))
        if not deviations.all() or np.linalg.cond(self.covariance / np.outer(deviations, deviations)) > 1e13:
            raise ValueError(
                "B does not drive every direction of the state: the stationary covariance is singular, with diagonal "
                f"{np.diag(self.covariance)}. Add noise, or remove the undriven directions."
            )

    @cached_property
    def covariance(self) -> np.ndarray:
        """Stationary covariance, (d, d)."""
        return solve_discrete_lyapunov(self.A, self.B @ self.B.T)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(f"x{i}" for i in range(len(self.A)))

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        d = len(self.A)
        x = rng.standard_normal((n_steps, n_trajectories, self.B.shape[1])) @ self.B.T
        x[0] = rng.standard_normal((n_trajectories, d)) @ np.linalg.cholesky(self.covariance).T
        for t in range(1, n_steps):
            x[t] += x[t - 1] @ self.A.T
        return x.transpose(1, 0, 2)

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        d, root = len(self.A), np.linalg.cholesky(self.covariance)
        A_lag = np.linalg.matrix_power(self.A, lag)

        def whiten(x: np.ndarray) -> np.ndarray:
            return solve_triangular(root, check_states(x, d).T, lower=True).T

        # In white coordinates z = root^-1 x the best prediction of z' is M z.
        M = solve_triangular(root, A_lag @ root, lower=True)
        U, correlations, Vh = np.linalg.svd(M)
        check_rank(n_modes, n_modes if correlations[0] > 0 else 1, "A = 0: frames are independent")
        exponents = leading_products(correlations, n_modes)[:n_modes]
        singular_values = np.array([np.prod(correlations**e) for e in exponents])

        factors, covectors = np.linalg.eig(self.A.T)  # columns w: w^T A = factor w^T
        powers = leading_products(np.abs(factors**lag), n_modes)
        products = np.array([np.prod((factors**lag).astype(complex) ** np.array(p)) for p in powers])
        order = eigenvalue_order(products)[:n_modes]
        powers = [powers[i] for i in order]

        degree = max(sum(e) for e in (*exponents, *powers))
        nodes, weights, resolution = _stationary_points(d, degree)
        return ReferenceSpectrum(
            singular_values=singular_values,
            eigenvalues=products[order],
            left=lambda x: _hermite_products(whiten(x) @ Vh.T, exponents),
            right=lambda x: _hermite_products(whiten(x) @ U, exponents),
            eigenfunctions=lambda x: _eigenfunctions(whiten(x), root.T @ covectors, powers),
            points=nodes @ root.T,
            weights=weights,
            clock=self._clock(lag),
            kind="exact",
            resolution=f"closed form; points: {resolution}",
        )


@checked(but=("lag", "dt"))
@dataclass(frozen=True, eq=False)
class OrnsteinUhlenbeck(System):
    """Ornstein-Uhlenbeck process, ``dX = -drift X dt + diffusion dW``, sampled exactly every `dt`.

    Parameters
    ----------
    drift : array (d, d), eigenvalues with positive real part
    diffusion : array (d, m)
    dt : time between frames, in `time_unit`

    Notes
    -----
    Transition: ``A = expm(-drift dt)``, noise covariance ``int_0^dt expm(-drift s) D D^T expm(-drift^T s) ds`` by one
    matrix exponential (Van Loan, *Computing integrals involving the matrix exponential*, IEEE TAC 23, 1978).

    Examples
    --------
    >>> system = OrnsteinUhlenbeck(drift=[[1.0]], diffusion=[[1.0]], dt=0.5)
    >>> np.log(system.spectrum(n_modes=3).singular_values).round(3)
    array([ 0. , -0.5, -1. ])
    """

    drift: Reals
    diffusion: Reals
    dt: float = 0.1
    time_unit: str = "1"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "drift", _square("drift", self.drift))
        object.__setattr__(self, "diffusion", _matching("diffusion", self.diffusion, "drift", len(self.drift)))
        slowest = np.linalg.eigvals(self.drift).real.min()
        if slowest <= 0:
            raise ValueError(
                f"drift must have eigenvalues with positive real part, the smallest is {slowest:.6g}: the process has "
                "no stationary law. Note the sign in dX = -drift X dt + diffusion dW."
            )

    @cached_property
    def discretised(self) -> LinearGaussian:
        """The same process seen every `dt`: a `LinearGaussian`."""
        d = len(self.drift)
        blocks = np.block([[-self.drift, self.diffusion @ self.diffusion.T], [np.zeros((d, d)), self.drift.T]])
        blocks = expm(blocks * self.dt)
        A = blocks[:d, :d]
        variances, axes = np.linalg.eigh(blocks[:d, d:] @ A.T)
        return LinearGaussian(A, axes * np.sqrt(np.maximum(variances, 0)), dt=self.dt, time_unit=self.time_unit)

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return self.discretised.coordinate_names

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        return self.discretised._draw(rng, n_trajectories, n_steps)

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        return self.discretised._reference(lag, n_modes)


def leading_products(factors: np.ndarray, n_terms: int) -> list[Exponents]:
    """Exponents of the `n_terms` largest products ``prod_i factors_i^{n_i}``, and of all that tie with the last.

    Best-first: every product is at most its parent with one exponent less, so the largest one not yet listed is always
    on the heap. A fixed total degree would miss powers of a large factor and list products of small ones.

    Parameters
    ----------
    factors : array (d,) in [0, 1)

    Examples
    --------
    >>> leading_products(np.array([0.9, 0.75]), 5)
    [(0, 0), (1, 0), (2, 0), (0, 1), (3, 0)]
    """
    start = (0,) * len(factors)
    heap, seen, last = [(-1.0, start)], {start}, 1.0
    found: list[Exponents] = []
    while len(found) < n_terms or -heap[0][0] > last * (1 - 1e-9):
        value, exponents = heapq.heappop(heap)
        found.append(exponents)
        last = -value
        for i in range(len(factors)):
            child = _change(exponents, i, +1)
            if child not in seen:
                seen.add(child)
                heapq.heappush(heap, (-np.prod(factors ** np.array(child)), child))
    return found


def _change(exponents: Exponents, i: int, by: int) -> Exponents:
    return (*exponents[:i], exponents[i] + by, *exponents[i + 1 :])


def _hermite_products(variates: np.ndarray, exponents: list[Exponents]) -> np.ndarray:
    """Products of normalised Hermite polynomials: variates (n, d) -> (n, n_modes)."""
    h = [np.ones_like(variates), variates]
    for n in range(1, max(max(e) for e in exponents)):
        h.append((variates * h[n] - np.sqrt(n) * h[n - 1]) / np.sqrt(n + 1))
    columns = [np.prod([h[n][:, i] for i, n in enumerate(e)], axis=0) for e in exponents]
    return np.stack(columns, axis=1)


def _eigenfunctions(z: np.ndarray, covectors: np.ndarray, powers: list[Exponents]) -> np.ndarray:
    """Wick products of the linear functions z @ covectors at white states z (n, d), each of unit norm.

    If W_n is the Wick product with exponents n, then ``xi_i W_n = W_{n+e_i} + sum_j n_j (w_i . w_j) W_{n-e_j}``.
    All terms are kept divided by sqrt(n!), which would overflow otherwise.
    """
    condition = np.linalg.cond(covectors)
    if condition > WORST_EIGENVECTORS:
        raise ValueError(
            f"A cannot be diagonalised (its eigenvectors have condition number {condition:.1e}), so the eigenfunctions "
            "are no basis; singular functions and eigenvalues are still available."
        )
    w = covectors.astype(complex) / np.linalg.norm(covectors, axis=0)
    bilinear, hermitian, linear = w.T @ w, w.conj().T @ w, z @ w

    @cache
    def wick(n: Exponents) -> np.ndarray:
        if sum(n) == 0:
            return np.ones(len(z), dtype=complex)
        i = int(np.flatnonzero(n)[0])
        lower = _change(n, i, -1)
        contracted = sum(
            np.sqrt(m) * bilinear[i, j] * wick(_change(lower, j, -1)) for j, m in enumerate(lower) if m > 0
        )
        return (linear[:, i] * wick(lower) - contracted) / np.sqrt(n[i])

    norms = np.sqrt([_wick_product(hermitian)(n, n).real for n in powers])
    return np.stack([wick(n) for n in powers], axis=1) / norms


def _wick_product(hermitian: np.ndarray) -> Callable[[Exponents, Exponents], complex]:
    """Inner product of two scaled Wick products of the same degree, from that of their linear functions."""

    @cache
    def inner(n: Exponents, m: Exponents) -> complex:
        if sum(n) == 0:
            return 1.0
        i = int(np.flatnonzero(n)[0])
        lower = _change(n, i, -1)
        return sum(
            np.sqrt(m[j] / n[i]) * hermitian[i, j] * inner(lower, _change(m, int(j), -1)) for j in np.flatnonzero(m)
        )

    return inner


def _stationary_points(d: int, degree: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Points (n, d), weights (n,) of the standard normal law; exact for products of two functions if d <= 3."""
    if d > 3:
        nodes = np.random.default_rng(0).standard_normal((SAMPLE_SIZE, d))
        return nodes, np.full(SAMPLE_SIZE, 1 / SAMPLE_SIZE), f"random sample of {SAMPLE_SIZE} (seed 0), so only close"
    n_nodes = max((128, 64, 24)[d - 1], degree + 1)
    nodes, weights = roots_hermitenorm(n_nodes)
    grid = np.array(list(product(nodes, repeat=d)))
    grid_weights = np.prod(np.array(list(product(weights / weights.sum(), repeat=d))), axis=1)
    return grid, grid_weights, f"tensor Gauss-Hermite quadrature, {n_nodes} nodes per dimension"


def _square(name: str, value: np.ndarray) -> np.ndarray:
    matrix = np.array(value, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be a finite square matrix, got shape {matrix.shape}: {value!r}.")
    if np.abs(matrix).max(initial=0.0) > LARGEST:
        raise ValueError(f"{name} must have entries of at most {LARGEST:g}; choose another unit.")
    return matrix


def _matching(name: str, value: np.ndarray, other: str, n_rows: int) -> np.ndarray:
    matrix = np.array(value, dtype=float)
    if matrix.ndim != 2 or len(matrix) != n_rows or not np.isfinite(matrix).all():
        raise ValueError(f"{name} must be a finite matrix with {n_rows} rows like {other}, got shape {matrix.shape}.")
    if np.abs(matrix).max(initial=0.0) > LARGEST:
        raise ValueError(f"{name} must have entries of at most {LARGEST:g}; choose another unit.")
    return matrix
