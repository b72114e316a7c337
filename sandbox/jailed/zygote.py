"""The warm interpreter inside the jail: forks one child for every execution."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from . import kernel
from .child import FIRST_OWN_FD, MESSAGE_BYTES, Config, child_main
from .files import remove_tree
from .keeper import keep_session
from .preparation import Broken, prepare, settle

SPARE_MB = 32


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
        """Wait for the next request, and meanwhile reap keepers whose sessions are over."""
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
            remove_tree(child.scratch)
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
        private = self.config["private"]
        with theirs:
            if private:  # the child is pid 1, and all that it starts die with it
                kernel.unshare(kernel.CLONE_NEWPID)
            try:
                child = os.fork()
                if not child:
                    child_main(self.config, theirs, scratch, keep_session)
            finally:
                # Back to our own, else the next fork would go into the namespace of a dead child.
                if private:
                    kernel.setns(self.pid_namespace, kernel.CLONE_NEWPID)
        return Spare(child, ours, scratch)

    def wait(self, child: Spare, request: dict[str, Any], started: int | None) -> bool:
        """Wait until the child is dead; its time or an order kills it. Whether its time did."""
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
    """What a child says of its set-up, and the namespace that it hands to us to keep."""
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


def resident_mb() -> int:
    """What the zygote and a child that has done nothing yet take, and some to spare."""
    return 2 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + SPARE_MB


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
    settle()  # among others all open files that there may be, so that it can send: limit_files()
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
    zygote.send(
        event="ready",
        landlock=config["landlock_abi"],
        no_seccomp=config["no_seccomp"],
        base_mb=resident_mb(),
    )
    try:
        zygote.serve()
    finally:
        if config["scratch"]:  # the host removes it as well, unless it was killed
            remove_tree(config["scratch"])
