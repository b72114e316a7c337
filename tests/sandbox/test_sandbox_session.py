"""Sessions: variables stay, and a cell that fails leaves no trace."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from sandbox import Limits, Sandbox, SandboxError, Session, Status
from sandbox.soak import descendants

LIMITS = Limits(wall_s=10.0, cpu_s=10.0)


def printed(session: Session, code: str) -> str:
    result = session.run(code)
    assert result.ok, result
    return result.stdout.strip()


def kill_worker(own: Sandbox) -> None:
    """Kill the worker with all that it runs, and wait until nothing of it can answer any more."""
    pid = own.worker_pids()[0]
    doomed = [pid, *descendants(pid)]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(map(lives, doomed)):
        assert time.monotonic() < deadline, f"some of {doomed} outlive SIGKILL"
        time.sleep(0.001)


def lives(pid: int) -> bool:
    """The process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_variables_functions_and_modules_stay(session: Session) -> None:
    session.run("import math\nx = 5\ndef f(n): return math.factorial(n) + x")
    assert printed(session, "print(f(3))") == "11"


@pytest.mark.parametrize(
    ("cell", "status"),
    [
        ("x = 2; 1 / 0", Status.ERROR),
        ("x = 2; import sys; sys.exit(3)", Status.ERROR),
        ("x = 2; import os; os._exit(0)", Status.ERROR),
        ("x = 2; import os; os._exit(4)", Status.ERROR),
        ("x = 2; import ctypes; ctypes.string_at(0)", Status.SIGNAL),
        ("x = 2; y = bytearray(10**10)", Status.MEMORY),
        ("x = 2\nwhile True: print('z' * 1000)", Status.OUTPUT),
        ("x = 2; print('z' * 20_000)", Status.OUTPUT),
        ("x = 2 ((", Status.ERROR),
        ("x = 2; import os; os.kill(os.getpid(), 9)", Status.SIGNAL),
        ("x = 2; import builtins; del builtins.print; 1 / 0", Status.ERROR),
        ("x = 2; import sys; sys.modules.clear(); 1 / 0", Status.ERROR),
        ("x = 2; import os; os.chdir('/'); 1 / 0", Status.ERROR),
    ],
)
def test_a_failed_cell_leaves_no_trace(session: Session, cell: str, status: Status) -> None:
    session.run("x = 1")
    result = session.run(cell)
    assert result.status is status and result.error_class
    assert printed(session, "import os; print(x, os.getcwd(), 'y' in globals())") == (
        "1 /tmp/cwd False"
    )
    assert len(session.cells) == 2


def test_a_cell_that_takes_too_long_leaves_no_trace(box: Sandbox) -> None:
    with box.session(limits=Limits(wall_s=0.5)) as session:
        session.run("x = 1")
        result = session.run("print('so far')\nx = 2\nwhile True: pass")
        assert (result.status, result.stdout) == (Status.TIMEOUT, "so far\n")
        assert 0.5 <= result.wall_s < 5
        assert printed(session, "print(x)") == "1"


def test_rollback_and_the_branches_after_it(session: Session) -> None:
    session.run("x = [1]")
    first = session.checkpoint()
    session.run("x.append(2)")
    second = session.checkpoint()
    session.rollback(first)
    session.run("x.append(3)")
    assert printed(session, "print(x)") == "[1, 3]"
    session.rollback(second)
    assert printed(session, "print(x)") == "[1, 2]"
    assert [cell.code for cell in session.cells] == ["x = [1]", "x.append(2)", "print(x)"]
    session.release(second)
    with pytest.raises(ValueError, match="no checkpoint"):
        session.rollback(second)


def test_a_rollback_does_not_lose_the_state_that_is_no_checkpoint_by_accident(
    session: Session,
) -> None:
    beginning = session.checkpoint()
    session.run("x = 1")
    session.rollback(beginning)
    assert session.run("x").error_class == "NameError"
    assert printed(session, "print(dir()[:1])") == "['__builtins__']"


def test_there_is_a_bound_for_checkpoints(session: Session) -> None:
    for number in range(16):
        session.run(f"x = {number}")
        session.checkpoint()
    session.run("x = 99")
    with pytest.raises(SandboxError, match="16 checkpoints"):
        session.checkpoint()
    assert printed(session, "print(x)") == "99"


def test_a_deleted_stream_is_no_failure(session: Session, box: Sandbox) -> None:
    assert session.run("import sys; out = sys.stdout; del sys.stdout").ok
    assert box.run("import sys; del sys.stdout").ok
    assert printed(session, "sys.stdout = out; print(1)") == "1"


def test_a_cell_with_live_threads_fails_and_says_so(session: Session) -> None:
    session.run("x = 1")
    result = session.run(
        "import threading, time\nx = 2\nthreading.Thread(target=time.sleep, args=(9,)).start()"
    )
    assert (result.status, result.error_class) == (Status.ERROR, "LiveThreadsError")
    assert "join" in result.traceback and printed(session, "print(x)") == "1"


def test_threads_that_ended_are_welcome(session: Session) -> None:
    code = "import threading\nt = threading.Thread(target=print, args=(7,)); t.start(); t.join()"
    assert printed(session, code) == "7"


def test_a_session_whose_worker_dies_is_restored(box: Sandbox) -> None:
    with Sandbox(limits=LIMITS) as own, own.session() as session:
        session.run("x = [1]; print('first')")
        first = session.checkpoint()
        session.run("x.append(2)")
        session.run("x.append(3)")
        kill_worker(own)
        assert printed(session, "print(x)") == "[1, 2, 3]"
        session.rollback(first)
        assert printed(session, "print(x)") == "[1]"
        assert own.faults >= 1


