"""The keeper of a session: pid 1 of the session's namespaces, trusted, runs no program itself.

It knows every process that holds a state, hands cells to them, holds the limit of time, learns from
the kernel how each cell ended, kills what a cell leaves behind, and takes back its files when it
failed. What programs do to it is their failure: then it says that the session is lost, and why. It
speaks with the host over a socket of its own:

    host -> keeper  {"op": "cell", "base", "state", "name", "wall_s", "source_fd"} and the source,
                    with the descriptors of stdout, stderr and the report; {"op": "kill", "state"};
                    {"op": "forget", "states"}
    keeper -> host  {"event": "opened"}                                     once
                    {"event": "ended", "state", "committed", "began", "lost", "refused",
                    "status", "timed_out", "wall_s", "cpu_s", "peak_mb"}              per cell
                    {"event": "fault", "why"}          when what failed is ours, and it is gone
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from . import landlock, seccomp
from .cell import NO_FORK, hold_state, reap
from .child import (
    MAX_FDS,
    MESSAGE_BYTES,
    PRIVATE_DIRS,
    REPORT_FD,
    WORK_DIR,
    Config,
    limit_files,
    limit_resources,
)
from .files import KEPT_BYTES, Files, kept_bytes
from .processes import EXITS, UNFIT, Lost, State, Unfit, end_of, hello, kill, others

HELLO_S = 2.0  # from the request to the cell's first instruction, and wall_s when that is longer
FORK_S = 2.0  # to wait while no process can be forked
LOOK_S = 0.05  # between two looks at how many processes a cell has
SWEEP_S = 5.0  # in which what is killed and stopped is gone, on a busy machine too
CPU_CLOCK = 2  # of a process, as clock_getcpuclockid(3) makes it of the pid


def keep_session(config: Config, fd: int, request: dict[str, Any]) -> NoReturn:
    """Be the keeper of a session whose host is at the other end of the socket `fd`."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())  # cells may send them
    host = socket.socket(fileno=os.dup2(fd, REPORT_FD + 1, inheritable=False))
    os.closerange(REPORT_FD + 2, MAX_FDS)
    try:
        Keeper(host, config, request).serve()
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"
        host.send(json.dumps({"event": "fault", "why": why}).encode())
    finally:
        os._exit(0)


TOO_MANY = "ProcessLimitError: the cell had more processes than it may"
BROKEN = "SessionLost: the cell broke its session, which is as it was before"
TOO_MUCH = (
    "SessionFilesError: the files of this session's checkpoints and cells came to more than "
    f"{KEPT_BYTES >> 20} MiB; release checkpoints, or write less"
)


@dataclass(slots=True)
class Outcome:
    """How a cell ended. `status` is the kernel's, 0 for a process that goes on."""

    committed: bool = False
    began: bool = True  # if not, the cell is not at fault
    lost: bool = False  # the session has to be made again
    status: int = 0
    timed_out: bool = False
    refused: str = ""  # why a cell that was not at fault in Python was not committed, for people
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0


