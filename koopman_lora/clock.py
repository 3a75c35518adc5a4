"""`Clock`: what one lag is in physical time; a field of pairs, moments, models and references."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from koopman_lora.checks import checked_methods
from koopman_lora.kinds import AnyNumbers

# The attributes of a Dataset that hold a clock.
CLOCK_ATTRS = ("lag", "dt", "time_unit")
# Distance of |lambda| from 1 that is round-off: nothing relaxes more slowly than 1e9 lags and can be told from never.
_UNIT_CIRCLE = 1e-9


@checked_methods
@dataclasses.dataclass(frozen=True)
class Clock:
    """Lag, time between two frames and its unit; without a lag, time counts in lags and says so.

    Parameters
    ----------
    lag : int, optional
        Frames between x and x'; None where nobody said it, as for bare tensors of pairs.
    dt : float
        Physical time between two frames, in `time_unit`.
    time_unit : str
        Without one, time counts in frames, or is a number ("1") where a `dt` other than 1 was given.

    Raises
    ------
    ValueError
        For a lag that is no whole number of at least 1, a dt that is not positive and finite, or a dt without a lag.
    TypeError
        For a unit that is no text.

    Examples
    --------
    >>> Clock(lag=10, dt=0.5, time_unit="ns").lag_time
    5.0
    >>> Clock()                                  # bare pairs: one lag is one lag
    Clock(lag=None, dt=1.0, time_unit='lag')
    """

    lag: int | None = None
    dt: float = 1.0
    time_unit: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.time_unit, str):
            raise TypeError(f"time_unit must be a text such as 'ps'; got {self.time_unit!r}.")
        if self.lag is None:
            if self.dt != 1.0 or self.time_unit not in ("", "lag"):
                raise ValueError(
                    f"dt={self.dt} {self.time_unit} says the time between two frames, but the lag of these pairs is "
                    "unknown; give lag in frames as well."
                )
            object.__setattr__(self, "time_unit", "lag")
            return
        object.__setattr__(self, "lag", check_lag(self.lag))
        object.__setattr__(self, "dt", check_dt(self.dt))
        object.__setattr__(self, "time_unit", self.time_unit or ("frame" if self.dt == 1 else "1"))

    @property
    def lag_time(self) -> float:
        """Physical time of one lag, in `time_unit`."""
        return self.dt if self.lag is None else self.lag * self.dt

    def known_lag(self, purpose: str) -> int:
        """The lag in frames, or a ValueError that asks for it.

        Examples
        --------
        >>> Clock(3).known_lag("to scan lags")
        3
        """
        if self.lag is None:
            raise ValueError(
                f"the lag of these pairs is unknown, and is needed {purpose}; say it in frames when the pairs are "
                "made: lagged_pairs((x, x_next), lag=...) or KoopmanLoRA(lag=...)."
            )
        return self.lag

    def at(self, lag: int) -> Clock:
        """The clock of another lag on the same frames.

        Examples
        --------
        >>> Clock(2, 0.5, "ps").at(6).lag_time
        3.0
        """
        self.known_lag("to compare lags")
        return dataclasses.replace(self, lag=lag)

    def agreed(self, other: Clock) -> Clock:
        """The clock itself if `other` is the same; two clocks never add.

        Raises
        ------
        ValueError
            If they differ.
        """
        if self != other:
            raise ValueError(f"clocks must be one and the same to add or compare; got {self} and {other}.")
        return self

    def timescales(self, eigenvalues: AnyNumbers) -> np.ndarray:
        """Implied timescales `-lag_time / ln|lambda|` in `time_unit`; inf at |lambda| = 1, NaN above (no relaxation).

        References
        ----------
        docs/mathematics.md, section 4.

        Examples
        --------
        >>> Clock(2).timescales([1.0, np.exp(-0.5), 0.0, 1.2])
        array([inf, 4., 0., nan])
        """
        modulus = np.abs(np.asarray(eigenvalues))
        result = np.full(modulus.shape, np.nan)
        result[np.abs(modulus - 1) <= _UNIT_CIRCLE] = np.inf
        decays = modulus < 1 - _UNIT_CIRCLE
        with np.errstate(divide="ignore"):  # lambda = 0 relaxes at once
            result[decays] = -self.lag_time / np.log(modulus[decays])
        return result

    def frequencies(self, eigenvalues: AnyNumbers) -> np.ndarray:
        """`arg(lambda) / (2 pi lag_time)` in `1 / time_unit`, on the principal branch.

        Frequencies above `1 / (2 lag_time)` are aliased.

        References
        ----------
        docs/mathematics.md, section 4.

        Examples
        --------
        >>> Clock(1, dt=0.5).frequencies([1j, 1.0])
        array([0.5, 0. ])
        """
        return np.angle(np.asarray(eigenvalues)) / (2 * np.pi * self.lag_time)

    def periods(self, eigenvalues: AnyNumbers) -> np.ndarray:
        """`1 / |frequency|`, the time of one turn in `time_unit`; infinite for what does not turn.

        Examples
        --------
        >>> Clock(1, dt=0.5, time_unit="s").periods([1j, -1j, 1.0])
        array([ 2.,  2., inf])
        """
        turns = np.abs(self.frequencies(eigenvalues))
        return np.divide(1.0, turns, out=np.full(turns.shape, np.inf), where=turns > 0)

    def attrs(self) -> dict[str, Any]:
        """Lag, dt and unit as attributes of a Dataset; `from_attrs` reads them back.

        Examples
        --------
        >>> Clock.from_attrs(Clock(2, 0.1, "s").attrs())
        Clock(lag=2, dt=0.1, time_unit='s')
        """
        return {"lag": "unknown" if self.lag is None else self.lag, "dt": self.dt, "time_unit": self.time_unit}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Clock:
        """The clock that `attrs` of a Dataset tell of."""
        if missing := [name for name in CLOCK_ATTRS if name not in attrs]:
            raise ValueError(f"attrs must be those of a result, with its clock; they lack {', '.join(missing)}.")
        lag = attrs["lag"]
        return cls(None if lag == "unknown" else int(lag), float(attrs["dt"]), str(attrs["time_unit"]))


def check_lag(lag: Any) -> int:
    """Return `lag` as an int of at least 1, or raise a ValueError."""
    try:
        number = operator.index(lag)
    except TypeError:
        number = 0
    if isinstance(lag, (bool, np.bool_)) or number < 1:
        raise ValueError(f"lag must be an integer number of frames, at least 1; got {lag!r}.")
    return number


def check_dt(dt: Any) -> float:
    """Return `dt` as a float, or raise a ValueError unless it is positive and finite."""
    try:
        number = float(dt)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(dt, str) or not 0 < number < math.inf:
        raise ValueError(f"dt must be a positive finite time between two frames; got {dt!r}.")
    return number
