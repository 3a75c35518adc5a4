import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_frames import frames, ragged, some_lengths

from koopman_lora.accumulation import estimate_moments, moments_by_block
from koopman_lora.data.groups import block_numbers, split_groups, without_overlap
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.model import prepend_constant


def test_auto_takes_trajectories_when_there_are_many():
    many, few = lagged_pairs(ragged([12] * 20), 1), lagged_pairs(ragged([120] * 2), 1)
    assert np.array_equal(split_groups(many), many.trajectory)
    assert len(np.unique(split_groups(few))) == 20


many_lengths = st.one_of(some_lengths, st.lists(st.sampled_from([1, 2, 5, 9, 40, 200]), min_size=1, max_size=80))


@given(lengths=many_lengths, n_blocks=st.integers(1, 30))
def test_blocks_are_parts_of_one_trajectory_or_whole_trajectories(lengths, n_blocks):
    pairs = lagged_pairs(ragged([n + 1 for n in lengths]), 1, check_constant=False)
    block = block_numbers(pairs, n_blocks)
    assert block[0] == 0
    assert set(np.diff(block)) <= {0, 1}
    for b in np.unique(block):
        held = np.unique(pairs.trajectory[block == b])
        assert len(held) == 1 or set(block[np.isin(pairs.trajectory, held)]) == {b}
    if len(lengths) <= n_blocks:
        assert all(len(set(pairs.trajectory[block == b])) == 1 for b in np.unique(block))


@given(lengths=many_lengths, n_blocks=st.integers(1, 30))
def test_there_are_about_as_many_blocks_as_asked_for(lengths, n_blocks):
    """Never one per trajectory: half as many to twice as many."""
    n_found = block_numbers(lagged_pairs(ragged([n + 1 for n in lengths]), 1, check_constant=False), n_blocks).max() + 1
    assert min(n_blocks, sum(lengths)) / 2 <= n_found <= 2 * max(n_blocks, 1)


def test_many_equal_trajectories_make_equal_blocks():
    pairs = lagged_pairs([np.arange(21.0)] * 1280)
    assert np.bincount(block_numbers(pairs, 64)).tolist() == [400] * 64


@given(lengths=many_lengths, lag=st.integers(1, 3), by=st.sampled_from(["blocks", "auto"]), seed=st.integers(0, 9))
def test_splits_of_joined_trajectories_share_no_frame(lengths, lag, by, seed):
    pairs = lagged_pairs(ragged([n + 9 * lag for n in lengths]), lag)
    training, held_out = split_pairs(pairs, 0.2, by, n_blocks=10, seed=seed)
    assert not frames(training) & frames(held_out)


@pytest.mark.slow
def test_a_fit_of_many_trajectories_has_moments_in_few_blocks():
    """One per trajectory made moments, validation and bootstrap of 10,000 trajectories slower than their training."""
    rng = np.random.default_rng(0)
    estimator = KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit([rng.normal(size=(5, 2)) for _ in range(1000)])
    assert estimator.moments_.n_blocks <= 70
    assert estimator.validation().moments.n_blocks <= 64
    assert estimator.moments_.n_pairs == 4000
    assert estimator.intervals().sizes["mode"] == 3


@pytest.mark.slow
def test_intervals_of_joined_trajectories_are_as_wide():
    """Independent trajectories: 64 blocks of 20 tell the spread as 1280 of one (ratio .79 to 1.16 over 20 seeds)."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(1280, 6, 1))
    for t in range(1, 6):
        states[:, t] = 0.8 * states[:, t - 1] + 0.6 * states[:, t]
    pairs = lagged_pairs(list(states))
    joined = estimate_moments(prepend_constant, prepend_constant, pairs, n_blocks=64)
    single = moments_by_block(prepend_constant, prepend_constant, pairs, pairs.trajectory)
    assert (joined.n_blocks, single.n_blocks) == (64, 1280)
    widths = [
        np.ptp(bootstrap_intervals(m)["canonical_singular_values_interval"].values[:, 1]) for m in (joined, single)
    ]
    assert 0.6 < widths[0] / widths[1] < 1.6


@pytest.mark.parametrize("n_blocks", [0, -1, 2.5, True, "3", None, float("nan")])
def test_bad_numbers_of_blocks(n_blocks):
    pairs = lagged_pairs(ragged([40, 50]))
    questions = (
        lambda: block_numbers(pairs, n_blocks),
        lambda: split_groups(pairs, n_blocks=n_blocks),
        lambda: split_pairs(pairs, n_blocks=n_blocks),
        lambda: estimate_moments(lambda x: x, lambda x: x, pairs, n_blocks=n_blocks),
        lambda: estimate_moments(lambda x: x, lambda x: x, (pairs.x, pairs.x_next), n_blocks=n_blocks),
        lambda: estimate_moments(lambda x: x, lambda x: x, iter([(pairs.x, pairs.x_next)]), n_blocks=n_blocks),
    )
    for question in questions:
        with pytest.raises(ValueError, match=r"n_blocks must be (positive|an integer); got"):
            question()


@pytest.mark.parametrize("batch_size", [0, -5, 1.5])
def test_bad_batches_of_moments(batch_size):
    with pytest.raises(ValueError, match=r"batch_size must be (positive|an integer); got"):
        estimate_moments(lambda x: x, lambda x: x, lagged_pairs(np.arange(9.0)), batch_size=batch_size)


@given(lengths=some_lengths, lag=st.integers(1, 5), seed=st.integers(0, 100))
def test_without_overlap_drops_exactly_the_pairs_that_share_a_frame(lengths, lag, seed):
    pairs = lagged_pairs(ragged([n + lag for n in lengths]), lag, check_constant=False)
    held = np.random.default_rng(seed).random(len(pairs)) < 0.2
    kept = without_overlap(pairs, held)
    used = frames(pairs.select(held)) if held.any() else set()
    expected = [
        not h and not {a, b} & used
        for h, a, b in zip(held, pairs.x[:, 0].tolist(), pairs.x_next[:, 0].tolist(), strict=True)
    ]
    assert kept.tolist() == expected


def test_pairs_of_unknown_lag_ask_for_it_where_frames_are_compared():
    x, x_next = np.random.default_rng(0).normal(size=(2, 60, 2))
    unknown, known = lagged_pairs((x, x_next)), lagged_pairs((x, x_next), lag=1)
    held = np.arange(60) < 6
    with pytest.raises(ValueError, match=r"lag of these pairs is unknown.*say it in frames when"):
        without_overlap(unknown, held)
    assert len(without_overlap(known, held)) == 60
    assert block_numbers(unknown, 5).max() == 4  # blocks alone need no lag
