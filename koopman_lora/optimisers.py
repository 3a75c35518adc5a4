"""The optimiser of the training loop: orthogonalised momentum (Muon) for hidden matrices, Adam for all else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from koopman_lora.encoder_pairs import PairedMLP
from koopman_lora.model import KoopmanLoRAModel

# Coefficients of x (a + b x^2 + c x^4), which drives singular values of (0, 1] towards 1, and how often it is applied.
# Twice is enough to learn from, and no worse than five times with the published momentum of .95 on the map and the
# wells in the plane (`benchmarks/README.md`): large singular values of the momentum then keep some of their lead.
QUINTIC, N_ITERATIONS = (3.4445, -4.7750, 2.0315), 2
# Size of an entry's step over the learning rate, as large as Adam's is in practice, and the learning rate itself over
# that of Adam. Measured with 250 steps: 1.4 is too slow on the map, 3 is as good there and over-fits small data.
ENTRY_SIZE, HIDDEN_LEARNING_RATE = 0.2, 2.0
# Few steps want a short memory, more so while the learning rate is high, as the schedule has it.
HIDDEN_MOMENTUM = 0.9
# The singular values learn slower than the encoders: a sval that falls before its functions are found takes their
# gradient away. Measured on the logistic map, 20 modes: a factor of 1 loses the modes below 0.1.
SVALS_LEARNING_RATE = 0.3


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (..., n, m) with singular values drawn towards one another, and towards 1, by a few products.

    References
    ----------
    Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024).

    Examples
    --------
    >>> torch.linalg.svdvals(orthogonalised(torch.diag(torch.tensor([1.0, 0.1])))).min() > 0.5
    tensor(True)
    """
    a, b, c = QUINTIC
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + torch.finfo(matrices.dtype).tiny)
    x = x.reshape(-1, *matrices.shape[-2:])
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        # a x + (b gram + c gram^2) x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.reshape(matrices.shape)


def hidden_matrices(encoders: nn.Module) -> list[nn.Parameter]:
    """Weights between hidden layers: neither the first of an encoder, whose inputs have units, nor the last.

    Examples
    --------
    >>> [tuple(w.shape) for w in hidden_matrices(PairedMLP(2, 3, (8, 16)))]
    [(2, 8, 16)]
    """
    if isinstance(encoders, PairedMLP):
        return list(encoders.weights)[1:-1]
    found: dict[int, Any] = {}
    for encoder in encoders.children():
        layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)]
        for layer in layers[1:-1]:
            found[id(layer.weight)] = layer.weight
    return [weight for weight in found.values() if weight.requires_grad and not weight.is_complex()]


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups with `is_hidden` step along their orthogonalised momentum instead.

    Parameters
    ----------
    groups : parameter groups, each with `lr`, and `is_hidden` where its tensors are matrices (..., n, m)
    weight_decay : of all groups
    fused : of Adam
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float, fused: bool) -> None:
        super().__init__([{"is_hidden": False, **group} for group in groups], weight_decay=weight_decay, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups."""
        groups = self.param_groups
        for group in groups:
            if group["is_hidden"]:
                self._step_hidden(group)
        try:
            self.param_groups = [group for group in groups if not group["is_hidden"]]
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _step_hidden(self, group: dict[str, Any]) -> None:
        beta = group["betas"][0]
        for parameters in _of_one_shape(group["params"]):
            ahead = []
            for parameter in parameters:
                gradient = parameter.grad
                assert gradient is not None  # they were chosen by it
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(gradient, 1 - beta)
                ahead.append(_wide(gradient.lerp(momentum, beta)))  # as Nesterov: with the step that comes
            directions = orthogonalised(torch.cat(ahead)).split([len(matrix) for matrix in ahead])
            size = group["lr"] * ENTRY_SIZE * math.sqrt(max(parameters[0].shape[-2:]))
            for parameter, direction in zip(parameters, directions, strict=True):
                is_tall = parameter.shape[-2] > parameter.shape[-1]
                step = (direction.mT if is_tall else direction).reshape(parameter.shape)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=size)


def _wide(matrices: Tensor) -> Tensor:
    """A stack (n_matrices, short, long)."""
    stack = matrices.reshape(-1, *matrices.shape[-2:])
    return stack.mT if stack.shape[-2] > stack.shape[-1] else stack


def _of_one_shape(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters with a gradient whose matrices have one shape, up to transposition: they run in one product."""
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            shapes.setdefault(tuple(sorted(parameter.shape[-2:])), []).append(parameter)
    yield from shapes.values()


def parameter_groups(model: KoopmanLoRAModel, rate: float, hidden: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Parameters of a model with the peaks of their learning rates; those of `hidden` with orthogonalised momentum."""
    apart = {id(p) for p in (*hidden, model.svals_params)}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in apart], "lr": rate}]
    if model.svals_params is not None:
        groups.append({"params": [model.svals_params], "lr": SVALS_LEARNING_RATE * rate})
    if hidden:
        groups.append({"params": hidden, "lr": HIDDEN_LEARNING_RATE * rate, "is_hidden": True})
    return groups
