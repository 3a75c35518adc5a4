import numpy as np
import pytest
from pictures import LINE, PLANE, line, texts

from koopman_lora.plots import plot_eigenfunctions, plot_singular_functions


def test_functions_of_one_and_two_coordinates():
    x = np.linspace(0, 1, 30)
    values = np.stack([x**0, x, x**2], axis=1)
    axes = plot_singular_functions(x, values, reference=values)
    assert [ax.get_title() for ax in axes] == [r"$\phi_{2}$", r"$\phi_{3}$"]
    assert np.array_equal(line(axes[1], "learned").get_ydata(), values[:, 2])


def test_of_states_in_one_cell_a_map_shows_the_mean():
    x = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    values = np.stack([np.ones(4), [1.0, 3.0, -4.0, 5.0]], axis=1)
    (ax,) = plot_singular_functions(x, values, modes=[2])
    places = ax.collections[0].get_offsets()
    found = {
        tuple(place.round().astype(int)): value
        for place, value in zip(places, ax.collections[0].get_array(), strict=True)
    }
    assert found == {(0, 0): 2.0, (1, 0): -4.0, (1, 1): 5.0}


def test_the_reference_is_drawn_with_the_sign_of_the_values():
    x = np.linspace(0, 1, 30)
    values = np.stack([x**0, x], axis=1)
    (ax,) = plot_singular_functions(x, values, reference=-values)
    assert np.array_equal(line(ax, "reference").get_ydata(), values[:, 1])


def test_many_panels_are_wrapped_and_one_mode_is_drawn():
    x = np.linspace(0, 1, 30)
    axes = plot_singular_functions(x, np.ones((30, 6)), modes=range(1, 7))
    assert len(axes) == 6 == len(axes[0].figure.axes)
    assert axes[0].get_gridspec().ncols == 4
    assert [ax.get_title() for ax in plot_singular_functions(x, np.ones((30, 1)))] == [r"$\phi_{1}$"]


def test_functions_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="one- or two-dimensional"):
        plot_singular_functions(np.zeros((5, 3)), np.zeros((5, 2)))
    for modes in ([0], [3]):
        with pytest.raises(ValueError, match=r"modes must lie between 1 and 2; got \["):
            plot_singular_functions(np.zeros((5, 1)), np.zeros((5, 2)), modes=modes)
    with pytest.raises(ValueError, match="values must be real"):
        plot_singular_functions(np.zeros((5, 1)), np.zeros((5, 2), complex))


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


def test_eigenfunctions_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match=r"functions must be real; draw functions.real"):
        plot_eigenfunctions(LINE * 1j)
    with pytest.raises(ValueError, match="one or two coordinates"):
        plot_eigenfunctions(PLANE.expand_dims("z"))
    with pytest.raises(ValueError, match=r"modes must name one mode per map; got \[2, 3\]"):
        plot_eigenfunctions(PLANE, modes=[2, 3])
    with pytest.raises(ValueError, match=r"modes must be among \[1, 2, 3\]; got \[4\]"):
        plot_eigenfunctions(LINE, modes=[4])
