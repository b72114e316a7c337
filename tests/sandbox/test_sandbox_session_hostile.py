"""Sessions: what a cell does to its session and its keeper is the cell's own failure."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from sandbox import Limits, Sandbox, Session, Status
from sandbox.soak import descendants


def printed(session: Session, code: str) -> str:
    result = session.run(code)
    assert result.ok, result
    return result.stdout.strip()


@pytest.mark.parametrize(
    "patch",
    [
        "import socket; socket.socket = None",
        "import builtins; builtins.open = None",
        "import builtins; builtins.exec = builtins.compile = None",
    ],
)
def test_a_session_lives_on_whatever_its_cells_replace(session: Session, patch: str) -> None:
    assert session.run(patch + "; x = 1").ok
    assert printed(session, "print(x)\n#" + "long" * 10_000) == "1"


def test_a_session_survives_a_cell_that_opens_all_files_it_may(session: Session) -> None:
    session.run("f = []\ntry:\n    while True: f.append(open('/dev/null'))\nexcept OSError: pass")
    assert int(printed(session, "print(len(f))\n#" + "long" * 10_000)) > 40


def test_processes_that_a_cell_leaves_behind_are_killed(session: Session) -> None:
    session.run(
        "import os, time\n"
        "def lives(pid):\n"
        "    try:\n"
        "        os.kill(pid, 0)\n"
        "    except ProcessLookupError:\n"
        "        return False\n"
        "    return True\n"
    )
    fork = "pids = []\nfor _ in range(3):\n    pids.append(os.fork())\n"
    fork += "    pids[-1] or time.sleep(60)\n"
    assert printed(session, fork + "print(list(map(lives, pids)))") == "[True, True, True]"
    assert printed(session, "print(list(map(lives, pids)))") == "[False, False, False]"


def test_a_cell_ends_when_its_process_does_and_not_with_a_child_of_it(session: Session) -> None:
    fork = "import os, time\nx = 1\nif os.fork():\n    os.wait(); time.sleep(0.2); "
    assert printed(session, fork + "print('parent')\nelse: print('child')") == "child\nparent"
    failed = session.run(fork + "1 / 0")
    assert (failed.status, failed.error_class) == (Status.ERROR, "ZeroDivisionError")
    assert printed(session, "print(x)") == "1"


def test_a_cell_that_multiplies_is_ended(box: Sandbox) -> None:
    with box.session(limits=Limits(wall_s=0.5)) as session:
        session.run("x = 1")
        result = session.run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
        assert result.status in (Status.TIMEOUT, Status.ERROR)
        assert printed(session, "print(x)") == "1"


@pytest.mark.parametrize("attempt", range(2))
def test_a_cell_that_kills_its_own_checkpoints_does_not_end_the_session(
    session: Session, attempt: int
) -> None:
    session.run("x = 1")
    first = session.checkpoint()
    session.run("x = 2; import os; os.kill(-1, 9)")
    session.rollback(first)
    assert printed(session, "print(x)") == "1"


def test_a_cell_cannot_end_its_keeper(session: Session) -> None:
    session.run("x = 1")
    keeper = descendants(os.getpid())
    session.run("import os, signal\nfor s in (9, 19, 11, 15): os.kill(1, s)\nx = 2")
    assert printed(session, "print(x)") == "2"
    assert set(keeper) & set(descendants(os.getpid()))


def test_a_process_may_have_any_name(session: Session) -> None:
    name = "import ctypes; x = ctypes.CDLL(None).prctl(15, b'\\xff', 0, 0, 0)"
    assert session.run(name + "; 1 / 0").error_class == "ZeroDivisionError"
    session.run(name)
    assert printed(session, "print(x)") == "0"


def test_a_cell_that_claims_to_have_ended_is_not_believed(session: Session) -> None:
    session.run("x = 1")
    result = session.run("import socket\nsocket.socket(fileno=63).send(b'.')\nwhile 1: pass")
    assert (result.status, result.error_class) == (Status.ERROR, "SessionExit")
    assert printed(session, "print(x)") == "1"


@pytest.mark.parametrize(
    "cell",
    ["import os; os.closerange(3, 256)", "import os; os.close(63)"],
)
def test_cells_that_cut_their_session_off_say_so(session: Session, cell: str) -> None:
    session.run("x = 1")
    assert session.run(cell).error_class in ("SessionExit", "SessionLost")
    assert printed(session, "print(x)") == "1"


def test_a_cell_may_close_its_outputs(session: Session) -> None:
    assert session.run("import os; os.closerange(0, 4); x = 1").ok
    assert printed(session, "print(x)\n#" + "long" * 10_000) == "1"
    assert session.run("1 / 0").error_class == "ZeroDivisionError"


def test_what_a_cell_replaces_does_not_break_the_next(session: Session) -> None:
    assert session.run("import random; random.getstate = 1").ok
    assert printed(session, "print(7)") == "7"


def test_states_do_nothing_between_cells(session: Session) -> None:
    session.run(
        "import signal, os\ndef tick(*a):\n    open('ticks', 'a').write('x')\n"
        "signal.signal(signal.SIGALRM, tick)\nsignal.setitimer(signal.ITIMER_REAL, .01, .01)"
    )
    time.sleep(0.3)
    ticks = session.run("print(os.path.exists('ticks') and len(open('ticks').read()))").stdout
    assert ticks.strip() == "False" or int(ticks) < 5


def test_cells_see_nothing_of_other_sessions_and_programs(session: Session, box: Sandbox) -> None:
    session.run("open('mine', 'w').write('x')")
    with box.session() as other:
        assert printed(other, "import os; print(os.listdir('/tmp'), os.listdir())") == (
            f"{['cwd', *kept()]} []"
        )
    assert box.run("import os; print(os.listdir())").stdout == "[]\n"


def kept() -> list[str]:
    """What of the interpreter lies below /tmp, and so is visible there."""
    import sys

    parts = Path(sys.prefix).parts
    return [parts[2]] if parts[:2] == ("/", "tmp") else []


@pytest.mark.parametrize(
    "change",
    [
        "resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0))",
        "resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))",
        "os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))",
        "os.sched_setaffinity(pid, {0})",
        "os.setpriority(os.PRIO_PROCESS, pid, 15)",
        "os.setpriority(os.PRIO_PGRP, 0, 15)",
        "os.setpriority(os.PRIO_USER, 0, 15)",
    ],
)
def test_a_cell_changes_none_but_its_own_process(session: Session, change: str) -> None:
    if session._sandbox.layers.no_seccomp:  # type: ignore[attr-defined]
        pytest.skip("needs seccomp")
    session.run("import os, resource; x = 1")
    state = "print(x, [resource.getrlimit(k) for k in range(16)], os.nice(0), "
    state += "os.sched_getaffinity(0), os.sched_getscheduler(0))"
    before = printed(session, state)
    others = "pids = set(map(int, filter(str.isdigit, os.listdir('/proc')))) - {os.getpid()}\n"
    for cell in (f"for pid in pids: {change}", f"pid = 1; {change}"):
        assert session.run(others + cell).error_class == "PermissionError"
    assert printed(session, state) == before
    nicer = printed(session, "os.sched_setaffinity(0, {0}); print(os.nice(3))")
    assert nicer == str(min(os.nice(0) + 3, 19))


def test_a_cell_may_send_its_keeper_any_signal(session: Session, box: Sandbox) -> None:
    cell = (
        "import os\nfor n in range(1, 65):\n    try: os.kill(1, n)\n    except OSError: pass\nx = 1"
    )
    assert session.run(cell).ok
    assert printed(session, "print(x)") == "1"
    assert box.faults == 0


def test_a_cell_that_lets_no_process_follow_says_so(session: Session) -> None:
    session.run("x = 1")
    lower = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
    assert session.run(lower).error_class == "SessionLimitsError"
    assert printed(session, "print(x)") == "1"


@pytest.mark.parametrize(
    "answer",
    [
        "while True: s.send(b'.')",
        "for word in (b'.', b'!', b'!'): s.send(word)\nwhile True: pass",
        "if os.fork() == 0: s.send(b'.'); s.recv(9); s.send(b'!'); os._exit(0)\nwhile True: pass",
    ],
)
def test_who_claims_to_have_ended_has_to_answer(session: Session, answer: str) -> None:
    session.run("x = 1")
    assert session.run(
        "import os, socket\ns = socket.socket(fileno=63)\n" + answer
    ).error_class == ("SessionExit")
    assert printed(session, "print(x)") == "1"


UNFIT = {
    "sleeps": "import jailed.cell as c, time\nc.fork_sibling = lambda: time.sleep(30)",
    "does not fork": "import jailed.cell as c\nc.fork_sibling = lambda: 1",
    "dies": "import jailed.cell as c, os\nc.fork_sibling = lambda: os._exit(1)",
    "forks what dies": "import jailed.cell as c, os\nc.run_cell = lambda *a: os._exit(1)",
}


@pytest.mark.parametrize("state", UNFIT)
def test_a_state_that_takes_no_further_cell_holds_nobody_up(box: Sandbox, state: str) -> None:
    with box.session(limits=Limits(wall_s=0.5)) as session:
        session.run("x = 1")
        first = session.checkpoint()
        assert session.run(UNFIT[state]).ok
        began = time.monotonic()
        result = session.run("x = 2")
        assert (result.status, result.error_class) == (Status.ERROR, "SessionLost")
        assert "earlier cells" in result.traceback
        assert time.monotonic() - began < 8  # two seconds where nothing else runs
        session.rollback(first)
        assert printed(session, "print(x)") == "1"


BOMBS = {
    "all that fork": "while True:\n    try: os.fork()\n    except OSError: pass",
    "a chain": "os.fork() and time.sleep(9)\nwhile True:\n    if os.fork(): os._exit(0)",
    "they wake one another": "for _ in range(3): os.fork()\n"
    "while True:\n    try: os.kill(-1, 18)\n    except OSError: pass",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_processes_that_multiply_are_stopped_and_the_session_is_not_lost(
    box: Sandbox, bomb: str
) -> None:
    with box.session(limits=Limits(wall_s=0.5)) as session:
        session.run("import os, time; started = time.monotonic_ns(); x = 1")
        before = printed(session, "print(started)")
        began = time.monotonic()
        assert session.run(BOMBS[bomb]).status in (Status.TIMEOUT, Status.ERROR)
        assert time.monotonic() - began < 8  # half a second where nothing else runs
        assert printed(session, "print(started)") == before  # not made again by its cells


def test_a_session_whose_keeper_dies_is_restored(box: Sandbox) -> None:
    with Sandbox(preload=()) as own, own.session() as session:
        session.run("x = 1")
        keeper = max(p for p in descendants(own.worker_pids()[0]) if descendants(p))
        sleep = threading.Timer(0.2, os.kill, (keeper, signal.SIGKILL))
        sleep.start()
        assert printed(session, "import time; time.sleep(0.6); print(x)") == "1"
        sleep.join()
        assert own.faults == 0


def test_a_cell_whose_files_cannot_be_taken_back_is_run_once(box: Sandbox) -> None:
    with box.session() as session:
        session.run("x = 1")
        deep = "import os\nfor _ in range(2100): os.mkdir('dd'); os.chdir('dd')\n1 / 0"
        result = session.run(deep)  # the path is longer than any that the kernel takes
        assert (result.status, result.error_class) == (Status.ERROR, "SessionLost")
        assert printed(session, "import os; print(x, os.listdir())") == "1 []"


@pytest.mark.slow
def test_a_cell_whose_processes_use_up_the_memory_of_its_keeper_ends_as_memory(
    box: Sandbox,
) -> None:
    if box.layers.no_cgroup:
        pytest.skip("needs a control group")
    with box.session(limits=Limits(wall_s=4, memory_mb=64)) as session:
        kept = "import os; [open(f'/tmp/{i}', 'wb').write(os.urandom(15 << 20)) for i in range(4)]"
        assert session.run(kept).ok  # which makes the keeper the largest process of all
        grow = "for _ in range(12):\n    if not os.fork(): break\n"
        grow += "x = [bytearray(1 << 20) for _ in range(50)]\nimport time; time.sleep(9)"
        result = session.run(grow)
        assert (result.status, result.error_class) == (Status.MEMORY, "MemoryError")
        assert printed(session, "print(os.listdir('/tmp')[:1] != [])") == "True"


BREAKS = {
    "kills its states": "[os.kill(int(p), 9) for p in os.listdir('/proc')"
    " if p.isdigit() and int(p) not in (1, os.getpid())]; 1 / 0",
    "seals what is kept": "os.write(fd, b'x'); fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 8); 1 / 0",
}


@pytest.mark.parametrize("way", BREAKS)
def test_a_session_that_its_cells_broke_and_that_cannot_be_made_again_is_their_failure(
    box: Sandbox, way: str
) -> None:
    if "seals" in way and box.layers.no_cgroup and not box.layers.no_seccomp:
        pytest.skip("programs may use memfds where a control group counts their memory")
    with box.session() as session:
        first = session.checkpoint()
        session.run("import fcntl, os, time; print(time.time_ns())")
        session.run("fd = os.memfd_create('', os.MFD_ALLOW_SEALING); os.write(fd, b'kept')")
        session.run(BREAKS[way])
        for _ in range(2):
            result = session.run("print(1)")
            assert (result.status, result.error_class) == (Status.ERROR, "SessionLost")
            assert "cell 1 did not do the same again" in result.traceback
        session.rollback(first)
        assert printed(session, "print(1)") == "1"


def test_a_state_that_says_that_it_cannot_fork_is_not_believed(box: Sandbox) -> None:
    with box.session() as session:
        session.run("import jailed.cell as c, errno\ndef no(): raise OSError(errno.EAGAIN, '')")
        session.run("c.fork_sibling = no")
        result = session.run("x = 1")
        assert (result.status, result.error_class) == (Status.ERROR, "SessionLost")


def test_what_a_cell_says_for_its_session_is_no_error_class(session: Session) -> None:
    say = "import socket, time; socket.socket(fileno=63).send(b'-not a name'); time.sleep(9)"
    result = session.run(say)
    assert (result.status, result.error_class) == (Status.ERROR, "SessionExit")


def test_a_cell_that_leaves_no_memory_says_so(box: Sandbox) -> None:
    fill = "k = []\ntry:\n    while True: k.append(bytearray({}))\nexcept MemoryError: pass\n"
    with box.session(limits=Limits(memory_mb=64)) as session:
        result = session.run(fill.format(1 << 20) + fill.replace("k = []\n", "").format(1 << 9))
        assert (result.status, result.error_class) == (Status.MEMORY, "MemoryError")
        assert printed(session, "print(1)") == "1"
