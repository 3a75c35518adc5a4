import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.data.rows import Rows

runs = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), min_size=1, max_size=8)


def expanded(found):
    return np.concatenate([np.arange(first, first + n) for first, n in found]).astype(int)


def made(found):
    return Rows(np.array([first for first, _ in found]), np.array([n for _, n in found]))


def listed(rows):
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


@given(runs)
def test_rows_are_those_of_their_runs(found):
    rows, expected = made(found), expanded(found)
    assert len(rows) == len(expected)
    assert rows.all().tolist() == expected.tolist()
    assert Rows.of(expected).all().tolist() == expected.tolist()


@given(runs, st.integers(0, 40), st.integers(0, 40))
def test_neighbours_are_a_slice_where_nothing_lies_between_them(found, start, stop):
    rows, expected = made(found), expanded(found)
    here = expected[start:stop]
    at = rows.at(slice(start, stop))
    assert listed(at).tolist() == here.tolist()
    assert isinstance(at, slice) == (len(here) == 0 or bool((np.diff(here) == 1).all()))


@given(runs, st.data())
def test_rows_at_positions_in_any_order(found, data):
    rows, expected = made(found), expanded(found)
    positions = np.array(data.draw(st.lists(st.integers(0, max(len(expected) - 1, 0)), max_size=20)), dtype=int)
    positions = positions if len(expected) else positions[:0]
    assert rows.at(positions).tolist() == expected[positions].tolist()
    assert rows.through(Rows.of(positions)).all().tolist() == expected[positions].tolist()


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_mask_is_the_rows_where_it_is_true(mask):
    assert Rows.of(np.array(mask)).all().tolist() == np.flatnonzero(mask).tolist()


@given(runs, st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True))
def test_pieces_lie_in_one_cell_each_and_are_all_there(found, ends):
    rows, expected = made(found), expanded(found)
    ends = np.append(np.sort(ends), 50)
    cell, begins, lengths = rows.cut(ends)
    assert np.concatenate([np.arange(b, b + n) for b, n in zip(begins, lengths, strict=True)] or [[]]).tolist() == list(
        range(len(expected))
    )
    for c, b, n in zip(cell, begins, lengths, strict=True):
        here = expected[b : b + n]
        assert set(np.searchsorted(ends, here, side="right")) == {c}


@pytest.mark.parametrize(("one", "other"), [((0, 5), [(0, 2), (2, 3)]), ((3, 4), [(3, 1), (9, 0), (4, 3)])])
def test_equal_rows_have_equal_runs(one, other):
    a, b = made([one]), made(other)
    assert (a.first.tolist(), a.lengths.tolist()) == (b.first.tolist(), b.lengths.tolist())


@pytest.mark.parametrize("index", [np.array(3), np.array([0.5]), np.zeros((2, 2), dtype=int)])
def test_positions_must_be_whole_numbers_in_a_row(index):
    with pytest.raises(ValueError, match=r"index must be a slice, or positions \(n,\)"):
        Rows(np.array([0]), np.array([9])).at(index)


@pytest.mark.parametrize("index", [np.array([0, -1]), np.array([9])])
def test_positions_beyond_the_rows_are_refused(index):
    with pytest.raises(ValueError, match="index must hold positions from 0 to 8"):
        Rows(np.array([4]), np.array([9])).at(index)


def test_no_position_is_no_row():
    assert len(Rows(np.array([4]), np.array([9])).at(np.array([], dtype=int))) == 0
