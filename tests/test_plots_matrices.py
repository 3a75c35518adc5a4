import numpy as np
import pytest
from pictures import decomposed, line

from koopman_lora.plots import plot_matrix_core, plot_matrix_svals, plot_matrix_training


def test_decomposition_of_a_matrix():
    H, result = decomposed()
    ax = plot_matrix_svals(result)
    assert np.array_equal(line(ax, "after").get_ydata(), result.singular_values)
    assert np.allclose(line(ax, "LAPACK").get_ydata(), np.linalg.svd(H)[1][:3])
    assert np.array_equal(plot_matrix_training(result).lines[0].get_ydata(), result.training_error)
    assert result.attrs["stop_reason"] in plot_matrix_training(result).get_title()
    small = result.assign(singular_values=result.singular_values * [1, 1e-2, 1e-4])
    assert (plot_matrix_svals(small).get_yscale(), ax.get_yscale()) == ("log", "linear")
    image = plot_matrix_core(result).images[0]
    assert np.array_equal(image.get_array(), result.core)
    assert image.get_extent() == [0.5, 3.5, 3.5, 0.5]


@pytest.mark.slow
def test_the_smallest_possible_error_stands_in_the_training():
    _, result = decomposed()
    ax = plot_matrix_training(result)
    assert set(line(ax, "Eckart-Young").get_ydata()) == {float(result.error_eckart_young)}
    ax.figure.canvas.draw()  # the legend is outside the axes, where no curve can be
    assert ax.get_legend().get_window_extent().y1 <= ax.get_window_extent().y0
    for unknown in (np.nan, 0.0):
        assert len(plot_matrix_training(result.assign(training_floor=unknown)).lines) == 1
