"""The processes of a session: each holds the state after one cell and waits to be forked.

A cell runs in a fork of the process that holds the state before it. When it ends well the fork
stays and waits in its turn; when it fails the fork is gone, and the state before it was never
touched. The fork is a sibling and not a child (CLONE_PARENT), so that the keeper, which is the
parent of them all, hears from the kernel how it ended.

What runs here has run programs and is not trusted: all that it can do is to end its own session.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import sys
import types

# As in child.py.
from builtins import (  # noqa: UP029
    BaseException,
    MemoryError,
    OSError,
    bool,
    exec,
    isinstance,
    min,
)
from typing import Any, NoReturn

from . import kernel
from .child import (
    MESSAGE_BYTES,
    OPEN_FILES,
    REPORT_FD,
    Source,
    compiled,
    find_source,
    flush_streams,
    run_guarded,
)
from .descriptors import NAMELESS_BYTES, Descriptors, TooMuch

CLONE_PARENT, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x8000, 0x200000, 0x1000000
PR_GET_TID_ADDRESS = 40
CLONE = {"x86_64": 56, "aarch64": 220}
LINK_FD = OPEN_FILES - 1  # each process's end of its link to the keeper, out of the programs' way
SPARE_FDS = 8  # that a cell leaves for what comes with the next: outputs, source, link
NO_FORK = b"~"  # the word for: no process can be forked now
TOO_MUCH = (
    "SessionFilesError: the cell left files open that have no name and hold more than "
    f"{NAMELESS_BYTES >> 20} MiB; close them, or give them names"
)
NO_MEMORY = "MemoryError: the cell left too little memory for its session to go on"
FEWER_PROCESSES = "SessionLimitsError: the cell changed its RLIMIT_NPROC, which later cells need"

libc = ctypes.PyDLL(None, use_errno=True)  # without giving up the interpreter lock
set_mask = libc.sigprocmask  # the module signal makes sets of numbers, which takes longer
Mask = ctypes.c_ubyte * 128
ALL_SIGNALS, SET_MASK = Mask(*b"\xff" * 128), ctypes.c_int(signal.SIG_SETMASK)
# Bound here, because a program may replace what the modules hold.
Socket, receive, send = socket.socket, socket.recv_fds, socket.socket.send
dup2, close, waitpid, getpid = os.dup2, os.close, os.waitpid, os.getpid
getrlimit, setrlimit = resource.getrlimit, resource.setrlimit
RLIMIT_NOFILE, RLIMIT_NPROC = resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC
duplicate, F_DUPFD_CLOEXEC, pause = fcntl.fcntl, fcntl.F_DUPFD_CLOEXEC, signal.pause


def hold_state(link: socket.socket) -> NoReturn:
    """Be the process that holds the state before the first cell."""
    try:
        main = types.ModuleType("__main__")
        main.__dict__.update(__builtins__=builtins)
        sys.modules["__main__"] = main
        sys.argv[:] = [""]
        sys.path.insert(0, os.getcwd())
        dup2(link.fileno(), LINK_FD, inheritable=False)
        link.detach()
        os.closerange(REPORT_FD + 1, LINK_FD)  # the keeper's, and those that the first cell brings
        wait_and_run(main.__dict__)
    finally:
        os._exit(1)


def wait_and_run(variables: dict[str, Any]) -> NoReturn:
    """Fork for every cell that is asked for; the fork goes on waiting when its cell ends well.

    While it waits it takes no signals: those that a cell sends to it must not change what it holds.
    """
    open_then, mask = Descriptors(LINK_FD), Mask()
    while True:
        link = Socket(fileno=LINK_FD)
        data, fds, _, _ = receive(link, MESSAGE_BYTES, 8)
        if not data:
            os._exit(0)
        if data[:1] == b"?":  # the keeper asks whether the cell has come back
            send(link, b"!" + data[1:])
            link.detach()
            continue
        link.detach()
        fds = [clear_of_outputs(fd) for fd in fds]
        reap()  # what the keeper killed
        seeded = random_state()
        open_then.restore()  # who cannot ends here, and the session is made again
        try:
            pid = fork_sibling()
        except OSError as error:
            pid = -1
            why = f"-SessionLost: the state before this cell cannot be forked for it: {error}"
            say(fds[-1], NO_FORK if error.errno == errno.EAGAIN else why.encode())
        if pid == 0:
            set_random_state(seeded)  # it seeds itself anew in every fork
            open_then = run_cell(data, fds, variables, open_then, mask)
        else:
            for fd in fds:
                close(fd)


def run_cell(
    data: bytes,
    fds: list[int],
    variables: dict[str, Any],
    before: Descriptors,
    mask: ctypes.Array[ctypes.c_ubyte],
) -> Descriptors:
    """Run a cell; return what it has open when it ended well, else end the process.

    `mask` is of the signals that the state before blocks, and then of those that this one does.
    """
    stdout, stderr, report, *others, new_link = fds
    for old, new in ((stdout, 1), (stderr, 2), (report, REPORT_FD), (new_link, LINK_FD)):
        dup2(old, new, inheritable=new in (1, 2))
        close(old)
    request, source = find_source(data, others)
    say(LINK_FD, b"+")
    own, processes = getpid(), getrlimit(RLIMIT_NPROC)
    spare_descriptors(SPARE_FDS)
    code = run_guarded(lambda: execute(source, request["name"], variables, mask))
    set_mask(SET_MASK, ALL_SIGNALS, mask)
    flush_streams()
    if code or getpid() != own:  # a child that the cell forked is no state when it comes here
        os._exit(code)
    spare_descriptors(0)
    refused = "" if getrlimit(RLIMIT_NPROC) == processes else FEWER_PROCESSES
    try:
        open_now = Descriptors(LINK_FD, before)
    except TooMuch:
        refused = TOO_MUCH
    except (MemoryError, OSError) as error:
        refused = f"SessionFilesError: a file that the cell left open cannot be kept: {error}"
        if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
            refused = NO_MEMORY
    if refused:
        say(LINK_FD, b"-" + refused.encode())
        while True:
            pause()  # until the keeper, having heard it, kills us
    say(LINK_FD, b".")
    return open_now


def execute(
    source: Source, name: str, variables: dict[str, Any], mask: ctypes.Array[ctypes.c_ubyte]
) -> None:
    """The part of a cell that may fail as a program fails."""
    code = compiled(source, name)
    set_mask(SET_MASK, mask, None)
    exec(code, variables)


def clear_of_outputs(fd: int) -> int:
    """The descriptor, moved out of the way when the cells before have closed those of outputs."""
    if fd > REPORT_FD:
        return fd
    moved = duplicate(fd, F_DUPFD_CLOEXEC, REPORT_FD + 1)
    close(fd)
    return moved


def say(fd: int, word: bytes) -> None:
    link = Socket(fileno=fd)
    try:
        send(link, word)
    finally:
        link.detach()


def random_state() -> Any:
    """The state of the module random, None where there is none, or no longer."""
    try:
        return sys.modules["random"].getstate()
    except BaseException:
        return None


def set_random_state(state: Any) -> None:
    try:
        sys.modules["random"].setstate(state)
    except BaseException:
        return


def spare_descriptors(count: int) -> None:
    """Let the program open so many files less than there may be: the next cell needs some."""
    hard = getrlimit(RLIMIT_NOFILE)[1]
    setrlimit(RLIMIT_NOFILE, (min(OPEN_FILES - count, hard), hard))


def reap(wait: bool = False) -> None:
    """Bury the children that are dead, or wait for all of them to die."""
    try:
        while waitpid(-1, 0 if wait else os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def fork_sibling() -> int:
    """As os.fork(), but the parent of the new process is our own."""
    machine = os.uname().machine
    address = ctypes.c_void_p()
    libc.prctl(
        PR_GET_TID_ADDRESS, ctypes.byref(address)
    )  # stays NULL where the kernel has no such call
    flags = CLONE_PARENT | signal.SIGCHLD
    if address.value:
        flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
    null = ctypes.c_void_p()
    last = (address, null) if machine == "x86_64" else (null, address)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = libc.syscall(CLONE[machine], ctypes.c_ulong(flags), null, null, *last)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        kernel.check(pid, "clone")
    return int(pid)
