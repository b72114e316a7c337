"""Landlock: which files a process may still reach, whatever the file permissions say.

The rules follow the kernel's ABI number: 1 files, 2 links between directories, 3 truncation,
4 TCP, 5 ioctl on devices, 6 signals and abstract UNIX sockets.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable

from . import kernel

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
VERSION_FLAG = 1
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
READ = EXECUTE | READ_FILE | READ_DIR
DEVICE = WRITE_FILE | READ_FILE
FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE
MAKE_DEVICES = 1 << 6 | 1 << 11  # character and block devices: for nobody
ALL = (1 << 15) - 1 & ~MAKE_DEVICES  # what a program may do to its own files
FILES_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
TRUNCATE = 1 << 14
TCP = 1 | 2  # bind, connect
SCOPES = 1 | 2  # abstract UNIX sockets, signals
SCOPED_FROM = 6  # the ABI that keeps signals and abstract UNIX sockets within a program
FILES_ARE_SAFE_FROM = 3  # before this ABI a file that is not writable can be truncated


Rule = tuple[int, int]  # a descriptor of a path, and the rights beneath it


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def abi() -> int:
    """The kernel's Landlock ABI, 0 where there is none."""
    version = kernel.libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)
    return max(0, int(version))


def file_rights(abi: int) -> int:
    return max(rights for since, rights in FILES_BY_ABI.items() if since <= abi)


def rules(paths: Iterable[str], rights: int) -> list[Rule]:
    """Rules that allow `rights` beneath each path that exists; they hold open descriptors."""
    found = []
    for path in paths:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # it is not there, so there is nothing to allow
        directory = os.path.isdir(path)
        found.append((parent, rights if directory else rights & (FILE_ONLY | TRUNCATE)))
    return found


def restrict(abi: int, allowed: Iterable[Rule]) -> None:
    """Allow what the rules say, no other file, no TCP, no one outside.

    Needs no_new_privs. Holds for this thread and all that it starts, for good.
    """
    handled = file_rights(abi)
    ruleset = _Ruleset(handled, TCP if abi >= 4 else 0, SCOPES if abi >= SCOPED_FROM else 0)
    size = 8 if abi < 4 else 16 if abi < SCOPED_FROM else 24
    fd = kernel.libc.syscall(CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    kernel.check(fd, "landlock_create_ruleset")
    try:
        for parent, rights in allowed:
            rule = struct.pack("=Qi", rights & handled, parent)
            returned = kernel.libc.syscall(ADD_RULE, fd, RULE_PATH_BENEATH, rule, 0)
            kernel.check(returned, "landlock_add_rule")
        kernel.check(kernel.libc.syscall(RESTRICT_SELF, fd, 0), "landlock_restrict_self")
    finally:
        os.close(fd)
