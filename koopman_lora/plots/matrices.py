"""Draw the decomposition of a given matrix: the Dataset of `NeuralSVD.to_dataset` in, an axis out."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.plots.style import (
    BLUE,
    ORANGE,
    add_legend,
    ink,
    make_axis,
    set_log_ticks,
    set_mode_axis,
    set_whole_ticks,
)


@checked
def plot_matrix_svals(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Singular values after training and at the end, on top of LAPACK's where those are in the Dataset.

    The axis is logarithmic where they span more than a factor of 20.

    Parameters
    ----------
    result : Dataset of `NeuralSVD.result_`

    Examples
    --------
    >>> svd = kl.NeuralSVD(n_modes=2, max_steps=100, seed=0).fit(np.diag([3.0, 2.0, 1.0]))
    >>> plot_matrix_svals(svd.result_).get_xlabel()
    'mode'
    """
    check_result("result", result, "to_dataset", "mode", "singular_values", "singular_values_trained")
    ax = make_axis(ax)
    modes, values = result["mode"].values, result["singular_values"]
    if "singular_values_exact" in result:
        ax.plot(modes, result["singular_values_exact"], "_", color=ink(), ms=18, mew=2, label="LAPACK")
    ax.plot(modes, result["singular_values_trained"], "D", color=ORANGE, ms=8, mfc="none", mew=1.5, label="trained")
    ax.plot(modes, values, "o", color=BLUE, ms=5, label="after Rayleigh-Ritz")
    set_mode_axis(ax, len(modes))
    low, high = float(values.min()), float(values.max())
    if 0 < low < high / 20:
        ax.set(yscale="log", ylim=(low / 2, 2 * high))
        set_log_ticks(ax.yaxis)
    else:
        ax.set_ylim(0, 1.08 * high or 1.0)
    ax.set(ylabel="singular value", title="Singular values of the matrix")
    add_legend(ax)
    return ax


@checked
def plot_matrix_training(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Relative reconstruction error of the leading modes against the training step.

    Below it the smallest error that a matrix of that rank can have, by Eckart and Young, where that is known.

    Parameters
    ----------
    result : Dataset of `NeuralSVD.result_`

    Examples
    --------
    >>> svd = kl.NeuralSVD(n_modes=2, max_steps=100, seed=0).fit(np.diag([3.0, 2.0, 1.0]))
    >>> plot_matrix_training(svd.result_).get_xlabel()
    'step'
    """
    needed = ("iteration", "training_error", "training_floor")
    check_result("result", result, "to_dataset", *needed, attrs=["stop_reason"], may_be_empty=True)
    ax = make_axis(ax)
    ax.plot(result["iteration"], result["training_error"], color=BLUE, label="training")
    floor = float(result["training_floor"])
    if floor > 0:  # a logarithmic axis has no 0, and what is unknown is NaN
        ax.axhline(floor, color=ink(), ls="--", lw=1.2, label="smallest possible (Eckart-Young)")
    ax.set(xlabel="step", ylabel="relative reconstruction error", yscale="log")
    ax.set_title(f"Training, stopped because: {result.attrs['stop_reason']}")
    set_whole_ticks(ax.xaxis)
    set_log_ticks(ax.yaxis)
    # the curve may lie anywhere within the axes
    add_legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    return ax


@checked
def plot_matrix_core(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Entries of |U^H H V| on a logarithmic scale: diagonal for a true singular value decomposition.

    Parameters
    ----------
    result : Dataset of `NeuralSVD.result_`

    Examples
    --------
    >>> svd = kl.NeuralSVD(n_modes=2, max_steps=100, seed=0).fit(np.diag([3.0, 2.0, 1.0]))
    >>> plot_matrix_core(svd.result_).get_xlabel()
    'column mode'
    """
    check_result("result", result, "to_dataset", "mode", "core")
    ax = make_axis(ax, 4.8, 4.0)
    largest = float(result["core"].max()) or 1.0
    # a linear scale would hide off-diagonal entries beside large singular values; what is below 1e-8 is round-off
    scale = LogNorm(1e-8 * largest, largest, clip=True)
    image = ax.imshow(result["core"], cmap="cividis", norm=scale, extent=_extent(result.sizes["mode"]))
    ax.set(xlabel="column mode", ylabel="row mode", title=r"$|U^H H V|$")
    for axis in (ax.xaxis, ax.yaxis):
        set_whole_ticks(axis)
    ax.figure.colorbar(image, ax=ax, shrink=0.85, extend="min")
    return ax


def _extent(n: int) -> tuple[float, float, float, float]:
    """Edges of an image whose pixels are modes 1 to n, the first row on top."""
    return (0.5, n + 0.5, n + 0.5, 0.5)
