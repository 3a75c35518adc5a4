import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from koopman_lora.baselines import DPNetLoss, VAMPLoss, dpnet_loss, vamp_loss

DTYPES = [torch.float64, torch.complex128]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["real", "complex"])


def draw(seed, n, k, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    f, noise = (torch.randn(n, k, generator=generator, dtype=dtype) for _ in "ab")
    return f, 0.6 * f + 0.5 * noise + 0.3


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, g: vamp_loss(f[:1], g[:1]), "at least 2 pairs; got 1"),
        (lambda f, g: dpnet_loss(f, g[:, :1]), "f and g must have one and the same shape"),
        (lambda f, g: vamp_loss(f, g, score="3"), "score must be one of '1', '2', 'E'; got '3'"),
        (lambda f, g: VAMPLoss(score=2), "score must be one of '1', '2', 'E'; got 2"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(*draw(0, 4, 2))
