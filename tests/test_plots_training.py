import numpy as np
from pictures import fitted, line

from koopman_lora.plots import plot_history


def test_history_marks_the_best_epoch():
    history = fitted()[2].training_.history
    ax = plot_history(history)
    assert np.array_equal(line(ax, "VAMP-2").get_ydata(), history.held_out_vamp_2)
    assert line(ax, "best epoch").get_xdata()[0] == history.attrs["best_epoch"]
