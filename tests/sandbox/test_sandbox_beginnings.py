"""What a host was started with reaches no program, and a host that was killed leaves nothing."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox import Sandbox
from sandbox.jail import find_bwrap
from sandbox.jailed import kernel

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


def host(
    code: str, before: Callable[[], None] | None = None, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """A host of its own, in whose process `before` is called ahead of all else."""
    return subprocess.run(
        [python, "-c", code],
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


DOCKER = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)  # a container's capabilities by default
PLACED = """
import sandbox.pool
from sandbox import Sandbox
sandbox.pool.find_bwrap = lambda: ([], [])
with Sandbox(preload=()) as box:
    print(box.tier, box.run("import os; print(os.getuid() > 0, os.listdir())").stdout.strip())
    for action in ("open('/etc/passwd')", "open('/dev/shm/x', 'w')"):
        print(box.run(action).error_class)
"""


def capabilities(*kept: int) -> None:
    """Give up all others for good."""
    for number in set(range(41)) - {*kept}:
        kernel.prctl(kernel.PR_CAPBSET_DROP, number)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to give up")
@pytest.mark.parametrize(
    ("kept", "other_user"),
    [(DOCKER, True), ((*DOCKER, 2), True), ((), False), ((0, 6, 7), False)],
    ids=["docker", "docker and reading", "none", "without kill"],
)
def test_root_with_few_capabilities_and_an_interpreter_of_its_own(
    kept: tuple[int, ...], other_user: bool, box: Sandbox
) -> None:
    if box.layers.no_seccomp or box.layers.landlock < 3:
        pytest.skip("no tier landlock on this kernel")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        assert os.stat(home).st_mode & 0o777 == 0o700
        venv.create(home, symlinks=True)
        done = host(PLACED, lambda: capabilities(*kept), f"{home}/bin/python")
    assert done.stdout == f"landlock {other_user} []\nPermissionError\nPermissionError\n", (
        done.stderr
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs programs as another user")
@pytest.mark.parametrize(
    ("closed", "what", "change"),
    [
        ("", "enter", "o+x"),
        ("/site-packages", "read", "-R o+rX"),
        ("/site-packages/mine", "read", "-R o+rX"),
    ],
)
def test_a_part_of_the_interpreter_that_others_may_not_read_is_named(
    closed: str, what: str, change: str, box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not box.bwrap:
        pytest.skip("no bubblewrap here")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        venv.create(home, symlinks=True)
        path = Path(home, "lib/python{}.{}".format(*sys.version_info[:2]) + closed)
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
        Path(home, path, "__init__.py").touch()
        monkeypatch.setenv("PATH", os.path.dirname(find_bwrap()[0][0]))
        preload = ("mine",) if closed.endswith("mine") else ()
        code = f"from sandbox import Sandbox\nwith Sandbox(preload={preload}) as box:"
        done = host(f"{code} print(box.tier, box.tried)", python=f"{home}/bin/python")
    assert f"other users may not {what} {path}: chmod {change} {path}'" in done.stdout, done.stderr
    assert done.stdout.startswith("no-proc"), done.stdout  # there root is root in its namespace


@pytest.mark.parametrize("below", ["site-packages", "elsewhere"])
@pytest.mark.parametrize("where", ["/tmp", "/var/tmp"])
def test_packages_that_a_variable_leads_to(
    below: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir=where) as home, tempfile.TemporaryDirectory() as other:
        os.chmod(home, 0o755)
        venv.create(other, symlinks=True)
        os.chmod(other, 0o755)
        package = Path(home, below, "numpy")
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("print('numpy')")
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        monkeypatch.setenv("PATH", os.path.dirname((find_bwrap()[0] or ["/"])[0]))
        code = (
            "from sandbox import Sandbox\nwith Sandbox() as box:\n"
            "    print(box.run('import sys; print(\"numpy\" in sys.modules)').stdout, box.faults)"
        )
        done = host(code, python=f"{other}/bin/python")
        seen = below == "site-packages"
        assert done.stdout == f"{seen}\n 0\n", done.stderr
