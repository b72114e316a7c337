"""What a host was started with reaches no program, and a host that was killed leaves nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("box")  # skips where there is no isolation

STATE = """
import ctypes, os, resource, signal, threading
print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
print([s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN])
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, oct(os.umask(0)))
print(resource.getrlimit(resource.RLIMIT_STACK)[0], resource.getrlimit(resource.RLIMIT_DATA)[0])
print(resource.getrlimit(resource.RLIMIT_MEMLOCK), resource.getrlimit(resource.RLIMIT_CORE))
def stack():
    libc, attributes, size = ctypes.CDLL(None), ctypes.create_string_buffer(128), ctypes.c_size_t()
    libc.pthread_self.restype = ctypes.c_void_p
    libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes)
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(size))
    print(size.value)
thread = threading.Thread(target=stack)
thread.start()
thread.join()
signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()
os.kill(os.getpid(), signal.SIGTERM) if os.fork() == 0 else print(os.wait()[1])
"""
EXPECTED = f"""\
[]
[{signal.SIGPIPE!r}, {signal.SIGXFSZ!r}]
True 0o22
8388608 -1
(65536, 65536) (0, 0)
8388608
alarm
15
"""
HOST = f"from sandbox import Sandbox\nwith Sandbox(preload=()) as b: print(b.run({STATE!r}).stdout)"


def host(code: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """A host of its own, in whose process `before` is called ahead of all else."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(sandbox.__file__).parents[1],
        preexec_fn=before,
        timeout=60,
    )


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD})


def ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


def set_umask() -> None:
    os.umask(0o077)


def small_limits() -> None:
    for kind, soft in ((resource.RLIMIT_STACK, 1 << 20), (resource.RLIMIT_DATA, 1 << 29)):
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


def endless_stack() -> None:
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))


def no_streams() -> None:
    os.close(0)
    os.close(2)


@pytest.mark.parametrize(
    "before",
    [block_signals, ignore_signals, set_umask, small_limits, endless_stack, no_streams],
)
def test_programs_begin_in_one_state(box: Sandbox, before: Callable[[], None]) -> None:
    if box.tier == "landlock":
        pytest.skip("no processes here")
    done = host(HOST, before)
    assert done.stdout == EXPECTED + "\n", done.stderr


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (255, 255))


def test_too_few_open_files_are_named() -> None:
    done = host("from sandbox import Sandbox\nSandbox()", few_files)
    assert "SandboxError: this process may have 255 open files at most" in done.stderr
    assert "needs 256: raise the hard limit (ulimit -Hn" in done.stderr


def test_as_many_open_files_as_are_needed_suffice() -> None:
    def just_enough() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    code = "from sandbox import Sandbox\nwith Sandbox() as b: print(b.run('print(6 * 7)').stdout)"
    assert host(code, just_enough).stdout == "42\n\n"


BARE = """
import os, signal, sandbox.pool
from sandbox import Sandbox
sandbox.pool.find_bwrap = lambda: ([], [])
box = Sandbox(preload=())
print(box.tier, box.run("open('x', 'w').write('x')").stdout, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_host_leaves_no_files(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if box.layers.no_seccomp or box.layers.landlock < 3:
        pytest.skip("no tier landlock on this kernel")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o1777)  # as /tmp
        monkeypatch.setenv("TMPDIR", directory)
        assert host(BARE).stdout.startswith("landlock")
        until = time.monotonic() + 10
        while os.listdir(directory) and time.monotonic() < until:
            time.sleep(0.01)
        assert os.listdir(directory) == []
