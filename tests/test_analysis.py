import dataclasses

import numpy as np
import pytest
import torch
import xarray as xr

from koopman_lora.accumulation import estimate_moments
from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.findings import NO_BETTER
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.systems import NoisyRotation
from koopman_lora.tables import comparison_text

SYSTEM = NoisyRotation(omega=0.5, noise=0.5)
LABELLED = SYSTEM.simulate(n_trajectories=2, n_steps=601, seed=0)
SIGMA = SYSTEM.spectrum(lag=1, n_modes=5).singular_values
FEW = Bootstrap(n_resamples=20)


@pytest.fixture(scope="module")
def fitted():
    return KoopmanLoRA(5, hidden_dims=(24, 16), n_epochs=30, seed=4).fit(LABELLED).analysis_


@pytest.fixture(scope="module")
def other():
    """Trajectories that nothing was fitted to."""
    return SYSTEM.simulate(n_steps=2000, seed=9)


def pairs_of(analysis):
    return analysis.fitted.split.pairs


def test_coordinates_in_another_order_are_refused_at_every_door(fitted):
    turned = LABELLED[..., ::-1]
    states = turned[0, :4]
    for ask in (
        lambda: fitted.features(states),
        lambda: fitted.singular_functions(states, side="right"),
        lambda: fitted.eigenfunctions(states),
        lambda: fitted.forecast(states, steps=2),
        lambda: fitted.forecast(states.to_pandas(), steps=2),
        lambda: fitted.scan_lags(turned, [1, 2]),
        lambda: fitted.compute_spectrum(turned),
        lambda: fitted.applied_to(turned),
    ):
        with pytest.raises(
            ValueError, match=r"fit in their order, cos, sin; got sin, cos \('sin' in the place of 'cos'\)"
        ):
            ask()
    assert fitted.features(LABELLED[0, :4]).shape == (4, 5)


def test_the_mean_of_an_angle_is_warned_of_and_its_cosine_and_sine_are_forecast():
    step = 0.3 + 0.1 * np.random.default_rng(0).normal(size=4000)
    angle = np.degrees(np.cumsum(step)) % 360
    analysis = KoopmanLoRA(5, hidden_dims=(16,), periodic=True, period=360).fit(angle).analysis_
    states = np.array([[10.0], [350.0]])
    for ask in (lambda: analysis.forecast(states, steps=1, bootstrap=FEW), analysis.koopman_modes):
        with pytest.warns(UserWarning, match=r"periodic coordinates \(0\) .* jumps at the seam: give observables"):
            ask()

    def on_circle(x):
        return torch.cat([torch.deg2rad(x).cos(), torch.deg2rad(x).sin()], dim=1)

    cosine, sine = analysis.forecast(states, steps=1, observables=on_circle, bootstrap=FEW).forecast.values[0].T
    wanted = states[:, 0] + np.degrees(0.3)
    assert np.abs((np.degrees(np.arctan2(sine, cosine)) - wanted + 180) % 360 - 180).max() < 2


# ---- functions -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_singular_values_of_a_known_system(fitted):
    assert np.allclose(fitted.spectrum.canonical_singular_values, SIGMA, atol=0.06)
    assert fitted.spectrum.canonical_singular_values[0] == pytest.approx(1, abs=1e-12)


def test_singular_functions_are_orthonormal_on_the_data_and_pair_up(fitted):
    x, x_next = pairs_of(fitted).x, pairs_of(fitted).x_next
    phi, psi = fitted.singular_functions(x, side="left"), fitted.singular_functions(x_next, side="right")
    n = len(x)
    assert np.allclose(phi.T @ phi / n, np.eye(5), atol=1e-5)
    assert np.allclose(psi.T @ psi / n, np.eye(5), atol=1e-5)
    assert np.allclose(phi.T @ psi / n, np.diag(fitted.spectrum.canonical_singular_values), atol=1e-5)
    assert np.allclose(phi[:, 0], 1, atol=1e-6)
    assert np.abs(fitted.singular_functions(x) - phi).max() == 0  # left is the default
    assert np.abs(psi - fitted.singular_functions(x_next)).max() > 0.1


