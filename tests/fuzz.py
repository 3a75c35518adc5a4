"""Every public function and method with hostile input: `python tests/fuzz.py --calls 10000 --seed 0`.

A call is a valid one in which one argument, sometimes two, gives way to something that users pass by mistake; with
`--every`, each argument in turn to each such thing, some 32,000 calls. It may answer, or raise an error that names the
argument. An offence is all else: another error, one that names nothing, NaN that nothing announces, a warning of
NumPy's, a hang, a crash. Calls run in a process of their own with bounded memory.
"""

import argparse
import collections
import contextlib
import dataclasses
import inspect
import io
import multiprocessing
import pathlib
import re
import resource
import sys
import tempfile
import traceback
import warnings
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from hostile_values import hostile
from valid_calls import targets

import koopman_lora as kl

SECONDS = 60
MEMORY = 12 << 30
# Below it are no calls: before call 0 come the valid ones, numbered up to -1.
FIRST = -1000
# Share of the calls that spoil two arguments.
TWO = 0.1
# What may be raised, if it names the argument.
DOCUMENTED = (ValueError, TypeError, OSError, ImportError)
# Words that name an argument beside its own: data are told by the trajectory, the moments by what they are made of.
ALSO_CALLED = {
    "X": {"data", "trajectory", "states", "x", "path"},  # a text is a path
    "data": {"trajectory", "path"},
    "pairs": {"data", "x", "x_next", "weights"},  # the third of a tuple
    "loader": {"pairs", "x", "x_next"},
    "batches": {"x", "x_next"},
    "train": {"moments", "pairs"},
    "test": {"moments", "data", "trajectory"},
    "held_out": {"moments"},
    "moments_by_lag": {"moments", "pairs"},
    # coherent sets: the functions are phi above psi
    "phi": {"functions"},
    "psi": {"functions"},
    # states of the next frame are states, too
    "x_next": {"x"},
    "z": {"x"},
    "z_next": {"x"},
    # each of several matrices is the H of a fit; features were called so in `fit`
    "matrices": {"H", "n_modes"},
    "lags": {"lag"},
    "coordinates": {"periodic"},
    "features": {"row_features", "column_features"},
}
# A wrong number of entries may be told of another argument, which it no longer fits.
FITS_NO_MORE = (
    "no ", "without coordinates",
    "transposed", "no rows", "one row", "narrower", "wider", "flat", "larger", "huge", "thousand million", "beyond",
    "one feature", "twice", "one entry",
    "none", "one coordinate", "0-d array", "empty array", "labelled", "matrix", "first:", "no clock", "gives",
    "resampled",
)  # fmt: skip
# Numbers of steps to run: a huge one is no mistake, it takes as long as it says.
RUNS_LONG = {"n_epochs", "n_fits", "max_steps", "polish_steps", "n_shifts", "n_trajectories", "n_steps"}
# Numbers of processes: as many are started.
STARTS_PROCESSES = {"devices", "num_nodes"}
# Variables and fields that may be NaN or infinite, as their documentation says.
NOT_FINITE = {
    "timescales": "infinite where |lambda| = 1, NaN above",
    "periods": "infinite of what does not turn",
    "committors": "NaN for source = target",
    "noise_threshold": "NaN for the constant, which is not on trial",
    "threshold": "infinite where the trained heads stay",
    "thresholds": "infinite where the trained heads stay",
    "scores": "-inf of functions that are made of round-off",
    "timescales_interval": "as timescales, and without upper bound where |lambda| may be 1",
    "eigenvalue_condition": "infinite where an eigenvalue of the rank-n operator is 0",
    "left_eigenfunction_coefficients": "NaN where an eigenvalue of the rank-n operator is 0",
    "residual": "NaN for linearly dependent features, flagged by is_spurious",
    "autocorrelation_error": "NaN for linearly dependent features, flagged by is_spurious",
    "relative_rmse": "NaN for observables that do not vary",
    "relative_rmse_mean": "NaN where no observable varies",
    "ratio": "NaN where a learned singular value is 0",
    "canonical_held_out": "NaN without held-out pairs",
    "held_out_error": "NaN without held-out pairs",
    "size": "NaN for the generalisation gap without held-out pairs",
    "gap": "its interval is NaN for moments of one block",
    "votes": "NaN for moments of one block",
    "slowest_interval": "NaN for moments of fewer than 8 blocks",
    "mean_first_passage_times": "infinite where a state is never reached",
    "rates": "as mean_first_passage_times",
    "stationary_distribution": "NaN where there are several",
    "drift": "NaN of a constant, and of trajectories that are too short for it",
    "drift_error": "as drift",
    "drift_p_value": "as drift",
    "autocorrelation_time": "NaN of a constant",
    "effective_samples": "NaN of a constant",
    "largest_step": "NaN of a constant",
    "period": "NaN of what looks neither like an angle nor like a position in a box",
}
# Functions of numbers that may be NaN or infinite themselves.
# `LaggedPairs` holds what `lagged_pairs` has checked.
OF_ANY_NUMBERS = (
    "LaggedPairs", "Bootstrap.percentiles", "Clock.timescales", "Clock.frequencies", "Clock.periods",
    "evaluate_on_grid", "Field.maps", "Field.fields", "cut_trajectory",
)  # fmt: skip
# Called in every step of a training, or by functions of the user's: not finite in, not finite out, as torch does.
AS_TORCH_DOES = ("forward", "f", "g", "encode", "raw", "prepare", "with_constant", "lora_loss", "flat_state")


