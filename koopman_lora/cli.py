"""`koopman-lora`: the package on the command line, on files; every flag is the argument of the function it calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from koopman_lora import systems
from koopman_lora.signatures import Parameter, parameters_of

# Argument of KoopmanLoRA -> what it is, for the help; the flags of `fit` in this order.
_FIT_FLAGS = {
    "n_modes": "number of modes, the constant one counts",
    "lag": "lag in frames; 1 where it is not given",
    "n_epochs": "passes over the data; where it is not given, as many steps as its size and its coordinates ask for",
    "batch_size": "pairs in a step",
    "learning_rate": "highest rate of Adam",
    "weight_decay": "of Adam",
    "patience": "stop after so many epochs without a better held-out score",
    "n_fits": "fits from as many seeds, of which the best is kept",
    "held_out": "fraction of the pairs held out",
    "nesting": "jnt, seq or none",
    "activation": "of the networks",
    "reg_weight": "weight of the orthogonality penalty",
    "dt": "physical time between two frames; read from the file where it is not given",
    "time_unit": "unit of dt",
    "accelerator": "cpu, gpu or auto",
    "devices": "processes on each machine; where it is not given, those that torchrun or srun has started, or one",
    "num_nodes": "machines; where it is not given, those of the launcher, or one",
    "precision": "of Lightning Fabric",
    "seed": "of weights, split and batches",
    "checkpoint": "folder to keep the training in, so that --resume can go on after it was killed",
    "checkpoint_every": "seconds between two states that are kept there; 0 for every step",
    "log_to": "folder for loss and score of every epoch, as CSV",
}
_NOT_SIMULATED = {"System", "ReferenceSpectrum", "NoReferenceSpectrumError"}  # of the names in koopman_lora.systems

_DATA = (
    "trajectories, each file one or more: .nc, .zarr, .npy, .npz, .csv, .parquet; with --topology .xtc, .dcd, .pdb, ..."
)
# What `analysis_commands.PICTURES` draws, which is not imported for --help.
_PICTURES = ("spectrum", "comparison", "eigenvalues", "energy", "modes", "history", "svals", "inputs")
_FEATURES = ("torsions", "distances", "positions")
_WEIGHTS = ".npy file: a weight for each frame, or each trajectory; or such a file for each trajectory"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 after a message on standard error, 130 when interrupted.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     main(["simulate", "NoisyRotation", "--n-steps", "50", "--out", folder + "/x.nc"])
    wrote ...x.nc: {'trajectory': 1, 'time': 50, 'coordinate': 2}
    0
    """
    arguments = make_parser().parse_args(argv)
    # imports torch, which neither --help nor a wrong flag should wait for
    from koopman_lora.commands import RUN, process_label

    try:
        RUN[arguments.command](arguments)
    except KeyboardInterrupt as stop:
        print(f"koopman-lora {arguments.command}: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError) as error:
        print(f"koopman-lora {arguments.command}{process_label()}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser with all its sub-commands."""
    parser = argparse.ArgumentParser(
        prog="koopman-lora",
        description="Koopman singular values from trajectories.",
        epilog="Arguments may stand in a file, one in each line: koopman-lora fit data.nc @fit.args",
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--version", action="version", version=f"koopman-lora {metadata.version('koopman-lora')}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    _add_simulate(commands)
    _add_health(commands)
    _add_fit(commands)
    _add_spectrum(commands)
    _add_report(commands)
    _add_forecast(commands)
    _add_coarse_grain(commands)
    _add_plot(commands)
    _add_svd(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="fit a four-well landscape and write everything into a folder")
    demo.add_argument("--out", default="runs/demo", help="folder to write (default: %(default)s)")


def _add_simulate(commands: Any) -> None:
    simulate = commands.add_parser("simulate", help="simulate a system and write its trajectories")
    names = [name for name in dir(systems) if name not in _NOT_SIMULATED]
    simulate.add_argument("system", choices=names, help="class name in koopman_lora.systems")
    simulate.add_argument("--parameters", default="{}", help="constructor arguments as JSON, e.g. '{\"order\": 20}'")
    simulate.add_argument("--n-trajectories", type=int, default=1)
    simulate.add_argument("--n-steps", type=int, default=1000, help="frames per trajectory")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--out", required=True, help=".nc or .zarr file to write")


def _add_health(commands: Any) -> None:
    health = commands.add_parser("health", help="what to know of trajectories before a fit: a table, and what matters")
    _add_data(health, nargs="+")
    parameters = parameters_of("data/health.py", "data_health")
    for name in ("lag", "dt", "time_unit"):
        kind, default = parameters[name]
        health.add_argument(_flag(name), type=kind, default=default, help=_FIT_FLAGS[name])
    health.add_argument("--out", help=".nc or .zarr file to write the table to")


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", help="fit trajectories and write model, spectrum and history into a folder")
    _add_data(fit, nargs="+")
    fit.add_argument("--out", required=True, help="folder to write")
    parameters = parameters_of("estimator.py", "KoopmanLoRA")
    for name, text in _FIT_FLAGS.items():
        kind, default = parameters[name]
        text = text if default is None else f"{text} (default: {default})"
        fit.add_argument(_flag(name), type=kind, default=default, help=text)
    widths = parameters["hidden_dims"].default
    fit.add_argument("--hidden-dims", type=int, nargs="+", default=widths, help=f"of the networks (default: {widths})")
    _add_weights(fit)
    fit.add_argument("--shared-encoder", action="store_true", help="one network for f and g")
    fit.add_argument("--reversible", action="store_true", help="the process is in equilibrium: pairs count both ways")
    fit.add_argument("--resume", action="store_true", help="go on from --checkpoint, where there is one")
    fit.add_argument("--quiet", dest="progress", action="store_false", default=None, help="no progress bar")
    fit.add_argument("--no-refine", dest="refine", action="store_false", help="leave out the Rayleigh-Ritz refinement")
    fit.add_argument("--intervals", metavar="FILE", help="print intervals and write them to a .nc or .zarr file")
    how = parameters_of("estimator.py", "KoopmanLoRA.intervals")
    refit = "fits to halves, say 20, for intervals that hold for training, too; 0 for the learned features alone"
    for name, text in (("refit", refit), ("n_jobs", "processes for them, -1 for one per core")):
        kind, default = how[name]
        fit.add_argument(_flag(name), type=kind, default=default, help=f"of --intervals: {text} (default: {default})")


def _add_data(parser: argparse.ArgumentParser, nargs: str = "*", note: str = "") -> None:
    """The files of trajectories, and how to read them."""
    parser.add_argument("data", nargs=nargs, help=_DATA + note)
    how = parser.add_argument_group("how the files are read")
    how.add_argument("--variable", help="which one of an .npz, .nc or .zarr of several")
    how.add_argument("--columns", nargs="+", metavar="NAME", help="of a table (default: all but that of the times)")
    how.add_argument("--time-column", metavar="NAME", help="of a table, numbers or dates (default: 'time', if there)")
    how.add_argument("--topology", metavar="FILE", help="names the atoms: the files are of molecular dynamics")
    how.add_argument("--features", choices=_FEATURES, help="coordinates of a molecule (default: torsions)")
    how.add_argument("--atoms", metavar="SELECTION", help="in mdtraj's language, for distances and positions")


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sample-weight", nargs="+", metavar="FILE", help=_WEIGHTS)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_spectrum(commands: Any) -> None:
    spectrum = commands.add_parser(
        "spectrum",
        help="spectrum of a fitted analysis, and how far to trust it",
        description="Spectrum of a fitted analysis, and how far to trust it. Trajectories are needed only for "
        "--scan-lags; those of another run show the same features on data that nothing was fitted to.",
    )
    add = spectrum.add_argument
    add("analysis", help="folder that `koopman-lora fit` wrote")
    _add_data(spectrum)
    _add_weights(spectrum)
    add("--out", help=".nc or .zarr file to write")
    add("--summary", action="store_true", help="print every mode with its interval and a verdict, and what is wrong")
    add("--diagnose", action="store_true", help="print learned against empirical values, the verdict, and findings")
    add("--scores", action="store_true", help="print held-out VAMP-1, VAMP-2 and VAMP-E")
    add("--select-n-modes", action="store_true", help="print the number of modes by four rules, and a recommendation")
    add("--residuals", action="store_true", help="print residuals and condition numbers of the eigenpairs")
    add("--scan-lags", type=int, nargs="+", metavar="LAG", help="print timescales with intervals at these lags")
    add("--intervals", metavar="FILE", help="print bootstrap intervals and write them to a .nc or .zarr file")
    _add_bootstrap(spectrum)
    _add_defaults(spectrum, parameters_of("analysis.py", "KoopmanAnalysis.select_n_modes"), ("energy",))
    _add_defaults(spectrum, parameters_of("analysis.py", "KoopmanAnalysis.residuals"), ("tolerance",))


def _add_defaults(parser: argparse.ArgumentParser, parameters: dict[str, Parameter], names: Sequence[str]) -> None:
    """Flags that are arguments of a function, with its defaults."""
    for name in names:
        kind, default = parameters[name]
        parser.add_argument(_flag(name), type=kind, default=default, help="default: %(default)s")


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="one HTML page of all that is known of a fitted analysis",
        description="One HTML page of all that is known of a fitted analysis, to open in a browser. Without the "
        "trajectories it leaves out what needs them: functions, longer lags, states, forecasts, health of the data.",
    )
    report.add_argument("analysis", help="folder that `koopman-lora fit` wrote")
    _add_data(report)
    _add_weights(report)
    report.add_argument("--out", help="file to write (default: report.html in the folder of the analysis)")


def _add_forecast(commands: Any) -> None:
    forecast = commands.add_parser(
        "forecast", help="expected states after the last one of every trajectory, with bands"
    )
    _add_analysis(forecast)
    _add_data(forecast, nargs="+", note="; the states at their ends are where it begins")
    forecast.add_argument("--steps", type=int, default=10, help="lags ahead (default: %(default)s)")
    forecast.add_argument("--out", help=".nc or .zarr file to write")
    _add_bootstrap(forecast)


def _add_coarse_grain(commands: Any) -> None:
    coarse = commands.add_parser("coarse-grain", help="few metastable states, and the Markov model between them")
    _add_analysis(coarse)
    _add_data(coarse, nargs="+", note="; of the fit or others")
    _add_weights(coarse)
    coarse.add_argument("--n-states", type=int, required=True, help="number of states")
    coarse.add_argument("--out", help=".nc or .zarr file to write")
    _add_bootstrap(coarse)


def _add_plot(commands: Any) -> None:
    plot = commands.add_parser("plot", help="one picture of a fitted analysis")
    _add_analysis(plot)
    _add_data(plot, note="; for --lags, and what: inputs")
    _add_weights(plot)
    what = plot.add_mutually_exclusive_group()
    what.add_argument("--what", choices=_PICTURES, default="spectrum", help="what to draw (default: %(default)s)")
    what.add_argument("--lags", type=int, nargs="+", metavar="LAG", help="draw timescales against these lags")
    plot.add_argument("--out", required=True, help=".png, .svg or .pdf file to write")
    _add_bootstrap(plot)


def _add_analysis(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("analysis", help="folder that `koopman-lora fit` wrote")


def _add_bootstrap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, help="of the bootstrap; that of the fit where it is not given")
    _add_defaults(parser, parameters_of("bootstrap.py", "Bootstrap"), ("level", "n_resamples"))


def _add_svd(commands: Any) -> None:
    svd = commands.add_parser("svd", help="low-rank singular value decomposition of a given matrix")
    svd.add_argument("matrix", help=".npy (dense) or .npz (scipy.sparse) file")
    svd.add_argument("--out", required=True, help=".nc or .zarr file to write")
    svd.add_argument("--n-modes", "--modes", dest="n_modes", type=int, help="number of singular triples (default: all)")
    svd.add_argument("--energy", type=float, help="instead: as many triples as hold this share of the squared norm")
    svd.add_argument(
        "--sample", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="train on so many in a step; approximate"
    )
    names = ("parametrization", "orthogonality", "phase", "oversampling", "polish_steps", "max_steps", "seed")
    _add_defaults(svd, parameters_of("svd/neural_svd.py", "NeuralSVD"), names)


if __name__ == "__main__":
    sys.exit(main())
