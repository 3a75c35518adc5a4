from typing import NamedTuple

import numpy as np
import pytest
import torch

from koopman_lora.accumulation import estimate_moments
from koopman_lora.data.groups import block_numbers
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.halves import draw_halves
from koopman_lora.joint_span import MOMENTS, Fits, joint_moments
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import NoisyRotation

ROTATION = NoisyRotation(omega=0.5, noise=0.5)


class Functions(NamedTuple):
    """What is asked of a fitted model: here fixed functions of the state behind the constant."""

    f: object
    g: object
    n_modes: int
    is_reversible: bool = False


def model(*functions):
    def features(x):
        return torch.stack([torch.ones(len(x)), *(h(x) for h in functions)], dim=1)

    return Functions(features, features, 1 + len(functions))


def mixture(a):
    """Cosine and sine of the angle, each with a share `a` of those of twice the angle."""
    return model(lambda x: x[:, 0] + a * (x[:, 0] ** 2 - x[:, 1] ** 2), lambda x: x[:, 1] + 2 * a * x[:, 0] * x[:, 1])


def wave(k):
    return model(lambda x: torch.cos(k * x[:, 0]))


def fits_of(models, pairs, seed=0):
    block = block_numbers(pairs, 20)
    halves = draw_halves(int(block.max()) + 1, len(models) - 1, seed)
    return Fits(models, np.concatenate([np.ones((1, halves.shape[1]), dtype=bool), halves]), block)


@pytest.mark.parametrize("seed", range(2))
def test_what_one_fit_lacks_is_found_in_the_span_of_all(seed):
    """Each mixes two pairs of modes, in shares of its own: together they hold the leading pair as it is."""
    pairs = lagged_pairs(ROTATION.simulate(n_trajectories=2, n_steps=2000, seed=seed))
    shares = np.random.default_rng(seed).normal(scale=0.5, size=9)
    models = [mixture(1.0), *map(mixture, shares)]
    exact = ROTATION.spectrum(lag=1, n_modes=3).singular_values
    found = koopman_spectrum(joint_moments(fits_of(models, pairs, seed), pairs)[1]).canonical_singular_values.values
    alone = koopman_spectrum(estimate_moments(models[0].f, models[0].g, pairs)).canonical_singular_values.values
    assert np.allclose(found, exact, atol=0.02)
    assert (alone < exact - 0.02)[1:].all()


@pytest.mark.slow
def test_in_noise_the_span_of_all_is_rarely_taken():
    """It correlates better than one fit in the pairs that it is solved from, but not in others: 2 of 8 at most."""
    n_taken = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pairs = lagged_pairs(rng.normal(size=301))
        models = [wave(k) for k in rng.uniform(0.5, 5, size=9)]
        n_taken += joint_moments(fits_of(models, pairs, seed), pairs) is not None
    assert n_taken <= 2


def test_fits_that_agree_add_nothing():
    pairs = lagged_pairs(ROTATION.simulate(n_trajectories=1, n_steps=1000, seed=0))
    assert joint_moments(fits_of([mixture(0.0)] * 9, pairs), pairs) is None


def test_where_every_pair_shares_a_frame_with_another_block_nothing_is_judged():
    series = ROTATION.simulate(n_trajectories=1, n_steps=200, seed=0).values[0]
    for pairs in (lagged_pairs(series, lag=20), lagged_pairs((series[:-1], series[1:]))):
        assert joint_moments(fits_of([mixture(a) for a in np.linspace(0, 1, 9)], pairs), pairs) is None


def test_columns_are_those_of_some_fits_behind_the_constant():
    fits = Fits([mixture(a) for a in range(3)], np.ones((3, 2), dtype=bool), np.zeros(1))
    assert fits.columns(np.array([False, True, True])).tolist() == [0, 3, 4, 5, 6]
    assert len(Fits([mixture(0)] * 30, np.ones((30, 2), dtype=bool), np.zeros(1)).at_most(20).models) == 10


def test_moments_are_those_that_a_spectrum_needs():
    pairs = lagged_pairs(ROTATION.simulate(n_trajectories=1, n_steps=1000, seed=0))
    half, moments = joint_moments(fits_of([mixture(a) for a in np.linspace(1, 0, 9)], pairs), pairs)
    assert set(half.names) == set(MOMENTS)
    assert set(moments.names) == set(MOMENTS)
    assert np.allclose(moments.M_f, np.eye(3), atol=1e-8)
    assert np.allclose(moments.M_g, np.eye(3), atol=1e-8)
