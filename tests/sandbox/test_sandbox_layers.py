"""The system call filter and Landlock: each denial is tried, and what is missing is said."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandbox.pool
from sandbox import IsolationUnavailable, Limits, Sandbox, Status
from sandbox.jail import Jail
from sandbox.jailed import bpf, seccomp
from sandbox.layers import TIER_COSTS, Layers, describe

SHORT = Limits(wall_s=0.2)
MACHINES = sorted(seccomp.ARCHITECTURES)
ALWAYS_DENIED = sorted(name for name, rule in seccomp.BASE.items() if isinstance(rule, int))
STRICTLY_DENIED = sorted(name for name in seccomp.STRICT if name not in seccomp.BASE)
FAMILIES = range(1, 46)
NAMESPACES = (0x20000, 0x10000000, 0x20000000, 0x40000000)
CALLS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for name, numbers, arguments in {calls}:
    number = numbers[os.uname().machine == "aarch64"]
    ctypes.set_errno(0)
    print(name, number is None or (libc.syscall(number, *arguments), ctypes.get_errno()), sep=": ")
"""


@pytest.fixture(scope="module")
def bare() -> Iterator[Sandbox]:
    """The tier for machines without namespaces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox.pool, "find_bwrap", lambda: ([], []))
        try:
            box = Sandbox(limits=Limits(wall_s=10, cpu_s=10))
        except IsolationUnavailable as error:
            pytest.skip(str(error))
    with box:
        yield box
        assert box.run("print('alive')").stdout == "alive\n"
        assert box.faults == 0


def outcomes(box: Sandbox, calls: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """What each system call answers; all are tried by one program.

    Args:
        calls: the arguments by ``"name"`` or ``"name which"``.
    """
    numbered = [(key, seccomp.NUMBERS[key.split()[0]], given) for key, given in calls.items()]
    result = box.run(CALLS.format(calls=numbered))
    return dict(line.split(": ", 1) for line in result.stdout.splitlines())


def invalid(names: list[str]) -> dict[str, tuple[int, ...]]:
    """Calls of which nothing could come if they were let through."""
    return dict.fromkeys(names, (-1, -1, -1, -1, -1))


@pytest.fixture(scope="module")
def denials(box: Sandbox) -> dict[str, str]:
    """What the calls answer that no tier lets through."""
    if box.layers.no_seccomp:
        pytest.skip(box.layers.no_seccomp)
    clones = {f"clone {flag:#x}": (flag | 17, 0, 0, 0, 0) for flag in NAMESPACES}
    sockets = {f"socket {family}": (family, 2, 0) for family in FAMILIES}
    return outcomes(box, invalid(ALWAYS_DENIED) | clones | sockets)


@pytest.fixture(scope="module")
def strict_denials(bare: Sandbox) -> dict[str, str]:
    """What the calls answer that are denied without namespaces."""
    denied = [name for name in STRICTLY_DENIED if isinstance(seccomp.STRICT[name], int)]
    return outcomes(bare, invalid(denied))


@pytest.mark.parametrize("name", ALWAYS_DENIED)
def test_denied_everywhere(denials: dict[str, str], name: str) -> None:
    number = seccomp.BASE[name]
    assert denials[name] in ("True", str((-1 if number else 0, number)))


@pytest.mark.parametrize("name", STRICTLY_DENIED)
def test_denied_without_namespaces(strict_denials: dict[str, str], name: str) -> None:
    if isinstance(seccomp.STRICT[name], int):
        assert strict_denials[name] in ("True", str((-1, errno.EPERM)))


@pytest.mark.parametrize("flag", NAMESPACES)
def test_clone_into_a_namespace(denials: dict[str, str], flag: int) -> None:
    assert denials[f"clone {flag:#x}"] == str((-1, errno.EPERM))


@pytest.mark.parametrize("family", FAMILIES)
def test_sockets_of_every_family(box: Sandbox, denials: dict[str, str], family: int) -> None:
    if family == socket.AF_UNIX and box.bwrap:  # a jail has its own
        assert denials[f"socket {family}"].endswith(", 0)")
    else:
        assert denials[f"socket {family}"] == str((-1, errno.EACCES))


def test_calls_newer_than_the_table_do_not_exist(box: Sandbox) -> None:
    code = "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nfor n in (500, 2**30 + 39):\n"
    code += "    l.syscall(n, 0); print(ctypes.get_errno())"
    assert box.run(code).stdout == f"{errno.ENOSYS}\n{errno.ENOSYS}\n"


def test_a_call_of_another_architecture_is_death(box: Sandbox) -> None:
    code = """
