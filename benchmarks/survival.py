"""Does anything get lost? Fits that are killed and resumed, and files that are damaged and read.

`python benchmarks/survival.py --kills 50 --damages 1000 --seed 0`; `--first 20` starts with the twentieth kill, so that
parts can run apart. A line of JSON at the end counts what happened.

Half of the kills come at a moment of the clock, drawn from the time of a fit; half at an operation on files, drawn from
all that a fit does: in the middle of a write, before a flush, a rename, a removal. The process that fits is a fork of
this one, where everything is imported, and keeps a checkpoint after every step. Every other fit finds an older analysis
in its folder, and every third one is of two seeds.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

import koopman_lora as kl
from koopman_lora import checkpoints
from koopman_lora.cli import main
from koopman_lora.sealed_tensors import read_sealed

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = ["--n-modes", "3", "--hidden-dims", "8", "6", "--n-epochs", "4", "--checkpoint-every", "0", "--quiet"]
NEVER = 10**9


def fit_arguments(folder, n_fits, data):
    out, kept = str(folder / "out"), str(folder / "kept")
    return ["fit", data, "--out", out, "--checkpoint", kept, "--resume", "--n-fits", str(n_fits), *OPTIONS]


# ---- a process that is killed ----------------------------------------------------------------------------------------


def count_operations(last):
    """Count what this process does to files from now on, and kill it at operation number `last`."""
    done = [0]

    def dies(half=None):
        done[0] += 1
        if done[0] == last:
            if half is not None:
                half()
            os.kill(os.getpid(), signal.SIGKILL)

    def before(module, name):
        function = getattr(module, name)

        def operation(*arguments, **named):
            dies()
            return function(*arguments, **named)

        setattr(module, name, operation)

    def in_the_middle(name):
        function = getattr(pathlib.Path, name)

        def write(path, content, **named):
            dies(lambda: function(path, content[: len(content) // 2], **named))
            return function(path, content, **named)

        setattr(pathlib.Path, name, write)

    for name in ("mkdir", "replace", "fsync", "unlink", "rmdir", "chmod"):
        before(os, name)
    for name in ("write_bytes", "write_text"):
        in_the_middle(name)
    return done


def run(arguments, delay=None, operation=NEVER, counted=None):
    """Run the command line in a fork; its exit status, negative for a signal.

    Parameters
    ----------
    delay : seconds until it is killed
    operation : number of the operation on files that it is killed at
    counted : file for the number of operations of a whole run
    """
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        done, status = count_operations(operation), 1
        try:
            status = main(arguments)
        finally:
            if counted is not None:
                with open(counted, "w") as file:
                    file.write(str(done[0]))
            os._exit(status)
    start = time.monotonic()
    while True:
        ended, status = os.waitpid(process, 0 if delay is None else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - start > delay:
            os.kill(process, signal.SIGKILL)
            delay = None
        time.sleep(0.001)


# ---- what must be true of it -----------------------------------------------------------------------------------------


def result_of(folder):
    """All bits of the weights and of the history in an analysis."""
    model = kl.load_model(folder / "out" / "model.safetensors")
    history, spectrum = (kl.load_dataset(folder / "out" / name) for name in ("history.nc", "spectrum.nc"))
    bits = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    bits |= {name: values.values.tobytes() for name, values in {**history.data_vars, **spectrum.data_vars}.items()}
    return bits | {"best_epoch": history.attrs["best_epoch"]}


def unreadable(folder, has_older):
    """Files under their own name that cannot be read, of a run that was killed."""
    found = []
    for path in (folder / "kept").rglob("[!.]*.safetensors"):
        if not path.parent.name.startswith("."):
            found += failures(path, lambda path=path: read_sealed(path, checkpoints.FORMAT, "a checkpoint"))
    if has_older or (folder / "out" / "analysis.json").exists():
        found += failures(folder / "out", lambda: kl.open_analysis(folder / "out").summary())
    return found


def failures(path, read):
    try:
        read()
    except Exception as error:
        return [f"{path}: {type(error).__name__}: {error}"]
    return []


def left_over(folder):
    return [str(path) for path in folder.rglob("*") if path.name.startswith(".") or path.name == "incomplete"]


def kill(folder, rng, number, data, wholes, older):
    """Kill a fit, look, resume it, compare; what happened, or None if it ended before it was killed."""
    n_fits = 2 if number % 3 == 2 else 1
    expected, seconds, n_operations = wholes[n_fits]
    arguments, has_older = fit_arguments(folder, n_fits, data), number % 2 == 1
    if has_older:
        older.save(folder / "out")
    if number // 2 % 2:
        how = {"delay": float(rng.uniform(0, seconds))}
    else:
        how = {"operation": int(rng.integers(1, n_operations + 1))}
    if run(arguments, **how) != -signal.SIGKILL:
        return None
    broken = unreadable(folder, has_older)
    had_checkpoint = any((folder / "kept").rglob(checkpoints.NEWEST)) if (folder / "kept").exists() else False
    status = run(arguments)
    exact = status == 0 and result_of(folder) == expected
    return how | {
        "number": number,
        "had_checkpoint": had_checkpoint,
        "exact": exact,
        "unreadable": broken,
        "left_over": left_over(folder),
    }


def kills(n, first, seed):
    """Results of kills number `first` to `n`; those that came too late are drawn again."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        states = kl.systems.NoisyRotation().simulate(n_trajectories=2, n_steps=400, seed=0)
        data = str(kl.save_dataset(states, place / "x.nc"))
        older = kl.KoopmanLoRA(2, hidden_dims=(4,), n_epochs=1, progress=False).fit(states)
        wholes = {}
        for n_fits in (1, 2):
            folder, counted = place / f"whole_{n_fits}", place / "counted"
            start = time.monotonic()
            if run(fit_arguments(folder, n_fits, data), counted=counted) != 0:
                raise SystemExit("a fit that nobody kills fails")
            wholes[n_fits] = result_of(folder), time.monotonic() - start, int(counted.read_text())
        for number in range(first, n):
            outcome, attempt = None, 0
            while outcome is None:
                rng, folder = np.random.default_rng([seed, number, attempt]), place / f"{number}_{attempt}"
                outcome, attempt = kill(folder, rng, number, data, wholes, older), attempt + 1
            print(json.dumps(outcome), flush=True)
            yield outcome


