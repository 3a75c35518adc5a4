import numpy as np
import pytest
from pictures import fitted, texts

from koopman_lora import Bootstrap
from koopman_lora.plots import plot_comparison, plot_ratio


def test_comparison_draws_verdict_held_out_values_and_ratio():
    comparison = fitted()[2].diagnose(Bootstrap(50))
    ax = plot_comparison(comparison)
    assert comparison.attrs["verdict"] in ax.get_title()
    held_out = ax.containers[0]
    assert "held out" in held_out.get_label()
    assert np.array_equal(held_out.lines[0].get_ydata(), comparison.canonical_held_out)
    assert np.array_equal(plot_ratio(comparison).lines[-1].get_ydata(), comparison.ratio)


def test_held_out_values_carry_their_standard_errors():
    comparison = fitted()[2].diagnose(Bootstrap(20))
    bars = plot_comparison(comparison).containers[0].lines[2][0].get_segments()
    heights = [bar[1, 1] - bar[0, 1] for bar in bars]
    assert np.allclose(heights, 2 * comparison.held_out_error)


def test_the_interval_stands_at_its_bounds_and_says_its_own_level():
    comparison = fitted()[2].diagnose(Bootstrap(20, level=0.8))
    ax = plot_comparison(comparison)
    assert "80 % interval" in texts(ax)
    drawn = [segment[:, 1] for segment in ax.collections[0].get_segments()]
    assert np.array_equal(drawn, comparison.canonical_interval.T)


def test_huge_and_missing_values_keep_the_picture_readable():
    comparison = fitted()[2].diagnose(Bootstrap(20))
    large = comparison.assign(K_matrix=1e4 * comparison.K_matrix, ratio=1e4 * comparison.ratio)
    for draw in (plot_comparison, plot_ratio):
        ax = draw(large)
        assert ax.get_yscale() == "symlog"
        assert ax.get_ylim()[1] > 1e4 * 0.9
        assert -1 < ax.get_ylim()[0] <= 0
        assert draw(comparison).get_yscale() == "linear"
    ax = plot_ratio(comparison.assign(ratio=np.nan * comparison.ratio))
    assert ax.get_ylim() == pytest.approx((0.95, 1.05))