import ctypes, mmap, platform
assert platform.machine() == "x86_64"
page = mmap.mmap(-1, 4096, prot=7)
page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # getpid as an i386 program asks for it
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print("back")
"""
    result = box.run(code)
    if "AssertionError" in result.traceback:
        pytest.skip("x86_64 only")
    assert (result.status, result.stdout) == (Status.SIGNAL, "")


def test_asyncio_and_threads_still_work(box: Sandbox, bare: Sandbox) -> None:
    code = """
import asyncio, threading
threading.Thread(target=print, args=("thread",)).start()
async def main():
    await asyncio.sleep(0)
    print(await asyncio.to_thread(abs, -3))
asyncio.run(main())
"""
    for each in (box, bare):
        assert sorted(each.run(code).stdout.split()) == ["3", "thread"]


def test_landlock_tier_has_it_all(bare: Sandbox) -> None:
    assert bare.tier == "landlock" and bare.layers.landlock >= 3
    assert bare.run("import os; print(os.getuid())").stdout != "0\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "/proc/1/cmdline", "/"])
def test_landlock_hides_what_files_contain(bare: Sandbox, path: str) -> None:
    code = f"import os; print(os.listdir({path!r}) if {path!r} == '/' else open({path!r}).read())"
    assert bare.run(code).error_class == "PermissionError"


def test_landlock_denies_writing_elsewhere(bare: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    target = tmp_path / "target"
    target.write_text("kept")
    target.chmod(0o666)
    for action in (
        f"open({str(target)!r}, 'w')",
        f"os.truncate({str(target)!r}, 0)",
        f"os.unlink({str(target)!r})",
        f"os.rename({str(target)!r}, 'mine')",
        f"os.link({str(target)!r}, 'mine')",
        f"os.chmod({str(target)!r}, 0)",
        f"os.utime({str(target)!r})",
        f"os.mkdir({str(tmp_path / 'new')!r})",
        f"os.symlink('x', {str(tmp_path / 'new')!r})",
        "open('/dev/shm/x', 'w')",
        "open(os.__file__, 'a')",
    ):
        assert bare.run(f"import os; {action}").status is Status.ERROR, action
    assert target.read_text() == "kept" and list(tmp_path.iterdir()) == [target]


def test_a_symlink_does_not_lead_out(bare: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    code = f"import os; os.symlink({str(secret)!r}, 'link'); open('link')"
    assert bare.run(code).error_class == "PermissionError"


@pytest.mark.parametrize(
    "action",
    ["os.fork()", "os.execv('/bin/true', ['x'])", "os.kill(os.getppid(), 9)", "os.kill(0, 9)",
     "os.kill(-1, 9)", "os.setsid()", "os.sched_setaffinity(os.getppid(), [0])",
     "os.system('true') == 0 or 1 / 0", "os.pidfd_open(os.getppid())",
     "__import__('resource').prlimit(os.getppid(), 7, (0, 0))",
     "__import__('subprocess').run(['true'])", "__import__('multiprocessing').Pool(1)"],
)  # fmt: skip
def test_nothing_reaches_other_processes(bare: Sandbox, action: str) -> None:
    result = bare.run(f"import os; {action}", limits=SHORT)
    assert result.status in (Status.ERROR, Status.SIGNAL, Status.TIMEOUT)


def test_a_program_may_end_itself(bare: Sandbox) -> None:
    result = bare.run("import os; os.kill(os.getpid(), 9)")
    assert (result.status, result.error_class) == (Status.SIGNAL, "SIGKILL")


def test_many_threads_are_bounded(bare: Sandbox) -> None:
    code = """
import threading, time
try:
    while True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
