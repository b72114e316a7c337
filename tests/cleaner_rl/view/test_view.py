"""The command: where the page is written, the local server, and transcripts."""

import gzip
import json
import sys
import urllib.error
import urllib.request

import pytest
from logged import TURNS, play, rows_of

from cleaner_env.episode_io import json_line
from cleaner_rl.errors import UserError
from cleaner_rl.grpo.groups import Group
from cleaner_rl.view import __main__ as command
from cleaner_rl.view.config import parse_view
from cleaner_rl.view.data import page_data
from cleaner_rl.view.page import served
from cleaner_rl.view.source import find_source
from cleaner_rl.view.text import describe


@pytest.fixture
def run(sandbox, tmp_path):
    """A run directory with one step, of two episodes."""
    group = Group.of([play(sandbox, *TURNS, gamma=0.0), play(sandbox, "ok")], [0.0, 1.0])
    (tmp_path / "run" / "episodes").mkdir(parents=True)
    lines = "".join(json_line(row) + "\n" for row in rows_of([group], [group]))
    (tmp_path / "run" / "episodes" / "step-000007.jsonl").write_text(lines)
    return tmp_path / "run"


@pytest.fixture
def opened(monkeypatch):
    pages = []
    monkeypatch.setattr("webbrowser.open", pages.append)
    return pages


def test_the_page_lies_in_the_directory_that_it_shows_and_its_path_is_printed(run, capsys, opened):
    assert command.main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'view.html'}\n"
    assert (run / "view.html").read_text().startswith("<!doctype html>") and opened == []


def test_the_page_of_a_file_lies_next_to_it(run):
    assert command.main([str(run / "episodes" / "step-000007.jsonl")]) == 0
    assert (run / "episodes" / "step-000007.html").exists()


def test_the_page_is_opened_if_asked_for(run, tmp_path, opened):
    assert command.main([str(run), "--open", "--out", str(tmp_path / "my page.html")]) == 0
    assert opened == [(tmp_path / "my page.html").as_uri()]


def test_a_page_that_cannot_be_written_names_the_remedy(run, tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*; name another file with --out"):
        command.main([str(run), "--out", str(tmp_path / "no" / "such" / "place.html")])


def test_a_step_without_episodes_is_named(run):
    with pytest.raises(UserError, match=r"step 3 of .* has no episodes; leave out --step"):
        command.main([str(run), "--step", "3"])


@pytest.mark.parametrize("other", [["--out", "a.html"], ["--open"], ["--serve"]])
def test_text_makes_no_page(run, other, capsys):
    with pytest.raises(SystemExit):
        command.main([str(run), "--text", *other])
    assert "--text makes no page" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--serve"], []])
def test_a_large_page_is_served_and_its_address_opened(run, monkeypatch, opened, capsys, more):
    monkeypatch.setattr(command, "LARGE", 1 if not more else 1_000_000)

    class Enough:
        def wait(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "Event", Enough)
    with pytest.raises(KeyboardInterrupt):
        command.main([str(run), "--open", *more])
    (address,) = opened
    assert capsys.readouterr().out.startswith(address)
    assert not (run / "view.html").exists()


@pytest.fixture
def server(run):
    top, chunks = page_data(find_source(run))
    with served(top, chunks) as address:
        yield address, chunks


def test_the_server_has_the_page_without_chunks_and_each_chunk(server):
    address, chunks = server
    page = urllib.request.urlopen(address).read().decode()
    assert '"chunks":null' in page
    answer = urllib.request.urlopen(f"{address}chunks/0")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.read() == chunks[0]
    assert len(json.loads(gzip.decompress(chunks[0]))) == 2


@pytest.mark.parametrize("path", ["chunks/1", "chunks/-1", "chunks/x", "etc/passwd", "../0"])
def test_the_server_has_nothing_else(server, path):
    with pytest.raises(urllib.error.HTTPError, match="404") as refused:
        urllib.request.urlopen(server[0] + path)
    refused.value.close()


def test_the_server_answers_no_page_of_another_name(server):
    request = urllib.request.Request(server[0], headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(request)
    refused.value.close()


def test_transcripts_say_where_an_episode_belongs(run, capsys):
    assert command.main([str(run), "--text"]) == 0
    shown = capsys.readouterr().out
    assert "step 7, group 0, member 0, reward 0, advantage -0.707\n" in shown
    assert "lookahead 2: shallow splice, similarity 1.00, recovered" in shown
    assert "\x1b" not in shown


def test_transcripts_need_no_rich(run, capsys, monkeypatch):
    assert command.main([str(run), "--text"]) == 0
    coloured = capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert command.main([str(run), "--text"]) == 0
    assert capsys.readouterr().out == coloured


def test_a_terminal_gets_colours(run, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert command.main([str(run), "--text"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[33m[rollback]" in shown and "\x1b[32m[tool]" in shown


def test_a_program_cannot_steer_the_terminal(run):
    (logged, _) = find_source(run).parts[0].episodes()
    turn = logged.episode.turns[0]
    hostile = turn.__class__(turn.completion, turn.parsed, "\x1b]0;title\x07\u202eabc\ud800", True)
    logged.episode.turns[0] = hostile
    shown = describe(logged)
    assert r"\x1b]0;title\x07\u202eabc\ud800" in shown and "\x1b" not in shown


def test_a_flag_cut_short_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_view(["--tex", "run"])
    assert "unrecognized arguments: --tex" in capsys.readouterr().err
