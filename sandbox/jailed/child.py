"""The child of one execution: shuts its own door, runs the program, reports its error."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import fcntl
import io
import json
import linecache
import math
import os
import resource
import signal
import socket
import sys
import time
import traceback
import types

# Bound here, because a program may replace what the module `builtins` holds.
from builtins import (  # noqa: UP029
    BaseException,
    FileExistsError,
    MemoryError,
    OSError,
    SystemExit,
    compile,
    int,
    isinstance,
    issubclass,
    len,
    open,
    print,
    str,
    type,
)
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from . import kernel, landlock, seccomp

MAX_FDS = 256  # more than the zygote or a keeper has open
MESSAGE_BYTES = 65_536  # of a request, its source included when that is short
REPORT_FD = 3
FIRST_OWN_FD = 10  # the zygote's own descriptors lie above those a child installs
KEPT_FD = 128  # and from here on those that a child needs for its set-up
TMPFS_OPTIONS = b"size=64m,nr_inodes=4096,mode=1777"
FILE_BYTES = 16 << 20  # neither RLIMIT_AS nor a tmpfs bounds the files of memfd_create
OPEN_FILES = 64
FIXED_LIMITS = (
    (resource.RLIMIT_FSIZE, FILE_BYTES),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_MSGQUEUE, 0),  # of this and the next there is so much for all of a user's
    (resource.RLIMIT_SIGPENDING, 128),
    (resource.RLIMIT_RTPRIO, 0),  # the user may be one who may go before others
    (resource.RLIMIT_NICE, 0),
    (resource.RLIMIT_MEMLOCK, 64 << 10),
)
HARNESS_BYTES = 32 << 20  # address space kept back to format the traceback of a MemoryError
TRACEBACK_CHARS = 4_000
PRIVATE_DIRS = ("/tmp", "/dev/shm")
WORK_DIR = "/tmp/cwd"
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL

Config = dict[str, Any]
Source = bytes | int  # or a descriptor of the file that holds it
HARNESS = os.path.dirname(__file__)


def child_main(
    config: Config,
    link: socket.socket,
    scratch: str | None,
    keep_session: Callable[[Config, int, dict[str, Any]], NoReturn],
) -> NoReturn:
    """Shut the doors, wait on `link` for the request, answer "+" and the time or "-" and why."""
    try:
        namespace = shut_doors(config, link.fileno(), scratch)
        streams = open_streams()
        data, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES, 8)
        if not data:
            os._exit(0)  # the zygote is gone
        if len(fds) == 1:  # the socket of a session
            link.detach()
            sys.stdin, sys.stdout, sys.stderr = streams
            keep_session(config, fds[0], json.loads(data))
        source = take_program(config, data, fds)
        # The zygote holds the mounts until it has told how the program ended: taking them down
        # takes longer than most programs.
        socket.send_fds(link, [b"+%d" % time.monotonic_ns()], namespace)
        limit_files()
        if not config["private"]:
            link.recv(1)  # the program could kill the zygote before it has said "started"
    except BaseException as error:
        link.send(b"-" + str(error).encode(errors="replace"))
        os._exit(70)
    try:
        link.detach()
        kept = source if isinstance(source, int) else REPORT_FD
        os.closerange(REPORT_FD + 1, kept)
        os.closerange(kept + 1, MAX_FDS)
        sys.stdin, sys.stdout, sys.stderr = streams
        run_program(source)
    finally:
        os._exit(1)  # never back into the zygote's loop


def shut_doors(config: Config, link: int, scratch: str | None) -> list[int]:
    """All of the set-up that is the same for every program, so that it can be done ahead.

    Returns a descriptor of the mount namespace, where it has one of its own that can be named.
    """
    os.closerange(FIRST_OWN_FD, link)
    os.closerange(link + 1, KEPT_FD)
    namespace = []
    if config["private"]:
        make_private(config)
        if config["proc"]:
            namespace = [os.open("/proc/self/ns/mnt", os.O_RDONLY)]
            if config["cgroup"]:
                be_killed_first()
    if scratch is None:
        os.setsid()  # os.kill(0, ...) reaches the process group, across pid namespaces
        os.makedirs(WORK_DIR, exist_ok=True)
        os.chdir(WORK_DIR)
    else:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.chdir(scratch)
        os.environ["HOME"] = os.environ["TMPDIR"] = scratch
    install_placeholders()
    for generator in config["generators"]:
        generator.seed()
    kernel.keep_capabilities(config["kept"])
    confine(config, scratch)
    for kind, value in FIXED_LIMITS:
        limit(kind, value, value)
    return namespace


def be_killed_first() -> None:
    """When memory runs out in the cgroup, it is the program that goes and not the zygote."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else the file belongs to somebody else
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(fd, b"1000")
    os.close(fd)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def install_placeholders() -> None:
    """Descriptors 0, 1 and 2 of the kinds that a program gets; an empty input may stay."""
    stdin = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(stdin, fcntl.F_ADD_SEALS, SEALS)
    unread, output = os.pipe()
    for old, new in ((stdin, 0), (output, 1), (output, 2)):
        os.dup2(old, new)
    for fd in (stdin, unread, output):
        os.close(fd)


