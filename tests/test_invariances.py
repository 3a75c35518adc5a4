"""What is reported does not depend on the basis of features, shifts, units, or on the order of pairs and blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.comparison import compare_singular_values
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.eigenanalysis import eigen_analysis
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.residuals import eigenpair_residuals
from koopman_lora.scores import vamp_scores
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.states.metastable_sets import number_of_states
from koopman_lora.systems import FiniteMarkovChain, NoisyRotation
from koopman_lora.triples import canonical_triples

A = 0.8


def autoregression(n_frames=20_000, seed=0):
    """AR(1) of unit variance: singular values of its Hermite functions are 1, a, a^2, ..."""
    noise = np.sqrt(1 - A**2) * np.random.default_rng(seed).normal(size=n_frames)
    x = np.zeros(n_frames)
    for i in range(1, n_frames):
        x[i] = A * x[i - 1] + noise[i]
    return x


SERIES = autoregression()
PLANE = NoisyRotation(noise=0.4).simulate(1, 4000, seed=1)[0].values


def powers(degree):
    return lambda x: torch.cat([x**n for n in range(degree + 1)], dim=1)


def harmonics(x):
    z = torch.complex(x[:, 0], x[:, 1])
    return torch.stack([torch.ones_like(z), z, z.conj(), z**2, z.conj() ** 2], dim=1)


def moments_of(features, data, **options):
    return estimate_moments(features, features, lagged_pairs(data), **options)


# ---- an offset erases nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0, 101_325.0])
def test_an_offset_erases_no_mode_and_no_interval(offset):
    """A temperature in kelvin, a pressure in pascal: sigma_3 was 0 with interval [0, 0]."""
    reference = koopman_spectrum(moments_of(powers(2), SERIES))
    moments = moments_of(powers(2), SERIES + offset)
    spectrum, intervals = koopman_spectrum(moments), bootstrap_intervals(moments)
    assert np.allclose(spectrum.canonical_singular_values, [1, A, A**2], atol=0.02)
    assert np.allclose(spectrum.canonical_singular_values, reference.canonical_singular_values, atol=2e-5)
    assert np.allclose(spectrum.eigenvalues, reference.eigenvalues, atol=2e-5)
    assert np.allclose(spectrum.timescales[1:], reference.timescales[1:], rtol=1e-4)
    lower, upper = intervals.canonical_singular_values_interval.values[:, 2]
    assert 0 < upper - lower < 0.1
    assert lower < A**2 < upper


@pytest.mark.parametrize("offset", [0.0, 300.0, 101_325.0])
def test_a_pressure_in_pascal_does_not_lose_itself(offset):
    spectrum = koopman_spectrum(moments_of(powers(1), SERIES + offset))
    assert np.allclose(spectrum.canonical_singular_values, [1, 0.803066], atol=1e-5)
    assert np.allclose(spectrum.edmd_eigenvalues, [1, 0.803066], atol=1e-5)


def test_without_a_constant_in_the_span_nothing_is_centred():
    x = SERIES + 2.0
    spectrum = koopman_spectrum(moments_of(lambda s: s, x))
    expected = np.mean(x[:-1] * x[1:]) / np.sqrt(np.mean(x[:-1] ** 2) * np.mean(x[1:] ** 2))
    assert np.allclose(spectrum.canonical_singular_values, expected)


# ---- the constant first ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "P",
    [
        pytest.param([[0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0], [0, 0, 0.7, 0.3], [0, 0, 0.3, 0.7]], id="disconnected sets"),
        pytest.param([[0, 1, 0], [0, 0, 1], [1, 0, 0]], id="periodic chain"),
    ],
)
def test_the_first_triple_is_the_constant_also_where_other_sigma_are_one(P):
    P = np.array(P, dtype=float)
    rng, n = np.random.default_rng(0), len(P)
    x = np.repeat(np.arange(n), 500)
    x_next = np.array([rng.choice(n, p=P[i]) for i in x])
    one_hot = torch.eye(n, dtype=torch.float64)
    mix = torch.from_numpy(rng.normal(size=(n, n)))
    for features in (one_hot, one_hot @ mix):
        pairs = features[x], features[x_next]
        moments = estimate_moments(lambda s: s, lambda s: s, pairs)
        left, sigma, right = canonical_triples(moments)
        assert sigma[0] == 1
        assert sigma[1] == pytest.approx(1, abs=1e-10)
        assert np.allclose(features.numpy() @ left[:, 0], 1, atol=1e-9)
        assert np.allclose(features.numpy() @ right[:, 0], 1, atol=1e-9)
        phi = features.numpy()[x] @ left
        assert np.allclose(phi.T @ phi / len(x), np.eye(n), atol=1e-8)


# ---- invariances -----------------------------------------------------------------------------------------------------

seeds = st.integers(0, 10_000)
few_examples = settings(max_examples=8)  # each computes everything that is reported


def mixing(seed, n, is_complex):
    """An invertible map of moderate condition number."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, n)) + (1j * rng.normal(size=(n, n)) if is_complex else 0)
    U, _, Vh = np.linalg.svd(values)
    return torch.from_numpy(U * np.geomspace(1, 30, n) @ Vh)


