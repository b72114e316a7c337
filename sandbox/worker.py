"""One worker as the host sees it: a jail process, its socket, and one execution at a time."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, BinaryIO

from .errors import SandboxError, WorkerFault
from .jail import ENVIRONMENT, Jail
from .layers import Layers
from .result import Limits, Result, Status, shown, signal_name
from .spawner import Spawner

START_S = 60.0  # preloading from a cold disk takes long
SET_UP_S = 20.0  # from the request to the program's first instruction
QUIET_S = 0.005  # of a program's life in which nobody looks at its output
KILL_S = 30.0  # from the order to kill to the child's end
REPORT_BYTES = 65_536
CHUNK, CHUNKS = 65_536, 16  # bytes of one read, and reads before something else has its turn
INLINE_BYTES = 32_768  # a longer source travels as a file


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


class Ending:
    """What the parent learns about an execution: why it was stopped, and what the kernel says."""

    def __init__(self) -> None:
        self.started = False
        self.stopped: Status | None = None
        self.wait_status: int | None = None
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self.peak_mb = 0.0


class Worker:
    """A running jail. Not thread-safe: its owner lends it to one caller at a time.

    Starting raises WorkerFault when the jail does not come up, SandboxError when a module to be
    preloaded cannot be imported in it.
    """

    def __init__(self, jail: Jail, preload: Sequence[str], spawner: Spawner):
        self.jail = jail
        self.runs = 0
        self.alive = True
        self.process: subprocess.Popen[bytes] | None = None
        self._busy = threading.Lock()
        self._held = ExitStack()  # what close() gives back
        try:
            self._launch(preload, spawner)
            self._await_ready(preload)
        except OSError as error:
            self.close()
            raise WorkerFault(f"cannot start the jail: {error}") from error
        except BaseException:
            self.close()
            raise

    def _launch(self, preload: Sequence[str], spawner: Spawner) -> None:
        scratch = None
        if self.jail.bwrap is None:
            scratch = tempfile.mkdtemp(prefix="sandbox-")
            self._held.callback(shutil.rmtree, scratch, ignore_errors=True)
        self._complaints = os.memfd_create("sandbox-stderr")
        self._held.callback(os.close, self._complaints)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._held.enter_context(self.socket)
        with theirs:
            command = self.jail.command(theirs.fileno(), preload, scratch)

            def start() -> None:  # sets the attribute itself: an interrupted caller still kills it
                self.process = start_process(command, theirs.fileno(), self._complaints)

            spawner.call(start)

    def _await_ready(self, preload: Sequence[str]) -> None:
        message = self._receive(START_S)
        if message["event"] == "ready":
            self.layers = Layers(message["landlock"], message["no_seccomp"])
            return
        if message["kind"] == "preload":
            raise SandboxError(
                f"cannot preload {', '.join(preload)} in the sandbox: {message['why']}. "
                "Install the module in this interpreter's environment or leave it out of preload."
            )
        raise WorkerFault(message["why"])

    def execute(self, code: str, stdin: str, limits: Limits) -> Result:
        """Run one program to its end or its limits. Raises WorkerFault when the worker broke."""
        self.runs += 1
        sizes = (limits.output_bytes, limits.output_bytes, REPORT_BYTES)
        try:
            with self._busy, ExitStack() as stack:
                streams = tuple(stack.enter_context(closing(Stream(size))) for size in sizes)
                self._request(code, stdin, limits, streams)
                ending = self._supervise(limits, streams)
                return judge(ending, limits, streams, self.jail.tier)
        except (OSError, ValueError, KeyError) as error:
            self.close()
            raise WorkerFault(f"lost the worker: {error}") from error
        except BaseException:
            self.close()  # the child may still run
            raise

    def _request(self, code: str, stdin: str, limits: Limits, streams: tuple[Stream, ...]) -> None:
        request = {
            "op": "run",
            "id": self.runs,
            "wall_s": limits.wall_s,
            "cpu_s": limits.cpu_s,
            "memory_mb": limits.memory_mb,
            "processes": limits.processes,
        }
        fds = [stream.write_fd for stream in streams]
        source = code.encode("utf-8", "surrogatepass")
        request["source_fd"] = len(source) > INLINE_BYTES
        request["stdin_fd"] = bool(stdin)
        with ExitStack() as stack:
            if request["source_fd"]:
                fds.append(stack.enter_context(sealed_file("source", source)).fileno())
                source = b""
            if request["stdin_fd"]:
                text = stdin.encode("utf-8", "surrogatepass")
                fds.append(stack.enter_context(sealed_file("stdin", text)).fileno())
            message = json.dumps(request).encode() + b"\n" + source
            socket.send_fds(self.socket, [message], fds)

    def _supervise(self, limits: Limits, streams: tuple[Stream, ...]) -> Ending:
        """What became of the program, once it is dead."""
        ending = Ending()
        started = time.monotonic()
        try:
            self._watch(ending, limits, streams)
        except (WorkerFault, OSError):
            if self.jail.private or not (self.alive and ending.started):
                raise
            # In such a jail a program can kill or stop the zygote: that is its own ending.
            self._kill_jail()
            ending.wait_status = int(signal.SIGKILL)
            ending.wall_s = time.monotonic() - started
        for stream in streams:
            stream.drain()
        return ending

    def _watch(self, ending: Ending, limits: Limits, streams: tuple[Stream, ...]) -> None:
        """Drain the outputs and hold the limits until the zygote says that the child is dead.

        The zygote has the punctual clock for the program's time; ours is for a zygote that does
        not answer.
        """
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        now = time.monotonic()
        deadline = now + SET_UP_S + (limits.wall_s if self.jail.private else 0.0)
        kill_s = KILL_S if self.jail.reusable else 1.0  # a stopped zygote never answers
        # Most programs end before they have filled a pipe; to wake for each write costs more.
        look: float | None = now + QUIET_S
        while ending.wait_status is None:
            now = time.monotonic()
            if now >= deadline:
                if ending.stopped or not (ending.started or self.jail.private):
                    raise WorkerFault("no answer from the worker in time")
                self._kill(ending, Status.TIMEOUT)
                deadline = now + kill_s
            if look is not None and now >= look:
                look = None
                for stream in streams:
                    poll.register(stream.read_fd, select.POLLIN)
            wake = deadline if look is None else min(look, deadline)
            ready = [fd for fd, _ in poll.poll(max(0.0, wake - now) * 1e3 + 1)]
            for stream in streams:
                if stream.read_fd in ready and not stream.drain():
                    poll.unregister(stream.read_fd)
            if self.socket.fileno() in ready:
                message = self._receive(0)
                if message["event"] == "started":
                    ending.started = True
                    deadline = time.monotonic() + limits.wall_s
                    continue
                ending.wait_status = message["status"]
                ending.wall_s, ending.cpu_s = message["wall_s"], message["cpu_s"]
                ending.peak_mb = message["peak_mb"]
                if message["timed_out"]:
                    ending.stopped = Status.TIMEOUT
            elif not ending.stopped and (streams[0].truncated or streams[1].truncated):
                self._kill(ending, Status.OUTPUT)
                deadline = time.monotonic() + kill_s

    def _kill(self, ending: Ending, why: Status) -> None:
        ending.stopped = why
        self.socket.send(json.dumps({"op": "kill", "id": self.runs}).encode())

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise WorkerFault(f"no answer from the worker in {timeout_s:g} s")
        data = self.socket.recv(65_536)
        if not data:
            raise WorkerFault(f"the worker died{self._last_words()}")
        message: dict[str, Any] = json.loads(data)
        if message["event"] == "fault":
            raise WorkerFault(message["why"])
        return message

    def _last_words(self) -> str:
        size = os.lseek(self._complaints, 0, os.SEEK_END)
        text = os.pread(self._complaints, 1000, max(0, size - 1000)).decode(errors="replace")
        return f": {text.strip()}" if text.strip() else ""

    def close(self) -> None:
        """Kill the jail with everything in it; a running `execute` raises WorkerFault.

        May be called twice, and from another thread.
        """
        if not self.alive:
            return
        self.alive = False
        self._kill_jail()
        # A thread in execute() polls these descriptors; it ends at once, now that the jail is dead.
        if self._busy.acquire(timeout=KILL_S):
            self._held.close()
            self._busy.release()

    def _kill_jail(self) -> None:
        process = self.process
        if process is None:
            return
        # The process group too: without bubblewrap nobody else kills the zygote's child. And first,
        # while the leader is not waited for: afterwards its number may be another's.
        if process.returncode is None:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def start_process(command: list[str], fd: int, stderr: int) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C in the terminal is for the caller, who then closes us in order.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=(fd,),
        env=ENVIRONMENT,
        start_new_session=True,
    )


@contextmanager
def sealed_file(name: str, data: bytes) -> Iterator[BinaryIO]:
    """An in-memory file that nobody can change any more."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb") as file:
        file.write(data)
        file.seek(0)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield file


