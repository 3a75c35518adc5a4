import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.baselines import DPNetLoss, VAMPLoss, dpnet_loss, vamp_loss
from koopman_lora.losses import NestedLoRALoss, lora_loss, nesting_weights, orthonormality_penalty

DTYPES = [torch.float64, torch.complex128]
every_nesting = pytest.mark.parametrize("nesting", ["jnt", "seq", None])
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])


def draw(seed, n, k, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    f, noise = (torch.randn(n, k, generator=generator, dtype=dtype) for _ in "ab")
    return f, 0.6 * f + 0.5 * noise + 0.3


def explicit_loss(f, g, weights=None):
    """-2 Re tr T + tr(M_f M_g), by matrix products, summed over weighted truncations."""
    k = f.shape[1]
    weights = [0.0] * (k - 1) + [1.0] if weights is None else weights
    total = 0.0
    for size, weight in enumerate(weights, start=1):
        a, b = f[:, :size], g[:, :size]
        M_f, M_g, T = a.mH @ a / len(a), b.mH @ b / len(a), a.mH @ b / len(a)
        total = total + weight * (-2 * torch.trace(T).real + torch.trace(M_f @ M_g).real)
    return total


def sequential_objective(f, g):
    """Each mode's own loss with all earlier modes held fixed: the last column is the only one with a gradient."""
    total = 0.0
    for size in range(1, f.shape[1] + 1):
        a = torch.cat([f[:, : size - 1].detach(), f[:, size - 1 : size]], dim=1)
        b = torch.cat([g[:, : size - 1].detach(), g[:, size - 1 : size]], dim=1)
        total = total + explicit_loss(a, b)
    return total


# ---- at the exact singular functions ---------------------------------------------------------------------------------


@every_nesting
def test_exact_singular_functions_give_minus_sum_of_squares_and_no_gradient(exact_pairs, nesting):
    reference, k = exact_pairs.reference, 4
    basis_f = torch.from_numpy(exact_pairs.rows(reference.left))
    basis_g = torch.from_numpy(exact_pairs.rows(reference.right, at="x_next"))
    sigma = torch.from_numpy(reference.singular_values[:k])
    # the functions may move anywhere in the span of more functions than there are modes
    A_f, A_g = (torch.eye(basis_f.shape[1], k, dtype=torch.float64, requires_grad=True) for _ in "fg")
    svals = sigma.clone().requires_grad_()
    loss = lora_loss(basis_f @ A_f, basis_g @ A_g, svals, nesting=nesting, unbiased=False)
    weights = [1 / k] * k if nesting == "jnt" else [0] * (k - 1) + [1]
    expected = -sum(w * (sigma[:size] ** 2).sum() for size, w in enumerate(weights, start=1))
    assert abs(loss - expected) < 1e-10
    for gradient in torch.autograd.grad(loss, (A_f, A_g, svals)):
        assert gradient.abs().max() < 1e-10


@every_nesting
def test_gradient_does_not_vanish_elsewhere(exact_pairs, nesting):
    reference, k = exact_pairs.reference, 3
    f = torch.from_numpy(exact_pairs.rows(reference.left)[:, :k]).requires_grad_()
    g = torch.from_numpy(exact_pairs.rows(reference.right, at="x_next")[:, :k])
    (gradient,) = torch.autograd.grad(lora_loss(f, g, nesting=nesting, unbiased=False), f)
    assert gradient.abs().max() > 1e-6  # without sqrt(sigma) the scale is wrong


def test_only_nesting_identifies_modes(exact_pairs):
    """A rotation within the span leaves the un-nested value and raises the joint one."""
    reference, k = exact_pairs.reference, 3
    root = np.sqrt(reference.singular_values[:k])
    f = torch.from_numpy(exact_pairs.rows(reference.left)[:, :k] * root)
    g = torch.from_numpy(exact_pairs.rows(reference.right, at="x_next")[:, :k] * root)
    rotation = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(k, k)))[0])
    plain = [lora_loss(a, b, nesting=None, unbiased=False) for a, b in ((f, g), (f @ rotation, g @ rotation))]
    joint = [lora_loss(a, b, nesting="jnt", unbiased=False) for a, b in ((f, g), (f @ rotation, g @ rotation))]
    assert abs(plain[0] - plain[1]) < 1e-10
    assert joint[1] > joint[0] + 1e-3


