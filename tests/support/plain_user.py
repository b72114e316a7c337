"""Runs pytest as a plain user, whatever stands above the interpreter; for root only.

    python plain_user.py DIRECTORY ARGUMENT...

Directories that only root may enter are covered, in a mount namespace of this process, by ones that
anybody may, and what is needed of them is bound into those at the same place.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from sandbox.jail import interpreter_roots, is_below, spare_uid
from sandbox.jailed import kernel

OPEN_TO_ALL = 0o001


def uncover(paths: list[Path]) -> None:
    """Let everybody reach the paths."""
    closed: dict[Path, list[Path]] = {}
    for path in paths:
        for directory in reversed(path.parents):
            if not directory.stat().st_mode & OPEN_TO_ALL:
                closed.setdefault(directory, []).append(path)
                break
    for directory, inside in closed.items():
        held = [(path, os.open(path, os.O_PATH)) for path in inside]
        kernel.mount(b"tmpfs", str(directory), b"tmpfs", kernel.MS_NOSUID, b"mode=755")
        for path, fd in held:
            path.mkdir(parents=True, exist_ok=True)
            source = os.fsencode(f"/proc/self/fd/{fd}")
            kernel.mount(source, str(path), None, kernel.MS_BIND | kernel.MS_REC, None)
            os.close(fd)


def main() -> None:
    checkout, *arguments = sys.argv[1:]
    uid = spare_uid()
    assert uid is not None, "only root can become a plain user"
    roots = [os.path.realpath(checkout), *map(os.path.realpath, interpreter_roots())]
    outer = [path for path in dict.fromkeys(roots) if not is_below(path, set(roots) - {path})]
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(b"none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE, None)
    uncover([Path(path) for path in outer])
    home = tempfile.mkdtemp(prefix="plain-user-")
    os.chown(home, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.chdir(checkout)
    environment = dict(os.environ, HOME=home, TMPDIR=home)
    python = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    os.execve(sys.executable, python, environment)


if __name__ == "__main__":
    main()
