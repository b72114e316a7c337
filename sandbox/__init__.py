"""Runs untrusted Python programs, a few milliseconds each, and says truthfully how they ended.

    with Sandbox(workers=2) as sandbox:
        result = sandbox.run("print(6 * 7)")
        assert result.ok and result.stdout == "42\\n"

A worker is a bubblewrap jail with one warm interpreter in it. Every program runs in a fresh fork of
that interpreter, as pid 1 of its own pid namespace. A session, in tier "full", keeps its variables
from one cell to the next, and a cell that fails leaves no trace:

    with sandbox.session() as session:
        session.run("x = 1")
        session.run("x = 2; 1 / 0")
        assert session.run("print(x)").stdout == "1\\n"

Covered, in tier "full": a program has no network. Of the host's files it sees only the interpreter,
its packages and the system's libraries, read-only, and none of the host's environment variables.
Its /tmp, /dev/shm, /proc and working directory (below /tmp) are its own, at most 64 MiB each, and
gone afterwards. Wall time, CPU time, address space, output, processes and open files are bounded. A
program has no capabilities and cannot regain any; none of its processes survives; one that fails,
hangs, crashes or lies does not disturb the next. Whether a run is ok comes from the kernel and from
the parent's own clock and counters: what a program prints cannot change it. How a program failed in
Python (error or memory, class, traceback) is what the program says. `os._exit(0)` is a normal end,
so grade answers outside of the program.

In every tier, where the kernel supports them: a filter (seccomp) that denies sockets (except UNIX
sockets within a jail), tracing, mounts, namespaces, keys, bpf, io_uring and everything else that
reaches deep into the kernel; and, except in tier "rlimits", Landlock rules for files, TCP and
signals as a second wall.

Every program starts from the same signals, umask, limits, environment and descriptors, whatever its
host was started with; niceness, scheduling class and CPU affinity are the host's.

In every tier, where control groups can be created (as root, or with a delegated group): a bound on
the memory of all of a program's processes and files together, Limits.memory_mb plus 128 MiB for
files.

Not covered: a bug in the system calls that are allowed can be exploited. CPU time is bounded for
each process, not for their sum (up to Limits.processes times as much). So is memory without control
groups, and tmpfs files come on top; without seccomp as well, so do System V memory and the files of
memfd_create, which no limit counts. Programs that run at the same time can communicate by locks on
the read-only files that they share, and by how long things take.

Of sessions: in a worker that holds them, `processes` is larger: by 16 where control groups count
them, else by 64 for each session, which all programs of the worker share; the processes of a cell
are counted twenty times a second. A cell may harm its own session (by killing what keeps its
earlier states, say), which is then restored by running its cells again; where they do not print the
same, all further ones fail. A session takes back what a failed cell did to variables, modules, the
working directory, files below /tmp and /dev/shm, open files, and open descriptors. It does not take
back time, locks (flock), or what the cell wrote into memory that processes share (mmap,
numpy.memmap, multiprocessing.Value). It does not keep what is in pipes, sockets, timers, event
counters and epoll sets, nor extended attributes, inode numbers, seals, times of directories and the
bond between hard links, nor more than 256 MiB of files over all checkpoints and 64 MiB of open
files that have no name. Process ids differ from cell to cell. Where Landlock's ABI is below 6,
cells have no UNIX sockets (forkserver, managers).

System information (CPU model, load, kernel version) is visible, and so is what the interpreter's
packages contain. Being pid 1, a program is not killed by signals that it sends to itself. On
kernels before 5.14 `processes` is not enforced for a plain user.

Of the weaker tiers: in tier "no-proc" programs see an empty /proc, and under root `processes` may
have no effect; in tier "jail" they share the namespaces of their worker, which serves a single one,
and a program that kills the worker (possible where Landlock's ABI is below 6) ends as one killed by
SIGKILL.

Without seccomp, and where /proc/sys is read-only (some containers) or in tier "jail" with a
bubblewrap before 0.8, programs can make user namespaces, in which they have the capabilities to
mount over what they see; a trial program finds out, and Sandbox.tried and `python -m sandbox
doctor` say so. In tier "landlock", for machines without namespaces, programs cannot start processes
or other programs, can tell which other files exist but not read them, and may fill the disk below
the temporary directory with files of 16 MiB each. Tier "rlimits" isolates nothing.
"""

from __future__ import annotations

from .errors import IsolationUnavailable, QueueFull, SandboxError
from .health import Health
from .jail import TIERS
from .pool import LIGHT_PRELOAD, Sandbox
from .result import Limits, Result, Status
from .session import Cell, Session

__all__ = [
    "LIGHT_PRELOAD",
    "TIERS",
    "Cell",
    "Health",
    "IsolationUnavailable",
    "Limits",
    "QueueFull",
    "Result",
    "Sandbox",
    "SandboxError",
    "Session",
    "Status",
]
