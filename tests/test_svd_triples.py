"""Rayleigh-Ritz, polishing and the number of modes for an energy."""

import numpy as np
import torch
from known_matrices import decaying, normal

from koopman_lora.svd.inputs import as_products
from koopman_lora.svd.polishing import polish
from koopman_lora.svd.triples import modes_for_energy, rayleigh_ritz


def test_rayleigh_ritz_is_exact_on_the_right_subspaces():
    H = as_products(decaying("0.5", 8, 6, "complex128"))
    U, s, Vh = np.linalg.svd(H.dense)
    mix = normal(np.random.default_rng(0), 3, 3, is_complex=True)
    ritz = rayleigh_ritz(H, torch.as_tensor(U[:, :3] @ mix), torch.as_tensor(Vh[:3].conj().T @ mix))
    np.testing.assert_allclose(ritz.values, s[:3], rtol=1e-12)
    assert ritz.residuals.max() < 1e-13


def test_polish_stops_at_its_maximum():
    H = as_products(decaying("flat", 60, 60))
    start = torch.randn(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert polish(H, start, n_modes=2, max_steps=3).n_steps == 3


def test_modes_for_energy_counts_round_off_as_reached():
    assert modes_for_energy(np.array([1.0, 1.0]), 2.0 + 1e-15, 1.0) == 2
