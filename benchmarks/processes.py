"""Two processes beside one on the same global batches: milliseconds of a step.

python benchmarks/processes.py            # some 2 minutes; needs two free cores

Each process computes in one thread. Processes are started by Fabric; the time is that of the training loop alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

import koopman_lora as kl
from koopman_lora.launching import is_first_process
from koopman_lora.training import train

N_PAIRS, N_MODES, N_STEPS, N_REPEATS = 32_768, 20, 24, 3
# hidden layers, coordinates, pairs of a global batch
CASES = [((64, 128, 64), 2, b) for b in (256, 1024, 4096, 16_384)] + [((512, 512, 512), 16, b) for b in (1024, 4096)]


def measure(devices: int, path: str) -> None:
    """Milliseconds of a step of every case by clock and by work, written by the first process."""
    found = []
    for hidden_dims, n_coordinates, batch_size in CASES:
        x = np.random.default_rng(0).normal(size=(N_PAIRS + 1, n_coordinates))
        x[1:] += 0.8 * x[:-1]
        split = kl.split_pairs(kl.lagged_pairs(x), 0)
        model = kl.KoopmanLoRAModel(
            n_coordinates, N_MODES, hidden_dims=hidden_dims, learn_svals=True, has_centering=True
        )
        n_epochs = max(1, N_STEPS * batch_size // N_PAIRS)
        options = kl.TrainingOptions(devices=devices, num_nodes=1)
        train(model, split, n_epochs=1, batch_size=batch_size, options=options)  # warm
        times = []
        for _ in range(N_REPEATS):  # the best of them: other work on the machine only adds
            before = time.process_time()
            result = train(model, split, n_epochs=n_epochs, batch_size=batch_size, options=options)
            worked = time.process_time() - before
            n_steps = n_epochs * result.history.attrs["steps_per_epoch"]
            times.append((1e3 * result.seconds / n_steps, 1e3 * worked / n_steps))
        found.append(np.min(times, axis=0).tolist())
    if is_first_process():
        with open(path, "w", encoding="utf-8") as file:
            json.dump(found, file)


def main() -> None:
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for devices in (1, 2):
            path = f"{folder}/{devices}.json"
            command = [sys.executable, os.path.abspath(__file__), str(devices), path]
            subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
            with open(path, encoding="utf-8") as file:
                tables[devices] = json.load(file)
    print("milliseconds of a step: by the clock, and of work in a process (the whole fit, without waiting)")
    print("hidden layers     batch      one: clock, work      two: clock, work each   speed-up   at most on free cores")
    for (hidden_dims, _, batch_size), one, two in zip(CASES, tables[1], tables[2], strict=True):
        widths = "-".join(map(str, hidden_dims))
        times = f"{one[0]:10.2f} {one[1]:10.2f} {two[0]:14.2f} {two[1]:10.2f}"
        print(f"{widths:14s} {batch_size:8,d} {times} {one[0] / two[0]:14.2f} {one[1] / two[1]:14.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        measure(int(sys.argv[1]), sys.argv[2])
