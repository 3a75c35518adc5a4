"""Eigen-analysis and Koopman modes against closed forms and their own claims."""

import numpy as np
import pytest
import torch
import xarray as xr
from exact_expectations import P_EXAMPLE, exact_chain, exact_rotation, identity, with_one
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from koopman_lora.accumulation import estimate_moments, flat_state
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.eigenanalysis import (
    eigen_analysis,
    evaluate_on_grid,
    koopman_modes,
    timescales_from_singular_values,
)
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import CROSS
from koopman_lora.prediction import forecast
from koopman_lora.residuals import eigenpair_residuals
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain, NoisyRotation

METHODS = ("operator", "edmd")


class TestKoopmanModes:
    @pytest.mark.parametrize("method", METHODS)
    def test_sums_reproduce_forecasts(self, noisy, method):
        moments, maps, data = noisy
        features = maps[0](data[:50]).numpy()
        modes = koopman_modes(moments, method)
        eigenfunctions = features @ modes.right_eigenfunction_coefficients.values
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
        eigenfunctions = features @ modes.right_eigenfunction_coefficients.values
        total = (eigenfunctions * modes.eigenvalues.values**3) @ modes.koopman_modes.values
        np.testing.assert_allclose(total, forecast(m, features, [3]).values[0], atol=1e-10)
        assert modes.sizes["mode"] == 2

    def test_names_of_observables(self):
        pairs = lagged_pairs(NoisyRotation().simulate(1, 200))
        named = {"observables": lambda x: x[:, :1] ** 2, "observable_names": ["cos2"]}
        m = estimate_moments(identity, identity, pairs, **named)
        assert list(koopman_modes(m).observable.values) == ["cos2"]
        with pytest.raises(ValueError, match="observable_names must name 1 observables; got 2"):
            estimate_moments(identity, identity, pairs, **named | {"observable_names": ["a", "b"]})

    def test_observables_without_names_are_counted_from_zero(self):
        _, m = exact_chain(P_EXAMPLE)
        np.testing.assert_array_equal(koopman_modes(m).observable, [0, 1, 2, 3])

    def test_states_as_observables_are_called_like_the_coordinates(self):
        pairs = lagged_pairs(NoisyRotation().simulate(1, 200))
        m = estimate_moments(identity, identity, pairs, observables=flat_state)
        assert koopman_modes(m).observable.values.tolist() == list(NoisyRotation().coordinate_names)


