"""Weights per frame, pair or trajectory become one number for each pair, and travel with it."""

import numpy as np
import pytest
import torch
import xarray as xr

from koopman_lora.data.health import data_health
from koopman_lora.data.health_findings import health_findings
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.scales import standardization
from koopman_lora.data.splits import split_pairs
from koopman_lora.data.weights import effective_number

LONG, SHORT = np.arange(5.0), np.arange(10.0, 13.0)


@pytest.mark.parametrize(
    ("data", "weights", "expected"),
    [
        (LONG, [5, 4, 3, 2, 1], [5, 4, 3]),
        (LONG, torch.tensor([5.0, 4, 3, 2, 1]), [5, 4, 3]),
        ([LONG], [np.array([5, 4, 3, 2, 1])], [5, 4, 3]),
        ([LONG, SHORT], [np.array([5, 4, 3, 2, 1]), [7, 8, 9]], [5, 4, 3, 7]),
        ([LONG, SHORT], [2, 1], [2, 2, 2, 1]),
        ([LONG, SHORT], np.array([2.0, 1.0]), [2, 2, 2, 1]),
        ([LONG, SHORT], [2, np.array([7, 8, 9])], [2, 2, 2, 7]),
    ],
)
def test_the_weight_of_a_pair_is_that_of_its_first_frame(data, weights, expected):
    assert lagged_pairs(data, lag=2, weights=weights).weights.tolist() == expected


@pytest.mark.parametrize("dims", [("trajectory", "time"), ("time", "trajectory")])
def test_labelled_weights_have_the_form_of_labelled_data(dims):
    data = xr.DataArray(np.arange(12.0).reshape(2, 3, 2), dims=("trajectory", "time", "coordinate"))
    weights = xr.DataArray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dims=("trajectory", "time")).transpose(*dims)
    assert lagged_pairs(data, weights=weights).weights.tolist() == [1, 2, 4, 5]
    assert lagged_pairs(data, weights=[3, 1]).weights.tolist() == [3, 3, 1, 1]
    assert lagged_pairs([data], weights=[weights.transpose("trajectory", "time")]).weights.tolist() == [1, 2, 4, 5]
    one = lagged_pairs(data[0], weights=weights.transpose("trajectory", "time")[0])
    assert one.weights.tolist() == [1, 2]


def test_explicit_pairs_take_one_weight_each():
    x = np.arange(3.0)
    assert lagged_pairs((x, x + 1), weights=[1, 0, 2]).weights.tolist() == [1, 0, 2]
    assert lagged_pairs(lagged_pairs((x, x + 1)), weights=[1, 0, 2]).weights.tolist() == [1, 0, 2]


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.3, 0.3, 0.3], torch.full((3,), 7.0)])
def test_equal_weights_are_none(weights):
    x = np.arange(3.0)
    assert lagged_pairs((x, x + 1), weights=weights).weights is None


@pytest.mark.parametrize(
    ("data", "weights", "message"),
    [
        ((SHORT, SHORT), [1, 2], r"weights must have shape \(3,\), one per pair; got \(2,\)"),
        ((SHORT, SHORT), [1, -2, 3], r"weights must not be negative; got -2 for pair 1, 1 such pairs"),
        ((SHORT, SHORT), [1, np.nan, 3], "weights must be finite"),
        ((SHORT, SHORT), [0, 0, 0], "weights must not all be zero"),
        ([LONG, SHORT], [1, 2, 3], "weights must be given for each of 2 trajectories; got 3"),
        ([LONG, SHORT], [1, np.array([1, 2])], r"weights of trajectory 1 must be one number, or have shape \(3,\)"),
        ([LONG, SHORT], 3.0, "weights must be a list or an array, one entry per trajectory; got 3.0"),
        (LONG, [1, 2], r"weights of trajectory 0 must be one number, or have shape \(5,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(data, weights, message):
    with pytest.raises(ValueError, match=message):
        lagged_pairs(data, weights=weights)


def test_complex_weights_are_refused():
    with pytest.raises(TypeError, match="weights must be an array of real numbers"):
        lagged_pairs((SHORT, SHORT), weights=[1j, 2, 3])


WEIGHTED = lagged_pairs(np.random.default_rng(0).normal(size=(200, 2)).cumsum(0), weights=np.arange(200.0))


def test_weights_travel_with_the_pairs():
    assert WEIGHTED.select([3, 5]).weights.tolist() == [3, 5]
    assert WEIGHTED.both_ways().weights is WEIGHTED.weights
    split = split_pairs(WEIGHTED, 0.2)
    assert split.training.weights.tolist() == split.training.frame.tolist()
    assert split.held_out.weights.tolist() == split.held_out.frame.tolist()
    _, x_next, weight = WEIGHTED[7]
    assert (weight, x_next.tolist()) == (7.0, WEIGHTED.x_next[7].tolist())
    assert [len(batch) for batch in WEIGHTED.batches(100)] == [3, 3]
    assert "weighted as 149" in repr(WEIGHTED)


def test_a_fingerprint_knows_weights_and_only_their_presence_changes_it():
    plain = lagged_pairs(np.arange(5.0))
    assert plain.fingerprint() == plain.weighted(np.full(4, 3.0)).fingerprint()
    others = [plain.weighted(weights).fingerprint() for weights in ([1, 2, 3, 4], [1, 2, 3, 5])]
    assert len({plain.fingerprint(), *others}) == 3


def test_effective_number_is_that_of_equal_weights():
    assert effective_number(np.full(10, 1e-200), 10) == pytest.approx(10)
    assert effective_number(np.r_[np.ones(4), np.zeros(6)], 10) == pytest.approx(4)
    assert WEIGHTED.n_effective == pytest.approx(np.arange(199.0).sum() ** 2 / np.sum(np.arange(199.0) ** 2))


def test_a_split_without_weight_on_one_side_is_refused():
    weights = np.zeros(199)
    weights[0] = 1.0
    with pytest.raises(ValueError, match="leaves pairs of weight 0 alone on one side"):
        split_pairs(WEIGHTED.weighted(weights), 0.2)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 2)], ids=["vector", "image", "channels"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_integer_weights_standardise_as_repeated_pairs(shape, scale):
    rng = np.random.default_rng(1)
    data = scale * (rng.normal(size=(60, *shape)) + 3)
    weights = rng.integers(0, 4, size=59)
    pairs = lagged_pairs((data[:-1], data[1:]))
    found = standardization(pairs.weighted(weights))
    expected = standardization(pairs.select(np.repeat(np.arange(59), weights)))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=0)


def test_an_outlier_of_weight_zero_is_no_outlier():
    data = np.random.default_rng(0).normal(size=(500, 1))
    data[100] = 1e9
    pairs = lagged_pairs((data[:-1], data[1:]))
    with pytest.raises(ValueError, match="outlier"):
        standardization(pairs)
    weights = np.ones(499)
    weights[[99, 100]] = 0.0
    mean, scale = standardization(pairs.weighted(weights))
    assert abs(float(mean)) < 0.2
    assert abs(float(scale) - 1) < 0.1


def test_health_tells_where_few_pairs_count():
    data = np.random.default_rng(0).normal(size=(1000, 1))
    pairs = lagged_pairs(data, weights=np.r_[np.full(20, 1.0), np.full(980, 1e-4)])
    health = data_health(pairs)
    assert health.attrs["n_effective"] == pytest.approx(pairs.n_effective)
    (finding,) = [found for found in health_findings(health) if found.name == "few pairs count"]
    assert "weights leave 20 of 999 pairs" in finding.message
    assert "few pairs count" not in [found.name for found in health_findings(data_health(data))]
