"""The grader: comparisons in processes that can be killed, from threads and forked processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cleaner_env.rewards import GRADER, Grader, GraderError, GraderWarning

HANGS = "9^{9^{9^{9}}}"


def children():
    """Process ids of this process's children."""
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def lives(process):
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def grader():
    patient = Grader(workers=1, seconds=30)
    yield patient
    patient.close()


def test_a_hang_is_wrong_counted_and_warned_about(grader):
    assert grader.equal("x+1", "1+x")
    grader.seconds = 0.3
    with pytest.warns(GraderWarning, match=r"1 of 2 math comparisons hung .*9\^"):
        assert not grader.equal("2", HANGS)
    assert (grader.health.comparisons, grader.health.timeouts) == (2, 1)
    grader.seconds = 30
    assert grader.equal("x+1", "1+x"), "a fresh worker takes over"


def test_a_crash_is_wrong_counted_and_warned_about(grader):
    before = children()
    assert grader.equal("x+1", "1+x")
    (worker,) = children() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.warns(GraderWarning, match="1 of 2 math comparisons"):
        assert not grader.equal("x+1", "1+x")
    assert grader.health.crashes == 1
    assert grader.equal("x+1", "1+x")


def test_threads_compare_side_by_side():
    pairs = [(f"x+{i}", f"{i if i % 2 else i + 1}+x") for i in range(40)]
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: GRADER.equal(*pair), pairs))
    assert verdicts == [bool(i % 2) for i in range(40)]


def in_child(queue):
    queue.put((GRADER.equal("x+1", "1+x"), GRADER.equal("x+1", "2+x"), GRADER.health.comparisons))
    GRADER.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_have_workers_of_their_own(method):
    assert GRADER.equal("x+1", "1+x")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == (True, False, 2)
    child.join(30)
    assert child.exitcode == 0
    assert GRADER.equal("x+2", "2+x"), "the parent's worker is still its own"


def test_close_leaves_no_process():
    before = children()
    grader = Grader(workers=2)
    assert grader.equal("x+1", "1+x")
    grader.close()
    assert children() == before


@pytest.mark.parametrize("busy", [False, True])
def test_workers_end_with_a_program_that_is_killed(busy):
    program = f"""
        from cleaner_env.rewards import Grader
        import os, pathlib, signal, threading, time
        grader = Grader(workers=1, seconds=30)
        grader.equal("x+1", "1+x")
        grader.seconds = 0.1
        if {busy}:
            threading.Thread(target=grader.equal, args=("2", "{HANGS}")).start()
            time.sleep(0.05)
        print(pathlib.Path(f"/proc/self/task/{{os.getpid()}}/children").read_text(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    worker = int(ended.stdout)
    deadline = time.monotonic() + 10
    while lives(worker):
        assert time.monotonic() < deadline, f"process {worker} lives on"
        time.sleep(0.05)


def test_the_callers_process_does_not_import_sympy():
    program = """
        import sys
        from cleaner_env.rewards.equivalence import equivalent
        assert equivalent("x+1", "1+x")
        assert not {"sympy", "math_verify", "torch"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


def test_a_machine_without_math_verify_is_an_error_and_no_wrong_answer(monkeypatch, tmp_path):
    broken = tmp_path / "worker.py"
    broken.write_text("import no_such_module")
    monkeypatch.setattr("cleaner_env.rewards.grader._SCRIPT", broken)
    with pytest.raises(GraderError, match="pip install math-verify"):
        Grader(workers=1).equal("x+1", "1+x")


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="workers"):
        Grader(workers=0)
    with pytest.raises(ValueError, match="seconds"):
        Grader(seconds=0)