class Outcome(NamedTuple):
    """What became of a call; `offence` is empty, or says what is wrong with it."""

    target: str
    spoiled: tuple[tuple[str, str], ...]
    answer: str
    offence: str = ""
    detail: str = ""


def spoil(arguments, rng):
    """Which arguments give way to what: [(argument, name of the hostile value, the value)]."""
    names = list(arguments)
    n = 1 + int(len(names) > 1 and rng.random() < TWO)
    spoiled = []
    for name in map(str, rng.permutation(names)[:n]):
        values = mistakes(name, arguments[name])
        kind = str(rng.choice(list(values)))
        spoiled.append((name, kind, values[kind]))
    return spoiled


def mistakes(name, value):
    """What an argument may give way to, by name; nothing that rightly takes for ever."""
    values = hostile(value)
    if name in RUNS_LONG:
        values = {k: v for k, v in values.items() if not (isinstance(v, (int, float)) and v > 1000)}
    if name in STARTS_PROCESSES:
        values = {k: v for k, v in values.items() if not (isinstance(v, (int, float)) and v > 1)}
    if name == "n_epochs":  # so does the default number
        values.pop("None")
    return values


def call(target, spoiled=()):
    """Call a target with some arguments spoiled, and judge what happens."""
    function, arguments = target.fresh()
    arguments |= {name: value for name, _, value in spoiled}
    what = tuple((name, kind) for name, kind, _ in spoiled)
    try:
        with warnings.catch_warnings(record=True) as told, contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("always")
            result = function(**arguments)
            result = list(result) if inspect.isgenerator(result) else result
    except Exception as error:
        return Outcome(target.name, what, type(error).__name__, *_judged(error, what, arguments))
    finally:
        plt.close("all")
    wrong = [w for w in told if issubclass(w.category, RuntimeWarning) or "not writable" in str(w.message)]
    if wrong:
        place = f"{wrong[0].filename}:{wrong[0].lineno}"
        return Outcome(target.name, what, "answer", f"{wrong[0].category.__name__}: {wrong[0].message}", place)
    is_open = target.name in OF_ANY_NUMBERS or target.name.rpartition(".")[2] in AS_TORCH_DOES
    unsound = [] if is_open else sorted(set(not_finite(result, target.name)))
    if unsound and not told:
        return Outcome(target.name, what, "answer", f"not finite: {', '.join(unsound)}")
    return Outcome(target.name, what, "answer")


def _judged(error, spoiled, arguments):
    """(offence, detail) of an error, empty where it is documented and names an argument that was spoiled."""
    text = str(error)
    known = {word for name, _ in spoiled for word in {name, *ALSO_CALLED.get(name, ())}}
    if any(kind.startswith(FITS_NO_MORE) for _, kind in spoiled):
        known |= set(arguments)
    if isinstance(error, DOCUMENTED) and any(re.search(rf"\b{re.escape(word)}\b", text) for word in known):
        return "", ""
    if isinstance(error, OSError) and error.filename is not None:
        return "", ""
    files = [str(arguments[name]) for name, _ in spoiled if name in ("path", "paths", "topology")]
    if isinstance(error, DOCUMENTED) and any(repr(file) in text for file in files):  # a file is named by its name
        return "", ""
    if isinstance(error, kl.NonFiniteLossError):  # a documented end of a training, with a remedy
        return "", ""
    frames = traceback.extract_tb(error.__traceback__)
    if frames[-1].filename.endswith(("hostile_values.py", "valid_calls.py")):
        return "", ""  # a function of the user's failed by itself
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "koopman_lora" in f.filename] or [None]
    frame = ours[-1]
    place = f"{pathlib.Path(frame.filename).name}:{frame.lineno} {frame.name}" if frame else ""
    kind = "names no argument" if isinstance(error, DOCUMENTED) else "undocumented"
    return f"{kind}: {type(error).__name__}: {text[:150]!r}", place


