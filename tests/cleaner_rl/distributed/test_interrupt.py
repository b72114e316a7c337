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
