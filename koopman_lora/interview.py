"""`answers_of`: every question that a report shows an answer to, asked of an analysis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from koopman_lora._labels import MODE, SAMPLE, STATE, TIME, labelled
from koopman_lora.clock import Clock
from koopman_lora.data.frames import stretches_of, weights_of_stretches
from koopman_lora.data.health import data_health
from koopman_lora.data.pairs import LaggedPairs
from koopman_lora.data.splits import Split
from koopman_lora.eigenanalysis import evaluate_on_grid
from koopman_lora.fitted import KEPT_ENTRIES, Fitted
from koopman_lora.fitted_functions import DataNeededError
from koopman_lora.moments import FeatureMap, Moments
from koopman_lora.prediction import forecast_error
from koopman_lora.report.answers import Answer, Answers
from koopman_lora.states.metastable_sets import number_of_states
from koopman_lora.summary import Summary
from koopman_lora.tables import refinement_text, scores_text
from koopman_lora.verdicts import UNRESOLVED

# Longer lags and horizons that are looked at, in lags of the fit, and pairs that must be left at each.
_MULTIPLES, _HORIZONS = (1, 2, 3, 5, 8, 13), (1, 2, 3, 5, 8, 13, 21)
_PAIRS_OF_LAG, _PAIRS_OF_HORIZON = 640, 50
# Frames that lags are scanned on, states that functions are drawn at, frames of a curve, cells of a map.
_SCANNED, _DRAWN, _CURVE, _CELLS = 200_000, 4000, 1000, 45
_Frames = TypeVar("_Frames", Tensor, np.ndarray)  # states of a stretch, or weights


class Questioned(Protocol):
    """What is asked of an analysis."""

    fitted: Fitted

    @property
    def clock(self) -> Clock:
        """Lag, time between two frames and its unit."""
        ...

    @property
    def moments(self) -> Moments:
        """Moments of the fitted features."""
        ...

    @property
    def spectrum(self) -> xr.Dataset:
        """Singular values and eigenvalues."""
        ...

    def summary(self) -> Summary:
        """Every mode with a verdict."""
        ...

    def intervals(self) -> xr.Dataset:
        """Intervals of the spectrum."""
        ...

    def diagnose(self) -> xr.Dataset:
        """Learned against empirical singular values."""
        ...

    def residuals(self) -> xr.Dataset:
        """Residuals of the eigenpairs."""
        ...

    def select_n_modes(self) -> xr.Dataset:
        """Number of modes by each rule."""
        ...

    def scan_lags(self, X: Any, lags: Sequence[int], *, weights: Any = None) -> xr.Dataset:
        """Timescales against the lag."""
        ...

    def coarse_grain(self, n_states: int) -> xr.Dataset:
        """The model of few states."""
        ...

    def membership_map(self, n_states: int) -> FeatureMap:
        """Memberships in few states."""
        ...

    def features(self, x: Any) -> np.ndarray:
        """Features at any states."""
        ...

    def singular_functions(self, x: Any) -> np.ndarray:
        """Left singular functions at any states."""
        ...

    def known_split(self, purpose: str) -> Split:
        """The split of the fit, with its frames."""
        ...


def answers_of(analysis: Questioned) -> Answers:
    """Ask an analysis everything; in the place of an answer that it cannot give stands why, and how to get it."""
    fitted, summary = analysis.fitted, analysis.summary()
    sentences = [] if fitted.refinement is None else [refinement_text(fitted.refinement)]
    sentences += [] if fitted.validation is None else [scores_text(fitted.validation.scores())]
    return Answers(
        summary=summary,
        spectrum=analysis.spectrum,
        intervals=analysis.intervals(),
        comparison=analysis.diagnose(),
        history=fitted.history,
        residuals=_asked(analysis.residuals),
        selection=_asked(analysis.select_n_modes),
        scan=_asked(lambda: _scan(analysis)),
        functions=_asked(lambda: _functions(analysis)),
        coarse=_asked(lambda: _coarse(analysis, summary)),
        forecast_error=_asked(lambda: _forecast_error(analysis)),
        health=_asked(lambda: data_health(analysis.known_split("to look at the health of the data").pairs)),
        sentences=tuple(sentences),
        coordinate_names=_coordinate_names(fitted),
        settings=fitted.settings,
        record=_record(analysis),
    )


def _asked(question: Callable[[], xr.Dataset]) -> Answer:
    """The answer, or the message of the error: it says what is lacking and what to do."""
    try:
        return question()
    except ValueError as error:
        message = str(error)
        command = " Or: koopman-lora report FOLDER DATA." if isinstance(error, DataNeededError) else ""
        return message[:1].upper() + message[1:] + command


def _record(analysis: Questioned) -> dict[str, object]:
    fitted, model = analysis.fitted, analysis.fitted.model
    return {
        "lag": str(analysis.clock),
        "state": model.state_shape,
        "parameters of the networks": sum(parameter.numel() for parameter in model.parameters()),
        "split": fitted.recipe,
        "seed": fitted.seed,
        "fingerprint of the pairs": fitted.fingerprint,
    }


def _coordinate_names(fitted: Fitted) -> tuple[str, ...]:
    names = None if fitted.split is None else fitted.split.pairs.coordinate_names
    return () if names is None else tuple(map(str, names))


# ----------------------------------------------------------------------------------------------------- along the frames


def _scan(analysis: Questioned) -> xr.Dataset:
    """Timescales at longer lags of as many frames as are looked at."""
    pairs = analysis.known_split("to look at longer lags").pairs
    stretches, weights = _stretches(pairs, "longer lags"), weights_of_stretches(pairs)
    lag = analysis.clock.known_lag("to look at longer ones")
    lags = _possible([lag * multiple for multiple in _MULTIPLES], stretches, _PAIRS_OF_LAG)
    if len(lags) < 2:
        raise ValueError("the trajectories are too short to look at longer lags; give longer ones.")
    stretches = list(_leading(_longer(stretches, lags[-1]), _SCANNED))
    if weights is not None:
        weights = list(_leading(_longer(weights, lags[-1]), _SCANNED))
    return analysis.scan_lags(stretches, lags, weights=weights)


def _forecast_error(analysis: Questioned) -> xr.Dataset:
    """Error of forecasts of the states by operator and linear model of the training pairs, at held-out frames."""
    split, fitted = analysis.known_split("to compare forecasts with"), analysis.fitted
    if split.held_out is None:
        raise ValueError("no pairs were held out to compare forecasts with; fit with held_out=0.1.")
    if "H_f" not in fitted.moments.training:
        raise ValueError(
            f"states of more than {KEPT_ENTRIES} entries are not forecast here; ask analysis.forecast(x, steps, "
            "observables) for what you want to know of them."
        )
    stretches = _stretches(split.held_out, "forecasts")
    lag = analysis.clock.known_lag("to look several lags ahead")
    steps = [n // lag for n in _possible([lag * n for n in _HORIZONS], stretches, _PAIRS_OF_HORIZON)]
    if not steps:
        raise ValueError("the held-out stretches are too short to compare forecasts with; give more data.")
    test = _longer(stretches, steps[-1] * lag)
    error = forecast_error(fitted.moments.training, analysis.features, split.training, test, steps)
    seen = "nothing but the choice of the best epoch" if fitted.refinement is None else "the refinement of the features"
    note = f"Operator and linear model are those of the training pairs; {seen} saw the held-out ones."
    return error.assign_attrs(note=note)


def _stretches(pairs: LaggedPairs, purpose: str) -> list[Tensor]:
    stretches = stretches_of(pairs)
    if not stretches:
        raise ValueError(f"explicit pairs hold no frames that follow one another; fit trajectories to see {purpose}.")
    return stretches


def _possible(spans: list[int], stretches: list[Tensor], n_pairs: int) -> list[int]:
    """Those spans of frames that leave so many pairs."""
    return [span for span in spans if sum(max(len(states) - span, 0) for states in stretches) >= n_pairs]


def _longer(stretches: Sequence[_Frames], span: int) -> list[_Frames]:
    return [frames for frames in stretches if len(frames) > span]


def _leading(stretches: Sequence[_Frames], n_frames: int) -> Iterator[_Frames]:
    """Stretches until so many frames are in them; the last is whole."""
    n = 0
    for frames in stretches:
        if n >= n_frames:
            return
        n += len(frames)
        yield frames


# ------------------------------------------------------------------------------------------------- functions and states


def _is_drawable(state_shape: tuple[int, ...]) -> bool:
    return len(state_shape) == 1 and state_shape[0] <= 2


def _functions(analysis: Questioned) -> xr.Dataset:
    """Real parts of the left singular functions at states of one or two coordinates, else along time."""
    pairs = analysis.known_split("to evaluate functions at").pairs
    if _is_drawable(pairs.state_shape):
        states = pairs.x[:: math.ceil(len(pairs) / _DRAWN)]
        phi = np.real(analysis.singular_functions(states))
        return labelled({"phi": ((SAMPLE, MODE), phi), "states": ((SAMPLE, "coordinate"), states.numpy())})
    states, time = _curve(analysis)
    return labelled({"phi": ((TIME, MODE), np.real(analysis.singular_functions(states)))}, coords={TIME: time})


def _curve(analysis: Questioned) -> tuple[Tensor, Any]:
    """The first frames of the longest stretch, and their times as a coordinate."""
    split, clock = analysis.known_split("to follow in time"), analysis.clock
    stretches = stretches_of(split.pairs)
    if not stretches:
        states = split.pairs.x[:_CURVE]
        return states, (TIME, np.arange(len(states)), {"units": "pair"})
    states = max(stretches, key=len)[:_CURVE]
    return states, (TIME, clock.dt * np.arange(len(states)), {"units": clock.time_unit})


def _coarse(analysis: Questioned, summary: Summary) -> xr.Dataset:
    """The model of as many states as the gaps suggest among modes that are there, and the memberships."""
    pairs = analysis.known_split("to find metastable states in").pairs
    n_states = _number_of_states(analysis, summary)
    model, chi = analysis.coarse_grain(n_states), analysis.membership_map(n_states)
    if not _is_drawable(pairs.state_shape):
        states, time = _curve(analysis)
        return model.assign(memberships=xr.DataArray(chi(states), dims=(TIME, STATE), coords={TIME: time}))
    low, high = (bound(pairs.x.numpy(), axis=0) for bound in (np.min, np.max))
    cells = 4 * _CELLS if len(low) == 1 else _CELLS
    axes = {name: np.linspace(a, b, cells) for name, a, b in zip("xy", low, high, strict=False)}
    grid = evaluate_on_grid(lambda x: chi(torch.as_tensor(x, dtype=pairs.x.dtype)), axes)
    if len(axes) == 1:
        return model.assign(memberships=grid.rename({MODE: STATE}).assign_coords({STATE: model[STATE]}))
    visited = np.histogramdd(pairs.x.numpy(), bins=cells, range=list(zip(low, high, strict=True)))[0] > 0
    return model.assign(memberships=grid.where(xr.DataArray(visited, dims=tuple(axes))).rename({MODE: "set"}))


def _number_of_states(analysis: Questioned, summary: Summary) -> int:
    """As many as the largest gap suggests, of modes that are there and decay without turning.

    Raises
    ------
    ValueError
        If that are none.
    """
    modes = summary.modes
    there = int(np.argmax([*(modes["verdict"].values == UNRESOLVED), True]))  # the first that is none
    if there < 2:
        raise ValueError("no mode but the constant is told from noise, so no metastable states are; give more data.")
    n_states = min(there, number_of_states(analysis.moments).attrs["suggested"]) if modes.sizes[MODE] > 2 else 2
    slow = modes["eigenvalues"].values[1:n_states]
    if (np.abs(slow.imag) > 1e-6).any() or (slow.real <= 0).any():
        raise ValueError(
            "slow eigenvalues turn or change their sign, so states do not stay in metastable sets; sets that move are "
            "found by kl.coherent_memberships."
        )
    return n_states
