"""Feature maps, (batch, *state) -> (batch, n_features): MLP, CNN, periodic embedding."""

from __future__ import annotations

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

    mean: Tensor
    scale: Tensor

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
