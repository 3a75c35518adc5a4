import contextlib
import functools
import io
import signal
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse
import xarray as xr

import koopman_lora as kl
from koopman_lora import demo
from koopman_lora.analysis_commands import PICTURES
from koopman_lora.cli import _PICTURES, main
from koopman_lora.demo import run_demo
from koopman_lora.findings import training_findings
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
from koopman_lora.training_loop import TrainingLoop


@pytest.mark.slow
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
    assert main(["spectrum", out, data, *options]) == 0
    printed = capsys.readouterr().out
    assert "canonical" in printed
    assert "Remedy" in printed
    assert "generalisation gap unknown" not in printed
    assert "held out: VAMP-1" in printed
    assert "number of modes: at least 3 (all that were fitted are real: fit more)\n" in printed
    assert "\nlag: " in printed
    assert "90 % intervals" in printed
    assert printed.count("residual") == 2  # the heading and the note
    scan = next(row for row in printed.splitlines() if row.split()[:2] == ["2", "2"])
    assert 5 < float(scan.split()[2]) < 50
    assert kl.load_dataset(intervals).attrs["n_resamples"] == 50
    fitted, computed = kl.load_dataset(f"{out}/spectrum.nc"), kl.load_dataset(again)
    assert np.allclose(fitted.canonical_singular_values, computed.canonical_singular_values, rtol=1e-12)
    exact = kl.systems.NoisyRotation().spectrum(1, 3).singular_values
    assert np.allclose(computed.canonical_singular_values, exact, atol=0.03)
    assert (kl.load_dataset(intervals).canonical_singular_values_interval[:, 1:].diff("bound") > 0).all()


@pytest.mark.slow
def test_weights_from_a_file_are_those_of_python(tmp_path, capsys):
    data, weights, out = (str(tmp_path / name) for name in ("x.nc", "w.npy", "out"))
    assert main(["simulate", "NoisyRotation", "--n-trajectories", "2", "--n-steps", "800", "--out", data]) == 0
    values = np.random.default_rng(0).uniform(size=(2, 800))
    np.save(weights, values)
    assert main(["fit", data, "--n-modes", "3", "--n-epochs", "2", "--sample-weight", weights, "--out", out]) == 0
    expected = kl.KoopmanLoRA(3, n_epochs=2).fit(kl.open_trajectories(data), sample_weight=values)
    found = kl.load_dataset(f"{out}/spectrum.nc")
    assert np.allclose(found.canonical_singular_values, expected.spectrum_.canonical_singular_values, rtol=1e-9)
    capsys.readouterr()
    assert main(["spectrum", out, data, "--sample-weight", weights, "--scan-lags", "1", "2"]) == 0
    assert "not what the model was fitted to" not in capsys.readouterr().out
    chain = ["coarse-grain", out, data, "--n-states", "2", "--n-resamples", "20"]
    picture = ["plot", out, data, "--lags", "1", "2", "--out", str(tmp_path / "p.png"), "--n-resamples", "20"]
    for command in (chain, picture, ["report", out, data]):
        assert main([*command, "--sample-weight", weights]) == 0
        assert "not what the model was fitted to" not in capsys.readouterr().out
    assert main(["spectrum", out, data]) == 0
    assert "The fit was weighted: if it is, give its --sample-weight" in capsys.readouterr().out


def test_health_prints_the_table_and_writes_it(tmp_path, capsys):
    data, out = str(tmp_path / "x.npy"), str(tmp_path / "health.nc")
    x = np.random.default_rng(0).normal(size=(500, 2))
    x[300:, 1] += 500
    np.save(data, x)
    assert main(["health", data, "--lag", "3", "--dt", "0.5", "--time-unit", "ps", "--out", out]) == 0
    printed = capsys.readouterr().out
    health = kl.data_health(x, 3, 0.5, "ps")
    assert printed == f"{health_text(health)}\n\nwrote {out}\n"
    assert "jumps: coordinate 1 jumps 1 time, the furthest at frame 300" in printed
    xr.testing.assert_allclose(kl.load_dataset(out), health)
    assert main(["health", data, "--out", str(tmp_path / "health.txt")]) == 2
    assert "must end in .nc or .zarr" in capsys.readouterr().err


