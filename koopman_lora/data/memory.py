"""How long series remember, how many independent samples they are worth, and whether their mean drifts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.stats import t as student

# From so many trajectories on (of equal length) the error of a drift is the spread between them; with fewer it comes
# from so many slow cosines.
_MANY = 8
# Trajectories shorter than this share of the longest say little of a drift within; those shorter than so many frames
# have no thirds, or no room for the cosines.
_SHORT, _THIRDS, _COSINES = 0.1, 6, 18


class Memory(NamedTuple):
    """Of each of d series (d,): integrated autocorrelation time, and mean age of what is remembered, in frames."""

    time: np.ndarray
    age: np.ndarray


def memory(values: np.ndarray, runs: np.ndarray) -> Memory:
    """Memory of centred series (d, n_frames), from products within runs; NaN for constants.

    Sums of autocorrelations end where two neighbours are negative, and never increase (Geyer's initial sequence), which
    holds for reversible processes and is cautious for others.

    Parameters
    ----------
    runs : where runs without a gap begin, and the end (n_runs + 1,)

    References
    ----------
    Geyer, *Practical Markov chain Monte Carlo*, Statistical Science 7, 473 (1992), section 3.3.

    Examples
    --------
    >>> values = np.random.default_rng(0).normal(size=(1, 5000))
    >>> memory(values - values.mean(), np.array([0, 5000])).time.round(1)
    array([0.5])
    """
    products = _lagged_products(values, runs)
    is_moving = products[:, 0] > 0
    r = products / np.where(is_moving, products[:, 0], 1.0)[:, None]
    neighbours = r[:, 0::2] + r[:, 1::2]
    seen = np.logical_and.accumulate(neighbours > 0, axis=1)
    last = max(1, int(seen.sum(axis=1).max(initial=0)))
    neighbours = np.minimum.accumulate(neighbours[:, :last], axis=1) * seen[:, :last]
    total = np.where(is_moving, np.maximum(neighbours.sum(axis=1), 1.0), np.nan)
    age = neighbours @ (2 * np.arange(last) + 0.5) / total
    return Memory(total - 0.5, np.maximum(age, total - 0.5))


def _lagged_products(values: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Sums over t of v(t) v(t + k) within runs, (d, lags), an even number of lags."""
    starts, lengths = runs[:-1], np.diff(runs)
    longest = int(lengths.max())
    total = np.zeros((len(values), longest + longest % 2))
    sizes = np.where(lengths == longest, longest, 2 ** np.ceil(np.log2(lengths)).astype(int))
    for size in np.unique(sizes):  # runs of similar length are padded to one
        chosen = sizes == size
        n = min(int(size), longest)
        part = _padded(values, starts[chosen], lengths[chosen], n)  # (d, runs, n)
        n_fft = next_fast_len(2 * n, real=True)
        spectrum = rfft(part, n_fft, axis=-1)
        power = np.sum(spectrum.real**2 + spectrum.imag**2, axis=1)
        total[:, :n] += irfft(power, n_fft, axis=-1)[:, :n]
    return total


def _padded(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, n: int) -> np.ndarray:
    if len(starts) == 1:
        return values[:, None, starts[0] : starts[0] + lengths[0]]
    index = starts[:, None] + np.arange(n)
    is_inside = np.arange(n) < lengths[:, None]
    return values[:, np.where(is_inside, index, 0)] * is_inside


class Drift(NamedTuple):
    """Mean of the last third less that of the first (d,), its standard error, and the p-value of none."""

    size: np.ndarray
    error: np.ndarray
    p_value: np.ndarray


def drift(values: np.ndarray, edges: np.ndarray, age: np.ndarray) -> Drift:
    """Drift within trajectories of series (d, n_frames), with an error that holds for correlated frames.

    Of eight trajectories and more the error is the spread between them. Of fewer it is the power of slow cosines, on
    which memory acts nearly as on the drift itself; what it takes from them is given back as for an exponential memory
    of that age. Even cosines of whole trajectories do not see a trend, those of the outer thirds no shift in between:
    the smaller error is taken, and the p-value doubled.

    Parameters
    ----------
    edges : where trajectories begin, and the end (n_trajectories + 1,)
    age : of what is remembered, in frames (d,)

    Returns
    -------
    Drift
        NaN where trajectories are too short for it.

    References
    ----------
    docs/mathematics.md, section 9. Lazarus, Lewis, Stock and Watson, *HAR inference: recommendations for practice*,
    J. Bus. Econ. Stat. 36, 541 (2018).

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(1, 3000))
    >>> edges, age = np.array([0, 3000]), np.array([0.5])
    >>> [bool(drift(noise + slope * np.linspace(0, 1, 3000), edges, age).p_value < 0.001) for slope in (0, 1)]
    [False, True]
    """
    lengths = np.diff(edges)
    keep = (lengths >= _SHORT * lengths.max()) & (lengths >= _THIRDS)
    starts, lengths = edges[:-1][keep], lengths[keep]
    weights = lengths / lengths.sum()
    is_spread = len(starts) > 0 and 1 / np.sum(weights**2) > _MANY - 1e-9
    if len(starts) == 0 or not (is_spread or lengths.min() >= _COSINES):
        return Drift(*np.full((3, len(values)), np.nan))
    thirds = lengths // 3
    firsts, lasts = (_means(values, begin, thirds) for begin in (starts, starts + lengths - thirds))
    steps = lasts - firsts  # (d, trajectories)
    size = steps @ weights
    if is_spread:
        n_free = 1 / np.sum(weights**2) - 1
        variance = (weights**2 @ np.square(steps - size[:, None]).T) * (n_free + 1) / n_free
        return _judged(size, variance, n_free, 1)
    noise, n_free = _slow_noise(values, starts, lengths, np.nan_to_num(age))
    return _judged(size, noise * np.sum(2 * weights**2 / thirds), n_free, 2)


def _means(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Means (d, n) of stretches."""
    sums = np.cumsum(values, axis=1)
    before = np.where(starts > 0, sums[:, starts - 1], 0.0)
    return (sums[:, starts + lengths - 1] - before) / lengths


def _judged(size: np.ndarray, variance: np.ndarray, n_free: float, n_tests: int) -> Drift:
    error = np.sqrt(variance)
    # no error at all: as good as certain where there is a drift, and none where there is not
    t = np.abs(size) / np.where(error > 0, error, np.where(np.abs(size) > 0, 1e-300, 1.0))
    return Drift(size, error, np.minimum(1.0, n_tests * 2 * student.sf(t, n_free)))


def _slow_noise(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, age: np.ndarray) -> tuple[np.ndarray, int]:
    """Spectral density at frequency 0 (d,), by the smaller of two estimates, and their degrees of freedom."""
    n_each = -(-_MANY // (2 * len(starts)))
    even, outer = [], []
    for start, n in zip(starts, lengths, strict=True):
        one, third = values[:, start : start + n], n // 3
        even.append(_cosine_power(one, 2 * np.arange(1, 2 * n_each + 1), age))
        outer += [_cosine_power(part, np.arange(1, n_each + 1), age) for part in (one[:, :third], one[:, n - third :])]
    sums = (np.sum(found, axis=0) for found in (even, outer))  # each (2, d): power, share
    return np.min([power / share for power, share in sums], axis=0), 2 * n_each * len(starts)


def _cosine_power(part: np.ndarray, numbers: np.ndarray, age: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of a part (d, n) in cosines (d,), and what of it a memory of this age leaves, summed."""
    n = part.shape[1]
    cosines = np.sqrt(2 / n) * np.cos(np.pi / n * numbers * (np.arange(n)[:, None] + 0.5))
    share = 1 / (1 + np.square(np.pi / n * numbers * age[:, None]))
    return np.sum(np.square(part @ cosines), axis=1), share.sum(axis=1)
