"""What a program uses up is not missed by others: at the same time, or after it."""

from __future__ import annotations

import importlib
import resource
import threading
import time
from pathlib import Path

import pytest

import sandbox.worker
from sandbox import Limits, Result, Sandbox, Status
from sandbox.cgroup import Cgroup
from sandbox.jailed.preparation import preload

IN_FLIGHT = """
import array, socket, time
a, b = socket.socketpair()
a.setblocking(False)
try:
    while True: a.sendmsg([b"x"], [(1, 1, array.array("i", [0] * 250))])
except OSError as error: print(error.errno, flush=True)
"""
SYSTEM_V_MEMORY = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
while (key := libc.shmget(0, 1 << 20, 0o1600)) >= 0:
    page = libc.shmat(key, None, 0)
    ctypes.memset(page, 1, 1 << 20)
    libc.shmdt(ctypes.c_void_p(page))
"""


def needs_tier_full(box: Sandbox) -> None:
    if box.tier != "full":
        pytest.skip("no sessions here")


def test_descriptors_in_flight_stop_no_other_session(box: Sandbox) -> None:
    needs_tier_full(box)
    with Sandbox(preload=()) as own, own.session() as greedy, own.session() as other:
        assert other.run("x = 7").ok
        assert greedy.run(IN_FLIGHT).stdout == "109\n"
        assert other.run("print(x)").stdout == "7\n"
        assert own.run("print(8)").stdout == "8\n"
        with own.session() as third:
            assert third.run("print(9)").stdout == "9\n"
        assert greedy.run("print(10)").stdout == "10\n"
        assert own.faults == 0


def test_descriptors_in_flight_stop_no_program_on_another_worker(box: Sandbox) -> None:
    """Nor where the host itself, who is the programs' user unless root, may open few files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Sandbox(preload=(), workers=2) as own:
        results: list[Result] = []
        code = IN_FLIGHT + "time.sleep(0.5)"
        greedy = threading.Thread(target=lambda: results.append(own.run(code)))
        greedy.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        try:
            while greedy.is_alive():
                assert own.run("print(7)").stdout == "7\n"
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, hard)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            greedy.join()
        assert results[0].stdout == "109\n" and own.faults == 0


def test_the_processes_of_a_session_are_not_counted_with_a_program(box: Sandbox) -> None:
    needs_tier_full(box)
    if box.layers.no_cgroup:
        pytest.skip(box.layers.no_cgroup)
    crowd = """
import os, time
for _ in range(90):
    if not os.fork(): time.sleep(9)
time.sleep(0.8)
"""
    limits = Limits(processes=100, wall_s=10)
    with Sandbox(preload=()) as own, own.session(limits) as session, own.session() as other:
        assert session.run("x = 1").ok and other.run("x = 2").ok
        cell = threading.Thread(target=session.run, args=(crowd,))
        cell.start()
        time.sleep(0.3)
        assert own.run("import os; os.fork() and os.wait(); print(3)").stdout == "3\n3\n"
        assert other.run("import os; os.fork() or os._exit(0); os.wait()").ok
        cell.join()
        assert own.run("import os\nwhile True: os.fork()").error_class == "BlockingIOError"


@pytest.mark.usefixtures("no_layers")
def test_memory_that_the_kernel_frees_late_is_gone_before_the_next_program(box: Sandbox) -> None:
    """Without a filter programs have System V memory, which goes some time after its namespace."""
    if box.tier == "landlock":
        pytest.skip("without a filter there is no such tier")
    with Sandbox(limits=Limits(memory_mb=64)) as own:
        if own.layers.no_cgroup:
            pytest.skip(own.layers.no_cgroup)
        for _ in range(8):
            assert own.run(SYSTEM_V_MEMORY).status is Status.MEMORY
            assert own.run("x = bytearray(60 << 20); print(1)").stdout == "1\n"
        assert own.faults == 0


