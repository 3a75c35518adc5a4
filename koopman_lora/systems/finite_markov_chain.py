"""Finite Markov chains, reversible or not: the Koopman operator is the transition matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

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
    run_markov_chain,
    svd_constant_first,
)

# States of a chain, whose matrix is dense: 800 MB.
MOST_STATES = 10_000


@checked(but=("lag", "dt"))
@dataclass(frozen=True, eq=False)
class FiniteMarkovChain(System):
    """Stationary Markov chain with transition matrix P, emitted as points: ``Prob(j at t + 1 | i at t) = P[i, j]``.

    With the stationary distribution pi and ``D = diag(pi)``, the singular value decomposition of
    ``D^{1/2} P^lag D^{-1/2} = U diag(sigma) V^T`` gives ``phi = D^{-1/2} U`` and ``psi = D^{-1/2} V``.
    Eigenfunctions are the right eigenvectors of P; if P cannot be diagonalised some of them coincide.

    Parameters
    ----------
    transition_matrix : array (n_states, n_states), rows sum to 1, irreducible
    embedding : "one-hot" (n_states coordinates), "index" (one coordinate: 0, 1, 2, ...), or an array
        (n_states, n_coordinates) with a different point for each state; functions use the nearest of these points
    blocks : integer label per state, if the states form known metastable blocks

    Examples
    --------
    >>> chain = FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]])
    >>> chain.stationary_distribution
    array([0.75, 0.25])
    >>> chain.spectrum(lag=1, n_modes=2).singular_values
    array([1. , 0.6])
    >>> chain.simulate(n_steps=3).shape
    (1, 3, 2)
    """

    transition_matrix: Reals
    embedding: str | np.ndarray = "one-hot"
    blocks: np.ndarray | None = None
    dt: float = 1.0
    time_unit: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "transition_matrix", _stochastic(self.transition_matrix))
        if not isinstance(self.embedding, str):
            object.__setattr__(self, "embedding", np.array(self.embedding, dtype=float))
        if self.blocks is not None:
            object.__setattr__(self, "blocks", np.array(self.blocks, dtype=int))
            if self.blocks.shape != (self.n_states,):
                raise ValueError(f"blocks must be one label for each of {self.n_states} states, got {self.blocks!r}.")
        _check_points(self.embedded_states, self.n_states)

    @classmethod
    def with_blocks(cls, n_blocks: int = 3, states_per_block: int = 4, coupling: float = 0.02, seed: int = 0) -> Self:
        """Build a metastable chain: random jumps inside blocks, which are rarely left.

        Block b is left with probability ``coupling * (b + 1) / n_blocks`` per step: different for each block, so that
        the slow timescales are not degenerate. Attribute `blocks` tells the block of each state.

        Examples
        --------
        >>> chain = FiniteMarkovChain.with_blocks(n_blocks=2, states_per_block=3)
        >>> chain.blocks
        array([0, 0, 0, 1, 1, 1])
        """
        n_blocks, size = check_count("n_blocks", n_blocks), check_count("states_per_block", states_per_block)
        if n_blocks * size > MOST_STATES:
            raise ValueError(
                f"n_blocks * states_per_block must be at most {MOST_STATES} states; got {n_blocks * size}."
            )
        if not 0 < coupling < 1:
            raise ValueError(f"coupling must be a probability between 0 and 1, both excluded, got {coupling!r}.")
        rng = np.random.default_rng(check_count("seed", seed, least=0))
        blocks = np.repeat(np.arange(n_blocks), size)
        inside = blocks[:, None] == blocks
        within, between = (rng.uniform(0.1, 1.0, inside.shape) * mask for mask in (inside, ~inside))
        within /= within.sum(axis=1, keepdims=True)
        if n_blocks == 1:
            return cls(within, blocks=blocks)
        between /= between.sum(axis=1, keepdims=True)
        leave = coupling * (blocks[:, None] + 1) / n_blocks
        return cls((1 - leave) * within + leave * between, blocks=blocks)

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.transition_matrix)

    @cached_property
    def embedded_states(self) -> np.ndarray:
        """The point that is emitted for each state, (n_states, n_coordinates)."""
        if isinstance(self.embedding, np.ndarray):
            return self.embedding
        if self.embedding == "one-hot":
            return np.eye(self.n_states)
        if self.embedding == "index":
            return np.arange(self.n_states, dtype=float)[:, None]
        raise ValueError(f"embedding must be 'one-hot', 'index' or an array of points, got {self.embedding!r}.")

    @cached_property
    def stationary_distribution(self) -> np.ndarray:
        """Probability of each state in the long run, (n_states,)."""
        balance = np.vstack([self.transition_matrix.T - np.eye(self.n_states), np.ones(self.n_states)])
        distribution = np.linalg.lstsq(balance, np.eye(self.n_states + 1)[-1])[0]
        return distribution / distribution.sum()

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of the coordinates."""
        return tuple(f"x{i}" for i in range(self.embedded_states.shape[1]))

    def state_indices(self, x: Reals) -> np.ndarray:
        """Index of the state whose point is nearest: (n, n_coordinates) -> (n,).

        Examples
        --------
        >>> FiniteMarkovChain([[0.9, 0.1], [0.3, 0.7]]).state_indices(np.array([[0.2, 0.9]]))
        array([1])
        """
        return cdist(check_states(x, self.embedded_states.shape[1]), self.embedded_states).argmin(axis=1)

    def _draw(self, rng: np.random.Generator, n_trajectories: int, n_steps: int) -> np.ndarray:
        states = run_markov_chain(self.transition_matrix, self.stationary_distribution, rng, n_trajectories, n_steps)
        return self.embedded_states[states]

    def _reference(self, lag: int, n_modes: int) -> ReferenceSpectrum:
        check_rank(n_modes, self.n_states, f"the chain has {self.n_states} states")
        P, root = np.linalg.matrix_power(self.transition_matrix, lag), np.sqrt(self.stationary_distribution)
        U, singular_values, V = svd_constant_first(root[:, None] * P / root, root, root)
        phi, psi = U[:, :n_modes] / root[:, None], V[:, :n_modes] / root[:, None]
        eigenvalues, vectors = np.linalg.eig(P)
        order = eigenvalue_order(eigenvalues)[:n_modes]
        vectors = vectors[:, order] * normalisation(vectors[:, order], self.stationary_distribution).astype(complex)
        return ReferenceSpectrum(
            singular_values=singular_values[:n_modes],
            eigenvalues=eigenvalues[order].astype(complex),
            left=lambda x: phi[self.state_indices(x)],
            right=lambda x: psi[self.state_indices(x)],
            eigenfunctions=lambda x: vectors[self.state_indices(x)],
            points=self.embedded_states,
            weights=self.stationary_distribution,
            clock=self._clock(lag),
            kind="exact",
            resolution=f"dense linear algebra with {self.n_states} states",
        )