def reported(moments):
    """Everything that must not depend on the basis, by name."""
    spectrum = koopman_spectrum(moments)
    found = {n: spectrum[n].values for n in ("canonical_singular_values", "eigenvalues", "eigenvalue_condition")}
    found |= {n: spectrum[n].values for n in ("edmd_eigenvalues", "frequencies")}
    for method in ("operator", "edmd"):
        pairs = eigen_analysis(moments, method)
        found[f"{method} eigenvalues"], found[f"{method} condition"] = pairs.eigenvalues, pairs.eigenvalue_condition
    residuals = eigenpair_residuals(moments)
    found |= {n: residuals[n].values for n in ("residual", "eigenvalue_condition", "autocorrelation_error")}
    few = Bootstrap(n_resamples=60)
    intervals = bootstrap_intervals(moments, bootstrap=few)
    found |= {n: intervals[n].values for n in ("canonical_singular_values_interval", "eigenvalue_modulus_interval")}
    found["eigenvalues_interval"] = intervals["eigenvalues_interval"].values
    comparison = compare_singular_values(moments, bootstrap=few)
    found |= {n: comparison[n].values for n in ("canonical", "canonical_interval", "cluster")}
    found["vamp"] = np.array(vamp_scores(moments, moments))
    found["gap"] = number_of_states(moments, bootstrap=few).gap.values
    return {name: np.asarray(values) for name, values in found.items()}


def assert_same(a, b, rtol=1e-6):
    for name in a:
        atol = 1e-4 if name == "residual" else 1e-6  # a square root: of the constant, that of round-off
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=atol, err_msg=name)


BASES = {
    "real": (powers(3), SERIES[:4000, None], False),
    "complex": (harmonics, PLANE, True),
}
REPORTED = {name: reported(moments_of(features, data)) for name, (features, data, _) in BASES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASES)
@few_examples
@given(seed=seeds)
def test_an_invertible_map_of_the_features_changes_nothing_reported(kind, seed):
    features, data, is_complex = BASES[kind]
    A_f = mixing(seed, features(torch.from_numpy(data[:2])).shape[1], is_complex)
    A_g = mixing(seed + 1, len(A_f), is_complex)
    moments = estimate_moments(lambda x: features(x) @ A_f, lambda x: features(x) @ A_g, lagged_pairs(data))
    assert_same(reported(moments), REPORTED[kind])


@pytest.mark.slow
@few_examples
@given(shift=st.floats(-100, 100), unit=st.sampled_from([1e-9, 1e-3, 1.0, 1e6]))
def test_a_shift_and_a_unit_of_the_data_change_nothing_reported(shift, unit):
    moments = moments_of(powers(2), unit * (SERIES[:4000, None] + shift))
    assert_same(reported(moments), reported(moments_of(powers(2), SERIES[:4000, None])), rtol=1e-5)


@pytest.mark.slow
@few_examples
@given(seed=seeds)
def test_phases_of_the_features_change_nothing_reported(seed):
    turns = torch.from_numpy(np.exp(2j * np.pi * np.random.default_rng(seed).random(5)))
    moments = moments_of(lambda x: harmonics(x) * turns, PLANE)
    assert_same(reported(moments), REPORTED["complex"])


@pytest.mark.slow
@given(seed=seeds)
def test_the_order_of_pairs_and_of_blocks_changes_no_estimate(seed):
    rng, pairs = np.random.default_rng(seed), lagged_pairs(PLANE)
    order = rng.permutation(len(pairs))
    shuffled = estimate_moments(harmonics, harmonics, (pairs.x[order], pairs.x_next[order]))
    whole = moments_of(harmonics, PLANE)
    blocks, expected = whole.selected(rng.permutation(whole.n_blocks)), koopman_spectrum(whole)
    for moments in (shuffled, blocks):
        spectrum = koopman_spectrum(moments)
        for name in ("canonical_singular_values", "eigenvalues", "eigenvalue_condition"):
            np.testing.assert_allclose(spectrum[name], expected[name], rtol=1e-8, err_msg=name)


@pytest.mark.slow
@given(seed=seeds)
def test_conjugate_pairs_keep_their_order_in_every_basis(seed):
    """For complex features the order of a pair flipped in 189 of 500 bases."""
    A_f = mixing(seed, 5, True)
    values = koopman_spectrum(moments_of(lambda x: harmonics(x) @ A_f, PLANE)).eigenvalues.values
    assert np.allclose(values, REPORTED["complex"]["eigenvalues"], atol=1e-8)
    assert values[1].imag > 0 > values[2].imag


def test_a_chain_gives_the_same_in_one_hot_and_in_any_other_basis():
    chain = FiniteMarkovChain.with_blocks(n_blocks=3)
    data = chain.simulate(n_steps=3000, seed=2)[0].values
    n = data.shape[1]
    a = reported(moments_of(lambda x: x, data))
    B = mixing(0, n, False)
    assert_same(a, reported(moments_of(lambda x: x @ B, data)))