class TestEigenAnalysis:
    @pytest.mark.parametrize("method", ["operator", "edmd", "edmd_g"])
    def test_unit_norm_and_bi_orthogonal(self, noisy, method):
        m, _, _ = noisy
        e = eigen_analysis(m, method)
        right, left = e.right_eigenfunction_coefficients.values, e.left_eigenfunction_coefficients.values
        right_gram = {"operator": m.M_f, "edmd": m.M_f, "edmd_g": m.M_g0}[method]
        cross = {"operator": m.C_gf, "edmd": m.M_f, "edmd_g": m.M_g0}[method]
        left_gram = {"operator": m.M_g, "edmd": m.M_f, "edmd_g": m.M_g0}[method]
        np.testing.assert_allclose(np.diag(right.conj().T @ right_gram @ right), 1, atol=1e-10)
        np.testing.assert_allclose(left.conj().T @ cross @ right, np.eye(5), atol=1e-9)
        condition = np.sqrt(np.diag(left.conj().T @ left_gram @ left).real)
        np.testing.assert_allclose(e.eigenvalue_condition, condition, atol=1e-10)

    def test_conditions_are_those_of_the_spectrum_and_of_the_residuals(self):
        _, m = exact_chain(P_EXAMPLE)  # not normal
        for method, found in (("operator", koopman_spectrum(m)), ("edmd", eigenpair_residuals(m))):
            wanted = eigen_analysis(m, method).eigenvalue_condition
            assert wanted.max() > 1.01
            np.testing.assert_allclose(found.eigenvalue_condition, wanted, rtol=1e-9)

    def test_left_functions_are_eigenfunctions_of_the_adjoint(self):
        """On one-hot features functions are vectors: K* l = conj(lambda) l with K* the reversed chain."""
        chain, m = exact_chain(P_EXAMPLE)
        pi = chain.stationary_distribution
        adjoint = (pi[:, None] * chain.transition_matrix / pi).T
        for method in ("operator", "edmd", "edmd_g"):
            e = eigen_analysis(m, method)
            sides = e.left_eigenfunction_coefficients, e.right_eigenfunction_coefficients
            (left, right), values = (side.values for side in sides), e.eigenvalues.values
            np.testing.assert_allclose(chain.transition_matrix @ right, right * values, atol=1e-12)
            np.testing.assert_allclose(adjoint @ left, left * values.conj(), atol=1e-12)

    def test_times_and_frequencies_of_a_rotation(self):
        system, m = exact_rotation(Clock(2, 0.25, "ns"))
        e = eigen_analysis(m)
        np.testing.assert_allclose(e.frequencies, [0, 0.7 / np.pi, -0.7 / np.pi], atol=1e-10)
        np.testing.assert_allclose(e.timescales[1:], 0.5 / (system.noise**2 / 2), rtol=1e-10)
        np.testing.assert_allclose(e.eigenvalue_condition, 1, atol=1e-8)
        assert e.attrs["aliasing_limit"] == 1.0
        assert (e.timescales.units, e.frequencies.units) == ("ns", "1/ns")

    def test_times_of_bare_pairs_count_in_lags(self):
        system, m = exact_rotation()
        e = eigen_analysis(m)
        np.testing.assert_allclose(e.timescales[1:], 1 / (system.noise**2 / 2), rtol=1e-10)
        assert (e.timescales.units, e.attrs["lag"]) == ("lag", "unknown")

    def test_conjugate_pairs_stand_together(self):
        rng = np.random.default_rng(3)
        x = torch.from_numpy(rng.normal(size=(400, 6)))
        mixed = torch.from_numpy(rng.normal(size=(6, 6)) / 4)
        e = eigen_analysis(estimate_moments(identity, identity, (x, x @ mixed)), "edmd")
        values, vectors = e.eigenvalues.values, e.right_eigenfunction_coefficients.values
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
        here, there = (e.right_eigenfunction_coefficients.values for e in (a, b))
        np.testing.assert_allclose(features @ here, features @ A @ there, atol=1e-8)

    def test_intervals_hold_the_truth(self):
        system = NoisyRotation(omega=0.7, noise=0.5)
        pairs = lagged_pairs(system.simulate(1, 20_001, seed=3).values[0], dt=2.0)
        m = estimate_moments(lambda x: with_one(x.numpy()), lambda x: with_one(x.numpy()), pairs)
        e = eigen_analysis(m, bootstrap=Bootstrap(200))
        truth = np.exp(0.7j - 0.125)
        for part, value in (("real", truth.real), ("imaginary", truth.imag)):
            low, high = e.eigenvalues_interval.sel(part=part, mode=2)
            assert low < value < high < low + 0.05
        low, high = e.timescales_interval.sel(mode=2)
        assert low < 16.0 < high < 1.3 * low
        low, high = e.frequencies_interval.sel(mode=2)
        assert low < 0.7 / (4 * np.pi) < high

    @pytest.mark.parametrize("level", [0.8, 0.95])
    @pytest.mark.parametrize("system", [NoisyRotation(), FiniteMarkovChain(P_EXAMPLE)], ids=["rotation", "chain"])
    def test_intervals_are_those_of_bootstrap_intervals(self, system, level):
        spectrum = system.spectrum(lag=1, n_modes=4)
        maps = (lambda x: spectrum.left(x.numpy()), lambda x: spectrum.right(x.numpy()))
        pairs = lagged_pairs(list(system.simulate(1, 2001, seed=1).values), dt=0.25, time_unit="ns")
        m, bootstrap = estimate_moments(*maps, pairs), Bootstrap(100, level=level, seed=5)
        found, wanted = eigen_analysis(m, bootstrap=bootstrap), bootstrap_intervals(m, bootstrap=bootstrap)
        for quantity in ("eigenvalues", "eigenvalue_modulus", "timescales", "frequencies"):
            name = f"{quantity}_interval"
            assert found[name].dims == wanted[name].dims
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-9, atol=1e-9, err_msg=name)
        assert (found.frequencies_interval.units, wanted.frequencies_interval.units) == ("1/ns", "1/ns")
        assert found.attrs["level"] == level

    def test_without_a_bootstrap_there_are_no_intervals(self, noisy):
        assert not any(name.endswith("_interval") for name in eigen_analysis(noisy[0]))

    def test_intervals_need_eight_blocks_and_a_level(self):
        x = torch.randn(90, 2, generator=torch.manual_seed(0), dtype=torch.float64)
        few = estimate_moments(identity, identity, (x[:-1], x[1:]), n_blocks=7)
        with pytest.raises(ValueError, match="at least 8 blocks to resample; got 7"):
            eigen_analysis(few, bootstrap=Bootstrap(10))
        with pytest.raises(ValueError, match="level must lie between 0 and 1; got 95"):
            eigen_analysis(few, bootstrap=Bootstrap(10, level=95))

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
        m = estimate_moments(identity, identity, (torch.randn(9, 2), torch.randn(9, 2)), names=CROSS)
        for method, name in (("operator", "C_gf"), ("edmd", "T_ff"), ("edmd_g", "M_g0")):
            message = f"moments lack {name}, they hold M_f, M_g, T_fg; estimate them with names=None"
            with pytest.raises(ValueError, match=message):
                eigen_analysis(m, method)


class TestReversible:
    @given(arrays(float, (30, 3), elements=st.floats(-3, 3)), st.sampled_from(METHODS))
    def test_eigenvalues_are_real_and_at_most_one(self, values, method):
        x = torch.from_numpy(values + np.random.default_rng(0).normal(size=values.shape))
        e = eigen_analysis(estimate_moments(identity, identity, (x[:-1], x[1:])).symmetrised(), method)
        assert (e.eigenvalues.imag == 0).all()
        assert np.abs(e.eigenvalues.values).max() <= 1 + 1e-9

    def test_timescales_from_singular_values_only_on_request(self):
        sigma = {"canonical_singular_values": ("mode", [1.0, 0.5])}
        spectrum = xr.Dataset(sigma, attrs=Clock(1, 0.5, "ps").attrs())
        with pytest.raises(ValueError, match=r"reversible=False: singular values are not eigenvalues"):
            timescales_from_singular_values(spectrum)
        times = timescales_from_singular_values(spectrum, reversible=True)
        np.testing.assert_allclose(times, [np.inf, 0.5 / np.log(2)])
        assert times.units == "ps"


def test_grid_of_two_coordinates():
    grid = evaluate_on_grid(
        lambda x: x @ np.array([[1.0], [10.0]]), {"x": np.arange(3.0), "y": np.arange(2.0)}, unit="nm"
    )
    assert grid.dims == ("x", "y", "mode")
    assert float(grid.sel(x=2, y=1)[0]) == 12.0
    assert grid.x.units == "nm"
