"""Draw the course of a training."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.plots.style import BLUE, GREY, ORANGE, add_legend, make_axis, set_whole_ticks


@checked
def plot_history(history: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Training loss (negated, so that both rise) and held-out VAMP-2 against the epoch; the best epoch is marked.

    Parameters
    ----------
    history : Dataset of `fit`, `TrainingResult.history`

    Examples
    --------
    >>> pairs = lagged_pairs(NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0))
    >>> plot_history(kl.fit(kl.KoopmanLoRAModel(2, 3, hidden_dims=(8,)), pairs, n_epochs=2).history).get_xlabel()
    'epoch'
    """
    check_result("history", history, "fit", "epoch", "loss", attrs=["best_epoch"])
    ax = make_axis(ax)
    epochs = history["epoch"].values
    ax.plot(epochs, -history["loss"], color=ORANGE, label="minus training loss (nested)")
    if "held_out_vamp_2" in history:
        ax.plot(epochs, history["held_out_vamp_2"], color=BLUE, marker="o", ms=3, label="held-out VAMP-2")
    ax.axvline(history.attrs["best_epoch"], color=GREY, ls=":", label=f"best epoch: {history.attrs['best_epoch']}")
    ax.set(xlabel="epoch", ylabel="score (higher is better)", title="Training")
    set_whole_ticks(ax.xaxis)
    add_legend(ax)
    return ax
