import math

import numpy as np
import pytest
import torch
from torch import nn

from koopman_lora.encoder_pairs import EncoderPair, PairedMLP
from koopman_lora.encoders import CNN, MLP
from koopman_lora.optimisers import ENTRY_SIZE, N_ITERATIONS, MuonAdamW, hidden_matrices, orthogonalised


def matrices(seed, *shape, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


# ---- orthogonalising -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 7), (7, 7), (3, 5, 9)])
def test_singular_vectors_stay_and_singular_values_follow_the_polynomial(shape):
    """The same by the singular value decomposition: an odd polynomial of a matrix acts on its singular values."""
    x = matrices(0, *shape)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    for _ in range(N_ITERATIONS):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert torch.allclose(orthogonalised(x), u * s[..., None, :] @ vh, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_size_of_a_gradient_does_not_matter(scale):
    x = matrices(1, 2, 4, 6, dtype=torch.float32)
    assert torch.allclose(orthogonalised(scale * x), orthogonalised(x), atol=1e-5)


def test_a_gradient_of_zero_gives_no_direction():
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_what_is_not_hidden_steps_as_adamw_does():
    ours, theirs = (nn.Parameter(matrices(2, 5, 3)) for _ in range(2))
    hidden = nn.Parameter(matrices(3, 4, 4))
    muon = MuonAdamW(
        [{"params": [ours], "lr": 0.1}, {"params": [hidden], "lr": 0.1, "is_hidden": True}],
        weight_decay=0.3,
        fused=True,
    )
    adam = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.3)
    for seed in range(5):
        ours.grad = matrices(10 + seed, 5, 3)
        theirs.grad, hidden.grad = ours.grad.clone(), matrices(20 + seed, 4, 4)
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-12)
    assert len(muon.param_groups) == 2


def test_hidden_matrices_step_along_their_orthogonalised_momentum():
    """Two steps written out, of a stack of tall matrices, with decay."""
    start, first, second = matrices(4, 2, 6, 4), matrices(5, 2, 6, 4), matrices(6, 2, 6, 4)
    parameter = nn.Parameter(start.clone())
    optimizer = MuonAdamW([{"params": [parameter], "lr": 0.1, "is_hidden": True}], weight_decay=0.5, fused=False)
    expected, momentum = start, torch.zeros_like(start)
    beta = optimizer.param_groups[0]["betas"][0]
    for gradient in (first, second):
        parameter.grad = gradient
        optimizer.step()
        momentum = beta * momentum + (1 - beta) * gradient
        ahead = beta * momentum + (1 - beta) * gradient
        step = torch.stack([orthogonalised(matrix.T).T for matrix in ahead])
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * ENTRY_SIZE * math.sqrt(6) * step
    assert torch.allclose(parameter, expected, atol=1e-12)


def test_matrices_that_run_in_one_product_step_as_each_alone():
    wide, tall = matrices(7, 2, 3, 5), matrices(8, 2, 5, 3)
    together = [nn.Parameter(wide.clone()), nn.Parameter(tall.clone())]
    alone = [nn.Parameter(wide.clone()), nn.Parameter(tall.clone())]
    optimizers = [
        MuonAdamW([{"params": p, "lr": 0.1, "is_hidden": True}], 0.0, False) for p in (together, *[[q] for q in alone])
    ]
    for p in (together, alone):
        p[0].grad, p[1].grad = matrices(9, 2, 3, 5), matrices(10, 2, 5, 3)
    for optimizer in optimizers:
        optimizer.step()
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-14)


def test_a_matrix_without_a_gradient_stays():
    parameter = nn.Parameter(matrices(11, 3, 3))
    before = parameter.detach().clone()
    MuonAdamW([{"params": [parameter], "lr": 0.1, "is_hidden": True}], 0.5, False).step()
    assert torch.equal(parameter, before)


# ---- which matrices --------------------------------------------------------------------------------------------------


def test_hidden_matrices_are_neither_first_nor_last():
    assert [tuple(w.shape) for w in hidden_matrices(PairedMLP(2, 3, (8, 16, 4)))] == [(2, 8, 16), (2, 16, 4)]
    shared = EncoderPair(MLP(2, 3, (8, 16)))
    assert [tuple(w.shape) for w in hidden_matrices(shared)] == [(16, 8)]
    apart = EncoderPair(MLP(2, 3, (8, 16)), MLP(2, 3, (8, 16)))
    assert len(hidden_matrices(apart)) == 2


@pytest.mark.parametrize(
    "encoders",
    [PairedMLP(2, 3, (8,)), EncoderPair(nn.Linear(2, 3)), EncoderPair(CNN(1, 3))],
    ids=["narrow", "linear", "cnn"],
)
def test_some_encoders_have_none(encoders):
    assert hidden_matrices(encoders) == []


def test_frozen_matrices_are_left_out():
    frozen = MLP(2, 3, (8, 16))
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    assert hidden_matrices(EncoderPair(frozen)) == []
