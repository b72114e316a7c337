"""Programs that start processes by the module multiprocessing, in each of its ways."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import sandbox.jail
from sandbox import Limits, Sandbox, Status

WAYS = ["fork", "spawn", "forkserver"]
LIMITS = Limits(wall_s=20.0, cpu_s=20.0)
POOL = """
import multiprocessing as mp
def double(x): return 2 * x
if __name__ == "__main__":
    with mp.get_context("{way}").Pool(2) as pool:
        print(pool.map(double, range(4)))
"""
EXECUTOR = """
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor
def double(x): return 2 * x
if __name__ == "__main__":
    mp.set_start_method("{way}", force=True)
    with ProcessPoolExecutor(2) as pool:
        print(list(pool.map(double, range(4))))
"""
QUEUES = """
import multiprocessing as mp
class Point:
    def __init__(self, x): self.x = x
def work(queue, value, pipe):
    queue.put([Point(3)])
    with value.get_lock(): value.value += 4
    pipe.send(__name__)
if __name__ == "__main__":
    context = mp.get_context("{way}")
    queue, value, (ours, theirs) = context.Queue(), context.Value("i", 1), context.Pipe()
    process = context.Process(target=work, args=(queue, value, theirs))
    process.start()
    name = ours.recv()
    print(queue.get()[0].x, value.value, name)
    process.join()
    print(process.exitcode)
"""
MANAGER = """
import multiprocessing as mp
def work(shared): shared["x"] = 6
if __name__ == "__main__":
    context = mp.get_context("{way}")
    with context.Manager() as manager:
        shared = manager.dict()
        process = context.Process(target=work, args=(shared,))
        process.start()
        process.join()
        print(shared["x"])
"""


@pytest.fixture(autouse=True)
def processes(box: Sandbox) -> None:
    if box.tier == "landlock":
        pytest.skip("no processes here")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("program", "printed"),
    [
        (POOL, "[0, 2, 4, 6]\n"),
        (EXECUTOR, "[0, 2, 4, 6]\n"),
        (QUEUES, "3 5 {main}\n0\n"),
        (MANAGER, "6\n"),
    ],
    ids=["pool", "executor", "queues", "manager"],
)
def test_every_way_to_start_processes(box: Sandbox, program: str, printed: str, way: str) -> None:
    result = box.run(program.replace("{way}", way), limits=LIMITS)
    main = "__main__" if way == "fork" else "__mp_main__"
    assert (result.stdout, result.stderr) == (printed.replace("{main}", main), "")
    assert result.ok, result.traceback


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_without_a_guard_python_says_what_is_missing(box: Sandbox, way: str) -> None:
    code = EXECUTOR.replace("{way}", way).replace('if __name__ == "__main__":', "if True:")
    result = box.run(code, limits=LIMITS)
    # The second process is asked for before or after the fork server has ended over the first.
    classes = {"BrokenProcessPool"} | ({"ConnectionResetError"} if way == "forkserver" else set())
    assert result.status == Status.ERROR and result.error_class in classes
    assert "if __name__ == '__main__':" in result.stderr


def test_the_file_of_a_program_is_there_when_it_is_asked_for(box: Sandbox) -> None:
    code = """\
import os, sys
print(__file__, os.listdir())
path = sys.modules["__main__"].__file__
print(path == os.path.abspath(__file__), os.listdir())
print(open(__file__).read().splitlines()[1])
os.chdir("/")
print(sys.modules["__main__"].__file__ == path)
"""
    lines = box.run(code).stdout.splitlines()
    assert lines == [
        "main.py []", "True ['main.py']", code.splitlines()[1], "True"
    ]  # fmt: skip


def test_another_file_of_that_name_is_left_alone(box: Sandbox) -> None:
    code = "import sys\nopen('main.py', 'w').write('mine')\nsys.modules['__main__'].__file__"
    result = box.run(code)
    assert result.error_class == "FileExistsError" and "not this program" in result.traceback


def test_a_program_may_name_its_file_itself(box: Sandbox) -> None:
    code = "import sys, os\nmain = sys.modules['__main__']\nmain.__file__ = 'x'\n"
    assert box.run(f"{code}print(main.__file__, __file__, os.listdir())").stdout == "x x []\n"


NAMED = """
import socket, sys
try:
    server = socket.socket(socket.AF_UNIX)
    server.bind(b"\\0name")
    server.listen()
except PermissionError: print("refused")
"""
REACHED = """
import socket
try: socket.socket(socket.AF_UNIX).connect(b"\\0name")
except OSError as error: print(type(error).__name__)
"""


def test_sockets_of_one_session_are_not_another_s(box: Sandbox) -> None:
    if box.tier != "full":
        pytest.skip("no sessions here")
    with box.session() as first, box.session() as second:
        assert first.run(NAMED).ok
        assert second.run(REACHED).stdout in ("PermissionError\n", "ConnectionRefusedError\n")
        assert box.run(REACHED).stdout in ("PermissionError\n", "ConnectionRefusedError\n")


def test_where_landlock_does_not_keep_them_apart_sessions_have_no_sockets(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if box.tier != "full" or box.layers.no_seccomp:
        pytest.skip("no sessions here, or no filter")
    copy = tmp_path / "jailed"
    shutil.copytree(sandbox.jail.JAILED, copy, ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / "landlock.py", "a") as file:
        file.write("\n\ndef abi() -> int:\n    return 0\n")
    monkeypatch.setattr(sandbox.jail, "JAILED", copy)
    with Sandbox(preload=()) as older, older.session() as session:
        assert session.run(NAMED).stdout == "refused\n"
        assert session.run("import asyncio; asyncio.run(asyncio.sleep(0))").ok
        assert older.run(POOL.replace("{way}", "forkserver"), limits=LIMITS).ok
