"""Files of molecular dynamics to coordinates, and frames back to structures."""

import pathlib
import sys

import numpy as np
import pytest
import xarray as xr

import koopman_lora as kl
from koopman_lora.molecules import MoleculeFiles

mdtraj = pytest.importorskip("mdtraj")

TOPOLOGY = kl.datasets.folder("alanine_dipeptide") / "topology.pdb"
README = pathlib.Path(__file__).parents[1] / "README.md"
LENGTHS = (60, 41)


@pytest.fixture(scope="module")
def positions():
    """Positions (n_frames, 10, 3) of two runs, as shipped."""
    stored = kl.datasets.load("alanine_dipeptide", "positions").values
    return [stored[i, 100 : 100 + n] for i, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def angles():
    """Phi and psi in degrees of the same frames, as they were computed before positions were rounded."""
    stored = kl.datasets.load("alanine_dipeptide").values
    return [stored[i, 100 : 100 + n] for i, n in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def folder(positions, tmp_path_factory):
    """The two runs in every format, half a picosecond between frames, the first one beginning at 50 ps."""
    folder = tmp_path_factory.mktemp("runs")
    topology = mdtraj.load_topology(str(TOPOLOGY))
    for i, xyz in enumerate(positions):
        frames = mdtraj.Trajectory(xyz, topology, time=50.0 + 0.5 * np.arange(len(xyz)))
        for suffix in ("xtc", "trr", "dcd", "pdb"):
            frames.save(str(folder / f"run{i}.{suffix}"))
    return folder


def runs(folder, suffix="xtc"):
    return [folder / f"run{i}.{suffix}" for i in range(2)]


@pytest.fixture
def files(folder):
    return MoleculeFiles(runs(folder), TOPOLOGY)


# ---- coordinates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd", "pdb"])
def test_torsions_are_those_of_the_program_that_made_the_frames(folder, angles, suffix):
    found = MoleculeFiles(runs(folder, suffix), TOPOLOGY).torsions()
    assert [part.sizes["time"] for part in found] == list(LENGTHS)
    for part, known in zip(found, angles, strict=True):
        assert part.coordinate.values.tolist() == ["sin phi ALA2", "cos phi ALA2", "sin psi ALA2", "cos psi ALA2"]
        for i, angle in enumerate(np.radians(known).T):
            turned = np.arctan2(part.values[:, 2 * i], part.values[:, 2 * i + 1]) - angle
            # positions are stored in steps of 1e-3 nm by these formats: some two degrees of a torsion angle
            assert np.abs(np.angle(np.exp(1j * turned))).max() < np.radians(2)


def test_distances_between_all_selected_atoms(files, positions):
    found = files.distances("name CA or name O or name N")
    atoms = [2, 3, 4, 6, 8]
    pairs = [(a, b) for i, a in enumerate(atoms) for b in atoms[i + 1 :]]
    for part, xyz in zip(found, positions, strict=True):
        known = np.stack([np.linalg.norm(xyz[:, a] - xyz[:, b], axis=1) for a, b in pairs], axis=1)
        np.testing.assert_allclose(part, known, atol=2e-3)
    assert found[0].coordinate.values[:2].tolist() == ["ACE1-O ALA2-N", "ACE1-O ALA2-CA"]
    assert found[0].units == "nm"


def test_distances_of_listed_pairs_keep_their_order(files, positions):
    (part, _) = files.distances([[9, 0], [4, 2]])
    assert part.coordinate.values.tolist() == ["NME3-C ACE1-CH3", "ALA2-CA ACE1-O"]
    known = [np.linalg.norm(positions[0][:, a] - positions[0][:, b], axis=1) for a, b in ((9, 0), (4, 2))]
    np.testing.assert_allclose(part.values.T, known, atol=2e-3)


def test_aligned_positions_forget_rotation_and_translation(positions, tmp_path):
    topology = mdtraj.load_topology(str(TOPOLOGY))
    xyz = positions[0]
    rng = np.random.default_rng(0)
    turns = np.linalg.qr(rng.normal(size=(len(xyz), 3, 3)))[0]
    turns *= np.linalg.det(turns)[:, None, None]
    moved = np.einsum("tij,taj->tai", turns, xyz) + rng.normal(size=(len(xyz), 1, 3))
    moved[0] = xyz[0]  # the reference
    for name, frames in (("still", xyz), ("moved", moved)):
        mdtraj.Trajectory(frames, topology).save(str(tmp_path / f"{name}.dcd"))
    still, tumbling = MoleculeFiles([tmp_path / "still.dcd", tmp_path / "moved.dcd"], TOPOLOGY).aligned_positions("all")
    np.testing.assert_allclose(still, tumbling, atol=2e-5)
    assert tumbling.coordinate.values[:2].tolist() == ["ACE1-CH3 x", "ACE1-CH3 y"]
    # laid upon the first frame as well as Kabsch's rotation does
    a, b = (frame - frame.mean(0) for frame in (xyz[7], xyz[0]))
    u, _, vt = np.linalg.svd(a.T @ b)
    known = a @ u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    np.testing.assert_allclose(tumbling.values[7].reshape(10, 3), known, atol=2e-5)


def test_chunks_change_nothing(files, monkeypatch):
    whole = files.torsions()
    monkeypatch.setattr("koopman_lora.molecules.files.ATOMS_AT_ONCE", 70)  # seven frames
    for once, chunked in zip(whole, files.torsions(), strict=True):
        xr.testing.assert_identical(once, chunked)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["xtc", "dcd", "pdb"])
def test_a_stride_takes_every_third_frame(folder, suffix):
    every = MoleculeFiles(runs(folder, suffix), TOPOLOGY).distances("all")
    third = MoleculeFiles(runs(folder, suffix), TOPOLOGY, stride=3).distances("all")
    for a, b in zip(every, third, strict=True):
        xr.testing.assert_equal(a[::3], b)


# ---- time ------------------------------------------------------------------------------------------------------------


def test_files_tell_the_time_step(folder):
    pairs = kl.lagged_pairs(MoleculeFiles(runs(folder), TOPOLOGY, stride=2).torsions(), lag=3)
    assert (pairs.clock.dt, pairs.clock.time_unit) == (pytest.approx(1.0), "ps")
    assert pairs.n_pairs == 30 - 3 + 21 - 3


def test_files_without_times_count_in_frames_until_someone_tells(folder):
    (part, _) = MoleculeFiles(runs(folder, "dcd"), TOPOLOGY).torsions()
    assert "time" not in part.coords
    assert kl.lagged_pairs([part]).clock == kl.Clock(1, 1.0, "")
    told = MoleculeFiles(runs(folder, "dcd"), TOPOLOGY, stride=2, dt=0.25).torsions()
    assert kl.lagged_pairs(told).clock == kl.Clock(1, 0.5, "ps")


def test_a_time_step_that_is_told_wins(folder):
    assert kl.lagged_pairs(MoleculeFiles(runs(folder), TOPOLOGY, dt=2.0).torsions()).clock.dt == 2.0


# ---- structures ------------------------------------------------------------------------------------------------------

ROWS = [[1, 40], [0, 3], [1, 0], [0, 59]]


@pytest.mark.parametrize("read", ["xtc", "trr", "dcd", "pdb"])
@pytest.mark.parametrize("written", ["pdb", "xtc"])
def test_written_structures_are_the_frames_that_were_asked_for(folder, positions, tmp_path, read, written):
    path = MoleculeFiles(runs(folder, read), TOPOLOGY).write(ROWS, tmp_path / f"chosen.{written}")
    found = mdtraj.load(str(path), top=str(TOPOLOGY))
    known = np.stack([positions[trajectory][frame] for trajectory, frame in ROWS])
    np.testing.assert_allclose(found.xyz, known, atol=2e-3)


def test_frames_count_with_the_stride(folder, positions):
    files = MoleculeFiles(runs(folder), TOPOLOGY, stride=5)
    np.testing.assert_allclose(
        files.structures([[0, 3], [1, 8]]).xyz[:, 0], [positions[0][15, 0], positions[1][40, 0]], atol=1e-3
    )
    with pytest.raises(ValueError, match=r"frames asks for frame 9 of trajectory 1, which .*run1.xtc' does not have"):
        files.structures([[1, 9]])


def test_structures_of_some_atoms(files, positions):
    found = files.structures([[0, 1]], atoms="resname ALA and name CA or name CB")
    assert [atom.name for atom in found.topology.atoms] == ["CA", "CB"]
    np.testing.assert_allclose(found.xyz[0], positions[0][1, [4, 7]], atol=1e-3)


@pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd", "pdb"])
def test_frames_behind_the_last_are_told(folder, suffix):
    with pytest.raises(ValueError, match="frames asks for frame 41 of trajectory 1"):
        MoleculeFiles(runs(folder, suffix), TOPOLOGY).structures([[1, 41]])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([0, 1], r"frames must be rows \(trajectory, frame\) of whole numbers"),
        (np.empty((0, 2), dtype=int), "at least one"),
        ([[0.0, 1.5]], "of whole numbers"),
        ([[2, 0]], r"trajectories 0 to 1, and frames from 0; got \[2, 0\]"),
        ([[0, -1]], r"got \[0, -1\]"),
    ],
)
def test_frames_that_are_none_are_refused(files, frames, message):
    with pytest.raises(ValueError, match=message):
        files.structures(frames)


