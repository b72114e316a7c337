"""Sessions: a cell that fails, or is rolled back, leaves no trace in what the state holds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sandbox import Limits, Sandbox, Session, Status
from sandbox.jailed import files

# What is there before, what a cell does to it, and what must be printed before and after.
TRACES = {
    "the working directory is removed": (
        "import os; os.mkdir('w'); os.chdir('w'); open('f', 'w').write('x')",
        "import shutil; os.chdir('..'); shutil.rmtree('w')",
        "print(os.getcwd(), os.listdir(), os.path.samefile(os.getcwd(), '.'))",
    ),
    "the working directory is renamed": (
        "import os; os.mkdir('w'); os.chdir('w')",
        "os.rename('/tmp/cwd/w', '/tmp/cwd/v'); open('f', 'w').close()",
        "print(os.getcwd(), os.listdir(), os.listdir('/tmp/cwd'))",
    ),
    "the first working directory is removed": (
        "import os; open('f', 'w').write('x')",
        "import shutil; shutil.rmtree(os.getcwd())",
        "print(os.getcwd(), os.listdir())",
    ),
    "an open file is removed": (
        "import os; f = open('log', 'w+'); f.write('one'); f.flush()",
        "os.remove('log')",
        "print(os.path.samestat(os.fstat(f.fileno()), os.stat('log')), f.tell())",
    ),
    "an open file is replaced": (
        "import os; f = open('log', 'w+'); f.write('one'); f.flush()",
        "open('new', 'w').write('two'); os.replace('new', 'log')",
        "print(os.path.samestat(os.fstat(f.fileno()), os.stat('log')), open('log').read())",
    ),
    "the directory of an open file is renamed": (
        "import os; os.mkdir('d'); f = open('d/log', 'w+'); f.write('one'); f.flush()",
        "os.rename('d', 'e')",
        "print(os.path.samestat(os.fstat(f.fileno()), os.stat('d/log')))",
    ),
    "an open file is removed whose mode lets nobody in": (
        "import os; f = open('log', 'w+'); f.write('one'); f.flush(); os.chmod('log', 0)",
        "os.remove('log')",
        "print(oct(os.stat('log').st_mode), os.pread(f.fileno(), 9, 0))",
    ),
    "an open file is removed that is written through to the disk": (
        "import os, fcntl; f = os.open('log', os.O_RDWR | os.O_CREAT | os.O_SYNC)",
        "os.remove('log')",
        "print(oct(fcntl.fcntl(f, fcntl.F_GETFL)))",
    ),
    "an open directory is removed": (
        "import os; os.mkdir('d'); fd = os.open('d', os.O_RDONLY); open('d/f', 'w').close()",
        "os.remove('d/f'); os.rmdir('d')",
        "print(os.listdir(fd))",
    ),
    "a file is removed that is open twice over one description": (
        "import os; f = os.open('log', os.O_RDWR | os.O_CREAT); g = os.dup(f); os.write(f, b'one')",
        "os.remove('log')",
        "os.lseek(f, 1, 0); print(os.lseek(g, 0, 1)); _ = os.lseek(f, 3, 0)",
    ),
    "a file without a name is written": (
        "import tempfile; f = tempfile.TemporaryFile(); f.write(b'abc'); f.flush()",
        "f.write(b'XYZ'); f.flush()",
        "f.seek(0); print(f.read())",
    ),
    "a file that was removed when it was open for writing is written": (
        "import os; f = open('d', 'w'); f.write('abc'); f.flush(); os.remove('d')",
        "f.truncate(1); f.write('XYZ'); f.flush(); os.fchmod(f.fileno(), 0)",
        "s = os.fstat(f.fileno()); print(oct(s.st_mode), s.st_size, f.tell())",
    ),
    "a memfd is written": (
        "import os; fd = os.memfd_create('x'); _ = os.write(fd, b'abc')",
        "os.pwrite(fd, b'XYZ', 0)",
        "print(os.pread(fd, 9, 0))",
    ),
    "the flags of a file are changed": (
        "import os, fcntl; f = open('q', 'w')",
        "fcntl.fcntl(f, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)",
        "print(os.get_blocking(f.fileno()), fcntl.fcntl(f, fcntl.F_GETFL) & os.O_APPEND)",
    ),
    "the flags of a pipe are changed": (
        "import os; r, w = os.pipe()",
        "os.set_blocking(r, False)",
        "print(os.get_blocking(r))",
    ),
    "directories are removed": (
        "import os; os.mkdir('d', 0o755); os.mkdir('d/e', 0o500); os.mkdir('t'); "
        "os.chmod('t', 0o1777)",
        "os.chmod('d/e', 0o700); os.rmdir('d/e'); os.rmdir('d'); os.rmdir('t')",
        "print([oct(os.stat(d).st_mode) for d in ('d', 'd/e', 't')])",
    ),
    "the modes of the roots are changed": (
        "import os",
        "os.chmod('/tmp/cwd', 0); os.chmod('/tmp', 0o700); os.chmod('/dev/shm', 0)",
        "print([oct(os.stat(d).st_mode) for d in ('/tmp/cwd', '/tmp', '/dev/shm')])",
    ),
    "a file is written": (
        "import os; open('a', 'w').write('x'); os.utime('a', (1e9, 1e9))",
        "open('a', 'w').write('y')",
        "print(os.path.getmtime('a'), open('a').read())",
    ),
    "a named pipe is removed": (
        "import os; os.mkfifo('p', 0o640)",
        "os.remove('p')",
        "print(oct(os.stat('p').st_mode))",
    ),
    "earlier states get a signal": (
        "import os, signal; x = 0\n"
        "def h(*a):\n    global x; x = 99\n"
        "signal.signal(signal.SIGUSR1, h); signal.signal(signal.SIGCONT, h)",
        "for p in filter(str.isdigit, os.listdir('/proc')):\n"
        "    if int(p) not in (1, os.getpid()):\n"
        "        os.kill(int(p), signal.SIGUSR1); os.kill(int(p), signal.SIGCONT)",
        "print(x)",
    ),
    "the process group gets a signal": (
        "import os, signal; x = 0\n"
        "def h(*a):\n    global x; x = 99\n"
        "signal.signal(signal.SIGUSR1, h)",
        "os.killpg(0, signal.SIGUSR1)",
        "print(x)",
    ),
    "signals are blocked": (
        "import signal; old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
        "signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])",
        "print(old, signal.pthread_sigmask(signal.SIG_BLOCK, []))",
    ),
}


def printed(session: Session, code: str) -> str:
    result = session.run(code)
    assert result.ok, result
    return result.stdout.strip()


@pytest.fixture(params=TRACES)
def case(request: pytest.FixtureRequest, box: Sandbox) -> str:
    if "memfd" in request.param and box.layers.no_cgroup:
        pytest.skip("programs may use memfds where a control group counts their memory")
    return str(request.param)


def test_a_failed_cell_leaves_no_trace(session: Session, case: str) -> None:
    before, cell, probe = TRACES[case]
    assert session.run(before).ok
    expected = session.run(probe)
    assert expected.ok
    for _ in range(3):  # what was put back is put back again
        assert session.run(cell + "\n1 / 0").error_class == "ZeroDivisionError"
        after = session.run(probe)
        assert (after.stdout, after.traceback) == (expected.stdout, "")


def test_a_rollback_leaves_no_trace(session: Session, case: str) -> None:
    before, cell, probe = TRACES[case]
    assert session.run(before).ok
    expected, checkpoint = session.run(probe), session.checkpoint()
    for _ in range(2):
        assert session.run(cell).ok
        session.rollback(checkpoint)
        after = session.run(probe)
        assert (after.stdout, after.traceback) == (expected.stdout, "")
        session.rollback(checkpoint)


FILES = """
import os
def listing():
    found = []
    for root in ('/tmp/cwd', '/dev/shm'):
        for top, directories, files in os.walk(root):
            for name in sorted(directories + files):
                path = os.path.join(top, name)
                status = os.lstat(path)
                text = ''
                if os.path.islink(path): text = os.readlink(path)
                elif os.path.isfile(path) and os.access(path, os.R_OK): text = open(path).read()
                found.append((path, oct(status.st_mode), text))
    return sorted(found)