# ---- the same as in Python -------------------------------------------------------------------------------------------


class Runs(NamedTuple):
    """One fit on the command line and the same in Python."""

    data: str
    other_data: str
    folder: str
    printed: str
    estimator: kl.KoopmanLoRA


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    paths = [str(folder / name) for name in ("x.nc", "other.nc", "fit")]
    for seed, path in enumerate(paths[:2]):
        arguments = ["--n-trajectories", "2", "--n-steps", "1200", "--seed", str(seed), "--out", path]
        assert main(["simulate", "NoisyRotation", *arguments]) == 0
    options = ["--n-modes", "3", "--lag", "2", "--n-epochs", "4", "--hidden-dims", "32", "--seed", "7"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["fit", paths[0], *options, "--out", paths[2]]) == 0
    estimator = kl.KoopmanLoRA(n_modes=3, lag=2, n_epochs=4, hidden_dims=(32,), seed=7)
    return Runs(*paths, printed.getvalue(), estimator.fit(kl.open_trajectories(paths[0])))


QUESTIONS = ["--diagnose", "--scores", "--select-n-modes", "--residuals"]


def everything_as_text(estimator):
    """What `koopman-lora spectrum` with all QUESTIONS prints, from Python."""
    findings = training_findings(estimator.moments_, estimator.model_.svals_array())
    parts = [
        spectrum_table(estimator.spectrum_),
        "\n".join([comparison_text(estimator.diagnose()), *map(finding_text, findings)]),
        scores_text(estimator.scores()),
        selection_text(estimator.select_n_modes()),
        residuals_text(estimator.residuals()),
        intervals_text(estimator.intervals()),
    ]
    return "\n\n".join(parts)


@pytest.mark.slow
def test_a_summary_of_a_folder_is_that_of_the_fit(runs, capsys):
    assert main(["spectrum", runs.folder, "--summary"]) == 0
    assert capsys.readouterr().out == f"{runs.estimator.summary()}\n"


@pytest.mark.slow
@pytest.mark.parametrize("with_data", [True, False], ids=["with data", "without data"])
def test_the_command_line_prints_what_python_says_to_the_last_digit(runs, tmp_path, capsys, with_data):
    data, intervals = [runs.data] if with_data else [], str(tmp_path / "i.nc")
    assert main(["spectrum", runs.folder, *data, *QUESTIONS, "--intervals", intervals]) == 0
    assert capsys.readouterr().out == f"{everything_as_text(runs.estimator)}\nwrote {intervals}\n"


