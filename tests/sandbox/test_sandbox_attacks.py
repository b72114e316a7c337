"""Programs that mean harm, by accident or not. Each denial is tested by trying it."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from sandbox import Limits, Sandbox, Status
from sandbox.soak import descendants

SHORT = Limits(wall_s=0.2)


def needs_processes(box: Sandbox) -> None:
    if box.tier == "landlock":
        pytest.skip("in this tier programs cannot start processes")


def processes_of(box: Sandbox) -> int:
    return sum(len(descendants(pid)) for pid in box.worker_pids())


def test_endless_loop(box: Sandbox) -> None:
    result = box.run("while True: pass", limits=SHORT)
    assert (result.status, result.error_class) == (Status.TIMEOUT, "TimeoutError")
    assert 0.2 <= result.wall_s < 3


def test_endless_sleep(box: Sandbox) -> None:
    assert box.run("import time; time.sleep(99)", limits=SHORT).status is Status.TIMEOUT


def test_loop_in_c(box: Sandbox) -> None:
    assert box.run("10 ** 10 ** 8", limits=SHORT).status is Status.TIMEOUT


def test_a_timeout_keeps_the_output_so_far(box: Sandbox) -> None:
    code = "import time; print('one'); print('two', end=''); time.sleep(99)"
    assert box.run(code, limits=SHORT).stdout == "one\ntwo"


def test_cpu_limit(box: Sandbox) -> None:
    result = box.run("while True: pass", limits=Limits(wall_s=20, cpu_s=1))
    assert result.status is Status.TIMEOUT
    assert "CPU" in result.traceback


def test_ignored_signals_and_exceptions(box: Sandbox) -> None:
    code = """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True:
    try:
        while True: pass
    except BaseException: pass
"""
    assert box.run(code, limits=SHORT).status is Status.TIMEOUT


def test_a_thread_that_does_not_end(box: Sandbox) -> None:
    code = "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()"
    assert box.run(code, limits=SHORT).status is Status.TIMEOUT


@pytest.mark.parametrize("code", ["x = 'a' * 10**10", "x = []\nwhile True: x.append('a' * 10**6)"])
def test_memory_bomb(box: Sandbox, code: str) -> None:
    result = box.run(code, limits=Limits(memory_mb=128))
    assert (result.status, result.error_class) == (Status.MEMORY, "MemoryError")


def test_endless_output(box: Sandbox) -> None:
    result = box.run("while True: print('x' * 1000)")
    kept, mark = result.stdout[: Limits().output_bytes], result.stdout[Limits().output_bytes :]
    assert result.status is Status.OUTPUT and set(kept) == {"x", "\n"}
    cut = result.stdout_bytes - Limits().output_bytes
    assert mark == f"\n[... {cut} of {result.stdout_bytes} bytes cut ...]\n"


def test_endless_stderr(box: Sandbox) -> None:
    result = box.run("import os\nwhile True: os.write(2, b'x' * 1000)")
    assert result.status is Status.OUTPUT and result.stderr_bytes > Limits().output_bytes


def test_fork_bomb(box: Sandbox) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert box.run(code, limits=SHORT).status is Status.TIMEOUT


def test_process_limit(box: Sandbox) -> None:
    code = """
import os, time
n = 1
try:
    while n < 100:
        if os.fork() == 0: time.sleep(99)
        n += 1
