import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import koopman_lora as kl

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    system = kl.systems.NoisyRotation()
    trajectories = system.simulate(n_trajectories=2, n_steps=2000, seed=0)
    return system, trajectories, kl.KoopmanLoRA(n_modes=4, hidden_dims=(16,), n_epochs=4).fit(trajectories)


def line(ax, label):
    return next(item for item in ax.lines if label in str(item.get_label()))


def test_spectrum_draws_the_numbers_it_was_given(fitted):
    system, _, estimator = fitted
    reference = system.spectrum(1, 4)
    ax = kl.plot_spectrum(estimator.spectrum_, reference)
    assert np.array_equal(line(ax, "canonical").get_ydata(), estimator.spectrum_.canonical_singular_values)
    assert np.array_equal(line(ax, "learned").get_ydata(), estimator.spectrum_.svals)
    assert np.array_equal(line(ax, "K_matrix").get_ydata(), estimator.spectrum_.singular_values)
    assert np.array_equal(line(ax, "reference").get_ydata(), reference.singular_values)
    assert kl.plot_spectrum(estimator.spectrum_, ax=ax) is ax


def test_history_marks_the_best_epoch(fitted):
    history = fitted[2].training_.history
    ax = kl.plot_history(history)
    assert np.array_equal(line(ax, "VAMP-E").get_ydata(), history.held_out_vamp_e)
    assert line(ax, "best epoch").get_xdata()[0] == history.attrs["best_epoch"]


def test_comparison_ratio_energy_eigenvalues_timescales(fitted):
    _, trajectories, estimator = fitted
    comparison, selection = estimator.diagnose(n_resamples=50), estimator.select_n_modes()
    ax = kl.plot_comparison(comparison)
    assert comparison.attrs["verdict"] in ax.get_title()
    held_out = ax.containers[0]
    assert "held out" in held_out.get_label()
    assert np.array_equal(held_out.lines[0].get_ydata(), comparison.canonical_held_out)
    assert np.array_equal(kl.plot_ratio(comparison).lines[-1].get_ydata(), comparison.ratio)
    assert line(kl.plot_energy(selection), "recommended").get_xdata()[0] == int(selection.recommended)
    ax = kl.plot_eigenvalues(estimator.spectrum_, estimator.intervals(n_resamples=50))
    assert np.array_equal(line(ax, "eigenvalues").get_xdata(), estimator.spectrum_.eigenvalues.values.real)
    scan = estimator.scan_lags(trajectories, [1, 2], n_resamples=20)
    assert np.array_equal(line(kl.plot_timescales(scan), "mode 2").get_ydata(), scan.timescales[:, 1])


def test_held_out_values_carry_their_standard_errors(fitted):
    comparison = fitted[2].diagnose(n_resamples=20)
    bars = kl.plot_comparison(comparison).containers[0].lines[2][0].get_segments()
    heights = [bar[1, 1] - bar[0, 1] for bar in bars]
    assert np.allclose(heights, 2 * comparison.held_out_error)


def test_huge_and_missing_values_keep_the_picture_readable(fitted):
    comparison = fitted[2].diagnose(n_resamples=20)
    large = comparison.assign(K_matrix=1e4 * comparison.K_matrix, ratio=1e4 * comparison.ratio)
    for draw in (kl.plot_comparison, kl.plot_ratio):
        ax = draw(large)
        assert ax.get_yscale() == "symlog"
        assert ax.get_ylim()[1] > 1e4 * 0.9
        assert -1 < ax.get_ylim()[0] <= 0
        assert draw(comparison).get_yscale() == "linear"
    ax = kl.plot_ratio(comparison.assign(ratio=np.nan * comparison.ratio))
    assert ax.get_ylim() == pytest.approx((0.95, 1.05))


def test_first_and_last_mode_are_inside_the_axis(fitted):
    _, _, estimator = fitted
    two = estimator.spectrum_.isel(mode=slice(2))
    for ax in (kl.plot_spectrum(two), kl.plot_energy(estimator.select_n_modes().isel(mode=slice(2)))):
        assert ax.get_xlim() == (0.5, 2.5)
        assert ax.get_ylim()[1] > 1
        assert all(tick == round(tick) for tick in ax.get_xticks())


def test_a_wide_interval_does_not_hide_the_unit_circle(fitted):
    _, _, estimator = fitted
    spectrum, intervals = estimator.spectrum_.copy(deep=True), estimator.intervals(n_resamples=20).copy(deep=True)
    intervals["eigenvalue_real"][1] = [-50, 50]
    ax = kl.plot_eigenvalues(spectrum, intervals)
    assert ax.get_xlim() == pytest.approx((-1.1, 1.1), rel=0.01)
    assert "95 % interval" in [text.get_text() for text in ax.get_legend().get_texts()]
    spectrum["eigenvalues"][1] = 3.0  # one outside the circle is shown
    assert kl.plot_eigenvalues(spectrum).get_xlim()[1] > 3


