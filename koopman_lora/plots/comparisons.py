"""Draw how far to trust a spectrum: learned against empirical singular values, and their ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.plots.spectra import HasSingularValues, draw_reference, draw_singular_values, set_singular_value_axis
from koopman_lora.plots.style import BLUE, GREEN, GREY, ORANGE, add_legend, make_axis, set_mode_axis


@checked
def plot_comparison(comparison: xr.Dataset, reference: HasSingularValues | None = None, ax: Axes | None = None) -> Axes:
    """Learned against empirical singular values with the interval of the canonical ones, verdict in the title.

    Held-out values carry bars of one standard error.

    Parameters
    ----------
    comparison : Dataset of `compare_singular_values`
    reference : object with `singular_values`, drawn as the truth

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> comparison = kl.compare_singular_values(estimate_moments(features, features, (x, 0.5 * x)), svals=[1.0, 0.5])
    >>> plot_comparison(comparison).get_title()
    'Largest cause of disagreement: training gap'
    """
    check_result(
        "comparison",
        comparison,
        "compare_singular_values",
        "mode",
        "learned",
        "K_matrix",
        "canonical",
        "canonical_interval",
        "canonical_held_out",
        "held_out_error",
        attrs=["level", "has_held_out", "verdict"],
    )
    ax = make_axis(ax)
    modes, held_out = comparison["mode"].values, comparison["canonical_held_out"]
    if reference is not None:
        draw_reference(ax, modes, reference)
    label = f"{100 * comparison.attrs['level']:g} % interval"
    lower, upper = comparison["canonical_interval"].values
    ax.vlines(modes, lower, upper, color=BLUE, alpha=0.3, lw=min(9.0, 160 / len(modes)), label=label)
    draw_singular_values(ax, modes, comparison["canonical"], "canonical", "canonical (fitted pairs)")
    if comparison.attrs["has_held_out"]:
        bars: dict[str, Any] = {"fmt": "x", "color": GREEN, "ms": 6, "mew": 1.6, "lw": 1.2}
        ax.errorbar(modes, held_out, comparison["held_out_error"], **bars, label="canonical (held out), std. error")
    draw_singular_values(ax, modes, comparison["learned"], "learned", "learned svals")
    draw_singular_values(ax, modes, comparison["K_matrix"], "K_matrix", "SVD of K_matrix")
    set_singular_value_axis(ax, len(modes), lowest=min(0.0, float(held_out.min())))
    ax.set_title(f"Largest cause of disagreement: {comparison.attrs['verdict']}")
    add_legend(ax)
    return ax


@checked
def plot_ratio(comparison: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Ratio of K_matrix to learned singular values per mode, with its mean and standard deviation.

    Parameters
    ----------
    comparison : Dataset of `compare_singular_values`

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> comparison = kl.compare_singular_values(estimate_moments(features, features, (x, 0.5 * x)), svals=[1.0, 0.5])
    >>> plot_ratio(comparison).get_xlabel()
    'mode'
    """
    check_result(
        "comparison", comparison, "compare_singular_values", "mode", "ratio", attrs=["ratio_mean", "ratio_std"]
    )
    ax = make_axis(ax)
    mean, std = comparison.attrs["ratio_mean"], comparison.attrs["ratio_std"]
    ax.axhspan(mean - std, mean + std, color=ORANGE, alpha=0.25, lw=0, label=f"mean ± std: {mean:.3g} ± {std:.2g}")
    ax.axhline(1.0, color=GREY, lw=0.8, ls=":", label="agreement")
    ax.plot(comparison["mode"], comparison["ratio"], "o-", color=BLUE)
    set_mode_axis(ax, comparison.sizes["mode"])
    farthest = np.fmax(0.05, 1.1 * float(abs(comparison["ratio"] - 1).max()))  # round-off must not fill the axis
    if farthest > 10:
        ax.set_yscale("symlog", linthresh=1.0)
    lowest = 1 - farthest if farthest < 1 else -0.03 * min(farthest, 10.0)
    ax.set(ylabel="K_matrix / learned", ylim=(lowest, 1 + farthest))
    ax.set_title("Ratio of singular values")
    add_legend(ax)
    return ax
