"""The warm interpreter inside the jail: forks one child for every execution."""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import linecache
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
from typing import Any, NoReturn

from . import kernel, landlock, seccomp
from .child import MAX_FDS, Config, child_main

FIRST_OWN_FD = 10  # the zygote's own descriptors lie above those a child installs


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
    kernel.mount_proc()
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
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)
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
    kernel.mount(b"none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE, None)
    kernel.mount_proc()


def become(uid: int, scratch: str) -> int:
    """Continue as the user `uid`, who owns the scratch directory alone; capabilities still held.

    They are none, unless the interpreter lies below a directory that only root may enter (/root is
    such a one): then the one that reads it in spite of that. What is read is Landlock's business.
    """
    os.chown(scratch, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    kernel.check(kernel.prctl(kernel.PR_SET_KEEPCAPS, 1), "prctl keepcaps")
    os.setresuid(uid, uid, uid)
    readable = all(os.access(path, os.R_OK) for path in (os.__file__, sys.executable))
    kept = 0 if readable else kernel.CAP_DAC_READ_SEARCH
    kernel.keep_capabilities(kept)
    return kept


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


def probe_layers(config: Config) -> None:
    """Note which layers of confinement this kernel has; without namespaces both must be there."""
    config["landlock_abi"] = landlock.abi()
    config["no_seccomp"] = seccomp.missing()
    config["landlock"] = config["landlock_abi"] if config["visible"] else 0
    config["seccomp"] = not config["no_seccomp"]
    if not config["strict"]:
        config["filter"] = seccomp.base_filter() if config["seccomp"] else None
        return
    config["filter"] = None  # it names the program's pid
    if config["landlock_abi"] < landlock.FILES_ARE_SAFE_FROM:
        have = f"ABI {config['landlock_abi']}" if config["landlock_abi"] else "none"
        raise OSError(
            f"needs Landlock of ABI {landlock.FILES_ARE_SAFE_FROM} (Linux 6.2), here: {have}"
        )
    if config["no_seccomp"]:
        raise OSError(f"needs seccomp, here: {config['no_seccomp']}")


def prepare(config: Config) -> None:
    try:
        probe_layers(config)
        config["kept"] = 0
        if config["drop_uid"] is not None:
            if config["private"]:
                drop_root(config["drop_uid"])
            else:
                config["kept"] = become(config["drop_uid"], config["scratch"])
        if config["private"]:
            forbid_user_namespaces()
        if config["scratch"] is not None:
            kernel.check(kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1), "prctl subreaper")
        for path in (os.__file__, sys.executable):
            if not os.access(path, os.R_OK, effective_ids=True):
                raise PermissionError(f"{path} is not readable by other users (chmod o+rX)")
    except Exception as error:
        raise Broken("isolation", error) from error
    try:
        preload(config["preload"])
    except Exception as error:
        raise Broken("preload", error) from error
    config["base_bytes"] = address_space()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # programs share our uid: keep them out of our memory
    linecache.clearcache()
    gc.collect()
    gc.freeze()


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
            if not self.config["strict"]:  # there the filter lets nothing be started
                sweep()
            shutil.rmtree(scratch, ignore_errors=True)
        if verdict[:1] != b"+":
            raise OSError(f"set-up of the child failed: {verdict[1:].decode(errors='replace')}")
        wall_s = (ended - int(verdict[1:])) / 1e9
        self.send(id=request["id"], event="ended", status=status, wall_s=wall_s, cpu_s=cpu_s)

    def fork_child(
        self, request: dict[str, Any], fds: list[int], ready: int, scratch: str | None
    ) -> int:
        """Fork; in a private namespace the child is pid 1, and all that it starts die with it."""
        if self.config["private"]:
            kernel.unshare(kernel.CLONE_NEWPID)
        try:
            child = os.fork()
            if not child:
                child_main(self.config, request, fds, ready, scratch)
        finally:
            # Back to our own, else the next fork would go into the namespace of a dead child.
            if self.config["private"]:
                kernel.setns(self.pid_namespace, kernel.CLONE_NEWPID)
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
    zygote.send(event="ready", landlock=config["landlock_abi"], no_seccomp=config["no_seccomp"])
    zygote.serve()