@pytest.mark.slow
@pytest.mark.parametrize("with_data", [True, False], ids=["with data", "without data"])
def test_report_writes_the_page_of_python(runs, tmp_path, capsys, with_data):
    out = tmp_path / "page.html"
    assert main(["report", runs.folder, *([runs.data] if with_data else []), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    text = out.read_text(encoding="utf-8")
    assert ("koopman-lora report FOLDER DATA" in text) is not with_data
    assert main(["report", runs.folder]) == 0
    assert capsys.readouterr().out == f"wrote {runs.folder}/report.html\n"


def test_report_is_written_to_no_folder(runs, tmp_path, capsys):
    assert main(["report", runs.folder, "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_fit_prints_what_python_says(runs):
    estimator = runs.estimator
    expected = [str(estimator.summary()), "", refinement_text(estimator.refinement_), scores_text(estimator.scores())]
    assert runs.printed.startswith("\n".join(expected) + "\n\nthe analysis is in ")


def test_a_folder_of_fit_is_an_analysis_of_python(runs):
    analysis = kl.open_analysis(runs.folder, kl.open_trajectories(runs.data))
    assert analysis.scores() == runs.estimator.scores()
    assert analysis.clock == runs.estimator.clock
    assert analysis.fitted.settings["hidden_dims"] == [32]


def test_options_of_the_bootstrap_reach_it(runs, tmp_path, capsys):
    path = tmp_path / "i.nc"
    options = ["--n-resamples", "60", "--level", "0.8", "--seed", "3"]
    assert main(["spectrum", runs.folder, "--intervals", str(path), *options]) == 0
    expected = runs.estimator.intervals(kl.Bootstrap(60, 0.8, 3))
    assert intervals_text(expected) in capsys.readouterr().out
    xr.testing.assert_allclose(kl.load_dataset(path), expected, rtol=1e-12)


@pytest.mark.slow
def test_scan_lags_prints_what_python_says(runs, capsys):
    assert main(["spectrum", runs.folder, runs.data, "--scan-lags", "1", "2", "3"]) == 0
    scan = runs.estimator.scan_lags(kl.open_trajectories(runs.data), [1, 2, 3])
    assert capsys.readouterr().out == f"{spectrum_table(runs.estimator.spectrum_)}\n\n{scan_text(scan)}\n"


def test_lags_cannot_be_scanned_without_data(runs, capsys):
    assert main(["spectrum", runs.folder, "--scan-lags", "1", "2"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    expected = (
        "koopman-lora spectrum: --scan-lags needs the trajectories: koopman-lora spectrum FOLDER DATA --scan-lags"
    )
    assert captured.err == f"{expected} ...\n"


@pytest.mark.slow
def test_other_data_say_so_and_are_described_by_the_same_features(runs, capsys):
    assert main(["spectrum", runs.folder, runs.other_data, "--diagnose"]) == 0
    printed = capsys.readouterr().out
    first = printed.splitlines()[0]
    assert first == f"{runs.other_data} is not what the model was fitted to: all of it counts as held out."
    there = runs.estimator.applied_to(kl.open_trajectories(runs.other_data))
    assert spectrum_table(there.spectrum) in printed
    assert comparison_text(there.diagnose()) in printed
    assert spectrum_table(runs.estimator.spectrum_) not in printed


@pytest.mark.slow
def test_scores_of_other_data_are_those_of_python(runs, capsys):
    assert main(["spectrum", runs.folder, runs.other_data, "--scores"]) == 0
    there = runs.estimator.applied_to(kl.open_trajectories(runs.other_data))
    assert capsys.readouterr().out.endswith(f"\n{scores_text(there.scores())}\n")


@pytest.mark.slow
def test_a_reversible_fit_is_kept_as_such_and_says_what_contradicts_it(runs, tmp_path, capsys):
    folder = str(tmp_path / "fit")
    options = ["--reversible", "--n-epochs", "1", "--n-modes", "3", "--hidden-dims", "16"]
    with pytest.warns(UserWarning, match="do not look reversible"):
        assert main(["fit", runs.data, *options, "--out", folder]) == 0
    assert "\n- not reversible: the data do not look reversible" in capsys.readouterr().out
    assert kl.open_analysis(folder).model.is_reversible
    assert main(["spectrum", folder, "--diagnose"]) == 0
    assert "\nnot reversible: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:svals of modes")  # one epoch is little
def test_scores_where_nothing_was_held_out_are_refused_in_one_line(runs, tmp_path, capsys):
    folder = str(tmp_path / "fit")
    options = ["--held-out", "0", "--no-refine", "--n-epochs", "1", "--n-modes", "3", "--hidden-dims", "16"]
    assert main(["fit", runs.data, *options, "--out", folder]) == 0
    assert "held out: " not in capsys.readouterr().out
    assert main(["spectrum", folder, "--scores"]) == 2
    error = capsys.readouterr().err
    assert error == "koopman-lora spectrum: no pairs were held out to validate on; fit with held_out=0.1.\n"


# ---- other commands --------------------------------------------------------------------------------------------------


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
    printed = capsys.readouterr().out
    assert "orthogonality_u" in printed
    assert "6 ||H - U S V^H|| is the smallest" in printed
    assert printed.count("passed") == 6


def test_options_of_the_training_on_samples_reach_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(n, 12)))[0] for n in (60, 40))
    sigma = 0.5 ** np.arange(12.0)
    np.save(tmp_path / "H.npy", U * sigma @ V.T)
    options = ["--sample", "30", "20", "--oversampling", "4", "--max-steps", "200", "--seed", "3"]
    assert main(["svd", str(tmp_path / "H.npy"), "--n-modes", "4", *options, "--out", str(tmp_path / "r.nc")]) == 0
    found = kl.load_dataset(tmp_path / "r.nc")
    assert np.allclose(found.singular_values, sigma[:4], rtol=1e-2)
    expected = kl.NeuralSVD(4, sample=(30, 20), oversampling=4, max_steps=200, seed=3).fit(U * sigma @ V.T)
    assert np.allclose(found.singular_values, expected.singular_values_, rtol=1e-9)
    assert found.attrs["n_steps"] == expected.n_steps_ == 200
    assert "singular_values " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["svd", "missing.npy", "--out", "r.nc"], "missing.npy"),
        (["svd", "data.txt", "--out", "r.nc"], "matrix must end in .npy"),
        (["svd", "square.npy", "--modes", "9", "--out", "r.nc"], "n_modes"),
        (["svd", "square.npy", "--sample", "2", "9", "--out", "r.nc"], "sample must be"),
        (["svd", "square.npy", "--orthogonality", "gram", "--out", "r.nc"], "orthogonality"),
        (
            ["simulate", "NoisyLogisticMap", "--parameters", "order", "--out", "x.nc"],
            "parameters must be a JSON object",
        ),
        (["simulate", "NoisyLogisticMap", "--n-steps", "0", "--out", "x.nc"], "n_steps"),
        (["fit", "missing.nc", "--out", "here"], "missing.nc"),
        (["fit", "data.txt", "--out", "here"], "must end in .nc, .zarr, .npy, .npz, .csv or .parquet"),
        (["fit", "short.npy", "--lag", "9", "--out", "here"], "trajectory 0 (5 frames)"),
        (["fit", "short.npy", "--nesting", "both", "--out", "here"], "nesting must be one of"),
        (["spectrum", "missing", "short.npy"], "'missing' holds no analysis.json"),
        (["spectrum", "damaged", "short.npy"], "'damaged/analysis.json' is damaged"),
        (["spectrum", "foreign"], "'foreign/analysis.json' is not an analysis of this koopman_lora"),
        (["spectrum", "missing", "--scan-lags", "1", "2"], "--scan-lags needs the trajectories"),
        (["spectrum", "missing", "--intervals", "x.txt"], "must end in .nc or .zarr"),
        (["spectrum", "data.txt", "short.npy"], "give a folder that KoopmanLoRA.save or `koopman-lora fit` wrote"),
        (["spectrum", "missing", "short.npy", "--out", "x.txt"], "must end in .nc or .zarr"),
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
    for name, text in (("damaged", "{"), ("foreign", '{"format": "something else"}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "analysis.json").write_text(text)
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
    for command in ("demo", "simulate", "fit", "spectrum", "report", "svd"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "usage: koopman-lora" in capsys.readouterr().out


@pytest.mark.slow
def test_demo_writes_everything(tmp_path):
    spectrum = run_demo(tmp_path, progress=False)
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {
        "trajectories.nc",
        "analysis.json",
        "model.safetensors",
        "spectrum.nc",
        "history.nc",
        "spectrum.png",
        "report.html",
    }
    reference = kl.systems.FourWellLandscape2D().spectrum(1, 8)
    assert np.allclose(spectrum.canonical_singular_values[:4], reference.singular_values[:4], atol=0.01)
    assert spectrum_table(spectrum, reference).count("\n") == 8


@pytest.mark.slow
def test_demo_is_twice_the_same(tmp_path, monkeypatch):
    """A short one: what could differ between two runs does not depend on the number of data."""

    class Short(kl.systems.FourWellLandscape2D):
        def simulate(self, n_trajectories, n_steps, seed):
            return super().simulate(n_trajectories, n_steps // 10, seed=seed)

    monkeypatch.setattr(demo, "FourWellLandscape2D", Short)
    monkeypatch.setattr(demo, "KoopmanLoRA", functools.partial(kl.KoopmanLoRA, n_epochs=2))
    monkeypatch.setattr(demo, "_draw", lambda *_: None)
    first, second = (run_demo(tmp_path / name, progress=False) for name in "ab")
    assert np.array_equal(first.canonical_singular_values, second.canonical_singular_values)


# ---- killed and interrupted ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fit_is_kept_and_resumed(runs, tmp_path, capsys):
    options = ["--n-modes", "3", "--n-epochs", "1", "--hidden-dims", "8", "--checkpoint", str(tmp_path / "kept")]
    options += ["--checkpoint-every", "0", "--log-to", str(tmp_path / "log"), "--out", str(tmp_path / "fit"), "--quiet"]
    assert main(["fit", runs.data, *options]) == 0
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["newest.safetensors", "previous.safetensors"]
    assert (tmp_path / "log" / "version_0" / "metrics.csv").read_text().count("\n") == 2
    first = kl.load_model(tmp_path / "fit" / "model.safetensors").state_dict()
    capsys.readouterr()
    assert main(["fit", runs.data, *options]) == 2
    assert "is of an earlier fit; go on with it by resume=True" in capsys.readouterr().err
    assert main(["fit", runs.data, *options, "--resume"]) == 0
    again = kl.load_model(tmp_path / "fit" / "model.safetensors").state_dict()
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert main(["fit", runs.data, "--resume", "--out", str(tmp_path / "fit")]) == 2
    assert "resume=True needs the folder that the fit was kept in" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_interrupted_fit_is_written_and_says_how_to_go_on(runs, tmp_path, monkeypatch, capsys):
    step, done = TrainingLoop._step, []

    def interrupted(self, *batch):
        done.append(self)
        if len(done) == 12:
            signal.raise_signal(signal.SIGINT)
        step(self, *batch)

    monkeypatch.setattr(TrainingLoop, "_step", interrupted)
    options = ["--n-modes", "3", "--n-epochs", "9", "--hidden-dims", "8", "--checkpoint", str(tmp_path / "kept")]
    assert main(["fit", runs.data, *options, "--out", str(tmp_path / "fit"), "--quiet"]) == 130
    printed = capsys.readouterr()
    assert "- interrupted: training was interrupted (SIGINT) after" in printed.out
    assert printed.err.startswith("koopman-lora fit: training was interrupted (SIGINT) after ")
    assert printed.err.endswith(f"The same fit with resume=True goes on from checkpoint '{tmp_path / 'kept'}'.\n")
    assert kl.open_analysis(tmp_path / "fit").fitted.findings[0].name == "interrupted"


def test_ctrl_c_elsewhere_is_one_line(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("koopman_lora.commands.trajectories_of", stop)
    assert main(["health", "x.nc"]) == 130
    assert capsys.readouterr().err == "koopman-lora health: interrupted\n"


# ---- what is asked of a saved analysis -------------------------------------------------------------------------------


@pytest.mark.slow
def test_forecast_is_that_of_the_analysis_from_the_last_states(runs, tmp_path, capsys):
    out = str(tmp_path / "ahead.nc")
    assert main(["forecast", runs.folder, runs.data, "--steps", "2", "--n-resamples", "20", "--out", out]) == 0
    printed, band = capsys.readouterr().out, kl.load_dataset(out)
    last = kl.open_trajectories(runs.data).values[:, -1]
    expected = runs.estimator.forecast(last, 2, bootstrap=kl.Bootstrap(n_resamples=20))
    assert np.allclose(band.forecast, expected.forecast, rtol=1e-10)
    assert f"{expected.forecast.values[0, 0, 0]:.4g} (" in printed
    assert len(printed.splitlines()) == 1 + 2 * len(last) + 2


@pytest.mark.slow
def test_coarse_grain_is_that_of_the_analysis(runs, tmp_path, capsys):
    out = str(tmp_path / "states.nc")
    assert main(["coarse-grain", runs.folder, runs.data, "--n-states", "2", "--n-resamples", "20", "--out", out]) == 0
    expected = runs.estimator.coarse_grain(2, kl.Bootstrap(n_resamples=20))
    assert np.allclose(kl.load_dataset(out).transition_matrix, expected.transition_matrix, rtol=1e-10)
    assert f"{expected.transition_matrix.values[0, 0]:.4f} (" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(PICTURES))
def test_every_picture_is_drawn(runs, tmp_path, what):
    out = tmp_path / f"{what}.png"
    assert main(["plot", runs.folder, runs.data, "--what", what, "--n-resamples", "20", "--out", str(out)]) == 0
    assert plt.imread(out).std() > 0
    assert set(PICTURES) == set(_PICTURES)


@pytest.mark.slow
def test_timescales_are_drawn_against_lags(runs, tmp_path, capsys):
    out = str(tmp_path / "lags.svg")
    assert main(["plot", runs.folder, runs.data, "--lags", "1", "2", "--n-resamples", "20", "--out", out]) == 0
    assert "implied timescale" in (tmp_path / "lags.svg").read_text()
    assert main(["plot", runs.folder, "--lags", "1", "2", "--out", out]) == 2
    assert "--lags needs the trajectories" in capsys.readouterr().err
    assert main(["plot", runs.folder, "--out", "picture.txt"]) == 2
    assert "out must end in .png, .svg or .pdf; got 'picture.txt'" in capsys.readouterr().err


def test_version_and_arguments_from_a_file(runs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"koopman-lora {kl.__version__}\n"
    (tmp_path / "few.args").write_text("--n-states\n2\n--n-resamples\n20\n")
    assert main(["coarse-grain", runs.folder, runs.data, f"@{tmp_path / 'few.args'}"]) == 0
    assert "to 1" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_intervals_with_refits_are_those_of_python(runs, tmp_path, capsys):
    options = ["--n-modes", "3", "--n-epochs", "1", "--hidden-dims", "8", "--out", str(tmp_path / "fit"), "--quiet"]
    path = tmp_path / "intervals.nc"
    assert main(["fit", runs.data, *options, "--intervals", str(path), "--refit", "8", "--n-jobs", "2"]) == 0
    printed = capsys.readouterr().out
    estimator = kl.KoopmanLoRA(n_modes=3, n_epochs=1, hidden_dims=(8,)).fit(kl.open_trajectories(runs.data))
    expected = estimator.intervals(refit=8)
    xr.testing.assert_allclose(kl.load_dataset(path), expected, rtol=1e-6, atol=1e-9)
    assert intervals_text(expected) in printed
    assert main(["fit", runs.data, *options, "--intervals", str(path)]) == 0
    xr.testing.assert_allclose(kl.load_dataset(path), estimator.intervals(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--refit", "20"], "name the file to write them to with --intervals FILE"),
        (["--refit", "3", "--intervals", "a.nc"], "refit must be between 8"),
        (["--refit", "8", "--n-jobs", "0", "--intervals", "a.nc"], "n_jobs must be a number of processes"),
        (["--intervals", "a.csv"], "must end in .nc or .zarr"),
    ],
)
def test_intervals_that_cannot_be_are_refused_before_the_fit(runs, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(kl.KoopmanLoRA, "fit", None)
    assert main(["fit", runs.data, "--n-modes", "3", "--out", str(tmp_path / "fit"), *flags]) == 2
    assert message in capsys.readouterr().err