# ---- values ----------------------------------------------------------------------------------------------------------


@given(
    weights=st.lists(st.floats(0, 1), min_size=0, max_size=5),
    last=st.floats(0.01, 1),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from(DTYPES),
)
def test_joint_loss_is_the_weighted_sum_of_truncations(weights, last, seed, dtype):
    weights = [*weights, last]
    f, g = draw(seed, 9, len(weights), dtype)
    expected = explicit_loss(f, g, [w / sum(weights) for w in weights])
    loss = lora_loss(f, g, nesting="jnt", weights=weights, unbiased=False)
    assert torch.isclose(loss, expected, rtol=1e-12, atol=1e-12)
    assert torch.isclose(NestedLoRALoss(len(weights), weights=weights, unbiased=False)(f, g), loss, rtol=1e-14)


@every_dtype
@every_nesting
@pytest.mark.parametrize("with_svals", [False, True])
def test_value_is_the_trace_formula(dtype, nesting, with_svals):
    f, g = draw(1, 12, 4, dtype)
    svals = torch.tensor([1.0, 0.8, 0.3, 0.1], dtype=torch.float64) if with_svals else None
    root = 1.0 if svals is None else svals.sqrt()
    expected = explicit_loss(f * root, g * root, [0.25] * 4 if nesting == "jnt" else None)
    assert torch.isclose(lora_loss(f, g, svals, nesting, unbiased=False), expected, rtol=1e-13)


def test_complex_trace_needs_the_transpose():
    f, _ = draw(2, 10, 3, torch.complex128)
    _, g = draw(3, 10, 3, torch.complex128)
    M_f, M_g, T = f.mH @ f / 10, g.mH @ g / 10, f.mH @ g / 10
    right = (-2 * torch.trace(T) + torch.trace(M_f @ M_g)).real
    wrong = (-2 * torch.trace(T) + (M_f * M_g).sum()).real
    assert abs(right - wrong) > 0.1
    assert torch.isclose(lora_loss(f, g, nesting=None, unbiased=False), right, rtol=1e-13)


@every_dtype
@pytest.mark.parametrize("unbiased", [True, False])
def test_sequential_gradient_is_that_of_the_sequential_objective(dtype, unbiased):
    f, g = (t.requires_grad_() for t in draw(3, 8, 4, dtype))
    loss = lora_loss(f, g, nesting="seq", unbiased=unbiased)
    gradients = torch.autograd.grad(loss, (f, g))
    expected = torch.autograd.grad(_sequential_reference(f, g, unbiased), (f, g))
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, wanted, rtol=1e-12, atol=1e-13)
    plain = lora_loss(f, g, nesting=None, unbiased=unbiased)
    assert torch.isclose(loss, plain, rtol=1e-13)
    assert not torch.allclose(torch.autograd.grad(plain, f)[0], gradients[0])


def _sequential_reference(f, g, unbiased):
    if not unbiased:
        return sequential_objective(f, g)
    # the unbiased value leaves out the terms in which M_f and M_g see one and the same pair
    n, total = len(f), 0.0
    for size in range(1, f.shape[1] + 1):
        a = torch.cat([f[:, : size - 1].detach(), f[:, size - 1 : size]], dim=1)
        b = torch.cat([g[:, : size - 1].detach(), g[:, size - 1 : size]], dim=1)
        products = (a.conj() @ b.T).abs() ** 2  # M_f from pair n, M_g from pair m
        off = products.sum() - products.diagonal().sum()
        total = total - 2 * (a.conj() * b).real.sum(1).mean() + off / (n * (n - 1))
    return total


