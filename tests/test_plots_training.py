import numpy as np
import pytest
from pictures import fitted, line

from koopman_lora.plots import plot_history, plot_learned_svals


def test_history_marks_the_best_epoch():
    history = fitted()[2].training_.history
    ax = plot_history(history)
    assert np.array_equal(line(ax, "VAMP-2").get_ydata(), history.held_out_vamp_2)
    assert line(ax, "best epoch").get_xdata()[0] == history.attrs["best_epoch"]


def test_learned_svals_end_beside_the_canonical_ones():
    estimator = fitted()[2]
    history, spectrum = estimator.training_.history, estimator.spectrum_
    ax = plot_learned_svals(history, spectrum)
    dashed = [item.get_ydata()[0] for item in ax.lines if item.get_linestyle() == "--" and len(item.get_ydata())]
    np.testing.assert_array_equal(dashed, spectrum.canonical_singular_values)
    for mode in history["mode"].values:
        np.testing.assert_array_equal(line(ax, f"mode {mode}").get_ydata(), history.svals.sel(mode=mode))


def test_learned_svals_can_be_drawn_alone():
    ax = plot_learned_svals(fitted()[2].training_.history)
    assert not any(item.get_linestyle() == "--" for item in ax.lines)


def test_a_fit_without_svals_has_none_to_draw():
    with pytest.raises(ValueError, match="history must be of a fit with learn_svals=True"):
        plot_learned_svals(fitted()[2].training_.history.drop_vars("svals"))
