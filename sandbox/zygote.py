"""The warm interpreter inside the jail: forks one child for every execution.

Runs as a file of its own (`python zygote.py CONFIG`) and imports nothing of the package, because
the package is not visible in the jail. Speaks with the host over one SOCK_SEQPACKET socket, one
JSON object a message:

    host -> zygote  {"op": "run", "id", "cpu_s", "memory_mb", "processes"} with the descriptors of
                    the source, stdin, stdout, stderr and the report; {"op": "kill", "id"}
    zygote -> host  {"event": "ready"} | {"event": "broken", "kind", "why"}           once
                    {"id", "event": "started"}, {"id", "event": "ended", "status", "wall_s", "cpu_s"}
                    {"id", "event": "fault", "why"}                                   per run

"started" is sent only after the child has shut its own door: namespaces, mounts, limits and
privileges. A failure before that is ours, and the program has no part in telling the two apart.
The report is text for people (error class and traceback); what it says never makes a run ok.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import io
import json
import linecache
import math
import os
import resource
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import types
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3 = 0x20080522

MAX_FDS = 256  # low, so that closing all of them is cheap
REPORT_FD = 3
FIRST_OWN_FD = 10  # the zygote's own descriptors lie above those a child installs
TMPFS_OPTIONS = b"size=64m,nr_inodes=4096,mode=1777"
FILE_BYTES = 64 << 20
HARNESS_BYTES = 32 << 20  # address space kept back to format the traceback of a MemoryError
TRACEBACK_CHARS = 4_000
PRIVATE_DIRS = ("/tmp", "/dev/shm")
WORK_DIR = "/tmp/cwd"

Config = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)


def check(returned: int, what: str) -> None:
    """Raise OSError with the errno of a libc call that returned -1."""
    if returned == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(
    source: bytes, target: str, kind: bytes | None, flags: int, options: bytes | None
) -> None:
    returned = libc.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), options)
    check(returned, f"mount {target}")


def prctl(option: int, first: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return int(libc.prctl(option, ctypes.c_ulong(first), zero, zero, zero))


# ---- set-up of the zygote -------------------------------------------------------------------


def drop_root(uid: int) -> None:
    """Continue as pid 1 of a user, pid and mount namespace whose only user is `uid` outside.

    Real root is exempt from RLIMIT_NPROC, so it has to go. It goes here and not before bubblewrap,
    because bubblewrap must still be root to bind an interpreter that lies below a directory only
    root may enter (/root is such a one). The process that called this stays behind as root and only
    waits; programs live in a pid namespace below it and cannot name it.
    """
    os.setgroups([])
    # A second, uncovered /proc: the kernel lets a user namespace mount proc only if it already
    # sees one in full, and bubblewrap covers parts of its own when it runs as root.
    mount(b"proc", "/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
    unshared, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.close(unshared[1])
        os.read(unshared[0], 1)
        for name in ("gid_map", "uid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(f"0 {uid} 1")
        os.write(mapped[1], b"+")
        wait_and_exit(child)
    os.close(mapped[1])
    check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID), "unshare user")
    os.write(unshared[1], b"+")
    if not os.read(mapped[0], 1):
        raise OSError("the user namespace was given no user")
    for fd in (unshared[0], unshared[1], mapped[0]):
        os.close(fd)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    child = os.fork()
    if child:
        wait_and_exit(child)
    mount(b"none", "/", None, MS_REC | MS_PRIVATE, None)
    mount(b"proc", "/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def wait_and_exit(child: int) -> NoReturn:
    for fd in range(FIRST_OWN_FD, MAX_FDS):  # the host must see the socket close with the zygote
        try:
            os.close(fd)
        except OSError:
            continue
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def forbid_user_namespaces() -> None:
    """Best effort: programs cannot make user namespaces, and so cannot get capabilities in them."""
    try:
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
    except OSError:
        return


def preload(names: list[str]) -> None:
    for name in names:
        importlib.import_module(name)
    # Threads do not survive fork, and a lock one of them holds would stay locked for ever.
    if threading.active_count() > 1:
        raise RuntimeError("a preloaded module started a thread, which fork() cannot copy")


def address_space() -> int:
    """Bytes of address space in use; a generous guess where /proc does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 512 << 20


