"""What the zygote does once, before it serves: privileges, preloads, what its children need."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import fcntl
import gc
import importlib
import linecache
import os
import random
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from . import kernel, landlock, seccomp
from .child import FIRST_OWN_FD, KEPT_FD, MAX_FDS, Config

STACK_BYTES = 8 << 20
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
LAZY = {  # what a module imports when it is first used
    "sympy": (
        "sympy.assumptions.wrapper",
        "sympy.codegen.ast",
        "sympy.combinatorics",
        "sympy.integrals.manualintegrate",
        "sympy.integrals.risch",
        "sympy.polys.polymatrix",
        "sympy.sets.handlers.functions",
        "sympy.sets.handlers.issubset",
        "sympy.sets.setexpr",
        "sympy.tensor.tensor",
    ),
}


def settle() -> None:
    """Begin in the same state whatever the host was started with, so that every program does.

    Signals are neither blocked nor ignored, except the two that Python ignores; new files are
    readable by all; no limit is lower than it must be, and the stack is that of most machines.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    fixed = {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}
    for number in signal.valid_signals() - fixed:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(0o022)
    kernel.libc.personality(0)  # of the programs that a program starts
    for name in filter(lambda name: name.startswith("RLIMIT_"), dir(resource)):
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        soft = hard
        if kind == resource.RLIMIT_STACK:
            soft = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
        resource.setrlimit(kind, (soft, hard))
    # The C library has taken the stack of new threads from the limit that it was started under.
    attributes = ctypes.create_string_buffer(128)  # more than a pthread_attr_t has anywhere
    kernel.libc.pthread_attr_init(attributes)
    kernel.libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(STACK_BYTES))
    kernel.libc.pthread_setattr_default_np(attributes)


