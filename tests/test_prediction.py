"""Forecasts, Koopman modes and eigen-analysis against closed forms, direct estimates and their own claims."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import roots_hermitenorm

from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import estimate_moments
from koopman_lora.prediction import (
    bootstrap_weights,
    check_steps,
    eigen_analysis,
    evaluate_on_grid,
    flat_state,
    forecast,
    forecast_band,
    forecast_error,
    interval,
    koopman_modes,
    propagator,
    symmetrised,
    time_reversed,
    timescales_from_singular_values,
)
from koopman_lora.systems import FiniteMarkovChain, LinearGaussian, NoisyRotation, OrnsteinUhlenbeck
from koopman_lora.trajectories import lagged_pairs

METHODS = ("operator", "edmd")


def identity(x):
    return x


def with_one(x):
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)


def exact_moments(x, x_next, weights, **options):
    """Exact expectations: rows are scaled by sqrt(N w), which identity feature maps keep."""
    root = np.sqrt(len(weights) * weights)[:, None]
    pairs = tuple(torch.from_numpy(side * root) for side in (x, x_next))
    return estimate_moments(identity, identity, pairs, observables=identity, n_blocks=1, **options)


def exact_chain(P):
    chain = FiniteMarkovChain(P)
    n = chain.n_states
    joint = (chain.stationary_distribution[:, None] * chain.transition_matrix).ravel()
    return chain, exact_moments(np.repeat(np.eye(n), n, axis=0), np.tile(np.eye(n), (n, 1)), joint)


def exact_rotation():
    system = NoisyRotation(omega=0.7, noise=0.4)
    angle, (noise, weights) = np.arange(24) * 2 * np.pi / 24, roots_hermitenorm(30)
    moved = (angle[:, None] + system.omega + system.noise * noise).ravel()
    angle = np.repeat(angle, 30)
    x, x_next = (with_one(np.stack([np.cos(a), np.sin(a)], axis=1)) for a in (angle, moved))
    return system, exact_moments(x, x_next, np.tile(weights / weights.sum(), 24) / 24)


def exact_gaussian():
    system = LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
    nodes, weights = roots_hermitenorm(4)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    grid_weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    x = np.repeat(grid @ np.linalg.cholesky(system.covariance).T, 16, axis=0)
    x_next = x @ system.A.T + np.tile(grid, (16, 1)) @ system.B.T
    return system, exact_moments(with_one(x), with_one(x_next), np.outer(grid_weights, grid_weights).ravel())


P_EXAMPLE = np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10


@pytest.fixture(scope="module")
def noisy():
    """Moments of random complex features of a rotation, in blocks, with complex observables."""
    data = torch.from_numpy(NoisyRotation().simulate(1, 2001, seed=1).values[0])
    rng = np.random.default_rng(0)
    mix_f, mix_g, mix_h = (torch.from_numpy(rng.normal(size=(5, k)) + 1j * rng.normal(size=(5, k))) for k in (5, 5, 2))

    def basis(x):
        z = x[:, 0] + 1j * x[:, 1]
        return torch.stack([z**k for k in (0, 1, -1, 2, -2)], dim=1)

    maps = [lambda x, m=m: basis(x) @ m for m in (mix_f, mix_g, mix_h)]
    moments = estimate_moments(maps[0], maps[1], (data[:-1], data[1:]), observables=maps[2])
    return moments, maps, data


class TestExactExpectations:
    @pytest.mark.parametrize("method", METHODS)
    def test_chain_is_a_matrix_power(self, method):
        chain, m = exact_chain(P_EXAMPLE)
        found = forecast(m, np.eye(4), [1, 2, 5, 20], method=method)
        for step in found.step.values:
            truth = np.linalg.matrix_power(chain.transition_matrix, step)
            np.testing.assert_allclose(found.sel(step=step), truth, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS)
    def test_chain_backward_is_the_reversed_chain(self, method):
        chain, m = exact_chain(P_EXAMPLE)
        pi = chain.stationary_distribution
        reversed_P = (pi[:, None] * chain.transition_matrix / pi).T
        found = forecast(m, np.eye(4), 6, method=method, direction="backward", dt=0.5)
        np.testing.assert_allclose(found.sel(step=6), np.linalg.matrix_power(reversed_P, 6), atol=1e-12)
        assert found.time.values[-1] == -3.0

    @pytest.mark.parametrize("method", METHODS)
    def test_rotation_turns_and_decays(self, method):
        system, m = exact_rotation()
        angle = np.linspace(0, 6, 9)
        x = with_one(np.stack([np.cos(angle), np.sin(angle)], axis=1))
        for step in (1, 5, 20):
            z = np.exp(1j * (angle + step * system.omega) - step * system.noise**2 / 2)
            found = forecast(m, x, [step], method=method).values[0]
            np.testing.assert_allclose(found, np.stack([z.real**0, z.real, z.imag], axis=1), atol=1e-12)

    @pytest.mark.parametrize("method", METHODS)
    def test_linear_system_is_a_power_of_A_and_its_reversal(self, method):
        system, m = exact_gaussian()
        x = np.random.default_rng(0).normal(size=(7, 2))
        reversed_A = system.covariance @ system.A.T @ np.linalg.inv(system.covariance)
        for direction, A in (("forward", system.A), ("backward", reversed_A)):
            for step in (1, 5, 20):
                found = forecast(m, with_one(x), [step], method=method, direction=direction).values[0, :, 1:]
                np.testing.assert_allclose(found, x @ np.linalg.matrix_power(A, step).T, atol=1e-12)

    def test_rank_one_operator_is_climatology(self):
        chain, m = exact_chain(P_EXAMPLE)
        found = forecast(m, np.eye(4), 3, n_modes=1)
        np.testing.assert_allclose(found, np.broadcast_to(chain.stationary_distribution, found.shape), atol=1e-12)


def test_powers_agree_with_independently_estimated_moments():
    """E[f(x_0) f(x_n)] predicted from one simulation at lag 1, estimated from another at lag n."""
    chain = FiniteMarkovChain(P_EXAMPLE)
    short = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 40_000, seed=0)))
    step = propagator(short, "edmd")
    for n in (2, 3, 5):
        direct = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 40_000, seed=n), lag=n)).T_ff
        predicted = short.M_f @ step.start @ np.linalg.matrix_power(step.K, n) @ np.linalg.inv(step.start)
        np.testing.assert_allclose(predicted, direct, atol=0.01)  # standard error of a frequency: 0.0025, correlated


class TestKoopmanModes:
    @pytest.mark.parametrize("method", METHODS)
    def test_sums_reproduce_forecasts(self, noisy, method):
        moments, maps, data = noisy
        features = maps[0](data[:50]).numpy()
        modes = koopman_modes(moments, method)
        eigenfunctions = features @ modes.right_coefficients.values
        found = forecast(moments, features, [1, 2, 7, 40], method=method)
        for step in found.step.values:
            total = (eigenfunctions * modes.eigenvalues.values**step) @ modes.koopman_modes.values
            np.testing.assert_allclose(total, found.sel(step=step), atol=1e-10)

    def test_sums_reproduce_forecasts_of_dependent_features(self):
        x = torch.randn(500, 2, generator=torch.manual_seed(0), dtype=torch.float64)
        m = estimate_moments(
            lambda x: torch.cat([x, x.sum(1, True)], 1),
            identity,
            (x, 0.5 * x + 0.1 * x.roll(1, 0)),
            observables=identity,
        )
        features = torch.cat([x, x.sum(1, True)], 1).numpy()
        modes = koopman_modes(m, "operator")
        total = (features @ modes.right_coefficients.values * modes.eigenvalues.values**3) @ modes.koopman_modes.values
        np.testing.assert_allclose(total, forecast(m, features, [3]).values[0], atol=1e-10)
        assert modes.sizes["mode"] == 2

    def test_names_of_observables(self):
        _, m = exact_chain(P_EXAMPLE)
        assert list(koopman_modes(m, observable_names=list("abcd")).observable.values) == list("abcd")
        with pytest.raises(ValueError, match="observable_names must name 4 observables; got 2"):
            koopman_modes(m, observable_names=["a", "b"])


class TestEigenAnalysis:
    @pytest.mark.parametrize("method", ["operator", "edmd", "edmd_g"])
    def test_unit_norm_and_bi_orthogonal(self, noisy, method):
        m, _, _ = noisy
        e = eigen_analysis(m, method)
        right, left = e.right_coefficients.values, e.left_coefficients.values
        right_gram = {"operator": m.M_f, "edmd": m.M_f, "edmd_g": m.M_g0}[method]
        cross = {"operator": m.C_gf, "edmd": m.M_f, "edmd_g": m.M_g0}[method]
        left_gram = {"operator": m.M_g, "edmd": m.M_f, "edmd_g": m.M_g0}[method]
        np.testing.assert_allclose(np.diag(right.conj().T @ right_gram @ right), 1, atol=1e-10)
        np.testing.assert_allclose(left.conj().T @ cross @ right, np.eye(5), atol=1e-9)
        np.testing.assert_allclose(e.conditions, np.sqrt(np.diag(left.conj().T @ left_gram @ left).real), atol=1e-10)

    def test_left_functions_are_eigenfunctions_of_the_adjoint(self):
        """On one-hot features functions are vectors: K* l = conj(lambda) l with K* the reversed chain."""
        chain, m = exact_chain(P_EXAMPLE)
        pi = chain.stationary_distribution
        adjoint = (pi[:, None] * chain.transition_matrix / pi).T
        for method in ("operator", "edmd", "edmd_g"):
            e = eigen_analysis(m, method)
            left, right, values = e.left_coefficients.values, e.right_coefficients.values, e.eigenvalues.values
            np.testing.assert_allclose(chain.transition_matrix @ right, right * values, atol=1e-12)
            np.testing.assert_allclose(adjoint @ left, left * values.conj(), atol=1e-12)

    def test_times_and_frequencies_of_a_rotation(self):
        system, m = exact_rotation()
        e = eigen_analysis(m, lag=2, dt=0.25, time_unit="ns")
        np.testing.assert_allclose(e.frequencies, [0, 0.7 / np.pi, -0.7 / np.pi], atol=1e-10)
        np.testing.assert_allclose(e.timescales[1:], 0.5 / (system.noise**2 / 2), rtol=1e-10)
        np.testing.assert_allclose(e.conditions, 1, atol=1e-8)
        assert e.attrs["aliasing_limit"] == 1.0
        assert (e.timescales.units, e.frequencies.units) == ("ns", "1/ns")

    def test_conjugate_pairs_stand_together(self):
        rng = np.random.default_rng(3)
        x = torch.from_numpy(rng.normal(size=(400, 6)))
        mixed = torch.from_numpy(rng.normal(size=(6, 6)) / 4)
        e = eigen_analysis(estimate_moments(identity, identity, (x, x @ mixed)), "edmd")
        values, vectors = e.eigenvalues.values, e.right_coefficients.values
        first = np.flatnonzero(values.imag > 1e-9)
        assert len(first) > 0
        np.testing.assert_allclose(values[first + 1], values[first].conj(), atol=1e-12)
        np.testing.assert_allclose(vectors[:, first + 1], vectors[:, first].conj(), atol=1e-10)

    @pytest.mark.parametrize("method", METHODS)
    def test_functions_do_not_depend_on_the_basis(self, noisy, method):
        moments, maps, data = noisy
        A = np.random.default_rng(5).normal(size=(5, 5))
        features = maps[0](data[:30]).numpy()
        a, b = eigen_analysis(moments, method), eigen_analysis(moments.transformed(A, np.eye(5)), method)
        np.testing.assert_allclose(
            features @ a.right_coefficients.values, features @ A @ b.right_coefficients.values, atol=1e-8
        )

    def test_intervals_hold_the_truth(self):
        system = NoisyRotation(omega=0.7, noise=0.5)
        pairs = lagged_pairs(system.simulate(1, 20_001, seed=3))
        m = estimate_moments(lambda x: with_one(x.numpy()), lambda x: with_one(x.numpy()), pairs)
        e = eigen_analysis(m, n_resamples=200, dt=2.0)
        truth = np.exp(0.7j - 0.125)
        for part, value in (("real", truth.real), ("imaginary", truth.imag)):
            low, high = e.eigenvalue_interval.sel(part=part).isel(mode=1)
            assert low < value < high < low + 0.05
        low, high = e.timescale_interval.isel(mode=1)
        assert low < 16.0 < high < 1.3 * low
        assert e.frequency_interval[0, 1] < 0.7 / (4 * np.pi) < e.frequency_interval[1, 1]

    def test_defective_operator_is_refused(self):
        x = torch.eye(2, dtype=torch.float64)
        with pytest.raises(ValueError, match="cannot be diagonalised"):
            eigen_analysis(
                estimate_moments(identity, identity, (x, x @ torch.tensor([[0.5, 1.0], [0.0, 0.5]]).double()))
            )

    def test_zero_eigenvalue_has_no_left_function(self):
        x = torch.eye(2, dtype=torch.float64)
        e = eigen_analysis(estimate_moments(identity, identity, (x, x @ torch.diag(torch.tensor([0.5, 0.0])).double())))
        np.testing.assert_allclose(e.eigenvalues, [0.5], atol=1e-14)  # null directions of x' carry no mode

    def test_trunk_features_are_features_like_any_other(self):
        """EDMD on the last hidden layer of a model: any feature map will do."""
        model = KoopmanLoRAModel(2, 3, hidden_dims=(8, 4)).eval()
        pairs = lagged_pairs(NoisyRotation().simulate(1, 500))
        trunk = lambda x: model.encoders.trunk_f(model.prepare(x))  # noqa: E731
        assert eigen_analysis(estimate_moments(trunk, trunk, pairs), "edmd").sizes["mode"] == 4

    def test_unknown_method(self, noisy):
        with pytest.raises(ValueError, match="method must be one of 'operator', 'edmd', 'edmd_g'; got 'dmd'"):
            eigen_analysis(noisy[0], "dmd")

    def test_missing_moments(self):
        m = estimate_moments(identity, identity, (torch.randn(9, 2), torch.randn(9, 2)), same_map=False)
        for method, name in (("operator", "C_gf"), ("edmd", "T_ff"), ("edmd_g", "M_g0")):
            with pytest.raises(ValueError, match=f"moments lack {name}; estimate them with same_map=True"):
                eigen_analysis(m, method)


class TestReversible:
    @given(arrays(float, (30, 3), elements=st.floats(-3, 3)), st.sampled_from(METHODS))
    def test_eigenvalues_are_real_and_at_most_one(self, values, method):
        x = torch.from_numpy(values + np.random.default_rng(0).normal(size=values.shape))
        e = eigen_analysis(symmetrised(estimate_moments(identity, identity, (x[:-1], x[1:]))), method)
        assert (e.eigenvalues.imag == 0).all()
        assert np.abs(e.eigenvalues.values).max() <= 1 + 1e-9

    def test_keeps_the_expectations_of_a_reversible_system(self):
        chain, m = exact_chain([[0.9, 0.1, 0.0], [0.1, 0.7, 0.2], [0.0, 0.2, 0.8]])
        for method in METHODS:
            found = forecast(symmetrised(m), np.eye(3), [4], method=method).values[0]
            np.testing.assert_allclose(found, np.linalg.matrix_power(chain.transition_matrix, 4), atol=1e-12)

    def test_timescales_from_singular_values_only_on_request(self):
        spectrum = xr.Dataset(
            {"canonical_singular_values": ("mode", [1.0, 0.5])}, attrs={"lag": 1, "dt": 0.5, "time_unit": "ps"}
        )
        with pytest.raises(ValueError, match=r"reversible=False: singular values are not eigenvalues"):
            timescales_from_singular_values(spectrum)
        times = timescales_from_singular_values(spectrum, reversible=True)
        np.testing.assert_allclose(times, [np.inf, 0.5 / np.log(2)])
        assert times.units == "ps"

    def test_needs_its_moments(self):
        m = estimate_moments(identity, identity, (torch.randn(9, 2), torch.randn(9, 2)), same_map=False)
        with pytest.raises(ValueError, match="moments lack M_f1"):
            symmetrised(m)


def test_time_reversal_is_an_involution(noisy):
    m = noisy[0]
    twice = time_reversed(time_reversed(m))
    assert set(twice.names) == set(m.names) - {"phase_f", "M_h"}
    for name in twice.names:
        np.testing.assert_array_equal(twice.block_sums[name], m.block_sums[name])


def test_time_reversal_is_what_swapped_pairs_give(noisy):
    _, (f, g, h), data = noisy
    here = estimate_moments(f, g, (data[:-1], data[1:]), observables=h, n_blocks=1)
    swapped = estimate_moments(g, f, (data[1:], data[:-1]), observables=h, n_blocks=1)
    for name in time_reversed(here).names:
        np.testing.assert_allclose(getattr(time_reversed(here), name), getattr(swapped, name), atol=1e-12)


class TestBands:
    def test_first_row_is_the_forecast_and_bounds_surround_it(self):
        chain = FiniteMarkovChain(P_EXAMPLE)
        m = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 5000)), observables=identity)
        band = forecast_band(m, np.eye(4), [1, 5], dt=0.1, time_unit="ns", observable_names=list("abcd"))
        np.testing.assert_allclose(band.forecast, forecast(m, np.eye(4), [1, 5]), atol=1e-12)
        assert (band.lower <= band.upper).all()
        assert band.time.units == "ns"
        np.testing.assert_allclose(band.time, [0.1, 0.5])

    def test_cover_the_exact_expectation_about_as_often_as_they_say(self):
        chain, hits = FiniteMarkovChain(P_EXAMPLE), []
        truth = np.stack([np.linalg.matrix_power(chain.transition_matrix, n) for n in (1, 3)])
        for seed in range(30):
            pairs = lagged_pairs(chain.simulate(1, 3001, seed=seed))
            m = estimate_moments(identity, identity, pairs, observables=identity)
            band = forecast_band(m, np.eye(4), [1, 3], n_resamples=100, confidence=0.9)
            hits.append(((truth >= band.lower) & (truth <= band.upper)).values[:, truth[0] > 0].mean())
        assert 0.82 < np.mean(hits) < 0.96

    def test_many_samples_are_worked_through_in_pieces(self):
        chain = FiniteMarkovChain(P_EXAMPLE)
        m = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 500)), observables=identity)
        states = np.tile(np.eye(4), (200, 1))
        many, few = (forecast_band(m, x, 1, n_resamples=20) for x in (states, np.eye(4)))
        np.testing.assert_allclose(many.upper.values[:, -4:], few.upper.values, atol=1e-12)

    def test_complex_forecasts_have_bounds_of_both_parts(self, noisy):
        moments, maps, data = noisy
        band = forecast_band(moments, maps[0](data[:3]), 2, n_resamples=50)
        for part in ("real", "imag"):
            low, mid, high = (getattr(band[name], part) for name in ("lower", "forecast", "upper"))
            assert (low <= high).all()
            assert ((low <= mid) & (mid <= high)).mean() > 0.9

    def test_refusals(self, noisy):
        one = estimate_moments(identity, identity, (torch.randn(9, 2), torch.randn(9, 2)), n_blocks=1)
        with pytest.raises(ValueError, match="at least 2 blocks for a bootstrap; got 1"):
            forecast_band(one, np.ones((1, 2)), 1)
        with pytest.raises(ValueError, match="n_resamples must be at least 1; got 0"):
            bootstrap_weights(4, 0)
        with pytest.raises(ValueError, match=r"confidence must lie between 0 and 1; got 95"):
            interval(np.arange(3.0), 95)


class TestForecastArguments:
    def test_any_steps_in_one_go(self):
        _, m = exact_chain(P_EXAMPLE)
        np.testing.assert_allclose(forecast(m, np.eye(4), 7)[-1], forecast(m, np.eye(4), [7])[0], atol=1e-13)
        assert check_steps(np.int64(2)) == [1, 2]

    @pytest.mark.parametrize("steps", [0, [], [0, 1], [2, 1], [1.5]])
    def test_steps(self, steps):
        with pytest.raises(ValueError, match="steps must be a number of at least 1"):
            check_steps(steps)

    def test_names_and_shapes(self):
        _, m = exact_chain(P_EXAMPLE)
        with pytest.raises(
            ValueError, match=r"features must have shape \(n_samples, 4\), as in the moments; got \(1, 3\)"
        ):
            forecast(m, np.ones((1, 3)), 1)
        with pytest.raises(ValueError, match="direction must be 'forward' or 'backward'; got 'back'"):
            forecast(m, np.eye(4), 1, direction="back")
        with pytest.raises(ValueError, match="method must be one of 'operator', 'edmd'; got 'edmd_g'"):
            forecast(m, np.eye(4), 1, method="edmd_g")
        with pytest.raises(ValueError, match="n_modes must lie between 1 and the 4 features; got 5"):
            forecast(m, np.eye(4), 1, n_modes=5)
        with pytest.raises(ValueError, match="n_modes=2 is the rank of method 'operator'"):
            forecast(m, np.eye(4), 1, n_modes=2, method="edmd")

    def test_moments_without_observables(self):
        m = estimate_moments(identity, identity, (torch.randn(9, 2), torch.randn(9, 2)))
        with pytest.raises(ValueError, match="moments lack observables; estimate them with observables=h"):
            forecast(m, np.ones((1, 2)), 1)
        with pytest.raises(ValueError, match="moments lack H_g"):
            koopman_modes(m)

    def test_tensors_that_need_gradients(self):
        _, m = exact_chain(P_EXAMPLE)
        features = torch.eye(4, dtype=torch.float64, requires_grad=True)
        assert forecast(m, features, 1).dims == ("step", "sample", "observable")


class TestForecastError:
    system = OrnsteinUhlenbeck([[1.0, 2.0], [-1.0, 2.0]], [[1.0, 0.0], [0.0, 2.0]], dt=0.1)

    def test_affine_features_are_the_linear_model_and_beat_the_rest(self):
        train = lagged_pairs(self.system.simulate(20, 400, seed=0), lag=2)
        f = lambda x: with_one(x.numpy())  # noqa: E731
        m = estimate_moments(f, f, train, observables=flat_state)
        error = forecast_error(m, f, train, self.system.simulate(5, 400, seed=9), [1, 3, 8], method="edmd")
        rmse = error.rmse
        np.testing.assert_allclose(rmse.sel(forecaster="koopman"), rmse.sel(forecaster="linear"), rtol=1e-9)
        assert (rmse.sel(forecaster="koopman") < rmse.sel(forecaster="persistence")).all()
        short = rmse.sel(step=[1, 3])
        assert (short.sel(forecaster="koopman") < short.sel(forecaster="climatology")).all()
        np.testing.assert_allclose(error.time, [0.2, 0.6, 1.6])
        np.testing.assert_array_equal(error.n_pairs, 5 * (400 - np.array([2, 6, 16])))

    def test_errors_are_those_of_the_closed_form(self):
        """Irreducible RMSE after n frames: the deviation of the noise gathered on the way."""
        train = lagged_pairs(self.system.simulate(20, 1000, seed=0))
        f = lambda x: with_one(x.numpy())  # noqa: E731
        m = estimate_moments(f, f, train, observables=flat_state)
        error = forecast_error(m, f, train, self.system.simulate(20, 1000, seed=9), [1, 5])
        linear = self.system.discretised
        for step in (1, 5):
            A = np.linalg.matrix_power(linear.A, step)
            truth = np.sqrt(np.diag(linear.covariance - A @ linear.covariance @ A.T))
            np.testing.assert_allclose(error.rmse.sel(forecaster="koopman", step=step), truth, rtol=0.03)

    def test_refusals(self):
        train = lagged_pairs(self.system.simulate(1, 100))
        m = estimate_moments(identity, identity, train, observables=lambda x: x[:, :1])
        with pytest.raises(ValueError, match=r"observables must be those of the moments \(1\); got 2"):
            forecast_error(m, identity, train, self.system.simulate(1, 100), 2)
        with pytest.raises(TypeError, match="observables must be real"):
            forecast_error(m, identity, train, self.system.simulate(1, 100), 2, observables=lambda x: x[:, :1] * 1j)
        with pytest.raises(ValueError, match="too short"):
            forecast_error(m, identity, train, self.system.simulate(1, 10), [20], observables=lambda x: x[:, :1])


def test_grid_of_two_coordinates():
    grid = evaluate_on_grid(
        lambda x: x @ np.array([[1.0], [10.0]]), {"x": np.arange(3.0), "y": np.arange(2.0)}, unit="nm"
    )
    assert grid.dims == ("x", "y", "mode")
    assert float(grid.sel(x=2, y=1)[0]) == 12.0
    assert grid.x.units == "nm"
