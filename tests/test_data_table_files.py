"""Tables and archives on disk give the pairs that their arrays give."""

import builtins

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import koopman_lora as kl
from koopman_lora.clock import Clock

X = np.random.default_rng(0).normal(size=(30, 2)) * [1e-8, 1e5]
MONTHS = pd.date_range("2001-01-31", periods=30, freq="ME")


def table(**columns):
    return pd.DataFrame({**columns, "u": X[:, 0], "v": X[:, 1]})


def write(data, path, index=False):
    data.to_csv(path, index=index) if path.suffix == ".csv" else data.to_parquet(path, index=index)
    return path


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path):
    return tmp_path / f"x.{request.param}"


def same_states(pairs, *arrays):
    expected = kl.lagged_pairs(list(arrays))
    return torch.equal(pairs.x, expected.x) and torch.equal(pairs.x_next, expected.x_next)


@pytest.mark.parametrize(
    ("times", "clock"),
    [
        (MONTHS, Clock(1, 1.0, "month")),
        (MONTHS.tz_localize("UTC"), Clock(1, 1.0, "month")),
        (0.5 * np.arange(30), Clock(1, 0.5, "")),
    ],
    ids=["dates", "dates of a zone", "numbers"],
)
@pytest.mark.parametrize("name", ["time", "when"])
def test_a_table_has_names_and_times_and_loses_no_digit(path, times, clock, name):
    write(table(**{name: times}), path)
    pairs = kl.lagged_pairs(kl.open_trajectories(path, time_column=None if name == "time" else name))
    assert (pairs.coordinate_names, pairs.clock) == (("u", "v"), clock)
    assert same_states(pairs, X)


@pytest.mark.parametrize("index", [MONTHS, MONTHS.rename("date"), pd.RangeIndex(30)], ids=["dates", "named", "numbers"])
def test_the_index_that_pandas_wrote_is_no_coordinate(path, index):
    write(table().set_index(index), path, index=True)
    is_named_in_csv = index.name == "date" and path.suffix == ".csv"
    pairs = kl.lagged_pairs(kl.open_trajectories(path, time_column="date" if is_named_in_csv else None))
    assert pairs.coordinate_names == ("u", "v")
    assert pairs.clock.time_unit == ("frame" if isinstance(index, pd.RangeIndex) else "month")
    assert same_states(pairs, X)


def test_an_index_of_numbers_that_is_called_time_gives_the_times(tmp_path):
    path = write(table().set_index(pd.Index(2.0 * np.arange(30), name="time")), tmp_path / "x.parquet", index=True)
    assert kl.lagged_pairs(path, time_unit="ps").clock == Clock(1, 2.0, "ps")


def test_columns_are_picked_by_name_and_in_that_order(path):
    write(table(label=["a", "b"] * 15), path)
    with pytest.raises(TypeError, match=r"x\.\w+' must have columns of numbers; got label \(\w+\). Name those to read"):
        kl.open_trajectories(path)
    pairs = kl.lagged_pairs(kl.open_trajectories(path, columns=["v", "u"]))
    assert pairs.coordinate_names == ("v", "u")
    assert same_states(pairs, X[:, ::-1])


def test_several_tables_are_several_trajectories(tmp_path):
    for name, part in {"a.csv": table()[:9], "b.parquet": table()[9:]}.items():
        write(part, tmp_path / name)
    for data in ([tmp_path / "a.csv", str(tmp_path / "b.parquet")], str(tmp_path / "?.*")):
        assert same_states(kl.lagged_pairs(data), X[:9], X[9:])
    write(table()[["v", "u"]], tmp_path / "c.csv")
    with pytest.raises(ValueError, match=r"got .*a\.csv: u, v; and .*c\.csv: v, u"):
        kl.lagged_pairs([tmp_path / "a.csv", tmp_path / "c.csv"])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("0.5,1\n0.25,2\n", {}, r"x.csv' must have the names of its columns in the first row; got 0.5, 1"),
        ("0.0,0.0\n0.25,2\n", {}, r"x.csv' must have the names of its columns in the first row; got 0.0, 0.0"),
        ("a;b\n0,1;1,2\n0,3;1,4\n", {}, r"x.csv' must have a row for a frame and a name for each .* 2 more fields"),
        ("", {}, r"x.csv' cannot be read \(No columns"),
        ("u,v\n1,2\n", {"columns": ["w"]}, r"columns names no column of .*x.csv': 'w'; its columns are u, v"),
        ("u,v\n1,2\n", {"columns": []}, r"columns must name at least one column, and none twice; got \[\]"),
        ("u,v\n1,2\n", {"columns": ["u", "u"]}, r"columns must name .* none twice; got \['u', 'u'\]"),
        ("u,v\n1,2\n", {"time_column": ""}, "time_column names no column of .*: ''; its columns are u, v"),
        ("u,v\n1,2\n", {"time_column": "t"}, r"time_column names no column of .*x.csv': 't'; its columns are u, v"),
        ("time,u\nsoon,1\n", {}, r"x.csv': column 'time' must hold numbers or dates as times; .*soon"),
        ("u;v\n1;2\n", {}, r"x.csv' must have columns of numbers; got u;v"),
        ("u,v\n1,2\n", {"variable": "u"}, r"variable='u' picks one of .npz, .nc or .zarr; .*x.csv' holds a single one"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path, content, options, message):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises((ValueError, TypeError), match=message):
        kl.open_trajectories(tmp_path / "x.csv", **options)


