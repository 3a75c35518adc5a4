"""`koopman-lora`: the package on the command line, on files; every flag is the argument of the function it calls."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import pathlib
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

from koopman_lora import systems
from koopman_lora._labels import TIME, TRAJECTORY
from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.analysis_files import analysis_bytes
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.files import open_trajectories, read_array
from koopman_lora.data.seals import told_of
from koopman_lora.data.whole_files import check_replaceable
from koopman_lora.demo import prepare_folder, run_demo
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.findings import training_findings
from koopman_lora.io import save_dataset
from koopman_lora.saved_analysis import open_analysis
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.tables import (
    comparison_text,
    finding_text,
    intervals_text,
    refinement_text,
    residuals_text,
    scan_text,
    scores_text,
    selection_text,
    spectrum_table,
)

# Argument of KoopmanLoRA -> what it is, for the help; the flags of `fit` in this order.
_FIT_FLAGS = {
    "n_modes": "number of modes, the constant one counts",
    "lag": "lag in frames; 1 where it is not given",
    "n_epochs": "passes over the data; enough for 950 steps where it is not given",
    "batch_size": "pairs in a step",
    "learning_rate": "highest rate of Adam",
    "weight_decay": "of Adam",
    "patience": "stop after so many epochs without a better held-out score",
    "held_out": "fraction of the pairs held out",
    "nesting": "jnt, seq or none",
    "activation": "of the networks",
    "reg_weight": "weight of the orthogonality penalty",
    "dt": "physical time between two frames; read from the file where it is not given",
    "time_unit": "unit of dt",
    "accelerator": "cpu, gpu or auto",
    "precision": "of Lightning Fabric",
    "seed": "of weights, split and batches",
}


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
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        print(f"koopman-lora {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
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
    _check_ending(a.out)
    try:
        parameters = json.loads(a.parameters)
    except json.JSONDecodeError as error:
        raise ValueError(f"parameters must be a JSON object; got {a.parameters!r} ({error}).") from None
    if not isinstance(parameters, dict):
        raise ValueError(f"parameters must be a JSON object; got {a.parameters!r}.")
    make = getattr(systems, a.system)
    try:
        inspect.signature(make).bind(**parameters)
    except TypeError as error:
        wanted = ", ".join(inspect.signature(make).parameters)
        raise ValueError(f"parameters of {a.system} are {wanted}; got {a.parameters!r} ({error}).") from None
    system = make(**parameters)
    trajectories = system.simulate(n_trajectories=a.n_trajectories, n_steps=a.n_steps, seed=a.seed)
    print(f"wrote {save_dataset(trajectories, a.out)}: {dict(trajectories.sizes)}")


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", help="fit trajectories and write model, spectrum and history into a folder")
    fit.add_argument("data", help="trajectories: .nc, .zarr or .npy")
    fit.add_argument("--out", required=True, help="folder to write")
    defaults = inspect.signature(KoopmanLoRA).parameters
    types = {"lag": int, "n_epochs": int, "patience": int, "dt": float, "time_unit": str}
    for name, text in _FIT_FLAGS.items():
        default = defaults[name].default
        text = text if default is None else f"{text} (default: {default})"
        fit.add_argument(_flag(name), type=types.get(name, type(default)), default=default, help=text)
    widths = defaults["hidden_dims"].default
    fit.add_argument("--hidden-dims", type=int, nargs="+", default=widths, help=f"of the networks (default: {widths})")
    fit.add_argument("--shared-encoder", action="store_true", help="one network for f and g")
    fit.add_argument("--no-refine", dest="refine", action="store_false", help="leave out the Rayleigh-Ritz refinement")
    fit.set_defaults(run=_fit)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _fit(a: argparse.Namespace) -> None:
    folder = prepare_folder(a.out)  # before the data are read, which may take long
    options = {name: getattr(a, name) for name in (*_FIT_FLAGS, "hidden_dims", "shared_encoder", "refine")}
    options["nesting"] = None if a.nesting == "none" else a.nesting
    data = open_trajectories(a.data)
    prepare_folder(folder, _expected_bytes(a, data))
    estimator = KoopmanLoRA(**options, progress=True).fit(data)
    try:
        estimator.save(folder)
    finally:  # whatever could not be written, the table is not lost
        _print_fit(estimator)
    print(f"\nthe analysis is in {folder}/: ask it with koopman-lora spectrum {folder}, or kl.open_analysis")


def _expected_bytes(a: argparse.Namespace, data: Any) -> int:
    """Of the analysis on disk, from the flags and the shape of the data."""
    sizes = dict(zip(getattr(data, "dims", (TIME,)), data.shape, strict=False))
    n_frames = math.prod(sizes.get(dim, 1) for dim in (TRAJECTORY, TIME))
    n_entries = max(1, data.size // max(1, n_frames))
    return analysis_bytes(
        a.n_modes, n_entries, round(n_frames * a.held_out) if 0 < a.held_out < 1 else 0, a.hidden_dims
    )


def _print_fit(estimator: KoopmanLoRA) -> None:
    print(spectrum_table(estimator.spectrum_))
    if estimator.refinement_ is not None:
        print("\n" + refinement_text(estimator.refinement_))
    if estimator.training_.split.held_out is not None:
        print(scores_text(estimator.scores()))
    for finding in estimator.findings_:
        print(f"before refinement, {finding_text(finding)}")


def _add_spectrum(commands: Any) -> None:
    spectrum = commands.add_parser(
        "spectrum",
        help="spectrum of a fitted analysis, and how far to trust it",
        description="Spectrum of a fitted analysis, and how far to trust it. Trajectories are needed only for "
        "--scan-lags; those of another run show the same features on data that nothing was fitted to.",
    )
    add = spectrum.add_argument
    add("analysis", help="folder that `koopman-lora fit` wrote")
    add("data", nargs="?", help="trajectories: .nc, .zarr or .npy")
    add("--out", help=".nc or .zarr file to write")
    add("--diagnose", action="store_true", help="print learned against empirical values, the verdict, and findings")
    add("--scores", action="store_true", help="print held-out VAMP-1, VAMP-2 and VAMP-E")
    add("--select-n-modes", action="store_true", help="print the number of modes by four rules, and a recommendation")
    add("--residuals", action="store_true", help="print residuals and condition numbers of the eigenpairs")
    add("--scan-lags", type=int, nargs="+", metavar="LAG", help="print timescales with intervals at these lags")
    add("--intervals", metavar="FILE", help="print bootstrap intervals and write them to a .nc or .zarr file")
    add("--seed", type=int, help="of the bootstrap; that of the fit where it is not given")
    _add_defaults(spectrum, Bootstrap, ("level", "n_resamples"))
    _add_defaults(spectrum, KoopmanAnalysis.select_n_modes, ("energy",))
    _add_defaults(spectrum, KoopmanAnalysis.residuals, ("tolerance",))
    spectrum.set_defaults(run=_spectrum)


def _add_defaults(parser: argparse.ArgumentParser, function: Any, names: Sequence[str]) -> None:
    """Flags that are arguments of a function, with its defaults."""
    for name in names:
        default = inspect.signature(function).parameters[name].default
        parser.add_argument(_flag(name), type=type(default), default=default, help="default: %(default)s")


def _spectrum(a: argparse.Namespace) -> None:
    for path in (a.out, a.intervals):
        _check_ending(path)
    if a.scan_lags and a.data is None:
        raise ValueError("--scan-lags needs the trajectories: koopman-lora spectrum FOLDER DATA --scan-lags ...")
    analysis, data = _open(a.analysis, a.data)
    bootstrap = Bootstrap(a.n_resamples, a.level, analysis.fitted.seed if a.seed is None else a.seed)
    print(spectrum_table(analysis.spectrum))
    _print_trust(a, analysis, bootstrap)
    if a.scan_lags:
        print("\n" + scan_text(analysis.scan_lags(data, a.scan_lags, bootstrap)))
    if a.intervals:
        intervals = analysis.intervals(bootstrap)
        print(f"\n{intervals_text(intervals)}\nwrote {save_dataset(intervals, a.intervals)}")
    if a.out:
        print(f"\nwrote {save_dataset(analysis.spectrum, a.out)}")


def _print_trust(a: argparse.Namespace, analysis: KoopmanAnalysis, bootstrap: Bootstrap) -> None:
    if a.diagnose:
        print("\n" + comparison_text(analysis.diagnose(bootstrap)))
        for finding in training_findings(analysis.moments, analysis.model.svals_array()):
            print(finding_text(finding))
    if a.scores:
        print("\n" + scores_text(analysis.scores()))
    if a.select_n_modes:
        print("\n" + selection_text(analysis.select_n_modes(a.energy, a.level)))
    if a.residuals:
        print("\n" + residuals_text(analysis.residuals(a.tolerance)))


def _open(folder: str, path: str | None) -> tuple[KoopmanAnalysis, Any]:
    """The analysis, and the trajectories where a path is given: those of the fit, or others that it is applied to."""
    analysis = open_analysis(folder)
    if path is None:
        return analysis, None
    data = open_trajectories(path)
    if analysis.was_fitted_to(data):
        return analysis, data
    print(f"{path} is not what the model was fitted to: all of it counts as held out.\n")
    return analysis.applied_to(data), data


def _check_ending(path: str | None) -> None:
    """Refuse before the work what cannot be written after it."""
    if path is not None and pathlib.Path(path).suffix not in (".nc", ".zarr"):
        raise ValueError(f"files to write must end in .nc or .zarr; got {path!r}.")
    if path is not None:
        check_replaceable(pathlib.Path(path))


def _add_svd(commands: Any) -> None:
    svd = commands.add_parser("svd", help="low-rank singular value decomposition of a given matrix")
    svd.add_argument("matrix", help=".npy (dense) or .npz (scipy.sparse) file")
    svd.add_argument("--out", required=True, help=".nc or .zarr file to write")
    svd.add_argument("--n-modes", "--modes", dest="n_modes", type=int, help="number of singular triples (default: all)")
    svd.add_argument("--energy", type=float, help="instead: as many triples as hold this share of the squared norm")
    _add_defaults(svd, NeuralSVD, ("parametrization", "orthogonality", "phase", "polish_steps", "seed"))
    svd.set_defaults(run=_svd)


def _svd(a: argparse.Namespace) -> None:
    _check_ending(a.out)
    orthogonality = None if a.orthogonality == "none" else a.orthogonality
    options = {n: getattr(a, n) for n in ("n_modes", "energy", "parametrization", "phase", "polish_steps", "seed")}
    svd = NeuralSVD(**options, orthogonality=orthogonality).fit(_load_matrix(pathlib.Path(a.matrix)))
    print("singular values: " + "  ".join(f"{value:.6g}" for value in svd.singular_values_))
    print("errors: " + ", ".join(f"{name} {value:.3g}" for name, value in svd.errors_.items()))
    print(f"wrote {save_dataset(svd.to_dataset(), a.out)}")


def _load_matrix(path: pathlib.Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"matrix {str(path)!r} does not exist; give a .npy or .npz file.")
    wanted = "give a matrix in .npy or .npz"
    if path.suffix == ".npz":
        import scipy.sparse

        with told_of(path, wanted):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} in it is damaged")
            return scipy.sparse.load_npz(path)
    if path.suffix == ".npy":
        return read_array(path, wanted)
    raise ValueError(f"matrix must end in .npy (dense) or .npz (scipy.sparse); got {str(path)!r}.")


if __name__ == "__main__":
    sys.exit(main())
