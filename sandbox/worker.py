"""One worker as the host sees it: a jail process, its socket, and one execution at a time."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from .cgroup import Cgroup, make_cgroup
from .errors import SandboxError, WorkerFault
from .execution import Watch, open_streams, receive, send_fds, send_program
from .jail import Jail, environment
from .jailed.child import MAX_FDS
from .jailed.files import KEPT_BYTES, remove_tree
from .layers import Layers
from .result import LARGEST, Limits, Result
from .spawner import Spawner, Stop

START_S = 60.0  # preloading from a cold disk takes long
KILL_S = 30.0  # from the order to kill to the child's end
SETTLE_S = 1.0  # in which the memory of a program is gone after its end
TMPFS_MB = 128  # the files of a program, in /tmp and /dev/shm
OWN_PROCESSES = 16  # of the jail itself
SESSIONS = 32  # at most, in one worker
SESSION_PROCESSES = 64  # room for the states of a session, and for what its cells start


Job = Callable[["Worker"], Result]
Action = Callable[[], None]


class Worker:
    """A running jail. Not thread-safe: its owner lends it to one caller at a time.

    Starting raises WorkerFault when the jail does not come up, SandboxError when a module to be
    preloaded cannot be imported in it.
    """

    def __init__(self, jail: Jail, preload: Sequence[str], spawner: Spawner, stop: Stop):
        self.jail = jail
        self.stopped = False
        self.runs = 0
        self.sessions = 0  # that live in it
        self.retired = False  # it serves its sessions, and nobody else
        self._most_sessions = 0  # at any one time: their processes take a moment to be gone
        self._bounds: tuple[int, int] | None = None  # of its cgroup
        self._settled = True
        self.alive = True
        self.process: subprocess.Popen[bytes] | None = None
        self._busy = threading.Lock()
        self._held = ExitStack()  # what close() gives back
        try:
            stop.by(self.stop)
            self._launch(preload, spawner)
            self._await_ready(preload)
        except OSError as error:
            self.close()
            raise WorkerFault(f"cannot start the jail: {error}") from error
        except BaseException:
            self.close()
            raise

    def _launch(self, preload: Sequence[str], spawner: Spawner) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard < MAX_FDS:
            raise SandboxError(
                f"this process may have {hard} open files at most, and a worker of the sandbox "
                f"needs {MAX_FDS}: raise the hard limit (ulimit -Hn, LimitNOFILE= of a systemd "
                "unit, docker run --ulimit nofile=4096)"
            )
        scratch = None
        if self.jail.bwrap is None:
            scratch = tempfile.mkdtemp(prefix="sandbox-")
            self._held.callback(remove_tree, scratch)
        self._complaints = os.memfd_create("sandbox-stderr")
        self._held.callback(os.close, self._complaints)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._held.enter_context(self.socket)
        # Above 2: a host that has closed its standard streams gets their numbers for others.
        copy = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
        with theirs, socket.socket(fileno=copy) as passed:
            self.cgroup, self.no_cgroup = make_cgroup()
            bounded = self.cgroup is not None
            command = self.jail.command(passed.fileno(), preload, scratch, bounded)
            if self.cgroup:
                self._held.callback(self.cgroup.remove)
                command = self.cgroup.enter(command)

            def start() -> None:  # in the thread that calls stop()
                if self.stopped:
                    raise WorkerFault("stopped")
                self.process = start_process(command, passed.fileno(), self._complaints)

            spawner.call(start)

    def _await_ready(self, preload: Sequence[str]) -> None:
        message = self._receive(START_S)
        if message["event"] == "ready":
            self.layers = Layers(message["landlock"], message["no_seccomp"], self.no_cgroup)
            self._base_mb = message["base_mb"]
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
        self._settled = False
        try:
            with self._busy, open_streams(limits) as streams:
                self._bound(limits)
                kills = self.oom_kills()
                request = {"op": "run", "id": self.runs, "wall_s": limits.wall_s}
                request |= self._bounds_of_one(limits)
                send_program(self.socket, request, streams, code, stdin)
                watch = Watch(
                    self.socket,
                    self._receive,
                    {"op": "kill", "id": self.runs},
                    streams,
                    limits,
                    kill_s=KILL_S if self.jail.reusable else 1.0,  # a stopped zygote never answers
                    says_when_started=not self.jail.private,
                )
                message = self._end_of(watch, kills)
                return watch.result(message, self.oom_kills() > kills, self.jail.tier)
        except (OSError, ValueError, KeyError) as error:
            self.close()
            raise WorkerFault(f"lost the worker: {error}") from error
        except BaseException:
            self.close()  # the child may still run
            raise

    def _bounds_of_one(self, limits: Limits) -> dict[str, Any]:
        """The limits that the kernel holds for each process, as a request carries them.

        It counts the processes of all that runs in here together, which is the same user.
        """
        processes = limits.processes + SESSION_PROCESSES * self._most_sessions
        if self._most_sessions and self.cgroup is not None and self.cgroup.pids is not None:
            processes = LARGEST[
                "processes"
            ]  # the program and the sessions have groups of their own
        return {"cpu_s": limits.cpu_s, "memory_mb": limits.memory_mb, "processes": processes}

    def _bound(self, limits: Limits) -> None:
        """Set what all processes of a program may use together."""
        if self.cgroup is None:
            return
        memory_mb = self._base_mb + limits.memory_mb + TMPFS_MB
        bound = (memory_mb, limits.processes + OWN_PROCESSES)
        if bound != self._bounds:
            self.cgroup.allow(*bound)
            self._bounds = bound

    def _end_of(self, watch: Watch, kills: int) -> dict[str, Any]:
        """The word of a program's end. `kills`: what oom_kills() said before it."""
        began = time.monotonic()
        try:
            return watch.until_ended()
        except (WorkerFault, OSError):
            # Where it is not private, a program can kill or stop the zygote. Everywhere the kernel
            # may choose the zygote when the program's files take too much memory.
            exposed = watch.started and not self.jail.private
            if not (self.alive and (exposed or self.oom_kills() > kills)):
                raise
            self._kill_jail()  # that is the program's own ending
            return {"status": int(signal.SIGKILL), "wall_s": time.monotonic() - began}

    def open_session(self, end: socket.socket, limits: Limits) -> None:
        """Fork the keeper of a session, which will speak at the other end of the socket `end`."""
        self.runs += 1
        self.sessions += 1
        self._most_sessions = max(self._most_sessions, self.sessions)
        request = {
            "op": "session",
            "id": self.runs,
            **self._bounds_of_one(limits),
            "own_processes": limits.processes,
        }
        try:
            with self._busy:
                send_fds(self.socket, json.dumps(request).encode(), [end.fileno()])
        except OSError as error:
            self.close()
            raise WorkerFault(f"lost the worker: {error}") from error

    def bound_session(self, cgroup: Cgroup, limits: Limits) -> None:
        """Set what all processes of a session may use together, its kept files included."""
        memory_mb = self._base_mb + limits.memory_mb + TMPFS_MB + (KEPT_BYTES >> 20)
        cgroup.allow(memory_mb, limits.processes + SESSION_PROCESSES)

    @property
    def full(self) -> bool:
        """Whether it takes no more sessions."""
        return self.sessions >= SESSIONS

    def oom_kills(self) -> int:
        """How many processes in here were killed because they used too much memory together."""
        return 0 if self.cgroup is None else self.cgroup.oom_kills()

    def settled(self) -> bool:
        """Wait until the memory of the last program is gone, some of which the kernel frees only
        later. False when it does not go, or the jail is gone."""
        until = time.monotonic() + SETTLE_S
        with self._busy:
            while self.alive and not self._settled:  # a session's cell has a group of its own
                if not (self.cgroup and self.cgroup.holds_more_than(self._base_mb)):
                    self._settled = True
                elif time.monotonic() > until:
                    return False
                else:
                    time.sleep(0.001)
        if self.process and self.process.poll() is not None:
            self.close()
        return self.alive

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        message = receive(self.socket, timeout_s)
        if message is None:
            raise WorkerFault(f"the worker died{self._last_words()}")
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

    def stop(self) -> None:
        """End what it does; its borrower gets WorkerFault, and closes it."""
        self.stopped = True
        self._kill_jail()

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
        env=environment(),
        start_new_session=True,
    )
