"""Draw metastable states: where they are, how frames belong to them, and the test of their Markov model."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.plots.style import GREY, add_legend, axis_label, make_axis, state_colour, with_unit


@checked
def plot_coarse_map(memberships: xr.DataArray, ax: Axes | None = None) -> Axes:
    """The most likely state over a two-dimensional grid: colour for the state, paler where the frame is shared.

    Parameters
    ----------
    memberships : DataArray (x, y, mode) of `evaluate_on_grid`, where mode counts the states; NaN is left blank

    Raises
    ------
    ValueError
        For memberships that are not on a two-dimensional grid.

    Examples
    --------
    >>> from koopman_lora.eigenanalysis import evaluate_on_grid
    >>> half = lambda x: np.stack([x[:, 0] > 0, x[:, 0] <= 0], axis=1).astype(float)
    >>> axes = {"x": np.linspace(-1, 1, 9), "y": np.linspace(-1, 1, 9)}
    >>> plot_coarse_map(evaluate_on_grid(half, axes)).get_ylabel()
    'y'
    """
    if memberships.ndim != 3:
        raise ValueError(f"memberships must be on a two-dimensional grid; got dimensions {memberships.dims}.")
    if np.iscomplexobj(memberships):
        raise ValueError("memberships must be real; got complex ones.")
    check_result("memberships", memberships, "evaluate_on_grid")
    ax = make_axis(ax)
    x, y = memberships.dims[:2]
    image, shown = _coloured(memberships.transpose(y, x, ...).values)
    ax.pcolormesh(memberships[x], memberships[y], image, shading="nearest", rasterized=True)
    handles = [Patch(color=state_colour(i), label=f"state {i}") for i in shown]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    ax.set(xlabel=axis_label(memberships, 0), ylabel=axis_label(memberships, 1), title="Coarse-grained states")
    ax.set_aspect("equal")
    return ax


def _coloured(chi: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Image (..., 4) of memberships (..., state), and the states that are seen in it."""
    known = np.isfinite(chi).all(axis=-1)
    chi = np.where(known[..., None], chi, 0.0)
    n_states = chi.shape[-1]
    colours = np.array([to_rgb(state_colour(i)) for i in range(n_states)])
    state, strength = chi.argmax(axis=-1), chi.max(axis=-1)
    # the background where all states share a frame equally, full colour where it belongs to one
    strength = np.clip((strength - 1 / n_states) / (1 - 1 / n_states), 0, 1) * known
    return np.concatenate([colours[state], strength[..., None]], axis=-1), np.unique(state[known]).tolist()


@checked
def plot_memberships(memberships: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Memberships against one coordinate, such as time or a position, one curve per state.

    Parameters
    ----------
    memberships : DataArray (coordinate, state or mode)

    Examples
    --------
    >>> chi = xr.DataArray(np.eye(2), dims=("time", "state"), coords={"time": ("time", [0.0, 1.0], {"units": "ps"})})
    >>> plot_memberships(chi).get_xlabel()
    'time (ps)'
    """
    if np.iscomplexobj(memberships):
        raise ValueError("memberships must be real; got complex ones.")
    if memberships.ndim != 2:
        raise ValueError(f"memberships must have dimensions (coordinate, state); got {memberships.dims}.")
    ax = make_axis(ax, width=7.0, height=3.2)
    along = memberships[memberships.dims[0]]
    for state in range(memberships.shape[1]):
        colour = state_colour(state)
        ax.plot(along, memberships[:, state], color=colour, label=f"state {state}")
        ax.fill_between(along, 0.0, memberships[:, state], color=colour, alpha=0.15, lw=0)
    ax.set(xlabel=axis_label(memberships, 0), ylabel="membership", ylim=(-0.02, 1.02), title="Memberships")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return ax


@checked
def plot_chapman_kolmogorov(test: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Probability to stay in each state: predicted as line with band, estimated directly as points with bars.

    Parameters
    ----------
    test : Dataset of `chapman_kolmogorov`

    Examples
    --------
    >>> path = np.repeat(np.random.default_rng(0).integers(0, 2, 200), 5)
    >>> one_hot = lambda x: torch.cat([x < 0.5, x > 0.5], dim=1).double()
    >>> moments = [estimate_moments(one_hot, one_hot, lagged_pairs(path.astype(float), lag)) for lag in (1, 2, 3)]
    >>> test = kl.chapman_kolmogorov(moments, np.eye(2), bootstrap=kl.Bootstrap(20))
    >>> plot_chapman_kolmogorov(test).get_xlabel()
    'time (frame)'
    """
    check_result("test", test, "chapman_kolmogorov", "time", "state", "state_next", "predicted", "estimated")
    if "predicted_interval" in test:
        check_result("test", test, "chapman_kolmogorov", "predicted_interval", "estimated_interval")
    ax = make_axis(ax)
    time = test["time"].values
    for state in test["state"].values:
        colour = state_colour(int(state))
        staying = test.sel(state=state, state_next=state)
        ax.plot(time, staying["predicted"], color=colour, label=f"state {state}")
        if "predicted_interval" in staying:
            ax.fill_between(time, *staying["predicted_interval"].values, color=colour, alpha=0.25, lw=0)
            estimated, (lower, upper) = staying["estimated"].values, staying["estimated_interval"].values
            bars = np.maximum([estimated - lower, upper - estimated], 0.0)
            ax.errorbar(time, estimated, bars, fmt="none", ecolor=colour, capsize=3)
        ax.plot(time, staying["estimated"], "o", color=colour, mfc=ax.get_facecolor(), ms=5)
    ax.plot([], [], color=GREY, label="predicted, $K^n$")
    ax.plot([], [], "o", color=GREY, mfc=ax.get_facecolor(), label="estimated directly")
    ax.set(
        xlabel=with_unit("time", test["time"].attrs.get("units")),
        ylabel="probability to be in the same state",
        title="Chapman-Kolmogorov test",
    )
    add_legend(ax, ncols=2)
    return ax
