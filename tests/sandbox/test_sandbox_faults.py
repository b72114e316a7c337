"""Interrupts, a lack of descriptors, odd installations: nothing is lost, leaked or shown."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox.pool
import sandbox.worker
from sandbox import Sandbox, SandboxError
from sandbox.jail import PREFIX_PARTS, find_bwrap

needs_isolation = pytest.mark.usefixtures("box")  # skips where there is none


@needs_isolation
def test_threads_go_on_when_the_main_thread_has_ended() -> None:
    code = """
import threading
from sandbox import Sandbox
box = Sandbox()
def late():
    threading.main_thread().join()
    box._drop(*box._live)
    print(box.run("print(1)").stdout.strip(), box.faults)
    print(box.run("print(2)").stdout.strip(), box.faults)
threading.Thread(target=late).start()
"""
    root = Path(sandbox.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["1", "1", "2", "1"], done.stderr


@needs_isolation
def test_close_wakes_a_waiting_call() -> None:
    box = Sandbox()
    box._line.take()
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(box.run, "") for _ in range(2)]
        time.sleep(0.1)
        box.close()
        for call in calls:
            with pytest.raises(SandboxError, match="closed"):
                call.result(5)


@needs_isolation
@pytest.mark.parametrize("where", ["_line.take", "_keep"])
def test_an_interrupt_neither_loses_nor_adds_a_slot(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with Sandbox() as box:
        with monkeypatch.context() as patch:
            owner, name = (box._line, "take") if where == "_line.take" else (box, where)
            patch.setattr(owner, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                box.run("")
        assert box._line.free == 1
        assert box.run("").ok


@needs_isolation
def test_a_signal_while_waiting_or_running_loses_no_slot() -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Sandbox() as box:
            slot = box._line.take()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                box.run("")
            assert (len(box._line), box._line.free) == (0, 0)
            box._line.give(slot)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                box.run("import time; time.sleep(3)")
            assert (box._line.free, len(box._live)) == (1, 0)
            assert box.run("").ok and box.faults == 0
    finally:
        signal.signal(signal.SIGALRM, handler)


@needs_isolation
def test_arun_gives_its_slot_back_when_python_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    with Sandbox() as box:
        monkeypatch.setattr(box._servers, "submit", refuse)
        with pytest.raises(SandboxError, match="Python is about to end"):
            asyncio.run(box.arun(""))
        assert box._line.free == 1 and box.run("").ok


@needs_isolation
def test_the_group_is_killed_while_its_leader_is_not_reaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Sandbox() as box:
        (worker,) = box._live
        assert worker.process
        os.kill(worker.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)
        seen = []
        monkeypatch.setattr(os, "killpg", lambda *_: seen.append(worker.process.returncode))
        worker.close()
        assert seen == [None]


@needs_isolation
@pytest.mark.parametrize("name", ["os.memfd_create", "socket.socketpair"])
def test_no_descriptors_left_is_a_sandbox_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    with Sandbox() as box:
        box._drop(*box._live)
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            with pytest.raises(SandboxError, match="Too many open files"):
                box.run("")
        assert len(os.listdir("/proc/self/fd")) == before
        assert box.run("").ok


@needs_isolation
def test_an_interrupt_while_starting_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    before = len(os.listdir("/proc/self/fd"))
    started = []
    start = sandbox.worker.start_process

    def start_slowly(command: list[str], fd: int, stderr: int) -> subprocess.Popen[bytes]:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        time.sleep(0.2)
        started.append(start(command, fd, stderr))
        return started[0]

    monkeypatch.setattr(sandbox.worker, "start_process", start_slowly)
    handler = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            Sandbox()
    finally:
        signal.signal(signal.SIGUSR1, handler)
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert len(os.listdir("/proc/self/fd")) == before


@needs_isolation
def test_an_old_bwrap_does_not_hide_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'Unknown option --perms' >&2\nexit 1\n")
    fake.chmod(0o755)
    bwraps, _ = find_bwrap()
    monkeypatch.setattr(sandbox.pool, "find_bwrap", lambda: ([str(fake), *bwraps], []))
    with Sandbox() as box:
        assert box.bwrap in bwraps and box.run("").ok
        assert "Unknown option --perms" in box.tried[0]


@needs_isolation
@pytest.mark.parametrize("where", ["/tmp", "/var/tmp"])
def test_a_venv_made_in_a_project_does_not_show_the_project(where: str) -> None:
    with tempfile.TemporaryDirectory(dir=where) as project:
        venv.create(project, symlinks=True)
        Path(project, "secret.txt").write_text("x")
        code = (
            "from sandbox import Sandbox\nwith Sandbox() as b:\n"
            "    code = 'import os, sys; print(sys.prefix, *os.listdir(sys.prefix))'\n"
            "    print(b.run(code).stdout, b.tried)"
        )
        root = Path(sandbox.__file__).parents[1]
        done = subprocess.run(
            [f"{project}/bin/python", "-c", code],
            capture_output=True,
            cwd=root,
            text=True,
            env={**os.environ, "PATH": os.path.dirname(find_bwrap()[0][0])},
        )
        prefix, *names, tried = done.stdout.split() or [done.stderr, ""]
        assert (prefix, tried) == (project, "[]")
        assert {"bin", "lib", "pyvenv.cfg"} <= set(names) <= {*PREFIX_PARTS}


@needs_isolation
@pytest.mark.parametrize("where", ["/tmp", "/var/tmp"])
def test_without_namespaces_too_a_venv_does_not_show_its_project(where: str, box: Sandbox) -> None:
    if box.layers.no_seccomp or box.layers.landlock < 3:
        pytest.skip("no tier landlock on this kernel")
    program = """
import sys
for name in ("/pyvenv.cfg", "/secret.txt"):
    try:
        print(len(open(sys.prefix + name).read()) > 0)
    except PermissionError as error:
        print(type(error).__name__)
"""
    with tempfile.TemporaryDirectory(dir=where) as project:
        venv.create(project, symlinks=True)
        Path(project, "secret.txt").write_text("x")
        code = (
            f"from sandbox import Sandbox\nwith Sandbox() as b: print(b.tier, b.run({program!r}))"
        )
        done = subprocess.run(
            [f"{project}/bin/python", "-c", code],
            capture_output=True,
            cwd=Path(sandbox.__file__).parents[1],
            text=True,
            env={**os.environ, "PATH": project},  # where no bubblewrap is
        )
        assert done.stdout.startswith("landlock "), done.stdout + done.stderr
        assert "stdout='True\\nPermissionError\\n'" in done.stdout
