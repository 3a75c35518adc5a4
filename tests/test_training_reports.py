"""What is said of a fit, to whom: nothing by default, epochs and choices to those who asked."""

import csv
import logging
import subprocess
import sys

import numpy as np
import pytest
from lightning_fabric.loggers import CSVLogger

import koopman_lora as kl
from koopman_lora import refinement, training_reports
from koopman_lora.training_options import TrainingOptions

STATES = kl.systems.NoisyRotation(omega=0.7, noise=0.4).simulate(n_trajectories=2, n_steps=601, seed=1)
PAIRS = kl.lagged_pairs(STATES)


def fit(n_epochs=3, progress=False, **options):
    model = kl.KoopmanLoRAModel(2, 3, hidden_dims=(6,))
    return kl.fit(model, PAIRS, n_epochs=n_epochs, options=TrainingOptions(**options), progress=progress)


# ---- Python's logging ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fit_tells_of_itself_under_the_name_of_the_package(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(refinement, "ERRORS_TO_TELL", 0.0)  # no further fits
    estimator = kl.KoopmanLoRA(3, hidden_dims=(6,), n_epochs=3, checkpoint=tmp_path, progress=False)
    with caplog.at_level(logging.INFO, "koopman_lora"):
        estimator.fit(STATES)
        estimator.fit(STATES, resume=True)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("koopman_lora.")]
    said = [
        "training on 1077 pairs: 3 epochs, 12 steps",
        "checkpoint of",
        "checkpoint of",
        "training ended after 3 epochs and",
        "refinement takes",
        f"resumed from {tmp_path} after 3 of 3 epochs and 0 steps",
    ]
    for text, found in zip(said, told, strict=False):
        assert found.startswith(text)
    assert told[3].endswith(f"s (finished); the state of epoch {estimator.training_.best_epoch} is taken")
    assert not [record for record in caplog.records if record.levelno == logging.DEBUG]


def test_every_epoch_is_told_to_those_who_debug(caplog):
    with caplog.at_level(logging.DEBUG, "koopman_lora"):
        history = fit().history
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(told) == 3
    assert told[1].startswith(f"epoch 2 of 3: loss {float(history.loss[1]):.6g}, learning_rate")


def test_early_stopping_is_told(caplog):
    with caplog.at_level(logging.INFO, "koopman_lora"):
        result = fit(50, patience=1, learning_rate=0.3)
    assert result.stop_reason == "early stopping"
    assert "(early stopping)" in caplog.text


def test_the_package_configures_no_logging():
    code = "import logging, koopman_lora; log = logging.getLogger('koopman_lora'); "
    code += "print(log.level, [type(h).__name__ for h in log.handlers], logging.root.handlers, log.propagate)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 ['NullHandler'] [] True"


# ---- the bar ---------------------------------------------------------------------------------------------------------


def test_the_bar_shows_where_standard_error_is_a_terminal(capfd, monkeypatch):
    fit(progress=None)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    fit(progress=None)
    assert "training" in capfd.readouterr().err
    fit(progress=False)
    assert capfd.readouterr().err == ""


def test_a_resumed_bar_starts_where_the_run_was(capfd):
    reports = training_reports.TrainingReports(4, [{"loss": 1.0}] * 3, progress=True, log_to=None)
    reports.epoch(4, {"loss": 0.5})
    reports.close()
    assert "4/4" in capfd.readouterr().err


def test_progress_is_yes_no_or_none():
    with pytest.raises(TypeError, match="progress must be True or False; got 'yes'"):
        fit(progress="yes")
    with pytest.raises(TypeError, match="progress must be True or False; got 1"):
        kl.KoopmanLoRA(3, progress=1).fit(STATES)


# ---- loggers of Fabric -----------------------------------------------------------------------------------------------


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_is_history(found, history):
    assert [int(row["step"]) for row in found] == history.epoch.values.tolist()
    for name in ("loss", "learning_rate", "held_out_vamp_2"):
        np.testing.assert_array_equal([float(row[name]) for row in found], history[name])


def test_a_folder_gets_the_history_as_csv(tmp_path):
    history = fit(log_to=tmp_path / "log").history
    assert_is_history(rows(tmp_path / "log" / "version_0" / "metrics.csv"), history)
    history = fit(2, log_to=str(tmp_path / "log")).history  # nothing is overwritten
    assert_is_history(rows(tmp_path / "log" / "version_1" / "metrics.csv"), history)


def test_the_file_of_a_resumed_run_has_all_of_it(tmp_path):
    fit(checkpoint=tmp_path / "kept", log_to=tmp_path / "log")
    history = fit(checkpoint=tmp_path / "kept", log_to=tmp_path / "log", resume=True).history
    assert_is_history(rows(tmp_path / "log" / "version_1" / "metrics.csv"), history)


def test_a_logger_of_fabric_is_told(tmp_path):
    history = fit(log_to=CSVLogger(tmp_path, name="mine")).history
    assert_is_history(rows(tmp_path / "mine" / "version_0" / "metrics.csv"), history)


def test_what_is_no_logger_is_refused(tmp_path):
    with pytest.raises(TypeError, match="log_to must be a folder or a logger of Lightning Fabric; got 3"):
        TrainingOptions(log_to=3)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"log_to='.*file' cannot be written .*; give another folder"):
        fit(log_to=tmp_path / "file")


def test_a_log_that_cannot_be_written_any_more_costs_no_training():
    class Full:
        def log_metrics(self, numbers, step):
            raise OSError("No space left on device")

    with pytest.warns(
        UserWarning, match="log_to cannot be written: No space left on device. The training goes on"
    ) as w:
        assert fit(log_to=Full()).history.sizes["epoch"] == 3
    assert len(w) == 1
