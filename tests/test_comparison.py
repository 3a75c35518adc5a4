import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.accumulation import estimate_moments
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.clock import Clock
from koopman_lora.comparison import (
    REMEDIES,
    clusters,
    compare_singular_values,
    elbow,
    implied_svals,
    learned_operator_values,
    loss_gap,
)
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.moments import CROSS, Moments
from koopman_lora.scores import Validation
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import NoisyLogisticMap, NoisyRotation
from koopman_lora.tables import comparison_text

MAP = NoisyLogisticMap(order=6)  # rank 7, exactly
REFERENCE = MAP.spectrum(lag=1, n_modes=7)
SIGMA = REFERENCE.singular_values
ROOT = np.sqrt(SIGMA)


def exact_features(n_pairs, seed):
    """Exact singular functions at fresh pairs: phi(x), psi(x')."""
    pairs = lagged_pairs(MAP.simulate(n_steps=n_pairs + 1, seed=seed))
    return REFERENCE.left(pairs.x.numpy()), REFERENCE.right(pairs.x_next.numpy())


def moments_of(f, g, n_blocks=32):
    rows = torch.arange(len(f))[:, None]
    return estimate_moments(
        lambda i: f[i[:, 0].numpy()], lambda i: g[i[:, 0].numpy()], (rows, rows), n_blocks=n_blocks, names=CROSS
    )


def population_moments(f, g, n_blocks=8):
    """Moments at the exact law, of features given as coefficients of phi and of psi; equal blocks."""
    sums = {"M_f": f.T @ f, "M_g": g.T @ g, "T_fg": f.T @ (SIGMA[:, None] * g)}
    return Moments({n: np.repeat(v[None], n_blocks, 0) for n, v in sums.items()}, np.ones(n_blocks))


def rotation_matrix(seed, k=7):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(k, k)))[0]


# --- the five causes ---------------------------------------------------------------------------------------------


def wrong_svals():
    return np.eye(7), np.eye(7), np.linspace(1.0, 0.4, 7)


def rotated_features():
    """The un-nested minimum: the operator is exact, its features are a rotation of sqrt(sigma) phi."""
    f = g = ROOT[:, None] * rotation_matrix(0)
    norms = np.linalg.norm(f, axis=0), np.linalg.norm(g, axis=0)
    return f / norms[0], g / norms[1], norms[0] * norms[1]


def unequal_scales():
    c = np.geomspace(0.1, 10, 7)
    return np.diag(ROOT * c), np.diag(ROOT / c), None


