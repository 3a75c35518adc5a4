"""The work of each sub-command of `koopman-lora`, from the parsed arguments: files in, files and tables out."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import pathlib
from typing import Any

from koopman_lora import systems
from koopman_lora._labels import TIME, TRAJECTORY
from koopman_lora.analysis_commands import (
    check_ending,
    coarse_grain,
    forecast,
    plot,
    report,
    spectrum,
    weights_of,
    write_intervals,
)
from koopman_lora.analysis_files import analysis_bytes
from koopman_lora.data.array_files import check_archive, read_array
from koopman_lora.data.health import data_health
from koopman_lora.data.seals import told_of
from koopman_lora.data_commands import DATA_FLAGS, trajectories_of
from koopman_lora.demo import prepare_folder, run_demo
from koopman_lora.estimator import KoopmanLoRA
from koopman_lora.io import save_dataset
from koopman_lora.launching import is_first_process, make_fabric
from koopman_lora.launching import process_label as process_label
from koopman_lora.refits import check_refits
from koopman_lora.svd.neural_svd import NeuralSVD
from koopman_lora.tables import (
    health_text,
    refinement_text,
    scores_text,
)
from koopman_lora.training_options import TrainingOptions
from koopman_lora.training_reports import INTERRUPTED


def _demo(a: argparse.Namespace) -> None:
    run_demo(a.out)


def _simulate(a: argparse.Namespace) -> None:
    check_ending(a.out)
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
    check_ending(a.out)
    health = data_health(trajectories_of(a), a.lag, a.dt, a.time_unit)
    print(health_text(health))
    if a.out:
        print(f"\nwrote {save_dataset(health, a.out)}")


def _fit(a: argparse.Namespace) -> None:
    _check_intervals(a)
    where = {name: getattr(a, name) for name in ("accelerator", "devices", "num_nodes", "precision")}
    make_fabric(TrainingOptions(**where))  # from here on it is known which process is the first
    folder = prepare_folder(a.out) if is_first_process() else a.out  # before the data are read, which may take long
    apart = ("command", *DATA_FLAGS, "out", "resume", "sample_weight", "intervals", "refit", "n_jobs")
    options = {name: value for name, value in vars(a).items() if name not in apart}
    options["nesting"] = None if a.nesting == "none" else a.nesting
    data = trajectories_of(a)
    if is_first_process():
        prepare_folder(folder, _expected_bytes(a, data))
    estimator = KoopmanLoRA(**options).fit(data, sample_weight=weights_of(a.sample_weight), resume=a.resume)
    if not is_first_process():
        return
    try:
        estimator.save(folder)
    finally:  # whatever could not be written, the table is not lost
        _print_fit(estimator)
    print(f"\nthe analysis is in {folder}/: ask it with koopman-lora spectrum {folder}, or kl.open_analysis")
    for finding in estimator.findings_:
        if finding.name == INTERRUPTED:
            raise KeyboardInterrupt(finding.message)
    if a.intervals:
        write_intervals(estimator.intervals(refit=a.refit, n_jobs=a.n_jobs), a.intervals)


def _check_intervals(a: argparse.Namespace) -> None:
    """Refuse before the fit what would fail after it."""
    check_ending(a.intervals)
    if a.refit and not a.intervals:
        raise ValueError(f"--refit {a.refit} is of intervals; name the file to write them to with --intervals FILE.")
    if a.refit:
        check_refits("refit", a.refit, a.n_jobs)


def _expected_bytes(a: argparse.Namespace, data: Any) -> int:
    """Of the analysis on disk, from the flags and the shape of the data."""
    parts = data if isinstance(data, list) else [data]
    sizes = [dict(zip(getattr(part, "dims", (TIME,)), part.shape, strict=False)) for part in parts]
    n_frames = sum(math.prod(size.get(dim, 1) for dim in (TRAJECTORY, TIME)) for size in sizes)
    n_entries = max(1, sum(part.size for part in parts) // max(1, n_frames))
    return analysis_bytes(
        a.n_modes, n_entries, round(n_frames * a.held_out) if 0 < a.held_out < 1 else 0, a.hidden_dims
    )


def _print_fit(estimator: KoopmanLoRA) -> None:
    print(estimator.summary())
    if estimator.refinement_ is not None:
        print("\n" + refinement_text(estimator.refinement_))
    if estimator.training_.split.held_out is not None:
        print(scores_text(estimator.scores()))


def _svd(a: argparse.Namespace) -> None:
    check_ending(a.out)
    orthogonality = None if a.orthogonality == "none" else a.orthogonality
    apart = ("command", "matrix", "out", "orthogonality")
    options = {name: value for name, value in vars(a).items() if name not in apart}
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
            check_archive(path)
            return scipy.sparse.load_npz(path)
    if path.suffix == ".npy":
        return read_array(path, wanted)
    raise ValueError(f"matrix must end in .npy (dense) or .npz (scipy.sparse); got {str(path)!r}.")


RUN = {
    "demo": _demo,
    "simulate": _simulate,
    "health": _health,
    "fit": _fit,
    "spectrum": spectrum,
    "report": report,
    "forecast": forecast,
    "coarse-grain": coarse_grain,
    "plot": plot,
    "svd": _svd,
}
