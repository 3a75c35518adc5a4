import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from koopman_lora.chosen_modes import ChosenModes, _real_parts, choose_modes
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.systems import NoisyRotation

DATA = NoisyRotation(omega=0.5, noise=0.5).simulate(n_trajectories=1, n_steps=500, seed=0)
X = DATA.values[0]


class Harmonics(nn.Module):
    """Complex features exp(i m angle) of points near a circle."""

    def __init__(self, n):
        super().__init__()
        self.factors, self.n = nn.Parameter(torch.ones(n, dtype=torch.complex64)), n

    def forward(self, x):
        angle = torch.atan2(x[:, 1:], x[:, :1])
        return torch.exp(1j * angle * torch.arange(1, self.n + 1)) * self.factors


@pytest.fixture(scope="module")
def analysis():
    return KoopmanLoRA(5, hidden_dims=(16,), n_epochs=4).fit(DATA).analysis_


@pytest.fixture(scope="module")
def complex_analysis():
    encoders = {"encoder_f": Harmonics(3), "encoder_g": Harmonics(3)}
    return KoopmanLoRA(4, **encoders, refine=False, n_epochs=1).fit(DATA).analysis_


@pytest.mark.parametrize("functions", ["left", "right"])
def test_singular_functions_are_chosen_by_their_number(functions, analysis):
    chosen = choose_modes(analysis, [4, 2], functions)
    wanted = analysis.singular_functions(X, side=functions)[:, [3, 1]]
    assert np.allclose(chosen.values(analysis.features(X, chosen.side)), wanted, atol=1e-12)
    assert chosen.names == {"left": ("phi_4", "phi_2"), "right": ("psi_4", "psi_2")}[functions]
    assert chosen.modes == (4, 2)


def test_a_complex_eigenfunction_is_its_real_and_its_imaginary_part(analysis):
    chosen = choose_modes(analysis, [3, 2], "eigen")
    wanted = analysis.eigenfunctions(X)
    assert np.abs(wanted[:, 1:3].imag).max() > 0.1  # a rotation
    wanted = np.stack([wanted[:, 2].real, wanted[:, 2].imag, wanted[:, 1].real, wanted[:, 1].imag], axis=1)
    assert np.allclose(chosen.values(analysis.features(X)), wanted, atol=1e-12)
    assert chosen.names[:2] == ("eigenfunction_3_real", "eigenfunction_3_imaginary")
    assert chosen.modes == (3, 3, 2, 2)


@pytest.mark.slow
def test_eigenfunctions_of_a_process_in_equilibrium_are_one_column_each():
    analysis = KoopmanLoRA(4, hidden_dims=(16,), n_epochs=2, reversible=True).fit(DATA).analysis_
    chosen = choose_modes(analysis, functions="eigen")
    assert chosen.names == ("eigenfunction_2", "eigenfunction_3", "eigenfunction_4")
    wanted = analysis.eigenfunctions(X)[:, 1:]
    assert np.abs(wanted.imag).max() == 0
    assert np.allclose(chosen.values(analysis.features(X)), wanted.real, atol=1e-12)


@pytest.mark.parametrize("functions", ["left", "right", "eigen"])
def test_functions_of_complex_features_are_two_columns_each(functions, complex_analysis):
    chosen = choose_modes(complex_analysis, 2, functions)
    own = complex_analysis.eigenfunctions if functions == "eigen" else complex_analysis.singular_functions
    wanted = own(X, **({} if functions == "eigen" else {"side": functions}))[:, 1]
    assert np.abs(wanted.imag).max() > 0.1
    values = chosen.values(complex_analysis.features(X, chosen.side))
    assert np.allclose(values, np.stack([wanted.real, wanted.imag], axis=1), atol=1e-12)


def test_all_but_the_constant_mode_are_the_default(analysis):
    assert choose_modes(analysis).modes == (2, 3, 4, 5)


numbers = st.complex_numbers(max_magnitude=1e3, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5))
def test_real_parts_multiply_as_complex_numbers_do(pairs):
    features, coefficients = np.array(pairs).T
    names, columns = zip(*_real_parts(coefficients, is_complex=True), strict=True)
    real, imaginary = ChosenModes("left", (1, 1), names, np.stack(columns, axis=1)).values(features[None])[0]
    assert real + 1j * imaginary == pytest.approx(features @ coefficients, abs=1e-6)