def test_eigenfunctions_are_of_unit_norm_and_evolve_by_their_eigenvalue(fitted):
    values = fitted.eigenfunctions(pairs_of(fitted).x)
    assert np.iscomplexobj(values)
    assert np.allclose(np.mean(np.abs(values) ** 2, axis=0), 1, atol=1e-4)
    after = fitted.eigenfunctions(pairs_of(fitted).x_next)
    correlation = np.mean(np.conj(values) * after, axis=0)
    assert np.allclose(correlation[:3], fitted.spectrum.eigenvalues[:3], atol=0.03)


@pytest.mark.slow
def test_functions_take_states_in_every_form(fitted):
    states = LABELLED.values[0, :5]
    wanted = fitted.singular_functions(states)
    for form in (torch.from_numpy(states), states.astype(np.float32), LABELLED[0, :5], states.tolist()):
        assert np.allclose(fitted.singular_functions(form), wanted, atol=1e-5)
    one_dimensional = KoopmanLoRA(3, hidden_dims=(8,), n_epochs=2).fit(LABELLED.values[0, :, 0])
    assert one_dimensional.singular_functions(np.array([0.1, 0.2])).shape == (2, 3)


def test_functions_refuse_other_shapes_and_sides(fitted):
    with pytest.raises(ValueError, match=r"x must have shape \(n, 2\); got \(4, 3\)"):
        fitted.singular_functions(np.ones((4, 3)))
    with pytest.raises(ValueError, match="side must be 'left' or 'right'; got 'both'"):
        fitted.singular_functions(np.ones((4, 2)), side="both")


def test_features_are_those_of_the_model(fitted):
    pairs = pairs_of(fitted)
    for side, states in (("left", pairs.x), ("right", pairs.x_next)):
        features = fitted.features(states, side)
        assert np.allclose(np.mean(features**2, axis=0), 1, atol=1e-5)
        encode = fitted.model.f if side == "left" else fitted.model.g
        with torch.no_grad():
            assert np.allclose(features, encode(states).double().numpy(), atol=1e-6)
    assert np.allclose(fitted.moments.M_f, np.eye(5), atol=1e-4)  # refined


@pytest.mark.slow
def test_the_clock_is_that_of_the_pairs():
    clock = Clock(2, 0.5, "ps")
    analysis = KoopmanLoRA(3, lag=2, dt=0.5, time_unit="ps", hidden_dims=(8,), n_epochs=2).fit(LABELLED.values[0])
    analysis = analysis.analysis_
    assert analysis.clock == analysis.model.clock == analysis.moments.clock == pairs_of(analysis).clock == clock
    for answer in (analysis.spectrum, analysis.eigen_analysis()):
        assert answer.timescales.attrs["units"] == "ps"
    assert Clock.from_attrs(analysis.intervals(FEW).attrs) == clock
    assert np.allclose(analysis.spectrum.timescales, clock.timescales(analysis.spectrum.eigenvalues), equal_nan=True)
    # raw arrays are read with the clock of the fit; pairs of another one are refused
    assert analysis.estimate_moments(LABELLED.values[1]).clock == clock
    with pytest.raises(ValueError, match=r"clocks must be one and the same .*lag=1.*lag=2"):
        analysis.compute_spectrum(lagged_pairs(LABELLED))


# ---- how far to trust ------------------------------------------------------------------------------------------------


def test_diagnose_after_refinement_leaves_the_error_of_sampling(fitted):
    comparison = fitted.diagnose(Bootstrap(n_resamples=100))
    size = comparison["size"].to_series()
    assert comparison.verdict in ("sampling error", "generalisation gap")
    assert max(size["training gap"], size["non-orthogonality"], size["anisotropy"]) < 1e-3
    assert comparison.has_held_out
    assert comparison.verdict in comparison_text(comparison)


def test_compute_spectrum_of_other_data(fitted, other):
    spectrum = fitted.compute_spectrum(other)
    assert spectrum.n_pairs == 1999
    assert np.allclose(spectrum.canonical_singular_values[:3], SIGMA[:3], atol=0.06)
    pairs = lagged_pairs(other)
    model = fitted.model
    wanted = estimate_moments(model.f, model.g, pairs)
    assert np.allclose(fitted.estimate_moments(other).T_fg, wanted.T_fg)


