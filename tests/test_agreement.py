import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import koopman_lora as kl
from koopman_lora.agreement import agreement_of_fits, captured_share, compare_subspaces
from koopman_lora.systems import NoisyLogisticMap

MAP = NoisyLogisticMap(order=6)  # rank 7, exactly
REFERENCE = MAP.spectrum(lag=1, n_modes=7)
SIGMA = REFERENCE.singular_values


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


@pytest.mark.parametrize("kind", ["real", "complex", "single precision", "weighted"])
@pytest.mark.parametrize("seed", range(5))
def test_columns_that_depend_on_each_other_span_the_same(seed, kind):
    """QR filled the third direction with round-off: agreement .69 here and there."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(size=(40, 2)) + (1j * rng.normal(size=(40, 2)) if kind == "complex" else 0)
    weights = rng.uniform(0.1, 3, 40) if kind == "weighted" else None
    a, b = (plane @ rng.normal(size=(2, n)) for n in (3, 4))
    b = b * [1e-9, 1, 1e12, 1]  # units
    if kind == "single precision":
        a, b = a.astype(np.float32), b.astype(np.float32)
    found = compare_subspaces(a, b, weights)
    assert (found.rank_a, found.rank_b) == (2, 2)
    assert found.agreement == pytest.approx(1, abs=1e-5)
    assert found.sizes["direction"] == 2
    across = compare_subspaces(a, np.hstack([a, rng.normal(size=(40, 1)).astype(a.dtype)]), weights)
    assert across.rank_b == 3
    assert across.agreement == pytest.approx(1, abs=1e-5)  # one lies within the other


def test_ill_conditioned_bases_of_one_span_agree():
    x = np.linspace(-1, 1, 200)
    powers, legendre = np.vander(x, 16), np.polynomial.legendre.legvander(x, 15)
    found = compare_subspaces(powers, legendre)
    assert (found.rank_a, found.rank_b) == (16, 16)
    assert found.agreement == pytest.approx(1, abs=1e-9)


def test_functions_and_weights_that_make_no_span_are_refused():
    x = np.ones((4, 2))
    with pytest.raises(ValueError, match="b must be finite; 4 of 8 entries are not"):
        compare_subspaces(x, np.where([False, True], np.nan, x))
    with pytest.raises(ValueError, match="a must span something"):
        compare_subspaces(0 * x, x)
    with pytest.raises(ValueError, match=r"a must have shape \(n_points, n_functions\).*got \(4,\)"):
        compare_subspaces(x[:, 0], x)
    for weights in (np.ones(3), -np.ones(4), np.full(4, np.nan)):
        with pytest.raises(ValueError, match="weights must be 4 finite numbers of at least 0"):
            compare_subspaces(x, x, weights)


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


# --- the truth -----------------------------------------------------------------------------------------------------


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


def test_the_captured_share_of_dependent_features_is_that_of_their_span():
    phi, psi = REFERENCE.left(REFERENCE.points), REFERENCE.right(REFERENCE.points)
    doubled = np.hstack([phi[:, :3], phi[:, :3] @ np.ones((3, 1))])
    share = captured_share(doubled, psi[:, :3], REFERENCE, n_modes=3)
    assert share == pytest.approx(captured_share(phi[:, :3], psi[:, :3], REFERENCE, n_modes=3))
