"""Moments: how near their accumulation comes to the processor's own rate for products of float64 matrices.

    python benchmarks/moments.py                # one thread and two, a quarter of an hour

Features are there before the clock starts. The rate counts what the moments would take as one product each, `2 n k^2`;
all at once they need less, so it can exceed that of a large product, timed before and after in the same process.
Prints the median over rounds of the ratio of the two rates, with the quartiles.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

WIDTHS = (64, 128, 256, 512)
THREADS = (1, 2)
ROUNDS = 7
N_PAIRS, LARGE = 262_144, 1_536
N_ROWS = 8_192  # of the table that f and g read again and again, so that 512 features of all pairs need no memory
ASKED = 0.8


def seconds(work) -> float:
    # of one thread its own time, which other processes do not lengthen
    clock = time.thread_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    start = clock()
    work()
    return clock() - start


def ratios(k: int, single: bool) -> list[float]:
    """Rate of accumulation / rate of a large product, round by round."""
    import numpy as np
    import torch

    from koopman_lora.accumulation import estimate_moments
    from koopman_lora.moments import CROSS, SAME_MAP

    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(2, LARGE, LARGE))
    dtype = torch.float32 if single else torch.float64
    # what f and g give at x and at x' in turn: the state is the number of the pair and the time
    tables = {side: torch.from_numpy(rng.normal(size=(2, N_ROWS, k))).to(dtype) for side in "fg"}
    numbers = torch.arange(N_PAIRS)

    def reader(table):
        def features(states):
            start, at = int(states[0, 0]) % N_ROWS, int(states[0, 1])
            return table[at, start : start + len(states)]

        return features

    x, x_next = (torch.stack([numbers, torch.full_like(numbers, at)], dim=1) for at in (0, 1))
    flops = 2 * N_PAIRS * k**2 * len(CROSS + SAME_MAP)
    result = []
    for _ in range(ROUNDS + 1):
        before = seconds(lambda: A @ B)
        took = seconds(lambda: estimate_moments(reader(tables["f"]), reader(tables["g"]), (x, x_next)))
        rate = 2 * 2 * LARGE**3 / (before + seconds(lambda: A @ B))
        result.append(flops / took / rate)
    return result[1:]


def main() -> None:
    """Print a row per width and kind of features; each number of threads in a process of its own."""
    if len(sys.argv) == 1:
        for n_threads in THREADS:
            asked = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(n_threads))
            subprocess.run([sys.executable, __file__, str(n_threads)], check=True, env=os.environ | asked)
        return
    import numpy as np

    print(f"threads: {sys.argv[1]}; asked: {ASKED} or more")
    print(f"{'features':10s}{'k':>5s}{'median':>10s}{'quartiles':>16s}")
    for k in WIDTHS:
        for name, single in (("float32", True), ("float64", False)):
            low, median, high = np.quantile(ratios(k, single), (0.25, 0.5, 0.75))
            print(f"{name:10s}{k:5d}{median:10.2f}{low:10.2f}{high:6.2f}", flush=True)


if __name__ == "__main__":
    main()