@pytest.mark.parametrize(("precision", "atol"), [("64-true", 1e-8), ("32-true", 1e-5)])
def test_the_spectrum_of_the_fit_is_that_of_its_pairs(precision, atol):
    """The fit takes the moments of un-normalised features, and normalises the moments: the same up to round-off."""
    analysis = KoopmanLoRA(5, hidden_dims=(24, 16), n_epochs=4, precision=precision).fit(LABELLED).analysis_
    same, wanted = analysis.compute_spectrum(pairs_of(analysis)).drop_attrs(), analysis.spectrum.drop_attrs()
    signs = ["U", "Vh"]  # those of the columns of the K_matrix's singular vectors are free
    xr.testing.assert_allclose(same.drop_vars(signs), wanted.drop_vars(signs), atol=atol)
    xr.testing.assert_allclose(abs(same[signs]), abs(wanted[signs]), atol=100 * atol)


def test_the_number_of_modes_and_residuals_of_a_fit(fitted):
    selection = fitted.select_n_modes(energy=0.5)
    assert selection.energy_fraction == 0.5
    assert 3 <= selection.recommended <= 5
    residuals = fitted.residuals()
    assert residuals.on_held_out_pairs
    assert not residuals.is_spurious[:3].any()
    assert fitted.residuals(tolerance=1e-9).is_spurious.any()


def test_held_out_scores_are_those_of_the_validation(fitted):
    validation = fitted.validation()
    assert validation is fitted.fitted.validation
    assert fitted.scores() == validation.scores()
    assert fitted.scores().vamp_e <= fitted.scores().vamp_2  # no functions score higher than the pairs' own best
    assert np.allclose(validation.sigma[:3], SIGMA[:3], atol=0.06)
    assert len(validation.phi) == len(fitted.fitted.split.held_out)


@pytest.mark.parametrize("ask", ["validation", "scores", "select_n_modes"])
def test_without_held_out_pairs_nothing_is_validated(ask, fitted):
    bare = KoopmanAnalysis(dataclasses.replace(fitted.fitted, validation=None))
    with pytest.raises(ValueError, match=r"no pairs were held out to validate on; fit with held_out=0\.1"):
        getattr(bare, ask)()


def test_intervals_are_drawn_with_the_seed_of_the_fit(fitted):
    default, drawn = fitted.intervals(), fitted.intervals(Bootstrap(seed=4))
    xr.testing.assert_equal(default, drawn)
    wanted = bootstrap_intervals(fitted.moments, fitted.model.svals_array(), Bootstrap(seed=4))
    xr.testing.assert_equal(default, wanted)
    other_seed = fitted.intervals(Bootstrap(seed=5)).canonical_singular_values_interval
    assert not np.allclose(other_seed, default.canonical_singular_values_interval)
    lower, upper = default.canonical_singular_values_interval.values
    assert (lower <= fitted.spectrum.canonical_singular_values).all()
    assert (fitted.spectrum.canonical_singular_values <= upper + 1e-9).all()


def test_a_scan_of_lags_starts_at_the_timescale_of_the_fit(fitted):
    scan = fitted.scan_lags(LABELLED, [1, 2], bootstrap=FEW)
    assert scan.lag.values.tolist() == [1, 2]
    slowest = scan.canonical_singular_values.sel(lag=1, mode=2)
    assert np.isclose(slowest, fitted.spectrum.canonical_singular_values.sel(mode=2), rtol=1e-6)
    assert np.isclose(scan.canonical_singular_values.sel(lag=2, mode=2), SIGMA[1] ** 2, atol=0.08)


# ---- what the modes are for ------------------------------------------------------------------------------------------


def test_eigenvalues_come_with_intervals_where_a_bootstrap_is_given(fitted):
    bare, banded = fitted.eigen_analysis(), fitted.eigen_analysis(bootstrap=FEW)
    assert "eigenvalues_interval" not in bare
    assert banded.eigenvalues_interval.dims == ("bound", "part", "mode")
    assert np.allclose(bare.eigenvalues, fitted.spectrum.eigenvalues, atol=1e-9)
    exact = SYSTEM.spectrum(lag=1, n_modes=3).eigenvalues
    assert np.allclose(sorted(bare.eigenvalues.values[:3], key=np.angle), sorted(exact, key=np.angle), atol=0.06)


def test_koopman_modes_give_the_states_back(fitted):
    modes = fitted.koopman_modes()
    assert modes.observable.values.tolist() == LABELLED[LABELLED.dims[-1]].values.tolist()
    # of other observables they are taken from the frames
    doubled = fitted.koopman_modes(lambda x: 2 * x.flatten(1))
    assert np.allclose(doubled.koopman_modes, 2 * modes.koopman_modes, atol=1e-9)


