"""Feature maps, (batch, *state) -> (batch, n_features): MLP, CNN, periodic embedding."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from koopman_lora.arguments import check_tensors, whole
from koopman_lora.checks import checked
from koopman_lora.kinds import is_real

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name.lower(): getattr(nn, name)
    for name in ("GELU", "SiLU", "ELU", "CELU", "SELU", "ReLU", "LeakyReLU", "Tanh", "Softplus", "Mish")
}


# Entries of a state, and units of a layer: more is a mistake, and would fill the memory first.
WIDEST = 10**7
# Weights of a network: with their gradients and the moments of Adam these fill 16 GB.
MOST_WEIGHTS = 10**9


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


def check_hidden_dims(hidden_dims: Any, name: str = "hidden_dims") -> tuple[int, ...]:
    """Return `hidden_dims` as a tuple of positive integers, or raise a ValueError."""
    is_listed = isinstance(hidden_dims, (list, tuple, range)) or getattr(hidden_dims, "ndim", 0) == 1
    dims: tuple[Any, ...] = tuple(hidden_dims) if is_listed else (None,)
    if any(isinstance(d, bool) or not isinstance(d, numbers.Integral) or not 1 <= int(d) <= WIDEST for d in dims):
        raise ValueError(f"{name} must be positive integers; got {hidden_dims!r}.")
    return tuple(int(d) for d in dims)


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError unless all are numbers of entries that a layer can have."""
    for name, size in sizes.items():
        if not 1 <= size <= WIDEST:
            raise ValueError(f"{name} must be between 1 and {WIDEST}; got {size}.")


def check_weights(name: str, layers: Iterable[int]) -> None:
    """Raise a ValueError for layers of more weights together than a network is given; `name` is what says their widths.

    Examples
    --------
    >>> check_weights("hidden_dims", [2 * 10**6, 10**12, 10**6])
    Traceback (most recent call last):
    ValueError: hidden_dims ask for a network of 1e+12 weights; 1e+09 is the most. Choose narrower layers.
    """
    if (n := sum(layers)) > MOST_WEIGHTS:
        raise ValueError(
            f"{name} ask for a network of {n:.3g} weights; {MOST_WEIGHTS:.3g} is the most. Choose narrower layers."
        )


