import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.loss_terms import LoRATerms, best_svals, lora_terms
from koopman_lora.losses import NestedLoRALoss, lora_loss, nesting_weights, orthonormality_penalty, truncation_weights
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.training_loop import TrainingLoop
from koopman_lora.training_options import TrainingOptions

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
@pytest.mark.parametrize("joint_share", [0.2, 0.99])
def test_joint_share_is_of_the_pairs_own_law(dtype, nesting, joint_share):
    """All batches of 3 out of 4 pairs again: an exact expectation, to be that of pairs and of independent x and x'."""
    f, g = draw(8, 4, 3, dtype)
    batches = [list(rows) for rows in itertools.product(range(4), repeat=3)]
    own = NestedLoRALoss(3, nesting, joint_share=joint_share)
    mean = torch.stack([own(f[rows], g[rows]) for rows in batches]).mean()
    weights = torch.full((3,), 1 / 3, dtype=torch.float64) if nesting == "jnt" else torch.tensor([0.0, 0, 1]).double()
    linear = ((f.conj() * g).real.mean(0) * weights.flip(0).cumsum(0).flip(0)).sum()
    kernel = (f.conj()[:, None] * g).cumsum(2).abs() ** 2 @ weights  # (pair of x, pair of x')
    quadratic = (1 - joint_share) * kernel.mean() + joint_share * kernel.diagonal().mean()
    assert torch.isclose(mean, quadratic - 2 * linear, rtol=1e-12)
    assert abs(kernel.mean() - kernel.diagonal().mean()) > 0.03  # so that the share counts


@pytest.mark.parametrize("joint_share", [0.0, 0.1, 0.9])
def test_the_minimum_with_a_joint_share_is_the_relative_density_ratio(joint_share):
    P = torch.tensor([[0.28, 0.02, 0.0], [0.02, 0.4, 0.03], [0.0, 0.03, 0.22]], dtype=torch.float64)
    independent = P.sum(1)[:, None] * P.sum(0)
    ratio = P / ((1 - joint_share) * independent + joint_share * P)
    u, s, vh = torch.linalg.svd(ratio)
    tables = [(u * s.sqrt()).requires_grad_(), (vh.T * s.sqrt()).requires_grad_()]
    x, x_next = (index.reshape(-1) for index in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))

    def loss(f: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        # all pairs of states with their probabilities: means are expectations
        return lora_loss(f[x], g[x_next], None, None, None, False, P.reshape(-1), joint_share)

    least = loss(*tables)
    assert torch.isclose(least, -(P * ratio).sum(), rtol=1e-12)
    assert all(gradient.abs().max() < 1e-12 for gradient in torch.autograd.grad(least, tables))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan"), "half"])
def test_joint_share_is_refused_beyond_0_to_1(share):
    f, g = draw(2, 4, 3, torch.float64)
    for call in (lambda: NestedLoRALoss(3, joint_share=share), lambda: lora_loss(f, g, joint_share=share)):
        with pytest.raises(ValueError, match="joint_share must be"):
            call()


def test_features_to_be_refined_are_trained_with_a_joint_share():
    for refine, share in ((True, 1 / 64), (False, 0.0)):
        estimator = KoopmanLoRA(3, refine=refine)
        assert estimator._make_loss(estimator._make_options(resume=False)).joint_share == share
        model, split = KoopmanLoRAModel(1, 3), split_pairs(lagged_pairs(np.arange(50.0) % 7), 0.1)
        assert TrainingLoop(model, split, None, TrainingOptions(will_refine=refine)).loss.joint_share == share


@pytest.mark.slow
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
    with pytest.raises(ValueError, match=r"weights must"):
        NestedLoRALoss(3, weights=weights)
    with pytest.raises(ValueError, match=r"weights must"):
        lora_loss(*draw(0, 4, 3), weights=weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, g: lora_loss(f, g[:3]), r"f and g must have one and the same shape .* got \(4, 2\) and \(3, 2\)"),
        (lambda f, g: lora_loss(f[:, 0], g[:, 0]), r"f and g must have one and the same shape"),
        (lambda f, g: lora_loss(f[:1], g[:1]), "at least 2 pairs; got 1"),
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


# ---- terms, and the best singular values -----------------------------------------------------------------------------


def second_moments(f, g):
    n = f.shape[-2]
    return f.mH @ f / n, f.mH @ g / n, g.mH @ g / n


def as_arrays(terms):
    return LoRATerms(*(np.asarray(term) for term in terms))


@every_dtype
@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_terms_are_the_loss_of_scaled_features(dtype, kind):
    f, g = draw(15, 12, 4, dtype)
    moments = second_moments(f, g)
    terms = lora_terms(*(moments if kind == "tensors" else (M.numpy() for M in moments)))
    svals = torch.tensor([1.0, 0.8, 0.3, 0.1], dtype=torch.float64)
    own = svals if kind == "tensors" else svals.numpy()
    assert isinstance(terms.loss(own), torch.Tensor if kind == "tensors" else np.floating)
    for size in range(1, 5):
        root = svals[:size].sqrt()
        wanted = lora_loss(f[:, :size] * root, g[:, :size] * root, nesting=None, unbiased=False)
        assert np.isclose(float(terms.curve(own)[size - 1]), wanted.item(), rtol=1e-12)
    assert np.isclose(float(terms.curve(own)[-1]), float(terms.loss(own)), rtol=1e-12)
    assert np.isclose(float(terms.loss()), lora_loss(f, g, nesting=None, unbiased=False).item(), rtol=1e-12)


@every_dtype
@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5]])
def test_weighted_terms_are_the_joint_nested_loss(dtype, weights):
    f, g = draw(16, 12, 4, dtype)
    svals = torch.tensor([1.0, 0.8, 0.3, 0.1], dtype=torch.float64)
    terms = lora_terms(*second_moments(f, g)).weighted(truncation_weights(nesting_weights(4, weights)))
    wanted = lora_loss(f, g, svals, "jnt", weights, unbiased=False)
    assert torch.isclose(terms.loss(svals), wanted, rtol=1e-12)


