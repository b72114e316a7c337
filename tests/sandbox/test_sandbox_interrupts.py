"""Ctrl-C at any moment of the main thread: nothing leaks, and what it left half done ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox
from sandbox import Sandbox, SandboxError, Session
from sandbox.spawner import Shelter, Spawner, Stop

STORM = """
import os, random, signal, sys, threading, time
from sandbox import Limits, Sandbox
from sandbox.cgroup import remove_left
from sandbox.soak import descendants

ended = threading.Event()

def storm():
    draw = random.Random(5)
    while not ended.wait(draw.uniform(0.0005, 0.04)):
        os.kill(os.getpid(), signal.SIGINT)

def held():
    name = f"code-sandbox-{os.getpid()}-"  # os.walk: other hosts' groups come and go
    groups = [d for _, names, _ in os.walk("/sys/fs/cgroup") for d in names if name in d]
    return len(os.listdir("/proc/self/fd")), len(groups), len(descendants(os.getpid()))

box = Sandbox(preload=(), limits=Limits(wall_s=5))
session = box.session() if sys.argv[1] == "session" else None
act = {
    "run": lambda: box.run("print(1)"),
    "session": lambda: session.run("x = globals().get('x', 0) + 1"),
    "make": lambda: Sandbox(preload=()).close(),
}[sys.argv[1]]
act()
box.run("1")
time.sleep(0.3)
before = held()
thread = threading.Thread(target=storm)
until, interrupts = time.monotonic() + 2, 0
thread.start()
while time.monotonic() < until:
    try:
        while time.monotonic() < until: act()
    except KeyboardInterrupt: interrupts += 1
    except BaseException as error: print("unexpected", repr(error))
while thread.is_alive():
    try:
        ended.set()
        thread.join()
    except KeyboardInterrupt: pass
signal.signal(signal.SIGINT, signal.SIG_IGN)
if session:
    number = int(session.run("print(x)").stdout)  # behind what may still run
    assert len(session.cells) == number + 1, (session.cells, number)
assert box.run("print(2)").stdout == "2\\n"
assert interrupts > 10, interrupts
until = time.monotonic() + 10
while held() != before and time.monotonic() < until:
    time.sleep(0.05)
    remove_left()  # of groups whose processes took long to go; the next worker does it as well
print(before, held(), sep=" then ")
if session: session.close()
box.close()
print(held()[1:])
"""


@pytest.mark.usefixtures("box")
@pytest.mark.parametrize(
    "what", ["run", *(pytest.param(w, marks=pytest.mark.slow) for w in ("session", "make"))]
)
def test_a_storm_of_interrupts_leaks_nothing(box: Sandbox, what: str) -> None:
    if what == "session" and box.tier != "full":
        pytest.skip("no sessions here")
    done = subprocess.run(
        [sys.executable, "-c", STORM, what],
        capture_output=True,
        text=True,
        cwd=Path(sandbox.__file__).parents[1],
        timeout=100,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2, done.stdout + done.stderr[-2000:]
    before, _, after = lines[0].partition(" then ")
    assert before == after, lines
    assert lines[1] == "(0, 0)", lines


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGUSR1 is Ctrl-C."""

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, handler)


def soon(delay_s: float = 0.2) -> None:
    main = threading.main_thread().ident
    assert main
    threading.Timer(delay_s, signal.pthread_kill, (main, signal.SIGUSR1)).start()


@pytest.fixture
def shelter() -> Iterator[Shelter]:
    spawner = Spawner()
    shelter = Shelter(spawner)
    yield shelter
    shelter.close()
    spawner.close()


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_stops_the_work_and_waits_for_its_end(shelter: Shelter) -> None:
    told, ended = threading.Event(), []

    def work(stop: Stop) -> None:
        stop.by(told.set)
        told.wait(10)
        ended.append(stop.asked)

    soon()
    with pytest.raises(KeyboardInterrupt):
        shelter.call(work)
    assert ended == [True]


@pytest.mark.usefixtures("interrupts")
def test_work_that_has_not_begun_never_does(shelter: Shelter) -> None:
    go = threading.Event()
    done: list[str] = []

    def first(stop: Stop) -> None:
        go.wait(10)
        done.append("first")

    soon(0.1)
    soon(0.2)  # and now nobody waits for its end
    with pytest.raises(KeyboardInterrupt):
        shelter.call(first)
    soon(0.1)
    with pytest.raises(KeyboardInterrupt):
        shelter.call(lambda stop: done.append("second"))
    go.set()
    shelter.call(lambda stop: done.append("third"))
    assert done == ["first", "third"]


def test_an_error_of_the_work_is_its_caller_s(shelter: Shelter) -> None:
    def work(stop: Stop) -> None:
        raise SandboxError("mine")

    with pytest.raises(SandboxError, match="mine"):
        shelter.call(work)


def test_who_comes_after_the_end_is_told() -> None:
    spawner = Spawner()
    spawner.close()
    with pytest.raises(SandboxError, match="closed"):
        spawner.call(lambda: None)


@pytest.mark.usefixtures("box")
def test_close_may_be_called_by_several_threads_at_once() -> None:
    own = Sandbox(preload=())
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: own.close(), range(4))) == [None] * 4
    with pytest.raises(SandboxError, match="closed"):
        own.run("")


def test_other_threads_do_their_work_themselves(shelter: Shelter) -> None:
    names = []
    for call in (shelter.call, lambda work: threading.Thread(target=shelter.call, args=(work,))):
        thread = call(lambda stop: names.append(threading.current_thread().name))
        if thread:
            thread.start()
            thread.join()
    assert names[0] == "sandbox-shelter" and names[1] != "sandbox-shelter"


@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_cell_costs_no_other_session(box: Sandbox) -> None:
    if box.tier != "full":
        pytest.skip("no sessions here")
    with Sandbox(preload=()) as own, own.session() as session, own.session() as other:
        for each in (session, other):
            assert each.run("import os; x = 1; print(os.getpid())").ok
        before = keeper(other)
        soon()
        with pytest.raises(KeyboardInterrupt):
            session.run("import time; time.sleep(4)")
        assert session.run("print(x)").stdout == other.run("print(x)").stdout == "1\n"
        assert keeper(other) == before and own.faults == 0


def keeper(session: Session) -> int:
    assert session._link
    return session._link.socket.fileno()


@pytest.mark.usefixtures("box", "interrupts")
def test_an_interrupt_ends_the_program_at_once() -> None:
    with Sandbox(preload=()) as own:
        start = time.monotonic()
        soon()
        with pytest.raises(KeyboardInterrupt):
            own.run("import time; time.sleep(5)")
        assert time.monotonic() - start < 3
        assert own.run("print(1)").stdout == "1\n" and own.faults == 0