def test_timescales_without_an_upper_bound_reach_the_top(fitted):
    _, trajectories, estimator = fitted
    scan = estimator.scan_lags(trajectories, [1, 2, 4], n_resamples=20)
    scan["timescales_upper"][1:, 1] = np.inf
    scan["timescales_lower"][:, 1] = 0
    scan["timescales"][1, 1] = np.nan
    ax = kl.plot_timescales(scan, n_timescales=1)
    bottom, top = ax.get_ylim()
    band = ax.collections[0].get_paths()[0].vertices
    assert np.isfinite(band).all()
    assert band[:, 1].max() > top > scan.timescales[:, 1].max()
    assert 0 < bottom < 1  # a lower bound of 0 does not stretch the axis
    assert band[:, 1].min() < bottom
    ax = kl.plot_timescales(scan.isel(lag=[0]).assign(timescales=np.nan * scan.timescales[:1]))
    assert np.isfinite(ax.get_ylim()).all()


def test_no_unit_is_printed_where_there_is_none(fitted):
    _, trajectories, estimator = fitted
    spectrum = estimator.spectrum_.assign_attrs(time_unit="1", dt=0.1)
    assert "lag 0.1 (1 frame)" in kl.plot_spectrum(spectrum).get_title()
    scan = estimator.scan_lags(trajectories, [1, 2], n_resamples=8).assign_attrs(time_unit="1")
    ax = kl.plot_timescales(scan)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lag", "implied timescale")


def test_reference_is_legible_on_a_dark_background(fitted):
    system, _, estimator = fitted
    with mpl.style.context("dark_background"):
        ax = kl.plot_spectrum(estimator.spectrum_, system.spectrum(1, 4))
    assert line(ax, "reference").get_color() == "white"


def test_functions_of_one_and_two_coordinates():
    x = np.linspace(0, 1, 30)
    values = np.stack([x**0, x, x**2], axis=1)
    axes = kl.plot_singular_functions(x, values, reference=values)
    assert [ax.get_title() for ax in axes] == [r"$\phi_{2}$", r"$\phi_{3}$"]
    assert np.array_equal(line(axes[1], "learned").get_ydata(), values[:, 2])
    (ax,) = kl.plot_singular_functions(np.stack([x, x], axis=1), values, modes=[2])
    assert np.array_equal(ax.collections[0].get_array(), values[:, 1])


def test_the_reference_is_drawn_with_the_sign_of_the_values():
    x = np.linspace(0, 1, 30)
    values = np.stack([x**0, x], axis=1)
    (ax,) = kl.plot_singular_functions(x, values, reference=-values)
    assert np.array_equal(line(ax, "reference").get_ydata(), values[:, 1])


def test_many_panels_are_wrapped_and_one_mode_is_drawn():
    x = np.linspace(0, 1, 30)
    axes = kl.plot_singular_functions(x, np.ones((30, 6)), modes=range(1, 7))
    assert len(axes) == 6 == len(axes[0].figure.axes)
    assert axes[0].get_gridspec().ncols == 4
    assert [ax.get_title() for ax in kl.plot_singular_functions(x, np.ones((30, 1)))] == [r"$\phi_{1}$"]


def test_functions_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="one- or two-dimensional"):
        kl.plot_singular_functions(np.zeros((5, 3)), np.zeros((5, 2)))
    for modes in ([0], [3]):
        with pytest.raises(ValueError, match=r"modes must lie between 1 and 2; got \["):
            kl.plot_singular_functions(np.zeros((5, 1)), np.zeros((5, 2)), modes=modes)
    with pytest.raises(ValueError, match="values must be real"):
        kl.plot_singular_functions(np.zeros((5, 1)), np.zeros((5, 2), complex))


def test_decomposition_of_a_matrix():
    H = np.random.default_rng(0).normal(size=(12, 9))
    result = kl.NeuralSVD(n_modes=3).fit(H).to_dataset()
    ax = kl.plot_matrix_svals(result)
    assert np.array_equal(line(ax, "after").get_ydata(), result.singular_values)
    assert np.allclose(line(ax, "LAPACK").get_ydata(), np.linalg.svd(H)[1][:3])
    assert np.array_equal(kl.plot_matrix_training(result).lines[0].get_ydata(), result.training_error)
    assert result.attrs["stop_reason"] in kl.plot_matrix_training(result).get_title()
    small = result.assign(singular_values=result.singular_values * [1, 1e-2, 1e-4])
    assert (kl.plot_matrix_svals(small).get_yscale(), ax.get_yscale()) == ("log", "linear")
    image = kl.plot_matrix_core(result).images[0]
    assert np.array_equal(image.get_array(), result.core)
    assert image.get_extent() == [0.5, 3.5, 3.5, 0.5]
