import matplotlib as mpl
import numpy as np
import pytest

import koopman_lora as kl

mpl.use("Agg")


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
    assert np.array_equal(line(ax, "canonical (held out)").get_ydata(), comparison.canonical_held_out)
    assert np.array_equal(kl.plot_ratio(comparison).lines[-1].get_ydata(), comparison.ratio)
    assert line(kl.plot_energy(selection), "recommended").get_xdata()[0] == int(selection.recommended)
    ax = kl.plot_eigenvalues(estimator.spectrum_, estimator.intervals(n_resamples=50))
    assert np.array_equal(line(ax, "eigenvalues").get_xdata(), estimator.spectrum_.eigenvalues.values.real)
    scan = estimator.scan_lags(trajectories, [1, 2], n_resamples=20)
    assert np.array_equal(line(kl.plot_timescales(scan), "t_{2}").get_ydata(), scan.timescales[:, 1])


def test_functions_of_one_and_two_coordinates():
    x = np.linspace(0, 1, 30)
    values = np.stack([x**0, x, x**2], axis=1)
    axes = kl.plot_singular_functions(x, values, reference=values)
    assert [ax.get_title() for ax in axes] == [r"$\phi_{2}$", r"$\phi_{3}$"]
    assert np.array_equal(line(axes[1], "learned").get_ydata(), values[:, 2])
    (ax,) = kl.plot_singular_functions(np.stack([x, x], axis=1), values, modes=[2])
    assert np.array_equal(ax.collections[0].get_array(), values[:, 1])


def test_functions_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="one- or two-dimensional"):
        kl.plot_singular_functions(np.zeros((5, 3)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="values must be real"):
        kl.plot_singular_functions(np.zeros((5, 1)), np.zeros((5, 2), complex))


def test_decomposition_of_a_matrix():
    H = np.random.default_rng(0).normal(size=(12, 9))
    result = kl.NeuralSVD(n_modes=3).fit(H).to_dataset()
    ax = kl.plot_matrix_svals(result)
    assert np.array_equal(line(ax, "after").get_ydata(), result.singular_values)
    assert np.allclose(line(ax, "LAPACK").get_ydata(), np.linalg.svd(H)[1][:3])
    assert np.array_equal(kl.plot_matrix_training(result).lines[0].get_ydata(), result.training_error)
    image = kl.plot_matrix_core(result).images[0]
    assert np.array_equal(image.get_array(), result.core)
    assert image.get_extent() == [0.5, 3.5, 3.5, 0.5]