def _stochastic(matrix: np.ndarray) -> np.ndarray:
    P = np.array(matrix, dtype=float)
    if P.ndim != 2 or P.shape[0] != P.shape[1] or P.size == 0:
        raise ValueError(f"transition_matrix must be square, got shape {P.shape}.")
    if not (P >= 0).all():
        raise ValueError(f"transition_matrix must have entries of at least 0, the smallest is {P.min()}.")
    sums = P.sum(axis=1)
    worst = np.abs(sums - 1).argmax()
    if abs(sums[worst] - 1) > 1e-8:
        raise ValueError(
            f"transition_matrix must have rows that sum to 1, row {worst} sums to {sums[worst]:.8g}; "
            "divide each row by its sum."
        )
    n_classes, labels = connected_components(P > 0, directed=True, connection="strong")
    if n_classes > 1:
        raise ValueError(
            f"transition_matrix must be irreducible, but its states fall into {n_classes} classes that are not all "
            f"reachable from one another: {labels.tolist()}. Keep one closed class only."
        )
    return P / sums[:, None]


def _check_points(points: np.ndarray, n_states: int) -> None:
    if points.ndim != 2 or len(points) != n_states or not np.isfinite(points).all():
        raise ValueError(
            f"embedding must be a finite array (n_states={n_states}, n_coordinates), got shape {points.shape}."
        )
    if len(np.unique(points, axis=0)) < n_states:
        raise ValueError("embedding gives the same point to several states; give each state its own point.")
