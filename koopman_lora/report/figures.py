"""Pictures inside the page: SVG that takes its colours from it, so that one drawing serves on light and on dark."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from koopman_lora.plots.style import BLACK, BLUE

# Stand for the colours of text and background of the page; no picture has them of its own.
_INK, _PAPER = "#010203", "#fdfeff"
_OF_THE_PAGE = {_INK: "currentColor", BLACK: "currentColor", _PAPER: "var(--paper)"}
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "savefig.facecolor": "auto",
    "axes.facecolor": _PAPER,
    "svg.fonttype": "path",  # the same on every machine, and legible without the font
    "axes.titlesize": 10,
    "svg.hashsalt": "koopman_lora",  # the same page for the same fit
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "patch.edgecolor"), _INK
    ),
}
# Inches: read without a magnifier at the width of a phone, where the page shows it at three quarters of its size.
SIZE, SQUARE, PANEL = (4.5, 3.2), (4.5, 3.9), (3.2, 2.9)
# Characters of a label beyond which a legend has one column.
_LONG_LABEL = 24


class Figure(NamedTuple):
    """A picture with its text alternative and its caption."""

    svg: Markup
    alt: str
    caption: str


def drawn(draw: Callable[[Axes], object], alt: str, caption: str, size: tuple[float, float] = SIZE) -> Figure:
    """What `draw` puts on an axis, as a figure; its legend goes below, where it covers nothing and needs no width."""
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=size, layout="compressed")
        draw(canvas.subplots())
        _put_legend_below(canvas)
        buffer = io.StringIO()
        canvas.savefig(buffer, format="svg", dpi=144)
    return Figure(_of_page(buffer.getvalue(), alt), alt, caption)


def plain(name: str) -> str:
    r"""A name as a label that no picture reads as mathematics.

    Examples
    --------
    >>> plain("$x")
    '\\$x'
    """
    return name.replace("$", r"\$")


def _put_legend_below(canvas: Canvas) -> None:
    legend = canvas.axes[0].get_legend()
    if legend is None:
        return
    handles: list[Any]
    handles, labels = canvas.axes[0].get_legend_handles_labels()
    if not handles:  # it was made of handles of its own
        handles, labels = list(legend.legend_handles), [text.get_text() for text in legend.get_texts()]
    title = legend.get_title().get_text()
    legend.remove()
    n_columns = 1 if max(map(len, labels)) > _LONG_LABEL else min(3, len(labels))
    options: dict[str, Any] = {"ncols": n_columns, "fontsize": 8.5, "frameon": False, "title": title or None}
    canvas.legend(handles, labels, loc="outside lower left", **options)
    width, height = canvas.get_size_inches()
    canvas.set_size_inches(width, height + 0.18 * -(-len(labels) // n_columns))


def _of_page(svg: str, alt: str) -> Markup:
    """SVG to stand inside a page: names of its own, colours of the page, a text alternative."""
    start = svg.index("<svg")
    head, body = svg[start:].split(">", 1)
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"\n\s*", "\n", body)
    # thin blue lines are lighter on dark; what is made of pixels keeps its colours, and so must its legend
    of_page = _OF_THE_PAGE | ({} if "<image" in body else {BLUE.lower(): "var(--blue)"})
    for colour, instead in of_page.items():
        body = body.replace(colour, instead)
    box = re.search(r'viewBox="([^"]+)"', head)
    width, height = (float(size) for size in box.group(1).split()[2:]) if box else (0.0, 0.0)
    own = "f" + hashlib.blake2b((alt + body).encode(), digest_size=4).hexdigest()
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{own}-", body)
    return Markup(f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}">{body}')
