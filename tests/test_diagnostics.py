import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import koopman_lora as kl
from koopman_lora.accumulation import estimate_moments
from koopman_lora.comparison import (
    REMEDIES,
    agreement_of_fits,
    captured_share,
    clusters,
    compare_singular_values,
    compare_subspaces,
    eigenpair_residuals,
    elbow,
    held_out_scores,
    implied_svals,
    learned_operator_values,
    loss_gap,
    training_findings,
)
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.moments import CROSS, Moments
from koopman_lora.scores import Validation, validation_sigma, vamp_scores
from koopman_lora.spectrum import koopman_spectrum
from koopman_lora.systems import FiniteMarkovChain, NoisyLogisticMap, NoisyRotation
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
    comparison = compare_singular_values(moments, svals, held_out, n_resamples=100)
    size = comparison["size"].to_series()
    assert comparison.verdict == cause
    assert comparison.remedy == REMEDIES[cause]
    assert size[cause] > 0.1
    for other in others:  # at the exact law the other causes are exactly absent
        assert size[other] < (1e-9 if n_pairs is None else 0.05 * size[cause]), other


def test_sizes_of_the_causes_are_what_they_say():
    A_f, A_g, svals = wrong_svals()
    size = compare_singular_values(population_moments(A_f, A_g), svals, n_resamples=20)["size"].to_series()
    assert np.isclose(size["training gap"], np.sqrt(np.mean((svals - SIGMA) ** 2)), rtol=1e-9)
    A_f, A_g, svals = rotated_features()
    size = compare_singular_values(population_moments(A_f, A_g), svals, n_resamples=20)["size"].to_series()
    wanted = np.sort(np.diag(rotation_matrix(0).T @ np.diag(SIGMA) @ rotation_matrix(0)))[::-1]
    assert np.isclose(size["non-orthogonality"], np.sqrt(np.mean((wanted - SIGMA) ** 2)), rtol=1e-9)
    A_f, A_g, svals = unequal_scales()
    size = compare_singular_values(population_moments(A_f, A_g), svals, n_resamples=20)["size"].to_series()
    wanted = np.sort(SIGMA / np.geomspace(0.1, 10, 7) ** 2)[::-1]
    assert np.isclose(size["anisotropy"], np.sqrt(np.mean((wanted - SIGMA) ** 2)), rtol=1e-7)


def random_features(n_pairs, seed, n_features=40):
    rng = np.random.default_rng(5)
    W, b = 20 * rng.normal(size=(1, n_features)), rng.uniform(0, 6, n_features)
    pairs = lagged_pairs(MAP.simulate(n_steps=n_pairs + 1, seed=seed))
    return np.cos(pairs.x.numpy() @ W + b), np.cos(pairs.x_next.numpy() @ W + b)


