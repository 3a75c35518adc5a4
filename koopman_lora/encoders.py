"""Feature maps, (batch, *state) -> (batch, n_features): MLP, CNN, periodic embedding, and pairs of them."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name.lower(): getattr(nn, name)
    for name in ("GELU", "SiLU", "ELU", "CELU", "SELU", "ReLU", "LeakyReLU", "Tanh", "Softplus", "Mish")
}


def make_activation(name: str) -> nn.Module:
    """Activation module by its name in torch.nn, upper or lower case.

    Raises
    ------
    ValueError
        For a name that is not in `ACTIVATIONS`.

    Examples
    --------
    >>> make_activation("ELU")
    ELU(alpha=1.0)
    """
    if not isinstance(name, str) or name.lower() not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(sorted(ACTIVATIONS))}; got {name!r}.")
    return ACTIVATIONS[name.lower()]()


def check_hidden_dims(hidden_dims: Sequence[int]) -> tuple[int, ...]:
    """Return `hidden_dims` as a tuple of positive integers, or raise a ValueError."""
    dims = tuple(hidden_dims)
    if any(not isinstance(d, int) or d < 1 for d in dims):
        raise ValueError(f"hidden_dims must be positive integers; got {hidden_dims!r}.")
    return dims


class Standardize(nn.Module):
    """Subtract a mean and divide by a scale, both part of the model; the identity until `set_statistics`.

    Parameters
    ----------
    statistics_shape : shape of mean and scale, broadcast against a state: per coordinate for vectors, per channel
        for images
    """

    def __init__(self, statistics_shape: Sequence[int]) -> None:
        super().__init__()
        # float64: large offsets (a temperature in kelvin) are subtracted before the network's precision applies
        self.register_buffer("mean", torch.zeros(tuple(statistics_shape), dtype=torch.float64))
        self.register_buffer("scale", torch.ones(tuple(statistics_shape), dtype=torch.float64))

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Store mean and scale."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Standardised state in the precision of `x`."""
        return (x - self.mean.to(x.dtype)) / self.scale.to(x.dtype)


class PeriodicEmbedding(nn.Module):
    """Cosines and sines of the first harmonics of periodic coordinates: (batch, d) -> (batch, 2 * d * n_harmonics).

    Parameters
    ----------
    period : period of every coordinate, in the coordinate's unit
    n_harmonics : number of harmonics per coordinate

    Examples
    --------
    >>> PeriodicEmbedding(period=1.0)(torch.tensor([[0.25]])).abs().round(decimals=4)
    tensor([[0., 1.]])
    """

    def __init__(self, period: float = 2 * math.pi, n_harmonics: int = 1) -> None:
        super().__init__()
        if not period > 0 or n_harmonics < 1:
            raise ValueError(f"period must be positive and n_harmonics at least 1; got {period}, {n_harmonics}.")
        self.period, self.n_harmonics = float(period), int(n_harmonics)

    def forward(self, x: Tensor) -> Tensor:
        """Embedded coordinates."""
        harmonics = torch.arange(1, self.n_harmonics + 1, dtype=x.dtype, device=x.device)
        angle = (x[..., None] * (2 * math.pi / self.period) * harmonics).flatten(1)  # (batch, d * harmonic)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class MLP(nn.Module):
    """Multi-layer perceptron on the flattened state: a `trunk` of hidden layers and a last linear layer `head`.

    Parameters
    ----------
    input_dim : number of entries of a state
    n_features : number of outputs
    hidden_dims : widths of the hidden layers
    activation : name of an activation, see `ACTIVATIONS`
    use_batchnorm : batch normalisation before every activation

    Examples
    --------
    >>> MLP(2, 3, hidden_dims=(8,))(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        input_dim: int,
        n_features: int,
        hidden_dims: Sequence[int] = (64, 128, 64),
        activation: str = "GELU",
        use_batchnorm: bool = False,
    ) -> None:
        super().__init__()
        widths = (input_dim, *check_hidden_dims(hidden_dims))
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in itertools.pairwise(widths):
            layers.append(nn.Linear(n_in, n_out))
            if use_batchnorm:
                layers.append(nn.BatchNorm1d(n_out))
            layers.append(make_activation(activation))
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], n_features)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, n_features)."""
        return self.head(self.trunk(x))


