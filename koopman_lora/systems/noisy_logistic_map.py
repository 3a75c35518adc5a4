"""The noisy logistic map: a non-normal Koopman operator of finite rank, known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import binom, roots_legendre

from koopman_lora._linalg import eigenvalue_order
from koopman_lora.checks import checked
from koopman_lora.kinds import Reals

from ._base import (
    ReferenceSpectrum,
    System,
    check_count,
    check_rank,
    check_states,
    normalisation,
    svd_constant_first,
)


@checked(but=("lag", "dt", "order"))
@dataclass(frozen=True)
class NoisyLogisticMap(System):
    """Logistic map with trigonometric noise, ``x' = 4 x (1 - x) + xi  (mod 1)`` on [0, 1).

    The noise has density ``C cos^N(pi xi)`` on [-1/2, 1/2] with N = `order`. The transition density is then a
    trigonometric polynomial in x', so the Koopman operator has rank N + 1 exactly.

    Parameters
    ----------
    order : even int >= 2, the N of the noise; larger means less noise
    dt : time per step, in `time_unit`

    Notes
    -----
    After Ostruszka et al., *Dynamical entropy for systems with stochastic perturbation*, Phys. Rev. E 62 (2000); used
    as a benchmark by Kostic et al., *Learning dynamical systems via Koopman operator regression*, NeurIPS 2022.
    The eigenvalues fall off very quickly (order 20: the ninth is below 1e-4), the singular values do not. Singular
    values have an absolute error near 1e-15. The small eigenvalues are ill-conditioned: the error reaches 1e-10, so
    those below it, and their functions, are round-off.

    Examples
    --------
    >>> system = NoisyLogisticMap(order=20)
    >>> system.simulate(n_trajectories=4, n_steps=100).sizes
    Frozen({'trajectory': 4, 'time': 100, 'coordinate': 1})
    >>> system.spectrum(n_modes=4).singular_values.round(4)
    array([1.    , 0.9232, 0.8923, 0.6964])
    """

    order: int = 20
    dt: float = 1.0
    time_unit: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if check_count("order", self.order) % 2:
            raise ValueError(f"order must be even, got {self.order}: only then is the noise smooth on the circle.")

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Name of the coordinate."""
        return ("x",)

    def stationary_density(self, x: Reals) -> np.ndarray:
        """Density of the stationary law at points of [0, 1), same shape as `x`.

        Examples
        --------
        >>> NoisyLogisticMap().stationary_density(np.array([0.5])).round(6)
        array([0.75521])
        """
        return _trigonometric(x, self.order) @ _stationary_coefficients(self.order)

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        # sin^2(pi xi) ~ Beta(1/2, (N + 1)/2): substitute in the density.
        squared_sine = rng.beta(0.5, (self.order + 1) / 2, size=(n_steps, n_trajectories))
        noise = np.arcsin(np.sqrt(squared_sine)) / np.pi * rng.choice([-1.0, 1.0], size=squared_sine.shape)
        x = np.empty((n_steps, n_trajectories))
        x[0] = self._draw_stationary(rng, n_trajectories)
        for t in range(1, n_steps):
            x[t] = _wrap(4 * x[t - 1] * (1 - x[t - 1]) + noise[t])
        return x.T[..., None]

    def _draw_stationary(self, rng: np.random.Generator, size: int) -> np.ndarray:
        edges = np.linspace(0, 1, 4097)
        cumulative = np.concatenate([[0], np.cumsum(self.stationary_density((edges[1:] + edges[:-1]) / 2))])
        return _wrap(np.interp(rng.random(size), cumulative / cumulative[-1], edges))

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        check_rank(n_modes, self.order + 1, f"the operator has rank order + 1 = {self.order + 1}")
        points, quadrature_weights = _quadrature(self.order)
        weights = quadrature_weights * self.stationary_density(points)

        # K = sum_j u_j <v_j, .> with u, v as below, so K^lag = sum_ij u_i (coupling^(lag-1))_ij <v_j, .>.
        def u(x: np.ndarray) -> np.ndarray:
            return _trigonometric(4 * x * (1 - x), self.order)

        def v(x: np.ndarray) -> np.ndarray:
            return _trigonometric(x, self.order) * _noise_spectrum(self.order) / self.stationary_density(x)[:, None]

        root = np.sqrt(weights)[:, None]
        (Q_u, R_u), (Q_v, R_v) = np.linalg.qr(root * u(points)), np.linalg.qr(root * v(points))
        coupling = (root * v(points)).T @ (root * u(points))
        core = R_u @ np.linalg.matrix_power(coupling, lag - 1) @ R_v.T
        U, singular_values, V = svd_constant_first(core, Q_u.T @ root[:, 0], Q_v.T @ root[:, 0])
        left, right = solve_triangular(R_u, U[:, :n_modes]), solve_triangular(R_v, V[:, :n_modes])

        eigenvalues, coefficients = np.linalg.eig(np.linalg.matrix_power(coupling, lag))
        order = eigenvalue_order(eigenvalues)[:n_modes]
        coefficients = coefficients[:, order] * normalisation(u(points) @ coefficients[:, order], weights)
        return ReferenceSpectrum(
            singular_values=singular_values[:n_modes],
            eigenvalues=eigenvalues[order].astype(complex),
            left=lambda x: u(check_states(x, 1)[:, 0]) @ left,
            right=lambda x: v(check_states(x, 1)[:, 0]) @ right,
            eigenfunctions=lambda x: u(check_states(x, 1)[:, 0]) @ coefficients,
            points=points[:, None],
            weights=weights,
            clock=self._clock(lag),
            kind="exact",
            resolution=f"rank {self.order + 1} factorisation, {len(points)}-point Gauss-Legendre quadrature",
        )


