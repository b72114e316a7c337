"""The processes of a session: what its keeper asks of them, and of the kernel about them."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass

from . import kernel

WORD_BYTES = 1_024  # of what a cell says
ANSWER_S = 2.0  # from the end of a cell to its process waiting for the next
EXIT_S = 0.5  # from a process that closes its descriptors to its end
THREAD_GRACE_MS = 50
EXITS = "it is about to end"  # the kernel closes its descriptors first
UNFIT = "SessionLost: the state that earlier cells made takes no further cell; go back to another"


@dataclass(slots=True)
class State:
    """A process that holds a state and waits at the other end of `link`."""

    pid: int
    link: socket.socket


class Lost(Exception):
    """A state's process is dead, or its files cannot be put back."""


class Unfit(Exception):
    """A state's process lives and makes no fork for a cell; the text says why."""


def dies(pid: int) -> bool:
    """Whether a process is dead, or will be in a moment."""
    pidfd = os.pidfd_open(pid)
    dead = kernel.readable(pidfd, EXIT_S)
    os.close(pidfd)
    return dead


def live_threads(pid: int) -> int:
    """Threads of a process besides its first; one that was joined may take a moment to go."""
    for _ in range(THREAD_GRACE_MS):
        count = len(os.listdir(f"/proc/{pid}/task")) - 1
        if not count:
            break
        time.sleep(0.001)
    return count


def others(known: set[int]) -> set[int]:
    """The processes of this namespace, besides those that are known, that are not dead yet."""
    found = set()
    for pid in set(map(int, filter(str.isdigit, os.listdir("/proc")))) - known:
        try:
            # The program names its processes, and not in UTF-8 if it likes.
            with open(f"/proc/{pid}/stat", errors="replace") as file:
                alive = file.read().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            continue  # it ended meanwhile
        if alive:
            found.add(pid)
    return found


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def hello(base: State, link: socket.socket, patience_s: float) -> tuple[bytes, int]:
    """The first word over the link to a new cell, and who says it, in the kernel's own word."""
    if kernel.readable(link, patience_s):
        word, pid = kernel.word_and_sender(link, WORD_BYTES)
        if word:
            return word, pid
    if dies(base.pid):
        raise Lost
    raise Unfit(UNFIT)


def end_of(link: socket.socket, pid: int) -> str:
    """Why a cell whose process has spoken cannot be committed; "" when it waits for the next."""
    word = link.recv(WORD_BYTES)
    if word[:1] == b"-":
        return word[1:].decode(errors="replace")
    if not word:
        if dies(pid):
            return EXITS
        return "SessionExit: the cell closed the descriptors of its session"
    if threads := live_threads(pid):
        return f"LiveThreadsError: the cell left {threads} threads running; join them in it"
    token = os.urandom(8)  # else the answer could be there before the question
    try:
        link.send(b"?" + token)
        answered = kernel.readable(link, ANSWER_S) and link.recv(16) == b"!" + token
    except OSError:
        answered = False
    if not answered:
        return "SessionExit: the cell did not come back when it had ended"
    return ""
