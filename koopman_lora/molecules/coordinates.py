"""Coordinates of molecules: which atoms they need, what they are called, and their values in a chunk of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from koopman_lora.kinds import check_word, number_array

if TYPE_CHECKING:
    import mdtraj

TORSIONS = ("phi", "psi", "omega", "chi1", "chi2", "chi3", "chi4", "chi5")


class Coordinates(NamedTuple):
    """What is to be read of a molecule.

    Attributes
    ----------
    atoms : sorted numbers of the atoms that are needed, (n_atoms,)
    names : of the coordinates
    unit : theirs
    values : frames of these atoms alone to an array (n_frames, n_coordinates)
    """

    atoms: np.ndarray
    names: list[str]
    unit: str
    values: Callable[[mdtraj.Trajectory], np.ndarray]


def torsion_coordinates(topology: mdtraj.Topology, kinds: Sequence[str]) -> Coordinates:
    """Sines and cosines of torsion angles of the backbone and of side chains.

    Raises
    ------
    ValueError
        For another kind, or one that no residue has.
    """
    import mdtraj
    from mdtraj.geometry import dihedral

    found, names = [], []
    for kind in kinds:
        check_word("kinds", kind, TORSIONS)
        four = np.asarray(getattr(dihedral, f"indices_{kind}")(topology), dtype=int).reshape(-1, 4)
        if len(four) == 0:
            raise ValueError(f"kinds={list(kinds)} asks for {kind}, which no residue of this molecule has.")
        found.append(four)
        # the second atom of all is of the residue that the angle belongs to
        names += [f"{kind} {_residue(topology.atom(int(atoms[1])).residue)}" for atoms in four]
    if not found:
        raise ValueError(f"kinds must name at least one of {', '.join(TORSIONS)}; got none.")
    atoms, quartets = _renumbered(np.concatenate(found))

    def values(frames: mdtraj.Trajectory) -> np.ndarray:
        angles = mdtraj.compute_dihedrals(frames, quartets)
        return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(angles), -1)

    return Coordinates(atoms, [f"{function} {name}" for name in names for function in ("sin", "cos")], "", values)


def distance_coordinates(topology: mdtraj.Topology, atoms: Any) -> Coordinates:
    """Distances between all pairs of selected atoms, or between pairs that are listed (n_pairs, 2)."""
    import mdtraj

    if isinstance(atoms, str):
        chosen = selected(topology, atoms, least=2)
        pairs = np.stack([chosen[side] for side in np.triu_indices(len(chosen), k=1)], axis=1)
    else:
        pairs = number_array("atoms", atoms)
        fits = pairs.ndim == 2 and pairs.shape[1:] == (2,) and len(pairs) > 0 and pairs.dtype.kind in "iu"
        if not fits or pairs.min() < 0 or pairs.max() >= topology.n_atoms or (pairs[:, 0] == pairs[:, 1]).any():
            raise ValueError(
                f"atoms must be a selection, such as 'name CA', or pairs of two atoms (n_pairs, 2), numbers from 0 to "
                f"{topology.n_atoms - 1}; got {atoms!r}."
            )
    needed, pairs_read = _renumbered(pairs)
    names = [f"{_atom(topology.atom(int(i)))} {_atom(topology.atom(int(j)))}" for i, j in pairs]
    return Coordinates(needed, names, "nm", lambda frames: mdtraj.compute_distances(frames, pairs_read))


def position_coordinates(topology: mdtraj.Topology, atoms: str, reference: mdtraj.Trajectory) -> Coordinates:
    """Positions of selected atoms, each frame laid upon the reference so that they fit best."""
    chosen = selected(topology, atoms, least=3)
    onto = reference.atom_slice(chosen)
    onto.center_coordinates()
    names = [f"{_atom(topology.atom(int(i)))} {axis}" for i in chosen for axis in "xyz"]
    return Coordinates(chosen, names, "nm", lambda frames: frames.superpose(onto).xyz.reshape(len(frames), -1))


def selected(topology: mdtraj.Topology, atoms: str, least: int = 1) -> np.ndarray:
    """Numbers of the atoms that a selection in mdtraj's language picks, at least `least` of them."""
    try:
        chosen = np.asarray(topology.select(atoms))
    except Exception as error:  # of the parser, of many kinds
        raise ValueError(
            f"atoms must be a selection in mdtraj's language, such as 'name CA' or 'protein'; got {atoms!r} ({error})."
        ) from None
    if len(chosen) < least:
        raise ValueError(f"atoms={atoms!r} selects {len(chosen)} of {topology.n_atoms} atoms; at least {least} needed.")
    return chosen


def _renumbered(entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The atoms that entries name, sorted, and the entries as positions among them."""
    atoms, inverse = np.unique(entries, return_inverse=True)
    return atoms, inverse.reshape(entries.shape)


def _residue(residue: Any) -> str:
    """Such as ALA2; in a molecule of several chains, A:ALA2."""
    if residue.chain.topology.n_chains == 1:
        return str(residue)
    return f"{residue.chain.index}:{residue}"


def _atom(atom: Any) -> str:
    return f"{_residue(atom.residue)}-{atom.name}"
