"""Factors take any outputs that they can represent."""

import pytest
import torch

from koopman_lora.svd.factors import EmbeddingFactor


@pytest.mark.parametrize("gain", [1.0, 300.0])
def test_embedding_takes_any_outputs(gain):
    torch.manual_seed(0)
    factor = EmbeddingFactor(9, 2, True, (8, 8), "GELU")
    with torch.no_grad():
        factor.mlp.head.weight.mul_(gain)  # an MLP that does not contract is made to
    target = torch.randn(9, 2, dtype=torch.complex128)
    factor.assign(target)
    torch.testing.assert_close(factor(), target)
