import math

import numpy as np
import pytest
import torch
from torch import nn

from koopman_lora.encoders import (
    ACTIVATIONS,
    CNN,
    MLP,
    PeriodicEmbedding,
    Standardize,
    make_activation,
)

KNOWN = {  # value at -1, from the definitions
    "gelu": -0.5 * (1 - math.erf(1 / math.sqrt(2))),
    "silu": -1 / (1 + math.e),
    "elu": math.exp(-1) - 1,
    "celu": math.exp(-1) - 1,
    "selu": 1.0507009873554805 * 1.6732632423543772 * (math.exp(-1) - 1),
    "relu": 0.0,
    "leakyrelu": -0.01,
    "tanh": math.tanh(-1),
    "softplus": math.log(1 + math.exp(-1)),
    "mish": -math.tanh(math.log(1 + math.exp(-1))),
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_every_activation_has_a_known_value():
    assert set(KNOWN) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", KNOWN)
def test_activation_by_name_in_any_case(name):
    minus_one = torch.tensor([-1.0], dtype=torch.float64)
    for spelling in (name, name.upper(), ACTIVATIONS[name].__name__):
        assert abs(make_activation(spelling)(minus_one).item() - KNOWN[name]) < 1e-7


@pytest.mark.parametrize("name", ["gelu2", "", None, 3, "Linear"])
def test_unknown_activation_lists_the_known(name):
    with pytest.raises(ValueError, match=r"activation must be one of celu, elu, gelu, .* got"):
        make_activation(name)
    with pytest.raises(ValueError, match="activation must be one of"):
        MLP(2, 2, activation=name)


@pytest.mark.parametrize("dims", [(0,), (8, -1), (8.0,), ("8",), (None,)])
def test_bad_hidden_dims(dims):
    with pytest.raises(ValueError, match="hidden_dims must be positive integers; got"):
        MLP(2, 2, hidden_dims=dims)


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_standardize_is_the_identity_until_told():
    x = torch.randn(5, 3)
    layer = Standardize((3,))
    assert torch.equal(layer(x), x)
    layer.set_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0]))
    assert torch.allclose(layer(x) * torch.tensor([2.0, 4.0, 8.0]) + torch.tensor([1.0, 2.0, 3.0]), x, atol=1e-6)


def test_standardize_keeps_small_motion_on_a_large_offset():
    x = torch.tensor([[1e9 + 0.25], [1e9 - 0.25]], dtype=torch.float64)
    layer = Standardize((1,))
    layer.set_statistics(torch.tensor([1e9], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64))
    assert layer(x).float().flatten().tolist() == [1.0, -1.0]
    assert layer.float()(x).flatten().tolist() == [1.0, -1.0]  # also after the model was moved to another precision


@pytest.mark.parametrize("period", [1.0, 2 * math.pi, 360.0])
def test_periodic_embedding_does_not_see_the_seam(period):
    embed = PeriodicEmbedding(period, n_harmonics=3)
    x = torch.linspace(-0.4, 1.7, 9, dtype=torch.float64)[:, None] * period
    x = torch.cat([x, 0.3 * period - x], dim=1)
    assert torch.allclose(embed(x), embed(x + 2 * period), atol=1e-12)
    assert embed(x).shape == (9, 12)
    angle = 2 * math.pi / period * x[:, 1].numpy()
    columns = embed(x).numpy().T
    for harmonic in (1, 2, 3):
        for wanted in (np.cos(harmonic * angle), np.sin(harmonic * angle)):
            assert any(np.allclose(column, wanted) for column in columns)


@pytest.mark.parametrize(("period", "n_harmonics"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, 0)])
def test_bad_periods(period, n_harmonics):
    with pytest.raises(ValueError, match="period must be positive and n_harmonics at least 1; got"):
        PeriodicEmbedding(period, n_harmonics)


@pytest.mark.parametrize("use_batchnorm", [False, True])
def test_mlp_is_its_head_after_its_trunk(use_batchnorm):
    net = MLP(6, 4, hidden_dims=(5, 7), use_batchnorm=use_batchnorm).eval()
    x = torch.randn(8, 2, 3)
    assert torch.equal(net(x), net.head(net.trunk(x)))
    assert torch.equal(net(x), net(x.flatten(1)))
    assert net.trunk(x).shape == (8, 7)
    assert any(isinstance(m, nn.BatchNorm1d) for m in net.modules()) == use_batchnorm


def test_mlp_without_hidden_layers_is_linear():
    net = MLP(3, 2, hidden_dims=())
    x, y = torch.randn(2, 5, 3)
    assert torch.allclose(net(x + y) + net(torch.zeros(5, 3)), net(x) + net(y), atol=1e-6)


# ---- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (5, 5), (9, 17), (28, 28), (33, 64), (64, 20)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_one_cnn_takes_any_image_size(size, n_channels):
    net = CNN(n_channels, 4, channels=(4, 8), hidden_dim=16)
    x = torch.randn(3, n_channels, *size, requires_grad=True)
    features = net(x)
    assert features.shape == (3, 4)
    if n_channels == 1:
        assert torch.equal(net(x[:, 0]), features)
    assert torch.allclose(net(x[1:2]), features[1:2], atol=1e-5)  # images do not see one another
    (gradient,) = torch.autograd.grad(features[0].square().sum(), x)
    assert (gradient[0].abs().sum(0) > 0).all()  # every pixel counts
    assert not gradient[1:].any()


def test_cnn_tells_where_things_are():
    """The grid keeps positions: the same blob in two corners is two states."""
    net = CNN(1, 4, channels=(4, 8), grid=4, hidden_dim=16)
    images = torch.zeros(2, 32, 32)
    images[0, 4:8, 4:8], images[1, 20:24, 20:24] = 1.0, 1.0
    features = net(images)
    assert (features[0] - features[1]).abs().max() > 1e-4


def test_cnn_with_other_channels():
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 3, H, W\); got \(2, 1, 8, 8\)"):
        CNN(3, 4)(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, 3, H, W\); got \(2, 8, 8\)"):
        CNN(3, 4)(torch.zeros(2, 8, 8))
