"""The files of a session, kept so that a cell that fails leaves none of its own behind."""

from __future__ import annotations

import copy
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Piece = tuple[int, bytes]  # where it stands in the file, and what stands there


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or symbolic link.

    mark      changes whenever the file does
    pieces    what a file holds, without its holes
    target    where a symbolic link leads
    """

    mode: int
    mark: tuple[int, ...]
    size: int = 0
    pieces: tuple[Piece, ...] = ()
    target: str = ""


class Files:
    """What lies below `roots`, as it was when it was last committed.

    Pipes, sockets, extended attributes and the bond between hard links are not kept. What is there
    at the beginning is left alone.
    """

    def __init__(self, roots: tuple[str, ...]):
        self.roots = roots
        self.kept: dict[str, Entry] = {}
        self.opened: dict[str, int] = {}  # directories with another mode for a moment
        self.left_alone = {entry.path for root in roots for entry in os.scandir(root)}
        self.commit()

    def after(self) -> Files:
        """What is there now, kept apart from this; only what has changed is read."""
        later = copy.copy(self)
        later.commit()
        return later

    def commit(self) -> None:
        """Keep what is there now; only what has changed is read."""
        found: dict[str, Entry] = {}
        for path, status in self._walk():
            before = self.kept.get(path)
            unchanged = before is not None and before.mark == mark_of(status)
            found[path] = before if unchanged and before else read(path, status)
        self.kept = found
        for path, mode in self.opened.items():
            os.chmod(path, mode)
        self.opened = {}

    def restore(self) -> None:
        """Make what is there what it was when last committed."""
        for path, status in list(self._walk()):
            before = self.kept.get(path)
            if before is None or stat.S_IFMT(before.mode) != stat.S_IFMT(status.st_mode):
                remove(path)
                self.opened.pop(path, None)
        for path, before in self.kept.items():  # directories come before what is in them
            if mark_at(path) != before.mark:
                write(path, before)
        for path, before in self.kept.items():
            if stat.S_ISDIR(before.mode):
                self.opened[path] = stat.S_IMODE(before.mode)
        self.commit()  # the marks are new

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Every path below the roots, a directory before what is in it."""
        for root in self.roots:
            directories = [root]
            while directories:
                directory = directories.pop()
                self._make_accessible(directory)
                for path in sorted(entry.path for entry in os.scandir(directory)):
                    if path in self.left_alone:
                        continue
                    status = os.lstat(path)
                    if stat.S_ISDIR(status.st_mode):
                        directories.append(path)
                    yield path, status

    def _make_accessible(self, directory: str) -> None:
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            self.opened.setdefault(directory, stat.S_IMODE(os.lstat(directory).st_mode))
            os.chmod(directory, 0o700)


def mark_of(status: os.stat_result) -> tuple[int, ...]:
    if stat.S_ISDIR(status.st_mode):
        return (status.st_mode,)  # what is in it has marks of its own
    return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def mark_at(path: str) -> tuple[int, ...] | None:
    try:
        return mark_of(os.lstat(path))
    except FileNotFoundError:
        return None


def read(path: str, status: os.stat_result) -> Entry:
    mark = mark_of(status)
    if stat.S_ISLNK(status.st_mode):
        return Entry(status.st_mode, mark, target=os.readlink(path))
    if not stat.S_ISREG(status.st_mode):
        return Entry(status.st_mode, mark)
    if not os.access(path, os.R_OK):
        os.chmod(path, 0o600)
    pieces = []
    with open(path, "rb", buffering=0) as file:
        at = 0
        while at < status.st_size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break  # nothing but a hole from here on
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            pieces.append((start, os.pread(file.fileno(), at - start, start)))
    os.chmod(path, stat.S_IMODE(status.st_mode))
    return Entry(status.st_mode, mark_of(os.lstat(path)), status.st_size, tuple(pieces))


def write(path: str, entry: Entry) -> None:
    if stat.S_ISDIR(entry.mode):
        os.makedirs(path, mode=0o700, exist_ok=True)
        return
    same = is_same_file(path, entry)  # then it is written in place: processes have it open
    if same:
        os.chmod(path, 0o600)
    elif os.path.lexists(path):
        os.unlink(path)
    if stat.S_ISLNK(entry.mode):
        os.symlink(entry.target, path)
    elif stat.S_ISREG(entry.mode):
        with open(path, "r+b" if same else "xb", buffering=0) as file:
            file.truncate(0)
            for start, data in entry.pieces:
                os.pwrite(file.fileno(), data, start)
            file.truncate(entry.size)
        os.chmod(path, stat.S_IMODE(entry.mode))


def is_same_file(path: str, entry: Entry) -> bool:
    """Whether the regular file that is there is the kept one, with other contents perhaps."""
    mark = mark_at(path)
    return mark is not None and stat.S_ISREG(mark[0]) and mark[1:2] == entry.mark[1:2]


def remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def kept_bytes(states: Iterable[Files]) -> int:
    """What the files of some states take; what they share is counted once."""
    pieces = {
        id(piece): len(piece[1])
        for files in states
        for e in files.kept.values()
        for piece in e.pieces
    }
    return sum(pieces.values())
