import dataclasses

import numpy as np
import pytest
import torch
from exact_expectations import exact_chain
from hypothesis import given
from hypothesis import strategies as st
from small_pairs import PAIRS, assert_same, complex_f, f, g, h

from koopman_lora.accumulation import estimate_moments, moments_by_block
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.moments import CROSS, DEFINITIONS, EDMD, MissingMomentError, Moments
from koopman_lora.prediction import forecast
from koopman_lora.scores import vamp_scores

WHOLE = estimate_moments(complex_f, g, PAIRS, observables=h, observable_names=["a", "b"], n_blocks=6)
rng_kinds = st.sampled_from(["real", "complex"])


def draw(rng, kind, *shape):
    return rng.normal(size=shape) + (1j * rng.normal(size=shape) if kind == "complex" else 0)


def rows_of(f, g, n_blocks):
    """Maps that look a row up, and pairs of row numbers: moments of any arrays of features."""
    rows = torch.arange(len(f))[:, None]
    maps = (lambda i: f[i[:, 0].numpy()], lambda i: g[i[:, 0].numpy()])
    return estimate_moments(*maps, (rows, rows), n_blocks=n_blocks)


# ---- what moments know -----------------------------------------------------------------------------------------------


def test_counts_do_not_lose_pairs():
    """Sums and counts in float32 stop growing at 2^24."""
    sums = {"M_f": np.full((2, 1, 1), 2.0**24 + 1)}
    assert Moments(sums, np.array([2.0**24 + 1, 2.0**24])).n_pairs == 2**25 + 1


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("T_ff", "estimate them with names=None, or with it among the names"),
        ("H_g", "estimate them with observables=h"),
    ],
)
def test_a_missing_moment_is_a_value_error_and_an_attribute_error_and_says_how(name, remedy):
    moments = estimate_moments(f, g, PAIRS, names=CROSS)
    assert name not in moments
    assert "M_f" in moments
    message = f"moments lack {name}, they hold M_f, M_g, T_fg; {remedy}"
    for kind in (ValueError, AttributeError, MissingMomentError):
        with pytest.raises(kind, match=message):
            getattr(moments, name)


def test_a_name_that_is_no_moment_is_an_attribute_error_only():
    with pytest.raises(AttributeError, match="Moments has no attribute 'M_x'") as caught:
        _ = WHOLE.M_x
    assert not isinstance(caught.value, ValueError)
    assert not hasattr(WHOLE, "M_x")


@pytest.mark.parametrize("n_resamples", [0, 1000])
def test_printed_moments_fit_a_screen(n_resamples):
    moments = Moments(
        {name: np.zeros((64, 100, 100)) for name in DEFINITIONS}, np.full(64, 1e6), Clock(10, 0.5, "nanoseconds")
    )
    if n_resamples:
        moments = Moments({n: np.zeros((n_resamples, 1, 2, 2)) for n in DEFINITIONS}, np.ones((n_resamples, 1)))
    text = str(moments)
    assert len(text) <= 300
    assert "\n" not in text
    for name in DEFINITIONS:
        assert name in text
    assert ("1000 resamples" in text) == bool(n_resamples)
    if not n_resamples:
        assert "T_ff 100x100" in text
        assert "64000000 pairs in 64 blocks" in text
        assert "Clock(lag=10, dt=0.5, time_unit='nanoseconds')" in text


# ---- adding ----------------------------------------------------------------------------------------------------------


def test_only_like_moments_add():
    with pytest.raises(ValueError, match="moments to add must hold the same names"):
        estimate_moments(f, g, PAIRS) + estimate_moments(f, g, PAIRS, names=CROSS)
    with pytest.raises(TypeError):
        estimate_moments(f, g, PAIRS) + 1


