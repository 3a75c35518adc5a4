"""Draw a reduced model as a network of its states."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.kinds import Reals
from koopman_lora.plots.style import make_axis, state_colour, with_unit


@checked
def plot_network(model: xr.Dataset, positions: Reals | None = None, ax: Axes | None = None) -> Axes:
    """The reduced model as a network: areas grow with the stationary probabilities, arrows rates of jumps.

    Parameters
    ----------
    model : Dataset of `macroscopic_model`
    positions : array (n_states, 2), optional
        Where to draw the states, such as centres of wells; on a circle by default.

    Raises
    ------
    ValueError
        For positions of another shape.

    Examples
    --------
    >>> path = np.repeat(np.random.default_rng(0).integers(0, 2, 200), 5)
    >>> one_hot = lambda x: torch.cat([x < 0.5, x > 0.5], dim=1).double()
    >>> moments = estimate_moments(one_hot, one_hot, lagged_pairs(path.astype(float)))
    >>> len(plot_network(kl.macroscopic_model(moments, bootstrap=None)).texts) >= 2
    True
    """
    check_result("model", model, "macroscopic_model", "state", "stationary_distribution", "rates")
    n = model.sizes["state"]
    positions = _circle(n) if positions is None else np.asarray(positions, dtype=float)
    if positions.shape != (n, 2):
        raise ValueError(f"positions must have shape ({n}, 2); got {positions.shape}.")
    ax = make_axis(ax, width=6.0, height=5.5)
    places = _in_unit_square(positions)
    pi, rates = model["stationary_distribution"].values, model["rates"].values
    for i in range(n):
        for j in range(n):
            if i != j and rates[i, j] > 1e-3 * rates.max():
                _draw_arrow(ax, places[i], places[j], rates[i, j], rates.max(), state_colour(i))
    for i, (place, probability) in enumerate(zip(places, pi, strict=True)):
        ax.scatter(
            place[0], place[1], s=1300 + 4000 * probability, color=state_colour(i), edgecolor="white", lw=2, zorder=3
        )
        text = f"{i}\n{100 * probability:.0f} %"
        ax.text(place[0], place[1], text, ha="center", va="center", color="white", fontsize=9, weight="bold", zorder=4)
    title = with_unit("Reduced model: populations and rates", model["rates"].attrs.get("units"))
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], title=title)
    ax.set_aspect("equal")
    ax.spines[:].set_visible(False)
    return ax


def _circle(n: int) -> np.ndarray:
    angle = np.pi / 2 - 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _in_unit_square(positions: np.ndarray) -> np.ndarray:
    """The positions with a margin, so that sizes do not depend on their units."""
    low, span = positions.min(axis=0), np.ptp(positions, axis=0)
    return np.where(span > 1e-9 * span.max(), 0.15 + 0.7 * (positions - low) / np.maximum(span, 1e-300), 0.5)


def _draw_arrow(ax: Axes, start: np.ndarray, end: np.ndarray, rate: float, largest: float, colour: str) -> None:
    """An arrow that passes its counterpart on the left, with its rate beside it."""
    width = 0.6 + 3.4 * rate / largest
    arrow = FancyArrowPatch(
        (start[0], start[1]),
        (end[0], end[1]),
        connectionstyle="arc3,rad=0.15",
        arrowstyle="-|>",
        mutation_scale=10 + 2 * width,
        lw=width,
        color=colour,
        shrinkA=26,
        shrinkB=26,
        alpha=0.9,
    )
    ax.add_patch(arrow)
    along = end - start
    # a third of the way, where arrows that cross in the middle leave room
    beside = start + 0.36 * along + 0.135 * np.array([along[1], -along[0]])
    box = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
    style: dict[str, Any] = {"color": colour, "fontsize": 9, "weight": "bold", "bbox": box, "zorder": 5}
    ax.text(beside[0], beside[1], f"{rate:.2g}", ha="center", va="center", **style)