class CNN(nn.Module):
    """Convolutional encoder for images of any size, (batch, H, W) or (batch, channel, H, W).

    Stride-2 convolutions, then an average over a fixed grid, so that the image size is free.

    Parameters
    ----------
    n_channels : channels of the image; 1 also takes images without a channel axis
    n_features : number of outputs
    channels : channels of the convolution layers, each halving the image
    grid : side of the grid on which the last feature map is averaged
    hidden_dim : width of the last hidden layer

    Examples
    --------
    >>> CNN(n_channels=1, n_features=4)(torch.zeros(2, 9, 17)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        n_channels: int,
        n_features: int,
        channels: Sequence[int] = (16, 32),
        grid: int = 4,
        hidden_dim: int = 128,
        activation: str = "GELU",
    ) -> None:
        super().__init__()
        widths = (n_channels, *check_hidden_dims(channels))
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(n_in, n_out, kernel_size=3, stride=2, padding=1), make_activation(activation)]
        layers += [nn.AdaptiveAvgPool2d(grid), nn.Flatten()]
        layers += [nn.Linear(widths[-1] * grid * grid, hidden_dim), make_activation(activation)]
        self.n_channels = n_channels
        self.settings = {
            "n_channels": n_channels,
            "n_features": n_features,
            "channels": tuple(channels),
            "grid": grid,
            "hidden_dim": hidden_dim,
            "activation": activation,
        }
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(hidden_dim, n_features)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, n_features)."""
        if x.ndim == 3 and self.n_channels == 1:
            x = x[:, None]
        if x.ndim != 4 or x.shape[1] != self.n_channels:
            raise ValueError(f"x must have shape (batch, {self.n_channels}, H, W); got {tuple(x.shape)}.")
        return self.head(self.trunk(x))


def find_head(module: nn.Module, x: Tensor) -> nn.Linear | None:
    """The linear layer whose output is the module's output, found by running the module on `x`; None if there is none.

    Examples
    --------
    >>> find_head(nn.Sequential(nn.Tanh(), nn.Linear(2, 3)), torch.zeros(1, 2))
    Linear(in_features=2, out_features=3, bias=True)
    >>> find_head(nn.Tanh(), torch.zeros(1, 2)) is None
    True
    """
    outputs: dict[nn.Linear, tuple[Tensor, int]] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, output: outputs.__setitem__(layer, (output, output._version)))
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
    ]
    was_training = module.training
    try:
        with torch.no_grad():
            result = module.eval()(x)
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    # an activation in place gives back the same tensor with a later version
    return next((layer for layer, (out, version) in outputs.items() if out is result and out._version == version), None)


def trunk_features(module: nn.Module, x: Tensor) -> Tensor:
    """What the last linear layer receives when `module` is run on `x`: the last hidden layer, (batch, width).

    Raises
    ------
    NoLinearHeadError
        If the module does not end in a linear layer.
    """
    head = find_head(module, x[:1])
    if head is None:
        raise NoLinearHeadError(
            f"{type(module).__name__} does not end in an nn.Linear layer, so it has no last hidden layer."
        )
    received: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    try:
        module(x)
    finally:
        hook.remove()
    return received[-1]


class NoLinearHeadError(TypeError):
    """An encoder does not end in a linear layer."""


