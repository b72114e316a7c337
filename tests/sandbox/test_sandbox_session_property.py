"""Sessions against a plain model: what a session holds is what one program makes of its cells."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from sandbox import Limits, Sandbox, Session

BEGIN = """
import os, fcntl, random, shutil, signal, tempfile
random.seed(0)
values, opened, ticks = {}, {}, 0
def tick(*arguments):
    global ticks
    ticks += 1
signal.signal(signal.SIGUSR1, tick)
os.umask(0o022)
"""
# Every file that is open, and all that lies below the roots, as far as a program can tell.
PROBE = """
def _probe():
    seen = []
    for name, f in sorted(opened.items()):
        s = os.fstat(f.fileno())
        link = os.readlink(f'/proc/self/fd/{f.fileno()}').split(' ')[0]
        here = os.path.exists(link) and os.path.samestat(s, os.stat(link))
        flags = fcntl.fcntl(f, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK)
        text = os.pread(os.open(f'/proc/self/fd/{f.fileno()}', os.O_RDONLY), 9999, 0)
        position = os.lseek(f.fileno(), 0, 1)
        seen.append((name, here and link, s.st_size, oct(s.st_mode), position, flags, text))
    for root in ('/tmp', '/dev/shm'):
        seen.append((root, oct(os.stat(root).st_mode)))
    for top, directories, files in os.walk('/tmp/cwd'):
        directories.sort()
        seen.append((top, oct(os.stat(top).st_mode)))
        for name in sorted(files):
            path = os.path.join(top, name)
            text = os.readlink(path) if os.path.islink(path) else open(path).read()
            seen.append((path, oct(os.lstat(path).st_mode), text))
    try:
        here = os.getcwd(), os.path.samefile(os.getcwd(), '.')
    except OSError:
        here = None
    print(values, ticks, os.environ.get('E'), here, os.umask(0o022), random.random(), seen)
_probe()
"""
OPERATIONS = (
    "values[{n}] = {k}",
    "values[{n}] = random.random()",
    "os.environ['E'] = '{k}'",
    "ticks += 1",
    "open('f{n}', 'w').write('{k}' * 99)",
    "open('f{n}', 'a').write('{k}')",
    "os.remove('f{n}')",
    "os.rename('f{n}', 'f{m}')",
    "os.symlink('f{n}', 'l{m}')",
    "os.chmod('f{n}', 0o6{n}0)",
    "os.makedirs('d{n}/e'); open('d{n}/e/g', 'w').write('{k}')",
    "os.rename('d{n}', 'd{m}')",
    "os.chmod('d{n}', 0o75{m})",
    "os.chmod('/tmp/cwd', 0o70{n}); os.chmod('/dev/shm', 0o1770)",
    "os.chdir('d{n}')",
    "os.chdir('/tmp/cwd')",
    "shutil.rmtree('/tmp/cwd/d{n}')",
    "opened[{n}] = open('f{m}', 'w+')",
    "opened[{n}] = open('d{m}/e/h', 'a')",
    "opened[{n}] = os.fdopen(os.dup(opened[{m}].fileno()), 'r+')",
    "opened[{n}] = tempfile.TemporaryFile('w+')",
    "opened[{n}].write('{k}'); opened[{n}].flush()",
    "opened[{n}].seek({m}); opened[{n}].truncate()",
    "os.fchmod(opened[{n}].fileno(), 0o6{m}0)",
    "os.set_blocking(opened[{n}].fileno(), False)",
    "fcntl.fcntl(opened[{n}], fcntl.F_SETFL, os.O_APPEND)",
    "opened.pop({n}).close()",
)
FAILURES = (
    "1 / 0",
    "os._exit(0)",
    "os.kill(os.getpid(), 9)",
    "raise SystemExit(4)",
    "print('z' * 20_000)",
    "os.closerange(3, 256)",
    "shutil.rmtree('/tmp/cwd', ignore_errors=True); 1 / 0",
    "for p in filter(str.isdigit, os.listdir('/proc')):\n"
    "    if int(p) not in (1, os.getpid()): os.kill(int(p), signal.SIGUSR1)\n1 / 0",
    "import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
)


SEQUENCES = int(os.environ.get("SESSION_SEQUENCES", "200"))
"""Of the exhaustive test; 2,000 take about seven minutes on two cores."""


@pytest.fixture(scope="module")
def small(box: Sandbox) -> Iterator[Sandbox]:
    if box.tier != "full":
        pytest.skip(f"sessions need tier full, and this machine gives {box.tier}")
    with Sandbox(preload=(), limits=Limits(wall_s=20, cpu_s=20)) as opened:
        yield opened


def operation(draw: random.Random) -> str:
    n, m = draw.sample(range(3), 2)
    code = draw.choice(OPERATIONS).format(n=n, m=m, k=draw.randrange(1000))
    return "try:\n    " + code.replace("; ", "\n    ") + "\nexcept (OSError, KeyError): pass\n"


def model(sandbox: Sandbox, cells: list[str]) -> str:
    """What the probe prints after these cells in one program."""
    result = sandbox.run("\n".join(f"exec({cell!r})" for cell in [BEGIN, *cells, PROBE]))
    assert result.ok, (result, cells)
    return result.stdout


def compare(sandbox: Sandbox, session: Session, seed: int, operations: int) -> None:
    draw = random.Random(seed)
    assert session.run(BEGIN).ok
    cells: list[str] = []
    checkpoints: dict[int, list[str]] = {}
    for _ in range(operations):
        kind = draw.random()
        cell = operation(draw)
        if kind < 0.5:
            result = session.run(cell)
            assert result.ok, (seed, cell, result)
            cells.append(cell)
        elif kind < 0.75:
            failing = cell + draw.choice(FAILURES)
            assert not session.run(failing).ok, (seed, failing)
        elif kind < 0.85 and len(checkpoints) < 8:
            checkpoints[session.checkpoint()] = list(cells)
        elif checkpoints:
            checkpoint = draw.choice(list(checkpoints))
            session.rollback(checkpoint)
            cells = list(checkpoints[checkpoint])
    for _ in range(2):
        probed = session.run(PROBE + "1 / 0")
        assert probed.stdout == model(sandbox, cells), (seed, cells, probed)


@pytest.mark.parametrize("seed", range(30))
def test_a_session_holds_what_its_cells_make(small: Sandbox, seed: int) -> None:
    with small.session() as session:
        compare(small, session, seed, 12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("hundred", range(SEQUENCES // 100))
def test_sessions_hold_what_their_cells_make(small: Sandbox, hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        with small.session() as session:
            compare(small, session, 10_000 + seed, 30)
