"""Factors of a given matrix: maps from its rows or columns to k numbers, by a table, an embedding or features.

`G = g_net(rows)` is (M, k), `F = f_net(columns)` is (N, k), H ~ G F^H (docs/mathematics.md, section 8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from koopman_lora.encoders import MLP

PARAMETRIZATIONS = ("embedding", "table", "features")
# Share of the MLP in the output of an embedding: at 1 training is worse conditioned and takes 2 to 5 times the steps.
MLP_SHARE = 0.1
# Directions of a last hidden layer below this, relative to the largest, carry no information.
HIDDEN_TOLERANCE = 1e-8


class Factor(nn.Module):
    """A map from every row (or column) of a matrix to k numbers, real or complex; `forward()` gives all, (n, k).

    Complex numbers are held as k real parts followed by k imaginary ones.
    """

    is_complex: bool
    is_limited = False  # cannot become every (n, k)

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers, (n, k) or (n, 2 k)."""
        raise NotImplementedError

    def space(self) -> Tensor:
        """Columns that span what the outputs can become by the last layer alone, (n, at least k)."""
        return self()

    def assign(self, outputs: Tensor) -> None:
        """Change the parameters so that the outputs become these (n, k), combinations of `space()`."""
        raise NotImplementedError

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Groups for Adam. Numbers per index are of order `1 / sqrt(n)`, and so is their learning rate."""
        groups = []
        for name, parameter in self.named_parameters():
            is_per_index = name in ("table", "embedding")
            groups.append({"params": [parameter], "lr": learning_rate / (len(parameter) ** 0.5 if is_per_index else 1)})
        return groups

    def forward(self) -> Tensor:
        """Outputs (n, k)."""
        return as_numbers(self.real_outputs(), self.is_complex)


def as_numbers(values: Tensor, is_complex: bool) -> Tensor:
    """(n, 2 k) real and imaginary parts -> (n, k) complex numbers; real values stay.

    Examples
    --------
    >>> as_numbers(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), True)
    tensor([[1.+3.j, 2.+4.j]])
    """
    return torch.complex(*values.tensor_split(2, dim=1)) if is_complex else values


def as_real(values: Tensor) -> Tensor:
    """The inverse of `as_numbers`.

    Examples
    --------
    >>> as_real(torch.tensor([[1 + 3j, 2 + 4j]]))
    tensor([[1., 2., 3., 4.]])
    """
    return torch.cat([values.real, values.imag], dim=1) if values.is_complex() else values


class TableFactor(Factor):
    """The numbers themselves are the parameters.

    Examples
    --------
    >>> TableFactor(5, 2, is_complex=True)().shape
    torch.Size([5, 2])
    """

    def __init__(self, n: int, k: int, is_complex: bool) -> None:
        super().__init__()
        self.is_complex = is_complex
        self.table = nn.Parameter(torch.randn(n, k * (1 + is_complex), dtype=torch.float64) / math.sqrt(n))

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers."""
        return self.table

    @torch.no_grad()
    def assign(self, outputs: Tensor) -> None:
        """Overwrite the numbers."""
        self.table.copy_(as_real(outputs))


