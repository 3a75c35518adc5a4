import math

import numpy as np
import pytest
import torch
from torch import nn

from koopman_lora.encoders import (
    ACTIVATIONS,
    CNN,
    MLP,
    EncoderPair,
    NoLinearHeadError,
    PairedMLP,
    PeriodicEmbedding,
    Standardize,
    find_head,
    make_activation,
    trunk_features,
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
    with pytest.raises(ValueError, match="activation must be one of"):
        PairedMLP(2, 2, activation=name)


@pytest.mark.parametrize("dims", [(0,), (8, -1), (8.0,), ("8",), (None,)])
def test_bad_hidden_dims(dims):
    for make in (MLP, PairedMLP):
        with pytest.raises(ValueError, match="hidden_dims must be positive integers; got"):
            make(2, 2, hidden_dims=dims)


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
    assert trunk_features(net, x).shape == (8, 7)
    assert torch.equal(net.head(trunk_features(net, x)), net(x))
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


# ---- heads -----------------------------------------------------------------------------------------------------------


class Nested(nn.Module):
    """A user's module: the last linear layer sits inside, is not defined last, and is used last."""

    def __init__(self):
        super().__init__()
        self.out = nn.Sequential(nn.Dropout(0.5), nn.ModuleDict({"last": nn.Linear(6, 3)})["last"])
        self.body = nn.Sequential(nn.Linear(2, 6), nn.Tanh())
        self.unused = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.body(x))


def test_head_of_nested_user_modules():
    net = nn.Sequential(nn.Identity(), Nested(), nn.Identity())
    head = find_head(net, torch.randn(2, 2))
    assert head is net[1].out[1]
    assert net.training
    net.eval()
    x = torch.randn(5, 2)
    assert torch.equal(trunk_features(net, x), net[1].body(x))


@pytest.mark.parametrize(
    "tail",
    [
        nn.Tanh(),
        nn.ReLU(),
        nn.ReLU(inplace=True),  # gives back the very tensor that the linear layer made, changed
        nn.LayerNorm(3),
        nn.Unflatten(1, (3, 1)),
        nn.Softmax(dim=1),
    ],
)
def test_no_head_where_something_follows_the_linear_layer(tail):
    net = nn.Sequential(nn.Linear(2, 3), tail)
    assert find_head(net, torch.randn(1, 2)) is None
    with pytest.raises(NoLinearHeadError, match=r"Sequential does not end in an nn.Linear layer"):
        trunk_features(net, torch.randn(4, 2))


def test_no_head_where_a_skip_connection_is_added():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return x + self.linear(x)

    assert find_head(Skip(), torch.randn(1, 3)) is None


def test_finding_a_head_changes_nothing():
    net = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert find_head(net, torch.randn(9, 2)) is net[3]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert net.training


def test_hooks_are_gone_after_an_error():
    net = nn.Sequential(nn.Linear(2, 6), nn.Linear(5, 3))
    with pytest.raises(RuntimeError):
        find_head(net, torch.randn(1, 2))
    assert not any(m._forward_hooks for m in net.modules())


# ---- pairs -----------------------------------------------------------------------------------------------------------


def linear_map(k=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(7, k, generator=generator) for _ in "fg"], [torch.randn(k, generator=generator) for _ in "fg"]


def make_pairs():
    return {
        "paired": PairedMLP(3, 4, hidden_dims=(5, 7)),
        "two": EncoderPair(MLP(3, 4, (5, 7)), MLP(3, 4, (5, 7))),
        "shared": EncoderPair(MLP(3, 4, (5, 7))),
        "without bias": EncoderPair(
            nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 4, bias=False)),
            nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 4, bias=False)),
        ),
    }


