"""Forecasts, their bands and their errors against closed forms, direct estimates and their own claims."""

import numpy as np
import pytest
import torch
from exact_expectations import P_EXAMPLE, exact_chain, exact_moments, exact_rotation, identity, with_one
from scipy.special import roots_hermitenorm

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.eigenanalysis import koopman_modes
from koopman_lora.prediction import CHUNK, check_steps, forecast, forecast_band, forecast_error
from koopman_lora.systems import FiniteMarkovChain, LinearGaussian, OrnsteinUhlenbeck

METHODS = ("operator", "edmd")


def exact_gaussian():
    system = LinearGaussian(A=[[0.8, 0.3], [-0.1, 0.5]], B=[[1.0, 0.0], [0.2, 0.6]])
    nodes, weights = roots_hermitenorm(4)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    grid_weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    x = np.repeat(grid @ np.linalg.cholesky(system.covariance).T, 16, axis=0)
    x_next = x @ system.A.T + np.tile(grid, (16, 1)) @ system.B.T
    return system, exact_moments(with_one(x), with_one(x_next), np.outer(grid_weights, grid_weights).ravel())


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
        chain, m = exact_chain(P_EXAMPLE, Clock(2, 0.25, "ps"))
        pi = chain.stationary_distribution
        reversed_P = (pi[:, None] * chain.transition_matrix / pi).T
        found = forecast(m, np.eye(4), 6, method=method, direction="backward")
        np.testing.assert_allclose(found.sel(step=6), np.linalg.matrix_power(reversed_P, 6), atol=1e-12)
        np.testing.assert_allclose(found.time, [-0.5, -1.0, -1.5, -2.0, -2.5, -3.0])

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


class TestBands:
    def test_first_row_is_the_forecast_and_bounds_surround_it(self):
        chain = FiniteMarkovChain(P_EXAMPLE)
        pairs = lagged_pairs(chain.simulate(1, 5000).values[0], dt=0.1, time_unit="ns")
        m = estimate_moments(identity, identity, pairs, observables=identity, observable_names=list("abcd"))
        band = forecast_band(m, np.eye(4), [1, 5])
        np.testing.assert_allclose(band.forecast, forecast(m, np.eye(4), [1, 5]), atol=1e-12)
        lower, upper = band.forecast_interval.values
        assert (lower <= band.forecast.values).mean() > 0.9
        assert (band.forecast.values <= upper).mean() > 0.9
        assert (lower <= upper).all()
        assert list(band.observable.values) == list("abcd")
        assert band.time.units == "ns"
        np.testing.assert_allclose(band.time, [0.1, 0.5])

    @pytest.mark.slow
    def test_cover_the_exact_expectation_about_as_often_as_they_say(self):
        chain, hits = FiniteMarkovChain(P_EXAMPLE), []
        truth = np.stack([np.linalg.matrix_power(chain.transition_matrix, n) for n in (1, 3)])
        for seed in range(30):
            pairs = lagged_pairs(chain.simulate(1, 3001, seed=seed))
            m = estimate_moments(identity, identity, pairs, observables=identity)
            lower, upper = forecast_band(m, np.eye(4), [1, 3], bootstrap=Bootstrap(100, 0.9)).forecast_interval.values
            hits.append(((truth >= lower) & (truth <= upper))[:, truth[0] > 0].mean())
        assert 0.82 < np.mean(hits) < 0.96

    def test_many_samples_are_worked_through_in_pieces(self):
        chain = FiniteMarkovChain(P_EXAMPLE)
        m = estimate_moments(identity, identity, lagged_pairs(chain.simulate(1, 500)), observables=identity)
        states = np.tile(np.eye(4), (200, 1))
        many, few = (forecast_band(m, x, 1, bootstrap=Bootstrap(20)) for x in (states, np.eye(4)))
        assert len(states) > CHUNK
        np.testing.assert_allclose(many.forecast_interval[:, :, -4:], few.forecast_interval, atol=1e-12)

    def test_complex_forecasts_have_bounds_of_both_parts(self, noisy):
        moments, maps, data = noisy
        band = forecast_band(moments, maps[0](data[:3]), 2, bootstrap=Bootstrap(50))
        low_high, values = band.forecast_interval.values, band.forecast.values
        for part in ("real", "imag"):
            low, mid, high = (getattr(numbers, part) for numbers in (low_high[0], values, low_high[1]))
            assert (low <= high).all()
            assert ((low <= mid) & (mid <= high)).mean() > 0.9

    def test_refusals(self, noisy):
        one = estimate_moments(identity, identity, (torch.randn(9, 2), torch.randn(9, 2)), n_blocks=1)
        with pytest.raises(ValueError, match="at least 2 blocks for a bootstrap; got 1"):
            forecast_band(one, np.ones((1, 2)), 1)
        with pytest.raises(ValueError, match="n_resamples must be at least 1; got 0"):
            forecast_band(noisy[0], np.ones((1, 5)), 1, bootstrap=Bootstrap(0))
        with pytest.raises(ValueError, match=r"level must lie between 0 and 1; got 95"):
            forecast_band(noisy[0], np.ones((1, 5)), 1, bootstrap=Bootstrap(2, level=95))


