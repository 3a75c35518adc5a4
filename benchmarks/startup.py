"""Start-up: seconds until the package, its estimator and the command line's help are there, each in a new process.

    OMP_NUM_THREADS=1 python benchmarks/startup.py        # about a minute

Prints smallest and median seconds of whole processes, and beside what was asked the median, of ratios round by round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 7
LIBRARIES = "import torch, xarray, sklearn.base"
PACKAGE = "import koopman_lora"
ESTIMATOR = "import koopman_lora; koopman_lora.KoopmanLoRA"
HELP = "from koopman_lora.cli import main; main(['--help'])"
RUNS = ("pass", PACKAGE, HELP, LIBRARIES, ESTIMATOR)


def seconds(code: str) -> float:
    """Of a new process that runs `code`, from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure() -> dict[str, list[float]]:
    """Seconds of each of RUNS, every other round in reverse, after one that fills the caches."""
    rounds = [{code: seconds(code) for code in RUNS[:: (-1) ** i]} for i in range(ROUNDS + 1)]
    return {code: [of_round[code] for of_round in rounds[1:]] for code in RUNS}


def main() -> None:
    """Print both tables."""
    found = measure()
    print(f"{'seconds of a process':54s}{'smallest':>10s}{'median':>10s}")
    for code, values in found.items():
        print(f"{code:54s}{min(values):10.3f}{statistics.median(values):10.3f}")
    ratios = [one / other for one, other in zip(found[ESTIMATOR], found[LIBRARIES], strict=True)]
    print(f"\n{'asked':54s}{'at most':>10s}{'median':>10s}")
    for name, limit, values in (
        (f"{PACKAGE}, s", 0.3, found[PACKAGE]),
        ("kl.KoopmanLoRA / torch, xarray, sklearn.base", 1.1, ratios),
        ("koopman-lora --help, s", 1.0, found[HELP]),
    ):
        print(f"{name:54s}{limit:10.1f}{statistics.median(values):10.3f}")


if __name__ == "__main__":
    main()
