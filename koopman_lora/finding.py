"""`Finding`: what a user should know, in a sentence."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """Something about data or a fit that a user should know, and what to do."""

    name: str
    message: str
