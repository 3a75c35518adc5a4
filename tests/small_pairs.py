"""A few pairs and feature maps of every kind that the tests of moments share."""

import numpy as np
import torch

from koopman_lora.data.pairs import lagged_pairs

RNG = np.random.default_rng(0)
SERIES = [RNG.normal(size=(n, 2)).cumsum(0) / 5 for n in (60, 41, 33)]
PAIRS = lagged_pairs(SERIES, 2)
A_F, A_G = RNG.normal(size=(2, 4)), RNG.normal(size=(2, 3))


def f(x):
    return torch.cat([torch.ones(len(x), 1), torch.tanh(x @ torch.as_tensor(A_F, dtype=x.dtype))], dim=1)


def g(x):
    return torch.cos(x @ torch.as_tensor(A_G, dtype=x.dtype))


def complex_f(x):
    return torch.exp(1j * f(x))


def h(x):
    return x**2


def assert_same(a, b, **tolerance):
    """The same moments, whatever the blocks they are kept in."""
    assert set(a.names) == set(b.names)
    assert a.n_pairs == b.n_pairs
    assert a.clock == b.clock
    for name in a.names:
        assert np.allclose(getattr(a, name), getattr(b, name), **({"rtol": 1e-12, "atol": 1e-14} | tolerance)), name
