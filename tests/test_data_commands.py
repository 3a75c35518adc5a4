"""Files of every kind on the command line: the trajectories and the fit of Python."""

import sys

import numpy as np
import pandas as pd
import pytest

import koopman_lora as kl
from koopman_lora.cli import main, make_parser
from koopman_lora.data_commands import trajectories_of

FIT = ["--n-modes", "3", "--n-epochs", "1", "--hidden-dims", "8", "--quiet"]
RUNS = [kl.systems.NoisyRotation().simulate(n_steps=n, seed=n).values[0] for n in (300, 200)]
TOPOLOGY = str(kl.datasets.folder("alanine_dipeptide") / "topology.pdb")
pytestmark = [
    pytest.mark.any_processor,
    pytest.mark.filterwarnings("ignore::UserWarning"),  # one epoch is little
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs in every format."""
    folder = tmp_path_factory.mktemp("runs")
    for i, run in enumerate(RUNS):
        np.save(folder / f"run{i}.npy", run)
        table = pd.DataFrame(run, columns=["x", "y"])
        table.to_csv(folder / f"run{i}.csv", index=False)
        table.to_parquet(folder / f"run{i}.parquet")
        table.assign(note="text", hour=np.arange(len(run)) / 2).to_csv(folder / f"more{i}.csv", index=False)
    np.savez(folder / "runs.npz", *RUNS)
    return folder


def read(*arguments):
    """What every sub-command makes of these arguments."""
    return trajectories_of(make_parser().parse_args(["health", *map(str, arguments)]))


@pytest.mark.parametrize(
    "names",
    [
        ["run0.npy", "run1.npy"],
        ["run0.csv", "run1.csv"],
        ["run?.parquet"],
        ["runs.npz"],
        ["run0.npy", "run1.csv"],
        ["more*.csv", "--columns", "x", "y"],
    ],
)
def test_files_of_every_kind_are_the_same_trajectories(folder, names):
    found = read(*(name if name in "--columns x y" else folder / name for name in names))
    assert all(np.array_equal(part, run) for part, run in zip(found, RUNS, strict=True))


@pytest.mark.slow
def test_a_fit_of_tables_is_that_of_python_and_its_questions_take_the_same_flags(folder, capsys):
    data = [str(folder / "more0.csv"), str(folder / "more1.csv"), "--columns", "x", "y", "--time-column", "hour"]
    out = str(folder / "fit")
    assert main(["fit", *data, *FIT, "--time-unit", "h", "--out", out]) == 0
    analysis = kl.open_analysis(out)
    assert (analysis.clock.dt, analysis.clock.time_unit) == (0.5, "h")
    expected = kl.KoopmanLoRA(3, n_epochs=1, hidden_dims=(8,), progress=False).fit(RUNS)
    found = analysis.spectrum.canonical_singular_values
    assert np.array_equal(found, expected.spectrum_.canonical_singular_values)
    capsys.readouterr()
    assert main(["spectrum", out, *data]) == 0
    assert "not what the model was fitted to" not in capsys.readouterr().out
    assert main(["forecast", out, *data, "--steps", "1", "--n-resamples", "20"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2  # one lag ahead of the ends of two runs
    assert main(["spectrum", out, str(folder / "runs.npz"), "--variable", "arr_1"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder}/runs.npz is not what the model was fitted to")


@pytest.mark.slow
def test_weights_of_several_files_stand_in_several_files(folder):
    weights = [np.random.default_rng(i).uniform(size=len(run)) for i, run in enumerate(RUNS)]
    names = [str(folder / f"weights{i}.npy") for i in range(2)]
    for name, part in zip(names, weights, strict=True):
        np.save(name, part)
    out = str(folder / "weighted")
    assert main(["fit", str(folder / "run?.npy"), *FIT, "--sample-weight", *names, "--out", out]) == 0
    fitted = kl.KoopmanLoRA(3, n_epochs=1, hidden_dims=(8,), progress=False).fit(RUNS, sample_weight=weights)
    expected = fitted.spectrum_.canonical_singular_values
    assert np.array_equal(kl.open_analysis(out).spectrum.canonical_singular_values, expected)


def test_every_command_that_takes_data_reads_them_in_the_same_way():
    flags = ["x.csv", "--time-column", "t", "--topology", "a.pdb", "--features", "positions", "--atoms", "all"]
    for command in ("health", "fit", "spectrum", "report", "forecast", "coarse-grain", "plot"):
        first = [] if command in ("health", "fit") else ["folder"]
        out = ["--out", "o"] if command in ("fit", "plot") else ["--n-states", "2"] if command == "coarse-grain" else []
        parsed = make_parser().parse_args([command, *first, *flags, *out])
        assert parsed.data == ["x.csv"]
        assert (parsed.time_column, parsed.features, parsed.columns) == ("t", "positions", None)


# ---- molecules -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def molecule(tmp_path_factory):
    mdtraj = pytest.importorskip("mdtraj")
    folder, topology = tmp_path_factory.mktemp("molecule"), mdtraj.load_topology(TOPOLOGY)
    for i, xyz in enumerate(kl.datasets.load("alanine_dipeptide", "positions").values[:2, :40]):
        for suffix in ("xtc", "dcd", "pdb"):
            mdtraj.Trajectory(xyz, topology).save(str(folder / f"run{i}.{suffix}"))
    return folder


@pytest.mark.parametrize("suffix", ["xtc", "dcd", "pdb"])
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], lambda files: files.torsions()),
        (["--features", "distances", "--atoms", "name C or name N"], lambda files: files.distances("name C or name N")),
        (["--features", "positions", "--atoms", "backbone"], lambda files: files.aligned_positions("backbone")),
    ],
    ids=["torsions", "distances", "positions"],
)
def test_a_molecule_is_what_its_features_say(molecule, flags, expected, suffix):
    files = kl.molecules.MoleculeFiles([molecule / f"run{i}.{suffix}" for i in range(2)], TOPOLOGY)
    found = read(molecule / f"run*.{suffix}", "--topology", TOPOLOGY, *flags)
    assert all(part.identical(other) for part, other in zip(found, expected(files), strict=True))


@pytest.mark.slow
def test_torsions_of_files_are_fitted_in_their_own_time(molecule):
    data = [str(molecule / "run*.xtc"), "--topology", TOPOLOGY]
    assert main(["fit", *data, *FIT, "--out", str(molecule / "fit")]) == 0
    assert kl.open_analysis(molecule / "fit").clock.time_unit == "ps"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run0.xtc"], "or --topology FILE on the command line"),
        (["run0.xtc", "--features", "torsions"], "--features needs --topology FILE"),
        (["run0.xtc", "--topology", TOPOLOGY, "--atoms", "backbone"], "--atoms picks atoms for --features distances"),
        (["run0.xtc", "--topology", TOPOLOGY, "--columns", "x"], "--columns says nothing of a molecule"),
        (["run0.xtc", "--topology", "none.pdb"], "topology: 'none.pdb' does not exist"),
        (["none.xtc", "--topology", TOPOLOGY], "paths: 'none.xtc' does not exist"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(molecule, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(molecule)
    assert main(["health", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_absent_mdtraj_is_one_line(molecule, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    assert main(["health", str(molecule / "run0.xtc"), "--topology", TOPOLOGY]) == 2
    assert "koopman-lora health: MoleculeFiles needs mdtraj; install it with pip install" in capsys.readouterr().err