def _wrap(x: np.ndarray) -> np.ndarray:
    """X modulo 1, in [0, 1): the remainder of a tiny negative number rounds to 1.0, which is the point 0."""
    remainder = np.mod(x, 1.0)
    return np.where(remainder < 1.0, remainder, 0.0)


def _trigonometric(x: np.ndarray, order: int) -> np.ndarray:
    """Orthonormal 1, sqrt(2) cos(2 pi m x), sqrt(2) sin(2 pi m x), m = 1..order/2: (*x.shape, order + 1)."""
    angles = 2 * np.pi * np.asarray(x)[..., None] * np.arange(1, order // 2 + 1)
    return np.concatenate([np.ones_like(angles[..., :1]), np.sqrt(2) * np.cos(angles), np.sqrt(2) * np.sin(angles)], -1)


def _noise_spectrum(order: int) -> np.ndarray:
    """Fourier coefficients of the noise in `_trigonometric`: p(x'|x) = sum_j b_j e_j(4x(1-x)) e_j(x')."""
    m = np.arange(1, order // 2 + 1)
    b = binom(order, order // 2 + m) / binom(order, order // 2)
    return np.concatenate([[1.0], b, b])


@lru_cache
def _quadrature(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre points and weights on [0, 1]; far more points than the highest frequency, 2 order, needs."""
    nodes, weights = roots_legendre(512 + 16 * order)
    return (nodes + 1) / 2, weights / 2


@lru_cache
def _stationary_coefficients(order: int) -> np.ndarray:
    """Coefficients c of the stationary density e(x) @ c: the fixed point of the transfer operator, with c_0 = 1."""
    x, weights = _quadrature(order)
    moved = _noise_spectrum(order)[:, None] * (
        _trigonometric(4 * x * (1 - x), order).T @ (weights[:, None] * _trigonometric(x, order))
    )
    rest = np.eye(order) - moved[1:, 1:]
    return np.concatenate([[1.0], np.linalg.solve(rest, moved[1:, 0])])