@pytest.mark.parametrize("as_validation", [False, True], ids=["moments", "validation"])
def test_verdict_generalisation_gap(as_validation):
    (f, g), (f_test, g_test) = random_features(200, 0), random_features(4000, 1)
    found = koopman_spectrum(moments_of(f, g))
    A_f, A_g = found.left_coefficients.values, found.right_coefficients.values
    svals = found.canonical_singular_values.values
    held_out = moments_of(f_test @ A_f, g_test @ A_g)
    if as_validation:
        pairs = lagged_pairs(MAP.simulate(n_steps=4001, seed=1))
        held_out = Validation(svals, f_test @ A_f, g_test @ A_g, pairs)
    comparison = compare_singular_values(moments_of(f @ A_f, g @ A_g), svals, held_out, n_resamples=100)
    assert comparison.verdict == "generalisation gap"
    assert comparison["size"].sel(cause="generalisation gap") > 0.1
    if as_validation:
        assert np.allclose(comparison.canonical_held_out, validation_sigma(held_out), rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_verdict_sampling_error_also_where_few_held_out_pairs_are_noisy(seed):
    (f, g), (f_test, g_test) = exact_features(300, seed), exact_features(100, 100 + seed)
    found = koopman_spectrum(moments_of(f, g))
    A_f, A_g = found.left_coefficients.values, found.right_coefficients.values
    for held_out in (None, moments_of(f_test @ A_f, g_test @ A_g, n_blocks=10)):
        comparison = compare_singular_values(
            moments_of(f @ A_f, g @ A_g), found.canonical_singular_values.values, held_out, n_resamples=100
        )
        assert comparison.verdict == "sampling error"
        assert np.isnan(comparison["size"].sel(cause="generalisation gap")) == (held_out is None)


def test_the_held_out_error_is_the_spread_over_fresh_held_out_pairs():
    phi, psi = exact_features(2000, 0)
    moments = moments_of(phi, psi)
    runs = [
        compare_singular_values(moments, SIGMA, moments_of(*exact_features(500, s)), n_resamples=8) for s in range(40)
    ]
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
        return compare_singular_values(moments, np.array(svals), n_resamples=8).attrs

    good = check(SIGMA)
    assert good["is_decreasing"]
    assert good["is_in_unit_interval"]
    assert good["elbow"] == 1 + np.argmax(-np.diff(SIGMA)) == 3  # 1, .781, .709 | .307
    assert not check([1, 0.5, 0.7, 0.3, 0.2, 0.1, 0.05])["is_decreasing"]
    assert not check([1.2, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05])["is_in_unit_interval"]
    assert not check([1, 0.7, 0.5, 0.3, 0.2, 0.1, 0.0])["is_in_unit_interval"]
    assert (good["cond_M_f"], good["deviation_M_f"]) == pytest.approx((1, 0), abs=1e-9)


def test_ratio_is_K_matrix_over_learned():
    comparison = compare_singular_values(population_moments(np.eye(7), np.eye(7)), SIGMA / 2, n_resamples=8)
    assert np.allclose(comparison.ratio, 2)
    assert (comparison.ratio_mean, comparison.ratio_std) == pytest.approx((2, 0), abs=1e-9)
    zero = compare_singular_values(population_moments(np.eye(7), np.eye(7)), np.r_[SIGMA[:6], 0], n_resamples=8)
    assert np.isnan(zero.ratio[-1])
    assert zero.ratio_mean == pytest.approx(1)


def test_the_text_says_the_verdict_the_remedy_and_every_number():
    svals = np.linspace(1, 0.4, 7)
    comparison = compare_singular_values(population_moments(np.eye(7), np.eye(7)), svals, n_resamples=8)
    text = comparison_text(comparison)
    lines = text.splitlines()
    assert len(lines) == 1 + 7 + 4
    assert f"largest: training gap. Remedy: {REMEDIES['training gap']}" == lines[-1]
    assert "generalisation gap unknown (no held-out pairs)" in lines[-2]
    assert lines[-2].startswith("causes of disagreement (rms): training gap 0.29")
    assert "learned decreasing: yes; in (0, 1]: yes; elbow after mode 3" in lines[-3]
    for i, row in enumerate(lines[1:8]):
        numbers = row.split()
        assert (int(numbers[0]), float(numbers[1])) == (i + 1, round(svals[i], 4))
        assert float(numbers[3]) == pytest.approx(SIGMA[i], abs=1e-4)
    worse = comparison_text(
        compare_singular_values(population_moments(np.eye(7), np.eye(7)), svals[::-1], n_resamples=8)
    )
    assert "learned decreasing: NO" in worse


def test_units_and_settings_travel():
    comparison = compare_singular_values(
        population_moments(np.eye(7), np.eye(7)), SIGMA, lag=3, dt=0.2, time_unit="ps", n_resamples=8
    )
    assert (comparison.lag, comparison.dt, comparison.time_unit) == (3, 0.2, "ps")
    assert not comparison.has_held_out


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
    bounds = np.stack([sigma - 0.02, sigma + 0.02], axis=1)
    bounds[0] = 1
    assert clusters(bounds).tolist() == [1, 2, 2, 3, 3, 4]


def test_a_rotations_exactly_equal_values_are_clusters():
    reference = NoisyRotation().spectrum(lag=1, n_modes=5)
    pairs = lagged_pairs(NoisyRotation().simulate(n_steps=8001, seed=0))
    moments = estimate_moments(lambda x: reference.left(x.numpy()), lambda x: reference.right(x.numpy()), pairs)
    assert compare_singular_values(moments, n_resamples=100).cluster.values.tolist() == [1, 2, 2, 3, 3]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_elbow_is_before_the_largest_drop(values):
    values = np.sort(values)[::-1]
    n = elbow(values)
    assert 1 <= n <= max(len(values) - 1, 1)
    if len(values) > 1:
        assert values[n - 1] - values[n] == np.max(-np.diff(values))


# --- eigenpairs --------------------------------------------------------------------------------------------------


def powers(x):
    return torch.cat([x**0, x, x**2, x**3], dim=1)


def test_a_deterministic_linear_system_has_no_residual():
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    result = eigenpair_residuals(estimate_moments(powers, powers, (x, 0.7 * x)))
    assert np.allclose(result.eigenvalues, 0.7 ** np.arange(4), atol=1e-9)
    assert (result.residual < 1e-6).all()
    assert not result.is_spurious.any()
    assert not result.on_held_out_pairs


def test_the_squared_residual_of_a_stochastic_system_is_one_minus_the_squared_modulus():
    """E|v(x') - lambda v(x)|^2 = E|v|^2 - |lambda|^2 E|v|^2 at a true eigenfunction under the stationary law."""
    chain = FiniteMarkovChain(np.array([[6, 2, 1, 1], [1, 5, 3, 1], [0, 1, 7, 2], [3, 1, 1, 5]]) / 10)
    pi, P = chain.stationary_distribution, chain.transition_matrix
    joint = {"M_f": np.diag(pi), "M_f1": np.diag(pi), "T_ff": pi[:, None] * P}
    result = eigenpair_residuals(Moments({n: v[None] for n, v in joint.items()}, np.ones(1)))
    wanted = chain.spectrum(lag=1, n_modes=4).eigenvalues
    assert np.allclose(result.eigenvalues, wanted, atol=1e-9)
    assert np.allclose(result.residual**2, 1 - np.abs(wanted) ** 2, atol=1e-9)
    assert not result.is_spurious.any()
    assert "upper bound" in result.note


def test_residuals_flag_eigenvalues_that_overfitted_features_invent():
    """Independent noise: but for 1 every eigenvalue is 0, and 60 random features invent a disc full of them."""
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(4, 60)), rng.uniform(0, 6, 60)

    def features(x):
        values = x.numpy()
        return np.column_stack([np.ones(len(values)), np.cos(values @ W + b)])

    train, test = (
        estimate_moments(features, features, lagged_pairs(rng.normal(size=(n, 4))), n_blocks=1) for n in (160, 4000)
    )
    found = eigenpair_residuals(train, test)
    modulus, is_spurious = np.abs(found.eigenvalues.values), found.is_spurious.values
    assert found.on_held_out_pairs
    assert len(modulus) == 61  # flagged, not dropped
    assert not is_spurious[0]
    assert found.eigenvalues[0] == pytest.approx(1)
    assert (modulus[1:] > 0.3).sum() > 20
    assert is_spurious[1:][modulus[1:] > 0.3].all()
    assert not is_spurious[modulus < 0.05].any()
    blind = eigenpair_residuals(train)
    assert blind.is_spurious.sum() == 0  # the training pairs cannot tell


