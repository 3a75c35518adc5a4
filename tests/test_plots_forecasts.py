import numpy as np
from pictures import chain_results, line, texts

from koopman_lora.plots import plot_forecast, plot_forecast_error


def test_forecast_draws_band_and_truth():
    band = chain_results()["band"]
    ax = plot_forecast(band, truth=band.forecast + 1, sample=1, observable="b")
    curves = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(curves["forecast"], band.forecast.sel(observable="b")[:, 1])
    np.testing.assert_allclose(curves["truth"], curves["forecast"] + 1)
    assert len(ax.collections) == 1
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert set(band.forecast_interval.sel(observable="b")[:, :, 1].values.ravel()) <= set(edges)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (ns)", "b")
    assert "95 % band of the expectation" in texts(ax)


def test_the_band_says_its_own_level():
    assert "80 % band of the expectation" in texts(plot_forecast(chain_results()["band"].assign_attrs(level=0.8)))


def test_a_number_is_no_name_of_an_observable():
    band = chain_results()["band"].assign_coords(observable=[0, 1, 2])
    assert plot_forecast(band, sample=2).get_ylabel() == "observable 0"
    assert "sample 2" in plot_forecast(band, sample=2).get_title()


def test_a_backward_forecast_runs_into_the_past():
    band = chain_results()["band"]
    past = band.assign_coords(time=("step", -band.time.values, band.time.attrs))
    curve = line(plot_forecast(past), "forecast")
    np.testing.assert_allclose(curve.get_xdata(), [-0.5, -1, -1.5, -2, -2.5])


def test_every_forecaster_has_its_curve():
    error = chain_results()["error"]
    ax = plot_forecast_error(error)
    assert texts(ax) == ["koopman", "persistence", "climatology", "linear"]
    for name in texts(ax):
        assert np.array_equal(line(ax, name).get_ydata(), error.relative_rmse_mean.sel(forecaster=name))
    assert ax.get_xlabel() == "horizon (ns)"
