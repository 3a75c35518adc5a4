"""Tables on disk, `.csv` and `.parquet`, as labelled trajectories: a row for a frame, a column for a coordinate."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from koopman_lora._labels import TIME
from koopman_lora.data.containers import labelled_table
from koopman_lora.data.seals import told_of

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".csv", ".parquet")
_INDEX = "Unnamed: 0"  # what pandas calls the index that it wrote without a name


def read_table(path: pathlib.Path, columns: Sequence[str] | None, time_column: str | None) -> xr.DataArray:
    """A table as a trajectory with the names of its columns, in memory.

    Parameters
    ----------
    columns : those that are coordinates; by default all but that of the times
    time_column : numbers or dates, the times of the frames; by default the column 'time', where there is one

    Raises
    ------
    ImportError
        For `.parquet` without pyarrow; it comes with the extra `parquet`.
    ValueError
        If it cannot be read, has no names in its first row, or no such columns.
    TypeError
        For columns that hold no numbers.
    """
    table, times = _with_times(path, _read(path), time_column)
    table = _chosen(path, table, columns)
    bad = [f"{name} ({table[name].dtype})" for name in table.columns if table[name].dtype.kind not in "fiu"]
    if bad:
        raise TypeError(
            f"{str(path)!r} must have columns of numbers; got {', '.join(bad[:5])}. Name those to read: columns=, or "
            "--columns on the command line; and that of the times: time_column=, or --time-column."
        )
    array = labelled_table(table)
    return array if times is None else array.assign_coords({TIME: times})


def _read(path: pathlib.Path) -> pd.DataFrame:
    import pandas as pd

    with told_of(path, "give a table with numbers in columns"):
        if path.suffix == ".parquet":
            return _of_one_level(path, _read_parquet(path))
        first = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0]
        table = pd.read_csv(path)
    if all(_is_number(name) for name in first):
        got = ", ".join(first[:5])
        raise ValueError(f"{str(path)!r} must have the names of its columns in the first row; got {got}.")
    table = _of_one_level(path, table)
    if table.columns[0] == _INDEX:
        table = table.set_index(_INDEX)
        if not pd.api.types.is_numeric_dtype(table.index):
            table.index = _as_dates(path, "its first column", table.index)
    return table


def _read_parquet(path: pathlib.Path) -> pd.DataFrame:
    import pandas as pd

    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{str(path)!r} needs pyarrow to be read; install it with pip install 'koopman-lora[parquet]', or give the "
            "table as .csv."
        ) from error
    return pd.read_parquet(path, engine="pyarrow")


def _of_one_level(path: pathlib.Path, table: pd.DataFrame) -> pd.DataFrame:
    if table.index.nlevels > 1:  # also where rows of a .csv have more fields than the first one
        raise ValueError(
            f"{str(path)!r} must have a row for a frame and a name for each of its numbers; got rows with "
            f"{table.index.nlevels} more fields than names, or of several runs. Separate fields by commas, write "
            "numbers with points, and give each run a file of its own."
        )
    return table


def _is_number(name: str) -> bool:
    try:
        return not math.isnan(float(name))  # an empty field, that of an index, is NaN
    except ValueError:
        return False


def _with_times(path: pathlib.Path, table: pd.DataFrame, time_column: str | None) -> tuple[pd.DataFrame, Any]:
    """The table without its column of times, and these, as numbers or dates; None where there is no such column."""
    if table.index.name in (TIME, time_column) and table.index.name is not None:  # Parquet keeps the index apart
        table = table.reset_index()
    if time_column is None and TIME not in table.columns:
        return table, None
    name = TIME if time_column is None else time_column
    _check_column(path, table, "time_column", name)
    times = table[name]
    if times.dtype.kind not in "fium":
        times = _as_dates(path, f"column {name!r}", times)
    return table.drop(columns=name), times.to_numpy()


def _as_dates(path: pathlib.Path, what: str, values: Any) -> Any:
    import pandas as pd

    try:
        dates = pd.DatetimeIndex(values)
        return dates if dates.tz is None else dates.tz_convert(None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{str(path)!r}: {what} must hold numbers or dates as times; {error}.") from None


def _chosen(path: pathlib.Path, table: pd.DataFrame, columns: Sequence[str] | None) -> pd.DataFrame:
    if columns is None:
        return table
    if len(set(columns)) != len(columns) or not columns:
        raise ValueError(f"columns must name at least one column, and none twice; got {list(columns)}.")
    for name in columns:
        _check_column(path, table, "columns", name)
    return table[list(columns)]


def _check_column(path: pathlib.Path, table: pd.DataFrame, argument: str, name: str) -> None:
    if name not in table.columns:
        known = ", ".join(map(str, table.columns[:20]))
        raise ValueError(f"{argument} names no column of {str(path)!r}: {name!r}; its columns are {known}.")
