"""Signals stop a run between two changes of the policy."""

import os
import signal

import pytest

from cleaner_rl.distributed.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_interrupts_at_once(number):
    with pytest.raises(KeyboardInterrupt), Interrupt():
        os.kill(os.getpid(), number)


def test_protected_block_is_finished_first():
    finished = []
    with Interrupt() as interrupt, pytest.raises(KeyboardInterrupt), interrupt.protected():
        os.kill(os.getpid(), signal.SIGINT)
        finished.append(True)
    assert finished


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_first_signal_is_acknowledged_at_once_and_a_second_one_waits_for_nothing(
    capfd, monkeypatch
):
    class EndedError(BaseException):
        """Instead of the end of this process."""

    def end(status):
        raise EndedError(status)

    clock = [0.0]
    monkeypatch.setattr("os._exit", end)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with (
        Interrupt("saving") as interrupt,
        pytest.raises(EndedError, match="130"),
        interrupt.protected(),
    ):
        os.kill(os.getpid(), signal.SIGINT)
        assert "saving; Ctrl-C again stops at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)  # at the same moment: torchrun passes it on
        clock[0] = 2.0
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does, which then waits
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it still waits")
    assert "stopped at once" in capfd.readouterr().err


def test_a_signal_that_arrives_twice_interrupts_once():
    saved = []
    with Interrupt():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            saved.append(True)
    assert saved