def drop_root(uid: int) -> None:
    """Continue as pid 1 of a user, pid and mount namespace whose only user is `uid` outside.

    Real root is exempt from RLIMIT_NPROC, so it has to go. It goes here and not before bubblewrap,
    because bubblewrap must still be root to bind an interpreter that lies below a directory only
    root may enter (/root is such a one). The process that called this stays behind as root and only
    waits; programs live in a pid namespace below it and cannot name it.
    """
    os.setgroups([])
    # A second, uncovered /proc: the kernel lets a user namespace mount proc only if it already
    # sees one in full, and bubblewrap covers parts of its own when it runs as root.
    kernel.mount_proc()
    unshared, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.close(unshared[1])
        os.read(unshared[0], 1)
        for name in ("gid_map", "uid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(f"0 {uid} 1")
        os.write(mapped[1], b"+")
        wait_and_exit(child)
    os.close(mapped[1])
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID)
    os.write(unshared[1], b"+")
    if not os.read(mapped[0], 1):
        raise OSError("the user namespace was given no user")
    for fd in (unshared[0], unshared[1], mapped[0]):
        os.close(fd)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    child = os.fork()
    if child:
        wait_and_exit(child)
    kernel.mount(b"none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE, None)
    kernel.mount_proc()


def become(uid: int, scratch: str) -> int:
    """Continue as the user `uid`, who owns the scratch directory alone; capabilities still held.

    They are none, unless the interpreter lies below a directory that only root may enter (/root is
    such a one): then one that reads it in spite of that. A default Docker container has only the
    one that writes as well. What is read and written is Landlock's business.
    """
    held = kernel.held_capabilities()
    os.chown(scratch, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    kernel.check(kernel.prctl(kernel.PR_SET_KEEPCAPS, 1), "prctl keepcaps")
    os.setresuid(uid, uid, uid)
    kept = 0
    if obstacle([*interpreter(), scratch]):
        readers = (kernel.CAP_DAC_READ_SEARCH, kernel.CAP_DAC_OVERRIDE)
        kept = next((reader for reader in readers if reader & held), 0)
    kernel.keep_capabilities(kept)
    return kept


def interpreter() -> list[str]:
    """What a program must be able to read."""
    return [os.__file__, sys.executable, *sys.path]


def obstacle(names: Iterable[str]) -> str:
    """What keeps this process from one of these files or directories, "" for nothing."""
    for name in names:
        for path in map(Path, {name, os.path.realpath(name)}):
            for above in reversed(path.parents):
                if above.is_dir() and not os.access(above, os.X_OK, effective_ids=True):
                    return f"other users may not enter {above}: chmod o+x {above}"
            wanted = os.R_OK | (os.X_OK if path.is_dir() else 0)
            if path.exists() and not os.access(path, wanted, effective_ids=True):
                return f"other users may not read {path}: chmod -R o+rX {path}"
    return ""


def wait_and_exit(child: int) -> NoReturn:
    for fd in range(FIRST_OWN_FD, MAX_FDS):  # the host must see the socket close with the zygote
        try:
            os.close(fd)
        except OSError:
            continue
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def forbid_user_namespaces(host_proc: str | None) -> None:
    """Best effort: programs cannot make user namespaces, and so cannot get capabilities in them.

    The sysctl is that of our own user namespace, whichever /proc it is written through.
    """
    try:
        with open(f"{host_proc or '/proc'}/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
    except OSError:
        pass  # read-only in some containers; the host's trial program finds out
    if host_proc:
        kernel.unmount(host_proc)


def preload(names: list[str]) -> list[Any]:
    """Import modules, and return the generators of random numbers that they have made without a
    seed: each program has to seed them anew, or all would see the same numbers."""
    unseeded: list[Any] = []
    seed = random.Random.seed

    def noted(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, a, version)
        if a is None:
            unseeded.append(self)
        elif self in unseeded:
            unseeded.remove(self)

    random.Random.seed = noted  # type: ignore[method-assign]
    try:
        for name in names:
            module = importlib.import_module(name)
            if closed := obstacle(getattr(module, "__path__", ())):
                raise PermissionError(closed)  # Python takes it for a package without a module
            for part in LAZY.get(name, ()):
                with contextlib.suppress(ImportError):  # another version has it elsewhere
                    importlib.import_module(part)
    finally:
        random.Random.seed = seed  # type: ignore[method-assign]
    if numpy_random := sys.modules.get("numpy.random"):
        unseeded.append(numpy_random)
    # Threads do not survive fork, and a lock one of them holds would stay locked for ever.
    if _thread._count():
        raise RuntimeError("a preloaded module started a thread, which fork() cannot copy")
    return unseeded


def address_space() -> int:
    """Bytes of address space in use; a generous guess where /proc does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 512 << 20


class Broken(Exception):
    """The zygote cannot serve; `kind` tells what to blame."""

    def __init__(self, kind: str, error: BaseException):
        super().__init__(f"{type(error).__name__}: {error}")
        self.kind = kind


def probe_layers(config: Config) -> None:
    """Note which layers of confinement this kernel has; without namespaces both must be there."""
    abi, no_seccomp = landlock.abi(), seccomp.missing()
    config |= {"landlock_abi": abi, "no_seccomp": no_seccomp, "seccomp": not no_seccomp}
    config["landlock"] = abi if config["visible"] else 0
    config["filter"] = None  # for a "strict" one, which names the program's pid
    if config["strict"]:
        if abi < landlock.FILES_ARE_SAFE_FROM:
            have = f"ABI {abi}" if abi else "none"
            raise OSError(
                f"needs Landlock of ABI {landlock.FILES_ARE_SAFE_FROM} (Linux 6.2), here: {have}"
            )
        if no_seccomp:
            raise OSError(f"needs seccomp, here: {no_seccomp}")
    elif not no_seccomp:
        jailed = config["scratch"] is None
        config["filter"] = seccomp.base_filter(config["cgroup"], jailed)


def prepare(config: Config) -> None:
    try:
        probe_layers(config)
        config["kept"] = 0
        if config["drop_uid"] is not None:
            if config["private"]:
                drop_root(config["drop_uid"])
            else:
                config["kept"] = become(config["drop_uid"], config["scratch"])
        if config["private"]:
            forbid_user_namespaces(config["host_proc"])
        if config["scratch"] is not None:
            kernel.check(kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1), "prctl subreaper")
        if closed := obstacle([*interpreter(), config["scratch"] or "/"]):
            raise PermissionError(closed)
    except Exception as error:
        raise Broken("isolation", error) from error
    try:
        config["generators"] = preload(config["preload"])
    except PermissionError as error:  # another tier may do without another user
        raise Broken("isolation", error) from error
    except Exception as error:
        raise Broken("preload", error) from error
    config["base_bytes"] = address_space()
    config["rules"] = landlock_rules(config)
    kernel.renounce_privileges()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # programs share our uid: keep them out of our memory
    linecache.clearcache()
    gc.collect()
    gc.freeze()


def landlock_rules(config: Config) -> list[landlock.Rule]:
    """What every child may reach, opened once for all of them."""
    found = landlock.rules(config["visible"], landlock.READ)
    found += landlock.rules(DEVICES, landlock.DEVICE)
    kept = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, KEPT_FD), rights) for fd, rights in found]
    for fd, _ in found:
        os.close(fd)
    return kept