def test_a_forecast_turns_and_decays(fitted):
    states = LABELLED.values[0, :4]
    ahead = fitted.forecast(states, [1, 3], bootstrap=FEW)
    assert ahead.forecast.dims == ("step", "sample", "observable")
    assert ahead.forecast_interval.dims == ("bound", "step", "sample", "observable")
    z = states @ [1, 1j]
    for step in (1, 3):
        wanted = z * np.exp((0.5j - 0.5**2 / 2) * step)  # E[exp(i theta)] after Gaussian noise
        found = ahead.forecast.sel(step=step).values @ [1, 1j]
        assert np.abs(found - wanted).max() < 0.15
    lower, upper = ahead.forecast_interval.values
    assert (lower <= upper).all()
    default = fitted.forecast(states, 1)
    xr.testing.assert_equal(default, fitted.forecast(states, 1, bootstrap=Bootstrap(seed=4)))


def test_memberships_and_the_model_between_them(fitted):
    chi = fitted.membership_map(3)(pairs_of(fitted).x)
    chi = np.asarray(chi)
    assert chi.shape == (len(pairs_of(fitted)), 3)
    assert np.allclose(chi.sum(axis=1), 1, atol=1e-5)
    macroscopic = fitted.coarse_grain(3, bootstrap=FEW)
    assert macroscopic.attrs["lag"] == 1
    assert np.isclose(macroscopic.eigenvalues.values[0], 1, atol=1e-6)
    # a circle has no metastable sets: three of them carry less of its rotation than the functions do, never more
    assert 0.3 < np.abs(macroscopic.eigenvalues.values[1]) < SIGMA[1] + 0.1


@pytest.mark.parametrize("method", ["K_matrix", "canonical"])
def test_slow_coordinates_of_any_states(fitted, method):
    coordinates = fitted.coarse_coordinates(LABELLED.values[0, :7], method)
    assert len(coordinates) == 7
    assert np.isfinite(coordinates).all()
    assert coordinates.std() > 0.1


# ---- other data ------------------------------------------------------------------------------------------------------


def test_applied_to_other_data_all_of_them_are_held_out(fitted, other):
    there = fitted.applied_to(other)
    assert there.moments.n_pairs == 1999
    assert len(there.validation().phi) == 1999
    assert np.array_equal(there.validation().sigma, fitted.spectrum.canonical_singular_values)
    assert there.scores().vamp_e == pytest.approx(np.sum(SIGMA**2), abs=0.1)
    assert there.model is fitted.model
    assert there.clock == fitted.clock
    xr.testing.assert_allclose(there.spectrum, fitted.compute_spectrum(other))
    assert there.koopman_modes(lambda x: x[:, :1]).sizes["observable"] == 1  # its frames are at hand
    with pytest.raises(ValueError, match=r"clocks must be one and the same .*lag=2.*lag=1"):
        fitted.applied_to(lagged_pairs(other, lag=2))


def test_what_is_said_of_the_fit_is_said_of_the_data_it_is_applied_to(fitted):
    noise = np.random.default_rng(0).normal(size=LABELLED.values[0].shape)
    there = fitted.applied_to(noise)
    assert NO_BETTER not in [finding.name for finding in fitted.fitted.findings]
    assert "is not above 1, that of the constant" in str(there.summary())
    back = there.applied_to(LABELLED)
    assert NO_BETTER not in [finding.name for finding in back.fitted.findings]


@pytest.mark.slow
def test_the_agreement_of_fits_is_not_that_of_other_data(other):
    fitted = KoopmanLoRA(n_modes=3, hidden_dims=(8,), n_epochs=1, n_fits=2).fit(LABELLED).analysis_
    assert fitted.fitted.fits is not None
    assert fitted.applied_to(other).fitted.fits is None


def test_an_analysis_knows_the_data_of_its_fit(fitted, other):
    assert fitted.was_fitted_to(LABELLED)
    assert fitted.was_fitted_to(LABELLED.astype(np.float32).astype(float)) == False  # noqa: E712
    assert not fitted.was_fitted_to(other)
    assert fitted.applied_to(other).was_fitted_to(other)


def test_an_analysis_shows_its_singular_values(fitted):
    assert repr(fitted).startswith("KoopmanAnalysis(sigma 1.000, 0.8")
    assert "1200 pairs, with its data; Clock(lag=1" in repr(fitted)
