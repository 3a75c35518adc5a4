"""The two sides f and g behind one protocol: outputs, last hidden layers, and last linear layers to read and write."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from koopman_lora.encoders import check_hidden_dims, check_weights, make_activation


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
    head = _require_head(module, x)
    received: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    try:
        module(x)
    finally:
        hook.remove()
    return received[-1]


class NoLinearHeadError(TypeError):
    """An encoder does not end in a linear layer."""


def _require_head(module: nn.Module, x: Tensor) -> nn.Linear:
    """The last linear layer of a module, found on any state.

    Raises
    ------
    NoLinearHeadError
        If it does not end in one.
    """
    head = find_head(module, x[:1])
    if head is None:
        raise NoLinearHeadError(
            f"{type(module).__name__} does not end in an nn.Linear layer, so it has no last hidden layer."
        )
    return head


def _head_matrix(head: nn.Linear) -> Tensor:
    weight = head.weight.detach().T
    bias = weight.new_zeros(1, weight.shape[1]) if head.bias is None else head.bias.detach()[None]
    return torch.cat([bias, weight])


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

    def alone(self, side: int, x: Tensor) -> nn.Module:
        """A copy of f (`side` 0) or g (1) as a network of its own; `x` is any state."""
        network = copy.deepcopy((self.module_f, self.module_g)[side])
        if side == 1 and self.head_g is not None:
            _require_head(network, x).load_state_dict(self.head_g.state_dict())
        return network

    def separate_head(self, x: Tensor) -> nn.Linear:
        """Give g a last layer of its own, a copy of the shared one; `x` is any state."""
        self.head_g = copy.deepcopy(_require_head(self.module_f, x))
        return self.head_g

    def share_head(self) -> None:
        """Let f and g have one last layer again, that of f."""
        self.head_g = None

    def head_matrices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Last layers of f and g as coefficients (1 + width, n_features) on (1, hidden layer); `x` is any state."""
        head_f = _require_head(self.module_f, x)
        head_g = self.head_g if self.head_g is not None else _require_head(self.module_g, x)
        return _head_matrix(head_f), _head_matrix(head_g)

    def set_heads(self, weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> None:
        """Overwrite the last layers of f and g: weights (width, n_features), biases (n_features,); `x` is any state."""
        head_f = _require_head(self.module_f, x)
        head_g = self.separate_head(x) if self.is_shared else _require_head(self.module_g, x)
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
        check_weights("hidden_dims", (2 * a * b for a, b in itertools.pairwise(widths)))
        linears = [[nn.Linear(a, b) for _ in "fg"] for a, b in itertools.pairwise(widths)]
        self.weights = nn.ParameterList(torch.stack([layer.weight.detach().T for layer in pair]) for pair in linears)
        self.biases = nn.ParameterList(torch.stack([layer.bias.detach()[None] for layer in pair]) for pair in linears)
        self.activation = make_activation(activation)

    def _layers(self, side: int | None) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of one side, or of both: a slice of all would cost a copy in every backward pass."""
        # not of the lists themselves, which look every entry up by the text of its number
        pairs = zip(self.weights.parameters(recurse=False), self.biases.parameters(recurse=False), strict=True)
        return list(pairs) if side is None else [(w[side : side + 1], b[side : side + 1]) for w, b in pairs]

    def _hidden(self, z: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
        for weight, bias in layers[:-1]:
            z = self.activation(torch.baddbmm(bias, z, weight))
        return z  # (side, batch, width)

    def _outputs(self, z: Tensor, side: int | None) -> Tensor:
        layers = self._layers(side)
        weight, bias = layers[-1]
        return torch.baddbmm(bias, self._hidden(z, layers), weight)

    def f(self, x: Tensor) -> Tensor:
        """Features of x, (batch, n_features)."""
        return self._outputs(x.flatten(1)[None], 0)[0]

    def g(self, x_next: Tensor) -> Tensor:
        """Features of x', (batch, n_features)."""
        return self._outputs(x_next.flatten(1)[None], 1)[0]

    def forward(self, x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and g(x')."""
        if x.shape != x_next.shape:
            raise ValueError(f"x and x_next must have one shape; got {tuple(x.shape)} and {tuple(x_next.shape)}.")
        if (x.dtype, x.device) != (x_next.dtype, x_next.device):
            got = f"{x.dtype} on {x.device} and {x_next.dtype} on {x_next.device}"
            raise TypeError(f"x and x_next must be of one precision, on one device; got {got}.")
        f, g = self._outputs(torch.stack([x.flatten(1), x_next.flatten(1)]), None)
        return f, g

    def trunk_f(self, x: Tensor) -> Tensor:
        """Last hidden layer of f, (batch, width)."""
        return self._hidden(x.flatten(1)[None], self._layers(0))[0]

    def trunk_g(self, x_next: Tensor) -> Tensor:
        """Last hidden layer of g, (batch, width)."""
        return self._hidden(x_next.flatten(1)[None], self._layers(1))[0]

    def alone(self, side: int, x: Tensor) -> nn.Module:
        """A copy of f (`side` 0) or g (1) as a network of its own; no need for `x`."""
        layers: list[nn.Module] = []
        for weight, bias in self._layers(side):
            linear = nn.Linear(weight.shape[1], weight.shape[2], device="meta")
            linear.weight, linear.bias = (nn.Parameter(p.detach().clone()) for p in (weight[0].T, bias[0, 0]))
            layers += [linear, copy.deepcopy(self.activation)]
        return nn.Sequential(nn.Flatten(), *layers[:-1])

    def head_matrices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Last layers of f and g as coefficients (1 + width, n_features) on (1, hidden layer); no need for `x`."""
        f, g = torch.cat([self.biases[-1], self.weights[-1]], dim=1).detach()
        return f, g

    def set_heads(self, weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> None:
        """Overwrite the last layers of f and g: weights (width, n_features), biases (n_features,); `x` is any state."""
        with torch.no_grad():
            self.weights[-1].copy_(torch.stack(list(weights)))
            self.biases[-1].copy_(torch.stack(list(biases))[:, None])