def test_a_worker_whose_memory_does_not_go_serves_no_other_program(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_tier_full(box)
    if box.layers.no_cgroup:
        pytest.skip(box.layers.no_cgroup)
    with Sandbox(preload=()) as own, own.session() as session:
        session.run("x = 1")
        before = own.worker_pids()
        with monkeypatch.context() as patch:
            patch.setattr(Cgroup, "holds_more_than", lambda *_: True)
            patch.setattr(sandbox.worker, "SETTLE_S", 0.0)
            assert own.run("print(2)").ok
        assert own.run("print(3)").ok
        assert len(own.worker_pids()) == 2 and set(before) < set(own.worker_pids())
        assert session.run("print(x)").stdout == "1\n" and own.faults == 0


def test_the_memory_of_files_without_a_name_counts_or_is_denied(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox.worker, "make_cgroup", lambda: (None, "not in this test"))
    with Sandbox(preload=()) as own:
        if own.layers.no_seccomp:
            pytest.skip(own.layers.no_seccomp)
        assert "not implemented" in own.run("import os; os.memfd_create('x')").traceback


def test_watchers_leases_and_large_pipes_are_denied(box: Sandbox) -> None:
    """A lease delays who writes the file; F_NOTIFY tells what others do in a directory. And the
    pages of all pipes of a user are counted together."""
    if box.layers.no_seccomp:
        pytest.skip(box.layers.no_seccomp)
    code = """
import fcntl, os
directory = os.path.dirname(os.__file__)
for path, command, value in (os.__file__, 1024, fcntl.F_RDLCK), (directory, 1026, 1):
    try: print(fcntl.fcntl(os.open(path, os.O_RDONLY), command, value))
    except OSError as error: print(error.errno)
try: print(fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 1 << 18))
except OSError as error: print(error.errno)
"""
    assert box.run(code).stdout == "1\n1\n1\n"


def test_nobody_waits_for_the_disks_of_the_machine(box: Sandbox) -> None:
    """sync() cannot be killed while it waits."""
    if box.layers.no_seccomp:
        pytest.skip(box.layers.no_seccomp)
    assert box.run("import ctypes; print(ctypes.CDLL(None).syncfs(-1))").stdout == "0\n"


def test_limits_that_all_processes_of_a_user_share(box: Sandbox) -> None:
    code = """
from resource import *
print(*(getrlimit(kind) for kind in (RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_RTPRIO)))
"""
    assert box.run(code).stdout == "(128, 128) (0, 0) (0, 0)\n"


@pytest.mark.parametrize("module", ["sympy.core.random", "numpy.random", "random"])
def test_random_numbers_differ_from_program_to_program(module: str) -> None:
    pytest.importorskip(module.partition(".")[0])
    with Sandbox(preload=(module,)) as own:
        numbers = {own.run(f"from {module} import random; print(random())").stdout for _ in "123"}
    assert len(numbers) == 3 and "" not in numbers


def test_a_generator_that_was_made_with_a_seed_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two_generators.py").write_text(
        "from random import *\na, b, c = Random(), Random(3), Random()\nc.seed(4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("_thread._count", lambda: 0)  # there are some here
    unseeded = preload(["two_generators"])
    made = importlib.import_module("two_generators")
    assert [made.a in unseeded, made.b in unseeded, made.c in unseeded] == [True, False, False]


@pytest.mark.parametrize("in_session", [False, True])
def test_a_source_that_does_not_fit_is_the_programs_failure(box: Sandbox, in_session: bool) -> None:
    if in_session:
        needs_tier_full(box)
    if box.tier == "no-proc":
        pytest.skip("there memory is limited by a generous guess")
    limits = Limits(memory_mb=32, wall_s=20, cpu_s=20)
    before = box.faults
    code = "#" + "x" * (60 << 20)
    if in_session:
        with box.session(limits) as session:
            session.run("x = 1")
            result = session.run(code)
            assert session.run("print(x)").stdout == "1\n"
    else:
        result = box.run(code, limits=limits)
    assert (result.status, result.error_class) == (Status.MEMORY, "MemoryError")
    assert box.faults == before
