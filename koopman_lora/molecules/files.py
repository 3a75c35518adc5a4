"""Trajectory files of a molecule: read chunk by chunk into coordinates, and structures written from them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from koopman_lora._labels import COORDINATE, TIME
from koopman_lora.checks import checked, checked_methods
from koopman_lora.clock import check_dt
from koopman_lora.data.seals import told_of
from koopman_lora.kinds import Count, number_array, shown
from koopman_lora.molecules.coordinates import (
    Coordinates,
    distance_coordinates,
    position_coordinates,
    selected,
    torsion_coordinates,
)

if TYPE_CHECKING:
    import mdtraj

# Formats that keep the time of a frame; of others mdtraj returns the number of the frame.
TIMED = (".xtc", ".trr", ".h5", ".hdf5", ".nc", ".ncdf", ".netcdf")
WRITTEN = (".pdb", ".gro", ".xtc", ".trr", ".dcd", ".nc")
# Positions that are held in memory at once: some 60 MB.
ATOMS_AT_ONCE = 5_000_000


@checked_methods
class MoleculeFiles:
    """Trajectory files of one molecule, read only when coordinates or structures are asked for.

    Needs mdtraj, the extra `md`, and reads what it reads: XTC, TRR, DCD, Amber NetCDF, PDB and more.

    Parameters
    ----------
    paths : a file, or a list of files, each one trajectory
    topology : file that names the atoms, such as a PDB, or an mdtraj Topology
    stride : take every stride-th frame
    dt : time in ps between two frames of the files; by default what they say. Formats that keep no times (DCD, PDB)
        give trajectories without a time, whose lags count in frames.

    Raises
    ------
    ImportError
        Without mdtraj; it comes with the extra `md`.
    FileNotFoundError
        If nothing is at a path.
    ValueError
        For a file that mdtraj cannot read, of no frames, or of another number of atoms than the topology.

    Examples
    --------
    >>> files = MoleculeFiles(["run1.xtc", "run2.xtc"], "protein.pdb", stride=10)       # doctest: +SKIP
    >>> analysis = KoopmanLoRA(lag=5).fit(files.torsions())                            # doctest: +SKIP
    >>> files.write(frames_of_state(states, 0), "state0.pdb")                          # doctest: +SKIP
    """

    @checked(but=("paths", "topology", "dt"))
    def __init__(self, paths: Any, topology: Any, stride: Count = 1, dt: float | None = None) -> None:
        self.paths = _existing("paths", paths)
        self.stride = stride
        self.dt = None if dt is None else check_dt(dt)
        self.topology = _topology(topology)
        self._reference, *_ = [_first_frame(path, self.topology) for path in self.paths]

    def __repr__(self) -> str:
        n, stride = len(self.paths), "" if self.stride == 1 else f", stride {self.stride}"
        return f"MoleculeFiles({n} file{'' if n == 1 else 's'}, {self.topology.n_atoms} atoms{stride})"

    # ------------------------------------------------------------------------------------------------------ coordinates

    def torsions(self, kinds: Sequence[str] = ("phi", "psi")) -> list[xr.DataArray]:
        """Sines and cosines of torsion angles, such as 'sin phi ALA2', for `lagged_pairs` and `KoopmanLoRA.fit`.

        Parameters
        ----------
        kinds : of 'phi', 'psi', 'omega', 'chi1', ..., 'chi5'; of every residue that has them

        Returns
        -------
        list of DataArrays (time, coordinate), one for each file

        Raises
        ------
        ValueError
            For another kind, or one that no residue has.
        """
        return self._read(torsion_coordinates(self.topology, kinds))

    def distances(self, atoms: Any = "name CA") -> list[xr.DataArray]:
        """Distances in nm between all pairs of selected atoms, such as 'ALA2-CA NME3-N'.

        Parameters
        ----------
        atoms : a selection in mdtraj's language; or pairs of numbers of atoms (n_pairs, 2)

        Returns
        -------
        list of DataArrays (time, coordinate), one for each file

        Raises
        ------
        ValueError
            For a selection of fewer than two atoms, or pairs that are none.
        """
        return self._read(distance_coordinates(self.topology, atoms))

    def aligned_positions(self, atoms: str = "name CA") -> list[xr.DataArray]:
        """Positions in nm of selected atoms, each frame laid upon the first one of the first file.

        Molecules must be whole: of one that is cut by the border of the box, nothing fits.

        Parameters
        ----------
        atoms : a selection in mdtraj's language, of at least three atoms

        Returns
        -------
        list of DataArrays (time, coordinate), one for each file

        Raises
        ------
        ValueError
            For a selection of fewer atoms.
        """
        return self._read(position_coordinates(self.topology, atoms, self._reference))

    def _read(self, coordinates: Coordinates) -> list[xr.DataArray]:
        return [self._read_file(path, coordinates) for path in self.paths]

    def _read_file(self, path: pathlib.Path, coordinates: Coordinates) -> xr.DataArray:
        values, times = [], []
        for frames in self._chunks(path, coordinates.atoms):
            times.append(np.array(frames.time, dtype=float))
            values.append(np.array(coordinates.values(frames), dtype=np.float32))
        state = np.concatenate(values)
        array = xr.DataArray(
            state,
            dims=(TIME, COORDINATE),
            coords={COORDINATE: coordinates.names},
            name="state",
            attrs={"units": coordinates.unit, "source": path.name},
        )
        if self.dt is not None:
            step = self.stride * self.dt
            array.attrs |= {"dt": step, "time_unit": "ps"}
            return array.assign_coords({TIME: (TIME, step * np.arange(len(state)), {"units": "ps"})})
        if path.suffix not in TIMED:
            return array
        return array.assign_coords({TIME: (TIME, np.concatenate(times), {"units": "ps"})})

    def _chunks(self, path: pathlib.Path, atoms: np.ndarray) -> Iterator[mdtraj.Trajectory]:
        chunk = max(1, ATOMS_AT_ONCE // self.topology.n_atoms)
        options = {"top": self.topology, "stride": self.stride, "atom_indices": atoms}
        with told_of(path):
            yield from _mdtraj().iterload(str(path), chunk=chunk, **options)

    # ------------------------------------------------------------------------------------------------------- structures

    def structures(self, frames: Any, atoms: str = "all") -> Any:
        """Structures of some frames, in their order; only these are read.

        Parameters
        ----------
        frames : int array (n, 2), rows (trajectory, frame), counted as in the coordinates: every stride-th of the file
        atoms : a selection in mdtraj's language

        Returns
        -------
        mdtraj.Trajectory

        Raises
        ------
        ValueError
            For frames that are no such rows, or not there.
        """
        rows = self._checked_rows(frames)
        chosen = selected(self.topology, atoms)
        found: list[Any] = [None] * len(rows)
        for trajectory in np.unique(rows[:, 0]):
            places = np.flatnonzero(rows[:, 0] == trajectory)
            read = self._frames_of_file(int(trajectory), rows[places, 1], chosen)
            for place, structure in zip(places, read, strict=True):
                found[place] = structure
        return _mdtraj().join(found)

    def write(self, frames: Any, path: str | os.PathLike, atoms: str = "all") -> pathlib.Path:
        """Write structures of some frames into a file, such as PDB or XTC; see `structures`.

        Raises
        ------
        ValueError
            For another kind of file, and for what `structures` refuses.
        OSError
            If the file cannot be written.
        """
        path = pathlib.Path(path)
        if path.suffix not in WRITTEN:
            raise ValueError(f"path must end in {', '.join(WRITTEN)}; got {str(path)!r}.")
        self.structures(frames, atoms).save(str(path))
        return path

    def _checked_rows(self, frames: Any) -> np.ndarray:
        rows = number_array("frames", frames)
        if rows.ndim != 2 or rows.shape[1] != 2 or len(rows) == 0 or rows.dtype.kind not in "iu":
            raise ValueError(
                f"frames must be rows (trajectory, frame) of whole numbers, at least one; got {shown(rows)} of "
                f"{rows.dtype}."
            )
        outside = (rows < 0).any(axis=1) | (rows[:, 0] >= len(self.paths))
        if outside.any():
            raise ValueError(
                f"frames must be of trajectories 0 to {len(self.paths) - 1}, and frames from 0; got "
                f"{rows[outside][0].tolist()}."
            )
        return rows.astype(int)

    def _frames_of_file(self, trajectory: int, numbers: np.ndarray, atoms: np.ndarray) -> list[mdtraj.Trajectory]:
        """One structure for each number, read where it stands."""
        path, found = self.paths[trajectory], []
        for number in numbers:
            try:
                structure = _mdtraj().load_frame(str(path), int(number) * self.stride, top=self.topology)
            except (OSError, IndexError):  # what formats say of a frame behind the last one
                structure = ()
            if len(structure) != 1:
                raise ValueError(
                    f"frames asks for frame {number} of trajectory {trajectory}, which {str(path)!r} does not have."
                )
            found.append(structure.atom_slice(atoms))  # mdtraj cannot read one frame of some atoms of a PDB
        return found


def _mdtraj() -> Any:
    try:
        import mdtraj
    except ImportError as error:
        raise ImportError("MoleculeFiles needs mdtraj; install it with pip install 'koopman-lora[md]'.") from error
    return mdtraj


def _existing(name: str, paths: Any) -> tuple[pathlib.Path, ...]:
    """One path or several, at each of which there is something."""
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if not isinstance(listed, (list, tuple)) or not all(isinstance(path, (str, os.PathLike)) for path in listed):
        raise TypeError(f"{name} must be a path, or a list of paths; got {shown(paths)}.")
    if not listed or not all(map(os.fspath, listed)):
        raise ValueError(f"{name} is empty, or holds an empty text; give at least one file.")
    found = tuple(pathlib.Path(path) for path in listed)
    for path in found:
        if not path.exists():
            raise FileNotFoundError(f"{name}: {str(path)!r} does not exist.")
    return found


def _topology(topology: Any) -> mdtraj.Topology:
    if isinstance(topology, _mdtraj().Topology):
        return topology
    (path,) = _existing("topology", topology)
    with told_of(path, "topology must be a file that names atoms, such as a PDB"):
        return _mdtraj().load_topology(str(path))


def _first_frame(path: pathlib.Path, topology: mdtraj.Topology) -> mdtraj.Trajectory:
    """The first frame of a file, of all atoms: whether it can be read, and is of this molecule."""
    with told_of(path, f"give a trajectory of the {topology.n_atoms} atoms of topology, in a format that mdtraj reads"):
        first = next(iter(_mdtraj().iterload(str(path), chunk=1, top=topology)), None)
    if first is None:
        raise ValueError(f"paths: {str(path)!r} holds no frame.")
    if first.n_atoms != topology.n_atoms:
        raise ValueError(
            f"paths: {str(path)!r} is of {first.n_atoms} atoms, and topology of {topology.n_atoms}; they must be one "
            "molecule."
        )
    return first
