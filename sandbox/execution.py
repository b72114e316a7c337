"""One execution as the host sees it: its request, its outputs, its end, its result."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from .errors import WorkerFault
from .jailed.child import MESSAGE_BYTES, SEALS
from .jailed.kernel import readable
from .result import Limits, Result, Status, shown, signal_name

SET_UP_S = 20.0  # from the request to the program's first instruction
QUIET_S = 0.005  # of a program's life in which nobody looks at its output
REPORT_BYTES = 65_536
CHUNK, CHUNKS = 65_536, 16  # bytes of one read, and reads before something else has its turn
INLINE_BYTES = 32_768  # a longer source travels as a file
_limit_raised = threading.Lock()


class Stream:
    """The host's end of one output of the program; keeps at most `limit` bytes, counts them all."""

    def __init__(self, limit: int):
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.limit = limit
        self.kept = bytearray()
        self.length = 0

    @property
    def truncated(self) -> bool:
        return self.length > self.limit

    def drain(self) -> bool:
        """Read what is there; False once all writers are gone."""
        for _ in range(CHUNKS):  # a program may write as fast as this reads
            try:
                data = os.read(self.read_fd, CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.length += len(data)
            self.kept += data[: self.limit - len(self.kept)]
        return True

    def text(self) -> str:
        return shown(self.kept, self.length)

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


Streams = tuple[Stream, Stream, Stream]  # stdout, stderr, and the report of an error


@contextmanager
def open_streams(limits: Limits) -> Iterator[Streams]:
    """The three outputs of an execution, closed in the end."""
    with ExitStack() as stack:
        sizes = (limits.output_bytes, limits.output_bytes, REPORT_BYTES)
        stdout, stderr, report = (stack.enter_context(closing(Stream(size))) for size in sizes)
        yield stdout, stderr, report


def send_program(
    channel: socket.socket, request: dict[str, Any], streams: Streams, code: str, stdin: str = ""
) -> None:
    """Send a request with its source, its input and the descriptors of its outputs."""
    fds = [stream.write_fd for stream in streams]
    source = code.encode("utf-8", "surrogatepass")
    as_file = len(source) > INLINE_BYTES
    with ExitStack() as stack:
        if as_file:
            fds.append(stack.enter_context(sealed_file("source", source)).fileno())
        if stdin:
            text = stdin.encode("utf-8", "surrogatepass")
            fds.append(stack.enter_context(sealed_file("stdin", text)).fileno())
        header = json.dumps({**request, "source_fd": as_file}).encode()
        send_fds(channel, header + b"\n" + (b"" if as_file else source), fds)


def send_fds(channel: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send a message with descriptors.

    The kernel compares the limit of open files with how many descriptors all processes of the user
    have sent that nobody has received, and a plain user is that of the programs as well.
    """
    try:
        socket.send_fds(channel, [data], fds)
    except OSError as error:
        if error.errno != errno.ETOOMANYREFS:
            raise
        with _limit_raised:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            try:
                socket.send_fds(channel, [data], fds)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def receive(channel: socket.socket, timeout_s: float) -> dict[str, Any] | None:
    """The next message, None when the other end is gone. WorkerFault when there is none in time,
    or it tells of a fault."""
    if not readable(channel, timeout_s):
        raise WorkerFault(f"no answer from the worker in {timeout_s:g} s")
    data = channel.recv(MESSAGE_BYTES)
    if not data:
        return None
    message: dict[str, Any] = json.loads(data)
    if message["event"] == "fault":
        raise WorkerFault(message["why"])
    return message


@dataclass(slots=True)
class Watch:
    """Follows an execution, from the request to the word of its end.

    The process that forked the program has the exact clock for its time; the one here is for when
    that process does not answer. Where the program could keep it from answering, it says when the
    program starts, and the clock here counts from then.

    started   whether it was said that the program starts
    stopped   why the program was killed, if it was
    """

    channel: socket.socket
    receive: Callable[[float], dict[str, Any]]
    order_to_kill: dict[str, Any]
    streams: Streams
    limits: Limits
    kill_s: float  # from the order to kill to the end
    says_when_started: bool
    started: bool = False
    stopped: Status | None = None

    def until_ended(self) -> dict[str, Any]:
        """Drain the outputs and hold the limits until the program is dead; the word of its end."""
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        now = time.monotonic()
        deadline = now + SET_UP_S + (0.0 if self.says_when_started else self.limits.wall_s)
        # Most programs end before they have filled a pipe; to wake for each write costs more.
        look: float | None = now + QUIET_S
        while True:
            now = time.monotonic()
            if now >= deadline:
                if self.stopped or (self.says_when_started and not self.started):
                    raise WorkerFault("no answer from the worker in time")
                deadline = self._kill(Status.TIMEOUT)
            if look is not None and now >= look:
                look = None
                for stream in self.streams:
                    poll.register(stream.read_fd, select.POLLIN)
            wake = deadline if look is None else min(look, deadline)
            ready = [fd for fd, _ in poll.poll(max(0.0, wake - now) * 1e3 + 1)]
            for stream in self.streams:
                if stream.read_fd in ready and not stream.drain():
                    poll.unregister(stream.read_fd)
            if self.channel.fileno() in ready:
                message = self.receive(0)
                if message["event"] == "ended":
                    if message["timed_out"]:
                        self.stopped = Status.TIMEOUT
                    return message
                self.started = True
                deadline = time.monotonic() + self.limits.wall_s
            elif not self.stopped and any(stream.truncated for stream in self.streams[:2]):
                deadline = self._kill(Status.OUTPUT)

    def _kill(self, why: Status) -> float:
        """Order it; until when the end has to come."""
        self.stopped = why
        self.channel.send(json.dumps(self.order_to_kill).encode())
        return time.monotonic() + self.kill_s

    def result(self, message: dict[str, Any], out_of_memory: bool, tier: str) -> Result:
        """The result, given the word of the end. Whether it is ok depends on the kernel's exit
        status and our own stops alone.

        out_of_memory: whether processes were killed for what all used together.
        """
        for stream in self.streams:
            stream.drain()
        stdout, stderr, report = self.streams
        exit_code = os.waitstatus_to_exitcode(message["status"])
        cpu_s = message.get("cpu_s", 0.0)
        status, error_class, text = self._classify(exit_code, cpu_s, out_of_memory)
        traceback = f"{error_class}: {text}\n" if text else ""
        if status is Status.ERROR:
            head, _, traceback = report.text().partition("\n")
            kind, _, error_class = head.partition(" ")
            if kind not in ("error", "memory") or not error_class.isidentifier():
                error_class = traceback = ""  # os._exit, or the program wrote into the report
            elif kind == "memory":
                status = Status.MEMORY
        return Result(
            status=status,
            stdout=stdout.text(),
            stderr=stderr.text(),
            traceback=traceback,
            error_class=error_class,
            exit_code=exit_code,
            wall_s=message["wall_s"],
            cpu_s=cpu_s,
            tier=tier,
            stdout_bytes=stdout.length,
            stderr_bytes=stderr.length,
            peak_memory_mb=message.get("peak_mb", 0.0),
        )

    def _classify(
        self, exit_code: int, cpu_s: float, out_of_memory: bool
    ) -> tuple[Status, str, str]:
        """Status, error class and, for a limit or a signal, what it was."""
        limits, killed = self.limits, exit_code == -signal.SIGKILL
        if any(stream.truncated for stream in self.streams[:2]):
            text = f"the program wrote more than {limits.output_bytes} bytes"
            return Status.OUTPUT, "OutputLimitExceeded", text
        if killed and self.stopped is Status.TIMEOUT:
            text = f"the program ran longer than {limits.wall_s:g} s"
            return Status.TIMEOUT, "TimeoutError", text
        # The kernel holds the limit by ticks, which on a busy machine run ahead of what it reports.
        if killed and cpu_s >= limits.cpu_s * (0.95 if out_of_memory else 0.5):
            text = f"the program used more than {limits.cpu_s:g} s of CPU time"
            return Status.TIMEOUT, "TimeoutError", text
        if killed and out_of_memory:
            text = f"the program's processes and files took more than {limits.memory_mb} MiB"
            return Status.MEMORY, "MemoryError", text
        if exit_code < 0:
            return Status.SIGNAL, signal_name(-exit_code), "the program was killed by this signal"
        return (Status.ERROR if exit_code else Status.OK), "", ""


@contextmanager
def sealed_file(name: str, data: bytes) -> Iterator[BinaryIO]:
    """An in-memory file that nobody can change any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb") as file:
        file.write(data)
        file.seek(0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        yield file


def explained(result: Result, refused: str) -> Result:
    """The result of a cell that failed in a way that only a session knows."""
    why = refused
    unexplained = result.status is Status.ERROR and not result.error_class
    if not why and (result.ok or unexplained):
        why = "SessionExit: the cell ended the interpreter; the session is as it was before"
    if not why:
        return result
    name = why.partition(":")[0]
    if not name.isidentifier():  # the cell has spoken for its session
        name, why = "SessionExit", "SessionExit: the cell cut itself off from its session"
    status = Status.MEMORY if name == "MemoryError" else Status.ERROR
    return replace(result, status=status, error_class=name, traceback=f"{why}\n")
