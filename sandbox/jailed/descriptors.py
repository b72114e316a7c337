"""What a state has open, and where it stands, so that a cell that fails does not change it.

Forks share what is behind a descriptor: the file, the position in it and the flags. So the process
of a state notes them when its cell has ended, and sets them right before it is forked again. By
then the keeper has put back the files that have names (see files.py), some of them as new files.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import stat

# As in child.py.
from builtins import OSError, PermissionError, bool, int, list, map  # noqa: UP029
from dataclasses import dataclass

from .child import PRIVATE_DIRS, REPORT_FD
from .files import Piece, certain, fill, mark_of, pieces_of

NAMELESS_BYTES = 64 << 20  # of files without a name, in one state
OUTPUTS = range(1, REPORT_FD + 1)  # each cell comes with its own
RESTORED = (*PRIVATE_DIRS, "/memfd:")  # how the paths of files begin that cells can change

# Bound here, because a program may replace what the modules hold.
open_fd, close, dup2, seek, control = os.open, os.close, os.dup2, os.lseek, fcntl.fcntl
status_at, status_of, link_at, names_in = os.stat, os.fstat, os.readlink, os.listdir
working_directory, change_directory, change_mode = os.getcwd, os.chdir, os.chmod

Identity = tuple[int, int]  # device and inode


class TooMuch(Exception):
    """More is open than can be kept."""


@dataclass(frozen=True, slots=True)
class Description:
    """What is behind one descriptor; `path` is that of a file that the keeper puts back, or ""."""

    identity: Identity
    flags: int
    position: int | None  # None for what has none, such as a pipe
    path: str


@dataclass(frozen=True, slots=True)
class Nameless:
    """What is in a file that is open and has no name: a temporary one that is removed, a memfd."""

    mark: tuple[int, ...]
    size: int
    pieces: tuple[Piece, ...]


class Descriptors:
    """The working directory and the descriptors below `end`, as they are now.

    Of nameless files only what has changed since `before` is read. Raises TooMuch for more than
    can be kept, OSError for a file that cannot be read.
    """

    def __init__(self, end: int, before: Descriptors | None = None):
        self.directory = here()
        self.opened: dict[int, Description] = {}
        self.nameless: dict[Identity, Nameless] = {}
        room = NAMELESS_BYTES
        for fd in map(int, names_in("/proc/self/fd")):
            if fd >= end or fd in OUTPUTS:
                continue
            try:
                status = status_of(fd)
            except OSError:
                continue  # the one that was open to list them
            identity, path = (status.st_dev, status.st_ino), ""
            kept = before.nameless.get(identity) if before else None
            if not kept or kept.mark != mark_of(status):
                name, kept = link_at(f"/proc/self/fd/{fd}"), None
                changeable = name.startswith(RESTORED)
                if changeable and identity_at(name) == identity:
                    path = name
                nameless = changeable and not path and stat.S_ISREG(status.st_mode)
            if kept or nameless:
                if identity not in self.nameless:
                    room -= status.st_blocks * 512
                if room < 0:
                    raise TooMuch
                self.nameless[identity] = kept or read(fd, status.st_size)
            flags = control(fd, fcntl.F_GETFL)
            self.opened[fd] = Description(identity, flags, position(fd), path)

    def restore(self) -> None:
        """Let them be what they were; raises OSError where that cannot be."""
        if self.directory and self.directory != here():
            change_directory(self.directory)
        self._reopen()
        for fd, was in self.opened.items():
            if control(fd, fcntl.F_GETFL) != was.flags:
                control(fd, fcntl.F_SETFL, was.flags)
            if was.position is not None:
                seek(fd, was.position, 0)
            kept = None if was.path else self.nameless.get(was.identity)
            if kept and mark_of(status_of(fd)) != kept.mark:
                self.nameless[was.identity] = write(fd, kept)

    def _reopen(self) -> None:
        """Open the files again by their names that are no longer those of their names."""
        groups: list[list[int]] = []  # of descriptors that share one description
        for fd, was in self.opened.items():
            if was.path and identity_at(was.path) != was.identity:
                for group in groups:
                    if self._share(group[0], fd):
                        group.append(fd)
                        break
                else:
                    groups.append([fd])
        for group in groups:
            was = self.opened[group[0]]
            new = open_again(was.path, was.flags)
            status = status_of(new)
            for fd in group:
                dup2(new, fd, not control(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
                again = (status.st_dev, status.st_ino)
                self.opened[fd] = dataclasses.replace(was, identity=again)
            close(new)

    def _share(self, one: int, other: int) -> bool:
        """Whether two descriptors share their position, which is set right afterwards."""
        if self.opened[one] != self.opened[other] or self.opened[one].position is None:
            return False
        seek(one, 0, 0)
        seek(other, 1, 0)
        return position(one) == 1


def here() -> str:
    """The working directory, "" when it has been removed."""
    try:
        return working_directory()
    except OSError:
        return ""


def identity_at(path: str) -> Identity | None:
    """None where there is nothing, or nothing that can be reached."""
    try:
        status = status_at(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def position(fd: int) -> int | None:
    try:
        return seek(fd, 0, 1)
    except OSError:
        return None


def open_again(path: str, flags: int) -> int:
    try:
        return open_fd(path, flags)
    except PermissionError:  # its mode was changed when it was open already
        mode = stat.S_IMODE(status_at(path).st_mode)
        change_mode(path, 0o700)
        try:
            return open_fd(path, flags)
        finally:
            change_mode(path, mode)


def read(fd: int, size: int) -> Nameless:
    again = open_again(f"/proc/self/fd/{fd}", os.O_RDONLY)  # it may be open for writing only
    try:
        return Nameless(certain(mark_of(status_of(fd))), size, pieces_of(again, size))
    finally:
        close(again)


def write(fd: int, kept: Nameless) -> Nameless:
    """Let a file be what it was; one that is has no new date, by which it would look changed."""
    again = open_again(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        status, mode = status_of(fd), stat.S_IMODE(kept.mark[0])
        if (status.st_size, pieces_of(again, status.st_size)) != (kept.size, kept.pieces):
            fill(again, kept.size, kept.pieces)
        if stat.S_IMODE(status.st_mode) != mode:
            change_mode(fd, mode)
    finally:
        close(again)
    return dataclasses.replace(kept, mark=certain(mark_of(status_of(fd))))