except OSError: pass
print(n)
os._exit(0)
"""
    if box.tier != "full":
        pytest.skip("the process limit may not bind in a weaker tier")
    with Sandbox() as fresh:  # a worker that had sessions leaves room for their states
        assert int(fresh.run(code, limits=Limits(processes=8)).stdout) == 8


def test_disk_fill(box: Sandbox) -> None:
    code = "f = open('a', 'wb')\nwhile True: f.write(bytes(10**6))"
    assert box.run(code).error_class == "OSError"


def test_descriptor_exhaustion(box: Sandbox) -> None:
    assert box.run("import os\nwhile True: os.dup(0)").error_class == "OSError"


def test_nothing_survives_a_double_fork(box: Sandbox) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.01)
            open('/tmp/cwd/beat', 'w').close()
            os.write(1, b'x')
    os._exit(0)
os.wait()
"""
    needs_processes(box)
    assert box.run("").ok
    time.sleep(0.2)  # until the next program's process waits
    before = processes_of(box)
    result = box.run(code)
    assert result.ok and result.wall_s < 3
    assert box.run("import os, time; time.sleep(0.1); print(os.listdir())").stdout == "[]\n"
    deadline = time.monotonic() + 5
    while processes_of(box) != before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_background_child_does_not_hold_the_result(box: Sandbox) -> None:
    needs_processes(box)
    result = box.run("import os, time\nif os.fork() == 0: time.sleep(99)\nprint('done')")
    assert (result.ok, result.stdout) == (True, "done\n")
    assert result.wall_s < 3


@pytest.mark.parametrize("code, ok", [(0, True), (5, False)])
def test_os_exit(box: Sandbox, code: int, ok: bool) -> None:
    result = box.run(f"import os; os._exit({code})")
    assert (result.ok, result.exit_code) == (ok, code)


def test_segfault(box: Sandbox) -> None:
    result = box.run("print('before')\nimport ctypes; ctypes.string_at(0)")
    assert (result.status, result.error_class) == (Status.SIGNAL, "SIGSEGV")
    assert result.stdout == "before\n"


@pytest.mark.parametrize("close", ["sys.stdout.close()", "import os; os.closerange(0, 99)"])
def test_closed_descriptors(box: Sandbox, close: str) -> None:
    assert box.run(f"import sys; {close}").ok


def test_closed_descriptors_then_failure(box: Sandbox) -> None:
    assert box.run("import os; os.closerange(0, 99); 1 / 0").status is Status.ERROR


def test_replaced_builtins(box: Sandbox) -> None:
    code = "import builtins\ns = setattr\nfor n in dir(builtins): s(builtins, n, None)\n1 / 0"
    result = box.run(code)
    assert (result.status, result.error_class) == (Status.ERROR, "ZeroDivisionError")


def test_an_exception_that_cannot_be_shown(box: Sandbox) -> None:
    code = "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E"
    result = box.run(code)
    assert (result.status, result.error_class) == (Status.ERROR, "E")


def test_a_forged_report_does_not_make_a_run_ok(box: Sandbox) -> None:
    code = """
import json, os
forged = json.dumps({"id": 1, "event": "ended", "status": 0, "wall_s": 0, "cpu_s": 0}).encode()
for fd in range(3, 256):
    try: os.write(fd, b"ok Fine\\n" + forged)
    except OSError: pass
print(forged, '{"status": "ok"}')
os._exit(7)
"""
    result = box.run(code)
    assert (result.status, result.exit_code, result.error_class) == (Status.ERROR, 7, "")


def test_a_forged_report_does_not_make_a_run_fail(box: Sandbox) -> None:
    result = box.run("import os; os.write(3, b'memory MemoryError\\n')")
    assert (result.status, result.traceback) == (Status.OK, "")


def test_only_the_expected_descriptors_are_open(box: Sandbox) -> None:
    code = """
import os
def is_open(fd):
    try: os.fstat(fd); return True
    except OSError: return False
print([fd for fd in range(256) if is_open(fd)])
"""
    assert box.run(code).stdout == "[0, 1, 2, 3]\n"


