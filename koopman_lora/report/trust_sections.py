"""Sections about how far to trust a fit: verdict, learned against empirical values, intervals, number of modes."""

from __future__ import annotations

import collections

from koopman_lora.columns import comparison_columns, interval_columns, level_text
from koopman_lora.plots import plot_comparison, plot_energy, plot_modes_above_noise, plot_ratio, plot_spectrum
from koopman_lora.report.answers import Answers
from koopman_lora.report.figures import Figure, drawn
from koopman_lora.report.section import Section, Table, renamed
from koopman_lora.summary import summary_columns, summary_lines
from koopman_lora.tables import comparison_lines, selection_text


def verdict_section(answers: Answers) -> Section:
    """The table of modes with a verdict on each, and the sentences that matter."""
    summary = answers.summary
    words = collections.Counter(map(str, summary.modes["verdict"].values))
    counted = ", ".join(f"{n} {word}" for word, n in words.items())
    n_findings = len(summary.findings)
    told = {0: "nothing to object to", 1: "one sentence to read first"}.get(
        n_findings, f"{n_findings} sentences to read first, the most serious on top"
    )
    level = level_text(summary.modes)
    columns = renamed(summary_columns(summary), {level: f"sigma {level}", f"{level} ": f"timescale {level}"})
    columns = {name: columns[name] for name in ("mode", "verdict", *columns)}  # seen on a phone without scrolling
    caption = f"Every mode: canonical singular value and timescale, each with its {level} interval, and a verdict."
    return Section(
        "verdict",
        "Verdict",
        f"{sum(words.values())} modes: {counted}; {told}.",
        findings=summary.findings,
        tables=(Table(caption, columns),),
        lines=tuple(part for line in summary_lines(summary)[1:] for part in line.splitlines()),
    )


def comparison_section(answers: Answers) -> Section:
    """Learned against empirical singular values."""
    comparison = answers.comparison
    figures = [
        drawn(
            lambda ax: plot_comparison(comparison, ax=ax),
            "Learned, K_matrix, canonical and held-out singular values against the mode, with "
            f"{level_text(comparison)} intervals of the canonical ones; the numbers are in the table of this section.",
            "Learned parameters, singular values of the K_matrix, and canonical ones of the operator itself.",
        ),
        drawn(
            lambda ax: plot_ratio(comparison, ax=ax),
            f"Ratio of K_matrix to learned singular values per mode: mean {comparison.attrs['ratio_mean']:.4f}, "
            f"standard deviation {comparison.attrs['ratio_std']:.4f}.",
            "Ratio of K_matrix to learned values: 1 where they agree.",
        ),
    ]
    level = level_text(comparison)
    heads = {f"[{level}": f"{level} from", f"{level}]": "to"}
    table = Table(
        "Singular values of every kind, the interval of the canonical ones. Modes of one cluster are not told apart.",
        renamed(comparison_columns(comparison), heads),
    )
    reading = (
        "Read the canonical values: they are those of the operator. Learned values are parameters of the training, and "
        "those of the K_matrix depend on the basis of features."
    )
    lines = tuple(comparison_lines(comparison))
    return Section(
        "learned", "Learned against empirical", reading, figures=tuple(figures), tables=(table,), lines=lines
    )


def spectrum_section(answers: Answers) -> Section:
    """Singular values with their intervals, at fitted and held-out pairs."""
    level = level_text(answers.intervals)
    table = Table(f"{level} intervals of the block bootstrap, per mode.", interval_columns(answers.intervals))
    reading = (
        "Intervals come from resampled blocks of the data, with the learned features as they are; for the whole "
        "procedure, training included, ask estimator.intervals(refit=20)."
    )
    return Section("spectrum", "Spectrum with intervals", reading, figures=(_spectrum(answers),), tables=(table,))


def _spectrum(answers: Answers) -> Figure:
    selection = answers.selection
    if isinstance(selection, str):
        return drawn(
            lambda ax: plot_spectrum(answers.spectrum, ax=ax),
            "Singular values of every kind against the mode; the numbers are in the tables.",
            "Singular values; without enough held-out pairs nothing shows what is noise.",
        )
    return drawn(
        lambda ax: plot_modes_above_noise(selection, ax=ax),
        f"Singular values at fitted and at held-out pairs against the mode, with intervals, beside what noise alone "
        f"reaches. Number of modes: {selection.attrs['answer']}.",
        "A mode is above noise where its held-out value is higher than the line.",
    )


def energy_section(answers: Answers) -> Section:
    """Cumulative energy, and how many modes there are by each rule."""
    selection = answers.selection
    reading = "How many modes: cumulative shares of the singular values, and of their squares, and what each rule says."
    if isinstance(selection, str):
        return Section("energy", "Energy and number of modes", reading, missing=(selection,))
    figure = drawn(
        lambda ax: plot_energy(selection, ax=ax),
        "Cumulative shares of the sum of singular values and of their squares against the number of modes, with "
        f"{level_text(selection)} intervals of held-out values. {_sentence(selection_text(selection))}",
        "Cumulative energy; the bands are intervals of the same shares of held-out values.",
    )
    names = {"energy": "part of sum sigma", "captured_share": "part of sum sigma^2"}
    columns = {"modes": [str(mode) for mode in selection["mode"].values]}
    columns |= {head: [f"{share:.4f}" for share in selection[name].values] for name, head in names.items()}
    table = Table("Cumulative energy by the number of modes, the constant included.", columns)
    lines = tuple(selection_text(selection).splitlines())
    return Section("energy", "Energy and number of modes", reading, figures=(figure,), tables=(table,), lines=lines)


def _sentence(text: str) -> str:
    return "; ".join(text.splitlines()) + "."
