"""A figure per table: seconds of a fit against the share it captured, a curve or a point for every method."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from koopman_lora.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

STYLES = {
    "koopman_lora": (RED, "o"),
    "bare loop": (ORANGE, "s"),
    "VAMPNet": (BLUE, "^"),
    "contrastive loss": (GREEN, "v"),
    "NystroemKernelRidge": (PURPLE, "D"),
    "Nystroem + VAMP": (SKY, "P"),
    "linear VAMP": (BLACK, "X"),
    "DeepTICA": ("#A6761D", "h"),
}
SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999)
SMALLEST = 5e-5  # error that can be drawn


def error(share: float | np.ndarray) -> np.ndarray:
    """What of the operator is missed, large enough for a logarithm."""
    return np.maximum(1 - np.asarray(share), SMALLEST)


def draw_figure(title: str, runs: Sequence[Any], rows: Sequence[Any], path: pathlib.Path) -> None:
    """Draw runs and their medians into a file."""
    fig, ax = plt.subplots(figsize=(9.0, 5.2), layout="constrained")
    for label, (colour, marker) in STYLES.items():
        _draw_method(ax, [r for r in runs if r.method == label], [r for r in rows if r.method == label], colour, marker)
    for row in rows:
        if row.kind == "floor":
            ax.axhline(error(row.share_median), color=GREY, linestyle="--", zorder=0)
            ax.text(
                0.995,
                error(row.share_median),
                "statistical floor",
                color=GREY,
                fontsize="small",
                ha="right",
                va="bottom",
                transform=ax.get_yaxis_transform(),
            )
    _label_axes(ax, title)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def _draw_method(ax: Axes, runs: Sequence[Any], rows: Sequence[Any], colour: str, marker: str) -> None:
    """Median curve through settings of growing cost, spread of the reported ones, the best setting as an open mark."""
    rows = [r for r in rows if np.isfinite(r.share_median)]
    if not rows:
        return
    line = sorted((r for r in rows if r.kind != "best"), key=lambda r: r.seconds_median)
    ax.plot(
        [r.seconds_median for r in line], error([r.share_median for r in line]), color=colour, linewidth=1.2, alpha=0.7
    )
    for run in runs:
        if run.kind != "curve":
            ax.plot(run.seconds, error(run.share), marker, color=colour, markersize=3, alpha=0.35, markeredgewidth=0)
    for row in rows:
        size = 4 if row.kind == "curve" else 9
        face = "white" if row.kind == "best" else colour
        name = rows[0].method if row is next((r for r in rows if r.kind == "default"), None) else None
        ax.plot(
            row.seconds_median,
            error(row.share_median),
            marker,
            color=colour,
            markersize=size,
            markerfacecolor=face,
            linestyle="none",
            label=name,
        )


def _label_axes(ax: Axes, title: str) -> None:
    """Shares on the axis of a logarithmic error, the best on top; legend beside the axes, where it covers nothing."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.invert_yaxis()
    ax.yaxis.set_major_locator(FixedLocator([1 - share for share in SHARES]))
    ax.yaxis.set_major_formatter(lambda value, _: f"{1 - value:.4g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.set_xlabel("time of a fit (s)")
    ax.set_ylabel(r"captured share of $\sum\sigma_i^2$")
    ax.set_title(title, fontsize="medium")
    ax.plot([], [], "o", color=GREY, markerfacecolor="white", label="best setting found")
    ax.plot([], [], "o", color=GREY, markersize=3, alpha=0.5, label="single draws")
    ax.plot([], [], ".-", color=GREY, label="other budgets, median")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