def test_moments_of_two_clocks_do_not_add():
    one, two = (dataclasses.replace(WHOLE, clock=clock) for clock in (Clock(2, 0.5, "ns"), Clock(3, 0.5, "ns")))
    with pytest.raises(ValueError, match="clocks must be one and the same to add or compare") as caught:
        one + two
    for clock in (one.clock, two.clock):
        assert str(clock) in str(caught.value)
    assert (one + one).clock == one.clock


def test_moments_of_other_observables_do_not_add():
    renamed = dataclasses.replace(WHOLE, observable_names=("a", "c"))
    with pytest.raises(ValueError, match=r"the same observables; got \('a', 'b'\) and \('a', 'c'\)"):
        WHOLE + renamed


def test_a_sum_keeps_the_orientation_only_where_both_parts_have_one():
    both = WHOLE + WHOLE
    assert both.orientation_sums.shape == (2 * WHOLE.n_blocks, 5)
    assert (WHOLE + dataclasses.replace(WHOLE, orientation_sums=None)).orientation_sums is None


# ---- blocks ----------------------------------------------------------------------------------------------------------


def test_selected_blocks_are_the_moments_of_their_pairs():
    block = np.arange(len(PAIRS)) % 4
    moments = moments_by_block(complex_f, g, PAIRS, block, observables=h)
    for chosen, kept in ((np.array([0, 2]), [0, 2]), (np.array([True, True, False, True]), [0, 1, 3])):
        direct = estimate_moments(complex_f, g, PAIRS.select(np.isin(block, kept)), observables=h)
        assert_same(moments.selected(chosen), direct)
        assert moments.selected(chosen).n_blocks == len(kept)


def test_merged_blocks_are_the_moments_of_the_pairs_of_each_label():
    block = np.arange(len(PAIRS)) % 4
    labels = np.array([7, 3, 7, 3])  # in the order of the labels: blocks 1 and 3 first
    merged = moments_by_block(complex_f, g, PAIRS, block, observables=h).merged(labels)
    direct = moments_by_block(complex_f, g, PAIRS, labels[block], observables=h).about(merged.shifts)
    assert merged.n_blocks == 2
    assert np.array_equal(merged.block_counts, direct.block_counts)
    for name in merged.names:
        assert np.allclose(merged.block_sums[name], direct.block_sums[name], rtol=1e-12, atol=1e-12), name
    assert_same(merged, estimate_moments(complex_f, g, PAIRS, observables=h))


def test_clock_and_names_of_observables_travel_through_every_map_of_moments():
    clock = Clock(4, 0.5, "ns")
    start = dataclasses.replace(WHOLE, clock=clock)
    k_f, k_g = len(start.M_f), len(start.M_g)
    results = {
        "+": start + start,
        "selected": start.selected(np.arange(3)),
        "merged": start.merged(np.zeros(start.n_blocks)),
        "reweighted": start.reweighted(np.ones((2, start.n_blocks))),
        "leaving_out": start.leaving_out(),
        "transformed": start.transformed(np.eye(k_f), np.eye(k_g)),
        "time_reversed": start.time_reversed(),
        "symmetrised": start.symmetrised(),
        "of_g_only": start.of_g_only(),
    }
    for name, result in results.items():
        assert result.clock == clock, name
        assert result.observable_names == ("a", "b"), name


# ---- a leading axis --------------------------------------------------------------------------------------------------


def test_weights_of_one_give_the_means_and_counts_repeat_blocks():
    weights = np.ones((2, WHOLE.n_blocks))
    weights[1] = np.arange(WHOLE.n_blocks)
    result = WHOLE.reweighted(weights)
    repeated = WHOLE.selected(np.repeat(np.arange(WHOLE.n_blocks), np.arange(WHOLE.n_blocks)))
    for name in WHOLE.names:
        assert np.allclose(getattr(result, name)[0], getattr(WHOLE, name), rtol=1e-13)
        assert np.allclose(getattr(result, name)[1], getattr(repeated, name), rtol=1e-13)


