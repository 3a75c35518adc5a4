"""Every plot draws on the axis that is given, or on a new one, and can be saved."""

import functools

import matplotlib.pyplot as plt
import pytest
from pictures import HALVES, LINE, PLANE, chain_results, decomposed, fitted

import koopman_lora as kl
from koopman_lora import plots


@functools.cache
def estimates():
    _, trajectories, estimator = fitted()
    return {
        "spectrum": estimator.spectrum_,
        "history": estimator.training_.history,
        "comparison": estimator.diagnose(kl.Bootstrap(20)),
        "selection": estimator.select_n_modes(),
        "importance": estimator.input_importance(bootstrap=kl.Bootstrap(20)),
        "scan": estimator.scan_lags(trajectories, [1, 2], bootstrap=kl.Bootstrap(20)),
    }


DRAWN = {
    "plot_chapman_kolmogorov": lambda: chain_results()["test"],
    "plot_coarse_map": lambda: HALVES,
    "plot_comparison": lambda: estimates()["comparison"],
    "plot_eigenfunctions": lambda: LINE,
    "plot_eigenvalues": lambda: estimates()["spectrum"],
    "plot_energy": lambda: estimates()["selection"],
    "plot_forecast": lambda: chain_results()["band"],
    "plot_forecast_error": lambda: chain_results()["error"],
    "plot_history": lambda: estimates()["history"],
    "plot_input_importance": lambda: estimates()["importance"],
    "plot_learned_svals": lambda: estimates()["history"],
    "plot_matrix_core": lambda: decomposed()[1],
    "plot_matrix_svals": lambda: decomposed()[1],
    "plot_matrix_training": lambda: decomposed()[1],
    "plot_memberships": lambda: LINE,
    "plot_modes_above_noise": lambda: estimates()["selection"],
    "plot_network": lambda: chain_results()["model"],
    "plot_number_of_states": lambda: chain_results()["gaps"],
    "plot_ratio": lambda: estimates()["comparison"],
    "plot_spectrum": lambda: estimates()["spectrum"],
    "plot_timescales": lambda: estimates()["scan"],
}


def draws_on_the_given_axis_or_a_new_one(draw, drawn, path):
    given_ax = plt.figure().add_subplot()
    assert draw(drawn, ax=given_ax) is given_ax
    new = draw(drawn)
    assert new is not given_ax
    assert new.get_title() or new.get_title("left")
    new.figure.savefig(path)


@pytest.mark.parametrize("name", DRAWN)
def test_draws_on_the_given_axis_or_a_new_one(name, tmp_path):
    draws_on_the_given_axis_or_a_new_one(getattr(plots, name), DRAWN[name](), tmp_path / "plot.png")


def test_a_map_is_drawn_on_the_given_axis_or_a_new_one(tmp_path):
    draws_on_the_given_axis_or_a_new_one(plots.plot_eigenfunctions, PLANE, tmp_path / "plot.png")


def test_every_plot_is_at_the_front_door_of_the_folder():
    of_many_axes = {"plot_maps", "plot_singular_functions"}  # draw one axis per mode
    assert {name for name in dir(plots) if name.startswith("plot_")} == DRAWN.keys() | of_many_axes
