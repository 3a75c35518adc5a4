"""What `test_processes.py` does once in its own process and once in two: `torchrun ... work_of_processes.py FOLDER`."""

import atexit
import os
import pathlib
import signal
import sys
import warnings

import dask.array as da
import numpy as np
import torch
from torch import distributed, nn

from koopman_lora.accumulation import estimate_moments, moments_by_block
from koopman_lora.baselines import DPNetLoss, VAMPLoss
from koopman_lora.data.pairs import lagged_pairs
from koopman_lora.data.splits import split_pairs
from koopman_lora.launching import all_processes, is_first_process
from koopman_lora.losses import NestedLoRALoss
from koopman_lora.model import KoopmanLoRAModel
from koopman_lora.processes import alone, mean_of_all, part_of, processes
from koopman_lora.systems import NoisyRotation
from koopman_lora.training import fit, train
from koopman_lora.training_loop import TrainingLoop
from koopman_lora.training_options import TrainingOptions

SYSTEM = NoisyRotation(omega=0.7, noise=0.4)
PAIRS = lagged_pairs(SYSTEM.simulate(n_trajectories=3, n_steps=701, seed=1))
MANY = lagged_pairs(SYSTEM.simulate(n_trajectories=2, n_steps=8500, seed=2))
WEIGHTED = lagged_pairs(
    SYSTEM.simulate(n_trajectories=2, n_steps=801, seed=3), weights=np.random.default_rng(0).integers(0, 3, (2, 801))
)
BLOCKS = lagged_pairs(da.from_array(SYSTEM.simulate(1, 2101, seed=4).values[0], chunks=(97, 2)))
N_MODES, N_STEPS = 5, 100
DOUBLE = TrainingOptions(precision="64-true", weight_decay=1e-3)
MUON = TrainingOptions(precision="64-true", will_refine=True, gradient_clip=1.0)


class OneOfTheUsers(nn.Module):
    """A loss that is no function of second moments."""

    def forward(self, f, g, svals=None):
        distance = (f - g).square().sum(1).add(1e-3).sqrt()
        return distance.mean() + (f.std(0) - 1).square().sum() + (g.mean(0) - svals).square().sum()


# name: (pairs, loss, options, arguments of the model)
NORMALISED = {"learn_svals": True, "has_centering": True}
TRAININGS = {
    "joint nesting": (PAIRS, NestedLoRALoss(N_MODES), DOUBLE, NORMALISED),
    "orthogonalised momentum, clipped": (MANY, NestedLoRALoss(N_MODES), MUON, NORMALISED),
    "sequential nesting, penalty, batch norm": (
        PAIRS,
        NestedLoRALoss(N_MODES, "seq", reg_weight=0.1),
        DOUBLE,
        {"learn_svals": True, "use_batchnorm": True},
    ),
    "no nesting, plain features, biased": (
        PAIRS,
        NestedLoRALoss(N_MODES, None, unbiased=False, reg_weight=0.5, has_constant=True),
        DOUBLE,
        {"has_centering": True},
    ),
    "both ways": (PAIRS.both_ways(), NestedLoRALoss(N_MODES), DOUBLE, {"shared_encoder": True, **NORMALISED}),
    "weights": (WEIGHTED, NestedLoRALoss(N_MODES), DOUBLE, NORMALISED),
    "blocks": (BLOCKS, NestedLoRALoss(N_MODES), DOUBLE, NORMALISED),
    "blocks both ways": (BLOCKS.both_ways(), NestedLoRALoss(N_MODES), DOUBLE, {"shared_encoder": True, **NORMALISED}),
    "blocks, a loss of the user's": (BLOCKS, OneOfTheUsers(), DOUBLE, {"learn_svals": True}),
    "VAMP": (PAIRS, VAMPLoss("E"), DOUBLE, {}),
    "DPNet": (PAIRS, DPNetLoss(), DOUBLE, {}),
    "a loss of the user's": (PAIRS, OneOfTheUsers(), DOUBLE, {"learn_svals": True}),
}