def test_growth_is_flagged_without_held_out_pairs():
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    result = eigenpair_residuals(estimate_moments(powers, powers, (x, 1.3 * x)))
    assert result.is_spurious.values.tolist() == [True, True, True, False]


def test_eigenvectors_that_are_no_function_are_flagged():
    def twice(x):
        return torch.cat([torch.ones_like(x), x, 2 * x], dim=1)

    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    result = eigenpair_residuals(estimate_moments(twice, twice, (x, 0.5 * x)))
    assert np.allclose(result.eigenvalues, [1, 0.5, 0], atol=1e-12)
    assert result.is_spurious.values.tolist() == [False, False, True]
    assert np.isnan(result.residual[2])


# --- subspaces ---------------------------------------------------------------------------------------------------


def test_principal_angles_are_known_for_rotated_planes():
    e = np.eye(4)
    a = e[:, :2]
    b = np.stack([e[:, 0], np.cos(0.3) * e[:, 1] + np.sin(0.3) * e[:, 2]], axis=1)
    result = compare_subspaces(a, b)
    assert np.allclose(result.angle, [0, np.degrees(0.3)], atol=1e-6)
    assert np.isclose(result.agreement, (1 + np.cos(0.3) ** 2) / 2)
    assert np.isclose(compare_subspaces(a, e[:, 2:]).agreement, 0)