def test_a_long_session_is_restored_with_all_of_its_checkpoints(box: Sandbox) -> None:
    with Sandbox(limits=LIMITS) as own, own.session() as session:
        beginning, made = session.checkpoint(), []
        for _ in range(2):  # the same cells twice
            session.rollback(beginning)
            session.run("x = []")
            for number in range(70):
                session.run(f"x.append({number})")
                if number == 30:
                    made.append(session.checkpoint())
        kill_worker(own)
        assert printed(session, "print(len(x))") == "70"
        for checkpoint in made:
            session.rollback(checkpoint)
            assert printed(session, "print(len(x))") == "31"
        session.rollback(beginning)
        assert session.run("x").error_class == "NameError"


def test_a_restoration_that_fails_forgets_no_cell(box: Sandbox) -> None:
    with Sandbox(limits=LIMITS) as own, own.session() as session:
        for code in ("x = 1", "import time; print(time.time_ns())", "y = 1"):
            session.run(code)
        before = session.cells
        kill_worker(own)
        for _ in range(2):
            with pytest.raises(SandboxError, match="cell 2 did not do the same again"):
                session.run("print(x, y)")
        assert session.cells == before


def test_a_session_that_cannot_be_restored_says_so(box: Sandbox) -> None:
    with Sandbox(limits=LIMITS) as own, own.session() as session:
        session.run("import time; print(time.time_ns())")
        kill_worker(own)
        with pytest.raises(SandboxError, match="cell 1 did not do the same again"):
            session.run("1")


def test_replay_gives_the_same_outputs(session: Session) -> None:
    for code in ("x = {3, 1, 2}", "1 / 0", "print(x)", "import random; random.seed(7)"):
        session.run(code)
    session.run("print(random.random())")
    assert [result.stdout for result in session.replay()] == [c.stdout for c in session.cells]


def test_an_interrupted_cell_is_taken_back(session: Session) -> None:
    session.run("x = 1")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            session.run("x = 2; import time; time.sleep(9)")
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert printed(session, "print(x)") == "1"


def test_many_sessions_side_by_side(box: Sandbox) -> None:
    sessions = [box.session(limits=LIMITS) for _ in range(12)]
    threads = [
        threading.Thread(target=lambda s=s, i=i: [s.run(f"x = {i}"), s.run("x += 1")])  # type: ignore[misc]
        for i, s in enumerate(sessions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [printed(s, "print(x)") for s in sessions] == [str(i + 1) for i in range(12)]
    for session in sessions:
        session.close()


def test_close_leaves_no_process(box: Sandbox) -> None:
    box.run("")
    with box.session() as session:
        session.run("x = 1")
        session.checkpoint()
        session.run("x = 2")
        own = processes_of_a_session(2)
    for _ in range(500):
        if not set(own) & set(descendants(os.getpid())):
            break
        threading.Event().wait(0.01)
    assert not set(own) & set(descendants(os.getpid()))
    with pytest.raises(SandboxError, match="closed"):
        session.run("1")


def test_a_session_that_is_forgotten_is_closed(box: Sandbox) -> None:
    with Sandbox(limits=LIMITS) as own:
        own.session().run("x = 1")
        gc.collect()
        assert [worker.sessions for worker in own._live] == [0]


def test_close_leaves_no_process_though_the_host_forked(box: Sandbox) -> None:
    with Sandbox(limits=LIMITS) as own:
        session = own.session()
        session.run("x = 1")
        (jail,) = own.worker_pids()
        before = set(descendants(jail))
        fork = os.fork()
        if not fork:
            signal.pause()
        try:
            session.close()
            for _ in range(500):
                if len(gone := before - set(descendants(jail))) >= 2:  # the keeper and a state
                    break
                threading.Event().wait(0.01)
            assert len(gone) >= 2
        finally:
            os.kill(fork, signal.SIGKILL)
            os.waitpid(fork, 0)


def processes_of_a_session(states: int) -> list[int]:
    """The keeper that has so many states, and they; it is nobody's leader but its own."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # states that were given up may take a moment to go
        for pid in descendants(os.getpid()):
            below = list(filter(lives, descendants(pid)))
            if len(below) == states and all(not descendants(child) for child in below):
                return [pid, *below]
        time.sleep(0.01)
    raise AssertionError("no such keeper")


def test_a_session_beyond_what_a_worker_takes_gets_another(box: Sandbox) -> None:
    with pytest.MonkeyPatch.context() as patch, Sandbox(limits=LIMITS) as own:
        patch.setattr("sandbox.worker.SESSIONS", 2)
        sessions = [own.session() for _ in range(5)]
        for number, session in enumerate(sessions):
            session.run(f"x = {number}")
        assert [printed(session, "print(x)") for session in sessions] == list("01234")
        assert len(own.worker_pids()) == 3 and own.faults == 0
        for session in sessions:
            session.close()
        assert own.run("print(1)").stdout == "1\n"
        assert len(own.worker_pids()) == 1


def test_arun(session: Session) -> None:
    async def both() -> list[str]:
        return [(await session.arun(code)).stdout for code in ("x = 3", "print(x)")]

    assert asyncio.run(both()) == ["", "3\n"]


def test_tracebacks_show_the_lines_of_the_cells(session: Session) -> None:
    session.run("def f(n):\n    return 1 / n")
    result = session.run("f(0)")
    assert 'File "cell2.py", line 1' in result.traceback
    assert 'File "cell1.py", line 2, in f\n    return 1 / n' in result.traceback
    assert "jailed" not in result.traceback