def test_no_network(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = box.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
    assert result.error_class == "PermissionError"


def test_no_udp(box: Sandbox) -> None:
    code = "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))"
    assert box.run(code).error_class == "PermissionError"


def test_no_abstract_unix_socket_of_the_host(box: Sandbox) -> None:
    name = f"\0sandbox-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        # Its own network has no such socket; in the same one the filter or Landlock denies it.
        assert box.run(code).error_class in ("ConnectionRefusedError", "PermissionError")


def test_host_files_are_not_there(box: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    denials = {"FileNotFoundError"} | ({"PermissionError"} if box.tier == "landlock" else set())
    for path in ("/etc/passwd", "/etc/shadow", "/home/x", "/sys", "/bin/sh", str(secret), __file__):
        assert box.run(f"open({path!r})").error_class in denials, path


@pytest.mark.parametrize(
    "path", ["/x", "/dev/x", "os.__file__", "sys.prefix + '/x'", "'/usr/lib/x'"]
)
def test_no_writing_outside_of_the_private_directories(box: Sandbox, path: str) -> None:
    if path.startswith("sys.") and box.tier == "jail" and sys.prefix.startswith("/tmp/"):
        pytest.skip("the directories above it lie in the program's own /tmp here")
    expression = path if "x'" in path or "os." in path else repr(path)
    result = box.run(f"import os, sys; open({expression}, 'a')")
    assert result.error_class in ("OSError", "PermissionError")


def test_the_host_environment_is_invisible(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERY_SECRET", "hunter2")
    with Sandbox() as fresh:
        code = "import os; print(os.environ)\nprint(open('/proc/self/environ').read())"
        assert "hunter2" not in fresh.run(code).stdout


def test_other_processes_are_invisible(box: Sandbox) -> None:
    result = box.run("import os; print(*(p for p in os.listdir('/proc') if p.isdigit()))")
    if box.tier == "landlock":
        assert result.error_class == "PermissionError"
        return
    own = {"full": "1", "no-proc": "", "jail": "1 2 3"}  # in a jail there is also its zygote
    assert result.stdout.strip() == own[box.tier]


def test_files_do_not_reach_the_next_execution(box: Sandbox) -> None:
    box.run("for d in ('/tmp', '/dev/shm', '.'): open(d + '/leak', 'w').close()")
    code = "import os; print([d for d in ('/tmp', '/dev/shm', '.') if os.path.exists(d + '/leak')])"
    assert box.run(code).stdout == "[]\n"


def test_modules_changed_by_one_program_are_fresh_in_the_next(box: Sandbox) -> None:
    box.run("import math, builtins; math.pi = 3; builtins.print = None")
    assert box.run("import math; print(math.pi > 3)").stdout == "True\n"


@pytest.mark.parametrize(
    "call", ["unshare(0x10000000)", "unshare(0x20000)", "mount(b'x', b'/tmp', b'tmpfs', 0, 0)"]
)
def test_no_privileged_calls(box: Sandbox, call: str) -> None:
    assert box.run(f"import ctypes; print(ctypes.CDLL(None).{call})").stdout == "-1\n"


def test_limits_cannot_be_raised(box: Sandbox) -> None:
    code = "import resource as r; r.setrlimit(r.RLIMIT_CPU, (r.RLIM_INFINITY, r.RLIM_INFINITY))"
    assert box.run(code).error_class == "ValueError"


def test_signalling_everybody_harms_only_oneself(box: Sandbox) -> None:
    started = time.monotonic()
    box.run("import os, signal\nos.kill(-1, signal.SIGKILL)", limits=SHORT)
    assert time.monotonic() - started < 5


def test_killing_the_process_group_harms_only_oneself(box: Sandbox) -> None:
    result = box.run("import os; os.kill(0, 9)")
    if box.tier == "landlock":
        assert result.error_class == "PermissionError"
    else:
        assert result.status in (Status.OK, Status.SIGNAL)


@pytest.mark.parametrize("code", [0, 4])
def test_the_exit_status_without_a_report(box: Sandbox, code: int) -> None:
    result = box.run(f"import os, sys; os.closerange(3, 256); sys.exit({code})")
    assert (result.ok, result.exit_code) == (code == 0, code)


def test_an_in_memory_file_is_bounded(box: Sandbox) -> None:
    code = "import os; os.ftruncate(os.memfd_create('x'), 17 << 20)"
    assert box.run(code).error_class == "OSError"


def test_few_open_files(box: Sandbox) -> None:
    code = "import os\ntry:\n    while True: n = os.dup(0)\nexcept OSError: print(n)"
    assert box.run(code).stdout == "63\n"
