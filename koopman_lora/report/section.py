"""`Section`: a part of the page with its sentences, pictures and tables, and what is left out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from koopman_lora.finding import Finding
from koopman_lora.report.figures import Figure


class Table(NamedTuple):
    """A table with its caption: head -> cells below it; the first column names the rows."""

    caption: str
    columns: Mapping[str, Sequence[str]]

    def rows(self) -> list[list[tuple[str, str]]]:
        """Cells row by row, each with the head of its column.

        Examples
        --------
        >>> Table("Modes.", {"mode": ["1", "2"], "sigma": ["1.0", "0.5"]}).rows()[1]
        [('mode', '2'), ('sigma', '0.5')]
        """
        return [list(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]


def renamed(columns: Mapping[str, list[str]], heads: Mapping[str, str]) -> dict[str, list[str]]:
    """Columns with other heads where a page needs them."""
    return {heads.get(head, head): cells for head, cells in columns.items()}


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    anchor, title : where a link leads, and what it says
    reading : how to read what is shown
    findings : what a user should know
    figures : shown side by side where there is room
    tables, lines : shown below the figures
    missing : what is left out, and how to get it
    """

    anchor: str
    title: str
    reading: str
    findings: tuple[Finding, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    lines: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
