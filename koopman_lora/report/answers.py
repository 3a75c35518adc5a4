"""`Answers`: what a report is made of, results of the other rooms; where one is not at hand, why, and how to get it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

import xarray as xr

from koopman_lora.summary import Summary

# A result, or the sentence that says why there is none and how to get it.
Answer: TypeAlias = xr.Dataset | str


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What is known of a fit, question by question.

    Attributes
    ----------
    summary : Summary
    spectrum, intervals, comparison : of `koopman_spectrum`, `bootstrap_intervals`, `compare_singular_values`
    history : of `fit`
    residuals, selection, scan, forecast_error, health : of `eigenpair_residuals`, `select_n_modes`, `scan_lags`,
        `forecast_error`, `data_health`
    functions : left singular functions `phi` (sample, mode) at `states` (sample, coordinate), or (time, mode)
    coarse : of `macroscopic_model`, with `memberships` over a plane (x, y, mode), a line (x, state) or (time, state)
    sentences : further lines, about the refinement and the held-out scores
    coordinate_names : of a vector state, where they are known
    settings : of the fit
    record : what else is to be known of its making, such as seed and fingerprint
    """

    summary: Summary
    spectrum: xr.Dataset
    intervals: xr.Dataset
    comparison: xr.Dataset
    history: xr.Dataset
    residuals: Answer
    selection: Answer
    scan: Answer
    functions: Answer
    coarse: Answer
    forecast_error: Answer
    health: Answer
    sentences: tuple[str, ...]
    coordinate_names: tuple[str, ...]
    settings: Mapping[str, object]
    record: Mapping[str, object]
