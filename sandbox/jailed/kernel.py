"""System calls that Python does not wrap: namespaces, mounts, capabilities."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct

CLONE_NEWNS, CLONE_NEWIPC = 0x00020000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MS_RDONLY, MS_REMOUNT, MNT_DETACH = 1, 32, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 4, 8, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2
CAPABILITY_VERSION_3 = 0x20080522
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


libc = ctypes.CDLL(None, use_errno=True)


def check(returned: int, what: str) -> None:
    """Raise OSError with the errno of a libc call that returned -1."""
    if returned == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(
    source: bytes, target: str, kind: bytes | None, flags: int, options: bytes | None
) -> None:
    returned = libc.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), options)
    check(returned, f"mount {target}")


def unmount(target: str) -> None:
    check(libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def remount_read_only(target: str) -> None:
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
    mount(b"none", target, None, flags, None)


def prctl(option: int, first: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return int(libc.prctl(option, ctypes.c_ulong(first), zero, zero, zero))


def mount_proc() -> None:
    mount(b"proc", "/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def unshare(flags: int) -> None:
    check(libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    check(libc.setns(fd, kind), "setns")


def renounce_privileges() -> None:
    """No program that this process or its children start ever gets a capability."""
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "prctl no_new_privs")
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        if prctl(PR_CAPBSET_DROP, capability) == -1:
            break  # past the last one, or not ours to drop


def held_capabilities() -> int:
    """The bits, below 32, of the capabilities that this process may use."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)()
    check(libc.capget(header, effective_permitted_inheritable), "capget")
    return effective_permitted_inheritable[1]


def keep_capabilities(kept: int) -> None:
    """Give up all capabilities but those whose bits, below 32, are in `kept`."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (kept, kept, 0, 0, 0, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)(*effective_permitted_inheritable)), "capset")


def word_and_sender(channel: socket.socket, size: int) -> tuple[bytes, int]:
    """A message and the process that sent it, 0 at the end; the socket has SO_PASSCRED."""
    word, extra, _, _ = channel.recvmsg(size, socket.CMSG_SPACE(CREDENTIALS.size))
    return word, CREDENTIALS.unpack(extra[0][2])[0] if word else 0


def readable(file: int | socket.socket, timeout_s: float) -> bool:
    """Whether there is something to read within that time; of a pidfd, whether its process ends."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(timeout_s * 1e3))