@given(seed=st.integers(0, 500), kind=rng_kinds)
def test_reweighting_blocks_is_recomputing_from_the_data_resampled(seed, kind):
    rng = np.random.default_rng(seed)
    f, g = draw(rng, kind, 2, 24, 3)
    weights = Bootstrap(n_resamples=3, seed=seed).weights(6)
    resampled = rows_of(f, g, 6).reweighted(weights)
    assert resampled.block_counts.shape == (3, 1)
    for i, weight in enumerate(weights):
        drawn = np.concatenate([np.arange(4 * b, 4 * b + 4) for b, count in enumerate(weight) for _ in range(count)])
        direct = rows_of(f[drawn], g[drawn], 1)
        for name in ("M_f", "M_g", "T_fg", "T_ff", "M_f1", "C_gf"):
            assert np.allclose(getattr(resampled, name)[i], getattr(direct, name), rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 500), kind=rng_kinds)
def test_leaving_out_is_recomputing_without_each_block_in_turn(seed, kind):
    rng = np.random.default_rng(seed)
    f, g = draw(rng, kind, 2, 24, 3)
    stack = rows_of(f, g, 6).leaving_out()
    for block in range(6):
        kept = np.arange(24) // 4 != block
        direct = rows_of(f[kept], g[kept], 1)
        for name in direct.names:
            assert np.allclose(getattr(stack, name)[block], getattr(direct, name), rtol=1e-12, atol=1e-12), name


@given(seed=st.integers(0, 500), kind=rng_kinds)
def test_a_stack_transforms_as_its_members_do(seed, kind):
    rng = np.random.default_rng(seed)
    A, B = draw(rng, kind, 5, 4), draw(rng, kind, 3, 2)
    weights = Bootstrap(n_resamples=3, seed=seed).weights(WHOLE.n_blocks)
    before, after = WHOLE.reweighted(weights).transformed(A, B), WHOLE.transformed(A, B).reweighted(weights)
    assert before.M_f.shape == (3, 4, 4)
    assert before.H_g.shape == (3, 2, 2)
    for name in before.names:
        assert np.allclose(getattr(before, name), getattr(after, name), rtol=1e-11, atol=1e-11), name
    assert np.allclose(before.orientation_sums, after.orientation_sums, rtol=1e-11, atol=1e-11)


# ---- maps of features ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(seed=st.integers(0, 1000), is_complex=st.booleans(), width=st.integers(1, 6))
def test_transformed_moments_are_those_of_transformed_features(seed, is_complex, width):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(5, width)), rng.normal(size=(3, 3))
    if is_complex:
        A, B = A + 1j * rng.normal(size=A.shape), B + 1j * rng.normal(size=B.shape)
    left = complex_f if is_complex else f
    direct = estimate_moments(lambda x: left(x).numpy() @ A, lambda x: g(x).numpy() @ B, PAIRS, observables=h)
    transformed = estimate_moments(left, g, PAIRS, observables=h).transformed(A, B)
    assert_same(transformed, direct, atol=1e-11)
    assert np.allclose(transformed.orientation_sums, direct.orientation_sums, atol=1e-11)


def test_phases_turn_functions_real_positive_far_out_and_by_their_largest_coefficient_without_states():
    rng = np.random.default_rng(0)
    coefficients = draw(rng, "complex", 5, 4)
    turned = coefficients * WHOLE.phases(coefficients)
    mean = WHOLE.orientation_sums.sum(axis=0) @ turned
    assert np.allclose(mean.imag, 0, atol=1e-10)
    assert (mean.real > 0).all()
    blind = dataclasses.replace(WHOLE, orientation_sums=None)
    largest = np.abs(coefficients).argmax(axis=0)
    assert np.allclose((coefficients * blind.phases(coefficients))[largest, range(4)], np.abs(coefficients).max(axis=0))


def test_time_reversal_is_an_involution(noisy):
    m = noisy[0]
    twice = m.time_reversed().time_reversed()
    assert set(twice.names) == set(m.names) == set(DEFINITIONS) - {"A_ff"}
    for name in twice.names:
        np.testing.assert_array_equal(twice.block_sums[name], m.block_sums[name])


