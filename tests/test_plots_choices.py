import numpy as np
import pytest
from pictures import chain_results, fitted, line, texts

from koopman_lora import Bootstrap
from koopman_lora.plots import plot_energy, plot_number_of_states, plot_timescales


def scan(lags, n_resamples=20):
    _, trajectories, estimator = fitted()
    return estimator.scan_lags(trajectories, lags, bootstrap=Bootstrap(n_resamples))


def test_energy_marks_the_recommended_number():
    selection = fitted()[2].select_n_modes()
    assert line(plot_energy(selection), "recommended").get_xdata()[0] == int(selection.recommended)


def test_energy_says_at_least_where_all_modes_are_real():
    selection = fitted()[2].select_n_modes()
    recommended = int(selection.recommended)
    for is_capped, text in ((True, f"recommended: at least {recommended}"), (False, f"recommended: {recommended}")):
        marked = line(plot_energy(selection.assign_attrs(is_capped=is_capped)), "recommended")
        assert marked.get_label() == text


def test_no_plateau_is_said_and_no_lag_is_marked():
    rising = scan([1, 2]).assign_attrs(has_plateau=False, recommended_lag=np.nan, recommended_lag_time=np.nan)
    ax = plot_timescales(rising)
    assert "no plateau up to lag 2" in texts(ax)
    assert not any(str(drawn.get_label()).startswith("recommended") for drawn in ax.lines)


def test_timescales_draw_the_numbers_they_were_given():
    two = scan([1, 2])
    assert np.array_equal(line(plot_timescales(two), "mode 2").get_ydata(), two.timescales[:, 1])


def test_timescales_without_an_upper_bound_reach_the_top():
    three = scan([1, 2, 4])
    three["timescales_interval"][1, 1:, 1] = np.inf
    three["timescales_interval"][0, :, 1] = 0
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


@pytest.mark.parametrize(
    ("unit", "text"), [("ns", "0.5 ns (2 frames)"), ("1", "0.5 (2 frames)"), ("frame", "2 frames")]
)
def test_the_recommended_lag_stands_at_its_time_and_is_told_in_frames(unit, text):
    recommended = {"has_plateau": True, "recommended_lag": 2, "recommended_lag_time": 0.5, "time_unit": unit}
    marked = line(plot_timescales(scan([1, 2]).assign_attrs(recommended)), "recommended")
    assert marked.get_label() == f"recommended lag: {text}"
    assert marked.get_xdata()[0] == 0.5


def test_the_time_of_the_recommended_lag_is_that_of_the_scan():
    found = scan([2, 4])
    marked = line(plot_timescales(found), "recommended").get_xdata()[0]
    assert marked == found.lag_time.sel(lag=found.attrs["recommended_lag"])


def test_gaps_without_intervals_have_no_bars():
    gaps = chain_results()["gaps"]
    bars = plot_number_of_states(gaps.assign(gap_interval=np.nan * gaps.gap_interval)).containers[0].lines[2][0]
    assert np.ptp([segment[:, 1] for segment in bars.get_segments()], axis=1) == pytest.approx(0)


def test_bars_of_gaps_are_their_intervals():
    gaps = chain_results()["gaps"]
    bars = plot_number_of_states(gaps).containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([segment[:, 1] for segment in bars], gaps.gap_interval.T)


def test_suggested_number_of_states_is_marked():
    gaps = chain_results()["gaps"]
    assert f"suggested: {gaps.attrs['suggested']}" in texts(plot_number_of_states(gaps))


def test_one_number_of_states_is_a_whole_number():
    ax = plot_number_of_states(chain_results()["gaps"])
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [2]
