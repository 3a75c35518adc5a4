"""Features that are mixed, with large offsets: what moves little is not swamped, and never silently wrong."""

import functools

import numpy as np
import pytest
import torch

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.eigenanalysis import eigen_analysis, koopman_modes
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.residuals import eigenpair_residuals
from koopman_lora.scores import vamp_scores
from koopman_lora.spectrum import k_matrix, koopman_spectrum
from koopman_lora.triples import canonical_triples, independent_basis

N_FRAMES = 20_000
OFFSET = 300.0
FEW = Bootstrap(n_resamples=40)


@functools.cache
def series():
    """AR(1) of unit variance: singular values of 1, x, x^2 are 1, .8, .64."""
    noise = 0.6 * np.random.default_rng(0).normal(size=N_FRAMES)
    x = np.zeros(N_FRAMES)
    for i in range(1, N_FRAMES):
        x[i] = 0.8 * x[i - 1] + noise[i]
    return x


def mixing(seed, is_complex):
    """An invertible map of condition number 10."""
    rng = np.random.default_rng(seed)
    U, _, Vh = np.linalg.svd(rng.normal(size=(3, 3)) + (1j * rng.normal(size=(3, 3)) if is_complex else 0))
    return torch.from_numpy(U * np.geomspace(1, 10, 3) @ Vh)


@functools.cache
def moments_of(offset, seed=None, is_complex=False, part=(0, N_FRAMES)):
    def features(x):
        powers = torch.cat([x**n for n in range(3)], dim=1)
        return powers if seed is None else powers.to(A.dtype) @ A

    A = mixing(seed or 0, is_complex)
    pairs = lagged_pairs(series()[slice(*part)] + offset)
    return estimate_moments(features, features, pairs, observables=lambda x: (x - offset) ** 2)


def reported(moments):
    """What must not depend on the basis, by name."""
    spectrum, pairs = koopman_spectrum(moments), eigen_analysis(moments, bootstrap=FEW)
    intervals = bootstrap_intervals(moments, bootstrap=FEW)
    found = {"edmd": spectrum.edmd_eigenvalues, "condition": spectrum.eigenvalue_condition}
    found |= {name: spectrum[name] for name in ("canonical_singular_values", "eigenvalues")}
    found["decays"] = 1 / spectrum.timescales
    found |= {f"pairs {name}": pairs[name] for name in ("eigenvalues", "eigenvalue_condition", "eigenvalues_interval")}
    found["edmd pairs"] = eigen_analysis(moments, "edmd").eigenvalues
    found |= {name: intervals[name] for name in ("canonical_singular_values_interval", "eigenvalues_interval")}
    residuals = eigenpair_residuals(moments)
    found |= {name: residuals[name] for name in ("residual", "autocorrelation_error")}
    found["modes"] = np.abs(koopman_modes(moments).koopman_modes[:, 0])
    found["vamp"] = vamp_scores(moments, moments)
    return {name: np.asarray(values) for name, values in found.items()}


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("offset", "atol"), [(0.0, 1e-9), (30.0, 1e-7), (OFFSET, 1e-3)])
def test_mixed_features_give_what_unmixed_ones_give(offset, atol, seed, is_complex):
    """At an offset of 300 sigma_3 was anything from .08 to 1.05, eigenvalues as low as -2.3."""
    expected = reported(moments_of(0.0))
    for name, values in reported(moments_of(offset, seed, is_complex)).items():
        np.testing.assert_allclose(
            values, expected[name], rtol=0, atol=max(atol, 1e-6 * (name == "residual")), err_msg=name
        )


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("offset", [1e3, 3e3, 3e4, 1e5])
def test_what_cannot_be_resolved_is_dropped_and_the_rank_says_so(offset, seed, is_complex):
    """The square has 1e-13 of the variance of mixed features at some 700 deviations, and less beyond."""
    spectrum = koopman_spectrum(moments_of(offset, seed, is_complex))
    rank = spectrum.attrs["rank_f"]
    assert rank == 2 if offset > 3e3 else rank in (2, 3)
    expected = [1, 0.803165, 0.63696][:rank] + [0] * (3 - rank)
    for name in ("canonical_singular_values", "eigenvalues", "edmd_eigenvalues"):
        np.testing.assert_allclose(spectrum[name], expected, atol=5e-3, err_msg=name)
    moments = moments_of(offset, seed, is_complex)
    intervals = bootstrap_intervals(moments, bootstrap=FEW)
    assert np.all(canonical_triples(moments).values <= 1 + 1e-6)
    assert np.all(intervals.canonical_singular_values_interval <= 1 + 1e-6)
    lower, upper = intervals.canonical_singular_values_interval.values[:, 1]
    assert lower < 0.803 < upper < lower + 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_k_matrix_of_mixed_features_has_the_eigenvalues_of_edmd(seed):
    values = np.sort(np.linalg.eigvals(k_matrix(moments_of(OFFSET, seed))).real)[::-1]
    np.testing.assert_allclose(values, [1, 0.80317, 0.63696], atol=0.05)  # of a matrix with entries of 1e5


def test_held_out_pairs_are_scored_alike_in_mixed_features():
    early, late = (0, 12_000), (12_000, N_FRAMES)
    expected = vamp_scores(moments_of(0.0, part=early), moments_of(0.0, part=late))
    found = vamp_scores(moments_of(OFFSET, 1, part=early), moments_of(OFFSET, 1, part=late))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_constant_of_some_states_is_not_taken_for_one_where_other_states_occur():
    one_hot = torch.eye(3, dtype=torch.float64)
    rng = np.random.default_rng(0)
    seen, held_out = (
        estimate_moments(lambda s: s, lambda s: s, (one_hot[x[:-1]], one_hot[x[1:]]))
        for x in (rng.integers(0, 2, 400), rng.integers(0, 3, 400))
    )
    basis = independent_basis(seen)
    first = basis.moments(held_out).M_f[0, 0]
    assert first == pytest.approx(held_out.M_f[0, 0] + held_out.M_f[1, 1])
    assert basis.moments(seen).M_f[0, 0] == pytest.approx(1)
