"""`write_report`: the page in a file; it needs no network, no script and no other file."""

from __future__ import annotations

import os
import pathlib

import jinja2
from markupsafe import Markup

from koopman_lora.data.whole_files import write_whole
from koopman_lora.report.answers import Answers
from koopman_lora.report.dynamics_sections import (
    eigenvalues_section,
    forecast_section,
    functions_section,
    states_section,
    timescales_section,
)
from koopman_lora.report.record_sections import health_section, history_section, settings_section
from koopman_lora.report.trust_sections import comparison_section, energy_section, spectrum_section, verdict_section
from koopman_lora.summary import summary_lines

_HERE = pathlib.Path(__file__).parent
# What a reader wants to know first stands first.
_SECTIONS = (
    verdict_section,
    comparison_section,
    spectrum_section,
    energy_section,
    eigenvalues_section,
    timescales_section,
    functions_section,
    states_section,
    forecast_section,
    history_section,
    health_section,
    settings_section,
)


def write_report(answers: Answers, path: str | os.PathLike) -> pathlib.Path:
    """Write the page into a file, which appears when it is whole.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    text = page(answers)
    return write_whole(pathlib.Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def page(answers: Answers) -> str:
    """The page as text; all that comes from data or settings is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((_HERE / "style.css").read_text(encoding="utf-8"))  # of ours, nothing in it to escape
    n_modes = answers.summary.modes.sizes["mode"]
    return environment.get_template("page.html").render(
        title=f"Koopman analysis, {n_modes} mode{'s' if n_modes > 1 else ''}",
        subtitle=summary_lines(answers.summary)[0],
        created=answers.summary.modes.attrs["created_at"],
        style=style,
        sections=[section(answers) for section in _SECTIONS],
    )
