"""`survey`: what the frames say of fitted functions, and moments do not: jumps that were seen, longer lags, health."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap, t_interval
from koopman_lora.data.groups import pairs_apart
from koopman_lora.data.health import data_health
from koopman_lora.data.health_findings import health_findings
from koopman_lora.data.pairs import BATCH, LaggedPairs
from koopman_lora.finding import Finding
from koopman_lora.lag_scan import slowest_rates
from koopman_lora.moments import CROSS, FeatureMap, Moments

# Pairs of which the health and longer lags are looked at, and numbers in their states; transitions are counted in all.
_LOOKED_AT, _NUMBERS = 2**19, 2**23
NO_PLATEAU = "no plateau"
# Multiples of the lag at which the slowest timescale is looked at again, and by what factor it must change to matter.
_MULTIPLES = (1, 2, 3)
_CHANGE = 1.1
# How many times what chance gives a correlation at the longest of these lags must be.
_ABOVE_NOISE = 5.0
# Leading functions of a side that the slowest timescale is looked for in (of more, resamples cost seconds), resamples
# of its rate, and blocks.
_LEADING, _BOOTSTRAP, _BLOCKS = 32, Bootstrap(n_resamples=100), 64


class Survey(NamedTuple):
    """What the frames say of fitted functions.

    Attributes
    ----------
    transitions : of every mode, how often its function went from one end to the other in the data; 0 for the constant
    findings : about the data, and about the lag
    """

    transitions: tuple[int, ...]
    findings: tuple[Finding, ...]


def survey(phi: FeatureMap, psi: FeatureMap, pairs: LaggedPairs, has_angles: bool = False) -> Survey:
    """Survey of singular functions at the states x of the pairs; of very many pairs, of stretches of neighbours.

    Transitions of the left ones are counted in all of them.

    Parameters
    ----------
    phi, psi : left and right ones, (batch, *state) -> array (batch, n_modes)
    has_angles : coordinates were said to be periodic, so that what jumps over its seam is known
    """
    some = pairs.spread(min(_LOOKED_AT, _NUMBERS // pairs.n_entries))
    functions, right = (np.concatenate([side(batch[0]) for batch in some.batches()]) for side in (phi, psi))
    seen = transitions_seen(functions, some.trajectory) if some is pairs else _transitions(phi, pairs, functions)
    known = ("constant coordinates", *(("raw angles", "periodic box") if has_angles else ()))
    health = [finding for finding in health_findings(data_health(some)) if finding.name not in known]
    return Survey(tuple(int(n) for n in seen), (*health, *lag_findings(functions, right, some)))


def transitions_seen(functions: np.ndarray, trajectory: np.ndarray) -> np.ndarray:
    """How often functions went from one end to the other within trajectories, (n_modes,).

    The ends are beyond half of the mean over all states where the function is positive, or negative: what turns back
    in between is no transition. Of complex functions, the real part.

    Parameters
    ----------
    functions : values (n_frames, n_modes) in the order of time
    trajectory : (n_frames,), the trajectory of each

    Examples
    --------
    >>> values = np.array([1.0, 0.1, 1.0, -0.1, -1.0, -0.9, 1.0, -1.0])[:, None]
    >>> transitions_seen(values, np.array([0, 0, 0, 0, 0, 0, 0, 1]))
    array([2])
    """
    ends = Ends.of(functions)
    ends.add(functions, trajectory)
    return ends.transitions


def _transitions(phi: FeatureMap, pairs: LaggedPairs, some: np.ndarray) -> np.ndarray:
    """`transitions_seen` in all pairs, of functions whose ends are those of some values."""
    ends, trajectory = Ends.of(some), pairs.places.run_trajectory
    for start in range(0, len(pairs), BATCH):
        x = pairs.read_x(slice(start, start + BATCH))
        ends.add(phi(x), trajectory[pairs.places.frames.run_of(np.arange(start, start + len(x)))])
    return ends.transitions


class Ends:
    """Ends of functions, and how often these went from one to the other, of frames that come in batches.

    Attributes
    ----------
    centre, down, up : mean, and levels below and above which a function is at an end (n_modes,)
    transitions : seen so far (n_modes,)
    """

    def __init__(self, centre: np.ndarray, down: np.ndarray, up: np.ndarray) -> None:
        self.centre, self.down, self.up = centre, down, up
        self.transitions = np.zeros(len(centre), dtype=int)
        self._last = np.zeros((2, len(centre)), dtype=int)  # end and trajectory of the last frame that was at an end

    @classmethod
    def of(cls, functions: np.ndarray) -> Ends:
        """Ends of functions (n_frames, n_modes); a constant has none."""
        values = np.real(functions)
        centre = values.mean(axis=0)
        is_constant = np.ptp(values, axis=0) <= 1e-9 * np.abs(values).max(axis=0, initial=0.0)
        levels = []
        for sign in (-1, 1):
            side = np.maximum(sign * (values - centre), 0.0)
            n = np.maximum(np.count_nonzero(side, axis=0), 1)
            levels.append(np.where(is_constant, sign * np.inf, sign * side.sum(axis=0) / n / 2))
        return cls(centre, *levels)

    def add(self, functions: np.ndarray, trajectory: np.ndarray) -> None:
        """Count the next frames, values (n_frames, n_modes), with the trajectory of each (n_frames,)."""
        centred = np.real(functions) - self.centre
        end = np.where(centred > self.up, 1, np.where(centred < self.down, -1, 0))
        for mode, column in enumerate(end.T):
            there = np.flatnonzero(column)
            ends, where = (
                np.concatenate([[before], now[there]])
                for before, now in zip(self._last[:, mode], (column, trajectory), strict=True)
            )
            changes = (ends[1:] != ends[:-1]) & (where[1:] == where[:-1]) & (ends[:-1] != 0)
            self.transitions[mode] += np.count_nonzero(changes)
            self._last[:, mode] = ends[-1], where[-1]


def lag_findings(phi: np.ndarray, psi: np.ndarray, pairs: LaggedPairs) -> list[Finding]:
    """That the slowest timescale depends on the lag, beyond chance and by more than a tenth.

    The same functions at twice and three times the lag, from the frames that the pairs hold, as `scan_lags` has them.
    Nothing is said where these do not follow one another, as of explicit pairs, or where they are fewer than ten per
    block.

    Parameters
    ----------
    phi, psi : left and right singular functions at the states x, (n_pairs, n_modes) each
    """
    if phi.shape[1] < 2 or not _are_cut_from_frames(pairs):
        return []
    n, lag = min(phi.shape[1], _LEADING), pairs.clock.known_lag("to look at longer ones")
    moments = _at_multiples(np.concatenate([phi[:, :n], psi[:, :n]], axis=1), pairs)
    if not moments:
        return []
    rates = [slowest_rates(m, _BOOTSTRAP) for m in moments]
    if not all(rate[0] > 0 for rate in rates):  # what does not decay has no timescale
        return []
    low, high = t_interval(rates[0][:1] - rates[-1][:1], (rates[0] - rates[-1])[1:, None], _BOOTSTRAP.t_factor(_BLOCKS))
    times = np.array([pairs.clock.dt / rate[0] for rate in rates])
    # noise keeps |lambda| above 0 at any lag, and looks slower the longer the lag
    is_above_noise = np.exp(-_MULTIPLES[-1] * lag * rates[-1][0]) > _ABOVE_NOISE * np.sqrt(n / moments[-1].n_effective)
    listed = ", ".join(f"{time:.3g} at lag {multiple * lag}" for time, multiple in zip(times, _MULTIPLES, strict=True))
    listed += f" ({pairs.clock.time_unit})"
    if low[0] > 0 and times[-1] > _CHANGE * times[0] and np.all(np.diff(times) > 0) and is_above_noise:
        text = (
            f"the slowest timescale still grows with the lag: {listed}; the true one is longer. Fit at a longer lag, "
            "see scan_lags, or with more modes or coordinates."
        )
        return [Finding(NO_PLATEAU, text)]
    if high[0] < 0 and times[0] > _CHANGE * times[-1] and np.all(np.diff(times) < 0):
        text = (
            f"the slowest timescale falls with the lag: {listed}; what these functions say one lag ahead does not hold "
            "further ahead. Add delays, coordinates or modes, or fit at the lag that matters, see scan_lags."
        )
        return [Finding(NO_PLATEAU, text)]
    return []


def _at_multiples(functions: np.ndarray, pairs: LaggedPairs) -> list[Moments]:
    """Moments of functions, half of them of each side, at multiples of the lag; none where a lag has too few pairs."""
    n, at_x, found = functions.shape[1] // 2, torch.from_numpy(functions), []
    for multiple in _MULTIPLES:
        lag = multiple * pairs.clock.known_lag("to look at longer ones")
        first, second = pairs_apart(pairs, lag)
        if len(first) < 10 * _BLOCKS:
            return []
        apart = dataclasses.replace(pairs.select(first), clock=pairs.clock.at(lag))
        apart = apart.with_states(at_x[first], at_x[second])
        names = (*CROSS, "C_gf")
        found.append(estimate_moments(lambda x: x[:, :n], lambda x: x[:, n:], apart, n_blocks=_BLOCKS, names=names))
    return found


def _are_cut_from_frames(pairs: LaggedPairs) -> bool:
    """Whether the pairs hold all frames of trajectories: x' of a pair is x of that one lag later."""
    lag = pairs.clock.lag
    if lag is None:
        return False
    first, later = pairs_apart(pairs, lag)
    few = np.linspace(0, len(first) - 1, min(len(first), 1000)).astype(int)
    return len(first) > 0 and bool(torch.equal(pairs.read(first[few])[1], pairs.read_x(later[few])))
