"""The warm interpreter inside the jail: forks one child for every execution."""

from __future__ import annotations

import _thread
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
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from . import kernel, landlock, seccomp
from .child import (
    FIRST_OWN_FD,
    FIXED_LIMITS,
    KEPT_FD,
    MAX_FDS,
    MESSAGE_BYTES,
    VARIED_LIMITS,
    Config,
    child_main,
)

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


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


def forbid_user_namespaces(host_proc: str | None) -> None:
    """Best effort: programs cannot make user namespaces, and so cannot get capabilities in them.

    The sysctl is that of our own user namespace, whichever /proc it is written through.
    """
    try:
        with open(f"{host_proc or '/proc'}/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
    except OSError:
        pass  # read-only in some containers; the host's trial program finds out
    if host_proc:
        kernel.unmount(host_proc)


def preload(names: list[str]) -> None:
    for name in names:
        importlib.import_module(name)
    # Threads do not survive fork, and a lock one of them holds would stay locked for ever.
    if _thread._count():
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
            forbid_user_namespaces(config["host_proc"])
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
    config["ceilings"] = ceilings()
    config["rules"] = landlock_rules(config)
    kernel.renounce_privileges()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # programs share our uid: keep them out of our memory
    linecache.clearcache()
    gc.collect()
    gc.freeze()


def ceilings() -> dict[int, int]:
    """The hard limits that there are already: no child can go above them."""
    kinds = [kind for kind, _ in FIXED_LIMITS] + list(VARIED_LIMITS)
    hard = {kind: resource.getrlimit(kind)[1] for kind in kinds}
    return {kind: value for kind, value in hard.items() if value != resource.RLIM_INFINITY}


def landlock_rules(config: Config) -> list[landlock.Rule]:
    """What every child may reach, opened once for all of them."""
    found = landlock.rules(config["visible"], landlock.READ)
    found += landlock.rules(DEVICES, landlock.DEVICE)
    kept = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, KEPT_FD), rights) for fd, rights in found]
    for fd, _ in found:
        os.close(fd)
    return kept


@dataclass(slots=True)
class Spare:
    """A child that has shut its doors and waits at the other end of `link` for its program."""

    pid: int
    link: socket.socket
    scratch: str | None


