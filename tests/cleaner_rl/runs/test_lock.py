"""A directory is written by one process at a time."""

import fcntl
import os
import signal
import subprocess
import sys
from errno import EOPNOTSUPP
from pathlib import Path

import pytest

from cleaner_rl import export
from cleaner_rl.errors import CheckpointError
from cleaner_rl.eval import __main__ as evaluation
from cleaner_rl.runs.lock import reserved
from cleaner_rl.sft import __main__ as sft

HOLDER = """
import sys, time
from pathlib import Path
from cleaner_rl.runs.lock import reserved
with reserved(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_holder_is_named_and_a_dead_one_is_taken_over(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(CheckpointError, match=rf"by process {holder.pid} on .*, since 20"),
            reserved(tmp_path),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / ".lock").exists()
    with reserved(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_has_one_lock_under_all_its_names(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    monkeypatch.chdir(tmp_path / "out")
    for beside in (False, True):
        with (
            reserved(Path("."), beside),
            pytest.raises(CheckpointError, match="link is being written by"),
            reserved(tmp_path / "link", beside),
        ):
            pass


def test_a_directory_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*file"), reserved(tmp_path / "file"):
        pass


def test_a_directory_that_stays_empty_is_removed_again(tmp_path):
    with reserved(tmp_path / "empty"), reserved(tmp_path / "filled"):
        (tmp_path / "filled" / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["filled"]


def test_a_lock_that_its_holder_has_just_removed_does_not_count(tmp_path, monkeypatch):
    """Another process opened the file, and the holder removed it before the other had the lock."""
    flock = fcntl.flock

    def late(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        (tmp_path / ".lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with reserved(tmp_path), pytest.raises(CheckpointError), reserved(tmp_path):
        pass


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with reserved(tmp_path):
        assert "nothing will stop a second process" in capsys.readouterr().err


def test_every_command_that_writes_for_long_respects_it(tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(export, "verify_checkpoint", lambda _: None)
    monkeypatch.setattr(export, "load_policy", lambda *_: pytest.fail("loaded before it was free"))
    (tmp_path / "run" / "checkpoints" / "step-000001").mkdir(parents=True)
    (tmp_path / "run" / "config.json").touch()
    with reserved(out), reserved(out, beside=True):
        for main, arguments in (
            (evaluation.main, ["--out", str(out)]),
            (sft.main, ["--out", str(out), "--overwrite"]),
        ):
            with pytest.raises(CheckpointError, match="is being written by process"):
                main(arguments)
    with (
        reserved(out, beside=True),
        pytest.raises(CheckpointError, match="is being written by process"),
    ):
        export.main([str(tmp_path / "run"), "--out", str(out)])