def losses_of_steps(name):
    """Losses of the first steps, the final svals, and the held-out scores of the epochs."""
    pairs, loss, options, arguments = TRAININGS[name]
    seen = []
    plain = TrainingLoop._loss_of_all

    def remembered(self, *features):
        seen.append(plain(self, *features))
        return seen[-1]

    torch.manual_seed(processes().rank)  # the first weights of the first process are those of all
    model = KoopmanLoRAModel(2, N_MODES, hidden_dims=(16, 24, 16), **arguments)
    split, batch_size = split_pairs(pairs, 0.1), 200
    steps = max(1, round(len(split.training) / batch_size))
    TrainingLoop._loss_of_all = remembered
    try:
        result = train(model, split, loss=loss, n_epochs=-(-N_STEPS // steps), batch_size=batch_size, options=options)
    finally:
        TrainingLoop._loss_of_all = plain
    state = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {
        "losses": torch.stack(seen[:N_STEPS]).detach().numpy(),
        "scores": result.history.held_out_vamp_2.values,
        "state": state.numpy(),
        "epoch": result.best_epoch,
    }


def f(x):
    return torch.cat([torch.ones(len(x), 1), torch.exp(1j * x), x**2], dim=1)


def g(x):
    return torch.stack([x[:, 0] * x[:, 1], torch.cos(3 * x[:, 0]), x[:, 1] + 100.0], dim=1)


def moments_of_all():
    """Moments of every kind, whose blocks have as many pairs in each process, or not."""
    made = {}
    kinds = {"plain": PAIRS, "both ways": PAIRS.both_ways(), "three": PAIRS.select([5, 9, 700]), "weights": WEIGHTED}
    for name, pairs in kinds.items():
        for n_blocks in (1, 7):
            key = f"{name}, {n_blocks} blocks"
            moments = estimate_moments(f, g, pairs, observables=lambda x: x**3, n_blocks=n_blocks, batch_size=100)
            made |= {f"{key}, {m}": sums for m, sums in moments.block_sums.items()}
            made |= {f"{key}, counts": moments.block_counts, f"{key}, orientation": moments.orientation_sums}
            made |= {f"{key}, shifts {side}": shift for side, shift in moments.shifts.items()}
    made["empty process"] = estimate_moments(f, g, PAIRS.select([7])).M_f
    scattered = np.arange(len(PAIRS)) % 3
    made["scattered blocks"] = moments_by_block(f, g, PAIRS, scattered).block_sums["T_fg"]
    return made


def interrupted(folder):
    """Histories of a run, and of one that one process alone was told to stop, and that went on."""
    plain = TrainingLoop._loss_of_all
    calls = iter(range(10**6))

    def interrupting(self, *features):
        if next(calls) == 13 and processes().rank == processes().size - 1:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *features)

    def history(**options):
        torch.manual_seed(0)
        model = KoopmanLoRAModel(2, N_MODES, hidden_dims=(8,), **NORMALISED)
        options = TrainingOptions(precision="64-true", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = train(model, split_pairs(PAIRS, 0.1), n_epochs=4, options=options)
        return result.stop_reason, result.history.loss.values

    whole = history()
    TrainingLoop._loss_of_all = interrupting
    try:
        stopped = history(checkpoint=folder)
    finally:
        TrainingLoop._loss_of_all = plain
    resumed = history(checkpoint=folder, resume=True)
    return {
        "stopped: reasons": np.array([whole[0], stopped[0], resumed[0]]),
        "stopped: after": len(stopped[1]),
        "stopped: whole": whole[1],
        "stopped: resumed": resumed[1],
    }


def everything():
    """Results by name, arrays each."""
    made = {f"moments: {name}": value for name, value in moments_of_all().items()}
    for name in TRAININGS:
        made |= {f"{name}: {what}": value for what, value in losses_of_steps(name).items()}
    return made


def refusals():
    """What goes wrong in one process is told in both, and nothing waits."""
    rank = processes().rank

    def told(work):
        try:
            work()
        except ValueError as error:
            return str(error)
        return "nothing"

    def nan_in_the_last(x):
        return torch.where(torch.isclose(x[:, :1], PAIRS.x[-1, 0]), torch.nan, x[:, :1])

    model = KoopmanLoRAModel(2, 3, hidden_dims=(4,))
    other = PAIRS.select(np.arange(len(PAIRS) - rank))
    return {
        "nan": told(lambda: estimate_moments(nan_in_the_last, g, PAIRS)),
        "other pairs": told(lambda: fit(model, split_pairs(other, 0), n_epochs=1)),
        "small batch": told(lambda: fit(model, split_pairs(PAIRS, 0), n_epochs=1, batch_size=3)),
    }


def run(folder):
    torch.set_num_threads(1)
    left = pathlib.Path(folder) / f"{os.environ['RANK']}.left"
    atexit.register(lambda: left.write_text(str(distributed.is_initialized())))  # after all that is registered later
    with all_processes(DOUBLE):
        rank, made = processes().rank, everything()
        made |= {f"refused: {name}": text for name, text in refusals().items()}
        made |= interrupted(pathlib.Path(folder) / "checkpoint")
        made["part"] = np.array([part_of(7).start, part_of(7).stop])
        with alone():
            made["alone"] = mean_of_all([torch.tensor(float(rank))], [1])[0][0].numpy()
    assert processes().size == 1
    made["is first"] = is_first_process()
    np.savez(pathlib.Path(folder) / f"{rank}.npz", **made)


if __name__ == "__main__":
    run(sys.argv[1])