def check_states(weight: Tensor, **states: Any) -> None:
    """Raise a TypeError unless states are tensors in the precision of a network's weights, and where they are.

    Examples
    --------
    >>> check_states(torch.zeros(1), x=torch.zeros(3, 2, dtype=torch.float64))
    Traceback (most recent call last):
    TypeError: x must be of torch.float32, as the weights are; got torch.float64. Use x.to(torch.float32).
    """
    check_tensors(**states)
    for name, x in states.items():
        if x.device != weight.device:
            raise TypeError(f"{name} must be on {weight.device}, as the weights are; got {x.device}.")
        if x.dtype != weight.dtype:
            advice = f"Use {name}.to({weight.dtype})"
            raise TypeError(f"{name} must be of {weight.dtype}, as the weights are; got {x.dtype}. {advice}.")


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

    @checked(but=("period",))
    def __init__(self, period: float = 2 * math.pi, n_harmonics: int = 1) -> None:
        super().__init__()
        if not is_real(period) or not 0 < period < math.inf or n_harmonics < 1:
            raise ValueError(f"period must be positive and n_harmonics at least 1; got {period}, {n_harmonics}.")
        self.period, self.n_harmonics = float(period), int(n_harmonics)

    def forward(self, x: Tensor) -> Tensor:
        """Embedded coordinates."""
        check_tensors(x=x)
        if x.ndim < 2 or x.is_complex():
            raise ValueError(f"x must be real, of shape (batch, d); got {tuple(x.shape)}.")
        # plain numbers, no tensors: an exported network can then move to another device
        turned = [x * (2 * math.pi / self.period) * harmonic for harmonic in range(1, self.n_harmonics + 1)]
        angle = torch.stack(turned, dim=-1).flatten(1)  # (batch, d * harmonic)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class Standardize(nn.Module):
    """Subtract a mean and divide by a scale, both part of the model; the identity until `set_statistics`.

    Periodic coordinates are not standardised: after `set_periodic` cosines and sines of the raw angle stand for them.

    Parameters
    ----------
    statistics_shape : shape of mean and scale, broadcast against a state: per coordinate for vectors, per channel
        for images

    Attributes
    ----------
    periodic : tuple of int, positions of the periodic coordinates
    period : tuple of float, period of each of them

    Examples
    --------
    >>> stage = Standardize((2,))
    >>> stage.set_periodic([0], 360.0)
    >>> stage(torch.tensor([[90.0, 5.0]])).abs().round(decimals=4)      # the other coordinate, cosine, sine
    tensor([[5., 0., 1.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, statistics_shape: Sequence[int]) -> None:
        super().__init__()
        # float64: large offsets (a temperature in kelvin) are subtracted before the network's precision applies
        self.register_buffer("mean", torch.zeros(tuple(statistics_shape), dtype=torch.float64))
        self.register_buffer("scale", torch.ones(tuple(statistics_shape), dtype=torch.float64))
        self.periodic: tuple[int, ...] = ()
        self.period: tuple[float, ...] = ()
        self.embed = PeriodicEmbedding(1.0)  # of angles in turns

    @classmethod
    def of_states(cls, state_shape: tuple[int, ...]) -> Standardize:
        """One mean and scale per coordinate of a vector, per channel of an image (C, H, W), or of any other state."""
        if len(state_shape) == 1:
            return cls(state_shape)
        return cls((state_shape[0], 1, 1) if len(state_shape) == 3 else (1,) * len(state_shape))

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """Store mean and scale."""
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    def set_periodic(self, coordinates: Sequence[int], period: float | Sequence[float] = 2 * math.pi) -> None:
        """Coordinates of a vector state that are angles, and their period, one or one for each.

        Raises
        ------
        ValueError
            For states that are no vectors, positions that are none, or periods that are not positive and finite.
        """
        if self.mean.ndim != 1:
            raise ValueError(
                f"periodic needs states that are vectors; got statistics of shape {tuple(self.mean.shape)}."
            )
        if not isinstance(coordinates, (list, tuple, range)):
            raise TypeError(f"periodic coordinates must be a list of positions; got {coordinates!r}.")
        positions = [whole("periodic", position) for position in coordinates]
        if len(set(positions)) < len(positions) or any(not 0 <= position < len(self.mean) for position in positions):
            raise ValueError(f"periodic must be different positions from 0 to {len(self.mean) - 1}; got {positions}.")
        periods: list[Any] = list(period) if isinstance(period, (list, tuple)) else [period] * len(positions)
        if len(periods) != len(positions) or not all(is_real(p) and 0 < p < math.inf for p in periods):
            raise ValueError(
                f"period must be positive and finite, one or one for each of {len(positions)} periodic coordinates; "
                f"got {period!r}."
            )
        self.periodic, self.period = tuple(positions), tuple(map(float, periods))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised state in the precision of `x`; behind it, cosines and sines of what is periodic."""
        standard = (x - self.mean.to(x.dtype)) / self.scale.to(x.dtype)
        if not self.periodic:
            return standard
        others = [i for i in range(x.shape[1]) if i not in self.periodic]
        # float64: many turns away an angle is as good as here
        turns = torch.stack([x[:, i].double() / p for i, p in zip(self.periodic, self.period, strict=True)], dim=1)
        return torch.cat([standard[:, others], self.embed(turns).to(x.dtype)], dim=1)


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

    @checked(but=("hidden_dims", "activation"))
    def __init__(
        self,
        input_dim: int,
        n_features: int,
        hidden_dims: Sequence[int] = (64, 128, 64),
        activation: str = "GELU",
        use_batchnorm: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(input_dim=input_dim, n_features=n_features)
        widths = (input_dim, *check_hidden_dims(hidden_dims))
        check_weights("hidden_dims", (a * b for a, b in itertools.pairwise((*widths, n_features))))
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in itertools.pairwise(widths):
            layers.append(nn.Linear(n_in, n_out))
            if use_batchnorm:
                layers.append(nn.BatchNorm1d(n_out))
            layers.append(make_activation(activation))
        self.input_dim = input_dim
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], n_features)

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, n_features)."""
        check_states(self.head.weight, x=x)
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.input_dim:
            raise ValueError(f"x must hold states of {self.input_dim} entries, (batch, *state); got {tuple(x.shape)}.")
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

    @checked(but=("channels", "activation"))
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
        check_sizes(n_channels=n_channels, n_features=n_features, grid=grid, hidden_dim=hidden_dim)
        widths = (n_channels, *check_hidden_dims(channels, "channels"))
        last = (widths[-1] * grid * grid, hidden_dim, n_features)
        check_weights("channels", (9 * a * b for a, b in itertools.pairwise(widths)))
        check_weights("grid, hidden_dim and n_features", (a * b for a, b in itertools.pairwise(last)))
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
        check_states(self.head.weight, x=x)
        if x.ndim == 3 and self.n_channels == 1:
            x = x[:, None]
        if x.ndim != 4 or x.shape[1] != self.n_channels:
            raise ValueError(f"x must have shape (batch, {self.n_channels}, H, W); got {tuple(x.shape)}.")
        return self.head(self.trunk(x))