def test_a_path_of_another_kind_is_refused_before_anything_is_read(files, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.pdb, \.gro, \.xtc.*; got '.*chosen.txt'"):
        files.write(ROWS, tmp_path / "chosen.txt")


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda files: files.torsions(["phi", "zeta"]), "kinds must be one of 'phi', .*; got 'zeta'"),
        (lambda files: files.torsions(["chi1"]), r"kinds=\['chi1'\] asks for chi1, which no residue"),
        (lambda files: files.torsions([]), "kinds must name at least one of phi"),
        (lambda files: files.distances("name QQ"), "atoms='name QQ' selects 0 of 10 atoms; at least 2 needed"),
        (lambda files: files.distances("((name"), r"atoms must be a selection in mdtraj's language.*got '\(\(name'"),
        (lambda files: files.distances([[0, 10]]), r"pairs of two atoms \(n_pairs, 2\), numbers from 0 to 9"),
        (lambda files: files.distances([[0.5, 1.0]]), "pairs of two atoms"),
        (lambda files: files.distances([[3, 3]]), "pairs of two atoms"),
        (lambda files: files.distances([[3, 4], [5]]), "atoms must be a rectangular array of numbers"),
        (lambda files: files.aligned_positions("name CA or name CB"), "selects 2 of 10 atoms; at least 3 needed"),
    ],
)
def test_questions_that_cannot_be_answered_name_their_argument(files, ask, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ask(files)


def test_files_that_cannot_be_read_are_told_at_once(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"paths: 'nothing\.xtc' does not exist"):
        MoleculeFiles("nothing.xtc", TOPOLOGY)
    with pytest.raises(FileNotFoundError, match=r"topology: 'nothing\.pdb' does not exist"):
        MoleculeFiles(runs(folder), "nothing.pdb")
    with pytest.raises(ValueError, match="paths is empty, or holds an empty text"):
        MoleculeFiles([], TOPOLOGY)
    with pytest.raises(TypeError, match="paths must be a path, or a list of paths; got 3"):
        MoleculeFiles(3, TOPOLOGY)
    with pytest.raises(ValueError, match="dt must be"):
        MoleculeFiles(runs(folder), TOPOLOGY, dt=0.0)
    (tmp_path / "broken.xtc").write_bytes(b"no trajectory at all" * 9)
    with pytest.raises(ValueError, match=r"broken.xtc' cannot be read .* give a trajectory of the 10 atoms"):
        MoleculeFiles(tmp_path / "broken.xtc", TOPOLOGY)
    (tmp_path / "broken.pdb").write_bytes(b"no atoms")
    with pytest.raises(ValueError, match=r"broken.pdb' (cannot be read|holds no frame)"):
        MoleculeFiles(runs(folder), tmp_path / "broken.pdb")


@pytest.mark.parametrize("suffix", ["xtc", "dcd", "pdb"])
def test_a_topology_of_another_molecule_is_refused(folder, suffix):
    other = mdtraj.load_topology(str(TOPOLOGY)).subset(range(7))
    with pytest.raises(ValueError, match=rf"run0.{suffix}' .* topology"):
        MoleculeFiles(runs(folder, suffix), other)


def test_without_mdtraj_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    with pytest.raises(ImportError, match=r"MoleculeFiles needs mdtraj; .*koopman-lora\[md\]"):
        MoleculeFiles(runs(folder), TOPOLOGY)


def test_a_molecule_of_two_chains_names_them(positions, tmp_path):
    one = mdtraj.load_topology(str(TOPOLOGY))
    two = one.join(one)
    xyz = np.concatenate([positions[0][:40], positions[1][:40] + 3.0], axis=1)
    mdtraj.Trajectory(xyz, two).save(str(tmp_path / "two.dcd"))
    (found,) = MoleculeFiles(tmp_path / "two.dcd", two).torsions(["phi"])
    assert found.coordinate.values.tolist() == [f"{f} phi {chain}:ALA2" for chain in (0, 1) for f in ("sin", "cos")]
    alone = kl.datasets.load("alanine_dipeptide").values[:2, 100:140, 0]
    np.testing.assert_allclose(found.values[:, ::2].T, np.sin(np.radians(alone)), atol=0.03)


def test_what_it_shows(files):
    assert repr(files) == "MoleculeFiles(2 files, 10 atoms)"
    assert repr(MoleculeFiles(files.paths, TOPOLOGY, stride=4)) == "MoleculeFiles(2 files, 10 atoms, stride 4)"


# ---- frames ----------------------------------------------------------------------------------------------------------

CHI = [np.array([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]]), np.array([[0.45, 0.55], [1.0, 0.0]])]


