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
    covered: dict[Path, list[Path]] = {}
    for path in paths:
        first_closed = next(filter(is_closed, [*reversed(path.parents), path]), None)
        if first_closed is not None:
            needed = sorted(path.iterdir()) if is_closed(path) else [path]
            covered.setdefault(first_closed, []).extend(needed)
    for directory, needed in covered.items():
        held = [(path, os.open(path, os.O_PATH)) for path in needed]
        kernel.mount(b"tmpfs", str(directory), b"tmpfs", kernel.MS_NOSUID, b"mode=755")
        for path, fd in held:
            source = f"/proc/self/fd/{fd}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if os.path.isdir(source) else path.touch()
            flags = kernel.MS_BIND | kernel.MS_REC
            kernel.mount(os.fsencode(source), str(path), None, flags, None)
            os.close(fd)


def is_closed(directory: Path) -> bool:
    return not directory.stat().st_mode & OPEN_TO_ALL


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