# ---- unbiased --------------------------------------------------------------------------------------------------------


@every_dtype
@every_nesting
@pytest.mark.parametrize("with_svals", [False, True])
def test_mean_over_every_possible_batch_is_the_full_value_and_gradient(dtype, nesting, with_svals):
    """All 4^3 batches of 3 out of 4 pairs: an exact expectation, not a sample of it."""
    f, g = (t.requires_grad_() for t in draw(4, 4, 3, dtype))
    svals = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64) if with_svals else None
    batches = [list(rows) for rows in itertools.product(range(4), repeat=3)]
    mean = torch.stack([lora_loss(f[rows], g[rows], svals, nesting) for rows in batches]).mean()
    full = lora_loss(f, g, svals, nesting, unbiased=False)
    assert torch.isclose(mean, full, rtol=1e-12)
    for got, wanted in zip(torch.autograd.grad(mean, (f, g)), torch.autograd.grad(full, (f, g)), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-11, atol=1e-13)


@every_dtype
@every_nesting
@pytest.mark.parametrize("with_svals", [False, True])
def test_biased_option_has_the_predicted_error(dtype, nesting, with_svals):
    f, g = draw(5, 4, 3, dtype)
    svals = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64) if with_svals else None
    size = 3
    batches = [list(rows) for rows in itertools.product(range(4), repeat=size)]
    mean = torch.stack([lora_loss(f[rows], g[rows], svals, nesting, unbiased=False) for rows in batches]).mean()
    root = 1.0 if svals is None else svals.sqrt()
    h = (f * root).conj() * (g * root)
    linear = h.real.mean(0)
    weights = torch.full((3,), 1 / 3, dtype=torch.float64) if nesting == "jnt" else torch.tensor([0.0, 0, 1]).double()
    multiplicity = weights.flip(0).cumsum(0).flip(0)
    second = lora_loss(f, g, svals, nesting, unbiased=False) + 2 * (linear * multiplicity).sum()
    same_pair = (h.cumsum(1).abs() ** 2 * weights).sum(1).mean()
    predicted = -2 * (linear * multiplicity).sum() + (size - 1) / size * second + same_pair / size
    assert torch.isclose(mean, predicted, rtol=1e-12)
    assert abs(same_pair - second) > 1e-2  # so that there is an error to predict


@every_dtype
@every_nesting
def test_mean_over_many_small_batches_is_within_its_standard_error(dtype, nesting):
    f, g = draw(6, 5000, 5, dtype)
    generator = torch.Generator().manual_seed(7)
    rows = torch.randint(5000, (1500, 16), generator=generator)
    values = {u: torch.stack([lora_loss(f[r], g[r], None, nesting, unbiased=u) for r in rows]) for u in (True, False)}
    full = lora_loss(f, g, None, nesting, unbiased=False)
    error = values[True].std() / len(rows) ** 0.5
    assert abs(values[True].mean() - full) < 3 * error
    assert abs(values[False].mean() - full) > 5 * error


# ---- arguments -------------------------------------------------------------------------------------------------------


def test_weights_are_normalised_in_double_precision():
    assert abs(nesting_weights(3).double().sum() - 1) < 1e-15
    assert np.allclose(nesting_weights(3, [2, 1, 1]).double(), [0.5, 0.25, 0.25], rtol=1e-15)