except (RuntimeError, MemoryError): print(threading.active_count() < 500)
import os; os._exit(0)
"""
    assert bare.run(code).stdout == "True\n"


def test_files_and_limits_without_namespaces(bare: Sandbox) -> None:
    assert bare.run("open('leak', 'w').write('x'); print(open('leak').read())").stdout == "x\n"
    assert bare.run("import os; print(os.listdir())").stdout == "[]\n"
    assert bare.run("while True: pass", limits=SHORT).status is Status.TIMEOUT
    assert bare.run("x = 'a' * 10**10").status is Status.MEMORY
    assert bare.run("import tempfile; print(tempfile.TemporaryFile().write(b'x'))").stdout == "1\n"


def test_a_directory_of_any_depth_is_removed(bare: Sandbox) -> None:
    where = bare.run("import os; print(os.path.dirname(os.getcwd()))").stdout.strip()
    deep = "import os\nfor _ in range(2500): os.mkdir('d' * 20); os.chdir('d' * 20)"
    assert bare.run(deep).ok
    assert bare.run("print(1)").ok and bare.faults == 0
    assert len(os.listdir(where)) <= 1  # the next program's may be there


def test_a_failing_bubblewrap_leads_to_landlock(
    bare: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sandbox.pool, "find_bwrap", lambda: ([str(fake)], []))
    with Sandbox() as box:
        assert box.tier == box.run("print(1)").tier == "landlock"
        assert len(box.tried) == 3 and "No permissions" in box.tried[0]


@pytest.mark.parametrize("tier", ["no-proc", "jail"])
def test_the_filter_is_in_weaker_tiers(
    box: Sandbox, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [Jail(tier, bwraps[0])])
    with Sandbox() as weaker:
        assert outcomes(weaker, invalid(["ptrace"])) == {"ptrace": str((-1, errno.EPERM))}


@pytest.mark.parametrize("number", [9, 19])
def test_landlock_keeps_signals_from_the_zygote(
    box: Sandbox, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if box.layers.landlock < 6:
        pytest.skip("Landlock knows no signals before ABI 6")
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [Jail("jail", bwraps[0])])
    with Sandbox() as weaker:
        result = weaker.run(f"import os; os.kill(os.getppid(), {number})")
        assert result.error_class == "PermissionError" and weaker.faults == 0


@pytest.mark.usefixtures("box")
def test_the_other_walls_hold_without_the_layers(no_layers: None) -> None:
    with Sandbox() as older:
        assert (older.layers.landlock, older.layers.no_seccomp) == (0, "not in this test")
        for call in ("unshare(0x10000000)", "unshare(0x20000)", "mount(b'x', b'/tmp', 0, 0, 0)"):
            assert older.run(f"import ctypes; print(ctypes.CDLL(None).{call})").stdout == "-1\n"
        code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
        assert older.run(code).error_class == "ConnectionRefusedError"
        assert older.run("open('/etc/passwd')").error_class == "FileNotFoundError"
        result = older.run("import os; open(os.__file__, 'a')")
        assert result.error_class in ("OSError", "PermissionError")
        assert older.run("import os; os.kill(0, 9)").status in (Status.OK, Status.SIGNAL)
        assert (older.faults, older.tried) == (0, [])


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", [seccomp.BASE, seccomp.STRICT], ids=["base", "strict"])
def test_the_filter_decides_every_call(machine: str, policy: dict[str, seccomp.Rule]) -> None:
    """The program as assembled, run by a small interpreter, for every number there is."""
    program = seccomp.compile_filter(machine, policy, pid=4711)
    column = list(seccomp.ARCHITECTURES).index(machine)
    rules = {seccomp.NUMBERS[name][column]: rule for name, rule in policy.items()}
    for number in range(520):
        rule = rules.get(number) if number <= seccomp.LAST_KNOWN else errno.ENOSYS
        verdict = interpret(program, seccomp.ARCHITECTURES[machine], number, (4711, 0))
        if not isinstance(rule, seccomp.Check):
            assert verdict == (seccomp.ALLOW if rule is None else seccomp.ERRNO | rule), number
    assert interpret(program, 0x40000003, 20, ()) == seccomp.KILL_PROCESS


def interpret(program: bytes, architecture: int, number: int, arguments: tuple[int, ...]) -> int:
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    lines, at, word = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        code, then, otherwise, value = lines[at]
        at += 1
        if code == bpf.RETURN:
            return int(value)
        if code == bpf.LOAD:
            (word,) = struct.unpack_from("=I", data, value)
        elif code == bpf.JUMP:
            at += value
        else:
            holds = {
                bpf.JUMP_EQUAL: word == value,
                bpf.JUMP_AT_LEAST: word >= value,
                bpf.JUMP_BITS: bool(word & value),
            }[code]
            at += then if holds else otherwise


def test_tables_agree_with_the_running_system() -> None:
    """Against the numbers in the C headers, where they are installed."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no kernel headers")
    words = [line.split() for line in header.read_text().splitlines() if "__NR_" in line]
    known = {word[1].removeprefix("__NR_"): int(word[2]) for word in words if len(word) == 3}
    for name, (number, _) in seccomp.NUMBERS.items():
        assert known.get(name, number) == number, name


def test_a_jump_that_is_too_long_is_refused() -> None:
    program = bpf.Program()
    program.branch(bpf.JUMP_EQUAL, 1, then="end")
    for _ in range(300):
        program.give(0)
    program.label("end")
    with pytest.raises(struct.error):
        program.assemble()


def test_what_is_missing_is_said() -> None:
    assert describe("full", Layers(7, "", "")) == [
        "cgroup: yes",
        "seccomp: yes",
        "landlock: ABI 7",
    ]
    for tier, cost in TIER_COSTS.items():
        text = "\n".join(describe(tier, Layers(0, "not here", "nor this")))
        assert cost in text and "not here" in text and "lsm=" in text
    assert "TCP" in "\n".join(describe("full", Layers(2, "", "")))