@every_dtype
@pytest.mark.parametrize("kind", ["tensors", "arrays"])
def test_terms_take_leading_axes(dtype, kind):
    f, g = (torch.stack(side) for side in zip(*(draw(seed, 9, 3, dtype) for seed in range(5)), strict=True))
    stacked = second_moments(f, g)
    svals = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    if kind == "arrays":
        stacked, svals = [M.numpy() for M in stacked], svals.numpy()
    terms = lora_terms(*stacked)
    assert terms.linear.shape == (5, 3)
    assert terms.quadratic.shape == (5, 3, 3)
    assert terms.loss(svals).shape == terms.loss().shape == (5,)
    assert terms.curve(svals).shape == (5, 3)
    each = [lora_terms(*(M[i] for M in stacked)) for i in range(5)]
    assert np.allclose(terms.loss(svals), [float(one.loss(svals)) for one in each], rtol=1e-12)
    assert np.allclose(terms.curve(svals), np.stack([np.asarray(one.curve(svals)) for one in each]), rtol=1e-12)
    # singular values of their own along the leading axis
    many = svals * (torch.ones(5, 1).double() if kind == "tensors" else np.ones((5, 1)))
    assert np.allclose(terms.loss(many), terms.loss(svals), rtol=1e-12)


def test_complex_terms_need_the_transpose():
    f, g = draw(2, 10, 3, torch.complex128)[0], draw(3, 10, 3, torch.complex128)[1]
    M_f, T, M_g = second_moments(f, g)
    right, wrong = torch.trace(M_f @ M_g).real, (M_f * M_g).sum().real
    assert abs(right - wrong) > 0.1
    assert torch.isclose(lora_terms(M_f, T, M_g).quadratic.sum(), right, rtol=1e-13)


