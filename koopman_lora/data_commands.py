"""Files that are named on the command line as trajectories: what every sub-command that takes data reads."""

from __future__ import annotations

import argparse
from typing import Any

from koopman_lora.data.files import open_trajectories, paths_of
from koopman_lora.molecules import MoleculeFiles

# How data are read; no argument of anything that is fitted.
DATA_FLAGS = ("data", "variable", "columns", "time_column", "topology", "features", "atoms")


def trajectories_of(a: argparse.Namespace) -> Any:
    """Trajectories of the files in `a.data`, several of several; with a topology those of a molecule.

    Raises
    ------
    ValueError
        For flags that the files have no use for, and what `open_trajectories` and `MoleculeFiles` refuse.
    """
    paths = a.data[0] if len(a.data) == 1 else a.data
    if a.topology is None:
        _refuse(a, ("features", "atoms"), "needs --topology FILE, which names the atoms of a molecule")
        return open_trajectories(paths, a.variable, a.columns, a.time_column)
    _refuse(a, ("variable", "columns", "time_column"), "says nothing of a molecule; leave it out beside --topology")
    files, features = MoleculeFiles(paths_of(a.data)[0], a.topology), a.features or "torsions"
    if features == "torsions":
        _refuse(a, ("atoms",), "picks atoms for --features distances or positions; torsions are of the backbone")
        return files.torsions()
    read = files.distances if features == "distances" else files.aligned_positions
    return read() if a.atoms is None else read(a.atoms)


def _refuse(a: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(a, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} {why}.")
