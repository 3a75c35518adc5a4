"""Weighted losses: what integer weights equal, and what the unbiased value is."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.baselines import DPNetLoss, VAMPLoss
from koopman_lora.batch_means import batch_mean, gram, over_all_pairs
from koopman_lora.losses import NestedLoRALoss, lora_loss, nesting_weights, orthonormality_penalty
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.normalisation import normalise_batch

DTYPES = [torch.float64, torch.complex128]
NESTINGS = ["jnt", "seq", None]


def draw(seed, n=9, k=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    f, noise = (torch.randn(n, k, generator=generator, dtype=dtype) for _ in "ab")
    weights = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, size=n)).double()
    weights[:2] = torch.tensor([1.0, 3.0])
    return f, 0.6 * f + 0.5 * noise + 0.3, weights


def repeated(weights, *sides):
    return [side.repeat_interleave(weights.long(), dim=0) for side in sides]


@given(seed=st.integers(0, 10_000), nesting=st.sampled_from(NESTINGS), dtype=st.sampled_from(DTYPES))
def test_integer_weights_equal_repeated_pairs(seed, nesting, dtype):
    f, g, weights = draw(seed, dtype=dtype)
    losses = [
        NestedLoRALoss(3, nesting, unbiased=False),
        NestedLoRALoss(3, nesting, reg_weight=0.3, unbiased=False, has_constant=True),
        *(VAMPLoss(score) for score in "12E"),
        *(DPNetLoss(relaxed) for relaxed in (True, False)),
    ]
    svals = torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64)
    for loss in losses:
        value, expected = loss(f, g, svals, pair_weights=weights), loss(*repeated(weights, f, g), svals)
        assert torch.isclose(value, expected, rtol=1e-12, atol=1e-12), loss


@given(seed=st.integers(0, 10_000), nesting=st.sampled_from(NESTINGS), dtype=st.sampled_from(DTYPES))
def test_gradients_are_those_of_repeated_pairs(seed, nesting, dtype):
    f, g, weights = draw(seed, dtype=dtype)
    gradients = []
    for is_weighted in (True, False):
        a, b = f.clone().requires_grad_(), g.clone().requires_grad_()
        sides = (a, b) if is_weighted else repeated(weights, a, b)
        loss = lora_loss(*sides, nesting=nesting, unbiased=False, pair_weights=weights if is_weighted else None)
        gradients.append(torch.autograd.grad(loss, (a, b)))
    for found, expected in zip(*gradients, strict=True):
        assert torch.allclose(found, expected, rtol=1e-11, atol=1e-12)


def over_different_pairs(f, g, labels, weights, nesting):
    """The loss with its second term averaged over pairs n, m of different labels, by brute force."""
    k = f.shape[1]
    w = {"jnt": nesting_weights(k)}.get(nesting, torch.eye(k, dtype=torch.float64)[-1])
    h = f.conj() * g
    total = 0.0
    for size, share in enumerate(w, start=1):
        linear = (weights * h[:, :size].real.sum(1)).sum() / weights.sum()
        above = below = 0.0
        for n, m in itertools.permutations(range(len(f)), 2):
            if labels[n] != labels[m]:
                product = weights[n] * weights[m]
                # of conj(f_i(n)) f_j(n) and conj(g_j(m)) g_i(m)
                between = (f[n, :size].conj() * g[m, :size]).sum()
                above, below = above + product * between.abs() ** 2, below + product
        total = total + share * (above / below - 2 * linear)
    return total


@given(seed=st.integers(0, 10_000), nesting=st.sampled_from(NESTINGS), dtype=st.sampled_from(DTYPES))
def test_the_unbiased_value_is_over_different_pairs(seed, nesting, dtype):
    f, g, _ = draw(seed, 6, dtype=dtype)
    weights = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 3, size=6))
    expected = over_different_pairs(f, g, range(6), weights, nesting)
    assert torch.isclose(lora_loss(f, g, nesting=nesting, pair_weights=weights), expected, rtol=1e-11)


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])
def test_the_unbiased_value_takes_copies_for_one_pair(nesting, dtype):
    """Of repeated pairs it is the average over pairs of different origin: a copy is no second, independent pair."""
    f, g, _ = draw(3, 5, dtype=dtype)
    weights = torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0], dtype=torch.float64)
    labels = torch.arange(5).repeat_interleave(weights.long()).tolist()
    a, b = repeated(weights, f, g)
    expected = over_different_pairs(a, b, labels, torch.ones(len(a), dtype=torch.float64), nesting)
    value = lora_loss(f, g, nesting=nesting, pair_weights=weights)
    assert torch.isclose(value, expected, rtol=1e-11)
    assert not torch.isclose(value, lora_loss(a, b, nesting=nesting), rtol=1e-3)


@pytest.mark.slow
def test_the_unbiased_value_has_the_right_mean():
    """Over batches whose weights say nothing of the pairs; the plain value is too high by far."""
    rng = np.random.default_rng(0)
    f_of = g_of = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
    exact = lora_loss(f_of, g_of, nesting=None, unbiased=False)
    values = {True: [], False: []}
    for _ in range(2000):
        x, weights = rng.integers(0, 4, size=16), torch.from_numpy(rng.exponential(size=16) ** 2)
        for unbiased, found in values.items():
            found.append(float(lora_loss(f_of[x], g_of[x], None, None, None, unbiased, weights)))
    means = {unbiased: np.mean(found) - float(exact) for unbiased, found in values.items()}
    error = np.std(values[True]) / np.sqrt(2000)
    assert abs(means[True]) < 4 * error
    assert abs(means[False]) > 8 * error


@given(seed=st.integers(0, 10_000), factor=st.sampled_from([1e-6, 3.0, 1e6]), unbiased=st.booleans())
def test_only_relative_weights_matter(seed, factor, unbiased):
    f, g, weights = draw(seed)
    values = [lora_loss(f, g, unbiased=unbiased, pair_weights=w) for w in (weights, factor * weights)]
    assert torch.isclose(*values, rtol=1e-11)


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])
def test_weights_of_one_are_none(nesting, unbiased, dtype):
    f, g, _ = draw(5, dtype=dtype)
    ones = torch.ones(len(f), dtype=torch.float64)
    plain, weighted = (lora_loss(f, g, None, nesting, None, unbiased, w) for w in (None, ones))
    assert torch.isclose(plain, weighted, rtol=1e-13)
    assert torch.isclose(orthonormality_penalty(f, g), orthonormality_penalty(f, g, pair_weights=ones), rtol=1e-13)


@given(seed=st.integers(0, 10_000), dtype=st.sampled_from(DTYPES))
def test_means_of_a_batch_are_weighted(seed, dtype):
    f, g, weights = draw(seed, dtype=dtype)
    a, b = repeated(weights, f, g)
    assert torch.allclose(batch_mean(f, weights), a.mean(0), rtol=1e-12, atol=1e-13)
    assert torch.allclose(gram(f, g, weights), gram(a, b), rtol=1e-12, atol=1e-13)
    n_effective = over_all_pairs([batch_mean(f, weights)], f[:, 0], weights)[2]
    assert float(n_effective) == pytest.approx(float(weights.sum() ** 2 / weights.square().sum()))
    for centred, scaled in itertools.product([True, False], repeat=2):
        found = normalise_batch(f, centred, scaled, weights)
        expected = normalise_batch(a, centred, scaled)
        assert torch.allclose(*repeated(weights, found), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_reversible", [False, True])
def test_a_model_in_training_normalises_by_weighted_statistics(is_reversible):
    torch.manual_seed(0)
    model = KoopmanLoRAModel(2, 4, hidden_dims=(8,), learn_svals=True, has_centering=True, shared_encoder=True).double()
    model.is_reversible = is_reversible
    x, x_next, weights = torch.randn(20, 2).double(), torch.randn(20, 2).double(), draw(1, 20)[2]
    found = model(x, x_next, weights)
    expected = model(*repeated(weights, x, x_next))
    for values, wanted in zip(repeated(weights, *found), expected, strict=True):
        assert torch.allclose(values, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("is_reversible", [False, True])
def test_a_model_calibrates_on_weighted_batches(is_reversible):
    torch.manual_seed(0)
    model = KoopmanLoRAModel(2, 4, hidden_dims=(8,), learn_svals=True, has_centering=True, shared_encoder=True).double()
    model.is_reversible = is_reversible
    x, x_next, weights = torch.randn(20, 2).double(), torch.randn(20, 2).double(), draw(1, 20)[2]
    model.calibrate_batches([(x[:9], x_next[:9], weights[:9]), (x[9:], x_next[9:], weights[9:])])
    found = model.feature_mean.clone(), model.feature_scale.clone()
    model.calibrate(*repeated(weights, x, x_next))
    assert torch.allclose(found[0], model.feature_mean, rtol=1e-12, atol=1e-14)
    assert torch.allclose(found[1], model.feature_scale, rtol=1e-12)


F, G, W = draw(0)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (W[:3], ValueError, r"pair_weights must have shape \(9,\), one per pair; got \(3,\)"),
        (W.numpy(), TypeError, "pair_weights must be a dense tensor of real numbers"),
        (W.long(), TypeError, "pair_weights must be a dense tensor of real numbers"),
        (W.to("meta"), TypeError, "pair_weights must be on cpu, as f is; got meta"),
    ],
)
@pytest.mark.parametrize("loss", [lora_loss, orthonormality_penalty, VAMPLoss(), DPNetLoss()])
def test_other_weights_are_refused(loss, weights, error, message):
    with pytest.raises(error, match=message):
        loss(F, G, pair_weights=weights)
