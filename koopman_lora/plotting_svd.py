"""Draw the decomposition of a given matrix: the Dataset of `NeuralSVD.to_dataset` in, an axis out."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from koopman_lora.plotting import BLACK, BLUE, ORANGE, make_axis


def plot_matrix_svals(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Singular values after training and at the end, on top of LAPACK's where those are in the Dataset."""
    ax = make_axis(ax)
    modes = result["mode"].values
    if "singular_values_exact" in result:
        ax.plot(modes, result["singular_values_exact"], "_", color=BLACK, ms=18, mew=2, label="LAPACK")
    ax.plot(modes, result["singular_values_trained"], "D", color=ORANGE, ms=8, mfc="none", mew=1.5, label="trained")
    ax.plot(modes, result["singular_values"], "o", color=BLUE, ms=5, label="after Rayleigh-Ritz")
    ax.set(xlabel="mode", ylabel="singular value", title="Singular values of the matrix")
    ax.set_ylim(0, 1.08 * float(result["singular_values"].max()) or 1.0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return ax


def plot_matrix_training(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Relative reconstruction error of the leading modes against the training step."""
    ax = make_axis(ax)
    ax.plot(result["step"], result["training_error"], color=BLUE, label=str(result.attrs["stop_reason"]))
    ax.set(xlabel="step", ylabel="relative reconstruction error", yscale="log", title="Training")
    ax.legend(frameon=False, title="stopped because")
    return ax


def plot_matrix_core(result: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Entries of |U^H H V|: diagonal for a true singular value decomposition."""
    ax = make_axis(ax, 4.8, 4.0)
    image = ax.imshow(result["core"], cmap="cividis", extent=_extent(result.sizes["mode"]))
    ax.set(xlabel="column mode", ylabel="row mode", title=r"$|U^H H V|$")
    ax.figure.colorbar(image, ax=ax, shrink=0.85)
    return ax


def _extent(n: int) -> tuple[float, float, float, float]:
    """Edges of an image whose pixels are modes 1 to n, the first row on top."""
    return (0.5, n + 0.5, n + 0.5, 0.5)
