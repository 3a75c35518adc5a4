"""Draw the course of a training."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    add_legend,
    add_legend_outside,
    ink,
    make_axis,
    set_whole_ticks,
    state_colour,
)


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
    _set_epochs(ax, history)
    ax.set(ylabel="score (higher is better)", title="Training")
    add_legend(ax)
    return ax


@checked
def plot_learned_svals(history: xr.Dataset, spectrum: xr.Dataset | None = None, ax: Axes | None = None) -> Axes:
    """Learned singular values against the epoch, one curve per mode, and where the empirical ones lie (dashed).

    They meet only where training went on until both were right: a fit that refines may stop before, since its features
    are solved for at the end, and its svals with them.

    Parameters
    ----------
    history : of a fit that learns svals, `estimator.training_.history`
    spectrum : of the same fit, `estimator.spectrum_`: its canonical singular values, those of the features at the end

    Raises
    ------
    ValueError
        If the fit had no svals to learn.

    Examples
    --------
    >>> pairs = lagged_pairs(NoisyRotation().simulate(n_trajectories=2, n_steps=300, seed=0))
    >>> model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(8,), learn_svals=True)
    >>> plot_learned_svals(kl.fit(model, pairs, n_epochs=2).history).get_xlabel()
    'epoch'
    """
    check_result("history", history, "fit", "epoch", attrs=["best_epoch"])
    if "svals" not in history:
        raise ValueError("history must be of a fit with learn_svals=True; this one holds no svals.")
    check_result("history", history, "fit", "mode")
    if spectrum is not None:
        check_result("spectrum", spectrum, "spectrum", "mode", "canonical_singular_values")
    ax = make_axis(ax)
    for k, mode in enumerate(history["mode"].values):
        colour = state_colour(k)
        ax.plot(history["epoch"], history["svals"].sel(mode=mode), color=colour, marker=".", ms=4, label=f"mode {mode}")
        if spectrum is not None and mode in spectrum["mode"]:
            ax.axhline(float(spectrum["canonical_singular_values"].sel(mode=mode)), color=colour, ls="--", lw=1.2)
    if spectrum is not None:
        ax.plot([], [], color=ink(), ls="--", lw=1.2, label="canonical, at the end")
    _set_epochs(ax, history)
    ax.set(ylabel="singular value", title="Learned singular values")
    add_legend_outside(ax)
    return ax


def _set_epochs(ax: Axes, history: xr.Dataset) -> None:
    """Epochs along the axis, the best one marked."""
    ax.axvline(history.attrs["best_epoch"], color=GREY, ls=":", label=f"best epoch: {history.attrs['best_epoch']}")
    ax.set(xlabel="epoch")
    set_whole_ticks(ax.xaxis)