def test_best_svals_of_orthonormal_features_are_their_correlations():
    eye, T = torch.eye(3).double(), torch.diag(torch.tensor([1.0, 0.7, -0.2])).double()
    terms = lora_terms(eye, T, eye)
    assert np.allclose(best_svals(terms, is_bounded=True, has_constant=True), [1, 0.7, 0])
    assert np.allclose(best_svals(terms, is_bounded=True), [1, 0.7, 0])
    assert np.allclose(best_svals(terms), [1, 0.7, -0.2])


@every_dtype
@pytest.mark.parametrize("has_constant", [False, True])
def test_free_svals_are_the_minimum_of_the_loss(dtype, has_constant):
    f, g = draw(17, 50, 3, dtype)
    terms = lora_terms(*second_moments(f, g))
    found = best_svals(terms, has_constant=has_constant)
    if has_constant:
        assert found[0] == 1
    for row in range(int(has_constant), 3):
        for step in (1e-3, -1e-3):
            assert terms.loss(found + step * torch.eye(3)[row]) > terms.loss(found)


def test_svals_of_a_mode_held_twice_do_not_matter_but_their_sum():
    f, g = draw(18, 50, 2)
    once, twice = (lora_terms(*second_moments(f[:, cols], g[:, cols])) for cols in ([0, 1], [0, 1, 1]))
    for is_bounded in (False, True):
        single, double = best_svals(once, is_bounded), best_svals(twice, is_bounded)
        assert torch.isclose(once.loss(single), twice.loss(double), rtol=1e-9)
        assert torch.isclose(double[1:].sum(), single[1], rtol=1e-6)


def test_bounded_svals_are_not_the_clipped_free_ones():
    terms = LoRATerms(torch.tensor([1.5, 1.0]).double(), torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double())
    free, bounded = best_svals(terms), best_svals(terms, is_bounded=True)
    assert free[0] > 1
    assert free[1] < 0
    # on the edge s_1 = 1 the other is at 1.0 - 0.9, where clipping says 0
    assert np.allclose(bounded, [1, 0.1], atol=1e-12)
    assert terms.loss(bounded) < terms.loss(free.clamp(0, 1)) - 1e-3


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 5),
    n=st.integers(2, 12),  # fewer pairs than modes: the problem is then only semi-definite
    size=st.floats(0.2, 3.0),
    dtype=st.sampled_from(DTYPES),
    has_constant=st.booleans(),
)
def test_bounded_svals_are_the_best_within_bounds(seed, k, n, size, dtype, has_constant):
    f, g = draw(seed, n, k, dtype)
    terms = lora_terms(*second_moments(f, size * g))
    found = best_svals(terms, True, has_constant)
    assert ((found >= 0) & (found <= 1)).all()
    assert not has_constant or found[0] == 1
    arrays = as_arrays(terms)
    fixed = [(1.0, 1.0)] * has_constant + [(0.0, 1.0)] * (k - has_constant)
    other = minimize(
        arrays.loss,
        np.full(k, 0.5),
        jac=lambda s: 2 * (arrays.quadratic @ s - arrays.linear),
        bounds=fixed,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-12},
    )
    scale = 1e-9 * max(1.0, np.abs(arrays.quadratic).max())
    value = arrays.loss(found.numpy())
    assert abs(value - other.fun) <= 100 * scale
    # no point of a grid is better, nor is the clipped free solution
    grid = np.stack(np.meshgrid(*[np.linspace(low, high, 6) for low, high in fixed], indexing="ij"), -1).reshape(-1, k)
    clipped = best_svals(terms, False, has_constant).clamp(0, 1).numpy()
    for point in (*grid, clipped):
        assert value <= arrays.loss(point) + scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_best_svals_keep_the_precision_of_the_terms(dtype):
    terms = LoRATerms(torch.tensor([1.4, -0.2], dtype=dtype), torch.eye(2, dtype=dtype))
    for is_bounded in (False, True):
        assert best_svals(terms, is_bounded).dtype == dtype
