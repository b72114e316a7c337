"""Lock: a directory that a command writes for long is written by one command at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname

from cleaner_rl.errors import CheckpointError
from cleaner_rl.runs.files import writing

LOCK = ".lock"
"""Name of the file in a directory that says who writes there; it is gone afterwards."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def reserved(directory: Path, beside: bool = False) -> Iterator[None]:
    """Reserve a directory for this process, also against processes on other machines.

    The directory is made, and removed again if it stays empty. With ``beside``, the lock lies next
    to it, because the directory itself is made at the end. The kernel frees the lock of a process
    that dies, so a file that a kill left behind stops nobody.

    Raises:
        CheckpointError: another process has reserved it, or it cannot be written.
    """
    path = directory.resolve()
    file = path.with_name(f".{path.name}{LOCK}") if beside else path / LOCK
    made = not file.parent.exists()
    with writing(file.parent, "choose another directory"):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(file, directory)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {gethostname()}, since {since}".encode())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # it is not empty
                file.parent.rmdir()


def _locked(file: Path, directory: Path) -> int:
    """The descriptor of the lock file, with the lock."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
            os.close(descriptor)  # its last holder has just removed it
        except BlockingIOError as error:
            holder = os.read(descriptor, 1000).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise CheckpointError(
                f"{directory} is being written by {holder}; wait for it, stop it, or choose "
                "another directory"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"warning: {directory} is on a file system without locks ({error}): nothing will "
                "stop a second process from writing there",
                file=sys.stderr,
            )
            return descriptor
