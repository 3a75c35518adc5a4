"""Sections about the making of a fit: training, data, settings and versions."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping

from koopman_lora.columns import health_columns
from koopman_lora.plots import plot_history
from koopman_lora.report.answers import Answers
from koopman_lora.report.figures import drawn
from koopman_lora.report.section import Section, Table
from koopman_lora.tables import health_lines

_PACKAGES = ("koopman-lora", "torch", "numpy", "scipy", "xarray", "scikit-learn", "lightning-fabric", "matplotlib")


def history_section(answers: Answers) -> Section:
    """The course of the training."""
    history = answers.history
    best, n_epochs = int(history.attrs["best_epoch"]), history.sizes["epoch"]
    columns = {"epoch": [str(epoch) for epoch in history["epoch"].values]}
    for name, head in {"loss": "training loss", "held_out_vamp_2": "held-out VAMP-2"}.items():
        if name in history:
            columns[head] = [f"{value:.4f}" for value in history[name].values]
    figure = drawn(
        lambda ax: plot_history(history, ax=ax),
        f"Training loss and held-out score over {n_epochs} epochs; the best is epoch {best}.",
        f"Training; epoch {best} of {n_epochs} was kept.",
    )
    reading = "Where the loss falls and the held-out score does not rise, the networks learn by heart."
    table = Table("Loss and held-out score of every epoch.", columns)
    return Section("history", "Training", reading, figures=(figure,), tables=(table,), lines=answers.sentences)


def health_section(answers: Answers) -> Section:
    """What is to be known of the data."""
    reading = "What the data are like, coordinate by coordinate, and what in them may mislead a fit."
    health = answers.health
    if isinstance(health, str):
        return Section("data", "Data health", reading, missing=(health,))
    table = Table("Coordinates of the data; drift is in deviations, steps in median steps.", health_columns(health))
    return Section("data", "Data health", reading, tables=(table,), lines=tuple(health_lines(health)))


def settings_section(answers: Answers) -> Section:
    """How the fit was made, and with what."""
    reading = "With these, and the same data, the fit can be made again."
    tables = (
        _named("Settings of the estimator.", "setting", answers.settings),
        _named("Versions with which this page was written.", "package", _versions()),
        _named("Of the fit.", "fact", answers.record),
    )
    return Section("settings", "Settings and versions", reading, tables=tables)


def _named(caption: str, head: str, values: Mapping[str, object]) -> Table:
    return Table(caption, {head: list(values), "value": [str(value) for value in values.values()]})


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from its sources
            found[name] = "not installed as a package"
    return found
