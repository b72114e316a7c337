"""Many callers: threads, asyncio, map; their line, and the health of the pool."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from killing import kill_worker

from sandbox import Limits, QueueFull, Sandbox, SandboxError, Status
from sandbox.health import quantile
from sandbox.line import Line

needs_isolation = pytest.mark.usefixtures("box")  # skips where there is none


def test_arun(box: Sandbox) -> None:
    result = asyncio.run(box.arun("print(input())", stdin="6"))
    assert (result.ok, result.stdout) == (True, "6\n")


@needs_isolation
def test_many_tasks_and_threads_share_two_workers() -> None:
    async def gather(box: Sandbox) -> list[str]:
        results = await asyncio.gather(*(box.arun(f"print({n})") for n in range(20)))
        return [result.stdout for result in results]

    expected = [f"{n}\n" for n in range(20)]
    with Sandbox(workers=2) as box, ThreadPoolExecutor(4) as threads:
        runs = threads.map(lambda n: box.run(f"print({n})").stdout, range(20))
        assert asyncio.run(gather(box)) == expected
        assert list(runs) == expected
        health = box.health()
        assert (health.executions, health.running, health.waiting, health.faults) == (40, 0, 0, 0)


def test_the_event_loop_is_free_while_a_program_runs(box: Sandbox) -> None:
    async def both() -> bool:
        task = asyncio.create_task(box.arun("import time; time.sleep(0.3)"))
        await asyncio.sleep(0.1)
        free = not task.done()
        await task
        return free

    assert asyncio.run(both())


def test_a_cancelled_call_loses_no_slot(box: Sandbox) -> None:
    async def cancel_all() -> None:
        code = "import time; time.sleep(0.2)"
        tasks = [asyncio.create_task(box.arun(code)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(cancel_all())
    assert box.run("print(1)").stdout == "1\n"
    assert box.health().running == 0 and box.health().waiting == 0


def test_map_keeps_the_order(box: Sandbox) -> None:
    programs = ["import time; time.sleep(0.1); print(0)", "print(1)", "1 / 0", "print(3)"]
    results = list(box.map(programs))
    assert [result.stdout for result in results] == ["0\n", "1\n", "", "3\n"]
    assert results[2].status is Status.ERROR


def test_map_takes_input_and_limits(box: Sandbox) -> None:
    code = "print(input())\nwhile True: pass"
    (result,) = box.map([code], stdin="x", limits=Limits(wall_s=0.3))
    assert (result.status, result.stdout) == (Status.TIMEOUT, "x\n")


@needs_isolation
def test_a_full_queue_is_said() -> None:
    with Sandbox(max_waiting=1) as box, ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(box.run, "import time; time.sleep(0.25)") for _ in range(2)]
        while box.health().waiting < 1:
            time.sleep(0.01)
        with pytest.raises(QueueFull, match="max_waiting"):
            box.run("print(1)")
        with pytest.raises(QueueFull):
            asyncio.run(box.arun("print(1)"))
        assert all(call.result().ok for call in calls)
        assert box.run("print(1)").ok


@needs_isolation
def test_close_ends_those_who_wait() -> None:
    box = Sandbox()
    with ThreadPoolExecutor(2) as threads:
        slow = "import time; time.sleep(60)"
        calls = [threads.submit(box.run, slow, limits=Limits(wall_s=60)) for _ in range(2)]
        while box.health().waiting < 1:
            time.sleep(0.01)
        box.close()
        for call in calls:
            with pytest.raises(SandboxError, match="closed"):
                call.result(10)
        with pytest.raises(SandboxError, match="closed"):
            asyncio.run(box.arun("print(1)"))


def test_first_come_first_served() -> None:
    line: Line[str] = Line(["slot"], 100)
    slot = line.take()
    order: list[int] = []

    def caller(number: int) -> None:
        taken = line.take()
        order.append(number)
        line.give(taken)

    threads = []
    for number in range(20):
        threads.append(threading.Thread(target=caller, args=(number,)))
        threads[-1].start()
        while len(line) <= number:
            time.sleep(0.001)
    line.give(slot)
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_a_greedy_caller_does_not_overtake() -> None:
    line: Line[str] = Line(["slot"], 100)
    slot = line.take()
    patient, greedy = line.ask(), line.ask()
    line.give(slot)
    assert patient.done() and not greedy.done()


def test_who_leaves_the_line_holds_nobody_up() -> None:
    line: Line[str] = Line(["slot"], 2)
    slot = line.take()
    first, second = line.ask(), line.ask()
    line.leave(first)
    assert len(line) == 1
    line.give(slot)
    assert second.result(0) == "slot"
    line.leave(second)
    assert line.free == 1


@needs_isolation
def test_health_counts_faults_and_restarts() -> None:
    with Sandbox() as box:
        assert box.health().latency_ms == {}
        box.run("")
        for worker in box._live:
            kill_worker(worker)
        box.run("1 / 0")
        health = box.health()
        assert (health.executions, health.faults, health.restarts) == (2, 1, 1)
        assert 0 < health.latency_ms[0.5] <= health.latency_ms[0.99]


@needs_isolation
def test_running_programs_are_counted() -> None:
    with Sandbox(workers=2) as box, ThreadPoolExecutor(1) as threads:
        call = threads.submit(box.run, "import time; time.sleep(0.2)")
        while not box.health().running:
            time.sleep(0.001)
        assert (box.health().workers, box.health().running) == (2, 1)
        assert call.result().ok


@pytest.mark.parametrize("q, value", [(0.5, 2.0), (0.9, 4.0), (0.25, 1.0), (0.26, 2.0)])
def test_quantiles(q: float, value: float) -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], q) == value


def test_max_waiting_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_waiting"):
        Sandbox(max_waiting=0)
