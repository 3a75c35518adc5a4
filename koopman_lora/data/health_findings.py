"""What matters of `data_health`, in sentences, the most serious first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.data.angle_periods import angle_text
from koopman_lora.finding import Finding

# Share of stationary data sets in which chance alone gives a drift of this size, in deviations: smaller ones hardly
# matter, and whole cycles of an oscillation give them.
_FALSE_ALARMS, _DRIFT = 0.01, 0.3
# Independent samples below which the slowest coordinate is hardly known; and for each coordinate of a linear fit.
_FEW, _PER_COORDINATE = 20, 10
# Share of the pairs below which weights leave few that count.
_COUNTING = 0.1
# Share of the trajectories that the lag may take.
_LAG = 0.2
# Share of frames at one value, or like the one before, of a coordinate that is continuous otherwise.
_REPEATED = 0.05
# Deviations of entries that are standardised together may differ by this factor.
_SCALES = 1e4
# Units that have a plural.
_COUNTED = ("frame", "pair", "year", "month", "day", "hour", "minute")
# Names in a list.
_LISTED = 5

_NEEDED = (
    "deviation", "drift", "drift_p_value", "autocorrelation_time", "effective_samples", "largest_step", "n_jumps",
    "jump_trajectory", "jump_frame", "common_share", "common_value", "repeated_share", "n_values", "duplicate_of",
    "period", "is_angle",
)  # fmt: skip
_ATTRS = (
    "n_trajectories", "n_frames", "n_pairs", "n_effective", "shortest_trajectory", "mean_trajectory", "lag",
    "memory_unit", "n_axes", "n_entries",
)  # fmt: skip


@checked
def health_findings(health: xr.Dataset) -> list[Finding]:
    """What matters of the result of `data_health`, the most serious first; empty where there is nothing to say.

    Parameters
    ----------
    health : Dataset of `data_health`

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(3000, 2))
    >>> health_findings(kl.data_health(noise))
    []
    >>> [f.name for f in health_findings(kl.data_health(noise + np.linspace(0, 1, 3000)[:, None]))]
    ['drift']
    """
    check_result("health", health, "data_health", "coordinate", *_NEEDED, attrs=_ATTRS)
    return [finding for rule in _RULES if (finding := rule(health)) is not None]


def _constant(health: xr.Dataset) -> Finding | None:
    found = _names(health, health["deviation"] == 0)
    if not found or not _is_vector(health):  # entries of an image share one scale, so that a dark corner is no harm
        return None
    it = "it" if len(found) == 1 else "them"
    text = f"{_listed(found)} never {_verb(found, 'changes')}: `fit` refuses trajectories with {it}. Drop {it}."
    return Finding("constant coordinates", text)


def _jumps(health: xr.Dataset) -> Finding | None:
    jumps = health["n_jumps"]
    found = _names(health, jumps > 0)
    if not found:
        return None
    worst = health.isel(coordinate=int(np.argmax(np.where(jumps > 0, health["largest_step"], 0.0))))
    n = int(worst["n_jumps"])
    which = "" if len(found) == 1 else f": {_name(worst)}"
    where = "" if health.attrs["n_trajectories"] == 1 else f" of trajectory {int(worst['jump_trajectory'])}"
    what = "frame" if health.attrs["memory_unit"] != "pair" else "pair"
    text = (
        f"{_listed(found)} {_verb(found, 'jumps')}{which} {n} time{'s' * (n > 1)}, the furthest at {what} "
        f"{int(worst['jump_frame'])}{where}, by {float(worst['largest_step']):.3g} usual steps, and no other step is a "
        "tenth as long. An outlier, recordings glued together, or a box left and entered? Remove the frame, "
        "cut the trajectory there into two, or unwrap it; where it is the dynamics, leave it."
    )
    return Finding("jumps", text)


def _angles(health: xr.Dataset) -> Finding | None:
    chosen = health["is_angle"].values.astype(bool)
    found = dict(zip(_names(health, chosen), health["period"].values[chosen].tolist(), strict=True))
    return Finding("raw angles", angle_text(found)) if found else None


def _boxes(health: xr.Dataset) -> Finding | None:
    chosen = np.isfinite(health["period"].values) & ~health["is_angle"].values.astype(bool)
    found = _names(health, chosen)
    if not found:
        return None
    length = float(health["period"].values[chosen][0])
    text = (
        f"{_listed(found)} {_verb(found, 'jumps')} over the whole range, {length:.4g}, and "
        f"{_verb(found, 'moves')} by short steps otherwise, as positions in a periodic box do. If so, say periodic="
        f"{found[:_LISTED]} and period= the length of the box, or unwrap it."
    )
    return Finding("periodic box", text)


def _drift(health: xr.Dataset) -> Finding | None:
    is_moving = health["drift_p_value"].notnull()
    level = _FALSE_ALARMS / max(1, int(is_moving.sum()))
    chosen = (health["drift_p_value"] < level) & (np.abs(health["drift"]) > _DRIFT)
    found = _names(health, chosen)
    if not found:
        return None
    sizes = health["drift"].values[chosen.values]
    means = [f"{name} ({size:+.2g} deviations)" for name, size in zip(found, sizes, strict=True)]
    text = (
        f"the mean of {_listed(means, found)} changes from the first third of trajectories to the last; chance gives "
        f"that in {100 * _FALSE_ALARMS:g} % of stationary data. A fit takes one law for all frames: leave out what "
        "came before equilibrium, remove the trend, or fit the parts apart. If nothing has changed, then "
        "something slower than the data are long was seen once."
    )
    return Finding("drift", text)


def _few_samples(health: xr.Dataset) -> Finding | None:
    samples = health["effective_samples"]
    if not bool((samples < _FEW).any()):
        return None
    slowest = health.isel(coordinate=int(np.nanargmin(samples)))
    unit = health.attrs["memory_unit"]
    unit += "s" * (unit in _COUNTED)
    text = (
        f"{_name(slowest)} remembers for {float(slowest['autocorrelation_time']):.3g} {unit}, "
        f"so that {health.attrs['n_frames']} frames are worth {float(slowest['effective_samples']):.2g} independent "
        "samples: modes as slow as that are seen too rarely to be known, and no validation can tell. More or longer "
        "trajectories, or a fit of the faster coordinates alone."
    )
    return Finding("few independent samples", text)


def _lag(health: xr.Dataset) -> Finding | None:
    a = health.attrs
    if a["lag"] == "unknown" or a["lag"] <= _LAG * a["mean_trajectory"]:
        return None
    n, shortest = a["n_trajectories"], a["shortest_trajectory"]
    text = (
        f"lag={a['lag']} takes {100 * a['lag'] / a['mean_trajectory']:.0f} % of a trajectory of "
        f"{a['mean_trajectory']:.4g} frames{'' if n == 1 else f' (mean of {n}; the shortest has {shortest})'}: few "
        f"pairs are left, {a['n_pairs']}. A shorter lag, or longer trajectories."
    )
    return Finding("short trajectories", text)


def _few_counting(health: xr.Dataset) -> Finding | None:
    n, n_effective = health.attrs["n_pairs"], health.attrs["n_effective"]
    if n_effective >= _COUNTING * n:
        return None
    text = (
        f"weights leave {n_effective:.0f} of {n} pairs to count (Kish's effective number): errors are those of so few. "
        "Sample more where weights are large, or cut the largest weights off."
    )
    return Finding("few pairs count", text)


def _many(health: xr.Dataset) -> Finding | None:
    """Of vectors only, as networks do not read an image entry by entry; of very few samples is spoken already."""
    n = health.attrs["n_entries"]
    n_samples = float(health["effective_samples"].median()) if bool(health["deviation"].any()) else np.inf
    if not _is_vector(health) or n == 1 or not _FEW <= n_samples < _PER_COORDINATE * n:
        return None
    y = min(0.5, n / n_samples)
    text = (
        f"{n} coordinates, and the frames are worth {n_samples:.3g} independent samples (median): in the linear "
        f"functions alone, pure noise would show singular values up to {2 * np.sqrt(y * (1 - y)):.2g}. Believe "
        "held-out values only; fewer coordinates (the main components), or more data."
    )
    return Finding("many coordinates", text)


def _repeated(health: xr.Dataset) -> Finding | None:
    """Only where a coordinate is continuous otherwise: states and counts, and rounded numbers, come back anyway."""
    share, common = health["repeated_share"], health["common_share"]
    n, values = health.attrs["n_frames"], health["n_values"]
    is_stuck = (share > _REPEATED) & (values > 0.5 * n * (1 - share)) & (values > _FEW)
    is_filled = (common > _REPEATED) & (values > 0.5 * n * (1 - common)) & (values > _FEW)
    found = _names(health, is_stuck | is_filled)
    if not found:
        return None
    worst = health.isel(coordinate=int(np.argmax(np.where(is_stuck | is_filled, np.maximum(share, common), 0.0))))
    itself = "itself" if len(found) == 1 else "themselves"
    how = f"as one frame before in {100 * float(worst['repeated_share']):.0f} %"
    if float(worst["common_share"]) > _REPEATED:
        how = f"{float(worst['common_value']):.6g} in {100 * float(worst['common_share']):.0f} %"
    text = (
        f"{_listed(found)} {_verb(found, 'repeats')} {itself}: {_name(worst)} is exactly {how} of the "
        "frames, and continuous otherwise. A sensor that is stuck or saturated, a number for what is missing, frames "
        "written twice, a motion at rest? Drop these frames, and cut the trajectory there."
    )
    return Finding("repeated values", text)


def _scales(health: xr.Dataset) -> Finding | None:
    """Of what is standardised together: images, within a channel. Coordinates of vectors are, each by itself."""
    if _is_vector(health):
        return None
    deviation = health["deviation"].values
    has_channels = health.attrs["n_axes"] == 3
    channel = np.array([str(name).split(",")[0] if has_channels else "" for name in health["coordinate"].values])
    worst = max((_spread(deviation[channel == one]) for one in np.unique(channel)), default=1.0)
    if worst < _SCALES:
        return None
    text = (
        f"deviations of the entries of a state differ by a factor of {worst:.1g}, and they are divided by one scale: "
        "networks hardly see the small ones. Scale them before, or give vectors, each entry of which is standardised."
    )
    return Finding("very different scales", text)


def _spread(deviation: np.ndarray) -> float:
    moving = deviation[deviation > 0]
    return float(moving.max() / moving.min()) if len(moving) else 1.0


def _duplicates(health: xr.Dataset) -> Finding | None:
    if not _is_vector(health):
        return None
    chosen = health["duplicate_of"].values >= 0
    names = health["coordinate"].values
    first = names[health["duplicate_of"].values[chosen]]
    found = [f"{name} (as {one})" for name, one in zip(names[chosen], first, strict=True)]
    if not found:
        return None
    it = "it" if len(found) == 1 else "them"
    text = f"{_listed(found, names.tolist())}: the same but for shift and scale. Drop {it}: nothing is lost."
    return Finding("duplicate coordinates", text)


def _is_vector(health: xr.Dataset) -> bool:
    return int(health.attrs["n_axes"]) == 1


def _names(health: xr.Dataset, chosen: Any) -> list[Any]:
    """Names, or positions, of the chosen coordinates, as Python's own."""
    return health["coordinate"].values[np.asarray(chosen)].tolist()


def _name(one: xr.Dataset) -> str:
    return _listed([one["coordinate"].item()])


def _listed(texts: Sequence[Any], names: Sequence[Any] | None = None) -> str:
    """The first few of names, or of texts about them; positions are said to be such."""
    listed = ", ".join(map(str, texts[:_LISTED])) + f" and {len(texts) - _LISTED} more" * (len(texts) > _LISTED)
    if isinstance((names or texts)[0], int):
        return f"coordinate{'s' * (len(texts) > 1)} {listed}"
    return listed


def _verb(names: Sequence[Any], verb: str) -> str:
    return verb.removesuffix("s") if len(names) > 1 else verb


# In this order they are told.
_RULES = (
    _constant,
    _jumps,
    _angles,
    _boxes,
    _drift,
    _few_samples,
    _few_counting,
    _lag,
    _many,
    _repeated,
    _scales,
    _duplicates,
)
