import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_frames import frames, ragged

from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import Split, SplitRecipe, as_split, split_pairs


@given(
    lengths=st.lists(st.integers(2, 120), min_size=1, max_size=25),
    lag=st.integers(1, 12),
    held_out=st.floats(0.05, 0.9),
    by=st.sampled_from(["auto", "trajectory", "blocks"]),
    seed=st.integers(0, 100),
)
def test_splits_share_no_frame(lengths, lag, held_out, by, seed):
    pairs = lagged_pairs(ragged([n + lag for n in lengths]), lag, check_constant=False)
    try:
        train, held = split_pairs(pairs, held_out, by, seed=seed)
    except ValueError as error:
        assert "leaves too few" in str(error) or (by == "trajectory" and len(lengths) == 1)  # noqa: PT017
        return
    assert not frames(train) & frames(held)
    assert len(held) > 0
    assert len(train) >= 2
    for part in (train, held):  # each still pairs of one trajectory, a lag apart
        assert (part.x_next - part.x == lag).all()
        assert np.array_equal(part.x[:, 0], 1000 * part.trajectory + part.frame)
    again = split_pairs(pairs, held_out, by, seed=seed)
    assert np.array_equal(again.held_out.frame, held.frame)


def test_split_by_trajectory_takes_whole_trajectories():
    pairs = lagged_pairs(ragged([30] * 10), 2)
    train, held = split_pairs(pairs, 0.3, by="trajectory", seed=1)
    assert len(set(held.trajectory)) == 3
    assert not set(held.trajectory) & set(train.trajectory)
    assert len(train) + len(held) == len(pairs)  # no gap is needed


def test_split_by_blocks_drops_only_the_gap():
    pairs = lagged_pairs(np.arange(2003.0), 3)
    train, held = split_pairs(pairs, 0.1, by="blocks", n_blocks=20)
    assert len(held) == 200
    assert 0 < len(pairs) - len(train) - len(held) <= 2 * 2 * 3  # at most two gaps of a lag around each of two blocks


def test_seeds_draw_different_blocks():
    pairs = lagged_pairs(np.arange(1000.0))
    held = {tuple(split_pairs(pairs, 0.1, seed=s).held_out.frame) for s in range(8)}
    assert len(held) > 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": -0.1}, "held_out must be a fraction of at least 0 and below 1; got -0.1"),
        ({"held_out": 1.0}, "held_out must be a fraction of at least 0 and below 1; got 1.0"),
        ({"held_out": float("nan")}, "held_out must be a fraction of at least 0 and below 1; got nan"),
        ({"by": "random"}, "by must be one of 'auto', 'trajectory', 'blocks'; got 'random'"),
        ({"by": "trajectory"}, "by='trajectory' needs at least 2 trajectories; got 1. Use by='blocks'"),
        ({"held_out": 0.9, "n_blocks": 2}, "held_out=0.9 leaves too few of 4 pairs to train on"),
    ],
)
def test_bad_splits(options, message):
    with pytest.raises(ValueError, match=message):
        split_pairs(lagged_pairs(np.arange(5.0)), **options)


# ---- Split -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["blocks", "trajectory", "auto"])
def test_the_recipe_makes_the_same_split_of_the_same_pairs_again(by):
    data = ragged([80] * 6)
    split = split_pairs(lagged_pairs(data, 2), 0.25, by, n_blocks=12, seed=3)
    recipe = split.recipe
    assert recipe == SplitRecipe(by, 0.25, 12, 3)
    again = split_pairs(lagged_pairs(data, 2), recipe.held_out, recipe.by, recipe.n_blocks, recipe.seed)
    assert np.array_equal(again.is_training, split.is_training)
    assert np.array_equal(again.is_held_out, split.is_held_out)
    other = split_pairs(lagged_pairs(data, 2), recipe.held_out, recipe.by, recipe.n_blocks, seed=4)
    assert not np.array_equal(other.is_held_out, split.is_held_out)


def test_a_split_unpacks_and_its_masks_say_where_the_pairs_are():
    pairs = lagged_pairs(np.arange(503.0), 3)
    split = split_pairs(pairs, 0.2, by="blocks")
    train, held = split
    assert split.pairs is pairs
    assert np.array_equal(train.frame, pairs.frame[split.is_training])
    assert np.array_equal(held.frame, pairs.frame[split.is_held_out])
    assert not (split.is_training & split.is_held_out).any()
    assert 0 < (~split.is_training & ~split.is_held_out).sum() <= 4 * 2 * 3  # gaps of a lag around four blocks


def test_nothing_is_held_out_where_none_is_wanted():
    pairs = lagged_pairs(np.arange(40.0), 2)
    split = split_pairs(pairs, 0)
    assert split.held_out is None
    assert split.training is pairs
    assert split.recipe.by == "none"
    assert not split.is_held_out.any()
    train, held = split
    assert (train, held) == (pairs, None)


def test_pairs_of_unknown_lag_ask_for_it_before_they_are_split():
    x, x_next = np.random.default_rng(0).normal(size=(2, 60, 2))
    pairs = lagged_pairs((x, x_next))
    with pytest.raises(ValueError, match=r"lag of these pairs is unknown.*lagged_pairs\(\(x, x_next\), lag=\.\.\.\)"):
        split_pairs(pairs, 0.2)
    assert len(split_pairs(lagged_pairs((x, x_next), lag=1), 0.2).held_out) == 12
    assert split_pairs(pairs, 0).training is pairs


def test_a_split_of_ones_own_keeps_both_sides():
    train, held = lagged_pairs(np.arange(30.0), 2), lagged_pairs(100 + np.arange(9.0), 2)
    split = Split.given(train, held)
    assert split.training is split.pairs is train
    assert split.held_out is held
    assert split.recipe == SplitRecipe("given")
    assert Split.given(train).held_out is None
    assert Split.given(train).recipe.by == "none"


def test_the_sides_of_a_split_of_ones_own_must_be_of_one_kind():
    train = lagged_pairs(np.arange(30.0), 2)
    with pytest.raises(ValueError, match="clocks must be one and the same"):
        Split.given(train, lagged_pairs(np.arange(30.0), 3))
    images = lagged_pairs(np.random.default_rng(0).normal(size=(30, 2)), 2)
    with pytest.raises(ValueError, match=r"pairs of one kind of state; got \(1,\) and \(2,\)"):
        Split.given(train, images)


def test_a_split_is_made_of_pairs_by_default_and_of_nothing_else():
    pairs = lagged_pairs(np.arange(200.0))
    split = as_split(pairs, seed=5)
    assert split.recipe == SplitRecipe("auto", 0.1, 20, 5)
    assert as_split(split, seed=1) is split
    with pytest.raises(TypeError, match=r"pairs must be LaggedPairs or a Split of them; got ndarray. Use kl.lagged_p"):
        as_split(np.arange(200.0))


def test_a_split_is_shown_in_a_line_or_two():
    pairs = lagged_pairs(np.arange(200.0))
    for split in (split_pairs(pairs, 0.1), split_pairs(pairs, 0), Split.given(pairs, pairs)):
        shown = repr(split)
        n_held_out = 0 if split.held_out is None else len(split.held_out)
        assert f"{len(split.training)} training and {n_held_out} held-out pairs" in shown
        assert len(shown) <= 2 * 120
        assert "\n" not in shown
