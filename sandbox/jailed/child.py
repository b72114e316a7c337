"""The child of one execution: shuts its own door, runs the program, reports its error."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import json
import linecache
import math
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
import types

# Bound here, because a program may replace what the module `builtins` holds.
from builtins import (  # noqa: UP029
    BaseException,
    MemoryError,
    OSError,
    SystemExit,
    int,
    isinstance,
    len,
    print,
)
from collections.abc import Callable
from typing import Any, NoReturn

from . import kernel, landlock, seccomp

MAX_FDS = 256  # low, so that closing all of them is cheap
REPORT_FD = 3
FIRST_OWN_FD = 10  # the zygote's own descriptors lie above those a child installs
TMPFS_OPTIONS = b"size=64m,nr_inodes=4096,mode=1777"
FILE_BYTES = 16 << 20  # neither RLIMIT_AS nor a tmpfs bounds the files of memfd_create
OPEN_FILES = 64
HARNESS_BYTES = 32 << 20  # address space kept back to format the traceback of a MemoryError
TRACEBACK_CHARS = 4_000
PRIVATE_DIRS = ("/tmp", "/dev/shm")
WORK_DIR = "/tmp/cwd"
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

Config = dict[str, Any]
HARNESS = os.path.dirname(__file__)


def child_main(config: Config, link: socket.socket, scratch: str | None) -> NoReturn:
    """Shut the doors, wait on `link` for the request, answer "+" and the time or "-" and why."""
    try:
        shut_doors(config, link.fileno(), scratch)
        source = receive_request(config, link)
        link.send(b"+%d" % time.monotonic_ns())
        if not config["private"]:
            link.recv(1)  # the program could kill the zygote before it has said "started"
    except BaseException as error:
        link.send(b"-" + str(error).encode(errors="replace"))
        os._exit(70)
    try:
        link.close()
        run_program(source)
    finally:
        os._exit(1)  # never back into the zygote's loop


def shut_doors(config: Config, link: int, scratch: str | None) -> None:
    """All of the set-up that is the same for every program, so that it can be done ahead."""
    os.closerange(FIRST_OWN_FD, link)
    os.closerange(link + 1, MAX_FDS)
    if config["private"]:
        make_private(config)
    if scratch is None:
        os.setsid()  # os.kill(0, ...) reaches the process group, across pid namespaces
        os.makedirs(WORK_DIR, exist_ok=True)
        os.chdir(WORK_DIR)
    else:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(scratch)
        os.environ["HOME"] = os.environ["TMPDIR"] = scratch
    kernel.drop_privileges(config["kept"])
    confine(config, scratch)


def receive_request(config: Config, link: socket.socket) -> str:
    """Take descriptors and limits of the program, and return its source."""
    data, fds, _, _ = socket.recv_fds(link, 4096, 8)
    if not data:
        os._exit(0)  # the zygote is gone
    code, stdin, stdout, stderr, report = fds
    with open(code, "rb", closefd=False) as file:
        source = file.read().decode("utf-8", "surrogatepass")
    for old, new in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(old, new)
    os.dup2(report, REPORT_FD, inheritable=False)
    os.closerange(REPORT_FD + 1, link.fileno())
    os.closerange(link.fileno() + 1, MAX_FDS)
    limit_resources(config, json.loads(data))
    return source


def confine(config: Config, scratch: str | None) -> None:
    """Landlock and the system call filter, each where this kernel has it."""
    if config["landlock"]:
        rights = dict.fromkeys(config["visible"], landlock.READ)
        rights |= dict.fromkeys(DEVICES, landlock.DEVICE)
        rights |= dict.fromkeys([scratch] if scratch else PRIVATE_DIRS, landlock.ALL)
        landlock.restrict(config["landlock"], rights)
    if config["seccomp"]:
        seccomp.install(config["filter"] or seccomp.strict_filter(os.getpid()))


def make_private(config: Config) -> None:
    """Fresh /tmp, /dev/shm, /proc and System V IPC for this execution alone."""
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)
    # An interpreter that is installed below /tmp must stay visible under the new one.
    kept = [(path, os.open(path, os.O_PATH)) for path in config["keep"]]
    for path in PRIVATE_DIRS:
        kernel.mount(b"tmpfs", path, b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, TMPFS_OPTIONS)
    for path, fd in kept:
        os.makedirs(path)
        os.fchdir(fd)
        kernel.mount(b".", path, None, kernel.MS_BIND | kernel.MS_REC, None)
        kernel.remount_read_only(path)  # its top is a directory of the jail's own /tmp
        os.close(fd)
    if config["proc"]:
        kernel.mount_proc()


def limit_resources(config: Config, request: dict[str, Any]) -> None:
    memory = config["base_bytes"] + (request["memory_mb"] << 20)
    cpu_s = math.ceil(request["cpu_s"])
    limits = [
        (resource.RLIMIT_AS, memory, memory + HARNESS_BYTES),
        (resource.RLIMIT_CPU, cpu_s, cpu_s),
        (resource.RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
    ]
    if config["process_slack"] is not None:
        processes = request["processes"] + config["process_slack"]
        limits.append((resource.RLIMIT_NPROC, processes, processes))
    for kind, soft, hard in limits:
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))


def run_program(source: str) -> NoReturn:
    """Run the source as __main__ of a script "main.py", then leave with its exit status."""
    open_streams()
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__="main.py", __builtins__=builtins)
    sys.modules["__main__"] = main
    sys.argv[:] = ["main.py"]
    sys.path.insert(0, os.getcwd())
    linecache.cache["main.py"] = (len(source), None, source.splitlines(True), "main.py")
    exit_code = run_guarded(
        lambda: exec(compile(source, "main.py", "exec", 0, True), main.__dict__)
    )
    # The rest of what an interpreter does on its way out.
    exit_code = run_guarded(threading._shutdown) or exit_code  # type: ignore[attr-defined]
    exit_code = run_guarded(atexit._run_exitfuncs) or exit_code
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            continue
    os._exit(exit_code)


def open_streams() -> None:
    """Streams on the new descriptors; unbuffered output, so that a killed program keeps its own."""
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogateescape"
    )
    for name, fd, errors in (("stdout", 1, "surrogateescape"), ("stderr", 2, "backslashreplace")):
        raw = io.FileIO(fd, "w", closefd=False)
        stream = io.TextIOWrapper(raw, "utf-8", errors, write_through=True)
        setattr(sys, name, stream)


def run_guarded(action: Callable[[], object]) -> int:
    """Exit status of `action`; a failure is put into the report."""
    try:
        action()
        return 0
    except SystemExit as error:
        return exit_status(error)
    except BaseException as error:
        write_report(error)
        return 1


def exit_status(error: SystemExit) -> int:
    code = 0 if error.code is None else error.code
    if isinstance(code, int) and not code & 0xFF:
        return 0
    with contextlib.suppress(BaseException):  # the program may have closed it
        os.write(REPORT_FD, b"error SystemExit\n")
    if isinstance(code, int):
        return code & 0xFF
    try:
        print(error.code, file=sys.stderr)
    except BaseException:
        return 1
    return 1


def write_report(error: BaseException) -> None:
    """Error class and traceback as text. Works, with less in it, when builtins were replaced."""
    name = error.__class__.__name__
    kind, text = "error", ""
    try:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        kind = "memory" if isinstance(error, MemoryError) else "error"
        text = format_traceback(error)
    except BaseException:
        text = text or name + "\n"
    try:
        os.write(REPORT_FD, (kind + " " + name + "\n" + text).encode("utf-8", "backslashreplace"))
    except OSError:
        return  # the program closed it


def format_traceback(error: BaseException) -> str:
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename.startswith(HARNESS):
        entry = entry.tb_next
    text = "".join(traceback.format_exception(error.__class__, error, entry))
    # The same text on every machine: where an interpreter is installed is nobody's business here.
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        text = text.replace(f'File "{prefix}/', 'File "/usr/')
    if len(text) > TRACEBACK_CHARS:
        half = TRACEBACK_CHARS // 2
        text = text[:half] + "\n  [... traceback shortened ...]\n" + text[-half:]
    return text
