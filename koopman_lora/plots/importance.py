"""Draw which inputs drive a mode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.kinds import Count
from koopman_lora.plots.style import GREY, add_legend_outside, make_axis, state_colour

_MARKERS = "osD^vP<>"
_LONGEST_NAME = 40


@checked
def plot_input_importance(
    importance: xr.Dataset, modes: Sequence[int] | None = None, n_inputs: Count = 20, ax: Axes | None = None
) -> Axes:
    """What sigma of each mode loses without an input, with intervals; the inputs that lose most on top.

    Parameters
    ----------
    importance : Dataset of `input_importance`
    modes : mode numbers to draw; by default the first four after the constant
    n_inputs : draw at most so many inputs, those with the largest loss in any of these modes

    Raises
    ------
    ValueError
        For modes that are not there.

    Examples
    --------
    >>> data = NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0)
    >>> estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=2).fit(data)
    >>> plot_input_importance(estimator.input_importance(bootstrap=kl.Bootstrap(20))).get_xlabel()
    'sigma lost, 95 % intervals'
    """
    check_result(
        "importance", importance, "input_importance", "input", "mode", "sigma", "sigma_loss", "sigma_loss_interval",
        attrs=["level"],
    )  # fmt: skip
    available = [int(mode) for mode in importance["mode"].values]
    modes = list(dict.fromkeys(modes or available[1:5] or available))
    if not set(modes) <= set(available):
        raise ValueError(f"modes must be among {available}; got {modes}.")
    chosen = importance.sel(mode=modes)
    order = np.argsort(-chosen["sigma_loss"].max("mode").values, kind="stable")[:n_inputs]
    shown = chosen.isel(input=order)
    names = [_short(str(name)) for name in shown["input"].values]
    height = 0.9 + max(len(order) * (0.14 + 0.12 * len(modes)), 0.25 * len(modes) + 0.2)
    ax = make_axis(ax, 6.5 + 0.07 * max(map(len, names)), height)
    ax.axvline(0.0, color=GREY, lw=0.8, ls=":")
    for i, mode in enumerate(modes):
        _draw_mode(ax, shown.sel(mode=mode), i, len(modes))
    ax.set_yticks(np.arange(len(order)), names)
    if len(modes) > 1:
        for edge in np.arange(1, len(order)) - 0.5:
            ax.axhline(edge, color=GREY, lw=0.4, alpha=0.5)
    ax.set(ylim=(len(order) - 0.5, -0.5), xlabel=f"sigma lost, {100 * importance.attrs['level']:g} % intervals")
    n_all = importance.sizes["input"]
    ax.set_ylabel("input" if len(order) == n_all else f"input ({len(order)} of {n_all})")
    ax.set_title("What a mode loses without an input")
    add_legend_outside(ax)
    return ax


def _draw_mode(ax: Axes, loss: xr.Dataset, i: int, n_modes: int) -> None:
    """Points with intervals of one mode, the i-th of those that share the band of an input."""
    at = np.arange(loss.sizes["input"]) + (i - (n_modes - 1) / 2) * 0.7 / n_modes
    colour = state_colour(i)
    ax.hlines(at, *loss["sigma_loss_interval"].values, color=colour, lw=2, alpha=0.6)
    label = f"mode {int(loss['mode'])}, sigma {float(loss['sigma']):.2f}"
    ax.plot(loss["sigma_loss"], at, _MARKERS[i % len(_MARKERS)], color=colour, ms=5, label=label)


def _short(name: str) -> str:
    """A name that leaves room for the picture.

    Examples
    --------
    >>> _short("distance between C-alpha of residue 1 and C-alpha of residue 7")
    'distance between C-a…-alpha of residue 7'
    """
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[: half + 1]}…{name[-half:]}"
