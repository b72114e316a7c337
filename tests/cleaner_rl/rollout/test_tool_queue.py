"""The tool queue: which episodes continue at which tick, however long their programs take."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from cleaner_rl.rollout.tool_queue import ToolQueue


class Program:
    """A runner whose step takes that many seconds, or until it is let go."""

    def __init__(self, name, seconds=0.0, gate=None, error=None):
        self.name, self.seconds, self.gate, self.error = name, seconds, gate, error
        self.ran = False

    def step(self, turn):
        time.sleep(self.seconds)
        if self.gate is not None:
            assert self.gate.wait(timeout=10)
        if self.error is not None:
            raise self.error
        self.ran = True


@pytest.fixture
def threads():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def names(runners):
    return [runner.name for runner in runners]


def schedule_of(threads, seconds):
    """What goes on at each of eight ticks, with programs that take so long."""
    queue = ToolQueue(threads, "reproducible")
    for index, each in enumerate(seconds):
        queue.put(Program(index, each), "turn", clock=index // 4)
    ticks = [names(queue.take(clock, idle=False)) for clock in range(8)]
    assert not queue
    return ticks


def test_the_reproducible_schedule_does_not_depend_on_what_programs_take(threads):
    quick = schedule_of(threads, [0.0] * 6)
    assert schedule_of(threads, [0.05, 0, 0.02, 0.03, 0, 0.04]) == quick
    # Four programs are expected to run while a token is decoded.
    assert quick[:5] == [[], [0, 1, 2, 3], [], [4, 5], []]


def test_with_nothing_to_sample_the_next_episodes_continue(threads):
    queue = ToolQueue(threads, "reproducible")
    for index in range(6):
        queue.put(Program(index), "turn", clock=5)
    assert names(queue.take(5, idle=True)) == [0, 1, 2, 3]
    assert names(queue.take(5, idle=True)) == [4, 5]


def test_waiting_is_counted(threads):
    queue = ToolQueue(threads, "reproducible")
    queue.put(Program("slow", 0.05), "turn", clock=0)
    assert queue.take(0, idle=False) == [] and queue.waited < 0.02
    queue.take(1, idle=False)
    assert queue.waited > 0.02


def test_the_eager_schedule_does_not_wait_for_slow_programs(threads):
    gate = threading.Event()
    queue = ToolQueue(threads, "eager")
    queue.put(Program("slow", gate=gate), "turn", clock=0)
    queue.put(Program("quick"), "turn", clock=0)
    assert names(queue.take(0, idle=True)) == ["quick"]
    gate.set()
    assert names(queue.take(0, idle=True)) == ["slow"]


@pytest.mark.parametrize("schedule", ["reproducible", "eager"])
def test_what_a_step_raises_is_raised(threads, schedule):
    queue = ToolQueue(threads, schedule)
    queue.put(Program("broken", error=KeyError("why")), "turn", clock=0)
    with pytest.raises(KeyError, match="why"):
        queue.take(10, idle=True)


def test_closing_waits_for_running_programs_and_starts_none():
    gate = threading.Event()
    with ThreadPoolExecutor(1) as one:
        queue = ToolQueue(one, "eager")
        running, waiting = Program("running", gate=gate), Program("waiting")
        queue.put(running, "turn", clock=0)
        queue.put(waiting, "turn", clock=0)
        threading.Timer(0.05, gate.set).start()
        queue.close()
        assert running.ran
    assert not waiting.ran and not queue
