"""Pairs at a lag of 10 frames of 0.5 ns: every room downstream answers in ns, without being told again.

A two-state chain whose pairs occur exactly as often as they should: lambda = sigma = 0.8 per lag, without any sampling
error, so the timescale is -5 ns / ln 0.8.
"""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import nn
from torch.utils.data import DataLoader

import koopman_lora as kl
from koopman_lora.accumulation import estimate_moments, flat_state

CLOCK = kl.Clock(10, 0.5, "ns")
TRUTH = -5 / np.log(0.8)
BOOTSTRAP = kl.Bootstrap(200)


class OneAndState(nn.Module):
    """The functions 1 and x, which span all functions of the states -1 and 1."""

    def forward(self, x):
        return torch.cat([torch.ones_like(x), x], dim=1)


f = OneAndState()


def one_hot(x):
    return torch.cat([x < 0, x > 0], dim=1).double()


@pytest.fixture(scope="module")
def pairs():
    steps = np.repeat([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], [2880, 320, 320, 2880], axis=0)
    steps = np.random.default_rng(0).permutation(steps)
    return kl.lagged_pairs((steps[:, 0], steps[:, 1]), lag=10, dt=0.5, time_unit="ns")


@pytest.fixture(scope="module")
def moments(pairs):
    return estimate_moments(f, f, pairs, observables=flat_state)


def test_the_spectrum(moments):
    spectrum = kl.koopman_spectrum(moments)
    assert np.allclose(spectrum.canonical_singular_values, [1, 0.8], atol=1e-12)
    assert float(spectrum.timescales.sel(mode=2)) == pytest.approx(TRUTH, rel=1e-9)
    assert (spectrum.timescales.units, spectrum.frequencies.units) == ("ns", "1/ns")
    assert kl.Clock.from_attrs(spectrum.attrs) == CLOCK


def test_the_intervals(moments):
    intervals = kl.bootstrap_intervals(moments, bootstrap=BOOTSTRAP)
    lower, upper = intervals.timescales_interval.sel(mode=2).values
    assert 0.8 * TRUTH < lower < TRUTH < upper < 1.25 * TRUTH
    assert intervals.timescales_interval.units == "ns"
    assert kl.Clock.from_attrs(intervals.attrs) == CLOCK


@pytest.mark.parametrize("method", ["operator", "edmd", "edmd_g"])
def test_the_eigen_analysis(moments, method):
    found = kl.eigen_analysis(moments, method, bootstrap=BOOTSTRAP)
    assert float(found.timescales.sel(mode=2)) == pytest.approx(TRUTH, rel=1e-9)
    lower, upper = found.timescales_interval.sel(mode=2).values
    assert 0.8 * TRUTH < lower < TRUTH < upper < 1.25 * TRUTH
    assert found.timescales.units == found.timescales_interval.units == "ns"
    assert found.aliasing_limit == pytest.approx(0.1)  # half a turn in 5 ns
    assert kl.Clock.from_attrs(found.attrs) == CLOCK


def test_the_koopman_modes(moments):
    found = kl.koopman_modes(moments)
    assert float(found.timescales.sel(mode=2)) == pytest.approx(TRUTH, rel=1e-9)
    assert found.timescales.units == "ns"
    assert np.allclose(np.abs(found.koopman_modes[:, 0]), [0, 1], atol=1e-9)  # x itself is the slow eigenfunction
    assert kl.Clock.from_attrs(found.attrs) == CLOCK


def test_the_forecast(moments):
    found = kl.forecast(moments, np.array([[1.0, 1.0]]), 3)
    assert found.time.values.tolist() == [5, 10, 15]
    assert found.time.units == "ns"
    assert np.allclose(found[:, 0, 0], np.exp(-found.time / TRUTH), atol=1e-9)
    assert kl.Clock.from_attrs(found.attrs) == CLOCK


def test_the_comparison(moments):
    found = kl.compare_singular_values(moments, np.array([1.0, 0.8]), bootstrap=BOOTSTRAP)
    assert (found.lag, found.dt, found.time_unit) == (10, 0.5, "ns")
    lower, upper = found.canonical_interval.sel(mode=2).values
    assert lower < 0.8 < upper


def test_the_residuals(moments):
    found = kl.eigenpair_residuals(moments)
    assert np.allclose(kl.Clock.from_attrs(found.attrs).timescales(found.edmd_eigenvalues)[1], TRUTH, rtol=1e-9)


def test_the_macroscopic_model(pairs):
    found = kl.macroscopic_model(estimate_moments(one_hot, one_hot, pairs), bootstrap=BOOTSTRAP)
    assert np.allclose(found.transition_matrix, [[0.9, 0.1], [0.1, 0.9]], atol=1e-12)
    assert float(found.timescales.sel(mode=2)) == pytest.approx(TRUTH, rel=1e-9)
    lower, upper = found.timescales_interval.sel(mode=2).values
    assert 0.8 * TRUTH < lower < TRUTH < upper < 1.25 * TRUTH
    assert found.timescales.units == "ns"
    assert np.allclose(found.mean_first_passage_times.values[[0, 1], [1, 0]], 50)  # 1 / 0.1 lags of 5 ns
    assert found.mean_first_passage_times.units == "ns"
    assert kl.Clock.from_attrs(found.attrs) == CLOCK


@pytest.mark.slow
@pytest.mark.parametrize("has_clock", [False, True], ids=["bare model", "model with its clock"])
def test_the_spectrum_of_a_model_over_a_loader_of_the_pairs(pairs, has_clock):
    model = kl.KoopmanLoRAModel.from_encoders(1, 2, OneAndState())
    if has_clock:
        model.clock = CLOCK
    loader = DataLoader(pairs, batch_size=500, shuffle=True, generator=torch.Generator().manual_seed(0))
    spectrum = kl.compute_koopman_spectrum(model, loader)
    assert float(spectrum.timescales.sel(mode=2)) == pytest.approx(TRUTH, rel=1e-6)
    assert spectrum.timescales.units == "ns"
    assert kl.Clock.from_attrs(spectrum.attrs) == CLOCK


def test_the_same_from_a_trajectory_within_its_interval():
    """x' = 0.98 x + noise, an AR(1) process: 24.7 ns at any lag."""
    noise = np.random.default_rng(0).normal(size=100_000)
    pairs = kl.lagged_pairs(lfilter([1.0], [1.0, -0.98], noise), lag=10, dt=0.5, time_unit="ns")
    moments = estimate_moments(f, f, pairs)
    truth = -0.5 / np.log(0.98)
    found = kl.koopman_spectrum(moments).timescales.sel(mode=2)
    lower, upper = kl.bootstrap_intervals(moments, bootstrap=kl.Bootstrap(200, level=0.99)).timescales_interval[:, 1]
    assert lower < truth < upper
    assert float(found) == pytest.approx(truth, rel=0.15)
    assert found.units == "ns"
