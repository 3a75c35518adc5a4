"""Draw forecasts: one with its band, and errors against the horizon."""

from __future__ import annotations

from typing import Any

import xarray as xr
from matplotlib.axes import Axes

from koopman_lora._labels import check_result
from koopman_lora.checks import checked
from koopman_lora.kinds import check_word
from koopman_lora.plots.style import BLUE, GREY, ORANGE, add_legend, ink, make_axis, with_unit


@checked
def plot_forecast(
    band: xr.Dataset, truth: xr.DataArray | None = None, sample: int = 0, observable: Any = None, ax: Axes | None = None
) -> Axes:
    """A forecast with its band against time, and the truth where it is known.

    Parameters
    ----------
    band : Dataset of `forecast_band`
    truth : DataArray (step, sample, observable), optional
    sample : which sample
    observable : which observable, by its name; the first by default

    Examples
    --------
    >>> values = xr.DataArray(
    ...     [[[1.0]], [[1.0]], [[1.0]]],
    ...     dims=("step", "sample", "observable"),
    ...     coords={"time": ("step", [1.0, 2.0, 3.0], {"units": "ps"}), "sample": [0], "observable": ["x"]},
    ... )
    >>> interval = xr.concat([values - 0.1, values + 0.1], dim="bound")
    >>> band = xr.Dataset({"forecast": values, "forecast_interval": interval}, attrs={"level": 0.95})
    >>> plot_forecast(band).get_xlabel()
    'time (ps)'
    """
    check_result(
        "band", band, "forecast_band", "observable", "sample", "time", "forecast", "forecast_interval", attrs=["level"]
    )
    ax = make_axis(ax)
    known = band["observable"].values.tolist()
    observable = known[0] if observable is None else observable
    check_word("observable", observable, known)
    if not 0 <= sample < band.sizes["sample"]:
        raise ValueError(f"sample must be one of {band.sizes['sample']}, counted from 0; got {sample}.")
    one = band.sel(observable=observable).isel(sample=sample)
    time = one["time"]
    percent = f"{100 * band.attrs['level']:g} % band of the expectation"
    lower, upper = one["forecast_interval"].values
    ax.fill_between(time, lower, upper, color=BLUE, alpha=0.3, lw=0, label=percent)
    ax.plot(time, one["forecast"], color=BLUE, label="forecast")
    if truth is not None:
        _check_truth(truth, band)
        values = truth.sel(observable=observable).isel(sample=sample)
        ax.plot(time, values, color=ink(), ls="--", lw=1.4, label="truth")
    name = observable if isinstance(observable, str) else f"observable {observable}"
    ax.set(xlabel=with_unit("time", time.attrs.get("units")), ylabel=name, title=f"Forecast from sample {sample}")
    add_legend(ax)
    return ax


def _check_truth(truth: xr.DataArray, band: xr.Dataset) -> None:
    check_result("truth", truth, "the data at the times of the band", "observable")
    wanted = band["forecast"].sizes
    if any(truth.sizes.get(dim) != n for dim, n in wanted.items()):
        raise ValueError(f"truth must have sizes {dict(wanted)}, as the band has; got {dict(truth.sizes)}.")


@checked
def plot_forecast_error(error: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Relative error against the horizon, of the forecast and of what it must beat; mean over the observables.

    Parameters
    ----------
    error : Dataset of `forecast_error`

    Examples
    --------
    >>> series = 0.5 ** np.arange(12.0)[:, None]
    >>> train = lagged_pairs(series)
    >>> moments = estimate_moments(lambda s: s, lambda s: s, train, observables=kl.flat_state)
    >>> plot_forecast_error(kl.forecast_error(moments, lambda s: s, train, series, [1, 5])).get_xlabel()
    'horizon (frame)'
    """
    check_result("error", error, "forecast_error", "forecaster", "time", "relative_rmse_mean")
    ax = make_axis(ax)
    styles = {
        "koopman": (BLUE, "-"),
        "persistence": (GREY, ":"),
        "climatology": (ink(), "--"),
        "linear": (ORANGE, "-."),
    }
    for name in error["forecaster"].values:
        colour, style = styles[str(name)]
        curve = error["relative_rmse_mean"].sel(forecaster=name)
        ax.plot(error["time"], curve, color=colour, ls=style, marker="o", ms=3, label=str(name))
    ax.set(
        xlabel=with_unit("horizon", error["time"].attrs.get("units")),
        ylabel="RMSE / standard deviation",
        ylim=(0, None),
        title="Forecast error",
    )
    add_legend(ax)
    return ax
