"""`koopman-lora`: the package on the command line, on files; every flag is the argument of the function it calls."""

from __future__ import annotations

import argparse
import inspect
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from koopman_lora import systems
from koopman_lora.demo import prepare_folder, run_demo, spectrum_table
from koopman_lora.diagnostics import compare_singular_values, comparison_text
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.intervals import bootstrap_intervals
from koopman_lora.io import load_model, save_dataset, save_model
from koopman_lora.matrix_svd import NeuralSVD
from koopman_lora.moments import estimate_moments
from koopman_lora.spectrum import model_spectrum
from koopman_lora.trajectories import lagged_pairs, open_trajectories

_FIT_FLAGS = (
    "n_modes",
    "lag",
    "n_epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "held_out",
    "nesting",
    "activation",
    "reg_weight",
    "dt",
    "time_unit",
    "accelerator",
    "precision",
    "seed",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 after a message on standard error.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     main(["simulate", "NoisyRotation", "--n-steps", "50", "--out", folder + "/x.nc"])
    wrote ...x.nc: {'trajectory': 1, 'time': 50, 'coordinate': 2}
    0
    """
    arguments = make_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"koopman-lora {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser with all its sub-commands."""
    parser = argparse.ArgumentParser(prog="koopman-lora", description="Koopman singular values from trajectories.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    _add_simulate(commands)
    _add_fit(commands)
    _add_spectrum(commands)
    _add_svd(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="fit a four-well landscape and write everything into a folder")
    demo.add_argument("--out", default="runs/demo", help="folder to write (default: %(default)s)")
    demo.set_defaults(run=lambda a: run_demo(a.out))


def _add_simulate(commands: Any) -> None:
    simulate = commands.add_parser("simulate", help="simulate a system and write its trajectories")
    names = [
        n for n in dir(systems) if isinstance(getattr(systems, n), type) and hasattr(getattr(systems, n), "simulate")
    ]
    simulate.add_argument(
        "system", choices=[n for n in names if n != "System"], help="class name in koopman_lora.systems"
    )
    simulate.add_argument("--parameters", default="{}", help="constructor arguments as JSON, e.g. '{\"order\": 20}'")
    simulate.add_argument("--n-trajectories", type=int, default=1)
    simulate.add_argument("--n-steps", type=int, default=1000, help="frames per trajectory")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--out", required=True, help=".nc or .zarr file to write")
    simulate.set_defaults(run=_simulate)


def _simulate(a: argparse.Namespace) -> None:
    try:
        parameters = json.loads(a.parameters)
    except json.JSONDecodeError as error:
        raise ValueError(f"parameters must be a JSON object; got {a.parameters!r} ({error}).") from None
    system = getattr(systems, a.system)(**parameters)
    trajectories = system.simulate(n_trajectories=a.n_trajectories, n_steps=a.n_steps, seed=a.seed)
    print(f"wrote {save_dataset(trajectories, a.out)}: {dict(trajectories.sizes)}")


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", help="fit trajectories and write model, spectrum and history into a folder")
    fit.add_argument("data", help="trajectories: .nc, .zarr or .npy")
    fit.add_argument("--out", required=True, help="folder to write")
    defaults = inspect.signature(KoopmanLoRA).parameters
    types = {"n_epochs": int, "dt": float, "time_unit": str}
    for name in _FIT_FLAGS:
        default = defaults[name].default
        flag = "--" + name.replace("_", "-")
        fit.add_argument(flag, type=types.get(name, type(default)), default=default, help="default: %(default)s")
    fit.add_argument("--no-refine", dest="refine", action="store_false", help="leave out the Rayleigh-Ritz refinement")
    fit.set_defaults(run=_fit)


def _fit(a: argparse.Namespace) -> None:
    folder = prepare_folder(a.out)
    nesting = None if a.nesting == "none" else a.nesting
    options = {name: getattr(a, name) for name in _FIT_FLAGS} | {"nesting": nesting, "refine": a.refine}
    estimator = KoopmanLoRA(**options, progress=True).fit(open_trajectories(a.data))
    save_model(estimator.model_, folder / "model.safetensors")
    save_dataset(estimator.spectrum_, folder / "spectrum.nc")
    save_dataset(estimator.training_.history, folder / "history.nc")
    print(spectrum_table(estimator.spectrum_))
    print(f"\nmodel, spectrum and history are in {folder}/")


def _add_spectrum(commands: Any) -> None:
    spectrum = commands.add_parser("spectrum", help="spectrum of a fitted model on trajectories")
    spectrum.add_argument("model", help="model.safetensors")
    spectrum.add_argument("data", help="trajectories: .nc, .zarr or .npy")
    spectrum.add_argument("--out", help=".nc or .zarr file to write")
    spectrum.add_argument("--intervals", metavar="FILE", help="also write bootstrap intervals to a .nc or .zarr file")
    spectrum.add_argument(
        "--diagnose", action="store_true", help="print learned against empirical values, and the verdict"
    )
    spectrum.set_defaults(run=_spectrum)


def _spectrum(a: argparse.Namespace) -> None:
    model = load_model(pathlib.Path(a.model))
    pairs = lagged_pairs(open_trajectories(a.data), model.lag, check_constant=False)
    moments = estimate_moments(model.f, model.g, pairs)
    result = model_spectrum(model, moments)
    print(spectrum_table(result))
    svals = result["svals"].values if "svals" in result else None
    physical = {"lag": model.lag, "dt": model.dt, "time_unit": model.time_unit}
    if a.diagnose:
        print("\n" + comparison_text(compare_singular_values(moments, svals, **physical)))
    if a.intervals:
        print(f"\nwrote {save_dataset(bootstrap_intervals(moments, svals, **physical), a.intervals)}")
    if a.out:
        print(f"\nwrote {save_dataset(result, a.out)}")


def _add_svd(commands: Any) -> None:
    svd = commands.add_parser("svd", help="low-rank singular value decomposition of a given matrix")
    svd.add_argument("matrix", help=".npy (dense) or .npz (scipy.sparse) file")
    svd.add_argument("--out", required=True, help=".nc or .zarr file to write")
    svd.add_argument("--modes", dest="n_modes", type=int, help="number of singular triples (default: all)")
    svd.add_argument("--energy", type=float, help="instead: as many triples as hold this share of the squared norm")
    defaults = inspect.signature(NeuralSVD).parameters
    for name in ("parametrization", "orthogonality", "phase", "polish_steps", "seed"):
        default = defaults[name].default
        svd.add_argument(
            "--" + name.replace("_", "-"), type=type(default), default=default, help="default: %(default)s"
        )
    svd.set_defaults(run=_svd)


def _svd(a: argparse.Namespace) -> None:
    orthogonality = None if a.orthogonality == "none" else a.orthogonality
    options = {n: getattr(a, n) for n in ("n_modes", "energy", "parametrization", "phase", "polish_steps", "seed")}
    svd = NeuralSVD(**options, orthogonality=orthogonality).fit(_load_matrix(pathlib.Path(a.matrix)))
    print("singular values: " + "  ".join(f"{value:.6g}" for value in svd.singular_values_))
    print("errors: " + ", ".join(f"{name} {value:.3g}" for name, value in svd.errors_.items()))
    print(f"wrote {save_dataset(svd.to_dataset(), a.out)}")


def _load_matrix(path: pathlib.Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"matrix {str(path)!r} does not exist; give a .npy or .npz file.")
    if path.suffix == ".npz":
        return scipy.sparse.load_npz(path)
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    raise ValueError(f"matrix must end in .npy (dense) or .npz (scipy.sparse); got {str(path)!r}.")


if __name__ == "__main__":
    sys.exit(main())