def judge(ending: Ending, limits: Limits, streams: tuple[Stream, ...], tier: str) -> Result:
    """The result. Whether it is ok depends on the kernel's exit status and our own stops alone."""
    stdout, stderr, report = streams
    assert ending.wait_status is not None
    exit_code = os.waitstatus_to_exitcode(ending.wait_status)
    status, error_class, traceback = classify(ending, exit_code, limits, streams)
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
        wall_s=ending.wall_s,
        cpu_s=ending.cpu_s,
        tier=tier,
        stdout_bytes=stdout.length,
        stderr_bytes=stderr.length,
        peak_memory_mb=ending.peak_mb,
    )


def classify(
    ending: Ending, exit_code: int, limits: Limits, streams: tuple[Stream, ...]
) -> tuple[Status, str, str]:
    """Status, error class and one line in the form of a traceback's last."""
    status, name, text = Status.OK, "", ""
    if streams[0].truncated or streams[1].truncated:
        status, name = Status.OUTPUT, "OutputLimitExceeded"
        text = f"the program wrote more than {limits.output_bytes} bytes"
    elif exit_code == -signal.SIGKILL and ending.stopped is Status.TIMEOUT:
        status, name = Status.TIMEOUT, "TimeoutError"
        text = f"the program ran longer than {limits.wall_s:g} s"
    elif exit_code == -signal.SIGKILL and ending.cpu_s >= limits.cpu_s * 0.95:
        status, name = Status.TIMEOUT, "TimeoutError"
        text = f"the program used more than {limits.cpu_s:g} s of CPU time"
    elif exit_code < 0:
        status, name = Status.SIGNAL, signal_name(-exit_code)
        text = "the program was killed by this signal"
    elif exit_code:
        status = Status.ERROR
    return status, name, f"{name}: {text}\n" if text else ""
