"""KeeperLink: the host's end of a session that lives in a worker; see jailed/keeper.py."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import suppress
from typing import Any

from .cgroup import Cgroup, make_cgroup
from .errors import WorkerFault
from .execution import SET_UP_S, Watch, explained, open_streams, receive, send_program
from .jailed import kernel
from .result import Limits, Result
from .worker import Worker

KILL_S = 30.0  # from the order to kill to the cell's end
# What is said for a keeper that is dead, as when a cell has used up the memory of its session.
DEAD = {
    "event": "ended",
    "committed": False,
    "began": False,
    "lost": True,
    "refused": "SessionLost: the cell broke its session, which is as it was before",
    "status": int(signal.SIGKILL),
    "timed_out": False,
    "wall_s": 0.0,
}


class KeeperLink:
    """Gives cells to a keeper. `open` comes first; `close` last, even when `open` has failed."""

    def __init__(self, worker: Worker, limits: Limits):
        self.worker = worker
        self._limits = limits
        self._cgroup: Cgroup | None = None
        self.socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def open(self) -> None:
        """Have the keeper forked, and put into a control group of its own: a session bursts alone.

        Raises WorkerFault.
        """
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            with self._theirs:
                self.worker.open_session(self._theirs, self._limits)
            keeper = self._keeper_pid()
            if self.worker.cgroup is not None:
                self._cgroup, why = make_cgroup()
                if self._cgroup is None:
                    raise WorkerFault(f"no control group for the session: {why}")
                self._cgroup.add(keeper)
                self.worker.bound_session(self._cgroup, self._limits)
        except OSError as error:
            raise WorkerFault(f"cannot open the session: {error}") from error

    def _keeper_pid(self) -> int:
        """Wait for the keeper to speak; its process id, in the kernel's own word."""
        self.socket.settimeout(SET_UP_S)
        word, pid = kernel.word_and_sender(self.socket, 1024)
        self.socket.settimeout(None)
        if not word or json.loads(word)["event"] != "opened":
            raise WorkerFault(
                f"the keeper of the session did not say that it is ready, but {word!r}"
            )
        return pid

    def run(
        self, code: str, name: str, base: int, state: int, limits: Limits
    ) -> tuple[Result, dict[str, Any]]:
        """Run a cell on the state `base`, to make `state`; its result, and the keeper's last word.

        Raises OSError or WorkerFault when the worker breaks.
        """
        request = {"op": "cell", "base": base, "state": state, "name": name}
        kill = {"op": "kill", "state": state}
        kills = self._oom_kills()
        with open_streams(limits) as streams:
            send_program(self.socket, request | {"wall_s": limits.wall_s}, streams, code)
            watch = Watch(
                self.socket, self._receive, kill, streams, limits, KILL_S, says_when_started=False
            )
            message = watch.until_ended()
            out_of_memory = self._oom_kills() > kills
            if message is DEAD and out_of_memory:
                message = DEAD | {"began": True, "refused": ""}  # its memory says enough
            result = watch.result(message, out_of_memory, self.worker.jail.tier)
        return result if message["committed"] else explained(result, message["refused"]), message

    def forget(self, state: int) -> None:
        """Let go of a state's process; raises OSError."""
        self.socket.send(json.dumps({"op": "forget", "states": [state]}).encode())

    def hang_up(self) -> None:
        """End the keeper, with all its processes, whatever it does."""
        with suppress(OSError):  # it has ended
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hang_up()
        self.let_go()
        if self._cgroup is not None:
            self._cgroup.remove()

    def let_go(self) -> None:
        """Close the descriptors, in a forked copy of the host: the keeper goes on."""
        self.socket.close()
        self._theirs.close()

    def _oom_kills(self) -> int:
        return 0 if self._cgroup is None else self._cgroup.oom_kills()

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        return receive(self.socket, timeout_s) or DEAD
