"""Molecular dynamics of alanine dipeptide in implicit solvent, made with OpenMM; three quarters of an hour on one core.

In an environment of its own: `pip install openmm xarray h5netcdf h5py`, then `OPENMM_CPU_THREADS=1 python prepare.py`.
Frames are written after every trajectory, so that a run that was stopped leaves those that are complete.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openmm
import xarray as xr
from openmm import app, unit

HERE = Path(__file__).parent
PHI = [("ACE", "C"), ("ALA", "N"), ("ALA", "CA"), ("ALA", "C")]
PSI = [("ALA", "N"), ("ALA", "CA"), ("ALA", "C"), ("NME", "N")]


@dataclass(frozen=True)
class Settings:
    """Everything that the frames depend on; written beside them."""

    force_field: str = "amber99sb.xml"
    solvent: str = "implicit/obc2.xml"
    temperature_K: float = 500.0
    friction_per_ps: float = 1.0
    step_ps: float = 0.004
    hydrogen_mass_amu: float = 3.0
    equilibration_ps: float = 10.0
    frame_ps: float = 0.5
    n_trajectories: int = 12
    n_frames: int = 2000
    seed: int = 0

    def start(self, i: int) -> tuple[float, float]:
        """Phi and psi in degrees where trajectory i starts: by turns in the basin phi < 0 and in that of phi > 0."""
        return ((-80.0, 150.0), (60.0, 40.0))[i % 2]


def place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, dihedral: float) -> np.ndarray:
    """The atom at a distance from c, at an angle with b and a dihedral angle with a (degrees)."""
    angle, dihedral = np.radians(angle), np.radians(dihedral)
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    across = np.cos(dihedral) * np.cross(normal, along) + np.sin(dihedral) * normal
    return c + length * (np.sin(angle) * across - np.cos(angle) * along)


def heavy_atoms(phi: float, psi: float) -> str:
    """A PDB file of the ten heavy atoms with ideal bonds and angles, in angstrom."""
    methyl, carbon = np.zeros(3), np.array([1.51, 0.0, 0.0])
    nitrogen = carbon + 1.335 * np.array([-np.cos(np.radians(116.6)), np.sin(np.radians(116.6)), 0.0])
    alpha = place(methyl, carbon, nitrogen, 1.449, 121.9, 180.0)
    carbonyl = place(carbon, nitrogen, alpha, 1.522, 110.5, phi)
    amide = place(nitrogen, alpha, carbonyl, 1.335, 116.6, psi)
    atoms = {
        ("ACE", "CH3"): methyl,
        ("ACE", "C"): carbon,
        ("ACE", "O"): place(nitrogen, methyl, carbon, 1.23, 120.5, 180.0),
        ("ALA", "N"): nitrogen,
        ("ALA", "CA"): alpha,
        ("ALA", "C"): carbonyl,
        ("ALA", "O"): place(nitrogen, alpha, carbonyl, 1.229, 120.5, psi + 180.0),
        ("ALA", "CB"): place(carbon, nitrogen, alpha, 1.526, 110.0, phi - 120.0),
        ("NME", "N"): amide,
        ("NME", "CH3"): place(alpha, carbonyl, amide, 1.449, 121.9, 180.0),
    }
    return pdb_text(atoms)


def pdb_text(atoms: dict[tuple[str, str], np.ndarray]) -> str:
    """Positions (angstrom) by residue and name, as a PDB file."""
    number = {"ACE": 1, "ALA": 2, "NME": 3}
    lines = [
        f"ATOM  {i:5d}  {name:<3s} {residue} A{number[residue]:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          "
        f"{name[0]:>2s}"
        for i, ((residue, name), (x, y, z)) in enumerate(atoms.items(), start=1)
    ]
    return "\n".join([*lines, "TER", "END", ""])


def simulation(settings: Settings, i: int) -> tuple[app.Simulation, dict[tuple[str, str], int]]:
    """Trajectory i, minimised and with velocities; and the numbers of the heavy atoms by residue and name."""
    pdb = app.PDBFile(io.StringIO(heavy_atoms(*settings.start(i))))
    force_field = app.ForceField(settings.force_field, settings.solvent)
    molecule = app.Modeller(pdb.topology, pdb.positions)
    molecule.addHydrogens(force_field)
    system = force_field.createSystem(
        molecule.topology,
        nonbondedMethod=app.NoCutoff,
        constraints=app.HBonds,
        hydrogenMass=settings.hydrogen_mass_amu * unit.amu,
    )
    integrator = openmm.LangevinMiddleIntegrator(
        settings.temperature_K, settings.friction_per_ps / unit.picosecond, settings.step_ps * unit.picosecond
    )
    seed = 1 + settings.seed * settings.n_trajectories + i  # OpenMM takes 0 as "draw a seed"
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("CPU")
    made = app.Simulation(molecule.topology, system, integrator, platform, {"Threads": "1"})
    made.context.setPositions(molecule.positions)
    made.minimizeEnergy()
    made.context.setVelocitiesToTemperature(settings.temperature_K, seed)
    heavy = [atom for atom in molecule.topology.atoms() if atom.element.symbol != "H"]
    # OpenMM calls the methyl carbon of NME "C"; everybody else CH3
    return made, {
        (a.residue.name, "CH3" if (a.residue.name, a.name) == ("NME", "C") else a.name): a.index for a in heavy
    }


def positions_of(settings: Settings, i: int) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Frames of trajectory i (n_frames, 10, 3) in nm, the centre of the heavy atoms at the origin; and their names."""
    made, atoms = simulation(settings, i)
    made.step(round(settings.equilibration_ps / settings.step_ps))
    frames = []
    for _ in range(settings.n_frames):
        made.step(round(settings.frame_ps / settings.step_ps))
        state = made.context.getState(positions=True).getPositions(asNumpy=True)
        frames.append(state.value_in_unit(unit.nanometer)[list(atoms.values())])
    positions = np.array(frames)
    return positions - positions.mean(axis=1, keepdims=True), list(atoms)


