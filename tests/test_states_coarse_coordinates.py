"""Coarse coordinates: what they are made of, and that new states get them too."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from koopman_lora.clock import Clock
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.spectrum import compute_koopman_spectrum
from koopman_lora.states.coarse_coordinates import coarse_coordinates


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    model = KoopmanLoRAModel(2, 4, hidden_dims=(8,), learn_svals=True, has_centering=True)
    x = torch.randn(600, 2)
    x_next = 0.8 * x + 0.3 * torch.randn(600, 2)
    model.eval().calibrate(x, x_next)
    return model, compute_koopman_spectrum(model, [(x, x_next)]), x


def test_K_matrix_scales_once_and_turns_by_U(fitted):
    model, spectrum, x = fitted
    features = (model.f(x) * model.svals.sqrt()).detach().double().numpy()
    found = coarse_coordinates(model, spectrum, x)
    np.testing.assert_allclose(found, features @ spectrum.U.values, atol=1e-6)
    assert found.dims == ("sample", "mode")


def test_they_are_labelled_and_carry_the_clock_of_the_spectrum(fitted):
    model, _, x = fitted
    pairs = lagged_pairs([x], lag=2, dt=0.5, time_unit="ns")
    found = coarse_coordinates(model, compute_koopman_spectrum(model, DataLoader(pairs, 128)), x[:3])
    np.testing.assert_array_equal(found["sample"], [0, 1, 2])
    np.testing.assert_array_equal(found.mode, [1, 2, 3, 4])
    assert Clock.from_attrs(found.attrs) == Clock(2, 0.5, "ns")


def test_canonical_ones_are_orthonormal_on_the_data(fitted):
    model, spectrum, x = fitted
    phi = coarse_coordinates(model, spectrum, x, "canonical").values
    np.testing.assert_allclose(phi.T @ phi / len(x), np.eye(4), atol=1e-5)


def test_new_states_one_at_a_time(fitted):
    model, spectrum, _ = fitted
    new = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    for method in ("K_matrix", "canonical"):
        together = coarse_coordinates(model, spectrum, new, method, n_modes=2)
        apart = [coarse_coordinates(model, spectrum, row[None], method, n_modes=2).values[0] for row in new]
        np.testing.assert_allclose(together, apart, atol=1e-5)
        assert together.shape == (5, 2)


def test_refusals(fitted):
    model, spectrum, x = fitted
    with pytest.raises(ValueError, match="method must be 'K_matrix' or 'canonical'; got 'svd'"):
        coarse_coordinates(model, spectrum, x, "svd")
    with pytest.raises(ValueError, match="spectrum is of 3 features; the model has 4"):
        coarse_coordinates(model, spectrum.isel(feature_f=slice(3)), x)
