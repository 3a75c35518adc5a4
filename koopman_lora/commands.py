"""The work of each sub-command of `koopman-lora`, from the parsed arguments: files in, files and tables out."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import pathlib
import zipfile
from typing import Any

from koopman_lora import systems
from koopman_lora._labels import TIME, TRAJECTORY
from koopman_lora.analysis import KoopmanAnalysis
from koopman_lora.analysis_files import analysis_bytes
from koopman_lora.bootstrap import Bootstrap
from koopman_lora.data.files import open_trajectories, read_array
from koopman_lora.data.health import data_health
from koopman_lora.data.seals import told_of
from koopman_lora.data.whole_files import check_replaceable
from koopman_lora.demo import prepare_folder, run_demo
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.findings import equilibrium_findings, training_findings
from koopman_lora.io import save_dataset
from koopman_lora.saved_analysis import open_analysis
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.tables import (
    comparison_text,
    finding_text,
    health_text,
    intervals_text,
    refinement_text,
    residuals_text,
    scan_text,
    scores_text,
    selection_text,
    spectrum_table,
)


def _demo(a: argparse.Namespace) -> None:
    run_demo(a.out)


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


def _health(a: argparse.Namespace) -> None:
    _check_ending(a.out)
    health = data_health(open_trajectories(a.data), a.lag, a.dt, a.time_unit)
    print(health_text(health))
    if a.out:
        print(f"\nwrote {save_dataset(health, a.out)}")


def _fit(a: argparse.Namespace) -> None:
    folder = prepare_folder(a.out)  # before the data are read, which may take long
    options = {name: value for name, value in vars(a).items() if name not in ("command", "data", "out")}
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
    print(estimator.summary())
    if estimator.refinement_ is not None:
        print("\n" + refinement_text(estimator.refinement_))
    if estimator.training_.split.held_out is not None:
        print(scores_text(estimator.scores()))


def _spectrum(a: argparse.Namespace) -> None:
    for path in (a.out, a.intervals):
        _check_ending(path)
    if a.scan_lags and a.data is None:
        raise ValueError("--scan-lags needs the trajectories: koopman-lora spectrum FOLDER DATA --scan-lags ...")
    analysis, data = _open(a.analysis, a.data)
    bootstrap = Bootstrap(a.n_resamples, a.level, analysis.fitted.seed if a.seed is None else a.seed)
    print(analysis.summary(bootstrap) if a.summary else spectrum_table(analysis.spectrum))
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
        findings = training_findings(analysis.moments, analysis.model.svals_array())
        for finding in findings + equilibrium_findings(analysis.moments):
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


def _svd(a: argparse.Namespace) -> None:
    _check_ending(a.out)
    orthogonality = None if a.orthogonality == "none" else a.orthogonality
    options = {n: getattr(a, n) for n in ("n_modes", "energy", "parametrization", "phase", "polish_steps", "seed")}
    svd = NeuralSVD(**options, orthogonality=orthogonality).fit(_load_matrix(pathlib.Path(a.matrix)))
    print("singular values: " + "  ".join(f"{value:.6g}" for value in svd.singular_values_))
    print("errors: " + ", ".join(f"{name} {value:.3g}" for name, value in svd.errors_.items()))
    print(svd.checklist())
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


RUN = {"demo": _demo, "simulate": _simulate, "health": _health, "fit": _fit, "spectrum": _spectrum, "svd": _svd}