@pytest.mark.parametrize("kind", make_pairs())
def test_set_heads_writes_the_map_from_last_hidden_layer_to_features(kind):
    pair = make_pairs()[kind]
    x, y = torch.randn(2, 10, 3)
    trunk_f, trunk_g = pair.trunk_f(x), pair.trunk_g(y)
    weights, biases = linear_map()
    pair.set_heads(weights, biases, x)
    assert torch.allclose(pair.f(x), trunk_f @ weights[0] + biases[0], atol=1e-5)
    assert torch.allclose(pair.g(y), trunk_g @ weights[1] + biases[1], atol=1e-5)
    both = pair(x, y)
    assert torch.allclose(both[0], pair.f(x), atol=1e-6)
    assert torch.allclose(both[1], pair.g(y), atol=1e-6)
    # hidden layers stay, and it can be done again
    assert torch.allclose(pair.trunk_f(x), trunk_f, atol=1e-6)
    assert torch.allclose(pair.trunk_g(y), trunk_g, atol=1e-6)
    weights, biases = linear_map(seed=2)
    pair.set_heads(weights, biases, x)
    assert torch.allclose(pair.g(y), trunk_g @ weights[1] + biases[1], atol=1e-5)


def test_shared_encoder_is_one_module_until_heads_are_told_apart():
    pair = make_pairs()["shared"]
    x = torch.randn(10, 3)
    assert pair.is_shared
    assert torch.equal(pair.f(x), pair.g(x))
    assert len(list(pair.parameters())) == 6
    pair.set_heads(*linear_map(), x)
    assert not torch.allclose(pair.f(x), pair.g(x), atol=0.1)
    assert torch.equal(pair.trunk_f(x), pair.trunk_g(x))


def test_gradients_reach_a_shared_trunk_through_both_heads():
    pair = make_pairs()["shared"]
    x = torch.randn(10, 3)
    pair.set_heads(*linear_map(), x)
    pair.zero_grad()
    pair.g(x).square().sum().backward()
    assert pair.module_f.trunk[1].weight.grad.abs().max() > 0
    assert pair.head_g.weight.grad.abs().max() > 0
    assert pair.module_f.head.weight.grad is None or not pair.module_f.head.weight.grad.any()


def test_paired_mlp_is_two_mlps_with_the_same_weights():
    torch.manual_seed(5)
    pair = PairedMLP(6, 4, hidden_dims=(5, 7), activation="ELU")
    mlps = [MLP(6, 4, hidden_dims=(5, 7), activation="ELU") for _ in "fg"]
    for side, mlp in enumerate(mlps):
        linears = [m for m in mlp.modules() if isinstance(m, nn.Linear)]
        for layer, weight, bias in zip(linears, pair.weights, pair.biases, strict=True):
            layer.weight.data, layer.bias.data = weight[side].T.clone(), bias[side, 0].clone()
    x, y = torch.randn(2, 9, 2, 3)
    wanted = mlps[0](x), mlps[1](y)
    for got, want in zip(pair(x, y), wanted, strict=True):
        assert torch.allclose(got, want, atol=1e-6)
    assert torch.allclose(pair.f(x), wanted[0], atol=1e-6)
    assert torch.allclose(pair.g(y), wanted[1], atol=1e-6)
    assert torch.allclose(pair.trunk_g(y), trunk_features(mlps[1], y), atol=1e-6)
    # and so are the gradients
    sum(t.square().sum() for t in pair(x, y)).backward()
    sum(t.square().sum() for t in wanted).backward()
    first = next(m for m in mlps[1].modules() if isinstance(m, nn.Linear))
    assert torch.allclose(pair.weights[0].grad[1].T, first.weight.grad, atol=1e-5)


def test_paired_mlp_starts_like_two_mlps():
    """Uniform in 1/sqrt(fan in), f and g drawn apart."""
    pair = PairedMLP(100, 50, hidden_dims=(80,))
    for weight, fan_in in zip(pair.weights, (100, 80), strict=True):
        assert np.isclose(weight.std().item(), 1 / math.sqrt(3 * fan_in), rtol=0.05)
        assert weight.abs().max() <= 1 / math.sqrt(fan_in)
        assert not torch.equal(weight[0], weight[1])