class EmbeddingFactor(Factor):
    """A learned vector per index, and a residual MLP on it: `e + share MLP(sqrt(n) e) / sqrt(n)`.

    A one-hot vector times a weight matrix *is* an embedding, so the identity matrix is never built. The residual
    connection keeps the problem nearly as well conditioned as the plain table's; sqrt(n) brings entries of unit
    columns to the order of 1 inside the MLP.

    Examples
    --------
    >>> EmbeddingFactor(5, 2, is_complex=False, hidden_dims=(8,), activation="GELU")().shape
    torch.Size([5, 2])
    """

    def __init__(self, n: int, k: int, is_complex: bool, hidden_dims: Sequence[int], activation: str) -> None:
        super().__init__()
        self.is_complex, self.root = is_complex, math.sqrt(n)
        width = k * (1 + is_complex)
        self.embedding = nn.Parameter(torch.randn(n, width, dtype=torch.float64) / self.root)
        self.mlp = MLP(width, width, hidden_dims, activation).double()

    def _residual(self, embedding: Tensor) -> Tensor:
        return MLP_SHARE * self.mlp(self.root * embedding) / self.root

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers."""
        return self.embedding + self._residual(self.embedding)

    @torch.no_grad()
    def assign(self, outputs: Tensor) -> None:
        """Solve `e + residual(e) = outputs` for the vectors e; the MLP stays.

        The fixed-point iteration converges where the MLP contracts; if it does not, its last layer is halved.
        """
        target = as_real(outputs)
        goal = 1e-13 * torch.linalg.vector_norm(target)
        while True:
            e = target
            for _ in range(200):
                step = target - self._residual(e) - e
                e = e + step
                if torch.linalg.vector_norm(step) <= goal:
                    self.embedding.copy_(e)
                    return
            self.mlp.head.weight.mul_(0.5)
            self.mlp.head.bias.mul_(0.5)


class FeatureFactor(Factor):
    """An MLP on the features of every row (or column); `at` evaluates it on features of rows it never saw.

    Parameters
    ----------
    features : tensor (n, d); standardised by their own mean and scale

    Examples
    --------
    >>> factor = FeatureFactor(torch.randn(5, 3), 2, False, (8,), "GELU")
    >>> factor().shape, factor.at(torch.randn(7, 3)).shape
    (torch.Size([5, 2]), torch.Size([7, 2]))
    """

    is_limited = True
    mean: Tensor
    scale: Tensor
    inputs: Tensor

    def __init__(self, features: Tensor, k: int, is_complex: bool, hidden_dims: Sequence[int], activation: str) -> None:
        super().__init__()
        self.is_complex = is_complex
        features = features.double()
        scale = features.std(0, correction=0)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0))
        self.register_buffer("inputs", (features - self.mean) / self.scale)
        self.mlp = MLP(features.shape[1], k * (1 + is_complex), hidden_dims, activation).double()

    def real_outputs(self) -> Tensor:
        """Outputs as real numbers."""
        return self.mlp(self.inputs)

    def at(self, features: Tensor) -> Tensor:
        """Outputs for other features (m, d): (m, k)."""
        return as_numbers(self.mlp((features.double() - self.mean) / self.scale), self.is_complex)

    def _hidden(self) -> Tensor:
        """Last hidden layer and the constant, (n, width + 1)."""
        hidden = self.mlp.trunk(self.inputs)
        return torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)

    @torch.no_grad()
    def space(self) -> Tensor:
        """Orthonormal basis of the last hidden layer: Rayleigh-Ritz in it is better than in the k outputs."""
        vectors, sizes, _ = torch.linalg.svd(self._hidden(), full_matrices=False)
        k = self.mlp.head.out_features // (1 + self.is_complex)
        n_kept = max(int((sizes > HIDDEN_TOLERANCE * sizes[0]).sum()), k)
        return vectors[:, :n_kept].to(torch.complex128 if self.is_complex else torch.float64)

    @torch.no_grad()
    def assign(self, outputs: Tensor) -> None:
        """Least-squares fit of the last layer."""
        solution = torch.linalg.lstsq(self._hidden(), as_real(outputs)).solution
        self.mlp.head.weight.copy_(solution[:-1].T)
        self.mlp.head.bias.copy_(solution[-1])


def make_factors(
    shape: tuple[int, int],
    k: int,
    is_complex: bool,
    parametrization: str,
    features: tuple[Tensor | None, Tensor | None],
    hidden_dims: Sequence[int],
    activation: str,
) -> tuple[Factor, Factor]:
    """Untrained factors of the rows and the columns of a matrix; a side without features gets a table.

    Examples
    --------
    >>> left, right = make_factors((5, 4), 2, False, "features", (torch.ones(5, 3), None), (8,), "GELU")
    >>> type(left).__name__, type(right).__name__
    ('FeatureFactor', 'TableFactor')
    """

    def make(n: int, values: Tensor | None) -> Factor:
        if values is not None:
            return FeatureFactor(values, k, is_complex, hidden_dims, activation)
        if parametrization == "embedding":
            return EmbeddingFactor(n, k, is_complex, hidden_dims, activation)
        return TableFactor(n, k, is_complex)

    return make(shape[0], features[0]), make(shape[1], features[1])