def take_program(config: Config, data: bytes, fds: list[int]) -> Source:
    """Take descriptors and limits of the program, and return its source."""
    stdout, stderr, report, *others = fds
    for old, new in ((stdout, 1), (stderr, 2)):
        os.dup2(old, new)
    os.dup2(report, REPORT_FD, inheritable=False)
    request, source = find_source(data, others)
    if others:
        os.dup2(others.pop(), 0)
    limit_resources(config, request)
    return source


def find_source(data: bytes, others: list[int]) -> tuple[dict[str, Any], Source]:
    """A request and the source that came behind it, or in the first of the other descriptors."""
    header, _, source = data.partition(b"\n")
    request = json.loads(header)
    return request, others.pop(0) if request["source_fd"] else source


def compiled(source: Source, name: str, lines: list[str] | None = None) -> types.CodeType:
    """The source as code, and its `lines`.

    It may be more than fits, so this is done within the program's limits.
    """
    if isinstance(source, int):
        with open(source, "rb") as file:
            source = file.read()
    text = source.decode("utf-8", "surrogatepass")
    lines = [] if lines is None else lines
    lines += text.splitlines(True)
    linecache.cache[name] = (len(text), None, lines, name)
    return compile(text, name, "exec", 0, True)


def confine(config: Config, scratch: str | None) -> None:
    """Landlock and the system call filter, each where this kernel has it."""
    if config["landlock"]:
        own = [scratch] if scratch else PRIVATE_DIRS
        landlock.restrict(config["landlock"], config["rules"] + landlock.rules(own, landlock.ALL))
    if config["seccomp"]:
        program = config["filter"] or seccomp.strict_filter(config["cgroup"], os.getpid())
        seccomp.install(program)


def make_private(config: Config) -> None:
    """Fresh /tmp, /dev/shm and /proc for this execution alone, and System V IPC if not denied."""
    kernel.unshare(kernel.CLONE_NEWNS | (0 if config["seccomp"] else kernel.CLONE_NEWIPC))
    # An interpreter that is installed below /tmp must stay visible under the new one.
    kept = [(path, os.open(path, os.O_PATH)) for path in config["keep"]]
    for path in PRIVATE_DIRS:
        kernel.mount(b"tmpfs", path, b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, TMPFS_OPTIONS)
    for path, fd in kept:
        os.makedirs(path)
        os.fchdir(fd)
        kernel.mount(b".", path, None, kernel.MS_BIND | kernel.MS_REC, None)
        kernel.remount_read_only(path)  # its top is a directory of the jail's own /tmp
        os.close(fd)
    if config["proc"]:
        kernel.mount_proc()


def limit_resources(config: Config, request: dict[str, Any]) -> None:
    """The limits that each program brings."""
    memory = config["base_bytes"] + (request["memory_mb"] << 20)
    limit(resource.RLIMIT_AS, memory, memory + HARNESS_BYTES)
    cpu_s = math.ceil(request["cpu_s"])
    limit(resource.RLIMIT_CPU, cpu_s, cpu_s)
    if config["process_slack"] is not None:
        processes = request["processes"] + config["process_slack"]
        limit(resource.RLIMIT_NPROC, processes, processes)


def limit_files() -> None:
    """The limit of open files, which comes last: the kernel lets nobody send descriptors while more
    than that are on their way between any processes of the same user, of other programs too."""
    limit(resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)


def limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, as far as it is not above the one that there is: no child can go higher."""
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def script(name: str, lines: list[str]) -> types.ModuleType:
    """The module __main__ of a program, whose file is there as soon as the module is asked for it.

    multiprocessing asks for it, where its new processes have to import the program; most programs
    never do, and find their directory empty.
    """
    path = os.path.abspath(name)

    class Script(types.ModuleType):
        @property
        def __file__(self) -> str:
            if self.__dict__["__file__"] != name:
                return str(self.__dict__["__file__"])
            text = "".join(lines).encode("utf-8", "surrogatepass")
            with contextlib.suppress(FileExistsError), open(path, "xb") as file:
                file.write(text)
            with open(path, "rb") as file:
                if file.read() != text:
                    raise FileExistsError(f"{path} is not this program, which others are to import")
            return path

        @__file__.setter
        def __file__(self, value: str) -> None:
            self.__dict__["__file__"] = value

    main = Script("__main__")
    main.__dict__.update(__file__=name, __builtins__=builtins)
    return main


def run_program(source: Source) -> NoReturn:
    """Run the source as __main__ of a script "main.py", then leave with its exit status."""
    lines: list[str] = []
    main = script("main.py", lines)
    sys.modules["__main__"] = main
    sys.argv[:] = ["main.py"]
    sys.path.insert(0, os.getcwd())
    exit_code = run_guarded(lambda: exec(compiled(source, "main.py", lines), main.__dict__))
    # The rest of what an interpreter does on its way out.
    if threading := sys.modules.get("threading"):
        exit_code = run_guarded(threading._shutdown) or exit_code
    exit_code = run_guarded(atexit._run_exitfuncs) or exit_code
    flush_streams(main.__dict__.values())
    os._exit(exit_code)


def flush_streams(variables: Iterable[Any] = ()) -> None:
    """Write what is left in stdout, stderr and the files among some variables, as Python does at
    its end; the program may have closed, replaced or deleted them."""
    streams: list[Any] = [sys.__dict__.get(name) for name in ("stdout", "stderr")]
    for stream in streams + [value for value in variables if issubclass(type(value), io.IOBase)]:
        try:
            stream.flush()
        except BaseException:
            continue


def open_streams() -> list[Any]:
    """sys.stdin, stdout and stderr; output unbuffered, so that a killed program keeps its own."""
    streams: list[Any] = []
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        raw: Any = io.FileIO(fd, "w" if fd else "r", closefd=False)
        raw.name = f"<{name}>"
        errors = "backslashreplace" if fd == 2 else "surrogateescape"
        binary = raw if fd else io.BufferedReader(raw)
        stream: Any = io.TextIOWrapper(binary, "utf-8", errors, write_through=bool(fd))
        stream.mode = "w" if fd else "r"  # as the interpreter sets it; fast input and output ask
        streams.append(stream)
    return streams


def run_guarded(action: Callable[[], object]) -> int:
    """Exit status of `action`; a failure is put into the report."""
    try:
        action()
        return 0
    except SystemExit as error:
        return exit_status(error)
    except BaseException as error:
        write_report(error)
        return 1


def exit_status(error: SystemExit) -> int:
    code = 0 if error.code is None else error.code
    if isinstance(code, int) and not code & 0xFF:
        return 0
    with contextlib.suppress(BaseException):  # the program may have closed it
        os.write(REPORT_FD, b"error SystemExit\n")
    if isinstance(code, int):
        return code & 0xFF
    try:
        print(error.code, file=sys.stderr)
    except BaseException:
        return 1
    return 1


def write_report(error: BaseException) -> None:
    """Error class and traceback as text. Works, with less in it, when builtins were replaced."""
    name = error.__class__.__name__
    kind, text = "error", ""
    try:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        kind = "memory" if isinstance(error, MemoryError) else "error"
        text = format_traceback(error)
    except BaseException:
        text = text or name + "\n"
    try:
        os.write(REPORT_FD, (kind + " " + name + "\n" + text).encode("utf-8", "backslashreplace"))
    except OSError:
        return  # the program closed it


def format_traceback(error: BaseException) -> str:
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename.startswith(HARNESS):
        entry = entry.tb_next
    text = "".join(traceback.format_exception(error.__class__, error, entry))
    # The same text on every machine: where an interpreter is installed is nobody's business here.
    for prefix in {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}:
        text = text.replace(f'File "{prefix}/', 'File "/usr/')
    if len(text) > TRACEBACK_CHARS:
        half = TRACEBACK_CHARS // 2
        text = text[:half] + "\n  [... traceback shortened ...]\n" + text[-half:]
    return text