class Keeper:
    """Serves one request after another until the host closes the socket."""

    def __init__(self, host: socket.socket, config: Config, request: dict[str, Any]):
        self.host = host
        self.config = config
        self.limits = request
        self.states: dict[int, State] = {}
        there = [entry.path for root in PRIVATE_DIRS for entry in os.scandir(root)]
        self.files = {0: Files(PRIVATE_DIRS, [path for path in there if path != WORK_DIR])}
        self.dying: set[int] = set()  # processes of states that were given up
        self.current = 0  # the state whose files are there

    def _first_state(self) -> State:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            limit_resources(self.config, self.limits)
            limit_files()
            if self.config["seccomp"]:
                scoped = self.config["landlock"] >= landlock.SCOPED_FROM
                for program in seccomp.session_filters(scoped):
                    seccomp.install(program)
            hold_state(theirs)
        theirs.close()
        return State(pid, ours)

    def send(self, **message: Any) -> None:
        self.host.send(json.dumps(message).encode())

    def serve(self) -> None:
        self.send(event="opened")
        while True:
            data, fds, _, _ = socket.recv_fds(self.host, MESSAGE_BYTES, 8)
            if not data:
                return
            request = json.loads(data.partition(b"\n")[0])
            if not self.states:  # only now, for the host has first put us into a cgroup
                self.states[0] = self._first_state()
            if request["op"] == "cell":
                outcome = asdict(self.run(request, data, fds))
                self.send(event="ended", state=request["state"], **outcome)
            elif request["op"] == "forget":
                for number in request["states"]:
                    self.forget(number)

    def forget(self, number: int) -> None:
        state = self.states.pop(number)
        self.files.pop(number)
        state.link.close()
        kill(state.pid)
        self.dying.add(state.pid)

    def run(self, request: dict[str, Any], data: bytes, fds: list[int]) -> Outcome:
        """Run a cell on the state `base`; when it ends well its process is the state `state`.

        Raises OSError when what fails is ours. From the cell's first instruction on it is its own.
        """
        try:
            self._go_to(request["base"])
            pid, link = self._begin(request, data, fds)
        except (Lost, ProcessLookupError):
            return Outcome(began=False, lost=True, refused=UNFIT)
        except Unfit as why:
            with suppress(Lost):
                self._sweep()
            return Outcome(began=False, refused=str(why))
        finally:
            for fd in fds:
                os.close(fd)
        try:
            outcome = self._watch(request, pid, link)
            if outcome.committed:
                self.states[request["state"]] = State(pid, link)
            self._sweep()
            if outcome.committed:
                self._keep_files(outcome, request)
            if not outcome.committed:
                link.close()
                self.files[request["base"]].restore()
        except (Lost, OSError):
            outcome = Outcome(lost=True, refused=BROKEN)
        return outcome

    def _go_to(self, state: int) -> None:
        """Let the files be those of a state."""
        if state != self.current:
            try:
                self.files[state].restore()
            except OSError as error:
                raise Lost from error
            self.current = state

    def _begin(
        self, request: dict[str, Any], data: bytes, fds: list[int]
    ) -> tuple[int, socket.socket]:
        """Have a state forked for a cell; the process id of the fork and the link to it."""
        base, began = self.states[request["base"]], time.monotonic()
        os.kill(base.pid, signal.SIGCONT)
        while True:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with theirs:
                rights = array.array("i", [*fds, theirs.fileno()])
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                try:
                    base.link.sendmsg([data], ancillary, socket.MSG_DONTWAIT)
                except BlockingIOError as error:
                    raise Unfit(UNFIT) from error  # it does not read
                except ConnectionError as error:
                    raise Lost from error
            word, pid = hello(base, ours, max(HELLO_S, request["wall_s"]))
            if word == b"+":
                return pid, ours
            ours.close()
            if word != NO_FORK:
                raise Unfit(word[1:].decode(errors="replace"))
            # Another session of the worker may have taken what there is, until it is stopped.
            if time.monotonic() > began + FORK_S:
                if self._could_fork():
                    raise Unfit(UNFIT)  # it does not say the truth
                raise BlockingIOError(errno.EAGAIN, "no process can be forked for a cell")
            time.sleep(0.01)

    def _could_fork(self) -> bool:
        """Whether a process under the limits of a cell can be forked."""
        pid = os.fork()
        if not pid:
            limit_resources(self.config, self.limits)
            try:
                os.fork()
            except OSError:
                os._exit(1)
            os._exit(0)
        return os.waitpid(pid, 0)[1] == 0

    def _watch(self, request: dict[str, Any], pid: int, link: socket.socket) -> Outcome:
        """Wait for the end of a cell, which its time or an order may bring about."""
        outcome = Outcome()
        began = time.monotonic()
        pidfd = os.pidfd_open(pid)
        poll = select.poll()
        for fd in (pidfd, link.fileno(), self.host.fileno()):
            poll.register(fd, select.POLLIN)
        killed, left_s = False, request["wall_s"]
        while True:
            wait_s = min(LOOK_S, max(0.0, left_s))
            ready = [fd for fd, _ in poll.poll(None if killed else wait_s * 1e3 + 1)]
            if pidfd in ready:
                break
            if link.fileno() in ready:
                outcome.refused = end_of(link, pid)
                outcome.committed = not outcome.refused
                if outcome.committed:
                    break
                killed = True
                if outcome.refused is EXITS:
                    outcome.refused = ""
            elif self.host.fileno() in ready:
                killed = self._order(request)
            elif (left_s := began + request["wall_s"] - time.monotonic()) <= 0:
                killed = outcome.timed_out = True
            elif len(others(self._known())) > self.limits["own_processes"]:
                killed, outcome.refused = True, TOO_MANY
            if killed:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                for fd in (link.fileno(), self.host.fileno()):
                    poll.unregister(fd)
        os.close(pidfd)
        outcome.wall_s = time.monotonic() - began
        self._account(outcome, pid)
        return outcome

    def _order(self, request: dict[str, Any]) -> bool:
        """Whether the host wants the cell killed. It may also be gone."""
        data = self.host.recv(MESSAGE_BYTES)
        if not data:
            os._exit(0)
        order = json.loads(data)
        return bool(order["op"] == "kill" and order["state"] == request["state"])

    def _account(self, outcome: Outcome, pid: int) -> None:
        if not outcome.committed:
            try:
                _, outcome.status, usage = os.wait4(pid, 0)
            except ChildProcessError as error:
                raise Lost from error  # no fork of ours: the program made another one
            outcome.cpu_s = usage.ru_utime + usage.ru_stime
            outcome.peak_mb = usage.ru_maxrss / 1024
            return
        outcome.cpu_s = time.clock_gettime((~pid << 3) | CPU_CLOCK)
        with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
            peak = status.read().partition(b"\nVmHWM:")[2].split()
        outcome.peak_mb = int(peak[0]) / 1024 if peak else 0.0

    def _sweep(self) -> None:
        """Stop all processes, and kill what is no state: who is stopped cannot fork meanwhile."""
        until = time.monotonic() + SWEEP_S
        while True:
            with suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP)
            reap()
            strays = self._strays()
            if not strays:
                return
            if time.monotonic() > until:  # they wake one another up faster than they die
                os.kill(-1, signal.SIGKILL)
                reap(wait=True)
                raise Lost
            for pid in strays:
                kill(pid)
            time.sleep(0.001)

    def _keep_files(self, outcome: Outcome, request: dict[str, Any]) -> None:
        """Keep the files of a state that is to be committed, if there is room for them."""
        later = self.files[request["base"]].after()
        if kept_bytes([*self.files.values(), later]) > KEPT_BYTES:
            outcome.committed, outcome.refused = False, TOO_MUCH
            pid = self.states.pop(request["state"]).pid
            kill(pid)
            _, outcome.status = os.waitpid(pid, 0)
            return
        self.files[request["state"]] = later
        self.current = request["state"]

    def _strays(self) -> set[int]:
        found = others(self._known())
        self.dying &= found
        return found - self.dying

    def _known(self) -> set[int]:
        return {os.getpid(), *(state.pid for state in self.states.values())}
