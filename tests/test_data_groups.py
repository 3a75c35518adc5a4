import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_frames import frames, ragged, some_lengths

from koopman_lora.data.groups import block_numbers, fold_numbers, split_groups, without_overlap
from koopman_lora.data.pairs import lagged_pairs


def test_auto_takes_trajectories_when_there_are_many():
    many, few = lagged_pairs(ragged([12] * 20), 1), lagged_pairs(ragged([120] * 2), 1)
    assert np.array_equal(split_groups(many), many.trajectory)
    assert len(np.unique(split_groups(few))) == 20


@given(lengths=some_lengths, n_blocks=st.integers(1, 30))
def test_blocks_are_contiguous_and_never_across_trajectories(lengths, n_blocks):
    pairs = lagged_pairs(ragged([n + 1 for n in lengths]), 1, check_constant=False)
    block = block_numbers(pairs, n_blocks)
    assert block[0] == 0
    assert set(np.diff(block)) <= {0, 1}
    assert all(len(set(pairs.trajectory[block == b])) == 1 for b in np.unique(block))
    assert block.max() + 1 >= min(len(lengths), n_blocks)


@given(lengths=st.lists(st.integers(30, 60), min_size=1, max_size=4), lag=st.integers(1, 3), n=st.integers(2, 5))
def test_folds_share_no_frame_and_leave_out_no_more_than_that_takes(lengths, lag, n):
    pairs = lagged_pairs(ragged(lengths), lag=lag)
    fold = fold_numbers(pairs, n)
    frames = [set(np.r_[pairs.x[fold == i].ravel(), pairs.x_next[fold == i].ravel()]) for i in range(n)]
    assert all(not frames[i] & frames[j] for i in range(n) for j in range(i))
    assert set(fold) - {-1} == set(range(n))
    assert np.sum(fold == -1) <= lag * (n - 1)


def test_a_long_lag_leaves_fewer_folds_and_then_none():
    series = np.arange(100.0)
    assert fold_numbers(lagged_pairs(series, lag=30), 5).max() + 1 < 5
    with pytest.raises(ValueError, match="1 pairs at lag 98 are too few for two folds"):
        fold_numbers(lagged_pairs(series, lag=98).select(np.array([0])), 5)


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
    for question in (lambda pairs: without_overlap(pairs, held), lambda pairs: fold_numbers(pairs, 3)):
        with pytest.raises(ValueError, match=r"lag of these pairs is unknown.*say it in frames when"):
            question(unknown)
        assert len(question(known)) == 60
    assert block_numbers(unknown, 5).max() == 4  # blocks alone need no lag
