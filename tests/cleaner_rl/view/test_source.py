"""What can be shown, and what a path is told that cannot."""

import pytest
from logged import play

from cleaner_env import write_episodes
from cleaner_rl.errors import UserError
from cleaner_rl.view.source import find_source, read_logged


@pytest.fixture
def file(sandbox, tmp_path):
    write_episodes(tmp_path / "some.jsonl", [play(sandbox, "a[print(3)]", "ok")] * 2)
    return tmp_path / "some.jsonl"


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*nowhere; name a run, an episode file"):
        find_source(tmp_path / "nowhere")


def test_a_directory_with_nothing_to_show(tmp_path):
    with pytest.raises(UserError, match=r"there is nothing to show in .*name a run"):
        find_source(tmp_path)


def test_a_run_without_episodes(tmp_path):
    (tmp_path / "episodes").mkdir()
    with pytest.raises(UserError, match="no episodes yet; wait for its first step, or train with"):
        find_source(tmp_path)


def test_another_file(tmp_path):
    (tmp_path / "report.md").touch()
    with pytest.raises(UserError, match="is no episode file"):
        find_source(tmp_path / "report.md")


def test_a_line_that_is_still_being_written_is_left_out(file):
    file.write_bytes(file.read_bytes()[:-9])
    assert len(list(read_logged(file))) == 1


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"version": 9}', "{}", '{"episode": 3}', '{"training": 3}']
)
def test_a_damaged_line_is_named(file, line):
    file.write_text(f"{line}\n" + file.read_text())
    with pytest.raises(UserError, match=r"some\.jsonl.*"):
        list(read_logged(file))


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "some.jsonl.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UserError, match=r"cannot read .*some\.jsonl\.gz"):
        list(read_logged(tmp_path / "some.jsonl.gz"))