class Zygote:
    """Serves one request after another until the host closes the socket."""

    def __init__(self, control: socket.socket, config: Config):
        self.control = control
        self.config = config
        self.pid_namespace = os.pidfd_open(os.getpid())  # stands for our namespaces in setns()
        self.keepers: dict[int, int] = {}  # of sessions that live: pidfd and pid

    def send(self, **message: Any) -> None:
        self.control.send(json.dumps(message).encode())

    def serve(self) -> None:
        spare: Spare | None = None
        while True:
            # Forked while the host is busy with the result before, so that nobody waits for it.
            try:
                spare = spare or self.fork_spare()
            except OSError:
                spare = None  # said by the next request, which tries again
            self.bury_keepers()
            data, fds, _, _ = socket.recv_fds(self.control, MESSAGE_BYTES, 8)
            if not data:
                return
            request = json.loads(data.partition(b"\n")[0])
            if request["op"] == "kill":
                continue  # it crossed the end of its run
            action = self.run if request["op"] == "run" else self.open_session
            try:
                action(spare or self.fork_spare(), request, data, fds)
            except OSError as error:
                self.send(id=request["id"], event="fault", why=str(error))
            spare = None

    def bury_keepers(self) -> None:
        """Wait for the next request, and meanwhile for keepers whose sessions are over."""
        poll = select.poll()
        for fd in (self.control.fileno(), *self.keepers):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self.control.fileno():
                    return
                poll.unregister(fd)
                os.waitpid(self.keepers.pop(fd), 0)
                os.close(fd)

    def open_session(
        self, child: Spare, request: dict[str, Any], data: bytes, fds: list[int]
    ) -> None:
        """Let a child be the keeper of a session; it speaks with the host itself."""
        self.keepers[os.pidfd_open(child.pid)] = child.pid
        with child.link:
            hand_over(child.link, data, fds)

    def run(self, child: Spare, request: dict[str, Any], data: bytes, fds: list[int]) -> None:
        with child.link:
            hand_over(child.link, data, fds)
            verdict, namespace = b"", list[int]()
            if not self.config["private"]:
                verdict, namespace = read_verdict(child.link)
                if verdict[:1] == b"+":
                    self.send(id=request["id"], event="started")
                child.link.close()  # a child that waits for that goes on
            timed_out = self.wait(child, request, start_of(verdict))
            ended = time.monotonic_ns()
            _, status, usage = os.wait4(child.pid, 0)
            if not verdict:
                verdict, namespace = read_verdict(child.link)
        if child.scratch:
            if not self.config["strict"]:  # there the filter lets nothing be started
                sweep()
            shutil.rmtree(child.scratch, ignore_errors=True)
        started = start_of(verdict)
        if started is None:
            raise OSError(f"set-up of the child failed: {verdict[1:].decode(errors='replace')}")
        self.send(
            id=request["id"],
            event="ended",
            status=status,
            timed_out=timed_out,
            wall_s=(ended - started) / 1e9,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_mb=usage.ru_maxrss / 1024,
        )
        for fd in namespace:
            os.close(fd)

    def fork_spare(self) -> Spare:
        scratch = self.config["scratch"] and tempfile.mkdtemp(dir=self.config["scratch"])
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            return Spare(self.fork_child(theirs, scratch), ours, scratch)

    def fork_child(self, link: socket.socket, scratch: str | None) -> int:
        """Fork; in a private namespace the child is pid 1, and all that it starts die with it."""
        if self.config["private"]:
            kernel.unshare(kernel.CLONE_NEWPID)
        try:
            child = os.fork()
            if not child:
                child_main(self.config, link, scratch)
        finally:
            # Back to our own, else the next fork would go into the namespace of a dead child.
            if self.config["private"]:
                kernel.setns(self.pid_namespace, kernel.CLONE_NEWPID)
        return child

    def wait(self, child: Spare, request: dict[str, Any], started: int | None) -> bool:
        """Wait until the child is dead, whom its time or an order kills; whether its time did."""
        pidfd = os.pidfd_open(child.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        timed_out = False
        left_ms: float | None = request["wall_s"] * 1e3
        while True:
            ready = [fd for fd, _ in poll.poll(left_ms)]
            if pidfd in ready:
                os.close(pidfd)
                return timed_out
            if ready:
                data = self.control.recv(MESSAGE_BYTES)
                if data and json.loads(data)["id"] != request["id"]:
                    continue
            else:  # the clock starts with the program, not with the request
                started = started or start_of(peek(child.link))
                if started is None:
                    continue
                left_ms = request["wall_s"] * 1e3 - (time.monotonic_ns() - started) / 1e6
                if left_ms > 0:
                    continue
            timed_out = not ready
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.unregister(self.control)
            left_ms = None


def hand_over(link: socket.socket, request: bytes, fds: list[int]) -> None:
    """Give a child its program."""
    try:
        socket.send_fds(link, [request], fds)
    except ConnectionError:
        pass  # it ended; its last message says why
    finally:
        for fd in fds:
            os.close(fd)


def read_verdict(link: socket.socket) -> tuple[bytes, list[int]]:
    """What a child says of its set-up, and the namespace that it gives into our keeping."""
    try:
        data, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES, 1)
        return data or b"-it ended without a word", fds
    except ConnectionError as error:
        return b"-" + str(error).encode(), []


def peek(link: socket.socket) -> bytes:
    """What a child has said, if it has; the word stays in the link."""
    try:
        return link.recv(MESSAGE_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return b""


def start_of(verdict: bytes) -> int | None:
    """When a child began with its program, in ns; None when it has not."""
    return int(verdict[1:]) if verdict[:1] == b"+" else None


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
