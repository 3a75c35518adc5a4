import dataclasses

import numpy as np
import pytest
import scipy.stats

from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.moments import Moments

RNG = np.random.default_rng(0)
MOMENTS = Moments(
    {name: RNG.normal(size=(12, 3, 3)) for name in ("M_f", "M_g", "T_fg")},
    RNG.integers(50, 60, size=12).astype(float),
    orientation_sums=RNG.normal(size=(12, 3)),
)


def test_weights_draw_as_many_blocks_as_there_are():
    weights = Bootstrap(n_resamples=2000, seed=1).weights(10)
    assert (weights.sum(axis=1) == 10).all()
    assert np.allclose(weights.mean(axis=0), 1, atol=0.1)
    assert np.allclose(weights.var(axis=0), 0.9, atol=0.15)  # binomial(10, 1/10)
    assert (weights == Bootstrap(n_resamples=2000, seed=1).weights(10)).all()
    assert (weights != Bootstrap(n_resamples=2000, seed=2).weights(10)).any()


def test_resampled_moments_begin_with_the_data_as_they_are():
    bootstrap = Bootstrap(n_resamples=3, seed=7)
    stack = bootstrap.resampled(MOMENTS)
    drawn = MOMENTS.reweighted(bootstrap.weights(12))
    for name in MOMENTS.names:
        np.testing.assert_allclose(getattr(stack, name)[0], getattr(MOMENTS, name), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(getattr(stack, name)[1:], getattr(drawn, name), rtol=1e-12, atol=1e-14)


def test_percentiles_of_what_may_be_infinite_and_of_complex_values():
    samples = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, np.inf], [4.0, np.inf], [5.0, np.inf]])
    bootstrap = Bootstrap(level=0.9)
    np.testing.assert_array_equal(bootstrap.percentiles(samples), [[1, 1], [5, np.inf]])
    turned = bootstrap.percentiles(samples[:, 0] - 2j * samples[:, 0])
    np.testing.assert_array_equal(turned, [1 - 10j, 5 - 2j])


def test_bias_widens_a_t_interval_to_one_side():
    drawn = np.array([[2.0], [4.0]])
    np.testing.assert_allclose(t_interval(np.array([2.0]), drawn, 2.0), [[2 - 1 - 2], [2 + 2]])
    np.testing.assert_allclose(t_interval(np.array([4.0]), drawn, 2.0), [[4 - 2], [4 + 1 + 2]])
    np.testing.assert_allclose(t_interval(np.exp([3.0]), np.exp(drawn), 2.0, np.log, np.exp), np.exp([[1], [5]]))


def test_a_t_interval_of_large_numbers_is_that_of_small_ones_in_another_unit():
    drawn = np.array([[1.0], [3.0], [8.0]])
    bounds = t_interval(np.array([2.0]), drawn, 2.0)
    np.testing.assert_allclose(t_interval(np.array([2e300]), 1e300 * drawn, 2.0), 1e300 * bounds)


def test_bounds_of_a_t_interval_come_first():
    estimate, drawn = np.array([1.0, 2.0, 3.0]), RNG.normal(size=(50, 3))
    low, high = t_interval(estimate, drawn, 2.0)
    assert low.shape == (3,)
    assert (low < high).all()


@pytest.mark.parametrize("n_blocks", [8, 20, 64])
def test_few_blocks_reach_farther_by_students_t(n_blocks):
    wanted = scipy.stats.t.ppf(0.95, n_blocks - 1) * np.sqrt(n_blocks / (n_blocks - 1))  # two-sided 90 %
    assert Bootstrap(level=0.9).t_factor(n_blocks) == pytest.approx(wanted, rel=1e-9)


def test_t_factor_tends_to_the_normal_quantile():
    assert abs(Bootstrap(level=0.95).t_factor(10**6) - 1.959964) < 1e-4
    assert Bootstrap(level=0.99).t_factor(20) > Bootstrap(level=0.95).t_factor(20) > Bootstrap(level=0.95).t_factor(64)


def test_the_settings_are_attributes_of_what_they_made():
    assert Bootstrap(10, 0.9, 3).attrs() == {"n_resamples": 10, "level": 0.9, "seed": 3}
    assert Bootstrap(**Bootstrap(10, 0.9, 3).attrs()) == Bootstrap(10, 0.9, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Bootstrap().level = 0.5


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, np.nan])
def test_levels_outside_0_and_1_are_refused(level):
    with pytest.raises(ValueError, match=rf"level must lie between 0 and 1; got {level}"):
        Bootstrap(level=level)


@pytest.mark.parametrize("n_resamples", [0, -3])
def test_no_resamples_are_refused(n_resamples):
    with pytest.raises(ValueError, match=f"n_resamples must be at least 1; got {n_resamples}"):
        Bootstrap(n_resamples=n_resamples)


def test_too_few_blocks_are_refused():
    with pytest.raises(ValueError, match=r"at least 2 blocks for a bootstrap; got 1\. Estimate with n_blocks=64"):
        Bootstrap(n_resamples=10).weights(1)
    with pytest.raises(ValueError, match="at least 2 blocks for a bootstrap; got 1"):
        Bootstrap().resampled(MOMENTS.merged(np.zeros(12)))
    with pytest.raises(ValueError, match=r"at least 8 blocks to resample; got 7. Use estimate_moments\(n_blocks=64\)"):
        Bootstrap().t_factor(7)
