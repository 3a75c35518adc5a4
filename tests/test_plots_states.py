import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr
from pictures import HALVES, LINE, PLANE, chain_results, texts

from koopman_lora.plots import plot_chapman_kolmogorov, plot_coarse_map, plot_memberships
from koopman_lora.plots.style import state_colour


def test_coarse_map_colours_the_most_likely_state():
    ax = plot_coarse_map(HALVES)
    colours = ax.collections[0].get_array().reshape(7, 11, 4)
    np.testing.assert_allclose(colours[0, -1], mpl.colors.to_rgba(state_colour(0)))
    np.testing.assert_allclose(colours[0, 0], mpl.colors.to_rgba(state_colour(1)))
    assert texts(ax) == ["state 0", "state 1"]


def test_coarse_map_leaves_unknown_and_shared_cells_blank():
    ax = plot_coarse_map(HALVES.where(HALVES.y < 0.5))
    np.testing.assert_array_equal(ax.collections[0].get_array().reshape(7, 11, 4)[[0, -1], 0, -1], [1.0, 0.0])
    shared = plot_coarse_map(xr.full_like(HALVES, 0.5))
    np.testing.assert_array_equal(shared.collections[0].get_array().reshape(7, 11, 4)[..., -1], 0.0)


def test_memberships_over_time_carry_the_unit():
    chi = xr.DataArray(
        torch.eye(3).numpy(), dims=("time", "state"), coords={"time": ("time", [0.0, 1.0, 2.0], {"units": "ps"})}
    )
    ax = plot_memberships(chi)
    assert (ax.get_xlabel(), texts(ax)) == ("time (ps)", ["state 0", "state 1", "state 2"])


def test_chapman_kolmogorov_draws_predictions_estimates_and_bands():
    test = chain_results()["test"]
    ax = plot_chapman_kolmogorov(test)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), test.predicted[:, 0, 0])
    points = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_ydata(), test.estimated[:, 0, 0])
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert set(test.predicted_interval[:, :, 0, 0].values.ravel()) <= set(edges)
    assert len(texts(ax)) == 5
    assert ax.get_xlabel() == "time (ns)"
    plain = plot_chapman_kolmogorov(test.drop_vars(["predicted_interval", "estimated_interval"]))
    assert len(plain.collections) == 0


def test_refusals():
    with pytest.raises(ValueError, match="two-dimensional grid"):
        plot_coarse_map(LINE)
    with pytest.raises(ValueError, match=r"dimensions \(coordinate, state\)"):
        plot_memberships(PLANE)
