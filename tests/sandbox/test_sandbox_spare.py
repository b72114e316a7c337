"""The child that is forked ahead of its program."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from sandbox import Limits, Sandbox, Status

needs_isolation = pytest.mark.usefixtures("box")  # skips where there is none


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, parents first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    found = []
    for child in map(int, children):
        found += [child, *descendants(child)]
    return found


def spare_of(box: Sandbox) -> int:
    """The youngest process of the only worker, once it waits."""
    time.sleep(0.2)
    (worker,) = box._live
    return descendants(worker.process.pid)[-1]


@needs_isolation
def test_one_child_waits_before_the_first_program() -> None:
    with Sandbox() as box:
        spare = spare_of(box)
        assert spare_of(box) == spare
        box.run("")
        assert spare_of(box) != spare


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
@needs_isolation
def test_a_spare_that_dies_costs_no_result(number: int) -> None:
    with Sandbox() as box:
        os.kill(spare_of(box), number)
        assert box.run("print(1)").stdout == "1\n"
        assert box.faults <= 1


@needs_isolation
def test_a_waiting_spare_costs_no_time_of_the_next_program() -> None:
    with Sandbox() as box:
        time.sleep(0.8)
        result = box.run("import time; time.sleep(0.1)", limits=Limits(wall_s=0.7, cpu_s=1))
        assert (result.status, result.ok) == (Status.OK, True)
        assert result.wall_s < 0.7


@needs_isolation
def test_nothing_is_left_of_a_closed_pool() -> None:
    box = Sandbox()
    spare = spare_of(box)
    box.close()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{spare}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_limits_differ_from_run_to_run(box: Sandbox) -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0] >> 20)"
    small = int(box.run(code, limits=Limits(memory_mb=100)).stdout)
    large = int(box.run(code, limits=Limits(memory_mb=300)).stdout)
    assert large - small == 200


def test_peak_memory_is_measured(box: Sandbox) -> None:
    idle = box.run("").peak_memory_mb
    busy = box.run("x = bytes(100 << 20); del x").peak_memory_mb
    touched = box.run("x = bytearray(b'x') * (100 << 20); del x").peak_memory_mb
    assert 1 < idle < 300
    assert touched - idle > 90 and abs(busy - idle) < 50  # what is not touched takes nothing
