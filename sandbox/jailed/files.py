"""The files of a session, kept so that a cell that fails leaves none of its own behind."""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

Piece = tuple[int, bytes]  # where it stands in the file, and what stands there
KEPT_BYTES = 256 << 20  # over all states of a session: twice what it can have at one time
TICK_NS = 20_000_000  # kernels before 6.13 date files by a clock that stands still for up to 10 ms


@dataclass(frozen=True, slots=True)
class Entry:
    """One file that is no directory.

    mark      changes whenever the file does
    pieces    what a regular file holds, without its holes
    target    where a symbolic link leads
    """

    mode: int
    mark: tuple[int, ...]
    size: int = 0
    pieces: tuple[Piece, ...] = ()
    target: str = ""


class Files:
    """What lies below `roots` when this is made, and the roots' own modes.

    What is in pipes, sockets, extended attributes, the bond between hard links and the times of
    directories are not kept. The paths in `left_alone` are not looked at.
    """

    def __init__(
        self, roots: tuple[str, ...], left_alone: Iterable[str], before: Files | None = None
    ):
        self.roots = roots
        self.left_alone = frozenset(left_alone)
        self.directories, found = self._look()  # their modes; each stands before what is in it
        self.kept: dict[str, Entry] = {}
        for path, status in found.items():
            self.kept[path] = read(path, status, before.kept.get(path) if before else None)
        set_modes(self.directories)

    def after(self) -> Files:
        """What is there now, kept apart from this; only what has changed is read."""
        return Files(self.roots, self.left_alone, self)

    def restore(self) -> None:
        """Make what is there what it was."""
        directories, found = self._look()
        for path, status in found.items():
            before = self.kept.get(path)
            if before is None or stat.S_IFMT(before.mode) != stat.S_IFMT(status.st_mode):
                os.unlink(path)
        for path in reversed(directories):
            if path not in self.directories:
                os.rmdir(path)
        for path in self.directories:
            if path not in directories:
                os.mkdir(path, 0o700)
        self.kept = {
            path: before if mark_at(path) == before.mark else write(path, before)
            for path, before in self.kept.items()
        }
        set_modes(self.directories)

    def _look(self) -> tuple[dict[str, int], dict[str, os.stat_result]]:
        """Modes of the directories below the roots, which are all accessible then; other files."""
        directories, found = {}, {}
        waiting = list(self.roots)
        while waiting:
            directory = waiting.pop()
            directories[directory] = stat.S_IMODE(os.lstat(directory).st_mode)
            if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
                os.chmod(directory, 0o700)
            for entry in os.scandir(directory):
                if entry.path in self.left_alone:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    found[entry.path] = entry.stat(follow_symlinks=False)
        return directories, found


def set_modes(directories: dict[str, int]) -> None:
    """Give directories the modes they are to have, the innermost first."""
    for path, mode in reversed(directories.items()):
        if stat.S_IMODE(os.lstat(path).st_mode) != mode:
            os.chmod(path, mode)


def mark_of(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def certain(mark: tuple[int, ...]) -> tuple[int, ...]:
    """The mark, or one that no file has, when the next change could have the same date."""
    return mark if mark[4] < time.time_ns() - TICK_NS else (*mark, 0)


def mark_at(path: str) -> tuple[int, ...] | None:
    try:
        return mark_of(os.lstat(path))
    except FileNotFoundError:
        return None


def read(path: str, status: os.stat_result, before: Entry | None) -> Entry:
    mark = mark_of(status)
    if before is not None and before.mark == mark:
        return before
    if stat.S_ISLNK(status.st_mode):
        return Entry(status.st_mode, mark, target=os.readlink(path))
    if not stat.S_ISREG(status.st_mode):
        return Entry(status.st_mode, mark)
    readable = os.access(path, os.R_OK)
    if not readable:
        os.chmod(path, 0o600)
    with open(path, "rb", buffering=0) as file:
        pieces = pieces_of(file.fileno(), status.st_size)
    if not readable:
        os.chmod(path, stat.S_IMODE(status.st_mode))
        mark = mark_of(os.lstat(path))
    if before is not None and pieces == before.pieces:
        pieces = before.pieces  # they are counted once
    return Entry(status.st_mode, certain(mark), status.st_size, pieces)


def pieces_of(fd: int, size: int) -> tuple[Piece, ...]:
    """What an open file holds, without its holes; moves its position."""
    pieces, at = [], 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break  # nothing but a hole from here on
        at = os.lseek(fd, start, os.SEEK_HOLE)
        pieces.append((start, os.pread(fd, at - start, start)))
    return tuple(pieces)


def fill(fd: int, size: int, pieces: Iterable[Piece]) -> None:
    """Let an open file hold this and nothing else."""
    os.ftruncate(fd, 0)
    for start, data in pieces:
        os.pwrite(fd, data, start)
    os.ftruncate(fd, size)


def write(path: str, entry: Entry) -> Entry:
    """Make a file what it was; the entry with its new mark."""
    same = is_same_file(path, entry)  # then it is written in place: processes have it open
    if same:
        os.chmod(path, 0o600)
    elif os.path.lexists(path):
        os.unlink(path)
    if stat.S_ISLNK(entry.mode):
        os.symlink(entry.target, path)
    elif stat.S_ISFIFO(entry.mode):
        os.mkfifo(path)
        os.chmod(path, stat.S_IMODE(entry.mode))
    elif stat.S_ISREG(entry.mode):
        with open(path, "r+b" if same else "xb", buffering=0) as file:
            fill(file.fileno(), entry.size, entry.pieces)
        os.chmod(path, stat.S_IMODE(entry.mode))
        modified_ns = entry.mark[3]
        os.utime(path, ns=(modified_ns, modified_ns))
    mark = mark_at(path)
    return dataclasses.replace(entry, mark=certain(mark) if mark else entry.mark)


def is_same_file(path: str, entry: Entry) -> bool:
    """Whether the regular file that is there is the kept one, with other contents perhaps."""
    mark = mark_at(path)
    return mark is not None and stat.S_ISREG(mark[0]) and mark[1:2] == entry.mark[1:2]


def kept_bytes(states: Iterable[Files]) -> int:
    """What the files of some states take; what they share is counted once."""
    pieces = {
        id(piece): len(piece[1])
        for files in states
        for e in files.kept.values()
        for piece in e.pieces
    }
    return sum(pieces.values())


def remove_tree(top: str) -> None:
    """Remove a directory and all that is in it, be it deeper than any path is long or a stack high.

    What cannot be removed stays, without an error. No process may still change it.
    """
    fresh = f"{top}/{os.urandom(8).hex()}-"  # names that nothing has
    numbers = itertools.count()
    with suppress(OSError):
        os.chmod(top, 0o700)
        while directories := clear(top):
            for path in directories:
                for inner in clear(path):
                    os.rename(inner, fresh + str(next(numbers)))
                os.rmdir(path)
        os.rmdir(top)


def clear(directory: str) -> list[str]:
    """Remove the files in a directory; the directories that are left."""
    left = []
    for entry in [*os.scandir(directory)]:
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            left.append(entry.path)
        else:
            os.unlink(entry.path)
    return left
