"""Sparse linear stand-ins: what is linear is found with its coordinates, what is not says so by its R^2."""

import warnings

import numpy as np
import pytest

from koopman_lora.surrogate import sparse_surrogate


def test_the_few_coordinates_of_a_linear_function_are_chosen():
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(600, 40)) * np.geomspace(1e-3, 1e3, 40) + 300
        unit = (x - x.mean(axis=0)) / x.std(axis=0)
        values = np.stack([np.ones(600), 3 * unit[:, 7] - 4 * unit[:, 20], unit[:, 3]], axis=1)
        found = sparse_surrogate(values, x)
        assert [np.flatnonzero(c).tolist() for c in found.coefficients.values.T] == [[], [7, 20], [3]]
        assert found.n_chosen.values.tolist() == [0, 2, 1]
        assert found.r2[0] == 0
        assert (found.r2[1:] > 0.97).all()
        np.testing.assert_allclose(found.coefficients.values[[7, 20, 3], [1, 1, 2]], [0.6, -0.8, 1], atol=0.15)


def test_a_product_is_not_linear_but_for_who_gives_products():
    x = np.random.default_rng(0).normal(size=(1000, 5))
    values = x[:, :1] * x[:, 1:2]
    assert sparse_surrogate(values, x).r2[0] < 0.1
    products = np.stack([x[:, i] * x[:, j] for i in range(5) for j in range(i)], axis=1)
    found = sparse_surrogate(values, products)
    assert (found.r2[0], found.n_chosen[0]) > (0.97, 0)
    assert np.flatnonzero(found.coefficients[:, 0]).tolist() == [0]


def test_held_out_stretches_are_not_fooled_by_slow_noise():
    """Random walks that know nothing of each other agree by chance, in the rows that they are fitted to."""
    walks = np.random.default_rng(0).normal(size=(400, 21)).cumsum(axis=0)
    values, x = walks[:, :1], walks[:, 1:]
    fitted = np.linalg.lstsq(x - x.mean(0), values - values.mean(0), rcond=None)[1]
    assert 1 - fitted[0] / (400 * values.var()) > 0.9
    assert sparse_surrogate(values, x).r2[0] < 0.9


def test_of_like_coordinates_a_few_say_it_all():
    """Forty noisy copies of one slow coordinate beside forty others: no other is chosen."""
    rng = np.random.default_rng(0)
    slow = rng.normal(size=(2000, 1)).cumsum(axis=0)
    slow = (slow - slow.mean()) / slow.std()
    x = np.concatenate([slow + 0.3 * rng.normal(size=(2000, 40)), rng.normal(size=(2000, 40))], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sparse_surrogate(slow, x)
    assert found.r2[0] > 0.95
    assert not found.coefficients[40:, 0].any()
    assert found.n_chosen[0] <= 40


X = np.random.default_rng(0).normal(size=(60, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": X * 1j}, "values must be real; give values.real and values.imag"),
        ({"values": X[:, 0]}, r"values must have shape \(n, n\); got \(60,\)"),
        ({"x": X[:50]}, r"x must have shape \(60, n\); got \(50, 2\)"),
        ({"names": ["a"]}, "names must name 2 inputs; got 1"),
        ({"n_folds": 1}, "n_folds must be at least 2; got 1"),
        ({"n_folds": 8}, "values and x must have at least 64 rows for n_folds=8; got 60"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_surrogate(**{"values": X, "x": X} | arguments)