class EncoderPair(nn.Module):
    """Two feature maps `f` and `g`, each an nn.Module of the user's or ours; they may be one and the same module.

    Parameters
    ----------
    f, g : modules (batch, *state) -> (batch, n_features); `g=None` shares `f`
    """

    def __init__(self, f: nn.Module, g: nn.Module | None = None) -> None:
        super().__init__()
        self.module_f = f
        self.module_g = f if g is None else g
        # a shared trunk whose two last layers were told apart (by refinement): the last layer of g
        self.head_g: nn.Linear | None = None

    @property
    def is_shared(self) -> bool:
        """Whether f and g are the same module."""
        return self.module_f is self.module_g

    def f(self, x: Tensor) -> Tensor:
        """Features of x, (batch, n_features)."""
        return self.module_f(x)

    def g(self, x_next: Tensor) -> Tensor:
        """Features of x', (batch, n_features)."""
        if self.head_g is not None:
            return self.head_g(self.trunk_g(x_next))
        return self.module_g(x_next)

    def forward(self, x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and g(x')."""
        return self.f(x), self.g(x_next)

    def trunk_f(self, x: Tensor) -> Tensor:
        """Last hidden layer of f, (batch, width)."""
        return trunk_features(self.module_f, x)

    def trunk_g(self, x_next: Tensor) -> Tensor:
        """Last hidden layer of g, (batch, width)."""
        return trunk_features(self.module_g, x_next)

    def separate_head(self, x: Tensor) -> nn.Linear:
        """Give g a last layer of its own, a copy of the shared one; `x` is any state."""
        self.head_g = copy.deepcopy(find_head(self.module_f, x[:1]))
        return self.head_g

    def head_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the last layers of f and g, (width, n_features) each; `x` is any state."""
        head_g = self.head_g if self.head_g is not None else find_head(self.module_g, x[:1])
        return find_head(self.module_f, x[:1]).weight.detach().T, head_g.weight.detach().T

    def set_heads(self, weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> None:
        """Overwrite the last layers of f and g: weights (width, n_features), biases (n_features,); `x` is any state."""
        head_f, head_g = find_head(self.module_f, x[:1]), find_head(self.module_g, x[:1])
        if self.is_shared:
            head_g = self.separate_head(x)
        with torch.no_grad():
            for head, weight, bias in zip((head_f, head_g), weights, biases, strict=True):
                head.weight.copy_(weight.T)
                if head.bias is None:
                    head.bias = nn.Parameter(torch.empty_like(bias))
                head.bias.copy_(bias)


class PairedMLP(nn.Module):
    """Two MLPs of equal shape with stacked weights, so that both run in one batched product per layer.

    Same interface as `EncoderPair`; same parametrisation and initialisation as two `MLP`.
    """

    is_shared = False

    def __init__(
        self, input_dim: int, n_features: int, hidden_dims: Sequence[int] = (64, 128, 64), activation: str = "GELU"
    ) -> None:
        super().__init__()
        widths = (input_dim, *check_hidden_dims(hidden_dims), n_features)
        linears = [[nn.Linear(a, b) for _ in "fg"] for a, b in itertools.pairwise(widths)]
        self.weights = nn.ParameterList(torch.stack([layer.weight.detach().T for layer in pair]) for pair in linears)
        self.biases = nn.ParameterList(torch.stack([layer.bias.detach()[None] for layer in pair]) for pair in linears)
        self.activation = make_activation(activation)

    def _layers(self, side: int | None) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of one side, or of both: a slice of all would cost a copy in every backward pass."""
        pairs = zip(self.weights, self.biases, strict=True)
        return list(pairs) if side is None else [(w[side : side + 1], b[side : side + 1]) for w, b in pairs]

    def _hidden(self, z: Tensor, side: int | None) -> Tensor:
        for weight, bias in self._layers(side)[:-1]:
            z = self.activation(torch.baddbmm(bias, z, weight))
        return z  # (side, batch, width)

    def _outputs(self, z: Tensor, side: int | None) -> Tensor:
        weight, bias = self._layers(side)[-1]
        return torch.baddbmm(bias, self._hidden(z, side), weight)

    def f(self, x: Tensor) -> Tensor:
        """Features of x, (batch, n_features)."""
        return self._outputs(x.flatten(1)[None], 0)[0]

    def g(self, x_next: Tensor) -> Tensor:
        """Features of x', (batch, n_features)."""
        return self._outputs(x_next.flatten(1)[None], 1)[0]

    def forward(self, x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and g(x')."""
        f, g = self._outputs(torch.stack([x.flatten(1), x_next.flatten(1)]), None)
        return f, g

    def trunk_f(self, x: Tensor) -> Tensor:
        """Last hidden layer of f, (batch, width)."""
        return self._hidden(x.flatten(1)[None], 0)[0]

    def trunk_g(self, x_next: Tensor) -> Tensor:
        """Last hidden layer of g, (batch, width)."""
        return self._hidden(x_next.flatten(1)[None], 1)[0]

    def head_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the last layers of f and g, (width, n_features) each; `x` is not needed here."""
        weight_f, weight_g = self.weights[-1].detach()
        return weight_f, weight_g

    def set_heads(self, weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> None:
        """Overwrite the last layers of f and g: weights (width, n_features), biases (n_features,); `x` is any state."""
        with torch.no_grad():
            self.weights[-1].copy_(torch.stack(list(weights)))
            self.biases[-1].copy_(torch.stack(list(biases))[:, None])
