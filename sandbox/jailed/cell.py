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
import os
import resource
import signal
import socket
import sys
import types

# As in child.py.
from builtins import BaseException, OSError, bool, exec, min, range  # noqa: UP029
from typing import Any, NoReturn

from . import kernel
from .child import (
    MESSAGE_BYTES,
    OPEN_FILES,
    REPORT_FD,
    compiled,
    find_source,
    flush_streams,
    run_guarded,
)

CLONE_PARENT, CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x8000, 0x200000, 0x1000000
PR_GET_TID_ADDRESS = 40
CLONE = {"x86_64": 56, "aarch64": 220}
LINK_FD = OPEN_FILES - 1  # each process's end of its link to the keeper, out of the programs' way
SPARE_FDS = 8  # that a cell leaves for what comes with the next: outputs, source, link

libc = ctypes.PyDLL(None, use_errno=True)  # without giving up the interpreter lock
# Bound here, because a program may replace what the modules hold.
Socket, receive, send = socket.socket, socket.recv_fds, socket.socket.send
dup2, close, waitpid, getpid = os.dup2, os.close, os.waitpid, os.getpid
seek, getrlimit, setrlimit = os.lseek, resource.getrlimit, resource.setrlimit
RLIMIT_NOFILE = resource.RLIMIT_NOFILE


def hold_state(link: socket.socket) -> NoReturn:
    """Be the process that holds the state before the first cell."""
    try:
        main = types.ModuleType("__main__")
        main.__dict__.update(__builtins__=builtins)
        sys.modules["__main__"] = main
        sys.argv[:] = [""]
        sys.path.insert(0, os.getcwd())
        dup2(link.fileno(), LINK_FD, inheritable=False)
        link.close()
        wait_and_run(main.__dict__)
    finally:
        os._exit(1)


def wait_and_run(variables: dict[str, Any]) -> NoReturn:
    """Fork for every cell that is asked for; the fork goes on waiting when its cell ends well."""
    offsets = file_offsets()
    while True:
        link = Socket(fileno=LINK_FD)
        data, fds, _, _ = receive(link, MESSAGE_BYTES, 8)
        if not data:
            os._exit(0)
        if data == b"?":  # the keeper asks whether the cell has come back
            send(link, b"!")
            link.detach()
            continue
        link.detach()
        reap()  # what the keeper killed
        for fd, offset in offsets.items():
            seek(fd, offset, 0)
        seeded = random_state()
        if fork_sibling() == 0:
            if seeded:
                sys.modules["random"].setstate(seeded)  # it seeds itself anew in every fork
            offsets = run_cell(data, fds, variables)
        else:
            for fd in fds:
                close(fd)


def run_cell(data: bytes, fds: list[int], variables: dict[str, Any]) -> dict[int, int]:
    """Run a cell; return when it ended well, and where its files stand; else end the process."""
    stdout, stderr, report, *others, new_link = fds
    for old, new in ((stdout, 1), (stderr, 2), (report, REPORT_FD), (new_link, LINK_FD)):
        dup2(old, new, inheritable=new in (1, 2))
        close(old)
    request, source = find_source(data, others)
    link = Socket(fileno=LINK_FD)
    send(link, b"+")
    own = getpid()
    spare_descriptors(SPARE_FDS)
    code = run_guarded(lambda: exec(compiled(source, request["name"]), variables))
    flush_streams()
    if code or getpid() != own:  # a child that the cell forked is no state when it comes here
        os._exit(code)
    spare_descriptors(0)
    offsets = file_offsets()
    send(link, b".")
    link.detach()
    return offsets


def random_state() -> Any:
    """The state of the module random, None where there is none, or no longer."""
    try:
        return sys.modules["random"].getstate()
    except BaseException:
        return None


def spare_descriptors(count: int) -> None:
    """Let the program open so many files less than there may be: the next cell needs some."""
    hard = getrlimit(RLIMIT_NOFILE)[1]
    setrlimit(RLIMIT_NOFILE, (min(OPEN_FILES - count, hard), hard))


def file_offsets() -> dict[int, int]:
    """Where open files are read and written: forks share it, and a cell that fails has moved it."""
    found = {}
    for fd in range(LINK_FD):
        try:
            found[fd] = seek(fd, 0, 1)
        except OSError:  # not open, or a pipe
            continue
    return found


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
    libc.prctl(PR_GET_TID_ADDRESS, ctypes.byref(address))  # stays NULL where it is not to be had
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
