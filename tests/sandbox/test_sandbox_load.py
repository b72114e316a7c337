"""bench and soak, in small."""

from __future__ import annotations

import os

import pytest

from sandbox import Sandbox, SandboxError, Status
from sandbox.__main__ import main
from sandbox.bench import Row, bench
from sandbox.soak import HOSTILE, Sample, Soak, limits_of

needs_isolation = pytest.mark.usefixtures("box")  # skips where there is none

pytestmark = pytest.mark.exhaustive


def test_bench_compares_three_ways(box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.bench.PROGRAMS", {"empty": "print(42)"})
    before = os.sched_getaffinity(0)
    lines: list[str] = []
    rows = bench(2, 5.0, lines.append)
    assert [row.way.split(",")[0] for row in rows][-3:] == ["pool", "pool", "session cell"]
    assert rows[0].way == "new process" and len(lines) == 1 + len(rows) + 2
    assert "times as fast as a new bubblewrap" in lines[-1]
    assert os.sched_getaffinity(0) == before


def test_a_row_has_quantiles_and_a_rate() -> None:
    assert str(Row("pool", "empty", [0.001, 0.003])).split()[-4:] == [
        "1.00",
        "3.00",
        "3.00",
        "500.0",
    ]


@needs_isolation
def test_a_soak_with_killed_workers_loses_no_result() -> None:
    lines: list[str] = []
    with Sandbox(workers=2) as box:
        soak = Soak(box, hostile_share=0.02)
        good = soak.run(300, 0.3, lines.append)
    assert good, "\n".join(lines)
    assert (soak.done, soak.wrong) == (300, []) and len(soak.samples) == 10
    assert soak.killed > 0


@pytest.mark.parametrize("code", HOSTILE)
def test_hostile_programs_end_as_the_soak_says(box: Sandbox, code: str) -> None:
    assert box.run(code, limits=limits_of(HOSTILE[code])).status is HOSTILE[code]


def test_a_soak_notices_what_is_wrong(box: Sandbox) -> None:
    soak = Soak(box)
    with soak._checked(("1", Status.OK, "2\n")) as check:
        check(box.run("print(3)"))
    with soak._checked(("2", None, "")):
        raise SandboxError("broke")
    with soak._checked(("3", None, "")) as check:
        check(box.run("1 / 0"))
    assert soak.done == 3 and [line.split()[1] for line in soak.wrong] == ["'1'", "'2'"]
    soak.samples = [Sample(10, 5, 100.0, 100.0), Sample(11, 5, 120.0, 200.0)]
    assert soak.growth() == ["fds grew from 10 to 11", "jails_mb grew from 100 to 200"]


@needs_isolation
def test_greedy_programs_disturb_no_innocent_one() -> None:
    lines: list[str] = []
    with Sandbox(workers=2) as box:
        good = Soak(box, hostile_share=0.15, greedy=True).run(100, 0, lines.append)
    assert good, "\n".join(lines)


@needs_isolation
def test_soak_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", "--executions", "20", "--workers", "1", "--kill-every", "0"]) == 0
    assert "every result right" in capsys.readouterr().out


def test_counts_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["soak", "--workers", "0"])
    assert "--workers must be at least 1" in capsys.readouterr().err
