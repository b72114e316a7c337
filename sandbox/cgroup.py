"""Control groups: bounds on what all processes of a worker use together, where we may make them.

A worker gets a group of its own below the group of this process or, since cgroup v2 allows no
processes beside controlled groups, below the nearest ancestor that hands its controllers on.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "code-sandbox"
REMOVE_S = 2.0  # processes that were killed may take a moment to go
# The shell enters the group, so that nothing that it starts is ever outside.
ENTER = 'for d in $0; do echo $$ > "$d/cgroup.procs" || exit 1; done; exec "$@"'
_numbers = itertools.count()
_left: set[Path] = set()  # groups whose processes took too long to go
_swept: set[Path] = set()  # directories in which there is nothing left of earlier hosts


@dataclass(frozen=True, slots=True)
class Files:
    """What a version of the interface calls its files."""

    memory: str
    usage: str
    cache: bytes  # what memory.stat calls the pages of files
    oom_kills: str
    extra: dict[str, str]  # to be written where it is possible


V2 = Files("memory.max", "memory.current", b"file", "memory.events", {"memory.swap.max": "0"})
V1 = Files(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    b"cache",
    "memory.oom_control",
    {"memory.swappiness": "0"},
)


@dataclass(slots=True)
class Cgroup:
    """The groups of one worker: of memory and, where possible, of processes.

    memory, pids   directories; in cgroup v2 the same one
    files          what is in them
    """

    memory: Path
    pids: Path | None
    files: Files
    opened: dict[str, int] = field(default_factory=dict)  # what is read for every execution

    @property
    def directories(self) -> list[Path]:
        return list(dict.fromkeys(path for path in (self.memory, self.pids) if path))

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` inside."""
        return ["/bin/sh", "-c", ENTER, " ".join(map(str, self.directories)), *command]

    def add(self, pid: int) -> None:
        """Move a process in; what it starts from then on is in as well. Raises OSError."""
        for path in self.directories:
            (path / "cgroup.procs").write_text(str(pid))

    def allow(self, memory_mb: int, processes: int) -> None:
        """Set the bounds; raises OSError when the kernel refuses."""
        (self.memory / self.files.memory).write_text(str(memory_mb << 20))
        if self.pids:
            (self.pids / "pids.max").write_text(str(processes))

    def oom_kills(self) -> int:
        """How many processes were killed so far because the bound of memory was reached."""
        words = self._read(self.files.oom_kills).split()
        return int(words[words.index(b"oom_kill") + 1]) if b"oom_kill" in words else 0

    def holds_more_than(self, memory_mb: int) -> bool:
        """Whether so much is in use, without what the kernel can drop and read from disk again."""
        used = int(self._read(self.files.usage)) - (memory_mb << 20)
        if used > 0:  # counted over some time, and slower to read
            words = self._read("memory.stat").split()
            cache, shmem = (
                int(words[words.index(name) + 1]) for name in (self.files.cache, b"shmem")
            )
            used -= cache - shmem  # a tmpfs is on no disk
        return used > 0

    def _read(self, name: str) -> bytes:
        if name not in self.opened:
            self.opened[name] = os.open(self.memory / name, os.O_RDONLY)
        return os.pread(self.opened[name], 8192, 0)

    def remove(self) -> None:
        """Remove the groups, once their processes are gone."""
        while self.opened:
            os.close(self.opened.popitem()[1])
        remove_left()
        deadline = time.monotonic() + REMOVE_S
        for path in self.directories:
            while not removed(path):
                if time.monotonic() > deadline:
                    _left.add(path)
                    break
                time.sleep(0.002)


def make_cgroup() -> tuple[Cgroup | None, str]:
    """Groups for a new worker; or None, and why there are none."""
    reasons = []
    name = f"{PREFIX}-{os.getpid()}-{started(os.getpid())}-{next(_numbers)}"
    remove_left()
    for make in (make_v2, make_v1):
        try:
            return make(name), ""
        except OSError as error:
            reasons.append(str(error))
    return None, "; ".join(reasons)


def make_v2(name: str) -> Cgroup:
    for mount in (ROOT, ROOT / "unified"):
        if not (mount / "cgroup.controllers").exists():
            continue
        own = mount / own_path("").lstrip("/")
        for parent in (own, *own.parents):
            if not parent.is_relative_to(mount):
                break
            if "memory" in words(parent / "cgroup.subtree_control"):
                return ready(Cgroup(made(parent / name), None, V2))
        raise OSError("cgroup v2: no group above this process hands on the controller of memory")
    raise OSError("cgroup v2: not mounted")


def make_v1(name: str) -> Cgroup:
    memory = ROOT / "memory"
    if not (memory / V1.memory).exists():
        raise OSError("cgroup v1: no controller of memory")
    parent = memory / own_path("memory").lstrip("/")
    group = Cgroup(made(parent / name), None, V1)
    pids = ROOT / "pids"
    if (pids / "cgroup.procs").exists():
        try:
            group.pids = made(pids / own_path("pids").lstrip("/") / name)
        except OSError:
            group.remove()
            raise
    return ready(group)


def remove_left() -> None:
    for path in list(_left):
        if removed(path):
            _left.discard(path)


def ready(group: Cgroup) -> Cgroup:
    """The group after what else there is to set; what hosts have left that are dead is removed."""
    if group.pids is None and (group.memory / "pids.max").exists():
        group.pids = group.memory
    for name, value in group.files.extra.items():
        try:
            (group.memory / name).write_text(value)
        except OSError:
            continue
    for parent in {path.parent for path in group.directories} - _swept:
        _swept.add(parent)
        for path in stale(parent):
            removed(path)
    return group


def stale(parent: Path) -> Iterator[Path]:
    """The groups below `parent` that belong to nobody alive."""
    own = started(os.getpid()).partition(".")[0]
    for path in parent.glob(f"{PREFIX}-*-*"):
        pid, *start, _ = path.name.removeprefix(f"{PREFIX}-").split("-")
        if start and start[0].partition(".")[0] != own:
            continue  # of another pid namespace, where the number is somebody else's
        now = started(int(pid)) if pid.isdigit() else pid
        if not now or (start and now != start[0]):
            yield path


def started(pid: int) -> str:
    """Our pid namespace and when the process of that number in it began; "" when it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else f"{os.stat('/proc/self/ns/pid').st_ino}.{fields[18]}"


def own_path(controller: str) -> str:
    """The group of this process in a hierarchy of v1, or that of v2 for ""."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise OSError(f"no cgroup of {controller or 'v2'}")


def words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def made(path: Path) -> Path:
    path.mkdir()
    return path


def removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
