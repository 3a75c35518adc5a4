"""What Rayleigh-Ritz reads and writes of a model: functions that f and g are combinations of, and the coefficients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.moments import FeatureMap
from koopman_lora.normalisation import prepend_constant


def ritz_maps(model: KoopmanLoRAModel) -> tuple[FeatureMap, FeatureMap]:
    """Functions for f and for g, (batch, n_ritz), of raw states: 1, the inputs of the encoders, the last hidden layers.

    Inputs are left out where a state has more of them than `LINEAR_ENTRIES`.
    """

    def beside_inputs(trunk: FeatureMap) -> FeatureMap:
        def functions(x: Tensor) -> Tensor:
            z = model.prepare(x)
            return prepend_constant(torch.cat([z.flatten(1)[:, : n_linear(model)], trunk(z)], dim=1))

        return functions

    return beside_inputs(model.encoders.trunk_f), beside_inputs(model.encoders.trunk_g)


def n_linear(model: KoopmanLoRAModel) -> int:
    """Number of inputs among the functions of `ritz_maps`, behind the constant."""
    return model.linear.shape[1]


def head_matrices(model: KoopmanLoRAModel, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (n_ritz, n_modes) from functions of `ritz_maps` to the features of `model.raw_maps`; `x` is any state.

    Raises
    ------
    NoLinearHeadError
        If an encoder does not end in a linear layer.
    ValueError
        If a last hidden layer is too narrow for n_modes.
    """
    matrices = []
    for head, linear in zip(model.encoders.head_matrices(model.prepare(x[:1])), model.linear, strict=True):
        if len(head) < model.n_modes:
            raise ValueError(
                f"n_modes={model.n_modes} is more than the last hidden layer can carry ({len(head) - 1} units and the "
                "constant); give a wider last entry of hidden_dims."
            )
        matrix = torch.cat([head[:1], linear.to(head), head[1:]]).cpu().numpy()
        constant = np.eye(len(matrix), int(model.has_centering), dtype=matrix.dtype)
        matrices.append(np.concatenate([constant, matrix], axis=1))
    return matrices[0], matrices[1]


@torch.no_grad()
def set_heads(model: KoopmanLoRAModel, left: np.ndarray, right: np.ndarray, x: Tensor) -> None:
    """Make the features those with coefficients (n_ritz, n_modes) on the functions of `ritz_maps`; `x` is any state."""
    first, end = int(model.has_centering), 1 + n_linear(model)  # the constant mode is in no layer
    dtype = model.dtype.to_complex() if np.iscomplexobj(left) else model.dtype
    f, g = (torch.as_tensor(matrix[:, first:]).to(model.device, dtype) for matrix in (left, right))
    model.linear = torch.stack([f[1:end], g[1:end]])
    model.encoders.set_heads([f[end:], g[end:]], [f[0], g[0]], model.prepare(x[:1]))
    model.is_calibrated.fill_(not model.normalizes)