def test_weights_make_functions_orthogonal():
    x, w = np.polynomial.legendre.leggauss(12)
    P2 = 1.5 * x**2 - 0.5
    assert compare_subspaces(x[:, None] ** 0, P2[:, None], w).agreement == pytest.approx(0, abs=1e-12)
    assert compare_subspaces(x[:, None] ** 0, P2[:, None]).agreement > 1e-3


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["real", "complex"]))
def test_agreement_is_symmetric_between_0_and_1_and_blind_to_the_basis(seed, kind):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 30, 3)) + (1j * rng.normal(size=(2, 30, 3)) if kind == "complex" else 0)
    A = rng.normal(size=(3, 3)) + 4 * np.eye(3)
    value = compare_subspaces(a, b).agreement
    assert 0 <= value <= 1
    assert np.isclose(value, compare_subspaces(b, a).agreement)
    assert np.isclose(value, compare_subspaces(a @ A, b).agreement)
    assert np.isclose(compare_subspaces(a, a @ A).agreement, 1)


def test_subspaces_must_be_given_at_the_same_points():
    with pytest.raises(ValueError, match="a and b must be given at the same points; got 4 and 5"):
        compare_subspaces(np.ones((4, 1)), np.ones((5, 1)))


@pytest.mark.slow
def test_seeds_agree_on_well_separated_modes():
    trajectories = MAP.simulate(n_trajectories=2, n_steps=4001, seed=0)
    functions = []
    for seed in range(3):
        estimator = kl.KoopmanLoRA(n_modes=3, hidden_dims=(32, 32), seed=seed, n_epochs=12).fit(trajectories)
        functions.append(estimator.singular_functions(REFERENCE.points))
    agreement = agreement_of_fits(functions).agreement.values
    assert (agreement > 0.9).all()
    assert np.allclose(np.diag(agreement), 1)
    assert np.allclose(agreement, agreement.T)
    exact = compare_subspaces(functions[0], REFERENCE.left(REFERENCE.points)[:, :3], REFERENCE.weights)
    assert exact.agreement > 0.9


def test_agreement_of_different_functions_is_low():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2000, 2))
    assert agreement_of_fits([a, b]).agreement[0, 1] < 0.05


# --- findings ----------------------------------------------------------------------------------------------------


def findings_of(M_f, svals=None, batch_size=None):
    M = np.asarray(M_f, dtype=float)[None]
    return {f.name: f.message for f in training_findings(Moments({"M_f": M, "M_g": M}, np.ones(1)), svals, batch_size)}


def test_nothing_to_say_about_orthonormal_features():
    assert findings_of(np.eye(5), np.array([1, 0.8, 0.5, 0.3, 0.05]), 256) == {}