# ---- damage ----------------------------------------------------------------------------------------------------------


def damages(n, seed):
    """Cases of `tests/damaged_files.py`, in a process of their own; and its exit status."""
    sys.path.insert(0, str(ROOT / "tests"))
    import damaged_files

    kinds = list(damaged_files.KINDS)
    each = -(-n // len(kinds))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, damaged_files.__file__, folder, ",".join(kinds), str(seed), str(each)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    can_tell = {kind: whether for kind, (_, _, whether) in damaged_files.KINDS.items()}
    cases = [line for line in lines if len(line) > 2]
    return {
        "damages": len(cases),
        "clear_errors": sum(case.get("is_expected", False) for case in cases),
        "other_errors": [case for case in cases if not case.get("is_expected", True)],
        "read_unharmed": sum(case.get("same", False) for case in cases),
        "read_changed_by_formats_without_checksum": sum(
            not case.get("same", True) and not can_tell[case["kind"]] for case in cases
        ),
        "read_changed": [case for case in cases if not case.get("same", True) and can_tell[case["kind"]]],
        "exit_status": done.returncode,
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first kill")
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    a = parse()
    outcomes = list(kills(a.kills, a.first, a.seed)) if a.kills > a.first else []
    counts = {
        "kills": len(outcomes),
        "by_the_clock": sum("delay" in outcome for outcome in outcomes),
        "in_an_operation_on_files": sum("operation" in outcome for outcome in outcomes),
        "had_checkpoint": sum(outcome["had_checkpoint"] for outcome in outcomes),
        "exact": sum(outcome["exact"] for outcome in outcomes),
        "unreadable": [text for outcome in outcomes for text in outcome["unreadable"]],
        "left_over": [text for outcome in outcomes for text in outcome["left_over"]],
    }
    print(json.dumps(counts | (damages(a.damages, a.seed) if a.damages else {})))
