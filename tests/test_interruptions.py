"""The first signal is noted, the second is not ours, and everything is as it was afterwards."""

import signal
import threading

import pytest

from koopman_lora.interruptions import interruptions

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_block_goes_on(number):
    before = handlers()
    with interruptions() as interruption:
        assert not interruption
        signal.raise_signal(number)
        assert interruption
        assert interruption.signal_name == number.name
    assert handlers() == before


def test_the_second_one_stops_at_once():
    before = handlers()
    with pytest.raises(KeyboardInterrupt), interruptions():  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
    assert handlers() == before


def test_handlers_are_put_back_after_an_error():
    before = handlers()
    with pytest.raises(ZeroDivisionError), interruptions():
        1 / 0  # noqa: B018
    assert handlers() == before


def test_a_handler_of_the_users_stays():
    noted = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append("mine"))
    try:
        with interruptions() as interruption:
            signal.raise_signal(signal.SIGTERM)
        assert noted == ["mine"]
        assert not interruption
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptions() as interruption:
            signal.raise_signal(signal.SIGINT)
        assert not interruption
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_handle_no_signals():
    found = []

    def work():
        with interruptions() as interruption:
            found.append((bool(interruption), handlers()))

    before = handlers()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]