@pytest.mark.parametrize("nesting", ["joint", "JNT", "", 0, False])
def test_unknown_nesting_lists_the_three(nesting):
    f, g = draw(0, 4, 2)
    with pytest.raises(ValueError, match="nesting must be one of 'jnt', 'seq', None; got"):
        lora_loss(f, g, nesting=nesting)
    with pytest.raises(ValueError, match="nesting must be one of 'jnt', 'seq', None; got"):
        NestedLoRALoss(2, nesting=nesting)


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 0], [1, -1, 1], [1, float("nan"), 1], [1, 1, float("inf")]])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match=r"weights must hold n_modes=3 finite numbers"):
        NestedLoRALoss(3, weights=weights)
    with pytest.raises(ValueError, match=r"weights must hold n_modes=3 finite numbers"):
        lora_loss(*draw(0, 4, 3), weights=weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, g: lora_loss(f, g[:3]), r"f and g must have one and the same shape .* got \(4, 2\) and \(3, 2\)"),
        (lambda f, g: lora_loss(f[:, 0], g[:, 0]), r"f and g must have one and the same shape"),
        (lambda f, g: lora_loss(f[:1], g[:1]), "at least 2 pairs; got 1"),
        (lambda f, g: vamp_loss(f[:1], g[:1]), "at least 2 pairs; got 1"),
        (lambda f, g: dpnet_loss(f, g[:, :1]), "f and g must have one and the same shape"),
        (lambda f, g: orthonormality_penalty(f, g[:2]), "f and g must have one and the same shape"),
        (lambda f, g: lora_loss(f, g, torch.ones(3)), r"svals must have shape \(2,\), one per mode; got \(3,\)"),
        (
            lambda f, g: lora_loss(f, g, nesting="seq", weights=[1, 1]),
            "weights belong to nesting='jnt'; got nesting='seq'",
        ),
        (
            lambda f, g: NestedLoRALoss(2, nesting=None, weights=[1, 1]),
            "weights belong to nesting='jnt'; got nesting=None",
        ),
        (lambda f, g: NestedLoRALoss(0), "n_modes must be at least 1; got 0"),
        (lambda f, g: NestedLoRALoss(2, reg_weight=-1), "reg_weight must not be negative; got -1"),
        (lambda f, g: NestedLoRALoss(2, reg_weight=float("nan")), "reg_weight must not be negative; got nan"),
        (lambda f, g: NestedLoRALoss(3)(f, g), r"f must have shape \(batch, n_modes=3\); got \(4, 2\)"),
        (lambda f, g: vamp_loss(f, g, score="3"), "score must be one of '1', '2', 'E'; got '3'"),
        (lambda f, g: VAMPLoss(score=2), "score must be one of '1', '2', 'E'; got 2"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(*draw(0, 4, 2))


# ---- regulariser -----------------------------------------------------------------------------------------------------


@every_dtype
def test_penalty_is_the_distance_from_orthonormality(dtype):
    f, g = draw(8, 20, 3, dtype)
    expected = sum(np.linalg.norm(a.mH @ a / 20 - torch.eye(3)) ** 2 for a in (f, g))
    assert np.isclose(orthonormality_penalty(f, g).item(), expected, rtol=1e-12)
    Q = torch.linalg.qr(f)[0] * 20**0.5
    assert orthonormality_penalty(Q, Q) < 1e-24


def test_penalty_does_not_see_the_means_beside_the_constant_mode():
    f, _ = draw(9, 50, 2)
    Q = torch.linalg.qr(f)[0] * 50**0.5
    with_constant = torch.cat([torch.ones(50, 1).double(), Q], dim=1)
    assert orthonormality_penalty(with_constant, with_constant, has_constant=True) < 1e-24
    assert orthonormality_penalty(with_constant, with_constant) > 1e-3


def test_penalty_is_added_on_unscaled_features():
    f, g = draw(10, 30, 3)
    svals = torch.tensor([0.5, 0.3, 0.1]).double()
    difference = NestedLoRALoss(3, reg_weight=0.7)(f, g, svals) - NestedLoRALoss(3)(f, g, svals)
    assert torch.isclose(difference, 0.7 * orthonormality_penalty(f, g), rtol=1e-12)


# ---- baselines -------------------------------------------------------------------------------------------------------


def known_pair(dtype, sigma=(1.0, 0.7, 0.2), n=40):
    """f and g with empirical M_f = M_g = I and T = diag(sigma), exactly."""
    k = len(sigma)
    Q = torch.linalg.qr(draw(11, n, 2 * k, dtype)[0])[0] * n**0.5
    s = torch.tensor(sigma, dtype=torch.float64)
    return Q[:, :k], Q[:, :k] * s + Q[:, k:] * (1 - s**2).sqrt(), s


@every_dtype
def test_vamp_of_whitened_features_is_known(dtype):
    f, g, sigma = known_pair(dtype)
    tiny = {"epsilon": 1e-13}
    assert torch.isclose(vamp_loss(f, g, "1", **tiny), -sigma.sum(), rtol=1e-10)
    assert torch.isclose(vamp_loss(f, g, "2", **tiny), -(sigma**2).sum(), rtol=1e-10)
    assert torch.isclose(vamp_loss(f, g, "E", **tiny), -(sigma**2).sum(), rtol=1e-10)


@every_dtype
def test_dpnet_of_whitened_features_is_known(dtype):
    f, g, sigma = known_pair(dtype)
    # orthonormal features have no metric distortion and unit operator norms, so strict and relaxed agree
    for relaxed in (True, False):
        assert torch.isclose(dpnet_loss(f, g, relaxed, epsilon=1e-13), -(sigma**2).sum(), rtol=1e-10)
    scaled = dpnet_loss(2 * f, g, relaxed=True, metric_weight=0.5)
    assert np.isclose(scaled.item(), -(sigma**2).sum().item() + 0.5 * 3 * (16 - 4 - np.log(4)), rtol=1e-10)


@given(seed=st.integers(0, 10_000), dtype=st.sampled_from(DTYPES), score=st.sampled_from(["1", "2", "E"]))
def test_vamp_is_invariant_under_invertible_maps(seed, dtype, score):
    f, g = draw(seed, 60, 3, dtype)
    A, B = (m + 3 * torch.eye(3) for m in draw(seed + 1, 3, 3, dtype))
    if max(torch.linalg.cond(A), torch.linalg.cond(B)) > 1e3:
        return
    before, after = vamp_loss(f, g, score, epsilon=1e-14), vamp_loss(f @ A, g @ B, score, epsilon=1e-14)
    assert torch.isclose(before, after, rtol=1e-6)


@given(seed=st.integers(0, 10_000), dtype=st.sampled_from(DTYPES))
def test_vamp_e_at_its_own_solution_is_vamp_2(seed, dtype):
    f, g = draw(seed, 40, 4, dtype)
    assert torch.isclose(vamp_loss(f, g, "E", 1e-10), vamp_loss(f, g, "2", 1e-10), rtol=1e-6)


@every_dtype
@pytest.mark.parametrize("loss", [VAMPLoss("1"), VAMPLoss("2"), VAMPLoss("E"), DPNetLoss(True), DPNetLoss(False)])
def test_baseline_gradients_agree_with_finite_differences(loss, dtype):
    f, g = draw(12, 15, 3, dtype)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b), (f.requires_grad_(), g.requires_grad_()))


@pytest.mark.parametrize("score", ["1", "2", "E"])
def test_svals_do_not_matter_to_vamp(score):
    f, g = draw(13, 50, 3)
    svals = torch.tensor([0.9, 0.5, 0.2]).double()
    loss = VAMPLoss(score, epsilon=1e-12)
    assert torch.isclose(loss(f, g, svals), loss(f, g), rtol=1e-8)


def test_svals_scale_the_features_of_dpnet():
    f, g = draw(14, 50, 3)
    svals = torch.tensor([0.9, 0.5, 0.2]).double()
    loss = DPNetLoss(metric_weight=0.3)
    assert torch.equal(loss(f, g, svals), dpnet_loss(f * svals.sqrt(), g * svals.sqrt(), metric_weight=0.3))