class Broken(Exception):
    """The zygote cannot serve; `kind` tells what to blame."""

    def __init__(self, kind: str, error: BaseException):
        super().__init__(f"{type(error).__name__}: {error}")
        self.kind = kind


def prepare(config: Config) -> None:
    try:
        if config["drop_uid"] is not None:
            drop_root(config["drop_uid"])
        if config["private"]:
            forbid_user_namespaces()
        if config["scratch"] is not None:
            check(prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl subreaper")
        for path in (os.__file__, sys.executable):
            if not os.access(path, os.R_OK):
                raise PermissionError(f"{path} is not readable by other users (chmod o+rX)")
    except Exception as error:
        raise Broken("isolation", error) from error
    try:
        preload(config["preload"])
    except Exception as error:
        raise Broken("preload", error) from error
    config["base_bytes"] = address_space()
    prctl(PR_SET_DUMPABLE, 0)  # programs share our uid: keep them out of our memory
    linecache.clearcache()
    gc.collect()
    gc.freeze()


# ---- one execution, zygote's side -----------------------------------------------------------


class Zygote:
    """Serves one request after another until the host closes the socket."""

    def __init__(self, control: socket.socket, config: Config):
        self.control = control
        self.config = config
        self.pid_namespace = os.pidfd_open(os.getpid())  # stands for our namespaces in setns()

    def send(self, **message: Any) -> None:
        self.control.send(json.dumps(message).encode())

    def serve(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self.control, 4096, 8)
            if not data:
                return
            request = json.loads(data)
            if request["op"] != "run":
                continue  # a kill that crossed the end of its run
            try:
                self.run(request, fds)
            except OSError as error:
                self.send(id=request["id"], event="fault", why=str(error))

    def run(self, request: dict[str, Any], fds: list[int]) -> None:
        scratch = self.config["scratch"] and tempfile.mkdtemp(dir=self.config["scratch"])
        ready_r, ready_w = os.pipe()
        try:
            child = self.fork_child(request, fds, ready_w, scratch)
        finally:
            for fd in (*fds, ready_w):
                os.close(fd)
        verdict = os.read(ready_r, 4096)
        os.close(ready_r)
        if verdict[:1] == b"+":
            self.send(id=request["id"], event="started")
        status, cpu_s = self.wait(child, request["id"])
        ended = time.monotonic_ns()
        if scratch:
            sweep()
            shutil.rmtree(scratch, ignore_errors=True)
        if verdict[:1] != b"+":
            raise OSError(f"set-up of the child failed: {verdict[1:].decode(errors='replace')}")
        wall_s = (ended - int(verdict[1:])) / 1e9
        self.send(id=request["id"], event="ended", status=status, wall_s=wall_s, cpu_s=cpu_s)

    def fork_child(
        self, request: dict[str, Any], fds: list[int], ready: int, scratch: str | None
    ) -> int:
        """Fork; with private namespaces the child is pid 1 of its own, and all in it die with it."""
        if self.config["private"]:
            check(libc.unshare(CLONE_NEWPID), "unshare pid")
        try:
            child = os.fork()
            if not child:
                child_main(self.config, request, fds, ready, scratch)
        finally:
            # Back to our own, else the next fork would go into the namespace of a dead child.
            if self.config["private"]:
                check(libc.setns(self.pid_namespace, CLONE_NEWPID), "setns pid")
        return child

    def wait(self, child: int, run_id: int) -> tuple[int, float]:
        pidfd = os.pidfd_open(child)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if pidfd in ready:
                break
            data = self.control.recv(4096)
            if not data or json.loads(data)["id"] == run_id:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                poll.unregister(self.control)
        os.close(pidfd)
        _, status, usage = os.wait4(child, 0)
        return status, usage.ru_utime + usage.ru_stime


def sweep() -> None:
    """Kill what a child left behind. Orphans become ours (subreaper), so none gets away."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0 if children else os.WNOHANG)
        except ChildProcessError:
            return


# ---- one execution, child's side ------------------------------------------------------------


def child_main(
    config: Config, request: dict[str, Any], fds: list[int], ready: int, scratch: str | None
) -> NoReturn:
    try:
        source = set_up_child(config, request, fds, ready, scratch)
        os.write(ready, b"+%d" % time.monotonic_ns())
    except BaseException as error:
        os.write(ready, b"-" + str(error).encode(errors="replace"))
        os._exit(70)
    os.close(ready)
    run_program(source)


def set_up_child(
    config: Config, request: dict[str, Any], fds: list[int], ready: int, scratch: str | None
) -> str:
    code, stdin, stdout, stderr, report = fds
    with open(code, "rb", closefd=False) as file:
        source = file.read().decode("utf-8", "surrogatepass")
    for old, new in ((stdin, 0), (stdout, 1), (stderr, 2)):
        os.dup2(old, new)
    os.dup2(report, REPORT_FD, inheritable=False)
    os.closerange(REPORT_FD + 1, ready)
    os.closerange(ready + 1, MAX_FDS)
    if config["private"]:
        make_private(config)
    if scratch is None:
        os.makedirs(WORK_DIR, exist_ok=True)
        os.chdir(WORK_DIR)
    else:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(scratch)
        os.environ["HOME"] = os.environ["TMPDIR"] = scratch
    limit_resources(config, request)
    drop_privileges()
    return source


def make_private(config: Config) -> None:
    """Fresh /tmp, /dev/shm, /proc and System V IPC for this execution alone."""
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC), "unshare mount")
    # An interpreter that is installed below /tmp must stay visible under the new one.
    kept = [(path, os.open(path, os.O_PATH)) for path in config["keep"]]
    for path in PRIVATE_DIRS:
        mount(b"tmpfs", path, b"tmpfs", MS_NOSUID | MS_NODEV, TMPFS_OPTIONS)
    for path, fd in kept:
        os.makedirs(path)
        os.fchdir(fd)
        mount(b".", path, None, MS_BIND | MS_REC, None)
        os.close(fd)
    if config["proc"]:
        mount(b"proc", "/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def limit_resources(config: Config, request: dict[str, Any]) -> None:
    memory = config["base_bytes"] + (request["memory_mb"] << 20)
    cpu_s = math.ceil(request["cpu_s"])
    limits = [
        (resource.RLIMIT_AS, memory, memory + HARNESS_BYTES),
        (resource.RLIMIT_CPU, cpu_s, cpu_s),
        (resource.RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES),
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


def drop_privileges() -> None:
    """Give up every capability for good, exec() of anything included."""
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "prctl no_new_privs")
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        if prctl(PR_CAPBSET_DROP, capability) == -1:
            break  # past the last one, or not ours to drop
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def run_program(source: str) -> NoReturn:
    """Run the source as __main__ of a script "main.py", then leave with its exit status."""
    open_streams()
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__="main.py", __builtins__=__builtins__)
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
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    for name, fd, errors in (("stdout", 1, "surrogateescape"), ("stderr", 2, "backslashreplace")):
        raw = io.FileIO(fd, "w", closefd=False)
        stream = io.TextIOWrapper(raw, "utf-8", errors, write_through=True)  # type: ignore[arg-type]
        setattr(sys, name, stream)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def run_guarded(action: Any) -> int:
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
    if error.code is None:
        return 0
    os.write(REPORT_FD, b"error SystemExit\n")
    if isinstance(error.code, int):
        return error.code & 0xFF
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
    while entry is not None and entry.tb_frame.f_code.co_filename == __file__:
        entry = entry.tb_next
    text = "".join(traceback.format_exception(error.__class__, error, entry))
    if len(text) > TRACEBACK_CHARS:
        half = TRACEBACK_CHARS // 2
        text = text[:half] + "\n  [... traceback shortened ...]\n" + text[-half:]
    return text


# ---- start ----------------------------------------------------------------------------------


def main() -> None:
    config: Config = json.loads(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FDS, MAX_FDS))
    control = socket.socket(fileno=fcntl.fcntl(config["fd"], fcntl.F_DUPFD_CLOEXEC, FIRST_OWN_FD))
    os.close(config["fd"])
    while os.open("/dev/null", os.O_RDONLY) < FIRST_OWN_FD - 1:
        pass  # nothing of ours may sit where a child installs its descriptors
    zygote = None
    try:
        prepare(config)
        zygote = Zygote(control, config)
    except Broken as error:
        control.send(
            json.dumps({"event": "broken", "kind": error.kind, "why": str(error)}).encode()
        )
        return
    zygote.send(event="ready")
    zygote.serve()


if __name__ == "__main__":
    main()
