"""Control groups: what all processes of a program use together is bounded, where that can be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import sandbox.cgroup
from sandbox import Limits, Sandbox, Status
from sandbox.cgroup import V1, V2, Cgroup, Files, make_cgroup, started

LIMITS = Limits(wall_s=20.0, cpu_s=20.0, memory_mb=256)


@pytest.fixture
def grouped(box: Sandbox) -> Iterator[Sandbox]:
    if box.layers.no_cgroup:
        pytest.skip(f"no cgroups here: {box.layers.no_cgroup}")
    with Sandbox(limits=LIMITS) as own:
        yield own
        assert own.run("print('alive')").stdout == "alive\n" and own.faults == 0


def groups() -> list[Path]:
    return list(Path("/sys/fs/cgroup").glob(f"**/code-sandbox-{os.getpid()}-*"))


FORKS = """
import os
end, may_end = os.pipe()
filled = []
for _ in range(4):
    reader, writer = os.pipe()
    if not os.fork():
        os.close(may_end)
        x = bytearray(200 << 20)
        os.write(writer, b"x")
        os.read(end, 1)  # keeps its memory until all have tried
        os._exit(0)
    os.close(writer)
    filled.append(reader)
for reader in filled: os.read(reader, 1)
os.close(may_end)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in filled]
print(codes.count(-9) >= 2)
"""


def test_the_sum_over_processes_is_bounded(grouped: Sandbox) -> None:
    assert grouped.run(FORKS).stdout == "True\n"


def test_who_is_killed_for_the_sum_ran_out_of_memory(grouped: Sandbox) -> None:
    code = "import os\nfor i in range(55): os.write(os.memfd_create(str(i)), bytes(15 << 20))"
    result = grouped.run(code)
    assert (result.status, result.error_class) == (Status.MEMORY, "MemoryError")
    assert "more than 256 MiB" in result.traceback


def test_a_session_counts_as_well(grouped: Sandbox) -> None:
    if grouped.tier != "full":
        pytest.skip("no sessions here")
    with grouped.session() as session:
        session.run("x = bytearray(200 << 20)")
        assert grouped.run("x = bytearray(200 << 20); print(len(x) >> 20)").stdout == "200\n"
        assert session.run("print(len(x) >> 20)").stdout == "200\n"


def test_groups_go_with_their_worker(grouped: Sandbox) -> None:
    before = set(groups())
    with Sandbox() as other:
        other.run("")
        made = set(groups()) - before
        assert made
    assert not made & set(groups())


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of /sys/fs/cgroup."""
    monkeypatch.setattr(sandbox.cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(sandbox.cgroup, "REMOVE_S", 0.05)
    monkeypatch.setattr(sandbox.cgroup, "own_path", lambda controller: "/user/app/me")
    (tmp_path / "user/app/me").mkdir(parents=True)
    return tmp_path


def test_v2_goes_below_the_nearest_ancestor_that_hands_memory_on(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("cpu memory pids")
    (tree / "cgroup.subtree_control").write_text("memory")
    (tree / "user/app/cgroup.subtree_control").write_text("memory pids")
    group, why = make_cgroup()
    assert group and not why and group.memory.parent == tree / "user/app"
    group.allow(300, 20)
    assert (group.memory / "memory.max").read_text() == str(300 << 20)
    (group.memory / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.oom_kills() == 2 and group.files is V2


def test_v2_without_a_controller_says_so(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("cpu")
    group, why = make_cgroup()
    assert group is None and "hands on the controller of memory" in why


def test_v1_has_a_group_for_each_controller(tree: Path) -> None:
    for name in ("memory", "pids"):
        (tree / name / "user/app/me").mkdir(parents=True)
    (tree / "memory" / V1.memory).write_text("")
    (tree / "pids/cgroup.procs").write_text("")
    group, why = make_cgroup()
    assert group and not why and group.pids and group.pids.parent == tree / "pids/user/app/me"
    group.allow(1, 7)
    assert (group.pids / "pids.max").read_text() == "7"


def test_groups_of_processes_that_are_gone_are_removed(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("memory")
    (tree / "user/cgroup.subtree_control").write_text("memory")
    (namespace, _), parent = started(os.getpid()).split("."), os.getppid()
    dead = subprocess.Popen(["true"])  # and not waited for
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    names = {
        "999999999-0": False,  # of an older version
        f"999999999-{namespace}.1-0": False,
        f"{parent}-{namespace}.1-0": False,  # another process had the number
        f"{dead.pid}-{namespace}.1-0": False,
        f"{parent}-{started(parent)}-0": True,
        f"{os.getpid()}-{started(os.getpid())}-77": True,
        "999999999-1.1-0": True,  # in another pid namespace
    }
    for name in names:
        (tree / f"user/code-sandbox-{name}").mkdir()
    group, _ = make_cgroup()
    assert group and started(dead.pid) == ""
    dead.wait()
    assert {name: (tree / f"user/code-sandbox-{name}").exists() for name in names} == names


def test_groups_of_both_controllers_go_with_their_host(tree: Path) -> None:
    for name in ("memory", "pids"):
        (tree / name / "user/app/me/code-sandbox-999999999-0").mkdir(parents=True)
    (tree / "memory" / V1.memory).write_text("")
    (tree / "pids/cgroup.procs").write_text("")
    group, _ = make_cgroup()
    assert group and group.pids
    for path in (group.memory, group.pids):
        assert list(path.parent.iterdir()) == [path]


def test_no_group_stays_when_the_other_cannot_be_made(tree: Path) -> None:
    (tree / "memory/user/app/me").mkdir(parents=True)
    (tree / "pids").mkdir()  # without a group of ours
    (tree / "memory" / V1.memory).write_text("")
    (tree / "pids/cgroup.procs").write_text("")
    assert make_cgroup()[0] is None
    assert list((tree / "memory/user/app/me").iterdir()) == []


def test_a_group_that_could_not_be_removed_goes_later(tree: Path) -> None:
    (tree / "cgroup.controllers").write_text("memory")
    (tree / "user/cgroup.subtree_control").write_text("memory")
    group, _ = make_cgroup()
    assert group
    busy = group.memory / "busy"
    busy.mkdir()
    for name in group.files.extra:
        (group.memory / name).unlink()
    group.remove()
    assert group.memory.exists()
    busy.rmdir()
    assert make_cgroup()[0] and not group.memory.exists()


def test_the_shell_enters_every_group_before_the_command(tmp_path: Path) -> None:
    group = Cgroup(tmp_path / "m", tmp_path / "p", V1)
    for path in (group.memory, group.pids):
        assert path
        path.mkdir()
    command = group.enter(["/bin/sh", "-c", f"cat {tmp_path}/m/cgroup.procs; echo $$"])
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(lines) == 2 and lines[0] == lines[1]


@pytest.mark.slow
def test_a_large_session_that_ends_costs_the_others_nothing(grouped: Sandbox) -> None:
    if grouped.tier != "full":
        pytest.skip("no sessions here")
    with grouped.session() as other:
        other.run("x = 1")
        large = grouped.session(limits=replace(LIMITS, memory_mb=1800))
        assert large.run("x = bytearray(1500 << 20)").ok
        large.close()
        assert grouped.run("print('at once')").stdout == "at once\n"
        assert grouped.faults == 0 and other.run("print(x)").stdout == "1\n"


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_what_the_kernel_can_read_again_from_disk_is_not_held(tmp_path: Path, files: Files) -> None:
    group = Cgroup(tmp_path, None, files)
    (tmp_path / files.usage).write_text(f"{100 << 20}\n")
    stat = f"anon 5\n{files.cache.decode()} {50 << 20}\nshmem {10 << 20}\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert group.holds_more_than(59) and not group.holds_more_than(60)
    group.remove()
    assert group.opened == {}