def dihedral(positions: np.ndarray, atoms: list[int]) -> np.ndarray:
    """Dihedral angle in degrees (...,) of four of the atoms of positions (..., atom, 3)."""
    a, b, c = np.moveaxis(np.diff(positions[..., atoms, :], axis=-2), -2, 0)
    left, right = np.cross(a, b), np.cross(b, c)
    sine = np.linalg.norm(b, axis=-1) * (a * right).sum(-1)
    return np.degrees(np.arctan2(sine, (left * right).sum(-1)))


def dataset(settings: Settings, positions: np.ndarray, names: list[tuple[str, str]]) -> xr.Dataset:
    """Dihedral angles `state` and `positions` of trajectories (trajectory, time, atom, axis), labelled."""
    angles = np.stack([dihedral(positions, [names.index(name) for name in four]) for four in (PHI, PSI)], axis=-1)
    how = {
        "dt": settings.frame_ps,
        "time_unit": "ps",
        "created_by": f"OpenMM {openmm.version.short_version}, CPU platform",
        "system": "alanine dipeptide (ACE-ALA-NME)",
        "parameters": json.dumps(asdict(settings)),
        "seed": settings.seed,
    }
    return xr.Dataset(
        {
            "state": (
                ("trajectory", "time", "coordinate"),
                angles,
                {"units": "degree", "long_name": "backbone dihedral angles", **how},
            ),
            "positions": (
                ("trajectory", "time", "atom", "axis"),
                positions,
                {"units": "nm", "long_name": "positions of heavy atoms about their centre", **how},
            ),
        },
        coords={
            "time": ("time", settings.frame_ps * np.arange(positions.shape[1]), {"units": "ps"}),
            "coordinate": ["phi", "psi"],
            "atom": [f"{residue} {name}" for residue, name in names],
            "axis": ["x", "y", "z"],
        },
    )


def write(folder: Path, data: xr.Dataset) -> None:
    """Write trajectories.nc, and topology.pdb with the first frame."""
    packed = {"dtype": "int16", "_FillValue": -32768, "zlib": True, "complevel": 9, "shuffle": True}
    encoding = {
        "state": {**packed, "scale_factor": 0.01},
        "positions": {**packed, "scale_factor": 1e-4},
        "time": {"zlib": True},
    }
    data.to_netcdf(folder / "trajectories.nc", engine="h5netcdf", encoding=encoding)
    first = data.positions[0, 0].values * 10.0
    names = [tuple(str(name).split()) for name in data.atom.values]
    (folder / "topology.pdb").write_text(pdb_text(dict(zip(names, first, strict=True))), encoding="utf-8")


def main(settings: Settings) -> None:
    """Simulate all trajectories and write them."""
    done = []
    for i in range(settings.n_trajectories):
        positions, names = positions_of(settings, i)
        done.append(positions)
        write(HERE, dataset(settings, np.array(done), names))
        phi = dihedral(positions, [names.index(name) for name in PHI])
        print(f"trajectory {i}: phi > 0 in {np.mean((phi > 0) & (phi < 150)):.1%} of the frames", flush=True)


if __name__ == "__main__":
    main(Settings())
