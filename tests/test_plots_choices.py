import numpy as np
from pictures import chain_results, fitted, line, texts

from koopman_lora.plots import plot_energy, plot_number_of_states, plot_timescales


def scan(lags, n_resamples=20):
    _, trajectories, estimator = fitted()
    return estimator.scan_lags(trajectories, lags, n_resamples=n_resamples)


def test_energy_marks_the_recommended_number():
    selection = fitted()[2].select_n_modes()
    assert line(plot_energy(selection), "recommended").get_xdata()[0] == int(selection.recommended)


def test_timescales_draw_the_numbers_they_were_given():
    two = scan([1, 2])
    assert np.array_equal(line(plot_timescales(two), "mode 2").get_ydata(), two.timescales[:, 1])


def test_timescales_without_an_upper_bound_reach_the_top():
    three = scan([1, 2, 4])
    three["timescales_upper"][1:, 1] = np.inf
    three["timescales_lower"][:, 1] = 0
    three["timescales"][1, 1] = np.nan
    ax = plot_timescales(three, n_timescales=1)
    bottom, top = ax.get_ylim()
    band = ax.collections[0].get_paths()[0].vertices
    assert np.isfinite(band).all()
    assert band[:, 1].max() > top > three.timescales[:, 1].max()
    assert 0 < bottom < 1  # a lower bound of 0 does not stretch the axis
    assert band[:, 1].min() < bottom
    ax = plot_timescales(three.isel(lag=[0]).assign(timescales=np.nan * three.timescales[:1]))
    assert np.isfinite(ax.get_ylim()).all()


def test_no_unit_is_printed_where_there_is_none():
    ax = plot_timescales(scan([1, 2], n_resamples=8).assign_attrs(time_unit="1"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lag", "implied timescale")


def test_suggested_number_of_states_is_marked():
    gaps = chain_results()["gaps"]
    assert f"suggested: {gaps.attrs['suggested']}" in texts(plot_number_of_states(gaps))


def test_one_number_of_states_is_a_whole_number():
    ax = plot_number_of_states(chain_results()["gaps"])
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [2]