def test_frames_of_a_fuzzy_state_are_the_surest_first():
    assert kl.molecules.frames_of_state(CHI, 0).tolist() == [[1, 1], [0, 0], [0, 1]]
    assert kl.molecules.frames_of_state(CHI, 1, n=1).tolist() == [[0, 2]]


def test_frames_of_a_hard_state_are_spread_over_the_data():
    states = [np.repeat([0, 1], 50), np.zeros(101, dtype=int)]
    assert kl.molecules.frames_of_state(states, 0, n=4).tolist() == [[0, 0], [1, 0], [1, 50], [1, 100]]
    assert kl.molecules.frames_of_state([0, 2, 0], 1).shape == (0, 2)
    assert kl.molecules.frames_of_state([[], [0, 1, 1]], 1).tolist() == [[1, 1], [1, 2]]


def test_frames_along_a_mode_come_in_its_order():
    """Of the numbers 0 to 1000, shuffled, one beyond each end; the odd one at -1e9 is no end."""
    values = np.concatenate([[-1e9], np.random.default_rng(0).permutation(1001)])
    rows = kl.molecules.frames_along_mode([values[:300], values[300:]], n=11, tails=0.002)
    along = [[values[:300], values[300:]][trajectory][frame] for trajectory, frame in rows]
    np.testing.assert_allclose(along, np.linspace(1, 998, 11), atol=1)


