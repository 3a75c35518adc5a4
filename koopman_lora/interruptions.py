"""Ctrl-C and SIGTERM as requests, which long work answers between two steps, where it can be left in good order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

# What a signal does where nobody chose otherwise; a handler of the user's own, or none at all, is left alone.
_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interruption:
    """Whether somebody asked to stop: `signal_name` is that of the signal, or empty."""

    signal_name = ""

    def __bool__(self) -> bool:
        return bool(self.signal_name)


@contextlib.contextmanager
def interruptions() -> Iterator[Interruption]:
    """The first Ctrl-C or SIGTERM is noted; a second one does what it does otherwise, as both do after the block.

    In the main thread only: no other one may handle signals.

    Examples
    --------
    >>> with interruptions() as interruption:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     interruption.signal_name
    'SIGTERM'
    """
    interruption = Interruption()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def note(number: int, _: FrameType | None) -> None:
        interruption.signal_name = signal.Signals(number).name
        restore()

    if threading.current_thread() is threading.main_thread():
        before |= {number: known for number, known in _DEFAULTS.items() if signal.getsignal(number) == known}
        for number in before:
            signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
