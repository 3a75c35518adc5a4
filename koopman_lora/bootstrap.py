"""`Bootstrap`: blocks of moments drawn with replacement, and the two rules that turn drawn values into an interval.

`t_interval` is for values that spread about their estimate on both sides: singular values, eigenvalues, timescales; it
corrects for the small number of blocks and allows for bias. `Bootstrap.percentiles` is for the rest: values that may be
infinite, that lie at the end of what is possible, or of which there are too many to look at one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from koopman_lora.checks import checked
from koopman_lora.kinds import AnyNumbers, is_real
from koopman_lora.moments import Moments

Scale = Callable[[np.ndarray], np.ndarray]

# Numbers that are drawn at once, which fill 4 GB.
MOST_WEIGHTS = 5 * 10**8


@checked(but=("level",))
@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Block bootstrap of moments, without further passes over the data.

    Parameters
    ----------
    n_resamples : number of resamples
    level : coverage aimed at
    seed : of the draws

    Raises
    ------
    ValueError
        For no resamples, or a level outside (0, 1).

    Examples
    --------
    >>> Bootstrap(level=1.0)
    Traceback (most recent call last):
    ValueError: level must lie between 0 and 1; got 1.0.
    """

    n_resamples: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.n_resamples >= 1:
            raise ValueError(f"n_resamples must be at least 1; got {self.n_resamples}.")
        if not is_real(self.level) or not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1; got {self.level}.")

    def weights(self, n_blocks: int) -> np.ndarray:
        """How often each block is drawn, (n_resamples, n_blocks): blocks with replacement.

        Raises
        ------
        ValueError
            For fewer than 2 blocks.

        Examples
        --------
        >>> Bootstrap(n_resamples=2).weights(5).sum(axis=1)
        array([5, 5])
        """
        if n_blocks < 2:
            raise ValueError(
                f"moments need at least 2 blocks for a bootstrap; got {n_blocks}. Estimate with n_blocks=64."
            )
        if n_blocks * self.n_resamples > MOST_WEIGHTS:
            raise ValueError(
                f"n_resamples={self.n_resamples} of n_blocks={n_blocks} are too many; choose fewer of either."
            )
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=self.n_resamples)

    def resampled(self, moments: Moments) -> Moments:
        """Moments of the data as they are, then of every resample, along a leading axis (1 + n_resamples).

        Examples
        --------
        >>> m = Moments({"M_f": np.ones((9, 2, 2))}, np.ones(9))
        >>> Bootstrap(n_resamples=10).resampled(m).M_f.shape
        (11, 2, 2)
        """
        return moments.reweighted(np.concatenate([np.ones((1, moments.n_blocks)), self.weights(moments.n_blocks)]))

    def t_factor(self, n_blocks: int) -> float:
        """How many bootstrap standard deviations a `t_interval` reaches to either side.

        Blocks are few: their spread is estimated with n_blocks - 1 degrees of freedom.

        Raises
        ------
        ValueError
            For fewer than 8 blocks.

        Examples
        --------
        >>> round(Bootstrap().t_factor(64), 3), round(Bootstrap().t_factor(8), 3)
        (2.014, 2.528)
        """
        from scipy.special import stdtrit  # Student's t without all of scipy.stats

        if n_blocks < 8:
            raise ValueError(
                f"moments must be kept in at least 8 blocks to resample; got {n_blocks}. Use "
                "estimate_moments(n_blocks=64)."
            )
        return float(stdtrit(n_blocks - 1, (1 + self.level) / 2) * np.sqrt(n_blocks / (n_blocks - 1)))

    def percentiles(self, samples: AnyNumbers) -> np.ndarray:
        """Lower and upper percentile over the first axis, (2, ...); of real and imaginary parts where complex.

        For what no t interval fits: probabilities, which pile up at 0 and 1; passage times, which may be infinite;
        ratios; and forecasts, too many to have their bias looked at. Bounds are values that were drawn: interpolating
        towards inf would give NaN.

        Examples
        --------
        >>> Bootstrap(level=0.9).percentiles(np.arange(101.0))
        array([ 5., 95.])
        >>> Bootstrap(level=0.9).percentiles(np.array([1.0, 2.0, np.inf]))
        array([ 1., inf])
        """
        if samples.ndim == 0 or len(samples) == 0:
            raise ValueError(f"samples must have a first axis of at least one sample; got shape {samples.shape}.")
        if np.iscomplexobj(samples):
            return self.percentiles(samples.real) + 1j * self.percentiles(samples.imag)
        return np.quantile(samples, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0, method="nearest")

    def attrs(self) -> dict[str, Any]:
        """The settings, as attributes of a Dataset."""
        return dataclasses.asdict(self)


def t_interval(
    estimate: np.ndarray,
    drawn: np.ndarray,
    factor: float,
    forward: Scale = np.positive,
    backward: Scale = np.positive,
) -> np.ndarray:
    """Bootstrap-t interval on a transformed scale, (2, n), widened to the side that the bias points away from.

    Resampled values overstate the bias where singular values nearly coincide, and understate it where they are equal:
    so the bias widens the interval instead of moving it.

    Parameters
    ----------
    estimate, drawn : arrays (n,) and (n_resamples, n)
    factor : of `Bootstrap.t_factor`
    forward, backward : to the scale on which the interval is symmetric, and back

    Examples
    --------
    >>> t_interval(np.array([3.0]), np.array([[2.0], [4.0]]), factor=2.0)
    array([[1.],
           [5.]])
    """
    z, z_drawn = forward(estimate), forward(drawn)
    bias = z_drawn.mean(axis=0) - z
    unit = np.maximum(np.abs(z_drawn).max(axis=0), np.finfo(float).tiny)  # squares of large numbers overflow
    half_width = factor * unit * (z_drawn / unit).std(axis=0)
    bounds = z - np.maximum(bias, 0) - half_width, z - np.minimum(bias, 0) + half_width
    return backward(np.stack(bounds))