def test_low_rank_is_found():
    shared = 0.95 * np.ones((5, 5)) + 0.05 * np.eye(5)
    found = findings_of(shared)
    assert set(found) == {"low rank"}
    assert "5 modes span only 1.1 dimensions" in found["low rank"]
    assert "reg_weight=0.1" in found["low rank"]


def test_duplicate_modes_are_named():
    M = np.eye(5)
    M[1, 3] = M[3, 1] = 0.995
    found = findings_of(M)
    assert set(found) == {"duplicate modes"}
    assert "modes 2 and 4 are the same function" in found["duplicate modes"]


def test_duplicates_are_named_by_their_own_number_behind_modes_that_do_not_matter():
    M = np.eye(5)
    M[2, 4] = M[4, 2] = 0.995
    found = findings_of(M, np.array([1, 0.05, 0.8, 0.7, 0.6]))
    assert "modes 3 and 5 are the same function" in found["duplicate modes"]
    assert "duplicate modes" not in findings_of(M, np.array([1, 0.8, 0.05, 0.7, 0.06]))


def test_saturated_svals_are_named_but_not_the_constant():
    found = findings_of(np.eye(4), np.array([1.0, 0.99999, 0.5, 1e-4]))
    assert set(found) == {"saturated svals"}
    assert "svals of modes 2, 4 are saturated" in found["saturated svals"]


def test_a_small_batch_is_found():
    found = findings_of(np.eye(8), batch_size=12)
    assert set(found) == {"small batch"}
    assert "batch_size=12 is small for 8 modes; use at least 32" in found["small batch"]
    assert findings_of(np.eye(8), batch_size=32) == {}


# --- scores and shares -------------------------------------------------------------------------------------------


def test_held_out_scores_are_vamp_scores_with_their_conventions():
    train, test = (moments_of(*exact_features(n, s)) for n, s in ((1000, 0), (500, 1)))
    scores = held_out_scores(train, test)
    wanted = vamp_scores(train, test)
    assert [float(scores[n]) for n in ("vamp_1", "vamp_2", "vamp_e")] == list(wanted)
    assert scores.counts_constant_mode
    assert (scores.n_pairs_train, scores.n_pairs_held_out) == (1000, 500)


@given(seed=st.integers(0, 1000))
def test_the_captured_share_is_one_at_the_truth_in_any_basis_and_less_elsewhere(seed):
    rng = np.random.default_rng(seed)
    phi, psi = REFERENCE.left(REFERENCE.points), REFERENCE.right(REFERENCE.points)
    A, B = (rng.normal(size=(3, 3)) + 4 * np.eye(3) for _ in "fg")
    assert captured_share(phi[:, :3] @ A, psi[:, :3] @ B, REFERENCE) == pytest.approx(1)
    mixed = phi @ rng.normal(size=(7, 3))
    assert captured_share(mixed, psi[:, :3], REFERENCE) < 1


def test_the_captured_share_of_wrong_modes_is_known():
    phi, psi = REFERENCE.left(REFERENCE.points), REFERENCE.right(REFERENCE.points)
    total = np.sum(SIGMA[:2] ** 2)
    assert captured_share(phi[:, [0, 3]], psi[:, [0, 3]], REFERENCE) == pytest.approx((1 + SIGMA[3] ** 2) / total)
    assert captured_share(phi[:, [0, 1]], psi[:, [0, 2]], REFERENCE) == pytest.approx(1 / total)
    assert captured_share(phi[:, :2], psi[:, :2], REFERENCE, n_modes=4) == pytest.approx(total / np.sum(SIGMA[:4] ** 2))


def test_the_captured_share_needs_functions_at_the_points():
    n = len(REFERENCE.points)
    with pytest.raises(ValueError, match=f"must be given at the {n} reference.points; got 10 and {n} rows"):
        captured_share(np.ones((10, 1)), np.ones((n, 1)), REFERENCE)