def test_time_reversal_is_what_swapped_pairs_give(noisy):
    _, (f, g, h), data = noisy
    here = estimate_moments(f, g, (data[:-1], data[1:]), observables=h, n_blocks=1)
    swapped = estimate_moments(g, f, (data[1:], data[:-1]), observables=h, n_blocks=1)
    assert set(here.time_reversed().names) == set(swapped.names)
    for name in swapped.names:
        np.testing.assert_allclose(getattr(here.time_reversed(), name), getattr(swapped, name), atol=1e-12)


def test_time_reversal_of_a_stack_is_that_of_its_members():
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=3)
    before, after = WHOLE.reweighted(weights).time_reversed(), WHOLE.time_reversed().reweighted(weights)
    for name in before.names:
        np.testing.assert_allclose(getattr(before, name), getattr(after, name), rtol=1e-12, atol=1e-14)


def test_reversal_turns_what_is_there_and_asks_for_no_more():
    cross = estimate_moments(f, g, PAIRS, names=CROSS)
    reversed_ = cross.time_reversed()
    assert set(reversed_.names) == set(CROSS)
    np.testing.assert_allclose(reversed_.T_fg, cross.T_fg.T, rtol=1e-12)
    assert reversed_.orientation_sums is None  # sums of f over x say nothing about g at x'


class TestSymmetrised:
    def test_keeps_the_expectations_of_a_reversible_system(self):
        chain, m = exact_chain([[0.9, 0.1, 0.0], [0.1, 0.7, 0.2], [0.0, 0.2, 0.8]])
        for method in ("operator", "edmd"):
            found = forecast(m.symmetrised(), np.eye(3), [4], method=method).values[0]
            np.testing.assert_allclose(found, np.linalg.matrix_power(chain.transition_matrix, 4), atol=1e-12)

    def test_is_the_mean_of_a_process_and_its_reversal(self):
        data = estimate_moments(f, f, PAIRS)
        both = data + estimate_moments(f, f, PAIRS.with_states(PAIRS.x_next, PAIRS.x))
        symmetrised = data.symmetrised()
        for name in ("M_f", "M_g", "T_fg", "T_ff", "C_gf"):
            np.testing.assert_allclose(getattr(symmetrised, name), getattr(both, name), rtol=1e-12, atol=1e-14)

    def test_needs_its_moments(self):
        m = estimate_moments(f, f, PAIRS, names=CROSS)
        with pytest.raises(MissingMomentError, match="moments lack T_ff"):
            m.symmetrised()


class TestOfGOnly:
    def test_is_edmd_with_g_in_the_place_of_f(self):
        found, direct = estimate_moments(f, g, PAIRS).of_g_only(), estimate_moments(g, f, PAIRS, names=EDMD)
        assert_same(found, direct)

    def test_needs_its_moments(self):
        with pytest.raises(MissingMomentError, match="moments lack M_g0"):
            estimate_moments(f, g, PAIRS, names=CROSS).of_g_only()


def test_moments_of_no_block_have_no_mean():
    nothing = WHOLE.selected(np.arange(0))
    for question in (lambda m: m.M_f, lambda m: m.symmetrised(), lambda m: m.means("M_f")):
        with pytest.raises(ValueError, match="moments must have at least one block; these have none"):
            question(nothing)


def test_moments_of_no_block_are_refused_in_words():
    pairs = lagged_pairs(np.random.default_rng(0).normal(size=(200, 2)))
    empty = estimate_moments(lambda x: x, lambda x: x, pairs).selected(np.arange(0))
    for ask in (lambda m: m.M_f, bootstrap_intervals, lambda m: vamp_scores(m, m)):
        with pytest.raises(ValueError, match="moments must have at least one block; these have none"):
            ask(empty)
