"""Plots draw what the Datasets hold, on the axis that is given, with units and legends."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr

mpl.use("Agg")

import matplotlib.pyplot as plt

from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.eigenanalysis import evaluate_on_grid
from koopman_lora.moments import estimate_moments
from koopman_lora.plots.dynamics import (
    plot_chapman_kolmogorov,
    plot_coarse_map,
    plot_eigenfunctions,
    plot_forecast,
    plot_forecast_error,
    plot_memberships,
    plot_network,
    plot_number_of_states,
    state_colour,
)
from koopman_lora.prediction import forecast_band, forecast_error
from koopman_lora.states.coarse_graining import macroscopic_model
from koopman_lora.states.markovianity import chapman_kolmogorov
from koopman_lora.states.metastable_sets import number_of_states
from koopman_lora.systems import FiniteMarkovChain


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def identity(x):
    return x


def two_functions(x):
    return np.column_stack([np.ones(len(x)), x[:, 0], x[:, 0] ** 2])


LINE = evaluate_on_grid(two_functions, {"x": np.linspace(-1, 1, 11)}, unit="nm")
PLANE = evaluate_on_grid(two_functions, {"x": np.linspace(-1, 1, 11), "y": np.linspace(0, 1, 7)}, unit="nm")
HALVES = evaluate_on_grid(
    lambda x: np.column_stack([x[:, 0] > 0, x[:, 0] <= 0]).astype(float),
    {"x": np.linspace(-1, 1, 11), "y": np.linspace(0, 1, 7)},
)


@pytest.fixture(scope="module")
def results():
    chain = FiniteMarkovChain.with_blocks(n_blocks=3, states_per_block=1, coupling=0.2, seed=1)
    data = chain.simulate(4, 1000)
    moments = {
        lag: estimate_moments(identity, identity, lagged_pairs(data, lag), observables=identity) for lag in (1, 2, 4)
    }
    pairs = lagged_pairs(data)
    units = {"dt": 0.5, "time_unit": "ns"}
    return {
        "model": macroscopic_model(moments[1], n_resamples=20, **units),
        "test": chapman_kolmogorov(moments, np.eye(3), n_resamples=20, **units),
        "band": forecast_band(moments[1], np.eye(3), 5, n_resamples=20, observable_names=["a", "b", "c"], **units),
        "error": forecast_error(moments[1], identity, pairs, chain.simulate(2, 200, seed=7), 3),
        "gaps": number_of_states(moments[1], n_resamples=20),
    }


DRAWN = {
    "eigenfunctions_1d": lambda r, ax: plot_eigenfunctions(LINE, ax=ax),
    "eigenfunctions_2d": lambda r, ax: plot_eigenfunctions(PLANE, ax=ax),
    "coarse_map": lambda r, ax: plot_coarse_map(HALVES, ax=ax),
    "memberships": lambda r, ax: plot_memberships(LINE, ax=ax),
    "forecast": lambda r, ax: plot_forecast(r["band"], ax=ax),
    "forecast_error": lambda r, ax: plot_forecast_error(r["error"], ax=ax),
    "chapman_kolmogorov": lambda r, ax: plot_chapman_kolmogorov(r["test"], ax=ax),
    "network": lambda r, ax: plot_network(r["model"], ax=ax),
    "number_of_states": lambda r, ax: plot_number_of_states(r["gaps"], ax=ax),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_on_the_given_axis_or_a_new_one(name, results, tmp_path):
    given_ax = plt.figure().add_subplot()
    assert DRAWN[name](results, given_ax) is given_ax
    new = DRAWN[name](results, None)
    assert new is not given_ax
    assert new.get_title()
    new.figure.savefig(tmp_path / "plot.png")


def texts(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def test_curves_hold_the_functions():
    ax = plot_eigenfunctions(LINE, modes=[3])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), LINE.sel(mode=3))
    assert (ax.get_xlabel(), texts(ax)) == ("x (nm)", ["3"])


def test_map_holds_the_function_and_its_zero_line():
    ax = plot_eigenfunctions(PLANE)
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(7, 11), PLANE.sel(mode=2).T)
    assert ax.get_ylabel() == "y (nm)"


def test_a_function_without_zeros_has_no_zero_line(recwarn):
    assert len(plot_eigenfunctions(PLANE, modes=[1]).collections) == 1
    assert not recwarn.list


def test_coarse_map_colours_the_most_likely_state():
    ax = plot_coarse_map(HALVES)
    colours = ax.collections[0].get_array().reshape(7, 11, 3)
    np.testing.assert_allclose(colours[0, -1], mpl.colors.to_rgb(state_colour(0)))
    np.testing.assert_allclose(colours[0, 0], mpl.colors.to_rgb(state_colour(1)))
    assert texts(ax) == ["state 0", "state 1"]


def test_coarse_map_leaves_unknown_cells_white():
    ax = plot_coarse_map(HALVES.where(HALVES.y < 0.5))
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(7, 11, 3)[-1], 1.0)


def test_forecast_draws_band_and_truth(results):
    band = results["band"]
    ax = plot_forecast(band, truth=band.forecast + 1, sample=1, observable="b")
    curves = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(curves["forecast"], band.forecast.sel(observable="b")[:, 1])
    np.testing.assert_allclose(curves["truth"], curves["forecast"] + 1)
    assert len(ax.collections) == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (ns)", "b")
    assert "95 % band of the expectation" in texts(ax)


def test_chapman_kolmogorov_draws_predictions_estimates_and_bands(results):
    test = results["test"]
    ax = plot_chapman_kolmogorov(test)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), test.predicted[:, 0, 0])
    assert len(texts(ax)) == 5
    assert ax.get_xlabel() == "time (ns)"
    plain = plot_chapman_kolmogorov(test.drop_vars([n for n in test if n.endswith(("lower", "upper"))]))
    assert len(plain.collections) == 0


def test_network_shows_every_rate(results):
    model = results["model"]
    ax = plot_network(model)
    shown = {t.get_text() for t in ax.texts}
    rates = model.rates.values
    assert {f"{rate:.2g}" for rate in rates[rates > 0]} <= shown
    assert "1/ns" in ax.get_title()


def test_two_states_stand_in_the_middle(results):
    two = results["model"].isel(state=slice(2), state_next=slice(2))
    ax = plot_network(two)
    places = [c.get_offsets()[0] for c in ax.collections]
    assert np.allclose(places, [[0.5, 0.85], [0.5, 0.15]])


def test_a_number_is_no_name_of_an_observable(results):
    band = results["band"].assign_coords(observable=[0, 1, 2])
    assert plot_forecast(band, sample=2).get_ylabel() == "observable 0"
    assert "sample 2" in plot_forecast(band, sample=2).get_title()


def test_every_forecaster_has_its_curve(results):
    assert texts(plot_forecast_error(results["error"])) == ["koopman", "persistence", "climatology", "linear"]


def test_suggestion_is_marked(results):
    assert f"suggested: {results['gaps'].attrs['suggested']}" in texts(plot_number_of_states(results["gaps"]))


def test_refusals(results):
    with pytest.raises(ValueError, match=r"functions must be real; draw functions.real"):
        plot_eigenfunctions(LINE * 1j)
    with pytest.raises(ValueError, match="one or two coordinates"):
        plot_eigenfunctions(PLANE.expand_dims("z"))
    with pytest.raises(ValueError, match=r"modes must name one mode per map; got \[2, 3\]"):
        plot_eigenfunctions(PLANE, modes=[2, 3])
    with pytest.raises(ValueError, match=r"modes must be among \[1, 2, 3\]; got \[4\]"):
        plot_eigenfunctions(LINE, modes=[4])
    with pytest.raises(ValueError, match="two-dimensional grid"):
        plot_coarse_map(LINE)
    with pytest.raises(ValueError, match=r"dimensions \(coordinate, state\)"):
        plot_memberships(PLANE)
    with pytest.raises(ValueError, match=r"positions must have shape \(3, 2\); got \(2, 2\)"):
        plot_network(results["model"], positions=np.zeros((2, 2)))


def test_memberships_over_time_carry_the_unit():
    chi = xr.DataArray(
        torch.eye(3).numpy(), dims=("time", "state"), coords={"time": ("time", [0.0, 1.0, 2.0], {"units": "ps"})}
    )
    ax = plot_memberships(chi)
    assert (ax.get_xlabel(), texts(ax)) == ("time (ps)", ["state 0", "state 1", "state 2"])