def not_finite(result, name="result"):
    """Names of what is NaN or infinite inside a result, of any kind."""
    if name in NOT_FINITE or name.removesuffix("_interval") in NOT_FINITE:
        return
    if isinstance(result, torch.Tensor):
        result = result.detach().double().numpy() if result.dtype == torch.bfloat16 else result.detach().numpy()
    if isinstance(result, (np.ndarray, float, complex, np.generic)):
        if np.asarray(result).dtype.kind in "fc" and not np.isfinite(result).all():
            yield name
    for key, part in _parts(result, name):
        yield from not_finite(part, key)


def _parts(result, name):
    """What a result is made of, with names."""
    if isinstance(result, xr.Dataset):
        return [(str(key), variable.values) for key, variable in result.variables.items()]
    if isinstance(result, xr.DataArray):
        return [(str(result.name), result.values)]
    if isinstance(result, dict):
        return list(result.items())
    if isinstance(result, (list, tuple)):
        return list(zip(getattr(result, "_fields", [name] * len(result)), result, strict=True))
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return [(field.name, getattr(result, field.name)) for field in dataclasses.fields(result)]
    return []


# ---- many calls in a process of their own ----------------------------------------------------------------------------


def work(pipe, seed, numbers, every=False):
    """Child: say what is about to be called, call it, say what became of it. Negative numbers are valid calls."""
    mpl.use("Agg")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where a text is taken for a path
        known = list(targets(pathlib.Path(folder)).values())
        with_arguments = [target for target in known if target.arguments]
        single = []
        if every:
            single = [(t, a, k) for t in with_arguments for a, v in t.arguments.items() for k in mistakes(a, v)]
        pipe.send("ready")
        for number in range(max(numbers.start, -len(known)), min(numbers.stop, len(single)) if every else numbers.stop):
            rng = np.random.default_rng([seed, max(number, 0)])
            if number < 0:
                target, spoiled = known[number], []
            elif every:
                target, name, kind = single[number]
                spoiled = [(name, kind, mistakes(name, target.arguments[name])[kind])]
            else:
                target = with_arguments[rng.integers(len(with_arguments))]
                spoiled = spoil(target.arguments, rng)
            pipe.send((number, target.name, [(name, kind) for name, kind, _ in spoiled]))
            pipe.send(call(target, spoiled))
    pipe.send(None)


def run(seed, numbers, every=False):
    """Outcomes (number, outcome) of calls; a hang or a crash is one, and the calls after it go on."""
    context = multiprocessing.get_context("fork")
    while True:
        here, there = context.Pipe()
        child = context.Process(target=work, args=(there, seed, numbers, every), daemon=True)
        child.start()
        there.close()
        about = None
        try:
            here.poll(600)
            here.recv()
            while (about := here.recv()) is not None:
                if not here.poll(SECONDS):
                    raise TimeoutError(f"no answer within {SECONDS} s")
                yield about[0], here.recv()
            child.join()
            return
        except (EOFError, TimeoutError, ConnectionError) as error:
            child.kill()
            child.join()
            if about is None:
                raise RuntimeError("the valid objects could not be made; see above") from error
            what = "hang" if isinstance(error, TimeoutError) else f"crash, exit code {child.exitcode}"
            yield about[0], Outcome(about[1], tuple(about[2]), "none", what)
            numbers = range(about[0] + 1, numbers.stop)


def main(argv=None):
    """Run, print, and return 1 if there was an offence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", action="store_true", help="every mistake in every argument, instead of --calls")
    parser.add_argument("--only", type=int, help="number of the one call to make again")
    options = parser.parse_args(argv)
    last = sys.maxsize if options.every else options.calls
    numbers = range(FIRST, last) if options.only is None else range(options.only, options.only + 1)
    answers, offences = collections.Counter(), collections.defaultdict(list)
    for number, outcome in run(options.seed, numbers, options.every):
        answers[outcome.answer] += 1
        if outcome.offence:
            offences[outcome.offence, outcome.detail, outcome.target].append((number, outcome))
    for (offence, detail, target), found in sorted(offences.items(), key=lambda item: item[0][::-1]):
        number, outcome = found[0]
        how = ", ".join(f"{name}: {kind}" for name, kind in outcome.spoiled) or "valid call"
        again = f"{'--every' if options.every else f'--seed {options.seed}'} --only {number}"
        print(f"{target}({how})  [{offence}] {detail}  ({len(found)}x; {again})")
    print(f"{'outcome':24} calls")
    for answer, count in answers.most_common():
        print(f"{answer:24} {count}")
    n = sum(map(len, offences.values()))
    print(f"{answers.total()} calls, {n} offences")
    return int(n > 0)


if __name__ == "__main__":
    sys.exit(main())