os.makedirs('d/e'); open('d/e/deep', 'w').write('deep'); open('a', 'w').write('old')
os.symlink('a', 'link'); open('/dev/shm/s', 'w').write('shared')
open('secret', 'w').write('s'); os.chmod('secret', 0); os.mkdir('closed', 0o500)
print(listing())
"""


def test_a_failed_cell_takes_its_files_with_it(session: Session) -> None:
    before = printed(session, FILES)
    failed = session.run(
        "import shutil\nopen('a', 'w').write('new'); shutil.rmtree('d'); os.mkdir('a2')\n"
        "open('/dev/shm/more', 'w').write('x'); os.remove('link'); os.chmod('secret', 0o600)\n"
        "open('secret', 'w').write('other'); os.rmdir('closed'); open('closed', 'w').write('!')\n"
        "os.makedirs('/tmp/x/y/z'); os.chmod('/tmp/x', 0); 1 / 0"
    )
    assert failed.error_class == "ZeroDivisionError"
    assert printed(session, "print(listing())") == before
    assert printed(session, "print(os.path.exists('/tmp/x'))") == "False"


def test_the_files_of_a_state_come_back_with_it(session: Session) -> None:
    session.run("open('f', 'w').write('one')")
    first = session.checkpoint()
    session.run("open('f', 'w').write('two'); open('g', 'w').write('g')")
    session.rollback(first)
    assert printed(session, "import os; print(open('f').read(), os.listdir())") == "one ['f']"


def test_a_sparse_file_is_not_read_in_full(session: Session) -> None:
    code = "for i in range(500):\n    f = open(str(i), 'wb'); f.truncate(16 << 20); f.close()"
    assert session.run(code).ok
    assert session.run("open('0', 'r+b').write(b'x'); 1 / 0").error_class == "ZeroDivisionError"
    assert printed(session, "import os; print(open('0', 'rb').read(1), os.path.getsize('0'))") == (
        "b'\\x00' 16777216"
    )


@pytest.mark.slow
def test_checkpoints_of_large_files_are_refused_and_not_fatal(session: Session) -> None:
    code = "import os\nfor d in ('/tmp', '/dev/shm'):\n    for k in range(3):\n        "
    code += "open(f'{d}/f{k}', 'wb').write(os.urandom(1 << 20) * 16)"
    outcomes = []
    for _ in range(4):
        outcomes.append(session.run(code).error_class)
        session.checkpoint()
    assert outcomes[:2] == ["", ""] and outcomes[-1] == "SessionFilesError"
    assert printed(session, "print(os.path.getsize('/tmp/f2'))") == str(16 << 20)


def test_open_files_stay_open(session: Session) -> None:
    session.run("f = open('log', 'w+'); f.write('one '); f.flush()")
    session.run("f.write('two'); f.flush()")
    assert printed(session, "f.seek(0); print(f.read())") == "one two"


def test_a_failed_cell_does_not_move_open_files(session: Session) -> None:
    session.run("open('data', 'w').write('abcdef'); f = open('data'); first = f.read(0)")
    checkpoint = session.checkpoint()
    assert session.run("print(f.read()); 1 / 0").stdout == "abcdef\n"
    assert printed(session, "print(f.read())") == "abcdef"
    assert printed(session, "print(f.read())") == ""
    session.rollback(checkpoint)
    assert printed(session, "print(f.read())") == "abcdef"


def test_open_files_stay_those_of_their_names(session: Session) -> None:
    session.run("f = open('log', 'w+'); f.write('one '); f.flush()")
    session.run("open('log', 'a').write('no'); import os; os.chmod('log', 0); 1 / 0")
    assert printed(session, "f.write('two'); f.flush(); print(open('log').read())") == "one two"


def test_a_cell_may_remove_its_working_directory(session: Session) -> None:
    session.run("import os; os.mkdir('w'); os.chdir('w'); os.rmdir('/tmp/cwd/w')")
    assert session.run("os.getcwd()").error_class == "FileNotFoundError"
    assert session.run("os.chdir('/tmp/cwd'); print(os.listdir())").stdout == "[]\n"


def test_large_files_without_a_name_are_refused(session: Session) -> None:
    session.run("import os, tempfile; x = 1")
    write = "files = [tempfile.TemporaryFile(dir=d) for d in ('/tmp', '/dev/shm') for _ in '123']\n"
    write += "for f in files: os.write(f.fileno(), b'x' * (15 << 20))"
    assert session.run(write).error_class == "SessionFilesError"
    assert session.run("print(x)").stdout == "1\n"


def test_a_state_holds_nothing_open_that_its_cells_did_not_open(box: Sandbox) -> None:
    if box.tier != "full":
        pytest.skip("sessions need tier full")
    with box.session() as session:
        opened = session.run("import os; print(len(os.listdir('/proc/self/fd')))\n#" + "x" * 99_999)
        assert int(opened.stdout) == 6  # 0, 1, 2, the report, the link, and the list itself


def test_a_source_that_memory_does_not_hold_is_the_programs_failure(session: Session) -> None:
    with session._sandbox.session(limits=Limits(memory_mb=64)) as small:
        for before in ("", "x = 1"):
            assert small.run(before).ok
            result = small.run("#" + "x" * (100 << 20))
            assert (result.status, result.error_class) == (Status.MEMORY, "MemoryError")
        assert small.run("print(x)").stdout == "1\n"


def test_a_change_within_a_tick_of_the_kernels_clock_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.13 files are dated by ticks; here every two changes have the same date."""
    now = time.time_ns()

    def mark_of(status: os.stat_result) -> tuple[int, ...]:
        return status.st_mode, status.st_ino, status.st_size, now, now

    monkeypatch.setattr(files, "mark_of", mark_of)
    file = tmp_path / "file"
    file.write_text("old")
    kept = files.Files((str(tmp_path),), ())
    later = kept.after()
    assert files.kept_bytes([kept, later]) == 3
    file.write_text("new")
    later.restore()
    assert file.read_text() == "old"


def test_an_open_file_without_a_name_that_no_cell_touches_keeps_its_dates(session: Session) -> None:
    date = "print(os.fstat(f.fileno()).st_ctime_ns)"
    make = "import os, tempfile; f = tempfile.TemporaryFile(); f.write(b'kept'); f.flush(); "
    assert printed(session, make + date) == printed(session, date) == printed(session, date)
