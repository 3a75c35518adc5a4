"""The training step runs where the model is: nothing of it goes through the CPU, or waits for a number of the device.

There is no GPU here: these tests watch which operations a step consists of.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from koopman_lora.baselines import DPNetLoss, VAMPLoss
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.optimisers import MuonAdamW, hidden_matrices, parameter_groups
from koopman_lora.systems import NoisyRotation
from koopman_lora.training_loop import TrainingLoop
from koopman_lora.training_options import TrainingOptions

PAIRS = lagged_pairs(NoisyRotation().simulate(n_trajectories=2, n_steps=400, seed=1))
# Numbers of the device that the processor waits for, and sizes that only the device knows.
WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique", "masked_select", "item")


class Watch(TorchDispatchMode):
    """Names of the operations inside, and of those that would make the processor wait for a device."""

    def __init__(self):
        super().__init__()
        self.names, self.waiting = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.names.append(name)
        if name.lstrip("_") in [word.lstrip("_") for word in WAITING]:
            self.waiting.append(name)
        device = (kwargs or {}).get("device")
        if name == "_to_copy" and device is not None and args[0].device != torch.device(device):
            self.waiting.append(f"copy from {args[0].device} to {device}")
        return func(*args, **(kwargs or {}))


def step_of(loop):
    """One step of training, as `_epoch` does it."""
    loop.model.train()
    loop._step(*next(loop.batches))


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("nesting", ["jnt", "seq", None])
@pytest.mark.parametrize("options", [{}, {"gradient_clip": 1.0}])
def test_a_step_waits_for_no_number(precision, nesting, options):
    pairs, model = PAIRS.both_ways(), KoopmanLoRAModel(2, 4, (8, 8, 8), shared_encoder=True, learn_svals=True)
    loss = NestedLoRALoss(4, nesting, reg_weight=0.1)
    loop = TrainingLoop(model, split_pairs(pairs, 0), loss, TrainingOptions(precision=precision, **options))
    loop._configure(5, 100)
    step_of(loop)  # truncation weights of the nesting are made once
    with Watch() as watch:
        step_of(loop)
    assert "mm" in watch.names or "addmm" in watch.names
    assert watch.waiting == []


@pytest.mark.parametrize("nesting", ["jnt", "seq", None])
@pytest.mark.parametrize("arguments", [{"learn_svals": True, "has_centering": True}, {"use_batchnorm": True}])
def test_a_step_on_another_device_touches_no_other(nesting, arguments):
    """On the meta device tensors have no data: a number that is asked for raises, and so do mixed devices."""
    model = KoopmanLoRAModel(2, 4, (8, 8, 8), **arguments).to("meta").train()
    groups = parameter_groups(model, 1e-2, hidden_matrices(model.encoders))
    optimizer = MuonAdamW(groups, weight_decay=0.1, fused=False)
    for loss in (NestedLoRALoss(4, nesting, reg_weight=0.1), VAMPLoss(), DPNetLoss(relaxed=False)):
        x, x_next = (torch.empty(64, 2, dtype=torch.float64, device="meta") for _ in range(2))
        value = loss(*model.encode(model.prepare(x), model.prepare(x_next)), model.svals)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        assert value.device.type == "meta"
        assert {p.grad.device.type for p in model.parameters() if p.grad is not None} == {"meta"}
