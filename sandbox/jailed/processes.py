"""What the keeper of a session asks the kernel about the processes of its namespace."""

from __future__ import annotations

import os
import select
import signal
import time

EXIT_MS = 500  # from a process that closes its descriptors to its end
THREAD_GRACE_MS = 50


def dies(pid: int) -> bool:
    """Whether a process is dead, or will be in a moment."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    dead = bool(poll.poll(EXIT_MS))
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
