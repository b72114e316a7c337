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


LIMITS_OF_OTHERS = """
import os, resource
for pid in filter(str.isdigit, os.listdir('/proc')):
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
        if int(pid) != os.getpid():
            resource.prlimit(int(pid), kind, (0, 0))
"""


def test_a_cell_cannot_change_the_limits_of_its_keeper_and_states(session: Session) -> None:
    session.run("import resource; x = 1")
    limits = "print(x, [resource.getrlimit(k) for k in range(16)])"
    before = printed(session, limits)
    assert session.run(LIMITS_OF_OTHERS).error_class == "PermissionError"
    assert printed(session, limits) == before


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