@pytest.mark.parametrize("n_pairs", [None, 40_000], ids=["population", "sample"])
@pytest.mark.parametrize(
    ("make", "cause", "others"),
    [
        (wrong_svals, "training gap", ("non-orthogonality", "anisotropy")),
        (rotated_features, "non-orthogonality", ("training gap", "anisotropy")),
        (unequal_scales, "anisotropy", ("training gap", "non-orthogonality")),
    ],
    ids=["training gap", "non-orthogonality", "anisotropy"],
)
def test_verdict_on_a_case_built_to_have_one_cause(make, cause, others, n_pairs):
    A_f, A_g, svals = make()
    if n_pairs is None:
        moments, held_out = population_moments(A_f, A_g), None
    else:
        (phi, psi), (phi_test, psi_test) = exact_features(n_pairs, 0), exact_features(n_pairs // 4, 1)
        moments, held_out = moments_of(phi @ A_f, psi @ A_g), moments_of(phi_test @ A_f, psi_test @ A_g)
    comparison = compare_singular_values(moments, svals, held_out, bootstrap=Bootstrap(100))
    size = comparison["size"].to_series()
    assert comparison.verdict == cause
    assert comparison.remedy == REMEDIES[cause]
    assert size[cause] > 0.1
    for other in others:  # at the exact law the other causes are exactly absent
        assert size[other] < (1e-9 if n_pairs is None else 0.05 * size[cause]), other


def test_sizes_of_the_causes_are_what_they_say():
    A_f, A_g, svals = wrong_svals()
    size = compare_singular_values(population_moments(A_f, A_g), svals, bootstrap=Bootstrap(20))["size"].to_series()
    assert np.isclose(size["training gap"], np.sqrt(np.mean((svals - SIGMA) ** 2)), rtol=1e-9)
    A_f, A_g, svals = rotated_features()
    size = compare_singular_values(population_moments(A_f, A_g), svals, bootstrap=Bootstrap(20))["size"].to_series()
    wanted = np.sort(np.diag(rotation_matrix(0).T @ np.diag(SIGMA) @ rotation_matrix(0)))[::-1]
    assert np.isclose(size["non-orthogonality"], np.sqrt(np.mean((wanted - SIGMA) ** 2)), rtol=1e-9)
    A_f, A_g, svals = unequal_scales()
    size = compare_singular_values(population_moments(A_f, A_g), svals, bootstrap=Bootstrap(20))["size"].to_series()
    wanted = np.minimum(np.sort(SIGMA / np.geomspace(0.1, 10, 7) ** 2)[::-1], 1.0)  # beyond 1 all mean nothing
    assert np.isclose(size["anisotropy"], np.sqrt(np.mean((wanted - SIGMA) ** 2)), rtol=1e-7)


def test_an_exploding_K_matrix_does_not_hide_a_larger_cause():
    """As in all 22 un-refined fits to this map: nearly dependent features, and learned values that are far off."""
    A = np.eye(7)
    A[6, 6], A[5, 6] = 1e-4, 1.0
    svals = np.r_[1.0, np.full(6, 0.02)]
    comparison = compare_singular_values(population_moments(A, np.eye(7)), svals, bootstrap=Bootstrap(8))
    assert comparison.K_matrix.max() > 100
    size = comparison["size"].to_series()
    assert size["anisotropy"] == pytest.approx(np.sqrt(np.mean((np.minimum(comparison.K_matrix, 1) - SIGMA) ** 2)))
    assert comparison.verdict == "training gap"


def random_features(n_pairs, seed, n_features=40):
    rng = np.random.default_rng(5)
    W, b = 20 * rng.normal(size=(1, n_features)), rng.uniform(0, 6, n_features)
    pairs = lagged_pairs(MAP.simulate(n_steps=n_pairs + 1, seed=seed))
    return np.cos(pairs.x.numpy() @ W + b), np.cos(pairs.x_next.numpy() @ W + b)


@pytest.mark.parametrize("as_validation", [False, True], ids=["moments", "validation"])
def test_verdict_generalisation_gap(as_validation):
    (f, g), (f_test, g_test) = random_features(200, 0), random_features(4000, 1)
    found = koopman_spectrum(moments_of(f, g))
    A_f, A_g = found.phi_coefficients.values, found.psi_coefficients.values
    svals = found.canonical_singular_values.values
    held_out = moments_of(f_test @ A_f, g_test @ A_g)
    if as_validation:
        pairs = lagged_pairs(MAP.simulate(n_steps=4001, seed=1))
        held_out = Validation.of_functions(svals, f_test @ A_f, g_test @ A_g, pairs)
    comparison = compare_singular_values(moments_of(f @ A_f, g @ A_g), svals, held_out, bootstrap=Bootstrap(100))
    assert comparison.verdict == "generalisation gap"
    assert comparison["size"].sel(cause="generalisation gap") > 0.1
    if as_validation:
        assert np.allclose(comparison.canonical_held_out, held_out.correlations(), rtol=1e-9)


@pytest.mark.slow
def test_verdict_sampling_error_also_where_few_held_out_pairs_are_noisy():
    """Of 100 seeds 95 had this verdict with held-out pairs, all of them without: three standard errors allow for 25."""
    verdicts = []
    for seed in range(30):
        (f, g), (f_test, g_test) = exact_features(300, seed), exact_features(100, 100 + seed)
        found = koopman_spectrum(moments_of(f, g))
        A_f, A_g = found.phi_coefficients.values, found.psi_coefficients.values
        moments, svals = moments_of(f @ A_f, g @ A_g), found.canonical_singular_values.values
        alone = compare_singular_values(moments, svals, bootstrap=Bootstrap(100))
        assert alone.verdict == "sampling error"
        assert np.isnan(alone["size"].sel(cause="generalisation gap"))
        held_out = moments_of(f_test @ A_f, g_test @ A_g, n_blocks=10)
        beside = compare_singular_values(moments, svals, held_out, Bootstrap(100))
        assert np.isfinite(beside["size"].sel(cause="generalisation gap"))
        verdicts.append(beside.verdict)
    assert verdicts.count("sampling error") >= 25


@pytest.mark.slow
def test_the_held_out_error_is_the_spread_over_fresh_held_out_pairs():
    phi, psi = exact_features(2000, 0)
    moments = moments_of(phi, psi)
    fresh = [moments_of(*exact_features(500, seed)) for seed in range(40)]
    runs = [compare_singular_values(moments, SIGMA, held_out, Bootstrap(8)) for held_out in fresh]
    spread = np.std([r.canonical_held_out.values for r in runs], axis=0)
    assert np.allclose(np.mean([r.held_out_error.values for r in runs], axis=0)[1:], spread[1:], rtol=0.35)


def test_a_held_out_result_needs_blocks():
    phi, psi = exact_features(500, 0)
    with pytest.raises(ValueError, match=r"held_out must be kept in at least 2 blocks; use estimate_moments\(n_blocks"):
        compare_singular_values(moments_of(phi, psi), SIGMA, moments_of(phi, psi, n_blocks=1))


# --- the guide's checks and the text -----------------------------------------------------------------------------


def test_the_guides_checks():
    moments = population_moments(np.eye(7), np.eye(7))

    def check(svals):
        return compare_singular_values(moments, np.array(svals), bootstrap=Bootstrap(8)).attrs

    good = check(SIGMA)
    assert good["is_decreasing"]
    assert good["is_in_unit_interval"]
    assert good["elbow"] == 1 + np.argmax(-np.diff(SIGMA)) == 3  # 1, .781, .709 | .307
    assert not check([1, 0.5, 0.7, 0.3, 0.2, 0.1, 0.05])["is_decreasing"]
    assert not check([1.2, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05])["is_in_unit_interval"]
    assert not check([1, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0])["is_in_unit_interval"]
    assert (good["cond_M_f"], good["deviation_M_f"]) == pytest.approx((1, 0), abs=1e-9)


def test_ratio_is_K_matrix_over_learned():
    comparison = compare_singular_values(population_moments(np.eye(7), np.eye(7)), SIGMA / 2, bootstrap=Bootstrap(8))
    assert np.allclose(comparison.ratio, 2)
    assert (comparison.ratio_mean, comparison.ratio_std) == pytest.approx((2, 0), abs=1e-9)
    svals = np.r_[SIGMA[:6], 0]
    zero = compare_singular_values(population_moments(np.eye(7), np.eye(7)), svals, bootstrap=Bootstrap(8))
    assert np.isnan(zero.ratio[-1])
    assert zero.ratio_mean == pytest.approx(1)


def test_the_text_says_the_verdict_the_remedy_and_every_number():
    svals = np.linspace(1, 0.4, 7)
    comparison = compare_singular_values(population_moments(np.eye(7), np.eye(7)), svals, bootstrap=Bootstrap(8))
    text = comparison_text(comparison)
    lines = text.splitlines()
    assert len(lines) == 1 + 7 + 5
    assert lines[-1] == comparison.reading
    assert f"largest: training gap. Remedy: {REMEDIES['training gap']}" == lines[-2]
    assert "generalisation gap unknown (no held-out pairs)" in lines[-3]
    assert lines[-3].startswith("causes of disagreement (rms): training gap 0.29")
    assert "learned decreasing: yes; in (0, 1]: yes; elbow after mode 3" in lines[-4]
    for i, row in enumerate(lines[1:8]):
        numbers = row.split()
        assert (int(numbers[0]), float(numbers[1])) == (i + 1, round(svals[i], 4))
        assert float(numbers[3]) == pytest.approx(SIGMA[i], abs=1e-4)
    worse = comparison_text(
        compare_singular_values(population_moments(np.eye(7), np.eye(7)), svals[::-1], bootstrap=Bootstrap(8))
    )
    assert "learned decreasing: NO" in worse


def test_units_and_settings_travel():
    moments = dataclasses.replace(population_moments(np.eye(7), np.eye(7)), clock=Clock(3, 0.2, "ps"))
    comparison = compare_singular_values(moments, SIGMA, bootstrap=Bootstrap(8, level=0.9))
    assert (comparison.lag, comparison.dt, comparison.time_unit) == (3, 0.2, "ps")
    assert comparison.level == 0.9
    assert not comparison.has_held_out


def test_the_interval_is_that_of_the_canonical_values_with_the_bound_first():
    moments = moments_of(*exact_features(1000, 0))
    comparison = compare_singular_values(moments, SIGMA, bootstrap=Bootstrap(50))
    wanted = bootstrap_intervals(moments, SIGMA, Bootstrap(50)).canonical_singular_values_interval
    assert comparison.canonical_interval.dims == ("bound", "mode")
    assert comparison.canonical_interval.sizes == {"bound": 2, "mode": 7}
    assert np.allclose(comparison.canonical_interval, wanted, rtol=1e-12)
    lower, upper = comparison.canonical_interval.values
    assert (lower <= comparison.canonical.values + 1e-9).all()
    assert (comparison.canonical.values <= upper + 1e-9).all()


# --- the guide's three mistakes ----------------------------------------------------------------------------------


def test_features_scaled_before_and_again_are_warned_about():
    A = np.diag(ROOT)
    with pytest.warns(UserWarning, match=r"second moments of the features equal svals: .* scaled twice"):
        twice = compare_singular_values(population_moments(A, A), SIGMA, bootstrap=Bootstrap(8))
    assert twice.is_scaled_twice
    assert "SCALED TWICE" in comparison_text(twice)
    phi, psi = exact_features(400, 0)
    with pytest.warns(UserWarning, match="scaled twice"):
        koopman_spectrum(moments_of(phi * ROOT, psi * ROOT), SIGMA)


@pytest.mark.parametrize(
    ("scale", "svals"),
    [
        (np.ones(7), SIGMA),  # as it should be
        (ROOT, None),  # scaled once, by hand
        (np.linspace(1, 0.97, 7) ** 0.5, np.linspace(1, 0.97, 7)),  # close to 1, not told apart: no sentence
        (np.ones(7), np.ones(7)),
        (np.geomspace(1, 0.1, 7), SIGMA),  # some other scale
    ],
    ids=["unit", "no svals", "near 1", "ones", "other"],
)
@pytest.mark.parametrize("n_pairs", [None, 400])
@pytest.mark.filterwarnings("error::UserWarning")
def test_features_scaled_once_are_not_warned_about(scale, svals, n_pairs):
    if n_pairs is None:
        moments = population_moments(np.diag(scale), np.diag(scale))
    else:
        phi, psi = exact_features(n_pairs, 0)
        moments = moments_of(phi * scale, psi * scale)
    comparison = compare_singular_values(moments, svals, bootstrap=Bootstrap(8))
    assert not comparison.is_scaled_twice
    assert "SCALED TWICE" not in comparison_text(comparison)


def test_svals_outside_the_intervals_are_not_the_spectrum():
    moments = moments_of(*exact_features(4000, 0))
    reading = compare_singular_values(moments, np.r_[SIGMA[:3], 0.9, SIGMA[4:]], bootstrap=Bootstrap(100)).reading
    assert "svals are a target of training, not the spectrum" in reading
    assert reading.endswith("read the canonical values.")


def test_K_matrix_values_outside_the_intervals_depend_on_the_basis():
    A_f, A_g, svals = unequal_scales()
    reading = compare_singular_values(population_moments(A_f, A_g), svals, bootstrap=Bootstrap(8)).reading
    assert "K_matrix values are outside the intervals in modes 1, 2, 3" in reading
    assert "learned values" not in reading


def test_values_within_the_intervals_agree_and_no_more_is_to_be_expected():
    phi, psi = exact_features(4000, 0)
    found = koopman_spectrum(moments_of(phi, psi))
    f, g = phi @ found.phi_coefficients.values, psi @ found.psi_coefficients.values
    svals = found.canonical_singular_values.values
    comparison = compare_singular_values(moments_of(f, g), svals, bootstrap=Bootstrap(50))
    assert comparison.reading.startswith("learned, K_matrix and canonical values agree within the intervals: expect")
    assert comparison.reading in comparison_text(comparison)


# --- parts -------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2000), with_svals=st.booleans(), kind=st.sampled_from(["real", "complex"]))
def test_loss_gap_is_never_negative(seed, with_svals, kind):
    rng = np.random.default_rng(seed)
    f, g = rng.normal(size=(2, 40, 4)) + (1j * rng.normal(size=(2, 40, 4)) if kind == "complex" else 0)
    svals = rng.uniform(0, 1, 4) if with_svals else None
    assert loss_gap(moments_of(f, g + f), svals) >= -1e-9


def test_loss_gap_is_zero_at_the_optimum_whatever_the_rotation():
    assert loss_gap(population_moments(np.eye(7), np.eye(7)), SIGMA) == pytest.approx(0, abs=1e-12)
    A_f, A_g, svals = rotated_features()
    assert loss_gap(population_moments(A_f, A_g), svals) == pytest.approx(0, abs=1e-12)
    A_f, A_g, _ = unequal_scales()
    assert loss_gap(population_moments(A_f, A_g), None) == pytest.approx(0, abs=1e-12)
    wrong = np.linspace(1, 0.4, 7)
    gap = loss_gap(population_moments(np.eye(7), np.eye(7)), wrong)
    assert gap == pytest.approx(np.sum((wrong - SIGMA) ** 2))


def test_learned_operator_values_do_not_see_a_rotation_but_implied_svals_do():
    A_f, A_g, svals = rotated_features()
    assert np.allclose(learned_operator_values(population_moments(A_f, A_g), svals), SIGMA)
    whole = population_moments(A_f * np.sqrt(svals), A_g * np.sqrt(svals))
    assert np.allclose(learned_operator_values(whole, None), SIGMA)
    assert np.allclose(implied_svals(whole), svals)


def test_clusters_chain_neighbours_whose_intervals_hold_each_other():
    sigma = np.array([1.0, 0.956, 0.955, 0.83, 0.82, 0.4])
    bounds = np.stack([sigma - 0.02, sigma + 0.02])
    bounds[:, 0] = 1
    assert clusters(bounds).tolist() == [1, 2, 2, 3, 3, 4]


def test_a_rotations_exactly_equal_values_are_clusters():
    reference = NoisyRotation().spectrum(lag=1, n_modes=5)
    pairs = lagged_pairs(NoisyRotation().simulate(n_steps=8001, seed=0))
    moments = estimate_moments(lambda x: reference.left(x.numpy()), lambda x: reference.right(x.numpy()), pairs)
    assert compare_singular_values(moments, bootstrap=Bootstrap(100)).cluster.values.tolist() == [1, 2, 2, 3, 3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_elbow_is_before_the_largest_drop(values):
    values = np.sort(values)[::-1]
    n = elbow(values)
    assert 1 <= n <= max(len(values) - 1, 1)
    if len(values) > 1:
        assert values[n - 1] - values[n] == np.max(-np.diff(values))