def test_a_damaged_table_and_absent_pyarrow_are_told(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"x\.parquet'.*smaller than the minimum"):
        kl.open_trajectories(tmp_path / "x.parquet")
    found = builtins.__import__

    def absent(name, *arguments, **named):
        if name == "pyarrow":
            raise ImportError(name)
        return found(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"x\.parquet' needs pyarrow .*koopman-lora\[parquet\]"):
        kl.open_trajectories(tmp_path / "x.parquet")


# ---- archives --------------------------------------------------------------------------------------------------------


def test_arrays_of_an_archive_are_trajectories_and_one_is_picked_by_name(tmp_path):
    np.savez(tmp_path / "one.npz", X)
    np.savez_compressed(tmp_path / "two.npz", first=X[:9], second=X[9:])
    assert np.array_equal(kl.open_trajectories(tmp_path / "one.npz"), X)
    assert same_states(kl.lagged_pairs(str(tmp_path / "two.npz")), X[:9], X[9:])
    assert same_states(kl.lagged_pairs([tmp_path / "two.npz", X]), X[:9], X[9:], X)
    assert np.array_equal(kl.open_trajectories(tmp_path / "two.npz", variable="second"), X[9:])
    assert same_states(kl.lagged_pairs([tmp_path / "one.npz", tmp_path / "two.npz"]), X, X[:9], X[9:])


def test_archives_that_hold_no_trajectories_say_what_they_hold(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=X, dt=0.5)
    with pytest.raises(
        ValueError, match=r"x\.npz' must hold .* of the same states; got x \(30, 2\), dt \(\). Name one"
    ):
        kl.open_trajectories(path)
    assert np.array_equal(kl.open_trajectories(path, variable="x"), X)
    with pytest.raises(ValueError, match=r"x\.npz' holds no variable 'y'; it holds x, dt"):
        kl.open_trajectories(path, variable="y")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"x\.npz' cannot be read"):
        kl.open_trajectories(path)
    np.savez(path)
    with pytest.raises(ValueError, match=r"x\.npz' holds no array; give trajectories in"):
        kl.open_trajectories(path)
    content = bytearray((np.savez(path, X), path.read_bytes())[1])
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"x\.npz' cannot be read \(arr_0\.npy in it is damaged\)"):
        kl.open_trajectories(path)


def test_a_variable_of_several_is_picked_by_name(tmp_path):
    path = tmp_path / "x.nc"
    xr.Dataset({"a": ("time", X[:, 0]), "b": ("time", X[:, 1])}).to_netcdf(path, engine="h5netcdf")
    assert np.array_equal(kl.open_trajectories(path, variable="b"), X[:, 1])
    with pytest.raises(ValueError, match=r"x\.nc' holds no variable 'c'; it holds a, b"):
        kl.open_trajectories(path, variable="c")
    with pytest.raises(ValueError, match=r"columns=\['a'\] is for tables, .csv and .parquet; got .*x\.nc'"):
        kl.open_trajectories(path, columns=["a"])


def test_files_of_molecules_are_sent_where_they_are_read(tmp_path):
    (tmp_path / "x.xtc").touch()
    with pytest.raises(ValueError, match=r"x\.xtc' is of molecular dynamics.*MoleculeFiles.*--topology FILE"):
        kl.open_trajectories(tmp_path / "x.xtc")
