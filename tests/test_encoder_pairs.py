import math

import numpy as np
import pytest
import torch
from torch import nn

import koopman_lora as kl
from koopman_lora.encoder_pairs import EncoderPair, NoLinearHeadError, PairedMLP, find_head, trunk_features
from koopman_lora.encoders import MLP


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


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


@pytest.mark.parametrize("use_batchnorm", [False, True])
def test_last_hidden_layer_of_an_mlp_is_its_trunk(use_batchnorm):
    net = MLP(6, 4, hidden_dims=(5, 7), use_batchnorm=use_batchnorm).eval()
    x = torch.randn(8, 2, 3)
    assert trunk_features(net, x).shape == (8, 7)
    assert torch.equal(trunk_features(net, x), net.trunk(x))
    assert torch.equal(net.head(trunk_features(net, x)), net(x))


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


@pytest.mark.parametrize("kind", make_pairs())
def test_head_matrices_are_read_as_they_were_written(kind):
    pair = make_pairs()[kind]
    x, y = torch.randn(2, 10, 3)
    for _ in range(2):  # as they start, and after they were overwritten
        for head, trunk, features in zip(
            pair.head_matrices(x), (pair.trunk_f(x), pair.trunk_g(y)), (pair.f(x), pair.g(y)), strict=True
        ):
            assert head.shape == (1 + 7, 4)
            assert not head.requires_grad
            assert torch.allclose(head[0] + trunk @ head[1:], features, atol=1e-5)  # the bias comes first
        weights, biases = linear_map()
        pair.set_heads(weights, biases, x)
    for head, weight, bias in zip(pair.head_matrices(x), weights, biases, strict=True):
        assert torch.equal(head, torch.cat([bias[None], weight]))


@pytest.mark.parametrize("side", ["f", "g"])
def test_heads_of_opaque_modules_can_be_neither_read_nor_written(side):
    modules = {"f": nn.Linear(3, 4), "g": nn.Linear(3, 4)} | {side: nn.Sequential(nn.Linear(3, 4), nn.Tanh())}
    pair, x = EncoderPair(modules["f"], modules["g"]), torch.randn(10, 3)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    weights, biases = [torch.randn(3, 4)] * 2, [torch.randn(4)] * 2
    for use in (lambda: pair.head_matrices(x), lambda: pair.set_heads(weights, biases, x)):
        with pytest.raises(NoLinearHeadError, match=r"Sequential does not end in an nn.Linear layer"):
            use()
    assert all(torch.equal(before[name], value) for name, value in pair.state_dict().items())


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


@pytest.mark.parametrize("name", ["gelu2", "", None, 3, "Linear"])
def test_paired_mlp_with_an_unknown_activation(name):
    with pytest.raises(ValueError, match="activation must be one of"):
        PairedMLP(2, 2, activation=name)


@pytest.mark.parametrize("dims", [(0,), (8, -1), (8.0,), ("8",), (None,)])
def test_paired_mlp_with_bad_hidden_dims(dims):
    with pytest.raises(ValueError, match="hidden_dims must be positive integers; got"):
        PairedMLP(2, 2, hidden_dims=dims)


# ---- one side alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(), (6, 5)])
def test_each_side_of_a_pair_of_mlps_is_a_plain_network(dims):
    pair, x = PairedMLP(3, 4, dims, activation="Tanh").double(), torch.randn(7, 3, dtype=torch.float64)
    for side, own in enumerate((pair.f, pair.g)):
        alone = pair.alone(side, x)
        assert torch.allclose(alone(x), own(x), rtol=1e-14, atol=1e-14)
        assert {type(layer) for layer in alone} <= {nn.Flatten, nn.Linear, nn.Tanh}


def test_each_side_of_a_pair_whose_shared_layers_were_told_apart():
    pair, x = EncoderPair(Nested()), torch.randn(7, 2)
    pair.eval()
    pair.set_heads(torch.randn(2, 6, 3).unbind(), torch.randn(2, 3).unbind(), x)
    before = [pair.f(x), pair.g(x)]
    assert (before[0] - before[1]).abs().max() > 0.1
    for side, wanted in enumerate(before):
        alone = pair.alone(side, x)
        assert torch.equal(alone(x), wanted)
        with torch.no_grad():  # a copy: what is done to it leaves the pair alone
            for weights in alone.parameters():
                weights.zero_()
    assert torch.equal(pair.f(x), before[0])
    assert torch.equal(pair.g(x), before[1])


# ---- states that are no arrays ---------------------------------------------------------------------------------------


class MeanOfParts(nn.Module):
    """Looks up objects of different sizes by the number of their frame, packed as PyTorch Geometric packs graphs."""

    def __init__(self, objects, n_features):
        super().__init__()
        self.objects, self.net, self.head = (
            objects,
            nn.Sequential(nn.Linear(2, 16), nn.Tanh()),
            nn.Linear(16, n_features),
        )

    def forward(self, number):
        parts = [self.objects[int(i)] for i in number[:, 0]]
        sizes = torch.tensor([len(part) for part in parts])
        sums = torch.zeros(len(parts), 2).index_add(0, torch.repeat_interleave(sizes), torch.cat(parts))
        return self.head(self.net(sums / sizes[:, None]))


def test_a_state_may_be_the_number_of_an_object_that_the_encoder_looks_up():
    """Sets of 1 to 5 points around a noisy rotation: 12 frames a turn, 50 frames the decay."""
    system, rng = kl.systems.NoisyRotation(omega=2 * np.pi / 12, noise=0.2), np.random.default_rng(0)
    objects = []
    for state in system.simulate(n_steps=2000, seed=0).values[0]:
        scatter = rng.normal(size=(rng.integers(1, 6), 2))
        objects.append(torch.tensor(state + scatter - scatter.mean(axis=0), dtype=torch.float32))
    numbers = kl.lagged_pairs(np.arange(2000.0), lag=2)
    model = kl.KoopmanLoRAModel.from_encoders(
        1, 3, MeanOfParts(objects, 2), MeanOfParts(objects, 2), has_centering=True
    )
    options = kl.TrainingOptions(standardize=False, learning_rate=1e-2)
    kl.fit(model, numbers, n_epochs=10, batch_size=200, options=options)
    spectrum = kl.koopman_spectrum(kl.estimate_moments(model.f, model.g, numbers))
    assert 1 / abs(float(spectrum.frequencies.sel(mode=2))) == pytest.approx(12, rel=0.03)
    assert float(spectrum.timescales.sel(mode=2)) == pytest.approx(50, rel=0.15)