def test_transitions_run_from_core_to_core():
    found = kl.molecules.transition_frames([[0, -1, 0, -1, -1, 1, 0, 1], [1, 1, 0, 2, 1]], 0, 1)
    assert [part.tolist() for part in found] == [[[0, 2], [0, 3], [0, 4], [0, 5]], [[0, 6], [0, 7]]]
    assert len(kl.molecules.transition_frames([[0, -1, 0, -1, -1, 1, 0, 1], [1, 1, 0, 2, 1]], 1, 0)) == 2


def test_transitions_of_memberships_need_a_core():
    chi = np.array([[0.95, 0.05], [0.3, 0.7], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    (only,) = kl.molecules.transition_frames(chi, 0, 1)
    assert only.tolist() == [[0, 2], [0, 3], [0, 4]]
    assert len(kl.molecules.transition_frames(chi, 0, 1, core=0.6)) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.frames_of_state(CHI, 2), "state must be one of the 2 states, from 0 to 1; got 2"),
        (lambda m: m.frames_of_state([0.5, 1.0], 0), "states must be whole numbers of states, or memberships"),
        (lambda m: m.frames_of_state([CHI[0], np.zeros(3)], 0), r"states must be \(n_frames,\) or \(n_frames, n_stat"),
        (lambda m: m.frames_of_state(np.float64(1.0), 0), r"states must be .* for each trajectory"),
        (lambda m: m.frames_of_state([0, 1], 0, n=0), "n must be at least 1; got 0"),
        (lambda m: m.frames_along_mode(CHI), r"values must be \(n_frames,\) for each trajectory"),
        (lambda m: m.frames_along_mode([0.0, 1.0], n=1), "n must be at least 2"),
        (lambda m: m.frames_along_mode([0.0, 1.0], n=3), "n must be at most the number of frames in values, 2; got 3"),
        (lambda m: m.frames_along_mode([0.0, 1.0], n=2, tails=0.5), "tails must be below 0.5"),
        (lambda m: m.frames_along_mode([0.0, np.nan], n=2), "values must be finite"),
        (lambda m: m.transition_frames(CHI, 1, 1), "origin and target must be two states; both are 1"),
        (lambda m: m.transition_frames(CHI, 0, 1, core=0.5), "core must be above 0.5"),
        (lambda m: m.transition_frames([0, 1], 0, 2), "target must be one of the 2 states"),
    ],
)
def test_what_is_no_state_or_mode_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(kl.molecules)


# ---- the whole job ---------------------------------------------------------------------------------------------------
