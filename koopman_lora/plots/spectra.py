"""Draw a spectrum: singular values of every kind, eigenvalues."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.clock import CLOCK_ATTRS
from koopman_lora.plots.style import BLUE, GREY, ORANGE, SKY, add_legend, ink, lag_text, make_axis, set_mode_axis


@runtime_checkable
class HasSingularValues(Protocol):
    """Anything with `singular_values`, such as a system's reference spectrum."""

    @property
    def singular_values(self) -> Any:
        """Decreasing, (n_modes,)."""
        ...


# Colour, marker, size and width of line of each kind of singular value, the same in every plot; they nest.
_MARKERS: dict[str, dict[str, Any]] = {
    "reference": {"marker": "_", "color": None, "ms": 18, "mew": 2, "zorder": 1},
    "learned": {"marker": "D", "color": ORANGE, "ms": 8, "mfc": "none", "mew": 1.6},
    "K_matrix": {"marker": "s", "color": SKY, "ms": 11, "mfc": "none", "mew": 1.4},
    "canonical": {"marker": "o", "color": BLUE, "ms": 5},
}


@checked
def plot_spectrum(spectrum: xr.Dataset, reference: HasSingularValues | None = None, ax: Axes | None = None) -> Axes:
    """Learned, K_matrix, canonical and reference singular values against the mode number, on one axis.

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    reference : object with `singular_values`, such as `system.spectrum(lag, n_modes)`

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> spectrum = kl.koopman_spectrum(estimate_moments(features, features, (x, 0.5 * x)))
    >>> plot_spectrum(spectrum).get_xlabel()
    'mode (1 is the constant)'
    """
    check_result(
        "spectrum",
        spectrum,
        "koopman_spectrum",
        "mode",
        "singular_values",
        "canonical_singular_values",
        attrs=CLOCK_ATTRS,
    )
    ax = make_axis(ax)
    modes = spectrum["mode"].values
    if reference is not None:
        draw_reference(ax, modes, reference)
    if "svals" in spectrum:
        draw_singular_values(ax, modes, spectrum["svals"], "learned", "learned svals")
    draw_singular_values(ax, modes, spectrum["singular_values"], "K_matrix", "SVD of K_matrix")
    draw_singular_values(ax, modes, spectrum["canonical_singular_values"], "canonical", "canonical")
    set_singular_value_axis(ax, len(modes))
    ax.set_title(f"Koopman singular values, {lag_text(spectrum)}")
    add_legend(ax)
    return ax


@checked
def plot_eigenvalues(spectrum: xr.Dataset, intervals: xr.Dataset | None = None, ax: Axes | None = None) -> Axes:
    """Eigenvalues in the complex plane with the unit circle, and their intervals where given.

    The axis holds all eigenvalues and the circle; an interval that is wider than that runs out of it.

    Parameters
    ----------
    spectrum : Dataset of `koopman_spectrum`
    intervals : Dataset of `bootstrap_intervals`

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> features = lambda x: torch.cat([x**0, x], dim=1)
    >>> spectrum = kl.koopman_spectrum(estimate_moments(features, features, (x, 0.5 * x)))
    >>> plot_eigenvalues(spectrum).get_aspect()
    1.0
    """
    check_result("spectrum", spectrum, "koopman_spectrum", "eigenvalues", attrs=CLOCK_ATTRS)
    if intervals is not None:
        check_result("intervals", intervals, "bootstrap_intervals", "part", "eigenvalues_interval", attrs=["level"])
    ax = make_axis(ax, 4.8, 5.2)
    angle = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(angle), np.sin(angle), color=GREY, lw=1, label="unit circle")
    values = spectrum["eigenvalues"].values
    if intervals is not None:
        real, imag = (intervals["eigenvalues_interval"].sel(part=part).values for part in ("real", "imaginary"))
        label = f"{100 * intervals.attrs['level']:g} % interval"
        ax.hlines(values.imag, *real, color=SKY, lw=2, label=label)
        ax.vlines(values.real, *imag, color=SKY, lw=2)
    filled = BLUE if intervals is None else "none"  # a narrow interval is seen inside its marker
    ax.plot(values.real, values.imag, "o", color=BLUE, ms=6, mfc=filled, label="eigenvalues")
    limit = 1.1 * max(1.0, np.nanmax(np.abs(values)))
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$", title=f"Koopman eigenvalues, {lag_text(spectrum)}")
    ax.set(xlim=(-limit, limit), ylim=(-limit, 1.25 * limit))  # the legend stands above the circle
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    add_legend(ax, loc="upper center", ncols=3, columnspacing=1.0)
    return ax


def draw_singular_values(ax: Axes, modes: np.ndarray, values: Any, kind: str, label: str) -> None:
    """Markers of one kind of singular value: reference, learned, K_matrix or canonical."""
    style = _MARKERS[kind]
    size = style["ms"] * min(1.0, np.sqrt(12 / len(modes)))  # many modes leave less room
    colour = style["color"] or ink()
    ax.plot(modes[: len(values)], values, ls="none", **(style | {"ms": size, "color": colour}), label=label)


def draw_reference(ax: Axes, modes: np.ndarray, reference: HasSingularValues) -> None:
    """Markers of the true singular values, as many as there are modes."""
    values = np.asarray(reference.singular_values)[: len(modes)]
    draw_singular_values(ax, modes, values, "reference", "reference (truth)")


def set_singular_value_axis(ax: Axes, n_modes: int, lowest: float = 0.0) -> None:
    """Limits of an axis of singular values: from 0, or below where noise is; logarithmic above 1 if they explode."""
    set_mode_axis(ax, n_modes, "mode (1 is the constant)")
    ax.axhline(1.0, color=GREY, lw=0.8, ls=":")
    top = max(1.0, ax.dataLim.y1)
    if top > 5:
        ax.set_yscale("symlog", linthresh=1.0)
    ax.set(ylabel="singular value", ylim=(min(0.0, lowest - 0.04 * min(top, 5.0)), 1.06 * top))
