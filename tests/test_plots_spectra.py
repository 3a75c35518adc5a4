import matplotlib as mpl
import numpy as np
import pytest
from pictures import fitted, line, texts

import koopman_lora as kl


def test_spectrum_draws_the_numbers_it_was_given():
    system, _, estimator = fitted()
    reference = system.spectrum(1, 4)
    ax = kl.plots.plot_spectrum(estimator.spectrum_, reference)
    assert np.array_equal(line(ax, "canonical").get_ydata(), estimator.spectrum_.canonical_singular_values)
    assert np.array_equal(line(ax, "learned").get_ydata(), estimator.spectrum_.svals)
    assert np.array_equal(line(ax, "K_matrix").get_ydata(), estimator.spectrum_.singular_values)
    assert np.array_equal(line(ax, "reference").get_ydata(), reference.singular_values)
    assert kl.plots.plot_spectrum(estimator.spectrum_, ax=ax) is ax


def test_first_and_last_mode_are_inside_the_axis():
    estimator = fitted()[2]
    two = estimator.spectrum_.isel(mode=slice(2))
    for ax in (kl.plots.plot_spectrum(two), kl.plots.plot_energy(estimator.select_n_modes().isel(mode=slice(2)))):
        assert ax.get_xlim() == (0.5, 2.5)
        assert ax.get_ylim()[1] > 1
        assert all(tick == round(tick) for tick in ax.get_xticks())


def test_no_unit_is_printed_where_there_is_none():
    spectrum = fitted()[2].spectrum_.assign_attrs(time_unit="1", dt=0.1)
    assert "lag 0.1 (1 frame)" in kl.plots.plot_spectrum(spectrum).get_title()


def test_a_lag_that_nobody_said_is_one_lag():
    spectrum = fitted()[2].spectrum_.assign_attrs(kl.Clock().attrs())
    assert kl.plots.plot_spectrum(spectrum).get_title() == "Koopman singular values, 1 lag"
    assert kl.plots.plot_eigenvalues(spectrum).get_title() == "Koopman eigenvalues, 1 lag"


def test_reference_is_legible_on_a_dark_background():
    system, _, estimator = fitted()
    with mpl.style.context("dark_background"):
        ax = kl.plots.plot_spectrum(estimator.spectrum_, system.spectrum(1, 4))
    assert line(ax, "reference").get_color() == "white"


def test_eigenvalues_stand_where_they_are():
    estimator = fitted()[2]
    ax = kl.plots.plot_eigenvalues(estimator.spectrum_, estimator.intervals(kl.Bootstrap(50)))
    assert np.array_equal(line(ax, "eigenvalues").get_xdata(), estimator.spectrum_.eigenvalues.values.real)


def test_intervals_of_both_parts_cross_at_the_eigenvalue():
    estimator = fitted()[2]
    intervals = estimator.intervals(kl.Bootstrap(20))
    ax = kl.plots.plot_eigenvalues(estimator.spectrum_, intervals)
    for axis, part in enumerate(("real", "imaginary")):
        ends = [segment[:, axis] for segment in ax.collections[axis].get_segments()]
        assert np.array_equal(ends, intervals.eigenvalues_interval.sel(part=part).T)


def test_a_wide_interval_does_not_hide_the_unit_circle():
    estimator = fitted()[2]
    spectrum, intervals = estimator.spectrum_.copy(deep=True), estimator.intervals(kl.Bootstrap(20)).copy(deep=True)
    intervals["eigenvalues_interval"].loc[{"part": "real", "mode": 2}] = [-50, 50]
    ax = kl.plots.plot_eigenvalues(spectrum, intervals)
    assert ax.get_xlim() == pytest.approx((-1.1, 1.1), rel=0.01)
    assert "95 % interval" in texts(ax)
    spectrum["eigenvalues"][1] = 3.0  # one outside the circle is shown
    assert kl.plots.plot_eigenvalues(spectrum).get_xlim()[1] > 3
