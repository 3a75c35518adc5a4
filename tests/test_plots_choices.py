import numpy as np
import pytest
from pictures import chain_results, fitted, line, texts

from koopman_lora import Bootstrap
from koopman_lora.plots import plot_energy, plot_modes_above_noise, plot_number_of_states, plot_timescales


def scan(lags, n_resamples=20):
    _, trajectories, estimator = fitted()
    return estimator.scan_lags(trajectories, lags, bootstrap=Bootstrap(n_resamples))


def answer_of(ax):
    """What the title says below the question, its line breaks undone."""
    return " ".join(ax.get_title("left").split("\n")[1:])


@pytest.mark.parametrize("draw", [plot_energy, plot_modes_above_noise])
def test_number_recommended_number_fitted_and_answer_are_drawn(draw):
    selection = fitted()[2].select_n_modes()
    for reason in ("at least 4 (all that were fitted are real: fit more)", "none (noise)"):
        ax = draw(selection.assign_attrs(answer=reason))
        assert line(ax, "recommended").get_xdata()[0] == int(selection.recommended)
        assert line(ax, "fitted: 4").get_xdata()[0] == 4
        assert answer_of(ax) == reason


def test_energy_draws_its_rule_and_marks_where_the_curves_reach_it():
    selection = fitted()[2].select_n_modes(energy=0.6)
    ax = plot_energy(selection)
    assert line(ax, "60 %: reached with").get_ydata()[0] == 0.6
    marks = [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in ax.lines if mark.get_marker() == "v"]
    assert marks == [(int(selection.n_energy), 0.6), (int(selection.n_captured_share), 0.6)]
    for band, name in zip(ax.collections, ("energy", "captured_share"), strict=False):
        drawn = band.get_paths()[0].vertices
        for bound in selection[f"{name}_interval"].values:
            assert all(np.isclose(drawn, [mode, value]).all(axis=1).any() for mode, value in enumerate(bound, start=1))


def test_modes_above_noise_draws_intervals_and_what_noise_reaches():
    selection = fitted()[2].select_n_modes(level=0.9)
    ax = plot_modes_above_noise(selection)
    assert "held-out pairs, 90 % interval" in texts(ax)
    held_out = ax.containers[0]
    bars = [segment[:, 1] for segment in held_out.lines[2][0].get_segments()]
    np.testing.assert_allclose(bars, selection.sigma_held_out_interval.T)
    noise = [segment[0, 1] for segment in ax.collections[-1].get_segments() if len(segment)]
    np.testing.assert_allclose(noise, selection.noise_threshold[1:])  # the constant is not on trial


def test_intervals_that_are_not_known_are_not_drawn():
    selection = fitted()[2].select_n_modes()
    ax = plot_modes_above_noise(selection.assign(sigma_held_out_interval=np.nan * selection.sigma_held_out_interval))
    heights = [np.ptp(segment[:, 1]) for segment in ax.containers[0].lines[2][0].get_segments()]
    assert np.allclose(heights, 0)
    assert np.isfinite(ax.get_ylim()).all()


def test_no_plateau_is_said_and_no_lag_is_marked():
    rising = scan([1, 2]).assign_attrs(
        has_plateau=False, recommended_lag=np.nan, recommended_lag_time=np.nan, answer="no plateau up to lag 2 (...)"
    )
    ax = plot_timescales(rising)
    assert answer_of(ax) == "no plateau up to lag 2 (...)"
    assert not any(str(drawn.get_label()).startswith("recommended") for drawn in ax.lines)
    assert line(ax, "longest lag scanned").get_xdata()[0] == rising.lag_time[-1]


def test_the_plateau_is_drawn_with_the_interval_that_longer_lags_agree_with():
    found = scan([1, 2]).assign_attrs(has_plateau=True, recommended_lag=2, recommended_lag_time=2.0, answer="2 frames")
    drawn = plot_timescales(found).collections[-1].get_segments()
    assert [segment[0].tolist() for segment in drawn] == [
        [2.0, bound] for bound in found.timescales_interval.sel(lag=2).values[:, 1]
    ]


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
