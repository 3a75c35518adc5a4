"""Losses of functions whose shares of variance are known; the groups, the gradients, the refusals."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.importance import functions_of, input_importance

A = 0.8
FEW = Bootstrap(n_resamples=200)


def series(seed, n_coordinates=2, a=A, n=4000):
    """Independent AR(1) of unit variance: each is a singular function with sigma = a."""
    noise = np.random.default_rng(seed).normal(size=(n, n_coordinates))
    noise[1:] *= np.sqrt(1 - a**2)
    return lfilter([1], [1, -a], noise, axis=0)


def functions(x):
    """1, an additive one, a product and a square: sigma is 1, a, a^2, a^2."""
    one, u, v = torch.ones_like(x[:, 0]), x[:, 0], x[:, 1]
    return torch.stack([one, 0.6 * u + 0.8 * v, u * v, (u**2 - 1) / 2**0.5], dim=1)


# total Sobol indices times sigma, (input, mode); the third input is read by none
EXACT = np.array([[0, 0.36 * A, A**2, A**2], [0, 0.64 * A, A**2, 0], [0, 0, 0, 0]])


def test_the_loss_is_sigma_times_the_total_sobol_index():
    for seed in range(3):
        found = input_importance(functions, functions, lagged_pairs(series(seed, 3)), bootstrap=FEW)
        np.testing.assert_allclose(found.sigma_loss, EXACT, atol=0.1)
        np.testing.assert_allclose(found.sigma, [1, A, A**2, A**2], atol=0.1)
        np.testing.assert_allclose(found.total_sigma_loss, found.sigma_loss.sum("mode"), atol=1e-12)
        assert np.abs(found.sigma_loss[2]).max() < 1e-12  # no noise: the functions do not read it


def test_of_many_inputs_those_with_the_largest_gradients_are_permuted():
    pairs = lagged_pairs(np.concatenate([series(1, 40), series(0, 2)], axis=1))

    def of_the_last_two(x):
        return functions(x[:, 40:])

    found = input_importance(of_the_last_two, of_the_last_two, pairs, bootstrap=FEW, n_inputs=2)
    assert found.input.values.tolist() == [40, 41]
    assert found.attrs["n_left_out"] == 40
    np.testing.assert_allclose(found.sigma_loss, EXACT[:2], atol=0.1)
    groups = {f"pair {i}": [2 * i, 2 * i + 1] for i in range(21)}
    grouped = input_importance(of_the_last_two, of_the_last_two, pairs, groups, FEW, n_inputs=1)
    assert grouped.input.values.tolist() == ["pair 20"]
    assert input_importance(of_the_last_two, of_the_last_two, pairs, bootstrap=FEW).attrs["n_left_out"] == 0


def test_intervals_hold_the_exact_losses():
    """Of 20 seeds and five losses that are not 0; at a coverage of .95 fewer than 85 come once in a million."""
    inside = []
    for seed in range(20):
        found = input_importance(
            functions, functions, lagged_pairs(series(seed, 2)), bootstrap=Bootstrap(200, seed=seed), n_permutations=2
        )
        lower, upper = found.sigma_loss_interval.values
        inside.append(((lower <= EXACT[:2]) & (EXACT[:2] <= upper))[EXACT[:2] > 0])
        total = found.total_sigma_loss_interval.values
        assert (total[0] < found.total_sigma_loss).all()
        assert (found.total_sigma_loss < total[1]).all()
    assert np.sum(inside) >= 85


def test_copies_share_a_loss_and_a_group_shows_it():
    x = series(0, 1)
    pairs = lagged_pairs(np.concatenate([x, x, series(1, 1)], axis=1))

    def mean_of_copies(x):
        return x[:, :2].mean(dim=1, keepdim=True)

    alone = input_importance(mean_of_copies, mean_of_copies, pairs, bootstrap=FEW)
    # half of the function stays right: a correlation of 1 / sqrt(2) with what it was
    np.testing.assert_allclose(alone.sigma_loss[:2, 0], A * (1 - 0.5**0.5), atol=0.05)
    grouped = input_importance(mean_of_copies, mean_of_copies, pairs, {"copies": [0, 1], "noise": [2]}, FEW)
    np.testing.assert_allclose(grouped.sigma_loss[:, 0], [A, 0], atol=0.05)
    assert grouped.input.values.tolist() == ["copies", "noise"]
    # a gradient of 1/2 along each; a group has the root of the sum of their squares
    np.testing.assert_allclose(alone.gradient[:, 0], [0.5, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(grouped.gradient[:, 0], [0.5**0.5, 0], atol=1e-6)


def test_gradients_of_known_functions():
    x = series(0, 2)
    found = input_importance(functions, functions, lagged_pairs(x), bootstrap=FEW)
    u, v = x[:-1].T
    exact = [
        [0, 0.6 * u.std() / (0.6 * u + 0.8 * v).std(), np.sqrt(np.mean(v**2)) * u.std() / (u * v).std(), 0],
        [0, 0.8 * v.std() / (0.6 * u + 0.8 * v).std(), np.sqrt(np.mean(u**2)) * v.std() / (u * v).std(), 0],
    ]
    exact[0][3] = 2 * np.sqrt(np.mean(u**2)) * u.std() / (u**2).std()
    np.testing.assert_allclose(found.gradient, exact, rtol=1e-9, atol=1e-12)


def test_steps_have_losses_but_no_gradient():
    def step(x):
        return (x[:, :1] > 0).double()

    found = input_importance(step, step, lagged_pairs(series(0)), bootstrap=FEW, n_inputs=1)
    assert "gradient" not in found
    assert found.sizes["input"] == 2  # nothing says which to leave out
    np.testing.assert_allclose(found.sigma_loss[:, 0], [2 / np.pi * np.arcsin(A), 0], atol=0.05)


def test_complex_functions():
    """z = exp(i angle) of a rotation by .5 with noise, and the same with its phase turned back."""
    angle = np.cumsum(0.5 + 0.4 * np.random.default_rng(0).normal(size=5000))
    pairs = lagged_pairs(np.stack([angle % (2 * np.pi), series(1, 1, n=5000)[:, 0]], axis=1))

    def turn(phase):
        return lambda x: torch.exp(1j * (x[:, :1] + phase))

    found = input_importance(turn(0.0), turn(-0.5), pairs, bootstrap=FEW)
    sigma = np.exp(-(0.4**2) / 2)
    np.testing.assert_allclose(found.sigma_loss[:, 0], [sigma, 0], atol=0.05)
    deviation = pairs.x[:, 0].std(correction=0)  # |d z / d angle| is 1, and so is the deviation of z
    np.testing.assert_allclose(found.gradient[:, 0], [deviation, 0], rtol=2e-3, atol=1e-12)


def test_units_shifts_and_scales_change_nothing():
    x = series(0)
    other = lagged_pairs(x * [1e3, 1e-3] + [300, 0])

    def scaled(x):
        return 7 * functions((x - torch.tensor([300, 0])) / torch.tensor([1e3, 1e-3]).double())

    a = input_importance(functions, functions, lagged_pairs(x), bootstrap=FEW)
    b = input_importance(scaled, scaled, other, bootstrap=FEW)
    for name in ("sigma_loss", "sigma_loss_interval", "gradient", "sigma"):
        np.testing.assert_allclose(b[name], a[name], atol=1e-6)


def test_pairs_that_count_both_ways_know_no_direction_of_time():
    def early(x):  # of x alone in one direction, of x' in the other
        return x[:, :1]

    x = series(0)
    there = input_importance(early, early, lagged_pairs(x).both_ways(), bootstrap=FEW)
    back = input_importance(early, early, lagged_pairs(x[::-1].copy()).both_ways(), bootstrap=FEW)
    np.testing.assert_allclose(there.sigma, back.sigma, atol=1e-12)
    np.testing.assert_allclose(there.sigma_loss, back.sigma_loss, atol=0.05)


def test_few_of_many_pairs_are_drawn_and_left_as_they_were():
    pairs = lagged_pairs(series(0, n=6000))
    before = pairs.x.clone()
    found = input_importance(functions, functions, pairs, bootstrap=FEW, n_pairs=1000)
    assert (found.attrs["n_pairs"], len(pairs)) == (1000, 5999)
    np.testing.assert_allclose(found.sigma_loss, EXACT[:2], atol=0.15)
    input_importance(functions, functions, pairs, bootstrap=FEW, n_pairs=6000)
    assert torch.equal(pairs.x, before)
    again = input_importance(functions, functions, pairs, bootstrap=FEW, n_pairs=1000)
    assert again.sigma_loss.equals(found.sigma_loss)


def test_parts_of_images_are_groups():
    """A bright half that flickers beside a constant one."""
    level = series(0, 1)[:, 0]
    images = np.ones((len(level), 2, 2)) * np.array([[1.0, 1.0], [0.0, 0.0]]) * level[:, None, None]
    images[:, 1] = np.random.default_rng(1).normal(size=(len(level), 2))

    def brightness(x):
        return x[:, 0].mean(dim=1, keepdim=True)

    top = np.array([[True, True], [False, False]])
    groups = {"top": top, "bottom": ~top, "a pixel": [3]}
    found = input_importance(brightness, brightness, lagged_pairs(images), groups, FEW)
    np.testing.assert_allclose(found.sigma_loss[:, 0], [A, 0, 0], atol=0.05)


def test_functions_on_features_can_be_differentiated():
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    made = functions_of(lambda x: torch.complex(x, x), np.array([[1.0], [2.0]]))(x)
    made.real.sum().backward()
    assert made.detach().tolist() == [[5 + 5j]]
    assert x.grad.tolist() == [[1, 2]]


def test_a_fit_reads_the_driver_and_not_the_noise():
    noise = np.random.default_rng(0).normal(size=(3000, 4))
    data = np.concatenate([noise[:, :2], series(0, 1, a=0.95, n=3000), noise[:, 2:]], axis=1)
    estimator = KoopmanLoRA(2, hidden_dims=(16,), n_epochs=2).fit(data)
    everything = estimator.input_importance(bootstrap=FEW)
    found, nuisance = everything.sel(mode=2), [0, 1, 3, 4]
    lower, upper = found.sigma_loss_interval.values
    assert lower[2] > 0.8 > 0.1 > upper[nuisance].max()
    assert found.gradient[2] > 0.9 > 0.3 > found.gradient[nuisance].max()
    assert np.allclose(everything.sigma, estimator.spectrum_.canonical_singular_values, atol=1e-4)
    assert not everything.sel(mode=1).sigma_loss.any()  # the constant has nothing to lose


@pytest.mark.slow
def test_an_angle_is_permuted_as_it_is_and_is_linear_in_its_cosine_and_sine():
    rng = np.random.default_rng(0)
    angle = np.cumsum(0.3 * rng.normal(size=3000))
    data = np.stack([angle % (2 * np.pi), rng.normal(size=3000)], axis=1)
    estimator = KoopmanLoRA(3, hidden_dims=(16,), n_epochs=2, periodic=[0]).fit(data)
    found = estimator.input_importance(bootstrap=FEW)
    np.testing.assert_allclose(found.sigma_loss[:, 1:], [[np.exp(-0.045)] * 2, [0, 0]], atol=0.1)
    assert (estimator.sparse_surrogate().r2[1:] < 0.8).any()  # of the raw angle

    def turns(x):
        return torch.stack([x[:, 0].cos(), x[:, 0].sin(), x[:, 1]], dim=1)

    linear = estimator.sparse_surrogate(turns)
    assert (linear.r2[1:] > 0.95).all()
    assert not linear.coefficients[2].any()
    assert linear.input.values.tolist() == [0, 1, 2]


PAIRS = lagged_pairs(series(0, n=300))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": {}}, "groups must name at least one group of inputs; got none"),
        ({"groups": {"a": []}}, r"groups\['a'\] must hold at least one input; got none"),
        ({"groups": {"a": [2]}}, r"groups\['a'\] must hold names, or positions from 0 to 1; got 2"),
        ({"groups": {"a": [True]}}, r"groups\['a'\] must hold names, or positions from 0 to 1; got True"),
        ({"groups": {"a": "x"}}, r"groups\['a'\] names no coordinate: 'x'; the data have no names; give positions"),
        (
            {"groups": {"a": 0.5}},
            r"groups\['a'\] must be names, positions, or a mask \(2,\) of True and False; got 0.5",
        ),
        ({"groups": {1: [0]}}, "groups must have names that are texts; got 1"),
        ({"groups": [0]}, "groups must be a Mapping; got"),
        ({"n_pairs": 0}, "n_pairs must be at least 1; got 0"),
        ({"n_permutations": 2000}, "n_permutations must be at most 1000; got 2000"),
        ({"pairs": PAIRS.select(np.arange(5))}, "pairs must be at least 8 for intervals; got 5"),
        ({"pairs": lagged_pairs(np.random.default_rng(0).normal(size=(50, 3, 3)))}, r"groups must be given for states"),
        ({"phi": lambda x: x.numpy()}, "phi must map the states of pairs to torch tensors; got an array"),
        ({"psi": lambda x: x[:, :1]}, r"phi and psi must have as many modes; got \(299, 2\) and \(299, 1\)"),
        ({"psi": lambda x: x * np.nan}, "values of psi must be finite"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    def states(x):
        return x.flatten(1)

    with pytest.raises((ValueError, TypeError), match=message):
        input_importance(**{"phi": states, "psi": states, "pairs": PAIRS, "bootstrap": FEW} | arguments)
