"""Tables and data sets of other libraries give the pairs that their arrays give."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from deeptime.util.data import TimeLaggedDataset, TrajectoriesDataset, TrajectoryDataset
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import koopman_lora as kl
from koopman_lora.clock import Clock

X = np.random.default_rng(0).normal(size=(30, 2))


def same_pairs(a, b):
    return torch.equal(a.x, b.x) and torch.equal(a.x_next, b.x_next) and a.clock == b.clock


@pytest.mark.parametrize(
    ("index", "clock"),
    [
        (None, Clock(2, 1.0, "")),
        (pd.timedelta_range("0s", periods=30, freq="10min"), Clock(2, 10.0, "minute")),
        (pd.date_range("2001-01-31", periods=30, freq="ME"), Clock(2, 1.0, "month")),
        (pd.date_range("2001-01-31", periods=30, freq="ME", name="date"), Clock(2, 1.0, "month")),
        (pd.date_range("2001-03-25", periods=30, freq="h", tz="Europe/Zurich"), Clock(2, 1.0, "hour")),  # over a change
        (pd.period_range("2001", periods=30, freq="Y"), Clock(2, 1.0, "year")),
    ],
)
def test_tables_know_their_names_and_their_times(index, clock):
    pairs = kl.lagged_pairs(pd.DataFrame(X, columns=["u", "v"], index=index), lag=2)
    assert pairs.coordinate_names == ("u", "v")
    assert pairs.clock == clock
    assert torch.equal(pairs.x, kl.lagged_pairs(X, lag=2).x)


def test_a_column_and_a_list_of_tables():
    series = kl.lagged_pairs(pd.Series(X[:, 0], name="u"))
    assert series.coordinate_names == ("u",)
    table = pd.DataFrame(X, columns=["u", "v"])
    several = kl.lagged_pairs([table, table])
    assert several.coordinate_names == ("u", "v")
    assert same_pairs(several, kl.lagged_pairs([xr.DataArray(X, dims=("time", "coordinate"))] * 2))
    explicit = kl.lagged_pairs((X[:-1], X[1:]))
    assert explicit.coordinate_names is None
    assert kl.lagged_pairs([X, table]).coordinate_names == ("u", "v")


def test_of_an_index_of_two_levels_the_first_says_which_trajectory():
    times = pd.date_range("2000", periods=15, freq="h")
    runs = [pd.DataFrame(part, columns=["u", "v"], index=times) for part in (X[:15], X[15:])]
    whole = pd.concat({"b": runs[0], "a": runs[1]}, names=["run", "time"])
    expected = kl.lagged_pairs(runs, 2)
    assert (expected.clock, len(expected)) == (Clock(2, 1.0, "hour"), 26)
    assert same_pairs(kl.lagged_pairs(whole, 2), expected)
    assert same_pairs(kl.lagged_pairs([whole, runs[1]], 2), kl.lagged_pairs([*runs, runs[1]], 2))
    with pytest.raises(ValueError, match="of trajectories and times; got levels site, run, time"):
        kl.lagged_pairs(pd.concat({"x": whole}, names=["site"]), 2)


@pytest.mark.parametrize("dated", [False, True])
def test_a_column_of_times_is_that_of_a_table_in_a_file(tmp_path, dated):
    table = pd.DataFrame(X, columns=["u", "v"])
    table.insert(1, "time", pd.date_range("2000", periods=30, freq="3h") if dated else 0.5 * np.arange(30))
    table.to_csv(tmp_path / "x.csv", index=False)
    expected = kl.lagged_pairs(tmp_path / "x.csv", 2)
    assert expected.clock == (Clock(2, 3.0, "hour") if dated else Clock(2, 0.5))
    for given in (table, table.set_index("time")):
        assert same_pairs(kl.lagged_pairs(given, 2), expected)
    estimator = kl.KoopmanLoRA(2, hidden_dims=(4,), n_epochs=1, batch_size=8).fit(table)
    assert estimator.feature_names_in_.tolist() == ["u", "v"]
    assert estimator.transform(table).shape == (30, 2)
    assert kl.lagged_pairs(table[["time"]].astype(float) if not dated else table[["u"]]).state_shape == (1,)


def test_tables_with_their_columns_in_another_order_are_not_read_as_each_other():
    table = pd.DataFrame(X, columns=["u", "v"])
    with pytest.raises(ValueError, match="the same coordinates in one order; got u, v; and v, u"):
        kl.lagged_pairs([table, table[["v", "u"]]])


def test_tables_of_polars():
    polars = pytest.importorskip("polars")
    pairs = kl.lagged_pairs(polars.DataFrame({"u": X[:, 0], "v": X[:, 1]}))
    assert pairs.coordinate_names == ("u", "v")
    assert torch.equal(pairs.x, kl.lagged_pairs(X).x)


def test_data_sets_of_deeptime():
    expected = kl.lagged_pairs(X, lag=3)
    assert same_pairs(kl.lagged_pairs(TrajectoryDataset(3, X)), expected)
    assert same_pairs(kl.lagged_pairs(TrajectoryDataset(3, X), lag=3), expected)
    assert same_pairs(kl.lagged_pairs(TrajectoriesDataset.from_numpy(3, [X, X[:10]])), kl.lagged_pairs([X, X[:10]], 3))
    explicit = kl.lagged_pairs(TimeLaggedDataset(X[:-3], X[3:]))
    assert explicit.clock.lag is None
    assert torch.equal(explicit.x_next, expected.x_next)
    with pytest.raises(ValueError, match="lag=2 contradicts the data, whose lagtime is 3"):
        kl.lagged_pairs(TrajectoryDataset(3, X), lag=2)
    estimator = kl.KoopmanLoRA(n_modes=2, hidden_dims=(4,), n_epochs=1, batch_size=8).fit(TrajectoryDataset(3, X))
    assert estimator.clock.lag == 3


class Steps(Dataset):
    def __len__(self):
        return len(X) - 1

    def __getitem__(self, i):
        return torch.from_numpy(X[i]), torch.from_numpy(X[i + 1])


@pytest.mark.parametrize(
    "data",
    [
        Steps(),
        TensorDataset(torch.from_numpy(X[:-1]), torch.from_numpy(X[1:])),
        DataLoader(Steps(), batch_size=7, shuffle=True),
        DataLoader(kl.lagged_pairs(X, lag=1), batch_size=7),
    ],
    ids=["dataset", "tensors", "loader", "loader of pairs"],
)
def test_data_sets_of_torch_hold_pairs_in_their_order(data):
    pairs = kl.lagged_pairs(data)
    assert torch.equal(pairs.x, torch.from_numpy(X[:-1]))
    assert torch.equal(pairs.x_next, torch.from_numpy(X[1:]))


class Endless(IterableDataset):
    def __iter__(self):
        yield from itertools.pairwise(X)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (pd.DataFrame({"u": ["a", "b"]}), TypeError, r"data must have columns of numbers; got u \((object|str)\)"),
        (pd.DataFrame([[1.0, 2.0]], columns=["u", "u"]), ValueError, "data must have columns of different names"),
        (TensorDataset(torch.from_numpy(X)), TypeError, "data is a TensorDataset, which must hold pairs"),
        (Endless(), TypeError, "data is a Endless without a length"),
    ],
)
def test_what_cannot_be_used_is_told(data, error, message):
    with pytest.raises(error, match=message):
        kl.lagged_pairs(data)


def test_states_may_come_in_a_table():
    table = pd.DataFrame(X, columns=["u", "v"])
    estimator = kl.KoopmanLoRA(n_modes=2, hidden_dims=(4,), n_epochs=1, batch_size=8).fit(table)
    assert np.array_equal(estimator.singular_functions(table), estimator.singular_functions(X))
