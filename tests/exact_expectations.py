"""Exact expectations that several test files share: moments of chains and rotations without sampling error."""

import dataclasses

import numpy as np
import torch
from scipy.special import roots_hermitenorm

from koopman_lora.accumulation import estimate_moments
from koopman_lora.clock import Clock
from koopman_lora.systems import FiniteMarkovChain, NoisyRotation

P_EXAMPLE = np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10
BLOCKS = FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=4, coupling=0.05)


def identity(x):
    return x


def with_one(x):
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def exact_moments(x, x_next, weights, clock=Clock(), **options):
    """Exact expectations: rows are scaled by sqrt(N w), which identity feature maps keep."""
    root = np.sqrt(len(weights) * weights)[:, None]
    pairs = tuple(torch.from_numpy(side * root) for side in (x, x_next))
    moments = estimate_moments(identity, identity, pairs, observables=identity, n_blocks=1, **options)
    return dataclasses.replace(moments, clock=clock)


def exact_chain(P, clock=Clock()):
    chain = FiniteMarkovChain(P)
    n = chain.n_states
    joint = (chain.stationary_distribution[:, None] * chain.transition_matrix).ravel()
    return chain, exact_moments(np.repeat(np.eye(n), n, axis=0), np.tile(np.eye(n), (n, 1)), joint, clock)


def exact_rotation(clock=Clock()):
    system = NoisyRotation(omega=0.7, noise=0.4)
    angle, (noise, weights) = np.arange(24) * 2 * np.pi / 24, roots_hermitenorm(30)
    moved = (angle[:, None] + system.omega + system.noise * noise).ravel()
    angle = np.repeat(angle, 30)
    x, x_next = (with_one(np.stack([np.cos(a), np.sin(a)], axis=1)) for a in (angle, moved))
    return system, exact_moments(x, x_next, np.tile(weights / weights.sum(), 24) / 24, clock)


def exact_chain_moments(chain, chi=None, clock=Clock()):
    """Exact moments of functions chi (n_states, m) of a chain's states; one-hot by default."""
    chi = np.eye(chain.n_states) if chi is None else chi
    n = chain.n_states
    root = np.sqrt(n * n * (chain.stationary_distribution[:, None] * chain.transition_matrix).ravel())[:, None]
    x, x_next = np.repeat(chi, n, axis=0) * root, np.tile(chi, (n, 1)) * root
    moments = estimate_moments(identity, identity, (torch.from_numpy(x), torch.from_numpy(x_next)), n_blocks=1)
    return dataclasses.replace(moments, clock=clock)
