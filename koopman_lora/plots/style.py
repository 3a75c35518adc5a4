"""What all pictures share: palette, a new axis, legends, labels with units, ticks."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from koopman_lora.clock import Clock

# Okabe and Ito's palette: told apart with every common form of colour blindness
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#888888",
)
STATE_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, BLACK, GREY)


def state_colour(state: int) -> str:
    """Colour of a state, the same in every plot."""
    return STATE_COLOURS[state % len(STATE_COLOURS)]


def ink() -> str:
    """Colour of text in the current style: black lines would vanish on a dark background."""
    return mpl.rcParams["text.color"]


def make_axis(ax: Axes | None, width: float = 6.0, height: float = 4.0) -> Axes:
    """The given axis, or one in a new figure."""
    # 'compressed' is 'constrained' that also fits axes of equal aspect with a legend beside them
    return ax if ax is not None else plt.subplots(figsize=(width, height), layout="compressed")[1]


def make_panels(n: int, n_columns: int, width: float, height: float) -> np.ndarray:
    """Axes (n,) in a new figure, at most so many in a row, each so wide and high."""
    n_columns = min(n, n_columns)
    n_rows = -(-n // n_columns)
    size = (width * n_columns, height * n_rows)
    axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)[1].ravel()
    for unused in axes[n:]:
        unused.remove()
    return axes[:n]


def add_legend(ax: Axes, **options: Any) -> None:
    """A legend that stays legible where it covers data."""
    ax.legend(**{"fontsize": "small", "framealpha": 0.85, "edgecolor": "none", **options})


def add_legend_outside(ax: Axes) -> None:
    """A legend to the right of the axes, where curves may lie anywhere."""
    add_legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.02))


def set_answer(ax: Axes, question: str, answer: str) -> None:
    """Title of a plot that something is chosen from: the question, and the answer with its reason below it."""
    width = max(30, int(14 * ax.bbox.width / ax.figure.dpi))  # characters of a line
    ax.set_title(f"{question}\n{textwrap.fill(answer, width)}", fontsize="medium", loc="left")


def with_unit(name: str, unit: Any) -> str:
    """Label of a quantity with its unit, which is left out where there is none.

    Examples
    --------
    >>> with_unit("lag", "ps"), with_unit("lag", "1")
    ('lag (ps)', 'lag')
    """
    return name if unit in (None, "1", "1/1", "") else f"{name} ({unit})"


def axis_label(values: xr.DataArray, axis: int) -> str:
    """Name and unit of the coordinate along an axis of labelled values."""
    name = values.dims[axis]
    return with_unit(str(name), values[name].attrs.get("units"))


def lag_text(dataset: xr.Dataset) -> str:
    """The lag of a result, in its unit and in frames; "1 lag" where nobody said it.

    Examples
    --------
    >>> lag_text(xr.Dataset(attrs={"lag": 2, "dt": 0.5, "time_unit": "ns"}))
    'lag 1 ns (2 frames)'
    """
    clock = Clock.from_attrs(dataset.attrs)
    return "1 lag" if clock.lag is None else f"lag {time_text(clock.lag, clock.lag_time, clock.time_unit)}"


def time_text(n_frames: int, time: float, unit: str) -> str:
    """A time in its unit and in frames.

    Examples
    --------
    >>> time_text(1, 0.5, "ns"), time_text(2, 2.0, "frame")
    ('0.5 ns (1 frame)', '2 frames')
    """
    frames = f"{n_frames} frame{'s' if n_frames != 1 else ''}"
    if unit in ("frame", "step"):
        return frames
    return f"{time:g} ({frames})" if unit == "1" else f"{time:g} {unit} ({frames})"


def set_mode_axis(ax: Axes, n_modes: int, label: str = "mode") -> None:
    """Whole numbers 1 to n_modes, with room for the markers at both ends."""
    ax.set(xlabel=label, xlim=(0.5, n_modes + 0.5))
    set_whole_ticks(ax.xaxis)


def set_whole_ticks(axis: Axis) -> None:
    """Ticks at whole numbers only, also where there is but one of them."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def set_log_ticks(axis: Axis) -> None:
    """Ticks such as 0.5, 1, 2 on a logarithmic axis, powers of ten alone where it spans many decades."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
