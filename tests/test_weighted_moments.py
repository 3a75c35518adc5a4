"""Integer weights equal repeated pairs, and weights of 1 change nothing, in all that is made of moments."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from small_pairs import PAIRS, complex_f, f, g, h

from koopman_lora.accumulation import estimate_moments, flat_state, moments_by_block
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs
from koopman_lora.fitted import FittedMoments
from koopman_lora.importance import input_importance
from koopman_lora.intervals import bootstrap_intervals, unseen_floor
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moment_files import moments_dataset, moments_of_dataset, validation_dataset, validation_of_dataset
from koopman_lora.moments import DEFINITIONS, Moments
from koopman_lora.prediction import forecast_error
from koopman_lora.scores import Validation, vamp_scores
from koopman_lora.selection import select_n_modes
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.states.coarse_graining import macroscopic_model
from koopman_lora.states.metastable_sets import membership_coefficients
from koopman_lora.surrogate import sparse_surrogate
from koopman_lora.training_batches import TrainingBatches

CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def integers(seed, n=PAIRS.n_pairs, most=4):
    weights = np.random.default_rng(seed).integers(0, most, size=n).astype(float)
    weights[:2] = 1, 3  # not all alike
    return weights


def repeated(pairs, weights):
    return pairs.select(np.repeat(np.arange(len(pairs)), weights.astype(int)))


def assert_close(a, b, what="", **tolerance):
    a, b = np.asarray(a), np.asarray(b)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1e-300)
    assert np.allclose(a, b, equal_nan=True, **{"rtol": 1e-12, "atol": 1e-12 * scale, **tolerance}), what


MAPS = [(f, g), (complex_f, g), (lambda x: 1e4 + f(x), g), (f, complex_f)]


@given(
    seed=st.integers(0, 10_000),
    maps=st.sampled_from(range(4)),
    both_ways=st.booleans(),
    n_blocks=st.sampled_from([1, 5, 64]),
    batch_size=st.sampled_from([7, 8192]),
)
def test_integer_weights_equal_repeated_pairs_in_every_moment(seed, maps, both_ways, n_blocks, batch_size):
    weights, pairs = integers(seed), PAIRS.both_ways() if both_ways else PAIRS
    names = [name for name in DEFINITIONS if not name.startswith("H_")]
    how = {"names": names, "observables": h, "n_blocks": n_blocks, "batch_size": batch_size}
    found = estimate_moments(*MAPS[maps], pairs.weighted(weights), **how)
    expected = estimate_moments(*MAPS[maps], repeated(pairs, weights), **how)
    assert set(found.names) == set(DEFINITIONS)
    for name in found.names:
        assert_close(getattr(found, name), getattr(expected, name), name)
    assert found.block_counts.sum() == expected.n_pairs
    assert found.n_pairs == len(PAIRS)
    assert_close(found.covariance("M_f"), expected.covariance("M_f"), rtol=1e-10, atol=1e-9)


@given(seed=st.integers(0, 10_000), n_few=st.sampled_from([1, 3]))
def test_block_sums_and_their_maps_keep_weights(seed, n_few):
    weights = integers(seed)
    block = np.random.default_rng(seed).integers(0, 6, size=len(PAIRS))
    found = moments_by_block(f, g, PAIRS.weighted(weights), block)
    expected = np.bincount(block, weights)
    assert found.block_counts.tolist() == expected.tolist()
    assert found.block_pairs[:, 0].tolist() == np.bincount(block).tolist()
    assert found.block_pairs[:, 1].tolist() == np.bincount(block, weights**2).tolist()
    n_effective = weights.sum() ** 2 / np.sum(weights**2)
    both = found + found
    assert (both.n_pairs, both.n_effective) == (2 * len(PAIRS), pytest.approx(2 * n_effective))
    few = found.selected(np.arange(n_few))
    assert few.n_pairs == np.count_nonzero(block < n_few)
    assert found.merged(np.zeros(6)).n_effective == found.pooled().n_effective == pytest.approx(n_effective)
    assert found.leaving_out().block_pairs.shape == (6, 1, 2)


def test_moments_with_and_without_weights_add():
    weighted, plain = estimate_moments(f, g, PAIRS.weighted(integers(0))), estimate_moments(f, g, PAIRS)
    both = plain + weighted
    assert both.n_pairs == 2 * len(PAIRS)
    expected = (integers(0).sum() + len(PAIRS)) ** 2 / (np.sum(integers(0) ** 2) + len(PAIRS))
    assert both.n_effective == pytest.approx(expected)
    assert (plain + plain).block_pairs is None


def test_tuples_and_loaders_take_weights():
    weights = torch.from_numpy(integers(1))
    expected = estimate_moments(f, g, PAIRS.weighted(integers(1)))
    tuples = estimate_moments(f, g, (PAIRS.x, PAIRS.x_next, weights))
    loader = torch.utils.data.DataLoader(PAIRS.weighted(weights), batch_size=16)
    rows = [slice(i, i + 20) for i in range(0, len(PAIRS), 20)]
    arrays = estimate_moments(f, g, [(PAIRS.x[r].numpy(), PAIRS.x_next[r].numpy(), weights[r].numpy()) for r in rows])
    for found in (tuples, arrays, estimate_moments(f, g, loader)):
        assert found.n_effective == pytest.approx(expected.n_effective)
        for name in expected.names:
            assert_close(getattr(found, name), getattr(expected, name), name)
    streamed = estimate_moments(f, g, loader, n_blocks=2)
    assert (streamed.n_pairs, streamed.n_blocks < 4) == (len(PAIRS), True)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((PAIRS.x, PAIRS.x_next, -torch.ones(len(PAIRS))), "weights must not be negative"),
        ((PAIRS.x, PAIRS.x_next, torch.ones(3)), r"weights must have shape \(\d+,\), one per pair"),
        ([(PAIRS.x, PAIRS.x_next, torch.zeros(len(PAIRS)))], "pairs all have the weight 0"),
        ([(PAIRS.x, PAIRS.x_next, torch.ones(3))], r"weights must have shape \(\d+,\), one per pair"),
    ],
)
def test_weights_that_do_not_fit_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        estimate_moments(f, g, batch)


# ---- weights of 1 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0, 0.1, 7.0])
def test_equal_weights_change_nothing_bitwise(weight):
    weighted, plain = PAIRS.weighted(np.full(len(PAIRS), weight)), PAIRS
    moments = [estimate_moments(f, g, pairs, observables=h) for pairs in (plain, weighted)]
    for name in moments[0].block_sums:
        assert np.array_equal(moments[0].block_sums[name], moments[1].block_sums[name]), name
    xr.testing.assert_identical(*(koopman_spectrum(m).drop_attrs() for m in moments))
    x, x_next = PAIRS.x, PAIRS.x_next
    tuples = [estimate_moments(f, g, (x, x_next, *w)) for w in ((), (np.full(len(PAIRS), weight),))]
    assert np.array_equal(tuples[0].T_fg, tuples[1].T_fg)
    batches = [TrainingBatches(KoopmanLoRAModel(2, 3), pairs, 3, 0) for pairs in (plain, weighted)]
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(next(batches[0]), next(batches[1]), strict=True))


# ---- what is made of moments -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["forward", "both ways"])
def walk(request):
    """A few hundred pairs with weights, and the same repeated."""
    rng = np.random.default_rng(3)
    x = np.zeros((900, 2))
    for t in range(1, 900):
        x[t] = [0.95, 0.7] * x[t - 1] + [0.3, 0.7] * rng.normal(size=2)
    pairs = lagged_pairs(x)
    pairs, weights = pairs.both_ways() if request.param else pairs, integers(5, len(pairs))
    return pairs.weighted(weights), repeated(pairs, weights)


def ones_beside(x):
    return torch.cat([torch.ones(len(x), 1, dtype=x.dtype), x, x**2], dim=1)


def test_spectra_and_scores_are_those_of_repeated_pairs(walk):
    found, expected = (estimate_moments(ones_beside, ones_beside, pairs) for pairs in walk)
    spectra = koopman_spectrum(found), koopman_spectrum(expected)
    for name in ("canonical_singular_values", "singular_values", "eigenvalues", "timescales", "phi_coefficients"):
        assert_close(spectra[0][name], spectra[1][name], name, rtol=1e-9, atol=1e-9)
    assert_close(vamp_scores(found, found), vamp_scores(expected, expected), rtol=1e-12)


def test_validations_are_those_of_repeated_pairs(walk):
    phi = lambda x: ones_beside(x).numpy()  # noqa: E731
    sigma = np.array([1.0, 0.9, 0.6, 0.5, 0.2])
    found, expected = (Validation.of_maps(sigma, phi, phi, pairs) for pairs in walk)
    assert_close(found.scores(), expected.scores())
    assert_close(found.correlations(), expected.correlations())
    assert found.moments.n_pairs == 899
    chosen = [select_n_modes(v, n_shifts=50) for v in (found, expected)]
    for name in ("sigma_held_out", "vamp_e"):
        assert_close(chosen[0][name], chosen[1][name], name, rtol=1e-11)
    saved = validation_of_dataset(validation_dataset(found))
    assert np.array_equal(saved.weights, found.weights)
    assert saved.scores() == found.scores()
    assert np.array_equal(saved.moments.block_pairs, found.moments.block_pairs)


def test_noise_is_still_noise_with_weights():
    """Thresholds for weighted correlations are passed by chance as rarely as they should be, and by real modes."""
    rng, n_found = np.random.default_rng(0), 0
    for _ in range(30):
        series = rng.normal(size=(600, 3))
        pairs = lagged_pairs(series, weights=np.exp(1.5 * series[:, 0]))
        values = np.hstack([np.ones((599, 1)), series[:-1]]), np.hstack([np.ones((599, 1)), series[1:]])
        validation = Validation.of_functions(np.array([1.0, 0.1, 0.1, 0.1]), *values, pairs)
        n_found += int(select_n_modes(validation, n_shifts=500).n_null) > 1
    assert n_found <= 4  # 5 % of 30, and chance
    slow = np.cumsum(rng.normal(size=600)) / 10
    pairs = lagged_pairs(slow, weights=np.exp(np.tanh(slow)))
    values = np.stack([np.ones(599), slow[:-1]], 1), np.stack([np.ones(599), slow[1:]], 1)
    assert select_n_modes(Validation.of_functions(np.array([1.0, 0.5]), *values, pairs)).n_null == 2


def test_saved_moments_keep_weights(walk):
    moments = estimate_moments(ones_beside, ones_beside, walk[0])
    back = moments_of_dataset(moments_dataset(FittedMoments(moments, moments.pooled(), None)))
    assert np.array_equal(back.everywhere.block_pairs, moments.block_pairs)
    assert back.training.n_effective == pytest.approx(moments.n_effective)


def sets(x):
    return torch.nn.functional.one_hot((x[:, 0] > 0).long() + (x[:, 0] > 1).long(), 3).double()


def test_coarse_graining_is_that_of_repeated_pairs(walk):
    found, expected = (macroscopic_model(estimate_moments(sets, sets, pairs), bootstrap=None) for pairs in walk)
    for name in ("transition_matrix", "populations", "counts", "stationary_distribution", "timescales"):
        assert_close(found[name], expected[name], name, rtol=1e-11)


def test_memberships_order_and_shape_states_by_weight(walk):
    weights = 1 + walk[0].weights  # states of weight 0 are among the corners of the simplex all the same
    values = [ones_beside(pairs.x).numpy()[:, :3] for pairs in (walk[0], repeated(walk[0], weights))]
    found = membership_coefficients(values[0], 3, weights=weights)
    assert_close(found, membership_coefficients(values[1], 3), rtol=1e-3, atol=1e-3)  # of a search for the crispest
    rare = np.where(values[0][:, 1] > 0, 1e-3, 1.0)
    ordered = [membership_coefficients(values[0][:, :2], 2, weights=w) for w in (rare, 1 / rare)]
    assert_close(ordered[0], ordered[1][:, ::-1])


def test_intervals_count_effective_pairs(walk):
    weighted = estimate_moments(ones_beside, ones_beside, walk[0])
    floor = unseen_floor(weighted, 0.95)
    assert floor == pytest.approx(0.05 ** (4 / weighted.n_effective))
    low, high = bootstrap_intervals(weighted, bootstrap=Bootstrap(200)).canonical_singular_values_interval.values
    sigma = koopman_spectrum(weighted).canonical_singular_values.values
    assert (low <= sigma + 1e-12).all()
    assert (sigma <= high + 1e-12).all()


def test_importance_is_of_the_weighted_law(walk):
    """Two regimes, of which one reads the first input and the other the second: weights say which of them counts."""
    phi = lambda x: torch.where(x[:, 2:] > 0, x[:, :1], x[:, 1:2])  # noqa: E731
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    pairs = lagged_pairs((x, x + 0.1 * rng.normal(size=x.shape)))
    losses = []
    for weights in (x[:, 2] > 0, x[:, 2] <= 0):
        found = input_importance(phi, phi, pairs.weighted(weights), {"a": [0], "b": [1]}, Bootstrap(50))
        losses.append(found.sigma_loss.values[:, 0])
        assert found.gradient.values[:, 0].argmin() == found.sigma_loss.values[:, 0].argmin()
    assert_close(losses[0][1], 0.0, atol=1e-12)
    assert_close(losses[1][0], 0.0, atol=1e-12)
    assert losses[0][0] > 0.8 < losses[1][1]


def test_importance_without_weight_is_that_without_the_pairs():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 2))
    pairs = lagged_pairs((x, 0.9 * x + 0.1 * rng.normal(size=x.shape)))
    weights = np.repeat([1.0, 0.0], 300)
    identity = lambda x: x  # noqa: E731
    found = input_importance(identity, identity, pairs.weighted(weights), bootstrap=Bootstrap(20))
    expected = input_importance(identity, identity, pairs.select(np.arange(300)), bootstrap=Bootstrap(20))
    assert_close(found.sigma, expected.sigma, rtol=1e-10)
    assert_close(found.gradient, expected.gradient, rtol=1e-10)
    assert_close(found.sigma_loss, expected.sigma_loss, atol=0.1)


def test_surrogates_are_of_the_weighted_law():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(800, 2))
    is_first = np.arange(800) % 2 == 0
    values = np.where(is_first, x[:, 0], x[:, 1])[:, None]
    for column, counts in enumerate((is_first, ~is_first)):
        found = sparse_surrogate(values, x, weights=counts.astype(float))
        assert found.r2.item() > 0.98
        assert (np.flatnonzero(found.coefficients.values[:, 0]) == [column]).all()


def test_simple_forecasts_are_of_the_weighted_law():
    train = PAIRS.weighted(integers(2))
    moments = [estimate_moments(f, f, pairs, observables=flat_state) for pairs in (train, repeated(PAIRS, integers(2)))]
    test = np.random.default_rng(0).normal(size=(30, 2))
    found = forecast_error(moments[0], f, train, test, [1, 2])
    expected = forecast_error(moments[1], f, repeated(PAIRS, integers(2)), test, [1, 2])
    assert_close(found.rmse, expected.rmse, rtol=1e-8)
    assert_close(found.relative_rmse, expected.relative_rmse, rtol=1e-8)


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_pass_draws_pairs_as_often_as_their_weights_say(both_ways):
    x = np.arange(50.0)
    pairs = lagged_pairs((x, x), weights=integers(4, 50))
    pairs = pairs.both_ways() if both_ways else pairs
    batches = TrainingBatches(KoopmanLoRAModel(1, 3), pairs, steps_per_pass=4, seed=0)
    share = 50 * pairs.weights / pairs.weights.sum()
    totals = np.zeros(50)
    for _ in range(200):
        drawn = torch.cat([next(batches)[0] for _ in range(4)])[:, 0].numpy()
        seen = np.bincount(drawn.round().astype(int), minlength=50)
        assert seen.sum() == 50
        assert (np.abs(seen - share) < 1).all()
        totals += seen
    assert np.abs(totals / 200 - share).max() < 0.1
    assert (totals[pairs.weights == 0] == 0).all()


def test_batches_with_weights_go_on_where_they_were():
    pairs, model = PAIRS.weighted(integers(0)), KoopmanLoRAModel(2, 3)
    batches = TrainingBatches(model, pairs, steps_per_pass=5, seed=1)
    for _ in range(7):
        next(batches)
    state = batches.state()
    expected = [next(batches) for _ in range(6)]
    other = TrainingBatches(model, pairs, steps_per_pass=5, seed=2)
    other.restore(state)
    for batch in expected:
        assert all(torch.equal(a, b) for a, b in zip(batch, next(other), strict=True))


def test_an_old_form_of_moments_has_no_weights():
    assert Moments({"M_f": np.ones((2, 1, 1))}, np.array([3.0, 1.0])).n_effective == 4
    assert split_pairs(PAIRS, 0.3).training.n_effective == len(split_pairs(PAIRS, 0.3).training)
