"""`Summary`: every mode with its interval and a verdict, and the sentences that matter; as text and as HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import MODE
from koopman_lora.clock import Clock
from koopman_lora.columns import cells, complex_text, is_shown_real, level_text, ranges
from koopman_lora.finding import Finding
from koopman_lora.findings import OVER_FIT
from koopman_lora.tables import columns_text, finding_text, selection_text

DIFFERENT = "values differ"  # the finding that the line about three kinds of values gives way to
# Share of an eigenfunction that must lie along a singular function for both to be one mode.
_OWN = 0.5
# Sentences of a summary that are shown; the others are counted.
_SHOWN = 6


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """What a fit found, and how far to trust it. `print(summary)` shows it; in a notebook it is a table.

    Attributes
    ----------
    modes : Dataset
        Per mode `sigma` (canonical) with `sigma_interval`, `sigma_held_out` with `held_out_error`; `sigma_left_out`,
        the lower of this and the value at folds of the training pairs, which tell over-fitting as well (a column only
        where there is some); of `eigenvalues`, `timescales` (with `timescales_interval`) and `periods` that of the
        eigenfunction which lies most along this singular function, with `eigenvalue_condition`, and `own_share`, how
        much of it does; `transitions` that were seen, -1 where that is not known; `cluster`, a number for neighbours
        whose intervals overlap, which fix a subspace and not functions; `agreement` of several fits about that
        subspace, where there are any; `verdict`: 'exact' for the constant,
        'sure', 'sampling' (more data would tell), 'over-fit' (the canonical value is too high), 'not resolved'
        (held-out pairs do not tell it from noise), 'not tested' (held-out pairs, if there are any, do not show it).
    findings : what is wrong, the most serious first, each with what to do
    number_of_modes : Dataset of `select_n_modes`; None where too little was held out
    """

    modes: xr.Dataset
    findings: tuple[Finding, ...]
    number_of_modes: xr.Dataset | None

    def __str__(self) -> str:
        return summary_text(self)

    def __repr__(self) -> str:
        return summary_text(self)

    def _repr_html_(self) -> str:
        return summary_html(self)


def summary_text(summary: Summary) -> str:
    """Readable text of a summary: what was fitted, a row per mode, and the sentences that matter."""
    head, *lines = summary_lines(summary)
    findings = [f"- {finding_text(finding)}" for finding in summary.findings[:_SHOWN]]
    more = len(summary.findings) - len(findings)
    findings += [f"- and {more} more: see summary().findings"] if more else []
    return "\n".join([head, "", columns_text(summary_columns(summary)), "", *lines, *findings])


def summary_html(summary: Summary) -> str:
    """The same as HTML, for notebooks; all text is escaped."""
    columns = summary_columns(summary)
    head, *lines = map(html.escape, summary_lines(summary))
    heads = "".join(f'<th style="text-align: right">{html.escape(name)}</th>' for name in columns)
    rows = "".join(
        "<tr>" + "".join(f'<td style="text-align: right">{html.escape(cell)}</td>' for cell in row) + "</tr>"
        for row in zip(*columns.values(), strict=True)
    )
    findings = "".join(
        f"<li><b>{html.escape(finding.name)}</b>: {html.escape(finding.message)}</li>" for finding in summary.findings
    )
    paragraphs = "".join(f"<p>{line}</p>" for line in lines)
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<div><p>{head}</p>{table}{paragraphs}{f'<ul>{findings}</ul>' if findings else ''}</div>"


def summary_columns(summary: Summary) -> dict[str, list[str]]:
    """Head -> cells below it, a row for each mode."""
    modes = summary.modes
    level, unit = level_text(modes), modes["timescales"].attrs["units"]
    eigenvalues, verdicts = modes["eigenvalues"].values, list(map(str, modes["verdict"].values))
    periods = [
        "-" if is_shown_real(value) else f"{period:.4g}"
        for value, period in zip(eigenvalues, modes["periods"].values, strict=True)
    ]
    return {
        "mode": cells(modes[MODE], "d"),
        "sigma": cells(modes["sigma"], ".3f"),
        level: ranges(modes["sigma_interval"].values, ".3f"),
        "held out": [_with_error(*pair) for pair in zip(modes["sigma_held_out"], modes["held_out_error"], strict=True)],
        **({"left out": cells(modes["sigma_left_out"], ".3f")} if OVER_FIT in verdicts else {}),
        "eigenvalue": [
            complex_text(value) + (" ~" if share < _OWN else "  ")
            for value, share in zip(eigenvalues, modes["own_share"].values, strict=True)
        ],
        **({} if all(map(is_shown_real, eigenvalues)) else {f"period ({unit})": periods}),
        f"timescale ({unit})": cells(modes["timescales"], ".4g"),
        f"{level} ": ranges(modes["timescales_interval"].values, ".3g"),
        "verdict": verdicts,
    }


def _with_error(value: Any, error: Any) -> str:
    return "-" if np.isnan(value) else f"{float(value):.3f}" + ("" if np.isnan(error) else f" +- {float(error):.3f}")


def summary_lines(summary: Summary) -> list[str]:
    """What was fitted, and what is to be said below the table."""
    modes = summary.modes
    a = modes.attrs
    held = f", {a['n_held_out']} of them held out" if a["n_held_out"] else ", none held out"
    weighted = "" if a["n_effective"] == a["n_pairs"] else f", weighted as {a['n_effective']:.0f}"
    lines = [f"{a['n_pairs']} pairs{weighted}{held}; {_lag_text(a)}"]
    if OVER_FIT in modes["verdict"].values:
        lines.append("left out: the lower of held out and of folds of the training pairs")
    if (modes["own_share"].values < _OWN).any():
        lines.append("~ less than half of this eigenfunction is this singular function: see eigen_analysis()")
    if all(finding.name != DIFFERENT for finding in summary.findings):
        lines.append(f"learned, K_matrix and canonical values agree within {a['spread']:.2g}")
    if summary.number_of_modes is not None:
        lines.append(selection_text(summary.number_of_modes))
    if "agreement" in modes:
        lines.append(f"{a['n_fits']} fits, the best one shown: {_agreement_text(modes)}")
    if not a["has_frames"]:
        lines.append("opened without its frames: the data, transitions and longer lags were not looked at")
    return lines


def _lag_text(attrs: Mapping[str, Any]) -> str:
    clock = Clock.from_attrs(attrs)
    if clock.lag is None:
        return "lag unknown"
    unit = "" if clock.time_unit == "1" else f" {clock.time_unit}"
    return f"lag {clock.lag} ({clock.lag_time:g}{unit})"


def _agreement_text(modes: xr.Dataset) -> str:
    """Agreement of each subspace of modes that are not told apart."""
    clusters = modes["cluster"].values
    texts = []
    for number in np.unique(clusters)[1:]:
        rows = np.flatnonzero(clusters == number)
        name = f"mode {rows[0] + 1}" if len(rows) == 1 else f"modes {rows[0] + 1} to {rows[-1] + 1}"
        texts.append(f"{name} {modes['agreement'].values[rows[0]]:.2f}")
    return "agreement (mean squared cosine) about " + ", ".join(texts) if texts else "one mode"
