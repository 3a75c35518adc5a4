import numpy as np
import pytest
import scipy.sparse

import koopman_lora as kl
from koopman_lora.cli import main
from koopman_lora.demo import run_demo
from koopman_lora.tables import spectrum_table


def test_simulate_fit_spectrum_on_files(tmp_path, capsys):
    data, out = str(tmp_path / "x.nc"), str(tmp_path / "out")
    assert main(["simulate", "NoisyRotation", "--n-trajectories", "2", "--n-steps", "1500", "--out", data]) == 0
    assert main(["fit", data, "--n-modes", "3", "--n-epochs", "4", "--out", out]) == 0
    intervals, again = str(tmp_path / "i.nc"), str(tmp_path / "s.nc")
    printed = capsys.readouterr().out
    assert "refined: " in printed
    assert "held out: VAMP-1" in printed
    options = ["--out", again, "--intervals", intervals, "--n-resamples", "50", "--level", "0.9"]
    options += ["--diagnose", "--scores", "--select-n-modes", "--residuals", "--scan-lags", "1", "2"]
    assert main(["spectrum", f"{out}/model.safetensors", data, *options]) == 0
    printed = capsys.readouterr().out
    assert "canonical" in printed
    assert "Remedy" in printed
    assert "generalisation gap unknown" not in printed
    assert "held out: VAMP-1" in printed
    assert "number of modes: recommended 3 (90 % of sum sigma 3" in printed
    assert "recommended lag: " in printed
    assert "90 % intervals" in printed
    assert printed.count("residual") == 2  # the heading and the note
    scan = next(row for row in printed.splitlines() if row.split()[:2] == ["2", "2"])
    assert 5 < float(scan.split()[2]) < 50
    assert kl.load_dataset(intervals).attrs["n_resamples"] == 50
    fitted, computed = kl.load_dataset(f"{out}/spectrum.nc"), kl.load_dataset(again)
    assert np.allclose(fitted.canonical_singular_values, computed.canonical_singular_values, atol=1e-6)
    exact = kl.systems.NoisyRotation().spectrum(1, 3).singular_values
    assert np.allclose(computed.canonical_singular_values, exact, atol=0.03)
    assert (kl.load_dataset(intervals).canonical_singular_values[1:].diff("bound") > 0).all()


def test_parameters_reach_the_system(tmp_path):
    main(
        [
            "simulate",
            "NoisyLogisticMap",
            "--parameters",
            '{"order": 4}',
            "--n-steps",
            "9",
            "--out",
            str(tmp_path / "x.nc"),
        ]
    )
    expected = kl.systems.NoisyLogisticMap(order=4).simulate(n_steps=9, seed=0)
    assert np.array_equal(kl.open_trajectories(tmp_path / "x.nc"), expected)


@pytest.mark.parametrize("name", ["H.npy", "H.npz"])
def test_svd_of_a_matrix_on_disk(tmp_path, capsys, name):
    H = np.random.default_rng(0).normal(size=(30, 20))
    if name == "H.npy":
        np.save(tmp_path / name, H)
    else:
        scipy.sparse.save_npz(tmp_path / name, scipy.sparse.csr_matrix(H))
    assert main(["svd", str(tmp_path / name), "--modes", "3", "--out", str(tmp_path / "result.nc")]) == 0
    result = kl.load_dataset(tmp_path / "result.nc")
    assert np.allclose(result.singular_values, np.linalg.svd(H)[1][:3], rtol=1e-4)
    assert "orthogonality_u" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["svd", "missing.npy", "--out", "r.nc"], "missing.npy"),
        (["svd", "data.txt", "--out", "r.nc"], "matrix must end in .npy"),
        (["svd", "square.npy", "--modes", "9", "--out", "r.nc"], "n_modes"),
        (["svd", "square.npy", "--orthogonality", "gram", "--out", "r.nc"], "orthogonality"),
        (
            ["simulate", "NoisyLogisticMap", "--parameters", "order", "--out", "x.nc"],
            "parameters must be a JSON object",
        ),
        (["simulate", "NoisyLogisticMap", "--n-steps", "0", "--out", "x.nc"], "n_steps"),
        (["fit", "missing.nc", "--out", "here"], "missing.nc"),
        (["fit", "data.txt", "--out", "here"], "must end in .nc, .zarr or .npy"),
        (["fit", "short.npy", "--lag", "9", "--out", "here"], "trajectory 0 (5 frames)"),
        (["fit", "short.npy", "--nesting", "both", "--out", "here"], "nesting must be one of"),
        (["spectrum", "missing.safetensors", "short.npy"], "missing.safetensors"),
        (["spectrum", "data.txt", "short.npy"], "model.safetensors that `koopman-lora fit` wrote"),
        (["spectrum", "missing.safetensors", "short.npy", "--out", "x.txt"], "must end in .nc or .zarr"),
        (["fit", "empty.npy", "--out", "here"], "'empty.npy' cannot be read"),
        (["fit", "empty.nc", "--out", "here"], "'empty.nc' cannot be read"),
        (["svd", "empty.npy", "--out", "r.nc"], "'empty.npy' cannot be read"),
        (["svd", "square.npy", "--out", "r.txt"], "must end in .nc or .zarr"),
        (["simulate", "LinearGaussian", "--out", "x.nc"], "parameters of LinearGaussian are A, B"),
        (["simulate", "NoisyRotation", "--parameters", "[1]", "--out", "x.nc"], "must be a JSON object"),
        (["simulate", "NoisyRotation", "--parameters", '{"foo": 1}', "--out", "x.nc"], "foo"),
    ],
)
def test_errors_are_one_line_and_status_two(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.arange(5.0)[:, None])
    np.save("square.npy", np.eye(3))
    (tmp_path / "data.txt").write_text("1 2 3")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "empty.nc").touch()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--out", str(tmp_path / "file" / "demo")]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_every_command_has_help(capsys):
    for command in ("demo", "simulate", "fit", "spectrum", "svd"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "usage: koopman-lora" in capsys.readouterr().out


@pytest.mark.slow
def test_demo_writes_everything_and_twice_the_same(tmp_path):
    first = run_demo(tmp_path / "a", progress=False)
    second = run_demo(tmp_path / "b", progress=False)
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert names >= {"trajectories.nc", "model.safetensors", "spectrum.nc", "history.nc", "spectrum.png"}
    assert np.array_equal(first.canonical_singular_values, second.canonical_singular_values)
    reference = kl.systems.FourWellLandscape2D().spectrum(1, 8)
    assert np.allclose(first.canonical_singular_values[:4], reference.singular_values[:4], atol=0.01)
    assert spectrum_table(first, reference).count("\n") == 8