class TestLabels:
    def moments(self):
        """Of a linear system at a lag of 2 frames of 0.25 ps, with its states as observables."""
        data = OrnsteinUhlenbeck([[1.0, 2.0], [-1.0, 2.0]], np.eye(2), dt=0.25, time_unit="ps").simulate(1, 300)
        pairs = lagged_pairs(data.assign_coords(coordinate=["angle", "momentum"]), lag=2)
        return estimate_moments(identity, identity, pairs, observables=flat_state)

    @pytest.mark.parametrize(("direction", "sign"), [("forward", 1), ("backward", -1)])
    def test_time_is_physical_and_negative_backward(self, direction, sign):
        m, x = self.moments(), np.ones((1, 2))
        one = forecast(m, x, [1, 2, 5], direction=direction)
        band = forecast_band(m, x, [1, 2, 5], direction=direction, bootstrap=Bootstrap(5))
        for found in (one, band):
            np.testing.assert_allclose(found.time, sign * np.array([0.5, 1.0, 2.5]))
            assert found.time.units == "ps"
            np.testing.assert_array_equal(found.step, [1, 2, 5])

    def test_observables_are_called_like_the_coordinates(self):
        m, x = self.moments(), np.ones((1, 2))
        names = ["angle", "momentum"]
        assert forecast(m, x, 1).observable.values.tolist() == names
        band = forecast_band(m, x, 1, direction="backward", bootstrap=Bootstrap(5))
        assert band.observable.values.tolist() == names

    def test_bare_pairs_count_in_lags_and_their_observables_from_zero(self):
        found = forecast(exact_chain(P_EXAMPLE)[1], np.eye(4), 2)
        np.testing.assert_allclose(found.time, [1, 2])
        np.testing.assert_array_equal(found.observable, [0, 1, 2, 3])
        np.testing.assert_array_equal(found["sample"], [0, 1, 2, 3])
        assert (found.time.units, found.attrs["lag"]) == ("lag", "unknown")


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
        assert error.observable.values.tolist() == list(self.system.coordinate_names)
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

    def test_relative_errors_are_averaged_over_the_observables_that_vary(self):
        train = lagged_pairs(self.system.simulate(2, 200, seed=0))
        h = lambda x: np.column_stack([x.numpy(), np.ones(len(x))])  # noqa: E731
        m = estimate_moments(identity, identity, train, observables=h)
        error = forecast_error(m, identity, train, self.system.simulate(1, 200, seed=9), 2, observables=h)
        assert error.relative_rmse.sel(observable=2).isnull().all()
        wanted = (error.relative_rmse.sel(observable=0) + error.relative_rmse.sel(observable=1)) / 2
        np.testing.assert_allclose(error.relative_rmse_mean, wanted, rtol=1e-12)
        assert (error.relative_rmse_mean.dims, error.relative_rmse_mean.units) == (("forecaster", "step"), "1")

    def test_pairs_of_an_unknown_lag_are_asked_for_it(self):
        x = self.system.simulate(1, 100).values[0]
        train = lagged_pairs((x[:-1], x[1:]))
        m = estimate_moments(identity, identity, train, observables=flat_state)
        with pytest.raises(ValueError, match="lag of these pairs is unknown, and is needed to look several lags ahead"):
            forecast_error(m, identity, train, x, 2)

    def test_refusals(self):
        train = lagged_pairs(self.system.simulate(1, 100))
        m = estimate_moments(identity, identity, train, observables=lambda x: x[:, :1])
        with pytest.raises(ValueError, match=r"observables must be those of the moments \(1\); got 2"):
            forecast_error(m, identity, train, self.system.simulate(1, 100), 2)
        with pytest.raises(TypeError, match="observables must be real"):
            forecast_error(m, identity, train, self.system.simulate(1, 100), 2, observables=lambda x: x[:, :1] * 1j)
        with pytest.raises(ValueError, match="too short"):
            forecast_error(m, identity, train, self.system.simulate(1, 10), [20], observables=lambda x: x[:, :1])
